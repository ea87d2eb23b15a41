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
/// Of two rounds t is 12.7: an interval from them says nothing.
const INTERVAL_ROUNDS: usize = 3;
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
    /// They are named by the row, and have no row of their own in the file that would say where they ran.
    pub unplaced: usize,
}

/// Parts of the cost, relative to the isolated mean latency; together they are the ratio minus 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Split {
    /// Change of the copies (h2d + d2h).
    pub transfers: f64,
    /// Isolated compute time x (isolated / concurrent SM clock - 1); none where no clock was read.
    pub clock: Option<f64>,
    /// What is left.
    pub rest: f64,
}

/// Rounds of a co-run that say nothing of what the neighbours cost, by the reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unused {
    /// The co-run's row is not ok.
    pub concurrent: usize,
    /// The isolated row is not ok, or not there.
    pub isolated: usize,
}

/// One instance, one point, one set of co-runners.
#[derive(Clone, Debug, PartialEq)]
pub struct Slowdown {
    /// A concurrent row of it.
    pub row: Row,
    /// Who was there.
    pub company: Company,
    /// Rounds in which both rows are ok.
    pub rounds: usize,
    /// Rounds left out of the ratio, by the side that lacks a usable row.
    pub unused: Unused,
    /// Geometric mean over the rounds; none where no round has both.
    pub ratio: Option<f64>,
    /// 95 %, by Student's t on the logarithms; none below 3 rounds.
    pub interval: Option<(f64, f64)>,
    /// Mean over the rounds. None without a stage split, where the interval does not exclude that the
    /// neighbours cost nothing, and for workers in turn on one instance.
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
    /// Rounds in which the rows of all are ok.
    pub rounds: usize,
    /// Number of rounds left out, because the row of some instance in them is not ok.
    pub unused: usize,
    /// Samples/s of all, while all measured; none where no round has that.
    pub total: Option<f64>,
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

/// Rows that may be compared, ok or not. Not the probes of a latency target: each instance is asked at a rate of its
/// own, and what its neighbours did meanwhile is not what the point says.
fn comparable<'a>(rows: &[&'a Row]) -> Vec<&'a Row> {
    rows.iter().copied().filter(|row| row.slo.target.is_none()).collect()
}

fn is_ok(row: &Row) -> bool {
    row.outcome.status == Status::Ok
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

/// Sets of rows of workers that ran together, ok or not.
fn co_runs<'a>(rows: &[&'a Row]) -> Vec<Vec<&'a Row>> {
    let concurrent = rows.iter().copied().filter(|row| row.point.mode == Mode::Concurrent);
    // The workers of a run were all told the same moment on the host's clock, which never goes back.
    let (told, untold): (Vec<&Row>, Vec<&Row>) =
        concurrent.partition(|row| row.window.named_start_ns.is_some());
    let mut runs: BTreeMap<_, Vec<&Row>> = BTreeMap::new();
    for row in told {
        let p = &row.provenance;
        let run = (&p.host, &p.run_id, p.repetition, row.window.named_start_ns);
        runs.entry(run).or_default().push(row);
    }
    runs.into_values().chain(touching(&untold)).collect()
}

/// Rows that name no common start, by their windows: runs follow one another, so that a window that opens
/// before all of a run have closed is of it. A row without a window is alone.
fn touching<'a>(rows: &[&'a Row]) -> Vec<Vec<&'a Row>> {
    let mut runs: BTreeMap<(&str, &str, u32), Vec<&Row>> = BTreeMap::new();
    for row in rows {
        let p = &row.provenance;
        runs.entry((&p.host, &p.run_id, p.repetition)).or_default().push(row);
    }
    let mut sets: Vec<Vec<&Row>> = Vec::new();
    for mut round in runs.into_values() {
        round.sort_by_key(|row| row.window.start_ns);
        let mut end = None;
        for row in round {
            let together = row.window.start_ns.is_some() && row.window.start_ns < end;
            match sets.last_mut().filter(|_| together) {
                Some(set) => set.push(row),
                None => (sets.push(vec![row]), end = None).0,
            }
            end = end.max(row.window.end_ns);
        }
    }
    sets
}

