//! What neighbours cost, below the table of a sweep that measured alone and together.

use super::names::Names;
use super::table::{grid, rate, shown};
use crate::analysis::slowdown::{Company, Packed, Slowdown};
use crate::results::Row;
use std::io::{self, Write};

const TITLES: [&str; 13] = [
    "GPU",
    "instance",
    "workload",
    "load",
    "in flight",
    "batch",
    "neighbours",
    "slowdown",
    "95 %",
    "transfers",
    "clock",
    "rest",
    "p99 x",
];
const TEXT: [&str; 6] = ["GPU", "instance", "workload", "load", "neighbours", "95 %"];

/// One line an instance and point, then the totals. Nothing where nothing was measured both ways.
///
/// # Errors
/// The stream does not take it.
pub fn write(
    out: &mut dyn Write,
    slowdowns: &[Slowdown],
    packed: &[Packed],
    names: &Names,
) -> io::Result<()> {
    if let Some(first) = slowdowns.first() {
        let rounds = slowdowns.iter().map(|s| s.rounds).min().unwrap_or(0);
        writeln!(out)?;
        writeln!(
            out,
            "slowdown: mean latency concurrent / isolated of the same round, over {rounds} round{}",
            if rounds == 1 { "" } else { "s" }
        )?;
        let varies = Varies::of(slowdowns.iter().map(|s| &s.row), &first.row);
        let lines: Vec<Vec<String>> = slowdowns.iter().map(|s| cells(s, names, &varies)).collect();
        grid(out, &TITLES, &TEXT, &lines)?;
        if rounds == 1 {
            writeln!(out, "no interval: one round; --repeat 5 gives one")?;
        }
    }
    if let Some(first) = packed.first() {
        let varies = Varies::of(packed.iter().map(|p| &p.row), &first.row);
        packed.iter().try_for_each(|total| writeln!(out, "{}", sentence(total, names, &varies)))?;
    }
    Ok(())
}

/// Which lines are told apart by more than instance and batch.
struct Varies {
    workload: bool,
    load: bool,
    inflight: bool,
}

impl Varies {
    fn of<'a>(rows: impl Iterator<Item = &'a Row> + Clone, first: &Row) -> Varies {
        Varies {
            workload: rows.clone().any(|row| row.point.workload != first.point.workload),
            load: rows.clone().any(|row| row.point.load != first.point.load),
            inflight: rows.clone().any(|row| row.point.inflight != first.point.inflight),
        }
    }
}

fn cells(found: &Slowdown, names: &Names, varies: &Varies) -> Vec<String> {
    let row = &found.row;
    let percent = |share: f64| format!("{:+.1} %", 100.0 * share);
    let split = |part: fn(&crate::analysis::slowdown::Split) -> Option<f64>| {
        found.split.as_ref().and_then(part).map_or(String::new(), percent)
    };
    let gpu = row.subject.instance.gpu_index.filter(|_| names.several_gpus);
    vec![
        gpu.map_or(String::new(), |gpu| gpu.to_string()),
        names.of_row(row),
        shown(varies.workload, row.point.workload.clone()),
        shown(varies.load, row.point.load.clone()),
        shown(varies.inflight, row.point.inflight.to_string()),
        row.point.batch.to_string(),
        neighbours(&found.company),
        format!("{:.3}", found.ratio),
        found.interval.map_or(String::new(), |(low, high)| format!("{low:.3} to {high:.3}")),
        split(|split| Some(split.transfers)),
        split(|split| split.clock),
        split(|split| Some(split.rest)),
        found.p99_ratio.map_or(String::new(), |ratio| format!("{ratio:.2}")),
    ]
}

/// `2 same GI, 4 same GPU`. Workers in turn on one instance are no neighbours.
fn neighbours(company: &Company) -> String {
    let kinds = [
        (company.same_instance, "in turn"),
        (company.same_gi, "same GI"),
        (company.same_gpu, "same GPU"),
        (company.other_gpus, "other GPUs"),
    ];
    let there = kinds.into_iter().filter(|(count, _)| *count > 0);
    there.map(|(count, what)| format!("{count} {what}")).collect::<Vec<_>>().join(", ")
}

