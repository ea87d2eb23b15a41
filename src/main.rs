//! migbench: parse, run, exit code.

use clap::Parser;
use migbench::{cli::Cli, cmd};
use std::io;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let exit = cmd::dispatch(cli, &mut io::stdout().lock(), &mut io::stderr());
    ExitCode::from(exit as u8)
}
