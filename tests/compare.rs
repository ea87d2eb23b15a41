//! `migbench compare` as a function of its arguments and writers: every verdict, every exit code and
//! every form of output.

#[path = "../benches/simulate/mod.rs"]
mod simulate;

use clap::Parser;
use migbench::cli::{Cli, Exit};
use migbench::results::Row;
use simulate::{file, template};
use std::fs;

/// A folder with a base and a new side.
struct Bench {
    folder: tempfile::TempDir,
}

struct Ran {
    exit: Exit,
    out: String,
    err: String,
}

impl Bench {
    fn new(base: &[Row], new: &[Row]) -> Bench {
        let bench = Bench { folder: tempfile::tempdir().unwrap() };
        bench.write("base.csv", &file(base));
        bench.write("new.csv", &file(new));
        bench
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// `compare base.csv new.csv` and more; `@name` is a file in the folder.
    fn run(&self, options: &[&str]) -> Ran {
        self.run_on("base.csv", "new.csv", options)
    }

    fn run_on(&self, base: &str, new: &str, options: &[&str]) -> Ran {
        let mut arguments = vec!["migbench".to_owned(), "compare".into(), self.path(base), self.path(new)];
        arguments.extend(options.iter().map(|option| option.replace('@', &self.path(""))));
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let exit = migbench::cmd::dispatch(Cli::parse_from(arguments), &mut out, &mut err);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(&self.path(""), "");
        Ran { exit, out: text(out), err: text(err) }
    }
}

/// A row of `run` with exact numbers: p50 = `ms`, p99 = 1.5 of it, 8 samples a batch.
fn row(run: &str, repetition: u32, batch: u64, ms: f64) -> Row {
    let mut row = template(batch, 0);
    (row.provenance.run_id, row.provenance.session_id) = (run.into(), run.into());
    row.provenance.repetition = repetition;
    row.window.batches = Some(700);
    (row.latency.p50, row.latency.p99) = (Some(ms), Some(1.5 * ms));
    row.rates.throughput_wall = Some(1e3 / ms * batch as f64);
    row.seal();
    row
}

/// Rounds of one run: `ms` and up to 0.4 % more.
fn rounds(run: &str, n: u32, batch: u64, ms: f64) -> Vec<Row> {
    (1..=n).map(|i| row(run, i, batch, ms * (1.0 + 0.001 * f64::from(i % 5)))).collect()
}

/// What the program writes, compared with the saved text. `MIGBENCH_BLESS=1 cargo test` saves it anew.
fn golden(name: &str, text: &str) {
    let path = format!("tests/golden/{name}");
    if std::env::var_os("MIGBENCH_BLESS").is_some() {
        fs::write(&path, text).unwrap();
    }
    assert_eq!(text, fs::read_to_string(&path).unwrap(), "{name}\n{text}");
}

/// Medians of each round that are so many times what they were.
fn scale(rows: &mut [Row], factors: &[f64]) {
    for (row, factor) in rows.iter_mut().zip(factors) {
        row.latency.p50 = row.latency.p50.map(|ms| ms * factor);
    }
}

/// Rounds whose windows had too few batches for p99.
fn few(mut rows: Vec<Row>, batches: u64) -> Vec<Row> {
    for row in &mut rows {
        row.window.batches = Some(batches);
        row.latency.p99 = None;
    }
    rows
}

/// A regression, an open question, no change, one for the better of unknown size, an improvement, and a
/// tail without batches.
fn every_verdict() -> Bench {
    let small = |run, ms: [f64; 3]| {
        [rounds(run, 5, 1, ms[0]), rounds(run, 5, 8, ms[1]), rounds(run, 5, 16, ms[2])].concat()
    };
    let large = |run| [few(rounds(run, 5, 32, 8.0), 61), rounds(run, 5, 64, 16.0)].concat();
    let base = [small("a", [1.0, 2.0, 4.0]), large("a")].concat();
    let mut new = [small("b", [1.1, 1.8, 4.0]), large("b")].concat();
    scale(&mut new[10..15], &[1.0, 1.01, 1.05, 1.06, 1.08]);
    scale(&mut new[20..], &[0.6, 0.7, 0.8, 0.9, 0.985]);
    new.iter_mut().for_each(|row| row.subject.driver_version = Some("590.44.01".into()));
    Bench::new(&base, &new)
}

#[test]
fn every_verdict_in_every_form() {
    let bench = every_verdict();
    let ran = bench.run(&[
        "--output",
        "markdown=@a.md,junit=@a.xml,json=@a.json,csv=@a.csv,table=@a.txt",
        "--github",
        "--github-summary",
        "@summary.md",
    ]);
    assert_eq!((ran.exit, ran.err.as_str()), (Exit::Regression, ""));
    golden("compare.github.txt", &ran.out);
    golden("compare.txt", &bench.read("a.txt"));
    golden("compare.md", &bench.read("a.md"));
    golden("compare.xml", &bench.read("a.xml"));
    golden("compare.json", &bench.read("a.json"));
    golden("compare.csv", &bench.read("a.csv"));
    assert_eq!(bench.read("summary.md"), bench.read("a.md"));
    assert!(ran.out.starts_with(&bench.read("a.txt")));
}

#[test]
fn every_problem_in_every_form() {
    let base =
        [rounds("a", 4, 1, 1.0), rounds("a", 4, 8, 2.0), rounds("a", 4, 16, 4.0), rounds("a", 4, 32, 8.0)];
    let mut other_graph = rounds("b", 4, 8, 2.0);
    other_graph.iter_mut().for_each(|row| row.point.graph = Some(false));
    let mut failed = rounds("b", 4, 32, 8.0);
    failed[2] = failed[2].clone().failed("the worker was killed by signal 9");
    let mut twice = rounds("b", 4, 1, 1.0);
    twice.push(row("b", 2, 1, 7.0));
    let bench = Bench::new(&base.concat(), &[twice, other_graph, failed].concat());
    let ran =
        bench.run(&["--output", "markdown=@a.md,junit=@a.xml,json=@a.json", "--github", "--github-summary="]);
    assert_eq!(ran.exit, Exit::Incomplete);
    assert_eq!(
        ran.err,
        "warning: --github without GITHUB_STEP_SUMMARY: there is no step summary to write to\n"
    );
    golden("problems.txt", &ran.out);
    golden("problems.md", &bench.read("a.md"));
    golden("problems.xml", &bench.read("a.xml"));
    let json: serde_json::Value = serde_json::from_str(&bench.read("a.json")).unwrap();
    let kinds: Vec<_> = json["problems"].as_array().unwrap().iter().map(|p| p["kind"].clone()).collect();
    assert_eq!(kinds, ["missing", "incomparable", "invalid", "duplicate"]);
    assert_eq!(json["outcome"], "incomplete");
}

/// Incomplete before regression before inconclusive.
#[test]
fn exit_codes_have_an_order() {
    let base = || rounds("a", 5, 1, 1.0);
    let open = || {
        let mut open = rounds("b", 5, 8, 2.0);
        scale(&mut open, &[1.0, 1.01, 1.05, 1.06, 1.08]);
        open
    };
    let fail_on: &[&str] = &["--fail-on", "inconclusive", "--gate", "latency_p50=3%"];
    let lax: &[&str] = &["--gate", "latency_p50=3%"];
    let both = [base(), rounds("a", 5, 8, 2.0)].concat();
    let slow = rounds("b", 5, 1, 1.1);
    for (base, new, options, exit) in [
        (base(), rounds("b", 5, 1, 1.0), fail_on, Exit::Ok),
        (base(), rounds("b", 5, 1, 0.9), fail_on, Exit::Ok),
        (base(), slow.clone(), lax, Exit::Regression),
        (both.clone(), [rounds("b", 5, 1, 1.0), open()].concat(), lax, Exit::Ok),
        (both.clone(), [rounds("b", 5, 1, 1.0), open()].concat(), fail_on, Exit::Inconclusive),
        (both.clone(), [slow.clone(), open()].concat(), fail_on, Exit::Regression),
        (both.clone(), slow.clone(), fail_on, Exit::Incomplete),
        (both, open(), fail_on, Exit::Incomplete),
    ] {
        let ran = Bench::new(&base, &new).run(options);
        assert_eq!(ran.exit, exit, "{}{}", ran.out, ran.err);
    }
}

#[test]
fn one_file_twice_is_no_regression() {
    for n in [1, 5] {
        let rows = rounds("a", n, 1, 1.0);
        let bench = Bench::new(&rows, &rows);
        let ran = bench.run(&["--gate", "latency_p50=0%", "--fail-on", "inconclusive"]);
        assert_eq!(ran.exit, Exit::Ok);
        assert!(ran.out.contains("note: identical: BASE and NEW are the same rows\n"), "{}", ran.out);
        assert!(ran.out.contains("SAME (identical)") && !ran.out.contains("noise"), "{}", ran.out);
    }
}

#[test]
fn too_few_rounds_decide_nothing_unless_told_to() {
    let bench = Bench::new(&rounds("a", 3, 1, 1.0), &rounds("b", 3, 1, 2.0));
    let ran = bench.run(&["--fail-on", "inconclusive"]);
    assert_eq!(ran.exit, Exit::Inconclusive);
    assert!(ran.out.contains("INCONCLUSIVE (no-replication)"), "{}", ran.out);
    assert!(ran.out.contains("about 4 rounds a side would settle it, there are 3"), "{}", ran.out);
    let ran = bench.run(&["--allow-unreplicated"]);
    assert_eq!(ran.exit, Exit::Regression);
    assert!(ran.out.contains("REGRESSION (unreplicated)"), "{}", ran.out);
    assert!(ran.out.contains("note: unreplicated: by the threshold alone, noise unknown"), "{}", ran.out);
    let bench = Bench::new(&rounds("a", 1, 1, 1.0), &rounds("b", 1, 1, 1.01));
    let ran = bench.run(&["--allow-unreplicated", "--fail-on", "inconclusive"]);
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.out);
}

