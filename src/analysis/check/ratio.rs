//! A column that is off in every row is off for a reason: a unit, or batches taken for samples.

use super::field::{Cells, Field, View};
use std::collections::BTreeMap;

/// Ratios this close to each other are one.
const SAME: f64 = 0.02;
/// The range of no number.
const NOTHING: (f64, f64) = (f64::INFINITY, 0.0);

fn widen(range: &mut (f64, f64), (low, high): (f64, f64)) {
    *range = (range.0.min(low), range.1.max(high));
}

/// Over all rows: found over expected, and that over and times the batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ratios {
    /// Of the few columns that are computed.
    columns: Vec<(Field, Spread)>,
}

#[derive(Clone, Debug, PartialEq)]
struct Spread {
    rows: u64,
    /// (smallest, largest) of the ratio, the ratio over the batch, the ratio times the batch.
    ranges: [(f64, f64); 3],
    /// Rows and (smallest, largest) of the ratio over the number in each column without a meaning, of
    /// another tool's file.
    over: BTreeMap<usize, (u64, (f64, f64))>,
}

impl Ratios {
    /// One row.
    pub fn add(&mut self, row: &Cells, field: Field, ratio: f64, batch: f64) {
        if !(ratio.is_finite() && ratio > 0.0 && batch >= 1.0) {
            return;
        }
        let spread = self.of(field);
        if !row.view.own {
            for (column, number) in row.unmapped().filter(|(_, number)| *number > 0.0) {
                let (rows, range) = spread.over.entry(column).or_insert((0, NOTHING));
                *rows += 1;
                widen(range, (ratio / number, ratio / number));
            }
        }
        spread.rows += 1;
        for (range, value) in spread.ranges.iter_mut().zip([ratio, ratio / batch, ratio * batch]) {
            widen(range, (value, value));
        }
    }

    fn of(&mut self, field: Field) -> &mut Spread {
        let at = self.columns.iter().position(|(known, _)| *known == field).unwrap_or_else(|| {
            self.columns.push((field, Spread { rows: 0, ranges: [NOTHING; 3], over: BTreeMap::new() }));
            self.columns.len() - 1
        });
        &mut self.columns[at].1
    }

    /// Adds those of other rows.
    pub fn append(&mut self, other: Ratios) {
        for (field, theirs) in other.columns {
            let ours = self.of(field);
            ours.rows += theirs.rows;
            for (a, b) in ours.ranges.iter_mut().zip(theirs.ranges) {
                widen(a, b);
            }
            for (column, (rows, range)) in theirs.over {
                let of = ours.over.entry(column).or_insert((0, NOTHING));
                of.0 += rows;
                widen(&mut of.1, range);
            }
        }
    }

    /// What the columns that are off have in common.
    pub fn explain(&self, view: &View) -> Vec<String> {
        let mut columns: Vec<_> = self.columns.iter().collect();
        columns.sort_by_key(|(field, _)| field.name());
        columns.into_iter().filter_map(|(field, spread)| spread.explain(*field, view)).collect()
    }
}

