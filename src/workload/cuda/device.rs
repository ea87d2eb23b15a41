//! One device: its context, what it says of itself, and the things that live on it.
//!
//! Every object here frees itself and keeps the context alive for as long; nothing here knows what
//! a network is. None of it may leave the thread that opened the device, which is the one that the
//! context is current in.

use super::driver::{Api, CudaError, Newer, api, green, newer};
use super::network::Gpu;
use super::texts::Set;
use crate::workload::{DeviceIdentity, Sync};
use anyhow::{Context as _, Result};
use cudarc::driver::sys::{
    CUcontext, CUdevResource, CUdevResourceType, CUdevice_attribute as Attribute, CUdeviceptr, CUevent,
    CUgraph, CUgraphExec, CUstream, CUstreamCaptureMode, CUuuid,
};
use std::ffi::{CStr, c_char, c_void};
use std::ptr::null_mut;
use std::rc::Rc;

/// The first visible device, ready for use. Clones are the same device.
#[derive(Clone)]
pub struct Device {
    pub(super) context: Rc<Context>,
}

impl Device {
    /// Opens the first device that CUDA_VISIBLE_DEVICES lets through, with the given way of waiting.
    ///
    /// # Errors
    /// No driver, a driver too old, no visible device, or the device refused.
    pub fn open(sync: Sync) -> Result<Device> {
        let api = api()?;
        let mut device = 0;
        let mut handle: CUcontext = null_mut();
        let flags = match sync {
            Sync::Spin => 1,     // CU_CTX_SCHED_SPIN
            Sync::Blocking => 4, // CU_CTX_SCHED_BLOCKING_SYNC
        };
        // SAFETY: cuInit comes first; the pointers outlive their calls.
        unsafe {
            api.init(0)?;
            api.device_get(&mut device, 0)?;
            api.context_flags(device, flags)?;
            api.context_retain(&mut handle, device)?;
        }
        let context = Rc::new(Context { api, newer: newer(), device, sync, limit: None });
        // SAFETY: the context was retained and is released by `context` only.
        unsafe { api.context_set(handle) }?;
        Ok(Device { context })
    }

    /// The first device as if it had only so many multiprocessors, or a few more where the hardware
    /// can't be divided so: a green context. For benches: memory is not divided, and the context lives
    /// as long as the process.
    ///
    /// # Errors
    /// As [`open`](Device::open), or the driver knows no green contexts.
    pub fn open_limited(multiprocessors: u32) -> Result<Device> {
        let Device { context } = Device::open(Sync::Spin)?;
        let (api, green, device) = (context.api, green()?, context.device);
        // SAFETY: plain numbers, for which zeros are a value; the calls write them.
        let (mut all, mut part, mut rest): (CUdevResource, CUdevResource, CUdevResource) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed(), std::mem::zeroed()) };
        let (mut description, mut limited, mut handle) = (null_mut(), null_mut(), null_mut());
        let mut parts = 1;
        // SAFETY: every pointer outlives its call; the green context is made of a part of this device
        // and is never destroyed.
        unsafe {
            green.resource(device, &mut all, CUdevResourceType::CU_DEV_RESOURCE_TYPE_SM)?;
            green.split(&mut part, &mut parts, &all, &mut rest, 0, multiprocessors)?;
            green.describe(&mut description, &mut part, 1)?;
            // 1 is CU_GREEN_CTX_DEFAULT_STREAM.
            green.create(&mut limited, description, device, 1)?;
            green.context(&mut handle, limited)?;
            api.context_set(handle)?;
        }
        // SAFETY: the member of the union that this kind of resource has.
        let limit = unsafe { part.__bindgen_anon_1.sm.smCount };
        let (newer, sync) = (context.newer, context.sync);
        // The primary context stays retained by the green one.
        std::mem::forget(context);
        Ok(Device { context: Rc::new(Context { api, newer, device, sync, limit: Some(limit) }) })
    }

    /// What the device says of itself. What it can't be asked is `None`.
    pub fn identity(&self) -> DeviceIdentity {
        let (api, device) = (self.context.api, self.context.device);
        let (mut count, mut version, mut memory) = (0, 0, 0);
        let mut name = [0; 256];
        let mut uuid = CUuuid { bytes: [0; 16] };
        // SAFETY: all of these write to a local variable; the name's length is given.
        let (count_known, name_known, uuid_known, memory_known, version_known) = unsafe {
            (
                api.device_count(&mut count).is_ok(),
                api.device_name(name.as_mut_ptr(), name.len() as i32, device).is_ok(),
                api.device_uuid(&mut uuid, device).is_ok(),
                api.device_memory(&mut memory, device).is_ok(),
                api.driver_version(&mut version).is_ok(),
            )
        };
        let name = if name_known { text(&name) } else { String::new() };
        let mps = self.context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MPS_ENABLED);
        DeviceIdentity {
            device_count: if count_known { count.max(0) as u32 } else { 0 },
            uuid: uuid_known.then(|| spell_uuid(&name, uuid.bytes.map(|b| b as u8))),
            name,
            sm_count: self.context.sm_count().ok(),
            memory_bytes: memory_known.then_some(memory as u64),
            free_bytes: self.context.free_bytes().ok(),
            cuda_version: version_known.then_some(version),
            mps: mps.ok().map(|enabled| enabled != 0),
            kernels: self.context.kernel_set().unwrap_or(Set::Portable).name(),
            gemm_version: None,
        }
    }
}