#[test]
fn what_gives_a_number_its_meaning_can_be_waived_by_name() {
    let mut new = rounds("b", 5, 1, 1.0);
    new.iter_mut().for_each(|row| row.point.transfers = Some(false));
    let bench = Bench::new(&rounds("a", 5, 1, 1.0), &new);
    let ran = bench.run(&[]);
    assert_eq!(ran.exit, Exit::Incomplete);
    let text = "not comparable, BASE / NEW: transfers true / false; --allow-mismatch transfers compares all the same";
    assert!(ran.out.contains(text), "{}", ran.out);
    let ran = bench.run(&["--allow-mismatch", "transfers"]);
    assert_eq!(ran.exit, Exit::Ok);
    assert!(ran.out.contains("note: mismatch allowed: transfers true → false\n"), "{}", ran.out);
    // Two batches of one side would become one point.
    let both = |run: &str| [rounds(run, 5, 1, 1.0), rounds(run, 5, 8, 2.0)].concat();
    let ran = Bench::new(&both("a"), &both("b")).run(&["--allow-mismatch", "batch"]);
    assert_eq!(ran.exit, Exit::Incomplete);
    assert!(ran.out.contains("BASE has 2 values of batch (1, 8)"), "{}", ran.out);
    // A whole other GPU: one reason for all points.
    let mut new = both("b");
    new.iter_mut().for_each(|row| row.subject.instance.gpu_name = "NVIDIA H100 80GB HBM3".into());
    new.iter_mut().for_each(|row| row.subject.instance.profile = Some("1g.10gb".into()));
    let ran = Bench::new(&both("a"), &new).run(&[]);
    assert_eq!(ran.out.matches("INCOMPARABLE").count(), 2, "{}", ran.out);
    assert_eq!(ran.out.matches("--allow-mismatch gpu_name,profile").count(), 2, "{}", ran.out);
}

