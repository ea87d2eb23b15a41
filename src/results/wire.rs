//! The columns: one line below for each, in the order of the file.

use super::cell;
use super::lines::split;
use super::row::{Row, Warnings};
use anyhow::{Result, anyhow};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::collections::HashMap;

/// From one list: the flat struct that serde turns into a CSV record, and the way back.
macro_rules! columns {
    ($($column:ident: $($field:ident).+ as $type:ty;)*) => {
        /// A row as the CSV file has it: flat, in the order of the columns.
        #[derive(Serialize)]
        struct WireRow { $($column: $type,)* }

        impl From<&Row> for WireRow {
            fn from(row: &Row) -> WireRow {
                WireRow { $($column: row.$($field).+.clone(),)* }
            }
        }

        /// The inverse of [`line()`], of cells in the order of [`COLUMNS`].
        ///
        /// # Errors
        /// A cell that is not of its column's type: which column, what it holds and what it should.
        pub fn from_cells<'a>(mut cells: impl Iterator<Item = &'a str>) -> Result<Row> {
            let mut row = Row::default();
            $(row.$($field).+ = read(stringify!($column), stringify!($type), cells.next().unwrap_or_default())?;)*
            Ok(row)
        }

        /// The names of the columns.
        pub fn header() -> Vec<&'static str> {
            vec![$(stringify!($column)),*]
        }

        /// The columns, for who looks at single cells.
        pub const COLUMNS: &[Column] = &[$(
            Column {
                name: stringify!($column),
                part: stringify!($($field).+),
                accepts: accepts::<$type>,
                holds: holds(stringify!($type)),
            }
        ),*];
    };
}

/// What a column takes.
#[derive(Debug)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// The field of [`Row`] that it shows, as `point.batch`.
    pub part: &'static str,
    /// Is this text a cell of it?
    pub accepts: fn(&str) -> bool,
    /// What it holds, in words.
    pub holds: &'static str,
}

/// The same judgement as of a whole row: an empty cell is an absent value, where there is such.
fn accepts<T: serde::de::DeserializeOwned>(text: &str) -> bool {
    T::deserialize(cell::Cell(text)).is_ok()
}

/// The value of a cell.
fn read<T: serde::de::DeserializeOwned>(column: &str, ty: &'static str, text: &str) -> Result<T> {
    T::deserialize(cell::Cell(text)).map_err(|error| {
        // Of a word the error lists those that there are.
        let expected = match holds(ty) {
            WORD => error.to_string(),
            number if text.contains(['e', 'E']) => {
                format!(
                    "expected {number}; a spreadsheet may have shortened the number when it saved the file"
                )
            }
            holds => format!("expected {holds}"),
        };
        let shown: String = text.chars().take(60).collect();
        anyhow!("{column} is '{shown}': {expected}")
    })
}

const WORD: &str = "a word of docs/columns.md";

/// A type in a reader's words.
const fn holds(ty: &str) -> &str {
    match ty.as_bytes() {
        b"u32" | b"u64" => "a whole number",
        b"Option<u32>" | b"Option<u64>" => "a whole number or nothing",
        b"Option<f64>" => "a number or nothing",
        b"Option<bool>" => "true, false or nothing",
        b"String" | b"Option<String>" => "text",
        _ => WORD,
    }
}

