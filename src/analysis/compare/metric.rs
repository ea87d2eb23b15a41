//! What can be compared, and the gates on it.

use crate::results::Row;
use crate::results::summary::{arrives, batches_needed};
use anyhow::{Context, Result, bail, ensure};

/// A number of a row that can be compared.
#[derive(Debug)]
pub struct Metric {
    /// As `--gate` calls it.
    pub name: &'static str,
    /// Of the number.
    pub unit: &'static str,
    /// A larger one is worse.
    pub less_is_better: bool,
    /// The quantile that needs enough batches to be there.
    pub quantile: Option<f64>,
    value: fn(&Row) -> Option<f64>,
}

impl Metric {
    /// Of a row.
    pub fn of(&self, row: &Row) -> Option<f64> {
        (self.value)(row)
    }

    /// By its name.
    pub fn find(name: &str) -> Option<&'static Metric> {
        METRICS.iter().find(|metric| metric.name == name)
    }

    /// How many batches (or responses) this quantile needs, and how many the row has, where those are too
    /// few. None where more of them would not help: the row's load has no such number at all.
    pub fn too_few(&self, row: &Row) -> Option<TooFew> {
        let needed = batches_needed(self.quantile?);
        let window = &row.window;
        let (unit, possible, had) = if self.name.starts_with("response_") {
            ("responses", arrives(&row.point.load), window.inferences.or(window.batches))
        } else {
            // The whole run of a program that reports nothing is its only batch.
            ("batches", row.point.load != "once", window.batches)
        };
        let had = had.unwrap_or(0);
        (possible && had < needed).then_some(TooFew { unit, needed, had })
    }

    /// An absolute floor in ms means something to it.
    pub fn is_time(&self) -> bool {
        self.unit == "ms"
    }
}

/// Why a quantile is not in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooFew {
    /// What is counted.
    pub unit: &'static str,
    /// So many would be enough.
    pub needed: u64,
    /// So many there are.
    pub had: u64,
}

macro_rules! metrics {
    ($($name:literal $unit:literal $less:literal $quantile:expr, $($field:ident).+;)*) => {
        /// All of them.
        pub const METRICS: &[Metric] = &[$(Metric {
            name: $name, unit: $unit, less_is_better: $less, quantile: $quantile,
            value: |row| row.$($field).+,
        }),*];
    };
}

metrics! {
    "latency_mean" "ms" true None, latency.mean;
    "latency_p50" "ms" true Some(0.5), latency.p50;
    "latency_p90" "ms" true Some(0.9), latency.p90;
    "latency_p95" "ms" true Some(0.95), latency.p95;
    "latency_p99" "ms" true Some(0.99), latency.p99;
    "latency_p999" "ms" true Some(0.999), latency.p999;
    "latency_max" "ms" true None, latency.max;
    "response_mean" "ms" true None, response.mean;
    "response_p50" "ms" true Some(0.5), response.p50;
    "response_p99" "ms" true Some(0.99), response.p99;
    "compute_mean" "ms" true None, stages.compute_mean;
    "compute_p50" "ms" true None, stages.compute_p50;
    "h2d_mean" "ms" true None, stages.h2d_mean;
    "d2h_mean" "ms" true None, stages.d2h_mean;
    "enqueue_p50" "ms" true None, stages.enqueue_p50;
    "throughput" "/s" false None, rates.throughput;
    "throughput_wall" "/s" false None, rates.throughput_wall;
    "tflops" "TFLOP/s" false None, rates.tflops;
    "gbytes_per_s" "GB/s" false None, rates.gbytes_per_s;
    "gpu_power" "W" true None, health.gpu_power_w;
}

/// A metric and how much worse it may be, as a ratio minus 1.
#[derive(Clone, Copy, Debug)]
pub struct Gate {
    /// Of what.
    pub metric: &'static Metric,
    /// 0.03: a ratio of 1.03 either way.
    pub threshold: f64,
    /// Somebody named it, so that passing without it would be wrong.
    pub asked: bool,
}

impl Gate {
    /// Latency and throughput within 3 %, the tail within 10 %.
    pub fn defaults() -> Vec<Gate> {
        [("latency_p50", 0.03), ("throughput_wall", 0.03), ("latency_p99", 0.10)]
            .map(|(name, threshold)| Gate {
                metric: Metric::find(name).expect("in the table"),
                threshold,
                asked: false,
            })
            .to_vec()
    }

    /// From `latency_p50=3%` or `latency_p50=0.03`.
    ///
    /// # Errors
    /// No such metric, or a threshold that is none.
    pub fn parse(text: &str) -> Result<Gate> {
        let Some((name, threshold)) = text.split_once('=') else {
            bail!("--gate '{text}' is not METRIC=THRESHOLD, as latency_p50=3%")
        };
        let Some(metric) = Metric::find(name.trim()) else {
            let known: Vec<_> = METRICS.iter().map(|metric| metric.name).collect();
            bail!("--gate: there is no metric '{name}'; there are {}", known.join(", "))
        };
        let (number, scale) = match threshold.trim().strip_suffix('%') {
            Some(number) => (number.trim(), 100.0),
            None => (threshold.trim(), 1.0),
        };
        let value: f64 = number.parse().with_context(|| format!("--gate '{text}': no number"))?;
        ensure!(value.is_finite() && value >= 0.0, "--gate '{text}': a threshold is 0 or more");
        ensure!(
            scale > 1.0 || value < 1.0,
            "--gate '{text}' allows {} %: write {name}={number}% if that is not meant",
            value * 100.0
        );
        Ok(Gate { metric, threshold: value / scale, asked: true })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_shares_or_percent() {
        let parse = |text: &str| Gate::parse(text).map(|gate| (gate.metric.name, gate.threshold));
        assert_eq!(parse("latency_p50=3%").unwrap(), ("latency_p50", 0.03));
        assert_eq!(parse("throughput_wall=0.005").unwrap(), ("throughput_wall", 0.005));
        assert_eq!(parse("tflops=0").unwrap(), ("tflops", 0.0));
        assert_eq!(parse("tflops=150%").unwrap().1, 1.5);
        let message = |text: &str| parse(text).unwrap_err().to_string();
        assert_eq!(
            message("latency_p50=3"),
            "--gate 'latency_p50=3' allows 300 %: write latency_p50=3% if that is not meant"
        );
        assert!(message("p50=3%").starts_with("--gate: there is no metric 'p50'; there are latency_mean, "));
        assert_eq!(message("tflops"), "--gate 'tflops' is not METRIC=THRESHOLD, as latency_p50=3%");
        assert!(message("tflops=-1%").ends_with("a threshold is 0 or more"));
        assert!(message("tflops=x").ends_with("no number"));
    }
}
