//! From the command line and what is here to a plan.

use crate::cli::{Preset, RunArgs};
use crate::cmd::{load, own};
use crate::machine::nvml::{Absent, Library};
use crate::machine::topology::Gpu;
use crate::machine::{Topology, host};
use crate::measure::protocol::Device;
use crate::sweep::placement::GpuSlots;
use crate::sweep::plan::{self, Modes, Options, Run};
use crate::sweep::select::{Selection, Wishes, select};
use crate::workload::{OwnTemplate, Precision, Settings, Spec, Sync};
use anyhow::{Result, bail};
use std::path::Path;

/// Rounds of `--preset ci`: with seven a side a shift of 5 % is called (docs/ci.md).
const CI_ROUNDS: u32 = 7;

/// What is decided without touching anything.
pub struct Planned {
    /// What is here.
    pub topology: Topology,
    /// NVML, where it was asked.
    pub library: Option<Library>,
    /// What of it is measured.
    pub selection: Selection,
    /// How.
    pub options: Options,
    /// In which order.
    pub runs: Vec<Run>,
}

/// Which instances, which options, which runs.
///
/// # Errors
/// What is asked for is not there, or can't work.
pub fn plan_runs(args: &RunArgs) -> Result<Planned> {
    let (topology, library, mut selection) = choose(args)?;
    if let (Some(least), Some(most)) = (args.duration, args.load.max_duration)
        && least > most
    {
        bail!("--duration is longer than --max-duration: a window can't be both");
    }
    let options = options(args, &selection, &topology)?;
    plan::refuse_impossible(&options)?;
    let runs = plan::plan(&options);
    let together = matches!(args.mode, Some(Modes::Concurrent | Modes::Both));
    if together && runs.iter().all(|run| run.members.len() < 2) {
        selection
            .notes
            .push("there are no two instances that measure at once: each is measured alone".into());
    }
    Ok(Planned { topology, library, selection, options, runs })
}

fn choose(args: &RunArgs) -> Result<(Topology, Option<Library>, Selection)> {
    let wishes = Wishes {
        uuids: args.uuid.clone(),
        gpus: args.gpu.clone(),
        profiles: args.profile.clone(),
        one_per_profile: args.one_per_profile,
        aggressors: args.aggressor.clone(),
        sharing: args.allow_sharing,
        all: args.all,
        device: args.device,
        threads: args.threads.map_or_else(host::usable_cores, usize::from),
    };
    let (library, topology) = if let Some(path) = &args.topology {
        (None, Ok(crate::cmd::list::saved_topology(path)?))
    } else if args.device == Some(Device::Cpu) {
        (None, Err(Absent::NoLibrary("not asked for".into())))
    } else {
        match Library::open(args.nvml.as_deref().map(Path::as_os_str)) {
            Ok(library) => {
                let topology = library.topology();
                (Some(library), topology)
            }
            Err(absent) => (None, Err(absent)),
        }
    };
    // What this process may see says nothing of another machine.
    let scope = std::env::var("CUDA_VISIBLE_DEVICES").ok().filter(|_| args.topology.is_none());
    let known = topology.as_ref().cloned().unwrap_or_default();
    Ok((known, library, select(&wishes, topology, scope.as_deref())?))
}

