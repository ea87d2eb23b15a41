//! The embedded CPU device, fp32: what runs where there is no GPU, and the reference that the
//! outputs of every other device are compared with.

mod kernels;

use super::model::{BufferId, Element, Network, Op, WeightId, random};
use super::{Corruption, Precision, Settings, Visit, Workload};
use anyhow::{Context, Result, bail};
use kernels::Matrix;
use rayon::prelude::*;
use std::time::{Duration, Instant};

/// What a row calls the kernels of this device.
pub const KERNELS: &str = "cpu:gemm-0.19";

/// A network with its weights in memory.
pub struct Executor {
    network: Network,
    weights: Vec<Vec<f32>>,
}

/// Working memory of one batch in flight.
pub(super) struct Buffers {
    /// One vector a buffer; empty for token ids.
    pub(super) values: Vec<Vec<f32>>,
    tokens: Vec<u32>,
}

impl Executor {
    /// Generates the weights, rounded to `precision` as the device under test stores them.
    pub fn new(network: Network, seed: u64, precision: Precision) -> Executor {
        let generate = |(tensor, weight): (usize, &super::model::Weight)| {
            const BLOCK: usize = 1 << 16;
            let mut values = vec![0.0; weight.len()];
            let key = random::tensor_key(seed, tensor as u32);
            let fill = |(block, values): (usize, &mut [f32])| {
                let first = (block * BLOCK) as u64;
                random::fill(values, key, first, weight.columns, weight.init, precision);
            };
            values.par_chunks_mut(BLOCK).enumerate().for_each(fill);
            values
        };
        let weights = network.weights.iter().enumerate().map(generate).collect();
        Executor { network, weights }
    }

    /// Plants a fault in the weights; see [`Corruption`].
    fn corrupt(&mut self, corruption: Corruption, seed: u64, precision: Precision) {
        let Some((x, weight)) = corruption.target(&self.network) else { return };
        let columns = self.network.weights[weight.0].columns;
        match corruption {
            Corruption::ZeroTile => {
                for row in self.weights[weight.0].chunks_exact_mut(columns).take(Corruption::TILE) {
                    row[..columns.min(Corruption::TILE)].fill(0.0);
                }
            }
            Corruption::FlipWeight => {
                let x = self.run_sample(seed, 0, precision).values.swap_remove(x.0);
                let rows = self.network.weights[weight.0].rows;
                let row = largest(&x[..rows]);
                let row = &mut self.weights[weight.0][row * columns..][..columns];
                let column = largest(row);
                row[column] = -row[column];
            }
        }
    }

    /// The output of one sample, alone in its batch.
    pub fn sample(&self, seed: u64, sample: usize, precision: Precision) -> Vec<f32> {
        let mut values = self.run_sample(seed, sample, precision).values;
        values.pop().unwrap_or_default()
    }

    fn run_sample(&self, seed: u64, sample: usize, precision: Precision) -> Buffers {
        let mut buffers = self.loaded(seed, sample, 1, precision);
        self.forward(&mut buffers, 1);
        buffers
    }

    /// The working memory of a batch, with the input of samples `first..` in it.
    pub(super) fn loaded(&self, seed: u64, first: usize, batch: usize, precision: Precision) -> Buffers {
        let mut buffers = self.buffers(batch);
        self.load_input(&mut buffers, seed, first, precision);
        buffers
    }

    fn buffers(&self, batch: usize) -> Buffers {
        let values = self.network.buffers.iter().map(|b| match b.element {
            Element::Value => vec![f32::NAN; b.len(batch)],
            Element::Token { .. } => Vec::new(),
        });
        let tokens = match self.network.buffers.first() {
            Some(b) if b.element != Element::Value => b.len(batch),
            _ => 0,
        };
        Buffers { values: values.collect(), tokens: vec![0; tokens] }
    }

