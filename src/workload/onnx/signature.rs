//! From a model's signature and the command line to the shapes of a batch. Pure.

use super::{Element, Fill, Provider};
use crate::machine::text;
use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a model takes and gives.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Signature {
    /// Of ONNX Runtime.
    pub version: String,
    /// Who can execute it in this build of ONNX Runtime.
    pub providers: Vec<Provider>,
    /// In the model's order.
    pub inputs: Vec<Port>,
}

/// One input of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// ONNX Runtime's name of its type.
    pub type_name: String,
    /// Its elements, if batches can be made of them.
    pub element: Option<Element>,
    /// Its dimensions.
    pub dims: Vec<Dim>,
}

/// One dimension.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dim {
    /// Fixed by the model.
    Fixed(usize),
    /// Left open, under a name that may be empty.
    Open(String),
}

/// One input of a batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// Its name.
    pub name: String,
    /// Its elements.
    pub element: Element,
    /// Its shape.
    pub shape: Vec<usize>,
    /// What it holds.
    pub fill: Fill,
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let shape: Vec<String> = self.shape.iter().map(usize::to_string).collect();
        let fill = match &self.fill {
            Fill::Random => String::new(),
            fill => format!(" = {fill}"),
        };
        write!(f, "{}: {} [{}]{fill}", text::cell(&self.name), self.element, shape.join(", "))
    }
}

impl Input {
    /// Elements of one batch; [`Signature::batch`] refuses more than can be counted.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Bytes beyond an address space can't be counted, and a 0 among the sizes does not hide it.
fn refuse_overflow(input: &Input) -> Result<()> {
    let sizes = input.shape.iter().filter(|&&size| size > 0);
    let bytes = sizes.clone().try_fold(input.element.bytes(), |bytes, &size| bytes.checked_mul(size));
    ensure!(
        bytes.is_some_and(|bytes| isize::try_from(bytes).is_ok()),
        "{input} has {:.3e} elements, more than memory can be addressed for: choose smaller sizes",
        sizes.map(|&size| size as f64).product::<f64>()
    );
    Ok(())
}

/// What the command line says of the inputs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    /// Sizes of dimensions: by their name, or as `INPUT:AXIS`.
    pub dims: Vec<(String, usize)>,
    /// What inputs hold, by name.
    pub fills: Vec<(String, Fill)>,
}

impl Signature {
    /// The inputs of a batch of so many samples. The first dimension of an input is the batch, where it
    /// is open and not set by name.
    ///
    /// # Errors
    /// A dimension without a size, a name that is not the model's, or a batch that it does not take;
    /// each with what to do.
    pub fn batch(&self, batch: usize, request: &Request) -> Result<Vec<Input>> {
        self.refuse_unknown(request)?;
        let mut inputs = Vec::new();
        for port in &self.inputs {
            let Some(element) = port.element else {
                bail!(
                    "input '{}' is of type {}, which migbench can't make: leave it out of the model",
                    port.name,
                    port.type_name
                )
            };
            let shape = (0..port.dims.len())
                .map(|axis| port.size(axis, batch, request))
                .collect::<Result<Vec<usize>>>()?;
            let fill = request.fills.iter().find(|(name, _)| *name == port.name);
            let fill = fill.map_or(Fill::Random, |(_, fill)| fill.clone());
            if matches!(fill, Fill::Int { .. }) {
                ensure!(
                    element.is_integer(),
                    "--input {}={fill}: the input's elements are {element}, not integers",
                    port.name
                );
            }
            let input = Input { name: port.name.clone(), element, shape, fill };
            refuse_overflow(&input)?;
            ensure!(
                input.elements() > 0,
                "input '{}' has no elements: give its dimensions other sizes than 0",
                port.name
            );
            inputs.push(input);
        }
        Ok(inputs)
    }

    /// Named dimensions, with the sizes that all of a batch's inputs give them.
    pub fn named(&self, inputs: &[Input]) -> Vec<(String, usize)> {
        let mut named: Vec<(String, usize)> = Vec::new();
        for (port, input) in self.inputs.iter().zip(inputs) {
            for (dim, &size) in port.dims.iter().zip(&input.shape) {
                match dim {
                    Dim::Open(name) if !name.is_empty() && !named.iter().any(|(n, _)| n == name) => {
                        named.push((name.clone(), size));
                    }
                    _ => {}
                }
            }
        }
        named
    }

    fn refuse_unknown(&self, request: &Request) -> Result<()> {
        let names = || self.inputs.iter().map(|port| port.name.as_str()).collect::<Vec<_>>().join(", ");
        for (name, fill) in &request.fills {
            ensure!(
                self.inputs.iter().any(|port| port.name == *name),
                "--input {name}={fill}: the model has no input '{name}', its inputs are {}",
                names()
            );
        }
        for (name, size) in &request.dims {
            let open = self.inputs.iter().flat_map(|port| {
                let axes = port.dims.iter().enumerate();
                axes.filter_map(|(axis, dim)| match dim {
                    Dim::Open(symbol) => Some((symbol.clone(), format!("{}:{axis}", port.name))),
                    Dim::Fixed(_) => None,
                })
            });
            let known: Vec<String> = open.flat_map(|(symbol, place)| [symbol, place]).collect();
            ensure!(
                known.contains(name),
                "--dim {name}={size}: the model has no open dimension '{name}', it has {}",
                if known.is_empty() { "none".to_owned() } else { shown(&known) }
            );
        }
        Ok(())
    }
}

