//! The launches of `kernels/thin.cu`: products with few rows, which wait for their weights.

use super::kernels::{Arguments, Launch};
use super::network::{Builder, grid};
use crate::workload::Precision;
use crate::workload::model::{Network, Op};
use anyhow::Result;

/// Most rows, columns of a tile, its step along k, and the fewest steps of a part.
pub(super) const MOST_ROWS: usize = 32;
const COLUMNS: usize = 64;
const STEP: usize = 64;
const FEWEST_STEPS: usize = 2;
/// Blocks that fit a multiprocessor, and so many that its share of the memory is never idle.
const RESIDENT: usize = 4;
/// More multiprocessors than any GPU has: memory is reserved before one is known.
const MOST_MULTIPROCESSORS: usize = 256;

/// Into how many parts k is cut: as many blocks as there is room for at once, in full rounds over the
/// multiprocessors, where the parts do not become too short.
fn splits(n: usize, k: usize, multiprocessors: usize) -> usize {
    let (tiles, multiprocessors) = (n.div_ceil(COLUMNS), multiprocessors.min(MOST_MULTIPROCESSORS));
    let most = (k.div_ceil(STEP) / FEWEST_STEPS).clamp(1, (RESIDENT * multiprocessors / tiles).max(1));
    // The share of the multiprocessors that is busy, counted in rounds; two rounds hide a block's end.
    let full = |splits: usize| {
        let blocks = tiles * splits;
        let rounds = blocks.div_ceil(multiprocessors);
        let share = blocks as f64 / (rounds * multiprocessors) as f64;
        if rounds == 1 { share * 0.9 } else { share }
    };
    (1..=most).fold(1, |best, splits| if full(splits) > full(best) + 0.01 { splits } else { best })
}

/// Scratch for the products of a batch: counters, then parts; zero before the first launch.
pub(super) fn scratch_bytes(network: &Network) -> u64 {
    let of = |op: &Op| match *op {
        // A smaller batch may need it where the largest does not.
        Op::Linear { out, .. } if network.buffers[out.0].rows <= MOST_ROWS => {
            let blocks = RESIDENT * MOST_MULTIPROCESSORS;
            (blocks * 4 + blocks * MOST_ROWS * COLUMNS * 4) as u64
        }
        _ => 0,
    };
    network.ops.iter().map(of).max().unwrap_or(0)
}

impl Builder<'_> {
    /// A product of at most [`MOST_ROWS`] rows; `arguments` are the addresses.
    pub(super) fn thin(
        &mut self,
        [m, n, k]: [usize; 3],
        arguments: Arguments,
        activation: u32,
        buffers: &[u64],
    ) -> Result<Launch> {
        let rows = if m <= 16 { 16 } else { 32 };
        let splits = splits(n, k, self.gpu.multiprocessors);
        let scratch = buffers[self.network.buffers.len() + 1];
        let parts = scratch + (RESIDENT * MOST_MULTIPROCESSORS * 4) as u64;
        // Steps of x and of the weight, or the sums of two slices with 8 numbers of padding a row.
        let shared_bytes = (4 * (rows + COLUMNS) * STEP * 2).max(2 * rows * (COLUMNS + 8) * 4) as u32;
        let function = self.kernels.number_function("thin", &format!("thin_{rows}"))?;
        self.kernels.allow_shared(function, shared_bytes)?;
        let arguments = arguments.long(scratch).long(parts).int(m as u32).int(n as u32).int(k as u32);
        Ok(Launch {
            function,
            blocks: grid(n.div_ceil(COLUMNS) * splits)?,
            threads: 128,
            shared_bytes,
            cluster: 1,
            arguments: arguments.int(activation).int(splits as u32),
        })
    }

    /// Is it one for [`thin`](Builder::thin)?
    pub(super) fn is_thin(&self, m: usize) -> bool {
        m <= MOST_ROWS && self.tile.is_none() && self.kernels.precision() != Precision::Fp32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_fill_the_multiprocessors_and_fit_the_scratch() {
        for multiprocessors in [14, 16, 26, 60, 108, 132, 148, 300] {
            for (n, k) in [(8, 8), (2048, 2048), (3072, 2048), (16_384, 2048), (2048, 8192), (128_256, 2048)]
            {
                let splits = splits(n, k, multiprocessors);
                let blocks = n.div_ceil(COLUMNS) * splits;
                assert!(splits == 1 || blocks <= RESIDENT * MOST_MULTIPROCESSORS);
                assert!(splits == 1 || k.div_ceil(STEP) / splits >= FEWEST_STEPS);
            }
        }
        assert_eq!(splits(128_256, 2048, 132), 1);
        assert!(32 * splits(2048, 8192, 132) >= 2 * 120);
    }
}
