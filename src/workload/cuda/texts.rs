//! The embedded kernels as text: two sets, found by name, deflated in the program.

use flate2::read::ZlibDecoder;
use std::io::Read;

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// The oldest compute capability that the texts are for.
pub(super) const CAPABILITY: (i32, i32) = (8, 0);

/// Which of the texts a device is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Set {
    /// `sm_80`: every GPU that is supported.
    Portable,
    /// `sm_90a`: compute capability 9.0 and nothing else. What has no text of its own there is taken
    /// from the portable set.
    Hopper,
}

impl Set {
    /// All of them.
    pub(super) const ALL: [Set; 2] = [Set::Portable, Set::Hopper];

    /// The set for a device: Hopper's needs the device, and a driver of CUDA 12.1 or newer for its
    /// instructions and for describing matrices to the copy engine.
    pub(super) fn of(capability: (i32, i32), cuda_version: i32, newer: bool) -> Set {
        if capability == (9, 0) && cuda_version >= 12_010 && newer { Set::Hopper } else { Set::Portable }
    }

    fn folder(self) -> &'static str {
        match self {
            Set::Portable => "sm_80",
            Set::Hopper => "sm_90a",
        }
    }

    /// The set and the first 48 bits of the SHA-256 of the texts that it draws on, as
    /// `sm_80:1a2b3c4d5e6f`.
    pub(super) fn name(self) -> String {
        let hash = match self {
            Set::Portable => HASHES[0],
            Set::Hopper => HASHES[1],
        };
        format!("{}:{hash}", self.folder())
    }

    /// The text of a file, NUL-terminated for the driver, and whether it is Hopper's own.
    pub(super) fn text(self, file: &str) -> Option<(String, bool)> {
        let find = |set: Set| {
            let name = format!("{}/{file}", set.folder());
            TEXTS.binary_search_by(|(n, _)| (*n).cmp(&name)).ok().map(|i| inflate(TEXTS[i].1))
        };
        match self {
            Set::Portable => find(Set::Portable).map(|text| (text, false)),
            Set::Hopper => match find(Set::Hopper) {
                Some(text) => Some((text, true)),
                None => find(Set::Portable).map(|text| (text, false)),
            },
        }
    }
}

/// A text as `build.rs` deflated it.
fn inflate(bytes: &[u8]) -> String {
    let mut text = String::new();
    ZlibDecoder::new(bytes).read_to_string(&mut text).expect("what build.rs deflated inflates");
    text.push('\0');
    text
}

#[cfg(test)]
mod tests {
    use super::super::tiles::{Design, convolutions, tiles};
    use super::*;
    use sha2::{Digest, Sha256};

    #[test]
    fn texts_are_for_every_driver_and_gpu_that_is_supported() {
        for (name, bytes) in TEXTS {
            let text = inflate(bytes);
            let (version, target) = match name.split_once('/') {
                Some(("sm_80", _)) => (".version 7.0", ".target sm_80"),
                Some(("sm_90a", _)) => (".version 8.1", ".target sm_90a"),
                _ => panic!("{name}"),
            };
            let mut lines = text.lines();
            assert_eq!(lines.next(), Some(version), "{name}");
            assert_eq!(lines.next(), Some(target), "{name}");
            assert!(text.ends_with("}\n\0") || text.ends_with("\n\0"), "{name}: NUL-terminated");
            assert_eq!(text.matches('\0').count(), 1, "{name}");
        }
        assert!(TEXTS.is_sorted_by_key(|(name, _)| *name), "found by binary search");
    }

