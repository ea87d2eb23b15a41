//! What the harness itself costs, for `migbench selftest`: each figure with its limit, where it has one.

use super::clock::{Clock, Monotonic};
use super::load::{Arrivals, Load};
use super::protocol::{self, FromWorker, ToWorker};
use super::recorder::Recorder;
use super::records::Records;
use super::stopping::Rule;
use super::window::{Control, Task, Window};
use crate::workload::{Settings, Spec, Workload, cpu, cuda};
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::io::{BufRead, Write};

/// One figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Of what.
    pub what: Cow<'static, str>,
    /// How much.
    pub value: f64,
    /// In which unit.
    pub unit: Cow<'static, str>,
    /// What it must not exceed on an idle machine.
    pub limit: Option<f64>,
}

impl Cost {
    /// A figure without a limit.
    pub fn new(what: &'static str, value: f64, unit: &'static str) -> Cost {
        Cost { what: what.into(), value, unit: unit.into(), limit: None }
    }

    /// With what it must not exceed.
    pub fn at_most(mut self, limit: f64) -> Cost {
        self.limit = Some(limit);
        self
    }

    /// Is it beyond its limit?
    pub fn is_beyond(&self) -> bool {
        self.limit.is_some_and(|limit| self.value > limit)
    }
}

/// Rounds of which a median is taken, and calls in each.
const ROUNDS: usize = 20;
const CALLS: u64 = 10_000;
/// How long the open loop runs, at 1,000 batches a second.
const OPEN_NS: u64 = 2_000_000_000;

/// The median over rounds of the mean time of a call, in ns.
fn time(mut call: impl FnMut()) -> f64 {
    let round = |_| {
        let start = Monotonic.now();
        (0..CALLS).for_each(|_| call());
        (Monotonic.now() - start) as f64 / CALLS as f64
    };
    median((0..ROUNDS).map(round).collect())
}

/// The middle one; 0 of none.
pub fn median(values: Vec<f64>) -> f64 {
    quantile(values, 0.5)
}

/// The value of a rank; 0 of none.
pub fn quantile(mut values: Vec<f64>, q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (q * values.len() as f64).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

/// Clock, recorder, the closed and the open loop: what happens within one process, on one thread.
///
/// # Errors
/// The empty workload cannot be prepared.
pub fn within() -> Result<Vec<Cost>> {
    let mut costs = vec![
        Cost::new(
            "clock read",
            time(|| {
                std::hint::black_box(Monotonic.now());
            }),
            "ns",
        ),
        Cost::new("clock resolution", resolution(), "ns"),
        Cost::new("record a latency", record(), "ns"),
        Cost::new("closed loop, a batch of nothing", closed()?, "ns").at_most(100.0),
    ];
    let errors = open()?;
    let at = |q| quantile(errors.clone(), q);
    costs.push(Cost::new("open loop at 1,000/s, actual - intended start, p50", at(0.5), "us").at_most(5.0));
    costs.push(Cost::new("open loop at 1,000/s, actual - intended start, p99", at(0.99), "us").at_most(50.0));
    let wake = |_| {
        let at = Monotonic.now() + 500_000;
        Monotonic.sleep_until(at);
        (Monotonic.now() - at) as f64 / 1e3
    };
    let wakes: Vec<f64> = (0..500).map(wake).collect();
    costs.push(Cost::new("timer wake-up error, p50", quantile(wakes.clone(), 0.5), "us"));
    costs.push(Cost::new("timer wake-up error, p99", quantile(wakes, 0.99), "us"));
    Ok(costs)
}

/// The smallest step that was seen.
fn resolution() -> f64 {
    let step = |_| {
        let start = Monotonic.now();
        std::iter::repeat_with(|| Monotonic.now()).find(|&now| now > start).map_or(0, |now| now - start)
    };
    (0..1000).map(step).min().unwrap_or(0) as f64
}

fn record() -> f64 {
    let mut recorder = Recorder::new();
    recorder.open(0);
    let mut now = 0;
    time(|| {
        recorder.record(now, now + 1_000_000);
        now += 1_000_000;
    })
}

/// A workload that does nothing, on the CPU.
fn nothing() -> Result<cpu::Cpu> {
    let spec: Spec = "null".parse()?;
    let mut workload = cpu::Cpu::new("null".into(), spec.network(), Settings::default())?;
    workload.prepare(&[1], 1)?;
    Ok(workload)
}

fn closed() -> Result<f64> {
    let (mut workload, control, task) = (nothing()?, Control::default(), Task::closed(1));
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let mut window = Window::new(&Monotonic, &mut workload, &task, &control);
        let mut records = Records::new(&task.load, 1, 1);
        let start = Monotonic.now();
        window.measure(Rule::given(None, Some(CALLS)), &mut records)?;
        rounds.push((Monotonic.now() - start) as f64 / CALLS as f64);
    }
    Ok(median(rounds))
}

