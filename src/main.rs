//! migbench: parse, run, exit code.

use migbench::{cli::Cli, cmd};
use std::io;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::of_this_process();
    let exit = cmd::dispatch(cli, &mut io::stdout().lock(), &mut io::stderr());
    ExitCode::from(exit as u8)
}
