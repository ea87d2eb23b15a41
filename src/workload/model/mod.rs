//! A network as a list of operations on shapes.
//!
//! Knows no device: [`crate::workload::cpu`] and [`crate::workload::cuda`] execute what stands
//! here, and the counts of operations and bytes behind `tflops` and `gbytes_per_s` are taken from
//! here. A new network is one file that builds a [`Network`].

mod bert;
mod llama;
mod mlp;
mod op;
pub mod plain;
mod probe;
pub mod random;
mod resnet;

pub use bert::{Bert, bert};
pub use llama::{Llama, llama_decode, llama_prefill};
pub use mlp::mlp;
pub use op::{Activation, Op, Window};
pub use probe::{Direction, gemm, launch, stream, transfer};
pub use random::Init;
pub use resnet::resnet50;

use super::Precision;

/// Index of a weight in [`Network::weights`]; also its tensor number in [`random`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightId(pub usize);

/// Index of a buffer in [`Network::buffers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferId(pub usize);

/// A parameter of the network, row-major `rows` x `columns`, generated on the device.
#[derive(Clone, Debug)]
pub struct Weight {
    /// What it is called in messages.
    pub name: String,
    /// Rows (the reduction dimension of a [`Op::Linear`]).
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Distribution of its values.
    pub init: Init,
    /// Not random but the cosines and sines of a rotary embedding.
    pub rotary: Option<Rotary>,
}

/// Row r holds the cosines, then the sines, of the angles (first + r) · theta^(-2i / columns) for
/// i from 0 to columns / 2 (Su et al., arXiv:2104.09864).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rotary {
    /// The position of row 0.
    pub first: usize,
    /// The base of the frequencies.
    pub theta: f64,
}

impl Weight {
    /// Of these dimensions and this distribution.
    pub fn new(name: impl Into<String>, rows: usize, columns: usize, init: Init) -> Weight {
        Weight { name: name.into(), rows, columns, init, rotary: None }
    }

    /// Fills `out` with the elements `first..` as the device stores them; `tensor` is the number of
    /// the weight.
    pub fn fill(&self, out: &mut [f32], seed: u64, tensor: usize, first: u64, precision: Precision) {
        let Some(rotary) = self.rotary else {
            let key = random::tensor_key(seed, tensor as u32);
            return random::fill(out, key, first, self.columns, self.init, precision);
        };
        let half = self.columns as u64 / 2;
        for (i, value) in (first..).zip(out) {
            let (row, column) = (i / self.columns as u64, i % self.columns as u64);
            let frequency = rotary.theta.powf(-((column % half) as f64) / half as f64);
            let angle = (rotary.first as u64 + row) as f64 * frequency;
            *value = precision.round(if column < half { angle.cos() } else { angle.sin() } as f32);
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.rows * self.columns
    }

    /// No element at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a buffer's elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// A number in the precision of the run.
    Value,
    /// A 32-bit token id below `vocabulary`.
    Token {
        /// Number of different ids, at most 2^24, so that fp32 holds each exactly.
        vocabulary: u32,
    },
}

/// Working memory, row-major; a batch of b samples has b x `rows` rows.
#[derive(Clone, Debug)]
pub struct Buffer {
    /// Rows per sample.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Element type.
    pub element: Element,
    /// Filled before the first batch and kept from batch to batch: numbers of this distribution, or
    /// random ids.
    pub kept: Option<Init>,
}

impl Buffer {
    /// Scratch: nothing is kept from batch to batch.
    pub fn new(rows: usize, columns: usize, element: Element) -> Buffer {
        Buffer { rows, columns, element, kept: None }
    }

    /// Elements for a batch of `batch` samples.
    pub fn len(&self, batch: usize) -> usize {
        batch * self.rows * self.columns
    }

