//! The probes: the limits of an instance, each as a network of its own.

use super::{Activation, BufferId, Element, Exchange, Init, Network, Op, WeightId};

/// Words of 32 bits in a MiB, as rows of 1024.
const ROWS_OF_A_MIB: usize = 256;
const WORDS: Element = Element::Token { vocabulary: 1 << 24 };

/// m x k times k x n, all of it on the device; a sample is m rows.
pub fn gemm(m: usize, n: usize, k: usize) -> Network {
    Network {
        weights: vec![super::Weight::new("b", k, n, Init::spread(1.0 / (k as f32).sqrt()))],
        buffers: [k, n].map(|columns| super::Buffer::new(m, columns, Element::Value)).into(),
        ops: vec![Op::Linear {
            x: BufferId(0),
            first_row: 0,
            row_step: 1,
            weight: WeightId(0),
            bias: None,
            residual: None,
            activation: Activation::None,
            out: BufferId(1),
        }],
        exchange: Exchange::Nothing,
    }
}

/// Copies `mib` MiB a sample from device memory to device memory.
pub fn stream(mib: usize) -> Network {
    let buffer = super::Buffer::new(mib * ROWS_OF_A_MIB, 1024, WORDS);
    let ops = vec![Op::Copy { x: BufferId(0), out: BufferId(1) }];
    Network { buffers: vec![buffer.clone(), buffer], ops, exchange: Exchange::Nothing, ..Network::default() }
}

/// Which way a transfer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Host to device.
    In,
    /// Device to host.
    Out,
    /// Both ways at once.
    Both,
}

/// Copies `mib` MiB a sample each way between host and device.
pub fn transfer(direction: Direction, mib: usize) -> Network {
    let mut net = Network::default();
    net.buffer(mib * ROWS_OF_A_MIB, 1024, WORDS);
    net.exchange = match direction {
        Direction::In => Exchange::In,
        Direction::Out => Exchange::Out,
        Direction::Both => {
            let second = net.buffer(mib * ROWS_OF_A_MIB, 1024, WORDS);
            net.buffers[second.0].kept = Some(Init::spread(1.0));
            Exchange::AtOnce
        }
    };
    net
}

/// Kernels that do nothing, one after the other.
pub fn launch(kernels: usize) -> Network {
    Network { ops: vec![Op::Nothing; kernels], ..Network::default() }
}
