//! The result table on standard output.

use super::names::Names;
use crate::analysis::rounds::Folded;
use crate::results::Row;
use crate::results::row::{Health, Status};
use crate::results::summary::batches_needed;
use crate::workload::Spec;
use comfy_table::{CellAlignment, Table};
use std::io::{self, Write};

/// Column titles. Latencies are in ms, throughputs in samples/s.
const TITLES: [&str; 18] = [
    "GPU",
    "instance",
    "workload",
    "mode",
    "load",
    "in flight",
    "batch",
    "rounds",
    "p50 ms",
    "p90",
    "p99",
    "max",
    "response p50",
    "response p99",
    "compute ms",
    "samples/s",
    "wall",
    "identity",
];
/// Titles of columns of text.
const TEXT: [&str; 6] = ["GPU", "instance", "workload", "mode", "load", "identity"];

/// One line a point and instance, in the order given, and a line of reading below it for each that is
/// not plain. Numbers of several rounds are their medians.
///
/// # Errors
/// The stream does not take it.
pub fn write(out: &mut dyn Write, rows: &[Folded], names: &Names) -> io::Result<()> {
    let Some(first) = rows.first().map(|folded| &folded.row) else { return Ok(()) };
    let varies = Varies {
        workload: rows.iter().any(|f| f.row.point.workload != first.point.workload),
        mode: rows.iter().any(|f| f.row.point.mode != first.point.mode),
        load: rows.iter().any(|f| f.row.point.load != first.point.load),
        inflight: rows.iter().any(|f| f.row.point.inflight > 1),
        rounds: rows.iter().any(|f| f.rounds > 1),
    };
    let mut gpu = None;
    let mut lines: Vec<Vec<String>> = Vec::new();
    for folded in rows {
        let index = folded.row.subject.instance.gpu_index;
        let head = if names.several_gpus && gpu != Some(index) {
            index.map_or(String::new(), |index| index.to_string())
        } else {
            String::new()
        };
        gpu = Some(index);
        lines.push(cells(head, folded, names, &varies));
    }
    writeln!(out, "{}", conditions(first, &varies))?;
    if varies.rounds {
        writeln!(out, "each number is the median over its rounds; max is the largest of all of them")?;
    }
    grid(out, &TITLES, &TEXT, &lines)?;
    if varies.inflight {
        writeln!(
            out,
            "with several in flight, and where batches arrive by a schedule, wall is the throughput"
        )?;
    }
    for row in rows.iter().map(|folded| &folded.row) {
        for note in notes(row) {
            writeln!(out, "{}: {note}", place(row, names, &varies))?;
        }
    }
    Ok(())
}

/// What the table leaves open where nobody chose the workload: the first of the suite was measured, and
/// MIG divides what the others need more of. Nothing below a table without a measurement.
///
/// # Errors
/// The stream does not take it.
pub fn suggest_suite(out: &mut dyn Write, rows: &[&Row]) -> io::Result<()> {
    if rows.iter().all(|row| row.latency.mean.is_none()) {
        return Ok(());
    }
    let [measured, others @ ..] = Spec::SUITE;
    writeln!(
        out,
        "only {measured}, which computes: --workload suite adds {}, which need more of the memory",
        others.join(" and ")
    )
}

