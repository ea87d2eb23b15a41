//! `migbench export`: saved histograms in other tools' forms.

use super::fail;
use crate::cli::Exit;
use crate::cli::export::{ExportArgs, ExportFormat, Which};
use crate::measure::intervals::Metric;
use crate::results::csv_file;
use crate::results::export::{entries, hgrm, hlog, json, merge};
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// The verb.
pub fn run(args: &ExportArgs, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    match export(args, out) {
        Ok(()) => Exit::Ok,
        Err(error) => fail(&error, Exit::Usage, err),
    }
}

fn export(args: &ExportArgs, out: &mut dyn Write) -> Result<()> {
    let metrics: &[Metric] = match args.metric {
        Which::Latency => &[Metric::Latency],
        Which::Response => &[Metric::Response],
        Which::All => &[Metric::Latency, Metric::Response],
    };
    let mut all = Vec::new();
    for file in &args.files {
        let rows = csv_file::read(file)?.rows;
        all.extend(entries(&rows, metrics).with_context(|| file.display().to_string())?);
    }
    if all.is_empty() {
        bail!("no row there has such a histogram");
    }
    if args.merge {
        all = merge(all);
    }
    let write = |out: &mut dyn Write| match args.format {
        ExportFormat::Hlog => hlog(out, &all),
        ExportFormat::Hgrm => hgrm(out, &all),
        ExportFormat::Json => json(out, &all),
    };
    if args.output == Path::new("-") {
        return Ok(write(out)?);
    }
    let name = || format!("cannot write {}", args.output.display());
    let mut file = BufWriter::new(File::create(&args.output).with_context(name)?);
    write(&mut file).and_then(|()| file.flush()).with_context(name)
}
