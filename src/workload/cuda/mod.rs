//! The CUDA device: networks as CUDA graphs of the embedded kernels, with nothing but the driver.
//!
//! The only place of cudarc and of libcuda. Whatever the driver says becomes an error, never a
//! panic. It reads the GPU and runs on it; no setting of it is ever changed.

mod clock;
mod corrupt;
mod cublaslt;
mod device;
mod driver;
mod kernels;
mod lane;
mod network;
mod operations;
mod probe;
mod steps;
mod texts;
mod thin;
mod tiles;
mod tune;
mod verify;
mod verify_further;
mod verify_networks;
mod whole;

pub use device::Device;
pub use driver::CudaError;
pub use probe::probe;
pub use tune::{time_operations, time_tiles};
pub use verify::{exercise, exercise_workloads, verify};

use self::clock::ClockProbe;
use self::corrupt::Target;
use self::cublaslt::Cublaslt;
use self::device::{Context, DeviceMemory, Stream};
use self::kernels::Kernels;
use self::lane::Lane;
use self::network::{Builder, Gpu, Layout};
use super::model::Network;
use super::{Gemm, Need, Settings, Stages, Visit, Workload};
use anyhow::{Context as _, Result, ensure};
use std::rc::Rc;

/// A network on a device.
pub struct Cuda {
    // Lanes first: what they have in flight uses the kernels and the weights.
    lanes: Vec<Lane>,
    weights: Option<DeviceMemory>,
    clock: Option<ClockProbe>,
    kernels: Kernels,
    name: String,
    /// What messages call the device.
    place: &'static str,
    network: Network,
    settings: Settings,
    gpu: Gpu,
    /// Where it computes products.
    cublaslt: Option<Rc<Cublaslt>>,
    context: Rc<Context>,
}

/// Who would compute the products of a network if not the kernels, for the row.
///
/// # Errors
/// The library that is asked for is not there, or can't be used.
pub fn gemm_version(device: &Device, settings: &Settings, network: &Network) -> Result<Option<String>> {
    match settings.gemm {
        Gemm::Builtin => Ok(None),
        Gemm::Cublaslt => cublaslt::describe(&device.context, network).map(Some),
    }
}

impl Cuda {
    /// `name` is what messages call the network. Nothing is allocated before
    /// [`prepare`](Workload::prepare).
    ///
    /// # Errors
    /// The device is older than the kernels, or the network has no kernels for the precision.
    pub fn new(device: Device, name: String, network: Network, settings: Settings) -> Result<Cuda> {
        operations::refuse_precision(&network, settings.precision)?;
        let place = if device.identity().name.contains(" MIG ") { "the instance" } else { "the GPU" };
        let context = device.context;
        let (major, minor) = context.capability()?;
        let (oldest_major, oldest_minor) = texts::CAPABILITY;
        ensure!(
            (major, minor) >= texts::CAPABILITY,
            "the device has compute capability {major}.{minor}: the embedded kernels need \
             {oldest_major}.{oldest_minor} (A100) or newer"
        );
        let cublaslt = match settings.gemm {
            Gemm::Builtin => None,
            Gemm::Cublaslt => Some(Cublaslt::new(&context, settings.precision)?),
        };
        Ok(Cuda {
            lanes: Vec::new(),
            weights: None,
            clock: None,
            kernels: Kernels::new(&context, settings.precision, context.kernel_set()?),
            name,
            place,
            network,
            settings,
            gpu: context.gpu()?,
            cublaslt,
            context,
        })
    }

