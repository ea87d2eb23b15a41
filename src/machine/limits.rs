//! What a GPU and its instances can have and do at most, for judging numbers, fresh and saved.
//!
//! Sizes come from [`super::profile::cards`], speeds from data sheets. A GPU that is missing is judged
//! less, and never wrongly; where boards of one name differ, the larger value stands.

use super::profile::{Card, ProfileName, cards};
use super::topology::Profile;

/// What the chip does at most.
#[derive(Debug)]
struct Speed {
    name: &'static str,
    /// Multiprocessors that these are for.
    sm_count: f64,
    /// DRAM bandwidth, 10^9 bytes/s.
    gbytes_per_s: f64,
    /// Dense fp16 and bf16 tensor operations, 10^12/s at boost clock.
    tflops_16: f64,
    /// The same for fp32 inputs, which tensor cores take as TF32.
    tflops_32: f64,
    /// L2 cache, MB.
    l2_mb: f64,
}

/// Clocks go beyond the one a data sheet counts with: H100 SXM up to 1980 MHz, 989 TFLOP/s being
/// counted at 1830.
const CLOCK_HEADROOM: f64 = 1.1;

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
fn speed(gpu_name: &str) -> Option<&'static Speed> {
    SPEEDS.iter().find(|speed| has_word(gpu_name, speed.name))
}

/// `word` begins a word of `name`: H200 is not in GH200, nor B200 in GB200.
fn has_word(name: &str, word: &str) -> bool {
    name.match_indices(word).any(|(at, _)| {
        let before = name[..at].chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric())
    })
}

/// Beyond a data sheet's bandwidth: memory clocks differ by board and are known to a few percent.
const BANDWIDTH_HEADROOM: f64 = 1.05;

/// How fast an instance is at most: by its multiprocessors, and by its share of the memory.
#[derive(Clone, Debug, Default)]
pub struct Ceiling {
    speed: Option<&'static Speed>,
    /// Of the bandwidth and of the L2 cache.
    share: Option<f64>,
}

/// The figures of a row that the hardware bounds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// 10^12 operations a second.
    pub tflops: Option<f64>,
    /// 10^9 bytes a second that must cross memory.
    pub gbytes_per_s: Option<f64>,
    /// Of a batch, ms.
    pub latency_ms: Option<f64>,
    /// Of the instance.
    pub sm_count: Option<f64>,
    /// The numbers are fp32.
    pub is_fp32: bool,
}

/// A figure that can't be.
#[derive(Clone, Debug, PartialEq)]
pub struct Beyond {
    /// Its column.
    pub column: &'static str,
    /// What stands there.
    pub found: f64,
    /// What is possible.
    pub most: f64,
    /// Why no more.
    pub reason: String,
}

impl Ceiling {
    /// Of a profile on a GPU of this name, or of the whole GPU where there is no profile.
    pub fn of(gpu_name: &str, profile: Option<&str>) -> Ceiling {
        let share = match profile {
            Some(profile) => size(gpu_name, profile).and_then(|size| size.bandwidth_share),
            None => Some(1.0),
        };
        Ceiling { speed: speed(gpu_name), share }
    }

    /// Which of the figures are impossible. What is not known of the GPU bounds nothing.
    pub fn beyond(&self, figures: &Figures) -> Vec<Beyond> {
        let Some(speed) = self.speed else { return Vec::new() };
        let mut beyond = Vec::new();
        if let (Some(found), Some(sms)) = (figures.tflops, figures.sm_count) {
            let peak = if figures.is_fp32 { speed.tflops_32 } else { speed.tflops_16 };
            let most = peak * CLOCK_HEADROOM * sms / speed.sm_count;
            if found > most {
                let reason = format!("on {sms} of {} SMs", speed.sm_count);
                beyond.push(Beyond { column: "tflops", found, most, reason });
            }
        }
        let bytes = figures.gbytes_per_s.zip(figures.latency_ms);
        if let (Some(share), Some((found, latency))) = (self.share, bytes) {
            // What fits into the cache need not come from memory. GB/s x ms are MB.
            let cached = speed.l2_mb * share / (found * latency);
            let most = speed.gbytes_per_s * share * BANDWIDTH_HEADROOM / (1.0 - cached);
            if cached < 1.0 && found > most {
                let reason = format!("with {share} of the memory's bandwidth");
                beyond.push(Beyond { column: "gbytes_per_s", found, most, reason });
            }
        }
        beyond
    }
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
    fn an_instance_has_its_share_of_the_speed() {
        let beyond = |gpu, profile, figures: Figures| {
            let found = Ceiling::of(gpu, profile).beyond(&figures);
            found.into_iter().map(|b| (b.column, b.most.round(), b.reason)).collect::<Vec<_>>()
        };
        let tensor = |tflops| Figures { tflops: Some(tflops), sm_count: Some(16.0), ..Figures::default() };
        assert_eq!(beyond("NVIDIA H200", Some("1g.18gb"), tensor(131.0)), []);
        let expected = ("tflops", 132.0, "on 16 of 132 SMs".to_owned());
        assert_eq!(beyond("NVIDIA H200", Some("1g.18gb"), tensor(133.0)), [expected]);
        let fp32 = Figures { is_fp32: true, ..tensor(67.0) };
        assert_eq!(beyond("NVIDIA H200", Some("1g.18gb"), fp32).len(), 1);
        // 400 MB in 0.1 ms and in 0.08 ms; 4800 GB/s, 60 MB of them from the cache.
        let memory =
            |rate, ms| Figures { gbytes_per_s: Some(rate), latency_ms: Some(ms), ..Figures::default() };
        assert_eq!(beyond("NVIDIA H200", None, memory(4000.0, 0.1)), []);
        let expected = ("gbytes_per_s", 5929.0, "with 1 of the memory's bandwidth".to_owned());
        assert_eq!(beyond("NVIDIA H200", None, memory(6000.0, 400.0 / 6000.0)), [expected]);
        assert_eq!(beyond("NVIDIA H200", Some("1g.18gb"), memory(4000.0, 0.1)).len(), 1);
        // A network of 50 MB stays in the cache of the whole.
        assert_eq!(beyond("NVIDIA H200", None, memory(50_000.0, 0.001)), []);
        assert_eq!(beyond("Graphics Device", None, tensor(1e9)), []);
        assert_eq!(beyond("NVIDIA H200", Some("9g.1tb"), memory(1e9, 1.0)), [], "an unknown share");
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
