//! The only place that loads NVML, and turns its answers into a [`Topology`]. Reads, never sets.
//!
//! Nothing that fails here stops discovery: what could not be read is an empty field and a line in
//! `unread` that begins with NVML's code, or says which number is implausible.
//!
//! Any call may hang for ever. The library is therefore opened in a process of its own ([`serve`]), and
//! everybody else asks that process, through a [`Helper`] or, during a sweep, a [`Client`].

mod client;
mod gpu;
mod helper;
mod instances;
mod profiles;
mod reading;
mod request;
mod serve;

pub use client::{Client, Loss};
pub(in crate::machine) use helper::exit_status;
pub use helper::{FIRST_ANSWER, Helper, LATER_ANSWER};
pub use reading::Reading;
pub use request::{MigTarget, Request, Snapshot, Target};
pub use serve::{private_stdout, serve};

use super::text;
use super::topology::{Gpu, Topology, Unread};
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::{fmt, thread};

/// No machine is known to have more GPUs: sixteen is usual for the largest.
const MOST_GPUS: u32 = 256;

/// Why there is no NVML.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Absent {
    /// The library is not there or can't be opened: no NVIDIA driver on this machine.
    NoLibrary(String),
    /// The library says that the kernel module is not loaded.
    NoDriver(String),
    /// It is there and fails: the machine has GPUs, and something is wrong.
    Broken(String),
}

impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Absent::NoLibrary(why) => write!(f, "no NVIDIA driver library ({why})"),
            Absent::NoDriver(why) => write!(f, "the NVIDIA driver is not loaded ({why})"),
            Absent::Broken(why) => write!(f, "NVML failed: {why}"),
        }
    }
}

/// Why there is no answer from the process that asks NVML, or another driver library.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Silent {
    /// NVML itself said why.
    Absent(Absent),
    /// It did not answer in time, in seconds, and was abandoned.
    Hung(u64),
    /// The process that asked ended without an answer.
    Died(String),
}

impl fmt::Display for Silent {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Silent::Absent(absent) => absent.fmt(f),
            Silent::Hung(seconds) => write!(f, "no answer within {seconds} s"),
            Silent::Died(how) => write!(f, "the process that asked {how}"),
        }
    }
}

/// NVML, open. Private, so that only a helper process can open it.
struct Library(Nvml);

impl Library {
    /// Opens `libnvidia-ml.so.1`, or the library at `path`.
    ///
    /// # Errors
    /// See [`Absent`].
    fn open(path: Option<&OsStr>) -> Result<Library, Absent> {
        let path = path.unwrap_or(OsStr::new("libnvidia-ml.so.1"));
        match Nvml::builder().lib_path(path).init() {
            Ok(nvml) => Ok(Library(nvml)),
            Err(error @ NvmlError::LibloadingError(_)) => Err(Absent::NoLibrary(describe(&error))),
            Err(error @ (NvmlError::DriverNotLoaded | NvmlError::LibraryNotFound)) => {
                Err(Absent::NoDriver(describe(&error)))
            }
            Err(error) => Err(Absent::Broken(describe(&error))),
        }
    }

    /// Every GPU and MIG device. What cannot be read is left empty and stops nothing.
    ///
    /// # Errors
    /// The number of GPUs can't be read.
    fn topology(&self) -> Result<Topology, Absent> {
        let nvml = &self.0;
        let count = nvml.device_count().map_err(|e| Absent::Broken(describe(&e)))?;
        let mut unread = Unread::new();
        let mut topology = Topology {
            driver_version: note(&mut unread, "driver_version", nvml.sys_driver_version()),
            cuda_version: note(&mut unread, "cuda_version", nvml.sys_cuda_driver_version())
                .map(cuda_version_text),
            nvml_version: note(&mut unread, "nvml_version", nvml.sys_nvml_version()),
            ..Topology::default()
        };
        let believed = note(&mut unread, "gpus", plausible("GPUs", count, MOST_GPUS));
        // One GPU's answers take some 30 ms (H200, driver 580); NVML may be asked from several threads.
        topology.gpus = each(believed.unwrap_or(MOST_GPUS), |index| self.gpu(index));
        if believed.is_none() {
            // NVML's code for an index behind the last GPU.
            let behind = super::refusal::text(2);
            topology.gpus.retain(|gpu| gpu.unread.get("handle") != Some(&behind));
        }
        topology.unread = unread;
        text::names(&topology).map_err(|error| Absent::Broken(error.to_string()))
    }

