//! A child process that may be given up: it asks a driver, and a call into a broken driver may never
//! return. A process in such a call cannot even be killed, so nothing here waits for its end.

use super::child;
use rustix::process::Signal;
use std::io;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// Between the end of a process's output and its exit status lies its own exit, a few milliseconds.
/// One that closes its output and goes on is not waited for longer.
const EXIT_TAKES: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// A running child process. It is killed when this is dropped, and dies with this process.
pub struct Expendable(Option<Child>);

impl Expendable {
    /// Starts the process.
    ///
    /// # Errors
    /// It can't be started.
    pub fn start(command: Command) -> io::Result<Expendable> {
        Ok(Expendable(Some(child::spawn(command, Signal::KILL)?)))
    }

    /// The process, to take its pipes.
    pub fn child(&mut self) -> Option<&mut Child> {
        self.0.as_mut()
    }

    /// The exit status of a process whose output has ended; none if it goes on nevertheless.
    pub fn status(&mut self) -> Option<ExitStatus> {
        let child = self.0.as_mut()?;
        let begin = Instant::now();
        loop {
            match child.try_wait() {
                Ok(Some(status)) => {
                    child::forget(child.id());
                    self.0 = None;
                    return Some(status);
                }
                Ok(None) if begin.elapsed() < EXIT_TAKES => std::thread::sleep(LOOK_EVERY),
                Ok(None) | Err(_) => return None,
            }
        }
    }
}

impl Drop for Expendable {
    fn drop(&mut self) {
        let Some(mut child) = self.0.take() else { return };
        let _ = child.kill();
        // A thread reaps it, since it may be in a driver call for ever. Without a thread it stays a zombie
        // until this process ends.
        let _ = std::thread::Builder::new().name("reaper".into()).spawn(move || {
            let _ = child.wait();
            child::forget(child.id());
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Stdio;

    fn sh(script: &str) -> Expendable {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdout(Stdio::piped());
        Expendable::start(command).unwrap()
    }

    #[test]
    fn the_exit_status_is_told_once() {
        let mut ended = sh("exit 3");
        assert_eq!(ended.status().and_then(|status| status.code()), Some(3));
        assert_eq!(ended.status(), None);
        assert_eq!(sh("exec sleep 600").status(), None);
    }

    #[test]
    fn what_is_dropped_is_killed_and_reaped() {
        let mut sleeping = sh("exec sleep 600");
        let pid = sleeping.child().unwrap().id();
        drop(sleeping);
        let there = std::path::PathBuf::from(format!("/proc/{pid}"));
        let begin = Instant::now();
        while there.exists() {
            assert!(begin.elapsed() < Duration::from_secs(60), "{pid} is still there");
            std::thread::sleep(LOOK_EVERY);
        }
    }
}
