//! What runs in which order. Pure.

use crate::machine::Instance;
use crate::measure::protocol::{Device, Job};
use crate::measure::stopping::Rule;
use crate::results::row::Mode;
use crate::workload::{Precision, Settings, Spec};
use anyhow::{Result, bail};
use std::time::Duration;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// CPU or CUDA.
    pub device: Device,
    /// What is measured.
    pub instances: Vec<Instance>,
    /// What runs.
    pub workload: Spec,
    /// How.
    pub settings: Settings,
    /// Batch sizes, one point each.
    pub batches: Vec<u64>,
    /// Rounds.
    pub repeat: u32,
    /// When a window ends.
    pub rule: Rule,
}

/// Workers that measure at the same time, each a fresh process.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// The round, from 1.
    pub repetition: u32,
    /// One member, or several at once.
    pub mode: Mode,
    /// At least one.
    pub members: Vec<Member>,
}

/// One worker of a run: one row.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Where.
    pub instance: Instance,
    /// What.
    pub job: Job,
}

/// What a worker costs beside its warm-up and window: start, context, weights, the split, the check.
const OVERHEAD: Duration = Duration::from_millis(2_000);
/// The warm-up's least duration.
const WARM_UP: Duration = Duration::from_secs(1);

/// A round is every point once, in an order of its own; rounds follow one another.
pub fn plan(options: &Options) -> Vec<Run> {
    let mut random = fastrand::Rng::with_seed(options.settings.seed);
    let mut runs = Vec::new();
    for repetition in 1..=options.repeat {
        let mut round: Vec<Run> = options
            .instances
            .iter()
            .flat_map(|instance| options.batches.iter().map(move |&batch| (instance, batch)))
            .map(|(instance, batch)| Run {
                repetition,
                mode: Mode::Isolated,
                members: vec![Member { instance: instance.clone(), job: job(options, batch) }],
            })
            .collect();
        random.shuffle(&mut round);
        runs.append(&mut round);
    }
    runs
}

fn job(options: &Options, batch: u64) -> Job {
    Job {
        device: options.device,
        workload: options.workload.to_string(),
        batch: batch as usize,
        settings: options.settings.clone(),
        rule: options.rule,
    }
}

/// About how long the runs take, for batches that take no time to speak of.
pub fn estimate(runs: &[Run]) -> Duration {
    let run = |run: &Run| {
        let window = run.members.iter().map(|m| Duration::from_nanos(m.job.rule.estimate_ns(0))).max();
        OVERHEAD + WARM_UP + window.unwrap_or_default()
    };
    runs.iter().map(run).sum()
}

/// Refuses what can't work on any of the instances, before anything starts.
///
/// # Errors
/// A precision that the device lacks, or a batch that can't fit into the memory of an instance.
pub fn refuse_impossible(options: &Options) -> Result<()> {
    let precision = options.settings.precision;
    match (options.device, precision) {
        (Device::Cpu, Precision::Fp16 | Precision::Bf16) => {
            bail!("the CPU device computes in fp32 only: leave --precision {precision} out")
        }
        (Device::Cuda, Precision::Fp32) => {
            bail!("the GPU workloads compute in fp16 or bf16, not in fp32: choose one of those")
        }
        _ => {}
    }
    let network = options.workload.network();
    let largest = options.batches.iter().copied().max().unwrap_or(0);
    let needed = network.weight_bytes(precision).saturating_add(network.buffer_bytes(largest, precision));
    for instance in &options.instances {
        let Some(memory) = instance.memory_mib.map(|mib| mib << 20) else { continue };
        if needed > memory {
            bail!(
                "{} at batch {largest} needs {:.1} GB, {} has {:.1} GB: choose a smaller --batch",
                options.workload,
                needed as f64 / 1e9,
                instance.label(),
                memory as f64 / 1e9
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::topology::tests::mixed;

    fn options() -> Options {
        Options {
            device: Device::Cuda,
            instances: mixed().instances(),
            workload: "bert-base".parse().unwrap(),
            settings: Settings { precision: Precision::Fp16, ..Settings::default() },
            batches: vec![1, 8, 32],
            repeat: 3,
            rule: Rule::DEFAULT,
        }
    }

    fn point(run: &Run) -> (u32, String, usize) {
        (run.repetition, run.members[0].instance.label().to_owned(), run.members[0].job.batch)
    }

    #[test]
    fn a_round_is_every_point_once_in_an_order_of_its_own() {
        let runs = plan(&options());
        assert_eq!(runs.len(), 27);
        let orders: Vec<Vec<_>> = runs.chunks(9).map(|round| round.iter().map(point).collect()).collect();
        for (i, round) in orders.iter().enumerate() {
            assert!(round.iter().all(|p| p.0 == i as u32 + 1));
            let mut sorted = round.clone();
            sorted.sort();
            sorted.dedup();
            assert_eq!(sorted.len(), 9);
        }
        let place =
            |round: &[(u32, String, usize)]| round.iter().map(|p| (p.1.clone(), p.2)).collect::<Vec<_>>();
        assert_ne!(place(&orders[0]), place(&orders[1]));
        assert_eq!(plan(&options()), runs, "the seed decides");
    }

    #[test]
    fn the_estimate_adds_up() {
        let runs = plan(&options());
        assert_eq!(estimate(&runs), Duration::from_secs(27 * 13));
    }

    #[test]
    fn the_impossible_is_refused_with_its_numbers() {
        let refusal = |change: fn(&mut Options)| {
            let mut options = options();
            change(&mut options);
            refuse_impossible(&options).unwrap_err().to_string()
        };
        assert!(refuse_impossible(&options()).is_ok());
        assert_eq!(
            refusal(|o| o.batches = vec![100_000]),
            "bert-base(seq_len=128) at batch 100000 needs 197.0 GB, NVIDIA H100 80GB HBM3 has 85.5 GB: \
             choose a smaller --batch"
        );
        assert!(refusal(|o| o.batches = vec![u64::MAX]).contains("18446744073"));
        assert!(refusal(|o| o.settings.precision = Precision::Fp32).contains("fp16 or bf16"));
        assert!(refusal(|o| o.device = Device::Cpu).contains("fp32 only"));
    }
}
