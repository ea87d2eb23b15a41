//! Every co-run row that `run` writes as ok passes `check`: of simulated co-runs, and of stand-in ones on a
//! machine under full load.
//!
//! `FULL=1` makes 200 rows under load, else 20.

mod common;

use common::Bench;
use common::standin::Machine;
use migbench::machine::{Instance, InstanceKind, Topology};
use migbench::measure::bins::LoadRecorder;
use migbench::measure::load::{Arrivals, Load, Queue};
use migbench::measure::protocol::{Device, Job};
use migbench::measure::records::{Batch, Extras, Records};
use migbench::measure::stopping::Rule;
use migbench::results::environment::provenance;
use migbench::results::row::{Identity, Mode, Status};
use migbench::results::{header, line};
use migbench::sweep::group::Outcome;
use migbench::sweep::plan::{Member, Run};
use migbench::sweep::rows::{Context, rows};
use migbench::workload::{DeviceIdentity, Precision, Settings};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

const MS: u64 = 1_000_000;
const READY: u64 = 1_000_000 * MS;
const PHASE: u64 = READY + 500 * MS;
const NAMED: u64 = PHASE + 1_000 * MS;

fn member(number: usize, load: Load, rule: Rule) -> Member {
    let instance = Instance {
        kind: InstanceKind::Mig,
        gpu_index: Some(0),
        gpu_name: "NVIDIA H200".into(),
        gpu_uuid: Some("GPU-5a5a0000-0000-4000-8000-000000000001".into()),
        mig_uuid: Some(format!("MIG-5a5a0000-000{number}-5000-8000-000000000000")),
        gi_id: Some(7 + number as u32),
        ci_id: Some(0),
        profile: Some("1g.18gb".into()),
        sm_count: Some(16),
        memory_mib: Some(16_384),
    };
    let job = Job {
        device: Device::Cuda,
        workload: "null".into(),
        batch: 4,
        settings: Settings { precision: Precision::Fp16, ..Settings::default() },
        cpus: vec![number],
        rule,
        load,
        inflight: 1,
        arrival_seed: number as u64,
        intervals: false,
        clock_samples: false,
        own: None,
    };
    Member { instance, job }
}

/// A worker on a virtual clock: batches of about a length, now and then a stall, until all are done.
fn outcome(member: &Member, until: u64, random: &mut fastrand::Rng) -> Outcome {
    let job = &member.job;
    let service = (10f64.powf(4.5 + 3.0 * random.f64())) as u64;
    let (jitter, stalls) = (0.3 * random.f64(), random.f64() < 0.3);
    let mut load = LoadRecorder::new(READY);
    let mut records = Records::new(&job.load, job.batch, 1);
    let mut queue = Queue::new(&job.load, job.batch, job.arrival_seed);
    let (mut now, mut open, mut done) = (READY, false, false);
    let mut intended = Vec::new();
    let mut start = READY;
    while now < until || !done {
        if !open && now >= NAMED {
            load.open_window();
            records.open(now);
            (open, start) = (true, now);
            queue = Queue::new(&job.load, job.batch, !job.arrival_seed);
        }
        let mut due = now;
        if let Some(queue) = &mut queue {
            match queue.next(now - start) {
                migbench::measure::load::Next::Now { due: when, count } => {
                    queue.take(count, &mut intended);
                    intended.iter_mut().for_each(|at| *at += start);
                    due = (start + when).max(load.end());
                }
                migbench::measure::load::Next::At(at) => {
                    now = if open { start + at } else { (start + at).min(NAMED.max(now + 1)) };
                    continue;
                }
                migbench::measure::load::Next::Never => unreachable!("endless arrivals"),
            }
        }
        let issued = now;
        let mut takes = (service as f64 * (1.0 + jitter * (random.f64() - 0.5))) as u64;
        if stalls && random.f64() < 0.002 {
            takes += random.u64(0..2_000 * MS);
        }
        now += takes;
        let closed = job.load == Load::Closed;
        load.add(if closed { 0 } else { due }, issued, now);
        if open && !done {
            if closed {
                records.closed(issued, now);
            } else {
                records.add(&Batch { intended: &intended, due, issued, done: now });
            }
            done = job.rule.ends(now - start, records.count(), true);
        }
    }
    Outcome {
        started_at: "2026-11-22T18:00:00.000Z".into(),
        device: Some(DeviceIdentity { sm_count: Some(16), ..DeviceIdentity::default() }),
        identity: Some(Identity::Proven),
        named_start_ns: Some(NAMED),
        common_from_ns: Some(PHASE),
        warmup_batches: 50,
        recording: Some(records.latency()),
        extras: Extras { arrived: records.arrived(), ..Extras::default() },
        load: Some(load.log()),
        ..Outcome::default()
    }
}

