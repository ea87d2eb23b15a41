//! lib
pub mod machine;
pub mod workload;
