//! What a GPU and its instances can have and do at most, for judging saved numbers.
//!
//! Sizes come from [`super::profile::cards`], speeds from data sheets. A GPU that is missing is judged
//! less, and never wrongly; where boards of one name differ, the larger value stands.

use super::profile::{Card, ProfileName, cards};
use super::topology::Profile;

/// What the chip does at most.
#[derive(Debug)]
pub struct Speed {
    name: &'static str,
    /// Multiprocessors that these are for.
    pub sm_count: f64,
    /// DRAM bandwidth, 10^9 bytes/s.
    pub gbytes_per_s: f64,
    /// Dense fp16 and bf16 tensor operations, 10^12/s at boost clock.
    pub tflops_16: f64,
    /// The same for fp32 inputs, which tensor cores take as TF32.
    pub tflops_32: f64,
    /// L2 cache, MB.
    pub l2_mb: f64,
}

/// Clocks go beyond the one a data sheet counts with: H100 SXM up to 1980 MHz, 989 TFLOP/s being
/// counted at 1830.
pub const CLOCK_HEADROOM: f64 = 1.1;

/// NVIDIA's data sheets; the first that fits counts.
#[rustfmt::skip]
const SPEEDS: &[Speed] = &[
    Speed { name: "A30", sm_count: 56.0, gbytes_per_s: 933.0, tflops_16: 165.0, tflops_32: 82.0, l2_mb: 24.0 },
    Speed { name: "A100-SXM4-40GB", sm_count: 108.0, gbytes_per_s: 1555.0, tflops_16: 312.0, tflops_32: 156.0, l2_mb: 40.0 },
    Speed { name: "A100", sm_count: 108.0, gbytes_per_s: 2039.0, tflops_16: 312.0, tflops_32: 156.0, l2_mb: 40.0 },
    Speed { name: "H100 PCIe", sm_count: 114.0, gbytes_per_s: 2039.0, tflops_16: 756.0, tflops_32: 378.0, l2_mb: 50.0 },
    Speed { name: "H100 NVL", sm_count: 132.0, gbytes_per_s: 3938.0, tflops_16: 989.0, tflops_32: 495.0, l2_mb: 50.0 },
    Speed { name: "H100", sm_count: 132.0, gbytes_per_s: 3352.0, tflops_16: 989.0, tflops_32: 495.0, l2_mb: 50.0 },
    Speed { name: "GH200", sm_count: 132.0, gbytes_per_s: 4900.0, tflops_16: 990.0, tflops_32: 495.0, l2_mb: 60.0 },
    Speed { name: "H200", sm_count: 132.0, gbytes_per_s: 4800.0, tflops_16: 989.0, tflops_32: 495.0, l2_mb: 60.0 },
    Speed { name: "GB200", sm_count: 152.0, gbytes_per_s: 8000.0, tflops_16: 2500.0, tflops_32: 1250.0, l2_mb: 130.0 },
    Speed { name: "B200", sm_count: 148.0, gbytes_per_s: 8000.0, tflops_16: 2250.0, tflops_32: 1125.0, l2_mb: 130.0 },
];

/// How fast a GPU of this name is at most, where that is known.
pub fn speed(gpu_name: &str) -> Option<&'static Speed> {
    SPEEDS.iter().find(|speed| has_word(gpu_name, speed.name))
}

/// `word` begins a word of `name`: H200 is not in GH200, nor B200 in GB200.
fn has_word(name: &str, word: &str) -> bool {
    name.match_indices(word).any(|(at, _)| {
        let before = name[..at].chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric())
    })
}

/// What is known of a MIG profile on a GPU of this name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Size {
    /// Multiprocessors of its GPU instance.
    pub sm_count: Option<u32>,
    /// The name is that of a part of a GPU instance, which has at most these multiprocessors.
    pub is_part: bool,
    /// Its part of the memory and so of its bandwidth: memory slices over those of the whole.
    pub bandwidth_share: Option<f64>,
    /// Its memory in MiB lies between these: names are rounded up from what is left after reserves
    /// (`1g.12gb` has 10.62 GiB, `7g.79gb` 79.00), by at most 12 % and half a GiB.
    pub memory_mib: (f64, f64),
}

