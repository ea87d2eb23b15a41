//! Which cell of a line means what: migbench's own columns by name, another tool's by a mapping.

use crate::results::table::by_other_separator;
use crate::results::{self, COLUMNS, Column};
use anyhow::{Result, anyhow, bail};
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

/// The unit of times in another tool's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum TimeUnit {
    Seconds,
    Milliseconds,
    Microseconds,
    Nanoseconds,
}

impl TimeUnit {
    fn to_ms(self) -> f64 {
        match self {
            TimeUnit::Seconds => 1e3,
            TimeUnit::Milliseconds => 1.0,
            TimeUnit::Microseconds => 1e-3,
            TimeUnit::Nanoseconds => 1e-6,
        }
    }
}

/// What the columns of another tool's file mean, and how it is written.
#[derive(Clone, Debug, PartialEq)]
pub struct Mapping {
    /// A field and the name of the column that holds it.
    pub columns: Vec<(Field, String)>,
    /// Of all latencies.
    pub latency_unit: TimeUnit,
    /// Of the length of the measurement.
    pub elapsed_unit: TimeUnit,
    /// What separates cells; the comma without one.
    pub separator: Option<char>,
    /// Numbers have a comma before their decimals.
    pub decimal_comma: bool,
}

impl Mapping {
    /// Of these columns, in migbench's own units.
    pub fn new(columns: Vec<(Field, String)>) -> Mapping {
        Mapping {
            columns,
            latency_unit: TimeUnit::Milliseconds,
            elapsed_unit: TimeUnit::Seconds,
            separator: None,
            decimal_comma: false,
        }
    }

    /// By which the cells of a field are multiplied.
    fn scale(&self, field: Field) -> f64 {
        match field {
            Field::Elapsed => self.elapsed_unit.to_ms() / TimeUnit::Seconds.to_ms(),
            _ if field.name().ends_with("_ms") => self.latency_unit.to_ms(),
            _ => 1.0,
        }
    }
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
    /// From `latency=latency_ms,batch=batch_size`: meaning = column. A column whose name holds a comma may stand
    /// in quotes.
    ///
    /// # Errors
    /// A meaning that there is not, one given twice, or a column with two meanings.
    pub fn parse(texts: &[String]) -> Result<Vec<(Field, String)>> {
        let mut columns: Vec<(Field, String)> = Vec::new();
        for (meaning, column) in pairs(texts)? {
            let Some(field) = meant(&meaning) else {
                bail!(
                    "--columns: there is no '{meaning}'; latency, batch, throughput, profile, {} and the \
                     names in docs/columns.md have a meaning; quote a column's name that holds a comma",
                    SHORT[2..].iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
                )
            };
            if columns.iter().any(|(known, _)| *known == field) {
                bail!("--columns names two columns for {meaning}");
            }
            if let Some((other, _)) = columns.iter().find(|(_, known)| *known == column) {
                bail!(
                    "--columns: the column '{column}' can't be both {} and {meaning}: compared with itself it would \
                     always hold",
                    other.short()
                );
            }
            columns.push((field, column));
        }
        Ok(columns)
    }
}

/// The field of a short name, or of a column of migbench's.
fn meant(meaning: &str) -> Option<Field> {
    let short = SHORT.iter().find(|(name, _)| *name == meaning).map(|(_, field)| *field);
    short.or_else(|| Field::ALL.iter().copied().find(|field| field.name() == meaning))
}

impl Field {
    /// As a user may call it.
    pub fn short(self) -> &'static str {
        SHORT.iter().find(|(_, field)| *field == self).map_or(self.name(), |(name, _)| name)
    }
}

/// Meanings and names of columns. A comma separates pairs, but not within quotes, and not where no meaning
/// follows it.
fn pairs(texts: &[String]) -> Result<Vec<(String, String)>> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for text in texts {
        let mut rest = text.as_str();
        let mut first = true;
        while !rest.is_empty() {
            let bad = |part: &str| anyhow!("--columns '{part}' is not MEANING=COLUMN, as latency=latency_ms");
            let next = rest.find(',').unwrap_or(rest.len());
            match rest.split_once('=').filter(|(meaning, _)| meaning.len() < next) {
                Some((meaning, column)) => {
                    let (name, after) = column_name(column)?;
                    pairs.push((meaning.trim().to_owned(), name));
                    rest = after;
                }
                // The name of the last column goes on.
                None if !first && meant(rest[..next].trim()).is_none() => {
                    let (_, name) = pairs.last_mut().ok_or_else(|| bad(rest))?;
                    name.push(',');
                    name.push_str(rest[..next].trim_end());
                    rest = rest.get(next + 1..).unwrap_or_default();
                }
                None => return Err(bad(rest[..next].trim())),
            }
            first = false;
        }
    }
    Ok(pairs)
}

