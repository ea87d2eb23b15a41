//! Records which revision of the source a binary was built from, and lists the embedded kernels.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

fn main() {
    list_kernels();
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    // Outside a checkout (a crate from a registry, or no git at all) the column stays empty.
    let revision =
        git(&["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]).unwrap_or_default();
    println!("cargo:rustc-env=MIGBENCH_GIT_REVISION={revision}");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src");
    if let Some(folder) = git(&["rev-parse", "--git-dir"]) {
        println!("cargo:rerun-if-changed={folder}/HEAD");
        println!("cargo:rerun-if-changed={folder}/logs/HEAD");
    }
}

/// Writes the table of all texts of `kernels/ptx`, in the order of their names: `("sm_80/null",
/// "...\0")`, NUL-terminated for the driver.
fn list_kernels() {
    println!("cargo:rerun-if-changed=kernels/ptx");
    let root = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let mut names = Vec::new();
    for set in ["sm_80", "sm_90a"] {
        let folder = Path::new(&root).join("kernels/ptx").join(set);
        println!("cargo:rerun-if-changed={}", folder.display());
        for entry in fs::read_dir(&folder).expect("the compiled kernels are checked in") {
            let path = entry.expect("a readable folder").path();
            if path.extension().is_some_and(|e| e == "ptx") {
                let stem = path.file_stem().expect("it has a name").to_string_lossy().into_owned();
                names.push((format!("{set}/{stem}"), path));
            }
        }
    }
    names.sort();
    let mut table = String::from("&[\n");
    for (name, path) in names {
        table += &format!("    ({name:?}, concat!(include_str!({path:?}), \"\\0\")),\n");
    }
    table += "]\n";
    let out = env::var("OUT_DIR").expect("cargo sets it");
    fs::write(Path::new(&out).join("kernels.rs"), table).expect("cargo's own folder");
}
