//! `run` of the real program on a stand-in driver: the real CUDA device, the real processes, and what
//! becomes of a row when the driver fails, lies or goes away. Times are the stand-in's own and mean
//! nothing.

mod common;

use common::error;
use common::standin::Machine;
use migbench::machine::Topology;
use migbench::results::Row;
use migbench::results::row::{Identity, Sharing, Status, Warning};

const SHORT: [&str; 5] = ["--batches", "30", "-q", "-o", "a.csv"];

/// A short run with more options; its exit code and rows, which hold together whatever they say.
fn run(machine: &Machine, more: &[&str]) -> (i32, Vec<Row>) {
    let unless_given = |option: &'static str, value: &'static str| {
        if more.contains(&option) { Vec::new() } else { vec![option, value] }
    };
    let given = [unless_given("--batch", "4"), unless_given("--workload", "mlp")].concat();
    let ran = machine.run(&[&SHORT[..], &["--force"], &given, more].concat());
    assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    let checked = machine.bench.run(&["check", "a.csv"]);
    assert_eq!(checked.code, Some(0), "{more:?}: {}{}", checked.stdout, checked.stderr);
    (ran.code.unwrap_or_else(|| panic!("killed: {}", ran.stderr)), machine.bench.rows("a.csv"))
}

/// The only row of a run on one instance with these faults.
fn one(faults: &str, more: &[&str]) -> (i32, Row) {
    let machine = Machine::named("h200-mixed").faults(faults);
    let (code, mut rows) = run(&machine, &[&["--uuid", "MIG-5a5a0000-0003"], more].concat());
    assert_eq!(rows.len(), 1);
    (code, rows.remove(0))
}

#[test]
fn one_instance_by_its_uuid() {
    let (code, row) = one("", &[]);
    assert_eq!((code, row.outcome.status), (0, Status::Ok), "{}", error(&row));
    let subject = &row.subject;
    assert_eq!(subject.identity, Some(Identity::Proven));
    assert_eq!(subject.sharing, Some(Sharing::Mig));
    assert_eq!(subject.instance.mig_uuid.as_deref(), Some("MIG-5a5a0000-0003-5000-8000-000000000000"));
    assert_eq!(
        (subject.instance.gi_id, subject.instance.ci_id, subject.instance.sm_count),
        (Some(3), Some(0), Some(32))
    );
    assert_eq!(subject.instance.profile.as_deref(), Some("2g.35gb"));
    assert!(subject.instance.gpu_name.starts_with("STAND-IN"), "{}", subject.instance.gpu_name);
    assert_eq!(
        (subject.driver_version.as_deref(), subject.cuda_version.as_deref()),
        (Some("580.65.06"), Some("13.0"))
    );
    assert_eq!(
        (subject.gpu_vbios.as_deref(), subject.gpu_power_limit_w),
        (Some("96.00.00.00.01"), Some(700.0))
    );
    assert!(
        row.provenance.os_kernel.is_some_and(|release| release.starts_with(|c: char| c.is_ascii_digit()))
    );
    assert_eq!((row.window.batches, row.point.batch), (Some(30), 4));
    // Nothing was computed, so nothing is said of the output.
    assert_eq!(row.health.output_error, None);
    assert!(row.outcome.warnings.0.contains(&Warning::UncheckedOutput), "{}", row.outcome.warnings.codes());
    assert!(row.provenance.kernels.starts_with("sm_90a:"), "{}", row.provenance.kernels);
    assert!(row.stages.compute_p50.is_some());
}

#[test]
fn seven_instances_one_after_the_other() {
    let machine = Machine::named("h200-7x1g");
    let (code, rows) = run(&machine, &["--mode", "isolated"]);
    assert_eq!(code, 0, "{:?}", rows.iter().map(error).collect::<Vec<_>>());
    let mut uuids: Vec<&str> =
        rows.iter().filter_map(|row| row.subject.instance.mig_uuid.as_deref()).collect();
    uuids.sort_unstable();
    let expected: Vec<String> =
        (7..14).map(|gi| format!("MIG-5a5a0000-{gi:04x}-5000-8000-000000000000")).collect();
    assert_eq!(uuids, expected);
    for row in &rows {
        assert_eq!(row.subject.identity, Some(Identity::Proven));
        assert_eq!((row.outcome.status, row.subject.instance.sm_count), (Status::Ok, Some(16)));
    }
}

