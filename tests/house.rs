//! The floors of the house and its prohibitions, as src/lib.rs states them.

use std::fs;
use std::path::{Path, PathBuf};

/// From the ground up: a room may use those on lower floors and itself.
const FLOORS: [&[&str]; 7] = [
    &["machine", "workload"],
    &["measure"],
    &["results"],
    &["sweep", "analysis"],
    &["render"],
    &["cli"],
    &["cmd"],
];

fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            found.extend(sources(&entry.path()));
        } else if entry.path().extension().is_some_and(|e| e == "rs") && !entry.path().ends_with("tests.rs") {
            found.push((entry.path(), fs::read_to_string(entry.path()).unwrap()));
        }
    }
    found
}

/// The lines that are code: no comments, nothing after the tests begin.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let end = text.find("#[cfg(test)]").unwrap_or(text.len());
    text[..end].lines().filter(|line| !line.trim_start().starts_with("//"))
}

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

#[test]
fn an_import_never_climbs() {
    let mut seen = 0;
    for (path, text) in sources(Path::new("src")) {
        let Some(room) = path.iter().nth(1).and_then(|p| p.to_str()).map(|p| p.trim_end_matches(".rs"))
        else {
            continue;
        };
        let Some(own) = floor(room) else { continue };
        for line in code(&text) {
            for used in line.split("crate::").skip(1) {
                let used: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let Some(other) = floor(&used) else { continue };
                seen += 1;
                assert!(
                    other < own || used == room || same_floor_allowed(room, &used),
                    "{}: {line}",
                    path.display()
                );
            }
        }
    }
    assert!(seen > 30, "the test no longer sees the imports");
}

/// A workload asks the host for its memory; nothing else is shared on one floor.
fn same_floor_allowed(room: &str, used: &str) -> bool {
    (room, used) == ("workload", "machine")
}

fn only_in(word: &str, places: &[&str]) {
    for (path, text) in sources(Path::new("src")) {
        let allowed = places.iter().any(|place| path.starts_with(place));
        let found = code(&text).find(|line| line.contains(word));
        assert!(allowed || found.is_none(), "{}: {}", path.display(), found.unwrap_or_default());
    }
}

#[test]
fn each_crate_has_its_place() {
    only_in("clap", &["src/cli.rs", "src/cli", "src/cmd", "src/main.rs"]);
    only_in("cudarc", &["src/workload/cuda"]);
    only_in("nvml_wrapper", &["src/machine/nvml"]);
    only_in("indicatif", &["src/render"]);
    only_in("comfy_table", &["src/render"]);
    only_in("gemm::", &["src/workload/cpu"]);
    only_in("use ort", &["src/workload/onnx"]);
    only_in("libloading", &["src/workload/onnx", "src/workload/cuda/cublaslt"]);
}

/// A child that is started elsewhere outlives its parent, and is taken for an orphan by those who look.
#[test]
fn processes_are_started_in_one_place() {
    for (path, text) in
        sources(Path::new("src")).into_iter().filter(|(_, text)| text.contains("Command::new"))
    {
        let allowed = path.starts_with("src/machine/child.rs");
        let starts =
            |line: &&str| [".spawn()", ".output()", ".status()"].iter().any(|call| line.contains(call));
        let found = code(&text).find(starts);
        assert!(allowed || found.is_none(), "{}: {}", path.display(), found.unwrap_or_default());
    }
    // Where a limit allows no further thread, this panics.
    only_in("thread::spawn(", &["src/results/output/tests.rs"]);
}

#[test]
fn pure_files_have_no_clock_file_or_environment() {
    let pure = [
        "src/machine/doctor/access.rs",
        "src/machine/doctor/driver.rs",
        "src/machine/doctor/evidence.rs",
        "src/machine/doctor/health.rs",
        "src/machine/doctor/mig.rs",
        "src/machine/doctor/mod.rs",
        "src/machine/doctor/scope.rs",
        "src/machine/capture.rs",
        "src/machine/profile.rs",
        "src/machine/refusal.rs",
        "src/machine/smi.rs",
        "src/machine/topology.rs",
        "src/machine/visible.rs",
        "src/sweep/estimate.rs",
        "src/sweep/placement.rs",
        "src/sweep/plan.rs",
        "src/sweep/rows.rs",
        "src/sweep/select.rs",
        "src/sweep/identity.rs",
        "src/sweep/telemetry.rs",
        "src/sweep/together.rs",
        "src/sweep/resume.rs",
        "src/sweep/corun.rs",
        "src/measure/stopping.rs",
        "src/results/summary.rs",
        "src/workload/model",
        "src/analysis",
    ];
    for (path, text) in sources(Path::new("src")) {
        if !pure.iter().any(|p| path.starts_with(p)) {
            continue;
        }
        for word in ["std::fs", "std::env::", "Instant", "SystemTime", "Timestamp", "println!"] {
            let found = code(&text).find(|line| line.contains(word));
            assert!(found.is_none(), "{}: {}", path.display(), found.unwrap_or_default());
        }
    }
}
