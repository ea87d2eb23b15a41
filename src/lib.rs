//! lib
pub mod machine;
pub mod measure;
pub mod results;
pub mod workload;
