//! `migbench run`: choose, plan, open the output, measure, save, show.

use crate::cli::{Exit, PlanFormat, RunArgs};
mod choose;
mod hlog;
mod saved;

use super::fail;
use crate::analysis::{rounds, slowdown as analysis};
use crate::machine::Topology;
use crate::machine::nvml::Library;
use crate::measure::protocol::Device;
use crate::render::{names::Names, progress::Progress, runs, slo, slowdown, table};
use crate::results::Row;
use crate::results::csv_file::Output;
use crate::results::environment::provenance;
use crate::results::row::Status;
use crate::sweep::estimate::Estimate;
use crate::sweep::group::{self, Conductor};
use crate::sweep::launch::Launcher;
use crate::sweep::monitor::Monitor;
use crate::sweep::plan::{Modes, Options, Run};
use crate::sweep::rows::{self, Context};
use crate::sweep::slo::Hunt;
use crate::workload::Spec;
use anyhow::{Context as _, Result, bail};
use choose::{Planned, plan_runs};
use hlog::Hlog;
use saved::Saved;
use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How often the user has asked to stop.
static INTERRUPTS: AtomicUsize = AtomicUsize::new(0);

/// Everything that is decided before anything is measured.
struct Prepared {
    context: Context,
    runs: Vec<Run>,
    conductor: Conductor,
    saved: Saved,
    hlog: Option<Hlog>,
    /// The user chose no workload, and a GPU can run more than the one that was chosen for them.
    suggests_suite: bool,
    /// The last rows of searches that were interrupted.
    unfinished: Vec<Row>,
}

