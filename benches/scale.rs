//! What the parent costs, and how well windows open together, by the number of workers:
//! `cargo bench --bench scale`.
//!
//! 8 GPUs cut into 7 instances each, on the tests' stand-in driver, with real processes and batches of
//! 2 ms asleep; then the time in which a long plan is made.
#![allow(clippy::print_stdout, reason = "its lines are its output")]

#[path = "../tests/common/mod.rs"]
mod common;

use common::standin::Machine;
use migbench::machine::Instance;
use migbench::measure::protocol::Device;
use migbench::measure::stopping::Rule;
use migbench::results::row::Status;
use migbench::sweep::plan::{self, Modes, Options, Pace, Span};
use migbench::workload::Settings;
use std::process::Stdio;
use std::time::{Duration, Instant};

fn main() {
    println!(
        "workers  rows ok  window opens after the named time, ms: p50  max  parent: CPU %  memory MB  ready after s"
    );
    for gpus in [1, 2, 4, 8] {
        sweep(gpus);
    }
    long_plan();
}

/// Of a process: processor time so far, in s, and most memory, in MB.
fn usage(pid: u32) -> Option<(f64, f64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: f64 = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: f64 = peak.split_whitespace().next()?.parse().ok()?;
    // The kernel's USER_HZ, 100 on every Linux.
    Some((ticks / 100.0, kilobytes / 1e3))
}

fn sweep(gpus: usize) {
    let mut topology = common::machines::named("8x7");
    topology.gpus.truncate(gpus);
    let machine = Machine::new(topology);
    let arguments = [
        "--workload",
        "scripted(times=2ms,clock=real)",
        "--batch",
        "1",
        "--duration",
        "5s",
        "--span",
        "host",
        "--sync",
        "blocking",
        "-q",
        "-o",
        "a.csv",
    ];
    let start = Instant::now();
    let started_ns = now_ns();
    let mut child = machine.command(&arguments).stdout(Stdio::null()).spawn().unwrap();
    let mut last = (0.0, 0.0);
    while child.try_wait().unwrap().is_none() {
        last = usage(child.id()).unwrap_or(last);
        std::thread::sleep(Duration::from_millis(50));
    }
    let wall = start.elapsed().as_secs_f64();
    let rows = machine.bench.rows("a.csv");
    let ok = rows.iter().filter(|row| row.outcome.status == Status::Ok).count();
    let mut late: Vec<f64> = rows
        .iter()
        .filter_map(|row| Some((row.window.start_ns? - row.window.named_start_ns?) as f64 / 1e6))
        .collect();
    late.sort_by(f64::total_cmp);
    let named = rows.iter().find_map(|row| row.window.named_start_ns).unwrap_or(started_ns);
    println!(
        "{:>7}  {ok:>7}  {:>44.2}  {:>4.1}  {:>13.2}  {:>9.1}  {:>13.2}",
        7 * gpus,
        late.get(late.len() / 2).copied().unwrap_or(f64::NAN),
        late.last().copied().unwrap_or(f64::NAN),
        100.0 * last.0 / wall,
        last.1,
        (named - started_ns) as f64 / 1e9,
    );
}

fn now_ns() -> u64 {
    use migbench::measure::clock::{Clock, Monotonic};
    Monotonic.now()
}

fn long_plan() {
    let instances: Vec<Instance> = common::machines::named("8x7").instances();
    let options = Options {
        modes: Modes::Isolated,
        span: Span::Gpu,
        cpus: (0..128).collect(),
        gpus: Vec::new(),
        sync: None,
        device: Device::Cuda,
        instances,
        aggressors: Vec::new(),
        workloads: vec!["bert-base".parse().unwrap()],
        own: None,
        settings: Settings::default(),
        batches: (1..=6).collect(),
        paces: vec![Pace::CLOSED],
        repeat: 30,
        rule: Rule::DEFAULT,
        intervals: false,
        clock_samples: false,
    };
    let start = Instant::now();
    let runs = plan::plan(&options);
    println!("a plan of {} runs: {:.1} ms", runs.len(), start.elapsed().as_secs_f64() * 1e3);
}
