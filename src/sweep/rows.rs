//! From what came of a worker to its row. Pure.

use super::corun;
use super::group::Outcome;
use super::plan::{Member, Run};
use super::telemetry::Edges;
use crate::machine::{Gpu, Instance, InstanceKind, Topology, host};
use crate::measure::bins::LoadLog;
use crate::measure::load::Arrivals;
use crate::measure::protocol::{Device, Job};
use crate::measure::recorder::Recording;
use crate::results::Row;
use crate::results::row::{
    Health, Mode, Neighbours, Point, Provenance, Rates, Sharing, Status, Subject, Warning, Window,
};
use crate::results::summary;
use crate::workload::{DeviceIdentity, Gemm, Own, Spec};
use anyhow::Result;

use crate::results::summary::{DRIFT, HOST_BOUND, THROUGHPUT_GAP};

/// What all rows of a sweep share.
pub struct Context {
    /// Run id, host, versions.
    pub provenance: Provenance,
    /// Driver versions.
    pub topology: Topology,
    /// Each instance is measured alone, too (`--mode both`).
    pub measures_alone: bool,
}

/// What is known of a member's row before it runs.
pub fn planned(context: &Context, run: &Run, member: &Member) -> Row {
    row(context, run, member, &Outcome::default())
}

/// One row a member, in their order. Every outcome becomes one.
pub fn rows(context: &Context, run: &Run, outcomes: &[Outcome]) -> Vec<Row> {
    // Those that failed before the windows opened are no part of what was measured.
    let took_part: Vec<bool> = outcomes.iter().map(|outcome| outcome.named_start_ns.is_some()).collect();
    let ran = remaining(run, &took_part);
    let missing = (1..run.members.len()).contains(&ran.members.len());
    let own_load = own_load(outcomes);
    let mut members = ran.members.iter();
    let mut rows = Vec::new();
    for ((planned, outcome), took_part) in run.members.iter().zip(outcomes).zip(took_part) {
        let member = if took_part { members.next() } else { None };
        // A row that is a point of its own says who was there; any other, who was to be.
        let replaced = member.filter(|_| !is_left_over(context, run, &ran));
        let (run_of, member) = replaced.map_or((run, planned), |member| (&ran, member));
        let mut row = row(context, run_of, member, outcome);
        let is_program = matches!(member.job.own, Some(Own::Program(_)));
        if let Some(load) = own_load.filter(|_| is_program) {
            row.point.load = load.into();
            row.point.corunners = corunners(&others(run_of, member), load);
        }
        // By these two the row is found again in the plan.
        row.subject.worker = worker(run, planned);
        if missing && replaced.is_some() {
            row.point.missing_corunners = Some(missing_corunners(run, outcomes, own_load.unwrap_or(CLOSED)));
        }
        row.seal();
        rows.push(row);
    }
    judge(context, run, &ran, outcomes, &mut rows);
    rows
}

/// One is left of several that were to run together, and an isolated row of its point is planned anyway.
fn is_left_over(context: &Context, run: &Run, ran: &Run) -> bool {
    ran.members.len() == 1 && run.members.len() > 1 && context.measures_alone
}

/// The co-run that remains of a run: without those that failed before the windows opened.
fn remaining(run: &Run, took_part: &[bool]) -> Run {
    let members = run.members.iter().zip(took_part).filter(|(_, took_part)| **took_part);
    let members: Vec<Member> = members.map(|(member, _)| member.clone()).collect();
    // One that is left of several was measured alone.
    let mode = if members.len() == 1 { Mode::Isolated } else { run.mode };
    Run { mode, members, ..run.clone() }
}

/// Who of a run failed before the windows opened, as the column of co-runners names them.
fn missing_corunners(run: &Run, outcomes: &[Outcome], own_load: &str) -> String {
    let members = run.members.iter().zip(outcomes);
    let missing = members.filter(|(_, outcome)| outcome.named_start_ns.is_none());
    corunners(&missing.map(|(member, _)| member).collect::<Vec<_>>(), own_load)
}

