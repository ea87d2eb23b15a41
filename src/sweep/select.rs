//! Which instances a run is about. Pure: topology, inherited scope and wishes in, instances out.

use super::plan::Aggressor;
use crate::machine::nvml::Absent;
use crate::machine::{Instance, Topology, visible};
use crate::measure::protocol::Device;
use crate::workload::Spec;
use anyhow::{Result, bail};
use std::collections::BTreeSet;

/// What the user wishes.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// UUIDs or unique prefixes; none means all in scope.
    pub uuids: Vec<String>,
    /// Of all in scope, those of these GPUs; any, if empty.
    pub gpus: Vec<u32>,
    /// Of all in scope, those of these profiles; any, if empty.
    pub profiles: Vec<String>,
    /// Of all in scope, the first of each kind.
    pub one_per_profile: bool,
    /// UUID or unique prefix, workload and batch of what loads its instance unasked.
    pub aggressors: Vec<(String, Spec, Option<u64>)>,
    /// Two workers on one instance.
    pub sharing: bool,
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
    /// Loaded with something else meanwhile.
    pub aggressors: Vec<Aggressor>,
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
    let cpu = |notes| {
        if let Some(option) = wishes.gpu_option() {
            bail!("{option} is about GPUs, and the CPU is measured here: leave it out");
        }
        let instances = vec![Instance::cpu(wishes.threads)];
        Ok(Selection { device: Device::Cpu, instances, aggressors: vec![], notes })
    };
    if wishes.device == Some(Device::Cpu) {
        return cpu(vec![]);
    }
    let topology = match topology {
        Ok(topology) => topology,
        Err(absent) if wishes.device == Some(Device::Cuda) || wishes.gpu_option().is_some() => {
            bail!("cannot measure on a GPU: {absent}")
        }
        Err(absent @ Absent::Broken(_)) => bail!("{absent}; to measure the CPU instead, say --device cpu"),
        Err(absent) => return cpu(vec![format!("no GPU: {absent}; measuring the embedded CPU device")]),
    };
    let visible = Visible::of(&topology, scope.filter(|_| !wishes.all));
    let mut notes = Vec::new();
    let mut aggressors = Vec::new();
    for (uuid, workload, batch) in &wishes.aggressors {
        let instance = visible.find(&topology, uuid)?;
        aggressors.push(Aggressor { instance, workload: workload.clone(), batch: *batch });
    }
    let mut instances: Vec<Instance> = Vec::new();
    for uuid in &wishes.uuids {
        let instance = visible.find(&topology, uuid)?;
        if wishes.sharing || !instances.contains(&instance) {
            instances.push(instance);
        } else {
            notes.push(format!(
                "{uuid} is named twice and measured once: --allow-sharing runs two workers on it"
            ));
        }
    }
    if wishes.uuids.is_empty() {
        instances = visible.everything(&topology, &mut notes)?;
        instances.retain(|instance| !aggressors.iter().any(|a| a.instance == *instance));
        instances = wishes.filter(instances)?;
    }
    if let Some(shared) = aggressors.iter().enumerate().find(|(i, a)| {
        !wishes.sharing
            && (instances.contains(&a.instance) || aggressors[..*i].iter().any(|b| b.instance == a.instance))
    }) {
        let uuid = shared.1.instance.uuid().unwrap_or_default();
        bail!(
            "the aggressor {uuid} has a worker already: --allow-sharing runs two workers on one instance, in turn"
        );
    }
    Ok(Selection { device: Device::Cuda, instances, aggressors, notes })
}

impl Wishes {
    /// The first option given that is about GPUs only.
    fn gpu_option(&self) -> Option<String> {
        let uuid = self.uuids.first().map(|uuid| format!("--uuid {uuid}"));
        let gpu = || self.gpus.first().map(|gpu| format!("--gpu {gpu}"));
        let profile = || self.profiles.first().map(|profile| format!("--profile {profile}"));
        let one = || self.one_per_profile.then(|| "--one-per-profile".to_owned());
        let aggressor = || self.aggressors.first().map(|(uuid, ..)| format!("--aggressor {uuid}"));
        uuid.or_else(gpu).or_else(profile).or_else(one).or_else(aggressor)
    }

    /// Those of the GPUs and profiles asked for, one of each kind if so wished.
    fn filter(&self, all: Vec<Instance>) -> Result<Vec<Instance>> {
        let indices: BTreeSet<u32> = all.iter().filter_map(|i| i.gpu_index).collect();
        if let Some(gpu) = self.gpus.iter().find(|gpu| !indices.contains(gpu)) {
            let there: Vec<String> = indices.iter().map(u32::to_string).collect();
            bail!("--gpu {gpu}: nothing to measure there; there is something on GPU {}", there.join(", "));
        }
        let labels: BTreeSet<&str> = all.iter().map(Instance::label).collect();
        let is = |label: &str, wanted: &String| label.eq_ignore_ascii_case(wanted);
        if let Some(profile) = self.profiles.iter().find(|p| !labels.iter().any(|label| is(label, p))) {
            let there: Vec<&str> = labels.into_iter().collect();
            bail!("--profile {profile}: there is no such instance; there is {}", there.join(", "));
        }
        let mut chosen: Vec<Instance> = Vec::new();
        for instance in all {
            let gpu = self.gpus.is_empty() || instance.gpu_index.is_some_and(|g| self.gpus.contains(&g));
            let profile = self.profiles.is_empty() || self.profiles.iter().any(|p| is(instance.label(), p));
            let kind = |i: &Instance| (i.gpu_name.clone(), i.label().to_owned());
            let seen = self.one_per_profile && chosen.iter().any(|other| kind(other) == kind(&instance));
            if gpu && profile && !seen {
                chosen.push(instance);
            }
        }
        if chosen.is_empty() {
            bail!(
                "nothing is left to measure: no instance is on GPU {:?} and of profile {:?}",
                self.gpus,
                self.profiles
            );
        }
        Ok(chosen)
    }
}

