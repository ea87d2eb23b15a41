//! A stand-in for cuBLASLt beside that for libcuda: the functions that migbench opens, by NVIDIA's
//! documentation of them. It multiplies nothing: a product is a kernel's time on the stream, which the
//! stand-in driver knows. What the real library refuses is refused here: handles that it did not make,
//! descriptions and layouts that contradict each other, addresses less aligned than was said, and
//! algorithms for another shape than theirs.
//!
//! `cublasLtGetVersion = lie N` is another version; `cublasLtMatmulAlgoGetHeuristic = lie none` finds no
//! algorithm.
#![allow(non_snake_case, reason = "NVIDIA's names")]

#[allow(dead_code, reason = "it has no devices")]
mod common;

use common::{fault, lie};
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Mutex, MutexGuard, OnceLock};

const OK: u32 = 0;
const NOT_INITIALIZED: u32 = 1;
const INVALID_VALUE: u32 = 7;
const EXECUTION_FAILED: u32 = 13;
const NOT_SUPPORTED: u32 = 15;

/// CUDA_R_32F, CUDA_R_16F, CUDA_R_16BF and their bytes.
const KINDS: [(u32, u64); 3] = [(0, 4), (2, 2), (14, 2)];

/// What was made, by its handle.
#[derive(Clone, Debug)]
enum Made {
    Handle,
    /// Compute type, scale type, epilogue, bias.
    Product([u32; 3], u64),
    /// Kind, rows, columns, stride.
    Layout(u32, u64, u64, i64),
    /// Attributes by their number.
    Preference(HashMap<u32, u64>),
}

#[derive(Default)]
struct State {
    last: usize,
    made: HashMap<usize, Made>,
}

fn state() -> MutexGuard<'static, State> {
    static STATE: OnceLock<Mutex<State>> = OnceLock::new();
    STATE.get_or_init(Mutex::default).lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl State {
    fn make(&mut self, made: Made) -> usize {
        self.last += 16;
        self.made.insert(0x6000_0000 + self.last, made);
        0x6000_0000 + self.last
    }

    fn get(&self, handle: usize) -> Result<Made, u32> {
        self.made.get(&handle).cloned().ok_or(INVALID_VALUE)
    }

    fn remove(&mut self, handle: usize) -> Result<(), u32> {
        self.made.remove(&handle).map(|_| ()).ok_or(INVALID_VALUE)
    }

    /// m, n, k of column-major D (m x n) = A (m x k) · B (k x n), of matrices of one kind.
    fn shape(&self, layouts: [usize; 4], product: usize) -> Result<[u64; 3], u32> {
        let [a, b, c, d] = layouts.map(|layout| self.get(layout));
        let (Made::Layout(kind, m, k, lda), Made::Layout(kind_b, k_b, n, ldb)) = (a?, b?) else {
            return Err(INVALID_VALUE);
        };
        let (Made::Layout(kind_c, m_c, n_c, ldc), Made::Layout(kind_d, m_d, n_d, ldd)) = (c?, d?) else {
            return Err(INVALID_VALUE);
        };
        let Made::Product([compute, scale, epilogue], bias) = self.get(product)? else {
            return Err(INVALID_VALUE);
        };
        let has_bias = [4, 6].contains(&epilogue);
        let fits = k == k_b && (m, n) == (m_c, n_c) && (m, n) == (m_d, n_d) && m > 0 && n > 0 && k > 0;
        let strides = lda >= m as i64 && ldb >= k as i64 && ldc >= m as i64 && ldd >= m as i64;
        let alike = kind == kind_b && kind == kind_c && kind == kind_d && KINDS.iter().any(|k| k.0 == kind);
        // CUBLAS_COMPUTE_32F, and factors of CUDA_R_32F.
        let exact = (compute, scale) == (68, 0) && [1, 2, 4, 6].contains(&epilogue);
        if fits && strides && alike && exact && has_bias == (bias != 0) {
            Ok([m, n, k])
        } else {
            Err(INVALID_VALUE)
        }
    }
}

/// The driver's launch of a kernel, from the library that the process has already.
fn launch(stream: usize) -> Result<(), u32> {
    type Launch = unsafe extern "C" fn(
        usize,
        u32,
        u32,
        u32,
        u32,
        u32,
        u32,
        u32,
        usize,
        *mut *mut c_void,
        *mut *mut c_void,
    ) -> u32;
    static LAUNCH: OnceLock<Option<Launch>> = OnceLock::new();
    let launch = LAUNCH.get_or_init(|| {
        // SAFETY: the stand-in driver, open already; its prototype; neither is ever closed.
        unsafe {
            let driver = libloading::Library::new("libcuda.so").ok()?;
            let launch = *driver.get::<Launch>("cuLaunchKernel").ok()?;
            std::mem::forget(driver);
            Some(launch)
        }
    });
    let launch = launch.ok_or(NOT_INITIALIZED)?;
    // SAFETY: the stand-in reads the function, which is not null, and the stream.
    let code = unsafe { launch(1, 1, 1, 1, 1, 1, 1, 0, stream, std::ptr::null_mut(), std::ptr::null_mut()) };
    if code == OK { Ok(()) } else { Err(EXECUTION_FAILED) }
}

/// `cublasLtMatmulHeuristicResult_t`.
#[repr(C)]
pub struct Choice {
    algorithm: [u64; 8],
    workspace_bytes: usize,
    status: u32,
    waves: f32,
    reserved: [i32; 4],
}