impl Spread {
    fn explain(&self, field: Field, view: &View) -> Option<String> {
        let column = view.column(field);
        let steady = |&(low, high): &(f64, f64)| high / low - 1.0 <= SAME;
        let middle = |&(low, high): &(f64, f64)| (low * high).sqrt();
        let is_one = |value: f64| (value - 1.0).abs() <= SAME;
        let [plain, per_batch, times_batch] = &self.ranges;
        let rows = self.rows;
        if rows < 2 || (is_one(plain.0) && is_one(plain.1)) {
            return None;
        }
        let mut over = self.over.iter().filter(|(_, (of, _))| *of == rows);
        let factor = over.find(|(_, (_, range))| steady(range) && is_one(middle(range)));
        if let Some((&at, _)) = factor.filter(|_| field == Field::Throughput) {
            let factor = &view.header[at];
            return Some(format!(
                "{column} is {factor} times what it should be in all {rows} rows: if that many batches are in \
                 flight, map it as inflight={factor}"
            ));
        }
        if steady(times_batch) && is_one(middle(times_batch)) {
            return Some(format!(
                "{column} times the batch is what it should be in all {rows} rows: it counts batches, not samples"
            ));
        }
        if steady(per_batch) && is_one(middle(per_batch)) {
            return Some(format!(
                "{column} over the batch is what it should be in all {rows} rows: the batch was multiplied in twice"
            ));
        }
        if steady(plain) {
            let factor = middle(plain);
            let thousands = factor.log10() / 3.0;
            let unit = (thousands - thousands.round()).abs() < 0.003 && thousands.round() != 0.0;
            let hint = match field {
                _ if !unit => "",
                Field::Wall => ": is the elapsed time in another unit (--elapsed-unit)?",
                _ => ": is a latency in another unit (--latency-unit)?",
            };
            return Some(format!(
                "{column} is {} times what it should be in all {rows} rows{hint}",
                super::short(factor)
            ));
        }
        let off = |range: &(f64, f64), what: &str| {
            steady(range).then(|| {
                format!(
                    "{column} is {} times {what} what it should be in all {rows} rows",
                    super::short(middle(range))
                )
            })
        };
        off(per_batch, "the batch times").or_else(|| off(times_batch, "one over the batch times"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::field::Mapping;
    use super::*;
    use std::borrow::Cow;

    /// Notes on rows of a ratio, a batch and a third column without a meaning.
    fn explained(rows: &[(f64, f64, f64)]) -> Vec<String> {
        let names = ["qps", "b", "Concurrency"].map(str::to_owned).to_vec();
        let mapping = Mapping::new(vec![(Field::Throughput, "qps".into()), (Field::Batch, "b".into())]);
        let view = View::mapped(names, "qps,b,Concurrency", ',', &mapping).unwrap();
        let mut all = Ratios::default();
        for chunk in rows.chunks(2) {
            let mut some = Ratios::default();
            for &(ratio, batch, other) in chunk {
                let cells = [ratio, batch, other].map(|number| Cow::Owned(number.to_string()));
                some.add(&Cells::new(&view, 2, &cells), Field::Throughput, ratio, batch);
            }
            all.append(some);
        }
        all.explain(&view)
    }

    fn explain(ratios: &[(f64, f64)]) -> Vec<String> {
        explained(&ratios.iter().map(|&(ratio, batch)| (ratio, batch, 77.0)).collect::<Vec<_>>())
    }

    #[test]
    fn a_column_that_is_the_factor_is_named() {
        let notes = explained(&[(1.0, 8.0, 1.0), (2.0, 8.0, 2.0), (4.0, 8.0, 4.0)]);
        assert_eq!(
            notes,
            [
                "qps is Concurrency times what it should be in all 3 rows: if that many batches are in flight, map it \
              as inflight=Concurrency"
            ]
        );
        assert!(explained(&[(1.0, 8.0, 1.0), (2.0, 8.0, 2.0), (4.0, 8.0, 5.0)]).is_empty());
    }

    #[test]
    fn constants_and_batches_are_told_apart() {
        assert!(explain(&[(1.0, 1.0), (1.01, 8.0), (1.0, 32.0)]).is_empty());
        assert!(explain(&[(1.0, 1.0), (1.5, 8.0), (1.0, 32.0)]).is_empty(), "one row off is no pattern");
        let batches = explain(&[(1.0, 1.0), (0.125, 8.0), (1.0 / 32.0, 32.0)]);
        assert!(batches[0].starts_with("qps times the batch is what it should be in all 3 rows"));
        assert!(explain(&[(8.0, 8.0), (8.0, 8.0)])[0].contains("multiplied in twice"));
        let unit = explain(&[(1e-3, 1.0), (1e-3, 8.0)]);
        assert_eq!(
            unit[0],
            "qps is 0.001 times what it should be in all 2 rows: is a latency in another unit (--latency-unit)?"
        );
        assert_eq!(explain(&[(2.0, 1.0), (2.0, 8.0)])[0], "qps is 2 times what it should be in all 2 rows");
        assert_eq!(
            explain(&[(2.0, 1.0), (16.0, 8.0)])[0],
            "qps is 2 times the batch times what it should be in all 2 rows"
        );
    }
}
