//! A whole decode step as one launch: `kernels/hopper/whole.cu`, where everything that an operation waits
//! for is the memory, and the memory never waits for an operation.

use super::device::{Context, DeviceMemory, PinnedMemory, Stream};
use super::kernels::{Arguments, Launch, Matrix, Stack, TensorMap};
use super::network::{Builder, NO_TENSOR_MAPS};
use super::operations::{MOST_GROUP, SHARE_EXTRA, number_of};
use super::steps::Step;
use super::texts::Set;
use super::thin::MOST_ROWS;
use crate::workload::Precision;
use crate::workload::model::{Activation, BufferId, Network, Op};
use anyhow::{Context as _, Result};
use std::mem::size_of;
use std::rc::Rc;

/// As in the kernel: numbers of a head, columns of the wide tile, and of a step the k of a product, of which
/// the copy engine takes so many at a time, and the keys of an attention.
const WIDTH: usize = 64;
const COLUMNS: usize = 64;
const SPAN: usize = 128;
const SWIZZLED: usize = 64;
const KEYS: usize = 64;
/// Stages of x's ring.
const X_STAGES: usize = 8;
const MOST_PHASES: usize = 96;
/// Warps that compute, and all threads of a block.
const WARPS: usize = 8;
const THREADS: u32 = 320;

/// Operations that the kernel computes in one go.
#[derive(Clone, Copy, Debug)]
enum Group<'a> {
    LookUp(&'a Op),
    /// A product; by the root mean square of which buffer's rows it is divided, and with which epsilon.
    Product(&'a Op, Option<(BufferId, f32)>),
    /// Rotation and attention.
    Attention(&'a Op, &'a Op),
    Argmax(&'a Op),
}

impl Group<'_> {
    /// Operations of the network.
    fn operations(self) -> usize {
        match self {
            Group::LookUp(_) | Group::Product(_, None) | Group::Argmax(_) => 1,
            Group::Product(_, Some(_)) | Group::Attention(..) => 2,
        }
    }
}

/// The phases of a network; none if it has an operation that the kernel lacks.
fn plan(network: &Network) -> Option<Vec<Group<'_>>> {
    let mut groups = Vec::new();
    let mut rest = &network.ops[..];
    while let Some(first) = rest.first() {
        let group = match (first, rest.get(1)) {
            (Op::Lookup { .. }, _) => Group::LookUp(first),
            (&Op::RmsNorm { x, epsilon, out }, Some(product @ Op::Linear { x: normed, .. }))
                if *normed == out && epsilon > 0.0 && is_plain(network, product) =>
            {
                Group::Product(product, Some((x, epsilon)))
            }
            // What a norm leaves is nowhere.
            (Op::Linear { x, .. }, _) if is_plain(network, first) && !is_normed(network, *x) => {
                Group::Product(first, None)
            }
            (
                Op::Rotate { qkv, heads, kv_heads, cache, .. },
                Some(attention @ Op::CachedAttention { qkv: queries, cache: cached, .. }),
            ) if (qkv, cache) == (queries, cached)
                && network.buffers[qkv.0].rows == 1
                && network.buffers[cache.0].columns == 2 * kv_heads * WIDTH
                && heads.is_multiple_of(*kv_heads)
                && heads / kv_heads <= MOST_GROUP =>
            {
                Group::Attention(first, attention)
            }
            // The last block to come to its end writes the result.
            (Op::Argmax { .. }, None) => Group::Argmax(first),
            _ => return None,
        };
        rest = &rest[group.operations()..];
        groups.push(group);
    }
    (!groups.is_empty() && groups.len() <= MOST_PHASES).then_some(groups)
}

/// A product of one row a sample without a bias.
fn is_plain(network: &Network, op: &Op) -> bool {
    let Op::Linear { x, bias: None, first_row: 0, row_step: 1, weight, residual, activation, .. } = *op
    else {
        return false;
    };
    let columns = network.weights[weight.0].columns;
    network.buffers[x.0].rows == 1
        && network.buffers[x.0].columns.is_multiple_of(SWIZZLED)
        && match activation {
            Activation::None => columns.is_multiple_of(8),
            Activation::SwiGlu => columns.is_multiple_of(16) && residual.is_none(),
            _ => false,
        }
}

fn is_normed(network: &Network, buffer: BufferId) -> bool {
    network.ops.iter().any(|op| matches!(op, Op::RmsNorm { out, .. } if *out == buffer))
}

/// Columns of a product's tiles: wide ones, unless narrow ones keep more of the clusters busy.
fn columns(n: usize, clusters: usize) -> usize {
    let busy = |columns: usize| {
        let tiles = n.div_ceil(columns);
        tiles as f64 / tiles.next_multiple_of(clusters) as f64
    };
    if busy(COLUMNS / 2) > busy(COLUMNS) + 0.1 { COLUMNS / 2 } else { COLUMNS }
}

/// A text of the kernel: rows of x that it has room for, and stages of its weights' ring.
#[derive(Clone, Copy)]
struct Tile {
    rows: usize,
    stages: usize,
}

