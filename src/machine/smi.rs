//! The text of `nvidia-smi -L`, in the three forms it has had: R450 (no profile), R460 (profile,
//! `MIG-GPU-…/gi/ci`), R470 and later (UUIDs of their own).
//!
//! NVIDIA promises nothing about this text; NVML comes first, and this is a cross-check and the
//! form in which people describe a machine that is not here.

use super::profile::ProfileName;
use super::topology::{Gpu, MigDevice, Mode, Source, Topology};
use anyhow::{Result, bail};

/// What `unread` says of everything that the text does not hold.
const NOT_SAID: &str = "nvidia-smi -L does not say it";

/// Reads the text. Lines that are about something else (warnings) are passed over.
///
/// # Errors
/// A line about a GPU or MIG device can't be read, or there is no such line at all.
pub fn parse(text: &str) -> Result<Topology> {
    let mut topology = Topology { source: Source::NvidiaSmi, ..Topology::default() };
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        let known = match (line.strip_prefix("GPU "), line.strip_prefix("MIG ")) {
            (Some(rest), _) => gpu(rest).map(|gpu| topology.gpus.push(gpu)),
            (_, Some(rest)) => mig_device(rest).and_then(|mig| add(&mut topology, mig)),
            _ => continue,
        };
        if known.is_none() {
            bail!("line {}: not a line of nvidia-smi -L: {line}", number + 1);
        }
    }
    if topology.gpus.is_empty() && !text.trim_start().starts_with("No devices") {
        bail!("not the text of nvidia-smi -L: no line begins with 'GPU 0: '");
    }
    Ok(topology)
}

/// `0: NVIDIA H200 (UUID: GPU-…)`; a name may hold parentheses of its own.
fn gpu(rest: &str) -> Option<Gpu> {
    let (index, rest) = rest.split_once(": ")?;
    let (name, uuid) = rest.rsplit_once(" (UUID: ")?;
    let uuid = uuid.trim_end().strip_suffix(')')?;
    let mut gpu = Gpu {
        index: index.trim().parse().ok()?,
        name: name.trim().to_owned(),
        uuid: uuid.strip_prefix("GPU-").filter(|rest| !rest.is_empty()).map(|_| uuid.to_owned())?,
        ..Gpu::default()
    };
    for field in ["minor", "memory_mib", "mig_mode", "processes"] {
        gpu.unread.insert(field.to_owned(), NOT_SAID.to_owned());
    }
    Some(gpu)
}

/// `3g.20gb Device 0: (UUID: MIG-…)`, or without a profile.
fn mig_device(rest: &str) -> Option<MigDevice> {
    let (before, uuid) = rest.split_once("(UUID: ")?;
    let uuid = uuid.trim_end().strip_suffix(')')?;
    uuid.strip_prefix("MIG-").filter(|rest| !rest.is_empty())?;
    let (profile, index) = before.trim_end().strip_suffix(':')?.split_once("Device ")?;
    let profile = match profile.trim() {
        "" => None,
        name => Some(name.parse::<ProfileName>().ok()?.to_string()),
    };
    let mut mig = MigDevice {
        index: index.trim().parse().ok()?,
        uuid: uuid.to_owned(),
        profile,
        ..MigDevice::default()
    };
    for field in ["sm_count", "memory_mib", "placement"] {
        mig.unread.insert(field.to_owned(), NOT_SAID.to_owned());
    }
    // Before R470 the ids are part of the name.
    let mut ids = uuid.split('/').skip(1).map(str::parse);
    if let (Some(Ok(gi)), Some(Ok(ci))) = (ids.next(), ids.next()) {
        (mig.gi_id, mig.ci_id) = (Some(gi), Some(ci));
    } else {
        mig.unread.insert("gi_id".to_owned(), NOT_SAID.to_owned());
        mig.unread.insert("ci_id".to_owned(), NOT_SAID.to_owned());
    }
    Some(mig)
}

/// A MIG device belongs to the GPU above it, which therefore has MIG on. The absence of such lines
/// says nothing: a GPU with MIG on and no instance looks the same as one with MIG off.
fn add(topology: &mut Topology, mig: MigDevice) -> Option<()> {
    let gpu = topology.gpus.last_mut()?;
    gpu.mig_mode = Some(Mode { current: true, pending: true });
    gpu.unread.remove("mig_mode");
    gpu.mig_devices.push(mig);
    Some(())
}

