//! The GPU instance profiles that a card offers, and where they may lie. Answered with MIG off too,
//! on drivers from about R510.

use super::super::topology::{Engines, Gpu, Placement, Placements, Profile, Unread};
use super::instances::MOST_INSTANCES;
use super::{Unreadable, check, note, plausible, refusal, symbol};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use nvml_wrapper_sys::bindings::{
    nvmlGpuInstancePlacement_t, nvmlGpuInstanceProfileInfo_t, nvmlGpuInstanceProfileInfo_v2_t,
};
use std::ffi::CStr;

/// NVML's enumeration has grown with every driver and is asked upward until it answers "invalid
/// argument"; a driver that never does is not asked for ever.
const MOST_NUMBERS: u32 = 64;

/// No card is known to have as many memory slices.
const MOST_PLACEMENTS: u32 = 128;

pub(super) fn read(nvml: &Nvml, device: &Device, gpu: &mut Gpu, gpu_unread: &mut Unread) {
    for number in 0..MOST_NUMBERS {
        match info(nvml, device, number) {
            Ok(mut profile) => {
                let mut unread = Unread::new();
                drop_implausible(&mut profile, &mut unread);
                profile.placements = note(&mut unread, "placements", placements(nvml, device, profile.id));
                profile.free = note(&mut unread, "free", free(nvml, device, profile.id));
                profile.unread = unread;
                gpu.profiles.push(profile);
                if number == MOST_NUMBERS - 1 {
                    let why = format!("NVML offers a profile {number}, and none behind it was asked for");
                    gpu_unread.insert("profiles".to_owned(), why);
                }
            }
            // A number that this card does not offer.
            Err(NvmlError::NotSupported | NvmlError::NotFound) => {}
            Err(NvmlError::InvalidArg) => break,
            // These answer for every number.
            Err(
                error @ (NvmlError::FailedToLoadSymbol(_)
                | NvmlError::FunctionNotFound
                | NvmlError::NoPermission
                | NvmlError::GpuLost),
            ) => {
                gpu_unread.insert("profiles".to_owned(), refusal(&error));
                break;
            }
            Err(error) => {
                gpu_unread.insert(format!("profiles.{number}"), refusal(&error));
            }
        }
    }
    // Small to large, as nvidia-smi -lgip lists them; NVML's numbers follow its history.
    gpu.profiles.sort_by_key(|profile| (profile.slices, profile.memory_mib, profile.id));
    if gpu.profiles.is_empty() && gpu.mig_mode.is_some() {
        gpu_unread.entry("profiles".to_owned()).or_insert_with(|| super::super::refusal::text(3));
    }
}

/// Empties the counts that no card can have.
fn drop_implausible(profile: &mut Profile, unread: &mut Unread) {
    let mut check = |field: &str, what: &str, count: Option<u32>| {
        note(unread, field, plausible(what, count?, MOST_INSTANCES))
    };
    profile.max = check("max", "instances of a profile", profile.max);
    profile.slices = check("slices", "slices of a profile", profile.slices);
}

fn info(nvml: &Nvml, device: &Device, number: u32) -> Result<Profile, NvmlError> {
    match info_with_name(nvml, device, number) {
        // 25: the library knows the call, but not this version of its structure.
        Err(NvmlError::FailedToLoadSymbol(_) | NvmlError::UnexpectedVariant(25)) => {
            info_without_name(nvml, device, number)
        }
        answer => answer,
    }
}

