//! Where ONNX Runtime is on this machine, and which version. Nothing is downloaded.

use crate::machine::{lookup, text};
use crate::workload::python;
use anyhow::{Context, Result, bail};
use std::ffi::{CStr, c_char, c_void};
use std::path::{Path, PathBuf};

/// The oldest minor version of ONNX Runtime 1 whose interface is used (ort's `api-17`).
const OLDEST: u32 = 17;
/// Where packages of distributions and NVIDIA's containers put it.
const FOLDERS: [&str; 6] = [
    "/usr/lib",
    "/usr/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/local/lib",
    "/opt/onnxruntime/lib",
];
const HOW: &str = "install it with `pip install onnxruntime` (onnxruntime-gpu for --ep cuda), or name its \
                   libonnxruntime.so with --ort-lib or ORT_DYLIB_PATH";
/// The variable that names a library.
const VARIABLE: &str = "ORT_DYLIB_PATH";

/// The library that is asked for, or the first in the usual places, and its version: ORT_DYLIB_PATH,
/// the absolute folders of LD_LIBRARY_PATH, the Python of the active environment or in PATH, the system.
///
/// # Errors
/// There is none, or it can't be used; with what to do.
pub fn find(asked: Option<&Path>) -> Result<(PathBuf, String)> {
    let named = match asked {
        Some(path) => Some(path.to_owned()),
        None => lookup::named(VARIABLE)?,
    };
    if let Some(path) = named {
        let path = if path.is_dir() { in_folder(&path).unwrap_or(path) } else { path };
        let version = version(&path)?;
        return Ok((std::path::absolute(&path).unwrap_or(path), version));
    }
    let mut places = lookup::folders("LD_LIBRARY_PATH");
    places.extend(python_package());
    places.extend(FOLDERS.map(PathBuf::from));
    let Some(path) = places.iter().find_map(|folder| in_folder(folder)) else {
        bail!("ONNX Runtime's library was not found: {HOW}")
    };
    let version = version(&path)?;
    Ok((path, version))
}

/// The library in a folder: under its plain name, or with a version behind it.
fn in_folder(folder: &Path) -> Option<PathBuf> {
    let plain = folder.join("libonnxruntime.so");
    if plain.is_file() {
        return Some(plain);
    }
    let entries = std::fs::read_dir(folder).ok()?.flatten();
    let is_library = |name: &str| name.starts_with("libonnxruntime.so.");
    let mut found: Vec<PathBuf> =
        entries.filter(|e| e.file_name().to_str().is_some_and(is_library)).map(|e| e.path()).collect();
    found.sort();
    found.pop()
}

/// The folder of the library in Python's onnxruntime package.
fn python_package() -> Option<PathBuf> {
    let mut folders = python::package("onnxruntime").into_iter().map(|package| package.join("capi"));
    folders.find(|folder| folder.is_dir())
}

/// ONNX Runtime's entry point, as its C header declares it.
#[repr(C)]
struct ApiBase {
    get_api: extern "C" fn(u32) -> *const c_void,
    get_version: extern "C" fn() -> *const c_char,
}

/// The version of a library, if it is one that can be used.
///
/// # Errors
/// It can't be opened, is another library, or too old.
pub fn version(path: &Path) -> Result<String> {
    let shown = path.display();
    if !path.exists() {
        bail!("there is no {shown}: {HOW}");
    }
    // The loader would wait for a pipe.
    if !path.is_file() {
        bail!("{shown} is no file: {HOW}");
    }
    // The loader looks for a name without a folder elsewhere, and not here.
    let file = std::path::absolute(path).with_context(|| format!("{shown} has no place"))?;
    // SAFETY: initialisers of a library that the user names as ONNX Runtime's run here, as they would in
    // any program that links it.
    let library = unsafe { libloading::Library::new(file) }
        .with_context(|| format!("{shown} can't be opened as a library: {HOW}"))?;
    // SAFETY: this is the symbol's type in every version of ONNX Runtime's C interface.
    let entry = unsafe { library.get::<extern "C" fn() -> *const ApiBase>(b"OrtGetApiBase") };
    let Ok(entry) = entry else {
        bail!("{shown} is not ONNX Runtime's library, it has no OrtGetApiBase: {HOW}")
    };
    let base = entry();
    if base.is_null() {
        bail!("{shown} gives no interface: {HOW}");
    }
    // SAFETY: not null, of static lifetime, and with this member in every version; the library is still open.
    let text = unsafe { ((*base).get_version)() };
    if text.is_null() {
        bail!("{shown} does not say its version: {HOW}");
    }
    // SAFETY: not null, NUL-terminated and of static lifetime, as the C header has it.
    let text = text::name(&unsafe { CStr::from_ptr(text) }.to_string_lossy());
    let minor = match text.split_once('.') {
        Some(("1", rest)) => rest.split('.').next().and_then(|minor| minor.parse::<u32>().ok()),
        _ => None,
    };
    match minor {
        Some(minor) if minor >= OLDEST => Ok(text),
        Some(_) => bail!("{shown} is ONNX Runtime {text}, 1.{OLDEST} or newer is needed: {HOW}"),
        None => bail!("{shown} calls itself ONNX Runtime {text}, 1.{OLDEST} or newer is needed: {HOW}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_library_is_refused_with_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let junk = folder.path().join("libonnxruntime.so.1.20.0");
        std::fs::write(&junk, "junk").unwrap();
        let refusal = |path: &Path| format!("{:#}", find(Some(path)).unwrap_err());
        assert!(refusal(folder.path()).contains("1.20.0 can't be opened as a library: install it with"));
        assert!(refusal(&folder.path().join("no.so")).starts_with("there is no /"));
    }
}
