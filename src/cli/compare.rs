//! Options of `compare`.

use crate::workload::scripted::parse_ns;
use clap::{Args, ValueEnum};

/// Did it change?
#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct CompareArgs {
    /// What was measured before: a file, or several as 'runs/*.csv'
    #[arg(value_name = "BASE")]
    pub base: String,
    /// What was measured now
    #[arg(value_name = "NEW")]
    pub new: String,
    /// How much worse a metric may be, as latency_p50=3%; replaces the usual gates. A metric that is named
    /// here and can't be compared is exit code 5
    /// [default: latency_p50=3%,throughput_wall=3%,latency_p99=10%]
    #[arg(long, value_name = "METRIC=THRESHOLD", value_delimiter = ',')]
    pub gate: Vec<String>,
    /// Changes of a time below this are none, as 5us
    #[arg(long, value_name = "TIME", value_parser = parse_ns)]
    pub floor: Option<u64>,
    /// Compare rows that differ in this column, as batch; or replicates with fewer instances
    #[arg(long, value_name = "COLUMN", value_delimiter = ',')]
    pub allow_mismatch: Vec<String>,
    /// Refuse a change of this cause, as driver_version
    #[arg(long, value_name = "COLUMN", value_delimiter = ',')]
    pub require_same: Vec<String>,
    /// Which verdicts besides REGRESSION end with an error
    #[arg(long, value_name = "VERDICT", value_enum)]
    pub fail_on: Option<FailOn>,
    /// Judge fewer than 4 rounds a side by the threshold alone
    #[arg(long)]
    pub allow_unreplicated: bool,
    /// Rows of unchanged runs over several sessions: warns of thresholds that are lost in their noise
    #[arg(long, value_name = "FILE")]
    pub noise: Option<String>,
    /// More outputs, as markdown=a.md,junit=a.xml,json=a.json,csv=a.csv; - for standard output
    #[arg(long, value_name = "FORM=FILE", value_delimiter = ',')]
    pub output: Vec<String>,
    /// Overwrite these files
    #[arg(long)]
    pub force: bool,
    /// Annotations for GitHub Actions, and the step summary
    #[arg(long)]
    pub github: bool,
    /// The file of the step summary
    #[arg(long, value_name = "FILE", env = "GITHUB_STEP_SUMMARY", hide = true)]
    pub github_summary: Option<String>,
}

const AFTER_HELP: &str = "\
Examples:
  migbench compare baseline.csv new.csv
  migbench compare 'main/*.csv' 'pr/*.csv' --gate throughput_wall=1% --fail-on inconclusive
  migbench compare baseline.csv new.csv --output markdown=comment.md,junit=gate.xml

Exit codes: 0 no regression · 1 internal error, or an output that can't be written · 2 usage, or
an input that can't be opened · 3 regression · 4 inconclusive, with --fail-on inconclusive · 5 rows
or metrics that are missing, rows that are not comparable, failed or invalid (before 3, before 4)";

/// Verdicts that are no pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FailOn {
    /// A regression is neither shown nor excluded
    Inconclusive,
}
