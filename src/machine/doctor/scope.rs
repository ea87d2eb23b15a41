//! What this process is allowed to see: container, CUDA_VISIBLE_DEVICES, CUDA's own answer, MPS.

use super::evidence::{Evidence, Silent};
use super::{Check, Need, Verdict, and};
use crate::machine::topology::Topology;
use crate::machine::{Instance, InstanceKind, visible};

/// Bit of CAP_SYS_ADMIN.
const SYS_ADMIN: u32 = 21;

/// Only where there is a container, or a container's variables.
pub(super) fn container(evidence: &Evidence) -> Option<Check> {
    let variables: Vec<(&str, &str)> = [
        "NVIDIA_VISIBLE_DEVICES",
        "NVIDIA_DRIVER_CAPABILITIES",
        "NVIDIA_MIG_CONFIG_DEVICES",
        "NVIDIA_MIG_MONITOR_DEVICES",
    ]
    .into_iter()
    .filter_map(|name| Some((name, evidence.variable(name)?)))
    .collect();
    if evidence.container.is_empty() && variables.is_empty() {
        return None;
    }
    let mut check = Check::new("container", Need::Useful);
    for sign in &evidence.container {
        check.add(Verdict::Ok, sign.clone());
    }
    for (name, value) in &variables {
        let remark = match (*name, *value) {
            ("NVIDIA_VISIBLE_DEVICES", "void") => " (normal under CDI: devices are passed in another way)",
            ("NVIDIA_VISIBLE_DEVICES", "none") => " (the driver's libraries without a GPU)",
            _ => "",
        };
        check.add(Verdict::Ok, format!("{name}={value}{remark}"));
    }
    if let Some(value) = evidence.variable("NVIDIA_DRIVER_CAPABILITIES")
        && !value.split(',').any(|word| matches!(word, "all" | "compute"))
    {
        check.add(Verdict::Problem, "NVIDIA_DRIVER_CAPABILITIES lacks 'compute': libcuda is not passed in");
        check.advise("start the container with NVIDIA_DRIVER_CAPABILITIES=compute,utility");
    }
    if let Some(bits) = evidence.effective_capabilities {
        let admin = bits >> SYS_ADMIN & 1 == 1;
        let word = if admin { "with" } else { "without" };
        check.add(Verdict::Ok, format!("this process is {word} CAP_SYS_ADMIN"));
        let wants = ["NVIDIA_MIG_CONFIG_DEVICES", "NVIDIA_MIG_MONITOR_DEVICES"];
        if let Some(name) = wants.iter().find(|name| evidence.variable(name).is_some() && !admin) {
            check.add(Verdict::Warning, format!("{name} needs a privileged container"));
        }
    }
    Some(check)
}

fn names(instances: &[Instance]) -> String {
    let name = |i: &Instance| format!("{} ({})", i.uuid().unwrap_or_default(), i.label());
    and(&instances.iter().map(name).collect::<Vec<_>>())
}

/// CUDA_VISIBLE_DEVICES as inherited, each token as the driver reads it, and what will be used.
pub(super) fn visible(topology: &Topology, evidence: &Evidence) -> Check {
    let mut check = Check::new("CUDA_VISIBLE_DEVICES", Need::Needed);
    let value = evidence.variable("CUDA_VISIBLE_DEVICES");
    let major = topology.driver_major();
    let used = visible::used(value, topology, major);
    match value {
        None => check.add(Verdict::Ok, "not set: everything is in scope"),
        Some(value) if value.trim().is_empty() => {
            check.add(Verdict::Problem, "set and empty: CUDA shows no device");
            check.remedy("take it out of the environment", Some("unset CUDA_VISIBLE_DEVICES"), None::<&str>);
        }
        Some(value) => {
            check.add(Verdict::Ok, format!("CUDA_VISIBLE_DEVICES={value}"));
            for (token, found) in visible::tokens(value, topology) {
                match found.len() {
                    0 => {}
                    _ => check.add(Verdict::Ok, format!("'{token}' is {}", names(&found))),
                }
                index_on_mig(&mut check, &token, &found, topology);
            }
        }
    }
    if let Some(refused) = &used.refused {
        refuse(&mut check, refused, used.devices.is_empty());
    }
    let several = match major {
        Some(major) if major < visible::SEVERAL_SINCE => format!("driver {major}: one MIG device a process"),
        Some(major) => {
            format!("driver {major}: several GPU instances a process, one compute instance of each")
        }
        None => "driver of unknown version: the rules of R570 assumed".to_owned(),
    };
    if topology.gpus.iter().any(|gpu| gpu.mig_enabled() == Some(true)) {
        check.add(Verdict::Ok, format!("a program of yours would get {} ({several})", count(&used.devices)));
    }
    for reason in reasons(&used) {
        check.add(Verdict::Ok, reason);
    }
    if !used.left_out.is_empty() {
        check.advise("migbench pins a process of its own to each instance, so it reaches all in scope");
    }
    check
}

/// An entry that CUDA does not take.
fn refuse(check: &mut Check, refused: &visible::Refused, nothing_left: bool) {
    check.add(if nothing_left { Verdict::Problem } else { Verdict::Warning }, refused.to_string());
    if refused.token.starts_with("MIG-") {
        check.advise("a MIG UUID is gone when its instance is; `migbench list` shows those that are there");
    } else {
        check.advise("`migbench list` shows what is there");
    }
}

fn count(devices: &[Instance]) -> String {
    match devices {
        [] => "nothing".to_owned(),
        [one] => names(std::slice::from_ref(one)),
        many if many.len() <= 3 => names(many),
        many => format!("{} devices", many.len()),
    }
}

