//! What a GPU and its instances can have and do at most: from data sheets and `nvidia-smi mig -lgip`.
//!
//! Facts for judging saved numbers, not for planning: a GPU that is missing here is judged less, and
//! never wrongly. Where boards of one name differ, the larger value stands.

/// What is known of a GPU model.
#[derive(Debug)]
pub struct Model {
    /// Words that must all be in the driver's name of it.
    name: &'static [&'static str],
    /// Its memory as the profile of the whole GPU is named; 0 where no 1g has double memory, or boards differ.
    whole_gib: u32,
    /// Multiprocessors of the whole GPU.
    pub sms: u32,
    /// Multiprocessors of its profiles by their slices: 1g, 1g with double memory, 2g, 3g, 4g, 7g; 0
    /// where it is unknown or there is no such profile.
    profiles: [u32; 6],
    /// DRAM bandwidth, 10^9 bytes/s (data sheet).
    pub gbytes_per_s: f64,
    /// Dense fp16 and bf16 tensor operations, 10^12/s at boost clock (data sheet).
    pub tflops_16: f64,
    /// The same for fp32 inputs, which tensor cores take as TF32.
    pub tflops_32: f64,
    /// L2 cache, MB.
    pub l2_mb: f64,
}

/// Clocks go beyond the one a data sheet counts with: H100 SXM up to 1980 MHz, 989 TFLOP/s being
/// counted at 1830.
pub const CLOCK_HEADROOM: f64 = 1.1;

#[rustfmt::skip]
const MODELS: &[Model] = &[
    Model { name: &["A30"], whole_gib: 0, sms: 56, profiles: [14, 0, 28, 0, 56, 0], gbytes_per_s: 933.0, tflops_16: 165.0, tflops_32: 82.0, l2_mb: 24.0 },
    Model { name: &["A100", "40"], whole_gib: 40, sms: 108, profiles: [14, 14, 28, 42, 56, 98], gbytes_per_s: 1555.0, tflops_16: 312.0, tflops_32: 156.0, l2_mb: 40.0 },
    Model { name: &["A100", "80"], whole_gib: 80, sms: 108, profiles: [14, 14, 28, 42, 56, 98], gbytes_per_s: 2039.0, tflops_16: 312.0, tflops_32: 156.0, l2_mb: 40.0 },
    Model { name: &["H100", "PCIe"], whole_gib: 80, sms: 114, profiles: [14, 14, 30, 46, 62, 114], gbytes_per_s: 2039.0, tflops_16: 756.0, tflops_32: 378.0, l2_mb: 50.0 },
    Model { name: &["H100", "NVL"], whole_gib: 94, sms: 132, profiles: [16, 26, 32, 60, 64, 132], gbytes_per_s: 3938.0, tflops_16: 989.0, tflops_32: 495.0, l2_mb: 50.0 },
    Model { name: &["H100", "HBM3"], whole_gib: 80, sms: 132, profiles: [16, 26, 32, 60, 64, 132], gbytes_per_s: 3352.0, tflops_16: 989.0, tflops_32: 495.0, l2_mb: 50.0 },
    Model { name: &["GH200"], whole_gib: 0, sms: 132, profiles: [16, 26, 32, 60, 64, 132], gbytes_per_s: 4900.0, tflops_16: 990.0, tflops_32: 495.0, l2_mb: 60.0 },
    Model { name: &["H200"], whole_gib: 141, sms: 132, profiles: [16, 26, 32, 60, 64, 132], gbytes_per_s: 4800.0, tflops_16: 989.0, tflops_32: 495.0, l2_mb: 60.0 },
    Model { name: &["GB200"], whole_gib: 186, sms: 152, profiles: [18, 32, 38, 0, 0, 0], gbytes_per_s: 8000.0, tflops_16: 2500.0, tflops_32: 1250.0, l2_mb: 130.0 },
    Model { name: &["B200"], whole_gib: 180, sms: 148, profiles: [18, 30, 36, 0, 0, 0], gbytes_per_s: 8000.0, tflops_16: 2250.0, tflops_32: 1125.0, l2_mb: 130.0 },
    Model { name: &["RTX PRO 6000"], whole_gib: 0, sms: 188, profiles: [46, 0, 94, 0, 188, 0], gbytes_per_s: 1792.0, tflops_16: 504.0, tflops_32: 252.0, l2_mb: 128.0 },
];

