//! How long `check` and `compare` take on large files: `cargo bench --bench files`.
//!
//! Files are written below the system's folder for temporary files: about 2 GB for a million rows;
//! `cargo bench --bench files -- 100000` takes fewer.
#![allow(clippy::print_stdout, reason = "its lines are its output")]

mod simulate;

use clap::Parser;
use migbench::cli::Cli;
use migbench::results::{self, Row};
use simulate::{Random, batches, measured, template};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Instant;

fn main() {
    let rows = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(1_000_000);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let own = path("own.csv");
    own_file(&own, rows, true);
    time("check, own rows with histograms", &own, &["check", own.to_str().unwrap()]);
    let bare = path("bare.csv");
    own_file(&bare, rows, false);
    time("check, own rows without histograms (each a finding)", &bare, &["check", bare.to_str().unwrap()]);
    let other = path("other.csv");
    others_file(&other, rows);
    let columns = "latency=latency_ms,batch=batch_size,throughput=qps";
    time("check, another tool's rows", &other, &["check", other.to_str().unwrap(), "--columns", columns]);
    let (base, new) = (path("base.csv"), path("new.csv"));
    own_file(&base, 10_000, true);
    own_file(&new, 10_000, true);
    let arguments = ["compare", base.to_str().unwrap(), new.to_str().unwrap()];
    time("compare, 10,000 rows a side: 200 points, 10 rounds, 5 instances", &base, &arguments);
}

/// Rows of 200 points, 5 instances, the rest rounds. One measured row serves for every point.
fn own_file(path: &Path, rows: u64, histograms: bool) {
    let mut random = Random::new(1);
    let patterns: Vec<Row> = (0..50)
        .map(|i| {
            let run = 1.0 + 0.01 * random.normal();
            measured(mlp(i), &batches(&mut random, 5_000, 2e6 * run, 0.05, 0.5))
        })
        .collect();
    let mut out = BufWriter::new(File::create(path).unwrap());
    writeln!(out, "{}", results::header().join(",")).unwrap();
    for i in 0..rows {
        let (point, instance, round) = (i % 200, i / 200 % 5, i / 1000);
        let mut row = patterns[(i % 49) as usize].clone();
        row.provenance.repetition = round as u32 + 1;
        row.subject.instance.mig_uuid = template(1, instance as u32).subject.instance.mig_uuid;
        row.subject.instance.gi_id = Some(7 + instance as u32);
        // The columns that the batch enters by a factor.
        let factor = (point + 1) as f64 / row.point.batch as f64;
        row.point.batch = point + 1;
        let rates = &mut row.rates;
        for rate in [&mut rates.throughput, &mut rates.throughput_wall, &mut rates.tflops] {
            *rate = rate.map(|rate| rate * factor);
        }
        let network = row.point.workload.parse::<migbench::workload::Spec>().unwrap().network();
        let bytes = network
            .compulsory_bytes(row.point.batch as usize, row.point.precision.expect("of a built-in workload"));
        rates.gbytes_per_s = row.latency.mean.map(|mean| bytes / 1e9 / (mean / 1e3));
        if !histograms {
            row.histograms.latency = None;
        }
        row.seal();
        out.write_all(&results::line(&row)).unwrap();
    }
}

/// A small network: no batch of it is beyond the instance.
fn mlp(instance: u32) -> Row {
    let mut row = template(8, instance);
    row.point.workload = "mlp".into();
    row
}

fn others_file(path: &Path, rows: u64) {
    let mut random = Random::new(2);
    let mut out = BufWriter::new(File::create(path).unwrap());
    writeln!(out, "time,model,batch_size,latency_ms,qps").unwrap();
    for i in 0..rows {
        let (batch, latency) = (1 << (i % 8), 5.0 + random.uniform());
        writeln!(out, "{i},resnet50,{batch},{latency:.4},{:.2}", 1000.0 / latency * f64::from(batch))
            .unwrap();
    }
}

fn time(what: &str, file: &Path, arguments: &[&str]) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let cli = Cli::parse_from(["migbench"].iter().chain(arguments));
    let start = Instant::now();
    let exit = migbench::cmd::dispatch(cli, &mut out, &mut err);
    let seconds = start.elapsed().as_secs_f64();
    let megabytes = file.metadata().unwrap().len() / 1_000_000;
    let last = String::from_utf8_lossy(&out).lines().last().unwrap_or_default().to_owned();
    println!(
        "{what}: {seconds:.2} s, a file of {megabytes} MB, {exit:?}, peak memory of the process {} MB",
        peak()
    );
    println!("    {last}{}", String::from_utf8_lossy(&err));
}

/// VmHWM of this process, the generator included.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0) / 1024
}
