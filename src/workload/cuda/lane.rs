//! One lane: a stream, the buffers of one batch in flight, and the batch's launches or graph.
//!
//! Everything is made in [`Lane::new`]; issuing and waiting allocate nothing.

use super::device::{Context, DeviceMemory, Event, Graph, PinnedMemory, Stream};
use super::kernels::Launch;
use super::network::{Builder, Layout};
use crate::workload::model::Network;
use crate::workload::{Precision, Settings, Stages, Visit};
use anyhow::{Context as _, Result};
use std::rc::Rc;
use std::time::Instant;

/// Both 16-bit formats and fp32 read these bytes as NaN.
const NAN_BYTE: u8 = 0xff;

pub(super) struct Lane {
    stream: Stream,
    batches: Vec<Batch>,
    precision: Precision,
    transfers: bool,
    input: Option<End>,
    output: Option<End>,
    /// Around the three stages.
    events: [Event; 4],
    addresses: Vec<u64>,
    _memory: DeviceMemory,
    context: Rc<Context>,
}

/// Where the network meets the host: a device buffer and its page-locked counterpart.
struct End {
    host: PinnedMemory,
    address: u64,
    /// Of one sample.
    bytes: usize,
}

/// What one batch size needs.
struct Batch {
    samples: usize,
    launches: Vec<Launch>,
    /// Copies and launches; none with plain launches.
    whole: Option<Graph>,
    /// The launches alone, captured when a batch is first timed in stages.
    compute: Option<Graph>,
}

impl Drop for Lane {
    fn drop(&mut self) {
        // Nothing in flight may outlive the memory.
        let _ = self.stream.synchronize();
    }
}

impl Lane {
    /// Allocates for the largest batch, generates the input, runs every batch size once with plain
    /// launches (which loads the kernels) and captures it.
    pub(super) fn new(
        context: &Rc<Context>,
        builder: &mut Builder,
        settings: &Settings,
        batch_sizes: &[usize],
    ) -> Result<Lane> {
        let (network, precision) = (builder.network, settings.precision);
        let largest = batch_sizes.iter().copied().max().unwrap_or(1);
        let layout = Layout::buffers(network, largest, precision);
        let memory = DeviceMemory::new(context, layout.bytes as usize)?;
        let addresses = layout.addresses(memory.address());
        let end = |id| End::new(context, network, id, &addresses, largest, precision);
        let mut lane = Lane {
            stream: Stream::new(context)?,
            batches: Vec::new(),
            precision,
            transfers: settings.transfers,
            input: network.input().map(|b| end(b.0)).transpose()?,
            output: network.output().map(|b| end(b.0)).transpose()?,
            events: [Event::new(context)?, Event::new(context)?, Event::new(context)?, Event::new(context)?],
            addresses,
            _memory: memory,
            context: context.clone(),
        };
        if let Some(launch) = builder.fill_input(settings.seed, largest, &lane.addresses)? {
            // SAFETY: it writes exactly the input buffer, which the lane owns.
            unsafe { launch.issue(context, &lane.stream) }?;
        }
        if let Some(input) = &lane.input {
            lane.stream.copy_out(&input.host, input.address, largest * input.bytes)?;
        }
        for &samples in batch_sizes {
            let mut launches = builder.batch(samples, &lane.addresses)?;
            if settings.extra_work_us > 0 {
                launches.push(builder.spin(settings.extra_work_us)?);
            }
            lane.batches.push(Batch { samples, launches, whole: None, compute: None });
        }
        for i in 0..lane.batches.len() {
            lane.issue_plainly(&lane.batches[i])?;
            lane.stream.synchronize().with_context(|| format!("batch {}", lane.batches[i].samples))?;
            if settings.graph {
                let whole = lane.stream.capture(|_| lane.issue_plainly(&lane.batches[i]))?;
                lane.batches[i].whole = Some(whole);
            }
        }
        lane.stream.synchronize()?;
        Ok(lane)
    }

    /// Device addresses of the network's buffers.
    pub(super) fn addresses(&self) -> &[u64] {
        &self.addresses
    }

    fn batch(&self, samples: usize) -> Result<&Batch> {
        // A handful of sizes: a search is cheaper than a hash.
        self.batches
            .iter()
            .find(|batch| batch.samples == samples)
            .with_context(|| format!("batch {samples} was not prepared"))
    }

    /// Starts a batch.
    #[inline]
    pub(super) fn issue(&self, samples: usize) -> Result<()> {
        let batch = self.batch(samples)?;
        match &batch.whole {
            Some(graph) => Ok(graph.launch(&self.stream)?),
            None => self.issue_plainly(batch),
        }
    }

    /// Returns when all that was issued is done.
    #[inline]
    pub(super) fn wait(&self) -> Result<()> {
        Ok(self.stream.synchronize()?)
    }

    /// Is all that was issued done?
    pub(super) fn is_done(&self) -> Result<bool> {
        Ok(self.stream.is_idle()?)
    }

    fn issue_plainly(&self, batch: &Batch) -> Result<()> {
        if self.transfers {
            self.copy_in(batch)?;
        }
        self.launch(batch)?;
        if self.transfers {
            self.copy_out(batch)?;
        }
        Ok(())
    }

    fn launch(&self, batch: &Batch) -> Result<()> {
        for launch in &batch.launches {
            // SAFETY: built from this lane's addresses and the weights, which outlive the lane.
            unsafe { launch.issue(&self.context, &self.stream) }?;
        }
        Ok(())
    }

    fn copy_in(&self, batch: &Batch) -> Result<()> {
        if let Some(input) = &self.input {
            self.stream.copy_in(input.address, &input.host, batch.samples * input.bytes)?;
        }
        Ok(())
    }

