//! migbench: parse, run, exit code.

use migbench::cli::Cli;
use migbench::cmd;
use migbench::machine::{lookup, thread};
use std::io::{self, Write};
use std::process::ExitCode;

/// The stack of the thread that does the work: what the main thread has by default, whatever `ulimit -s`
/// says of that one.
const STACK_BYTES: usize = 8 << 20;
/// The exit code of a Rust program that panics.
const PANICKED: u8 = 101;

fn main() -> ExitCode {
    if let Err(error) = lookup::leave_relative_folders() {
        return ExitCode::from(cmd::refuse_start(&error, &mut io::stderr()) as u8);
    }
    // A worker is started as /proc/self/exe, and ps would call it 'exe'.
    let _ = rustix::thread::set_name(c"migbench");
    match thread::with_stack("migbench", STACK_BYTES, work) {
        Ok(working) => working.join().unwrap_or(ExitCode::from(PANICKED)),
        Err(error) => {
            let _ = writeln!(io::stderr(), "migbench: {error}");
            ExitCode::from(migbench::cli::Exit::Internal as u8)
        }
    }
}

fn work() -> ExitCode {
    let cli = Cli::of_this_process();
    let exit = cmd::dispatch(cli, &mut io::stdout().lock(), &mut io::stderr());
    ExitCode::from(exit as u8)
}
