//! Statistics that the verdicts rest on. Numbers in, numbers out; nothing here knows what a row is.

pub mod hodges_lehmann;
pub mod mann_whitney;
pub mod order;
pub mod student;
pub mod variance;

pub use hodges_lehmann::TwoSamples;
pub use mann_whitney::Tables;
