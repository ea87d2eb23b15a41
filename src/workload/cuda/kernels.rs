//! The embedded kernels: their text, its hash, and loading them into a context.

use super::device::{Context, Stream};
use super::driver::CudaError;
use crate::workload::Precision;
use anyhow::{Context as _, Result};
use cudarc::driver::sys::{CUfunction, CUfunction_attribute, CUjit_option, CUmodule};
use sha2::{Digest, Sha256};
use std::ffi::{CString, c_void};
use std::ptr::null_mut;
use std::rc::Rc;

/// One source file of `kernels/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Attention,
    Embed,
    Fill,
    Linear,
    Norm,
    Null,
}

/// The texts of a family for one number format, NUL-terminated for the driver.
macro_rules! text {
    ($file:literal) => {
        concat!(include_str!(concat!("../../../kernels/ptx/", $file, ".ptx")), "\0")
    };
}

/// In the order of [`Family`]: for fp16, and for bf16.
const TEXTS: [[&str; 2]; 6] = [
    [text!("attention_f16"), text!("attention_bf16")],
    [text!("embed_f16"), text!("embed_bf16")],
    [text!("fill_f16"), text!("fill_bf16")],
    [text!("linear_f16"), text!("linear_bf16")],
    [text!("norm_f16"), text!("norm_bf16")],
    [text!("null"), text!("null")],
];

/// The oldest compute capability that the texts are for.
pub(super) const CAPABILITY: (i32, i32) = (8, 0);

/// The set of kernels and the first 48 bits of the SHA-256 of their texts: `sm_80:1a2b3c4d5e6f`.
pub(super) fn name() -> String {
    let mut hash = Sha256::new();
    for text in TEXTS.as_flattened() {
        hash.update(text);
    }
    let mut name = format!("sm_{}{}:", CAPABILITY.0, CAPABILITY.1);
    for byte in &hash.finalize()[..6] {
        name.push_str(&format!("{byte:02x}"));
    }
    name
}

/// The kernels of one context for fp16 or bf16, each family loaded when it is first asked for: the
/// first load on a machine compiles, and the driver keeps the result.
pub(super) struct Kernels {
    context: Rc<Context>,
    precision: Precision,
    modules: [Option<CUmodule>; TEXTS.len()],
}

impl Kernels {
    pub(super) fn new(context: &Rc<Context>, precision: Precision) -> Kernels {
        Kernels { context: context.clone(), precision, modules: [None; TEXTS.len()] }
    }

    /// A kernel of this precision, by the name that it has in its source.
    pub(super) fn number_function(&mut self, family: Family, name: &str) -> Result<Function> {
        let suffix = if self.precision == Precision::Bf16 { "bf16" } else { "f16" };
        self.function(family, &format!("{name}_{suffix}"))
    }

    /// A kernel by its full name.
    pub(super) fn function(&mut self, family: Family, name: &str) -> Result<Function> {
        let module = match self.modules[family as usize] {
            Some(module) => module,
            None => {
                let module = load(
                    &self.context,
                    TEXTS[family as usize][usize::from(self.precision == Precision::Bf16)],
                )
                .with_context(|| format!("loading the {family:?} kernels"))?;
                *self.modules[family as usize].insert(module)
            }
        };
        let text = CString::new(name)?;
        let mut handle = null_mut();
        // SAFETY: the module is loaded; the others outlive the call.
        unsafe { self.context.api.module_function(&mut handle, module, text.as_ptr()) }
            .with_context(|| format!("kernel {name}"))?;
        Ok(Function { handle })
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
        for module in self.modules.iter().flatten() {
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
}

/// Most arguments that a kernel has.
const MOST_ARGUMENTS: usize = 9;

/// The arguments of a launch, in order; each lies in the low bytes of its slot, as the little-endian
/// machines that have such GPUs read it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Arguments {
    slots: [u64; MOST_ARGUMENTS],
    count: usize,
}

impl Arguments {
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
    pub(super) arguments: Arguments,
}

impl Launch {
    /// Issues it; returns before it is done.
    ///
    /// # Safety
    /// The arguments are what the kernel expects, and the memory they point to outlives the work.
    pub(super) unsafe fn issue(&self, context: &Context, stream: &Stream) -> Result<(), CudaError> {
        let mut pointers = [null_mut::<c_void>(); MOST_ARGUMENTS];
        for (pointer, slot) in pointers.iter_mut().zip(&self.arguments.slots) {
            *pointer = std::ptr::from_ref(slot).cast_mut().cast();
        }
        // SAFETY: the driver reads as many pointers as the kernel has arguments, at most
        // MOST_ARGUMENTS, and copies what they point to before it returns.
        unsafe {
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
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tiles::TILES;
    use super::*;

    #[test]
    fn texts_are_for_every_driver_and_gpu_that_is_supported() {
        for text in TEXTS.as_flattened() {
            let mut lines = text.lines();
            assert_eq!(lines.next(), Some(".version 7.0"));
            assert_eq!(lines.next(), Some(".target sm_80"));
            assert!(text.ends_with("}\n\0") || text.ends_with("\n\0"), "NUL-terminated");
            assert_eq!(text.matches('\0').count(), 1);
        }
    }

    #[test]
    fn every_kernel_is_there() {
        let expect = |family: Family, format: usize, name: &str| {
            let text = TEXTS[family as usize][format];
            assert!(text.contains(&format!(".entry {name}(")), "{family:?}: {name}");
        };
        for (format, suffix) in ["f16", "bf16"].into_iter().enumerate() {
            expect(Family::Null, format, "null");
            expect(Family::Fill, format, "fill_tokens");
            expect(Family::Fill, format, &format!("fill_{suffix}"));
            expect(Family::Attention, format, &format!("attention_{suffix}"));
            expect(Family::Embed, format, &format!("embed_{suffix}"));
            expect(Family::Norm, format, &format!("add_norm_{suffix}"));
            for tile in &TILES {
                expect(Family::Linear, format, &format!("linear_{}_{suffix}", tile.name));
            }
        }
    }

    #[test]
    fn the_name_is_the_target_and_a_hash() {
        let name = name();
        let (set, hash) = name.split_once(':').unwrap();
        assert_eq!(set, "sm_80");
        assert!(hash.len() == 12 && hash.bytes().all(|b| b.is_ascii_hexdigit()), "{name}");
    }
    #[test]
    #[ignore = "needs an NVIDIA GPU"]
    fn a_broken_text_is_an_error_with_the_compilers_words() {
        let device = super::super::Device::open(crate::workload::Sync::Spin).unwrap();
        let broken = concat!(".version 7.0\n.target sm_80\n.address_size 64\nrubbish", "\0");
        let error = load(&device.context, broken).unwrap_err();
        assert!(error.code == 218 && error.log.contains("rubbish"), "{error}");
    }
}
