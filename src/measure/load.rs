//! How batches arrive. Pure: an iterator of intended start times from a seed, and the queue in front
//! of the lanes.
//!
//! - *closed*: the next batch is issued when a lane is free.
//! - *open*: batches arrive by a schedule that does not care how long they take.
//! - *server*: single samples arrive, and a batcher forms batches of what waits: a batch closes when a
//!   lane is free and the batch is full or its oldest sample has waited for `max_delay`, which is how
//!   Triton's dynamic batcher works.

use crate::machine::decode;
use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::VecDeque;
use std::fmt;

/// The most arrivals of a trace: they travel to the worker in one message.
const MOST_ARRIVALS: usize = 300_000;
/// An open load is hopeless when the last batch waited for longer than this, and than so many
/// services.
const LONG_WAIT_NS: u64 = 1_000_000_000;
const LONG_WAIT_SERVICES: u64 = 50;

/// How batches arrive.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Load {
    /// When a lane is free.
    #[default]
    Closed,
    /// Whole batches, by a schedule.
    Open {
        /// When.
        arrivals: Arrivals,
    },
    /// Single samples, by a schedule, to a batcher.
    Server {
        /// When.
        arrivals: Arrivals,
        /// How long a sample may wait for others, in ns.
        max_delay_ns: u64,
    },
}

/// When they arrive.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arrivals {
    /// Independent of each other, so many a second on average.
    Poisson(f64),
    /// One each 1/rate seconds, from 0 on.
    Constant(f64),
    /// Given times in ns from the start, ascending.
    Trace(Vec<u64>),
}

impl Load {
    /// The schedule; none of a closed load.
    pub fn arrivals(&self) -> Option<&Arrivals> {
        match self {
            Load::Closed => None,
            Load::Open { arrivals } | Load::Server { arrivals, .. } => Some(arrivals),
        }
    }

    /// Do samples arrive singly?
    pub fn is_server(&self) -> bool {
        matches!(self, Load::Server { .. })
    }

    /// The most arrivals that become one batch of up to `batch` samples.
    pub fn most_in_batch(&self, batch: usize) -> usize {
        if self.is_server() { batch } else { 1 }
    }

    /// The batch sizes that can occur.
    pub fn batch_sizes(&self, batch: usize) -> Vec<usize> {
        if self.is_server() { (1..=batch).collect() } else { vec![batch] }
    }

    /// The same load at another rate; a trace is stretched or squeezed.
    pub fn at_rate(&self, rate: f64) -> Load {
        let mut load = self.clone();
        if let Load::Open { arrivals } | Load::Server { arrivals, .. } = &mut load {
            match arrivals {
                Arrivals::Poisson(old) | Arrivals::Constant(old) => *old = rate,
                Arrivals::Trace(times) => {
                    let factor = arrivals_per_s(times) / rate;
                    times.iter_mut().for_each(|time| *time = (*time as f64 * factor).round() as u64);
                }
            }
        }
        load
    }
}

impl fmt::Display for Load {
    /// The spelling of rows: `closed`, `open(rate=100,arrivals=poisson)`,
    /// `server(rate=100,arrivals=poisson,max_delay_ms=2)`.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Load::Closed => f.write_str("closed"),
            Load::Open { arrivals } => write!(f, "open({arrivals})"),
            Load::Server { arrivals, max_delay_ns } => {
                write!(f, "server({arrivals},max_delay_ms={})", *max_delay_ns as f64 / 1e6)
            }
        }
    }
}

impl fmt::Display for Arrivals {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Arrivals::Poisson(rate) => write!(f, "rate={rate},arrivals=poisson"),
            Arrivals::Constant(rate) => write!(f, "rate={rate},arrivals=constant"),
            Arrivals::Trace(times) => {
                let mut hash = Sha256::new();
                times.iter().for_each(|time| hash.update(time.to_le_bytes()));
                let hash = hash.finalize();
                let hash = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]);
                write!(f, "rate={:.6},arrivals=trace:{hash:08x}", arrivals_per_s(times))
            }
        }
    }
}

impl Arrivals {
    /// Arrivals per second, on average.
    pub fn rate(&self) -> f64 {
        match self {
            Arrivals::Poisson(rate) | Arrivals::Constant(rate) => *rate,
            Arrivals::Trace(times) => arrivals_per_s(times),
        }
    }

    /// Do they go on for as long as the window is open? A trace has an end, and is played up to there.
    pub fn are_endless(&self) -> bool {
        !matches!(self, Arrivals::Trace(_))
    }