impl Tile {
    fn of(m: usize) -> Tile {
        match m {
            0..=8 => Tile { rows: 8, stages: 10 },
            9..=16 => Tile { rows: 16, stages: 10 },
            _ => Tile { rows: MOST_ROWS, stages: 8 },
        }
    }

    /// Alignment, the rings, and the sums of a tile or the shares of an attention, of both blocks' warps.
    fn shared_bytes(self) -> u32 {
        let sums = 2 * self.rows * (COLUMNS + 8) * 4;
        let shares = 2 * WARPS * MOST_GROUP * (WIDTH + SHARE_EXTRA) * 4;
        let rings = (self.stages * COLUMNS + X_STAGES * self.rows) * SPAN * 2;
        (1024 + rings + sums.max(shares)) as u32
    }
}

/// `Kind` in the kernel.
#[derive(Clone, Copy, Debug, Default)]
#[repr(u32)]
enum Kind {
    #[default]
    LookUp = 0,
    Product = 1,
    Attention = 2,
    Argmax = 3,
}

/// `Phase` in the kernel.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Phase {
    kind: Kind,
    n: u32,
    k: u32,
    columns: u32,
    activation: u32,
    heads: u32,
    kv_heads: u32,
    epsilon: f32,
    a: u64,
    b: u64,
    c: u64,
    out: u64,
}

/// `Maps` in the kernel.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Maps {
    x: TensorMap,
    weight: TensorMap,
}

/// A batch as one launch, and as one launch a phase.
pub(super) struct Whole {
    pub(super) all: Launch,
    /// With the operations that each computes.
    pub(super) parts: Vec<(Step, usize)>,
    _memory: DeviceMemory,
}

impl Builder<'_> {
    /// The network in one launch; none where there is no kernel for that, or no room for a pair of its
    /// blocks.
    ///
    /// # Errors
    /// The driver refuses something that it should not.
    pub(super) fn whole(
        &mut self,
        context: &Rc<Context>,
        batch: usize,
        buffers: &[u64],
    ) -> Result<Option<Whole>> {
        let able = self.kernels.set() == Set::Hopper && self.kernels.precision() != Precision::Fp32;
        if !able || batch > MOST_ROWS {
            return Ok(None);
        }
        let network = self.network;
        let Some(groups) = plan(network) else { return Ok(None) };
        let tile = Tile::of(batch);
        let name = format!("whole_{}", tile.rows);
        let function = self.kernels.number_function(&name, &name)?.cooperative();
        let shared_bytes = tile.shared_bytes();
        self.kernels.allow_shared(function, shared_bytes)?;
        let launch = |clusters: usize, arguments: Arguments| Launch {
            function,
            blocks: 2 * clusters as u32,
            threads: THREADS,
            shared_bytes,
            cluster: 2,
            arguments,
        };
        // One block a multiprocessor; of two that are no pair neither has one.
        let most = self.gpu.multiprocessors / 2;
        let clusters = match most {
            0 => 0,
            most => launch(most, Arguments::default()).clusters_at_once(context)?.min(most),
        };
        if clusters == 0 {
            return Ok(None);
        }

        let mut bytes = Vec::new();
        let mut maps = Vec::new();
        for &group in &groups {
            let (phase, of_phase) = self.phase(group, batch, buffers, clusters)?;
            bytes.extend_from_slice(as_bytes(&phase));
            maps.extend_from_slice(as_bytes(&of_phase));
        }
        let (phases_bytes, maps_bytes) = (bytes.len(), maps.len());
        bytes.extend(maps);
        // Zero before and after: a counter for each phase, and the largest of each row.
        let best = (phases_bytes + maps_bytes + groups.len() * 4).next_multiple_of(8);
        bytes.resize(best + MOST_ROWS * 8, 0);
        let memory = DeviceMemory::new(context, bytes.len())?;
        let mut host = PinnedMemory::new(context, bytes.len())?;
        host.as_mut_slice().copy_from_slice(&bytes);
        let stream = Stream::new(context)?;
        stream.copy_in(memory.address(), &host, bytes.len())?;
        stream.synchronize()?;

        let start = memory.address();
        let of_phases = |first: usize, count: usize| {
            let phases = start + (first * size_of::<Phase>()) as u64;
            let maps = start + (phases_bytes + first * size_of::<Maps>()) as u64;
            let counters = start + (phases_bytes + maps_bytes) as u64;
            let arguments = Arguments::default().long(phases).long(maps).long(counters);
            launch(clusters, arguments.long(start + best as u64).int(batch as u32).int(count as u32))
        };
        let part = |(i, group): (usize, &Group)| (Step::Kernel(of_phases(i, 1)), group.operations());
        let parts = groups.iter().enumerate().map(part).collect();
        Ok(Some(Whole { all: of_phases(0, groups.len()), parts, _memory: memory }))
    }

    fn phase(&self, group: Group, batch: usize, buffers: &[u64], clusters: usize) -> Result<(Phase, Maps)> {
        let newer = self.gpu.newer.context(NO_TENSOR_MAPS)?;
        let map = |matrix| TensorMap::new(newer, self.kernels.precision(), matrix);
        let size = |buffer: BufferId| &self.network.buffers[buffer.0];
        let address = |buffer: BufferId| buffers[buffer.0];
        let int = |number: usize| u32::try_from(number);
        match group {
            Group::LookUp(&Op::Lookup { tokens, table, out }) => {
                let n = int(size(out).columns)?;
                let (a, b, out) = (address(tokens), self.weights[table.0], address(out));
                Ok((Phase { n, a, b, out, ..Phase::default() }, Maps::default()))
            }
            Group::Product(&Op::Linear { x, weight, residual, activation, out, .. }, norm) => {
                let (x, epsilon) = norm.unwrap_or((x, 0.0));
                let weight_at = self.weights[weight.0];
                let weight = &self.network.weights[weight.0];
                let (k, n) = (weight.rows, weight.columns);
                let columns = columns(n, clusters);
                let x = Matrix {
                    address: address(x),
                    rows: batch,
                    columns: SWIZZLED,
                    stride: k,
                    box_rows: Tile::of(batch).rows,
                    box_columns: SWIZZLED,
                    // Side by side, so that one box has all of a step.
                    stack: Some(Stack { count: k / SWIZZLED, apart: SWIZZLED, box_count: SPAN / SWIZZLED }),
                };
                let weight = Matrix {
                    address: weight_at,
                    rows: k,
                    columns: n,
                    stride: n,
                    box_rows: SPAN,
                    box_columns: columns,
                    stack: None,
                };
                let maps = Maps { x: map(x)?, weight: map(weight)? };
                let phase = Phase {
                    kind: Kind::Product,
                    n: int(n)?,
                    k: int(k)?,
                    columns: int(columns)?,
                    activation: number_of(activation),
                    epsilon,
                    a: residual.map_or(0, address),
                    out: address(out),
                    ..Phase::default()
                };
                Ok((phase, maps))
            }
            Group::Attention(
                &Op::Rotate { angles, .. },
                &Op::CachedAttention { qkv, heads, kv_heads, cache, out },
            ) => {
                let rows = size(cache).rows;
                let matrix = [rows, size(cache).columns];
                let weight = map(Matrix::of_samples(address(cache), batch, matrix, [KEYS, WIDTH]))?;
                let phase = Phase {
                    kind: Kind::Attention,
                    k: int(rows)?,
                    heads: int(heads)?,
                    kv_heads: int(kv_heads)?,
                    a: address(qkv),
                    b: self.weights[angles.0],
                    c: address(cache),
                    out: address(out),
                    ..Phase::default()
                };
                Ok((phase, Maps { weight, ..Maps::default() }))
            }
            Group::Argmax(&Op::Argmax { x, out }) => {
                let (n, a, out) = (int(size(x).columns)?, address(x), address(out));
                Ok((Phase { kind: Kind::Argmax, n, a, out, ..Phase::default() }, Maps::default()))
            }
            _ => unreachable!("plan() made the group"),
        }
    }
}

