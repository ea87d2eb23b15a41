//! The interval log of a sweep, written as its runs end.

use crate::measure::clock::{Clock, Monotonic};
use crate::results::export::{hlog_header, hlog_line, tag_of};
use crate::results::histogram::Reader;
use crate::results::output::{IfExists, OutputFile};
use crate::sweep::group::Outcome;
use crate::sweep::plan::Run;
use anyhow::{Context, Result};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// An open log.
pub struct Hlog {
    output: OutputFile,
    /// CLOCK_MONOTONIC of the log's base time, in ns.
    base: u64,
    reader: Reader,
}

impl Hlog {
    /// A new file; with `force` in place of an old one, which stays until the first intervals are
    /// written.
    ///
    /// # Errors
    /// The file exists, or cannot be written.
    pub fn open(path: &Path, force: bool) -> Result<Hlog> {
        let if_exists = if force { IfExists::Replace } else { IfExists::Refuse };
        let output = OutputFile::create(path, if_exists)?;
        Ok(Hlog { output, base: Monotonic.now(), reader: Reader::default() })
    }

    /// Writes the header. To be called before the first worker starts.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn begin(&mut self) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut header = Vec::new();
        hlog_header(&mut header, now.as_secs_f64())?;
        self.base = Monotonic.now();
        self.write(&header)
    }

    /// Puts the log in the place of an old one.
    ///
    /// # Errors
    /// The old file can be neither replaced nor overwritten.
    pub fn publish(&mut self) -> Result<()> {
        self.output.publish()
    }

    /// Writes the intervals of a run's members, all or none of them.
    ///
    /// # Errors
    /// A worker sent something that is no histogram, or the file cannot be written.
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
        self.write(&text)
    }

    fn write(&mut self, text: &[u8]) -> Result<()> {
        let written = self.output.write_whole(text);
        written.with_context(|| format!("cannot write {}", self.output.path().display()))
    }
}