fn options(args: &RunArgs, selection: &Selection, topology: &Topology) -> Result<Options> {
    let own = own::template(args, selection.device)?;
    let cpu = selection.device == Device::Cpu;
    let several = selection.instances.len() + selection.aggressors.len() > 1;
    if args.mode == Some(Modes::Isolated) && !selection.aggressors.is_empty() {
        bail!("--mode isolated leaves nobody for --aggressor to disturb: say --mode concurrent or both");
    }
    let workloads = match &own {
        Some(own) => vec![own::spec(own)],
        None => workloads(args, cpu)?,
    };
    // A program runs as it is, unless it is to be called with several sizes; a probe has its own size.
    let once = own.is_some() || workloads.iter().all(Spec::is_probe);
    let mut batches = args.batch.clone().unwrap_or(if once { vec![1] } else { vec![1, 32] });
    batches.sort_unstable();
    batches.dedup();
    let paces = load::paces(&args.load)?;
    if matches!(own, Some(OwnTemplate::Program(_))) && paces != [plan::Pace::CLOSED] {
        bail!("a program of yours sets its own pace: leave --load, --rate, --trace and --inflight out");
    }
    Ok(Options {
        device: selection.device,
        instances: selection.instances.clone(),
        aggressors: selection.aggressors.clone(),
        settings: Settings {
            precision: args.precision.unwrap_or(if cpu { Precision::Fp32 } else { Precision::Fp16 }),
            seed: args.seed,
            graph: !args.no_graph,
            transfers: !args.no_transfers,
            sync: Sync::Spin,
            threads: args.threads.map_or_else(host::usable_cores, usize::from),
            extra_work_us: args.extra_work_us,
            corruption: args.corrupt,
            gemm: args.gemm.unwrap_or_default(),
        },
        workloads,
        own,
        batches,
        repeat: args.repeat.unwrap_or(if args.preset == Some(Preset::Ci) { CI_ROUNDS } else { 1 }),
        rule: load::rule(args, &paces),
        paces,
        clock_samples: args.load.clock_samples,
        intervals: args.load.hlog.is_some(),
        modes: args.mode.unwrap_or(if several { Modes::Concurrent } else { Modes::Isolated }),
        span: args.span,
        cpus: cpus(args)?,
        gpus: topology.gpus.iter().map(slots).collect(),
        sync: args.sync,
    })
}

/// The processors that workers may use.
fn cpus(args: &RunArgs) -> Result<Vec<usize>> {
    let allowed = host::allowed_cpus();
    let Some(wanted) = &args.cpus else { return Ok(allowed) };
    if let Some(cpu) = wanted.iter().find(|cpu| !allowed.contains(cpu)) {
        bail!("--cpus: this process may not use processor {cpu}; it may use {}", host::ranges(&allowed));
    }
    Ok(wanted.clone())
}

/// What a GPU of the machine asks of the processors, those near it where the kernel knows them.
fn slots(gpu: &Gpu) -> GpuSlots {
    let near = gpu.pci_bus_id.as_deref().and_then(|pci| host::cpus_near(Path::new("/"), pci));
    GpuSlots {
        uuid: gpu.uuid.clone(),
        near: near.unwrap_or_default(),
        largest_layout: gpu.largest_layout(),
        instances: gpu.mig_devices.iter().map(|mig| mig.uuid.clone()).collect(),
    }
}

/// The workloads asked for, each once, with the sizes asked for.
fn workloads(args: &RunArgs, cpu: bool) -> Result<Vec<Spec>> {
    let default = match (cpu, args.preset) {
        (true, _) => "bert-tiny",
        (false, None) => "bert-base",
        (false, Some(Preset::Ci)) => "suite",
    };
    let mut workloads: Vec<Spec> = args.workload.iter().flat_map(|named| named.0.clone()).collect();
    if workloads.is_empty() {
        workloads = Spec::parse_some(default)?;
    }
    let first = workloads[0].clone();
    let meaningless = |option: &str| -> Result<()> {
        bail!("{option} means nothing to the workload {first}: leave it out")
    };
    if let Some(seq_len) = args.seq_len {
        if !workloads.iter().any(Spec::has_seq_len) {
            meaningless("--seq-len")?;
        }
        workloads.iter_mut().try_for_each(|w| w.set_seq_len(seq_len as usize))?;
    }
    if let Some(size) = args.llama_size {
        if !workloads.iter().any(Spec::is_llama) {
            meaningless("--llama-size")?;
        }
        workloads.iter_mut().try_for_each(|w| w.set_llama_size(size))?;
    }
    if let Some(context) = args.context {
        if !workloads.iter().any(Spec::has_context) {
            meaningless("--context")?;
        }
        workloads.iter_mut().try_for_each(|w| w.set_context(context as usize))?;
    }
    let mut once: Vec<Spec> = Vec::new();
    for workload in workloads {
        if !once.contains(&workload) {
            once.push(workload);
        }
    }
    Ok(once)
}
