//! Machines that the stand-ins play: what a card offers comes from the table of known cards, how it
//! is cut is said here, and every UUID is invented.

use migbench::machine::topology::{
    Clocks, Engines, GpuInstance, Mode, Pcie, Placement, Process, RemappedRows,
};
use migbench::machine::{Gpu, MigDevice, Topology, cards, refusal};

/// One GPU instance: profile, GI id, first memory slice, and its compute instances by their slices.
pub struct Cut(pub &'static str, pub u32, pub u32, pub &'static [u32]);

/// A whole GPU instance as one compute instance.
pub fn whole(profile: &'static str, gi: u32, start: u32) -> Cut {
    Cut(profile, gi, start, &[])
}

const NO_PERMISSION: u32 = 4;

/// A GPU as it comes, MIG off.
pub fn gpu(index: u32, name: &str, memory_mib: u64) -> Gpu {
    let mut gpu = Gpu {
        index,
        minor: Some(index),
        uuid: format!("GPU-5a5a{index:04x}-0000-4000-8000-00000000000a"),
        name: name.to_owned(),
        pci_bus_id: Some(format!("00000000:{:02X}:00.0", 0x10 + index)),
        serial: Some(format!("165000000000{index}")),
        vbios: Some("96.00.00.00.01".into()),
        memory_mib: Some(memory_mib),
        mig_mode: Some(Mode { current: false, pending: false }),
        mig_devices_max: Some(0),
        ecc: Some(Mode { current: true, pending: true }),
        power_limit_mw: Some(700_000),
        power_limit_default_mw: Some(700_000),
        pcie: Pcie { generation: Some(5), generation_max: Some(5), width: Some(16), width_max: Some(16) },
        compute_mode: Some("default".into()),
        persistence: Some(true),
        remapped_rows: Some(RemappedRows {
            correctable: 0,
            uncorrectable: 0,
            pending: false,
            failure: false,
        }),
        clocks: Clocks {
            sm: Some(345),
            sm_max: Some(1980),
            sm_application: Some(1980),
            memory: Some(2619),
            memory_max: Some(2619),
        },
        throttle_reasons: Some(1),
        processes: Some(Vec::new()),
        ..Gpu::default()
    };
    gpu.profiles = cards::known(&gpu).map(|card| card.profiles.clone()).unwrap_or_default();
    for profile in &mut gpu.profiles {
        (profile.source, profile.free) = (None, profile.max);
        profile.number = profile.name.as_deref().map(|name| number(profile.id, name));
    }
    gpu
}

/// NVML's enumeration, in the order in which it grew.
fn number(id: u32, name: &str) -> u32 {
    let (slices, attributes) = (&name[..1], name.split("gb").nth(1).unwrap_or_default());
    match (slices, attributes) {
        // One slice with the memory of two.
        ("1", "") if id == 15 => 9,
        ("1", "") => 0,
        ("2", "") => 1,
        ("3", "") => 2,
        ("4", "") => 3,
        ("7", "") => 4,
        ("1", "+me") => 7,
        ("2", "+me") => 8,
        ("1", "+gfx") => 10,
        ("2", "+gfx") => 11,
        ("4", "+gfx") => 12,
        ("1", "-me") => 13,
        ("2", "-me") => 14,
        ("1", "+me.all") => 15,
        ("2", "+me.all") => 16,
        _ => panic!("no number for {name}"),
    }
}

