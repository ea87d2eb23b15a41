//! A network as the command line asks for it, before the batch is known.

use super::{Model, Request, Signature};
use crate::machine::text;
use anyhow::Result;

/// What all batch sizes share.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    /// Without inputs.
    pub base: Model,
    /// What it takes.
    pub signature: Signature,
    /// What was asked for.
    pub request: Request,
}

impl Template {
    /// With the inputs of a batch.
    ///
    /// # Errors
    /// As [`Signature::batch`].
    pub fn on(&self, batch: u64) -> Result<Model> {
        let inputs = self.signature.batch(batch as usize, &self.request)?;
        let dims = self.signature.named(&inputs);
        Ok(Model { inputs, dims, ..self.base.clone() })
    }

    /// As a row names it: the file, the beginning of its hash, and what gives its numbers their meaning.
    pub fn text(&self) -> String {
        let plain = |text: &str| text.replace(|c: char| !text::is_visible(c) || c == ';', "?");
        let name = |path: &std::path::Path| {
            path.file_name().map_or_else(String::new, |name| plain(&name.to_string_lossy()))
        };
        let model = &self.base;
        let digits = &model.sha256[..model.sha256.len().min(16)];
        let mut parts = vec![
            name(&model.path),
            format!("sha256={digits}"),
            format!("ep={}", model.provider),
            format!("opt={}", model.optimisation),
        ];
        let mut dims = self.request.dims.clone();
        dims.sort();
        parts.extend(dims.iter().map(|(name, size)| format!("{}={size}", plain(name))));
        let mut fills: Vec<String> = Vec::new();
        for (input, fill) in &self.request.fills {
            let fill = match fill {
                super::Fill::File(path) => name(path),
                fill => fill.to_string(),
            };
            fills.push(format!("{}={fill}", plain(input)));
        }
        fills.sort();
        parts.extend(fills);
        if model.allow_cpu_nodes {
            parts.push("cpu-nodes".into());
        }
        text::cell(&format!("onnx({})", parts.join(","))).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;

    #[test]
    fn the_text_holds_what_gives_the_numbers_their_meaning() {
        let base = Model {
            library: "/opt/libonnxruntime.so".into(),
            version: "1.32.0".into(),
            path: "/models/bert.onnx".into(),
            sha256: "0123456789abcdef".repeat(4),
            provider: Provider::Cuda,
            allow_cpu_nodes: false,
            optimisation: Optimisation::All,
            dims: vec![],
            inputs: vec![],
        };
        let port = Port {
            name: "ids".into(),
            type_name: "tensor(int64)".into(),
            element: Some(Element::I64),
            dims: vec![Dim::Open("batch".into()), Dim::Open("seq".into())],
        };
        let template = Template {
            base,
            signature: Signature { inputs: vec![port], ..Signature::default() },
            request: Request {
                dims: vec![("seq".into(), 128)],
                fills: vec![("ids".into(), Fill::Int { low: 0, high: 30522 })],
                samples: None,
            },
        };
        assert_eq!(
            template.text(),
            "onnx(bert.onnx,sha256=0123456789abcdef,ep=cuda,opt=all,seq=128,ids=int:0..30522)"
        );
        let model = template.on(8).unwrap();
        assert_eq!(model.inputs[0].shape, [8, 128]);
        assert_eq!(model.dims, [("batch".to_owned(), 8), ("seq".to_owned(), 128)]);
        assert!(model.kernels().starts_with("onnxruntime-1.32.0:sha256-0123"));
    }
}
