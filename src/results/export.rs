//! Saved histograms in the forms of other tools: HdrHistogram's interval log and percentile
//! distribution, and JSON; merged, as if all values had been recorded in one.

use super::Row;
use super::histogram::{Reader, Slots};
use crate::measure::intervals::Metric;
use crate::measure::recorder::{DIGITS, HIGHEST_NS, LOWEST_NS, encode};
use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use jiff::Timestamp;
use serde_json::json;
use std::io::{self, Write};

/// ns in the unit of other tools' plots.
const MS: f64 = 1e6;
/// Reporting ticks for each halving of the distance to 100 %: the usual number.
const TICKS: u32 = 5;

/// A histogram and what it is of.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// `INSTANCE/WORKLOAD/BATCH/LOAD/METRIC`; no comma, no space.
    pub tag: String,
    /// Entries of one point may be merged.
    pub point: String,
    /// Seconds since 1970.
    pub start_s: f64,
    /// Seconds.
    pub length_s: f64,
    /// ns.
    pub histogram: Histogram<u64>,
}

/// The histograms of the rows that `count`, one an entry, in the order of the rows; those without are left out.
///
/// # Errors
/// A histogram that cannot be read, or that is not one of this program's.
pub fn entries(rows: &[Row], count: impl Fn(&Row) -> bool, metrics: &[Metric]) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut reader = Reader::default();
    for (number, row) in rows.iter().enumerate().filter(|(_, row)| count(row)) {
        for &metric in metrics {
            let cell = match metric {
                Metric::Latency => &row.histograms.latency,
                Metric::Response => &row.histograms.response,
            };
            let Some(cell) = cell else { continue };
            let name = metric.name();
            let histogram = histogram(&mut reader, cell)
                .with_context(|| format!("line {}: the {name} histogram", number + 2))?;
            let start: Timestamp = row
                .provenance
                .started_at
                .parse()
                .with_context(|| format!("line {}: started_at is no time", number + 2))?;
            entries.push(Entry {
                tag: tag(row, metric),
                point: format!("{}/{name}", row.provenance.point_id),
                start_s: start.as_nanosecond() as f64 / 1e9,
                length_s: row.window.elapsed_s.unwrap_or(0.0),
                histogram,
            });
        }
    }
    Ok(entries)
}

/// A saved histogram, read without trusting it.
///
/// # Errors
/// It is none, or its slots are not those that this program writes.
pub fn histogram(reader: &mut Reader, cell: &str) -> Result<Histogram<u64>> {
    let mut slots = Slots::default();
    reader.read(cell, &mut slots)?;
    let mut histogram = Histogram::new_with_bounds(LOWEST_NS, HIGHEST_NS, DIGITS).expect("valid bounds");
    for (low, high, count) in slots.iter() {
        let same = low <= HIGHEST_NS
            && histogram.lowest_equivalent(low) == low
            && histogram.highest_equivalent(low) == high;
        ensure!(same, "its slot from {low} to {high} is not one of {DIGITS} digits");
        histogram.record_n(low, count).context("its counts overflow")?;
    }
    Ok(histogram)
}

/// Which instance, what, and which metric.
fn tag(row: &Row, metric: Metric) -> String {
    let instance = row.subject.instance.uuid().unwrap_or("cpu");
    tag_of(instance, &row.point.workload, row.point.batch, &row.point.load, metric)
}

/// A tag of an interval log: it may hold no comma, space or line break.
pub fn tag_of(instance: &str, workload: &str, batch: u64, load: &str, metric: Metric) -> String {
    let text = format!("{instance}/{workload}/{batch}/{load}/{}", metric.name());
    text.chars().map(|c| if c == ',' || c.is_whitespace() { ';' } else { c }).collect()
}

/// One entry a point: as if all values had been recorded in one.
pub fn merge(entries: Vec<Entry>) -> Vec<Entry> {
    let mut merged: Vec<Entry> = Vec::new();
    for entry in entries {
        match merged.iter_mut().find(|other| other.point == entry.point) {
            Some(other) => {
                other.histogram.add(&entry.histogram).expect("of the same range");
                let end = (other.start_s + other.length_s).max(entry.start_s + entry.length_s);
                other.start_s = other.start_s.min(entry.start_s);
                other.length_s = end - other.start_s;
                if other.tag != entry.tag
                    && let Some((_, what)) = other.tag.split_once('/')
                {
                    other.tag = format!("several/{what}");
                }
            }
            None => merged.push(entry),
        }
    }
    merged
}

