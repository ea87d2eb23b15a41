//! What `check` found, one file per form.

pub mod json;
pub mod markdown;
pub mod table;

use crate::analysis::check::{Report, Totals};

/// The last line: how much was looked at, and what came of it.
fn summary(reports: &[Report]) -> String {
    let totals = Totals::of(reports);
    let count = |n: u64, what: &str| if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") };
    let mut text = format!("{} in {}: ", count(totals.rows, "row"), count(totals.files as u64, "file"));
    match totals.findings {
        0 => text += "all hold together",
        n => text += &count(n, "finding"),
    }
    let with = |status: &str| reports.iter().filter_map(|report| report.statuses.get(status)).sum::<u64>();
    for status in ["failed", "invalid", "interrupted"] {
        if with(status) > 0 {
            text += &format!("; {} {status}", with(status));
        }
    }
    text
}

/// `12 more like it in column x (rule)`.
fn left_out(report: &Report) -> impl Iterator<Item = String> {
    report
        .findings
        .left_out()
        .map(|(rule, column, count)| format!("and {count} more of rule {rule} in column {column}"))
}

/// A factor as a reader takes it in.
fn factor(factor: Option<f64>) -> String {
    factor.map_or(String::new(), |factor| match factor.abs() {
        0.001..1000.0 => format!("{factor:.4}"),
        _ => format!("{factor:.2e}"),
    })
}
