//! The embedded CPU device, fp32: what runs where there is no GPU, and the reference that the
//! outputs of every other device are compared with.

mod images;
mod kernels;

use super::model::{BufferId, Exchange, Network, Op, Weight, WeightId};
use super::{Corruption, Precision, Settings, Visit, Workload};
use anyhow::{Context, Result, bail};
use kernels::Matrix;
use rayon::prelude::*;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// What a row calls the kernels of this device.
pub const KERNELS: &str = "cpu:gemm-0.19";

/// Random numbers that one thread generates at a time.
const BLOCK: usize = 1 << 16;
/// Elements of weights that a reference holds at once.
const MOST_HELD: usize = 1 << 28;

/// A network with its weights, which are generated when they are first used.
pub struct Executor {
    network: Network,
    seed: u64,
    precision: Precision,
    weights: RefCell<HashMap<usize, Rc<Vec<f32>>>>,
    most_held: usize,
}

/// Working memory of one batch in flight: one vector a buffer. Token ids are numbers too: fp32 holds
/// them exactly.
pub(super) struct Buffers {
    pub(super) values: Vec<Vec<f32>>,
}

impl Executor {
    /// Weights will be rounded to `precision` as the device under test stores them, and forgotten
    /// again where they are many.
    pub fn new(network: Network, seed: u64, precision: Precision) -> Executor {
        Executor { network, seed, precision, weights: RefCell::default(), most_held: MOST_HELD }
    }

    /// Generates all weights now, and keeps them.
    fn with_all_weights(mut self) -> Executor {
        self.most_held = usize::MAX;
        for id in 0..self.network.weights.len() {
            self.weight(WeightId(id));
        }
        self
    }

    fn weight(&self, id: WeightId) -> Rc<Vec<f32>> {
        let mut held = self.weights.borrow_mut();
        if let Some(values) = held.get(&id.0) {
            return values.clone();
        }
        let new = generate(&self.network.weights[id.0], self.seed, id.0, self.precision);
        if held.values().map(|values| values.len()).sum::<usize>() + new.len() > self.most_held {
            held.clear();
        }
        let new = Rc::new(new);
        held.insert(id.0, new.clone());
        new
    }

    /// Plants a fault in the weights; see [`Corruption`].
    fn corrupt(&mut self, corruption: Corruption) {
        let Some((x, first_row, weight)) = corruption.target(&self.network) else { return };
        let columns = self.network.weights[weight.0].columns;
        let mut values = self.weight(weight).to_vec();
        match corruption {
            Corruption::ZeroTile => {
                for row in values.chunks_exact_mut(columns).take(Corruption::TILE) {
                    row[..columns.min(Corruption::TILE)].fill(0.0);
                }
            }
            Corruption::FlipWeight => {
                let mut buffers = self.loaded(0, 1);
                self.forward(&mut buffers, 1);
                let rows = self.network.weights[weight.0].rows;
                let row = largest(&buffers.values[x.0][first_row * rows..][..rows]);
                let row = &mut values[row * columns..][..columns];
                let column = largest(row);
                row[column] = -row[column];
            }
        }
        self.weights.borrow_mut().insert(weight.0, Rc::new(values));
    }

    /// The working memory of a batch as it is before the first one, from sample `first` on.
    pub(super) fn loaded(&self, first: usize, batch: usize) -> Buffers {
        let (network, seed, precision) = (&self.network, self.seed, self.precision);
        let buffer = |id: usize| {
            let shape = &network.buffers[id];
            let (mut values, first) = (vec![f32::NAN; shape.len(batch)], shape.len(first) as u64);
            values.par_chunks_mut(BLOCK).enumerate().for_each(|(block, values)| {
                let first = first + (block * BLOCK) as u64;
                network.contents(BufferId(id), seed, first, precision, values);
            });
            values
        };
        Buffers { values: (0..network.buffers.len()).map(buffer).collect() }
    }

    fn forward(&self, buffers: &mut Buffers, batch: usize) {
        for op in &self.network.ops {
            self.run(op, buffers, batch);
        }
    }