#[test]
fn causes_are_shown_and_refused_on_request() {
    let mut new = rounds("b", 5, 1, 1.0);
    new.iter_mut().for_each(|row| row.subject.driver_version = Some("590.44.01".into()));
    let bench = Bench::new(&rounds("a", 5, 1, 1.0), &new);
    let ran = bench.run(&[]);
    assert_eq!(ran.exit, Exit::Ok);
    assert!(ran.out.starts_with("changed: driver_version 580.159.03 → 590.44.01\n"), "{}", ran.out);
    let ran = bench.run(&["--require-same", "driver_version"]);
    assert_eq!(ran.exit, Exit::Incomplete);
    assert!(ran.out.contains("CHANGED driver_version 580.159.03 → 590.44.01"), "{}", ran.out);
}

#[test]
fn the_machine_below_is_a_cause() {
    let mut new = rounds("b", 5, 1, 1.0);
    for row in &mut new {
        row.provenance.os_kernel = Some("6.8.0-61-generic".into());
        row.subject.gpu_vbios = Some("96.00.CF.00.01".into());
        row.subject.gpu_power_limit_w = Some(350.5);
    }
    let bench = Bench::new(&rounds("a", 5, 1, 1.0), &new);
    let ran = bench.run(&[]);
    assert_eq!(ran.exit, Exit::Ok);
    for (column, change) in [
        ("os_kernel", "6.8.0-60-generic → 6.8.0-61-generic"),
        ("gpu_vbios", "96.00.BC.00.01 → 96.00.CF.00.01"),
        ("gpu_power_limit_w", "700 → 350.5"),
    ] {
        assert!(ran.out.contains(&format!("changed: {column} {change}\n")), "{}", ran.out);
        let refused = bench.run(&["--require-same", column]);
        assert_eq!(refused.exit, Exit::Incomplete);
        assert!(refused.out.contains(&format!("CHANGED {column} {change}")), "{}", refused.out);
    }
}

