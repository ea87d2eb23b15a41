//! The launches of the operations beyond an encoder's: images, decoders, copies, and fp32 products.

use super::kernels::{Arguments, Function, Launch};
use super::network::{Builder, Gpu, MOST_MULTIPROCESSORS, grid, index};
use super::tiles;
use crate::workload::Precision;
use crate::workload::model::{Activation, BufferId, Network, Op, Window};
use anyhow::{Result, bail, ensure};

/// What `decode.cu` holds of each head of each part of a context beside its sum, and the heads of a kv head
/// that it has room for.
pub(super) const SHARE_EXTRA: usize = 2;
pub(super) const MOST_GROUP: usize = 4;
/// Blocks of `decode.cu` for each multiprocessor, and the fewest keys of one.
const BLOCKS_EACH: usize = 2;
const FEWEST_KEYS: usize = 64;
/// Most parts of all contexts that are cut together, and most contexts: each in two parts.
const MOST_PARTS: usize = BLOCKS_EACH * MOST_MULTIPROCESSORS;
const MOST_CUT: usize = MOST_PARTS / 2;
/// Most columns that `rms_norm` holds in a block's registers.
const MOST_RMS_COLUMNS: usize = 8192;

/// How the kernels call an activation.
pub(super) fn number_of(activation: Activation) -> u32 {
    match activation {
        Activation::None => 0,
        Activation::Relu => 1,
        Activation::Gelu => 2,
        Activation::Tanh => 3,
        Activation::SwiGlu => 4,
    }
}

/// Scratch that the kernels of all batches share, counters and then parts; zero before the first launch. Where the
/// counters end does not depend on the batch: a part of one must not be a counter of another.
pub(super) fn scratch_bytes(network: &Network) -> u64 {
    let of = |op: &Op| match *op {
        Op::CachedAttention { kv_heads, cache, out, .. } if network.buffers[out.0].rows == 1 => {
            let width = network.buffers[cache.0].columns / 2 / kv_heads;
            4 * (MOST_CUT + MOST_PARTS * MOST_GROUP * (width + SHARE_EXTRA)) as u64
        }
        _ => 0,
    };
    network.ops.iter().map(of).max().unwrap_or(0)
}

/// Into how many parts `decode.cu` cuts a context.
fn splits(pairs: usize, context: usize, multiprocessors: usize) -> usize {
    let wanted = BLOCKS_EACH * multiprocessors.min(MOST_MULTIPROCESSORS) / pairs;
    wanted.clamp(1, context.div_ceil(FEWEST_KEYS))
}

/// Has it a kernel for fp32?
pub(super) fn has_fp32(op: &Op) -> bool {
    match op {
        Op::Linear { activation, .. } => *activation != Activation::SwiGlu,
        Op::Embed { .. } | Op::AddNorm { .. } | Op::Attention { .. } | Op::Copy { .. } | Op::Nothing => true,
        _ => false,
    }
}

