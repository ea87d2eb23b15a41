//! Is the output right?
//!
//! Three questions, when nobody measures any more:
//! 1. Is each operation right? The batch is run once more, operation by operation, and what each
//!    leaves for the first and the last sample is compared, every element, with the CPU's fp32
//!    operation on the device's own inputs. Only one rounding separates the two, so that a single
//!    wrong weight anywhere in the network shows, if it makes more of a difference than that.
//! 2. Was that what ran in the window? The output of this run equals, bit for bit, the output before
//!    the window and the one after it.
//! 3. How far is the whole from the truth? Relative L2 error of the output (of what it was chosen by,
//!    where it is a token) against the network in fp32: the row's `output_error`.
//! 4. Are smaller batches right, where a load has them? Of those of a power of two, the first sample's output (or
//!    what it was chosen by) against that of the largest batch, which questions 1 and 3 were about.
//!
//! What would take the CPU too long is checked in part (`coverage.rs`), and the verdict says so.

mod coverage;

use self::coverage::{Coverage, Part};
use super::cpu::{Buffers, Executor};
use super::model::{BufferId, Element, Network, Op};
use super::{Precision, Settings, Workload};
use anyhow::Result;

/// What the comparison found.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Relative L2 error of the worse of the two samples; of the worst operation that was checked,
    /// where some were not. NaN if nothing was compared.
    pub error: f64,
    /// Why the output is wrong, if it is.
    pub failure: Option<String>,
    /// Not every element of every operation was checked: it would have taken too long.
    pub partial: bool,
    /// Elements of the output are NaN or infinite, and the reference agrees.
    pub non_finite: bool,
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

/// Checks batches of these sizes of `workload`; the outputs of the largest before and after the window are given.
/// Calls `alive` at least once for every operation: a large network takes minutes.
///
/// # Errors
/// The device failed while it ran a batch once more.
pub fn check(
    workload: &mut dyn Workload,
    network: &Network,
    settings: &Settings,
    sizes: &[usize],
    [before, after]: [&[f32]; 2],
    alive: &dyn Fn(),
) -> Result<Verdict> {
    let precision = settings.precision;
    let batch = sizes.iter().copied().max().unwrap_or(1);
    let samples = if batch == 1 { vec![0] } else { vec![0, batch - 1] };
    let mut failures = Vec::new();
    if !equal_bits(before, after) {
        failures.push("the output after the window is not the one before it".to_owned());
    }
    let reference = Executor::new(network.clone(), settings.seed, precision);
    let coverage = Coverage::of(network, samples.len());
    let mut checker = Checker {
        network,
        reference: &reference,
        coverage,
        precision,
        alive,
        failures,
        worst: None,
        judged: Vec::new(),
    };
    let columns = before.len() / batch;
    let output = |sample: usize| &before[sample * columns..][..columns];
    if network.ops.is_empty() {
        checker.untouched(&samples, output);
    } else {
        checker.trace(workload, batch, &samples, output)?;
        let smaller = sizes.iter().filter(|size| **size < batch && size.is_power_of_two());
        smaller.copied().try_for_each(|size| checker.smaller(workload, size, batch))?;
    }
    let Checker { coverage, failures, worst, .. } = checker;
    Ok(Verdict {
        error: worst.unwrap_or(f64::NAN),
        failure: (!failures.is_empty()).then(|| summary(&failures)),
        partial: coverage.is_partial(),
        // Of the built-in networks they are failures.
        non_finite: false,
    })
}

struct Checker<'a> {
    network: &'a Network,
    reference: &'a Executor,
    coverage: Coverage,
    precision: Precision,
    alive: &'a dyn Fn(),
    failures: Vec<String>,
    /// The error so far; none before anything was compared.
    worst: Option<f64>,
    /// What the first sample's output was judged by.
    judged: Vec<f32>,
}