/// A file without these columns is compared with one that has them.
#[test]
fn what_a_side_does_not_say_is_no_known_change() {
    let mut old = rounds("a", 5, 1, 1.0);
    old.iter_mut().for_each(|row| row.provenance.os_kernel = None);
    let new = rounds("b", 5, 1, 1.0);
    let bench = Bench::new(&old, &new);
    // As an older migbench wrote it: no such column at all.
    let text = bench.read("base.csv");
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(text.as_bytes());
    let skip = migbench::results::header().iter().position(|name| *name == "os_kernel").unwrap();
    let mut writer = csv::Writer::from_writer(Vec::new());
    for record in reader.records().map(Result::unwrap) {
        let cells = record.iter().enumerate().filter(|(i, _)| *i != skip);
        writer.write_record(cells.map(|(_, cell)| cell)).unwrap();
    }
    bench.write("base.csv", &writer.into_inner().unwrap());
    let ran = bench.run(&[]);
    assert_eq!(ran.exit, Exit::Ok, "{}{}", ran.out, ran.err);
    assert!(!ran.out.contains("changed:"), "{}", ran.out);
    // Whoever wants it to be the same wants to know.
    let ran = bench.run(&["--require-same", "os_kernel"]);
    assert_eq!(ran.exit, Exit::Incomplete);
    assert!(ran.out.contains("CHANGED os_kernel nothing → 6.8.0-60-generic"), "{}", ran.out);
    // Some rows of a side that do not say it change nothing either.
    let mut mixed = rounds("a", 5, 1, 1.0);
    mixed[2].provenance.os_kernel = None;
    assert!(!Bench::new(&mixed, &new).run(&[]).out.contains("changed:"));
    // Neither side: the same.
    let mut neither = new.clone();
    neither.iter_mut().for_each(|row| row.provenance.os_kernel = None);
    assert_eq!(Bench::new(&old, &neither).run(&["--require-same", "os_kernel"]).exit, Exit::Ok);
}

#[test]
fn a_missing_instance_is_missing_even_among_equals() {
    let side = |run: &str, instances: u32, ms: f64| -> Vec<Row> {
        let of = |i: u32| (1..=4).map(move |n| (i, n));
        (0..instances)
            .flat_map(of)
            .map(|(i, n)| {
                let mut row = row(run, n, 1, ms * (1.0 + 0.001 * f64::from(n)));
                row.subject.instance.mig_uuid = Some(format!("MIG-{i}"));
                row
            })
            .collect()
    };
    let bench = Bench::new(&side("a", 7, 1.0), &side("b", 6, 1.0));
    let ran = bench.run(&[]);
    assert_eq!(ran.exit, Exit::Incomplete);
    assert!(
        ran.out.contains("round 1 of run b on host has 6 rows of 7 equal instances in BASE"),
        "{}",
        ran.out
    );
    assert_eq!(bench.run(&["--allow-mismatch", "instances"]).exit, Exit::Ok);
    // Seven instances are one replicate: no significance from their number.
    let ran = Bench::new(&side("a", 7, 1.0), &side("b", 7, 1.0)).run(&[]);
    assert!(ran.out.contains("4 v 4") && ran.exit == Exit::Ok, "{}", ran.out);
}

#[test]
fn the_highest_attempt_counts() {
    let mut new = rounds("b", 5, 1, 1.0);
    let mut first = new[3].clone().failed("no answer");
    first.provenance.attempt = 1;
    new[3].provenance.attempt = 2;
    new.push(first);
    let ran = Bench::new(&rounds("a", 5, 1, 1.0), &new).run(&[]);
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.out);
}

#[test]
fn a_floor_forgives_what_nobody_feels() {
    let bench = Bench::new(&rounds("a", 5, 1, 0.010), &rounds("b", 5, 1, 0.012));
    assert_eq!(bench.run(&["--gate", "latency_p50=3%"]).exit, Exit::Regression);
    let ran = bench.run(&["--gate", "latency_p50=3%", "--floor", "5us"]);
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.out);
}

#[test]
fn known_noise_is_held_against_the_threshold() {
    let bench = Bench::new(&rounds("a", 5, 1, 1.0), &rounds("b", 5, 1, 1.0));
    let session = |run: &str, ms: f64| -> Vec<Row> { rounds(run, 4, 1, ms) };
    bench.write("noise.csv", &file(&[session("s", 1.0), session("t", 1.03), session("u", 0.97)].concat()));
    let options = ["--gate", "latency_p50=3%", "--noise"];
    let noise = bench.path("noise.csv");
    let ran = bench.run(&[&options[..], &[noise.as_str()]].concat());
    assert!(
        ran.out.contains("3.00 %, is below three times its noise of 3.00 %: no number of rounds is enough"),
        "{}",
        ran.out
    );
    let mut wild = [session("s", 1.0), session("t", 1.0)].concat();
    for (i, row) in wild.iter_mut().enumerate() {
        row.latency.p50 = Some(1.0 + 0.02 * (i % 4) as f64);
    }
    bench.write("noise.csv", &file(&wild));
    let ran = bench.run(&[&options[..], &[noise.as_str()]].concat());
    assert!(
        ran.out.contains("times its noise of 2.") && ran.out.contains("rounds a side would be enough"),
        "{}",
        ran.out
    );
    bench.write("noise.csv", &file(&[session("s", 1.0), session("t", 1.001)].concat()));
    let ran = bench.run(&[&options[..], &[noise.as_str()]].concat());
    assert!(!ran.out.contains("note:"), "{}", ran.out);
    bench.write("noise.csv", &file(&session("s", 1.0)));
    let ran = bench.run(&[&options[..], &[noise.as_str()]].concat());
    assert!(ran.out.contains("between sessions is unknown: the noise file has one session"), "{}", ran.out);
}

