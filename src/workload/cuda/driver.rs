//! The CUDA driver's functions, opened at run time, and its errors.
//!
//! cudarc supplies the library and the types, but not the functions: its declarations return a Rust
//! enum, so that an error code newer than the binding would be undefined behaviour, and its
//! wrappers panic where a symbol or the library is missing. Here a function returns the bare `u32`,
//! and whatever is missing is an error. Nothing in this file decides what to call when.

use anyhow::{Result, anyhow};
use cudarc::driver::sys::{
    self, CUcontext, CUdeviceptr, CUevent, CUfunction, CUgraph, CUgraphExec, CUmodule, CUstream, CUuuid,
};
use std::ffi::{CStr, c_char, c_void};
use std::fmt;
use std::sync::OnceLock;

/// Declares a structure with a method for each symbol, named as the driver names it.
macro_rules! api {
    ($(#[$doc:meta])* $table:ident:
     $($method:ident = $symbol:ident $(or $older:ident)? ($($name:ident: $kind:ty),*);)*) => {
        $(#[$doc])*
        pub(super) struct $table {
            $($method: unsafe extern "C" fn($($kind),*) -> u32,)*
        }

        impl $table {
            fn load() -> Result<$table, String> {
                Ok($table {
                    // SAFETY: the type is the C prototype of this symbol, with CUresult as the
                    // unsigned integer that it is in C.
                    $($method: unsafe { symbol(&[stringify!($symbol) $(, stringify!($older))?])? },)*
                })
            }

            $(#[allow(clippy::too_many_arguments)]
            pub(super) unsafe fn $method(&self $(, $name: $kind)*) -> Result<(), CudaError> {
                // SAFETY: the caller keeps the C function's contract.
                match unsafe { (self.$method)($($name),*) } {
                    0 => Ok(()),
                    code => Err(CudaError { call: stringify!($symbol), code, log: String::new() }),
                }
            })*
        }
    };
}

api! {
    /// The driver's functions. Every method is as unsafe as the C function that it calls, whose
    /// contract is NVIDIA's documentation of it.
    Api:
    init = cuInit(flags: u32);
    driver_version = cuDriverGetVersion(version: *mut i32);
    error_name = cuGetErrorName(code: u32, name: *mut *const c_char);
    device_count = cuDeviceGetCount(count: *mut i32);
    device_get = cuDeviceGet(device: *mut i32, ordinal: i32);
    device_name = cuDeviceGetName(name: *mut c_char, length: i32, device: i32);
    device_uuid = cuDeviceGetUuid_v2(uuid: *mut CUuuid, device: i32);
    device_memory = cuDeviceTotalMem_v2(bytes: *mut usize, device: i32);
    device_attribute = cuDeviceGetAttribute(value: *mut i32, attribute: sys::CUdevice_attribute, device: i32);
    context_flags = cuDevicePrimaryCtxSetFlags_v2 or cuDevicePrimaryCtxSetFlags(device: i32, flags: u32);
    context_retain = cuDevicePrimaryCtxRetain(context: *mut CUcontext, device: i32);
    context_release = cuDevicePrimaryCtxRelease_v2 or cuDevicePrimaryCtxRelease(device: i32);
    context_set = cuCtxSetCurrent(context: CUcontext);
    memory_info = cuMemGetInfo_v2(free: *mut usize, total: *mut usize);
    memory_allocate = cuMemAlloc_v2(address: *mut CUdeviceptr, bytes: usize);
    memory_free = cuMemFree_v2(address: CUdeviceptr);
    host_allocate = cuMemHostAlloc(pointer: *mut *mut c_void, bytes: usize, flags: u32);
    host_free = cuMemFreeHost(pointer: *mut c_void);
    set_bytes = cuMemsetD8Async(to: CUdeviceptr, value: u8, bytes: usize, stream: CUstream);
    copy_to_device = cuMemcpyHtoDAsync_v2(to: CUdeviceptr, from: *const c_void, bytes: usize,
        stream: CUstream);
    copy_to_host = cuMemcpyDtoHAsync_v2(to: *mut c_void, from: CUdeviceptr, bytes: usize, stream: CUstream);
    module_load = cuModuleLoadDataEx(module: *mut CUmodule, image: *const c_void, options: u32,
        option_names: *const sys::CUjit_option, option_values: *mut *mut c_void);
    module_unload = cuModuleUnload(module: CUmodule);
    module_function = cuModuleGetFunction(function: *mut CUfunction, module: CUmodule, name: *const c_char);
    function_set = cuFuncSetAttribute(function: CUfunction, attribute: sys::CUfunction_attribute, value: i32);
    launch_kernel = cuLaunchKernel(function: CUfunction, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32,
        block_y: u32, block_z: u32, shared_bytes: u32, stream: CUstream, arguments: *mut *mut c_void,
        extra: *mut *mut c_void);
    stream_create = cuStreamCreate(stream: *mut CUstream, flags: u32);
    stream_destroy = cuStreamDestroy_v2(stream: CUstream);
    stream_synchronize = cuStreamSynchronize(stream: CUstream);
    stream_query = cuStreamQuery(stream: CUstream);
    stream_begin_capture = cuStreamBeginCapture_v2(stream: CUstream, mode: sys::CUstreamCaptureMode);
    stream_end_capture = cuStreamEndCapture(stream: CUstream, graph: *mut CUgraph);
    graph_instantiate = cuGraphInstantiateWithFlags(executable: *mut CUgraphExec, graph: CUgraph, flags: u64);
    graph_destroy = cuGraphDestroy(graph: CUgraph);
    graph_upload = cuGraphUpload(executable: CUgraphExec, stream: CUstream);
    graph_launch = cuGraphLaunch(executable: CUgraphExec, stream: CUstream);
    graph_executable_destroy = cuGraphExecDestroy(executable: CUgraphExec);
    event_create = cuEventCreate(event: *mut CUevent, flags: u32);
    event_destroy = cuEventDestroy_v2(event: CUevent);
    event_record = cuEventRecord(event: CUevent, stream: CUstream);
    // The _v2 of 12.8 differs in an error code only.
    stream_wait = cuStreamWaitEvent(stream: CUstream, event: CUevent, flags: u32);
    event_elapsed = cuEventElapsedTime or cuEventElapsedTime_v2(ms: *mut f32, start: CUevent, end: CUevent);
}

api! {
    /// Functions that Hopper's kernels need and that drivers before CUDA 12.0 lack.
    Newer:
    encode_tiled = cuTensorMapEncodeTiled(map: *mut c_void, format: u32, rank: u32, address: *mut c_void,
        sizes: *const u64, strides: *const u64, box_sizes: *const u32, element_strides: *const u32,
        interleave: u32, swizzle: u32, promotion: u32, fill: u32);
    launch_kernel = cuLaunchKernelEx(config: *const sys::CUlaunchConfig, function: CUfunction,
        arguments: *mut *mut c_void, extra: *mut *mut c_void);
    most_clusters = cuOccupancyMaxActiveClusters(clusters: *mut i32, function: CUfunction,
        config: *const sys::CUlaunchConfig);
}

api! {
    /// Functions that limit a context to some of the multiprocessors, of CUDA 12.4 and newer: for
    /// benches only.
    Green:
    resource = cuDeviceGetDevResource(device: i32, resource: *mut sys::CUdevResource,
        kind: sys::CUdevResourceType);
    split = cuDevSmResourceSplitByCount(parts: *mut sys::CUdevResource, count: *mut u32,
        from: *const sys::CUdevResource, rest: *mut sys::CUdevResource, flags: u32, at_least: u32);
    describe = cuDevResourceGenerateDesc(description: *mut sys::CUdevResourceDesc,
        resources: *mut sys::CUdevResource, count: u32);
    create = cuGreenCtxCreate(green: *mut sys::CUgreenCtx, description: sys::CUdevResourceDesc, device: i32,
        flags: u32);
    context = cuCtxFromGreenCtx(context: *mut CUcontext, green: sys::CUgreenCtx);
}

/// See [`Green`].
///
/// # Errors
/// The driver lacks one of them.
pub(super) fn green() -> Result<Green> {
    api()?;
    Green::load().map_err(|message| anyhow!("{message}"))
}

/// The newer functions; none where the driver (or the whole library) lacks them.
pub(super) fn newer() -> Option<&'static Newer> {
    static NEWER: OnceLock<Option<Newer>> = OnceLock::new();
    api().ok()?;
    NEWER.get_or_init(|| Newer::load().ok()).as_ref()
}

/// The driver's functions, opened at the first call.
///
/// # Errors
/// There is no libcuda, or it lacks a function that is used here (which one, and of which CUDA
/// version the driver is).
pub(super) fn api() -> Result<&'static Api> {
    static API: OnceLock<Result<Api, String>> = OnceLock::new();
    API.get_or_init(|| {
        // SAFETY: opening libcuda runs its initialisers, which is what it is for.
        if !unsafe { sys::is_culib_present() } {
            return Err(NO_LIBRARY.to_owned());
        }
        Api::load()
    })
    .as_ref()
    .map_err(|message| anyhow!("{message}"))
}

