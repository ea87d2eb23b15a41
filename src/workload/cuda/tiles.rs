//! Which kernel computes a matrix product: a pure function of its shape, of the set of kernels and of
//! the number of multiprocessors.

use super::texts::Set;
use crate::workload::model::Activation;

/// How a kernel of `kernels/linear.cu` or `kernels/hopper/linear.cu` computes its tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Design {
    /// `linear.cu`: a block a tile, mma.sync.
    Mma,
    /// `hopper/linear.cu`: the groups of warps of a block share each tile.
    Cooperate,
    /// The same by two blocks of a cluster on one tile, half of the reduction each.
    Split,
    /// The two groups of warps of a block take turns, a tile each.
    TakeTurns,
}

/// What follows a product: an activation, and before it the addition of a residual.
pub(super) type Epilogue = (Activation, bool);

/// One kernel: the part of the output that a block of threads computes at a time, and how.
#[derive(Debug, PartialEq)]
pub(super) struct Tile {
    /// The kernel is `linear_<name>_<precision>`.
    pub(super) name: &'static str,
    pub(super) design: Design,
    /// Rows of the output.
    pub(super) m: usize,
    /// Columns of the output.
    pub(super) n: usize,
    /// Step along the reduction.
    pub(super) k: usize,
    /// Warps of a block that multiply.
    warps: usize,
    /// Groups of warps that share each step's reduction.
    slices: usize,
    /// Steps held in shared memory.
    stages: usize,
    /// Blocks that fit on a multiprocessor at once.
    resident: usize,
    /// Nanoseconds of a multiprocessor for one tile and one k when it is full of blocks ...
    busy: f64,
    /// ... and when the block is alone on it, waiting for its data.
    alone: f64,
    /// Microseconds before the first and after the last product of a block's first tile ...
    fixed: f64,
    /// ... and of each later one.
    again: f64,
}

/// Largest first. The times were measured on an H200 (`tune.rs`) and weigh the tiles against each
/// other; on another GPU all of them differ, in much the same proportion.
#[rustfmt::skip] // a table
const PORTABLE: [Tile; 7] = [
    //  name, [m, n, k], [warps, slices, stages], resident, [busy, alone, fixed]
    mma("256x128", [256, 128, 64], [8, 1, 3], 1, [17.3, 16.5, 3.0]),
    mma("256x96", [256, 96, 64], [8, 1, 3], 1, [14.7, 13.8, 2.9]),
    mma("128x96", [128, 96, 32], [4, 1, 4], 2, [8.7, 10.0, 1.5]),
    mma("64x96", [64, 96, 64], [4, 1, 3], 3, [6.2, 6.1, 1.0]),
    mma("64x64", [64, 64, 64], [8, 2, 4], 2, [3.9, 3.8, 1.2]),
    mma("32x32", [32, 32, 128], [4, 4, 4], 3, [1.55, 1.5, 1.0]),
    mma("16x32", [16, 32, 128], [4, 4, 4], 4, [1.35, 1.36, 1.0]),
];

/// As above; the small ones are the portable kernels, which start early here.
#[rustfmt::skip] // a table
const HOPPER: [Tile; 16] = [
    //    name, design, [m, n], [groups, stages], resident, [busy, alone, fixed, again]
    wgmma("t128x192", Design::TakeTurns, [128, 192], [2, 4], 1, [8.4, 6.75, 3.0, 0.3]),
    wgmma("t128x128", Design::TakeTurns, [128, 128], [2, 5], 1, [6.2, 4.5, 2.4, 0.2]),
    wgmma("c128x192", Design::Cooperate, [128, 192], [2, 4], 1, [8.45, 6.7, 2.7, 2.0]),
    wgmma("c128x128", Design::Cooperate, [128, 128], [2, 5], 1, [5.9, 4.3, 2.1, 1.2]),
    wgmma("c128x96", Design::Cooperate, [128, 96], [2, 6], 1, [5.4, 3.1, 1.9, 1.3]),
    wgmma("c64x192", Design::Cooperate, [64, 192], [1, 5], 1, [4.94, 3.3, 2.35, 1.0]),
    wgmma("c64x128", Design::Cooperate, [64, 128], [1, 4], 1, [5.2, 2.6, 2.0, 1.2]),
    wgmma("c64x96", Design::Cooperate, [64, 96], [1, 5], 1, [3.95, 2.9, 1.86, 1.0]),
    wgmma("c64x64", Design::Cooperate, [64, 64], [1, 6], 2, [2.5, 2.2, 1.66, 1.0]),
    wgmma("c64x32", Design::Cooperate, [64, 32], [1, 8], 2, [1.97, 2.2, 1.38, 1.0]),
    wgmma("s64x192", Design::Split, [64, 192], [1, 5], 1, [4.6, 3.35, 4.0, 6.0]),
    wgmma("s64x64", Design::Split, [64, 64], [1, 6], 2, [2.6, 2.2, 2.4, 6.0]),
    wgmma("s64x32", Design::Split, [64, 32], [1, 7], 2, [2.2, 2.2, 2.3, 6.0]),
    mma("64x64", [64, 64, 64], [8, 2, 4], 2, [3.7, 3.5, 1.7]),
    mma("32x32", [32, 32, 128], [4, 4, 4], 3, [1.36, 2.2, 1.3]),
    mma("16x32", [16, 32, 128], [4, 4, 4], 4, [1.42, 1.6, 0.95]),
];

