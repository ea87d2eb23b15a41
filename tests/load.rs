//! Loads as users meet them: open, server, in flight; on scripted time exact, on real time whole.

mod common;

use common::{Bench, error, signal, wait_for, workers_of};
use migbench::measure::load::{Arrivals, lindley};
use migbench::results::row::Status;
use rustix::process::Signal;
use std::fs;
use std::time::Duration;

/// Response = queueing + service, by Lindley's recursion over the schedule of the row's own seed.
#[test]
fn an_open_row_is_exact() {
    let bench = Bench::new();
    let ran = bench.run(&[
        "--workload",
        "scripted(times=1ms:3ms)",
        "--batch",
        "4",
        "--rate",
        "400",
        "--batches",
        "5000",
        "-q",
        "-o",
        "a.csv",
    ]);
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
    let row = &bench.rows("a.csv")[0];
    assert_eq!((row.outcome.status, row.window.batches), (Status::Ok, Some(5000)));
    assert_eq!(row.point.load, "open(rate=400,arrivals=poisson)");
    assert_eq!((row.latency.mean, row.latency.min, row.latency.max), (Some(2.0), Some(1.0), Some(3.0)));
    assert_eq!((row.rates.throughput, row.window.late_batches), (None, Some(0)));
    // The seed of round 1, place 0 under --seed 1. The unmeasured load before the window leaves the
    // script at either of its two times.
    let responses = |first: usize| {
        let arrivals = Arrivals::Poisson(400.0);
        let services = [1_000_000u64, 3_000_000].into_iter().cycle().skip(first);
        let jobs: Vec<_> = arrivals.schedule(1 ^ (1 << 40)).zip(services).take(5000).collect();
        let starts: Vec<_> = lindley(jobs.iter().copied()).collect();
        let response = |(start, (arrival, service)): (&u64, &(u64, u64))| start + service - arrival;
        let all: Vec<u64> = starts.iter().zip(&jobs).map(response).collect();
        (all.iter().sum::<u64>() as f64 / 5000.0 / 1e6, *all.iter().max().unwrap() as f64 / 1e6)
    };
    let found = (row.response.mean.unwrap(), row.response.max.unwrap());
    assert!(found == responses(0) || found == responses(1), "{found:?} {:?}", responses(0));
    assert_eq!(bench.run(&["check", "a.csv"]).code, Some(0));
}

#[test]
fn a_server_row_says_which_batches_were_formed() {
    let bench = Bench::new();
    let workload = "scripted(times=1ms,per_sample=100us)";
    let base = ["--workload", workload, "--load", "server", "--rate", "3000", "--max-delay", "2ms"];
    let rest = ["--batch", "8", "--duration", "5s", "-q", "-o", "a.csv"];
    let ran = bench.run(&[&base[..], &rest].concat());
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
    let row = &bench.rows("a.csv")[0];
    assert_eq!(row.point.load, "server(rate=3000,arrivals=poisson,max_delay_ms=2)");
    let sizes = row.window.batch_sizes.as_deref().unwrap();
    let pairs: Vec<(u64, u64)> = sizes
        .split(';')
        .map(|pair| pair.split_once(':').unwrap())
        .map(|(size, of)| (size.parse().unwrap(), of.parse().unwrap()))
        .collect();
    assert!(pairs.len() > 4 && pairs.last().unwrap().0 == 8, "{sizes}");
    assert_eq!(Some(pairs.iter().map(|(size, of)| size * of).sum()), row.window.inferences);
    assert_eq!(Some(pairs.iter().map(|(_, of)| of).sum()), row.window.batches);
    let busy: f64 = pairs.iter().map(|(size, of)| *of as f64 * (1.0 + 0.1 * *size as f64)).sum();
    assert!((row.latency.mean.unwrap() * row.window.batches.unwrap() as f64 / busy - 1.0).abs() < 1e-9);
    assert_eq!((row.rates.throughput, row.rates.tflops), (None, None));
    let wall = row.window.inferences.unwrap() as f64 / row.window.elapsed_s.unwrap();
    assert!((row.rates.throughput_wall.unwrap() / wall - 1.0).abs() < 1e-12);
    assert_eq!(bench.run(&["check", "a.csv"]).code, Some(0));
}

