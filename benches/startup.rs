//! From starting a worker to its readiness, less the warm-up: `cargo bench --bench startup`, or, for
//! a GPU, `cargo bench --bench startup -- cuda GPU-<uuid>`.
//!
//! Speaks the protocol with `target/release/migbench worker`, eleven times, and prints the median.

use migbench::machine::child;
use migbench::measure::load::Load;
use migbench::measure::protocol::{self, Device, FromWorker, Job, ToWorker};
use migbench::measure::stopping::Rule;
use migbench::workload::{Precision, Settings};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The warm-up's least duration, which is not start-up.
const WARM_UP: Duration = Duration::from_secs(1);

fn job(device: Device) -> Job {
    let cuda = device == Device::Cuda;
    Job {
        device,
        workload: if cuda { "bert-base" } else { "bert-tiny" }.into(),
        batch: 1,
        settings: Settings {
            precision: if cuda { Precision::Fp16 } else { Precision::Fp32 },
            threads: 2,
            ..Settings::default()
        },
        cpus: Vec::new(),
        rule: Rule::DEFAULT,
        load: Load::Closed,
        inflight: 1,
        arrival_seed: 1,
        intervals: false,
        clock_samples: false,
        own: None,
    }
}

fn start_up(job: &Job, uuid: Option<&str>) -> Duration {
    let start = Instant::now();
    let mut command = Command::new("target/release/migbench");
    command.env(child::PARENT, std::process::id().to_string());
    command.arg("worker").stdin(Stdio::piped()).stdout(Stdio::piped());
    if let Some(uuid) = uuid {
        command.env("CUDA_VISIBLE_DEVICES", uuid);
    }
    let mut worker = command.spawn().expect("run this from the checkout, after cargo build --release");
    let mut stdin = worker.stdin.take().expect("a pipe");
    stdin.write_all(&protocol::encode(&ToWorker::Job(Box::new(job.clone())))).expect("the worker listens");
    let mut lines = BufReader::new(worker.stdout.take().expect("a pipe")).split(b'\n');
    let ready = loop {
        let line = lines.next().expect("the worker speaks until it is ready").expect("a line");
        match protocol::decode(&line).expect("a message") {
            FromWorker::Ready { .. } => break start.elapsed(),
            FromWorker::Failed { error, .. } => panic!("the worker failed: {error}"),
            _ => {}
        }
    };
    drop(stdin);
    worker.wait().expect("the worker ends with its input");
    ready.saturating_sub(WARM_UP)
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let device = if arguments.first().is_some_and(|a| a == "cuda") { Device::Cuda } else { Device::Cpu };
    let job = job(device);
    let mut times: Vec<_> = (0..11).map(|_| start_up(&job, arguments.get(1).map(String::as_str))).collect();
    times.sort_unstable();
    let line = format!(
        "{}: exec to ready less warm-up, median {:?}, {:?} to {:?}\n",
        job.workload, times[5], times[0], times[10]
    );
    std::io::stdout().write_all(line.as_bytes()).expect("standard output");
}
