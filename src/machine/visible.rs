//! CUDA_VISIBLE_DEVICES as the driver reads it.
//!
//! Sources: CUDA programming guide, environment variables; MIG user guide, "CUDA Device
//! Enumeration"; and what an H200 with driver 580 did with each spelling.

use super::topology::{Instance, InstanceKind, Topology};

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

#[cfg(test)]
mod tests {
    use super::super::topology::tests::mixed;
    use super::*;
    use proptest::prelude::*;

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
