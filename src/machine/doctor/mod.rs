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
