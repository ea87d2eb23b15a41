//! A network's operations as kernel launches, and the device memory that they need.
//!
//! What a launch is told (shapes, addresses) is decided here; what a kernel requires of a shape
//! beyond that is refused here, before anything runs.

use super::kernels::{Arguments, Family, Function, Kernels, Launch};
use super::tiles::{self, Tile};
use crate::workload::Precision;
use crate::workload::model::{Activation, Element, Network, Op, random};
use anyhow::{Context as _, Result, bail, ensure};

/// Every tensor starts at a multiple of this: a kernel's widest access, and a DRAM burst.
const ALIGNMENT: u64 = 256;

/// Most columns that `norm.cu` holds in a warp's registers.
const MOST_NORM_COLUMNS: usize = 1024;

/// Where each tensor lies in one allocation: offsets, and the bytes of the whole.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) offsets: Vec<u64>,
    pub(super) bytes: u64,
}

impl Layout {
    /// One after another. Saturates instead of overflowing: the batch comes from the command line,
    /// and what is too large is refused by comparison with the free memory.
    fn new(sizes: impl Iterator<Item = u64>) -> Layout {
        let mut layout = Layout { offsets: Vec::new(), bytes: 0 };
        for size in sizes {
            layout.offsets.push(layout.bytes);
            let padded = size.checked_next_multiple_of(ALIGNMENT).unwrap_or(u64::MAX);
            layout.bytes = layout.bytes.saturating_add(padded);
        }
        layout
    }

    /// The parameters of a network.
    pub(super) fn weights(network: &Network, precision: Precision) -> Layout {
        Layout::new(network.weights.iter().map(|w| (w.len() * precision.bytes()) as u64))
    }

    /// The working memory of one lane.
    pub(super) fn buffers(network: &Network, batch: usize, precision: Precision) -> Layout {
        let sample = |b: &crate::workload::model::Buffer| b.bytes(1, precision) as u64;
        Layout::new(network.buffers.iter().map(|b| sample(b).saturating_mul(batch as u64)))
    }

    /// Addresses, when the allocation starts at `start`.
    pub(super) fn addresses(&self, start: u64) -> Vec<u64> {
        self.offsets.iter().map(|offset| start + offset).collect()
    }
}

/// What launches depend on, of the device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gpu {
    pub(super) multiprocessors: usize,
    /// Shared memory that a block may ask for.
    pub(super) shared_bytes: u32,
}

/// What turns a network into launches.
pub(super) struct Builder<'a> {
    pub(super) network: &'a Network,
    pub(super) gpu: Gpu,
    pub(super) kernels: &'a mut Kernels,
    /// Device addresses of the weights.
    pub(super) weights: &'a [u64],
    /// Computes every product with this tile, for tests.
    pub(super) tile: Option<&'static Tile>,
}

