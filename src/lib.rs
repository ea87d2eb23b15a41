//! lib
pub mod machine;
pub mod measure;
pub mod workload;
