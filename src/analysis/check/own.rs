//! Rules about one row of migbench's own: types, status, warnings, the point's hash, the device.

use super::field::{Cells, Field, trim};
use super::finding::{Finding, Findings};
use super::numbers::{PERCENTILES, needed};
use super::short;
use crate::machine::limits::{self, Ceiling, Figures, Size};
use crate::results::from_cells;
use crate::results::row::{SCHEMAS_READ, point_id};
use crate::workload::model::Network;
use crate::workload::{Precision, Spec};
use std::collections::HashMap;

/// Shares of a window from which method.md draws its lines.
const OVERLAP: f64 = 0.999;
use crate::results::summary::{DRIFT, HOST_BOUND, LATE_SHARE, THROUGHPUT_GAP, arrives};
/// The same counts of operations and bytes over the same mean.
const SAME: f64 = 1e-6;
/// More different points than a file has; their memory stays bounded all the same.
const MOST_POINTS: usize = 10_000;

/// What rows have in common, kept between them.
#[derive(Default)]
pub struct Memory {
    points: HashMap<String, Point>,
    networks: HashMap<String, Option<Network>>,
    /// The last row's conditions, as one text.
    key: String,
    /// The last row's GPU and profile.
    device: Device,
}

/// What follows from a row's conditions.
#[derive(Default)]
struct Point {
    /// Their hash.
    id: Option<String>,
    /// The operations and bytes of a batch, where the network is migbench's own.
    counts: Option<(f64, f64)>,
}

/// What is known of a GPU and a profile.
#[derive(Default)]
struct Device {
    gpu_name: String,
    profile: String,
    ceiling: Ceiling,
    size: Option<Size>,
    whole_sms: Option<u32>,
}

/// All of them.
pub fn check(row: &Cells, memory: &mut Memory, findings: &mut Findings) {
    types(row, findings);
    status(row, findings);
    warnings(row, findings);
    let known = memory.device(row);
    device(row, known, findings);
    limit(row, known, findings);
    let point = memory.point(row);
    counts(row, point.counts, findings);
    if let Some(expected) = point.id.as_ref().filter(|id| *id != row.text(Field::PointId)) {
        let expected = format!("{expected}, the hash of the row's conditions");
        add(findings, row, Field::PointId, "point", expected);
    }
}

fn add(findings: &mut Findings, row: &Cells, field: Field, rule: &'static str, expected: impl Into<String>) {
    findings.push(Finding::new(row.line, row.view.column(field), rule, row.text(field), expected));
}

/// Every cell is of its column's type; the schema is this one.
fn types(row: &Cells, findings: &mut Findings) {
    for typed in &row.view.typed {
        let text = row.at(typed.at);
        let fine = text.is_empty() && typed.optional
            // Read as a number already, and nothing was trimmed away for that.
            || typed.number.is_some_and(|field| row.number(field).is_some() && trim(text) == text);
        if !fine && !(typed.column.accepts)(text) {
            findings.push(Finding::new(row.line, typed.column.name, "type", text, typed.column.holds));
        }
    }
    let version = row.number(Field::SchemaVersion);
    if !SCHEMAS_READ.into_iter().any(|known| version == Some(f64::from(known))) {
        let (first, last) = (SCHEMAS_READ.start(), SCHEMAS_READ.end());
        let expected = format!("{first} to {last}: this migbench reads no other");
        add(findings, row, Field::SchemaVersion, "schema", expected);
    }
    let time = row.text(Field::StartedAt).as_bytes();
    let shape = b"dddd-dd-ddTdd:dd:dd";
    let fits = time.len() > shape.len()
        && time.ends_with(b"Z")
        && time.iter().zip(shape).all(|(c, s)| if *s == b'd' { c.is_ascii_digit() } else { c == s });
    // A row that never started has no start.
    let never_started = time.is_empty() && row.text(Field::Status) == "failed";
    if !fits && !never_started {
        add(findings, row, Field::StartedAt, "type", "a time as 2026-11-22T18:00:00.000Z");
    }
}

