//! One metric of one point: replicates in, verdict out.

use super::metric::{Gate, Metric, TooFew};
use super::side::{Point, Round};
use crate::analysis::stats::{Tables, TwoSamples, order};
use serde::Serialize;

/// One-sided risk of a bound; the two-sided interval has it on both sides together.
pub const ALPHA: f64 = 0.05;
/// Fewer replicates than this on a side can't tell noise from change.
pub const FEWEST: usize = 4;
/// The share of a side's rounds that must have a metric. Those without it may be its slowest, and the
/// estimate withstands 29 % of wild values.
const MOST: (usize, usize) = (3, 4);
/// A bound this close to the margin is at it: logarithms round.
const ROUNDING: f64 = 1e-12;
/// More rounds than anybody runs.
const MOST_ROUNDS: f64 = 200.0;

/// What is said of a metric at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// Worse by the margin or more, at 95 % confidence.
    Regression,
    /// A change for the worse by the margin is neither shown nor excluded.
    Inconclusive,
    /// Any change is smaller than the margin, at 95 % confidence.
    Same,
    /// A change for the worse is smaller than the margin, at 95 % confidence; how much better NEW is can't
    /// be told.
    #[serde(rename = "NOT WORSE")]
    NotWorse,
    /// Better by the margin or more, at 95 % confidence.
    Improvement,
    /// There is no number to compare.
    Skipped,
}

impl Verdict {
    /// As it is shown.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Regression => "REGRESSION",
            Verdict::Inconclusive => "INCONCLUSIVE",
            Verdict::Same => "SAME",
            Verdict::NotWorse => "NOT WORSE",
            Verdict::Improvement => "IMPROVEMENT",
            Verdict::Skipped => "SKIPPED",
        }
    }
}

/// One replicate's value.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// Where it comes from.
    #[serde(flatten)]
    pub round: Round,
    /// Rows in it.
    pub rows: usize,
    /// Their geometric mean.
    pub value: f64,
}

/// The numbers of a decision. Shifts are logarithms of ratios, positive where NEW is worse.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Numbers {
    /// Median of BASE's replicates.
    pub base: f64,
    /// Median of NEW's replicates.
    pub new: f64,
    /// The Hodges-Lehmann estimate of the shift.
    pub shift: f64,
    /// The two-sided 95 % interval of the shift.
    pub interval: (f64, f64),
    /// The one-sided 95 % bounds of the shift.
    pub bounds: (f64, f64),
    /// The risk of each of these bounds.
    pub alpha: f64,
    /// What the bounds are compared with.
    pub margin: f64,
    /// Two-sided Mann-Whitney; decides nothing.
    pub p: f64,
}

/// What a side's rounds have of a metric.
#[derive(Debug, Default)]
pub struct Samples {
    /// The rounds whose rows all have it, in their order.
    pub values: Vec<Sample>,
    /// All rounds.
    pub rounds: usize,
    /// Of the rows without it, the one that was shortest of batches.
    pub too_few: Option<TooFew>,
}

impl Samples {
    /// Every round has it.
    pub fn is_complete(&self) -> bool {
        self.values.len() == self.rounds
    }

    /// The rounds that have it can stand for all.
    pub fn is_enough(&self) -> bool {
        let (have, (part, whole)) = (self.values.len(), MOST);
        self.is_complete() || (have >= FEWEST && whole * have >= part * self.rounds)
    }
}

/// The replicates' values.
///
/// # Errors
/// A value that is none, in words.
pub fn samples(metric: &Metric, point: &Point) -> Result<Samples, String> {
    let mut found = Samples { rounds: point.rounds.len(), ..Samples::default() };
    for (round, rows) in &point.rounds {
        let mut values = Vec::with_capacity(rows.len());
        for row in rows {
            match metric.of(row) {
                Some(value) if value.is_finite() && value > 0.0 => values.push(value),
                Some(value) => return Err(format!("{} is {value} in run {}", metric.name, round.run_id)),
                None => {
                    let both = found.too_few.into_iter().chain(metric.too_few(row));
                    found.too_few = both.min_by_key(|few| few.had);
                }
            }
        }
        if values.len() < rows.len() {
            continue;
        }
        // The order of rows must not matter, and sums of floats are not commutative.
        values.sort_unstable_by(f64::total_cmp);
        if let Some(value) = order::geometric_mean(&values) {
            found.values.push(Sample { round: round.clone(), rows: values.len(), value });
        }
    }
    Ok(found)
}

