//! lib
pub mod workload;
