//! What surrounds a run: versions, host, inherited scope, a run id.

use super::row::{Provenance, SCHEMA_VERSION};
use crate::machine::host;
use jiff::Timestamp;

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
        host: host::name(),
        scope: scope(|name| std::env::var(name).ok()),
        migbench_version: env!("CARGO_PKG_VERSION").to_owned(),
        git_revision: GIT_REVISION.to_owned(),
        os_kernel: Some(host::kernel_release()),
        ..Provenance::default()
    }
}

/// `NAME=value` of each that is set, `;`-separated.
fn scope(variable: impl Fn(&str) -> Option<String>) -> String {
    let set = SCOPE.iter().filter_map(|name| Some(format!("{name}={}", variable(name)?)));
    set.collect::<Vec<_>>().join(";").replace(['\n', '\r'], " ")
}

/// Eight random hexadecimal digits.
pub fn new_run_id() -> String {
    format!("{:08x}", fastrand::u32(..))
}

/// Now, as RFC 3339 in UTC with milliseconds.
pub fn now_rfc3339() -> String {
    format!("{:.3}", Timestamp::now())
}

/// Now, as it stands in file names: `20261122T173300Z`.
pub fn now_compact() -> String {
    Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_set_is_in_the_scope() {
        let text = scope(|name| (name == "CUDA_VISIBLE_DEVICES").then(|| "MIG-1,\nMIG-2".to_owned()));
        assert_eq!(text, "CUDA_VISIBLE_DEVICES=MIG-1, MIG-2");
        assert_eq!(scope(|_| None), "");
    }

    #[test]
    fn times_have_their_forms() {
        let now = now_rfc3339();
        assert!(now.len() == 24 && now.ends_with('Z') && &now[10..11] == "T", "{now}");
        assert_eq!(now_compact().len(), 16);
        assert_ne!(new_run_id(), new_run_id());
    }
}
