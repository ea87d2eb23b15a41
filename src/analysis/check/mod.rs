//! Does each row hold together?
//!
//! Lines in, findings out; docs/checks.md lists the rules. The lines of a chunk are independent of
//! each other and are looked at in parallel; only hashes of rows are kept.

mod across;
mod field;
mod finding;
mod numbers;
mod own;
mod ratio;
mod recorded;
mod table;

pub use field::{Field, Mapping, TimeUnit};
pub use finding::{Finding, Findings};
pub use table::{Uncompared, check_table};

use crate::machine::decode;
use crate::results::lines::{Chunk, split};
use crate::results::{COLUMNS, header};
use across::Across;
use anyhow::{Result, bail};
use field::{Cells, View};
use ratio::Ratios;
use rayon::prelude::*;
use serde::Serialize;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// What was found in one file.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Its name.
    pub file: String,
    /// Lines after the header.
    pub rows: u64,
    /// Rows by status, of migbench's own files.
    pub statuses: BTreeMap<&'static str, u64>,
    /// What is wrong.
    pub findings: Findings,
    /// What findings have in common, and what was not read.
    pub notes: Vec<String>,
    /// Columns of another tool's file that were given a meaning and could not be compared everywhere.
    pub uncompared: Vec<Uncompared>,
    /// No column of another tool's file could be compared in any row.
    pub nothing_compared: bool,
}

/// Number of a file's rows and findings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Files.
    pub files: usize,
    /// Rows in them.
    pub rows: u64,
    /// Findings, shown or not.
    pub findings: u64,
}

impl Totals {
    /// Over all files.
    pub fn of(reports: &[Report]) -> Totals {
        Totals {
            files: reports.len(),
            rows: reports.iter().map(|report| report.rows).sum(),
            findings: reports.iter().map(|report| report.findings.count()).sum(),
        }
    }
}

/// Shares of a chunk for each thread.
const SHARES: usize = 32;

/// Checks one file of migbench's own, chunk by chunk.
pub struct Checker {
    file: String,
    view: Option<View>,
    keep: usize,
    tools: Vec<Mutex<Tools>>,
    rows: u64,
    found: Found,
}

/// What a thread keeps between lines.
#[derive(Default)]
struct Tools {
    decoder: recorded::Decoder,
    memory: own::Memory,
}

/// What came of some lines.
#[derive(Default)]
struct Found {
    findings: Findings,
    ratios: Ratios,
    across: Across,
    statuses: BTreeMap<&'static str, u64>,
    rows: u64,
}

impl Checker {
    /// Of a file. Keeps the first `keep` findings of each rule and column.
    pub fn new(file: &str, keep: usize) -> Checker {
        Checker {
            file: file.to_owned(),
            view: None,
            keep,
            // Nobody waits for a lock: each thread of the pool has its own.
            tools: (0..rayon::current_num_threads()).map(|_| Mutex::default()).collect(),
            rows: 0,
            found: Found { findings: Findings::new(keep), ..Found::default() },
        }
    }

    /// The next lines of the file; the first is the header.
    ///
    /// # Errors
    /// The header is that of another tool's file, and nobody said what it means.
    pub fn lines(&mut self, chunk: &Chunk) -> Result<()> {
        let mut lines = chunk.lines.as_slice();
        let mut first = chunk.first;
        if self.view.is_none() {
            let Some((header, rest)) = lines.split_first() else { return Ok(()) };
            self.view = Some(self.header(header)?);
            (lines, first) = (rest, first + 1);
        }
        let Some(view) = &self.view else { return Ok(()) };
        // Several shares for each thread, in order: a processor that others use too takes fewer.
        let share = lines.len().div_ceil(SHARES * self.tools.len()).max(1);
        let (tools, keep) = (&self.tools, self.keep);
        let parts: Vec<Found> = lines
            .par_chunks(share)
            .enumerate()
            .map(|(i, lines)| {
                let mut found = Found { findings: Findings::new(keep), ..Found::default() };
                let mine = &tools[rayon::current_thread_index().unwrap_or(0) % tools.len()];
                let mut tools = mine.lock().unwrap_or_else(PoisonError::into_inner);
                let mut cells = Vec::with_capacity(view.header.len());
                for (number, line) in (first + (i * share) as u64..).zip(lines) {
                    row(view, number, line, &mut cells, &mut tools, &mut found);
                }
                found
            })
            .collect();
        for part in parts {
            self.found.findings.append(part.findings);
            self.found.ratios.append(part.ratios);
            self.found.across.append(part.across);
            for (status, count) in part.statuses {
                *self.found.statuses.entry(status).or_default() += count;
            }
            self.rows += part.rows;
        }
        Ok(())
    }

