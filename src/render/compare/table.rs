//! A table for the terminal.

use super::{
    Shared, bound_text, change, counts, hint, interval_text, percent, problem, summary, value, verdict,
};
use crate::analysis::compare::Comparison;
use comfy_table::{CellAlignment, Table};
use std::io::{self, Write};

/// Hints shown; the rest is in the other outputs.
const HINTS: usize = 5;

/// What changed, the table, problems, notes, hints, and one line of summary.
///
/// # Errors
/// The stream does not take it.
pub fn write(out: &mut dyn Write, found: &Comparison) -> io::Result<()> {
    for changed in &found.changed {
        writeln!(out, "changed: {}", changed.describe())?;
    }
    for note in &found.notes {
        writeln!(out, "note: {note}")?;
    }
    if !found.decisions.is_empty() {
        let shared = Shared::of(found);
        writeln!(out, "{}", shared.constant)?;
        for line in table(found, &shared.varying).lines() {
            writeln!(out, "{}", line.trim_end())?;
        }
    }
    for line in &found.problems {
        writeln!(out, "{}", problem(line))?;
    }
    let hints: Vec<String> = found.decisions.iter().filter_map(hint).collect();
    for hint in hints.iter().take(HINTS) {
        writeln!(out, "hint: {hint}")?;
    }
    if hints.len() > HINTS {
        writeln!(out, "hint: and {} more like it", hints.len() - HINTS)?;
    }
    writeln!(out, "{}", summary(found))
}

fn table(found: &Comparison, varying: &[&'static str]) -> Table {
    let mut table = Table::new();
    let titles =
        ["metric", "base", "new", "change", "95 % interval", "worse by at least", "n", "p", "verdict"];
    table.load_style(comfy_table::presets::NOTHING).set_header(varying.iter().copied().chain(titles));
    for decision in &found.decisions {
        let mut cells: Vec<String> = varying.iter().map(|name| decision.key.get(name).to_owned()).collect();
        cells.push(decision.gate.metric.name.to_owned());
        cells.extend(match decision.numbers {
            Some(numbers) => [
                value(numbers.base),
                value(numbers.new),
                percent(change(decision, numbers.shift)),
                interval_text(decision),
                bound_text(decision),
                counts(decision),
                format!("{:.3}", numbers.p),
            ],
            None => Default::default(),
        });
        cells.push(verdict(decision));
        table.add_row(cells);
    }
    let last = varying.len() + titles.len() - 1;
    for (i, column) in table.column_iter_mut().enumerate() {
        let text = i <= varying.len() || i == last;
        column.set_cell_alignment(if text { CellAlignment::Left } else { CellAlignment::Right });
        column.set_padding((0, 2));
    }
    table
}
