//! Is the output right?
//!
//! The CPU's fp32 network on the first and the last sample of the batch, every element; and the
//! output after the window equal bit for bit to the one before it.

use super::cpu::Executor;
use super::model::{Network, Op};
use super::{Precision, Settings};

/// The largest relative L2 error that rounding explains.
///
/// In units of the format's largest relative rounding error u (2^-11 in fp16, 2^-8 in bf16), an H200
/// gave 0.7 u for `mlp` and 1.6 u to 2.5 u for the BERT encoders, at every depth: each normalisation
/// takes back what the layers before it added, while attention with scores of spread 2 adds more. The
/// bounds are twice that. In fp32, only the order of additions differs.
fn bound(network: &Network, precision: Precision) -> f64 {
    let attends = network.ops.iter().any(|op| matches!(op, Op::Attention { .. }));
    let units = if attends { 5.0 } else { 1.5 };
    match precision {
        Precision::Fp32 => 1e-5,
        Precision::Fp16 => units * 2f64.powi(-11),
        Precision::Bf16 => units * 2f64.powi(-8),
    }
}

/// The largest single error over the root mean square error of all elements. Rounding errors are
/// many and small: about normal, whose largest among a few thousand stays below 5. A single wrong
/// weight shows as one element far outside.
const OUTLIER: f64 = 8.0;

/// What the comparison found.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Relative L2 error of the worse of the two samples.
    pub error: f64,
    /// Why the output is wrong, if it is.
    pub failure: Option<String>,
}

/// Compares the outputs of a batch taken before and after the window with each other and with the
/// reference.
pub fn check(network: &Network, settings: &Settings, batch: usize, before: &[f32], after: &[f32]) -> Verdict {
    let columns = before.len() / batch;
    let reference = Executor::new(network.clone(), settings.seed, settings.precision);
    let mut verdict = Verdict { error: 0.0, failure: None };
    for sample in [0, batch - 1] {
        let truth = reference.sample(settings.seed, sample, settings.precision);
        let (error, failure) =
            compare(&before[sample * columns..][..columns], &truth, bound(network, settings.precision));
        verdict.error = if error > verdict.error || error.is_nan() { error } else { verdict.error };
        if let Some(failure) = failure {
            verdict.failure.get_or_insert(format!("sample {sample}: {failure}"));
        }
    }
    let differs = |(a, b): (&f32, &f32)| a.to_bits() != b.to_bits();
    if before.len() != after.len() || before.iter().zip(after).any(differs) {
        verdict.failure.get_or_insert("the output after the window is not the one before it".into());
    }
    verdict
}

/// Relative L2 error, and what is wrong with it.
fn compare(output: &[f32], truth: &[f32], bound: f64) -> (f64, Option<String>) {
    if let Some(index) = output.iter().position(|v| !v.is_finite()) {
        let text = format!("element {index} is {}: it was never written, or overflowed", output[index]);
        return (f64::NAN, Some(text));
    }
    let errors = || output.iter().zip(truth).map(|(&o, &t)| f64::from(o) - f64::from(t));
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
    let squared_error = square(&mut errors());
    let scale = square(&mut truth.iter().map(|&t| f64::from(t)));
    let relative = (squared_error / scale).sqrt();
    if relative.is_nan() || relative > bound {
        return (relative, Some(format!("relative L2 error {relative:.1e} exceeds {bound:.1e}")));
    }
    let (index, largest) =
        errors().map(f64::abs).enumerate().fold((0, 0.0), |m, e| if e.1 > m.1 { e } else { m });
    // Below a ten-thousandth of the bound the errors are single roundings, not a distribution.
    let typical = (squared_error / output.len() as f64).sqrt();
    let floor = bound * 1e-2 * (scale / output.len() as f64).sqrt();
    if largest > OUTLIER * typical.max(floor) {
        let text = format!(
            "element {index} is off by {largest:.1e}, {:.0} times the typical error",
            largest / typical
        );
        return (relative, Some(text));
    }
    (relative, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1,000 values of order 1, each with a relative error of about 1e-3.
    fn noisy() -> (Vec<f32>, Vec<f32>) {
        let truth: Vec<f32> = (0..1000).map(|i| ((i * 37 % 101) as f32 - 50.3) / 30.0).collect();
        let noise = |i: usize| 1e-3 * (((i * 7919) % 13) as f32 / 6.0 - 1.0);
        let output = truth.iter().enumerate().map(|(i, t)| t + noise(i)).collect();
        (output, truth)
    }

    #[test]
    fn rounding_passes() {
        let (output, truth) = noisy();
        let (error, failure) = compare(&output, &truth, 2e-3);
        assert!(failure.is_none() && (1e-4..1e-3).contains(&error), "{error:e} {failure:?}");
        assert_eq!(compare(&truth, &truth, 1e-9), (0.0, None));
    }

    #[test]
    fn nan_infinity_and_poison_never_pass() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let (mut output, truth) = noisy();
            output[999] = bad;
            let (error, failure) = compare(&output, &truth, 1e9);
            assert!(error.is_nan() && failure.unwrap().starts_with("element 999 is "));
        }
        let zeros = [0.0; 4];
        assert!(compare(&zeros, &zeros, 1.0).1.is_some(), "an output of zeros proves nothing");
    }

    #[test]
    fn too_much_noise_or_one_wrong_element_does_not() {
        let (output, truth) = noisy();
        assert!(compare(&output, &truth, 1e-4).1.unwrap().starts_with("relative L2 error"));
        let (mut output, truth) = noisy();
        output[7] += 0.02;
        let (error, failure) = compare(&output, &truth, 2e-3);
        assert!(error < 2e-3, "within the bound on the whole");
        assert!(failure.unwrap().starts_with("element 7 is off by "));
    }

    #[test]
    fn the_output_must_not_change_over_the_window() {
        let network = super::super::model::mlp();
        let settings = Settings {
            precision: Precision::Fp32,
            seed: 3,
            graph: false,
            transfers: false,
            sync: super::super::Sync::Spin,
            threads: 1,
            corruption: None,
        };
        let reference = Executor::new(network.clone(), 3, Precision::Fp32);
        let before = [0, 1].map(|sample| reference.sample(3, sample, Precision::Fp32)).concat();
        let mut after = before.clone();
        assert_eq!(check(&network, &settings, 2, &before, &after).failure, None);
        after[1500] = f32::from_bits(after[1500].to_bits() ^ 1);
        let failure = check(&network, &settings, 2, &before, &after).failure.unwrap();
        assert_eq!(failure, "the output after the window is not the one before it");
        after.pop();
        assert!(check(&network, &settings, 2, &before, &after).failure.is_some());
    }
}
