//! Did it change? Two sets of rows in, verdicts out.
//!
//! The rule is method.md's: rows of one round are one replicate; a verdict is one bound of the
//! Hodges-Lehmann shift against one margin; what can't be compared fails. Nothing depends on the
//! order of rows or files.

mod join;
mod key;
mod metric;
pub mod noise;
mod notes;
mod side;
mod verdict;

pub use key::{CAUSES, KEY, Key};
pub use metric::{Gate, METRICS, Metric};
pub use side::Round;
pub use verdict::{ALPHA, FEWEST, Numbers, Sample, Verdict};

use super::stats::Tables;
use crate::results::Row;
use noise::Noise;
use serde::Serialize;
use side::{Side, build};
use std::collections::BTreeSet;
use verdict::Lack;

/// How to compare.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// On what.
    pub gates: Vec<Gate>,
    /// Changes of a time below this many ms are none.
    pub floor_ms: Option<f64>,
    /// Columns of [`KEY`] that may differ, and `instances`.
    pub allow_mismatch: Vec<String>,
    /// Columns of [`CAUSES`] that may not.
    pub require_same: Vec<String>,
    /// Judge by the threshold alone where there are too few replicates.
    pub allow_unreplicated: bool,
    /// What is known of the noise.
    pub noise: Option<Vec<Noise>>,
}

/// Why a comparison is not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProblemKind {
    /// Nothing was joined.
    Nothing,
    /// BASE has it, NEW does not.
    Missing,
    /// A difference in what gives a number its meaning.
    Incomparable,
    /// A row that is not ok, or whose number is none.
    Invalid,
    /// A row that is there twice with different numbers.
    Duplicate,
    /// A cause that was required to be the same.
    Changed,
}

impl ProblemKind {
    /// As it is shown.
    pub fn word(self) -> &'static str {
        match self {
            ProblemKind::Nothing => "NOTHING",
            ProblemKind::Missing => "MISSING",
            ProblemKind::Incomparable => "INCOMPARABLE",
            ProblemKind::Invalid => "INVALID",
            ProblemKind::Duplicate => "DUPLICATE",
            ProblemKind::Changed => "CHANGED",
        }
    }
}

/// Something for which the comparison fails, whatever the verdicts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Which sort.
    pub kind: ProblemKind,
    /// Where, if at a point.
    pub point: Option<Key>,
    /// Columns that differ.
    pub columns: Vec<&'static str>,
    /// In words.
    pub text: String,
}

impl Problem {
    fn row(kind: ProblemKind, side: &str, key: &Key, row: &Row, text: &str) -> Problem {
        let (run, round) = (&row.provenance.run_id, row.provenance.repetition);
        let place = row.subject.instance.uuid().map_or(String::new(), |uuid| format!(" on {uuid}"));
        Problem {
            kind,
            point: Some(key.clone()),
            columns: Vec::new(),
            text: format!("{side}, round {round} of run {run}{place}: {text}"),
        }
    }
}

/// A cause that is not the same on both sides.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Changed {
    /// The column.
    pub column: &'static str,
    /// Its values in BASE.
    pub base: Vec<String>,
    /// Its values in NEW.
    pub new: Vec<String>,
}

/// One metric at one point.
#[derive(Clone, Debug)]
pub struct Decision {
    /// Where.
    pub key: Key,
    /// On what.
    pub gate: Gate,
    /// The replicates of BASE.
    pub base: Vec<Sample>,
    /// The replicates of NEW.
    pub new: Vec<Sample>,
    /// None where there was nothing to compute with.
    pub numbers: Option<Numbers>,
    /// What is said.
    pub verdict: Verdict,
    /// `identical`, `no-replication`, `unreplicated`, or why it was skipped.
    pub reason: Option<String>,
    /// Rounds a side that would settle it.
    pub rounds_needed: Option<u64>,
}

/// Everything that was found.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// Worst first.
    pub decisions: Vec<Decision>,
    /// In the order of their kind.
    pub problems: Vec<Problem>,
    /// Causes that differ.
    pub changed: Vec<Changed>,
    /// What a reader should know.
    pub notes: Vec<String>,
    /// Points that only NEW has.
    pub added: Vec<Key>,
    /// The two sides are the same rows.
    pub identical: bool,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Nothing is worse.
    Pass,
    /// Something is.
    Regression,
    /// Something may be, and that counts.
    Inconclusive,
    /// Something could not be compared.
    Incomplete,
}

