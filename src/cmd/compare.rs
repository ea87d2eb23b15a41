//! `migbench compare`: read both sides, compare, show in every form asked for.

use super::fail;
use crate::analysis::compare::noise::noise;
use crate::analysis::compare::{CAUSES, Comparison, Gate, KEY, Metric, Options, Outcome, compare};
use crate::cli::Exit;
use crate::cli::compare::{CompareArgs, FailOn};
use crate::render::compare::{csv, github, json, junit, markdown, table};
use crate::results::output::claims::Claims;
use crate::results::output::{IfExists, OutputFile};
use crate::results::{Row, csv_file};
use anyhow::{Context, Result, bail, ensure};
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

/// A form and its open file; `None` for standard output.
type Output = (Form, Option<OutputFile>);

/// Everything that can be wrong with the call, before anything is written.
fn prepare(args: &CompareArgs, err: &mut dyn Write) -> Result<(Comparison, Vec<Output>)> {
    let mut options = options(args)?;
    let (base_files, new_files) = (files(&args.base)?, files(&args.new)?);
    let noise_files = args.noise.as_deref().map(files).transpose()?;
    let inputs = [("BASE", Some(&base_files)), ("NEW", Some(&new_files)), ("--noise", noise_files.as_ref())];
    let outputs = outputs(args, &inputs)?;
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
    let mut found = compare(&base, &new, &options);
    for (side, lines) in [("BASE", unread_base), ("NEW", unread_new), ("the noise file", unread_noise)] {
        found.add_unread(side, lines);
    }
    Ok((found, outputs))
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

/// Opens the files that `--output` names. None of them may be an input.
fn outputs(args: &CompareArgs, inputs: &[(&str, Option<&Vec<PathBuf>>)]) -> Result<Vec<Output>> {
    let mut claims = Claims::default();
    for (option, files) in inputs {
        files.iter().for_each(|files| files.iter().for_each(|file| claims.input(option, file)));
    }
    if let Some(path) = args.github_summary.as_ref().filter(|path| args.github && !path.is_empty()) {
        claims.output("GITHUB_STEP_SUMMARY", Path::new(path))?;
    }
    let if_exists = if args.force { IfExists::Replace } else { IfExists::Refuse };
    let mut named = Vec::new();
    for text in &args.output {
        let Some((name, file)) = text.split_once('=') else {
            bail!("--output '{text}' is not FORM=FILE, for example markdown=comment.md")
        };
        let form = match name {
            "table" => Form::Table,
            "markdown" => Form::Markdown,
            "junit" => Form::Junit,
            "json" => Form::Json,
            "csv" => Form::Csv,
            _ => bail!("--output: '{name}' is none of table, markdown, junit, json, csv"),
        };
        claims.output(&format!("--output {name}"), Path::new(file))?;
        named.push((form, Path::new(file)));
    }
    let open = |(form, file)| match file == Path::new("-") {
        true => Ok((form, None)),
        false => Ok((form, Some(OutputFile::create(file, if_exists)?))),
    };
    named.into_iter().map(open).collect()
}

/// Writes every form; the table goes to standard output unless another form does. An output that cannot
/// be written does not keep the others from being complete.
fn show(
    found: &Comparison,
    outcome: Outcome,
    outputs: Vec<Output>,
    args: &CompareArgs,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<()> {
    let (files, streams): (Vec<Output>, Vec<Output>) =
        outputs.into_iter().partition(|(_, file)| file.is_some());
    let mut written = Ok(());
    for (form, file) in files {
        written = written.and(file.map_or(Ok(()), |file| save(form, file, found, outcome)));
    }
    if args.github {
        written = written.and(summarise(found, args, err));
    }
    if streams.is_empty() {
        written = written.and(table::write(out, found).map_err(Into::into));
    }
    for (form, _) in streams {
        written = written.and(write(form, out, found, outcome));
    }
    if args.github {
        written = written.and(github::write(out, found).map_err(Into::into));
    }
    written
}

fn save(form: Form, file: OutputFile, found: &Comparison, outcome: Outcome) -> Result<()> {
    let shown = file.path().display().to_string();
    let mut writer = BufWriter::new(file);
    let written = write(form, &mut writer, found, outcome).and_then(|()| Ok(writer.flush()?));
    written.with_context(|| format!("cannot write {shown}"))?;
    writer.into_inner().map_err(|error| error.into_error())?.publish()
}

/// Adds the comparison to the step summary of GitHub Actions.
fn summarise(found: &Comparison, args: &CompareArgs, err: &mut dyn Write) -> Result<()> {
    let Some(path) = args.github_summary.as_ref().filter(|path| !path.is_empty()) else {
        writeln!(err, "warning: --github without GITHUB_STEP_SUMMARY: there is no step summary to write to")?;
        return Ok(());
    };
    let context = || format!("cannot add to the step summary {path}");
    let mut file = BufWriter::new(OutputFile::append(Path::new(path)).with_context(context)?);
    markdown::write(&mut file, found).and_then(|()| file.flush()).with_context(context)
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
