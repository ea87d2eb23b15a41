//! Options of `check`.

use crate::analysis::check::LatencyUnit;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// Does each saved row hold together?
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    /// Saved CSV files
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// What the columns of another tool's file mean, as latency=latency_ms,batch=batch_size,throughput=qps
    #[arg(long, value_name = "MEANING=COLUMN", value_delimiter = ',')]
    pub columns: Vec<String>,
    /// Unit of the latencies in another tool's file
    #[arg(long, value_name = "UNIT", value_enum, default_value_t = Unit::Ms, requires = "columns")]
    pub latency_unit: Unit,
    /// How to show what was found
    #[arg(long, value_name = "FORM", value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// Findings shown of each rule and column of a file; all are counted
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub show: usize,
}

/// Unit of latencies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Unit {
    S,
    Ms,
    Us,
    Ns,
}

impl From<Unit> for LatencyUnit {
    fn from(unit: Unit) -> LatencyUnit {
        match unit {
            Unit::S => LatencyUnit::Seconds,
            Unit::Ms => LatencyUnit::Milliseconds,
            Unit::Us => LatencyUnit::Microseconds,
            Unit::Ns => LatencyUnit::Nanoseconds,
        }
    }
}

/// Forms of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For a terminal
    Table,
    /// For a program
    Json,
    /// For a pull request
    Markdown,
}
