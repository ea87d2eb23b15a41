//! From the command line and what is here to a plan.

use crate::cli::{Preset, RunArgs};
use crate::cmd::{list, load, own};
use crate::machine::nvml::{Absent, FIRST_ANSWER, Helper, Silent};
use crate::machine::topology::Gpu;
use crate::machine::{Topology, host, visible};
use crate::measure::protocol::Device;
use crate::sweep::extent;
use crate::sweep::placement::GpuSlots;
use crate::sweep::plan::{self, Modes, Options, Run};
use crate::sweep::select::{Inherited, Selection, Wishes, select};
use crate::workload::{OwnTemplate, Precision, Settings, Spec, Sync};
use anyhow::{Result, anyhow, bail};
use std::ffi::OsString;
use std::path::Path;

/// Rounds of `--preset ci`: with seven a side a shift of 5 % is called (docs/ci.md).
const CI_ROUNDS: u32 = 7;

/// The variable that limits what this process may see.
const VISIBLE_DEVICES: &str = "CUDA_VISIBLE_DEVICES";

/// What is decided without touching anything.
pub struct Planned {
    /// What is here.
    pub topology: Topology,
    /// What asks NVML, where there is NVML.
    pub helper: Option<Helper>,
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
    let (topology, helper, mut selection) = choose(args)?;
    if let (Some(least), Some(most)) = (args.duration, args.load.max_duration)
        && least > most
    {
        bail!("--duration is longer than --max-duration: a window can't be both");
    }
    let options = options(args, &selection, &topology)?;
    plan::refuse_impossible(&options)?;
    extent::refuse_too_many(&options)?;
    let runs = plan::plan(&options);
    let together = matches!(args.mode, Some(Modes::Concurrent | Modes::Both));
    if together && runs.iter().all(|run| run.members.len() < 2) {
        selection
            .notes
            .push("there are no two instances that measure at once: each is measured alone".into());
    }
    Ok(Planned { topology, helper, selection, options, runs })
}

fn choose(args: &RunArgs) -> Result<(Topology, Option<Helper>, Selection)> {
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
    let (helper, topology) = if let Some(path) = &args.topology {
        (None, Ok(list::saved_topology(path)?))
    } else if args.device == Some(Device::Cpu) {
        (None, Err(Absent::NoLibrary("not asked for".into())))
    } else {
        ask_nvml(args)?
    };
    // What this process may see says nothing of another machine.
    let here = args.topology.is_none();
    let decides = here && args.device != Some(Device::Cpu);
    let visible = if decides { visible_devices(std::env::var_os(VISIBLE_DEVICES))? } else { None };
    let granted_by = visible::granted_by(|name| std::env::var(name).ok().filter(|_| here));
    let inherited = Inherited { visible, granted_by };
    let known = topology.as_ref().cloned().unwrap_or_default();
    Ok((known, helper, select(&wishes, topology, &inherited)?))
}

/// # Errors
/// NVML does not answer. A machine with such a driver has GPUs, so that its CPU is not measured in their place.
fn ask_nvml(args: &RunArgs) -> Result<(Option<Helper>, Result<Topology, Absent>)> {
    let asked = Helper::start(args.nvml.as_deref()).and_then(|mut helper| {
        let topology = helper.topology(args.nvml_limit.unwrap_or(FIRST_ANSWER))?;
        Ok((helper, topology))
    });
    match asked {
        Ok((helper, topology)) => Ok((Some(helper), Ok(topology))),
        Err(Silent::Absent(absent)) => Ok((None, Err(absent))),
        Err(silent) => Err(list::driver_fails(&silent)),
    }
}

/// A value that can't be read hides what it hides: to the driver it is set.
fn visible_devices(value: Option<OsString>) -> Result<Option<String>> {
    let text = value.map(OsString::into_string).transpose();
    text.map_err(|value| {
        let shown = value.to_string_lossy();
        anyhow!("{VISIBLE_DEVICES} is not UTF-8 ('{shown}'): set it to UUIDs or indices, or unset it")
    })
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
    let mut batches =
        args.batch.clone().unwrap_or(if once { vec![args.own.samples.unwrap_or(1)] } else { vec![1, 32] });
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
