//! What it costs to speak with workers, for `migbench selftest`.

use crate::machine::child;
use crate::measure::clock::{Clock, Monotonic};
use crate::measure::costs::{Cost, echoed, median, quantile};
use crate::measure::protocol::{self, ToWorker};
use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

const ROUND_TRIPS: usize = 2000;
const BARRIERS: usize = 50;
/// From the message to the moment at which all are to begin.
const AHEAD_NS: u64 = 5_000_000;
/// How long the part that uses a GPU may take: it takes seconds.
const DEVICE_LIMIT: Duration = Duration::from_secs(120);

/// A process of this program that answers.
struct Echo {
    /// Killed when it is dropped.
    _child: child::Running,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Echo {
    fn start() -> Result<Echo> {
        let mut command = command("echo");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = child::spawn(command, Signal::KILL)?;
        let input = child.stdin.take().context("a pipe")?;
        let output = BufReader::new(child.stdout.take().context("a pipe")?);
        Ok(Echo { _child: child, input, output })
    }

    fn say(&mut self, at_ns: u64) -> Result<()> {
        Ok(self.input.write_all(&protocol::encode(&ToWorker::Start { at_ns }))?)
    }

    fn hear(&mut self) -> Result<u64> {
        let mut line = Vec::new();
        self.output.read_until(b'\n', &mut line)?;
        echoed(&line)
    }
}

fn command(what: &str) -> Command {
    let mut command = Command::new(child::THIS_PROGRAM);
    command.arg("selftest").args(["--part", what]);
    command
}

/// The round trip of a line, and how far apart `workers` processes begin when told one time.
///
/// # Errors
/// This program cannot be started again.
pub fn with_workers(workers: usize) -> Result<Vec<Cost>> {
    let mut echoes = (0..workers.max(2)).map(|_| Echo::start()).collect::<Result<Vec<_>>>()?;
    let mut trips = Vec::new();
    for _ in 0..ROUND_TRIPS {
        let start = Monotonic.now();
        echoes[0].say(0)?;
        echoes[0].hear()?;
        trips.push((Monotonic.now() - start) as f64 / 1e3);
    }
    let mut skews = Vec::new();
    for _ in 0..BARRIERS {
        let at = Monotonic.now() + AHEAD_NS;
        echoes.iter_mut().try_for_each(|echo| echo.say(at))?;
        let times = echoes.iter_mut().map(Echo::hear).collect::<Result<Vec<u64>>>()?;
        let (first, last) = (times.iter().min().copied(), times.iter().max().copied());
        skews.push((last.unwrap_or(0) - first.unwrap_or(0)) as f64 / 1e3);
    }
    Ok(vec![
        Cost::new("JSON line to a worker and back, p50", median(trips.clone()), "us").at_most(50.0),
        Cost::new("JSON line to a worker and back, p99", quantile(trips, 0.99), "us"),
        Cost::new("first to last worker at a common start, p50", median(skews), "us"),
    ])
}

/// What the GPU adds, measured in a process of its own, on the first device that it sees.
///
/// # Errors
/// The device cannot be used, and why.
pub fn on_device() -> Result<Vec<Cost>> {
    let output = child::output(command("device"), DEVICE_LIMIT)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{}", said.trim().trim_start_matches("migbench: "));
    }
    serde_json::from_slice(&output.stdout).context("what the device's part of the selftest said")
}
