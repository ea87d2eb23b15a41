//! Several instances at once, on a stand-in machine: were the neighbours really there?

mod common;

use common::standin::Machine;
use common::{error, is_alive, ran, signal, wait_for, workers_of};
use migbench::results::Row;
use migbench::results::row::{Mode, Status};
use rustix::process::Signal;
use std::fs;
use std::process::{Child, Stdio};
use std::time::Duration;

/// Batches of 20 ms asleep: seven workers leave two processors idle.
const SLEEPER: [&str; 7] =
    ["--workload", "scripted(times=20ms,clock=real)", "--batch", "1", "-q", "-o", "a.csv"];

/// From the start of the workers: warm-up and common phase take a second each.
const IN_THE_WINDOW: Duration = Duration::from_millis(3500);

/// Repeats a measurement until nothing of the busy machine is in it.
fn repeated<T>(mut measured: impl FnMut() -> Option<T>) -> T {
    (0..20).find_map(|_| measured()).expect("20 measurements, and none was left alone by the machine")
}

fn start(machine: &Machine, more: &[&str]) -> (Child, Vec<u32>) {
    let mut command = machine.command(&[&SLEEPER[..], more].concat());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let workers = wait_for("seven workers", || Some(workers_of(child.id())).filter(|w| w.len() == 7));
    (child, workers)
}

fn reasons(rows: &[Row], status: Status) -> Vec<&str> {
    let of = rows.iter().filter(|row| row.outcome.status == status);
    of.map(error).collect()
}

#[test]
fn seven_instances_at_once() {
    let machine = Machine::named("h200-7x1g");
    machine.run_until_ok(&[&SLEEPER[..], &["--duration", "2s"]].concat());
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
    machine.run_until_ok(&[&SLEEPER[..], &["--duration", "200ms", "--mode", "both"]].concat());
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
    std::thread::sleep(IN_THE_WINDOW);
    signal(workers[3], Signal::KILL);
    let ran = ran(child.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(5), "{}", ran.stderr);
    let rows = machine.bench.rows("a.csv");
    let failed = reasons(&rows, Status::Failed);
    assert!(failed.len() == 1 && failed[0].contains("was killed by SIGKILL"), "{failed:?}");
    let invalid = reasons(&rows, Status::Invalid);
    assert_eq!(invalid.len(), 6);
    let reason = "failed, and nothing shows what it did";
    assert!(invalid.iter().all(|why| why.contains(reason)), "{invalid:?}");
    assert!(rows.iter().all(|row| row.outcome.status == Status::Failed || row.latency.mean.is_some()));
}

/// One of three goes wrong in each phase: its row says how, the others finish.
#[test]
fn whatever_one_worker_does_its_siblings_finish() {
    let cases = [
        ("exit@hello", "the worker ended while opening its device; the worker exited with code 7"),
        ("exit@prepare", "the worker ended while preparing and warming up"),
        ("exit@ready", "the worker ended while preparing and warming up"),
        ("exit@window", "the worker ended while measuring"),
        ("stop@window", "the worker gave no sign of life for 2 s while measuring"),
        ("rubbish@window", "the worker broke the protocol: not a message"),
        ("flood@window", "the worker broke the protocol: a line of more than"),
        ("lie@window-done", "the worker's recording is impossible: "),
        ("exit@done", "the worker ended while checking its output"),
    ];
    // They mostly sleep.
    for some in cases.chunks(3) {
        std::thread::scope(|scope| {
            for (fault, reason) in some {
                scope.spawn(|| one_of_three(fault, reason));
            }
        });
    }
}

fn one_of_three(fault: &str, reason: &str) {
    let machine = Machine::named("h200-mixed");
    let faulty = format!("MIG-5a5a0000-0003=scripted(times=20ms,clock=real,fault={fault})");
    let more = ["--duration", "300ms", "--patience", "2s", "--aggressor", &faulty];
    let ran = machine.run(&[&SLEEPER[..], &more].concat());
    assert_eq!(ran.code, Some(5), "{fault}: {}", ran.stderr);
    let rows = machine.bench.rows("a.csv");
    assert_eq!(rows.len(), 3, "{fault}");
    let failed = reasons(&rows, Status::Failed);
    assert!(failed.len() == 1 && failed[0].starts_with(reason), "{fault}: {failed:?}");
    assert!(rows.iter().filter(|row| row.latency.mean.is_some()).count() >= 2, "{fault}");
    // Who fails before the windows open is no part of the co-run, and who fails after they closed was there.
    let spoils = ["@window", "@window-done"].iter().any(|phase| fault.ends_with(phase));
    let others: Vec<&Row> = rows.iter().filter(|row| row.outcome.status != Status::Failed).collect();
    let reason = "2g.35gb MIG-5a5a0000-0003-5000-8000-000000000000 failed, and nothing shows what it did";
    let missing = !spoils && fault != "exit@done";
    for row in others {
        assert_eq!(error(row).contains(reason), spoils, "{fault}: {}", error(row));
        assert_eq!(row.point.corunners.split(';').count(), if missing { 1 } else { 2 }, "{fault}");
        assert_eq!(row.point.missing_corunners.is_some(), missing, "{fault}");
    }
    let checked = machine.bench.run(&["check", "a.csv"]);
    assert_eq!(checked.code, Some(0), "{fault}: {}", checked.stdout);
}