    fn gpu(&self, index: u32) -> Gpu {
        match self.0.device_by_index(index) {
            Ok(device) => gpu::read(&self.0, index, &device),
            Err(error) => without_handle(index, refusal(&error)),
        }
    }
}

/// Reads GPUs 0 to `count - 1` at once. One whose reader panics says so in place of its answers; one for
/// which there is no thread is read by this thread.
fn each(count: u32, read: impl Fn(u32) -> Gpu + Sync) -> Vec<Gpu> {
    let guarded = |index| {
        catch_unwind(AssertUnwindSafe(|| read(index)))
            .unwrap_or_else(|_| without_handle(index, "the thread that read this GPU panicked".to_owned()))
    };
    thread::scope(|scope| {
        let start = |index| {
            let named = thread::Builder::new().name(format!("gpu {index}"));
            (index, named.spawn_scoped(scope, move || guarded(index)))
        };
        let readers: Vec<_> = (0..count).map(start).collect();
        let join = |(index, reader): (u32, std::io::Result<thread::ScopedJoinHandle<Gpu>>)| {
            reader.map_or_else(|_| guarded(index), |reader| reader.join().unwrap_or_else(|_| guarded(index)))
        };
        readers.into_iter().map(join).collect()
    })
}

/// A GPU of which nothing could be read.
fn without_handle(index: u32, why: String) -> Gpu {
    let unread = Unread::from([("handle".to_owned(), why)]);
    Gpu { index, unread, ..Gpu::default() }
}

/// Why a field stays empty.
enum Unreadable {
    /// NVML refused to answer.
    Refused(NvmlError),
    /// It answered what cannot be.
    Implausible(String),
}

impl From<NvmlError> for Unreadable {
    fn from(error: NvmlError) -> Unreadable {
        Unreadable::Refused(error)
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Unreadable::Refused(error) => f.write_str(&refusal(error)),
            Unreadable::Implausible(why) => f.write_str(why),
        }
    }
}

/// Refuses a count that no card can have, before a loop or a list gets that long.
fn plausible(what: &str, count: u32, most: u32) -> Result<u32, Unreadable> {
    if count <= most {
        return Ok(count);
    }
    Err(Unreadable::Implausible(format!("NVML reports {count} {what}; at most {most} are accepted")))
}

/// The value, or none and why in `unread`.
fn note<T>(unread: &mut Unread, field: &str, answer: Result<T, impl Into<Unreadable>>) -> Option<T> {
    match answer {
        Ok(value) => Some(value),
        Err(error) => {
            unread.insert(field.to_owned(), error.into().to_string());
            None
        }
    }
}

/// A symbol that the wrapper has not wrapped.
fn symbol<T: Copy, E: fmt::Display>(symbol: &Result<T, E>) -> Result<T, NvmlError> {
    match symbol {
        Ok(call) => Ok(*call),
        Err(error) => Err(NvmlError::FailedToLoadSymbol(error.to_string())),
    }
}

/// NVML's return code as a result.
fn check(code: u32) -> Result<(), NvmlError> {
    if code == 0 { Ok(()) } else { Err(code.into()) }
}

