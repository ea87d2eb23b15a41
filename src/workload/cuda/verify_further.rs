//! The checks of [`super::verify()`] beyond an encoder's operations: generated tensors, probes, images and decoders.

use super::device::DeviceMemory;
use super::lane::numbers;
use super::tiles::{Tile, convolutions, tiles};
use super::verify::{SEED, Verifier, buffer, single_linear, weight};
use crate::workload::Precision;
use crate::workload::model::{
    self, Activation, Bert, BufferId, Element, Init, Network, Op, Rotary, WeightId, Window, bert, plain,
};
use anyhow::Result;

impl Verifier<'_> {
    pub(super) fn fills(&mut self, precision: Precision) -> Result<()> {
        let init = Init::around(1.0, 0.5).with_wide_columns(3, 2.0);
        for (rows, columns, init) in
            [(1, 1, init), (7, 9, init), (1000, 77, init), (3000, 1000, Init::spread(0.02))]
        {
            // The fill of a weight, read through a network that has it as its only buffer.
            let network = Network {
                weights: vec![weight(rows, columns, init)],
                buffers: vec![buffer(rows, columns)],
                ..Network::default()
            };
            let values = self.filled(&network, precision)?;
            let expected = plain::weights(&network, SEED, precision).remove(0);
            let unequal = values.iter().zip(&expected).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
            let unequal = unequal + expected.len().abs_diff(values.len());
            self.report(&format!("{precision} fill {rows} x {columns}"), unequal as f64, 0.0)?;
        }
        let network = bert(Bert::TINY, 77);
        let mut expected = vec![0.0; 77 * 13];
        network.contents(BufferId(0), SEED, 0, precision, &mut expected);
        let filled = self.input_tokens(&network, 13)?;
        let unequal = filled.iter().zip(&expected).filter(|(a, b)| **a as f32 != **b).count();
        self.report(&format!("{precision} fill of {} tokens", expected.len()), unequal as f64, 0.0)
    }

    /// What the device generates for the only weight.
    fn filled(&mut self, network: &Network, precision: Precision) -> Result<Vec<f32>> {
        let memory = DeviceMemory::new(&self.context, network.weights[0].len() * precision.bytes())?;
        let weights = [memory.address()];
        let launches = self.builder(network, &weights)?.fill_weights(SEED)?;
        for launch in launches {
            // SAFETY: it writes exactly `memory`.
            unsafe { launch.issue(&self.context, &self.stream) }?;
        }
        Ok(numbers(&self.download(&memory)?, precision))
    }

    /// What the device generates for the input.
    fn input_tokens(&mut self, network: &Network, batch: usize) -> Result<Vec<u32>> {
        let memory = DeviceMemory::new(&self.context, network.buffers[0].bytes(batch, Precision::Fp16))?;
        let buffers = [memory.address()];
        for launch in self.builder(network, &[])?.fill_buffers(SEED, batch, &buffers)? {
            // SAFETY: it writes exactly `memory`.
            unsafe { launch.issue(&self.context, &self.stream) }?;
        }
        let bytes = self.download(&memory)?;
        Ok(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }

    /// Matrix products without bias and copies.
    pub(super) fn probes(&mut self, precision: Precision) -> Result<()> {
        for (m, n, k) in [(1, 8, 8), (7, 1000, 264), (129, 136, 1000)] {
            let case = format!("gemm {m} x {n} x {k}");
            let network = model::gemm(m, n, k);
            self.compare(&case, &network, &[Init::spread(1.0)], precision, 3, &self.sets())?;
        }
        self.compare("stream of 1 MiB", &model::stream(1), &[], precision, 3, &self.sets())
    }

    /// What follows a product: residual in place and not, no bias, SwiGLU, another first row.
    pub(super) fn epilogues(&mut self, precision: Precision) -> Result<()> {
        let most = self.context.gpu()?.shared_bytes;
        // The last: more columns than all multiprocessors have in hand at once.
        for (m, n, k) in [(1, 24, 72), (7, 64, 264), (13, 1000, 768), (130, 1000, 768), (19, 20_008, 136)] {
            for (case, residual, in_place, bias, activation) in [
                ("residual", true, false, true, Activation::Relu),
                ("residual in place, no bias", true, true, false, Activation::None),
                ("no bias", false, false, false, Activation::None),
                ("SwiGLU", false, false, false, Activation::SwiGlu),
            ] {
                // A gate's result is a multiple of 8 columns too.
                let n = if activation == Activation::SwiGlu { 2 * n } else { n };
                let mut network = single_linear(k, n, activation, 3);
                network.buffers[1].columns = activation.columns(n);
                if residual && !in_place {
                    network.buffers.insert(1, buffer(1, n));
                }
                let last = BufferId(network.buffers.len() - 1);
                let weights = &mut network.weights;
                let bias = bias.then_some(WeightId(1));
                weights[0].init = Init::spread(1.0 / (k as f32).sqrt());
                network.ops = vec![Op::Linear {
                    x: BufferId(0),
                    first_row: 2,
                    row_step: 3,
                    weight: WeightId(0),
                    bias,
                    residual: residual.then_some(BufferId(1)),
                    activation,
                    out: last,
                }];
                let mut variants = self.sets();
                for (set, _) in self.sets() {
                    let able = |tile: &&Tile| tile.shared_bytes() <= most && tile.has((activation, residual));
                    variants.extend(tiles(set).iter().filter(able).map(|tile| (set, Some(tile))));
                }
                let case = format!("linear {m} x {n} x {k}, {case}");
                let inits = [Init::spread(1.0); 2];
                let inits = if residual { &inits[..] } else { &inits[..1] };
                self.compare(&case, &network, inits, precision, m, &variants)?;
            }
        }
        Ok(())
    }

    /// Convolutions with every tile, pooling, padding, means.
    pub(super) fn images(&mut self, precision: Precision) -> Result<()> {
        let most = self.context.gpu()?.shared_bytes;
        let mut variants = self.sets();
        let set = variants[0].0;
        let fitting = convolutions().iter().filter(|tile| tile.shared_bytes() <= most);
        variants.extend(fitting.map(|tile| (set, Some(tile))));
        for (side, channels, n, kernel, stride, padding, batch) in [
            (5, 8, 8, 3, 1, 1, 1),
            (17, 8, 64, 7, 2, 3, 3),
            (14, 64, 72, 3, 1, 1, 7),
            (13, 128, 128, 3, 2, 1, 3),
            (9, 72, 264, 1, 2, 0, 7),
            (1, 16, 24, 3, 1, 1, 1),
        ] {
            let window = Window { side, kernel, stride, padding };
            let positions = window.positions() * window.positions();
            let k = kernel * kernel * channels;
            for residual in [None, Some(BufferId(1))] {
                let network = Network {
                    weights: vec![
                        weight(k, n, Init::spread(1.0 / (k as f32).sqrt())),
                        weight(1, n, Init::spread(0.1)),
                    ],
                    buffers: vec![buffer(side * side, channels), buffer(positions, n), buffer(positions, n)],
                    ops: vec![Op::Conv {
                        x: BufferId(0),
                        window,
                        channels,
                        weight: WeightId(0),
                        bias: WeightId(1),
                        residual,
                        activation: if residual.is_some() { Activation::Relu } else { Activation::None },
                        out: BufferId(2),
                    }],
                    ..Network::default()
                };
                let case =
                    format!("convolution {window:?}, {channels} to {n}, residual {}", residual.is_some());
                self.compare(&case, &network, &[Init::spread(1.0); 2], precision, batch, &variants)?;
            }
        }
        for (side, columns, kernel, stride, padding) in [(1, 8, 3, 2, 1), (7, 72, 3, 2, 1), (12, 64, 2, 2, 0)]
        {
            let window = Window { side, kernel, stride, padding };
            let (x, out) = (BufferId(0), BufferId(1));
            let rows = window.positions() * window.positions();
            for (case, rows, out_columns, op) in [
                ("pad", side * side, columns + 8, Op::Pad { x, out }),
                ("max-pool", rows, columns, Op::MaxPool { x, window, out }),
                ("mean", 1, columns, Op::Mean { x, out }),
            ] {
                let network = Network {
                    buffers: vec![buffer(side * side, columns), buffer(rows, out_columns)],
                    ops: vec![op],
                    ..Network::default()
                };
                let case = format!("{case} {side} x {side} x {columns}");
                self.compare(&case, &network, &[Init::spread(1.0)], precision, 7, &self.sets())?;
            }
        }
        // Fewer channels than a chunk, as an image has.
        let buffers = vec![buffer(15, 3), buffer(15, 8)];
        let ops = vec![Op::Pad { x: BufferId(0), out: BufferId(1) }];
        let network = Network { buffers, ops, ..Network::default() };
        self.compare("pad 3 channels", &network, &[Init::spread(1.0)], precision, 7, &self.sets())
    }

    /// Look-up, norm, rotation, both attentions over a cache, and the choice of a token.
    pub(super) fn decoders(&mut self, precision: Precision) -> Result<()> {
        for columns in [8, 264, 2048, 8192] {
            let network = Network {
                buffers: vec![buffer(3, columns), buffer(3, columns)],
                ops: vec![Op::RmsNorm { x: BufferId(0), epsilon: 1e-5, out: BufferId(1) }],
                ..Network::default()
            };
            self.compare(
                &format!("rms-norm {columns}"),
                &network,
                &[Init::spread(2.0)],
                precision,
                7,
                &self.sets(),
            )?;
            let tokens = model::Buffer::new(1, 1, Element::Token { vocabulary: 1000 });
            let place = Element::Token { vocabulary: columns as u32 };
            let network = Network {
                weights: vec![weight(1000, columns, Init::spread(1.0))],
                buffers: vec![tokens, buffer(1, columns)],
                ops: vec![Op::Lookup { tokens: BufferId(0), table: WeightId(0), out: BufferId(1) }],
                ..Network::default()
            };
            self.compare(&format!("lookup {columns}"), &network, &[], precision, 7, &self.sets())?;
            let network = Network {
                buffers: vec![buffer(1, columns), model::Buffer::new(1, 1, place)],
                ops: vec![Op::Argmax { x: BufferId(0), out: BufferId(1) }],
                ..Network::default()
            };
            self.compare(
                &format!("argmax {columns}"),
                &network,
                &[Init::spread(1.0)],
                precision,
                7,
                &self.sets(),
            )?;
        }
        for (rows, context, heads, kv_heads, width, batch) in [
            (1, 1, 4, 2, 64, 1),
            (1, 17, 8, 2, 64, 3),
            (1, 128, 3, 3, 128, 7),
            (1, 511, 32, 8, 128, 3),
            (1, 2048, 8, 2, 64, 1),
            (17, 17, 4, 2, 64, 3),
            (128, 128, 8, 2, 128, 2),
            (65, 130, 2, 1, 64, 1),
            (511, 511, 4, 4, 128, 1),
        ] {
            let (qkv, cache) = (BufferId(0), BufferId(1));
            let buffers = vec![
                buffer(rows, (heads + 2 * kv_heads) * width),
                buffer(context, 2 * kv_heads * width),
                buffer(rows, heads * width),
            ];
            let mut angles = weight(rows, width, Init::spread(1.0));
            angles.rotary = Some(Rotary { first: context - rows, theta: 500_000.0 });
            let case =
                format!("{batch} x {rows} of {context} tokens, {heads} heads on {kv_heads}, {width} wide");
            let inits = [
                Init::spread(std::f32::consts::SQRT_2),
                Init::spread(1.0).with_wide_columns(kv_heads * width, std::f32::consts::SQRT_2),
            ];
            let network = Network {
                weights: vec![angles],
                buffers: buffers.clone(),
                ops: vec![Op::Rotate { qkv, heads, kv_heads, angles: WeightId(0), cache }],
                ..Network::default()
            };
            self.compare(&format!("rotation {case}"), &network, &inits, precision, batch, &self.sets())?;
            let ops = vec![Op::CachedAttention { qkv, heads, kv_heads, cache, out: BufferId(2) }];
            let network = Network { buffers, ops, ..Network::default() };
            self.compare(&format!("attention {case}"), &network, &inits, precision, batch, &self.sets())?;
        }
        Ok(())
    }
}
