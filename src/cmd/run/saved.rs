//! Where rows go, and what was there before.

use crate::cli::RunArgs;
use crate::machine::host;
use crate::results::Row;
use crate::results::csv_file;
use crate::results::environment::{new_run_id, now_compact};
use crate::results::rows_file::{IfExists, RowsOutput};
use crate::sweep::plan::Run;
use crate::sweep::resume;
use crate::sweep::rows::{self, Context};
use anyhow::{Context as _, Result, bail};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The open output and the rows of its file.
pub struct Saved {
    output: RowsOutput,
    /// The rows that the file had, as far as they are needed, and those of this sweep.
    pub rows: Vec<Row>,
    /// Rows from here on belong to this sweep.
    first: usize,
    /// The sweep's.
    pub run_id: String,
    /// This invocation's.
    pub session_id: String,
    resuming: bool,
    /// Whether the rows are where the user wants them.
    pub place: Place,
}

/// Where the rows of the sweep are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the file that the user named, or on standard output.
    AsAsked,
    /// In a fallback file.
    Fallback,
    /// Some of them are in no file.
    Nowhere,
}

impl Saved {
    /// Opens the file that the user named, or a new one in results/, or else in the folder for temporary
    /// files, and says so. Nothing in a file that exists is changed yet.
    ///
    /// # Errors
    /// The file cannot be written, or holds something else than is expected of it.
    pub fn open(args: &RunArgs, err: &mut dyn Write) -> Result<Saved> {
        let session_id = new_run_id();
        let place = Place::AsAsked;
        if let Some(path) = &args.resume {
            let (output, there) = RowsOutput::resume(path)?;
            let run_id = match &there.rows[..] {
                [] => session_id.clone(),
                [first, rest @ ..] => {
                    if rest.iter().any(|row| row.provenance.run_id != first.provenance.run_id) {
                        bail!(
                            "cannot resume {}: it holds several runs, and only a file with one can be resumed",
                            path.display()
                        );
                    }
                    first.provenance.run_id.clone()
                }
            };
            let rows = there.rows;
            return Ok(Saved { output, rows, first: 0, run_id, session_id, resuming: true, place });
        }
        let output = open_output(args, &session_id, err)?;
        let before = output.path().filter(|path| args.append && path.metadata().is_ok_and(|m| m.len() > 0));
        let rows =
            before.map_or_else(|| Ok(Vec::new()), |path| csv_file::read(path).map(|read| read.rows))?;
        let first = rows.len();
        Ok(Saved { output, rows, first, run_id: session_id.clone(), session_id, resuming: false, place })
    }

    /// The rows that the sweep had before this invocation.
    pub fn resumed(&self) -> &[Row] {
        if self.resuming { &self.rows } else { &[] }
    }

    /// Returns the planned runs that the file does not contain yet.
    ///
    /// # Errors
    /// The file belongs to another plan.
    pub fn remaining(&self, runs: Vec<Run>, context: &Context, retry_failed: bool) -> Result<Vec<Run>> {
        if !self.resuming {
            return Ok(runs);
        }
        let planned = |run: &Run, member: &_| rows::planned(context, run, member);
        let path = self.path().map(|path| path.display().to_string()).unwrap_or_default();
        resume::left(&runs, &self.rows, &planned, retry_failed)
            .with_context(|| format!("cannot resume {path}"))
    }

    /// Where the rows are; `None` for standard output.
    pub fn path(&self) -> Option<&Path> {
        self.output.path()
    }

