//! Another tool's table: its own records, the rules for numbers, and what of it no rule could compare.

use super::field::{Cells, Field, Mapping, View};
use super::finding::{Finding, Findings};
use super::numbers::{self, FORMULAS, ORDER};
use super::ratio::Ratios;
use super::{Report, repeated_header};
use crate::results::lines::TooLong;
use crate::results::table::{Record, Records, names};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Read;

/// A column that was given a meaning and was not compared with anything in some of the rows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Uncompared {
    /// As `--columns` calls it.
    pub meaning: &'static str,
    /// As the file calls it.
    pub column: String,
    /// Rows in which it was compared.
    pub compared_rows: u64,
    /// Why it was not in the others.
    pub why: String,
}

/// Checks another tool's file. Keeps the first `keep` findings of each rule and column.
///
/// # Errors
/// The header lacks a column that was given a meaning, or the file can't be read.
pub fn check_table(file: &str, source: impl Read, mapping: &Mapping, keep: usize) -> Result<Report> {
    let mut records = Records::new(source, mapping.separator);
    let mut table = Table {
        view: None,
        findings: Findings::new(keep),
        ratios: Ratios::default(),
        rows: 0,
        compared: BTreeMap::new(),
        others: Vec::new(),
    };
    loop {
        let record = match records.next_record() {
            Ok(Some(record)) => record,
            Ok(None) => break,
            Err(error) => {
                let too_long = error.downcast::<TooLong>()?;
                let found = "more than 1 MiB without a line end";
                table.findings.push(Finding::new(too_long.line, "the line", "text", found, "rows of CSV"));
                break;
            }
        };
        match table.view.take() {
            Some(view) => {
                table.record(record, &view);
                table.view = Some(view);
            }
            None => table.view = Some(header(&record, &records, mapping)?),
        }
    }
    Ok(table.finish(file, mapping))
}

/// The view of a file by its first record.
fn header(record: &Record, records: &Records<impl Read>, mapping: &Mapping) -> Result<View> {
    let place = || format!("line {}", record.line);
    let (line, separator) = (records.first_line(), records.separator());
    let header = match &record.cells {
        Ok(cells) => Some(cells.iter().map(|cell| cell.trim().to_owned()).collect()),
        // Names that nobody maps may be in another encoding.
        Err(_) => names(line, separator),
    };
    // Quotes that do not match by one separator may by another.
    let view =
        View::mapped(header.clone().unwrap_or_else(|| vec![line.to_owned()]), line, separator, mapping);
    match (view, &record.cells) {
        (Ok(_), Err(broken)) if header.is_none() => {
            bail!("{}: {} should be {}", place(), broken.found, broken.expected)
        }
        (view, _) => view.with_context(place),
    }
}

/// A table of other rows behind an empty line.
struct Other {
    line: u64,
    header: Vec<String>,
    lines: u64,
}

struct Table {
    view: Option<View>,
    findings: Findings,
    ratios: Ratios,
    rows: u64,
    /// In how many rows each field was compared.
    compared: BTreeMap<&'static str, u64>,
    others: Vec<Other>,
}

impl Table {
    fn record(&mut self, record: Record, view: &View) {
        let line = record.line;
        let cells = match record.cells {
            Ok(cells) => cells,
            Err(broken) => {
                self.rows += 1;
                self.findings.push(Finding::new(line, "the line", "text", &broken.found, broken.expected));
                return;
            }
        };
        // What a spreadsheet writes of an empty row.
        if cells.iter().all(|cell| cell.trim().is_empty()) {
            return;
        }
        if is_header(&cells, view) {
            self.findings.push(repeated_header(line));
            return;
        }
        if record.after_blank && begins_another_table(&cells, view) {
            self.others.push(Other { line, header: cells, lines: 0 });
            return;
        }
        if let Some(other) = self.others.last_mut() {
            other.lines += 1;
            return;
        }
        self.rows += 1;
        if cells.len() != view.header.len() {
            let (found, expected) =
                (format!("{} cells", cells.len()), format!("{}, as in the header", view.header.len()));
            self.findings.push(Finding::new(line, "the line", "cells", &found, expected));
            return;
        }
        let cells: Vec<Cow<str>> = cells.into_iter().map(Cow::Owned).collect();
        let row = Cells::new(view, line, &cells);
        let compared = numbers::check(&row, &mut self.findings, &mut self.ratios);
        for &field in Field::ALL.iter().filter(|&&field| view.has(field) && compared.has(field)) {
            *self.compared.entry(field.name()).or_default() += 1;
        }
    }

