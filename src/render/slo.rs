//! What a search under a latency target found: one line a search.

use crate::results::Row;
use std::collections::BTreeMap;
use std::io::{self, Write};

/// The highest rate of each search that met its target, and what is known there.
///
/// # Errors
/// The stream does not take it.
pub fn write<'a>(out: &mut dyn Write, rows: impl IntoIterator<Item = &'a Row>) -> io::Result<()> {
    let mut searches: BTreeMap<_, Option<&Row>> = BTreeMap::new();
    for row in rows {
        let Some(target) = row.slo.target.as_deref() else { continue };
        let (subject, point) = (&row.subject.instance, &row.point);
        let place = (subject.gpu_index, subject.gi_id, subject.ci_id, subject.label());
        let what = (&point.workload, point.batch, point.inflight, format!("{:?}", point.mode), target);
        let best = searches.entry((place, what, row.provenance.repetition)).or_default();
        let higher = best.is_none_or(|best| row.rates.offered > best.rates.offered);
        if row.slo.met == Some(true) && higher {
            *best = Some(row);
        }
    }
    for (((.., label), (workload, batch, inflight, mode, target), round), best) in searches {
        let lanes = if inflight > 1 { format!(", {inflight} in flight") } else { String::new() };
        let mode = mode.to_lowercase();
        write!(out, "{label}, {workload}, batch {batch}{lanes}, {mode}, round {round}: ")?;
        match best {
            Some(row) => {
                let (rate, bound) = (row.rates.offered.unwrap_or(0.0), row.slo.bound.unwrap_or(0.0));
                let samples = row.rates.throughput_wall.unwrap_or(0.0);
                writeln!(
                    out,
                    "{rate} arrivals/s ({samples:.1} samples/s) with {target} (at most {bound:.3} ms)"
                )?;
            }
            None => writeln!(out, "no rate with {target}")?,
        }
    }
    Ok(())
}
