//! All that a window records: latency and response of its batches, their sizes, how late they were.
//!
//! Everything is allocated before the window opens; nothing here reads a clock.

use super::intervals::{Intervals, Metric};
use super::load::{Load, Strain};
use super::precision::{Known, Precision, lag};
use super::protocol::FromWorker;
use super::recorder::{Recorder, Recording};
use super::resident;
use super::stopping::Rule;
use serde::{Deserialize, Serialize};
use std::io;

/// A batch is late by the harness's fault when it was issued so long after both its arrival and its
/// lane were there, or this share of its service time.
const LATE_NS: u64 = 50_000;
const LATE_SHARE: u64 = 100;

/// How many responses are kept one by one, to see how long they depend on each other.
const MOST_SERIES: usize = 1 << 18;

/// One batch, all times in ns on the window's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch<'a> {
    /// When its arrivals were intended, ascending; empty under a closed load.
    pub intended: &'a [u64],
    /// When it should have been issued: the batch was complete and its lane free.
    pub due: u64,
    /// Before its input copy.
    pub issued: u64,
    /// Its output is on the host.
    pub done: u64,
}

/// One line of the log: intended start of the oldest arrival, issue and completion.
pub type Entry = (u64, u64, u64);

/// Takes the batches of a window.
pub struct Records {
    latency: Recorder,
    arrivals: Option<OpenRecords>,
    precision: Option<Precision>,
    intervals: Option<Intervals>,
    log: Option<Vec<Entry>>,
    lanes: u64,
    start: u64,
}

/// What arrivals add.
struct OpenRecords {
    response: Recorder,
    /// Batches of each size, from 1 on, for a server.
    sizes: Vec<u64>,
    late: u64,
    /// The first responses one by one, in ns.
    series: Vec<f32>,
    /// None for arrivals that have an end.
    strain: Option<Strain>,
}

/// What a window may record beside its latencies; the wire form between worker and parent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Extras {
    /// What arrived; none under a closed load.
    pub arrived: Option<Arrived>,
    /// The window ended early: more arrived than can ever be done.
    pub saturated: bool,
    /// Batches under way at once, from the file that a program left behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imported: Option<u32>,
    /// The time stamps of that file are coarser than 1 % of the median latency.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub coarse_times: bool,
    /// How well mean and p99 are known, where that was asked for.
    pub known: Option<Known>,
    /// The device's clock just before and just after it, in MHz, where it can be read.
    #[serde(default)]
    pub sm_clock_mhz: Vec<f64>,
}

/// What arrived in a window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Arrived {
    /// From the intended start; one a batch under an open load, one a sample under a server load.
    pub response: Recording,
    /// (samples, batches) of each batch size that occurred under a server load.
    pub batch_sizes: Vec<(u64, u64)>,
    /// Batches that the harness issued late.
    pub late_batches: u64,
    /// How far apart responses are that hardly depend on each other; none for too few.
    pub lag: Option<u64>,
}

impl Records {
    /// Of a window under this load, with batches of up to `batch` samples on `lanes` lanes.
    pub fn new(load: &Load, batch: usize, lanes: usize) -> Records {
        let arrivals = load.arrivals().map(|arrivals| OpenRecords {
            response: Recorder::new(),
            sizes: vec![0; if load.is_server() { batch + 1 } else { 0 }],
            late: 0,
            series: resident::empty(MOST_SERIES),
            strain: arrivals.are_endless().then(Strain::default),
        });
        Records {
            latency: Recorder::new(),
            arrivals,
            precision: None,
            intervals: None,
            log: None,
            lanes: lanes as u64,
            start: 0,
        }
    }

    /// Hands in the histogram of each second, too.
    ///
    /// # Errors
    /// The thread that sends them cannot be created.
    pub fn keep_intervals(&mut self, send: impl FnMut(FromWorker) + Send + 'static) -> io::Result<()> {
        let metrics: &[Metric] =
            if self.arrivals.is_some() { &[Metric::Latency, Metric::Response] } else { &[Metric::Latency] };
        self.intervals = Some(Intervals::new(metrics, send)?);
        Ok(())
    }

    /// The window is over: returns when every interval is handed in.
    pub fn finish_intervals(&mut self) {
        let end = self.latency.end();
        if let Some(intervals) = self.intervals.take() {
            intervals.finish(end);
        }
    }

    /// Judges, as it goes, how well mean and p99 are known, where the rule asks for it: of responses
    /// where batches arrive by a schedule, else of latencies.
    pub fn know(&mut self, rule: &Rule) {
        self.precision = rule.precision.map(|target| Precision::new(target, rule.min_batches));
    }

    /// Are mean and p99 known as well as was asked for?
    #[inline]
    pub fn is_settled(&self) -> bool {
        self.precision.as_ref().is_some_and(Precision::is_settled)
    }

    /// Keeps the first `most` batches one by one, too.
    pub fn keep_log(&mut self, most: usize) {
        self.log = Some(resident::empty(most));
    }

    /// The batches that were kept.
    pub fn log(&self) -> &[Entry] {
        self.log.as_deref().unwrap_or_default()
    }

    /// The window opens.
    pub fn open(&mut self, start: u64) {
        self.start = start;
        self.latency.open(start);
        if let Some(arrivals) = &mut self.arrivals {
            arrivals.response.open(start);
        }
        if let Some(intervals) = &mut self.intervals {
            intervals.open(start);
        }
    }

    /// The window ends, not with a batch: in wait of one, or because it was cut.
    pub fn close(&mut self, end: u64) {
        self.latency.close(end);
        if let Some(arrivals) = &mut self.arrivals {
            arrivals.response.close(end);
        }
    }

