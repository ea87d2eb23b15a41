//! MIG: can the card, is it on, are there instances?

use super::evidence::Evidence;
use super::{Check, Need, Verdict, and, name};
use crate::machine::topology::{Source, Topology};
use crate::machine::{Gpu, cards};
use std::collections::BTreeSet;

pub(super) fn capable(topology: &Topology) -> Check {
    let mut check = Check::new("MIG capable", Need::Useful);
    for gpu in topology.gpus.iter().filter(|gpu| !gpu.uuid.is_empty()) {
        match (gpu.mig_mode, gpu.unread.get("mig_mode")) {
            (Some(_), _) => {
                let names: Vec<&str> = gpu.profiles.iter().filter_map(|p| p.name.as_deref()).collect();
                let offers = match (names.len(), gpu.profiles.len()) {
                    (0, 0) => "its profiles are not known".to_owned(),
                    (0, count) => format!("offers {count} profiles that this driver does not name"),
                    _ => format!("offers {}", names.join(", ")),
                };
                check.add(Verdict::Ok, format!("{}: {offers}", name(gpu)));
            }
            (None, Some(why)) if topology.source == Source::Nvml && why.starts_with("NVML 3:") => {
                check.add(Verdict::Ok, format!("{} knows no MIG: it is measured as a whole", name(gpu)));
            }
            (None, why) => {
                let why = why.map_or("not known", String::as_str);
                check.add(Verdict::Unknown, format!("{}: {why}", name(gpu)));
            }
        }
        if let (Some(card), Some(driver)) = (cards::known(gpu), &topology.driver_version)
            && let Some(first) = card.since_driver.as_ref().filter(|_| card.is_before_mig(driver))
        {
            check.add(
                Verdict::Warning,
                format!("{}: driver {driver} is older than {first}, the first with MIG on it", name(gpu)),
            );
            check.advise(format!("update the driver to {first} or newer before you partition this GPU"));
        }
    }
    check
}

/// Ampere resets the GPU when MIG is switched and keeps the mode over a reboot; later ones neither.
fn is_ampere(gpu: &Gpu) -> bool {
    let models = ["A100", "A100X", "A30", "A30X", "A800", "AX800"];
    cards::words(&gpu.name).first().is_some_and(|word| models.contains(&word.as_str()))
}

pub(super) fn mode(topology: &Topology, evidence: Option<&Evidence>) -> Check {
    let mut check = Check::new("MIG mode", Need::Useful);
    for gpu in &topology.gpus {
        let Some(mode) = gpu.mig_mode else { continue };
        let word = |on| if on { "on" } else { "off" };
        if mode.current == mode.pending {
            check.add(Verdict::Ok, format!("{}: {}", name(gpu), word(mode.current)));
            if !mode.current {
                let disturbs = if is_ampere(gpu) {
                    "resets the GPU: nobody may be using it"
                } else {
                    "nobody may be using the GPU; the mode is lost when the driver unloads"
                };
                check.remedy(
                    "to partition it, as root",
                    Some(format!("nvidia-smi -i {} -mig 1", gpu.index)),
                    Some(disturbs),
                );
            }
            continue;
        }
        check.add(
            Verdict::Problem,
            format!("{}: {} now, {} after the next reset", name(gpu), word(mode.current), word(mode.pending)),
        );
        let holders = holders(gpu, evidence);
        if !holders.is_empty() {
            check.add(Verdict::Problem, format!("held by {}", and(&holders)));
            check.advise("end these programs first (monitoring daemons count), as root or as their owners");
        }
        check.remedy(
            "make the pending mode effective, as root; where a reset is not possible (a virtual machine), reboot",
            Some(format!("nvidia-smi --gpu-reset -i {}", gpu.index)),
            Some("every program on that GPU"),
        );
    }
    if check.evidence.is_empty() {
        check.add(Verdict::Unknown, "no GPU here says its MIG mode");
    }
    check
}

