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
    /// Samples in one inference of a model whose shapes do not tell.
    pub samples: Option<u64>,
}

/// Axes of a model that change with the batch.
#[derive(Debug, PartialEq)]
enum BatchAxis {
    /// Open dimensions of these names, wherever they stand.
    Named(Vec<String>),
    /// The open first dimensions.
    First,
    /// The first dimension of an input, fixed to this many samples.
    Fixed { input: String, samples: usize },
    /// No dimension: one inference is one sample, unless the user says otherwise.
    None,
}

impl Signature {
    /// The inputs of a batch of this many samples. One symbol has one size in all inputs. The batch is
    /// the symbol that is called so, else the open first dimension of an input.
    ///
    /// # Errors
    /// A dimension without a size or with two, a name that is not the model's, or a batch that its
    /// shapes contradict; each with what to do.
    pub fn batch(&self, batch: usize, request: &Request) -> Result<Vec<Input>> {
        self.refuse_unknown(request)?;
        let axis = self.batch_axis();
        self.refuse_other_batch(&axis, batch, request)?;
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
                .map(|at| self.size(port, at, &axis, batch, request))
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
            inputs.push(input);
        }
        self.refuse_two_sizes(&inputs)?;
        Ok(inputs)
    }

    /// Where the batch is in the shapes.
    fn batch_axis(&self) -> BatchAxis {
        let mut named: Vec<String> = Vec::new();
        for dim in self.inputs.iter().flat_map(|port| &port.dims) {
            if let Dim::Open(name) = dim
                && means_batch(name)
                && !named.contains(name)
            {
                named.push(name.clone());
            }
        }
        if !named.is_empty() {
            return BatchAxis::Named(named);
        }
        if self.inputs.iter().any(|port| matches!(port.dims.first(), Some(Dim::Open(_)))) {
            return BatchAxis::First;
        }
        let fixed = self.inputs.iter().find_map(|port| match port.dims.first() {
            Some(Dim::Fixed(samples)) if port.dims.len() > 1 && *samples > 0 => Some((port, *samples)),
            _ => None,
        });
        match fixed {
            Some((port, samples)) if !port.is_one_image() => {
                BatchAxis::Fixed { input: port.name.clone(), samples }
            }
            _ => BatchAxis::None,
        }
    }

    /// A batch that the shapes contradict would be counted in samples that never were.
    fn refuse_other_batch(&self, axis: &BatchAxis, batch: usize, request: &Request) -> Result<()> {
        if let Some(samples) = request.samples {
            ensure!(
                !matches!(axis, BatchAxis::Named(_) | BatchAxis::First),
                "--samples {samples}: the batch is an open dimension of this model: say --batch {samples}"
            );
            return Ok(());
        }
        if let Some(port) = self.without_samples() {
            bail!(
                "input '{}' has the fixed size 0 in its first dimension, so that an inference has no sample: export \
                 the model with an open first dimension; if that dimension is no batch, say how many samples one \
                 inference is with --samples",
                port.name
            );
        }
        match axis {
            BatchAxis::Fixed { input, samples } => ensure!(
                *samples == batch,
                "input '{input}' is fixed to a batch of {samples}, not {batch}: say --batch {samples}, or export \
                 the model with an open first dimension; if that dimension is no batch, say how many samples \
                 one inference is with --samples"
            ),
            BatchAxis::None => ensure!(
                batch == 1,
                "no dimension of the model's inputs is a batch, so that --batch {batch} would only multiply the \
                 numbers: say --batch 1, or how many samples one inference is with --samples {batch}"
            ),
            BatchAxis::Named(_) | BatchAxis::First => {}
        }
        Ok(())
    }

    /// The first input, where all that have dimensions are empty in the first one. Beside other inputs an
    /// empty one is for example a cache that holds nothing yet.
    fn without_samples(&self) -> Option<&Port> {
        let mut with_axes = self.inputs.iter().filter(|port| !port.dims.is_empty()).peekable();
        let first = *with_axes.peek()?;
        with_axes.all(|port| matches!(port.dims.first(), Some(Dim::Fixed(0)))).then_some(first)
    }

    /// The size of one dimension.
    fn size(
        &self,
        port: &Port,
        at: usize,
        axis: &BatchAxis,
        batch: usize,
        request: &Request,
    ) -> Result<usize> {
        let name = match &port.dims[at] {
            Dim::Fixed(size) => return Ok(*size),
            Dim::Open(name) => name,
        };
        let place = format!("{}:{at}", port.name);
        let set = |name: &str| request.dims.iter().rev().find(|(n, _)| !n.is_empty() && n == name);
        let set = set(&place).or_else(|| set(name)).map(|(given, size)| (given.as_str(), *size));
        let is_batch = match axis {
            BatchAxis::Named(names) => names.contains(name),
            // Another symbol there may be set to something else, if one input keeps the batch.
            BatchAxis::First => at == 0 && (set.is_none() || self.is_only_batch(port, request)),
            BatchAxis::Fixed { .. } | BatchAxis::None => false,
        };
        match set {
            Some((given, size)) if is_batch && size != batch => bail!(
                "--dim {given}={size}, but --batch {batch}: this dimension of input '{}' is the batch: leave \
                 --dim {given} out, or say --batch {size}",
                port.name
            ),
            Some((_, size)) => Ok(size),
            None if is_batch => Ok(batch),
            // A further input of a model whose batch has a name, for example a mask exported as 'axes_1'.
            None if at == 0 && matches!(axis, BatchAxis::Named(names) if !port.has_one_of(names)) => {
                Ok(batch)
            }
            None if name.is_empty() => {
                bail!("dimension {at} of input '{}' has no size: say --dim {place}=SIZE", port.name)
            }
            None => bail!("dimension '{name}' of input '{}' has no size: say --dim {name}=SIZE", port.name),
        }
    }

    /// Whether no other input has an open first dimension that is left to the batch.
    fn is_only_batch(&self, port: &Port, request: &Request) -> bool {
        let is_set = |port: &Port, name: &String| {
            let place = format!("{}:0", port.name);
            request.dims.iter().any(|(given, _)| *given == place || (!name.is_empty() && given == name))
        };
        let left = self.inputs.iter().filter(|other| other.name != port.name);
        let mut left = left.filter_map(|other| match other.dims.first() {
            Some(Dim::Open(name)) => Some((other, name)),
            _ => None,
        });
        !left.any(|(other, name)| !is_set(other, name))
    }

    /// One symbol means one size, also where sizes were given by input and axis.
    fn refuse_two_sizes(&self, inputs: &[Input]) -> Result<()> {
        let mut sizes: Vec<(&str, usize, String)> = Vec::new();
        for (port, input) in self.inputs.iter().zip(inputs) {
            for (at, (dim, &size)) in port.dims.iter().zip(&input.shape).enumerate() {
                let Dim::Open(name) = dim else { continue };
                let place = format!("{}:{at}", port.name);
                match sizes.iter().find(|(known, ..)| known == name) {
                    _ if name.is_empty() => {}
                    Some((_, other, there)) => ensure!(
                        *other == size,
                        "dimension '{name}' would be {other} at {there} and {size} at {place}: it is one dimension, \
                         give it one size with --dim {name}=SIZE"
                    ),
                    None => sizes.push((name, size, place)),
                }
            }
        }
        Ok(())
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
    /// A fixed shape such as [3, 224, 224]: channels, height and width of one image, without a batch.
    fn is_one_image(&self) -> bool {
        matches!(self.dims[..], [Dim::Fixed(3 | 4), _, _])
    }

    fn has_one_of(&self, names: &[String]) -> bool {
        self.dims.iter().any(|dim| matches!(dim, Dim::Open(name) if names.contains(name)))
    }
}