/// It costs its own row; the others are the co-run that remains, and say so.
#[test]
fn an_instance_that_vanishes_before_the_start_is_a_row() {
    let machine = Machine::named("h200-mixed").faults("cuInit@MIG-5a5a0000-0003 = 100");
    let base = ["--workload", "mlp", "--batch", "4", "--duration", "200ms", "-q", "--force", "-o", "a.csv"];
    let rows = repeated(|| {
        let ran = machine.run(&base);
        assert_eq!(ran.code, Some(5), "{}", ran.stderr);
        Some(machine.bench.rows("a.csv")).filter(|rows| reasons(rows, Status::Invalid).is_empty())
    });
    let failed = reasons(&rows, Status::Failed);
    assert!(failed.len() == 1 && failed[0].contains("CUDA_ERROR_NO_DEVICE"), "{failed:?}");
    for row in rows.iter().filter(|row| row.outcome.status == Status::Ok) {
        assert_eq!(row.point.mode, Mode::Concurrent);
        assert_eq!(row.point.missing_corunners.as_deref(), Some("2g.35gb/mlp/4/closed"));
        let other = if row.subject.instance.label() == "1g.18gb" { "3g.71gb" } else { "1g.18gb" };
        assert_eq!(row.point.corunners, format!("{other}/mlp/4/closed"));
    }
    let checked = machine.bench.run(&["check", "a.csv"]);
    assert_eq!(checked.code, Some(0), "{}", checked.stdout);
    // It is the plan's run all the same: with the device back, it is run again as a whole.
    fs::write(machine.bench.path("faults"), "").unwrap();
    let resume = &base[..7];
    let ran = machine.run(&[resume, &["--resume", "a.csv"]].concat());
    assert_eq!(ran.code, Some(5), "nothing is left to do: {}", ran.stderr);
    assert_eq!(machine.bench.rows("a.csv").len(), 3);
    machine.run(&[resume, &["--resume", "a.csv", "--retry-failed"]].concat());
    let again = machine.bench.rows("a.csv");
    assert_eq!((again.len(), again[3].provenance.attempt), (6, 2), "{:?}", reasons(&again, Status::Failed));
}

/// Of two, one is left: it was measured alone, unless that is planned anyway.
#[test]
fn one_that_is_left_of_two_was_measured_alone() {
    let machine = Machine::named("h200-mixed").faults("cuInit@MIG-5a5a0000-0003 = 100");
    let base = ["--workload", "mlp", "--batch", "4", "--duration", "200ms", "-q", "--force", "-o", "a.csv"];
    let two = ["--uuid", "MIG-5a5a0000-0002", "--uuid", "MIG-5a5a0000-0003"];
    let ran = machine.run(&[&base[..], &two].concat());
    assert_eq!(ran.code, Some(5), "{}", ran.stderr);
    let rows = machine.bench.rows("a.csv");
    let left = rows.iter().find(|row| row.outcome.status == Status::Ok).unwrap();
    assert_eq!((left.point.mode, left.point.corunners.as_str()), (Mode::Isolated, ""));
    assert_eq!(left.point.missing_corunners.as_deref(), Some("2g.35gb/mlp/4/closed"));
    assert_eq!(machine.bench.run(&["check", "a.csv"]).code, Some(0));
    let ran = machine.run(&[&base[..7], &two, &["--resume", "a.csv"]].concat());
    assert_eq!(ran.code, Some(5), "nothing is left to do: {}", ran.stderr);
    let ran = machine.run(&[&base[..], &two, &["--mode", "both"]].concat());
    assert_eq!(ran.code, Some(5), "{}", ran.stderr);
    let rows = machine.bench.rows("a.csv");
    let of = |status| rows.iter().filter(move |row| row.outcome.status == status);
    assert_eq!((of(Status::Ok).count(), of(Status::Failed).count()), (1, 2));
    let reason = "not a co-run: none of its co-runners could be measured";
    assert_eq!(reasons(&rows, Status::Invalid), [reason]);
    let checked = machine.bench.run(&["check", "a.csv"]);
    assert_eq!(checked.code, Some(0), "{}", checked.stdout);
}

/// 7g alone and one of seven wait in the same way, on as many processors as each of seven together.
#[test]
fn waiting_and_processors_are_the_machines() {
    let of = |machine: &Machine, arguments: &[&str]| -> Vec<(String, usize)> {
        let base = ["--list-runs", "--format", "json", "--workload", "mlp", "--batch", "1", "-q"];
        let ran = machine.run(&[&base[..], arguments].concat());
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let runs: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        let members = runs.as_array().unwrap().iter().flat_map(|run| run["members"].as_array().unwrap());
        members
            .map(|m| {
                let (sync, cpus) = (&m["job"]["settings"]["sync"], &m["job"]["cpus"]);
                (sync.as_str().unwrap().to_owned(), cpus.as_array().unwrap().len())
            })
            .collect()
    };
    let (seven, mixed) = (Machine::named("h200-7x1g"), Machine::named("h200-mixed"));
    let all = of(&seven, &[]);
    assert_eq!(all.len(), 7);
    let one = [of(&seven, &["--uuid", "MIG-5a5a0000-0007"]), of(&mixed, &["--uuid", "MIG-5a5a0000-0003"])];
    for found in [one.concat(), of(&mixed, &[])].concat() {
        assert_eq!(found, all[0]);
    }
}

