//! Rows as a run would have saved them, from simulated batches: for tests and benches.
#![allow(dead_code, reason = "not every user needs all of it")]

pub mod gate;
pub mod streams;

use migbench::machine::{Instance, InstanceKind};
use migbench::measure::protocol::Device;
use migbench::measure::recorder::Recorder;
use migbench::results::row::{Identity, Mode, Neighbours, Row, Sharing};
use migbench::results::{self, summary};
use migbench::workload::{Precision, Spec, Sync};

/// Random numbers of a seed.
pub struct Random(fastrand::Rng);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(fastrand::Rng::with_seed(seed))
    }

    pub fn uniform(&mut self) -> f64 {
        self.0.f64()
    }

    /// Standard normal (G. E. P. Box and M. E. Muller, 1958).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (2.0 * std::f64::consts::PI * self.uniform()).cos()
    }
}

/// An instance of an H200 and what it would run, unmeasured.
pub fn template(batch: u64, instance: u32) -> Row {
    let mut row = Row::default();
    let provenance = &mut row.provenance;
    provenance.schema_version = migbench::results::row::SCHEMA_VERSION;
    (provenance.run_id, provenance.session_id) = ("0000000a".into(), "0000000a".into());
    (provenance.repetition, provenance.attempt, provenance.seed) = (1, 1, 1);
    provenance.started_at = "2026-11-22T18:00:00.000Z".into();
    (provenance.host, provenance.migbench_version) = ("host".into(), "0.1.0".into());
    row.subject.instance = Instance {
        kind: InstanceKind::Mig,
        gpu_index: Some(0),
        gpu_name: "NVIDIA H200".into(),
        gpu_uuid: Some("GPU-aaaaaaaa-0000-4000-8000-000000000000".into()),
        mig_uuid: Some(format!("MIG-11111111-0000-5000-8000-{instance:012}")),
        gi_id: Some(7 + instance),
        ci_id: Some(0),
        profile: Some("1g.18gb".into()),
        sm_count: Some(16),
        memory_mib: Some(16384),
    };
    row.subject.identity = Some(Identity::Proven);
    row.subject.sharing = Some(Sharing::Mig);
    row.subject.neighbours = Some(Neighbours::NoneSeen);
    row.subject.driver_version = Some("580.159.03".into());
    row.subject.cuda_version = Some("13.0".into());
    row.provenance.os_kernel = Some("6.8.0-60-generic".into());
    (row.subject.gpu_vbios, row.subject.gpu_power_limit_w) = (Some("96.00.BC.00.01".into()), Some(700.0));
    let point = &mut row.point;
    (point.device, point.backend) = (Device::Cuda, "builtin".into());
    (point.workload, point.precision) = ("bert-base(seq_len=128)".into(), Some(Precision::Fp16));
    (point.batch, point.mode, point.load, point.inflight) = (batch, Mode::Isolated, "closed".into(), 1);
    (point.sync, point.graph, point.transfers) = (Some(Sync::Spin), Some(true), Some(true));
    row
}

/// Latencies of consecutive batches in ns: log-normal around `mean_ns` with deviation `sd`, each
/// following the last with correlation `phi`.
pub fn batches(random: &mut Random, count: usize, mean_ns: f64, sd: f64, phi: f64) -> Vec<u64> {
    let step = (1.0 - phi * phi).sqrt();
    let mut state = random.normal();
    (0..count)
        .map(|_| {
            state = phi * state + step * random.normal();
            (mean_ns * (sd * state).exp()) as u64
        })
        .collect()
}

/// The row of a window of these batches, as the program writes it.
pub fn measured(mut row: Row, latencies: &[u64]) -> Row {
    let mut recorder = Recorder::new();
    let mut now = 5_000_000_000;
    recorder.open(now);
    for &latency in latencies {
        recorder.record(now, now + latency);
        now += latency + 1_000;
    }
    let recording = recorder.finish();
    let (latency, histogram) = summary::latency(&recording, 1).unwrap();
    let network = row.point.workload.parse::<Spec>().unwrap().network();
    let batch = row.point.batch as usize;
    row.window = summary::window(&recording, 100);
    row.window.drift = recording.drift.map(|drift| drift.clamp(-0.009, 0.009));
    let bytes = network.compulsory_bytes(batch, Precision::Fp16);
    row.rates = summary::rates(&latency, &row.window, &row.point, network.flops(batch), bytes);
    (row.latency, row.histograms.latency) = (latency, histogram);
    row.seal();
    row
}

/// A file of rows, header included.
pub fn file<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Vec<u8> {
    let mut bytes = results::header().join(",").into_bytes();
    bytes.push(b'\n');
    for row in rows {
        bytes.extend(results::line(row));
    }
    bytes
}
