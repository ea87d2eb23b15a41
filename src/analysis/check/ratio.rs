//! A column that is off in every row is off for a reason: a unit, or batches taken for samples.

use super::field::Field;

/// Ratios this close to each other are one.
const SAME: f64 = 0.02;

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
}

impl Ratios {
    /// One row.
    pub fn add(&mut self, field: Field, ratio: f64, batch: f64) {
        if !(ratio.is_finite() && ratio > 0.0 && batch >= 1.0) {
            return;
        }
        let spread = self.of(field);
        spread.rows += 1;
        for ((low, high), value) in spread.ranges.iter_mut().zip([ratio, ratio / batch, ratio * batch]) {
            (*low, *high) = (low.min(value), high.max(value));
        }
    }

    fn of(&mut self, field: Field) -> &mut Spread {
        let at = self.columns.iter().position(|(known, _)| *known == field).unwrap_or_else(|| {
            self.columns.push((field, Spread { rows: 0, ranges: [(f64::INFINITY, 0.0); 3] }));
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
                *a = (a.0.min(b.0), a.1.max(b.1));
            }
        }
    }

    /// What the columns that are off have in common, given their names in the file.
    pub fn explain(&self, name: impl Fn(&str) -> String) -> Vec<String> {
        let mut columns: Vec<_> = self.columns.iter().map(|(field, spread)| (field.name(), spread)).collect();
        columns.sort_by_key(|(column, _)| *column);
        columns.into_iter().filter_map(|(column, spread)| spread.explain(&name(column))).collect()
    }
}

impl Spread {
    fn explain(&self, column: &str) -> Option<String> {
        let steady = |&(low, high): &(f64, f64)| high / low - 1.0 <= SAME;
        let middle = |&(low, high): &(f64, f64)| (low * high).sqrt();
        let is_one = |value: f64| (value - 1.0).abs() <= SAME;
        let [plain, per_batch, times_batch] = &self.ranges;
        let rows = self.rows;
        if rows < 2 || (is_one(plain.0) && is_one(plain.1)) {
            return None;
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
            let hint = if unit { ": is a latency in another unit (--latency-unit)?" } else { "" };
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
    use super::*;

    fn explain(ratios: &[(f64, f64)]) -> Vec<String> {
        let mut all = Ratios::default();
        for chunk in ratios.chunks(2) {
            let mut some = Ratios::default();
            for &(ratio, batch) in chunk {
                some.add(Field::Throughput, ratio, batch);
            }
            all.append(some);
        }
        all.explain(|_| "qps".into())
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
