//! Does the worker sit on the device that it was pinned to? Pure.

use crate::machine::uuid::digits;
use crate::machine::{Instance, InstanceKind};
use crate::results::row::{Identity, Warning};
use crate::workload::DeviceIdentity;

/// The verdict, what else was noticed, and the reason of a refutation.
#[derive(Debug, PartialEq)]
pub struct Judgement {
    /// None for the CPU: there is nothing to mistake it for.
    pub identity: Option<Identity>,
    /// Differences that do not decide.
    pub warnings: Vec<Warning>,
    /// Why it is refuted.
    pub refuted: Option<String>,
}

/// NVML's and CUDA's memory totals differ by what the driver reserves; beyond this they differ.
const MEMORY_TOLERANCE: f64 = 0.1;

/// Compares what was asked for with what the worker's driver says of itself.
pub fn judge(asked: &Instance, found: &DeviceIdentity) -> Judgement {
    if asked.kind == InstanceKind::Cpu {
        return Judgement { identity: None, warnings: Vec::new(), refuted: None };
    }
    let refute = |reason: String| Judgement {
        identity: Some(Identity::Refuted),
        warnings: Vec::new(),
        refuted: Some(reason),
    };
    let wanted = asked.uuid().unwrap_or_default();
    if found.device_count != 1 {
        return refute(format!(
            "{} devices are visible to the worker, not just {wanted}",
            found.device_count
        ));
    }
    // The names of MIG devices before R470 hold no UUID of theirs.
    let comparable = found.uuid.as_deref().and_then(digits).zip(digits(wanted));
    if let (Some(uuid), Some((runs_on, asked_for))) = (&found.uuid, &comparable)
        && runs_on != asked_for
    {
        return refute(format!("the worker runs on {uuid}, not on {wanted}"));
    }
    if let (Some(asked), Some(found)) = (asked.sm_count, found.sm_count)
        && asked != found
    {
        return refute(format!("the device has {found} SMs, {wanted} has {asked}"));
    }
    let mut warnings = Vec::new();
    if comparable.is_none() {
        warnings.push(Warning::IdentityUnproven);
    }
    // A program of the user's does not say its device's name.
    let named = found.name.is_empty() || found.name.starts_with(&asked.gpu_name);
    if !named || memory_differs(asked, found) {
        warnings.push(Warning::IdentityDiffers);
    }
    let identity = if comparable.is_some() { Identity::Proven } else { Identity::Consistent };
    Judgement { identity: Some(identity), warnings, refuted: None }
}

fn memory_differs(asked: &Instance, found: &DeviceIdentity) -> bool {
    let (Some(asked), Some(found)) = (asked.memory_mib, found.memory_bytes) else { return false };
    let ratio = found as f64 / (asked << 20) as f64;
    (ratio - 1.0).abs() > MEMORY_TOLERANCE
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "MIG-11111111-0000-5000-8000-000000000001";

    fn asked() -> Instance {
        Instance {
            kind: InstanceKind::Mig,
            gpu_name: "NVIDIA H100".into(),
            gpu_uuid: Some("GPU-aaaabbbb-0000-4000-8000-000000000001".into()),
            mig_uuid: Some(UUID.into()),
            sm_count: Some(60),
            memory_mib: Some(40_448),
            ..Instance::default()
        }
    }

    fn found() -> DeviceIdentity {
        DeviceIdentity {
            name: "NVIDIA H100 MIG 3g.40gb".into(),
            device_count: 1,
            uuid: Some(UUID.to_uppercase().replace("MIG", "GPU")),
            sm_count: Some(60),
            memory_bytes: Some(42_000_000_000),
            ..DeviceIdentity::default()
        }
    }

    #[test]
    fn the_uuid_proves_it() {
        let judgement = judge(&asked(), &found());
        assert_eq!(
            judgement,
            Judgement { identity: Some(Identity::Proven), warnings: vec![], refuted: None }
        );
    }

    #[test]
    fn a_uuid_is_compared_by_its_digits() {
        let plain = UUID[4..].replace('-', "");
        for spelling in
            [UUID.to_lowercase(), UUID[4..].to_owned(), plain.to_uppercase(), format!("GPU-{plain}")]
        {
            let judgement = judge(&asked(), &DeviceIdentity { uuid: Some(spelling.clone()), ..found() });
            assert_eq!(judgement.identity, Some(Identity::Proven), "{spelling}");
        }
        let other = plain.replace("0001", "0002");
        let judgement = judge(&asked(), &DeviceIdentity { uuid: Some(other), ..found() });
        assert_eq!(judgement.identity, Some(Identity::Refuted));
        // What is no UUID says nothing of the device.
        let judgement = judge(&asked(), &DeviceIdentity { uuid: Some("cuda:0".into()), ..found() });
        assert_eq!(judgement.identity, Some(Identity::Consistent));
    }

    #[test]
    fn each_lie_is_found() {
        type Lie = fn(&mut DeviceIdentity);
        let lies: [(Lie, &str); 4] = [
            (|f| f.device_count = 2, "2 devices are visible to the worker"),
            (|f| f.device_count = 0, "0 devices are visible to the worker"),
            (|f| f.uuid = Some(UUID.replace("001", "002")), "the worker runs on MIG-"),
            (
                |f| f.sm_count = Some(132),
                "the device has 132 SMs, MIG-11111111-0000-5000-8000-000000000001 has 60",
            ),
        ];
        for (lie, reason) in lies {
            let mut identity = found();
            lie(&mut identity);
            let judgement = judge(&asked(), &identity);
            assert_eq!(judgement.identity, Some(Identity::Refuted));
            assert!(judgement.refuted.as_ref().unwrap().starts_with(reason), "{judgement:?}");
        }
    }

    #[test]
    fn without_a_uuid_it_is_consistent_at_best() {
        let identity = DeviceIdentity { uuid: None, ..found() };
        let judgement = judge(&asked(), &identity);
        assert_eq!(judgement.identity, Some(Identity::Consistent));
        assert_eq!(judgement.warnings, [Warning::IdentityUnproven]);
        let old =
            Instance { mig_uuid: Some("MIG-GPU-aaaabbbb-0000-4000-8000-000000000001/1/0".into()), ..asked() };
        assert_eq!(judge(&old, &found()).identity, Some(Identity::Consistent));
    }

    #[test]
    fn name_and_memory_only_warn() {
        for lie in [
            |f: &mut DeviceIdentity| f.name = "NVIDIA A100".into(),
            |f: &mut DeviceIdentity| f.memory_bytes = Some(80 << 30),
        ] {
            let mut identity = found();
            lie(&mut identity);
            let judgement = judge(&asked(), &identity);
            assert_eq!(judgement.identity, Some(Identity::Proven));
            assert_eq!(judgement.warnings, [Warning::IdentityDiffers]);
        }
    }
}