/// As it lies in memory.
fn as_bytes<T: Copy>(value: &T) -> &[u8] {
    // SAFETY: both types that come here are numbers, and an enumeration that is one, without padding between or
    // after them.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::model::{Bert, Llama, bert, llama_decode, llama_prefill, mlp};

    #[test]
    fn a_decode_step_is_planned_and_nothing_else() {
        for (shape, layers) in [(Llama::TINY, 2), (Llama::ONE, 16)] {
            let network = llama_decode(shape, 100);
            let groups = plan(&network).unwrap();
            assert_eq!(groups.len(), 5 * layers + 3);
            assert_eq!(groups.iter().map(|g| g.operations()).sum::<usize>(), network.ops.len());
        }
        let mut last_twice = llama_decode(Llama::TINY, 100);
        last_twice.ops.extend(last_twice.ops.last().cloned());
        for network in [
            llama_decode(Llama::EIGHT, 100),
            llama_prefill(Llama::TINY, 100),
            bert(Bert::TINY, 8),
            mlp(),
            last_twice,
            Network::default(),
        ] {
            assert!(plan(&network).is_none());
        }
    }

    #[test]
    fn tiles_keep_the_clusters_busy() {
        assert_eq!([2048, 3072, 16_384, 128_256].map(|n| columns(n, 66)), [32, 64, 64, 64]);
        assert_eq!([2048, 3072, 16_384, 128_256].map(|n| columns(n, 8)), [64; 4]);
    }

    /// What a block of Hopper's may have: 227 KiB, with 7 KiB for what the kernel declares itself.
    #[test]
    fn a_block_fits_a_multiprocessor() {
        for m in 1..=MOST_ROWS {
            let tile = Tile::of(m);
            assert!(tile.rows >= m && tile.shared_bytes() <= (227 - 7) * 1024, "{m}");
        }
    }
}
