//! A sweep that was cut off goes on where it was: `--resume`.

mod common;

use common::{Bench, signal, wait_for, workers_of};
use migbench::analysis::rounds::latest;
use migbench::results::row::Status;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// 24 runs of a few milliseconds each.
const SWEEP: [&str; 7] = ["--workload", "scripted()", "--batch", "1,2,3,4", "--repeat", "6", "-q"];

fn resume(bench: &Bench, more: &[&str]) -> common::Ran {
    bench.run(&[&SWEEP[..], &["--resume", "a.csv"], more].concat())
}

/// How often each planned row is there in its final form, and in how many runs.
fn counts(bench: &Bench) -> (BTreeMap<(u32, u64), usize>, usize) {
    let rows = bench.rows("a.csv");
    let mut counts = BTreeMap::new();
    for row in rows.iter().filter(|row| row.outcome.status != Status::Interrupted) {
        *counts.entry((row.provenance.repetition, row.point.batch)).or_default() += 1;
    }
    let mut runs: Vec<&str> = rows.iter().map(|row| row.provenance.run_id.as_str()).collect();
    runs.sort_unstable();
    runs.dedup();
    (counts, runs.len())
}

/// What the parent is hit by.
const HITS: [&[Signal]; 6] = [
    &[Signal::KILL],
    &[Signal::TERM],
    &[Signal::INT],
    &[Signal::HUP],
    &[Signal::INT, Signal::INT],
    &[Signal::STOP, Signal::CONT],
];

/// The parent is hit at random moments, and the sweep is resumed until it is done: each planned row is
/// there once, whatever the parent was hit by. `FULL=1` hits 100 times.
#[test]
fn random_hits_lose_nothing_and_repeat_nothing() {
    let seed = std::env::var("SEED").map_or(4, |seed| seed.parse().expect("SEED is a number"));
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut hits, wanted) = (0, common::scale(100).max(HITS.len()));
    while hits < wanted {
        let bench = Bench::new();
        loop {
            let exists = bench.path("a.csv").exists();
            let how: &[&str] = if exists { &["--resume", "a.csv"] } else { &["-o", "a.csv"] };
            let mut child = bench.start(&[&SWEEP[..], how].concat());
            std::thread::sleep(Duration::from_millis(random.u64(5..400)));
            if hits < wanted && child.try_wait().unwrap().is_none() {
                let hit = HITS[hits % HITS.len()];
                for &each in hit {
                    signal(child.id(), each);
                    std::thread::sleep(Duration::from_millis(random.u64(0..30)));
                }
                hits += 1;
            }
            let ran = common::ran(child.wait_with_output().unwrap());
            assert!(matches!(ran.code, None | Some(0 | 130)), "{:?}: {}{}", ran.code, ran.stderr, ran.stdout);
            if ran.code == Some(0) {
                break;
            }
        }
        let (counts, runs) = counts(&bench);
        assert_eq!(counts.len(), 24);
        assert!(counts.values().all(|&count| count == 1), "{counts:?}");
        assert_eq!(runs, 1, "a resumed sweep is one run");
        let left: Vec<_> =
            fs::read_dir(bench.folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["a.csv"], "nothing else is left");
    }
}

