//! The helper's side: answers requests until its input ends.

use super::request::{Request, Snapshot, Target};
use super::{Absent, Library};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, Write};

/// A private copy of standard output, while descriptor 1 points at standard error, so that nothing a
/// driver library prints can get between two answers.
///
/// # Errors
/// The descriptors can't be copied.
pub fn private_stdout() -> io::Result<File> {
    let private = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
    rustix::stdio::dup2_stdout(rustix::stdio::stderr())?;
    Ok(File::from(private))
}

/// Answers each line of `input` with a line of `output`. NVML is opened for the first request.
///
/// # Errors
/// A stream fails, or a line is no request.
pub fn serve(nvml: Option<&OsStr>, input: impl BufRead, mut output: impl Write) -> io::Result<()> {
    let mut opened = None;
    for line in input.lines() {
        let request: Request = serde_json::from_str(&line?)?;
        let library = opened.get_or_insert_with(|| Library::open(nvml)).as_ref();
        let library = library.map_err(Clone::clone);
        let mut answer = match request {
            Request::Topology => encode(&library.and_then(Library::topology)),
            Request::Snapshot(gpus) => encode(&library.map(|l| each(&gpus, |gpu| l.snapshot(gpu)))),
            Request::Read(gpus) => encode(&library.map(|l| each(&gpus, |gpu| l.read(gpu)))),
            Request::Processes(gpus) => encode(&library.map(|l| each(&gpus, |gpu| l.processes(gpu)))),
        }?;
        answer.push(b'\n');
        output.write_all(&answer)?;
        output.flush()?;
    }
    Ok(())
}

fn each<T>(gpus: &[Target], ask: impl Fn(&Target) -> T) -> Vec<T> {
    gpus.iter().map(ask).collect()
}

fn encode<T: Serialize>(answer: &Result<T, Absent>) -> io::Result<Vec<u8>> {
    Ok(serde_json::to_vec(answer)?)
}

impl Library {
    fn read(&self, gpu: &Target) -> Snapshot {
        Snapshot { at_ns: monotonic_ns(), reading: self.reading(gpu), processes: None }
    }

    fn snapshot(&self, gpu: &Target) -> Snapshot {
        Snapshot { processes: self.processes(gpu), ..self.read(gpu) }
    }
}

fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_missing_is_an_answer_to_every_request() {
        let mut output = Vec::new();
        let requests = "\"topology\"\n{\"snapshot\":[]}\n{\"processes\":[]}\n";
        serve(Some(OsStr::new("/nonexistent/libnvidia-ml.so.1")), requests.as_bytes(), &mut output).unwrap();
        let answers = String::from_utf8(output).unwrap();
        assert_eq!(answers.lines().count(), 3);
        for line in answers.lines() {
            let answer: Result<Vec<Snapshot>, Absent> = serde_json::from_str(line).unwrap();
            assert!(matches!(answer, Err(Absent::NoLibrary(_))), "{line}");
        }
    }

    #[test]
    fn a_line_that_is_no_request_ends_it() {
        let error = serve(None, &b"hello\n"[..], Vec::new()).unwrap_err();
        assert!(error.to_string().contains("expected value"), "{error}");
    }
}
