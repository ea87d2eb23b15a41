//! A table for the terminal.

use super::{factor, is_worth_a_block, remarks, summary};
use crate::analysis::check::Report;
use crate::machine::text;
use comfy_table::{CellAlignment, Table};
use std::io::{self, Write};

/// One block a file of which there is something to say, then the summary.
///
/// # Errors
/// The stream does not take it.
pub fn write(out: &mut dyn Write, reports: &[Report]) -> io::Result<()> {
    for report in reports.iter().filter(|report| is_worth_a_block(report)) {
        writeln!(out, "{}", text::cell(&report.file))?;
        let titles = ["line", "column", "rule", "is", "should be", "factor"];
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING).set_header(titles);
        for finding in report.findings.kept() {
            table.add_row([
                finding.line.to_string(),
                finding.column.clone(),
                finding.rule.to_owned(),
                if finding.found.is_empty() { "nothing".into() } else { finding.found.clone() },
                finding.expected.clone(),
                factor(finding.factor),
            ]);
        }
        for (i, column) in table.column_iter_mut().enumerate() {
            let right = i == 0 || i == titles.len() - 1;
            column.set_cell_alignment(if right { CellAlignment::Right } else { CellAlignment::Left });
            column.set_padding((2, 0));
        }
        for line in table.lines().filter(|_| report.findings.count() > 0) {
            writeln!(out, "{}", line.trim_end())?;
        }
        for remark in remarks(report) {
            writeln!(out, "  {remark}")?;
        }
        writeln!(out)?;
    }
    writeln!(out, "{}", summary(reports))
}