/// Says of each row whether its window was that of a co-run, and what the GPUs did meanwhile.
fn judge(context: &Context, run: &Run, ran: &Run, outcomes: &[Outcome], rows: &mut [Row]) {
    let took_part = || outcomes.iter().filter(|outcome| outcome.named_start_ns.is_some());
    let part = |(member, outcome): (&Member, _)| part(member, outcome);
    let parts: Vec<corun::Part> = ran.members.iter().zip(took_part()).map(part).collect();
    let names: Vec<_> = ran.members.iter().map(|member| name(&member.instance)).collect();
    let last_end = parts.iter().filter_map(|part| Some(part.recording?.end_ns)).max();
    let rows = rows.iter_mut().zip(outcomes).filter(|(_, outcome)| outcome.named_start_ns.is_some());
    for (i, (row, outcome)) in rows.enumerate() {
        row.health.gpu_energy_per_sample_j =
            energy_per_sample(ran, &took_part().collect::<Vec<_>>(), &parts, i);
        let pause = longest_pause(&parts[i], outcome.named_start_ns, last_end);
        row.health.longest_pause_ms = pause.map(|(length, _)| length as f64 / 1e6);
        if parts.len() < 2 {
            if pause.is_some_and(|(length, limit)| length as f64 > limit) {
                row.outcome.warnings.0.insert(Warning::Paused);
            }
            if is_left_over(context, run, ran) && row.outcome.status == Status::Ok {
                row.invalid("not a co-run: none of its co-runners could be measured");
            }
            continue;
        }
        let to_ns = outcome.named_start_ns.unwrap_or_default();
        let phase = corun::CommonPhase { from_ns: outcome.common_from_ns.unwrap_or(to_ns), to_ns };
        let found = corun::judge(&parts, &names, phase, i);
        row.health.overlap = found.overlap;
        row.window.batches_common = found.batches_common;
        let missed = found.overlap.is_some_and(|overlap| overlap < corun::LEAST_OVERLAP);
        let reason =
            found.disturbed.or_else(|| missed.then(|| "the co-runners were not all there".to_owned()));
        if let Some(reason) = reason.filter(|_| row.outcome.status == Status::Ok) {
            row.invalid(&format!("not a co-run: {reason}"));
        }
    }
}

/// What a member did in a co-run.
fn part<'a>(member: &Member, outcome: &'a Outcome) -> corun::Part<'a> {
    corun::Part {
        // A window without a batch bounds nobody's.
        recording: outcome.recording.as_ref().filter(|recording| recording.batches > 0),
        // Only a program of the user's may load in silence.
        load: outcome.load.as_ref().filter(|load| member.job.own.is_some() || !load.is_unknown()),
        pace: match member.job.load.arrivals() {
            None => corun::Pace::Closed,
            Some(arrivals) if arrivals.are_endless() => corun::Pace::Arrivals,
            Some(_) => corun::Pace::Trace,
        },
    }
}

/// The longest pause of a worker between the common start and the end of the run's last window, and its
/// limit, in ns; none where none was long enough to be kept. It is what rows of others may hold against it.
fn longest_pause(part: &corun::Part, named: Option<u64>, last_end: Option<u64>) -> Option<(u64, f64)> {
    let (window, load) = (part.recording?, part.load?);
    let from = named.unwrap_or(window.start_ns).min(window.start_ns);
    let pause = load.longest_pause(from, last_end?)?;
    Some((pause.length_ns(), corun::pause_limit_ns(window.end_ns - window.start_ns, load.batch_ns)))
}

/// Profile and UUID of a co-runner, for messages.
fn name(instance: &Instance) -> String {
    instance.uuid().map_or_else(|| instance.label().to_owned(), |uuid| format!("{} {uuid}", instance.label()))
}