/// A NUL-terminated text in a larger array.
pub(super) fn text(bytes: &[c_char]) -> String {
    let bytes: Vec<u8> = bytes.iter().map(|&b| b as u8).collect();
    CStr::from_bytes_until_nul(&bytes).map(|s| s.to_string_lossy().into_owned()).unwrap_or_default()
}

/// `GPU-` or `MIG-` and the 16 bytes as everybody writes them. The driver returns only the bytes;
/// that they are a MIG device's shows in its name, `NVIDIA A100-SXM4-40GB MIG 1g.5gb`.
pub(super) fn spell_uuid(name: &str, bytes: [u8; 16]) -> String {
    let mut text = String::from(if name.contains(" MIG ") { "MIG-" } else { "GPU-" });
    for (i, byte) in bytes.iter().enumerate() {
        if [4, 6, 8, 10].contains(&i) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// The device's primary context, current in the thread that opened it.
pub(super) struct Context {
    pub(super) api: &'static Api,
    /// None with a driver that lacks them.
    pub(super) newer: Option<&'static Newer>,
    device: i32,
    sync: Sync,
    /// Multiprocessors, where the context may not use all.
    limit: Option<u32>,
}

impl Context {
    fn attribute(&self, attribute: Attribute) -> Result<i32, CudaError> {
        let mut value = 0;
        // SAFETY: `value` outlives the call.
        unsafe { self.api.device_attribute(&mut value, attribute, self.device) }?;
        Ok(value)
    }

    /// Multiprocessors.
    pub(super) fn sm_count(&self) -> Result<u32, CudaError> {
        if let Some(limit) = self.limit {
            return Ok(limit);
        }
        self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT).map(|n| n.max(1) as u32)
    }

    /// What the launches of kernels depend on.
    pub(super) fn gpu(&self) -> Result<Gpu, CudaError> {
        let shared = self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        Ok(Gpu {
            multiprocessors: self.sm_count()? as usize,
            shared_bytes: shared.max(0) as u32,
            newer: self.newer,
        })
    }

    /// Compute capability.
    pub(super) fn capability(&self) -> Result<(i32, i32), CudaError> {
        let major = self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        Ok((major, self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?))
    }

    /// The kernels for this device and driver.
    pub(super) fn kernel_set(&self) -> Result<Set, CudaError> {
        // A driver that can't say its version is given what every driver can run.
        let version = self.driver_version().unwrap_or(0);
        Ok(Set::of(self.capability()?, version, self.newer.is_some()))
    }

    /// Can a kernel start before the one in front of it ends, in a graph too? Such an edge of a graph
    /// came with CUDA 12.3.
    pub(super) fn may_overlap(&self) -> bool {
        self.newer.is_some() && self.driver_version().is_ok_and(|version| version >= 12_030)
    }

    /// CUDA version of the driver, 1000 x major + 10 x minor.
    pub(super) fn driver_version(&self) -> Result<i32, CudaError> {
        let mut version = 0;
        // SAFETY: `version` outlives the call.
        unsafe { self.api.driver_version(&mut version) }?;
        Ok(version)
    }

    /// Device memory that is free now, in bytes.
    pub(super) fn free_bytes(&self) -> Result<u64, CudaError> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: both outlive the call.
        unsafe { self.api.memory_info(&mut free, &mut total) }?;
        Ok(free as u64)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once, in `Device::open`; all that lives in it held an `Rc` of this.
        let _ = unsafe { self.api.context_release(self.device) };
    }
}

/// A plain allocation of device memory.
pub(super) struct DeviceMemory {
    context: Rc<Context>,
    address: CUdeviceptr,
    bytes: usize,
}

impl DeviceMemory {
    /// Contents are undefined. At least one byte is allocated.
    pub(super) fn new(context: &Rc<Context>, bytes: usize) -> Result<DeviceMemory> {
        let mut address = 0;
        // SAFETY: `address` outlives the call.
        unsafe { context.api.memory_allocate(&mut address, bytes.max(1)) }
            .with_context(|| format!("allocating {bytes} bytes on the device"))?;
        Ok(DeviceMemory { context: context.clone(), address, bytes })
    }

