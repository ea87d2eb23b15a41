//! The launches of products with few rows, which wait for their weights: `kernels/hopper/skinny.cu` on
//! Hopper, `kernels/thin.cu` elsewhere.

use super::kernels::{Arguments, Launch, Matrix, TensorMap};
use super::network::{Builder, MOST_MULTIPROCESSORS, NO_TENSOR_MAPS, grid};
use crate::workload::Precision;
use crate::workload::model::{Network, Op};
use anyhow::{Context as _, Result};

/// Most rows, columns of a tile, its step along k, and the fewest steps of a part.
pub(super) const MOST_ROWS: usize = 32;
const COLUMNS: usize = 64;
const STEP: usize = 64;
const FEWEST_STEPS: usize = 2;
/// Blocks of `thin.cu` that fit a multiprocessor, and so many that its share of the memory is never idle.
const RESIDENT: usize = 4;
/// Most parts of all tiles together.
const MOST_PARTS: usize = RESIDENT * MOST_MULTIPROCESSORS;

/// Into how many parts `thin.cu` cuts k: as many blocks as there is room for at once, in full rounds over
/// the multiprocessors, where the parts do not become too short.
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

/// How `skinny.cu` computes a product.
#[derive(Debug, PartialEq, Eq)]
struct Skinny {
    /// Of a tile.
    columns: usize,
    rows: usize,
    stages: usize,
    /// Blocks of a cluster, which share each tile's k.
    blocks_a_tile: usize,
}

impl Skinny {
    /// Narrow tiles and pairs of blocks where there are few columns, so that most multiprocessors have
    /// something to read. A pair has no more than one tile.
    fn choose([m, n, k]: [usize; 3], multiprocessors: usize) -> Skinny {
        let paired = |columns: usize| 2 * n.div_ceil(columns) <= multiprocessors && k > STEP;
        let (columns, blocks_a_tile) = match () {
            () if paired(COLUMNS / 2) => (COLUMNS / 2, 2),
            () if paired(COLUMNS) => (COLUMNS, 2),
            () => (COLUMNS, 1),
        };
        let (rows, stages) = match (columns, m) {
            (COLUMNS, 0..=8) => (8, 10),
            (COLUMNS, 9..=16) => (16, 8),
            (COLUMNS, _) => (32, 6),
            (_, 0..=8) => (8, 18),
            (_, 9..=16) => (16, 15),
            _ => (32, 10),
        };
        Skinny { columns, rows, stages, blocks_a_tile }
    }

    /// Blocks to launch: they stay for several tiles each.
    fn blocks(&self, n: usize, multiprocessors: usize) -> usize {
        let most = (multiprocessors / self.blocks_a_tile).max(1);
        n.div_ceil(self.columns).min(most) * self.blocks_a_tile
    }

    /// Shared memory of a block: alignment, the stages with two barriers each, one more barrier, and the
    /// sums of two groups of warps of two blocks. The tensor cores
    /// read 64 rows of x: after the start of the last stage's there are as many.
    fn shared_bytes(&self) -> u32 {
        let stage = (self.columns + self.rows) * STEP * 2 + 16;
        let sums = 4 * self.rows * (self.columns + 8) * 4;
        (1024 + self.stages * stage + 16 + sums.max(64 * STEP * 2)) as u32
    }
}

/// Scratch for the products of a batch: counters, then parts; zero before the first launch.
pub(super) fn scratch_bytes(network: &Network) -> u64 {
    let of = |op: &Op| match *op {
        // A smaller batch may need it where the largest does not.
        Op::Linear { out, .. } if network.buffers[out.0].rows <= MOST_ROWS => {
            (MOST_PARTS * 4 + MOST_PARTS * MOST_ROWS * COLUMNS * 4) as u64
        }
        _ => 0,
    };
    network.ops.iter().map(of).max().unwrap_or(0)
}

