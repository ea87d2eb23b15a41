//! A network in ONNX Runtime: its signature, and batches of it on one provider.

use super::compare::{self, Output};
use super::{Dim, Element, Input, Model, Optimisation, Port, Provider, Signature, library};
use crate::workload::check::Verdict;
use crate::workload::{Settings, Workload};
use anyhow::{Context, Result, anyhow, bail, ensure};
use ort::environment::Environment;
use ort::ep::{CUDA, ExecutionProvider, TensorRT};
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::IoBinding;
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::value::{DynTensor, Outlet, TensorElementType, TensorRefMut, ValueType};
use std::path::Path;

/// A network, ready to be told the batch. One lane: ONNX Runtime's own streams are its business.
pub struct Onnx {
    model: Model,
    settings: Settings,
    environment: Environment,
    lane: Option<Lane>,
}

/// What a batch needs. Fields fall in this order: the binding holds on to the session.
struct Lane {
    binding: IoBinding,
    inputs: Vec<(String, DynTensor)>,
    outputs: Vec<(String, Element, DynTensor)>,
    session: Session,
    /// Inputs are copied to the device when they are bound.
    rebind: bool,
}

/// Opens the library and the model, and says what the model takes.
///
/// # Errors
/// Either can't be opened; with what to do.
pub fn inspect(library: &Path, model: &Path) -> Result<Signature> {
    let version = library::version(library)?;
    let environment = environment(library)?;
    let builder = session_builder(&environment, Optimisation::None, 1)?;
    let session = load(builder, model, &version)?;
    let inputs = session.inputs().iter().map(port).collect();
    let mut providers = vec![Provider::Cpu];
    providers.extend(CUDA::is_available().map_err(said)?.then_some(Provider::Cuda));
    providers.extend(TensorRT::is_available().map_err(said)?.then_some(Provider::Tensorrt));
    Ok(Signature { version, providers, inputs })
}

fn environment(library: &Path) -> Result<Environment> {
    let builder = ort::init_from(library).map_err(|e| anyhow!("{e}"))?;
    builder.with_name("migbench").with_telemetry(false).build().map_err(said)
}

fn session_builder(environment: &Environment, level: Optimisation, threads: usize) -> Result<SessionBuilder> {
    let level = match level {
        Optimisation::None => GraphOptimizationLevel::Disable,
        Optimisation::Basic => GraphOptimizationLevel::Level1,
        Optimisation::Extended => GraphOptimizationLevel::Level2,
        Optimisation::All => GraphOptimizationLevel::All,
    };
    let builder = Session::builder(environment).map_err(said)?;
    let builder = builder.with_optimization_level(level).map_err(|e| said(e.into()))?;
    builder.with_intra_threads(threads).map_err(|e| said(e.into()))
}

/// ONNX Runtime's words, without the place in its source.
fn said(error: ort::Error) -> anyhow::Error {
    anyhow!("{}", plain(&error.to_string()))
}

fn plain(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    // [before]path:line signature) [const] message
    let Some((before, after)) = text.split_once("/onnxruntime_src/") else { return text };
    let Some((_, message)) = after.rsplit_once(") ") else { return text };
    let message = message.strip_prefix("const ").unwrap_or(message);
    format!("{} {message}", before.trim_end()).trim_start().to_owned()
}

fn load(mut builder: SessionBuilder, path: &Path, version: &str) -> Result<Session> {
    let shown = path.display();
    ensure!(path.is_file(), "there is no model {shown}");
    let error = match builder.commit_from_file(path) {
        Ok(session) => return Ok(session),
        Err(error) => plain(&error.to_string()),
    };
    let advice = if error.contains("opset") || error.contains("IR version") {
        format!(
            "it is newer than ONNX Runtime {version}: update that, or export the model with an older opset"
        )
    } else if error.contains("rotobuf") {
        "it is no ONNX model, or only a part of one".to_owned()
    } else if error.contains("fallback to CPU EP") {
        "the provider does not take all of its operators: say --allow-cpu-nodes to leave them on the CPU"
            .to_owned()
    } else {
        "see what ONNX Runtime says".to_owned()
    };
    bail!("{shown} can't be loaded, {advice} ({error})")
}

