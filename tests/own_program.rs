//! A program of the user's: measured, ended, and every way in which it goes wrong. The examples are
//! those of docs/protocol.md. bash stands for the programs; Python's example is left out where there is
//! no python3, which MIGBENCH_TESTS=all (as .ci/run has it) does not allow.

mod common;

use common::standin::Machine;
use common::{Bench, error, ran, running, signal, wait_for};
use migbench::results::Row;
use migbench::results::row::{Identity, Status, Warning};
use rustix::process::Signal;
use std::time::Duration;

/// A bash program that reports batches of 10 ms, with a word of its own in between.
fn reporting(body: &str) -> String {
    format!(
        "exec 8>&$MIGBENCH_FD\nsay() {{ printf \"$1\\n\" >&8; }}\nbatch() {{ sleep 0.01; say \"batch 10000000\"; }}\n{body}"
    )
}

const LOOP: &str = "say 'hello -'; say ready; read -r _ <&8; until read -t 0 <&8; do batch; done";

/// The only row of a program in bash on the CPU, and the exit code.
fn one(script: &str, more: &[&str]) -> (i32, Row) {
    let bench = Bench::new();
    let script = reporting(script);
    let options = ["run", "--device", "cpu", "--duration", "200ms", "-q", "-o", "a.csv"];
    let ran = bench.run(&[&options[..], more, &["--", "bash", "-c", &script]].concat());
    let mut rows = bench.rows("a.csv");
    assert_eq!(rows.len(), 1, "{}", ran.stderr);
    (ran.code.unwrap(), rows.remove(0))
}

#[test]
fn a_program_that_says_nothing_is_one_batch() {
    let (code, row) = one("sleep 0.3", &[]);
    assert_eq!((code, row.outcome.status), (0, Status::Ok), "{}", error(&row));
    assert_eq!((row.point.backend.as_str(), row.point.load.as_str()), ("command", "once"));
    assert!(row.point.workload.starts_with("command(bash -c $'"), "{}", row.point.workload);
    assert_eq!((row.window.batches, row.point.precision, row.health.overlap), (Some(1), None, None));
    assert!(row.latency.mean.unwrap() >= 300.0);
    assert_eq!(row.outcome.warnings.codes(), "unproven");
    let (code, row) = one("echo out; echo err >&2; exit 3", &[]);
    assert_eq!((code, row.outcome.status), (5, Status::Failed));
    assert!(error(&row).starts_with("the program exited with code 3"), "{}", error(&row));
    assert!(error(&row).contains("out") && error(&row).contains("err"), "{}", error(&row));
    assert!(row.latency.mean.is_some(), "the time it took stays in the row");
    assert_eq!((row.rates.throughput, row.rates.throughput_wall), (None, None), "but it delivered nothing");
    let (_, row) = one("exit 3", &[]);
    assert_eq!(error(&row), "the program exited with code 3", "and nothing about the worker");
}

#[test]
fn a_command_line_without_a_program_is_refused() {
    let ran = Bench::new().run(&["run", "--device", "cpu", "--"]);
    assert_eq!(ran.code, Some(2));
    assert!(
        ran.stderr
            .starts_with("error: no program after '--': name it, as in 'migbench run -- python3 serve.py'\n"),
        "{}",
        ran.stderr
    );
    let ran = Bench::new().run(&["run", "--device", "cpu", "--", "/tmp"]);
    assert_eq!(
        (ran.code, ran.stderr.as_str()),
        (Some(2), "migbench: '/tmp' is a folder: name the program in it\n")
    );
}

#[test]
fn a_program_that_reports_gets_a_window() {
    let (code, row) = one(LOOP, &["--batches", "12"]);
    assert_eq!((code, row.outcome.status), (0, Status::Ok), "{}", error(&row));
    assert_eq!(
        (row.point.load.as_str(), row.latency.min, row.latency.max),
        ("closed", Some(10.0), Some(10.0))
    );
    assert!(row.window.warmup_batches >= Some(10) && row.window.batches >= Some(12));
    assert!(row.window.elapsed_s.unwrap() >= 0.2);
}

