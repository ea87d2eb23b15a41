//! One worker process: pinned, spoken with, ended.

use crate::machine::processes::{self, Killer, Left};
use crate::machine::{Instance, child, text, thread};
use crate::measure::program::status_text;
use crate::measure::protocol::{self, FromWorker, ToWorker};
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How many lines of a worker's standard error are kept.
const STDERR_LINES: usize = 8;
/// From the kill of a worker until it is no longer waited for. A killed process ends within milliseconds,
/// or within seconds when the driver has much memory to take back; one that is inside a call of a broken
/// driver, never.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// The same after the user has interrupted twice: the program must end within a second.
const HURRIED_LIMIT: Duration = Duration::from_millis(500);
/// From the end of a worker, and of what it started, until the rest of its standard error is no longer
/// waited for: a process that cannot be ended may hold the pipe open.
const STDERR_LIMIT: Duration = Duration::from_millis(200);
/// Where a worker looks for an MPS daemon: a path that does not exist, as /tmp/nvidia-mps does not on a
/// machine without MPS, and that nobody can create. A folder of our own would have to be kept from other
/// users and removed after a kill. On an H200 with a daemon on the default path, a process is its client
/// by default and is none with this variable (CU_DEVICE_ATTRIBUTE_MPS_ENABLED).
const NO_MPS: &str = "/proc/self/migbench-without-mps";

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

/// What starts workers.
pub struct Launcher(());

/// A running worker.
pub struct Worker {
    child: child::Running,
    /// To the thread that writes to it. The end of this channel is the end of its standard input.
    messages: Sender<Vec<u8>>,
    stderr: Arc<Mutex<VecDeque<String>>>,
    stderr_thread: JoinHandle<()>,
}

impl Launcher {
    /// Workers are this same program. Whatever they leave behind becomes a child of this process.
    ///
    /// # Errors
    /// /proc is missing: without it neither can this program be started again, nor can the processes be
    /// found that a worker leaves behind.
    pub fn new() -> Result<Launcher> {
        child::can_start_itself()?;
        child::adopt_orphans().context("cannot become the subreaper of the workers' children")?;
        Ok(Launcher(()))
    }

    /// Starts a worker that sees `instance` alone and passes what it says on to `heard`, with `member`
    /// as sender. `death` is the signal that it gets when this process ends: a worker that supervises a
    /// program must have time to end it.
    ///
    /// # Errors
    /// The process or one of the threads that speak with it can't be started.
    pub fn start(
        &self,
        instance: &Instance,
        death: Signal,
        member: usize,
        heard: Sender<(usize, Heard)>,
    ) -> Result<Worker> {
        let mut command = Command::new(child::THIS_PROGRAM);
        command
            .arg0("migbench")
            .arg("worker")
            // A group of its own: the terminal's Ctrl-C must reach the parent only.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .env(child::PARENT, std::process::id().to_string());
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_mps_variable(name)) {
            command.env_remove(name);
        }
        if let Some(uuid) = instance.uuid() {
            command
                .env("CUDA_VISIBLE_DEVICES", uuid)
                .env("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
                // Without the variable a daemon on the default path would still be used.
                .env("CUDA_MPS_PIPE_DIRECTORY", NO_MPS);
        }
        let mut child = child::spawn(command, death).context("cannot start a worker")?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(pipe)) = pipes else { bail!("a worker has no pipes") };
        let (messages, to_write) = channel();
        thread::start("to worker", move || write_all(stdin, &to_write))?;
        thread::start("from worker", move || listen(BufReader::new(stdout), member, &heard))?;
        let stderr = Arc::new(Mutex::new(VecDeque::new()));
        let lines = Arc::clone(&stderr);
        let stderr_thread = thread::start("stderr", move || keep_last_lines(BufReader::new(pipe), &lines))?;
        Ok(Worker { child, messages, stderr, stderr_thread })
    }
}

/// Writes messages until there will be no more or the worker listens no longer. A job may be larger than
/// a pipe, and a worker that does not read it must not hold up the conversation with the others.
fn write_all(mut stdin: impl Write, messages: &Receiver<Vec<u8>>) {
    while let Ok(message) = messages.recv() {
        if stdin.write_all(&message).is_err() {
            return;
        }
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
        let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == STDERR_LINES {
            lines.pop_front();
        }
        lines.push_back(text);
    }
}