    fn load_input(&self, buffers: &mut Buffers, seed: u64, first: usize, precision: Precision) {
        match self.network.buffers.first() {
            Some(b) if b.element == Element::Value => {
                self.network.input_values(seed, first, precision, &mut buffers.values[0]);
            }
            _ => self.network.input_tokens(seed, first, &mut buffers.tokens),
        }
    }

    fn forward(&self, buffers: &mut Buffers, batch: usize) {
        for op in &self.network.ops {
            self.run(op, buffers, batch);
        }
    }

    /// One operation, from what the buffers hold.
    pub(super) fn run(&self, op: &Op, buffers: &mut Buffers, batch: usize) {
        let weight = |id: WeightId| self.weights[id.0].as_slice();
        let len = |id: BufferId| self.network.buffers[id.0].len(batch);
        match *op {
            Op::Embed { tokens, word, position, segment, out } => {
                let tokens = &buffers.tokens[..len(tokens)];
                let out = &mut buffers.values[out.0][..len(out)];
                kernels::embed(tokens, weight(word), weight(position), weight(segment), out);
            }
            Op::Linear { x, row_step, weight: w, bias, activation, out } => {
                let shape = &self.network.weights[w.0];
                let (k, n) = (shape.rows, shape.columns);
                let rows = len(out) / n;
                buffers.write(out, |buffers, out| {
                    let x = Matrix::new(&buffers.values[x.0], rows, k, row_step * k);
                    let w = Matrix::new(weight(w), k, n, n);
                    kernels::linear(x, w, weight(bias), activation, &mut out[..rows * n]);
                });
            }
            Op::AddNorm { x, residual, gamma, beta, epsilon, out } => {
                let n = len(out);
                // x + residual is symmetric: whichever of the two `out` is, it is changed in place.
                let other = if residual == Some(out) { Some(x) } else { residual };
                let copy = out != x && residual != Some(out);
                buffers.write(out, |buffers, out| {
                    if copy {
                        out[..n].copy_from_slice(&buffers.values[x.0][..n]);
                    }
                    let other = other.map(|id| &buffers.values[id.0][..n]);
                    kernels::add_norm(&mut out[..n], other, weight(gamma), weight(beta), epsilon);
                });
            }
            Op::Attention { qkv, heads, out } => {
                let (n, rows) = (len(out), self.network.buffers[out.0].rows);
                buffers.write(out, |buffers, out| {
                    kernels::attention(&buffers.values[qkv.0][..3 * n], batch, rows, heads, &mut out[..n]);
                });
            }
        }
    }
}

/// The index of the value of the largest magnitude.
fn largest(values: &[f32]) -> usize {
    (0..values.len()).max_by(|&a, &b| values[a].abs().total_cmp(&values[b].abs())).unwrap_or(0)
}

impl Buffers {
    /// Lets `body` write one buffer while it reads the others.
    fn write(&mut self, out: BufferId, body: impl FnOnce(&Buffers, &mut [f32])) {
        let mut values = std::mem::take(&mut self.values[out.0]);
        body(self, &mut values);
        self.values[out.0] = values;
    }
}

/// Starts the threads that compute, for the whole process. The calling thread becomes one of them,
/// so that a batch need not wait for another to wake up.
///
/// # Errors
/// The threads exist already, or cannot be had.
pub fn start_threads(count: usize) -> Result<()> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(count).use_current_thread();
    pool.build_global().with_context(|| format!("cannot start {count} threads"))
}

/// The CPU device: an [`Executor`] and the working memory of its lanes.
///
/// There is nothing to overlap with: a batch is computed in [`Workload::wait`].
pub struct Cpu {
    name: String,
    executor: Executor,
    settings: Settings,
    lanes: Vec<Buffers>,
    pending: Vec<usize>,
}

