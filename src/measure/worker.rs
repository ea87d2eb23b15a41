//! The worker process: hidden verb `worker`, one device, one job, told by the parent when.

use super::bins::LONGEST_COMMON_LOAD_NS;
use super::clock::{Clock, Monotonic, Virtual};
use super::fault::{Fault, Phase};
use super::program;
use super::protocol::{self, Device, FromWorker, Job, ToWorker};
use super::records::{Extras, Records};
use super::window::{Control, Ended, Task, Window};
use crate::machine::{child, host, processes, thread};
use crate::workload::scripted::{Script, Scripted};
use crate::workload::{DeviceIdentity, Kind, Own, Spec, Sync, Workload, check, cpu, cuda, onnx};
use anyhow::{Context, Result, bail};
use rustix::process::{Signal, getpid, getppid, kill_process};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Between two progress messages: at most 10 a second.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// From the parent's end until what the worker started is left alone: as long as a supervisor takes to
/// end a program.
const LEAVE_LIMIT: Duration = Duration::from_secs(10);

/// What `migbench worker` answers a person.
pub const BY_HAND: &str = "migbench worker is the process that 'migbench run' starts on each instance and speaks \
                           with; it does nothing without that parent: call 'migbench run'";

/// Whether a migbench started this worker: by hand there is neither a job nor a parent that would miss it.
pub fn has_parent() -> bool {
    let parent = getppid().map(|pid| pid.as_raw_pid().to_string());
    std::env::var(child::PARENT).ok() == parent && parent.is_some()
}

/// Speaks the protocol on standard input and output until the job is done.
///
/// # Errors
/// What went wrong; the parent has been told, if it could be.
pub fn run() -> Result<()> {
    let out = Out::take_stdout()?;
    let mut stdin = BufReader::new(std::io::stdin());
    let job = match read_message(&mut stdin)? {
        Some(ToWorker::Job(job)) => *job,
        other => bail!("expected a job on standard input, got {other:?}"),
    };
    // Before any thread is started: they inherit it.
    host::stay_on(&job.cpus)?;
    let control = Arc::new(Control::default());
    thread::start("listener", {
        let control = Arc::clone(&control);
        move || listen(stdin, &control)
    })?;
    report_progress(&control, &out)?;
    let mut phase = Phase::Hello;
    let outcome = dispatch(&job, &control, &out, &mut phase);
    if let Err(error) = &outcome {
        out.send(&FromWorker::Failed { phase: phase.name().into(), error: format!("{error:#}") })?;
    }
    outcome
}

/// The protocol's stream: a private copy of standard output, while descriptor 1 points at standard
/// error, so that nothing a library prints can get between two messages.
#[derive(Clone)]
pub(super) struct Out(Arc<Mutex<File>>);

impl Out {
    fn take_stdout() -> Result<Out> {
        let private = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
        rustix::stdio::dup2_stdout(rustix::stdio::stderr())?;
        Ok(Out(Arc::new(Mutex::new(File::from(private)))))
    }

    pub(super) fn send(&self, message: &FromWorker) -> Result<()> {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&protocol::encode(message)).context("the parent is gone")
    }

    fn fault(&self, fault: Option<Fault>, phase: Phase) -> Result<()> {
        match fault {
            Some(fault) => fault.at(phase, &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)),
            None => Ok(()),
        }
    }
}

fn read_message(stdin: &mut impl BufRead) -> Result<Option<ToWorker>> {
    let mut line = Vec::new();
    stdin.take(protocol::MAX_LINE).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    protocol::decode(&line).map(Some)
}

/// The reader thread. The end of the stream means that the parent is gone: so is the worker, then, with
/// whatever it started, and without tidying up under the feet of the thread that measures.
fn listen(mut stdin: impl BufRead, control: &Control) {
    loop {
        match read_message(&mut stdin) {
            Ok(Some(ToWorker::Start { at_ns })) => control.start_at.store(at_ns, Relaxed),
            Ok(Some(ToWorker::Stages)) => control.stages.store(true, Relaxed),
            Ok(Some(ToWorker::Cut)) => control.cut.store(true, Relaxed),
            Ok(Some(ToWorker::Stop)) => control.stop.store(true, Relaxed),
            Ok(Some(ToWorker::Job(_)) | None) | Err(_) => {
                processes::end_descendants(LEAVE_LIMIT);
                let _ = kill_process(getpid(), Signal::KILL);
            }
        }
    }
}

