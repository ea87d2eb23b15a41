//! What a batch issues, one step an operation: a kernel, or a product of cuBLASLt's.

use super::cublaslt::{Product, Products};
use super::device::{Context, Stream};
use super::kernels::Launch;
use super::network::Builder;
use anyhow::{Context as _, Result};

/// One step, ready to be issued any number of times.
#[expect(clippy::large_enum_variant, reason = "as a rule all of them are the large one")]
pub(super) enum Step {
    /// Of migbench's own.
    Kernel(Launch),
    /// By the library.
    Product(Product),
}

impl Step {
    /// Issues it; returns before it is done.
    ///
    /// # Safety
    /// As [`Launch::issue`] and [`Product::issue`].
    pub(super) unsafe fn issue(&self, context: &Context, stream: &Stream) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                Step::Kernel(launch) => Ok(launch.issue(context, stream)?),
                Step::Product(product) => Ok(product.issue(stream)?),
            }
        }
    }

    /// Issues it right after another step, whose end it may overlap where both are kernels: what the library
    /// leaves last on the stream is its own affair.
    ///
    /// # Safety
    /// As [`Launch::issue_next`] and [`Product::issue`].
    pub(super) unsafe fn issue_after(&self, before: &Step, context: &Context, stream: &Stream) -> Result<()> {
        match (before, self) {
            // SAFETY: the caller's promise.
            (Step::Kernel(_), Step::Kernel(launch)) => Ok(unsafe { launch.issue_next(context, stream) }?),
            // SAFETY: the caller's promise.
            _ => unsafe { self.issue(context, stream) },
        }
    }
}

impl Builder<'_> {
    /// As [`batch`](Builder::batch), with cuBLASLt's products where there are any.
    ///
    /// # Errors
    /// As [`batch`](Builder::batch), and what the library refuses.
    pub(super) fn steps(
        &mut self,
        batch: usize,
        buffers: &[u64],
        products: Option<&Products>,
    ) -> Result<Vec<Step>> {
        let network = self.network;
        let Some(products) = products.filter(|_| !network.ops.is_empty()) else {
            return Ok(self.batch(batch, buffers)?.into_iter().map(Step::Kernel).collect());
        };
        let step = |op| match products.product(network, op, batch).with_context(|| format!("{op:?}"))? {
            Some(product) => Ok(Step::Product(product)),
            None => self.operation(op, batch, buffers).with_context(|| format!("{op:?}")).map(Step::Kernel),
        };
        network.ops.iter().map(step).collect()
    }
}
