//! Streams of latencies whose truth is known, and what the precision rule says of them.

use super::Random;
use hdrhistogram::Histogram;
use migbench::measure::precision::Precision;

/// Mean of every stream, in ns, and the deviation of its noise as a share.
const MEAN: f64 = 1e6;
const NOISE: f64 = 0.05;
/// The standard normal's 99 % quantile.
const Z99: f64 = 2.326_347_874;
const TARGET: f64 = 0.02;
/// A window holds so many values at least, and at most.
const LEAST: u64 = 1_000;
const MOST: u64 = 100_000;

/// What a stream is like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Independent values.
    Independent,
    /// Each follows the last with correlation 0.9.
    Correlated,
    /// The level rises by 5 % over the shortest window, and on.
    Drifting,
    /// The level jumps by 10 % and back, after random times of 250 values on average.
    Switching,
}

/// Of so many windows: those whose interval held the true mean and the true p99, those that settled
/// and those that were called steady.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub windows: u64,
    pub mean: u64,
    pub p99: u64,
    pub settled: u64,
    pub steady: u64,
    pub values: u64,
}

impl Counts {
    pub fn share(of: u64, all: u64) -> f64 {
        of as f64 / all as f64
    }
}

/// Windows of a stream, each with noise of its own.
pub fn windows(kind: Kind, windows: u64, seed: u64) -> Counts {
    let mut random = Random::new(seed);
    let mut counts = Counts { windows, ..Counts::default() };
    for _ in 0..windows {
        let (precision, values) = window(kind, &mut random);
        let (mean, p99) = precision.intervals();
        let holds = |interval: Option<(f64, f64)>, truth: f64| {
            interval.is_some_and(|(low, high)| low <= truth && truth <= high)
        };
        counts.mean += u64::from(holds(mean, MEAN));
        counts.p99 += u64::from(holds(p99, MEAN * (1.0 + NOISE * Z99)));
        counts.settled += u64::from(precision.is_settled());
        counts.steady += u64::from(precision.known().steady);
        counts.values += values;
    }
    counts
}

fn window(kind: Kind, random: &mut Random) -> (Precision, u64) {
    let phi: f64 = if kind == Kind::Correlated { 0.9 } else { 0.0 };
    let step = (1.0 - phi * phi).sqrt();
    let mut precision = Precision::new(TARGET, LEAST);
    let mut histogram = Histogram::<u64>::new_with_bounds(1, 3_600_000_000_000, 3).expect("valid bounds");
    let mut noise = random.normal();
    let (mut high, mut until) = (false, 0.0);
    for i in 0..MOST {
        noise = phi * noise + step * random.normal();
        let level = match kind {
            Kind::Independent | Kind::Correlated => 1.0,
            Kind::Drifting => 1.0 + 0.05 * i as f64 / LEAST as f64,
            Kind::Switching => {
                while i as f64 >= until {
                    until += -250.0 * (1.0 - random.uniform()).ln();
                    high = !high;
                }
                if high { 1.1 } else { 1.0 }
            }
        };
        let value = (MEAN * level * (1.0 + NOISE * noise)) as u64;
        histogram.saturating_record(value);
        if precision.add(value) {
            precision.look(|q| histogram.value_at_quantile(q) as f64);
        }
        let changing = matches!(kind, Kind::Drifting | Kind::Switching);
        if i + 1 >= LEAST && (precision.is_settled() || changing) {
            precision.look(|q| histogram.value_at_quantile(q) as f64);
            return (precision, i + 1);
        }
    }
    (precision, MOST)
}