/// 32 of 132 multiprocessors, and a quarter of the memory, need 12 ms for the weights of the one and
/// 150 ms for the other: a crowded machine makes no batch so long that does nothing.
#[test]
fn a_row_faster_than_its_instance_is_invalid() {
    let machine = Machine::named("h200-mixed").faults("kernel_ns = 1");
    for (workload, batch, figure) in
        [("llama-decode(size=8b)", "1", "gbytes_per_s is "), ("bert-large", "512", "tflops is ")]
    {
        let more =
            ["--uuid", "MIG-5a5a0000-0003", "--batch", batch, "--workload", workload, "--batches", "30"];
        let ran = machine.run(&[&more[..], &["-q", "-o", "a.csv", "--force"]].concat());
        let row = &machine.bench.rows("a.csv")[0];
        assert_eq!((ran.code, row.outcome.status), (Some(5), Status::Invalid), "{workload}: {}", error(row));
        assert!(error(row).contains(figure) && error(row).contains("can do at most "), "{}", error(row));
        assert!(row.latency.mean.is_some() && row.rates.gbytes_per_s.is_some(), "what was measured is kept");
        let checked = machine.bench.run(&["check", "a.csv"]);
        assert!(checked.code == Some(0) && checked.stdout.contains("1 invalid"), "{}", checked.stdout);
    }
}

/// Who chose no workload is told of the suite; who did, or wants quiet or CSV, is not.
#[test]
fn the_default_table_suggests_the_suite() {
    let machine = Machine::named("mig-off");
    let told = |more: &[&str]| {
        let ran = machine.run(&[&["--batches", "3", "--batch", "1", "--force"], more].concat());
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let lines = ran.stdout.lines().chain(ran.stderr.lines());
        lines.filter(|line| line.contains("--workload suite")).count()
    };
    assert_eq!(told(&["-o", "a.csv"]), 1);
    for more in [&["-o", "a.csv", "-q"][..], &["-o", "-"], &["-o", "a.csv", "--workload", "bert-base"]] {
        assert_eq!(told(more), 0, "{more:?}");
    }
}

/// Every form of a batch that the device knows.
#[test]
fn with_and_without_graph_and_transfers() {
    for more in
        [&["--no-graph"][..], &["--sync", "blocking"], &["--precision", "bf16"], &["--workload", "launch"]]
    {
        let (code, row) = one("", more);
        assert_eq!((code, row.outcome.status), (0, Status::Ok), "{more:?}: {}", error(&row));
    }
}

/// The stand-in copies faster than a bus could, so that the rows are invalid; the stages are what they are.
#[test]
fn a_stage_in_which_nothing_is_done_has_no_length() {
    for (workload, more, there) in [
        ("mlp", &[][..], [true, true, true]),
        ("mlp", &["--no-transfers"], [false, true, false]),
        ("stream(mib=1)", &[], [false, true, false]),
        ("transfer(mib=1)", &[], [true, false, true]),
        ("transfer(direction=h2d,mib=1)", &[], [true, false, false]),
    ] {
        let (_, row) = one("", &[&["--workload", workload], more].concat());
        let stages = &row.stages;
        let lengths = [stages.h2d_mean, stages.compute_mean, stages.d2h_mean];
        assert_eq!(lengths.map(|length| length.is_some()), there, "{workload} {more:?}: {}", error(&row));
        assert_eq!(stages.compute_p50.is_some(), there[1], "{workload}");
    }
}

