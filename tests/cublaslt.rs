//! `--gemm cublaslt` of the real program on the stand-ins: the option, its row, and what becomes of a row
//! when the library is missing or fails.

mod common;

use common::error;
use common::standin::{Machine, library};
use migbench::results::Row;
use migbench::results::row::Status;
use migbench::workload::Gemm;
use std::os::unix::fs::symlink;

/// A machine with the library of this name among the loader's.
fn machine(name: &str, file: &str) -> Machine {
    let machine = Machine::named(name);
    symlink(library("libstandin_cublaslt.so"), machine.bench.path("lib").join(file)).unwrap();
    machine
}

/// The only row of a short run, and the exit code.
fn one(machine: &Machine, more: &[&str]) -> (i32, Row) {
    one_with(machine, more, &[])
}

fn one_with(machine: &Machine, more: &[&str], variables: &[(&str, &str)]) -> (i32, Row) {
    let uuid = machine.topology.gpus[0].mig_devices[0].uuid.clone();
    let short = ["--uuid", &uuid, "--batches", "20", "-q", "-o", "a.csv", "--force", "--allow-busy"];
    let batch: &[&str] = if more.contains(&"--batch") { &[] } else { &["--batch", "4"] };
    // No Python: what it has of NVIDIA's would be found.
    let variables =
        [&[("PATH", "/nonexistent"), ("VIRTUAL_ENV", ""), ("CONDA_PREFIX", "")], variables].concat();
    let ran = machine.run_with(&[&short[..], batch, more].concat(), &variables);
    assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    let mut rows = machine.bench.rows("a.csv");
    assert_eq!(rows.len(), 1, "{}", ran.stderr);
    (ran.code.unwrap(), rows.remove(0))
}

#[test]
fn the_row_says_who_computed_how_many_products() {
    let machine = machine("h200-mixed", "libcublasLt.so.13");
    let cublaslt = ["--gemm", "cublaslt", "--workload"];
    for (workload, more, version) in [
        ("bert-tiny", &[][..], "13.0.2 (6 of 9)"),
        ("bert-tiny", &["--precision", "fp32", "--inflight", "2"], "13.0.2 (6 of 9)"),
        ("mlp", &["--no-graph", "--precision", "bf16"], "13.0.2 (3 of 3)"),
        ("resnet50", &["--batch", "3"], "13.0.2 (34 of 54)"),
        ("gemm(m=40,n=24,k=56)", &[], "13.0.2 (1 of 1)"),
        ("llama-prefill(size=tiny,seq_len=9)", &["--extra-work-us", "5"], "13.0.2 (7 of 9)"),
    ] {
        let (code, row) = one(&machine, &[&cublaslt[..], &[workload], more].concat());
        assert_eq!((code, row.outcome.status), (0, Status::Ok), "{workload} {more:?}: {}", error(&row));
        assert_eq!(row.point.gemm, Some(Gemm::Cublaslt));
        assert_eq!(row.provenance.gemm_version.as_deref(), Some(version), "{workload}");
        // A product alone copies nothing, for which the stand-in's events show no time.
        let checked = machine.bench.run(&["check", "a.csv"]).stdout;
        assert!(checked.contains("all hold together") || workload.starts_with("gemm"), "{checked}");
    }
}

/// The two are different points: `compare` does not take one for a change of the other.
#[test]
fn the_kernels_are_the_default_and_another_point() {
    let machine = machine("h200-mixed", "libcublasLt.so.13");
    let mlp = ["--workload", "mlp", "--gemm"];
    let (_, by_library) = one(&machine, &[&mlp[..], &["cublaslt"]].concat());
    let (_, asked) = one(&machine, &[&mlp[..], &["builtin"]].concat());
    let (_, plain) = one(&machine, &["--workload", "mlp"]);
    for row in [&asked, &plain] {
        assert_eq!((row.point.gemm, row.provenance.gemm_version.as_deref()), (None, None));
        assert_eq!(row.provenance.point_id, plain.provenance.point_id);
    }
    assert_ne!(by_library.provenance.point_id, plain.provenance.point_id);
}

