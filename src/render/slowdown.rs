//! What neighbours cost, below the table of a sweep that measured alone and together.

use super::names::Names;
use super::table::{grid, rate, shown};
use crate::analysis::slowdown::{Company, Packed, Slowdown, Split};
use crate::results::Row;
use std::io::{self, Write};

const TITLES: [&str; 14] = [
    "GPU",
    "instance",
    "workload",
    "load",
    "in flight",
    "batch",
    "neighbours",
    "rounds",
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
        let of_rounds = |s: &Slowdown| s.rounds + s.unused.concurrent + s.unused.isolated;
        let most = slowdowns.iter().map(of_rounds).max().unwrap_or(0);
        let gaps = slowdowns.iter().any(|s| s.rounds < most);
        writeln!(out)?;
        writeln!(
            out,
            "slowdown: mean latency concurrent / isolated of the same round, over {most} round{}{}",
            if most == 1 { "" } else { "s" },
            if gaps { " or those of them in which both are ok" } else { "" }
        )?;
        let varies = Varies::of(slowdowns.iter().map(|s| &s.row), &first.row);
        let lines: Vec<Vec<String>> = slowdowns.iter().map(|s| cells(s, names, &varies, gaps)).collect();
        grid(out, &TITLES, &TEXT, &lines)?;
        slowdowns.iter().try_for_each(|s| gap(out, s, names))?;
        let fewest = slowdowns.iter().map(|s| s.rounds).max().unwrap_or(0);
        if (1..3).contains(&fewest) {
            let rounds = if fewest == 1 { "one round" } else { "two rounds" };
            writeln!(out, "no interval: {rounds}; --repeat 5 gives one")?;
        }
    }
    if let Some(first) = packed.first() {
        let varies = Varies::of(packed.iter().map(|p| &p.row), &first.row);
        packed.iter().try_for_each(|total| writeln!(out, "{}", sentence(total, names, &varies)))?;
    }
    Ok(())
}

