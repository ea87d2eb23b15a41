//! Options of `selftest`.

use super::one_of;
use crate::measure::protocol::Device;
use clap::{Args, ValueEnum};

/// Options of `selftest`.
#[derive(Args, Clone, Debug)]
pub struct SelftestArgs {
    /// The harness alone, or with a GPU [default: with the first visible GPU, if there is one]
    #[arg(long, value_parser = one_of::<Device>(&["cpu", "cuda"]))]
    pub device: Option<Device>,
    /// For programs
    #[arg(long)]
    pub json: bool,
    /// What runs in a process of its own
    #[arg(long, value_enum, hide = true)]
    pub part: Option<Part>,
}

/// What runs in a process of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// The other end of a round trip.
    Echo,
    /// What opens the GPU.
    Device,
}
