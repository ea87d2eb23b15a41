//! `migbench run`: choose, plan, open the output, measure, save, show.

use crate::cli::{Exit, PlanFormat, RunArgs};
mod choose;
mod hlog;
mod saved;
mod signals;

use super::fail;
use crate::analysis::{rounds, slowdown as analysis};
use crate::machine::Topology;
use crate::machine::nvml::{Client, Helper, LATER_ANSWER};
use crate::measure::protocol::Device;
use crate::render::{names::Names, progress::Progress, runs, slo, slowdown, table};
use crate::results::Row;
use crate::results::environment::provenance;
use crate::results::output::claims::Claims;
use crate::results::row::Status;
use crate::sweep::estimate::Estimate;
use crate::sweep::group::{self, Conductor, Outcome, Stage};
use crate::sweep::launch::Launcher;
use crate::sweep::monitor::Monitor;
use crate::sweep::plan::{Modes, Options, Run};
use crate::sweep::rows::{self, Context};
use crate::sweep::slo::Hunt;
use crate::workload::Spec;
use crate::workload::onnx::Fill;
use anyhow::{Context as _, Result, bail};
use choose::{Planned, plan_runs};
use hlog::Hlog;
use saved::{Place, Saved};
use signals::INTERRUPTS;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

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
    measure(prepared, args, out, err).unwrap_or_else(|error| fail(&error, Exit::Internal, err))
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

/// Opens NVML telemetry; `None` without a GPU.
fn monitor(
    args: &RunArgs,
    helper: Option<Helper>,
    topology: &Topology,
    rows: Option<&Path>,
) -> Result<Option<Monitor>> {
    let limit = args.nvml_limit.unwrap_or(LATER_ANSWER);
    let client = helper.map(|helper| Client::of(helper, args.nvml.as_deref(), limit));
    let mut monitor = client.map(|client| Monitor::new(client, &topology.gpus, &INTERRUPTS));
    if let (Some(interval), Some(rows), Some(monitor)) = (args.telemetry, rows, &mut monitor) {
        monitor.sample_every(Duration::from_nanos(interval), &beside(rows))?;
    }
    Ok(monitor)
}

/// Where `--telemetry` writes, beside the rows.
fn beside(rows: &Path) -> PathBuf {
    rows.with_extension("telemetry.csv")
}

/// Refuses outputs that cannot work, or that would destroy each other or an input, before any is
/// opened.
fn reject_conflicting_outputs(args: &RunArgs, gpus: bool) -> Result<()> {
    if args.telemetry.is_some() && args.output.as_deref().is_some_and(|path| path.as_os_str() == "-") {
        bail!("--telemetry writes beside the output file: with --output - there is none")
    }
    if args.telemetry.is_some() && !gpus {
        bail!("--telemetry reads GPUs, and there is none here")
    }
    let mut claims = Claims::default();
    let files = args.own.inputs.iter().filter_map(|(_, fill)| match fill {
        Fill::File(path) => Some(("--input", Path::new(path))),
        _ => None,
    });
    let inputs = [("--trace", &args.load.trace), ("--model", &args.own.model)];
    for (option, path) in
        inputs.iter().filter_map(|(option, path)| Some((*option, path.as_deref()?))).chain(files)
    {
        claims.input(option, path);
    }
    for import in args.own.import.iter() {
        claims.input("--import", Path::new(import));
    }
    let rows = args.output.as_deref().or(args.resume.as_deref());
    let telemetry = rows.filter(|_| args.telemetry.is_some()).map(beside);
    let outputs = [
        ("--output", args.output.as_deref()),
        ("--resume", args.resume.as_deref()),
        ("--hlog", args.load.hlog.as_deref()),
        ("--telemetry", telemetry.as_deref()),
    ];
    outputs
        .into_iter()
        .filter_map(|(option, path)| Some((option, path?)))
        .try_for_each(|(option, path)| claims.output(option, path))
}

/// Chooses and plans, opens the output, and says what will happen.
fn prepare(args: &RunArgs, err: &mut dyn Write) -> Result<Prepared> {
    let Planned { topology, helper, selection, options, runs } = plan_runs(args)?;
    reject_conflicting_outputs(args, helper.is_some())?;
    signals::listen()?;
    let hlog = args.load.hlog.as_deref().map(|path| Hlog::open(path, args.force)).transpose()?;
    let saved = Saved::open(args, err)?;
    let mut context = Context {
        provenance: provenance(&saved.run_id, args.seed),
        topology,
        measures_alone: options.modes == Modes::Both,
    };
    context.provenance.session_id.clone_from(&saved.session_id);
    let there = saved.resumed().len();
    let runs = saved.remaining(runs, &context, args.retry_failed)?;
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
        monitor: monitor(args, helper, &context.topology, saved.path())?,
        allow_busy: args.allow_busy,
        launcher: Launcher::new()?,
        patience: Duration::from_nanos(args.patience),
        require_proof: args.require_proof,
        allow_mps: args.allow_mps,
        interrupts: &INTERRUPTS,
    };
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

