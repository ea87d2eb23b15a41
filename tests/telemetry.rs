//! What the parent reads of the GPUs, and who else is on them: on a stand-in machine.

mod common;

use common::standin::Machine;
use migbench::analysis::slowdown::slowdowns;
use migbench::machine::topology::Process;
use migbench::results::Row;
use migbench::results::row::{Mode, Neighbours, Sharing, Status};

const SHORT: [&str; 7] = ["--workload", "mlp", "--batch", "4", "-q", "-o", "a.csv"];
const SECOND: &str = "MIG-5a5a0000-0003-5000-8000-000000000000";

fn run(machine: &Machine, more: &[&str]) -> (Option<i32>, Vec<Row>) {
    let ran = machine.run(&[&SHORT[..], more].concat());
    assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    (ran.code, machine.bench.rows("a.csv"))
}

#[test]
fn counters_are_read_at_the_edges() {
    let machine =
        Machine::named("h200-mixed").faults("energy_w = 300\npower_capped = 20\necc_after_ms = 100");
    let (code, rows) = run(&machine, &["--uuid", SECOND, "--duration", "1s"]);
    assert_eq!(code, Some(0));
    let row = &rows[0];
    let power = row.health.gpu_power_w.unwrap();
    assert!((power / 300.0 - 1.0).abs() < 0.05, "{power}");
    let clock = machine.topology.gpus[0].clocks.sm.map(f64::from);
    assert_eq!(row.health.gpu_sm_clock_mhz, clock);
    assert!(row.health.gpu_throttled_ms.unwrap() > 0.0);
    let share = row.health.gpu_power_capped_share.unwrap();
    assert!((share / 0.2 - 1.0).abs() < 0.1, "{share}");
    assert_eq!((row.health.gpu_heat_capped_share, row.health.gpu_hw_slowdown_share), (None, None));
    assert_eq!(row.health.telemetry_s, None);
    let samples = (row.window.batches.unwrap() * row.point.batch) as f64;
    let expected = power * row.window.elapsed_s.unwrap() / samples;
    let energy = row.health.gpu_energy_per_sample_j.unwrap();
    assert!((energy / expected - 1.0).abs() < 0.05, "{energy} {expected}");
    let codes = row.outcome.warnings.codes();
    assert!(codes.contains("gpu-throttled") && codes.contains("ecc-errors"), "{codes}");
    assert_eq!(row.subject.neighbours, Some(Neighbours::NoneSeen));
}

#[test]
fn what_is_not_supported_is_an_empty_cell() {
    let machine = Machine::named("h200-mixed");
    let (code, rows) = run(&machine, &["--uuid", SECOND, "--batches", "5"]);
    assert_eq!(code, Some(0));
    let health = &rows[0].health;
    assert_eq!(
        (health.gpu_power_w, health.gpu_throttled_ms, health.gpu_energy_per_sample_j),
        (None, None, None)
    );
}

#[test]
fn a_card_that_tells_no_vbios_and_no_power_limit_is_measured_all_the_same() {
    let mut topology = common::machines::named("h200-mixed");
    let gpu = &mut topology.gpus[0];
    (gpu.vbios, gpu.power_limit_mw) = (None, None);
    gpu.unread.insert("vbios".into(), "NVML 4: no permission".into());
    gpu.unread.insert("power_limit_mw".into(), "NVML 3: not supported".into());
    let (code, rows) = run(&Machine::new(topology), &["--uuid", SECOND, "--batches", "5"]);
    assert_eq!(code, Some(0));
    assert_eq!((&rows[0].subject.gpu_vbios, rows[0].subject.gpu_power_limit_w), (&None, None));
}