/// Cuts it.
pub fn cut(mut gpu: Gpu, cuts: &[Cut]) -> Gpu {
    gpu.mig_mode = Some(Mode { current: true, pending: true });
    // As drivers before R570 or so show it; newer ones the same on 7-slice cards.
    gpu.mig_devices_max = Some(if gpu.profiles.iter().any(|p| p.slices == Some(7)) { 7 } else { 4 });
    let mut instances = Vec::new();
    for Cut(name, gi, start, compute) in cuts {
        let profile =
            gpu.profile_named(name).unwrap_or_else(|| panic!("{} offers no {name}", gpu.name)).clone();
        let size = profile.placements.as_ref().map(|p| p.0[0].size);
        let placement = size.map(|size| Placement { start: *start, size });
        instances.push(GpuInstance { id: *gi, profile_id: Some(profile.id), placement });
        let slices = profile.slices.unwrap();
        let pieces: &[u32] = if compute.is_empty() { &[slices] } else { compute };
        let mut at = 0;
        for (ci, &piece) in pieces.iter().enumerate() {
            let prefix = if piece == slices { String::new() } else { format!("{piece}c.") };
            gpu.mig_devices.push(MigDevice {
                index: gpu.mig_devices.len() as u32,
                uuid: format!("MIG-5a5a{:04x}-{gi:04x}-5000-8000-{ci:012x}", gpu.index),
                gi_id: Some(*gi),
                ci_id: Some(ci as u32),
                gi_profile_id: Some(profile.id),
                ci_profile_id: Some([0, 0, 1, 2, 3, 0, 0, 4][piece as usize]),
                profile: Some(format!("{prefix}{name}")),
                placement,
                ci_placement: Some(Placement { start: at, size: piece }),
                sm_count: profile.sm_count.map(|sm| sm * piece / slices),
                memory_mib: profile.memory_mib,
                engines: profile.engines.or(Some(Engines::default())),
                ..MigDevice::default()
            });
            at += piece;
        }
    }
    instances.sort_by_key(|gi| gi.id);
    gpu.gpu_instances = Some(instances);
    gpu
}

/// A machine with a driver.
pub fn machine(driver: &str, cuda: &str, gpus: Vec<Gpu>) -> Topology {
    Topology {
        driver_version: Some(driver.to_owned()),
        cuda_version: Some(cuda.to_owned()),
        nvml_version: Some(format!("12.{driver}")),
        gpus,
        ..Topology::default()
    }
}

/// What somebody without privileges may not ask.
pub fn unprivileged(mut topology: Topology) -> Topology {
    for gpu in &mut topology.gpus {
        if gpu.mig_enabled() == Some(true) {
            gpu.memory_mib = None;
            gpu.unread.insert("memory_mib".into(), refusal::text(NO_PERMISSION));
        }
        gpu.gpu_instances = None;
        gpu.unread.insert("gpu_instances".into(), refusal::text(NO_PERMISSION));
        for mig in &mut gpu.mig_devices {
            (mig.placement, mig.ci_placement, mig.ci_profile_id) = (None, None, None);
            mig.unread.insert("placement".into(), refusal::text(NO_PERMISSION));
        }
    }
    topology
}

fn a100(index: u32) -> Gpu {
    gpu(index, "A100-SXM4-40GB", 40_536)
}

fn h100(index: u32) -> Gpu {
    gpu(index, "NVIDIA H100 80GB HBM3", 81_559)
}

fn h200(index: u32) -> Gpu {
    gpu(index, "NVIDIA H200", 143_771)
}

fn seven(profile: &'static str) -> Vec<Cut> {
    (0..7).map(|i| whole(profile, 7 + i, i)).collect()
}

