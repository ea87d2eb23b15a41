//! Markdown for a pull request.

use super::{factor, left_out, summary};
use crate::analysis::check::Report;
use crate::render::markdown::escape;
use std::io::{self, Write};

/// A table a file with findings, then the summary.
///
/// # Errors
/// The stream does not take it.
pub fn write(out: &mut dyn Write, reports: &[Report]) -> io::Result<()> {
    for report in reports.iter().filter(|report| report.findings.count() > 0) {
        writeln!(out, "### {}\n", escape(&report.file))?;
        writeln!(out, "| line | column | rule | is | should be | factor |")?;
        writeln!(out, "|---:|---|---|---|---|---:|")?;
        for finding in report.findings.kept() {
            writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} |",
                finding.line,
                escape(&finding.column),
                finding.rule,
                if finding.found.is_empty() { "nothing".into() } else { escape(&finding.found) },
                escape(&finding.expected),
                factor(finding.factor)
            )?;
        }
        writeln!(out)?;
        for line in left_out(report).chain(report.notes.iter().cloned()) {
            writeln!(out, "{}\n", escape(&line))?;
        }
    }
    writeln!(out, "**{}**", escape(&summary(reports)))
}
