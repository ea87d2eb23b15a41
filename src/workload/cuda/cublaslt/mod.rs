//! Matrix products by NVIDIA's cuBLASLt instead of the embedded kernels, where the user asks for it and
//! the library is there.
//!
//! It computes the products whose epilogue it has exactly: `activation(x · weight + bias + residual)` with
//! no activation or ReLU. Its GELU is the approximation by tanh where migbench's is exact, and it has no
//! SwiGLU and no tanh: products with those stay with the embedded kernels. The first algorithm that its
//! heuristic names is taken, no other is tried, so that two runs do the same work.

mod library;

use self::library::{Api, Choice, CublasError, Opaque, api};
use super::device::{Context, DeviceMemory, Stream};
use crate::workload::Precision;
use crate::workload::model::{Activation, BufferId, Network, Op, WeightId};
use anyhow::{Context as _, Result, ensure};
use std::ffi::c_void;
use std::ptr::null_mut;
use std::rc::Rc;

/// Of each lane: what NVIDIA's documentation of cublasSetWorkspace recommends for Hopper, the most of all
/// architectures.
pub(super) const WORKSPACE_BYTES: usize = 32 << 20;

// Numbers of cublasLt.h and library_types.h.
const COMPUTE_32F: u32 = 68;
const KIND_32F: u32 = 0;
const KIND_16F: u32 = 2;
const KIND_16BF: u32 = 14;
const PRODUCT_EPILOGUE: u32 = 7;
const PRODUCT_BIAS_POINTER: u32 = 8;
const PREFERENCE_WORKSPACE_BYTES: u32 = 1;
const PREFERENCE_REDUCTIONS: u32 = 3;
/// Of A; those of B, C and D follow.
const PREFERENCE_ALIGNMENT: u32 = 5;
/// Parts of a sum are added as fp32. The others add them as they are stored.
const REDUCTION_COMPUTE_TYPE: u32 = 2;
/// The largest alignment that is asked about, and the default.
const MOST_ALIGNMENT: u64 = 256;

/// A product as the library sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Shape {
    x: BufferId,
    /// Elements before its first row.
    first: usize,
    /// Elements from row to row.
    stride: usize,
    /// Of a sample.
    rows: usize,
    weight: WeightId,
    bias: Option<WeightId>,
    residual: Option<BufferId>,
    relu: bool,
    out: BufferId,
}

impl Shape {
    /// None for what the library does not compute as migbench means it.
    fn of(network: &Network, op: &Op) -> Option<Shape> {
        let relu = |activation: Activation| match activation {
            Activation::None => Some(false),
            Activation::Relu => Some(true),
            Activation::Gelu | Activation::Tanh | Activation::SwiGlu => None,
        };
        let rows = |out: BufferId| network.buffers[out.0].rows;
        match *op {
            Op::Linear { x, first_row, row_step, weight, bias, residual, activation, out } => {
                let (relu, k) = (relu(activation)?, network.weights[weight.0].rows);
                let (first, stride) = (first_row * k, row_step * k);
                Some(Shape { x, first, stride, rows: rows(out), weight, bias, residual, relu, out })
            }
            // A window of one pixel at every pixel.
            Op::Conv { x, window, weight, bias, residual, activation, out, .. }
                if (window.kernel, window.stride, window.padding) == (1, 1, 0) =>
            {
                let (relu, k) = (relu(activation)?, network.weights[weight.0].rows);
                let bias = Some(bias);
                Some(Shape { x, first: 0, stride: k, rows: rows(out), weight, bias, residual, relu, out })
            }
            _ => None,
        }
    }

    /// `CUBLASLT_EPILOGUE_…`: DEFAULT, RELU, BIAS, RELU_BIAS.
    fn epilogue(&self) -> u32 {
        match (self.relu, self.bias.is_some()) {
            (false, false) => 1,
            (true, false) => 2,
            (false, true) => 4,
            (true, true) => 6,
        }
    }
}

