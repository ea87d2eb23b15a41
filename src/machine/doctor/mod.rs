//! What is wrong with this machine's GPUs, and how to mend it.
//!
//! [`gather`] collects, [`examine`] judges: a pure function of the evidence, so that a capture of
//! another machine is judged as well as this one. Remedies are text; nothing here executes one.

mod access;
pub mod child;
mod driver;
pub mod evidence;
pub mod gather;
mod health;
mod mig;
mod scope;

use super::topology::{Source, Topology};
use super::{Instance, visible};
use evidence::{Case, Evidence};
use serde::Serialize;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing to do.
    Ok,
    /// It could not be looked at.
    Unknown,
    /// Measuring works, with something to know.
    Warning,
    /// Something can't be measured.
    Problem,
}

/// What a check is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// Without it nothing can be measured.
    Needed,
    /// It makes numbers better or richer.
    Useful,
    /// It matters to whoever administers the machine.
    AdminOnly,
}

/// Something that a person may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Remedy {
    /// In words.
    pub what: String,
    /// The command, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// What it would disturb.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disturbs: Option<String>,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Short name; the key in JSON.
    pub name: &'static str,
    /// What it is good for.
    pub need: Need,
    /// How it came out.
    pub verdict: Verdict,
    /// What was seen.
    pub evidence: Vec<String>,
    /// What to do next.
    pub remedies: Vec<Remedy>,
}

/// All checks, in order, and what can be measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// In the order in which they build on each other.
    pub checks: Vec<Check>,
    /// What is in scope, and whether it can be measured.
    pub instances: Vec<Finding>,
}

/// One instance in scope.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// The instance.
    pub instance: Instance,
    /// Why it can't be measured; none if it can, as far as is known.
    pub obstacle: Option<String>,
}

impl Report {
    /// How many of the instances in scope can be measured.
    pub fn measurable(&self) -> usize {
        self.instances.iter().filter(|finding| finding.obstacle.is_none()).count()
    }
}

impl Check {
    fn new(name: &'static str, need: Need) -> Check {
        Check { name, need, verdict: Verdict::Ok, evidence: Vec::new(), remedies: Vec::new() }
    }

    fn says(mut self, verdict: Verdict, evidence: impl Into<String>) -> Check {
        self.add(verdict, evidence);
        self
    }

    /// Another thing that was seen; the worst one decides.
    fn add(&mut self, verdict: Verdict, evidence: impl Into<String>) {
        self.verdict = self.verdict.max(verdict);
        self.evidence.push(evidence.into());
    }

    fn advise(&mut self, what: impl Into<String>) {
        self.remedy(what, None::<String>, None::<String>);
    }

    fn remedy(
        &mut self,
        what: impl Into<String>,
        command: Option<impl Into<String>>,
        disturbs: Option<impl Into<String>>,
    ) {
        let remedy = Remedy {
            what: what.into(),
            command: command.map(Into::into),
            disturbs: disturbs.map(Into::into),
        };
        // The same step is needed once, however many GPUs ask for it.
        if !self.remedies.contains(&remedy) {
            self.remedies.push(remedy);
        }
    }
}

/// Judges. Checks that need something which is not there are left out.
pub fn examine(case: &Case) -> Report {
    let evidence = case.evidence.as_ref();
    let mut checks = vec![driver::library(case)];
    if let Ok(topology) = &case.topology {
        checks.push(driver::version(topology, evidence));
        checks.push(driver::alive(topology));
        if !topology.gpus.is_empty() {
            checks.extend([
                mig::capable(topology),
                mig::mode(topology, evidence),
                mig::instances(topology),
                mig::without_compute_instance(topology, evidence),
            ]);
        }
    }
    if let Some(evidence) = evidence {
        if let Ok(topology) = &case.topology {
            checks.push(access::permission(topology, evidence));
            checks.extend(access::user(topology, evidence));
        }
        checks.extend(scope::container(evidence));
        if let Ok(topology) = &case.topology {
            checks.push(scope::visible(topology, evidence));
            checks.push(scope::cuda(topology, evidence));
            checks.push(scope::mps(evidence));
        }
    }
    if let Ok(topology) = &case.topology {
        if topology.source == Source::Nvml {
            checks.extend(health::of_gpus(topology));
        }
        checks.extend(evidence.map(health::dcgm));
        checks.extend(evidence.map(|evidence| health::processors(topology, evidence)));
    }
    let instances = case.topology.as_ref().map(|topology| findings(topology, evidence));
    Report { checks, instances: instances.unwrap_or_default() }
}

/// Each instance in scope with what stands in its way.
fn findings(topology: &Topology, evidence: Option<&Evidence>) -> Vec<Finding> {
    let scope = evidence.and_then(|e| e.variable("CUDA_VISIBLE_DEVICES"));
    let instances = match scope {
        Some(value) => visible::resolve(value, topology).instances,
        None => topology.instances(),
    };
    let finding =
        |instance: Instance| Finding { obstacle: obstacle(&instance, topology, evidence), instance };
    instances.into_iter().map(finding).collect()
}

