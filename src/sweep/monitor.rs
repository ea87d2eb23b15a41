//! The parent's view of the GPUs, open for the whole sweep: readings at the edges of each run, periodic
//! ones if asked for, and which other processes compute there. Reads, never sets.
//!
//! A helper process asks the driver. Where it does not answer, a run has no readings and its neighbours
//! are unknown; nothing else changes.

use super::plan::Run;
use super::telemetry::{Company, Edges, Moment};
use crate::machine::nvml::{Client, Snapshot, Target};
use crate::machine::topology::{Gpu, Process};
use crate::machine::{Instance, InstanceKind, thread};
use crate::results::output::OutputFile;
use anyhow::{Context, Result, ensure};
use serde::Serialize;
use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// A process that has just ended may stay in the driver's list for a moment.
const LINGERS: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// NVML and the GPUs it is asked about.
pub struct Monitor {
    client: RefCell<Client>,
    gpus: Vec<Target>,
    /// How often the user has asked to stop.
    interrupts: &'static AtomicUsize,
    sampler: Option<Sampler>,
    notes: Receiver<String>,
    note: Sender<String>,
}

/// One line of the telemetry file.
#[derive(Default, Serialize)]
struct Sample<'a> {
    at_ns: u64,
    gpu_index: u32,
    gpu_uuid: &'a str,
    gpu_sm_clock_mhz: Option<u32>,
    gpu_power_w: Option<f64>,
    gpu_temperature_c: Option<u32>,
}

/// The thread that reads periodically, until it is dropped.
struct Sampler {
    interval: Duration,
    kept: Arc<Mutex<Kept>>,
    _end: Sender<()>,
}

/// Periodic readings with the UUID of their GPU, of the run that is being measured only: a sweep may
/// take days.
#[derive(Default)]
struct Kept {
    wanted: bool,
    moments: Vec<(String, Moment)>,
}

/// A run that is being measured: its GPUs before the common start, and the periodic readings since.
pub struct RunTelemetry {
    before: Vec<(String, Moment)>,
    kept: Option<Arc<Mutex<Kept>>>,
}

impl Drop for RunTelemetry {
    fn drop(&mut self) {
        if let Some(kept) = &self.kept {
            *lock(kept) = Kept::default();
        }
    }
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().expect("no thread panics with it")
}

impl Monitor {
    /// Of these GPUs; reads nothing yet.
    pub fn new(client: Client, gpus: &[Gpu], interrupts: &'static AtomicUsize) -> Monitor {
        let (note, notes) = channel();
        Monitor {
            client: RefCell::new(client),
            gpus: gpus.iter().map(Target::from).collect(),
            interrupts,
            sampler: None,
            notes,
            note,
        }
    }