    /// Makes the file ready for rows, as the last step before the first worker starts.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn begin(&mut self, err: &mut dyn Write) -> Result<()> {
        if let Some(note) = self.output.note() {
            let _ = writeln!(err, "{note}");
        }
        self.output.begin()
    }

    /// The first worker has shown that the run can start: a new file takes the place of an old one.
    pub fn publish(&mut self, err: &mut dyn Write) {
        if let Err(error) = self.output.publish() {
            self.fall_back(&error, err);
        }
    }

    /// Saves the rows of a run, in the fallback file if the output does not take them. Returns whether
    /// it makes sense to go on measuring.
    pub fn add(&mut self, rows: Vec<Row>, err: &mut dyn Write) -> bool {
        let appended = self.output.append(&rows);
        self.rows.extend(rows);
        match appended {
            Ok(()) => self.place != Place::Nowhere,
            Err(error) => self.fall_back(&error, err),
        }
    }

    /// Looks a last time whether all rows are where they were written.
    pub fn verify(&mut self, err: &mut dyn Write) {
        if self.place != Place::Nowhere
            && let Err(error) = self.output.verify()
        {
            self.fall_back(&error, err);
        }
    }

    /// The rows of this sweep.
    pub fn shown(&self) -> &[Row] {
        &self.rows[self.first..]
    }

    /// Writes all rows of the sweep to another file and goes on there. Returns whether the sweep goes on:
    /// nobody waits for the rest of what went to standard output.
    fn fall_back(&mut self, why: &anyhow::Error, err: &mut dyn Write) -> bool {
        let is_file = self.path().is_some();
        let rows = &self.rows[self.first..];
        let mut refused = Vec::new();
        for path in self.fallbacks() {
            match written_anew(&path, rows) {
                Ok(output) => {
                    let shown = path.display();
                    let _ = writeln!(err, "migbench: {why:#}: all rows of this run go to {shown}");
                    (self.output, self.place) = (output, Place::Fallback);
                    return is_file;
                }
                Err(error) => refused.push(format!("{error:#}")),
            }
        }
        let _ = writeln!(err, "migbench: {why:#}, and no other file can be written: {}", refused.join("; "));
        self.place = Place::Nowhere;
        false
    }

    /// Beside the file, and in the folder for temporary files.
    fn fallbacks(&self) -> Vec<PathBuf> {
        let path = self.path().unwrap_or(Path::new("migbench.csv"));
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        // Of a fallback file that was attacked itself, the name would grow.
        let name = format!("{stem}.rows-{}.csv", new_run_id());
        let beside = self.path().map(|path| path.with_file_name(&name));
        beside.into_iter().chain([std::env::temp_dir().join(&name)]).collect()
    }
}

/// A new file with these rows, or none.
fn written_anew(path: &Path, rows: &[Row]) -> Result<RowsOutput> {
    let mut output = RowsOutput::open(path, IfExists::Refuse)?;
    if let Err(error) = output.begin().and_then(|()| output.append(rows)) {
        let _ = std::fs::remove_file(path);
        return Err(error);
    }
    Ok(output)
}

fn open_output(args: &RunArgs, run_id: &str, err: &mut dyn Write) -> Result<RowsOutput> {
    let if_exists = match (args.force, args.append) {
        (true, _) => IfExists::Replace,
        (_, true) => IfExists::Append,
        _ => IfExists::Refuse,
    };
    if let Some(path) = &args.output {
        return RowsOutput::open(path, if_exists);
    }
    let name = format!("{}-{}-{run_id}.csv", now_compact(), host::name());
    let here = Path::new("results");
    let opened = std::fs::create_dir_all(here)
        .map_err(Into::into)
        .and_then(|()| RowsOutput::open(&here.join(&name), IfExists::Refuse));
    opened.or_else(|why: anyhow::Error| {
        let instead = std::env::temp_dir().join(&name);
        writeln!(
            err,
            "results/ can't be used ({why:#}): saving to {}; -o names another file",
            instead.display()
        )?;
        RowsOutput::open(&instead, IfExists::Refuse)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each file of the sweep in turn is removed after its last row.
    #[test]
    fn a_fallback_file_that_goes_away_loses_no_row() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        let mut saved = Saved {
            output: RowsOutput::open(&path, IfExists::Refuse).unwrap(),
            rows: Vec::new(),
            first: 0,
            run_id: String::new(),
            session_id: String::new(),
            resuming: false,
            place: Place::AsAsked,
        };
        let mut err = Vec::new();
        saved.begin(&mut err).unwrap();
        assert!(saved.add(vec![Row::default()], &mut err));
        for _ in 0..2 {
            std::fs::remove_file(saved.path().unwrap()).unwrap();
            saved.verify(&mut err);
            assert_eq!(saved.place, Place::Fallback);
            assert_eq!(csv_file::read(saved.path().unwrap()).unwrap().rows, [Row::default()]);
        }
    }
}
