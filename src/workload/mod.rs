//! What runs: networks, the devices that execute them, and the check of their outputs.
//!
//! A workload knows nothing about MIG, processes or time: it is told to issue a batch on a lane and
//! to wait for it, and [`crate::measure`] holds the clock.

pub mod check;
pub mod command;
pub mod cpu;
pub mod cuda;
pub mod model;
pub mod onnx;
mod python;
pub mod scripted;
mod spec;

pub use spec::{Kind, LlamaSize, Spec};

use crate::machine::Instance;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The number format of weights and activations. Sums are fp32 in every one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// IEEE binary32.
    Fp32,
    /// IEEE binary16.
    Fp16,
    /// bfloat16: binary32's exponent, 8 bits of significand.
    Bf16,
}

impl Precision {
    /// Bytes of one number.
    pub fn bytes(self) -> usize {
        match self {
            Precision::Fp32 => 4,
            Precision::Fp16 | Precision::Bf16 => 2,
        }
    }

    /// The nearest representable value, ties to even.
    pub fn round(self, x: f32) -> f32 {
        match self {
            Precision::Fp32 => x,
            Precision::Fp16 => half::f16::from_f32(x).to_f32(),
            Precision::Bf16 => half::bf16::from_f32(x).to_f32(),
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Precision::Fp32 => "fp32",
            Precision::Fp16 => "fp16",
            Precision::Bf16 => "bf16",
        })
    }
}

/// How the host waits for the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sync {
    /// Polls: the lowest latency, one core busy.
    Spin,
    /// Sleeps until the driver's interrupt.
    Blocking,
}

impl fmt::Display for Sync {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Sync::Spin => "spin",
            Sync::Blocking => "blocking",
        })
    }
}

/// Who computes matrix products on a GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gemm {
    /// migbench's own kernels.
    #[default]
    Builtin,
    /// NVIDIA's cuBLASLt, those that it computes in the same way.
    Cublaslt,
}

impl fmt::Display for Gemm {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Gemm::Builtin => "builtin",
            Gemm::Cublaslt => "cublaslt",
        })
    }
}

/// The user's own workload, in place of one of migbench's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Own {
    /// A program.
    Program(Box<command::Program>),
    /// A network.
    Model(Box<onnx::Model>),
}

/// The user's own workload as the command line has it.
#[derive(Clone, Debug, PartialEq)]
pub enum OwnTemplate {
    /// A program.
    Program(command::Template),
    /// A network.
    Model(Box<onnx::Template>),
}

impl OwnTemplate {
    /// As a row names it.
    pub fn text(&self) -> String {
        match self {
            OwnTemplate::Program(template) => format!("command({})", template.text()),
            OwnTemplate::Model(template) => template.text(),
        }
    }

    /// For the instance at `index` of those that measure, and a batch size.
    ///
    /// # Errors
    /// The network does not take this batch.
    pub fn on(&self, instance: &Instance, index: usize, batch: u64) -> Result<Own> {
        match self {
            OwnTemplate::Program(template) => Ok(Own::Program(Box::new(template.on(instance, index, batch)))),
            OwnTemplate::Model(template) => template.on(batch).map(|model| Own::Model(Box::new(model))),
        }
    }
}

/// How a network is executed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Number format.
    pub precision: Precision,
    /// Seed of weights and inputs.
    pub seed: u64,
    /// A batch is one CUDA graph launch instead of single kernel launches.
    pub graph: bool,
    /// Input and output are copied in every batch.
    pub transfers: bool,
    /// How the host waits.
    pub sync: Sync,
    /// CPU threads (of the CPU device).
    pub threads: usize,
    /// Time that every batch takes longer, in us: a slow-down of known size, to prove a gate on.
    #[serde(default)]
    pub extra_work_us: u64,
    /// A planted fault.
    pub corruption: Option<Corruption>,
    /// Who computes matrix products, of the CUDA device.
    #[serde(default)]
    pub gemm: Gemm,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            precision: Precision::Fp32,
            seed: 1,
            graph: true,
            transfers: true,
            sync: Sync::Spin,
            threads: 1,
            extra_work_us: 0,
            corruption: None,
            gemm: Gemm::Builtin,
        }
    }
}

