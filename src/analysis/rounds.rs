//! Rows of several rounds as one: what a table of a sweep shows. Pure.

use super::stats::order::median;
use crate::machine::Instance;
use crate::results::Row;
use crate::results::row::{Mode, Status};
use std::collections::BTreeMap;

/// One point on one instance, over its rounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Folded {
    /// Medians over the rounds, but of minimum and maximum the smallest and the largest; of one round,
    /// that round.
    pub row: Row,
    /// How many rounds.
    pub rounds: usize,
}

/// Of the rows of each place (run, round, instance, point, worker), the one with the highest attempt.
pub fn latest(rows: &[Row]) -> Vec<&Row> {
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for (i, row) in rows.iter().enumerate() {
        let (p, s) = (&row.provenance, &row.subject);
        let place = format!(
            "{:?}",
            (
                &p.host,
                &p.run_id,
                p.repetition,
                s.instance.uuid(),
                &s.instance.gpu_name,
                &p.point_id,
                s.worker
            )
        );
        let kept = places.entry(place).or_insert(i);
        if p.attempt >= rows[*kept].provenance.attempt {
            *kept = i;
        }
    }
    let mut kept: Vec<usize> = places.into_values().collect();
    kept.sort_unstable();
    kept.into_iter().map(|i| &rows[i]).collect()
}

/// Where a row stands in a table: GPU, instance, workload, batch, alone before together.
fn order(row: &Row) -> impl Ord + use<> {
    let Instance { gpu_index, gi_id, ci_id, gpu_name, .. } = &row.subject.instance;
    let point = &row.point;
    (
        (*gpu_index, *gi_id, *ci_id, gpu_name.clone()),
        (
            point.workload.clone(),
            point.batch,
            point.mode == Mode::Concurrent,
            // By rate: as text, 12 comes before 2.
            (row.rates.offered.map(f64::to_bits), point.load.clone()),
            point.inflight,
        ),
        (point.corunners.clone(), row.subject.worker, row.provenance.repetition),
    )
}

/// In a table's order; rounds that are ok become one row, others stay as they are.
pub fn fold(rows: &[&Row]) -> Vec<Folded> {
    let mut sorted = rows.to_vec();
    sorted.sort_by_cached_key(|row| order(row));
    let mut groups: Vec<Vec<&Row>> = Vec::new();
    for row in sorted {
        let same = |other: &Row| {
            let (a, b) = (&row.subject, &other.subject);
            let ok = row.outcome.status == Status::Ok && other.outcome.status == Status::Ok;
            ok && (a.instance.uuid(), a.worker, &row.provenance.point_id)
                == (b.instance.uuid(), b.worker, &other.provenance.point_id)
        };
        match groups.iter_mut().rev().take(8).find(|group| same(group[0])) {
            Some(group) => group.push(row),
            None => groups.push(vec![row]),
        }
    }
    groups.iter().map(|group| Folded { row: middle(group), rounds: group.len() }).collect()
}

fn middle(rows: &[&Row]) -> Row {
    let mut row = rows[0].clone();
    if rows.len() == 1 {
        return row;
    }
    let of = |field: fn(&Row) -> Option<f64>| {
        let mut values: Vec<f64> = rows.iter().filter_map(|row| field(row)).collect();
        values.sort_by(f64::total_cmp);
        median(&values).filter(|_| values.len() == rows.len())
    };
    row.latency.mean = of(|row| row.latency.mean);
    row.latency.p50 = of(|row| row.latency.p50);
    row.latency.p90 = of(|row| row.latency.p90);
    row.latency.p99 = of(|row| row.latency.p99);
    let all = |field: fn(&Row) -> Option<f64>| rows.iter().map(move |row| field(row));
    row.latency.min = all(|row| row.latency.min).reduce(|a, b| Some(a?.min(b?))).flatten();
    let largest = |field| all(field).reduce(|a, b| Some(a?.max(b?))).flatten();
    row.latency.max = largest(|row| row.latency.max);
    row.response.max = largest(|row| row.response.max);
    row.response.p50 = of(|row| row.response.p50);
    row.response.p99 = of(|row| row.response.p99);
    row.stages.compute_p50 = of(|row| row.stages.compute_p50);
    row.rates.throughput = of(|row| row.rates.throughput);
    row.rates.throughput_wall = of(|row| row.rates.throughput_wall);
    // A table that says "needs 662" says what the shortest window had.
    row.window.batches = rows.iter().filter_map(|row| row.window.batches).min();
    for other in &rows[1..] {
        row.outcome.warnings.0.extend(&other.outcome.warnings.0);
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(repetition: u32, p50: f64) -> Row {
        let mut row = Row::default();
        row.provenance.repetition = repetition;
        row.provenance.attempt = 1;
        row.latency.p50 = Some(p50);
        (row.latency.min, row.latency.max) = (Some(p50 / 2.0), Some(p50 * 2.0));
        row.window.batches = Some(repetition.into());
        row
    }

    #[test]
    fn rounds_become_their_median_and_failures_stay() {
        let failed = row(4, 9.0).failed("x");
        let rows = [row(3, 1.0), row(1, 5.0), failed.clone(), row(2, 2.0)];
        let folded = fold(&rows.iter().collect::<Vec<_>>());
        assert_eq!(folded.len(), 2);
        assert_eq!((folded[0].rounds, folded[0].row.latency.p50), (3, Some(2.0)));
        assert_eq!(folded[0].row.window.batches, Some(1));
        let latency = &folded[0].row.latency;
        assert_eq!((latency.min, latency.max), (Some(0.5), Some(10.0)), "the extremes of all rounds");
        assert_eq!(folded[1], Folded { row: failed, rounds: 1 });
    }

    #[test]
    fn the_highest_attempt_wins() {
        let again = |attempt, p50| {
            let mut row = row(1, p50);
            row.provenance.attempt = attempt;
            row
        };
        let rows = [again(2, 2.0), again(1, 1.0), row(2, 3.0)];
        assert_eq!(latest(&rows), [&rows[0], &rows[2]]);
    }
}
