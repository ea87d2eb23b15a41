//! One GPU's answers.

use super::super::topology::{Clocks, Gpu, Mode, Pcie, Process, RemappedRows, Unread};
use super::{MigTarget, Unreadable, check, instances, note, plausible, profiles, symbol};
use nvml_wrapper::enum_wrappers::device::{Clock, ComputeMode};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use nvml_wrapper_sys::bindings::{nvmlMemory_t, nvmlProcessInfo_t};

/// As many processes as one GPU is believed to have.
const MOST_PROCESSES: u32 = 65_536;
/// Places for processes that start between the question how many there are and the one for the list.
const MORE_PROCESSES: u32 = 8;
/// How often that may happen in a row.
const LIST_ATTEMPTS: u32 = 5;

/// Asks everything that a topology holds.
pub(super) fn read(nvml: &Nvml, index: u32, device: &Device) -> Gpu {
    let mut unread = Unread::new();
    let mut gpu = identity(nvml, index, device, &mut unread);
    state(nvml, device, &mut gpu, &mut unread);
    profiles::read(nvml, device, &mut gpu, &mut unread);
    instances::read(nvml, device, &mut gpu, &mut unread);
    let slots: Vec<MigTarget> = super::Target::from(&gpu).mig;
    gpu.processes = processes(nvml, device, &slots, &mut unread);
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
        mig_devices_max: mig_devices_max(device, mig_on, unread),
        ..Gpu::default()
    }
}

/// Not a count but the most there can be. With MIG off, drivers may refuse the question.
fn mig_devices_max(device: &Device, mig_on: bool, unread: &mut Unread) -> Option<u32> {
    match device.mig_device_count() {
        Err(_) if !mig_on => None,
        answer => {
            let most = answer.map_err(Unreadable::from);
            let most = most.and_then(|most| plausible("MIG devices", most, instances::MOST_INSTANCES));
            note(unread, "mig_devices_max", most)
        }
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
pub(super) fn processes(
    nvml: &Nvml,
    device: &Device,
    slots: &[MigTarget],
    unread: &mut Unread,
) -> Option<Vec<Process>> {
    let refused = match compute_processes(nvml, device) {
        Ok(found) => return Some(found),
        Err(error) => error,
    };
    let mut all = Vec::new();
    for slot in slots {
        let mig = device.mig_device_by_index(slot.index).map_err(Unreadable::from);
        let Ok(found) = mig.and_then(|mig| compute_processes(nvml, &mig)) else {
            unread.insert("processes".to_owned(), refused.to_string());
            return None;
        };
        all.extend(found.into_iter().map(|p| Process { gi_id: slot.gi_id, ci_id: slot.ci_id, ..p }));
    }
    if slots.is_empty() {
        unread.insert("processes".to_owned(), refused.to_string());
        return None;
    }
    Some(all)
}

/// The wrapper's own function makes a list as long as the driver says, whatever it says.
fn compute_processes(nvml: &Nvml, device: &Device) -> Result<Vec<Process>, Unreadable> {
    let call = symbol(&nvml.lib().nvmlDeviceGetComputeRunningProcesses_v3)?;
    let mut list: Vec<nvmlProcessInfo_t> = Vec::new();
    for _ in 0..LIST_ATTEMPTS {
        let mut count = list.len() as u32;
        // Without a list, NVML only counts.
        let to = if list.is_empty() { std::ptr::null_mut() } else { list.as_mut_ptr() };
        // SAFETY: the handle is this library's; `to` has the `count` places that are said.
        let answer = check(unsafe { call(device.handle(), &mut count, to) });
        match answer {
            Ok(()) => {
                list.truncate(plausible("processes in its list", count, list.len() as u32)? as usize);
                return Ok(list.iter().map(process).collect());
            }
            Err(NvmlError::InsufficientSize(_)) => {
                let room = plausible("processes", count, MOST_PROCESSES)? + MORE_PROCESSES;
                let none = nvmlProcessInfo_t {
                    pid: 0,
                    usedGpuMemory: u64::MAX,
                    gpuInstanceId: u32::MAX,
                    computeInstanceId: u32::MAX,
                };
                list = vec![none; room as usize];
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(NvmlError::InsufficientSize(None).into())
}

/// All ones mean that a number is not known.
fn process(info: &nvmlProcessInfo_t) -> Process {
    let id = |id: u32| Some(id).filter(|&id| id != u32::MAX);
    Process {
        pid: info.pid,
        gi_id: id(info.gpuInstanceId),
        ci_id: id(info.computeInstanceId),
        memory_mib: Some(info.usedGpuMemory).filter(|&bytes| bytes != u64::MAX).map(|bytes| bytes >> 20),
    }
}
