//! `migbench check`: read, check, show.

use super::fail;
use crate::analysis::check::{Checker, Mapping, Report};
use crate::cli::Exit;
use crate::cli::check::{CheckArgs, Format};
use crate::render::check::{json, markdown, table};
use crate::results::lines::{Lines, TooLong, open};
use anyhow::Result;
use std::io::Write;
use std::path::Path;

/// The verb.
pub fn run(args: &CheckArgs, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    let reports = match reports(args) {
        Ok(reports) => reports,
        Err(error) => return fail(&error, Exit::Usage, err),
    };
    let written = match args.format {
        Format::Table => table::write(out, &reports),
        Format::Json => json::write(out, &reports),
        Format::Markdown => markdown::write(out, &reports),
    };
    match written {
        Ok(()) if reports.iter().any(|report| report.findings.count() > 0) => Exit::Incomplete,
        Ok(()) => Exit::Ok,
        Err(error) => fail(&error.into(), Exit::Internal, err),
    }
}

fn reports(args: &CheckArgs) -> Result<Vec<Report>> {
    let mapping = if args.columns.is_empty() {
        None
    } else {
        Some(Mapping { columns: Mapping::parse(&args.columns)?, unit: args.latency_unit.into() })
    };
    args.files.iter().map(|path| check(path, mapping.clone(), args.show)).collect()
}

fn check(path: &Path, mapping: Option<Mapping>, keep: usize) -> Result<Report> {
    let shown = path.display().to_string();
    let mut lines = Lines::new(open(path)?);
    let mut checker = Checker::new(&shown, mapping, keep);
    if let Err(error) = lines.each(|chunk| checker.lines(chunk)) {
        // What was read before it is checked all the same.
        let too_long = error.downcast::<TooLong>().map_err(|error| error.context(shown))?;
        checker.stopped(too_long.line, "more than 1 MiB without a line end");
        return Ok(checker.finish());
    }
    if let Some(line) = lines.torn() {
        checker.torn(line);
    }
    Ok(checker.finish())
}
