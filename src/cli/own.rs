//! Options of the user's own workload.

use crate::workload::scripted::parse_ns;
use clap::Args;

/// A program of the user's.
#[derive(Args, Clone, Debug, Default)]
pub struct OwnArgs {
    /// Your own program, once on each instance, with CUDA_VISIBLE_DEVICES set: {uuid}, {profile},
    /// {index} and {batch} in its arguments are replaced. It may report its batches (docs/protocol.md)
    #[arg(last = true, value_name = "CMD", conflicts_with_all = ["workload", "seq_len", "precision", "no_graph", "no_transfers", "sync", "threads"])]
    pub command: Vec<String>,
    /// How long your own program may run without a report
    #[arg(long, value_name = "TIME", value_parser = parse_ns, default_value = "10m")]
    pub deadline: u64,
}