/// The library's version, and how many of the network's products it computes, as `13.0.2 (60 of 73)`.
///
/// # Errors
/// There is no library, or it can't be used.
pub(super) fn describe(context: &Context, network: &Network) -> Result<String> {
    let products = network.ops.iter().filter(|op| op.is_product());
    let computed = network.ops.iter().filter(|op| Shape::of(network, op).is_some());
    let version = &functions(context)?.version;
    Ok(format!("{version} ({} of {})", computed.count(), products.count()))
}

/// The functions, of a library that can run on this driver.
fn functions(context: &Context) -> Result<&'static Api> {
    // A driver that can't say its version may be of any.
    api(context.driver_version().unwrap_or(i32::MAX))
}

/// Something of the library that is given back in the end.
struct Owned {
    handle: Opaque,
    api: &'static Api,
    destroy: unsafe fn(&Api, Opaque) -> Result<(), CublasError>,
}

impl Owned {
    fn new(
        api: &'static Api,
        create: impl FnOnce(*mut Opaque) -> Result<(), CublasError>,
        destroy: unsafe fn(&Api, Opaque) -> Result<(), CublasError>,
    ) -> Result<Owned, CublasError> {
        let mut handle = null_mut();
        create(&mut handle)?;
        Ok(Owned { handle, api, destroy })
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: made once, by the function that belongs to this one, and destroyed nowhere else.
        let _ = unsafe { (self.destroy)(self.api, self.handle) };
    }
}

/// The library, ready for a context.
pub(super) struct Cublaslt {
    api: &'static Api,
    handle: Owned,
    precision: Precision,
    _context: Rc<Context>,
}

impl Cublaslt {
    /// # Errors
    /// There is no library, or it refuses the device.
    pub(super) fn new(context: &Rc<Context>, precision: Precision) -> Result<Rc<Cublaslt>> {
        let api = functions(context)?;
        // SAFETY: the pointer outlives the call; the context is current in this thread.
        let handle = Owned::new(api, |to| unsafe { api.create(to) }, Api::destroy)
            .with_context(|| format!("cuBLASLt {}", api.version))?;
        Ok(Rc::new(Cublaslt { api, handle, precision, _context: context.clone() }))
    }

    /// `cudaDataType` of everything that lies in memory.
    fn kind(&self) -> u32 {
        match self.precision {
            Precision::Fp32 => KIND_32F,
            Precision::Fp16 => KIND_16F,
            Precision::Bf16 => KIND_16BF,
        }
    }

    /// A column-major matrix.
    fn layout(&self, rows: usize, columns: usize, stride: usize) -> Result<Owned, CublasError> {
        let (api, kind) = (self.api, self.kind());
        // SAFETY: the pointer outlives the call.
        let create = |to| unsafe { api.layout_create(to, kind, rows as u64, columns as u64, stride as i64) };
        Owned::new(api, create, Api::layout_destroy)
    }
}

/// What products of a lane are made with.
pub(super) struct Products<'a> {
    pub(super) library: &'a Rc<Cublaslt>,
    /// [`WORKSPACE_BYTES`] that no other lane uses.
    pub(super) workspace: &'a DeviceMemory,
    pub(super) weights: &'a [u64],
    pub(super) buffers: &'a [u64],
}

