//! One lane: a stream, the buffers of one batch in flight, and the batch's launches or graph.
//!
//! Everything is made in [`Lane::new`]; issuing and waiting allocate nothing.

use super::cublaslt::{Cublaslt, Products, WORKSPACE_BYTES};
use super::device::{Context, DeviceMemory, Event, Graph, PinnedMemory, Stream};
use super::network::{Builder, Layout, scratch};
use super::steps::Step;
use super::whole::Whole;
use crate::workload::model::{BufferId, Element, Exchange, Network};
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
    /// A batch writes the output anew, on the device.
    output_rewritten: bool,
    output_element: Element,
    /// Around the three stages; the first two also fork to `side` and join it.
    events: [Event; 4],
    /// Where the output leaves while the input arrives, of a network that has both at once.
    side: Option<Stream>,
    addresses: Vec<u64>,
    _memory: DeviceMemory,
    /// The library's, where it computes products.
    workspace: Option<DeviceMemory>,
    context: Rc<Context>,
}

/// Where the network meets the host: a device buffer and its page-locked counterpart.
struct End {
    /// None for what stays on the device.
    host: Option<PinnedMemory>,
    address: u64,
    /// Of one sample.
    bytes: usize,
}

/// What one batch size needs.
struct Batch {
    samples: usize,
    steps: Vec<Step>,
    /// The one step of a network that is one launch, and its parts.
    one_launch: Option<Whole>,
    /// Copies and steps; none where each is issued by itself.
    graph: Option<Graph>,
    /// The steps alone, captured when a batch is first timed in stages.
    compute: Option<Graph>,
}