/// Every machine that is played, by name.
pub fn named(name: &str) -> Topology {
    match name {
        "a100-7x1g" => machine("470.256.02", "11.4", vec![cut(a100(0), &seven("1g.5gb"))]),
        "a100-mixed-hole" => {
            let mut gpu =
                cut(a100(0), &[whole("4g.20gb", 2, 0), whole("2g.10gb", 3, 4), whole("1g.5gb", 9, 6)]);
            (gpu.mig_devices[1].index, gpu.mig_devices[2].index) = (2, 5);
            machine("535.274.02", "12.2", vec![gpu])
        }
        "a100-1c-2c" => {
            let cuts = [Cut("3g.20gb", 1, 4, &[1, 2]), whole("4g.20gb", 2, 0)];
            let mut topology = machine("550.163.01", "12.4", vec![cut(a100(0), &cuts)]);
            let process =
                |pid, gi, ci| Process { pid, gi_id: Some(gi), ci_id: Some(ci), memory_mib: Some(512) };
            topology.gpus[0].processes = Some(vec![process(4242, 1, 1)]);
            topology
        }
        "a30" => {
            let gpu = gpu(0, "NVIDIA A30", 24_576);
            let cuts = [whole("2g.12gb", 1, 0), whole("1g.6gb", 5, 2), whole("1g.6gb+me", 6, 3)];
            machine("535.274.02", "12.2", vec![cut(gpu, &cuts)])
        }
        "h100" => {
            let cuts = [whole("3g.40gb", 1, 4), whole("1g.20gb", 5, 0), whole("2g.20gb", 3, 2)];
            machine("570.172.08", "12.8", vec![cut(h100(0), &cuts)])
        }
        "h200-mixed" => {
            let cuts = [whole("3g.71gb", 2, 0), whole("2g.35gb", 3, 4), whole("1g.18gb", 13, 6)];
            machine("580.65.06", "13.0", vec![cut(h200(0), &cuts)])
        }
        "h200-7x1g" => machine("580.65.06", "13.0", vec![cut(h200(0), &seven("1g.18gb"))]),
        "rtx-pro-6000" => {
            let gpu = gpu(0, "NVIDIA RTX PRO 6000 Blackwell Server Edition", 97_887);
            let cuts = [whole("2g.48gb-me", 1, 0), whole("1g.24gb+me.all", 5, 6), whole("1g.24gb-me", 6, 9)];
            machine("580.65.06", "13.0", vec![cut(gpu, &cuts)])
        }
        "b200" => b200(),
        "two-alike" => {
            let cuts = || [whole("3g.40gb", 1, 4), whole("3g.40gb", 2, 0)];
            machine("570.172.08", "12.8", vec![cut(h100(0), &cuts()), cut(h100(1), &cuts())])
        }
        "mig-off" => machine("580.65.06", "13.0", vec![h200(0)]),
        "mig-pending" => {
            let mut gpu = a100(0);
            gpu.mig_mode = Some(Mode { current: false, pending: true });
            gpu.processes = Some(vec![Process { pid: 977, ..Process::default() }]);
            machine("535.274.02", "12.2", vec![gpu])
        }
        "on-but-empty" => machine("580.65.06", "13.0", vec![cut(h200(0), &[])]),
        "gi-without-ci" => {
            let mut gpu = cut(h100(0), &[whole("3g.40gb", 1, 4), whole("3g.40gb", 2, 0)]);
            gpu.mig_devices.remove(1);
            machine("570.172.08", "12.8", vec![gpu])
        }
        "8x7" => {
            let gpus = (0..8).map(|i| cut(h100(i), &seven("1g.10gb"))).collect();
            machine("570.172.08", "12.8", gpus)
        }
        "unprivileged" => unprivileged(named("h100")),
        "container" => {
            let mut topology = unprivileged(named("h200-mixed"));
            topology.gpus[0].mig_devices.retain(|mig| mig.gi_id == Some(3));
            topology.gpus[0].mig_devices[0].index = 0;
            topology.gpus[0].processes = Some(Vec::new());
            topology
        }
        "old-driver" => {
            let mut topology = named("a100-7x1g");
            topology.driver_version = Some("460.106.00".into());
            topology.cuda_version = Some("11.2".into());
            let gpu = &mut topology.gpus[0];
            for mig in &mut gpu.mig_devices {
                mig.uuid = format!("MIG-{}/{}/{}", gpu.uuid, mig.gi_id.unwrap(), mig.ci_id.unwrap());
            }
            topology
        }
        "gpu-lost" => {
            let mut topology = machine("580.65.06", "13.0", vec![h200(0), h200(1)]);
            topology.gpus[1].unread.insert("handle".into(), refusal::text(15));
            topology
        }
        other => panic!("no machine '{other}'"),
    }
}

/// 3g and more are unpublished: the driver refuses what nobody knows.
fn b200() -> Topology {
    let mut gpu = cut(gpu(0, "NVIDIA B200", 183_359), &[]);
    gpu = cut(gpu, &[whole("1g.23gb", 7, 6), whole("2g.45gb", 3, 4)]);
    let mut unknown = gpu.mig_devices[1].clone();
    unknown = MigDevice {
        index: 2,
        uuid: "MIG-5a5a0000-0002-5000-8000-000000000000".into(),
        gi_id: Some(2),
        profile: Some("3g.90gb".into()),
        gi_profile_id: Some(9),
        ..unknown
    };
    (unknown.sm_count, unknown.memory_mib, unknown.engines) = (None, None, None);
    unknown.unread.insert("sm_count".into(), refusal::text(999));
    gpu.mig_devices.push(unknown);
    machine("570.172.08", "12.8", vec![gpu])
}
