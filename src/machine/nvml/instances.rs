//! GPU instances and MIG devices.
//!
//! A MIG device can be listed, named and sized by anybody. GPU instances as such (their placement
//! and numeric profile, and those that hold no compute instance) are for the privileged.

use super::super::topology::{Engines, Gpu, GpuInstance, MigDevice, Placement, Unread};
use super::{Unreadable, check, note, plausible, refusal, symbol};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use nvml_wrapper_sys::bindings::{
    nvmlComputeInstanceInfo_t, nvmlDevice_t, nvmlGpuInstance_t, nvmlGpuInstanceInfo_t,
};
use std::ffi::c_uint;

/// No card is known to have more GPU instances or MIG devices, of one profile or of all.
pub(super) const MOST_INSTANCES: u32 = 64;

/// Fills in both kinds.
pub(super) fn read(nvml: &Nvml, device: &Device, gpu: &mut Gpu, unread: &mut Unread) {
    if gpu.mig_enabled() != Some(true) {
        return;
    }
    gpu.gpu_instances = note(unread, "gpu_instances", gpu_instances(nvml, device, gpu));
    // Where the most is not believed, the slots that there can be are looked at all the same.
    let implausible = gpu.mig_devices_max.is_none() && !refused(unread, "mig_devices_max");
    let slots = if implausible { MOST_INSTANCES } else { gpu.mig_devices_max.unwrap_or(0) };
    for slot in 0..slots {
        match device.mig_device_by_index(slot) {
            Ok(mig) => {
                let mig = mig_device(nvml, device, &mig, slot, gpu);
                gpu.mig_devices.push(mig);
            }
            // A hole: there may be more behind it.
            Err(NvmlError::NotFound) => {}
            Err(NvmlError::InvalidArg) if implausible => break,
            Err(error) => {
                unread.insert(format!("mig_devices.{slot}"), refusal(&error));
            }
        }
    }
}

/// NVML refused this field, in contrast to an answer that is not believed.
fn refused(unread: &Unread, field: &str) -> bool {
    unread.get(field).is_some_and(|why| super::super::refusal::code(why).is_some())
}

fn mig_device(nvml: &Nvml, parent: &Device, device: &Device, index: u32, gpu: &Gpu) -> MigDevice {
    let mut unread = Unread::new();
    let lib = nvml.lib();
    let name = note(&mut unread, "profile", device.name());
    let attributes = note(&mut unread, "sm_count", device.attributes());
    let mut mig = MigDevice {
        index,
        uuid: note(&mut unread, "uuid", device.uuid()).unwrap_or_default(),
        gi_id: note(&mut unread, "gi_id", instance_id(&lib.nvmlDeviceGetGpuInstanceId, device)),
        ci_id: note(&mut unread, "ci_id", instance_id(&lib.nvmlDeviceGetComputeInstanceId, device)),
        // "NVIDIA H100 80GB HBM3 MIG 3g.40gb"
        profile: name.and_then(|name| Some(name.rsplit_once("MIG ")?.1.to_owned())),
        sm_count: attributes.as_ref().map(|a| a.multiprocessor_count),
        memory_mib: attributes.as_ref().map(|a| a.memory_size_mb),
        engines: attributes.as_ref().map(|a| Engines {
            copy: a.shared_copy_engine_count,
            decoder: a.shared_decoder_count,
            encoder: a.shared_encoder_count,
            jpeg: a.shared_jpeg_count,
            ofa: a.shared_ofa_count,
        }),
        ..MigDevice::default()
    };
    if let (Some(gi_id), Some(ci_id)) = (mig.gi_id, mig.ci_id) {
        let info =
            gpu_instance_by_id(nvml, parent, gi_id).and_then(|gi| Ok((gi, gpu_instance_info(nvml, gi)?)));
        if let Some((gi, info)) = note(&mut unread, "placement", info) {
            mig.gi_profile_id = info.profile_id;
            mig.placement = info.placement;
            let info = compute_instance_info(nvml, gi, ci_id);
            if let Some((profile, placement)) = note(&mut unread, "ci_placement", info) {
                mig.ci_profile_id = Some(profile);
                mig.ci_placement = Some(placement);
            }
        }
    }
    if mig.gi_profile_id.is_none() {
        let offered = mig.profile.as_deref().and_then(|name| gpu.profile_named(name));
        mig.gi_profile_id = offered.map(|profile| profile.id);
    }
    mig.unread = unread;
    mig
}

