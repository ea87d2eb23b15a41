//! Code, text and files of somebody else's: in the current directory, in the environment, in what programs
//! write and in what files hold.

mod common;

use common::standin::{Machine, library};
use common::{Bench, Ran, ran};
use migbench::machine::text;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

fn executable(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A folder in which everything that migbench looks for is a trap, by the same names as elsewhere.
fn set_traps(folder: &Path) {
    let trap = library("libstandin_trap.so");
    let libraries = [
        "libonnxruntime.so",
        "libnvidia-ml.so.1",
        "libcuda.so",
        "libcuda.so.1",
        "libcublasLt.so.13",
        "libcublasLt.so.12",
        "libcublasLt.so.11",
        "onnxruntime/capi/libonnxruntime.so",
        "nvidia/cublas/lib/libcublasLt.so.13",
    ];
    for name in libraries {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(&trap, path).unwrap();
    }
    let python = "import os\nopen(os.environ['MIGBENCH_TRAP'], 'w').close()\n";
    for name in
        ["importlib.py", "importlib/__init__.py", "onnxruntime/__init__.py", "sitecustomize.py", "os.py"]
    {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, python).unwrap();
    }
    for name in ["python3", "python", "nvidia-smi", "serve"] {
        executable(&folder.join(name), "#!/bin/sh\n: > \"$MIGBENCH_TRAP\"\n");
    }
}

/// The traps' mark.
fn mark(bench: &Bench) -> PathBuf {
    bench.path("sprung")
}

/// Runs a command in a folder with traps, and says what went wrong in none of them.
fn run_among_traps(bench: &Bench, command: &mut Command, variables: &[(&str, &str)]) -> Ran {
    let done = command.env("MIGBENCH_TRAP", mark(bench)).envs(variables.iter().copied()).output().unwrap();
    let done = ran(done);
    assert!(
        !mark(bench).exists(),
        "{variables:?}: {command:?} ran foreign code: {}{}",
        done.stdout,
        done.stderr
    );
    done
}

/// Lists that mean the current directory, with a part that does not.
fn relative_lists(absolute: &str) -> Vec<String> {
    let part = |text: &str| text.replace('A', absolute);
    ["", ":", ".", "A:", ":A", "A::", "A:.", "A:traps", "./traps:A", "A;.", "A:;"].map(part).into()
}

fn among_traps(bench: &Bench) {
    set_traps(bench.folder.path());
    fs::create_dir(bench.path("traps")).unwrap();
    set_traps(&bench.path("traps"));
    fs::write(bench.path("net.onnx"), "").unwrap();
}

#[test]
fn no_library_is_opened_in_the_current_directory() {
    let bench = Bench::new();
    among_traps(&bench);
    for list in relative_lists("/nonexistent") {
        let variables = [("LD_LIBRARY_PATH", list.as_str()), ("PATH", "/nonexistent")];
        let mut model = bench.command(&["--device", "cpu", "--model", "net.onnx", "-o", "a.csv"]);
        let done = run_among_traps(&bench, model.env_remove("ORT_DYLIB_PATH"), &variables);
        assert!(done.stderr.contains("ONNX Runtime's library was not found"), "{list}: {}", done.stderr);
        let mut list = bench.command(&["list"]);
        let done = run_among_traps(&bench, list.env_remove("MIGBENCH_NVML"), &variables);
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        let mut doctor = bench.command(&["doctor"]);
        run_among_traps(&bench, doctor.env_remove("MIGBENCH_NVML"), &variables);
    }
}

#[test]
fn no_product_library_is_opened_in_the_current_directory() {
    let machine = Machine::named("h200-mixed");
    set_traps(machine.bench.folder.path());
    fs::create_dir(machine.bench.path("traps")).unwrap();
    set_traps(&machine.bench.path("traps"));
    let uuid = machine.topology.gpus[0].mig_devices[0].uuid.clone();
    let lib = machine.bench.path("lib").display().to_string();
    for list in relative_lists(&lib).into_iter().filter(|list| list.contains(&lib)) {
        let arguments = ["--gemm", "cublaslt", "--workload", "mlp", "--batch", "4", "--batches", "20", "-q"];
        let more = ["--uuid", &uuid, "--allow-busy", "-o", "a.csv", "--force"];
        let mut command = machine.command(&[&arguments[..], &more].concat());
        let variables = [("LD_LIBRARY_PATH", list.as_str()), ("PATH", "/nonexistent")];
        let done = run_among_traps(&machine.bench, &mut command, &variables);
        let rows = machine.bench.rows("a.csv");
        assert_eq!(rows.len(), 1, "{list}: {}", done.stderr);
        assert!(
            rows[0].outcome.error.is_none() || common::error(&rows[0]).contains("cuBLASLt"),
            "{}",
            common::error(&rows[0])
        );
    }
}

