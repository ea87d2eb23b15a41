//! `migbench list`: what is here, and what this process may use of it.

use super::fail;
use crate::cli::{Exit, Format, ListArgs};
use crate::machine::doctor::child::Question;
use crate::machine::doctor::evidence::{Evidence, Silent};
use crate::machine::doctor::{gather, usable};
use crate::machine::nvml::{Absent, FIRST_ANSWER, Helper};
use crate::machine::{Instance, Topology, capture, host, lookup, smi};
use crate::render::list::{self, Listing};
use anyhow::{Context, Result, anyhow, bail};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// nvidia-smi is a second opinion, not worth a long wait.
const SMI_PATIENCE: Duration = Duration::from_secs(5);

/// The verb.
pub fn run(args: &ListArgs, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    let listing = match look(args) {
        Ok(listing) => listing,
        Err(error) => return fail(&error, Exit::Usage, err),
    };
    let written = match args.format {
        Format::Table => list::table(out, &listing),
        Format::Json => list::json(out, &listing),
        Format::Csv => list::csv(out, &listing).and_then(|()| list::notes(err, &listing)),
    };
    let written = written.context("cannot write the list");
    written.map_or_else(|error| fail(&error, Exit::Internal, err), |()| Exit::Ok)
}

fn look(args: &ListArgs) -> Result<Listing> {
    if let Some(path) = &args.topology {
        return saved(path);
    }
    let helper = Helper::start(args.place.nvml.as_deref());
    // It starts while NVML does.
    let second_opinion = ask_nvidia_smi(args);
    match helper.and_then(|mut helper| helper.topology(args.nvml_limit.unwrap_or(FIRST_ANSWER))) {
        Ok(mut topology) => {
            gather::attach(&mut topology, &args.place.root);
            let place = gather::Place { root: args.place.root.clone(), nvml: None, user: None };
            let evidence = gather::permissions(&place, &topology);
            let mut listing = listing(topology, Some(&evidence));
            listing.differences =
                second_opinion.map_or(Vec::new(), |question| compare(question, &listing.topology));
            Ok(listing)
        }
        Err(Silent::Absent(absent @ (Absent::NoLibrary(_) | Absent::NoDriver(_)))) => {
            Ok(without_gpu(absent.to_string()))
        }
        Err(silent) => Err(driver_fails(&silent)),
    }
}

/// There are GPUs, or there may be, and the driver does not say which.
pub(super) fn driver_fails(silent: &Silent) -> anyhow::Error {
    match silent {
        Silent::Absent(absent) => anyhow!("{absent}; `migbench doctor` says what to do"),
        Silent::Hung(_) | Silent::Died(_) => {
            anyhow!("cannot read the GPUs from NVML: {silent}; `migbench doctor` says what to do")
        }
    }
}

/// A machine of which there is only a file. Its CPU is not here either.
fn saved(path: &Path) -> Result<Listing> {
    let (topology, evidence) = read_saved(path)?;
    Ok(listing(topology, evidence.as_ref()))
}

/// The topology of another machine, for planning.
pub(super) fn saved_topology(path: &Path) -> Result<Topology> {
    Ok(read_saved(path)?.0)
}

fn read_saved(path: &Path) -> Result<(Topology, Option<Evidence>)> {
    let text = crate::machine::file::read(path)?;
    let case = capture::parse(&text).with_context(|| format!("{} holds no topology", path.display()))?;
    match case.topology {
        Ok(topology) => Ok((topology, case.evidence)),
        Err(silent) => bail!("{}: nothing was listed there: {silent}", path.display()),
    }
}

fn listing(topology: Topology, evidence: Option<&Evidence>) -> Listing {
    let judge = |instance: Instance| {
        let usable = evidence.map(|_| usable(&instance, &topology, evidence));
        (instance, usable)
    };
    let instances = topology.instances().into_iter().map(judge).collect();
    Listing { instances, topology, ..Listing::default() }
}

fn without_gpu(why: String) -> Listing {
    Listing { cpu: Some(Instance::cpu(host::usable_cores())), absent: Some(why), ..Listing::default() }
}

/// Another NVML has no nvidia-smi of its own, unless one is named.
fn ask_nvidia_smi(args: &ListArgs) -> Option<Question> {
    let program = match (&args.smi, &args.place.nvml) {
        (Some(smi), _) => smi.clone(),
        (None, None) => lookup::program("nvidia-smi")?,
        (None, Some(_)) => return None,
    };
    let mut command = Command::new(program);
    command.arg("-L");
    Question::ask(command, SMI_PATIENCE).ok()
}

fn compare(question: Question, topology: &Topology) -> Vec<String> {
    match question.wait() {
        Ok(text) => match smi::parse(&String::from_utf8_lossy(&text)) {
            Ok(theirs) => smi::differences(topology, &theirs),
            Err(error) => vec![format!("nvidia-smi -L can't be read: {error}")],
        },
        Err(Silent::Hung(seconds)) => vec![format!("nvidia-smi -L did not answer within {seconds} s")],
        Err(Silent::Died(how)) => vec![format!("nvidia-smi -L {how}")],
        Err(Silent::Absent(_)) => Vec::new(),
    }
}