impl Products<'_> {
    /// What an operation becomes; none where that is the embedded kernels' work.
    ///
    /// # Errors
    /// The library has no algorithm for the shape.
    pub(super) fn product(&self, network: &Network, op: &Op, batch: usize) -> Result<Option<Product>> {
        let Some(shape) = Shape::of(network, op) else { return Ok(None) };
        let weight = &network.weights[shape.weight.0];
        let (k, n) = (weight.rows, weight.columns);
        let m = batch.checked_mul(shape.rows).context("more rows than can be counted")?;
        let library = self.library;
        let bytes = |elements: usize| (elements * library.precision.bytes()) as u64;
        // Row-major out = x · weight is column-major out' = weight' · x': the same memory, no transposes.
        let (a, b) = (self.weights[shape.weight.0], self.buffers[shape.x.0] + bytes(shape.first));
        let d = self.buffers[shape.out.0];
        let c = shape.residual.map_or(d, |residual| self.buffers[residual.0]);
        let description = self.description(&shape)?;
        let layouts =
            [library.layout(n, k, n)?, library.layout(k, m, shape.stride)?, library.layout(n, m, n)?];
        let choice = self
            .choose(&description, &layouts, [a, b, c, d])
            .with_context(|| format!("cuBLASLt {} for a product of {m} x {n} x {k}", library.api.version))?;
        Ok(Some(Product {
            description,
            layouts,
            addresses: [a, b, c, d],
            beta: if shape.residual.is_some() { 1.0 } else { 0.0 },
            choice,
            workspace: self.workspace.address(),
            library: library.clone(),
        }))
    }

    /// fp32 sums without tf32, and the epilogue.
    fn description(&self, shape: &Shape) -> Result<Owned> {
        let api = self.library.api;
        // SAFETY: the pointer outlives the call.
        let create = |to| unsafe { api.product_create(to, COMPUTE_32F, KIND_32F) };
        let description = Owned::new(api, create, Api::product_destroy)?;
        let (epilogue, handle) = (shape.epilogue(), description.handle);
        let as_bytes = std::ptr::from_ref(&epilogue).cast::<c_void>();
        // SAFETY: the description lives; the value is read before the call returns.
        unsafe { api.product_set(handle, PRODUCT_EPILOGUE, as_bytes, size_of::<u32>()) }?;
        if let Some(bias) = shape.bias {
            let bias = self.weights[bias.0];
            let as_bytes = std::ptr::from_ref(&bias).cast::<c_void>();
            // SAFETY: as above; a pointer of the device has 64 bits.
            unsafe { api.product_set(handle, PRODUCT_BIAS_POINTER, as_bytes, size_of::<u64>()) }?;
        }
        Ok(description)
    }

    /// The first algorithm of the heuristic, for matrices at these addresses.
    fn choose(&self, description: &Owned, layouts: &[Owned; 3], addresses: [u64; 4]) -> Result<Choice> {
        let api = self.library.api;
        // SAFETY: the pointer outlives the call.
        let create = |to| unsafe { api.preference_create(to) };
        let preference = Owned::new(api, create, Api::preference_destroy)?;
        let set = |attribute: u32, value: *const c_void, bytes: usize| {
            // SAFETY: the preference lives; the value has so many bytes and is read before the call returns.
            unsafe { api.preference_set(preference.handle, attribute, value, bytes) }
        };
        let (workspace, reductions) = (WORKSPACE_BYTES as u64, REDUCTION_COMPUTE_TYPE);
        set(PREFERENCE_WORKSPACE_BYTES, std::ptr::from_ref(&workspace).cast(), size_of::<u64>())?;
        set(PREFERENCE_REDUCTIONS, std::ptr::from_ref(&reductions).cast(), size_of::<u32>())?;
        for (i, address) in addresses.into_iter().enumerate() {
            let alignment = alignment(address);
            let value = std::ptr::from_ref(&alignment).cast();
            set(PREFERENCE_ALIGNMENT + i as u32, value, size_of::<u32>())?;
        }
        let (mut choice, mut found) = (Choice::default(), 0);
        let [a, b, d] = layouts.each_ref().map(|layout| layout.handle);
        let (handle, description) = (self.library.handle.handle, description.handle);
        // SAFETY: all of these live; there is room for one choice, and one is asked for. C is laid out as D.
        unsafe {
            api.choose(handle, description, a, b, d, d, preference.handle, 1, &mut choice, &mut found)
        }?;
        ensure!(found == 1 && choice.status == 0, "it has no algorithm for it");
        ensure!(choice.workspace_bytes <= WORKSPACE_BYTES, "it wants {} bytes", choice.workspace_bytes);
        Ok(choice)
    }
}

/// The largest power of two that divides an address, up to the most that matters.
fn alignment(address: u64) -> u32 {
    (1 << (address | MOST_ALIGNMENT).trailing_zeros()) as u32
}

