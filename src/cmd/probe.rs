//! `migbench probe`, hidden: asks a driver or a library that may never answer, in a process that the
//! parent can give up. `probe nvml` answers requests until its input ends, the others answer once.

use crate::cli::{Exit, Probe, ProbeArgs};
use crate::machine::nvml;
use crate::workload::{cuda, onnx};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The verb.
pub fn run(args: &ProbeArgs, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    let done = match args.what {
        Probe::Nvml => serve_nvml(args),
        Probe::Cuda => answer(&cuda::probe(), out),
        Probe::Onnx => {
            let (library, model) =
                (args.ort_lib.clone().unwrap_or_default(), args.model.clone().unwrap_or_default());
            answer(&onnx::inspect(&library, &model).map_err(|error| format!("{error:#}")), out)
        }
    };
    match done {
        Ok(()) => Exit::Ok,
        Err(error) => {
            let _ = writeln!(err, "probe: {error}");
            Exit::Internal
        }
    }
}

fn answer(answer: &impl serde::Serialize, out: &mut dyn Write) -> io::Result<()> {
    out.write_all(&serde_json::to_vec(answer)?)?;
    out.flush()
}

/// Ends with its input, or by the death signal of its parent. A batch system that ends a job sends
/// SIGTERM to all processes of it: the parent then still wants the readings at the end of its run.
fn serve_nvml(args: &ProbeArgs) -> io::Result<()> {
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
    }
    let answers = nvml::private_stdout()?;
    nvml::serve(args.nvml.as_deref().map(Path::as_os_str), io::stdin().lock(), answers)
}
