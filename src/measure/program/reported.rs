//! From the batches that a program reports to a window: which of them are the warm-up, which count,
//! and when it is over. Pure: every time is given.

use crate::machine::uuid::names_a_device;
use crate::measure::bins::{LONGEST_COMMON_LOAD_NS, LoadLog, LoadRecorder};
use crate::measure::recorder::{Recorder, Recording};
use crate::measure::stopping::Rule;
use crate::measure::window::{WARM_UP_BATCHES, WARM_UP_NS};
use crate::workload::command::line::Line;
use anyhow::{Result, bail, ensure};

/// A reported batch cannot end later than now; clocks that a program read on two processors, and
/// rounding, may be off by this.
const SLACK_NS: u64 = 1_000_000;
/// Batches without a start are placed by when they are read, and pile up by this at most.
const PILE_NS: u64 = 1_000_000_000;

/// How far the program has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum At {
    /// Not a word so far.
    Silent,
    /// It has said hello.
    Greeted,
    /// It was told to start, and warms up.
    Warming,
    /// Warm, loading, outside the window.
    Loading,
    /// In its window.
    Window,
    /// Its window is done, and it goes on loading.
    Measured,
}

/// One program's reports.
pub struct Reported {
    /// How far it has come.
    pub at: At,
    /// The device that it says it runs on.
    pub uuid: Option<String>,
    /// When the window opens, as soon as that is known.
    pub start_at: Option<u64>,
    /// Batches of the warm-up.
    pub warmup_batches: u64,
    /// Batches outside the window.
    pub unmeasured: u64,
    /// The last batch: its issue and its end.
    pub last: Option<(u64, u64)>,
    rule: Rule,
    recorder: Recorder,
    first_issue: u64,
    gives_starts: Option<bool>,
    load: LoadRecorder,
}

impl Reported {
    /// Nothing has been said.
    pub fn new(rule: Rule) -> Reported {
        Reported {
            at: At::Silent,
            uuid: None,
            start_at: None,
            warmup_batches: 0,
            unmeasured: 0,
            last: None,
            rule,
            recorder: Recorder::new(),
            first_issue: 0,
            gives_starts: None,
            load: LoadRecorder::new(0),
        }
    }

    /// The parent has named the moment at which the window opens.
    pub fn name_start(&mut self, at: u64) {
        if self.start_at.is_none() {
            self.load.forget_pauses_before(at.saturating_sub(LONGEST_COMMON_LOAD_NS));
        }
        self.start_at = Some(at);
    }

    /// Lines that were read together, at `now`.
    ///
    /// # Errors
    /// They contradict what was said before, or the clock.
    pub fn hear(&mut self, lines: &[Line], now: u64) -> Result<()> {
        // Of batches that were read together, the earlier ended before the later began.
        let mut later: u64 = lines
            .iter()
            .map(|line| if let Line::Batch { ns, start_ns: None } = line { *ns } else { 0 })
            .fold(0, u64::saturating_add);
        for line in lines {
            match line {
                Line::Hello(uuid) => {
                    ensure!(self.at == At::Silent, "the program said hello twice");
                    self.uuid = device(uuid.as_deref())?;
                    self.at = At::Greeted;
                }
                Line::Ready => match self.at {
                    At::Greeted => self.at = At::Warming,
                    At::Silent => bail!("the program said ready before it said hello"),
                    _ => bail!("the program said ready twice"),
                },
                Line::Batch { ns, start_ns } => {
                    ensure!(self.at >= At::Warming, "the program reported a batch before it said ready");
                    if start_ns.is_none() {
                        later = later.saturating_sub(*ns);
                    }
                    let (issued, done) = self.place(*ns, *start_ns, later, now)?;
                    self.batch(issued, done);
                }
            }
        }
        Ok(())
    }

    /// When a batch was issued and when it was done.
    fn place(&mut self, ns: u64, start_ns: Option<u64>, later: u64, now: u64) -> Result<(u64, u64)> {
        let before = self.last.map_or(0, |(_, done)| done);
        ensure!(
            *self.gives_starts.get_or_insert(start_ns.is_some()) == start_ns.is_some(),
            "the program gives the start of some batches and not of others: give all of them, or none"
        );
        let Some(start) = start_ns else {
            let issued = now.saturating_sub(later).saturating_sub(ns).max(before);
            let done = issued.saturating_add(ns);
            ensure!(
                done <= now.saturating_add(PILE_NS),
                "the program reported a batch of {ns} ns, more than has passed since the one before it: \
                 times are in nanoseconds, and one batch is in flight at a time"
            );
            return Ok((issued, done));
        };
        let done = start.saturating_add(ns);
        ensure!(
            start >= before,
            "the program reported a batch that began {} ns before the end of the one before it: \
             starts are CLOCK_MONOTONIC in nanoseconds, and one batch is in flight at a time",
            before - start
        );
        ensure!(
            done <= now.saturating_add(SLACK_NS),
            "the program reported a batch that ends {} ns from now: starts are CLOCK_MONOTONIC in nanoseconds",
            done - now
        );
        Ok((start, done))
    }

