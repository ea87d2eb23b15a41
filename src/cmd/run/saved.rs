//! Where rows go, and what was there before.

use crate::cli::RunArgs;
use crate::machine::host;
use crate::results::Row;
use crate::results::csv_file::{self, IfExists, Output};
use crate::results::environment::{new_run_id, now_compact};
use crate::sweep::plan::Run;
use crate::sweep::resume;
use crate::sweep::rows::{self, Context};
use anyhow::{Context as _, Result, bail};
use std::io::Write;
use std::path::Path;

/// The open output and the rows of its file.
pub struct Saved {
    /// Open.
    pub output: Output,
    /// All of the file's, as far as they were read: of a file that is added to, those before, too.
    pub rows: Vec<Row>,
    /// Those from here on belong to this sweep.
    first: usize,
    /// The sweep's.
    pub run_id: String,
    /// This invocation's.
    pub session_id: String,
    resuming: bool,
}

impl Saved {
    /// Opens what the user named, or a new file in results/, or else in the folder for temporary files, and says so.
    ///
    /// # Errors
    /// The file can't be written, or holds something else than is expected of it.
    pub fn open(args: &RunArgs, err: &mut dyn Write) -> Result<Saved> {
        let session_id = new_run_id();
        if let Some(path) = &args.resume {
            let (output, there) = Output::resume(path)?;
            let run_id = match &there.rows[..] {
                [] => session_id.clone(),
                [first, rest @ ..] => {
                    if rest.iter().any(|row| row.provenance.run_id != first.provenance.run_id) {
                        bail!(
                            "cannot resume {}: it holds several runs, and one is gone on with",
                            path.display()
                        );
                    }
                    first.provenance.run_id.clone()
                }
            };
            return Ok(Saved { output, rows: there.rows, first: 0, run_id, session_id, resuming: true });
        }
        let output = open_output(args, &session_id, err)?;
        let before = output.path().filter(|_| args.append);
        let rows =
            before.map_or_else(|| Ok(Vec::new()), |path| csv_file::read(path).map(|read| read.rows))?;
        let first = rows.len();
        Ok(Saved { output, rows, first, run_id: session_id.clone(), session_id, resuming: false })
    }

    /// The rows that the sweep had before this invocation.
    pub fn resumed(&self) -> &[Row] {
        if self.resuming { &self.rows } else { &[] }
    }

    /// What the file lacks of a plan.
    ///
    /// # Errors
    /// It is the file of another plan.
    pub fn left(&self, runs: Vec<Run>, context: &Context, retry_failed: bool) -> Result<Vec<Run>> {
        if !self.resuming {
            return Ok(runs);
        }
        let planned = |run: &Run, member: &_| rows::planned(context, run, member);
        let path = self.output.path().map(|path| path.display().to_string()).unwrap_or_default();
        resume::left(&runs, &self.rows, &planned, retry_failed)
            .with_context(|| format!("cannot resume {path}"))
    }

    /// Saves the rows of a run.
    ///
    /// # Errors
    /// The disk is full, or standard output closed.
    pub fn add(&mut self, rows: Vec<Row>) -> Result<()> {
        self.output.append(&rows)?;
        self.rows.extend(rows);
        Ok(())
    }

    /// The rows of this sweep.
    pub fn shown(&self) -> &[Row] {
        &self.rows[self.first..]
    }
}

fn open_output(args: &RunArgs, run_id: &str, err: &mut dyn Write) -> Result<Output> {
    let if_exists = match (args.force, args.append) {
        (true, _) => IfExists::Overwrite,
        (_, true) => IfExists::Append,
        _ => IfExists::Refuse,
    };
    if let Some(path) = &args.output {
        return Output::open(path, if_exists);
    }
    let name = format!("{}-{}-{run_id}.csv", now_compact(), host::name());
    let here = Path::new("results");
    let opened = std::fs::create_dir_all(here)
        .map_err(Into::into)
        .and_then(|()| Output::open(&here.join(&name), IfExists::Refuse));
    opened.or_else(|why: anyhow::Error| {
        let instead = std::env::temp_dir().join(&name);
        writeln!(
            err,
            "results/ can't be used ({why:#}): saving to {}; -o names another file",
            instead.display()
        )?;
        Output::open(&instead, IfExists::Refuse)
    })
}
