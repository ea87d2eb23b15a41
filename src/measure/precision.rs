//! How well a window knows its mean and its p99, and whether there is one to know. Pure.
//!
//! Consecutive latencies depend on each other, so that their number says little. Values are taken in
//! groups, which grow until their means no longer depend on each other (batch means; C. Alexopoulos and
//! A. F. Seila in Handbook of Simulation, 1998, ch. 7): the spread of those gives the interval of the
//! mean. For p99, the same is done with the indicator of exceeding it, and the interval of that share is
//! read back from the distribution. A stream whose level moves has no mean: the largest excursion of the
//! cumulated deviations (R. L. Brown, J. Durbin and J. M. Evans, 1975, J. R. Statist. Soc. B 37:149-192)
//! or dependence that no group outgrows shows it.

use super::resident;
use serde::{Deserialize, Serialize};

/// Groups are kept in so many slots at most, and judged by no fewer than so many.
const MOST_GROUPS: usize = 1024;
const LEAST_GROUPS: usize = 32;
/// So many values are kept one by one; what exceeds their p99 is counted from then on.
const KEPT: usize = 1 << 16;
/// The first look; the next is after so many more, as a share.
const FIRST_LOOK: u64 = 700;
const NEXT_LOOK: f64 = 1.2;
/// The two-sided 95 % quantile of the normal distribution.
const Z: f64 = 1.96;
/// 95 % quantile of the largest excursion of a Brownian bridge (Kolmogorov's distribution).
const EXCURSION: f64 = 1.358;
/// Correlation of neighbouring groups that 32 independent ones reach 1 time in 40: 1.96 / √32.
const DEPENDENT: f64 = 0.346;
/// An interval of p99 stands on so many values above it that do not depend on each other.
const LEAST_ABOVE: f64 = 25.0;
const P99: f64 = 0.99;

/// What was known when a window ended; the wire form between worker and parent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Known {
    /// Half the width of the mean's 95 % interval, as a share of the mean.
    pub mean: Option<f64>,
    /// Half the width of p99's 95 % interval, as a share of p99.
    pub p99: Option<f64>,
    /// The level did not move by more than the target.
    pub steady: bool,
    /// The target.
    pub target: f64,
}

impl Known {
    /// Which criteria are not met: `mean`, `p99`, `steady`.
    pub fn unmet(&self) -> Vec<&'static str> {
        let met = |half: Option<f64>| half.is_some_and(|half| half <= self.target);
        let all = [("mean", met(self.mean)), ("p99", met(self.p99)), ("steady", self.steady)];
        all.into_iter().filter(|(_, met)| !met).map(|(name, _)| name).collect()
    }
}

/// An interval in the unit of the values.
pub type Interval = (f64, f64);

/// Takes the values of a window; allocates nothing after [`Precision::new`] but in
/// [`Precision::look`].
#[derive(Clone, Debug)]
pub struct Precision {
    target: f64,
    count: u64,
    next_look: u64,
    means: Groups,
    kept: Vec<f32>,
    /// The p99 of what was kept, and which values exceed it, once nothing more is kept.
    above: Option<(f32, Groups)>,
    known: Known,
    intervals: (Option<Interval>, Option<Interval>),
}

impl Precision {
    /// `target` is a share: 0.01 for 1 %. There is nothing to decide before `least` values.
    pub fn new(target: f64, least: u64) -> Precision {
        Precision {
            target,
            count: 0,
            next_look: FIRST_LOOK.max(least),
            means: Groups::new(),
            kept: resident::empty(KEPT),
            above: None,
            known: Known { target, ..Known::default() },
            intervals: (None, None),
        }
    }

    /// One more value. True when it is time for a [`look`](Precision::look).
    #[inline]
    pub fn add(&mut self, value: u64) -> bool {
        self.count += 1;
        self.means.add(value as f64);
        match &mut self.above {
            None => self.kept.push(value as f32),
            Some((threshold, groups)) => groups.add(f64::from(value as f32 > *threshold)),
        }
        self.count >= self.next_look || self.kept.len() == KEPT && self.above.is_none()
    }

    /// Judges what there is. `quantile` reads the distribution of all values so far.
    pub fn look(&mut self, quantile: impl Fn(f64) -> f64) {
        self.next_look = (self.count as f64 * NEXT_LOOK).ceil() as u64;
        let spread = Spread::of(&self.means, 1);
        let mean = spread.mean;
        let half = spread.independent.then_some(spread.half);
        self.intervals.0 = half.map(|half| (mean - half, mean + half));
        self.known.mean = half.map(|half| half / mean);
        self.intervals.1 = self.p99(spread.size, &quantile);
        self.known.p99 = self.intervals.1.map(|(low, high)| (high - low) / 2.0 / quantile(P99));
        self.known.steady = steady(&self.means, self.target);
    }

