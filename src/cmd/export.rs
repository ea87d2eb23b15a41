//! `migbench export`: saved histograms in other tools' forms.

use super::fail;
use crate::analysis::rounds;
use crate::cli::Exit;
use crate::cli::export::{ExportArgs, ExportFormat, Which};
use crate::measure::intervals::Metric;
use crate::results::export::{Entry, entries, hgrm, hlog, json, merge};
use crate::results::output::claims::Claims;
use crate::results::output::{IfExists, OutputFile};
use crate::results::row::Status;
use crate::results::{Row, csv_file};
use anyhow::{Context, Result, bail};
use std::collections::HashSet;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::ptr::from_ref;

/// The verb.
pub fn run(args: &ExportArgs, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    match export(args, out, err) {
        Ok(()) => Exit::Ok,
        Err(error) => fail(&error, Exit::Usage, err),
    }
}

fn export(args: &ExportArgs, out: &mut dyn Write, err: &mut dyn Write) -> Result<()> {
    let metrics: &[Metric] = match args.metric {
        Which::Latency => &[Metric::Latency],
        Which::Response => &[Metric::Response],
        Which::All => &[Metric::Latency, Metric::Response],
    };
    let mut claims = Claims::default();
    args.files.iter().for_each(|file| claims.input("FILE", file));
    claims.output("--output", &args.output)?;
    let mut all = Vec::new();
    for file in &args.files {
        all.extend(read(file, args.merge, metrics, err)?);
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
    let if_exists = if args.force { IfExists::Replace } else { IfExists::Refuse };
    let mut file = BufWriter::new(OutputFile::create(&args.output, if_exists)?);
    let written = write(&mut file).and_then(|()| file.flush());
    written.with_context(|| format!("cannot write {}", args.output.display()))?;
    file.into_inner().map_err(|error| error.into_error())?.publish()
}

/// The histograms of a file. What is not ok or was measured again is in the file, and in no point's distribution.
fn read(file: &Path, merge: bool, metrics: &[Metric], err: &mut dyn Write) -> Result<Vec<Entry>> {
    let csv_file::Rows { rows, torn } = csv_file::read(file)?;
    let name = file.display();
    if torn {
        writeln!(err, "{name}: the last line has no newline and is left out")?;
    }
    let counted: HashSet<*const Row> = match merge {
        true => rounds::latest(&rows)
            .into_iter()
            .filter(|row| row.outcome.status == Status::Ok)
            .map(from_ref)
            .collect(),
        false => rows.iter().map(from_ref).collect(),
    };
    let (left_out, all) = (rows.len() - counted.len(), rows.len());
    if left_out > 0 {
        writeln!(err, "{name}: {left_out} of {all} rows not merged: not ok, or measured again since")?;
    }
    entries(&rows, |row| counted.contains(&from_ref(row)), metrics).with_context(|| name.to_string())
}