/// Where NVML and `nvidia-smi -L` name different things, a line each.
pub fn differences(nvml: &Topology, smi: &Topology) -> Vec<String> {
    let mut found = Vec::new();
    let named = |topology: &Topology| -> Vec<(String, String)> {
        let whole = topology.gpus.iter().map(|gpu| (gpu.uuid.clone(), gpu.name.clone()));
        let migs = topology.gpus.iter().flat_map(|gpu| &gpu.mig_devices);
        let parts = migs.map(|mig| (mig.uuid.clone(), mig.profile.clone().unwrap_or_default()));
        whole.chain(parts).filter(|(uuid, _)| !uuid.is_empty()).collect()
    };
    let (ours, theirs) = (named(nvml), named(smi));
    for (uuid, name) in &ours {
        match theirs.iter().find(|(other, _)| other == uuid) {
            None => found.push(format!("{uuid} ({name}): NVML shows it, nvidia-smi -L does not")),
            Some((_, other)) if !other.is_empty() && other != name => {
                found.push(format!("{uuid}: NVML calls it '{name}', nvidia-smi -L '{other}'"));
            }
            Some(_) => {}
        }
    }
    for (uuid, name) in theirs.iter().filter(|(uuid, _)| !ours.iter().any(|(other, _)| other == uuid)) {
        found.push(format!("{uuid} ({name}): nvidia-smi -L shows it, NVML does not"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GPU: &str = "GPU-5a5a0001-0000-4000-8000-00000000000a";

    fn profiles(text: &str) -> Vec<Option<String>> {
        parse(text).unwrap().gpus[0].mig_devices.iter().map(|mig| mig.profile.clone()).collect()
    }

    #[test]
    fn the_first_form_has_no_profile() {
        let text = format!(
            "GPU 0: Graphics Device (UUID: {GPU})\n  MIG Device 0: (UUID: MIG-{GPU}/1/0)\n  MIG Device 1: (UUID: MIG-{GPU}/11/2)\n"
        );
        let topology = parse(&text).unwrap();
        assert_eq!(profiles(&text), [None, None]);
        let second = &topology.gpus[0].mig_devices[1];
        assert_eq!((second.index, second.gi_id, second.ci_id), (1, Some(11), Some(2)));
        assert_eq!(second.uuid, format!("MIG-{GPU}/11/2"));
        assert_eq!(topology.gpus[0].mig_enabled(), Some(true));
    }

    #[test]
    fn the_second_form_has_both() {
        let text =
            format!("GPU 0: A100-PCIE-40GB (UUID: {GPU})\n  MIG 4g.20gb Device 0: (UUID: MIG-{GPU}/2/0)\n");
        assert_eq!(profiles(&text), [Some("4g.20gb".into())]);
        assert_eq!(parse(&text).unwrap().gpus[0].mig_devices[0].gi_id, Some(2));
    }

    #[test]
    fn the_third_form_is_padded_and_has_uuids() {
        let text = "Warning: persistence mode is disabled on GPU 0.\n\
            GPU 0: NVIDIA RTX PRO 6000 (Server) (UUID: GPU-5a5a0001-0000-4000-8000-00000000000a)\n\
            \x20 MIG 1g.24gb     Device  0: (UUID: MIG-5a5a0002-0000-5000-8000-00000000000b)\n\
            \x20 MIG 1g.24gb+me.all Device  3: (UUID: MIG-5a5a0003-0000-5000-8000-00000000000c)\n\
            GPU 1: NVIDIA L4 (UUID: GPU-5a5a0004-0000-4000-8000-00000000000d)\n";
        let topology = parse(text).unwrap();
        assert_eq!(topology.gpus[0].name, "NVIDIA RTX PRO 6000 (Server)");
        assert_eq!(profiles(text), [Some("1g.24gb".into()), Some("1g.24gb+me.all".into())]);
        assert_eq!(topology.gpus[0].mig_devices[1].index, 3);
        assert_eq!(topology.gpus[1].mig_enabled(), None);
        assert_eq!(topology.instances().len(), 3);
    }

    #[test]
    fn what_is_something_else_is_refused_by_line() {
        let message = |text: &str| parse(text).unwrap_err().to_string();
        assert!(message("hello").starts_with("not the text of nvidia-smi -L"));
        assert!(message("").starts_with("not the text of nvidia-smi -L"));
        assert_eq!(message("GPU 0: X"), "line 1: not a line of nvidia-smi -L: GPU 0: X");
        assert_eq!(
            message("GPU 0: X (UUID: GPU-1)\n MIG 3q.1gb Device 0: (UUID: MIG-1)"),
            "line 2: not a line of nvidia-smi -L: MIG 3q.1gb Device 0: (UUID: MIG-1)"
        );
        assert!(message("  MIG 1g.5gb Device 0: (UUID: MIG-1)").starts_with("line 1"));
        assert_eq!(parse("No devices were found\n").unwrap().gpus, []);
    }

    #[test]
    fn differences_are_named() {
        let ours = super::super::topology::tests::mixed();
        let mut theirs = ours.clone();
        assert_eq!(differences(&ours, &theirs), [""; 0]);
        theirs.gpus[1].mig_devices[0].profile = Some("4g.40gb".into());
        theirs.gpus[1].mig_devices[1].uuid = "MIG-9".into();
        assert_eq!(
            differences(&ours, &theirs),
            [
                "MIG-11111111-0000-5000-8000-000000000001: NVML calls it '3g.40gb', nvidia-smi -L '4g.40gb'",
                "MIG-11112222-0000-5000-8000-000000000002 (1g.10gb): NVML shows it, nvidia-smi -L does not",
                "MIG-9 (1g.10gb): nvidia-smi -L shows it, NVML does not",
            ]
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "(GPU |  MIG )?\\PC{0,60}(\\(UUID: )?\\PC{0,30}\\)?\\n?") {
            let _ = parse(&text);
        }
    }
}