/// By how many us each batch of an open loop began late.
fn open() -> Result<Vec<f64>> {
    let (mut workload, control) = (nothing()?, Control::default());
    let load = Load::Open { arrivals: Arrivals::Constant(1000.0) };
    let task = Task { load, ..Task::closed(1) };
    let mut window = Window::new(&Monotonic, &mut workload, &task, &control);
    let mut records = Records::new(&task.load, 1, 1);
    records.keep_log(10_000);
    window.measure(Rule::given(Some(OPEN_NS), None), &mut records)?;
    Ok(records.log().iter().map(|(intended, issued, _)| (issued - intended) as f64 / 1e3).collect())
}

/// What the visible GPU adds. To be called in a process of its own: it opens the device.
///
/// # Errors
/// No usable device.
pub fn on_device() -> Result<Vec<Cost>> {
    let settings = Settings { precision: crate::workload::Precision::Fp16, ..Settings::default() };
    let device = cuda::Device::open(settings.sync)?;
    let spec: Spec = "null".parse()?;
    let mut workload = cuda::Cuda::new(device, "null".into(), spec.network(), settings)?;
    workload.prepare(&[1], 1)?;
    workload.sm_clock_mhz()?;
    let (control, task) = (Control::default(), Task::closed(1));
    let mut records = Records::new(&task.load, 1, 1);
    let mut window = Window::new(&Monotonic, &mut workload, &task, &control);
    window.warm_up()?;
    records.keep_log(1 << 20);
    window.measure(Rule::given(Some(1_000_000_000), None), &mut records)?;
    let floor = median(records.log().iter().map(|(_, issued, done)| (done - issued) as f64 / 1e3).collect());
    let (mut splits, mut times) = (Vec::new(), Vec::new());
    for _ in 0..500 {
        let start = Monotonic.now();
        let split = workload.staged(0, 1)?.context("a GPU has stages")?;
        times.push((Monotonic.now() - start) as f64 / 1e3);
        splits.push(split.compute_ns);
    }
    let mut probes = Vec::new();
    let mut clocks = Vec::new();
    for _ in 0..50 {
        let start = Monotonic.now();
        clocks.extend(workload.sm_clock_mhz()?);
        probes.push((Monotonic.now() - start) as f64 / 1e3);
    }
    splits.sort_unstable();
    splits.dedup();
    let step = splits.windows(2).map(|pair| pair[1] - pair[0]).min().unwrap_or(0);
    Ok(vec![
        Cost::new("GPU: an empty graph, p50", floor, "us"),
        Cost::new("GPU: smallest step between event times", step as f64, "ns"),
        // A staged batch is an ordinary one and one in three parts.
        Cost::new("GPU: what the stage split adds to a batch", median(times) - 2.0 * floor, "us"),
        Cost::new("GPU: a reading of the SM clock", median(probes), "us"),
        Cost::new("GPU: SM clock", median(clocks), "MHz"),
    ])
}

/// Answers each `start` with the time at which it was there, as a worker's window would open; the other
/// end of the round trip.
///
/// # Errors
/// The stream does not take an answer, or a line is no message.
pub fn echo(input: &mut dyn BufRead, out: &mut dyn Write) -> Result<()> {
    let mut line = Vec::new();
    while input.read_until(b'\n', &mut line)? > 0 {
        let message: ToWorker = protocol::decode(&line)?;
        line.clear();
        let ToWorker::Start { at_ns } = message else { return Ok(()) };
        while Monotonic.now() < at_ns {
            std::hint::spin_loop();
        }
        let answer = FromWorker::Progress { unmeasured: Monotonic.now(), batches: 0 };
        out.write_all(&protocol::encode(&answer))?;
        out.flush()?;
    }
    Ok(())
}

/// The time in an answer of [`echo`].
///
/// # Errors
/// It is none.
pub fn echoed(line: &[u8]) -> Result<u64> {
    let answer: FromWorker = protocol::decode(line)?;
    let FromWorker::Progress { unmeasured, .. } = answer else { anyhow::bail!("{answer:?} is no echo") };
    ensure!(unmeasured > 0, "an echo without a time");
    Ok(unmeasured)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_says_when_it_was_there() {
        let at_ns = Monotonic.now() + 1_000_000;
        let lines =
            [protocol::encode(&ToWorker::Start { at_ns }), protocol::encode(&ToWorker::Stop)].concat();
        let mut out = Vec::new();
        echo(&mut lines.as_slice(), &mut out).unwrap();
        assert!(echoed(&out).unwrap() >= at_ns);
        assert!(echoed(&lines).is_err());
    }

    #[test]
    fn limits_are_upper_ones() {
        assert!(Cost::new("x", 2.0, "us").at_most(1.0).is_beyond());
        assert!(
            !Cost::new("x", 1.0, "us").at_most(1.0).is_beyond() && !Cost::new("x", 9.0, "us").is_beyond()
        );
        assert_eq!((quantile(vec![3.0, 1.0, 2.0], 0.5), quantile(vec![], 0.5)), (2.0, 0.0));
    }
}
