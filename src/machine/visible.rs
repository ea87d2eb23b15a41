//! CUDA_VISIBLE_DEVICES as the driver reads it.
//!
//! Sources: CUDA programming guide, environment variables; MIG user guide, "CUDA Device
//! Enumeration"; and what an H200 with driver 580 did with each spelling.

use super::instance::{Instance, InstanceKind};
use super::topology::{Gpu, Topology};
use std::fmt;

/// What an inherited CUDA_VISIBLE_DEVICES leaves to be seen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scope {
    /// The instances that may be used, in the variable's order.
    pub instances: Vec<Instance>,
    /// The first entry that CUDA does not take.
    pub refused: Option<Refused>,
}

/// An entry of the variable that CUDA does not take.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    /// The entry.
    pub token: String,
    /// Why.
    pub why: Why,
    /// The entries that are hidden with it although they may be right.
    pub hidden: Vec<String>,
}

/// Why CUDA does not take an entry.
#[derive(Clone, Debug, PartialEq)]
pub enum Why {
    /// There is no such device; in words.
    NoSuch(String),
    /// It begins the UUIDs of several devices, which are these.
    NotUnique(Vec<String>),
    /// Nothing stands between two commas, or in front of the first or behind the last.
    Empty,
    /// A GPU with MIG on and without a MIG device, by its index.
    NoInstance(u32),
    /// A GPU that does not answer, by its index.
    Lost(u32),
    /// This other entry names the same.
    Twice(String),
    /// This other entry names a part of it, or the GPU that it is a part of.
    PartAndWhole(String),
}

impl Why {
    /// Does CUDA refuse the whole list for it, rather than this entry and all after it?
    fn refuses_all(&self) -> bool {
        matches!(self, Why::Twice(_) | Why::PartAndWhole(_))
    }
}

impl fmt::Display for Refused {
    /// A sentence without its end.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let token = &self.token;
        match &self.why {
            Why::NoSuch(why) => write!(f, "'{token}' {why}")?,
            Why::NotUnique(all) => {
                write!(f, "'{token}' is not unique: it begins {}", all.join(" and "))?;
            }
            Why::Empty => f.write_str("it has an empty entry")?,
            Why::NoInstance(gpu) => {
                write!(f, "'{token}' is GPU {gpu}, which has MIG on and no MIG device")?;
            }
            Why::Lost(gpu) => write!(f, "'{token}' is GPU {gpu}, which does not answer")?,
            Why::Twice(other) if other == token => write!(f, "'{token}' is named twice")?,
            Why::Twice(other) => write!(f, "'{token}' names the same as '{other}'")?,
            Why::PartAndWhole(other) => {
                write!(f, "'{token}' and '{other}' name a GPU and a part of it")?;
            }
        }
        match (self.why.refuses_all(), self.hidden.is_empty()) {
            (true, _) => f.write_str(", so that CUDA refuses the whole list (error 101)"),
            (false, true) => Ok(()),
            (false, false) => f.write_str(", and hides all after it"),
        }
    }
}

/// Resolves the variable's value entry by entry. Whitespace around entries is ignored, a duplicate
/// makes the driver refuse everything.
///
/// An index means a GPU in PCI order here, where the driver's default is "fastest first": the two
/// agree on machines with one kind of GPU. On a GPU with MIG on, the GPU's own index or UUID stands
/// for its MIG devices, of which a process before R570 sees one: which one is the worker's choice,
/// since each worker gets one UUID.
pub fn resolve(value: &str, topology: &Topology) -> Scope {
    if value.trim().is_empty() {
        return Scope::default();
    }
    let tokens: Vec<&str> = value.split(',').map(str::trim).collect();
    let owned = |tokens: &[&str]| tokens.iter().map(|&token| token.to_owned()).collect();
    let mut named: Vec<(&str, Vec<Instance>)> = Vec::new();
    let mut refused = None;
    for (at, &token) in tokens.iter().enumerate() {
        let found = match resolve_token(token, topology) {
            Ok(found) => found,
            Err(why) => {
                refused = Some(Refused { token: token.to_owned(), why, hidden: owned(&tokens[at + 1..]) });
                break;
            }
        };
        let shares = |(_, other): &&(&str, Vec<Instance>)| other.iter().any(|i| found.contains(i));
        if let Some((other, same)) = named.iter().find(shares) {
            let other = (*other).to_owned();
            let why = if *same == found { Why::Twice(other) } else { Why::PartAndWhole(other) };
            let mut hidden = tokens.clone();
            hidden.remove(at);
            let refused = Refused { token: token.to_owned(), why, hidden: owned(&hidden) };
            return Scope { instances: Vec::new(), refused: Some(refused) };
        }
        named.push((token, found));
    }
    Scope { instances: named.into_iter().flat_map(|(_, found)| found).collect(), refused }
}