    #[test]
    fn every_kernel_is_there() {
        for set in Set::ALL {
            let expect = |file: &str, name: &str| {
                let (text, _) = set.text(file).unwrap_or_else(|| panic!("{set:?}: {file}"));
                assert!(text.contains(&format!(".entry {name}(")), "{set:?}, {file}: {name}");
            };
            for suffix in ["f16", "bf16"] {
                expect("null", "null");
                expect(&format!("fill_{suffix}"), "fill_tokens");
                expect(&format!("fill_{suffix}"), &format!("fill_{suffix}"));
                expect(&format!("attention_{suffix}"), &format!("attention_{suffix}"));
                if set == Set::Hopper {
                    expect(&format!("flash_{suffix}"), &format!("flash_{suffix}"));
                    let skinny = ["64x8", "64x16", "64x32", "32x8", "32x16", "32x32"];
                    let skinny = skinny.map(|tile| format!("skinny_{tile}_{suffix}"));
                    let whole = ["8", "16", "32"].map(|rows| format!("whole_{rows}_{suffix}"));
                    skinny.iter().chain(&whole).for_each(|name| expect(name, name));
                }
                expect(&format!("embed_{suffix}"), &format!("embed_{suffix}"));
                expect(&format!("norm_{suffix}"), &format!("add_norm_{suffix}"));
                for tile in tiles(set) {
                    let name = format!("linear_{}_{suffix}", tile.name);
                    expect(&name, &name);
                }
                for tile in convolutions() {
                    let name = format!("conv_{}_{suffix}", tile.name);
                    expect(&name, &name);
                }
                for (file, kernels) in [
                    ("thin", &["thin_16", "thin_32"][..]),
                    ("decode", &["decode_64", "decode_128"]),
                    ("causal", &["causal_64", "causal_128"]),
                    ("decoder", &["lookup", "rms_norm", "rotate", "argmax"]),
                    ("image", &["pad", "max_pool", "mean"]),
                ] {
                    for kernel in kernels {
                        expect(&format!("{file}_{suffix}"), &format!("{kernel}_{suffix}"));
                    }
                }
            }
            expect("copy", "copy");
            for kernel in ["linear32_128x128", "linear32_64x64", "linear32_16x64", "attention32"] {
                expect("plain", kernel);
            }
            for (file, kernel) in [("fill", "fill"), ("embed", "embed"), ("norm", "add_norm")] {
                expect(&format!("{file}_f32"), &format!("{kernel}_f32"));
            }
        }
    }

    /// Such a kernel may be launched while the one before it runs.
    #[test]
    fn every_kernel_of_the_hopper_set_waits_for_the_one_before_it() {
        for (name, bytes) in TEXTS.iter().filter(|(name, _)| name.starts_with("sm_90a/")) {
            let text = inflate(bytes);
            let mut entries = 0;
            for entry in text.split(".entry ").skip(1) {
                entries += 1;
                assert!(entry.contains("griddepcontrol.wait"), "{name}: {:.40}", entry);
            }
            assert!(entries > 0, "{name}");
        }
        for tile in tiles(Set::Hopper) {
            let (text, own) = Set::Hopper.text(&format!("linear_{}_f16", tile.name)).unwrap();
            assert!(own, "{}", tile.name);
            assert_eq!(text.contains("wgmma.mma_async"), tile.design != Design::Mma, "{}", tile.name);
        }
    }

    #[test]
    fn the_name_is_the_target_and_a_hash() {
        let names = Set::ALL.map(Set::name);
        for (name, target) in names.iter().zip(["sm_80", "sm_90a"]) {
            let (set, hash) = name.split_once(':').unwrap();
            assert_eq!(set, target);
            assert!(hash.len() == 12 && hash.bytes().all(|b| b.is_ascii_hexdigit()), "{name}");
        }
    }

    #[test]
    fn hoppers_set_is_for_hopper_alone() {
        assert_eq!(Set::of((9, 0), 12_010, true), Set::Hopper);
        for (capability, version, newer) in
            [((8, 0), 13_000, true), ((10, 0), 13_000, true), ((9, 0), 12_000, true), ((9, 0), 12_010, false)]
        {
            assert_eq!(Set::of(capability, version, newer), Set::Portable);
        }
    }

    /// What build.rs hashes is what a device is given.
    #[test]
    fn the_hash_is_that_of_the_texts() {
        for set in Set::ALL {
            let mut hash = Sha256::new();
            for (name, bytes) in TEXTS {
                if name.starts_with("sm_80/") || name.starts_with(set.folder()) {
                    hash.update(name);
                    hash.update(inflate(bytes));
                }
            }
            let hex: String = hash.finalize()[..6].iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(set.name(), format!("{}:{hex}", set.folder()));
        }
    }
}
