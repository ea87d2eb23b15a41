//! What the harness itself costs: `cargo bench --bench harness`.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use migbench::measure::clock::{Clock, Monotonic};
use migbench::measure::load::{Arrivals, Load};
use migbench::measure::protocol::{self, FromWorker};
use migbench::measure::recorder::{Recorder, encode};
use migbench::measure::records::Records;
use migbench::measure::stopping::Rule;
use migbench::measure::window::{Control, Task, Window};
use migbench::workload::{Settings, Spec};
use migbench::workload::{Workload, cpu::Cpu};
use std::hint::black_box;
use std::time::Duration;

fn null() -> Cpu {
    let settings = Settings::default();
    let spec: Spec = "null".parse().expect("a workload");
    let mut null = Cpu::new("null".into(), spec.network(), settings).expect("fp32");
    null.prepare(&[1], 1).expect("nothing to allocate");
    null
}

/// Everything between two batches of a window: two clock reads, issue, wait, record, stopping rule.
fn per_batch(c: &mut Criterion) {
    let mut group = c.benchmark_group("closed loop");
    group.throughput(Throughput::Elements(1));
    group.bench_function("per batch, null on the CPU", |b| {
        let mut workload = null();
        let control = Control::default();
        b.iter_custom(|batches| {
            let task = Task::closed(1);
            let mut window = Window::new(&Monotonic, &mut workload, &task, &control);
            let mut records = Records::new(&task.load, 1, 1);
            let start = Monotonic.now();
            window.measure(Rule::given(None, Some(batches)), &mut records).expect("null cannot fail");
            Duration::from_nanos(Monotonic.now() - start)
        });
    });
    group.finish();
}

/// From the moment a batch of an open load is due to its issue, and its record: everything but the wait.
fn open_loop(c: &mut Criterion) {
    let mut group = c.benchmark_group("open loop");
    group.throughput(Throughput::Elements(1));
    group.bench_function("per batch that is already due, null on the CPU", |b| {
        let mut workload = null();
        let control = Control::default();
        b.iter_custom(|batches| {
            // All of them are due at once: none is waited for.
            let load = Load::Open { arrivals: Arrivals::Trace(vec![0; batches as usize]) };
            let task = Task { load, ..Task::closed(1) };
            let mut window = Window::new(&Monotonic, &mut workload, &task, &control);
            let mut records = Records::new(&task.load, 1, 1);
            let start = Monotonic.now();
            window.measure(Rule::given(None, Some(batches)), &mut records).expect("null cannot fail");
            Duration::from_nanos(Monotonic.now() - start)
        });
    });
    group.finish();
}

fn parts(c: &mut Criterion) {
    c.bench_function("clock read", |b| b.iter(|| black_box(Monotonic.now())));
    c.bench_function("record", |b| {
        let mut recorder = Recorder::new();
        recorder.open(0);
        let mut now = 0;
        b.iter(|| {
            recorder.record(black_box(now), black_box(now + 1_000_000));
            now += 1_000_000;
        });
    });
    c.bench_function("histogram to text, 10,000 latencies", |b| {
        let mut histogram =
            hdrhistogram::Histogram::new_with_bounds(1, 3_600_000_000_000, 3).expect("valid bounds");
        for i in 0..10_000u64 {
            histogram.saturating_record(1_000_000 + i * i % 100_000);
        }
        b.iter(|| encode(black_box(&histogram)));
    });
    c.bench_function("message to line and back", |b| {
        let message = FromWorker::Progress { unmeasured: 1, batches: 123_456 };
        b.iter(|| protocol::decode::<FromWorker>(&protocol::encode(black_box(&message))).expect("a message"));
    });
}

criterion_group!(benches, per_batch, open_loop, parts);
criterion_main!(benches);
