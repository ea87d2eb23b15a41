//! What a window records of its batches: an HDR histogram, and beside it what a histogram rounds.

use super::bins::Bins;
use super::resident;
use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};
use serde::{Deserialize, Serialize};

/// Shortest latency that is told apart, in ns.
pub const LOWEST_NS: u64 = 1;
/// Longest latency that is recorded as it is, in ns: one hour.
pub const HIGHEST_NS: u64 = 3_600_000_000_000;
/// Significant decimal digits of a recorded latency.
pub const DIGITS: u8 = 3;
/// Takes the latency of each batch; allocates nothing after [`Recorder::new`].
pub struct Recorder {
    histogram: Histogram<u64>,
    count: u64,
    min: u64,
    max: u64,
    sum: u64,
    sum_of_squares: u128,
    out_of_range: u64,
    start: u64,
    end: u64,
    bins: Bins,
}

/// What a window recorded, exactly as measured; the wire form between worker and parent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Recording {
    /// When the window opened, CLOCK_MONOTONIC ns.
    pub start_ns: u64,
    /// End of the last batch, or of the wait for the next, CLOCK_MONOTONIC ns.
    pub end_ns: u64,
    /// Number of batches.
    pub batches: u64,
    /// Shortest latency.
    pub min_ns: u64,
    /// Longest latency.
    pub max_ns: u64,
    /// Sum of all latencies.
    pub sum_ns: u64,
    /// Population variance of the latencies, ns².
    pub variance_ns2: f64,
    /// Batches outside 1 ns to 1 hour, recorded at the nearer end.
    pub out_of_range: u64,
    /// V2-deflate, base64.
    pub histogram: String,
    /// Mean latency of the batches that completed in the last third of the window over that of the
    /// first third, minus 1; none when a third is empty.
    pub drift: Option<f64>,
}

impl Recorder {
    /// An empty recorder whose window starts at `start` (ns).
    pub fn new() -> Recorder {
        Recorder {
            histogram: resident::histogram(),
            count: 0,
            min: u64::MAX,
            max: 0,
            sum: 0,
            sum_of_squares: 0,
            out_of_range: 0,
            start: 0,
            end: 0,
            bins: Bins::new(),
        }
    }

    /// The window opens now; nothing may have been recorded yet.
    pub fn open(&mut self, start: u64) {
        (self.start, self.end) = (start, start);
    }

    /// When the window opened.
    pub fn started(&self) -> u64 {
        self.start
    }

    /// One batch from `issued` to `done`, both ns on the window's clock.
    #[inline]
    pub fn record(&mut self, issued: u64, done: u64) {
        let latency = done - issued;
        if !(LOWEST_NS..=HIGHEST_NS).contains(&latency) {
            self.out_of_range += 1;
        }
        self.histogram.saturating_record(latency.max(LOWEST_NS));
        self.count += 1;
        self.min = self.min.min(latency);
        self.max = self.max.max(latency);
        self.sum += latency;
        self.sum_of_squares += u128::from(latency) * u128::from(latency);
        self.end = done;
        self.bins.add(done - self.start, latency);
    }

    /// Number of batches so far.
    #[inline]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The window ends now, after the last batch.
    pub fn close(&mut self, end: u64) {
        self.end = end;
    }

    /// End of the last batch, or the start; once it is closed, of the window.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// HDR's ceil rank, in ns.
    pub fn quantile(&self, q: f64) -> f64 {
        self.histogram.value_at_quantile(q) as f64
    }

    /// Everything, as it goes to the parent.
    pub fn finish(&self) -> Recording {
        Recording {
            start_ns: self.start,
            end_ns: self.end,
            batches: self.count,
            min_ns: if self.count == 0 { 0 } else { self.min },
            max_ns: self.max,
            sum_ns: self.sum,
            variance_ns2: self.variance(),
            out_of_range: self.out_of_range,
            histogram: encode(&self.histogram),
            drift: self.bins.drift(self.end - self.start),
        }
    }

