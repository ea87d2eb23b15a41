//! What NVML counts of a whole GPU, at one moment.

use super::{Library, Target, gpu};
use crate::machine::topology::{Process, Unread};
use nvml_wrapper::Device;
use nvml_wrapper::enum_wrappers::device::{
    Clock, EccCounter, MemoryError, PerformancePolicy, TemperatureSensor,
};
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::sys_exports::field_id;
use serde::{Deserialize, Serialize};

/// A GPU's counters and state; empty is what the driver or the card does not tell.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reading {
    /// Since the driver was loaded.
    pub energy_mj: Option<u64>,
    /// Now, averaged as the card does it.
    pub power_mw: Option<u32>,
    /// Now.
    pub sm_clock_mhz: Option<u32>,
    /// Of the die.
    pub temperature_c: Option<u32>,
    /// Time for which the power limit held the clock down, since the driver was loaded.
    pub power_capped_ns: Option<u64>,
    /// Time for which heat held the clock down, since the driver was loaded.
    pub heat_capped_ns: Option<u64>,
    /// Time for which the hardware slowed itself down, for heat or by the power supply's brake, since the
    /// driver was loaded.
    pub hw_slowdown_ns: Option<u64>,
    /// Memory errors that were not corrected, since the driver was loaded.
    pub ecc_uncorrected: Option<u64>,
}

/// The longer of the two times for which hardware slows a GPU down; NVML has them as field values since
/// driver 555.
fn hw_slowdown_ns(device: &Device) -> Option<u64> {
    let fields = [
        field_id::NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN,
        field_id::NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN,
    ];
    let samples = device.field_values_for(&fields.map(FieldId)).ok()?;
    let times = samples.into_iter().filter_map(|sample| match sample.ok()?.value.ok()? {
        SampleValue::U64(ns) => Some(ns),
        SampleValue::U32(ns) => Some(u64::from(ns)),
        _ => None,
    });
    times.max()
}

impl Library {
    /// Reads counters and state of a GPU.
    pub(super) fn reading(&self, gpu: &Target) -> Reading {
        let Some(device) = self.device(gpu) else { return Reading::default() };
        let capped = |policy| device.violation_status(policy).ok().map(|time| time.violation_time);
        Reading {
            energy_mj: device.total_energy_consumption().ok(),
            power_mw: device.power_usage().ok(),
            sm_clock_mhz: device.clock_info(Clock::SM).ok(),
            temperature_c: device.temperature(TemperatureSensor::Gpu).ok(),
            power_capped_ns: capped(PerformancePolicy::Power),
            heat_capped_ns: capped(PerformancePolicy::Thermal),
            hw_slowdown_ns: hw_slowdown_ns(&device),
            ecc_uncorrected: device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile).ok(),
        }
    }

    /// Who computes on a GPU, MIG devices included; none where that can't be read.
    pub(super) fn processes(&self, gpu: &Target) -> Option<Vec<Process>> {
        gpu::processes(&self.0, &self.device(gpu)?, &gpu.mig, &mut Unread::new())
    }

    /// The GPU, if it is still the same one.
    fn device(&self, gpu: &Target) -> Option<Device<'_>> {
        let device = self.0.device_by_index(gpu.index).ok()?;
        let same = gpu.uuid.is_empty() || device.uuid().is_ok_and(|uuid| uuid == gpu.uuid);
        same.then_some(device)
    }
}