type InstanceIdCall = unsafe extern "C" fn(nvmlDevice_t, *mut c_uint) -> u32;

fn instance_id<E: std::fmt::Display>(
    call: &Result<InstanceIdCall, E>,
    device: &Device,
) -> Result<u32, NvmlError> {
    let call = symbol(call)?;
    let mut id = 0;
    // SAFETY: the handle is this library's, which stays open; `id` outlives the call.
    check(unsafe { call(device.handle(), &mut id) })?;
    Ok(id)
}

/// All GPU instances, by asking for each offered profile.
fn gpu_instances(nvml: &Nvml, device: &Device, gpu: &Gpu) -> Result<Vec<GpuInstance>, Unreadable> {
    let call = symbol(&nvml.lib().nvmlDeviceGetGpuInstances)?;
    if gpu.profiles.is_empty() {
        return Err(NvmlError::NotSupported.into());
    }
    let (mut found, mut answered) = (Vec::new(), false);
    for profile in &gpu.profiles {
        // The header wants room for `instanceCount` of the profile. Where that is not believed, no room
        // would be enough.
        if let Some(why) = profile.unread.get("max") {
            return Err(Unreadable::Implausible(why.clone()));
        }
        let mut handles: Vec<nvmlGpuInstance_t> = vec![std::ptr::null_mut(); MOST_INSTANCES as usize];
        let mut count = MOST_INSTANCES;
        // SAFETY: the handle is this library's; the list has room for more than there can be.
        match check(unsafe { call(device.handle(), profile.id, handles.as_mut_ptr(), &mut count) }) {
            Ok(()) => answered = true,
            Err(NvmlError::NotSupported | NvmlError::NotFound) => continue,
            Err(error) => return Err(error.into()),
        }
        let count = plausible("GPU instances of a profile", count, MOST_INSTANCES)?;
        for &handle in handles.iter().take(count as usize) {
            found.push(gpu_instance_info(nvml, handle)?);
        }
    }
    if !answered {
        return Err(NvmlError::NotSupported.into());
    }
    found.sort_by_key(|gi: &GpuInstance| gi.id);
    // Profiles that differ in their engines only may answer for each other.
    found.dedup_by_key(|gi| gi.id);
    Ok(found)
}

fn gpu_instance_by_id(nvml: &Nvml, device: &Device, id: u32) -> Result<nvmlGpuInstance_t, NvmlError> {
    let call = symbol(&nvml.lib().nvmlDeviceGetGpuInstanceById)?;
    let mut handle = std::ptr::null_mut();
    // SAFETY: the handle is this library's; `handle` outlives the call.
    check(unsafe { call(device.handle(), id, &mut handle) })?;
    Ok(handle)
}

fn gpu_instance_info(nvml: &Nvml, handle: nvmlGpuInstance_t) -> Result<GpuInstance, NvmlError> {
    let call = symbol(&nvml.lib().nvmlGpuInstanceGetInfo)?;
    // SAFETY: a plain structure of integers and a pointer, for which zero is a value.
    let mut info: nvmlGpuInstanceInfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: the handle comes from this library; `info` outlives the call.
    check(unsafe { call(handle, &mut info) })?;
    let placement = Placement { start: info.placement.start, size: info.placement.size };
    Ok(GpuInstance { id: info.id, profile_id: Some(info.profileId), placement: Some(placement) })
}

/// Numeric profile and place of a compute instance.
fn compute_instance_info(
    nvml: &Nvml,
    gpu_instance: nvmlGpuInstance_t,
    id: u32,
) -> Result<(u32, Placement), NvmlError> {
    let by_id = symbol(&nvml.lib().nvmlGpuInstanceGetComputeInstanceById)?;
    let get_info = symbol(&nvml.lib().nvmlComputeInstanceGetInfo_v2)?;
    let mut handle = std::ptr::null_mut();
    // SAFETY: a plain structure of integers and pointers, for which zero is a value.
    let mut info: nvmlComputeInstanceInfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: both handles come from this library; both results outlive their calls.
    check(unsafe { by_id(gpu_instance, id, &mut handle) })?;
    // SAFETY: as above.
    check(unsafe { get_info(handle, &mut info) })?;
    Ok((info.profileId, Placement { start: info.placement.start, size: info.placement.size }))
}
