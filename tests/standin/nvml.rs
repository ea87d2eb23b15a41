//! A stand-in for libnvidia-ml that plays a topology from a file, so that everything on the NVML
//! side can be tested without a GPU: the real program, the real binding, the real FFI.
//!
//! It shows that migbench handles the shapes that its authors believe in; not that hardware has them.
#![allow(non_snake_case, reason = "NVIDIA's names")]

mod common;
mod contexts;

/// Declares exported functions: name, arguments, the GPU that a fault may mean, and the body.
macro_rules! export {
    ($(fn $name:ident($($argument:ident: $kind:ty),*) for $gpu:expr => $body:expr;)*) => {
        $(#[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($argument: $kind),*) -> u32 {
            if let Some(code) = common::fault(stringify!($name), $gpu) {
                return code;
            }
            // SAFETY: the caller keeps NVML's contract: pointers are valid for what NVML writes.
            unsafe { $body }
        })*
    };
}

mod counters;

use common::{lie, setting, stand_in, topology, write_text};
use migbench::machine::topology::{Engines, Placement, Profile, Unread};
use migbench::machine::{Gpu, MigDevice, refusal};
use nvml_wrapper_sys::bindings::*;
use std::ffi::{c_char, c_uint, c_ulonglong};

const OK: u32 = 0;
const INVALID_ARGUMENT: u32 = 2;
const NOT_SUPPORTED: u32 = 3;
const NOT_FOUND: u32 = 6;
const INSUFFICIENT_SIZE: u32 = 7;

/// Returns the code of a fault that was asked for.
macro_rules! may_fail {
    ($call:literal, $gpu:expr) => {
        if let Some(code) = common::fault($call, $gpu) {
            return code;
        }
    };
}

/// Handles are small numbers in place of pointers: GPU + 1 in the upper half, slot + 1 in the lower.
#[derive(Clone, Copy)]
enum Handle {
    Gpu(&'static Gpu),
    Mig(&'static Gpu, &'static MigDevice),
}

fn encode(gpu: u32, slot: Option<u32>) -> nvmlDevice_t {
    (((gpu as usize + 1) << 16) | slot.map_or(0, |slot| slot as usize + 1)) as nvmlDevice_t
}

fn decode(device: nvmlDevice_t) -> Option<Handle> {
    let number = device as usize;
    let gpu = topology().gpus.iter().find(|gpu| gpu.index as usize + 1 == number >> 16)?;
    match number & 0xffff {
        0 => Some(Handle::Gpu(gpu)),
        slot => {
            let mig = gpu.mig_devices.iter().find(|mig| mig.index as usize + 1 == slot)?;
            Some(Handle::Mig(gpu, mig))
        }
    }
}

impl Handle {
    fn gpu(self) -> &'static Gpu {
        match self {
            Handle::Gpu(gpu) | Handle::Mig(gpu, _) => gpu,
        }
    }
}

/// The code that a field was refused with.
fn refused(unread: &Unread, field: &str) -> u32 {
    unread.get(field).and_then(|why| refusal::code(why)).unwrap_or(NOT_SUPPORTED)
}

/// A whole GPU's field.
fn of_gpu<T>(device: nvmlDevice_t, field: &str, value: impl Fn(&Gpu) -> Option<T>) -> Result<T, u32> {
    match decode(device) {
        Some(Handle::Gpu(gpu)) => value(gpu).ok_or_else(|| refused(&gpu.unread, field)),
        Some(Handle::Mig(..)) => Err(INVALID_ARGUMENT),
        None => Err(INVALID_ARGUMENT),
    }
}

/// Writes an answer through a pointer.
///
/// # Safety
/// `to` is null or points to a `U`.
unsafe fn answer<T: Into<U>, U>(to: *mut U, value: Result<T, u32>) -> u32 {
    match value {
        Ok(_) if to.is_null() => INVALID_ARGUMENT,
        Ok(value) => {
            // SAFETY: the caller vouches for it.
            unsafe { *to = value.into() };
            OK
        }
        Err(code) => code,
    }
}

/// A count, or the number that is told in its place.
fn counted(call: &str, device: Option<u32>, count: usize) -> u32 {
    let told = lie(call, device);
    told.map_or(count as u32, |number| number.parse().expect("this call's lie is a number"))
}