#[test]
fn several_files_a_side() {
    let bench = Bench::new(&[], &rounds("b", 5, 1, 1.0));
    for (i, row) in rounds("a", 5, 1, 1.0).iter().enumerate() {
        bench.write(&format!("part{i}.csv"), &file([row]));
    }
    let ran = bench.run_on("part*.csv", "new.csv", &[]);
    assert_eq!(ran.exit, Exit::Ok, "{}{}", ran.out, ran.err);
    assert!(ran.out.contains("5 v 5"), "{}", ran.out);
    let ran = bench.run_on("nothing*.csv", "new.csv", &[]);
    assert_eq!((ran.exit, ran.err.as_str()), (Exit::Usage, "migbench: no file is named 'nothing*.csv'\n"));
}

#[test]
fn bad_files_fail_closed_with_their_names() {
    let bench = Bench::new(&rounds("a", 5, 1, 1.0), &[]);
    let ran = bench.run(&[]);
    assert_eq!(ran.exit, Exit::Incomplete);
    assert!(ran.out.contains("NOTHING NEW has no rows"), "{}", ran.out);
    let whole = file(&rounds("b", 5, 1, 1.0));
    let fp31 = String::from_utf8(whole.clone()).unwrap().replacen("fp16", "fp31", 1).into_bytes();
    let latin = String::from_utf8(whole.clone()).unwrap().replacen("NVIDIA", "\u{1}", 1).into_bytes();
    let latin: Vec<u8> = latin.into_iter().map(|byte| if byte == 1 { 0xe9 } else { byte }).collect();
    for (bytes, exit, text) in [
        (Vec::new(), Exit::Incomplete, ""),
        (b"a,b\n1,2\n".to_vec(), Exit::Usage, "new.csv: its columns are not those of schema 2"),
        (
            fp31,
            Exit::Incomplete,
            "UNREAD NEW: new.csv, line 2: precision is 'fp31': unknown variant `fp31`, expected one of `fp32`",
        ),
        (latin, Exit::Incomplete, "new.csv, line 2: it is not UTF-8: convert the file with iconv"),
        (vec![0; 5 << 20], Exit::Incomplete, "new.csv: line 1 is longer than 1 MiB"),
    ] {
        bench.write("new.csv", &bytes);
        let ran = bench.run(&[]);
        assert_eq!(ran.exit, exit, "{}{}", ran.out, ran.err);
        assert!([&*ran.out, &*ran.err].concat().contains(text), "{}{}", ran.out, ran.err);
    }
    // What can't be read stands in the reports.
    let ran = bench.run(&["--output", "junit=@gate.xml"]);
    assert_eq!(ran.exit, Exit::Incomplete, "{}", ran.err);
    assert!(fs::read_to_string(bench.path("gate.xml")).unwrap().contains("type=\"UNREAD\""));
    // A byte order mark is no part of the first column's name.
    bench.write("new.csv", &[b"\xef\xbb\xbf", &whole[..]].concat());
    assert_eq!(bench.run(&[]).exit, Exit::Ok);
    // Torn: read up to the last whole line, and incomplete.
    bench.write("new.csv", &whole[..whole.len() - 5]);
    let ran = bench.run(&["--output", "junit=@torn.xml,json=@torn.json"]);
    let text = "NEW: new.csv, line 6: it has no end: a write was cut off";
    assert!(ran.out.contains(&format!("UNREAD {text}")), "{}{}", ran.out, ran.err);
    assert!(ran.out.contains("5 v 4") && ran.exit == Exit::Incomplete, "{}", ran.out);
    let torn = "new.csv, line 6: it has no end: a write was cut off";
    assert!(fs::read_to_string(bench.path("torn.xml")).unwrap().contains(torn));
    let json: serde_json::Value =
        serde_json::from_slice(&fs::read(bench.path("torn.json")).unwrap()).unwrap();
    assert_eq!((&json["outcome"], &json["problems"][0]["kind"]), (&"incomplete".into(), &"unread".into()));
    // A line in the middle costs itself.
    let mut lines: Vec<&[u8]> = whole.split_inclusive(|&byte| byte == b'\n').collect();
    lines[2] = b"1,2,3\n";
    bench.write("new.csv", &lines.concat());
    let ran = bench.run(&[]);
    assert!(ran.out.contains("UNREAD NEW: new.csv, line 3: 3 cells where the header has "), "{}", ran.out);
    assert!(ran.out.contains("5 v 4") && ran.exit == Exit::Incomplete, "{}", ran.out);
    // Two files in one.
    bench.write("new.csv", &[&whole[..], lines[0], lines[1]].concat());
    let ran = bench.run(&[]);
    assert!(ran.out.contains("line 7: the header again: two files were joined"), "{}", ran.out);
    // An empty line is nothing.
    bench.write("new.csv", &[&whole[..], b"\r\n"].concat());
    assert_eq!(bench.run(&[]).exit, Exit::Ok);
    let ran = bench.run_on("base.csv", "nowhere.csv", &[]);
    assert_eq!(ran.exit, Exit::Usage);
    assert!(ran.err.contains("cannot read nowhere.csv: No such file"), "{}", ran.err);
    let ran = bench.run_on("base.csv", "", &[]);
    assert!(
        ran.exit == Exit::Usage && ran.err.contains("is a directory: name the files in it"),
        "{}",
        ran.err
    );
    // Not a number.
    let mut nan = rounds("b", 5, 1, 1.0);
    nan[1].latency.p50 = Some(f64::NAN);
    nan[2].rates.throughput_wall = Some(-1.0);
    bench.write("new.csv", &file(&nan));
    let ran = bench.run(&[]);
    assert_eq!(ran.exit, Exit::Incomplete);
    assert!(
        ran.out.contains("latency_p50 is NaN in run b") && ran.out.contains("throughput_wall is -1 in run b"),
        "{}",
        ran.out
    );
}

