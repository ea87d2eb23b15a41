//! `migbench check` as a function of its arguments and writers.

#[path = "../benches/simulate/mod.rs"]
mod simulate;

use clap::Parser;
use migbench::cli::{Cli, Exit};
use migbench::results::{Row, row::Mode};
use simulate::{Random, batches, file, measured, template};
use std::fs;
use std::path::Path;

fn check(folder: &Path, arguments: &[&str]) -> (Exit, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let cli = Cli::parse_from(["migbench", "check"].iter().chain(arguments));
    let exit = migbench::cmd::dispatch(cli, &mut out, &mut err);
    let shown = format!("{}/", folder.display());
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(&shown, "");
    (exit, text(out), text(err))
}

/// Writes bytes to a file and checks it.
fn of(bytes: &[u8], options: &[&str]) -> (Exit, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.csv");
    fs::write(&path, bytes).unwrap();
    let path = path.to_str().unwrap();
    check(folder.path(), &[&[path], options].concat())
}

fn good(count: u32) -> Vec<Row> {
    let mut random = Random::new(7);
    (0..count)
        .map(|i| {
            let mut row = template(8, i % 7);
            row.provenance.repetition = 1 + i / 7;
            measured(row, &batches(&mut random, 700, 9e6, 0.02, 0.5))
        })
        .collect()
}

#[test]
fn what_the_program_writes_holds_together() {
    let (exit, out, err) = of(&file(&good(14)), &[]);
    assert_eq!((exit, out.as_str(), err.as_str()), (Exit::Ok, "14 rows in 1 file: all hold together\n", ""));
}

#[test]
fn a_co_run_set_without_one_of_its_rows_is_incomplete() {
    let set = |missing: bool| {
        let mut rows = good(7);
        for row in &mut rows {
            row.point.mode = Mode::Concurrent;
            row.point.corunners = ["1g.18gb/bert-base(seq_len=128)/8/closed"; 6].join(";");
            row.health.overlap = Some(1.0);
            row.seal();
        }
        rows.truncate(if missing { 6 } else { 7 });
        of(&file(&rows), &[])
    };
    assert_eq!(set(false).0, Exit::Ok, "{}", set(false).1);
    let (exit, out, _) = set(true);
    assert_eq!(exit, Exit::Incomplete);
    assert!(out.contains("6 of 7 rows of 1g.18gb/bert-base(seq_len=128)/8/closed"), "{out}");
}

fn golden(name: &str, text: &str) {
    let path = format!("tests/golden/{name}");
    if std::env::var_os("MIGBENCH_BLESS").is_some() {
        fs::write(&path, text).unwrap();
    }
    assert_eq!(text, fs::read_to_string(&path).unwrap(), "{name}\n{text}");
}

/// Sets cells of the row in a line (the first below the header is line 2).
fn set(bytes: &[u8], line: usize, cells: &[(&str, &str)]) -> Vec<u8> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(bytes);
    let mut writer = csv::Writer::from_writer(Vec::new());
    for (i, record) in reader.records().enumerate() {
        let mut record: Vec<String> = record.unwrap().iter().map(str::to_owned).collect();
        for (column, text) in cells.iter().filter(|_| i + 1 == line) {
            let at = migbench::results::header().iter().position(|name| name == column).unwrap();
            record[at] = (*text).to_owned();
        }
        writer.write_record(&record).unwrap();
    }
    writer.into_inner().unwrap()
}

#[test]
fn findings_in_every_form() {
    let bytes = file(&good(3));
    let bytes = set(&bytes, 2, &[("throughput", "1.0"), ("latency_p50_ms", "")]);
    let bytes = set(&bytes, 3, &[("sm_count", "26"), ("error", "a|b <c>")]);
    let mut bytes = set(&bytes, 4, &[("profile", "3g.71gb"), ("latency_max_ms", "NaN"), ("batch", "x")]);
    bytes.extend(b"1,2");
    for (format, name) in [("table", "check.txt"), ("json", "check.json"), ("markdown", "check.md")] {
        let (exit, out, err) = of(&bytes, &["--format", format]);
        assert_eq!((exit, err.as_str()), (Exit::Incomplete, ""));
        golden(name, &out);
    }
}