columns! {
    schema_version: provenance.schema_version as u32;
    run_id: provenance.run_id as String;
    session_id: provenance.session_id as String;
    point_id: provenance.point_id as String;
    repetition: provenance.repetition as u32;
    attempt: provenance.attempt as u32;
    seed: provenance.seed as u64;
    started_at: provenance.started_at as String;
    host: provenance.host as String;
    scope: provenance.scope as String;
    migbench_version: provenance.migbench_version as String;
    git_revision: provenance.git_revision as String;
    kernels: provenance.kernels as String;
    gemm_version: provenance.gemm_version as Option<String>;
    gpu_index: subject.instance.gpu_index as Option<u32>;
    gpu_name: subject.instance.gpu_name as String;
    gpu_uuid: subject.instance.gpu_uuid as Option<String>;
    instance_kind: subject.instance.kind as crate::machine::InstanceKind;
    mig_uuid: subject.instance.mig_uuid as Option<String>;
    gi_id: subject.instance.gi_id as Option<u32>;
    ci_id: subject.instance.ci_id as Option<u32>;
    profile: subject.instance.profile as Option<String>;
    sm_count: subject.instance.sm_count as Option<u32>;
    memory_mib: subject.instance.memory_mib as Option<u64>;
    identity: subject.identity as Option<super::row::Identity>;
    sharing: subject.sharing as Option<super::row::Sharing>;
    worker: subject.worker as Option<u32>;
    neighbours: subject.neighbours as Option<super::row::Neighbours>;
    driver_version: subject.driver_version as Option<String>;
    cuda_version: subject.cuda_version as Option<String>;
    os_kernel: provenance.os_kernel as Option<String>;
    gpu_vbios: subject.gpu_vbios as Option<String>;
    gpu_power_limit_w: subject.gpu_power_limit_w as Option<f64>;
    device: point.device as crate::measure::protocol::Device;
    backend: point.backend as String;
    workload: point.workload as String;
    precision: point.precision as Option<crate::workload::Precision>;
    gemm: point.gemm as Option<crate::workload::Gemm>;
    batch: point.batch as u64;
    mode: point.mode as super::row::Mode;
    corunners: point.corunners as String;
    missing_corunners: point.missing_corunners as Option<String>;
    load: point.load as String;
    inflight: point.inflight as u32;
    sync: point.sync as Option<crate::workload::Sync>;
    graph: point.graph as Option<bool>;
    transfers: point.transfers as Option<bool>;
    threads: point.threads as Option<u32>;
    cpus: point.cpus as String;
    extra_work_us: point.extra_work_us as Option<u64>;
    window_rule: window.rule as String;
    warmup_batches: window.warmup_batches as Option<u64>;
    batches: window.batches as Option<u64>;
    batches_common: window.batches_common as Option<u64>;
    elapsed_s: window.elapsed_s as Option<f64>;
    named_start_ns: window.named_start_ns as Option<u64>;
    window_start_ns: window.start_ns as Option<u64>;
    window_end_ns: window.end_ns as Option<u64>;
    drift: window.drift as Option<f64>;
    mean_halfwidth: window.mean_halfwidth as Option<f64>;
    p99_halfwidth: window.p99_halfwidth as Option<f64>;
    precision_unmet: window.precision_unmet as Option<String>;
    inferences: window.inferences as Option<u64>;
    batch_sizes: window.batch_sizes as Option<String>;
    late_batches: window.late_batches as Option<u64>;
    latency_mean_ms: latency.mean as Option<f64>;
    latency_stddev_ms: latency.stddev as Option<f64>;
    latency_min_ms: latency.min as Option<f64>;
    latency_p50_ms: latency.p50 as Option<f64>;
    latency_p90_ms: latency.p90 as Option<f64>;
    latency_p95_ms: latency.p95 as Option<f64>;
    latency_p99_ms: latency.p99 as Option<f64>;
    latency_p999_ms: latency.p999 as Option<f64>;
    latency_max_ms: latency.max as Option<f64>;
    latency_p99_upper_ms: latency.p99_upper as Option<f64>;
    response_mean_ms: response.mean as Option<f64>;
    response_p50_ms: response.p50 as Option<f64>;
    response_p90_ms: response.p90 as Option<f64>;
    response_p99_ms: response.p99 as Option<f64>;
    response_p999_ms: response.p999 as Option<f64>;
    response_max_ms: response.max as Option<f64>;
    response_p99_upper_ms: response.p99_upper as Option<f64>;
    response_lag: response.lag as Option<u64>;
    slo: slo.target as Option<String>;
    slo_bound_ms: slo.bound as Option<f64>;
    slo_met: slo.met as Option<bool>;
    offered_rate: rates.offered as Option<f64>;
    throughput: rates.throughput as Option<f64>;
    throughput_wall: rates.throughput_wall as Option<f64>;
    tflops: rates.tflops as Option<f64>;
    gbytes_per_s: rates.gbytes_per_s as Option<f64>;
    h2d_mean_ms: stages.h2d_mean as Option<f64>;
    compute_mean_ms: stages.compute_mean as Option<f64>;
    compute_p50_ms: stages.compute_p50 as Option<f64>;
    d2h_mean_ms: stages.d2h_mean as Option<f64>;
    enqueue_p50_ms: stages.enqueue_p50 as Option<f64>;
    stage_batches: stages.batches as Option<u64>;
    overlap: health.overlap as Option<f64>;
    longest_pause_ms: health.longest_pause_ms as Option<f64>;
    output_error: health.output_error as Option<f64>;
    sm_clock_mhz: health.sm_clock_mhz as Option<f64>;
    gpu_sm_clock_mhz: health.gpu_sm_clock_mhz as Option<f64>;
    gpu_power_w: health.gpu_power_w as Option<f64>;
    gpu_energy_per_sample_j: health.gpu_energy_per_sample_j as Option<f64>;
    gpu_throttled_ms: health.gpu_throttled_ms as Option<f64>;
    gpu_power_capped_share: health.gpu_power_capped_share as Option<f64>;
    gpu_heat_capped_share: health.gpu_heat_capped_share as Option<f64>;
    gpu_hw_slowdown_share: health.gpu_hw_slowdown_share as Option<f64>;
    telemetry_s: health.telemetry_s as Option<f64>;
    cpu_throttled_ms: health.cpu_throttled_ms as Option<f64>;
    warnings: outcome.warnings as Warnings;
    status: outcome.status as super::row::Status;
    error: outcome.error as Option<String>;
    latency_histogram: histograms.latency as Option<String>;
    response_histogram: histograms.response as Option<String>;
}