impl Builder<'_> {
    /// The launches that generate all weights.
    pub(super) fn fill_weights(&mut self, seed: u64) -> Result<Vec<Launch>> {
        let function = self.kernels.number_function(Family::Fill, "fill")?;
        let mut launches = Vec::new();
        for (i, weight) in self.network.weights.iter().enumerate() {
            let init = weight.init;
            let arguments = Arguments::default()
                .long(self.weights[i])
                .long(weight.len() as u64)
                .long(random::tensor_key(seed, i as u32))
                .int(u32::try_from(weight.columns)?)
                .float(init.mean)
                .float(random::scale_of(init.std))
                .int(u32::try_from(init.wide_columns)?)
                .float(random::scale_of(init.wide_std));
            launches.push(self.fill(function, weight.len(), arguments));
        }
        Ok(launches)
    }

    /// The launch that generates the input of a batch; none for a network without input.
    pub(super) fn fill_input(&mut self, seed: u64, batch: usize, buffers: &[u64]) -> Result<Option<Launch>> {
        let Some(id) = self.network.input() else { return Ok(None) };
        let buffer = &self.network.buffers[id.0];
        let len = buffer.len(batch);
        let key = random::tensor_key(seed, random::INPUT_TENSOR);
        let arguments = Arguments::default().long(buffers[id.0]).long(len as u64).long(key);
        let (function, arguments) = match buffer.element {
            Element::Token { vocabulary } => {
                (self.kernels.function(Family::Fill, "fill_tokens")?, arguments.int(vocabulary))
            }
            Element::Value => {
                let columns = u32::try_from(buffer.columns)?;
                let scale = random::scale_of(1.0);
                let arguments = arguments.int(columns).float(0.0).float(scale).int(0).float(scale);
                (self.kernels.number_function(Family::Fill, "fill")?, arguments)
            }
        };
        Ok(Some(self.fill(function, len, arguments)))
    }

    fn fill(&self, function: Function, len: usize, arguments: Arguments) -> Launch {
        // The kernel strides over whatever is left.
        let blocks = len.div_ceil(256).min(self.gpu.multiprocessors * 16) as u32;
        Launch { function, blocks, threads: 256, shared_bytes: 0, arguments }
    }

    /// The launches of one batch; one empty kernel for a network without operations.
    ///
    /// # Errors
    /// A shape that a kernel can't compute, or a batch beyond the 32-bit indices of the kernels.
    pub(super) fn batch(&mut self, batch: usize, buffers: &[u64]) -> Result<Vec<Launch>> {
        if self.network.ops.is_empty() {
            let function = self.kernels.function(Family::Null, "null")?;
            let arguments = Arguments::default();
            return Ok(vec![Launch { function, blocks: 1, threads: 1, shared_bytes: 0, arguments }]);
        }
        let network = self.network;
        let launch = |op| self.operation(op, batch, buffers).with_context(|| format!("{op:?}"));
        network.ops.iter().map(launch).collect()
    }

    /// A launch that takes so long and does nothing.
    pub(super) fn spin(&mut self, us: u64) -> Result<Launch> {
        let function = self.kernels.function(Family::Null, "spin")?;
        let arguments = Arguments::default().long(us * 1000);
        Ok(Launch { function, blocks: 1, threads: 1, shared_bytes: 0, arguments })
    }

    fn operation(&mut self, op: &Op, batch: usize, buffers: &[u64]) -> Result<Launch> {
        match *op {
            Op::Embed { .. } => self.embed(op, batch, buffers),
            Op::Linear { .. } => self.linear(op, batch, buffers),
            Op::AddNorm { .. } => self.add_norm(op, batch, buffers),
            Op::Attention { .. } => self.attention(op, batch, buffers),
        }
    }

    fn embed(&mut self, op: &Op, batch: usize, buffers: &[u64]) -> Result<Launch> {
        let Op::Embed { tokens, word, position, segment, out } = *op else { unreachable!() };
        let buffer = &self.network.buffers[out.0];
        ensure!(buffer.columns.is_multiple_of(8), "columns must be a multiple of 8");
        let rows = index(batch, buffer.rows)?;
        Ok(Launch {
            function: self.kernels.number_function(Family::Embed, "embed")?,
            blocks: grid((buffer.len(batch) / 8).div_ceil(256))?,
            threads: 256,
            shared_bytes: 0,
            arguments: Arguments::default()
                .long(buffers[tokens.0])
                .long(self.weights[word.0])
                .long(self.weights[position.0])
                .long(self.weights[segment.0])
                .long(buffers[out.0])
                .int(rows)
                .int(buffer.rows as u32)
                .int(buffer.columns as u32),
        })
    }

    fn linear(&mut self, op: &Op, batch: usize, buffers: &[u64]) -> Result<Launch> {
        let Op::Linear { x, row_step, weight, bias, activation, out } = *op else { unreachable!() };
        let (k, n) = (self.network.weights[weight.0].rows, self.network.weights[weight.0].columns);
        let (x_buffer, out_buffer) = (&self.network.buffers[x.0], &self.network.buffers[out.0]);
        ensure!(k.is_multiple_of(8) && n.is_multiple_of(8), "{k} x {n}: both must be multiples of 8");
        ensure!(x_buffer.columns == k && out_buffer.columns == n, "columns do not match");
        ensure!(row_step > 0 && x_buffer.rows == out_buffer.rows * row_step, "rows do not match");
        let m = index(batch, out_buffer.rows)?;
        let tile = self.tile.unwrap_or_else(|| {
            tiles::choose(m as usize, n, k, self.gpu.multiprocessors, self.gpu.shared_bytes)
        });
        let function = self.kernels.number_function(Family::Linear, &format!("linear_{}", tile.name))?;
        self.kernels.allow_shared(function, tile.shared_bytes())?;
        Ok(Launch {
            function,
            blocks: grid(tile.blocks(m as usize, n))?,
            threads: tile.threads(),
            shared_bytes: tile.shared_bytes(),
            arguments: Arguments::default()
                .long(buffers[x.0])
                .long((row_step * k) as u64)
                .long(self.weights[weight.0])
                .long(self.weights[bias.0])
                .long(buffers[out.0])
                .int(m)
                .int(n as u32)
                .int(k as u32)
                .int(match activation {
                    Activation::None => 0,
                    Activation::Relu => 1,
                    Activation::Gelu => 2,
                    Activation::Tanh => 3,
                }),
        })
    }

    fn add_norm(&mut self, op: &Op, batch: usize, buffers: &[u64]) -> Result<Launch> {
        let Op::AddNorm { x, residual, gamma, beta, epsilon, out } = *op else { unreachable!() };
        let buffer = &self.network.buffers[x.0];
        if !buffer.columns.is_multiple_of(8) || buffer.columns > MOST_NORM_COLUMNS {
            bail!("{} columns: must be a multiple of 8, at most {MOST_NORM_COLUMNS}", buffer.columns);
        }
        let rows = index(batch, buffer.rows)?;
        const THREADS: u32 = 128;
        Ok(Launch {
            function: self.kernels.number_function(Family::Norm, "add_norm")?,
            blocks: rows.div_ceil(THREADS / 32),
            threads: THREADS,
            shared_bytes: 0,
            arguments: Arguments::default()
                .long(buffers[x.0])
                .long(residual.map_or(0, |r| buffers[r.0]))
                .long(self.weights[gamma.0])
                .long(self.weights[beta.0])
                .long(buffers[out.0])
                .int(rows)
                .int(buffer.columns as u32)
                .float(epsilon),
        })
    }

    fn attention(&mut self, op: &Op, batch: usize, buffers: &[u64]) -> Result<Launch> {
        let Op::Attention { qkv, heads, out } = *op else { unreachable!() };
        let buffer = &self.network.buffers[out.0];
        ensure!(buffer.columns == heads * 64, "heads must be 64 wide");
        ensure!(self.network.buffers[qkv.0].columns == 3 * buffer.columns, "columns do not match");
        index(batch, buffer.rows)?;
        Ok(Launch {
            function: self.kernels.number_function(Family::Attention, "attention")?,
            blocks: grid(batch * heads * buffer.rows.div_ceil(64))?,
            threads: 128,
            shared_bytes: 0,
            arguments: Arguments::default()
                .long(buffers[qkv.0])
                .long(buffers[out.0])
                .int(buffer.rows as u32)
                .int(heads as u32),
        })
    }
}

