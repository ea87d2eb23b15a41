//! Options of the user's own workload.

use crate::workload::onnx::{Fill, Optimisation, Provider};
use clap::Args;
use std::path::PathBuf;

/// A program or a network of the user's.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Your own program or network")]
pub struct OwnArgs {
    /// Your own program, once on each instance, with CUDA_VISIBLE_DEVICES set: {uuid}, {profile},
    /// {index} and {batch} in its arguments are replaced. It may report its batches (docs/protocol.md)
    #[arg(last = true, value_name = "CMD", conflicts_with_all = ["workload", "seq_len", "precision", "gemm", "no_graph", "no_transfers", "sync", "threads"])]
    pub command: Vec<String>,
    /// How long your own program may run without a report
    #[arg(long, value_name = "TIME", value_parser = super::load::length, default_value = "10m")]
    pub deadline: u64,
    /// Take the batches from what your program leaves behind: trtexec=FILE, the same FILE as in trtexec's
    /// --exportTimes; {uuid}, {profile}, {index} and {batch} are replaced
    #[arg(long, value_name = "trtexec=FILE", value_parser = import, requires = "command")]
    pub import: Option<String>,
    /// Your own network, an ONNX file, executed by ONNX Runtime
    #[arg(long, value_name = "FILE", conflicts_with_all = ["command", "workload", "seq_len", "precision", "gemm", "no_graph", "no_transfers"])]
    pub model: Option<PathBuf>,
    /// Who executes the model: cpu, cuda or tensorrt [default: cuda on a GPU]
    #[arg(long, value_name = "PROVIDER", value_parser = super::one_of::<Provider>(&["cpu", "cuda", "tensorrt"]), requires = "model")]
    pub ep: Option<Provider>,
    /// Size of an open dimension of the model, as seq=128 or, without a name, INPUT:AXIS=128; repeated
    #[arg(long = "dim", value_name = "NAME=SIZE", value_parser = dim, requires = "model")]
    pub dims: Vec<(String, usize)>,
    /// Samples in one inference of a model without a batch dimension [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1 << 40), requires = "model", conflicts_with = "batch")]
    pub samples: Option<u64>,
    /// What an input of the model holds, as ids=int:0..30522 or ids=FILE.npy [default: random]; repeated
    #[arg(long = "input", value_name = "NAME=WHAT", value_parser = input, requires = "model")]
    pub inputs: Vec<(String, Fill)>,
    /// ONNX Runtime's library [default: ORT_DYLIB_PATH, LD_LIBRARY_PATH, Python's onnxruntime, the system]
    #[arg(long, value_name = "FILE", requires = "model")]
    pub ort_lib: Option<PathBuf>,
    /// How far ONNX Runtime rewrites the model's graph [default: all]
    #[arg(long, value_name = "LEVEL", value_parser = super::one_of::<Optimisation>(&["none", "basic", "extended", "all"]), requires = "model")]
    pub optimize: Option<Optimisation>,
    /// Let ONNX Runtime leave operators on the CPU instead of failing
    #[arg(long, requires = "model")]
    pub allow_cpu_nodes: bool,
}

fn import(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some(("trtexec", file)) if !file.is_empty() => Ok(file.to_owned()),
        _ => Err("write trtexec=FILE, no other form is known".to_owned()),
    }
}

fn dim(text: &str) -> Result<(String, usize), String> {
    let parsed = text.rsplit_once('=').and_then(|(name, size)| Some((name, size.parse::<usize>().ok()?)));
    match parsed {
        Some((name, size)) if !name.is_empty() && (0..=1 << 40).contains(&size) => {
            Ok((name.to_owned(), size))
        }
        _ => Err("write for example seq=128".to_owned()),
    }
}

fn input(text: &str) -> Result<(String, Fill), String> {
    let (name, fill) = text.split_once('=').ok_or("write for example ids=int:0..30522")?;
    Ok((name.to_owned(), fill.parse().map_err(|error: anyhow::Error| error.to_string())?))
}