    fn finish(mut self, file: &str, mapping: &Mapping) -> Report {
        let mut notes = self.view.as_ref().map(|view| self.ratios.explain(view)).unwrap_or_default();
        notes.extend(self.others.iter().take(20).map(Other::note));
        if self.rows == 0 && self.findings.count() == 0 {
            let found = if self.view.is_none() { "an empty file" } else { "a header only" };
            self.findings.push(Finding::new(1, "the file", "empty", found, "rows"));
        }
        let uncompared: Vec<Uncompared> = mapping
            .columns
            .iter()
            .filter_map(|(field, column)| self.uncompared(*field, column, mapping))
            .collect();
        Report {
            file: file.to_owned(),
            rows: self.rows,
            statuses: BTreeMap::new(),
            nothing_compared: self.compared.is_empty(),
            findings: self.findings,
            notes,
            uncompared,
        }
    }

    fn uncompared(&self, field: Field, column: &str, mapping: &Mapping) -> Option<Uncompared> {
        let compared_rows = self.compared.get(field.name()).copied().unwrap_or(0);
        (compared_rows < self.rows).then(|| Uncompared {
            meaning: field.short(),
            column: column.to_owned(),
            compared_rows,
            why: match compared_rows {
                0 => lacking(field, mapping),
                _ => "elsewhere a cell has no number that can be read".to_owned(),
            },
        })
    }
}

impl Other {
    fn note(&self) -> String {
        let header = self.header.iter().take(5).map(|name| name.trim()).collect::<Vec<_>>().join(", ");
        let lines = if self.lines == 1 { "1 line".to_owned() } else { format!("{} lines", self.lines) };
        format!("line {}: another table begins ({header}), which is not read: {lines}", self.line)
    }
}

fn is_header(cells: &[String], view: &View) -> bool {
    cells.len() == view.header.len() && cells.iter().zip(&view.header).all(|(cell, name)| cell.trim() == name)
}

/// Names only, and others than the header's: some tools write several tables into one file.
fn begins_another_table(cells: &[String], view: &View) -> bool {
    let is_name = |cell: &String| !cell.trim().is_empty() && view.normal(cell).parse::<f64>().is_err();
    cells.len() != view.header.len() && cells.iter().all(is_name)
}

/// What is missing for a field to be compared with something.
fn lacking(field: Field, mapping: &Mapping) -> String {
    let is_mapped = |field: &Field| mapping.columns.iter().any(|(known, _)| known == field);
    if ORDER.contains(&field) && ORDER.iter().filter(|field| is_mapped(field)).count() < 2 {
        return "map another percentile, min or max, too".to_owned();
    }
    if field == Field::Stddev && ![Field::Min, Field::Mean, Field::Max].iter().all(is_mapped) {
        return "map min, mean and max, too".to_owned();
    }
    let formulas = FORMULAS.iter().filter(|formula| formula.contains(&field));
    let missing =
        formulas.map(|formula| formula.iter().filter(|field| !is_mapped(field)).collect::<Vec<_>>());
    match missing.min_by_key(Vec::len) {
        None if !ORDER.contains(&field) && field != Field::Stddev => "no rule looks at it".to_owned(),
        Some(fields) if !fields.is_empty() => {
            let names: Vec<&str> = fields.iter().map(|field| field.short()).collect();
            format!("map {}, too", names.join(" and "))
        }
        _ => "no row has numbers in all of the columns that are compared".to_owned(),
    }
}
