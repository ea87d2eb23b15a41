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
/// What is counted: no rounding makes 0 of it.
const COUNTS: [Field; 5] = [Field::Batch, Field::Batches, Field::Inflight, Field::Inferences, Field::SmCount];

/// Percentiles and the share of batches below them.
pub const PERCENTILES: [(Field, f64); 5] =
    [(Field::P50, 0.5), (Field::P90, 0.9), (Field::P95, 0.95), (Field::P99, 0.99), (Field::P999, 0.999)];

/// Fields of a row that were compared with others; a bit for each.
#[derive(Clone, Copy, Default)]
pub struct Compared(u128);

const _: () = assert!(NUMBERS <= 128, "a bit for each number");

impl Compared {
    fn add(&mut self, fields: &[Field]) {
        fields.iter().for_each(|&field| self.0 |= 1 << field as u32);
    }

    /// Was this one?
    pub fn has(self, field: Field) -> bool {
        (field as usize) < NUMBERS && self.0 >> field as u32 & 1 == 1
    }
}

/// What the formulas compare, each with all of its fields.
pub const FORMULAS: [&[Field]; 4] = {
    use Field::{Batch, Batches, Elapsed, Inferences, Inflight, Mean, Throughput, Wall};
    [
        &[Throughput, Mean, Batch],
        &[Throughput, Mean, Batch, Inflight],
        &[Wall, Batches, Batch, Elapsed],
        &[Wall, Inferences, Elapsed],
    ]
};

/// What is compared with its neighbours, in their order.
pub const ORDER: [Field; 7] =
    [Field::Min, Field::P50, Field::P90, Field::P95, Field::P99, Field::P999, Field::Max];

/// All of them; says which fields it has compared with others.
pub fn check(row: &Cells, findings: &mut Findings, ratios: &mut Ratios) -> Compared {
    let mut compared = Compared::default();
    signs(row, findings);
    order(row, findings, &mut compared);
    formulas(row, findings, ratios, &mut compared);
    spread(row, findings, &mut compared);
    busy(row, findings, &mut compared);
    enough(row, findings, &mut compared);
    compared
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
            match row.view.normal(text).parse::<f64>() {
                Ok(_) => add("finite", "a finite number"),
                Err(_) if !text.trim().is_empty() && !row.view.own => add("type", readable(text)),
                Err(_) => {}
            }
            continue;
        };
        let zero_counts = MAY_BE_ZERO.contains(&field)
            || field == Field::CpuThrottled
            || (field == Field::Min && row.warns("out-of-range"));
        // Another tool's 0.00 may be 0.004.
        let rounded = || !row.view.own && text.contains(['.', ',']) && !COUNTS.contains(&field);
        if value == 0.0 && !zero_counts && !rounded() {
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

/// What another tool should have written instead of a cell that is no number.
fn readable(text: &str) -> &'static str {
    let text = text.trim();
    let number = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    if number.len() < text.len() && number.trim().parse::<f64>().is_ok() {
        "a number without its unit: the unit belongs into the header"
    } else if text.split_once(',').is_some_and(|(a, b)| [a, b].iter().all(|part| part.parse::<u64>().is_ok()))
    {
        "a number with a decimal point: --decimal-comma reads this one"
    } else if text.parse::<f64>().is_err() && !text.bytes().any(|byte| byte.is_ascii_digit()) {
        "a number, or an empty cell where nothing was measured"
    } else {
        "a number"
    }
}

