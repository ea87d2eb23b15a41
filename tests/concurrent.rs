//! Several instances at once, on a stand-in machine: were the neighbours really there?

mod common;

use common::standin::Machine;
use common::{is_alive, ran, signal, wait_for, workers_of};
use migbench::results::Row;
use migbench::results::row::{Mode, Status};
use rustix::process::Signal;
use std::process::{Child, Stdio};
use std::time::Duration;

/// Batches of 20 ms asleep: seven workers leave two processors idle.
const SLEEPER: [&str; 7] =
    ["--workload", "scripted(times=20ms,clock=real)", "--batch", "1", "-q", "-o", "a.csv"];

fn start(machine: &Machine, more: &[&str]) -> (Child, Vec<u32>) {
    let mut command = machine.command(&[&SLEEPER[..], more].concat());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let workers = wait_for("seven workers", || Some(workers_of(child.id())).filter(|w| w.len() == 7));
    (child, workers)
}

fn reasons(rows: &[Row], status: Status) -> Vec<&str> {
    let of = rows.iter().filter(|row| row.outcome.status == status);
    of.map(|row| row.outcome.error.as_deref().unwrap_or_default()).collect()
}

#[test]
fn seven_instances_at_once() {
    let machine = Machine::named("h200-7x1g");
    let ran = machine.run(&[&SLEEPER[..], &["--duration", "2s"]].concat());
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
    let rows = machine.bench.rows("a.csv");
    assert_eq!(rows.len(), 7);
    for row in &rows {
        assert_eq!((row.outcome.status, row.point.mode), (Status::Ok, Mode::Concurrent));
        assert_eq!(row.health.overlap, Some(1.0));
        assert_eq!(row.point.corunners.split(';').count(), 6);
        assert!(row.window.batches_common.unwrap() > 50, "{:?}", row.window);
    }
    // One start time for all: the windows open within a batch of each other.
    let starts = || rows.iter().filter_map(|row| row.window.start_ns);
    assert!(starts().max().unwrap() - starts().min().unwrap() < 40_000_000);
}

#[test]
fn both_modes_are_interleaved_on_the_same_processors() {
    let machine = Machine::named("h200-mixed");
    let ran = machine.run(&[&SLEEPER[..], &["--duration", "200ms", "--mode", "both"]].concat());
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
    let rows = machine.bench.rows("a.csv");
    let of = |mode| rows.iter().filter(move |row| row.point.mode == mode);
    assert_eq!((of(Mode::Isolated).count(), of(Mode::Concurrent).count()), (3, 3));
    for alone in of(Mode::Isolated) {
        let same = |row: &&Row| row.subject.instance.mig_uuid == alone.subject.instance.mig_uuid;
        let together = of(Mode::Concurrent).find(same).unwrap();
        assert_eq!((&alone.point.cpus, alone.point.sync), (&together.point.cpus, together.point.sync));
        assert_eq!((alone.health.overlap, alone.point.corunners.as_str()), (None, ""));
    }
}

#[test]
fn a_co_runner_that_dies_makes_the_others_invalid_and_nothing_more() {
    let machine = Machine::named("h200-7x1g");
    let (child, workers) = start(&machine, &["--duration", "3s"]);
    std::thread::sleep(Duration::from_millis(2500));
    signal(workers[3], Signal::KILL);
    let ran = ran(child.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(5), "{}", ran.stderr);
    let rows = machine.bench.rows("a.csv");
    let failed = reasons(&rows, Status::Failed);
    assert!(failed.len() == 1 && failed[0].contains("was killed by SIGKILL"), "{failed:?}");
    let invalid = reasons(&rows, Status::Invalid);
    assert_eq!(invalid.len(), 6);
    assert!(invalid.iter().all(|why| why.starts_with("not a co-run: 1g.18gb MIG-")), "{invalid:?}");
    assert!(rows.iter().all(|row| row.outcome.status == Status::Failed || row.latency.mean.is_some()));
}

#[test]
fn a_co_runner_that_sleeps_for_two_seconds_is_found() {
    let machine = Machine::named("h200-7x1g");
    let (child, workers) = start(&machine, &["--duration", "6s"]);
    std::thread::sleep(Duration::from_millis(3000));
    signal(workers[2], Signal::STOP);
    std::thread::sleep(Duration::from_millis(2000));
    signal(workers[2], Signal::CONT);
    let ran = ran(child.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(5), "{}", ran.stderr);
    let rows = machine.bench.rows("a.csv");
    let invalid = reasons(&rows, Status::Invalid);
    assert!(invalid.len() >= 6 && invalid.iter().all(|why| why.contains(" stalled: ")), "{invalid:?}");
}

#[test]
fn no_worker_of_seven_outlives_a_killed_parent() {
    let machine = Machine::named("h200-7x1g");
    let (mut child, workers) = start(&machine, &["--duration", "1h"]);
    signal(child.id(), Signal::KILL);
    child.wait().unwrap();
    wait_for("the workers' end", || (!workers.iter().any(|&pid| is_alive(pid))).then_some(()));
    assert!(machine.bench.rows("a.csv").is_empty());
}

/// The plan for another machine, from the text that nvidia-smi prints there.
#[test]
fn runs_are_listed_for_a_machine_of_which_there_is_only_a_text() {
    let bench = common::Bench::new();
    let text = "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-5a5a0000-0000-4000-8000-00000000000a)
  MIG 3g.40gb     Device  0: (UUID: MIG-5a5a0000-0001-5000-8000-000000000000)
  MIG 1g.10gb     Device  1: (UUID: MIG-5a5a0000-0002-5000-8000-000000000000)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-5a5a0001-0000-4000-8000-00000000000a)
";
    std::fs::write(bench.path("there.txt"), text).unwrap();
    let base = ["--list-runs", "--topology", "there.txt", "--workload", "mlp", "--batch", "8", "-q"];
    let both = [&base[..], &["--mode", "both"]].concat();
    let ran = bench.run(&both);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    let mut lines: Vec<_> = ran.stdout.lines().map(|line| &line[6..]).collect();
    lines.sort_unstable();
    let expected = [
        "round 1  concurrent  3g.40gb MIG-5a5a0000-0001-5000-8000-000000000000 mlp batch 8  |  \
         1g.10gb MIG-5a5a0000-0002-5000-8000-000000000000 mlp batch 8",
        "round 1  isolated    1g.10gb MIG-5a5a0000-0002-5000-8000-000000000000 mlp batch 8",
        "round 1  isolated    3g.40gb MIG-5a5a0000-0001-5000-8000-000000000000 mlp batch 8",
        "round 1  isolated    NVIDIA H100 80GB HBM3 GPU-5a5a0001-0000-4000-8000-00000000000a mlp batch 8",
    ];
    assert_eq!(lines, expected);
    let ran = bench.run(&[&both[..], &["--format", "json"]].concat());
    let runs: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(runs.as_array().unwrap().len(), 4);
    assert!(runs[0]["members"][0]["instance"]["gpu_uuid"].is_string());
    assert_eq!(std::fs::read_dir(bench.folder.path()).unwrap().count(), 1, "nothing is written");
    let ran = bench.run(&["--topology", "there.txt"]);
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
    let ran = bench.run(&["--list-runs", "--topology", "missing.txt"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.starts_with("migbench: cannot read missing.txt: "), "{}", ran.stderr);
}
