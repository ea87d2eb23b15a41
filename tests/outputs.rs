//! No output is lost, and none destroys another file: files that are attacked during a run, readers that
//! leave, and names that clash.

mod common;

use common::{Bench, Ran, error, is_alive, signal, wait_for, workers_of};
use migbench::results::Row;
use migbench::results::row::Status;
use rustix::process::Signal;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Three points on real time, so that there is time to interfere.
const SWEEP: [&str; 7] =
    ["--workload", "scripted(times=2ms,clock=real)", "--batch", "1,2,3", "--duration", "600ms", "-q"];
const ONE: [&str; 5] = ["--workload", "scripted()", "--batch", "1", "-q"];

fn sweep(more: &[&'static str]) -> Vec<&'static str> {
    [&SWEEP[..], more].concat()
}

fn lines(path: &Path) -> usize {
    fs::read_to_string(path).unwrap_or_default().lines().count()
}

/// Waits until the header and this many rows are in the file.
fn wait_for_rows(path: &Path, rows: usize) {
    wait_for("rows", || (lines(path) > rows).then_some(()));
}

fn end(child: Child) -> Ran {
    common::ran(child.wait_with_output().unwrap())
}

fn batches(mut rows: Vec<Row>) -> Vec<u64> {
    rows.sort_by_key(|row| row.point.batch);
    rows.iter().map(|row| row.point.batch).collect()
}

/// The file that a message names, of all CSV files of the folder.
fn fallback(bench: &Bench, ran: &Ran) -> String {
    let line = ran.stderr.lines().find_map(|line| line.strip_prefix("migbench: the rows are in "));
    let path = PathBuf::from(line.unwrap_or_else(|| panic!("no fallback file is named: {}", ran.stderr)));
    assert!(bench.folder.path().join(&path).exists());
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_file_that_goes_away_during_the_run_loses_no_row() {
    type Attack = fn(&Path);
    let attacks: [(&str, Attack); 5] = [
        ("a.csv was removed or renamed during the run", |path| fs::remove_file(path).unwrap()),
        ("a.csv was removed or renamed during the run", |path| {
            fs::rename(path, path.with_extension("moved")).unwrap();
        }),
        ("a.csv was replaced by another file during the run", |path| {
            fs::write(path.with_extension("new"), "new").unwrap();
            fs::rename(path.with_extension("new"), path).unwrap();
        }),
        ("a.csv was cut to 0 bytes by another process", |path| fs::write(path, "").unwrap()),
        ("a.csv was cut to 1500 bytes by another process", |path| {
            fs::OpenOptions::new().write(true).open(path).unwrap().set_len(1500).unwrap();
        }),
    ];
    for (message, attack) in attacks {
        let bench = Bench::new();
        let child = bench.start(&sweep(&["-o", "a.csv"]));
        wait_for_rows(&bench.path("a.csv"), 1);
        attack(&bench.path("a.csv"));
        let ran = end(child);
        assert_eq!(ran.code, Some(1), "{message}: {}", ran.stderr);
        assert!(ran.stderr.contains(message), "{message}: {}", ran.stderr);
        let fallback = fallback(&bench, &ran);
        assert_eq!(batches(bench.rows(&fallback)), [1, 2, 3], "{message}");
        assert!(ran.stdout.ends_with(&format!("saved: {fallback}\n")), "{}", ran.stdout);
    }
}

#[test]
fn a_resumed_file_that_goes_away_takes_no_old_row_along() {
    let bench = Bench::new();
    let child = bench.start(&sweep(&["-o", "a.csv"]));
    wait_for_rows(&bench.path("a.csv"), 1);
    signal(child.id(), Signal::KILL);
    end(child);
    let before = bench.rows("a.csv").len();
    assert!(before < 3, "killed in time");
    let child = bench.start(&sweep(&["--resume", "a.csv"]));
    wait_for_rows(&bench.path("a.csv"), before + 1);
    fs::remove_file(bench.path("a.csv")).unwrap();
    let ran = end(child);
    assert_eq!(batches(bench.rows(&fallback(&bench, &ran))), [1, 2, 3]);
}

#[test]
fn a_second_resume_is_refused_while_the_first_goes_on() {
    let bench = Bench::new();
    fs::write(bench.path("a.csv"), "").unwrap();
    let child = bench.start(&sweep(&["--resume", "a.csv"]));
    wait_for_rows(&bench.path("a.csv"), 1);
    for how in [&["--resume", "a.csv"][..], &["-o", "a.csv", "--append"], &["-o", "a.csv", "--force"]] {
        let refused = bench.run(&sweep(how));
        assert_eq!(refused.code, Some(2), "{how:?}: {}", refused.stderr);
        let named = refused.stderr.contains(&format!("process {} is writing it", child.id()))
            || refused.stderr.contains("another process or host is writing it");
        assert!(named, "{how:?}: {}", refused.stderr);
    }
    let ran = end(child);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(batches(bench.rows("a.csv")), [1, 2, 3], "each row once");
}

#[test]
fn several_that_append_at_once_lose_no_row() {
    let bench = Bench::new();
    let one = ["--workload", "scripted()", "--batch", "1,2,3,4,5", "-q", "-o", "a.csv", "--append"];
    let children: Vec<Child> = (0..4).map(|_| bench.start(&one)).collect();
    for child in children {
        let ran = end(child);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    }
    assert_eq!(bench.rows("a.csv").len(), 20);
}

/// A lock that somebody holds is found before anything is measured, and not waited for.
#[test]
fn a_locked_file_is_refused_at_once() {
    let bench = Bench::new();
    assert_eq!(bench.run(&[&ONE[..], &["-o", "a.csv"]].concat()).code, Some(0));
    let before = fs::read(bench.path("a.csv")).unwrap();
    let file = fs::File::open(bench.path("a.csv")).unwrap();
    file.lock().unwrap();
    for how in [&["-o", "a.csv", "--append"][..], &["--resume", "a.csv"], &["-o", "a.csv", "--force"]] {
        let ran = bench.run(&[&ONE[..], how].concat());
        assert_eq!(ran.code, Some(2), "{how:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("is writing it: wait until that ends"), "{}", ran.stderr);
    }
    assert_eq!(fs::read(bench.path("a.csv")).unwrap(), before);
}

#[test]
fn files_of_something_else_stay_as_they_are() {
    let bench = Bench::new();
    assert_eq!(bench.run(&[&ONE[..], &["-o", "good.csv"]].concat()).code, Some(0));
    let good = fs::read(bench.path("good.csv")).unwrap();
    let foreign: Vec<Vec<u8>> = vec![
        br#"{"precious":"one line of JSON"}"#.to_vec(),
        (0..3_000_000_u32).map(|i| ((i * 31) >> 3) as u8 | 0x80).collect(),
        [b"a,b\n1,2\n".to_vec(), vec![0; 2_000_000]].concat(),
        [&good[..], &vec![b'x'; 1_100_000]].concat(),
        [b"\xef\xbb\xbf", &good[..]].concat(),
    ];
    for bytes in foreign {
        fs::write(bench.path("a.csv"), &bytes).unwrap();
        for how in [&["--resume", "a.csv"][..], &["-o", "a.csv", "--append"]] {
            let ran = bench.run(&[&ONE[..], how].concat());
            assert_eq!(ran.code, Some(2), "{how:?}: {}", ran.stderr);
            assert!(fs::read(bench.path("a.csv")).unwrap() == bytes, "{how:?}");
        }
    }
}

/// What can be refused is refused before an old file is touched.
#[test]
fn force_keeps_the_old_file_until_a_worker_has_started() {
    let bench = Bench::new();
    assert_eq!(bench.run(&[&ONE[..], &["-o", "keep.csv"]].concat()).code, Some(0));
    let before = fs::read(bench.path("keep.csv")).unwrap();
    fs::create_dir(bench.path("folder")).unwrap();
    for refused in [
        &["--hlog", "folder"][..],
        &["--hlog", "keep.csv"],
        &["--hlog", "./folder/../keep.csv"],
        &["--hlog", "missing/x.hlog"],
        &["--trace", "keep.csv", "--load", "open"],
    ] {
        let ran = bench.run(&[&ONE[..], &["-o", "keep.csv", "--force"], refused].concat());
        assert_eq!(ran.code, Some(2), "{refused:?}: {}", ran.stderr);
        assert_eq!(fs::read(bench.path("keep.csv")).unwrap(), before, "{refused:?}");
    }
    let kept = |path: &Path| fs::read(path).unwrap() == before;
    // Killed before its first worker says hello: the worker hangs there.
    let hang =
        ["--workload", "scripted(fault=hang@hello)", "--batch", "1", "-q", "-o", "keep.csv", "--force"];
    let child = bench.start(&hang);
    wait_for("a worker", || workers_of(child.id()).first().copied());
    assert!(kept(&bench.path("keep.csv")));
    signal(child.id(), Signal::KILL);
    end(child);
    assert!(kept(&bench.path("keep.csv")));
    // What that left is cleared by the next run.
    assert_eq!(bench.run(&[&ONE[..], &["-o", "keep.csv", "--force"]].concat()).code, Some(0));
    let mut names: Vec<_> =
        fs::read_dir(bench.folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["folder", "keep.csv"]);
}

#[test]
fn no_output_names_an_input_or_another_output() {
    let bench = Bench::new();
    assert_eq!(bench.run(&[&ONE[..], &["-o", "a.csv"]].concat()).code, Some(0));
    fs::copy(bench.path("a.csv"), bench.path("b.csv")).unwrap();
    std::os::unix::fs::symlink("a.csv", bench.path("link.csv")).unwrap();
    let before = fs::read(bench.path("a.csv")).unwrap();
    for arguments in [
        &["compare", "a.csv", "b.csv", "--output", "csv=a.csv", "--force"][..],
        &["compare", "a.csv", "b.csv", "--output", "csv=link.csv", "--force"],
        &["compare", "a.csv", "b.csv", "--output", "csv=x,json=x"],
        &["compare", "a.csv", "b.csv", "--output", "csv=-,json=-"],
        &["export", "a.csv", "-o", "a.csv", "--force"],
        &["export", "a.csv", "-o", "./link.csv", "--force"],
        &["export", "a.csv", "-o", "b.csv"],
    ] {
        let ran = bench.run(arguments);
        assert_eq!(ran.code, Some(2), "{arguments:?}: {}", ran.stderr);
        assert_eq!(ran.stdout, "", "{arguments:?}");
    }
    assert_eq!(fs::read(bench.path("a.csv")).unwrap(), before);
    assert!(!bench.path("x").exists());
    let ran = bench.run(&["export", "a.csv", "-o", "b.csv", "--force"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    assert!(fs::read_to_string(bench.path("b.csv")).unwrap().starts_with('['));
}

/// The row is saved before its intervals, which may fail without it.
#[test]
fn an_interval_log_that_cannot_be_written_loses_no_row() {
    let bench = Bench::new();
    let arguments = ["--workload", "scripted(times=1ms:2ms:3ms)", "--duration", "9s", "--batch", "1,2", "-q"];
    let ran = bench.run(&[&arguments[..], &["-o", "a.csv", "--hlog", "/dev/full"]].concat());
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("cannot write /dev/full: No space left"), "{}", ran.stderr);
    // A limit on the size of files, which the log meets first.
    let mut command = Command::new("sh");
    let script = format!(
        "ulimit -f 8; exec {} {} --duration 3000s -o b.csv --hlog b.hlog",
        env!("CARGO_BIN_EXE_migbench"),
        arguments[..2].iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ")
            + " --batch 1,2 -q"
    );
    command.args(["-c", &script]).current_dir(bench.folder.path()).stdin(Stdio::null());
    command.env("MIGBENCH_NVML", "/nonexistent/libnvidia-ml.so.1");
    let ran = common::ran(command.output().unwrap());
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("cannot write b.hlog"), "{}", ran.stderr);
    assert_eq!(batches(bench.rows("b.csv")), [1, 2]);
    let log = fs::read_to_string(bench.path("b.hlog")).unwrap();
    assert!(log.is_empty() || log.ends_with('\n'), "no half line");
}

/// Files may grow to 8 KiB only: the header and a few rows. The rest is shown and said to be in no file.
#[test]
fn a_row_that_no_disk_takes_is_shown() {
    let bench = Bench::new();
    let script = format!(
        "ulimit -f 8; exec {} --workload 'scripted(times=1ms:7ms:3ms:19ms)' --batch 1,2,3,4,5,6,7,8 -q -o a.csv",
        env!("CARGO_BIN_EXE_migbench")
    );
    let mut command = Command::new("sh");
    command.args(["-c", &script]).current_dir(bench.folder.path()).stdin(Stdio::null());
    command.env("MIGBENCH_NVML", "/nonexistent/libnvidia-ml.so.1").env("TMPDIR", bench.folder.path());
    let ran = common::ran(command.output().unwrap());
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("cannot write to a.csv: File too large"), "{}", ran.stderr);
    assert!(ran.stderr.ends_with("migbench: rows of this run are in no file\n"), "{}", ran.stderr);
    let saved = bench.rows("a.csv").len();
    let table = ran.stdout.lines().skip_while(|line| !line.starts_with("instance")).skip(1);
    let shown = table.take_while(|line| !line.is_empty()).count();
    assert!(saved >= 1, "the file stays whole");
    assert!(shown > saved, "{}", ran.stdout);
    assert!(!ran.stdout.contains("saved:"), "{}", ran.stdout);
}

/// Readers that leave at once, after a line, or after a while; `FULL=1` tries 110 times in all.
#[test]
fn a_reader_that_leaves_changes_no_exit_code() {
    let bench = Bench::new();
    assert_eq!(bench.run(&[&ONE[..], &["-o", "a.csv"]].concat()).code, Some(0));
    // Rows of one run only, which cannot be compared: exit 5; and a row that is wrong.
    let text = fs::read_to_string(bench.path("a.csv")).unwrap();
    fs::write(bench.path("wrong.csv"), text.replacen(",ok,", ",failed,", 1)).unwrap();
    let cases: [(&[&str], i32); 5] = [
        (&["list"], 0),
        (&["export", "a.csv"], 0),
        (&["compare", "a.csv", "wrong.csv", "--output", "junit=j.xml", "--force"], 5),
        (&["check", "wrong.csv"], 5),
        (&[ONE[0], ONE[1], ONE[2], ONE[3], ONE[4], "-o", "b.csv", "--force"], 0),
    ];
    let mut random = fastrand::Rng::with_seed(7);
    for attempt in 0..common::scale(110) {
        let (arguments, code) = cases[attempt % cases.len()];
        if attempt < cases.len() {
            assert_eq!(bench.run(arguments).code, Some(code), "{arguments:?} with a reader");
        }
        let (out, errors) = [(true, false), (false, true), (true, true)][attempt / cases.len() % 3];
        let mut child = bench.start(arguments);
        if random.bool() {
            std::thread::sleep(Duration::from_millis(random.u64(0..30)));
        }
        let mut line = [0; 9];
        if out && let Some(mut out) = child.stdout.take() {
            let _ = random.bool().then(|| out.read(&mut line));
        }
        if errors {
            drop(child.stderr.take());
        }
        let ran = end(child);
        assert_eq!(ran.code, Some(code), "{arguments:?}, {out} {errors}: {}", ran.stderr);
        assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    }
    assert!(fs::read_to_string(bench.path("j.xml")).unwrap().ends_with("</testsuites>\n"));
    assert_eq!(bench.rows("b.csv").len(), 1);
}

#[test]
fn a_worker_that_dies_is_exit_5_also_without_a_reader_of_errors() {
    let bench = Bench::new();
    let arguments = ["--workload", "scripted(fault=exit@window)", "--batch", "1,2", "-o", "a.csv", "--force"];
    for full in [false, true] {
        let mut command = bench.command(&arguments);
        command.stdout(Stdio::null());
        if full {
            command.stderr(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
        } else {
            command.stderr(Stdio::piped());
        }
        let mut child = command.spawn().unwrap();
        drop(child.stderr.take());
        assert_eq!(child.wait().unwrap().code(), Some(5));
        let rows = bench.rows("a.csv");
        assert_eq!(rows.len(), 2);
        assert!(rows.iter().all(|row| row.outcome.status == Status::Failed && !error(row).is_empty()));
    }
}

/// Nobody waits for the rest of the sweep; what was measured is kept.
#[test]
fn rows_for_a_reader_that_has_gone_are_saved_elsewhere() {
    let bench = Bench::new();
    let mut command = bench.command(&sweep(&["-o", "-"]));
    command.env("TMPDIR", bench.folder.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let ran = end(child);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("cannot write to standard output: Broken pipe"), "{}", ran.stderr);
    // The header may have met the closed pipe, too: then nothing was measured.
    if ran.stderr.contains("the rows are in") {
        let rows = bench.rows(&fallback(&bench, &ran));
        assert_eq!(batches(rows).len(), 1, "the sweep ends with the row that could not be written");
    }
}

/// Neither standard output nor any file takes them.
#[test]
fn rows_that_nothing_takes_are_shown_as_errors_are() {
    let bench = Bench::new();
    let mut command = bench.command(&sweep(&["-o", "-"]));
    command.env("TMPDIR", "/nonexistent").stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // The header is in the pipe: the sweep has begun.
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 100]).unwrap();
    drop(child.stdout.take());
    let ran = end(child);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("\ninstance  ") && ran.stderr.contains("rows of this run are in no file"));
}

/// A pipe that is full and does not block: another program that shares it may have made it so.
#[test]
fn a_slow_reader_changes_no_exit_code() {
    let bench = Bench::new();
    assert_eq!(bench.run(&[&ONE[..], &["-o", "a.csv"]].concat()).code, Some(0));
    let text = fs::read_to_string(bench.path("a.csv")).unwrap();
    fs::write(bench.path("wrong.csv"), text.replacen(",ok,", ",failed,", 1)).unwrap();
    for (arguments, code) in [
        (&["compare", "a.csv", "wrong.csv"][..], 5),
        (&["check", "wrong.csv"], 5),
        (&["export", "a.csv"], 0),
        (&[ONE[0], ONE[1], ONE[2], ONE[3], ONE[4], "-o", "-"], 0),
    ] {
        let (mut reader, writer) = std::io::pipe().unwrap();
        rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::NONBLOCK).unwrap();
        while (&writer).write(&[b'x'; 4096]).is_ok() {}
        let child = bench.command(arguments).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(300));
        let mut text = Vec::new();
        reader.read_to_end(&mut text).unwrap();
        let ran = end(child);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(code), ""), "{arguments:?}");
        let text = text.trim_ascii_end();
        let text = &text[text.iter().take_while(|&&byte| byte == b'x').count()..];
        assert!(text.len() > 20, "{arguments:?}");
    }
}

