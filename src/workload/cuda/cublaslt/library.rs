//! NVIDIA's cuBLASLt, found and opened at run time: its functions and its errors.
//!
//! As in [`super::super::driver`], a function returns the bare status, so that one which no header of
//! today lists is still a number, and whatever is missing is an error.

use crate::machine::lookup;
use crate::workload::python;
use anyhow::{Result, anyhow};
use libloading::Library;
use std::error::Error;
use std::ffi::{OsString, c_void};
use std::fmt;
use std::path::PathBuf;
use std::sync::OnceLock;

/// The major versions whose interface is the one below, newest first: the number in the library's name.
const MAJORS: [i32; 3] = [13, 12, 11];
/// The file to open and no other.
const VARIABLE: &str = "MIGBENCH_CUBLASLT";
const HOW: &str = "install it with `pip install nvidia-cublas` (CUDA 13) or nvidia-cublas-cu12 (CUDA 12), put the \
                   toolkit's lib64 into LD_LIBRARY_PATH, or name the file in MIGBENCH_CUBLASLT";

/// `cublasLtMatmulHeuristicResult_t`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Choice {
    /// `cublasLtMatmulAlgo_t`: opaque.
    pub(super) algorithm: [u64; 8],
    pub(super) workspace_bytes: usize,
    pub(super) status: u32,
    waves: f32,
    reserved: [i32; 4],
}

/// A handle, a description, a layout or a preference of the library.
pub(super) type Opaque = *mut c_void;

/// Declares the structure with a method for each symbol.
macro_rules! api {
    ($($method:ident = $symbol:ident ($($name:ident: $kind:ty),*);)*) => {
        /// The library's functions. Every method is as unsafe as the C function that it calls, whose
        /// contract is NVIDIA's documentation of it.
        pub(super) struct Api {
            /// As `13.0.2`.
            pub(super) version: String,
            $($method: unsafe extern "C" fn($($kind),*) -> u32,)*
        }

        impl Api {
            fn load(library: &Library, version: String) -> Result<Api, String> {
                Ok(Api {
                    version,
                    // SAFETY: the type is the C prototype of this symbol in each of MAJORS, with
                    // cublasStatus_t as the unsigned integer that it is in C.
                    $($method: *unsafe { library.get(stringify!($symbol)) }.map_err(|error| words(&error))?,)*
                })
            }

            $(#[allow(clippy::too_many_arguments)]
            pub(super) unsafe fn $method(&self $(, $name: $kind)*) -> Result<(), CublasError> {
                // SAFETY: the caller keeps the C function's contract.
                match unsafe { (self.$method)($($name),*) } {
                    0 => Ok(()),
                    status => Err(CublasError { call: stringify!($symbol), status }),
                }
            })*
        }
    };
}

api! {
    create = cublasLtCreate(handle: *mut Opaque);
    destroy = cublasLtDestroy(handle: Opaque);
    product_create = cublasLtMatmulDescCreate(description: *mut Opaque, compute: u32, scale: u32);
    product_set = cublasLtMatmulDescSetAttribute(description: Opaque, attribute: u32, value: *const c_void,
        bytes: usize);
    product_destroy = cublasLtMatmulDescDestroy(description: Opaque);
    layout_create = cublasLtMatrixLayoutCreate(layout: *mut Opaque, kind: u32, rows: u64, columns: u64,
        stride: i64);
    layout_destroy = cublasLtMatrixLayoutDestroy(layout: Opaque);
    preference_create = cublasLtMatmulPreferenceCreate(preference: *mut Opaque);
    preference_set = cublasLtMatmulPreferenceSetAttribute(preference: Opaque, attribute: u32,
        value: *const c_void, bytes: usize);
    preference_destroy = cublasLtMatmulPreferenceDestroy(preference: Opaque);
    choose = cublasLtMatmulAlgoGetHeuristic(handle: Opaque, description: Opaque, a: Opaque, b: Opaque, c: Opaque,
        d: Opaque, preference: Opaque, wanted: i32, choices: *mut Choice, found: *mut i32);
    multiply = cublasLtMatmul(handle: Opaque, description: Opaque, alpha: *const c_void, a: *const c_void,
        a_layout: Opaque, b: *const c_void, b_layout: Opaque, beta: *const c_void, c: *const c_void,
        c_layout: Opaque, d: *mut c_void, d_layout: Opaque, algorithm: *const u64, workspace: *mut c_void,
        workspace_bytes: usize, stream: *mut c_void);
}

