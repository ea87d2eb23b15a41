//! The loop that is timed.

use super::bins::{Bins, LoadLog};
use super::clock::Clock;
use super::recorder::Recorder;
use super::stopping::Rule;
use crate::workload::{Stages, Workload};
use anyhow::Result;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// What the parent wants, as the reader thread heard it, and what the progress thread may tell.
#[derive(Debug, Default)]
pub struct Control {
    /// When the window opens, ns on the worker's clock; 0 while nobody has said.
    pub start_at: AtomicU64,
    /// End the window at its next batch.
    pub cut: AtomicBool,
    /// Every window is done: take the stage split.
    pub stages: AtomicBool,
    /// Go home.
    pub stop: AtomicBool,
    /// Batches outside the window so far.
    pub unmeasured: AtomicU64,
    /// Batches of the window so far.
    pub batches: AtomicU64,
}

/// How a window ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By its rule.
    Rule,
    /// Because it was cut.
    Cut,
}

/// Least batches and time of the warm-up: clocks rise, caches fill, lazily loaded code is loaded.
pub(super) const WARM_UP_BATCHES: u64 = 10;
pub(super) const WARM_UP_NS: u64 = 1_000_000_000;
/// The stage split takes at least and at most so many batches, and no longer than a second.
const STAGE_BATCHES: std::ops::RangeInclusive<usize> = 10..=200;
const STAGE_NS: u64 = 1_000_000_000;

/// One workload, on one lane, with one batch size, on one clock.
pub struct Window<'a, C: Clock> {
    /// The clock of all times here.
    pub clock: &'a C,
    /// What runs.
    pub workload: &'a mut dyn Workload,
    /// Samples in a batch.
    pub batch: usize,
    /// Shared with the threads that listen and report.
    pub control: &'a Control,
    load: Load,
}

/// Every batch since the worker was ready, measured or not.
struct Load {
    start: u64,
    end: u64,
    bins: Bins,
}

impl<'a, C: Clock> Window<'a, C> {
    /// Nothing has run yet.
    pub fn new(clock: &'a C, workload: &'a mut dyn Workload, batch: usize, control: &'a Control) -> Self {
        let now = clock.now();
        Window { clock, workload, batch, control, load: Load { start: now, end: now, bins: Bins::new() } }
    }

    /// One batch, unmeasured.
    pub fn load_once(&mut self) -> Result<()> {
        let issued = self.clock.now();
        self.workload.issue(0, self.batch)?;
        self.workload.wait(0)?;
        self.load.add(issued, self.clock.now());
        self.control.unmeasured.fetch_add(1, Relaxed);
        Ok(())
    }

    /// From now on the load counts: the worker is ready.
    pub fn start_log(&mut self) {
        let now = self.clock.now();
        self.load = Load { start: now, end: now, bins: Bins::new() };
    }

    /// The load since [`start_log`](Window::start_log).
    pub fn log(&self) -> LoadLog {
        self.load.bins.log(self.load.start, self.load.end)
    }

    /// At least 10 batches and 1 s, or until told to stop; returns the number of batches.
    pub fn warm_up(&mut self) -> Result<u64> {
        let start = self.clock.now();
        let mut batches = 0;
        while batches < WARM_UP_BATCHES || self.clock.now() - start < WARM_UP_NS {
            if self.control.stop.load(Relaxed) {
                break;
            }
            self.load_once()?;
            batches += 1;
        }
        Ok(batches)
    }

    /// Loads the device, unmeasured, until `until` holds.
    pub fn load_while(&mut self, mut wanted: impl FnMut(&C, &Control) -> bool) -> Result<()> {
        while wanted(self.clock, self.control) {
            self.load_once()?;
        }
        Ok(())
    }

