//! The embedded kernels in a context: loading their text, and launching them.

use super::device::{Context, Stream};
use super::driver::{CudaError, Newer};
use super::texts::Set;
use crate::workload::Precision;
use anyhow::{Context as _, Result, bail};
use cudarc::driver::sys::{
    CUfunction, CUfunction_attribute, CUjit_option, CUlaunchAttribute, CUlaunchAttributeID,
    CUlaunchAttributeValue, CUlaunchConfig, CUmodule,
};
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::ptr::null_mut;
use std::rc::Rc;

/// The kernels of one context for one number format, each text loaded when it is first asked for: the
/// first load on a machine compiles, and the driver keeps the result.
pub(super) struct Kernels {
    context: Rc<Context>,
    precision: Precision,
    set: Set,
    modules: HashMap<String, (CUmodule, bool)>,
}

impl Kernels {
    pub(super) fn new(context: &Rc<Context>, precision: Precision, set: Set) -> Kernels {
        Kernels { context: context.clone(), precision, set, modules: HashMap::new() }
    }

    /// Which texts these are.
    pub(super) fn set(&self) -> Set {
        self.set
    }

    /// The number format.
    pub(super) fn precision(&self) -> Precision {
        self.precision
    }

    /// The number format's part of a name.
    fn suffix(&self) -> &'static str {
        match self.precision {
            Precision::Fp32 => "f32",
            Precision::Fp16 => "f16",
            Precision::Bf16 => "bf16",
        }
    }

    /// A kernel of this number format, by the name that it has in its source; `file` is the source's,
    /// with the tile where it lists some.
    pub(super) fn number_function(&mut self, file: &str, name: &str) -> Result<Function> {
        self.function(file, &format!("{name}_{}", self.suffix()))
    }

    /// A kernel by its full name.
    pub(super) fn function(&mut self, file: &str, name: &str) -> Result<Function> {
        let (module, hopper) = match self.modules.get(file) {
            Some(&known) => known,
            None => {
                let with_format = format!("{file}_{}", self.suffix());
                let found = self.set.text(&with_format).or_else(|| self.set.text(file));
                let Some((text, hopper)) = found else { bail!("no kernels named {file} are embedded") };
                let module =
                    load(&self.context, &text).with_context(|| format!("loading the {file} kernels"))?;
                self.modules.insert(file.to_owned(), (module, hopper));
                (module, hopper)
            }
        };
        let text = CString::new(name)?;
        let mut handle = null_mut();
        // SAFETY: the module is loaded; the others outlive the call.
        unsafe { self.context.api.module_function(&mut handle, module, text.as_ptr()) }
            .with_context(|| format!("kernel {name}"))?;
        let may_overlap = hopper && self.context.may_overlap();
        Ok(Function { handle, may_overlap, cooperative: false })
    }

    /// Lets a kernel use this much dynamic shared memory: above 48 KiB it must be asked for.
    pub(super) fn allow_shared(&self, function: Function, bytes: u32) -> Result<(), CudaError> {
        let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function belongs to a module loaded here.
        unsafe { self.context.api.function_set(function.handle, attribute, bytes as i32) }
    }
}

impl Drop for Kernels {
    fn drop(&mut self) {
        for (module, _) in self.modules.values() {
            // SAFETY: loaded once, unloaded once; launches hold the context's work only until their
            // lane has been waited for.
            let _ = unsafe { self.context.api.module_unload(*module) };
        }
    }
}

/// Loads a text, and on failure says what the driver's compiler said.
fn load(context: &Context, text: &str) -> Result<CUmodule, CudaError> {
    let mut log = vec![0u8; 8192];
    let mut names = [CUjit_option::CU_JIT_ERROR_LOG_BUFFER, CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    // The driver takes the size as a pointer's value.
    let mut values = [log.as_mut_ptr().cast::<c_void>(), log.len() as *mut c_void];
    let mut module = null_mut();
    // SAFETY: the text is NUL-terminated; two options with two values; all outlive the call.
    unsafe {
        context.api.module_load(
            &mut module,
            text.as_ptr().cast(),
            names.len() as u32,
            names.as_mut_ptr(),
            values.as_mut_ptr(),
        )
    }
    .map_err(|error| {
        let end = log.iter().position(|&b| b == 0).unwrap_or(log.len());
        CudaError { log: String::from_utf8_lossy(&log[..end]).trim().to_owned(), ..error }
    })?;
    Ok(module)
}

/// A kernel that can be launched as long as its [`Kernels`] live.
#[derive(Clone, Copy, Debug)]
pub(super) struct Function {
    handle: CUfunction,
    /// It waits by itself for the kernels before it (`kernels/overlap.cuh`), and the driver can let it
    /// start before they end.
    may_overlap: bool,
    /// Its blocks wait for one another: they are on the device all at once, or not at all.
    cooperative: bool,
}

impl Function {
    /// The same, whose blocks wait for one another.
    pub(super) fn cooperative(self) -> Function {
        Function { cooperative: true, ..self }
    }
}

/// A matrix as the copy engine knows it: where it lies, its shape, and the box that is copied at a
/// time. Opaque; 128 bytes that begin at a multiple of 64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub(super) struct TensorMap([u64; 16]);

/// What [`TensorMap::new`] is told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matrix {
    pub(super) address: u64,
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// Elements from row to row.
    pub(super) stride: usize,
    pub(super) box_rows: usize,
    /// 32 or 64: rows of 64 or 128 bytes, swizzled over as many.
    pub(super) box_columns: usize,
    /// For a kernel that takes a matrix's number too: the first of so many.
    pub(super) stack: Option<Stack>,
}

