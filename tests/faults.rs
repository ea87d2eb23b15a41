//! Workers and parents that go wrong: what was asked for still ends as a row, and nobody is left.

mod common;

use common::{Bench, is_alive, ran, signal, wait_for, workers_of};
use migbench::results::row::Status;
use rustix::process::Signal;
use std::time::Duration;

/// A worker that goes wrong in each way at each phase becomes a failed row with the reason.
#[test]
fn a_faulty_worker_becomes_a_failed_row() {
    let window = "the worker ended while measuring";
    let cases = [
        (
            "exit@hello",
            "the worker ended while opening its device; the worker exited with code 7; its last lines: scripted exit at hello",
        ),
        ("exit@prepare", "the worker ended while preparing and warming up; the worker exited with code 7"),
        ("exit@ready", "the worker ended while preparing and warming up; the worker exited with code 7"),
        (
            "exit@window",
            &format!("{window}; the worker exited with code 7; its last lines: scripted exit at window"),
        ),
        ("exit@window-done", window),
        ("exit@stages", "the worker ended while taking the stage split; the worker exited with code 7"),
        ("exit@done", "the worker ended while checking its output; the worker exited with code 7"),
        ("kill@window", &format!("{window}; the worker was killed by SIGKILL")),
        ("error@window", "scripted error (at window)"),
        ("error@prepare", "scripted error (at prepare)"),
        ("lie@window-done", "the worker's recording is impossible: "),
        (
            "rubbish@window",
            "the worker broke the protocol: not a message: \"Segmentation fault (core dumped)\"",
        ),
        (
            "half-line@ready",
            "the worker broke the protocol: half a line: \"{\\\"protocol\\\":1,\\\"type\\\":\\\"rea\"",
        ),
        ("flood@window", "the worker broke the protocol: a line of more than 8388608 bytes"),
        (
            "hang@prepare",
            "the worker gave no sign of life for 1 s while preparing and warming up; the worker was ended",
        ),
        ("hang@window", "the worker gave no sign of life for 1 s while measuring; the worker was ended"),
        ("stop@window", "the worker gave no sign of life for 1 s while measuring; the worker was ended"),
    ];
    for (fault, reason) in cases {
        let bench = Bench::new();
        let workload = format!("scripted(fault={fault})");
        let ran =
            bench.run(&["--workload", &workload, "--batch", "1", "--patience", "1s", "-q", "-o", "a.csv"]);
        assert_eq!(ran.code, Some(5), "{fault}: {}", ran.stderr);
        let rows = bench.rows("a.csv");
        assert_eq!((rows.len(), rows[0].outcome.status), (1, Status::Failed), "{fault}");
        let error = rows[0].outcome.error.as_deref().unwrap();
        assert!(error.starts_with(reason), "{fault}: {error}");
        assert!(error.matches("scripted error").count() < 2, "said twice: {error}");
        assert!(ran.stdout.contains("FAILED") && ran.stdout.contains(reason), "{fault}: {}", ran.stdout);
    }
}

/// What a library prints reaches neither the protocol nor the user.
#[test]
fn noise_on_standard_output_does_not_corrupt_the_protocol() {
    for phase in ["hello", "window", "done"] {
        let bench = Bench::new();
        let workload = format!("scripted(fault=noise@{phase})");
        let ran = bench.run(&["--workload", &workload, "--batch", "1", "-q", "-o", "-"]);
        assert_eq!(ran.code, Some(0), "{phase}: {}", ran.stderr);
        assert_eq!(ran.stdout.lines().count(), 2, "{phase}");
    }
}

/// The failure of one run leaves the others alone.
#[test]
fn later_runs_go_on_after_a_failed_one() {
    let bench = Bench::new();
    let ran =
        bench.run(&["--workload", "scripted(fault=exit@window)", "--batch", "1,2,4", "-q", "-o", "a.csv"]);
    assert_eq!(ran.code, Some(5));
    assert_eq!(bench.rows("a.csv").len(), 3);
}

const SLOW: &str = "scripted(times=2ms,clock=real)";

/// Starts a measurement in real time and waits until its window is open.
fn start_slow(bench: &Bench, extra: &[&str]) -> (std::process::Child, u32) {
    let arguments = [&["--workload", SLOW, "--batch", "1", "-o", "a.csv"], extra].concat();
    let child = bench.start(&arguments);
    let worker = wait_for("a worker", || workers_of(child.id()).first().copied());
    (child, worker)
}

