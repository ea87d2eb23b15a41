//! The operations, what each of them reads and writes, and what it costs at least.

use super::{BufferId, Network, WeightId};

/// Applied to each element of a [`Op::Linear`]'s or [`Op::Conv`]'s result.
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
    /// g / (1 + e^-g) · u of each two neighbours g, u (Shazeer, arXiv:2002.05202): half the columns.
    SwiGlu,
}

impl Activation {
    /// Columns of a result whose product has `n`.
    pub fn columns(self, n: usize) -> usize {
        if self == Activation::SwiGlu { n / 2 } else { n }
    }
}

/// A square window that moves over an image: rows of a buffer are pixels, row by row of the image,
/// and columns its channels (NHWC).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Pixels of a side of the input image.
    pub side: usize,
    /// Pixels of a side of the window.
    pub kernel: usize,
    /// Pixels from one position to the next.
    pub stride: usize,
    /// Pixels around the input, zero (or never the largest).
    pub padding: usize,
}

impl Window {
    /// Pixels of a side of the output.
    pub fn positions(&self) -> usize {
        (self.side + 2 * self.padding - self.kernel) / self.stride + 1
    }
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
    /// `out[r] = table[tokens[r]]`.
    Lookup {
        /// Token ids, one a row.
        tokens: BufferId,
        /// vocabulary x columns.
        table: WeightId,
        /// rows x columns.
        out: BufferId,
    },
    /// `out = activation(x · weight + bias + residual)`.
    Linear {
        /// rows x k.
        x: BufferId,
        /// Only rows first, first + step, first + 2·step, … of x are used (a pooler reads the first
        /// token, a decoder's head the last one).
        first_row: usize,
        /// As above.
        row_step: usize,
        /// k x n.
        weight: WeightId,
        /// 1 x n, if any.
        bias: Option<WeightId>,
        /// (rows / row_step) x n, if any; may be `out`. Not with [`Activation::SwiGlu`].
        residual: Option<BufferId>,
        /// Applied last.
        activation: Activation,
        /// (rows / row_step) x n; x n/2 with [`Activation::SwiGlu`].
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
    /// Each row of `x` divided by its root mean square (Zhang and Sennrich, arXiv:1910.07467); the gain
    /// that follows is part of the next weight.
    RmsNorm {
        /// rows x columns.
        x: BufferId,
        /// Added to the mean square.
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
    /// Turns each query in place and each key on its way into the cache by the angles of its row, two
    /// halves of a head against each other (arXiv:2104.09864), and copies the values there.
    Rotate {
        /// rows x (heads + 2·kv_heads)·d: queries, keys, values side by side, each head by head.
        qkv: BufferId,
        /// Heads of the queries.
        heads: usize,
        /// Heads of keys and of values.
        kv_heads: usize,
        /// rows x d.
        angles: WeightId,
        /// context x 2·kv_heads·d, keys before values; the last `rows` rows are written.
        cache: BufferId,
    },
    /// Causal attention over a cache whose last rows belong to the queries: row r of n sees all but the
    /// last n - 1 - r rows of the cache. Each kv head serves heads / kv_heads heads (Ainslie et al.,
    /// arXiv:2305.13245).
    CachedAttention {
        /// As [`Op::Rotate`] leaves it; of it only the queries are used.
        qkv: BufferId,
        /// Heads of the queries.
        heads: usize,
        /// Heads of keys and of values.
        kv_heads: usize,
        /// context x 2·kv_heads·d.
        cache: BufferId,
        /// rows x heads·d.
        out: BufferId,
    },
    /// The column of the largest value of each row; the first of equals.
    Argmax {
        /// rows x columns.
        x: BufferId,
        /// rows x 1, of tokens.
        out: BufferId,
    },
    /// The columns of x, and zeros in the further columns of out.
    Pad {
        /// rows x columns.
        x: BufferId,
        /// rows x more columns.
        out: BufferId,
    },
    /// Convolution: `out = activation(window(x) · weight + bias + residual)`.
    Conv {
        /// side² x channels.
        x: BufferId,
        /// The window.
        window: Window,
        /// Channels that count: the others are zeros added by [`Op::Pad`].
        channels: usize,
        /// (kernel² · columns of x) x n: a row of the window after the other, pixel by pixel.
        weight: WeightId,
        /// 1 x n.
        bias: WeightId,
        /// As `out`, if any; may be `out`.
        residual: Option<BufferId>,
        /// Applied last.
        activation: Activation,
        /// positions² x n.
        out: BufferId,
    },
    /// The largest value of each channel within each window.
    MaxPool {
        /// side² x channels.
        x: BufferId,
        /// The window.
        window: Window,
        /// positions² x channels.
        out: BufferId,
    },
    /// The mean of each column over the rows of a sample.
    Mean {
        /// rows x columns.
        x: BufferId,
        /// 1 x columns.
        out: BufferId,
    },
    /// `out = x`.
    Copy {
        /// Anything.
        x: BufferId,
        /// The same.
        out: BufferId,
    },
    /// A kernel that does nothing.
    Nothing,
}

impl Op {
    /// Is it a matrix product, or a convolution, which is one?
    pub fn is_product(&self) -> bool {
        matches!(self, Op::Linear { .. } | Op::Conv { .. })
    }

    /// The buffers that it writes.
    pub fn outs(&self) -> impl Iterator<Item = BufferId> + use<> {
        let (first, second) = match *self {
            Op::Embed { out, .. }
            | Op::Lookup { out, .. }
            | Op::Linear { out, .. }
            | Op::AddNorm { out, .. }
            | Op::RmsNorm { out, .. }
            | Op::Attention { out, .. }
            | Op::CachedAttention { out, .. }
            | Op::Argmax { out, .. }
            | Op::Pad { out, .. }
            | Op::Conv { out, .. }
            | Op::MaxPool { out, .. }
            | Op::Mean { out, .. }
            | Op::Copy { out, .. } => (Some(out), None),
            Op::Rotate { qkv, cache, .. } => (Some(qkv), Some(cache)),
            Op::Nothing => (None, None),
        };
        first.into_iter().chain(second)
    }

    /// Does it leave or use what is in the buffer `out` before it?
    pub fn keeps(&self, out: BufferId) -> bool {
        match *self {
            Op::AddNorm { x, residual, .. } => out == x || residual == Some(out),
            Op::Linear { residual, .. } | Op::Conv { residual, .. } => residual == Some(out),
            Op::Rotate { .. } => true,
            _ => false,
        }
    }

    /// Matrix operations for one sample, 2 a multiply-add.
    pub fn flops(&self, network: &Network) -> f64 {
        let rows = |b: BufferId| network.buffers[b.0].rows as f64;
        let columns = |b: BufferId| network.buffers[b.0].columns as f64;
        match *self {
            Op::Linear { weight, out, .. } => 2.0 * network.weights[weight.0].len() as f64 * rows(out),
            Op::Conv { x, channels, weight, out, .. } => {
                let padded = network.weights[weight.0].len() as f64 * rows(out);
                2.0 * padded / columns(x) * channels as f64
            }
            Op::Attention { out, .. } => 4.0 * rows(out) * rows(out) * columns(out),
            Op::CachedAttention { cache, out, .. } => {
                let n = rows(out);
                let seen = n * (rows(cache) - n) + n * (n + 1.0) / 2.0;
                4.0 * seen * columns(out)
            }
            _ => 0.0,
        }
    }

    /// Elements of the weights that it reads.
    pub fn weight_elements(&self, network: &Network) -> f64 {
        let len = |id: super::WeightId| network.weights[id.0].len() as f64;
        match *self {
            Op::Linear { weight, bias, .. } => len(weight) + bias.map_or(0.0, len),
            Op::Conv { weight, bias, .. } => len(weight) + len(bias),
            Op::AddNorm { gamma, beta, .. } => len(gamma) + len(beta),
            Op::Rotate { angles, .. } => len(angles),
            // At most the rows that are looked up; repeated tokens share them, so count one sample's.
            Op::Embed { tokens, word, position, .. } => looked_up(network, tokens, word) + len(position),
            Op::Lookup { tokens, table, .. } => looked_up(network, tokens, table),
            _ => 0.0,
        }
    }
}

fn looked_up(network: &Network, tokens: BufferId, table: WeightId) -> f64 {
    let table = &network.weights[table.0];
    (network.buffers[tokens.0].rows.min(table.rows) * table.columns) as f64
}

#[cfg(test)]
mod tests {
    use super::super::{Llama, llama_decode, llama_prefill, resnet50};
    use super::*;
    use crate::workload::Precision;

    #[test]
    fn windows_have_the_published_positions() {
        let positions = |side, kernel, stride, padding| Window { side, kernel, stride, padding }.positions();
        assert_eq!(positions(224, 7, 2, 3), 112);
        assert_eq!(positions(112, 3, 2, 1), 56);
        assert_eq!(positions(56, 3, 1, 1), 56);
        assert_eq!(positions(56, 1, 2, 0), 28);
    }

    #[test]
    fn counts_are_the_published_ones() {
        // 4.09 billion multiply-adds (torchvision's own count) and 25.56 million parameters less the
        // batch norms' second vectors, plus conv1's five padded channels.
        let net = resnet50(224);
        assert!((net.flops(1) / 2e9 - 4.089).abs() < 0.001, "{}", net.flops(1));
        let parameters: usize = net.weights.iter().map(|w| w.len()).sum();
        assert_eq!(parameters, 25_557_032 - 26_560 + 49 * 5 * 64);
        // 1.24 billion parameters with one embedding table (1.50 with two), 8.03 billion, of which the
        // norms' gains are part of the weights after them.
        let parameters = |llama: Llama| {
            let net = llama_decode(llama, 16);
            let weights: usize = net.weights.iter().filter(|w| w.rotary.is_none()).map(|w| w.len()).sum();
            weights + (2 * llama.layers + 1) * llama.hidden
        };
        assert_eq!(parameters(Llama::ONE), 1_235_814_400 + 128_256 * 2048);
        assert_eq!(parameters(Llama::EIGHT), 8_030_261_248);
    }

    #[test]
    fn a_decode_step_reads_its_cache() {
        let bytes =
            |context, batch| llama_decode(Llama::ONE, context).compulsory_bytes(batch, Precision::Bf16);
        let token = 16.0 * 2.0 * 8.0 * 64.0 * 2.0;
        assert!((bytes(1024, 3) - bytes(1024, 2) - 1024.0 * token - 8.0).abs() < 1.0);
        // 2.47 GB of weights.
        assert!((bytes(1, 1) / 2.47e9 - 1.0).abs() < 0.01, "{}", bytes(1, 1));
    }

    #[test]
    fn causal_attention_counts_what_is_seen() {
        let of = |net: &Network| -> f64 {
            let attention = |op: &&Op| matches!(op, Op::CachedAttention { .. });
            net.ops.iter().filter(attention).map(|op| op.flops(net)).sum()
        };
        let columns = 16.0 * 2048.0;
        assert_eq!(of(&llama_decode(Llama::ONE, 100)), 4.0 * 100.0 * columns);
        assert_eq!(of(&llama_prefill(Llama::ONE, 4)), 4.0 * 10.0 * columns);
    }
}
