//! The parent's side: a process that asks NVML in its place.
//!
//! The parent never loads NVML. A call that never returns then costs a helper process, which is given
//! up, and not the program.

use super::request::Request;
use super::{Absent, Silent};
use crate::machine::child::{self, Running};
use crate::machine::{Topology, thread};
use rustix::process::Signal;
use serde::de::DeserializeOwned;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// For the first answer: without persistence mode, opening NVML loads the driver for one GPU after the
/// other, seconds each. The topology of eight GPUs then takes a quarter of a second.
pub const FIRST_ANSWER: Duration = Duration::from_secs(30);

/// For the answers during a sweep, when the driver is loaded: a reading takes milliseconds.
pub const LATER_ANSWER: Duration = Duration::from_secs(5);

/// How often the caller's wish to give up is looked at.
const TICK: Duration = Duration::from_millis(50);

/// One look at the clock counts for no more than this: a parent that was stopped and continued, or
/// suspended with its machine, must not blame the driver for it.
const LONGEST_TICK: Duration = Duration::from_secs(1);

/// Between the end of a process's output and its exit status lies its own exit, a few milliseconds.
/// One that closes its output and goes on is not waited for longer.
const EXIT_TAKES: Duration = Duration::from_secs(1);

/// More than any answer.
const MOST_BYTES: u64 = 64 << 20;

/// A helper process, started and not yet given up.
pub struct Helper {
    process: Running,
    requests: Sender<Vec<u8>>,
    answers: Receiver<io::Result<Vec<u8>>>,
    asked: bool,
    /// An answer that comes after its time would be taken for that to the next request: from the first
    /// failure on, this is the answer.
    failed: Option<Silent>,
}

impl Helper {
    /// Starts the process. `nvml` names another library.
    ///
    /// # Errors
    /// The process or the thread that speaks with it can't be started.
    pub fn start(nvml: Option<&Path>) -> Result<Helper, Silent> {
        let mut command = Command::new(child::THIS_PROGRAM);
        command.arg0("migbench").args(["probe", "nvml"]);
        if let Some(nvml) = nvml {
            command.arg("--nvml").arg(nvml);
        }
        Helper::of(command)
    }

    fn of(mut command: Command) -> Result<Helper, Silent> {
        let failed = |error: io::Error| Silent::Died(format!("can't be started: {error}"));
        // A group of its own: the terminal's Ctrl-C must reach the parent only. No stream of the parent is
        // inherited, so that a reader of those sees their end even if this process cannot be killed.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = child::spawn(command, Signal::KILL).map_err(failed)?;
        let pipes = process.stdin.take().zip(process.stdout.take());
        let (stdin, stdout) = pipes.ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
        let (requests, to_send) = channel();
        let (answered, answers) = channel();
        // Both directions may block for ever, hence the thread; it ends with either side.
        let speak = move || speak(stdin, stdout, &to_send, &answered);
        thread::start("nvml", speak).map_err(failed)?;
        Ok(Helper { process, requests, answers, asked: false, failed: None })
    }

    /// Asks for the topology without waiting for it: [`Helper::topology`] does.
    pub fn ask_topology(&mut self) {
        if !self.asked {
            self.send(&Request::Topology);
        }
    }

    /// Every GPU and MIG device.
    ///
    /// # Errors
    /// There is no NVML, or no answer within `limit`.
    pub fn topology(&mut self, limit: Duration) -> Result<Topology, Silent> {
        self.ask_topology();
        self.receive(limit, &|| false)
    }

    /// Asks, and waits for the answer until `limit` has passed or `give_up` says so.
    ///
    /// # Errors
    /// There is no answer. Every later question then has the same error.
    pub fn ask<T: DeserializeOwned>(
        &mut self,
        request: &Request,
        limit: Duration,
        give_up: &dyn Fn() -> bool,
    ) -> Result<T, Silent> {
        self.send(request);
        self.receive(limit, give_up)
    }

    fn send(&mut self, request: &Request) {
        self.asked = true;
        // A process that is gone is noticed by its missing answer.
        if let Ok(line) = serde_json::to_vec(request) {
            let _ = self.requests.send([line, b"\n".to_vec()].concat());
        }
    }

    fn receive<T: DeserializeOwned>(
        &mut self,
        limit: Duration,
        give_up: &dyn Fn() -> bool,
    ) -> Result<T, Silent> {
        self.asked = false;
        if let Some(silent) = &self.failed {
            return Err(silent.clone());
        }
        let answer = self.line(limit, give_up).and_then(|line| {
            let malformed = |error| Silent::Died(format!("said something else: {error}"));
            serde_json::from_slice::<Result<T, Absent>>(&line).map_err(malformed)
        });
        self.failed = answer.as_ref().err().cloned();
        answer?.map_err(Silent::Absent)
    }

