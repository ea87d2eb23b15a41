//! The loops of the CPU device: matrix products by the `gemm` crate, the elementwise rest here,
//! compiled for each instruction set the processor may have.
//!
//! fp32 throughout, rows spread over rayon's threads.

use crate::workload::model::{Activation, Buffer};
use gemm::Parallelism;
use rayon::prelude::*;
use std::cell::RefCell;

/// Fewer elements than this are not worth waking another thread for.
const GRAIN: usize = 16 * 1024;

/// A row-major matrix within a slice.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
}

impl<'a> Matrix<'a> {
    /// `rows` x `columns` with `row_stride` elements from row to row.
    ///
    /// # Panics
    /// If the slice is too short for it.
    pub fn new(values: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(columns <= row_stride && (rows == 0 || values.len() >= (rows - 1) * row_stride + columns));
        Matrix { values, rows, columns, row_stride }
    }
}

/// What is added to a product before its activation.
#[derive(Clone, Copy)]
pub enum Residual<'a> {
    /// Nothing.
    None,
    /// What is in the output already.
    InPlace,
    /// As many values as the output has.
    Values(&'a [f32]),
}

/// What follows a product.
pub struct Epilogue<'a> {
    /// One element a column.
    pub bias: Option<&'a [f32]>,
    /// Added.
    pub residual: Residual<'a>,
    /// Applied last.
    pub activation: Activation,
}

/// `out = activation(x · w + bias + residual)`; `out` is dense.
pub fn linear(x: Matrix, w: Matrix, epilogue: &Epilogue, out: &mut [f32]) {
    let n = w.columns;
    assert!(x.columns == w.rows && out.len() == x.rows * epilogue.activation.columns(n));
    if epilogue.activation == Activation::SwiGlu {
        let mut pairs = vec![0.0; x.rows * n];
        let plain = Epilogue { activation: Activation::None, ..*epilogue };
        linear(x, w, &plain, &mut pairs);
        out.par_chunks_mut(GRAIN).zip(pairs.par_chunks(2 * GRAIN)).for_each(|(out, pairs)| {
            for (out, pair) in out.iter_mut().zip(pairs.chunks_exact(2)) {
                *out = pair[0] / (1.0 + exp(-pair[0])) * pair[1];
            }
        });
        return;
    }
    let strides = ((w.row_stride as isize, 1), (n as isize, 1));
    let add = matches!(epilogue.residual, Residual::InPlace);
    product(x, w, strides.0, (out.as_mut_ptr(), add), strides.1, (x.rows, n, x.columns), 1.0, threads());
    let block = (GRAIN / n).max(1) * n;
    out.par_chunks_mut(block).enumerate().for_each(|(i, rows)| {
        pulp::Arch::new().dispatch(
            #[inline(always)]
            || {
                if let Residual::Values(residual) = epilogue.residual {
                    rows.iter_mut().zip(&residual[i * block..]).for_each(|(value, r)| *value += r);
                }
                for row in rows.chunks_exact_mut(n) {
                    if let Some(bias) = epilogue.bias {
                        row.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
                    }
                    activate(epilogue.activation, row);
                }
            },
        )
    });
}

fn threads() -> Parallelism {
    match rayon::current_num_threads() {
        1 => Parallelism::None,
        n => Parallelism::Rayon(n),
    }
}

