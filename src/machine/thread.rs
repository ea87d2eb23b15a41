//! Threads whose creation may fail.

use rustix::process::{Resource, getrlimit};
use std::io;
use std::thread::{Builder, JoinHandle};

/// The stack of a thread, as Rust has it by default.
const STACK_BYTES: usize = 2 << 20;
/// Memory that must be left beside the stack of a new thread. Where a limit on the address space
/// (`ulimit -v`) is used up, an allocation of a few bytes ends the program, and nobody learns why: the
/// thread is refused before. Eight MiB are what the parent of seven workers needs.
const RESERVE_BYTES: u64 = 8 << 20;

/// Starts a thread. `std::thread::spawn` panics where the limits of the user or of the container allow
/// no further one.
///
/// # Errors
/// The thread cannot be created; the text names the limits to look at.
pub fn start(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    with_stack(name, STACK_BYTES, body)
}

/// The same with a stack of this size.
///
/// # Errors
/// As [`start`].
pub fn with_stack<T: Send + 'static>(
    name: &str,
    stack_bytes: usize,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let has_room = room_bytes().is_none_or(|room| room >= stack_bytes as u64 + RESERVE_BYTES);
    let started = if has_room {
        Builder::new().name(name.to_owned()).stack_size(stack_bytes).spawn(body)
    } else {
        Err(io::ErrorKind::OutOfMemory.into())
    };
    started.map_err(|error| refused(name, &error))
}

/// What the limit on the address space leaves; `None` without such a limit.
fn room_bytes() -> Option<u64> {
    let limit = getrlimit(Resource::As).current?;
    let pages: u64 = std::fs::read_to_string("/proc/self/statm").ok()?.split(' ').next()?.parse().ok()?;
    Some(limit.saturating_sub(pages * rustix::param::page_size() as u64))
}

/// Why a thread cannot be created, and what to do.
fn refused(name: &str, error: &io::Error) -> io::Error {
    let text = format!(
        "cannot create the thread '{name}': {error}: raise the limit on processes (ulimit -u, pids.max of the \
         cgroup) or on memory (ulimit -v)"
    );
    io::Error::new(error.kind(), text)
}
