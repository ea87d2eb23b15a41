//! What runs in which order. Pure.

use super::placement::{GpuSlots, Slots};
use crate::machine::Instance;
use crate::measure::load::Load;
use crate::measure::protocol::{Device, Job};
use crate::measure::stopping::Rule;
use crate::results::row::Mode;
use crate::workload::model::Op;
use crate::workload::{Gemm, Kind, Need, Own, OwnTemplate, Precision, Settings, Spec, Sync};
use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

/// Which runs there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Modes {
    /// One instance after another.
    Isolated,
    /// All instances of a group at once.
    Concurrent,
    /// Both, interleaved.
    Both,
}

/// Which instances measure at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Span {
    /// Those of one GPU; GPUs in turn.
    Gpu,
    /// All of them.
    Host,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which runs.
    pub modes: Modes,
    /// Which groups.
    pub span: Span,
    /// Logical processors that workers may be given.
    pub cpus: Vec<usize>,
    /// The GPUs of the machine, measured or not: by them the processors are divided.
    pub gpus: Vec<GpuSlots>,
    /// How the host waits; none lets the plan choose.
    pub sync: Option<Sync>,
    /// CPU or CUDA.
    pub device: Device,
    /// What is measured; one that is named several times has several workers in its co-runs.
    pub instances: Vec<Instance>,
    /// What is loaded beside them in every co-run.
    pub aggressors: Vec<Aggressor>,
    /// What runs, one point each.
    pub workloads: Vec<Spec>,
    /// What a [`Kind::Own`] among them runs.
    pub own: Option<OwnTemplate>,
    /// How.
    pub settings: Settings,
    /// Batch sizes, one point each.
    pub batches: Vec<u64>,
    /// How batches arrive, one point each.
    pub paces: Vec<Pace>,
    /// Rounds.
    pub repeat: u32,
    /// When a window ends.
    pub rule: Rule,
    /// The device's clock is read once a second, too.
    pub clock_samples: bool,
    /// The histogram of each second is wanted.
    pub intervals: bool,
}

/// How batches arrive, and on how many lanes they are served.
#[derive(Clone, Debug, PartialEq)]
pub struct Pace {
    /// How they arrive.
    pub load: Load,
    /// Batches in flight.
    pub inflight: usize,
}

impl Pace {
    /// One batch after the other.
    pub const CLOSED: Pace = Pace { load: Load::Closed, inflight: 1 };
}

/// An instance that is loaded with something of its own while others are measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Aggressor {
    /// Where.
    pub instance: Instance,
    /// What runs there.
    pub workload: Spec,
    /// Samples in a batch; those of the measured instances, if none.
    pub batch: Option<u64>,
}

/// Workers that measure at the same time, each a fresh process.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Run {
    /// The round, from 1.
    pub repetition: u32,
    /// From 1: higher where an interrupted sweep is resumed.
    pub attempt: u32,
    /// One member, or several at once.
    pub mode: Mode,
    /// At least one.
    pub members: Vec<Member>,
}

/// One worker of a run: one row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Member {
    /// Where.
    pub instance: Instance,
    /// What.
    pub job: Job,
}