/// The newest that the driver can run, of those that the loader finds.
#[test]
fn a_library_for_a_newer_driver_is_left_alone() {
    let gemm = ["--workload", "mlp", "--gemm", "cublaslt"];
    let (code, row) = one(&machine("a100-1c-2c", "libcublasLt.so.12"), &gemm);
    assert_eq!((code, error(&row)), (0, ""));
    // A driver of CUDA 12.4.
    let (code, row) = one(&machine("a100-1c-2c", "libcublasLt.so.13"), &gemm);
    if libcublaslt_of_this_machine().is_none() {
        assert_eq!((code, row.outcome.status), (5, Status::Failed));
        let names = "the loader finds no libcublasLt.so.12, libcublasLt.so.11 (LD_LIBRARY_PATH is '/";
        assert!(error(&row).contains(names), "{}", error(&row));
    }
}

/// A real one that the loader finds without any help of LD_LIBRARY_PATH.
fn libcublaslt_of_this_machine() -> Option<libloading::Library> {
    // SAFETY: NVIDIA's own library, if it is there.
    let open = |name| unsafe { libloading::Library::new(name) }.ok();
    ["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so.11"].into_iter().find_map(open)
}

#[test]
fn a_missing_library_says_where_was_looked_and_what_to_do() {
    let machine = Machine::named("h200-mixed");
    let gemm = ["--workload", "mlp", "--gemm", "cublaslt"];
    if libcublaslt_of_this_machine().is_none() {
        let (code, row) = one(&machine, &gemm);
        assert_eq!((code, row.outcome.status), (5, Status::Failed));
        for part in
            ["cuBLASLt was not found", "LD_LIBRARY_PATH is '/", "Python has no", "pip install nvidia-cublas"]
        {
            assert!(error(&row).contains(part), "{part}: {}", error(&row));
        }
    }
    // What is named and can't be opened, and what is no such library.
    let other = library("libstandin_cuda.so");
    for (file, expected) in [
        ("/nonexistent/libcublasLt.so", "MIGBENCH_CUBLASLT names /nonexistent/libcublasLt.so: "),
        (other.to_str().unwrap(), "is not cuBLASLt, it has no cublasLtGetVersion"),
    ] {
        let (code, row) = one_with(&machine, &gemm, &[("MIGBENCH_CUBLASLT", file)]);
        assert_eq!((code, row.outcome.status), (5, Status::Failed));
        assert!(error(&row).contains(expected), "{}", error(&row));
    }
    let named = library("libstandin_cublaslt.so");
    let (code, _) = one_with(&machine, &gemm, &[("MIGBENCH_CUBLASLT", named.to_str().unwrap())]);
    assert_eq!(code, 0);
}

/// Python's packages have it below nvidia/*/lib, and a file that is broken there is said to be.
#[test]
fn pythons_packages_are_looked_into() {
    use std::os::unix::fs::PermissionsExt;
    if libcublaslt_of_this_machine().is_some() {
        return;
    }
    let machine = Machine::named("h200-mixed");
    let package = machine.bench.path("site/nvidia");
    let python = machine.bench.path("env/bin/python3");
    machine.write("env/bin/python3", &format!("#!/bin/sh\necho {}\n", package.display()));
    std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).unwrap();
    let environment = machine.bench.path("env");
    let gemm = ["--workload", "mlp", "--gemm", "cublaslt"];
    let run = || one_with(&machine, &gemm, &[("VIRTUAL_ENV", environment.to_str().unwrap())]);

    machine.write("site/nvidia/cu13/lib/libcublasLt.so.13", "no library");
    let (code, row) = run();
    assert_eq!(code, 5);
    let folder = package.join("cu13/lib").display().to_string();
    assert!(error(&row).contains(&format!("nor is it in Python's {folder}; ")), "{}", error(&row));
    assert!(error(&row).contains("libcublasLt.so.13: "), "{}", error(&row));

    std::fs::create_dir_all(package.join("cublas/lib")).unwrap();
    symlink(library("libstandin_cublaslt.so"), package.join("cublas/lib/libcublasLt.so.12")).unwrap();
    let (code, row) = run();
    assert_eq!((code, error(&row)), (0, ""));
}

