//! What can be measured: an instance, and finding one by name.

use super::topology::{Gpu, MigDevice, Topology};
use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What kind of thing a row is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InstanceKind {
    /// A MIG device.
    Mig,
    /// A whole GPU with MIG off.
    Gpu,
    /// The host's processors.
    #[default]
    Cpu,
}

/// One thing that can be measured: a row's subject.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// What it is.
    pub kind: InstanceKind,
    /// NVML's index of the GPU.
    pub gpu_index: Option<u32>,
    /// The GPU's or the processor's name.
    pub gpu_name: String,
    /// `GPU-…`.
    pub gpu_uuid: Option<String>,
    /// `MIG-…`.
    pub mig_uuid: Option<String>,
    /// GPU instance id.
    pub gi_id: Option<u32>,
    /// Compute instance id.
    pub ci_id: Option<u32>,
    /// MIG profile.
    pub profile: Option<String>,
    /// Multiprocessors.
    pub sm_count: Option<u32>,
    /// Memory in MiB.
    pub memory_mib: Option<u64>,
}

impl Topology {
    /// Everything that can be measured: the MIG devices of a GPU with MIG on, the GPU itself else.
    pub fn instances(&self) -> Vec<Instance> {
        self.gpus.iter().flat_map(Gpu::instances).collect()
    }

    /// The instance that `wanted` names: its UUID or any unique prefix of it, in any case, or the
    /// `MIG-GPU-<uuid>/<gi>/<ci>` of drivers before R470.
    ///
    /// # Errors
    /// Nothing or several things have that name, or it is a GPU that is cut into MIG devices; the
    /// message names what is there.
    pub fn find(&self, wanted: &str) -> Result<Instance> {
        if let Some(instance) =
            wanted.strip_prefix("MIG-GPU-").and_then(|rest| super::visible::old_mig_name(rest, self))
        {
            return Ok(instance);
        }
        let lower = wanted.to_ascii_lowercase();
        let instances = self.instances();
        let named =
            |i: &&Instance| i.uuid().is_some_and(|uuid| uuid.to_ascii_lowercase().starts_with(&lower));
        let found: Vec<&Instance> = instances.iter().filter(named).collect();
        let exact = found.iter().find(|i| i.uuid().is_some_and(|uuid| uuid.eq_ignore_ascii_case(wanted)));
        // `MIG-` alone is a prefix of everything and tells nothing apart.
        let prefix =
            lower.strip_prefix("mig-").or(lower.strip_prefix("gpu-")).is_some_and(|rest| !rest.is_empty());
        match (exact, &found[..]) {
            (Some(exact), _) => Ok((*exact).clone()),
            (None, [one]) if prefix => Ok((*one).clone()),
            (None, [_, _, ..]) if prefix => {
                bail!("'{wanted}' is not unique; it begins:\n{}", list(found.into_iter()))
            }
            _ => bail!("{}", self.not_found(wanted, &lower)),
        }
    }

    fn not_found(&self, wanted: &str, lower: &str) -> String {
        let cut = |gpu: &&Gpu| {
            lower.len() > 4
                && gpu.uuid.to_ascii_lowercase().starts_with(lower)
                && gpu.mig_enabled() == Some(true)
        };
        if let Some(gpu) = self.gpus.iter().find(cut) {
            let instances = gpu.instances();
            return if instances.is_empty() {
                format!(
                    "GPU {} has MIG on and no MIG device: CUDA cannot run on it.\n\
                     Create one, as root: nvidia-smi mig -i {} -lgip; nvidia-smi mig -i {} -cgi PROFILE -C",
                    gpu.uuid, gpu.index, gpu.index
                )
            } else {
                format!("GPU {} is cut into MIG devices: name one of\n{}", gpu.uuid, list(instances.iter()))
            };
        }
        let instances = self.instances();
        if instances.is_empty() {
            return format!("no GPU or MIG device '{wanted}': the driver shows none at all");
        }
        format!("no GPU or MIG device '{wanted}'; there is:\n{}", list(instances.iter()))
    }
}

fn list<'a>(instances: impl Iterator<Item = &'a Instance>) -> String {
    instances.map(|i| format!("  {i}")).collect::<Vec<_>>().join("\n")
}

/// No card can be cut into more instances.
const MOST_INSTANCES: usize = 7;

impl Gpu {
    /// The most instances that the card can be cut into, with MIG on or off; 1 where it knows no MIG.
    pub fn largest_layout(&self) -> usize {
        let offered = self.profiles.iter().filter_map(|profile| profile.max).max();
        // NVML counts 0 with MIG off.
        let counted = self.mig_devices_max.filter(|&max| max > 0);
        let knows_mig = self.mig_mode.is_some() || !self.mig_devices.is_empty();
        let known = offered.or(counted).map(|count| (count as usize).clamp(1, MOST_INSTANCES));
        known.unwrap_or(if knows_mig { MOST_INSTANCES } else { 1 }).max(self.mig_devices.len())
    }