/// The facts about a GPU of this name, where there are any.
pub fn model(gpu_name: &str) -> Option<&'static Model> {
    let is = |model: &&Model| model.name.iter().all(|word| has_word(gpu_name, word));
    MODELS.iter().find(is)
}

/// `word` begins a word of `name`: H200 is not in GH200, nor B200 in GB200.
fn has_word(name: &str, word: &str) -> bool {
    name.match_indices(word).any(|(at, _)| {
        let before = name[..at].chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric())
    })
}

/// A MIG profile by its name: `1c.3g.40gb+me`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Slices of the compute instance, where it is a part of its GPU instance.
    pub compute_slices: Option<u32>,
    /// Slices of the GPU instance.
    pub slices: u32,
    /// Memory as the name has it.
    pub gib: u32,
}

impl Profile {
    /// None where the name is not one of a profile.
    pub fn parse(name: &str) -> Option<Profile> {
        let name = name.trim();
        let (compute_slices, rest) = match name.split_once("c.") {
            Some((count, rest)) => (Some(count.parse().ok()?), rest),
            None => (None, name),
        };
        let (slices, rest) = rest.split_once("g.")?;
        let (gib, suffix) = rest.split_once("gb")?;
        let known = suffix.is_empty() || suffix.starts_with(['+', '-']);
        let profile = Profile { compute_slices, slices: slices.parse().ok()?, gib: gib.parse().ok()? };
        (known && (1..=7).contains(&profile.slices)).then_some(profile)
    }

    /// Its memory in MiB lies between these: names are rounded up from what is left after reserves
    /// (`1g.12gb` has 10.62 GiB, `7g.79gb` 79.00), by at most 12 % and half a GiB.
    pub fn memory_mib(&self) -> (f64, f64) {
        let named = f64::from(self.gib) * 1024.0;
        (named * 0.88 - 512.0, named * 1.01)
    }
}

impl Model {
    /// Multiprocessors of a profile of this GPU, where that is known; of a part of a GPU instance
    /// the instance's, which it can't exceed.
    pub fn profile_sms(&self, profile: &Profile) -> Option<u32> {
        let column = match profile.slices {
            1 if self.memory_slices(profile)? > 1 => 1,
            1 => 0,
            2 => 2,
            3 => 3,
            4 => 4,
            7 => 5,
            _ => return None,
        };
        Some(self.profiles[column]).filter(|&sms| sms > 0)
    }

    /// Eighths of the memory, and so of its bandwidth, that a profile has: a 1g with double memory
    /// and a 2g two, a 3g and a 4g four. A30 and RTX PRO cut it in four.
    pub fn bandwidth_share(&self, profile: &Profile) -> Option<f64> {
        let quarters = self.profiles[5] == 0 && self.profiles[4] == self.sms;
        let slices = if quarters { 2 * profile.slices } else { self.memory_slices(profile)? };
        Some(f64::from(slices) / 8.0)
    }

