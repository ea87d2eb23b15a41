//! What needs an NVIDIA GPU: `cargo test --release --test gpu -- --ignored --nocapture`.

use migbench::workload::check::check;
use migbench::workload::cuda::{
    Cuda, Device, exercise, exercise_workloads, gemm_version, time_operations, time_tiles, verify,
};
use migbench::workload::{Gemm, Precision, Settings, Spec, Stages, Sync, Workload};
use std::io::{Write, stdout};
use std::time::{Duration, Instant};

const SETTINGS: Settings = Settings {
    precision: Precision::Fp16,
    seed: 1,
    graph: true,
    transfers: true,
    sync: Sync::Spin,
    threads: 1,
    extra_work_us: 0,
    corruption: None,
    gemm: Gemm::Builtin,
};

/// `, 450 TFLOP/s, 3100 GB/s` of a batch that takes so long: what its network counts, and nothing of what
/// it has none of.
fn rates(spec: &Spec, batch: usize, precision: Precision, ms: f64) -> String {
    let network = spec.network();
    let figures =
        [(network.flops(batch) / 1e9, "TFLOP/s"), (network.compulsory_bytes(batch, precision) / 1e6, "GB/s")];
    let counted = figures.into_iter().filter(|(amount, _)| *amount > 0.0);
    counted.map(|(amount, unit)| format!(", {:.0} {unit}", amount / ms)).collect()
}

/// The median of half a second of batches, after a fifth of a second of warm-up.
fn p50_ms(cuda: &mut Cuda, batch: usize) -> f64 {
    let (begin, mut ns) = (Instant::now(), Vec::new());
    while begin.elapsed() < Duration::from_millis(700) {
        let start = Instant::now();
        cuda.issue(0, batch).unwrap();
        cuda.wait(0).unwrap();
        if begin.elapsed() > Duration::from_millis(200) {
            ns.push(start.elapsed().as_nanos() as u64);
        }
    }
    ns.sort_unstable();
    ns[ns.len() / 2] as f64 / 1e6
}

