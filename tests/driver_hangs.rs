//! NVML that hangs, dies, lies or is slow, in each of its functions: nothing waits for it for ever, and
//! what was measured is saved.

mod common;

use common::standin::Machine;
use common::{command_line, helper_of, is_alive, ran, scale, signal, wait_for, workers_of};
use migbench::machine::Topology;
use migbench::machine::topology::Process;
use migbench::results::Row;
use migbench::results::row::{Neighbours, Status};
use rustix::process::Signal;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Of three instances, two.
const TWO: &str = "MIG-5a5a0000-0002,MIG-5a5a0000-0003";
/// For a program that must end by itself, on a machine that is busy with other tests.
const GENEROUS: Duration = Duration::from_secs(180);
/// How long a test lets a driver be silent; a reading takes milliseconds.
const LIMIT: (&str, &str) = ("MIGBENCH_NVML_LIMIT", "2s");

/// Every function of the stand-in's NVML; the program uses no other.
fn functions() -> Vec<String> {
    let sources = [include_str!("standin/nvml.rs"), include_str!("standin/counters.rs")];
    let name = |line: &str| {
        let (_, rest) = line.split_once("fn nvml")?;
        Some(format!("nvml{}", rest.split('(').next()?))
    };
    sources.iter().flat_map(|text| text.lines()).filter_map(name).collect()
}

/// A program that a failed test does not leave behind.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts it with both streams in files, so that none of its children can hold up the test.
fn start(machine: &Machine, arguments: &[&str], limit: &str) -> Started {
    let file = |name: &str| std::fs::File::create(machine.bench.path(name)).unwrap();
    let mut command = machine.command(arguments);
    command.env(LIMIT.0, limit).stdout(file("stdout")).stderr(file("stderr")).stdin(Stdio::null());
    Started(command.spawn().unwrap())
}

fn read(machine: &Machine, name: &str) -> String {
    std::fs::read_to_string(machine.bench.path(name)).unwrap()
}