impl Comparison {
    /// Incomplete before regression before inconclusive.
    pub fn outcome(&self, fail_on_inconclusive: bool) -> Outcome {
        if !self.problems.is_empty() {
            Outcome::Incomplete
        } else if self.count(Verdict::Regression) > 0 {
            Outcome::Regression
        } else if fail_on_inconclusive && self.count(Verdict::Inconclusive) > 0 {
            Outcome::Inconclusive
        } else {
            Outcome::Pass
        }
    }

    /// Decisions of a verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.decisions.iter().filter(|decision| decision.verdict == verdict).count()
    }
}

/// Compares two sets of rows.
pub fn compare(base: &[Row], new: &[Row], options: &Options) -> Comparison {
    let mut found = Comparison::default();
    let sides =
        (build(base, "BASE", options, &mut found.problems), build(new, "NEW", options, &mut found.problems));
    let differing = differing(base, new);
    found.changed = differing.iter().filter_map(Changed::known).collect();
    for cause in differing {
        if options.require_same.iter().any(|name| name == cause.column) {
            let text = format!("{}, and --require-same {} was asked for", cause.describe(), cause.column);
            found.problems.push(Problem {
                kind: ProblemKind::Changed,
                point: None,
                columns: vec![cause.column],
                text,
            });
        }
    }
    found.added = join::unmatched(&sides.0, &sides.1, &mut found.problems);
    let mut drafts = drafts(&sides, options, &mut found.problems);
    decide(&mut drafts, options);
    found.decisions = drafts;
    if found.decisions.is_empty() {
        let text = match (base.is_empty(), new.is_empty()) {
            (true, true) => "BASE and NEW have no rows".to_owned(),
            (true, false) => "BASE has no rows".to_owned(),
            (false, true) => "NEW has no rows".to_owned(),
            (false, false) => "BASE and NEW have no point in common".to_owned(),
        };
        found.problems.push(Problem { kind: ProblemKind::Nothing, point: None, columns: Vec::new(), text });
    }
    let judged = || found.decisions.iter().filter(|decision| decision.numbers.is_some());
    found.identical = judged().count() > 0
        && judged().all(|decision| decision.reason.as_deref() == Some("identical"))
        && found.problems.is_empty()
        && found.added.is_empty();
    found.notes = notes::notes(&found, &sides, options);
    found.problems.sort();
    found.problems.dedup();
    found.decisions.sort_by(worst_first);
    found
}

/// Causes whose cells are not the same on both sides, empty ones among them.
fn differing(base: &[Row], new: &[Row]) -> Vec<Changed> {
    let values = |rows: &[Row], column: &key::Column| -> BTreeSet<String> {
        rows.iter().map(|row| column.of(row)).collect()
    };
    let differing = CAUSES.iter().filter_map(|column| {
        let (a, b) = (values(base, column), values(new, column));
        let changed = Changed {
            column: column.name,
            base: a.iter().cloned().collect(),
            new: b.iter().cloned().collect(),
        };
        (a != b && !a.is_empty() && !b.is_empty()).then_some(changed)
    });
    differing.collect()
}

impl Changed {
    /// What is known to differ: an empty cell, as every one of a column that an older migbench did not
    /// write, says nothing.
    fn known(&self) -> Option<Changed> {
        let there = |values: &[String]| -> Vec<String> {
            values.iter().filter(|value| !value.is_empty()).cloned().collect()
        };
        let (base, new) = (there(&self.base), there(&self.new));
        let known = base != new && !base.is_empty() && !new.is_empty();
        known.then_some(Changed { column: self.column, base, new })
    }

    /// `driver_version 570 → 580`.
    pub fn describe(&self) -> String {
        let list = |values: &[String]| {
            let shown: Vec<&str> =
                values.iter().map(|v| if v.is_empty() { "nothing" } else { v.as_str() }).collect();
            shown.join(", ")
        };
        format!("{} {} → {}", self.column, list(&self.base), list(&self.new))
    }
}

