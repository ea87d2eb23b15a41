//! What neighbours cost: co-runs against the isolated runs of the same rounds. Pure.
//!
//! slowdown = mean latency concurrent / isolated, taken in each round, so that what both share (the
//! session, the card's temperature, the processors) cancels.

use super::stats::order::{geometric_mean, mean, sample_variance};
use super::stats::student;
use crate::machine::{Instance, InstanceKind};
use crate::results::Row;
use crate::results::row::{Mode, Sharing, Status};
use std::collections::BTreeMap;

/// Fewer rounds say nothing of a tail.
const P99_ROUNDS: usize = 5;
/// Of the intervals.
const LEVEL: f64 = 0.95;

/// Co-runners by what they share with an instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Company {
    /// The instance itself: workers in turn.
    pub same_instance: usize,
    /// Its GPU instance: L2, memory and copy engines.
    pub same_gi: usize,
    /// Its GPU: power, clock and the link to the host.
    pub same_gpu: usize,
    /// The host: processors, memory and links.
    pub other_gpus: usize,
}

/// Parts of a slowdown, relative to the isolated mean latency.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Split {
    /// Change of the copies (h2d + d2h).
    pub transfers: f64,
    /// Isolated compute time x (isolated / concurrent SM clock - 1); none where no clock was read.
    pub clock: Option<f64>,
    /// What is left.
    pub rest: f64,
}

/// One instance, one point, one set of co-runners.
#[derive(Clone, Debug, PartialEq)]
pub struct Slowdown {
    /// A concurrent row of it.
    pub row: Row,
    /// Who was there.
    pub company: Company,
    /// Rounds that have both.
    pub rounds: usize,
    /// Geometric mean over the rounds.
    pub ratio: f64,
    /// 95 %, by Student's t on the logarithms; none of one round.
    pub interval: Option<(f64, f64)>,
    /// Mean over the rounds; none without a stage split, and none for workers in turn on one instance.
    pub split: Option<Split>,
    /// Of p99, geometric mean; none below 5 rounds.
    pub p99_ratio: Option<f64>,
}

/// All instances together.
#[derive(Clone, Debug, PartialEq)]
pub struct Packed {
    /// A row of it.
    pub row: Row,
    /// Workers.
    pub workers: usize,
    /// Do they run on more than one GPU?
    pub over_gpus: bool,
    /// Rounds.
    pub rounds: usize,
    /// Samples/s of all, while all measured.
    pub total: f64,
    /// Over the sum of the isolated ones.
    pub of_isolated: Option<f64>,
    /// Over the whole GPU with MIG off.
    pub of_whole: Option<Whole>,
}

/// The whole GPU, by another row of the same file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Whole {
    /// Packed total over it.
    pub ratio: f64,
    /// It had one batch in flight: the host's latency is in it, and the ratio flatters the instances.
    pub latency_bound: bool,
}

/// Rows that may be compared. Not the probes of a latency target: each instance is asked at a rate of its own, and
/// what its neighbours did meanwhile is not what the point says.
fn usable<'a>(rows: &[&'a Row]) -> Vec<&'a Row> {
    let may = |row: &&Row| row.outcome.status == Status::Ok && row.slo.target.is_none();
    rows.iter().copied().filter(may).collect()
}

/// What ties a co-run to its isolated runs.
fn pair_key(row: &Row) -> String {
    let (p, point) = (&row.provenance, &row.point);
    format!(
        "{:?}",
        (
            (&p.host, &p.run_id, p.repetition, row.subject.instance.uuid()),
            (&point.workload, point.precision, point.batch, &point.load, point.inflight, point.transfers),
        )
    )
}

/// Sets of rows that measured at the same time.
fn co_runs<'a>(rows: &[&'a Row]) -> Vec<Vec<&'a Row>> {
    let mut runs: BTreeMap<(&str, &str, u32), Vec<&Row>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.point.mode == Mode::Concurrent) {
        let p = &row.provenance;
        runs.entry((&p.host, &p.run_id, p.repetition)).or_default().push(row);
    }
    let mut sets: Vec<Vec<&Row>> = Vec::new();
    for mut round in runs.into_values() {
        round.sort_by_key(|row| row.window.start_ns);
        let mut end = None;
        for row in round {
            // Runs follow one another: a window that opens before all of a run have closed is of it.
            let together = row.window.start_ns < end;
            match sets.last_mut().filter(|_| together) {
                Some(set) => set.push(row),
                None => (sets.push(vec![row]), end = None).0,
            }
            end = end.max(row.window.end_ns);
        }
    }
    sets
}

