//! A stand-in for libcuda that plays the devices of a topology from a file: exactly the functions
//! that migbench's CUDA device opens, by NVIDIA's documented rules for CUDA_VISIBLE_DEVICES.
//!
//! It computes nothing. Work takes the time that the script gives it, streams are queues on the
//! clock, memory is a number. Its device names begin with STAND-IN, by which migbench knows that an
//! output means nothing. Settings in the fault file:
//!
//! - `kernel_ns = N`, `copy_ns = N`: time of one kernel, one copy. Unless it is set, a kernel takes
//!   longer than any that the tests launch on the smallest of their instances: a row that is faster than
//!   its instance can be is invalid
//! - `corun_clock = FACTOR`, `corun_copies = FACTOR`: while two or more contexts are on the GPU, a
//!   kernel takes 1 / FACTOR as long, a copy FACTOR times as long
//! - `taken_bytes = N`: memory that somebody else has
//! - `mps = always | default`: a client of MPS whatever the worker does, or only where
//!   CUDA_MPS_PIPE_DIRECTORY is not set
//!
//! A fault `CALL after N = lost CODE` loses the device: that call and all later ones fail.
#![allow(non_snake_case, reason = "NVIDIA's names")]

mod common;
mod contexts;

use common::{case, lie, setting, stand_in, topology, write_text};
use migbench::machine::doctor::evidence::CudaDevice;
use migbench::machine::visible::{self, Why};
use migbench::machine::{Instance, InstanceKind, cards};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_void};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

const OK: u32 = 0;
const INVALID_VALUE: u32 = 1;
const OUT_OF_MEMORY: u32 = 2;
const NOT_INITIALIZED: u32 = 3;
const NO_DEVICE: u32 = 100;
const INVALID_DEVICE: u32 = 101;
const INVALID_HANDLE: u32 = 400;
const NOT_FOUND: u32 = 500;

/// Memory that the context has, and others where the script says so.
fn taken_bytes() -> u64 {
    (500 << 20) + setting("taken_bytes").map_or(0, |text| text.parse().expect("a number of bytes"))
}

/// One visible device.
struct Device {
    name: String,
    uuid: [u8; 16],
    sm_count: i32,
    memory_bytes: u64,
    capability: (i32, i32),
    shared_bytes: i32,
    l2_bytes: i32,
}

/// What a process has made.
#[derive(Default)]
struct State {
    last: u64,
    used_bytes: u64,
    memory: HashMap<u64, u64>,
    host: HashMap<usize, Layout>,
    modules: HashMap<u64, String>,
    streams: HashMap<u64, Stream>,
    /// The captured work.
    graphs: HashMap<u64, Work>,
    executables: HashMap<u64, Work>,
    /// When the device got there, on the clock below.
    events: HashMap<u64, u64>,
}

#[derive(Default)]
struct Stream {
    busy_until: u64,
    /// Work captured so far, while capturing.
    captured: Option<Work>,
}

/// What the device has to do: time for an undisturbed device.
#[derive(Clone, Copy, Default)]
struct Work {
    kernels_ns: u64,
    copies_ns: u64,
}

impl Work {
    fn kernel() -> Work {
        Work { kernels_ns: time_of("kernel_ns", 200_000), copies_ns: 0 }
    }

    fn copy() -> Work {
        Work { kernels_ns: 0, copies_ns: time_of("copy_ns", 2000) }
    }

    /// How long it takes now, next to those who are on the same GPU.
    fn duration(self) -> u64 {
        let factor = |name: &str| setting(name).map_or(1.0, |text| text.parse::<f64>().expect("a factor"));
        if (setting("corun_clock").is_none() && setting("corun_copies").is_none()) || !has_company() {
            return self.kernels_ns + self.copies_ns;
        }
        let kernels = self.kernels_ns as f64 / factor("corun_clock");
        (kernels + self.copies_ns as f64 * factor("corun_copies")) as u64
    }
}

/// Is another context on this process's GPU? Looked up every few milliseconds.
fn has_company() -> bool {
    static LOOKED: Mutex<Option<(u64, bool)>> = Mutex::new(None);
    let mut looked = LOOKED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some((at, answer)) = *looked
        && now() - at < 5_000_000
    {
        return answer;
    }
    let uuid = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
    let own = topology().find(&uuid).ok().and_then(|instance| instance.gpu_uuid);
    let answer = own.is_some_and(|gpu| contexts::on(&gpu) > 1);
    *looked = Some((now(), answer));
    answer
}

