//! Is the output right?
//!
//! Three questions, when nobody measures any more:
//! 1. Is each operation right? The batch is run once more, operation by operation, and what each
//!    leaves for the first and the last sample is compared, every element, with the CPU's fp32
//!    operation on the device's own inputs. Only one rounding separates the two, so that a single
//!    wrong weight anywhere in the network shows.
//! 2. Was that what ran in the window? The output of this run equals, bit for bit, the output before
//!    the window and the one after it.
//! 3. How far is the whole from the truth? Relative L2 error of the output against the network in
//!    fp32: the row's `output_error`.

use super::cpu::Executor;
use super::model::{Network, Op};
use super::{Precision, Settings, Workload};
use anyhow::Result;

/// What the comparison found.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Relative L2 error of the worse of the two samples; NaN if it has none.
    pub error: f64,
    /// Why the output is wrong, if it is.
    pub failure: Option<String>,
}

/// The largest relative rounding error of the format, u: half a unit in the last place.
fn unit(precision: Precision) -> f64 {
    match precision {
        // Operations keep fp32 between them: what differs is the order of a few thousand additions.
        Precision::Fp32 => 2f64.powi(-24) * 64.0,
        Precision::Fp16 => 2f64.powi(-11),
        Precision::Bf16 => 2f64.powi(-8),
    }
}

/// The largest relative L2 error of one operation, in u: its result is rounded once (0.4 u on
/// average), and attention rounds its weights before the second product.
const OPERATION_L2: f64 = 1.5;
/// The largest error of one element, in u, relative to the larger of the element and the root mean
/// square of the result.
const OPERATION_ELEMENT: f64 = 4.0;
/// The largest relative L2 error of a whole network, in u. On an H200, `mlp` gave 0.7 and the BERT
/// encoders 1.3 to 2.5, 4.1 with a single token: each normalisation takes back what the layers before
/// it added, at every depth, while attention with scores of spread 2 adds more.
const NETWORK_L2: f64 = 8.0;

/// Checks a batch of `workload`, whose outputs before and after the window are given.
///
/// # Errors
/// The device failed while it ran the batch once more.
pub fn check(
    workload: &mut dyn Workload,
    network: &Network,
    settings: &Settings,
    batch: usize,
    before: &[f32],
    after: &[f32],
) -> Result<Verdict> {
    let (seed, precision) = (settings.seed, settings.precision);
    let samples = if batch == 1 { vec![0] } else { vec![0, batch - 1] };
    let mut failures = Vec::new();
    if !equal_bits(before, after) {
        failures.push("the output after the window is not the one before it".to_owned());
    }

    let reference = Executor::new(network.clone(), seed, precision);
    let mut followed: Vec<_> =
        samples.iter().map(|&s| (s, reference.loaded(seed, s, 1, precision))).collect();
    let columns = before.len() / batch;
    workload.trace(batch, &samples, &mut |index, sample, values| {
        let Some((_, buffers)) = followed.iter_mut().find(|(s, _)| *s == sample) else { return };
        let op = &network.ops[index];
        reference.run(op, buffers, 1);
        let expected = &mut buffers.values[op.out().0];
        if let Some(wrong) = operation_failure(values, expected, unit(precision)) {
            failures.push(format!("operation {index} ({}), sample {sample}: {wrong}", name(op, network)));
        }
        // The next operation starts from what the device has, not from what it should have.
        expected.copy_from_slice(values);
        if index + 1 == network.ops.len() && !equal_bits(values, &before[sample * columns..][..columns]) {
            failures.push(format!("sample {sample}: operation by operation it gives another output"));
        }
    })?;

    let mut error = 0.0;
    for &sample in &samples {
        let truth = reference.sample(seed, sample, precision);
        let sample_error = relative_l2(&before[sample * columns..][..columns], &truth);
        error = if sample_error > error || sample_error.is_nan() { sample_error } else { error };
        let bound = NETWORK_L2 * unit(precision);
        if sample_error > bound || sample_error.is_nan() {
            failures
                .push(format!("sample {sample}: relative L2 error {sample_error:.1e} exceeds {bound:.1e}"));
        }
    }
    Ok(Verdict { error, failure: (!failures.is_empty()).then(|| summary(&failures)) })
}

fn equal_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// The first failure names the cause; the others follow from it or resemble it.
fn summary(failures: &[String]) -> String {
    match failures.len() {
        1 => failures[0].clone(),
        n => format!("{} (and {} more)", failures[0], n - 1),
    }
}

fn name(op: &Op, network: &Network) -> String {
    match op {
        Op::Linear { weight, .. } => format!("linear {}", network.weights[weight.0].name),
        Op::AddNorm { gamma, .. } => format!("norm {}", network.weights[gamma.0].name),
        Op::Attention { .. } => "attention".to_owned(),
        Op::Embed { .. } => "embed".to_owned(),
    }
}