    /// Number of batches so far.
    #[inline]
    pub fn count(&self) -> u64 {
        self.latency.count()
    }

    /// A batch under a closed load.
    #[inline]
    pub fn closed(&mut self, issued: u64, done: u64) {
        self.latency.record(issued, done);
        if let Some(intervals) = &mut self.intervals {
            intervals.add(Metric::Latency, done - issued, done);
        }
        if let Some(precision) = &mut self.precision
            && precision.add(done - issued)
        {
            precision.look(|q| self.latency.quantile(q));
        }
        if let Some(log) = &mut self.log {
            push(log, (issued, issued, done));
        }
    }

    /// A batch. True when the load is hopelessly beyond the lanes.
    pub fn add(&mut self, batch: &Batch) -> bool {
        self.latency.record(batch.issued, batch.done);
        if let Some(intervals) = &mut self.intervals {
            intervals.add(Metric::Latency, batch.done - batch.issued, batch.done);
            for intended in batch.intended {
                intervals.add(Metric::Response, batch.done - intended, batch.done);
            }
        }
        if let Some(log) = &mut self.log {
            push(log, (batch.intended.first().copied().unwrap_or(batch.issued), batch.issued, batch.done));
        }
        let (Some(arrivals), Some(&last)) = (&mut self.arrivals, batch.intended.last()) else {
            if let Some(precision) = &mut self.precision
                && precision.add(batch.done - batch.issued)
            {
                precision.look(|q| self.latency.quantile(q));
            }
            return false;
        };
        for &intended in batch.intended {
            arrivals.response.record(intended, batch.done);
            if arrivals.series.len() < MOST_SERIES {
                arrivals.series.push((batch.done - intended) as f32);
            }
            if let Some(precision) = &mut self.precision
                && precision.add(batch.done - intended)
            {
                precision.look(|q| arrivals.response.quantile(q));
            }
        }
        if let Some(batches) = arrivals.sizes.get_mut(batch.intended.len()) {
            *batches += 1;
        }
        let service = batch.done - batch.issued;
        if batch.issued - batch.due > LATE_NS.max(service / LATE_SHARE) {
            arrivals.late += 1;
        }
        let (lanes, start) = (self.lanes, self.start);
        let waited = batch.issued - last;
        arrivals.strain.as_mut().is_some_and(|strain| strain.add(lanes, last - start, waited, service))
    }

    /// The latencies, as they go to the parent.
    pub fn latency(&self) -> Recording {
        self.latency.finish()
    }

    /// How well mean and p99 are known at the end; none where nobody asked.
    pub fn known(&mut self) -> Option<Known> {
        let recorder = self.arrivals.as_ref().map_or(&self.latency, |arrivals| &arrivals.response);
        let precision = self.precision.as_mut()?;
        precision.look(|q| recorder.quantile(q));
        Some(precision.known().clone())
    }

    /// What arrived, as it goes to the parent; none under a closed load.
    pub fn arrived(&self) -> Option<Arrived> {
        let arrivals = self.arrivals.as_ref()?;
        let sizes = arrivals.sizes.iter().enumerate().filter(|(_, batches)| **batches > 0);
        Some(Arrived {
            response: arrivals.response.finish(),
            batch_sizes: sizes.map(|(size, &batches)| (size as u64, batches)).collect(),
            late_batches: arrivals.late,
            lag: lag(&arrivals.series),
        })
    }
}

/// Within what was allocated.
#[inline]
fn push(log: &mut Vec<Entry>, entry: Entry) {
    if log.len() < log.capacity() {
        log.push(entry);
    }
}

#[cfg(test)]
mod tests {
    use super::super::load::Arrivals;
    use super::*;

    #[test]
    fn late_is_the_harness_and_not_the_queue() {
        let load = Load::Open { arrivals: Arrivals::Constant(1.0) };
        let mut records = Records::new(&load, 1, 1);
        records.open(0);
        let mut late_after = |due, issued, done| {
            records.add(&Batch { intended: &[0], due, issued, done });
            records.arrived().unwrap().late_batches
        };
        assert_eq!(late_after(0, 50_000, 1_050_000), 0);
        assert_eq!(late_after(0, 50_001, 1_050_000), 1);
        assert_eq!(late_after(900_000, 900_000, 1_900_000), 1, "it waited for the lane");
        assert_eq!(late_after(0, 100_000, 10_100_000), 1, "1 % of 10 ms");
        assert_eq!(late_after(0, 100_001, 10_100_000), 2);
    }

    #[test]
    fn sizes_and_responses_of_a_server_are_counted_by_sample() {
        let load = Load::Server { arrivals: Arrivals::Constant(1.0), max_delay_ns: 0 };
        let mut records = Records::new(&load, 4, 1);
        records.keep_log(1);
        records.open(100);
        records.add(&Batch { intended: &[100, 120, 130], due: 130, issued: 130, done: 230 });
        records.add(&Batch { intended: &[231], due: 231, issued: 231, done: 331 });
        let arrived = records.arrived().unwrap();
        assert_eq!(arrived.batch_sizes, [(1, 1), (3, 1)]);
        assert_eq!((arrived.response.batches, arrived.response.sum_ns), (4, 130 + 110 + 100 + 100));
        assert_eq!((records.latency().batches, records.latency().sum_ns), (2, 200));
        assert_eq!(records.log(), [(100, 130, 230)], "no more than was asked for");
        assert_eq!(Records::new(&Load::Closed, 4, 1).arrived(), None);
    }
}
