//! The CPU device's loops over images, NHWC. A convolution is a matrix product with the windows laid
//! out as rows, a block of them at a time.

use super::kernels::{Epilogue, Matrix, Residual, linear};
use crate::workload::model::Window;
use rayon::prelude::*;

/// Windows laid out at once, in elements.
const BLOCK: usize = 1 << 21;

/// The columns of x, and zeros.
pub fn pad(x: &[f32], from: usize, out: &mut [f32], to: usize) {
    for (out, x) in out.chunks_exact_mut(to).zip(x.chunks_exact(from)) {
        out[..from].copy_from_slice(x);
        out[from..].fill(0.0);
    }
}

/// The largest value of each channel within each window.
pub fn max_pool(x: &[f32], window: Window, columns: usize, out: &mut [f32]) {
    out.par_chunks_mut(columns).enumerate().for_each(|(position, out)| {
        out.fill(f32::NEG_INFINITY);
        for pixel in (0..window.kernel * window.kernel).filter_map(|i| seen(window, position, i)) {
            let x = &x[pixel * columns..][..columns];
            // Written so that NaN is not lost.
            out.iter_mut().zip(x).for_each(|(o, &v)| *o = if v <= *o { *o } else { v });
        }
    });
}

/// The mean of each column over the rows of each sample.
pub fn mean(x: &[f32], rows: usize, columns: usize, out: &mut [f32]) {
    for (out, sample) in out.chunks_exact_mut(columns).zip(x.chunks_exact(rows * columns)) {
        out.fill(0.0);
        for row in sample.chunks_exact(columns) {
            out.iter_mut().zip(row).for_each(|(o, v)| *o += v);
        }
        out.iter_mut().for_each(|o| *o /= rows as f32);
    }
}

/// See [`crate::workload::model::Op::Conv`].
pub fn convolve(
    x: &[f32],
    window: Window,
    columns: usize,
    weight: Matrix,
    epilogue: &Epilogue,
    out: &mut [f32],
) {
    let k = window.kernel * window.kernel * columns;
    let samples = x.len() / columns / (window.side * window.side);
    let positions = samples * window.positions() * window.positions();
    let n = out.len() / positions;
    let block = (BLOCK / k).clamp(1, positions);
    let mut laid = vec![0.0; block * k];
    for (i, out) in out.chunks_mut(block * n).enumerate() {
        let rows = out.len() / n;
        laid.par_chunks_mut(k).take(rows).enumerate().for_each(|(r, laid)| {
            for (pixel, laid) in laid.chunks_exact_mut(columns).enumerate() {
                match seen(window, i * block + r, pixel) {
                    Some(from) => laid.copy_from_slice(&x[from * columns..][..columns]),
                    None => laid.fill(0.0),
                }
            }
        });
        let residual = match epilogue.residual {
            Residual::Values(values) => Residual::Values(&values[i * block * n..]),
            other => other,
        };
        let epilogue = Epilogue { residual, ..*epilogue };
        linear(Matrix::new(&laid, rows, k, k), weight, &epilogue, out);
    }
}

/// Which pixel of all samples the window at this position sees as its `i`-th; none outside the image.
fn seen(window: Window, position: usize, i: usize) -> Option<usize> {
    let Window { side, kernel, stride, padding } = window;
    let positions = window.positions();
    let (sample, y, x) =
        (position / positions / positions, position / positions % positions, position % positions);
    let row = (y * stride + i / kernel).checked_sub(padding).filter(|&row| row < side)?;
    let column = (x * stride + i % kernel).checked_sub(padding).filter(|&column| column < side)?;
    Some((sample * side + row) * side + column)
}