/// Names that exporters give the batch.
fn means_batch(symbol: &str) -> bool {
    let symbol = symbol.to_ascii_lowercase();
    symbol.contains("batch") || matches!(symbol.as_str(), "n" | "b" | "bs" | "bsz")
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
        Request { dims: dims.iter().map(|(n, s)| (n.to_string(), *s)).collect(), ..Request::default() }
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
    }

    fn model(inputs: &[(&str, &[Dim])]) -> Signature {
        let inputs = inputs.iter().map(|(name, dims)| port(name, Some(Element::F32), dims)).collect();
        Signature { inputs, ..Signature::default() }
    }

    /// The shapes of all inputs, or the beginning of why there are none.
    fn shapes(model: &Signature, batch: usize, request: &Request) -> Result<Vec<Vec<usize>>, String> {
        let inputs = model.batch(batch, request).map_err(|error| error.to_string())?;
        Ok(inputs.into_iter().map(|input| input.shape).collect())
    }

    #[test]
    fn the_batch_symbol_has_one_size_everywhere() {
        // A recurrent network: the state has the batch at its second axis.
        let state = model(&[
            ("input", &[open("batch"), open("sequence")]),
            ("state", &[Dim::Fixed(2), open("batch"), Dim::Fixed(128)]),
            ("rate", &[]),
        ]);
        let sequence = dims(&[("sequence", 512)]);
        assert_eq!(shapes(&state, 2, &sequence).unwrap(), [vec![2, 512], vec![2, 2, 128], vec![]]);
        // Time first.
        let time = model(&[("x", &[open("seq"), open("batch"), Dim::Fixed(64)])]);
        assert_eq!(shapes(&time, 8, &dims(&[("seq", 5)])).unwrap(), [[5, 8, 64]]);
        assert!(
            shapes(&time, 8, &Request::default()).unwrap_err().starts_with("dimension 'seq' of input 'x'")
        );
        // Names that say nothing: the first dimension.
        let plain = model(&[("x", &[open("unk__7"), Dim::Fixed(3)]), ("y", &[open("unk__8")])]);
        assert_eq!(shapes(&plain, 4, &Request::default()).unwrap(), [vec![4, 3], vec![4]]);
        assert_eq!(shapes(&plain, 4, &dims(&[("unk__8", 9)])).unwrap(), [vec![4, 3], vec![9]]);
        // A further input, whose first dimension has another name.
        let mask =
            model(&[("ids", &[open("batch_size"), open("seq")]), ("mask", &[open("axes_1"), open("seq")])]);
        assert_eq!(shapes(&mask, 4, &dims(&[("seq", 7)])).unwrap(), [[4, 7], [4, 7]]);
    }

    #[test]
    fn a_size_that_contradicts_the_batch_is_refused() {
        for given in ["batch", "ids:0"] {
            let request = dims(&[(given, 2), ("seq", 5)]);
            let error = shapes(&bert(), 8, &request).unwrap_err();
            let start =
                format!("--dim {given}=2, but --batch 8: this dimension of input 'ids' is the batch: ");
            assert!(error.starts_with(&start) && error.ends_with("or say --batch 2"), "{error}");
            assert_eq!(shapes(&bert(), 2, &request).unwrap(), [[2, 5], [2, 5]]);
        }
        let plain = model(&[("x", &[open("rows"), Dim::Fixed(3)])]);
        assert!(
            shapes(&plain, 8, &dims(&[("rows", 2)])).unwrap_err().starts_with("--dim rows=2, but --batch 8")
        );
        assert!(
            shapes(&plain, 8, &dims(&[("x:0", 2)])).unwrap_err().starts_with("--dim x:0=2, but --batch 8")
        );
        let error = shapes(&bert(), 1, &dims(&[("ids:1", 7), ("mask:1", 9)])).unwrap_err();
        assert!(error.starts_with("dimension 'seq' would be 7 at ids:1 and 9 at mask:1"), "{error}");
        let error = shapes(&bert(), 1, &dims(&[("seq", 7), ("mask:1", 9)])).unwrap_err();
        assert!(error.starts_with("dimension 'seq' would be 7 at ids:1 and 9 at mask:1"), "{error}");
    }

    #[test]
    fn a_batch_that_is_fixed_is_the_only_one() {
        use Dim::Fixed;
        let eight = model(&[("x", &[Fixed(8), Fixed(3), Fixed(8), Fixed(8)])]);
        assert_eq!(shapes(&eight, 8, &Request::default()).unwrap(), [[8, 3, 8, 8]]);
        for batch in [1, 32] {
            let error = shapes(&eight, batch, &Request::default()).unwrap_err();
            let start = format!("input 'x' is fixed to a batch of 8, not {batch}: say --batch 8");
            assert!(error.starts_with(&start), "{error}");
        }
        // An open height is no batch.
        let open_height = model(&[("x", &[Fixed(8), Fixed(3), open("h"), Fixed(8)])]);
        assert!(shapes(&open_height, 1, &dims(&[("h", 8)])).is_err());
        // Where the batch is open in another input, a fixed dimension is something else.
        let anchors = model(&[("anchors", &[Fixed(9), Fixed(4)]), ("x", &[open("batch"), Fixed(3)])]);
        assert_eq!(shapes(&anchors, 2, &Request::default()).unwrap(), [[9, 4], [2, 3]]);
    }

    #[test]
    fn a_model_without_a_batch_takes_one_sample_or_what_the_user_says() {
        use Dim::Fixed;
        let image = model(&[("x", &[Fixed(3), Fixed(64), Fixed(64)])]);
        let vector = model(&[("x", &[Fixed(16)])]);
        let scalar = model(&[("x", &[])]);
        for model in [&image, &vector, &scalar, &model(&[])] {
            assert!(shapes(model, 1, &Request::default()).is_ok());
            for batch in [3, 16, 64] {
                let error = shapes(model, batch, &Request::default()).unwrap_err();
                assert!(error.starts_with("no dimension of the model's inputs is a batch"), "{error}");
                assert!(error.ends_with(&format!("with --samples {batch}")), "{error}");
                let request = Request { samples: Some(batch as u64), ..Request::default() };
                assert!(shapes(model, batch, &request).is_ok());
            }
        }
        let request = Request { samples: Some(4), ..dims(&[("seq", 5)]) };
        let error = shapes(&bert(), 4, &request).unwrap_err();
        assert!(error.starts_with("--samples 4: the batch is an open dimension of this model"), "{error}");
    }

    #[test]
    fn a_size_of_zero_is_a_size() {
        let cache = model(&[("x", &[open("batch"), open("past")]), ("none", &[Dim::Fixed(0)])]);
        assert_eq!(shapes(&cache, 2, &dims(&[("past", 0)])).unwrap(), [vec![2, 0], vec![0]]);
        // Of nothing but empty inputs, no sample can be counted.
        for inputs in [
            &[("x", &[Dim::Fixed(0), Dim::Fixed(4)][..])][..],
            &[("x", &[Dim::Fixed(0)][..]), ("scale", &[][..])][..],
        ] {
            let error = shapes(&model(inputs), 1, &Request::default()).unwrap_err();
            assert!(error.starts_with("input 'x' has the fixed size 0 in its first dimension"), "{error}");
            let request = Request { samples: Some(1), ..Request::default() };
            assert!(shapes(&model(inputs), 1, &request).is_ok());
        }
    }

    #[test]
    fn sizes_whose_product_overflows_are_shown() {
        let sizes = |axes: &[usize]| {
            let dims: Vec<Dim> = axes.iter().map(|&size| Dim::Fixed(size)).collect();
            let signature =
                Signature { inputs: vec![port("x", Some(Element::F32), &dims)], ..Signature::default() };
            let request = Request { samples: Some(8), ..Request::default() };
            signature.batch(8, &request).map_err(|error| error.to_string())
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
