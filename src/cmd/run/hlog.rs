//! The interval log of a sweep, written as its runs end.

use crate::measure::clock::{Clock, Monotonic};
use crate::results::export::{hlog_header, hlog_line, tag_of};
use crate::results::histogram::Reader;
use crate::sweep::group::Outcome;
use crate::sweep::plan::Run;
use anyhow::{Context, Result, bail};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// An open log.
pub struct Hlog {
    file: File,
    /// CLOCK_MONOTONIC of the log's base time, in ns.
    base: u64,
    reader: Reader,
}

impl Hlog {
    /// Says no where [`Hlog::open`] would, and touches nothing.
    ///
    /// # Errors
    /// The file exists, or there is no folder for it.
    pub fn refuse(path: &Path, force: bool) -> Result<()> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
            bail!("cannot create {}: there is no folder {}", path.display(), folder.display());
        }
        if path.exists() && !force {
            bail!("{} exists: --force overwrites it", path.display());
        }
        Ok(())
    }

    /// A new file; with `force` in place of an old one.
    ///
    /// # Errors
    /// It exists, or cannot be written.
    pub fn open(path: &Path, force: bool) -> Result<Hlog> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).create_new(!force);
        let mut file = options.open(path).with_context(|| format!("cannot create {}", path.display()))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        hlog_header(&mut file, now.as_secs_f64())?;
        Ok(Hlog { file, base: Monotonic.now(), reader: Reader::default() })
    }

    /// The intervals of a run's members, in one write.
    ///
    /// # Errors
    /// A worker sent what is no histogram, or the file does not take it.
    pub fn add(&mut self, run: &Run, outcomes: &[Outcome]) -> Result<()> {
        let mut text = Vec::new();
        for (member, outcome) in run.members.iter().zip(outcomes) {
            let job = &member.job;
            let instance = member.instance.uuid().unwrap_or("cpu");
            for interval in &outcome.intervals {
                let tag =
                    tag_of(instance, &job.workload, job.batch as u64, &job.load.to_string(), interval.metric);
                let histogram = crate::results::export::histogram(&mut self.reader, &interval.histogram)
                    .context("a worker's interval")?;
                let seconds = |ns: u64| ns as f64 / 1e9;
                let start = seconds(interval.start_ns.saturating_sub(self.base));
                let length = seconds(interval.end_ns.saturating_sub(interval.start_ns));
                hlog_line(&mut text, &tag, start, length, histogram.max(), &interval.histogram)?;
            }
        }
        self.file.write_all(&text).context("the interval log")
    }
}
