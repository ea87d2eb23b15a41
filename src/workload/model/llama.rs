//! Llama decoders (arXiv:2302.13971, arXiv:2407.21783): RMSNorm before each part, rotary positions,
//! grouped-query attention over a cache, SwiGLU, a vocabulary head, and the most probable token.
//!
//! The gains of the norms are folded into the weights after them, as the batch norms of `resnet50` are.
//! The head has a weight of its own, also where the published network shares the embedding's. Each
//! sample's cache is full but for the tokens of the batch, so that every batch does the same work.

use super::{Activation, BufferId, Element, Init, Network, Op, Rotary, WeightId};

/// The shape of a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Llama {
    /// Layers.
    pub layers: usize,
    /// Hidden size.
    pub hidden: usize,
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Width of the feed-forward part.
    pub wide: usize,
    /// Number of tokens.
    pub vocabulary: u32,
}

impl Llama {
    /// Small enough for a test.
    pub const TINY: Llama =
        Llama { layers: 2, hidden: 256, heads: 4, kv_heads: 2, wide: 512, vocabulary: 1_000 };
    /// The shape of Llama 3.2 1B.
    pub const ONE: Llama =
        Llama { layers: 16, hidden: 2048, heads: 32, kv_heads: 8, wide: 8192, vocabulary: 128_256 };
    /// The shape of Llama 3.1 8B.
    pub const EIGHT: Llama =
        Llama { layers: 32, hidden: 4096, heads: 32, kv_heads: 8, wide: 14_336, vocabulary: 128_256 };
}

const EPSILON: f32 = 1e-5;
/// The base of the rotary frequencies, Llama 3's.
const THETA: f64 = 500_000.0;
/// Attention scores with a spread of about 2, as in [`super::bert()`].
const QUERY_KEY_GAIN: f32 = std::f32::consts::SQRT_2;
/// 1/√E[(silu(g) · u)²] for standard normal g and u, so that the layer after it keeps order 1.
const AFTER_SWIGLU_GAIN: f32 = 1.677;

/// One token a sample in, the next one out; it is the last of `context` tokens.
pub fn llama_decode(shape: Llama, context: usize) -> Network {
    llama(shape, 1, context)
}

/// `seq_len` tokens a sample in, the next one out.
pub fn llama_prefill(shape: Llama, seq_len: usize) -> Network {
    llama(shape, seq_len, seq_len)
}

fn llama(shape: Llama, rows: usize, context: usize) -> Network {
    let Llama { layers, hidden, heads, kv_heads, wide, vocabulary } = shape;
    let width = hidden / heads;
    let (q, kv) = (heads * width, kv_heads * width);
    let mut net = Network::default();
    let tokens = net.buffer(rows, 1, Element::Token { vocabulary });
    let x = net.buffer(rows, hidden, Element::Value);
    let normed = net.buffer(rows, hidden, Element::Value);
    let qkv = net.buffer(rows, q + 2 * kv, Element::Value);
    let attended = net.buffer(rows, q, Element::Value);
    let gated = net.buffer(rows, wide, Element::Value);
    let caches: Vec<BufferId> = (0..layers)
        .map(|_| {
            let cache = net.buffer(context, 2 * kv, Element::Value);
            // Keys are wider than values, as they come out of a layer.
            let init = Init::spread(1.0).with_wide_columns(kv, QUERY_KEY_GAIN);
            net.buffers[cache.0].kept = Some(init);
            cache
        })
        .collect();
    let logits = net.buffer(1, vocabulary as usize, Element::Value);
    let next = net.buffer(1, 1, Element::Token { vocabulary });

    let table = net.weight("embedding", vocabulary as usize, hidden, Init::spread(1.0));
    let angles = net.weight("angles", rows, width, Init::spread(1.0));
    net.weights[angles.0].rotary = Some(Rotary { first: context - rows, theta: THETA });
    net.ops.push(Op::Lookup { tokens, table, out: x });
    for (layer, cache) in caches.into_iter().enumerate() {
        let name = |part: &str| format!("layer.{layer}.{part}");
        net.ops.push(Op::RmsNorm { x, epsilon: EPSILON, out: normed });
        let init = fan_in(hidden, 1.0).with_wide_columns(q + kv, fan_in(hidden, QUERY_KEY_GAIN).std);
        let weight = net.weight(name("qkv"), hidden, q + 2 * kv, init);
        net.ops.push(linear(normed, weight, None, Activation::None, qkv));
        net.ops.push(Op::Rotate { qkv, heads, kv_heads, angles, cache });
        net.ops.push(Op::CachedAttention { qkv, heads, kv_heads, cache, out: attended });
        let weight = net.weight(name("projection"), q, hidden, fan_in(q, 1.0));
        net.ops.push(linear(attended, weight, Some(x), Activation::None, x));
        net.ops.push(Op::RmsNorm { x, epsilon: EPSILON, out: normed });
        let weight = net.weight(name("gate-up"), hidden, 2 * wide, fan_in(hidden, 1.0));
        net.ops.push(linear(normed, weight, None, Activation::SwiGlu, gated));
        let weight = net.weight(name("down"), wide, hidden, fan_in(wide, AFTER_SWIGLU_GAIN));
        net.ops.push(linear(gated, weight, Some(x), Activation::None, x));
    }
    net.ops.push(Op::RmsNorm { x, epsilon: EPSILON, out: normed });
    let weight = net.weight("head", hidden, vocabulary as usize, fan_in(hidden, 1.0));
    net.ops.push(Op::Linear {
        x: normed,
        first_row: rows - 1,
        row_step: rows,
        weight,
        bias: None,
        residual: None,
        activation: Activation::None,
        out: logits,
    });
    net.ops.push(Op::Argmax { x: logits, out: next });
    net
}

/// Inputs of order 1 stay of order `gain` through a product with k terms.
fn fan_in(k: usize, gain: f32) -> Init {
    Init::spread(gain / (k as f32).sqrt())
}

fn linear(
    x: BufferId,
    weight: WeightId,
    residual: Option<BufferId>,
    activation: Activation,
    out: BufferId,
) -> Op {
    Op::Linear { x, first_row: 0, row_step: 1, weight, bias: None, residual, activation, out }
}