    /// One operation, from what the buffers hold.
    pub(super) fn run(&self, op: &Op, buffers: &mut Buffers, batch: usize) {
        let weight = |id: WeightId| self.weight(id);
        let shape = |id: BufferId| &self.network.buffers[id.0];
        let len = |id: BufferId| shape(id).len(batch);
        match *op {
            Op::Embed { tokens, word, position, segment, out } => {
                buffers.write(out, |buffers, out_values| {
                    let tokens = &buffers.values[tokens.0][..len(tokens)];
                    let (word, position, segment) = (weight(word), weight(position), weight(segment));
                    kernels::embed(tokens, &word, &position, &segment, &mut out_values[..len(out)]);
                })
            }
            Op::Lookup { tokens, table, out } => buffers.write(out, |buffers, out_values| {
                let tokens = &buffers.values[tokens.0][..len(tokens)];
                kernels::lookup(tokens, &weight(table), &mut out_values[..len(out)]);
            }),
            Op::Linear { .. } => self.linear(op, buffers, batch),
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
                    kernels::add_norm(&mut out[..n], other, &weight(gamma), &weight(beta), epsilon);
                });
            }
            Op::RmsNorm { x, epsilon, out } => buffers.write(out, |buffers, out_values| {
                let (n, columns) = (len(out), shape(out).columns);
                kernels::rms_norm(&buffers.values[x.0][..n], columns, epsilon, &mut out_values[..n]);
            }),
            Op::Attention { qkv, heads, out } => {
                let (n, rows) = (len(out), shape(out).rows);
                buffers.write(out, |buffers, out| {
                    kernels::attention(&buffers.values[qkv.0][..3 * n], batch, rows, heads, &mut out[..n]);
                });
            }
            Op::Rotate { qkv, heads, kv_heads, angles, cache } => {
                let heads = kernels::Heads::new(shape(qkv), heads, kv_heads, shape(cache));
                let n = len(qkv);
                buffers.write(cache, |buffers, cache| {
                    heads.rotate(&mut buffers.values[qkv.0][..n], &weight(angles), cache);
                });
            }
            Op::CachedAttention { qkv, heads, kv_heads, cache, out } => {
                let heads = kernels::Heads::new(shape(qkv), heads, kv_heads, shape(cache));
                buffers.write(out, |buffers, out_values| {
                    let (qkv, cache) = (&buffers.values[qkv.0], &buffers.values[cache.0]);
                    heads.attend(qkv, cache, &mut out_values[..len(out)]);
                });
            }
            Op::Argmax { x, out } => buffers.write(out, |buffers, out| {
                let rows = buffers.values[x.0][..len(x)].chunks_exact(shape(x).columns);
                rows.zip(out).for_each(|(row, out)| *out = kernels::first_largest(row) as f32);
            }),
            Op::Pad { .. } | Op::MaxPool { .. } | Op::Mean { .. } | Op::Conv { .. } => {
                self.image(op, buffers, batch);
            }
            Op::Copy { x, out } => buffers.write(out, |buffers, out| {
                kernels::copy(&buffers.values[x.0][..len(x)], &mut out[..len(x)]);
            }),
            Op::Nothing => {}
        }
    }

    fn linear(&self, op: &Op, buffers: &mut Buffers, batch: usize) {
        let Op::Linear { x, first_row, row_step, weight, bias, residual, activation, out } = *op else {
            unreachable!()
        };
        let shape = &self.network.weights[weight.0];
        let (k, n, len) = (shape.rows, shape.columns, self.network.buffers[out.0].len(batch));
        let rows = len / activation.columns(n);
        let (weight, bias) = (self.weight(weight), bias.map(|bias| self.weight(bias)));
        buffers.write(out, |buffers, out_values| {
            let x = Matrix::new(&buffers.values[x.0][first_row * k..], rows, k, row_step * k);
            let residual = residual.filter(|&r| r != out).map(|r| &buffers.values[r.0][..len]);
            let residual = match residual {
                Some(values) => kernels::Residual::Values(values),
                None if op.keeps(out) => kernels::Residual::InPlace,
                None => kernels::Residual::None,
            };
            let epilogue = kernels::Epilogue { bias: bias.as_ref().map(|b| &b[..]), residual, activation };
            kernels::linear(x, Matrix::new(&weight, k, n, n), &epilogue, &mut out_values[..len]);
        });
    }

    /// What some rows of an [`Op::Linear`] without residual should be: every `stride`-th of one sample.
    pub(super) fn some_rows(&self, op: &Op, buffers: &Buffers, stride: usize) -> Vec<f32> {
        let Op::Linear { x, first_row, row_step, weight, bias, activation, out, .. } = *op else {
            return Vec::new();
        };
        let shape = &self.network.weights[weight.0];
        let (k, n, rows) = (shape.rows, shape.columns, self.network.buffers[out.0].rows.div_ceil(stride));
        let (weight, bias) = (self.weight(weight), bias.map(|bias| self.weight(bias)));
        let x = Matrix::new(&buffers.values[x.0][first_row * k..], rows, k, row_step * stride * k);
        let mut out = vec![0.0; rows * activation.columns(n)];
        let bias = bias.as_ref().map(|b| &b[..]);
        let epilogue = kernels::Epilogue { bias, residual: kernels::Residual::None, activation };
        kernels::linear(x, Matrix::new(&weight, k, n, n), &epilogue, &mut out);
        out
    }

    fn image(&self, op: &Op, buffers: &mut Buffers, batch: usize) {
        let shape = |id: BufferId| &self.network.buffers[id.0];
        let len = |id: BufferId| shape(id).len(batch);
        match *op {
            Op::Pad { x, out } => buffers.write(out, |buffers, out_values| {
                let (from, to) = (shape(x).columns, shape(out).columns);
                images::pad(&buffers.values[x.0][..len(x)], from, &mut out_values[..len(out)], to);
            }),
            Op::MaxPool { x, window, out } => buffers.write(out, |buffers, out_values| {
                let columns = shape(x).columns;
                let x = &buffers.values[x.0][..len(x)];
                images::max_pool(x, window, columns, &mut out_values[..len(out)]);
            }),
            Op::Mean { x, out } => buffers.write(out, |buffers, out_values| {
                let (rows, columns) = (shape(x).rows, shape(x).columns);
                images::mean(&buffers.values[x.0][..len(x)], rows, columns, &mut out_values[..len(out)]);
            }),
            Op::Conv { x, window, weight, bias, residual, activation, out, .. } => {
                let (columns, n) = (shape(x).columns, shape(out).columns);
                let (weight, bias) = (self.weight(weight), self.weight(bias));
                let in_place = op.keeps(out);
                buffers.write(out, |buffers, out_values| {
                    let residual = match residual {
                        Some(_) if in_place => kernels::Residual::InPlace,
                        Some(residual) => kernels::Residual::Values(&buffers.values[residual.0]),
                        None => kernels::Residual::None,
                    };
                    let epilogue = kernels::Epilogue { bias: Some(&bias), residual, activation };
                    let k = window.kernel * window.kernel * columns;
                    let weight = Matrix::new(&weight, k, n, n);
                    let x = &buffers.values[x.0][..len(x)];
                    images::convolve(x, window, columns, weight, &epilogue, &mut out_values[..len(out)]);
                });
            }
            _ => unreachable!("not an operation on images"),
        }
    }
}

