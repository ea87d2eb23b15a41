//! A network as a list of operations on shapes.
//!
//! Knows no device: [`crate::workload::cpu`] and [`crate::workload::cuda`] execute what stands
//! here, and the counts of operations and bytes behind `tflops` and `gbytes_per_s` are taken from
//! here. A new network is one file that builds a [`Network`].

mod bert;
mod mlp;
pub mod plain;
pub mod random;

pub use bert::{Bert, bert};
pub use mlp::mlp;
pub use random::Init;

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
}

impl Weight {
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
        /// Number of different ids.
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
}

impl Buffer {
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

/// Applied to each element of a [`Op::Linear`]'s result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// As it is.
    None,
    /// max(0, x).
    Relu,
    /// x/2 · (1 + erf(x/√2)), the exact form (Hendrycks and Gimpel, arXiv:1606.08415).
    Gelu,
    /// tanh x.
    Tanh,
}

/// One operation. Operations run in order; buffers are reused from layer to layer.
#[derive(Clone, Debug)]
pub enum Op {
    /// `out[r] = word[tokens[r]] + position[r mod rows] + segment[0]`.
    Embed {
        /// Token ids, one a row.
        tokens: BufferId,
        /// vocabulary x columns.
        word: WeightId,
        /// rows x columns.
        position: WeightId,
        /// 1 x columns: every token belongs to the first segment.
        segment: WeightId,
        /// rows x columns.
        out: BufferId,
    },
    /// `out = activation(x · weight + bias)`.
    Linear {
        /// rows x k.
        x: BufferId,
        /// Only rows 0, step, 2·step, … of x are used (a pooler reads the first token).
        row_step: usize,
        /// k x n.
        weight: WeightId,
        /// 1 x n.
        bias: WeightId,
        /// Applied last.
        activation: Activation,
        /// (rows / row_step) x n.
        out: BufferId,
    },
    /// Each row of `x + residual` normalised to mean 0 and variance 1, times `gamma` plus `beta`
    /// (Ba, Kiros, Hinton, arXiv:1607.06450). `out` may be `x` or `residual`.
    AddNorm {
        /// rows x columns.
        x: BufferId,
        /// rows x columns, if any.
        residual: Option<BufferId>,
        /// 1 x columns.
        gamma: WeightId,
        /// 1 x columns.
        beta: WeightId,
        /// Added to the variance.
        epsilon: f32,
        /// rows x columns.
        out: BufferId,
    },
    /// Multi-head attention `softmax(q kᵀ / √d) v` within each sample (Vaswani et al.,
    /// arXiv:1706.03762); d = columns of out / heads.
    Attention {
        /// rows x 3·heads·d: queries, keys, values side by side, each head by head.
        qkv: BufferId,
        /// Number of heads.
        heads: usize,
        /// rows x heads·d.
        out: BufferId,
    },
}

impl Op {
    /// The buffer that it writes.
    pub fn out(&self) -> BufferId {
        match *self {
            Op::Embed { out, .. }
            | Op::Linear { out, .. }
            | Op::AddNorm { out, .. }
            | Op::Attention { out, .. } => out,
        }
    }

    /// Does it read what it overwrites?
    pub fn is_in_place(&self) -> bool {
        matches!(*self, Op::AddNorm { x, residual, out, .. } if out == x || residual == Some(out))
    }
}

/// A network: what a workload computes for each sample of a batch.
#[derive(Clone, Debug, Default)]
pub struct Network {
    /// Parameters.
    pub weights: Vec<Weight>,
    /// Working memory; the first is the input, the last the output.
    pub buffers: Vec<Buffer>,
    /// What is computed, in order. Empty for the `null` workload.
    pub ops: Vec<Op>,
}

impl Network {
    fn weight(&mut self, name: impl Into<String>, rows: usize, columns: usize, init: Init) -> WeightId {
        self.weights.push(Weight { name: name.into(), rows, columns, init });
        WeightId(self.weights.len() - 1)
    }

