//! Checks every kernel on the device at hand against plain f64 loops, at odd shapes.
//!
//! CI has no GPU, so this is in the program: on a new GPU or driver, it tells whether the kernels
//! compute what they should there.

use super::Device;
use super::device::{Context, DeviceMemory, PinnedMemory, Stream};
use super::kernels::Kernels;
use super::lane::elements;
use super::network::{Builder, scratch, stored, write_angles};
use super::texts::Set;
use super::tiles::{Tile, tiles};
use crate::workload::model::{
    Activation, Buffer, BufferId, Element, Init, Network, Op, Weight, WeightId, plain, random,
};
use crate::workload::{Precision, Sync};
use anyhow::{Context as _, Result};
use std::io::Write;
use std::rc::Rc;

pub(super) const SEED: u64 = 20_221;

const PRECISIONS: [Precision; 3] = [Precision::Fp32, Precision::Fp16, Precision::Bf16];

/// Runs all checks, a line each; false if any fails.
///
/// # Errors
/// There is no usable device, or `out` can't be written to. A driver's error inside a check ends it.
pub fn verify(out: &mut dyn Write) -> Result<bool> {
    let mut verifier = Verifier::new(out, true)?;
    for precision in PRECISIONS {
        verifier.operations(precision)?;
        verifier.workloads(precision)?;
        if precision != Precision::Fp32 {
            verifier.shared(precision)?;
        }
    }
    let verdict = if verifier.ok { "all checks passed" } else { "SOME CHECKS FAILED" };
    writeln!(verifier.out, "{verdict}")?;
    Ok(verifier.ok)
}

/// Launches every kernel by itself at odd shapes and compares nothing: for tools that watch its accesses and
/// take a hundred times as long (kernels/sanitize). What comes out is left on the device.
///
/// # Errors
/// As [`verify`].
pub fn exercise(out: &mut dyn Write, precision: Precision) -> Result<()> {
    Verifier::new(out, false)?.operations(precision)
}

/// The same with every workload, as a run launches it.
///
/// # Errors
/// As [`verify`].
pub fn exercise_workloads(out: &mut dyn Write) -> Result<()> {
    let mut verifier = Verifier::new(out, false)?;
    PRECISIONS.into_iter().try_for_each(|precision| verifier.workloads(precision))
}

/// Largest difference that a kernel may show, relative to the largest value of the reference: twice
/// the rounding of the result. Sums are fp32, so the rest is small; the attention also rounds its
/// exponentials.
pub(super) fn bound(precision: Precision) -> f64 {
    match precision {
        // Thousands of additions in another order, and exponentials to a part in 10^6.
        Precision::Fp32 => 1e-5,
        Precision::Fp16 => 2.0 * 2f64.powi(-11),
        Precision::Bf16 => 2.0 * 2f64.powi(-8),
    }
}

pub(super) struct Verifier<'a> {
    /// The sets that the device can run, the one that it is given first.
    kernels: Vec<Kernels>,
    pub(super) stream: Stream,
    pub(super) context: Rc<Context>,
    pub(super) device: Device,
    out: &'a mut dyn Write,
    ok: bool,
    /// Otherwise it only launches.
    pub(super) compares: bool,
}

/// The largest difference over the largest reference value; NaN if anything is NaN or missing.
pub(super) fn max_norm_error(values: &[f32], reference: &[f64]) -> f64 {
    if values.len() != reference.len() || values.iter().any(|v| !v.is_finite()) {
        return f64::NAN;
    }
    let scale = reference.iter().fold(0.0, |m: f64, r| m.max(r.abs()));
    let worst = values.iter().zip(reference).fold(0.0, |m: f64, (v, r)| m.max((f64::from(*v) - r).abs()));
    worst / scale
}

/// ‖values - reference‖ / ‖reference‖.
pub(super) fn l2_error(values: &[f32], reference: &[f64]) -> f64 {
    let square = |v: f64| v * v;
    let difference: f64 = values.iter().zip(reference).map(|(v, r)| square(f64::from(*v) - r)).sum();
    (difference / reference.iter().map(|r| square(*r)).sum::<f64>()).sqrt()
}