impl Builder<'_> {
    /// The launch of an operation that is not an encoder's.
    pub(super) fn further_operation(&mut self, op: &Op, batch: usize, buffers: &[u64]) -> Result<Launch> {
        match *op {
            Op::Conv { .. } => self.convolution(op, batch, buffers),
            Op::Pad { .. } | Op::MaxPool { .. } | Op::Mean { .. } => self.image(op, batch, buffers),
            Op::Rotate { .. } | Op::CachedAttention { .. } => self.cached(op, batch, buffers),
            Op::Copy { x, out } => {
                let bytes = self.network.buffers[x.0].bytes(batch, self.kernels.precision());
                ensure!(bytes.is_multiple_of(16), "{bytes} bytes are not a multiple of 16");
                let function = self.kernels.function("copy", "copy")?;
                let arguments = Arguments::default().long(buffers[x.0]).long(buffers[out.0]);
                one(function, (bytes / 16).div_ceil(2048), 512, arguments.long((bytes / 16) as u64))
            }
            Op::Lookup { tokens, table, out } => {
                let (rows, columns) = self.shape(out, batch)?;
                let function = self.kernels.number_function("decoder", "lookup")?;
                let arguments = Arguments::default().long(buffers[tokens.0]).long(self.weights[table.0]);
                let arguments = arguments.long(buffers[out.0]).int(rows).int(columns);
                one(function, (rows as usize * columns as usize / 8).div_ceil(256), 256, arguments)
            }
            Op::RmsNorm { x, epsilon, out } => {
                let (rows, columns) = self.shape(x, batch)?;
                ensure!(
                    columns as usize <= MOST_RMS_COLUMNS,
                    "{columns} columns: at most {MOST_RMS_COLUMNS}"
                );
                let function = self.kernels.number_function("decoder", "rms_norm")?;
                let arguments = Arguments::default().long(buffers[x.0]).long(buffers[out.0]);
                let arguments = arguments.int(columns).float(epsilon);
                one(function, rows as usize, 256, arguments)
            }
            Op::Argmax { x, out } => {
                let (rows, columns) = self.shape(x, batch)?;
                let function = self.kernels.number_function("decoder", "argmax")?;
                let arguments = Arguments::default().long(buffers[x.0]).long(buffers[out.0]).int(columns);
                one(function, rows as usize, 1024, arguments)
            }
            _ => bail!("no kernel for this operation"),
        }
    }

    /// Rows of a batch, and columns, which come in chunks of 8.
    fn shape(&self, buffer: BufferId, batch: usize) -> Result<(u32, u32)> {
        let buffer = &self.network.buffers[buffer.0];
        ensure!(buffer.columns.is_multiple_of(8), "{} columns are not a multiple of 8", buffer.columns);
        Ok((index(batch, buffer.rows)?, u32::try_from(buffer.columns)?))
    }

    /// An fp32 product, without tensor cores.
    pub(super) fn linear32(&mut self, [m, n]: [usize; 2], arguments: Arguments) -> Result<Launch> {
        // Name, rows, columns and threads of a tile: the largest that fills the GPU.
        const TILES: [(&str, usize, usize, u32); 3] =
            [("128x128", 128, 128, 256), ("64x64", 64, 64, 256), ("16x64", 16, 64, 256)];
        let blocks =
            |(_, rows, columns, _): (&str, usize, usize, u32)| m.div_ceil(rows) * n.div_ceil(columns);
        let full = TILES.into_iter().find(|&tile| blocks(tile) >= self.gpu.multiprocessors);
        let tile = full.unwrap_or(TILES[2]);
        let function = self.kernels.function("plain", &format!("linear32_{}", tile.0))?;
        one(function, blocks(tile), tile.3, arguments)
    }

    fn convolution(&mut self, op: &Op, batch: usize, buffers: &[u64]) -> Result<Launch> {
        let Op::Conv { x, window, weight, bias, residual, activation, out, .. } = *op else { unreachable!() };
        let Window { side, kernel, stride, padding } = window;
        let (channels, n) = (self.network.buffers[x.0].columns, self.network.buffers[out.0].columns);
        let (shape, positions) = (&self.network.weights[weight.0], window.positions());
        let k = kernel * kernel * channels;
        ensure!(
            shape.rows == k && shape.columns == n && activation != Activation::SwiGlu,
            "shapes do not match"
        );
        ensure!(channels.is_multiple_of(8) && n.is_multiple_of(8), "channels come in chunks of 8");
        ensure!(self.network.buffers[x.0].rows == side * side, "the image is not {side} x {side}");
        let (m, _) = (self.shape(out, batch)?.0, self.shape(x, batch)?);
        let Gpu { multiprocessors, shared_bytes, .. } = self.gpu;
        let tile = self.tile.unwrap_or_else(|| {
            let (tiles, epilogue) = (tiles::convolutions(), (activation, residual.is_some()));
            tiles::choose_among(tiles, [m as usize, n, k], epilogue, multiprocessors, shared_bytes)
        });
        let name = format!("conv_{}", tile.name);
        let function = self.kernels.number_function(&name, &name)?;
        self.kernels.allow_shared(function, tile.shared_bytes())?;
        let mut arguments = Arguments::default()
            .long(buffers[x.0])
            .long(self.weights[weight.0])
            .long(self.weights[bias.0])
            .long(residual.map_or(0, |residual| buffers[residual.0]))
            .long(buffers[out.0])
            .int(m);
        for number in [n, side, channels, kernel, stride, padding, positions] {
            arguments = arguments.int(number as u32);
        }
        Ok(Launch {
            shared_bytes: tile.shared_bytes(),
            ..one(
                function,
                tile.blocks(m as usize, n, multiprocessors),
                tile.threads(),
                arguments.int(number_of(activation)),
            )?
        })
    }

    fn image(&mut self, op: &Op, batch: usize, buffers: &[u64]) -> Result<Launch> {
        match *op {
            Op::Pad { x, out } => {
                let (rows, columns) = self.shape(out, batch)?;
                let from = self.network.buffers[x.0].columns as u32;
                let function = self.kernels.number_function("image", "pad")?;
                let arguments = Arguments::default().long(buffers[x.0]).long(buffers[out.0]);
                let threads = rows as usize * columns as usize / 8;
                one(function, threads.div_ceil(256), 256, arguments.int(rows).int(from).int(columns))
            }
            Op::MaxPool { x, window, out } => {
                let (rows, columns) = self.shape(out, batch)?;
                let Window { side, kernel, stride, padding } = window;
                let count = rows as usize * columns as usize / 8;
                let function = self.kernels.number_function("image", "max_pool")?;
                let mut arguments = Arguments::default().long(buffers[x.0]).long(buffers[out.0]);
                arguments = arguments.long(count as u64);
                for number in [side, columns as usize, kernel, stride, padding, window.positions()] {
                    arguments = arguments.int(number as u32);
                }
                one(function, count.div_ceil(256), 256, arguments)
            }
            Op::Mean { x, out } => {
                let (rows, (_, columns)) = (self.network.buffers[x.0].rows as u32, self.shape(x, batch)?);
                let function = self.kernels.number_function("image", "mean")?;
                let arguments = Arguments::default().long(buffers[x.0]).long(buffers[out.0]);
                one(function, batch * (columns as usize).div_ceil(64), 256, arguments.int(rows).int(columns))
            }
            _ => bail!("not an operation on images"),
        }
    }

    fn cached(&mut self, op: &Op, batch: usize, buffers: &[u64]) -> Result<Launch> {
        let (Op::Rotate { qkv, heads, kv_heads, cache, .. }
        | Op::CachedAttention { qkv, heads, kv_heads, cache, .. }) = *op
        else {
            bail!("not an operation on a cache")
        };
        let (rows, context) = (self.network.buffers[qkv.0].rows, self.network.buffers[cache.0].rows);
        let width = self.network.buffers[cache.0].columns / 2 / kv_heads;
        ensure!(width == 64 || width == 128, "heads are {width} wide: 64 and 128 have kernels");
        ensure!(
            heads.is_multiple_of(kv_heads) && heads / kv_heads <= MOST_GROUP,
            "{heads} heads on {kv_heads}"
        );
        ensure!(rows <= context, "{rows} tokens in a cache of {context}");
        let (m, _) = (index(batch, rows)?, index(batch, context)?);
        let shapes = |arguments: Arguments, numbers: &[usize]| {
            numbers.iter().fold(arguments, |arguments, &number| arguments.int(number as u32))
        };
        let (qkv, cache) = (buffers[qkv.0], buffers[cache.0]);
        match *op {
            Op::Rotate { angles, .. } => {
                let function = self.kernels.number_function("decoder", "rotate")?;
                let arguments = Arguments::default().long(qkv).long(self.weights[angles.0]).long(cache);
                one(function, m as usize, 256, shapes(arguments, &[rows, context, heads, kv_heads, width]))
            }
            Op::CachedAttention { out, .. } if rows == 1 => {
                let function = self.kernels.number_function("decode", &format!("decode_{width}"))?;
                let pairs = batch * kv_heads;
                let splits = splits(pairs, context, self.gpu.multiprocessors);
                let counters = buffers[self.network.buffers.len()];
                let parts = counters + 4 * MOST_CUT as u64;
                let arguments = Arguments::default().long(qkv).long(cache).long(buffers[out.0]);
                let arguments = arguments.long(counters).long(parts);
                let arguments = shapes(arguments, &[heads, kv_heads, context, splits]);
                // Tiles of 16 keys and values for 4 warps, in so many stages.
                let stages = if width == 64 { 4 } else { 2 };
                let shared_bytes = (4 * stages * 2 * 16 * width * 2) as u32;
                self.kernels.allow_shared(function, shared_bytes)?;
                Ok(Launch { shared_bytes, ..one(function, pairs * splits, 128, arguments)? })
            }
            Op::CachedAttention { out, .. } => {
                let function = self.kernels.number_function("causal", &format!("causal_{width}"))?;
                let shared_bytes = 5 * 64 * width as u32 * 2;
                self.kernels.allow_shared(function, shared_bytes)?;
                let arguments = Arguments::default().long(qkv).long(cache).long(buffers[out.0]);
                let arguments = shapes(arguments, &[rows, context, heads, kv_heads]);
                let blocks = batch * heads * rows.div_ceil(64);
                Ok(Launch { shared_bytes, ..one(function, blocks, 128, arguments)? })
            }
            _ => bail!("not an operation on a cache"),
        }
    }
}

