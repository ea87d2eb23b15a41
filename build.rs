//! Records which revision of the source a binary was built from, and lists the embedded kernels.

use flate2::Compression;
use flate2::write::ZlibEncoder;
use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

/// Folders of `kernels/ptx`: for every GPU, and for Hopper.
const SETS: [&str; 2] = ["sm_80", "sm_90a"];

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

/// Writes `TEXTS`, the table of all texts of `kernels/ptx` in the order of their names, as `("sm_80/null",
/// deflated bytes)`, and `HASHES`, of what each set draws on: its own texts and the portable ones.
fn list_kernels() {
    println!("cargo:rerun-if-changed=kernels/ptx");
    let root = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let mut names = Vec::new();
    for set in SETS {
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
    let out = env::var("OUT_DIR").expect("cargo sets it");
    let (mut table, mut hashes) = (String::new(), [Sha256::new(), Sha256::new()]);
    for (name, path) in names {
        let text = fs::read(&path).expect("a readable text");
        for (set, hash) in SETS.iter().zip(&mut hashes) {
            if name.starts_with(SETS[0]) || name.starts_with(set) {
                hash.update(&name);
                hash.update(&text);
                hash.update(b"\0"); // as the driver is given it
            }
        }
        let file = Path::new(&out).join(name.replace('/', "_"));
        let mut deflated = ZlibEncoder::new(Vec::new(), Compression::best());
        deflated.write_all(&text).expect("memory takes it");
        fs::write(&file, deflated.finish().expect("memory takes it")).expect("cargo's own folder");
        table += &format!("    ({name:?}, include_bytes!({file:?})),\n");
    }
    let hashes =
        hashes.map(|hash| hash.finalize()[..6].iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    let text =
        format!("const HASHES: [&str; 2] = {hashes:?};\nconst TEXTS: &[(&str, &[u8])] = &[\n{table}];\n");
    fs::write(Path::new(&out).join("kernels.rs"), text).expect("cargo's own folder");
}
