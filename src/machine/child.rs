//! Starts child processes that cannot outlive this one: the only place that starts any.
//!
//! The kernel sends the death signal when the *thread* that forked ends, not the process. All children
//! are therefore forked by one thread that lives as long as the program.

use super::{processes, thread};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, getpid, getppid, kill_process, set_child_subreaper,
    set_parent_process_death_signal, waitid, waitpid,
};
use std::collections::HashSet;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SendError, Sender, channel};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// The environment variable of a worker: the process id of the migbench that started it. What the worker
/// starts inherits it.
pub const PARENT: &str = "MIGBENCH_PARENT";

/// This program, to start it again. Not the path by which it was started: a file that was replaced or
/// deleted meanwhile must still be this version.
pub const THIS_PROGRAM: &str = "/proc/self/exe";

/// How long a process may take to start: far longer than any that does, but the file system of the
/// program may hang.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long a child that is dropped is waited for before it is left to later: most end within
/// milliseconds of the kill, and one that is inside a driver call must not hold up its parent.
const REAP_LIMIT: Duration = Duration::from_millis(10);
/// Between two looks at a child that is to end.
const LOOK: Duration = Duration::from_millis(1);
/// More than any answer that [`output`] is asked for.
const MOST_BYTES: u64 = 64 << 20;

/// A child process. Dropped, it is killed, and reaped as soon as it has ended.
#[derive(Debug)]
pub struct Running {
    /// `None` only while it is dropped.
    child: Option<Child>,
    pid: Pid,
    status: Option<ExitStatus>,
    /// Where it reads, if a pipe was asked for and not taken.
    pub stdin: Option<ChildStdin>,
    /// Where it writes, if a pipe was asked for and not taken.
    pub stdout: Option<ChildStdout>,
    /// Where it writes its errors, if a pipe was asked for and not taken.
    pub stderr: Option<ChildStderr>,
}

/// A command to start, and where its child goes.
type Order = (Command, Sender<io::Result<Running>>);

/// The children that [`spawn`] has started and that are not yet reaped. Locked while one is being
/// started, which may take long: nobody waits for this lock but the thread that starts processes.
static KNOWN: LazyLock<Mutex<HashSet<Pid>>> = LazyLock::new(Mutex::default);
/// Children that were killed and dropped, but had not ended.
static ABANDONED: Mutex<Vec<Child>> = Mutex::new(Vec::new());

/// Starts `command`. The kernel sends it `death` as soon as this process ends, however that happens,
/// unless the program changes its user.
///
/// # Errors
/// The program cannot be started, this process ended meanwhile, or no thread can be created.
pub fn spawn(mut command: Command, death: Signal) -> io::Result<Running> {
    let parent = getpid();
    let prepare = move || {
        set_parent_process_death_signal(Some(death))?;
        // The parent may have ended before the signal was set.
        if getppid() == Some(parent) { Ok(()) } else { Err(io::ErrorKind::NotConnected.into()) }
    };
    // SAFETY: between fork and exec only two system calls are made; nothing is allocated or locked.
    unsafe { command.pre_exec(prepare) };
    let (sender, started) = channel();
    let gone = || io::Error::other("the thread that starts processes has ended");
    spawner()?.send((command, sender)).map_err(|_| gone())?;
    started.recv_timeout(START_LIMIT).map_err(|_| {
        io::Error::new(
            io::ErrorKind::TimedOut,
            format!("it did not start within {} s", START_LIMIT.as_secs()),
        )
    })?
}

/// Runs `command` to its end, its standard input empty, and returns what it wrote.
///
/// # Errors
/// It cannot be started, or has not ended within `limit`; it is killed then.
pub fn output(mut command: Command, limit: Duration) -> io::Result<Output> {
    let deadline = Instant::now() + limit;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawn(command, Signal::KILL)?;
    let (stdout, stderr) = (collect(child.stdout.take())?, collect(child.stderr.take())?);
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("no end within {} s", limit.as_secs()));
    let left = || deadline.saturating_duration_since(Instant::now());
    let stdout = stdout.recv_timeout(left()).map_err(|_| late())?;
    let stderr = stderr.recv_timeout(left()).map_err(|_| late())?;
    let status = child.wait_for(left())?.ok_or_else(late)?;
    Ok(Output { status, stdout, stderr })
}

