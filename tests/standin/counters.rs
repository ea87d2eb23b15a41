//! NVML's counters of a whole GPU, by settings in the fault file; without one, the call is not
//! supported:
//!
//! - `energy_w = N`: power, and energy that grows by it
//! - `power_capped = PERCENT`: share of time for which the power limit holds the clock down
//! - `ecc_after_ms = N`: one uncorrected memory error so long after the library was opened
//! - `corun_clock = FACTOR`: of the SM clock while two or more contexts are on the GPU

use super::common::{self, setting};
use super::{NOT_SUPPORTED, answer, contexts, number, of_gpu};
use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlViolationTime_t};
use std::ffi::{c_uint, c_ulonglong};
use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds on the wall's clock, which all processes share.
fn now_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1e3
}

fn told(name: &str) -> Result<f64, u32> {
    setting(name).and_then(|text| text.parse().ok()).ok_or(NOT_SUPPORTED)
}

/// Of the SM clock, by who computes.
pub fn clock_factor(gpu_uuid: &str) -> f64 {
    if contexts::on(gpu_uuid) > 1 { told("corun_clock").unwrap_or(1.0) } else { 1.0 }
}

export! {
    fn nvmlDeviceGetTotalEnergyConsumption(device: nvmlDevice_t, to: *mut c_ulonglong) for number(device) => {
        answer(to, told("energy_w").map(|watt| (watt * now_ms()) as u64))
    };
    fn nvmlDeviceGetPowerUsage(device: nvmlDevice_t, to: *mut c_uint) for number(device) => {
        answer(to, told("energy_w").map(|watt| (watt * 1e3) as u32))
    };
    fn nvmlDeviceGetTemperature(device: nvmlDevice_t, _sensor: c_uint, to: *mut c_uint) for number(device) => {
        answer(to, of_gpu(device, "temperature", |_| Some(41_u32)))
    };
    fn nvmlDeviceGetViolationStatus(device: nvmlDevice_t, policy: c_uint, to: *mut nvmlViolationTime_t) for number(device) => {
        let share = if policy == 0 { told("power_capped") } else { Err(NOT_SUPPORTED) };
        let time = share.map(|percent| nvmlViolationTime_t {
            referenceTime: 0,
            violationTime: (percent / 100.0 * now_ms() * 1e6) as u64,
        });
        answer(to, time)
    };
    fn nvmlDeviceGetTotalEccErrors(device: nvmlDevice_t, _kind: c_uint, _counter: c_uint, to: *mut c_ulonglong) for number(device) => {
        static OPENED: std::sync::OnceLock<f64> = std::sync::OnceLock::new();
        let opened = *OPENED.get_or_init(now_ms);
        answer(to, told("ecc_after_ms").map(|after| u64::from(now_ms() - opened > after)))
    };
}