/// The values of one weight.
fn generate(weight: &Weight, seed: u64, tensor: usize, precision: Precision) -> Vec<f32> {
    let mut values = vec![0.0; weight.len()];
    let fill = |(block, values): (usize, &mut [f32])| {
        weight.fill(values, seed, tensor, (block * BLOCK) as u64, precision);
    };
    values.par_chunks_mut(BLOCK).enumerate().for_each(fill);
    values
}

/// The index of the value of the largest magnitude.
fn largest(values: &[f32]) -> usize {
    (0..values.len()).max_by(|&a, &b| values[a].abs().total_cmp(&values[b].abs())).unwrap_or(0)
}

impl Buffers {
    /// Lets `body` write one buffer while it reads the others.
    fn write(&mut self, out: BufferId, body: impl FnOnce(&mut Buffers, &mut [f32])) {
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
    /// Of a network that only transfers: where the input comes from, where the output goes.
    outside: Vec<Vec<f32>>,
}

impl Cpu {
    /// Generates the weights.
    ///
    /// # Errors
    /// A precision other than fp32, or more weights than the machine has memory for.
    pub fn new(name: String, network: Network, settings: Settings) -> Result<Cpu> {
        if settings.precision != Precision::Fp32 {
            bail!("the CPU device computes in fp32 only, not in {}", settings.precision);
        }
        let need = super::Need { weights: network.weight_bytes(Precision::Fp32), ..super::Need::default() };
        let free = crate::machine::host::available_memory_bytes();
        need.refuse_unless_it_fits(&name, free, "the machine")?;
        let mut executor = Executor::new(network, settings.seed, settings.precision).with_all_weights();
        if let Some(corruption) = settings.corruption {
            executor.corrupt(corruption);
        }
        Ok(Cpu { name, executor, settings, lanes: Vec::new(), pending: Vec::new(), outside: Vec::new() })
    }