/// The row of one member, as if it were alone.
fn row(context: &Context, run: &Run, member: &Member, outcome: &Outcome) -> Row {
    let mut row = Row {
        provenance: provenance(context, run, outcome),
        subject: subject(context, run, member, outcome),
        point: point(run, member),
        window: Window { rule: member.job.rule.to_string(), ..Window::default() },
        ..Row::default()
    };
    row.point.inflight = outcome.extras.imported.unwrap_or(row.point.inflight);
    row.seal();
    row.outcome.warnings.0.extend(&outcome.warnings);
    if let Some(recording) = &outcome.recording {
        if let Err(error) = numbers(&mut row, &member.job, recording, outcome) {
            return row.failed(&format!("the worker's recording is impossible: {error:#}"));
        }
        if recording.out_of_range > 0 {
            row.outcome.warnings.0.insert(Warning::OutOfRange);
        }
        if !without_a_word(outcome)
            && member.job.rule.hit_cap(recording.end_ns - recording.start_ns, recording.batches)
        {
            row.outcome.warnings.0.insert(Warning::CapReached);
        }
        if ended_with_its_trace(&member.job, recording) && !outcome.cut {
            row.outcome.warnings.0.insert(Warning::TraceEnded);
        }
    }
    if outcome.extras.coarse_times {
        row.outcome.warnings.0.insert(Warning::CoarseTimes);
    }
    if without_a_word(outcome) {
        row.outcome.warnings.0.insert(Warning::Unproven);
    }
    if outcome.edges.as_ref().is_some_and(|edges| edges.ecc_errors() > 0) {
        row.outcome.warnings.0.insert(Warning::EccErrors);
    }
    if outcome.device.as_ref().is_some_and(DeviceIdentity::is_stand_in) {
        row.outcome.warnings.0.insert(Warning::UncheckedOutput);
    }
    if outcome.output_partial {
        row.outcome.warnings.0.insert(Warning::PartlyChecked);
    }
    row.stages = summary::stages(&outcome.stages);
    row.health = health(&row.window, outcome);
    warn(&mut row);
    conclude(row, outcome)
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// A server forms batches of different sizes.
fn samples_per_batch(member: &Member, outcome: &Outcome) -> f64 {
    let sizes = outcome.extras.arrived.as_ref().map(|arrived| arrived.batch_sizes.as_slice());
    match sizes.unwrap_or_default() {
        [] => member.job.batch as f64,
        sizes => {
            let (samples, batches) = sizes.iter().fold((0, 0), |(s, n), (size, of)| (s + size * of, n + of));
            samples as f64 / batches as f64
        }
    }
}

/// Everything that is counted and timed in the window.
fn numbers(row: &mut Row, job: &Job, recording: &Recording, outcome: &Outcome) -> Result<()> {
    (row.latency, row.histograms.latency) = summary::latency(recording, row.point.inflight.into())?;
    let rule = std::mem::take(&mut row.window.rule);
    let named_start_ns = outcome.named_start_ns;
    row.window = Window { rule, named_start_ns, ..summary::window(recording, outcome.warmup_batches) };
    if let Some(arrived) = &outcome.extras.arrived {
        summary::arrived(row, arrived)?;
    }
    let (flops, bytes) = counts(job);
    row.rates = summary::rates(&row.latency, &row.window, &row.point, flops, bytes);
    row.rates.offered = job.load.arrivals().map(Arrivals::rate);
    if let Some(known) = &outcome.extras.known {
        let unmet = known.unmet().join(";");
        (row.window.mean_halfwidth, row.window.p99_halfwidth) = (known.mean, known.p99);
        if !unmet.is_empty() {
            row.outcome.warnings.0.insert(Warning::PrecisionUnmet);
            row.window.precision_unmet = Some(unmet);
        }
    }
    if outcome.extras.saturated || utilisation(row, job).is_some_and(|utilisation| utilisation >= 1.0) {
        row.outcome.warnings.0.insert(Warning::Saturated);
    }
    Ok(())
}

/// The window was to be longer than its trace, and ended with the last arrival.
fn ended_with_its_trace(job: &Job, recording: &Recording) -> bool {
    let Some(Arrivals::Trace(times)) = job.load.arrivals() else { return false };
    // As `run` asks for it: to its end, and no longer. A server's batches are fewer than its arrivals.
    let whole = (times.last().copied().unwrap_or(0), times.len() as u64);
    (job.rule.min_ns, job.rule.min_batches) != whole
        && !job.rule.is_over(recording.end_ns - recording.start_ns, recording.batches)
}

/// How many lanes the load would keep busy, of those there are: from 1 on the queue grows for as long as the
/// window lasts, be it too short for long waits. None for arrivals that have an end.
fn utilisation(row: &Row, job: &Job) -> Option<f64> {
    let arrivals = job.load.arrivals().filter(|arrivals| arrivals.are_endless())?;
    let batches_per_s = arrivals.rate() / job.load.most_in_batch(job.batch) as f64;
    Some(batches_per_s * row.latency.mean? / 1e3 / f64::from(row.point.inflight))
}

/// The load of the user's programs, known when they have ended without a report: all of each is one
/// batch, or its file tells the batches.
fn own_load(outcomes: &[Outcome]) -> Option<&'static str> {
    let imported = outcomes.iter().any(|outcome| outcome.extras.imported.is_some());
    let silent = outcomes.iter().any(without_a_word);
    if imported { Some("imported") } else { silent.then_some("once") }
}