/// The step summary is a file as any other: nobody waits for the reader of a pipe without a limit.
#[test]
fn a_step_summary_that_nobody_reads_is_given_up() {
    let bench = Bench::new();
    assert_eq!(bench.run(&[&ONE[..], &["-o", "a.csv"]].concat()).code, Some(0));
    let summary = bench.path("summary");
    rustix::fs::mknodat(rustix::fs::CWD, &summary, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let mut command = bench.command(&["compare", "a.csv", "a.csv", "--github"]);
    let ran = common::ran(command.env("GITHUB_STEP_SUMMARY", &summary).output().unwrap());
    assert_ne!(ran.code, Some(0));
    assert!(ran.stderr.contains("no process opened it for reading"), "{}", ran.stderr);
    assert!(ran.stdout.contains("3 comparisons: 3 SAME"), "the table is complete: {}", ran.stdout);
}

#[test]
fn a_hangup_is_an_interruption_unless_it_is_ignored() {
    let bench = Bench::new();
    let arguments =
        ["--workload", "scripted(times=2ms,clock=real)", "--batch", "1", "--duration", "2s", "-q"];
    let child = bench.start(&[&arguments[..], &["-o", "a.csv"]].concat());
    let worker = wait_for("a worker", || workers_of(child.id()).first().copied());
    std::thread::sleep(Duration::from_millis(300));
    signal(child.id(), Signal::HUP);
    assert_eq!(end(child).code, Some(130));
    assert_eq!(bench.rows("a.csv")[0].outcome.status, Status::Interrupted);
    wait_for("the worker's end", || (!is_alive(worker)).then_some(()));

    let mut command = Command::new("nohup");
    command.arg(env!("CARGO_BIN_EXE_migbench")).args(arguments).args(["-o", "b.csv"]);
    command.current_dir(bench.folder.path()).env("MIGBENCH_NVML", "/nonexistent/libnvidia-ml.so.1");
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("a worker", || workers_of(child.id()).first().copied());
    std::thread::sleep(Duration::from_millis(300));
    signal(child.id(), Signal::HUP);
    assert_eq!(end(child).code, Some(0));
}
