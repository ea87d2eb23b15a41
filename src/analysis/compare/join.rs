//! Which points of the two sides belong together; and of the others, why not.

use super::key::{KEY, Key};
use super::side::{Point, Side};
use super::{Options, Problem, ProblemKind};
use std::collections::{BTreeMap, BTreeSet};

/// Reports points that only one side has. A base point that the new side lacks is a problem; so is a
/// pair that differs in little, by the names of the columns. Other new points are no more than told.
pub fn unmatched(base: &Side, new: &Side, problems: &mut Vec<Problem>) -> Vec<Key> {
    let mut left: BTreeSet<&Key> = base.points.keys().filter(|key| !new.points.contains_key(key)).collect();
    let mut right: BTreeSet<&Key> = new.points.keys().filter(|key| !base.points.contains_key(key)).collect();
    // Columns in which the two sides have nothing in common are the reason for all of their points.
    let values = |keys: &BTreeSet<&Key>, i: usize| -> BTreeSet<String> {
        keys.iter().map(|key| key.0[i].clone()).collect()
    };
    let systematic: Vec<usize> =
        (0..KEY.len()).filter(|&i| values(&left, i).is_disjoint(&values(&right, i))).collect();
    let few = systematic.len() < KEY.len() / 2;
    for dropped in std::iter::once(systematic).filter(|_| few).chain((0..KEY.len()).map(|i| vec![i])) {
        for (a, b) in pairs(&left, &right, &dropped) {
            problems.push(incomparable(a, b));
            left.remove(a);
            right.remove(b);
        }
    }
    for key in left {
        problems.push(Problem::at(ProblemKind::Missing, key, "BASE has it, NEW does not".to_owned()));
    }
    right.into_iter().cloned().collect()
}

/// Pairs that are equal in all but the dropped columns.
fn pairs<'a>(
    left: &BTreeSet<&'a Key>,
    right: &BTreeSet<&'a Key>,
    dropped: &[usize],
) -> Vec<(&'a Key, &'a Key)> {
    let rest = |key: &Key| -> Vec<String> {
        let kept = key.0.iter().enumerate().filter(|(i, _)| !dropped.contains(i));
        kept.map(|(_, value)| value.clone()).collect()
    };
    let mut waiting: BTreeMap<Vec<String>, Vec<&Key>> = BTreeMap::new();
    // In descending order, so that the first is taken off the end.
    for key in right.iter().rev() {
        waiting.entry(rest(key)).or_default().push(key);
    }
    left.iter().filter_map(|key| Some((*key, waiting.get_mut(&rest(key))?.pop()?))).collect()
}

fn incomparable(base: &Key, new: &Key) -> Problem {
    let columns = base.differences(new);
    let each =
        columns.iter().map(|name| format!("{name} {} / {}", shown(base.get(name)), shown(new.get(name))));
    let text = format!(
        "not comparable, BASE / NEW: {}; --allow-mismatch {} compares all the same",
        each.collect::<Vec<_>>().join(", "),
        columns.join(",")
    );
    Problem { kind: ProblemKind::Incomparable, point: Some(base.clone()), columns, text }
}

fn shown(value: &str) -> &str {
    if value.is_empty() { "nothing" } else { value }
}

/// Reports replicates of the new side that have fewer rows than the base's: an instance is missing.
pub fn missing_rows(key: &Key, base: &Point, new: &Point, options: &Options, problems: &mut Vec<Problem>) {
    if options.allow_mismatch.iter().any(|name| name == "instances") {
        return;
    }
    let wanted = base.width();
    for (round, rows) in new.rounds.iter().filter(|(_, rows)| rows.len() < wanted) {
        let text = format!(
            "round {} of run {} on {} has {} rows of {wanted} equal instances in BASE; --allow-mismatch \
             instances compares all the same",
            round.repetition,
            round.run_id,
            round.host,
            rows.len()
        );
        problems.push(Problem::at(ProblemKind::Missing, key, text));
    }
}