/// A name up to the next comma, or in quotes, and what follows that comma.
fn column_name(text: &str) -> Result<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (name, rest) = text.split_once(',').unwrap_or((text, ""));
        return Ok((name.trim().to_owned(), rest));
    };
    let mut end = quoted.find('"');
    while let Some(at) = end.filter(|&at| quoted[at + 1..].starts_with('"')) {
        end = quoted[at + 2..].find('"').map(|next| at + 2 + next);
    }
    let closed = end.map(|at| (quoted[..at].replace("\"\"", "\""), quoted[at + 1..].trim_start()));
    match closed {
        Some((name, "")) => Ok((name, "")),
        Some((name, rest)) if rest.starts_with(',') => Ok((name, &rest[1..])),
        _ => bail!("--columns: the quotes in '{text}' do not match: write latency=\"Latency, mean (ms)\""),
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
    decimal_comma: bool,
}

impl View {
    /// Of a file with migbench's own header.
    ///
    /// # Errors
    /// Not migbench's columns.
    pub fn own(header: Vec<String>) -> Result<View> {
        let at = |name: &str| header.iter().position(|column| column == name);
        let known = COLUMNS.iter().filter(|column| at(column.name).is_some()).count();
        if at("schema_version").is_none() || 2 * known < COLUMNS.len() {
            if let Some((separator, _)) = by_other_separator(&header.join(","), ',')
                .find(|(_, names)| names.iter().any(|name| name == "schema_version"))
            {
                bail!("its cells are separated by {separator:?}, not by ',': save it with commas");
            }
            bail!(
                "these are not migbench's columns: if it is another tool's file, say what they mean with \
                 --columns latency=…,batch=…,throughput=…; it has {}",
                list(&header)
            );
        }
        let mut index = vec![None; Field::ALL.len()];
        for &field in Field::ALL {
            index[field as usize] = at(field.name());
        }
        let places = results::places(&header);
        let typed = typed(places.as_deref().unwrap_or_default());
        Ok(View { header, own: true, places, index, typed, scales: [1.0; NUMBERS], decimal_comma: false })
    }

    /// Of another tool's file with this header, `first_line` as it stands.
    ///
    /// # Errors
    /// A mapped column that isn't there, or is there twice.
    pub fn mapped(header: Vec<String>, first_line: &str, separator: char, mapping: &Mapping) -> Result<View> {
        let mut index = vec![None; Field::ALL.len()];
        for (field, column) in &mapping.columns {
            let mut places = header.iter().enumerate().filter(|(_, name)| *name == column).map(|(at, _)| at);
            let Some(found) = places.next() else {
                bail!(missing(column, &header, first_line, separator, mapping))
            };
            if let Some(again) = places.next() {
                bail!(
                    "the column '{column}' is there twice, as columns {} and {}: rename the one that is not meant",
                    found + 1,
                    again + 1
                );
            }
            index[*field as usize] = Some(found);
        }
        let scales = std::array::from_fn(|i| mapping.scale(Field::ALL[i]));
        let (typed, decimal_comma) = (Vec::new(), mapping.decimal_comma);
        Ok(View { header, own: false, places: None, index, typed, scales, decimal_comma })
    }

    /// What the file calls this field.
    pub fn column(&self, field: Field) -> &str {
        self.index[field as usize].map_or(field.name(), |at| self.header[at].as_str())
    }

    /// Is there a column for it?
    pub fn has(&self, field: Field) -> bool {
        self.index[field as usize].is_some()
    }

    /// Is it the meaning of this column?
    pub fn means(&self, column: usize) -> bool {
        self.index.contains(&Some(column))
    }

    /// The number in a cell; NaN of what is none.
    fn parse(&self, text: &str) -> f64 {
        self.normal(text).parse().unwrap_or(f64::NAN)
    }

