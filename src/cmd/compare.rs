//! `migbench compare`: read both sides, compare, show in every form asked for.

use super::fail;
use crate::analysis::compare::noise::noise;
use crate::analysis::compare::{CAUSES, Comparison, Gate, KEY, Metric, Options, Outcome, compare};
use crate::cli::Exit;
use crate::cli::compare::{CompareArgs, FailOn};
use crate::render::compare::{csv, github, json, junit, markdown, table};
use crate::results::{Row, csv_file};
use anyhow::{Context, Result, bail, ensure};
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// The verb.
pub fn run(args: &CompareArgs, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    let (found, outputs) = match prepare(args, err) {
        Ok(prepared) => prepared,
        // Rows that can't be read are rows that are missing.
        Err(error) if error.is::<csv_file::Damaged>() => return fail(&error, Exit::Incomplete, err),
        Err(error) => return fail(&error, Exit::Usage, err),
    };
    let outcome = found.outcome(args.fail_on == Some(FailOn::Inconclusive));
    match show(&found, outcome, outputs, args, out, err) {
        Ok(()) => match outcome {
            Outcome::Pass => Exit::Ok,
            Outcome::Regression => Exit::Regression,
            Outcome::Inconclusive => Exit::Inconclusive,
            Outcome::Incomplete => Exit::Incomplete,
        },
        Err(error) => fail(&error, Exit::Internal, err),
    }
}

/// A form of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Table,
    Markdown,
    Junit,
    Json,
    Csv,
}

/// A form and its open file; none for standard output.
type Output = (Form, Option<(PathBuf, File)>);

/// Everything that can be wrong with the call, before anything is written.
fn prepare(args: &CompareArgs, err: &mut dyn Write) -> Result<(Comparison, Vec<Output>)> {
    let mut options = options(args)?;
    let (base_files, new_files) = (files(&args.base)?, files(&args.new)?);
    let noise_files = args.noise.as_deref().map(files).transpose()?;
    let (base, unread_base) = rows(&base_files)?;
    let (new, unread_new) = rows(&new_files)?;
    let mut unread_noise = Vec::new();
    if let Some(files) = noise_files {
        let (rows, unread) = rows(&files)?;
        unread_noise = unread;
        let metrics: Vec<&Metric> = options.gates.iter().map(|gate| gate.metric).collect();
        let (noise, problems) = noise(&rows, &metrics, &options.allow_mismatch);
        for problem in problems {
            writeln!(err, "warning: {}", problem.text)?;
        }
        options.noise = Some(noise);
    }
    // Not before there is something to write: a report that is empty says less than none.
    let mut found = compare(&base, &new, &options);
    for (side, lines) in [("BASE", unread_base), ("NEW", unread_new), ("the noise file", unread_noise)] {
        found.add_unread(side, lines);
    }
    Ok((found, outputs(args)?))
}

fn options(args: &CompareArgs) -> Result<Options> {
    let gates = match args.gate.as_slice() {
        [] => Gate::defaults(),
        given => given.iter().map(|text| Gate::parse(text)).collect::<Result<Vec<_>>>()?,
    };
    for (i, gate) in gates.iter().enumerate() {
        let twice = gates[..i].iter().any(|other| other.metric.name == gate.metric.name);
        ensure!(!twice, "--gate names {} twice", gate.metric.name);
    }
    let known = |option: &str, names: &[String], known: &[&str]| -> Result<()> {
        for name in names {
            ensure!(known.contains(&name.as_str()), "{option}: '{name}' is none of {}", known.join(", "));
        }
        Ok(())
    };
    let keys: Vec<&str> = KEY.iter().map(|column| column.name).chain(["instances"]).collect();
    let causes: Vec<&str> = CAUSES.iter().map(|column| column.name).collect();
    known("--allow-mismatch", &args.allow_mismatch, &keys)?;
    known("--require-same", &args.require_same, &causes)?;
    Ok(Options {
        gates,
        floor_ms: args.floor.map(|ns| ns as f64 / 1e6),
        allow_mismatch: args.allow_mismatch.clone(),
        require_same: args.require_same.clone(),
        allow_unreplicated: args.allow_unreplicated,
        noise: None,
    })
}

