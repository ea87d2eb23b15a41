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
mod streams;

use self::streams::{BestEffort, UntilClosed};
use crate::cli::{Cli, Command, Exit};
use crate::machine::text;
use crate::measure::worker;
use std::io::{self, ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Runs a parsed command line. What goes to `out` is the result, what goes to `err` is about it.
pub fn dispatch(cli: Cli, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    let (out, err) = (&mut UntilClosed::new(out), &mut BestEffort(err));
    // A file that reaches a size limit is then an error of the write that meets it.
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::<AtomicBool>::default());
    let exit = match cli.command {
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
        Some(Command::Worker) => be_worker(err),
    };
    // A last line without an end is still in the buffer, and an error of its write would be lost.
    match out.flush() {
        Ok(()) => exit,
        Err(error) => {
            let error = anyhow::Error::new(error).context("cannot write to standard output");
            fail(&error, Exit::Internal, err)
        }
    }
}

fn be_worker(err: &mut dyn Write) -> Exit {
    if !worker::has_parent() {
        let _ = writeln!(err, "{}", worker::BY_HAND);
        return Exit::Usage;
    }
    match worker::run() {
        Ok(()) => Exit::Ok,
        Err(error) => {
            let _ = writeln!(err, "worker: {error:#}");
            Exit::Internal
        }
    }
}

/// What keeps the program from starting at all.
pub fn refuse_start(error: &anyhow::Error, err: &mut dyn Write) -> Exit {
    fail(error, Exit::Usage, err)
}

/// Says what went wrong and how the program ends for it. A name that leads nowhere, or not for this
/// user, is a question of usage; what the machine cannot do with a good one, for example writing to a
/// full disk, is not.
fn fail(error: &anyhow::Error, exit: Exit, err: &mut dyn Write) -> Exit {
    let exit = match error.chain().find_map(|cause| Some(cause.downcast_ref::<io::Error>()?.kind())) {
        Some(kind) if is_of_a_name(kind) => Exit::Usage,
        Some(_) => Exit::Internal,
        None => exit,
    };
    let _ = writeln!(err, "migbench: {}", said(error));
    exit
}

/// An error in words, which may be those of another program or the name of a file.
fn said(error: &anyhow::Error) -> String {
    text::lines(&format!("{error:#}"))
}

/// Another file, or other rights to it, would have served. `InvalidData` is a text that is not UTF-8.
fn is_of_a_name(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::NotFound
            | ErrorKind::AlreadyExists
            | ErrorKind::IsADirectory
            | ErrorKind::NotADirectory
            | ErrorKind::InvalidFilename
            | ErrorKind::InvalidInput
            | ErrorKind::InvalidData
            | ErrorKind::PermissionDenied
            | ErrorKind::ReadOnlyFilesystem
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn a_bad_name_is_usage_and_a_bad_disk_is_not() {
        let ended = |kind: ErrorKind, otherwise| {
            let error = Err::<(), _>(io::Error::from(kind)).context("cannot write a.csv").unwrap_err();
            let mut err = Vec::new();
            (fail(&error, otherwise, &mut err), err.len())
        };
        for otherwise in [Exit::Usage, Exit::Internal] {
            let said = "migbench: cannot write a.csv: ".len();
            for kind in [ErrorKind::IsADirectory, ErrorKind::PermissionDenied, ErrorKind::NotADirectory] {
                let (exit, length) = ended(kind, otherwise);
                assert!(exit == Exit::Usage && length > said, "{kind}");
            }
            let machine = [ErrorKind::StorageFull, ErrorKind::QuotaExceeded, ErrorKind::BrokenPipe];
            for kind in machine.into_iter().chain([ErrorKind::Other]) {
                let (exit, length) = ended(kind, otherwise);
                assert!(exit == Exit::Internal && length > said, "{kind}");
            }
            let mut err = Vec::new();
            assert_eq!(fail(&anyhow::anyhow!("no rows"), otherwise, &mut err), otherwise);
            assert_eq!(err, b"migbench: no rows\n");
        }
    }
}
