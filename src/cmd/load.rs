//! From the options of `run` to loads and stopping rules.

use crate::cli::RunArgs;
use crate::cli::load::{ArrivalKind, LoadArgs, LoadKind};
use crate::machine::file;
use crate::measure::load::{Arrivals, Load};
use crate::measure::stopping::Rule;
use crate::sweep::plan::Pace;
use anyhow::{Context, Result, bail};

/// Each load at each number of batches in flight, once.
///
/// # Errors
/// Options that contradict each other, or a trace that can't be read.
pub fn paces(args: &LoadArgs) -> Result<Vec<Pace>> {
    let loads = loads(args)?;
    let mut paces: Vec<Pace> = Vec::new();
    for (load, &inflight) in loads.iter().flat_map(|load| args.inflight.iter().map(move |k| (load, k))) {
        let pace = Pace { load: load.clone(), inflight: inflight.into() };
        if !paces.contains(&pace) {
            paces.push(pace);
        }
    }
    Ok(paces)
}

fn loads(args: &LoadArgs) -> Result<Vec<Load>> {
    let arrives = !args.rate.is_empty() || args.trace.is_some() || args.slo.is_some();
    let kind = args.load.unwrap_or(if arrives { LoadKind::Open } else { LoadKind::Closed });
    match (kind, arrives) {
        (LoadKind::Closed, true) => {
            bail!("a closed load has no schedule: leave --rate, --trace and --slo out, or say --load open")
        }
        (LoadKind::Open | LoadKind::Server, false) => {
            bail!("this load needs --rate R (arrivals a second), --trace FILE or --slo TARGET")
        }
        _ => {}
    }
    if kind == LoadKind::Closed && args.arrivals.is_some() {
        bail!("--arrivals is about batches that arrive by a schedule: say --rate R too, or leave it out");
    }
    if kind != LoadKind::Server && args.max_delay > 0 {
        bail!("--max-delay is the batcher's: say --load server, or leave it out");
    }
    let load = |arrivals| match kind {
        LoadKind::Closed => Load::Closed,
        LoadKind::Open => Load::Open { arrivals },
        LoadKind::Server => Load::Server { arrivals, max_delay_ns: args.max_delay },
    };
    if kind == LoadKind::Closed {
        return Ok(vec![Load::Closed]);
    }
    if let Some(path) = &args.trace {
        let text = file::text(path)?;
        let trace = Arrivals::parse_trace(&text).with_context(|| path.display().to_string())?;
        return Ok(vec![load(trace)]);
    }
    let arrivals = |rate| match args.arrivals.unwrap_or(ArrivalKind::Poisson) {
        ArrivalKind::Poisson => Arrivals::Poisson(rate),
        ArrivalKind::Constant => Arrivals::Constant(rate),
    };
    if args.slo.is_some() {
        // The search names the rates.
        return Ok(vec![load(arrivals(1.0))]);
    }
    Ok(args.rate.iter().map(|&rate| load(arrivals(rate))).collect())
}

/// When a window ends: a trace is played to its end, unless something else is asked for.
pub fn rule(args: &RunArgs, paces: &[Pace]) -> Rule {
    let arrivals = paces.iter().find_map(|pace| pace.load.arrivals());
    let mut rule = match (arrivals, args.duration, args.batches) {
        (Some(Arrivals::Trace(times)), None, None) => Rule {
            min_ns: times.last().copied().unwrap_or(0),
            min_batches: times.len() as u64,
            max_ns: u64::MAX,
            precision: None,
        },
        _ if args.load.precision_target.is_some() && args.duration.is_none() && args.batches.is_none() => {
            Rule::until_known(0.0, None)
        }
        _ => Rule::given(args.duration, args.batches),
    };
    rule.precision = args.load.precision_target;
    if rule.precision.is_some() {
        rule.max_ns = rule.max_ns.min(Rule::DEFAULT.max_ns.max(rule.min_ns));
    }
    rule.max_ns = args.load.max_duration.unwrap_or(rule.max_ns);
    rule.min_ns = rule.min_ns.min(rule.max_ns);
    rule
}
