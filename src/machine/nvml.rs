//! The only file that loads NVML, and turns its answers into a [`Topology`]. Reads, never sets.

use super::topology::{Gpu, MigDevice, Topology};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use std::ffi::OsStr;
use std::fmt;

/// Why there is no NVML.
#[derive(Debug, PartialEq)]
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
        let count = self.0.device_count().map_err(|e| Absent::Broken(describe(&e)))?;
        let gpu = |index| Some(self.gpu(index, &self.0.device_by_index(index).ok()?));
        Ok(Topology {
            driver_version: self.0.sys_driver_version().ok(),
            cuda_version: self.0.sys_cuda_driver_version().ok().map(cuda_version_text),
            gpus: (0..count).filter_map(gpu).collect(),
        })
    }

    fn gpu(&self, index: u32, device: &Device) -> Gpu {
        let mig_enabled = device.mig_mode().ok().map(|mode| mode.current == 1);
        // The count is the most there can be; holes in between are possible.
        let slots = if mig_enabled == Some(true) { device.mig_device_count().unwrap_or(0) } else { 0 };
        let mig = |slot| Some(self.mig_device(&device.mig_device_by_index(slot).ok()?));
        Gpu {
            index,
            uuid: device.uuid().unwrap_or_default(),
            name: device.name().unwrap_or_default(),
            memory_mib: device.memory_info().ok().map(|memory| memory.total >> 20),
            mig_enabled,
            mig_devices: (0..slots).filter_map(mig).collect(),
        }
    }

    fn mig_device(&self, device: &Device) -> MigDevice {
        let attributes = device.attributes().ok();
        let id = |symbol: Result<&InstanceIdCall, _>| {
            let mut id = 0;
            // SAFETY: the handle comes from this library, which stays open, and `id` outlives the call.
            let code = unsafe { symbol.ok()?(device.handle(), &mut id) };
            (code == 0).then_some(id)
        };
        let lib = self.0.lib();
        MigDevice {
            uuid: device.uuid().unwrap_or_default(),
            gi_id: id(lib.nvmlDeviceGetGpuInstanceId.as_ref()),
            ci_id: id(lib.nvmlDeviceGetComputeInstanceId.as_ref()),
            // "NVIDIA H100 80GB HBM3 MIG 3g.40gb"
            profile: device.name().ok().and_then(|name| Some(name.rsplit_once("MIG ")?.1.to_owned())),
            sm_count: attributes.as_ref().map(|a| a.multiprocessor_count),
            memory_mib: attributes.map(|a| a.memory_size_mb),
        }
    }
}

/// nvmlDeviceGetGpuInstanceId and nvmlDeviceGetComputeInstanceId, which the wrapper lacks.
type InstanceIdCall =
    unsafe extern "C" fn(nvml_wrapper_sys::bindings::nvmlDevice_t, *mut std::ffi::c_uint) -> u32;

fn cuda_version_text(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

fn describe(error: &NvmlError) -> String {
    match error {
        NvmlError::LibloadingError(inner) => {
            std::error::Error::source(inner).map_or_else(|| inner.to_string(), ToString::to_string)
        }
        other => other.to_string(),
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
}
