//! Rules about the numbers of one row that hold for any tool's table.

use super::field::{Cells, Field, NUMBERS};
use super::finding::{Finding, Findings};
use super::ratio::Ratios;
use super::short;
use crate::results::summary::batches_needed;

/// Own numbers are written unrounded; 0.1 % is the rule of the mission.
const OWN: f64 = 1e-3;
/// Other tools' throughput may come from another clock.
const OTHERS: f64 = 0.01;
/// Own sums of the same integers, in another order.
const EXACT: f64 = 1e-9;

/// Where 0 would be a measurement.
const MAY_BE_ZERO: [Field; 15] = [
    Field::LateBatches,
    Field::WarmupBatches,
    Field::BatchesCommon,
    Field::NamedStart,
    Field::WindowStart,
    Field::MeanHalfwidth,
    Field::P99Halfwidth,
    Field::Drift,
    Field::Stddev,
    Field::Overlap,
    Field::OutputError,
    Field::GpuThrottled,
    Field::PowerCappedShare,
    Field::HeatCappedShare,
    Field::HwSlowdownShare,
];

/// Shares of a window: at most all of it.
const SHARES: [Field; 4] =
    [Field::Overlap, Field::PowerCappedShare, Field::HeatCappedShare, Field::HwSlowdownShare];

/// Percentiles and the share of batches below them.
pub const PERCENTILES: [(Field, f64); 5] =
    [(Field::P50, 0.5), (Field::P90, 0.9), (Field::P95, 0.95), (Field::P99, 0.99), (Field::P999, 0.999)];

/// All of them.
pub fn check(row: &Cells, findings: &mut Findings, ratios: &mut Ratios) {
    signs(row, findings);
    order(row, findings);
    formulas(row, findings, ratios);
    spread(row, findings);
    busy(row, findings);
    enough(row, findings);
}

/// Finite, and positive where 0 can't be measured.
fn signs(row: &Cells, findings: &mut Findings) {
    for &field in &Field::ALL[..NUMBERS] {
        let text = row.text(field);
        if text.is_empty() {
            continue;
        }
        let mut add = |rule, expected: &str| {
            findings.push(Finding::new(row.line, row.view.column(field), rule, text, expected));
        };
        let Some(value) = row.number(field) else {
            // Of own files, what is no number is found by its type.
            match text.trim().parse::<f64>() {
                Ok(_) => add("finite", "a finite number"),
                Err(_) if !text.trim().is_empty() && !row.view.own => add("type", "a number"),
                Err(_) => {}
            }
            continue;
        };
        let zero_counts = MAY_BE_ZERO.contains(&field)
            || field == Field::CpuThrottled
            || (field == Field::Min && row.warns("out-of-range"));
        if value == 0.0 && !zero_counts {
            add("zero", "more than 0, or nothing where it was not measured");
        } else if value < 0.0 && field != Field::Drift {
            add("sign", "more than 0");
        } else if value <= -1.0 && field == Field::Drift {
            add("sign", "more than -1");
        } else if value > 1.0 && SHARES.contains(&field) {
            add("sign", "at most 1");
        }
    }
}

/// Quantiles ascend, and the mean lies between the extremes.
fn order(row: &Cells, findings: &mut Findings) {
    use Field::{Max, Mean, Min, P50, P90, P95, P99, P99Upper, P999};
    let chains: [&[Field]; 10] = [
        &[Min, P50, P90, P95, P99, P999, Max],
        &[P99, P99Upper, Max],
        &[Min, Mean, Max],
        &[
            Field::ResponseP50,
            Field::ResponseP90,
            Field::ResponseP99,
            Field::ResponseP999,
            Field::ResponseMax,
        ],
        &[Field::ResponseP99, Field::ResponseP99Upper, Field::ResponseMax],
        // A batch that starts late answers later than it takes; a server's samples are not its batches.
        if row.number(Field::Inferences).is_none() { &[Mean, Field::ResponseMean] } else { &[] },
        &[Max, Field::ResponseMax],
        &[Field::LateBatches, Field::Batches],
        &[Field::Batches, Field::Inferences],
        &[Field::BatchesCommon, Field::Batches],
    ];
    // Rounding may put a printed mean just outside.
    let slack = |a: Field, b: Field| if row.view.own { EXACT } else { row.slack(a) + row.slack(b) };
    for chain in chains {
        let mut last: Option<(Field, f64)> = None;
        for &field in chain {
            let Some(value) = row.number(field) else { continue };
            if let Some((below, least)) = last
                && value < least * (1.0 - slack(below, field))
            {
                let expected = format!("at least {} of {}", row.text(below).trim(), row.view.column(below));
                findings.push(
                    Finding::new(row.line, row.view.column(field), "order", row.text(field), expected)
                        .factor(value / least),
                );
            }
            last = Some((field, value));
        }
    }
}