/// The library, opened at the first call, for a driver of this CUDA version (1000 x major + 10 x minor): a
/// newer major version can't run on it.
///
/// # Errors
/// There is none, or it can't be used; with where was looked and what to do.
pub(super) fn api(cuda_version: i32) -> Result<&'static Api> {
    static API: OnceLock<Result<Api, String>> = OnceLock::new();
    API.get_or_init(|| {
        let (library, name) = open(cuda_version / 1000)?;
        let api = version(&library, &name).and_then(|version| {
            Api::load(&library, version)
                .map_err(|error| format!("{name} lacks a function of cuBLASLt: {error}"))
        });
        // Never closed: the functions stay valid.
        std::mem::forget(library);
        api
    })
    .as_ref()
    .map_err(|message| anyhow!("{message}"))
}

/// What it says of itself.
fn version(library: &Library, name: &str) -> Result<String, String> {
    // SAFETY: the prototype of this symbol in every version.
    let get = unsafe { library.get::<unsafe extern "C" fn() -> usize>("cublasLtGetVersion") };
    let Ok(get) = get else {
        return Err(format!("{name} is not cuBLASLt, it has no cublasLtGetVersion: {HOW}"));
    };
    // SAFETY: it takes nothing and may be called at any time.
    let number = unsafe { get() };
    if number < 10_000 * MAJORS[MAJORS.len() - 1] as usize {
        return Err(format!(
            "{name} is version {number} of cuBLASLt, 11.0 (110000) or newer is needed: {HOW}"
        ));
    }
    Ok(format!("{}.{}.{}", number / 10_000, number / 100 % 100, number % 100))
}

/// The library that is named, or the first in the usual places, and where it was: the loader's (of which
/// LD_LIBRARY_PATH is the first, without relative folders since this program started), then those of
/// Python's packages.
fn open(newest: i32) -> Result<(Library, String), String> {
    let open = |file: OsString| {
        // SAFETY: initialisers of NVIDIA's library, or of the one that the user names as it, run here, as
        // they would in any program that links it.
        unsafe { Library::new(&file) }.map(|library| (library, file.to_string_lossy().into_owned()))
    };
    if let Some(file) = lookup::named(VARIABLE).map_err(|error| error.to_string())? {
        let shown = file.display().to_string();
        // The loader would wait for a pipe.
        if file.exists() && !file.is_file() {
            return Err(format!("{VARIABLE} names {shown}, which is no file: {HOW}"));
        }
        return open(file.into()).map_err(|error| format!("{VARIABLE} names {shown}: {}", words(&error)));
    }
    let names = names(newest);
    let mut broken = Vec::new();
    for name in &names {
        match open(name.into()) {
            Ok(found) => return Ok(found),
            Err(error) => broken.extend(Some(words(&error)).filter(|error| !is_absence(name, error))),
        }
    }
    let folders = folders(python::package("nvidia"));
    for file in names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name))) {
        match file.is_file().then(|| open(file.into())) {
            Some(Ok(found)) => return Ok(found),
            Some(Err(error)) => broken.push(words(&error)),
            None => {}
        }
    }
    let paths = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default().to_string_lossy().into_owned();
    Err(missing(&names, &paths, &folders, &broken))
}

/// The loader's own words, which stand behind those of the crate.
fn words(error: &libloading::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

/// The names for a driver of this major version.
fn names(newest: i32) -> Vec<String> {
    let usable = MAJORS.into_iter().filter(|&major| major <= newest);
    usable.map(|major| format!("libcublasLt.so.{major}")).collect()
}

/// The loader found no file of this name, as opposed to one that it can't load.
fn is_absence(name: &str, error: &str) -> bool {
    error.starts_with(&format!("{name}: cannot open shared object file: No such file"))
}

/// nvidia/cublas/lib (of the packages for CUDA 12), nvidia/cu13/lib, …
fn folders(packages: Vec<PathBuf>) -> Vec<PathBuf> {
    let entries = packages.into_iter().filter_map(|package| package.read_dir().ok()).flatten().flatten();
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.path().join("lib")).collect();
    folders.retain(|folder| folder.is_dir());
    folders.sort();
    folders
}