/// Measures run after run; a row is saved as soon as it is known, before anything else is written.
fn measure(mut prepared: Prepared, args: &RunArgs, out: &mut dyn Write, err: &mut dyn Write) -> Result<Exit> {
    let mut progress = Progress::new(prepared.runs.len(), args.quiet);
    if !prepared.runs.is_empty() {
        prepared.saved.begin(err)?;
        prepared.hlog.as_mut().map_or(Ok(()), Hlog::begin)?;
    }
    let mut hlog_complete = true;
    let mut estimate = Estimate::new(args.load.slo.is_some());
    'sweep: for (index, planned) in prepared.runs.iter().enumerate() {
        progress.expect(estimate.of(&prepared.runs[index..]));
        let began = Instant::now();
        let mut hunt = args.load.slo.map(|slo| Hunt::new(planned, slo));
        let mut last: Vec<Row> = Vec::new();
        let mut next = hunt.as_ref().map_or_else(|| Some(planned.clone()), Hunt::next);
        while let Some(run) = next {
            progress.begin(index + 1, &run);
            let mut started = false;
            let mut observe = |member: usize, stage, batches| {
                if stage > Stage::Starting && !started {
                    started = true;
                    prepared.saved.publish(err);
                }
                progress.show(member, stage, batches);
            };
            let outcomes = group::play(&run, &prepared.conductor, &mut observe);
            progress.end();
            for note in prepared.conductor.monitor.iter().flat_map(Monitor::notes) {
                let _ = writeln!(err, "migbench: {note}");
            }
            let mut rows = rows::rows(&prepared.context, &run, &outcomes);
            hunt.iter_mut().for_each(|hunt| hunt.learn(&mut rows));
            if let (Some(hunt), true) = (&hunt, INTERRUPTS.load(Relaxed) > 0) {
                prepared.unfinished.extend(hunt.unfinished(&rows).into_iter().cloned());
            }
            last.clone_from(&rows);
            let go_on = prepared.saved.add(rows, err);
            hlog_complete &= log_intervals(&mut prepared.hlog, &run, &outcomes, err);
            if !go_on {
                break 'sweep;
            }
            next = hunt.as_ref().filter(|_| INTERRUPTS.load(Relaxed) == 0).and_then(Hunt::next);
        }
        if INTERRUPTS.load(Relaxed) > 0 {
            break;
        }
        estimate.learn(planned, began.elapsed(), &last);
    }
    prepared.saved.verify(err);
    show(&prepared, args, out, err)?;
    Ok(ending(&prepared.saved, hlog_complete, err))
}

/// Writes the intervals of a run. A log that cannot be written is closed and does not end the sweep;
/// false then.
fn log_intervals(hlog: &mut Option<Hlog>, run: &Run, outcomes: &[Outcome], err: &mut dyn Write) -> bool {
    let Some(open) = hlog else { return true };
    let Err(error) = open.publish().and_then(|()| open.add(run, outcomes)) else { return true };
    let _ = writeln!(err, "migbench: {error:#}: the interval log ends here, the sweep goes on");
    *hlog = None;
    false
}

/// The exit code, and what has to be said with it.
fn ending(saved: &Saved, hlog_complete: bool, err: &mut dyn Write) -> Exit {
    let interrupted = INTERRUPTS.load(Relaxed) > 0;
    match (saved.place, saved.path()) {
        (Place::AsAsked, _) if interrupted => _ = writeln!(err, "interrupted: what was measured is saved"),
        (Place::AsAsked, _) => {}
        (Place::Fallback, Some(path)) => _ = writeln!(err, "migbench: the rows are in {}", path.display()),
        (Place::Fallback | Place::Nowhere, _) => {
            let _ = writeln!(err, "migbench: rows of this run are in no file");
        }
    }
    if saved.place != Place::AsAsked || !hlog_complete {
        return Exit::Internal;
    }
    if interrupted {
        return Exit::Interrupted;
    }
    let latest = rounds::latest(saved.shown());
    let any = |wanted: fn(Status) -> bool| latest.iter().any(|row| wanted(row.outcome.status));
    match () {
        () if any(|status| status == Status::Failed) => Exit::Incomplete,
        // An invalid probe is what leaves a search undecided.
        () if slo::any_undecided(saved.shown()) => Exit::Inconclusive,
        () if any(|status| status != Status::Ok) => Exit::Incomplete,
        () => Exit::Ok,
    }
}

/// The tables, and where the rows are. When CSV goes to standard output, nothing else does: rows that are
/// in no file are then shown on standard error.
fn show(prepared: &Prepared, args: &RunArgs, out: &mut dyn Write, err: &mut dyn Write) -> Result<()> {
    let saved = &prepared.saved;
    let is_csv = args.output.as_deref().is_some_and(|path| path.as_os_str() == "-");
    let out: &mut dyn Write = match (is_csv, saved.place) {
        (false, _) => out,
        (true, Place::Nowhere) => err,
        (true, _) => return Ok(()),
    };
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
        match saved.path().filter(|_| saved.place != Place::Nowhere) {
            Some(path) => writeln!(out, "saved: {}", path.display()),
            None => Ok(()),
        }
    };
    write().context("cannot write to standard output")
}
