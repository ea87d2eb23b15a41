//! What the operations mean, in f64 and plain loops: the yardstick of both devices.
//!
//! Written for being obviously right, shared with no other implementation, and fed the same rounded
//! numbers as the device under test.

use super::op::Window;
use super::{Activation, BufferId, Network, Op, Weight};
use crate::workload::Precision;
use rayon::prelude::*;

/// The network's weights as the device stores them.
pub fn weights(network: &Network, seed: u64, precision: Precision) -> Vec<Vec<f32>> {
    let weight = |(i, w): (usize, &Weight)| {
        let mut values = vec![0.0; w.len()];
        w.fill(&mut values, seed, i, 0, precision);
        values
    };
    network.weights.iter().enumerate().map(weight).collect()
}

/// Every buffer before the first batch; NaN where there is nothing yet.
pub fn input(network: &Network, seed: u64, precision: Precision, batch: usize) -> Vec<Vec<f64>> {
    let buffer = |id: usize| {
        let mut values = vec![f32::NAN; network.buffers[id].len(batch)];
        network.contents(BufferId(id), seed, 0, precision, &mut values);
        values.iter().map(|&v| f64::from(v)).collect()
    };
    (0..network.buffers.len()).map(buffer).collect()
}

/// Runs all operations on `buffers`, which hold `batch` samples each, ids as numbers; nothing is
/// rounded between operations.
pub fn run(network: &Network, batch: usize, weights: &[Vec<f32>], buffers: &mut [Vec<f64>]) {
    for op in &network.ops {
        run_one(op, network, batch, weights, buffers);
    }
}

