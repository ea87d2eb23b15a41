//! A library that must never be opened: its initialiser leaves the file that MIGBENCH_TRAP names.

use std::fs::write;

extern "C" fn spring() {
    if let Some(file) = std::env::var_os("MIGBENCH_TRAP") {
        let _ = write(file, "sprung");
    }
}

/// What the loader calls when it has opened the library.
#[used]
#[unsafe(link_section = ".init_array")]
static TRAP: extern "C" fn() = spring;