/// Each rule of docs/checks.md finds what it is there for.
#[test]
fn every_rule_fires() {
    let rows = file(&good(2));
    let of_rule = |bytes: &[u8]| -> Vec<String> {
        let (_, out, _) = of(bytes, &["--format", "json"]);
        let json: serde_json::Value = serde_json::from_str(&out).unwrap();
        let findings = json["files"][0]["findings"].as_array().unwrap();
        findings.iter().map(|f| f["rule"].as_str().unwrap().to_owned()).collect()
    };
    assert!(of_rule(&rows).is_empty());
    for (rule, cells) in [
        ("type", &[("graph", "yes")][..]),
        ("type", &[("batches", "1.5")]),
        ("type", &[("started_at", "yesterday")]),
        ("finite", &[("gpu_power_w", "inf")]),
        ("sign", &[("latency_min_ms", "-3")]),
        ("sign", &[("overlap", "1.5")]),
        ("zero", &[("gpu_power_w", "0")]),
        ("order", &[("latency_p50_ms", "99")]),
        ("order", &[("latency_mean_ms", "0.001")]),
        ("formula", &[("throughput", "7")]),
        ("formula", &[("throughput_wall", "7")]),
        ("formula", &[("elapsed_s", "7")]),
        ("spread", &[("latency_stddev_ms", "1000")]),
        ("busy", &[("elapsed_s", "1")]),
        ("batches-needed", &[("batches", "100")]),
        ("absent", &[("latency_p99_ms", "")]),
        ("absent", &[("mode", "concurrent")]),
        ("histogram", &[("latency_histogram", "AAAA")]),
        ("histogram", &[("latency_p90_ms", "9.1")]),
        ("count", &[("tflops", "2")]),
        ("limit", &[("tflops", "200")]),
        ("overlap", &[("overlap", "0.99")]),
        ("status", &[("error", "something")]),
        ("status", &[("status", "invalid")]),
        ("status", &[("identity", "refuted")]),
        ("warning", &[("drift", "0.02")]),
        ("warning", &[("warnings", "host-bound")]),
        ("warning", &[("identity", "consistent")]),
        ("point", &[("point_id", "0123456789abcdef")]),
        ("point", &[("sync", "blocking")]),
        ("instance", &[("mig_uuid", "")]),
        ("instance", &[("device", "cpu")]),
        ("profile", &[("sm_count", "14")]),
        ("profile", &[("memory_mib", "40960")]),
        ("profile", &[("memory_mib", "8192")]),
        ("identity", &[("mig_uuid", "MIG-11111111-0000-5000-8000-000000000001"), ("gi_id", "2")]),
        ("corunners", &[("corunners", "a")]),
        ("schema", &[("schema_version", "3")]),
    ] {
        let found = of_rule(&set(&rows, 2, cells));
        assert!(found.iter().any(|f| f == rule), "{rule} {cells:?}: {found:?}");
    }
    // Faster than the instance's share of the memory: 1/8 of 4800 GB/s.
    let rules = of_rule(&set(&rows, 2, &[("gbytes_per_s", "700"), ("latency_mean_ms", "400")]));
    assert!(rules.iter().any(|rule| rule == "limit"));
    let twice = [&rows[..], rows.split_inclusive(|b| *b == b'\n').nth(2).unwrap()].concat();
    assert_eq!(of_rule(&twice), ["duplicate"]);
    assert_eq!(of_rule(&rows[..rows.len() - 1]), ["torn"]);
    assert_eq!(of_rule(b""), ["empty"]);
    let header = rows.split_inclusive(|b| *b == b'\n').next().unwrap();
    assert_eq!(of_rule(header), ["empty"]);
    assert_eq!(of_rule(&[header, b"1,2,3\n"].concat()), ["cells"]);
    assert_eq!(of_rule(&[header, b"\"\n"].concat()), ["text"]);
    assert_eq!(of_rule(&[header, b"\xe9\n"].concat()), ["text"]);
    assert_eq!(of_rule(&[header, &vec![0; 6 << 20]].concat()), ["empty", "text"]);
    let other_order = String::from_utf8(rows.clone()).unwrap().replacen("seed", "sead", 1);
    assert_eq!(of_rule(other_order.as_bytes()), ["schema"]);
}

