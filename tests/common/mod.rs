//! The real program, in a folder of its own, without NVIDIA.
#![allow(dead_code, reason = "not every test file uses all of it")]

pub mod machines;
pub mod standin;

use migbench::results::Row;
use migbench::results::csv_file;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Why a row failed or is invalid; empty where it is neither.
pub fn error(row: &Row) -> &str {
    row.outcome.error.as_deref().unwrap_or_default()
}

/// How often a test of chance is tried: a tenth, and all of `times` with `FULL=1`.
pub fn scale(times: usize) -> usize {
    if std::env::var_os("FULL").is_some_and(|full| full == "1") { times } else { times.div_ceil(10) }
}

/// A program call in a fresh folder.
pub struct Bench {
    /// The folder; everything is written below it.
    pub folder: tempfile::TempDir,
}

/// What a call left behind.
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Bench {
    pub fn new() -> Bench {
        Bench { folder: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_migbench"));
        command.args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        // A machine with a driver must give the same answers here as one without.
        command.env("MIGBENCH_NVML", "/nonexistent/libnvidia-ml.so.1").env_remove("CUDA_VISIBLE_DEVICES");
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Ran {
        ran(self.command(arguments).output().unwrap())
    }

    pub fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// The rows of a file in the folder, which must be whole.
    pub fn rows(&self, name: &str) -> Vec<Row> {
        let read = csv_file::read(&self.path(name)).unwrap();
        assert!(!read.torn);
        read.rows
    }
}

pub fn ran(output: Output) -> Ran {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Waits until something holds; a test that waits for a minute has failed.
pub fn wait_for<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(value) = found() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The worker processes of a running migbench.
pub fn workers_of(parent: u32) -> Vec<u32> {
    children_of(parent, &["worker"])
}

/// The process that asks NVML for a running migbench.
pub fn helper_of(parent: u32) -> Option<u32> {
    children_of(parent, &["probe", "nvml"]).first().copied()
}

/// The children of a process that were started with these arguments first.
fn children_of(parent: u32, arguments: &[&str]) -> Vec<u32> {
    let children = format!("/proc/{parent}/task");
    let Ok(tasks) = std::fs::read_dir(children) else { return Vec::new() };
    let read =
        |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
    let pids = tasks.filter_map(Result::ok).map(read).collect::<Vec<_>>().join(" ");
    let pids = pids.split_whitespace().filter_map(|pid| pid.parse().ok());
    pids.filter(|pid| command_line(*pid).get(1..=arguments.len()).is_some_and(|a| a == arguments)).collect()
}

/// Program and arguments of a process; none of one that has ended.
pub fn command_line(pid: u32) -> Vec<String> {
    let text = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = text.split(|&byte| byte == 0);
    words.map(|word| String::from_utf8_lossy(word).into_owned()).filter(|word| !word.is_empty()).collect()
}

/// The state of a process, as ps shows it.
pub fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Is there a process of this number that has not ended?
pub fn is_alive(pid: u32) -> bool {
    !matches!(state(pid), None | Some('Z' | 'X'))
}

/// Processes that have this word as an argument and have not ended.
pub fn running(word: &str) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let has = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|&b| b == 0).any(|part| part == word.as_bytes()) && is_alive(*pid)
    };
    pids.filter(has).collect()
}

pub fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}
