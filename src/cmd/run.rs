//! `migbench run`: choose, plan, open the output, measure, save, show.

use crate::cli::{Exit, PlanFormat, RunArgs};
use crate::machine::nvml::{Absent, Library};
use crate::machine::{Topology, host};
use crate::measure::protocol::Device;
use crate::measure::stopping::Rule;
use crate::render::{progress::Progress, runs, table};
use crate::results::csv_file::{IfExists, Output};
use crate::results::environment::{new_run_id, now_compact, provenance};
use crate::results::row::{Row, Status};
use crate::sweep::group::{self, Conductor};
use crate::sweep::launch::Launcher;
use crate::sweep::plan::{self, Modes, Options, Run};
use crate::sweep::rows::{self, Context};
use crate::sweep::select::{Selection, Wishes, select};
use crate::workload::{Precision, Settings, Spec, Sync};
use anyhow::{Context as _, Result, bail};
use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// How often the user has asked to stop.
static INTERRUPTS: AtomicUsize = AtomicUsize::new(0);

/// Everything that is decided before anything is measured.
struct Prepared {
    context: Context,
    runs: Vec<Run>,
    conductor: Conductor,
    output: Output,
}

/// The verb. Errors go to `err`, the table or CSV to `out`.
pub fn run(args: &RunArgs, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    if args.list_runs {
        return list_runs(args, out, err);
    }
    let prepared = match prepare(args, err) {
        Ok(prepared) => prepared,
        Err(error) if is_broken_pipe(&error) => return Exit::Ok,
        Err(error) => {
            let _ = writeln!(err, "migbench: {error:#}");
            return Exit::Usage;
        }
    };
    match measure(prepared, args, out, err) {
        Ok(exit) => exit,
        Err(error) if is_broken_pipe(&error) => Exit::Ok,
        Err(error) => {
            let _ = writeln!(err, "migbench: {error:#}");
            Exit::Internal
        }
    }
}

/// `--list-runs`: the plan, and no more.
fn list_runs(args: &RunArgs, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    let planned = plan_runs(args);
    let written = planned.and_then(|(_, selection, options, runs)| {
        if !args.quiet {
            selection.notes.iter().try_for_each(|note| writeln!(err, "{note}"))?;
            writeln!(err, "{}", announce(&options, &runs))?;
        }
        match args.format {
            PlanFormat::Table => runs::table(out, &runs)?,
            PlanFormat::Json => runs::json(out, &runs)?,
        }
        Ok(())
    });
    match written {
        Ok(()) => Exit::Ok,
        Err(error) if is_broken_pipe(&error) => Exit::Ok,
        Err(error) => {
            let _ = writeln!(err, "migbench: {error:#}");
            Exit::Usage
        }
    }
}

/// Which instances, which options, which runs.
fn plan_runs(args: &RunArgs) -> Result<(Topology, Selection, Options, Vec<Run>)> {
    let (topology, selection) = choose(args)?;
    let options = options(args, &selection)?;
    plan::refuse_impossible(&options)?;
    let runs = plan::plan(&options);
    Ok((topology, selection, options, runs))
}

/// Chooses and plans, opens the output, and says what will happen.
fn prepare(args: &RunArgs, err: &mut dyn Write) -> Result<Prepared> {
    let run_id = new_run_id();
    let (topology, selection, options, runs) = plan_runs(args)?;
    if !args.quiet {
        for note in &selection.notes {
            writeln!(err, "{note}")?;
        }
        writeln!(err, "{}", announce(&options, &runs))?;
    }
    let conductor = Conductor {
        launcher: Launcher::new()?,
        patience: Duration::from_nanos(args.patience),
        require_proof: args.require_proof,
        allow_mps: args.allow_mps,
        interrupts: &INTERRUPTS,
    };
    listen_to_signals()?;
    let output = open_output(args, &run_id)?;
    let context = Context { provenance: provenance(&run_id, args.seed), topology };
    Ok(Prepared { context, runs, conductor, output })
}

fn choose(args: &RunArgs) -> Result<(Topology, Selection)> {
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
    let topology = if let Some(path) = &args.topology {
        Ok(super::list::saved_topology(path)?)
    } else if args.device == Some(Device::Cpu) {
        Err(Absent::NoLibrary("not asked for".into()))
    } else {
        Library::open(args.nvml.as_deref().map(Path::as_os_str)).and_then(|library| library.topology())
    };
    // What this process may see says nothing of another machine.
    let scope = std::env::var("CUDA_VISIBLE_DEVICES").ok().filter(|_| args.topology.is_none());
    let known = topology.as_ref().cloned().unwrap_or_default();
    Ok((known, select(&wishes, topology, scope.as_deref())?))
}

fn options(args: &RunArgs, selection: &Selection) -> Result<Options> {
    let cpu = selection.device == Device::Cpu;
    let several = selection.instances.len() + selection.aggressors.len() > 1;
    if args.mode == Some(Modes::Isolated) && !selection.aggressors.is_empty() {
        bail!("--mode isolated leaves nobody for --aggressor to disturb: say --mode concurrent or both");
    }
    let mut batches = args.batch.clone();
    batches.sort_unstable();
    batches.dedup();
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
            corruption: args.corrupt,
        },
        workloads: workloads(args, cpu)?,
        batches,
        repeat: args.repeat,
        rule: Rule::given(args.duration, args.batches),
        modes: args.mode.unwrap_or(if several { Modes::Concurrent } else { Modes::Isolated }),
        span: args.span,
        cpus: host::allowed_cpus(),
        sync: args.sync,
    })
}

