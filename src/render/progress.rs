//! Progress on standard error: a line for each worker on a terminal, a plain line every few seconds
//! elsewhere, where indicatif shows nothing at all.

use crate::sweep::estimate::Span;
use crate::sweep::group::Stage;
use crate::sweep::plan::Run;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::io::Write;
use std::time::{Duration, Instant};

/// Between two plain lines.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

/// The progress of a sweep.
pub struct Progress {
    bars: MultiProgress,
    quiet: bool,
    total: usize,
    number: usize,
    /// How much longer the sweep takes, as far as that is known when a run begins.
    left: Option<Span>,
    members: Vec<(String, ProgressBar)>,
    last_line: Instant,
}

impl Progress {
    /// For `total` runs; a quiet one shows nothing.
    pub fn new(total: usize, quiet: bool) -> Progress {
        Progress {
            bars: MultiProgress::new(),
            quiet,
            total,
            number: 0,
            left: None,
            members: Vec::new(),
            last_line: Instant::now(),
        }
    }

    /// From the next run on, so much time is left.
    pub fn expect(&mut self, left: Span) {
        self.left = Some(left);
    }

    /// `[2/5, 3 to 4 min left]`
    fn place(&self) -> String {
        let left = self.left.map_or(String::new(), |left| format!(", {left} left"));
        format!("[{}/{}{left}]", self.number, self.total)
    }

    /// A run begins.
    pub fn begin(&mut self, number: usize, run: &Run) {
        self.number = number;
        self.last_line = Instant::now();
        self.members.clear();
        if self.quiet {
            return;
        }
        let style =
            ProgressStyle::with_template("{prefix} {spinner} {msg} [{elapsed}]").expect("a valid template");
        for member in &run.members {
            let instance = &member.instance;
            let ids = instance.gi_id.zip(instance.ci_id).filter(|_| run.members.len() > 1);
            let place = ids.map_or(String::new(), |(gi, ci)| format!(" {gi}/{ci}"));
            let name = format!("{}{place}, batch {}", instance.label(), member.job.batch);
            let bar = self.bars.add(ProgressBar::new_spinner().with_style(style.clone()));
            bar.set_prefix(format!("{} {name}", self.place()));
            bar.set_message(Stage::Starting.doing());
            self.members.push((name, bar));
        }
    }

    /// A member has got somewhere.
    pub fn show(&mut self, member: usize, stage: Stage, batches: u64) {
        let Some((name, bar)) = self.members.get(member) else { return };
        let message = match stage {
            Stage::Measuring => format!("measuring, {batches} batches"),
            _ => stage.doing().to_owned(),
        };
        bar.set_message(message.clone());
        bar.tick();
        if self.bars.is_hidden() && self.last_line.elapsed() >= PLAIN_EVERY {
            self.last_line = Instant::now();
            let _ = writeln!(std::io::stderr(), "{} {name}: {message}", self.place());
        }
    }

    /// The run is over: its lines go.
    pub fn end(&mut self) {
        for (_, bar) in self.members.drain(..) {
            bar.finish_and_clear();
        }
    }
}
