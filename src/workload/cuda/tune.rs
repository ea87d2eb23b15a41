//! Times the tiles of `linear.cu` one by one: where the cycles in [`super::tiles`] come from.

use super::Device;
use super::device::{Context, DeviceMemory, Event, Stream};
use super::kernels::{Kernels, Launch};
use super::network::{Builder, Layout};
use super::tiles::{choose, tiles};
use super::verify::single_linear;
use crate::workload::model::{Activation, Network};
use crate::workload::{Precision, Sync};
use anyhow::Result;
use std::io::Write;
use std::rc::Rc;

/// Products that BERT and the MLP contain, and large ones: m, n, k.
const SHAPES: [(usize, usize, usize); 21] = [
    (1, 4096, 1024),
    (1, 4096, 4096),
    (1, 1000, 4096),
    (1, 768, 768),
    (32, 4096, 4096),
    (128, 2304, 768),
    (128, 768, 768),
    (128, 3072, 768),
    (128, 768, 3072),
    (1024, 2304, 768),
    (1024, 768, 768),
    (1024, 3072, 768),
    (1024, 768, 3072),
    (4096, 2304, 768),
    (4096, 768, 768),
    (4096, 3072, 768),
    (4096, 768, 3072),
    (16384, 2304, 768),
    (16384, 768, 3072),
    (16384, 3072, 768),
    (8192, 8192, 8192),
];

/// The median microseconds of each tile for each shape (fp16, with bias, where BERT has it with GELU),
/// `*` at the one that would be chosen.
///
/// # Errors
/// No usable device, or `out` can't be written to.
pub fn time_tiles(out: &mut dyn Write) -> Result<()> {
    let device = Device::open(Sync::Spin)?;
    let context = &device.context;
    let (stream, set) = (Stream::new(context)?, context.kernel_set()?);
    let mut kernels = Kernels::new(context, Precision::Fp16, set);
    let gpu = context.gpu()?;
    write!(out, "{:>20}", "m x n x k")?;
    tiles(set).iter().try_for_each(|tile| write!(out, " {:>10}", tile.name))?;
    writeln!(out, "  TFLOP/s of the best")?;
    for (m, n, k) in SHAPES {
        // As in BERT: after the wide products only.
        let activation = if n == 4 * k { Activation::Gelu } else { Activation::None };
        let network = single_linear(k, n, activation, 1);
        let allocate = |elements: usize| DeviceMemory::new(context, elements * 2);
        let (weight, bias, x, y) = (allocate(k * n)?, allocate(n)?, allocate(m * k)?, allocate(m * n)?);
        let weights = [weight.address(), bias.address()];
        let buffers = [x.address(), y.address()];
        let chosen = choose(set, [m, n, k], (activation, false), gpu.multiprocessors, gpu.shared_bytes);
        let mut times = Vec::new();
        for tile in tiles(set) {
            if tile.shared_bytes() > gpu.shared_bytes {
                times.push(f64::INFINITY);
                continue;
            }
            let mut builder = Builder {
                network: &network,
                gpu,
                kernels: &mut kernels,
                weights: &weights,
                tile: Some(tile),
            };
            let mut fills = builder.fill_weights(1)?;
            fills.extend(builder.fill_buffers(1, m, &buffers)?);
            let launches = builder.batch(m, &buffers)?;
            for fill in fills {
                // SAFETY: weights and input were allocated above with these sizes.
                unsafe { fill.issue(context, &stream) }?;
            }
            stream.synchronize()?;
            times.push(microseconds(context, &stream, &launches[0])?);
        }
        let best = times.iter().copied().fold(f64::INFINITY, f64::min);
        write!(out, "{:>20}", format!("{m} x {n} x {k}"))?;
        for (tile, time) in tiles(set).iter().zip(&times) {
            write!(out, " {:>9.2}{}", time, if *tile == *chosen { '*' } else { ' ' })?;
        }
        writeln!(out, "  {:.0}", 2.0 * (m * n * k) as f64 / best / 1e6)?;
    }
    Ok(())
}

/// The median microseconds of each operation of a network, one line a group of equal ones.
///
/// # Errors
/// No usable device, or `out` can't be written to.
pub fn time_operations(
    network: &Network,
    batch: usize,
    precision: Precision,
    out: &mut dyn Write,
) -> Result<()> {
    let device = Device::open(Sync::Spin)?;
    let context = &device.context;
    let stream = Stream::new(context)?;
    let mut kernels = Kernels::new(context, precision, context.kernel_set()?);
    let (weights, buffers) =
        (Layout::weights(network, precision), Layout::buffers(network, batch, precision));
    let memory = DeviceMemory::new(context, (weights.bytes + buffers.bytes) as usize)?;
    // The kernels' scratch begins as zeros.
    stream.set(memory.address(), 0, memory.bytes())?;
    let weights_at = weights.addresses(memory.address());
    let buffers_at = buffers.addresses(memory.address() + weights.bytes);
    let gpu = context.gpu()?;
    let mut builder = Builder { network, gpu, kernels: &mut kernels, weights: &weights_at, tile: None };
    let fills = builder.fill_weights(1)?.into_iter().chain(builder.fill_buffers(1, batch, &buffers_at)?);
    let launches = builder.batch(batch, &buffers_at)?;
    // Every operation once, so that none reads what nobody wrote.
    for launch in fills.chain(launches.iter().copied()) {
        // SAFETY: weights and buffers were allocated above with these sizes.
        unsafe { launch.issue(context, &stream) }?;
    }
    stream.synchronize()?;
    let mut groups: Vec<(String, usize, f64)> = Vec::new();
    for (op, launch) in network.ops.iter().zip(&launches) {
        let shape = op.outs().next().map_or(0, |out| network.buffers[out.0].columns);
        let name = format!("{op:?}");
        let name = format!("{} -> {shape}, {} blocks", name.split(' ').next().unwrap_or(""), launch.blocks);
        let time = microseconds(context, &stream, launch)?;
        match groups.iter_mut().find(|(group, _, _)| *group == name) {
            Some((_, count, sum)) => (*count, *sum) = (*count + 1, *sum + time),
            None => groups.push((name, 1, time)),
        }
    }
    for (name, count, sum) in groups {
        writeln!(
            out,
            "batch {batch}: {count:>3} x {name}: {:.2} us each, {sum:.1} in all",
            sum / count as f64
        )?;
    }
    Ok(())
}

/// Of one launch among its like.
fn microseconds(context: &Rc<Context>, stream: &Stream, launch: &Launch) -> Result<f64> {
    // Twenty in one graph, so that what is timed is the kernel and not its launch.
    let graph = stream.capture(|stream| {
        for i in 0..20 {
            // SAFETY: the caller's memory lives; the weights were written before the stream was
            // waited for.
            unsafe {
                if i == 0 { launch.issue(context, stream) } else { launch.issue_next(context, stream) }
            }?;
        }
        Ok(())
    })?;
    let (start, end) = (Event::new(context)?, Event::new(context)?);
    let mut samples = Vec::new();
    for _ in 0..5 {
        start.record(stream)?;
        graph.launch(stream)?;
        end.record(stream)?;
        stream.synchronize()?;
        samples.push(end.ns_since(&start)? as f64 / 20e3);
    }
    samples.sort_by(f64::total_cmp);
    Ok(samples[samples.len() / 2])
}