/// A launch without dynamic shared memory.
fn one(function: Function, blocks: usize, threads: u32, arguments: Arguments) -> Result<Launch> {
    Ok(Launch { function, blocks: grid(blocks)?, threads, shared_bytes: 0, cluster: 1, arguments })
}

/// Why a device can't compute a network in this precision.
pub(super) fn refuse_precision(network: &Network, precision: Precision) -> Result<()> {
    if precision == Precision::Fp32 && !network.ops.iter().all(has_fp32) {
        bail!("this network is computed by tensor cores, in fp16 or bf16 only: choose one of those");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::model::{Bert, Llama, bert, llama_decode, llama_prefill, resnet50};

    #[test]
    fn a_context_is_cut_so_that_the_gpu_is_full_and_no_part_is_tiny() {
        assert_eq!(splits(8, 1024, 132), 16);
        assert_eq!(splits(64, 1024, 132), 4);
        assert_eq!(splits(256, 1024, 132), 1);
        assert_eq!(splits(8, 1, 132), 1);
        assert_eq!(splits(8, 131_072, 132), 33);
        assert_eq!(splits(1 << 20, 1024, 16), 1);
    }

    #[test]
    fn every_cut_fits_the_scratch() {
        for pairs in (1..600).chain([1 << 20]) {
            for context in [1, 65, 1024, 131_072] {
                for multiprocessors in [1, 16, 132, 256, 1000] {
                    let splits = splits(pairs, context, multiprocessors);
                    let fits = splits == 1 || pairs <= MOST_CUT && pairs * splits <= MOST_PARTS;
                    assert!(fits, "{pairs} {context} {multiprocessors}");
                }
            }
        }
        let part = 4 * MOST_GROUP * (128 + SHARE_EXTRA);
        let bytes = scratch_bytes(&llama_decode(Llama::EIGHT, 64));
        assert_eq!(bytes as usize, 4 * MOST_CUT + MOST_PARTS * part);
        assert_eq!(scratch_bytes(&llama_prefill(Llama::ONE, 64)), 0);
    }

    #[test]
    fn fp32_is_for_encoders() {
        assert!(refuse_precision(&bert(Bert::TINY, 8), Precision::Fp32).is_ok());
        for network in [llama_decode(Llama::TINY, 8), resnet50(32)] {
            assert!(refuse_precision(&network, Precision::Fp32).is_err());
            assert!(refuse_precision(&network, Precision::Bf16).is_ok());
        }
    }
}