/// Who holds a GPU: NVML's processes and those with its device node open.
fn holders(gpu: &Gpu, evidence: Option<&Evidence>) -> Vec<String> {
    let computing = gpu.processes.iter().flatten().map(|p| (p.pid, String::new()));
    let holding = evidence.iter().flat_map(|e| &e.holders).filter(|p| {
        // Itself and whatever only looks would be gone by the time of the reset.
        gpu.minor.is_some_and(|minor| p.gpus.contains(&minor)) && p.name != "migbench"
    });
    let mut all: Vec<(u32, String)> = holding.map(|p| (p.pid, p.name.clone())).chain(computing).collect();
    all.sort();
    let mut seen = BTreeSet::new();
    // The named one comes last of its number.
    all.reverse();
    all.retain(|(pid, _)| seen.insert(*pid));
    all.reverse();
    let text = |(pid, name): &(u32, String)| match name.as_str() {
        "" => format!("pid {pid}"),
        name => format!("{name} (pid {pid})"),
    };
    all.iter().map(text).collect()
}

pub(super) fn instances(topology: &Topology) -> Check {
    let mut check = Check::new("instances", Need::Needed);
    let count = topology.instances().len();
    let total = |n: usize| format!("{n} {} to measure", if n == 1 { "instance" } else { "instances" });
    check.add(if count > 0 { Verdict::Ok } else { Verdict::Problem }, total(count));
    for gpu in topology.gpus.iter().filter(|gpu| gpu.mig_enabled() == Some(true)) {
        for (field, why) in gpu.unread.iter().filter(|(field, _)| field.starts_with("mig_devices.")) {
            let slot = field.trim_start_matches("mig_devices.");
            check.add(Verdict::Warning, format!("{}: MIG device {slot} can't be read: {why}", name(gpu)));
        }
        if !gpu.mig_devices.is_empty() {
            continue;
        }
        check.add(
            Verdict::Problem,
            format!("{} has MIG on and no MIG device: CUDA cannot run on it at all", name(gpu)),
        );
        let profile = gpu
            .profiles
            .first()
            .map_or("PROFILE".to_owned(), |p| p.name.clone().unwrap_or_else(|| p.id.to_string()));
        check.remedy(
            "see what it offers",
            Some(format!("nvidia-smi mig -i {} -lgip", gpu.index)),
            None::<&str>,
        );
        check.remedy(
            "create instances with their compute instances (-C), as root",
            Some(format!("nvidia-smi mig -i {} -cgi {profile} -C", gpu.index)),
            Some("nobody: the GPU has no instance"),
        );
    }
    check
}

/// A GPU instance without a compute instance takes its slices and can't be used.
pub(super) fn without_compute_instance(topology: &Topology, evidence: Option<&Evidence>) -> Check {
    let mut check = Check::new("GPU instances without a compute instance", Need::Useful);
    let mut known = false;
    for gpu in topology.gpus.iter().filter(|gpu| gpu.mig_enabled() == Some(true)) {
        let used: BTreeSet<u32> = gpu.mig_devices.iter().filter_map(|mig| mig.gi_id).collect();
        let from_nvml = gpu.gpu_instances.as_ref().map(|all| all.iter().map(|gi| gi.id).collect());
        let ids: Option<BTreeSet<u32>> = from_nvml.or_else(|| {
            let capabilities = evidence.map(|e| &e.capabilities)?;
            let tree = capabilities.gpus.get(&gpu.minor?)?;
            Some(tree.iter().filter(|(_, gi)| gi.compute.is_empty()).map(|(id, _)| *id).collect())
        });
        let Some(ids) = ids else { continue };
        known = true;
        for id in ids.difference(&used) {
            check.add(
                Verdict::Warning,
                format!(
                    "{}: GPU instance {id} holds no compute instance: CUDA and nvidia-smi -L do not show it",
                    name(gpu)
                ),
            );
            check.remedy(
                "create one that takes all of it, as root",
                Some(format!("nvidia-smi mig -i {} -gi {id} -cci", gpu.index)),
                Some("nobody: the GPU instance is empty"),
            );
        }
    }
    match (known, check.evidence.is_empty()) {
        (true, true) => check.says(Verdict::Ok, "none"),
        (false, true) if topology.gpus.iter().any(|gpu| gpu.mig_enabled() == Some(true)) => {
            let mut check = check.says(Verdict::Unknown, "only root may ask NVML, and /proc does not say");
            check.need = Need::AdminOnly;
            check
        }
        (false, true) => check.says(Verdict::Ok, "no GPU has MIG on"),
        _ => check,
    }
}
