//! How much of a network the CPU checks. Pure.

use crate::workload::model::{Network, Op};

/// What may be spent on all of it, in multiply-adds and as many other simple steps: some seconds of two
/// cores.
const BUDGET: f64 = 2e11;
/// What may be spent on one product.
const ONE_PRODUCT: f64 = 1.5e10;
/// Steps to generate one element of a weight.
const GENERATE: f64 = 50.0;

/// Which part of an operation's result is checked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Part {
    /// Every element.
    Whole,
    /// Every element of every so-manieth row.
    Rows(usize),
    /// None.
    Nothing,
}

/// The part of each operation.
#[derive(Clone, Debug)]
pub(super) struct Coverage {
    parts: Vec<Part>,
}

impl Coverage {
    /// All of a network that is small enough. Of a larger one some rows of its largest products; and if
    /// that is still too much, the operations around its first, its middle and its last one: layers
    /// repeat one another.
    pub(super) fn of(network: &Network, samples: usize) -> Coverage {
        let cost = |op: &Op, rows: f64| {
            let once = if samples > 1 { 2.0 } else { 1.0 };
            // The operation on the device's inputs, and the network in fp32 beside it.
            op.weight_elements(network) * GENERATE + op.flops(network) * rows * once
        };
        let part = |op: &Op| {
            let total = op.flops(network) * samples as f64;
            match *op {
                Op::Linear { out, residual: None, .. } if total > ONE_PRODUCT => {
                    let rows = network.buffers[out.0].rows;
                    let enough = (total / ONE_PRODUCT).ceil() as usize;
                    match (enough..=rows).find(|stride| rows.is_multiple_of(*stride)) {
                        Some(stride) if stride > 1 => Part::Rows(stride),
                        _ => Part::Whole,
                    }
                }
                _ => Part::Whole,
            }
        };
        let mut parts = vec![Part::Whole; network.ops.len()];
        let whole: f64 = network.ops.iter().map(|op| cost(op, 1.0)).sum();
        if whole <= BUDGET {
            return Coverage { parts };
        }
        for (kept, op) in parts.iter_mut().zip(&network.ops) {
            *kept = part(op);
        }
        let costs: Vec<f64> = network
            .ops
            .iter()
            .zip(&parts)
            .map(|(op, part)| match part {
                Part::Rows(stride) => cost(op, 1.0 / *stride as f64),
                _ => cost(op, 1.0),
            })
            .collect();
        if costs.iter().sum::<f64>() > BUDGET {
            keep_some(&mut parts, &costs);
        }
        Coverage { parts }
    }

    pub(super) fn part(&self, index: usize) -> Part {
        self.parts[index]
    }

    /// Is anything left out?
    pub(super) fn is_partial(&self) -> bool {
        self.parts.iter().any(|part| *part != Part::Whole)
    }
}

/// Drops what the budget has no room for. Taken in turn: the next of the beginning, of the end and of
/// the middle.
fn keep_some(parts: &mut [Part], costs: &[f64]) {
    let count = parts.len();
    let order = (0..count).flat_map(|i| [i, count - 1 - i, (count / 2 + i) % count]);
    let (mut kept, mut spent) = (vec![false; count], 0.0);
    for index in order {
        if !kept[index] && spent + costs[index] <= BUDGET {
            kept[index] = true;
            spent += costs[index];
        }
    }
    // One product of a single row may be beyond any budget; its neighbours are not.
    for (part, _) in parts.iter_mut().zip(kept).filter(|(_, kept)| !kept) {
        *part = Part::Nothing;
    }
}