fn run_one(op: &Op, network: &Network, batch: usize, weights: &[Vec<f32>], buffers: &mut [Vec<f64>]) {
    let shape = |id: BufferId| (network.buffers[id.0].rows, network.buffers[id.0].columns);
    match *op {
        Op::Embed { tokens, word, position, segment, out } => {
            let (rows, columns) = shape(out);
            let ids = buffers[tokens.0].clone();
            for (r, row) in buffers[out.0].chunks_exact_mut(columns).enumerate() {
                for (c, value) in row.iter_mut().enumerate() {
                    let word = weights[word.0][ids[r] as usize * columns + c];
                    let position = weights[position.0][r % rows * columns + c];
                    *value = f64::from(word) + f64::from(position) + f64::from(weights[segment.0][c]);
                }
            }
        }
        Op::Lookup { tokens, table, out } => {
            let columns = shape(out).1;
            let of = |&id: &f64| &weights[table.0][id as usize * columns..][..columns];
            let rows = buffers[tokens.0].iter().flat_map(of);
            buffers[out.0] = rows.map(|&v| f64::from(v)).collect();
        }
        Op::Linear { x, first_row, row_step, weight, bias, residual, activation, out } => {
            let (k, n) = (network.weights[weight.0].rows, network.weights[weight.0].columns);
            let x: Vec<&[f64]> = buffers[x.0].chunks_exact(k).skip(first_row).step_by(row_step).collect();
            let rows: Vec<Vec<f64>> = x
                .par_iter()
                .map(|x| linear(x, &weights[weight.0], bias.map(|b| &weights[b.0][..]), n))
                .collect();
            finish(rows.concat(), residual, activation, out, buffers);
        }
        Op::AddNorm { x, residual, gamma, beta, epsilon, out } => {
            let mut sum = buffers[x.0].clone();
            if let Some(residual) = residual {
                sum.iter_mut().zip(&buffers[residual.0]).for_each(|(s, r)| *s += r);
            }
            for row in sum.chunks_exact_mut(shape(x).1) {
                norm(row, &weights[gamma.0], &weights[beta.0], f64::from(epsilon));
            }
            buffers[out.0] = sum;
        }
        Op::RmsNorm { x, epsilon, out } => {
            let mut values = buffers[x.0].clone();
            for row in values.chunks_exact_mut(shape(x).1) {
                let square = row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64;
                let factor = 1.0 / (square + f64::from(epsilon)).sqrt();
                row.iter_mut().for_each(|v| *v *= factor);
            }
            buffers[out.0] = values;
        }
        Op::Attention { qkv, heads, out } => {
            let (seq_len, columns) = shape(out);
            let samples: Vec<Vec<f64>> = buffers[qkv.0]
                .par_chunks_exact(seq_len * 3 * columns)
                .map(|qkv| attention(qkv, seq_len, heads, columns / heads))
                .collect();
            buffers[out.0] = samples.concat();
        }
        Op::Rotate { qkv, heads, kv_heads, angles, cache } => {
            let (angles, columns) = (&weights[angles.0], shape(qkv).1);
            let ((rows, _), (context, wide)) = (shape(qkv), shape(cache));
            let width = wide / 2 / kv_heads;
            for r in 0..batch * rows {
                let row = &mut buffers[qkv.0][r * columns..][..columns];
                let angles = &angles[r % rows * width..][..width];
                let mut keys = row[heads * width..].to_vec();
                row[..heads * width].chunks_exact_mut(width).for_each(|head| rotate(head, angles));
                keys[..kv_heads * width].chunks_exact_mut(width).for_each(|head| rotate(head, angles));
                let place = (r / rows * context + context - rows + r % rows) * wide;
                buffers[cache.0][place..][..wide].copy_from_slice(&keys);
            }
        }
        Op::CachedAttention { qkv, heads, kv_heads, cache, out } => {
            let ((rows, columns), (context, wide), wide_q) = (shape(out), shape(cache), shape(qkv).1);
            let (width, group) = (columns / heads, heads / kv_heads);
            let mut result = vec![0.0; buffers[out.0].len()];
            for (r, row) in result.chunks_exact_mut(columns).enumerate() {
                let seen = context - rows + 1 + r % rows;
                let cache = &buffers[cache.0][r / rows * context * wide..][..seen * wide];
                for (head, row) in row.chunks_exact_mut(width).enumerate() {
                    let query = &buffers[qkv.0][r * wide_q + head * width..][..width];
                    let keys = cache.chunks_exact(wide).map(|c| &c[head / group * width..][..width]);
                    let values =
                        cache.chunks_exact(wide).map(|c| &c[wide / 2 + head / group * width..][..width]);
                    weigh(query, keys, values, row);
                }
            }
            buffers[out.0] = result;
        }
        Op::Argmax { x, out } => {
            let largest = |row: &[f64]| {
                (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best }) as f64
            };
            buffers[out.0] = buffers[x.0].chunks_exact(shape(x).1).map(largest).collect();
        }
        Op::Pad { x, out } => {
            let (from, to) = (shape(x).1, shape(out).1);
            let pad = |row: &[f64]| [row, &vec![0.0; to - from]].concat();
            buffers[out.0] = buffers[x.0].chunks_exact(from).flat_map(pad).collect();
        }
        Op::Conv { x, window, weight, bias, residual, activation, out, .. } => {
            let n = shape(out).1;
            let pixels: Vec<Vec<f64>> = windows(&buffers[x.0], window, shape(x).1)
                .map(|seen| seen.into_iter().map(|p| p.map_or(vec![0.0; shape(x).1], <[f64]>::to_vec)))
                .map(|seen| seen.collect::<Vec<_>>().concat())
                .collect();
            let rows: Vec<Vec<f64>> =
                pixels.par_iter().map(|x| linear(x, &weights[weight.0], Some(&weights[bias.0]), n)).collect();
            finish(rows.concat(), residual, activation, out, buffers);
        }
        Op::MaxPool { x, window, out } => {
            let columns = shape(x).1;
            let largest = |seen: Vec<Option<&[f64]>>| {
                (0..columns)
                    .map(|c| seen.iter().flatten().fold(f64::NEG_INFINITY, |m, pixel| m.max(pixel[c])))
                    .collect::<Vec<_>>()
            };
            buffers[out.0] = windows(&buffers[x.0], window, columns).flat_map(largest).collect();
        }
        Op::Mean { x, out } => {
            let (rows, columns) = shape(x);
            let mean = |sample: &[f64]| {
                (0..columns)
                    .map(|c| sample.iter().skip(c).step_by(columns).sum::<f64>() / rows as f64)
                    .collect::<Vec<_>>()
            };
            buffers[out.0] = buffers[x.0].chunks_exact(rows * columns).flat_map(mean).collect();
        }
        Op::Copy { x, out } => buffers[out.0] = buffers[x.0].clone(),
        Op::Nothing => {}
    }
}