    /// (n·Σx² - (Σx)²) / n², in integers up to the division: no cancellation.
    fn variance(&self) -> f64 {
        if self.count == 0 {
            return 0.0;
        }
        let (n, sum) = (u128::from(self.count), u128::from(self.sum));
        match (n.checked_mul(self.sum_of_squares), sum.checked_mul(sum)) {
            (Some(a), Some(b)) => (a - b) as f64 / (n as f64 * n as f64),
            // Only beyond 10^7 batches of an hour each.
            _ => self.sum_of_squares as f64 / n as f64 - (sum as f64 / n as f64).powi(2),
        }
    }
}

impl Default for Recorder {
    fn default() -> Recorder {
        Recorder::new()
    }
}

/// A histogram as text: HdrHistogram's V2 format, deflated, base64.
pub fn encode(histogram: &Histogram<u64>) -> String {
    let mut bytes = Vec::new();
    V2DeflateSerializer::new().serialize(histogram, &mut bytes).expect("a Vec takes every byte");
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes)
}

/// The inverse of [`encode`].
///
/// # Errors
/// Text that is not base64, or bytes that are no histogram.
pub fn decode(text: &str) -> Result<Histogram<u64>> {
    let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text)
        .context("the histogram is not base64")?;
    Deserializer::new()
        .deserialize(&mut bytes.as_slice())
        .map_err(|e| anyhow::anyhow!("not an HdrHistogram in V2 format: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(latencies: &[u64]) -> Recording {
        let mut recorder = Recorder::new();
        let mut now = 1_000;
        recorder.open(now);
        for &latency in latencies {
            recorder.record(now, now + latency);
            now += latency;
        }
        recorder.finish()
    }

    #[test]
    fn sums_are_exact() {
        let recording = record(&[1, 2, 3, 1_000_000_007]);
        assert_eq!((recording.batches, recording.min_ns, recording.max_ns), (4, 1, 1_000_000_007));
        assert_eq!(recording.sum_ns, 1_000_000_013);
        assert_eq!((recording.start_ns, recording.end_ns), (1_000, 1_000_001_013));
        let equal = record(&[123_456_789; 1000]);
        assert_eq!(equal.variance_ns2, 0.0);
        assert_eq!(record(&[1, 3]).variance_ns2, 1.0);
    }

    #[test]
    fn out_of_range_is_counted_not_lost() {
        let recording = record(&[0, 5, HIGHEST_NS + 1]);
        assert_eq!((recording.batches, recording.out_of_range), (3, 2));
        assert_eq!(decode(&recording.histogram).unwrap().len(), 3);
        assert_eq!((recording.min_ns, recording.max_ns), (0, HIGHEST_NS + 1));
    }

    #[test]
    fn drift_compares_the_last_third_with_the_first() {
        let mut latencies = vec![10_000_000; 300];
        assert_eq!(record(&latencies).drift.map(|d| d.abs() < 1e-9), Some(true));
        latencies[200..].fill(11_000_000);
        let drift = record(&latencies).drift.unwrap();
        assert!((drift - 0.1).abs() < 0.005, "{drift}");
        assert_eq!(record(&[1]).drift, None);
    }

    proptest! {
        #[test]
        fn a_histogram_survives_its_text(latencies in prop::collection::vec(1u64..10_000_000_000, 1..200)) {
            let recording = record(&latencies);
            let histogram = decode(&recording.histogram).unwrap();
            prop_assert_eq!(histogram.len(), latencies.len() as u64);
            let mut sorted = latencies.clone();
            sorted.sort_unstable();
            let median = sorted[latencies.len().div_ceil(2) - 1];
            prop_assert!(histogram.equivalent(histogram.value_at_quantile(0.5), median));
        }

        #[test]
        fn any_text_is_refused_without_a_panic(text in "\\PC{0,200}") {
            let _ = decode(&text);
        }
    }
}