/// # Safety
/// `to` has room for `length` bytes.
unsafe fn answer_text(to: *mut c_char, length: c_uint, text: Result<String, u32>) -> u32 {
    match text {
        // SAFETY: the caller vouches for it.
        Ok(text) if unsafe { write_text(to, length as usize, &text) } => OK,
        Ok(_) => INSUFFICIENT_SIZE,
        Err(code) => code,
    }
}

/// The GPU that a handle is of, for faults that mean one of several.
fn number(device: nvmlDevice_t) -> Option<u32> {
    decode(device).map(|handle| handle.gpu().index)
}

#[unsafe(no_mangle)]
extern "C" fn nvmlInit_v2() -> u32 {
    may_fail!("nvmlInit_v2", None);
    topology();
    // Real libraries write to their own files and to standard error; nothing keeps one from this.
    if setting("chatter").is_some() {
        use std::io::Write;
        let _ = writeln!(std::io::stdout(), "NVML says hello");
    }
    OK
}

#[unsafe(no_mangle)]
extern "C" fn nvmlShutdown() -> u32 {
    may_fail!("nvmlShutdown", None);
    OK
}

export! {
    fn nvmlSystemGetDriverVersion(to: *mut c_char, length: c_uint) for None => {
        let unread = refused(&topology().unread, "driver_version");
        answer_text(to, length, topology().driver_version.clone().ok_or(unread))
    };
    fn nvmlSystemGetNVMLVersion(to: *mut c_char, length: c_uint) for None => {
        let unread = refused(&topology().unread, "nvml_version");
        answer_text(to, length, topology().nvml_version.clone().ok_or(unread))
    };
    fn nvmlSystemGetCudaDriverVersion_v2(to: *mut i32) for None => {
        let number = || {
            let (major, minor) = topology().cuda_version.as_deref()?.split_once('.')?;
            Some(major.parse::<i32>().ok()? * 1000 + minor.parse::<i32>().ok()? * 10)
        };
        answer(to, number().ok_or(refused(&topology().unread, "cuda_version")))
    };
    fn nvmlDeviceGetCount_v2(to: *mut c_uint) for None => {
        answer(to, Ok(counted("nvmlDeviceGetCount_v2", None, topology().gpus.len())))
    };
    fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, to: *mut nvmlDevice_t) for Some(index) => {
        let found = topology().gpus.iter().find(|gpu| gpu.index == index);
        answer(to, match found {
            None => Err(INVALID_ARGUMENT),
            Some(gpu) if gpu.unread.contains_key("handle") => Err(refused(&gpu.unread, "handle")),
            Some(gpu) => Ok(encode(gpu.index, None)),
        })
    };
    fn nvmlDeviceGetUUID(device: nvmlDevice_t, to: *mut c_char, length: c_uint) for number(device) => {
        let text = match decode(device) {
            None => Err(INVALID_ARGUMENT),
            Some(Handle::Gpu(gpu)) if gpu.uuid.is_empty() => Err(refused(&gpu.unread, "uuid")),
            Some(Handle::Gpu(gpu)) => Ok(gpu.uuid.clone()),
            Some(Handle::Mig(_, mig)) if mig.uuid.is_empty() => Err(refused(&mig.unread, "uuid")),
            Some(Handle::Mig(_, mig)) => Ok(mig.uuid.clone()),
        };
        let is_mig = matches!(decode(device), Some(Handle::Mig(..)));
        let told = lie("nvmlDeviceGetUUID", number(device)).filter(|_| is_mig).map(str::to_owned);
        answer_text(to, length, told.map_or(text, Ok))
    };
    fn nvmlDeviceGetName(device: nvmlDevice_t, to: *mut c_char, length: c_uint) for number(device) => {
        let text = match decode(device) {
            None => Err(INVALID_ARGUMENT),
            Some(Handle::Gpu(gpu)) if gpu.name.is_empty() => Err(refused(&gpu.unread, "name")),
            Some(Handle::Gpu(gpu)) => Ok(stand_in(&gpu.name)),
            Some(Handle::Mig(gpu, mig)) => match &mig.profile {
                Some(profile) => Ok(format!("{} MIG {profile}", stand_in(&gpu.name))),
                None => Err(refused(&mig.unread, "profile")),
            },
        };
        answer_text(to, length, text)
    };
    fn nvmlDeviceGetMinorNumber(device: nvmlDevice_t, to: *mut c_uint) for number(device) => {
        answer(to, of_gpu(device, "minor", |gpu| gpu.minor))
    };
    fn nvmlDeviceGetSerial(device: nvmlDevice_t, to: *mut c_char, length: c_uint) for number(device) => {
        answer_text(to, length, of_gpu(device, "serial", |gpu| gpu.serial.clone()))
    };
    fn nvmlDeviceGetVbiosVersion(device: nvmlDevice_t, to: *mut c_char, length: c_uint) for number(device) => {
        answer_text(to, length, of_gpu(device, "vbios", |gpu| gpu.vbios.clone()))
    };
    fn nvmlDeviceGetPciInfo_v3(device: nvmlDevice_t, to: *mut nvmlPciInfo_t) for number(device) => {
        match of_gpu(device, "pci_bus_id", |gpu| gpu.pci_bus_id.clone()) {
            Ok(bus_id) => {
                *to = std::mem::zeroed();
                answer_text((*to).busId.as_mut_ptr(), (*to).busId.len() as u32, Ok(bus_id))
            }
            Err(code) => code,
        }
    };
    fn nvmlDeviceGetMemoryInfo_v2(device: nvmlDevice_t, to: *mut nvmlMemory_v2_t) for number(device) => {
        if (*to).version != size_of::<nvmlMemory_v2_t>() as u32 | 2 << 24 {
            return 25;
        }
        match memory_mib(device) {
            Ok(mib) => {
                (*to).total = mib << 20;
                ((*to).reserved, (*to).free, (*to).used) = (0, mib << 20, 0);
                OK
            }
            Err(code) => code,
        }
    };
    fn nvmlDeviceGetMemoryInfo(device: nvmlDevice_t, to: *mut nvmlMemory_t) for number(device) => {
        let memory = |mib: u64| nvmlMemory_t { total: mib << 20, free: mib << 20, used: 0 };
        answer(to, memory_mib(device).map(memory))
    };
    fn nvmlDeviceGetMigMode(device: nvmlDevice_t, current: *mut c_uint, pending: *mut c_uint) for number(device) => {
        match of_gpu(device, "mig_mode", |gpu| gpu.mig_mode) {
            Ok(mode) => {
                (*current, *pending) = (mode.current.into(), mode.pending.into());
                OK
            }
            Err(code) => code,
        }
    };
    fn nvmlDeviceGetMaxMigDeviceCount(device: nvmlDevice_t, to: *mut c_uint) for number(device) => {
        answer(to, of_gpu(device, "mig_devices_max", |gpu| gpu.mig_devices_max))
    };
    fn nvmlDeviceGetMigDeviceHandleByIndex(device: nvmlDevice_t, slot: c_uint, to: *mut nvmlDevice_t) for number(device) => {
        let find = |gpu: &Gpu| gpu.mig_devices.iter().any(|mig| mig.index == slot).then(|| encode(gpu.index, Some(slot)));
        let field = format!("mig_devices.{slot}");
        let code = match decode(device) {
            Some(Handle::Gpu(gpu)) if gpu.unread.contains_key(&field) => refused(&gpu.unread, &field),
            _ => NOT_FOUND,
        };
        answer(to, of_gpu(device, &field, find).map_err(|_| code))
    };
    fn nvmlDeviceGetGpuInstanceId(device: nvmlDevice_t, to: *mut c_uint) for number(device) => {
        answer(to, of_mig(device, "gi_id", |mig| mig.gi_id))
    };
    fn nvmlDeviceGetComputeInstanceId(device: nvmlDevice_t, to: *mut c_uint) for number(device) => {
        answer(to, of_mig(device, "ci_id", |mig| mig.ci_id))
    };
    fn nvmlDeviceGetAttributes_v2(device: nvmlDevice_t, to: *mut nvmlDeviceAttributes_t) for number(device) => {
        answer(to, of_mig(device, "sm_count", attributes))
    };
    fn nvmlDeviceGetEccMode(device: nvmlDevice_t, current: *mut c_uint, pending: *mut c_uint) for number(device) => {
        match of_gpu(device, "ecc", |gpu| gpu.ecc) {
            Ok(mode) => {
                (*current, *pending) = (mode.current.into(), mode.pending.into());
                OK
            }
            Err(code) => code,
        }
    };
    fn nvmlDeviceGetPowerManagementLimit(device: nvmlDevice_t, to: *mut c_uint) for number(device) => {
        answer(to, of_gpu(device, "power_limit_mw", |gpu| gpu.power_limit_mw))
    };
    fn nvmlDeviceGetPowerManagementDefaultLimit(device: nvmlDevice_t, to: *mut c_uint) for number(device) => {
        answer(to, of_gpu(device, "power_limit_default_mw", |gpu| gpu.power_limit_default_mw))
    };
    fn nvmlDeviceGetCurrPcieLinkGeneration(device: nvmlDevice_t, to: *mut c_uint) for number(device) => {
        answer(to, of_gpu(device, "pcie.generation", |gpu| gpu.pcie.generation))
    };
    fn nvmlDeviceGetMaxPcieLinkGeneration(device: nvmlDevice_t, to: *mut c_uint) for number(device) => {
        answer(to, of_gpu(device, "pcie.generation_max", |gpu| gpu.pcie.generation_max))
    };
    fn nvmlDeviceGetCurrPcieLinkWidth(device: nvmlDevice_t, to: *mut c_uint) for number(device) => {
        answer(to, of_gpu(device, "pcie.width", |gpu| gpu.pcie.width))
    };
    fn nvmlDeviceGetMaxPcieLinkWidth(device: nvmlDevice_t, to: *mut c_uint) for number(device) => {
        answer(to, of_gpu(device, "pcie.width_max", |gpu| gpu.pcie.width_max))
    };
    fn nvmlDeviceGetComputeMode(device: nvmlDevice_t, to: *mut c_uint) for number(device) => {
        let names = ["default", "exclusive-thread", "prohibited", "exclusive-process"];
        let mode = |gpu: &Gpu| names.iter().position(|name| gpu.compute_mode.as_deref() == Some(name));
        answer(to, of_gpu(device, "compute_mode", mode).map(|mode| mode as u32))
    };
    fn nvmlDeviceGetPersistenceMode(device: nvmlDevice_t, to: *mut c_uint) for number(device) => {
        answer(to, of_gpu(device, "persistence", |gpu| gpu.persistence))
    };
    fn nvmlDeviceGetRemappedRows(device: nvmlDevice_t, correctable: *mut c_uint, uncorrectable: *mut c_uint,
        pending: *mut c_uint, failure: *mut c_uint) for number(device) => {
        match of_gpu(device, "remapped_rows", |gpu| gpu.remapped_rows) {
            Ok(rows) => {
                (*correctable, *uncorrectable) = (rows.correctable, rows.uncorrectable);
                (*pending, *failure) = (rows.pending.into(), rows.failure.into());
                OK
            }
            Err(code) => code,
        }
    };
    fn nvmlDeviceGetClockInfo(device: nvmlDevice_t, kind: c_uint, to: *mut c_uint) for number(device) => {
        answer(to, match kind {
            2 => of_gpu(device, "clocks.memory", |gpu| gpu.clocks.memory),
            _ => of_gpu(device, "clocks.sm", |gpu| {
                Some((f64::from(gpu.clocks.sm?) * counters::clock_factor(&gpu.uuid)).round() as u32)
            }),
        })
    };
    fn nvmlDeviceGetMaxClockInfo(device: nvmlDevice_t, kind: c_uint, to: *mut c_uint) for number(device) => {
        answer(to, match kind {
            2 => of_gpu(device, "clocks.memory_max", |gpu| gpu.clocks.memory_max),
            _ => of_gpu(device, "clocks.sm_max", |gpu| gpu.clocks.sm_max),
        })
    };
    fn nvmlDeviceGetApplicationsClock(device: nvmlDevice_t, _kind: c_uint, to: *mut c_uint) for number(device) => {
        answer(to, of_gpu(device, "clocks.sm_application", |gpu| gpu.clocks.sm_application))
    };
    fn nvmlDeviceGetCurrentClocksThrottleReasons(device: nvmlDevice_t, to: *mut c_ulonglong) for number(device) => {
        answer(to, of_gpu(device, "throttle_reasons", |gpu| gpu.throttle_reasons))
    };
    fn nvmlDeviceGetComputeRunningProcesses_v3(device: nvmlDevice_t, count: *mut c_uint, to: *mut nvmlProcessInfo_t) for number(device) => {
        let list = match processes(device) {
            Ok(list) => list,
            Err(code) => return code,
        };
        let told = counted("nvmlDeviceGetComputeRunningProcesses_v3", number(device), list.len());
        let room = std::mem::replace(&mut *count, told);
        if (room as usize) < list.len() || (to.is_null() && told > 0) {
            return INSUFFICIENT_SIZE;
        }
        for (i, process) in list.into_iter().enumerate() {
            *to.add(i) = process;
        }
        OK
    };
    fn nvmlDeviceGetGpuInstanceProfileInfo(device: nvmlDevice_t, wanted: c_uint, to: *mut nvmlGpuInstanceProfileInfo_t) for number(device) => {
        let found = match profile(device, wanted) {
            Ok(found) => found,
            Err(code) => return code,
        };
        let engines = found.engines.unwrap_or_default();
        *to = nvmlGpuInstanceProfileInfo_t {
            id: found.id,
            isP2pSupported: 0,
            sliceCount: found.slices.unwrap_or(0),
            instanceCount: found.max.unwrap_or(0),
            multiprocessorCount: found.sm_count.unwrap_or(0),
            copyEngineCount: engines.copy,
            decoderCount: engines.decoder,
            encoderCount: engines.encoder,
            jpegCount: engines.jpeg,
            ofaCount: engines.ofa,
            memorySizeMB: found.memory_mib.unwrap_or(0),
        };
        OK
    };
    fn nvmlDeviceGetGpuInstanceProfileInfoV(device: nvmlDevice_t, wanted: c_uint, to: *mut nvmlGpuInstanceProfileInfo_v2_t) for number(device) => {
        if (*to).version != size_of::<nvmlGpuInstanceProfileInfo_v2_t>() as u32 | 2 << 24 {
            return 25;
        }
        let found = match profile(device, wanted) {
            Ok(found) => found,
            Err(code) => return code,
        };
        let engines = found.engines.unwrap_or_default();
        *to = nvmlGpuInstanceProfileInfo_v2_t {
            version: (*to).version,
            id: found.id,
            isP2pSupported: 0,
            sliceCount: found.slices.unwrap_or(0),
            instanceCount: found.max.unwrap_or(0),
            multiprocessorCount: found.sm_count.unwrap_or(0),
            copyEngineCount: engines.copy,
            decoderCount: engines.decoder,
            encoderCount: engines.encoder,
            jpegCount: engines.jpeg,
            ofaCount: engines.ofa,
            memorySizeMB: found.memory_mib.unwrap_or(0),
            name: [0; 96],
        };
        let name = found.name.clone().map_or(String::new(), |name| format!("MIG {name}"));
        answer_text((*to).name.as_mut_ptr(), 96, Ok(name))
    };
    fn nvmlDeviceGetGpuInstancePossiblePlacements_v2(device: nvmlDevice_t, id: c_uint,
        to: *mut nvmlGpuInstancePlacement_t, count: *mut c_uint) for number(device) => {
        let placements = match by_id(device, id).and_then(|p| p.placements.as_ref().ok_or(refused(&p.unread, "placements"))) {
            Ok(placements) => &placements.0,
            Err(code) => return code,
        };
        let told = counted("nvmlDeviceGetGpuInstancePossiblePlacements_v2", number(device), placements.len());
        let room = std::mem::replace(&mut *count, told);
        if to.is_null() {
            return OK;
        }
        if (room as usize) < placements.len() {
            return INSUFFICIENT_SIZE;
        }
        for (i, place) in placements.iter().enumerate() {
            *to.add(i) = nvmlGpuInstancePlacement_t { start: place.start, size: place.size };
        }
        OK
    };
    fn nvmlDeviceGetGpuInstanceRemainingCapacity(device: nvmlDevice_t, id: c_uint, to: *mut c_uint) for number(device) => {
        answer(to, by_id(device, id).and_then(|p| p.free.ok_or(refused(&p.unread, "free"))))
    };
    fn nvmlDeviceGetGpuInstances(device: nvmlDevice_t, id: c_uint, to: *mut nvmlGpuInstance_t, count: *mut c_uint) for number(device) => {
        let gpu = match of_gpu(device, "gpu_instances", |gpu| gpu.gpu_instances.is_some().then_some(gpu.index)) {
            Ok(index) => &topology().gpus[index as usize],
            Err(code) => return code,
        };
        let all = gpu.gpu_instances.iter().flatten().filter(|gi| gi.profile_id == Some(id));
        *count = 0;
        for (i, gi) in all.enumerate() {
            *to.add(i) = gpu_instance(gpu.index, gi.id);
            *count += 1;
        }
        *count = counted("nvmlDeviceGetGpuInstances", number(device), *count as usize);
        OK
    };
    fn nvmlDeviceGetGpuInstanceById(device: nvmlDevice_t, id: c_uint, to: *mut nvmlGpuInstance_t) for number(device) => {
        let gpu = match decode(device) {
            Some(Handle::Gpu(gpu)) => gpu,
            _ => return INVALID_ARGUMENT,
        };
        let mig = gpu.mig_devices.iter().find(|mig| mig.gi_id == Some(id));
        answer(to, match mig {
            Some(mig) if mig.placement.is_none() => Err(refused(&mig.unread, "placement")),
            Some(_) => Ok(gpu_instance(gpu.index, id)),
            None if gpu.gpu_instances.is_some() => Ok(gpu_instance(gpu.index, id)),
            None => Err(refused(&gpu.unread, "gpu_instances")),
        })
    };
    fn nvmlGpuInstanceGetInfo(handle: nvmlGpuInstance_t, to: *mut nvmlGpuInstanceInfo_t) for None => {
        let (gpu, id) = ids(handle as usize);
        let Some(gpu) = topology().gpus.get(gpu) else { return INVALID_ARGUMENT };
        let listed = gpu.gpu_instances.iter().flatten().find(|gi| gi.id == id);
        let listed = listed.and_then(|gi| Some((gi.profile_id?, gi.placement?)));
        let mig = gpu.mig_devices.iter().find(|mig| mig.gi_id == Some(id));
        let Some((profile, place)) = listed.or_else(|| Some((mig?.gi_profile_id?, mig?.placement?))) else {
            return NOT_FOUND;
        };
        let placement = nvmlGpuInstancePlacement_t { start: place.start, size: place.size };
        *to = nvmlGpuInstanceInfo_t { device: encode(gpu.index, None), id, profileId: profile, placement };
        OK
    };
    fn nvmlGpuInstanceGetComputeInstanceById(handle: nvmlGpuInstance_t, id: c_uint, to: *mut nvmlComputeInstance_t) for None => {
        answer(to, Ok((handle as usize | ((id as usize + 1) << 40)) as nvmlComputeInstance_t))
    };
    fn nvmlComputeInstanceGetInfo_v2(handle: nvmlComputeInstance_t, to: *mut nvmlComputeInstanceInfo_t) for None => {
        let (gpu, gi) = ids(handle as usize);
        let ci = ((handle as usize >> 40) - 1) as u32;
        let Some(gpu) = topology().gpus.get(gpu) else { return INVALID_ARGUMENT };
        let Some(mig) = gpu.mig_devices.iter().find(|mig| mig.gi_id == Some(gi) && mig.ci_id == Some(ci)) else {
            return NOT_FOUND;
        };
        let (Some(profile), Some(place)) = (mig.ci_profile_id, mig.ci_placement) else {
            return refused(&mig.unread, "ci_placement");
        };
        *to = nvmlComputeInstanceInfo_t {
            device: encode(gpu.index, None),
            gpuInstance: gpu_instance(gpu.index, gi),
            id: ci,
            profileId: profile,
            placement: nvmlComputeInstancePlacement_t { start: place.start, size: place.size },
        };
        OK
    };
}

