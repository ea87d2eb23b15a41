//! What the documents say is what the program does.

use migbench::analysis::rounds::fold;
use migbench::analysis::slowdown::{packed, slowdowns};
use migbench::render::{names::Names, slowdown, table};
use migbench::results::Row;
use migbench::results::csv_file;
use migbench::workload::Spec;
use std::fs;
use std::path::Path;
use std::process::Command;

fn document(name: &str) -> String {
    fs::read_to_string(name).unwrap()
}

/// `a_{b,c}_d` is `a_b_d` and `a_c_d`.
fn names_in_backticks(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    for quoted in text.split('`').skip(1).step_by(2) {
        match (quoted.split_once('{'), quoted.split_once('}')) {
            (Some((head, rest)), Some((_, tail))) => {
                let inner = rest.split('}').next().unwrap_or_default();
                names.extend(inner.split(',').map(|part| format!("{head}{part}{tail}")));
            }
            _ => names.push(quoted.to_owned()),
        }
    }
    names
}

#[test]
fn every_column_is_documented() {
    let documented = names_in_backticks(&document("docs/columns.md"));
    for column in migbench::results::header() {
        assert!(documented.iter().any(|name| name == column), "docs/columns.md lacks {column}");
    }
}

#[test]
fn the_workloads_are_those_of_the_readme() {
    let readme = document("README.md");
    for name in Spec::names() {
        assert!(readme.contains(&format!("`{name}`")), "README.md lacks {name}");
    }
}

fn help(verb: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_migbench")).args(verb).arg("--help").output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_option_in_the_documents_exists() {
    let verbs: [&[&str]; 8] =
        [&[], &["list"], &["doctor"], &["check"], &["export"], &["selftest"], &["compare"], &["calibrate"]];
    let help: String = verbs.iter().map(|verb| help(verb)).collect();
    let documents = [
        "README.md",
        "docs/columns.md",
        "docs/protocol.md",
        "docs/machine.md",
        "docs/checks.md",
        "docs/onnx.md",
    ];
    let text: String = documents.map(document).concat();
    let mut seen = 0;
    for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-') {
        let is_option = word.len() > 2 && word.starts_with("--") && word.as_bytes()[2].is_ascii_lowercase();
        // Cargo's own options stand in README, too.
        if is_option
            && ![
                "--release",
                "--bench",
                "--test",
                "--ignored",
                "--gpus",
                "--exportTimes",
                "--warmUp",
                "--loadEngine",
                "--concurrency-range",
                "--request-rate-range",
            ]
            .contains(&word)
        {
            seen += 1;
            assert!(help.contains(word), "no option {word}");
        }
    }
    assert!(seen > 10);
}

fn saved(name: &str) -> Vec<Row> {
    let path = format!("results/{name}/measurements.csv");
    csv_file::read(Path::new(&path)).unwrap().rows
}

/// The tables in README are what the program prints for the rows that are saved.
#[test]
fn the_tables_in_the_readme_are_those_of_the_saved_rows() {
    for name in ["2026-11-25-h200", "2026-11-22-h200-sharing"] {
        let rows = saved(name);
        let rows: Vec<&Row> = rows.iter().collect();
        let (mut text, names) = (Vec::new(), Names::of(&rows));
        table::write(&mut text, &fold(&rows), &names).unwrap();
        slowdown::write(&mut text, &slowdowns(&rows), &packed(&rows), &names).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(document("README.md").contains(&text), "README.md should show:\n{text}");
    }
}
