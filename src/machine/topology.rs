//! GPUs and MIG devices as plain data, and their JSON form. No file, no library is opened here.

use super::profile::ProfileName;
use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

/// The form of the JSON; another number is refused by name.
pub const SCHEMA: &str = "migbench-topology/1";

/// Fields that could not be read, by their name in the JSON, and why. An NVML code comes first:
/// `NVML 4: no permission`.
pub type Unread = BTreeMap<String, String>;

/// Where a topology comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The driver.
    #[default]
    Nvml,
    /// The text of `nvidia-smi -L`, which holds names and UUIDs only.
    NvidiaSmi,
}

/// What is known of a machine's GPUs. An empty field could not be read; `unread` says why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Topology {
    /// [`SCHEMA`].
    pub schema: String,
    /// Who said it.
    #[serde(default)]
    pub source: Source,
    /// Driver version, as `580.159.03`.
    #[serde(default)]
    pub driver_version: Option<String>,
    /// CUDA version of the driver, as `13.0`.
    #[serde(default)]
    pub cuda_version: Option<String>,
    /// Version of the NVML library, as `13.580.159.03`.
    #[serde(default)]
    pub nvml_version: Option<String>,
    /// In NVML's order.
    #[serde(default)]
    pub gpus: Vec<Gpu>,
    /// What could not be read.
    #[serde(default, skip_serializing_if = "Unread::is_empty")]
    pub unread: Unread,
}

impl Default for Topology {
    fn default() -> Topology {
        Topology {
            schema: SCHEMA.to_owned(),
            source: Source::Nvml,
            driver_version: None,
            cuda_version: None,
            nvml_version: None,
            gpus: Vec::new(),
            unread: Unread::new(),
        }
    }
}

/// One physical GPU.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Gpu {
    /// NVML's index.
    pub index: u32,
    /// The number in `/dev/nvidia0` and in the capability paths; need not be the index.
    pub minor: Option<u32>,
    /// `GPU-…`; empty where the GPU does not answer.
    pub uuid: String,
    /// Name, as `NVIDIA H200`.
    pub name: String,
    /// As `00000000:07:00.0`.
    pub pci_bus_id: Option<String>,
    /// Board serial number.
    pub serial: Option<String>,
    /// VBIOS version.
    pub vbios: Option<String>,
    /// Memory in MiB.
    pub memory_mib: Option<u64>,
    /// Is MIG on? None where the card knows no MIG.
    pub mig_mode: Option<Mode>,
    /// The most MIG devices there can be; 0 with MIG off.
    pub mig_devices_max: Option<u32>,
    /// Error correction of the memory.
    pub ecc: Option<Mode>,
    /// Power limit in force, in mW.
    pub power_limit_mw: Option<u32>,
    /// Power limit from the factory, in mW.
    pub power_limit_default_mw: Option<u32>,
    /// The link to the host.
    pub pcie: Pcie,
    /// NUMA node of the host that the card is attached to.
    pub numa_node: Option<u32>,
    /// `default`, `exclusive-process`, `prohibited`.
    pub compute_mode: Option<String>,
    /// Does the driver stay loaded without a user?
    pub persistence: Option<bool>,
    /// Rows of memory that were replaced.
    pub remapped_rows: Option<RemappedRows>,
    /// In MHz.
    pub clocks: Clocks,
    /// What holds the clocks down now, as NVML's bits.
    pub throttle_reasons: Option<u64>,
    /// Who computes on it, MIG devices included.
    pub processes: Option<Vec<Process>>,
    /// The GPU instance profiles that the card offers, in the driver's order.
    pub profiles: Vec<Profile>,
    /// GPU instances, those without a compute instance included; readable with privileges only.
    pub gpu_instances: Option<Vec<GpuInstance>>,
    /// In the order of their index.
    pub mig_devices: Vec<MigDevice>,
    /// What could not be read.
    #[serde(skip_serializing_if = "Unread::is_empty")]
    pub unread: Unread,
}

/// Something that is switched, perhaps only after the next reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mode {
    /// In force.
    pub current: bool,
    /// In force after the next reset or reboot.
    pub pending: bool,
}

/// The link to the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Pcie {
    pub generation: Option<u32>,
    pub generation_max: Option<u32>,
    pub width: Option<u32>,
    pub width_max: Option<u32>,
}

/// Rows of memory that were replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemappedRows {
    /// After correctable errors.
    pub correctable: u32,
    /// After uncorrectable errors.
    pub uncorrectable: u32,
    /// One is to be replaced at the next reset.
    pub pending: bool,
    /// One could not be replaced.
    pub failure: bool,
}

