//! Which cell of a line means what: migbench's own columns by name, another tool's by a mapping.

use crate::results::{self, COLUMNS, Column};
use anyhow::{Result, bail};
use std::borrow::Cow;

macro_rules! fields {
    ($($field:ident = $name:literal;)*) => {
        /// The columns that rules look at.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[expect(missing_docs, reason = "docs/columns.md has them")]
        pub enum Field { $($field),* }

        impl Field {
            /// All of them.
            pub const ALL: &[Field] = &[$(Field::$field),*];

            /// The column's name.
            pub fn name(self) -> &'static str {
                match self { $(Field::$field => $name),* }
            }
        }
    };
}

fields! {
    // Numbers.
    SchemaVersion = "schema_version"; Repetition = "repetition"; Attempt = "attempt";
    SmCount = "sm_count"; MemoryMib = "memory_mib"; Batch = "batch"; Inflight = "inflight";
    Threads = "threads"; ExtraWork = "extra_work_us"; WarmupBatches = "warmup_batches"; Batches = "batches";
    BatchesCommon = "batches_common"; Elapsed = "elapsed_s"; WindowStart = "window_start_ns";
    WindowEnd = "window_end_ns"; Drift = "drift"; Inferences = "inferences";
    LateBatches = "late_batches";
    Mean = "latency_mean_ms"; Stddev = "latency_stddev_ms"; Min = "latency_min_ms";
    P50 = "latency_p50_ms"; P90 = "latency_p90_ms"; P95 = "latency_p95_ms"; P99 = "latency_p99_ms";
    P999 = "latency_p999_ms"; Max = "latency_max_ms"; P99Upper = "latency_p99_upper_ms";
    ResponseMean = "response_mean_ms"; ResponseP50 = "response_p50_ms";
    ResponseP90 = "response_p90_ms"; ResponseP999 = "response_p999_ms"; ResponseP99 = "response_p99_ms"; ResponseMax = "response_max_ms";
    Throughput = "throughput"; Wall = "throughput_wall"; Tflops = "tflops"; Gbytes = "gbytes_per_s";
    H2d = "h2d_mean_ms"; Compute = "compute_mean_ms"; ComputeP50 = "compute_p50_ms";
    D2h = "d2h_mean_ms"; EnqueueP50 = "enqueue_p50_ms"; StageBatches = "stage_batches";
    Overlap = "overlap"; OutputError = "output_error"; Clock = "gpu_sm_clock_mhz"; PowerLimit = "gpu_power_limit_w";
    NamedStart = "named_start_ns"; MeanHalfwidth = "mean_halfwidth"; P99Halfwidth = "p99_halfwidth";
    ResponseP99Upper = "response_p99_upper_ms"; ResponseLag = "response_lag"; SloBound = "slo_bound_ms";
    OfferedRate = "offered_rate"; SmClock = "sm_clock_mhz"; Energy = "gpu_energy_per_sample_j";
    Telemetry = "telemetry_s"; LongestPause = "longest_pause_ms";
    PowerCappedShare = "gpu_power_capped_share"; HeatCappedShare = "gpu_heat_capped_share";
    HwSlowdownShare = "gpu_hw_slowdown_share";
    Power = "gpu_power_w"; GpuThrottled = "gpu_throttled_ms"; CpuThrottled = "cpu_throttled_ms";
    // Text.
    RunId = "run_id"; SessionId = "session_id"; PointId = "point_id"; StartedAt = "started_at";
    Host = "host"; GpuIndex = "gpu_index"; GpuName = "gpu_name"; GpuUuid = "gpu_uuid";
    Kind = "instance_kind"; MigUuid = "mig_uuid"; GiId = "gi_id"; CiId = "ci_id"; Profile = "profile";
    Identity = "identity"; Sharing = "sharing"; Worker = "worker"; Device = "device"; Backend = "backend";
    Workload = "workload"; Precision = "precision"; Gemm = "gemm"; Mode = "mode"; Corunners = "corunners";
    Load = "load"; Sync = "sync"; Graph = "graph"; Transfers = "transfers"; Warnings = "warnings";
    Status = "status"; Error = "error";
    LatencyHistogram = "latency_histogram"; ResponseHistogram = "response_histogram";
}

/// Fields before this one are numbers.
pub const NUMBERS: usize = Field::RunId as usize;

/// The unit of latencies in another tool's file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum LatencyUnit {
    Seconds,
    #[default]
    Milliseconds,
    Microseconds,
    Nanoseconds,
}

impl LatencyUnit {
    fn to_ms(self) -> f64 {
        match self {
            LatencyUnit::Seconds => 1e3,
            LatencyUnit::Milliseconds => 1.0,
            LatencyUnit::Microseconds => 1e-3,
            LatencyUnit::Nanoseconds => 1e-6,
        }
    }
}

/// What the columns of another tool's file mean.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mapping {
    /// A field and the name of the column that holds it.
    pub columns: Vec<(Field, String)>,
    /// Of all latencies.
    pub unit: LatencyUnit,
}

