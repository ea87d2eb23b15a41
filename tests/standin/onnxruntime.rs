//! A stand-in for ONNX Runtime's library: an entry point that names the version in MIGBENCH_STANDIN_ORT
//! and gives no interface, as a library that is too old for the one asked for. With the version `null` it does
//! not name one.

use std::ffi::{CString, c_char, c_void};
use std::ptr::null;
use std::sync::OnceLock;

/// The entry point's table.
#[repr(C)]
pub struct ApiBase {
    get_api: extern "C" fn(u32) -> *const c_void,
    get_version: extern "C" fn() -> *const c_char,
}

extern "C" fn get_api(_: u32) -> *const c_void {
    null()
}

extern "C" fn get_version() -> *const c_char {
    static VERSION: OnceLock<CString> = OnceLock::new();
    let version =
        || CString::new(std::env::var("MIGBENCH_STANDIN_ORT").unwrap_or_default()).unwrap_or_default();
    let version = VERSION.get_or_init(version);
    if version.as_bytes() == b"null" { null() } else { version.as_ptr() }
}

static BASE: ApiBase = ApiBase { get_api, get_version };

/// The only symbol that is looked for.
#[unsafe(no_mangle)]
pub extern "C" fn OrtGetApiBase() -> *const ApiBase {
    &BASE
}