fn obstacle(instance: &Instance, topology: &Topology, evidence: Option<&Evidence>) -> Option<String> {
    let gpu = topology.gpus.iter().find(|gpu| Some(&gpu.uuid) == instance.gpu_uuid.as_ref())?;
    if driver::too_old(topology) {
        return Some("the driver is too old for migbench's CUDA device".to_owned());
    }
    if gpu.compute_mode.as_deref() == Some("prohibited") {
        return Some("the GPU's compute mode is prohibited".to_owned());
    }
    access::obstacle(instance, gpu, evidence?).or_else(|| scope::cuda_obstacle(evidence?))
}

/// May this process use the instance? An error says why not; none where nobody knows.
pub fn usable(instance: &Instance, topology: &Topology, evidence: Option<&Evidence>) -> Result<(), String> {
    let scope = evidence.and_then(|e| e.variable("CUDA_VISIBLE_DEVICES"));
    if let Some(value) = scope
        && !visible::resolve(value, topology).instances.contains(instance)
    {
        return Err(format!("outside CUDA_VISIBLE_DEVICES={value}"));
    }
    obstacle(instance, topology, evidence).map_or(Ok(()), Err)
}

/// `GPU 0 (NVIDIA H200)`.
fn name(gpu: &super::Gpu) -> String {
    match gpu.name.as_str() {
        "" => format!("GPU {}", gpu.index),
        name => format!("GPU {} ({name})", gpu.index),
    }
}

