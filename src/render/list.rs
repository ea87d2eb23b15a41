//! What `list` found: a tree for people, JSON for programs, CSV for spreadsheets.

use super::columns::{Side, lines};
use crate::machine::text::spreadsheet;
use crate::machine::topology::{MigDevice, Profile, Source};
use crate::machine::{Gpu, Instance, InstanceKind, Topology};
use serde::Serialize;
use std::io::{self, Write};

/// What was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listing {
    /// GPUs and MIG devices.
    pub topology: Topology,
    /// What can be measured; may this process use it? None where that is not known.
    pub instances: Vec<(Instance, Option<Result<(), String>>)>,
    /// Where nvidia-smi says something else.
    pub differences: Vec<String>,
    /// The host's processors, where there is no GPU.
    pub cpu: Option<Instance>,
    /// Why there is no GPU.
    pub absent: Option<String>,
}

/// For people.
///
/// # Errors
/// The stream does not take it.
pub fn table(out: &mut dyn Write, listing: &Listing) -> io::Result<()> {
    let topology = &listing.topology;
    if let Some(cpu) = &listing.cpu {
        let memory = cpu.memory_mib.map_or(String::new(), |mib| format!(", {mib} MiB"));
        writeln!(out, "CPU  {}, {}{memory}", cpu.gpu_name, cpu.profile.as_deref().unwrap_or_default())?;
    } else {
        writeln!(out, "{}", versions(topology))?;
    }
    for gpu in &topology.gpus {
        writeln!(out, "{}", title(gpu))?;
        for line in lines(&device_rows(gpu, listing), &DEVICE_SIDES) {
            writeln!(out, "  {line}")?;
        }
    }
    for gpu in &topology.gpus {
        for (field, why) in gpu.unread.iter().filter(|(field, _)| field.starts_with("profiles")) {
            writeln!(out, "GPU {}: {field} can't be read: {why}", gpu.index)?;
        }
    }
    for (gpus, profiles) in offers(topology) {
        writeln!(out, "offered by GPU {gpus}{}", origin(profiles))?;
        for line in lines(&profile_rows(profiles), &PROFILE_SIDES) {
            writeln!(out, "  {line}")?;
        }
    }
    notes(out, listing)
}

/// Why there is no GPU, and where nvidia-smi says something else.
///
/// # Errors
/// The stream does not take it.
pub fn notes(out: &mut dyn Write, listing: &Listing) -> io::Result<()> {
    if let Some(why) = &listing.absent {
        writeln!(out, "no GPU: {why}")?;
    }
    for difference in &listing.differences {
        writeln!(out, "differs: {difference}")?;
    }
    Ok(())
}

fn versions(topology: &Topology) -> String {
    let source = match topology.source {
        Source::Nvml => "",
        Source::NvidiaSmi => " (from the text of nvidia-smi -L)",
    };
    let unknown = "unknown".to_owned();
    let driver = topology.driver_version.as_ref().unwrap_or(&unknown);
    let cuda = topology.cuda_version.as_ref().unwrap_or(&unknown);
    let count = match topology.gpus.len() {
        1 => "1 GPU".to_owned(),
        n => format!("{n} GPUs"),
    };
    format!("{count}, driver {driver}, CUDA {cuda}{source}")
}

fn title(gpu: &Gpu) -> String {
    if gpu.uuid.is_empty() {
        let why = gpu.unread.get("handle").or(gpu.unread.get("uuid")).map_or("", String::as_str);
        let which = match (&gpu.pci_bus_id, gpu.unread.contains_key("index")) {
            (Some(address), true) => format!("at {address}"),
            (None, true) => "of unknown index".to_owned(),
            (_, false) => gpu.index.to_string(),
        };
        return format!("GPU {which}  does not answer: {why}");
    }
    let memory = match (gpu.memory_mib, gpu.unread.get("memory_mib")) {
        (Some(mib), _) => format!("{mib} MiB"),
        (None, Some(why)) => format!("memory unknown ({why})"),
        (None, None) => "memory unknown".to_owned(),
    };
    let mig = match gpu.mig_mode {
        None => "no MIG".to_owned(),
        Some(mode) => {
            let word = |on| if on { "on" } else { "off" };
            let pending = if mode.pending == mode.current {
                String::new()
            } else {
                format!(", {} after a reset", word(mode.pending))
            };
            format!("MIG {}{pending}", word(mode.current))
        }
    };
    let mig = match gpu.unread.get("mig_mode") {
        Some(why) if gpu.mig_mode.is_none() && !why.starts_with("NVML 3:") => format!("MIG unknown ({why})"),
        _ => mig,
    };
    format!("GPU {}  {}, {memory}, {mig}  {}", gpu.index, gpu.name, gpu.uuid)
}