fn of_mig<T>(device: nvmlDevice_t, field: &str, value: impl Fn(&MigDevice) -> Option<T>) -> Result<T, u32> {
    match decode(device) {
        Some(Handle::Mig(_, mig)) => value(mig).ok_or_else(|| refused(&mig.unread, field)),
        Some(Handle::Gpu(_)) => Err(NOT_SUPPORTED),
        None => Err(INVALID_ARGUMENT),
    }
}

fn memory_mib(device: nvmlDevice_t) -> Result<u64, u32> {
    match decode(device) {
        Some(Handle::Gpu(gpu)) => gpu.memory_mib.ok_or(refused(&gpu.unread, "memory_mib")),
        Some(Handle::Mig(_, mig)) => mig.memory_mib.ok_or(refused(&mig.unread, "memory_mib")),
        None => Err(INVALID_ARGUMENT),
    }
}

fn attributes(mig: &MigDevice) -> Option<nvmlDeviceAttributes_t> {
    let engines: Engines = mig.engines?;
    Some(nvmlDeviceAttributes_t {
        multiprocessorCount: mig.sm_count?,
        sharedCopyEngineCount: engines.copy,
        sharedDecoderCount: engines.decoder,
        sharedEncoderCount: engines.encoder,
        sharedJpegCount: engines.jpeg,
        sharedOfaCount: engines.ofa,
        gpuInstanceSliceCount: mig.placement.map_or(0, |p: Placement| p.size),
        computeInstanceSliceCount: mig.ci_placement.map_or(0, |p| p.size),
        memorySizeMB: mig.memory_mib?,
    })
}