fn port(outlet: &Outlet) -> Port {
    let ValueType::Tensor { ty, shape, dimension_symbols } = outlet.dtype() else {
        let type_name = outlet.dtype().to_string();
        return Port { name: outlet.name().into(), type_name, element: None, dims: vec![] };
    };
    let dims =
        shape.iter().zip(dimension_symbols.iter()).map(|(&size, symbol)| match usize::try_from(size) {
            Ok(size) => Dim::Fixed(size),
            Err(_) => Dim::Open(symbol.clone()),
        });
    Port {
        name: outlet.name().into(),
        type_name: outlet.dtype().to_string(),
        element: element(*ty),
        dims: dims.collect(),
    }
}

const ELEMENTS: [(TensorElementType, Element); 13] = [
    (TensorElementType::Float32, Element::F32),
    (TensorElementType::Float64, Element::F64),
    (TensorElementType::Float16, Element::F16),
    (TensorElementType::Bfloat16, Element::Bf16),
    (TensorElementType::Int8, Element::I8),
    (TensorElementType::Int16, Element::I16),
    (TensorElementType::Int32, Element::I32),
    (TensorElementType::Int64, Element::I64),
    (TensorElementType::Uint8, Element::U8),
    (TensorElementType::Uint16, Element::U16),
    (TensorElementType::Uint32, Element::U32),
    (TensorElementType::Uint64, Element::U64),
    (TensorElementType::Bool, Element::Bool),
];

fn element(ty: TensorElementType) -> Option<Element> {
    ELEMENTS.iter().find(|(theirs, _)| *theirs == ty).map(|(_, ours)| *ours)
}

fn element_type(element: Element) -> TensorElementType {
    ELEMENTS.iter().find(|(_, ours)| *ours == element).expect("all of them are there").0
}

impl Onnx {
    /// Opens the library; nothing is loaded before [`prepare`](Workload::prepare).
    ///
    /// # Errors
    /// The library can't be opened.
    pub fn new(model: Model, settings: Settings) -> Result<Onnx> {
        let environment = environment(&model.library)?;
        Ok(Onnx { model, settings, environment, lane: None })
    }

    fn session(&self, provider: Provider, level: Optimisation) -> Result<Session> {
        let model = &self.model;
        let threads = if provider == Provider::Cpu { self.settings.threads } else { 1 };
        let mut builder = session_builder(&self.environment, level, threads)?;
        for (name, size) in &model.dims {
            builder = builder.with_dimension_override(name, *size as i64).map_err(|e| said(e.into()))?;
        }
        if provider != Provider::Cpu {
            let cuda = CUDA::default().build().error_on_failure();
            let providers = match provider {
                Provider::Tensorrt => vec![TensorRT::default().build().error_on_failure(), cuda],
                _ => vec![cuda],
            };
            builder = builder.with_execution_providers(providers).map_err(|e| {
                let error = said(e.into());
                anyhow!(
                    "ONNX Runtime {} at {} can't give --ep {provider}: install onnxruntime-gpu and the libraries it \
                     names, and put them on LD_LIBRARY_PATH ({error})",
                    model.version,
                    model.library.display()
                )
            })?;
            if !model.allow_cpu_nodes {
                builder = builder.with_disable_cpu_fallback().map_err(|e| said(e.into()))?;
            }
        }
        load(builder, &model.path, &model.version)
    }

    fn lane(&mut self) -> Result<&mut Lane> {
        self.lane.as_mut().context("the model was not prepared")
    }

    /// The CPU provider's outputs for the same inputs, with the graph as the file has it.
    fn truth(&self) -> Result<Vec<Output>> {
        let session = self.session(Provider::Cpu, Optimisation::None)?;
        let mut lane = Lane::new(session, &self.model, &self.settings, Provider::Cpu)?;
        lane.run()?;
        lane.results()
    }
}