/// Hopper's kernels are for a Hopper GPU whose driver knows what they need.
#[test]
fn the_kernels_that_a_device_and_its_driver_can_run() {
    let old = ["cuTensorMapEncodeTiled"];
    for (machine, set) in [
        (Machine::named("h200-mixed"), "sm_90a:"),
        (Machine::named("h200-mixed").without("libcuda.so", &old), "sm_80:"),
        (Machine::named("h200-mixed").faults("cuDriverGetVersion = lie 11080"), "sm_80:"),
        (Machine::named("a100-1c-2c"), "sm_80:"),
        (Machine::named("b200"), "sm_80:"),
    ] {
        // Large enough for Hopper's matrix product, and odd.
        let (code, rows) = run(&machine, &["--batch", "511", "--allow-busy", "--mode", "isolated"]);
        assert_eq!(code, 0);
        assert!(rows.iter().all(|row| row.provenance.kernels.starts_with(set)), "{set}");
    }
}

/// A whole GPU, and the compute instances of one GPU instance.
#[test]
fn other_kinds_of_instances() {
    for (name, count) in [("mig-off", 1), ("a100-1c-2c", 3)] {
        // Somebody computes on one of them.
        let (code, rows) = run(&Machine::named(name), &["--allow-busy", "--mode", "isolated"]);
        assert_eq!((code, rows.len()), (0, count), "{name}");
        assert!(rows.iter().all(|row| row.subject.identity == Some(Identity::Proven)), "{name}");
    }
}

/// An inherited scope limits what is measured, and each worker still gets one UUID.
#[test]
fn the_inherited_scope_is_kept() {
    let machine = Machine::named("h200-7x1g");
    let scope = [("CUDA_VISIBLE_DEVICES", "MIG-5a5a0000-0009,MIG-5a5a0000-0007")];
    let ran = machine.run_with(
        &[&SHORT[..], &["--batch", "4", "--workload", "mlp", "--mode", "isolated"]].concat(),
        &scope,
    );
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(machine.bench.rows("a.csv").len(), 2);
}

/// Each identity field lied about in turn.
#[test]
fn a_worker_on_another_device_is_refused() {
    let refuted = [
        (
            "cuDeviceGetUuid_v2 = lie MIG-5a5a0000-000d-5000-8000-000000000000",
            "the worker runs on MIG-5a5a0000-000d-5000-8000-000000000000, not on MIG-5a5a0000-0003-5000-8000-000000000000",
        ),
        ("cuDeviceGetCount = lie 2", "2 devices are visible to the worker, not just MIG-5a5a0000-0003"),
        ("cuDeviceGetCount = lie 0", "0 devices are visible to the worker, not just MIG-5a5a0000-0003"),
        (
            "cuDeviceGetAttribute = lie 16 60",
            "the device has 60 SMs, MIG-5a5a0000-0003-5000-8000-000000000000 has 32",
        ),
    ];
    for (fault, reason) in refuted {
        let (code, row) = one(fault, &[]);
        assert_eq!((code, row.outcome.status), (5, Status::Failed), "{fault}");
        assert_eq!(row.subject.identity, Some(Identity::Refuted), "{fault}");
        assert!(error(&row).starts_with(reason), "{fault}: {}", error(&row));
        assert_eq!(row.latency.mean, None, "{fault}: nothing was measured");
    }
    let doubtful = [
        (
            "cuDeviceGetName = lie STAND-IN NVIDIA A100 MIG 2g.10gb",
            Identity::Proven,
            Warning::IdentityDiffers,
        ),
        ("cuDeviceTotalMem_v2 = lie 1000000000", Identity::Proven, Warning::IdentityDiffers),
        ("cuDeviceGetUuid_v2 = 999", Identity::Consistent, Warning::IdentityUnproven),
    ];
    for (fault, identity, warning) in doubtful {
        let (code, row) = one(fault, &[]);
        assert_eq!((code, row.outcome.status), (0, Status::Ok), "{fault}: {}", error(&row));
        assert_eq!(row.subject.identity, Some(identity), "{fault}");
        assert!(row.outcome.warnings.0.contains(&warning), "{fault}: {}", row.outcome.warnings.codes());
    }
    let (code, row) = one("cuDeviceGetUuid_v2 = 999", &["--require-proof"]);
    assert_eq!(code, 5);
    assert!(error(&row).starts_with("the device's UUID cannot be compared, and --require-proof was given"));
}

