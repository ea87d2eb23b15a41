//! The user's program as a process: started beside its supervisor, heard, and ended with all that it
//! started.
//!
//! It stays in the supervisor's process group, so that the end of the group ends it, too; what leaves
//! the group falls to the supervisor when its parent ends (it is their subreaper), and is ended by it.

use crate::machine::{host, lookup};
use crate::measure::clock::{Clock, Monotonic};
use crate::workload::command::Program;
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process, waitid, waitpid};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// How long a read waits.
const READ_NS: u64 = 20_000_000;
/// Between two reads while lines come: a supervisor that woke for each of them would take the
/// processor from the program.
const PAUSE_NS: u64 = 1_000_000;

/// A running program.
pub struct Process {
    child: Child,
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
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .context("cannot become the subreaper of the program's children")?;
        let Some((name, arguments)) = program.arguments.split_first() else { bail!("no program was given") };
        let started_at = Monotonic.now();
        // As the command line was checked: in no relative folder of PATH.
        let path = match name.contains('/') {
            true => name.into(),
            false => lookup::find(name).with_context(|| format!("cannot start {name}"))?,
        };
        let mut command = Command::new(path);
        lookup::give_back_folders(&mut command);
        let spawned = command
            .arg0(name)
            .args(arguments)
            .env("MIGBENCH_FD", std::os::fd::AsRawFd::as_raw_fd(&theirs).to_string())
            .stdin(Stdio::null())
            .spawn();
        let child = match spawned {
            Ok(child) => child,
            Err(error) => bail!("cannot start {name}: {}", refusal(&error)),
        };
        drop(theirs);
        let ended_at = Arc::new(AtomicU64::new(0));
        std::thread::spawn({
            let (pid, ended_at) = (pid_of(&child), Arc::clone(&ended_at));
            move || {
                // Waits without reaping.
                let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
                while matches!(waitid(WaitId::Pid(pid), options), Err(rustix::io::Errno::INTR)) {}
                ended_at.store(Monotonic.now(), Relaxed);
            }
        });
        Ok(Process { child, socket: Some(ours), ended_at, buffer: vec![0; 1 << 16], started_at })
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
        for pid in descendants() {
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    /// Ends whatever of it still runs; how the program itself ended.
    pub fn end(&mut self) -> Result<ExitStatus> {
        // What is killed may just have started another.
        for _ in 0..100 {
            let running = descendants();
            if running.is_empty() {
                break;
            }
            for &pid in &running {
                let _ = kill_process(pid, Signal::KILL);
            }
            for &pid in running.iter().filter(|&&pid| pid != pid_of(&self.child)) {
                let _ = waitpid(Some(pid), WaitOptions::NOHANG);
            }
            self.child.try_wait()?;
            Monotonic.sleep_until(Monotonic.now() + PAUSE_NS);
        }
        Ok(self.child.wait()?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(child.id() as i32).expect("a child has a process id")
}

/// All processes below this one.
fn descendants() -> Vec<Pid> {
    host::descendants(rustix::process::getpid())
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