/// The verb. Errors go to `err`, the table or CSV to `out`.
pub fn run(args: &RunArgs, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    if args.list_runs {
        return list_runs(args, out, err);
    }
    let prepared = match prepare(args, err) {
        Ok(prepared) => prepared,
        Err(error) => return fail(&error, Exit::Usage, err),
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
    let written = planned.and_then(|Planned { selection, options, runs, .. }| {
        if !args.quiet {
            selection.notes.iter().try_for_each(|note| writeln!(err, "{note}"))?;
            writeln!(err, "{}", announce(&options, &runs, args.load.slo.is_some()))?;
        }
        match args.format {
            PlanFormat::Table => runs::table(out, &runs)?,
            PlanFormat::Json => runs::json(out, &runs)?,
        }
        Ok(())
    });
    written.map_or_else(|error| fail(&error, Exit::Usage, err), |()| Exit::Ok)
}

/// The eye on the GPUs, where there are any.
fn monitor(
    args: &RunArgs,
    library: Option<Library>,
    topology: &Topology,
    output: &Output,
) -> Result<Option<Monitor>> {
    let mut monitor = library.map(|library| Monitor::new(library, topology.gpus.clone()));
    if let (Some(interval), Some(path), Some(monitor)) = (args.telemetry, output.path(), &mut monitor) {
        monitor.sample_every(Duration::from_nanos(interval), &path.with_extension("telemetry.csv"))?;
    }
    Ok(monitor)
}

/// What can't work is said before a file is created or overwritten for it.
fn refuse_in_vain(args: &RunArgs, gpus: bool) -> Result<()> {
    if args.telemetry.is_some() && args.output.as_deref().is_some_and(|path| path.as_os_str() == "-") {
        bail!("--telemetry writes beside the output file: with --output - there is none")
    }
    if args.telemetry.is_some() && !gpus {
        bail!("--telemetry reads GPUs, and there is none here")
    }
    args.load.hlog.as_deref().map_or(Ok(()), |path| Hlog::refuse(path, args.force))
}

/// Chooses and plans, opens the output, and says what will happen.
fn prepare(args: &RunArgs, err: &mut dyn Write) -> Result<Prepared> {
    let Planned { topology, library, selection, options, runs } = plan_runs(args)?;
    refuse_in_vain(args, library.is_some())?;
    listen_to_signals()?;
    let saved = Saved::open(args, err)?;
    let mut context = Context {
        provenance: provenance(&saved.run_id, args.seed),
        topology,
        measures_alone: options.modes == Modes::Both,
    };
    context.provenance.session_id.clone_from(&saved.session_id);
    let there = saved.resumed().len();
    let runs = saved.left(runs, &context, args.retry_failed)?;
    if !args.quiet {
        for note in &selection.notes {
            writeln!(err, "{note}")?;
        }
        if args.resume.is_some() {
            writeln!(err, "resuming: {there} rows are there")?;
        }
        writeln!(err, "{}", announce(&options, &runs, args.load.slo.is_some()))?;
    }
    let conductor = Conductor {
        monitor: monitor(args, library, &context.topology, &saved.output)?,
        allow_busy: args.allow_busy,
        launcher: Launcher::new()?,
        patience: Duration::from_nanos(args.patience),
        require_proof: args.require_proof,
        allow_mps: args.allow_mps,
        interrupts: &INTERRUPTS,
    };
    let hlog = args.load.hlog.as_deref().map(|path| Hlog::open(path, args.force)).transpose()?;
    let chosen = !args.workload.is_empty() || args.preset.is_some() || options.own.is_some();
    // On a CPU the others take long.
    let suggests_suite = !chosen && options.device == Device::Cuda;
    Ok(Prepared { context, runs, conductor, saved, hlog, suggests_suite, unfinished: Vec::new() })
}

/// What, how often, how long in one line; what the batches of a model are made of in more.
fn announce(options: &Options, runs: &[Run], searches: bool) -> String {
    let plural = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let batches: Vec<String> = options.batches.iter().map(u64::to_string).collect();
    let workloads: Vec<String> = options.workloads.iter().map(Spec::to_string).collect();
    let time = Estimate::new(searches).of(runs);
    let what = format!(
        "{} in {}: {} on {}, batch {}; takes {time}, seed {}",
        plural(runs.len(), "run"),
        plural(options.repeat as usize, "round"),
        workloads.join(", "),
        plural(options.instances.len(), "instance"),
        batches.join(", "),
        options.settings.seed,
    );
    [vec![what], super::own::inputs(options)].concat().join("\n")
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

/// Measures run after run; a row is saved as soon as it is known.
fn measure(mut prepared: Prepared, args: &RunArgs, out: &mut dyn Write, err: &mut dyn Write) -> Result<Exit> {
    let mut progress = Progress::new(prepared.runs.len(), args.quiet);
    let mut estimate = Estimate::new(args.load.slo.is_some());
    for (index, run) in prepared.runs.iter().enumerate() {
        progress.expect(estimate.of(&prepared.runs[index..]));
        let started = Instant::now();
        let planned = run;
        let mut hunt = args.load.slo.map(|slo| Hunt::new(run, slo));
        let mut last: Vec<Row> = Vec::new();
        let mut next = hunt.as_ref().map_or_else(|| Some(run.clone()), Hunt::next);
        while let Some(run) = next {
            progress.begin(index + 1, &run);
            let mut observe = |member: usize, stage, batches| progress.show(member, stage, batches);
            let outcomes = group::play(&run, &prepared.conductor, &mut observe);
            progress.end();
            prepared.hlog.iter_mut().try_for_each(|hlog| hlog.add(&run, &outcomes))?;
            let mut rows = rows::rows(&prepared.context, &run, &outcomes);
            hunt.iter_mut().for_each(|hunt| hunt.learn(&mut rows));
            if let (Some(hunt), true) = (&hunt, INTERRUPTS.load(Relaxed) > 0) {
                prepared.unfinished.extend(hunt.unfinished(&rows).into_iter().cloned());
            }
            last.clone_from(&rows);
            prepared.saved.add(rows)?;
            next = hunt.as_ref().filter(|_| INTERRUPTS.load(Relaxed) == 0).and_then(Hunt::next);
        }
        if INTERRUPTS.load(Relaxed) > 0 {
            break;
        }
        estimate.learn(planned, started.elapsed(), &last);
    }
    show(&prepared, args, out)?;
    if INTERRUPTS.load(Relaxed) > 0 {
        let _ = writeln!(err, "interrupted: what was measured is saved");
        return Ok(Exit::Interrupted);
    }
    let latest = rounds::latest(prepared.saved.shown());
    let all_ok = latest.iter().all(|row| row.outcome.status == Status::Ok);
    Ok(if all_ok { Exit::Ok } else { Exit::Incomplete })
}

/// The tables, and where the rows are.
fn show(prepared: &Prepared, args: &RunArgs, out: &mut dyn Write) -> Result<()> {
    let saved = &prepared.saved;
    let Some(path) = saved.output.path() else { return Ok(()) };
    let shown = rounds::latest(saved.shown());
    let all = rounds::latest(&saved.rows);
    let names = Names::of(&shown);
    let mut write = || {
        table::write(out, &rounds::fold(&shown), &names)?;
        slowdown::write(out, &analysis::slowdowns(&all), &analysis::packed(&all), &names)?;
        slo::write(out, saved.shown(), &prepared.unfinished)?;
        if prepared.suggests_suite && !args.quiet {
            table::suggest_suite(out, &shown)?;
        }
        writeln!(out, "saved: {}", path.display())
    };
    match write() {
        // `migbench | head` has seen enough; the file is whole.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

pub(super) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe)
}
