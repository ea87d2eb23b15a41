//! The worker that supervises the user's program instead of running a workload itself.
//!
//! Towards the parent it speaks the worker protocol, so that a program is pinned, started together with
//! others, and given up like a worker. It never opens the device: that is the program's.
//!
//! A program that ends without a word on MIGBENCH_FD is one batch, from its start to its end. One that
//! says hello reports its own batches (docs/protocol.md).

mod import;
mod process;
mod reported;

use self::import::Imported;
pub use self::process::status_text;
use self::process::{Process, Read1, end_all};
use self::reported::{At, Reported};
use super::bins::LoadLog;
use super::clock::{Clock, Monotonic};
use super::fault::Phase;
use super::protocol::{FromWorker, Job};
use super::records::Extras;
use super::window::Control;
use super::worker::Out;
use crate::machine::{host, thread};
use crate::workload::DeviceIdentity;
use crate::workload::command::Program;
use crate::workload::command::line::Lines;
use anyhow::{Result, anyhow, bail, ensure};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;

/// Between two signs of life.
const SIGN_NS: u64 = 1_000_000_000;
/// From "stop" to SIGTERM, and from there to SIGKILL.
const GRACE_NS: u64 = 5_000_000_000;

/// Starts the program and stays with it until the job is done.
///
/// # Errors
/// What the program did wrong; it has ended by then, with all that it started.
pub(super) fn supervise(
    job: &Job,
    program: &Program,
    control: &Control,
    out: &Out,
    phase: &mut Phase,
) -> Result<()> {
    end_by_signals()?;
    let file_before = program.import.as_deref().and_then(import::written);
    let process = Process::start(program)?;
    let mut session = Session {
        program,
        control,
        out,
        phase,
        process,
        lines: Lines::default(),
        reported: Reported::new(job.rule),
        heard_at: Monotonic.now(),
        signed_at: 0,
        throttled_before: None,
        file_before,
    };
    session.run().map_err(|error| match session.give_up() {
        Err(left) => anyhow!("{error:#}; {left}"),
        Ok(()) => error,
    })
}

/// SIGTERM is what the kernel sends when the parent has ended, however that happened: the program ends
/// first, with all that it started, then this process by that signal.
fn end_by_signals() -> Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    thread::start("signals", move || {
        for signal in signals.forever() {
            end_all();
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
    })?;
    Ok(())
}

struct Session<'a> {
    program: &'a Program,
    control: &'a Control,
    out: &'a Out,
    phase: &'a mut Phase,
    process: Process,
    lines: Lines,
    reported: Reported,
    /// When the program last said something.
    heard_at: u64,
    signed_at: u64,
    throttled_before: Option<u64>,
    /// When the file to import had been written before the program was started.
    file_before: Option<SystemTime>,
}

