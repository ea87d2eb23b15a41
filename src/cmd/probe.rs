//! `migbench probe`, hidden: one question to the driver, answered as JSON. `doctor` starts it as a
//! process that it can abandon.

use crate::cli::{Exit, Probe, ProbeArgs};
use crate::machine::nvml::Library;
use crate::workload::{cuda, onnx};
use std::io::Write;
use std::path::Path;

/// The verb.
pub fn run(args: &ProbeArgs, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    let text = match args.what {
        Probe::Nvml => {
            let library = Library::open(args.nvml.as_deref().map(Path::as_os_str));
            serde_json::to_string(&library.and_then(|library| library.topology()))
        }
        Probe::Cuda => serde_json::to_string(&cuda::probe()),
        Probe::Onnx => {
            let (library, model) =
                (args.ort_lib.clone().unwrap_or_default(), args.model.clone().unwrap_or_default());
            serde_json::to_string(&onnx::inspect(&library, &model).map_err(|error| format!("{error:#}")))
        }
    };
    let written = text.map_err(std::io::Error::from).and_then(|text| out.write_all(text.as_bytes()));
    match written.and_then(|()| out.flush()) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            let _ = writeln!(err, "probe: {error}");
            Exit::Internal
        }
    }
}