    /// Allocates and generates the weights.
    fn create_weights(&mut self) -> Result<DeviceMemory> {
        let layout = Layout::weights(&self.network, self.settings.precision);
        let memory = DeviceMemory::new(&self.context, layout.bytes as usize)?;
        if self.network.weights.is_empty() {
            return Ok(memory);
        }
        let addresses = layout.addresses(memory.address());
        let stream = Stream::new(&self.context)?;
        let seed = self.settings.seed;
        for launch in self.builder(&addresses).fill_weights(seed)? {
            // SAFETY: the launches write exactly the weights, which lie within `memory`.
            unsafe { launch.issue(&self.context, &stream) }?;
        }
        stream.synchronize()?;
        network::write_angles(&self.context, &self.network, self.settings.precision, &addresses)?;
        Ok(memory)
    }

    fn builder<'a>(&'a mut self, weights: &'a [u64]) -> Builder<'a> {
        Builder { network: &self.network, gpu: self.gpu, kernels: &mut self.kernels, weights, tile: None }
    }

    fn lane(&mut self, lane: usize) -> Result<&mut Lane> {
        self.lanes.get_mut(lane).with_context(|| format!("lane {lane} was not prepared"))
    }
}

impl Workload for Cuda {
    fn prepare(&mut self, batch_sizes: &[usize], lanes: usize) -> Result<()> {
        let largest = batch_sizes.iter().copied().max().unwrap_or(0);
        ensure!(lanes > 0 && !batch_sizes.contains(&0) && largest > 0, "nothing to prepare");
        self.lanes.clear();

        let precision = self.settings.precision;
        let workspace = if self.cublaslt.is_some() { cublaslt::WORKSPACE_BYTES as u64 } else { 0 };
        let need = Need {
            weights: match self.weights {
                Some(_) => 0,
                None => Layout::weights(&self.network, precision).bytes,
            },
            lane: Layout::buffers(&self.network, largest, precision).bytes.saturating_add(workspace),
            lanes,
            batch: largest,
        };
        need.refuse_unless_it_fits(&self.name, Some(self.context.free_bytes()?), self.place)?;

        let first_time = self.weights.is_none();
        if first_time {
            self.weights = Some(self.create_weights()?);
        }
        let start = self.weights.as_ref().map_or(0, DeviceMemory::address);
        let weights = Layout::weights(&self.network, precision).addresses(start);
        for _ in 0..lanes {
            let (context, settings, cublaslt) =
                (self.context.clone(), self.settings.clone(), self.cublaslt.clone());
            let mut builder = self.builder(&weights);
            let lane = Lane::new(&context, &mut builder, &settings, cublaslt.as_ref(), batch_sizes)?;
            self.lanes.push(lane);
        }
        if let Some(corruption) = self.settings.corruption.filter(|_| first_time) {
            let (context, network) = (&self.context, &self.network);
            let (weights, buffers) = (&weights[..], self.lanes[0].addresses());
            Target { context, network, precision, weights, buffers }.plant(corruption)?;
        }
        Ok(())
    }

    #[inline]
    fn issue(&mut self, lane: usize, batch: usize) -> Result<()> {
        self.lane(lane)?.issue(batch)
    }

    #[inline]
    fn wait(&mut self, lane: usize) -> Result<()> {
        self.lane(lane)?.wait()
    }

    fn is_done(&mut self, lane: usize) -> Result<bool> {
        self.lane(lane)?.is_done()
    }

    fn sm_clock_mhz(&mut self) -> Result<Option<f64>> {
        let probe = match self.clock.take() {
            Some(probe) => probe,
            None => ClockProbe::new(&self.context, &mut self.kernels)?,
        };
        self.clock.insert(probe).read()
    }

    fn staged(&mut self, lane: usize, batch: usize) -> Result<Option<Stages>> {
        self.lane(lane)?.staged(batch).map(Some)
    }

    fn trace(&mut self, batch: usize, samples: &[usize], visit: &mut Visit) -> Result<()> {
        let lane = self.lanes.first().context("lane 0 was not prepared")?;
        lane.trace(&self.network, batch, samples, visit)
    }

    fn checked_output(&mut self, batch: usize) -> Result<Option<Vec<f32>>> {
        self.lane(0)?.checked_output(batch)
    }
}