impl Builder<'_> {
    /// A product of at most [`MOST_ROWS`] rows by `thin.cu`; `arguments` are the addresses.
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
        let parts = scratch + (MOST_PARTS * 4) as u64;
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

    /// A product of at most [`MOST_ROWS`] rows by `skinny.cu`: of x, whose rows are `stride` elements
    /// apart, and a weight, at these addresses; `epilogue` is bias, residual and result.
    pub(super) fn skinny(
        &mut self,
        [m, n, k]: [usize; 3],
        [x, weight]: [u64; 2],
        stride: usize,
        epilogue: [u64; 3],
        activation: u32,
    ) -> Result<Launch> {
        let shape = Skinny::choose([m, n, k], self.gpu.multiprocessors);
        let newer = self.gpu.newer.context(NO_TENSOR_MAPS)?;
        let map = |address, [rows, columns, stride]: [usize; 3], [box_rows, box_columns]: [usize; 2]| {
            let matrix = Matrix { address, rows, columns, stride, box_rows, box_columns, stack: None };
            TensorMap::new(newer, self.kernels.precision(), matrix)
        };
        let x = map(x, [m, k, stride], [shape.rows, STEP])?;
        let weight = map(weight, [k, n, n], [STEP, shape.columns])?;
        let name = format!("skinny_{}x{}", shape.columns, shape.rows);
        let function = self.kernels.number_function(&name, &name)?;
        self.kernels.allow_shared(function, shape.shared_bytes())?;
        let arguments = Arguments::default().matrix(x).matrix(weight);
        let arguments = epilogue.into_iter().fold(arguments, Arguments::long);
        let arguments = arguments.int(m as u32).int(n as u32).int(k as u32).int(activation);
        Ok(Launch {
            function,
            blocks: grid(shape.blocks(n, self.gpu.multiprocessors))?,
            threads: 288,
            shared_bytes: shape.shared_bytes(),
            cluster: shape.blocks_a_tile as u32,
            arguments: arguments.int(shape.blocks_a_tile as u32),
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
                assert!(splits == 1 || n.div_ceil(COLUMNS) * splits <= MOST_PARTS);
                assert!(splits == 1 || k.div_ceil(STEP) / splits >= FEWEST_STEPS);
            }
        }
        assert_eq!(splits(128_256, 2048, 132), 1);
        assert!(32 * splits(2048, 8192, 132) >= 2 * 120);
    }

    #[test]
    fn few_columns_are_read_by_most_multiprocessors() {
        let blocks = |n, k, multiprocessors| {
            let shape = Skinny::choose([1, n, k], multiprocessors);
            (shape.columns, shape.blocks(n, multiprocessors))
        };
        assert_eq!(blocks(2048, 8192, 132), (32, 128));
        assert_eq!(blocks(3072, 2048, 132), (64, 96));
        assert_eq!(blocks(16_384, 2048, 132), (64, 132));
        assert_eq!(blocks(2048, 2048, 16), (64, 16));
        assert_eq!(blocks(8, 8, 1), (64, 1));
    }

    /// One of a pair would wait for sums that its partner sends for another tile.
    #[test]
    fn a_pair_has_one_tile_and_two_kernels_fit_a_multiprocessor() {
        for (m, n) in
            [1, 8, 9, 16, 17, 32].into_iter().zip([8, 64, 1000, 2048, 3072, 4224].into_iter().cycle())
        {
            for multiprocessors in [1, 2, 16, 26, 60, 132] {
                let shape = Skinny::choose([m, n, 4096], multiprocessors);
                let pairs = shape.blocks(n, multiprocessors) / shape.blocks_a_tile;
                assert!(shape.blocks_a_tile == 1 || pairs == n.div_ceil(shape.columns), "{n}: {shape:?}");
                assert!(shape.rows >= m && 2 * (shape.shared_bytes() + 1024) <= 228 * 1024, "{shape:?}");
            }
        }
    }
}