fn company(set: &[&Row], row: &Row) -> Company {
    let own = &row.subject.instance;
    let mut company = Company::default();
    for other in set.iter().filter(|other| !std::ptr::eq(**other, row)) {
        let Instance { gpu_uuid, gi_id, kind, .. } = &other.subject.instance;
        let place = if other.subject.instance.uuid() == own.uuid() {
            &mut company.same_instance
        } else if *gpu_uuid != own.gpu_uuid {
            &mut company.other_gpus
        } else if *kind == InstanceKind::Mig && *gi_id == own.gi_id {
            &mut company.same_gi
        } else {
            &mut company.same_gpu
        };
        *place += 1;
    }
    company
}

/// Of every instance that was measured alone and with others in the same round, in the rows' order.
pub fn slowdowns(rows: &[&Row]) -> Vec<Slowdown> {
    let rows = usable(rows);
    let isolated: BTreeMap<String, &Row> =
        rows.iter().filter(|row| row.point.mode == Mode::Isolated).map(|row| (pair_key(row), *row)).collect();
    // By what is compared over rounds: instance, point and company.
    type Pairs<'a> = (&'a Row, Company, BTreeMap<(String, u32), Vec<(&'a Row, &'a Row)>>);
    let mut found: BTreeMap<String, Pairs> = BTreeMap::new();
    for set in co_runs(&rows) {
        for row in &set {
            let Some(alone) = isolated.get(&pair_key(row)) else { continue };
            let company = company(&set, row);
            let key = format!("{:?}", (row.subject.instance.uuid(), &row.provenance.point_id, company));
            let round = (row.provenance.run_id.clone(), row.provenance.repetition);
            let (.., rounds) = found.entry(key).or_insert_with(|| (*row, company, BTreeMap::new()));
            rounds.entry(round).or_default().push((*alone, *row));
        }
    }
    let mut all: Vec<Slowdown> =
        found.into_values().filter_map(|(row, company, rounds)| slowdown(row, company, rounds)).collect();
    let place = |s: &Slowdown| {
        let i = &s.row.subject.instance;
        let point = &s.row.point;
        let load = (point.load.clone(), point.inflight);
        (i.gpu_index, i.gi_id, i.ci_id, point.workload.clone(), point.batch, load)
    };
    all.sort_by_cached_key(place);
    all
}

fn slowdown(
    row: &Row,
    company: Company,
    rounds: BTreeMap<(String, u32), Vec<(&Row, &Row)>>,
) -> Option<Slowdown> {
    // Two workers on one instance are one replicate.
    let of = |ratio: &dyn Fn(&Row, &Row) -> Option<f64>| -> Vec<f64> {
        let round = |pairs: &Vec<(&Row, &Row)>| {
            let ratios: Option<Vec<f64>> = pairs.iter().map(|(alone, row)| ratio(alone, row)).collect();
            geometric_mean(&ratios?)
        };
        rounds.values().filter_map(round).collect()
    };
    let ratios = of(&|alone, row| Some(row.latency.mean? / alone.latency.mean?));
    let p99 = of(&|alone, row| Some(row.latency.p99? / alone.latency.p99?));
    let splits: Vec<Split> = rounds.values().flatten().filter_map(|(alone, row)| split(alone, row)).collect();
    // Workers in turn wait for each other: that is neither copies nor clock.
    let in_turn = company.same_instance > 0;
    let mut row = row.clone();
    row.subject.worker = None;
    Some(Slowdown {
        row,
        company,
        rounds: ratios.len(),
        ratio: geometric_mean(&ratios)?,
        interval: interval(&ratios),
        split: mean_split(&splits).filter(|_| !in_turn),
        p99_ratio: geometric_mean(&p99).filter(|_| p99.len() >= P99_ROUNDS),
    })
}

/// The mean logarithm plus and minus t times its standard error.
fn interval(ratios: &[f64]) -> Option<(f64, f64)> {
    let logs: Vec<f64> = ratios.iter().map(|ratio| ratio.ln()).collect();
    let error = (sample_variance(&logs)? / logs.len() as f64).sqrt();
    let half = student::quantile(LEVEL, logs.len() as u32 - 1) * error;
    let middle = mean(&logs)?;
    Some(((middle - half).exp(), (middle + half).exp()))
}

