//! The text of `nvidia-smi -L`, in the three forms it has had: R450 (no profile), R460 (profile,
//! `MIG-GPU-…/gi/ci`), R470 and later (UUIDs of their own).
//!
//! NVIDIA promises nothing about this text; NVML comes first, and this is a cross-check and the
//! form in which people describe a machine that is not here.

use super::profile::ProfileName;
use super::topology::{Gpu, MigDevice, Mode, Source, Topology};
use super::{decode, text};
use anyhow::{Result, anyhow, bail};
use std::collections::BTreeMap;

/// What `unread` says of everything that the text does not hold.
const NOT_SAID: &str = "nvidia-smi -L does not say it";

/// Reads the text, as it was saved, mailed, logged or labelled: in colours, behind `> `, between lines
/// about something else, behind the label of `srun -l`.
///
/// # Errors
/// A line about a GPU or MIG device can't be read, the listing contradicts itself or is that of two
/// hosts, or there is no such line at all. The message holds the lines.
pub fn parse(text: &str) -> Result<Topology> {
    let mut listing = Listing::default();
    for (number, line) in decode::lines(text) {
        // Web pages put spaces in that do not break.
        listing.read(number, text::cell(&line.replace('\u{a0}', " ")).trim_end())?;
    }
    listing.refuse_two_hosts()?;
    listing.refuse_twice()?;
    if listing.gpus.is_empty() && !listing.says_none {
        bail!(listing.failure.unwrap_or_else(|| NO_LISTING.to_owned()));
    }
    listing.count_lost();
    let gpus = listing.gpus.into_iter().map(|listed| listed.gpu).collect();
    Ok(Topology { source: Source::NvidiaSmi, gpus, ..Topology::default() })
}

const NO_LISTING: &str = "not the text of nvidia-smi -L: no line begins with 'GPU 0: '";
/// How nvidia-smi begins to say that it found no GPU.
const NO_DEVICES: &str = "No devices";
/// How nvidia-smi names a GPU that no longer answers.
const LOST: &str = "Unable to determine the device handle for ";

/// What the lines said so far.
#[derive(Default)]
struct Listing {
    gpus: Vec<Listed>,
    /// Of each line about a device: its number, what stood in front of it, and its text.
    lines: Vec<(usize, String, String)>,
    /// Why nvidia-smi printed no listing.
    failure: Option<String>,
    says_none: bool,
}

/// A GPU with the places in [`Listing::lines`] of its own line and of those of its MIG devices.
struct Listed {
    gpu: Gpu,
    line: usize,
    mig_lines: Vec<usize>,
}

impl Listing {
    fn read(&mut self, number: usize, line: &str) -> Result<()> {
        let wrong = |why: String| anyhow!("line {number}: {why}: {}", line.trim());
        if let Some((before, lost)) = line.split_once(LOST) {
            let gpu = lost_gpu(lost);
            self.add_gpu(number, before, line, gpu);
        } else if let Some((before, statement)) = find_gpu(line) {
            let gpu = gpu(statement).map_err(wrong)?;
            self.add_gpu(number, before, line, gpu);
        } else if let Some((before, statement)) = find_mig(line) {
            let mig = mig_device(statement).map_err(wrong)?;
            self.add_mig(number, before, line, mig).map_err(wrong)?;
        } else if holds_uuid(line) {
            return Err(wrong("holds a UUID, but is no line of nvidia-smi -L".to_owned()));
        } else {
            let says = line.trim();
            self.says_none |= says.starts_with(NO_DEVICES);
            if ["Failed to initialize NVML", "NVIDIA-SMI has failed"].iter().any(|start| says.contains(start))
            {
                let failed = || format!("nvidia-smi itself failed there: {says}");
                self.failure.get_or_insert_with(failed);
            }
        }
        Ok(())
    }

    fn add_gpu(&mut self, number: usize, before: &str, line: &str, gpu: Gpu) {
        self.gpus.push(Listed { gpu, line: self.lines.len(), mig_lines: Vec::new() });
        self.lines.push((number, label(before), line.trim().to_owned()));
    }