impl Lane {
    fn new(session: Session, model: &Model, settings: &Settings, provider: Provider) -> Result<Lane> {
        // Page-locked on a GPU, so that copies run at the bus's speed.
        let host = |memory| match provider {
            Provider::Cpu => {
                MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::Default)
            }
            _ => MemoryInfo::new(AllocationDevice::CUDA_PINNED, 0, AllocatorType::Device, memory),
        };
        let allocator = Allocator::new(&session, host(MemoryType::CPUInput).map_err(said)?).map_err(said)?;
        let mut binding = session.create_binding().map_err(said)?;
        let mut inputs = Vec::new();
        for input in &model.inputs {
            let tensor = filled(&allocator, input, settings.seed)?;
            binding.bind_input(&input.name, &tensor).map_err(said)?;
            inputs.push((input.name.clone(), tensor));
        }
        let names: Vec<String> = session.outputs().iter().map(|o| o.name().to_owned()).collect();
        for name in &names {
            let place = host(MemoryType::CPUOutput).map_err(said)?;
            binding.bind_output_to_device(name, &place).map_err(said)?;
        }
        let rebind = provider != Provider::Cpu && settings.transfers;
        let mut lane = Lane { binding, inputs, outputs: Vec::new(), session, rebind };
        // Shapes of outputs are known after a batch; those of all later ones are the same.
        let shapes = lane.shapes(&names)?;
        let output_memory = host(MemoryType::CPUOutput).map_err(said)?;
        let output_allocator = Allocator::new(&lane.session, output_memory).map_err(said)?;
        for (name, element, shape) in shapes {
            let tensor = DynTensor::new(&output_allocator, element_type(element), shape).map_err(said)?;
            lane.outputs.push((name, element, tensor));
        }
        for (name, element, tensor) in &mut lane.outputs {
            bind_output(&mut lane.binding, name, *element, tensor)?;
        }
        Ok(lane)
    }

    /// Name, elements and shape of each output that is a tensor of numbers.
    fn shapes(&mut self, names: &[String]) -> Result<Vec<(String, Element, Vec<i64>)>> {
        let results = self.session.run_binding(&self.binding).map_err(said)?;
        let mut shapes = Vec::new();
        for name in names {
            let value = results.get(name.as_str()).with_context(|| format!("there is no output '{name}'"))?;
            let ValueType::Tensor { ty, shape, .. } = value.dtype() else {
                bail!("output '{name}' is {}, not a tensor: leave it out of the model", value.dtype())
            };
            let Some(element) = element(*ty) else {
                bail!("output '{name}' is a tensor of {ty}: leave it out of the model")
            };
            shapes.push((name.clone(), element, shape.to_vec()));
        }
        Ok(shapes)
    }

    #[inline]
    fn run(&mut self) -> Result<()> {
        if self.rebind {
            for (name, tensor) in &self.inputs {
                self.binding.bind_input(name.as_str(), tensor).map_err(said)?;
            }
        }
        self.session.run_binding(&self.binding).map_err(said)?;
        Ok(())
    }

    /// Overwrites all outputs, so that what nothing writes is found.
    fn poison(&mut self) {
        for (_, _, tensor) in &mut self.outputs {
            let (bytes, data) = (size(tensor), tensor.data_ptr_mut());
            if bytes > 0 {
                // SAFETY: the tensor is the host's memory of so many bytes, and nothing runs on it now.
                unsafe { std::ptr::write_bytes(data.cast::<u8>(), 0xff, bytes) };
            }
        }
    }

    fn results(&self) -> Result<Vec<Output>> {
        let output = |(name, element, tensor): &(String, Element, DynTensor)| Output {
            name: name.clone(),
            is_float: matches!(element, Element::F32 | Element::F64 | Element::F16 | Element::Bf16),
            values: element.decode(bytes(tensor)),
        };
        Ok(self.outputs.iter().map(output).collect())
    }
}

/// Binds an output to a tensor in the host's memory, which lives as long as the binding. Page-locked memory is
/// called the host's too: given an output in what ONNX Runtime allocates as `CUDA_PINNED`, 1.27 and 1.31 fail when
/// they copy it onto itself.
fn bind_output(binding: &mut IoBinding, name: &str, element: Element, tensor: &mut DynTensor) -> Result<()> {
    let place = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::CPUOutput);
    let place = place.map_err(said)?;
    let (shape, data) = (tensor.shape().clone(), tensor.data_ptr_mut());
    macro_rules! bind {
        ($($element:ident $number:ty),*) => {
            match element {
                $(Element::$element => {
                    // SAFETY: the tensor is host memory of this shape, of numbers of this type, and outlives the
                    // binding; nobody looks into it while a batch runs.
                    let host = unsafe { TensorRefMut::<$number>::from_raw(place, data, shape) };
                    binding.bind_output(name, host.map_err(said)?)
                })*
            }
        };
    }
    let bound = bind!(F32 f32, F64 f64, F16 half::f16, Bf16 half::bf16, I8 i8, I16 i16, I32 i32, I64 i64, U8 u8,
                      U16 u16, U32 u32, U64 u64, Bool bool);
    bound.map_err(said)
}