/// Declares exported functions. Each first fails if it was told to.
macro_rules! export {
    ($(fn $name:ident($($argument:ident: $kind:ty),*) => $body:expr;)*) => {
        $(#[unsafe(no_mangle)]
        #[allow(unused_unsafe, reason = "not every body writes through a pointer")]
        #[allow(clippy::too_many_arguments)]
        unsafe extern "C" fn $name($($argument: $kind),*) -> u32 {
            if let Some(code) = fault(stringify!($name), None) {
                return code;
            }
            // SAFETY: the caller keeps the library's contract: pointers are valid for what is read or
            // written.
            let answer = || -> Result<(), u32> { unsafe { $body } };
            answer().err().unwrap_or(OK)
        })*
    };
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtGetVersion() -> usize {
    lie("cublasLtGetVersion", None).and_then(|text| text.parse().ok()).unwrap_or(130_002)
}

/// The value of an attribute: 4 or 8 bytes.
unsafe fn value(from: *const c_void, bytes: usize) -> Result<u64, u32> {
    // SAFETY: the caller's promise: so many bytes can be read there.
    unsafe {
        match bytes {
            4 => Ok(u64::from(from.cast::<u32>().read_unaligned())),
            8 => Ok(from.cast::<u64>().read_unaligned()),
            _ => Err(INVALID_VALUE),
        }
    }
}

export! {
    fn cublasLtCreate(to: *mut usize) => {
        *to = state().make(Made::Handle);
        Ok(())
    };
    fn cublasLtDestroy(handle: usize) => state().remove(handle);
    fn cublasLtMatmulDescCreate(to: *mut usize, compute: u32, scale: u32) => {
        *to = state().make(Made::Product([compute, scale, 1], 0));
        Ok(())
    };
    fn cublasLtMatmulDescSetAttribute(product: usize, attribute: u32, from: *const c_void, bytes: usize) => {
        let value = value(from, bytes)?;
        match (state().made.get_mut(&product), attribute, bytes) {
            (Some(Made::Product(types, _)), 7, 4) => types[2] = value as u32,
            (Some(Made::Product(_, bias)), 8, 8) => *bias = value,
            _ => return Err(INVALID_VALUE),
        }
        Ok(())
    };
    fn cublasLtMatmulDescDestroy(product: usize) => state().remove(product);
    fn cublasLtMatrixLayoutCreate(to: *mut usize, kind: u32, rows: u64, columns: u64, stride: i64) => {
        *to = state().make(Made::Layout(kind, rows, columns, stride));
        Ok(())
    };
    fn cublasLtMatrixLayoutDestroy(layout: usize) => state().remove(layout);
    fn cublasLtMatmulPreferenceCreate(to: *mut usize) => {
        *to = state().make(Made::Preference(HashMap::new()));
        Ok(())
    };
    fn cublasLtMatmulPreferenceSetAttribute(preference: usize, attribute: u32, from: *const c_void,
        bytes: usize) => {
        let value = value(from, bytes)?;
        // The workspace has 8 bytes, the others 4.
        match state().made.get_mut(&preference) {
            Some(Made::Preference(known)) if bytes == if attribute == 1 { 8 } else { 4 } => {
                known.insert(attribute, value);
                Ok(())
            }
            _ => Err(INVALID_VALUE),
        }
    };
    fn cublasLtMatmulPreferenceDestroy(preference: usize) => state().remove(preference);
    fn cublasLtMatmulAlgoGetHeuristic(handle: usize, product: usize, a: usize, b: usize, c: usize, d: usize,
        preference: usize, wanted: i32, choices: *mut Choice, found: *mut i32) => {
        let state = state();
        let (Made::Handle, Made::Preference(known)) = (state.get(handle)?, state.get(preference)?) else {
            return Err(INVALID_VALUE);
        };
        let [m, n, k] = state.shape([a, b, c, d], product)?;
        if lie("cublasLtMatmulAlgoGetHeuristic", None) == Some("none") {
            *found = 0;
            return Err(NOT_SUPPORTED);
        }
        let aligned = |attribute| known.get(&attribute).copied().unwrap_or(256);
        let alignments = (5..=8).fold(0, |all, attribute| all << 16 | aligned(attribute));
        if wanted < 1 {
            return Err(INVALID_VALUE);
        }
        let algorithm = [m, n, k, alignments, 0, 0, 0, 0];
        let workspace_bytes = known.get(&1).copied().unwrap_or(0) as usize;
        *choices = Choice { algorithm, workspace_bytes, status: 0, waves: 1.0, reserved: [0; 4] };
        *found = 1;
        Ok(())
    };
    fn cublasLtMatmul(handle: usize, product: usize, alpha: *const f32, a: u64, a_layout: usize, b: u64,
        b_layout: usize, beta: *const f32, c: u64, c_layout: usize, d: u64, d_layout: usize,
        algorithm: *const [u64; 8], workspace: u64, workspace_bytes: usize, stream: usize) => {
        let state = state();
        let shape = state.shape([a_layout, b_layout, c_layout, d_layout], product)?;
        let algorithm = &*algorithm;
        let aligned = [a, b, c, d].into_iter().enumerate().all(|(i, address)| {
            let alignment = algorithm[3] >> (48 - 16 * i) & 0xffff;
            address != 0 && alignment.is_power_of_two() && address.is_multiple_of(alignment)
        });
        let is_handle = matches!(state.get(handle)?, Made::Handle);
        let factors = *alpha == 1.0 && (*beta == 0.0 || *beta == 1.0) && (*beta == 1.0 || c == d);
        let scratch = workspace_bytes == 0 || (workspace != 0 && workspace.is_multiple_of(256));
        if !is_handle || algorithm[..3] != shape || !aligned || !factors || !scratch {
            return Err(INVALID_VALUE);
        }
        launch(stream)
    };
}