/// `batch` x `rows` as the kernels' 32-bit row index.
fn index(batch: usize, rows: usize) -> Result<u32> {
    match batch.checked_mul(rows).and_then(|r| i32::try_from(r).ok()) {
        // A tile may reach beyond the last row.
        Some(rows) if rows <= i32::MAX - 128 => Ok(rows as u32),
        _ => bail!("{batch} samples of {rows} rows are more than the kernels can index"),
    }
}

/// Blocks of a launch: CUDA's limit is 2^31 - 1.
fn grid(blocks: usize) -> Result<u32> {
    match i32::try_from(blocks) {
        Ok(blocks) => Ok(blocks as u32),
        Err(_) => bail!("{blocks} blocks are more than one launch can have"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::model::{Bert, bert};

    #[test]
    fn tensors_are_aligned_and_do_not_overlap() {
        let network = bert(Bert::TINY, 17);
        let layout = Layout::buffers(&network, 3, Precision::Fp16);
        let mut end = 0;
        for (offset, buffer) in layout.offsets.iter().zip(&network.buffers) {
            assert!(*offset >= end && offset % ALIGNMENT == 0);
            end = offset + buffer.bytes(3, Precision::Fp16) as u64;
        }
        assert!(layout.bytes >= end);
        assert_eq!(layout.addresses(1 << 20)[1], (1 << 20) + layout.offsets[1]);
    }

    #[test]
    fn byte_counts_saturate() {
        let layout = Layout::buffers(&bert(Bert::BASE, 512), usize::MAX, Precision::Fp16);
        assert_eq!(layout.bytes, u64::MAX);
    }

    #[test]
    fn what_the_kernels_cannot_index_is_refused() {
        assert_eq!(index(32, 128).unwrap(), 4096);
        assert!(index(1 << 24, 128).is_err());
        assert!(index(usize::MAX, 2).is_err());
        assert!(grid(1 << 31).is_err());
    }
}
