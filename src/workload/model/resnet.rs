//! ResNet-50 (He et al., arXiv:1512.03385) as it is deployed: 53 convolutions with the batch norms
//! folded into weights and biases, the stride in the 3 x 3 convolution of a block (as torchvision's,
//! "v1.5"), channels last.

use super::{Activation, BufferId, Element, Init, Network, Op, Window};

/// Blocks and inner channels of the four stages.
const STAGES: [(usize, usize); 4] = [(3, 64), (4, 128), (6, 256), (3, 512)];
/// Channels of a block's output, in those of its inside.
const EXPANSION: usize = 4;
/// The image's channels as the first convolution reads them: 16 bytes, the rest zeros.
const PADDED: usize = 8;
/// 1/√E[relu(x)²] for a standard normal x.
const AFTER_RELU_GAIN: f32 = std::f32::consts::SQRT_2;
/// The gain of the last convolution of a block, so that the sum with the shortcut grows slowly over
/// 16 blocks.
const LAST_GAIN: f32 = 0.5;

/// An image of `side` x `side` pixels and 3 channels in, 1000 scores out. 224 is the published side;
/// others are for tests.
pub fn resnet50(side: usize) -> Network {
    let mut net = Network::default();
    let image = net.buffer(side * side, 3, Element::Value);
    let padded = net.buffer(side * side, PADDED, Element::Value);
    let mut made = Builder { net, convolutions: 0, side, free: Vec::new() };
    made.net.ops.push(Op::Pad { x: image, out: padded });
    let mut x = made.conv(padded, 3, 64, (7, 2, 3), Epilogue { gain: 1.0, ..Epilogue::RELU });
    let window = Window { side: made.side, kernel: 3, stride: 2, padding: 1 };
    made.side = window.positions();
    let pooled = made.net.buffer(made.side * made.side, 64, Element::Value);
    made.net.ops.push(Op::MaxPool { x, window, out: pooled });
    x = pooled;
    for (stage, (blocks, inner)) in STAGES.into_iter().enumerate() {
        for block in 0..blocks {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            x = made.block(x, inner, stride, block == 0);
        }
    }
    let mut net = made.net;
    let columns = net.buffers[x.0].columns;
    let mean = net.buffer(1, columns, Element::Value);
    net.ops.push(Op::Mean { x, out: mean });
    let weight = net.weight("classifier", columns, 1000, Init::spread(1.0 / (columns as f32).sqrt()));
    let bias = net.weight("classifier.bias", 1, 1000, Init::spread(0.1));
    let out = net.buffer(1, 1000, Element::Value);
    net.ops.push(Op::Linear {
        x: mean,
        first_row: 0,
        row_step: 1,
        weight,
        bias: Some(bias),
        residual: None,
        activation: Activation::None,
        out,
    });
    net
}

/// What follows a convolution.
#[derive(Clone, Copy)]
struct Epilogue {
    gain: f32,
    residual: Option<BufferId>,
    activation: Activation,
}

impl Epilogue {
    const RELU: Epilogue = Epilogue { gain: AFTER_RELU_GAIN, residual: None, activation: Activation::Relu };
}

struct Builder {
    net: Network,
    convolutions: usize,
    /// Of the image as it is now.
    side: usize,
    /// Buffers that nothing reads any more.
    free: Vec<BufferId>,
}

impl Builder {
    /// Narrow, look around, widen, add the shortcut.
    fn block(&mut self, x: BufferId, inner: usize, stride: usize, project: bool) -> BufferId {
        let (side, outer, columns) = (self.side, inner * EXPANSION, self.net.buffers[x.0].columns);
        let narrow = self.conv(x, columns, inner, (1, 1, 0), Epilogue::RELU);
        let seen = self.conv(narrow, inner, inner, (3, stride, 1), Epilogue::RELU);
        let mut shortcut = x;
        if project {
            self.side = side;
            // The input is a sum after a ReLU, with a mean square of about 1.
            let plain = Epilogue { gain: 1.0, residual: None, activation: Activation::None };
            shortcut = self.conv(x, columns, outer, (1, stride, 0), plain);
        }
        let last = Epilogue { gain: LAST_GAIN, residual: Some(shortcut), activation: Activation::Relu };
        let out = self.conv(seen, inner, outer, (1, 1, 0), last);
        self.free.extend([narrow, seen, x]);
        if project {
            self.free.push(shortcut);
        }
        out
    }

    /// A buffer of this shape: a free one, or a new one.
    fn take(&mut self, rows: usize, columns: usize) -> BufferId {
        let shape = |b: &BufferId| (self.net.buffers[b.0].rows, self.net.buffers[b.0].columns);
        match self.free.iter().position(|b| shape(b) == (rows, columns)) {
            Some(found) => self.free.swap_remove(found),
            None => self.net.buffer(rows, columns, Element::Value),
        }
    }

    /// One convolution; a 1 x 1 window that leaves no pixel out is a matrix product.
    fn conv(
        &mut self,
        x: BufferId,
        channels: usize,
        n: usize,
        (kernel, stride, padding): (usize, usize, usize),
        epilogue: Epilogue,
    ) -> BufferId {
        let Epilogue { gain, residual, activation } = epilogue;
        let window = Window { side: self.side, kernel, stride, padding };
        let columns = self.net.buffers[x.0].columns;
        self.side = window.positions();
        let out = self.take(self.side * self.side, n);
        let name = format!("conv.{}", self.convolutions);
        self.convolutions += 1;
        let std = gain / ((kernel * kernel * channels) as f32).sqrt();
        let weight = self.net.weight(name.clone(), kernel * kernel * columns, n, Init::spread(std));
        let bias = self.net.weight(format!("{name}.bias"), 1, n, Init::spread(0.1));
        self.net.ops.push(if (kernel, stride) == (1, 1) {
            let (first_row, row_step, bias) = (0, 1, Some(bias));
            Op::Linear { x, first_row, row_step, weight, bias, residual, activation, out }
        } else {
            Op::Conv { x, window, channels, weight, bias, residual, activation, out }
        });
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_53_convolutions_and_ends_at_7_x_7() {
        let net = resnet50(224);
        let products = |op: &&Op| matches!(op, Op::Conv { .. } | Op::Linear { .. });
        assert_eq!(net.ops.iter().filter(products).count(), 53 + 1);
        let Some(&Op::Mean { x, .. }) = net.ops.iter().rev().nth(1) else { panic!("no mean") };
        assert_eq!((net.buffers[x.0].rows, net.buffers[x.0].columns), (49, 2048));
    }
}