    fn header(&mut self, line: &[u8]) -> Result<View> {
        if line.contains(&0) {
            bail!("line 1 is no text: it holds a zero byte");
        }
        let text = String::from_utf8_lossy(line);
        let text = decode::without_mark(&text);
        let mut cells = Vec::new();
        if let Err(cell) = split(text, &mut cells) {
            bail!("line 1: the quotes of cell {cell} do not match");
        }
        let names = cells.iter().map(|cell| cell.trim().to_owned()).collect();
        let view = View::own(names).map_err(|error| error.context("line 1"))?;
        if view.places.is_none() {
            let has = |name: &str| view.header.iter().any(|column| column == name);
            let missing: Vec<&str> = header().into_iter().filter(|name| !has(name)).collect();
            let known = |name: &str| COLUMNS.iter().any(|column| column.name == name);
            let foreign: Vec<&str> =
                view.header.iter().map(String::as_str).filter(|name| !known(name)).collect();
            let found = match (missing.is_empty(), foreign.is_empty()) {
                (true, true) => "a column twice".to_owned(),
                (false, true) => format!("without {}", missing.join(", ")),
                (true, false) => format!("with {}", foreign.join(", ")),
                (false, false) => format!("without {}, with {}", missing.join(", "), foreign.join(", ")),
            };
            let expected = "the columns of schema 1 or 2, each once";
            self.found.findings.push(Finding::new(1, "the header", "schema", &found, expected));
        }
        Ok(view)
    }

    /// The last line has no end and was left out.
    pub fn torn(&mut self, line: u64) {
        let expected = "a newline; the line is not read: add it if the line is whole, or remove the line";
        self.found.findings.push(Finding::new(line, "the line", "torn", "no newline", expected));
    }

    /// A line that stopped the reading.
    pub fn stopped(&mut self, line: u64, reason: &str) {
        self.found.findings.push(Finding::new(line, "the line", "text", reason, "rows of CSV"));
    }

    /// The end of the file.
    pub fn finish(mut self) -> Report {
        // A file without a header that was torn or stopped is not empty, and has its finding.
        if self.rows == 0 && (self.view.is_some() || self.found.findings.count() == 0) {
            let found = if self.view.is_none() { "an empty file" } else { "a header only" };
            self.found.findings.push(Finding::new(1, "the file", "empty", found, "rows"));
        }
        self.found.across.finish(&mut self.found.findings);
        let notes = self.view.as_ref().map(|view| self.found.ratios.explain(view)).unwrap_or_default();
        Report {
            file: self.file,
            rows: self.rows,
            statuses: self.found.statuses,
            findings: self.found.findings,
            notes,
            uncompared: Vec::new(),
            nothing_compared: false,
        }
    }
}

/// The names of the columns in the middle of a file.
fn repeated_header(line: u64) -> Finding {
    let expected = "a row: two files were joined; remove the line, or check them one by one";
    Finding::new(line, "the line", "header", "the header again", expected)
}

/// One line.
fn row<'a>(
    view: &View,
    number: u64,
    line: &'a [u8],
    cells: &mut Vec<Cow<'a, str>>,
    tools: &mut Tools,
    found: &mut Found,
) {
    let findings = &mut found.findings;
    // A row is never empty; an editor or a spreadsheet may have added such a line.
    if line.trim_ascii().is_empty() {
        return;
    }
    found.rows += 1;
    let text = match std::str::from_utf8(line) {
        Ok(text) => text,
        Err(error) => {
            let at = error.valid_up_to();
            let shown = format!("byte {:#04x} at {}", line[at], at + 1);
            let expected = "UTF-8: convert the file with iconv -f latin1 -t utf-8";
            findings.push(Finding::new(number, "the line", "text", &shown, expected));
            return;
        }
    };
    if let Err(cell) = split(text, cells) {
        let shown = format!("cell {cell}");
        findings.push(Finding::new(
            number,
            "the line",
            "text",
            &shown,
            "quotes that match, and nothing behind them",
        ));
        return;
    }
    if cells.len() != view.header.len() {
        let (shown, expected) =
            (format!("{} cells", cells.len()), format!("{}, as in the header", view.header.len()));
        findings.push(Finding::new(number, "the line", "cells", &shown, expected));
        return;
    }
    let row = Cells::new(view, number, cells);
    if row.text(Field::SchemaVersion) == Field::SchemaVersion.name() && cells.iter().eq(&view.header) {
        findings.push(repeated_header(number));
        found.rows -= 1;
        return;
    }
    numbers::check(&row, findings, &mut found.ratios);
    own::check(&row, &mut tools.memory, findings);
    recorded::check(&row, &mut tools.decoder, findings);
    found.across.add(&row);
    let known = ["ok", "failed", "invalid", "interrupted"];
    if let Some(status) = known.into_iter().find(|known| *known == row.text(Field::Status)) {
        *found.statuses.entry(status).or_default() += 1;
    }
}

/// Four significant digits, more where the integer part has them.
fn short(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    let decimals = (3 - value.abs().log10().floor() as i32).clamp(0, 12) as usize;
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}
