//! The meaning of every [`Op`], in plain f64 loops: what the devices are compared with.
//!
//! Slow on purpose: nothing here is blocked, fused or reordered, so that it can be read against the
//! formulas in [`Op`]'s documentation.

use super::{Activation, Element, Network, Op};

/// Runs the operations on given weights (one vector a [`super::Weight`]) and a given input: token
/// ids as numbers, or values. Returns every buffer.
pub fn run(net: &Network, weights: &[Vec<f64>], input: &[f64], batch: usize) -> Vec<Vec<f64>> {
    let mut buffers: Vec<Vec<f64>> = net.buffers.iter().map(|b| vec![f64::NAN; b.len(batch)]).collect();
    if let Some(first) = buffers.first_mut() {
        first.copy_from_slice(input);
    }
    for op in &net.ops {
        let (out, values) = match *op {
            Op::Embed { tokens, word, position, segment, out } => {
                let h = net.buffers[out.0].columns;
                let rows = net.buffers[out.0].rows;
                let ids = &buffers[tokens.0];
                let value = |r: usize, c: usize| {
                    weights[word.0][ids[r] as usize * h + c]
                        + weights[position.0][r % rows * h + c]
                        + weights[segment.0][c]
                };
                (out, table(batch * rows, h, value))
            }
            Op::Linear { x, row_step, weight, bias, activation, out } => {
                let (k, n) = (net.weights[weight.0].rows, net.weights[weight.0].columns);
                let (x, w, b) = (&buffers[x.0], &weights[weight.0], &weights[bias.0]);
                let value = |r: usize, c: usize| {
                    let sum: f64 = (0..k).map(|i| x[r * row_step * k + i] * w[i * n + c]).sum();
                    activate(activation, sum + b[c])
                };
                (out, table(batch * net.buffers[out.0].rows, n, value))
            }
            Op::AddNorm { x, residual, gamma, beta, epsilon, out } => {
                let h = net.buffers[out.0].columns;
                let sum = |r: usize, c: usize| {
                    buffers[x.0][r * h + c] + residual.map_or(0.0, |s| buffers[s.0][r * h + c])
                };
                let value = |r: usize, c: usize| {
                    let mean = (0..h).map(|i| sum(r, i)).sum::<f64>() / h as f64;
                    let variance = (0..h).map(|i| (sum(r, i) - mean).powi(2)).sum::<f64>() / h as f64;
                    let normal = (sum(r, c) - mean) / (variance + f64::from(epsilon)).sqrt();
                    normal * weights[gamma.0][c] + weights[beta.0][c]
                };
                (out, table(batch * net.buffers[out.0].rows, h, value))
            }
            Op::Attention { qkv, heads, out } => {
                let (rows, h) = (net.buffers[out.0].rows, net.buffers[out.0].columns);
                (out, attention(&buffers[qkv.0], batch, rows, heads, h / heads))
            }
        };
        buffers[out.0] = values;
    }
    buffers
}

/// The network's own weights, as a device of this precision holds them.
pub fn weights(net: &Network, seed: u64, precision: crate::workload::Precision) -> Vec<Vec<f64>> {
    let generate = |(tensor, weight): (usize, &super::Weight)| {
        let mut values = vec![0f32; weight.len()];
        let key = super::random::tensor_key(seed, tensor as u32);
        super::random::fill(&mut values, key, 0, weight.columns, weight.init, precision);
        values.into_iter().map(f64::from).collect()
    };
    net.weights.iter().enumerate().map(generate).collect()
}

/// The network's own input for a batch.
pub fn input(net: &Network, seed: u64, precision: crate::workload::Precision, batch: usize) -> Vec<f64> {
    let Some(first) = net.buffers.first() else { return Vec::new() };
    if first.element == Element::Value {
        let mut values = vec![0f32; first.len(batch)];
        net.input_values(seed, 0, precision, &mut values);
        values.into_iter().map(f64::from).collect()
    } else {
        let mut ids = vec![0u32; first.len(batch)];
        net.input_tokens(seed, 0, &mut ids);
        ids.into_iter().map(f64::from).collect()
    }
}

fn table(rows: usize, columns: usize, value: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    (0..rows * columns).map(|i| value(i / columns, i % columns)).collect()
}

fn attention(qkv: &[f64], batch: usize, rows: usize, heads: usize, d: usize) -> Vec<f64> {
    let stride = 3 * heads * d;
    let at = |sample: usize, row: usize, part: usize, head: usize, i: usize| {
        qkv[(sample * rows + row) * stride + (part * heads + head) * d + i]
    };
    let mut out = vec![0.0; batch * rows * heads * d];
    for (sample, row, head) in
        (0..batch).flat_map(|s| (0..rows).flat_map(move |r| (0..heads).map(move |h| (s, r, h))))
    {
        let dot = |other: usize| {
            (0..d).map(|i| at(sample, row, 0, head, i) * at(sample, other, 1, head, i)).sum::<f64>()
        };
        let scores: Vec<f64> = (0..rows).map(|other| dot(other) / (d as f64).sqrt()).collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
        let total: f64 = weights.iter().sum();
        for i in 0..d {
            let sum: f64 = (0..rows).map(|other| weights[other] * at(sample, other, 2, head, i)).sum();
            out[((sample * rows + row) * heads + head) * d + i] = sum / total;
        }
    }
    out
}

fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::None => x,
        Activation::Relu => x.max(0.0),
        Activation::Gelu => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
        Activation::Tanh => x.tanh(),
    }
}

/// The error function by its Maclaurin series for small arguments and by the continued fraction of
/// its complement for large ones (Abramowitz and Stegun, 7.1.5 and 7.1.14); both to about 1e-15.
fn erf(x: f64) -> f64 {
    let z = x.abs();
    let value = if z < 2.5 {
        let (mut term, mut sum) = (z, z);
        for n in 1..80 {
            let n = f64::from(n);
            term *= -z * z / n;
            sum += term / (2.0 * n + 1.0);
        }
        2.0 / std::f64::consts::PI.sqrt() * sum
    } else {
        let fraction = (1..=120).rev().fold(0.0, |tail, n| f64::from(n) / 2.0 / (z + tail));
        1.0 - (-z * z).exp() / std::f64::consts::PI.sqrt() / (z + fraction)
    };
    value.copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_has_its_tabulated_values() {
        // Abramowitz and Stegun, table 7.1 and 7.3.
        for (x, y) in [(0.0, 0.0), (0.5, 0.520_499_877_8), (1.0, 0.842_700_792_9), (2.0, 0.995_322_265_0)] {
            assert!((erf(x) - y).abs() < 1e-10 && (erf(-x) + y).abs() < 1e-10, "{x}");
        }
        assert!((erf(2.499_999) - erf(2.500_001)).abs() < 1e-8);
        assert!((erf(3.0) - 0.999_977_909_503).abs() < 1e-11);
    }
}
