//! What CUDA shows to a process with this environment, without making a context: for `doctor`.

use super::device::{spell_uuid, text};
use super::driver::{Api, CudaError, api};
use crate::machine::doctor::evidence::{Cuda, CudaDevice};
use cudarc::driver::sys::{CUdevice_attribute as Attribute, CUuuid};

/// The attributes that a stand-in needs to play this device.
const ATTRIBUTES: [Attribute; 6] = [
    Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
    Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
    Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
    Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
    Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE,
    Attribute::CU_DEVICE_ATTRIBUTE_MPS_ENABLED,
];

/// Asks. A failure is part of the answer.
pub fn probe() -> Cuda {
    let mut cuda = Cuda::default();
    let api = match api() {
        Ok(api) => api,
        Err(error) => {
            cuda.error = Some(error.to_string());
            return cuda;
        }
    };
    let mut version = 0;
    // SAFETY: `version` outlives the call; it may come before cuInit.
    if unsafe { api.driver_version(&mut version) }.is_ok() {
        cuda.version = Some(format!("{}.{}", version / 1000, version % 1000 / 10));
    }
    if let Err(error) = devices(api, &mut cuda) {
        cuda.code = Some(error.code);
        cuda.error = Some(error.to_string());
    }
    cuda
}

fn devices(api: &Api, cuda: &mut Cuda) -> Result<(), CudaError> {
    let mut count = 0;
    // SAFETY: cuInit comes first; `count` outlives the call.
    unsafe {
        api.init(0)?;
        api.device_count(&mut count)?;
    }
    for ordinal in 0..count {
        let mut device = 0;
        // SAFETY: `device` outlives the call.
        unsafe { api.device_get(&mut device, ordinal) }?;
        cuda.devices.push(describe(api, device));
    }
    Ok(())
}

/// What can't be asked stays empty.
fn describe(api: &Api, device: i32) -> CudaDevice {
    let mut name = [0; 256];
    let mut uuid = CUuuid { bytes: [0; 16] };
    let mut memory = 0;
    // SAFETY: all of these write to a local variable; the name's length is given.
    let (named, identified, sized) = unsafe {
        (
            api.device_name(name.as_mut_ptr(), name.len() as i32, device).is_ok(),
            api.device_uuid(&mut uuid, device).is_ok(),
            api.device_memory(&mut memory, device).is_ok(),
        )
    };
    let mut found = CudaDevice {
        name: if named { text(&name) } else { String::new() },
        memory_bytes: sized.then_some(memory as u64),
        ..CudaDevice::default()
    };
    for attribute in ATTRIBUTES {
        let mut value = 0;
        // SAFETY: `value` outlives the call.
        if unsafe { api.device_attribute(&mut value, attribute, device) }.is_ok() {
            found.attributes.insert(attribute as u32, value);
        }
    }
    let value = |attribute: Attribute| found.attributes.get(&(attribute as u32)).copied();
    found.sm_count = value(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT).map(|n| n.max(0) as u32);
    found.capability = value(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)
        .zip(value(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR));
    found.uuid = identified.then(|| spell_uuid(&found.name, uuid.bytes.map(|b| b as u8)));
    found
}