/// NVML and CUDA name different things: the instance went and another came between the two.
#[test]
fn an_instance_that_went_in_between_is_a_failed_row() {
    let gone = "nvmlDeviceGetUUID = lie MIG-5a5a0000-0bad-5000-8000-000000000000";
    let machine = Machine::named("h200-mixed").faults(gone);
    let (code, rows) = run(&machine, &["--uuid", "MIG-5a5a0000-0bad-5000-8000-000000000000"]);
    assert_eq!(code, 5);
    assert!(error(&rows[0]).contains("cuInit: CUDA_ERROR_NO_DEVICE (100)"), "{}", error(&rows[0]));
}

#[test]
fn under_mps_only_when_allowed() {
    let (code, row) = one("mps = default", &[]);
    assert_eq!((code, row.subject.sharing), (0, Some(Sharing::Mig)), "the workers are kept away from it");
    let (code, row) = one("mps = always", &[]);
    assert_eq!(code, 5);
    assert!(
        error(&row)
            .starts_with("the worker is a client of an MPS server: stop the server, or say --allow-mps")
    );
    let (code, row) = one("mps = always", &["--allow-mps"]);
    assert_eq!((code, row.subject.sharing), (0, Some(Sharing::Mps)));
    assert!(row.outcome.warnings.0.contains(&Warning::Mps));
}

/// One instance fails in mid-run, the others are measured.
#[test]
fn a_device_lost_in_mid_run_takes_nobody_along() {
    let machine = Machine::named("h200-mixed")
        .faults("cuGraphLaunch@MIG-5a5a0000-0003 after 300 = lost 719\nkernel_ns = 100000");
    let ran = machine.run(&[
        "--workload",
        "mlp",
        "--batch",
        "4",
        "--batches",
        "2000",
        "--mode",
        "isolated",
        "-q",
        "-o",
        "a.csv",
    ]);
    assert_eq!(ran.code, Some(5), "{}", ran.stderr);
    let rows = machine.bench.rows("a.csv");
    let (lost, fine): (Vec<&Row>, Vec<&Row>) =
        rows.iter().partition(|row| row.subject.instance.gi_id == Some(3));
    assert_eq!((lost.len(), fine.len()), (1, 2));
    assert_eq!(lost[0].outcome.status, Status::Failed);
    assert!(error(lost[0]).contains("CUDA_ERROR_LAUNCH_FAILED (719)"), "{}", error(lost[0]));
    for row in fine {
        assert_eq!(row.outcome.status, Status::Ok, "{}", error(row));
    }
}

#[test]
fn out_of_memory_says_how_much() {
    let (code, row) = one("cuMemAlloc_v2 = 2", &[]);
    assert_eq!((code, row.outcome.status), (5, Status::Failed));
    let text = error(&row);
    assert!(text.contains("CUDA_ERROR_OUT_OF_MEMORY (2): out of memory: choose a smaller batch"), "{text}");
    // Somebody else has taken nearly all of it.
    let (code, row) = one("taken_bytes = 34000000000", &[]);
    assert_eq!((code, row.outcome.status), (5, Status::Failed));
    let text = error(&row);
    assert!(
        text.starts_with("mlp needs 0.1 GB for its weights alone, the instance has 0.0 GB free"),
        "{text}"
    );
    // More than the instance has at all is refused before anything starts.
    let machine = Machine::named("h200-7x1g");
    let large = ["--uuid", "MIG-5a5a0000-0009", "--workload", "mlp", "--batch", "1000000"];
    let ran = machine.run(&[&large[..], &["-q", "-o", "a.csv"]].concat());
    assert_eq!(ran.code, Some(2));
    assert_eq!(
        ran.stderr,
        "migbench: mlp at batch 1000000 needs 20.5 GB, 1g.18gb has 17.2 GB: choose a smaller --batch\n"
    );
}

#[test]
fn a_worker_that_hangs_or_dies_in_the_driver() {
    let (code, row) = one("cuStreamSynchronize after 40 = hang", &["--patience", "1s"]);
    assert_eq!(code, 5);
    assert!(error(&row).starts_with("the worker gave no sign of life for 1 s while "), "{}", error(&row));
    let (code, row) = one("cuStreamSynchronize after 40 = crash", &[]);
    assert_eq!(code, 5);
    assert!(error(&row).contains("the worker was killed by SIGABRT"), "{}", error(&row));
    let (code, row) = one("cuInit = hang", &["--patience", "1s"]);
    assert_eq!(code, 5);
    assert!(error(&row).contains("while opening its device"), "{}", error(&row));
}