/// What the inherited CUDA_VISIBLE_DEVICES leaves.
struct Visible<'a>(Option<(&'a str, visible::Scope)>);

impl<'a> Visible<'a> {
    fn of(topology: &Topology, value: Option<&'a str>) -> Visible<'a> {
        Visible(value.map(|value| (value, visible::resolve(value, topology))))
    }

    /// One by its name.
    fn find(&self, topology: &Topology, uuid: &str) -> Result<Instance> {
        let instance = topology.find(uuid)?;
        if let Some((value, scope)) = &self.0
            && !scope.instances.contains(&instance)
        {
            let found = instance.uuid().unwrap_or_default();
            let hidden =
                scope.invalid.as_ref().map_or(String::new(), |t| format!(" ('{t}' in it names nothing)"));
            bail!(
                "{found} is outside the scope CUDA_VISIBLE_DEVICES={value}{hidden}: --all ignores the scope"
            );
        }
        Ok(instance)
    }

    fn everything(&self, topology: &Topology, notes: &mut Vec<String>) -> Result<Vec<Instance>> {
        let instances = match &self.0 {
            None => topology.instances(),
            Some((value, scope)) => {
                if let Some(token) = &scope.invalid {
                    notes.push(format!(
                        "CUDA_VISIBLE_DEVICES={value}: '{token}' names nothing here, and hides itself and all after it"
                    ));
                }
                if scope.instances.is_empty() {
                    bail!("CUDA_VISIBLE_DEVICES={value} leaves nothing to measure: --all ignores it");
                }
                scope.instances.clone()
            }
        };
        if instances.is_empty() {
            bail!(
                "the driver shows no GPU or MIG device that CUDA can run on \
                 (a GPU with MIG on needs MIG devices: nvidia-smi mig -lgip, -cgi PROFILE -C)"
            );
        }
        Ok(instances)
    }
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

    fn filtered(change: fn(&mut Wishes)) -> Result<Vec<String>> {
        let mut wishes = uuids(&[]);
        change(&mut wishes);
        let selection = select(&wishes, Ok(mixed()), None)?;
        Ok(labels(&selection).into_iter().map(str::to_owned).collect())
    }

    #[test]
    fn by_gpu_by_profile_and_one_of_each() {
        assert_eq!(filtered(|w| w.gpus = vec![1]).unwrap(), ["3g.40gb", "1g.10gb"]);
        assert_eq!(filtered(|w| w.profiles = vec!["1G.10GB".into()]).unwrap(), ["1g.10gb"]);
        assert_eq!(filtered(|w| w.one_per_profile = true).unwrap().len(), 3);
        let error = |change| filtered(change).unwrap_err().to_string();
        assert_eq!(
            error(|w| w.gpus = vec![7]),
            "--gpu 7: nothing to measure there; there is something on GPU 0, 1"
        );
        assert_eq!(
            error(|w| w.profiles = vec!["2g.20gb".into()]),
            "--profile 2g.20gb: there is no such instance; there is 1g.10gb, 3g.40gb, NVIDIA H100 80GB HBM3"
        );
        let nothing = error(|w| (w.gpus, w.profiles) = (vec![0], vec!["1g.10gb".into()]));
        assert!(nothing.starts_with("nothing is left to measure"), "{nothing}");
    }

    #[test]
    fn an_aggressor_is_not_measured_unless_it_is_shared() {
        let aggressor = |wishes: &mut Wishes| {
            wishes.aggressors = vec![("MIG-11112".into(), "mlp".parse().unwrap(), None)];
        };
        assert_eq!(filtered(aggressor).unwrap(), ["NVIDIA H100 80GB HBM3", "3g.40gb"]);
        let mut both = uuids(&["MIG-11112"]);
        aggressor(&mut both);
        let error = select(&both, Ok(mixed()), None).unwrap_err().to_string();
        assert!(error.contains("--allow-sharing runs two workers on one instance"), "{error}");
        both.sharing = true;
        assert_eq!(select(&both, Ok(mixed()), None).unwrap().aggressors.len(), 1);
        let twice = Wishes { sharing: true, ..uuids(&["MIG-11112", "MIG-11112"]) };
        assert_eq!(select(&twice, Ok(mixed()), None).unwrap().instances.len(), 2);
    }

    #[test]
    fn nothing_to_run_on_is_an_error() {
        assert!(select(&uuids(&[]), Ok(Topology::default()), None).is_err());
    }
}
