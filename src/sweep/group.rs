//! One run: workers that start, measure and end together.
//!
//! All are ready → one start time for all → all windows done → stage split of all → stop. A member
//! that fails leaves the others alone; it is out of the conversation, with its reason.

use super::identity;
use super::launch::{Ended, Ending, Heard, Launcher, Worker};
use super::monitor::{Monitor, RunTelemetry};
use super::patience::Patience;
use super::plan::{Member, Run};
use super::telemetry::Edges;
use super::together::Together;
use crate::machine::Instance;
use crate::measure::bins::LoadLog;
use crate::measure::clock::{Clock, Monotonic};
use crate::measure::intervals::Interval;
use crate::measure::protocol::{FromWorker, ToWorker};
use crate::measure::recorder::Recording;
use crate::measure::records::Extras;
use crate::results::environment::now_rfc3339;
use crate::results::row::{Identity, Warning};
use crate::workload::{DeviceIdentity, Own, Stages};
use rustix::process::Signal;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// From the last worker's readiness to the common start: long enough for the message to reach all.
const START_IN_NS: u64 = 20_000_000;
/// How often interruptions and deadlines are looked at.
const TICK: Duration = Duration::from_millis(50);
/// The same while workers end: most do so within a few milliseconds, and the next run waits for it.
const ENDING_TICK: Duration = Duration::from_millis(2);
/// A worker that has said its last word ends within this, or is ended.
const GRACE: Duration = Duration::from_secs(5);

/// What the runs of a sweep share.
pub struct Conductor {
    /// Reads the GPUs at the edges of a run; none without NVML.
    pub monitor: Option<Monitor>,
    /// Measure an instance in which somebody else computes.
    pub allow_busy: bool,
    /// Starts workers.
    pub launcher: Launcher,
    /// How long a worker may show no sign of life.
    pub patience: Duration,
    /// Refuse an identity that is merely consistent.
    pub require_proof: bool,
    /// Measure under MPS.
    pub allow_mps: bool,
    /// How often the user has asked to stop.
    pub interrupts: &'static AtomicUsize,
}

/// What came of one member.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// RFC 3339, UTC.
    pub started_at: String,
    /// What the worker said of its device.
    pub device: Option<DeviceIdentity>,
    /// The verdict on it.
    pub identity: Option<Identity>,
    /// What was noticed.
    pub warnings: Vec<Warning>,
    /// When its window was to open, CLOCK_MONOTONIC ns; none of a worker that failed before.
    pub named_start_ns: Option<u64>,
    /// From when on all workers of the run loaded together, CLOCK_MONOTONIC ns.
    pub common_from_ns: Option<u64>,
    /// Its GPU around the windows.
    pub edges: Option<Edges>,
    /// Batches of the warm-up.
    pub warmup_batches: u64,
    /// The window.
    pub recording: Option<Recording>,
    /// The seconds of its window, where they were asked for.
    pub intervals: Vec<Interval>,
    /// What it recorded beside latencies.
    pub extras: Extras,
    /// Its load from readiness until it last told.
    pub load: Option<LoadLog>,
    /// The window was cut.
    pub cut: bool,
    /// During the window.
    pub cpu_throttled_us: Option<u64>,
    /// The stage split.
    pub stages: Vec<Stages>,
    /// Relative L2 error of the output.
    pub output_error: Option<f64>,
    /// Why the output is wrong.
    pub output_failure: Option<String>,
    /// Not all of it was checked.
    pub output_partial: bool,
    /// Why there is no result.
    pub failure: Option<String>,
}

/// Where a member stands, in the order in which it gets there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The process runs.
    Starting,
    /// Its device is open and proven.
    Preparing,
    /// It loads the device and waits for the start.
    Ready,
    /// It was told when to start.
    Measuring,
    /// Its window is done.
    Measured,
    /// It was told to take the stage split.
    Splitting,
    /// Its stage split is done.
    Split,
    /// It was told to stop, and checks its output.
    Stopping,
    /// It has said its last word.
    Over,
}

/// Something to show: the member, where it stands, batches of its window.
pub type Observer<'a> = dyn FnMut(usize, Stage, u64) + 'a;

struct Player {
    worker: Option<Worker>,
    leaving: Option<Leaving>,
    stage: Stage,
    patience: Patience,
    batches: u64,
    /// Batches outside of its window that it has told of.
    unmeasured: u64,
    outcome: Outcome,
}

/// A worker that is out of the conversation and is about to end.
struct Leaving {
    ending: Ending,
    /// How its process ended belongs to the reason.
    with_status: bool,
}

