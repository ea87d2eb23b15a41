//! From what a worker recorded to the numbers of a row. Pure.

use super::Row;
use super::histogram::{Reader, Slots};
use super::row::{Latency, Point, Rates, Response, StageSummary, Window};
use crate::machine::limits::{Beyond, Ceiling, Figures};
use crate::measure::recorder::Recording;
use crate::measure::records::Arrived;
use crate::workload::{Precision, Stages};
use anyhow::{Context, Result, ensure};

/// A row warns when latency drifts by more than this over its window.
pub const DRIFT: f64 = 0.01;
/// A row warns when its two throughputs are further apart than this.
pub const THROUGHPUT_GAP: f64 = 0.05;
/// A row warns when issuing a batch takes more than this share of the device's time.
pub const HOST_BOUND: f64 = 0.8;

/// A row is invalid when the harness was late for more than this share of its batches.
pub const LATE_SHARE: f64 = 0.01;

/// One minus the confidence of a percentile's bound.
const RISK: f64 = 0.01;

/// The fewest batches with which the second largest latency bounds quantile `q` from above with
/// 99 % confidence: the smallest n with P(Bin(n, 1 - q) ≤ 1) ≤ 1 %. Gives 64, 130, 662 and 6636 for
/// p90, p95, p99 and p99.9, MLPerf LoadGen's numbers for independent samples.
pub fn batches_needed(q: f64) -> u64 {
    let enough = |n: u64| is_enough(n, q);
    let (mut low, mut high) = (1, 1);
    while !enough(high) {
        (low, high) = (high, high * 2);
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if enough(middle) { high = middle } else { low = middle }
    }
    high
}

/// P(Bin(n, 1 - q) ≤ 1) ≤ 1 %.
fn is_enough(n: u64, q: f64) -> bool {
    let n = n as f64;
    q.powf(n) + n * (1.0 - q) * q.powf(n - 1.0) <= RISK
}

/// The rank (from 1) of the order statistic among `n` that bounds quantile `q` from above with 99 %
/// confidence for independent samples; none if there are too few.
///
/// Y samples lie above the quantile, Y ~ Bin(n, 1 - q); the statistic with k samples above it fails
/// when Y ≤ k, so k is the largest with P(Y ≤ k) ≤ 1 %, and at least 1 must remain above
/// ([`batches_needed`]).
pub fn upper_bound_rank(n: u64, q: f64) -> Option<u64> {
    // Falls with n from n = 1 / (1 - q) on, and is above the risk before.
    if !is_enough(n, q) {
        return None;
    }
    // Probabilities relative to the mode's, from there downwards, so that nothing underflows.
    let (count, p) = (n as f64, 1.0 - q);
    let mode = ((count + 1.0) * p).floor();
    let ratio_down = |k: f64| k * q / ((count - k + 1.0) * p);
    let below: Vec<f64> = terms(mode, 0.0, |k| (k - 1.0, ratio_down(k)));
    let above: Vec<f64> = terms(mode, count, |k| (k + 1.0, 1.0 / ratio_down(k + 1.0)));
    let total = 1.0 + below.iter().sum::<f64>() + above.iter().sum::<f64>();
    let mut cumulated = 0.0;
    let mut k = None;
    let first = mode - below.len() as f64;
    for (i, term) in below.iter().rev().enumerate() {
        cumulated += term / total;
        if cumulated > RISK {
            break;
        }
        k = Some(first + i as f64);
    }
    k.map(|k| n - k as u64)
}

/// Relative probabilities from a start to an end, until they no longer count.
fn terms(start: f64, end: f64, step: impl Fn(f64) -> (f64, f64)) -> Vec<f64> {
    let (mut k, mut term) = (start, 1.0);
    let mut terms = Vec::new();
    while k != end && term > 1e-18 {
        let (next, ratio) = step(k);
        (k, term) = (next, term * ratio);
        terms.push(term);
    }
    terms
}