#[test]
fn periodic_telemetry_has_a_file_and_a_column() {
    let machine = Machine::named("h200-mixed").faults("energy_w = 300");
    let (code, rows) = run(&machine, &["--uuid", SECOND, "--duration", "500ms", "--telemetry", "20ms"]);
    assert_eq!(code, Some(0));
    assert_eq!(rows[0].health.telemetry_s, Some(0.02));
    let text = std::fs::read_to_string(machine.bench.path("a.telemetry.csv")).unwrap();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("at_ns,gpu_index,gpu_uuid,gpu_sm_clock_mhz,gpu_power_w,gpu_temperature_c"));
    assert!(lines.clone().count() >= 5 && lines.all(|line| line.ends_with(",300.0,41")), "{text}");
    // What is there stays, and what is no telemetry is left alone.
    let again =
        [&SHORT[..], &["--uuid", SECOND, "--batches", "5", "--telemetry", "20ms", "--force"]].concat();
    assert_eq!(machine.run(&again).code, Some(0));
    let longer = std::fs::read_to_string(machine.bench.path("a.telemetry.csv")).unwrap();
    assert!(longer.starts_with(&text) && longer.matches("at_ns").count() == 1);
    std::fs::write(machine.bench.path("a.telemetry.csv"), "precious").unwrap();
    let ran = machine.run(&again);
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("it holds something else than readings of GPUs"), "{}", ran.stderr);
    assert_eq!(std::fs::read(machine.bench.path("a.telemetry.csv")).unwrap(), b"precious");
    assert_eq!(machine.bench.rows("a.csv").len(), 1);
    let ran = machine.run(&[&SHORT[..5], &["-o", "-", "--telemetry", "1s", "--uuid", SECOND]].concat());
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("--telemetry writes beside the output file"), "{}", ran.stderr);
}

#[test]
fn neighbours_of_ours_are_seen() {
    let machine = Machine::named("h200-mixed");
    machine.run_until_ok(&[&SHORT[..], &["--duration", "300ms"]].concat());
    let rows = machine.bench.rows("a.csv");
    assert_eq!(rows.len(), 3);
    for row in &rows {
        assert_eq!(row.subject.neighbours, Some(Neighbours::Ours));
    }
}

/// Process 1 is always there and never ours.
fn occupied(gi: u32) -> Machine {
    let mut topology = common::machines::named("h200-mixed");
    let process = Process { pid: 1, gi_id: Some(gi), ci_id: Some(0), memory_mib: Some(5) };
    topology.gpus[0].processes = Some(vec![process]);
    Machine::new(topology)
}

#[test]
fn a_busy_instance_is_a_row_with_the_reason() {
    let machine = occupied(3);
    let (code, rows) = run(&machine, &["--duration", "200ms"]);
    assert_eq!((code, rows.len()), (Some(5), 3));
    let (busy, others): (Vec<&Row>, Vec<&Row>) =
        rows.iter().partition(|row| row.subject.instance.mig_uuid.as_deref() == Some(SECOND));
    let error = busy[0].outcome.error.as_deref().unwrap();
    assert_eq!(busy[0].outcome.status, Status::Failed);
    assert!(error.starts_with("busy: pid 1 (") && error.contains("--allow-busy"), "{error}");
    // The others are the co-run that remains; a busy machine may disturb it.
    for other in others {
        assert!(matches!(other.outcome.status, Status::Ok | Status::Invalid), "{:?}", other.outcome);
        assert_eq!(other.subject.neighbours, Some(Neighbours::Foreign));
        assert_eq!(other.point.corunners.split(';').count(), 1);
        assert_eq!(other.point.missing_corunners.as_deref(), Some("2g.35gb/mlp/4/closed"));
    }
    machine.run_until_ok(&[&SHORT[..], &["--duration", "200ms", "--allow-busy"]].concat());
    let rows = machine.bench.rows("a.csv");
    assert!(rows.iter().all(|row| row.subject.neighbours == Some(Neighbours::Foreign)));
}