/// Clocks in MHz.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Clocks {
    pub sm: Option<u32>,
    pub sm_max: Option<u32>,
    pub sm_application: Option<u32>,
    pub memory: Option<u32>,
    pub memory_max: Option<u32>,
}

/// A process with a context.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    /// In the driver's PID namespace; 0 where a container hides it.
    pub pid: u32,
    /// GPU instance that it runs in.
    pub gi_id: Option<u32>,
    /// Compute instance that it runs in.
    pub ci_id: Option<u32>,
    /// Memory it has taken.
    pub memory_mib: Option<u64>,
}

/// Fixed-function units, shared by the compute instances of one GPU instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Engines {
    pub copy: u32,
    pub decoder: u32,
    pub encoder: u32,
    pub jpeg: u32,
    pub ofa: u32,
}

/// A kind of GPU instance that a card offers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Profile {
    /// The number in NVML's enumeration (`NVML_GPU_INSTANCE_PROFILE_…`).
    pub number: Option<u32>,
    /// The numeric id that `nvidia-smi mig -cgi` takes. Means different things on different cards.
    pub id: u32,
    /// As `1g.10gb+me`; drivers before R530 or so do not say it.
    pub name: Option<String>,
    /// Compute slices.
    pub slices: Option<u32>,
    /// The most there can be of it.
    pub max: Option<u32>,
    /// How many more there can be now.
    pub free: Option<u32>,
    /// Multiprocessors. Not a multiple of the slices.
    pub sm_count: Option<u32>,
    /// Memory in MiB.
    pub memory_mib: Option<u64>,
    /// Fixed-function units.
    pub engines: Option<Engines>,
    /// Where it may lie.
    pub placements: Option<Placements>,
    /// Where these numbers come from, if not from the driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// What could not be read.
    #[serde(skip_serializing_if = "Unread::is_empty")]
    pub unread: Unread,
}

/// A range of memory slices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Placement {
    /// First slice.
    pub start: u32,
    /// Number of slices.
    pub size: u32,
}

/// All places of a profile; written `{0,4}:4` as `nvidia-smi mig -lgipp` does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Placements(pub Vec<Placement>);

/// A GPU instance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GpuInstance {
    /// Its id.
    pub id: u32,
    /// Numeric profile id.
    pub profile_id: Option<u32>,
    /// Where it lies.
    pub placement: Option<Placement>,
}

/// One MIG device: a compute instance of a GPU instance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MigDevice {
    /// NVML's index on this GPU. Shifts when an instance with a lower id goes: nothing to key on.
    pub index: u32,
    /// `MIG-…`.
    pub uuid: String,
    /// GPU instance id.
    pub gi_id: Option<u32>,
    /// Compute instance id.
    pub ci_id: Option<u32>,
    /// Numeric profile id of the GPU instance; looked up by its name where the driver refuses it.
    pub gi_profile_id: Option<u32>,
    /// Numeric profile id of the compute instance.
    pub ci_profile_id: Option<u32>,
    /// As the driver spells it, as `3g.40gb` or `1c.3g.40gb`.
    pub profile: Option<String>,
    /// Memory slices of the GPU instance.
    pub placement: Option<Placement>,
    /// Compute slices of the compute instance within its GPU instance.
    pub ci_placement: Option<Placement>,
    /// Multiprocessors.
    pub sm_count: Option<u32>,
    /// Memory in MiB.
    pub memory_mib: Option<u64>,
    /// Fixed-function units, shared within the GPU instance.
    pub engines: Option<Engines>,
    /// What could not be read.
    #[serde(skip_serializing_if = "Unread::is_empty")]
    pub unread: Unread,
}

impl Topology {
    /// Reads the JSON form.
    ///
    /// # Errors
    /// Not a topology, or one of another schema.
    pub fn from_json(text: &str) -> Result<Topology> {
        #[derive(Deserialize)]
        struct Version {
            schema: String,
        }
        let version: Version = match serde_json::from_str(text) {
            Ok(version) => version,
            Err(error) => bail!("not a topology of migbench: {error}"),
        };
        if version.schema != SCHEMA {
            bail!("its schema is '{}', this migbench reads '{SCHEMA}'", version.schema);
        }
        Ok(serde_json::from_str(text)?)
    }

