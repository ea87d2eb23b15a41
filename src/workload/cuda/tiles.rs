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
    /// Warps that share the tile, and groups of them that share its reduction.
    warps: usize,
    slices: usize,
    stages: usize,
    /// Blocks that fit on a multiprocessor at once.
    resident: usize,
    /// Cycles of a multiprocessor for one block and one k: when full, and for a lone block.
    busy: f64,
    alone: f64,
    /// Cycles before the first and after the last product.
    fixed: f64,
}

/// Largest first. The cycles are measured on an H200 (`tune.rs`); other GPUs differ, but the order
/// among the tiles hardly does.
pub(super) const TILES: [Tile; 5] = [
    Tile {
        name: "128x128",
        m: 128,
        n: 128,
        k: 32,
        warps: 4,
        slices: 1,
        stages: 4,
        resident: 2,
        busy: 13.0,
        alone: 18.0,
        fixed: 3000.0,
    },
    Tile {
        name: "128x96",
        m: 128,
        n: 96,
        k: 32,
        warps: 4,
        slices: 1,
        stages: 4,
        resident: 2,
        busy: 10.0,
        alone: 14.0,
        fixed: 2500.0,
    },
    Tile {
        name: "64x64",
        m: 64,
        n: 64,
        k: 64,
        warps: 8,
        slices: 2,
        stages: 4,
        resident: 2,
        busy: 4.1,
        alone: 5.0,
        fixed: 2000.0,
    },
    Tile {
        name: "32x32",
        m: 32,
        n: 32,
        k: 128,
        warps: 4,
        slices: 4,
        stages: 4,
        resident: 3,
        busy: 2.0,
        alone: 2.5,
        fixed: 1500.0,
    },
    Tile {
        name: "16x32",
        m: 16,
        n: 32,
        k: 128,
        warps: 4,
        slices: 4,
        stages: 4,
        resident: 4,
        busy: 1.3,
        alone: 2.0,
        fixed: 1500.0,
    },
];

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

    /// Estimated cycles of the whole product.
    fn cycles(&self, m: usize, n: usize, k: usize, multiprocessors: usize) -> f64 {
        // Of the fullest multiprocessor.
        let blocks = self.blocks(m, n).div_ceil(multiprocessors);
        let waves = blocks.div_ceil(self.resident) as f64;
        let k = k.div_ceil(self.k) * self.k;
        waves * self.fixed + k as f64 * (blocks as f64 * self.busy).max(waves * self.alone)
    }
}

/// The tile with the least estimated time; the larger one of equals.
pub(super) fn choose(m: usize, n: usize, k: usize, multiprocessors: usize) -> &'static Tile {
    let mut best = &TILES[0];
    for tile in &TILES[1..] {
        if tile.cycles(m, n, k, multiprocessors) < best.cycles(m, n, k, multiprocessors) {
            best = tile;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_products_take_large_tiles_and_single_rows_small_ones() {
        assert!(choose(1 << 16, 4096, 4096, 132).m == 128);
        assert_eq!(choose(1, 4096, 1024, 132).name, "16x32");
        assert_eq!(choose(1, 1000, 4096, 16).name, "16x32");
        // bert-base, 32 samples: 768 columns are 8 tiles of 96, and 32 x 8 blocks are 1.94 for each
        // of 132 multiprocessors; with 128 columns 60 would have two and 72 one.
        assert_eq!(choose(4096, 768, 768, 132).name, "128x96");
    }

    #[test]
    fn few_rows_are_spread_over_all_multiprocessors() {
        // bert-base, one sample of 128 tokens.
        for (n, k) in [(2304, 768), (768, 768), (3072, 768), (768, 3072)] {
            let tile = choose(128, n, k, 132);
            assert!(tile.blocks(128, n) >= 72, "{n} x {k}: {}", tile.name);
        }
    }

    #[test]
    fn every_tile_fits_the_smallest_gpu() {
        // 99 KiB a block on compute capability 8.6, 8.9 and 12.0; 48 KiB and more must be asked for.
        for tile in &TILES {
            assert!(tile.shared_bytes() <= 99 * 1024, "{}", tile.name);
            assert!(tile.threads() <= 1024);
        }
    }

    #[test]
    fn blocks_cover_the_output() {
        for tile in &TILES {
            assert_eq!(tile.blocks(1, 8), 1);
            assert_eq!(tile.blocks(tile.m + 1, tile.n + 8), 4);
        }
    }
}