/// Columns that are computed from others.
fn formulas(row: &Cells, findings: &mut Findings, ratios: &mut Ratios) {
    use Field::{Batch, Batches, Elapsed, Mean, Throughput, Wall};
    let batch = row.number(Batch);
    if let (Some(mean), Some(batch)) = (row.number(Mean), batch) {
        let shown = || format!("(1000 / {}) x {batch}", short(mean));
        equal(row, Throughput, 1000.0 / mean * batch, &[Mean], &shown, findings, ratios);
    }
    if let (Some(samples), Some(elapsed)) = (row.number(Field::Inferences), row.number(Elapsed)) {
        let shown = || format!("{samples} / {} s", short(elapsed));
        equal(row, Wall, samples / elapsed, &[Elapsed], &shown, findings, ratios);
    } else if let (Some(batches), Some(batch), Some(elapsed)) =
        (row.number(Batches), batch, row.number(Elapsed))
    {
        let shown = || format!("{batches} x {batch} / {} s", short(elapsed));
        equal(row, Wall, batches * batch / elapsed, &[Elapsed], &shown, findings, ratios);
    }
    if let (Some(start), Some(end)) = (row.number(Field::WindowStart), row.number(Field::WindowEnd)) {
        let shown = || "(window_end_ns - window_start_ns) / 10^9".to_owned();
        equal(row, Elapsed, (end - start) / 1e9, &[], &shown, findings, ratios);
    }
}

/// Is this field what the `from` fields make it?
fn equal(
    row: &Cells,
    field: Field,
    expected: f64,
    from: &[Field],
    shown: &dyn Fn() -> String,
    findings: &mut Findings,
    ratios: &mut Ratios,
) {
    let Some(found) = row.number(field) else { return };
    let ratio = found / expected;
    let printed = || from.iter().map(|&field| row.slack(field)).sum::<f64>() + row.slack(field);
    let tolerance = match (row.view.own, field) {
        // Beyond 2^53 ns (104 days of uptime) the difference of two instants is off by ns.
        (true, Field::Elapsed) => 1e-6,
        (true, _) => OWN,
        (false, _) => printed().max(OTHERS),
    };
    if let Some(batch) = row.number(Field::Batch) {
        ratios.add(field, ratio, batch);
    }
    if (ratio - 1.0).abs() <= tolerance {
        return;
    }
    let expected = format!("{} = {}", short(expected), shown());
    findings.push(
        Finding::new(row.line, row.view.column(field), "formula", row.text(field), expected).factor(ratio),
    );
}

/// A deviation is at most what two values at the extremes make with this mean: its square is at most
/// (max - mean)(mean - min) (R. Bhatia and C. Davis, 2000, American Mathematical Monthly 107:353-357).
fn spread(row: &Cells, findings: &mut Findings) {
    let (Some(stddev), Some(mean)) = (row.number(Field::Stddev), row.number(Field::Mean)) else { return };
    let (Some(min), Some(max)) = (row.number(Field::Min), row.number(Field::Max)) else { return };
    let most = ((max - mean) * (mean - min)).max(0.0).sqrt();
    let slack = if row.view.own { 1e-6 * mean } else { OTHERS * mean };
    if stddev > most * (1.0 + EXACT) + slack {
        let expected = format!("at most {}, given minimum, mean and maximum", short(most));
        let name = row.view.column(Field::Stddev);
        findings.push(
            Finding::new(row.line, name, "spread", row.text(Field::Stddev), expected).factor(stddev / most),
        );
    }
}

/// Batches one after the other in each of the lanes fit into the window.
fn busy(row: &Cells, findings: &mut Findings) {
    use Field::{Batches, Elapsed, Inflight, Mean};
    let (Some(batches), Some(mean), Some(elapsed)) =
        (row.number(Batches), row.number(Mean), row.number(Elapsed))
    else {
        return;
    };
    let lanes = row.number(Inflight).unwrap_or(1.0);
    if !row.view.own && !row.view.has(Inflight) {
        return;
    }
    let (needed, available) = (batches * mean / 1e3, elapsed * lanes);
    let slack = if row.view.own { EXACT } else { OTHERS.max(row.slack(Mean) + row.slack(Elapsed)) };
    if needed > available * (1.0 + slack) {
        let expected =
            format!("at least {} s / {lanes} in flight: {batches} batches took so long", short(needed));
        let name = row.view.column(Elapsed);
        findings.push(
            Finding::new(row.line, name, "busy", row.text(Elapsed), expected).factor(available / needed),
        );
    }
}

/// A percentile stands on enough batches.
fn enough(row: &Cells, findings: &mut Findings) {
    let Some(batches) = row.number(Field::Batches) else { return };
    for (field, q) in PERCENTILES.into_iter().chain([(Field::P99Upper, 0.99)]) {
        let needed = NEEDED.with(|cache| cache[index(q)]);
        let name = row.view.column(field);
        if row.number(field).is_some() && batches < needed as f64 {
            let expected = format!("nothing: it needs {needed} batches, and there were {batches}");
            findings.push(Finding::new(row.line, name, "batches-needed", row.text(field), expected));
        }
    }
}

thread_local! {
    static NEEDED: [u64; 5] = PERCENTILES.map(|(_, q)| batches_needed(q));
}

/// Batches needed for a percentile of [`PERCENTILES`].
pub fn needed(q: f64) -> u64 {
    NEEDED.with(|cache| cache[index(q)])
}

fn index(q: f64) -> usize {
    PERCENTILES.iter().position(|&(_, known)| known == q).expect("one of the five")
}
