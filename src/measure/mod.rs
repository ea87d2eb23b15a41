//! One worker: the clock, the window, the recorder and the protocol spoken with the parent.
//!
//! Between the start of a window and its end nothing here prints, locks or allocates per batch, and the
//! memory it writes to is already there.

pub mod bins;
pub mod clock;
pub mod costs;
pub mod fault;
pub mod intervals;
pub mod load;
pub mod precision;
pub mod program;
pub mod protocol;
pub mod recorder;
pub mod records;
mod resident;
pub mod stopping;
pub mod window;
pub mod worker;