impl Checker<'_> {
    /// A network that computes nothing: its output is what was there before the first batch.
    fn untouched<'b>(&mut self, samples: &[usize], output: impl Fn(usize) -> &'b [f32]) {
        let Some(id) = self.network.output() else { return };
        for &sample in samples {
            (self.alive)();
            let expected = &self.reference.loaded(sample, 1).values[id.0];
            if equal_bits(output(sample), expected) {
                self.worsen(0.0);
            } else {
                self.failures.push(format!("sample {sample}: what arrived is not what was sent"));
            }
        }
    }

    fn trace<'b>(
        &mut self,
        workload: &mut dyn Workload,
        batch: usize,
        samples: &[usize],
        output: impl Fn(usize) -> &'b [f32],
    ) -> Result<()> {
        // What the device has, and beside it the whole network in fp32, if all of it is computed; and how far
        // both are.
        let whole = !self.coverage.is_partial();
        let mut followed: Vec<_> = samples
            .iter()
            .map(|&sample| {
                (self.alive)();
                let load = || self.reference.loaded(sample, 1);
                (sample, load(), whole.then(load), 0usize)
            })
            .collect();
        let (network, reference, precision) = (self.network, self.reference, self.precision);
        let run = |op: &Op, buffers: &mut Buffers, truth: &mut Option<Buffers>| {
            reference.run(op, buffers, 1);
            truth.iter_mut().for_each(|truth| reference.run(op, truth, 1));
        };
        workload.trace(batch, samples, &mut |index, out, sample, values| {
            let Some((_, buffers, truth, done)) = followed.iter_mut().find(|(s, ..)| *s == sample) else {
                return;
            };
            (self.alive)();
            // What the device computes in one go with this operation it does not show. Rounded, as what comes
            // from the device is; but a norm is applied to the sums after it.
            for skipped in done.saturating_sub(1)..index {
                let op = &network.ops[skipped];
                if skipped >= *done {
                    run(op, buffers, truth);
                }
                if matches!(op, Op::RmsNorm { .. }) {
                    continue;
                }
                for out in op.outs().filter(|out| network.buffers[out.0].element == Element::Value) {
                    buffers.values[out.0].iter_mut().for_each(|v| *v = precision.round(*v));
                }
            }
            let first = index >= *done;
            *done = index + 1;
            let op = &network.ops[index];
            let part = self.coverage.part(index);
            let some = match part {
                Part::Whole => {
                    if first {
                        run(op, buffers, truth);
                    }
                    None
                }
                Part::Rows(stride) => Some((stride, reference.some_rows(op, buffers, stride))),
                Part::Nothing => Some((usize::MAX, Vec::new())),
            };
            let columns = network.buffers[out.0].columns;
            let checked = match &some {
                None => self.compare(out, values, &buffers.values[out.0]),
                Some((usize::MAX, _)) => None,
                Some((stride, expected)) => {
                    let rows = values.chunks_exact(columns).step_by(*stride);
                    self.compare(out, &rows.flatten().copied().collect::<Vec<_>>(), expected)
                }
            };
            if let Some(wrong) = checked {
                self.failures
                    .push(format!("operation {index} ({}), sample {sample}: {wrong}", name(op, network)));
            }
            // The next operation starts from what the device has, not from what it should have.
            buffers.values[out.0].copy_from_slice(values);
            if is_judged(network, index, out) {
                if sample == samples[0] {
                    self.judged = values.to_vec();
                }
                if let Some(truth) = truth {
                    self.judge(sample, values, &truth.values[out.0]);
                }
            }
            let last = index + 1 == network.ops.len();
            if last && !equal_bits(values, output(sample)) {
                self.failures
                    .push(format!("sample {sample}: operation by operation it gives another output"));
            }
        })
    }

    /// What is wrong with the result of one operation; keeps its error where the whole can't be judged.
    fn compare(&mut self, out: BufferId, values: &[f32], expected: &[f32]) -> Option<String> {
        if self.network.buffers[out.0].element != Element::Value {
            let wrong = values.iter().zip(expected).position(|(v, e)| v.to_bits() != e.to_bits());
            return match wrong {
                _ if values.len() != expected.len() => Some("another number of elements".to_owned()),
                Some(i) => Some(format!("element {i} is {} instead of {}", values[i], expected[i])),
                None => {
                    self.worsen(0.0);
                    None
                }
            };
        }
        if self.coverage.is_partial() {
            self.worsen(relative_l2(values, expected));
        }
        operation_failure(values, expected, unit(self.precision))
    }

    /// The first sample of a smaller batch against that of the largest. Either may be as far from the truth as a
    /// network may.
    fn smaller(&mut self, workload: &mut dyn Workload, size: usize, largest: usize) -> Result<()> {
        let mut values = Vec::new();
        workload.trace(size, &[0], &mut |index, out, _, shown| {
            (self.alive)();
            if is_judged(self.network, index, out) {
                values = shown.to_vec();
            }
        })?;
        let error = relative_l2(&values, &self.judged);
        let bound = if self.is_exact() { 0.0 } else { 2.0 * NETWORK_L2 * unit(self.precision) };
        if error > bound || error.is_nan() || values.len() != self.judged.len() {
            let from = format!("relative L2 distance {error:.1e} from the first of batch {largest}");
            self.failures.push(format!("batch {size}, first sample: {from} exceeds {bound:.1e}"));
        }
        Ok(())
    }

    /// Is what the output is judged by the same in every precision: words, or tokens?
    fn is_exact(&self) -> bool {
        self.network.judged().is_some_and(|out| self.network.buffers[out.0].element != Element::Value)
    }

    /// The whole network's error on one sample.
    fn judge(&mut self, sample: usize, values: &[f32], truth: &[f32]) {
        if self.is_exact() {
            return;
        }
        let error = relative_l2(values, truth);
        self.worsen(error);
        let bound = NETWORK_L2 * unit(self.precision);
        if error > bound || error.is_nan() {
            self.failures.push(format!("sample {sample}: relative L2 error {error:.1e} exceeds {bound:.1e}"));
        }
    }

    fn worsen(&mut self, error: f64) {
        if self.worst.is_none_or(|worst| error > worst) || error.is_nan() {
            self.worst = Some(error);
        }
    }
}