/// One product, ready to be issued any number of times. Its memory is the lane's that made it.
pub(super) struct Product {
    description: Owned,
    /// Of the weight, x, and both the residual and the result.
    layouts: [Owned; 3],
    /// Of the weight, x, the residual and the result.
    addresses: [u64; 4],
    beta: f32,
    choice: Choice,
    workspace: u64,
    // Last: its handle outlives what belongs to it.
    library: Rc<Cublaslt>,
}

impl Product {
    /// Issues it; returns before it is done. A stream that captures notes it.
    ///
    /// # Safety
    /// The memory at the addresses that it was made for outlives the work.
    pub(super) unsafe fn issue(&self, stream: &Stream) -> Result<(), CublasError> {
        let alpha = 1.0f32;
        let [a, b, d] = self.layouts.each_ref().map(|layout| layout.handle);
        let [weight, x, residual, out] = self.addresses.map(|address| address as *mut c_void);
        // SAFETY: everything of the library lives; the factors are read before the call returns; for the
        // memory the caller vouches.
        unsafe {
            self.library.api.multiply(
                self.library.handle.handle,
                self.description.handle,
                std::ptr::from_ref(&alpha).cast(),
                weight,
                a,
                x,
                b,
                std::ptr::from_ref(&self.beta).cast(),
                residual,
                d,
                out,
                d,
                self.choice.algorithm.as_ptr(),
                self.workspace as *mut c_void,
                WORKSPACE_BYTES,
                stream.handle().cast(),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::model::{Bert, Llama, bert, gemm, llama_decode, mlp, resnet50, stream};

    fn shapes(network: &Network) -> (Vec<Shape>, usize) {
        let products = network.ops.iter().filter(|op| op.is_product()).count();
        (network.ops.iter().filter_map(|op| Shape::of(network, op)).collect(), products)
    }

    #[test]
    fn products_with_its_epilogues_and_no_others() {
        let counts = |network: &Network| (shapes(network).0.len(), shapes(network).1);
        // Of a layer's four the one with GELU is not, nor is the pooler with its tanh.
        assert_eq!(counts(&bert(Bert::BASE, 128)), (36, 49));
        // SwiGLU.
        let layers = 16;
        assert_eq!(counts(&llama_decode(Llama::ONE, 64)), (3 * layers + 1, 4 * layers + 1));
        // Two of the three of each of 16 blocks, the first shortcut, and the classifier.
        assert_eq!(counts(&resnet50(224)), (34, 54));
        assert_eq!(counts(&mlp()), (3, 3));
        assert_eq!(counts(&gemm(8, 16, 24)), (1, 1));
        assert_eq!(counts(&stream(1)), (0, 0));
    }

    #[test]
    fn shapes_are_those_of_the_operations() {
        let (all, _) = shapes(&mlp());
        assert_eq!(all.iter().map(Shape::epilogue).collect::<Vec<_>>(), [6, 6, 4]);
        assert!(all.iter().all(|shape| shape.residual.is_none() && shape.first == 0 && shape.rows == 1));
        let (all, _) = shapes(&gemm(8, 16, 24));
        assert_eq!((all[0].epilogue(), all[0].rows, all[0].stride), (1, 8, 24));
        // One token of each sample's nine, the last: its row is the ninth.
        let mut network = gemm(9, 16, 24);
        network.buffers[1].rows = 1;
        let Op::Linear { first_row, row_step, .. } = &mut network.ops[0] else { panic!() };
        (*first_row, *row_step) = (8, 9);
        let (all, _) = shapes(&network);
        assert_eq!((all[0].first, all[0].stride, all[0].rows), (8 * 24, 9 * 24, 1));
        // The last convolution of a block adds the shortcut before its ReLU.
        let (all, _) = shapes(&resnet50(224));
        let added = all.iter().filter(|shape| shape.residual.is_some());
        assert_eq!(added.map(Shape::epilogue).collect::<Vec<_>>(), [6; 16]);
        assert!(all.iter().any(|shape| (shape.rows, shape.stride) == (56 * 56, 256)));
    }

    #[test]
    fn alignments_are_of_the_address() {
        assert_eq!([0x7000, 0x7010, 0x7002, 0x7100, 0].map(alignment), [256, 16, 2, 256, 256]);
    }
}