/// A round is every point once, in an order of its own; rounds follow one another.
///
/// Processors and the way of waiting are fixed once, by the machine, so that runs differ in their neighbours
/// only, and rows of an instance can be joined whatever else was measured.
pub fn plan(options: &Options) -> Vec<Run> {
    let groups = groups(options);
    let hands = Hands::of(options);
    let mut points = Vec::new();
    for (workload, pace) in options.workloads.iter().flat_map(|w| options.paces.iter().map(move |p| (w, p))) {
        points.extend(options.batches.iter().map(|&batch| Work { workload, batch, pace }));
    }
    let mut random = fastrand::Rng::with_seed(options.settings.seed);
    let mut runs = Vec::new();
    for repetition in 1..=options.repeat {
        let mut round = Vec::new();
        for (group, &work) in groups.iter().flat_map(|g| points.iter().map(move |p| (g, p))) {
            let places = hands.places(options, group);
            let mut members: Vec<Member> = Vec::new();
            for (instance, cpus) in group.iter().zip(&places) {
                let place = Place { round: repetition, number: members.len(), cpus };
                members.push(hands.member(options, place, instance, work));
            }
            let concurrent = options.modes != Modes::Isolated && members.len() + options.aggressors.len() > 1;
            if !concurrent || options.modes == Modes::Both {
                let mut alone: Vec<&Member> = Vec::new();
                for member in &members {
                    if !alone.iter().any(|other| other.instance == member.instance) {
                        alone.push(member);
                    }
                }
                let run = |m: &&Member| Run {
                    repetition,
                    attempt: 1,
                    mode: Mode::Isolated,
                    members: vec![(*m).clone()],
                };
                round.extend(alone.iter().map(run));
            }
            if concurrent {
                for (aggressor, cpus) in options.aggressors.iter().zip(&places[group.len()..]) {
                    let (workload, batch) = (&aggressor.workload, aggressor.batch.unwrap_or(work.batch));
                    let work = Work { workload, batch, pace: &Pace::CLOSED };
                    let place = Place { round: repetition, number: members.len(), cpus };
                    members.push(hands.member(options, place, &aggressor.instance, work));
                }
                round.push(Run { repetition, attempt: 1, mode: Mode::Concurrent, members });
            }
        }
        random.shuffle(&mut round);
        runs.append(&mut round);
    }
    runs
}

/// What a worker is to do.
#[derive(Clone, Copy)]
struct Work<'a> {
    workload: &'a Spec,
    batch: u64,
    pace: &'a Pace,
}

/// Where a worker stands.
#[derive(Clone, Copy)]
struct Place<'a> {
    round: u32,
    /// Of its run's members.
    number: usize,
    cpus: &'a [usize],
}

impl Place<'_> {
    /// Each has arrivals of its own, the same alone and in company.
    fn arrival_seed(&self, seed: u64) -> u64 {
        seed ^ (u64::from(self.round) << 40) ^ ((self.number as u64) << 20)
    }
}

/// What workers are given, fixed by the machine.
struct Hands<'a> {
    settings: Settings,
    slots: Slots<'a>,
}