/// Plays a run to its end; one outcome a member, in their order.
pub fn play(run: &Run, conductor: &Conductor, observer: &mut Observer) -> Vec<Outcome> {
    let (sender, receiver) = channel();
    // All are looked at before the first worker of ours is there.
    let busy = conductor.busy(run);
    let members = run.members.iter().enumerate().zip(busy);
    let players = members.map(|((i, member), busy)| start(i, member, busy, conductor, &sender)).collect();
    drop(sender);
    let together = Together::default();
    let mut group = Group { run, conductor, players, interrupts_seen: 0, telemetry: None, together };
    group.converse(&receiver, observer);
    group.players.into_iter().map(|player| player.outcome).collect()
}

fn start(
    index: usize,
    member: &Member,
    busy: Option<String>,
    conductor: &Conductor,
    sender: &Sender<(usize, Heard)>,
) -> Player {
    let mut player = Player {
        worker: None,
        leaving: None,
        stage: Stage::Starting,
        patience: Patience::new(conductor.patience),
        batches: 0,
        unmeasured: 0,
        outcome: Outcome { started_at: now_rfc3339(), ..Outcome::default() },
    };
    if let Some(who) = busy {
        let reason = format!("busy: {who} computes there; --allow-busy measures all the same");
        player.fail(reason, Duration::ZERO);
        return player;
    }
    // A supervisor ends the program first, wherever its processes have gone.
    let death = match member.job.own {
        Some(Own::Program(_)) => Signal::TERM,
        _ => Signal::KILL,
    };
    match conductor.launcher.start(&member.instance, death, index, sender.clone()) {
        Ok(worker) => {
            worker.send(&ToWorker::Job(Box::new(member.job.clone())));
            player.worker = Some(worker);
        }
        Err(error) => player.fail(format!("{error:#}"), Duration::ZERO),
    }
    player
}

impl Player {
    fn say(&mut self, message: &ToWorker) {
        if let Some(worker) = &mut self.worker {
            worker.send(message);
        }
    }

    /// Out of the conversation, with the reason, how the process ended and what it wrote last.
    fn fail(&mut self, reason: String, grace: Duration) {
        self.leave(reason, grace, true);
    }

    /// It says itself why it failed: that its process then ends with an error is no news.
    fn failed(&mut self, reason: String) {
        self.leave(reason, GRACE, false);
    }

    fn leave(&mut self, reason: String, grace: Duration, with_status: bool) {
        self.outcome.failure = Some(reason);
        self.part(grace, with_status);
    }

    fn finish(&mut self) {
        self.part(GRACE, false);
    }

    fn part(&mut self, grace: Duration, with_status: bool) {
        self.stage = Stage::Over;
        if let Some(worker) = self.worker.take() {
            self.leaving = Some(Leaving { ending: Ending::new(worker, grace), with_status });
        }
    }

    /// Looks after a worker that is about to end, and completes the reason once it has.
    fn see_off(&mut self) {
        let Some(leaving) = &mut self.leaving else { return };
        let Some(ended) = leaving.ending.poll() else { return };
        let with_status = leaving.with_status;
        self.leaving = None;
        if let Some(reason) = &mut self.outcome.failure {
            complete(reason, ended, with_status);
        }
    }
}

/// Adds how a worker ended to the reason why it failed.
fn complete(reason: &mut String, ended: Ended, with_status: bool) {
    let Ended { status, mut stderr, left } = ended;
    // What it said by the protocol it also wrote for whoever runs it by hand: once is enough.
    stderr.retain(|line| !line.strip_prefix("worker: ").is_some_and(|said| reason.contains(said)));
    if with_status {
        *reason = format!("{reason}; the worker {status}");
    }
    // A supervisor names what it could not end itself.
    for process in left {
        if !reason.contains(&format!("pid {} ", process.pid)) {
            *reason = format!("{reason}; {process}");
        }
    }
    if !stderr.is_empty() {
        *reason = format!("{reason}; its last lines: {}", stderr.join(" | "));
    }
}

struct Group<'a> {
    run: &'a Run,
    conductor: &'a Conductor,
    players: Vec<Player>,
    interrupts_seen: usize,
    /// The GPUs since the common start.
    telemetry: Option<RunTelemetry>,
    /// How long all have loaded together.
    together: Together,
}

