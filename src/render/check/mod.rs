//! What `check` found, one file per form.

pub mod json;
pub mod markdown;
pub mod table;

use crate::analysis::check::{Report, Totals, Uncompared};

/// The last line: how much was looked at, and what came of it.
fn summary(reports: &[Report]) -> String {
    let totals = Totals::of(reports);
    let count = |n: u64, what: &str| if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") };
    let mut text = format!("{} in {}: ", count(totals.rows, "row"), count(totals.files as u64, "file"));
    match totals.findings {
        0 if reports.iter().all(|report| report.nothing_compared) => text += "nothing was compared",
        0 if reports.iter().any(|report| report.nothing_compared) => {
            let files = reports.iter().filter(|report| report.nothing_compared).count();
            text += &format!("nothing was compared in {}", count(files as u64, "file"));
        }
        0 if reports.iter().any(|report| !report.uncompared.is_empty()) => {
            text += "what could be compared holds together";
        }
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

/// Is there anything to say about a file but its name?
fn is_worth_a_block(report: &Report) -> bool {
    report.findings.count() > 0 || !report.notes.is_empty() || !report.uncompared.is_empty()
}

/// What is said below the findings.
fn remarks(report: &Report) -> impl Iterator<Item = String> {
    left_out(report).chain(report.notes.iter().cloned()).chain(uncompared(report))
}

/// `throughput (qps) was compared with nothing: map batch, too`; columns of which the same is to be said in
/// one line.
fn uncompared(report: &Report) -> Vec<String> {
    let mut lines: Vec<(&Uncompared, Vec<String>)> = Vec::new();
    for column in &report.uncompared {
        let name = format!("{} ({})", column.meaning, column.column);
        let same = |of: &Uncompared| (of.compared_rows, &of.why) == (column.compared_rows, &column.why);
        match lines.iter_mut().find(|(of, _)| same(of)) {
            Some((_, names)) => names.push(name),
            None => lines.push((column, vec![name])),
        }
    }
    let line = |(of, names): (&Uncompared, Vec<String>)| {
        let were = if names.len() == 1 { "was" } else { "were" };
        let with = match of.compared_rows {
            0 => "compared with nothing".to_owned(),
            n => format!("compared in {n} of {} rows", report.rows),
        };
        format!("{} {were} {with}: {}", names.join(", "), of.why)
    };
    lines.into_iter().map(line).collect()
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
