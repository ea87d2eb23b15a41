//! CUDA_VISIBLE_DEVICES as the driver reads it.
//!
//! Sources: CUDA programming guide, environment variables; MIG user guide, "CUDA Device
//! Enumeration"; and what an H200 with driver 580 did with each spelling.

use super::instance::{Instance, InstanceKind};
use super::topology::Topology;

/// What an inherited CUDA_VISIBLE_DEVICES leaves to be seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Scope {
    /// The instances that may be used, in the variable's order.
    pub instances: Vec<Instance>,
    /// The first token that names nothing: it hides itself and all after it.
    pub invalid: Option<String>,
}

/// Resolves the variable's value token by token. Whitespace around tokens is ignored, a duplicate
/// makes the driver refuse everything.
///
/// An index means a GPU in PCI order here, where the driver's default is "fastest first": the two
/// agree on machines with one kind of GPU. On a GPU with MIG on, the GPU's own index or UUID stands
/// for its MIG devices, of which a process before R570 sees one: which one is the worker's choice,
/// since each worker gets one UUID.
pub fn resolve(value: &str, topology: &Topology) -> Scope {
    let mut scope = Scope { instances: Vec::new(), invalid: None };
    if value.trim().is_empty() {
        return scope;
    }
    for token in value.split(',').map(str::trim) {
        let found = resolve_token(token, topology);
        let duplicate = found.iter().any(|i| scope.instances.contains(i));
        if found.is_empty() {
            scope.invalid = Some(token.to_owned());
            return scope;
        }
        if duplicate {
            return Scope { instances: Vec::new(), invalid: Some(token.to_owned()) };
        }
        scope.instances.extend(found);
    }
    scope
}

/// Each token up to the first that names nothing, with what it names.
pub fn tokens(value: &str, topology: &Topology) -> Vec<(String, Vec<Instance>)> {
    let tokens = value.split(',').map(str::trim);
    let found = tokens.map(|token| (token.to_owned(), resolve_token(token, topology)));
    found.take_while(|(_, found)| !found.is_empty()).collect()
}

fn resolve_token(token: &str, topology: &Topology) -> Vec<Instance> {
    if let Ok(index) = token.parse::<u32>() {
        return topology.gpus.iter().find(|gpu| gpu.index == index).map_or(Vec::new(), |gpu| gpu.instances());
    }
    if let Some(old) = token.strip_prefix("MIG-GPU-") {
        return old_mig_name(old, topology).into_iter().collect();
    }
    if token.len() > 4 && token.starts_with("GPU-") {
        let found: Vec<_> = topology.gpus.iter().filter(|gpu| gpu.uuid.starts_with(token)).collect();
        return if let [gpu] = found[..] { gpu.instances() } else { Vec::new() };
    }
    if token.len() > 4 && token.starts_with("MIG-") {
        let found: Vec<_> = topology
            .instances()
            .into_iter()
            .filter(|i| {
                i.kind == InstanceKind::Mig && i.mig_uuid.as_deref().is_some_and(|u| u.starts_with(token))
            })
            .collect();
        return if found.len() == 1 { found } else { Vec::new() };
    }
    Vec::new()
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
    /// The first token that names nothing.
    pub invalid: Option<String>,
}

/// Applies the rules of the MIG user guide ("CUDA Device Enumeration") to the variable, or to a
/// machine where it is not set. The CUDA programming guide still states the older rule for every
/// driver; `driver_major` decides here, and an unknown driver counts as a new one.
pub fn used(value: Option<&str>, topology: &Topology, driver_major: Option<u32>) -> Used {
    let (named, invalid) = match value {
        Some(value) => {
            let scope = resolve(value, topology);
            (scope.instances, scope.invalid)
        }
        None => (topology.instances(), None),
    };
    let several = driver_major.is_none_or(|major| major >= SEVERAL_SINCE);
    let any_mig = named.iter().any(|i| i.kind == InstanceKind::Mig);
    let mut used = Used { invalid, ..Used::default() };
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
        (scope.instances.iter().map(label).collect(), scope.invalid)
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

    proptest! {
        #[test]
        fn any_value_is_resolved_without_a_panic(value in "[-,/ a-zA-Z0-9]{0,60}") {
            resolve(&value, &mixed());
        }
    }
}
