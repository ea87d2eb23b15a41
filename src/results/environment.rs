//! What surrounds a run: versions, host, inherited scope, a run id.

use super::row::{Provenance, SCHEMA_VERSION};
use crate::machine::{host, text};
use jiff::Timestamp;
use std::time::SystemTime;

/// The revision of the source that this program was built from; empty outside a checkout.
pub const GIT_REVISION: &str = env!("MIGBENCH_GIT_REVISION");

/// The variables that limit or name what a process sees: CUDA's own, and the batch system's.
const SCOPE: [&str; 8] = [
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "CUDA_MPS_PIPE_DIRECTORY",
    "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE",
    "SLURM_JOB_ID",
    "SLURM_PROCID",
    "SLURM_STEP_GPUS",
    "NVIDIA_VISIBLE_DEVICES",
];

/// Everything of a row that the whole invocation shares.
pub fn provenance(run_id: &str, seed: u64) -> Provenance {
    Provenance {
        schema_version: SCHEMA_VERSION,
        run_id: run_id.to_owned(),
        session_id: run_id.to_owned(),
        seed,
        attempt: 1,
        host: text::name(&host::name()),
        // What is not UTF-8 is set all the same.
        scope: scope(|name| Some(std::env::var_os(name)?.to_string_lossy().into_owned())),
        migbench_version: env!("CARGO_PKG_VERSION").to_owned(),
        git_revision: GIT_REVISION.to_owned(),
        os_kernel: Some(host::kernel_release()),
        ..Provenance::default()
    }
}

/// `NAME=value` of each that is set, `;`-separated.
fn scope(variable: impl Fn(&str) -> Option<String>) -> String {
    let set = SCOPE.iter().filter_map(|name| Some(format!("{name}={}", variable(name)?)));
    let value = set.collect::<Vec<_>>().join(";");
    text::cell(&text::visible(&value.replace(['\n', '\r'], " "))).into_owned()
}

/// Eight random hexadecimal digits.
pub fn new_run_id() -> String {
    format!("{:08x}", fastrand::u32(..))
}

/// Now, as RFC 3339 in UTC with milliseconds; empty where the clock is beyond the years of a calendar.
pub fn now_rfc3339() -> String {
    rfc3339(SystemTime::now())
}

fn rfc3339(now: SystemTime) -> String {
    timestamp(now).map_or_else(String::new, |now| format!("{now:.3}"))
}

/// Now, as it stands in file names: `20261122T173300Z`.
pub fn now_compact() -> String {
    compact(SystemTime::now())
}

fn compact(now: SystemTime) -> String {
    timestamp(now).map_or_else(|| "no-date".to_owned(), |now| now.strftime("%Y%m%dT%H%M%SZ").to_string())
}

/// A clock that was never set can be anywhere, and jiff's own `now` panics beyond the year 9999.
fn timestamp(now: SystemTime) -> Option<Timestamp> {
    Timestamp::try_from(now).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_set_is_in_the_scope() {
        let text = scope(|name| (name == "CUDA_VISIBLE_DEVICES").then(|| "MIG-1,\nMIG-2".to_owned()));
        assert_eq!(text, "CUDA_VISIBLE_DEVICES=MIG-1, MIG-2");
        assert_eq!(scope(|_| None), "");
        let odd = scope(|name| (name == "SLURM_JOB_ID").then(|| "\u{1b}[1m7\u{202e}".to_owned()));
        assert_eq!(odd, "SLURM_JOB_ID=\\u{1b}[1m7\\u{202e}");
    }

    #[test]
    fn times_have_their_forms() {
        let now = now_rfc3339();
        assert!(now.len() == 24 && now.ends_with('Z') && &now[10..11] == "T", "{now}");
        assert_eq!(now_compact().len(), 16);
        assert_ne!(new_run_id(), new_run_id());
    }

    #[test]
    fn a_clock_in_another_age_is_no_panic() {
        let at = |seconds: u64| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        assert_eq!(rfc3339(at(1)), "1970-01-01T00:00:01.000Z");
        for beyond in [253_402_300_800, 316_516_000_000, 1 << 60] {
            assert_eq!((rfc3339(at(beyond)).as_str(), compact(at(beyond)).as_str()), ("", "no-date"));
        }
    }
}
