//! The loops of the CPU device: matrix products by the `gemm` crate, the elementwise rest here,
//! compiled for each instruction set the processor may have.
//!
//! fp32 throughout, rows spread over rayon's threads.

use crate::workload::model::Activation;
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

/// `out = activation(x · w + bias)`; `out` is dense, `bias` has one element a column.
pub fn linear(x: Matrix, w: Matrix, bias: &[f32], activation: Activation, out: &mut [f32]) {
    let n = w.columns;
    assert!(x.columns == w.rows && out.len() == x.rows * n && bias.len() == n);
    let strides = ((w.row_stride as isize, 1), (n as isize, 1));
    product(x, w, strides.0, out.as_mut_ptr(), strides.1, (x.rows, n, x.columns), 1.0, threads());
    for_row_blocks(out, n, |rows| {
        for row in rows.chunks_exact_mut(n) {
            for (value, bias) in row.iter_mut().zip(bias) {
                *value += bias;
            }
            activate(activation, row);
        }
    });
}

fn threads() -> Parallelism {
    match rayon::current_num_threads() {
        1 => Parallelism::None,
        n => Parallelism::Rayon(n),
    }
}

/// `out = scale · x · w`, with (row, column) strides for `w` and `out`; `shape` is (m, n, k).
#[expect(clippy::too_many_arguments, reason = "a matrix product has that many")]
fn product(
    x: Matrix,
    w: Matrix,
    w_strides: (isize, isize),
    out: *mut f32,
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
            false,
            x.values.as_ptr(),
            1,
            x.row_stride as isize,
            w.values.as_ptr(),
            w_strides.1,
            w_strides.0,
            0.0,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// `out[r] = word[tokens[r]] + position[r mod positions] + segment`.
pub fn embed(tokens: &[u32], word: &[f32], position: &[f32], segment: &[f32], out: &mut [f32]) {
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
            product(q, k, transposed, scores.as_mut_ptr(), dense, (rows, rows, d), scale, Parallelism::None);
            pulp::Arch::new().dispatch(
                #[inline(always)]
                || scores.chunks_exact_mut(rows).for_each(softmax),
            );
            let scores = Matrix::new(scores, rows, rows, rows);
            // SAFETY: within `out`: sample < batch, head < heads. Each (sample, head) writes its own
            // rows' columns head·d..head·d+d and no other.
            let start = unsafe { out.0.add(sample * rows * h + head * d) };
            let strides = ((3 * h as isize, 1), (h as isize, 1));
            product(scores, v, strides.0, start, strides.1, (rows, d, rows), 1.0, Parallelism::None);
        });
    });
}

/// A pointer that threads may share, because they write apart.
struct Shared(*mut f32);
// SAFETY: see the only use, in `attention`.
unsafe impl std::marker::Sync for Shared {}

/// Blocks of whole rows, in parallel, in the widest instruction set.
fn for_row_blocks(values: &mut [f32], columns: usize, body: impl Fn(&mut [f32]) + Sync) {
    let block = (GRAIN / columns).max(1) * columns;
    values.par_chunks_mut(block).for_each(|rows| {
        pulp::Arch::new().dispatch(
            #[inline(always)]
            || body(rows),
        )
    });
}

#[inline(always)]
fn activate(activation: Activation, row: &mut [f32]) {
    match activation {
        Activation::None => {}
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