/// The tiles of a set, largest first.
pub(super) fn tiles(set: Set) -> &'static [Tile] {
    match set {
        Set::Portable => &PORTABLE,
        Set::Hopper => &HOPPER,
    }
}

const fn mma(
    name: &'static str,
    [m, n, k]: [usize; 3],
    [warps, slices, stages]: [usize; 3],
    resident: usize,
    [busy, alone, fixed]: [f64; 3],
) -> Tile {
    let design = Design::Mma;
    Tile { name, design, m, n, k, warps, slices, stages, resident, busy, alone, fixed, again: fixed }
}

const fn wgmma(
    name: &'static str,
    design: Design,
    [m, n]: [usize; 2],
    [groups, stages]: [usize; 2],
    resident: usize,
    [busy, alone, fixed, again]: [f64; 4],
) -> Tile {
    let warps = 4 * groups;
    Tile { name, design, m, n, k: 64, warps, slices: 1, stages, resident, busy, alone, fixed, again }
}

impl Tile {
    /// Threads of a block, those that copy included.
    pub(super) fn threads(&self) -> u32 {
        32 * match self.design {
            Design::Mma => self.warps,
            Design::Cooperate | Design::Split => self.warps + 1,
            Design::TakeTurns => self.warps + 4,
        } as u32
    }

    /// Has its kernel this epilogue? Those of `linear.cu` and `conv.cu` have every one.
    pub(super) fn has(&self, (activation, residual): Epilogue) -> bool {
        if self.design == Design::Mma {
            return true;
        }
        // `Shape::ROOM` and `GATES` of `hopper/linear.cu`.
        let room = self.design != Design::TakeTurns || self.n < 192;
        match activation {
            Activation::None | Activation::Relu => room || !residual,
            Activation::Gelu => !residual,
            Activation::Tanh => room && !residual,
            Activation::SwiGlu => self.box_columns() == 64 && !residual,
        }
    }

    /// Blocks of a cluster.
    pub(super) fn cluster(&self) -> usize {
        match self.design {
            Design::Mma | Design::Cooperate | Design::TakeTurns => 1,
            Design::Split => 2,
        }
    }

    /// Columns of the boxes in which `hopper/linear.cu` moves the weight and the result.
    pub(super) fn box_columns(&self) -> usize {
        if self.n.is_multiple_of(64) { 64 } else { 32 }
    }

    /// Tiles of an m x n output.
    fn count(&self, m: usize, n: usize) -> usize {
        m.div_ceil(self.m) * n.div_ceil(self.n)
    }

    /// Blocks to launch for an m x n output: Hopper's kernels stay for several tiles each.
    pub(super) fn blocks(&self, m: usize, n: usize, multiprocessors: usize) -> usize {
        let count = self.count(m, n);
        match self.design {
            Design::Mma => count,
            Design::Split => count * 2,
            Design::Cooperate | Design::TakeTurns => count.min(multiprocessors.max(1) * self.resident),
        }
    }

