//! Faults on request, for the hidden scripted workload: what a worker does wrong, and when.

use super::bins::LoadLog;
use super::protocol::{self, FromWorker};
use super::recorder::Recorder;
use anyhow::{Result, bail};
use rustix::process::{Signal, getpid, kill_process};
use std::io::Write;
use std::time::Duration;

/// A point in a worker's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Before it says who it is.
    Hello,
    /// Before it allocates.
    Prepare,
    /// Before it is ready.
    Ready,
    /// As its window opens.
    Window,
    /// Before it hands in its window.
    WindowDone,
    /// Before the stage split.
    Stages,
    /// After it was told to stop.
    Done,
}

/// A signal to the process may reach another thread first; on virtual time this one would meanwhile come
/// far beyond the fault.
const SIGNAL_ARRIVES: Duration = Duration::from_millis(200);

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Exit,
    Kill,
    Stop,
    Hang,
    Error,
    Rubbish,
    HalfLine,
    Flood,
    Noise,
    Lie,
}

/// One action at one phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    action: Action,
    phase: Phase,
}

const PHASES: [(&str, Phase); 7] = [
    ("hello", Phase::Hello),
    ("prepare", Phase::Prepare),
    ("ready", Phase::Ready),
    ("window", Phase::Window),
    ("window-done", Phase::WindowDone),
    ("stages", Phase::Stages),
    ("done", Phase::Done),
];

const ACTIONS: [(&str, Action); 10] = [
    ("exit", Action::Exit),
    ("kill", Action::Kill),
    ("stop", Action::Stop),
    ("hang", Action::Hang),
    ("error", Action::Error),
    ("rubbish", Action::Rubbish),
    ("half-line", Action::HalfLine),
    ("flood", Action::Flood),
    ("noise", Action::Noise),
    ("lie", Action::Lie),
];

/// A window whose count is not that of its histogram.
fn impossible() -> FromWorker {
    let mut recorder = Recorder::new();
    recorder.open(1);
    recorder.record(1, 2);
    recorder.record(2, 3);
    let mut latency = recorder.finish();
    latency.batches = 1_000_000;
    FromWorker::WindowDone {
        latency,
        extras: Box::default(),
        load: LoadLog::default(),
        cut: false,
        cpu_throttled_us: None,
    }
}

impl Phase {
    /// As messages name it.
    pub fn name(self) -> &'static str {
        PHASES.iter().find(|(_, phase)| *phase == self).map_or("", |(name, _)| name)
    }
}

impl Fault {
    /// Parses `ACTION@PHASE`.
    ///
    /// # Errors
    /// Neither is known.
    pub fn parse(text: &str) -> Result<Fault> {
        let found = text.split_once('@').and_then(|(action, phase)| {
            let (_, action) = ACTIONS.iter().find(|(name, _)| *name == action)?;
            let (_, phase) = PHASES.iter().find(|(name, _)| *name == phase)?;
            Some(Fault { action: *action, phase: *phase })
        });
        match found {
            Some(fault) => Ok(fault),
            None => bail!("unknown fault '{text}': expected ACTION@PHASE"),
        }
    }

    /// Goes wrong if this is the phase for it. `out` is the protocol's stream.
    pub fn at(self, phase: Phase, out: &mut dyn Write) -> Result<()> {
        if phase != self.phase {
            return Ok(());
        }
        match self.action {
            Action::Exit => {
                let _ = writeln!(std::io::stderr(), "scripted exit at {}", phase.name());
                std::process::exit(7);
            }
            Action::Kill => {
                kill_process(getpid(), Signal::KILL)?;
                std::thread::sleep(SIGNAL_ARRIVES);
            }
            Action::Stop => {
                kill_process(getpid(), Signal::STOP)?;
                std::thread::sleep(SIGNAL_ARRIVES);
            }
            Action::Hang => loop {
                std::thread::sleep(Duration::from_secs(3600));
            },
            Action::Error => bail!("scripted error"),
            Action::Rubbish => out.write_all(b"Segmentation fault (core dumped)\n")?,
            Action::HalfLine => {
                out.write_all(b"{\"protocol\":1,\"type\":\"rea")?;
                std::process::exit(0);
            }
            Action::Flood => {
                let megabyte = vec![b'x'; 1 << 20];
                for _ in 0..64 {
                    out.write_all(&megabyte)?;
                }
            }
            Action::Lie => {
                out.write_all(&protocol::encode(&impossible()))?;
                std::process::exit(0);
            }
            // What a chatty library does: it must not reach the protocol.
            Action::Noise => {
                let noise = "library says hello\n".repeat(10_000);
                std::io::stdout().write_all(noise.as_bytes())?;
            }
        }
        Ok(())
    }
}