impl Group<'_> {
    fn converse(&mut self, receiver: &Receiver<(usize, Heard)>, observer: &mut Observer) {
        while self.players.iter().any(|p| p.stage != Stage::Over || p.leaving.is_some()) {
            let is_ending = self.players.iter().any(|p| p.leaving.is_some());
            let tick = if is_ending { ENDING_TICK } else { TICK };
            match receiver.recv_timeout(tick) {
                Ok((member, heard)) => {
                    self.hear(member, heard);
                    let player = &self.players[member];
                    observer(member, player.stage, player.batches);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(tick),
            }
            self.check_interrupts();
            self.check_patience();
            self.move_on();
            self.players.iter_mut().for_each(Player::see_off);
        }
    }

    fn hear(&mut self, member: usize, heard: Heard) {
        let Member { instance, job } = &self.run.members[member];
        let player = &mut self.players[member];
        if player.stage == Stage::Over {
            return;
        }
        player.patience.renew();
        let message = match heard {
            Heard::Message(message) => *message,
            Heard::Rubbish(why) => {
                return player.fail(format!("the worker broke the protocol: {why}"), GRACE);
            }
            Heard::Closed => {
                let doing = player.stage.doing();
                return player.fail(format!("the worker ended while {doing}"), GRACE);
            }
        };
        match (player.stage, message) {
            (_, FromWorker::Progress { batches, unmeasured }) => {
                (player.batches, player.unmeasured) = (batches, unmeasured);
            }
            (Stage::Measuring, FromWorker::Interval(interval)) => player.outcome.intervals.push(interval),
            (_, FromWorker::Failed { phase, error }) => player.failed(match job.own {
                // Its own phases are in the text.
                Some(Own::Program(_)) => error,
                _ => format!("{error} (at {phase})"),
            }),
            (Stage::Starting, FromWorker::Hello { identity }) => {
                let refusal = self.conductor.judge(instance, &identity, &mut player.outcome);
                player.outcome.device = Some(identity);
                player.stage = Stage::Preparing;
                if let Some(reason) = refusal {
                    player.fail(reason, Duration::ZERO);
                }
            }
            (Stage::Preparing, FromWorker::Ready { warmup_batches }) => {
                player.outcome.warmup_batches = warmup_batches;
                player.stage = Stage::Ready;
            }
            (Stage::Measuring, FromWorker::WindowDone { latency, extras, load, cut, cpu_throttled_us }) => {
                player.outcome.recording = Some(latency);
                player.outcome.extras = *extras;
                player.outcome.load = Some(load);
                player.outcome.cut = cut;
                player.outcome.cpu_throttled_us = cpu_throttled_us;
                player.stage = Stage::Measured;
            }
            (Stage::Splitting, FromWorker::StagesDone { stages, load }) => {
                player.outcome.stages = stages;
                player.outcome.load = Some(load);
                player.stage = Stage::Split;
            }
            (
                Stage::Stopping,
                FromWorker::Done { output_error, output_failure, output_partial, output_non_finite, forced },
            ) => {
                player.outcome.output_partial = output_partial;
                player.outcome.warnings.extend(output_non_finite.then_some(Warning::NonFiniteOutput));
                player.outcome.warnings.extend(forced.then_some(Warning::EndedByForce));
                player.outcome.output_error = output_error;
                player.outcome.output_failure = output_failure;
                player.finish();
            }
            // It was told to stop early, and had this on its way.
            (Stage::Stopping, FromWorker::StagesDone { .. }) => {}
            (stage, other) => {
                player.fail(format!("the worker said {other:?} while {}", stage.doing()), Duration::ZERO);
            }
        }
    }

    /// What all have reached, all leave together.
    fn move_on(&mut self) {
        let reached = self.players.iter().map(|p| p.stage).filter(|&stage| stage != Stage::Over).min();
        if reached == Some(Stage::Ready) && !self.have_loaded_together() {
            return;
        }
        // Readings make latency spikes: these two are outside of every window.
        match reached {
            Some(Stage::Ready) => self.telemetry = self.begin_telemetry(),
            Some(Stage::Measured) => self.note_edges(),
            _ => {}
        }
        let mut named = None;
        let (message, next) = match reached {
            Some(Stage::Ready) => {
                named = Some(Monotonic.now() + START_IN_NS);
                (ToWorker::Start { at_ns: named.unwrap_or_default() }, Stage::Measuring)
            }
            Some(Stage::Measured | Stage::Split) if self.interrupts_seen > 0 => {
                (ToWorker::Stop, Stage::Stopping)
            }
            Some(Stage::Measured) => (ToWorker::Stages, Stage::Splitting),
            Some(Stage::Split) => (ToWorker::Stop, Stage::Stopping),
            _ => return,
        };
        for player in self.players.iter_mut().filter(|p| p.stage != Stage::Over) {
            player.say(&message);
            player.stage = next;
            player.outcome.named_start_ns = player.outcome.named_start_ns.or(named);
            let since = named.map(|_| self.together.since_ns());
            player.outcome.common_from_ns = player.outcome.common_from_ns.or(since);
        }
    }

    /// Have all loaded together for long enough? At once where there is one worker only, and where the
    /// user's program reports nothing: it has ended by the time at which its worker is ready.
    fn have_loaded_together(&mut self) -> bool {
        let live = self.players.iter().filter(|p| p.stage != Stage::Over);
        let alone = live.clone().count() < 2 || live.clone().any(|p| p.outcome.warmup_batches == 0);
        let told = self.players.iter().map(|p| (p.stage != Stage::Over).then_some(p.unmeasured));
        self.together.is_enough(Monotonic.now(), &told.collect::<Vec<_>>()) || alone
    }

    fn begin_telemetry(&self) -> Option<RunTelemetry> {
        self.conductor.monitor.as_ref().map(|monitor| monitor.begin(self.run))
    }

    /// The last window is done, and everyone still loads.
    fn note_edges(&mut self) {
        let (Some(monitor), Some(telemetry)) = (&self.conductor.monitor, self.telemetry.take()) else {
            return;
        };
        for (player, edges) in self.players.iter_mut().zip(monitor.end(self.run, &telemetry)) {
            player.outcome.edges = edges;
        }
    }

    /// The first interruption cuts the windows, a second one ends everything now.
    fn check_interrupts(&mut self) {
        let interrupts = self.conductor.interrupts.load(Relaxed);
        if interrupts == self.interrupts_seen {
            return;
        }
        self.interrupts_seen = interrupts;
        for player in &mut self.players {
            // One that the first interruption ended stays interrupted at the second.
            player.outcome.cut |= player.stage != Stage::Over;
            match player.stage {
                Stage::Over => {}
                _ if interrupts > 1 => player.fail("interrupted twice".into(), Duration::ZERO),
                Stage::Measuring => player.say(&ToWorker::Cut),
                // The window is whole; only what follows it is left out.
                Stage::Measured | Stage::Splitting | Stage::Split | Stage::Stopping => {
                    player.outcome.cut = false
                }
                Stage::Starting | Stage::Preparing | Stage::Ready => {
                    player.fail("interrupted before its window".into(), Duration::ZERO);
                }
            }
            if let Some(leaving) = player.leaving.as_mut().filter(|_| interrupts > 1) {
                leaving.ending.hurry();
            }
        }
    }

    fn check_patience(&mut self) {
        for player in self.players.iter_mut().filter(|p| p.stage != Stage::Over) {
            if player.patience.is_over() {
                let limit = player.patience.limit().as_secs();
                let reason =
                    format!("the worker gave no sign of life for {limit} s while {}", player.stage.doing());
                player.fail(reason, Duration::ZERO);
            }
        }
    }
}