fn split(alone: &Row, row: &Row) -> Option<Split> {
    let latency = alone.latency.mean.filter(|&mean| mean > 0.0)?;
    let copies = |row: &Row| row.stages.h2d_mean.unwrap_or(0.0) + row.stages.d2h_mean.unwrap_or(0.0);
    let compute = alone.stages.compute_mean?;
    row.stages.compute_mean?;
    let transfers = (copies(row) - copies(alone)) / latency;
    let clocks = alone.health.gpu_sm_clock_mhz.zip(row.health.gpu_sm_clock_mhz.filter(|&mhz| mhz > 0.0));
    let clock = clocks.map(|(before, now)| compute * (before / now - 1.0) / latency);
    let rest = row.latency.mean? / latency - 1.0 - transfers - clock.unwrap_or(0.0);
    Some(Split { transfers, clock, rest })
}

fn mean_split(splits: &[Split]) -> Option<Split> {
    let of = |part: fn(&Split) -> f64| mean(&splits.iter().map(part).collect::<Vec<_>>());
    let clocks: Option<Vec<f64>> = splits.iter().map(|split| split.clock).collect();
    Some(Split {
        transfers: of(|split| split.transfers)?,
        clock: clocks.and_then(|clocks| mean(&clocks)),
        rest: of(|split| split.rest)?,
    })
}

/// Totals of co-runs of one workload and batch, by who was there.
pub fn packed(rows: &[&Row]) -> Vec<Packed> {
    let rows = usable(rows);
    let isolated: BTreeMap<String, f64> = rows
        .iter()
        .filter(|row| row.point.mode == Mode::Isolated)
        .filter_map(|row| Some((pair_key(row), row.rates.throughput_wall?)))
        .collect();
    type Rounds<'a> = (Vec<&'a Row>, Vec<f64>, Vec<Option<f64>>);
    let mut found: BTreeMap<String, Rounds> = BTreeMap::new();
    for set in co_runs(&rows) {
        let what = |row: &Row| (row.point.workload.clone(), row.point.batch, row.point.precision);
        let alike = set.iter().all(|row| what(row) == what(set[0]));
        let complete = set[0].point.corunners.split(';').count() + 1 == set.len();
        let Some(total) = total(&set).filter(|_| alike && complete && set.len() > 1) else { continue };
        let alone: Option<Vec<f64>> = set.iter().map(|row| isolated.get(&pair_key(row)).copied()).collect();
        // Workers in turn on one instance have that instance once.
        let shared = set.iter().any(|row| row.subject.sharing == Some(Sharing::TimeSliced));
        let alone = alone.filter(|_| !shared).map(|alone| alone.iter().sum::<f64>());
        let mut uuids: Vec<_> = set.iter().map(|row| row.subject.instance.uuid()).collect();
        uuids.sort_unstable();
        let point = &set[0].point;
        let key = format!("{:?}", (uuids, what(set[0]), &point.load, point.inflight, point.transfers));
        let (_, totals, ratios) = found.entry(key).or_insert_with(|| (set.clone(), Vec::new(), Vec::new()));
        totals.push(total);
        ratios.push(alone.map(|alone| total / alone));
    }
    let mut all = Vec::new();
    for (set, totals, ratios) in found.into_values() {
        let Some(total) = geometric_mean(&totals) else { continue };
        let gpu = |row: &Row| row.subject.instance.gpu_uuid.clone();
        let (row, workers) = (set[0], set.len());
        let over_gpus = set.iter().any(|other| gpu(other) != gpu(row));
        let ratios: Option<Vec<f64>> = ratios.into_iter().collect();
        let of_isolated = ratios.and_then(|ratios| geometric_mean(&ratios));
        // Several GPUs against one would be no comparison.
        let of_whole = whole(&rows, row)
            .filter(|_| !over_gpus)
            .map(|(wall, inflight)| Whole { ratio: total / wall, latency_bound: inflight < 2 });
        let (row, rounds) = (row.clone(), totals.len());
        all.push(Packed { row, workers, over_gpus, rounds, total, of_isolated, of_whole });
    }
    all
}

/// Samples/s of a set over the time in which all of it measured.
fn total(set: &[&Row]) -> Option<f64> {
    let from = set.iter().map(|row| row.window.start_ns).max()??;
    let to = set.iter().filter_map(|row| row.window.end_ns).min()?;
    let seconds = to.checked_sub(from).filter(|&ns| ns > 0)? as f64 / 1e9;
    let mut samples = 0;
    for row in set {
        samples += row.window.batches_common? * row.point.batch;
    }
    Some(samples as f64 / seconds)
}