/// Whatever function fails, there is a row with the function's name, or the row is none the worse.
#[test]
fn every_function_that_fails_becomes_a_reason() {
    let source =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/standin/cuda.rs")).unwrap();
    let calls: Vec<String> = source
        .lines()
        .filter_map(|line| Some(format!("cu{}", line.trim().strip_prefix("fn cu")?.split('(').next()?)))
        .collect();
    assert!(calls.len() > 36, "{calls:?}");
    let harmless = [
        // Asked for the row's sake only.
        "cuDriverGetVersion",
        "cuDeviceGetUuid_v2",
        "cuDeviceTotalMem_v2",
        // Asked only with several in flight.
        "cuStreamQuery",
        // Only where a batch copies in both directions at once.
        "cuStreamWaitEvent",
        // Cleaning up.
        "cuDevicePrimaryCtxRelease_v2",
        "cuMemFree_v2",
        "cuMemFreeHost",
        "cuModuleUnload",
        "cuStreamDestroy_v2",
        "cuGraphDestroy",
        "cuGraphExecDestroy",
        "cuEventDestroy_v2",
    ];
    let check = |call: &String| {
        let more: &[&str] = match call.as_str() {
            // Small products do without the copy engine.
            "cuTensorMapEncodeTiled" => &["--batch", "511"],
            // A decode step is one kernel, whose blocks are there all at once.
            "cuOccupancyMaxActiveClusters" => &["--workload", "llama-decode(size=tiny)"],
            _ => &[],
        };
        let (code, row) = one(&format!("{call} = 46"), more);
        // Without its name it is not known for a stand-in, and its output is looked at.
        if call == "cuDeviceGetName" {
            assert_eq!((code, row.outcome.status), (5, Status::Invalid));
            return;
        }
        if harmless.contains(&call.as_str()) {
            assert_eq!((code, row.outcome.status), (0, Status::Ok), "{call}: {}", error(&row));
            return;
        }
        assert_eq!((code, row.outcome.status), (5, Status::Failed), "{call}");
        let named = error(&row).contains(&format!("{call}: CUDA_ERROR_DEVICE_UNAVAILABLE (46)"));
        // A count that can't be asked is no device.
        assert!(
            named || call == "cuDeviceGetCount" || call == "cuDeviceGetAttribute",
            "{call}: {}",
            error(&row)
        );
    };
    // A run is mostly its warm-up of a second.
    std::thread::scope(|scope| {
        for share in calls.chunks(calls.len().div_ceil(4)) {
            scope.spawn(|| share.iter().for_each(check));
        }
    });
}

#[test]
fn a_driver_without_a_function_is_named() {
    let machine = Machine::named("h200-mixed").without("libcuda.so", &["cuGraphUpload"]);
    let (code, rows) = run(&machine, &["--uuid", "MIG-5a5a0000-0003"]);
    assert_eq!(code, 5);
    assert!(
        error(&rows[0]).contains("libcuda (CUDA 13.0) has no function cuGraphUpload"),
        "{}",
        error(&rows[0])
    );
}

/// Before R470 a MIG device has no UUID to compare: measured, and said to be unproven.
#[test]
fn an_old_name_is_consistent_at_best() {
    let mut topology: Topology = common::machines::named("old-driver");
    topology.driver_version = Some("470.10.00".into());
    let machine = Machine::new(topology);
    let name = "MIG-GPU-5a5a0000-0000-4000-8000-00000000000a/9/0";
    let (code, rows) = run(&machine, &["--uuid", name]);
    assert_eq!(code, 0, "{}", error(&rows[0]));
    assert_eq!(rows[0].subject.identity, Some(Identity::Consistent));
    assert_eq!(rows[0].subject.instance.mig_uuid.as_deref(), Some(name));
}