impl Batch {
    /// What computes the network's operations in order, and how many of them.
    fn parts(&self) -> Vec<(&Step, usize)> {
        match &self.one_launch {
            Some(whole) => whole.parts.iter().map(|(step, operations)| (step, *operations)).collect(),
            None => self.steps.iter().map(|step| (step, 1)).collect(),
        }
    }
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
        library: Option<&Rc<Cublaslt>>,
        batch_sizes: &[usize],
    ) -> Result<Lane> {
        let (network, precision) = (builder.network, settings.precision);
        let largest = batch_sizes.iter().copied().max().unwrap_or(1);
        let layout = Layout::buffers(network, largest, precision);
        let memory = DeviceMemory::new(context, layout.bytes as usize)?;
        let addresses = layout.addresses(memory.address());
        let workspace = library.map(|_| DeviceMemory::new(context, WORKSPACE_BYTES)).transpose()?;
        let exchange = network.exchange;
        let end = |id: BufferId, host: bool| {
            let bytes = network.buffers[id.0].bytes(1, precision);
            let host = host.then(|| PinnedMemory::new(context, largest * bytes)).transpose()?;
            anyhow::Ok(End { host, address: addresses[id.0], bytes })
        };
        let rewritten = |id: BufferId| {
            let by_copy = network.input() == Some(id) && exchange.has_input();
            by_copy || network.ops.iter().any(|op| op.outs().any(|out| out == id))
        };
        let mut lane = Lane {
            stream: Stream::new(context)?,
            batches: Vec::new(),
            precision,
            transfers: settings.transfers,
            input: network.input().map(|b| end(b, exchange.has_input())).transpose()?,
            output: network.output().map(|b| end(b, exchange.has_output())).transpose()?,
            output_rewritten: network.output().is_some_and(rewritten),
            output_element: network.output().map_or(Element::Value, |b| network.buffers[b.0].element),
            side: (exchange == Exchange::AtOnce).then(|| Stream::new(context)).transpose()?,
            events: [Event::new(context)?, Event::new(context)?, Event::new(context)?, Event::new(context)?],
            addresses,
            _memory: memory,
            workspace,
            context: context.clone(),
        };
        for (bytes, address) in scratch(network).into_iter().zip(&lane.addresses[network.buffers.len()..]) {
            if bytes > 0 {
                lane.stream.set(*address, 0, bytes as usize)?;
            }
        }
        for launch in builder.fill_buffers(settings.seed, largest, &lane.addresses)? {
            // SAFETY: it writes exactly one buffer, which the lane owns.
            unsafe { launch.issue(context, &lane.stream) }?;
        }
        if let Some(End { host: Some(host), address, bytes }) = &lane.input {
            lane.stream.copy_out(host, *address, largest * bytes)?;
        }
        for &samples in batch_sizes {
            let (weights, buffers) = (builder.weights, &lane.addresses);
            let parts = library.zip(lane.workspace.as_ref());
            let products =
                parts.map(|(library, workspace)| Products { library, workspace, weights, buffers });
            let one_launch = match library {
                None => builder.whole(context, samples, buffers)?,
                Some(_) => None,
            };
            let mut steps = match &one_launch {
                Some(whole) => vec![Step::Kernel(whole.all)],
                None => builder.steps(samples, buffers, products.as_ref())?,
            };
            if settings.extra_work_us > 0 {
                steps.push(Step::Kernel(builder.spin(settings.extra_work_us)?));
            }
            lane.batches.push(Batch { samples, steps, one_launch, graph: None, compute: None });
        }
        for i in 0..lane.batches.len() {
            lane.issue_plainly(&lane.batches[i])?;
            lane.stream.synchronize().with_context(|| format!("batch {}", lane.batches[i].samples))?;
            if settings.graph {
                let graph = lane.stream.capture(|_| lane.issue_plainly(&lane.batches[i]))?;
                lane.batches[i].graph = Some(graph);
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
        match &batch.graph {
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
        if let Some(side) = self.side.as_ref().filter(|_| self.transfers) {
            let [fork, join, ..] = &self.events;
            fork.record(&self.stream)?;
            side.wait_for(fork)?;
            self.copy_in(batch)?;
            self.copy_out_by(batch, side)?;
            join.record(side)?;
            self.stream.wait_for(join)?;
            return Ok(());
        }
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
        let Some(first) = batch.steps.first() else { return Ok(()) };
        let mut pairs = batch.steps.windows(2);
        // SAFETY: built from this lane's addresses and the weights, which outlive the lane; nothing
        // writes weights while a lane works.
        unsafe {
            first.issue(&self.context, &self.stream)?;
            pairs.try_for_each(|pair| pair[1].issue_after(&pair[0], &self.context, &self.stream))
        }
    }

    fn copy_in(&self, batch: &Batch) -> Result<()> {
        if let Some(End { host: Some(host), address, bytes }) = &self.input {
            self.stream.copy_in(*address, host, batch.samples * bytes)?;
        }
        Ok(())
    }

    fn copy_out(&self, batch: &Batch) -> Result<()> {
        self.copy_out_by(batch, &self.stream)
    }

    fn copy_out_by(&self, batch: &Batch, stream: &Stream) -> Result<()> {
        if let Some(End { host: Some(host), address, bytes }) = &self.output {
            stream.copy_out(host, *address, batch.samples * bytes)?;
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
        if batch.graph.is_some() && batch.compute.is_none() && !batch.steps.is_empty() {
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

        // Two events with nothing between them are apart, too.
        let length = |there: bool, ns: u64| if there { ns } else { 0 };
        let copied = |end: &Option<End>| self.transfers && end.as_ref().is_some_and(|end| end.host.is_some());
        Ok(Stages {
            h2d_ns: length(copied(&self.input), copied_in.ns_since(start)?),
            compute_ns: length(!batch.steps.is_empty(), computed.ns_since(copied_in)?),
            d2h_ns: length(copied(&self.output), copied_out.ns_since(computed)?),
            enqueue_ns,
        })
    }

    /// See [`Workload::trace`](crate::workload::Workload::trace). `network` is the one that the lane
    /// was made for. Of operations that one step computes, what they leave in memory is shown: what the last
    /// one writes, and what is kept from batch to batch.
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
        let largest = network.buffers.iter().map(|b| b.bytes(1, self.precision)).max().unwrap_or(0);
        let host = PinnedMemory::new(&self.context, largest)?;
        let mut first = 0;
        for (step, operations) in batch.parts() {
            let Some(ops) = network.ops.get(first..first + operations) else { break };
            let last = first + operations - 1;
            let kept = |index: usize, out: BufferId| index == last || network.buffers[out.0].kept.is_some();
            let outs =
                ops.iter().enumerate().flat_map(|(i, op)| op.outs().map(move |out| (first + i, op, out)));
            let outs: Vec<_> = outs.filter(|&(index, _, out)| kept(index, out)).collect();
            first += operations;
            for &(_, _, out) in outs.iter().filter(|(_, op, out)| !op.keeps(*out)) {
                let bytes = network.buffers[out.0].bytes(samples, self.precision);
                self.stream.set(self.addresses[out.0], NAN_BYTE, bytes)?;
            }
            // SAFETY: built from this lane's addresses and the weights, which outlive the lane.
            unsafe { step.issue(&self.context, &self.stream) }?;
            for (index, op, out) in outs {
                let (buffer, address) = (&network.buffers[out.0], self.addresses[out.0]);
                let bytes = buffer.bytes(1, self.precision);
                for &sample in shown {
                    self.stream.copy_out(&host, address + (sample * bytes) as u64, bytes)?;
                    self.stream.synchronize().with_context(|| format!("operation {index}: {op:?}"))?;
                    visit(
                        index,
                        out,
                        sample,
                        &elements(&host.as_slice()[..bytes], buffer.element, self.precision),
                    );
                }
            }
        }
        Ok(())
    }

    /// One batch in its ordinary form, into an output of NaN. Without transfers the copies are made
    /// around it.
    pub(super) fn checked_output(&mut self, samples: usize) -> Result<Option<Vec<f32>>> {
        self.wait()?;
        let Some(output) = &mut self.output else { return Ok(None) };
        let (address, bytes) = (output.address, samples * output.bytes);
        if let Some(host) = &mut output.host {
            host.as_mut_slice().fill(NAN_BYTE);
        }
        if self.output_rewritten {
            self.stream.set(address, NAN_BYTE, bytes)?;
        }
        if !self.transfers {
            self.copy_in(self.batch(samples)?)?;
        }
        self.issue(samples)?;
        if !self.transfers {
            self.copy_out(self.batch(samples)?)?;
        }
        self.wait()?;
        let read = |bytes: &[u8]| elements(bytes, self.output_element, self.precision);
        if let Some(End { host: Some(host), .. }) = &self.output {
            return Ok(Some(read(&host.as_slice()[..bytes])));
        }
        // It stays on the device: fetched for this once, in pieces.
        const PIECE: usize = 1 << 26;
        let host = PinnedMemory::new(&self.context, bytes.min(PIECE))?;
        let mut values = Vec::with_capacity(bytes / self.precision.bytes());
        for start in (0..bytes).step_by(PIECE) {
            let len = PIECE.min(bytes - start);
            self.stream.copy_out(&host, address + start as u64, len)?;
            self.wait()?;
            values.extend(read(&host.as_slice()[..len]));
        }
        Ok(Some(values))
    }
}

/// What a buffer holds, as fp32, which is exact for token ids; one beyond all of them is NaN.
pub(super) fn elements(bytes: &[u8], element: Element, precision: Precision) -> Vec<f32> {
    let Element::Token { vocabulary } = element else { return numbers(bytes, precision) };
    let id = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    let known = |id: u32| if id < vocabulary { id as f32 } else { f32::NAN };
    bytes.chunks_exact(4).map(|b| known(id(b))).collect()
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
    fn ids_are_exact_and_poison_is_no_id() {
        let tokens = Element::Token { vocabulary: 1 << 24 };
        let bytes = [0xff, 0xff, 0xff, 0, 1, 0, 0, 0, NAN_BYTE, NAN_BYTE, NAN_BYTE, NAN_BYTE];
        let ids = elements(&bytes, tokens, Precision::Fp16);
        assert!(ids[..2] == [16_777_215.0, 1.0] && ids[2].is_nan());
    }

    #[test]
    fn numbers_are_read_in_memory_order() {
        assert_eq!(numbers(&[0x00, 0x3c, 0x00, 0xc0], Precision::Fp16), [1.0, -2.0]);
        assert_eq!(numbers(&[0x80, 0x3f, 0x00, 0xc0], Precision::Bf16), [1.0, -2.0]);
    }
}