/// Residual and activation.
fn finish(
    mut values: Vec<f64>,
    residual: Option<BufferId>,
    activation: Activation,
    out: BufferId,
    buffers: &mut [Vec<f64>],
) {
    if let Some(residual) = residual {
        values.iter_mut().zip(&buffers[residual.0]).for_each(|(v, r)| *v += r);
    }
    buffers[out.0] = match activation {
        Activation::None => values,
        Activation::Relu => values.iter().map(|v| v.max(0.0)).collect(),
        Activation::Gelu => values.iter().map(|v| v / 2.0 * (1.0 + erf(v / 2f64.sqrt()))).collect(),
        Activation::Tanh => values.iter().map(|v| v.tanh()).collect(),
        Activation::SwiGlu => values.chunks_exact(2).map(|v| v[0] / (1.0 + (-v[0]).exp()) * v[1]).collect(),
    };
}

/// What each position of the window sees, pixel by pixel, of every sample; nothing outside the image.
fn windows(x: &[f64], window: Window, columns: usize) -> impl Iterator<Item = Vec<Option<&[f64]>>> {
    let Window { side, kernel, stride, padding } = window;
    let positions = window.positions();
    let at = move |sample: usize, y: usize, x_position: usize| {
        let pixel = |i: usize| {
            let row = (y * stride + i / kernel).checked_sub(padding).filter(|&row| row < side)?;
            let column = (x_position * stride + i % kernel).checked_sub(padding).filter(|&c| c < side)?;
            Some(&x[((sample * side + row) * side + column) * columns..][..columns])
        };
        (0..kernel * kernel).map(pixel).collect()
    };
    let samples = x.len() / (side * side * columns);
    (0..samples * positions * positions)
        .map(move |i| at(i / positions / positions, i / positions % positions, i % positions))
}

/// Two halves of a head against each other.
fn rotate(head: &mut [f64], angles: &[f32]) {
    let half = head.len() / 2;
    for i in 0..half {
        let (cosine, sine) = (f64::from(angles[i]), f64::from(angles[half + i]));
        let (a, b) = (head[i], head[half + i]);
        (head[i], head[half + i]) = (a * cosine - b * sine, b * cosine + a * sine);
    }
}

/// `out` += softmax of the query with the keys, times the values.
fn weigh<'a>(
    query: &[f64],
    keys: impl Iterator<Item = &'a [f64]>,
    values: impl Iterator<Item = &'a [f64]>,
    out: &mut [f64],
) {
    let dot =
        |key: &[f64]| query.iter().zip(key).map(|(a, b)| a * b).sum::<f64>() / (query.len() as f64).sqrt();
    let scores: Vec<f64> = keys.map(dot).collect();
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
    for (score, value) in scores.iter().zip(values) {
        let share = (score - largest).exp() / total;
        out.iter_mut().zip(value).for_each(|(o, v)| *o += share * v);
    }
}

fn linear(x: &[f64], weight: &[f32], bias: Option<&[f32]>, n: usize) -> Vec<f64> {
    let mut out: Vec<f64> = (0..n).map(|c| bias.map_or(0.0, |bias| f64::from(bias[c]))).collect();
    for (x, row) in x.iter().zip(weight.chunks_exact(n)) {
        out.iter_mut().zip(row).for_each(|(o, &w)| *o += x * f64::from(w));
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
            let out = &mut out[row * columns + head * width..][..width];
            let of = |which| (0..seq_len).map(move |other| part(other, which, head));
            weigh(part(row, 0, head), of(1), of(2), out);
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