    /// A MIG device belongs to the GPU above it, which therefore has MIG on. The absence of such lines
    /// says nothing: a GPU with MIG on and no instance looks the same as one with MIG off.
    fn add_mig(&mut self, number: usize, before: &str, line: &str, mig: MigDevice) -> Result<(), String> {
        let Some(Listed { gpu, mig_lines, .. }) = self.gpus.last_mut() else {
            return Err("a MIG device without a GPU above it".to_owned());
        };
        // Before R470 its name holds that of its GPU.
        let parent = mig.uuid.strip_prefix("MIG-").and_then(|rest| rest.split_once('/')).map(|(gpu, _)| gpu);
        if let Some(parent) = parent.filter(|parent| !parent.eq_ignore_ascii_case(&gpu.uuid)) {
            return Err(format!("a MIG device of {parent} below GPU {} ({})", gpu.index, gpu.uuid));
        }
        gpu.mig_mode = Some(Mode { current: true, pending: true });
        gpu.unread.remove("mig_mode");
        gpu.mig_devices.push(mig);
        mig_lines.push(self.lines.len());
        self.lines.push((number, label(before), line.trim().to_owned()));
        Ok(())
    }

    /// `srun -l`, pdsh and kubectl put the task, host or pod in front of each line; a heading may stand
    /// in front of the first line only.
    fn refuse_two_hosts(&self) -> Result<()> {
        let mut labelled = self.lines.iter().filter(|(_, label, _)| !label.is_empty());
        let Some(first) = labelled.next() else { return Ok(()) };
        match labelled.find(|(_, label, _)| *label != first.1) {
            None => Ok(()),
            Some(other) => bail!(
                "the listings of two hosts or tasks ('{}' and '{}'):\n{}\nKeep the lines of one of them.",
                first.1,
                other.1,
                both(first, other)
            ),
        }
    }

    /// Nothing of a machine is listed twice.
    fn refuse_twice(&self) -> Result<()> {
        let mut indices = Seen::default();
        let mut uuids = Seen::default();
        for Listed { gpu, line, mig_lines } in &self.gpus {
            if !gpu.unread.contains_key("index") {
                indices.add(self, gpu.index.to_string(), *line, || format!("GPU {}", gpu.index))?;
            }
            if !gpu.uuid.is_empty() {
                uuids.add(self, gpu.uuid.to_ascii_lowercase(), *line, || gpu.uuid.clone())?;
            }
            let mut devices = Seen::default();
            for (mig, line) in gpu.mig_devices.iter().zip(mig_lines) {
                let device = || format!("Device {} of GPU {}", mig.index, gpu.index);
                devices.add(self, mig.index.to_string(), *line, device)?;
                uuids.add(self, mig.uuid.to_ascii_lowercase(), *line, || mig.uuid.clone())?;
            }
        }
        Ok(())
    }

    /// Numbers the lost GPUs of which the text says the address only: nvidia-smi goes through the
    /// indices in order, so that a gap is theirs.
    fn count_lost(&mut self) {
        for at in 0..self.gpus.len() {
            if !self.gpus[at].gpu.unread.contains_key("index") {
                continue;
            }
            let numbered = |listed: &&Listed| !listed.gpu.unread.contains_key("index");
            let taken: Vec<u32> = self.gpus.iter().filter(numbered).map(|listed| listed.gpu.index).collect();
            let highest = self.gpus.iter().map(|listed| listed.gpu.index).max();
            let above = self.gpus[..at].iter().rev().find(numbered).map(|listed| listed.gpu.index);
            let next = above.map_or(0, |index| index.saturating_add(1));
            let gpu = &mut self.gpus[at].gpu;
            if taken.contains(&next) {
                gpu.index = highest.map_or(0, |index| index.saturating_add(1));
            } else {
                gpu.index = next;
                gpu.unread.remove("index");
            }
        }
    }
}

/// What was listed, with the line that did.
#[derive(Default)]
struct Seen(BTreeMap<String, usize>);