/// `out = scale · x · w`, or that added to it, with (row, column) strides for `w` and `out`; `shape` is (m, n, k).
#[expect(clippy::too_many_arguments, reason = "a matrix product has that many")]
fn product(
    x: Matrix,
    w: Matrix,
    w_strides: (isize, isize),
    (out, add): (*mut f32, bool),
    out_strides: (isize, isize),
    (m, n, k): (usize, usize, usize),
    scale: f32,
    parallelism: Parallelism,
) {
    // SAFETY: `Matrix` checked that x and w lie within their slices; the callers pass strides that
    // only transpose w, and an `out` of m rows and n columns that nothing else touches.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out,
            out_strides.1,
            out_strides.0,
            add,
            x.values.as_ptr(),
            1,
            x.row_stride as isize,
            w.values.as_ptr(),
            w_strides.1,
            w_strides.0,
            if add { 1.0 } else { 0.0 },
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// `out[r] = word[tokens[r]] + position[r mod positions] + segment`.
pub fn embed(tokens: &[f32], word: &[f32], position: &[f32], segment: &[f32], out: &mut [f32]) {
    let h = segment.len();
    let positions = position.len() / h;
    out.par_chunks_mut(h).with_min_len(GRAIN / h).enumerate().for_each(|(r, out)| {
        let word = &word[tokens[r] as usize * h..][..h];
        let position = &position[r % positions * h..][..h];
        for (c, value) in out.iter_mut().enumerate() {
            *value = word[c] + position[c] + segment[c];
        }
    });
}

/// `out[r] = table[tokens[r]]`.
pub fn lookup(tokens: &[f32], table: &[f32], out: &mut [f32]) {
    let h = out.len() / tokens.len();
    for (out, &token) in out.chunks_exact_mut(h).zip(tokens) {
        out.copy_from_slice(&table[token as usize * h..][..h]);
    }
}

/// `out = x`.
pub fn copy(x: &[f32], out: &mut [f32]) {
    let chunks = out.par_chunks_mut(GRAIN * 16).zip(x.par_chunks(GRAIN * 16));
    chunks.for_each(|(out, x)| out.copy_from_slice(x));
}

/// The position of the largest value, the first of equals.
pub fn first_largest(row: &[f32]) -> usize {
    (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}

/// See [`crate::workload::model::Op::RmsNorm`].
pub fn rms_norm(x: &[f32], columns: usize, epsilon: f32, out: &mut [f32]) {
    let rows = out.par_chunks_mut(columns).zip(x.par_chunks(columns));
    rows.with_min_len(GRAIN / columns).for_each(|(out, x)| {
        let factor = 1.0 / (sum(x, |v| v * v) / columns as f32 + epsilon).sqrt();
        out.iter_mut().zip(x).for_each(|(out, x)| *out = x * factor);
    });
}

/// The shapes of a decoder's attention; see [`crate::workload::model::Op::Rotate`].
pub struct Heads {
    rows: usize,
    context: usize,
    /// Of a row of queries, keys and values, and of the cache.
    columns: usize,
    wide: usize,
    width: usize,
    heads: usize,
    kv_heads: usize,
}

impl Heads {
    /// From the shapes of the two buffers.
    pub fn new(qkv: &Buffer, heads: usize, kv_heads: usize, cache: &Buffer) -> Heads {
        let (rows, columns, wide) = (qkv.rows, qkv.columns, cache.columns);
        Heads { rows, context: cache.rows, columns, wide, width: wide / 2 / kv_heads, heads, kv_heads }
    }

    /// Queries in place; keys and values into the cache. All samples of `qkv`.
    pub fn rotate(&self, qkv: &mut [f32], angles: &[f32], cache: &mut [f32]) {
        for (r, row) in qkv.chunks_exact_mut(self.columns).enumerate() {
            let angles = &angles[r % self.rows * self.width..][..self.width];
            let (queries, rest) = row.split_at_mut(self.heads * self.width);
            queries.chunks_exact_mut(self.width).for_each(|head| turn(head, angles));
            let place = r / self.rows * self.context + self.context - self.rows + r % self.rows;
            let cached = &mut cache[place * self.wide..][..self.wide];
            cached.copy_from_slice(rest);
            cached[..self.wide / 2].chunks_exact_mut(self.width).for_each(|head| turn(head, angles));
        }
    }

    /// Causal attention of all samples of `out`.
    pub fn attend(&self, qkv: &[f32], cache: &[f32], out: &mut [f32]) {
        let d = self.width;
        let rows = out.par_chunks_mut(self.heads * d).enumerate();
        rows.for_each(|(r, out)| {
            let seen = self.context - self.rows + 1 + r % self.rows;
            let cache = &cache[r / self.rows * self.context * self.wide..][..seen * self.wide];
            let mut scores = vec![0.0; seen];
            for (head, out) in out.chunks_exact_mut(d).enumerate() {
                let kv = head / (self.heads / self.kv_heads) * d;
                let query = &qkv[r * self.columns + head * d..][..d];
                let scale = 1.0 / (d as f32).sqrt();
                for (score, row) in scores.iter_mut().zip(cache.chunks_exact(self.wide)) {
                    *score = dot(query, &row[kv..][..d]) * scale;
                }
                softmax(&mut scores);
                out.fill(0.0);
                for (score, row) in scores.iter().zip(cache.chunks_exact(self.wide)) {
                    let values = &row[self.wide / 2 + kv..][..d];
                    out.iter_mut().zip(values).for_each(|(o, v)| *o += score * v);
                }
            }
        });
    }
}

/// The two halves of a head against each other.
fn turn(head: &mut [f32], angles: &[f32]) {
    let half = head.len() / 2;
    let ((first, second), (cosines, sines)) = (head.split_at_mut(half), angles.split_at(half));
    for i in 0..half {
        let (a, b) = (first[i], second[i]);
        first[i] = a * cosines[i] - b * sines[i];
        second[i] = b * cosines[i] + a * sines[i];
    }
}

/// In eight lanes, as [`sum`].
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; 8];
    for (a, b) in a.chunks_exact(8).zip(b.chunks_exact(8)) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    lanes.iter().sum()
}