#[test]
fn wrong_options_say_what_there_is() {
    let bench = Bench::new(&rounds("a", 5, 1, 1.0), &rounds("b", 5, 1, 1.0));
    for (options, text) in [
        (["--gate", "p50=3%"], "--gate: there is no metric 'p50'; there are latency_mean,"),
        (["--gate", "tflops=1%,tflops=2%"], "--gate names tflops twice"),
        (["--allow-mismatch", "driver_version"], "--allow-mismatch: 'driver_version' is none of gpu_name,"),
        (["--require-same", "batch"], "--require-same: 'batch' is none of driver_version,"),
        (["--output", "a.md"], "--output 'a.md' is not FORM=FILE, for example markdown=comment.md"),
        (["--output", "html=a"], "--output: 'html' is none of table, markdown, junit, json, csv"),
        (["--output", "json=@base.csv"], "--output json and BASE name the same file, "),
        (["--output", "json=@no/a.json"], "cannot write no/a.json: there is no folder no"),
    ] {
        let ran = bench.run(&options);
        assert_eq!(ran.exit, Exit::Usage, "{}", ran.err);
        assert!(ran.err.contains(text), "{}", ran.err);
    }
    assert_eq!(bench.run(&["--output", "json=@a.json"]).exit, Exit::Ok);
    assert_eq!(bench.run(&["--output", "json=@a.json", "--force"]).exit, Exit::Ok);
    let ran = bench.run(&["--output", "json=-"]);
    assert!(ran.out.starts_with("{") && ran.out.ends_with("}\n"), "{}", ran.out);
}

#[test]
fn new_points_are_named_and_do_not_fail() {
    let new = [rounds("b", 5, 1, 1.0), rounds("b", 5, 64, 9.0)].concat();
    let ran = Bench::new(&rounds("a", 5, 1, 1.0), &new).run(&[]);
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.out);
    assert!(
        ran.out.contains("only in NEW, not compared: 1 point (1g.18gb bert-base(seq_len=128) fp16 batch 64)")
    );
}

/// The rows are compared all the same, and a reader is told.
#[test]
fn new_instances_are_named_and_do_not_fail() {
    let side = |run: &str, instances: u32| -> Vec<Row> {
        let of = |i: u32| {
            rounds(run, 4, 1, 1.0).into_iter().map(move |mut row| {
                row.subject.instance.mig_uuid = Some(format!("MIG-{i}"));
                row
            })
        };
        (0..instances).flat_map(of).collect()
    };
    let ran = Bench::new(&side("a", 6), &side("b", 7)).run(&[]);
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.out);
    let text =
        "note: NEW has more equal instances than BASE, each round's mean is compared: 1 point (1g.18gb ";
    assert!(ran.out.contains(text), "{}", ran.out);
}

