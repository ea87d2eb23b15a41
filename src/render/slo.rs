//! What a search under a latency target found: one line a search.

use crate::results::Row;
use std::collections::BTreeMap;
use std::io::{self, Write};

/// The highest rate of each search that met its target, and what is known there; or why there is none.
/// `unfinished` are rows of searches that were interrupted.
///
/// # Errors
/// The stream does not take it.
pub fn write(out: &mut dyn Write, rows: &[Row], unfinished: &[Row]) -> io::Result<()> {
    for (search, probes) in searches(rows) {
        let interrupted = unfinished.iter().any(|row| key(row).as_ref() == Some(&search));
        let ((.., label), (workload, batch, inflight, mode, target), round) = search;
        let lanes = if inflight > 1 { format!(", {inflight} in flight") } else { String::new() };
        let mode = mode.to_lowercase();
        let found = found(&probes, target, interrupted);
        writeln!(out, "{label}, {workload}, batch {batch}{lanes}, {mode}, round {round}: {found}")?;
    }
    Ok(())
}

/// Has any search ended without an answer?
pub fn any_undecided(rows: &[Row]) -> bool {
    searches(rows).values().any(|probes| undecided(probes, best(probes)).is_some())
}

/// The probes of each search.
fn searches(rows: &[Row]) -> BTreeMap<Key<'_>, Vec<&Row>> {
    let mut searches: BTreeMap<_, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        if let Some(key) = key(row) {
            searches.entry(key).or_default().push(row);
        }
    }
    searches
}

/// Whose search a probe belongs to, in their order; none of a row that is no probe.
type Key<'a> = ((Option<u32>, Option<u32>, Option<u32>, &'a str), (&'a str, u64, u32, String, &'a str), u32);

fn key(row: &Row) -> Option<Key<'_>> {
    let target = row.slo.target.as_deref()?;
    let (subject, point) = (&row.subject.instance, &row.point);
    let place = (subject.gpu_index, subject.gi_id, subject.ci_id, subject.label());
    let what = (&*point.workload, point.batch, point.inflight, format!("{:?}", point.mode), target);
    Some((place, what, row.provenance.repetition))
}

/// What the probes of a search say.
fn found(probes: &[&Row], target: &str, interrupted: bool) -> String {
    let best = best(probes);
    let undecided = undecided(probes, best).map(|row| reason(row, probes));
    let Some(best) = best else {
        return match undecided {
            _ if interrupted => format!("interrupted before a rate with {target} was found"),
            Some(reason) => format!("undecided whether there is a rate with {target}: {reason}"),
            None => format!("no rate with {target}"),
        };
    };
    let (bound, samples) = (best.slo.bound.unwrap_or(0.0), best.rates.throughput_wall.unwrap_or(0.0));
    let what =
        format!("{} arrivals/s ({samples:.1} samples/s) with {target} (at most {bound:.3} ms)", rate(best));
    match undecided {
        _ if interrupted => format!("at least {what}: interrupted before the highest was found"),
        Some(reason) => format!("at least {what}; undecided above it: {reason}"),
        None => what,
    }
}

fn rate(row: &Row) -> f64 {
    row.rates.offered.unwrap_or(0.0)
}

/// The probe with the highest rate that met the target.
fn best<'a>(probes: &[&'a Row]) -> Option<&'a Row> {
    let met = probes.iter().filter(|row| row.slo.met == Some(true));
    met.copied().reduce(|best, row| if rate(row) > rate(best) { row } else { best })
}

/// The probe with the lowest rate above the best, as it was asked last, if it could not tell.
fn undecided<'a>(probes: &[&'a Row], best: Option<&Row>) -> Option<&'a Row> {
    let above = probes.iter().filter(|row| best.is_none_or(|best| rate(row) > rate(best)));
    let above = above.copied().reduce(|low, row| if rate(row) <= rate(low) { row } else { low });
    above.filter(|row| row.slo.met.is_none())
}

/// Why a probe decides nothing, and of how many that is said.
fn reason(row: &Row, probes: &[&Row]) -> String {
    let open = probes.iter().filter(|row| row.slo.met.is_none()).count();
    let why = row.outcome.error.as_deref().unwrap_or(
        "too few responses that do not depend on each other: let windows be longer, by --max-duration",
    );
    format!("{open} of {} probes could not tell; {}: {why}", probes.len(), row.point.load)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::row::Status;

    /// A probe at a rate, and whether it met the target.
    fn probe(rate: f64, met: Option<bool>) -> Row {
        let mut row = Row::default();
        (row.point.workload, row.point.batch, row.point.inflight) = ("mlp".into(), 1, 1);
        (row.point.load, row.provenance.repetition) = (format!("open(rate={rate})"), 1);
        (row.rates.offered, row.rates.throughput_wall) = (Some(rate), Some(rate));
        (row.slo.target, row.slo.met) = (Some("p99<=10ms".into()), met);
        row.slo.bound = met.map(|met| if met { 9.0 } else { 11.0 });
        row
    }

    fn late(rate: f64) -> Row {
        let mut row = probe(rate, None);
        row.invalid("9 of 80 batches were issued late");
        row
    }

    fn line(rows: &[Row], unfinished: &[Row]) -> String {
        let mut out = Vec::new();
        write(&mut out, rows, unfinished).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_end_of_a_search_has_its_words() {
        let (met, missed) = (probe(700.0, Some(true)), probe(705.0, Some(false)));
        let found = "700 arrivals/s (700.0 samples/s) with p99<=10ms (at most 9.000 ms)";
        let few =
            "too few responses that do not depend on each other: let windows be longer, by --max-duration";
        for (rows, expected) in [
            (vec![met.clone(), missed.clone()], found.to_owned()),
            (vec![met.clone(), late(705.0), missed.clone()], found.to_owned()),
            (vec![late(700.0), met.clone()], found.to_owned()),
            (vec![missed.clone()], "no rate with p99<=10ms".to_owned()),
            (vec![late(705.0), missed.clone()], "no rate with p99<=10ms".to_owned()),
            (
                vec![missed.clone(), late(490.0), late(490.0)],
                "undecided whether there is a rate with p99<=10ms: 2 of 3 probes could not tell; \
                 open(rate=490): 9 of 80 batches were issued late"
                    .to_owned(),
            ),
            (
                vec![met.clone(), probe(705.0, None)],
                format!(
                    "at least {found}; undecided above it: 1 of 2 probes could not tell; open(rate=705): {few}"
                ),
            ),
        ] {
            assert_eq!(line(&rows, &[]), format!(", mlp, batch 1, isolated, round 1: {expected}\n"));
        }
    }

    #[test]
    fn an_interrupted_search_says_so() {
        let (met, missed) = (probe(700.0, Some(true)), probe(900.0, Some(false)));
        let mut cut = probe(800.0, None);
        cut.outcome.status = Status::Interrupted;
        for last in [&cut, &missed] {
            let text = line(&[missed.clone(), last.clone()], std::slice::from_ref(last));
            assert!(text.ends_with(": interrupted before a rate with p99<=10ms was found\n"), "{text}");
            let text = line(&[met.clone(), last.clone()], std::slice::from_ref(last));
            assert!(text.contains(": at least 700 arrivals/s"), "{text}");
            assert!(text.ends_with(": interrupted before the highest was found\n"), "{text}");
        }
        // Another round's search is not meant.
        let mut other = missed.clone();
        other.provenance.repetition = 2;
        let text = line(&[missed, other.clone()], &[other]);
        assert!(text.contains("round 1: no rate with") && text.contains("round 2: interrupted"), "{text}");
    }
}
