//! A network's operations as kernel launches, and the device memory that they need.
//!
//! What a launch is told (shapes, addresses) is decided here; what a kernel requires of a shape
//! beyond that is refused here, before anything runs.

use super::device::{Context, PinnedMemory, Stream};
use super::driver::Newer;
use super::kernels::{Arguments, Function, Kernels, Launch, Matrix, TensorMap};
use super::texts::Set;
use super::tiles::{self, Design, Tile};
use super::{operations, thin};
use crate::workload::Precision;
use crate::workload::model::{Activation, BufferId, Element, Network, Op, Weight, random};
use anyhow::{Context as _, Result, bail, ensure};
use std::rc::Rc;

/// Every tensor starts at a multiple of this: a kernel's widest access, and a DRAM burst.
const ALIGNMENT: u64 = 256;

/// Most columns that `norm.cu` holds in a warp's registers.
const MOST_NORM_COLUMNS: usize = 1024;

/// More multiprocessors than any GPU has: memory is reserved before one is known.
pub(super) const MOST_MULTIPROCESSORS: usize = 256;

pub(super) const NO_TENSOR_MAPS: &str = "the driver can't describe matrices to the copy engine";

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

    /// The working memory of one lane: the buffers, and after them the kernels' own scratch.
    pub(super) fn buffers(network: &Network, batch: usize, precision: Precision) -> Layout {
        let sample = |b: &crate::workload::model::Buffer| b.bytes(1, precision) as u64;
        let buffers = network.buffers.iter().map(|b| sample(b).saturating_mul(batch as u64));
        Layout::new(buffers.chain(scratch(network)))
    }

    /// Addresses, when the allocation starts at `start`.
    pub(super) fn addresses(&self, start: u64) -> Vec<u64> {
        self.offsets.iter().map(|offset| start + offset).collect()
    }
}

/// Bytes of the kernels' scratch, which lie behind the buffers, zero before the first launch.
pub(super) fn scratch(network: &Network) -> [u64; 2] {
    [operations::scratch_bytes(network), thin::scratch_bytes(network)]
}

/// Writes the weights that are not random: the host computes them in f64.
pub(super) fn write_angles(
    context: &Rc<Context>,
    network: &Network,
    precision: Precision,
    weights: &[u64],
) -> Result<()> {
    let stream = Stream::new(context)?;
    for (id, weight) in network.weights.iter().enumerate().filter(|(_, w)| w.rotary.is_some()) {
        let mut values = vec![0.0; weight.len()];
        weight.fill(&mut values, 0, id, 0, precision);
        let bytes = stored(&values, precision);
        let mut host = PinnedMemory::new(context, bytes.len())?;
        host.as_mut_slice().copy_from_slice(&bytes);
        stream.copy_in(weights[id], &host, bytes.len())?;
        stream.synchronize()?;
    }
    Ok(())
}

/// Numbers, already rounded, as they lie in memory.
pub(super) fn stored(values: &[f32], precision: Precision) -> Vec<u8> {
    match precision {
        Precision::Fp16 => values.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect(),
        Precision::Bf16 => values.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect(),
        Precision::Fp32 => values.iter().flat_map(|&v| v.to_le_bytes()).collect(),
    }
}

