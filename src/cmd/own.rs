//! The user's own workload, from the command line to the plan.

use crate::cli::RunArgs;
use crate::machine::{child, file, lookup, text};
use crate::measure::protocol::Device;
use crate::results::row::hex;
use crate::sweep::plan::Options;
use crate::workload::onnx::{self, Model, Optimisation, Provider, Request, Signature};
use crate::workload::{Kind, OwnTemplate, Spec, command};
use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How long ONNX Runtime may take to read a model: one of many gigabytes takes tens of seconds.
const PATIENCE: Duration = Duration::from_secs(600);

/// What stands after `--` or is named by `--model`, if anything does.
///
/// # Errors
/// A program that can't be started, here where that can be seen; a model that can't be run as asked.
pub fn template(args: &RunArgs, device: Device) -> Result<Option<OwnTemplate>> {
    if let Some(path) = &args.own.model {
        return Ok(Some(OwnTemplate::Model(Box::new(model(args, path, device)?))));
    }
    let Some(name) = args.own.command.first() else { return Ok(None) };
    // A plan for another machine says nothing of this one, and a placeholder may be anything.
    if args.topology.is_none() && !name.contains('{') {
        lookup::find(name)?;
    }
    let own = &args.own;
    let (arguments, import) = (own.command.clone(), own.import.clone());
    Ok(Some(OwnTemplate::Program(command::Template { arguments, deadline_ns: own.deadline, import })))
}

/// The workload as the row names it.
pub fn spec(template: &OwnTemplate) -> Spec {
    Spec { kind: Kind::Own(template.text()), seq_len: Spec::SEQ_LEN }
}

/// What a batch of a model looks like, one line a batch size; nothing for other workloads.
pub fn inputs(options: &Options) -> Vec<String> {
    let Some(OwnTemplate::Model(template)) = &options.own else { return Vec::new() };
    let mut lines = Vec::new();
    for &batch in &options.batches {
        let Ok(model) = template.on(batch) else { continue };
        let inputs: Vec<String> = model.inputs.iter().map(ToString::to_string).collect();
        lines.push(format!("batch {batch}: {}", inputs.join("; ")));
    }
    lines
}

fn model(args: &RunArgs, path: &Path, device: Device) -> Result<onnx::Template> {
    let own = &args.own;
    let provider = match (own.ep, device) {
        (None, Device::Cpu) => Provider::Cpu,
        (None, Device::Cuda) => Provider::Cuda,
        (Some(Provider::Cpu), Device::Cuda) => {
            bail!("--ep cpu would leave the GPU idle: add --device cpu to measure the processors")
        }
        (Some(ep @ (Provider::Cuda | Provider::Tensorrt)), Device::Cpu) => {
            bail!("--ep {ep} needs a GPU, and the CPU is what is measured here")
        }
        (Some(ep), _) => ep,
    };
    let sha256 = sha256(path)?;
    let path = std::path::absolute(path)?;
    let (library, version) = onnx::find(own.ort_lib.as_deref())?;
    let signature = signature(&library, &path)?;
    if !signature.providers.contains(&provider) {
        let has: Vec<String> = signature.providers.iter().map(ToString::to_string).collect();
        bail!(
            "{} (ONNX Runtime {version}) was built without --ep {provider}, it has {}: install onnxruntime-gpu, or \
             name another library with --ort-lib",
            library.display(),
            has.join(", ")
        );
    }
    let base = Model {
        library: std::path::absolute(&library)?,
        version,
        path,
        sha256,
        provider,
        allow_cpu_nodes: own.allow_cpu_nodes,
        optimisation: own.optimize.unwrap_or(Optimisation::All),
        dims: Vec::new(),
        inputs: Vec::new(),
    };
    let request = Request { dims: own.dims.clone(), fills: own.inputs.clone(), samples: own.samples };
    let template = onnx::Template { base, signature, request };
    for batch in batches(args) {
        let model = template.on(batch)?;
        // What does not fit is found now, not by a worker.
        model.inputs.iter().try_for_each(onnx::refuse_unless_it_fits)?;
        for input in model.inputs.iter().filter(|input| matches!(input.fill, onnx::Fill::File(_))) {
            input.fill.bytes(input, args.seed)?;
        }
    }
    Ok(template)
}

/// The batch sizes of a model.
fn batches(args: &RunArgs) -> Vec<u64> {
    args.batch.clone().unwrap_or(vec![args.own.samples.unwrap_or(1)])
}

fn sha256(path: &Path) -> Result<String> {
    if !path.exists() {
        bail!("there is no model {}", path.display());
    }
    let mut file = file::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match io::Read::read(&mut file, &mut buffer)
            .with_context(|| format!("cannot read {}", path.display()))?
        {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// Asks a process of its own: a library that crashes must not take this one along.
fn signature(library: &Path, model: &Path) -> Result<Signature> {
    let mut command = Command::new(child::THIS_PROGRAM);
    command.args(["probe", "onnx", "--ort-lib"]).arg(library).arg("--model").arg(model);
    let output = child::output(command, PATIENCE).context("cannot read the model in a process of its own")?;
    let stderr = text::lines(&String::from_utf8_lossy(&output.stderr));
    ensure!(
        output.status.success(),
        "{} died while it read {}: {}; {}",
        library.display(),
        model.display(),
        output.status,
        stderr.lines().rev().take(3).map(text::line).collect::<Vec<_>>().join(" | ")
    );
    let answer: Result<Signature, String> =
        serde_json::from_slice(&output.stdout).context("the process that reads the model talks nonsense")?;
    answer.map_err(|error| anyhow::anyhow!("{error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_of_the_whole_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "abc").unwrap();
        assert!(sha256(file.path()).unwrap().starts_with("ba7816bf8f01cfea414140de5dae2223"));
        assert!(sha256(Path::new("no.onnx")).unwrap_err().to_string().ends_with("there is no model no.onnx"));
    }
}