/// The user's program reported nothing while it ran.
fn without_a_word(outcome: &Outcome) -> bool {
    outcome.load.as_ref().is_some_and(LoadLog::is_unknown)
}

/// What the host and the GPU went through during the window.
fn health(window: &Window, outcome: &Outcome) -> Health {
    // A program that reports nothing is over before the parent reads its first edge.
    let edges = outcome.edges.as_ref().filter(|_| !without_a_word(outcome));
    let clock = |edges: &Edges| edges.sm_clock_mhz(window.start_ns?, window.end_ns?);
    Health {
        output_error: outcome.output_error,
        sm_clock_mhz: mean(&outcome.extras.sm_clock_mhz),
        cpu_throttled_ms: outcome.cpu_throttled_us.map(|us| us as f64 / 1e3),
        gpu_sm_clock_mhz: edges.and_then(clock),
        gpu_power_w: edges.and_then(Edges::power_w),
        gpu_throttled_ms: edges.and_then(Edges::throttled_ms),
        gpu_power_capped_share: edges.and_then(Edges::power_capped_share),
        gpu_heat_capped_share: edges.and_then(Edges::heat_capped_share),
        gpu_hw_slowdown_share: edges.and_then(Edges::hw_slowdown_share),
        telemetry_s: edges.and_then(|edges| edges.interval_ns).map(|ns| ns as f64 / 1e9),
        ..Health::default()
    }
}

/// Energy of a GPU over the samples that its workers delivered while all of them measured, in J.
fn energy_per_sample(run: &Run, outcomes: &[&Outcome], parts: &[corun::Part], member: usize) -> Option<f64> {
    let power = outcomes[member].edges.as_ref()?.power_w()?;
    let (from, to) = corun::common_window(parts)?;
    let gpu = &run.members[member].instance.gpu_uuid;
    let members = run.members.iter().zip(parts).zip(outcomes);
    let here = members.filter(|((other, _), _)| other.instance.gpu_uuid == *gpu);
    let mut samples = 0.0;
    for ((other, part), outcome) in here {
        samples += part.load?.between(from, to) * samples_per_batch(other, outcome);
    }
    (samples > 0.0).then(|| power * (to - from) as f64 / 1e9 / samples)
}

/// Matrix operations and compulsory bytes of a batch, by the network's own count.
fn counts(job: &Job) -> (f64, f64) {
    let Ok(spec) = job.workload.parse::<Spec>() else { return (0.0, 0.0) };
    let network = spec.network();
    (network.flops(job.batch), network.compulsory_bytes(job.batch, job.settings.precision))
}

fn provenance(context: &Context, run: &Run, outcome: &Outcome) -> Provenance {
    Provenance {
        repetition: run.repetition,
        attempt: run.attempt,
        started_at: outcome.started_at.clone(),
        kernels: outcome.device.as_ref().map(|device| device.kernels.clone()).unwrap_or_default(),
        gemm_version: outcome.device.as_ref().and_then(|device| device.gemm_version.clone()),
        ..context.provenance.clone()
    }
}

fn subject(context: &Context, run: &Run, member: &Member, outcome: &Outcome) -> Subject {
    let worker = worker(run, member);
    let mut instance = member.instance.clone();
    let device = outcome.device.as_ref();
    // NVML does not know a whole GPU's multiprocessors; CUDA does.
    instance.sm_count = instance.sm_count.or(device.and_then(|d| d.sm_count));
    let mps = device.and_then(|d| d.mps) == Some(true);
    let mut gpus = context.topology.gpus.iter();
    let gpu = gpus.find(|gpu| instance.gpu_uuid.as_ref().is_some_and(|uuid| *uuid == gpu.uuid));
    Subject {
        identity: outcome.identity,
        sharing: match instance.kind {
            _ if mps => Some(Sharing::Mps),
            _ if worker.is_some() => Some(Sharing::TimeSliced),
            InstanceKind::Mig => Some(Sharing::Mig),
            InstanceKind::Gpu => Some(Sharing::Exclusive),
            InstanceKind::Cpu => None,
        },
        worker,
        neighbours: (instance.kind != InstanceKind::Cpu).then(|| {
            let here = workers_on(run, |other| other.gpu_uuid == member.instance.gpu_uuid);
            let all_seen = gpu.is_some_and(Gpu::shows_all_mig_devices);
            outcome.edges.as_ref().map_or(Neighbours::Unknown, |edges| edges.neighbours(here, all_seen))
        }),
        driver_version: context.topology.driver_version.clone(),
        cuda_version: context.topology.cuda_version.clone(),
        gpu_vbios: gpu.and_then(|gpu| gpu.vbios.clone()),
        gpu_power_limit_w: gpu.and_then(|gpu| gpu.power_limit_mw).map(|mw| f64::from(mw) / 1e3),
        instance,
    }
}

