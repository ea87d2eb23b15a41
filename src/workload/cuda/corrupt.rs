//! Plants a fault in the generated weights, to prove that the output check would find a real one.

use super::device::{Context, PinnedMemory, Stream};
use super::lane::numbers;
use crate::workload::model::Network;
use crate::workload::{Corruption, Precision};
use anyhow::{Result, bail};
use std::rc::Rc;

/// A network on a device, after one batch has run.
pub(super) struct Target<'a> {
    pub(super) context: &'a Rc<Context>,
    pub(super) network: &'a Network,
    pub(super) precision: Precision,
    /// Device addresses.
    pub(super) weights: &'a [u64],
    pub(super) buffers: &'a [u64],
}

impl Target<'_> {
    /// Changes the weights as asked.
    ///
    /// # Errors
    /// The network has no linear layer, or the device refused.
    pub(super) fn plant(&self, corruption: Corruption) -> Result<()> {
        let Some((x, first_row, weight)) = corruption.target(self.network) else {
            bail!("no weight to corrupt: the network has no linear layer")
        };
        match corruption {
            Corruption::ZeroTile => self.zero_tile(weight.0),
            Corruption::FlipWeight => self.flip_weight(x.0, first_row, weight.0),
        }
    }

    fn zero_tile(&self, id: usize) -> Result<()> {
        let (weight, size) = (&self.network.weights[id], self.precision.bytes());
        let stream = Stream::new(self.context)?;
        for row in 0..weight.rows.min(Corruption::TILE) {
            let start = self.weights[id] + (row * weight.columns * size) as u64;
            stream.set(start, 0, weight.columns.min(Corruption::TILE) * size)?;
        }
        Ok(stream.synchronize()?)
    }

    /// Flips the weight that counts most for the first row that is multiplied: the largest of those that meet
    /// its largest input. Another might meet an input that a ReLU has cut to zero, and change nothing.
    fn flip_weight(&self, x: usize, first_row: usize, id: usize) -> Result<()> {
        let (weight, size) = (&self.network.weights[id], self.precision.bytes());
        let stream = Stream::new(self.context)?;
        let largest = |address: u64, count: usize| -> Result<usize> {
            let host = PinnedMemory::new(self.context, count * size)?;
            stream.copy_out(&host, address, count * size)?;
            stream.synchronize()?;
            let values = numbers(host.as_slice(), self.precision);
            Ok((0..count).max_by(|&a, &b| values[a].abs().total_cmp(&values[b].abs())).unwrap_or(0))
        };
        let row = largest(self.buffers[x] + (first_row * weight.rows * size) as u64, weight.rows)?;
        let row_address = self.weights[id] + (row * weight.columns * size) as u64;
        let address = row_address + (largest(row_address, weight.columns)? * size) as u64;
        let mut number = PinnedMemory::new(self.context, size)?;
        stream.copy_out(&number, address, size)?;
        stream.synchronize()?;
        // Little-endian: the sign is the top bit of the last byte.
        number.as_mut_slice()[size - 1] ^= 0x80;
        stream.copy_in(address, &number, size)?;
        Ok(stream.synchronize()?)
    }
}