/// Where a file with this header has each column. A file of an older migbench lacks columns that came
/// later; its cells of those are absent. pandas may have put an index in front and the columns into
/// another order. None where the header is not one of this schema.
pub fn places<T: AsRef<str>>(header: &[T]) -> Option<Vec<Option<usize>>> {
    let is_index = |name: &str| matches!(name, "" | "Unnamed: 0" | "index");
    let first = usize::from(header.first().is_some_and(|name| is_index(name.as_ref())));
    let mut at = HashMap::new();
    for (place, name) in header.iter().enumerate().skip(first) {
        // A column twice.
        if at.insert(name.as_ref(), place).is_some() {
            return None;
        }
    }
    let places = COLUMNS.iter().map(|column| {
        let here = at.remove(column.name);
        (here.is_some() || (column.accepts)("")).then_some(here)
    });
    let places = places.collect::<Option<Vec<_>>>()?;
    let known = 2 * places.iter().flatten().count() > COLUMNS.len();
    (known && at.is_empty()).then_some(places)
}

/// The cells of a row, in the order of [`COLUMNS`].
pub fn cells(row: &Row) -> Vec<String> {
    let line = line(row);
    let text = String::from_utf8_lossy(&line);
    let mut cells = Vec::new();
    split(text.trim_end_matches('\n'), &mut cells).expect("a line as it is written here");
    cells.into_iter().map(Cow::into_owned).collect()
}

/// A row as one line of the file, newline included.
pub fn line(row: &Row) -> Vec<u8> {
    let mut writer = csv::WriterBuilder::new().has_headers(false).from_writer(Vec::new());
    writer.serialize(WireRow::from(row)).expect("plain cells in memory");
    writer.into_inner().expect("a Vec takes every byte")
}

impl Serialize for Warnings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.codes())
    }
}

impl Warnings {
    /// The codes, `;`-separated.
    pub fn codes(&self) -> String {
        let code = |warning| match serde_json::to_value(warning) {
            Ok(serde_json::Value::String(code)) => code,
            _ => unreachable!("a unit variant is a string"),
        };
        self.0.iter().map(code).collect::<Vec<_>>().join(";")
    }
}

impl<'de> Deserialize<'de> for Warnings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Warnings, D::Error> {
        let text = String::deserialize(deserializer)?;
        let code = |code: &str| serde_json::from_value(serde_json::Value::String(code.into()));
        let set = text.split(';').filter(|c| !c.is_empty()).map(code).collect::<Result<_, _>>();
        set.map(Warnings).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::super::row::*;
    use super::*;
    use crate::workload::Precision;
    use proptest::prelude::*;

    fn round_trip(row: &Row) -> Row {
        let text = line(row);
        let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(text.as_slice());
        let record = reader.records().next().unwrap().unwrap();
        assert!(record.iter().eq(cells(row)));
        from_cells(record.iter()).unwrap()
    }

    #[test]
    fn absent_is_an_empty_cell_and_comes_back_absent() {
        let row = Row::default();
        assert_eq!(round_trip(&row), row);
        assert!(!String::from_utf8(line(&row)).unwrap().contains("NaN"));
    }

    #[test]
    fn enumerations_are_spelt_as_documented() {
        let mut row = Row::default();
        row.subject.identity = Some(Identity::Proven);
        row.subject.sharing = Some(Sharing::TimeSliced);
        row.subject.neighbours = Some(Neighbours::NoneSeen);
        row.point.precision = Some(Precision::Bf16);
        row.point.sync = Some(crate::workload::Sync::Spin);
        row.outcome.warnings.0.extend([Warning::HostBound, Warning::CapReached]);
        let text = String::from_utf8(line(&row)).unwrap();
        for word in ["proven", "time-sliced", "none-seen", "bf16", "spin", "cap-reached;host-bound"] {
            assert!(text.contains(&format!(",{word},")), "{word}: {text}");
        }
        assert_eq!(round_trip(&row), row);
    }