impl Seen {
    fn add(&mut self, listing: &Listing, key: String, line: usize, what: impl Fn() -> String) -> Result<()> {
        match self.0.insert(key, line) {
            None => Ok(()),
            Some(before) => bail!(
                "{} is listed twice:\n{}\nKeep the listing of one host, once.",
                what(),
                both(&listing.lines[before], &listing.lines[line])
            ),
        }
    }
}

fn both(first: &(usize, String, String), second: &(usize, String, String)) -> String {
    format!("  line {}: {}\n  line {}: {}", first.0, first.2, second.0, second.2)
}

/// A line that is about a GPU, from its index on: `0: NVIDIA H200 (UUID: GPU-…)`; and what stands in
/// front of it.
fn find_gpu(line: &str) -> Option<(&str, &str)> {
    line.match_indices("GPU ").find_map(|(at, word)| {
        let statement = &line[at + word.len()..];
        let after = statement.trim_start_matches(|c: char| c.is_ascii_digit());
        let cut_off = after.is_empty() || after == ":";
        (after.len() < statement.len() && (cut_off || after.starts_with(": ")))
            .then_some((&line[..at], statement))
    })
}

/// A line that is about a MIG device, from its profile on: `3g.20gb Device 0: (UUID: MIG-…)`.
fn find_mig(line: &str) -> Option<(&str, &str)> {
    let (at, word) = line.match_indices("MIG ").next()?;
    let statement = &line[at + word.len()..];
    let mut words = statement.split_whitespace();
    let (first, second) = (words.next()?, words.next());
    // The first form has no profile; a line that was cut off may have no device.
    let is_device =
        first == "Device" || second == Some("Device") || first.starts_with(|c: char| c.is_ascii_digit());
    is_device.then_some((&line[..at], statement))
}

/// What stands in front of a line, without what only quotes it and without the time.
fn label(before: &str) -> String {
    let quoted = |c: char| c.is_whitespace() || ">|*#`\"'".contains(c);
    let mut label = before.trim_matches(quoted);
    // As logs begin their lines: 2026-11-27T14:22:15.37Z, or [14:22:15].
    let clock = |c: char| c.is_ascii_digit() || "-:.,TZ+[]/".contains(c);
    while let Some((word, rest)) = label.split_once(char::is_whitespace).or(Some((label, "")))
        && !word.is_empty()
        && word.chars().all(clock)
        && (word.matches(':').count() >= 2 || word.matches('-').count() >= 2)
    {
        label = rest.trim_start();
    }
    label.trim_matches(quoted).trim_end_matches(':').trim().to_owned()
}

/// The UUID of a device, or something that begins like one.
fn holds_uuid(line: &str) -> bool {
    let begins = |prefix: &str| {
        line.split(prefix).skip(1).any(|rest| {
            let digits = rest.trim_start_matches("GPU-").bytes().take(8);
            digits.filter(u8::is_ascii_hexdigit).count() == 8
        })
    };
    line.contains("(UUID:") || begins("GPU-") || begins("MIG-")
}

/// Splits `… (UUID: GPU-…)`; a name may hold parentheses of its own.
fn uuid<'a>(statement: &'a str, kind: &str, prefix: &str) -> Result<(&'a str, &'a str), String> {
    let (before, rest) =
        statement.split_once("(UUID: ").ok_or("names no UUID, it is cut off or wrapped".to_owned())?;
    let (uuid, after) =
        rest.split_once(')').ok_or("ends within the UUID, it is cut off or wrapped".to_owned())?;
    if holds_uuid(after) {
        return Err("two lines in one".to_owned());
    }
    match uuid.strip_prefix(prefix) {
        Some(rest) if !rest.is_empty() => Ok((before, uuid)),
        _ => Err(format!("'{uuid}' is no UUID of a {kind}, which begins with {prefix}")),
    }
}

