//! Markdown for a pull request or a step summary.

use super::{
    Shared, bound_text, change, counts, hint, interval_text, percent, problem, summary, value, verdict,
};
use crate::analysis::compare::Comparison;
use crate::render::markdown::escape;
use std::io::{self, Write};

/// Rows shown; GitHub cuts a comment at 65,536 characters.
const ROWS: usize = 100;

/// The summary first: it is what a reader of a pull request wants.
///
/// # Errors
/// The stream does not take it.
pub fn write(out: &mut dyn Write, found: &Comparison) -> io::Result<()> {
    writeln!(out, "### migbench compare: {}\n", escape(&summary(found)))?;
    for line in &found.problems {
        writeln!(out, "- **{}**", escape(&problem(line)))?;
    }
    for changed in &found.changed {
        writeln!(out, "- changed: {}", escape(&changed.describe()))?;
    }
    for note in &found.notes {
        writeln!(out, "- note: {}", escape(note))?;
    }
    for hint in found.decisions.iter().filter_map(hint).take(ROWS) {
        writeln!(out, "- hint: {}", escape(&hint))?;
    }
    if found.decisions.is_empty() {
        return Ok(());
    }
    let shared = Shared::of(found);
    writeln!(out, "\n{}\n", escape(&shared.constant))?;
    let names: String = shared.varying.iter().map(|name| format!("| {} ", escape(name))).collect();
    writeln!(
        out,
        "{names}| metric | base | new | change | 95 % interval | worse by at least | n | p | verdict |"
    )?;
    writeln!(out, "{}|---|---:|---:|---:|---:|---:|---:|---:|---|", "|---".repeat(shared.varying.len()))?;
    for decision in found.decisions.iter().take(ROWS) {
        for name in &shared.varying {
            write!(out, "| {} ", escape(decision.key.get(name)))?;
        }
        write!(out, "| {} ", escape(decision.gate.metric.name))?;
        match decision.numbers {
            Some(numbers) => write!(
                out,
                "| {} | {} | {} | {} | {} | {} | {:.3} ",
                value(numbers.base),
                value(numbers.new),
                percent(change(decision, numbers.shift)),
                interval_text(decision),
                escape(&bound_text(decision)),
                counts(decision),
                numbers.p,
            )?,
            None => write!(out, "| | | | | | | ")?,
        }
        writeln!(out, "| {} |", escape(&verdict(decision)))?;
    }
    if found.decisions.len() > ROWS {
        writeln!(out, "\n… and {} more, none worse.", found.decisions.len() - ROWS)?;
    }
    Ok(())
}