impl Worker {
    /// Sends a message without waiting. A worker that no longer listens is found out by the end of its
    /// stream, one that does not read by its silence.
    pub fn send(&self, message: &ToWorker) {
        let _ = self.messages.send(protocol::encode(message));
    }

    fn last_lines(&self) -> Vec<String> {
        self.stderr.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

/// A worker on its way out: it may end by itself for a while, then it is killed, together with whatever
/// it started. Nothing here waits: [`Self::poll`] is called until it is over.
pub struct Ending {
    worker: Worker,
    /// Until then it may end by itself.
    grace_until: Instant,
    /// The user has interrupted twice.
    hurried: bool,
    /// When it had ended by itself or was killed.
    killed: Option<Killed>,
    killer: Killer,
}

struct Killed {
    by_itself: bool,
    /// From then on nothing is waited for.
    give_up: Instant,
    /// When nothing of it ran any more.
    quiet_since: Option<Instant>,
}

/// How a worker ended.
pub struct Ended {
    /// After "the worker".
    pub status: String,
    /// The last lines of its standard error.
    pub stderr: Vec<String>,
    /// What it started and could not be ended.
    pub left: Vec<Left>,
}

impl Ending {
    /// Lets the worker end by itself for as long as `grace`.
    pub fn new(worker: Worker, grace: Duration) -> Ending {
        let grace_until = Instant::now() + grace;
        Ending { worker, grace_until, hurried: false, killed: None, killer: Killer::default() }
    }

    /// The user has lost patience: no grace any more.
    pub fn hurry(&mut self) {
        let now = Instant::now();
        self.grace_until = now;
        self.hurried = true;
        if let Some(killed) = &mut self.killed {
            killed.give_up = killed.give_up.min(now + HURRIED_LIMIT);
        }
    }

    /// Does what is due; returns how the worker ended as soon as nothing of it is left, or what is left
    /// is not worth waiting for.
    pub fn poll(&mut self) -> Option<Ended> {
        let now = Instant::now();
        let has_ended = self.worker.child.has_ended();
        if self.killed.is_none() && !has_ended && now < self.grace_until {
            return None;
        }
        let mut killed = self.killed.take().unwrap_or_else(|| self.kill(has_ended, now));
        let status = self.worker.child.reap();
        let has_gone = !matches!(status, Ok(None));
        let (remains, all) = self.remains(has_gone);
        let running = self.killer.round(remains);
        child::reap_strangers();
        if has_gone && all && running.is_empty() {
            killed.quiet_since.get_or_insert(now);
        }
        let is_quiet = killed
            .quiet_since
            .is_some_and(|since| self.worker.stderr_thread.is_finished() || now >= since + STDERR_LIMIT);
        if !is_quiet && now < killed.give_up {
            self.killed = Some(killed);
            return None;
        }
        Some(Ended {
            status: ending_text(status.unwrap_or_default(), killed.by_itself),
            stderr: self.worker.last_lines(),
            left: self.killer.left(&running),
        })
    }

    /// Kills the worker and its process group. It is not reaped yet: neither its process id nor the
    /// group's can have been given to others.
    fn kill(&mut self, by_itself: bool, now: Instant) -> Killed {
        // Before it ends: afterwards what it started has another parent.
        let started = processes::descendants(self.worker.child.pid());
        let _ = kill_process_group(self.worker.child.pid(), Signal::KILL);
        self.killer.round(started);
        let limit = if self.hurried { HURRIED_LIMIT } else { KILL_LIMIT };
        Killed { by_itself, give_up: now + limit, quiet_since: None }
    }

    /// The processes that are to end with the worker: itself, and what it leaves behind; whether that is
    /// all of them.
    fn remains(&self, has_gone: bool) -> (Vec<Pid>, bool) {
        let worker = (!has_gone).then(|| self.worker.child.pid());
        let adopted = child::adopted();
        let all = adopted.is_some();
        let roots: Vec<Pid> = worker.into_iter().chain(adopted.into_iter().flatten()).collect();
        let below = roots.iter().flat_map(|&root| processes::descendants(root)).collect();
        ([roots, below].concat(), all)
    }
}

fn ending_text(status: Option<ExitStatus>, by_itself: bool) -> String {
    match status {
        Some(status) if by_itself => status_text(status),
        Some(_) => "was ended".to_owned(),
        None => "was killed and has not ended: it may be inside a call of the driver".to_owned(),
    }
}
