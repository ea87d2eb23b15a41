//! Signals that ask the program to stop.

use crate::machine::thread;
use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// How often the user has asked to stop.
pub(super) static INTERRUPTS: AtomicUsize = AtomicUsize::new(0);

/// After the second request, what was measured is saved within this time; then the program ends,
/// wherever it is. Its workers die with it.
const LAST_WORDS: Duration = Duration::from_millis(800);
/// The exit code of an interrupted program.
const INTERRUPTED: i32 = crate::cli::Exit::Interrupted as i32;

/// Counts SIGINT, SIGTERM and SIGHUP in [`INTERRUPTS`]. SIGHUP stays ignored if it was ignored at the
/// start, as under `nohup`.
///
/// # Errors
/// The handlers or their thread cannot be set up.
pub(super) fn listen() -> Result<()> {
    let mut wanted = vec![SIGINT, SIGTERM];
    if !is_ignored(SIGHUP) {
        wanted.push(SIGHUP);
    }
    let mut signals = signal_hook::iterator::Signals::new(wanted).context("cannot handle signals")?;
    let count = move || {
        for _ in signals.forever() {
            if INTERRUPTS.fetch_add(1, Relaxed) == 1 {
                // If no thread can be had for the wait, there is none.
                let wait = thread::start("last words", || {
                    std::thread::sleep(LAST_WORDS);
                    end();
                });
                if wait.is_err() {
                    end();
                }
            }
        }
    };
    thread::start("signals", count)?;
    Ok(())
}

/// Ends the process without running destructors, which may wait for the thread that hangs.
fn end() -> ! {
    signal_hook::low_level::exit(INTERRUPTED)
}

/// From the mask in /proc; without it, a signal counts as not ignored.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    is_in_mask(&status, signal)
}

fn is_in_mask(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_signal_is_a_bit_of_the_mask() {
        let status = "Name:\tx\nSigIgn:\t0000000000000001\nSigCgt:\t0000000180014003\n";
        assert!(is_in_mask(status, SIGHUP));
        assert!(!is_in_mask(status, SIGINT));
        assert!(!is_in_mask("", SIGHUP));
    }
}
