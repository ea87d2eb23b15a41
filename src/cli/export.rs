//! Options of `export`.

use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// Forms of saved histograms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// HdrHistogram's interval log, one interval a row.
    Hlog,
    /// HdrHistogram's percentile distribution, in ms, as its plotter reads it.
    Hgrm,
    /// Count, extremes, percentiles and slots, in ns.
    Json,
}

/// Which histograms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Which {
    /// Service times.
    Latency,
    /// From the scheduled start.
    Response,
    /// Both.
    All,
}

/// Options of `export`.
#[derive(Args, Clone, Debug)]
pub struct ExportArgs {
    /// Saved rows; several
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Form of the output
    #[arg(long, value_enum, default_value_t = ExportFormat::Json)]
    pub format: ExportFormat,
    /// Which histograms
    #[arg(long, value_enum, default_value_t = Which::All)]
    pub metric: Which,
    /// One histogram for all ok rows of a point (instances of a kind, rounds), as if recorded in one
    #[arg(long)]
    pub merge: bool,
    /// Output file, `-` for standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub output: PathBuf,
    /// Replace the output file if it exists
    #[arg(long)]
    pub force: bool,
}
