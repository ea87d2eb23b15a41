//! What makes numbers worse or less repeatable without preventing them.

use super::evidence::Evidence;
use super::{Check, Need, Verdict, and, name};
use crate::machine::Gpu;
use crate::machine::topology::Topology;

/// NVML's throttle bits that mean heat or power (nvml.h): software power cap, hardware slowdown,
/// software thermal, hardware thermal, hardware power brake.
const THROTTLED: [(u64, &str); 5] = [
    (0x04, "power cap"),
    (0x08, "hardware slowdown"),
    (0x20, "software thermal slowdown"),
    (0x40, "hardware thermal slowdown"),
    (0x80, "hardware power brake"),
];
/// Application clocks and locked clocks share this one.
const APPLICATION_CLOCKS: u64 = 0x02;

/// The checks that ask each GPU something.
pub(super) fn of_gpus(topology: &Topology) -> Vec<Check> {
    let gpus: Vec<&Gpu> = topology.gpus.iter().filter(|gpu| !gpu.uuid.is_empty()).collect();
    if gpus.is_empty() {
        return Vec::new();
    }
    vec![persistence(&gpus), memory_errors(&gpus), clocks(&gpus), link(&gpus), processes(&gpus)]
}

fn persistence(gpus: &[&Gpu]) -> Check {
    let mut check = Check::new("persistence", Need::Useful);
    for gpu in gpus {
        match gpu.persistence {
            Some(true) => check.add(Verdict::Ok, format!("{}: on", name(gpu))),
            None => check.add(Verdict::Unknown, format!("{}: not known", name(gpu))),
            Some(false) => {
                let mig = gpu.mig_enabled() == Some(true);
                let lost =
                    if mig { "; the mode and its instances may go when the last program ends" } else { "" };
                check.add(Verdict::Warning, format!("{}: off: starting takes longer{lost}", name(gpu)));
                check.remedy(
                    "keep the driver loaded, as root",
                    Some(format!("nvidia-smi -i {} -pm 1", gpu.index)),
                    Some("nobody"),
                );
            }
        }
    }
    check
}

fn memory_errors(gpus: &[&Gpu]) -> Check {
    let mut check = Check::new("ECC and remapped rows", Need::Useful);
    for gpu in gpus {
        let word = |on| if on { "on" } else { "off" };
        let ecc = match gpu.ecc {
            None => "ECC not known".to_owned(),
            Some(mode) if mode.current == mode.pending => format!("ECC {}", word(mode.current)),
            Some(mode) => {
                format!("ECC {} now, {} after the next reset", word(mode.current), word(mode.pending))
            }
        };
        let pending = gpu.ecc.is_some_and(|mode| mode.current != mode.pending);
        let verdict = if pending { Verdict::Warning } else { Verdict::Ok };
        let rows = gpu.remapped_rows.map_or(String::new(), |rows| {
            format!(", rows remapped: {} correctable, {} uncorrectable", rows.correctable, rows.uncorrectable)
        });
        check.add(verdict, format!("{}: {ecc}{rows}", name(gpu)));
        let Some(rows) = gpu.remapped_rows else { continue };
        if rows.pending {
            check.add(Verdict::Warning, format!("{}: a row is to be remapped at the next reset", name(gpu)));
            check.remedy(
                "reset the GPU when nobody computes, as root",
                Some(format!("nvidia-smi --gpu-reset -i {}", gpu.index)),
                Some("every program on that GPU; MIG instances have to be created again"),
            );
        }
        if rows.failure {
            check.add(Verdict::Warning, format!("{}: a row could not be remapped", name(gpu)));
            check.advise("have the card examined: run NVIDIA's field diagnostic, ask the vendor");
        }
    }
    check
}

fn clocks(gpus: &[&Gpu]) -> Check {
    let mut check = Check::new("clocks", Need::Useful);
    for gpu in gpus {
        let clocks = gpu.clocks;
        let mhz = |clock: Option<u32>| clock.map_or("?".to_owned(), |mhz| mhz.to_string());
        let watts = |mw: Option<u32>| mw.map_or("?".to_owned(), |mw| (mw / 1000).to_string());
        check.add(
            Verdict::Ok,
            format!(
                "{}: SM {} MHz now, {} at most; power limit {} W, {} W from the factory",
                name(gpu),
                mhz(clocks.sm),
                mhz(clocks.sm_max),
                watts(gpu.power_limit_mw),
                watts(gpu.power_limit_default_mw)
            ),
        );
        let reasons = gpu.throttle_reasons.unwrap_or(0);
        let held: Vec<String> = THROTTLED
            .iter()
            .filter(|(bit, _)| reasons & bit != 0)
            .map(|(_, what)| (*what).to_owned())
            .collect();
        if !held.is_empty() {
            check.add(Verdict::Warning, format!("{}: clocks are held down by {}", name(gpu), and(&held)));
        }
        if reasons & APPLICATION_CLOCKS != 0 {
            check
                .add(Verdict::Ok, format!("{}: clocks are locked or set by an application clock", name(gpu)));
        }
        if gpu.power_limit_mw < gpu.power_limit_default_mw {
            check.add(Verdict::Warning, format!("{}: the power limit is below the factory's", name(gpu)));
        }
    }
    check.need = Need::Useful;
    check
}

