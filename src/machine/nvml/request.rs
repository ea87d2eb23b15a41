//! What the parent asks a helper process and what it answers: JSON, one line each.

use super::Reading;
use crate::machine::topology::{Gpu, Process};
use serde::{Deserialize, Serialize};

/// A question. The answer is a `Result<_, Absent>` of the type that is named.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Every GPU and MIG device: a `Topology`.
    Topology,
    /// Counters, state and processes of these GPUs: a [`Snapshot`] for each, in their order.
    Snapshot(Vec<Target>),
    /// The same without the processes, as often as the user likes: a [`Snapshot`] for each.
    Read(Vec<Target>),
    /// The processes of these GPUs: an `Option<Vec<Process>>` for each, in their order.
    Processes(Vec<Target>),
}

/// A GPU to read, as the topology described it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// NVML's index.
    pub index: u32,
    /// What the GPU of this index must still be called: indices may move when another process opens
    /// NVML after a GPU was lost.
    pub uuid: String,
    /// Its MIG devices.
    pub mig: Vec<MigTarget>,
}

/// A MIG device to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigTarget {
    /// NVML's index among the MIG devices of its GPU.
    pub index: u32,
    /// Its GPU instance.
    pub gi_id: Option<u32>,
    /// Compute instance id that the process list names; `None` for a whole GPU.
    pub ci_id: Option<u32>,
}

/// A GPU at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Just before it was read, in ns on CLOCK_MONOTONIC.
    pub at_ns: u64,
    /// Counters and state of the whole GPU at this moment.
    pub reading: Reading,
    /// Who computes on it; none where that can't be read.
    pub processes: Option<Vec<Process>>,
}

impl From<&Gpu> for Target {
    fn from(gpu: &Gpu) -> Target {
        let slots = gpu.mig_devices.iter().map(|mig| MigTarget {
            index: mig.index,
            gi_id: mig.gi_id,
            ci_id: mig.ci_id,
        });
        Target { index: gpu.index, uuid: gpu.uuid.clone(), mig: slots.collect() }
    }
}
