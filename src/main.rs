//! migbench: parse, run, exit code.

use migbench::{cli::Cli, cmd, machine::lookup};
use std::io;
use std::process::ExitCode;

fn main() -> ExitCode {
    if let Err(error) = lookup::leave_relative_folders() {
        return ExitCode::from(cmd::refuse_start(&error, &mut io::stderr()) as u8);
    }
    let cli = Cli::of_this_process();
    let exit = cmd::dispatch(cli, &mut io::stdout().lock(), &mut io::stderr());
    ExitCode::from(exit as u8)
}