/// How large a shift must be, as a logarithm.
pub fn margin(gate: &Gate, floor_ms: Option<f64>, base: f64) -> f64 {
    let floor = floor_ms.filter(|_| gate.metric.is_time()).map_or(0.0, |floor| (floor / base).ln_1p());
    gate.threshold.ln_1p().max(floor)
}

/// The shift and its bounds. `alpha` is [`ALPHA`], or less where nothing but chance is in the way.
pub fn numbers(
    metric: &Metric,
    base: &[Sample],
    new: &[Sample],
    margin: f64,
    alpha: f64,
    tables: &mut Tables,
) -> Numbers {
    let sign = if metric.less_is_better { 1.0 } else { -1.0 };
    let logs = |samples: &[Sample]| samples.iter().map(|s| sign * s.value.ln()).collect::<Vec<_>>();
    let both = TwoSamples::new(&logs(base), &logs(new));
    Numbers {
        base: center(base),
        new: center(new),
        shift: both.estimate(),
        interval: (both.lower_bound(alpha / 2.0, tables), both.upper_bound(alpha / 2.0, tables)),
        bounds: (both.lower_bound(alpha, tables), both.upper_bound(alpha, tables)),
        alpha,
        margin,
        p: both.p_value(),
    }
}

/// The median of the replicates.
pub fn center(samples: &[Sample]) -> f64 {
    let mut values: Vec<f64> = samples.iter().map(|sample| sample.value).collect();
    values.sort_unstable_by(f64::total_cmp);
    order::median(&values).unwrap_or(f64::NAN)
}

/// The rule (method.md, Comparing): one bound against one margin.
pub fn judge(numbers: &Numbers) -> Verdict {
    let Numbers { margin, bounds, interval, .. } = *numbers;
    // At a margin of 0 equal numbers are no change.
    let beyond = |bound: f64| if margin > 0.0 { bound >= margin - ROUNDING } else { bound > ROUNDING };
    if beyond(bounds.0) {
        Verdict::Regression
    } else if beyond(-bounds.1) {
        Verdict::Improvement
    } else if interval.0 >= -margin - ROUNDING && interval.1 <= margin + ROUNDING {
        Verdict::Same
    } else if !beyond(interval.1) {
        Verdict::NotWorse
    } else {
        Verdict::Inconclusive
    }
}

/// By the estimate alone, where somebody asked for that.
pub fn judge_unreplicated(numbers: &Numbers) -> Verdict {
    let at = |shift: f64| shift >= numbers.margin - ROUNDING && shift > ROUNDING;
    match numbers.shift {
        shift if at(shift) => Verdict::Regression,
        shift if at(-shift) => Verdict::Improvement,
        _ => Verdict::Same,
    }
}

/// About how many rounds a side would settle it, if the spread and the shift stay as they are: the
/// half width of the interval, z s sqrt(2/n) sqrt(π/3) for normal noise (the last factor is the
/// estimate's efficiency), must fit between the shift and the margin, on whichever side of it the shift
/// lies. None where it never would, or the spread is unknown.
pub fn rounds_needed(numbers: &Numbers, base: &[Sample], new: &[Sample]) -> Option<u64> {
    let logs = |samples: &[Sample]| samples.iter().map(|s| s.value.ln()).collect::<Vec<_>>();
    let (a, b) = (logs(base), logs(new));
    let weighted = |values: &[f64]| Some(order::sample_variance(values)? * (values.len() - 1) as f64);
    let free = (a.len() + b.len()).checked_sub(2).filter(|&free| free > 0)?;
    let variance = (weighted(&a).unwrap_or(0.0) + weighted(&b).unwrap_or(0.0)) / free as f64;
    let beyond = numbers.shift > numbers.margin;
    let gap = (numbers.shift - numbers.margin).abs();
    let z = if beyond { 1.645 } else { 1.96 };
    let rounds = 2.0 * std::f64::consts::FRAC_PI_3 * z * z * variance / (gap * gap);
    let have = a.len().min(b.len()) as u64;
    let enough = (rounds.ceil() as u64).max(FEWEST as u64).max(attainable(numbers.alpha / 2.0)).max(have + 1);
    (rounds <= MOST_ROUNDS).then_some(enough)
}