/// `0: NVIDIA H200 (UUID: GPU-…)`
fn gpu(statement: &str) -> Result<Gpu, String> {
    let (before, uuid) = uuid(statement, "GPU", "GPU-")?;
    let (index, name) = before.split_once(": ").ok_or("names no GPU".to_owned())?;
    let mut gpu = Gpu {
        index: index.parse().map_err(|_| format!("'{index}' is no index of a GPU"))?,
        name: name.trim().to_owned(),
        uuid: uuid.to_owned(),
        ..Gpu::default()
    };
    for field in ["minor", "memory_mib", "mig_mode", "processes"] {
        gpu.unread.insert(field.to_owned(), NOT_SAID.to_owned());
    }
    Ok(gpu)
}

/// `gpu 0000:BA:00.0: Unknown Error`, `GPU0000:25:00.0: …`, `GPU3: 0000:5F:00.0: …`, `GPU2: …`; the
/// index where it is said.
fn lost_gpu(rest: &str) -> Gpu {
    let said = rest.trim_start_matches(|c: char| c.is_whitespace() || c.is_ascii_alphabetic());
    let mut parts = said.split(": ").map(str::trim);
    let first = parts.next().unwrap_or_default();
    let index = first.parse().ok();
    let address = if index.is_some() { parts.next().unwrap_or_default() } else { first };
    let mut gpu = Gpu {
        index: index.unwrap_or_default(),
        pci_bus_id: Some(address.to_owned()).filter(|address| address.matches(':').count() == 2),
        ..Gpu::default()
    };
    gpu.unread.insert("handle".to_owned(), format!("nvidia-smi: {LOST}{}", rest.trim_end()));
    if index.is_none() {
        gpu.unread.insert("index".to_owned(), NOT_SAID.to_owned());
    }
    gpu
}