/// On a GPU all of its processes, on a MIG device its own.
fn processes(device: nvmlDevice_t) -> Result<Vec<nvmlProcessInfo_t>, u32> {
    let handle = decode(device).ok_or(INVALID_ARGUMENT)?;
    let gpu = handle.gpu();
    let all = gpu.processes.as_ref().ok_or(refused(&gpu.unread, "processes"))?;
    let here = all.iter().filter(|p| match handle {
        Handle::Gpu(_) => true,
        Handle::Mig(_, mig) => (p.gi_id, p.ci_id) == (mig.gi_id, mig.ci_id),
    });
    let info = |p: &migbench::machine::topology::Process| nvmlProcessInfo_t {
        pid: p.pid,
        usedGpuMemory: p.memory_mib.map_or(u64::MAX, |mib| mib << 20),
        gpuInstanceId: p.gi_id.unwrap_or(u32::MAX),
        computeInstanceId: p.ci_id.unwrap_or(u32::MAX),
    };
    let live = contexts::all().into_iter().filter(|(_, instance)| match handle {
        Handle::Gpu(_) => instance.gpu_uuid.as_deref() == Some(&gpu.uuid),
        Handle::Mig(_, mig) => instance.mig_uuid.as_deref() == Some(&mig.uuid),
    });
    let context = |(pid, instance): (u32, migbench::machine::Instance)| nvmlProcessInfo_t {
        pid,
        usedGpuMemory: 500 << 20,
        gpuInstanceId: instance.gi_id.unwrap_or(u32::MAX),
        computeInstanceId: instance.ci_id.unwrap_or(u32::MAX),
    };
    Ok(here.map(info).chain(live.map(context)).collect())
}

