//! The verbs: glue between the rooms and the streams, a file each.

pub mod calibrate;
pub mod check;
pub mod compare;
pub mod doctor;
pub mod export;
pub mod list;
pub mod load;
mod own;
pub mod probe;
pub mod run;
pub mod selftest;

use crate::cli::{Cli, Command, Exit};
use std::io::{self, ErrorKind, Write};

/// Runs a parsed command line. What goes to `out` is the result, what goes to `err` is about it.
pub fn dispatch(cli: Cli, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    match cli.command {
        None => run::run(&cli.run, out, err),
        Some(Command::Run(args)) => run::run(&args, out, err),
        Some(Command::List(args)) => list::run(&args, out, err),
        Some(Command::Doctor(args)) => doctor::run(&args, out, err),
        Some(Command::Probe(args)) => probe::run(&args, out, err),
        Some(Command::Check(args)) => check::run(&args, out, err),
        Some(Command::Selftest(args)) => selftest::run(&args, out, err),
        Some(Command::Export(args)) => export::run(&args, out, err),
        Some(Command::Calibrate(args)) => calibrate::run(&args, out, err),
        Some(Command::Compare(args)) => compare::run(&args, out, err),
        Some(Command::Worker) => match crate::measure::worker::run() {
            Ok(()) => Exit::Ok,
            Err(error) => {
                let _ = writeln!(err, "worker: {error:#}");
                Exit::Internal
            }
        },
    }
}

/// Says what went wrong and how the program ends for it. A reader that has had enough, as `head`, is
/// no error.
fn fail(error: &anyhow::Error, exit: Exit, err: &mut dyn Write) -> Exit {
    let kind = error.chain().find_map(|cause| Some(cause.downcast_ref::<io::Error>()?.kind()));
    match kind {
        Some(ErrorKind::BrokenPipe) => Exit::Ok,
        // What is not there was named wrongly; what can't be read is no question of usage.
        Some(ErrorKind::NotFound | ErrorKind::AlreadyExists) => say(error, Exit::Usage, err),
        Some(_) => say(error, Exit::Internal, err),
        None => say(error, exit, err),
    }
}

fn say(error: &anyhow::Error, exit: Exit, err: &mut dyn Write) -> Exit {
    let _ = writeln!(err, "migbench: {error:#}");
    exit
}