#[test]
fn every_simulated_co_run_row_passes_check() {
    let mut random = fastrand::Rng::with_seed(19);
    let context = Context {
        provenance: provenance("5a5a0000", 1),
        topology: Topology::default(),
        measures_alone: false,
    };
    let mut statuses = [0; 2];
    let mut text = format!("{}\n", header().join(",")).into_bytes();
    for repetition in 1..=300 {
        let count = random.usize(2..=7);
        let rule = match random.u8(..3) {
            0 => Rule::given(Some(random.u64(50..3_000) * MS), None),
            1 => Rule::given(None, Some(random.u64(11..400))),
            _ => Rule { min_ns: 500 * MS, min_batches: 50, max_ns: 4_000 * MS, precision: None },
        };
        let load = match random.u8(..4) {
            0 => Load::Open { arrivals: Arrivals::Poisson(200.0) },
            1 => Load::Server { arrivals: Arrivals::Constant(500.0), max_delay_ns: 2 * MS },
            _ => Load::Closed,
        };
        let members: Vec<Member> = (0..count).map(|i| member(i, load.clone(), rule)).collect();
        let run = Run { repetition, attempt: 1, mode: Mode::Concurrent, members };
        let mut outcomes: Vec<Outcome> =
            run.members.iter().map(|member| outcome(member, NAMED + 6_000 * MS, &mut random)).collect();
        if random.u8(..5) == 0 {
            // One fails before the windows open.
            let failed = random.usize(..count);
            outcomes[failed] = Outcome {
                started_at: outcomes[failed].started_at.clone(),
                failure: Some("the device is lost".into()),
                ..Outcome::default()
            };
        }
        let rows = rows(&context, &run, &outcomes);
        text.extend(rows.iter().flat_map(line));
        for row in &rows {
            statuses[usize::from(row.outcome.status == Status::Ok)] += 1;
        }
    }
    assert!(statuses.iter().all(|&count| count > 200), "{statuses:?}");
    let bench = Bench::new();
    std::fs::write(bench.path("a.csv"), text).unwrap();
    let checked = bench.run(&["check", "a.csv"]);
    assert_eq!(checked.code, Some(0), "{}", checked.stdout);
}

/// Every processor is busy with something else.
#[test]
fn every_row_of_a_machine_under_full_load_is_invalid_or_passes_check() {
    let wanted = if std::env::var_os("FULL").is_some() { 200 } else { 20 };
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        for _ in 0..2 * processors {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let machine = Machine::named("h200-mixed").faults("kernel_ns = 2000000");
        let loads: [&[&str]; 4] = [
            &["--batch", "4"],
            &["--batch", "1", "--rate", "40"],
            &["--batch", "4", "--load", "server", "--rate", "100", "--max-delay", "2ms"],
            &["--batch", "2", "--slo", "p90=200ms", "--max-duration", "400ms"],
        ];
        let (mut made, mut turn) = (0, 0);
        while made < wanted {
            let base = ["--workload", "mlp", "--duration", "300ms", "-q", "--force", "-o", "a.csv"];
            let arguments = [&base[..], loads[turn % loads.len()]].concat();
            let mut command: Command = machine.command(&arguments);
            let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
            assert!(matches!(status.code(), Some(0 | 4 | 5)), "{arguments:?}: {status}");
            let rows = machine.bench.rows("a.csv");
            let checked = machine.bench.run(&["check", "a.csv"]);
            assert_eq!(checked.code, Some(0), "{arguments:?}: {}", checked.stdout);
            made += rows.len();
            turn += 1;
        }
        stop.store(true, Relaxed);
    });
}