/// No GPU needed.
#[test]
fn a_figure_that_a_workload_lacks_is_not_printed() {
    let of = |name: &str| rates(&name.parse().unwrap(), 1, Precision::Fp16, 1.0);
    assert_eq!(of("stream"), ", 537 GB/s");
    assert_eq!(of("gemm"), ", 1100 TFLOP/s, 403 GB/s");
    assert_eq!((of("launch"), of("null")), (String::new(), String::new()));
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn every_kernel_agrees_with_the_reference() {
    assert!(verify(&mut stdout()).unwrap());
}

/// Every operation of networks whose products cuBLASLt computes, against the CPU's, as after a window; with
/// and without a graph, and two lanes at once, which must not share a workspace.
#[test]
#[ignore = "needs an NVIDIA GPU and cuBLASLt, in LD_LIBRARY_PATH or MIGBENCH_CUBLASLT"]
fn products_by_cublaslt_agree_with_the_reference() {
    let (fp32, fp16, bf16) = (Precision::Fp32, Precision::Fp16, Precision::Bf16);
    let device = Device::open(Sync::Spin).unwrap();
    let mut wrong = Vec::new();
    for (name, precisions) in [
        ("bert-mini", &[fp32, fp16, bf16][..]),
        ("resnet50", &[fp16, bf16]),
        ("gemm(m=512,n=512,k=512)", &[fp32, fp16, bf16]),
        ("mlp", &[fp32, fp16, bf16]),
        ("llama-prefill(size=tiny,seq_len=17)", &[fp16, bf16]),
        ("llama-decode(size=tiny,context=40)", &[fp16, bf16]),
    ] {
        let spec: Spec = name.parse().unwrap();
        let network = spec.network();
        for (&precision, batch, graph) in precisions
            .iter()
            .flat_map(|precision| [(precision, 1, true), (precision, 3, false), (precision, 8, true)])
        {
            let settings = Settings { precision, graph, gemm: Gemm::Cublaslt, ..SETTINGS };
            let version = gemm_version(&device, &settings, &network).unwrap().unwrap();
            let mut cuda =
                Cuda::new(device.clone(), spec.to_string(), network.clone(), settings.clone()).unwrap();
            cuda.prepare(&[batch], 2).unwrap();
            let before = cuda.checked_output(batch).unwrap().unwrap();
            for _ in 0..20 {
                (0..2).for_each(|lane| cuda.issue(lane, batch).unwrap());
                (0..2).for_each(|lane| cuda.wait(lane).unwrap());
            }
            cuda.staged(0, batch).unwrap();
            let after = cuda.checked_output(batch).unwrap().unwrap();
            let verdict = check(&mut cuda, &network, &settings, &[batch], [&before, &after], &|| {}).unwrap();
            let verdict_text = verdict.failure.as_deref().unwrap_or("ok");
            writeln!(
                stdout(),
                "{spec} {precision} batch {batch} graph {graph}, {version}: error {:.2e}, {verdict_text}",
                verdict.error
            )
            .unwrap();
            wrong.extend(verdict.failure.map(|failure| format!("{spec} {precision} {batch}: {failure}")));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Numbers to read, nothing asserted: the same networks by the kernels and by cuBLASLt, in turn.
#[test]
#[ignore = "needs an NVIDIA GPU and cuBLASLt, in LD_LIBRARY_PATH or MIGBENCH_CUBLASLT"]
fn times_of_products_by_cublaslt() {
    let device = Device::open(Sync::Spin).unwrap();
    for (name, precision, batch) in [
        ("gemm", Precision::Bf16, 1),
        ("gemm", Precision::Fp32, 1),
        ("bert-base", Precision::Fp16, 1),
        ("bert-base", Precision::Fp16, 32),
        ("resnet50", Precision::Fp16, 32),
        ("llama-decode", Precision::Bf16, 8),
        ("llama-prefill(seq_len=2048)", Precision::Bf16, 1),
    ] {
        let spec: Spec = name.parse().unwrap();
        for gemm in [Gemm::Builtin, Gemm::Cublaslt] {
            let settings = Settings { precision, transfers: false, gemm, ..SETTINGS };
            let start = Instant::now();
            let mut cuda = Cuda::new(device.clone(), spec.to_string(), spec.network(), settings).unwrap();
            cuda.prepare(&[batch], 1).unwrap();
            let prepared = start.elapsed();
            let p50 = p50_ms(&mut cuda, batch);
            let rates = rates(&spec, batch, precision, p50);
            writeln!(
                stdout(),
                "TIME {spec} {precision} batch {batch} {gemm}: p50 {p50:.4} ms{rates}, prepared in {prepared:.2?}"
            )
            .unwrap();
        }
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn a_batch_that_cannot_fit_is_refused() {
    let spec: Spec = "bert-base".parse().unwrap();
    let device = Device::open(Sync::Spin).unwrap();
    let mut cuda = Cuda::new(device, spec.to_string(), spec.network(), SETTINGS).unwrap();
    for batch in [1 << 20, usize::MAX] {
        let error = cuda.prepare(&[batch], 1).unwrap_err().to_string();
        assert!(error.contains("GB free"), "{error}");
        writeln!(stdout(), "{error}").unwrap();
    }
    cuda.prepare(&[1], 1).unwrap();
    assert!(cuda.issue(0, 2).is_err() && cuda.issue(1, 1).is_err());
    let spec: Spec = "resnet50".parse().unwrap();
    let fp32 = Settings { precision: Precision::Fp32, ..SETTINGS };
    let device = Device::open(Sync::Spin).unwrap();
    let error = Cuda::new(device, spec.to_string(), spec.network(), fp32).err().unwrap();
    assert!(error.to_string().contains("fp16 or bf16"), "{error:#}");
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn batches_in_flight_with_blocking_waits_do_not_disturb_each_other() {
    let spec: Spec = "bert-mini".parse().unwrap();
    let make = |sync| {
        let settings = Settings { sync, ..SETTINGS };
        Cuda::new(Device::open(sync).unwrap(), spec.to_string(), spec.network(), settings).unwrap()
    };
    let mut alone = make(Sync::Blocking);
    alone.prepare(&[8], 1).unwrap();
    let expected = alone.checked_output(8).unwrap().unwrap();
    alone.prepare(&[3, 8], 4).unwrap(); // once more, for other batches: the weights stay
    for round in 0..50 {
        for lane in 0..4 {
            alone.issue(lane, if (round + lane) % 2 == 0 { 3 } else { 8 }).unwrap();
        }
        (0..4).for_each(|lane| alone.wait(lane).unwrap());
    }
    assert_eq!(alone.checked_output(8).unwrap().unwrap(), expected);
    // Another batch takes other tiles, which sum in another order.
    let three = alone.checked_output(3).unwrap().unwrap();
    assert_eq!(three.len(), 3 * 256);
    assert!(three.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 0.02));
    let stages = alone.staged(2, 8).unwrap().unwrap();
    assert!(stages.compute_ns > 0 && stages.h2d_ns > 0 && stages.d2h_ns > 0, "{stages:?}");
}

/// Numbers to read, nothing asserted: what each tile takes.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn times_of_tiles() {
    time_tiles(&mut stdout()).unwrap();
}

/// Numbers to read, nothing asserted: what each operation of bert-base takes.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn times_of_operations() {
    let network = "bert-base".parse::<Spec>().unwrap().network();
    for batch in [1, 8, 32, 128] {
        time_operations(&network, batch, Precision::Fp16, &mut stdout()).unwrap();
    }
}

/// Numbers to read, nothing asserted: the networks on as few multiprocessors as a MIG instance has. Their
/// memory is the whole card's, which an instance's is not.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn times_on_few_multiprocessors() {
    for (name, precision, batches) in [
        ("bert-base", Precision::Fp16, &[1, 8, 32][..]),
        ("resnet50", Precision::Fp16, &[1, 8, 32]),
        ("llama-decode", Precision::Bf16, &[1, 8, 32]),
        ("llama-prefill(seq_len=2048)", Precision::Bf16, &[1]),
    ] {
        let spec: Spec = name.parse().unwrap();
        for multiprocessors in [16, 26, 32, 60, 64, 132] {
            let device = match multiprocessors {
                132 => Device::open(Sync::Spin).unwrap(),
                few => Device::open_limited(few).unwrap(),
            };
            let got = device.identity().sm_count.unwrap();
            let settings = Settings { precision, transfers: false, ..SETTINGS };
            let mut cuda = Cuda::new(device, spec.to_string(), spec.network(), settings).unwrap();
            cuda.prepare(batches, 1).unwrap();
            let mut line = format!("{spec} {precision}, asked for {multiprocessors}, got {got}:");
            for &batch in batches {
                let ms = p50_ms(&mut cuda, batch);
                line += &format!(" batch {batch} {ms:.3} ms{};", rates(&spec, batch, precision, ms));
            }
            writeln!(stdout(), "{line}").unwrap();
        }
    }
}

/// Numbers to read, nothing asserted: what whole batches take, their copies left out.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn times_of_networks() {
    let mut out = stdout();
    let start = Instant::now();
    let device = Device::open(Sync::Spin).unwrap();
    writeln!(out, "opened in {:?}: {:?}", start.elapsed(), device.identity()).unwrap();
    for (name, batches) in [
        ("null", &[1][..]),
        ("bert-base", &[1, 8, 32, 128]),
        ("bert-large", &[1, 32]),
        ("bert-tiny", &[1, 32]),
        ("mlp", &[1, 32, 1024]),
    ] {
        let spec: Spec = name.parse().unwrap();
        let start = Instant::now();
        let settings = Settings { transfers: false, ..SETTINGS };
        let mut cuda = Cuda::new(device.clone(), spec.to_string(), spec.network(), settings).unwrap();
        cuda.prepare(batches, 1).unwrap();
        writeln!(out, "{name}: made and prepared in {:?}", start.elapsed()).unwrap();
        for &batch in batches {
            let begin = Instant::now();
            let mut ns = Vec::new();
            while begin.elapsed() < Duration::from_millis(1200) {
                let start = Instant::now();
                cuda.issue(0, batch).unwrap();
                cuda.wait(0).unwrap();
                let elapsed = start.elapsed();
                if begin.elapsed() > Duration::from_millis(400) {
                    ns.push(elapsed.as_nanos() as u64);
                }
            }
            ns.sort_unstable();
            let quantile = |q: f64| ns[(ns.len() as f64 * q) as usize] as f64 / 1e6;
            let mut stages: Vec<Stages> = (0..25).map(|_| cuda.staged(0, batch).unwrap().unwrap()).collect();
            stages.sort_by_key(|stages| stages.compute_ns);
            let (p50, p99) = (quantile(0.5), quantile(0.99));
            let rates = rates(&spec, batch, SETTINGS.precision, p50);
            let (n, stages) = (ns.len(), stages[12]);
            writeln!(out, "{name} batch {batch}: p50 {p50:.4} ms, p99 {p99:.4}, n {n}{rates}, {stages:?}")
                .unwrap();
        }
    }
}

/// For kernels/sanitize, as the next three: every kernel at odd shapes, nothing compared.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn every_kernel_is_launched_in_fp32() {
    exercise(&mut stdout(), Precision::Fp32).unwrap();
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn every_kernel_is_launched_in_fp16() {
    exercise(&mut stdout(), Precision::Fp16).unwrap();
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn every_kernel_is_launched_in_bf16() {
    exercise(&mut stdout(), Precision::Bf16).unwrap();
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn every_workload_is_launched() {
    exercise_workloads(&mut stdout()).unwrap();
}

/// Numbers to read, nothing asserted: what whole batches take, inputs on the device.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn times_of_workloads() {
    let mut out = stdout();
    let device = Device::open(Sync::Spin).unwrap();
    for (name, precision, batches) in [
        ("resnet50", Precision::Fp16, &[1, 8, 32][..]),
        ("llama-decode", Precision::Bf16, &[1, 8, 32]),
        ("llama-prefill(seq_len=2048)", Precision::Bf16, &[1]),
        ("gemm", Precision::Bf16, &[1]),
        ("gemm", Precision::Fp32, &[1]),
        ("bert-base", Precision::Fp32, &[1, 32]),
        ("stream", Precision::Fp16, &[1]),
        ("transfer(direction=h2d)", Precision::Fp16, &[1]),
        ("transfer(direction=d2h)", Precision::Fp16, &[1]),
        ("transfer", Precision::Fp16, &[1]),
        ("launch", Precision::Fp16, &[1]),
    ] {
        let spec: Spec = name.parse().unwrap();
        let settings = Settings { precision, transfers: spec.is_transfer(), ..SETTINGS };
        let start = Instant::now();
        let mut cuda = Cuda::new(device.clone(), spec.to_string(), spec.network(), settings).unwrap();
        cuda.prepare(batches, 1).unwrap();
        let prepared = start.elapsed();
        for &batch in batches {
            let p50 = p50_ms(&mut cuda, batch);
            let rates = rates(&spec, batch, precision, p50);
            writeln!(
                out,
                "TIME {spec} {precision} batch {batch}: p50 {p50:.4} ms{rates}, prepared in {prepared:.2?}"
            )
            .unwrap();
        }
    }
}

/// Numbers to read, nothing asserted: what each operation takes.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn times_of_operations_of_larger_networks() {
    for (name, precision, batches) in [
        ("resnet50", Precision::Fp16, &[1, 32][..]),
        ("llama-decode", Precision::Bf16, &[1, 32]),
        ("llama-prefill(seq_len=2048)", Precision::Bf16, &[1]),
    ] {
        let network = name.parse::<Spec>().unwrap().network();
        for &batch in batches {
            writeln!(stdout(), "{name}").unwrap();
            time_operations(&network, batch, precision, &mut stdout()).unwrap();
        }
    }
}
