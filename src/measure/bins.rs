//! Completions over time, in bins that double in width when time outlasts them.

use super::resident;
use serde::{Deserialize, Serialize};

/// Number of bins.
const BINS: usize = 1024;
/// Width of a bin at first: 1024 of them hold the default window of 10 s.
const FIRST_WIDTH_NS: u64 = 10_000_000;

/// Batches by their time of completion; allocates nothing after [`Bins::new`].
#[derive(Clone, Debug)]
pub struct Bins {
    width: u64,
    /// (batches, sum of their latencies in ns).
    bins: Vec<(u32, u64)>,
}

impl Default for Bins {
    fn default() -> Bins {
        Bins::new()
    }
}

impl Bins {
    /// Empty.
    pub fn new() -> Bins {
        Bins { width: FIRST_WIDTH_NS, bins: resident::filled(BINS) }
    }

    /// One batch that ended `since_start` ns after the start.
    #[inline]
    pub fn add(&mut self, since_start: u64, latency: u64) {
        let mut index = since_start / self.width;
        while index >= BINS as u64 {
            self.halve();
            index = since_start / self.width;
        }
        let bin = &mut self.bins[index as usize];
        bin.0 += 1;
        bin.1 += latency;
    }

    #[cold]
    fn halve(&mut self) {
        for i in 0..BINS / 2 {
            let (a, b) = (self.bins[2 * i], self.bins[2 * i + 1]);
            self.bins[i] = (a.0 + b.0, a.1 + b.1);
        }
        self.bins[BINS / 2..].fill((0, 0));
        self.width *= 2;
    }

    /// Mean latency of the last third of `elapsed` ns over that of the first third, minus 1; none when
    /// a third is empty.
    pub fn drift(&self, elapsed: u64) -> Option<f64> {
        let bins = self.used(elapsed);
        let third = bins.len() / 3;
        let mean = |bins: &[(u32, u64)]| {
            let count: u64 = bins.iter().map(|bin| u64::from(bin.0)).sum();
            let sum: u64 = bins.iter().map(|bin| bin.1).sum();
            (count > 0).then(|| sum as f64 / count as f64)
        };
        Some(mean(&bins[bins.len() - third..])? / mean(&bins[..third])? - 1.0)
    }

    /// What happened between `start_ns` and `end_ns`, for the parent.
    pub fn log(&self, start_ns: u64, end_ns: u64) -> LoadLog {
        let bins = self.used(end_ns - start_ns);
        LoadLog { start_ns, end_ns, bin_ns: self.width, completions: bins.iter().map(|bin| bin.0).collect() }
    }

    fn used(&self, elapsed: u64) -> &[(u32, u64)] {
        &self.bins[..((elapsed / self.width + 1) as usize).min(BINS)]
    }
}

/// When a worker loaded its device, and how much: the proof that a neighbour was really there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadLog {
    /// First issue, CLOCK_MONOTONIC ns.
    pub start_ns: u64,
    /// Last completion so far, CLOCK_MONOTONIC ns.
    pub end_ns: u64,
    /// Width of a bin.
    pub bin_ns: u64,
    /// Completions in each bin from `start_ns` on.
    pub completions: Vec<u32>,
}

impl LoadLog {
    /// The process was there, and what it did is not known: a program that reports no batches.
    pub fn is_unknown(&self) -> bool {
        self.completions.is_empty()
    }

    /// Completions between two moments; a bin that lies across one of them counts in proportion.
    pub fn between(&self, from_ns: u64, to_ns: u64) -> f64 {
        let share = |(i, &count): (usize, &u32)| {
            let start = self.start_ns + i as u64 * self.bin_ns;
            // The last bin ends where the log does.
            let end = (start + self.bin_ns).min(self.end_ns.max(start + 1));
            let common = end.min(to_ns).saturating_sub(start.max(from_ns));
            f64::from(count) * common as f64 / (end - start) as f64
        };
        self.completions.iter().enumerate().map(share).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_double_and_lose_nothing() {
        let mut bins = Bins::new();
        for i in 1..=300 {
            bins.add(i * 500_000_000, 500_000_000); // 150 s
        }
        let log = bins.log(7, 7 + 150_000_000_000);
        assert_eq!(log.bin_ns, 160_000_000);
        assert_eq!(log.completions.iter().sum::<u32>(), 300);
    }

    #[test]
    fn completions_between_two_moments() {
        let mut bins = Bins::new();
        for i in 1..=1000 {
            bins.add(i * 1_000_000, 1_000_000); // one a millisecond for a second
        }
        let log = bins.log(0, 1_000_000_000);
        assert!((log.between(0, 2_000_000_000) - 1000.0).abs() < 1e-9);
        assert!((log.between(250_000_000, 500_000_000) - 250.0).abs() < 1.5);
        assert!((log.between(253_000_000, 258_000_000) - 5.0).abs() < 1.5);
        assert_eq!(log.between(2_000_000_000, 3_000_000_000), 0.0);
        assert_eq!(LoadLog::default().between(0, 5), 0.0);
    }
}