/// What a device says of itself, before anything runs on it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceIdentity {
    /// Name, as the driver spells it.
    pub name: String,
    /// Devices visible to this process.
    pub device_count: u32,
    /// `GPU-…` or `MIG-…`, from `cuDeviceGetUuid_v2`; none where it can't be asked.
    pub uuid: Option<String>,
    /// Multiprocessors; none on a CPU.
    pub sm_count: Option<u32>,
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Memory in bytes that is free now.
    pub free_bytes: Option<u64>,
    /// CUDA version of the driver, 1000 x major + 10 x minor.
    pub cuda_version: Option<i32>,
    /// The process is a client of an MPS server.
    pub mps: Option<bool>,
    /// The set of kernels it would use and the hash of their text.
    pub kernels: String,
    /// Version of the library that would compute matrix products, and how many of the network's, as `13.0.2
    /// (60 of 73)`; none where the kernels compute all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gemm_version: Option<String>,
}

impl DeviceIdentity {
    /// It is the tests' stand-in for a driver, which runs no kernels.
    pub fn is_stand_in(&self) -> bool {
        self.name.starts_with("STAND-IN")
    }
}

/// The three stages of one batch, by device events: trtexec's split of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stages {
    /// Input copy, host to device.
    pub h2d_ns: u64,
    /// Everything between the copies.
    pub compute_ns: u64,
    /// Output copy, device to host.
    pub d2h_ns: u64,
    /// Host time spent in issuing the batch, without waiting for it.
    pub enqueue_ns: u64,
}

/// Sees the result of an operation: its number, the buffer that it wrote, the sample, the values.
pub type Visit<'a> = dyn FnMut(usize, model::BufferId, usize, &[f32]) + 'a;

/// One batch, issued and waited for.
///
/// A lane owns its stream, graphs and buffers, so that batches of different lanes may be in flight
/// at once; one lane never has two.
pub trait Workload {
    /// Allocates and compiles all that batches of these sizes need on `lanes` lanes; after it,
    /// neither [`issue`](Workload::issue) nor [`wait`](Workload::wait) allocates on a GPU's host.
    ///
    /// # Errors
    /// Not enough memory (with the bytes needed and free), or the device refused.
    fn prepare(&mut self, batch_sizes: &[usize], lanes: usize) -> Result<()>;

    /// Starts a batch on an idle lane: input copy, network, output copy.
    fn issue(&mut self, lane: usize, batch: usize) -> Result<()>;

    /// Returns when the lane's batch is done and its output is on the host.
    fn wait(&mut self, lane: usize) -> Result<()>;

    /// Is the lane's batch done? Where a batch is computed by waiting for it, it is now.
    fn is_done(&mut self, lane: usize) -> Result<bool> {
        self.wait(lane).map(|()| true)
    }

    /// One whole batch with device events around its stages; `None` where a device has no stages.
    fn staged(&mut self, lane: usize, batch: usize) -> Result<Option<Stages>> {
        let _ = (lane, batch);
        Ok(None)
    }

    /// The clock of the device's multiprocessors as its own programs see it, in MHz; takes about a
    /// millisecond. None where a device has no such clock. No lane is busy.
    fn sm_clock_mhz(&mut self) -> Result<Option<f64>> {
        Ok(None)
    }

    /// Runs one batch on lane 0 operation by operation, with the kernels of an ordinary batch, each
    /// into outputs of NaN unless it keeps what is there, and shows what each operation left for each
    /// of `samples`, buffer by buffer: `visit(operation, buffer, sample, values)`, values as f32,
    /// row-major.
    fn trace(&mut self, batch: usize, samples: &[usize], visit: &mut Visit) -> Result<()> {
        let _ = (batch, samples, visit);
        Ok(())
    }

    /// Runs one batch on lane 0 after overwriting its output, on the device and on the host, with
    /// NaN, and returns that output as f32, row-major; `None` for a workload without output.
    ///
    /// An element that nothing wrote is NaN afterwards, and [`check`] never lets NaN pass.
    fn checked_output(&mut self, batch: usize) -> Result<Option<Vec<f32>>> {
        let _ = batch;
        Ok(None)
    }

    /// Its own judgement of the outputs before and after the window; `None` where [`check`] can judge,
    /// which knows migbench's networks.
    fn judge(&mut self, before: &[f32], after: &[f32]) -> Result<Option<check::Verdict>> {
        let _ = (before, after);
        Ok(None)
    }
}

/// A planted fault, for proving that the output check would find a real one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Corruption {
    /// The first tile ([`Corruption::TILE`] squared) of the middle [`model::Op::Linear`]'s weight is
    /// zero.
    ZeroTile,
    /// One weight of the last [`model::Op::Linear`] has its sign flipped: the largest of those that
    /// meet the largest input of the first row, since one behind a closed ReLU would change nothing.
    FlipWeight,
}

impl Corruption {
    /// The side of the tile: the smallest that a tensor core multiplies.
    pub const TILE: usize = 8;