/// Why things are left out, each reason once.
fn reasons(used: &visible::Used) -> Vec<String> {
    let mut reasons: Vec<&str> = used.left_out.iter().map(|(_, reason)| *reason).collect();
    reasons.sort_unstable();
    reasons.dedup();
    let text = |reason: &&str| {
        let count = used.left_out.iter().filter(|(_, other)| other == reason).count();
        format!("{count} left out: {reason}")
    };
    reasons.iter().map(text).collect()
}

/// A GPU's own name on a GPU that is cut: which MIG device is meant is the driver's choice.
fn index_on_mig(check: &mut Check, token: &str, found: &[Instance], topology: &Topology) {
    let whole = !token.starts_with("MIG-") && found.iter().any(|i| i.kind == InstanceKind::Mig);
    if whole {
        check.add(
            Verdict::Warning,
            format!("'{token}' is a GPU with MIG on: CUDA chooses a MIG device of it"),
        );
        check.advise("name MIG devices by their UUIDs");
    }
    let models: std::collections::BTreeSet<&str> = topology.gpus.iter().map(|g| g.name.as_str()).collect();
    if token.parse::<u32>().is_ok() && models.len() > 1 {
        check.add(
            Verdict::Warning,
            format!("'{token}' is an index: with different GPUs here, CUDA counts the fastest first"),
        );
        check.remedy("count as NVML does", Some("export CUDA_DEVICE_ORDER=PCI_BUS_ID"), None::<&str>);
    }
}

/// What CUDA itself shows to a process like this one.
pub(super) fn cuda(topology: &Topology, evidence: &Evidence) -> Check {
    let mut check = Check::new("CUDA", Need::Needed);
    let expected =
        visible::used(evidence.variable("CUDA_VISIBLE_DEVICES"), topology, topology.driver_major());
    let cuda = match &evidence.cuda {
        None => return check.says(Verdict::Unknown, "CUDA was not asked"),
        Some(Err(Silent::Hung(seconds))) => {
            check.add(Verdict::Warning, format!("CUDA did not start within {seconds} s"));
            check.remedy(
                "on a machine with many GPUs and no persistence it may just be slow: keep the driver loaded, as root",
                Some("nvidia-smi -pm 1"),
                Some("nobody"),
            );
            return check;
        }
        Some(Err(silent)) => return check.says(Verdict::Problem, format!("{silent}")),
        Some(Ok(cuda)) => cuda,
    };
    if let Some(error) = &cuda.error {
        check.add(Verdict::Problem, error.clone());
        if cuda.code == Some(100) && !expected.devices.is_empty() {
            check.advise("NVML shows devices that CUDA does not: see 'permission' and 'instances' above");
        }
        return check;
    }
    let seen: Vec<String> = cuda
        .devices
        .iter()
        .map(|device| format!("{} {}", device.name, device.uuid.as_deref().unwrap_or("without a UUID")))
        .collect();
    let version = cuda.version.as_deref().unwrap_or("of unknown version");
    check.add(Verdict::Ok, format!("CUDA {version} shows {} to a process like this", plural(seen.len())));
    let unexpected: Vec<String> = cuda
        .devices
        .iter()
        .filter_map(|device| device.uuid.clone())
        .filter(|uuid| !expected.devices.iter().any(|i| i.uuid() == Some(uuid)))
        .collect();
    let missing: Vec<Instance> = expected
        .devices
        .iter()
        .filter(|i| !cuda.devices.iter().any(|device| device.uuid.as_deref() == i.uuid()))
        .cloned()
        .collect();
    if !unexpected.is_empty() || !missing.is_empty() {
        for name in seen {
            check.add(Verdict::Ok, name);
        }
        if !unexpected.is_empty() {
            check.add(
                Verdict::Warning,
                format!("not expected by the rules that are documented: {}", and(&unexpected)),
            );
        }
        if !missing.is_empty() {
            check.add(Verdict::Warning, format!("expected and not shown: {}", names(&missing)));
        }
        check.advise("the rules differ between drivers; each worker proves its device all the same");
    }
    check
}

fn plural(n: usize) -> String {
    if n == 1 { "1 device".to_owned() } else { format!("{n} devices") }
}

/// CUDA can't start at all, whatever the instance.
pub(super) fn cuda_obstacle(evidence: &Evidence) -> Option<String> {
    match evidence.cuda.as_ref()? {
        Ok(cuda) => cuda.error.clone(),
        Err(Silent::Died(how)) => Some(format!("asking CUDA {how}")),
        Err(Silent::Hung(_) | Silent::Absent(_)) => None,
    }
}

/// An MPS server changes what a latency means.
pub(super) fn mps(evidence: &Evidence) -> Check {
    let mut check = Check::new("MPS", Need::Useful);
    let daemons: Vec<String> = evidence
        .services
        .iter()
        .filter(|program| program.name.starts_with("nvidia-cuda-mps"))
        .map(|program| format!("{} (pid {})", program.name, program.pid))
        .collect();
    for (name, value) in evidence.environment.iter().filter(|(name, _)| name.starts_with("CUDA_MPS_")) {
        check.add(Verdict::Ok, format!("{name}={value}: migbench's workers do not inherit it"));
    }
    if daemons.is_empty() {
        check.add(Verdict::Ok, "no MPS daemon is seen");
    } else {
        check.add(Verdict::Warning, format!("running: {}", and(&daemons)));
        check.advise("workers are kept away from it, and a worker that finds itself under MPS is refused without --allow-mps");
        check.remedy(
            "stop it, as its owner",
            Some("echo quit | nvidia-cuda-mps-control"),
            Some("every client of it"),
        );
    }
    check
}
