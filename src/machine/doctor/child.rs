//! A question to the driver or to another program in a process of its own, which can be given up.

use super::evidence::Silent;
use crate::machine::child::{self, Running};
use crate::machine::nvml::exit_status;
use crate::machine::thread;
use rustix::process::Signal;
use std::io::{self, Read};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// More than any answer.
const MOST_BYTES: u64 = 64 << 20;

/// A process's whole standard output, still being waited for.
pub struct Question {
    process: Running,
    answer: Receiver<Vec<u8>>,
    patience: Duration,
}

impl Question {
    /// Starts the process.
    ///
    /// # Errors
    /// The process, or the thread that listens to it, can't be started.
    pub fn ask(mut command: Command, patience: Duration) -> Result<Question, Silent> {
        let failed = |error: io::Error| Silent::Died(format!("can't be started: {error}"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = child::spawn(command, Signal::KILL).map_err(failed)?;
        let stdout = process.stdout.take();
        let (sender, answer) = channel();
        let listen = move || {
            let mut bytes = Vec::new();
            let _ = stdout.map(|out| out.take(MOST_BYTES).read_to_end(&mut bytes));
            let _ = sender.send(bytes);
        };
        thread::start("question", listen).map_err(failed)?;
        Ok(Question { process, answer, patience })
    }

    /// Waits for the end of its output.
    ///
    /// # Errors
    /// It took too long and was given up, or ended badly.
    pub fn wait(mut self) -> Result<Vec<u8>, Silent> {
        match self.answer.recv_timeout(self.patience) {
            Ok(bytes) => match exit_status(&mut self.process)? {
                status if status.success() => Ok(bytes),
                status => Err(Silent::Died(format!("ended with {status}"))),
            },
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                Err(Silent::Hung(self.patience.as_secs()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(script: &str, patience: Duration) -> Result<Vec<u8>, Silent> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Question::ask(command, patience)?.wait()
    }

    #[test]
    fn an_answer_is_waited_for_and_silence_is_not() {
        let long = Duration::from_secs(60);
        assert_eq!(ask("echo hello", long), Ok(b"hello\n".to_vec()));
        assert_eq!(ask("exit 3", long), Err(Silent::Died("ended with exit status: 3".into())));
        assert_eq!(ask("exec sleep 600", Duration::from_millis(1)), Err(Silent::Hung(0)));
        assert_eq!(
            ask("exec >&-; exec sleep 600", long),
            Err(Silent::Died("closed its output and went on".into()))
        );
        let missing = Question::ask(Command::new("/nonexistent/program"), long).map(|_| ());
        assert!(matches!(missing, Err(Silent::Died(_))));
    }
}