/// The workloads asked for, each once, with the sizes asked for.
fn workloads(args: &RunArgs, cpu: bool) -> Result<Vec<Spec>> {
    let default = if cpu { "bert-tiny" } else { "bert-base" };
    let mut workloads: Vec<Spec> = args.workload.iter().flat_map(|named| named.0.clone()).collect();
    if workloads.is_empty() {
        workloads.push(default.parse()?);
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
        workloads.iter_mut().for_each(|w| w.set_llama_size(size));
    }
    if let Some(context) = args.context {
        if !workloads.iter().any(Spec::has_context) {
            meaningless("--context")?;
        }
        workloads.iter_mut().for_each(|w| w.set_context(context as usize));
    }
    let mut once: Vec<Spec> = Vec::new();
    for workload in workloads {
        if !once.contains(&workload) {
            once.push(workload);
        }
    }
    Ok(once)
}

/// One line: what, how often, how long.
fn announce(options: &Options, runs: &[Run]) -> String {
    let plural = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let batches: Vec<String> = options.batches.iter().map(u64::to_string).collect();
    let workloads: Vec<String> = options.workloads.iter().map(Spec::to_string).collect();
    let estimate = plan::estimate(runs).as_secs();
    let time =
        if estimate < 120 { format!("{estimate} s") } else { format!("{} min", estimate.div_ceil(60)) };
    format!(
        "{} in {}: {} on {}, batch {}; about {time} or longer, seed {}",
        plural(runs.len(), "run"),
        plural(options.repeat as usize, "round"),
        workloads.join(", "),
        plural(options.instances.len(), "instance"),
        batches.join(", "),
        options.settings.seed,
    )
}

/// Signals are counted, not died of; a file-size limit is an error of the write that meets it.
fn listen_to_signals() -> Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGXFSZ])?;
    std::thread::spawn(move || {
        for signal in signals.forever().filter(|&signal| signal != SIGXFSZ) {
            let _ = signal;
            INTERRUPTS.fetch_add(1, Relaxed);
        }
    });
    Ok(())
}

fn open_output(args: &RunArgs, run_id: &str) -> Result<Output> {
    let if_exists = match (args.force, args.append) {
        (true, _) => IfExists::Overwrite,
        (_, true) => IfExists::Append,
        _ => IfExists::Refuse,
    };
    if let Some(path) = &args.output {
        return Output::open(path, if_exists);
    }
    let name = format!("{}-{}-{run_id}.csv", now_compact(), host::name());
    let here = Path::new("results");
    let opened = std::fs::create_dir_all(here)
        .map_err(Into::into)
        .and_then(|()| Output::open(&here.join(&name), IfExists::Refuse));
    opened.or_else(|_| Output::open(&std::env::temp_dir().join(&name), IfExists::Refuse))
}

/// Measures run after run; a row is saved as soon as it is known.
fn measure(mut prepared: Prepared, args: &RunArgs, out: &mut dyn Write, err: &mut dyn Write) -> Result<Exit> {
    let mut rows = Vec::new();
    let mut progress = Progress::new(prepared.runs.len(), args.quiet);
    for (index, run) in prepared.runs.iter().enumerate() {
        progress.begin(index + 1, run);
        let mut observe = |member: usize, stage, batches| progress.show(member, stage, batches);
        let outcomes = group::play(run, &prepared.conductor, &mut observe);
        progress.end();
        for row in rows::rows(&prepared.context, run, &outcomes) {
            prepared.output.append(&row)?;
            rows.push(row);
        }
        if INTERRUPTS.load(Relaxed) > 0 {
            break;
        }
    }
    conclude(&rows, prepared.output.path(), out, err)
}

/// Shows the table and where the rows are, and judges.
fn conclude(rows: &[Row], path: Option<&PathBuf>, out: &mut dyn Write, err: &mut dyn Write) -> Result<Exit> {
    if let Some(path) = path {
        let mut ordered: Vec<Row> = rows.to_vec();
        ordered
            .sort_by_key(|row| (row.subject.instance.gpu_index, row.subject.instance.gi_id, row.point.batch));
        let shown = table::write(out, &ordered).and_then(|()| writeln!(out, "saved: {}", path.display()));
        // `migbench | head` has seen enough; the file is whole.
        if let Err(error) = shown
            && error.kind() != ErrorKind::BrokenPipe
        {
            return Err(error).context("cannot write to standard output");
        }
    }
    if INTERRUPTS.load(Relaxed) > 0 {
        let _ = writeln!(err, "interrupted: what was measured is saved");
        return Ok(Exit::Interrupted);
    }
    let all_ok = rows.iter().all(|row| row.outcome.status == Status::Ok);
    Ok(if all_ok { Exit::Ok } else { Exit::Incomplete })
}

pub(super) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe)
}