/// `3g.20gb Device 0: (UUID: MIG-…)`, or without a profile.
fn mig_device(statement: &str) -> Result<MigDevice, String> {
    let (before, uuid) = uuid(statement, "MIG device", "MIG-")?;
    let (profile, index) = before.split_once("Device").ok_or("names no MIG device".to_owned())?;
    let index = index.trim().trim_end_matches(':');
    let profile = match profile.trim() {
        "" => None,
        name => Some(name.parse::<ProfileName>().map_err(|error| error.to_string())?.to_string()),
    };
    let mut mig = MigDevice {
        index: index.parse().map_err(|_| format!("'{index}' is no index of a MIG device"))?,
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
    Ok(mig)
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

    fn message(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn what_is_something_else_is_refused_by_line() {
        assert!(message("hello").starts_with("not the text of nvidia-smi -L"));
        assert!(message("").starts_with("not the text of nvidia-smi -L"));
        assert_eq!(message("GPU 0: X"), "line 1: names no UUID, it is cut off or wrapped: GPU 0: X");
        assert!(message("  MIG 1g.5gb Device 0: (UUID: MIG-1)").starts_with("line 1: a MIG device without"));
        assert_eq!(parse("No devices were found\n").unwrap().gpus, []);
        for (second, why) in [
            ("  MIG 3q.1gb Device 0: (UUID: MIG-1)", "'3q.1gb' is no MIG profile"),
            ("  MIG 3g.40gb Device 0: (UUID: MIG-5a5a0002-0000", "ends within the UUID, it is cut off"),
            ("  MIG 3g.40gb Dev", "names no UUID, it is cut off"),
            ("  MIG 3g.40gb Device x: (UUID: MIG-1)", "'x' is no index of a MIG device"),
            ("  MIG Device 0: (UUID: GPU-1)", "'GPU-1' is no UUID of a MIG device"),
            ("GPU 1", "names no UUID"),
            ("GPU 1: NVIDIA L4 (UUID: 5a5a0004)", "'5a5a0004' is no UUID of a GPU, which begins with GPU-"),
            ("GPU 1: NVIDIA L4 (UUID: N/A)", "'N/A' is no UUID of a GPU"),
            ("GPU 1: L4 (UUID: GPU-1) GPU 2: L4 (UUID: GPU-2)", "two lines in one"),
            ("GPU-5a5a0004-0000-4000-8000-00000000000d NVIDIA L4", "holds a UUID, but is no line of"),
            ("1, NVIDIA L4, GPU-5a5a0004-0000-4000-8000-00000000000d", "holds a UUID, but is no line of"),
            ("  1g.5gb Device 0: (UUID: MIG-1)", "holds a UUID, but is no line of"),
            ("  MIG Device 0: (UUID: MIG-GPU-5a5a0009/1/0)", "a MIG device of GPU-5a5a0009 below GPU 0"),
        ] {
            let said = message(&format!("GPU 0: NVIDIA H200 (UUID: {GPU})\n{second}\n"));
            let expected = format!("line 2: {why}");
            assert!(said.starts_with(&expected), "{said}");
            assert!(said.ends_with(&format!(": {}", second.trim())), "{said}");
        }
    }

    /// However a listing was saved, all of it is read, or the line is named that is not.
    #[test]
    fn what_stands_around_a_listing_is_passed_over() {
        let (first, mig, second) = (
            format!("GPU 0: NVIDIA H200 (UUID: {GPU})"),
            "  MIG 1g.18gb     Device  0: (UUID: MIG-5a5a0002-0000-5000-8000-00000000000b)",
            "GPU 1: NVIDIA H200 (UUID: GPU-5a5a0004-0000-4000-8000-00000000000d)",
        );
        let plain = parse(&format!("{first}\n{mig}\n{second}\n")).unwrap();
        assert_eq!((plain.gpus.len(), plain.gpus[0].mig_devices.len()), (2, 1));
        for text in [
            format!("\u{feff}{first}\r\n{mig}\r\n{second}\r\n"),
            format!("{first}\r{mig}\r{second}"),
            format!("\u{1b}[1m{first}\u{1b}[0m\n\u{1b}[32m{mig}\u{1b}[0m\n{second}"),
            format!("$ nvidia-smi -L\n```text\n{first}\n{mig}\n{second}\n```\n"),
            format!("> {first}\n> {mig}\n>\n> {second}\n"),
            format!("    {first}\n\n\t{mig}\n\n    {second}\n"),
            format!("3: {first}\n3: {mig}\n3: {second}\n"),
            format!("node07: {first}\nnode07: {mig}\nnode07: {second}\n"),
            format!("[pod/a/main] {first}\n[pod/a/main] {mig}\n[pod/a/main] {second}\n"),
            format!("worker-1  | {first}\nworker-1  | {mig}\nworker-1  | {second}\n"),
            format!(
                "2026-11-27T14:22:15.37Z {first}\n2026-11-27T14:22:15.38Z {mig}\n2026-11-27 14:22:16 {second}\n"
            ),
            format!("GPUs: {first}\n{mig}\n{second}\n"),
            format!("found {first}\n{mig}\nfound {second}\n"),
            format!("[1,3]<stdout>:{first}\n[1,3]<stdout>:{mig}\n[1,3]<stdout>:{second}\n"),
            format!("\"{first}\",\n\"{mig}\",\n\"{second}\"\n"),
            format!("{first}\n{}\n{second}\n", mig.replace(' ', "\u{a0}")),
            format!("WARNING: infoROM is corrupted at gpu 0000:3B:00.0\n{first}\n{mig}\n{second}\n"),
        ] {
            assert_eq!(parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}")), plain, "{text}");
        }
    }

    #[test]
    fn what_is_listed_twice_is_refused_with_both_lines() {
        let gpu = |index: u32, uuid: u32| format!("GPU {index}: NVIDIA H200 (UUID: GPU-5a5a000{uuid})\n");
        let mig =
            |index: u32, uuid: u32| format!("  MIG 1g.18gb Device {index}: (UUID: MIG-5a5b000{uuid})\n");
        for (text, what, second) in [
            (gpu(0, 1) + &mig(0, 1) + &gpu(0, 1) + &mig(0, 1), "GPU 0 is listed twice", 3),
            (gpu(0, 1) + &gpu(1, 2) + &gpu(0, 3), "GPU 0 is listed twice", 3),
            (gpu(0, 1) + &gpu(1, 1), "GPU-5a5a0001 is listed twice", 2),
            (gpu(0, 1) + &gpu(1, 1).replace("GPU-5a5a", "GPU-5A5A"), "GPU-5A5A0001 is listed twice", 2),
            (gpu(0, 1) + &mig(0, 1) + &mig(0, 2), "Device 0 of GPU 0 is listed twice", 3),
            (gpu(0, 1) + &mig(0, 1) + &gpu(1, 2) + &mig(0, 1), "MIG-5a5b0001 is listed twice", 4),
        ] {
            let said = message(&text);
            assert!(
                said.starts_with(what) && said.ends_with("Keep the listing of one host, once."),
                "{said}"
            );
            let line = text.lines().nth(second - 1).unwrap().trim();
            assert!(said.contains(&format!("  line {second}: {line}\n")), "{said}");
        }
        assert!(parse(&(gpu(0, 1) + &mig(0, 1) + &gpu(1, 2) + &mig(0, 2))).is_ok());
    }

    #[test]
    fn the_listings_of_two_hosts_are_refused_with_both_lines() {
        let text = "0: GPU 0: NVIDIA H200 (UUID: GPU-5a5a0001)\n\
            0:   MIG 1g.18gb Device 0: (UUID: MIG-5a5b0001)\n\
            1: GPU 0: NVIDIA H200 (UUID: GPU-5a5a0002)\n";
        assert_eq!(
            message(text),
            "the listings of two hosts or tasks ('0' and '1'):\n  \
             line 1: 0: GPU 0: NVIDIA H200 (UUID: GPU-5a5a0001)\n  \
             line 3: 1: GPU 0: NVIDIA H200 (UUID: GPU-5a5a0002)\n\
             Keep the lines of one of them."
        );
        // Also where no number tells them apart.
        assert!(message(&text.replace("1: GPU 0", "1: GPU 1")).starts_with("the listings of two hosts"));
    }

    #[test]
    fn a_lost_gpu_is_listed_as_one_that_does_not_answer() {
        let lost = |said: &str, last: &str| {
            let text = format!(
                "GPU 0: NVIDIA H200 (UUID: GPU-5a5a0001)\n{said}\n{last}: NVIDIA H200 (UUID: GPU-5a5a0002)\n"
            );
            let gpu = parse(&text).unwrap().gpus.swap_remove(1);
            assert_eq!((gpu.uuid.as_str(), &gpu.unread["handle"]), ("", &format!("nvidia-smi: {said}")));
            (Some(gpu.index).filter(|_| !gpu.unread.contains_key("index")), gpu.pci_bus_id)
        };
        let at = |address: &str| Some(address.to_owned());
        let said = |gpu: &str| format!("Unable to determine the device handle for {gpu}");
        assert_eq!(lost(&said("gpu 0000:BA:00.0: Unknown Error"), "GPU 2"), (Some(1), at("0000:BA:00.0")));
        assert_eq!(
            lost(&said("GPU0000:25:00.0: GPU is lost.  Reboot"), "GPU 2"),
            (Some(1), at("0000:25:00.0"))
        );
        assert_eq!(lost(&said("GPU3: 0000:5F:00.0: Unknown Error"), "GPU 4"), (Some(3), at("0000:5F:00.0")));
        assert_eq!(lost(&said("GPU2: Unknown Error"), "GPU 3"), (Some(2), None));
        // Counted without it: nobody says its index.
        assert_eq!(lost(&said("gpu 0000:BA:00.0: Unknown Error"), "GPU 1"), (None, at("0000:BA:00.0")));
        let two = format!("{}\n{}\n", said("GPU2: Unknown Error"), said("GPU2: Unknown Error"));
        assert!(message(&two).starts_with("GPU 2 is listed twice"));
    }

    #[test]
    fn why_nvidia_smi_listed_nothing_is_passed_on() {
        for said in [
            "Failed to initialize NVML: Driver/library version mismatch",
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.",
        ] {
            let expected = format!("nvidia-smi itself failed there: {said}");
            assert_eq!(message(&format!("{said}\nNVML library version: 570.124\n")), expected);
        }
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