    /// Bytes for a batch of `batch` samples.
    pub fn bytes(&self, batch: usize, precision: Precision) -> usize {
        self.len(batch)
            * match self.element {
                Element::Value => precision.bytes(),
                Element::Token { .. } => 4,
            }
    }
}

/// What a batch copies between host and device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Exchange {
    /// The input before, the output after.
    #[default]
    InOut,
    /// The input alone.
    In,
    /// The output alone.
    Out,
    /// Input and output at the same time.
    AtOnce,
    /// Nothing: both stay on the device.
    Nothing,
}

impl Exchange {
    /// The input is copied.
    pub fn has_input(self) -> bool {
        matches!(self, Exchange::InOut | Exchange::In | Exchange::AtOnce)
    }

    /// The output is copied.
    pub fn has_output(self) -> bool {
        matches!(self, Exchange::InOut | Exchange::Out | Exchange::AtOnce)
    }
}

/// A network: what a workload computes for each sample of a batch.
#[derive(Clone, Debug, Default)]
pub struct Network {
    /// Parameters.
    pub weights: Vec<Weight>,
    /// Working memory; the first is the input, the last the output.
    pub buffers: Vec<Buffer>,
    /// What is computed, in order. Empty for the `null` and `transfer` workloads.
    pub ops: Vec<Op>,
    /// What is copied around that.
    pub exchange: Exchange,
}

impl Network {
    fn weight(&mut self, name: impl Into<String>, rows: usize, columns: usize, init: Init) -> WeightId {
        self.weights.push(Weight::new(name, rows, columns, init));
        WeightId(self.weights.len() - 1)
    }

    fn buffer(&mut self, rows: usize, columns: usize, element: Element) -> BufferId {
        self.buffers.push(Buffer::new(rows, columns, element));
        BufferId(self.buffers.len() - 1)
    }

    /// The buffer that the host's input is copied into; none for the `null` workload.
    pub fn input(&self) -> Option<BufferId> {
        (!self.buffers.is_empty()).then_some(BufferId(0))
    }

    /// The buffer that is copied back to the host; none for the `null` workload.
    pub fn output(&self) -> Option<BufferId> {
        self.buffers.len().checked_sub(1).map(BufferId)
    }

    /// Bytes of all weights.
    pub fn weight_bytes(&self, precision: Precision) -> u64 {
        self.weights.iter().map(|w| w.len() as u64).sum::<u64>() * precision.bytes() as u64
    }

    /// Bytes of one lane's buffers for a batch, 0 for `null`. Saturates instead of overflowing: the
    /// batch comes from the command line.
    pub fn buffer_bytes(&self, batch: u64, precision: Precision) -> u64 {
        let sample: u64 = self.buffers.iter().map(|b| b.bytes(1, precision) as u64).sum();
        sample.saturating_mul(batch)
    }

    /// Floating-point operations for a batch: 2 per multiply-add of the matrix products, the
    /// attention's two products included, nothing else (the convention of vendors' FLOP/s).
    pub fn flops(&self, batch: usize) -> f64 {
        // Not `sum`: that of nothing is -0.
        self.ops.iter().fold(0.0, |sum, op| sum + op.flops(self)) * batch as f64
    }

    /// The bytes that must cross device memory at least: every weight that is read, once, what a
    /// cache holds, and the input and output. Working memory is left out, since a fused kernel may
    /// never store it. All layers share one table of rotary angles.
    pub fn compulsory_bytes(&self, batch: usize, precision: Precision) -> f64 {
        let (rotations, others): (Vec<&Op>, Vec<&Op>) =
            self.ops.iter().partition(|op| matches!(op, Op::Rotate { .. }));
        let weights = others.into_iter().chain(rotations.first().copied());
        let weights = weights.fold(0.0, |sum, op| sum + op.weight_elements(self));
        let caches = self.ops.iter().filter_map(|op| match *op {
            Op::CachedAttention { cache, .. } => Some(cache),
            _ => None,
        });
        let output = self.output().filter(|_| self.output() != self.input());
        let read = self.input().into_iter().chain(output).chain(caches);
        let bytes: usize = read.map(|b| self.buffers[b.0].bytes(batch, precision)).sum();
        weights * precision.bytes() as f64 + bytes as f64
    }