/// Short names of the usual fields.
const SHORT: [(&str, Field); 12] = [
    ("latency", Field::Mean),
    ("mean", Field::Mean),
    ("min", Field::Min),
    ("p50", Field::P50),
    ("p90", Field::P90),
    ("p95", Field::P95),
    ("p99", Field::P99),
    ("p999", Field::P999),
    ("max", Field::Max),
    ("stddev", Field::Stddev),
    ("elapsed", Field::Elapsed),
    ("gpu", Field::GpuName),
];

impl Mapping {
    /// From `latency=latency_ms,batch=batch_size,throughput=qps`: meaning = column.
    ///
    /// # Errors
    /// A meaning that there is not, or one given twice.
    pub fn parse(pairs: &[String]) -> Result<Vec<(Field, String)>> {
        let mut columns: Vec<(Field, String)> = Vec::new();
        for pair in pairs {
            let Some((meaning, column)) = pair.split_once('=') else {
                bail!("--columns '{pair}' is not MEANING=COLUMN, as latency=latency_ms")
            };
            let short = SHORT.iter().find(|(name, _)| *name == meaning).map(|(_, field)| *field);
            let own = || Field::ALL.iter().copied().find(|field| field.name() == meaning);
            let Some(field) = short.or_else(own) else {
                bail!(
                    "--columns: there is no '{meaning}'; latency, batch, throughput, profile, {} and the \
                     names in docs/columns.md have a meaning",
                    SHORT[2..].iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
                )
            };
            if columns.iter().any(|(known, _)| *known == field) {
                bail!("--columns names two columns for {meaning}");
            }
            columns.push((field, column.to_owned()));
        }
        Ok(columns)
    }
}

/// A column with a type.
#[derive(Debug)]
pub struct Typed {
    /// What it takes.
    pub column: &'static Column,
    /// Its place in the file.
    pub at: usize,
    /// A cell may be empty.
    pub optional: bool,
    /// The field whose number a cell of it is, where any number is one.
    pub number: Option<Field>,
}

/// How to look at the lines of one file.
#[derive(Debug)]
pub struct View {
    /// Names of the columns as the file has them.
    pub header: Vec<String>,
    /// Written by migbench: every rule applies.
    pub own: bool,
    /// Where each column of the schema is, if they are its columns and in its order.
    pub places: Option<Vec<Option<usize>>>,
    index: Vec<Option<usize>>,
    /// The columns of the schema in which not every text is a value, if they are its columns.
    pub typed: Vec<Typed>,
    /// By which the cell of each number is multiplied.
    scales: [f64; NUMBERS],
}

impl View {
    /// Of a file with this header.
    ///
    /// # Errors
    /// Not migbench's columns and no mapping, or a mapped column that isn't there.
    pub fn new(header: Vec<String>, mapping: Option<&Mapping>) -> Result<View> {
        let at = |name: &str| header.iter().position(|column| column == name);
        let mut index = vec![None; Field::ALL.len()];
        let Some(mapping) = mapping else {
            let known = COLUMNS.iter().filter(|column| at(column.name).is_some()).count();
            if at("schema_version").is_none() || 2 * known < COLUMNS.len() {
                bail!(
                    "these are not migbench's columns: if it is another tool's file, say what they mean with \
                     --columns latency=…,batch=…,throughput=…; it has {}",
                    list(&header)
                );
            }
            for &field in Field::ALL {
                index[field as usize] = at(field.name());
            }
            let places = results::places(&header);
            let typed = typed(places.as_deref().unwrap_or_default());
            return Ok(View { header, own: true, places, index, typed, scales: [1.0; NUMBERS] });
        };
        for (field, column) in &mapping.columns {
            let Some(found) = at(column) else {
                bail!("there is no column '{column}'; it has {}", list(&header))
            };
            index[*field as usize] = Some(found);
        }
        let scale = |i: usize| if Field::ALL[i].name().ends_with("_ms") { mapping.unit.to_ms() } else { 1.0 };
        let (typed, scales) = (Vec::new(), std::array::from_fn(scale));
        Ok(View { header, own: false, places: None, index, typed, scales })
    }

    /// What the file calls this field.
    pub fn column(&self, field: Field) -> &str {
        self.index[field as usize].map_or(field.name(), |at| self.header[at].as_str())
    }

    /// Is there a column for it?
    pub fn has(&self, field: Field) -> bool {
        self.index[field as usize].is_some()
    }
}

/// As `str::trim`, which looks at characters; a number's first and last ones are plain.
pub fn trim(text: &str) -> &str {
    match text.as_bytes() {
        [first, .., last] if first.is_ascii_graphic() && last.is_ascii_graphic() => text,
        _ => text.trim(),
    }
}

fn typed(places: &[Option<usize>]) -> Vec<Typed> {
    let there = COLUMNS.iter().zip(places).filter_map(|(column, at)| Some((column, (*at)?)));
    let typed = there.filter(|(column, _)| column.holds != "text").map(|(column, at)| {
        let of = || Field::ALL[..NUMBERS].iter().copied().find(|field| field.name() == column.name);
        Typed {
            column,
            at,
            optional: column.holds.ends_with("or nothing"),
            number: (column.holds == "a number or nothing").then(of).flatten(),
        }
    });
    typed.collect()
}