    /// The interval of p99: that of the share below it, read back from the distribution. What exceeds
    /// it is too rare to show by itself how long values depend on each other: the groups are no smaller
    /// than the mean's.
    fn p99(&mut self, least_size: u64, quantile: impl Fn(f64) -> f64) -> Option<Interval> {
        let fresh;
        let groups = match &self.above {
            Some((_, groups)) => groups,
            None => {
                let threshold = quantile(P99) as f32;
                let mut groups = Groups::new();
                self.kept.iter().for_each(|&value| groups.add(f64::from(value > threshold)));
                if self.kept.len() == KEPT {
                    self.above = Some((threshold, groups));
                    &self.above.as_ref()?.1
                } else {
                    fresh = groups;
                    &fresh
                }
            }
        };
        let spread = Spread::of(groups, least_size);
        let share = spread.mean;
        let inflation = (spread.half / Z).powi(2) * self.count as f64 / (share * (1.0 - share)).max(1e-9);
        let above = self.count as f64 * (1.0 - P99) / inflation.max(1.0);
        if !spread.independent || above < LEAST_ABOVE {
            return None;
        }
        let binomial = (P99 * (1.0 - P99)).sqrt();
        let half = if share > 0.0 {
            // The threshold is not exactly at p99: a share's spread goes with √(p(1 - p)).
            spread.half * binomial / (share * (1.0 - share)).sqrt()
        } else {
            // All of the largest values are the same to the distribution's resolution.
            Z * binomial / (self.count as f64).sqrt()
        };
        let most = 1.0 - 1.0 / self.count as f64;
        (P99 + half <= most).then(|| (quantile(P99 - half), quantile(P99 + half)))
    }

    /// At the last look: is everything within the target, and steady?
    pub fn is_settled(&self) -> bool {
        self.known.unmet().is_empty()
    }

    /// What was known at the last look.
    pub fn known(&self) -> &Known {
        &self.known
    }

    /// The intervals of mean and p99 at the last look.
    pub fn intervals(&self) -> (Option<Interval>, Option<Interval>) {
        self.intervals
    }
}

/// The least distance at which values correlate by less than 0.1; none where there are too few to see it.
pub fn lag(values: &[f32]) -> Option<u64> {
    let n = values.len();
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n.max(1) as f64;
    let off = |i: usize| f64::from(values[i]) - mean;
    let all: f64 = (0..n).map(|i| off(i).powi(2)).sum();
    if n < 100 {
        return None;
    }
    let depends = |lag: usize| (0..n - lag).map(|i| off(i) * off(i + lag)).sum::<f64>() >= 0.1 * all;
    if all <= 0.0 {
        return Some(1);
    }
    // It falls on the whole: double, then bisect.
    let mut high = 1;
    while depends(high) {
        high *= 2;
        if high > n / 4 {
            return None;
        }
    }
    let mut low = high / 2;
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if depends(middle) { low = middle } else { high = middle }
    }
    Some(high as u64)
}

/// Sums of consecutive values in groups that double in size when they outgrow their slots.
#[derive(Clone, Debug)]
struct Groups {
    size: u64,
    sums: Vec<f64>,
    sum: f64,
    filled: u64,
}

impl Groups {
    fn new() -> Groups {
        Groups { size: 1, sums: resident::empty(MOST_GROUPS), sum: 0.0, filled: 0 }
    }

    #[inline]
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.filled += 1;
        if self.filled == self.size {
            self.sums.push(self.sum);
            (self.sum, self.filled) = (0.0, 0);
            if self.sums.len() == MOST_GROUPS {
                self.double();
            }
        }
    }

    #[cold]
    fn double(&mut self) {
        for i in 0..MOST_GROUPS / 2 {
            self.sums[i] = self.sums[2 * i] + self.sums[2 * i + 1];
        }
        self.sums.truncate(MOST_GROUPS / 2);
        self.size *= 2;
    }

    /// The means of the full groups.
    fn means(&self) -> Vec<f64> {
        self.sums.iter().map(|sum| sum / self.size as f64).collect()
    }
}

