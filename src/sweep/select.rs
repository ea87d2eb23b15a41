//! Which instances a run is about. Pure: topology, inherited scope and wishes in, instances out.

use crate::machine::nvml::Absent;
use crate::machine::{Instance, Topology, visible};
use crate::measure::protocol::Device;
use anyhow::{Result, bail};

/// What the user wishes.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// UUIDs or unique prefixes; none means all in scope.
    pub uuids: Vec<String>,
    /// Ignore the inherited scope.
    pub all: bool,
    /// A device by name.
    pub device: Option<Device>,
    /// CPU threads.
    pub threads: usize,
}

/// What will be measured.
#[derive(Debug, PartialEq)]
pub struct Selection {
    /// CPU or CUDA.
    pub device: Device,
    /// At least one.
    pub instances: Vec<Instance>,
    /// What the user should know of the choice, a line each.
    pub notes: Vec<String>,
}

/// Chooses. `scope` is the inherited CUDA_VISIBLE_DEVICES.
///
/// The CPU is chosen only where there is no driver, or by name: a machine whose GPUs cannot be used
/// must not be measured on its CPU in silence.
///
/// # Errors
/// Nothing fits; the message says what is there.
pub fn select(wishes: &Wishes, topology: Result<Topology, Absent>, scope: Option<&str>) -> Result<Selection> {
    let cpu =
        |notes| Selection { device: Device::Cpu, instances: vec![Instance::cpu(wishes.threads)], notes };
    if wishes.device == Some(Device::Cpu) {
        if let [uuid, ..] = &wishes.uuids[..] {
            bail!("--device cpu and --uuid {uuid} contradict each other: leave one out");
        }
        return Ok(cpu(vec![]));
    }
    let topology = match topology {
        Ok(topology) => topology,
        Err(absent) if wishes.device == Some(Device::Cuda) || !wishes.uuids.is_empty() => {
            bail!("cannot measure on a GPU: {absent}")
        }
        Err(absent @ Absent::Broken(_)) => bail!("{absent}; to measure the CPU instead, say --device cpu"),
        Err(absent) => return Ok(cpu(vec![format!("no GPU: {absent}; measuring the embedded CPU device")])),
    };
    let all = topology.instances();
    let visible = scope.filter(|_| !wishes.all).map(|value| (value, visible::resolve(value, &topology)));
    if wishes.uuids.is_empty() {
        return everything(all, visible);
    }
    let mut instances = Vec::new();
    for uuid in &wishes.uuids {
        let instance = topology.find(uuid)?;
        if let Some((value, scope)) =
            visible.as_ref().filter(|(_, scope)| !scope.instances.contains(&instance))
        {
            let found = instance.uuid().unwrap_or_default();
            let hidden =
                scope.invalid.as_ref().map_or(String::new(), |t| format!(" ('{t}' in it names nothing)"));
            bail!(
                "{found} is outside the scope CUDA_VISIBLE_DEVICES={value}{hidden}: --all ignores the scope"
            );
        }
        if !instances.contains(&instance) {
            instances.push(instance);
        }
    }
    Ok(Selection { device: Device::Cuda, instances, notes: vec![] })
}

fn everything(all: Vec<Instance>, visible: Option<(&str, visible::Scope)>) -> Result<Selection> {
    let mut notes = Vec::new();
    let instances = match visible {
        None => all,
        Some((value, scope)) => {
            if let Some(token) = &scope.invalid {
                notes.push(format!(
                    "CUDA_VISIBLE_DEVICES={value}: '{token}' names nothing here, and hides itself and all after it"
                ));
            }
            if scope.instances.is_empty() {
                bail!("CUDA_VISIBLE_DEVICES={value} leaves nothing to measure: --all ignores it");
            }
            scope.instances
        }
    };
    if instances.is_empty() {
        bail!(
            "the driver shows no GPU or MIG device that CUDA can run on \
             (a GPU with MIG on needs MIG devices: nvidia-smi mig -lgip, -cgi PROFILE -C)"
        );
    }
    Ok(Selection { device: Device::Cuda, instances, notes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::topology::tests::mixed;

    fn uuids(uuids: &[&str]) -> Wishes {
        Wishes { uuids: uuids.iter().map(|s| s.to_string()).collect(), threads: 2, ..Wishes::default() }
    }

    fn labels(selection: &Selection) -> Vec<&str> {
        selection.instances.iter().map(Instance::label).collect()
    }

    #[test]
    fn without_a_wish_everything_in_scope() {
        let selection = select(&uuids(&[]), Ok(mixed()), None).unwrap();
        assert_eq!(labels(&selection), ["NVIDIA H100 80GB HBM3", "3g.40gb", "1g.10gb"]);
        let selection = select(&uuids(&[]), Ok(mixed()), Some("MIG-11112,MIG-9")).unwrap();
        assert_eq!(labels(&selection), ["1g.10gb"]);
        assert!(selection.notes[0].contains("'MIG-9' names nothing here"));
        let all = Wishes { all: true, ..uuids(&[]) };
        assert_eq!(select(&all, Ok(mixed()), Some("")).unwrap().instances.len(), 3);
        let error = select(&uuids(&[]), Ok(mixed()), Some("")).unwrap_err().to_string();
        assert_eq!(error, "CUDA_VISIBLE_DEVICES= leaves nothing to measure: --all ignores it");
    }

    #[test]
    fn outside_the_scope_is_an_error() {
        let error = select(&uuids(&["MIG-11111"]), Ok(mixed()), Some("MIG-11112")).unwrap_err().to_string();
        assert!(
            error.ends_with("is outside the scope CUDA_VISIBLE_DEVICES=MIG-11112: --all ignores the scope")
        );
        let all = Wishes { all: true, ..uuids(&["MIG-11111"]) };
        assert_eq!(labels(&select(&all, Ok(mixed()), Some("MIG-11112")).unwrap()), ["3g.40gb"]);
        assert_eq!(
            select(&uuids(&["MIG-11111", "MIG-111111"]), Ok(mixed()), None).unwrap().instances.len(),
            1
        );
    }

    #[test]
    fn the_cpu_only_without_a_driver_or_by_name() {
        let missing = || Err(Absent::NoLibrary("not found".into()));
        let selection = select(&uuids(&[]), missing(), None).unwrap();
        assert_eq!(selection.device, Device::Cpu);
        assert_eq!(
            selection.notes,
            ["no GPU: no NVIDIA driver library (not found); measuring the embedded CPU device"]
        );
        let error = select(&uuids(&["MIG-1"]), missing(), None).unwrap_err().to_string();
        assert_eq!(error, "cannot measure on a GPU: no NVIDIA driver library (not found)");
        let cuda = Wishes { device: Some(Device::Cuda), ..uuids(&[]) };
        assert!(select(&cuda, missing(), None).is_err());
        let broken = || Err(Absent::Broken("lost".into()));
        assert!(select(&uuids(&[]), broken(), None).unwrap_err().to_string().contains("say --device cpu"));
        let cpu = Wishes { device: Some(Device::Cpu), ..uuids(&[]) };
        assert_eq!(select(&cpu, broken(), None).unwrap().device, Device::Cpu);
        let both = Wishes { device: Some(Device::Cpu), ..uuids(&["MIG-1"]) };
        assert!(select(&both, Ok(mixed()), None).is_err());
    }

    #[test]
    fn nothing_to_run_on_is_an_error() {
        assert!(select(&uuids(&[]), Ok(Topology::default()), None).is_err());
    }
}
