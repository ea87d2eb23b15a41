//! Files of version 1 of the columns, as this repository has saved them: they are read, checked and compared as
//! they are, and nothing is added to them.

mod common;

use common::Bench;
use migbench::results::csv_file;
use migbench::results::row::{SCHEMA_VERSION, point_id};
use std::fs;
use std::path::{Path, PathBuf};

fn old_files() -> Vec<PathBuf> {
    let folders = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("results")).unwrap();
    let mut files: Vec<PathBuf> = folders
        .filter_map(Result::ok)
        .filter(|folder| folder.path().is_dir())
        .flat_map(|folder| fs::read_dir(folder.path()).unwrap().filter_map(Result::ok))
        .map(|file| file.path())
        .filter(|path| path.extension().is_some_and(|e| e == "csv"))
        .filter(|path| csv_file::read(path).is_ok_and(|read| read.rows.iter().all(is_old)))
        .collect();
    files.sort();
    files
}

fn is_old(row: &migbench::results::Row) -> bool {
    row.provenance.schema_version == 1
}

#[test]
fn files_of_version_1_are_read_and_their_points_keep_their_hashes() {
    let files = old_files();
    assert!(files.len() >= 5, "{files:?}");
    for path in &files {
        for row in csv_file::read(path).unwrap().rows {
            assert_eq!(point_id(&row), row.provenance.point_id, "{}", path.display());
            assert_eq!((row.point.missing_corunners, row.health.longest_pause_ms), (None, None));
        }
    }
    let names: Vec<&str> = files.iter().filter_map(|path| path.to_str()).collect();
    let checked = Bench::new().run(&[&["check"], &names[..]].concat());
    assert_eq!(checked.code, Some(0), "{}", checked.stdout);
    for name in names.iter().take(3) {
        let compared = Bench::new().run(&["compare", name, name]);
        assert!(matches!(compared.code, Some(0 | 4 | 5)), "{}", compared.stderr);
        assert!(!compared.stderr.contains("columns"), "{}", compared.stderr);
    }
}

#[test]
fn nothing_is_added_to_a_file_of_version_1() {
    let bench = Bench::new();
    let old = fs::read(&old_files()[0]).unwrap();
    for option in ["--append", "--resume"] {
        fs::write(bench.path("a.csv"), &old).unwrap();
        let base = ["--workload", "scripted()", "--batch", "1", "-q"];
        let more: &[&str] =
            if option == "--append" { &["-o", "a.csv", "--append"] } else { &["--resume", "a.csv"] };
        let ran = bench.run(&[&base[..], more].concat());
        assert_eq!(ran.code, Some(2), "{}", ran.stderr);
        let reason = format!("its columns are not those of this migbench (schema {SCHEMA_VERSION})");
        assert!(ran.stderr.contains(&reason), "{}", ran.stderr);
        assert_eq!(fs::read(bench.path("a.csv")).unwrap(), old, "{option}");
    }
}