/// Latencies in ms, and their histogram. Mean, deviation, minimum and maximum are exact; percentiles
/// are HDR's ceil rank, to three digits, and empty below [`batches_needed`]. `lanes` batches may be in
/// flight at once.
///
/// # Errors
/// The recording contradicts itself.
pub fn latency(recording: &Recording, lanes: u64) -> Result<(Latency, Option<String>)> {
    let elapsed =
        recording.end_ns.checked_sub(recording.start_ns).context("the window ends before it starts")?;
    let possible = u128::from(elapsed) * u128::from(lanes);
    ensure!(
        u128::from(recording.sum_ns) <= possible,
        "batches took {} ns in a window of {elapsed} ns",
        recording.sum_ns
    );
    let Some(slots) = slots(recording)? else { return Ok(Default::default()) };
    let [p50, p90, p95, p99, p999] = quantiles(recording, &slots, [0.5, 0.9, 0.95, 0.99, 0.999]);
    let n = recording.batches as f64;
    let latency = Latency {
        mean: Some(recording.sum_ns as f64 / n / 1e6),
        stddev: Some(recording.variance_ns2.sqrt() / 1e6),
        min: ms(recording.min_ns),
        p50,
        p90,
        p95,
        p99,
        p999,
        max: ms(recording.max_ns),
        p99_upper: upper_bound_rank(recording.batches, 0.99)
            .and_then(|rank| at_rank(recording, &slots, rank)),
    };
    Ok((latency, Some(recording.histogram.clone())))
}

/// The columns of what arrived.
///
/// # Errors
/// The recording contradicts itself.
pub fn arrived(row: &mut Row, arrived: &Arrived) -> Result<()> {
    let response = &arrived.response;
    let Some(slots) = slots(response)? else { return Ok(()) };
    let [p50, p90, p99, p999] = quantiles(response, &slots, [0.5, 0.9, 0.99, 0.999]);
    let mean = Some(response.sum_ns as f64 / response.batches as f64 / 1e6);
    let max = ms(response.max_ns);
    row.response = Response { mean, p50, p90, p99, p999, max, p99_upper: None, lag: arrived.lag };
    row.response.p99_upper =
        thinned_bound(&slots, arrived.lag, 0.99).map(|ns| ns.min(response.max_ns) as f64 / 1e6);
    row.histograms.response = Some(response.histogram.clone());
    row.window.late_batches = Some(arrived.late_batches);
    let sizes = &arrived.batch_sizes;
    if sizes.is_empty() {
        ensure!(Some(response.batches) == row.window.batches, "not as many responses as batches");
        return Ok(());
    }
    let (batches, samples) = sizes.iter().fold((0, 0), |(n, sum), &(size, of)| (n + of, sum + size * of));
    ensure!(Some(batches) == row.window.batches, "the batch sizes are of {batches} batches");
    ensure!(samples == response.batches, "the batch sizes are of {samples} samples");
    row.window.inferences = Some(samples);
    let texts: Vec<String> = sizes.iter().map(|(size, of)| format!("{size}:{of}")).collect();
    row.window.batch_sizes = Some(texts.join(";"));
    Ok(())
}

/// The rank, from 1, of the value that bounds quantile `q` from above with 99 % confidence, of `n`
/// values of which each `lag`-th does not depend on the others; none if those are too few.
pub fn thinned_rank(n: u64, lag: u64, q: f64) -> Option<u64> {
    let independent = n / lag.max(1);
    let rank = upper_bound_rank(independent, q)?;
    // All values say where that share of them lies; only so many say how surely.
    Some((rank as f64 / independent as f64 * n as f64).ceil() as u64)
}

fn thinned_bound(slots: &Slots, lag: Option<u64>, q: f64) -> Option<u64> {
    slots.at_rank(thinned_rank(slots.count, lag?, q)?)
}