/// Says which rounds of a line are not used, and why.
fn gap(out: &mut dyn Write, found: &Slowdown, names: &Names) -> io::Result<()> {
    let reasons = [
        (found.unused.concurrent, "the row with neighbours is not ok"),
        (found.unused.isolated, "the row without neighbours is not ok, or not there"),
    ];
    for (rounds, reason) in reasons.into_iter().filter(|(rounds, _)| *rounds > 0) {
        let (name, point) = (names.of_row(&found.row), &found.row.point);
        let rounds = if rounds == 1 { "1 round".to_owned() } else { format!("{rounds} rounds") };
        writeln!(out, "{name}, {}, batch {}: {rounds} not used: {reason}", point.workload, point.batch)?;
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

fn cells(found: &Slowdown, names: &Names, varies: &Varies, gaps: bool) -> Vec<String> {
    let row = &found.row;
    let parts = found.ratio.zip(found.split.as_ref()).map(|(ratio, split)| permille(ratio, split));
    let [transfers, clock, rest] = parts.unwrap_or_default().map(|part| part.map_or(String::new(), percent));
    let gpu = row.subject.instance.gpu_index.filter(|_| names.several_gpus);
    vec![
        gpu.map_or(String::new(), |gpu| gpu.to_string()),
        names.of_row(row),
        shown(varies.workload, row.point.workload.clone()),
        shown(varies.load, row.point.load.clone()),
        shown(varies.inflight, row.point.inflight.to_string()),
        row.point.batch.to_string(),
        neighbours(&found.company),
        shown(gaps, found.rounds.to_string()),
        found.ratio.map_or("none".into(), |ratio| format!("{ratio:.3}")),
        found.interval.map_or(String::new(), |(low, high)| format!("{low:.3} to {high:.3}")),
        transfers,
        clock,
        rest,
        found.p99_ratio.map_or(String::new(), |ratio| format!("{ratio:.2}")),
    ]
}

/// Transfers, clock and rest in thousandths of the isolated latency. The printed parts add up to the printed
/// ratio: what rounding leaves is in the rest.
fn permille(ratio: f64, split: &Split) -> [Option<i64>; 3] {
    let round = |share: f64| (share * 1e3).round() as i64;
    let (transfers, clock) = (round(split.transfers), split.clock.map(round));
    [Some(transfers), clock, Some(round(ratio) - 1000 - transfers - clock.unwrap_or(0))]
}

/// Thousandths as percent, with a sign where there is something.
fn percent(permille: i64) -> String {
    let sign = match permille.signum() {
        1 => "+",
        -1 => "-",
        _ => "",
    };
    format!("{sign}{}.{} %", permille.abs() / 10, permille.abs() % 10)
}

/// `2 same GI, 4 same GPU`. Workers in turn on one instance are no neighbours.
fn neighbours(company: &Company) -> String {
    let kinds = [
        (company.same_instance, "in turn"),
        (company.same_gi, "same GI"),
        (company.same_gpu, "same GPU"),
        (company.other_gpus, "other GPUs"),
        (company.unplaced, "without a row"),
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
    let what = format!(
        "{} at once{on_gpu}, {}, {load}{inflight}batch {}",
        packed.workers, point.workload, point.batch
    );
    let rounds = packed.rounds + packed.unused;
    let Some(total) = packed.total else {
        return format!("{what}: no total: in none of {rounds} rounds are the rows of all ok");
    };
    let mut text = format!("{what}: {} samples/s", rate(total));
    if packed.unused > 0 {
        text += &format!(" in {} of {rounds} rounds", packed.rounds);
    }
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
    use crate::analysis::slowdown::{Unused, Whole};

    #[test]
    fn a_line_an_instance_and_a_sentence_for_all() {
        let mut row = Row::default();
        row.subject.instance.gpu_name = "1g".into();
        (row.point.batch, row.point.workload) = (8, "mlp".into());
        let company = Company { same_gi: 1, same_gpu: 5, ..Company::default() };
        let split = Split { transfers: 0.0214, clock: Some(0.0094), rest: 0.0013 };
        let found = Slowdown {
            row: row.clone(),
            company,
            rounds: 5,
            unused: Unused::default(),
            ratio: Some(1.0321),
            interval: Some((1.028, 1.0361)),
            split: Some(split),
            p99_ratio: Some(1.1),
        };
        let packed = Packed {
            row,
            workers: 7,
            over_gpus: false,
            rounds: 5,
            unused: 0,
            total: Some(7654.3),
            of_isolated: Some(0.97),
            of_whole: Some(Whole { ratio: 0.91, latency_bound: true }),
        };
        let mut out = Vec::new();
        write(&mut out, std::slice::from_ref(&found), &[packed], &Names::default()).unwrap();
        let expected = "
slowdown: mean latency concurrent / isolated of the same round, over 5 rounds
instance  batch  neighbours             slowdown  95 %            transfers   clock    rest  p99 x
1g            8  1 same GI, 5 same GPU     1.032  1.028 to 1.036     +2.1 %  +0.9 %  +0.2 %   1.10
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

    #[test]
    fn printed_parts_add_up_to_the_printed_ratio() {
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..1_000 {
            let (ratio, transfers, clock) =
                (0.9 + 3.0 * random.f64(), random.f64() - 0.2, random.f64() * 0.1);
            let split = Split { transfers, clock: Some(clock), rest: ratio - 1.0 - transfers - clock };
            let sum: i64 = permille(ratio, &split).into_iter().flatten().sum();
            assert_eq!(
                format!("{}.{:03}", 1 + sum.div_euclid(1000), sum.rem_euclid(1000)),
                format!("{ratio:.3}")
            );
        }
        assert_eq!([-4, 0, 123].map(percent), ["-0.4 %", "0.0 %", "+12.3 %"]);
    }

    #[test]
    fn rounds_that_are_not_used_are_a_visible_gap() {
        let mut row = Row::default();
        row.subject.instance.gpu_name = "1g".into();
        (row.point.batch, row.point.workload) = (8, "mlp".into());
        let line = |rounds, concurrent, isolated, ratio| Slowdown {
            row: row.clone(),
            company: Company { same_gpu: 1, unplaced: 1, ..Company::default() },
            rounds,
            unused: Unused { concurrent, isolated },
            ratio,
            interval: None,
            split: None,
            p99_ratio: None,
        };
        let total = Packed {
            row: row.clone(),
            workers: 3,
            over_gpus: false,
            rounds: 0,
            unused: 3,
            total: None,
            of_isolated: None,
            of_whole: None,
        };
        let part = Packed { rounds: 1, unused: 2, total: Some(10.0), ..total.clone() };
        let mut out = Vec::new();
        let lines = [line(2, 1, 0, Some(1.25)), line(0, 2, 1, None)];
        write(&mut out, &lines, &[total, part], &Names::default()).unwrap();
        let expected = "
slowdown: mean latency concurrent / isolated of the same round, over 3 rounds or those of them in which both are ok
instance  batch  neighbours                   rounds  slowdown
1g            8  1 same GPU, 1 without a row       2     1.250
1g            8  1 same GPU, 1 without a row       0      none
1g, mlp, batch 8: 1 round not used: the row with neighbours is not ok
1g, mlp, batch 8: 2 rounds not used: the row with neighbours is not ok
1g, mlp, batch 8: 1 round not used: the row without neighbours is not ok, or not there
no interval: two rounds; --repeat 5 gives one
3 at once, mlp, batch 8: no total: in none of 3 rounds are the rows of all ok
3 at once, mlp, batch 8: 10.00 samples/s in 1 of 3 rounds
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
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
            unused: Unused::default(),
            ratio: Some(1.5),
            interval: None,
            split: None,
            p99_ratio: None,
        };
        let total = |row: &Row| Packed {
            row: row.clone(),
            workers: 2,
            over_gpus: false,
            rounds: 1,
            unused: 0,
            total: Some(10.0),
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