    /// See [`Topology::instances`]. What has no UUID can't be pinned to, so it is no instance.
    pub fn instances(&self) -> Vec<Instance> {
        if self.uuid.is_empty() {
            return Vec::new();
        }
        if self.mig_enabled() == Some(true) || !self.mig_devices.is_empty() {
            let named = self.mig_devices.iter().filter(|mig| !mig.uuid.is_empty());
            return named.map(|mig| self.instance(Some(mig))).collect();
        }
        vec![self.instance(None)]
    }

    /// This GPU, or one of its MIG devices.
    pub fn instance(&self, mig: Option<&MigDevice>) -> Instance {
        Instance {
            kind: if mig.is_some() { InstanceKind::Mig } else { InstanceKind::Gpu },
            gpu_index: Some(self.index),
            gpu_name: self.name.clone(),
            gpu_uuid: Some(self.uuid.clone()),
            mig_uuid: mig.map(|m| m.uuid.clone()),
            gi_id: mig.and_then(|m| m.gi_id),
            ci_id: mig.and_then(|m| m.ci_id),
            profile: mig.and_then(|m| m.profile.clone()),
            sm_count: mig.and_then(|m| m.sm_count),
            memory_mib: if let Some(mig) = mig { mig.memory_mib } else { self.memory_mib },
        }
    }
}

impl Instance {
    /// The host's processors as something to measure.
    pub fn cpu(cores: usize) -> Instance {
        Instance {
            kind: InstanceKind::Cpu,
            gpu_index: None,
            gpu_name: super::host::cpu_name(),
            gpu_uuid: None,
            mig_uuid: None,
            gi_id: None,
            ci_id: None,
            profile: Some(format!("{cores} cores")),
            sm_count: None,
            memory_mib: super::host::total_memory_bytes().map(|bytes| bytes >> 20),
        }
    }

    /// What CUDA_VISIBLE_DEVICES must say to see this and nothing else.
    pub fn uuid(&self) -> Option<&str> {
        self.mig_uuid.as_deref().or(self.gpu_uuid.as_deref())
    }

    /// Profile, or name of a whole GPU.
    pub fn label(&self) -> &str {
        match self.kind {
            InstanceKind::Mig => self.profile.as_deref().unwrap_or("MIG device"),
            InstanceKind::Gpu | InstanceKind::Cpu => &self.gpu_name,
        }
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match (self.kind, self.uuid(), self.gpu_index) {
            (InstanceKind::Mig, Some(uuid), Some(gpu)) => write!(f, "{uuid}  {} on GPU {gpu}", self.label()),
            (_, Some(uuid), _) => write!(f, "{uuid}  {}", self.label()),
            _ => f.write_str(self.label()),
        }
    }
}

impl fmt::Display for InstanceKind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            InstanceKind::Mig => "mig",
            InstanceKind::Gpu => "gpu",
            InstanceKind::Cpu => "cpu",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::topology::tests::mixed;
    use super::*;

    #[test]
    fn a_gpu_with_mig_on_is_its_mig_devices() {
        let instances = mixed().instances();
        let labels: Vec<_> = instances.iter().map(Instance::label).collect();
        assert_eq!(labels, ["NVIDIA H100 80GB HBM3", "3g.40gb", "1g.10gb"]);
    }

    #[test]
    fn a_unique_prefix_is_enough() {
        let topology = mixed();
        assert_eq!(topology.find("MIG-11112").unwrap().profile.as_deref(), Some("1g.10gb"));
        assert_eq!(topology.find("gpu-AAAAa").unwrap().gpu_index, Some(0));
        assert_eq!(topology.find("MIG-11111111-0000-5000-8000-000000000001").unwrap().gi_id, Some(1));
        let old = topology.find("MIG-GPU-aaaabbbb-0000-4000-8000-000000000001/9/0").unwrap();
        assert_eq!(old.profile.as_deref(), Some("1g.10gb"));
    }

    #[test]
    fn what_is_not_there_is_answered_with_what_is() {
        let message = |wanted: &str| mixed().find(wanted).unwrap_err().to_string();
        assert!(message("MIG-9").starts_with("no GPU or MIG device 'MIG-9'; there is:\n  GPU-aaaaaaaa"));
        assert!(message("MIG-1111").starts_with("'MIG-1111' is not unique; it begins:\n  MIG-11111111"));
        assert!(message("MIG-").starts_with("no GPU or MIG device"));
        assert!(message("").starts_with("no GPU or MIG device ''"));
        assert!(message("GPU-aaaab").contains("is cut into MIG devices: name one of\n  MIG-11111111"));
        assert!(message("GPU-cc").contains("has MIG on and no MIG device"));
        assert_eq!(
            Topology::default().find("MIG-1").unwrap_err().to_string(),
            "no GPU or MIG device 'MIG-1': the driver shows none at all"
        );
    }
}
