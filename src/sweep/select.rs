//! Which instances a run is about. Pure: topology, inherited scope and wishes in, instances out.

use super::plan::Aggressor;
use crate::machine::nvml::Absent;
use crate::machine::{Gpu, Instance, Topology, visible};
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

/// What the environment limits this process to.
#[derive(Clone, Debug, Default)]
pub struct Inherited {
    /// CUDA_VISIBLE_DEVICES.
    pub visible: Option<String>,
    /// The batch system's job or pod that this process is part of, in words.
    pub granted_by: Option<String>,
}

/// Chooses, within what is inherited.
///
/// The CPU is chosen only where there is no driver, or by name: a machine whose GPUs cannot be used
/// must not be measured on its CPU in silence.
///
/// # Errors
/// Nothing fits; the message says what is there.
pub fn select(
    wishes: &Wishes,
    topology: Result<Topology, Absent>,
    inherited: &Inherited,
) -> Result<Selection> {
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
    let visible = Visible::of(&topology, inherited, wishes.all);
    let mut notes = Vec::new();
    let mut aggressors = Vec::new();
    for (uuid, workload, batch) in &wishes.aggressors {
        let instance = visible.find(uuid)?;
        aggressors.push(Aggressor { instance, workload: workload.clone(), batch: *batch });
    }
    let mut instances: Vec<Instance> = Vec::new();
    for uuid in &wishes.uuids {
        let instance = visible.find(uuid)?;
        if wishes.sharing || !instances.contains(&instance) {
            instances.push(instance);
        } else {
            notes.push(format!(
                "{uuid} is named twice and measured once: --allow-sharing runs two workers on it"
            ));
        }
    }
    if wishes.uuids.is_empty() {
        instances = visible.everything(&mut notes)?;
        instances.retain(|instance| !aggressors.iter().any(|a| a.instance == *instance));
        if instances.is_empty() {
            bail!("nothing is left to measure: every instance in scope is an --aggressor");
        }
        instances = wishes.filter(instances, &visible)?;
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
    fn filter(&self, all: Vec<Instance>, visible: &Visible) -> Result<Vec<Instance>> {
        let indices: BTreeSet<u32> = all.iter().filter_map(|i| i.gpu_index).collect();
        if let Some(&gpu) = self.gpus.iter().find(|gpu| !indices.contains(gpu)) {
            let there: Vec<String> = indices.iter().map(u32::to_string).collect();
            let why = visible.why_nothing_on(gpu);
            bail!("--gpu {gpu}: {why}; there is something to measure on GPU {}", there.join(", "));
        }
        let labels: BTreeSet<&str> = all.iter().map(Instance::label).collect();
        let there = all.iter().map(|i| format!("  {i}")).collect::<Vec<_>>().join("\n");
        let is = |label: &str, wanted: &String| label.eq_ignore_ascii_case(wanted);
        if let Some(profile) = self.profiles.iter().find(|p| !labels.iter().any(|label| is(label, p))) {
            let labels: Vec<&str> = labels.into_iter().collect();
            let scope = if visible.hides_profile(profile) { " in scope" } else { "" };
            bail!("--profile {profile}: there is no such instance{scope}; there is {}", labels.join(", "));
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
            let gpus: Vec<String> = self.gpus.iter().map(u32::to_string).collect();
            bail!(
                "nothing is left to measure: no instance on GPU {} has the profile {}; there is:\n{there}",
                gpus.join(" or "),
                self.profiles.join(" or ")
            );
        }
        Ok(chosen)
    }
}

/// A machine, and what the inherited CUDA_VISIBLE_DEVICES leaves of it.
struct Visible<'a> {
    topology: &'a Topology,
    /// The variable's value and what it means; none where it is not set or ignored.
    scope: Option<(&'a str, visible::Scope)>,
    granted_by: Option<&'a str>,
}

impl<'a> Visible<'a> {
    fn of(topology: &'a Topology, inherited: &'a Inherited, all: bool) -> Visible<'a> {
        let value = inherited.visible.as_deref().filter(|_| !all);
        let scope = value.map(|value| (value, visible::resolve(value, topology)));
        Visible { topology, scope, granted_by: inherited.granted_by.as_deref() }
    }

    /// One by its name.
    fn find(&self, uuid: &str) -> Result<Instance> {
        let instance = self.topology.find(uuid)?;
        if let Some((value, scope)) = &self.scope
            && !scope.instances.contains(&instance)
        {
            let found = instance.uuid().unwrap_or_default();
            let why = match &scope.refused {
                Some(refused) if self.hides(refused, &instance) => format!(": {refused}, this one included"),
                Some(refused) => format!(": {refused}"),
                None if value.trim().is_empty() => ", which is set and empty".to_owned(),
                None => String::new(),
            };
            bail!("{found} is outside the scope CUDA_VISIBLE_DEVICES={value}{why}.\n{}", self.advice());
        }
        Ok(instance)
    }

    /// Would an instance be in scope but for an entry that CUDA does not take?
    fn hides(&self, refused: &visible::Refused, instance: &Instance) -> bool {
        refused.hidden.iter().any(|token| visible::resolve(token, self.topology).instances.contains(instance))
    }

    fn everything(&self, notes: &mut Vec<String>) -> Result<Vec<Instance>> {
        let Some((value, scope)) = &self.scope else {
            let instances = self.topology.instances();
            if instances.is_empty() {
                bail!("{}", self.no_device());
            }
            return Ok(instances);
        };
        if scope.instances.is_empty() {
            let why = match &scope.refused {
                Some(refused) => refused.to_string(),
                None => "it is set and empty, so that CUDA shows no device".to_owned(),
            };
            bail!("CUDA_VISIBLE_DEVICES={value} leaves nothing to measure: {why}.\n{}", self.advice());
        }
        if let Some(refused) = &scope.refused {
            notes.push(format!("CUDA_VISIBLE_DEVICES={value}: {refused}"));
        }
        Ok(scope.instances.clone())
    }

    /// What to do about a scope that is too small. To ignore it helps only where there is something
    /// beside it, and where that is not somebody else's.
    fn advice(&self) -> String {
        let instances = self.topology.instances();
        match self.granted_by {
            _ if instances.is_empty() => self.no_device(),
            Some(job) => format!(
                "This is {job}, which decides what this process may use: ask it for the device, or correct the \
                 variable; `migbench list` shows what is there."
            ),
            None => {
                let list = instances.iter().map(|i| format!("  {i}")).collect::<Vec<_>>().join("\n");
                format!("Correct or unset the variable, or ignore it by --all; there is:\n{list}")
            }
        }
    }

    /// Why there is nothing on the whole machine, GPU by GPU.
    fn no_device(&self) -> String {
        let nothing = "the driver shows no GPU or MIG device that CUDA can run on";
        if self.topology.gpus.is_empty() {
            return format!("{nothing}: there is no GPU; `migbench doctor` says what it sees");
        }
        let reasons: Vec<String> =
            self.topology.gpus.iter().map(|gpu| format!("GPU {} {}", gpu.index, nothing_on(gpu))).collect();
        format!("{nothing}: {} (`migbench doctor` says what to do)", reasons.join("; "))
    }

    /// Why nothing in scope is on the GPU of this index.
    fn why_nothing_on(&self, index: u32) -> String {
        let Some(gpu) = self.topology.gpus.iter().find(|gpu| gpu.index == index) else {
            return "no GPU has this index".to_owned();
        };
        match &self.scope {
            _ if gpu.instances().is_empty() => format!("the GPU {}", nothing_on(gpu)),
            Some((value, _)) => format!("it is outside the scope CUDA_VISIBLE_DEVICES={value}"),
            None => "it has an --aggressor only".to_owned(),
        }
    }

    /// Is there an instance of this profile outside the scope?
    fn hides_profile(&self, profile: &str) -> bool {
        self.scope.is_some()
            && self.topology.instances().iter().any(|i| i.label().eq_ignore_ascii_case(profile))
    }
}