/// Each entry up to the first that names nothing, with what it names.
pub fn tokens(value: &str, topology: &Topology) -> Vec<(String, Vec<Instance>)> {
    let tokens = value.split(',').map(str::trim);
    tokens.map_while(|token| Some((token.to_owned(), resolve_token(token, topology).ok()?))).collect()
}

/// At least one instance.
fn resolve_token(token: &str, topology: &Topology) -> Result<Vec<Instance>, Why> {
    if token.is_empty() {
        return Err(Why::Empty);
    }
    if let Ok(index) = token.parse::<u32>() {
        let gpu = topology.gpus.iter().find(|gpu| gpu.index == index);
        return gpu.map_or_else(|| Err(no_such_index(topology)), usable);
    }
    if let Some(old) = token.strip_prefix("MIG-GPU-") {
        return match old_mig_name(old, topology) {
            Some(instance) => Ok(vec![instance]),
            None if !old.contains('/') => {
                Err(Why::NoSuch("lacks the instance: it is MIG-GPU-<UUID>/<GI>/<CI>".to_owned()))
            }
            None => Err(Why::NoSuch("names no MIG device of this machine".to_owned())),
        };
    }
    if token.len() > 4 && token.starts_with("GPU-") {
        let gpus = topology.gpus.iter().filter(|gpu| gpu.uuid.starts_with(token)).collect::<Vec<_>>();
        return match gpus[..] {
            [] => Err(Why::NoSuch("names no GPU of this machine".to_owned())),
            [gpu] => usable(gpu),
            _ => Err(Why::NotUnique(gpus.iter().map(|gpu| gpu.uuid.clone()).collect())),
        };
    }
    if token.len() > 4 && token.starts_with("MIG-") {
        let named = |i: &Instance| i.mig_uuid.as_deref().is_some_and(|uuid| uuid.starts_with(token));
        let found: Vec<Instance> = topology.instances().into_iter().filter(named).collect();
        return match found.len() {
            0 => Err(Why::NoSuch("names no MIG device of this machine".to_owned())),
            1 => Ok(found),
            _ => Err(Why::NotUnique(found.into_iter().filter_map(|i| i.mig_uuid).collect())),
        };
    }
    Err(Why::NoSuch(no_form(token, topology)))
}

/// What can be measured of a GPU.
fn usable(gpu: &Gpu) -> Result<Vec<Instance>, Why> {
    let instances = gpu.instances();
    match instances.is_empty() {
        false => Ok(instances),
        true if gpu.uuid.is_empty() => Err(Why::Lost(gpu.index)),
        true => Err(Why::NoInstance(gpu.index)),
    }
}

fn no_such_index(topology: &Topology) -> Why {
    let indices: Vec<String> = topology.gpus.iter().map(|gpu| gpu.index.to_string()).collect();
    Why::NoSuch(match &indices[..] {
        [] => "is the index of no GPU: there is none".to_owned(),
        [only] => format!("is the index of no GPU: there is GPU {only}"),
        many => format!("is the index of no GPU: there are {}", many.join(", ")),
    })
}

/// Why a word that is no form of CUDA's may stand there.
fn no_form(token: &str, topology: &Topology) -> String {
    let container_form = token.split_once(':').and_then(|(gpu, device)| {
        let (gpu, device): (u32, u32) = (gpu.parse().ok()?, device.parse().ok()?);
        let gpu = topology.gpus.iter().find(|other| other.index == gpu)?;
        gpu.mig_devices.iter().find(|mig| mig.index == device)
    });
    let prefix = token.get(..4).unwrap_or_default();
    match (container_form, token) {
        (Some(mig), _) => format!("is NVIDIA_VISIBLE_DEVICES' form; CUDA's name for it is {}", mig.uuid),
        (None, "-1" | "NoDevFiles" | "none" | "void") => {
            "hides every GPU, as batch systems write it for a job without one".to_owned()
        }
        (None, "all") => "is a word of NVIDIA_VISIBLE_DEVICES, not of CUDA_VISIBLE_DEVICES".to_owned(),
        _ if ["gpu-", "mig-"].contains(&prefix.to_ascii_lowercase().as_str()) && token.len() > 4 => {
            format!("is no form that CUDA takes: it begins with {} in capitals", prefix.to_uppercase())
        }
        _ => "is no form that CUDA takes: an index, GPU-<UUID> or MIG-<UUID>".to_owned(),
    }
}

