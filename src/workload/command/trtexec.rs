//! What `trtexec --exportTimes=FILE` leaves behind: an array with an object for each batch, times in ms
//! from the start of its inference, warm-up included. Pure.
//!
//! Each entry holds start and end of the enqueue, the input copy, the computation and the output copy, their
//! lengths, and `latencyMs`, the sum of the last three. What TensorRT's `sampleReporting.cpp` writes has
//! changed over time:
//!
//! | version | copies are called | enqueue | `endToEndMs` | batches of the warm-up |
//! |---|---|---|---|---|
//! | 7.0 | In, Out | not there | yes | in the file |
//! | 7.1-7.2 | In, Out | under `startInMs`, `endInMs`; the input copy is under `startEnqMs`, `endEnqMs` | yes | in the file |
//! | 8.0-8.2 | H2d, D2h | `startEnqMs`, `endEnqMs` | yes | in the file |
//! | 8.3-8.4 | H2d, D2h | `startEnqMs`, `endEnqMs` | no | in the file |
//! | 8.5 on | H2d, D2h | `startEnqMs`, `endEnqMs` | no | left out |
//!
//! 8.4 and 8.5 differ by their time stamps only: the first batch of a file that leaves the warm-up out
//! computes after it. trtexec itself counts a batch as warm-up when its computation starts before
//! `--warmUp` has passed, so that is the rule here, for every version.

use crate::workload::Stages;
use anyhow::{Context, Result, anyhow, ensure};
use serde::Deserialize;

/// One batch, times in ns from the earliest issue after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Batch {
    /// Its end less its latency.
    pub issued: u64,
    /// The end of its output copy.
    pub done: u64,
    /// Its stages; those that the file's digits do not tell are 0.
    pub stages: Stages,
}

/// The batches of a file after its warm-up, in the order of their ends.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// At least one.
    pub batches: Vec<Batch>,
    /// Batches of the warm-up, which are left out.
    pub warmup_batches: u64,
    /// The most batches that were under way at once.
    pub inflight: u32,
    /// How much longer than from its first issue to its last end the window must be taken to be, within
    /// the resolution of the time stamps, for its batches to fit into it, in ns.
    pub stretch: u64,
    /// The time stamps are coarser than 1 % of the median latency.
    pub is_coarse: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    start_enq_ms: Option<f64>,
    end_enq_ms: Option<f64>,
    start_in_ms: Option<f64>,
    end_in_ms: Option<f64>,
    start_compute_ms: f64,
    #[serde(alias = "endOutMs")]
    end_d2h_ms: f64,
    #[serde(alias = "inMs")]
    h2d_ms: f64,
    compute_ms: f64,
    #[serde(alias = "outMs")]
    d2h_ms: f64,
    latency_ms: f64,
}

impl Entry {
    /// Start and end of the enqueue, where the version wrote them.
    fn enqueue(&self) -> Option<(f64, f64)> {
        let written = self.start_enq_ms.zip(self.end_enq_ms)?;
        Some(self.start_in_ms.zip(self.end_in_ms).unwrap_or(written))
    }
}

/// How long trtexec warms up unless `--warmUp` says otherwise, in ms.
const WARM_UP_MS: f64 = 200.0;
/// Batches that overlap by no more than this share of their latency follow one another: trtexec copies
/// the next input while the current batch is computed.
const OVERLAP: f64 = 0.5;
/// A resolution above this share of the median latency is coarse.
const COARSE: f64 = 0.01;

/// The warm-up that a command line asks trtexec for, in ms. trtexec may be named within the argument of a
/// shell.
pub fn warm_up_ms(arguments: &[String]) -> f64 {
    let mut given = arguments.iter().filter_map(|argument| {
        let (_, value) = argument.split_once("--warmUp=")?;
        value.split(|c: char| !c.is_ascii_digit() && c != '.').next()?.parse().ok()
    });
    given.next_back().unwrap_or(WARM_UP_MS)
}

