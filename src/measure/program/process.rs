//! The user's program as a process: started beside its supervisor, heard, and ended with all that it
//! started.
//!
//! It has a process group that neither its supervisor nor itself leads. What a program says to its group
//! (`kill 0`) must not reach the supervisor, and a program that leads a group cannot begin a session
//! (setsid), which it can when a script starts it. All that it starts is found in any group and session:
//! whoever loses its parent becomes a child of the supervisor, which is their subreaper.

use crate::machine::{child, lookup, processes, thread};
use crate::measure::clock::{Clock, Monotonic};
use crate::workload::command::Program;
use anyhow::{Context, Result, bail};
use rustix::process::{Signal, WaitId, WaitIdOptions, getpid, kill_process, waitid};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// How long a read waits.
const READ_NS: u64 = 20_000_000;
/// Between two reads while lines come: a supervisor that woke for each of them would take the
/// processor from the program.
const PAUSE_NS: u64 = 1_000_000;
/// From the first kill until a process of the program's that still runs is given up. What can be killed
/// ends within milliseconds, or within seconds when the driver has much memory to take back.
const END_LIMIT: Duration = Duration::from_secs(10);

/// A running program.
pub struct Process {
    child: child::Running,
    /// Leads the program's process group. It has ended, and keeps the group's number from others.
    _leader: child::Running,
    /// Whether [`Self::end`] was called.
    pub has_been_ended: bool,
    socket: Option<UnixStream>,
    ended_at: Arc<AtomicU64>,
    buffer: Vec<u8>,
    /// When it was started, ns on CLOCK_MONOTONIC.
    pub started_at: u64,
}

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub enum Read1<'a> {
    /// So many bytes.
    Bytes(&'a [u8]),
    /// Nothing, for now.
    Nothing,
    /// Nothing will come any more.
    Closed,
}