/// Normalises each row of `x` (+ `residual`) in place; see [`crate::workload::model::Op::AddNorm`].
pub fn add_norm(x: &mut [f32], residual: Option<&[f32]>, gamma: &[f32], beta: &[f32], epsilon: f32) {
    let h = gamma.len();
    let row = |r: usize, x: &mut [f32]| {
        pulp::Arch::new().dispatch(
            #[inline(always)]
            || {
                if let Some(residual) = residual {
                    for (value, residual) in x.iter_mut().zip(&residual[r * h..][..h]) {
                        *value += residual;
                    }
                }
                let mean = sum(x, |v| v) / h as f32;
                let variance = sum(x, |v| (v - mean) * (v - mean)) / h as f32;
                let factor = 1.0 / (variance + epsilon).sqrt();
                for ((value, gamma), beta) in x.iter_mut().zip(gamma).zip(beta) {
                    *value = (*value - mean) * factor * gamma + beta;
                }
            },
        );
    };
    x.par_chunks_mut(h).with_min_len(GRAIN / h).enumerate().for_each(|(r, x)| row(r, x));
}

/// Attention within each of `batch` samples of `rows` rows; `qkv` and `out` as in
/// [`crate::workload::model::Op::Attention`].
pub fn attention(qkv: &[f32], batch: usize, rows: usize, heads: usize, out: &mut [f32]) {
    thread_local!(static SCORES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) });
    let h = out.len() / (batch * rows);
    let d = h / heads;
    assert!(out.len() == batch * rows * heads * d && qkv.len() == 3 * out.len());
    let out = Shared(out.as_mut_ptr());
    (0..batch * heads).into_par_iter().for_each(|i| {
        let (sample, head) = (i / heads, i % heads);
        let out = &out;
        let part = |p: usize| Matrix::new(&qkv[sample * rows * 3 * h + p * h + head * d..], rows, d, 3 * h);
        let (q, k, v) = (part(0), part(1), part(2));
        SCORES.with_borrow_mut(|scores| {
            scores.resize(rows * rows, 0.0);
            let scale = 1.0 / (d as f32).sqrt();
            let transposed = (1, 3 * h as isize);
            let dense = (rows as isize, 1);
            product(
                q,
                k,
                transposed,
                (scores.as_mut_ptr(), false),
                dense,
                (rows, rows, d),
                scale,
                Parallelism::None,
            );
            pulp::Arch::new().dispatch(
                #[inline(always)]
                || scores.chunks_exact_mut(rows).for_each(softmax),
            );
            let scores = Matrix::new(scores, rows, rows, rows);
            // SAFETY: within `out`: sample < batch, head < heads. Each (sample, head) writes its own
            // rows' columns head·d..head·d+d and no other.
            let start = unsafe { out.0.add(sample * rows * h + head * d) };
            let strides = ((3 * h as isize, 1), (h as isize, 1));
            product(scores, v, strides.0, (start, false), strides.1, (rows, d, rows), 1.0, Parallelism::None);
        });
    });
}