/// Opens the device, says hello, and hands workload and clock to [`work`].
fn dispatch(job: &Job, control: &Arc<Control>, out: &Out, phase: &mut Phase) -> Result<()> {
    match &job.own {
        Some(Own::Program(program)) => return program::supervise(job, program, control, out, phase),
        Some(Own::Model(model)) => return run_model(job, model, control, out, phase),
        None => {}
    }
    let spec: Spec = job.workload.parse()?;
    if let Kind::Scripted(text) = &spec.kind {
        let script = Script::parse(text)?;
        let fault = script.fault.as_deref().map(Fault::parse).transpose()?;
        let mut session = Session { job, spec: &spec, control, out, phase, fault, computes: true };
        session.hello(cpu_identity())?;
        if script.real_clock {
            let mut workload = Scripted::new(text, Monotonic)?;
            return session.work(&Monotonic, &mut workload);
        }
        let clock = Virtual::starting_at(Monotonic.now());
        let mut workload = Scripted::new(text, clock.clone())?;
        return session.work(&clock, &mut workload);
    }
    let mut session = Session { job, spec: &spec, control, out, phase, fault: None, computes: true };
    match job.device {
        Device::Cpu => {
            session.hello(cpu_identity())?;
            cpu::start_threads(job.settings.threads)?;
            let mut workload = cpu::Cpu::new(job.workload.clone(), spec.network(), job.settings.clone())?;
            session.work(&Monotonic, &mut workload)
        }
        Device::Cuda => {
            let device = cuda::Device::open(job.settings.sync)?;
            let gemm_version = cuda::gemm_version(&device, &job.settings, &spec.network())?;
            session.hello(DeviceIdentity { gemm_version, ..device.identity() })?;
            let (name, settings) = (job.workload.clone(), job.settings.clone());
            let mut workload = cuda::Cuda::new(device, name, spec.network(), settings)?;
            session.work(&Monotonic, &mut workload)
        }
    }
}

/// The user's own network, by ONNX Runtime.
fn run_model(
    job: &Job,
    model: &onnx::Model,
    control: &Arc<Control>,
    out: &Out,
    phase: &mut Phase,
) -> Result<()> {
    let spec = Spec { kind: Kind::Own(job.workload.clone()), seq_len: Spec::SEQ_LEN };
    let mut session = Session { job, spec: &spec, control, out, phase, fault: None, computes: true };
    // Kept open: its context is the process's, which ONNX Runtime uses.
    let device = match job.device {
        Device::Cpu => None,
        Device::Cuda => Some(cuda::Device::open(job.settings.sync)?),
    };
    let identity = device.as_ref().map_or_else(cpu_identity, cuda::Device::identity);
    session.hello(DeviceIdentity { kernels: model.kernels(), ..identity })?;
    let mut workload = onnx::Onnx::new(model.clone(), job.settings.clone())?;
    session.work(&Monotonic, &mut workload)
}

fn cpu_identity() -> DeviceIdentity {
    DeviceIdentity {
        name: host::cpu_name(),
        device_count: 1,
        memory_bytes: host::total_memory_bytes(),
        free_bytes: host::available_memory_bytes(),
        kernels: cpu::KERNELS.to_owned(),
        ..DeviceIdentity::default()
    }
}

/// One job, from hello to done.
struct Session<'a> {
    job: &'a Job,
    spec: &'a Spec,
    control: &'a Arc<Control>,
    out: &'a Out,
    phase: &'a mut Phase,
    fault: Option<Fault>,
    /// A stand-in for a driver runs no kernels: its output means nothing and is not checked.
    computes: bool,
}