const DEVICE_SIDES: [Side; 8] =
    [Side::Left, Side::Right, Side::Right, Side::Right, Side::Right, Side::Left, Side::Left, Side::Left];

fn device_rows(gpu: &Gpu, listing: &Listing) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    if gpu.mig_devices.is_empty() {
        if gpu.mig_enabled() == Some(true) {
            return vec![vec!["no MIG device: CUDA cannot run on this GPU; see migbench doctor".to_owned()]];
        }
        let uuid = Some(gpu.uuid.as_str());
        let state =
            state(uuid, listing, busy(gpu.processes.as_ref().map(|p| p.iter().map(|p| p.pid).collect())));
        return if state.is_empty() { rows } else { vec![vec![format!("whole GPU: {state}")]] };
    }
    rows.push(["profile", "GI", "CI", "SMs", "MiB", "place", "UUID", "use"].map(str::to_owned).to_vec());
    for mig in &gpu.mig_devices {
        let number = |value: Option<u64>| value.map_or("?".to_owned(), |v| v.to_string());
        let pids = gpu.processes.as_ref().map(|_| gpu.processes_of(mig).map(|p| p.pid).collect());
        let mut state = state(Some(&mig.uuid), listing, busy(pids));
        if let Some(shared) = shared(gpu, mig) {
            state = if state.is_empty() { shared } else { format!("{state}; {shared}") };
        }
        rows.push(vec![
            mig.profile.clone().unwrap_or_else(|| "?".to_owned()),
            number(mig.gi_id.map(u64::from)),
            number(mig.ci_id.map(u64::from)),
            number(mig.sm_count.map(u64::from)),
            number(mig.memory_mib),
            mig.placement.map_or("?".to_owned(), |p| p.to_string()),
            mig.uuid.clone(),
            state,
        ]);
    }
    rows
}

/// Siblings are not isolated from each other.
fn shared(gpu: &Gpu, mig: &MigDevice) -> Option<String> {
    let siblings: Vec<String> = gpu.siblings(mig).filter_map(|s| Some(format!("CI {}", s.ci_id?))).collect();
    (!siblings.is_empty()).then(|| format!("shares memory and L2 with {}", siblings.join(", ")))
}

/// Whether somebody computes there; nothing is said where nobody knows.
fn busy(pids: Option<Vec<u32>>) -> String {
    match pids {
        Some(pids) if !pids.is_empty() => {
            let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
            format!("busy: pid {}", pids.join(", "))
        }
        _ => String::new(),
    }
}

fn state(uuid: Option<&str>, listing: &Listing, busy: String) -> String {
    let found = listing.instances.iter().find(|(instance, _)| instance.uuid() == uuid);
    let usable = match found.and_then(|(_, usable)| usable.as_ref()) {
        Some(Ok(())) => "usable".to_owned(),
        Some(Err(why)) => format!("no: {why}"),
        None => String::new(),
    };
    [usable, busy].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
}

/// Each list of offered profiles once, with the GPUs that offer it.
fn offers(topology: &Topology) -> Vec<(String, &[Profile])> {
    let mut groups: Vec<(Vec<&Gpu>, &[Profile])> = Vec::new();
    for gpu in topology.gpus.iter().filter(|gpu| !gpu.profiles.is_empty()) {
        match groups
            .iter_mut()
            .find(|(gpus, profiles)| gpus[0].name == gpu.name && same(profiles, &gpu.profiles))
        {
            Some((gpus, _)) => gpus.push(gpu),
            None => groups.push((vec![gpu], &gpu.profiles)),
        }
    }
    let text = |gpus: &[&Gpu]| {
        let indices: Vec<String> = gpus.iter().map(|gpu| gpu.index.to_string()).collect();
        format!("{} ({})", indices.join(", "), gpus[0].name)
    };
    groups.into_iter().map(|(gpus, profiles)| (text(&gpus), profiles)).collect()
}

/// The same but for how many more there can be now.
fn same(a: &[Profile], b: &[Profile]) -> bool {
    let plain = |p: &Profile| Profile { free: None, unread: Default::default(), ..p.clone() };
    a.iter().map(plain).eq(b.iter().map(plain))
}

fn origin(profiles: &[Profile]) -> String {
    let source = profiles.first().and_then(|p| p.source.as_ref());
    source.map_or(String::new(), |source| format!(" (not from this driver: {source})"))
}

const PROFILE_SIDES: [Side; 7] =
    [Side::Left, Side::Right, Side::Right, Side::Right, Side::Right, Side::Left, Side::Left];

