//! Starts child processes that cannot outlive this one.
//!
//! The kernel sends the death signal when the *thread* that forked ends, not the process. All children
//! are therefore forked by one thread that lives as long as the program.

use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};
use std::collections::BTreeSet;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock};

/// A command to start, and where its child goes.
type Order = (Command, Sender<io::Result<Child>>);

/// Starts `command`. The kernel sends it `death` as soon as this process ends, however that happens.
///
/// # Errors
/// The program cannot be started, this process ended meanwhile, or no thread can be created.
pub fn spawn(mut command: Command, death: Signal) -> io::Result<Child> {
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
    let child = started.recv().map_err(|_| gone())??;
    known().lock().expect("no thread panics with it").insert(child.id());
    Ok(child)
}

/// Whether [`spawn`] started the process `pid` and [`forget`] was not called for it.
pub fn is_known(pid: Pid) -> bool {
    known().lock().expect("no thread panics with it").contains(&(pid.as_raw_nonzero().get() as u32))
}

/// A child was reaped: its process id may be given to another process.
pub fn forget(pid: u32) {
    known().lock().expect("no thread panics with it").remove(&pid);
}

fn known() -> &'static Mutex<BTreeSet<u32>> {
    static KNOWN: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());
    &KNOWN
}

fn spawner() -> io::Result<Sender<Order>> {
    static SPAWNER: OnceLock<Mutex<Option<Sender<Order>>>> = OnceLock::new();
    let mut spawner = SPAWNER.get_or_init(Mutex::default).lock().expect("no thread panics with it");
    if let Some(orders) = &*spawner {
        return Ok(orders.clone());
    }
    let (orders, receiver) = channel::<Order>();
    std::thread::Builder::new().name("spawner".into()).spawn(move || {
        for (mut command, sender) in receiver {
            let _ = sender.send(command.spawn());
        }
    })?;
    Ok(spawner.insert(orders).clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_outlives_the_thread_that_asked_for_it() {
        let mut command = Command::new("cat");
        command.stdin(std::process::Stdio::piped());
        let mut child = std::thread::spawn(move || spawn(command, Signal::KILL)).join().unwrap().unwrap();
        let pid = Pid::from_raw(child.id() as i32).unwrap();
        assert!(is_known(pid));
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success(), "it ends by itself at the end of its input");
        forget(child.id());
        assert!(!is_known(pid));
    }

    #[test]
    fn a_program_that_is_missing_is_an_error() {
        let error = spawn(Command::new("/nonexistent/program"), Signal::KILL).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
