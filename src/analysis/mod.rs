//! What saved rows say: does each hold together, and did they change?
//!
//! Pure: no clock, no file, no environment. Rows and cells in, findings and verdicts out.

pub mod check;
pub mod compare;
pub mod rounds;
pub mod slowdown;
pub mod stats;
