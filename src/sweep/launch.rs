//! One worker process: pinned, spoken with, ended.

use crate::machine::{Instance, host, text};
use crate::measure::program::status_text;
use crate::measure::protocol::{self, FromWorker, ToWorker};
use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How many lines of a worker's standard error are kept.
const STDERR_LINES: usize = 8;

/// What a worker said, or that its stream ended.
#[derive(Debug)]
pub enum Heard {
    /// A message.
    Message(Box<FromWorker>),
    /// Not a message, and why.
    Rubbish(String),
    /// The end of its stream.
    Closed,
}

/// What starts workers: the program itself, and a place without an MPS daemon.
pub struct Launcher {
    program: PathBuf,
    mps_folder: tempfile::TempDir,
}

/// A running worker.
pub struct Worker {
    child: Child,
    reaped: bool,
    stdin: ChildStdin,
    stderr: Arc<Mutex<VecDeque<String>>>,
    stderr_thread: Option<JoinHandle<()>>,
}

impl Launcher {
    /// Workers are this same program.
    ///
    /// # Errors
    /// The program or the temporary folder can't be found.
    pub fn new() -> Result<Launcher> {
        Ok(Launcher {
            // Not the path it was started by: a replaced or deleted file must still be this version.
            program: Path::new("/proc/self/exe").to_owned(),
            mps_folder: tempfile::Builder::new()
                .prefix("migbench-no-mps-")
                .tempdir()
                .context("cannot create a temporary folder")?,
        })
    }

    /// Starts a worker that sees `instance` alone and tells what it hears to `heard`, with `member`
    /// as sender. To be called on a thread that outlives the worker: the worker dies with it.
    ///
    /// # Errors
    /// The process can't be started.
    pub fn start(&self, instance: &Instance, member: usize, heard: Sender<(usize, Heard)>) -> Result<Worker> {
        let mut command = Command::new(&self.program);
        command
            .arg0("migbench")
            .arg("worker")
            // A group of its own: the terminal's Ctrl-C must reach the parent only.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_mps_variable(name)) {
            command.env_remove(name);
        }
        if let Some(uuid) = instance.uuid() {
            command
                .env("CUDA_VISIBLE_DEVICES", uuid)
                .env("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
                // Without the variable a daemon on the default path would still be used.
                .env("CUDA_MPS_PIPE_DIRECTORY", self.mps_folder.path());
        }
        let mut child = command.spawn().context("cannot start a worker")?;
        let stdin = child.stdin.take().expect("asked for a pipe");
        let stdout = child.stdout.take().expect("asked for a pipe");
        std::thread::spawn(move || listen(BufReader::new(stdout), member, &heard));
        let stderr = Arc::new(Mutex::new(VecDeque::new()));
        let pipe = child.stderr.take().expect("asked for a pipe");
        let lines = Arc::clone(&stderr);
        let stderr_thread = Some(std::thread::spawn(move || keep_last_lines(BufReader::new(pipe), &lines)));
        Ok(Worker { child, reaped: false, stdin, stderr, stderr_thread })
    }
}

fn is_mps_variable(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with("CUDA_MPS_"))
}

/// Every line of a worker, until the end or until it is not worth listening to.
fn listen(mut stdout: impl BufRead, member: usize, heard: &Sender<(usize, Heard)>) {
    loop {
        let mut line = Vec::new();
        let read = stdout.by_ref().take(protocol::MAX_LINE).read_until(b'\n', &mut line);
        let what = match read {
            Err(_) | Ok(0) => Heard::Closed,
            Ok(_) if line.ends_with(b"\n") => match protocol::decode(&line) {
                Ok(message) => Heard::Message(Box::new(message)),
                Err(error) => Heard::Rubbish(format!("{error}")),
            },
            Ok(n) if n as u64 == protocol::MAX_LINE => {
                Heard::Rubbish(format!("a line of more than {n} bytes"))
            }
            Ok(_) => Heard::Rubbish(format!("half a line: {:?}", String::from_utf8_lossy(&line))),
        };
        let last = !matches!(what, Heard::Message(_));
        if heard.send((member, what)).is_err() || last {
            return;
        }
    }
}

/// Reads to the end, so that the worker never blocks on a full pipe, and keeps the last lines.
fn keep_last_lines(mut stderr: impl BufRead, lines: &Mutex<VecDeque<String>>) {
    while let Ok(Some(text)) = text::read_line(&mut stderr) {
        let mut lines = lines.lock().expect("no thread panics with it");
        if lines.len() == STDERR_LINES {
            lines.pop_front();
        }
        lines.push_back(text);
    }
}

impl Worker {
    /// Sends a message. A worker that no longer listens is found out by the end of its stream.
    pub fn send(&mut self, message: &ToWorker) {
        let _ = self.stdin.write_all(&protocol::encode(message));
    }

    /// Ends the worker and whatever it started, at once.
    pub fn kill(&mut self) {
        if self.reaped {
            return;
        }
        if let Some(group) = Pid::from_raw(self.child.id() as i32) {
            // What has left the group would keep the worker's standard error open.
            let started = host::descendants(group);
            let _ = kill_process_group(group, Signal::KILL);
            for pid in started {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }

    /// Waits up to `grace` for it to end by itself, ends it else, together with whatever it started;
    /// returns how it ended and the last lines of its standard error.
    pub fn end(mut self, grace: Duration) -> (String, Vec<String>) {
        let deadline = Instant::now() + grace;
        while !self.has_ended() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        let by_itself = self.has_ended();
        // Before it is reaped: its process id, and with it the group's, cannot have been reused yet.
        self.kill();
        let status = match self.child.wait() {
            Ok(status) if by_itself => status_text(status),
            _ => "was ended".to_owned(),
        };
        self.reaped = true;
        if let Some(thread) = self.stderr_thread.take() {
            let _ = thread.join();
        }
        let lines = self.stderr.lock().expect("no thread panics with it").iter().cloned().collect();
        (status, lines)
    }

    fn has_ended(&self) -> bool {
        let Some(pid) = Pid::from_raw(self.child.id() as i32) else { return true };
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        !matches!(waitid(WaitId::Pid(pid), options), Ok(None))
    }
}

impl Drop for Worker {
    /// No worker outlives the parent, nor the parent's interest in it.
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}