/// The files that a name or pattern stands for, sorted.
fn files(pattern: &str) -> Result<Vec<PathBuf>> {
    let literal = Path::new(pattern);
    if literal.exists() || !pattern.contains(['*', '?', '[']) {
        return Ok(vec![literal.to_owned()]);
    }
    let found = glob::glob(pattern).with_context(|| format!("'{pattern}' is no pattern of file names"))?;
    let mut files =
        found.collect::<Result<Vec<_>, _>>().with_context(|| format!("cannot look for '{pattern}'"))?;
    ensure!(!files.is_empty(), "no file is named '{pattern}'");
    files.sort();
    Ok(files)
}

/// Of one file this many lines that hold no row are told one by one.
const MOST_UNREAD: usize = 20;

/// Rows without their histograms, which a comparison does not use; and what could not be read.
fn rows(files: &[PathBuf]) -> Result<(Vec<Row>, Vec<String>)> {
    let (mut rows, mut all_unread) = (Vec::new(), Vec::new());
    for file in files {
        let (mut unread, mut further) = (Vec::new(), 0_u64);
        csv_file::scan_what_can_be_read(
            file,
            &mut |mut row| {
                row.histograms = Default::default();
                rows.push(row);
            },
            &mut |line| if unread.len() < MOST_UNREAD { unread.push(line) } else { further += 1 },
        )?;
        if further > 0 {
            unread.push(format!("{}: {further} further lines can't be read", file.display()));
        }
        all_unread.append(&mut unread);
    }
    Ok((rows, all_unread))
}

/// Opens what `--output` names.
fn outputs(args: &CompareArgs) -> Result<Vec<Output>> {
    let open = |text: &String| -> Result<Output> {
        let Some((form, file)) = text.split_once('=') else {
            bail!("--output '{text}' is not FORM=FILE, as markdown=comment.md")
        };
        let form = match form {
            "table" => Form::Table,
            "markdown" => Form::Markdown,
            "junit" => Form::Junit,
            "json" => Form::Json,
            "csv" => Form::Csv,
            _ => bail!("--output: '{form}' is none of table, markdown, junit, json, csv"),
        };
        if file == "-" {
            return Ok((form, None));
        }
        let mut options = OpenOptions::new();
        options.write(true);
        if args.force {
            options.create(true).truncate(true)
        } else {
            options.create_new(true)
        };
        let opened = options.open(file).with_context(|| match args.force {
            true => format!("cannot write {file}"),
            false => format!("cannot create {file} (--force overwrites)"),
        })?;
        Ok((form, Some((file.into(), opened))))
    };
    args.output.iter().map(open).collect()
}

/// Writes every form; the table goes to standard output unless another form does.
fn show(
    found: &Comparison,
    outcome: Outcome,
    outputs: Vec<Output>,
    args: &CompareArgs,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<()> {
    if outputs.iter().all(|(_, file)| file.is_some()) {
        table::write(out, found)?;
    }
    for (form, file) in outputs {
        match file {
            None => write(form, out, found, outcome)?,
            Some((path, file)) => {
                let mut writer = BufWriter::new(file);
                let written = write(form, &mut writer, found, outcome).and_then(|()| Ok(writer.flush()?));
                written.with_context(|| format!("cannot write {}", path.display()))?;
            }
        }
    }
    if !args.github {
        return Ok(());
    }
    github::write(out, found)?;
    let Some(path) = args.github_summary.as_ref().filter(|path| !path.is_empty()) else {
        writeln!(err, "warning: --github without GITHUB_STEP_SUMMARY: there is no step summary to write to")?;
        return Ok(());
    };
    let context = || format!("cannot add to the step summary {path}");
    let mut file = OpenOptions::new().create(true).append(true).open(path).with_context(context)?;
    markdown::write(&mut file, found).with_context(context)
}

fn write(form: Form, out: &mut dyn Write, found: &Comparison, outcome: Outcome) -> Result<()> {
    match form {
        Form::Table => table::write(out, found)?,
        Form::Markdown => markdown::write(out, found)?,
        Form::Junit => junit::write(out, found)?,
        Form::Json => json::write(out, found, outcome)?,
        Form::Csv => csv::write(out, found)?,
    }
    Ok(())
}
