//! What is known of a program that has ended without a word: the file that it left behind, or only how
//! long it ran.

use crate::machine::file as input;
use crate::measure::recorder::{Recorder, Recording};
use crate::workload::Stages;
use crate::workload::command::trtexec::{self, Trace};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;
use std::time::SystemTime;

/// Stages of so many batches fit into one message; of more, evenly spread ones are taken.
const MOST_STAGES: usize = 50_000;

/// The longest file that is read: ten million batches take about that.
const MOST_BYTES: u64 = 2 << 30;

/// The window of such a program.
pub struct Imported {
    /// Its batches.
    pub latency: Recording,
    /// Their stages.
    pub stages: Vec<Stages>,
    /// Batches of a warm-up that the file holds, too; they are left out.
    pub warmup_batches: u64,
    /// Batches under way at once, where a file says it.
    pub inflight: Option<u32>,
    /// The file's time stamps are coarse.
    pub is_coarse: bool,
}

impl Imported {
    /// One batch, from the program's start to its end.
    pub fn whole(start: u64, end: u64) -> Imported {
        let mut recorder = Recorder::new();
        recorder.open(start);
        recorder.record(start, end);
        Imported {
            latency: recorder.finish(),
            stages: Vec::new(),
            warmup_batches: 0,
            inflight: None,
            is_coarse: false,
        }
    }

    /// The batches of a trace. Its clock is not ours: the last batch is taken to have ended with the
    /// program, at `end`, but none to have begun before its `start`.
    fn trace(trace: &Trace, start: u64, end: u64) -> Result<Imported> {
        let length = trace.batches.last().map_or(0, |batch| batch.done) + trace.stretch;
        ensure!(
            length <= end - start,
            "its batches take {:.3} s, and the program ran for {:.3} s: it is the file of another run",
            length as f64 / 1e9,
            (end - start) as f64 / 1e9
        );
        let origin = end - length;
        let mut recorder = Recorder::new();
        recorder.open(origin);
        let first = origin + trace.stretch;
        for batch in &trace.batches {
            recorder.record(first + batch.issued, first + batch.done);
        }
        let every = trace.batches.len().div_ceil(MOST_STAGES);
        let stages = trace.batches.iter().step_by(every).map(|batch| batch.stages).collect();
        Ok(Imported {
            latency: recorder.finish(),
            stages,
            warmup_batches: trace.warmup_batches,
            inflight: Some(trace.inflight),
            is_coarse: trace.is_coarse,
        })
    }
}

/// When a file was written last; none if it is not there.
pub fn written(file: &str) -> Option<SystemTime> {
    fs::metadata(file).and_then(|data| data.modified()).ok()
}

/// The file that trtexec, called with these arguments, wrote while it ran from `start` to `end`, ns on
/// CLOCK_MONOTONIC; `before` is when it had been written when the program was started.
///
/// # Errors
/// It is not there, was there already, or is not trtexec's.
pub fn read(
    file: &str,
    arguments: &[String],
    before: Option<SystemTime>,
    start: u64,
    end: u64,
) -> Result<Imported> {
    let after = written(file);
    ensure!(
        after.is_some(),
        "the program left no {file}: give trtexec --exportTimes={file}, as --import has it"
    );
    ensure!(
        after != before,
        "{file} was there before and is unchanged: give trtexec --exportTimes={file}, as --import has it"
    );
    let text = input::bytes(Path::new(file), MOST_BYTES)?;
    let trace = trtexec::parse(&text, trtexec::warm_up_ms(arguments))
        .with_context(|| format!("cannot import {file}"))?;
    Imported::trace(&trace, start, end).with_context(|| format!("cannot import {file}"))
}