fn size(tensor: &DynTensor) -> usize {
    tensor.size().unwrap_or(0)
}

/// A host tensor's memory.
fn bytes(tensor: &DynTensor) -> &[u8] {
    match size(tensor) {
        0 => &[],
        // SAFETY: the tensor is the host's memory of so many bytes, which live as long as it does.
        size => unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<u8>(), size) },
    }
}

fn filled(allocator: &Allocator, input: &Input, seed: u64) -> Result<DynTensor> {
    let data = input.fill.bytes(input, seed)?;
    let shape: Vec<i64> = input.shape.iter().map(|&size| size as i64).collect();
    let mut tensor = DynTensor::new(allocator, element_type(input.element), shape).map_err(said)?;
    ensure!(
        size(&tensor) == data.len(),
        "input '{}' is {} bytes, not {}",
        input.name,
        size(&tensor),
        data.len()
    );
    // SAFETY: both are host memory of this size, and the tensor is not shared yet.
    unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), tensor.data_ptr_mut().cast::<u8>(), data.len()) };
    Ok(tensor)
}

impl Workload for Onnx {
    fn prepare(&mut self, batch_sizes: &[usize], lanes: usize) -> Result<()> {
        ensure!(lanes == 1, "an ONNX model runs with one batch in flight: leave --inflight out");
        ensure!(batch_sizes.len() == 1, "an ONNX model runs with one batch size at a time");
        let provider = self.model.provider;
        let session = self.session(provider, self.model.optimisation)?;
        self.lane = Some(Lane::new(session, &self.model, &self.settings, provider)?);
        Ok(())
    }

    #[inline]
    fn issue(&mut self, _: usize, _: usize) -> Result<()> {
        self.lane()?.run()
    }

    /// ONNX Runtime returns when the outputs are on the host.
    #[inline]
    fn wait(&mut self, _: usize) -> Result<()> {
        Ok(())
    }

    fn checked_output(&mut self, _: usize) -> Result<Option<Vec<f32>>> {
        let lane = self.lane()?;
        lane.poison();
        lane.run()?;
        Ok(Some(lane.results()?.into_iter().flat_map(|output| output.values).collect()))
    }

    fn judge(&mut self, before: &[f32], after: &[f32]) -> Result<Option<Verdict>> {
        let truth = self.truth()?;
        let provider = self.model.provider;
        let low_precision =
            self.model.inputs.iter().any(|i| matches!(i.element, Element::F16 | Element::Bf16));
        let mut outputs = self.lane()?.results()?;
        let mut rest = before;
        for output in &mut outputs {
            let (these, others) = rest.split_at(output.values.len().min(rest.len()));
            output.values = these.to_vec();
            rest = others;
        }
        let mut verdict = compare::verdict(&outputs, &truth, provider, low_precision);
        // Kernels of other libraries may add in another order each time.
        let same = before.len() == after.len() && before.iter().zip(after).all(|(a, b)| close(*a, *b));
        if !same {
            verdict.failure = Some("the output after the window is not the one before it".into());
        }
        Ok(Some(verdict))
    }
}

/// Equal up to a part in 100 of the larger, or a rounding of 1.
fn close(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || (a - b).abs() <= 1e-2 * a.abs().max(b.abs()).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_in_onnx_runtimes_source_is_left_out() {
        let text = "Load model from a.onnx failed:/onnxruntime_src/onnxruntime/core/graph/model.cc:256 \
                    onnxruntime::Model::Model(int) Unsupported model IR version: 99, max supported IR version: 14\n";
        assert_eq!(
            plain(text),
            "Load model from a.onnx failed: Unsupported model IR version: 99, max supported IR version: 14"
        );
        let text = "/onnxruntime_src/onnxruntime/core/a.cc:104 virtual Status Copy(const Tensor&) const a != b was false.";
        assert_eq!(plain(text), "a != b was false.");
        assert_eq!(plain("Protobuf parsing\n failed."), "Protobuf parsing failed.");
    }

    #[test]
    fn every_element_has_its_type() {
        for (theirs, ours) in ELEMENTS {
            assert_eq!((element(theirs), element_type(ours)), (Some(ours), theirs));
            assert_eq!(theirs.byte_size(3), Some(3 * ours.bytes()));
        }
        assert_eq!(element(TensorElementType::String), None);
    }
}