/// A pointer that threads may share, because they write apart.
struct Shared(*mut f32);
// SAFETY: see the only use, in `attention`.
unsafe impl std::marker::Sync for Shared {}

#[inline(always)]
fn activate(activation: Activation, row: &mut [f32]) {
    match activation {
        // Two columns become one: not here.
        Activation::None | Activation::SwiGlu => {}
        Activation::Relu => row.iter_mut().for_each(|v| *v = if *v < 0.0 { 0.0 } else { *v }),
        Activation::Gelu => {
            row.iter_mut().for_each(|v| *v *= 0.5 + 0.5 * erf(*v * std::f32::consts::FRAC_1_SQRT_2))
        }
        Activation::Tanh => row.iter_mut().for_each(|v| *v = 1.0 - 2.0 / (exp(2.0 * *v) + 1.0)),
    }
}

#[inline(always)]
fn softmax(row: &mut [f32]) {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for value in row.iter_mut() {
        *value = exp(*value - largest);
    }
    let factor = 1.0 / sum(row, |v| v);
    for value in row.iter_mut() {
        *value *= factor;
    }
}

/// A sum in 16 lanes: an order of additions that vectorises, and errs less than one long chain.
#[inline(always)]
fn sum(values: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; 16];
    let chunks = values.chunks_exact(16);
    let rest = chunks.remainder().iter().map(|&v| term(v)).sum::<f32>();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane += term(value);
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// e^x without branches, so that loops over it vectorise: x = n·ln 2 + r, |r| ≤ ln 2 / 2, with ln 2
/// in two parts (Cody and Waite), and e^r by its Taylor series to r⁶/6!; relative error below 3e-7.
#[inline(always)]
fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
    // Adding and subtracting 1.5·2^23 rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    let n = (x * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = (x - n * 0.693_359_4) - n * -2.121_944_4e-4;
    let series = 1.0 / 720.0;
    let series = series * r + 1.0 / 120.0;
    let series = series * r + 1.0 / 24.0;
    let series = series * r + 1.0 / 6.0;
    let series = series * r + 0.5;
    let series = series * r * r + r + 1.0;
    series * f32::from_bits(((n as i32 + 127) << 23) as u32)
}

/// The error function to 1.5e-7 (Abramowitz and Stegun, 7.1.26).
#[inline(always)]
fn erf(x: f32) -> f32 {
    let z = x.abs();
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let poly = 1.061_405_4;
    let poly = poly * t - 1.453_152;
    let poly = poly * t + 1.421_413_7;
    let poly = poly * t - 0.284_496_74;
    let poly = poly * t + 0.254_829_6;
    (1.0 - poly * t * exp(-z * z)).copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exact_to_single_precision() {
        for i in -8700..=8800 {
            let x = i as f32 / 100.0;
            let truth = f64::from(x).exp();
            assert!(((f64::from(exp(x)) - truth) / truth).abs() < 4e-7, "{x}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NEG_INFINITY) < 1e-37 && exp(1e9).is_finite());
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn nan_is_not_swallowed() {
        for activation in [Activation::None, Activation::Relu, Activation::Gelu, Activation::Tanh] {
            let mut row = [f32::NAN];
            activate(activation, &mut row);
            assert!(row[0].is_nan(), "{activation:?}");
        }
    }
}