/// A row that is ok has its numbers and no reason not to be; another has its reason.
fn status(row: &Cells, findings: &mut Findings) {
    let (ok, error) = (row.text(Field::Status) == "ok", row.text(Field::Error));
    if ok && !error.is_empty() {
        add(findings, row, Field::Error, "status", "nothing in a row that is ok");
    }
    if matches!(row.text(Field::Status), "failed" | "invalid") && error.is_empty() {
        add(findings, row, Field::Error, "status", "the reason");
    }
    if row.text(Field::Identity) == "refuted" && row.text(Field::Status) != "failed" {
        add(findings, row, Field::Status, "status", "failed: the worker ran on another device");
    }
    if row.text(Field::Backend) == "builtin" && row.text(Field::Precision).is_empty() {
        add(findings, row, Field::Precision, "absent", "a number format: the workload is migbench's own");
    }
    let concurrent = row.text(Field::Mode) == "concurrent";
    if concurrent == row.text(Field::Corunners).is_empty() {
        let expected = if concurrent { "the co-runners" } else { "nothing in an isolated row" };
        add(findings, row, Field::Corunners, "corunners", expected);
    }
    if !ok {
        return;
    }
    let always = [
        Field::WindowStart,
        Field::WindowEnd,
        Field::Batches,
        Field::Elapsed,
        Field::Mean,
        Field::Stddev,
        Field::Min,
        Field::Max,
        Field::Wall,
        Field::LatencyHistogram,
    ];
    let batches = row.number(Field::Batches).unwrap_or(0.0);
    let percentiles = PERCENTILES.into_iter().chain([(Field::P99Upper, 0.99)]);
    let enough = percentiles.filter(|&(_, q)| batches >= needed(q) as f64).map(|(field, _)| field);
    let overlap = (concurrent && !row.warns("unproven")).then_some(Field::Overlap);
    let arrives = arrives(row.text(Field::Load));
    let one_by_one = !arrives && row.number(Field::Inflight) == Some(1.0);
    let arrived: &[Field] = match (arrives, one_by_one) {
        (_, true) => &[Field::Throughput],
        (false, false) => &[],
        (true, false) => {
            &[Field::ResponseMean, Field::ResponseMax, Field::LateBatches, Field::ResponseHistogram]
        }
    };
    if !one_by_one && !row.text(Field::Throughput).is_empty() {
        add(findings, row, Field::Throughput, "formula", "nothing: claimed of one batch after the other");
    }
    if let (Some(late), true) = (row.number(Field::LateBatches), batches > 0.0)
        && late > LATE_SHARE * batches
    {
        let expected = format!("at most {LATE_SHARE} of {batches}, or the status invalid");
        add(findings, row, Field::LateBatches, "late", expected);
    }
    let mut there = |field| {
        if row.text(field).is_empty() {
            add(findings, row, field, "absent", "a number: the row is ok");
        }
    };
    always.into_iter().for_each(&mut there);
    enough.chain(overlap).for_each(&mut there);
    arrived.iter().copied().for_each(&mut there);
    if let Some(overlap) = row.number(Field::Overlap).filter(|&overlap| overlap < OVERLAP) {
        let expected = format!("at least {OVERLAP}, or the status invalid");
        findings.push(
            Finding::new(
                row.line,
                row.view.column(Field::Overlap),
                "overlap",
                row.text(Field::Overlap),
                expected,
            )
            .factor(overlap / OVERLAP),
        );
    }
}

