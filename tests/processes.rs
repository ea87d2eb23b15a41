//! What a machine may do to the processes and threads of migbench: limits, a missing /proc, a worker that
//! does not read, a file that is deleted, a person who calls the worker.

mod common;

use common::{Bench, error, is_alive, ran, signal, wait_for, workers_of};
use rustix::process::Signal;
use std::time::Duration;

const SLOW: &str = "scripted(times=2ms,clock=real)";

fn is_called_migbench(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "migbench\n")
}

/// A job that is larger than a pipe, for a worker that does not read it: its patience runs all the same,
/// and so does an interruption.
#[test]
fn a_worker_that_does_not_read_its_job_holds_nobody_up() {
    for interrupted in [false, true] {
        let bench = Bench::new();
        let arrivals: String = (0..200_000).map(|i| format!("{}\n", f64::from(i) * 1e-4)).collect();
        std::fs::write(bench.path("trace.txt"), arrivals).unwrap();
        let patience = if interrupted { "10m" } else { "1s" };
        let options = ["--workload", "scripted(times=1us)", "--batch", "1", "--trace", "trace.txt"];
        let child = bench.start(&[&options[..], &["--patience", patience, "-q", "-o", "a.csv"]].concat());
        let worker = wait_for("a worker", || workers_of(child.id()).first().copied());
        // Not before it is the worker: stopped between fork and exec, it would hold up its start.
        wait_for("its name", || is_called_migbench(worker).then_some(()));
        signal(worker, Signal::STOP);
        if interrupted {
            std::thread::sleep(Duration::from_millis(500));
            signal(child.id(), Signal::INT);
        }
        let ran = ran(child.wait_with_output().unwrap());
        let (code, reason) = if interrupted {
            (130, "interrupted before its window")
        } else {
            (5, "the worker gave no sign of life for 1 s while opening its device")
        };
        assert_eq!(ran.code, Some(code), "{}", ran.stderr);
        let row = &bench.rows("a.csv")[0];
        assert!(error(row).starts_with(reason), "{}", error(row));
        assert!(!is_alive(worker));
    }
}

/// Where a worker looks for an MPS daemon there is nothing, and nobody can put anything there. Nothing is
/// left in the temporary folder, not even by a killed run.
#[test]
fn a_killed_run_leaves_nothing_in_the_temporary_folder() {
    let machine = common::standin::Machine::named("h200-7x1g");
    std::fs::create_dir(machine.bench.path("tmp")).unwrap();
    let arguments = ["--workload", SLOW, "--batch", "1", "-q", "-o", "a.csv", "--duration", "1h"];
    let mut command = machine.command(&arguments);
    command.env("TMPDIR", machine.bench.path("tmp")).env("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps");
    let mut child = command.spawn().unwrap();
    let worker = wait_for("a worker", || workers_of(child.id()).first().copied());
    let environment = wait_for("its environment", || {
        let read = std::fs::read(format!("/proc/{worker}/environ")).ok()?;
        let text = String::from_utf8(read).unwrap();
        let pair = text.split('\0').find(|pair| pair.starts_with("CUDA_MPS_PIPE_DIRECTORY="))?;
        // Before exec it is still its parent's.
        pair.split_once('=').map(|(_, folder)| folder.to_owned()).filter(|_| is_called_migbench(worker))
    });
    signal(child.id(), Signal::KILL);
    child.wait().unwrap();
    let folder = std::path::Path::new(&environment);
    assert!(folder.starts_with("/proc/self") && !folder.exists());
    assert!(std::fs::create_dir(folder).is_err(), "not even for root");
    assert_eq!(std::fs::read_dir(machine.bench.path("tmp")).unwrap().count(), 0);
}

/// Runs a shell script in the folder of a bench, with migbench and its arguments as "$@".
fn in_shell(bench: &Bench, script: &str, arguments: &[&str]) -> common::Ran {
    let inner = bench.command(arguments);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", script, "sh"]).arg(inner.get_program()).args(inner.get_args());
    shell.current_dir(bench.folder.path()).stdin(std::process::Stdio::null());
    shell.env("MIGBENCH_NVML", "/nonexistent/libnvidia-ml.so.1");
    ran(shell.output().unwrap())
}