fn list(header: &[String]) -> String {
    let shown = header.iter().take(20).map(|name| name.chars().take(40).collect::<String>());
    let mut text = shown.collect::<Vec<_>>().join(", ");
    if header.len() > 20 {
        text += ", …";
    }
    text
}

/// One line, cell by cell.
pub struct Cells<'a> {
    /// How to look at it.
    pub view: &'a View,
    /// Its number in the file.
    pub line: u64,
    cells: &'a [Cow<'a, str>],
    /// Numbers in migbench's units; NaN where there is none.
    numbers: [f64; NUMBERS],
}

impl<'a> Cells<'a> {
    /// Reads the numbers; a cell that is none is absent here.
    pub fn new(view: &'a View, line: u64, cells: &'a [Cow<'a, str>]) -> Cells<'a> {
        let mut numbers = [f64::NAN; NUMBERS];
        for (i, number) in numbers.iter_mut().enumerate() {
            let text = view.index[i].map_or("", |at| trim(&cells[at]));
            if !text.is_empty() {
                *number = text.parse().unwrap_or(f64::NAN) * view.scales[i];
            }
        }
        Cells { view, line, cells, numbers }
    }

    /// A finite number.
    #[inline]
    pub fn number(&self, field: Field) -> Option<f64> {
        Some(self.numbers[field as usize]).filter(|number| number.is_finite())
    }

    /// The cell as it stands.
    #[inline]
    pub fn text(&self, field: Field) -> &'a str {
        self.view.index[field as usize].map_or("", |at| self.cells[at].as_ref())
    }

    /// By the column's place.
    pub fn at(&self, column: usize) -> &'a str {
        self.cells[column].as_ref()
    }

    /// How far the true value may lie from the printed one, relative to it: one unit of the last
    /// digit, so that truncated numbers pass as well as rounded ones.
    pub fn slack(&self, field: Field) -> f64 {
        let text = self.text(field).trim();
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let decimals = mantissa.split_once('.').map_or(0, |(_, digits)| digits.len() as i32);
        let exponent: i32 = exponent.parse().unwrap_or(0);
        match mantissa.parse::<f64>() {
            Ok(value) if value != 0.0 => 10f64.powi(-decimals) / value.abs(),
            _ => 10f64.powi(exponent),
        }
    }

    /// Is `word` among the `;`-separated ones?
    pub fn warns(&self, word: &str) -> bool {
        self.text(Field::Warnings).split(';').any(|warning| warning == word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_a_column() {
        for field in Field::ALL {
            assert!(COLUMNS.iter().any(|column| column.name == field.name()), "{field:?}");
        }
        for field in &Field::ALL[..NUMBERS] {
            let column = COLUMNS.iter().find(|column| column.name == field.name()).unwrap();
            assert!(column.holds.contains("number"), "{field:?}");
        }
    }

    #[test]
    fn a_mapping_names_meanings() {
        let parse = |text: &str| Mapping::parse(&text.split(',').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(
            parse("latency=ms,batch=bs,latency_p99_ms=tail").unwrap(),
            [(Field::Mean, "ms".into()), (Field::Batch, "bs".into()), (Field::P99, "tail".into())]
        );
        let message = |text: &str| parse(text).unwrap_err().to_string();
        assert_eq!(message("latency"), "--columns 'latency' is not MEANING=COLUMN, as latency=latency_ms");
        assert!(message("latencies=x").starts_with("--columns: there is no 'latencies'; latency, batch,"));
        assert_eq!(message("latency=x,mean=y"), "--columns names two columns for mean");
    }

    #[test]
    fn printed_digits_leave_slack() {
        let mapping = Mapping {
            columns: vec![(Field::Mean, "l".into()), (Field::Batch, "b".into())],
            unit: LatencyUnit::Microseconds,
        };
        let view = View::new(vec!["b".into(), "l".into()], Some(&mapping)).unwrap();
        let slack = |text: &'static str| {
            let cells = [Cow::Borrowed("1"), Cow::Borrowed(text)];
            Cells::new(&view, 2, &cells).slack(Field::Mean)
        };
        assert_eq!((slack("5"), slack("2.50"), slack("1.0e-3")), (0.2, 0.004, 0.1));
        let cells = [Cow::Borrowed("8"), Cow::Borrowed(" 2500 ")];
        let row = Cells::new(&view, 2, &cells);
        assert_eq!((row.number(Field::Mean), row.number(Field::Batch)), (Some(2.5), Some(8.0)));
        assert_eq!(row.number(Field::P50), None);
    }

    #[test]
    fn a_file_of_another_tool_needs_a_mapping() {
        let header = || vec!["a".to_owned(), "b".to_owned()];
        let error = View::new(header(), None).unwrap_err().to_string();
        assert!(error.starts_with("these are not migbench's columns:") && error.ends_with("it has a, b"));
        let mapping = Mapping { columns: vec![(Field::Mean, "c".into())], unit: LatencyUnit::default() };
        let error = View::new(header(), Some(&mapping)).unwrap_err().to_string();
        assert_eq!(error, "there is no column 'c'; it has a, b");
    }
}