    /// Reads a trace: seconds from the start, one a line, ascending.
    ///
    /// # Errors
    /// A line that is no such number, none at all, or too many.
    pub fn parse_trace(text: &str) -> Result<Arrivals> {
        let mut times = Vec::new();
        for (number, line) in decode::lines(text) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let Ok(seconds) = line.parse::<f64>() else {
                bail!(
                    "line {number}: '{line}' is no number of seconds (a trace holds one a line, from its start; \
                     # begins a comment)"
                );
            };
            if !(0.0..1e9).contains(&seconds) {
                bail!("line {number}: {line} s is not from 0 on, in seconds from the start of the trace");
            }
            let time = (seconds * 1e9).round() as u64;
            if times.last().is_some_and(|&last| last > time) {
                bail!("line {number}: {line} s is before the line above: sort the trace");
            }
            times.push(time);
        }
        ensure!(!times.is_empty(), "no arrivals in it");
        ensure!(
            times.len() <= MOST_ARRIVALS,
            "{} arrivals are more than {MOST_ARRIVALS}: split the trace",
            times.len()
        );
        Ok(Arrivals::Trace(times))
    }

    /// The intended times in ns from the start.
    pub fn schedule(&self, seed: u64) -> Schedule<'_> {
        Schedule { arrivals: self, index: 0, at: 0.0, random: fastrand::Rng::with_seed(seed) }
    }
}

fn arrivals_per_s(times: &[u64]) -> f64 {
    times.len() as f64 / (times.last().copied().unwrap_or(0).max(1) as f64 / 1e9)
}

/// Intended start times, ascending; without end, but for a trace.
#[derive(Clone, Debug)]
pub struct Schedule<'a> {
    arrivals: &'a Arrivals,
    index: u64,
    at: f64,
    random: fastrand::Rng,
}

impl Iterator for Schedule<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let index = self.index;
        self.index += 1;
        match self.arrivals {
            Arrivals::Poisson(rate) => {
                self.at -= (1.0 - self.random.f64()).ln() * 1e9 / rate;
                Some(self.at.round() as u64)
            }
            // Not a sum: after a day it would be off.
            Arrivals::Constant(rate) => Some((index as f64 * 1e9 / rate).round() as u64),
            Arrivals::Trace(times) => times.get(usize::try_from(index).ok()?).copied(),
        }
    }
}

/// What a free lane is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Issue a batch of so many arrivals, as it should have been at `due`, had a lane been free.
    Now {
        /// ns from the start.
        due: u64,
        /// At least 1.
        count: usize,
    },
    /// Look again at this time, in ns from the start.
    At(u64),
    /// Nothing more arrives.
    Never,
}

/// Arrivals that wait for a lane.
///
/// Only the next batch's are held: whatever waits behind them has its place in the schedule.
#[derive(Clone, Debug)]
pub struct Queue<'a> {
    schedule: Schedule<'a>,
    pending: VecDeque<u64>,
    most: usize,
    max_delay: u64,
}

impl<'a> Queue<'a> {
    /// In front of lanes that take batches of up to `batch` samples; none for a closed load.
    pub fn new(load: &'a Load, batch: usize, seed: u64) -> Option<Queue<'a>> {
        let most = load.most_in_batch(batch);
        let max_delay = match load {
            Load::Server { max_delay_ns, .. } => *max_delay_ns,
            _ => 0,
        };
        let schedule = load.arrivals()?.schedule(seed);
        Some(Queue { schedule, pending: VecDeque::with_capacity(most), most, max_delay })
    }

    /// Draws the arrivals of the next batch, if it is not done already: [`next`](Queue::next) need not
    /// do it then, with a lane waiting.
    pub fn refill(&mut self) {
        let room = self.most - self.pending.len();
        self.pending.extend(self.schedule.by_ref().take(room));
    }

    /// What a lane that is free `now` (ns from the start) is to do.
    pub fn next(&mut self, now: u64) -> Next {
        self.refill();
        let Some(&oldest) = self.pending.front() else { return Next::Never };
        let mut due = oldest.saturating_add(self.max_delay);
        if let Some(&last) = self.pending.get(self.most - 1) {
            due = due.min(last);
        }
        if due > now {
            return Next::At(due);
        }
        let count = self.pending.iter().take_while(|&&arrival| arrival <= now).count();
        Next::Now { due, count }
    }

    /// Takes the oldest `count` arrivals.
    pub fn take(&mut self, count: usize, taken: &mut Vec<u64>) {
        taken.clear();
        taken.extend(self.pending.drain(..count));
    }
}

/// Notices a load that offers more than the lanes can do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Strain {
    batches: u64,
    service: u64,
}

impl Strain {
    /// A batch whose oldest arrival was intended at `intended` ns from the start waited so long for
    /// its issue and was then served for `service`. True when it is hopeless: the wait is long, and
    /// the lanes have worked for longer than it took the load to arrive.
    pub fn add(&mut self, lanes: u64, intended: u64, waited: u64, service: u64) -> bool {
        self.batches += 1;
        self.service += service;
        let long = LONG_WAIT_NS.max(LONG_WAIT_SERVICES * (self.service / self.batches) / lanes);
        waited > long && self.service > lanes.saturating_mul(intended)
    }
}