fn info_with_name(nvml: &Nvml, device: &Device, number: u32) -> Result<Profile, NvmlError> {
    let call = symbol(&nvml.lib().nvmlDeviceGetGpuInstanceProfileInfoV)?;
    let version = size_of::<nvmlGpuInstanceProfileInfo_v2_t>() as u32 | 2 << 24;
    // SAFETY: a plain structure of integers, for which zero is a value.
    let mut info: nvmlGpuInstanceProfileInfo_v2_t = unsafe { std::mem::zeroed() };
    info.version = version;
    // SAFETY: the handle is this library's; `info` is of the version that it says.
    check(unsafe { call(device.handle(), number, &mut info) })?;
    let name: Vec<u8> = info.name.iter().map(|&c| c as u8).collect();
    let name = CStr::from_bytes_until_nul(&name).ok().map(|name| name.to_string_lossy().into_owned());
    Ok(Profile {
        number: Some(number),
        id: info.id,
        // "MIG 1g.10gb" in some drivers, "1g.10gb" in others.
        name: name.map(|n| n.trim_start_matches("MIG ").to_owned()).filter(|n| !n.is_empty()),
        slices: Some(info.sliceCount),
        max: Some(info.instanceCount),
        sm_count: Some(info.multiprocessorCount),
        memory_mib: Some(info.memorySizeMB),
        engines: Some(Engines {
            copy: info.copyEngineCount,
            decoder: info.decoderCount,
            encoder: info.encoderCount,
            jpeg: info.jpegCount,
            ofa: info.ofaCount,
        }),
        ..Profile::default()
    })
}

fn info_without_name(nvml: &Nvml, device: &Device, number: u32) -> Result<Profile, NvmlError> {
    let call = symbol(&nvml.lib().nvmlDeviceGetGpuInstanceProfileInfo)?;
    // SAFETY: a plain structure of integers, for which zero is a value.
    let mut info: nvmlGpuInstanceProfileInfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: the handle is this library's; `info` outlives the call.
    check(unsafe { call(device.handle(), number, &mut info) })?;
    Ok(Profile {
        number: Some(number),
        id: info.id,
        slices: Some(info.sliceCount),
        max: Some(info.instanceCount),
        sm_count: Some(info.multiprocessorCount),
        memory_mib: Some(info.memorySizeMB),
        engines: Some(Engines {
            copy: info.copyEngineCount,
            decoder: info.decoderCount,
            encoder: info.encoderCount,
            jpeg: info.jpegCount,
            ofa: info.ofaCount,
        }),
        ..Profile::default()
    })
}

/// The wrapper's `possible_placements` always returns an empty list (0.13.0), hence the call itself.
fn placements(nvml: &Nvml, device: &Device, profile: u32) -> Result<Placements, Unreadable> {
    let call = symbol(&nvml.lib().nvmlDeviceGetGpuInstancePossiblePlacements_v2)?;
    let mut count = 0;
    // SAFETY: the handle is this library's; a null list asks for the count alone.
    check(unsafe { call(device.handle(), profile, std::ptr::null_mut(), &mut count) })?;
    count = plausible("placements", count, MOST_PLACEMENTS)?;
    let mut list = vec![nvmlGpuInstancePlacement_t { start: 0, size: 0 }; count as usize];
    // SAFETY: as above; the list has `count` places.
    check(unsafe { call(device.handle(), profile, list.as_mut_ptr(), &mut count) })?;
    list.truncate(plausible("placements in its list", count, list.len() as u32)? as usize);
    for slice in list.iter().flat_map(|p| [p.start, p.size]) {
        plausible("slices in a placement", slice, MOST_PLACEMENTS)?;
    }
    let place = |p: &nvmlGpuInstancePlacement_t| Placement { start: p.start, size: p.size };
    let mut placements: Vec<Placement> = list.iter().map(place).collect();
    placements.sort_unstable();
    Ok(Placements(placements))
}

fn free(nvml: &Nvml, device: &Device, profile: u32) -> Result<u32, Unreadable> {
    let call = symbol(&nvml.lib().nvmlDeviceGetGpuInstanceRemainingCapacity)?;
    let mut count = 0;
    // SAFETY: the handle is this library's; `count` outlives the call.
    check(unsafe { call(device.handle(), profile, &mut count) })?;
    plausible("free places", count, MOST_INSTANCES)
}