/// Matrices of one shape.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stack {
    pub(super) count: usize,
    /// Elements from one to the next.
    pub(super) apart: usize,
    /// Matrices in a box.
    pub(super) box_count: usize,
}

impl Matrix {
    /// Of each sample of a batch, one after another: what lies beyond a sample's rows is not the next one's.
    pub(super) fn of_samples(
        address: u64,
        batch: usize,
        [rows, columns]: [usize; 2],
        [box_rows, box_columns]: [usize; 2],
    ) -> Matrix {
        let stack = Some(Stack { count: batch, apart: rows * columns, box_count: 1 });
        Matrix { address, rows, columns, stride: columns, box_rows, box_columns, stack }
    }
}

impl TensorMap {
    /// # Errors
    /// The driver refuses the shape.
    pub(super) fn new(newer: &Newer, precision: Precision, matrix: Matrix) -> Result<TensorMap> {
        let mut map = TensorMap::default();
        // CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 and _FLOAT16.
        let format = if precision == Precision::Bf16 { 9 } else { 6 };
        // CU_TENSOR_MAP_SWIZZLE_64B and _128B.
        let swizzle = match matrix.box_columns {
            32 => 2,
            64 => 3,
            other => bail!("a box of {other} columns can't be copied"),
        };
        let stack = matrix.stack.unwrap_or(Stack { count: 1, apart: 0, box_count: 1 });
        let sizes = [matrix.columns as u64, matrix.rows as u64, stack.count as u64];
        let strides = [matrix.stride, stack.apart].map(|elements| (elements * precision.bytes()) as u64);
        let boxes = [matrix.box_columns as u32, matrix.box_rows as u32, stack.box_count as u32];
        // SAFETY: two or three dimensions with a size, a box size and an element stride each, and a
        // stride for all but the first; the map has the size and alignment of a CUtensorMap. The
        // address is only written down.
        unsafe {
            newer.encode_tiled(
                std::ptr::from_mut(&mut map).cast(),
                format,
                2 + u32::from(matrix.stack.is_some()),
                matrix.address as *mut c_void,
                sizes.as_ptr(),
                strides.as_ptr(),
                boxes.as_ptr(),
                [1, 1, 1].as_ptr(),
                0, // CU_TENSOR_MAP_INTERLEAVE_NONE
                swizzle,
                2, // CU_TENSOR_MAP_L2_PROMOTION_L2_128B
                0, // CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE: zeros
            )
        }
        .with_context(|| format!("{matrix:?}"))?;
        Ok(map)
    }
}

/// Most arguments that a kernel has, and most matrices among them.
const MOST_ARGUMENTS: usize = 14;
const MOST_MATRICES: usize = 3;

/// The arguments of a launch: matrices, then the others in order; each of those lies in the low bytes
/// of its slot, as the little-endian machines that have such GPUs read it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Arguments {
    matrices: [TensorMap; MOST_MATRICES],
    matrix_count: usize,
    slots: [u64; MOST_ARGUMENTS],
    count: usize,
}

impl Arguments {
    /// A matrix for the copy engine; these come first.
    pub(super) fn matrix(mut self, map: TensorMap) -> Arguments {
        self.matrices[self.matrix_count] = map;
        self.matrix_count += 1;
        self
    }

    /// A device address or another 64-bit integer.
    pub(super) fn long(mut self, value: u64) -> Arguments {
        self.slots[self.count] = value;
        self.count += 1;
        self
    }

    pub(super) fn int(self, value: u32) -> Arguments {
        self.long(u64::from(value))
    }

    pub(super) fn float(self, value: f32) -> Arguments {
        self.int(value.to_bits())
    }
}

/// One launch of a kernel, ready to be issued any number of times.
#[derive(Clone, Copy, Debug)]
pub(super) struct Launch {
    pub(super) function: Function,
    pub(super) blocks: u32,
    pub(super) threads: u32,
    pub(super) shared_bytes: u32,
    /// Blocks of a cluster; `blocks` is a multiple of it.
    pub(super) cluster: u32,
    pub(super) arguments: Arguments,
}

impl Launch {
    /// Issues it; returns before it is done.
    ///
    /// # Safety
    /// The arguments are what the kernel expects, and the memory they point to outlives the work.
    pub(super) unsafe fn issue(&self, context: &Context, stream: &Stream) -> Result<(), CudaError> {
        // SAFETY: the caller's promise.
        unsafe { self.issue_as(context, stream, false) }
    }