    /// Another tool's number with a decimal point and without the separators of its thousands.
    pub fn normal<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let text = trim(text);
        if self.own {
            return Cow::Borrowed(text);
        }
        let (group, point) = if self.decimal_comma { ('.', ',') } else { (',', '.') };
        let (whole, decimals) = text.split_once(point).unwrap_or((text, ""));
        let grouped = is_grouped(whole, group) && !decimals.contains(group);
        match (grouped, self.decimal_comma) {
            (false, true) if !text.contains('.') => Cow::Owned(text.replacen(',', ".", 1)),
            // Neither a group of thousands nor a decimal: 2.5 among numbers with a comma.
            (false, true) if text.contains('.') => Cow::Borrowed("?"),
            (false, _) => Cow::Borrowed(text),
            (true, _) => Cow::Owned(format!("{}.{decimals}0", whole.replace(group, ""))),
        }
    }
}

/// Is it 1,000 or 12,345,678: groups of three digits after a first of one to three?
fn is_grouped(whole: &str, group: char) -> bool {
    let digits = whole.strip_prefix('-').unwrap_or(whole);
    let mut parts = digits.split(group);
    let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let first = parts.next().unwrap_or_default();
    let rest: Vec<&str> = parts.collect();
    (1..=3).contains(&first.len())
        && is_number(first)
        && !first.starts_with('0')
        && !rest.is_empty()
        && rest.iter().all(|part| part.len() == 3 && is_number(part))
}