    /// What is there twice and can be there only once, in words: the index of a GPU, or of a MIG
    /// device on it, or a UUID.
    pub fn listed_twice(&self) -> Option<String> {
        let mut seen: BTreeMap<String, String> = BTreeMap::new();
        let mut again = |key: String, what: &str, place: &str| {
            let before = seen.insert(key, place.to_owned())?;
            Some(format!("{what} is listed twice, as {before} and as {place}"))
        };
        for (at, gpu) in self.gpus.iter().enumerate() {
            let place = format!("gpus[{at}]");
            let index = again(format!("index {}", gpu.index), &format!("GPU {}", gpu.index), &place);
            let mut uuid = |uuid: &str, place: &str| {
                (!uuid.is_empty()).then(|| again(uuid.to_ascii_lowercase(), uuid, place)).flatten()
            };
            let mut twice = index.or_else(|| uuid(&gpu.uuid, &place));
            for (at, mig) in gpu.mig_devices.iter().enumerate() {
                twice = twice.or_else(|| uuid(&mig.uuid, &format!("{place}.mig_devices[{at}]")));
                let same = |other: &MigDevice| other.index == mig.index;
                let before = gpu.mig_devices[..at].iter().position(same);
                twice = twice.or_else(|| {
                    let (device, before) = (format!("Device {} of GPU {}", mig.index, gpu.index), before?);
                    Some(format!(
                        "{device} is listed twice, as mig_devices[{before}] and as mig_devices[{at}]"
                    ))
                });
            }
            if twice.is_some() {
                return twice;
            }
        }
        None
    }

    /// The first number of the driver's version.
    pub fn driver_major(&self) -> Option<u32> {
        self.driver_version.as_deref()?.split('.').next()?.parse().ok()
    }
}

impl Gpu {
    /// Is MIG on now? None where the card knows no MIG, or nobody says.
    pub fn mig_enabled(&self) -> Option<bool> {
        self.mig_mode.map(|mode| mode.current)
    }

    /// The other MIG devices in the same GPU instance: they share memory, L2 and copy engines.
    pub fn siblings<'a>(&'a self, mig: &'a MigDevice) -> impl Iterator<Item = &'a MigDevice> {
        self.mig_devices
            .iter()
            .filter(move |other| mig.gi_id.is_some() && other.gi_id == mig.gi_id && other.ci_id != mig.ci_id)
    }

    /// Does this process see every MIG device that there can be on this GPU, and so everybody who may
    /// compute on it?
    ///
    /// A container or job is shown its own MIG devices only, and without the privilege to list the GPU
    /// instances nothing says that there are others. All are seen where the listed GPU instances each
    /// have a MIG device here, or where those that are here take all compute slices or all of the
    /// memory.
    pub fn shows_all_mig_devices(&self) -> bool {
        let unreadable = |field: &str| field == "mig_mode" || field.starts_with("mig_devices");
        if self.mig_mode.is_none() {
            // NVML 3: the card knows no MIG.
            return self.unread.get("mig_mode").is_none_or(|why| why.starts_with("NVML 3:"));
        }
        if self.mig_enabled() == Some(false) && self.mig_devices.is_empty() {
            return true;
        }
        if self.unread.keys().any(|field| unreadable(field)) {
            return false;
        }
        let seen: BTreeSet<u32> = self.mig_devices.iter().filter_map(|mig| mig.gi_id).collect();
        if let Some(instances) = &self.gpu_instances {
            return instances.iter().all(|instance| seen.contains(&instance.id));
        }
        if self.unread.keys().any(|field| field.starts_with("profiles")) {
            return false;
        }
        let mut slices = 0;
        let mut memory_mib = 0;
        for gi in &seen {
            let device = self.mig_devices.iter().find(|mig| mig.gi_id == Some(*gi));
            let name = device.and_then(|mig| mig.profile.as_deref()?.parse::<ProfileName>().ok());
            slices += name.map_or(0, |name| name.gi_slices);
            memory_mib += device.and_then(|mig| mig.memory_mib).unwrap_or(0);
        }
        let most = |of: fn(&Profile) -> Option<u64>| self.profiles.iter().filter_map(of).max();
        most(|p| p.slices.map(u64::from)).is_some_and(|all| u64::from(slices) >= all)
            // Rounding leaves two halves a little short of the whole.
            || most(|p| p.memory_mib).is_some_and(|all| memory_mib > 0 && memory_mib * 100 >= all * 98)
    }

    /// Processes in this MIG device.
    pub fn processes_of<'a>(&'a self, mig: &'a MigDevice) -> impl Iterator<Item = &'a Process> {
        let here = move |p: &&Process| p.gi_id == mig.gi_id && p.ci_id == mig.ci_id && p.gi_id.is_some();
        self.processes.iter().flatten().filter(here)
    }