impl Process {
    /// Starts it with standard input empty, standard output on standard error, and one end of a
    /// socket as the descriptor that MIGBENCH_FD names.
    ///
    /// # Errors
    /// What can't be started, and what to do.
    pub fn start(program: &Program) -> Result<Process> {
        let (ours, theirs) = UnixStream::pair().context("cannot make a socket")?;
        ours.set_read_timeout(Some(Duration::from_nanos(READ_NS)))?;
        // A program that does not read must not hold its supervisor up.
        ours.set_write_timeout(Some(Duration::from_secs(1)))?;
        // Without CLOEXEC; below 10, because POSIX shells redirect one digit only.
        let theirs: OwnedFd = rustix::io::fcntl_dupfd_cloexec(&theirs, 3)?;
        rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty())?;
        child::adopt_orphans().context("cannot become the subreaper of the program's children")?;
        let Some((name, arguments)) = program.arguments.split_first() else { bail!("no program was given") };
        let leader = group_leader().context("cannot make a process group for the program")?;
        // As the command line was checked: in no relative folder of PATH.
        let path = match name.contains('/') {
            true => name.into(),
            false => lookup::find(name).with_context(|| format!("cannot start {name}"))?,
        };
        let mut command = Command::new(path);
        lookup::give_back_folders(&mut command);
        command
            .arg0(name)
            .args(arguments)
            .env("MIGBENCH_FD", std::os::fd::AsRawFd::as_raw_fd(&theirs).to_string())
            .process_group(leader.pid().as_raw_pid())
            .stdin(Stdio::null());
        let started_at = Monotonic.now();
        let child = match child::spawn(command, Signal::KILL) {
            Ok(child) => child,
            Err(error) => bail!("cannot start {name}: {}", refusal(&error)),
        };
        drop(theirs);
        let ended_at = Arc::new(AtomicU64::new(0));
        let mut process = Process {
            child,
            _leader: leader,
            has_been_ended: false,
            socket: Some(ours),
            ended_at,
            buffer: vec![0; 1 << 16],
            started_at,
        };
        let watched = process.watch();
        if watched.is_err() {
            let _ = process.end();
        }
        watched.map(|()| process)
    }

    /// Notes the moment of its end, on a thread that waits without reaping.
    fn watch(&self) -> Result<()> {
        let (pid, ended_at) = (self.child.pid(), Arc::clone(&self.ended_at));
        thread::start("watch", move || {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            while matches!(waitid(WaitId::Pid(pid), options), Err(rustix::io::Errno::INTR)) {}
            ended_at.store(Monotonic.now(), Relaxed);
        })?;
        Ok(())
    }

    /// What has come; waits for it no longer than a tick.
    pub fn read(&mut self) -> Read1<'_> {
        let Some(socket) = &mut self.socket else {
            Monotonic.sleep_until(Monotonic.now() + READ_NS);
            return Read1::Closed;
        };
        match socket.read(&mut self.buffer) {
            Ok(0) => {
                self.socket = None;
                Read1::Closed
            }
            Ok(n) => Read1::Bytes(&self.buffer[..n]),
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) =>
            {
                Read1::Nothing
            }
            // A program that ended with our words unread.
            Err(_) => {
                self.socket = None;
                Read1::Closed
            }
        }
    }

    /// Lets lines gather before the next read.
    pub fn pause(&self) {
        Monotonic.sleep_until(Monotonic.now() + PAUSE_NS);
    }

    /// A word to the program. One that no longer listens is found out by its end.
    pub fn say(&mut self, word: &str) {
        if let Some(socket) = &mut self.socket {
            let _ = socket.write_all(format!("{word}\n").as_bytes());
        }
    }

    /// When it ended, ns on CLOCK_MONOTONIC; none while it runs.
    pub fn ended_at(&self) -> Option<u64> {
        Some(self.ended_at.load(Relaxed)).filter(|&at| at > 0)
    }

    /// Waits until it has ended, at most for so long, and leaves what it writes meanwhile; `sign` is
    /// called several times a second.
    pub fn wait(&mut self, ns: u64, sign: &mut dyn FnMut()) -> bool {
        let deadline = Monotonic.now() + ns;
        while self.ended_at().is_none() && Monotonic.now() < deadline {
            // Its writes must not block it.
            if self.read() == Read1::Closed && self.ended_at().is_none() {
                Monotonic.sleep_until(Monotonic.now() + PAUSE_NS);
            }
            sign();
        }
        self.ended_at().is_some()
    }

    /// Asks it, and what it started, to end.
    pub fn terminate(&self) {
        for pid in processes::descendants(getpid()) {
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    /// Ends whatever of it still runs; how the program itself ended.
    ///
    /// # Errors
    /// A process of it still runs and is left alone: it belongs to another user, or is inside a call of a
    /// driver.
    pub fn end(&mut self) -> Result<ExitStatus> {
        self.has_been_ended = true;
        let left = processes::end_descendants(END_LIMIT);
        let limit = if left.is_empty() { END_LIMIT } else { Duration::ZERO };
        let status = self.child.wait_for(limit)?;
        let left: Vec<String> = left.iter().map(ToString::to_string).collect();
        match status {
            Some(status) if left.is_empty() => Ok(status),
            None if left.is_empty() => bail!("the program has not ended, though killed"),
            _ => bail!("what the program started could not be ended: {}", left.join("; ")),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.has_been_ended {
            let _ = self.end();
        }
    }
}

/// Ends everything below this process, for a supervisor that has to end at once.
pub fn end_all() {
    processes::end_descendants(END_LIMIT);
}

/// The leader of a process group, which ends at once. As long as it is not reaped, others may join the
/// group.
fn group_leader() -> Result<child::Running> {
    let mut command = Command::new(child::THIS_PROGRAM);
    // Without a parent's job a worker has nothing to do.
    command.arg0("migbench").arg("worker").env_remove(child::PARENT);
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(child::spawn(command, Signal::KILL)?)
}

/// Why a program can't be started, and what to do.
fn refusal(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "there is no such program: give its path, or a name in PATH".to_owned(),
        ErrorKind::PermissionDenied => {
            "it is not executable: chmod +x it, or name its interpreter".to_owned()
        }
        _ => error.to_string(),
    }
}

/// How a process ended, after "the program" or "the worker".
pub fn status_text(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => match signal_hook::low_level::signal_name(signal) {
            Some(name) => format!("was killed by {name}"),
            None => format!("was killed by signal {signal}"),
        },
        _ => "ended".to_owned(),
    }
}