/// Who gave this process its devices, if that was a batch system: there, what the variable leaves out
/// belongs to others.
pub fn granted_by(variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    let jobs =
        [("SLURM_JOB_ID", "Slurm"), ("PBS_JOBID", "PBS"), ("LSB_JOBID", "LSF"), ("FLUX_JOB_ID", "Flux")];
    let job = jobs.iter().find_map(|(name, system)| Some(format!("job {} of {system}", variable(name)?)));
    job.or_else(|| variable("KUBERNETES_SERVICE_HOST").map(|_| "a pod of Kubernetes".to_owned()))
}

/// `MIG-GPU-<uuid>/<gi>/<ci>`, the form before R470; still accepted.
pub(super) fn old_mig_name(rest: &str, topology: &Topology) -> Option<Instance> {
    let mut parts = rest.split('/');
    let uuid = format!("GPU-{}", parts.next()?);
    let (gi, ci) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let gpu = topology.gpus.iter().find(|gpu| gpu.uuid == uuid)?;
    gpu.instances().into_iter().find(|i| i.gi_id == Some(gi) && i.ci_id == Some(ci) && parts.next().is_none())
}

/// The first driver that lets one process see several GPU instances.
pub const SEVERAL_SINCE: u32 = 570;
/// The most MIG devices that one process may see.
const MOST_MIG_DEVICES: usize = 64;

/// What a process that starts now would get from the driver.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Used {
    /// In CUDA's order.
    pub devices: Vec<Instance>,
    /// What is named by the variable, or there, and is left out; and why.
    pub left_out: Vec<(Instance, &'static str)>,
    /// The first entry that CUDA does not take.
    pub refused: Option<Refused>,
}

/// Applies the rules of the MIG user guide ("CUDA Device Enumeration") to the variable, or to a
/// machine where it is not set. The CUDA programming guide still states the older rule for every
/// driver; `driver_major` decides here, and an unknown driver counts as a new one.
pub fn used(value: Option<&str>, topology: &Topology, driver_major: Option<u32>) -> Used {
    let Scope { instances: named, refused } = match value {
        Some(value) => resolve(value, topology),
        None => Scope { instances: topology.instances(), refused: None },
    };
    let several = driver_major.is_none_or(|major| major >= SEVERAL_SINCE);
    let any_mig = named.iter().any(|i| i.kind == InstanceKind::Mig);
    let mut used = Used { refused, ..Used::default() };
    for instance in named {
        let mig = || used.devices.iter().filter(|i| i.kind == InstanceKind::Mig);
        let reason = match (instance.kind, several) {
            (InstanceKind::Mig, false) if mig().next().is_some() => {
                Some("a driver before R570 gives a process one MIG device")
            }
            (InstanceKind::Mig, true) if mig().any(|i| same_gpu_instance(i, &instance)) => {
                Some("a process sees one compute instance of each GPU instance")
            }
            (InstanceKind::Mig, true) if mig().count() >= MOST_MIG_DEVICES => {
                Some("a process sees at most 64 MIG devices")
            }
            (InstanceKind::Gpu, false) if any_mig => {
                Some("a driver before R570 shows no whole GPU next to a MIG device")
            }
            _ => None,
        };
        match reason {
            Some(reason) => used.left_out.push((instance, reason)),
            None => used.devices.push(instance),
        }
    }
    used
}

fn same_gpu_instance(a: &Instance, b: &Instance) -> bool {
    a.gi_id.is_some() && (a.gpu_uuid.as_ref(), a.gi_id) == (b.gpu_uuid.as_ref(), b.gi_id)
}

#[cfg(test)]
mod tests {
    use super::super::topology::tests::mixed;
    use super::*;
    use proptest::prelude::*;

