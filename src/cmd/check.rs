//! `migbench check`: read, check, show.

use super::fail;
use crate::analysis::check::{Checker, Mapping, Report, check_table};
use crate::cli::Exit;
use crate::cli::check::{CheckArgs, Format};
use crate::render::check::{json, markdown, table};
use crate::results::lines::{Lines, TooLong, open};
use anyhow::{Context, Result, anyhow};
use std::io::Write;
use std::path::{Path, PathBuf};

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
    if let Err(error) = written {
        return fail(&error.into(), Exit::Internal, err);
    }
    if reports.iter().any(|report| report.findings.count() > 0) {
        return Exit::Incomplete;
    }
    match reports.iter().find(|report| report.nothing_compared) {
        Some(report) => {
            let error = anyhow!(
                "{}: nothing was compared with anything, so nothing is known of it: map more columns by --columns",
                report.file
            );
            fail(&error, Exit::Usage, err)
        }
        None => Exit::Ok,
    }
}

fn reports(args: &CheckArgs) -> Result<Vec<Report>> {
    let mapping = match args.columns.as_slice() {
        [] => None,
        columns => Some(Mapping {
            latency_unit: args.latency_unit.into(),
            elapsed_unit: args.elapsed_unit.into(),
            separator: args.separator,
            decimal_comma: args.decimal_comma,
            ..Mapping::new(Mapping::parse(columns)?)
        }),
    };
    let check = |path: &PathBuf| {
        let shown = path.display().to_string();
        match &mapping {
            Some(mapping) => check_table(&shown, open(path)?, mapping, args.show).context(shown),
            None => check(path, args.show),
        }
    };
    args.files.iter().map(check).collect()
}

fn check(path: &Path, keep: usize) -> Result<Report> {
    let shown = path.display().to_string();
    let mut lines = Lines::new(open(path)?);
    let mut checker = Checker::new(&shown, keep);
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
