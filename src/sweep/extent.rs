//! How large a plan may be: counted before anything of it is in memory. Pure.

use super::plan::{Modes, Options, Span};
use crate::machine::Instance;
use crate::measure::load::{Arrivals, Load};
use anyhow::{Result, ensure};
use std::collections::BTreeMap;

/// Workers of a plan: one row each. They take seconds each, so that this many take days, and about a
/// kilobyte of memory.
pub const MOST_WORKERS: u64 = 100_000;
/// Arrivals of all workers, each of which has its own list: 8 bytes each.
const MOST_ARRIVALS: u64 = 100_000_000;

/// Refuses a plan with more workers than can be meant.
///
/// # Errors
/// It has more, and which limit it exceeds.
pub fn refuse_too_many(options: &Options) -> Result<()> {
    let workers = workers(options);
    ensure!(
        workers <= MOST_WORKERS,
        "this plan has {workers} measurements, a plan may have {MOST_WORKERS}: choose fewer rounds (--repeat), \
         batch sizes or workloads"
    );
    let longest = options.paces.iter().filter_map(|pace| match &pace.load {
        Load::Open { arrivals: Arrivals::Trace(times) }
        | Load::Server { arrivals: Arrivals::Trace(times), .. } => Some(times.len() as u64),
        _ => None,
    });
    let arrivals = workers.saturating_mul(longest.max().unwrap_or(0));
    ensure!(
        arrivals <= MOST_ARRIVALS,
        "the {workers} measurements of this plan replay {arrivals} arrivals of the trace, a plan may have \
         {MOST_ARRIVALS}: choose fewer rounds (--repeat), or a shorter trace"
    );
    Ok(())
}

/// How many workers [`super::plan::plan`] makes of these options; at least that many where it is beyond any
/// limit.
fn workers(options: &Options) -> u64 {
    let count = |n: usize| n as u64;
    let points = count(options.workloads.len())
        .saturating_mul(count(options.paces.len()))
        .saturating_mul(count(options.batches.len()));
    let mut groups: BTreeMap<Option<&str>, Vec<&Instance>> = BTreeMap::new();
    for instance in &options.instances {
        let gpu = if options.span == Span::Host { None } else { instance.gpu_uuid.as_deref() };
        groups.entry(gpu).or_default().push(instance);
    }
    let aggressors = options.aggressors.len();
    let in_group = |group: &Vec<&Instance>| {
        let together = group.len() + aggressors;
        let concurrent = options.modes != Modes::Isolated && together > 1;
        let different = group.iter().enumerate().filter(|(i, this)| !group[..*i].contains(this)).count();
        let alone = if !concurrent || options.modes == Modes::Both { different } else { 0 };
        count(alone + if concurrent { together } else { 0 })
    };
    let each_point: u64 = groups.values().map(in_group).sum();
    each_point.saturating_mul(points).saturating_mul(options.repeat.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::topology::tests::mixed;
    use crate::measure::protocol::Device;
    use crate::measure::stopping::Rule;
    use crate::sweep::plan::{Aggressor, Pace, plan};
    use crate::workload::Settings;

    fn options() -> Options {
        Options {
            device: Device::Cuda,
            instances: mixed().instances(),
            workloads: vec!["bert-base".parse().unwrap(), "mlp".parse().unwrap()],
            own: None,
            aggressors: vec![],
            settings: Settings::default(),
            batches: vec![1, 8, 32],
            paces: vec![Pace::CLOSED],
            repeat: 3,
            rule: Rule::DEFAULT,
            intervals: false,
            clock_samples: false,
            modes: Modes::Isolated,
            span: Span::Gpu,
            cpus: vec![0, 1],
            gpus: Vec::new(),
            sync: None,
        }
    }

    #[test]
    fn the_count_is_that_of_the_plan() {
        let aggressor = |options: &Options| Aggressor {
            instance: options.instances[0].clone(),
            workload: "mlp".parse().unwrap(),
            batch: None,
        };
        for modes in [Modes::Isolated, Modes::Concurrent, Modes::Both] {
            for span in [Span::Gpu, Span::Host] {
                for (twice, disturbed) in [(false, false), (true, false), (false, true), (true, true)] {
                    let mut options = Options { modes, span, ..options() };
                    if twice {
                        options.instances.push(options.instances[1].clone());
                    }
                    if disturbed {
                        options.aggressors = vec![aggressor(&options)];
                    }
                    let planned: usize = plan(&options).iter().map(|run| run.members.len()).sum();
                    assert_eq!(workers(&options), planned as u64, "{modes:?} {span:?} {twice} {disturbed}");
                }
            }
        }
    }

    #[test]
    fn what_nobody_means_is_refused_with_the_limit() {
        let refusal = |options: &Options| refuse_too_many(options).unwrap_err().to_string();
        assert!(refuse_too_many(&options()).is_ok());
        let many = Options { repeat: u32::MAX, ..options() };
        assert!(
            refusal(&many).starts_with("this plan has 77309411310 measurements, a plan may have 100000:")
        );
        let trace = Arrivals::Trace(vec![0; 300_000]);
        let replayed = Options {
            paces: vec![Pace { load: Load::Open { arrivals: trace }, inflight: 1 }],
            repeat: 100,
            ..options()
        };
        assert!(
            refusal(&replayed).contains("replay 540000000 arrivals of the trace"),
            "{}",
            refusal(&replayed)
        );
    }
}