    fn used_labels(value: Option<&str>, major: u32) -> (Vec<String>, Vec<String>) {
        let mut topology = mixed();
        // A second compute instance in the 1g's place: same GPU instance as the 3g.
        let mut sibling = topology.gpus[1].mig_devices[0].clone();
        (sibling.ci_id, sibling.profile) = (Some(1), Some("1c.3g.40gb".into()));
        sibling.uuid = "MIG-33333333-0000-5000-8000-000000000003".into();
        topology.gpus[1].mig_devices.insert(1, sibling);
        let used = used(value, &topology, Some(major));
        let label =
            |i: &Instance| i.profile.clone().unwrap_or_else(|| format!("gpu{}", i.gpu_index.unwrap()));
        (used.devices.iter().map(label).collect(), used.left_out.iter().map(|(i, _)| label(i)).collect())
    }

    #[test]
    fn before_r570_a_process_gets_one_mig_device() {
        let texts = |list: &[&str]| list.iter().map(|s| s.to_string()).collect::<Vec<_>>();
        assert_eq!(used_labels(None, 535), (texts(&["3g.40gb"]), texts(&["gpu0", "1c.3g.40gb", "1g.10gb"])));
        let two = Some("MIG-11112,MIG-11111");
        assert_eq!(used_labels(two, 565), (texts(&["1g.10gb"]), texts(&["3g.40gb"])));
        assert_eq!(used_labels(Some("GPU-aaaaa"), 535), (texts(&["gpu0"]), vec![]));
        assert_eq!(used_labels(Some("GPU-aaaaa,MIG-bogus"), 535), (texts(&["gpu0"]), vec![]));
    }

    #[test]
    fn since_r570_one_compute_instance_of_each_gpu_instance() {
        let texts = |list: &[&str]| list.iter().map(|s| s.to_string()).collect::<Vec<_>>();
        assert_eq!(used_labels(None, 570), (texts(&["gpu0", "3g.40gb", "1g.10gb"]), texts(&["1c.3g.40gb"])));
        let siblings = Some("MIG-33333,MIG-11111");
        assert_eq!(used_labels(siblings, 580), (texts(&["1c.3g.40gb"]), texts(&["3g.40gb"])));
        assert_eq!(used_labels(Some("MIG-11111,0"), 580).0, ["3g.40gb", "gpu0"]);
        assert_eq!(used_labels(Some(""), 580), (vec![], vec![]));
    }

    fn labels(value: &str) -> (Vec<String>, Option<String>) {
        let scope = resolve(value, &mixed());
        let label =
            |i: &Instance| i.profile.clone().unwrap_or_else(|| format!("gpu{}", i.gpu_index.unwrap()));
        (scope.instances.iter().map(label).collect(), scope.refused.map(|refused| refused.token))
    }

    #[test]
    fn each_spelling_is_understood() {
        let none = || None::<String>;
        for (value, expected) in [
            ("0", vec!["gpu0"]),
            ("1", vec!["3g.40gb", "1g.10gb"]),
            ("GPU-aaaaa", vec!["gpu0"]),
            ("MIG-11112222-0000-5000-8000-000000000002, 0", vec!["1g.10gb", "gpu0"]),
            ("MIG-11112", vec!["1g.10gb"]),
            ("MIG-GPU-aaaabbbb-0000-4000-8000-000000000001/9/0", vec!["1g.10gb"]),
            ("", vec![]),
        ] {
            assert_eq!(labels(value), (expected.iter().map(|s| s.to_string()).collect(), none()), "{value}");
        }
    }

    #[test]
    fn an_invalid_token_hides_itself_and_all_after_it() {
        assert_eq!(labels("0,MIG-9,1"), (vec!["gpu0".into()], Some("MIG-9".into())));
        assert_eq!(labels("-1"), (vec![], Some("-1".into())));
        assert_eq!(labels("7,0"), (vec![], Some("7".into())));
        assert_eq!(labels("GPU-"), (vec![], Some("GPU-".into())));
        assert_eq!(labels("GPU-aaaa"), (vec![], Some("GPU-aaaa".into())));
        assert_eq!(labels("NoDevFiles"), (vec![], Some("NoDevFiles".into())));
    }

    #[test]
    fn a_duplicate_hides_everything() {
        assert_eq!(labels("0,1,0"), (vec![], Some("0".into())));
    }