/// Co-runners that a row names.
fn named_corunners(row: &Row) -> usize {
    row.point.corunners.split(';').filter(|name| !name.is_empty()).count()
}

/// The co-runners that a row names, each in the place that its own row tells.
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
    company.unplaced = named_corunners(row).saturating_sub(set.len() - 1);
    company
}

/// A round: host, run and repetition.
type Round<'a> = (&'a str, &'a str, u32);

/// One round of a co-run, as one worker's rows tell it.
struct Told<'a> {
    round: Round<'a>,
    company: Company,
    row: &'a Row,
    alone: Option<&'a Row>,
}

/// Of every instance that was measured alone and with others, in the rows' order. The rounds of one
/// instance, point and company are never split, whatever came of them.
pub fn slowdowns(rows: &[&Row]) -> Vec<Slowdown> {
    let rows = comparable(rows);
    let isolated: BTreeMap<String, &Row> =
        rows.iter().filter(|row| row.point.mode == Mode::Isolated).map(|row| (pair_key(row), *row)).collect();
    let mut found: BTreeMap<String, Vec<Told>> = BTreeMap::new();
    for set in co_runs(&rows) {
        for row in &set {
            let p = &row.provenance;
            let key = format!("{:?}", (row.subject.instance.uuid(), &p.point_id));
            let round = (&*p.host, &*p.run_id, p.repetition);
            let alone = isolated.get(&pair_key(row)).copied();
            found.entry(key).or_default().push(Told { round, company: company(&set, row), row, alone });
        }
    }
    // What was never measured alone is no part of this table.
    let both = found.into_values().filter(|told| told.iter().any(|told| told.alone.is_some()));
    let mut all: Vec<Slowdown> = both.flat_map(by_company).map(|told| slowdown(&told)).collect();
    let place = |s: &Slowdown| {
        let i = &s.row.subject.instance;
        let point = &s.row.point;
        let load = (point.load.clone(), point.inflight);
        (i.gpu_index, i.gi_id, i.ci_id, point.workload.clone(), point.batch, load)
    };
    all.sort_by_cached_key(place);
    all
}

/// The rounds of one instance and point by who was there. Where not all co-runners have rows, it is taken
/// that they ran where they did in the other rounds.
fn by_company(told: Vec<Told>) -> Vec<Vec<Told>> {
    let mut lines: BTreeMap<Company, Vec<Told>> = BTreeMap::new();
    let mut incomplete = Vec::new();
    for told in told {
        match told.company.unplaced {
            0 => lines.entry(told.company).or_default().push(told),
            _ => incomplete.push(told),
        }
    }
    match lines.values_mut().next() {
        Some(line) => line.extend(incomplete),
        None => return vec![incomplete],
    }
    lines.into_values().collect()
}

fn slowdown(told: &[Told]) -> Slowdown {
    // Two workers on one instance are one replicate.
    let mut rounds: BTreeMap<Round, Vec<(&Row, &Row)>> = BTreeMap::new();
    let mut unused = Unused::default();
    for Told { round, row, alone, .. } in told {
        let pairs = rounds.entry(*round).or_default();
        match alone.filter(|alone| is_ok(alone)) {
            Some(alone) if is_ok(row) => pairs.push((alone, *row)),
            _ => {}
        }
    }
    for (round, pairs) in &rounds {
        let lacks_concurrent = || told.iter().any(|told| told.round == *round && !is_ok(told.row));
        match pairs[..] {
            [] if lacks_concurrent() => unused.concurrent += 1,
            [] => unused.isolated += 1,
            _ => {}
        }
    }
    rounds.retain(|_, pairs| !pairs.is_empty());
    let of = |ratio: &dyn Fn(&Row, &Row) -> Option<f64>| -> Vec<f64> {
        let round = |pairs: &Vec<(&Row, &Row)>| {
            let ratios: Option<Vec<f64>> = pairs.iter().map(|(alone, row)| ratio(alone, row)).collect();
            geometric_mean(&ratios?)
        };
        rounds.values().filter_map(round).collect()
    };
    let ratios = of(&|alone, row| Some(row.latency.mean? / alone.latency.mean?));
    let p99 = of(&|alone, row| Some(row.latency.p99? / alone.latency.p99?));
    // The company that is known best: rounds that lack rows come last.
    let company = told.iter().map(|told| told.company).min_by_key(|company| company.unplaced);
    let company = company.unwrap_or_default();
    let (ratio, interval) = (geometric_mean(&ratios), interval(&ratios));
    // Workers in turn wait for each other: that is neither copies nor clock. And what may be nothing has no
    // causes.
    let costs = interval.is_some_and(|(low, high)| low > 1.0 || high < 1.0);
    let parts = costs && company.same_instance == 0;
    let mut row = told.iter().find(|told| is_ok(told.row)).unwrap_or(&told[0]).row.clone();
    row.subject.worker = None;
    Slowdown {
        row,
        company,
        rounds: ratios.len(),
        unused,
        ratio,
        interval,
        split: ratio.filter(|_| parts).and_then(|ratio| split(rounds.values().flatten(), ratio - 1.0)),
        p99_ratio: geometric_mean(&p99).filter(|_| p99.len() >= P99_ROUNDS),
    }
}

