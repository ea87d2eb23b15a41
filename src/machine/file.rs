//! Files that the user names as input, and a topology from one: migbench's own JSON, or the text of
//! `nvidia-smi -L`.

use super::profile::ProfileName;
use super::topology::{Gpu, Source, Topology};
use super::{cards, decode, smi};
use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{Mode, OFlags};
use std::fs::{File, Metadata};
use std::io::Read;
use std::path::Path;

/// More than any machine's topology, or any trace of arrivals.
pub const MOST_BYTES: u64 = 64 << 20;

/// Opens a file as input. Every input file is opened here.
///
/// # Errors
/// It isn't there, can't be read, or is no regular file: a pipe, a socket or a device may have no end.
pub fn open(path: &Path) -> Result<File> {
    let cannot = || format!("cannot read {}", path.display());
    // Opening a device may do something to it.
    let metadata = path.metadata().with_context(cannot)?;
    if metadata.is_dir() {
        return Err(std::io::Error::from(rustix::io::Errno::ISDIR)).with_context(cannot);
    }
    refuse_unless_regular(path, &metadata)?;
    // What has become a pipe since then would be waited for.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let opened = rustix::fs::open(path, flags, Mode::empty()).map_err(std::io::Error::from);
    let file = File::from(opened.with_context(cannot)?);
    refuse_unless_regular(path, &file.metadata().with_context(cannot)?)?;
    Ok(file)
}

fn refuse_unless_regular(path: &Path, metadata: &Metadata) -> Result<()> {
    ensure!(
        metadata.is_file(),
        "{} is not a regular file (a pipe or a device): save it to a file first",
        path.display()
    );
    Ok(())
}

/// The bytes of an input file of at most `most` bytes.
///
/// # Errors
/// As [`open`], or it is longer.
pub fn bytes(path: &Path, most: u64) -> Result<Vec<u8>> {
    limited(open(path)?, most).with_context(|| format!("cannot read {}", path.display()))
}

fn limited(source: impl Read, most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(most + 1).read_to_end(&mut bytes)?;
    ensure!(bytes.len() as u64 <= most, "it has more than {most} bytes: this is no such file");
    Ok(bytes)
}

/// Reads a file, `-` for standard input.
///
/// # Errors
/// It can't be read, or is neither of the two forms.
pub fn load(path: &Path) -> Result<Topology> {
    let text = read(path)?;
    parse(&text).with_context(|| format!("{} holds no topology", path.display()))
}

/// Reads either form. What only the table of known cards can say is filled in, with its source.
///
/// # Errors
/// Neither of the two forms.
pub fn parse(text: &str) -> Result<Topology> {
    let text = decode::without_mark(text);
    let topology = match is_json(text) {
        true => Topology::from_json(text)?,
        false => smi::parse(text)?,
    };
    let mut topology = super::text::names(&topology)?;
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

/// Is the text JSON? A listing may begin with a bracket, too: that of a shell's prompt, or of the name
/// that a tool for many hosts puts in front of each line.
fn is_json(text: &str) -> bool {
    let Some(inside) = text.trim_start().strip_prefix(['{', '[']) else { return false };
    let inside = inside.trim_start();
    inside.is_empty() || inside.starts_with(['"', '{', '[', '}', ']'])
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

/// The text of a file of at most [`MOST_BYTES`], `-` for standard input.
///
/// # Errors
/// As [`text`].
pub fn read(path: &Path) -> Result<String> {
    match path.as_os_str() == "-" {
        true => decoded(limited(std::io::stdin(), MOST_BYTES).context("cannot read standard input")?, path),
        false => text(path),
    }
}

/// The text of a file of at most [`MOST_BYTES`].
///
/// # Errors
/// As [`open`], it is too long, or not in UTF-8.
pub fn text(path: &Path) -> Result<String> {
    decoded(bytes(path, MOST_BYTES)?, path)
}

fn decoded(bytes: Vec<u8>, path: &Path) -> Result<String> {
    decode::text(bytes).with_context(|| format!("cannot read {}", path.display()))
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
    fn a_bracket_in_front_of_a_listing_makes_it_no_json() {
        let gpu = "GPU 0: A100-SXM4-40GB (UUID: GPU-5a5a0001-0000-4000-8000-00000000000a)";
        for before in ["[root@node1 ~]# nvidia-smi -L\n", "[node1] ", "[pod/a/main] ", "{node1} "] {
            let topology = parse(&format!("{before}{gpu}\n")).unwrap();
            assert_eq!(topology.gpus.len(), 1, "{before}");
        }
        for json in ["{}", "[", "{", "[{\"a\": 1}]", "{ \"gpus\": [] "] {
            let error = format!("{:#}", parse(json).unwrap_err());
            assert!(error.contains("not a topology of migbench"), "{json}: {error}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = format!("{:#}", load(Path::new("/nonexistent/topology.json")).unwrap_err());
        assert!(error.starts_with("cannot read /nonexistent/topology.json: No such file"), "{error}");
    }

    #[test]
    fn only_a_regular_file_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        let text = |path: &Path| format!("{:#}", open(path).unwrap_err());
        assert!(text(folder.path()).contains(": Is a directory"));
        for endless in [fifo.as_path(), Path::new("/dev/null"), Path::new("/dev/zero")] {
            assert!(text(endless).contains("is not a regular file (a pipe or a device)"), "{endless:?}");
        }
        assert!(text(&folder.path().join("no")).contains("No such file"));
        let file = folder.path().join("file");
        std::fs::write(&file, "12345").unwrap();
        assert_eq!(bytes(&file, 5).unwrap(), b"12345");
        assert!(
            format!("{:#}", bytes(&file, 4).unwrap_err())
                .ends_with("it has more than 4 bytes: this is no such file")
        );
    }

    #[test]
    fn names_from_a_file_are_clean() {
        let mut mixed = super::super::topology::tests::mixed();
        mixed.gpus[0].name = "=\u{1b}]0;x\u{7}NVIDIA\r\n::error::H200".into();
        let topology = parse(&serde_json::to_string(&mixed).unwrap()).unwrap();
        assert_eq!(topology.gpus[0].name, "NVIDIA | ::error::H200");
        let text =
            "\u{1b}[32mGPU 0: @H200\u{202e} (UUID: GPU-5a5a0001-0000-4000-8000-00000000000a)\u{1b}[m\r\n";
        assert_eq!(parse(text).unwrap().gpus[0].name, "H200");
    }
}