/// A table without lines; a column in which nobody has a value only takes room.
pub(super) fn grid(
    out: &mut dyn Write,
    titles: &[&str],
    text: &[&str],
    lines: &[Vec<String>],
) -> io::Result<()> {
    let used: Vec<usize> =
        (0..titles.len()).filter(|&i| lines.iter().any(|cells| !cells[i].is_empty())).collect();
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(used.iter().map(|&i| titles[i]));
    for cells in lines {
        table.add_row(used.iter().map(|&i| &cells[i]));
    }
    for (column, &i) in table.column_iter_mut().zip(&used) {
        let left = text.contains(&titles[i]);
        column.set_cell_alignment(if left { CellAlignment::Left } else { CellAlignment::Right });
        column.set_padding((0, 2));
    }
    for line in table.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// Which columns tell rows apart.
struct Varies {
    workload: bool,
    mode: bool,
    load: bool,
    inflight: bool,
    rounds: bool,
}

/// The line of the table that a note is about: `GPU 1, 3g.40gb 1/0, concurrent, batch 8`.
fn place(row: &Row, names: &Names, varies: &Varies) -> String {
    let point = &row.point;
    let gpu = row.subject.instance.gpu_index.filter(|_| names.several_gpus);
    let words = [
        gpu.map(|gpu| format!("GPU {gpu}")),
        Some(names.of_row(row)),
        Some(point.workload.clone()).filter(|_| varies.workload),
        Some(format!("{:?}", point.mode).to_lowercase()).filter(|_| varies.mode),
        Some(point.load.clone()).filter(|_| varies.load),
        Some(format!("{} in flight", point.inflight)).filter(|_| varies.inflight),
        Some(format!("batch {}", point.batch)),
    ];
    words.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// What all rows have in common.
fn conditions(row: &Row, varies: &Varies) -> String {
    let workload = Some(row.point.workload.clone()).filter(|_| !varies.workload);
    let point = &row.point;
    let mut words: Vec<String> = workload.into_iter().collect();
    words.extend(point.precision.iter().map(ToString::to_string));
    words.extend(point.gemm.iter().map(|gemm| format!("products by {gemm}")));
    if !varies.load {
        words.push(format!("{} load", point.load));
    }
    match (point.threads, point.sync) {
        (Some(1), _) => words.push("1 thread".into()),
        (Some(threads), _) => words.push(format!("{threads} threads")),
        (None, Some(sync)) => words.push(format!("{sync} wait")),
        _ => {}
    }
    if point.graph == Some(false) {
        words.push("no graph".into());
    }
    if let Some(transfers) = point.transfers {
        words.push(if transfers { "with transfers" } else { "without transfers" }.into());
    }
    words.join(", ")
}

/// The text, or nothing where it would tell no two lines apart.
pub(super) fn shown(shown: bool, text: String) -> String {
    if shown { text } else { String::new() }
}

fn cells(gpu: String, folded: &Folded, names: &Names, varies: &Varies) -> Vec<String> {
    let row = &folded.row;
    let latency = &row.latency;
    let measured = latency.mean.is_some();
    let percentile = |value: Option<f64>, q| match value {
        Some(value) => milliseconds(value),
        None if measured && !is_once(row) => format!("needs {}", batches_needed(q)),
        None => String::new(),
    };
    let identity = row.subject.identity.map_or(String::new(), |i| format!("{i:?}").to_lowercase());
    vec![
        gpu,
        names.of_row(row),
        shown(varies.workload, row.point.workload.clone()),
        shown(varies.mode, format!("{:?}", row.point.mode).to_lowercase()),
        shown(varies.load, row.point.load.clone()),
        shown(varies.inflight, row.point.inflight.to_string()),
        row.point.batch.to_string(),
        shown(varies.rounds, folded.rounds.to_string()),
        percentile(latency.p50, 0.5),
        percentile(latency.p90, 0.9),
        percentile(latency.p99, 0.99),
        latency.max.map_or(String::new(), milliseconds),
        row.response.p50.map_or(String::new(), milliseconds),
        row.response.p99.map_or(String::new(), milliseconds),
        row.stages.compute_p50.map_or(String::new(), milliseconds),
        row.rates.throughput.map_or(String::new(), rate),
        row.rates.throughput_wall.map_or(String::new(), rate),
        match row.outcome.status {
            Status::Ok => identity,
            status => format!("{status:?}").to_uppercase(),
        },
    ]
}

/// The user's program reported nothing: its whole run is the only batch.
fn is_once(row: &Row) -> bool {
    row.point.load == "once"
}

/// What a reader must know about a row before using it.
fn notes(row: &Row) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(error) = &row.outcome.error {
        notes.push(error.clone());
    }
    if let Some(seconds) = row.window.elapsed_s.filter(|_| is_once(row)) {
        notes.push(format!("the program ran for {} s", milliseconds(seconds)));
    } else if let (Some(batches), None) = (row.window.batches, row.latency.p99) {
        notes.push(format!("p99 needs {} batches, had {batches}", batches_needed(0.99)));
    }
    if !row.outcome.warnings.0.is_empty() {
        let codes = row.outcome.warnings.codes();
        let words = codes.split(';').map(|code| match code {
            "gpu-throttled" => format!("{code}{}", throttled_by(&row.health)),
            _ => code.to_owned(),
        });
        notes.push(format!("warnings: {}", words.collect::<Vec<_>>().join(", ")));
    }
    notes
}

/// What held the GPU's clock down, and for how much of the window, the longest first.
fn throttled_by(health: &Health) -> String {
    let reasons = [
        ("power cap", health.gpu_power_capped_share),
        ("heat", health.gpu_heat_capped_share),
        ("hardware slowdown", health.gpu_hw_slowdown_share),
    ];
    let mut reasons: Vec<(&str, f64)> = reasons
        .into_iter()
        .filter_map(|(what, share)| Some((what, share.filter(|&share| share > 0.0)?)))
        .collect();
    reasons.sort_by(|a, b| b.1.total_cmp(&a.1));
    let words: Vec<String> = reasons
        .iter()
        .map(|(what, share)| match (100.0 * share).round() {
            0.0 => format!("{what}: less than 1 % of the window"),
            percent => format!("{what}: {percent} % of the window"),
        })
        .collect();
    if words.is_empty() { String::new() } else { format!(" ({})", words.join(", ")) }
}

/// Four significant digits, no exponent.
fn milliseconds(value: f64) -> String {
    let decimals = (3 - value.abs().max(1e-3).log10().floor() as i32).clamp(0, 6);
    format!("{value:.0$}", decimals as usize)
}

/// Four significant digits at least.
pub(super) fn rate(value: f64) -> String {
    if value < 1000.0 { milliseconds(value) } else { format!("{value:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::rounds::fold;
    use crate::machine::InstanceKind;
    use crate::results::row::{Identity, Latency, Mode};

    fn text(rows: &[Row]) -> String {
        let mut out = Vec::new();
        let rows: Vec<&Row> = rows.iter().collect();
        write(&mut out, &fold(&rows), &Names::of(&rows)).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn row() -> Row {
        let mut row = Row::default();
        row.subject.instance.gpu_name = "STAND-IN".into();
        row.subject.identity = Some(Identity::Proven);
        (row.point.workload, row.point.load) = ("mlp".into(), "closed".into());
        (row.point.batch, row.point.threads) = (8, Some(2));
        row.window.batches = Some(61);
        row.latency =
            Latency { mean: Some(1.5), p50: Some(1.4567), max: Some(123.456), ..Latency::default() };
        (row.rates.throughput, row.rates.throughput_wall) = (Some(5333.3), Some(533.333));
        row
    }

    #[test]
    fn an_empty_percentile_says_what_it_needs() {
        let expected = "\
mlp, fp32, closed load, 2 threads
instance  batch  p50 ms       p90        p99    max  samples/s   wall  identity
STAND-IN      8   1.457  needs 64  needs 662  123.5       5333  533.3  proven
STAND-IN, batch 8: p99 needs 662 batches, had 61
";
        assert_eq!(text(&[row()]), expected);
    }

    #[test]
    fn a_failed_row_shows_its_reason_and_no_numbers() {
        let mut failed = row().failed("the worker exited");
        (failed.latency, failed.rates, failed.window) = Default::default();
        let text = text(&[failed]);
        assert!(text.contains("FAILED") && text.ends_with("batch 8: the worker exited\n"), "{text}");
        assert!(!text.contains("needs") && !text.contains("p50"), "{text}");
    }

    #[test]
    fn instances_of_one_profile_are_told_apart_and_grouped_by_gpu() {
        let place = |gpu: u32, gi: u32, mode| {
            let mut row = row();
            let instance = &mut row.subject.instance;
            instance.kind = InstanceKind::Mig;
            (instance.gpu_index, instance.gi_id, instance.ci_id) = (Some(gpu), Some(gi), Some(0));
            instance.mig_uuid = Some(format!("MIG-{gpu}-{gi}"));
            instance.profile = Some(if gi > 6 { "1g.18gb" } else { "3g.71gb" }.into());
            row.latency = Latency { p50: Some(1.5), ..Latency::default() };
            (row.point.mode, row.rates, row.window) = (mode, Default::default(), Default::default());
            row.seal();
            row
        };
        let rows = [
            place(1, 9, Mode::Isolated),
            place(0, 7, Mode::Concurrent),
            place(0, 7, Mode::Isolated),
            place(0, 2, Mode::Isolated),
        ];
        let expected = "\
mlp, fp32, closed load, 2 threads
GPU  instance     mode        batch  p50 ms  identity
0    3g.71gb      isolated        8   1.500  proven
     1g.18gb 7/0  isolated        8   1.500  proven
     1g.18gb 7/0  concurrent      8   1.500  proven
1    1g.18gb 9/0  isolated        8   1.500  proven
";
        assert_eq!(text(&rows), expected);
    }

    /// Alone and together, with one and two in flight: a note says which line it is about.
    #[test]
    fn notes_name_the_line_they_are_about() {
        let line = |mode, inflight| {
            let mut row = row();
            row.latency = Latency::default();
            (row.rates, row.window) = Default::default();
            row.outcome.error = Some("why".into());
            (row.point.mode, row.point.inflight) = (mode, inflight);
            row.seal();
            row
        };
        let text = text(&[line(Mode::Isolated, 1), line(Mode::Concurrent, 2)]);
        assert!(text.contains("\nSTAND-IN  isolated            1      8"), "{text}");
        assert!(text.contains("\nSTAND-IN, isolated, 1 in flight, batch 8: why\n"), "{text}");
        assert!(text.ends_with("\nSTAND-IN, concurrent, 2 in flight, batch 8: why\n"), "{text}");
    }

    #[test]
    fn the_suite_is_suggested_below_a_measurement() {
        let text = |row: &Row| {
            let mut out = Vec::new();
            suggest_suite(&mut out, &[row]).unwrap();
            String::from_utf8(out).unwrap()
        };
        let expected = "only bert-base, which computes: --workload suite adds resnet50 and llama-decode, which \
                        need more of the memory\n";
        assert_eq!(text(&row()), expected);
        let mut failed = row().failed("the worker exited");
        failed.latency = Latency::default();
        assert_eq!(text(&failed), "");
    }

    #[test]
    fn what_throttled_the_gpu_is_named() {
        let mut row = row();
        row.outcome.warnings.0.insert(crate::results::row::Warning::GpuThrottled);
        assert!(text(&[row.clone()]).ends_with(": warnings: gpu-throttled\n"), "a row of version 1");
        row.health.gpu_power_capped_share = Some(0.958);
        row.health.gpu_heat_capped_share = Some(0.0);
        row.health.gpu_hw_slowdown_share = Some(0.001);
        let expected = ": warnings: gpu-throttled (power cap: 96 % of the window, hardware slowdown: less than 1 % \
                        of the window)\n";
        assert!(text(&[row.clone()]).ends_with(expected), "{}", text(&[row]));
    }

    #[test]
    fn numbers_over_rounds_say_what_they_are() {
        let round = |repetition, max| {
            let mut row = row();
            row.provenance.repetition = repetition;
            row.latency.max = Some(max);
            row
        };
        let text = text(&[round(1, 3.0), round(2, 500.0), round(3, 4.0)]);
        let line = "each number is the median over its rounds; max is the largest of all of them\n";
        assert!(text.contains(line) && text.contains("  500.0  "), "{text}");
    }

    #[test]
    fn nothing_is_printed_for_no_rows() {
        assert_eq!(text(&[]), "");
    }

    #[test]
    fn four_significant_digits() {
        for (value, expected) in
            [(0.005_961, "0.005961"), (1.0, "1.000"), (12.345, "12.35"), (1234.5, "1234"), (0.0, "0.000000")]
        {
            assert_eq!(milliseconds(value), expected);
        }
    }
}