    fn line(&mut self, limit: Duration, give_up: &dyn Fn() -> bool) -> Result<Vec<u8>, Silent> {
        let mut waited = Duration::ZERO;
        loop {
            let look = Instant::now();
            let answer = self.answers.recv_timeout(limit.saturating_sub(waited).min(TICK));
            waited += look.elapsed().min(LONGEST_TICK);
            match answer {
                Ok(Ok(line)) if line.ends_with(b"\n") => return Ok(line),
                Ok(Ok(_)) | Err(RecvTimeoutError::Disconnected) => {
                    return Err(match exit_status(&mut self.process) {
                        Ok(status) => Silent::Died(format!("ended with {status}")),
                        Err(silent) => silent,
                    });
                }
                Ok(Err(error)) => return Err(Silent::Died(format!("can't be heard: {error}"))),
                Err(RecvTimeoutError::Timeout) if waited >= limit || give_up() => {
                    return Err(Silent::Hung(waited.as_secs()));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

/// The exit status of a process whose output has ended.
///
/// # Errors
/// It goes on, or cannot be waited for.
pub(in crate::machine) fn exit_status(process: &mut Running) -> Result<ExitStatus, Silent> {
    match process.wait_for(EXIT_TAKES) {
        Ok(Some(status)) => Ok(status),
        Ok(None) => Err(Silent::Died("closed its output and went on".to_owned())),
        Err(error) => Err(Silent::Died(format!("cannot be waited for: {error}"))),
    }
}

/// One request, one answer, until either side ends.
fn speak(
    mut stdin: ChildStdin,
    stdout: ChildStdout,
    requests: &Receiver<Vec<u8>>,
    answers: &Sender<io::Result<Vec<u8>>>,
) {
    let mut stdout = BufReader::new(stdout);
    for request in requests {
        // Of a process that has ended, the end of its output is the better news.
        let _ = stdin.write_all(&request);
        let mut line = Vec::new();
        let read = stdout.by_ref().take(MOST_BYTES).read_until(b'\n', &mut line).map(|_| line);
        let last = !matches!(&read, Ok(line) if line.ends_with(b"\n"));
        if answers.send(read).is_err() || last {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::nvml::Snapshot;

    const LONG: Duration = Duration::from_secs(60);

    fn ask(script: &str, limit: Duration, give_up: &dyn Fn() -> bool) -> Result<Vec<Snapshot>, Silent> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let mut helper = Helper::of(command)?;
        let answer = helper.ask(&Request::Snapshot(vec![]), limit, give_up);
        if answer.is_err() {
            assert_eq!(helper.ask::<Vec<Snapshot>>(&Request::Snapshot(vec![]), LONG, give_up), answer);
        }
        answer
    }

    #[test]
    fn an_answer_is_waited_for_however_slow() {
        assert_eq!(ask("read r; echo '{\"Ok\":[]}'; read r", LONG, &|| false), Ok(vec![]));
        assert_eq!(ask("read r; sleep 1; echo '{\"Ok\":[]}'; read r", LONG, &|| false), Ok(vec![]));
    }

    #[test]
    fn silence_has_an_end() {
        assert_eq!(ask("exec sleep 600", Duration::from_millis(1), &|| false), Err(Silent::Hung(0)));
        assert_eq!(ask("exec sleep 600", LONG, &|| true), Err(Silent::Hung(0)));
    }

    #[test]
    fn a_process_that_ends_or_talks_nonsense_says_how() {
        let died = |script: &str| match ask(script, LONG, &|| false) {
            Err(Silent::Died(how)) => how,
            other => panic!("{other:?}"),
        };
        assert_eq!(died("read r; exit 3"), "ended with exit status: 3");
        assert_eq!(died("exit 3"), "ended with exit status: 3");
        assert_eq!(died("read r; kill -9 $$"), "ended with signal: 9 (SIGKILL)");
        assert_eq!(died("read r; printf half; exit 0"), "ended with exit status: 0");
        assert_eq!(died("read r; exec >&-; exec sleep 600"), "closed its output and went on");
        for nonsense in ["hello", "{}", "{\"Ok\":7}", "[1,2", "\\0\\377"] {
            let how = died(&format!("read r; printf '{nonsense}\\n'; read r"));
            assert!(how.starts_with("said something else: "), "{nonsense}: {how}");
        }
    }

    #[test]
    fn a_request_that_nobody_reads_blocks_nobody() {
        let mut command = Command::new("sleep");
        command.arg("600");
        let mut helper = Helper::of(command).unwrap();
        let many = vec![crate::machine::nvml::Target::default(); 100_000];
        let answer: Result<Vec<Snapshot>, Silent> =
            helper.ask(&Request::Snapshot(many), Duration::from_millis(1), &|| false);
        assert_eq!(answer, Err(Silent::Hung(0)));
    }

    #[test]
    fn nvml_that_is_missing_is_an_answer_after_which_one_can_go_on() {
        let script = "while read r; do echo '{\"Err\":{\"no-library\":\"gone\"}}'; done";
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let mut helper = Helper::of(command).unwrap();
        for _ in 0..2 {
            let absent = Silent::Absent(Absent::NoLibrary("gone".into()));
            assert_eq!(helper.topology(LONG), Err(absent));
        }
    }
}
