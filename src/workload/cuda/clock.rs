//! The SM clock as seen from inside: what NVML does not say of a MIG device.

use super::device::{Context, DeviceMemory, PinnedMemory, Stream};
use super::kernels::{Arguments, Kernels, Launch};
use anyhow::Result;
use std::rc::Rc;

/// How long each block watches its clock. %globaltimer moves in steps of 1 us at most: 0.1 %.
const SPIN_NS: u32 = 1_000_000;
/// A multiprocessor, nanoseconds and cycles.
const WORDS: usize = 3;

/// A launch that reads the clock of each multiprocessor.
pub(super) struct ClockProbe {
    launch: Launch,
    stream: Stream,
    host: PinnedMemory,
    memory: DeviceMemory,
    context: Rc<Context>,
}

impl ClockProbe {
    /// Loads the kernel and allocates.
    pub(super) fn new(context: &Rc<Context>, kernels: &mut Kernels) -> Result<ClockProbe> {
        let blocks = context.sm_count()?;
        let bytes = blocks as usize * WORDS * 8;
        let memory = DeviceMemory::new(context, bytes)?;
        let launch = Launch {
            function: kernels.function("clock", "clock_probe")?,
            blocks,
            threads: 1,
            shared_bytes: 0,
            cluster: 1,
            arguments: Arguments::default().long(memory.address()).int(SPIN_NS),
        };
        let host = PinnedMemory::new(context, bytes)?;
        Ok(ClockProbe { launch, stream: Stream::new(context)?, host, memory, context: context.clone() })
    }

    /// The median over multiprocessors, in MHz; takes a little more than 1 ms. None where no clock moved.
    pub(super) fn read(&self) -> Result<Option<f64>> {
        // SAFETY: the kernel writes three words a block into `memory`, which lives as long as this.
        unsafe { self.launch.issue(&self.context, &self.stream) }?;
        self.stream.copy_out(&self.host, self.memory.address(), self.memory.bytes())?;
        self.stream.synchronize()?;
        Ok(median_mhz(self.host.as_slice()))
    }
}

/// From the words of all blocks.
fn median_mhz(bytes: &[u8]) -> Option<f64> {
    let word = |chunk: &[u8]| chunk.try_into().map(u64::from_le_bytes).unwrap_or(0);
    let words: Vec<u64> = bytes.chunks_exact(8).map(word).collect();
    // One reading a multiprocessor, however the blocks were spread.
    let mut readings: Vec<(u64, f64)> = Vec::new();
    for block in words.chunks_exact(WORDS).filter(|block| block[1] > 0 && block[2] > 0) {
        if !readings.iter().any(|(sm, _)| *sm == block[0]) {
            readings.push((block[0], block[2] as f64 / block[1] as f64 * 1e3));
        }
    }
    readings.sort_by(|a, b| a.1.total_cmp(&b.1));
    readings.get(readings.len() / 2).map(|(_, mhz)| *mhz)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_over_multiprocessors() {
        let bytes = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
        let blocks = [0, 1_000_000, 1_980_000, 1, 1_000_000, 1_500_000, 2, 1_000_000, 1_965_000];
        assert_eq!(median_mhz(&bytes(&blocks)), Some(1965.0));
        // Three blocks on one of them count once.
        let same = [0, 1_000_000, 1_500_000, 0, 1_000_000, 1_500_000, 1, 1_000_000, 1_980_000];
        assert_eq!(median_mhz(&bytes(&same)), Some(1980.0));
        assert_eq!(median_mhz(&bytes(&[0; 9])), None, "a stand-in computes nothing");
    }
}