/// From 1: which of several workers on its instance a member is; none if it is the only one.
fn worker(run: &Run, member: &Member) -> Option<u32> {
    let same = |other: &&Member| other.instance.uuid() == member.instance.uuid();
    if run.members.iter().filter(same).count() < 2 {
        return None;
    }
    let before = run.members.iter().take_while(|other| !std::ptr::eq(*other, member));
    Some(before.filter(same).count() as u32 + 1)
}

/// Members of a run whose instance is so.
fn workers_on(run: &Run, is: impl Fn(&Instance) -> bool) -> usize {
    run.members.iter().filter(|member| is(&member.instance)).count()
}

fn point(run: &Run, member: &Member) -> Point {
    let (job, settings) = (&member.job, &member.job.settings);
    if job.own.is_some() {
        return own_point(run, member);
    }
    let cuda = job.device == Device::Cuda;
    Point {
        device: job.device,
        backend: "builtin".into(),
        workload: job.workload.clone(),
        precision: Some(settings.precision),
        gemm: Some(settings.gemm).filter(|&gemm| gemm != Gemm::Builtin),
        batch: job.batch as u64,
        mode: run.mode,
        corunners: corunners(&others(run, member), CLOSED),
        missing_corunners: None,
        load: job.load.to_string(),
        inflight: job.inflight as u32,
        sync: cuda.then_some(settings.sync),
        graph: cuda.then_some(settings.graph),
        transfers: cuda.then_some(settings.transfers),
        threads: (!cuda).then_some(settings.threads as u32),
        extra_work_us: Some(settings.extra_work_us).filter(|&us| us > 0),
        cpus: host::ranges(&job.cpus),
    }
}

/// The conditions of the user's own workload, as far as migbench sets them.
fn own_point(run: &Run, member: &Member) -> Point {
    let job = &member.job;
    let model = matches!(job.own, Some(Own::Model(_)));
    let (on_gpu, on_cpu) = (model && job.device == Device::Cuda, model && job.device == Device::Cpu);
    Point {
        device: job.device,
        backend: if model { "onnx" } else { "command" }.into(),
        workload: job.workload.clone(),
        batch: job.batch as u64,
        mode: run.mode,
        corunners: corunners(&others(run, member), CLOSED),
        missing_corunners: None,
        load: job.load.to_string(),
        inflight: 1,
        cpus: host::ranges(&job.cpus),
        extra_work_us: None,
        precision: None,
        gemm: None,
        sync: on_gpu.then_some(job.settings.sync),
        graph: on_gpu.then_some(false),
        transfers: on_gpu.then_some(true),
        threads: on_cpu.then_some(job.settings.threads as u32),
    }
}

/// The next batch is issued when one is done.
const CLOSED: &str = "closed";

/// The other members of a run.
fn others<'a>(run: &'a Run, member: &Member) -> Vec<&'a Member> {
    run.members.iter().filter(|other| !std::ptr::eq(*other, member)).collect()
}

/// Sorted multiset of profile/workload/batch/load, that of the user's own programs with `own_load`.
fn corunners(members: &[&Member], own_load: &str) -> String {
    let text = |other: &&Member| {
        let is_program = matches!(other.job.own, Some(Own::Program(_)));
        let load = if is_program { own_load.into() } else { other.job.load.to_string() };
        format!("{}/{}/{}/{load}", other.instance.label(), other.job.workload, other.job.batch)
    };
    let mut all: Vec<String> = members.iter().map(text).collect();
    all.sort();
    all.join(";")
}