/// Quantiles ascend, and the mean lies between the extremes.
fn order(row: &Cells, findings: &mut Findings, compared: &mut Compared) {
    use Field::{Max, Mean, Min, P99, P99Upper};
    let chains: [&[Field]; 10] = [
        &ORDER,
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
    let slack = |(a, least): (Field, f64), b: Field| {
        if row.view.own { EXACT * least } else { row.unit(a) + row.unit(b) }
    };
    for chain in chains {
        let mut last: Option<(Field, f64)> = None;
        for &field in chain {
            let Some(value) = row.number(field) else { continue };
            if let Some((below, _)) = last {
                compared.add(&[below, field]);
            }
            if let Some((below, least)) = last
                && value < least - slack((below, least), field)
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
fn formulas(row: &Cells, findings: &mut Findings, ratios: &mut Ratios, compared: &mut Compared) {
    use Field::{Batch, Batches, Elapsed, Inflight, Mean, Throughput, Wall};
    let batch = row.number(Batch);
    // Another tool's 0.00 is some time that is too short for its digits.
    let positive = |field| row.number(field).filter(|&number| row.view.own || number > 0.0);
    let mut equal = |field, expected, from: &[Field], shown: &dyn Fn() -> String| {
        if equal(row, field, expected, from, shown, findings, ratios) {
            compared.add(from);
            compared.add(&[field]);
        }
    };
    if let (Some(mean), Some(batch)) = (positive(Mean), batch) {
        // migbench claims this throughput of one batch in flight only. Another tool's empty cell may mean
        // any number in flight.
        match row.number(Inflight).filter(|_| !row.view.own) {
            None if !row.view.own && row.view.has(Inflight) => {}
            Some(lanes) if lanes <= 0.0 => {}
            None => {
                let shown = || format!("(1000 / {}) x {batch}", short(mean));
                equal(Throughput, 1000.0 / mean * batch, &[Mean, Batch], &shown);
            }
            Some(lanes) => {
                let shown = || format!("{lanes} in flight x (1000 / {}) x {batch}", short(mean));
                equal(Throughput, lanes * 1000.0 / mean * batch, &[Mean, Batch, Inflight], &shown);
            }
        }
    }
    if let (Some(samples), Some(elapsed)) = (row.number(Field::Inferences), positive(Elapsed)) {
        let shown = || format!("{samples} / {} s", short(elapsed));
        equal(Wall, samples / elapsed, &[Elapsed, Field::Inferences], &shown);
    } else if let (Some(batches), Some(batch), Some(elapsed)) =
        (row.number(Batches), batch, positive(Elapsed))
    {
        let shown = || format!("{batches} x {batch} / {} s", short(elapsed));
        equal(Wall, batches * batch / elapsed, &[Elapsed, Batches, Batch], &shown);
    }
    // A spreadsheet's 1.2E+12 is no moment; that it is no whole number is said of it.
    let moment = |field| row.number(field).filter(|_| !row.text(field).contains(['e', 'E']));
    if let (Some(start), Some(end)) = (moment(Field::WindowStart), moment(Field::WindowEnd)) {
        let shown = || "(window_end_ns - window_start_ns) / 10^9".to_owned();
        equal(Elapsed, (end - start) / 1e9, &[Field::WindowStart, Field::WindowEnd], &shown);
    }
}

/// Is this field what the `from` fields make it? False where there is nothing to compare.
fn equal(
    row: &Cells,
    field: Field,
    expected: f64,
    from: &[Field],
    shown: &dyn Fn() -> String,
    findings: &mut Findings,
    ratios: &mut Ratios,
) -> bool {
    let Some(found) = row.number(field) else { return false };
    let ratio = found / expected;
    // By how much the digits of what was printed may be off. Counts are what they are.
    let printed = || {
        let times = from.iter().filter(|field| [Field::Mean, Field::Elapsed].contains(field));
        times.map(|&field| row.unit(field) / row.number(field).unwrap_or(f64::NAN)).sum::<f64>()
    };
    let (share, unit) = match (row.view.own, field) {
        // Beyond 2^53 ns (104 days of uptime) the difference of two instants is off by ns.
        (true, Field::Elapsed) => (1e-6, 0.0),
        (true, _) => (OWN, 0.0),
        (false, _) => (printed(), row.unit(field)),
    };
    let slack =
        if row.view.own { share * expected } else { (share * expected + unit).max(OTHERS * expected) };
    // Numbers that are known to less than themselves say nothing.
    if slack >= found.max(expected) {
        return false;
    }
    if let Some(batch) = row.number(Field::Batch) {
        ratios.add(row, field, ratio, batch);
    }
    if (found - expected).abs() > slack {
        let expected = format!("{} = {}", short(expected), shown());
        let name = row.view.column(field);
        findings.push(Finding::new(row.line, name, "formula", row.text(field), expected).factor(ratio));
    }
    true
}

/// A deviation is at most what two values at the extremes make with this mean: its square is at most
/// (max - mean)(mean - min) (R. Bhatia and C. Davis, 2000, American Mathematical Monthly 107:353-357).
fn spread(row: &Cells, findings: &mut Findings, compared: &mut Compared) {
    let (Some(stddev), Some(mean)) = (row.number(Field::Stddev), row.number(Field::Mean)) else { return };
    let (Some(min), Some(max)) = (row.number(Field::Min), row.number(Field::Max)) else { return };
    compared.add(&[Field::Stddev, Field::Mean, Field::Min, Field::Max]);
    let most = ((max - mean) * (mean - min)).max(0.0).sqrt();
    let slack = if row.view.own { 1e-6 * mean } else { (OTHERS * mean).max(row.unit(Field::Stddev)) };
    if stddev > most * (1.0 + EXACT) + slack {
        let expected = format!("at most {}, given minimum, mean and maximum", short(most));
        let name = row.view.column(Field::Stddev);
        findings.push(
            Finding::new(row.line, name, "spread", row.text(Field::Stddev), expected).factor(stddev / most),
        );
    }
}

/// Batches one after the other in each of the lanes fit into the window.
fn busy(row: &Cells, findings: &mut Findings, compared: &mut Compared) {
    use Field::{Batches, Elapsed, Inflight, Mean};
    let (Some(batches), Some(mean), Some(elapsed)) =
        (row.number(Batches), row.number(Mean), row.number(Elapsed))
    else {
        return;
    };
    let lanes = match row.number(Inflight) {
        Some(lanes) => lanes,
        None if row.view.own => 1.0,
        // In another tool's file nothing says how many batches were in flight.
        None => return,
    };
    compared.add(&[Batches, Mean, Elapsed, Inflight]);
    let (needed, available) = (batches * mean / 1e3, elapsed * lanes);
    let printed = || row.unit(Mean) / mean + row.unit(Elapsed) / elapsed;
    let slack = if row.view.own { EXACT } else { printed().max(OTHERS) };
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
fn enough(row: &Cells, findings: &mut Findings, compared: &mut Compared) {
    let Some(batches) = row.number(Field::Batches) else { return };
    for (field, q) in PERCENTILES.into_iter().chain([(Field::P99Upper, 0.99)]) {
        let needed = NEEDED.with(|cache| cache[index(q)]);
        let name = row.view.column(field);
        if row.number(field).is_none() {
            continue;
        }
        compared.add(&[Field::Batches, field]);
        if batches < needed as f64 {
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