    fn batch(&mut self, issued: u64, done: u64) {
        self.last = Some((issued, done));
        if self.at > At::Warming {
            self.load.add(0, issued, done);
        }
        if self.at == At::Loading && self.start_at.is_some_and(|at| issued >= at) {
            self.recorder.open(issued);
            self.load.open_window();
            self.at = At::Window;
        }
        if self.at != At::Window {
            self.unmeasured += 1;
        }
        match self.at {
            At::Window => {
                let start = self.recorder.started();
                self.recorder.record(issued, done);
                if self.rule.is_over(done - start, self.recorder.count()) {
                    self.at = At::Measured;
                }
            }
            At::Warming => {
                if self.warmup_batches == 0 {
                    self.first_issue = issued;
                }
                self.warmup_batches += 1;
                self.load.note_latency(done - issued);
                if self.warmup_batches >= WARM_UP_BATCHES && done - self.first_issue >= WARM_UP_NS {
                    self.load.restart(done);
                    self.at = At::Loading;
                }
            }
            _ => {}
        }
    }

    /// Ends the window, or leaves it empty.
    pub fn cut(&mut self) {
        if self.at == At::Loading {
            self.recorder.open(self.start_at.unwrap_or(self.load.end()));
        }
        self.at = At::Measured;
    }

    /// Batches of the window so far.
    pub fn measured(&self) -> u64 {
        self.recorder.count()
    }

    /// The window.
    pub fn recording(&self) -> Recording {
        self.recorder.finish()
    }

    /// Every batch since it was warm.
    pub fn log(&self) -> LoadLog {
        self.load.log()
    }
}

