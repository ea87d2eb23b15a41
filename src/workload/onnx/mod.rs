//! The user's own network: an ONNX file, executed by ONNX Runtime.
//!
//! The only place of `ort`. The library is found and opened at run time: nothing is linked and nothing
//! downloaded. `signature` and `fill` decide without it what a batch looks like; `session` runs it.

mod compare;
mod fill;
mod library;
mod session;
mod signature;
mod template;

pub use fill::{Fill, refuse_unless_it_fits};
pub use library::find;
pub use session::{Onnx, inspect};
pub use signature::{Dim, Input, Port, Request, Signature};
pub use template::Template;

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// Who executes the network's operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// The host's processors.
    Cpu,
    /// ONNX Runtime's own CUDA kernels, cuBLAS and cuDNN.
    Cuda,
    /// TensorRT, and CUDA for what it does not take.
    Tensorrt,
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Provider::Cpu => "cpu",
            Provider::Cuda => "cuda",
            Provider::Tensorrt => "tensorrt",
        })
    }
}

/// How far ONNX Runtime rewrites the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Optimisation {
    /// Not at all.
    None,
    /// What holds on every provider.
    Basic,
    /// And fusions for the provider.
    Extended,
    /// And layouts.
    All,
}

impl fmt::Display for Optimisation {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Optimisation::None => "none",
            Optimisation::Basic => "basic",
            Optimisation::Extended => "extended",
            Optimisation::All => "all",
        })
    }
}

/// A network as a worker runs it: everything is decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// ONNX Runtime's library.
    pub library: PathBuf,
    /// Its version.
    pub version: String,
    /// The ONNX file.
    pub path: PathBuf,
    /// SHA-256 of that file, in hexadecimal digits. Weights in files beside it are not part of it.
    pub sha256: String,
    /// Who executes it.
    pub provider: Provider,
    /// Operators may stay on the CPU.
    pub allow_cpu_nodes: bool,
    /// How far it is rewritten.
    pub optimisation: Optimisation,
    /// Sizes of symbolic dimensions, by name.
    pub dims: Vec<(String, usize)>,
    /// Every input of a batch.
    pub inputs: Vec<Input>,
}

impl Model {
    /// What the row's `kernels` says: the library's version, and the whole hash of the network.
    pub fn kernels(&self) -> String {
        format!("onnxruntime-{}:sha256-{}", self.version, self.sha256)
    }
}

/// Element types that a batch can be made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Element {
    F32,
    F64,
    F16,
    Bf16,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    Bool,
}

impl Element {
    /// Bytes of one.
    pub fn bytes(self) -> usize {
        match self {
            Element::I8 | Element::U8 | Element::Bool => 1,
            Element::F16 | Element::Bf16 | Element::I16 | Element::U16 => 2,
            Element::F32 | Element::I32 | Element::U32 => 4,
            Element::F64 | Element::I64 | Element::U64 => 8,
        }
    }

    /// As NumPy's files name it, without the byte order; none for what NumPy lacks.
    pub fn numpy(self) -> Option<&'static str> {
        Some(match self {
            Element::F32 => "f4",
            Element::F64 => "f8",
            Element::F16 => "f2",
            Element::Bf16 => return None,
            Element::I8 => "i1",
            Element::I16 => "i2",
            Element::I32 => "i4",
            Element::I64 => "i8",
            Element::U8 => "u1",
            Element::U16 => "u2",
            Element::U32 => "u4",
            Element::U64 => "u8",
            Element::Bool => "b1",
        })
    }

    /// A whole number, no truth value.
    pub fn is_integer(self) -> bool {
        !matches!(self, Element::F32 | Element::F64 | Element::F16 | Element::Bf16 | Element::Bool)
    }

    /// One value as bytes of the machine.
    pub fn encode(self, value: f64, out: &mut Vec<u8>) {
        match self {
            Element::F32 => out.extend((value as f32).to_ne_bytes()),
            Element::F64 => out.extend(value.to_ne_bytes()),
            Element::F16 => out.extend(half::f16::from_f64(value).to_ne_bytes()),
            Element::Bf16 => out.extend(half::bf16::from_f64(value).to_ne_bytes()),
            Element::I8 => out.extend((value as i8).to_ne_bytes()),
            Element::I16 => out.extend((value as i16).to_ne_bytes()),
            Element::I32 => out.extend((value as i32).to_ne_bytes()),
            Element::I64 => out.extend((value as i64).to_ne_bytes()),
            Element::U8 => out.push(value as u8),
            Element::U16 => out.extend((value as u16).to_ne_bytes()),
            Element::U32 => out.extend((value as u32).to_ne_bytes()),
            Element::U64 => out.extend((value as u64).to_ne_bytes()),
            Element::Bool => out.push(u8::from(value != 0.0)),
        }
    }

    /// All values of a buffer, as f32.
    pub fn decode(self, bytes: &[u8]) -> Vec<f32> {
        macro_rules! each {
            ($type:ty, $convert:expr) => {
                bytes
                    .chunks_exact(size_of::<$type>())
                    .map(|b| $convert(<$type>::from_ne_bytes(b.try_into().expect("its size"))))
                    .collect()
            };
        }
        match self {
            Element::F32 => each!(f32, |v| v),
            Element::F64 => each!(f64, |v| v as f32),
            Element::F16 => each!(half::f16, |v: half::f16| v.to_f32()),
            Element::Bf16 => each!(half::bf16, |v: half::bf16| v.to_f32()),
            Element::I8 => each!(i8, f32::from),
            Element::I16 => each!(i16, f32::from),
            Element::I32 => each!(i32, |v| v as f32),
            Element::I64 => each!(i64, |v| v as f32),
            Element::U8 | Element::Bool => each!(u8, f32::from),
            Element::U16 => each!(u16, f32::from),
            Element::U32 => each!(u32, |v| v as f32),
            Element::U64 => each!(u64, |v| v as f32),
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}", format!("{self:?}").to_lowercase())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_their_bytes() {
        use Element::*;
        for element in [F32, F64, F16, Bf16, I8, I16, I32, I64, U8, U16, U32, U64] {
            let mut bytes = Vec::new();
            [0.0, 1.0, 100.0].into_iter().for_each(|value| element.encode(value, &mut bytes));
            assert_eq!(bytes.len(), 3 * element.bytes());
            assert_eq!(element.decode(&bytes), [0.0, 1.0, 100.0], "{element}");
        }
        let mut bytes = Vec::new();
        Element::Bool.encode(7.0, &mut bytes);
        assert_eq!(bytes, [1]);
    }
}