    /// Shared memory of a block, in bytes.
    pub(super) fn shared_bytes(&self) -> u32 {
        let stages = self.stages * (self.m * self.k + self.k * self.n) * 2;
        let bytes = match self.design {
            // The stages, and after them, in the same place, the fp32 sums of each slice with 8 numbers
            // of padding a row.
            Design::Mma => stages.max(self.slices * self.m * (self.n + 8) * 4),
            // Alignment, the stages, up to three pieces of 16 rows on their way out of each warp, two
            // barriers a stage, a bias for each group, and where blocks split a tile the sums of two
            // warps: `Shape` in `hopper/linear.cu`.
            _ => {
                let rows = if self.design == Design::TakeTurns { self.m } else { self.m * 4 / self.warps };
                let pieces = match rows / 64 * self.n / self.box_columns() {
                    pieces if pieces.is_multiple_of(3) => 3,
                    pieces if pieces.is_multiple_of(2) => 2,
                    _ => 1,
                };
                let received = if self.design == Design::Split { 64 * self.n * 2 } else { 0 };
                let pieces = self.warps * pieces * 16 * self.box_columns() * 2;
                let biases = self.warps / 4 * self.n * 2;
                1024 + stages + pieces + 16 * self.stages + 16 + biases + received
            }
        };
        bytes as u32
    }

    /// Estimated nanoseconds of the whole product.
    fn time(&self, m: usize, n: usize, k: usize, multiprocessors: usize) -> f64 {
        let cluster = self.cluster();
        // What the device holds at once, and the share of it that is taken on average.
        let places = (multiprocessors / cluster).max(1) * cluster * self.resident;
        let blocks = self.count(m, n) * cluster;
        let waves = blocks.div_ceil(places) as f64;
        let taken = blocks as f64 / (waves * places as f64);
        let k = (k.div_ceil(cluster).div_ceil(self.k) * self.k) as f64;
        let step = self.alone + (self.resident as f64 * self.busy - self.alone) * taken;
        (self.fixed + (waves - 1.0) * self.again) * 1e3 + waves * k * step
    }
}

/// The tiles of `kernels/conv.cu`, largest first; times as of the products' tiles of the same size.
#[rustfmt::skip] // a table
const CONVOLUTIONS: [Tile; 5] = [
    mma("128x128", [128, 128, 64], [8, 1, 3], 2, [11.0, 12.0, 2.0]),
    mma("128x64", [128, 64, 64], [8, 1, 4], 2, [7.0, 7.5, 1.6]),
    mma("64x64", [64, 64, 64], [8, 2, 4], 2, [4.2, 4.0, 1.3]),
    mma("32x64", [32, 64, 64], [4, 2, 4], 3, [2.6, 2.6, 1.1]),
    mma("32x32", [32, 32, 128], [4, 4, 4], 3, [1.7, 1.7, 1.1]),
];

/// The tiles of convolutions.
pub(super) fn convolutions() -> &'static [Tile] {
    &CONVOLUTIONS
}

/// Below so many rows of the output half of what Hopper's kernels multiply would be padding.
const FEW_ROWS: usize = 33;

/// The tile with the least estimated time among those that have the epilogue, fit into `shared_bytes` of
/// shared memory a block and whose clusters fit the device; the larger one of equals. Some tile fits every
/// GPU that the kernels run on.
pub(super) fn choose(
    set: Set,
    [m, n, k]: [usize; 3],
    epilogue: Epilogue,
    multiprocessors: usize,
    shared_bytes: u32,
) -> &'static Tile {
    choose_among(tiles(set), [m, n, k], epilogue, multiprocessors, shared_bytes)
}