/// The device that a program says it runs on. `cpu` is what `{uuid}` stands for on the CPU, which has no UUID.
fn device(said: Option<&str>) -> Result<Option<String>> {
    let Some(said) = said.filter(|said| *said != "cpu") else { return Ok(None) };
    ensure!(
        names_a_device(said),
        "the program said hello with {:?}, which is no UUID: write its device's as nvidia-smi -L shows it \
         (GPU-… or MIG-…), or '-' where the program does not know it",
        said.chars().take(80).collect::<String>()
    );
    Ok(Some(said.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const S: u64 = 1_000 * MS;

    fn batch(ns: u64) -> Line {
        Line::Batch { ns, start_ns: None }
    }

    fn started(ns: u64, start_ns: u64) -> Line {
        Line::Batch { ns, start_ns: Some(start_ns) }
    }

    /// A program that has said ready.
    fn ready(rule: Rule) -> Reported {
        let mut reported = Reported::new(rule);
        reported.hear(&[Line::Hello(None), Line::Ready], 0).unwrap();
        reported
    }

    #[test]
    fn the_window_is_exact_when_starts_are_given() {
        let mut reported = ready(Rule::given(None, Some(5)));
        let mut now = 10 * S;
        let mut next = |reported: &mut Reported, ns: u64| {
            let line = started(ns, now);
            now += ns;
            reported.hear(&[line], now).unwrap();
            now += MS; // The host does something else.
            now
        };
        for _ in 0..10 {
            assert_eq!(reported.at, At::Warming);
            next(&mut reported, 110 * MS);
        }
        assert_eq!((reported.at, reported.warmup_batches), (At::Loading, 10));
        let open = next(&mut reported, 10 * MS);
        assert_eq!(reported.at, At::Loading, "nobody has said when");
        reported.start_at = Some(open + 1);
        next(&mut reported, 10 * MS);
        assert_eq!(reported.at, At::Loading, "it began too early by 1 ns");
        for i in 1..=5 {
            assert!(reported.at < At::Measured);
            next(&mut reported, i * MS);
        }
        assert_eq!(reported.at, At::Measured);
        next(&mut reported, 10 * MS);
        let (recording, log) = (reported.recording(), reported.log());
        assert_eq!((recording.batches, recording.sum_ns), (5, 15 * MS));
        assert_eq!(recording.start_ns, open + 11 * MS);
        assert_eq!(recording.end_ns, recording.start_ns + 19 * MS);
        assert_eq!(log.completions.iter().sum::<u32>(), 8, "all since it was warm");
        assert!(log.start_ns < recording.start_ns && log.end_ns > recording.end_ns);
        assert_eq!(reported.unmeasured, 13);
    }

    #[test]
    fn without_starts_batches_lie_before_the_moment_at_which_they_are_read() {
        let mut reported = ready(Rule::given(None, Some(3)));
        let mut now = S;
        while reported.at == At::Warming {
            now += 100 * MS;
            reported.hear(&[batch(90 * MS)], now).unwrap();
        }
        reported.start_at = Some(now);
        // Three of them in one go, then none for long.
        now += 100 * MS;
        reported.hear(&[batch(10 * MS), batch(20 * MS), batch(30 * MS)], now).unwrap();
        let recording = reported.recording();
        assert_eq!((recording.start_ns, recording.end_ns), (now - 60 * MS, now));
        assert_eq!(recording.sum_ns, 60 * MS, "never more than the window's length");
    }

    #[test]
    fn what_contradicts_the_clock_is_refused() {
        let refusal = |lines: &[Line]| {
            let mut reported = ready(Rule::DEFAULT);
            reported.hear(lines, 100 * S).unwrap_err().to_string()
        };
        assert!(
            refusal(&[started(5, 50), started(5, 49)]).starts_with(
                "the program reported a batch that began 6 ns before the end of the one before it"
            )
        );
        assert!(refusal(&[started(S, 100 * S)]).contains("that ends 1000000000 ns from now"));
        assert!(refusal(&[started(u64::MAX, u64::MAX)]).contains("from now"));
        assert!(refusal(&[batch(5), started(5, 5)]).contains("give all of them, or none"));
        let mut reported = ready(Rule::DEFAULT);
        reported.hear(&[batch(50 * S)], 100 * S).unwrap();
        let error = reported.hear(&[batch(50 * S)], 101 * S).unwrap_err().to_string();
        assert!(error.contains("more than has passed since the one before it"), "{error}");
    }

    #[test]
    fn words_come_in_order() {
        for (lines, message) in [
            (vec![Line::Ready], "the program said ready before it said hello"),
            (vec![Line::Hello(None), Line::Hello(None)], "the program said hello twice"),
            (vec![Line::Hello(None), batch(1)], "the program reported a batch before it said ready"),
            (vec![Line::Hello(None), Line::Ready, Line::Ready], "the program said ready twice"),
        ] {
            assert_eq!(Reported::new(Rule::DEFAULT).hear(&lines, 5).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn a_hello_names_a_uuid_or_none() {
        let said = |text: &str| {
            let mut reported = Reported::new(Rule::DEFAULT);
            reported.hear(&[Line::Hello(Some(text.into()))], 5).map(|()| reported.uuid.clone())
        };
        let uuid = "5A5A0000-0003-5000-8000-000000000abc";
        assert_eq!(said(uuid).unwrap().as_deref(), Some(uuid));
        assert_eq!(said("cpu").unwrap(), None);
        for text in ["cuda:0", "0", "NVIDIA", "GPU-5a5a0000"] {
            let error = said(text).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("the program said hello with \"{text}\", which is no UUID: ")),
                "{error}"
            );
        }
    }

    #[test]
    fn a_cut_keeps_what_was_measured() {
        let mut reported = ready(Rule::DEFAULT);
        for i in 0..20 {
            reported.hear(&[started(100 * MS, i * 100 * MS)], 100 * S).unwrap();
        }
        let mut empty = ready(Rule::DEFAULT);
        empty.cut();
        assert_eq!(empty.recording().batches, 0);
        reported.start_at = Some(2 * S);
        reported.hear(&[started(100 * MS, 2 * S)], 100 * S).unwrap();
        reported.cut();
        assert_eq!((reported.at, reported.recording().batches), (At::Measured, 1));
    }

    /// Nothing is lost, whatever was read together.
    #[test]
    fn twenty_thousand_batches_a_second_are_all_counted() {
        let mut reported = ready(Rule::given(None, Some(60_000)));
        let mut now = S;
        let mut sent = 0;
        while reported.at != At::Measured {
            if reported.at == At::Loading {
                reported.start_at.get_or_insert(now);
            }
            let together = 1 + sent as usize % 97;
            now += 50_000 * together as u64;
            reported.hear(&vec![batch(49_000); together], now).unwrap();
            sent += together as u64;
        }
        let recording = reported.recording();
        assert_eq!(recording.batches, 60_000);
        assert_eq!(reported.unmeasured + 60_000, sent);
        let elapsed = recording.end_ns - recording.start_ns;
        assert!(elapsed.abs_diff(3 * S) < 10 * MS, "{elapsed}");
    }
}
