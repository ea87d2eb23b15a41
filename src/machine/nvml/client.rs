//! NVML during a sweep: a helper process, one replacement for it, and after that nothing. The sweep
//! goes on without readings.

use super::request::{Request, Snapshot, Target};
use super::{Helper, Silent};
use crate::machine::topology::Process;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How many helpers are started in place of one that was lost. A driver that hangs once mostly hangs
/// again, and each helper in such a call is a process that nobody can end.
const REPLACEMENTS: u32 = 1;

/// Asks for readings, whatever becomes of the driver.
pub struct Client {
    nvml: Option<PathBuf>,
    helper: Option<Helper>,
    may_start: u32,
    limit: Duration,
    /// Why each helper was lost; taken by [`Client::losses`].
    losses: Vec<Loss>,
}

/// A helper that was lost.
#[derive(Clone, Debug, PartialEq)]
pub struct Loss {
    /// How it was noticed.
    pub why: Silent,
    /// Nobody is asked any more.
    pub last: bool,
}

impl Client {
    /// Goes on with a helper that has answered. No answer may take longer than `limit`.
    pub fn of(helper: Helper, nvml: Option<&Path>, limit: Duration) -> Client {
        Client { helper: Some(helper), may_start: REPLACEMENTS, ..Client::unstarted(nvml, limit) }
    }

    /// Starts its own helper with the first question.
    fn unstarted(nvml: Option<&Path>, limit: Duration) -> Client {
        Client {
            nvml: nvml.map(Path::to_owned),
            helper: None,
            may_start: 1 + REPLACEMENTS,
            limit,
            losses: Vec::new(),
        }
    }

    /// Another client for the same library, with a helper of its own.
    pub fn another(&self) -> Client {
        Client::unstarted(self.nvml.as_deref(), self.limit)
    }

    /// Counters, state and processes of GPUs, in their order; none where nobody answers.
    pub fn snapshot(&mut self, gpus: &[Target], give_up: &dyn Fn() -> bool) -> Option<Vec<Snapshot>> {
        self.ask(&Request::Snapshot(gpus.to_vec()), gpus.len(), give_up)
    }

    /// The same without the processes.
    pub fn read(&mut self, gpus: &[Target], give_up: &dyn Fn() -> bool) -> Option<Vec<Snapshot>> {
        self.ask(&Request::Read(gpus.to_vec()), gpus.len(), give_up)
    }

    /// The processes of GPUs, in their order; none where nobody answers, or where the driver does not
    /// say.
    pub fn processes(
        &mut self,
        gpus: &[Target],
        give_up: &dyn Fn() -> bool,
    ) -> Option<Vec<Option<Vec<Process>>>> {
        self.ask(&Request::Processes(gpus.to_vec()), gpus.len(), give_up)
    }

    /// The losses since the last call.
    pub fn losses(&mut self) -> Vec<Loss> {
        std::mem::take(&mut self.losses)
    }

    /// As many answers as GPUs were named.
    fn ask<T: DeserializeOwned>(
        &mut self,
        request: &Request,
        gpus: usize,
        give_up: &dyn Fn() -> bool,
    ) -> Option<Vec<T>> {
        while self.helper.is_some() || self.may_start > 0 {
            let answer = self.helper_or_new().and_then(|mut helper| {
                let answer: Vec<T> = helper.ask(request, self.limit, give_up)?;
                if answer.len() != gpus {
                    let how = format!("said something else: {} answers for {gpus} GPUs", answer.len());
                    return Err(Silent::Died(how));
                }
                // One that did not answer is dropped instead, and ended with that.
                self.helper = Some(helper);
                Ok(answer)
            });
            match answer {
                Ok(answer) => return Some(answer),
                // The user does not want to wait: that says nothing about the driver.
                Err(_) if give_up() => return None,
                Err(why) => self.losses.push(Loss { why, last: self.may_start == 0 }),
            }
        }
        None
    }

    fn helper_or_new(&mut self) -> Result<Helper, Silent> {
        if let Some(helper) = self.helper.take() {
            return Ok(helper);
        }
        self.may_start -= 1;
        Helper::start(self.nvml.as_deref())
    }
}