fn link(gpus: &[&Gpu]) -> Check {
    let mut check = Check::new("PCIe link", Need::Useful);
    for gpu in gpus {
        let show = |value: Option<u32>| value.map_or("?".to_owned(), |v| v.to_string());
        let pcie = gpu.pcie;
        let numa = gpu.numa_node.map_or(String::new(), |node| format!(", NUMA node {node}"));
        check.add(
            Verdict::Ok,
            format!(
                "{}: generation {} of {}, width {} of {}{numa}",
                name(gpu),
                show(pcie.generation),
                show(pcie.generation_max),
                show(pcie.width),
                show(pcie.width_max)
            ),
        );
        // An idle card lowers the generation, never the width.
        if pcie.width < pcie.width_max {
            check.add(
                Verdict::Warning,
                format!("{}: the link is narrower than the card: reseat it", name(gpu)),
            );
        }
    }
    check
}

fn processes(gpus: &[&Gpu]) -> Check {
    let mut check = Check::new("other processes", Need::Useful);
    for gpu in gpus {
        match &gpu.processes {
            None => {
                let why = gpu.unread.get("processes").map_or("not known", String::as_str);
                check.add(Verdict::Unknown, format!("{}: {why}", name(gpu)));
            }
            Some(list) if list.is_empty() => check.add(Verdict::Ok, format!("{}: none seen", name(gpu))),
            Some(list) => {
                let one = |p: &crate::machine::topology::Process| match (p.gi_id, p.ci_id) {
                    (Some(gi), Some(ci)) => format!("pid {} in GI {gi} CI {ci}", p.pid),
                    _ => format!("pid {}", p.pid),
                };
                let all: Vec<String> = list.iter().map(one).collect();
                check.add(Verdict::Warning, format!("{}: {}", name(gpu), and(&all)));
                check.advise("an instance with somebody else's process is disturbed; its neighbours share clock and power");
            }
        }
    }
    check
}

pub(super) fn dcgm(evidence: &Evidence) -> Check {
    let check = Check::new("DCGM", Need::Useful);
    let daemons: Vec<String> = evidence
        .services
        .iter()
        .filter(|p| p.name.starts_with("nv-hostengine") || p.name.starts_with("dcgm-exporter"))
        .map(|p| format!("{} (pid {})", p.name, p.pid))
        .collect();
    if daemons.is_empty() {
        return check.says(Verdict::Ok, "no nv-hostengine is seen");
    }
    let mut check = check.says(Verdict::Warning, format!("running: {}", and(&daemons)));
    check.remedy(
        "its profiling takes counters and a little power; to measure without it, as root",
        Some("dcgmi profile --pause"),
        Some("monitoring, until dcgmi profile --resume"),
    );
    check
}

/// A worker that waits by polling takes a core.
pub(super) fn processors(topology: &Topology, evidence: &Evidence) -> Check {
    let mut check = Check::new("processors", Need::Useful);
    let (cpus, workers) = (evidence.cpus, topology.instances().len());
    let quota = match cpus.quota {
        Some(quota) => format!(", the cgroup allows {quota} of them"),
        None if cpus.quota_unknown => ", whether a cgroup limits them is unknown".to_owned(),
        None => String::new(),
    };
    check.add(
        Verdict::Ok,
        format!(
            "{} logical processors, {} cores{quota}; {workers} at most at once",
            cpus.allowed, cpus.cores
        ),
    );
    let limit = cpus.quota.map_or(cpus.cores, |quota| cpus.cores.min(quota as usize));
    if limit < workers {
        check.add(Verdict::Warning, format!("{workers} workers that poll do not fit on {limit} cores"));
        check
            .advise("when all are measured at once, say --sync blocking or give the process more processors");
    }
    check
}
