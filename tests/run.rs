//! `migbench run` as its users meet it, on the CPU device and on scripted time.

mod common;

use common::Bench;
use migbench::results::row::Status;
use std::fs;

/// What a user without a GPU types first, shortened.
#[test]
fn the_cpu_is_measured_where_there_is_no_gpu() {
    let bench = Bench::new();
    let ran = bench.run(&["--batch", "2", "--batches", "20", "-o", "a.csv"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.starts_with("no GPU: no NVIDIA driver library ("), "{}", ran.stderr);
    assert!(ran.stderr.contains("1 run in 1 round: bert-tiny(seq_len=128) on 1 instance, batch 2;"));
    assert!(ran.stdout.starts_with("bert-tiny(seq_len=128), fp32, closed load, "), "{}", ran.stdout);
    assert!(ran.stdout.contains("needs 662") && ran.stdout.ends_with("saved: a.csv\n"), "{}", ran.stdout);
    let rows = bench.rows("a.csv");
    let row = &rows[0];
    assert_eq!((row.outcome.status, row.window.batches), (Status::Ok, Some(20)));
    assert!(row.health.output_error.unwrap() < 1e-5);
    let mean = row.latency.mean.unwrap();
    let formula = 1000.0 / mean * 2.0;
    assert!((row.rates.throughput.unwrap() / formula - 1.0).abs() < 1e-3);
    assert!(20.0 * mean / 1e3 <= row.window.elapsed_s.unwrap() * (1.0 + 1e-12));
}

/// On scripted time every number is exact.
#[test]
fn a_scripted_row_is_exact() {
    let bench = Bench::new();
    let ran =
        bench.run(&["--workload", "scripted(times=1ms:3ms)", "--batch", "4", "-o", "a.csv", "--seed", "9"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let row = &bench.rows("a.csv")[0];
    let latency = &row.latency;
    assert_eq!(
        (latency.mean, latency.stddev, latency.min, latency.max),
        (Some(2.0), Some(1.0), Some(1.0), Some(3.0))
    );
    assert_eq!(
        (row.window.warmup_batches, row.window.batches, row.window.elapsed_s),
        (Some(500), Some(5000), Some(10.0))
    );
    assert_eq!((row.rates.throughput, row.rates.throughput_wall), (Some(2000.0), Some(2000.0)));
    assert_eq!((latency.p99, latency.p999, latency.p99_upper), (Some(3.0), None, Some(3.0)));
    assert_eq!(row.provenance.seed, 9);
    assert_eq!(row.outcome.warnings.codes(), "");
}

#[test]
fn points_and_rounds_become_rows() {
    let bench = Bench::new();
    let ran =
        bench.run(&["--workload", "scripted()", "--batch", "8,1,8", "--repeat", "3", "-o", "a.csv", "-q"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    let rows = bench.rows("a.csv");
    let mut points: Vec<_> = rows.iter().map(|r| (r.provenance.repetition, r.point.batch)).collect();
    points.sort_unstable();
    assert_eq!(points, [(1, 1), (1, 8), (2, 1), (2, 8), (3, 1), (3, 8)]);
    let run_id = &rows[0].provenance.run_id;
    assert!(rows.iter().all(|r| &r.provenance.run_id == run_id));
    let ids: std::collections::BTreeSet<_> = rows.iter().map(|r| &r.provenance.point_id).collect();
    assert_eq!(ids.len(), 2, "two points, whatever the round");
}

#[test]
fn the_default_output_is_below_the_current_folder_or_in_the_temporary_one() {
    let bench = Bench::new();
    let ran = bench.run(&["--workload", "scripted()", "--batch", "1"]);
    let saved = ran.stdout.lines().last().unwrap().strip_prefix("saved: results/").unwrap();
    assert!(saved.ends_with(".csv") && bench.path("results").join(saved).exists());

    // A file where the folder should be: nothing can be written there, not even by root.
    let bench = Bench::new();
    fs::write(bench.path("results"), "").unwrap();
    let ran = common::ran(
        bench
            .command(&["--workload", "scripted()", "--batch", "1"])
            .env("TMPDIR", bench.folder.path())
            .output()
            .unwrap(),
    );
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.starts_with("results/ can't be used ("), "{}", ran.stderr);
    let saved = ran.stdout.lines().last().unwrap().strip_prefix("saved: ").unwrap();
    assert!(saved.starts_with(bench.folder.path().to_str().unwrap()), "{saved}");
}

#[test]
fn csv_on_standard_output_and_nothing_else_there() {
    let bench = Bench::new();
    let ran = bench.run(&["--workload", "scripted()", "--batch", "1,2", "-o", "-"]);
    assert_eq!(ran.code, Some(0));
    let lines: Vec<_> = ran.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{}", ran.stdout);
    assert!(lines[0].starts_with("schema_version,run_id,"));
    assert!(lines[1].starts_with("2,") && lines[2].starts_with("2,"));
}

#[test]
fn an_existing_file_is_kept_unless_told_otherwise() {
    let bench = Bench::new();
    let base = ["--workload", "scripted()", "--batch", "1", "-q", "-o", "a.csv"];
    assert_eq!(bench.run(&base).code, Some(0));
    let before = fs::read(bench.path("a.csv")).unwrap();
    let refused = bench.run(&base);
    assert_eq!(refused.code, Some(2));
    assert_eq!(refused.stderr, "migbench: a.csv exists: --append adds rows to it, --force overwrites it\n");
    assert_eq!(fs::read(bench.path("a.csv")).unwrap(), before);
    assert_eq!(bench.run(&[&base[..], &["--append"]].concat()).code, Some(0));
    assert_eq!(bench.rows("a.csv").len(), 2);
    assert_eq!(bench.run(&[&base[..], &["--force"]].concat()).code, Some(0));
    assert_eq!(bench.rows("a.csv").len(), 1);
    // Nor is it emptied for a run that can't be: what is wrong is found first.
    fs::write(bench.path("a.hlog"), "").unwrap();
    let before = fs::read(bench.path("a.csv")).unwrap();
    let refused = bench.run(&[&base[..], &["--force", "--telemetry", "1s"]].concat());
    assert_eq!((refused.code, fs::read(bench.path("a.csv")).unwrap()), (Some(2), before));
    let refused = bench.run(&[&base[..6], &["c.csv", "--hlog", "a.hlog"]].concat());
    assert_eq!(refused.code, Some(2));
    assert_eq!(refused.stderr, "migbench: a.hlog exists: --force overwrites it\n");
    assert!(!bench.path("c.csv").exists());
    fs::write(bench.path("b.csv"), "batch,latency\n").unwrap();
    let refused = bench.run(&["--workload", "scripted()", "-q", "-o", "b.csv", "--append"]);
    assert_eq!(refused.code, Some(2));
    assert_eq!(
        refused.stderr,
        "migbench: cannot append to b.csv: its columns are not those of this migbench (schema 2)\n"
    );
}

/// Each is refused with exit 2 before anything is measured or written.
#[test]
fn bad_input_is_refused_by_name() {
    let cases: [(&[&str], &str); 26] = [
        (&["--uuid", "MIG-1"], "migbench: cannot measure on a GPU: no NVIDIA driver library ("),
        (&["--device", "cuda"], "migbench: cannot measure on a GPU: no NVIDIA driver library ("),
        (
            &["--device", "cpu", "--uuid", "GPU-1"],
            "migbench: --uuid GPU-1 is about GPUs, and the CPU is measured here: leave it out",
        ),
        (&["--batch", "0"], "error: invalid value '0' for '--batch <SIZES>': '0' is no batch size: write a"),
        (&["--batch", "-3"], "error: invalid value '-3' for '--batch <SIZES>': '-3' is no batch size"),
        (&["--batch=-3"], "error: invalid value '-3' for '--batch <SIZES>'"),
        (&["--batch", "x"], "error: invalid value 'x' for '--batch <SIZES>': 'x' is no batch size"),
        (&["--rate", "-3"], "error: invalid value '-3' for '--rate <R>': '-3' is no rate"),
        (&["--arrivals", "constant"], "migbench: --arrivals is about batches that arrive by a schedule: say"),
        (
            &["--duration", "8s", "--max-duration", "4s"],
            "migbench: --duration is longer than --max-duration: a window can't be both",
        ),
        (&["--telemetry", "1s"], "migbench: --telemetry reads GPUs, and there is none here"),
        (
            &["--telemetry", "1s", "-o", "-"],
            "migbench: --telemetry writes beside the output file: with --output - there is none",
        ),
        (&["--hlog", "missing/a.hlog"], "migbench: cannot write missing/a.hlog: there is no folder missing"),
        (&["--batch", "99999999999"], "migbench: bert-tiny(seq_len=128) at batch 99999999999 needs "),
        (
            &["--batch", "18446744073709551615"],
            "migbench: bert-tiny(seq_len=128) at batch 18446744073709551615 needs ",
        ),
        (
            &["--workload", "gpt"],
            "error: invalid value 'gpt' for '--workload <NAME>': unknown workload 'gpt': choose one of bert-tiny,",
        ),
        (
            &["--precision", "int8"],
            "error: invalid value 'int8' for '--precision <PRECISION>'\n  [possible values: fp32, fp16, bf16]",
        ),
        (
            &["--precision", "fp16"],
            "migbench: the CPU device computes in fp32 only: leave --precision fp16 out",
        ),
        (&["--workload", "mlp", "--seq-len", "3"], "migbench: --seq-len means nothing to the workload mlp"),
        (&["--duration", "-1s"], "error: unexpected argument '-1' found"),
        (
            &["--duration", "soon"],
            "error: invalid value 'soon' for '--duration <TIME>': 'soon' is not a duration",
        ),
        (&["-o", "missing/a.csv"], "migbench: cannot write missing/a.csv: there is no folder missing"),
        (&["-o", ".", "--append"], "migbench: cannot write .: is a directory"),
        (&["--model", "."], "migbench: cannot read .: Is a directory"),
        (&["--load", "open", "--trace", "."], "migbench: cannot read .: Is a directory"),
        (&["--list-runs", "--topology", "."], "migbench: cannot read .: Is a directory"),
    ];
    for (arguments, message) in cases {
        let bench = Bench::new();
        let ran = bench.run(&[arguments, &["-q"]].concat());
        assert_eq!(ran.code, Some(2), "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.starts_with(message), "{arguments:?}: {}", ran.stderr);
        assert_eq!(ran.stdout, "", "{arguments:?}");
        assert_eq!(fs::read_dir(bench.folder.path()).unwrap().count(), 0, "{arguments:?} wrote something");
    }
}

#[test]
fn a_full_disk_is_no_question_of_usage() {
    let bench = Bench::new();
    let ran = bench.run(&["-o", "/dev/full", "--force", "-q"]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.starts_with("migbench: cannot write /dev/full: No space left"), "{}", ran.stderr);
    for arguments in [["-o", "-"], ["--list-runs", "-q"]] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let arguments = [&["--workload", "scripted()", "--batch", "1"][..], &arguments].concat();
        let ran = common::ran(bench.command(&arguments).stdout(full).output().unwrap());
        assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    }
}

#[test]
fn the_worker_verb_is_not_for_hands() {
    let bench = Bench::new();
    let ran = bench.run(&["worker"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("call 'migbench run'"), "{}", ran.stderr);
    let help = bench.run(&["--help"]);
    assert_eq!(help.code, Some(0));
    assert!(
        !help.stdout.contains("\n  worker")
            && !help.stdout.contains("scripted")
            && !help.stdout.contains("corrupt")
    );
}

/// The output check has teeth: a planted fault makes the row invalid.
#[test]
fn a_planted_fault_in_the_weights_is_found() {
    for corruption in ["zero-tile", "flip-weight"] {
        for workload in ["bert-tiny", "mlp"] {
            let bench = Bench::new();
            let ran = bench.run(&[
                "--workload",
                workload,
                "--corrupt",
                corruption,
                "--batch",
                "3",
                "--batches",
                "5",
                "-q",
                "-o",
                "a.csv",
            ]);
            assert_eq!(ran.code, Some(5), "{workload} {corruption}: {}", ran.stdout);
            let row = &bench.rows("a.csv")[0];
            assert_eq!(row.outcome.status, Status::Invalid);
            let error = row.outcome.error.as_deref().unwrap();
            assert!(error.starts_with("wrong output: operation "), "{workload} {corruption}: {error}");
            assert!(ran.stdout.contains("INVALID"), "{}", ran.stdout);
        }
    }
}

/// Every workload measures and checks itself on the CPU device, at small sizes.
#[test]
fn every_workload_runs_on_the_cpu() {
    let bench = Bench::new();
    let workloads = [
        "llama-decode(size=tiny,context=40)",
        "llama-prefill(size=tiny,seq_len=9)",
        "gemm(m=16,n=64,k=32)",
        "stream(mib=1)",
        "transfer(direction=h2d,mib=1)",
        "transfer(direction=d2h,mib=1)",
        "transfer(direction=both,mib=1)",
        "launch(kernels=3)",
        "null",
    ];
    let mut arguments = vec!["--batch", "2", "--batches", "3", "-o", "a.csv", "-q"];
    arguments.extend(workloads.iter().flat_map(|workload| ["--workload", workload]));
    let ran = bench.run(&arguments);
    assert_eq!(ran.code, Some(0), "{}{}", ran.stderr, ran.stdout);
    let mut seen: Vec<_> = bench.rows("a.csv").into_iter().map(|row| row.point.workload).collect();
    seen.sort();
    let mut asked = workloads.map(str::to_owned);
    asked.sort();
    assert_eq!(seen, asked);
    let rows = bench.rows("a.csv");
    let row = rows.iter().find(|row| row.point.workload.starts_with("stream")).unwrap();
    let bytes = row.rates.gbytes_per_s.unwrap() * row.latency.mean.unwrap() * 1e6;
    assert!((bytes / (2.0 * 2.0 * 1_048_576.0) - 1.0).abs() < 1e-6, "read and written: {bytes}");
    // What a workload has none of is absent, never 0.
    for (name, has_bytes) in [("stream", true), ("transfer", true), ("launch", false), ("null", false)] {
        let mut named = rows.iter().filter(|row| row.point.workload.starts_with(name)).peekable();
        assert!(named.peek().is_some(), "{name}");
        for row in named {
            assert_eq!((row.rates.tflops, row.rates.gbytes_per_s.is_some()), (None, has_bytes), "{name}");
        }
    }
    let row = rows.iter().find(|row| row.point.workload.starts_with("gemm")).unwrap();
    let flops = row.rates.tflops.unwrap() * row.latency.mean.unwrap() * 1e9;
    assert!((flops / (2.0 * 2.0 * 16.0 * 64.0 * 32.0) - 1.0).abs() < 1e-6, "{flops}");
}

/// A planted fault is found in a decoder as it is in an encoder.
#[test]
fn a_wrong_weight_of_a_decoder_makes_the_row_invalid() {
    let bench = Bench::new();
    let decoder = "llama-decode(size=tiny,context=5)";
    for fault in ["zero-tile", "flip-weight"] {
        let ran = bench.run(&[
            "--workload",
            decoder,
            "--corrupt",
            fault,
            "--batch",
            "1",
            "--batches",
            "3",
            "-o",
            fault,
            "-q",
        ]);
        assert_eq!(ran.code, Some(5), "{}", ran.stderr);
        let rows = bench.rows(fault);
        assert_eq!(rows[0].outcome.status, Status::Invalid);
        assert!(rows[0].outcome.error.as_ref().unwrap().starts_with("wrong output: operation "));
    }
}

#[test]
fn sizes_are_for_the_workloads_that_have_them() {
    let bench = Bench::new();
    let plan = |arguments: &[&str]| bench.run(&[arguments, &["--list-runs", "--batch", "1"]].concat());
    let ran = plan(&["--workload", "suite", "--llama-size", "tiny", "--context", "99", "--seq-len", "64"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    for name in ["bert-base(seq_len=64)", "resnet50", "llama-decode(size=tiny,context=99)"] {
        assert!(ran.stdout.contains(name) || ran.stderr.contains(name), "{}{}", ran.stderr, ran.stdout);
    }
    for (arguments, message) in [
        (&["--workload", "mlp", "--context", "9"][..], "--context means nothing to the workload mlp"),
        (
            &["--workload", "resnet50", "--llama-size", "1b"],
            "--llama-size means nothing to the workload resnet50",
        ),
        (&["--workload", "launch", "--seq-len", "9"], "--seq-len means nothing to the workload launch"),
        (&["--seq-len", "513"], "bert-tiny: sequence length '513' is not a whole number from 1 to 512"),
        (
            &["--workload", "bert-tiny(seq_len=64)", "--seq-len", "32"],
            "--seq-len 32, but the workload bert-tiny(seq_len=64) says 64 itself: leave one of the two out",
        ),
        (&["--workload", "transfer", "--no-transfers"], "measures the copies that --no-transfers leaves out"),
    ] {
        let ran = plan(arguments);
        assert_eq!(ran.code, Some(2), "{arguments:?}");
        assert!(ran.stderr.contains(message), "{}", ran.stderr);
    }
}