/// What is wrong with the result of one operation.
fn operation_failure(values: &[f32], expected: &[f32], unit: f64) -> Option<String> {
    if values.len() != expected.len() {
        return Some(format!("{} elements instead of {}", values.len(), expected.len()));
    }
    if let Some(index) = values.iter().position(|v| !v.is_finite()) {
        return Some(format!("element {index} is {}: never written, or overflowed", values[index]));
    }
    let error = relative_l2(values, expected);
    let bound = OPERATION_L2 * unit;
    if error > bound || error.is_nan() {
        return Some(format!("relative L2 error {error:.1e} exceeds {bound:.1e}"));
    }
    let rms = (square_sum(expected.iter().map(|&e| f64::from(e))) / expected.len() as f64).sqrt();
    let off = |(&v, &e): (&f32, &f32)| (f64::from(v) - f64::from(e)).abs() / f64::from(e).abs().max(rms);
    let worst = values.iter().zip(expected).map(off).enumerate().max_by(|a, b| a.1.total_cmp(&b.1))?;
    let bound = OPERATION_ELEMENT * unit;
    (worst.1 > bound).then(|| format!("element {} is off by {:.1e}, more than {bound:.1e}", worst.0, worst.1))
}

/// ‖values - truth‖ / ‖truth‖; NaN where the truth is nothing but zeros.
fn relative_l2(values: &[f32], truth: &[f32]) -> f64 {
    let difference = values.iter().zip(truth).map(|(&v, &t)| f64::from(v) - f64::from(t));
    (square_sum(difference) / square_sum(truth.iter().map(|&t| f64::from(t)))).sqrt()
}

fn square_sum(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|v| v * v).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::cpu::Cpu;
    use crate::workload::{Corruption, model};

    const U: f64 = 1.0 / 2048.0;

    /// 1,000 values of order 1 and the same rounded to fp16.
    fn rounded() -> (Vec<f32>, Vec<f32>) {
        let truth: Vec<f32> = (0..1000).map(|i| ((i * 37 % 101) as f32 - 50.3) / 30.0).collect();
        (truth.iter().map(|&t| Precision::Fp16.round(t)).collect(), truth)
    }

    #[test]
    fn one_rounding_passes() {
        let (values, truth) = rounded();
        assert_eq!(operation_failure(&values, &truth, U), None);
        assert_eq!(operation_failure(&truth, &truth, U), None);
    }

    #[test]
    fn nan_infinity_and_poison_never_pass() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let (mut values, truth) = rounded();
            values[999] = bad;
            assert!(operation_failure(&values, &truth, 1e9).unwrap().starts_with("element 999 is "));
        }
        let zeros = [0.0; 4];
        assert!(operation_failure(&zeros, &zeros, 1.0).is_some(), "zeros prove nothing");
        assert!(operation_failure(&zeros[1..], &zeros, 1.0).is_some());
    }

    #[test]
    fn one_wrong_element_does_not_pass() {
        let (mut values, truth) = rounded();
        values[7] += 0.01;
        assert!(operation_failure(&values, &truth, U).unwrap().starts_with("element 7 is off by "));
    }

    fn verdict(
        network: &Network,
        corruption: Option<Corruption>,
        spoil: impl FnOnce(&mut Vec<f32>),
    ) -> Verdict {
        let settings = Settings { seed: 3, corruption, ..Settings::default() };
        let mut cpu = Cpu::new("test".into(), network.clone(), settings.clone()).unwrap();
        cpu.prepare(&[3], 1).unwrap();
        let before = cpu.checked_output(3).unwrap().unwrap();
        let mut after = before.clone();
        spoil(&mut after);
        check(&mut cpu, network, &settings, 3, &before, &after).unwrap()
    }

    #[test]
    fn a_right_output_passes_and_a_changed_one_does_not() {
        let network = model::bert(model::Bert::TINY, 9);
        let good = verdict(&network, None, |_| {});
        assert!(good.failure.is_none() && good.error < 1e-5, "{good:?}");
        for spoil in [
            |a: &mut Vec<f32>| a[140] = f32::from_bits(a[140].to_bits() ^ 1),
            |a: &mut Vec<f32>| a.truncate(9),
        ] {
            let failure = verdict(&network, None, spoil).failure.unwrap();
            assert_eq!(failure, "the output after the window is not the one before it");
        }
    }

    #[test]
    fn a_planted_fault_is_found_where_it_is() {
        for (network, tile, flip) in [
            (
                model::bert(model::Bert::TINY, 9),
                "operation 9 (linear layer.1.qkv)",
                "operation 16 (linear pooler)",
            ),
            (model::mlp(), "operation 1 (linear layer.1)", "operation 2 (linear layer.2)"),
        ] {
            let found = verdict(&network, Some(Corruption::ZeroTile), |_| {}).failure.unwrap();
            assert!(found.starts_with(tile), "{found}");
            let found = verdict(&network, Some(Corruption::FlipWeight), |_| {}).failure.unwrap();
            assert!(found.starts_with(flip), "{found}");
        }
    }
}