/// When each of these arrivals is served by one server that takes them in order (D. V. Lindley, 1952,
/// Mathematical Proceedings of the Cambridge Philosophical Society 48:277-289): at its arrival, or when
/// the one before it is done.
pub fn lindley(arrivals: impl IntoIterator<Item = (u64, u64)>) -> impl Iterator<Item = u64> {
    let mut free = 0;
    arrivals.into_iter().map(move |(arrival, service)| {
        let start = free.max(arrival);
        free = start + service;
        start
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn open(arrivals: Arrivals) -> Load {
        Load::Open { arrivals }
    }

    #[test]
    fn constant_arrivals_do_not_wander() {
        let times: Vec<u64> = Arrivals::Constant(3.0).schedule(1).take(4).collect();
        assert_eq!(times, [0, 333_333_333, 666_666_667, 1_000_000_000]);
        let arrivals = Arrivals::Constant(30_000.0);
        let last = arrivals.schedule(1).nth(30_000 * 3600).unwrap();
        assert_eq!(last, 3_600_000_000_000);
    }

    #[test]
    fn poisson_arrivals_have_exponential_gaps_and_belong_to_their_seed() {
        let arrivals = Arrivals::Poisson(1000.0);
        let times: Vec<u64> = arrivals.schedule(7).take(100_000).collect();
        assert_eq!(times, arrivals.schedule(7).take(100_000).collect::<Vec<_>>());
        assert_ne!(times[..10], arrivals.schedule(8).take(10).collect::<Vec<_>>()[..]);
        let gaps: Vec<f64> = times.windows(2).map(|w| (w[1] - w[0]) as f64 / 1e6).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        assert!((mean - 1.0).abs() < 0.015, "{mean}");
        // Exceeds t with probability e^-t.
        for t in [0.1, 1.0, 3.0] {
            let share = gaps.iter().filter(|&&gap| gap > t).count() as f64 / gaps.len() as f64;
            assert!((share - f64::exp(-t)).abs() < 0.006, "{t}: {share}");
        }
    }

    #[test]
    fn a_trace_is_read_or_refused_by_its_line() {
        let trace = Arrivals::parse_trace("# two\n0\n\n0.5\n0.5\n1.25\n").unwrap();
        assert_eq!(trace, Arrivals::Trace(vec![0, 500_000_000, 500_000_000, 1_250_000_000]));
        assert!((trace.rate() - 3.2).abs() < 1e-12);
        let error = |text: &str| Arrivals::parse_trace(text).unwrap_err().to_string();
        assert!(error("1\nx").starts_with("line 2: 'x' is no number of seconds (a trace holds one a line"));
        assert!(error("0,5").starts_with("line 1: '0,5' is no number of seconds"));
        assert_eq!(error("1\n0.5"), "line 2: 0.5 s is before the line above: sort the trace");
        assert!(error("-1").starts_with("line 1: -1 s is not from 0 on"));
        assert!(error("NaN").starts_with("line 1: NaN s is not from 0 on"));
        assert_eq!(error(""), "no arrivals in it");
    }

    #[test]
    fn a_trace_of_another_system_is_the_same() {
        let trace = Arrivals::parse_trace("0\n0.5\n1.25\n").unwrap();
        for text in ["\u{feff}0\r\n0.5\r\n1.25\r\n", "0\r0.5\r1.25", "0\n\n 0.5\t\n1.25"] {
            assert_eq!(Arrivals::parse_trace(text).unwrap(), trace, "{text:?}");
        }
    }

    #[test]
    fn a_load_is_spelt_in_one_way() {
        let server = Load::Server { arrivals: Arrivals::Poisson(1500.0), max_delay_ns: 2_500_000 };
        for (load, text) in [
            (Load::Closed, "closed"),
            (open(Arrivals::Poisson(0.5)), "open(rate=0.5,arrivals=poisson)"),
            (open(Arrivals::Constant(100.0)), "open(rate=100,arrivals=constant)"),
            (server.clone(), "server(rate=1500,arrivals=poisson,max_delay_ms=2.5)"),
        ] {
            assert_eq!(load.to_string(), text);
            let json = serde_json::to_string(&load).unwrap();
            assert_eq!(serde_json::from_str::<Load>(&json).unwrap(), load);
        }
        let trace = open(Arrivals::Trace(vec![0, 1_000_000_000]));
        assert!(trace.to_string().starts_with("open(rate=2.000000,arrivals=trace:"));
        assert_ne!(trace.to_string(), open(Arrivals::Trace(vec![1, 1_000_000_000])).to_string());
        assert_eq!(trace.at_rate(4.0), open(Arrivals::Trace(vec![0, 500_000_000])));
        assert_eq!(server.batch_sizes(3), [1, 2, 3]);
        assert_eq!(Load::Closed.batch_sizes(3), [3]);
    }

    #[test]
    fn the_batcher_closes_a_full_batch_or_an_old_one() {
        let load = Load::Server { arrivals: Arrivals::Trace(vec![10, 20, 30, 100, 500]), max_delay_ns: 50 };
        let mut queue = Queue::new(&load, 3, 1).unwrap();
        let mut taken = Vec::new();
        assert_eq!(queue.next(0), Next::At(30), "full at the third, before the first is 50 old");
        assert_eq!(queue.next(30), Next::Now { due: 30, count: 3 });
        queue.take(3, &mut taken);
        assert_eq!(taken, [10, 20, 30]);
        assert_eq!(queue.next(120), Next::At(150));
        assert_eq!(queue.next(160), Next::Now { due: 150, count: 1 }, "found late");
        queue.take(1, &mut taken);
        assert_eq!(queue.next(160), Next::At(550));
        queue.take(1, &mut taken);
        assert_eq!(queue.next(600), Next::Never);
    }

    #[test]
    fn a_load_beyond_the_lanes_is_noticed_and_one_below_is_not() {
        let strain = |rate: f64, lanes: u64, n: usize| {
            let arrivals = Arrivals::Poisson(rate);
            let mut strain = Strain::default();
            let service = 1_000_000;
            let mut free = vec![0u64; lanes as usize];
            arrivals.schedule(3).take(n).position(|arrival| {
                let lane = free.iter_mut().min().unwrap();
                let start = (*lane).max(arrival);
                *lane = start + service;
                strain.add(lanes, arrival, start - arrival, service)
            })
        };
        assert!(strain(1100.0, 1, 100_000).unwrap() < 20_000);
        assert!(strain(2200.0, 2, 100_000).unwrap() < 40_000);
        assert_eq!(strain(980.0, 1, 200_000), None);
        assert_eq!(strain(1900.0, 2, 200_000), None);
        // A burst that the lanes will work off is none.
        let mut burst = Strain::default();
        assert!(!(0..3000).any(|i| burst.add(1, 10_000_000_000, i * 1_000_000, 1_000_000)));
    }

    /// Pollaczek-Khinchine for constant service: the mean wait is ρ/(2(1-ρ)) services.
    #[test]
    fn waits_are_those_of_theory() {
        for utilisation in [0.5, 0.8] {
            let (mut sum, seeds, n) = (0.0, 10, 100_000);
            for seed in 0..seeds {
                let arrivals = Arrivals::Poisson(utilisation * 1000.0);
                let jobs: Vec<_> = arrivals.schedule(seed).take(n).map(|a| (a, 1_000_000)).collect();
                sum +=
                    lindley(jobs.iter().copied()).zip(&jobs).map(|(s, (a, _))| (s - a) as f64).sum::<f64>();
            }
            let mean = sum / (seeds as usize * n) as f64 / 1e6;
            let theory = utilisation / (2.0 * (1.0 - utilisation));
            assert!((mean / theory - 1.0).abs() < 0.03, "{utilisation}: {mean} {theory}");
        }
    }

    proptest! {
        /// Each arrival is taken once, in order, in a batch that is not too large and not too early.
        #[test]
        fn the_batcher_loses_nothing(
            gaps in prop::collection::vec(0u64..100, 1..200),
            batch in 1usize..9,
            max_delay_ns in 0u64..150,
            services in prop::collection::vec(1u64..300, 1..5),
        ) {
            let times: Vec<u64> = gaps.iter().scan(0, |t, gap| { *t += gap; Some(*t) }).collect();
            let load = Load::Server { arrivals: Arrivals::Trace(times.clone()), max_delay_ns };
            let mut queue = Queue::new(&load, batch, 0).unwrap();
            let (mut now, mut all, mut taken, mut i) = (0, Vec::<u64>::new(), Vec::new(), 0);
            loop {
                match queue.next(now) {
                    Next::Never => break,
                    Next::At(at) => { prop_assert!(at > now); now = at }
                    Next::Now { due, count } => {
                        queue.take(count, &mut taken);
                        prop_assert!((1..=batch).contains(&count) && due <= now && *taken.last().unwrap() <= now);
                        prop_assert!(count == batch || now >= taken[0] + max_delay_ns);
                        all.extend(&taken);
                        now += services[i % services.len()];
                        i += 1;
                    }
                }
            }
            prop_assert_eq!(all, times);
        }
    }
}
