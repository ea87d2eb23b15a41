//! What a partial file still lacks of a plan. Pure.
//!
//! A row that is there counts as done, failed and invalid ones, too; an interrupted one does not. The
//! rows of one run are written together, so a run that lacks one of its rows runs again as a whole.

use super::plan::{Member, Run};
use crate::results::row::{Mode, Point, Status};
use crate::results::{COLUMNS, Column, Row, cells};
use anyhow::{Result, bail};
use std::collections::{BTreeMap, BTreeSet};

/// What tells a plan's rows apart.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    round: u32,
    uuid: String,
    worker: Option<u32>,
    workload: String,
    batch: u64,
    mode: String,
    corunners: String,
    load: String,
    inflight: u32,
}

/// Columns of a row's provenance, subject and point that say nothing of what was planned: they are of one
/// invocation, only the worker tells them, or a place in the plan has them ([`Place`]). All others of
/// these, and the rule for the window, must be the same as before.
const NOT_PLANNED: [&str; 23] = [
    "run_id",
    "session_id",
    "point_id",
    "attempt",
    "started_at",
    "scope",
    "kernels",
    "gemm_version",
    "gpu_index",
    "sm_count",
    "memory_mib",
    "identity",
    "sharing",
    "neighbours",
    "repetition",
    "worker",
    "workload",
    "batch",
    "mode",
    "corunners",
    "missing_corunners",
    "load",
    "inflight",
];

/// Must rows that are gone on with have the same cell in this column?
fn is_planned(column: &Column) -> bool {
    let condition = ["provenance.", "subject.", "point."].iter().any(|part| column.part.starts_with(part));
    (condition || column.part == "window.rule") && !NOT_PLANNED.contains(&column.name)
}

fn place(row: &Row) -> Place {
    let (point, subject) = (&row.point, &row.subject);
    // Whether the user's program reports its batches is not known before it runs.
    let is_program = point.backend == "command";
    let corunners = planned_corunners(point);
    // Of several, one that was left was measured alone.
    let mode = if point.missing_corunners.is_some() { Mode::Concurrent } else { point.mode };
    Place {
        round: row.provenance.repetition,
        uuid: subject.instance.uuid().unwrap_or_default().to_owned(),
        worker: subject.worker,
        workload: point.workload.clone(),
        batch: point.batch,
        mode: format!("{mode:?}").to_lowercase(),
        corunners: match is_program {
            true => corunners.replace("/once", "/closed").replace("/imported", "/closed"),
            false => corunners,
        },
        load: if is_program { String::new() } else { point.load.clone() },
        inflight: if is_program { 0 } else { point.inflight },
    }
}

/// The co-runners that were planned: those that were there, and those that were missing.
fn planned_corunners(point: &Point) -> String {
    let missing = point.missing_corunners.as_deref().unwrap_or_default();
    let names = point.corunners.split(';').chain(missing.split(';'));
    let mut names: Vec<&str> = names.filter(|name| !name.is_empty()).collect();
    names.sort_unstable();
    names.join(";")
}

/// The runs that `there` lacks, with the attempt that each now is. `planned` gives the row of a member
/// as it is known beforehand; `retry_failed` runs what failed or is invalid once more.
///
/// # Errors
/// The rows are of another plan; the message names the columns and both values.
pub fn left(
    runs: &[Run],
    there: &[Row],
    planned: &dyn Fn(&Run, &Member) -> Row,
    retry_failed: bool,
) -> Result<Vec<Run>> {
    let mut rows: BTreeMap<Place, Vec<&Row>> = BTreeMap::new();
    for row in there {
        rows.entry(place(row)).or_default().push(row);
    }
    let mut left = Vec::new();
    let mut places = BTreeSet::new();
    let mut differences = BTreeSet::new();
    for run in runs {
        let of_run: Vec<Row> = run.members.iter().map(|member| planned(run, member)).collect();
        let mut last: u32 = 0;
        let mut done = true;
        for expected in &of_run {
            let place = place(expected);
            let found = rows.get(&place).map_or(&[][..], Vec::as_slice);
            places.insert(place);
            found.iter().for_each(|row| differ(row, expected, &mut differences));
            last = found.iter().map(|row| row.provenance.attempt).max().unwrap_or(0).max(last);
        }
        for expected in &of_run {
            let found = rows.get(&place(expected)).map_or(&[][..], Vec::as_slice);
            let status = found.iter().find(|row| row.provenance.attempt == last).map(|r| r.outcome.status);
            done &= match status {
                None | Some(Status::Interrupted) => false,
                Some(Status::Ok) => true,
                Some(Status::Failed | Status::Invalid) => !retry_failed,
            };
        }
        if !done {
            left.push(Run { attempt: last + 1, ..run.clone() });
        }
    }
    if let Some(other) = rows.keys().find(|place| !places.contains(place)) {
        let Place { round, uuid, workload, batch, mode, .. } = other;
        bail!(
            "it has a row that this plan has not: {workload}, batch {batch}, {mode}, round {round}{}{uuid}; \
             say the same instances, workloads, batches, loads, rounds and modes as before",
            if uuid.is_empty() { "" } else { ", " }
        );
    }
    if !differences.is_empty() {
        let differences: Vec<String> = differences.into_iter().collect();
        bail!("it was measured otherwise: {}", differences.join("; "));
    }
    Ok(left)
}

