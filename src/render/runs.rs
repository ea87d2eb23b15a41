//! The plan of a sweep: what would run, in which order.

use crate::sweep::plan::{Member, Run};
use std::io::{self, Write};

/// One line a run; its members side by side.
///
/// # Errors
/// The stream does not take it.
pub fn table(out: &mut dyn Write, runs: &[Run]) -> io::Result<()> {
    for (index, run) in runs.iter().enumerate() {
        let members: Vec<String> = run.members.iter().map(member).collect();
        let mode = format!("{:?}", run.mode).to_lowercase();
        writeln!(out, "{:>4}  round {}  {mode:<10}  {}", index + 1, run.repetition, members.join("  |  "))?;
    }
    Ok(())
}

fn member(member: &Member) -> String {
    let uuid = member.instance.uuid().unwrap_or("CPU");
    format!("{} {uuid} {} batch {}", member.instance.label(), member.job.workload, member.job.batch)
}

/// An array of runs.
///
/// # Errors
/// The stream does not take it.
pub fn json(out: &mut dyn Write, runs: &[Run]) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, runs)?;
    writeln!(out)
}
