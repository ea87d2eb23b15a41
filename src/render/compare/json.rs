//! JSON for a program, `"schema": "migbench-compare/1"`: each input of each decision.

use crate::analysis::compare::{Comparison, Decision, KEY, Key, Outcome};
use serde_json::{Map, Value, json};
use std::io::{self, Write};

/// One object. Shifts are natural logarithms of ratios, positive where NEW is worse; a bound that
/// excludes nothing is null.
///
/// # Errors
/// The stream does not take it.
pub fn write(out: &mut dyn Write, found: &Comparison, outcome: Outcome) -> io::Result<()> {
    let problems: Vec<Value> = found
        .problems
        .iter()
        .map(|problem| {
            json!({
                "kind": problem.kind,
                "point": problem.point.as_ref().map(point),
                "columns": problem.columns,
                "text": problem.text,
            })
        })
        .collect();
    let all = json!({
        "schema": "migbench-compare/1",
        "outcome": outcome,
        "identical": found.identical,
        "changed": found.changed,
        "notes": found.notes,
        "problems": problems,
        "only_in_new": found.added.iter().map(point).collect::<Vec<_>>(),
        "decisions": found.decisions.iter().map(decision).collect::<Vec<_>>(),
    });
    serde_json::to_writer_pretty(&mut *out, &all)?;
    writeln!(out)
}

fn point(key: &Key) -> Value {
    let pairs = KEY.iter().map(|column| (column.name.to_owned(), Value::from(key.get(column.name))));
    Value::Object(pairs.collect::<Map<_, _>>())
}

fn decision(decision: &Decision) -> Value {
    let metric = decision.gate.metric;
    json!({
        "point": point(&decision.key),
        "metric": metric.name,
        "unit": metric.unit,
        "less_is_better": metric.less_is_better,
        "threshold": decision.gate.threshold,
        "base": decision.base,
        "new": decision.new,
        "numbers": decision.numbers,
        "verdict": decision.verdict,
        "reason": decision.reason,
        "rounds_needed": decision.rounds_needed,
    })
}
