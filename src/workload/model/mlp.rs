//! A multilayer perceptron, 1024-4096-4096-1000 with ReLU: the smallest network worth timing.

use super::{Activation, Element, Init, Network, Op};

/// Widths from the input to the output.
const WIDTHS: [usize; 4] = [1024, 4096, 4096, 1000];

/// 1024 values in, 1000 out.
pub fn mlp() -> Network {
    let mut net = Network::default();
    for columns in WIDTHS {
        net.buffer(1, columns, Element::Value);
    }
    for (layer, pair) in WIDTHS.windows(2).enumerate() {
        let (k, n) = (pair[0], pair[1]);
        // The mean square of a ReLU's output is half that of its input: √2 keeps order 1.
        let gain = if layer == 0 { 1.0 } else { std::f32::consts::SQRT_2 };
        let weight = net.weight(format!("layer.{layer}"), k, n, Init::spread(gain / (k as f32).sqrt()));
        let bias = net.weight(format!("layer.{layer}.bias"), 1, n, Init::spread(0.1));
        let last = layer == WIDTHS.len() - 2;
        let activation = if last { Activation::None } else { Activation::Relu };
        let (x, out) = (super::BufferId(layer), super::BufferId(layer + 1));
        let (first_row, row_step, bias, residual) = (0, 1, Some(bias), None);
        net.ops.push(Op::Linear { x, first_row, row_step, weight, bias, residual, activation, out });
    }
    net
}
