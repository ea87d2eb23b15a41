//! One side of a comparison: its rows as points, and each point's replicates.

use super::key::{Column, KEY, Key};
use super::{Options, Problem, ProblemKind};
use crate::results::Row;
use crate::results::row::Status;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A host's round of a run: one process per instance, all of them under one clock, one power limit
/// and one temperature.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Round {
    /// Its host.
    pub host: String,
    /// Its run.
    pub run_id: String,
    /// From 1.
    pub repetition: u32,
}

impl Round {
    fn of(row: &Row) -> Round {
        let provenance = &row.provenance;
        Round {
            host: provenance.host.clone(),
            run_id: provenance.run_id.clone(),
            repetition: provenance.repetition,
        }
    }
}

/// What a side measured at one point.
#[derive(Default)]
pub struct Point<'a> {
    /// The ok rows of each replicate.
    pub rounds: BTreeMap<Round, Vec<&'a Row>>,
    /// Values of the columns that may differ.
    ignored: BTreeMap<&'static str, BTreeSet<String>>,
}

/// All of a side's points.
pub struct Side<'a> {
    /// By what gives the numbers their meaning.
    pub points: BTreeMap<Key, Point<'a>>,
    /// Sessions that its rows are from.
    pub sessions: BTreeSet<&'a str>,
    /// Rows that were there twice, word for word.
    pub repeated: usize,
}

/// What makes a row unique among those of its point: host, run, instance, repetition, and the values
/// of the columns that may differ.
type Place<'a> = (&'a str, &'a str, Option<&'a str>, (Option<u32>, Option<u32>), u32, Vec<String>);

/// Sorts out one side; what is wrong with it goes to `problems`.
pub fn build<'a>(
    rows: &'a [Row],
    name: &'static str,
    options: &Options,
    problems: &mut Vec<Problem>,
) -> Side<'a> {
    let mut side = Side { points: BTreeMap::new(), sessions: BTreeSet::new(), repeated: 0 };
    let mut keys: HashMap<Key, HashMap<Place, Vec<&Row>>> = HashMap::new();
    for row in rows {
        let instance = &row.subject.instance;
        let provenance = &row.provenance;
        let mismatched = ignored(&options.allow_mismatch).map(|column| column.of(row)).collect();
        let place = (
            &*provenance.host,
            &*provenance.run_id,
            instance.uuid(),
            (instance.gpu_index, row.subject.worker),
            provenance.repetition,
            mismatched,
        );
        let key = Key::of(row, &options.allow_mismatch);
        keys.entry(key).or_default().entry(place).or_default().push(row);
    }
    for (key, places) in keys {
        let mut point = Point::default();
        for (_, attempts) in places {
            let last = attempts.iter().map(|row| row.provenance.attempt).max();
            let attempts: Vec<&Row> =
                attempts.into_iter().filter(|row| Some(row.provenance.attempt) == last).collect();
            let row = attempts[0];
            if attempts[1..].iter().any(|other| *other != row) {
                problems.push(Problem::row(
                    ProblemKind::Duplicate,
                    name,
                    &key,
                    row,
                    "is there twice, and differs",
                ));
                continue;
            }
            side.repeated += attempts.len() - 1;
            side.sessions.insert(&row.provenance.session_id);
            for column in ignored(&options.allow_mismatch) {
                point.ignored.entry(column.name).or_default().insert(column.of(row));
            }
            match row.outcome.status {
                Status::Ok => point.rounds.entry(Round::of(row)).or_default().push(row),
                status => {
                    let status = format!("{status:?}").to_lowercase();
                    let text = match &row.outcome.error {
                        Some(error) => format!("{status}: {error}"),
                        None => status,
                    };
                    problems.push(Problem::row(ProblemKind::Invalid, name, &key, row, &text));
                }
            }
        }
        for (column, values) in point.ignored.iter().filter(|(_, values)| values.len() > 1) {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            problems.push(Problem {
                kind: ProblemKind::Incomparable,
                point: Some(key.clone()),
                columns: vec![column],
                text: format!(
                    "{name} has {} values of {column} ({}): without it its rows can't be told apart, so \
                     --allow-mismatch {column} can't be granted",
                    values.len(),
                    values.join(", ")
                ),
            });
        }
        side.points.insert(key, point);
    }
    side
}

/// The columns of the key that may differ.
fn ignored(names: &[String]) -> impl Iterator<Item = &'static Column> {
    KEY.iter().filter(move |column| names.iter().any(|name| name == column.name))
}

impl Point<'_> {
    /// Most rows in one replicate: the number of equal instances.
    pub fn width(&self) -> usize {
        self.rounds.values().map(Vec::len).max().unwrap_or(0)
    }

    /// What a point has of a column that may differ.
    pub fn ignored(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.ignored.iter().filter_map(|(name, values)| Some((*name, values.first()?.as_str())))
    }
}