/// A quantile of the responses of a row in ms, and its 99 % upper bound, each where there are enough.
pub fn response_quantile(row: &Row, q: f64) -> (Option<f64>, Option<f64>) {
    let Some(histogram) = &row.histograms.response else { return (None, None) };
    let mut slots = Slots::default();
    if Reader::default().read(histogram, &mut slots).is_err() {
        return (None, None);
    }
    let max = row.response.max.unwrap_or(f64::MAX);
    let in_ms = |ns: u64| (ns as f64 / 1e6).min(max);
    let value = slots.at_rank(slots.rank(q));
    let enough = slots.count >= batches_needed(q);
    (value.filter(|_| enough).map(in_ms), thinned_bound(&slots, row.response.lag, q).map(in_ms))
}

/// Do batches arrive by a schedule under this load of a row?
pub fn arrives(load: &str) -> bool {
    load.starts_with("open(") || load.starts_with("server(")
}

/// Was the harness late for more than 1 % of the batches?
pub fn too_late(window: &Window) -> bool {
    let late = window.late_batches.zip(window.batches);
    late.is_some_and(|(late, batches)| late as f64 > LATE_SHARE * batches as f64)
}

/// Why the row's rates can't be: more than its instance is able to. They are the network's own counts over
/// the mean latency, so one of the two is wrong.
pub fn impossible(row: &Row) -> Option<String> {
    let instance = &row.subject.instance;
    let figures = Figures {
        tflops: row.rates.tflops,
        gbytes_per_s: row.rates.gbytes_per_s,
        latency_ms: row.latency.mean,
        sm_count: instance.sm_count.map(f64::from),
        is_fp32: row.point.precision == Some(Precision::Fp32),
    };
    let beyond = Ceiling::of(&instance.gpu_name, instance.profile.as_deref()).beyond(&figures);
    let text = |Beyond { column, found, most, reason }: &Beyond| {
        format!("{column} is {found:.1}, and the instance can do at most {most:.1} {reason}")
    };
    (!beyond.is_empty()).then(|| {
        let texts: Vec<String> = beyond.iter().map(text).collect();
        format!("{}: the time or the network's count is wrong", texts.join("; "))
    })
}

/// The histogram of a recording that holds anything.
fn slots(recording: &Recording) -> Result<Option<Slots>> {
    let mut slots = Slots::default();
    Reader::default().read(&recording.histogram, &mut slots).context("its histogram")?;
    let n = recording.batches;
    ensure!(n == slots.count, "the histogram holds {} values, the window {n}", slots.count);
    let spread = u128::from(n) * u128::from(recording.min_ns)..=u128::from(n) * u128::from(recording.max_ns);
    ensure!(spread.contains(&u128::from(recording.sum_ns)), "the mean is not between minimum and maximum");
    Ok(Some(slots).filter(|_| n > 0))
}

fn ms(ns: u64) -> Option<f64> {
    Some(ns as f64 / 1e6)
}

/// Quantiles in ms; empty where there are too few values.
fn quantiles<const N: usize>(recording: &Recording, slots: &Slots, qs: [f64; N]) -> [Option<f64>; N] {
    let enough = |q: f64| recording.batches >= batches_needed(q);
    qs.map(|q| at_rank(recording, slots, slots.rank(q)).filter(|_| enough(q)))
}

/// The value of a rank in ms, within the exact extremes.
fn at_rank(recording: &Recording, slots: &Slots, rank: u64) -> Option<f64> {
    slots.at_rank(rank).and_then(|ns| ms(ns.clamp(recording.min_ns, recording.max_ns)))
}

/// The window's columns; of one without a batch nothing was measured.
pub fn window(recording: &Recording, warmup_batches: u64) -> Window {
    let warmup_batches = Some(warmup_batches);
    if recording.batches == 0 {
        return Window { warmup_batches, ..Window::default() };
    }
    Window {
        warmup_batches,
        batches: Some(recording.batches),
        batches_common: None,
        elapsed_s: Some((recording.end_ns - recording.start_ns) as f64 / 1e9),
        start_ns: Some(recording.start_ns),
        end_ns: Some(recording.end_ns),
        drift: recording.drift,
        ..Window::default()
    }
}