/// The mean logarithm plus and minus t times its standard error.
fn interval(ratios: &[f64]) -> Option<(f64, f64)> {
    if ratios.len() < INTERVAL_ROUNDS {
        return None;
    }
    let logs: Vec<f64> = ratios.iter().map(|ratio| ratio.ln()).collect();
    let error = (sample_variance(&logs)? / logs.len() as f64).sqrt();
    let half = student::quantile(LEVEL, logs.len() as u32 - 1) * error;
    let middle = mean(&logs)?;
    Some(((middle - half).exp(), (middle + half).exp()))
}

/// What copies and clock take of a `cost`, on average over the rounds, and the rest of it.
fn split<'a>(pairs: impl Iterator<Item = &'a (&'a Row, &'a Row)> + Clone, cost: f64) -> Option<Split> {
    let of = |part: fn(&Row, &Row) -> Option<f64>| -> Option<f64> {
        let parts: Option<Vec<f64>> = pairs.clone().map(|(alone, row)| part(alone, row)).collect();
        mean(&parts?)
    };
    let (transfers, clock) = (of(copies)?, of(clock));
    Some(Split { transfers, clock, rest: cost - transfers - clock.unwrap_or(0.0) })
}

/// Change of the copies, over the isolated latency.
fn copies(alone: &Row, row: &Row) -> Option<f64> {
    let latency = alone.latency.mean.filter(|&mean| mean > 0.0)?;
    let copies = |row: &Row| row.stages.h2d_mean.unwrap_or(0.0) + row.stages.d2h_mean.unwrap_or(0.0);
    (alone.stages.compute_mean.and(row.stages.compute_mean)).map(|_| (copies(row) - copies(alone)) / latency)
}

/// What the change of the SM clock makes of the isolated compute time, over the isolated latency.
fn clock(alone: &Row, row: &Row) -> Option<f64> {
    let latency = alone.latency.mean.filter(|&mean| mean > 0.0)?;
    let now = row.health.gpu_sm_clock_mhz.filter(|&mhz| mhz > 0.0)?;
    Some(alone.stages.compute_mean? * (alone.health.gpu_sm_clock_mhz? / now - 1.0) / latency)
}

/// Totals of co-runs of one workload and batch, by who was there.
pub fn packed(rows: &[&Row]) -> Vec<Packed> {
    let rows = comparable(rows);
    let isolated: BTreeMap<String, f64> = rows
        .iter()
        .filter(|row| row.point.mode == Mode::Isolated && is_ok(row))
        .filter_map(|row| Some((pair_key(row), row.rates.throughput_wall?)))
        .collect();
    // A set of it, and of each round the total and the sum of the isolated ones.
    type Rounds<'a> = (Vec<&'a Row>, Vec<Option<(f64, Option<f64>)>>);
    let mut found: BTreeMap<String, Rounds> = BTreeMap::new();
    for mut set in co_runs(&rows) {
        let what = |row: &Row| (row.point.workload.clone(), row.point.batch, row.point.precision);
        let alike = set.iter().all(|row| what(row) == what(set[0]));
        if !alike || set.len() < 2 || named_corunners(set[0]) + 1 != set.len() {
            continue;
        }
        set.sort_by_key(|row| row.subject.instance.uuid().map(str::to_owned));
        let alone: Option<Vec<f64>> = set.iter().map(|row| isolated.get(&pair_key(row)).copied()).collect();
        // Workers in turn on one instance have that instance once.
        let shared = set.iter().any(|row| row.subject.sharing == Some(Sharing::TimeSliced));
        let alone = alone.filter(|_| !shared).map(|alone| alone.iter().sum::<f64>());
        let uuids: Vec<_> = set.iter().map(|row| row.subject.instance.uuid()).collect();
        let point = &set[0].point;
        let key = format!("{:?}", (uuids, what(set[0]), &point.load, point.inflight, point.transfers));
        let all_ok = set.iter().all(|row| is_ok(row));
        let total = total(&set).filter(|_| all_ok).map(|total| (total, alone));
        found.entry(key).or_insert_with(|| (set, Vec::new())).1.push(total);
    }
    found.into_values().map(|(set, totals)| pack(&rows, &set, &totals)).collect()
}

