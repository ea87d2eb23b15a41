//! Programs that try to outlive migbench: whatever ends the parent, nothing that was started stays.
//!
//! `ORPHANS` is the number of programs, 8 by default and 48 with `FULL=1`; each runs on all instances of
//! the stand-in machine at once. 24 are each shape under each signal.

mod common;

use common::standin::Machine;
use common::{Bench, error, is_alive, ran, running, signal, state, wait_for, workers_of};
use migbench::results::row::Status;
use rustix::process::Signal;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const SIGNALS: [Signal; 4] = [Signal::KILL, Signal::TERM, Signal::HUP, Signal::INT];

/// What they leave; `$0` is the mark that each process of theirs bears as an argument.
const SHAPES: [&str; 6] = [
    // A session of its own.
    "setsid sleep $0 & sleep $0",
    // Two forks away, in a session of its own, without its environment.
    "(env -i setsid sleep $0 &); exec sleep $0",
    // What a closed terminal does not end.
    "nohup sleep $0 >/dev/null 2>&1 & nohup setsid sleep $0 >/dev/null 2>&1 & sleep $0",
    // Deaf to everything that can be ignored.
    "trap '' TERM HUP INT QUIT; setsid sleep $0 & while :; do sleep $0; done",
    // Without a descriptor that others could see the end of.
    "eval \"exec 0<&- 1>&- 2>&- $MIGBENCH_FD>&-\"; setsid sleep $0 & sleep $0",
    // In a session of its own as a whole, with children that replace themselves.
    "exec setsid sh -c 'while :; do (sleep 0.05; setsid sleep $0) & sleep 0.2; done' $0",
];

/// A number that no other process on the machine sleeps for.
fn mark(index: usize) -> String {
    format!("{}.{index:03}", 3_000_000 + std::process::id())
}

/// Starts a program on all seven instances and waits until each has left what it leaves.
fn start(machine: &Machine, script: &str, mark: &str) -> Child {
    let options = ["run", "-q", "-o", "a.csv", "--", "sh", "-c", script, mark];
    let mut command = machine.command(&options);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // The parent bears the mark, too.
    wait_for("the programs", || (running(mark).len() > 14).then_some(()));
    child
}

fn all_end(mark: &str, what: &str) {
    wait_for(&format!("the end of {what}"), || running(mark).is_empty().then_some(()));
}

#[test]
fn nothing_outlives_the_parent() {
    let default = if std::env::var_os("FULL").is_some() { 48 } else { 8 };
    let programs =
        std::env::var("ORPHANS").map_or(default, |number| number.parse().expect("ORPHANS is a number"));
    let mut random = fastrand::Rng::with_seed(18);
    for index in 0..programs {
        let (end, script) = (SIGNALS[index % 4], SHAPES[(index / 4 + index) % 6]);
        let (machine, mark) = (Machine::named("h200-7x1g"), mark(index));
        let child = start(&machine, script, &mark);
        std::thread::sleep(Duration::from_millis(random.u64(0..300)));
        signal(child.id(), end);
        let ran = ran(child.wait_with_output().unwrap());
        all_end(&mark, &format!("{script} after {end:?}, {}", ran.stderr));
        if matches!(end, Signal::TERM | Signal::INT) {
            assert_eq!(ran.code, Some(130), "{script} after {end:?}: {}", ran.stderr);
        }
    }
}

/// The parent adopts what a supervisor leaves that was killed, and ends it.
#[test]
fn what_a_killed_supervisor_leaves_is_ended_by_the_parent() {
    for (index, script) in SHAPES.into_iter().enumerate().take(4) {
        let (machine, mark) = (Machine::named("h200-7x1g"), mark(100 + index));
        let child = start(&machine, script, &mark);
        for worker in workers_of(child.id()) {
            signal(worker, Signal::KILL);
        }
        let ran = ran(child.wait_with_output().unwrap());
        assert_eq!(ran.code, Some(5), "{}", ran.stderr);
        all_end(&mark, script);
        let rows = machine.bench.rows("a.csv");
        assert_eq!(rows.len(), 7);
        for row in &rows {
            assert!(error(row).contains("the worker was killed by SIGKILL"), "{}", error(row));
        }
    }
}

/// With all of its threads: until then the kernel takes it for a running one.
fn has_stopped(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let ids = threads.filter_map(|thread| thread.file_name().to_str()?.parse().ok());
    ids.into_iter().all(|thread: u32| state(thread) == Some('T'))
}