impl Cpu {
    /// Generates the weights.
    ///
    /// # Errors
    /// A precision other than fp32.
    pub fn new(name: String, network: Network, settings: Settings) -> Result<Cpu> {
        if settings.precision != Precision::Fp32 {
            bail!("the CPU device computes in fp32 only, not in {}", settings.precision);
        }
        let mut executor = Executor::new(network, settings.seed, settings.precision);
        if let Some(corruption) = settings.corruption {
            executor.corrupt(corruption, settings.seed, settings.precision);
        }
        Ok(Cpu { name, executor, settings, lanes: Vec::new(), pending: Vec::new() })
    }
}

impl Workload for Cpu {
    fn prepare(&mut self, batch_sizes: &[usize], lanes: usize) -> Result<()> {
        let batch = batch_sizes.iter().copied().max().context("no batch size given")?;
        let network = &self.executor.network;
        let needed = network.buffer_bytes(batch as u64, Precision::Fp32).saturating_mul(lanes as u64);
        let free = crate::machine::host::available_memory_bytes();
        super::refuse_if_too_large(&self.name, batch, lanes, needed, free, "the machine")?;
        self.lanes = (0..lanes).map(|_| self.executor.buffers(batch)).collect();
        self.pending = vec![0; lanes];
        for lane in &mut self.lanes {
            self.executor.load_input(lane, self.settings.seed, 0, Precision::Fp32);
        }
        Ok(())
    }

    fn issue(&mut self, lane: usize, batch: usize) -> Result<()> {
        self.pending[lane] = batch;
        Ok(())
    }

    fn wait(&mut self, lane: usize) -> Result<()> {
        self.executor.forward(&mut self.lanes[lane], self.pending[lane]);
        let extra = Duration::from_micros(self.settings.extra_work_us);
        if !extra.is_zero() {
            let done = Instant::now();
            while done.elapsed() < extra {
                std::hint::spin_loop();
            }
        }
        Ok(())
    }

    fn trace(&mut self, batch: usize, samples: &[usize], visit: &mut Visit) -> Result<()> {
        for (index, op) in self.executor.network.ops.iter().enumerate() {
            let buffers = &mut self.lanes[0];
            let out = op.out().0;
            if !op.is_in_place() {
                buffers.values[out].fill(f32::NAN);
            }
            self.executor.run(op, buffers, batch);
            let len = self.executor.network.buffers[out].len(1);
            for &sample in samples {
                visit(index, sample, &buffers.values[out][sample * len..][..len]);
            }
        }
        Ok(())
    }

