//! A row: one instance, one point, one repetition. `wire.rs` gives it its columns.
//!
//! An empty field was not measured or could not be read; it is never 0 instead.

use crate::machine::{Instance, text};
use crate::measure::protocol::Device;
use crate::workload::{Gemm, Precision, Sync};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// Version of the columns. A change is named in CHANGELOG.
pub const SCHEMA_VERSION: u32 = 2;
/// The versions that are read. A file of version 1 lacks the columns that came with version 2.
pub const SCHEMAS_READ: std::ops::RangeInclusive<u32> = 1..=SCHEMA_VERSION;

/// One instance, one point, one repetition.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// Which run of which migbench where.
    pub provenance: Provenance,
    /// What was measured, and how sure that is.
    pub subject: Subject,
    /// Under which conditions.
    pub point: Point,
    /// The window.
    pub window: Window,
    /// Service time: issue to output on the host.
    pub latency: Latency,
    /// Time from the scheduled start, under open load.
    pub response: Response,
    /// A latency target that it probed.
    pub slo: SloResult,
    /// Throughputs.
    pub rates: Rates,
    /// The split of a batch into its stages.
    pub stages: StageSummary,
    /// Signs that a number can be trusted, or not.
    pub health: Health,
    /// How it ended.
    pub outcome: Outcome,
    /// All latencies, as text.
    pub histograms: Histograms,
}

/// Which run of which migbench where.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Provenance {
    /// [`SCHEMA_VERSION`] of the writer.
    pub schema_version: u32,
    /// One invocation of migbench.
    pub run_id: String,
    /// Invocations that share a session effect.
    pub session_id: String,
    /// [`point_id`].
    pub point_id: String,
    /// From 1: a round of fresh workers.
    pub repetition: u32,
    /// From 1: the highest wins.
    pub attempt: u32,
    /// Of weights, inputs and order.
    pub seed: u64,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// Host name.
    pub host: String,
    /// Inherited variables that limit what is seen.
    pub scope: String,
    /// Of the program.
    pub migbench_version: String,
    /// Of the program's source, where it was built from a checkout.
    pub git_revision: String,
    /// Set and content hash of the device's kernels.
    pub kernels: String,
    /// Version of the library that computed matrix products, and how many of the network's, as `13.0.2 (60 of
    /// 73)`; empty where the kernels computed all.
    pub gemm_version: Option<String>,
    /// Release of the operating system's kernel.
    pub os_kernel: Option<String>,
}

/// How sure it is that the worker ran where it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Identity {
    /// The driver's UUID equals the one asked for.
    Proven,
    /// The UUID can't be compared, all else agrees.
    Consistent,
    /// It is another device.
    Refuted,
}

/// Who shares the instance's multiprocessors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sharing {
    /// An instance of a partitioned GPU.
    Mig,
    /// One worker alone on a device without partitions.
    Exclusive,
    /// Several workers in turn on one device.
    TimeSliced,
    /// Clients of an MPS server.
    Mps,
}

/// Who else computes on the same GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Neighbours {
    /// Nobody was seen.
    NoneSeen,
    /// Workers of this run.
    Ours,
    /// Somebody else.
    Foreign,
    /// It can't be seen.
    Unknown,
}

/// What was measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Subject {
    /// The device.
    pub instance: Instance,
    /// Proof of it.
    pub identity: Option<Identity>,
    /// Who shares it.
    pub sharing: Option<Sharing>,
    /// From 1: which of several workers on the instance; empty where there is one.
    pub worker: Option<u32>,
    /// Who is next to it.
    pub neighbours: Option<Neighbours>,
    /// Driver version.
    pub driver_version: Option<String>,
    /// CUDA version of the driver.
    pub cuda_version: Option<String>,
    /// VBIOS version of the GPU.
    pub gpu_vbios: Option<String>,
    /// Power limit of the GPU in force when the run was planned, in W.
    pub gpu_power_limit_w: Option<f64>,
}

/// Whether workers measure one after another or at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// No co-runner of ours.
    #[default]
    Isolated,
    /// With co-runners.
    Concurrent,
}

