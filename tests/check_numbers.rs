//! Changing any one number that an identity binds makes `check` say so: each of them in turn, by
//! small and by large factors. docs/checks.md lists them; the list there is the one that is tried.

#[path = "../benches/simulate/mod.rs"]
mod simulate;

use migbench::analysis::check::Checker;
use migbench::results::lines::Lines;
use migbench::results::{COLUMNS, Row, header};
use simulate::{Random, batches, file, measured, template};
use std::fs;

/// A row with every column that a rule binds.
fn complete() -> Row {
    let mut random = Random::new(3);
    let latencies = batches(&mut random, 7_000, 9e6, 0.05, 0.3);
    let mut row = measured(template(8, 0), &latencies);
    // Response times: each batch a millisecond late.
    let late: Vec<u64> = latencies.iter().map(|ns| ns + 1_000_000).collect();
    let response = measured(template(8, 0), &late);
    row.response.mean = response.latency.mean;
    row.response.p50 = response.latency.p50;
    row.response.p90 = response.latency.p90;
    row.response.p999 = response.latency.p999;
    row.response.p99 = response.latency.p99;
    row.response.max = response.latency.max;
    row.histograms.response = response.histograms.latency;
    row.window.batches_common = row.window.batches;
    row.stages.compute_p50 = Some(8.0);
    row.stages.enqueue_p50 = Some(1.0);
    row
}

/// The cells of a row; the checker's findings about them.
fn findings(cells: &[String]) -> Vec<(u64, String, String)> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(header()).unwrap();
    writer.write_record(cells).unwrap();
    let bytes = writer.into_inner().unwrap();
    let mut lines = Lines::new(bytes.as_slice());
    let mut checker = Checker::new("a.csv", 50);
    while let Some(chunk) = lines.next_chunk(usize::MAX).unwrap() {
        checker.lines(&chunk).unwrap();
    }
    let report = checker.finish();
    let kept = report.findings.kept().into_iter();
    kept.map(|f| (f.line, f.column.clone(), f.rule.to_owned())).collect()
}

fn cells(row: &Row) -> Vec<String> {
    let bytes = file([row]);
    let mut reader = csv::Reader::from_reader(bytes.as_slice());
    reader.records().next().unwrap().unwrap().iter().map(str::to_owned).collect()
}

/// Column and the smallest change that must be seen, from the table of docs/checks.md.
fn bound_columns() -> Vec<(String, f64)> {
    let text = fs::read_to_string("docs/checks.md").unwrap();
    let section =
        text.split("## Numbers that an identity binds").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let change = cells[2].trim_end_matches('%').trim();
        (cells[1].trim_matches('`').to_owned(), change.parse::<f64>().unwrap() / 100.0)
    })
    .collect()
}

#[test]
fn the_complete_row_holds_together() {
    assert_eq!(findings(&cells(&complete())), []);
}

#[test]
fn every_bound_number_is_held() {
    let good = cells(&complete());
    let columns = bound_columns();
    assert!(columns.len() >= 27, "the table in docs/checks.md is read wrongly: {columns:?}");
    for (column, change) in columns {
        let at = header().iter().position(|name| *name == column).unwrap_or_else(|| panic!("{column}"));
        let value: f64 = good[at].parse().unwrap_or_else(|_| panic!("{column} is '{}'", good[at]));
        let factors = [1.0 - change, 1.0 + change, 0.5, 2.0, 1e-3, 1e3, 8.0, 0.125];
        let mut tried: Vec<String> = factors
            .into_iter()
            .filter(|factor| (factor - 1.0).abs() >= change)
            .map(|factor| value * factor)
            .map(|value| if good[at].contains('.') { value.to_string() } else { value.round().to_string() })
            .collect();
        tried.extend(["0", "-1", "NaN", "inf", "x"].map(str::to_owned));
        for text in tried.into_iter().filter(|text| *text != good[at]) {
            let mut changed = good.clone();
            changed[at].clone_from(&text);
            let found = findings(&changed);
            assert!(
                found.iter().any(|(line, _, _)| *line == 2),
                "{column}: {} became {text} unseen",
                good[at]
            );
        }
    }
}

/// Whatever else binds a number: it is finite, and none but the drift is negative.
#[test]
fn no_column_takes_what_cannot_be_measured() {
    let good = cells(&complete());
    let numbers = COLUMNS.iter().enumerate().filter(|(_, column)| column.holds.contains("number"));
    for (at, column) in numbers {
        for text in ["NaN", "inf", "-inf", "-1", "1 000", "x"] {
            let mut changed = good.clone();
            text.clone_into(&mut changed[at]);
            let found = findings(&changed);
            assert!(found.iter().any(|(_, named, _)| named == column.name), "{}: {text} unseen", column.name);
        }
    }
}

/// An empty cell where there was a number.
#[test]
fn a_number_that_is_gone_is_missed() {
    let good = cells(&complete());
    for column in [
        "latency_mean_ms",
        "latency_p50_ms",
        "latency_p99_ms",
        "latency_p999_ms",
        "latency_p99_upper_ms",
        "throughput",
        "throughput_wall",
        "tflops",
        "gbytes_per_s",
        "batches",
        "elapsed_s",
        "latency_histogram",
    ] {
        let at = header().iter().position(|name| *name == column).unwrap();
        let mut changed = good.clone();
        changed[at].clear();
        assert!(findings(&changed).iter().any(|(_, named, _)| named == column), "{column}");
    }
}

/// Any one character of a histogram.
#[test]
fn a_histogram_that_lies_is_caught() {
    let good = cells(&complete());
    let at = header().iter().position(|name| *name == "latency_histogram").unwrap();
    let length = good[at].len();
    let mut seen = 0;
    for i in 0..length {
        let mut bytes = good[at].clone().into_bytes();
        bytes[i] = if bytes[i] == b'A' { b'B' } else { b'A' };
        let mut changed = good.clone();
        changed[at] = String::from_utf8(bytes).unwrap();
        seen += usize::from(!findings(&changed).is_empty());
    }
    // zlib's own sum catches all but the bits that base64 pads with.
    assert!(seen + 1 >= length, "{seen} of {length}");
    // Another row's histogram is whole, and not this row's.
    let mut random = Random::new(4);
    let other = cells(&measured(template(8, 0), &batches(&mut random, 7_000, 9e6, 0.05, 0.3)));
    let mut changed = good;
    changed[at].clone_from(&other[at]);
    assert!(!findings(&changed).is_empty());
}
