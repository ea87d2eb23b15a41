//! Many workers: what to run in which order, the processes, and the rows that come of them.
//!
//! The parent's side. It never touches CUDA, and one failing worker never takes its siblings along.

pub mod corun;
pub mod costs;
pub mod estimate;
pub mod extent;
pub mod group;
mod identity;
pub mod launch;
pub mod monitor;
mod patience;
pub mod placement;
pub mod plan;
pub mod resume;
pub mod rows;
pub mod select;
pub mod slo;
pub mod telemetry;
mod together;