/// The conditions of a measurement.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// CPU or CUDA.
    pub device: Device,
    /// Who executes the workload.
    pub backend: String,
    /// Canonical, as `bert-base(seq_len=128)`.
    pub workload: String,
    /// Number format; empty where the user's own workload has not said it.
    pub precision: Option<Precision>,
    /// The library that computed matrix products; empty where the kernels computed all.
    pub gemm: Option<Gemm>,
    /// Samples in a batch.
    pub batch: u64,
    /// Alone or not.
    pub mode: Mode,
    /// Sorted multiset of profile/workload/batch/load of the co-runners.
    pub corunners: String,
    /// The same of those that were planned and failed before the windows opened; not part of the point.
    pub missing_corunners: Option<String>,
    /// How batches arrive.
    pub load: String,
    /// Batches in flight.
    pub inflight: u32,
    /// How the host waits; empty on the CPU.
    pub sync: Option<Sync>,
    /// One CUDA graph a batch; empty on the CPU.
    pub graph: Option<bool>,
    /// Input and output copied in each batch; empty on the CPU.
    pub transfers: Option<bool>,
    /// CPU threads; empty on a GPU.
    pub threads: Option<u32>,
    /// Logical processors that the worker may use.
    pub cpus: String,
    /// Time added to every batch, us: a slow-down of known size; empty as a rule.
    pub extra_work_us: Option<u64>,
}

impl Default for Point {
    fn default() -> Point {
        Point {
            device: Device::Cpu,
            backend: String::new(),
            workload: String::new(),
            precision: Some(Precision::Fp32),
            gemm: None,
            batch: 0,
            mode: Mode::Isolated,
            corunners: String::new(),
            missing_corunners: None,
            load: String::new(),
            inflight: 0,
            sync: None,
            graph: None,
            transfers: None,
            threads: None,
            cpus: String::new(),
            extra_work_us: None,
        }
    }
}

/// The window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Window {
    /// When it was to end, as [`crate::measure::stopping::Rule`] is spelt.
    pub rule: String,
    /// Batches before it, unmeasured.
    pub warmup_batches: Option<u64>,
    /// Batches in it.
    pub batches: Option<u64>,
    /// Those of them while all co-runners were measuring.
    pub batches_common: Option<u64>,
    /// From the first issue to the last completion.
    pub elapsed_s: Option<f64>,
    /// The moment named to all workers of the run, CLOCK_MONOTONIC of the host; the window opens when
    /// the batch in flight then is done.
    pub named_start_ns: Option<u64>,
    /// CLOCK_MONOTONIC of the host.
    pub start_ns: Option<u64>,
    /// CLOCK_MONOTONIC of the host.
    pub end_ns: Option<u64>,
    /// Mean latency of the last third over that of the first third, minus 1.
    pub drift: Option<f64>,
    /// Half the 95 % interval of the mean as a share of it, where a precision was asked for.
    pub mean_halfwidth: Option<f64>,
    /// Half the 95 % interval of p99 as a share of it, where a precision was asked for.
    pub p99_halfwidth: Option<f64>,
    /// Which criteria of the precision asked for were not met, `;`-separated.
    pub precision_unmet: Option<String>,
    /// Samples, where batches have different sizes: under a server load.
    pub inferences: Option<u64>,
    /// Batches of each size, under a server load.
    pub batch_sizes: Option<String>,
    /// Batches that migbench itself issued late, where they arrive by a schedule.
    pub late_batches: Option<u64>,
}

/// Milliseconds. A percentile is empty where there are too few batches for it.
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Latency {
    pub mean: Option<f64>,
    pub stddev: Option<f64>,
    pub min: Option<f64>,
    pub p50: Option<f64>,
    pub p90: Option<f64>,
    pub p95: Option<f64>,
    pub p99: Option<f64>,
    pub p999: Option<f64>,
    pub max: Option<f64>,
    /// 99 % upper confidence bound of p99, for independent batches.
    pub p99_upper: Option<f64>,
}

/// Milliseconds.
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Response {
    pub mean: Option<f64>,
    pub p50: Option<f64>,
    pub p90: Option<f64>,
    pub p99: Option<f64>,
    pub p999: Option<f64>,
    pub max: Option<f64>,
    /// 99 % upper confidence bound of p99, for so many responses as do not depend on each other.
    pub p99_upper: Option<f64>,
    /// How far apart those are.
    pub lag: Option<u64>,
}

