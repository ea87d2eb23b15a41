//! The four parsers that read what others wrote, on rubbish: nothing panics, and what is accepted
//! survives being written again.
//!
//! In the suite each sees some thousands of inputs; `cargo test --release --test fuzz_machine -- --ignored`
//! gives each a million. `MIGBENCH_FUZZ_SEED` repeats a run.

use fastrand::Rng;
use migbench::machine::profile::ProfileName;
use migbench::machine::{Topology, capture, file, smi, visible};

const SHORT: usize = 5_000;
const LONG: usize = 1_000_000;

/// Pieces of the formats; rubbish made of these gets further into a parser than random bytes.
const WORDS: [&str; 44] = [
    "GPU ",
    "MIG ",
    "Device ",
    "(UUID: ",
    ")",
    "GPU-",
    "MIG-",
    "MIG-GPU-",
    "/",
    "0",
    "1",
    "7",
    ": ",
    ":",
    ",",
    "\n",
    "  ",
    "1g.10gb",
    "1c.3g.40gb",
    "+me",
    "+me.all",
    "-me",
    "gb",
    "g.",
    "c.",
    ".",
    "-",
    "5a5a0000-0000-4000-8000-00000000000a",
    "5a5a0000",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "\"schema\":\"migbench-topology/1\"",
    "\"gpus\":",
    "\"mig_devices\":",
    "\"placements\":\"{0,4}:4\"",
    "null",
    "18446744073709551616",
    "-1",
    "ä",
    "\0",
    "No devices were found",
];

const SMI: &str = "GPU 0: NVIDIA H200 (UUID: GPU-5a5a0000-0000-4000-8000-00000000000a)\n\
    \x20 MIG 1g.18gb     Device  0: (UUID: MIG-5a5a0000-0007-5000-8000-000000000000)\n\
    \x20 MIG Device 1: (UUID: MIG-GPU-5a5a0000-0000-4000-8000-00000000000a/1/0)\n\
    GPU 1: A100-PCIE-40GB (UUID: GPU-5a5a0001-0000-4000-8000-00000000000a)\n\
    \x20 MIG 3g.20gb Device 0: (UUID: MIG-GPU-5a5a0001-0000-4000-8000-00000000000a/2/0)\n";

fn rng() -> Rng {
    let seed = std::env::var("MIGBENCH_FUZZ_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    eprintln_seed(seed);
    Rng::with_seed(seed)
}

/// Shown by the harness when the test fails.
fn eprintln_seed(seed: u64) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "MIGBENCH_FUZZ_SEED={seed}");
}

/// Words at random, or a good text with some damage.
fn input(rng: &mut Rng, good: &[&str]) -> String {
    if rng.u8(..4) == 0 {
        return (0..rng.usize(..12)).map(|_| WORDS[rng.usize(..WORDS.len())]).collect();
    }
    let mut bytes = good[rng.usize(..good.len())].as_bytes().to_vec();
    for _ in 0..rng.usize(..4) {
        let at = rng.usize(..=bytes.len());
        match rng.u8(..4) {
            0 if at < bytes.len() => bytes[at] = rng.u8(..),
            1 => bytes.truncate(at),
            2 => {
                let end = (at + rng.usize(..20)).min(bytes.len());
                bytes.drain(at..end);
            }
            _ => {
                let word = WORDS[rng.usize(..WORDS.len())];
                bytes.splice(at..at, word.bytes());
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn smi_texts(count: usize) {
    let mut rng = rng();
    let mut accepted = 0;
    for _ in 0..count {
        let text = input(&mut rng, &[SMI]);
        if let Ok(topology) = smi::parse(&text) {
            accepted += 1;
            let _ = topology.instances();
            let _ = smi::differences(&topology, &topology);
            let json = serde_json::to_string(&topology).unwrap();
            assert_eq!(Topology::from_json(&json).unwrap(), topology, "{text}");
        }
        let _ = file::parse(&text);
    }
    assert!(accepted > count / 100, "only {accepted} of {count} were accepted: the inputs are too bad");
}

fn profile_names(count: usize) {
    let mut rng = rng();
    let mut accepted = 0;
    let good = ["1g.10gb", "1c.3g.40gb", "1g.24gb+me.all", "7g.141gb", "1g.24gb-me", "2c.7g.80gb+gfx"];
    for _ in 0..count {
        let text = input(&mut rng, &good);
        if let Ok(name) = text.parse::<ProfileName>() {
            accepted += 1;
            assert_eq!(name.to_string(), text);
            let _ = name.of_gpu_instance();
        }
    }
    assert!(accepted > count / 100, "only {accepted} of {count} were accepted: the inputs are too bad");
}

fn topologies(count: usize) {
    let mut rng = rng();
    let mut accepted = 0;
    let saved = serde_json::to_string(&smi::parse(SMI).unwrap()).unwrap();
    let real = include_str!("topologies/h200-mig-off-r580.json");
    for round in 0..count {
        // The real one is long; now and then is enough.
        let good = if round % 50 == 0 { real } else { &saved };
        let text = input(&mut rng, &[good]);
        if let Ok(topology) = Topology::from_json(&text) {
            accepted += 1;
            let json = serde_json::to_string(&topology).unwrap();
            assert_eq!(Topology::from_json(&json).unwrap(), topology, "{text}");
            let _ = topology.find("MIG-5a5a");
            let _ = topology.driver_major();
        }
        let _ = capture::parse(&text);
    }
    assert!(accepted > count / 100, "only {accepted} of {count} were accepted: the inputs are too bad");
}

fn variables(count: usize) {
    let mut rng = rng();
    let topology = smi::parse(SMI).unwrap();
    let good = [
        "0",
        "0,1",
        "GPU-5a5a0000-0000-4000-8000-00000000000a,MIG-5a5a0000",
        "MIG-GPU-5a5a0001-0000-4000-8000-00000000000a/2/0",
        "MIG-5a5a0000-0007-5000-8000-000000000000,1",
        "",
    ];
    let mut named = 0;
    for _ in 0..count {
        let value = input(&mut rng, &good);
        let scope = visible::resolve(&value, &topology);
        named += usize::from(!scope.instances.is_empty());
        let all = topology.instances();
        assert!(scope.instances.iter().all(|instance| all.contains(instance)), "{value}");
        for major in [None, Some(535), Some(580)] {
            let used = visible::used(Some(&value), &topology, major);
            assert_eq!(used.devices.len() + used.left_out.len(), scope.instances.len(), "{value}");
        }
        let _ = visible::tokens(&value, &topology);
        let _ = topology.find(&value);
    }
    assert!(named > count / 100, "only {named} of {count} named something: the inputs are too bad");
}

macro_rules! fuzz {
    ($($run:ident, $short:ident, $long:ident;)*) => {
        $(#[test]
        fn $short() {
            $run(SHORT);
        }

        #[test]
        #[ignore = "a million inputs: for release builds"]
        fn $long() {
            $run(LONG);
        })*
    };
}

fuzz! {
    smi_texts, any_text_of_nvidia_smi, a_million_texts_of_nvidia_smi;
    profile_names, any_profile_name, a_million_profile_names;
    topologies, any_topology, a_million_topologies;
    variables, any_cuda_visible_devices, a_million_cuda_visible_devices;
}