/// CUlaunchConfig.
#[repr(C)]
struct LaunchConfig {
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    stream: u64,
    attributes: *const LaunchAttribute,
    count: u32,
}

/// CUlaunchAttribute: a number that says which, and 64 bytes.
#[repr(C, align(8))]
struct LaunchAttribute {
    id: u32,
    _padding: u32,
    value: [u32; 16],
}

static LOST: AtomicU32 = AtomicU32::new(0);
static DEVICES: OnceLock<Result<Vec<Device>, u32>> = OnceLock::new();

fn state() -> MutexGuard<'static, State> {
    static STATE: OnceLock<Mutex<State>> = OnceLock::new();
    STATE.get_or_init(Mutex::default).lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn now() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

fn time_of(what: &str, default: u64) -> u64 {
    static TIMES: OnceLock<Mutex<HashMap<String, u64>>> = OnceLock::new();
    let mut times = TIMES.get_or_init(Mutex::default).lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    match times.get(what) {
        Some(&time) => time,
        None => {
            let time = setting(what).map_or(default, |text| text.parse().expect("a time in ns"));
            times.insert(what.to_owned(), time);
            time
        }
    }
}

impl State {
    fn handle(&mut self) -> u64 {
        self.last += 64;
        0x5000_0000 + self.last
    }

    /// Queues work, or notes it where the stream captures.
    fn work(&mut self, stream: u64, work: Work) -> u32 {
        let Some(stream) = self.streams.get_mut(&stream) else { return INVALID_HANDLE };
        match &mut stream.captured {
            Some(captured) => {
                captured.kernels_ns += work.kernels_ns;
                captured.copies_ns += work.copies_ns;
            }
            None => stream.busy_until = stream.busy_until.max(now()) + work.duration(),
        }
        OK
    }
}

/// The devices of this process, decided at the first cuInit as the driver does.
fn devices() -> Result<&'static [Device], u32> {
    let Some(devices) = DEVICES.get() else { return Err(NOT_INITIALIZED) };
    devices.as_deref().map_err(|code| *code)
}

fn enumerate() -> Result<Vec<Device>, u32> {
    let value = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    let used = visible::used(value.as_deref(), topology(), topology().driver_major());
    if used.devices.is_empty() {
        // Seen on a real H200: 101 for something named twice, 100 for everything else.
        let twice = used.refused.is_some_and(|refused| matches!(refused.why, Why::Twice(_)));
        return Err(if twice { INVALID_DEVICE } else { NO_DEVICE });
    }
    Ok(used.devices.iter().map(device).collect())
}

fn device(instance: &Instance) -> Device {
    let uuid = instance.uuid().unwrap_or_default();
    let captured: Option<&CudaDevice> = case()
        .evidence
        .as_ref()
        .and_then(|evidence| evidence.cuda.as_ref()?.as_ref().ok())
        .and_then(|cuda| cuda.devices.iter().find(|device| device.uuid.as_deref() == Some(uuid)));
    let gpu = topology().gpus.iter().find(|gpu| Some(&gpu.uuid) == instance.gpu_uuid.as_ref());
    let card = gpu.and_then(cards::known);
    let name = match (instance.kind, &instance.profile) {
        (InstanceKind::Mig, Some(profile)) => format!("{} MIG {profile}", instance.gpu_name),
        _ => instance.gpu_name.clone(),
    };
    let (capability, shared_bytes) = kind(&instance.gpu_name);
    let mib = instance.memory_mib.unwrap_or(16_384);
    Device {
        name: stand_in(&name),
        uuid: uuid_bytes(uuid),
        sm_count: captured
            .and_then(|device| device.sm_count)
            .or(instance.sm_count)
            .or(card.and_then(|card| card.sm_count))
            .unwrap_or(132) as i32,
        memory_bytes: captured.and_then(|device| device.memory_bytes).unwrap_or((mib << 20) / 100 * 99),
        capability: captured.and_then(|device| device.capability).unwrap_or(capability),
        shared_bytes,
        // Of a capture where there is one.
        l2_bytes: captured.and_then(|device| device.attributes.get(&38).copied()).unwrap_or(50 << 20),
    }
}