    #[test]
    fn why_an_entry_is_not_taken_is_said() {
        let mut topology = mixed();
        let lost = Gpu { index: 3, ..Gpu::default() };
        topology.gpus.push(lost);
        let said = |value: &str| resolve(value, &topology).refused.map(|refused| refused.to_string());
        let hides = ", and hides all after it";
        let refuses = ", so that CUDA refuses the whole list (error 101)";
        for (value, sentence) in [
            ("7", "'7' is the index of no GPU: there are 0, 1, 2, 3".to_owned()),
            ("7,0", format!("'7' is the index of no GPU: there are 0, 1, 2, 3{hides}")),
            ("2", "'2' is GPU 2, which has MIG on and no MIG device".to_owned()),
            ("GPU-cccc", "'GPU-cccc' is GPU 2, which has MIG on and no MIG device".to_owned()),
            ("3", "'3' is GPU 3, which does not answer".to_owned()),
            ("0,,1", format!("it has an empty entry{hides}")),
            ("0,", "it has an empty entry".to_owned()),
            ("MIG-9", "'MIG-9' names no MIG device of this machine".to_owned()),
            ("GPU-9", "'GPU-9' names no GPU of this machine".to_owned()),
            (
                "MIG-1111",
                "'MIG-1111' is not unique: it begins MIG-11111111-0000-5000-8000-000000000001 and \
                 MIG-11112222-0000-5000-8000-000000000002"
                    .to_owned(),
            ),
            (
                "GPU-aaaa",
                "'GPU-aaaa' is not unique: it begins GPU-aaaaaaaa-0000-4000-8000-000000000000 and \
                 GPU-aaaabbbb-0000-4000-8000-000000000001"
                    .to_owned(),
            ),
            ("0,0", format!("'0' is named twice{refuses}")),
            ("0,GPU-aaaaa", format!("'GPU-aaaaa' names the same as '0'{refuses}")),
            ("MIG-11112,1", format!("'1' and 'MIG-11112' name a GPU and a part of it{refuses}")),
            ("1,MIG-11112", format!("'MIG-11112' and '1' name a GPU and a part of it{refuses}")),
            (
                "MIG-GPU-aaaabbbb-0000-4000-8000-000000000001",
                "'MIG-GPU-aaaabbbb-0000-4000-8000-000000000001' lacks the instance: it is \
                 MIG-GPU-<UUID>/<GI>/<CI>"
                    .to_owned(),
            ),
            ("MIG-GPU-aaaa/1/0", "'MIG-GPU-aaaa/1/0' names no MIG device of this machine".to_owned()),
            (
                "1:1,1:0",
                "'1:1' is NVIDIA_VISIBLE_DEVICES' form; CUDA's name for it is \
                 MIG-11112222-0000-5000-8000-000000000002, and hides all after it"
                    .to_owned(),
            ),
            ("-1", "'-1' hides every GPU, as batch systems write it for a job without one".to_owned()),
            ("all", "'all' is a word of NVIDIA_VISIBLE_DEVICES, not of CUDA_VISIBLE_DEVICES".to_owned()),
            (
                "gpu-aaaaa",
                "'gpu-aaaaa' is no form that CUDA takes: it begins with GPU- in capitals".to_owned(),
            ),
            ("x", "'x' is no form that CUDA takes: an index, GPU-<UUID> or MIG-<UUID>".to_owned()),
        ] {
            assert_eq!(said(value), Some(sentence), "{value}");
        }
        assert_eq!((said("0"), said(""), said(" ")), (None, None, None));
        assert_eq!(resolve("0,7,1", &topology).refused.unwrap().hidden, ["1"]);
        assert_eq!(resolve("0,1,0", &topology).refused.unwrap().hidden, ["0", "1"]);
    }

    #[test]
    fn who_granted_the_devices_is_known_by_its_variables() {
        let with = |name: &'static str| granted_by(|asked| (asked == name).then(|| "17".to_owned()));
        assert_eq!(with("SLURM_JOB_ID").as_deref(), Some("job 17 of Slurm"));
        assert_eq!(with("KUBERNETES_SERVICE_HOST").as_deref(), Some("a pod of Kubernetes"));
        assert_eq!(with("CUDA_VISIBLE_DEVICES"), None);
    }

    proptest! {
        #[test]
        fn any_value_is_resolved_without_a_panic(value in "[-,/ a-zA-Z0-9]{0,60}") {
            if let Some(refused) = resolve(&value, &mixed()).refused {
                let _ = refused.to_string();
            }
        }
    }
}