/// Its exit code and standard error, once it has ended without help.
fn end(machine: &Machine, mut child: Started, what: &str) -> (Option<i32>, String) {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.0.try_wait().unwrap() {
            return (status.code(), read(machine, "stderr"));
        }
        if begin.elapsed() > GENEROUS {
            panic!("{what}: no end; it said: {}", read(machine, "stderr"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The processes that still ask this machine's NVML.
fn helpers(machine: &Machine) -> Vec<u32> {
    let library = machine.bench.path("lib/libnvidia-ml.so.1").display().to_string();
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let words = command_line(pid);
        (words.iter().any(|word| word == "probe") && words.contains(&library) && is_alive(pid)).then_some(pid)
    });
    pids.collect()
}

/// A row without readings claims nothing about the GPU.
fn lost(row: &Row) -> bool {
    let health = &row.health;
    let empty = health.gpu_sm_clock_mhz.is_none();
    if empty {
        assert_eq!(row.subject.neighbours, Some(Neighbours::Unknown));
        assert_eq!((health.gpu_power_w, health.gpu_throttled_ms), (None, None));
        assert!(!row.outcome.warnings.codes().contains("gpu-"), "{}", row.outcome.warnings.codes());
    }
    empty
}

/// This many rows, each of them measured. On a noisy machine some need not be ok.
fn measured(machine: &Machine, count: usize, what: &str) -> Vec<Row> {
    let rows = machine.bench.rows("a.csv");
    assert_eq!(rows.len(), count, "{what}");
    for row in &rows {
        assert!(row.window.batches.is_some() && row.outcome.status != Status::Failed, "{what}: {row:?}");
    }
    rows
}

fn notes(stderr: &str) -> usize {
    stderr.matches("migbench: cannot read the GPUs from NVML: ").count()
}

/// Two instances, six runs: each of the functions for readings is called a dozen times. On virtual clocks
/// that takes a second, and rows of a co-run need not be ok: their windows may lie in different times.
const SWEEP: [&str; 12] = [
    "--workload",
    "scripted(times=1ms)",
    "--uuid",
    TWO,
    "--batch",
    "1,2,4",
    "--repeat",
    "2",
    "--batches",
    "20",
    "-q",
    "--output=a.csv",
];

/// One function that hangs at one of its calls, under one command.
fn hang(function: &str, call: u32, command: &[&str]) {
    let what = format!("{function}, call {call}, {}", command[0]);
    let machine = Machine::named("h200-mixed").faults(&format!("{function} after {} = hang", call - 1));
    let child = start(&machine, command, LIMIT.1);
    let (code, stderr) = end(&machine, child, &what);
    assert!(!stderr.contains("panicked"), "{what}: {stderr}");
    let hangs = machine.bench.path("hanging").exists();
    match code {
        Some(2) => {
            assert!(
                stderr.contains("cannot read the GPUs from NVML: no answer within 2 s"),
                "{what}: {stderr}"
            );
            assert!(stderr.contains("`migbench doctor` says what to do"), "{what}: {stderr}");
            assert!(!machine.bench.path("a.csv").exists(), "{what}");
        }
        Some(0 | 5) if command == SWEEP => {
            let rows = measured(&machine, 12, &what);
            let without = rows.iter().filter(|row| lost(row)).count();
            assert!(without == 0 || notes(&stderr) > 0, "{what}: {without} rows without a note: {stderr}");
            assert!(notes(&stderr) <= 2, "{what}: {stderr}");
            assert!(!hangs || notes(&stderr) > 0, "{what}: not a word");
        }
        Some(0) => assert!(!hangs, "{what}: {stderr}"),
        other => panic!("{what}: exit code {other:?}: {stderr}"),
    }
    wait_for("the end of its helpers", || helpers(&machine).is_empty().then_some(()));
}

/// `FULL=1` tries all, a seeded tenth else.
#[test]
fn no_function_that_hangs_holds_up_a_command() {
    let plan: Vec<&str> = [&SWEEP[..], &["--list-runs"]].concat();
    let mut cases = Vec::new();
    for function in functions() {
        for call in [1, 3, 12] {
            let commands = [&["list"][..], &plan, &SWEEP];
            cases.extend(commands.map(|command| (function.clone(), call, command)));
        }
    }
    assert!(cases.len() > 40 * 9, "the stand-in's functions are no longer found");
    fastrand::Rng::with_seed(18).shuffle(&mut cases);
    cases.truncate(scale(cases.len()));
    // They mostly sleep.
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while let Some((function, call, command)) = cases.get(next.fetch_add(1, Relaxed)) {
                    hang(function, *call, command);
                }
            });
        }
    });
}

/// The functions that are called while runs are measured, whichever the tenth above contains.
#[test]
fn a_hang_at_the_edges_of_a_run_costs_its_readings_only() {
    for function in ["nvmlDeviceGetClockInfo", "nvmlDeviceGetComputeRunningProcesses_v3"] {
        hang(function, 7, &SWEEP);
    }
}

