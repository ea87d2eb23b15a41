//! CSV for a spreadsheet: a line for each decision. Changes are shares (0.03 is 3 %). A text that would be
//! taken for a formula has an apostrophe in front.

use super::{bound, change, interval};
use crate::analysis::compare::{Comparison, KEY};
use crate::machine::text;
use std::borrow::Cow;
use std::io::{self, Write};

const COLUMNS: [&str; 16] = [
    "metric",
    "unit",
    "base",
    "new",
    "change",
    "change_low",
    "change_high",
    "worse_by_at_least",
    "threshold",
    "margin",
    "base_rounds",
    "new_rounds",
    "p",
    "verdict",
    "reason",
    "rounds_needed",
];

/// The header, then the decisions, worst first.
///
/// # Errors
/// The stream does not take it.
pub fn write(out: &mut dyn Write, found: &Comparison) -> io::Result<()> {
    let mut writer = csv::Writer::from_writer(out);
    writer.write_record(KEY.iter().map(|column| column.name).chain(COLUMNS))?;
    for decision in &found.decisions {
        let text = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
        let numbers = decision.numbers;
        let ends = interval(decision);
        let cells = [
            decision.gate.metric.name.to_owned(),
            decision.gate.metric.unit.to_owned(),
            text(numbers.map(|n| n.base)),
            text(numbers.map(|n| n.new)),
            text(numbers.map(|n| change(decision, n.shift))),
            text(ends.map(|ends| ends.0)),
            text(ends.map(|ends| ends.1)),
            text(bound(decision)),
            decision.gate.threshold.to_string(),
            text(numbers.map(|n| n.margin.exp_m1())),
            decision.base.len().to_string(),
            decision.new.len().to_string(),
            text(numbers.map(|n| n.p)),
            decision.verdict.word().to_owned(),
            decision.reason.clone().unwrap_or_default(),
            decision.rounds_needed.map_or(String::new(), |rounds| rounds.to_string()),
        ];
        let key = KEY.iter().map(|column| decision.key.get(column.name));
        let line = key.chain(cells.iter().map(String::as_str)).map(text::spreadsheet);
        writer.write_record(line.map(Cow::into_owned))?;
    }
    writer.flush()
}