    /// The buffer whose distance from the truth is the network's error: the output, or what the
    /// output was chosen by.
    pub fn judged(&self) -> Option<BufferId> {
        match self.ops.last() {
            Some(&Op::Argmax { x, .. }) => Some(x),
            _ => self.output(),
        }
    }

    /// Fills `out` with what `buffer` holds from element `first` on before the first batch, as the
    /// device of this precision stores it; `false` if it holds nothing.
    pub fn contents(
        &self,
        buffer: BufferId,
        seed: u64,
        first: u64,
        precision: Precision,
        out: &mut [f32],
    ) -> bool {
        let shape = &self.buffers[buffer.0];
        let Some((key, init)) = self.origin(buffer, seed) else { return false };
        match shape.element {
            Element::Value => random::fill(out, key, first, shape.columns, init, precision),
            Element::Token { vocabulary } => {
                for (i, value) in (first..).zip(out) {
                    *value = random::token(random::bits(key, i), vocabulary) as f32;
                }
            }
        }
        true
    }

    /// What the first contents of a buffer are hashed from, and their distribution; none for scratch.
    pub fn origin(&self, buffer: BufferId, seed: u64) -> Option<(u64, Init)> {
        if Some(buffer) == self.input() && self.buffers[buffer.0].kept.is_none() {
            return Some((random::tensor_key(seed, random::INPUT_TENSOR), Init::spread(1.0)));
        }
        // Numbered downwards from the input's, which weights never reach.
        let tensor = random::INPUT_TENSOR - 1 - buffer.0 as u32;
        self.buffers[buffer.0].kept.map(|init| (random::tensor_key(seed, tensor), init))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bert_base_has_the_published_size() {
        let net = bert(Bert::BASE, 128);
        let parameters: usize = net.weights.iter().map(Weight::len).sum();
        // 109.48 million with all 512 positions and 2 segments (arXiv:1810.04805 says 110M); here
        // 128 positions and 1 segment.
        assert_eq!(parameters, 109_482_240 - (512 - 128) * 768 - 768);
        // 24·s·h²+4·s²·h per layer: 22.35 GFLOP in the encoder for 128 tokens, and the pooler.
        let encoder = 12.0 * (24.0 * 128.0 * 768f64.powi(2) + 4.0 * 128f64.powi(2) * 768.0);
        assert_eq!(net.flops(2), 2.0 * (encoder + 2.0 * 768f64.powi(2)));
    }

    #[test]
    fn what_is_not_counted_is_plain_zero() {
        for network in [stream(1), transfer(Direction::Both, 1), launch(3), Network::default()] {
            assert!(network.flops(2).to_bits() == 0, "{}", network.flops(2));
        }
        for network in [launch(3), Network::default()] {
            assert!(network.compulsory_bytes(2, Precision::Fp16).to_bits() == 0);
        }
    }

    #[test]
    fn buffers_are_reused_from_layer_to_layer() {
        assert_eq!(bert(Bert::BASE, 128).buffers.len(), bert(Bert::TINY, 128).buffers.len());
    }

    #[test]
    fn a_batch_from_the_command_line_cannot_overflow_the_byte_count() {
        assert_eq!(bert(Bert::LARGE, 512).buffer_bytes(u64::MAX, Precision::Fp16), u64::MAX);
    }

    #[test]
    fn inputs_of_a_sample_do_not_depend_on_the_batch() {
        let of = |net: &Network, first, len| {
            let mut values = vec![0.0; len];
            assert!(net.contents(BufferId(0), 5, first, Precision::Fp16, &mut values));
            values
        };
        let net = bert(Bert::TINY, 16);
        assert_eq!(of(&net, 0, 48)[32..], of(&net, 32, 16));
        let net = mlp();
        assert_eq!(of(&net, 0, 2048)[1024..], of(&net, 1024, 1024));
    }
}