/// Reads to the end on a thread of its own.
fn collect(pipe: Option<impl Read + Send + 'static>) -> io::Result<Receiver<Vec<u8>>> {
    let (sender, bytes) = channel();
    thread::start("output", move || {
        let mut read = Vec::new();
        let _ = pipe.map(|pipe| pipe.take(MOST_BYTES).read_to_end(&mut read));
        let _ = sender.send(read);
    })?;
    Ok(bytes)
}

impl Running {
    fn new(mut child: Child, pid: Pid) -> Running {
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        Running { child: Some(child), pid, status: None, stdin, stdout, stderr }
    }

    /// Its process id. Once it is reaped, another process may have it.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Sends it a signal, if it was not reaped.
    pub fn signal(&self, signal: Signal) {
        if self.status.is_none() {
            let _ = kill_process(self.pid, signal);
        }
    }

    /// Whether it has ended. It is not reaped: its process id, and with it its process group's, stay its
    /// own.
    pub fn has_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        self.status.is_some() || !matches!(waitid(WaitId::Pid(self.pid), options), Ok(None))
    }

    /// Reaps it if it has ended and no other process is being started, and returns how it ended.
    ///
    /// # Errors
    /// It is no child of this process any more.
    pub fn reap(&mut self) -> io::Result<Option<ExitStatus>> {
        if let (None, Some(child), Some(mut known)) = (self.status, &mut self.child, try_known()) {
            self.status = reap(child, &mut known)?;
        }
        Ok(self.status)
    }

    /// Waits for its end and reaps it; `None` if it has not ended within `limit`. There is no wait
    /// without a limit: a process inside a driver call may not end even when it is killed.
    ///
    /// # Errors
    /// As [`Self::reap`].
    pub fn wait_for(&mut self, limit: Duration) -> io::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + limit;
        loop {
            let status = self.reap()?;
            if status.is_some() || Instant::now() >= deadline {
                return Ok(status);
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        if let (Ok(None), Some(child)) = (self.wait_for(REAP_LIMIT), self.child.take()) {
            ABANDONED.lock().unwrap_or_else(PoisonError::into_inner).push(child);
        }
    }
}

/// With the list locked, so that a process id that was given to another child meanwhile stays known.
fn reap(child: &mut Child, known: &mut HashSet<Pid>) -> io::Result<Option<ExitStatus>> {
    let status = child.try_wait()?;
    if let (Some(_), Some(pid)) = (status, Pid::from_raw(child.id() as i32)) {
        known.remove(&pid);
    }
    Ok(status)
}

fn reap_abandoned(known: &mut HashSet<Pid>) {
    let mut abandoned = ABANDONED.lock().unwrap_or_else(PoisonError::into_inner);
    abandoned.retain_mut(|child| matches!(reap(child, known), Ok(None)));
}

