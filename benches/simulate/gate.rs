//! The gate, tried on simulated files: whole CSVs through the program's own reader, join, replicates
//! and verdicts.
#![allow(dead_code, reason = "not every user needs all of it")]

use super::{Random, batches, file, measured, template};
use migbench::analysis::compare::{Comparison, Gate, Options, Verdict, compare};
use migbench::results::Row;
use migbench::results::csv_file::scan_from;
use rayon::prelude::*;

/// Batches of a window: enough for p99.
const BATCHES: usize = 700;

/// What moves the numbers of a run besides a real change.
#[derive(Clone, Copy)]
pub struct Noise {
    /// Standard deviation of a run's own factor.
    pub run: f64,
    /// Share of runs that are disturbed, by a factor of up to 1.2.
    pub outliers: f64,
    /// Standard deviation of a session's factor; a side is one session.
    pub session: f64,
    /// Change from round to round: BASE's rounds first, then NEW's.
    pub drift: f64,
    /// Standard deviation of a factor that all instances of a round share.
    pub shared: f64,
    /// Standard deviation of a batch within its run, and its correlation with the one before.
    pub batch: (f64, f64),
}

/// Independent runs with a deviation of 1 %.
pub const PLAIN: Noise =
    Noise { run: 0.01, outliers: 0.0, session: 0.0, drift: 0.0, shared: 0.0, batch: (0.02, 0.8) };

/// One experiment, repeated.
#[derive(Clone, Copy)]
pub struct Scenario {
    pub points: u64,
    /// Equal instances, each a row.
    pub instances: u32,
    pub rounds: u32,
    /// NEW's latencies over BASE's.
    pub ratio: f64,
    pub noise: Noise,
}

impl Scenario {
    pub const fn new(points: u64, rounds: u32, ratio: f64, noise: Noise) -> Scenario {
        Scenario { points, instances: 1, rounds, ratio, noise }
    }
}

/// Counts over all repetitions of an experiment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub comparisons: u64,
    /// With at least one REGRESSION.
    pub alarms: u64,
    /// With at least one IMPROVEMENT.
    pub improvements: u64,
    /// Decisions on the median latency or the throughput; of p99.
    pub rows: u64,
    pub tail_rows: u64,
    /// Of them, REGRESSION.
    pub called: u64,
    pub tail_called: u64,
    /// Of them, SAME.
    pub same: u64,
    /// Of them, said not to be worse by the threshold.
    pub cleared: u64,
    /// Of them, the interval holds the true ratio.
    pub covered: u64,
}

impl Counts {
    fn add(self, other: Counts) -> Counts {
        Counts {
            comparisons: self.comparisons + other.comparisons,
            alarms: self.alarms + other.alarms,
            improvements: self.improvements + other.improvements,
            rows: self.rows + other.rows,
            tail_rows: self.tail_rows + other.tail_rows,
            called: self.called + other.called,
            tail_called: self.tail_called + other.tail_called,
            same: self.same + other.same,
            cleared: self.cleared + other.cleared,
            covered: self.covered + other.covered,
        }
    }
}

/// Compares `trials` pairs of simulated files.
pub fn simulate(scenario: Scenario, options: &Options, trials: u64, seed: u64) -> Counts {
    (0..trials)
        .into_par_iter()
        .map(|trial| {
            let mut random = Random::new(seed.wrapping_mul(1_000_003) + trial);
            let base = read(&side(scenario, 0, &mut random));
            let new = read(&side(scenario, 1, &mut random));
            count(&compare(&base, &new, options), scenario.ratio)
        })
        .reduce(Counts::default, Counts::add)
}

/// The usual gates, all at one threshold where one is given.
pub fn options(threshold: Option<f64>) -> Options {
    let mut gates = Gate::defaults();
    if let Some(threshold) = threshold {
        gates.iter_mut().for_each(|gate| gate.threshold = threshold);
    }
    Options { gates, ..Options::default() }
}

/// One side's file: every point in every round, in a fresh process each.
pub fn side(scenario: Scenario, side: u32, random: &mut Random) -> Vec<u8> {
    let Scenario { points, instances, rounds, noise, .. } = scenario;
    let session = (noise.session * random.normal()).exp();
    let ratio = if side == 1 { scenario.ratio } else { 1.0 };
    let mut rows: Vec<Row> = Vec::new();
    for round in 0..rounds {
        let shared = (noise.shared * random.normal()).exp();
        let drift = 1.0 + noise.drift * f64::from(side * rounds + round);
        for point in 0..points {
            for instance in 0..instances {
                let mut run = (noise.run * random.normal()).exp();
                if random.uniform() < noise.outliers {
                    run *= 1.0 + 0.2 * random.uniform();
                }
                let mean = 1e6 * (1.0 + point as f64) * run * shared * session * drift * ratio;
                let mut row = template(1 + point, instance);
                row.provenance.run_id = format!("{side:08x}");
                row.provenance.session_id.clone_from(&row.provenance.run_id);
                row.provenance.repetition = round + 1;
                rows.push(measured(row, &batches(random, BATCHES, mean, noise.batch.0, noise.batch.1)));
            }
        }
    }
    file(&rows)
}

/// Through the program's own reader.
pub fn read(bytes: &[u8]) -> Vec<Row> {
    let mut rows = Vec::new();
    assert_eq!(scan_from(bytes, "simulated", &mut |row| rows.push(row)).unwrap(), None);
    rows
}

fn count(found: &Comparison, ratio: f64) -> Counts {
    assert!(found.problems.is_empty(), "{:?}", found.problems);
    let mut counts = Counts {
        comparisons: 1,
        alarms: u64::from(found.count(Verdict::Regression) > 0),
        improvements: u64::from(found.count(Verdict::Improvement) > 0),
        ..Counts::default()
    };
    for decision in &found.decisions {
        let called = u64::from(decision.verdict == Verdict::Regression);
        if decision.gate.metric.name == "latency_p99" {
            counts.tail_rows += 1;
            counts.tail_called += called;
            continue;
        }
        let numbers = decision.numbers.unwrap();
        counts.rows += 1;
        counts.called += called;
        counts.same += u64::from(decision.verdict == Verdict::Same);
        let open = matches!(decision.verdict, Verdict::Regression | Verdict::Inconclusive);
        counts.cleared += u64::from(!open);
        let (low, high) = numbers.interval;
        counts.covered += u64::from(low <= ratio.ln() && ratio.ln() <= high);
    }
    counts
}