#[test]
fn a_file_of_another_sweep_is_refused_with_the_difference() {
    let bench = Bench::new();
    assert_eq!(bench.run(&[&SWEEP[..], &["-o", "a.csv"]].concat()).code, Some(0));
    let before = fs::read(bench.path("a.csv")).unwrap();
    let refused = |arguments: &[&str]| {
        let ran = bench.run(&[arguments, &["-q", "--resume", "a.csv"]].concat());
        assert_eq!(ran.code, Some(2), "{}", ran.stderr);
        ran.stderr
    };
    let other = ["--workload", "scripted()", "--batch", "1,2", "--repeat", "6"];
    let error = refused(&other);
    assert!(
        error.starts_with("migbench: cannot resume a.csv: it has a row that this plan has not: "),
        "{error}"
    );
    let error = refused(&[&SWEEP[..6], &["--seed", "9", "--duration", "1s"]].concat());
    assert_eq!(
        error,
        "migbench: cannot resume a.csv: it was measured otherwise: seed is '1' there and '9' now; \
         window_rule is '10s & 700 batches <= 60s' there and '1s' now\n"
    );
    let error = refused(&[&SWEEP[..6], &["--extra-work-us", "500"]].concat());
    assert!(
        error.ends_with("it was measured otherwise: extra_work_us is '' there and '500' now\n"),
        "{error}"
    );
    assert_eq!(fs::read(bench.path("a.csv")).unwrap(), before, "a refusal changes nothing");
    let ran = bench.run(&[&SWEEP[..], &["--resume", "b.csv"]].concat());
    assert!(ran.stderr.starts_with("migbench: cannot read b.csv"), "{}", ran.stderr);
    let ran = bench.run(&[&SWEEP[..], &["--resume", "a.csv", "-o", "c.csv"]].concat());
    assert_eq!(ran.code, Some(2));
}

#[test]
fn a_whole_file_is_shown_again_and_nothing_runs() {
    let bench = Bench::new();
    let first = bench.run(&[&SWEEP[..], &["-o", "a.csv"]].concat());
    let before = fs::read(bench.path("a.csv")).unwrap();
    let again = resume(&bench, &[]);
    assert_eq!((again.code, &again.stdout), (Some(0), &first.stdout));
    assert_eq!(fs::read(bench.path("a.csv")).unwrap(), before);
}

#[test]
fn a_torn_line_is_cut_off() {
    let bench = Bench::new();
    bench.run(&[&SWEEP[..], &["-o", "a.csv"]].concat());
    let bytes = fs::read(bench.path("a.csv")).unwrap();
    fs::write(bench.path("a.csv"), &bytes[..bytes.len() - 7]).unwrap();
    assert_eq!(resume(&bench, &[]).code, Some(0));
    let (counts, _) = counts(&bench);
    assert!(counts.len() == 24 && counts.values().all(|&count| count == 1), "{counts:?}");
}

#[test]
fn what_failed_is_done_unless_it_is_to_be_tried_again() {
    let bench = Bench::new();
    let arguments = ["--workload", "scripted(fault=exit@window)", "--batch", "1,2", "-q"];
    assert_eq!(bench.run(&[&arguments[..], &["-o", "a.csv"]].concat()).code, Some(5));
    let again = |more: &[&str]| bench.run(&[&arguments[..], &["--resume", "a.csv"], more].concat()).code;
    assert_eq!((again(&[]), bench.rows("a.csv").len()), (Some(5), 2));
    assert_eq!((again(&["--retry-failed"]), bench.rows("a.csv").len()), (Some(5), 4));
    let rows = bench.rows("a.csv");
    let last = latest(&rows);
    assert!(last.len() == 2 && last.iter().all(|row| row.provenance.attempt == 2));
}

#[test]
fn an_interrupted_run_is_measured_again() {
    let bench = Bench::new();
    let arguments =
        ["--workload", "scripted(times=2ms,clock=real)", "--batch", "1", "--duration", "2s", "-q"];
    let child = bench.start(&[&arguments[..], &["-o", "a.csv"]].concat());
    wait_for("a worker", || workers_of(child.id()).first().copied());
    std::thread::sleep(Duration::from_millis(300));
    signal(child.id(), Signal::INT);
    assert_eq!(common::ran(child.wait_with_output().unwrap()).code, Some(130));
    assert_eq!(bench.rows("a.csv")[0].outcome.status, Status::Interrupted);
    let ran = bench.run(&[&arguments[..], &["--resume", "a.csv"]].concat());
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
    let rows = bench.rows("a.csv");
    assert_eq!((rows.len(), rows[1].provenance.attempt), (2, 2));
    assert!(!ran.stdout.contains("INTERRUPTED"), "{}", ran.stdout);
}
