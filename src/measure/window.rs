//! The loop that is timed: batches issued on lanes as the load wants them.

use super::bins::{LoadLog, LoadRecorder};
use super::clock::Clock;
use super::load::{Load, Next, Queue};
use super::records::{Batch, Records};
use super::resident;
use super::stopping::Rule;
use crate::workload::{Stages, Workload};
use anyhow::Result;
use std::cell::Cell;
use std::collections::VecDeque;
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
    /// Batches outside the window so far, and operations whose output was checked after it.
    pub unmeasured: AtomicU64,
    /// Batches of the window so far.
    pub batches: AtomicU64,
}

/// How a window ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By its rule, with a batch or in wait of one, or with the last arrival of a trace.
    Rule,
    /// Because it was cut.
    Cut,
    /// Because more arrived than the lanes can ever do.
    Saturated,
}

/// Least batches and time of the warm-up: clocks rise, caches fill, lazily loaded code is loaded.
pub(super) const WARM_UP_BATCHES: u64 = 10;
pub(super) const WARM_UP_NS: u64 = 1_000_000_000;
/// The stage split takes at least and at most so many batches, and no longer than a second.
const STAGE_BATCHES: std::ops::RangeInclusive<usize> = 10..=200;
const STAGE_NS: u64 = 1_000_000_000;
/// A reading of the clock takes 1 ms: it is made where no batch is due for so long.
const ROOM_NS: u64 = 3_000_000;
/// Between two readings of the clock, and how many are kept.
const CLOCK_NS: u64 = 1_000_000_000;
const MOST_CLOCKS: usize = 4096;
/// A wait for the next arrival is interrupted this often, to look at what the parent wants.
const SLICE_NS: u64 = 1_000_000;

/// What a window puts on its lanes.
#[derive(Clone, Debug)]
pub struct Task {
    /// How batches arrive.
    pub load: Load,
    /// Samples in a batch; the most in one, under a server load.
    pub batch: usize,
    /// Batches in flight.
    pub lanes: usize,
    /// Of the arrivals.
    pub seed: u64,
    /// Read the device's clock between batches, once a second.
    pub clock_samples: bool,
    /// Poll for completions, where several lanes are looked after; else sleep in between.
    pub spin: bool,
}

impl Task {
    /// One batch after the other.
    pub fn closed(batch: usize) -> Task {
        Task { load: Load::Closed, batch, lanes: 1, seed: 0, clock_samples: false, spin: true }
    }
}

/// One workload under one load on one clock.
pub struct Window<'a, C: Clock> {
    clock: &'a C,
    workload: &'a mut dyn Workload,
    control: &'a Control,
    task: &'a Task,
    lanes: Vec<Lane>,
    /// The lanes that are busy, in the order of issue.
    busy: VecDeque<usize>,
    /// The batch that was done last. Counting it waits until the next one is on its way: what comes
    /// between the two makes every arrival behind them late.
    last: Flight,
    is_counted: bool,
    /// Every batch since the worker was ready, measured or not.
    log: LoadRecorder,
    /// Readings of the device's clock within a window, and when the next is due.
    clocks: Vec<f64>,
    next_clock: Option<u64>,
}

/// What carries one batch at a time.
struct Lane {
    /// Its batch, or the one before.
    flight: Flight,
    busy: bool,
}

/// A [`Batch`] under way.
struct Flight {
    intended: Vec<u64>,
    due: u64,
    issued: u64,
    done: u64,
    /// From when on this batch, or another that was in flight when it was done, was due.
    pending: u64,
}

impl<'a, C: Clock> Window<'a, C> {
    /// Nothing has run yet; the workload is prepared for the task's batch sizes and lanes.
    pub fn new(clock: &'a C, workload: &'a mut dyn Workload, task: &'a Task, control: &'a Control) -> Self {
        let now = clock.now();
        let most = task.load.most_in_batch(task.batch);
        let flight =
            || Flight { intended: resident::empty(most), due: now, issued: now, done: now, pending: now };
        Window {
            clock,
            workload,
            control,
            task,
            lanes: (0..task.lanes).map(|_| Lane { flight: flight(), busy: false }).collect(),
            busy: VecDeque::with_capacity(task.lanes),
            last: flight(),
            is_counted: true,
            log: LoadRecorder::new(now),
            clocks: resident::empty(MOST_CLOCKS),
            next_clock: None,
        }
    }

    /// One whole batch on the first lane, unmeasured.
    pub fn load_once(&mut self) -> Result<()> {
        let issued = self.clock.now();
        self.workload.issue(0, self.task.batch)?;
        self.workload.wait(0)?;
        // Under a closed load the next batch is always due.
        let due = if self.task.load == Load::Closed { 0 } else { issued };
        self.log.add(due, issued, self.clock.now());
        self.control.unmeasured.fetch_add(1, Relaxed);
        Ok(())
    }

    /// From now on the load counts: the worker is ready.
    pub fn start_log(&mut self) {
        self.log.restart(self.clock.now());
    }

    /// The load since [`start_log`](Window::start_log).
    pub fn log(&self) -> LoadLog {
        self.log.log()
    }