/// throughput_wall and batches in flight of the whole GPU of this kind, the fastest if there are several.
fn whole(rows: &[&Row], row: &Row) -> Option<(f64, u32)> {
    let same = |other: &&&Row| {
        let (a, b) = (&row.point, &other.point);
        other.subject.instance.kind == InstanceKind::Gpu
            && row.subject.instance.kind == InstanceKind::Mig
            && other.subject.instance.gpu_name == row.subject.instance.gpu_name
            && (&a.workload, a.precision, a.batch, &a.load, a.transfers)
                == (&b.workload, b.precision, b.batch, &b.load, b.transfers)
    };
    let walls = rows.iter().filter(same).filter_map(|r| Some((r.rates.throughput_wall?, r.point.inflight)));
    walls
        .max_by(|a, b| (a.1.min(2), a.0).partial_cmp(&(b.1.min(2), b.0)).unwrap_or(std::cmp::Ordering::Equal))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn row(gi: u32, mode: Mode, repetition: u32, mean: f64, start_ms: u64) -> Row {
        let mut row = Row::default();
        row.provenance.repetition = repetition;
        let instance = &mut row.subject.instance;
        instance.kind = InstanceKind::Mig;
        (instance.gpu_index, instance.gpu_uuid) = (Some(0), Some("GPU-0".into()));
        (instance.gi_id, instance.mig_uuid) = (Some(gi), Some(format!("MIG-{gi}")));
        (row.point.mode, row.point.batch) = (mode, 8);
        if mode == Mode::Concurrent {
            row.point.corunners = "1g/mlp/8/closed".into();
        }
        (row.window.start_ns, row.window.end_ns) = (Some(start_ms * MS), Some((start_ms + 1000) * MS));
        row.window.batches_common = Some((1000.0 / mean) as u64);
        row.latency.mean = Some(mean);
        row.latency.p99 = Some(2.0 * mean);
        row.rates.throughput_wall = Some(8000.0 / mean);
        row.seal();
        row
    }

    fn sweep(rounds: u32) -> Vec<Row> {
        let mut rows = Vec::new();
        for round in 1..=rounds {
            let at = u64::from(round) * 100_000;
            rows.push(row(1, Mode::Isolated, round, 10.0, at));
            rows.push(row(2, Mode::Isolated, round, 10.0, at + 2_000));
            rows.push(row(1, Mode::Concurrent, round, 11.0, at + 4_000));
            rows.push(row(2, Mode::Concurrent, round, 12.5, at + 4_001));
        }
        rows
    }

    fn refs(rows: &[Row]) -> Vec<&Row> {
        rows.iter().collect()
    }

    #[test]
    fn ratios_are_taken_in_each_round() {
        let mut rows = sweep(5);
        // A slow round is slow in both modes.
        for row in rows.iter_mut().filter(|row| row.provenance.repetition == 3) {
            row.latency.mean = row.latency.mean.map(|mean| mean * 7.0);
        }
        let found = slowdowns(&refs(&rows));
        assert_eq!(found.len(), 2);
        assert!((found[0].ratio - 1.1).abs() < 1e-12 && (found[1].ratio - 1.25).abs() < 1e-12);
        let (low, high) = found[0].interval.unwrap();
        assert!((low - 1.1).abs() < 1e-9 && (high - 1.1).abs() < 1e-9);
        assert_eq!((found[0].rounds, found[0].p99_ratio.is_some()), (5, true));
        assert_eq!(found[0].company, Company { same_gpu: 1, ..Company::default() });
        assert_eq!(slowdowns(&refs(&sweep(4)))[0].p99_ratio, None);
        assert_eq!(slowdowns(&refs(&sweep(1)))[0].interval, None);
    }

    #[test]
    fn probes_of_a_latency_target_are_not_paired() {
        let mut rows = sweep(2);
        rows.iter_mut().for_each(|row| row.slo.target = Some("p99<=10ms".into()));
        let closed = sweep(2);
        let all: Vec<Row> = rows.iter().chain(&closed).cloned().collect();
        assert_eq!((slowdowns(&refs(&rows)), packed(&refs(&rows))), (Vec::new(), Vec::new()));
        assert_eq!(slowdowns(&refs(&all)), slowdowns(&refs(&closed)));
    }

    #[test]
    fn the_interval_is_students() {
        let (low, high) = interval(&[1.0f64.exp(), 2.0f64.exp(), 3.0f64.exp()]).unwrap();
        // 2 ± 4.302653 x 1 / sqrt(3)
        assert!((low.ln() - (2.0 - 2.484_138)).abs() < 1e-5 && (high.ln() - (2.0 + 2.484_138)).abs() < 1e-5);
    }

    #[test]
    fn a_slowdown_is_split_into_copies_clock_and_rest() {
        let mut rows = sweep(2);
        for row in &mut rows {
            let concurrent = row.point.mode == Mode::Concurrent;
            row.stages.h2d_mean = Some(if concurrent { 1.5 } else { 0.5 });
            row.stages.d2h_mean = Some(0.5);
            row.stages.compute_mean = Some(9.0);
            row.health.gpu_sm_clock_mhz = Some(if concurrent { 1800.0 } else { 1980.0 });
        }
        let split = slowdowns(&refs(&rows))[1].split.unwrap();
        assert!((split.transfers - 0.1).abs() < 1e-12, "{split:?}");
        assert!((split.clock.unwrap() - 0.09).abs() < 1e-12, "{split:?}");
        assert!((split.rest - 0.06).abs() < 1e-12, "{split:?}");
        assert_eq!(slowdowns(&refs(&sweep(2)))[0].split, None);
    }

    #[test]
    fn company_is_counted_by_what_is_shared() {
        let place = |gpu: &str, gi: u32, uuid: &str| {
            let mut row = row(gi, Mode::Concurrent, 1, 1.0, 0);
            row.subject.instance.gpu_uuid = Some(gpu.into());
            row.subject.instance.mig_uuid = Some(uuid.into());
            row
        };
        let rows = [
            place("A", 1, "a"),
            place("A", 1, "a"),
            place("A", 1, "b"),
            place("A", 2, "c"),
            place("B", 1, "d"),
        ];
        let expected = Company { same_instance: 1, same_gi: 1, same_gpu: 1, other_gpus: 1 };
        assert_eq!(company(&refs(&rows), &rows[0]), expected);
    }

    #[test]
    fn the_packed_total_is_over_the_time_in_which_all_measured() {
        let mut rows = sweep(3);
        let mut gpu = row(9, Mode::Isolated, 1, 2.0, 900_000);
        gpu.subject.instance.kind = InstanceKind::Gpu;
        gpu.point.inflight = 1;
        rows.push(gpu);
        let all = packed(&refs(&rows));
        assert_eq!(all.len(), 1);
        let packed = &all[0];
        let total = f64::from((90 + 80) * 8) / 0.999;
        assert!((packed.total - total).abs() < 1e-6, "{packed:?}");
        assert!((packed.of_isolated.unwrap() - total / 1600.0).abs() < 1e-9);
        assert_eq!((packed.workers, packed.rounds), (2, 3));
        let whole = packed.of_whole.unwrap();
        assert!((whole.ratio - total / 4000.0).abs() < 1e-9 && whole.latency_bound);
    }

    /// Totals of one batch in flight and of two are two figures, not their mean.
    #[test]
    fn batches_in_flight_are_totalled_apart() {
        let mut rows = sweep(2);
        let mut two = sweep(2);
        for row in &mut two {
            row.point.inflight = 2;
            row.window.batches_common = row.window.batches_common.map(|batches| 3 * batches);
            row.window.start_ns = row.window.start_ns.map(|ns| ns + 50_000 * MS);
            row.window.end_ns = row.window.end_ns.map(|ns| ns + 50_000 * MS);
            row.seal();
        }
        rows.extend(two);
        let mut totals: Vec<f64> = packed(&refs(&rows)).iter().map(|packed| packed.total).collect();
        totals.sort_by(f64::total_cmp);
        assert_eq!(totals.len(), 2);
        assert!((totals[1] / totals[0] - 3.0).abs() < 1e-9, "{totals:?}");
    }

    #[test]
    fn a_whole_gpu_under_another_load_is_no_measure_of_the_instances() {
        let mut rows = sweep(1);
        let mut gpu = row(9, Mode::Isolated, 1, 2.0, 900_000);
        gpu.subject.instance.kind = InstanceKind::Gpu;
        gpu.point.load = "open(rate=5,arrivals=poisson)".into();
        rows.push(gpu);
        assert_eq!(packed(&refs(&rows))[0].of_whole, None);
    }

    #[test]
    fn instances_of_several_gpus_are_not_measured_against_one() {
        let mut rows = sweep(1);
        let mut gpu = row(9, Mode::Isolated, 1, 2.0, 900_000);
        gpu.subject.instance.kind = InstanceKind::Gpu;
        rows.push(gpu);
        assert!(packed(&refs(&rows))[0].of_whole.is_some());
        rows[3].subject.instance.gpu_uuid = Some("GPU-1".into());
        let all = packed(&refs(&rows));
        assert_eq!((all[0].over_gpus, all[0].of_whole), (true, None));
    }

    #[test]
    fn what_is_not_ok_or_not_complete_is_not_compared() {
        let mut rows = sweep(1);
        rows[3].invalid("x");
        assert_eq!(slowdowns(&refs(&rows)).len(), 1);
        assert_eq!(packed(&refs(&rows)), []);
    }
}