/// A kernel of a set: a tile of a matrix product, or the one that would be chosen.
type Variant = (Set, Option<&'static Tile>);

/// So few multiprocessors that a block which stays for several tiles has several even of a small
/// product.
const FEW: usize = 4;

impl<'a> Verifier<'a> {
    fn new(out: &'a mut dyn Write, compares: bool) -> Result<Verifier<'a>> {
        let device = Device::open(Sync::Spin)?;
        let context = device.context.clone();
        let stream = Stream::new(&context)?;
        Ok(Verifier { kernels: Vec::new(), stream, context, device, out, ok: true, compares })
    }

    fn operations(&mut self, precision: Precision) -> Result<()> {
        self.load(precision)?;
        if self.compares {
            self.fills(precision)?;
        }
        self.embeds(precision)?;
        self.norms(precision)?;
        self.attentions(precision)?;
        self.linears(precision)?;
        if self.compares {
            self.networks(precision)?;
        }
        self.probes(precision)?;
        if precision != Precision::Fp32 {
            self.epilogues(precision)?;
            self.images(precision)?;
            self.decoders(precision)?;
        }
        Ok(())
    }

    fn load(&mut self, precision: Precision) -> Result<()> {
        let own = self.context.kernel_set()?;
        let sets = Set::ALL.into_iter().filter(|set| *set != own && *set == Set::Portable);
        let sets = std::iter::once(own).chain(sets);
        self.kernels = sets.map(|set| Kernels::new(&self.context, precision, set)).collect();
        Ok(())
    }

    /// Every set that the device can run, with what would be chosen.
    pub(super) fn sets(&self) -> Vec<Variant> {
        self.kernels.iter().map(|kernels| (kernels.set(), None)).collect()
    }

    /// One line. NaN is no number within a bound.
    pub(super) fn report(&mut self, case: &str, error: f64, bound: f64) -> Result<()> {
        let ok = error <= bound;
        self.ok &= ok;
        let verdict = if ok { "ok" } else { "FAILED" };
        writeln!(self.out, "{verdict:6} {case}: error {error:.2e}, bound {bound:.2e}")?;
        Ok(self.out.flush()?)
    }

    /// One line, where nothing is compared.
    pub(super) fn ran(&mut self, case: &str) -> Result<()> {
        writeln!(self.out, "ran    {case}")?;
        Ok(self.out.flush()?)
    }

    /// Runs the operations with the given contents of the buffers, NaN where there are none, and returns
    /// what the last operation wrote, if that is compared. Every tensor has an allocation of its own, so that a
    /// memory checker sees accesses beyond it.
    fn run(
        &mut self,
        network: &Network,
        precision: Precision,
        batch: usize,
        contents: &[Vec<u8>],
        (set, tile): Variant,
    ) -> Result<Vec<Vec<f32>>> {
        let allocate = |bytes: usize| DeviceMemory::new(&self.context, bytes);
        let weights: Vec<DeviceMemory> =
            network.weights.iter().map(|w| allocate(w.len() * precision.bytes())).collect::<Result<_>>()?;
        let buffers: Vec<DeviceMemory> =
            network.buffers.iter().map(|b| allocate(b.bytes(batch, precision))).collect::<Result<_>>()?;
        let addresses = |memories: &[DeviceMemory]| memories.iter().map(DeviceMemory::address).collect();
        let (weights_at, mut buffers_at): (Vec<u64>, Vec<u64>) = (addresses(&weights), addresses(&buffers));
        let scratch = scratch(network).map(|bytes| allocate(bytes as usize));
        let scratch: Vec<DeviceMemory> = scratch.into_iter().collect::<Result<_>>()?;
        for memory in &scratch {
            self.stream.set(memory.address(), 0, memory.bytes())?;
            buffers_at.push(memory.address());
        }
        write_angles(&self.context, network, precision, &weights_at)?;
        let mut gpu = self.context.gpu()?;
        if tile.is_some() {
            gpu.multiprocessors = gpu.multiprocessors.min(FEW);
        }
        let kernels = self.kernels.iter_mut().find(|kernels| kernels.set() == set);
        let kernels = kernels.context("the set was loaded")?;
        let mut builder = Builder { network, gpu, kernels, weights: &weights_at, tile };
        let fills = builder.fill_weights(SEED)?;
        let launches = builder.batch(batch, &buffers_at)?;
        for (memory, content) in buffers.iter().zip(contents) {
            // Not where a tool looks for what is read before it is written.
            if self.compares {
                self.stream.set(memory.address(), 0xff, memory.bytes())?;
            }
            let mut host = PinnedMemory::new(&self.context, content.len())?;
            host.as_mut_slice().copy_from_slice(content);
            self.stream.copy_in(memory.address(), &host, content.len())?;
            self.stream.synchronize()?;
        }
        for launch in fills.into_iter().chain(launches) {
            // SAFETY: built from the addresses above, which live until after the synchronization.
            unsafe { launch.issue(&self.context, &self.stream) }?;
        }
        if !self.compares {
            self.stream.synchronize()?;
            return Ok(Vec::new());
        }
        let outs = network.ops.last().into_iter().flat_map(Op::outs);
        outs.map(|out| {
            let bytes = self.download(&buffers[out.0])?;
            Ok(elements(&bytes, network.buffers[out.0].element, precision))
        })
        .collect()
    }

    /// Random contents for the buffers that have an init, and random tokens, on the device and for the
    /// reference; then the device's results against the reference's.
    pub(super) fn compare(
        &mut self,
        case: &str,
        network: &Network,
        inits: &[Init],
        precision: Precision,
        batch: usize,
        variants: &[Variant],
    ) -> Result<()> {
        let (mut contents, mut expected) = (Vec::new(), Vec::new());
        for (i, buffer) in network.buffers.iter().enumerate() {
            let mut values = vec![f32::NAN; buffer.len(batch)];
            if let Element::Token { vocabulary } = buffer.element {
                let key = random::tensor_key(SEED + 1, i as u32);
                let ids = (0..values.len() as u64).map(|j| random::token(random::bits(key, j), vocabulary));
                let ids: Vec<u32> = ids.collect();
                values = ids.iter().map(|&id| id as f32).collect();
                contents.push(ids.iter().flat_map(|id| id.to_le_bytes()).collect());
            } else if let Some(init) = inits.get(i) {
                let key = random::tensor_key(SEED + 1, i as u32);
                random::fill(&mut values, key, 0, buffer.columns, *init, precision);
                contents.push(stored(&values, precision));
            } else {
                contents.push(Vec::new());
            }
            expected.push(values.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>());
        }
        if !self.compares {
            for variant in variants {
                self.run(network, precision, batch, &contents, *variant)?;
            }
            return self.ran(&format!("{precision} {case}"));
        }
        let weights = plain::weights(network, SEED, precision);
        plain::run(network, batch, &weights, &mut expected);
        let outs: Vec<BufferId> = network.ops.last().into_iter().flat_map(Op::outs).collect();
        let mut worst = 0.0f64;
        for variant in variants {
            let results = self.run(network, precision, batch, &contents, *variant)?;
            let errors =
                results.iter().zip(&outs).map(|(result, out)| max_norm_error(result, &expected[out.0]));
            let error = errors.fold(0.0f64, |worst, e| if e.is_nan() || e > worst { e } else { worst });
            if error > bound(precision) || error.is_nan() {
                let (set, tile) = (variant.0, variant.1.map_or("", |t| t.name));
                writeln!(self.out, "       {set:?} {tile}: error {error:.2e}")?;
            }
            worst = if error.is_nan() { error } else { worst.max(error) };
        }
        self.report(&format!("{precision} {case}"), worst, bound(precision))
    }

    pub(super) fn builder<'b>(&'b mut self, network: &'b Network, weights: &'b [u64]) -> Result<Builder<'b>> {
        let gpu = self.context.gpu()?;
        let kernels = self.kernels.first_mut().context("a set was loaded")?;
        Ok(Builder { network, gpu, kernels, weights, tile: None })
    }

    pub(super) fn download(&mut self, memory: &DeviceMemory) -> Result<Vec<u8>> {
        let host = PinnedMemory::new(&self.context, memory.bytes())?;
        self.stream.copy_out(&host, memory.address(), memory.bytes())?;
        self.stream.synchronize()?;
        Ok(host.as_slice().to_vec())
    }

    fn embeds(&mut self, precision: Precision) -> Result<()> {
        for (seq_len, columns) in [(1, 8), (17, 72), (128, 768)] {
            let vocabulary = 1000;
            let tokens = Buffer::new(seq_len, 1, Element::Token { vocabulary });
            let network = Network {
                weights: vec![
                    weight(vocabulary as usize, columns, Init::spread(1.0)),
                    weight(seq_len, columns, Init::spread(0.5)),
                    weight(1, columns, Init::spread(0.1)),
                ],
                buffers: vec![tokens, buffer(seq_len, columns)],
                ops: vec![Op::Embed {
                    tokens: BufferId(0),
                    word: WeightId(0),
                    position: WeightId(1),
                    segment: WeightId(2),
                    out: BufferId(1),
                }],
                ..Network::default()
            };
            self.compare(&format!("embed {seq_len} x {columns}"), &network, &[], precision, 3, &self.sets())?;
        }
        Ok(())
    }

    fn norms(&mut self, precision: Precision) -> Result<()> {
        for columns in [8, 128, 264, 768, 1024] {
            for (residual, in_place) in [(false, false), (true, false), (true, true), (false, true)] {
                // x, residual, out; in place, out is the residual, or x where there is none.
                let buffers = if in_place { 1 + usize::from(residual) } else { 3 };
                let network = Network {
                    weights: vec![
                        weight(1, columns, Init::around(1.0, 0.1)),
                        weight(1, columns, Init::spread(0.1)),
                    ],
                    buffers: vec![buffer(17, columns); buffers],
                    ops: vec![Op::AddNorm {
                        x: BufferId(0),
                        residual: residual.then_some(BufferId(1)),
                        gamma: WeightId(0),
                        beta: WeightId(1),
                        epsilon: 1e-12,
                        out: BufferId(buffers - 1),
                    }],
                    ..Network::default()
                };
                let inits = [Init::around(3.0, 1.0), Init::spread(1.0)];
                let case = format!("norm 51 x {columns}, residual {residual}, in place {in_place}");
                self.compare(&case, &network, &inits, precision, 3, &self.sets())?;
            }
        }
        Ok(())
    }

    fn attentions(&mut self, precision: Precision) -> Result<()> {
        for (seq_len, heads, batch) in [
            (1, 1, 1),
            (17, 2, 3),
            (64, 12, 2),
            (65, 1, 2),
            (127, 3, 2),
            (128, 12, 2),
            (511, 2, 2),
            (512, 16, 1),
        ] {
            let columns = heads * 64;
            let network = Network {
                weights: Vec::new(),
                buffers: vec![buffer(seq_len, 3 * columns), buffer(seq_len, columns)],
                ops: vec![Op::Attention { qkv: BufferId(0), heads, out: BufferId(1) }],
                ..Network::default()
            };
            let init = Init::spread(1.0).with_wide_columns(2 * columns, std::f32::consts::SQRT_2);
            let case = format!("attention {batch} x {seq_len}, {heads} heads");
            self.compare(&case, &network, &[init], precision, batch, &self.sets())?;
        }
        Ok(())
    }

    fn linears(&mut self, precision: Precision) -> Result<()> {
        let activations = [Activation::None, Activation::Relu, Activation::Gelu, Activation::Tanh];
        let most = self.context.gpu()?.shared_bytes;
        let mut variants = self.sets();
        let tiled = self.sets().into_iter().filter(|_| precision != Precision::Fp32);
        for (set, _) in tiled {
            let fitting = tiles(set).iter().filter(|tile| tile.shared_bytes() <= most);
            variants.extend(fitting.map(|tile| (set, Some(tile))));
        }
        let mut case = 0;
        let some = !self.compares;
        for m in [1, 3, 7, 17, 128, 511] {
            for n in [8, 24, 768, 1000] {
                for k in [8, 72, 768, 4096] {
                    // Enough of each edge.
                    if some && (n == 8 || n == 768 || k == 8 || k == 4096) {
                        continue;
                    }
                    let activation = activations[case % 4];
                    // Now and then, every third row only.
                    let row_step = if case % 5 == 4 { 3 } else { 1 };
                    case += 1;
                    let network = single_linear(k, n, activation, row_step);
                    let name = format!("linear {m} x {n} x {k}, {activation:?}, row step {row_step}");
                    let able = |v: &&Variant| v.1.is_none_or(|tile| tile.has((activation, false)));
                    let able: Vec<Variant> = variants.iter().filter(able).copied().collect();
                    self.compare(&name, &network, &[Init::spread(1.0)], precision, m, &able)?;
                }
            }
        }
        Ok(())
    }
}