#[test]
fn two_workers_on_one_instance_are_called_what_they_are() {
    let machine = Machine::named("h200-mixed");
    let twice = ["--uuid", SECOND, "--uuid", SECOND, "--duration", "200ms"];
    machine.run_until_ok(&[&SHORT[..], &twice[..], &["--allow-sharing", "--mode", "both"]].concat());
    let rows = machine.bench.rows("a.csv");
    assert_eq!(rows.len(), 3);
    for row in &rows {
        let expected = match row.point.mode {
            Mode::Isolated => Sharing::Mig,
            Mode::Concurrent => Sharing::TimeSliced,
        };
        assert_eq!(row.subject.sharing, Some(expected));
    }
    let ran = machine.run(&[&SHORT[..], &twice[..], &["--list-runs"]].concat()[..]);
    assert_eq!(ran.code, Some(0));
    assert_eq!(ran.stdout.matches(SECOND).count(), 1, "named twice, measured once: {}", ran.stdout);
}

#[test]
fn an_aggressor_is_measured_beside_the_others() {
    let machine = Machine::named("h200-mixed");
    let aggressor = "MIG-5a5a0000-0003=null@2";
    machine.run_until_ok(&[&SHORT[..], &["--duration", "200ms", "--aggressor", aggressor]].concat());
    let rows = machine.bench.rows("a.csv");
    assert_eq!(rows.len(), 3);
    let (loud, others): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| row.point.workload == "null");
    assert_eq!((loud.len(), loud[0].point.batch), (1, 2));
    assert!(others.iter().all(|row| row.point.corunners.contains("/null/2/closed")));
    let ran =
        machine.run(&[&SHORT[..], &["--aggressor", aggressor, "--mode", "isolated", "--force"]].concat());
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
    let ran = machine.run(&[&SHORT[..], &["--aggressor", "MIG-5a5a0000-0003", "--force"]].concat());
    assert!(ran.stderr.contains("'MIG-5a5a0000-0003' is not UUID=WORKLOAD"), "{}", ran.stderr);
}

/// The stand-in slows kernels and copies while two contexts are on its GPU, and says so of its clock.
#[test]
fn a_slowdown_is_split_into_what_was_injected() {
    let faults = "kernel_ns = 12000000\ncopy_ns = 2400000\ncorun_clock = 0.93\ncorun_copies = 3";
    let machine = Machine::named("h200-mixed").faults(faults);
    let more = ["--mode", "both", "--batches", "12", "--sync", "blocking", "--repeat", "3"];
    let ran = machine.run_until_ok(&[&SHORT[..], &more].concat());
    let mut rows = machine.bench.rows("a.csv");
    for row in &mut rows {
        // The stand-in waits in real time, and a busy machine wakes it late: that is in the mean and not
        // in what was injected. The quickest batch is the least disturbed.
        row.latency.mean = row.latency.min;
    }
    let found = slowdowns(&rows.iter().collect::<Vec<_>>());
    assert_eq!(found.len(), 3);
    for slowdown in &found {
        let alone = |row: &&Row| {
            row.point.mode == Mode::Isolated
                && row.subject.instance.mig_uuid == slowdown.row.subject.instance.mig_uuid
        };
        let stages = &rows.iter().find(alone).unwrap().stages;
        let (copies, compute) =
            (stages.h2d_mean.unwrap() + stages.d2h_mean.unwrap(), stages.compute_mean.unwrap());
        let latency = copies + compute;
        let split = slowdown.split.unwrap();
        let close = |is: f64, should: f64| assert!((is - should).abs() < 0.005, "{is} {should} {slowdown:?}");
        close(split.transfers, 2.0 * copies / latency);
        // NVML tells whole megahertz.
        close(split.clock.unwrap(), compute * (1.0 / 0.93 - 1.0) / latency);
        close(split.rest, 0.0);
    }
    assert!(
        ran.stdout.contains("slowdown: mean latency concurrent / isolated of the same round, over 3 rounds")
    );
    assert!(ran.stdout.contains("3 at once, mlp, batch 4: "), "{}", ran.stdout);
}