#[test]
fn python_imports_nothing_from_the_current_directory() {
    let bench = Bench::new();
    among_traps(&bench);
    let path = std::env::var("PATH").unwrap();
    // Python takes its time: each variable with some of the lists, and PATH with all.
    let mut calls: Vec<Vec<(&str, String)>> = Vec::new();
    for list in relative_lists("/nonexistent") {
        calls.push(vec![("PATH", format!("{list}:{path}"))]);
    }
    for variable in ["PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "HOME", "VIRTUAL_ENV", "CONDA_PREFIX"] {
        for list in ["", ".", "traps", "/nonexistent:"] {
            calls.push(vec![("PATH", path.clone()), (variable, list.to_owned())]);
        }
    }
    for variables in &calls {
        let mut command = bench.command(&["--device", "cpu", "--model", "net.onnx", "-o", "a.csv"]);
        command.env_remove("VIRTUAL_ENV").env_remove("CONDA_PREFIX").env_remove("ORT_DYLIB_PATH");
        let variables: Vec<(&str, &str)> = variables.iter().map(|(n, v)| (*n, v.as_str())).collect();
        run_among_traps(&bench, &mut command, &variables);
    }
}

#[test]
fn nvidia_smi_is_not_started_from_the_current_directory() {
    let machine = Machine::named("h200-mixed");
    set_traps(machine.bench.folder.path());
    // The loader's own name for NVML: with another one, there is no nvidia-smi to compare with.
    let list = |path: &str| {
        let mut command = machine.command(&["list"]);
        command.env_remove("MIGBENCH_NVML").env("PATH", path);
        command
    };
    for path in relative_lists("/nonexistent") {
        let done = run_among_traps(&machine.bench, &mut list(&path), &[]);
        assert!(done.stdout.contains("GPU 0"), "{}{}", done.stdout, done.stderr);
    }
    // From a folder that is named it is.
    let folder = machine.bench.folder.path().display().to_string();
    list(&folder).env("MIGBENCH_TRAP", mark(&machine.bench)).output().unwrap();
    assert!(mark(&machine.bench).exists(), "the trap is none");
}

#[test]
fn a_program_of_yours_is_named_by_its_path_or_found_in_path() {
    let bench = Bench::new();
    executable(&bench.path("serve"), "#!/bin/sh\necho \"$LD_LIBRARY_PATH\" > seen\n");
    let path = format!("{}:", std::env::var("PATH").unwrap());
    let run = |program: &str| {
        let mut command = bench.command(&["--device", "cpu", "-q", "-o", "a.csv", "--force", "--", program]);
        ran(command.env("PATH", &path).env("LD_LIBRARY_PATH", "/nonexistent:lib").output().unwrap())
    };
    let refused = run("serve");
    assert_eq!(refused.code, Some(2));
    let reason =
        "'serve' is only in a relative folder of PATH, from which nothing is started: name it as ./serve\n";
    assert!(refused.stderr.ends_with(reason), "{}", refused.stderr);
    assert!(!bench.path("seen").exists());
    let started = run("./serve");
    assert_eq!(started.code, Some(0), "{}{}", started.stdout, started.stderr);
    let seen = fs::read_to_string(bench.path("seen")).unwrap();
    assert_eq!(seen, "/nonexistent:lib\n", "the program has the environment that it would have alone");
    // A name with a placeholder is looked for when it is known.
    let late = run("ser{index}ve");
    assert_eq!(late.code, Some(5), "{}", late.stderr);
}

