//! Workers that stand still in the middle of a co-run, on a stand-in machine: whoever was stopped is named,
//! and nobody who was not.
//!
//! `FULL=1` stops ten times in each way, else one of ten.

mod common;

use common::standin::Machine;
use common::{error, ran, signal, wait_for, workers_of};
use migbench::measure::clock::{Clock, Monotonic};
use migbench::results::Row;
use migbench::results::row::Status;
use rustix::process::Signal;
use std::process::Stdio;
use std::sync::Mutex;
use std::time::Duration;

const S: f64 = 1e9;

/// One of `workers` is stopped for a time within windows of a length, in s, at a random place.
#[derive(Clone, Copy, Debug)]
struct Stop {
    workers: usize,
    window_s: u64,
    lasts_s: f64,
    seed: u64,
}

fn stops() -> Vec<Stop> {
    let full = std::env::var_os("FULL").is_some();
    let mut all = Vec::new();
    for repetition in 0..if full { 10 } else { 1 } {
        for (workers, window_s) in [(2, 4), (2, 10), (7, 4), (7, 10)] {
            for lasts_s in [0.3, 1.0, 3.0, 6.0] {
                all.push(Stop { workers, window_s, lasts_s, seed: all.len() as u64 + 100 * repetition });
            }
        }
    }
    all
}

/// What was done: the UUID of the worker, and when it was stopped.
struct Stopped {
    uuid: String,
    from_ns: u64,
}

/// None as long as the process has not become a worker.
fn uuid_of(worker: u32) -> Option<String> {
    let environment = std::fs::read(format!("/proc/{worker}/environ")).unwrap_or_default();
    let variables = environment.split(|&byte| byte == 0).map(String::from_utf8_lossy);
    let mut uuids =
        variables.filter_map(|text| text.strip_prefix("CUDA_VISIBLE_DEVICES=").map(str::to_owned));
    uuids.next()
}

/// Runs once and stops a worker, `later` than its window should open.
fn play(stop: Stop, later: Duration) -> (Stopped, Vec<Row>) {
    let mut random = fastrand::Rng::with_seed(stop.seed);
    let machine = Machine::named("h200-7x1g");
    let uuids: Vec<String> =
        machine.topology.gpus[0].mig_devices.iter().map(|mig| mig.uuid.clone()).collect();
    let duration = format!("{}s", stop.window_s);
    let mut arguments =
        vec!["--workload", "scripted(times=10ms,clock=real)", "--batch", "1", "--duration", &duration];
    uuids.iter().take(stop.workers).for_each(|uuid| arguments.extend(["--uuid", uuid]));
    arguments.extend(["-q", "-o", "a.csv"]);
    let child = machine.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let all_there = || Some(workers_of(child.id())).filter(|workers| workers.len() == stop.workers);
    let workers = wait_for("the workers", all_there);
    let worker = workers[random.usize(..workers.len())];
    let uuid = wait_for("a pinned worker", || uuid_of(worker));
    // A second of warm-up and a second together come first. The stop begins within the window.
    let place = random.f64() * (stop.window_s as f64 - 1.0).max(0.0);
    std::thread::sleep(Duration::from_millis(2300) + later + Duration::from_secs_f64(place));
    signal(worker, Signal::STOP);
    let from_ns = Monotonic.now();
    std::thread::sleep(Duration::from_secs_f64(stop.lasts_s));
    signal(worker, Signal::CONT);
    let stopped = Stopped { uuid, from_ns };
    let ran = ran(child.wait_with_output().unwrap());
    assert!(matches!(ran.code, Some(0 | 5)), "{stop:?}: {}", ran.stderr);
    let checked = machine.bench.run(&["check", "a.csv"]);
    assert_eq!(checked.code, Some(0), "{stop:?}: {}", checked.stdout);
    (stopped, machine.bench.rows("a.csv"))
}

fn window(row: &Row) -> (u64, u64) {
    (row.window.start_ns.unwrap(), row.window.end_ns.unwrap())
}

/// The stop lies in the windows of all: then nothing of it may be missed.
fn is_inside(stopped: &Stopped, rows: &[Row]) -> bool {
    let named = rows.iter().filter_map(|row| row.window.named_start_ns).max().unwrap();
    let first_end = rows.iter().map(|row| window(row).1).min().unwrap();
    stopped.from_ns > named && stopped.from_ns < first_end
}

fn judge(stop: Stop, stopped: &Stopped, rows: &[Row]) {
    let uuid = |row: &Row| row.subject.instance.mig_uuid.clone().unwrap();
    assert_eq!(rows.len(), stop.workers);
    for row in rows {
        let reason = error(row);
        assert_eq!(row.outcome.status, Status::Invalid, "{stop:?}: {} is {:?}", uuid(row), row.outcome);
        assert!(reason.contains(&stopped.uuid), "{stop:?}: {reason}");
        // Whoever else is named shows it in what it recorded itself.
        for other in rows.iter().filter(|other| uuid(other) != stopped.uuid) {
            for clause in reason.split("; ").filter(|clause| clause.contains(&uuid(other))) {
                shows(other, clause);
            }
        }
    }
    // The stopped worker's own row has the pause.
    let own = rows.iter().find(|row| uuid(row) == stopped.uuid).unwrap();
    assert!(own.health.longest_pause_ms.unwrap() > 250.0, "{stop:?}: {:?}", own.health);
}

/// A worker that was not stopped by this test did what is said of it.
fn shows(row: &Row, clause: &str) {
    let longest = row.health.longest_pause_ms.unwrap_or(0.0);
    if clause.contains("stood still") {
        assert!(longest > 250.0, "{clause}: {longest} ms");
    } else if clause.contains("stalled") {
        // Batches of 10 ms asleep: more than 10 % fewer of them are late wake-ups, which it recorded.
        assert!(row.latency.max.unwrap() > 11.0, "{clause}: {:?}", row.latency);
    } else {
        let late = (window(row).0 - row.window.named_start_ns.unwrap()) as f64 / S;
        assert!(clause.contains("opened its") && late > 0.05, "{clause}: {late} s");
    }
}

#[test]
fn whoever_is_stopped_is_named() {
    let waiting = Mutex::new(stops());
    // The workers sleep for most of the time.
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while let Some(stop) = { waiting.lock().unwrap().pop() } {
                    // A busy machine may open its windows later than it was waited for.
                    let (stopped, rows) = (0..20)
                        .map(|tries| play(stop, Duration::from_millis(500 * (tries % 5))))
                        .find(|(stopped, rows)| is_inside(stopped, rows))
                        .expect("a stop within a window");
                    judge(stop, &stopped, &rows);
                }
            });
        }
    });
}