    fn checked_output(&mut self, batch: usize) -> Result<Option<Vec<f32>>> {
        let Some(output) = self.executor.network.output() else { return Ok(None) };
        self.lanes[0].values[output.0].fill(f32::NAN);
        self.issue(0, batch)?;
        self.wait(0)?;
        let len = self.executor.network.buffers[output.0].len(batch);
        Ok(Some(self.lanes[0].values[output.0][..len].to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::model::{self, Activation, Bert, Init, Weight, plain};

    const SEED: u64 = 11;

    fn settings(corruption: Option<Corruption>) -> Settings {
        Settings { seed: SEED, threads: 2, corruption, ..Settings::default() }
    }

    fn outputs(network: &Network, batch: usize) -> (Vec<f32>, Vec<f64>) {
        let mut cpu = Cpu::new("test".into(), network.clone(), settings(None)).unwrap();
        cpu.prepare(&[batch], 1).unwrap();
        let got = cpu.checked_output(batch).unwrap().unwrap();
        let weights = plain::weights(network, SEED, Precision::Fp32);
        let (tokens, mut buffers) = plain::input(network, SEED, Precision::Fp32, batch);
        plain::run(network, batch, &weights, &tokens, &mut buffers);
        (got, buffers.pop().unwrap())
    }

    /// Largest difference over the largest value of the truth.
    fn max_norm(got: &[f32], truth: &[f64]) -> f64 {
        assert_eq!(got.len(), truth.len());
        let largest = truth.iter().fold(0f64, |m, v| m.max(v.abs()));
        got.iter().zip(truth).fold(0f64, |m, (g, t)| {
            let error = (f64::from(*g) - t).abs() / largest;
            if error.is_nan() { f64::INFINITY } else { m.max(error) }
        })
    }

    fn linear(rows: usize, k: usize, n: usize, row_step: usize, activation: Activation) -> Network {
        let weight = |rows, columns| Weight {
            name: String::new(),
            rows,
            columns,
            init: Init::spread(1.0 / (rows as f32).sqrt()),
        };
        let buffer = |rows, columns| model::Buffer { rows, columns, element: Element::Value };
        Network {
            weights: vec![weight(k, n), weight(1, n)],
            buffers: vec![buffer(rows * row_step, k), buffer(rows, n)],
            ops: vec![Op::Linear {
                x: BufferId(0),
                row_step,
                weight: WeightId(0),
                bias: WeightId(1),
                activation,
                out: BufferId(1),
            }],
        }
    }

    #[test]
    fn linear_agrees_with_f64_at_odd_shapes() {
        for (batch, rows, k, n, step) in
            [(1, 1, 1, 5, 1), (3, 7, 65, 33, 1), (2, 1, 128, 1000, 17), (5, 1, 31, 3, 2)]
        {
            for activation in [Activation::None, Activation::Relu, Activation::Gelu, Activation::Tanh] {
                let (got, truth) = outputs(&linear(rows, k, n, step, activation), batch);
                let error = max_norm(&got, &truth);
                assert!(error < 1e-5, "{rows}x{k}x{n} {activation:?}: {error:e}");
            }
        }
    }

    #[test]
    fn whole_networks_agree_with_f64() {
        for (batch, seq_len) in [(1, 1), (3, 17), (2, 31)] {
            let (got, truth) = outputs(&model::bert(Bert::TINY, seq_len), batch);
            let error = max_norm(&got, &truth);
            assert!(error < 1e-5, "batch {batch}, {seq_len} tokens: {error:e}");
        }
        let (got, truth) = outputs(&model::mlp(), 1);
        assert!(max_norm(&got, &truth) < 1e-5);
    }

    #[test]
    fn attention_and_norm_agree_with_f64_in_every_buffer() {
        // The network of two layers, stopped after each operation in turn.
        let whole = model::bert(Bert::TINY, 13);
        let weights = plain::weights(&whole, SEED, Precision::Fp32);
        let (tokens, start) = plain::input(&whole, SEED, Precision::Fp32, 2);
        for count in 1..=whole.ops.len() {
            let part = Network { ops: whole.ops[..count].to_vec(), ..whole.clone() };
            let mut truth = start.clone();
            plain::run(&part, 2, &weights, &tokens, &mut truth);
            let executor = Executor::new(part.clone(), SEED, Precision::Fp32);
            let mut buffers = executor.loaded(SEED, 0, 2, Precision::Fp32);
            executor.forward(&mut buffers, 2);
            let out = part.ops[count - 1].out();
            let error = max_norm(&buffers.values[out.0], &truth[out.0]);
            assert!(error < 1e-5, "after {:?}: {error:e}", part.ops[count - 1]);
        }
    }

    #[test]
    fn the_output_is_rewritten_by_each_batch() {
        let mut cpu = Cpu::new("test".into(), model::mlp(), settings(None)).unwrap();
        cpu.prepare(&[4], 2).unwrap();
        let first = cpu.checked_output(4).unwrap().unwrap();
        assert!(first.iter().all(|v| v.is_finite()));
        assert_eq!(cpu.checked_output(4).unwrap().unwrap(), first);
    }

    #[test]
    fn a_batch_that_cannot_fit_is_refused_before_allocating() {
        let mut cpu = Cpu::new("mlp".into(), model::mlp(), settings(None)).unwrap();
        let message = cpu.prepare(&[usize::MAX / 2], 1).unwrap_err().to_string();
        assert!(message.starts_with("mlp at batch 9223372036854775807 needs"), "{message}");
    }
}