#[test]
fn a_device_lost_in_mid_window_spoils_the_others_and_stops_none() {
    for fault in [
        // A batch takes 30 ms. A second of warm-up and a second together come first.
        "cuStreamSynchronize@MIG-5a5a0000-0003 after 90 = lost 719",
        "cuGraphLaunch@MIG-5a5a0000-0003 after 90 = 2",
    ] {
        let machine = Machine::named("h200-mixed").faults(&format!("kernel_ns = 10000000\n{fault}"));
        let ran =
            machine.run(&["--workload", "mlp", "--batch", "4", "--duration", "4s", "-q", "-o", "a.csv"]);
        assert_eq!(ran.code, Some(5), "{}", ran.stderr);
        let rows = machine.bench.rows("a.csv");
        let failed = reasons(&rows, Status::Failed);
        let code =
            if fault.contains("lost") { "CUDA_ERROR_LAUNCH_FAILED" } else { "CUDA_ERROR_OUT_OF_MEMORY" };
        assert!(failed.len() == 1 && failed[0].contains(code), "{failed:?}");
        assert_eq!(reasons(&rows, Status::Invalid).len(), 2, "{failed:?}");
    }
}

#[test]
fn one_interrupt_saves_seven_windows_and_two_leave_at_once() {
    for twice in [false, true] {
        let machine = Machine::named("h200-7x1g");
        let (child, workers) = start(&machine, &["--duration", "1h"]);
        std::thread::sleep(IN_THE_WINDOW);
        signal(child.id(), Signal::INT);
        if twice {
            std::thread::sleep(Duration::from_millis(1));
            signal(child.id(), Signal::INT);
        }
        let ran = ran(child.wait_with_output().unwrap());
        assert_eq!(ran.code, Some(130), "{}", ran.stderr);
        let rows = machine.bench.rows("a.csv");
        assert_eq!((rows.len(), reasons(&rows, Status::Interrupted).len()), (7, 7), "{twice}");
        assert!(twice || rows.iter().all(|row| row.latency.mean.is_some()));
        assert!(!workers.iter().any(|&pid| is_alive(pid)));
    }
}

/// Stopped for longer than the patience and continued: no deadline expires for it.
#[test]
fn a_stopped_parent_blames_none_of_seven() {
    let machine = Machine::named("h200-7x1g");
    repeated(|| {
        let (child, _) = start(&machine, &["--duration", "1s", "--patience", "2s", "--force"]);
        std::thread::sleep(Duration::from_millis(300));
        signal(child.id(), Signal::STOP);
        std::thread::sleep(Duration::from_millis(3000));
        signal(child.id(), Signal::CONT);
        let ran = ran(child.wait_with_output().unwrap());
        let rows = machine.bench.rows("a.csv");
        assert_eq!(reasons(&rows, Status::Failed), [""; 0], "{}", ran.stderr);
        (ran.code == Some(0)).then_some(())
    });
}

/// The rows of one run are written together: all seven or none.
#[test]
fn a_full_disk_takes_all_rows_of_a_co_run_or_none() {
    for (blocks, rows) in [(4, 0), (8, 0), (64, 7)] {
        let machine = Machine::named("h200-7x1g");
        let arguments = [&SLEEPER[..], &["--duration", "100ms"]].concat();
        let inner = machine.command(&arguments);
        let mut limited = std::process::Command::new("sh");
        limited.arg("-c").arg(format!("ulimit -f {blocks}; exec \"$0\" \"$@\"")).arg(inner.get_program());
        limited.args(inner.get_args()).current_dir(machine.bench.folder.path());
        limited.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let ran = ran(limited.output().unwrap());
        // A busy machine may make the rows invalid: they are written all the same.
        assert_eq!(ran.code == Some(1), rows == 0, "{blocks} blocks: {}", ran.stderr);
        assert_eq!(machine.bench.rows("a.csv").len(), rows, "{blocks} blocks");
    }
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
    let alone = ["--mode", "both", "--gpu", "1"];
    let quiet = base.len() - 1;
    let ran = bench.run(&[&base[..quiet], &alone].concat());
    assert_eq!((ran.code, ran.stdout.lines().count()), (Some(0), 1), "{}", ran.stderr);
    assert!(ran.stderr.starts_with("there are no two instances that measure at once"), "{}", ran.stderr);
    let ran = bench.run(&["--topology", "there.txt"]);
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
    let ran = bench.run(&["--list-runs", "--topology", "missing.txt"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.starts_with("migbench: cannot read missing.txt: "), "{}", ran.stderr);
}