impl<'a> Hands<'a> {
    fn of(options: &'a Options) -> Hands<'a> {
        let instances = || options.instances.iter().chain(options.aggressors.iter().map(|a| &a.instance));
        let workers = |instance: &Instance| instances().filter(|other| same(other, instance)).count();
        let slots = Slots::new(&options.cpus, &options.gpus, instances().map(workers).max().unwrap_or(1));
        let mut settings = options.settings.clone();
        let spins = options.device == Device::Cpu || slots.are_enough();
        settings.sync = options.sync.unwrap_or(if spins { Sync::Spin } else { Sync::Blocking });
        Hands { settings, slots }
    }

    /// The processors of each worker of a group, aggressors last.
    fn places(&self, options: &Options, group: &[Instance]) -> Vec<Vec<usize>> {
        if options.device == Device::Cpu {
            return vec![options.cpus.clone(); group.len()];
        }
        let workers: Vec<&Instance> =
            group.iter().chain(options.aggressors.iter().map(|a| &a.instance)).collect();
        let number = |i: usize| workers[..i].iter().filter(|other| same(other, workers[i])).count();
        (0..workers.len()).map(|i| self.slots.of(workers[i], number(i))).collect()
    }

    fn member(&self, options: &Options, place: Place, instance: &Instance, work: Work) -> Member {
        let job = Job {
            device: options.device,
            workload: work.workload.to_string(),
            batch: work.batch as usize,
            settings: self.settings.clone(),
            cpus: place.cpus.to_vec(),
            rule: options.rule,
            load: work.pace.load.clone(),
            inflight: work.pace.inflight,
            clock_samples: options.clock_samples,
            intervals: options.intervals,
            arrival_seed: place.arrival_seed(options.settings.seed),
            own: own(options, instance, work.workload, work.batch),
        };
        Member { instance: instance.clone(), job }
    }
}

/// The same device, whatever else is known of it.
fn same(one: &Instance, other: &Instance) -> bool {
    one.uuid() == other.uuid()
}

/// What is started in place of a workload of migbench's.
fn own(options: &Options, instance: &Instance, workload: &Spec, batch: u64) -> Option<Own> {
    let template = options.own.as_ref().filter(|_| matches!(workload.kind, Kind::Own(_)))?;
    let index = options.instances.iter().position(|other| other == instance).unwrap_or(0);
    // Every batch has been tried when the template was made.
    template.on(instance, index, batch).ok()
}

/// The instances that measure together when runs are concurrent.
fn groups(options: &Options) -> Vec<Vec<Instance>> {
    if options.span == Span::Host {
        return vec![options.instances.clone()];
    }
    let mut groups: Vec<Vec<Instance>> = Vec::new();
    for instance in &options.instances {
        match groups.iter_mut().find(|group| group[0].gpu_uuid == instance.gpu_uuid) {
            Some(group) => group.push(instance.clone()),
            None => groups.push(vec![instance.clone()]),
        }
    }
    groups
}

/// The user's own workload issues its batches as it does.
fn refuse_pace(own: &OwnTemplate, options: &Options) -> Result<()> {
    if options.rule.precision.is_some() && matches!(own, OwnTemplate::Program(_)) {
        bail!(
            "--precision-target looks at the batches of migbench's own loop: say --duration or --batches instead"
        );
    }
    for pace in &options.paces {
        if pace.inflight > 1 {
            bail!("a workload of your own has one batch in flight: leave --inflight out");
        }
        match own {
            OwnTemplate::Model(_) if pace.load.is_server() => {
                bail!(
                    "--load server needs several batch sizes at once, which --model does not have: say --load open"
                )
            }
            _ => {}
        }
    }
    Ok(())
}

/// A library for products needs a GPU, and products.
fn refuse_gemm(options: &Options) -> Result<()> {
    let gemm = options.settings.gemm;
    if gemm == Gemm::Builtin {
        return Ok(());
    }
    if options.device == Device::Cpu {
        bail!("--gemm {gemm} is for GPUs, and the CPU is what is measured here: leave it out");
    }
    let all = options.workloads.iter().chain(options.aggressors.iter().map(|a| &a.workload));
    let mut without = all.filter(|workload| !workload.network().ops.iter().any(Op::is_product));
    match without.next() {
        Some(workload) => bail!("--gemm {gemm}: {workload} has no matrix products: leave one of the two out"),
        None => Ok(()),
    }
}

/// Refuses what can't work on any of the instances, before anything starts.
///
/// # Errors
/// A precision that the device lacks, or a batch that can't fit into the memory of an instance.
pub fn refuse_impossible(options: &Options) -> Result<()> {
    if let Some(own) = &options.own {
        return refuse_pace(own, options);
    }
    let precision = options.settings.precision;
    refuse_gemm(options)?;
    match (options.device, precision) {
        (Device::Cpu, Precision::Fp16 | Precision::Bf16) => {
            bail!("the CPU device computes in fp32 only: leave --precision {precision} out")
        }
        (Device::Cuda, _) => {
            let all = options.workloads.iter().chain(options.aggressors.iter().map(|a| &a.workload));
            if let Some(reason) = all.filter_map(|workload| workload.refusal(precision)).next() {
                bail!("{reason}");
            }
        }
        _ => {}
    }
    if let Some(workload) = options.workloads.iter().find(|w| w.is_transfer() && !options.settings.transfers)
    {
        bail!("{workload} measures the copies that --no-transfers leaves out: leave one of the two out");
    }
    for pace in options.paces.iter().filter(|pace| pace.inflight > 1) {
        if options.device == Device::Cpu && pace.load != Load::Closed {
            bail!("the CPU device computes one batch at a time: leave --inflight out with arrivals");
        }
    }
    let largest = options.batches.iter().copied().max().unwrap_or(0);
    let lanes = options.paces.iter().map(|pace| pace.inflight as u64).max().unwrap_or(1);
    let measured =
        options.instances.iter().flat_map(|i| options.workloads.iter().map(move |w| (i, w, largest)));
    let loaded = options.aggressors.iter().map(|a| (&a.instance, &a.workload, a.batch.unwrap_or(largest)));
    for (instance, workload, batch) in measured.chain(loaded) {
        let Some(memory) = instance.memory_mib.map(|mib| mib << 20) else { continue };
        let network = workload.network();
        let need = Need {
            weights: network.weight_bytes(precision),
            lane: network.buffer_bytes(batch, precision),
            lanes: lanes as usize,
            batch: batch as usize,
        };
        need.refuse_unless_it_could_fit(&workload.to_string(), memory, instance.label())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::topology::tests::mixed;
    use crate::measure::load::Arrivals;
    use std::collections::BTreeSet;

    fn slots_of(gpu: &crate::machine::topology::Gpu) -> GpuSlots {
        GpuSlots {
            uuid: gpu.uuid.clone(),
            near: Vec::new(),
            largest_layout: 7,
            instances: gpu.mig_devices.iter().map(|mig| mig.uuid.clone()).collect(),
        }
    }

    fn options() -> Options {
        Options {
            device: Device::Cuda,
            instances: mixed().instances(),
            workloads: vec!["bert-base".parse().unwrap()],
            own: None,
            aggressors: vec![],
            settings: Settings { precision: Precision::Fp16, ..Settings::default() },
            batches: vec![1, 8, 32],
            paces: vec![Pace::CLOSED],
            repeat: 3,
            rule: Rule::DEFAULT,
            intervals: false,
            clock_samples: false,
            modes: Modes::Isolated,
            span: Span::Gpu,
            cpus: vec![0, 1],
            gpus: mixed().gpus.iter().map(slots_of).collect(),
            sync: None,
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

    fn shape(options: &Options) -> Vec<(Mode, Vec<String>)> {
        let labels =
            |run: &Run| run.members.iter().map(|m| m.instance.label().to_owned()).collect::<Vec<_>>();
        let mut shape: Vec<_> = plan(options).iter().map(|run| (run.mode, labels(run))).collect();
        shape.sort_by_key(|(mode, labels)| (*mode == Mode::Concurrent, labels.clone()));
        shape
    }

    #[test]
    fn concurrent_runs_are_of_one_gpu_or_of_the_host() {
        let (gpu, big, small) =
            ("NVIDIA H100 80GB HBM3".to_owned(), "3g.40gb".to_owned(), "1g.10gb".to_owned());
        let mut options = Options { batches: vec![1], repeat: 1, modes: Modes::Concurrent, ..options() };
        let pair = (Mode::Concurrent, vec![big.clone(), small.clone()]);
        assert_eq!(shape(&options), [(Mode::Isolated, vec![gpu.clone()]), pair.clone()]);
        options.modes = Modes::Both;
        let alone = |label: &String| (Mode::Isolated, vec![label.clone()]);
        assert_eq!(shape(&options), [alone(&small), alone(&big), alone(&gpu), pair]);
        options.span = Span::Host;
        options.modes = Modes::Concurrent;
        assert_eq!(shape(&options), [(Mode::Concurrent, vec![gpu, big, small])]);
    }

    #[test]
    fn an_aggressor_is_in_every_co_run_and_never_alone() {
        let all = mixed().instances();
        let aggressor =
            Aggressor { instance: all[2].clone(), workload: "mlp".parse().unwrap(), batch: Some(64) };
        let options = Options {
            instances: all[1..2].to_vec(),
            aggressors: vec![aggressor],
            batches: vec![1, 8],
            repeat: 1,
            modes: Modes::Both,
            ..options()
        };
        let mut runs = plan(&options);
        runs.sort_by_key(|run| (run.members.len(), run.members[0].job.batch));
        let seen: Vec<_> = runs
            .iter()
            .map(|run| run.members.iter().map(|m| (m.job.workload.as_str(), m.job.batch)).collect::<Vec<_>>())
            .collect();
        let bert = "bert-base(seq_len=128)";
        assert_eq!(
            seen,
            [vec![(bert, 1)], vec![(bert, 8)], vec![(bert, 1), ("mlp", 64)], vec![(bert, 8), ("mlp", 64)]]
        );
    }

    #[test]
    fn an_instance_named_twice_has_two_workers_in_co_runs_and_one_alone() {
        let twice = vec![mixed().instances()[1].clone(); 2];
        let options =
            Options { instances: twice, batches: vec![1], repeat: 1, modes: Modes::Both, ..options() };
        let big = || "3g.40gb".to_owned();
        assert_eq!(shape(&options), [(Mode::Isolated, vec![big()]), (Mode::Concurrent, vec![big(), big()])]);
    }

    /// One instance or all of them, one layout or another: an instance waits in the same way, on as many
    /// processors.
    #[test]
    fn processors_and_waiting_do_not_depend_on_what_is_measured() {
        let of = |count: usize, modes, cpus: usize, sync| {
            let options = Options {
                instances: mixed().instances().into_iter().skip(1).take(count).collect(),
                modes,
                cpus: (0..cpus).collect(),
                sync,
                ..options()
            };
            let runs = plan(&options);
            let members = runs.iter().flat_map(|run| &run.members);
            let big = members.filter(|member| member.instance.label() == "3g.40gb");
            let mut seen: Vec<_> = big.map(|m| (m.job.cpus.clone(), m.job.settings.sync)).collect();
            seen.dedup();
            assert_eq!(seen.len(), 1, "{seen:?}");
            seen.remove(0)
        };
        let slots = 7 * mixed().gpus.len();
        for cpus in [2, slots - 1, slots, 3 * slots] {
            let sync = if cpus < slots { Sync::Blocking } else { Sync::Spin };
            let alone = of(1, Modes::Isolated, cpus, None);
            assert_eq!((alone.1, alone.0.len()), (sync, (cpus / slots).max(1)));
            assert_eq!(of(2, Modes::Both, cpus, None), alone);
            assert_eq!(of(2, Modes::Both, cpus, Some(Sync::Spin)).1, Sync::Spin, "as the user says");
        }
    }

    #[test]
    fn loads_are_points_and_their_arrivals_differ_by_round_and_member() {
        let open = Load::Open { arrivals: Arrivals::Poisson(10.0) };
        let paces = vec![Pace::CLOSED, Pace { load: open.clone(), inflight: 2 }];
        let options = Options { paces, batches: vec![1], repeat: 2, modes: Modes::Both, ..options() };
        let runs = plan(&options);
        let jobs = || runs.iter().flat_map(|run| &run.members).map(|member| &member.job);
        assert_eq!(jobs().filter(|job| job.load == open && job.inflight == 2).count() * 2, jobs().count());
        let seeds = |label: &str| {
            let of = runs.iter().flat_map(|run| run.members.iter().map(move |m| (run.repetition, m)));
            of.filter(|(_, m)| m.instance.label() == label)
                .map(|(round, m)| (round, m.job.arrival_seed))
                .collect::<BTreeSet<_>>()
        };
        let (big, small) = (seeds("3g.40gb"), seeds("1g.10gb"));
        assert!(big.len() == 2 && small.len() == 2 && big.is_disjoint(&small), "{big:?} {small:?}");
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
        assert!(
            refusal(|o| {
                o.settings.precision = Precision::Fp32;
                o.workloads.push("resnet50".parse().unwrap());
            })
            .contains("fp16 or bf16 only")
        );
        assert!(
            refusal(|o| {
                o.settings.transfers = false;
                o.workloads.push("transfer".parse().unwrap());
            })
            .contains("--no-transfers")
        );
        assert!(refusal(|o| o.device = Device::Cpu).contains("fp32 only"));
    }
}