    pub(super) fn address(&self) -> CUdeviceptr {
        self.address
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` and freed nowhere else.
        let _ = unsafe { self.context.api.memory_free(self.address) };
    }
}

/// Page-locked host memory, cached (not write-combined: outputs are read by the host).
pub(super) struct PinnedMemory {
    context: Rc<Context>,
    pointer: *mut c_void,
    bytes: usize,
}

impl PinnedMemory {
    /// Zeroed.
    pub(super) fn new(context: &Rc<Context>, bytes: usize) -> Result<PinnedMemory> {
        let mut pointer = null_mut();
        // SAFETY: `pointer` outlives the call.
        unsafe { context.api.host_allocate(&mut pointer, bytes.max(1), 0) }
            .with_context(|| format!("allocating {bytes} bytes of page-locked host memory"))?;
        // SAFETY: just allocated, of this size.
        unsafe { std::ptr::write_bytes(pointer.cast::<u8>(), 0, bytes) };
        Ok(PinnedMemory { context: context.clone(), pointer, bytes })
    }

    /// The contents. The caller has waited for every copy to or from it.
    pub(super) fn as_slice(&self) -> &[u8] {
        // SAFETY: initialised in `new`; the lane's stream is idle whenever this is called.
        unsafe { std::slice::from_raw_parts(self.pointer.cast(), self.bytes) }
    }

    /// The contents, as in [`as_slice`](PinnedMemory::as_slice).
    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed uniquely.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.cast(), self.bytes) }
    }
}

impl Drop for PinnedMemory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` and freed nowhere else.
        let _ = unsafe { self.context.api.host_free(self.pointer) };
    }
}

/// A copy stays within the host's memory. A comparison costs nothing beside a copy.
#[inline]
fn refuse_overrun(call: &'static str, bytes: usize, room: usize) -> Result<(), CudaError> {
    if bytes <= room {
        return Ok(());
    }
    let log = format!("{bytes} bytes were to be copied, and the host's memory has {room}: a bug of migbench");
    Err(CudaError { call, code: CudaError::INVALID_VALUE, log })
}

/// An in-order queue of device work, independent of all others.
pub(super) struct Stream {
    context: Rc<Context>,
    handle: CUstream,
}

impl Stream {
    pub(super) fn new(context: &Rc<Context>) -> Result<Stream> {
        let mut handle = null_mut();
        // SAFETY: `handle` outlives the call. 1 is CU_STREAM_NON_BLOCKING: no implicit order with
        // the default stream.
        unsafe { context.api.stream_create(&mut handle, 1) }?;
        Ok(Stream { context: context.clone(), handle })
    }

    pub(super) fn handle(&self) -> CUstream {
        self.handle
    }

    /// Returns when all issued work is done.
    pub(super) fn synchronize(&self) -> Result<(), CudaError> {
        // SAFETY: the stream lives.
        unsafe { self.context.api.stream_synchronize(self.handle) }
    }

    /// Later work of this stream starts after the event.
    pub(super) fn wait_for(&self, event: &Event) -> Result<(), CudaError> {
        // SAFETY: both live.
        unsafe { self.context.api.stream_wait(self.handle, event.handle, 0) }
    }

