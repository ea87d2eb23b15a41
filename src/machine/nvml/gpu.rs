//! One GPU's answers.

use super::super::topology::{Clocks, Gpu, Mode, Pcie, Process, RemappedRows, Unread};
use super::{check, instances, note, profiles, symbol};
use nvml_wrapper::enum_wrappers::device::{Clock, ComputeMode};
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::ProcessInfo;
use nvml_wrapper::{Device, Nvml};
use nvml_wrapper_sys::bindings::nvmlMemory_t;

/// Asks everything that a topology holds.
pub(super) fn read(nvml: &Nvml, index: u32, device: &Device) -> Gpu {
    let mut unread = Unread::new();
    let mut gpu = identity(nvml, index, device, &mut unread);
    state(nvml, device, &mut gpu, &mut unread);
    profiles::read(nvml, device, &mut gpu, &mut unread);
    instances::read(nvml, device, &mut gpu, &mut unread);
    gpu.processes = processes(device, &gpu, &mut unread);
    gpu.unread = unread;
    gpu
}

fn identity(nvml: &Nvml, index: u32, device: &Device, unread: &mut Unread) -> Gpu {
    let mig_mode = note(unread, "mig_mode", device.mig_mode());
    let mig_on = mig_mode.as_ref().is_some_and(|mode| mode.current == 1);
    Gpu {
        index,
        minor: note(unread, "minor", device.minor_number()),
        uuid: note(unread, "uuid", device.uuid()).unwrap_or_default(),
        name: note(unread, "name", device.name()).unwrap_or_default(),
        pci_bus_id: note(unread, "pci_bus_id", device.pci_info()).map(|pci| pci.bus_id),
        serial: note(unread, "serial", device.serial()),
        vbios: note(unread, "vbios", device.vbios_version()),
        memory_mib: note(unread, "memory_mib", memory_bytes(nvml, device)).map(|bytes| bytes >> 20),
        mig_mode: mig_mode.map(|m| Mode { current: m.current == 1, pending: m.pending == 1 }),
        // Not a count but the most there can be.
        mig_devices_max: if mig_on {
            note(unread, "mig_devices_max", device.mig_device_count())
        } else {
            device.mig_device_count().ok()
        },
        ..Gpu::default()
    }
}

/// Drivers before R510 lack the second version of the call. On a GPU with MIG on, this is refused
/// without `mig/monitor`: the usual case in a container.
fn memory_bytes(nvml: &Nvml, device: &Device) -> Result<u64, NvmlError> {
    match device.memory_info() {
        Err(NvmlError::FailedToLoadSymbol(_)) => {
            let call = symbol(&nvml.lib().nvmlDeviceGetMemoryInfo)?;
            let mut memory = nvmlMemory_t { total: 0, free: 0, used: 0 };
            // SAFETY: the handle is this library's, which stays open; `memory` outlives the call.
            check(unsafe { call(device.handle(), &mut memory) })?;
            Ok(memory.total)
        }
        answer => answer.map(|memory| memory.total),
    }
}

fn state(nvml: &Nvml, device: &Device, gpu: &mut Gpu, unread: &mut Unread) {
    gpu.ecc = note(unread, "ecc", device.is_ecc_enabled())
        .map(|ecc| Mode { current: ecc.currently_enabled, pending: ecc.pending_enabled });
    gpu.power_limit_mw = note(unread, "power_limit_mw", device.power_management_limit());
    gpu.power_limit_default_mw =
        note(unread, "power_limit_default_mw", device.power_management_limit_default());
    gpu.pcie = Pcie {
        generation: note(unread, "pcie.generation", device.current_pcie_link_gen()),
        generation_max: note(unread, "pcie.generation_max", device.max_pcie_link_gen()),
        width: note(unread, "pcie.width", device.current_pcie_link_width()),
        width_max: note(unread, "pcie.width_max", device.max_pcie_link_width()),
    };
    gpu.compute_mode = note(unread, "compute_mode", device.compute_mode()).map(|mode| {
        match mode {
            ComputeMode::Default => "default",
            ComputeMode::ExclusiveThread => "exclusive-thread",
            ComputeMode::Prohibited => "prohibited",
            ComputeMode::ExclusiveProcess => "exclusive-process",
        }
        .to_owned()
    });
    gpu.persistence = note(unread, "persistence", device.is_in_persistent_mode());
    gpu.remapped_rows = note(unread, "remapped_rows", remapped_rows(nvml, device));
    gpu.clocks = Clocks {
        sm: note(unread, "clocks.sm", device.clock_info(Clock::SM)),
        sm_max: note(unread, "clocks.sm_max", device.max_clock_info(Clock::SM)),
        sm_application: note(unread, "clocks.sm_application", device.applications_clock(Clock::Graphics)),
        memory: note(unread, "clocks.memory", device.clock_info(Clock::Memory)),
        memory_max: note(unread, "clocks.memory_max", device.max_clock_info(Clock::Memory)),
    };
    gpu.throttle_reasons =
        note(unread, "throttle_reasons", device.current_throttle_reasons().map(|reasons| reasons.bits()));
}

fn remapped_rows(nvml: &Nvml, device: &Device) -> Result<RemappedRows, NvmlError> {
    let call = symbol(&nvml.lib().nvmlDeviceGetRemappedRows)?;
    let (mut correctable, mut uncorrectable, mut pending, mut failure) = (0, 0, 0, 0);
    // SAFETY: the handle is this library's; all four outlive the call.
    check(unsafe {
        call(device.handle(), &mut correctable, &mut uncorrectable, &mut pending, &mut failure)
    })?;
    Ok(RemappedRows { correctable, uncorrectable, pending: pending != 0, failure: failure != 0 })
}

/// The GPU's processes with their instance ids; where the GPU as a whole may not be asked, each MIG
/// device is.
pub(super) fn processes(device: &Device, gpu: &Gpu, unread: &mut Unread) -> Option<Vec<Process>> {
    let refused = match device.running_compute_processes() {
        Ok(found) => return Some(found.into_iter().map(process).collect()),
        Err(error) => error,
    };
    let mut all = Vec::new();
    for mig in &gpu.mig_devices {
        let answer = device.mig_device_by_index(mig.index).and_then(|d| d.running_compute_processes());
        let Ok(found) = answer else {
            unread.insert("processes".to_owned(), super::refusal(&refused));
            return None;
        };
        let named = |p| Process { gi_id: mig.gi_id, ci_id: mig.ci_id, ..process(p) };
        all.extend(found.into_iter().map(named));
    }
    if gpu.mig_devices.is_empty() {
        unread.insert("processes".to_owned(), super::refusal(&refused));
        return None;
    }
    Some(all)
}

fn process(info: ProcessInfo) -> Process {
    Process {
        pid: info.pid,
        gi_id: info.gpu_instance_id,
        ci_id: info.compute_instance_id,
        memory_mib: match info.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some(bytes >> 20),
            UsedGpuMemory::Unavailable => None,
        },
    }
}
