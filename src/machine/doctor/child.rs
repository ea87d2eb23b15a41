//! A question to the driver in a process of its own, which can be abandoned: a call into a broken
//! driver may never return, and a process in such a call cannot even be killed.

use super::evidence::Silent;
use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// More than any answer.
const MOST_BYTES: u64 = 64 << 20;

/// A child's standard output, still being waited for.
pub struct Question {
    child: std::process::Child,
    answer: std::sync::mpsc::Receiver<Vec<u8>>,
    patience: Duration,
}

impl Question {
    /// Starts the process.
    ///
    /// # Errors
    /// It can't be started.
    pub fn ask(command: &mut Command, patience: Duration) -> Result<Question, Silent> {
        let started = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = started.map_err(|error| Silent::Died(format!("can't be started: {error}")))?;
        let stdout = child.stdout.take();
        let (sender, answer) = channel();
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stdout.map(|out| out.take(MOST_BYTES).read_to_end(&mut bytes));
            let _ = sender.send(bytes);
        });
        Ok(Question { child, answer, patience })
    }

    /// Waits for the end of its output.
    ///
    /// # Errors
    /// It took too long and was abandoned, or ended badly.
    pub fn wait(mut self) -> Result<Vec<u8>, Silent> {
        match self.answer.recv_timeout(self.patience) {
            Ok(bytes) => match self.child.wait() {
                Ok(status) if status.success() => Ok(bytes),
                Ok(status) => Err(Silent::Died(format!("ended with {status}"))),
                Err(error) => Err(Silent::Died(format!("can't be waited for: {error}"))),
            },
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                // Not waited for: in a driver call it may not even die.
                let _ = self.child.kill();
                Err(Silent::Hung(self.patience.as_secs()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(script: &str, patience: Duration) -> Result<Vec<u8>, Silent> {
        Question::ask(Command::new("sh").args(["-c", script]), patience)?.wait()
    }

    #[test]
    fn an_answer_is_waited_for_and_silence_is_not() {
        let long = Duration::from_secs(60);
        assert_eq!(ask("echo hello", long), Ok(b"hello\n".to_vec()));
        assert_eq!(ask("exit 3", long), Err(Silent::Died("ended with exit status: 3".into())));
        assert_eq!(ask("exec sleep 600", Duration::from_millis(1)), Err(Silent::Hung(0)));
        let missing = Question::ask(&mut Command::new("/nonexistent/program"), long).map(|_| ());
        assert!(matches!(missing, Err(Silent::Died(_))));
    }
}
