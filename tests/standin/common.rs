//! What both stand-ins share: the topology they play, and the faults they were told to have.
//!
//! `MIGBENCH_STANDIN` names a topology or a capture, `MIGBENCH_STANDIN_FAULTS` a text with a fault a
//! line (`#` begins a comment):
//!
//! ```text
//! CALL[@WHOM] [after N] = CODE | hang | crash | slow MS | lost CODE | lie TEXT | WORD
//! ```
//!
//! WHOM is a GPU's index, or what this process's CUDA_VISIBLE_DEVICES begins with; `after N` lets the
//! first N calls pass. A call that hangs leaves a file `hanging` beside the topology; a slow one takes
//! MS longer and tells the truth. What a lie or a word means is the call's own business.

use migbench::machine::doctor::evidence::Case;
use migbench::machine::{Topology, capture};
use std::ffi::c_char;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

struct Fault {
    call: String,
    whom: Option<String>,
    after: u64,
    action: String,
    seen: AtomicU64,
}

fn read(variable: &str) -> Option<String> {
    let path = std::env::var_os(variable)?;
    Some(std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{variable}: {}: {e}", path.display())))
}

/// The machine that is played.
pub fn case() -> &'static Case {
    static CASE: OnceLock<Case> = OnceLock::new();
    CASE.get_or_init(|| {
        let text = read("MIGBENCH_STANDIN").expect("MIGBENCH_STANDIN names the topology to play");
        capture::parse(&text).expect("MIGBENCH_STANDIN names a topology")
    })
}

/// Its GPUs.
pub fn topology() -> &'static Topology {
    static NONE: OnceLock<Topology> = OnceLock::new();
    case().topology.as_ref().unwrap_or_else(|_| NONE.get_or_init(Topology::default))
}

fn faults() -> &'static [Fault] {
    static FAULTS: OnceLock<Vec<Fault>> = OnceLock::new();
    FAULTS.get_or_init(|| {
        let text = read("MIGBENCH_STANDIN_FAULTS").unwrap_or_default();
        let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
        lines.filter(|line| !line.is_empty()).map(parse).collect()
    })
}

fn parse(line: &str) -> Fault {
    let (head, action) = line.split_once('=').unwrap_or_else(|| panic!("a fault without '=': {line}"));
    let mut words = head.split_whitespace();
    let name = words.next().unwrap_or_else(|| panic!("a fault without a call: {line}"));
    let (call, whom) = match name.split_once('@') {
        Some((call, whom)) => (call, Some(whom.to_owned())),
        None => (name, None),
    };
    let after = match (words.next(), words.next()) {
        (None, _) => 0,
        (Some("after"), Some(n)) => n.parse().unwrap_or_else(|_| panic!("no number: {line}")),
        _ => panic!("neither 'after N' nor nothing: {line}"),
    };
    Fault { call: call.to_owned(), whom, after, action: action.trim().to_owned(), seen: AtomicU64::new(0) }
}

impl Fault {
    /// Is it about this call, on this GPU or in this process?
    fn is_about(&self, call: &str, gpu: Option<u32>) -> bool {
        let visible = || std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
        self.call == call
            && self.whom.as_ref().is_none_or(|whom| match whom.parse::<u32>() {
                Ok(number) => gpu == Some(number),
                Err(_) => visible().starts_with(whom.as_str()),
            })
    }
}

fn find(call: &str, gpu: Option<u32>) -> Option<&'static str> {
    let mut due = faults().iter().filter(|fault| {
        let meant = fault.is_about(call, gpu) && !fault.action.starts_with("lost ");
        meant && fault.seen.fetch_add(1, Relaxed) >= fault.after
    });
    due.next().map(|fault| fault.action.as_str())
}

/// The code to fail with, if this call is to fail now. May never return.
pub fn fault(call: &str, gpu: Option<u32>) -> Option<u32> {
    match find(call, gpu)? {
        "hang" => {
            let topology = std::env::var_os("MIGBENCH_STANDIN").unwrap_or_default();
            let _ = std::fs::write(std::path::Path::new(&topology).with_file_name("hanging"), call);
            loop {
                std::thread::sleep(Duration::from_secs(3600));
            }
        }
        "crash" => std::process::abort(),
        action => {
            if let Some(ms) = action.strip_prefix("slow ").and_then(|ms| ms.trim().parse().ok()) {
                std::thread::sleep(Duration::from_millis(ms));
            }
            action.parse().ok()
        }
    }
}

/// The code with which the device is lost at this call, if it is.
#[allow(dead_code, reason = "one of the two can be lost")]
pub fn lost(call: &str) -> Option<u32> {
    let mut about =
        faults().iter().filter(|fault| fault.is_about(call, None) && fault.action.starts_with("lost "));
    let due = about.find(|fault| fault.seen.fetch_add(1, Relaxed) >= fault.after)?;
    due.action.strip_prefix("lost ")?.trim().parse().ok()
}

/// What this call is to say instead of the truth.
pub fn lie(call: &str, gpu: Option<u32>) -> Option<&'static str> {
    faults()
        .iter()
        .filter(|fault| fault.is_about(call, gpu))
        .find_map(|fault| fault.action.strip_prefix("lie "))
        .map(str::trim)
}

/// A setting of the whole library, as `mps = on`.
pub fn setting(name: &str) -> Option<&'static str> {
    faults().iter().find(|fault| fault.call == name).map(|fault| fault.action.as_str())
}

/// What a device's name begins with, so that nobody takes a test's row for a measurement.
pub fn stand_in(name: &str) -> String {
    if name.starts_with("STAND-IN") { name.to_owned() } else { format!("STAND-IN {name}") }
}

/// Writes a NUL-terminated text; false where it does not fit.
///
/// # Safety
/// `to` has room for `length` bytes.
pub unsafe fn write_text(to: *mut c_char, length: usize, text: &str) -> bool {
    if text.len() >= length {
        return false;
    }
    for (i, byte) in text.bytes().chain([0]).enumerate() {
        // SAFETY: i is at most text.len(), which is below `length`.
        unsafe { *to.add(i) = byte as c_char };
    }
    true
}
