//! What is here: GPUs, MIG devices, the host.
//!
//! Plain data and the few files that read it off the machine. No CUDA context, and only `nvml.rs`
//! loads NVML.

pub mod host;
pub mod limits;
pub mod nvml;
pub mod topology;
pub mod visible;

pub use topology::{Gpu, Instance, InstanceKind, MigDevice, Topology};
