//! What `trtexec --exportTimes=FILE` leaves behind: an array with an object for each batch, times in ms
//! from an origin of its own. Pure.
//!
//! Keys, as trtexec's help and its output name them: start and end of enqueue, input copy, compute and
//! output copy, their lengths, and `latencyMs`, the sum of the last three. Before TensorRT 8.6 the copies
//! were called In and Out.

use crate::workload::Stages;
use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// One batch, times in ns from the earliest issue in the file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Batch {
    /// Its end less its latency.
    pub issued: u64,
    /// The end of its output copy.
    pub done: u64,
    /// Its stages.
    pub stages: Stages,
}

/// All batches of a file, in the order of their ends.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// At least one.
    pub batches: Vec<Batch>,
    /// The most that were under way at once.
    pub inflight: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    start_enq_ms: f64,
    end_enq_ms: f64,
    #[serde(alias = "endOutMs")]
    end_d2h_ms: f64,
    #[serde(alias = "inMs")]
    h2d_ms: f64,
    compute_ms: f64,
    #[serde(alias = "outMs")]
    d2h_ms: f64,
    latency_ms: f64,
}

/// trtexec prints six digits: after 10 s a moment is known to 0.1 ms. Batches that overlap by no more
/// than this share of their latency follow one another.
const OVERLAP: f64 = 0.5;

/// Reads a file.
///
/// # Errors
/// It is not trtexec's, holds nothing, or impossible times.
pub fn parse(text: &[u8]) -> Result<Trace> {
    let entries: Vec<Entry> =
        serde_json::from_slice(text).context("not what trtexec --exportTimes writes")?;
    ensure!(!entries.is_empty(), "it holds no batches: give trtexec a longer --duration");
    for (index, entry) in entries.iter().enumerate() {
        let lengths = [entry.h2d_ms, entry.compute_ms, entry.d2h_ms, entry.end_enq_ms - entry.start_enq_ms];
        let fine = lengths.iter().chain([&entry.end_d2h_ms]).all(|ms| (0.0..1e12).contains(ms));
        ensure!(
            fine && (1e-6..1e12).contains(&entry.latency_ms),
            "entry {index} has times that can't be: latencyMs {}",
            entry.latency_ms
        );
    }
    let origin = entries.iter().map(|e| e.end_d2h_ms - e.latency_ms).fold(f64::INFINITY, f64::min);
    let mut batches: Vec<Batch> = entries
        .iter()
        .map(|entry| {
            let latency = ns(entry.latency_ms);
            let done = ns(entry.end_d2h_ms - origin).max(latency);
            Batch {
                issued: done - latency,
                done,
                stages: Stages {
                    h2d_ns: ns(entry.h2d_ms),
                    compute_ns: ns(entry.compute_ms),
                    d2h_ns: ns(entry.d2h_ms),
                    enqueue_ns: ns(entry.end_enq_ms - entry.start_enq_ms),
                },
            }
        })
        .collect();
    batches.sort_by_key(|batch| batch.done);
    let inflight = inflight(&batches);
    Ok(Trace { batches, inflight })
}

fn ns(ms: f64) -> u64 {
    (ms * 1e6).round() as u64
}

/// The most batches under way at once; never fewer than their latencies need to fit into the time.
fn inflight(batches: &[Batch]) -> u32 {
    let mut moments: Vec<(u64, i32)> = Vec::new();
    for batch in batches {
        let slack = ((batch.done - batch.issued) as f64 * OVERLAP / 2.0) as u64;
        moments.extend([(batch.issued + slack, 1), ((batch.done - slack).max(batch.issued + slack + 1), -1)]);
    }
    moments.sort_unstable();
    let (mut now, mut most) = (0, 1);
    for (_, step) in moments {
        now += step;
        most = most.max(now);
    }
    let length = batches.iter().map(|b| b.done).max().unwrap_or(1).max(1);
    let sum: u128 = batches.iter().map(|b| u128::from(b.done - b.issued)).sum();
    let needed = sum.div_ceil(u128::from(length)) as u32;
    needed.max(most as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `(end of the output copy, latency)` in ms, a tenth of it for each copy.
    fn file(batches: &[(f64, f64)], (input, output): (&str, &str)) -> String {
        let entry = |&(end, latency): &(f64, f64)| {
            let start = end - latency;
            format!(
                "{{ \"startEnqMs\" : {start}, \"endEnqMs\" : {}, \"start{input}Ms\" : {start}, \"end{input}Ms\" : {}, \
                 \"startComputeMs\" : {start}, \"endComputeMs\" : {end}, \"start{output}Ms\" : {end}, \
                 \"end{output}Ms\" : {end}, \"{}Ms\" : {}, \"computeMs\" : {}, \"{}Ms\" : {}, \"latencyMs\" : {latency} }}",
                start + 0.25,
                start + 0.1,
                input.to_lowercase(),
                latency * 0.125,
                latency * 0.75,
                output.to_lowercase(),
                latency * 0.125
            )
        };
        format!("[\n  {}\n]", batches.iter().map(entry).collect::<Vec<_>>().join("\n, "))
    }

    #[test]
    fn both_spellings_are_read() {
        for names in [("H2d", "D2h"), ("In", "Out")] {
            let trace = parse(file(&[(10.0, 2.0), (14.5, 4.0)], names).as_bytes()).unwrap();
            assert_eq!(trace.inflight, 1);
            let stages =
                Stages { h2d_ns: 250_000, compute_ns: 1_500_000, d2h_ns: 250_000, enqueue_ns: 250_000 };
            assert_eq!(trace.batches[0], Batch { issued: 0, done: 2_000_000, stages });
            assert_eq!((trace.batches[1].issued, trace.batches[1].done), (2_500_000, 6_500_000));
        }
    }

    #[test]
    fn batches_under_way_at_once_are_counted() {
        let count =
            |batches: &[(f64, f64)]| parse(file(batches, ("H2d", "D2h")).as_bytes()).unwrap().inflight;
        assert_eq!(
            count(&[(1.0, 1.0), (2.0, 1.1), (3.0, 1.0)]),
            2,
            "their latencies do not fit one after another"
        );
        assert_eq!(count(&[(1.0, 1.0), (2.0, 1.1), (4.0, 1.0)]), 1, "rounding");
        assert_eq!(count(&[(2.0, 2.0), (3.0, 2.0), (4.0, 2.0), (5.0, 2.0), (6.0, 2.0)]), 2);
        assert_eq!(count(&[(3.0, 3.0), (3.1, 3.0), (3.2, 3.0)]), 3);
    }

    #[test]
    fn what_is_not_trtexecs_is_refused() {
        let refusal = |text: &str| format!("{:#}", parse(text.as_bytes()).unwrap_err());
        assert!(refusal("junk").starts_with("not what trtexec --exportTimes writes: "));
        assert!(refusal("[{\"latencyMs\": 1}]").contains("missing field `startEnqMs`"));
        assert_eq!(refusal("[]"), "it holds no batches: give trtexec a longer --duration");
        let zero = file(&[(1.0, 0.0)], ("H2d", "D2h"));
        assert_eq!(refusal(&zero), "entry 0 has times that can't be: latencyMs 0");
        let negative = file(&[(1.0, 1.0)], ("H2d", "D2h")).replace("\"computeMs\" : ", "\"computeMs\" : -");
        assert!(refusal(&negative).starts_with("entry 0 has times that can't be"));
    }
}