#[test]
fn an_interrupted_window_is_saved() {
    for interrupt in [Signal::INT, Signal::TERM] {
        let bench = Bench::new();
        let (child, worker) = start_slow(&bench, &["--duration", "1h"]);
        // Past the warm-up of a second, into the window.
        std::thread::sleep(Duration::from_millis(1500));
        signal(child.id(), interrupt);
        let ran = ran(child.wait_with_output().unwrap());
        assert_eq!(ran.code, Some(130), "{}", ran.stderr);
        assert!(ran.stderr.ends_with("interrupted: what was measured is saved\n"), "{}", ran.stderr);
        let row = &bench.rows("a.csv")[0];
        assert_eq!(row.outcome.status, Status::Interrupted);
        assert!(!is_alive(worker));
    }
}

#[test]
fn interrupted_before_the_window_is_a_row_without_numbers() {
    let bench = Bench::new();
    let (child, worker) = start_slow(&bench, &["--batch", "2,3"]);
    signal(child.id(), Signal::INT);
    let ran = ran(child.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(130), "{}", ran.stderr);
    let rows = bench.rows("a.csv");
    assert_eq!(rows.len(), 1, "the runs after it are left to --resume");
    assert_eq!((rows[0].outcome.status, rows[0].latency.mean), (Status::Interrupted, None));
    assert!(rows[0].outcome.error.as_deref().unwrap().starts_with("interrupted before its window"));
    assert!(!is_alive(worker));
}

#[test]
fn the_second_interrupt_ends_everything_now() {
    let bench = Bench::new();
    let workload = "scripted(fault=hang@window)";
    let child = bench.start(&["--workload", workload, "--batch", "1", "-o", "a.csv"]);
    let worker = wait_for("a worker", || workers_of(child.id()).first().copied());
    std::thread::sleep(Duration::from_millis(500));
    signal(child.id(), Signal::INT);
    std::thread::sleep(Duration::from_millis(300));
    signal(child.id(), Signal::INT);
    let ran = ran(child.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(130), "{}", ran.stderr);
    assert_eq!(bench.rows("a.csv")[0].outcome.status, Status::Interrupted);
    assert!(!is_alive(worker));
}

#[test]
fn no_worker_outlives_a_killed_parent() {
    let bench = Bench::new();
    let (mut child, worker) = start_slow(&bench, &["--duration", "1h"]);
    std::thread::sleep(Duration::from_millis(300));
    signal(child.id(), Signal::KILL);
    child.wait().unwrap();
    wait_for("the worker's end", || (!is_alive(worker)).then_some(()));
    assert!(bench.rows("a.csv").is_empty(), "a header, and nothing torn");
}

#[test]
fn a_killed_worker_is_a_failed_row() {
    let bench = Bench::new();
    let (child, worker) = start_slow(&bench, &["--duration", "1h"]);
    std::thread::sleep(Duration::from_millis(300));
    signal(worker, Signal::KILL);
    let ran = ran(child.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(5), "{}", ran.stderr);
    let row = &bench.rows("a.csv")[0];
    assert!(row.outcome.error.as_deref().unwrap().contains("was killed by SIGKILL"));
}

#[test]
fn a_stopped_parent_does_not_blame_its_worker() {
    let bench = Bench::new();
    let (child, _) = start_slow(&bench, &["--duration", "200ms", "--patience", "2s"]);
    std::thread::sleep(Duration::from_millis(200));
    signal(child.id(), Signal::STOP);
    std::thread::sleep(Duration::from_millis(3500));
    signal(child.id(), Signal::CONT);
    let ran = ran(child.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(bench.rows("a.csv")[0].outcome.status, Status::Ok);
}

/// The disk fills: exit 1 and a file that ends with a whole line, or exit 2 where not even the header
/// fits. A limit on the size of files stands for the disk.
#[test]
fn a_full_disk_leaves_a_readable_file() {
    let arguments = "--workload 'scripted()' --batch 1,2,3,4,5,6,7,8 -q -o a.csv";
    let mut counts = Vec::new();
    // In blocks of 512 bytes, as POSIX has it.
    for blocks in 1..9 {
        let bench = Bench::new();
        let script = format!("ulimit -f {blocks}; exec \"$0\" {arguments}");
        let output = std::process::Command::new("sh")
            .args(["-c", &script, env!("CARGO_BIN_EXE_migbench")])
            .current_dir(bench.folder.path())
            .env("MIGBENCH_NVML", "/nonexistent/libnvidia-ml.so.1")
            .output()
            .unwrap();
        let ran = ran(output);
        assert!(ran.stderr.contains("a.csv: "), "{blocks} blocks: {}", ran.stderr);
        assert_eq!(ran.code, Some(1), "{blocks} blocks: {}", ran.stderr);
        // Before anything is measured.
        if ran.stderr.starts_with("migbench: cannot write a.csv") {
            continue;
        }
        assert!(ran.stderr.starts_with("migbench: cannot write to a.csv"), "{blocks} blocks: {}", ran.stderr);
        counts.push(bench.rows("a.csv").len());
    }
    assert!(counts.len() > 3 && counts[0] < *counts.last().unwrap() && counts.is_sorted(), "{counts:?}");
}