    /// Reads every `interval` from now on, into a CSV file; what it holds already stays.
    ///
    /// # Errors
    /// The file can't be written or holds something else, or there is no thread.
    pub fn sample_every(&mut self, interval: Duration, path: &Path) -> Result<()> {
        let shown = path.display().to_string();
        let context = || format!("cannot write {shown} for --telemetry");
        let output = OutputFile::append(path).with_context(context)?;
        let is_new = output.is_special() || is_new(output.file()).with_context(context)?;
        let mut writer = csv::WriterBuilder::new().has_headers(is_new).from_writer(output);
        let kept = Arc::new(Mutex::new(Kept::default()));
        let (end, ended) = channel();
        // A helper of its own: a reading that hangs must not hold up those at the edges.
        let mut client = self.client.borrow().another();
        let (gpus, to, note) = (self.gpus.clone(), Arc::clone(&kept), self.note.clone());
        let sample = move || {
            // Opens NVML now rather than in the first window.
            client.read(&[], &|| false);
            while ended.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                let snapshots = client.read(&gpus, &|| false);
                report_losses(&mut client, &note, "--telemetry takes no further readings");
                let Some(snapshots) = snapshots else { return };
                if let Err(error) = write(&mut writer, &gpus, &snapshots) {
                    let _ =
                        note.send(format!("cannot write {shown}: {error}; no further readings are saved"));
                    return;
                }
                let mut kept = lock(&to);
                if kept.wanted {
                    kept.moments.extend(moments(&gpus, snapshots));
                }
            }
        };
        thread::start("telemetry", sample).context("cannot start the thread for --telemetry")?;
        self.sampler = Some(Sampler { interval, kept, _end: end });
        Ok(())
    }

    /// Everything the user should know and has not been told: a line each.
    pub fn notes(&self) -> Vec<String> {
        self.notes.try_iter().collect()
    }

    /// One moment of every GPU that has a member of `run`, just before the common start.
    pub fn begin(&self, run: &Run) -> RunTelemetry {
        let kept = self.sampler.as_ref().map(|sampler| Arc::clone(&sampler.kept));
        if let Some(kept) = &kept {
            lock(kept).wanted = true;
        }
        // An interrupted run is not measured.
        RunTelemetry { before: self.read(run, 1), kept }
    }

    /// Another one after the last window: the edges of each member's GPU, in the order of the members.
    /// None where either was not read.
    pub fn end(&self, run: &Run, telemetry: &RunTelemetry) -> Vec<Option<Edges>> {
        let after = self.read(run, 2);
        let edges = |uuid: &str| {
            let of = |moments: &[(String, Moment)]| {
                moments.iter().find(|(of, _)| of == uuid).map(|(_, moment)| moment.clone())
            };
            let (before, after) = (of(&telemetry.before)?, of(&after)?);
            let Some(sampler) = &self.sampler else {
                return Some(Edges { before, after, ..Edges::default() });
            };
            let inside = |(of, moment): &&(String, Moment)| {
                of == uuid && (before.at_ns..=after.at_ns).contains(&moment.at_ns)
            };
            let samples = lock(&sampler.kept).moments.iter().filter(inside).map(|(_, m)| m.clone()).collect();
            Some(Edges { before, after, samples, interval_ns: Some(sampler.interval.as_nanos() as u64) })
        };
        run.members.iter().map(|member| edges(member.instance.gpu_uuid.as_deref()?)).collect()
    }

    /// Other users' processes in the instance of each member, in words; none if it is free, or can't be
    /// seen.
    pub fn busy(&self, run: &Run) -> Vec<Option<String>> {
        let gpus = self.of(run);
        let begin = Instant::now();
        loop {
            let lists = self.client.borrow_mut().processes(&gpus, &|| self.is_interrupted(1));
            self.report_losses();
            let found = |instance: &Instance| {
                let at = gpus.iter().position(|gpu| instance.gpu_uuid.as_deref() == Some(&gpu.uuid))?;
                others(lists.as_ref()?.get(at)?.as_ref()?, instance)
            };
            let busy: Vec<_> = run.members.iter().map(|member| found(&member.instance)).collect();
            if begin.elapsed() >= LINGERS || busy.iter().all(Option::is_none) || self.is_interrupted(1) {
                return busy;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn read(&self, run: &Run, interrupts: usize) -> Vec<(String, Moment)> {
        let gpus = self.of(run);
        let snapshots = self.client.borrow_mut().snapshot(&gpus, &|| self.is_interrupted(interrupts));
        self.report_losses();
        moments(&gpus, snapshots.unwrap_or_default()).collect()
    }

    /// The GPUs that have a member of `run`.
    fn of(&self, run: &Run) -> Vec<Target> {
        let has_member = |gpu: &&Target| {
            run.members.iter().any(|m| m.instance.gpu_uuid.as_deref() == Some(gpu.uuid.as_str()))
        };
        self.gpus.iter().filter(has_member).cloned().collect()
    }

    fn is_interrupted(&self, times: usize) -> bool {
        self.interrupts.load(Relaxed) >= times
    }

    fn report_losses(&self) {
        let lost = "this run and later ones have no readings of the GPU, and their neighbours are unknown";
        report_losses(&mut self.client.borrow_mut(), &self.note, lost);
    }
}

/// Once for each helper that was lost: there are at most two.
fn report_losses(client: &mut Client, note: &Sender<String>, lost: &str) {
    for loss in client.losses() {
        let then = if loss.last { lost } else { "trying once more in a new process" };
        let _ = note.send(format!(
            "cannot read the GPUs from NVML: {}; {then}; `migbench doctor` says what to do",
            loss.why
        ));
    }
}

/// Each reading with the UUID of its GPU.
fn moments(gpus: &[Target], snapshots: Vec<Snapshot>) -> impl Iterator<Item = (String, Moment)> {
    let moment = |snapshot: Snapshot| Moment {
        at_ns: snapshot.at_ns,
        reading: snapshot.reading,
        company: company(snapshot.processes),
    };
    gpus.iter().zip(snapshots).map(move |(gpu, snapshot)| (gpu.uuid.clone(), moment(snapshot)))
}

/// Whether nothing is in a telemetry file yet, not even the header.
///
/// # Errors
/// It cannot be read, or holds something else than readings.
fn is_new(file: &File) -> Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    let mut example = csv::Writer::from_writer(Vec::new());
    example.serialize(Sample::default())?;
    let lines = example.into_inner()?;
    let header = lines.split_inclusive(|&byte| byte == b'\n').next().unwrap_or_default();
    let mut found = vec![0; header.len()];
    ensure!(
        file.read_exact_at(&mut found, 0).is_ok() && found == header,
        "it holds something else than readings of GPUs: move it away, or choose another --output"
    );
    Ok(false)
}

fn write(writer: &mut csv::Writer<OutputFile>, gpus: &[Target], snapshots: &[Snapshot]) -> Result<()> {
    for (gpu, snapshot) in gpus.iter().zip(snapshots) {
        writer.serialize(sample(gpu, snapshot))?;
    }
    Ok(writer.flush()?)
}

/// Processes of others in an instance, in words.
fn others(processes: &[Process], instance: &Instance) -> Option<String> {
    let foreign = processes.iter().filter(|p| is_in(p, instance) && kin(p.pid) != Kin::Ours);
    let named: Vec<String> = foreign.map(|process| describe(process.pid)).collect();
    (!named.is_empty()).then(|| named.join(", "))
}

fn sample<'a>(gpu: &'a Target, snapshot: &Snapshot) -> Sample<'a> {
    Sample {
        at_ns: snapshot.at_ns,
        gpu_index: gpu.index,
        gpu_uuid: &gpu.uuid,
        gpu_sm_clock_mhz: snapshot.reading.sm_clock_mhz,
        gpu_power_w: snapshot.reading.power_mw.map(|mw| f64::from(mw) / 1e3),
        gpu_temperature_c: snapshot.reading.temperature_c,
    }
}