pub(super) fn weight(rows: usize, columns: usize, init: Init) -> Weight {
    Weight::new("", rows, columns, init)
}

pub(super) fn buffer(rows: usize, columns: usize) -> Buffer {
    Buffer::new(rows, columns, Element::Value)
}

/// One product of a row a sample.
pub(super) fn single_linear(k: usize, n: usize, activation: Activation, row_step: usize) -> Network {
    Network {
        weights: vec![weight(k, n, Init::spread(1.0 / (k as f32).sqrt())), weight(1, n, Init::spread(0.1))],
        buffers: vec![buffer(row_step, k), buffer(1, n)],
        ops: vec![Op::Linear {
            x: BufferId(0),
            first_row: 0,
            row_step,
            weight: WeightId(0),
            bias: Some(WeightId(1)),
            residual: None,
            activation,
            out: BufferId(1),
        }],
        ..Network::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::lane::numbers;
    use super::*;

    #[test]
    fn nan_never_passes() {
        assert!(max_norm_error(&[1.0, f32::NAN], &[1.0, 1.0]).is_nan());
        assert!(max_norm_error(&[1.0], &[1.0, 1.0]).is_nan());
        assert_eq!(max_norm_error(&[1.0, -3.0], &[1.0, -4.0]), 0.25);
    }

    #[test]
    fn stored_numbers_read_back() {
        for precision in [Precision::Fp16, Precision::Bf16, Precision::Fp32] {
            assert_eq!(numbers(&stored(&[1.5, -0.25], precision), precision), [1.5, -0.25]);
        }
    }
}