    /// The operation whose weight is changed: its input, the first row that it reads of it, and its weight;
    /// none in a network without a linear layer.
    pub fn target(self, network: &model::Network) -> Option<(model::BufferId, usize, model::WeightId)> {
        let linear = |(index, op): (usize, &model::Op)| match *op {
            model::Op::Linear { x, first_row, weight, .. } => Some((index, x, first_row, weight)),
            _ => None,
        };
        let linears: Vec<_> = network.ops.iter().enumerate().filter_map(linear).collect();
        let chosen = match self {
            Corruption::ZeroTile => linears.get(linears.len() / 2),
            Corruption::FlipWeight => linears.last(),
        };
        let &(index, x, row, weight) = chosen?;
        // Of what a norm left, what it read: a device may keep the former to itself.
        let writer = network.ops[..index].iter().rev().find(|op| op.outs().any(|out| out == x));
        let read = if let Some(&model::Op::RmsNorm { x, .. }) = writer { x } else { x };
        Some((read, row, weight))
    }
}

/// What a workload will allocate, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Need {
    /// Of weights that are not there yet.
    pub(crate) weights: u64,
    /// Of one lane.
    pub(crate) lane: u64,
    /// Lanes.
    pub(crate) lanes: usize,
    /// Samples in a batch.
    pub(crate) batch: usize,
}

impl Need {
    /// All of it.
    pub(crate) fn total(&self) -> u64 {
        self.weights.saturating_add(self.lane.saturating_mul(self.lanes as u64))
    }

    /// Refuses what cannot fit, before anything is allocated.
    pub(crate) fn refuse_unless_it_fits(&self, name: &str, free: Option<u64>, place: &str) -> Result<()> {
        self.refuse_beyond(name, free, place, " free")
    }

    /// Refuses what cannot fit even an idle instance.
    pub(crate) fn refuse_unless_it_could_fit(&self, name: &str, all: u64, place: &str) -> Result<()> {
        self.refuse_beyond(name, Some(all), place, "")
    }

    fn refuse_beyond(&self, name: &str, room: Option<u64>, place: &str, free: &str) -> Result<()> {
        let Some(room) = room.filter(|&room| self.total() > room) else { return Ok(()) };
        let gb = |bytes: u64| format!("{:.1} GB", bytes as f64 / 1e9);
        if self.weights > room {
            anyhow::bail!(
                "{name} needs {} for its weights alone, {place} has {}{free}: choose a smaller network or a larger \
                 instance",
                gb(self.weights),
                gb(room)
            );
        }
        let advice = match (self.batch, self.lanes) {
            (0..=1, 0..=1) => "a smaller workload or a larger instance",
            (0..=1, _) => "a smaller --inflight",
            (_, 0..=1) => "a smaller --batch",
            _ => "a smaller --batch or --inflight",
        };
        let in_flight =
            if self.lanes > 1 { format!(" with {} in flight", self.lanes) } else { String::new() };
        anyhow::bail!(
            "{name} at batch {}{in_flight} needs {}, {place} has {}{free}: choose {advice}",
            self.batch,
            gb(self.total()),
            gb(room)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_fit_is_refused_with_both_sizes() {
        let refusal = |weights, lane, lanes, free| {
            let need = Need { weights, lane, lanes, batch: 8 };
            need.refuse_unless_it_fits("mlp", free, "the instance").err().map(|e| e.to_string())
        };
        assert_eq!(
            refusal(1_000_000_000, 5_100_000_000, 1, Some(4_600_000_000)).unwrap(),
            "mlp at batch 8 needs 6.1 GB, the instance has 4.6 GB free: choose a smaller --batch"
        );
        assert_eq!(
            refusal(16_100_000_000, 1, 1, Some(4_600_000_000)).unwrap(),
            "mlp needs 16.1 GB for its weights alone, the instance has 4.6 GB free: choose a smaller network \
             or a larger instance"
        );
        let two = refusal(0, 500_000_000, 2, Some(0)).unwrap();
        assert!(two.starts_with("mlp at batch 8 with 2 in flight needs 1.0 GB"), "{two}");
        assert!(two.ends_with("choose a smaller --batch or --inflight"), "{two}");
        let one = Need { weights: 0, lane: 2, lanes: 1, batch: 1 };
        let one = one.refuse_unless_it_could_fit("gemm", 1, "1g.18gb").unwrap_err().to_string();
        assert!(one.ends_with("1g.18gb has 0.0 GB: choose a smaller workload or a larger instance"), "{one}");
        assert_eq!(refusal(1, 4, 1, Some(5)), None);
        assert_eq!(refusal(u64::MAX, u64::MAX, 9, None), None, "unknown is not too little");
    }
}