/// What launches depend on, of the device.
#[derive(Clone, Copy)]
pub(super) struct Gpu {
    pub(super) multiprocessors: usize,
    /// Shared memory that a block may ask for.
    pub(super) shared_bytes: u32,
    /// What Hopper's kernels need of the driver.
    pub(super) newer: Option<&'static Newer>,
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
        let function = self.kernels.number_function("fill", "fill")?;
        let mut launches = Vec::new();
        // Angles are computed by the host.
        let random = |(_, weight): &(usize, &Weight)| weight.rotary.is_none();
        for (i, weight) in self.network.weights.iter().enumerate().filter(random) {
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

    /// The launches that generate what the buffers hold before the first batch.
    pub(super) fn fill_buffers(&mut self, seed: u64, batch: usize, buffers: &[u64]) -> Result<Vec<Launch>> {
        let mut launches = Vec::new();
        for (id, buffer) in self.network.buffers.iter().enumerate() {
            let Some((key, init)) = self.network.origin(BufferId(id), seed) else { continue };
            let len = buffer.len(batch);
            let arguments = Arguments::default().long(buffers[id]).long(len as u64).long(key);
            let (function, arguments) = match buffer.element {
                Element::Token { vocabulary } => {
                    (self.kernels.function("fill", "fill_tokens")?, arguments.int(vocabulary))
                }
                Element::Value => {
                    let arguments = arguments
                        .int(u32::try_from(buffer.columns)?)
                        .float(init.mean)
                        .float(random::scale_of(init.std))
                        .int(u32::try_from(init.wide_columns)?)
                        .float(random::scale_of(init.wide_std));
                    (self.kernels.number_function("fill", "fill")?, arguments)
                }
            };
            launches.push(self.fill(function, len, arguments));
        }
        Ok(launches)
    }

    fn fill(&self, function: Function, len: usize, arguments: Arguments) -> Launch {
        // The kernel strides over whatever is left.
        let blocks = len.div_ceil(256).min(self.gpu.multiprocessors * 16) as u32;
        Launch { function, blocks, threads: 256, shared_bytes: 0, cluster: 1, arguments }
    }

    /// The launches of one batch, one an operation; one empty kernel for a network of nothing.
    ///
    /// # Errors
    /// A shape that a kernel can't compute, or a batch beyond the 32-bit indices of the kernels.
    pub(super) fn batch(&mut self, batch: usize, buffers: &[u64]) -> Result<Vec<Launch>> {
        if self.network.ops.is_empty() && self.network.buffers.is_empty() {
            return Ok(vec![self.nothing()?]);
        }
        let network = self.network;
        let launch = |op| self.operation(op, batch, buffers).with_context(|| format!("{op:?}"));
        network.ops.iter().map(launch).collect()
    }

    /// A launch that takes so long and does nothing.
    pub(super) fn spin(&mut self, us: u64) -> Result<Launch> {
        let function = self.kernels.function("null", "spin")?;
        let arguments = Arguments::default().long(us * 1000);
        Ok(Launch { function, blocks: 1, threads: 1, shared_bytes: 0, cluster: 1, arguments })
    }

    pub(super) fn operation(&mut self, op: &Op, batch: usize, buffers: &[u64]) -> Result<Launch> {
        match *op {
            Op::Embed { .. } => self.embed(op, batch, buffers),
            Op::Linear { .. } => self.linear(op, batch, buffers),
            Op::AddNorm { .. } => self.add_norm(op, batch, buffers),
            Op::Attention { .. } => self.attention(op, batch, buffers),
            Op::Nothing => self.nothing(),
            _ => self.further_operation(op, batch, buffers),
        }
    }

    fn embed(&mut self, op: &Op, batch: usize, buffers: &[u64]) -> Result<Launch> {
        let Op::Embed { tokens, word, position, segment, out } = *op else { unreachable!() };
        let buffer = &self.network.buffers[out.0];
        ensure!(buffer.columns.is_multiple_of(8), "columns must be a multiple of 8");
        let rows = index(batch, buffer.rows)?;
        Ok(Launch {
            function: self.kernels.number_function("embed", "embed")?,
            blocks: grid((buffer.len(batch) / 8).div_ceil(256))?,
            threads: 256,
            shared_bytes: 0,
            cluster: 1,
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

    fn nothing(&mut self) -> Result<Launch> {
        let function = self.kernels.function("null", "null")?;
        let arguments = Arguments::default();
        Ok(Launch { function, blocks: 1, threads: 1, shared_bytes: 0, cluster: 1, arguments })
    }

    fn linear(&mut self, op: &Op, batch: usize, buffers: &[u64]) -> Result<Launch> {
        let Op::Linear { x, first_row, row_step, weight, bias, residual, activation, out } = *op else {
            unreachable!()
        };
        let (k, n) = (self.network.weights[weight.0].rows, self.network.weights[weight.0].columns);
        let (x_buffer, out_buffer) = (&self.network.buffers[x.0], &self.network.buffers[out.0]);
        ensure!(k.is_multiple_of(8) && n.is_multiple_of(8), "{k} x {n}: both must be multiples of 8");
        ensure!(x_buffer.columns == k && out_buffer.columns == activation.columns(n), "columns do not match");
        ensure!(row_step > 0 && x_buffer.rows == out_buffer.rows * row_step, "rows do not match");
        let gated = activation == Activation::SwiGlu;
        ensure!(!gated || n.is_multiple_of(16), "{n} columns: a gate makes a multiple of 8 of them");
        ensure!(first_row < row_step && !(gated && residual.is_some()), "no kernel for this");
        let m = index(batch, out_buffer.rows)?;
        let first = (first_row * k * self.kernels.precision().bytes()) as u64;
        let (x, weight, out) = (buffers[x.0] + first, self.weights[weight.0], buffers[out.0]);
        let stride = row_step * k;
        let bias = bias.map_or(0, |bias| self.weights[bias.0]);
        let residual = residual.map_or(0, |residual| buffers[residual.0]);
        let by_addresses = Arguments::default().long(x).long(stride as u64).long(weight).long(bias);
        let by_addresses = by_addresses.long(residual).long(out);
        let shape = |arguments: Arguments| {
            arguments.int(m).int(n as u32).int(k as u32).int(operations::number_of(activation))
        };
        if self.kernels.precision() == Precision::Fp32 {
            return self.linear32([m as usize, n], shape(by_addresses));
        }
        if self.is_thin(m as usize) {
            let (shape, activation) = ([m as usize, n, k], operations::number_of(activation));
            return match self.kernels.set() {
                Set::Portable => self.thin(shape, by_addresses, activation, buffers),
                Set::Hopper => self.skinny(shape, [x, weight], stride, [bias, residual, out], activation),
            };
        }
        let epilogue = (activation, residual != 0);
        let tile = self.tile.unwrap_or_else(|| {
            let Gpu { multiprocessors, shared_bytes, .. } = self.gpu;
            tiles::choose(self.kernels.set(), [m as usize, n, k], epilogue, multiprocessors, shared_bytes)
        });
        ensure!(tile.has(epilogue), "the tile {} has no such epilogue", tile.name);
        let name = format!("linear_{}", tile.name);
        let function = self.kernels.number_function(&name, &name)?;
        self.kernels.allow_shared(function, tile.shared_bytes())?;
        let arguments = match tile.design {
            Design::Mma => by_addresses,
            _ => {
                let out_columns = activation.columns(n);
                let matrices =
                    self.matrices(tile, [x, weight, out], [m as usize, n, k], stride, out_columns)?;
                matrices.long(bias).long(residual)
            }
        };
        Ok(Launch {
            function,
            blocks: grid(tile.blocks(m as usize, n, self.gpu.multiprocessors))?,
            threads: tile.threads(),
            shared_bytes: tile.shared_bytes(),
            cluster: tile.cluster() as u32,
            arguments: shape(arguments),
        })
    }

    /// What the copy engine moves for `hopper/linear.cu`: x (`stride` elements from row to row), the
    /// weight and the result, whose columns may be fewer, at these addresses.
    fn matrices(
        &self,
        tile: &Tile,
        [x, weight, out]: [u64; 3],
        [m, n, k]: [usize; 3],
        stride: usize,
        out_columns: usize,
    ) -> Result<Arguments> {
        let newer = self.gpu.newer.context(NO_TENSOR_MAPS)?;
        let columns = tile.box_columns();
        let matrices = [
            Matrix {
                address: x,
                rows: m,
                columns: k,
                stride,
                box_rows: tile.m,
                box_columns: 64,
                stack: None,
            },
            Matrix {
                address: weight,
                rows: k,
                columns: n,
                stride: n,
                box_rows: 64,
                box_columns: columns,
                stack: None,
            },
            Matrix {
                address: out,
                rows: m,
                columns: out_columns,
                stride: out_columns,
                box_rows: 16,
                box_columns: columns * out_columns / n,
                stack: None,
            },
        ];
        let mut arguments = Arguments::default();
        for matrix in matrices {
            arguments = arguments.matrix(TensorMap::new(newer, self.kernels.precision(), matrix)?);
        }
        Ok(arguments)
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
            function: self.kernels.number_function("norm", "add_norm")?,
            blocks: rows.div_ceil(THREADS / 32),
            threads: THREADS,
            shared_bytes: 0,
            cluster: 1,
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
        let (qkv, out) = (buffers[qkv.0], buffers[out.0]);
        let (mut rows_of_a_block, set) = (64, self.kernels.set());
        let (function, arguments) = match set {
            _ if self.kernels.precision() == Precision::Fp32 => {
                rows_of_a_block = 16;
                let function = self.kernels.function("plain", "attention32")?;
                (function, Arguments::default().long(qkv).long(out))
            }
            Set::Portable => {
                let function = self.kernels.number_function("attention", "attention")?;
                (function, Arguments::default().long(qkv).long(out))
            }
            Set::Hopper => {
                let function = self.kernels.number_function("flash", "flash")?;
                let newer = self.gpu.newer.context(NO_TENSOR_MAPS)?;
                let map = |address, columns, box_rows| {
                    let matrix = Matrix::of_samples(address, batch, [buffer.rows, columns], [box_rows, 64]);
                    TensorMap::new(newer, self.kernels.precision(), matrix)
                };
                let (qkv, out) = (map(qkv, 3 * buffer.columns, 64)?, map(out, buffer.columns, 16)?);
                (function, Arguments::default().matrix(qkv).matrix(out))
            }
        };
        Ok(Launch {
            function,
            blocks: grid(batch * heads * buffer.rows.div_ceil(rows_of_a_block))?,
            threads: 128,
            shared_bytes: 0,
            cluster: 1,
            arguments: arguments.int(buffer.rows as u32).int(heads as u32),
        })
    }
}

/// `batch` x `rows` as the kernels' 32-bit row index.
pub(super) fn index(batch: usize, rows: usize) -> Result<u32> {
    match batch.checked_mul(rows).and_then(|r| i32::try_from(r).ok()) {
        // A tile may reach beyond the last row.
        Some(rows) if rows <= i32::MAX - 1024 => Ok(rows as u32),
        _ => bail!("{batch} samples of {rows} rows are more than the kernels can index"),
    }
}

/// Blocks of a launch: CUDA's limit is 2^31 - 1.
pub(super) fn grid(blocks: usize) -> Result<u32> {
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
