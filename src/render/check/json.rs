//! JSON for a program, `"schema": "migbench-check/1"`.

use crate::analysis::check::{Report, Totals};
use serde_json::json;
use std::io::{self, Write};

/// One object.
///
/// # Errors
/// The stream does not take it.
pub fn write(out: &mut dyn Write, reports: &[Report]) -> io::Result<()> {
    let files: Vec<_> = reports
        .iter()
        .map(|report| {
            let left_out: Vec<_> = report
                .findings
                .left_out()
                .map(|(rule, column, count)| json!({"rule": rule, "column": column, "count": count}))
                .collect();
            json!({
                "file": report.file,
                "rows": report.rows,
                "statuses": report.statuses,
                "findings": report.findings.kept(),
                "not_shown": left_out,
                "notes": report.notes,
                "not_compared": report.uncompared,
                "nothing_compared": report.nothing_compared,
            })
        })
        .collect();
    let all = json!({"schema": "migbench-check/1", "totals": Totals::of(reports), "files": files});
    serde_json::to_writer_pretty(&mut *out, &all)?;
    writeln!(out)
}