/// None where the name is not one of a profile.
pub fn size(gpu_name: &str, profile: &str) -> Option<Size> {
    let name: ProfileName = profile.parse().ok()?;
    let (is_part, gb) = (name.ci_slices.is_some(), f64::from(name.memory_gb) * 1024.0);
    let wanted = name.of_gpu_instance().to_string();
    let found = cards_of(gpu_name).find_map(|card| {
        let profile = card.profiles.iter().find(|profile| profile.name.as_ref() == Some(&wanted))?;
        Some((profile.sm_count, share(card, profile)))
    });
    let (sm_count, bandwidth_share) = found.unwrap_or_default();
    Some(Size { sm_count, is_part, bandwidth_share, memory_mib: (gb * 0.88 - 512.0, gb * 1.01) })
}

/// Multiprocessors of a whole GPU of this name; of several boards' the most.
pub fn whole_sms(gpu_name: &str) -> Option<u32> {
    cards_of(gpu_name).filter_map(|card| card.sm_count).max()
}

fn cards_of(gpu_name: &str) -> impl Iterator<Item = &'static Card> {
    cards().iter().filter(move |card| card.names.iter().any(|name| has_word(gpu_name, name)))
}

fn share(card: &Card, profile: &Profile) -> Option<f64> {
    let placed = |profile: &Profile| profile.placements.as_ref().map(|p| p.0.clone()).unwrap_or_default();
    let whole = card.profiles.iter().flat_map(placed).map(|place| place.start + place.size).max()?;
    Some(f64::from(placed(profile).first()?.size) / f64::from(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_profiles() {
        for (gpu, profile, sms, eighths) in [
            ("NVIDIA H200", "1g.18gb", 16, 1.0),
            ("NVIDIA H200", "1g.35gb", 26, 2.0),
            ("NVIDIA H200", "1g.18gb+me", 16, 1.0),
            ("NVIDIA H200", "2g.35gb", 32, 2.0),
            ("NVIDIA H200", "3g.71gb", 60, 4.0),
            ("NVIDIA H200", "4g.71gb", 64, 4.0),
            ("NVIDIA H200", "7g.141gb", 132, 8.0),
            ("NVIDIA H100 80GB HBM3", "1g.20gb", 26, 2.0),
            ("NVIDIA H100 PCIe", "2g.20gb", 30, 2.0),
            ("NVIDIA A100-SXM4-40GB", "1g.10gb", 14, 2.0),
            ("NVIDIA A100-SXM4-80GB", "3g.40gb", 42, 4.0),
            ("NVIDIA A30", "2g.12gb", 28, 4.0),
            ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "1g.24gb", 46, 2.0),
        ] {
            let size = size(gpu, profile).unwrap();
            assert_eq!(
                (size.sm_count, size.bandwidth_share),
                (Some(sms), Some(eighths / 8.0)),
                "{gpu} {profile}"
            );
        }
        let part = size("NVIDIA H200", "1c.3g.71gb").unwrap();
        assert_eq!((part.sm_count, part.is_part), (Some(60), true));
        assert_eq!(size("NVIDIA B200", "3g.90gb").unwrap().sm_count, None);
        assert_eq!(size("Graphics Device", "3g.71gb").unwrap().sm_count, None);
        assert_eq!(size("NVIDIA H200", "2 cores"), None);
    }

    #[test]
    fn names_that_hold_each_other_are_told_apart() {
        let name = |gpu: &str| speed(gpu).map(|speed| speed.name);
        assert_eq!(name("NVIDIA GH200 480GB"), Some("GH200"));
        assert_eq!(name("NVIDIA GB200"), Some("GB200"));
        assert_eq!(name("NVIDIA H100 80GB HBM3"), Some("H100"));
        assert_eq!(name("NVIDIA A100-SXM4-80GB"), Some("A100"));
        assert_eq!(name("NVIDIA H20"), None);
        assert_eq!((whole_sms("NVIDIA H200"), whole_sms("NVIDIA H20")), (Some(132), None));
        assert_eq!(size("NVIDIA GH200 480GB", "1g.18gb").unwrap().sm_count, None, "an H200's");
    }

    #[test]
    fn memory_of_real_instances_is_possible() {
        for card in cards() {
            for profile in &card.profiles {
                let (Some(name), Some(memory)) = (&profile.name, profile.memory_mib) else { continue };
                let (least, most) = size("", name).unwrap().memory_mib;
                assert!((least..=most).contains(&(memory as f64)), "{name}: {memory} MiB");
            }
        }
        let (least, most) = size("", "7g.79gb").unwrap().memory_mib;
        assert!((least..=most).contains(&(79.0 * 1024.0)));
    }
}
