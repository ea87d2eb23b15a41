//! Is the output of a network that migbench did not write right? Pure.
//!
//! Its truth is ONNX Runtime's CPU provider on the same inputs, with the graph as it stands in the file:
//! neither fusions nor another device's kernels are in it.

use super::Provider;
use crate::workload::check::Verdict;

/// Largest relative L2 error of an output. On the CPU the order of sums differs; a GPU also rounds the
/// factors of products to TF32 (10 bits), and networks in fp16 or bf16 do at every operator.
fn bound(provider: Provider, low_precision: bool) -> f64 {
    match (provider, low_precision) {
        (Provider::Cpu, false) => 1e-3,
        (_, false) => 1e-2,
        (_, true) => 5e-2,
    }
}

/// One output of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// Its elements are not exact numbers.
    pub is_float: bool,
    /// All of them.
    pub values: Vec<f32>,
}

/// Compares every element of every output. `low_precision`: some input, output or weight is fp16 or bf16.
pub fn verdict(outputs: &[Output], truth: &[Output], provider: Provider, low_precision: bool) -> Verdict {
    let mut error: f64 = 0.0;
    let mut failure = None;
    for (output, truth) in outputs.iter().zip(truth) {
        let (found, limit, what) = if output.is_float {
            (relative_l2(&output.values, &truth.values), bound(provider, low_precision), "relative L2 error")
        } else {
            // A near tie may fall otherwise elsewhere.
            (unequal(&output.values, &truth.values), 0.01, "share of wrong elements")
        };
        if output.is_float && (found > error || found.is_nan()) {
            error = found;
        }
        if found > limit || found.is_nan() {
            failure
                .get_or_insert(format!("output '{}': {what} {found:.1e} exceeds {limit:.0e}", output.name));
        }
    }
    let non_finite = outputs.iter().any(|output| output.values.iter().any(|value| !value.is_finite()));
    Verdict { error, failure, partial: false, non_finite }
}

/// ‖values - truth‖ / ‖truth‖; 0 where both are nothing but zeros. What is not a number on both sides is
/// the model's own, and a warning.
fn relative_l2(values: &[f32], truth: &[f32]) -> f64 {
    if values.len() != truth.len() {
        return f64::NAN;
    }
    let (mut difference, mut norm) = (0.0, 0.0);
    for (&v, &t) in values.iter().zip(truth) {
        if v == t || (v.is_nan() && t.is_nan()) {
            norm += if t.is_finite() { f64::from(t) * f64::from(t) } else { 0.0 };
            continue;
        }
        let d = f64::from(v) - f64::from(t);
        difference += d * d;
        norm += f64::from(t) * f64::from(t);
    }
    if difference == 0.0 { 0.0 } else { (difference / norm).sqrt() }
}

fn unequal(values: &[f32], truth: &[f32]) -> f64 {
    if values.len() != truth.len() {
        return f64::NAN;
    }
    values.iter().zip(truth).filter(|(v, t)| v != t).count() as f64 / values.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(values: &[f32]) -> Vec<Output> {
        vec![Output { name: "y".into(), is_float: true, values: values.to_vec() }]
    }

    #[test]
    fn close_passes_and_wrong_does_not() {
        let truth: Vec<f32> = (0..1000).map(|i| (i as f32).sin()).collect();
        let judge = |values: &[f32], provider| verdict(&output(values), &output(&truth), provider, false);
        let mut values = truth.clone();
        assert_eq!(
            judge(&values, Provider::Cpu),
            Verdict { error: 0.0, failure: None, partial: false, non_finite: false }
        );
        values[3] += 0.05;
        let found = judge(&values, Provider::Cpu);
        assert_eq!(found.failure.unwrap(), "output 'y': relative L2 error 2.2e-3 exceeds 1e-3");
        assert!((found.error - 0.05 / 500f64.sqrt()).abs() < 1e-4);
        assert_eq!(judge(&values, Provider::Cuda).failure, None);
        values[3] = f32::NAN;
        assert!(judge(&values, Provider::Cuda).failure.unwrap().contains("NaN"));
        assert!(judge(&values[1..], Provider::Cuda).failure.is_some());
        values[3] = f32::INFINITY;
        assert!(judge(&values, Provider::Cuda).failure.is_some());
    }

    #[test]
    fn zeros_and_the_models_own_nan_agree() {
        let odd = [0.0, f32::NAN, f32::NEG_INFINITY, 1.0];
        let found = verdict(&output(&odd), &output(&odd), Provider::Cuda, false);
        assert!(found.failure.is_none() && found.non_finite, "{found:?}");
        for one in [f32::NAN, f32::INFINITY] {
            let found = verdict(&output(&[1.0, one]), &output(&[1.0, one]), Provider::Cpu, true);
            assert!(found.failure.is_none() && found.non_finite, "{found:?}");
        }
        assert_eq!(verdict(&output(&[0.0]), &output(&[0.0]), Provider::Cpu, false).failure, None);
        assert!(verdict(&output(&[1.0]), &output(&[0.0]), Provider::Cpu, true).failure.is_some());
    }

    #[test]
    fn integers_are_counted() {
        let ids = |wrong: usize| {
            let values = (0..1000).map(|i| if i < wrong { -1.0 } else { i as f32 }).collect();
            vec![Output { name: "ids".into(), is_float: false, values }]
        };
        assert_eq!(verdict(&ids(10), &ids(0), Provider::Cuda, false).failure, None);
        assert!(
            verdict(&ids(11), &ids(0), Provider::Cuda, false)
                .failure
                .unwrap()
                .starts_with("output 'ids': share of wrong")
        );
    }
}
