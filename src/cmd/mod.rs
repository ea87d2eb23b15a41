//! The verbs: glue between the rooms and the streams, a file each.

pub mod doctor;
pub mod list;
pub mod probe;
pub mod run;

use crate::cli::{Cli, Command, Exit};
use std::io::Write;

/// Runs a parsed command line. What goes to `out` is the result, what goes to `err` is about it.
pub fn dispatch(cli: Cli, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    match cli.command {
        None => run::run(&cli.run, out, err),
        Some(Command::Run(args)) => run::run(&args, out, err),
        Some(Command::List(args)) => list::run(&args, out, err),
        Some(Command::Doctor(args)) => doctor::run(&args, out, err),
        Some(Command::Probe(args)) => probe::run(&args, out, err),
        Some(Command::Worker) => match crate::measure::worker::run() {
            Ok(()) => Exit::Ok,
            Err(error) => {
                let _ = writeln!(err, "worker: {error:#}");
                Exit::Internal
            }
        },
    }
}