const NO_LIBRARY: &str = "libcuda.so.1 can't be opened: no NVIDIA driver is installed here, or it is not \
    passed into this container";

/// The first of `names` that libcuda has.
///
/// # Safety
/// `F` is the type of the C function of these names, and libcuda is present.
unsafe fn symbol<F: Copy>(names: &[&str]) -> Result<F, String> {
    for name in names {
        // SAFETY: the caller vouches for the type; the library is never closed.
        if let Ok(symbol) = unsafe { sys::culib().get::<F>(name.as_bytes()) } {
            return Ok(*symbol);
        }
    }
    type GetVersion = unsafe extern "C" fn(*mut i32) -> u32;
    let mut version = 0;
    // SAFETY: the prototype of this function.
    let get = unsafe { sys::culib().get::<GetVersion>(b"cuDriverGetVersion") };
    if let Ok(get) = get {
        // SAFETY: `version` outlives the call; it may be called before cuInit.
        unsafe { get(&mut version) };
    }
    Err(missing_symbol(names[0], version))
}

fn missing_symbol(name: &str, version: i32) -> String {
    format!(
        "the NVIDIA driver's libcuda (CUDA {}.{}) has no function {name}: migbench needs a driver of CUDA \
         11.4 (470) or newer",
        version / 1000,
        version % 1000 / 10
    )
}

