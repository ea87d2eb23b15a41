//! The checks of [`super::verify()`] of whole networks and workloads, as a run executes and checks them.

use super::Cuda;
use super::verify::{SEED, Verifier, bound, l2_error, max_norm_error};
use crate::workload::check;
use crate::workload::model::{self, Bert, Direction, Llama, Network, bert, mlp, plain};
use crate::workload::{Corruption, Precision, Settings, Workload};
use anyhow::Result;

impl Verifier<'_> {
    /// Whole networks as a run executes them: the forms agree bit for bit, one of them with the
    /// reference, and a planted fault shows.
    pub(super) fn networks(&mut self, precision: Precision) -> Result<()> {
        for (name, network, batch) in [
            ("bert-tiny", bert(Bert::TINY, 17), 3),
            ("bert-mini", bert(Bert::MINI, 128), 2),
            ("mlp", mlp(), 5),
        ] {
            let weights = plain::weights(&network, SEED, precision);
            let mut buffers = plain::input(&network, SEED, precision, batch);
            plain::run(&network, batch, &weights, &mut buffers);
            let expected = buffers.pop().unwrap_or_default();

            let first = self.whole(&network, batch, &settings(precision, true, true, None))?;
            // Rounding between the operations adds up over the layers.
            self.report(
                &format!("{precision} {name}, L2"),
                l2_error(&first, &expected),
                4.0 * bound(precision),
            )?;
            for (graph, transfers) in [(true, false), (false, true), (false, false)] {
                let other = self.whole(&network, batch, &settings(precision, graph, transfers, None))?;
                let unequal = first.iter().zip(&other).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
                let case = format!("{precision} {name}, graph {graph}, transfers {transfers}, unequal");
                self.report(&case, unequal as f64, 0.0)?;
            }
            for corruption in [Corruption::ZeroTile, Corruption::FlipWeight] {
                let wrong =
                    self.whole(&network, batch, &settings(precision, true, true, Some(corruption)))?;
                let (l2, max) = (l2_error(&wrong, &expected), max_norm_error(&wrong, &expected));
                let unequal = first.iter().zip(&wrong).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
                let case = format!("{precision} {name}, {corruption:?} (L2 {l2:.2e}, max {max:.2e}), unseen");
                self.report(&case, f64::from(u8::from(unequal == 0)), 0.0)?;
            }
        }
        Ok(())
    }

    fn prepared(
        &self,
        network: &Network,
        settings: &Settings,
        batch_sizes: &[usize],
        lanes: usize,
    ) -> Result<Cuda> {
        let mut cuda =
            Cuda::new(self.device.clone(), "verify".to_owned(), network.clone(), settings.clone())?;
        cuda.prepare(batch_sizes, lanes)?;
        Ok(cuda)
    }

    fn whole(&self, network: &Network, batch: usize, settings: &Settings) -> Result<Vec<f32>> {
        let mut cuda = self.prepared(network, settings, &[1, batch], 2)?;
        cuda.issue(1, batch)?;
        cuda.wait(1)?;
        cuda.staged(1, batch)?;
        Ok(cuda.checked_output(batch)?.unwrap_or_default())
    }

    /// Every workload as a run executes it: its own check passes, and a planted fault does not.
    pub(super) fn workloads(&mut self, precision: Precision) -> Result<()> {
        let mut cases = vec![
            ("gemm", model::gemm(64, 264, 1000), 3),
            ("stream", model::stream(1), 7),
            ("transfer in", model::transfer(Direction::In, 1), 3),
            ("transfer out", model::transfer(Direction::Out, 1), 3),
            ("transfer both", model::transfer(Direction::Both, 1), 3),
            ("launch", model::launch(9), 1),
            ("mlp", mlp(), 7),
            ("bert-tiny of 1", bert(Bert::TINY, 1), 1),
            ("bert-tiny of 17", bert(Bert::TINY, 17), 3),
            ("bert-tiny of 511", bert(Bert::TINY, 511), 1),
            ("bert-mini of 128", bert(Bert::MINI, 128), 7),
        ];
        if precision != Precision::Fp32 {
            for batch in [1, 3, 7] {
                cases.push(("llama-decode of 511", model::llama_decode(Llama::TINY, 511), batch));
            }
            cases.push(("llama-decode of 1", model::llama_decode(Llama::TINY, 1), 3));
            cases.push(("llama-prefill of 17", model::llama_prefill(Llama::TINY, 17), 3));
            cases.push(("llama-prefill of 128", model::llama_prefill(Llama::TINY, 128), 1));
            cases.push(("llama-prefill of 511", model::llama_prefill(Llama::TINY, 511), 1));
            cases.push(("resnet50 of 224", model::resnet50(224), 2));
            for batch in [1, 3, 7] {
                cases.push(("resnet50 of 65", model::resnet50(65), batch));
            }
        }
        for (name, network, batch) in cases {
            if !self.compares {
                self.launched(&network, precision, batch)?;
                self.ran(&format!("{precision} {name}, batch {batch}"))?;
                continue;
            }
            for (graph, transfers) in [(true, true), (false, true), (true, false)] {
                let (failure, error) =
                    self.checked(&network, batch, &settings(precision, graph, transfers, None))?;
                let case = format!("{precision} {name}, batch {batch}, graph {graph}, transfers {transfers}");
                let case = format!("{case}, error {error:.1e} {}", failure.as_deref().unwrap_or(""));
                self.report(&case, f64::from(u8::from(failure.is_some())), 0.0)?;
            }
            for corruption in [Corruption::ZeroTile, Corruption::FlipWeight] {
                if corruption.target(&network).is_none() {
                    continue;
                }
                let (failure, _) =
                    self.checked(&network, batch, &settings(precision, true, true, Some(corruption)))?;
                let found = failure.as_deref().unwrap_or("");
                let case = format!("{precision} {name}, batch {batch}, {corruption:?}: {found}; unseen");
                self.report(&case, f64::from(u8::from(failure.is_none())), 0.0)?;
            }
        }
        Ok(())
    }

    /// What some batches share on a device: of one size, of several sizes in one lane, as a server's load has
    /// them, and in two lanes at once. Every size is right after all have run.
    pub(super) fn shared(&mut self, precision: Precision) -> Result<()> {
        // Heads of 128 are computed by the kernels of single operations, on any device.
        let wide = Llama { heads: 2, kv_heads: 1, ..Llama::TINY };
        let sizes = [1, 2, 3, 5, 8, 13, 32];
        for (name, shape) in [("128 wide", wide), ("64 wide", Llama::TINY)] {
            let network = model::llama_decode(shape, 1024);
            let settings = settings(precision, true, true, None);
            let mut cuda = self.prepared(&network, &settings, &sizes, 2)?;
            for _ in 0..300 {
                for size in sizes {
                    (0..2).try_for_each(|lane| cuda.issue(lane, size))?;
                    (0..2).try_for_each(|lane| cuda.wait(lane))?;
                }
            }
            for size in sizes {
                let output = cuda.checked_output(size)?.unwrap_or_default();
                let outputs = [&output[..], &output[..]];
                let verdict = check::check(&mut cuda, &network, &settings, &[size], outputs, &|| {})?;
                let found = verdict.failure.as_deref().unwrap_or("");
                let case = format!("{precision} llama-decode, {name}, batch {size} of many: {found}");
                self.report(&case, f64::from(u8::from(verdict.failure.is_some())), 0.0)?;
            }
        }
        Ok(())
    }

    /// One batch, as a run launches it.
    fn launched(&self, network: &Network, precision: Precision, batch: usize) -> Result<()> {
        let mut cuda = self.prepared(network, &settings(precision, true, true, None), &[batch], 1)?;
        cuda.issue(0, batch)?;
        cuda.wait(0)
    }

    fn checked(&self, network: &Network, batch: usize, settings: &Settings) -> Result<(Option<String>, f64)> {
        let mut cuda = self.prepared(network, settings, &[batch], 1)?;
        let before = cuda.checked_output(batch)?.unwrap_or_default();
        cuda.staged(0, batch)?;
        let after = cuda.checked_output(batch)?.unwrap_or_default();
        let verdict = check::check(&mut cuda, network, settings, &[batch], [&before, &after], &|| {})?;
        Ok((verdict.failure, verdict.error))
    }
}

fn settings(precision: Precision, graph: bool, transfers: bool, corruption: Option<Corruption>) -> Settings {
    Settings { precision, seed: SEED, graph, transfers, corruption, ..Settings::default() }
}