#[test]
fn more_than_can_be_done_ends_early_and_is_said() {
    let bench = Bench::new();
    let ran = bench.run(&["--workload", "scripted()", "--batch", "1", "--rate", "3000", "-q", "-o", "a.csv"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let row = &bench.rows("a.csv")[0];
    assert_eq!((row.outcome.status, row.outcome.warnings.codes()), (Status::Ok, "saturated".to_owned()));
    assert!(row.window.elapsed_s.unwrap() < 2.0 && row.response.max.unwrap() > 1000.0);
    assert!(ran.stdout.contains("warnings: saturated"), "{}", ran.stdout);
    // In a window too short for a wait of a second; a server forms full batches by then.
    for (load, warnings) in [
        (&["--rate", "1010", "--batch", "1"][..], "saturated"),
        (&["--rate", "990", "--batch", "1"], ""),
        (&["--rate", "1010", "--arrivals", "constant", "--batch", "1"], "saturated"),
        (&["--load", "server", "--rate", "4100", "--batch", "4"], "saturated"),
        (&["--load", "server", "--rate", "3900", "--batch", "4"], ""),
    ] {
        let base = ["--workload", "scripted()", "--duration", "300ms", "-q", "--force", "-o", "b.csv"];
        let ran = bench.run(&[&base, load].concat());
        let row = &bench.rows("b.csv")[0];
        assert_eq!((ran.code, row.outcome.warnings.codes().as_str()), (Some(0), warnings), "{load:?}");
    }
}

#[test]
fn in_flight_the_wall_is_the_figure() {
    let bench = Bench::new();
    let base = ["--workload", "scripted()", "--batch", "2", "--inflight", "1,4", "--batches", "4000"];
    let ran = bench.run(&[&base[..], &["-q", "-o", "a.csv"]].concat());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let mut rows = bench.rows("a.csv");
    rows.sort_by_key(|row| row.point.inflight);
    let rates = rows.iter().map(|row| (row.rates.throughput, row.rates.throughput_wall));
    assert_eq!(rates.collect::<Vec<_>>(), [(Some(2000.0), Some(2000.0)), (None, Some(8000.0))]);
    assert_ne!(rows[0].provenance.point_id, rows[1].provenance.point_id);
    assert!(ran.stdout.contains("with several in flight"), "{}", ran.stdout);
    assert_eq!(bench.run(&["check", "a.csv"]).code, Some(0));
}

#[test]
fn a_trace_is_played_to_its_end() {
    let bench = Bench::new();
    fs::write(bench.path("trace"), "0\n0.0005\n0.02\n").unwrap();
    let ran =
        bench.run(&["--workload", "scripted()", "--batch", "1", "--trace", "trace", "-q", "-o", "a.csv"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let row = &bench.rows("a.csv")[0];
    assert_eq!((row.window.batches, row.response.max), (Some(3), Some(1.5)));
    assert_eq!((row.window.elapsed_s, row.outcome.warnings.codes()), (Some(0.021), String::new()));
}

#[test]
fn a_trace_that_ends_too_early_is_said() {
    let bench = Bench::new();
    fs::write(bench.path("trace"), "0\n0.5\n1\n").unwrap();
    let base = ["--workload", "scripted()", "--trace", "trace", "-q", "--force", "-o", "a.csv"];
    for (more, elapsed, warnings) in [
        (&["--batch", "1", "--duration", "3s"][..], 1.001, "trace-ended"),
        (&["--batch", "1", "--duration", "800ms"], 0.8, ""),
        (&["--batch", "1", "--load", "server", "--batches", "4"], 1.001, "trace-ended"),
        (&["--batch", "2", "--load", "server", "--max-delay", "600ms"], 1.601, ""),
    ] {
        let ran = bench.run(&[&base[..], more].concat());
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let row = &bench.rows("a.csv")[0];
        assert_eq!((row.window.elapsed_s, row.outcome.warnings.codes().as_str()), (Some(elapsed), warnings));
        assert_eq!(bench.run(&["check", "a.csv"]).code, Some(0));
    }
}

/// A window ends when it is to end, be there an arrival or not; one without a batch is no measurement.
#[test]
fn a_window_does_not_wait_for_an_arrival() {
    let bench = Bench::new();
    let base = ["--workload", "scripted()", "--batch", "1", "-q", "--force", "-o", "a.csv"];
    for (load, seconds) in [
        (&["--rate", "0.02", "--duration", "1s", "--max-duration", "2s"][..], "1.000"),
        (&["--rate", "0.02", "--batches", "5", "--max-duration", "2s"], "2.000"),
        (&["--load", "server", "--rate", "0.02", "--duration", "3s"], "3.000"),
    ] {
        let ran = bench.run(&[&base[..], load].concat());
        assert_eq!(ran.code, Some(5), "{}{}", ran.stdout, ran.stderr);
        let row = &bench.rows("a.csv")[0];
        assert_eq!((row.outcome.status, row.window.batches), (Status::Failed, None));
        let expected = format!("no batch was due in its window of {seconds} s, with 0.02 arrivals/s: ");
        assert!(error(row).starts_with(&expected), "{}", error(row));
        assert!(ran.stdout.contains(&expected), "{}", ran.stdout);
        let checked = bench.run(&["check", "a.csv"]);
        assert_eq!(checked.code, Some(0), "{}", checked.stdout);
    }
    let load = ["--rate", "2", "--arrivals", "constant", "--duration", "2.2s"];
    assert_eq!(bench.run(&[&base[..], &load].concat()).code, Some(0));
    let row = &bench.rows("a.csv")[0];
    assert_eq!((row.window.batches, row.window.elapsed_s), (Some(5), Some(2.2)));
    assert_eq!(bench.run(&["check", "a.csv"]).code, Some(0));
}

/// Whenever the interruption comes: no batch was measured, and no cell says that 0 were.
#[test]
fn an_interrupted_window_without_a_batch_holds_together() {
    let bench = Bench::new();
    let arguments = ["--workload", "scripted(clock=real)", "--batch", "1", "--rate", "0.000001", "-q"];
    let child = bench.start(&[&arguments[..], &["--batches", "1", "-o", "a.csv"]].concat());
    wait_for("a worker", || workers_of(child.id()).first().copied());
    // The warm-up takes a second.
    std::thread::sleep(Duration::from_millis(2000));
    signal(child.id(), Signal::INT);
    assert_eq!(common::ran(child.wait_with_output().unwrap()).code, Some(130));
    let row = &bench.rows("a.csv")[0];
    assert_eq!((row.outcome.status, row.window.batches), (Status::Interrupted, None));
    assert!(error(row).starts_with("interrupted before "), "{}", error(row));
    let checked = bench.run(&["check", "a.csv"]);
    assert_eq!(checked.code, Some(0), "{}", checked.stdout);
}

/// The real clock and the CPU device: nothing exact, but whole.
#[test]
fn the_cpu_serves_arrivals() {
    let bench = Bench::new();
    let base = ["--workload", "null", "--load", "server", "--rate", "2000", "--max-delay", "1ms"];
    let ran = bench.run(&[&base[..], &["--batch", "4", "--duration", "300ms", "-q", "-o", "a.csv"]].concat());
    // A crowded machine may make batches late, which is said.
    let row = &bench.rows("a.csv")[0];
    match row.outcome.status {
        Status::Ok => assert_eq!(ran.code, Some(0), "{}", ran.stderr),
        _ => assert!(row.outcome.error.as_ref().unwrap().contains("issued late"), "{:?}", row.outcome),
    }
    assert!(row.response.mean.unwrap() > row.latency.mean.unwrap());
    assert_eq!(bench.run(&["check", "a.csv"]).code, Some(0));
}

#[test]
fn loads_that_make_no_sense_are_refused() {
    let bench = Bench::new();
    fs::write(bench.path("bad"), "1\n0.5\n").unwrap();
    for (arguments, message) in [
        (&["--load", "open"][..], "migbench: this load needs --rate R"),
        (&["--load", "closed", "--rate", "5"], "migbench: a closed load has no schedule"),
        (&["--rate", "5", "--max-delay", "1ms"], "migbench: --max-delay is the batcher's"),
        (&["--rate", "0"], "error: invalid value '0' for '--rate <R>'"),
        (&["--trace", "bad"], "migbench: bad: line 2: 0.5 s is before the line above: sort the trace"),
        (&["--inflight", "0"], "error: invalid value '0' for '--inflight <K>'"),
        (&["--rate", "5", "--inflight", "2"], "migbench: the CPU device computes one batch at a time"),
    ] {
        let ran = bench.run(&[arguments, &["-q"]].concat());
        assert_eq!(ran.code, Some(2), "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.starts_with(message), "{arguments:?}: {}", ran.stderr);
    }
}

#[test]
fn precision_is_reached_or_said_not_to_be() {
    let bench = Bench::new();
    let base = ["--batch", "1", "--precision-target", "1%", "-q", "--force", "-o", "a.csv"];
    let one = |more: &[&str]| {
        let ran = bench.run(&[&base[..], more].concat());
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert_eq!(bench.run(&["check", "a.csv"]).code, Some(0));
        bench.rows("a.csv").remove(0)
    };
    let row = one(&["--workload", "scripted(times=1ms:1.01ms:0.99ms)"]);
    assert!(row.window.mean_halfwidth.unwrap() <= 0.01 && row.window.p99_halfwidth.unwrap() <= 0.01);
    assert_eq!((row.window.precision_unmet, row.outcome.warnings.codes()), (None, String::new()));
    assert!(row.window.elapsed_s.unwrap() < 4.0);
    // One batch in 100 is ten times as slow: p99 is one or the other, as chance has it. So long that one more or
    // less of them in a third of the window is no drift.
    let times = format!("times={}10ms", "1ms:".repeat(99));
    let row = one(&["--workload", &format!("scripted({times})"), "--max-duration", "15s"]);
    assert_eq!(row.window.precision_unmet.as_deref(), Some("mean;p99"));
    assert_eq!(row.outcome.warnings.codes(), "precision-unmet");
    assert!(row.window.elapsed_s.unwrap() >= 15.0);
}

/// The capacity under a target: each probe a row, and the same three times over.
#[test]
fn a_capacity_is_found_again() {
    let bench = Bench::new();
    let base = ["--workload", "scripted(times=1ms)", "--batch", "2", "--slo", "p99=8ms", "--repeat", "3"];
    let ran = bench.run(&[&base[..], &["--max-duration", "160s", "-q", "-o", "a.csv"]].concat());
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
    let rows = bench.rows("a.csv");
    let mut found = Vec::new();
    for round in 1..=3 {
        let of: Vec<_> = rows.iter().filter(|row| row.provenance.repetition == round).collect();
        assert_eq!((of[0].point.load.as_str(), of[0].rates.throughput), ("closed", Some(2000.0)));
        let rate =
            |met: bool| of.iter().filter(move |r| r.slo.met == Some(met)).filter_map(|r| r.rates.offered);
        let best = rate(true).fold(0.0, f64::max);
        assert!(rate(false).fold(f64::MAX, f64::min) <= best * 1.011, "round {round}: {best}");
        for row in of.iter().filter(|row| row.slo.bound.is_some()) {
            assert_eq!(row.slo.met, Some(row.slo.bound.unwrap() <= 8.0 && row.outcome.warnings.0.is_empty()));
        }
        found.push(best);
    }
    // p99 of M/D/1 is 8 services at a utilisation of about 0.8: e^(-2(1-u)/u x 7) = 0.01.
    let (low, high) =
        (found.iter().copied().fold(f64::MAX, f64::min), found.iter().copied().fold(0.0, f64::max));
    assert!(low > 650.0 && high < 850.0 && high / low < 1.01, "{found:?}");
    assert_eq!(ran.stdout.matches("with p99<=8ms").count(), 3, "{}", ran.stdout);
    let checked = bench.run(&["check", "a.csv"]);
    assert_eq!(checked.code, Some(0), "{}", checked.stdout);
}

/// Not even the longest window has as many responses as p99 needs: nothing is known of this rate, or a lower.
#[test]
fn a_search_that_could_not_tell_says_so() {
    let bench = Bench::new();
    let base =
        ["--workload", "scripted(times=20ms)", "--batch", "1", "--slo", "p99=200ms", "--duration", "1s"];
    let ran = bench.run(&[&base[..], &["-q", "-o", "a.csv"]].concat());
    assert_eq!(ran.code, Some(4), "undecided: {}{}", ran.stdout, ran.stderr);
    let rows = bench.rows("a.csv");
    let probes: Vec<_> = rows.iter().map(|row| (row.rates.offered, row.slo.met)).collect();
    assert_eq!(probes, [(None, None), (Some(35.0), None), (Some(35.0), None), (Some(35.0), None)]);
    let expected = "undecided whether there is a rate with p99<=200ms: 3 of 3 probes could not tell; \
                    open(rate=35,arrivals=poisson): too few responses";
    assert!(ran.stdout.contains(expected), "{}", ran.stdout);
    assert_eq!(bench.run(&["check", "a.csv"]).code, Some(0));
}

/// The intervals of a log, the rows' histograms and what `export --merge` makes of them are the same.
#[test]
fn histograms_travel() {
    use hdrhistogram::Histogram;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
    use migbench::measure::recorder::decode;
    let bench = Bench::new();
    let base = ["--workload", "scripted(times=1ms:3ms:2ms)", "--batch", "1", "--rate", "300"];
    let rest = ["--duration", "5s", "--repeat", "2", "--hlog", "a.hlog", "-q", "-o", "a.csv"];
    let ran = bench.run(&[&base[..], &rest].concat());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let rows = bench.rows("a.csv");
    let sum = |name: &str, metric: &str| {
        let text = fs::read(bench.path(name)).unwrap();
        let mut all: Option<Histogram<u64>> = None;
        for entry in IntervalLogIterator::new(&text).map(Result::unwrap) {
            let LogEntry::Interval(interval) = entry else { continue };
            let tag = interval.tag().unwrap().to_string();
            assert!(tag.starts_with("cpu/scripted("), "{tag}");
            if tag.ends_with(metric) {
                let part = decode(interval.encoded_histogram()).unwrap();
                match &mut all {
                    Some(all) => all.add(&part).unwrap(),
                    None => all = Some(part),
                }
            }
        }
        all.unwrap()
    };
    for (name, metric) in [("latency", true), ("response", false)] {
        let cell = |i: usize| {
            let row = &rows[i].histograms;
            decode(if metric { row.latency.as_ref() } else { row.response.as_ref() }.unwrap()).unwrap()
        };
        let mut both = cell(0);
        both.add(cell(1)).unwrap();
        assert_eq!(sum("a.hlog", name), both, "{name}");
        let ran =
            bench.run(&["export", "a.csv", "--merge", "--format", "hlog", "-o", "merged.hlog", "--force"]);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert_eq!(sum("merged.hlog", name), both, "{name}");
    }
    let ran = bench.run(&["export", "a.csv", "--format", "json", "--metric", "latency"]);
    let json: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 2);
    assert_eq!(json[0]["count"].as_u64(), rows[0].window.batches);
    let ran = bench.run(&["export", "a.csv", "--format", "hgrm", "--merge"]);
    assert_eq!(ran.stdout.matches("#[Mean").count(), 2, "{}", ran.stdout);
    assert_eq!(bench.run(&["export", "nothing.csv"]).code, Some(2));

    // Of a row that is not ok, or has no end, nothing is merged.
    let whole = fs::read_to_string(bench.path("a.csv")).unwrap();
    let (begin, last) = whole.trim_end().rsplit_once('\n').unwrap();
    let invalid = format!("{begin}\n{}\n", last.replacen(",ok,", ",invalid,", 1));
    for (text, said) in [
        (invalid, "b.csv: 1 of 2 rows not merged: not ok, or measured again since\n"),
        (format!("{begin}\n{last}"), "b.csv: the last line has no newline and is left out\n"),
    ] {
        fs::write(bench.path("b.csv"), text).unwrap();
        let ran = bench.run(&["export", "b.csv", "--merge", "--metric", "latency"]);
        let json: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(json[0]["count"].as_u64(), rows[0].window.batches);
        assert!(ran.stderr.ends_with(said), "{}", ran.stderr);
    }
}
