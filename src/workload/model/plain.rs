//! What the operations mean, in f64 and plain loops: the yardstick of both devices.
//!
//! Written for being obviously right, shared with no other implementation, and fed the same rounded
//! numbers as the device under test.

use super::{Activation, Element, Network, Op, Weight, random};
use crate::workload::Precision;
use rayon::prelude::*;

/// The network's weights as the device stores them.
pub fn weights(network: &Network, seed: u64, precision: Precision) -> Vec<Vec<f32>> {
    let weight = |(i, w): (usize, &Weight)| {
        let mut values = vec![0.0; w.len()];
        random::fill(&mut values, random::tensor_key(seed, i as u32), 0, w.columns, w.init, precision);
        values
    };
    network.weights.iter().enumerate().map(weight).collect()
}

/// The input of a batch: token ids (none for a network of values) and every buffer, of which only
/// the first holds something.
pub fn input(network: &Network, seed: u64, precision: Precision, batch: usize) -> (Vec<u32>, Vec<Vec<f64>>) {
    let mut buffers: Vec<_> = network.buffers.iter().map(|b| vec![f64::NAN; b.len(batch)]).collect();
    let len = network.buffers[0].len(batch);
    if network.buffers[0].element == Element::Value {
        let mut values = vec![0.0; len];
        network.input_values(seed, 0, precision, &mut values);
        buffers[0] = values.iter().map(|&v| f64::from(v)).collect();
        return (Vec::new(), buffers);
    }
    let mut tokens = vec![0; len];
    network.input_tokens(seed, 0, &mut tokens);
    (tokens, buffers)
}

/// Runs all operations on `buffers`, which hold `batch` samples each; nothing is rounded between
/// operations. A buffer of tokens is unused: they are in `tokens`.
pub fn run(network: &Network, batch: usize, weights: &[Vec<f32>], tokens: &[u32], buffers: &mut [Vec<f64>]) {
    for op in &network.ops {
        match *op {
            Op::Embed { word, position, segment, out, .. } => {
                let (rows, columns) = (network.buffers[out.0].rows, network.buffers[out.0].columns);
                for (r, row) in buffers[out.0].chunks_exact_mut(columns).enumerate() {
                    for (c, value) in row.iter_mut().enumerate() {
                        let word = weights[word.0][tokens[r] as usize * columns + c];
                        let position = weights[position.0][r % rows * columns + c];
                        *value = f64::from(word) + f64::from(position) + f64::from(weights[segment.0][c]);
                    }
                }
            }
            Op::Linear { x, row_step, weight, bias, activation, out } => {
                let shape = &network.weights[weight.0];
                let (k, n) = (shape.rows, shape.columns);
                let x: Vec<&[f64]> = buffers[x.0].chunks_exact(k).step_by(row_step).collect();
                let out_rows: Vec<Vec<f64>> = x
                    .par_iter()
                    .map(|x| linear(x, &weights[weight.0], &weights[bias.0], n, activation))
                    .collect();
                buffers[out.0] = out_rows.concat();
            }
            Op::AddNorm { x, residual, gamma, beta, epsilon, out } => {
                let columns = network.buffers[x.0].columns;
                let mut sum = buffers[x.0].clone();
                if let Some(residual) = residual {
                    sum.iter_mut().zip(&buffers[residual.0]).for_each(|(s, r)| *s += r);
                }
                for row in sum.chunks_exact_mut(columns) {
                    norm(row, &weights[gamma.0], &weights[beta.0], f64::from(epsilon));
                }
                buffers[out.0] = sum;
            }
            Op::Attention { qkv, heads, out } => {
                let (seq_len, columns) = (network.buffers[out.0].rows, network.buffers[out.0].columns);
                let samples: Vec<Vec<f64>> = buffers[qkv.0]
                    .par_chunks_exact(seq_len * 3 * columns)
                    .map(|qkv| attention(qkv, seq_len, heads, columns / heads))
                    .collect();
                buffers[out.0] = samples.concat();
            }
        }
        debug_assert!(batch > 0);
    }
}

fn linear(x: &[f64], weight: &[f32], bias: &[f32], n: usize, activation: Activation) -> Vec<f64> {
    let mut out: Vec<f64> = bias.iter().map(|&b| f64::from(b)).collect();
    for (x, row) in x.iter().zip(weight.chunks_exact(n)) {
        out.iter_mut().zip(row).for_each(|(o, &w)| *o += x * f64::from(w));
    }
    for v in &mut out {
        *v = match activation {
            Activation::None => *v,
            Activation::Relu => v.max(0.0),
            Activation::Gelu => *v / 2.0 * (1.0 + erf(*v / 2f64.sqrt())),
            Activation::Tanh => v.tanh(),
        };
    }
    out
}

fn norm(row: &mut [f64], gamma: &[f32], beta: &[f32], epsilon: f64) {
    let n = row.len() as f64;
    let mean = row.iter().sum::<f64>() / n;
    let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
    for (c, v) in row.iter_mut().enumerate() {
        *v = (*v - mean) / (variance + epsilon).sqrt() * f64::from(gamma[c]) + f64::from(beta[c]);
    }
}

/// One sample.
fn attention(qkv: &[f64], seq_len: usize, heads: usize, width: usize) -> Vec<f64> {
    let columns = heads * width;
    let part = |row: usize, which: usize, head: usize| {
        let start = row * 3 * columns + which * columns + head * width;
        &qkv[start..start + width]
    };
    let mut out = vec![0.0; seq_len * columns];
    for head in 0..heads {
        for row in 0..seq_len {
            let dot = |other: usize| {
                let (q, k) = (part(row, 0, head), part(other, 1, head));
                q.iter().zip(k).map(|(a, b)| a * b).sum::<f64>() / (width as f64).sqrt()
            };
            let scores: Vec<f64> = (0..seq_len).map(dot).collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
            let out = &mut out[row * columns + head * width..][..width];
            for (other, score) in scores.iter().enumerate() {
                let share = (score - largest).exp() / total;
                out.iter_mut().zip(part(other, 2, head)).for_each(|(o, v)| *o += share * v);
            }
        }
    }
    out
}

/// The error function by the series 2/√π e^(-x²) Σ 2ⁿ x^(2n+1) / (1·3·…·(2n+1)), whose terms all
/// have one sign (Abramowitz and Stegun 7.1.6).
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum(); // 1 - erf(6) is below 1e-16
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_has_its_tabulated_values() {
        // Abramowitz and Stegun, table 7.1.
        for (x, value) in
            [(0.0, 0.0), (0.5, 0.5204998778), (1.0, 0.8427007929), (-2.0, -0.9953222650), (5.9, 1.0)]
        {
            assert!((erf(x) - value).abs() < 1e-10, "{x}: {}", erf(x));
        }
    }

    #[test]
    fn attention_of_one_token_is_its_value() {
        let qkv: Vec<f64> = (0..12).map(f64::from).collect();
        assert_eq!(attention(&qkv, 1, 2, 2), [8.0, 9.0, 10.0, 11.0]);
    }
}