/// Compute capability and shared memory that a block may ask for.
fn kind(name: &str) -> ((i32, i32), i32) {
    let is = |words: &[&str]| words.iter().any(|word| name.contains(word));
    match () {
        _ if is(&["A100", "A30", "A800"]) => ((8, 0), 166_912),
        _ if is(&["B200", "B300"]) => ((10, 0), 232_448),
        _ if is(&["RTX PRO"]) => ((12, 0), 101_376),
        _ => ((9, 0), 232_448),
    }
}

/// The 32 digits of a UUID; of a MIG device's name before R470, those of its GPU.
fn uuid_bytes(uuid: &str) -> [u8; 16] {
    let digits: Vec<u8> = uuid
        .trim_start_matches("MIG-")
        .trim_start_matches("GPU-")
        .chars()
        .filter_map(|c| c.to_digit(16).map(|d| d as u8))
        .chain(std::iter::repeat(0))
        .take(32)
        .collect();
    std::array::from_fn(|i| digits[2 * i] << 4 | digits[2 * i + 1])
}

fn at(ordinal: i32) -> Result<&'static Device, u32> {
    devices()?.get(ordinal as usize).ok_or(INVALID_DEVICE)
}

/// Declares exported functions. Each first fails if it was told to, or if the device is lost.
macro_rules! export {
    ($(fn $name:ident($($argument:ident: $kind:ty),*) => $body:expr;)*) => {
        $(#[unsafe(no_mangle)]
        #[allow(unused_unsafe, reason = "not every body writes through a pointer")]
        unsafe extern "C" fn $name($($argument: $kind),*) -> u32 {
            if let Some(code) = may_fail(stringify!($name)) {
                return code;
            }
            // SAFETY: the caller keeps the driver's contract: pointers are valid for what it writes.
            let answer = || -> Result<(), u32> { unsafe { $body } };
            answer().err().unwrap_or(OK)
        })*
    };
}

fn may_fail(call: &str) -> Option<u32> {
    if let lost @ 1.. = LOST.load(Relaxed) {
        return Some(lost);
    }
    if let Some(code) = common::lost(call) {
        LOST.store(code, Relaxed);
        return Some(code);
    }
    common::fault(call, None)
}

fn code(code: u32) -> Result<(), u32> {
    if code == OK { Ok(()) } else { Err(code) }
}

fn lied<T: std::str::FromStr>(call: &str) -> Option<T> {
    lie(call, None)?.parse().ok()
}