impl Session<'_> {
    fn run(&mut self) -> Result<()> {
        self.until(At::Greeted)?;
        if self.reported.at == At::Silent {
            return self.without_a_word();
        }
        ensure!(self.program.import.is_none(), "the program reports its batches itself: leave --import out");
        self.out.send(&FromWorker::Hello { identity: identity(self.reported.uuid.clone()) })?;
        *self.phase = Phase::Prepare;
        self.until(At::Warming)?;
        self.process.say("start");
        self.until(At::Loading)?;
        *self.phase = Phase::Ready;
        self.out.send(&FromWorker::Ready { warmup_batches: self.reported.warmup_batches })?;
        self.until(At::Window)?;
        *self.phase = Phase::Window;
        self.throttled_before = host::cgroup_throttled_us();
        self.until(At::Measured)?;
        if self.control.stop.load(Relaxed) {
            return self.stop();
        }
        self.window_done()?;
        *self.phase = Phase::Stages;
        if self.load_until_stages()? {
            self.out.send(&FromWorker::StagesDone { stages: Vec::new(), load: self.reported.log() })?;
            while !self.control.stop.load(Relaxed) {
                self.listen()?;
            }
        }
        self.stop()
    }

    /// Listens until the program has come so far, or the parent has changed its mind: has cut the
    /// window or wants a stop. A program that ends without a word ends this, too.
    fn until(&mut self, wanted: At) -> Result<()> {
        while self.reported.at < wanted {
            let start_at = self.control.start_at.load(Relaxed);
            if start_at > 0 {
                self.reported.name_start(start_at);
            }
            let over = self.listen()?;
            if over && self.reported.at == At::Silent {
                return Ok(());
            }
            if self.reported.at >= At::Loading
                && (self.control.cut.load(Relaxed) || self.control.stop.load(Relaxed))
            {
                self.reported.cut();
            }
        }
        Ok(())
    }

    /// Takes what the program has said; true when it has ended and nothing more will come. Fails when
    /// it has said something wrong, or nothing for too long.
    fn listen(&mut self) -> Result<bool> {
        // Asked first: what it wrote before its end is still to be read.
        let ended = self.process.ended_at().is_some();
        let mut over = ended;
        match self.process.read() {
            Read1::Bytes(bytes) => {
                let now = Monotonic.now();
                let lines = self.lines.take(bytes)?;
                self.reported.hear(&lines, now)?;
                self.heard_at = now;
                over = false;
                if self.reported.at >= At::Warming {
                    self.process.pause();
                }
            }
            Read1::Nothing => self.check_deadline()?,
            Read1::Closed => {
                self.lines.end()?;
                self.check_deadline()?;
                if self.reported.at > At::Silent {
                    self.ended_early(ended)?;
                }
            }
        }
        self.control.unmeasured.store(self.reported.unmeasured, Relaxed);
        self.control.batches.store(self.reported.measured(), Relaxed);
        sign(self.out, self.control, &mut self.signed_at);
        Ok(over)
    }

    fn check_deadline(&self) -> Result<()> {
        let limit = self.program.deadline_ns;
        if Monotonic.now() - self.heard_at < limit {
            return Ok(());
        }
        let seconds = limit as f64 / 1e9;
        match self.reported.at {
            At::Silent => bail!(
                "the program neither ended nor said hello within {seconds} s: give it a longer --deadline, or let \
                 it report its batches (docs/protocol.md)"
            ),
            At::Greeted => {
                bail!("the program said hello, but not ready within {seconds} s: give it a longer --deadline")
            }
            _ => bail!("the program reported no batch for {seconds} s: give it a longer --deadline"),
        }
    }

    /// A program that reports goes on until it is told to stop.
    fn ended_early(&mut self, ended: bool) -> Result<()> {
        let doing = match self.reported.at {
            At::Silent | At::Greeted => "before it said ready",
            At::Warming => "in its warm-up",
            At::Loading => "before its window opened",
            At::Window => "in its window",
            At::Measured => "before it was told to stop",
        };
        if !ended && !self.process.wait(1_000_000_000, &mut || ()) {
            bail!("the program closed MIGBENCH_FD {doing}: it must go on reporting until it reads 'stop'");
        }
        let status = status_text(self.process.end()?);
        bail!("the program {status} {doing}: it must go on reporting until it reads 'stop'")
    }

    fn window_done(&mut self) -> Result<()> {
        let throttled = host::cgroup_throttled_us().zip(self.throttled_before);
        self.out.send(&FromWorker::WindowDone {
            latency: self.reported.recording(),
            extras: Box::default(),
            load: self.reported.log(),
            cut: self.control.cut.load(Relaxed),
            cpu_throttled_us: throttled.and_then(|(after, before)| after.checked_sub(before)),
        })
    }

    /// Goes on until every window is done and one more batch has begun after that; false if the parent
    /// wants no stage split.
    fn load_until_stages(&mut self) -> Result<bool> {
        while !self.control.stages.load(Relaxed) {
            if self.control.stop.load(Relaxed) {
                return Ok(false);
            }
            self.listen()?;
        }
        let now = Monotonic.now();
        while self.reported.last.is_none_or(|(issued, _)| issued < now) {
            if self.control.stop.load(Relaxed) {
                return Ok(false);
            }
            self.listen()?;
        }
        Ok(true)
    }

    /// "stop", then SIGTERM, then SIGKILL; nothing of it is left afterwards.
    fn stop(&mut self) -> Result<()> {
        *self.phase = Phase::Done;
        self.process.say("stop");
        let (out, control, signed_at) = (self.out, self.control, &mut self.signed_at);
        let mut alive = || sign(out, control, signed_at);
        let by_itself = self.process.wait(GRACE_NS, &mut alive);
        if !by_itself {
            self.process.terminate();
            self.process.wait(GRACE_NS, &mut alive);
        }
        let status = self.process.end()?;
        // A program may end its own process group last (`kill 0`), and with it itself.
        let in_order = status.success() || status.signal() == Some(SIGTERM);
        ensure!(!by_itself || in_order, "the program {} after it was told to stop", status_text(status));
        self.out.send(&done(!by_itself))
    }

    /// Ends a program that did something wrong, unless that was done.
    ///
    /// # Errors
    /// Something of it could not be ended.
    fn give_up(&mut self) -> Result<()> {
        if self.process.has_been_ended {
            return Ok(());
        }
        let (out, control, signed_at) = (self.out, self.control, &mut self.signed_at);
        if self.process.ended_at().is_none() {
            self.process.terminate();
            self.process.wait(GRACE_NS, &mut || sign(out, control, signed_at));
        }
        self.process.end().map(|_| ())
    }

    /// It has ended and has reported nothing: the whole of it is the only batch.
    fn without_a_word(&mut self) -> Result<()> {
        let (start, end) =
            (self.process.started_at, self.process.ended_at().unwrap_or_else(|| Monotonic.now()));
        let status = self.process.end()?;
        self.out.send(&FromWorker::Hello { identity: identity(None) })?;
        let left = match self.program.import.as_ref().filter(|_| status.success()) {
            Some(file) => import::read(file, &self.program.arguments, self.file_before, start, end),
            None => Ok(Imported::whole(start, end)),
        };
        let warmup_batches = left.as_ref().map_or(0, |left| left.warmup_batches);
        self.out.send(&FromWorker::Ready { warmup_batches })?;
        self.wait_for(|c| c.start_at.load(Relaxed) > 0 || c.cut.load(Relaxed));
        *self.phase = Phase::Window;
        let left = left?;
        // Who did what in that time is not known.
        let load = LoadLog { start_ns: start, end_ns: end, ..LoadLog::default() };
        self.out.send(&FromWorker::WindowDone {
            latency: left.latency,
            extras: Box::new(Extras {
                imported: left.inflight,
                coarse_times: left.is_coarse,
                ..Extras::default()
            }),
            load: load.clone(),
            cut: false,
            cpu_throttled_us: None,
        })?;
        *self.phase = Phase::Done;
        ensure!(status.success(), "the program {}", status_text(status));
        self.wait_for(|c| c.stages.load(Relaxed));
        if self.control.stages.load(Relaxed) {
            self.out.send(&FromWorker::StagesDone { stages: left.stages, load })?;
        }
        self.wait_for(|_| false);
        self.out.send(&done(false))
    }

    /// Until it holds, or the parent wants a stop.
    fn wait_for(&mut self, holds: impl Fn(&Control) -> bool) {
        while !holds(self.control) && !self.control.stop.load(Relaxed) {
            Monotonic.sleep_until(Monotonic.now() + 1_000_000);
            sign(self.out, self.control, &mut self.signed_at);
        }
    }
}

/// The program's silence has a deadline of its own: to the parent the worker is alive.
fn sign(out: &Out, control: &Control, signed_at: &mut u64) {
    let now = Monotonic.now();
    if now - *signed_at >= SIGN_NS {
        *signed_at = now;
        let (unmeasured, batches) = (control.unmeasured.load(Relaxed), control.batches.load(Relaxed));
        // A parent that is gone ends this process and the program.
        let _ = out.send(&FromWorker::Progress { unmeasured, batches });
    }
}

/// What is known of the device without opening it: the program was given one, and may have said which.
fn identity(uuid: Option<String>) -> DeviceIdentity {
    DeviceIdentity { device_count: 1, uuid, ..DeviceIdentity::default() }
}

/// The last message: a program's output is its own affair.
fn done(forced: bool) -> FromWorker {
    FromWorker::Done {
        output_error: None,
        output_failure: None,
        output_partial: false,
        output_non_finite: false,
        forced,
    }
}