fn sentence(packed: &Packed, names: &Names, varies: &Varies) -> String {
    let point = &packed.row.point;
    // Of a co-run over several GPUs no single one is its place.
    let own_gpu = names.several_gpus && !packed.over_gpus;
    let gpu = packed.row.subject.instance.gpu_index.filter(|_| own_gpu);
    let on_gpu = gpu.map_or(String::new(), |gpu| format!(" on GPU {gpu}"));
    let load = shown(varies.load, format!("{} load, ", point.load));
    let inflight = shown(varies.inflight, format!("{} in flight, ", point.inflight));
    let mut text = format!(
        "{} at once{on_gpu}, {}, {load}{inflight}batch {}: {} samples/s",
        packed.workers,
        point.workload,
        point.batch,
        rate(packed.total)
    );
    if let Some(ratio) = packed.of_isolated {
        text += &format!(", {ratio:.3} x the sum of them alone");
    }
    if let Some(whole) = packed.of_whole {
        let words = if whole.latency_bound { " (latency-bound: one batch in flight there)" } else { "" };
        text += &format!(", {:.3} x the whole GPU{words}", whole.ratio);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::slowdown::{Split, Whole};

    #[test]
    fn a_line_an_instance_and_a_sentence_for_all() {
        let mut row = Row::default();
        row.subject.instance.gpu_name = "1g".into();
        (row.point.batch, row.point.workload) = (8, "mlp".into());
        let company = Company { same_gi: 1, same_gpu: 5, ..Company::default() };
        let split = Split { transfers: 0.021, clock: Some(0.009), rest: -0.0021 };
        let found = Slowdown {
            row: row.clone(),
            company,
            rounds: 5,
            ratio: 1.0321,
            interval: Some((1.028, 1.0361)),
            split: Some(split),
            p99_ratio: Some(1.1),
        };
        let packed = Packed {
            row,
            workers: 7,
            over_gpus: false,
            rounds: 5,
            total: 7654.3,
            of_isolated: Some(0.97),
            of_whole: Some(Whole { ratio: 0.91, latency_bound: true }),
        };
        let mut out = Vec::new();
        write(&mut out, std::slice::from_ref(&found), &[packed], &Names::default()).unwrap();
        let expected = "
slowdown: mean latency concurrent / isolated of the same round, over 5 rounds
instance  batch  neighbours             slowdown  95 %            transfers   clock    rest  p99 x
1g            8  1 same GI, 5 same GPU     1.032  1.028 to 1.036     +2.1 %  +0.9 %  -0.2 %   1.10
7 at once, mlp, batch 8: 7654 samples/s, 0.970 x the sum of them alone, 0.910 x the whole GPU (latency-bound: one batch in flight there)
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        let alone = Slowdown { rounds: 1, interval: None, split: None, p99_ratio: None, ..found };
        let mut out = Vec::new();
        write(&mut out, &[alone], &[], &Names::default()).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.ends_with("no interval: one round; --repeat 5 gives one\n"), "{text}");
        assert!(!text.contains("transfers") && !text.contains("p99"), "{text}");
    }

    /// Two GPUs, one and two batches in flight: no two lines read the same.
    #[test]
    fn lines_say_what_tells_them_apart() {
        let mut rows = Vec::new();
        for (gpu, inflight) in [(0, 1), (0, 2), (1, 1)] {
            let mut row = Row::default();
            row.subject.instance.gpu_name = "1g".into();
            row.subject.instance.gpu_index = Some(gpu);
            (row.point.batch, row.point.workload, row.point.inflight) = (8, "mlp".into(), inflight);
            rows.push(row);
        }
        let slowdown = |row: &Row| Slowdown {
            row: row.clone(),
            company: Company { same_gpu: 1, ..Company::default() },
            rounds: 1,
            ratio: 1.5,
            interval: None,
            split: None,
            p99_ratio: None,
        };
        let total = |row: &Row| Packed {
            row: row.clone(),
            workers: 2,
            over_gpus: false,
            rounds: 1,
            total: 10.0,
            of_isolated: None,
            of_whole: None,
        };
        let slowdowns: Vec<Slowdown> = rows.iter().map(slowdown).collect();
        let packed: Vec<Packed> = rows.iter().map(total).collect();
        let names = Names::of(&rows.iter().collect::<Vec<_>>());
        let mut out = Vec::new();
        write(&mut out, &slowdowns, &packed, &names).unwrap();
        let expected = "
slowdown: mean latency concurrent / isolated of the same round, over 1 round
GPU  instance  in flight  batch  neighbours  slowdown
0    1g                1      8  1 same GPU     1.500
0    1g                2      8  1 same GPU     1.500
1    1g                1      8  1 same GPU     1.500
no interval: one round; --repeat 5 gives one
2 at once on GPU 0, mlp, 1 in flight, batch 8: 10.00 samples/s
2 at once on GPU 0, mlp, 2 in flight, batch 8: 10.00 samples/s
2 at once on GPU 1, mlp, 1 in flight, batch 8: 10.00 samples/s
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn nothing_is_said_of_nothing() {
        let mut out = Vec::new();
        write(&mut out, &[], &[], &Names::default()).unwrap();
        assert!(out.is_empty());
    }
}