    fn memory_slices(&self, profile: &Profile) -> Option<u32> {
        match profile.slices {
            // Twice the memory of the plain 1g is more than a sixth of the whole.
            1 if self.whole_gib > 0 => Some(if profile.gib * 6 > self.whole_gib { 2 } else { 1 }),
            1 if self.profiles[1] == 0 => Some(1),
            2 => Some(2),
            3 | 4 => Some(4),
            7 => Some(8),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_by_name() {
        let plain = Profile { compute_slices: None, slices: 3, gib: 40 };
        assert_eq!(Profile::parse("3g.40gb"), Some(plain));
        assert_eq!(Profile::parse("1c.3g.40gb"), Some(Profile { compute_slices: Some(1), ..plain }));
        assert_eq!(Profile::parse("1g.24gb+me.all").map(|p| p.gib), Some(24));
        for name in ["", "3g", "g.gb", "3g.40gbx", "9g.40gb", "2 cores", "xc.3g.40gb"] {
            assert_eq!(Profile::parse(name), None, "{name}");
        }
    }

    #[test]
    fn what_nvidia_smi_prints() {
        let sms =
            |gpu: &str, profile: &str| model(gpu).unwrap().profile_sms(&Profile::parse(profile).unwrap());
        for (gpu, profile, expected) in [
            ("NVIDIA H200", "1g.18gb", 16),
            ("NVIDIA H200", "1g.35gb", 26),
            ("NVIDIA H200", "1g.18gb+me", 16),
            ("NVIDIA H200", "3g.71gb", 60),
            ("NVIDIA H200", "7g.141gb", 132),
            ("NVIDIA H100 80GB HBM3", "1g.20gb", 26),
            ("NVIDIA H100 80GB HBM3", "1g.10gb", 16),
            ("NVIDIA H100 PCIe", "2g.20gb", 30),
            ("NVIDIA H100 NVL", "1g.24gb", 26),
            ("NVIDIA A100-SXM4-40GB", "1g.10gb", 14),
            ("NVIDIA A100-SXM4-80GB", "3g.40gb", 42),
            ("NVIDIA A30", "2g.12gb", 28),
            ("NVIDIA B200", "1g.45gb", 30),
            ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "1g.24gb", 46),
        ] {
            assert_eq!(sms(gpu, profile), Some(expected), "{gpu} {profile}");
        }
        assert_eq!(sms("NVIDIA B200", "3g.90gb"), None);
        assert_eq!(sms("NVIDIA GH200 480GB", "1g.12gb"), None);
        assert_eq!(sms("NVIDIA GH200 480GB", "3g.48gb"), Some(60));
        assert!(model("Graphics Device").is_none() && model("NVIDIA H20").is_none());
    }

    #[test]
    fn bandwidth_follows_memory_slices() {
        let share = |gpu: &str, profile: &str| {
            model(gpu).unwrap().bandwidth_share(&Profile::parse(profile).unwrap()).unwrap()
        };
        for (gpu, profile, eighths) in [
            ("NVIDIA H200", "1g.18gb", 1.0),
            ("NVIDIA H200", "1g.35gb", 2.0),
            ("NVIDIA H200", "2g.35gb", 2.0),
            ("NVIDIA H200", "3g.71gb", 4.0),
            ("NVIDIA H200", "4g.71gb", 4.0),
            ("NVIDIA H200", "7g.141gb", 8.0),
            ("NVIDIA A30", "1g.6gb", 2.0),
            ("NVIDIA A30", "4g.24gb", 8.0),
            ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "2g.48gb", 4.0),
        ] {
            assert_eq!(share(gpu, profile), eighths / 8.0, "{gpu} {profile}");
        }
    }

    #[test]
    fn memory_of_real_instances_is_possible() {
        for (name, gib) in [
            ("1g.5gb", 4.75),
            ("1g.6gb", 5.81),
            ("1g.10gb", 9.5),
            ("1g.12gb", 10.62),
            ("1g.18gb", 16.0),
            ("1g.23gb", 20.5),
            ("2g.12gb", 11.69),
            ("3g.71gb", 69.5),
            ("7g.79gb", 79.0),
            ("7g.141gb", 139.75),
            ("4g.96gb", 95.0),
        ] {
            let (least, most) = Profile::parse(name).unwrap().memory_mib();
            assert!((least..=most).contains(&(gib * 1024.0)), "{name}");
        }
    }
}