/// A stopped process cannot act on SIGTERM; the kernel continues it when its parent has gone.
#[test]
fn a_stopped_supervisor_ends_with_its_parent() {
    let (machine, mark) = (Machine::named("h200-7x1g"), mark(200));
    let mut child = start(&machine, SHAPES[0], &mark);
    let workers = workers_of(child.id());
    workers.iter().for_each(|&worker| signal(worker, Signal::STOP));
    wait_for("the stop", || workers.iter().all(|&worker| has_stopped(worker)).then_some(()));
    signal(child.id(), Signal::KILL);
    child.wait().unwrap();
    all_end(&mark, "a program under a stopped supervisor");
    wait_for("the workers' end", || (!workers.iter().any(|&pid| is_alive(pid))).then_some(()));
}

/// What the parent did not start is not its to end: children that the shell had before it became
/// migbench.
#[test]
fn who_was_there_before_is_left_alone() {
    let (bench, mark) = (Bench::new(), mark(300));
    let script = "sleep $0 & (setsid sleep $0 &); exec \"$@\"";
    let inner = bench.command(&["run", "--device", "cpu", "-q", "-o", "a.csv", "--", "sh", "-c"]);
    let mut outer = Command::new("sh");
    outer.args(["-c", script, &mark]).arg(inner.get_program()).args(inner.get_args());
    outer.arg("(setsid sleep 600 &); sleep 0.2").current_dir(bench.folder.path()).stdin(Stdio::null());
    outer.env("MIGBENCH_NVML", "/nonexistent/libnvidia-ml.so.1");
    let ran = ran(outer.stdout(Stdio::null()).stderr(Stdio::null()).output().unwrap());
    let left = running(&mark);
    left.iter().for_each(|&pid| signal(pid, Signal::KILL));
    assert_eq!((ran.code, left.len()), (Some(0), 2));
}

/// Another user's: nobody is root there.
const STRANGER: u32 = 54_000;

/// Runs as another user: nothing of this may be done as root, which may kill anything.
fn as_a_stranger(mut command: Command, folder: &Path) -> Command {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test drops the rights of root and cannot be run without them"
    );
    chown(folder, Some(STRANGER), Some(STRANGER)).unwrap();
    command.uid(STRANGER).gid(STRANGER);
    command
}

/// A program that becomes root, as sudo does, and ignores what it is asked: it is named, not waited for.
#[test]
fn a_process_of_another_user_is_named_and_not_waited_for() {
    let cases = [
        ("exec ./become-root $0", false),
        ("exec ./become-root $0", true),
        ("setsid ./become-root $0 & sleep 0.5; exit 3", false),
    ];
    for (index, (script, interrupted)) in cases.into_iter().enumerate() {
        let (bench, mark) = (Bench::new(), mark(400 + index));
        // setpriv with the right to become root: a setuid file, and then all three user ids are root's.
        let setpriv = Command::new("sh").args(["-c", "command -v setpriv"]).output().unwrap().stdout;
        let setpriv = String::from_utf8(setpriv).unwrap();
        std::fs::copy(setpriv.trim(), bench.path("setpriv")).expect("setpriv of util-linux is installed");
        std::fs::set_permissions(bench.path("setpriv"), PermissionsExt::from_mode(0o4755)).unwrap();
        std::fs::write(
            bench.path("become-root"),
            "#!/bin/sh\nexec ./setpriv --reuid=0 --clear-groups sh -c 'trap \"\" TERM; sleep $0' $1\n",
        )
        .unwrap();
        std::fs::set_permissions(bench.path("become-root"), PermissionsExt::from_mode(0o755)).unwrap();
        let deadline = if interrupted { "10m" } else { "2s" };
        let options = ["run", "--device", "cpu", "--deadline", deadline, "-q", "-o", "a.csv"];
        let command = bench.command(&[&options[..], &["--", "sh", "-c", script, &mark]].concat());
        let mut command = as_a_stranger(command, bench.folder.path());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        if interrupted {
            let is_of_root =
                |pid: &u32| std::fs::metadata(format!("/proc/{pid}")).is_ok_and(|process| process.uid() == 0);
            // The shell and its child.
            wait_for("root", || {
                (running(&mark).iter().filter(|pid| is_of_root(pid)).count() == 2).then_some(())
            });
            signal(child.id(), Signal::INT);
            std::thread::sleep(Duration::from_millis(300));
            signal(child.id(), Signal::INT);
        }
        let ran = ran(child.wait_with_output().unwrap());
        let left = running(&mark);
        left.iter().for_each(|&pid| signal(pid, Signal::KILL));
        assert!(!left.is_empty(), "it has become root: is the temporary folder mounted nosuid?");
        let (code, status) = if interrupted { (130, Status::Interrupted) } else { (5, Status::Failed) };
        assert_eq!(ran.code, Some(code), "{}", ran.stderr);
        let row = &bench.rows("a.csv")[0];
        assert_eq!(row.outcome.status, status);
        for pid in left {
            let name = format!("pid {pid} (s");
            assert!(error(row).matches(&name).count() == 1, "{pid} in {}", error(row));
        }
        assert!(error(row).contains("still runs: it belongs to another user"), "{}", error(row));
    }
}