#[test]
fn a_variable_names_an_absolute_path() {
    let machine = Machine::named("h200-mixed");
    set_traps(machine.bench.folder.path());
    fs::write(machine.bench.path("net.onnx"), "").unwrap();
    let says = "give it an absolute path, nothing is opened in the current directory";
    for path in ["libnvidia-ml.so.1", "./libnvidia-ml.so.1", "nvidia/../libnvidia-ml.so.1"] {
        for arguments in [&["list"][..], &["doctor"], &["--list-runs"]] {
            let done =
                run_among_traps(&machine.bench, &mut machine.command(arguments), &[("MIGBENCH_NVML", path)]);
            assert_eq!(done.code, Some(2), "{}", done.stderr);
            assert!(done.stderr.replace("\n  ", " ").contains(says), "{}", done.stderr);
        }
    }
    let model = ["--device", "cpu", "--model", "net.onnx", "-o", "a.csv"];
    let ort = [("ORT_DYLIB_PATH", "./libonnxruntime.so")];
    let done = run_among_traps(&machine.bench, &mut machine.command(&model), &ort);
    assert!(
        done.stderr.contains(&format!("ORT_DYLIB_PATH is './libonnxruntime.so': {says}")),
        "{}",
        done.stderr
    );
    let gemm = ["--gemm", "cublaslt", "--workload", "mlp", "--batch", "4", "--gpu", "0", "-q", "-o", "b.csv"];
    let library = [("MIGBENCH_CUBLASLT", "./libcublasLt.so.13")];
    run_among_traps(&machine.bench, &mut machine.command(&gemm), &library);
    for row in machine.bench.rows("b.csv") {
        assert!(common::error(&row).contains(says), "{}", common::error(&row));
    }
}