/// `throughput` = (1000 / mean latency in ms) x batch, for one batch after the other only: with several
/// in flight a latency holds the work of others, and where batches arrive by themselves it says nothing
/// of how many there are. `throughput_wall` = samples / length of the window; operations and bytes by
/// the network's counts for one batch, where batches have one size and the device to themselves.
pub fn rates(latency: &Latency, window: &Window, point: &Point, flops: f64, bytes: f64) -> Rates {
    let mean = latency.mean.filter(|&mean| mean > 0.0);
    let alone = point.inflight == 1 && window.inferences.is_none();
    let per_second = |amount: f64| mean.filter(|_| amount > 0.0 && alone).map(|mean| amount / (mean / 1e3));
    let samples = window.inferences.or(window.batches.map(|batches| batches * point.batch));
    let wall = samples.zip(window.elapsed_s).filter(|&(_, elapsed)| elapsed > 0.0);
    let formula = alone && !arrives(&point.load);
    Rates {
        offered: None,
        throughput: mean.filter(|_| formula).map(|mean| 1000.0 / mean * point.batch as f64),
        throughput_wall: wall.map(|(samples, elapsed)| samples as f64 / elapsed),
        tflops: per_second(flops / 1e12),
        gbytes_per_s: per_second(bytes / 1e9),
    }
}