    /// Issues it right after another kernel, with whose end its start may overlap: a kernel that can
    /// waits by itself where it must.
    ///
    /// # Safety
    /// As [`issue`](Launch::issue); and what the kernel reads before it waits (the weights, the rows of a
    /// cache that no batch writes) was written before the kernel in front of it started.
    pub(super) unsafe fn issue_next(&self, context: &Context, stream: &Stream) -> Result<(), CudaError> {
        // SAFETY: the caller's promise.
        unsafe { self.issue_as(context, stream, self.function.may_overlap) }
    }

    /// For how many of its clusters is there room on the device at once?
    pub(super) fn clusters_at_once(&self, context: &Context) -> Result<usize, CudaError> {
        let Some(newer) = context.newer else { return Ok(0) };
        let (mut attributes, mut clusters) = ([attribute(Id::CLUSTER, 1); 3], 0);
        let config = self.config(false, &mut attributes);
        // SAFETY: all three outlive the call.
        unsafe { newer.most_clusters(&mut clusters, self.function.handle, &config) }?;
        Ok(clusters.max(0) as usize)
    }

    /// On no stream yet; it points to the attributes. Nothing is allocated: a batch without a graph comes here.
    fn config(&self, overlap: bool, attributes: &mut [CUlaunchAttribute; 3]) -> CUlaunchConfig {
        let wanted = [(Id::OVERLAP, overlap), (Id::COOPERATIVE, self.function.cooperative)];
        attributes[0] = attribute(Id::CLUSTER, self.cluster);
        let mut count = 1;
        for (id, _) in wanted.into_iter().filter(|(_, wanted)| *wanted) {
            attributes[count] = attribute(id, 1);
            count += 1;
        }
        CUlaunchConfig {
            gridDimX: self.blocks,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: self.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: self.shared_bytes,
            hStream: null_mut(),
            attrs: attributes.as_mut_ptr(),
            numAttrs: count as u32,
        }
    }

    unsafe fn issue_as(&self, context: &Context, stream: &Stream, overlap: bool) -> Result<(), CudaError> {
        let mut pointers = [null_mut::<c_void>(); MOST_MATRICES + MOST_ARGUMENTS];
        let (matrices, others) = pointers.split_at_mut(self.arguments.matrix_count);
        for (pointer, map) in matrices.iter_mut().zip(&self.arguments.matrices) {
            *pointer = std::ptr::from_ref(map).cast_mut().cast();
        }
        for (pointer, slot) in others.iter_mut().zip(&self.arguments.slots) {
            *pointer = std::ptr::from_ref(slot).cast_mut().cast();
        }
        let special = overlap || self.cluster > 1 || self.function.cooperative;
        let Some(newer) = context.newer.filter(|_| special) else {
            // SAFETY: the driver reads as many pointers as the kernel has arguments, no more than there
            // are, and copies what they point to before it returns.
            return unsafe {
                context.api.launch_kernel(
                    self.function.handle,
                    self.blocks,
                    1,
                    1,
                    self.threads,
                    1,
                    1,
                    self.shared_bytes,
                    stream.handle(),
                    pointers.as_mut_ptr(),
                    null_mut(),
                )
            };
        };
        let mut attributes = [attribute(Id::CLUSTER, 1); 3];
        let config = CUlaunchConfig { hStream: stream.handle(), ..self.config(overlap, &mut attributes) };
        // SAFETY: as above; the attributes outlive the call.
        unsafe { newer.launch_kernel(&config, self.function.handle, pointers.as_mut_ptr(), null_mut()) }
    }
}

/// The attributes of a launch that are used here.
struct Id;

impl Id {
    const CLUSTER: CUlaunchAttributeID = CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
    const COOPERATIVE: CUlaunchAttributeID = CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
    const OVERLAP: CUlaunchAttributeID =
        CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
}

/// An attribute whose value is one number, or three of which the last two are 1.
fn attribute(id: CUlaunchAttributeID, value: u32) -> CUlaunchAttribute {
    // SAFETY: plain numbers, for which zeros are a value.
    let mut attribute: CUlaunchAttribute = unsafe { std::mem::zeroed() };
    attribute.id = id;
    // SAFETY: as above.
    let mut bytes: CUlaunchAttributeValue = unsafe { std::mem::zeroed() };
    match id {
        Id::CLUSTER => {
            // SAFETY: the member of the union that this attribute has.
            let dimension = unsafe { &mut bytes.clusterDim };
            (dimension.x, dimension.y, dimension.z) = (value, 1, 1);
        }
        Id::COOPERATIVE => bytes.cooperative = value as i32,
        _ => bytes.programmaticStreamSerializationAllowed = value as i32,
    }
    attribute.value = bytes;
    attribute
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "needs an NVIDIA GPU"]
    fn a_broken_text_is_an_error_with_the_compilers_words() {
        let device = super::super::Device::open(crate::workload::Sync::Spin).unwrap();
        let broken = concat!(".version 7.0\n.target sm_80\n.address_size 64\nrubbish", "\0");
        let error = load(&device.context, broken).unwrap_err();
        assert!(error.code == 218 && error.log.contains("rubbish"), "{error}");
    }
}