fn missing(names: &[String], paths: &str, folders: &[PathBuf], broken: &[String]) -> String {
    let looked: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
    let python = if looked.is_empty() {
        "Python has no nvidia package".to_owned()
    } else {
        format!("nor is it in Python's {}", looked.join(", "))
    };
    let broken: String = broken.iter().map(|error| format!("; {error}")).collect();
    format!(
        "cuBLASLt was not found: the loader finds no {} (LD_LIBRARY_PATH is '{paths}'), {python}{broken}: {HOW}",
        names.join(", ")
    )
}

/// A call of the library that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct CublasError {
    call: &'static str,
    /// `cublasStatus_t` as a number.
    status: u32,
}

impl CublasError {
    /// NVIDIA's name of the status, and what to do about the common ones.
    fn words(&self) -> Option<(&'static str, &'static str)> {
        Some(match self.status {
            1 => ("NOT_INITIALIZED", ": is it for this driver, and is there memory left?"),
            3 => ("ALLOC_FAILED", ": out of memory, choose a smaller batch or fewer in flight"),
            7 => ("INVALID_VALUE", ""),
            8 => ("ARCH_MISMATCH", ": this version does not know the GPU, install a newer one"),
            11 => ("MAPPING_ERROR", ""),
            13 => ("EXECUTION_FAILED", ""),
            14 => ("INTERNAL_ERROR", ""),
            15 => ("NOT_SUPPORTED", ""),
            16 => ("LICENSE_ERROR", ""),
            _ => return None,
        })
    }
}

impl fmt::Display for CublasError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let CublasError { call, status } = self;
        match self.words() {
            Some((name, hint)) => write!(f, "{call}: CUBLAS_STATUS_{name} ({status}){hint}"),
            None => write!(f, "{call}: status {status}"),
        }
    }
}

impl Error for CublasError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_not_there_is_told_with_the_way_out() {
        assert_eq!(names(13), ["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so.11"]);
        assert_eq!(names(11), ["libcublasLt.so.11"], "a newer one can't run on this driver");
        let text = missing(&names(12), "/a:/b", &[], &[]);
        let expected = "cuBLASLt was not found: the loader finds no libcublasLt.so.12, libcublasLt.so.11 \
                        (LD_LIBRARY_PATH is '/a:/b'), Python has no nvidia package: install it with `pip";
        assert!(text.starts_with(expected), "{text}");
        let text = missing(&names(11), "", &["/p/cu13/lib".into()], &["x: invalid ELF header".into()]);
        assert!(text.contains("nor is it in Python's /p/cu13/lib; x: invalid ELF header: install"), "{text}");
        let absent = "libcublasLt.so.12: cannot open shared object file: No such file or directory";
        assert!(is_absence("libcublasLt.so.12", absent));
        assert!(!is_absence(
            "libcublasLt.so.12",
            "libcudart.so: cannot open shared object file: No such file"
        ));
    }

    #[test]
    fn pythons_packages_have_the_library_below_lib() {
        let package = tempfile::tempdir().unwrap();
        for folder in ["cudnn/include", "cublas/lib", "cu13/lib"] {
            std::fs::create_dir_all(package.path().join(folder)).unwrap();
        }
        let found = folders(vec![package.path().to_owned(), "/nonexistent".into()]);
        assert_eq!(found, [package.path().join("cu13/lib"), package.path().join("cublas/lib")]);
    }

    #[test]
    fn any_status_has_a_text() {
        for status in [1, 3, 7, 8, 11, 13, 14, 15, 16, 99, u32::MAX] {
            let text = CublasError { call: "cublasLtMatmul", status }.to_string();
            assert!(text.starts_with("cublasLtMatmul: ") && text.contains(&status.to_string()), "{text}");
        }
    }
}