fn profile_rows(profiles: &[Profile]) -> Vec<Vec<String>> {
    let titles = ["profile", "id", "max", "SMs", "MiB", "copy/dec/enc/jpeg/ofa", "places"];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    for profile in profiles {
        let number = |value: Option<u64>| value.map_or("?".to_owned(), |v| v.to_string());
        let engines = profile.engines.map_or("?".to_owned(), |e| {
            format!("{}/{}/{}/{}/{}", e.copy, e.decoder, e.encoder, e.jpeg, e.ofa)
        });
        rows.push(vec![
            profile.name.clone().unwrap_or_else(|| "?".to_owned()),
            profile.id.to_string(),
            number(profile.max.map(u64::from)),
            number(profile.sm_count.map(u64::from)),
            number(profile.memory_mib),
            engines,
            profile.placements.as_ref().map_or("?".to_owned(), ToString::to_string),
        ]);
    }
    rows
}

/// One instance with the verdict on it.
#[derive(Serialize)]
struct Listed<'a> {
    #[serde(flatten)]
    instance: &'a Instance,
    usable: Option<bool>,
    reason: Option<&'a String>,
}

fn listed(listing: &Listing) -> impl Iterator<Item = Listed<'_>> {
    listing.instances.iter().map(|(instance, usable)| Listed {
        instance,
        usable: usable.as_ref().map(Result::is_ok),
        reason: usable.as_ref().and_then(|u| u.as_ref().err()),
    })
}

/// For programs: the topology, which `--topology` reads again, with the verdicts.
///
/// # Errors
/// The stream does not take it.
pub fn json(out: &mut dyn Write, listing: &Listing) -> io::Result<()> {
    #[derive(Serialize)]
    struct Document<'a> {
        #[serde(flatten)]
        topology: &'a Topology,
        instances: Vec<Listed<'a>>,
        differences: &'a [String],
        cpu: &'a Option<Instance>,
        absent: &'a Option<String>,
    }
    let document = Document {
        topology: &listing.topology,
        instances: listed(listing).collect(),
        differences: &listing.differences,
        cpu: &listing.cpu,
        absent: &listing.absent,
    };
    serde_json::to_writer_pretty(&mut *out, &document)?;
    writeln!(out)
}

/// For spreadsheets: one line an instance. An empty cell is not known; a text that would be taken for a
/// formula has an apostrophe in front.
///
/// # Errors
/// The stream does not take it.
pub fn csv(out: &mut dyn Write, listing: &Listing) -> io::Result<()> {
    let mut writer = csv::Writer::from_writer(out);
    writer.write_record([
        "instance_kind",
        "gpu_index",
        "gpu_name",
        "gpu_uuid",
        "mig_uuid",
        "gi_id",
        "ci_id",
        "gi_profile_id",
        "ci_profile_id",
        "profile",
        "placement",
        "sm_count",
        "memory_mib",
        "usable",
        "reason",
        "pids",
    ])?;
    let text = |value: Option<&dyn std::fmt::Display>| value.map_or(String::new(), ToString::to_string);
    let cpu = listing.cpu.iter().map(|cpu| Listed { instance: cpu, usable: Some(true), reason: None });
    for Listed { instance, usable, reason } in listed(listing).chain(cpu) {
        let gpu = listing.topology.gpus.iter().find(|gpu| Some(&gpu.uuid) == instance.gpu_uuid.as_ref());
        let same = |mig: &&MigDevice| Some(&mig.uuid) == instance.mig_uuid.as_ref();
        let mig = gpu.and_then(|gpu| gpu.mig_devices.iter().find(same));
        let pids: Vec<String> = match (gpu, mig) {
            (Some(gpu), Some(mig)) => gpu.processes_of(mig).map(|p| p.pid.to_string()).collect(),
            (Some(gpu), None) if instance.kind == InstanceKind::Gpu => {
                gpu.processes.iter().flatten().map(|p| p.pid.to_string()).collect()
            }
            _ => Vec::new(),
        };
        let line = [
            instance.kind.to_string(),
            text(instance.gpu_index.as_ref().map(|v| v as _)),
            instance.gpu_name.clone(),
            text(instance.gpu_uuid.as_ref().map(|v| v as _)),
            text(instance.mig_uuid.as_ref().map(|v| v as _)),
            text(instance.gi_id.as_ref().map(|v| v as _)),
            text(instance.ci_id.as_ref().map(|v| v as _)),
            text(mig.and_then(|m| m.gi_profile_id.as_ref()).map(|v| v as _)),
            text(mig.and_then(|m| m.ci_profile_id.as_ref()).map(|v| v as _)),
            text(instance.profile.as_ref().map(|v| v as _)),
            text(mig.and_then(|m| m.placement.as_ref()).map(|v| v as _)),
            text(instance.sm_count.as_ref().map(|v| v as _)),
            text(instance.memory_mib.as_ref().map(|v| v as _)),
            text(usable.as_ref().map(|v| v as _)),
            text(reason.map(|v| v as _)),
            pids.join(" "),
        ];
        writer.write_record(line.iter().map(|cell| spreadsheet(cell).into_owned()))?;
    }
    writer.flush()
}