/// A decision for each gate at each joined point, not yet judged.
fn drafts(sides: &(Side, Side), options: &Options, problems: &mut Vec<Problem>) -> Vec<Decision> {
    let mut drafts = Vec::new();
    for (key, base) in &sides.0.points {
        let Some(new) = sides.1.points.get(key) else { continue };
        // Their failed rows are problems already.
        if base.rounds.is_empty() || new.rounds.is_empty() {
            continue;
        }
        join::missing_rows(key, base, new, options, problems);
        for gate in &options.gates {
            let draft = Decision {
                key: key.clone(),
                gate: *gate,
                base: Vec::new(),
                new: Vec::new(),
                numbers: None,
                verdict: Verdict::Skipped,
                reason: None,
                rounds_needed: None,
            };
            let both = (verdict::samples(gate.metric, base), verdict::samples(gate.metric, new));
            drafts.push(match both {
                (Ok(base), Ok(new)) => Decision { base, new, ..draft },
                (Err(Lack::Wrong(text)), _) | (_, Err(Lack::Wrong(text))) => {
                    problems.push(Problem {
                        kind: ProblemKind::Invalid,
                        point: Some(key.clone()),
                        columns: Vec::new(),
                        text,
                    });
                    continue;
                }
                (Err(Lack::TooFew(reason)), _) | (_, Err(Lack::TooFew(reason))) => {
                    Decision { reason: Some(reason), ..draft }
                }
                (Err(Lack::Nowhere), Err(Lack::Nowhere)) => {
                    Decision { reason: Some("no value on either side".into()), ..draft }
                }
                (Err(Lack::Nowhere), Ok(_)) | (Ok(_), Err(Lack::Nowhere)) => {
                    let side = if both.0.is_ok() { "NEW" } else { "BASE" };
                    problems.push(Problem {
                        kind: ProblemKind::Invalid,
                        point: Some(key.clone()),
                        columns: Vec::new(),
                        text: format!("{side} has no {}, the other side has", gate.metric.name),
                    });
                    continue;
                }
            });
        }
    }
    drafts
}

/// Judges what has values.
fn decide(decisions: &mut [Decision], options: &Options) {
    let mut tables = Tables::default();
    let margin = |decision: &Decision| {
        verdict::margin(&decision.gate, options.floor_ms, verdict::center(&decision.base))
    };
    let judged = |decision: &Decision| !decision.base.is_empty();
    // Where any change counts, only the risk itself holds the family of all such rows.
    let bare = decisions.iter().filter(|decision| judged(decision) && margin(decision) == 0.0).count();
    for decision in decisions.iter_mut().filter(|decision| judged(decision)) {
        let margin = margin(decision);
        let alpha = if margin == 0.0 { ALPHA / bare as f64 } else { ALPHA };
        let (base, new) = (&decision.base, &decision.new);
        let numbers = verdict::numbers(decision.gate.metric, base, new, margin, alpha, &mut tables);
        let (verdict, reason) = if base == new {
            (Verdict::Same, Some("identical"))
        } else if base.len() < FEWEST || new.len() < FEWEST {
            match options.allow_unreplicated {
                true => (verdict::judge_unreplicated(&numbers), Some("unreplicated")),
                false => (Verdict::Inconclusive, Some("no-replication")),
            }
        } else {
            (verdict::judge(&numbers), None)
        };
        if verdict == Verdict::Inconclusive {
            decision.rounds_needed = match reason {
                Some(_) => verdict::rounds_needed(&numbers, base, new).or(Some(FEWEST as u64)),
                None => verdict::rounds_needed(&numbers, base, new),
            };
        }
        (decision.numbers, decision.verdict) = (Some(numbers), verdict);
        decision.reason = reason.map(str::to_owned);
    }
}

fn worst_first(a: &Decision, b: &Decision) -> std::cmp::Ordering {
    let rank = |verdict| match verdict {
        Verdict::Regression => 0,
        Verdict::Inconclusive => 1,
        Verdict::Same => 2,
        Verdict::Improvement => 3,
        Verdict::Skipped => 4,
    };
    let shift = |decision: &Decision| decision.numbers.map_or(f64::NEG_INFINITY, |n| n.shift);
    rank(a.verdict)
        .cmp(&rank(b.verdict))
        .then(shift(b).total_cmp(&shift(a)))
        .then_with(|| a.key.cmp(&b.key))
        .then_with(|| a.gate.metric.name.cmp(b.gate.metric.name))
}