/// A profile by its number in NVML's enumeration. Numbers are asked upward, with holes.
fn profile(device: nvmlDevice_t, number: u32) -> Result<&'static Profile, u32> {
    let Some(Handle::Gpu(gpu)) = decode(device) else { return Err(INVALID_ARGUMENT) };
    if gpu.profiles.is_empty() {
        return Err(refused(&gpu.unread, "profiles"));
    }
    // One more than the binding's own enumeration knows.
    const NUMBERS: u32 = 18;
    let mut all = gpu.profiles.iter().enumerate();
    match all.find(|(i, p)| p.number.unwrap_or(*i as u32) == number) {
        // A cell that nobody knows can't be told.
        Some((_, found)) if found.sm_count.is_none() => Err(999),
        Some((_, found)) => Ok(found),
        None if number < NUMBERS => Err(NOT_SUPPORTED),
        None => Err(INVALID_ARGUMENT),
    }
}

fn by_id(device: nvmlDevice_t, id: u32) -> Result<&'static Profile, u32> {
    match decode(device) {
        Some(Handle::Gpu(gpu)) => gpu.profiles.iter().find(|p| p.id == id).ok_or(INVALID_ARGUMENT),
        _ => Err(INVALID_ARGUMENT),
    }
}

fn gpu_instance(gpu: u32, id: u32) -> nvmlGpuInstance_t {
    (((gpu as usize + 1) << 20) | id as usize) as nvmlGpuInstance_t
}

/// Place of the GPU in the topology, and GPU instance id.
fn ids(handle: usize) -> (usize, u32) {
    let gpu = (handle >> 20) & 0xfffff;
    (gpu.wrapping_sub(1), (handle & 0xfffff) as u32)
}