/// Warnings that follow from the row's own numbers are there, and no others of them.
fn warnings(row: &Cells, findings: &mut Findings) {
    let ratio = |a, b| row.number(a).zip(row.number(b)).map(|(a, b)| a / b);
    let gap = ratio(Field::Throughput, Field::Wall).map(|ratio| ratio - 1.0);
    let follows = [
        ("drift", row.number(Field::Drift).is_some_and(|drift| drift.abs() > DRIFT)),
        ("throughput-gap", gap.is_some_and(|gap| gap.abs() > THROUGHPUT_GAP)),
        ("host-bound", ratio(Field::EnqueueP50, Field::ComputeP50).is_some_and(|share| share > HOST_BOUND)),
        ("cpu-throttled", row.number(Field::CpuThrottled).is_some_and(|ms| ms > 0.0)),
        ("identity-unproven", row.text(Field::Identity) == "consistent"),
    ];
    for (word, is) in follows {
        if is && !row.warns(word) {
            add(
                findings,
                row,
                Field::Warnings,
                "warning",
                format!("'{word}' among them: it follows from the row"),
            );
        } else if !is && row.warns(word) {
            add(
                findings,
                row,
                Field::Warnings,
                "warning",
                format!("no '{word}': it does not follow from the row"),
            );
        }
    }
}

/// The instance is one that there can be.
fn device(row: &Cells, known: &Device, findings: &mut Findings) {
    let kind = row.text(Field::Kind);
    for (field, wanted) in [(Field::MigUuid, kind == "mig"), (Field::GpuUuid, kind != "cpu")] {
        if row.text(field).is_empty() == wanted {
            let expected = if wanted { "the UUID" } else { "nothing" };
            add(findings, row, field, "instance", format!("{expected}: instance_kind is {kind}"));
        }
    }
    let device = if kind == "cpu" { "cpu" } else { "cuda" };
    if row.text(Field::Device) != device {
        add(findings, row, Field::Device, "instance", format!("{device}: instance_kind is {kind}"));
    }
    let sms = row.number(Field::SmCount);
    if let (Some(most), Some(sms)) = (known.whole_sms.map(f64::from), sms)
        && kind == "gpu"
        && sms > most
    {
        impossible(row, Field::SmCount, sms, most, "at most", findings);
    }
    let Some(size) = known.size.as_ref().filter(|_| kind == "mig") else { return };
    if let (Some(expected), Some(sms)) = (size.sm_count.map(f64::from), sms)
        && (sms > expected || (!size.is_part && sms != expected))
    {
        let word = if size.is_part { "at most" } else { "exactly" };
        impossible(row, Field::SmCount, sms, expected, word, findings);
    }
    let Some((least, most)) = size.memory_mib else { return };
    match row.number(Field::MemoryMib) {
        Some(memory) if memory > most => impossible(row, Field::MemoryMib, memory, most, "at most", findings),
        Some(memory) if memory < least => {
            impossible(row, Field::MemoryMib, memory, least, "at least", findings);
        }
        _ => {}
    }
}

fn impossible(row: &Cells, field: Field, found: f64, bound: f64, word: &str, findings: &mut Findings) {
    let profile = row.text(Field::Profile);
    let what = if profile.is_empty() { row.text(Field::GpuName) } else { profile };
    let expected = format!("{word} {}: {what} of {}", short(bound), row.text(Field::GpuName));
    findings.push(
        Finding::new(row.line, row.view.column(field), "profile", row.text(field), expected)
            .factor(found / bound),
    );
}

/// Not faster than the instance can be, in a row that does not say itself that its numbers are wrong.
fn limit(row: &Cells, known: &Device, findings: &mut Findings) {
    if matches!(row.text(Field::Status), "failed" | "invalid") {
        return;
    }
    let figures = Figures {
        tflops: row.number(Field::Tflops),
        gbytes_per_s: row.number(Field::Gbytes),
        latency_ms: row.number(Field::Mean),
        sm_count: row.number(Field::SmCount),
        is_fp32: row.text(Field::Precision) == "fp32",
    };
    for beyond in known.ceiling.beyond(&figures) {
        let field = if beyond.column == "tflops" { Field::Tflops } else { Field::Gbytes };
        let expected = format!("at most {} {}", short(beyond.most), beyond.reason);
        findings.push(
            Finding::new(row.line, row.view.column(field), "limit", row.text(field), expected)
                .factor(beyond.found / beyond.most),
        );
    }
}