/// What it is called with differs between instances; what it is called does not.
#[test]
fn placeholders_are_replaced_on_each_instance() {
    let machine = Machine::named("h200-7x1g");
    let ran = machine.run(&[
        "run",
        "--batch",
        "4,8",
        "-q",
        "-o",
        "a.csv",
        "--",
        "sh",
        "-c",
        "test \"$1\" = \"$CUDA_VISIBLE_DEVICES\" && echo \"$@\" > $3-$4",
        "name",
        "{uuid}",
        "{profile}",
        "{index}",
        "{batch}",
    ]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let rows = machine.bench.rows("a.csv");
    assert_eq!(rows.len(), 14);
    assert!(rows.iter().all(|row| row.point.workload == rows[0].point.workload));
    assert!(rows.iter().all(|row| row.subject.identity == Some(Identity::Consistent)));
    for index in 0..7 {
        let said = std::fs::read_to_string(machine.bench.path(&format!("{index}-8"))).unwrap();
        assert!(said.ends_with(&format!(" 1g.18gb {index} 8\n")), "{said}");
    }
    let check = machine.run(&["check", "a.csv"]);
    assert_eq!(check.code, Some(0), "{}{}", check.stdout, check.stderr);
}

/// What stands in docs/protocol.md between two fences.
fn example(language: &str) -> String {
    let document = std::fs::read_to_string("docs/protocol.md").unwrap();
    let (_, rest) = document.split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

/// Seven at once, with the real overlap.
fn run_example(language: &str, program: &str, identity: Identity) {
    let machine = Machine::named("h200-7x1g");
    let script = example(language);
    assert!(script.lines().count() < 30);
    std::fs::write(machine.bench.path("example"), script).unwrap();
    // The name that the driver installs.
    std::os::unix::fs::symlink("libcuda.so", machine.bench.path("lib/libcuda.so.1")).unwrap();
    let ran = machine.run(&["run", "--duration", "1s", "-q", "-o", "a.csv", "--", program, "example"]);
    let rows = machine.bench.rows("a.csv");
    assert_eq!(rows.len(), 7, "{}", ran.stderr);
    for row in &rows {
        // Seven programs on the processors of a small machine may starve each other: that is a finding
        // about the run, not about its protocol.
        assert!(
            row.outcome.status == Status::Ok || error(row).starts_with("not a co-run: "),
            "{}",
            error(row)
        );
        assert_eq!(row.health.overlap, Some(1.0), "{}", error(row));
        assert_eq!(row.subject.identity, Some(identity));
        assert!(row.window.batches > Some(10));
    }
}

#[test]
fn the_example_in_bash_runs_on_all_instances() {
    run_example("bash", "bash", Identity::Consistent);
}

#[test]
fn the_example_in_python_runs_on_all_instances() {
    if std::process::Command::new("python3").arg("--version").output().is_err() {
        assert!(std::env::var_os("MIGBENCH_TESTS").is_none(), "there is no python3");
        return;
    }
    run_example("python", "python3", Identity::Proven);
}

#[test]
fn each_wrong_report_becomes_a_reason() {
    let hello = "say 'hello -'; ";
    let begun = "say 'hello -'; say ready; read -r _ <&8; ";
    let cases = [
        (format!("{hello} exit 3"), "the program exited with code 3 before it said ready"),
        (
            format!("{hello} exec 8>&-; eval \"exec $MIGBENCH_FD>&-\"; sleep 9"),
            "the program closed MIGBENCH_FD before it said ready",
        ),
        (format!("{begun} batch; exit 0"), "the program exited with code 0 in its warm-up: it must go on"),
        (format!("{begun} kill -9 $$"), "the program was killed by SIGKILL in its warm-up"),
        (
            "sleep 99".to_owned(),
            "the program neither ended nor said hello within 2 s: give it a longer --deadline",
        ),
        (format!("{hello} sleep 99"), "the program said hello, but not ready within 2 s"),
        (format!("{begun} sleep 99"), "the program reported no batch for 2 s"),
        (
            format!("{begun} say 'batch -5'; sleep 9"),
            "the program wrote \"batch -5\": times are whole nanoseconds",
        ),
        (format!("{begun} say 'batch 0'; sleep 9"), "the program wrote \"batch 0\": no batch takes no time"),
        (
            format!("{begun} say 'batch 5 50'; say 'batch 5 40'; sleep 9"),
            "the program reported a batch that began 15 ns before the end",
        ),
        (
            format!("{begun} say 'batch 5 9000000000000000000'; sleep 9"),
            "the program reported a batch that ends ",
        ),
        (format!("{begun} printf 'batch 12' >&8; exit 0"), "the program wrote half a line: \"batch 12\""),
        (
            format!("{begun} yes | tr -d '\\n' >&8"),
            "the program wrote a line of more than 4096 bytes: \"yyyy",
        ),
        (
            format!("{begun} yes 'Segmentation fault' >&8"),
            "the program wrote \"Segmentation fault\": expected",
        ),
        ("say ready; sleep 9".to_owned(), "the program said ready before it said hello"),
        (
            "say 'hello cuda:0'; sleep 9".to_owned(),
            "the program said hello with \"cuda:0\", which is no UUID: write its device's as nvidia-smi -L shows it",
        ),
    ];
    let threads: Vec<_> = cases
        .into_iter()
        .map(|(script, reason)| {
            std::thread::spawn(move || {
                let (code, row) = one(&script, &["--deadline", "2s"]);
                assert_eq!((code, row.outcome.status), (5, Status::Failed), "{script}");
                assert!(error(&row).starts_with(reason), "{script}: {}", error(&row));
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn what_cannot_be_started_is_refused_before_anything_runs() {
    let bench = Bench::new();
    std::fs::write(bench.path("data"), "x").unwrap();
    for (program, reason) in [
        (
            "no-such-program",
            "migbench: there is no program 'no-such-program': give its path, or a name in PATH\n",
        ),
        ("./data", "migbench: ./data is not executable: chmod +x it, or name its interpreter\n"),
    ] {
        let ran = bench.run(&["run", "--device", "cpu", "-o", "a.csv", "--", program]);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(2), reason));
    }
    // Found, and yet the kernel does not take it.
    std::fs::write(bench.path("bad"), "#!/no/such/interpreter\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(bench.path("bad"), mode).unwrap();
    let ran = bench.run(&["run", "--device", "cpu", "-q", "-o", "a.csv", "--", "./bad"]);
    assert_eq!(ran.code, Some(5));
    assert!(error(&bench.rows("a.csv")[0]).starts_with("cannot start ./bad: "));
    for option in [&["--no-graph"][..], &["--workload", "mlp"], &["--precision", "fp16"]] {
        let ran = bench.run(&[&["run"], option, &["--", "true"]].concat());
        assert_eq!(ran.code, Some(2), "{}", ran.stderr);
        assert!(ran.stderr.contains("cannot be used with"), "{}", ran.stderr);
    }
}

#[test]
fn another_device_is_refuted() {
    let machine = Machine::named("h200-mixed");
    let script = reporting(&LOOP.replace("hello -", "hello GPU-5a5a0000-000d-5000-8000-000000000000"));
    let options = ["run", "--uuid", "MIG-5a5a0000-0003", "-q", "-o", "a.csv", "--", "bash", "-c", &script];
    assert_eq!(machine.run(&options).code, Some(5));
    let row = &machine.bench.rows("a.csv")[0];
    assert_eq!((row.subject.identity, row.outcome.status), (Some(Identity::Refuted), Status::Failed));
    assert!(error(row).starts_with("the worker runs on GPU-5a5a0000-000d"), "{}", error(row));
}

/// A program may spell its device's UUID as its own libraries do.
#[test]
fn a_uuid_proves_the_device_however_it_is_spelt() {
    let machine = Machine::named("h200-mixed");
    let uuid = "MIG-5a5a0000-0003-5000-8000-000000000000";
    for spelling in [uuid.to_owned(), uuid[4..].to_uppercase(), uuid[4..].replace('-', "")] {
        let script = reporting(&LOOP.replace("hello -", &format!("hello {spelling}")));
        let options = [
            "run",
            "--force",
            "--uuid",
            uuid,
            "--batches",
            "3",
            "-q",
            "-o",
            "a.csv",
            "--",
            "bash",
            "-c",
            &script,
        ];
        let ran = machine.run(&options);
        let row = &machine.bench.rows("a.csv")[0];
        assert_eq!(
            (ran.code, row.subject.identity),
            (Some(0), Some(Identity::Proven)),
            "{spelling}: {}",
            error(row)
        );
    }
}

/// TensorRT 8.2 exports its warm-up, too: 200 ms of slow batches.
#[test]
fn the_warm_up_in_a_file_of_trtexec_s_is_no_measurement() {
    let bench = Bench::new();
    let entry = |start: f64, latency: f64| {
        let (h2d, compute, d2h) = (start + 0.1, start + latency - 0.1, start + latency);
        format!(
            "{{ \"startEnqMs\" : {start}, \"endEnqMs\" : {h2d}, \"startH2dMs\" : {start}, \"endH2dMs\" : {h2d}, \
             \"startComputeMs\" : {h2d}, \"endComputeMs\" : {compute}, \"startD2hMs\" : {compute}, \"endD2hMs\" : {d2h}, \
             \"h2dMs\" : 0.1, \"computeMs\" : {}, \"d2hMs\" : 0.1, \"latencyMs\" : {latency}, \"endToEndMs\" : {latency} }}",
            latency - 0.2
        )
    };
    let entries: Vec<String> = (0..25)
        .map(|i| entry(f64::from(i) * 8.0, 8.0))
        .chain((0..100).map(|i| entry(200.0 + f64::from(i) * 2.0, 2.0)))
        .collect();
    std::fs::write(bench.path("times.json"), format!("[\n{}\n]", entries.join("\n, "))).unwrap();
    let of = |more: &[&str]| {
        let options =
            ["run", "--device", "cpu", "-q", "--force", "-o", "a.csv", "--import", "trtexec=t.json"];
        let program = ["--", "sh", "-c", "sleep 0.5; cat times.json > t.json", "trtexec"];
        let ran = bench.run(&[&options[..], &program, more].concat());
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        bench.rows("a.csv").remove(0)
    };
    let row = of(&[]);
    assert_eq!((row.window.warmup_batches, row.window.batches), (Some(25), Some(100)));
    assert_eq!(
        (row.latency.mean, row.latency.max, row.rates.throughput),
        (Some(2.0), Some(2.0), Some(500.0))
    );
    let row = of(&["--warmUp=300"]);
    assert_eq!((row.window.warmup_batches, row.window.batches), (Some(75), Some(50)));
    let row = of(&["--warmUp=0"]);
    assert_eq!((row.window.warmup_batches, row.latency.max), (Some(0), Some(8.0)));
    // Two minutes into a run a moment is known to 1 ms.
    let late: Vec<String> = (0..700).map(|i| entry(110_000.0 + (f64::from(i) * 0.3).round(), 0.3)).collect();
    std::fs::write(bench.path("times.json"), format!("[\n{}\n]", late.join("\n, "))).unwrap();
    let row = of(&[]);
    assert_eq!((row.point.inflight, row.window.batches), (1, Some(700)));
    assert!(row.outcome.warnings.0.contains(&Warning::CoarseTimes), "{}", row.outcome.warnings.codes());
    assert_eq!(bench.run(&["check", "a.csv"]).code, Some(0));
}

/// What trtexec's --exportTimes writes: the keys are its own, the numbers are made.
const TIMES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/trtexec-times.json");

#[test]
fn the_times_of_trtexec_become_a_row() {
    let machine = Machine::named("h200-7x1g");
    let import = |script: &str, more: &[&str]| {
        let options =
            ["run", "--force", "--batch", "8", "-q", "-o", "a.csv", "--import", "trtexec={index}.json"];
        let ran =
            machine.run(&[&options[..], more, &["--", "sh", "-c", script, TIMES, "{index}.json"]].concat());
        (ran.code, machine.bench.rows("a.csv"))
    };
    // It runs for longer than its batches take.
    let (code, rows) = import("sleep 1.1; cat $0 > $1", &[]);
    assert_eq!((code, rows.len()), (Some(0), 7), "{}", error(&rows[0]));
    for row in &rows {
        assert_eq!((row.point.backend.as_str(), row.point.load.as_str()), ("command", "imported"));
        assert_eq!((row.window.batches, row.point.inflight, row.health.overlap), (Some(100), 1, None));
        // 50 batches of 10 ms and 50 of 9 ms, a gap of 0.5 ms after each but the last.
        assert!((row.latency.mean.unwrap() - 9.5).abs() < 1e-6, "{:?}", row.latency.mean);
        assert_eq!((row.latency.min, row.latency.max), (Some(9.0), Some(10.0)));
        assert!((row.window.elapsed_s.unwrap() - 0.9995).abs() < 1e-4, "{:?}", row.window.elapsed_s);
        let stages = &row.stages;
        assert_eq!((stages.batches, stages.h2d_mean, stages.d2h_mean), (Some(100), Some(1.0), Some(0.5)));
        assert!((stages.compute_mean.unwrap() - 8.0).abs() < 1e-6);
        assert_eq!(stages.enqueue_p50, Some(0.25));
        assert!(row.outcome.warnings.0.contains(&Warning::Unproven));
        assert!(row.subject.identity == Some(Identity::Consistent));
    }
    let check = machine.run(&["check", "a.csv"]);
    assert_eq!(check.code, Some(0), "{}{}", check.stdout, check.stderr);
    // The same plan goes on where it was, which is at its end.
    let resumed = machine.run(&[
        "run",
        "--resume",
        "a.csv",
        "--batch",
        "8",
        "-q",
        "--import",
        "trtexec={index}.json",
        "--",
        "sh",
        "-c",
        "sleep 1.1; cat $0 > $1",
        TIMES,
        "{index}.json",
    ]);
    assert_eq!(resumed.code, Some(0), "{}", resumed.stderr);
    assert_eq!(machine.bench.rows("a.csv").len(), 7);
    let one = ["--uuid", "MIG-5a5a0000-0009"];
    for (script, reason) in [
        ("true", "0.json was there before and is unchanged: give trtexec --exportTimes=0.json"),
        ("rm $1", "the program left no 0.json: give trtexec --exportTimes=0.json"),
        ("cat $0 > $1", "cannot import 0.json: its batches take 1.000 s, and the program ran for 0."),
        ("echo junk > $1", "cannot import 0.json: not what trtexec --exportTimes writes: expected value"),
        ("sleep 0.01; exit 3", "the program exited with code 3"),
        (
            "echo hello - >&$MIGBENCH_FD; sleep 9",
            "the program reports its batches itself: leave --import out",
        ),
    ] {
        let (code, rows) = import(script, &one);
        assert_eq!((code, rows.len()), (Some(5), 1), "{script}");
        assert!(error(&rows[0]).starts_with(reason), "{script}: {}", error(&rows[0]));
    }
    let ran = machine.run(&["run", "--import", "perf=a.json", "--", "true"]);
    assert!(ran.code == Some(2) && ran.stderr.contains("write trtexec=FILE"), "{}", ran.stderr);
}

#[test]
fn who_ignores_stop_is_ended_with_all_that_it_started() {
    let forks = "sleep 98761 & setsid sleep 98761 & (setsid sleep 98761 &); ";
    let stubborn = "say 'hello -'; say ready; trap '' TERM; while :; do batch; done";
    let (code, row) = one(&format!("{forks}{stubborn}"), &[]);
    assert_eq!((code, row.outcome.status), (0, Status::Ok), "{}", error(&row));
    assert!(row.outcome.warnings.0.contains(&Warning::EndedByForce));
    assert!(running("98761").is_empty());
}

/// What a program says to its process group reaches neither its supervisor nor the caller.
#[test]
fn a_program_that_ends_its_own_group_ends_nobody_else() {
    let trap = "trap 'kill 0' EXIT; ";
    let (code, row) = one(&format!("{trap}{LOOP}"), &[]);
    assert_eq!((code, row.outcome.status), (0, Status::Ok), "{}", error(&row));
    assert!(row.window.batches > Some(1));
    for (script, status) in [
        ("trap 'kill 0' EXIT; sleep 0.2; exit 0", "the program was killed by SIGTERM"),
        ("sleep 0.2; kill 0; sleep 98", "the program was killed by SIGTERM"),
        ("sleep 0.2; kill -9 0", "the program was killed by SIGKILL"),
    ] {
        let (code, row) = one(script, &[]);
        assert_eq!((code, error(&row)), (5, status), "{script}");
        assert!(row.latency.mean.is_some(), "the time it took stays in the row");
    }
    let (code, row) = one("trap '' TERM; kill 0; sleep 0.2", &[]);
    assert_eq!((code, row.outcome.status), (0, Status::Ok), "{}", error(&row));
}

/// `setsid CMD` replaces itself by CMD, which it cannot do where it leads a process group.
#[test]
fn a_program_can_begin_a_session() {
    let bench = Bench::new();
    let options = ["run", "--device", "cpu", "-q", "-o", "a.csv", "--", "setsid", "sh", "-c"];
    let ran = bench.run(&[&options[..], &["sleep 0.3; test $(ps -o sid= $$) = $$"]].concat());
    let row = &bench.rows("a.csv")[0];
    assert_eq!((ran.code, row.outcome.status), (Some(0), Status::Ok), "{}", error(row));
    assert!(row.latency.mean.unwrap() >= 300.0);
}

#[test]
fn children_that_stay_end_with_the_program() {
    let forks = "sleep 98762 & setsid sleep 98762 & ";
    for (script, status) in [
        (format!("{forks} sleep 0.2"), Status::Ok),
        (format!("{forks}{LOOP}"), Status::Ok),
        (format!("{forks} exit 1"), Status::Failed),
    ] {
        let (_, row) = one(&script, &[]);
        assert_eq!(row.outcome.status, status, "{}", error(&row));
        assert!(running("98762").is_empty());
    }
}

#[test]
fn nothing_outlives_an_interrupt_or_the_parent() {
    for (kill, code, word) in [(Signal::INT, Some(130), "98763"), (Signal::KILL, None, "98764")] {
        let bench = Bench::new();
        let script = reporting(&format!("sleep {word} & {LOOP}"));
        let child = bench.start(&[
            "run",
            "--device",
            "cpu",
            "--duration",
            "1h",
            "-q",
            "-o",
            "a.csv",
            "--",
            "bash",
            "-c",
            &script,
        ]);
        wait_for("the program", || (!running(word).is_empty()).then_some(()));
        // Past the warm-up, into the window.
        std::thread::sleep(Duration::from_millis(2500));
        signal(child.id(), kill);
        let ran = ran(child.wait_with_output().unwrap());
        assert_eq!(ran.code, code, "{}", ran.stderr);
        wait_for("the program's end", || running(word).is_empty().then_some(()));
        if kill == Signal::INT {
            let row = &bench.rows("a.csv")[0];
            assert_eq!(row.outcome.status, Status::Interrupted);
            assert!(row.window.batches > Some(10), "{}", error(row));
        }
    }
}
