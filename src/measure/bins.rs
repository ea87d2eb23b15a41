//! Completions over time, in bins that double in width when time outlasts them, and the longest pauses
//! between them.

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
        let completions = bins.iter().map(|bin| bin.0).collect();
        LoadLog { start_ns, end_ns, bin_ns: self.width, completions, ..LoadLog::default() }
    }

    fn used(&self, elapsed: u64) -> &[(u32, u64)] {
        &self.bins[..((elapsed / self.width + 1) as usize).min(BINS)]
    }
}

/// For how long all workers of a run may load together before their windows open, at most, and the time in
/// which a worker hears of it.
pub const LONGEST_COMMON_LOAD_NS: u64 = 11_000_000_000;
/// Pauses that are kept. A limit on pauses is 250 ms at least, so that the 10 s in which all load before
/// the window hold 40 of them at most; the others are those of the window.
const PAUSES: usize = 256;
/// Shorter pauses are not looked at: whoever judges pauses allows 250 ms of them.
pub const LEAST_PAUSE_NS: u64 = 10_000_000;
/// The last latencies before the window, of which the median is the length of a batch.
const LATENCIES: usize = 64;

/// Records everything that a worker loads its device with, from its readiness on; allocates nothing
/// after [`LoadRecorder::new`].
#[derive(Clone, Debug)]
pub struct LoadRecorder {
    start: u64,
    end: u64,
    bins: Bins,
    /// The longest pauses, in no order.
    pauses: Vec<Pause>,
    /// The longest pause for which there was no room.
    dropped_ns: u64,
    latencies: Vec<u64>,
    batches: usize,
    /// Median latency before the window opened; 0 as long as it has not.
    batch_ns: u64,
}

impl LoadRecorder {
    /// Creates an empty recorder; the load begins `now`.
    pub fn new(now: u64) -> LoadRecorder {
        LoadRecorder {
            start: now,
            end: now,
            bins: Bins::new(),
            pauses: resident::empty(PAUSES),
            dropped_ns: 0,
            latencies: resident::filled(LATENCIES),
            batches: 0,
            batch_ns: 0,
        }
    }

    /// Forgets everything but how long batches are; the load begins `now`.
    pub fn restart(&mut self, now: u64) {
        let latencies = std::mem::take(&mut self.latencies);
        *self = LoadRecorder { latencies, batches: self.batches, ..LoadRecorder::new(now) };
    }

    /// Notes how long a batch took that is no part of the load: one of the warm-up.
    #[inline]
    pub fn note_latency(&mut self, latency: u64) {
        self.latencies[self.batches % LATENCIES] = latency;
        self.batches += 1;
    }

    /// Records a batch. From `due` on (or from the end of the batch before it, where that is later)
    /// something was due or in flight: `due` is 0 where that was always so.
    #[inline]
    pub fn add(&mut self, due: u64, issued: u64, done: u64) {
        let begin = self.end.max(due);
        if done.saturating_sub(begin) >= LEAST_PAUSE_NS {
            self.pause(Pause { start_ns: begin, end_ns: done });
        }
        self.end = done;
        self.note_latency(done - issued);
        self.bins.add(done - self.start, done - issued);
    }

    #[cold]
    fn pause(&mut self, pause: Pause) {
        if self.pauses.len() < PAUSES {
            self.pauses.push(pause);
            return;
        }
        let Some(shortest) = self.pauses.iter_mut().min_by_key(|pause| pause.length_ns()) else { return };
        let dropped =
            if pause.length_ns() > shortest.length_ns() { std::mem::replace(shortest, pause) } else { pause };
        self.dropped_ns = self.dropped_ns.max(dropped.length_ns());
    }

    /// Makes room for what is to be judged: drops the pauses that ended before this moment.
    pub fn forget_pauses_before(&mut self, moment: u64) {
        self.pauses.retain(|pause| pause.end_ns > moment);
        self.dropped_ns = 0;
    }

    /// Notes the length of a batch: the window opens.
    pub fn open_window(&mut self) {
        let seen = &mut self.latencies[..self.batches.min(LATENCIES)];
        seen.sort_unstable();
        self.batch_ns = seen.get(seen.len() / 2).copied().unwrap_or(0);
    }

