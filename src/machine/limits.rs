//! What a GPU and its instances can have and do at most, for judging numbers, fresh and saved.
//!
//! Sizes and speeds come from [`super::cards`]. What the table lacks bounds nothing.

use super::cards::{self, Card};
use super::profile::ProfileName;
use super::topology::Profile;

/// Clocks go beyond the one a data sheet counts with: H100 SXM up to 1980 MHz, 989 TFLOP/s being
/// counted at 1830.
const CLOCK_HEADROOM: f64 = 1.1;

/// Beyond a data sheet's bandwidth: memory clocks differ by board and are known to a few percent.
const BANDWIDTH_HEADROOM: f64 = 1.05;

/// How fast an instance is at most: by its multiprocessors, and by its share of the memory.
#[derive(Clone, Debug, Default)]
pub struct Ceiling {
    card: Option<&'static Card>,
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
        Ceiling { card: cards::named(gpu_name, None), share }
    }

    /// Which of the figures are impossible. What is not known of the GPU bounds nothing.
    pub fn beyond(&self, figures: &Figures) -> Vec<Beyond> {
        let Some((card, speed)) = self.card.and_then(|card| Some((card, card.speed?))) else {
            return Vec::new();
        };
        let mut beyond = Vec::new();
        if let (Some(found), Some(sms)) = (figures.tflops, figures.sm_count) {
            let peak = if figures.is_fp32 { speed.tflops_32 } else { speed.tflops_16 } * CLOCK_HEADROOM;
            let (most, reason) = match card.sm_count {
                Some(all) => (peak * sms / f64::from(all), format!("on {sms} of {all} SMs")),
                None => (peak, "on the whole GPU".to_owned()),
            };
            if found > most {
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
    /// Its memory in MiB lies between these. The label of a profile is what its driver made of the
    /// memory, and drivers differ (`1g.24gb` has 20.00 to 23.62 GiB, `7g.79gb` 79.00), hence wide;
    /// none where the label is 0 (a GPU that uses the host's memory).
    pub memory_mib: Option<(f64, f64)>,
}

/// None where the name is not one of a profile.
pub fn size(gpu_name: &str, profile: &str) -> Option<Size> {
    let name: ProfileName = profile.parse().ok()?;
    let (is_part, mib) = (name.ci_slices.is_some(), f64::from(name.memory_gb) * 1024.0);
    let card = cards::named(gpu_name, None);
    // Under a name that the table lacks, it is a driver that nobody has reported on.
    let meant = |card: &'static Card| cards::profile(&card.profiles, profile).filter(|meant| meant.same_name);
    let found = card.and_then(|card| Some((card, meant(card)?.profile)));
    Some(Size {
        sm_count: found.and_then(|(_, profile)| profile.sm_count),
        is_part,
        bandwidth_share: found.and_then(|(card, profile)| share(card, profile)),
        memory_mib: (mib > 0.0).then_some((mib * 0.75 - 512.0, mib * 1.05 + 512.0)),
    })
}

/// Multiprocessors of a whole GPU of this name.
pub fn whole_sms(gpu_name: &str) -> Option<u32> {
    cards::named(gpu_name, None)?.sm_count
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

    /// A name that only looks like another card's is not judged by that card.
    #[test]
    fn another_card_is_not_judged_by_this_one() {
        let sms = |gpu: &str, profile: &str| size(gpu, profile).unwrap().sm_count;
        assert_eq!(sms("NVIDIA H800 PCIe", "1g.10gb"), None);
        assert_eq!(sms("NVIDIA H800", "1g.10gb"), Some(16));
        assert_eq!(sms("NVIDIA H800 NVL", "1g.12gb"), Some(16));
        assert_eq!(sms("NVIDIA GB200", "1g.23gb"), Some(18));
        assert_eq!(sms("NVIDIA GB200", "1g.47gb"), Some(32));
        assert_eq!(sms("NVIDIA B200", "1g.47gb"), None, "a driver that nobody has reported on");
        assert_eq!(sms("NVIDIA GH200 480GB", "1g.18gb"), None, "an H200's");
        assert_eq!(sms("NVIDIA GH200 144G HBM3e", "1g.36gb"), Some(26));
        assert_eq!((whole_sms("NVIDIA H200"), whole_sms("NVIDIA H20")), (Some(132), None));
        assert_eq!(whole_sms("NVIDIA GB200"), None);
        let fast = Figures { tflops: Some(2000.0), sm_count: Some(152.0), ..Figures::default() };
        assert_eq!(Ceiling::of("NVIDIA GB200", None).beyond(&fast), [], "faster than a B200 may be");
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
    fn memory_that_a_driver_reported_is_possible() {
        let possible = |name: &str, mib: f64| {
            let (least, most) = size("", name).unwrap().memory_mib.unwrap();
            (least..=most).contains(&mib)
        };
        for profile in cards::cards().iter().flat_map(|card| &card.profiles) {
            if let (Some(name), Some(mib)) = (&profile.name, profile.memory_mib) {
                assert!(possible(name, mib as f64), "{name}: {mib} MiB");
            }
        }
        for (name, gib) in [
            ("7g.79gb", 79.0),
            ("7g.80gb", 78.75),
            ("1g.12gb", 10.75),
            ("2g.24gb", 21.62),
            ("1g.23gb", 20.5),
            ("1g.24gb", 20.0),
            ("1g.24gb", 23.12),
        ] {
            assert!(possible(name, gib * 1024.0), "{name}: {gib} GiB");
        }
        assert!(!possible("1g.10gb", 20.0 * 1024.0) && !possible("3g.40gb", 20.0 * 1024.0));
        assert_eq!(size("NVIDIA Thor", "1g.0gb").unwrap().memory_mib, None);
    }
}