/// Reads a file; what computes before `warm_up_ms` is the warm-up.
///
/// # Errors
/// It is not trtexec's, holds nothing after the warm-up, or impossible times.
pub fn parse(text: &[u8], warm_up_ms: f64) -> Result<Trace> {
    let entries: Vec<Entry> = serde_json::from_slice(text).map_err(|error| no_json(text, error))?;
    ensure!(!entries.is_empty(), "it holds no batches: give trtexec a longer --duration");
    for (index, entry) in entries.iter().enumerate() {
        entry.check().with_context(|| format!("entry {index} has times that can't be"))?;
    }
    let all = entries.len();
    let entries: Vec<Entry> = entries.into_iter().filter(|e| e.start_compute_ms >= warm_up_ms).collect();
    ensure!(
        !entries.is_empty(),
        "all of its {all} batches started within the warm-up of {warm_up_ms} ms (trtexec's --warmUp): give \
         trtexec a longer --duration"
    );
    let resolution = Resolution::of(&entries);
    let origin = entries.iter().map(|e| e.end_d2h_ms - e.latency_ms).fold(f64::INFINITY, f64::min);
    let enqueue_known = resolution.tells_enqueue(&entries);
    let mut batches: Vec<Batch> = entries
        .iter()
        .map(|entry| {
            let latency = ns(entry.latency_ms);
            let done = ns(entry.end_d2h_ms - origin).max(latency);
            let enqueue = entry.enqueue().filter(|_| enqueue_known);
            Batch {
                issued: done - latency,
                done,
                stages: Stages {
                    h2d_ns: ns(entry.h2d_ms),
                    compute_ns: ns(entry.compute_ms),
                    d2h_ns: ns(entry.d2h_ms),
                    enqueue_ns: enqueue.map_or(0, |(start, end)| ns(end - start)),
                },
            }
        })
        .collect();
    batches.sort_by_key(|batch| batch.done);
    let (inflight, stretch) = inflight(&batches, &resolution);
    let is_coarse = resolution.step_ms() > COARSE * median(entries.iter().map(|e| e.latency_ms));
    Ok(Trace { warmup_batches: (all - batches.len()) as u64, batches, inflight, stretch, is_coarse })
}

/// Why a text is no list of entries. C++ prints nan and inf, which JSON does not have.
fn no_json(text: &[u8], error: serde_json::Error) -> anyhow::Error {
    let line = text.split(|&byte| byte == b'\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let values = line.split([',', '}']).filter_map(|pair| pair.split_once(" : "));
    let mut bad = values.filter(|(_, value)| ["nan", "-nan", "inf", "-inf"].contains(&value.trim()));
    match bad.next() {
        Some((key, value)) => {
            let key = key.trim_matches(|c: char| !c.is_ascii_alphanumeric());
            anyhow!("line {}: {key} is {}, which is no time", error.line(), value.trim())
        }
        None => anyhow::Error::new(error).context("not what trtexec --exportTimes writes"),
    }
}