fn sweep(more: &[&'static str]) -> Vec<&'static str> {
    let real = ["--workload", "scripted(times=1ms,clock=real)", "--uuid", TWO, "-q", "-o", "a.csv"];
    [&real[..], more].concat()
}

#[test]
fn two_interrupts_end_a_sweep_whose_driver_hangs() {
    // The first run reads twice, after two calls for the topology.
    let machine = Machine::named("h200-mixed").faults("nvmlDeviceGetClockInfo after 4 = hang");
    let child = start(&machine, &sweep(&["--duration", "200ms", "--batch", "1,2"]), "1h");
    wait_for("the hang", || machine.bench.path("hanging").exists().then_some(()));
    // Two different signals, which the kernel cannot merge into one.
    signal(child.0.id(), Signal::INT);
    signal(child.0.id(), Signal::TERM);
    let pid = child.0.id();
    let (code, stderr) = end(&machine, child, "INT and TERM");
    assert_eq!(code, Some(130), "{stderr}");
    assert_eq!(notes(&stderr), 0, "impatience says nothing about the driver: {stderr}");
    let rows = machine.bench.rows("a.csv");
    assert!(rows.len() >= 2 && rows[..2].iter().all(|row| row.window.batches.is_some()), "{rows:?}");
    assert!(!rows[..2].iter().any(lost), "{rows:?}");
    wait_for("the end of all", || (workers_of(pid).is_empty() && helpers(&machine).is_empty()).then_some(()));
}

#[test]
fn an_interrupt_ends_a_command_that_waits_for_the_topology() {
    let plan = sweep(&["--list-runs"]);
    for command in [&["list"][..], &plan[..], &sweep(&[])[..]] {
        let machine = Machine::named("h200-mixed").faults("nvmlInit_v2 = hang");
        let child = start(&machine, command, "1h");
        wait_for("the hang", || machine.bench.path("hanging").exists().then_some(()));
        // A job in the background of a script ignores SIGINT from its start.
        signal(child.0.id(), Signal::TERM);
        let (code, _) = end(&machine, child, command[0]);
        assert!(code.is_none() || code == Some(130), "{}: {code:?}", command[0]);
        wait_for("the end of its helper", || helpers(&machine).is_empty().then_some(()));
    }
}

#[test]
fn a_parent_that_is_killed_takes_its_helper_along() {
    for faults in ["", "nvmlDeviceGetClockInfo after 2 = hang"] {
        let machine = Machine::named("h200-mixed").faults(faults);
        let mut child = start(&machine, &sweep(&["--duration", "60s"]), "1h");
        let helper = wait_for("its helper", || helper_of(child.0.id()));
        if !faults.is_empty() {
            wait_for("the hang", || machine.bench.path("hanging").exists().then_some(()));
        }
        child.0.kill().unwrap();
        child.0.wait().unwrap();
        wait_for("the helper's end", || (!is_alive(helper)).then_some(()));
    }
}

/// It never loads CUDA, and whoever reads the parent's streams sees their end with the parent's.
#[test]
fn a_helper_holds_neither_the_streams_of_its_parent_nor_cuda() {
    let machine = Machine::named("h200-mixed").faults("nvmlDeviceGetClockInfo = hang");
    let child = start(&machine, &["list"], "1h");
    wait_for("the hang", || machine.bench.path("hanging").exists().then_some(()));
    let helper = wait_for("its helper", || helper_of(child.0.id()));
    let maps = std::fs::read_to_string(format!("/proc/{helper}/maps")).unwrap();
    assert!(maps.contains("standin_nvml") && !maps.contains("cuda"), "{maps}");
    let links = std::fs::read_dir(format!("/proc/{helper}/fd")).unwrap();
    let open: Vec<_> = links.filter_map(|link| std::fs::read_link(link.unwrap().path()).ok()).collect();
    for stream in ["stdout", "stderr"] {
        assert!(!open.contains(&machine.bench.path(stream).canonicalize().unwrap()), "{open:?}");
    }
    assert_eq!(helpers(&machine), [helper], "one for the whole command");
}

#[test]
fn a_helper_that_is_killed_is_replaced_once() {
    let machine = Machine::named("h200-mixed");
    let more = ["--duration", "300ms", "--batch", "1,2,4,8", "--repeat", "2"];
    let child = start(&machine, &sweep(&more), LIMIT.1);
    let rows = |machine: &Machine| {
        let text = std::fs::read_to_string(machine.bench.path("a.csv")).unwrap_or_default();
        text.lines().count().saturating_sub(1)
    };
    let first = wait_for("its helper", || helper_of(child.0.id()));
    wait_for("the first rows", || (rows(&machine) >= 2).then_some(()));
    signal(first, Signal::KILL);
    let second = wait_for("another helper", || helper_of(child.0.id()).filter(|&pid| pid != first));
    let before = rows(&machine);
    wait_for("more rows", || (rows(&machine) >= before + 4).then_some(()));
    signal(second, Signal::KILL);
    let (code, stderr) = end(&machine, child, "two helpers killed");
    assert!(matches!(code, Some(0 | 5)) && notes(&stderr) == 2, "{code:?} {stderr}");
    assert!(stderr.contains("ended with signal: 9 (SIGKILL); trying once more"), "{stderr}");
    assert!(stderr.contains("this run and later ones have no readings of the GPU"), "{stderr}");
    let rows = measured(&machine, 16, "two helpers killed");
    assert!(!lost(&rows[0]) && !lost(&rows[before + 2]) && lost(&rows[15]), "{before}");
}

/// A batch system that ends a job sends SIGTERM to every process of it.
#[test]
fn a_helper_is_there_until_its_parent_has_done() {
    let machine = Machine::named("h200-mixed");
    let child = start(&machine, &sweep(&["--duration", "60s"]), LIMIT.1);
    let helper = wait_for("its helper", || helper_of(child.0.id()));
    wait_for("two workers", || Some(()).filter(|()| workers_of(child.0.id()).len() == 2));
    for sign in [Signal::INT, Signal::TERM, Signal::HUP] {
        signal(helper, sign);
    }
    // Half a second into the window, or before it: either way the parent ends in order.
    std::thread::sleep(Duration::from_secs(3));
    signal(child.0.id(), Signal::TERM);
    let (code, stderr) = end(&machine, child, "TERM");
    assert_eq!((code, notes(&stderr)), (Some(130), 0), "{stderr}");
}

/// Stopped for longer than the limit while the driver answers, and continued.
#[test]
fn a_stopped_parent_does_not_blame_the_driver() {
    let machine = Machine::named("h200-mixed").faults("nvmlDeviceGetName = slow 300");
    // The driver answers within 1.2 s; a crowded machine takes longer.
    let child = start(&machine, &["list"], "8s");
    wait_for("its helper", || helper_of(child.0.id()));
    signal(child.0.id(), Signal::STOP);
    std::thread::sleep(Duration::from_secs(10));
    signal(child.0.id(), Signal::CONT);
    let (code, stderr) = end(&machine, child, "STOP and CONT");
    assert_eq!(code, Some(0), "{stderr}");
}

#[test]
fn a_slow_driver_is_waited_for() {
    let machine = Machine::named("h200-mixed").faults("nvmlDeviceGetClockInfo = slow 150");
    let child = start(&machine, &["list", "--format", "json"], LIMIT.1);
    let (code, stderr) = end(&machine, child, "slow list");
    assert_eq!(code, Some(0), "{stderr}");
    assert!(Topology::from_json(&read(&machine, "stdout")).unwrap().gpus[0].clocks.sm.is_some());
    let child = start(&machine, &SWEEP, "60s");
    let (code, stderr) = end(&machine, child, "slow sweep");
    assert!(matches!(code, Some(0 | 5)) && notes(&stderr) == 0, "{code:?} {stderr}");
    assert!(!measured(&machine, 12, "slow").iter().any(lost));
}

#[test]
fn a_driver_that_crashes_is_named_and_ends_nothing() {
    let machine = Machine::named("h200-mixed").faults("nvmlDeviceGetName = crash");
    for command in [&["list"][..], &SWEEP] {
        let ran = machine.run(command);
        assert_eq!(ran.code, Some(2), "{}", ran.stderr);
        let what = "from NVML: the process that asked ended with signal: 6 (SIGABRT); `migbench doctor` says";
        assert!(ran.stderr.contains(what), "{}", ran.stderr);
    }
    let machine = Machine::named("h200-mixed").faults("nvmlDeviceGetTemperature after 2 = crash");
    let ran = machine.run(&SWEEP);
    assert!(matches!(ran.code, Some(0 | 5)) && notes(&ran.stderr) == 2, "{:?} {}", ran.code, ran.stderr);
    let rows = measured(&machine, 12, "crash");
    assert!(!lost(&rows[0]) && lost(&rows[11]));
}

#[test]
fn a_library_that_writes_to_standard_output_does_not_get_between_the_answers() {
    let machine = Machine::named("h200-mixed");
    let quiet = machine.run(&["list"]);
    let machine = machine.faults("chatter = on");
    let loud = machine.run(&["list"]);
    assert_eq!((loud.code, &loud.stdout), (Some(0), &quiet.stdout), "{}", loud.stderr);
}

/// Periodic readings have a helper of their own.
#[test]
fn periodic_readings_that_hang_end_and_the_windows_do_not() {
    let machine =
        Machine::named("h200-mixed").faults("nvmlDeviceGetTemperature after 5 = hang\nenergy_w = 300");
    let more = ["--duration", "1500ms", "--batch", "1", "--telemetry", "20ms"];
    let child = start(&machine, &sweep(&more), LIMIT.1);
    let (code, stderr) = end(&machine, child, "telemetry");
    assert!(matches!(code, Some(0 | 5)), "{code:?} {stderr}");
    assert!(machine.bench.path("hanging").exists());
    let rows = measured(&machine, 2, "telemetry");
    assert!(!rows.iter().any(lost), "the edges are read by another: {stderr}");
    assert!(read(&machine, "a.telemetry.csv").lines().count() > 5);
}

/// Counts that no card can have: nothing gets that long, and the number is told.
#[test]
fn absurd_counts_are_told_and_not_used() {
    let read = |machine: &Machine| {
        let listed = ran(machine.command(&["list", "--format", "json"]).output().unwrap());
        assert_eq!(listed.code, Some(0), "{}", listed.stderr);
        assert_eq!(machine.run(&["list"]).code, Some(0));
        Topology::from_json(&listed.stdout).unwrap()
    };
    let told = |why: &str| assert!(why.contains("NVML reports 4294967295 "), "{why}");

    let mut topology = common::machines::named("h200-mixed");
    topology.gpus[0].profiles[0].max = Some(u32::MAX);
    topology.gpus[0].profiles[1].slices = Some(u32::MAX);
    topology.gpus[0].profiles[2].free = Some(u32::MAX);
    let found = read(&Machine::new(topology));
    let profiles = &found.gpus[0].profiles;
    for field in ["max", "slices", "free"] {
        told(profiles.iter().find_map(|profile| profile.unread.get(field)).unwrap());
    }
    told(&found.gpus[0].unread["gpu_instances"]);
    assert_eq!(found.instances().len(), 3);

    let mut topology = common::machines::named("h200-mixed");
    topology.gpus[0].mig_devices_max = Some(u32::MAX);
    let found = read(&Machine::new(topology));
    told(&found.gpus[0].unread["mig_devices_max"]);
    assert_eq!((found.gpus[0].mig_devices_max, found.instances().len()), (None, 3));

    let lying = |call: &str| {
        let mut topology = common::machines::named("h200-mixed");
        let process = Process { pid: 1, gi_id: Some(3), ci_id: Some(0), memory_mib: Some(5) };
        topology.gpus[0].processes = Some(vec![process]);
        read(&Machine::new(topology).faults(&format!("{call} = lie 4294967295")))
    };
    let found = lying("nvmlDeviceGetCount_v2");
    told(&found.unread["gpus"]);
    assert_eq!((found.gpus.len(), found.instances().len()), (1, 3));
    let found = lying("nvmlDeviceGetComputeRunningProcesses_v3");
    told(&found.gpus[0].unread["processes"]);
    assert_eq!(found.gpus[0].processes, None);
    told(&lying("nvmlDeviceGetGpuInstances").gpus[0].unread["gpu_instances"]);
    let found = lying("nvmlDeviceGetGpuInstancePossiblePlacements_v2");
    told(&found.gpus[0].profiles[0].unread["placements"]);
}