/// Why a GPU without an instance has none.
fn nothing_on(gpu: &Gpu) -> &'static str {
    if gpu.uuid.is_empty() { "does not answer" } else { "has MIG on and no MIG device" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::topology::tests::mixed;

    /// As in a shell, without a batch system.
    fn select(
        wishes: &Wishes,
        topology: Result<Topology, Absent>,
        visible: Option<&str>,
    ) -> Result<Selection> {
        super::select(wishes, topology, &Inherited { visible: visible.map(str::to_owned), granted_by: None })
    }

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
        assert_eq!(
            selection.notes,
            ["CUDA_VISIBLE_DEVICES=MIG-11112,MIG-9: 'MIG-9' names no MIG device of this machine"]
        );
        let all = Wishes { all: true, ..uuids(&[]) };
        assert_eq!(select(&all, Ok(mixed()), Some("")).unwrap().instances.len(), 3);
    }

    #[test]
    fn a_scope_that_leaves_nothing_names_the_entry_and_the_reason() {
        let error = |value: &str| select(&uuids(&[]), Ok(mixed()), Some(value)).unwrap_err().to_string();
        for (value, why) in [
            ("", "it is set and empty, so that CUDA shows no device"),
            ("MIG-9", "'MIG-9' names no MIG device of this machine"),
            ("MIG-9,MIG-11112", "'MIG-9' names no MIG device of this machine, and hides all after it"),
            ("MIG-11112,MIG-11112", "'MIG-11112' is named twice, so that CUDA refuses the whole list"),
            ("1,MIG-11112", "'MIG-11112' and '1' name a GPU and a part of it"),
            ("GPU-aaaa", "'GPU-aaaa' is not unique"),
            ("2", "'2' is GPU 2, which has MIG on and no MIG device"),
            (",0", "it has an empty entry, and hides all after it"),
        ] {
            let said = error(value);
            let start = format!("CUDA_VISIBLE_DEVICES={value} leaves nothing to measure: {why}");
            assert!(said.starts_with(&start), "{said}");
            assert!(
                said.contains("\nCorrect or unset the variable, or ignore it by --all; there is:\n"),
                "{said}"
            );
            // What others were given is not to be measured.
            let job = Inherited { visible: Some(value.into()), granted_by: Some("job 17 of Slurm".into()) };
            let said = super::select(&uuids(&[]), Ok(mixed()), &job).unwrap_err().to_string();
            assert!(said.starts_with(&start) && !said.contains("--all"), "{said}");
            assert!(said.contains("\nThis is job 17 of Slurm, which decides what"), "{said}");
        }
        // To ignore it would not help.
        let mut empty = mixed();
        empty.gpus.drain(..2);
        let said = select(&uuids(&[]), Ok(empty), Some("MIG-9")).unwrap_err().to_string();
        assert!(said.contains("GPU 2 has MIG on and no MIG device") && !said.contains("--all"), "{said}");
    }

    #[test]
    fn outside_the_scope_is_an_error() {
        let error =
            |value: &str| select(&uuids(&["MIG-11111"]), Ok(mixed()), Some(value)).unwrap_err().to_string();
        let outside = "is outside the scope CUDA_VISIBLE_DEVICES=";
        assert!(
            error("MIG-11112").contains(&format!("{outside}MIG-11112.\nCorrect or unset the variable, or"))
        );
        assert!(error("").contains(&format!("{outside}, which is set and empty.\n")));
        let hidden = error("MIG-9,MIG-11111");
        assert!(
            hidden.contains(
                "'MIG-9' names no MIG device of this machine, and hides all after it, this one included"
            ),
            "{hidden}"
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
            "--gpu 7: no GPU has this index; there is something to measure on GPU 0, 1"
        );
        assert_eq!(
            error(|w| w.gpus = vec![2]),
            "--gpu 2: the GPU has MIG on and no MIG device; there is something to measure on GPU 0, 1"
        );
        let scoped =
            |wishes: Wishes| select(&wishes, Ok(mixed()), Some("MIG-11112")).unwrap_err().to_string();
        assert_eq!(
            scoped(Wishes { gpus: vec![0], ..uuids(&[]) }),
            "--gpu 0: it is outside the scope CUDA_VISIBLE_DEVICES=MIG-11112; there is something to measure on \
             GPU 1"
        );
        assert_eq!(
            scoped(Wishes { profiles: vec!["3g.40gb".into()], ..uuids(&[]) }),
            "--profile 3g.40gb: there is no such instance in scope; there is 1g.10gb"
        );
        assert_eq!(
            error(|w| w.profiles = vec!["2g.20gb".into()]),
            "--profile 2g.20gb: there is no such instance; there is 1g.10gb, 3g.40gb, NVIDIA H100 80GB HBM3"
        );
        let nothing = error(|w| (w.gpus, w.profiles) = (vec![0], vec!["1g.10gb".into()]));
        let start = "nothing is left to measure: no instance on GPU 0 has the profile 1g.10gb; there is:\n  GPU-aaaaaaaa";
        assert!(nothing.starts_with(start), "{nothing}");
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
        let error = |topology| select(&uuids(&[]), Ok(topology), None).unwrap_err().to_string();
        assert!(error(Topology::default()).ends_with("there is no GPU; `migbench doctor` says what it sees"));
        let mut topology = mixed();
        topology.gpus.drain(..2);
        topology.gpus.push(Gpu { index: 3, ..Gpu::default() });
        let said = error(topology);
        assert!(
            said.contains("CUDA can run on: GPU 2 has MIG on and no MIG device; GPU 3 does not answer ("),
            "{said}"
        );
        let all = |wishes: &mut Wishes| {
            let aggressor = |uuid: &str| (uuid.to_owned(), "mlp".parse().unwrap(), None);
            wishes.aggressors = ["GPU-aaaaa", "MIG-11111", "MIG-11112"].map(aggressor).to_vec();
        };
        assert_eq!(
            filtered(all).unwrap_err().to_string(),
            "nothing is left to measure: every instance in scope is an --aggressor"
        );
    }
}