impl Session<'_> {
    fn enter(&mut self, phase: Phase) -> Result<()> {
        *self.phase = phase;
        self.out.fault(self.fault, phase)
    }

    fn hello(&mut self, identity: DeviceIdentity) -> Result<()> {
        self.enter(Phase::Hello)?;
        self.computes = !identity.is_stand_in();
        self.out.send(&FromWorker::Hello { identity })
    }

    fn work<C: Clock>(&mut self, clock: &C, workload: &mut dyn Workload) -> Result<()> {
        let batch = self.job.batch;
        self.enter(Phase::Prepare)?;
        let task = Task {
            load: self.job.load.clone(),
            batch,
            lanes: self.job.inflight,
            seed: self.job.arrival_seed,
            clock_samples: self.job.clock_samples,
            spin: self.job.settings.sync == Sync::Spin,
        };
        let sizes = task.load.batch_sizes(batch);
        workload.prepare(&sizes, task.lanes)?;
        let before = workload.checked_output(batch)?;
        let mut records = Records::new(&task.load, batch, task.lanes);
        records.know(&self.job.rule);
        if self.job.intervals {
            let out = self.out.clone();
            records.keep_intervals(move |message| {
                // A parent that is gone ends the worker by itself.
                let _ = out.send(&message);
            })?;
        }
        let mut window = Window::new(clock, workload, &task, self.control);
        // Before the warm-up: the probe is made when it is first asked for.
        window.sm_clock_mhz()?;
        let warmup_batches = window.warm_up()?;
        self.enter(Phase::Ready)?;
        window.start_log();
        self.out.send(&FromWorker::Ready { warmup_batches })?;

        window.load_while(|_, c| c.start_at.load(Relaxed) == 0 && !c.stop.load(Relaxed))?;
        let start_at = self.control.start_at.load(Relaxed);
        window.forget_pauses_before(start_at.saturating_sub(LONGEST_COMMON_LOAD_NS));
        let clock_before = window.sm_clock_mhz()?;
        window.load_while(|clock, c| clock.now() < c.start_at.load(Relaxed) && !c.stop.load(Relaxed))?;
        if self.control.stop.load(Relaxed) {
            return self.out.send(&FromWorker::Done {
                output_error: None,
                output_failure: None,
                output_partial: false,
                output_non_finite: false,
                forced: false,
            });
        }
        self.enter(Phase::Window)?;
        let throttled_before = host::cgroup_throttled_us();
        let ended = window.measure(self.job.rule, &mut records)?;
        let clock_after = window.sm_clock_mhz()?;
        records.finish_intervals();
        let throttled_after = host::cgroup_throttled_us();
        self.enter(Phase::WindowDone)?;
        self.out.send(&FromWorker::WindowDone {
            latency: records.latency(),
            extras: Box::new(Extras {
                arrived: records.arrived(),
                saturated: ended == Ended::Saturated,
                known: records.known(),
                sm_clock_mhz: [clock_before.as_slice(), window.clocks(), clock_after.as_slice()].concat(),
                imported: None,
                coarse_times: false,
            }),
            load: window.log(),
            cut: ended == Ended::Cut,
            cpu_throttled_us: throttled_after
                .zip(throttled_before)
                .and_then(|(after, before)| after.checked_sub(before)),
        })?;

        window.load_while(|_, c| !c.stages.load(Relaxed) && !c.stop.load(Relaxed))?;
        // One more, which begins after every window has ended: the load reaches beyond all of them.
        window.load_once()?;
        self.enter(Phase::Stages)?;
        if self.control.stages.load(Relaxed) {
            let stages = window.split()?;
            self.out.send(&FromWorker::StagesDone { stages, load: window.log() })?;
        }
        window.load_while(|_, c| !c.stop.load(Relaxed))?;
        self.enter(Phase::Done)?;
        let verdict = match (before, ended) {
            (Some(before), Ended::Rule | Ended::Saturated) if self.computes => {
                let after = workload.checked_output(batch)?.unwrap_or_default();
                let network = self.spec.network();
                Some(match workload.judge(&before, &after)? {
                    Some(verdict) => verdict,
                    None => {
                        // It shows that this worker is alive.
                        let alive = || _ = self.control.unmeasured.fetch_add(1, Relaxed);
                        let outputs = [&before[..], &after[..]];
                        check::check(workload, &network, &self.job.settings, &sizes, outputs, &alive)?
                    }
                })
            }
            _ => None,
        };
        self.out.send(&FromWorker::Done {
            output_error: verdict.as_ref().map(|verdict| verdict.error).filter(|error| error.is_finite()),
            output_partial: verdict.as_ref().is_some_and(|verdict| verdict.partial),
            output_non_finite: verdict.as_ref().is_some_and(|verdict| verdict.non_finite),
            output_failure: verdict.and_then(|verdict| verdict.failure),
            forced: false,
        })
    }
}

/// The progress thread: tells how far the worker is whenever that has changed.
fn report_progress(control: &Arc<Control>, out: &Out) -> Result<()> {
    let (control, out) = (Arc::clone(control), out.clone());
    thread::start("progress", move || {
        let mut last = (0, 0);
        loop {
            std::thread::sleep(PROGRESS_EVERY);
            let now = (control.unmeasured.load(Relaxed), control.batches.load(Relaxed));
            let message = FromWorker::Progress { unmeasured: now.0, batches: now.1 };
            if now != last && out.send(&message).is_err() {
                return;
            }
            last = now;
        }
    })?;
    Ok(())
}