    /// What a network without operations does: it copies between buffers and memory that plays the
    /// host's part.
    fn transfer(&mut self, lane: usize, batch: usize) {
        let network = &self.executor.network;
        let Some((input, output)) = network.input().zip(network.output()) else { return };
        let values = &mut self.lanes[lane].values;
        let (exchange, outside) = (network.exchange, &mut self.outside);
        if exchange.has_input() && self.settings.transfers {
            let len = network.buffers[input.0].len(batch);
            kernels::copy(&outside[0][..len], &mut values[input.0][..len]);
        }
        if exchange.has_output() && self.settings.transfers {
            let len = network.buffers[output.0].len(batch);
            kernels::copy(&values[output.0][..len], &mut outside[1][..len]);
        }
    }
}

impl Workload for Cpu {
    fn prepare(&mut self, batch_sizes: &[usize], lanes: usize) -> Result<()> {
        let batch = batch_sizes.iter().copied().max().context("no batch size given")?;
        let network = &self.executor.network;
        let lane_bytes = network.buffer_bytes(batch as u64, Precision::Fp32);
        let need = super::Need { weights: 0, lane: lane_bytes, lanes, batch };
        need.refuse_unless_it_fits(
            &self.name,
            crate::machine::host::available_memory_bytes(),
            "the machine",
        )?;
        self.lanes = (0..lanes).map(|_| self.executor.loaded(0, batch)).collect();
        self.pending = vec![0; lanes];
        if network.ops.is_empty() && network.exchange != Exchange::InOut {
            let ends = [network.input(), network.output()];
            self.outside = ends.into_iter().flatten().map(|b| self.lanes[0].values[b.0].clone()).collect();
        }
        Ok(())
    }

    fn issue(&mut self, lane: usize, batch: usize) -> Result<()> {
        self.pending[lane] = batch;
        Ok(())
    }

    fn wait(&mut self, lane: usize) -> Result<()> {
        if !self.outside.is_empty() {
            self.transfer(lane, self.pending[lane]);
        }
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
            for out in op.outs().filter(|&out| !op.keeps(out)) {
                buffers.values[out.0].fill(f32::NAN);
            }
            self.executor.run(op, buffers, batch);
            for out in op.outs() {
                let len = self.executor.network.buffers[out.0].len(1);
                for &sample in samples {
                    visit(index, out, sample, &buffers.values[out.0][sample * len..][..len]);
                }
            }
        }
        Ok(())
    }