#[test]
fn a_call_that_fails_becomes_a_reason() {
    let gemm = ["--workload", "mlp", "--gemm", "cublaslt"];
    let mut machine = machine("h200-mixed", "libcublasLt.so.13");
    for (faults, expected) in [
        ("cublasLtCreate = 1", "cuBLASLt 13.0.2: cublasLtCreate: CUBLAS_STATUS_NOT_INITIALIZED (1): is it"),
        ("cublasLtMatmulDescCreate = 3", "cublasLtMatmulDescCreate: CUBLAS_STATUS_ALLOC_FAILED (3)"),
        ("cublasLtMatmulDescSetAttribute after 1 = 7", "CUBLAS_STATUS_INVALID_VALUE (7)"),
        ("cublasLtMatrixLayoutCreate = 14", "cublasLtMatrixLayoutCreate: CUBLAS_STATUS_INTERNAL_ERROR (14)"),
        ("cublasLtMatmulPreferenceSetAttribute = 77", "cublasLtMatmulPreferenceSetAttribute: status 77"),
        ("cublasLtMatmulAlgoGetHeuristic = lie none", "for a product of 4 x 4096 x 1024: cublasLtMatmulAlgo"),
        ("cublasLtMatmul = 13", "cublasLtMatmul: CUBLAS_STATUS_EXECUTION_FAILED (13)"),
        ("cublasLtMatmul after 4 = 13", "(at prepare)"),
        ("cublasLtMatmul = crash", "the worker"),
        ("cublasLtGetVersion = lie 10202", "is version 10202 of cuBLASLt, 11.0 (110000) or newer is needed"),
        ("cuMemGetInfo_v2 = 2", "cuMemGetInfo_v2"),
    ] {
        machine = machine.faults(faults);
        let (code, row) = one(&machine, &gemm);
        assert_eq!((code, row.outcome.status), (5, Status::Failed), "{faults}");
        assert!(error(&row).contains(expected), "{faults}: {}", error(&row));
    }
}

/// The workspace of each lane counts: 4 x 32 MiB, where 152 MB are free and 85 MB are needed without.
#[test]
fn the_workspace_is_part_of_what_must_fit() {
    let machine = machine("h200-mixed", "libcublasLt.so.13");
    // What the stand-in's context leaves of what the stand-in has of NVML's number.
    let all = (machine.topology.gpus[0].mig_devices[0].memory_mib.unwrap() << 20) / 100 * 99 - (500 << 20);
    let machine = machine.faults(&format!("taken_bytes = {}", all - 152_000_000));
    let mlp = ["--workload", "mlp", "--inflight", "4"];
    let (code, row) = one(&machine, &mlp);
    assert_eq!((code, error(&row)), (0, ""));
    let (code, row) = one(&machine, &[&mlp[..], &["--gemm", "cublaslt"]].concat());
    assert_eq!((code, row.outcome.status), (5, Status::Failed));
    assert!(error(&row).contains("with 4 in flight needs 0.2 GB"), "{}", error(&row));
}

#[test]
fn what_has_no_use_for_it_is_refused() {
    let machine = machine("h200-mixed", "libcublasLt.so.13");
    for (more, expected) in [
        (&["--device", "cpu"][..], "--gemm cublaslt is for GPUs"),
        (&["--workload", "stream"], "stream(mib=256) has no matrix products"),
        (&["--workload", "mlp", "--workload", "null"], "null has no matrix products"),
        (&["--", "/bin/true"], "cannot be used with"),
    ] {
        let ran = machine.run(&[&["--gemm", "cublaslt", "-o", "a.csv"], more].concat());
        assert_eq!(ran.code, Some(2), "{more:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(expected), "{more:?}: {}", ran.stderr);
    }
}