/// A call of the driver that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CudaError {
    /// The driver's function.
    pub call: &'static str,
    /// `CUresult` as a number: drivers know codes that no header of today lists.
    pub code: u32,
    /// What the driver's compiler wrote, where it was asked to compile.
    pub log: String,
}

impl CudaError {
    /// `CUDA_ERROR_INVALID_VALUE`.
    pub const INVALID_VALUE: u32 = 1;
    /// `CUDA_ERROR_OUT_OF_MEMORY`.
    pub const OUT_OF_MEMORY: u32 = 2;
    /// `CUDA_ERROR_NOT_READY`: no error, but an answer.
    pub const NOT_READY: u32 = 600;

    /// What to do next about the common ones.
    fn hint(&self) -> Option<String> {
        Some(match self.code {
            Self::OUT_OF_MEMORY => "out of memory: choose a smaller batch or fewer in flight".to_owned(),
            34 => "the stub library of the CUDA toolkit was opened instead of the driver: take its 'stubs' \
                   folder out of LD_LIBRARY_PATH"
                .to_owned(),
            35 => "the driver is too old for this program: update it".to_owned(),
            46 => "the device is busy or unavailable: another process may hold it exclusively".to_owned(),
            100 => match visible_devices() {
                Some(value) => format!("no device is visible; CUDA_VISIBLE_DEVICES is '{value}'"),
                None => "no device is visible; CUDA_VISIBLE_DEVICES is not set".to_owned(),
            },
            101 => format!("CUDA_VISIBLE_DEVICES='{}' names no device, or one twice", visible_devices()?),
            209 => "the kernels hold no code for this device".to_owned(),
            218 | 222 => "the driver could not compile the embedded kernels: it is too old for them, or the \
                          build is broken"
                .to_owned(),
            700 => "a kernel accessed memory that is not its own: a bug of migbench".to_owned(),
            802 => "the fabric is not ready: is nvidia-fabricmanager running?".to_owned(),
            805 | 807 => "the MPS server refused: it is not reachable, or it is full".to_owned(),
            _ => return None,
        })
    }
}

fn visible_devices() -> Option<String> {
    Some(std::env::var_os("CUDA_VISIBLE_DEVICES")?.to_string_lossy().into_owned())
}

impl fmt::Display for CudaError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}: ", self.call)?;
        match error_name(self.code) {
            Some(name) => write!(f, "{name} ({})", self.code)?,
            None => write!(f, "error {}", self.code)?,
        }
        if let Some(hint) = self.hint() {
            write!(f, ": {hint}")?;
        }
        if !self.log.is_empty() {
            write!(f, "\n{}", self.log)?;
        }
        Ok(())
    }
}

impl std::error::Error for CudaError {}

/// The driver's name of an error code; none where there is no driver or it doesn't know the code.
fn error_name(code: u32) -> Option<String> {
    let mut name: *const c_char = std::ptr::null();
    // SAFETY: `name` outlives the call.
    unsafe { api().ok()?.error_name(code, &mut name) }.ok()?;
    if name.is_null() {
        return None;
    }
    // SAFETY: the driver returned a static NUL-terminated string.
    Some(unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_driver_there_is_an_error_and_no_panic() {
        match api() {
            Ok(_) => assert!(error_name(2).is_some()),
            Err(e) => assert!(e.to_string().contains("libcuda"), "{e}"),
        }
    }

    #[test]
    fn any_code_has_a_text() {
        for code in [0, 1, 2, 34, 35, 100, 101, 218, 222, 700, 999, 31_337, u32::MAX] {
            let text = CudaError { call: "cuInit", code, log: String::new() }.to_string();
            assert!(text.starts_with("cuInit: ") && text.contains(&code.to_string()), "{text}");
        }
        let stub = CudaError { call: "cuInit", code: 34, log: String::new() }.to_string();
        assert!(stub.contains("LD_LIBRARY_PATH"), "{stub}");
        let compile = CudaError { call: "cuModuleLoadDataEx", code: 218, log: "line 3: error".into() };
        assert!(compile.to_string().ends_with("\nline 3: error"));
    }

    #[test]
    fn a_missing_function_is_named_with_the_driver() {
        let text = missing_symbol("cuGraphUpload", 11_010);
        assert!(text.contains("cuGraphUpload") && text.contains("CUDA 11.1)"), "{text}");
    }
}