/// Whole ns; rounding may have put an end just before its start.
fn ns(ms: f64) -> u64 {
    (ms * 1e6).round().max(0.0) as u64
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

impl Entry {
    /// Are these the times of a batch, within their resolution?
    fn check(&self) -> Result<()> {
        let Entry { start_compute_ms, end_d2h_ms, h2d_ms, compute_ms, d2h_ms, latency_ms, .. } = *self;
        let moments = [("startComputeMs", start_compute_ms), ("the output copy's end", end_d2h_ms)];
        for (name, ms) in moments {
            ensure!((0.0..1e12).contains(&ms), "{name} is {ms}");
        }
        let resolution = Resolution::at(end_d2h_ms);
        // Zero is a batch without copies; below it is rounding, or no time.
        let least = -resolution.step_ms();
        let enqueue = self.enqueue().map_or(0.0, |(start, end)| end - start);
        let lengths = [
            ("the input copy's", h2d_ms),
            ("computeMs", compute_ms),
            ("the output copy's", d2h_ms),
            ("the enqueue's", enqueue),
        ];
        for (name, ms) in lengths {
            ensure!((least..1e12).contains(&ms), "{name} length is {ms} ms");
        }
        ensure!(
            latency_ms != 0.0,
            "latencyMs is 0: {:.3} s after its start trtexec's times have steps of {:.2e} ms, longer than the batch: \
             give trtexec a shorter --duration, or the batch more samples",
            end_d2h_ms / 1e3,
            resolution.float_ms
        );
        ensure!((1e-6..1e12).contains(&latency_ms), "latencyMs is {latency_ms}");
        Ok(())
    }
}

/// How well moments are known. trtexec keeps them as 32-bit numbers of ms since its start, and prints six
/// digits of them: after 100 s a moment is known to 1 ms. Lengths are differences of the unprinted moments.
struct Resolution {
    /// A unit of the last printed digit, in ms.
    printed_ms: f64,
    /// The distance of 32-bit numbers of that size, in ms.
    float_ms: f64,
}

impl Resolution {
    /// That of a moment.
    fn at(ms: f64) -> Resolution {
        let ms = ms.max(1e-3);
        Resolution {
            printed_ms: 10f64.powi(ms.log10().floor() as i32 - 5),
            float_ms: 2f64.powi(ms.log2().floor() as i32 - 23),
        }
    }

    /// That of the last moment, which is the coarsest.
    fn of(entries: &[Entry]) -> Resolution {
        Resolution::at(entries.iter().map(|entry| entry.end_d2h_ms).fold(0.0, f64::max))
    }

    fn step_ms(&self) -> f64 {
        self.printed_ms.max(self.float_ms)
    }

    /// Is the enqueue's length, of which the file has start and end only, more than rounding?
    fn tells_enqueue(&self, entries: &[Entry]) -> bool {
        let lengths = entries.iter().filter_map(Entry::enqueue).map(|(start, end)| end - start);
        median(lengths) >= 2.0 * self.step_ms()
    }
}

/// The most batches under way at once, never fewer than their latencies need to fit into the time; and by
/// how much that time must be longer than it looks for them to fit, in ns. What the resolution of the time
/// stamps can explain counts as rounding.
fn inflight(batches: &[Batch], resolution: &Resolution) -> (u32, u64) {
    let step = (resolution.step_ms() * 1e6).ceil() as u64;
    let mut moments: Vec<(u64, i32)> = Vec::new();
    for batch in batches {
        let latency = batch.done - batch.issued;
        let slack = ((latency as f64 * OVERLAP / 2.0) as u64).max(step / 2);
        let (from, to) = (batch.issued + slack, batch.done.saturating_sub(slack));
        // Of a batch that is shorter than the steps nobody can say which others it overlaps.
        if from < to {
            moments.extend([(from, 1), (to, -1)]);
        }
    }
    moments.sort_unstable();
    let (mut now, mut most) = (0, 1);
    for (_, change) in moments {
        now += change;
        most = most.max(now);
    }
    let length = batches.iter().map(|b| b.done).max().unwrap_or(1).max(1);
    let sum: u128 = batches.iter().map(|b| u128::from(b.done - b.issued)).sum();
    // Rounding of the latencies adds up as a random walk; four standard deviations of it.
    let rounding = 4.0 * (batches.len() as f64).sqrt() * resolution.float_ms * 1e6;
    let needed = ((sum as f64 - rounding) / (length + step) as f64).ceil().max(1.0) as u32;
    let inflight = needed.max(most as u32);
    let fits = sum.div_ceil(u128::from(inflight)) as u64;
    (inflight, fits.saturating_sub(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How the versions write a file.
    #[derive(Clone, Copy)]
    struct Version {
        copies: (&'static str, &'static str),
        enqueue: bool,
        end_to_end: bool,
    }

    const V7_0: Version = Version { copies: ("In", "Out"), enqueue: false, end_to_end: true };
    const V7_2: Version = Version { copies: ("In", "Out"), enqueue: true, end_to_end: true };
    const V8_2: Version = Version { copies: ("H2d", "D2h"), enqueue: true, end_to_end: true };
    const V8_6: Version = Version { copies: ("H2d", "D2h"), enqueue: true, end_to_end: false };

    /// `(end of the output copy, latency)` in ms, an eighth of it for each copy, as C++ prints floats: the
    /// moments and the lengths of their 32-bit numbers, six digits.
    fn file(batches: &[(f64, f64)], version: Version) -> String {
        let printed = |ms: f64| {
            let digits = (5 - ms.abs().max(1e-30).log10().floor() as i32).max(0) as usize;
            if ms.abs() >= 1e6 { format!("{ms:.5e}") } else { format!("{ms:.digits$}") }
        };
        let entry = |&(end, latency): &(f64, f64)| {
            let float = |ms: f64| f64::from(ms as f32);
            let (input, output) = version.copies;
            let start = end - latency;
            let moments = [start, start + latency * 0.125, end - latency * 0.125, end].map(float);
            let [h2d, compute, d2h] = [0, 1, 2].map(|i| moments[i + 1] - moments[i]);
            let enqueue = [start, start + 0.25].map(float);
            let mut keys = Vec::new();
            let mut add = |key: String, ms: f64| keys.push(format!("\"{key}Ms\" : {}", printed(ms)));
            let (first, second) =
                if input == "In" { (&moments[..2], &enqueue[..]) } else { (&enqueue[..], &moments[..2]) };
            if version.enqueue {
                add("startEnq".into(), first[0]);
                add("endEnq".into(), first[1]);
                add(format!("start{input}"), second[0]);
                add(format!("end{input}"), second[1]);
            } else {
                add(format!("start{input}"), moments[0]);
                add(format!("end{input}"), moments[1]);
            }
            add("startCompute".into(), moments[1]);
            add("endCompute".into(), moments[2]);
            add(format!("start{output}"), moments[2]);
            add(format!("end{output}"), moments[3]);
            add(input.to_lowercase(), h2d);
            add("compute".into(), compute);
            add(output.to_lowercase(), d2h);
            add("latency".into(), h2d + compute + d2h);
            if version.end_to_end {
                add("endToEnd".into(), moments[3] - moments[0]);
            }
            format!("{{ {} }}", keys.join(", "))
        };
        format!("[\n  {}\n]", batches.iter().map(entry).collect::<Vec<_>>().join("\n, "))
    }

    /// Batches of one length one after another, from a moment on.
    fn steady(from: f64, latency: f64, count: usize) -> Vec<(f64, f64)> {
        (1..=count).map(|i| (from + latency * i as f64, latency)).collect()
    }

    fn read(batches: &[(f64, f64)], version: Version) -> Trace {
        parse(file(batches, version).as_bytes(), 0.0).unwrap()
    }

    #[test]
    fn every_version_is_read_from_the_right_fields() {
        for (version, enqueue_ns) in [(V7_0, 0), (V7_2, 250_000), (V8_2, 250_000), (V8_6, 250_000)] {
            let trace = read(&[(10.0, 2.0), (14.5, 4.0)], version);
            assert_eq!((trace.inflight, trace.stretch, trace.is_coarse), (1, 0, false));
            let stages = Stages { h2d_ns: 250_000, compute_ns: 1_500_000, d2h_ns: 250_000, enqueue_ns };
            assert_eq!(trace.batches[0], Batch { issued: 0, done: 2_000_000, stages });
            assert_eq!((trace.batches[1].issued, trace.batches[1].done), (2_500_000, 6_500_000));
        }
    }

    #[test]
    fn the_warm_up_is_left_out_and_counted() {
        let warm_up = steady(0.5, 8.0, 25);
        let measured = steady(200.5, 2.0, 300);
        for version in [V7_0, V7_2, V8_2, V8_6] {
            let text = file(&[&warm_up[..], &measured[..]].concat(), version);
            let trace = parse(text.as_bytes(), 200.0).unwrap();
            assert_eq!((trace.batches.len(), trace.warmup_batches, trace.inflight), (300, 25, 1));
            let longest = trace.batches.iter().map(|batch| batch.done - batch.issued).max().unwrap();
            assert!(longest < 2_001_000, "{longest}");
            assert_eq!(parse(text.as_bytes(), 0.0).unwrap().warmup_batches, 0, "--warmUp=0");
        }
        // From 8.5 on the file begins after it.
        let trace = parse(file(&measured, V8_6).as_bytes(), 200.0).unwrap();
        assert_eq!((trace.batches.len(), trace.warmup_batches), (300, 0));
        let error = parse(file(&warm_up, V8_2).as_bytes(), 250.0).unwrap_err().to_string();
        assert!(error.starts_with("all of its 25 batches started within the warm-up of 250 ms"), "{error}");
    }

    #[test]
    fn the_command_line_says_how_long_the_warm_up_is() {
        let of = |arguments: &[&str]| {
            warm_up_ms(&arguments.iter().map(|&argument| argument.to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(of(&["trtexec", "--loadEngine=a"]), 200.0);
        assert_eq!(of(&["trtexec", "--warmUp=1500"]), 1500.0);
        assert_eq!(of(&["sh", "-c", "trtexec --warmUp=0 --duration=3 && true"]), 0.0);
        assert_eq!(of(&["sh", "-c", "trtexec --warmUp=$W"]), 200.0);
    }

    #[test]
    fn batches_under_way_at_once_are_counted() {
        let count = |batches: &[(f64, f64)]| read(batches, V8_6).inflight;
        assert_eq!(
            count(&[(1.0, 1.0), (2.0, 1.1), (3.0, 1.0)]),
            2,
            "their latencies do not fit one after another"
        );
        assert_eq!(count(&[(1.0, 1.0), (2.0, 1.1), (4.0, 1.0)]), 1, "the next input is copied early");
        assert_eq!(count(&[(2.0, 2.0), (3.0, 2.0), (4.0, 2.0), (5.0, 2.0), (6.0, 2.0)]), 2);
        assert_eq!(count(&[(3.0, 3.0), (3.1, 3.0), (3.2, 3.0)]), 3);
    }

    #[test]
    fn time_stamps_of_long_runs_are_coarse_and_not_batches_at_once() {
        for (from_s, latency, coarse) in [
            (0.2, 2.0, false),
            (3.0, 2.0, false),
            (3.0, 0.3, true),
            (10.0, 0.3, true),
            (110.0, 0.3, true),
            (300.0, 0.068, true),
            (3000.0, 5.0, true),
        ] {
            let trace = read(&steady(from_s * 1e3, latency, 1500), V8_6);
            assert_eq!((trace.inflight, trace.is_coarse), (1, coarse), "{latency} ms after {from_s} s");
            let sum: u64 = trace.batches.iter().map(|batch| batch.done - batch.issued).sum();
            let length = trace.batches.last().unwrap().done + trace.stretch;
            assert!(sum <= length, "they fit into the window: {sum} ns in {length} ns");
            assert!(trace.stretch < 30_000_000, "{}", trace.stretch);
        }
        // Two streams are two in flight all the same.
        for from_s in [0.2, 10.0, 110.0] {
            let one = steady(from_s * 1e3, 4.0, 300);
            let other = steady(from_s * 1e3 + 1.0, 4.0, 300);
            assert_eq!(read(&[one, other].concat(), V8_6).inflight, 2, "after {from_s} s");
        }
    }

    #[test]
    fn an_enqueue_below_the_resolution_is_unknown() {
        assert_eq!(read(&steady(200.0, 2.0, 100), V8_6).batches[0].stages.enqueue_ns, 250_000);
        let late = read(&steady(110_000.0, 2.0, 100), V8_6);
        assert!(late.batches.iter().all(|batch| batch.stages.enqueue_ns == 0), "1 ms is its resolution");
        // An end that is printed before its start is rounding.
        let text =
            file(&steady(200.0, 2.0, 1), V8_6).replace("\"endEnqMs\" : 200.250", "\"endEnqMs\" : 199.9999");
        assert_eq!(parse(text.as_bytes(), 0.0).unwrap().batches[0].stages.enqueue_ns, 0);
    }

    #[test]
    fn what_is_not_trtexecs_is_refused() {
        let refusal = |text: &str| format!("{:#}", parse(text.as_bytes(), 0.0).unwrap_err());
        assert!(refusal("junk").starts_with("not what trtexec --exportTimes writes: "));
        assert!(refusal("[{\"latencyMs\": 1}]").contains("missing field `startComputeMs`"));
        let nan = file(&[(1.0, 1.0), (2.0, 1.0)], V8_6).replacen("1.00000, \"", "nan, \"", 1);
        assert_eq!(refusal(&nan), "line 2: endD2hMs is nan, which is no time");
        assert_eq!(refusal("[]"), "it holds no batches: give trtexec a longer --duration");
        let zero = refusal(&file(&[(300_000.0, 0.001)], V8_6));
        assert!(
            zero.starts_with("entry 0 has times that can't be: latencyMs is 0: 300.000 s after its start")
                && zero.contains("steps of 3.12e-2 ms"),
            "{zero}"
        );
        let negative = file(&[(1.0, 1.0)], V8_6).replace("\"computeMs\" : ", "\"computeMs\" : -");
        assert!(refusal(&negative).starts_with("entry 0 has times that can't be: computeMs length is -0.75"));
    }
}