/// NVML's code of an error; none for the wrapper's own.
fn code(error: &NvmlError) -> Option<u32> {
    match error {
        // The library is older than the function: NVML's own code for that.
        NvmlError::FailedToLoadSymbol(_) => Some(13),
        NvmlError::UnexpectedVariant(code) => Some(*code),
        NvmlError::LibloadingError(_)
        | NvmlError::Utf8Error(_)
        | NvmlError::NulError(_)
        | NvmlError::StringTooLong { .. }
        | NvmlError::IncorrectBits(_)
        | NvmlError::SetReleaseFailed
        | NvmlError::GetPciInfoFailed
        | NvmlError::PciInfoToCFailed => None,
        NvmlError::Uninitialized => Some(1),
        NvmlError::InvalidArg => Some(2),
        NvmlError::NotSupported => Some(3),
        NvmlError::NoPermission => Some(4),
        #[expect(deprecated, reason = "old libraries still say it")]
        NvmlError::AlreadyInitialized => Some(5),
        NvmlError::NotFound => Some(6),
        NvmlError::InsufficientSize(_) => Some(7),
        NvmlError::InsufficientPower => Some(8),
        NvmlError::DriverNotLoaded => Some(9),
        NvmlError::Timeout => Some(10),
        NvmlError::IrqIssue => Some(11),
        NvmlError::LibraryNotFound => Some(12),
        NvmlError::FunctionNotFound => Some(13),
        NvmlError::CorruptedInfoROM => Some(14),
        NvmlError::GpuLost => Some(15),
        NvmlError::ResetRequired => Some(16),
        NvmlError::OperatingSystem => Some(17),
        NvmlError::LibRmVersionMismatch => Some(18),
        NvmlError::InUse => Some(19),
        NvmlError::InsufficientMemory => Some(20),
        NvmlError::NoData => Some(21),
        NvmlError::VgpuEccNotSupported => Some(22),
        _ => Some(999),
    }
}

/// `NVML 4: no permission`.
fn refusal(error: &NvmlError) -> String {
    match code(error) {
        Some(code) => super::refusal::text(code),
        None => error.to_string(),
    }
}

fn cuda_version_text(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

fn describe(error: &NvmlError) -> String {
    match error {
        NvmlError::LibloadingError(inner) => {
            std::error::Error::source(inner).map_or_else(|| inner.to_string(), ToString::to_string)
        }
        other => refusal(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_no_panic() {
        let Err(absent) = Library::open(Some(OsStr::new("/nonexistent/libnvidia-ml.so.1"))) else {
            panic!("opened a library that is not there")
        };
        assert!(matches!(absent, Absent::NoLibrary(_)));
        assert!(absent.to_string().starts_with("no NVIDIA driver library ("), "{absent}");
    }

    #[test]
    fn a_gpu_whose_reader_panics_does_not_vanish() {
        let read = |index| match index {
            1 => panic!("as a driver's nonsense might make it"),
            _ => Gpu { index, uuid: format!("GPU-{index}"), ..Gpu::default() },
        };
        let gpus = each(3, read);
        assert_eq!(gpus.iter().map(|gpu| gpu.index).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!((gpus[0].uuid.as_str(), gpus[2].uuid.as_str()), ("GPU-0", "GPU-2"));
        assert_eq!(gpus[1].unread["handle"], "the thread that read this GPU panicked");
    }

    #[test]
    fn a_count_that_cannot_be_is_told_and_not_used() {
        let mut unread = Unread::new();
        assert_eq!(note(&mut unread, "gpus", plausible("GPUs", 256, 256)), Some(256));
        assert_eq!(unread, Unread::new());
        assert_eq!(note(&mut unread, "gpus", plausible("GPUs", u32::MAX, 256)), None);
        assert_eq!(unread["gpus"], "NVML reports 4294967295 GPUs; at most 256 are accepted");
    }

    #[test]
    fn cuda_versions_are_spelt_as_usual() {
        assert_eq!(cuda_version_text(13000), "13.0");
        assert_eq!(cuda_version_text(12040), "12.4");
    }

    #[test]
    fn a_code_that_the_wrapper_takes_apart_is_put_together_again() {
        for number in (1..=22).chain([23, 27, 31_337]) {
            assert_eq!(code(&number.into()), Some(number));
        }
        assert_eq!(refusal(&NvmlError::NoPermission), "NVML 4: no permission");
        assert_eq!(refusal(&NvmlError::FailedToLoadSymbol("x".into())), "NVML 13: function not found");
    }
}
