//! The parent's eye on the GPUs, open for the whole sweep: readings at the edges of each run, periodic
//! ones if asked for, and who else is there. Reads, never sets.

use super::plan::Run;
use super::telemetry::{Company, Edges, Moment};
use crate::machine::nvml::Library;
use crate::machine::topology::{Gpu, Process};
use crate::machine::{Instance, InstanceKind};
use crate::measure::clock::{Clock, Monotonic};
use anyhow::{Context, Result};
use serde::Serialize;
use std::fs::File;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A process that has just ended may stay in the driver's list for a moment.
const LINGERS: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// NVML and the GPUs it is asked about.
pub struct Monitor {
    library: Arc<Library>,
    gpus: Vec<Gpu>,
    sampler: Option<Sampler>,
}

/// One line of the telemetry file.
#[derive(Serialize)]
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
    taken: Arc<Mutex<Vec<(String, Moment)>>>,
    _end: Sender<()>,
}

impl Monitor {
    /// Of these GPUs; reads nothing yet.
    pub fn new(library: Library, gpus: Vec<Gpu>) -> Monitor {
        Monitor { library: Arc::new(library), gpus, sampler: None }
    }

    /// Reads every `interval` from now on, into a CSV file; what it holds already stays.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn sample_every(&mut self, interval: Duration, path: &Path) -> Result<()> {
        let shown = path.display();
        let opened = File::options().create(true).append(true).open(path);
        let file = opened.with_context(|| format!("cannot write {shown} for --telemetry"))?;
        let empty = file.metadata()?.len() == 0;
        let mut writer = csv::WriterBuilder::new().has_headers(empty).from_writer(file);
        let taken = Arc::new(Mutex::new(Vec::new()));
        let (end, ended) = channel();
        let (library, gpus, kept) = (Arc::clone(&self.library), self.gpus.clone(), Arc::clone(&taken));
        std::thread::spawn(move || {
            while ended.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                for gpu in &gpus {
                    let moment = Moment {
                        at_ns: Monotonic.now(),
                        reading: library.reading(gpu),
                        company: Company::default(),
                    };
                    let _ = writer.serialize(sample(gpu, &moment));
                    kept.lock().expect("no thread panics with it").push((gpu.uuid.clone(), moment));
                }
                let _ = writer.flush();
            }
        });
        self.sampler = Some(Sampler { interval, taken, _end: end });
        Ok(())
    }

    /// One moment of every GPU that has a member of `run`, by UUID.
    pub fn look(&self, run: &Run) -> Vec<(String, Moment)> {
        let of_run = |gpu: &&Gpu| {
            run.members.iter().any(|m| m.instance.gpu_uuid.as_deref() == Some(gpu.uuid.as_str()))
        };
        let moment = |gpu: &Gpu| Moment {
            at_ns: Monotonic.now(),
            reading: self.library.reading(gpu),
            company: company(self.library.processes(gpu)),
        };
        self.gpus.iter().filter(of_run).map(|gpu| (gpu.uuid.clone(), moment(gpu))).collect()
    }

    /// The edges of an instance's GPU.
    pub fn edges(
        &self,
        instance: &Instance,
        before: &[(String, Moment)],
        after: &[(String, Moment)],
    ) -> Option<Edges> {
        let uuid = instance.gpu_uuid.as_deref()?;
        let of =
            |moments: &[(String, Moment)]| moments.iter().find(|(u, _)| u == uuid).map(|(_, m)| m.clone());
        let (before, after) = (of(before)?, of(after)?);
        let Some(sampler) = &self.sampler else {
            return Some(Edges { before, after, ..Edges::default() });
        };
        let taken = sampler.taken.lock().expect("no thread panics with it");
        let inside =
            taken.iter().filter(|(u, m)| u == uuid && (before.at_ns..=after.at_ns).contains(&m.at_ns));
        let samples = inside.map(|(_, moment)| moment.clone()).collect();
        Some(Edges { before, after, samples, interval_ns: Some(sampler.interval.as_nanos() as u64) })
    }

    /// Somebody else's processes in an instance, in words; none if it is free, or can't be seen.
    pub fn busy(&self, instance: &Instance) -> Option<String> {
        let gpu = self.gpus.iter().find(|gpu| instance.gpu_uuid.as_deref() == Some(gpu.uuid.as_str()))?;
        let mut waited = Duration::ZERO;
        loop {
            let there = self.library.processes(gpu)?;
            let others: Vec<String> = there
                .iter()
                .filter(|process| is_in(process, instance) && kin(process.pid) != Kin::Ours)
                .map(|process| describe(process.pid))
                .collect();
            if others.is_empty() {
                return None;
            }
            if waited >= LINGERS {
                return Some(others.join(", "));
            }
            std::thread::sleep(LOOK_EVERY);
            waited += LOOK_EVERY;
        }
    }
}

fn sample<'a>(gpu: &'a Gpu, moment: &Moment) -> Sample<'a> {
    Sample {
        at_ns: moment.at_ns,
        gpu_index: gpu.index,
        gpu_uuid: &gpu.uuid,
        gpu_sm_clock_mhz: moment.reading.sm_clock_mhz,
        gpu_power_w: moment.reading.power_mw.map(|mw| f64::from(mw) / 1e3),
        gpu_temperature_c: moment.reading.temperature_c,
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