/// Rows of version 1 are compared with those of version 2: the version is a cause, not a condition.
#[test]
fn rows_of_another_schema_are_compared_and_named() {
    let mut new = rounds("b", 5, 1, 1.0);
    let mut base = rounds("a", 5, 1, 1.0);
    base.iter_mut().for_each(|row| row.provenance.schema_version = 1);
    new.iter_mut().for_each(|row| row.provenance.schema_version = 2);
    let ran = Bench::new(&base, &new).run(&[]);
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.out);
    assert!(ran.out.contains("schema_version") && ran.out.contains("SAME"), "{}", ran.out);
}

/// A tail that doubled, in ten rounds of which so many have too few batches for it.
fn doubled_tail(short: usize) -> Vec<Row> {
    let mut rows = rounds("b", 10, 1, 1.0);
    rows.iter_mut().for_each(|row| row.latency.p99 = row.latency.p99.map(|ms| 2.0 * ms));
    let last = rows.split_off(10 - short);
    [rows, few(last, 600)].concat()
}

#[test]
fn a_short_round_hides_no_regression() {
    let base = rounds("a", 10, 1, 1.0);
    let of = "(9 of 10 rounds of NEW: needs 662 batches, NEW had 600)";
    for gates in [&[] as &[&str], &["--gate", "latency_p99=10%"]] {
        let ran = Bench::new(&base, &doubled_tail(1)).run(gates);
        assert_eq!(ran.exit, Exit::Regression, "{}", ran.out);
        assert!(ran.out.contains(&format!("10 v 9  0.000  REGRESSION {of}")), "{}", ran.out);
        // The other way round it is the better.
        let ran = Bench::new(&doubled_tail(1), &base).run(gates);
        assert_eq!(ran.exit, Exit::Ok, "{}", ran.out);
        let of = "IMPROVEMENT (9 of 10 rounds of BASE: needs 662 batches, BASE had 600)";
        assert!(ran.out.contains(of), "{}", ran.out);
        // The rounds that are left are too few, or too small a part to stand for all.
        for (n, short) in [(10, 3), (10, 4), (10, 10), (4, 1)] {
            let base = rounds("a", n, 1, 1.0);
            let same = rounds("b", n, 1, 1.0);
            let have = n as usize - short;
            let new = [same[..have].to_vec(), few(same[have..].to_vec(), 600)].concat();
            for (base, new, counts) in [
                (&base, &new, format!("{n} of {n} rounds of BASE and {have} of {n} rounds of NEW")),
                (&new, &base, format!("{have} of {n} rounds of BASE and {n} of {n} rounds of NEW")),
            ] {
                let ran = Bench::new(base, new).run(gates);
                assert_eq!(ran.exit, Exit::Incomplete, "{}", ran.out);
                assert!(ran.out.contains(&format!("latency_p99 is in {counts} (needs 662")), "{}", ran.out);
            }
        }
    }
}

/// A number that is missing in a few rounds for another reason.
#[test]
fn rounds_without_a_number_are_named() {
    let with_power = |run: &str, n: u32, have: usize| {
        let mut rows = rounds(run, n, 1, 1.0);
        rows[..have].iter_mut().for_each(|row| row.health.gpu_power_w = Some(300.0));
        rows
    };
    let options = ["--gate", "gpu_power=3%"];
    let ran = Bench::new(&with_power("a", 5, 5), &with_power("b", 5, 4)).run(&options);
    assert!(ran.exit == Exit::Ok && ran.out.contains("SAME (4 of 5 rounds of NEW)"), "{}", ran.out);
    let ran = Bench::new(&with_power("a", 5, 0), &with_power("b", 5, 5)).run(&options);
    assert_eq!(ran.exit, Exit::Incomplete);
    let text = "gpu_power is in 0 of 5 rounds of BASE and 5 of 5 rounds of NEW: that is not enough";
    assert!(ran.out.contains(text), "{}", ran.out);
}