/// What a process of the driver's list is to this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kin {
    Ours,
    Foreign,
    Hidden,
}

/// By the chain of its parents in /proc.
fn kin(pid: u32) -> Kin {
    let own = std::process::id();
    let mut at = pid;
    // A chain of parents is short; a loop would be the kernel's fault.
    for _ in 0..64 {
        if at == own {
            return Kin::Ours;
        }
        match parent(at) {
            Some(0 | 1) => return Kin::Foreign,
            Some(next) => at = next,
            None if at == pid => return Kin::Hidden,
            None => return Kin::Foreign,
        }
    }
    Kin::Foreign
}

/// The fourth field of /proc/PID/stat, after the name in brackets.
fn parent(pid: u32) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn describe(pid: u32) -> String {
    match std::fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("pid {pid} ({})", crate::machine::text::line(&name)),
        Err(_) => format!("pid {pid}"),
    }
}

fn is_in(process: &Process, instance: &Instance) -> bool {
    match instance.kind {
        InstanceKind::Mig => process.gi_id == instance.gi_id && process.ci_id == instance.ci_id,
        InstanceKind::Gpu => true,
        InstanceKind::Cpu => false,
    }
}

fn company(processes: Option<Vec<Process>>) -> Company {
    let Some(processes) = processes else { return Company::default() };
    let mut company = Company { known: true, ..Company::default() };
    for process in processes {
        match kin(process.pid) {
            Kin::Ours => company.ours += 1,
            Kin::Foreign => company.foreign += 1,
            Kin::Hidden => company.hidden += 1,
        }
    }
    company
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periodic_readings_are_kept_for_one_run_only() {
        let kept = Arc::new(Mutex::new(Kept::default()));
        kept.lock().unwrap().wanted = true;
        let telemetry = RunTelemetry { before: Vec::new(), kept: Some(Arc::clone(&kept)) };
        kept.lock().unwrap().moments.push(("GPU-1".into(), Moment::default()));
        drop(telemetry);
        let kept = kept.lock().unwrap();
        assert!(!kept.wanted && kept.moments.is_empty(), "no run, nothing to keep");
    }

    #[test]
    fn kin_is_told_by_the_chain_of_parents() {
        assert_eq!(kin(std::process::id()), Kin::Ours);
        assert_eq!(kin(1), Kin::Foreign);
        assert_eq!(kin(u32::MAX), Kin::Hidden);
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert_eq!(kin(child.id()), Kin::Ours);
        assert!(describe(child.id()).starts_with(&format!("pid {} (", child.id())));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(kin(child.id()), Kin::Hidden);
        assert_eq!(describe(child.id()), format!("pid {}", child.id()));
    }

    #[test]
    fn a_process_is_in_its_instance() {
        let instance =
            Instance { kind: InstanceKind::Mig, gi_id: Some(7), ci_id: Some(0), ..Instance::default() };
        let process = |gi, ci| Process { gi_id: gi, ci_id: ci, ..Process::default() };
        assert!(is_in(&process(Some(7), Some(0)), &instance));
        assert!(!is_in(&process(Some(7), Some(1)), &instance));
        assert!(!is_in(&process(None, None), &instance));
        assert!(is_in(&process(None, None), &Instance { kind: InstanceKind::Gpu, ..instance }));
    }
}