    fn copy_out(&self, batch: &Batch) -> Result<()> {
        if let Some(output) = &self.output {
            self.stream.copy_out(&output.host, output.address, batch.samples * output.bytes)?;
        }
        Ok(())
    }

    /// One ordinary batch, of which the host's time to issue it is taken; then one in three parts
    /// with device events between them. The ordinary form has no events, so that they never sit in
    /// its latency, and only it tells what issuing costs.
    pub(super) fn staged(&mut self, samples: usize) -> Result<Stages> {
        let start = Instant::now();
        self.issue(samples)?;
        let enqueue_ns = start.elapsed().as_nanos() as u64;
        self.wait()?;

        let batch = self.batch(samples)?;
        if batch.whole.is_some() && batch.compute.is_none() {
            let graph = self.stream.capture(|_| self.launch(batch))?;
            // Its first launch is slower than the others.
            graph.launch(&self.stream)?;
            self.stream.synchronize()?;
            if let Some(batch) = self.batches.iter_mut().find(|batch| batch.samples == samples) {
                batch.compute = Some(graph);
            }
        }
        let batch = self.batch(samples)?;
        let [start, copied_in, computed, copied_out] = &self.events;
        start.record(&self.stream)?;
        if self.transfers {
            self.copy_in(batch)?;
        }
        copied_in.record(&self.stream)?;
        match &batch.compute {
            Some(graph) => graph.launch(&self.stream)?,
            None => self.launch(batch)?,
        }
        computed.record(&self.stream)?;
        if self.transfers {
            self.copy_out(batch)?;
        }
        copied_out.record(&self.stream)?;
        self.stream.synchronize()?;

        let copied = |ns: u64| if self.transfers { ns } else { 0 };
        Ok(Stages {
            h2d_ns: copied(copied_in.ns_since(start)?),
            compute_ns: computed.ns_since(copied_in)?,
            d2h_ns: copied(copied_out.ns_since(computed)?),
            enqueue_ns,
        })
    }

    /// See [`Workload::trace`](crate::workload::Workload::trace). `network` is the one that the lane
    /// was made for: it has one launch an operation.
    pub(super) fn trace(
        &self,
        network: &Network,
        samples: usize,
        shown: &[usize],
        visit: &mut Visit,
    ) -> Result<()> {
        let batch = self.batch(samples)?;
        self.wait()?;
        self.copy_in(batch)?;
        for (index, (op, launch)) in network.ops.iter().zip(&batch.launches).enumerate() {
            let (buffer, address) = (&network.buffers[op.out().0], self.addresses[op.out().0]);
            if !op.is_in_place() {
                self.stream.set(address, NAN_BYTE, buffer.bytes(samples, self.precision))?;
            }
            // SAFETY: built from this lane's addresses and the weights, which outlive the lane.
            unsafe { launch.issue(&self.context, &self.stream) }?;
            let bytes = buffer.bytes(1, self.precision);
            let host = PinnedMemory::new(&self.context, bytes)?;
            for &sample in shown {
                self.stream.copy_out(&host, address + (sample * bytes) as u64, bytes)?;
                self.stream.synchronize().with_context(|| format!("operation {index}: {op:?}"))?;
                visit(index, sample, &numbers(host.as_slice(), self.precision));
            }
        }
        Ok(())
    }

    /// One batch in its ordinary form, into an output of NaN. Without transfers the copies are made
    /// around it.
    pub(super) fn checked_output(&mut self, samples: usize) -> Result<Option<Vec<f32>>> {
        self.wait()?;
        let Some(output) = &mut self.output else { return Ok(None) };
        let bytes = samples * output.bytes;
        output.host.as_mut_slice().fill(NAN_BYTE);
        self.stream.set(output.address, NAN_BYTE, bytes)?;
        if !self.transfers {
            self.copy_in(self.batch(samples)?)?;
        }
        self.issue(samples)?;
        if !self.transfers {
            self.copy_out(self.batch(samples)?)?;
        }
        self.wait()?;
        let output = self.output.as_ref().map(|end| &end.host.as_slice()[..bytes]);
        Ok(output.map(|bytes| numbers(bytes, self.precision)))
    }
}

impl End {
    fn new(
        context: &Rc<Context>,
        network: &Network,
        buffer: usize,
        addresses: &[u64],
        samples: usize,
        precision: Precision,
    ) -> Result<End> {
        let bytes = network.buffers[buffer].bytes(1, precision);
        Ok(End { host: PinnedMemory::new(context, samples * bytes)?, address: addresses[buffer], bytes })
    }
}

/// Stored numbers as fp32.
pub(super) fn numbers(bytes: &[u8], precision: Precision) -> Vec<f32> {
    let two = |b: &[u8]| u16::from_le_bytes([b[0], b[1]]);
    match precision {
        Precision::Fp16 => bytes.chunks_exact(2).map(|b| half::f16::from_bits(two(b)).to_f32()).collect(),
        Precision::Bf16 => bytes.chunks_exact(2).map(|b| half::bf16::from_bits(two(b)).to_f32()).collect(),
        Precision::Fp32 => {
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poison_is_nan_in_every_precision() {
        for precision in [Precision::Fp16, Precision::Bf16, Precision::Fp32] {
            assert!(numbers(&[NAN_BYTE; 4], precision).iter().all(|x| x.is_nan()));
        }
    }

    #[test]
    fn numbers_are_read_in_memory_order() {
        assert_eq!(numbers(&[0x00, 0x3c, 0x00, 0xc0], Precision::Fp16), [1.0, -2.0]);
        assert_eq!(numbers(&[0x80, 0x3f, 0x00, 0xc0], Precision::Bf16), [1.0, -2.0]);
    }
}