/// `None` while a process is being started.
fn try_known() -> Option<MutexGuard<'static, HashSet<Pid>>> {
    match KNOWN.try_lock() {
        Ok(known) => Some(known),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

fn spawner() -> io::Result<Sender<Order>> {
    static SPAWNER: OnceLock<Mutex<Option<Sender<Order>>>> = OnceLock::new();
    let mut spawner = SPAWNER.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(orders) = &*spawner {
        return Ok(orders.clone());
    }
    // Whoever called this program may have ignored SIGCHLD, which exec keeps: the kernel would then reap
    // the children itself, and nobody would learn how they ended.
    signal_hook::flag::register(signal_hook::consts::SIGCHLD, Arc::default())?;
    let (orders, receiver) = channel::<Order>();
    thread::start("spawner", move || {
        for (mut command, sender) in receiver {
            let started = start(&mut command);
            // Nobody waits for it any more: it is dropped, and so killed.
            if let Err(SendError(late)) = sender.send(started) {
                drop(late);
            }
        }
    })?;
    Ok(spawner.insert(orders).clone())
}

/// # Errors
/// /proc is not mounted.
pub fn can_start_itself() -> io::Result<()> {
    if Path::new(THIS_PROGRAM).exists() {
        return Ok(());
    }
    let text = format!(
        "there is no {THIS_PROGRAM}: workers cannot be started without /proc: mount it (mount -t proc proc /proc)"
    );
    Err(io::Error::new(io::ErrorKind::NotFound, text))
}

/// Forks with the list of children locked: whoever looks for strangers meanwhile must not take the new
/// child for one.
fn start(command: &mut Command) -> io::Result<Running> {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    reap_abandoned(&mut known);
    let child = command.spawn().map_err(|error| match can_start_itself() {
        Err(reason) if command.get_program() == THIS_PROGRAM => reason,
        _ => error,
    })?;
    let pid = Pid::from_raw(child.id() as i32).ok_or(io::ErrorKind::InvalidData)?;
    known.insert(pid);
    Ok(Running::new(child, pid))
}

/// Whether processes that this program has nothing to do with may become its children.
static OTHERS_MAY_COME: AtomicBool = AtomicBool::new(false);

/// From now on, whatever loses its parent below this process becomes its child ([`adopted`]).
///
/// # Errors
/// The kernel refuses to make this process a subreaper.
pub fn adopt_orphans() -> io::Result<()> {
    set_child_subreaper(Some(getpid()))?;
    // Everything in a container becomes a child of its first process, and a shell that became this
    // process by exec may have left it children of its own.
    let has_company = getpid() == Pid::INIT || strangers().is_none_or(|pids| !pids.is_empty());
    OTHERS_MAY_COME.store(has_company, Relaxed);
    Ok(())
}

/// The orphans that this process has adopted: children that it did not start. `None` while a child is
/// being started, when they cannot be told apart. Where others may have come, too, only what bears the
/// mark of this process's workers in its environment counts.
pub fn adopted() -> Option<Vec<Pid>> {
    let mut strangers = strangers()?;
    if OTHERS_MAY_COME.load(Relaxed) {
        let mark = format!("{PARENT}={}", getpid().as_raw_pid());
        strangers.retain(|pid| bears(*pid, &mark));
    }
    Some(strangers)
}

/// Reaps those adopted orphans that have ended.
pub fn reap_strangers() {
    for pid in strangers().into_iter().flatten() {
        let _ = waitpid(Some(pid), WaitOptions::NOHANG);
    }
}

fn strangers() -> Option<Vec<Pid>> {
    let mut known = try_known()?;
    reap_abandoned(&mut known);
    let all = processes::children(getpid());
    Some(all.into_iter().filter(|pid| !known.contains(pid)).collect())
}

/// Whether a process was started with this in its environment.
fn bears(pid: Pid, mark: &str) -> bool {
    let environment = std::fs::read(format!("/proc/{}/environ", pid.as_raw_pid())).unwrap_or_default();
    environment.split(|&byte| byte == 0).any(|variable| variable == mark.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn is_known(pid: Pid) -> bool {
        KNOWN.lock().unwrap().contains(&pid)
    }

    #[test]
    fn a_child_outlives_the_thread_that_asked_for_it() {
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped());
        let mut child = std::thread::spawn(move || spawn(command, Signal::KILL)).join().unwrap().unwrap();
        assert!(is_known(child.pid()) && !child.has_ended());
        drop(child.stdin.take());
        assert!(
            child.wait_for(LONG).unwrap().unwrap().success(),
            "it ends by itself at the end of its input"
        );
        assert!(!is_known(child.pid()) && child.has_ended());
    }

    #[test]
    fn a_child_that_is_dropped_is_killed_and_reaped() {
        let mut command = Command::new("sleep");
        command.arg("600");
        let child = spawn(command, Signal::KILL).unwrap();
        let pid = child.pid();
        drop(child);
        // Whoever starts or looks for processes next reaps what had not ended by then.
        while is_known(pid) {
            reap_strangers();
        }
    }

    #[test]
    fn a_program_that_is_missing_is_an_error() {
        let error = spawn(Command::new("/nonexistent/program"), Signal::KILL).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_fresh_child_is_never_a_stranger() {
        let spawning = std::thread::spawn(|| {
            for _ in 0..50 {
                let mut child = spawn(Command::new("true"), Signal::KILL).unwrap();
                assert!(child.wait_for(LONG).unwrap().is_some());
            }
        });
        let own: Vec<Pid> = strangers().unwrap_or_default();
        while !spawning.is_finished() {
            // Other tests of this process may start children in their own way.
            let new = strangers().unwrap_or_default().into_iter().filter(|pid| !own.contains(pid));
            for pid in new {
                let name = std::fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_pid()));
                assert_ne!(name.unwrap_or_default(), "true\n");
            }
        }
        spawning.join().unwrap();
    }

    #[test]
    fn output_is_whole_and_has_a_limit() {
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        };
        let output_of = output(shell("head -c 200000 /dev/zero; echo no >&2; exit 3"), LONG).unwrap();
        assert_eq!((output_of.stdout.len(), output_of.stderr.as_slice()), (200_000, &b"no\n"[..]));
        assert_eq!(output_of.status.code(), Some(3));
        let late = output(shell("exec sleep 600"), Duration::from_millis(1)).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
    }
}