#[test]
fn a_row_that_failed_and_says_why_holds_together() {
    let mut rows = good(2);
    rows[1] = template(8, 1).failed("the worker was killed by signal 9");
    rows[1].seal();
    let (exit, out, _) = of(&file(&rows), &[]);
    assert_eq!((exit, out.as_str()), (Exit::Ok, "2 rows in 1 file: all hold together; 1 failed\n"));
}

#[test]
fn another_tools_table_is_recomputed_by_the_formula() {
    let columns = ["--columns", "latency=lat,batch=bs,throughput=qps"];
    // trtexec-like: right to the printed digits.
    let good = b"bs,lat,qps\n1,2.5,400\n8,3,2666\n32,7.25,4414\n8,0.3,30000\n";
    let (exit, out, _) = of(good, &columns);
    assert_eq!((exit, out.as_str()), (Exit::Ok, "4 rows in 1 file: all hold together\n"));
    // Batches a second.
    let (exit, out, _) = of(b"bs,lat,qps\n4,2.50,400.0\n8,3.00,333.3\n32,7.25,137.9\n", &columns);
    assert_eq!(exit, Exit::Incomplete);
    golden("check.batches.txt", &out);
    // Seconds.
    let (_, out, _) = of(b"bs,lat,qps\n4,0.00250,1600\n8,0.00300,2667\n", &columns);
    assert!(
        out.contains("qps is 0.001 times what it should be in all 2 rows: is a latency in another unit"),
        "{out}"
    );
    let in_seconds = [&columns[..], &["--latency-unit", "s"]].concat();
    assert_eq!(of(b"bs,lat,qps\n4,0.00250,1600\n8,0.00300,2667\n", &in_seconds).0, Exit::Ok);
    // One wrong row among good ones.
    let (exit, out, _) = of(b"bs,lat,qps\n4,2.50,1600\n8,3.00,2667\n8,3.00,5334\n", &columns);
    assert_eq!(exit, Exit::Incomplete);
    assert!(out.contains("2667 = (1000 / 3) x 8") && out.contains("2.0003"), "{out}");
    let (exit, _, _) = of(b"\xef\xbb\xbfbs,lat,qps\r\n4,2.50,1600\r\n", &columns);
    assert_eq!(exit, Exit::Ok, "a byte order mark and CRLF are no difference");
    let (exit, out, _) = of(b"bs,lat,qps\n4,NaN,1600\n-8,3,x\n0,3,1\n", &columns);
    assert_eq!(exit, Exit::Incomplete);
    for rule in ["finite", "sign", "type", "zero"] {
        assert!(out.contains(rule), "{out}");
    }
}