    /// End of the last batch, or the start.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Everything, as it goes to the parent.
    pub fn log(&self) -> LoadLog {
        LoadLog {
            pauses: self.pauses.clone(),
            dropped_ns: self.dropped_ns,
            batch_ns: self.batch_ns,
            ..self.bins.log(self.start, self.end)
        }
    }
}

/// A time in which a batch was due or in flight and none completed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// CLOCK_MONOTONIC ns.
    pub start_ns: u64,
    /// When the next batch completed, CLOCK_MONOTONIC ns.
    pub end_ns: u64,
}

impl Pause {
    /// Its length.
    pub fn length_ns(&self) -> u64 {
        self.end_ns - self.start_ns
    }

    /// Does any of it lie between these moments?
    pub fn touches(&self, from_ns: u64, to_ns: u64) -> bool {
        self.start_ns < to_ns && from_ns < self.end_ns
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
    /// The longest pauses of at least [`LEAST_PAUSE_NS`], in no order.
    #[serde(default)]
    pub pauses: Vec<Pause>,
    /// The longest pause that is not among them although it is as long as that; 0 if there is none.
    #[serde(default)]
    pub dropped_ns: u64,
    /// Median latency of the last batches before the window, those of the warm-up included; 0 if there were none.
    #[serde(default)]
    pub batch_ns: u64,
}

impl LoadLog {
    /// The longest pause that touches the time between two moments, if any was long enough to be kept.
    pub fn longest_pause(&self, from_ns: u64, to_ns: u64) -> Option<Pause> {
        let inside = self.pauses.iter().filter(|pause| pause.touches(from_ns, to_ns));
        inside.max_by_key(|pause| pause.length_ns()).copied()
    }

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
        let bin = |moment: u64| (moment.saturating_sub(self.start_ns) / self.bin_ns.max(1)) as usize;
        let last = bin(to_ns).min(self.completions.len().saturating_sub(1));
        let touched = self.completions.iter().enumerate().take(last + 1).skip(bin(from_ns));
        touched.map(share).sum()
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

    const MS: u64 = 1_000_000;

    #[test]
    fn a_pause_lasts_from_when_a_batch_was_due_to_the_next_completion() {
        let mut load = LoadRecorder::new(0);
        load.add(0, 0, 5 * MS);
        load.add(0, 5 * MS, 305 * MS);
        // It waited for an arrival until 900 ms: that is no pause.
        load.add(900 * MS, 1_400 * MS, 1_500 * MS);
        load.add(1_509 * MS, 1_509 * MS, 1_518 * MS);
        let log = load.log();
        let pause = |start, end| Pause { start_ns: start * MS, end_ns: end * MS };
        assert_eq!(log.pauses, [pause(5, 305), pause(900, 1_500)]);
        assert_eq!(log.longest_pause(0, 10_000 * MS), Some(pause(900, 1_500)));
        assert_eq!(log.longest_pause(304 * MS, 900 * MS), Some(pause(5, 305)));
        assert_eq!(log.longest_pause(305 * MS, 900 * MS), None);
    }

    #[test]
    fn the_longest_pauses_are_kept_and_the_longest_of_the_others_is_known() {
        let mut load = LoadRecorder::new(0);
        let mut now = 0;
        for i in 0..1_000 {
            let length = (10 + i % 500) * MS;
            load.add(0, now, now + length);
            now += length;
        }
        let log = load.log();
        let least = log.pauses.iter().map(Pause::length_ns).min();
        assert_eq!((log.pauses.len(), least), (PAUSES, Some(382 * MS)));
        assert_eq!(log.dropped_ns, 381 * MS);
        load.forget_pauses_before(now - 600 * MS);
        let log = load.log();
        assert_eq!((log.pauses.len(), log.dropped_ns), (2, 0));
    }

    #[test]
    fn one_standstill_does_not_change_the_length_of_a_batch() {
        let mut load = LoadRecorder::new(0);
        load.open_window();
        assert_eq!(load.log().batch_ns, 0);
        // Where nothing arrives before the window, the warm-up says how long a batch is.
        load.note_latency(7);
        load.restart(0);
        load.open_window();
        assert_eq!(load.log().batch_ns, 7);
        for i in 0..100u64 {
            load.add(0, i * MS, (i + 1) * MS);
        }
        load.add(0, 100 * MS, 3_100 * MS);
        load.open_window();
        assert_eq!(load.log().batch_ns, MS);
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