/// A latency target and what came of it, in a row that probed it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SloResult {
    /// As `p99<=10ms`.
    pub target: Option<String>,
    /// The upper bound of that percentile, in ms.
    pub bound: Option<f64>,
    /// It was met; none where the probe could not tell.
    pub met: Option<bool>,
}

/// Throughputs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rates {
    /// (1000 / mean latency in ms) x batch, in samples/s.
    pub throughput: Option<f64>,
    /// Arrivals a second that were offered: batches of an open load, samples of a server.
    pub offered: Option<f64>,
    /// batches x batch / length of the window, in samples/s.
    pub throughput_wall: Option<f64>,
    /// Matrix operations, 10^12/s, by the network's own count and the mean latency.
    pub tflops: Option<f64>,
    /// Compulsory bytes, 10^9/s, by the network's own count and the mean latency.
    pub gbytes_per_s: Option<f64>,
}

/// The split of a batch into stages, from a pass of its own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StageSummary {
    /// Input copy, ms.
    pub h2d_mean: Option<f64>,
    /// Between the copies, ms.
    pub compute_mean: Option<f64>,
    /// Between the copies, ms.
    pub compute_p50: Option<f64>,
    /// Output copy, ms.
    pub d2h_mean: Option<f64>,
    /// Host time to issue a batch, ms.
    pub enqueue_p50: Option<f64>,
    /// Batches in this pass.
    pub batches: Option<u64>,
}

/// Signs that a number can be trusted, or not. `gpu_*` belong to the whole GPU.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Health {
    /// Share of the window in which every co-runner was loading.
    pub overlap: Option<f64>,
    /// The longest time, between the common start and the end of the run's last window, in which a batch was
    /// due or in flight and none was done; empty below 10 ms.
    pub longest_pause_ms: Option<f64>,
    /// Relative L2 error of the output against the fp32 reference.
    pub output_error: Option<f64>,
    /// SM clock of the instance itself, by a probe kernel before and after the window: their mean.
    pub sm_clock_mhz: Option<f64>,
    /// SM clock when the last window of the run ended; with periodic telemetry, its mean over the window.
    pub gpu_sm_clock_mhz: Option<f64>,
    /// Mean power over the window.
    pub gpu_power_w: Option<f64>,
    /// Energy of the whole GPU for one sample, over the window that all workers on it have in common.
    pub gpu_energy_per_sample_j: Option<f64>,
    /// Time in the window with the clock held down by power or heat.
    pub gpu_throttled_ms: Option<f64>,
    /// Share of the window in which the power limit held the clock down.
    pub gpu_power_capped_share: Option<f64>,
    /// Share of the window in which heat held the clock down.
    pub gpu_heat_capped_share: Option<f64>,
    /// Share of the window in which the hardware itself slowed down: heat beyond its limit, or the power
    /// supply's brake.
    pub gpu_hw_slowdown_share: Option<f64>,
    /// Time between two readings of NVML during the window; empty where there were none.
    pub telemetry_s: Option<f64>,
    /// Time in the window in which the cgroup kept the worker off the processors.
    pub cpu_throttled_ms: Option<f64>,
}

/// How a row ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Measured, and nothing speaks against it.
    #[default]
    Ok,
    /// Not measured.
    Failed,
    /// Measured, and not to be used.
    Invalid,
    /// Measured until somebody asked to stop.
    Interrupted,
}