#[test]
fn a_wrong_call_says_what_to_do() {
    let other = b"bs,lat,qps\n4,2.50,1600\n";
    for (bytes, options, text) in [
        (
            &other[..],
            &[][..],
            "migbench: a.csv: line 1: these are not migbench's columns: if it is another tool's file, \
          say what they mean with --columns latency=…,batch=…,throughput=…; it has bs, lat, qps\n",
        ),
        (
            other,
            &["--columns", "latency=ms"],
            "migbench: a.csv: line 1: there is no column 'ms'; it has bs, lat, qps\n",
        ),
        (
            other,
            &["--columns", "speed=qps"],
            "migbench: --columns: there is no 'speed'; latency, batch, throughput,",
        ),
        (
            b"\xff\xfeb\0s\0\n\0",
            &[],
            "migbench: cannot read a.csv: it is UTF-16 (as PowerShell's > writes it): convert it first, with iconv",
        ),
        (b"\"a,b\n1,2\n", &[], "migbench: a.csv: line 1: the quotes of cell 1 do not match\n"),
    ] {
        let (exit, out, err) = of(bytes, options);
        assert_eq!((exit, out.as_str()), (Exit::Usage, ""), "{err}");
        assert!(err.starts_with(text), "{err}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (exit, _, err) = check(folder.path(), &[&path("no.csv")]);
    assert_eq!(exit, Exit::Usage);
    assert!(err.starts_with("migbench: cannot read no.csv: No such file"), "{err}");
    let (exit, _, err) = check(folder.path(), &[&path("")]);
    assert!(exit == Exit::Usage && err.contains("is a directory: name the files in it, as '"), "{err}");
    let fifo = path("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let (exit, _, err) = check(folder.path(), &[&fifo]);
    assert_eq!(exit, Exit::Usage);
    assert!(
        err.contains("fifo is not a regular file (a pipe or a device): save it to a file first"),
        "{err}"
    );
}

const C: &str = "latency=latency_ms,batch=batch,throughput=qps";

/// Files as other tools and spreadsheets write them: read rightly.
#[test]
fn other_tools_csv_is_read_as_it_is_defined() {
    for (what, bytes, options) in [
        ("no last newline", &b"batch,latency_ms,qps\n1,2.0,500\n8,4.0,2000"[..], &[][..]),
        ("empty lines", b"\nbatch,latency_ms,qps\n1,2.0,500\n\n8,4.0,2000\n\n", &[]),
        ("an empty row of a spreadsheet", b"batch,latency_ms,qps\n1,2.0,500\n8,4.0,2000\n,,\n", &[]),
        ("line breaks in quotes", b"batch,latency_ms,qps,note\n1,2.0,500,\"a\nb\"\n8,4.0,2000,\n", &[]),
        ("carriage returns alone", b"batch,latency_ms,qps\r1,2.0,500\r8,4.0,2000\r", &[]),
        (
            "spaces around quotes",
            b"\"batch\", \"latency_ms\", \"qps\"\n1, \"2.0\" , 500\n8, 4.0, 2000\n",
            &[],
        ),
        ("Excel's separator line", b"sep=;\nbatch;latency_ms;qps\n1;2.0;500\n8;4.0;2000\n", &[]),
        ("groups of thousands", b"batch,latency_ms,qps\n1,2.0,500\n8,4.0,\"2,000\"\n", &[]),
        ("a tab", b"batch\tlatency_ms\tqps\n1\t2.0\t500\n8\t4.0\t2000\n", &["--separator", "tab"]),
        (
            "a decimal comma",
            b"batch;latency_ms;qps\n1;2,0;500\n8;4,0;2.000\n",
            &["--separator", ";", "--decimal-comma"],
        ),
    ] {
        let (exit, out, err) = of(bytes, &[&["--columns", C], options].concat());
        assert_eq!((exit, &*out), (Exit::Ok, "2 rows in 1 file: all hold together\n"), "{what}: {out}{err}");
    }
    let unit = b"batch,\"Latency, mean (ms)\",qps\n1,2.0,500\n";
    for columns in [
        "latency=Latency, mean (ms),batch=batch,throughput=qps",
        "latency=\"Latency, mean (ms)\",batch=batch,throughput=qps",
    ] {
        assert_eq!(of(unit, &["--columns", columns]).0, Exit::Ok, "{columns}");
    }
}

/// What can't be read is named, with the place and what to do.
#[test]
fn what_is_no_table_of_numbers_is_named() {
    for (bytes, options, exit, text) in [
        (
            &b"batch;latency_ms;qps\n1;2.0;500\n"[..],
            C,
            Exit::Usage,
            "separated by ';', not by ',': say --separator ';'",
        ),
        (b"batch\tlatency_ms\tqps\n", C, Exit::Usage, "separated by tab, not by ',': say --separator tab"),
        (b"\"a b\"; \"latency_ms\"; \"qps\"; \"batch\"\n", C, Exit::Usage, "separated by ';'"),
        (b"{\"latency_ms\": 2}\n", C, Exit::Usage, "it is JSON, not CSV"),
        (b"\x1f\x8b\x08\x00\x00", C, Exit::Usage, "it is compressed by gzip: unpack it first, with gunzip"),
        (b"PK\x03\x04", C, Exit::Usage, "it is a ZIP archive or a spreadsheet"),
        (b"b\0a\0t\0c\0h\0,\0q\0p\0s\0\n\0", C, Exit::Usage, "it is UTF-16"),
        (b"# host a\nbatch,latency_ms,qps\n", C, Exit::Usage, "line 1: it begins with a comment"),
        (
            b"batch,qps,latency_ms,qps\n",
            C,
            Exit::Usage,
            "the column 'qps' is there twice, as columns 2 and 4",
        ),
        (b"batch,latency_ms,qps\n1,2.0,500\nbatch,latency_ms,qps\n", C, Exit::Incomplete, "the header again"),
        (b"batch,latency_ms,qps\n1,2.0,500\n# second run\n", C, Exit::Incomplete, "1 cells"),
        (
            b"batch,latency_ms,qps\n1,N/A,-\n",
            C,
            Exit::Incomplete,
            "or an empty cell where nothing was measured",
        ),
        (b"batch,latency_ms,qps\n1,nan,500\n", C, Exit::Incomplete, "a finite number"),
        (b"batch,latency_ms,qps\n8,4.0 ms,2000/s\n", C, Exit::Incomplete, "a number without its unit"),
        (b"batch,latency_ms,qps\n1,\"2,0\",500\n", C, Exit::Incomplete, "--decimal-comma reads this one"),
        (b"batch,latency_ms,qps\n1,2.0,500\n1,\"2.0,500\n", C, Exit::Incomplete, "the quote of cell 2"),
        (b"batch,latency_ms,qps\n1,2.0,\xb5\n", C, Exit::Incomplete, "byte 0xb5 at 7"),
        (b"a,b\n1,2\n", "min=a,max=a", Exit::Usage, "the column 'a' can't be both min and max"),
    ] {
        let (found, out, err) = of(bytes, &["--columns", options]);
        assert_eq!(found, exit, "{text}: {out}{err}");
        assert!(out.contains(text) || err.contains(text), "{text}: {out}{err}");
    }
    // migbench's own files are strict, and say what others have done to them.
    let rows = file(&good(2));
    let semicolons = String::from_utf8(rows.clone()).unwrap().replace(',', ";").into_bytes();
    let (exit, _, err) = of(&semicolons, &[]);
    assert!(
        exit == Exit::Usage && err.contains("separated by ';', not by ',': save it with commas"),
        "{err}"
    );
    let header = rows.split_inclusive(|byte| *byte == b'\n').next().unwrap();
    let (exit, out, _) = of(&[&rows[..], header].concat(), &[]);
    assert!(exit == Exit::Incomplete && out.contains("the header again"), "{out}");
    assert_eq!(of(&[&rows[..], b"\n\r\n"].concat(), &[]).1, "2 rows in 1 file: all hold together\n");
}

/// The last line of a gate never says more than was looked at.
#[test]
fn what_was_compared_with_nothing_is_said() {
    let wrong = b"c,mean,p50,p99,qps\n1,10,9.9,11.9,800000\n2,12.5,12.4,14,1280\n";
    for columns in ["latency=mean,throughput=qps", "throughput=qps", "latency=mean", "p99=p99", "gpu=c"] {
        let (exit, out, err) = of(wrong, &["--columns", columns]);
        assert_eq!(exit, Exit::Usage, "{columns}: {out}{err}");
        assert!(out.ends_with("2 rows in 1 file: nothing was compared\n"), "{out}");
        assert!(err.contains("nothing was compared with anything"), "{err}");
    }
    let some = ["--columns", "latency=mean,p50=p50,p99=p99,throughput=qps"];
    let (exit, out, _) = of(wrong, &some);
    assert_eq!(exit, Exit::Ok);
    assert!(
        out.contains("latency (mean), throughput (qps) were compared with nothing: map batch, too"),
        "{out}"
    );
    assert!(out.ends_with("2 rows in 1 file: what could be compared holds together\n"), "{out}");
    let (_, out, _) = of(wrong, &[&some[..], &["--format", "json"]].concat());
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    let uncompared = &json["files"][0]["not_compared"];
    assert_eq!(
        (&uncompared[1]["meaning"], &uncompared[1]["compared_rows"]),
        (&"throughput".into(), &0.into())
    );
    let (_, out, _) = of(wrong, &[&some[..], &["--format", "markdown"]].concat());
    assert!(out.contains("compared with nothing: map batch, too"), "{out}");
    // A cell that is empty in some rows.
    let (exit, out, _) = of(b"b,l,q\n1,2,500\n8,,2000\n", &["--columns", "latency=l,batch=b,throughput=q"]);
    assert_eq!(exit, Exit::Ok);
    assert!(out.contains("were compared in 1 of 2 rows"), "{out}");
}

/// A closed load with several in flight: throughput = in flight x batch / latency.
#[test]
fn batches_in_flight_count() {
    let bytes = b"b,c,q,l\n8,1,800,10000\n8,2,1280,12500\n8,4,1600,20000\n";
    let columns = "latency=l,batch=b,throughput=q";
    let mapped = format!("{columns},inflight=c");
    let (exit, out, _) = of(bytes, &["--columns", &mapped, "--latency-unit", "us"]);
    assert_eq!((exit, &*out), (Exit::Ok, "3 rows in 1 file: all hold together\n"));
    let (exit, out, _) = of(bytes, &["--columns", columns, "--latency-unit", "us"]);
    assert_eq!(exit, Exit::Incomplete);
    assert!(
        out.contains("q is c times what it should be in all 3 rows") && out.contains("inflight=c"),
        "{out}"
    );
    let (_, out, _) = of(b"b,c,q,l\n8,2,800,10000\n", &["--columns", &mapped, "--latency-unit", "us"]);
    assert!(out.contains("1600 = 2 in flight x (1000 / 10) x 8"), "{out}");
    // An empty cell may mean any number in flight, and 0 is found once.
    let (exit, out, _) = of(b"b,c,q,l\n8,2,1600,10\n8,,6400,10\n", &["--columns", &mapped]);
    assert_eq!(exit, Exit::Ok, "{out}");
    assert!(out.contains("were compared in 1 of 2 rows"), "{out}");
    let (exit, out, err) = of(b"b,c,q,l\n8,,6400,10\n", &["--columns", &mapped]);
    assert_eq!(exit, Exit::Usage, "{out}{err}");
    let busy = "batches=n,latency=l,elapsed=e,inflight=c";
    let (exit, out, err) = of(b"n,l,e,c\n1000,10,2.5,\n", &["--columns", busy]);
    assert_eq!(exit, Exit::Usage, "{out}{err}");
    let (exit, out, _) = of(b"b,c,q,l\n8,0,6400,10\n", &["--columns", &mapped]);
    assert!(exit == Exit::Incomplete && out.ends_with("1 row in 1 file: 1 finding\n"), "{out}");
}

/// Of several files, the last line does not speak of all where it means one.
#[test]
fn one_of_two_files_in_which_nothing_was_compared_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["a.csv", "b.csv"].map(|name| folder.path().join(name).to_str().unwrap().to_owned());
    fs::write(&paths[0], b"b,l,q\n8,4,2000\n").unwrap();
    fs::write(&paths[1], b"b,l,q\n8,,2000\n").unwrap();
    let columns = ["--columns", "latency=l,batch=b,throughput=q"];
    let (exit, out, err) = check(folder.path(), &[&[&*paths[0], &*paths[1]], &columns[..]].concat());
    assert_eq!(exit, Exit::Usage, "{out}");
    assert!(out.ends_with("2 rows in 2 files: nothing was compared in 1 file\n"), "{out}");
    assert!(err.starts_with("migbench: b.csv: nothing was compared"), "{err}");
}

/// A tool that adds a byte order mark may have been given a file that had one.
#[test]
fn two_byte_order_marks_are_two_too_many_and_no_more() {
    let bytes = "\u{feff}\u{feff}b,l,q\n8,4,2000\n".as_bytes();
    let (exit, out, err) = of(bytes, &["--columns", "latency=l,batch=b,throughput=q"]);
    assert_eq!(exit, Exit::Ok, "{out}{err}");
    let own = [&b"\xef\xbb\xbf\xef\xbb\xbf"[..], &file(&good(2))].concat();
    let (exit, out, err) = of(&own, &[]);
    assert_eq!(exit, Exit::Ok, "{out}{err}");
    let (_, _, err) = of("\u{feff}\u{feff}{\"a\": 1}\n".as_bytes(), &[]);
    assert!(err.contains("it is JSON, not CSV"), "{err}");
}

/// An elapsed time in ms is not called a latency.
#[test]
fn the_unit_that_is_wrong_is_named() {
    let bytes = b"batch,elapsed_ms,batches,qps\n1,10000,5000,500\n8,10000,2500,2000\n";
    let columns = ["--columns", "batch=batch,elapsed=elapsed_ms,batches=batches,throughput_wall=qps"];
    let (exit, out, _) = of(bytes, &columns);
    assert_eq!(exit, Exit::Incomplete);
    assert!(out.contains("is the elapsed time in another unit (--elapsed-unit)?"), "{out}");
    assert_eq!(of(bytes, &[&columns[..], &["--elapsed-unit", "ms"]].concat()).0, Exit::Ok);
}

/// Two tables in one file, 0.00 for little, 6,655.52: as load generators for language models write them.
#[test]
fn the_summary_of_a_load_generator_is_read() {
    let bytes = b"Metric,avg,min,max,p50,p99,std\n\
        Inter Token Latency (ms),0.04,0.00,0.31,0.03,0.21,0.04\n\
        Request Latency (ms),\"6,655.52\",\"6,646.80\",\"6,765.98\",\"6,653.86\",\"6,686.54\",13.07\n\
        \nMetric,Value\nRequest Count,80.00\n\n\nEndpoint,GPU_Index\n";
    let (exit, out, err) = of(bytes, &["--columns", "mean=avg,min=min,max=max,p50=p50,p99=p99,stddev=std"]);
    assert_eq!(exit, Exit::Ok, "{out}{err}");
    assert!(out.contains("line 5: another table begins (Metric, Value), which is not read: 1 line"), "{out}");
    assert!(out.ends_with("2 rows in 1 file: all hold together\n"), "{out}");
    // Printed digits leave slack, and no more.
    let wrong = b"Metric,avg,min,max\nx,5.00,0.00,4.00\ny,0.05,0.06,0.07\n";
    let (exit, out, _) = of(wrong, &["--columns", "mean=avg,min=min,max=max"]);
    assert_eq!(exit, Exit::Incomplete);
    assert!(out.contains("at least 5.00 of avg") && out.contains("1 finding"), "{out}");
}

/// pandas and spreadsheets write True, 8.0 and an index.
#[test]
fn own_rows_that_pandas_saved_again_hold_together() {
    let rows = good(2);
    let text = String::from_utf8(file(&rows)).unwrap();
    let lines: Vec<String> = text
        .lines()
        .enumerate()
        .map(|(i, line)| format!("{},{}", if i == 0 { String::new() } else { (i - 1).to_string() }, line))
        .collect();
    let pandas = lines.join("\n").replace(",true,", ",True,").replace(",8,", ",8.0,") + "\n";
    assert!(pandas.contains(",True,") && pandas.contains(",8.0,"));
    let (exit, out, err) = of(pandas.as_bytes(), &[]);
    assert_eq!((exit, &*out), (Exit::Ok, "2 rows in 1 file: all hold together\n"), "{out}{err}");
    let excel = set(&file(&rows), 2, &[("window_start_ns", "1.19386E+12")]);
    let (exit, out, _) = of(&excel, &[]);
    assert!(exit == Exit::Incomplete && out.contains("1.19386E+12  a whole number"), "{out}");
    assert!(out.ends_with("1 finding\n"), "what follows from a number that is lost is no finding: {out}");
}

/// Two gigabytes of zeros, as a sparse file: no line end, little memory, an answer.
#[test]
fn two_gigabytes_of_zeros_are_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("zeros.csv");
    fs::File::create(&path).unwrap().set_len(2 << 30).unwrap();
    let (exit, out, _) = check(folder.path(), &[path.to_str().unwrap()]);
    assert_eq!(exit, Exit::Incomplete);
    assert!(out.contains("more than 1 MiB without a line end"), "{out}");
    assert!(out.ends_with("0 rows in 1 file: 1 finding\n"), "two gigabytes are not an empty file: {out}");
}

#[test]
fn many_findings_are_counted_and_a_few_are_shown() {
    let mut text = b"b,l,q\n".to_vec();
    for _ in 0..1000 {
        text.extend(b"4,2.5,9\n");
    }
    let columns = ["--columns", "latency=l,batch=b,throughput=q", "--show", "2"];
    let (exit, out, _) = of(&text, &columns);
    assert_eq!(exit, Exit::Incomplete);
    assert_eq!(out.matches("1600 = (1000 / 2.5) x 4").count(), 2, "{out}");
    assert!(out.contains("and 998 more of rule formula in column q"), "{out}");
    assert!(out.ends_with("1000 rows in 1 file: 1000 findings\n"), "{out}");
}