/// The fewest rounds a side whose most extreme order is less likely than `alpha`.
fn attainable(alpha: f64) -> u64 {
    let mut n = 1;
    while 1.0 / crate::analysis::stats::mann_whitney::choose(2 * n, n) > alpha {
        n += 1;
    }
    n as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers_of(bounds: (f64, f64), interval: (f64, f64), margin: f64) -> Numbers {
        Numbers { base: 1.0, new: 1.0, shift: 0.0, interval, bounds, alpha: ALPHA, margin, p: 1.0 }
    }

    #[test]
    fn one_bound_decides() {
        use Verdict::*;
        for (bounds, interval, margin, expected) in [
            ((0.03, 0.06), (0.02, 0.07), 0.03, Regression),
            ((0.0299, 0.06), (0.02, 0.07), 0.03, Inconclusive),
            ((-0.06, -0.03), (-0.07, -0.02), 0.03, Improvement),
            ((-0.01, 0.01), (-0.03, 0.03), 0.03, Same),
            ((-0.01, 0.02), (-0.02, 0.031), 0.03, Inconclusive),
            // A regression of the margin is excluded, and nothing more is known.
            ((-0.40, -0.02), (-0.50, -0.01), 0.03, NotWorse),
            ((-0.40, 0.02), (-0.50, 0.0299), 0.03, NotWorse),
            ((-0.40, 0.02), (-0.50, 0.03), 0.03, Inconclusive),
            ((-0.40, 0.0), (-0.50, 0.0), 0.0, NotWorse),
            ((f64::NEG_INFINITY, f64::INFINITY), (f64::NEG_INFINITY, f64::INFINITY), 0.03, Inconclusive),
            ((0.0, 0.0), (0.0, 0.0), 0.0, Same),
            ((0.001, 0.01), (0.0005, 0.02), 0.0, Regression),
            ((-0.001, 0.01), (-0.002, 0.02), 0.0, Inconclusive),
        ] {
            assert_eq!(judge(&numbers_of(bounds, interval, margin)), expected, "{bounds:?} {interval:?}");
        }
    }

    #[test]
    fn a_floor_widens_the_margin_of_times_only() {
        let is = |text: &str, floor, base, expected: f64| {
            let found = margin(&Gate::parse(text).unwrap(), floor, base);
            assert!((found - expected.ln()).abs() < 1e-15, "{text} {floor:?} {base}: {found}");
        };
        is("latency_p50=3%", None, 0.1, 1.03);
        is("latency_p50=3%", Some(0.005), 0.1, 1.05);
        is("latency_p50=3%", Some(0.005), 10.0, 1.03);
        is("throughput=3%", Some(0.005), 0.1, 1.03);
    }

    /// Rounds that exclude a regression settle it, also where NEW is better by the margin itself.
    #[test]
    fn a_better_side_needs_few_rounds() {
        let round = Round { host: "h".into(), run_id: "r".into(), repetition: 1 };
        let of = |value: f64| Sample { round: round.clone(), rows: 1, value };
        let side: Vec<Sample> = [0.98, 1.0, 1.0, 1.02].map(of).to_vec();
        let needed = |shift: f64| {
            let unbounded = (f64::NEG_INFINITY, f64::INFINITY);
            rounds_needed(&Numbers { shift, ..numbers_of(unbounded, unbounded, 0.03) }, &side, &side)
        };
        assert_eq!([-0.03, -0.01, 0.01, 0.03, 0.05].map(needed), [Some(5), Some(5), Some(6), None, Some(5)]);
    }

    #[test]
    fn the_smallest_attainable_risk() {
        assert_eq!([0.05, 0.025, 0.05 / 60.0].map(attainable), [3, 4, 7]);
    }
}
