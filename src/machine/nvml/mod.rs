//! The only place that loads NVML, and turns its answers into a [`Topology`]. Reads, never sets.
//!
//! Nothing that fails here stops discovery: what could not be read is an empty field and a line in
//! `unread` that begins with NVML's code.

mod gpu;
mod instances;
mod profiles;
mod reading;

pub use reading::Reading;

use super::text;
use super::topology::{Gpu, Topology, Unread};
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::fmt;

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

/// NVML, open.
pub struct Library(Nvml);

impl Library {
    /// Opens `libnvidia-ml.so.1`, or the library at `path`.
    ///
    /// # Errors
    /// See [`Absent`].
    pub fn open(path: Option<&OsStr>) -> Result<Library, Absent> {
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
    pub fn topology(&self) -> Result<Topology, Absent> {
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
        topology.unread = unread;
        // One GPU's answers take some 30 ms (H200, driver 580); NVML may be asked from several threads.
        topology.gpus = std::thread::scope(|scope| {
            let readers: Vec<_> = (0..count).map(|index| scope.spawn(move || self.gpu(index))).collect();
            readers.into_iter().filter_map(|reader| reader.join().ok()).collect()
        });
        text::names(&topology).map_err(|error| Absent::Broken(error.to_string()))
    }

    fn gpu(&self, index: u32) -> Gpu {
        match self.0.device_by_index(index) {
            Ok(device) => gpu::read(&self.0, index, &device),
            Err(error) => {
                let mut gpu = Gpu { index, ..Gpu::default() };
                gpu.unread.insert("handle".to_owned(), refusal(&error));
                gpu
            }
        }
    }
}

/// The value, or none and why in `unread`.
fn note<T>(unread: &mut Unread, field: &str, answer: Result<T, NvmlError>) -> Option<T> {
    match answer {
        Ok(value) => Some(value),
        Err(error) => {
            unread.insert(field.to_owned(), refusal(&error));
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