/// Names, each once, without the empty ones.
fn shown(names: &[String]) -> String {
    let mut once: Vec<&str> = Vec::new();
    for name in names.iter().filter(|name| !name.is_empty()) {
        if !once.contains(&name.as_str()) {
            once.push(name);
        }
    }
    once.join(", ")
}

impl Port {
    fn size(&self, axis: usize, batch: usize, request: &Request) -> Result<usize> {
        let place = format!("{}:{axis}", self.name);
        let set = |name: &str| {
            request.dims.iter().rev().find(|(n, _)| !n.is_empty() && n == name).map(|(_, size)| *size)
        };
        match &self.dims[axis] {
            Dim::Fixed(size) if axis == 0 && self.dims.len() > 1 && *size == 1 && batch != 1 => bail!(
                "input '{}' is fixed to a batch of 1, not {batch}: say --batch 1, or export the model with an \
                 open first dimension",
                self.name
            ),
            Dim::Fixed(size) => Ok(*size),
            Dim::Open(name) => match set(&place).or_else(|| set(name)) {
                Some(size) => Ok(size),
                None if axis == 0 => Ok(batch),
                None if name.is_empty() => {
                    bail!("dimension {axis} of input '{}' has no size: say --dim {place}=SIZE", self.name)
                }
                None => {
                    bail!("dimension '{name}' of input '{}' has no size: say --dim {name}=SIZE", self.name)
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(name: &str, element: Option<Element>, dims: &[Dim]) -> Port {
        Port { name: name.into(), type_name: "tensor(int64)".into(), element, dims: dims.to_vec() }
    }

    fn open(name: &str) -> Dim {
        Dim::Open(name.into())
    }

    fn bert() -> Signature {
        let ids = |name| port(name, Some(Element::I64), &[open("batch"), open("seq")]);
        Signature { inputs: vec![ids("ids"), ids("mask")], ..Signature::default() }
    }

    fn dims(dims: &[(&str, usize)]) -> Request {
        Request { dims: dims.iter().map(|(n, s)| (n.to_string(), *s)).collect(), fills: vec![] }
    }

    #[test]
    fn open_dimensions_get_their_sizes() {
        let inputs = bert().batch(8, &dims(&[("seq", 128)])).unwrap();
        assert_eq!(inputs[0].to_string(), "ids: i64 [8, 128]");
        assert_eq!(bert().named(&inputs), [("batch".to_owned(), 8), ("seq".to_owned(), 128)]);
        let unnamed = Signature {
            inputs: vec![port("x", Some(Element::F32), &[open(""), Dim::Fixed(3), open("")])],
            ..Signature::default()
        };
        assert_eq!(unnamed.batch(4, &dims(&[("x:2", 7)])).unwrap()[0].shape, [4, 3, 7]);
        // A first dimension that is no batch is set by its name.
        assert_eq!(bert().batch(8, &dims(&[("batch", 2), ("seq", 5)])).unwrap()[1].shape, [2, 5]);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let error = |s: &Signature, batch, r: &Request| s.batch(batch, r).unwrap_err().to_string();
        assert_eq!(
            error(&bert(), 1, &Request::default()),
            "dimension 'seq' of input 'ids' has no size: say --dim seq=SIZE"
        );
        assert_eq!(
            error(&bert(), 1, &dims(&[("sequence", 5)])),
            "--dim sequence=5: the model has no open dimension 'sequence', it has batch, ids:0, seq, ids:1, \
             mask:0, mask:1"
        );
        let mut request = dims(&[("seq", 5)]);
        request.fills.push(("idz".into(), Fill::Int { low: 0, high: 9 }));
        assert_eq!(
            error(&bert(), 1, &request),
            "--input idz=int:0..9: the model has no input 'idz', its inputs are ids, mask"
        );
        let fixed = Signature {
            inputs: vec![
                port("x", Some(Element::F32), &[Dim::Fixed(1), Dim::Fixed(3)]),
                port("s", None, &[]),
            ],
            ..Signature::default()
        };
        assert!(
            error(&fixed, 8, &Request::default())
                .starts_with("input 'x' is fixed to a batch of 1, not 8: say --batch 1")
        );
        assert!(
            error(&fixed, 1, &Request::default())
                .contains("is of type tensor(int64), which migbench can't make")
        );
        let mut request = Request::default();
        request.fills.push(("x".into(), Fill::Int { low: 0, high: 9 }));
        assert_eq!(
            error(&fixed, 1, &request),
            "--input x=int:0..9: the input's elements are f32, not integers"
        );
        assert!(error(&bert(), 0, &dims(&[("seq", 5)])).contains("has no elements"));
    }

    #[test]
    fn sizes_whose_product_overflows_are_shown() {
        let sizes = |axes: &[usize]| {
            let dims: Vec<Dim> = axes.iter().map(|&size| Dim::Fixed(size)).collect();
            let signature =
                Signature { inputs: vec![port("x", Some(Element::F32), &dims)], ..Signature::default() };
            signature.batch(8, &Request::default()).map_err(|error| error.to_string())
        };
        let expected =
            "x: f32 [8, 4294967296, 4294967296] has 1.476e20 elements, more than memory can be addressed";
        // The product of the second is 0 modulo 2^64, of the last a small number.
        for axes in
            [&[8, 1 << 32, 1 << 32][..], &[0, 8, 1 << 32, 1 << 32], &[1 << 62], &[3, usize::MAX / 3 + 1]]
        {
            let error = sizes(axes).unwrap_err();
            assert!(error.contains("elements, more than memory can be addressed for"), "{axes:?}: {error}");
            assert!(axes[0] != 8 || error.starts_with(expected), "{error}");
        }
        assert_eq!(sizes(&[8, 3]).unwrap()[0].elements(), 24);
    }
}