/// Why a column can't be found: the first line is no header, or another separator makes one of it.
fn missing(column: &str, header: &[String], first_line: &str, separator: char, mapping: &Mapping) -> String {
    let found =
        |names: &[String]| mapping.columns.iter().filter(|(_, wanted)| names.contains(wanted)).count();
    let other = by_other_separator(first_line, separator)
        .max_by_key(|(_, names)| (found(names), names.len()))
        .filter(|(_, names)| found(names) > found(header) || header.len() == 1);
    if let Some((other, _)) = other {
        let name = if other == '\t' { "tab".to_owned() } else { format!("'{other}'") };
        return format!("its cells are separated by {name}, not by {separator:?}: say --separator {name}");
    }
    if first_line.starts_with('#') {
        return format!(
            "it begins with a comment, not with the header that has '{column}': remove the lines that begin with '#'"
        );
    }
    match header {
        [only] => format!(
            "there is no column '{column}': '{}' is no header of a CSV file",
            only.chars().take(40).collect::<String>()
        ),
        _ => format!("there is no column '{column}'; it has {}", list(header)),
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
                *number = view.parse(text) * view.scales[i];
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

    /// How far the true value may lie from another tool's printed one, in migbench's unit: one unit of
    /// the last digit, so that truncated numbers pass as well as rounded ones.
    pub fn unit(&self, field: Field) -> f64 {
        let text = self.view.normal(self.text(field));
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((&text, "0"));
        let decimals = mantissa.split_once('.').map_or(0, |(_, digits)| digits.len() as i32);
        let exponent: i32 = exponent.parse().unwrap_or(0);
        10f64.powi(exponent.saturating_sub(decimals)) * self.view.scales[field as usize]
    }

    /// Numbers in columns that nobody has given a meaning.
    pub fn unmapped(&self) -> impl Iterator<Item = (usize, f64)> {
        let cells = self.cells.iter().enumerate().filter(|(at, _)| !self.view.means(*at));
        cells.filter_map(|(at, cell)| Some((at, self.view.normal(cell).parse().ok()?)))
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
        assert!(
            message("latency=x,max=x").starts_with("--columns: the column 'x' can't be both latency and max")
        );
    }

    #[test]
    fn a_column_s_name_may_hold_a_comma() {
        let parse = |texts: &[&str]| {
            let columns = Mapping::parse(&texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>());
            columns.map(|columns| columns.into_iter().map(|(_, name)| name).collect::<Vec<_>>())
        };
        let name = "Latency, mean (ms)";
        assert_eq!(parse(&["latency=Latency, mean (ms),batch=b"]).unwrap(), [name, "b"]);
        assert_eq!(parse(&["latency=\"Latency, mean (ms)\",batch=b"]).unwrap(), [name, "b"]);
        assert_eq!(parse(&["batch=b", "latency=Latency, mean (ms)"]).unwrap(), ["b", name]);
        assert_eq!(parse(&["latency=\"a=1, \"\"b\"\"\" , batch=b"]).unwrap(), ["a=1, \"b\"", "b"]);
        assert_eq!(parse(&["latency=a=b"]).unwrap(), ["a=b"]);
        let message = |text: &str| parse(&[text]).unwrap_err().to_string();
        assert_eq!(
            message("latency=a,batch"),
            "--columns 'batch' is not MEANING=COLUMN, as latency=latency_ms"
        );
        assert!(message("latency=\"a").contains("quotes in '\"a' do not match"));
        assert!(message("latency=\"a\"b").contains("do not match"));
    }

    fn view(header: &[&str], mapping: &Mapping) -> Result<View> {
        let header: Vec<String> = header.iter().map(|&name| name.to_owned()).collect();
        View::mapped(header.clone(), &header.join(","), ',', mapping)
    }

    #[test]
    fn printed_digits_leave_slack() {
        let columns = vec![(Field::Mean, "l".into()), (Field::Batch, "b".into())];
        let mapping = Mapping { latency_unit: TimeUnit::Microseconds, ..Mapping::new(columns) };
        let view = view(&["b", "l"], &mapping).unwrap();
        let unit = |text: &'static str| {
            let cells = [Cow::Borrowed("1"), Cow::Borrowed(text)];
            Cells::new(&view, 2, &cells).unit(Field::Mean) * 1e3
        };
        let near = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-9;
        for (text, expected) in [("5", 1.0), ("2.50", 0.01), ("1.0e-3", 1e-4), ("0.00", 0.01), ("0", 1.0)] {
            assert!(near(unit(text), expected), "{text}: {}", unit(text));
        }
        let cells = [Cow::Borrowed("8"), Cow::Borrowed(" 2500 ")];
        let row = Cells::new(&view, 2, &cells);
        assert_eq!((row.number(Field::Mean), row.number(Field::Batch)), (Some(2.5), Some(8.0)));
        assert_eq!(row.number(Field::P50), None);
    }

    #[test]
    fn numbers_of_other_tools() {
        let read = |decimal_comma: bool, text: &str| {
            let columns = vec![(Field::Mean, "l".into())];
            let view = view(&["l"], &Mapping { decimal_comma, ..Mapping::new(columns) }).unwrap();
            let cells = [Cow::Owned(text.to_owned())];
            Cells::new(&view, 2, &cells).number(Field::Mean)
        };
        for (text, number) in [
            ("2.5", Some(2.5)),
            ("6,655.52", Some(6655.52)),
            ("2,000", Some(2000.0)),
            ("-1,234,567", Some(-1_234_567.0)),
            ("1e3", Some(1000.0)),
            ("2,0", None),
            ("0,500", None),
            ("12,34,567", None),
            ("1,234,56", None),
            ("4.0 ms", None),
            ("50%", None),
            ("N/A", None),
        ] {
            assert_eq!(read(false, text), number, "{text}");
        }
        for (text, number) in [
            ("2,5", Some(2.5)),
            ("1.234,5", Some(1234.5)),
            ("500", Some(500.0)),
            ("2.5", None),
            ("2,5 ms", None),
        ] {
            assert_eq!(read(true, text), number, "{text}");
        }
    }

    #[test]
    fn a_header_says_what_is_wrong_with_it() {
        let error = View::own(vec!["a".to_owned(), "b".to_owned()]).unwrap_err().to_string();
        assert!(error.starts_with("these are not migbench's columns:") && error.ends_with("it has a, b"));
        let own = results::header().join(";");
        let error = View::own(vec![own]).unwrap_err().to_string();
        assert_eq!(error, "its cells are separated by ';', not by ',': save it with commas");
        let mapping = Mapping::new(vec![(Field::Mean, "c".into())]);
        let message = |header: &[&str]| view(header, &mapping).unwrap_err().to_string();
        assert_eq!(message(&["a", "b"]), "there is no column 'c'; it has a, b");
        assert_eq!(message(&["a;b;c"]), "its cells are separated by ';', not by ',': say --separator ';'");
        assert_eq!(message(&["a\tc"]), "its cells are separated by tab, not by ',': say --separator tab");
        assert_eq!(
            message(&["a | c | d"]),
            "its cells are separated by '|', not by ',': say --separator '|'"
        );
        assert_eq!(message(&["===="]), "there is no column 'c': '====' is no header of a CSV file");
        assert!(message(&["# host", "x"]).contains("remove the lines that begin with '#'"));
        assert_eq!(
            message(&["c", "a", "c"]),
            "the column 'c' is there twice, as columns 1 and 3: rename the one that is not meant"
        );
    }
}
