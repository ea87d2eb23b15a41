//! Is the output right?
//!
//! The CPU's fp32 network on the first and the last sample of the batch, every element; and the
//! output after the window equal bit for bit to the one before it.

use super::cpu::Executor;
use super::model::Network;
use super::{Precision, Settings};

/// The largest relative L2 error that rounding explains, measured on real hardware with a factor of
/// about three to spare: half a unit in the last place is 2^-11 in fp16 and 2^-8 in bf16, and every
/// layer adds its own; in fp32 only the order of additions differs.
fn bound(precision: Precision) -> f64 {
    match precision {
        Precision::Fp32 => 1e-5,
        Precision::Fp16 => 1e-2,
        Precision::Bf16 => 6e-2,
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
        let (error, failure) = compare(&before[sample * columns..][..columns], &truth, settings.precision);
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
fn compare(output: &[f32], truth: &[f32], precision: Precision) -> (f64, Option<String>) {
    if let Some(index) = output.iter().position(|v| !v.is_finite()) {
        let text = format!("element {index} is {}: it was never written, or overflowed", output[index]);
        return (f64::NAN, Some(text));
    }
    let errors = || output.iter().zip(truth).map(|(&o, &t)| f64::from(o) - f64::from(t));
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
    let squared_error = square(&mut errors());
    let scale = square(&mut truth.iter().map(|&t| f64::from(t)));
    let relative = (squared_error / scale).sqrt();
    let bound = bound(precision);
    if relative.is_nan() || relative > bound {
        return (
            relative,
            Some(format!("relative L2 error {relative:.1e} exceeds {bound:.0e} for {precision}")),
        );
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
