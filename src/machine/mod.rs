//! What is here: GPUs, MIG devices, the host, and whether this process may use them.
//!
//! Plain data and the few files that read it off the machine. No CUDA context, and only the helper
//! process in `nvml` loads NVML.

pub mod capabilities;
pub mod capture;
pub mod cards;
pub mod cgroup;
pub mod child;
pub mod decode;
pub mod doctor;
pub mod file;
pub mod host;
pub mod instance;
pub mod limits;
pub mod lookup;
pub mod nvml;
pub mod processes;
pub mod profile;
pub mod refusal;
pub mod smi;
pub mod text;
pub mod thread;
pub mod topology;
pub mod uuid;
pub mod visible;

pub use instance::{Instance, InstanceKind};
pub use topology::{Gpu, MigDevice, Topology};

/// A folder with these files, in place of a machine's root.
#[cfg(test)]
fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    root
}