/// As [`choose`], for other kernels.
pub(super) fn choose_among(
    tiles: &'static [Tile],
    [m, n, k]: [usize; 3],
    epilogue: Epilogue,
    multiprocessors: usize,
    shared_bytes: u32,
) -> &'static Tile {
    let mut best = &tiles[tiles.len() - 1];
    let fits = |tile: &&Tile| {
        tile.has(epilogue)
            && tile.shared_bytes() <= shared_bytes
            && tile.cluster() <= multiprocessors
            && (tile.design == Design::Mma || m >= FEW_ROWS)
    };
    for tile in tiles.iter().rev().filter(fits) {
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
    const PLAIN: Epilogue = (Activation::None, false);

    #[test]
    fn large_products_take_large_tiles_and_single_rows_small_ones() {
        assert_eq!(choose(Set::Portable, [1 << 16, 4096, 4096], PLAIN, 132, H200).name, "256x128");
        assert_eq!(choose(Set::Portable, [1, 4096, 1024], PLAIN, 132, H200).name, "16x32");
        assert_eq!(choose(Set::Portable, [1, 1000, 4096], PLAIN, 16, H200).name, "16x32");
        // bert-base, 32 samples: 768 columns are 8 tiles of 96, and 16 x 8 blocks fill 97 % of 132
        // multiprocessors; with 128 columns they would fill 73 %.
        assert_eq!(choose(Set::Portable, [4096, 768, 3072], PLAIN, 132, H200).name, "256x96");
    }

    /// What an H200 measured best: bert-base with 1, 8 and 32 samples of 128 tokens.
    #[test]
    fn hoppers_tiles_follow_the_shape() {
        for (shape, name) in [
            ([1, 4096, 4096], "16x32"),
            ([128, 768, 768], "c64x32"),
            ([128, 768, 3072], "s64x64"),
            ([128, 1024, 4096], "s64x64"),
            ([1024, 768, 3072], "s64x192"),
            ([1024, 2304, 768], "c128x192"),
            ([4096, 768, 3072], "c128x192"),
            ([4096, 2304, 768], "t128x192"),
            ([8192, 8192, 8192], "t128x192"),
        ] {
            assert_eq!(choose(Set::Hopper, shape, PLAIN, 132, H200).name, name, "{shape:?}");
        }
        // On the smallest instance too, large products take the tile that multiplies fastest.
        assert_eq!(choose(Set::Hopper, [4096, 3072, 768], PLAIN, 16, H200).name, "t128x192");
    }

    /// A decoder's products over 2048 tokens stay with the tensor cores' own way of reading.
    #[test]
    fn a_residual_and_a_gate_are_hoppers_too() {
        for (shape, epilogue) in [
            ([2048, 2048, 8192], (Activation::None, true)),
            ([2048, 16_384, 2048], (Activation::SwiGlu, false)),
            ([100_352, 256, 64], (Activation::Relu, true)),
            ([4096, 768, 768], (Activation::Tanh, false)),
        ] {
            let tile = choose(Set::Hopper, shape, epilogue, 132, H200);
            assert!(tile.design != Design::Mma && tile.has(epilogue), "{shape:?}: {}", tile.name);
        }
        assert!(!HOPPER[0].has((Activation::None, true)) && HOPPER[1].has((Activation::None, true)));
        // Half a box of 32 columns is less than the copy engine writes.
        assert!(HOPPER.iter().filter(|t| t.n == 96).all(|t| !t.has((Activation::SwiGlu, false))));
    }

    #[test]
    fn few_rows_are_spread_over_all_multiprocessors() {
        // bert-base, one sample of 128 tokens.
        for (n, k) in [(2304, 768), (768, 768), (3072, 768), (768, 3072)] {
            let tile = choose(Set::Portable, [128, n, k], PLAIN, 132, H200);
            assert!(tile.blocks(128, n, 132) >= 72, "{n} x {k}: {}", tile.name);
        }
    }

    #[test]
    fn every_gpu_has_tiles_that_fit() {
        assert!(PORTABLE.iter().all(|tile| tile.shared_bytes() <= A100 && tile.threads() <= 1024));
        assert!(HOPPER.iter().all(|tile| tile.shared_bytes() <= H200 && tile.threads() <= 1024));
        assert_eq!(choose(Set::Portable, [1 << 16, 4096, 4096], PLAIN, 108, A100).name, "256x128");
        assert_eq!(choose(Set::Portable, [1 << 16, 4096, 4096], PLAIN, 188, SMALL).name, "128x96");
        assert!(choose(Set::Portable, [1, 8, 8], PLAIN, 1, 0).shared_bytes() <= SMALL);
    }

    #[test]
    fn blocks_cover_the_output() {
        for tile in PORTABLE.iter().chain(&HOPPER) {
            let cluster = tile.cluster();
            assert_eq!(tile.blocks(1, 8, 132), cluster);
            assert_eq!(tile.blocks(tile.m + 1, tile.n + 8, 132), 4 * cluster);
        }
    }

    /// A block of Hopper's kernels stays for as many tiles as there are, on the multiprocessors that
    /// an instance has, without one more block than fits.
    #[test]
    fn staying_blocks_fill_the_instance_and_no_more() {
        for tile in HOPPER.iter().filter(|tile| !matches!(tile.design, Design::Mma | Design::Split)) {
            for multiprocessors in [2, 16, 26, 32, 60, 64, 132] {
                let blocks = tile.blocks(1 << 16, 4096, multiprocessors);
                assert_eq!(blocks, multiprocessors * tile.resident, "{}", tile.name);
            }
            assert_eq!(tile.blocks(1 << 16, 4096, 1), tile.resident);
        }
    }

    #[test]
    fn a_pair_of_blocks_needs_two_multiprocessors() {
        assert_eq!(choose(Set::Hopper, [1 << 14, 4096, 4096], PLAIN, 1, H200).cluster(), 1);
    }
}