impl Conductor {
    /// Who keeps the instance of each member from being measured.
    fn busy(&self, run: &Run) -> Vec<Option<String>> {
        let monitor = self.monitor.as_ref().filter(|_| !self.allow_busy);
        monitor.map_or_else(|| vec![None; run.members.len()], |monitor| monitor.busy(run))
    }

    /// Notes the verdict on a worker's device; a reason if it must not be measured.
    fn judge(&self, asked: &Instance, found: &DeviceIdentity, outcome: &mut Outcome) -> Option<String> {
        let judgement = identity::judge(asked, found);
        outcome.identity = judgement.identity;
        outcome.warnings = judgement.warnings;
        if found.mps == Some(true) {
            outcome.warnings.push(Warning::Mps);
            if !self.allow_mps {
                return Some(
                    "the worker is a client of an MPS server: stop the server, or say --allow-mps".into(),
                );
            }
        }
        if judgement.refuted.is_none()
            && self.require_proof
            && judgement.identity == Some(Identity::Consistent)
        {
            return Some("the device's UUID cannot be compared, and --require-proof was given".into());
        }
        judgement.refuted
    }
}

impl Stage {
    /// For messages: "the worker ended while …".
    pub fn doing(self) -> &'static str {
        match self {
            Stage::Starting => "opening its device",
            Stage::Preparing => "preparing and warming up",
            Stage::Ready => "waiting for the start",
            Stage::Measuring => "measuring",
            Stage::Measured => "loading after its window",
            Stage::Splitting => "taking the stage split",
            Stage::Split => "loading after its stage split",
            Stage::Stopping => "checking its output",
            Stage::Over => "ended",
        }
    }
}
