//! Options of `check`.

use crate::analysis::check::TimeUnit;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// Does each saved row hold together?
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    /// Saved CSV files
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Say what the columns of another tool's file mean, for example
    /// latency=latency_ms,batch=batch_size,throughput=qps; quote a name that holds a comma
    #[arg(long, value_name = "MEANING=COLUMN")]
    pub columns: Vec<String>,
    /// Unit of the latencies in another tool's file
    #[arg(long, value_name = "UNIT", value_enum, default_value_t = Unit::Ms, requires = "columns")]
    pub latency_unit: Unit,
    /// Unit of the length of the measurement in another tool's file
    #[arg(long, value_name = "UNIT", value_enum, default_value_t = Unit::S, requires = "columns")]
    pub elapsed_unit: Unit,
    /// What separates the cells of another tool's file, for example ';' or tab [default: a comma]
    #[arg(long, value_name = "CHARACTER", value_parser = separator, requires = "columns")]
    pub separator: Option<char>,
    /// Read numbers with a decimal comma in another tool's file, for example 2,5
    #[arg(long, requires = "columns")]
    pub decimal_comma: bool,
    /// How to show what was found
    #[arg(long, value_name = "FORM", value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// Findings shown of each rule and column of a file; all are counted
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub show: usize,
}

fn separator(text: &str) -> anyhow::Result<char> {
    let mut characters = text.chars();
    match (text, characters.next(), characters.next()) {
        ("tab" | "\\t", ..) => Ok('\t'),
        (_, Some(only), None) if only != '"' && !only.is_alphanumeric() => Ok(only),
        _ => anyhow::bail!("'{text}' is no separator: write one character, for example ';', or tab"),
    }
}

/// Unit in which a mapped column gives its times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Unit {
    S,
    Ms,
    Us,
    Ns,
}

impl From<Unit> for TimeUnit {
    fn from(unit: Unit) -> TimeUnit {
        match unit {
            Unit::S => TimeUnit::Seconds,
            Unit::Ms => TimeUnit::Milliseconds,
            Unit::Us => TimeUnit::Microseconds,
            Unit::Ns => TimeUnit::Nanoseconds,
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