/// Is this where the output, or what it is chosen by, is written for the last time?
fn is_judged(network: &Network, index: usize, out: BufferId) -> bool {
    let again = || network.ops[index + 1..].iter().any(|op| op.outs().any(|other| other == out));
    network.judged() == Some(out) && !again()
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
    let of = |kind: &str, id: super::model::WeightId| format!("{kind} {}", network.weights[id.0].name);
    match *op {
        Op::Linear { weight, .. } => of("linear", weight),
        Op::Conv { weight, .. } => of("convolution", weight),
        Op::AddNorm { gamma, .. } => of("norm", gamma),
        Op::RmsNorm { .. } => "norm".to_owned(),
        Op::Embed { .. } => "embed".to_owned(),
        Op::Lookup { .. } => "lookup".to_owned(),
        Op::Attention { .. } | Op::CachedAttention { .. } => "attention".to_owned(),
        Op::Rotate { .. } => "rotate".to_owned(),
        Op::Argmax { .. } => "argmax".to_owned(),
        Op::Pad { .. } => "pad".to_owned(),
        Op::MaxPool { .. } => "max-pool".to_owned(),
        Op::Mean { .. } => "mean".to_owned(),
        Op::Copy { .. } => "copy".to_owned(),
        Op::Nothing => "nothing".to_owned(),
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
    use crate::workload::model::{Direction, Llama};
    use crate::workload::{Corruption, Visit, model};

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
        check(&mut cpu, network, &settings, &[3], [&before, &after], &|| {}).unwrap()
    }

    #[test]
    fn a_right_output_passes_and_a_changed_one_does_not() {
        let network = model::bert(model::Bert::TINY, 9);
        let good = verdict(&network, None, |_| {});
        assert!(good.failure.is_none() && good.error < 1e-5 && !good.partial, "{good:?}");
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
            (
                model::llama_decode(Llama::TINY, 19),
                "operation 10 (linear layer.1.qkv)",
                "operation 18 (linear head)",
            ),
            (
                model::llama_prefill(Llama::TINY, 5),
                "operation 10 (linear layer.1.qkv)",
                "operation 18 (linear head)",
            ),
            (model::resnet50(32), "operation 30 (linear conv.28)", "operation 56 (linear classifier)"),
            (model::gemm(5, 24, 16), "operation 0 (linear b)", "operation 0 (linear b)"),
        ] {
            let found = verdict(&network, Some(Corruption::ZeroTile), |_| {}).failure.unwrap();
            assert!(found.starts_with(tile), "{found}");
            let found = verdict(&network, Some(Corruption::FlipWeight), |_| {}).failure.unwrap();
            assert!(found.starts_with(flip), "{found}");
        }
    }

    #[test]
    fn every_workload_passes_as_it_is() {
        for network in [
            model::llama_decode(Llama::TINY, 1),
            model::llama_prefill(Llama::TINY, 17),
            model::resnet50(33),
            model::gemm(7, 8, 24),
            model::stream(1),
            model::transfer(Direction::In, 1),
            model::transfer(Direction::Out, 1),
            model::transfer(Direction::Both, 1),
        ] {
            let good = verdict(&network, None, |_| {});
            assert!(good.failure.is_none() && good.error < 1e-4 && !good.partial, "{good:?}");
        }
    }

    /// Batches of one size leave something else.
    struct WrongAt(usize, Cpu);

    impl Workload for WrongAt {
        fn prepare(&mut self, sizes: &[usize], lanes: usize) -> Result<()> {
            self.1.prepare(sizes, lanes)
        }
        fn issue(&mut self, lane: usize, batch: usize) -> Result<()> {
            self.1.issue(lane, batch)
        }
        fn wait(&mut self, lane: usize) -> Result<()> {
            self.1.wait(lane)
        }
        fn checked_output(&mut self, batch: usize) -> Result<Option<Vec<f32>>> {
            self.1.checked_output(batch)
        }
        fn trace(&mut self, batch: usize, samples: &[usize], visit: &mut Visit) -> Result<()> {
            let wrong = batch == self.0;
            self.1.trace(batch, samples, &mut |index, out, sample, values| {
                let changed: Vec<f32> = values.iter().rev().copied().collect();
                visit(index, out, sample, if wrong { &changed } else { values });
            })
        }
    }

    #[test]
    fn a_smaller_batch_is_checked_too() {
        let networks =
            [model::bert(model::Bert::TINY, 9), model::llama_decode(Llama::TINY, 19), model::stream(1)];
        for network in networks {
            let settings = Settings { seed: 3, ..Settings::default() };
            let sizes = [1, 2, 3, 4, 5];
            let failure = |wrong: usize| {
                let cpu = Cpu::new("test".into(), network.clone(), settings.clone()).unwrap();
                let mut workload = WrongAt(wrong, cpu);
                workload.prepare(&sizes, 1).unwrap();
                let output = workload.checked_output(5).unwrap().unwrap();
                let calls = std::cell::Cell::new(0);
                let alive = || calls.set(calls.get() + 1);
                let verdict =
                    check(&mut workload, &network, &settings, &sizes, [&output, &output], &alive).unwrap();
                assert!(calls.get() >= network.ops.len() * 4, "{}", calls.get());
                verdict.failure
            };
            assert_eq!(failure(0), None);
            for size in [1, 2, 4] {
                let failure = failure(size).unwrap();
                assert!(failure.starts_with(&format!("batch {size}, first sample: ")), "{failure}");
            }
        }
    }

    #[test]
    fn a_wrong_token_and_a_lost_word_do_not_pass() {
        for network in
            [model::llama_decode(Llama::TINY, 3), model::stream(1), model::transfer(Direction::In, 1)]
        {
            let settings = Settings { seed: 3, ..Settings::default() };
            let mut cpu = Cpu::new("test".into(), network.clone(), settings.clone()).unwrap();
            cpu.prepare(&[2], 1).unwrap();
            let mut output = cpu.checked_output(2).unwrap().unwrap();
            output[0] += 1.0;
            let verdict = check(&mut cpu, &network, &settings, &[2], [&output, &output], &|| {}).unwrap();
            assert!(verdict.failure.unwrap().starts_with("sample 0: "));
        }
    }

    #[test]
    fn what_is_too_much_is_checked_in_part_and_found_there() {
        // A product with too many rows.
        let network = model::gemm(8192, 8192, 8192);
        let coverage = Coverage::of(&network, 1);
        assert!(coverage.is_partial() && matches!(coverage.part(0), Part::Rows(stride) if stride > 1));
        let network = model::llama_decode(Llama::EIGHT, 16);
        let coverage = Coverage::of(&network, 2);
        let whole = |i: usize| matches!(coverage.part(i), Part::Whole);
        let last = network.ops.len() - 1;
        assert!(coverage.is_partial() && whole(0) && whole(1) && whole(2) && whole(last) && whole(last - 1));
        assert!((0..last).any(|i| !whole(i)));
        assert!(!Coverage::of(&model::bert(model::Bert::LARGE, 128), 2).is_partial());
        assert!(!Coverage::of(&model::resnet50(224), 2).is_partial());
    }
}
