//! The user's own workload, from the command line to the plan.

use crate::cli::RunArgs;
use crate::machine::child;
use crate::measure::protocol::Device;
use crate::results::row::hex;
use crate::sweep::plan::Options;
use crate::workload::onnx::{self, Model, Optimisation, Provider, Request, Signature};
use crate::workload::{Kind, OwnTemplate, Spec, command};
use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{Access, access};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
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
        find(name)?;
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

/// The program that a shell would start.
fn find(name: &str) -> Result<PathBuf> {
    let found: Vec<PathBuf> = if name.contains('/') {
        vec![PathBuf::from(name)]
    } else {
        let folders = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&folders).map(|folder| folder.join(name)).collect()
    };
    let Some(path) = found.iter().find(|path| path.is_file()) else {
        if found.iter().any(|path| path.is_dir()) {
            bail!("'{name}' is a folder: name the program in it");
        }
        bail!("there is no program '{name}': give its path, or a name in PATH");
    };
    let executable = |path: &Path| path.is_file() && access(path, Access::EXEC_OK).is_ok();
    match found.iter().find(|path| executable(path)) {
        Some(path) => Ok(path.clone()),
        None => bail!("{} is not executable: chmod +x it, or name its interpreter", path.display()),
    }
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
    let request = Request { dims: own.dims.clone(), fills: own.inputs.clone() };
    let template = onnx::Template { base, signature, request };
    for &batch in args.batch.as_deref().unwrap_or(&[1]) {
        let model = template.on(batch)?;
        // A file that does not fit is found now, not by a worker.
        for input in model.inputs.iter().filter(|input| matches!(input.fill, onnx::Fill::File(_))) {
            input.fill.bytes(input, args.seed)?;
        }
    }
    Ok(template)
}

fn sha256(path: &Path) -> Result<String> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!("there is no model {}", path.display())
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
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
    let mut command = Command::new("/proc/self/exe");
    command.args(["probe", "onnx", "--ort-lib"]).arg(library).arg("--model").arg(model);
    let output = child::output(command, PATIENCE).context("cannot read the model in a process of its own")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{} died while it read {}: {}; {}",
        library.display(),
        model.display(),
        output.status,
        stderr.lines().rev().take(3).collect::<Vec<_>>().join(" | ")
    );
    let answer: Result<Signature, String> =
        serde_json::from_slice(&output.stdout).context("the process that reads the model talks nonsense")?;
    answer.map_err(|error| anyhow::anyhow!("{error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_as_a_shell_finds_them() {
        assert!(find("sh").unwrap().ends_with("sh"));
        assert!(find("/bin/sh").is_ok());
        assert_eq!(
            find("no-such-program").unwrap_err().to_string(),
            "there is no program 'no-such-program': give its path, or a name in PATH"
        );
        assert_eq!(
            find("./Cargo.toml").unwrap_err().to_string(),
            "./Cargo.toml is not executable: chmod +x it, or name its interpreter"
        );
        assert_eq!(find("/").unwrap_err().to_string(), "'/' is a folder: name the program in it");
    }

    #[test]
    fn a_hash_is_of_the_whole_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "abc").unwrap();
        assert!(sha256(file.path()).unwrap().starts_with("ba7816bf8f01cfea414140de5dae2223"));
        assert!(sha256(Path::new("no.onnx")).unwrap_err().to_string().ends_with("there is no model no.onnx"));
    }
}