    /// The offered profile that a MIG device's GPU instance is of, by its name.
    pub fn profile_named(&self, name: &str) -> Option<&Profile> {
        let wanted = name.parse::<ProfileName>().ok()?.of_gpu_instance();
        let same = |p: &&Profile| p.name.as_deref().and_then(|n| n.parse().ok()) == Some(wanted.clone());
        self.profiles.iter().find(same)
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}:{}", self.start, self.size)
    }
}

impl fmt::Display for Placements {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut rest = &self.0[..];
        while let Some(first) = rest.first() {
            let same = rest.iter().take_while(|p| p.size == first.size).count();
            let starts: Vec<String> = rest[..same].iter().map(|p| p.start.to_string()).collect();
            let gap = if rest.len() == self.0.len() { "" } else { " " };
            write!(f, "{gap}{{{}}}:{}", starts.join(","), first.size)?;
            rest = &rest[same..];
        }
        Ok(())
    }
}

impl FromStr for Placements {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Placements> {
        let group = |group: &str| -> Option<Vec<Placement>> {
            let (starts, size) = group.strip_prefix('{')?.split_once("}:")?;
            let size = size.parse().ok()?;
            let place = |start: &str| Some(Placement { start: start.trim().parse().ok()?, size });
            starts.split(',').map(place).collect()
        };
        let groups: Option<Vec<_>> = text.split_whitespace().map(group).collect();
        match groups {
            Some(groups) => Ok(Placements(groups.concat())),
            None => bail!("'{text}' is no list of placements: expected one like {{0,4}}:4"),
        }
    }
}

impl From<Placements> for String {
    fn from(placements: Placements) -> String {
        placements.to_string()
    }
}

impl TryFrom<String> for Placements {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Placements> {
        text.parse()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// GPU 0 with MIG off, GPU 1 cut into 3g and 1g, GPU 2 with MIG on and empty.
    pub(crate) fn mixed() -> Topology {
        let mig = |index, uuid: &str, gi, profile: &str, sm| MigDevice {
            index,
            uuid: uuid.into(),
            gi_id: Some(gi),
            ci_id: Some(0),
            profile: Some(profile.into()),
            sm_count: Some(sm),
            memory_mib: Some(9984),
            ..MigDevice::default()
        };
        let gpu = |index, uuid: &str, mig_enabled, mig_devices| Gpu {
            index,
            uuid: uuid.into(),
            name: "NVIDIA H100 80GB HBM3".into(),
            memory_mib: Some(81559),
            mig_mode: Some(Mode { current: mig_enabled, pending: mig_enabled }),
            mig_devices,
            ..Gpu::default()
        };
        Topology {
            driver_version: Some("580.65.06".into()),
            cuda_version: Some("13.0".into()),
            gpus: vec![
                gpu(0, "GPU-aaaaaaaa-0000-4000-8000-000000000000", false, vec![]),
                gpu(
                    1,
                    "GPU-aaaabbbb-0000-4000-8000-000000000001",
                    true,
                    vec![
                        mig(0, "MIG-11111111-0000-5000-8000-000000000001", 1, "3g.40gb", 60),
                        mig(1, "MIG-11112222-0000-5000-8000-000000000002", 9, "1g.10gb", 16),
                    ],
                ),
                gpu(2, "GPU-cccccccc-0000-4000-8000-000000000002", true, vec![]),
            ],
            ..Topology::default()
        }
    }

    #[test]
    fn json_comes_back_as_it_was() {
        let mut topology = mixed();
        topology.gpus[1].unread.insert("gpu_instances".into(), "NVML 4: no permission".into());
        let text = serde_json::to_string(&topology).unwrap();
        assert_eq!(Topology::from_json(&text).unwrap(), topology);
        assert_eq!(topology.driver_major(), Some(580));
    }

    #[test]
    fn another_schema_is_refused_by_name() {
        let error = Topology::from_json("{\"schema\":\"migbench-topology/2\"}").unwrap_err().to_string();
        assert_eq!(error, "its schema is 'migbench-topology/2', this migbench reads 'migbench-topology/1'");
        assert!(Topology::from_json("[]").is_err() && Topology::from_json("").is_err());
    }

