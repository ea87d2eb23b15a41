//! Did it change? Two sets of rows in, verdicts out.
//!
//! The rule is method.md's: rows of one round are one replicate; a verdict is one bound of the
//! Hodges-Lehmann shift against one margin; what can't be compared fails. Nothing depends on the
//! order of rows or files.

mod draft;
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
use side::build;
use std::collections::BTreeSet;

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
    /// Nothing was compared, or nothing of a metric that somebody named.
    Nothing,
    /// BASE has a row and NEW does not; or one side has a metric in too few rounds.
    Missing,
    /// A difference in what gives a number its meaning.
    Incomparable,
    /// A row that is not ok, or whose number is none.
    Invalid,
    /// A row that is there twice with different numbers.
    Duplicate,
    /// A cause that was required to be the same.
    Changed,
    /// A line that could not be read as a row.
    Unread,
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
            ProblemKind::Unread => "UNREAD",
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
    fn new(kind: ProblemKind, text: String) -> Problem {
        Problem { kind, point: None, columns: Vec::new(), text }
    }

    fn at(kind: ProblemKind, key: &Key, text: String) -> Problem {
        Problem { point: Some(key.clone()), ..Problem::new(kind, text) }
    }

    fn row(kind: ProblemKind, side: &str, key: &Key, row: &Row, text: &str) -> Problem {
        let (run, round) = (&row.provenance.run_id, row.provenance.repetition);
        let place = row.subject.instance.uuid().map_or(String::new(), |uuid| format!(" on {uuid}"));
        Problem::at(kind, key, format!("{side}, round {round} of run {run}{place}: {text}"))
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
    /// `identical`, `no-replication`, `unreplicated`, or which rounds lack the metric and why.
    pub reason: Option<String>,
    /// Rounds a side that would settle it.
    pub rounds_needed: Option<u64>,
}

impl Decision {
    /// There is something to judge by.
    fn is_judged(&self) -> bool {
        !self.base.is_empty()
    }
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
    /// Points that only NEW has, and that could have been compared.
    pub added: Vec<Key>,
    /// The two sides are the same rows.
    pub identical: bool,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Nothing is known to be worse.
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

    /// Lines of a side, in words, that hold no row: what they held is missing from the comparison.
    pub fn add_unread(&mut self, side: &str, lines: Vec<String>) {
        let problem = |line| Problem::new(ProblemKind::Unread, format!("{side}: {line}"));
        self.problems.extend(lines.into_iter().map(problem));
        self.problems.sort();
        self.identical &= self.problems.is_empty();
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
            let columns = vec![cause.column];
            found.problems.push(Problem { columns, ..Problem::new(ProblemKind::Changed, text) });
        }
    }
    found.added = join::unmatched(&sides.0, &sides.1, &mut found.problems);
    found.decisions = draft::drafts(&sides, options, &mut found.problems);
    decide(&mut found.decisions, options);
    draft::nothing(&sides, &found.decisions, &mut found.problems);
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

/// Judges what has values.
fn decide(decisions: &mut [Decision], options: &Options) {
    let mut tables = Tables::default();
    let margin = |decision: &Decision| {
        verdict::margin(&decision.gate, options.floor_ms, verdict::center(&decision.base))
    };
    let judged = Decision::is_judged;
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
        if let Some(reason) = reason {
            decision.reason = Some(reason.to_owned());
        }
    }
}

fn worst_first(a: &Decision, b: &Decision) -> std::cmp::Ordering {
    let rank = |verdict| match verdict {
        Verdict::Regression => 0,
        Verdict::Inconclusive => 1,
        Verdict::Same => 2,
        Verdict::NotWorse => 3,
        Verdict::Improvement => 4,
        Verdict::Skipped => 5,
    };
    let shift = |decision: &Decision| decision.numbers.map_or(f64::NEG_INFINITY, |n| n.shift);
    rank(a.verdict)
        .cmp(&rank(b.verdict))
        .then(shift(b).total_cmp(&shift(a)))
        .then_with(|| a.key.cmp(&b.key))
        .then_with(|| a.gate.metric.name.cmp(b.gate.metric.name))
}