export! {
    fn cuInit(_flags: u32) => {
        DEVICES.get_or_init(enumerate).as_ref().map(|_| ()).map_err(|code| *code)
    };
    fn cuDriverGetVersion(to: *mut i32) => {
        let version = || {
            let (major, minor) = topology().cuda_version.as_deref()?.split_once('.')?;
            Some(major.parse::<i32>().ok()? * 1000 + minor.parse::<i32>().ok()? * 10)
        };
        *to = lied("cuDriverGetVersion").or_else(version).unwrap_or(13_000);
        Ok(())
    };
    fn cuDeviceGetCount(to: *mut i32) => {
        *to = lied("cuDeviceGetCount").unwrap_or(devices()?.len() as i32);
        Ok(())
    };
    fn cuDeviceGet(to: *mut i32, ordinal: i32) => {
        at(ordinal)?;
        *to = ordinal;
        Ok(())
    };
    fn cuDeviceGetName(to: *mut c_char, length: i32, device: i32) => {
        let name = lie("cuDeviceGetName", None).map_or(&at(device)?.name[..], |name| name);
        if write_text(to, length as usize, name) { Ok(()) } else { Err(INVALID_VALUE) }
    };
    fn cuDeviceGetUuid_v2(to: *mut [u8; 16], device: i32) => {
        *to = lie("cuDeviceGetUuid_v2", None).map_or(at(device)?.uuid, uuid_bytes);
        Ok(())
    };
    fn cuDeviceTotalMem_v2(to: *mut usize, device: i32) => {
        *to = lied("cuDeviceTotalMem_v2").unwrap_or(at(device)?.memory_bytes as usize);
        Ok(())
    };
    fn cuDeviceGetAttribute(to: *mut i32, attribute: u32, device: i32) => {
        *to = attribute_of(at(device)?, attribute).ok_or(INVALID_VALUE)?;
        Ok(())
    };
    fn cuDevicePrimaryCtxSetFlags_v2(device: i32, _flags: u32) => at(device).map(|_| ());
    fn cuDevicePrimaryCtxRetain(to: *mut u64, device: i32) => {
        at(device)?;
        contexts::register();
        *to = 0x4000_0000;
        Ok(())
    };
    fn cuDevicePrimaryCtxRelease_v2(device: i32) => at(device).map(|_| ());
    fn cuCtxSetCurrent(_context: u64) => devices().map(|_| ());
    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) => {
        let all = at(0)?.memory_bytes;
        *total = all as usize;
        *free = all.saturating_sub(taken_bytes() + state().used_bytes) as usize;
        Ok(())
    };
    fn cuMemAlloc_v2(to: *mut u64, bytes: usize) => {
        let all = at(0)?.memory_bytes;
        let mut state = state();
        if taken_bytes() + state.used_bytes + bytes as u64 > all {
            return Err(OUT_OF_MEMORY);
        }
        // Addresses never overlap and are aligned as the driver's are.
        let address = 0x7000_0000_0000 + state.last.next_multiple_of(256);
        state.last = address - 0x7000_0000_0000 + bytes as u64;
        state.used_bytes += bytes as u64;
        state.memory.insert(address, bytes as u64);
        *to = address;
        Ok(())
    };
    fn cuMemFree_v2(address: u64) => {
        let mut state = state();
        let bytes = state.memory.remove(&address).ok_or(INVALID_VALUE)?;
        state.used_bytes -= bytes;
        Ok(())
    };
    fn cuMemHostAlloc(to: *mut *mut c_void, bytes: usize, _flags: u32) => {
        let layout = Layout::from_size_align(bytes.max(1), 4096).map_err(|_| INVALID_VALUE)?;
        let pointer = alloc_zeroed(layout);
        if pointer.is_null() {
            return Err(OUT_OF_MEMORY);
        }
        state().host.insert(pointer as usize, layout);
        *to = pointer.cast();
        Ok(())
    };
    fn cuMemFreeHost(pointer: *mut c_void) => {
        let layout = state().host.remove(&(pointer as usize)).ok_or(INVALID_VALUE)?;
        dealloc(pointer.cast(), layout);
        Ok(())
    };
    fn cuMemsetD8Async(_to: u64, _value: u8, _bytes: usize, stream: u64) => {
        code(state().work(stream, Work::copy()))
    };
    fn cuMemcpyHtoDAsync_v2(_to: u64, _from: *const c_void, _bytes: usize, stream: u64) => {
        code(state().work(stream, Work::copy()))
    };
    fn cuMemcpyDtoHAsync_v2(_to: *mut c_void, _from: u64, _bytes: usize, stream: u64) => {
        code(state().work(stream, Work::copy()))
    };
    fn cuModuleLoadDataEx(to: *mut u64, image: *const c_char, _options: u32, _names: *mut u32, _values: *mut *mut c_void) => {
        let text = CStr::from_ptr(image).to_string_lossy().into_owned();
        let mut state = state();
        let handle = state.handle();
        state.modules.insert(handle, text);
        *to = handle;
        Ok(())
    };
    fn cuModuleUnload(module: u64) => state().modules.remove(&module).map(|_| ()).ok_or(INVALID_HANDLE);
    fn cuModuleGetFunction(to: *mut u64, module: u64, name: *const c_char) => {
        let entry = format!(".entry {}(", CStr::from_ptr(name).to_string_lossy());
        let mut state = state();
        if !state.modules.get(&module).ok_or(INVALID_HANDLE)?.contains(&entry) {
            return Err(NOT_FOUND);
        }
        *to = state.handle();
        Ok(())
    };
    fn cuFuncSetAttribute(_function: u64, _attribute: u32, value: i32) => {
        if value > at(0)?.shared_bytes { Err(INVALID_VALUE) } else { Ok(()) }
    };
    fn cuLaunchKernel(function: u64, _grid_x: u32, _grid_y: u32, _grid_z: u32, _block_x: u32, _block_y: u32,
        _block_z: u32, _shared: u32, stream: u64, _arguments: *mut *mut c_void, _extra: *mut *mut c_void) => {
        if function == 0 {
            return Err(INVALID_HANDLE);
        }
        code(state().work(stream, Work::kernel()))
    };
    fn cuLaunchKernelEx(config: *const LaunchConfig, function: u64, _arguments: *mut *mut c_void,
        _extra: *mut *mut c_void) => {
        let config = &*config;
        let attributes = std::slice::from_raw_parts(config.attributes, config.count as usize);
        // Blocks that wait for one another (2) fit at once; a cluster (4) must divide the grid; the other that is
        // known is an early start (6).
        for attribute in attributes {
            match attribute.id {
                2 if config.grid[0] <= at(0)?.sm_count as u32 => {}
                4 if config.grid[0].is_multiple_of(attribute.value[0].max(1)) => {}
                6 if attribute.value[0] == 1 => {}
                _ => return Err(INVALID_VALUE),
            }
        }
        if function == 0 || config.shared_bytes as i32 > at(0)?.shared_bytes {
            return Err(INVALID_VALUE);
        }
        code(state().work(config.stream, Work::kernel()))
    };
    fn cuOccupancyMaxActiveClusters(clusters: *mut i32, function: u64, config: *const LaunchConfig) => {
        let config = &*config;
        let attributes = std::slice::from_raw_parts(config.attributes, config.count as usize);
        let cluster = attributes.iter().find(|attribute| attribute.id == 4).map_or(1, |cluster| cluster.value[0]);
        if function == 0 || config.shared_bytes as i32 > at(0)?.shared_bytes || cluster == 0 {
            return Err(INVALID_VALUE);
        }
        *clusters = at(0)?.sm_count / cluster as i32;
        Ok(())
    };
    fn cuTensorMapEncodeTiled(map: *mut c_void, _format: u32, rank: u32, address: *mut c_void, sizes: *const u64,
        strides: *const u64, boxes: *const u32, _steps: *const u32, _interleave: u32, swizzle: u32,
        _promotion: u32, _fill: u32) => {
        // What NVIDIA's documentation of it demands of dimensions of 16-bit numbers.
        let rank = rank as usize;
        let sizes = std::slice::from_raw_parts(sizes, rank);
        let strides = std::slice::from_raw_parts(strides, rank - 1);
        let boxes = std::slice::from_raw_parts(boxes, rank);
        let row = boxes[0] * 2;
        let widest = match swizzle { 1 => 32, 2 => 64, 3 => 128, _ => return Err(INVALID_VALUE) };
        let right = (map as usize).is_multiple_of(64)
            && (address as usize).is_multiple_of(16)
            && sizes.iter().all(|&size| (1..=1 << 32).contains(&size))
            && strides.iter().all(|&bytes| bytes.is_multiple_of(16) && bytes < 1 << 40)
            && boxes.iter().all(|&size| (1..=256).contains(&size))
            && row.is_multiple_of(16)
            && row <= widest;
        if right { Ok(()) } else { Err(INVALID_VALUE) }
    };
    fn cuStreamCreate(to: *mut u64, _flags: u32) => {
        let mut state = state();
        let handle = state.handle();
        state.streams.insert(handle, Stream::default());
        *to = handle;
        Ok(())
    };
    fn cuStreamDestroy_v2(stream: u64) => state().streams.remove(&stream).map(|_| ()).ok_or(INVALID_HANDLE);
    fn cuStreamSynchronize(stream: u64) => {
        let until = state().streams.get(&stream).ok_or(INVALID_HANDLE)?.busy_until;
        // Short waits are spun, as the driver does: a sleep is never that exact.
        while let Some(left) = until.checked_sub(now()).filter(|left| *left > 0) {
            if left > 200_000 {
                std::thread::sleep(Duration::from_nanos(left - 100_000));
            } else {
                std::hint::spin_loop();
            }
        }
        Ok(())
    };
    fn cuStreamQuery(stream: u64) => {
        const NOT_READY: u32 = 600;
        let until = state().streams.get(&stream).ok_or(INVALID_HANDLE)?.busy_until;
        if until > now() { Err(NOT_READY) } else { Ok(()) }
    };
    fn cuStreamBeginCapture_v2(stream: u64, _mode: u32) => {
        state().streams.get_mut(&stream).ok_or(INVALID_HANDLE)?.captured = Some(Work::default());
        Ok(())
    };
    fn cuStreamEndCapture(stream: u64, to: *mut u64) => {
        let mut state = state();
        let captured = state.streams.get_mut(&stream).ok_or(INVALID_HANDLE)?.captured.take();
        let handle = state.handle();
        state.graphs.insert(handle, captured.ok_or(INVALID_VALUE)?);
        *to = handle;
        Ok(())
    };
    fn cuGraphInstantiateWithFlags(to: *mut u64, graph: u64, _flags: u64) => {
        let mut state = state();
        let work = *state.graphs.get(&graph).ok_or(INVALID_HANDLE)?;
        let handle = state.handle();
        state.executables.insert(handle, work);
        *to = handle;
        Ok(())
    };
    fn cuGraphDestroy(graph: u64) => state().graphs.remove(&graph).map(|_| ()).ok_or(INVALID_HANDLE);
    fn cuGraphUpload(executable: u64, stream: u64) => {
        let state = state();
        let known = state.executables.contains_key(&executable) && state.streams.contains_key(&stream);
        if known { Ok(()) } else { Err(INVALID_HANDLE) }
    };
    fn cuGraphLaunch(executable: u64, stream: u64) => {
        let mut state = state();
        let work = *state.executables.get(&executable).ok_or(INVALID_HANDLE)?;
        code(state.work(stream, work))
    };
    fn cuGraphExecDestroy(executable: u64) => {
        state().executables.remove(&executable).map(|_| ()).ok_or(INVALID_HANDLE)
    };
    fn cuEventCreate(to: *mut u64, _flags: u32) => {
        let mut state = state();
        let handle = state.handle();
        state.events.insert(handle, 0);
        *to = handle;
        Ok(())
    };
    fn cuEventDestroy_v2(event: u64) => state().events.remove(&event).map(|_| ()).ok_or(INVALID_HANDLE);
    fn cuEventRecord(event: u64, stream: u64) => {
        let mut state = state();
        let when = state.streams.get(&stream).ok_or(INVALID_HANDLE)?.busy_until.max(now());
        *state.events.get_mut(&event).ok_or(INVALID_HANDLE)? = when;
        Ok(())
    };
    fn cuStreamWaitEvent(stream: u64, event: u64, _flags: u32) => {
        let mut state = state();
        let when = *state.events.get(&event).ok_or(INVALID_HANDLE)?;
        let stream = state.streams.get_mut(&stream).ok_or(INVALID_HANDLE)?;
        stream.busy_until = stream.busy_until.max(when);
        Ok(())
    };
    fn cuEventElapsedTime(to: *mut f32, start: u64, end: u64) => {
        let state = state();
        let time = |event| state.events.get(&event).copied().ok_or(INVALID_HANDLE);
        *to = (time(end)? as f64 - time(start)? as f64) as f32 / 1e6;
        Ok(())
    };
}