    #[test]
    fn what_is_there_twice_is_named_with_both_places() {
        let twice = |change: fn(&mut Topology)| {
            let mut topology = mixed();
            change(&mut topology);
            topology.listed_twice()
        };
        assert_eq!(twice(|_| {}), None);
        assert_eq!(
            twice(|t| t.gpus[2].index = 0).unwrap(),
            "GPU 0 is listed twice, as gpus[0] and as gpus[2]"
        );
        assert_eq!(
            twice(|t| t.gpus[2].uuid = t.gpus[0].uuid.to_uppercase()).unwrap(),
            "GPU-AAAAAAAA-0000-4000-8000-000000000000 is listed twice, as gpus[0] and as gpus[2]"
        );
        assert_eq!(
            twice(|t| t.gpus[1].mig_devices[1].uuid = t.gpus[1].mig_devices[0].uuid.clone()).unwrap(),
            "MIG-11111111-0000-5000-8000-000000000001 is listed twice, as gpus[1].mig_devices[0] and as \
             gpus[1].mig_devices[1]"
        );
        assert_eq!(
            twice(|t| t.gpus[1].mig_devices[1].index = 0).unwrap(),
            "Device 0 of GPU 1 is listed twice, as mig_devices[0] and as mig_devices[1]"
        );
        assert_eq!(
            twice(|t| (t.gpus[1].uuid, t.gpus[2].uuid) = Default::default()),
            None,
            "two that are lost"
        );
    }

    #[test]
    fn placements_are_written_as_nvidia_smi_does() {
        for text in ["{0,1,2,3,4,5,6}:1", "{0}:8", "", "{0,4}:4 {2}:2"] {
            assert_eq!(text.parse::<Placements>().unwrap().to_string(), text);
        }
        for text in ["{}:1", "{0}", "{0}:", "0:1", "{a}:1", "{0}:1}"] {
            assert!(text.parse::<Placements>().is_err(), "{text}");
        }
    }

    #[test]
    fn all_mig_devices_are_seen_only_where_that_can_be_told() {
        let mig = |gi: u32, profile: &str, mib| MigDevice {
            index: gi,
            gi_id: Some(gi),
            ci_id: Some(0),
            profile: Some(profile.into()),
            memory_mib: Some(mib),
            ..MigDevice::default()
        };
        let offered =
            |slices, mib| Profile { slices: Some(slices), memory_mib: Some(mib), ..Profile::default() };
        let cut = |mig_devices: Vec<MigDevice>, listed: Option<&[u32]>| Gpu {
            mig_mode: Some(Mode { current: true, pending: true }),
            profiles: vec![offered(1, 16_384), offered(3, 71_424), offered(7, 143_360)],
            gpu_instances: listed
                .map(|ids| ids.iter().map(|&id| GpuInstance { id, ..GpuInstance::default() }).collect()),
            mig_devices,
            ..Gpu::default()
        };
        let halves = || vec![mig(1, "3g.71gb", 71_424), mig(2, "3g.71gb", 71_424)];
        let sevenths: Vec<MigDevice> = (7..14).map(|gi| mig(gi, "1g.18gb", 16_384)).collect();
        // Who may list the GPU instances knows.
        assert!(cut(halves(), Some(&[1, 2])).shows_all_mig_devices());
        assert!(!cut(halves(), Some(&[1, 2, 9])).shows_all_mig_devices());
        // Who may not knows it of a full GPU only.
        assert!(cut(halves(), None).shows_all_mig_devices());
        assert!(cut(sevenths.clone(), None).shows_all_mig_devices());
        assert!(!cut(sevenths[1..].to_vec(), None).shows_all_mig_devices());
        assert!(!cut(halves()[1..].to_vec(), None).shows_all_mig_devices());
        assert!(!cut(vec![], None).shows_all_mig_devices());
        let part = vec![mig(1, "1c.3g.71gb", 71_424), mig(1, "2c.3g.71gb", 71_424)];
        assert!(!cut(part, None).shows_all_mig_devices(), "two compute instances of one half");
        let mut refused = cut(halves(), Some(&[1, 2]));
        refused.unread.insert("mig_devices.2".into(), "NVML 4: no permission".into());
        assert!(!refused.shows_all_mig_devices());
        // A whole GPU has no MIG devices to hide.
        assert!(mixed().gpus[0].shows_all_mig_devices());
        let mut no_mig = Gpu::default();
        no_mig.unread.insert("mig_mode".into(), "NVML 3: not supported".into());
        assert!(no_mig.shows_all_mig_devices());
        no_mig.unread.insert("mig_mode".into(), "NVML 4: no permission".into());
        assert!(!no_mig.shows_all_mig_devices());
    }

    #[test]
    fn siblings_share_the_gpu_instance() {
        let mig = |gi, ci| MigDevice { gi_id: Some(gi), ci_id: Some(ci), ..MigDevice::default() };
        let gpu = Gpu { mig_devices: vec![mig(1, 0), mig(1, 1), mig(2, 0)], ..Gpu::default() };
        assert_eq!(gpu.siblings(&gpu.mig_devices[0]).collect::<Vec<_>>(), [&gpu.mig_devices[1]]);
        assert_eq!(gpu.siblings(&gpu.mig_devices[2]).count(), 0);
    }
}