/// A copy of the program that runs with its owner's rights, started by somebody with fewer.
#[test]
fn with_elevated_privileges_the_environment_names_no_code() {
    assert!(
        rustix::process::geteuid().is_root(),
        "a set-user-id program can only be made as root: run as root"
    );
    const SOMEBODY: u32 = 54_000;
    let bench = Bench::new();
    fs::set_permissions(bench.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    among_traps(&bench);
    let program = bench.path("migbench");
    fs::copy(env!("CARGO_BIN_EXE_migbench"), &program).unwrap();
    chown(&program, Some(0), Some(0)).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
    let traps = bench.folder.path().display().to_string();
    fs::create_dir_all(bench.path("bin")).unwrap();
    fs::copy(bench.path("python3"), bench.path("bin/python3")).unwrap();
    let variable = |name: &str| format!("{traps}/{name}");
    let variables = [
        ("MIGBENCH_NVML", variable("libnvidia-ml.so.1")),
        ("MIGBENCH_SMI", variable("nvidia-smi")),
        ("MIGBENCH_CUBLASLT", variable("libcublasLt.so.13")),
        ("ORT_DYLIB_PATH", variable("libonnxruntime.so")),
        ("LD_LIBRARY_PATH", traps.clone()),
        ("PATH", traps.clone()),
        ("VIRTUAL_ENV", traps.clone()),
        ("PYTHONPATH", traps.clone()),
    ];
    let run = |program: &Path, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(bench.folder.path()).uid(SOMEBODY).gid(SOMEBODY);
        command
            .env_remove("CUDA_VISIBLE_DEVICES")
            .envs(variables.iter().map(|(name, value)| (*name, value.as_str())));
        command
    };
    let model = ["--device", "cpu", "--model", "net.onnx", "-o", "/dev/null"];
    for arguments in [&["list"][..], &["doctor"], &["--list-runs"], &model] {
        run_among_traps(&bench, &mut run(&program, arguments), &[]);
    }
    // What its caller names would run with the rights of its owner.
    let library = variable("libonnxruntime.so");
    for (arguments, shown) in [
        (&["list", "--nvml", &library][..], "--nvml would run with"),
        (&["--device", "cpu", "--model", "net.onnx", "--ort-lib", &library], "--ort-lib would run with"),
        (&["--device", "cpu", "--", "./serve"], "a program of yours would run with"),
    ] {
        let done = run_among_traps(&bench, &mut run(&program, arguments), &[]);
        assert_eq!(done.code, Some(2), "{}", done.stderr);
        assert!(done.stderr.contains(shown), "{}", done.stderr);
    }
    // The same copy without these rights goes by the environment: the traps are none without the guard.
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(bench.folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    run(&program, &["list"]).env("MIGBENCH_TRAP", mark(&bench)).output().unwrap();
    assert!(mark(&bench).exists(), "the traps are none");
}

/// Lines that a terminal, a spreadsheet or a CI system would take for something else than text.
fn assert_harmless(output: &str, what: &str) {
    for line in output.split('\n') {
        assert!(line.chars().all(text::is_visible), "{what}: {line:?}");
        assert!(!line.trim_start().starts_with("::"), "{what}: {line:?}");
        assert!(!line.contains("##[") && !line.contains("##vso["), "{what}: {line:?}");
    }
}

const HOSTILE: [&str; 8] = [
    "::error title=x::injected",
    "::add-mask::0",
    " \t::warning::x",
    "a\r::stop-commands::zzz",
    "##[error]x ##vso[task.complete]",
    "\u{1b}]0;title\u{7}\u{1b}[2J\u{1b}[31mred\u{202e}\0",
    "=cmd|\"/C calc\"!A0",
    "@SUM(A1)",
];

#[test]
fn what_a_program_writes_is_text() {
    let bench = Bench::new();
    let script = r#"
printf '\033]0;title\007\033[2J\033[31mred\033[m\000\342\200\256\n' >&2
printf ' 10 %%\r 50 %%\r100 %%\n::error::injected\n##[error]x\n' >&2
head -c 300000 /dev/zero | tr '\0' 'x' >&2
echo >&2
echo 'the end' >&2
exit 3"#;
    let done = bench.run(&["--device", "cpu", "-o", "a.csv", "--", "sh", "-c", script]);
    assert_eq!(done.code, Some(5));
    assert_harmless(&done.stdout, "the table");
    assert_harmless(&done.stderr, "standard error");
    let text = fs::read_to_string(bench.path("a.csv")).unwrap();
    assert_harmless(&text, "the file");
    let rows = bench.rows("a.csv");
    let error = common::error(&rows[0]);
    for part in ["red | ", "100 % | ", ": :error::injected", "## [error]x", "xxx…xxx", "the end"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(!error.contains("50 %") && error.len() < 5000, "{error}");
    assert!(bench.run(&["check", "a.csv"]).stdout.contains("all hold together"));
}

#[test]
fn what_a_program_says_of_its_device_is_text() {
    let machine = Machine::named("h200-mixed");
    let uuid = machine.topology.gpus[0].mig_devices[0].uuid.clone();
    let script = r#"printf 'hello \033[31m%01500d\033[m\n' 0 >&$MIGBENCH_FD; sleep 9"#;
    let done = machine.run(&["--uuid", &uuid, "--allow-busy", "-o", "a.csv", "--", "sh", "-c", script]);
    assert_eq!(done.code, Some(5), "{}", done.stderr);
    assert_harmless(&done.stdout, "the table");
    let rows = machine.bench.rows("a.csv");
    assert!(common::error(&rows[0]).len() < 1000, "{}", common::error(&rows[0]));
}

/// A good file of one row, with a cell replaced.
fn with_cell(bench: &Bench, name: &str, column: &str, value: &str) {
    let mut reader = csv::Reader::from_path(bench.path("good.csv")).unwrap();
    let header = reader.headers().unwrap().clone();
    let mut writer = csv::Writer::from_path(bench.path(name)).unwrap();
    writer.write_record(&header).unwrap();
    for record in reader.records().map(Result::unwrap) {
        let cell = |(name, cell)| if name == column { value } else { cell };
        writer.write_record(header.iter().zip(record.iter()).map(cell)).unwrap();
    }
}

#[test]
fn what_a_file_holds_is_text() {
    let bench = Bench::new();
    let quick = ["--device", "cpu", "--workload", "null", "--batch", "1", "--batches", "10", "-q"];
    assert_eq!(bench.run(&[&quick[..], &["-o", "good.csv"]].concat()).code, Some(0));
    for hostile in HOSTILE {
        for column in ["gpu_name", "instance_kind", "workload", "profile", "error", "host", "scope", "load"] {
            let what = format!("{column} = {hostile:?}");
            with_cell(&bench, "bad.csv", column, hostile);
            let forms = ["markdown=r.md", "junit=r.xml", "csv=r.csv", "json=r.json", "table=r.txt"];
            let outputs: Vec<&str> = forms.iter().flat_map(|form| ["--output", form]).collect();
            for (base, new) in [("bad.csv", "bad.csv"), ("bad.csv", "good.csv"), ("good.csv", "bad.csv")] {
                let done = bench.run(&[&["compare", base, new, "--force"], &outputs[..]].concat());
                assert_harmless(&done.stdout, &what);
                assert_harmless(&done.stderr, &what);
                for file in ["r.md", "r.txt", "r.csv"] {
                    assert_harmless(
                        &fs::read_to_string(bench.path(file)).unwrap(),
                        &format!("{file}: {what}"),
                    );
                }
                let mut cells = csv::Reader::from_path(bench.path("r.csv")).unwrap();
                for cell in cells
                    .records()
                    .map(Result::unwrap)
                    .flat_map(|r| r.iter().map(str::to_owned).collect::<Vec<_>>())
                {
                    assert!(!cell.starts_with(['=', '@', '\t', '\r']), "{what}: {cell}");
                    assert!(!cell.starts_with(['+', '-']) || cell.parse::<f64>().is_ok(), "{what}: {cell}");
                }
                // With --github, commands of our own: none of another kind, and none that they hold.
                let done = bench.run(&["compare", base, new, "--github"]);
                for line in done.stdout.lines().filter(|line| line.starts_with("::")) {
                    assert!(
                        line.starts_with("::error title=") || line.starts_with("::warning title="),
                        "{line}"
                    );
                }
                let others: Vec<&str> = done.stdout.lines().filter(|line| !line.starts_with("::")).collect();
                assert_harmless(&others.join("\n"), &what);
            }
            for arguments in [
                &["check", "bad.csv"][..],
                &["check", "bad.csv", "--format", "markdown"],
                &["export", "bad.csv"],
            ] {
                let done = bench.run(arguments);
                assert_harmless(&done.stdout, &what);
                assert_harmless(&done.stderr, &what);
            }
        }
    }
}

#[test]
fn a_file_may_have_any_name() {
    let bench = Bench::new();
    for name in ["::error::x.csv", "\n::error::y.csv", "\u{1b}[31mz.csv"] {
        fs::write(bench.path(name), "a,b\n1,2\n").unwrap();
        for arguments in
            [&["check", name][..], &["check", "--columns", "batch=a", name], &["compare", name, name]]
        {
            let done = bench.run(arguments);
            assert_harmless(&done.stdout, name);
            assert_harmless(&done.stderr, name);
        }
    }
}

#[test]
fn what_a_topology_holds_is_text() {
    let machine = Machine::named("h200-mixed");
    for hostile in HOSTILE {
        let mut topology = machine.topology.clone();
        topology.gpus[0].name = hostile.to_owned();
        topology.gpus[0].uuid = format!("GPU-{hostile}");
        topology.gpus[0].mig_devices[0].uuid = format!("{hostile}\nsecond line");
        topology.driver_version = Some(hostile.to_owned());
        fs::write(machine.bench.path("t.json"), serde_json::to_string(&topology).unwrap()).unwrap();
        fs::write(
            machine.bench.path("t.txt"),
            format!("GPU 0: {hostile} (UUID: GPU-5a5a0001-0000-4000-8000-00000000000a)\n"),
        )
        .unwrap();
        for arguments in [
            &["list", "--topology", "t.json"][..],
            &["list", "--topology", "t.txt"],
            &["list", "--topology", "t.json", "--format", "csv"],
            &["doctor", "--topology", "t.json"],
            &["--topology", "t.json", "--list-runs"],
        ] {
            let done = machine.run(arguments);
            assert_harmless(&done.stdout, hostile);
            assert_harmless(&done.stderr, hostile);
            assert!(!done.stdout.contains(",=") && !done.stdout.contains(",@"), "{}", done.stdout);
        }
    }
}

#[test]
fn a_file_that_never_ends_is_refused_at_once() {
    let bench = Bench::new();
    let fifo = bench.path("fifo");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    for endless in [fifo.to_str().unwrap(), "/dev/zero", "/dev/stdin"] {
        for arguments in [
            &["--device", "cpu", "--model", endless][..],
            &["--device", "cpu", "--trace", endless],
            &["--list-runs", "--topology", endless],
            &["list", "--topology", endless],
            &["doctor", "--topology", endless],
            &["check", endless],
            &["compare", endless, endless],
            &["export", endless],
        ] {
            let done = bench.run(arguments);
            assert_eq!(done.code, Some(2), "{arguments:?}: {}", done.stderr);
            assert!(done.stderr.contains("is not a regular file (a pipe or a device)"), "{}", done.stderr);
        }
    }
    let zeros = fs::File::open("/dev/zero").unwrap();
    let done = ran(bench.command(&["list", "--topology", "-"]).stdin(zeros).output().unwrap());
    assert_eq!(done.code, Some(2), "{}", done.stderr);
    assert!(done.stderr.contains("cannot read standard input: it has more than"), "{}", done.stderr);
    let library = library("libstandin_onnxruntime.so");
    for (model, ort) in [("fifo", library.to_str().unwrap()), ("m.onnx", "fifo"), ("m.onnx", "/dev/zero")] {
        fs::write(bench.path("m.onnx"), "").unwrap();
        let done = bench.run(&["--device", "cpu", "--model", model, "--ort-lib", ort]);
        assert_eq!(done.code, Some(2), "{}", done.stderr);
    }
    let import = ["--import", "trtexec=late", "--", "sh", "-c", "mkfifo late"];
    let done = bench.run(&[&["--device", "cpu", "-o", "a.csv"][..], &import].concat());
    assert_eq!(done.code, Some(5), "{}", done.stderr);
    assert!(common::error(&bench.rows("a.csv")[0]).contains("late is not a regular file"), "{}", done.stdout);
}

#[test]
fn absurd_numbers_of_rounds_are_refused() {
    let bench = Bench::new();
    for arguments in
        [&["--repeat", "4294967295"][..], &["--repeat", "4294967295", "--list-runs"], &["--repeat", "60000"]]
    {
        let done = bench.run(&[&["--device", "cpu", "-o", "a.csv"], arguments].concat());
        assert_eq!(done.code, Some(2), "{arguments:?}: {}", done.stderr);
        assert!(
            done.stderr.contains(" measurements, a plan may have 100000: choose fewer"),
            "{}",
            done.stderr
        );
        assert!(!bench.path("a.csv").exists());
    }
}

#[test]
fn a_scope_that_cannot_be_read_is_no_scope_without_limits() {
    let machine = Machine::named("h200-mixed");
    let odd = std::ffi::OsStr::from_bytes(b"MIG-\xff\xfe");
    let run = |arguments: &[&str]| {
        ran(machine.command(arguments).env("CUDA_VISIBLE_DEVICES", odd).output().unwrap())
    };
    for arguments in [&["--list-runs"][..], &["--batches", "5", "-o", "a.csv"]] {
        let done = run(arguments);
        assert_eq!(done.code, Some(2), "{}", done.stderr);
        let reason = "CUDA_VISIBLE_DEVICES is not UTF-8 ('MIG-\u{fffd}\u{fffd}'): set it to UUIDs or indices";
        assert!(done.stderr.contains(reason), "{}", done.stderr);
    }
    assert!(!machine.bench.path("a.csv").exists());
    let listed = run(&["list"]);
    assert!(!listed.stdout.contains("usable\n") && listed.stdout.contains("no: "), "{}", listed.stdout);
    assert_eq!(run(&["doctor"]).code, Some(2), "nothing in scope can be measured");
}

#[test]
fn a_capture_holds_no_address_of_a_cluster() {
    let machine = Machine::named("h200-mixed");
    let done =
        machine.run_with(&["doctor", "--capture", "c.json"], &[("KUBERNETES_SERVICE_HOST", "10.96.0.1")]);
    let text = fs::read_to_string(machine.bench.path("c.json")).unwrap_or_else(|_| panic!("{}", done.stderr));
    assert!(!text.contains("10.96.0.1"), "{text}");
}