    /// Drops the pauses that ended before this moment: nobody will ask for them.
    pub fn forget_pauses_before(&mut self, moment: u64) {
        self.log.forget_pauses_before(moment);
    }

    /// At least 10 batches and 1 s, one after the other and each size and lane in turn, or until told
    /// to stop; returns the number of batches.
    pub fn warm_up(&mut self) -> Result<u64> {
        let start = self.clock.now();
        let sizes = self.task.load.batch_sizes(self.task.batch);
        let each = (sizes.len() * self.task.lanes) as u64;
        let mut batches = 0;
        while batches < WARM_UP_BATCHES.max(each) || self.clock.now() - start < WARM_UP_NS {
            if self.control.stop.load(Relaxed) {
                break;
            }
            let (lane, size) = (batches as usize % self.task.lanes, batches as usize / self.task.lanes);
            let issued = self.clock.now();
            self.workload.issue(lane, sizes[size % sizes.len()])?;
            self.workload.wait(lane)?;
            self.log.note_latency(self.clock.now() - issued);
            self.control.unmeasured.fetch_add(1, Relaxed);
            batches += 1;
        }
        Ok(batches)
    }

    /// Loads the device as the task says, unmeasured, while it is wanted. A trace is begun again when
    /// it is over.
    pub fn load_while(&mut self, mut wanted: impl FnMut(&C, &Control) -> bool) -> Result<()> {
        let one_by_one = self.task.load == Load::Closed && self.task.lanes == 1;
        let mut pass = 0;
        while wanted(self.clock, self.control) {
            if one_by_one {
                self.load_once()?;
                continue;
            }
            // Other arrivals than the window's.
            let seed = !self.task.seed ^ pass;
            let control = self.control;
            let start = self.clock.now();
            self.serve(start, seed, &Cell::new(u64::MAX), &mut wanted, |_| {
                control.unmeasured.fetch_add(1, Relaxed);
                None
            })?;
            pass += 1;
        }
        Ok(())
    }

    /// The device's clock, read while no batch is in flight.
    pub fn sm_clock_mhz(&mut self) -> Result<Option<f64>> {
        self.workload.sm_clock_mhz()
    }

    /// Measures: from now to the batch that ends the window, or to the window's limit where that is met
    /// in wait of an arrival. The latency of a batch runs from before its issue to its output on the
    /// host, its response from its intended start.
    pub fn measure(&mut self, rule: Rule, records: &mut Records) -> Result<Ended> {
        self.log.open_window();
        let start = self.clock.now();
        self.next_clock = self.task.clock_samples.then_some(start + CLOCK_NS);
        records.open(start);
        if self.task.load == Load::Closed && self.task.lanes == 1 {
            return self.measure_one_by_one(start, rule, records);
        }
        let control = self.control;
        let wanted = |_: &C, control: &Control| !control.cut.load(Relaxed);
        let limit = Cell::new(start.saturating_add(rule.limit_ns(0, false)));
        let (ended, waited) = self.serve(start, self.task.seed, &limit, wanted, |batch| {
            let hopeless = records.add(&batch);
            control.batches.store(records.count(), Relaxed);
            limit.set(start.saturating_add(rule.limit_ns(records.count(), records.is_settled())));
            if batch.done >= limit.get() { Some(Ended::Rule) } else { hopeless.then_some(Ended::Saturated) }
        })?;
        if let Some(end) = waited {
            records.close(end);
        }
        Ok(ended)
    }

    /// Readings of the device's clock within the window.
    pub fn clocks(&self) -> &[f64] {
        &self.clocks
    }

    #[cold]
    fn sample_clock(&mut self, now: u64) -> Result<()> {
        self.next_clock = Some(now + CLOCK_NS);
        if self.clocks.len() < MOST_CLOCKS
            && let Some(mhz) = self.workload.sm_clock_mhz()?
        {
            self.clocks.push(mhz);
        }
        Ok(())
    }

    /// The shortest way from one batch to the next.
    fn measure_one_by_one(&mut self, start: u64, rule: Rule, records: &mut Records) -> Result<Ended> {
        loop {
            let issued = self.clock.now();
            self.workload.issue(0, self.task.batch)?;
            self.workload.wait(0)?;
            let done = self.clock.now();
            records.closed(issued, done);
            self.log.add(0, issued, done);
            self.control.batches.store(records.count(), Relaxed);
            if rule.ends(done - start, records.count(), records.is_settled()) {
                return Ok(Ended::Rule);
            }
            if self.next_clock.is_some_and(|at| done >= at) {
                self.sample_clock(done)?;
            }
            if self.control.cut.load(Relaxed) {
                return Ok(Ended::Cut);
            }
        }
    }