    fn buffer(&mut self, rows: usize, columns: usize, element: Element) -> BufferId {
        self.buffers.push(Buffer { rows, columns, element });
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
        let op = |op: &Op| match *op {
            Op::Linear { weight, out, .. } => {
                2.0 * self.weights[weight.0].len() as f64 * self.buffers[out.0].rows as f64
            }
            Op::Attention { out, .. } => {
                let out = &self.buffers[out.0];
                4.0 * (out.rows * out.rows * out.columns) as f64
            }
            Op::Embed { .. } | Op::AddNorm { .. } => 0.0,
        };
        self.ops.iter().map(op).sum::<f64>() * batch as f64
    }

    /// The bytes that must cross device memory at least: every weight that is read, once, and the
    /// input and output. Working memory is left out, since a fused kernel may never store it.
    pub fn compulsory_bytes(&self, batch: usize, precision: Precision) -> f64 {
        let mut elements = 0.0;
        for op in &self.ops {
            elements += match *op {
                Op::Linear { weight, bias, .. } => {
                    (self.weights[weight.0].len() + self.weights[bias.0].len()) as f64
                }
                Op::AddNorm { gamma, beta, .. } => {
                    (self.weights[gamma.0].len() + self.weights[beta.0].len()) as f64
                }
                // At most the rows that are looked up; repeated tokens share them, so count one sample's.
                Op::Embed { tokens, word, position, .. } => {
                    let rows = self.buffers[tokens.0].rows.min(self.weights[word.0].rows);
                    (rows * self.weights[word.0].columns + self.weights[position.0].len()) as f64
                }
                Op::Attention { .. } => 0.0,
            };
        }
        let ends = [self.input(), self.output()];
        let io: usize = ends.into_iter().flatten().map(|b| self.buffers[b.0].bytes(batch, precision)).sum();
        elements * precision.bytes() as f64 + io as f64
    }

    /// Fills `out` with the input of samples `first..`, as the device of this precision stores it.
    pub fn input_values(&self, seed: u64, first: usize, precision: Precision, out: &mut [f32]) {
        let Some(input) = self.input().map(|b| &self.buffers[b.0]) else { return };
        debug_assert_eq!(input.element, Element::Value);
        let offset = input.len(first) as u64;
        let key = random::tensor_key(seed, random::INPUT_TENSOR);
        random::fill(out, key, offset, input.columns, Init::spread(1.0), precision);
    }

    /// The token ids of samples `first..`.
    pub fn input_tokens(&self, seed: u64, first: usize, out: &mut [u32]) {
        let Some(input) = self.input().map(|b| &self.buffers[b.0]) else { return };
        let Element::Token { vocabulary } = input.element else { return };
        let key = random::tensor_key(seed, random::INPUT_TENSOR);
        for (i, id) in out.iter_mut().enumerate() {
            *id = random::token(random::bits(key, (input.len(first) + i) as u64), vocabulary);
        }
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
    fn buffers_are_reused_from_layer_to_layer() {
        assert_eq!(bert(Bert::BASE, 128).buffers.len(), bert(Bert::TINY, 128).buffers.len());
    }

    #[test]
    fn a_batch_from_the_command_line_cannot_overflow_the_byte_count() {
        assert_eq!(bert(Bert::LARGE, 512).buffer_bytes(u64::MAX, Precision::Fp16), u64::MAX);
    }

    #[test]
    fn inputs_of_a_sample_do_not_depend_on_the_batch() {
        let net = bert(Bert::TINY, 16);
        let (mut all, mut last) = (vec![0; 48], vec![0; 16]);
        net.input_tokens(5, 0, &mut all);
        net.input_tokens(5, 2, &mut last);
        assert_eq!(all[32..], last);
        let net = mlp();
        let (mut all, mut last) = (vec![0.0; 2048], vec![0.0; 1024]);
        net.input_values(5, 0, Precision::Fp16, &mut all);
        net.input_values(5, 1, Precision::Fp16, &mut last);
        assert_eq!(all[1024..], last);
    }
}