/// Twice the group size.
fn pairs(means: &[f64]) -> Vec<f64> {
    means.chunks_exact(2).map(|pair| (pair[0] + pair[1]) / 2.0).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Correlation of neighbours.
fn neighbours(values: &[f64]) -> f64 {
    let mean = mean(values);
    let all: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    let with_next: f64 = values.windows(2).map(|w| (w[0] - mean) * (w[1] - mean)).sum();
    if all > 0.0 { with_next / all } else { 0.0 }
}

/// The mean of group means, and half its 95 % interval.
struct Spread {
    mean: f64,
    half: f64,
    /// The groups are long enough not to depend on each other.
    independent: bool,
    /// Of those groups.
    size: u64,
}

impl Spread {
    fn of(groups: &Groups, least_size: u64) -> Spread {
        let (mut means, mut size) = (groups.means(), groups.size);
        let grand = mean(&means);
        let depends = |means: &[f64]| neighbours(means) > 1.645 / (means.len().max(1) as f64).sqrt();
        while (depends(&means) || size < least_size) && means.len() >= 2 * LEAST_GROUPS {
            (means, size) = (pairs(&means), 2 * size);
        }
        let independent = !depends(&means) && size >= least_size && means.len() >= LEAST_GROUPS;
        // What the test no longer sees may still be there: twice as long, where there is room.
        if means.len() >= 2 * LEAST_GROUPS && size > groups.size {
            (means, size) = (pairs(&means), 2 * size);
        }
        let n = means.len() as f64;
        let center = mean(&means);
        let variance = means.iter().map(|m| (m - center).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
        // Student's quantile for so many degrees of freedom, to 0.1 %.
        let t = Z + (Z.powi(3) + Z) / (4.0 * (n - 1.0).max(1.0));
        Spread { mean: grand, half: t * (variance / n).sqrt(), independent, size }
    }
}

/// Neither drift nor jumps by more than `target`, as far as the values tell.
fn steady(groups: &Groups, target: f64) -> bool {
    let mut means = groups.means();
    while means.len() >= 2 * LEAST_GROUPS {
        means = pairs(&means);
    }
    if means.len() < LEAST_GROUPS {
        return false;
    }
    let grand = mean(&means);
    let eighths: Vec<f64> = means.chunks(means.len().div_ceil(8)).map(mean).collect();
    let moved = eighths.iter().any(|eighth| (eighth / grand - 1.0).abs() > target / 2.0);
    if !moved {
        return true;
    }
    // From differences of neighbours: a level that moves leaves these alone.
    let squares: f64 = means.windows(2).map(|w| (w[1] - w[0]).powi(2)).sum();
    let deviation = (squares / 2.0 / (means.len() - 1) as f64).sqrt();
    let mut sum = 0.0;
    let excursion = means.iter().fold(0f64, |most, m| {
        sum += m - grand;
        most.max(sum.abs())
    });
    excursion <= EXCURSION * deviation * (means.len() as f64).sqrt() && neighbours(&means) <= DEPENDENT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_double_and_lose_nothing() {
        let mut groups = Groups::new();
        (0..10_000).for_each(|i| groups.add(f64::from(i)));
        assert_eq!((groups.size, groups.sums.len()), (16, 625));
        assert_eq!(groups.sums.iter().sum::<f64>() + groups.sum, 49_995_000.0);
    }

    #[test]
    fn values_that_are_all_the_same_settle_with_enough_of_them() {
        let mut precision = Precision::new(0.01, 2500);
        let look = (0..2500).map(|_| precision.add(1000)).filter(|&look| look).count();
        assert_eq!(look, 1);
        precision.look(|_| 1000.0);
        assert_eq!(precision.known().mean, Some(0.0));
        assert_eq!(precision.intervals(), (Some((1000.0, 1000.0)), Some((1000.0, 1000.0))));
        assert!(precision.is_settled());
    }

    #[test]
    fn the_lag_is_where_dependence_ends() {
        let mut random = fastrand::Rng::with_seed(5);
        let mut stream = |phi: f64| {
            let mut state = 0.0;
            let mut next = || {
                state = phi * state + random.f64() - 0.5;
                (state + 10.0) as f32
            };
            (0..50_000).map(|_| next()).collect::<Vec<f32>>()
        };
        assert_eq!(lag(&stream(0.0)), Some(1));
        // 0.9^k < 0.1 from k = 22 on.
        assert!((18..=27).contains(&lag(&stream(0.9)).unwrap()));
        assert_eq!(lag(&[1.0; 200]), Some(1));
        assert_eq!(lag(&[1.0; 50]), None);
        let drift: Vec<f32> = (0..1000).map(|i| i as f32).collect();
        assert_eq!(lag(&drift), None, "it depends on all of itself");
    }

    #[test]
    fn what_is_unmet_is_named() {
        let known = Known { mean: Some(0.02), p99: None, steady: false, target: 0.01 };
        assert_eq!(known.unmet(), ["mean", "p99", "steady"]);
        let known = Known { mean: Some(0.01), p99: Some(0.005), steady: true, target: 0.01 };
        assert!(known.unmet().is_empty());
    }
}
