//! Random weights and inputs as a pure function of (seed, tensor, index).
//!
//! A counter hash instead of a generator with state: every device computes the element it needs in
//! place, in any order, and all devices get the same bits. `kernels/fill.cu` is the other
//! implementation and must stay equal to this one, rounding included.

use crate::workload::Precision;

/// The tensor number of the network's input; weights are numbered from 0.
pub const INPUT_TENSOR: u32 = u32::MAX;

/// What the values of a weight are drawn from: uniform, `mean` ± `std`·√3.
///
/// The first `wide_columns` columns of each row use `wide_std` instead of `std` (a packed
/// query-key-value weight needs two widths).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Init {
    /// Mean of the distribution.
    pub mean: f32,
    /// Standard deviation.
    pub std: f32,
    /// How many leading columns of each row use `wide_std`.
    pub wide_columns: usize,
    /// Standard deviation of the leading columns.
    pub wide_std: f32,
}

impl Init {
    /// Zero mean.
    pub fn spread(std: f32) -> Init {
        Init::around(0.0, std)
    }

    /// A mean of its own (scales of a normalisation sit around 1).
    pub fn around(mean: f32, std: f32) -> Init {
        Init { mean, std, wide_columns: 0, wide_std: std }
    }

    /// Another spread in the first `columns` columns.
    pub fn with_wide_columns(self, columns: usize, std: f32) -> Init {
        Init { wide_columns: columns, wide_std: std, ..self }
    }
}

/// The state from which all elements of one tensor are hashed.
pub fn tensor_key(seed: u64, tensor: u32) -> u64 {
    mix(mix(seed).wrapping_add(u64::from(tensor)))
}

/// 64 random bits for one element: SplitMix64 evaluated at position `index`
/// (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014).
pub fn bits(key: u64, index: u64) -> u64 {
    mix(key.wrapping_add(index.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
}

fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The factor that turns the odd 25-bit integer of [`uniform`] into a spread of `std`.
///
/// A uniform variable on (-a, a) has standard deviation a/√3.
pub fn scale_of(std: f32) -> f32 {
    (f64::from(std) * 3f64.sqrt() / f64::from(1 << 24)) as f32
}

/// One value: an odd integer in (-2^24, 2^24), exact in f32, times `scale`, plus `mean`.
///
/// Two separately rounded operations, never a fused one, so that every device agrees. Symmetric
/// around the mean and never zero when the mean is.
pub fn uniform(bits: u64, mean: f32, scale: f32) -> f32 {
    let k = (bits >> 40) as i32;
    let odd = (2 * k + 1 - (1 << 24)) as f32;
    odd * scale + mean
}

/// A token id in `0..vocabulary`.
pub fn token(bits: u64, vocabulary: u32) -> u32 {
    (((bits >> 32) * u64::from(vocabulary)) >> 32) as u32
}

/// Fills `out` with the elements `first..` of a weight whose rows have `columns` elements, rounded
/// to `precision` as the device stores it.
pub fn fill(out: &mut [f32], key: u64, first: u64, columns: usize, init: Init, precision: Precision) {
    let (scale, wide) = (scale_of(init.std), scale_of(init.wide_std));
    let mut column = (first % columns as u64) as usize;
    for (i, value) in out.iter_mut().enumerate() {
        let scale = if column < init.wide_columns { wide } else { scale };
        *value = precision.round(uniform(bits(key, first + i as u64), init.mean, scale));
        column += 1;
        if column == columns {
            column = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_pinned() {
        // The device's kernel is checked against these; changing them changes every workload.
        let key = tensor_key(1, 0);
        assert_eq!(bits(key, 0), bits(tensor_key(1, 0), 0));
        assert_ne!(bits(key, 0), bits(key, 1));
        assert_ne!(tensor_key(1, 0), tensor_key(1, 1));
        assert_ne!(tensor_key(1, 0), tensor_key(2, 0));
    }

    #[test]
    fn moments_are_as_asked() {
        let mut values = vec![0.0; 200_000];
        let init = Init::around(1.0, 0.5).with_wide_columns(1, 2.0);
        fill(&mut values, tensor_key(7, 3), 0, 2, init, Precision::Fp32);
        let std = |column: usize| {
            let v: Vec<f64> = values.iter().skip(column).step_by(2).map(|&x| f64::from(x)).collect();
            let mean = v.iter().sum::<f64>() / v.len() as f64;
            (mean, (v.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / v.len() as f64).sqrt())
        };
        let ((mean_wide, std_wide), (mean, std)) = (std(0), std(1));
        assert!((mean_wide - 1.0).abs() < 0.03 && (std_wide - 2.0).abs() < 0.03);
        assert!((mean - 1.0).abs() < 0.01 && (std - 0.5).abs() < 0.01);
    }

    #[test]
    fn no_value_is_zero_and_none_leaves_the_interval() {
        let scale = scale_of(1.0);
        for b in [0, u64::MAX, 1 << 63, (1 << 63) - 1] {
            let v = uniform(b, 0.0, scale);
            assert!(v != 0.0 && v.abs() <= 3f32.sqrt());
        }
        assert!(token(u64::MAX, 30522) == 30521 && token(0, 30522) == 0);
    }

    #[test]
    fn a_part_equals_the_whole() {
        let key = tensor_key(3, 1);
        let init = Init::spread(1.0).with_wide_columns(3, 4.0);
        let mut whole = vec![0.0; 35];
        fill(&mut whole, key, 0, 7, init, Precision::Bf16);
        let mut part = vec![0.0; 11];
        fill(&mut part, key, 17, 7, init, Precision::Bf16);
        assert_eq!(part, whole[17..28]);
    }
}
