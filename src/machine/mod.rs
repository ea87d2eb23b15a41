//! What is here: GPUs, MIG devices, the host.

pub mod host;
