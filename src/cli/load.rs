//! Options of `run` that say how batches arrive and when a window ends.

use super::one_of;
use crate::sweep::slo::Slo;
use crate::workload::scripted::parse_ns;
use clap::Args;
use std::path::PathBuf;

/// How batches arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LoadKind {
    /// The next one when one is done.
    Closed,
    /// Whole batches by a schedule.
    Open,
    /// Single samples by a schedule, to a batcher.
    Server,
}

/// When they arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArrivalKind {
    /// Independent of each other.
    Poisson,
    /// At equal distances.
    Constant,
}

/// How batches arrive, and when a window ends.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Load")]
pub struct LoadArgs {
    /// closed: the next batch when one is done; open: batches by a schedule; server: single samples by a
    /// schedule, to a batcher that forms batches of up to --batch [default: closed; open with --rate, --trace or --slo]
    #[arg(long, value_parser = one_of::<LoadKind>(&["closed", "open", "server"]))]
    pub load: Option<LoadKind>,
    /// Arrivals a second: batches of an open load, samples of a server; several, comma-separated
    #[arg(long, value_name = "R", value_delimiter = ',', value_parser = rate, allow_negative_numbers = true)]
    pub rate: Vec<f64>,
    /// When they arrive [default: poisson]
    #[arg(long, value_parser = one_of::<ArrivalKind>(&["poisson", "constant"]), conflicts_with = "trace")]
    pub arrivals: Option<ArrivalKind>,
    /// Arrivals from a file: seconds from the start, one a line
    #[arg(long, value_name = "FILE", conflicts_with = "rate")]
    pub trace: Option<PathBuf>,
    /// How long a sample of a server load may wait for others, as 500us or 2ms
    #[arg(long, value_name = "TIME", value_parser = parse_ns, default_value = "0s")]
    pub max_delay: u64,
    /// Batches in flight, each on a lane of its own; several, comma-separated
    #[arg(long, value_name = "K", value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub inflight: Vec<u8>,
    /// End a window when the 95 % intervals of mean and p99 are within this of them and the level is
    /// steady; --duration and --batches are minimums then [default minimums: 2 s and 700 batches]
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    pub precision_target: Option<f64>,
    /// Search the highest rate whose response meets a target, as p99=10ms, under an open or server load;
    /// each probe is a row
    #[arg(long, value_name = "TARGET", value_parser = str::parse::<Slo>, conflicts_with_all = ["rate", "trace", "resume"])]
    pub slo: Option<Slo>,
    /// Read the GPU's SM clock once a second within the window, too, between batches: 1 ms each
    #[arg(long)]
    pub clock_samples: bool,
    /// Write an interval log of HdrHistogram's: a histogram of each second of each window
    #[arg(long, value_name = "FILE")]
    pub hlog: Option<PathBuf>,
    /// The longest a window may last [default: 60 s, unless --duration or --batches is given]
    #[arg(long, value_name = "TIME", value_parser = length)]
    pub max_duration: Option<u64>,
}

/// A time that lasts, in ns.
///
/// # Errors
/// As [`parse_ns`], or 0.
pub fn length(text: &str) -> anyhow::Result<u64> {
    match parse_ns(text)? {
        0 => anyhow::bail!("'{text}' is no time at all: write for example 500ms or 10s"),
        ns => Ok(ns),
    }
}

fn rate(text: &str) -> anyhow::Result<f64> {
    match text.parse::<f64>() {
        Ok(rate) if (1e-6..=1e9).contains(&rate) => Ok(rate),
        _ => anyhow::bail!("'{text}' is no rate: write arrivals a second, as 250 or 0.5"),
    }
}

fn percent(text: &str) -> anyhow::Result<f64> {
    match text.strip_suffix('%').map(str::parse::<f64>) {
        Some(Ok(percent)) if (0.1..=50.0).contains(&percent) => Ok(percent / 100.0),
        _ => anyhow::bail!("'{text}' is no precision: write a percentage from 0.1% to 50%, as 1%"),
    }
}
