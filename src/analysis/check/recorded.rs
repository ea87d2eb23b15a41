//! Do the columns say what the histogram beside them recorded?

use super::field::{Cells, Field};
use super::finding::{Finding, Findings};
use super::numbers::{PERCENTILES, needed};
use super::short;
use crate::results::histogram::{Reader, Slots};
use crate::results::summary::upper_bound_rank;

/// Own numbers, written unrounded from the same integers.
const EXACT: f64 = 1e-9;

/// A histogram and the columns that were taken from it.
struct Recorded {
    histogram: Field,
    count: Field,
    mean: Field,
    min: Option<Field>,
    max: Field,
    stddev: Option<Field>,
    quantiles: &'static [(Field, f64)],
    upper: Option<Field>,
}

const LATENCY: Recorded = Recorded {
    histogram: Field::LatencyHistogram,
    count: Field::Batches,
    mean: Field::Mean,
    min: Some(Field::Min),
    max: Field::Max,
    stddev: Some(Field::Stddev),
    quantiles: &PERCENTILES,
    upper: Some(Field::P99Upper),
};

const RESPONSE: Recorded = Recorded {
    histogram: Field::ResponseHistogram,
    count: Field::Batches,
    mean: Field::ResponseMean,
    min: None,
    max: Field::ResponseMax,
    stddev: None,
    quantiles: &[
        (Field::ResponseP50, 0.5),
        (Field::ResponseP90, 0.9),
        (Field::ResponseP99, 0.99),
        (Field::ResponseP999, 0.999),
    ],
    upper: None,
};

/// What is kept between rows.
#[derive(Default)]
pub struct Decoder {
    reader: Reader,
    slots: Slots,
    /// A count and the rank of p99's upper bound among so many: rows of one plan have few counts.
    bound: (u64, Option<u64>),
}

/// Both histograms of a row.
pub fn check(row: &Cells, decoder: &mut Decoder, findings: &mut Findings) {
    for recorded in [&LATENCY, &RESPONSE] {
        let cell = row.text(recorded.histogram);
        if cell.is_empty() {
            continue;
        }
        match decoder.reader.read(cell, &mut decoder.slots) {
            Ok(()) => {
                let slots = &decoder.slots;
                if decoder.bound.0 != slots.count {
                    decoder.bound = (slots.count, upper_bound_rank(slots.count, 0.99));
                }
                recorded.compare(row, slots, decoder.bound.1, findings);
            }
            Err(error) => {
                let expected = format!("an HdrHistogram V2 as this program writes it: {error:#}");
                let name = row.view.column(recorded.histogram);
                findings.push(Finding::new(row.line, name, "histogram", cell, expected));
            }
        }
    }
}

impl Recorded {
    fn compare(&self, row: &Cells, slots: &Slots, bound: Option<u64>, findings: &mut Findings) {
        let mut compare = Compare { row, histogram: self.histogram, findings };
        let count = slots.count as f64;
        // A server answers samples, and each of them waits for its batch.
        let samples = self.histogram == Field::ResponseHistogram && row.number(Field::Inferences).is_some();
        let counted = if samples { Field::Inferences } else { self.count };
        compare.between(counted, count, count, 1.0);
        let Some((first, last)) = slots.ends() else { return };
        let moments = Moments::of(slots, row.number(self.mean).unwrap_or(0.0) * 1e6);
        compare.between(self.mean, moments.mean.0, moments.mean.1, 1e6);
        // Beyond its range the histogram holds the nearer end.
        if !row.warns("out-of-range") {
            if let Some(min) = self.min {
                compare.between(min, first.0 as f64, first.1 as f64, 1e6);
            }
            compare.between(self.max, last.0 as f64, last.1 as f64, 1e6);
            if let Some(stddev) = self.stddev {
                compare.between(stddev, moments.deviation.0, moments.deviation.1, 1e6);
            }
        }
        self.percentiles(slots, bound, &mut compare);
    }

    fn percentiles(&self, slots: &Slots, bound: Option<u64>, compare: &mut Compare) {
        let row = compare.row;
        // The columns were clamped to the exact extremes.
        let ends = (self.min.and_then(|min| row.number(min)), row.number(self.max));
        let upper = self.upper.filter(|&field| row.number(field).is_some());
        let upper = upper.zip(bound.and_then(|rank| slots.at_rank(rank)));
        let enough = |&(field, q): &(Field, f64)| {
            if slots.count < needed(q) {
                return None;
            }
            Some((field, slots.at_rank(slots.rank(q))?))
        };
        for (field, ns) in self.quantiles.iter().filter_map(enough).chain(upper) {
            let ms = ns as f64 / 1e6;
            let clamped = ms.max(ends.0.unwrap_or(ms)).min(ends.1.unwrap_or(ms)) * 1e6;
            compare.between(field, clamped, clamped, 1e6);
        }
    }
}

/// Between which values the mean and the deviation lie.
struct Moments {
    mean: (f64, f64),
    deviation: (f64, f64),
}

impl Moments {
    /// Moving each value to the middle of its slot changes the deviation by at most the deviation,
    /// and so the root mean square, of the moves. `near` is about the mean: sums of squares are taken
    /// from there, so that they do not cancel.
    fn of(slots: &Slots, near: f64) -> Moments {
        let count = slots.count as f64;
        let sums = slots.sums(near);
        let (mean, half) = (sums.values / count, sums.halves / count);
        let deviation = (sums.squares / count - mean * mean).max(0.0).sqrt();
        let slack = (sums.half_squares / count).sqrt();
        Moments {
            mean: (near + mean - half, near + mean + half),
            deviation: ((deviation - slack).max(0.0), deviation + slack),
        }
    }
}

struct Compare<'a, 'b> {
    row: &'a Cells<'b>,
    histogram: Field,
    findings: &'a mut Findings,
}

impl Compare<'_, '_> {
    /// The column times `scale` lies between `low` and `high`.
    fn between(&mut self, field: Field, low: f64, high: f64, scale: f64) {
        let Some(found) = self.row.number(field).map(|value| value * scale) else { return };
        // Half a nanosecond is below anything that is told apart.
        let slack = |end: f64| EXACT * end.abs() + 1e-3;
        if found >= low - slack(low) && found <= high + slack(high) {
            return;
        }
        let end = if found < low { low } else { high };
        let expected = if low == high {
            format!("{} by {}", short(low / scale), self.row.view.column(self.histogram))
        } else {
            let (low, high) = (short(low / scale), short(high / scale));
            format!("{low} to {high} by {}", self.row.view.column(self.histogram))
        };
        let name = self.row.view.column(field);
        let finding = Finding::new(self.row.line, name, "histogram", self.row.text(field), expected);
        self.findings.push(finding.factor(found / end));
    }
}