/// Numbers of cuda.h: 16 multiprocessors, 75 and 76 compute capability, 97 shared memory, 38 L2,
/// 133 MPS.
fn attribute_of(device: &Device, attribute: u32) -> Option<i32> {
    let told = lie("cuDeviceGetAttribute", None).and_then(|text| {
        let (number, value) = text.split_once(' ')?;
        (number.parse() == Ok(attribute)).then(|| value.trim().parse().ok())?
    });
    told.or(match attribute {
        16 => Some(device.sm_count),
        38 => Some(device.l2_bytes),
        75 => Some(device.capability.0),
        76 => Some(device.capability.1),
        97 => Some(device.shared_bytes),
        133 => Some(i32::from(match setting("mps") {
            Some("always") => true,
            Some("default") => std::env::var_os("CUDA_MPS_PIPE_DIRECTORY").is_none(),
            _ => false,
        })),
        _ => None,
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGetErrorName(code: u32, to: *mut *const c_char) -> u32 {
    let name = match code {
        0 => c"CUDA_SUCCESS",
        1 => c"CUDA_ERROR_INVALID_VALUE",
        2 => c"CUDA_ERROR_OUT_OF_MEMORY",
        3 => c"CUDA_ERROR_NOT_INITIALIZED",
        46 => c"CUDA_ERROR_DEVICE_UNAVAILABLE",
        100 => c"CUDA_ERROR_NO_DEVICE",
        101 => c"CUDA_ERROR_INVALID_DEVICE",
        400 => c"CUDA_ERROR_INVALID_HANDLE",
        500 => c"CUDA_ERROR_NOT_FOUND",
        700 => c"CUDA_ERROR_ILLEGAL_ADDRESS",
        719 => c"CUDA_ERROR_LAUNCH_FAILED",
        999 => c"CUDA_ERROR_UNKNOWN",
        _ => return INVALID_VALUE,
    };
    // SAFETY: the caller keeps the driver's contract; the text is static.
    unsafe { *to = name.as_ptr() };
    OK
}