/// Warnings that follow from the row's own numbers.
fn warn(row: &mut Row) {
    let gap = row.rates.throughput.zip(row.rates.throughput_wall).map(|(formula, wall)| formula / wall - 1.0);
    let enqueue =
        row.stages.enqueue_p50.zip(row.stages.compute_p50).map(|(enqueue, compute)| enqueue / compute);
    let found = [
        (Warning::Drift, row.window.drift.is_some_and(|drift| drift.abs() > DRIFT)),
        (Warning::ThroughputGap, gap.is_some_and(|gap| gap.abs() > THROUGHPUT_GAP)),
        (Warning::HostBound, enqueue.is_some_and(|share| share > HOST_BOUND)),
        (Warning::GpuThrottled, row.health.gpu_throttled_ms.is_some_and(|ms| ms > 0.0)),
        (Warning::CpuThrottled, row.health.cpu_throttled_ms.is_some_and(|ms| ms > 0.0)),
    ];
    row.outcome.warnings.0.extend(found.into_iter().filter(|(_, is)| *is).map(|(warning, _)| warning));
}

/// Why a window holds no batch, if it holds none.
fn without_batch(row: &Row, outcome: &Outcome) -> Option<String> {
    let window = outcome.recording.as_ref().filter(|recording| recording.batches == 0)?;
    if outcome.cut {
        return Some("interrupted before the first batch of its window was done".into());
    }
    let seconds = (window.end_ns - window.start_ns) as f64 / 1e9;
    let rate = row.rates.offered.map(|rate| format!(", with {rate} arrivals/s")).unwrap_or_default();
    Some(format!(
        "no batch was due in its window of {seconds:.3} s{rate}: give it a longer window (--duration, \
         --max-duration) or more arrivals"
    ))
}

