//! The processes below this one, as /proc shows them: found and ended, whatever session or process group
//! they have moved to.

use super::child;
use rustix::process::{Pid, Signal, getpid, kill_process};
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

/// Between two rounds of [`end_descendants`]: a killed process needs about this long to end.
const ROUND: Duration = Duration::from_millis(1);

/// The processes below `of`, those that have ended and are not yet reaped included.
pub fn descendants(of: Pid) -> Vec<Pid> {
    let mut found = HashSet::new();
    let mut todo = vec![of];
    let mut table = None;
    while let Some(parent) = todo.pop() {
        let children = match listed_children(parent) {
            Some(children) => children,
            // A kernel without CONFIG_PROC_CHILDREN.
            None if !has_children_files() => {
                table.get_or_insert_with(parents).get(&parent.as_raw_pid()).cloned().unwrap_or_default()
            }
            None => continue,
        };
        todo.extend(children.into_iter().filter(|&pid| found.insert(pid)));
    }
    found.into_iter().collect()
}

/// The children of one process; empty if it has ended.
pub fn children(of: Pid) -> Vec<Pid> {
    match listed_children(of) {
        Some(children) => children,
        None if !has_children_files() => parents().remove(&of.as_raw_pid()).unwrap_or_default(),
        None => Vec::new(),
    }
}

/// What /proc/PID/task/*/children lists; `None` without such files, as for a process that has gone.
fn listed_children(of: Pid) -> Option<Vec<Pid>> {
    let tasks = fs::read_dir(format!("/proc/{}/task", of.as_raw_pid())).ok()?;
    let lists = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let lists: Vec<String> = lists.collect();
    let pids = lists.iter().flat_map(|list| list.split_whitespace()).filter_map(|pid| pid.parse().ok());
    (!lists.is_empty()).then(|| pids.filter_map(Pid::from_raw).collect())
}

fn has_children_files() -> bool {
    let own = getpid().as_raw_pid();
    fs::exists(format!("/proc/{own}/task/{own}/children")).unwrap_or(false)
}

/// Every process of the machine, by the process id of its parent.
fn parents() -> BTreeMap<i32, Vec<Pid>> {
    let mut table: BTreeMap<i32, Vec<Pid>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        if let Some((pid, stat)) = pid.and_then(|pid| Some((pid, stat(pid)?))) {
            table.entry(stat.1).or_default().push(pid);
        }
    }
    table
}

/// The state of a process and the process id of its parent, from /proc/PID/stat; its name, which comes
/// before them in brackets, may hold anything.
fn stat(pid: Pid) -> Option<(char, i32)> {
    let text = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// Whether it has not ended. One that has ended and waits to be reaped does not run.
fn runs(pid: Pid) -> bool {
    stat(pid).is_some_and(|(state, _)| !matches!(state, 'Z' | 'X' | 'x'))
}

/// A process that goes on although it was killed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// Its process id.
    pub pid: i32,
    name: String,
    /// The kernel refused the signal: it belongs to another user.
    refused: bool,
}

impl Left {
    fn new(pid: Pid, refused: bool) -> Left {
        let name = fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_pid())).unwrap_or_default();
        Left { pid: pid.as_raw_pid(), name: name.trim_end().to_owned(), refused }
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let why = if self.refused { "belongs to another user" } else { "does not end, though killed" };
        write!(f, "pid {} ({}) still runs: it {why}", self.pid, self.name)
    }
}

/// Kills processes round by round, so that the caller can do something else in between.
#[derive(Debug, Default)]
pub struct Killer {
    refused: HashSet<Pid>,
}

impl Killer {
    /// Kills those of `pids` that run. Returns the ones worth another look: those that this process may
    /// not kill are noted once and then left alone.
    pub fn round(&mut self, pids: impl IntoIterator<Item = Pid>) -> Vec<Pid> {
        let mut running = Vec::new();
        for pid in pids.into_iter().filter(|&pid| runs(pid)) {
            match kill_process(pid, Signal::KILL) {
                Ok(()) => running.push(pid),
                Err(rustix::io::Errno::PERM) => _ = self.refused.insert(pid),
                Err(_) => {}
            }
        }
        running
    }

    /// What still runs: `deaf`, and what refused to be killed.
    pub fn left(&self, deaf: &[Pid]) -> Vec<Left> {
        let refused = self.refused.iter().filter(|&&pid| runs(pid)).map(|&pid| Left::new(pid, true));
        let mut left: Vec<Left> = refused.chain(deaf.iter().map(|&pid| Left::new(pid, false))).collect();
        left.sort_by_key(|process| process.pid);
        left
    }
}

/// Kills everything below this process until nothing of it runs, for no longer than `limit`; returns what
/// could not be ended. This process should be a subreaper, or what loses its parent escapes.
pub fn end_descendants(limit: Duration) -> Vec<Left> {
    let deadline = Instant::now() + limit;
    let mut killer = Killer::default();
    loop {
        // What is killed may just have started another process: until a round finds none.
        let running = killer.round(descendants(getpid()));
        child::reap_strangers();
        if running.is_empty() || Instant::now() >= deadline {
            return killer.left(&running);
        }
        std::thread::sleep(ROUND);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn descendants_are_found_by_both_ways() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 600 & setsid sleep 600 & echo started; wait"]).stdout(Stdio::piped());
        let mut shell = child::spawn(command, Signal::KILL).unwrap();
        let mut line = [0; 8];
        std::io::Read::read_exact(shell.stdout.as_mut().unwrap(), &mut line).unwrap();
        let found = descendants(shell.pid());
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(parents()[&shell.pid().as_raw_pid()].len(), 2);
        assert!(found.iter().all(|&pid| runs(pid)));
        let mut killer = Killer::default();
        while !killer.round(found.clone()).is_empty() {
            std::thread::sleep(ROUND);
        }
        assert_eq!(killer.left(&[]), []);
        assert!(shell.wait_for(Duration::from_secs(60)).unwrap().is_some(), "it waited for them");
    }

    #[test]
    fn a_process_that_stays_is_named() {
        let left = Left { pid: 77, name: "sleep".into(), refused: true };
        assert_eq!(left.to_string(), "pid 77 (sleep) still runs: it belongs to another user");
    }
}
