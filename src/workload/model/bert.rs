//! BERT encoders (Devlin et al., arXiv:1810.04805): embeddings, post-norm layers, GELU, pooler.

use super::{Activation, BufferId, Element, Init, Network, Op, WeightId};

/// The shape of a BERT encoder. Heads are 64 wide and the feed-forward 4 times the hidden size, as
/// in every published size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bert {
    /// Encoder layers.
    pub layers: usize,
    /// Hidden size.
    pub hidden: usize,
}

impl Bert {
    /// 2 layers of 128 (Turc et al., arXiv:1908.08962).
    pub const TINY: Bert = Bert { layers: 2, hidden: 128 };
    /// 4 layers of 256.
    pub const MINI: Bert = Bert { layers: 4, hidden: 256 };
    /// 12 layers of 768.
    pub const BASE: Bert = Bert { layers: 12, hidden: 768 };
    /// 24 layers of 1024.
    pub const LARGE: Bert = Bert { layers: 24, hidden: 1024 };
}

/// Size of the published English vocabulary.
pub const VOCABULARY: u32 = 30_522;
const EPSILON: f32 = 1e-12;
/// Attention scores with a spread of about 2: tiny weights leave attention uniform and would hide a
/// wrong score. q and k of spread √2 give q·k/√d a spread of 2.
const QUERY_KEY_GAIN: f32 = std::f32::consts::SQRT_2;
/// 1/√E[gelu(x)²] for a standard normal x, so that the layer after a GELU keeps order 1.
const AFTER_GELU_GAIN: f32 = 1.53;

/// Token ids in (`seq_len` a sample), the pooled vector out.
pub fn bert(shape: Bert, seq_len: usize) -> Network {
    let Bert { layers, hidden } = shape;
    let mut net = Network::default();
    let tokens = net.buffer(seq_len, 1, Element::Token { vocabulary: VOCABULARY });
    let x = net.buffer(seq_len, hidden, Element::Value);
    let qkv = net.buffer(seq_len, 3 * hidden, Element::Value);
    let context = net.buffer(seq_len, hidden, Element::Value);
    let projected = net.buffer(seq_len, hidden, Element::Value);
    let wide = net.buffer(seq_len, 4 * hidden, Element::Value);
    let pooled = net.buffer(1, hidden, Element::Value);

    let word = net.weight("embeddings.word", VOCABULARY as usize, hidden, Init::spread(1.0));
    let position = net.weight("embeddings.position", seq_len, hidden, Init::spread(0.5));
    let segment = net.weight("embeddings.segment", 1, hidden, Init::spread(0.1));
    net.ops.push(Op::Embed { tokens, word, position, segment, out: x });
    add_norm(&mut net, "embeddings", x, None, x);

    for layer in 0..layers {
        let name = |part: &str| format!("layer.{layer}.{part}");
        let init = fan_in(hidden, 1.0).with_wide_columns(2 * hidden, fan_in(hidden, QUERY_KEY_GAIN).std);
        let weight = net.weight(name("qkv"), hidden, 3 * hidden, init);
        linear(&mut net, &name("qkv"), x, weight, Activation::None, qkv);
        net.ops.push(Op::Attention { qkv, heads: hidden / 64, out: context });
        let weight = net.weight(name("projection"), hidden, hidden, fan_in(hidden, 1.0));
        linear(&mut net, &name("projection"), context, weight, Activation::None, projected);
        add_norm(&mut net, &name("attention"), projected, Some(x), x);
        let weight = net.weight(name("up"), hidden, 4 * hidden, fan_in(hidden, 1.0));
        linear(&mut net, &name("up"), x, weight, Activation::Gelu, wide);
        let weight = net.weight(name("down"), 4 * hidden, hidden, fan_in(4 * hidden, AFTER_GELU_GAIN));
        linear(&mut net, &name("down"), wide, weight, Activation::None, projected);
        add_norm(&mut net, &name("output"), projected, Some(x), x);
    }
    let weight = net.weight("pooler", hidden, hidden, fan_in(hidden, 1.0));
    let bias = net.weight("pooler.bias", 1, hidden, Init::spread(0.1));
    net.ops.push(Op::Linear {
        x,
        first_row: 0,
        row_step: seq_len,
        weight,
        bias: Some(bias),
        residual: None,
        activation: Activation::Tanh,
        out: pooled,
    });
    net
}

/// Inputs of order 1 stay of order `gain` through a product with k terms.
fn fan_in(k: usize, gain: f32) -> Init {
    Init::spread(gain / (k as f32).sqrt())
}

fn linear(
    net: &mut Network,
    name: &str,
    x: BufferId,
    weight: WeightId,
    activation: Activation,
    out: BufferId,
) {
    let bias = net.weight(format!("{name}.bias"), 1, net.weights[weight.0].columns, Init::spread(0.1));
    let (first_row, row_step, bias, residual) = (0, 1, Some(bias), None);
    net.ops.push(Op::Linear { x, first_row, row_step, weight, bias, residual, activation, out });
}

fn add_norm(net: &mut Network, name: &str, x: BufferId, residual: Option<BufferId>, out: BufferId) {
    let columns = net.buffers[x.0].columns;
    let gamma = net.weight(format!("{name}.norm.gamma"), 1, columns, Init::around(1.0, 0.1));
    let beta = net.weight(format!("{name}.norm.beta"), 1, columns, Init::spread(0.1));
    net.ops.push(Op::AddNorm { x, residual, gamma, beta, epsilon: EPSILON, out });
}