fn differ(row: &Row, expected: &Row, differences: &mut BTreeSet<String>) {
    let planned = COLUMNS.iter().zip(cells(row).into_iter().zip(cells(expected)));
    for (column, (there, now)) in planned.filter(|(column, _)| is_planned(column)) {
        if there != now {
            differences.insert(format!("{} is '{there}' there and '{now}' now", column.name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Instance;
    use crate::measure::load::Load;
    use crate::measure::protocol::{Device, Job};
    use crate::measure::stopping::Rule;
    use crate::workload::Settings;

    fn member(uuid: &str, batch: usize) -> Member {
        let instance = Instance { mig_uuid: Some(uuid.into()), ..Instance::default() };
        let job = Job {
            device: Device::Cuda,
            workload: "mlp".into(),
            batch,
            settings: Settings::default(),
            cpus: vec![],
            rule: Rule::DEFAULT,
            load: Load::Closed,
            inflight: 1,
            arrival_seed: 1,
            intervals: false,
            clock_samples: false,
            own: None,
        };
        Member { instance, job }
    }

    fn planned(run: &Run, member: &Member) -> Row {
        let mut row = Row::default();
        (row.provenance.repetition, row.provenance.attempt) = (run.repetition, run.attempt);
        row.subject.instance = member.instance.clone();
        (row.point.workload, row.point.batch) = (member.job.workload.clone(), member.job.batch as u64);
        row.point.mode = run.mode;
        row
    }

    fn runs() -> Vec<Run> {
        let run = |mode, members: &[&str]| Run {
            repetition: 1,
            attempt: 1,
            mode,
            members: members.iter().map(|uuid| member(uuid, 8)).collect(),
        };
        vec![run(Mode::Isolated, &["A"]), run(Mode::Isolated, &["B"]), run(Mode::Concurrent, &["A", "B"])]
    }

    fn rows(runs: &[Run]) -> Vec<Row> {
        runs.iter().flat_map(|run| run.members.iter().map(move |member| planned(run, member))).collect()
    }

    fn shape(rows: &[Row], retry: bool) -> Vec<(usize, u32)> {
        let left = left(&runs(), rows, &planned, retry).unwrap();
        let index = |run: &Run| runs().iter().position(|other| other.members == run.members).unwrap();
        left.iter().map(|run| (index(run), run.attempt)).collect()
    }

    #[test]
    fn what_is_there_is_done() {
        let all = rows(&runs());
        assert_eq!(shape(&[], false), [(0, 1), (1, 1), (2, 1)]);
        assert_eq!(shape(&all[..2], false), [(2, 1)]);
        assert_eq!(shape(&all, false), []);
        assert_eq!(shape(&all[..3], false), [(2, 2)], "a co-run that lacks a row runs again as a whole");
    }

    #[test]
    fn an_interrupted_row_is_not_done_and_a_failed_one_is() {
        let mut all = rows(&runs());
        all[0].outcome.status = Status::Interrupted;
        all[1] = all[1].clone().failed("x");
        all[3].invalid("y");
        assert_eq!(shape(&all, false), [(0, 2)]);
        assert_eq!(shape(&all, true), [(0, 2), (1, 2), (2, 2)]);
        let mut again = all[1].clone();
        again.provenance.attempt = 2;
        again.outcome.status = Status::Ok;
        all.push(again);
        assert_eq!(shape(&all, true), [(0, 2), (2, 2)], "the highest attempt counts");
    }

    /// Whatever column gives a number its meaning, a resumed sweep has the same cell in it.
    #[test]
    fn every_condition_is_compared() {
        use crate::analysis::compare::KEY;
        let by_place = ["workload", "batch", "mode", "corunners", "load", "inflight", "sm_count", "sharing"];
        for key in KEY {
            let column = COLUMNS.iter().find(|column| column.name == key.name).unwrap();
            assert!(is_planned(column) || by_place.contains(&key.name), "{}", key.name);
        }
        for name in NOT_PLANNED {
            assert!(COLUMNS.iter().any(|column| column.name == name), "{name}");
        }
        let mut all = rows(&runs());
        all[0].point.extra_work_us = Some(500);
        all[1].point.gemm = Some(crate::workload::Gemm::Cublaslt);
        all[2].point.graph = Some(true);
        let error = left(&runs(), &all, &planned, false).unwrap_err().to_string();
        assert_eq!(
            error,
            "it was measured otherwise: extra_work_us is '500' there and '' now; gemm is 'cublaslt' there and '' now; \
             graph is 'true' there and '' now"
        );
    }

    #[test]
    fn another_plan_is_refused_with_the_difference() {
        let mut all = rows(&runs());
        all[0].provenance.seed = 7;
        all[1].window.rule = "1s".into();
        let error = left(&runs(), &all, &planned, false).unwrap_err().to_string();
        assert_eq!(
            error,
            "it was measured otherwise: seed is '7' there and '0' now; window_rule is '1s' there and '' now"
        );
        let mut all = rows(&runs());
        all[2].point.batch = 16;
        let error = left(&runs(), &all, &planned, false).unwrap_err().to_string();
        assert!(
            error.starts_with("it has a row that this plan has not: mlp, batch 16, concurrent, round 1, A;"),
            "{error}"
        );
    }
}