    fn checked_output(&mut self, batch: usize) -> Result<Option<Vec<f32>>> {
        let network = &self.executor.network;
        let Some(output) = network.output() else { return Ok(None) };
        let len = network.buffers[output.0].len(batch);
        let outwards = !self.outside.is_empty() && network.exchange.has_output();
        if outwards {
            self.outside[1].fill(f32::NAN);
        } else {
            self.lanes[0].values[output.0].fill(f32::NAN);
        }
        self.issue(0, batch)?;
        self.wait(0)?;
        let values = if outwards { &self.outside[1] } else { &self.lanes[0].values[output.0] };
        Ok(Some(values[..len].to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::model::{self, Activation, Bert, Element, Init, Llama, Weight, plain};

    const SEED: u64 = 11;

    fn settings(corruption: Option<Corruption>) -> Settings {
        Settings { seed: SEED, threads: 2, corruption, ..Settings::default() }
    }

    fn outputs(network: &Network, batch: usize) -> (Vec<f32>, Vec<f64>) {
        let mut cpu = Cpu::new("test".into(), network.clone(), settings(None)).unwrap();
        cpu.prepare(&[batch], 1).unwrap();
        let got = cpu.checked_output(batch).unwrap().unwrap();
        let weights = plain::weights(network, SEED, Precision::Fp32);
        let mut buffers = plain::input(network, SEED, Precision::Fp32, batch);
        plain::run(network, batch, &weights, &mut buffers);
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
        let weight = |rows, columns| Weight::new("", rows, columns, Init::spread(1.0 / (rows as f32).sqrt()));
        let buffer = |rows, columns| model::Buffer::new(rows, columns, Element::Value);
        Network {
            weights: vec![weight(k, n), weight(1, n)],
            buffers: vec![buffer(rows * row_step, k), buffer(rows, n)],
            ops: vec![Op::Linear {
                x: BufferId(0),
                first_row: 0,
                row_step,
                weight: WeightId(0),
                bias: Some(WeightId(1)),
                residual: None,
                activation,
                out: BufferId(1),
            }],
            ..Network::default()
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
    fn every_operation_of_every_network_agrees_with_f64() {
        for (whole, bound) in [
            (model::bert(Bert::TINY, 13), 1e-5),
            (model::llama_decode(Llama::TINY, 33), 1e-5),
            (model::llama_prefill(Llama::TINY, 7), 1e-5),
            (model::resnet50(32), 3e-5),
        ] {
            let weights = plain::weights(&whole, SEED, Precision::Fp32);
            let mut truth = plain::input(&whole, SEED, Precision::Fp32, 2);
            let executor = Executor::new(whole.clone(), SEED, Precision::Fp32);
            let mut buffers = executor.loaded(0, 2);
            for op in &whole.ops {
                let part = Network { ops: vec![op.clone()], ..whole.clone() };
                plain::run(&part, 2, &weights, &mut truth);
                executor.run(op, &mut buffers, 2);
                for out in op.outs() {
                    let error = max_norm(&buffers.values[out.0], &truth[out.0]);
                    assert!(error < bound, "after {op:?}: {error:e}");
                }
            }
        }
    }

    #[test]
    fn the_flipped_weight_meets_the_largest_input_of_the_row_that_is_multiplied() {
        let mut network = linear(1, 65, 33, 3, Activation::None);
        let Op::Linear { first_row, .. } = &mut network.ops[0] else { panic!() };
        *first_row = 2;
        let output = |corruption| {
            let mut cpu = Cpu::new("test".into(), network.clone(), settings(corruption)).unwrap();
            cpu.prepare(&[1], 1).unwrap();
            cpu.checked_output(1).unwrap().unwrap()
        };
        let (right, wrong) = (output(None), output(Some(Corruption::FlipWeight)));
        let largest = |values: &[f64]| values.iter().fold(0f64, |m, v| m.max(v.abs()));
        let off: Vec<f64> = right.iter().zip(wrong).map(|(r, w)| f64::from(r - w)).collect();
        let x = &plain::input(&network, SEED, Precision::Fp32, 1)[0][2 * 65..];
        let row = x.iter().position(|v| v.abs() == largest(x)).unwrap();
        let weights = &plain::weights(&network, SEED, Precision::Fp32)[0][row * 33..][..33];
        let weights: Vec<f64> = weights.iter().map(|&w| f64::from(w)).collect();
        let expected = 2.0 * largest(x) * largest(&weights);
        assert!((largest(&off) / expected - 1.0).abs() < 1e-4, "{} is not {expected}", largest(&off));
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