/// No thread, no process, no memory: an error or a failed row, never a panic.
#[test]
fn limits_on_threads_and_memory_are_errors_with_a_reason() {
    use std::os::unix::fs::{PermissionsExt, chown};
    assert!(rustix::process::geteuid().is_root(), "the limit on processes does not bind root: it is dropped");
    // dash calls it -p.
    let processes = (0..24).map(|n| format!("ulimit -u {n} 2>/dev/null || ulimit -p {n}"));
    let memory = (2..40).map(|n| format!("ulimit -v {}", 2_500 * n));
    let mut codes = Vec::new();
    for (index, limit) in processes.chain(memory).enumerate() {
        let bench = Bench::new();
        // One user a trial: the limit counts all processes of a user.
        let user = 54_100 + index as u32;
        chown(bench.folder.path(), Some(user), Some(user)).unwrap();
        std::fs::set_permissions(bench.folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let script = format!("{limit}; exec setpriv --reuid={user} --regid={user} --clear-groups \"$@\"");
        let ran =
            in_shell(&bench, &script, &["--workload", "scripted()", "--batch", "1", "-q", "-o", "a.csv"]);
        let text = format!("{limit}: {:?}\n{}{}", ran.code, ran.stdout, ran.stderr);
        assert!(!text.contains("panicked"), "{text}");
        // Too little for the kernel or the loader of shared libraries.
        let is_of_the_loader = ran.stderr.contains("error while loading shared libraries");
        if is_of_the_loader || (ran.code.is_none() && ran.stderr.is_empty()) {
            continue;
        }
        assert!(matches!(ran.code, Some(0 | 1 | 2 | 5)), "{text}");
        match ran.code {
            // Whether there are GPUs cannot be asked.
            Some(2) => assert!(
                ran.stderr.starts_with("migbench: cannot read the GPUs from NVML: the process that asked "),
                "{text}"
            ),
            Some(1) => assert!(ran.stderr.starts_with("migbench: cannot create the thread"), "{text}"),
            Some(5) => assert_eq!(bench.rows("a.csv").len(), 1, "{text}"),
            _ => {}
        }
        codes.push(ran.code);
    }
    assert!(codes.contains(&Some(1)) && codes.contains(&Some(5)) && codes.contains(&Some(0)), "{codes:?}");
}

/// A caller that ignores SIGCHLD leaves that to what it starts: the kernel then reaps children unasked.
#[test]
fn a_caller_that_ignores_the_end_of_children_changes_nothing() {
    let options = ["--device", "cpu", "-q", "-o", "a.csv"];
    for (what, code) in [
        (&["--workload", "scripted()", "--batch", "1"][..], 0),
        (&["--workload", "scripted(fault=exit@window)", "--batch", "1"], 5),
        (&["--", "sh", "-c", "sleep 0.1; exit 0"], 0),
        (&["--", "sh", "-c", "sleep 0.1; exit 3"], 5),
    ] {
        let bench = Bench::new();
        let arguments = [&["run"], &options[..], what].concat();
        let ran = in_shell(&bench, "exec env --ignore-signal=CHLD \"$@\"", &arguments);
        let row = &bench.rows("a.csv")[0];
        assert_eq!(ran.code, Some(code), "{what:?}: {}", error(row));
        let reason = if what[0] == "--" { "code 3" } else { "code 7" };
        assert!(code == 0 || error(row).contains(reason), "{what:?}: {}", error(row));
    }
}

#[test]
fn a_small_stack_is_no_matter() {
    let bench = Bench::new();
    let arguments = ["--device", "cpu", "--workload", "bert-tiny", "--batch", "1", "--batches", "10"];
    let ran =
        in_shell(&bench, "ulimit -s 64; exec \"$@\"", &[&arguments[..], &["-q", "-o", "a.csv"]].concat());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
}

/// By hand it says what it is, and the script that called it goes on.
#[test]
fn a_worker_by_hand_ends_nobody() {
    let bench = Bench::new();
    let job = r#"{"protocol":1,"type":"job"}"#;
    for input in ["</dev/null".to_owned(), format!("<<'END'\n{job}\nEND\n"), "< \"$1\"".to_owned()] {
        for mark in ["", "MIGBENCH_PARENT=1 "] {
            let ran = in_shell(&bench, &format!("{mark}\"$@\" {input}\necho \"code $?\""), &["worker"]);
            assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "code 2\n"), "{}", ran.stderr);
            assert!(ran.stderr.contains("the process that 'migbench run' starts"), "{}", ran.stderr);
        }
    }
}

#[test]
fn without_proc_the_reason_says_so() {
    let bench = Bench::new();
    let script = "unshare --mount sh -c 'umount -l /proc && exec \"$@\"' sh \"$@\"";
    let sweep: [&str; 7] = ["--workload", "scripted()", "--batch", "1", "-q", "-o", "a.csv"];
    for arguments in [&sweep[..], &[&sweep[..], &["--device", "cpu"]].concat(), &["list"]] {
        let ran = in_shell(&bench, script, arguments);
        assert_eq!(ran.code, Some(2), "a file system can be unmounted: {}", ran.stderr);
        assert!(ran.stderr.contains("without /proc: mount it"), "{arguments:?}: {}", ran.stderr);
    }
}

/// ps and nvidia-smi show its name, and it is the same program when the file has gone.
#[test]
fn workers_are_called_migbench_and_survive_a_deleted_file() {
    let bench = Bench::new();
    let copy = bench.path("copy-of-migbench");
    std::fs::copy(env!("CARGO_BIN_EXE_migbench"), &copy).unwrap();
    let inner = bench.command(&["--workload", SLOW, "--batch", "1,2", "--duration", "300ms", "-o", "a.csv"]);
    let mut command = std::process::Command::new(&copy);
    command.args(inner.get_args()).current_dir(bench.folder.path());
    command.env("MIGBENCH_NVML", "/nonexistent/libnvidia-ml.so.1");
    let child =
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let worker = wait_for("a worker", || workers_of(child.id()).first().copied());
    std::fs::remove_file(&copy).unwrap();
    wait_for("its name", || is_called_migbench(worker).then_some(()));
    let ran = ran(child.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(bench.rows("a.csv").len(), 2);
}
