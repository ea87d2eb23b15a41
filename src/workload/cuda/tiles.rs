//! Which of `kernels/linear.cu`'s tiles computes a matrix product: a pure function of its shape and
//! of the number of multiprocessors.

/// One kernel of `linear.cu`: the part of the output that a block of threads computes, and how.
#[derive(Debug, PartialEq)]
pub(super) struct Tile {
    /// The kernel is `linear_<name>_<precision>`.
    pub(super) name: &'static str,
    /// Rows of the output.
    m: usize,
    /// Columns of the output.
    n: usize,
    /// Step along the reduction.
    k: usize,
    /// Warps of a block.
    warps: usize,
    /// Groups of warps that share each step's reduction.
    slices: usize,
    /// Steps held in shared memory.
    stages: usize,
    /// Blocks that fit on a multiprocessor at once.
    resident: usize,
    /// Nanoseconds of a multiprocessor for one block and one k when it is full of blocks ...
    busy: f64,
    /// ... and when the block is alone on it, waiting for its data.
    alone: f64,
    /// Microseconds of a block before its first and after its last product.
    fixed: f64,
}

/// Largest first. The times were measured on an H200 (`tune.rs`) and weigh the tiles against each
/// other; on another GPU all of them differ, in much the same proportion.
#[rustfmt::skip] // a table
pub(super) const TILES: [Tile; 7] = [
    //   name, [m, n, k], [warps, slices, stages], resident, [busy, alone, fixed]
    tile("256x128", [256, 128, 64], [8, 1, 3], 1, [17.3, 16.5, 3.0]),
    tile("256x96", [256, 96, 64], [8, 1, 3], 1, [14.7, 13.8, 2.9]),
    tile("128x96", [128, 96, 32], [4, 1, 4], 2, [8.7, 10.0, 1.5]),
    tile("64x96", [64, 96, 64], [4, 1, 3], 3, [6.2, 6.1, 1.0]),
    tile("64x64", [64, 64, 64], [8, 2, 4], 2, [3.9, 3.8, 1.2]),
    tile("32x32", [32, 32, 128], [4, 4, 4], 3, [1.55, 1.5, 1.0]),
    tile("16x32", [16, 32, 128], [4, 4, 4], 4, [1.35, 1.36, 1.0]),
];

const fn tile(
    name: &'static str,
    [m, n, k]: [usize; 3],
    [warps, slices, stages]: [usize; 3],
    resident: usize,
    [busy, alone, fixed]: [f64; 3],
) -> Tile {
    Tile { name, m, n, k, warps, slices, stages, resident, busy, alone, fixed }
}

impl Tile {
    /// Threads of a block.
    pub(super) fn threads(&self) -> u32 {
        32 * self.warps as u32
    }

    /// Blocks for an m x n output.
    pub(super) fn blocks(&self, m: usize, n: usize) -> usize {
        m.div_ceil(self.m) * n.div_ceil(self.n)
    }

    /// Shared memory of a block, in bytes: the stages, and after them, in the same place, the fp32
    /// sums of each slice with 8 numbers of padding a row.
    pub(super) fn shared_bytes(&self) -> u32 {
        let stages = self.stages * (self.m * self.k + self.k * self.n) * 2;
        let sums = self.slices * self.m * (self.n + 8) * 4;
        stages.max(sums) as u32
    }

    /// Estimated nanoseconds of the whole product.
    fn time(&self, m: usize, n: usize, k: usize, multiprocessors: usize) -> f64 {
        // Of the fullest multiprocessor.
        let blocks = self.blocks(m, n).div_ceil(multiprocessors);
        let waves = blocks.div_ceil(self.resident) as f64;
        let k = k.div_ceil(self.k) * self.k;
        waves * self.fixed * 1e3 + k as f64 * (blocks as f64 * self.busy).max(waves * self.alone)
    }
}

/// The tile with the least estimated time among those that fit into `shared_bytes` of shared memory
/// a block; the larger one of equals. Some tile fits every GPU that the kernels run on.
pub(super) fn choose(
    m: usize,
    n: usize,
    k: usize,
    multiprocessors: usize,
    shared_bytes: u32,
) -> &'static Tile {
    let mut best = &TILES[TILES.len() - 1];
    for tile in TILES.iter().rev().filter(|tile| tile.shared_bytes() <= shared_bytes) {
        if tile.time(m, n, k, multiprocessors) <= best.time(m, n, k, multiprocessors) {
            best = tile;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An H200's and A100's, and that of compute capability 8.6, 8.9 and 12.0.
    const H200: u32 = 227 * 1024;
    const A100: u32 = 163 * 1024;
    const SMALL: u32 = 99 * 1024;

    #[test]
    fn large_products_take_large_tiles_and_single_rows_small_ones() {
        assert_eq!(choose(1 << 16, 4096, 4096, 132, H200).name, "256x128");
        assert_eq!(choose(1, 4096, 1024, 132, H200).name, "16x32");
        assert_eq!(choose(1, 1000, 4096, 16, H200).name, "16x32");
        // bert-base, 32 samples: 768 columns are 8 tiles of 96, and 16 x 8 blocks fill 97 % of 132
        // multiprocessors; with 128 columns they would fill 73 %.
        assert_eq!(choose(4096, 768, 3072, 132, H200).name, "256x96");
    }

    #[test]
    fn few_rows_are_spread_over_all_multiprocessors() {
        // bert-base, one sample of 128 tokens.
        for (n, k) in [(2304, 768), (768, 768), (3072, 768), (768, 3072)] {
            let tile = choose(128, n, k, 132, H200);
            assert!(tile.blocks(128, n) >= 72, "{n} x {k}: {}", tile.name);
        }
    }

    #[test]
    fn every_gpu_has_tiles_that_fit() {
        assert!(TILES.iter().all(|tile| tile.shared_bytes() <= A100 && tile.threads() <= 1024));
        assert_eq!(choose(1 << 16, 4096, 4096, 108, A100).name, "256x128");
        assert_eq!(choose(1 << 16, 4096, 4096, 188, SMALL).name, "128x96");
        assert!(choose(1, 8, 8, 1, 0).shared_bytes() <= SMALL);
    }

    #[test]
    fn blocks_cover_the_output() {
        for tile in &TILES {
            assert_eq!(tile.blocks(1, 8), 1);
            assert_eq!(tile.blocks(tile.m + 1, tile.n + 8), 4);
        }
    }
}
