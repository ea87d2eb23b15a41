//! `--model` of the real program with a real ONNX Runtime. What needs Python's packages is ignored by
//! `cargo test`, which needs nothing but Rust; `.ci/run` installs them and runs it, with MIGBENCH_PYTHON
//! naming the interpreter.

mod common;

use common::standin::{Machine, library};
use common::{Bench, Ran, ran};
use migbench::results::Row;
use migbench::results::row::Status;
use std::path::PathBuf;
use std::process::Command;

fn python() -> PathBuf {
    std::env::var_os("MIGBENCH_PYTHON")
        .expect("MIGBENCH_PYTHON names a Python with onnx and onnxruntime")
        .into()
}

/// A folder with the models.
fn bench() -> Bench {
    let bench = Bench::new();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/onnx/models.py");
    let made = Command::new(python()).arg(script).current_dir(bench.folder.path()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    bench
}

fn run(bench: &Bench, arguments: &[&str]) -> Ran {
    let mut command = bench.command(&["--device", "cpu", "--duration", "200ms", "-o", "a.csv", "--force"]);
    // As in an activated environment: that is where the library is looked for.
    let environment = python().parent().unwrap().parent().unwrap().to_owned();
    command.args(arguments).env("VIRTUAL_ENV", environment).env_remove("ORT_DYLIB_PATH");
    ran(command.output().unwrap())
}

/// The rows of a run that is expected to work.
fn rows(bench: &Bench, arguments: &[&str]) -> (Vec<Row>, String) {
    let ran = run(bench, arguments);
    assert_eq!(ran.code, Some(0), "{arguments:?}: {}{}", ran.stderr, ran.stdout);
    (bench.rows("a.csv"), ran.stderr)
}

#[test]
#[ignore = "needs Python's onnx and onnxruntime: .ci/run"]
fn a_model_is_measured_and_its_output_checked() {
    let bench = bench();
    let (rows, said) = rows(&bench, &["--model", "mlp.onnx", "--batch", "1,8", "--threads", "1"]);
    assert_eq!(rows.len(), 2);
    for row in &rows {
        assert_eq!((row.point.backend.as_str(), row.outcome.status), ("onnx", Status::Ok));
        assert!(row.point.workload.starts_with("onnx(mlp.onnx,sha256="), "{}", row.point.workload);
        assert!(row.point.workload.ends_with(",ep=cpu,opt=all)"), "{}", row.point.workload);
        assert!(row.provenance.kernels.starts_with("onnxruntime-1."), "{}", row.provenance.kernels);
        assert_eq!(row.provenance.kernels.rsplit('-').next().unwrap().len(), 64, "the whole SHA-256");
        assert!(row.health.output_error.is_some_and(|error| error < 1e-5), "{:?}", row.health.output_error);
        assert_eq!((row.point.threads, row.point.precision), (Some(1), None));
        assert!(row.latency.p99.is_some());
    }
    assert!(said.contains("batch 1: x: f32 [1, 16]\nbatch 8: x: f32 [8, 16]\n"), "{said}");
    let check = run(&bench, &["--list-runs", "--format", "json", "--model", "mlp.onnx", "--batch", "4"]);
    let plan: serde_json::Value = serde_json::from_str(&check.stdout).unwrap();
    let input = &plan[0]["members"][0]["job"]["own"]["model"]["inputs"][0];
    assert_eq!(input["shape"], serde_json::json!([4, 16]));
    let check = bench.run(&["check", "a.csv"]);
    assert_eq!(check.code, Some(0), "{}", check.stdout);
}

#[test]
#[ignore = "needs Python's onnx and onnxruntime: .ci/run"]
fn inputs_of_every_kind() {
    let bench = bench();
    for arguments in [
        &["--model", "tokens.onnx", "--batch", "2", "--dim", "seq=6", "--input", "ids=int:0..100"][..],
        &["--model", "tokens.onnx", "--batch", "2", "--dim", "seq=6", "--input", "ids=ids.npy"],
        &["--model", "tokens.onnx", "--batch", "3", "--dim", "ids:1=7", "--dim", "mask:1=7"],
        &["--model", "half.onnx", "--batch", "5"],
        &["--model", "fixed.onnx", "--batch", "1", "--optimize", "none"],
        &["--model", "fixed.onnx", "--optimize", "extended", "--ep", "cpu"],
    ] {
        let (rows, _) = rows(&bench, arguments);
        assert!(rows[0].health.output_error.is_some_and(|error| error < 1e-3), "{arguments:?}");
    }
    let (rows, _) =
        rows(&bench, &["--model", "tokens.onnx", "--batch", "2", "--dim", "seq=6", "--input", "ids=ids.npy"]);
    assert!(rows[0].point.workload.ends_with(",seq=6,ids=ids.npy)"), "{}", rows[0].point.workload);
}

/// Throughput counts samples: a batch that the shapes contradict is refused.
#[test]
#[ignore = "needs Python's onnx and onnxruntime: .ci/run"]
fn the_batch_is_a_property_of_the_shapes() {
    let bench = bench();
    for (arguments, reason) in [
        (&["--model", "eight.onnx"][..], "input 'x' is fixed to a batch of 8, not 1: say --batch 8"),
        (&["--model", "eight.onnx", "--batch", "8,32"], "is fixed to a batch of 8, not 32"),
        (&["--model", "image.onnx", "--batch", "3"], "no dimension of the model's inputs is a batch"),
        (
            &["--model", "no-input.onnx", "--batch", "64"],
            "how many samples one inference is with --samples 64",
        ),
        (
            &["--model", "recurrent.onnx", "--batch", "1,8", "--dim", "length=9", "--dim", "batch=1"],
            "--batch 8",
        ),
        (&["--model", "mlp.onnx", "--samples", "4"], "is an open dimension of this model: say --batch 4"),
    ] {
        let ran = run(&bench, arguments);
        assert_eq!(ran.code, Some(2), "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(reason), "{arguments:?}: {}", ran.stderr);
    }
    for (arguments, batch, shapes) in [
        (&["--model", "eight.onnx", "--batch", "8"][..], 8, "x: f32 [8, 3, 8, 8]"),
        (&["--model", "image.onnx"], 1, "x: f32 [3, 64, 64]"),
        (&["--model", "image.onnx", "--samples", "3"], 3, "x: f32 [3, 64, 64]"),
        (&["--model", "no-input.onnx"], 1, ""),
        (
            &["--model", "recurrent.onnx", "--batch", "2", "--dim", "length=9"],
            2,
            "x: f32 [2, 9]; state: f32 [2, 2, 128]",
        ),
        (
            &["--model", "cached.onnx", "--batch", "2", "--dim", "past=0", "--dim", "seq=3"],
            2,
            "past: f32 [2, 0, 4]; x: f32 [2, 3, 4]",
        ),
    ] {
        let (rows, said) = rows(&bench, arguments);
        assert_eq!(rows[0].point.batch, batch, "{arguments:?}");
        assert!(said.contains(&format!("batch {batch}: {shapes}\n")), "{arguments:?}: {said}");
    }
}

#[test]
#[ignore = "needs Python's onnx and onnxruntime: .ci/run"]
fn outputs_that_are_no_numbers_are_a_warning() {
    let bench = bench();
    for model in ["nan.onnx", "inf.onnx"] {
        let (rows, _) = rows(&bench, &["--model", model]);
        // A model this small may drift, too.
        let codes = rows[0].outcome.warnings.codes();
        assert!(codes.contains("non-finite-output"), "{model}: {codes}");
    }
}

#[test]
#[ignore = "needs Python's onnx and onnxruntime: .ci/run"]
fn a_wrong_output_is_found() {
    let bench = bench();
    let ran = run(&bench, &["--model", "dice.onnx"]);
    assert_eq!(ran.code, Some(5), "{}", ran.stderr);
    let row = &bench.rows("a.csv")[0];
    assert_eq!(row.outcome.status, Status::Invalid);
    let error = row.outcome.error.as_deref().unwrap();
    assert_eq!(error, "wrong output: the output after the window is not the one before it");
    // An index beyond the table is the model's failure in the worker.
    let ran = run(&bench, &["--model", "tokens.onnx", "--dim", "seq=6", "--input", "ids=int:1000..1001"]);
    assert_eq!(ran.code, Some(5), "{}", ran.stderr);
    let error = bench.rows("a.csv")[0].outcome.error.clone().unwrap();
    assert!(error.contains("Gather") && error.contains("(at prepare)"), "{error}");
}

#[test]
#[ignore = "needs Python's onnx and onnxruntime: .ci/run"]
fn what_is_wrong_is_said_before_anything_runs() {
    let bench = bench();
    let newer = "can't be loaded, it is newer than ONNX Runtime 1.";
    let no_model = "can't be loaded, it is no ONNX model, or only a part of one";
    for (arguments, reason) in [
        (&["--model", "no.onnx"][..], "migbench: there is no model no.onnx"),
        (&["--model", "."], "cannot read ."),
        (&["--model", "junk.onnx"], no_model),
        (&["--model", "empty.onnx"], no_model),
        (&["--model", "half-a-file.onnx"], no_model),
        (&["--model", "new-opset.onnx"], newer),
        (&["--model", "new-ir.onnx"], newer),
        (&["--model", "tokens.onnx"], "dimension 'seq' of input 'ids' has no size: say --dim seq=SIZE"),
        (
            &["--model", "mlp.onnx", "--dim", "seq=5"],
            "the model has no open dimension 'seq', it has batch, x:0",
        ),
        (&["--model", "mlp.onnx", "--input", "z=int:0..5"], "the model has no input 'z', its inputs are x"),
        (&["--model", "mlp.onnx", "--input", "x=int:0..5"], "the input's elements are f32, not integers"),
        (&["--model", "mlp.onnx", "--batch", "2", "--input", "x=no.npy"], "cannot read no.npy"),
        (
            &["--model", "tokens.onnx", "--batch", "2", "--dim", "seq=6", "--input", "ids=floats.npy"],
            "floats.npy holds <f4, input 'ids' is i64 (i8 in NumPy)",
        ),
        (
            &["--model", "tokens.onnx", "--batch", "3", "--dim", "seq=6", "--input", "ids=ids.npy"],
            "ids.npy has the shape [2, 6], input 'ids' needs [3, 6]",
        ),
        (
            &["--model", "fixed.onnx", "--batch", "8"],
            "input 'x' is fixed to a batch of 1, not 8: say --batch 1",
        ),
        (&["--model", "text.onnx"], "input 'x' is of type Tensor<String>(batch), which migbench can't make"),
        (&["--model", "mlp.onnx", "--ep", "cuda"], "--ep cuda needs a GPU"),
        (
            &["--model", "mlp.onnx", "--ort-lib", "no.so"],
            "there is no no.so: install it with `pip install onnxruntime`",
        ),
        (&["--model", "mlp.onnx", "--ort-lib", "junk.onnx"], "junk.onnx can't be opened as a library"),
        (&["--model", "mlp.onnx", "--dim", "seq"], "write for example seq=128"),
        (&["--model", "mlp.onnx", "--input", "x=zeros"], "write random, int:0..30522 or FILE.npy"),
    ] {
        let ran = run(&bench, arguments);
        assert_eq!(ran.code, Some(2), "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(reason), "{arguments:?}: {}", ran.stderr);
    }
}

/// A GPU is asked for, the library has none: an error, never the CPU in its place.
#[test]
#[ignore = "needs Python's onnx and onnxruntime: .ci/run"]
fn a_provider_that_is_not_there_is_no_silent_fall_back() {
    let (bench, machine) = (bench(), Machine::named("h200-mixed"));
    let model = bench.path("mlp.onnx");
    let environment = python().parent().unwrap().parent().unwrap().to_str().unwrap().to_owned();
    for (more, reason) in [
        (&[][..], "was built without --ep cuda, it has cpu: install onnxruntime-gpu"),
        (&["--ep", "tensorrt"], "was built without --ep tensorrt, it has cpu"),
        (&["--ep", "cpu"], "--ep cpu would leave the GPU idle: add --device cpu"),
    ] {
        let arguments = [&["--model", model.to_str().unwrap()], more].concat();
        let ran = machine.run_with(&arguments, &[("VIRTUAL_ENV", &environment)]);
        assert_eq!(ran.code, Some(2), "{}", ran.stderr);
        assert!(ran.stderr.contains(reason), "{}", ran.stderr);
    }
}

/// A stand-in for the library's entry point, which names its version and gives nothing.
#[test]
fn a_library_that_is_too_old_is_named_with_its_version() {
    let bench = Bench::new();
    std::fs::write(bench.path("m.onnx"), "").unwrap();
    let library = library("libstandin_onnxruntime.so");
    let run = |version: &str| {
        let mut command = bench.command(&["--device", "cpu", "--model", "m.onnx", "-o", "a.csv"]);
        command.env("ORT_DYLIB_PATH", &library).env("MIGBENCH_STANDIN_ORT", version);
        ran(command.output().unwrap())
    };
    for version in ["1.16.3", "0.5.0", "2.0.0", "new"] {
        let ran = run(version);
        assert_eq!(ran.code, Some(2), "{}", ran.stderr);
        let reason = format!(
            "ONNX Runtime {version}, 1.17 or newer is needed: install it with `pip install onnxruntime`"
        );
        assert!(ran.stderr.contains(&reason), "{}", ran.stderr);
    }
    let nameless = run("null");
    assert_eq!(nameless.code, Some(2), "{}", nameless.stderr);
    assert!(
        nameless.stderr.contains("libstandin_onnxruntime.so does not say its version"),
        "{}",
        nameless.stderr
    );
    // A name without a folder is a file here, as everywhere else on the command line.
    std::fs::copy(&library, bench.path("libonnxruntime.so")).unwrap();
    let mut command = bench.command(&["--device", "cpu", "--model", "m.onnx", "-o", "a.csv"]);
    command.args(["--ort-lib", "libonnxruntime.so"]).env("MIGBENCH_STANDIN_ORT", "1.16.3");
    let named = ran(command.output().unwrap());
    assert!(
        named.stderr.contains("libonnxruntime.so is ONNX Runtime 1.16.3, 1.17 or newer is needed"),
        "{}",
        named.stderr
    );
    // New enough by its word, and yet without an interface: whatever happens, it is said.
    let ran = run("1.20.0");
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
    assert!(
        ran.stderr.starts_with("migbench: /") && ran.stderr.contains(" died while it read "),
        "{}",
        ran.stderr
    );
}

#[test]
fn without_the_library_the_message_says_how_to_get_it() {
    let bench = Bench::new();
    std::fs::write(bench.path("m.onnx"), "").unwrap();
    let mut command = bench.command(&["--device", "cpu", "--model", "m.onnx", "--ort-lib", "/no/lib.so"]);
    let ran = ran(command.output().unwrap());
    assert_eq!(ran.code, Some(2));
    assert!(
        ran.stderr.contains("or name its libonnxruntime.so with --ort-lib or ORT_DYLIB_PATH"),
        "{}",
        ran.stderr
    );
    for option in [&["--workload", "mlp"][..], &["--precision", "fp32"], &["--no-transfers"]] {
        let ran = bench.run(&[&["--model", "m.onnx"], option].concat());
        assert_eq!(ran.code, Some(2), "{}", ran.stderr);
        assert!(ran.stderr.contains("cannot be used with"), "{}", ran.stderr);
    }
    let ran = bench.run(&["--dim", "seq=5"]);
    assert!(ran.stderr.contains("--model <FILE>"), "{}", ran.stderr);
}
