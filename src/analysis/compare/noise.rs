//! How much a point moves when nothing has changed: A/A rounds over several sessions.

use super::key::Key;
use super::metric::Metric;
use super::side;
use super::verdict::samples;
use super::{Options, Problem};
use crate::analysis::stats::variance::components;
use crate::results::Row;
use serde::Serialize;
use std::collections::BTreeMap;

/// A threshold should be this many times the noise of one round.
pub const TIMES: f64 = 3.0;

/// The noise of one metric at one point, as standard deviations of logarithms (0.01 is 1 %).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Noise {
    /// The point.
    #[serde(skip)]
    pub key: Key,
    /// The metric.
    pub metric: &'static str,
    /// Sessions it is from.
    pub sessions: usize,
    /// Rounds in all of them.
    pub rounds: usize,
    /// From round to round of a session.
    pub within: Option<f64>,
    /// From session to session; none of a single one.
    pub between: Option<f64>,
}

impl Noise {
    /// Of one round in a session of its own.
    pub fn floor(&self) -> Option<f64> {
        Some(self.within?.hypot(self.between.unwrap_or(0.0)))
    }

    /// How many rounds a side bring the floor down to a third of this margin; none if no number does,
    /// since rounds of one session share its effect.
    pub fn rounds_needed(&self, margin: f64) -> Option<u64> {
        let (within, between) = (self.within?, self.between.unwrap_or(0.0));
        let left = (margin / TIMES).powi(2) - between.powi(2);
        (left > 0.0).then(|| (within.powi(2) / left).ceil().max(1.0) as u64)
    }
}

/// Noise of each metric at each point, from the ok rows of any number of sessions.
///
/// `ignored` are the columns of a point that may differ.
pub fn noise(rows: &[Row], metrics: &[&'static Metric], ignored: &[String]) -> (Vec<Noise>, Vec<Problem>) {
    let mut problems = Vec::new();
    let options = Options { allow_mismatch: ignored.to_vec(), ..Options::default() };
    let side = side::build(rows, "the noise file", &options, &mut problems);
    let sessions: BTreeMap<(&str, &str), &str> = rows
        .iter()
        .map(|row| ((&*row.provenance.host, &*row.provenance.run_id), &*row.provenance.session_id))
        .collect();
    let mut found = Vec::new();
    for (key, point) in &side.points {
        for metric in metrics {
            let Ok(samples) = samples(metric, point) else { continue };
            if samples.values.is_empty() || !samples.is_complete() {
                continue;
            }
            let mut groups: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
            for sample in &samples.values {
                let session = sessions[&(&*sample.round.host, &*sample.round.run_id)];
                groups.entry(session).or_default().push(sample.value.ln());
            }
            let groups: Vec<Vec<f64>> = groups.into_values().collect();
            let parts = components(&groups);
            found.push(Noise {
                key: key.clone(),
                metric: metric.name,
                sessions: groups.len(),
                rounds: samples.rounds,
                within: parts.within,
                between: parts.between,
            });
        }
    }
    (found, problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_and_rounds_are_told_apart() {
        let mut rows = Vec::new();
        for (session, center) in [("a", 1.0f64), ("b", 1.1), ("c", 0.9)] {
            for repetition in 1..=4 {
                let mut row = Row::default();
                row.provenance.run_id = session.into();
                row.provenance.session_id = session.into();
                row.provenance.repetition = repetition;
                row.rates.throughput_wall = Some(center * if repetition % 2 == 0 { 1.01 } else { 0.99 });
                rows.push(row);
            }
        }
        let (found, problems) = noise(&rows, &[Metric::find("throughput_wall").unwrap()], &[]);
        assert!(problems.is_empty());
        let noise = &found[0];
        assert_eq!((noise.sessions, noise.rounds, noise.metric), (3, 12, "throughput_wall"));
        assert!(
            (noise.within.unwrap() - 0.01155).abs() < 1e-4 && (noise.between.unwrap() - 0.1).abs() < 2e-3
        );
        assert_eq!(noise.rounds_needed(0.03), None, "sessions alone exceed it");
        let quiet = Noise { between: Some(0.0), within: Some(0.02), ..noise.clone() };
        assert_eq!((quiet.rounds_needed(0.03), quiet.floor()), (Some(4), Some(0.02)));
    }
}