/// The first lines of an interval log (HdrHistogram's format, version 1.3).
///
/// # Errors
/// The stream does not take it.
pub fn hlog_header(out: &mut dyn Write, start_s: f64) -> io::Result<()> {
    writeln!(out, "#[migbench {}: values in ns, maxima in ms]", env!("CARGO_PKG_VERSION"))?;
    writeln!(out, "#[Histogram log format version 1.3]")?;
    writeln!(out, "#[StartTime: {start_s:.3} (seconds since epoch)]")?;
    writeln!(out, "#[BaseTime: {start_s:.3} (seconds since epoch)]")?;
    writeln!(out, "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"")
}

/// One interval: `start_s` is from the log's base time on.
///
/// # Errors
/// The stream does not take it.
pub fn hlog_line(
    out: &mut dyn Write,
    tag: &str,
    start_s: f64,
    length_s: f64,
    max_ns: u64,
    histogram: &str,
) -> io::Result<()> {
    writeln!(out, "Tag={tag},{start_s:.3},{length_s:.3},{:.3},{histogram}", max_ns as f64 / MS)
}

/// An interval log of one interval an entry.
///
/// # Errors
/// The stream does not take it.
pub fn hlog(out: &mut dyn Write, entries: &[Entry]) -> io::Result<()> {
    let base = entries.iter().map(|entry| entry.start_s).fold(f64::INFINITY, f64::min);
    let base = if base.is_finite() { base } else { 0.0 };
    hlog_header(out, base)?;
    for entry in entries {
        let (from, text) = (entry.start_s - base, encode(&entry.histogram));
        hlog_line(out, &entry.tag, from, entry.length_s, entry.histogram.max(), &text)?;
    }
    Ok(())
}

/// The percentile distribution that HdrHistogram's plotter reads, in ms; a comment before each entry.
///
/// # Errors
/// The stream does not take it.
pub fn hgrm(out: &mut dyn Write, entries: &[Entry]) -> io::Result<()> {
    for entry in entries {
        let histogram = &entry.histogram;
        writeln!(out, "#[{}]", entry.tag)?;
        writeln!(
            out,
            "{:>12} {:>14} {:>10} {:>14}\n",
            "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
        )?;
        let mut seen = 0;
        for value in histogram.iter_quantiles(TICKS) {
            seen += value.count_since_last_iteration();
            let (q, ms) = (value.quantile_iterated_to(), value.value_iterated_to() as f64 / MS);
            if q < 1.0 {
                writeln!(out, "{ms:12.6} {q:2.12} {seen:10} {:14.2}", 1.0 / (1.0 - q))?;
            } else {
                writeln!(out, "{ms:12.6} {q:2.12} {seen:10}")?;
            }
        }
        let (mean, deviation) = (histogram.mean() / MS, histogram.stdev() / MS);
        writeln!(out, "#[Mean    = {mean:12.6}, StdDeviation   = {deviation:12.6}]")?;
        let (max, count) = (histogram.max() as f64 / MS, histogram.len());
        writeln!(out, "#[Max     = {max:12.6}, Total count    = {count:12}]")?;
    }
    Ok(())
}

/// An array: count, extremes, percentiles and the used slots of each entry, all in ns.
///
/// # Errors
/// The stream does not take it.
pub fn json(out: &mut dyn Write, entries: &[Entry]) -> io::Result<()> {
    let entry = |entry: &Entry| {
        let h = &entry.histogram;
        let slots: Vec<[u64; 3]> = h
            .iter_recorded()
            .map(|v| v.value_iterated_to())
            .map(|v| [h.lowest_equivalent(v), h.highest_equivalent(v), h.count_at(v)])
            .collect();
        let quantile = |q: f64| (!h.is_empty()).then(|| h.value_at_quantile(q));
        json!({
            "tag": entry.tag, "unit": "ns", "start_s": entry.start_s, "length_s": entry.length_s,
            "count": h.len(), "min": h.min(), "mean": h.mean(), "stddev": h.stdev(), "max": h.max(),
            "p50": quantile(0.5), "p90": quantile(0.9), "p95": quantile(0.95), "p99": quantile(0.99),
            "p999": quantile(0.999), "slots": slots,
        })
    };
    serde_json::to_writer_pretty(&mut *out, &entries.iter().map(entry).collect::<Vec<_>>())?;
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
    use proptest::prelude::*;

    fn row(instance: &str, values: &[u64]) -> Row {
        let mut row = Row::default();
        row.subject.instance.mig_uuid = Some(instance.into());
        row.subject.instance.kind = crate::machine::InstanceKind::Mig;
        row.provenance.started_at = "2026-11-22T18:00:00.500Z".into();
        (row.point.workload, row.point.batch, row.point.load) = ("mlp".into(), 8, "open(rate=1,x)".into());
        row.window.elapsed_s = Some(2.5);
        row.histograms.latency = Some(encode(&recorded(values)));
        row.seal();
        row
    }

    fn recorded(values: &[u64]) -> Histogram<u64> {
        let mut histogram = Histogram::new_with_bounds(LOWEST_NS, HIGHEST_NS, DIGITS).unwrap();
        values.iter().for_each(|&value| histogram.record(value).unwrap());
        histogram
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]
        /// Merging is recording in one, and an interval log says the same as the rows.
        #[test]
        fn merged_is_recorded_in_one(
            a in prop::collection::vec(1u64..10_000_000_000, 1..100),
            b in prop::collection::vec(1u64..10_000_000_000, 1..100),
        ) {
            let rows = [row("MIG-a", &a), row("MIG-b", &b)];
            let all = entries(&rows, |_| true, &[Metric::Latency]).unwrap();
            let mut log = Vec::new();
            hlog(&mut log, &all).unwrap();
            let read: Vec<_> = IntervalLogIterator::new(&log).map(Result::unwrap).collect();
            let intervals: Vec<_> = read
                .iter()
                .filter_map(|entry| match entry { LogEntry::Interval(i) => Some(i), _ => None })
                .collect();
            prop_assert_eq!(intervals.len(), 2);
            for (interval, values) in intervals.iter().zip([&a, &b]) {
                let text = interval.encoded_histogram();
                let histogram = histogram(&mut Reader::default(), text).unwrap();
                prop_assert_eq!(&histogram, &recorded(values));
                prop_assert_eq!(interval.duration().as_millis(), 2500);
            }
            let tag = intervals[0].tag().unwrap().to_string();
            prop_assert_eq!(tag, "MIG-a/mlp/8/open(rate=1;x)/latency");
            let merged = merge(all);
            prop_assert_eq!(merged.len(), 1);
            prop_assert_eq!(&merged[0].histogram, &recorded(&[a, b].concat()));
            prop_assert_eq!(&merged[0].tag, "several/mlp/8/open(rate=1;x)/latency");
        }
    }

    #[test]
    fn a_distribution_is_printed_as_the_plotter_reads_it() {
        let rows = [row("MIG-a", &[1_000_000, 2_000_000, 2_000_000, 4_000_000])];
        let all = entries(&rows, |_| true, &[Metric::Latency]);
        let mut text = Vec::new();
        hgrm(&mut text, &all.unwrap()).unwrap();
        let text = String::from_utf8(text).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "       Value     Percentile TotalCount 1/(1-Percentile)");
        assert_eq!(lines[3], "    1.000447 0.000000000000          1           1.00");
        assert!(lines.iter().any(|line| line.ends_with("1.000000000000          4")), "{text}");
        assert!(text.ends_with("Total count    =            4]\n"), "{text}");
    }

    #[test]
    fn other_slots_are_refused() {
        let mut coarse = Histogram::<u64>::new_with_bounds(1, HIGHEST_NS, 2).unwrap();
        coarse.record(1_000_003).unwrap();
        let error = histogram(&mut Reader::default(), &encode(&coarse)).unwrap_err().to_string();
        assert!(error.ends_with("is not one of 3 digits"), "{error}");
    }
}
