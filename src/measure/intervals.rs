//! Histograms of each second of a window, for `--hlog`: recorded on the timed thread, written on
//! another.
//!
//! Two histograms take turns. The timed thread swaps them once a second, without waiting: when the other
//! one is not back yet, it goes on with the one it has, and that interval is longer.

use super::protocol::FromWorker;
use super::recorder::{LOWEST_NS, encode};
use super::resident;
use crate::machine::thread;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

/// Length of an interval.
const EVERY_NS: u64 = 1_000_000_000;

/// What a histogram is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// Service times.
    Latency,
    /// From the scheduled start.
    Response,
}

impl Metric {
    /// As tags name it.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Latency => "latency",
            Metric::Response => "response",
        }
    }
}

/// One interval; the wire form between worker and parent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Of what.
    pub metric: Metric,
    /// Its start on CLOCK_MONOTONIC, in ns.
    pub start_ns: u64,
    /// Its end.
    pub end_ns: u64,
    /// V2-deflate, base64.
    pub histogram: String,
}

struct Full {
    metric: Metric,
    start: u64,
    end: u64,
    histogram: Histogram<u64>,
}

/// The timed thread's side.
pub struct Intervals {
    metrics: Vec<Turn>,
    writer: Option<JoinHandle<()>>,
}

struct Turn {
    metric: Metric,
    start: u64,
    current: Histogram<u64>,
    full: SyncSender<Full>,
    empty: Receiver<Histogram<u64>>,
}

impl Intervals {
    /// Of these metrics; each interval is handed to `send` on a thread of its own.
    ///
    /// # Errors
    /// That thread cannot be created.
    pub fn new(
        metrics: &[Metric],
        mut send: impl FnMut(FromWorker) + Send + 'static,
    ) -> io::Result<Intervals> {
        let (full, to_write) = sync_channel::<Full>(4);
        let mut turns = Vec::new();
        let mut back = Vec::new();
        for &metric in metrics {
            let (give, empty) = sync_channel(2);
            give.try_send(resident::histogram()).expect("it has room for two");
            back.push((metric, give));
            turns.push(Turn { metric, start: 0, current: resident::histogram(), full: full.clone(), empty });
        }
        let writer = thread::start("intervals", move || {
            while let Ok(Full { metric, start, end, mut histogram }) = to_write.recv() {
                let text = encode(&histogram);
                send(FromWorker::Interval(Interval {
                    metric,
                    start_ns: start,
                    end_ns: end,
                    histogram: text,
                }));
                histogram.reset();
                if let Some((_, give)) = back.iter().find(|(of, _)| *of == metric) {
                    let _ = give.try_send(histogram);
                }
            }
        })?;
        Ok(Intervals { metrics: turns, writer: Some(writer) })
    }

    /// The window opens.
    pub fn open(&mut self, start: u64) {
        self.metrics.iter_mut().for_each(|turn| turn.start = start);
    }

    /// A value that was known at `now`.
    #[inline]
    pub fn add(&mut self, metric: Metric, value: u64, now: u64) {
        let Some(turn) = self.metrics.iter_mut().find(|turn| turn.metric == metric) else { return };
        if now >= turn.start + EVERY_NS {
            turn.swap(now);
        }
        turn.current.saturating_record(value.max(LOWEST_NS));
    }

    /// The window is over: hands in what is left, and returns when all is written.
    pub fn finish(mut self, end: u64) {
        for turn in self.metrics.drain(..) {
            if !turn.current.is_empty() {
                let Turn { metric, start, current, full, .. } = turn;
                let _ = full.send(Full { metric, start, end, histogram: current });
            }
        }
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl Turn {
    #[cold]
    fn swap(&mut self, now: u64) {
        // Whole seconds from the start, as far as they are over.
        let end = self.start + (now - self.start) / EVERY_NS * EVERY_NS;
        let Ok(other) = self.empty.try_recv() else { return };
        let histogram = std::mem::replace(&mut self.current, other);
        let full = Full { metric: self.metric, start: self.start, end, histogram };
        match self.full.try_send(full) {
            Ok(()) => self.start = end,
            // The writer is far behind: this interval goes on.
            Err(TrySendError::Full(full) | TrySendError::Disconnected(full)) => self.current = full.histogram,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::recorder::decode;
    use std::sync::{Arc, Mutex};

    #[test]
    fn every_value_is_in_one_interval() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&heard);
        let mut intervals = Intervals::new(&[Metric::Latency, Metric::Response], move |message| {
            let FromWorker::Interval(interval) = message else { panic!("an interval") };
            sink.lock().unwrap().push(interval);
        })
        .unwrap();
        intervals.open(500);
        for i in 0..4000 {
            let now = 500 + (i + 1) * 1_000_000;
            intervals.add(Metric::Latency, 1_000_000, now);
            intervals.add(Metric::Response, 2_000_000, now);
        }
        intervals.finish(4_000_000_500);
        let heard = heard.lock().unwrap();
        for (metric, value) in [(Metric::Latency, 1_000_000), (Metric::Response, 2_000_000)] {
            let of: Vec<_> = heard.iter().filter(|interval| interval.metric == metric).collect();
            let histograms: Vec<_> = of.iter().map(|i| decode(&i.histogram).unwrap()).collect();
            assert_eq!(histograms.iter().map(Histogram::len).sum::<u64>(), 4000);
            assert!(histograms.iter().all(|h| h.value_at_quantile(0.5) == h.highest_equivalent(value)));
            assert_eq!((of[0].start_ns, of.last().unwrap().end_ns), (500, 4_000_000_500));
            assert!(of.windows(2).all(|pair| pair[0].end_ns == pair[1].start_ns));
            assert!(of.len() > 1, "some second was handed in on the way");
        }
    }
}