/// Something a reader of the row should know; `;`-separated codes in the CSV.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Warning {
    /// Latency drifted by more than 1 % over the window.
    Drift,
    /// The window ended at its cap with fewer batches than wanted.
    CapReached,
    /// The two throughputs are more than 5 % apart: the host loses time between batches.
    ThroughputGap,
    /// The host takes more than 0.8 of the device's time to issue a batch.
    HostBound,
    /// The device's UUID could not be compared.
    IdentityUnproven,
    /// Name or memory differ between NVML and CUDA by more than 10 %.
    IdentityDiffers,
    /// Latencies beyond the histogram's range.
    OutOfRange,
    /// The cgroup kept the worker off the processors.
    CpuThrottled,
    /// Power or heat held the clock down.
    GpuThrottled,
    /// The worker is a client of an MPS server.
    Mps,
    /// More arrived than the instance can do; the window ended early.
    Saturated,
    /// The program reported no batches: nothing shows that its neighbours were there.
    Unproven,
    /// The program did not end when it was told to, and was ended.
    EndedByForce,
    /// The GPU met memory errors in the window that it could not correct.
    EccErrors,
    /// The window ended before mean and p99 were known as well as was asked for.
    PrecisionUnmet,
    /// The output was not compared: a stand-in for a driver computes nothing.
    UncheckedOutput,
    /// Some operations, or rows of their results, were not compared: it would have taken too long.
    PartlyChecked,
    /// The trace's last arrival came before the window was to end.
    TraceEnded,
    /// Elements of the output are NaN or infinite, in the reference as well.
    NonFiniteOutput,
    /// The time stamps that were imported are coarser than 1 % of the median latency: `inflight` and the
    /// percentiles are known to that step only.
    CoarseTimes,
    /// Without co-runners: for long no batch was done although one was due or in flight.
    Paused,
}

/// How it ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// What a reader should know, in order, each once.
    pub warnings: Warnings,
    /// How.
    pub status: Status,
    /// Why it is not ok.
    pub error: Option<String>,
}

/// A set of warnings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Warnings(pub std::collections::BTreeSet<Warning>);

/// All latencies: V2-deflate, base64, ns.
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Histograms {
    pub latency: Option<String>,
    pub response: Option<String>,
}

impl Row {
    /// A row that could not be measured. Line breaks in the reason become ` | `.
    pub fn failed(mut self, reason: &str) -> Row {
        self.outcome.status = Status::Failed;
        self.outcome.error = Some(one_line(reason));
        self
    }

    /// A row whose numbers must not be used.
    pub fn invalid(&mut self, reason: &str) {
        self.outcome.status = Status::Invalid;
        self.outcome.error = Some(one_line(reason));
    }

    /// Sets `provenance.point_id` from the rest.
    pub fn seal(&mut self) {
        self.provenance.point_id = point_id(self);
    }
}

/// A cell holds no line break: a line without its end is torn.
fn one_line(text: &str) -> String {
    text::reason(text)
}

/// What gives a number its meaning, hashed: 16 hexadecimal digits of SHA-256. Rows of one point may
/// be compared; causes (driver, kernels, host) are not part of it, nor is the UUID.
pub fn point_id(row: &Row) -> String {
    let (subject, point) = (&row.subject.instance, &row.point);
    let mut text = format!(
        "{:?}",
        (
            (
                // As version 1 hashed it: a point keeps its hash in every later version.
                1_u32,
                &subject.kind,
                &subject.gpu_name,
                &subject.profile,
                subject.sm_count
            ),
            (point.device, &point.backend, &point.workload, Plain(point.precision), point.batch),
            (point.mode, &point.corunners, &point.load, point.inflight),
            (point.sync, point.graph, point.transfers, point.threads, &row.subject.sharing),
        )
    );
    if let Some(us) = point.extra_work_us {
        let _ = write!(text, "extra_work_us={us}");
    }
    if let Some(gemm) = point.gemm {
        let _ = write!(text, "gemm={gemm}");
    }
    hex(&Sha256::digest(text)[..8])
}

/// A value that every row had when the hash was made.
struct Plain<T>(Option<T>);

impl<T: std::fmt::Debug> std::fmt::Debug for Plain<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("None"),
        }
    }
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_its_conditions_not_its_place() {
        let mut row = Row::default();
        let id = point_id(&row);
        assert_eq!(id.len(), 16);
        row.subject.instance.mig_uuid = Some("MIG-1".into());
        row.subject.driver_version = Some("580".into());
        row.provenance.run_id = "x".into();
        assert_eq!(point_id(&row), id);
        row.provenance.gemm_version = Some("13.0.2 (1 of 1)".into());
        assert_eq!(point_id(&row), id);
        row.point.gemm = Some(Gemm::Cublaslt);
        assert_ne!(point_id(&row), id);
        row.point.gemm = None;
        row.point.batch = 1;
        assert_ne!(point_id(&row), id);
    }

    #[test]
    fn a_reason_is_one_line() {
        let row = Row::default().failed("first\nsecond\r\n\nthird\n");
        assert_eq!(row.outcome.error.as_deref(), Some("first | second | third"));
    }
}
