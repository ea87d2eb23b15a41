//! The driver: is it there, of which version, and do its GPUs answer?

use super::evidence::{Case, Evidence, Silent};
use super::{Check, Need, Verdict, name};
use crate::machine::nvml::Absent;
use crate::machine::topology::Topology;
use crate::machine::{refusal, topology::Source, visible};

/// CUDA graphs with flags and everything else that the CUDA device calls are in 11.4 (470).
const OLDEST_DRIVER: u32 = 470;
/// MIG devices have UUIDs of their own since 470.42.01.
const MIG_UUIDS_SINCE: u32 = 470;

pub(super) fn library(case: &Case) -> Check {
    let mut check = Check::new("driver library", Need::Needed);
    match &case.topology {
        Ok(topology) if topology.source == Source::NvidiaSmi => {
            check.add(Verdict::Unknown, "the topology is the text of nvidia-smi -L: it knows names only");
            check.advise("on that machine, `migbench doctor --capture FILE` saves all of it");
        }
        Ok(topology) => {
            let version = topology.nvml_version.as_deref().unwrap_or("of unknown version");
            check.add(Verdict::Ok, format!("NVML {version} is found and answers"));
        }
        Err(silent) => silence(&mut check, silent, case.evidence.as_ref()),
    }
    check
}

fn silence(check: &mut Check, silent: &Silent, evidence: Option<&Evidence>) {
    check.add(Verdict::Problem, silent.to_string());
    match silent {
        Silent::Absent(Absent::NoLibrary(_)) => {
            if evidence.is_some_and(|e| !e.container.is_empty()) {
                check.advise(
                    "this is a container: start it with the NVIDIA container toolkit \
                     (docker run --gpus all, or the device plugin in Kubernetes)",
                );
            } else {
                check.advise(
                    "no NVIDIA driver is installed here, or libnvidia-ml.so.1 is not where the loader looks",
                );
            }
            check.advise("without a GPU migbench measures the embedded CPU device: migbench --device cpu");
        }
        Silent::Absent(Absent::NoDriver(_)) => {
            check.remedy("load the kernel module, as root", Some("modprobe nvidia"), None::<&str>);
            check.advise("if it can't be loaded, dmesg says why; after an update of the kernel the module must be rebuilt");
        }
        Silent::Absent(Absent::Broken(why)) if refusal::code(why) == Some(18) => {
            let module = evidence.and_then(|e| e.kernel_module.as_deref()).unwrap_or("of unknown version");
            check.add(
                Verdict::Problem,
                format!("the loaded kernel module is {module}, the library is another"),
            );
            check.remedy(
                "reboot, or reload the module with every GPU program stopped, as root",
                Some("rmmod nvidia_uvm nvidia_drm nvidia_modeset nvidia; modprobe nvidia"),
                Some("every program that uses a GPU of this machine; MIG instances do not survive it"),
            );
        }
        Silent::Absent(Absent::Broken(_)) => {
            check.remedy("look for the driver's own words", Some("dmesg | grep -i nvrm"), None::<&str>);
        }
        Silent::Hung(_) | Silent::Died(_) => {
            check.remedy(
                "look for the driver's own words",
                Some("dmesg | grep -iE 'nvrm|xid'"),
                None::<&str>,
            );
            check.advise("a driver that does not answer usually needs a reset of the GPU or a reboot");
        }
    }
}

/// Is the driver too old for migbench's CUDA device?
pub(super) fn too_old(topology: &Topology) -> bool {
    topology.driver_major().is_some_and(|major| major < OLDEST_DRIVER)
}

pub(super) fn version(topology: &Topology, evidence: Option<&Evidence>) -> Check {
    let mut check = Check::new("driver version", Need::Needed);
    let Some(version) = &topology.driver_version else {
        return check.says(Verdict::Unknown, "the driver's version is not known");
    };
    let cuda = topology.cuda_version.as_deref().map_or(String::new(), |v| format!(", CUDA {v}"));
    check.add(Verdict::Ok, format!("driver {version}{cuda}"));
    let major = topology.driver_major().unwrap_or(u32::MAX);
    if too_old(topology) {
        check.add(Verdict::Problem, format!("migbench's CUDA device needs driver {OLDEST_DRIVER} or newer"));
        check.advise("update the driver");
    }
    if major < visible::SEVERAL_SINCE && topology.gpus.iter().any(|gpu| gpu.mig_devices.len() > 1) {
        check.add(
            Verdict::Ok,
            "before R570 a process sees one MIG device; migbench starts a process for each, so this limits your own programs only",
        );
    }
    if let Some(module) = evidence.and_then(|e| e.kernel_module.as_ref()).filter(|m| *m != version) {
        check.add(Verdict::Warning, format!("the loaded kernel module is {module}"));
        check.advise("the driver was updated and not reloaded: reboot when nobody computes");
    }
    check
}

/// Does every GPU answer?
pub(super) fn alive(topology: &Topology) -> Check {
    let mut check = Check::new("GPUs", Need::Needed);
    if topology.gpus.is_empty() {
        check.add(Verdict::Problem, "the driver answers and shows no GPU");
        check.advise("in a container: was one passed in? On a host: lspci | grep -i nvidia, then dmesg");
        return check;
    }
    for gpu in &topology.gpus {
        let lost = gpu.unread.get("handle").or(gpu.unread.get("uuid"));
        match lost {
            None => {
                let uuid = &gpu.uuid;
                let old = topology.driver_major().is_some_and(|major| major < MIG_UUIDS_SINCE);
                let form = if old { " (MIG devices are named MIG-GPU-…/gi/ci)" } else { "" };
                check.add(Verdict::Ok, format!("{} {uuid}{form}", name(gpu)));
            }
            Some(why) => {
                check.add(Verdict::Problem, format!("{} does not answer: {why}", name(gpu)));
                if refusal::code(why) == Some(refusal::GPU_IS_LOST) {
                    check.remedy(
                        "it has fallen off the bus: look for an Xid, then reset it or reboot, as root",
                        Some(format!("dmesg | grep -i xid; nvidia-smi --gpu-reset -i {}", gpu.index)),
                        Some("every program on that GPU"),
                    );
                } else {
                    check.remedy(
                        "look for the driver's own words",
                        Some("dmesg | grep -i nvrm"),
                        None::<&str>,
                    );
                }
            }
        }
    }
    check
}