    #[test]
    fn a_file_of_an_older_migbench_lacks_columns_and_no_others() {
        let all = header();
        assert_eq!(places(&all), Some((0..all.len()).map(Some).collect()));
        let without = |name: &str| all.iter().copied().filter(|n| *n != name).collect::<Vec<_>>();
        let places_of = places(&without("overlap")).unwrap();
        let at = all.iter().position(|name| *name == "overlap").unwrap();
        assert_eq!((places_of[at - 1], places_of[at], places_of[at + 1]), (Some(at - 1), None, Some(at)));
        assert_eq!(places(&without("batch")), None, "a row has a batch");
        assert_eq!(places(&[&all[..], &["other"]].concat()), None);
        assert_eq!(places(&["schema_version"]), None);
        assert_eq!(places(&[&all[..], &["batch"]].concat()), None, "twice");
    }

    #[test]
    fn what_pandas_makes_of_a_header_is_understood() {
        let all = header();
        for index in ["", "Unnamed: 0", "index"] {
            let places = places(&[&[index], &all[..]].concat()).unwrap();
            assert!(places.into_iter().eq((1..=all.len()).map(Some)), "{index}");
        }
        let turned: Vec<&str> = all.iter().rev().copied().collect();
        assert!(places(&turned).unwrap().into_iter().eq((0..all.len()).rev().map(Some)));
    }

    #[test]
    fn what_spreadsheets_and_pandas_make_of_a_cell_is_read_or_named() {
        let mut row = Row::default();
        (row.point.graph, row.point.batch, row.window.start_ns) = (Some(true), 8, Some(1_193_855_564_129));
        let with = |column: &str, text: &str| {
            let mut cells = cells(&row);
            cells[header().iter().position(|name| *name == column).unwrap()] = text.to_owned();
            from_cells(cells.iter().map(String::as_str)).map_err(|error| error.to_string())
        };
        for (column, text) in
            [("graph", "True"), ("graph", "TRUE"), ("batch", "8.0"), ("window_start_ns", "1193855564129.0")]
        {
            assert_eq!(with(column, text).as_ref(), Ok(&row), "{column} {text}");
        }
        for (column, text, error) in [
            ("graph", "yes", "graph is 'yes': expected true, false or nothing"),
            ("batch", "", "batch is '': expected a whole number"),
            ("batch", "8.5", "batch is '8.5': expected a whole number"),
            ("latency_mean_ms", "2,5", "latency_mean_ms is '2,5': expected a number or nothing"),
            (
                "window_start_ns",
                "1.19386E+12",
                "window_start_ns is '1.19386E+12': expected a whole number or nothing; a spreadsheet may have \
                 shortened the number when it saved the file",
            ),
            ("status", "fine", "status is 'fine': unknown variant `fine`, expected one of `ok`, `failed`"),
            ("warnings", "drift;odd", "warnings is 'drift;odd': unknown variant `odd`"),
        ] {
            let found = with(column, text).unwrap_err();
            assert!(found.starts_with(error), "{found}");
        }
    }

    proptest! {
        #[test]
        fn any_row_survives(
            text in "[^\\p{Cc}]{0,20}",
            numbers in prop::collection::vec(prop::option::of(prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL), 6),
            count in any::<Option<u64>>(),
            flag in any::<Option<bool>>(),
        ) {
            let mut row = Row::default();
            let text = crate::machine::text::cell(&text).into_owned();
            row.provenance.scope.clone_from(&text);
            row.point.workload.clone_from(&text);
            row.outcome.error = Some(text).filter(|t| !t.is_empty());
            (row.latency.mean, row.latency.p99, row.rates.tflops) = (numbers[0], numbers[1], numbers[2]);
            (row.window.drift, row.health.overlap, row.stages.h2d_mean) = (numbers[3], numbers[4], numbers[5]);
            (row.window.batches, row.window.start_ns) = (count, count);
            row.point.graph = flag;
            prop_assert_eq!(line(&row).iter().filter(|&&b| b == b'\n').count(), 1);
            prop_assert_eq!(round_trip(&row), row);
        }
    }
}
