//! The report of `doctor`.

use crate::machine::doctor::{Check, Need, Report, Verdict};
use serde::Serialize;
use std::io::{self, Write};

/// Indentation of what belongs to a check.
const BELOW: &str = "         ";

/// For people: a block a check.
///
/// # Errors
/// The stream does not take it.
pub fn table(out: &mut dyn Write, report: &Report) -> io::Result<()> {
    for check in &report.checks {
        block(out, check)?;
    }
    for finding in &report.instances {
        let (name, label) = (finding.instance.uuid().unwrap_or_default(), finding.instance.label());
        if let Some(why) = &finding.obstacle {
            writeln!(out, "{name} ({label}) can't be measured: {why}")?;
        }
    }
    let (good, all) = (report.measurable(), report.instances.len());
    let plural = if all == 1 { "instance" } else { "instances" };
    writeln!(out, "{good} of {all} {plural} in scope can be measured")?;
    if good == 0 {
        writeln!(out, "the CPU device can: migbench --device cpu")?;
    }
    Ok(())
}

fn block(out: &mut dyn Write, check: &Check) -> io::Result<()> {
    let need = match check.need {
        Need::Needed => "needed",
        Need::Useful => "useful",
        Need::AdminOnly => "admin-only",
    };
    let verdict = match check.verdict {
        Verdict::Ok => "ok",
        Verdict::Unknown => "unknown",
        Verdict::Warning => "WARNING",
        Verdict::Problem => "PROBLEM",
    };
    writeln!(out, "{verdict:<7}  {} ({need})", check.name)?;
    for line in &check.evidence {
        writeln!(out, "{BELOW}{line}")?;
    }
    for remedy in &check.remedies {
        writeln!(out, "{BELOW}next: {}", remedy.what)?;
        if let Some(command) = &remedy.command {
            writeln!(out, "{BELOW}      $ {command}")?;
        }
        if let Some(disturbs) = &remedy.disturbs {
            writeln!(out, "{BELOW}      disturbs: {disturbs}")?;
        }
    }
    Ok(())
}

/// For programs.
///
/// # Errors
/// The stream does not take it.
pub fn json(out: &mut dyn Write, report: &Report) -> io::Result<()> {
    #[derive(Serialize)]
    struct Document<'a> {
        schema: &'a str,
        measurable: usize,
        #[serde(flatten)]
        report: &'a Report,
    }
    let document = Document { schema: "migbench-doctor/1", measurable: report.measurable(), report };
    serde_json::to_writer_pretty(&mut *out, &document)?;
    writeln!(out)
}