#[test]
fn a_gate_that_compared_nothing_does_not_pass() {
    let sides = |change: &dyn Fn(&mut Row)| {
        let of = |run: &str| {
            let mut rows = rounds(run, 5, 1, 1.0);
            rows.iter_mut().for_each(change);
            rows
        };
        (of("a"), of("b"))
    };
    // Too few batches on both sides: whoever asked wants to know, the usual gate is left out.
    let (base, new) = sides(&|row| (row.window.batches, row.latency.p99) = (Some(61), None));
    let bench = Bench::new(&base, &new);
    let ran = bench.run(&[]);
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.out);
    assert!(ran.out.contains("SKIPPED (needs 662 batches, BASE had 61, NEW had 61)"), "{}", ran.out);
    for gates in ["latency_p99=10%", "latency_p50=3%,latency_p99=10%"] {
        let ran = bench.run(&["--gate", gates, "--fail-on", "inconclusive"]);
        assert_eq!(ran.exit, Exit::Incomplete, "{}", ran.out);
        let text = "no round of either side has latency_p99 (needs 662 batches, BASE had 61, NEW had 61)";
        assert!(ran.out.contains(text), "{}", ran.out);
    }
    // There can be no such number, however many batches.
    for (metric, batches) in [("gpu_power", 700), ("response_p99", 700), ("response_p99", 61)] {
        let (base, new) = sides(&|row| row.window.batches = Some(batches));
        let bench = Bench::new(&base, &new);
        for gates in [format!("{metric}=3%"), format!("latency_p50=3%,{metric}=3%")] {
            let ran = bench.run(&["--gate", &gates]);
            assert_eq!(ran.exit, Exit::Incomplete, "{}", ran.out);
            assert!(ran.out.contains(&format!("SKIPPED (these rows have no {metric})")), "{}", ran.out);
            let text = format!("NOTHING {metric} could be compared at no point: leave it out of --gate");
            assert!(ran.out.contains(&text) && !ran.out.contains("needs"), "{}", ran.out);
        }
    }
    // None of the usual gates.
    let (base, new) = sides(&|row| {
        (row.latency.p50, row.latency.p99, row.rates.throughput_wall) = (None, None, None);
    });
    let ran = Bench::new(&base, &new).run(&[]);
    assert_eq!(ran.exit, Exit::Incomplete, "{}", ran.out);
    assert!(ran.out.contains("NOTHING the rows have none of the metrics of the gates"), "{}", ran.out);
}

/// Responses are there under one load and can't be under the other: they were compared where they are.
#[test]
fn a_metric_of_some_loads_is_compared_there() {
    let side = |run: &str, samples: u64| {
        let mut served = rounds(run, 5, 8, 2.0);
        for row in &mut served {
            row.point.load = "server(rate=100,arrivals=poisson,max_delay_ms=2)".into();
            (row.window.inferences, row.window.batches) = (Some(samples), Some(300));
            row.response.p99 = (samples >= 662).then_some(9.0);
        }
        [rounds(run, 5, 1, 1.0), served].concat()
    };
    let options = ["--gate", "response_p99=10%"];
    let ran = Bench::new(&side("a", 662), &side("b", 662)).run(&options);
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.out);
    assert!(ran.out.contains("SKIPPED (these rows have no response_p99)"), "{}", ran.out);
    // A response is that of a sample.
    let ran = Bench::new(&side("a", 500), &side("b", 500)).run(&options);
    assert_eq!(ran.exit, Exit::Incomplete, "{}", ran.out);
    assert!(ran.out.contains("needs 662 responses, BASE had 500, NEW had 500"), "{}", ran.out);
}

#[test]
fn what_is_shown_not_to_be_worse_is_not_open() {
    let base = rounds("a", 5, 1, 1.0);
    let side = |factors: &[f64]| {
        let mut rows = rounds("b", 5, 1, 1.0);
        scale(&mut rows, factors);
        rows
    };
    let options = ["--gate", "latency_p50=3%", "--fail-on", "inconclusive"];
    let ran = Bench::new(&base, &side(&[0.6, 0.7, 0.8, 0.9, 0.985])).run(&options);
    assert_eq!(ran.exit, Exit::Ok, "{}", ran.out);
    assert!(ran.out.contains("NOT WORSE") && !ran.out.contains("hint"), "{}", ran.out);
    // As wide, and a regression of 3 % is not excluded; more rounds would do that.
    let ran = Bench::new(&base, &side(&[0.6, 0.7, 0.8, 0.9, 1.1])).run(&options);
    assert_eq!(ran.exit, Exit::Inconclusive, "{}", ran.out);
    assert!(ran.out.contains("rounds a side would settle it, there are 5"), "{}", ran.out);
}

#[test]
fn its_help_says_what_the_readme_says() {
    use clap::CommandFactory;
    let mut cli = Cli::command();
    let help = cli.find_subcommand_mut("compare").unwrap().render_long_help().to_string();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let codes =
        "1 internal error, or an output that can't be written · 2 usage, or an input that can't be opened";
    assert!(help.contains(codes), "{help}");
    let bench = Bench::new(&[], &[]);
    assert_eq!(bench.run_on("base.csv", "nowhere.csv", &[]).exit, Exit::Usage);
    let readme = fs::read_to_string("README.md").unwrap();
    assert!(readme.contains("| 2 | wrong usage, an input that can't be opened, "));
}