    /// Issues batches on free lanes as they arrive, and hands each that is done to `on_done`, until
    /// that says how it ends, nothing more arrives, `limit` passes while none is in flight, or it is no
    /// longer wanted. No batch is in flight before or after. Returns how it ended, and when if that was
    /// not with a batch.
    fn serve(
        &mut self,
        start: u64,
        seed: u64,
        limit: &Cell<u64>,
        mut wanted: impl FnMut(&C, &Control) -> bool,
        mut on_done: impl FnMut(Batch) -> Option<Ended>,
    ) -> Result<(Ended, Option<u64>)> {
        let task = self.task;
        let mut queue = Queue::new(&task.load, task.batch, seed);
        self.lanes.iter_mut().for_each(|lane| lane.flight.done = start);
        let (mut ended, mut waited) = (None, None);
        while ended.is_none() {
            let mut next = None;
            if let Some(lane) = self.free_lane() {
                match self.decide(queue.as_mut(), start) {
                    Next::Now { due, count } => {
                        self.issue(lane, queue.as_mut(), start, due, count)?;
                        if let Some(queue) = &mut queue {
                            queue.refill();
                        }
                        ended = self.count(&mut on_done);
                        continue;
                    }
                    Next::At(at) => next = Some(start.saturating_add(at)),
                    Next::Never if self.busy.is_empty() && self.is_counted => break,
                    Next::Never => {}
                }
            }
            if !self.is_counted {
                ended = self.count(&mut on_done);
                continue;
            }
            if !wanted(self.clock, self.control) {
                (ended, waited) = (Some(Ended::Cut), Some(self.clock.now()));
            } else if self.busy.is_empty() {
                let now = self.clock.now();
                if now >= limit.get() {
                    (ended, waited) = (Some(Ended::Rule), Some(now));
                    continue;
                }
                if self.next_clock.is_some_and(|at| now >= at) && next.is_none_or(|next| next > now + ROOM_NS)
                {
                    self.sample_clock(now)?;
                    continue;
                }
                let slice = limit.get().min(self.clock.now() + SLICE_NS);
                self.clock.wait_until(next.map_or(slice, |next| next.min(slice)));
            } else if let Some(lane) = self.finished(next)? {
                self.finish(lane);
            }
        }
        while let Some(lane) = self.busy.pop_front() {
            self.workload.wait(lane)?;
            self.finish(lane);
            self.count(&mut |_| None);
        }
        Ok((ended.unwrap_or(Ended::Rule), waited))
    }

    /// The lane that has been free for longest.
    fn free_lane(&self) -> Option<usize> {
        let free = self.lanes.iter().enumerate().filter(|(_, lane)| !lane.busy);
        free.min_by_key(|(_, lane)| lane.flight.done).map(|(index, _)| index)
    }

    fn decide(&self, queue: Option<&mut Queue>, start: u64) -> Next {
        match queue {
            Some(queue) => queue.next(self.clock.now() - start),
            None => Next::Now { due: 0, count: 0 },
        }
    }

    fn issue(
        &mut self,
        lane: usize,
        queue: Option<&mut Queue>,
        start: u64,
        due: u64,
        count: usize,
    ) -> Result<()> {
        let Lane { flight, busy } = &mut self.lanes[lane];
        if let Some(queue) = queue {
            queue.take(count, &mut flight.intended);
            flight.intended.iter_mut().for_each(|intended| *intended += start);
        }
        let size = if self.task.load.is_server() { count } else { self.task.batch };
        // The lane's last batch left its time of completion.
        flight.due = (start + due).max(flight.done);
        *busy = true;
        flight.issued = self.clock.now();
        self.workload.issue(lane, size)?;
        self.busy.push_back(lane);
        Ok(())
    }

    /// A lane whose batch is done, the oldest first; none before the next arrival.
    fn finished(&mut self, next: Option<u64>) -> Result<Option<usize>> {
        if self.lanes.len() == 1 {
            self.workload.wait(0)?;
            self.busy.clear();
            return Ok(Some(0));
        }
        for place in 0..self.busy.len() {
            let lane = self.busy[place];
            if self.workload.is_done(lane)? {
                self.busy.remove(place);
                return Ok(Some(lane));
            }
        }
        self.clock.idle(next, self.task.spin);
        Ok(None)
    }

    /// The lane's batch is done.
    fn finish(&mut self, lane: usize) {
        let in_flight = self.lanes.iter().filter(|lane| lane.busy).map(|lane| lane.flight.due);
        // Under a closed load the next batch is always due.
        let pending = if self.task.load == Load::Closed { 0 } else { in_flight.min().unwrap_or(0) };
        let Lane { flight, busy } = &mut self.lanes[lane];
        (flight.done, flight.pending) = (self.clock.now(), pending);
        *busy = false;
        std::mem::swap(flight, &mut self.last);
        flight.done = self.last.done;
        self.is_counted = false;
    }

    /// Hands in the batch that was done last, unless that has happened.
    fn count(&mut self, on_done: &mut impl FnMut(Batch) -> Option<Ended>) -> Option<Ended> {
        if self.is_counted {
            return None;
        }
        let Flight { intended, due, issued, done, pending } = &self.last;
        self.is_counted = true;
        self.log.add(*pending, *issued, *done);
        on_done(Batch { intended, due: *due, issued: *issued, done: *done })
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
            match self.workload.staged(0, self.task.batch)? {
                Some(split) => stages.push(split),
                None => break,
            }
            self.log.add(0, issued, self.clock.now());
        }
        Ok(stages)
    }
}

#[cfg(test)]
mod tests;
