//! What is here: GPUs, MIG devices, the host, and whether this process may use them.
//!
//! Plain data and the few files that read it off the machine. No CUDA context, and only `nvml`
//! loads NVML.

pub mod capabilities;
pub mod capture;
pub mod child;
pub mod doctor;
pub mod file;
pub mod host;
pub mod instance;
pub mod limits;
pub mod nvml;
pub mod processes;
pub mod profile;
pub mod refusal;
pub mod smi;
pub mod thread;
pub mod topology;
pub mod visible;

pub use instance::{Instance, InstanceKind};
pub use topology::{Gpu, MigDevice, Topology};