/// Means and medians of the stage split; empty without one. A stage that no batch had, as the copies
/// under `--no-transfers`, has none.
pub fn stages(stages: &[Stages]) -> StageSummary {
    if stages.is_empty() {
        return StageSummary::default();
    }
    let mean = |part: fn(&Stages) -> u64| {
        let sum: f64 = stages.iter().map(|s| part(s) as f64).sum();
        Some(sum / stages.len() as f64 / 1e6).filter(|_| sum > 0.0)
    };
    let median = |part: fn(&Stages) -> u64| {
        let mut values: Vec<u64> = stages.iter().map(part).collect();
        values.sort_unstable();
        Some(values[values.len().div_ceil(2) - 1] as f64 / 1e6).filter(|&ms| ms > 0.0)
    };
    StageSummary {
        h2d_mean: mean(|s| s.h2d_ns),
        compute_mean: mean(|s| s.compute_ns),
        compute_p50: median(|s| s.compute_ns),
        d2h_mean: mean(|s| s.d2h_ns),
        enqueue_p50: median(|s| s.enqueue_ns),
        batches: Some(stages.len() as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::recorder::Recorder;

    #[test]
    fn loadgens_numbers() {
        let needed = [0.5, 0.9, 0.95, 0.99, 0.999].map(batches_needed);
        assert_eq!(needed, [11, 64, 130, 662, 6636]);
    }

    #[test]
    fn the_bound_covers_as_often_as_it_says() {
        // By direct summation of the binomial, for small n where nothing underflows.
        let cdf = |n: u64, k: u64, p: f64| {
            let mut term = (1.0 - p).powi(n as i32);
            let mut sum = term;
            for i in 1..=k {
                term *= (n - i + 1) as f64 / i as f64 * p / (1.0 - p);
                sum += term;
            }
            sum
        };
        for (n, q) in
            [(662, 0.99), (700, 0.99), (5_000, 0.99), (64, 0.9), (1_000, 0.9), (11, 0.5), (900, 0.5)]
        {
            let rank = upper_bound_rank(n, q).unwrap();
            let k = n - rank;
            assert!(k >= 1, "{n} {q}");
            assert!(cdf(n, k, 1.0 - q) <= 0.01 && cdf(n, k + 1, 1.0 - q) > 0.01, "{n} {q}: {rank}");
        }
        assert_eq!(upper_bound_rank(661, 0.99), None);
        let rank = upper_bound_rank(10_000_000, 0.99).unwrap();
        // Normal approximation: n q + 2.326 sqrt(n q (1 - q)).
        assert!((rank as f64 - 9_900_000.0 - 2.326 * 314.64).abs() < 3.0, "{rank}");
    }

    fn recorded(latencies: impl Iterator<Item = u64>) -> Recording {
        let mut recorder = Recorder::new();
        recorder.open(5);
        let mut now = 5;
        for latency in latencies {
            recorder.record(now, now + latency);
            now += latency;
        }
        recorder.finish()
    }

    #[test]
    fn the_mission_formula_holds_exactly() {
        let recording = recorded((0..1000).map(|i| if i % 20 == 0 { 9_000_000 } else { 1_000_000 }));
        let (latency, _) = latency(&recording, 1).unwrap();
        let window = window(&recording, 3);
        let mut point = Point { batch: 32, inflight: 1, load: "closed".into(), ..Point::default() };
        let rates = super::rates(&latency, &window, &point, 1e9, 0.0);
        assert_eq!(latency.mean, Some(1.4));
        assert_eq!(rates.throughput, Some(1000.0 / 1.4 * 32.0));
        assert_eq!(rates.throughput_wall, Some(32.0 * 1000.0 / 1.4));
        assert!((rates.tflops.unwrap() - 1e-3 / 1.4e-3).abs() < 1e-12);
        assert_eq!(rates.gbytes_per_s, None);
        assert_eq!((latency.min, latency.max), (Some(1.0), Some(9.0)));
        assert_eq!(latency.p99, Some(9.0), "clamped to the exact maximum");
        point.inflight = 2;
        let rates = super::rates(&latency, &window, &point, 1e9, 0.0);
        assert_eq!((rates.throughput, rates.tflops), (None, None), "claimed for one in flight only");
        assert_eq!(rates.throughput_wall, Some(32.0 * 1000.0 / 1.4));
    }

    #[test]
    fn too_few_batches_leave_a_percentile_empty() {
        let (latency, _) = latency(&recorded((0..661).map(|i| 1_000_000 + i)), 1).unwrap();
        assert!(latency.p95.is_some() && latency.p99.is_none() && latency.p99_upper.is_none());
        let (latency, _) = super::latency(&recorded(std::iter::empty()), 1).unwrap();
        assert_eq!(latency, Latency::default());
    }

    #[test]
    fn a_recording_that_contradicts_itself_is_refused() {
        let good = recorded((0..100).map(|_| 1_000));
        for spoil in [
            |r: &mut Recording| r.batches += 1,
            |r: &mut Recording| r.end_ns = r.start_ns + 1,
            |r: &mut Recording| r.end_ns = 0,
            |r: &mut Recording| r.max_ns = 999,
            |r: &mut Recording| r.min_ns = 1_001,
            |r: &mut Recording| r.histogram.truncate(8),
        ] {
            let mut bad = good.clone();
            spoil(&mut bad);
            assert!(latency(&bad, 1).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn stage_means_and_medians() {
        let split = |ns| Stages { h2d_ns: ns, compute_ns: 10 * ns, d2h_ns: 1, enqueue_ns: ns };
        let summary = stages(&[split(1_000_000), split(2_000_000), split(6_000_000)]);
        assert_eq!(
            (summary.h2d_mean, summary.compute_p50, summary.batches),
            (Some(3.0), Some(20.0), Some(3))
        );
        let uncopied = stages(&[Stages { h2d_ns: 0, d2h_ns: 0, ..split(5_000_000) }]);
        assert_eq!((uncopied.h2d_mean, uncopied.compute_mean, uncopied.d2h_mean), (None, Some(50.0), None));
        let copies = stages(&[Stages { compute_ns: 0, ..split(5_000_000) }]);
        assert_eq!((copies.h2d_mean, copies.compute_mean, copies.compute_p50), (Some(5.0), None, None));
        assert_eq!(stages(&[]), StageSummary::default());
    }
}
