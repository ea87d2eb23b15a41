//! Markdown for a pull request.

use super::{factor, is_worth_a_block, remarks, summary};
use crate::analysis::check::Report;
use crate::render::markdown::escape;
use std::io::{self, Write};

/// A block a file of which there is something to say, with a table of its findings, then the summary.
///
/// # Errors
/// The stream does not take it.
pub fn write(out: &mut dyn Write, reports: &[Report]) -> io::Result<()> {
    for report in reports.iter().filter(|report| is_worth_a_block(report)) {
        writeln!(out, "### {}\n", escape(&report.file))?;
        if report.findings.count() > 0 {
            writeln!(out, "| line | column | rule | is | should be | factor |")?;
            writeln!(out, "|---:|---|---|---|---|---:|")?;
        }
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
        if report.findings.count() > 0 {
            writeln!(out)?;
        }
        for remark in remarks(report) {
            writeln!(out, "{}\n", escape(&remark))?;
        }
    }
    writeln!(out, "**{}**", escape(&summary(reports)))
}