impl Memory {
    fn device(&mut self, row: &Cells) -> &Device {
        let (gpu_name, profile) = (row.text(Field::GpuName), row.text(Field::Profile));
        if self.device.gpu_name != gpu_name || self.device.profile != profile {
            self.device = Device {
                gpu_name: gpu_name.to_owned(),
                profile: profile.to_owned(),
                ceiling: Ceiling::of(gpu_name, Some(profile).filter(|profile| !profile.is_empty())),
                size: limits::size(gpu_name, profile),
                whole_sms: limits::whole_sms(gpu_name),
            };
        }
        &self.device
    }

    /// Operations and bytes by the network's own count.
    fn counts(&mut self, row: &Cells) -> Option<(f64, f64)> {
        if row.text(Field::Backend) != "builtin" {
            return None;
        }
        let precision = match row.text(Field::Precision) {
            "fp32" => Precision::Fp32,
            "fp16" => Precision::Fp16,
            "bf16" => Precision::Bf16,
            _ => return None,
        };
        // Beyond any memory.
        let batch = row.number(Field::Batch).filter(|&batch| batch <= 1e9)? as usize;
        let workload = row.text(Field::Workload);
        if !self.networks.contains_key(workload) {
            if self.networks.len() >= MOST_POINTS {
                self.networks.clear();
            }
            let spec = workload.parse::<Spec>().ok();
            self.networks.insert(workload.to_owned(), spec.map(|spec| spec.network()));
        }
        let network = self.networks.get(workload)?.as_ref()?;
        Some((network.flops(batch), network.compulsory_bytes(batch, precision)))
    }

    /// What follows from the conditions in the row.
    fn point(&mut self, row: &Cells) -> &Point {
        const HASHED: [Field; 20] = [
            Field::Kind,
            Field::GpuName,
            Field::Profile,
            Field::SmCount,
            Field::Device,
            Field::Backend,
            Field::Workload,
            Field::Precision,
            Field::Gemm,
            Field::Batch,
            Field::Mode,
            Field::Corunners,
            Field::Load,
            Field::Inflight,
            Field::Sync,
            Field::Graph,
            Field::Transfers,
            Field::Threads,
            Field::Sharing,
            Field::ExtraWork,
        ];
        self.key.clear();
        for field in HASHED {
            self.key.push_str(row.text(field));
            self.key.push('\u{1f}');
        }
        if self.points.get(&self.key).is_none_or(|known| known.id.is_none()) {
            if self.points.len() >= MOST_POINTS {
                self.points.clear();
            }
            let cell = |at: &Option<usize>| at.map_or("", |at| row.at(at));
            let cells = row.view.places.iter().flatten().map(cell);
            // A row with a cell of another type has that finding; the next of this point may have none.
            let id = from_cells(cells).ok().map(|parsed| point_id(&parsed));
            let point = Point { id, counts: self.counts(row) };
            self.points.insert(self.key.clone(), point);
        }
        &self.points[&self.key]
    }
}

/// Operations and bytes are the network's own count over the mean.
fn counts(row: &Cells, counts: Option<(f64, f64)>, findings: &mut Findings) {
    let (Some((flops, bytes)), Some(mean)) = (counts, row.number(Field::Mean)) else { return };
    for (field, amount) in [(Field::Tflops, flops / 1e12), (Field::Gbytes, bytes / 1e9)] {
        let expected = amount / (mean / 1e3);
        match row.number(field) {
            Some(found) if (found / expected - 1.0).abs() > SAME || amount == 0.0 => {
                let shown = format!("{} = {} in {} ms", short(expected), short(amount), short(mean));
                findings.push(
                    Finding::new(row.line, row.view.column(field), "count", row.text(field), shown)
                        .factor(found / expected),
                );
            }
            None if amount > 0.0
                && row.text(Field::Status) == "ok"
                && row.number(Field::Inflight) == Some(1.0)
                && row.text(Field::Inferences).is_empty() =>
            {
                add(findings, row, field, "absent", short(expected));
            }
            _ => {}
        }
    }
}