/// Things joined as people do: `a, b and c`.
fn and(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::evidence::{Cpus, Cuda, Program, Silent};
    use super::*;
    use crate::machine::capabilities::{Access, Capability, Instance as Files, Node};
    use crate::machine::topology::tests::mixed;
    use crate::machine::topology::{Mode, RemappedRows};
    use std::path::PathBuf;

    fn node(path: &str, access: Access) -> Node {
        Node { path: PathBuf::from(path), access, mode: Some(0o444), uid: Some(0), gid: Some(0) }
    }

    fn file(minor: u32, access: Access, modify: bool) -> Capability {
        Capability {
            path: PathBuf::from(format!("/proc/driver/nvidia/capabilities/{minor}")),
            minor: Some(minor),
            mode: Some(0o444),
            modify: Some(modify),
            node: Some(node(&format!("/dev/nvidia-caps/nvidia-cap{minor}"), access)),
        }
    }

    /// GPU 1's two instances; the capability node of the second came out as given.
    fn case(access: Access, modify: bool) -> Case {
        let mut topology = mixed();
        for gpu in &mut topology.gpus {
            gpu.minor = Some(gpu.index);
        }
        let files = |gi: u32, ci: Capability| {
            let compute = [(0, ci)].into();
            (gi, Files { access: Some(file(10 * gi, Access::Open, true)), compute })
        };
        let mut evidence = Evidence::default();
        evidence.capabilities.present = true;
        evidence
            .capabilities
            .gpus
            .insert(1, [files(1, file(11, Access::Open, true)), files(9, file(91, access, modify))].into());
        evidence.nodes = vec![node("/dev/nvidiactl", Access::Open), node("/dev/nvidia1", Access::Open)];
        evidence.cpus = Cpus { allowed: 8, cores: 4, ..Cpus::default() };
        Case { topology: Ok(topology), evidence: Some(evidence) }
    }

    fn check<'a>(report: &'a Report, name: &str) -> &'a Check {
        report.checks.iter().find(|check| check.name == name).unwrap()
    }

    /// `permission`: its verdict, what was seen, what to do.
    fn permission(access: Access, modify: bool) -> (Verdict, String, String, usize) {
        let report = examine(&case(access, modify));
        let check = check(&report, "permission");
        let remedy = check.remedies.first().map_or(String::new(), |remedy| {
            format!("{} | {}", remedy.what, remedy.command.as_deref().unwrap_or_default())
        });
        (check.verdict, check.evidence[0].clone(), remedy, report.measurable())
    }

    #[test]
    fn refusals_of_a_node_are_told_apart() {
        let instance = "MIG-11112222-0000-5000-8000-000000000002 (1g.10gb)";
        let cap = "/dev/nvidia-caps/nvidia-cap91";
        let (verdict, seen, remedy, count) = permission(Access::Denied, true);
        assert_eq!((verdict, count), (Verdict::Problem, 2));
        assert_eq!(seen, format!("{instance}: {cap} (mode 0444): permission denied (EACCES)"));
        assert!(remedy.ends_with(&format!("| chmod a+r {cap}")), "{remedy}");
        let (verdict, seen, remedy, count) = permission(Access::Blocked, true);
        assert_eq!((verdict, count), (Verdict::Problem, 2));
        assert!(seen.ends_with("not permitted (EPERM): the container's device list lacks it"), "{seen}");
        assert!(remedy.starts_with("grant it to the container"), "{remedy}");
        let (verdict, seen, remedy, count) = permission(Access::Missing, true);
        assert_eq!((verdict, count), (Verdict::Warning, 3));
        assert!(seen.ends_with("does not exist (ENOENT)"), "{seen}");
        assert!(remedy.ends_with("| nvidia-modprobe -f /proc/driver/nvidia/capabilities/91"), "{remedy}");
        let (_, _, remedy, _) = permission(Access::Missing, false);
        assert!(remedy.contains("(DeviceFileModify is 0): make it with mknod, as root"), "{remedy}");
        let (verdict, seen, _, count) = permission(Access::Error(5), true);
        assert_eq!((verdict, count), (Verdict::Problem, 2));
        assert!(seen.ends_with(": error 5"), "{seen}");
        assert_eq!(permission(Access::Open, true).1, "this user may use every instance");
    }

    #[test]
    fn what_prevents_everything_leaves_nothing_to_measure() {
        let with = |change: &dyn Fn(&mut Case)| {
            let mut case = case(Access::Open, true);
            change(&mut case);
            examine(&case).measurable()
        };
        assert_eq!(with(&|_| {}), 3);
        let cuda = |answer: Result<Cuda, Silent>| {
            with(&|case| case.evidence.as_mut().unwrap().cuda = Some(answer.clone()))
        };
        assert_eq!(
            cuda(Ok(Cuda { error: Some("cuInit: 802".into()), code: Some(802), ..Cuda::default() })),
            0
        );
        assert_eq!(cuda(Err(Silent::Died("was killed".into()))), 0);
        assert_eq!(cuda(Err(Silent::Hung(5))), 3, "it may merely be slow");
        let prohibit = |case: &mut Case| {
            case.topology.as_mut().unwrap().gpus[1].compute_mode = Some("prohibited".into());
        };
        assert_eq!(with(&prohibit), 1);
        assert_eq!(with(&|case| case.topology.as_mut().unwrap().driver_version = Some("460.1".into())), 0);
        assert_eq!(with(&|case| case.topology = Err(Silent::Hung(5))), 0);
    }

    #[test]
    fn what_makes_numbers_worse_is_warned_of() {
        let mut case = case(Access::Open, true);
        let evidence = case.evidence.as_mut().unwrap();
        evidence.cpus.quota = Some(2.0);
        evidence.services = vec![Program { pid: 7, name: "nvidia-cuda-mps-control".into(), gpus: vec![] }];
        let gpu = &mut case.topology.as_mut().unwrap().gpus[1];
        gpu.ecc = Some(Mode { current: true, pending: false });
        gpu.remapped_rows =
            Some(RemappedRows { correctable: 1, uncorrectable: 2, pending: true, failure: true });
        gpu.persistence = Some(false);
        gpu.throttle_reasons = Some(0x44);
        (gpu.power_limit_mw, gpu.power_limit_default_mw) = (Some(500_000), Some(700_000));
        (gpu.pcie.width, gpu.pcie.width_max) = (Some(8), Some(16));
        let report = examine(&case);
        for (name, text) in [
            ("processors", "3 workers that poll do not fit on 2 cores"),
            ("MPS", "running: nvidia-cuda-mps-control (pid 7)"),
            ("ECC and remapped rows", "GPU 1 (NVIDIA H100 80GB HBM3): a row could not be remapped"),
            (
                "ECC and remapped rows",
                "GPU 1 (NVIDIA H100 80GB HBM3): a row is to be remapped at the next reset",
            ),
            (
                "persistence",
                "GPU 1 (NVIDIA H100 80GB HBM3): off: starting takes longer; the mode and its instances may go when the last program ends",
            ),
            (
                "clocks",
                "GPU 1 (NVIDIA H100 80GB HBM3): clocks are held down by power cap and hardware thermal slowdown",
            ),
            ("clocks", "GPU 1 (NVIDIA H100 80GB HBM3): the power limit is below the factory's"),
            ("PCIe link", "GPU 1 (NVIDIA H100 80GB HBM3): the link is narrower than the card: reseat it"),
        ] {
            let check = check(&report, name);
            assert_eq!(check.verdict, Verdict::Warning, "{name}");
            assert!(check.evidence.iter().any(|line| line == text), "{name}: {:?}", check.evidence);
        }
        assert_eq!(report.measurable(), 3, "none of it prevents measuring");
    }

    /// Nothing that changes a GPU, a node or a daemon is run from here: the only programs that this
    /// folder starts are this one and, in `list`, nvidia-smi -L.
    #[test]
    fn remedies_are_text() {
        for source in [
            include_str!("access.rs"),
            include_str!("driver.rs"),
            include_str!("health.rs"),
            include_str!("mig.rs"),
            include_str!("scope.rs"),
        ] {
            assert!(!source.contains("std::process") && !source.contains("Command::"));
        }
    }
}