/// The status: how the conversation ended, and whether the output was right.
fn conclude(mut row: Row, outcome: &Outcome) -> Row {
    let failure = outcome.failure.clone().or_else(|| without_batch(&row, outcome));
    match (&failure, &outcome.output_failure) {
        (Some(reason), _) if outcome.cut => {
            row = row.failed(reason);
            row.outcome.status = Status::Interrupted;
        }
        // How long it took until the failure stays in the row. It is no batch that was served, so it makes
        // no throughput.
        (Some(reason), _) => {
            row = row.failed(reason);
            row.rates = Rates { offered: row.rates.offered, ..Rates::default() };
        }
        (None, Some(reason)) => row.invalid(&format!("wrong output: {reason}")),
        (None, None) if outcome.cut => row.outcome.status = Status::Interrupted,
        (None, None) if summary::too_late(&row.window) => {
            let (late, all) = (row.window.late_batches.unwrap_or(0), row.window.batches.unwrap_or(0));
            row.invalid(&format!(
                "{late} of {all} batches were issued late by migbench itself: give it idle processors"
            ));
        }
        (None, None) => {
            if let Some(reason) = summary::impossible(&row) {
                row.invalid(&reason);
            }
        }
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::load::Load;
    use crate::measure::recorder::Recorder;
    use crate::measure::records::Arrived;
    use crate::measure::stopping::Rule;
    use crate::workload::{DeviceIdentity, Precision, Settings, Stages};

    fn parts() -> (Context, Run, Outcome) {
        let settings = Settings { precision: Precision::Fp16, ..Settings::default() };
        let job = Job {
            device: Device::Cuda,
            workload: "mlp".into(),
            batch: 8,
            settings,
            cpus: vec![0],
            rule: Rule::DEFAULT,
            load: Load::Closed,
            inflight: 1,
            arrival_seed: 1,
            intervals: false,
            clock_samples: false,
            own: None,
        };
        let instance = Instance { kind: InstanceKind::Gpu, ..Instance::default() };
        let mut recorder = Recorder::new();
        recorder.open(0);
        for i in 0..700 {
            recorder.record(i * 20_000_000, (i + 1) * 20_000_000);
        }
        let outcome = Outcome {
            device: Some(DeviceIdentity { sm_count: Some(132), ..DeviceIdentity::default() }),
            recording: Some(recorder.finish()),
            warmup_batches: 50,
            stages: vec![Stages { h2d_ns: 1, compute_ns: 1000, d2h_ns: 1, enqueue_ns: 900 }],
            output_error: Some(1e-4),
            ..Outcome::default()
        };
        let context = Context {
            provenance: Provenance::default(),
            topology: Topology::default(),
            measures_alone: false,
        };
        (
            context,
            Run { repetition: 2, attempt: 1, mode: Mode::Isolated, members: vec![Member { instance, job }] },
            outcome,
        )
    }

    #[test]
    fn a_measured_row() {
        let (context, run, outcome) = parts();
        let row = row(&context, &run, &run.members[0], &outcome);
        assert_eq!(row.outcome.status, Status::Ok);
        assert_eq!((row.latency.mean, row.rates.throughput), (Some(20.0), Some(400.0)));
        assert_eq!((row.rates.throughput_wall, row.window.elapsed_s), (Some(400.0), Some(14.0)));
        assert_eq!((row.subject.instance.sm_count, row.provenance.repetition), (Some(132), 2));
        let tflops = 2.0 * 8.0 * (1024.0 * 4096.0 + 4096.0 * 4096.0 + 4096.0 * 1000.0) / 1e12 / 0.02;
        assert!((row.rates.tflops.unwrap() - tflops).abs() < 1e-12);
        assert_eq!(row.outcome.warnings.codes(), "host-bound");
        assert_eq!((row.point.threads, row.point.graph), (None, Some(true)));
    }

    #[test]
    fn each_ending_has_its_status() {
        let (context, run, outcome) = parts();
        let end = |change: fn(&mut Outcome)| {
            let mut outcome = outcome.clone();
            change(&mut outcome);
            let row = row(&context, &run, &run.members[0], &outcome);
            (row.outcome.status, row.outcome.error.unwrap_or_default(), row.latency.mean.is_some())
        };
        assert_eq!(end(|o| o.cut = true), (Status::Interrupted, String::new(), true));
        assert_eq!(end(|o| o.failure = Some("x".into())), (Status::Failed, "x".into(), true));
        assert_eq!(
            end(|o| o.output_failure = Some("x".into())),
            (Status::Invalid, "wrong output: x".into(), true)
        );
        let nothing =
            |o: &mut Outcome| *o = Outcome { failure: Some("x".into()), cut: true, ..Outcome::default() };
        assert_eq!(end(nothing), (Status::Interrupted, "x".into(), false));
        let impossible = |o: &mut Outcome| o.recording.as_mut().unwrap().batches = 1;
        let (status, error, measured) = end(impossible);
        assert!(
            status == Status::Failed
                && error.starts_with("the worker's recording is impossible")
                && !measured
        );
    }

    #[test]
    fn a_window_without_a_batch_is_no_measurement() {
        let (context, mut run, mut outcome) = parts();
        run.members[0].job.load = Load::Open { arrivals: Arrivals::Constant(0.02) };
        let mut recorder = Recorder::new();
        recorder.open(5);
        recorder.close(2_000_000_005);
        outcome.recording = Some(recorder.finish());
        outcome.extras.arrived = Some(Arrived { response: recorder.finish(), ..Arrived::default() });
        run.mode = Mode::Concurrent;
        for (cut, status, error) in [
            (
                false,
                Status::Failed,
                "no batch was due in its window of 2.000 s, with 0.02 arrivals/s: give it a longer window \
                 (--duration, --max-duration) or more arrivals",
            ),
            (true, Status::Interrupted, "interrupted before the first batch of its window was done"),
        ] {
            outcome.cut = cut;
            let row = rows(&context, &run, std::slice::from_ref(&outcome)).remove(0);
            assert_eq!((row.outcome.status, row.outcome.error.as_deref()), (status, Some(error)));
            let window = Window {
                rule: row.window.rule.clone(),
                warmup_batches: row.window.warmup_batches,
                ..Window::default()
            };
            assert_eq!(row.window, window);
            assert_eq!((row.latency, row.response), Default::default());
            assert_eq!((row.rates.throughput_wall, row.health.overlap), (None, None));
        }
    }

    /// Three were to run together and one failed before the windows opened: the others are a co-run of two.
    #[test]
    fn who_fails_before_the_windows_open_is_no_co_runner() {
        let (mut context, mut run, outcome) = parts();
        let member = |number: u32| {
            let mut member = run.members[0].clone();
            member.instance.kind = InstanceKind::Mig;
            member.instance.profile = Some(format!("{number}g"));
            member.instance.mig_uuid = Some(format!("MIG-{number}"));
            member
        };
        run = Run { mode: Mode::Concurrent, members: [1, 2, 3].map(member).to_vec(), ..run };
        let mut load = crate::measure::bins::LoadRecorder::new(0);
        (0..800).for_each(|i| load.add(0, i * 20_000_000, (i + 1) * 20_000_000));
        let there = Outcome {
            named_start_ns: Some(0),
            common_from_ns: Some(0),
            load: Some(load.log()),
            ..outcome.clone()
        };
        let gone = Outcome { failure: Some("busy".into()), ..Outcome::default() };
        let names = |rows: &[Row]| -> Vec<(Status, Mode, String, Option<String>)> {
            let of = |row: &Row| {
                let point = &row.point;
                (row.outcome.status, point.mode, point.corunners.clone(), point.missing_corunners.clone())
            };
            rows.iter().map(of).collect()
        };
        let (ok, together, missing) = (Status::Ok, Mode::Concurrent, Some("2g/mlp/8/closed".to_owned()));
        let found = names(&rows(&context, &run, &[there.clone(), gone.clone(), there.clone()]));
        assert_eq!(found[0], (ok, together, "3g/mlp/8/closed".into(), missing.clone()));
        assert_eq!(found[1], (Status::Failed, together, "1g/mlp/8/closed;3g/mlp/8/closed".into(), None));
        assert_eq!(found[2], (ok, together, "1g/mlp/8/closed".into(), missing));
        let two = [gone.clone(), gone, there];
        let found = names(&rows(&context, &run, &two));
        let missing = Some("1g/mlp/8/closed;2g/mlp/8/closed".to_owned());
        assert_eq!(found[2], (ok, Mode::Isolated, String::new(), missing));
        context.measures_alone = true;
        let found = names(&rows(&context, &run, &two));
        assert_eq!(found[2], (Status::Invalid, together, "1g/mlp/8/closed;2g/mlp/8/closed".into(), None));
    }

    #[test]
    fn a_trace_that_ends_before_its_window_is_said() {
        let (context, mut run, mut outcome) = parts();
        let mut warns = |load: &Load, rule: Rule, cut: bool| {
            outcome.cut = cut;
            (run.members[0].job.load, run.members[0].job.rule) = (load.clone(), rule);
            row(&context, &run, &run.members[0], &outcome).outcome.warnings.0.contains(&Warning::TraceEnded)
        };
        // The window lasted for 14 s, and had 700 batches.
        let arrivals = Arrivals::Trace((0..1400).map(|i| i * 10_000_000).collect());
        let whole = Rule { min_ns: 13_990_000_000, min_batches: 1400, ..Rule::given(Some(0), None) };
        let server = Load::Server { arrivals: arrivals.clone(), max_delay_ns: 0 };
        assert!(warns(&server, Rule::given(Some(15_000_000_000), None), false));
        assert!(warns(&server, Rule::given(None, Some(701)), false));
        assert!(!warns(&server, Rule::given(Some(15_000_000_000), None), true));
        assert!(!warns(&server, Rule::given(Some(14_000_000_000), None), false));
        assert!(!warns(&server, whole, false));
        let endless = Load::Open { arrivals: Arrivals::Constant(50.0) };
        assert!(!warns(&endless, Rule::given(Some(15_000_000_000), None), false));
    }

    #[test]
    fn a_rate_beyond_the_hardware_makes_the_row_invalid() {
        let (context, mut run, mut outcome) = parts();
        let mut of = |gpu: &str, batch: usize| {
            run.members[0].instance.gpu_name = gpu.into();
            run.members[0].job.batch = batch;
            let row = row(&context, &run, &run.members[0], &outcome);
            (row.outcome.status, row.outcome.error.unwrap_or_default(), row.rates.tflops.is_some())
        };
        // 50.1 MFLOP a sample in 20 ms; an H200 does 989 TFLOP/s.
        assert_eq!(of("NVIDIA H200", 400_000), (Status::Ok, String::new(), true));
        assert_eq!(of("Graphics Device", 500_000).0, Status::Ok, "nothing is known of it");
        let (status, error, kept) = of("NVIDIA H200", 500_000);
        let expected = "tflops is 1253.4, and the instance can do at most 1087.9 on 132 of 132 SMs: the time or \
                        the network's count is wrong";
        assert_eq!((status, error.as_str(), kept), (Status::Invalid, expected, true));
        // What ended otherwise says so.
        run.members[0].job.batch = 500_000;
        outcome.failure = Some("x".into());
        assert_eq!(row(&context, &run, &run.members[0], &outcome).outcome.error.as_deref(), Some("x"));
    }

    #[test]
    fn a_cap_and_a_gap_are_said() {
        let (context, run, mut outcome) = parts();
        let recording = outcome.recording.as_mut().unwrap();
        recording.end_ns += 60_000_000_000;
        let row = row(&context, &run, &run.members[0], &outcome);
        assert!(row.outcome.warnings.0.contains(&Warning::ThroughputGap));
        assert!(!row.outcome.warnings.0.contains(&Warning::CapReached), "700 batches are enough");
    }
}
