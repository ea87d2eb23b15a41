//! A topology from a file: migbench's own JSON, or the text of `nvidia-smi -L`.

use super::profile::ProfileName;
use super::topology::{Gpu, Source, Topology};
use super::{cards, decode, smi};
use anyhow::{Context, Result, bail};
use std::path::Path;

/// More than any machine's topology; a device file given by mistake must end.
const MOST_BYTES: u64 = 64 << 20;

/// Reads a file, `-` for standard input.
///
/// # Errors
/// It can't be read, or is neither of the two forms.
pub fn load(path: &Path) -> Result<Topology> {
    let text = read(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| format!("{} holds no topology", path.display()))
}

/// Reads either form. What only the table of known cards can say is filled in, with its source.
///
/// # Errors
/// Neither of the two forms.
pub fn parse(text: &str) -> Result<Topology> {
    let text = decode::without_mark(text);
    let mut topology = match text.trim_start().starts_with(['{', '[']) {
        true => Topology::from_json(text)?,
        false => smi::parse(text)?,
    };
    if let Some(twice) = topology.listed_twice() {
        bail!("{twice}: it is not the topology of one machine");
    }
    if topology.source != Source::NvidiaSmi {
        return Ok(topology);
    }
    for gpu in &mut topology.gpus {
        gpu.profiles = cards::known(gpu).map(|card| card.profiles.clone()).unwrap_or_default();
        fill_sizes(gpu);
    }
    Ok(topology)
}

/// What the profiles say of the MIG devices. A compute instance has its GPU instance's memory, and
/// multiprocessors that only the driver knows unless it has all of them. Where that driver names a
/// profile otherwise than the table does, it also gave it other memory.
fn fill_sizes(gpu: &mut Gpu) {
    for device in &mut gpu.mig_devices {
        let name = device.profile.as_deref();
        let Some((name, meant)) = name.and_then(|name| Some((name, cards::profile(&gpu.profiles, name)?)))
        else {
            continue;
        };
        let whole = name.parse::<ProfileName>().is_ok_and(|name| name.clone().of_gpu_instance() == name);
        device.gi_profile_id = Some(meant.profile.id);
        device.memory_mib = meant.profile.memory_mib.filter(|_| meant.same_name);
        device.sm_count = meant.profile.sm_count.filter(|_| whole);
    }
}

/// The text of a file, `-` for standard input.
///
/// # Errors
/// It can't be read, is longer than any such file, or is no text in UTF-8.
pub fn read(path: &Path) -> Result<String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        std::io::stdin().take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    } else {
        std::fs::File::open(path)?.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    }
    if bytes.len() as u64 > MOST_BYTES {
        bail!("it is longer than {} MiB: this is no such file", MOST_BYTES >> 20);
    }
    decode::text(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_told_apart() {
        let json = serde_json::to_string(&super::super::topology::tests::mixed()).unwrap();
        assert_eq!(parse(&format!("\n {json}")).unwrap().gpus.len(), 3);
        let text = "GPU 0: A100-SXM4-40GB (UUID: GPU-5a5a0001-0000-4000-8000-00000000000a)\n  \
            MIG 1g.5gb Device 0: (UUID: MIG-5a5a0002-0000-5000-8000-00000000000b)\n";
        let topology = parse(text).unwrap();
        let offered = topology.gpus[0].profile_named("1g.5gb").unwrap();
        assert_eq!((offered.id, offered.sm_count), (19, Some(14)));
        let device = &topology.gpus[0].mig_devices[0];
        assert_eq!((device.sm_count, device.memory_mib), (Some(14), offered.memory_mib));
        let part = parse(&text.replace("1g.5gb ", "1c.3g.20gb ")).unwrap();
        let device = &part.gpus[0].mig_devices[0];
        assert_eq!((device.sm_count, device.memory_mib.is_some()), (None, true));
        assert!(offered.source.as_deref().unwrap().starts_with("nvidia-smi mig -lgip"));
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = format!("{:#}", load(Path::new("/nonexistent/topology.json")).unwrap_err());
        assert!(error.starts_with("cannot read /nonexistent/topology.json: No such file"), "{error}");
    }
}