/// The totals of the rounds of one set as one.
fn pack(rows: &[&Row], set: &[&Row], told: &[Option<(f64, Option<f64>)>]) -> Packed {
    let totals: Vec<f64> = told.iter().flatten().map(|(total, _)| *total).collect();
    let total = geometric_mean(&totals);
    let gpu = |row: &Row| row.subject.instance.gpu_uuid.clone();
    let row = set[0];
    let over_gpus = set.iter().any(|other| gpu(other) != gpu(row));
    let ratios: Option<Vec<f64>> =
        told.iter().flatten().map(|(total, alone)| alone.map(|alone| total / alone)).collect();
    // Several GPUs against one would be no comparison.
    let whole = whole(rows, row).filter(|_| !over_gpus);
    let of_whole = total
        .zip(whole)
        .map(|(total, (wall, inflight))| Whole { ratio: total / wall, latency_bound: inflight < 2 });
    Packed {
        row: row.clone(),
        workers: set.len(),
        over_gpus,
        rounds: totals.len(),
        unused: told.len() - totals.len(),
        total,
        of_isolated: ratios.and_then(|ratios| geometric_mean(&ratios)),
        of_whole,
    }
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
        is_ok(other)
            && other.subject.instance.kind == InstanceKind::Gpu
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
        let ratio = |i: usize| found[i].ratio.unwrap();
        assert!((ratio(0) - 1.1).abs() < 1e-12 && (ratio(1) - 1.25).abs() < 1e-12);
        let (low, high) = found[0].interval.unwrap();
        assert!((low - 1.1).abs() < 1e-9 && (high - 1.1).abs() < 1e-9);
        assert_eq!((found[0].rounds, found[0].p99_ratio.is_some()), (5, true));
        assert_eq!(found[0].company, Company { same_gpu: 1, ..Company::default() });
        assert_eq!(slowdowns(&refs(&sweep(4)))[0].p99_ratio, None);
        assert_eq!(slowdowns(&refs(&sweep(2)))[0].interval, None, "t of two rounds is 12.7");
        assert!(slowdowns(&refs(&sweep(3)))[0].interval.is_some());
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
        let mut rows = sweep(3);
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
        assert_eq!(slowdowns(&refs(&sweep(3)))[0].split, None, "no stages were measured");
        let one_round: Vec<&Row> = rows.iter().filter(|row| row.provenance.repetition == 1).collect();
        assert_eq!(slowdowns(&one_round)[1].split, None, "one round does not show that there is a cost");
        // The ratio is a geometric mean and the parts are not: they add up all the same.
        for row in rows.iter_mut().filter(|row| row.point.mode == Mode::Concurrent) {
            row.latency.mean =
                row.latency.mean.map(|mean| mean * (1.0 + f64::from(row.provenance.repetition)));
        }
        let found = &slowdowns(&refs(&rows))[1];
        let (split, cost) = (found.split.unwrap(), found.ratio.unwrap() - 1.0);
        let sum = split.transfers + split.clock.unwrap() + split.rest;
        assert!((sum - cost).abs() < 1e-12 && cost > 1.0, "{found:?}");
        // Workers in turn wait for each other.
        for row in &mut rows {
            row.subject.instance.mig_uuid = Some("MIG-1".into());
            row.seal();
        }
        assert!(slowdowns(&refs(&rows)).iter().all(|found| found.split.is_none()));
    }

    /// A clock that reads 5 % higher beside a cost of nothing explains nothing.
    #[test]
    fn a_cost_of_nothing_has_no_causes() {
        let mut rows = sweep(5);
        for row in &mut rows {
            let concurrent = row.point.mode == Mode::Concurrent;
            let noise = [1.0, 1.002, 0.999, 1.001, 0.998][row.provenance.repetition as usize - 1];
            row.latency.mean = Some(if concurrent { 10.0 * noise } else { 10.0 });
            row.stages.compute_mean = Some(9.0);
            row.health.gpu_sm_clock_mhz = Some(if concurrent { 1980.0 } else { 1885.0 });
        }
        let found = &slowdowns(&refs(&rows))[0];
        assert!(found.interval.is_some() && found.split.is_none(), "{found:?}");
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
        let expected = Company { same_instance: 1, same_gi: 1, same_gpu: 1, other_gpus: 1, unplaced: 0 };
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
        assert!((packed.total.unwrap() - total).abs() < 1e-6, "{packed:?}");
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
        let mut totals: Vec<f64> = packed(&refs(&rows)).iter().filter_map(|packed| packed.total).collect();
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

    /// Three instances together, of which one row of round 2 is invalid: the others had two neighbours in each
    /// round, and the invalid row is a gap in its own line.
    #[test]
    fn neighbours_are_those_of_the_row_whatever_came_of_theirs() {
        let mut rows = Vec::new();
        for round in 1..=3 {
            let at = u64::from(round) * 100_000;
            for gi in 1..=3 {
                rows.push(row(gi, Mode::Isolated, round, 10.0, at + u64::from(gi) * 2_000));
                let mut together = row(gi, Mode::Concurrent, round, 11.0, at + 20_000);
                together.point.corunners = "1g/mlp/8/closed;1g/mlp/8/closed".into();
                together.window.named_start_ns = Some((at + 20_000) * MS);
                together.seal();
                rows.push(together);
            }
        }
        let spoilt = 2 * 3 + 3;
        rows[spoilt].invalid("not a co-run");
        let found = slowdowns(&refs(&rows));
        let lines: Vec<_> =
            found.iter().map(|s| (s.company.same_gpu, s.rounds, s.unused.concurrent)).collect();
        assert_eq!(lines, [(2, 3, 0), (2, 2, 1), (2, 3, 0)]);
        let total = &packed(&refs(&rows))[0];
        assert_eq!((total.workers, total.rounds, total.unused), (3, 2, 1));
        // Its row is not even there: the round still has as many neighbours as the others say.
        rows.remove(spoilt);
        let found = slowdowns(&refs(&rows));
        let lines: Vec<_> =
            found.iter().map(|s| (s.company.same_gpu, s.company.unplaced, s.rounds)).collect();
        assert_eq!(lines, [(2, 0, 3), (2, 0, 2), (2, 0, 3)]);
        // Windows that do not touch are still of one run.
        for row in rows.iter_mut().filter(|row| row.subject.instance.gi_id == Some(3)) {
            row.window.start_ns = row.window.start_ns.map(|ns| ns + 1_500 * MS);
            row.window.end_ns = row.window.end_ns.map(|ns| ns + 1_500 * MS);
        }
        assert!(slowdowns(&refs(&rows)).iter().all(|s| s.company.same_gpu == 2));
    }

    #[test]
    fn a_line_without_a_usable_round_is_a_gap_too() {
        let mut rows = sweep(1);
        rows[3].invalid("x");
        let found = slowdowns(&refs(&rows));
        assert_eq!(found.len(), 2);
        assert_eq!((found[1].rounds, found[1].ratio, found[1].unused.concurrent), (0, None, 1));
        assert_eq!(packed(&refs(&rows))[0].total, None);
        let mut rows = sweep(1);
        rows[1].invalid("x");
        assert_eq!(slowdowns(&refs(&rows))[1].unused, Unused { concurrent: 0, isolated: 1 });
        rows.retain(|row| row.point.mode == Mode::Concurrent);
        assert_eq!(slowdowns(&refs(&rows)), [], "nobody asked what neighbours cost");
    }
}