    /// Is all issued work done?
    pub(super) fn is_idle(&self) -> Result<bool, CudaError> {
        // SAFETY: the stream lives.
        match unsafe { self.context.api.stream_query(self.handle) } {
            Ok(()) => Ok(true),
            Err(error) if error.code == CudaError::NOT_READY => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Copies to the start of `to`; returns before it is done.
    pub(super) fn copy_in(
        &self,
        to: CUdeviceptr,
        from: &PinnedMemory,
        bytes: usize,
    ) -> Result<(), CudaError> {
        refuse_overrun("cuMemcpyHtoDAsync_v2", bytes, from.bytes)?;
        // SAFETY: both memories belong to the lane that owns this stream and outlive its work.
        unsafe { self.context.api.copy_to_device(to, from.pointer, bytes, self.handle) }
    }

    /// Copies to the start of `to`; returns before it is done.
    pub(super) fn copy_out(
        &self,
        to: &PinnedMemory,
        from: CUdeviceptr,
        bytes: usize,
    ) -> Result<(), CudaError> {
        refuse_overrun("cuMemcpyDtoHAsync_v2", bytes, to.bytes)?;
        // SAFETY: as in `copy_in`.
        unsafe { self.context.api.copy_to_host(to.pointer, from, bytes, self.handle) }
    }

    /// Sets bytes of device memory; returns before it is done.
    pub(super) fn set(&self, to: CUdeviceptr, value: u8, bytes: usize) -> Result<(), CudaError> {
        // SAFETY: the caller passes memory that it owns.
        unsafe { self.context.api.set_bytes(to, value, bytes, self.handle) }
    }

    /// Records what `issue` puts into this stream as a graph, instead of running it.
    pub(super) fn capture(&self, issue: impl FnOnce(&Stream) -> Result<()>) -> Result<Graph> {
        let api = self.context.api;
        let mut graph: CUgraph = null_mut();
        // SAFETY: the stream is idle; what is captured is ended below in every case, also after an
        // error, since a stream left in capture would refuse all further work.
        unsafe {
            api.stream_begin_capture(self.handle, CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        }?;
        let issued = issue(self);
        // SAFETY: as above; `graph` outlives the call.
        let ended = unsafe { api.stream_end_capture(self.handle, &mut graph) };
        issued?;
        ended?;
        let mut handle = null_mut();
        // SAFETY: the graph was just captured and is destroyed once, after its use.
        let instantiated = unsafe { api.graph_instantiate(&mut handle, graph, 0) };
        // SAFETY: the executable form is independent of it.
        let _ = unsafe { api.graph_destroy(graph) };
        instantiated?;
        let graph = Graph { context: self.context.clone(), handle };
        // Its first launch should not pay for the transfer of the graph itself.
        // SAFETY: both live.
        unsafe { api.graph_upload(graph.handle, self.handle) }?;
        Ok(graph)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: created in `new` and destroyed nowhere else.
        let _ = unsafe { self.context.api.stream_destroy(self.handle) };
    }
}

/// Captured work, launched as one. It may not run twice at once.
pub(super) struct Graph {
    context: Rc<Context>,
    handle: CUgraphExec,
}

impl Graph {
    #[inline]
    pub(super) fn launch(&self, stream: &Stream) -> Result<(), CudaError> {
        // SAFETY: both live; what the graph refers to is owned by the lane that owns the graph.
        unsafe { self.context.api.graph_launch(self.handle, stream.handle) }
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: instantiated in `capture` and destroyed nowhere else.
        let _ = unsafe { self.context.api.graph_executable_destroy(self.handle) };
    }
}

/// A point in a stream's work, with a time stamp of the device.
pub(super) struct Event {
    context: Rc<Context>,
    handle: CUevent,
}

impl Event {
    pub(super) fn new(context: &Rc<Context>) -> Result<Event> {
        // 1 is CU_EVENT_BLOCKING_SYNC: a blocking lane must not start to poll because of its events.
        let flags = if context.sync == Sync::Blocking { 1 } else { 0 };
        let mut handle = null_mut();
        // SAFETY: `handle` outlives the call.
        unsafe { context.api.event_create(&mut handle, flags) }?;
        Ok(Event { context: context.clone(), handle })
    }

    pub(super) fn record(&self, stream: &Stream) -> Result<(), CudaError> {
        // SAFETY: both live.
        unsafe { self.context.api.event_record(self.handle, stream.handle) }
    }

    /// Device time from `start` to this, in ns; both have happened.
    pub(super) fn ns_since(&self, start: &Event) -> Result<u64, CudaError> {
        let mut ms = 0.0f32;
        // SAFETY: `ms` outlives the call.
        unsafe { self.context.api.event_elapsed(&mut ms, start.handle, self.handle) }?;
        Ok((f64::from(ms) * 1e6).round() as u64)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: created in `new` and destroyed nowhere else.
        let _ = unsafe { self.context.api.event_destroy(self.handle) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_spelled_as_nvidia_does() {
        let bytes = std::array::from_fn(|i| 0x10 + i as u8);
        let uuid = "10111213-1415-1617-1819-1a1b1c1d1e1f";
        assert_eq!(spell_uuid("NVIDIA H200", bytes), format!("GPU-{uuid}"));
        assert_eq!(spell_uuid("NVIDIA H200 MIG 1g.18gb", bytes), format!("MIG-{uuid}"));
    }

    #[test]
    fn a_name_ends_at_its_nul_or_is_empty() {
        assert_eq!(text(&[b'H' as c_char, b'2' as c_char, 0, b'x' as c_char]), "H2");
        assert_eq!(text(&[b'H' as c_char; 4]), "");
    }

    #[test]
    fn a_copy_beyond_the_hosts_memory_is_an_error() {
        assert_eq!(refuse_overrun("cuMemcpyDtoHAsync_v2", 8, 8), Ok(()));
        let error = refuse_overrun("cuMemcpyDtoHAsync_v2", 9, 8).unwrap_err();
        assert!(
            error.to_string().contains("\n9 bytes were to be copied, and the host's memory has 8"),
            "{error}"
        );
    }

    #[test]
    fn opening_without_a_driver_is_an_error() {
        if let Err(e) = Device::open(Sync::Spin) {
            assert!(!format!("{e:#}").is_empty());
        }
    }
}