    /// Measures: from the first batch issued now to the one that ends the window. The latency of a
    /// batch runs from before its issue to its output on the host.
    pub fn measure(&mut self, rule: Rule, recorder: &mut Recorder) -> Result<Ended> {
        let start = self.clock.now();
        recorder.open(start);
        loop {
            let issued = self.clock.now();
            self.workload.issue(0, self.batch)?;
            self.workload.wait(0)?;
            let done = self.clock.now();
            recorder.record(issued, done);
            self.load.add(issued, done);
            self.control.batches.store(recorder.count(), Relaxed);
            if rule.is_over(done - start, recorder.count()) {
                return Ok(Ended::Rule);
            }
            if self.control.cut.load(Relaxed) {
                return Ok(Ended::Cut);
            }
        }
    }

    /// The stage split, in a pass of its own because event records cost time; empty where the device
    /// has no stages.
    pub fn split(&mut self) -> Result<Vec<Stages>> {
        let start = self.clock.now();
        let mut stages = Vec::with_capacity(*STAGE_BATCHES.end());
        while stages.len() < *STAGE_BATCHES.end() && !self.control.stop.load(Relaxed) {
            if stages.len() >= *STAGE_BATCHES.start() && self.clock.now() - start > STAGE_NS {
                break;
            }
            let issued = self.clock.now();
            match self.workload.staged(0, self.batch)? {
                Some(split) => stages.push(split),
                None => break,
            }
            self.load.add(issued, self.clock.now());
        }
        Ok(stages)
    }
}

impl Load {
    #[inline]
    fn add(&mut self, issued: u64, done: u64) {
        self.end = done;
        self.bins.add(done - self.start, done - issued);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::clock::Virtual;
    use crate::workload::scripted::Scripted;

    fn run(script: &str, rule: Rule) -> (Recorder, u64) {
        let clock = Virtual::default();
        let advance = clock.clone();
        let mut workload = Scripted::new(script, move |ns| advance.advance(ns)).unwrap();
        let control = Control::default();
        let mut window = Window::new(&clock, &mut workload, 4, &control);
        let warm_up = window.warm_up().unwrap();
        let mut recorder = Recorder::new();
        assert_eq!(window.measure(rule, &mut recorder).unwrap(), Ended::Rule);
        (recorder, warm_up)
    }

    #[test]
    fn scripted_times_are_recorded_to_the_nanosecond() {
        let (recorder, warm_up) = run("times=1ms:3ms", Rule::given(None, Some(1001)));
        let recording = recorder.finish();
        // 1 s of pairs of 4 ms; the window then begins with a 1 ms batch.
        assert_eq!(warm_up, 500);
        assert_eq!(recording.batches, 1001);
        assert_eq!(recording.sum_ns, 501 * 1_000_000 + 500 * 3_000_000);
        assert_eq!(recording.end_ns - recording.start_ns, recording.sum_ns);
    }

    #[test]
    fn a_slow_batch_still_warms_up_ten_times() {
        assert_eq!(run("times=2s", Rule::given(None, Some(1))).1, 10);
    }

    #[test]
    fn the_default_window_ends_by_time_and_batches() {
        let (recorder, _) = run("times=1ms", Rule::DEFAULT);
        assert_eq!(recorder.count(), 10_000);
        let (recorder, _) = run("times=20ms", Rule::DEFAULT);
        assert_eq!(recorder.count(), 700);
        let (recorder, _) = run("times=7s", Rule::DEFAULT);
        assert_eq!(recorder.count(), 9); // 63 s: the batch that crosses the cap is the last
    }

    #[test]
    fn a_cut_window_keeps_what_it_measured() {
        let clock = Virtual::default();
        let advance = clock.clone();
        let mut workload = Scripted::new("times=1ms", move |ns| advance.advance(ns)).unwrap();
        let control = Control::default();
        control.cut.store(true, Relaxed);
        let mut window = Window::new(&clock, &mut workload, 1, &control);
        let mut recorder = Recorder::new();
        assert_eq!(window.measure(Rule::DEFAULT, &mut recorder).unwrap(), Ended::Cut);
        assert_eq!(recorder.count(), 1);
    }
}
