//! `migbench calibrate`: rounds in which nothing changes, and how far they move.

use super::run;
use crate::analysis::compare::Gate;
use crate::analysis::compare::noise::noise;
use crate::cli::{Exit, RunArgs};
use crate::render::noise as table;
use crate::results::csv_file;
use std::io::Write;

/// Rounds of one session.
const ROUNDS: u32 = 7;

/// The verb: as `run`, but into a file that grows over the sessions, with the noise of all of them.
pub fn run(args: &RunArgs, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    let mut args = args.clone();
    args.repeat = args.repeat.or(Some(ROUNDS));
    // Of an interrupted one, the file is known.
    let file = args.output.clone().or(args.resume.clone());
    let Some(file) = file.filter(|file| file.as_os_str() != "-") else {
        let _ = writeln!(
            err,
            "migbench: calibrate adds rounds to one file over several sessions: name it with --output"
        );
        return Exit::Usage;
    };
    args.append = args.resume.is_none() && !args.force;
    let exit = run::run(&args, out, err);
    if args.list_runs || !matches!(exit, Exit::Ok | Exit::Incomplete) {
        return exit;
    }
    let gates = Gate::defaults();
    let metrics: Vec<_> = gates.iter().map(|gate| gate.metric).collect();
    let shown = csv_file::read(&file).and_then(|read| {
        let (found, problems) = noise(&read.rows, &metrics, &[]);
        for problem in problems {
            writeln!(err, "warning: {}", problem.text)?;
        }
        table::write(out, &found, &gates)?;
        Ok(())
    });
    match shown {
        Ok(()) => exit,
        Err(error) => super::fail(&error, Exit::Internal, err),
    }
}
