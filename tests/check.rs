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
