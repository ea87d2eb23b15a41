//! Were the neighbours really there? Overlap, pauses and rates of a co-run, from recorded windows and
//! loads. Pure.
//!
//! Before the windows open, all workers load together for a while. What a worker did in that common
//! phase is the rate that it is held to. Its median inside a window is not: a worker that stands still
//! for most of a window has a median of 0 there.

use crate::measure::bins::{LoadLog, Pause};
use crate::measure::recorder::Recording;

/// Below this share of the window with every co-runner loading, a row is invalid.
pub const LEAST_OVERLAP: f64 = 0.999;
/// A co-runner below this share of its rate in the common phase stalled.
const LEAST_RATE: f64 = 0.9;
/// A rate is counted over a second, or over the time of 20 batches where that is longer.
const SECOND_NS: f64 = 1e9;
const LEAST_BATCHES: f64 = 20.0;
/// Random arrivals vary by the root of their number: 2500 are within 10 % of their mean by five
/// standard deviations.
const LEAST_ARRIVALS: f64 = 2500.0;
const DEVIATIONS: f64 = 5.0;
/// Pauses up to this are what a busy host does.
const PAUSE_NS: f64 = 250e6;
/// So many batches, or this share of the window, may be missed; two batches always.
const PAUSE_BATCHES: f64 = 20.0;
const PAUSE_SHARE: f64 = 0.1;
const PAUSE_LEAST_BATCHES: f64 = 2.0;
/// A window may open this much after the named time, or by this share of its length, or a batch.
const LATE_NS: f64 = 50e6;
const LATE_SHARE: f64 = 0.01;
/// The longest batch of the common phase counts as a batch up to so many times the median one.
const LONGEST_BATCH: u64 = 3;

/// One member's part in a co-run.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// Its window, if it got that far.
    pub recording: Option<&'a Recording>,
    /// Its load since it was ready, as far as it told.
    pub load: Option<&'a LoadLog>,
    /// How its batches come.
    pub pace: Pace,
}

/// How a worker's batches come, as far as their number in some time says what the worker did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// One after the other.
    #[default]
    Closed,
    /// By a schedule with one rate.
    Arrivals,
    /// By a trace, whose rate may change at any time: fewer batches may be all that arrived.
    Trace,
}

/// The time in which all loaded before their windows opened, CLOCK_MONOTONIC ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommonPhase {
    /// When the last worker was ready.
    pub from_ns: u64,
    /// When the windows were to open.
    pub to_ns: u64,
}

/// What can be said of one member's row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CoRun {
    /// Share of its window in which every co-runner was loading.
    pub overlap: Option<f64>,
    /// Its batches while all that measured were measuring.
    pub batches_common: Option<u64>,
    /// Why its window is not that of a co-run, naming every worker that caused it.
    pub disturbed: Option<String>,
}

/// Judges the window of `parts[member]`; `names` are for messages.
pub fn judge(parts: &[Part], names: &[String], phase: CommonPhase, member: usize) -> CoRun {
    let Some(window) = parts[member].recording else { return CoRun::default() };
    // A program that reports nothing may have loaded its device, or not.
    if parts.iter().any(|part| part.load.is_some_and(LoadLog::is_unknown)) {
        return CoRun::default();
    }
    let mut reasons: Vec<String> = Vec::new();
    reasons.extend(
        late(&parts[member], window, phase).map(|what| format!("{} (this one) {what}", names[member])),
    );
    reasons.extend(apart(parts, names));
    reasons.extend(paused(parts, names, window, member));
    for (other, part) in parts.iter().enumerate().filter(|(other, _)| *other != member) {
        reasons.extend(absent(part, window).map(|what| format!("{} {what}", names[other])));
        reasons.extend(stalled(part, window, phase).map(|what| format!("{} {what}", names[other])));
    }
    CoRun {
        overlap: Some(overlap(parts, window, member)),
        batches_common: batches_common(parts, member),
        disturbed: (!reasons.is_empty()).then(|| reasons.join("; ")),
    }
}

/// Share of a window in which every co-runner was loading.
fn overlap(parts: &[Part], window: &Recording, member: usize) -> f64 {
    let (mut from, mut to) = (window.start_ns, window.end_ns);
    for (_, part) in parts.iter().enumerate().filter(|(other, _)| *other != member) {
        match part.load {
            Some(load) => (from, to) = (from.max(load.start_ns), to.min(load.end_ns)),
            None => to = from,
        }
    }
    let length = (window.end_ns - window.start_ns).max(1) as f64;
    to.saturating_sub(from) as f64 / length
}

/// Batches within the time in which every member that has a window was in it.
fn batches_common(parts: &[Part], member: usize) -> Option<u64> {
    let (from, to) = common_window(parts)?;
    let common = parts[member].load?.between(from, to).round() as u64;
    // The load is counted in bins, and a bin that lies across an edge in proportion: that may be one
    // batch more than the window has.
    Some(parts[member].recording.map_or(common, |window| common.min(window.batches)))
}

/// The time in which every member that has a window was in it, in ns; none if there is none.
pub fn common_window(parts: &[Part]) -> Option<(u64, u64)> {
    let windows = || parts.iter().filter_map(|part| part.recording);
    let from = windows().map(|w| w.start_ns).max()?;
    let to = windows().map(|w| w.end_ns).min()?;
    (from < to).then_some((from, to))
}

/// A window that opened too long after the named time, in words.
fn late(part: &Part, window: &Recording, phase: CommonPhase) -> Option<String> {
    let late = window.start_ns.saturating_sub(phase.to_ns) as f64;
    let length = (window.end_ns - window.start_ns) as f64;
    let limit = LATE_NS.max(LATE_SHARE * length).max(part.load.map_or(0.0, |load| one_batch(load, phase)));
    (late > limit).then(|| {
        format!("opened its window {} s after the common start (at most {} s)", seconds(late), seconds(limit))
    })
}

/// How long the batch may have been that was in flight at the named time, in ns: the median one, or the
/// longest of the common phase, unless the worker stood still there.
fn one_batch(load: &LoadLog, phase: CommonPhase) -> f64 {
    let inside = load.pauses.iter().filter(|p| p.start_ns >= phase.from_ns && p.end_ns <= phase.to_ns);
    let longest = inside.map(Pause::length_ns).max().unwrap_or(0);
    longest.min(LONGEST_BATCH * load.batch_ns).max(load.batch_ns) as f64
}

/// Two windows that do not touch, in words: then there is no time in which all measured. All windows were
/// to open at one time, so that it is the later one's doing.
fn apart(parts: &[Part], names: &[String]) -> Option<String> {
    let windows = || parts.iter().zip(names).filter_map(|(part, name)| Some((part.recording?, name)));
    let first = windows().map(|(window, _)| window.end_ns).min()?;
    let (last, name) = windows().max_by_key(|(window, _)| window.start_ns)?;
    let gap = last.start_ns.checked_sub(first)?;
    Some(format!(
        "the windows do not touch: {name} opened its own {} s after another had closed",
        seconds(gap as f64)
    ))
}

/// Every worker that stood still for too long in this window, the longest pause first, in words.
fn paused(parts: &[Part], names: &[String], window: &Recording, member: usize) -> Vec<String> {
    let length = window.end_ns - window.start_ns;
    let mut found: Vec<(u64, String)> = Vec::new();
    for (worker, part) in parts.iter().enumerate() {
        let Some(load) = part.load else { continue };
        let limit = pause_limit_ns(length, load.batch_ns);
        let name =
            if worker == member { format!("{} (this one)", names[worker]) } else { names[worker].clone() };
        if let Some(pause) = too_long(load, window.start_ns, window.end_ns, limit) {
            let lasted = seconds(pause.length_ns() as f64);
            let text = format!(
                "{name} stood still for {lasted} s, {} (at most {} s)",
                place(pause.start_ns, window.start_ns),
                seconds(limit)
            );
            found.push((pause.length_ns(), text));
        } else if load.dropped_ns as f64 > limit {
            found.push((load.dropped_ns, format!("{name} stood still more often than is recorded")));
        }
    }
    found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    found.into_iter().map(|(_, text)| text).collect()
}

/// When something began, seen from the start of a window.
fn place(begin: u64, start: u64) -> String {
    match begin.checked_sub(start) {
        Some(after) => format!("from second {} of this window on", seconds(after as f64)),
        None => format!("from {} s before this window on", seconds((start - begin) as f64)),
    }
}

/// The longest pause that touches the time from `start` to `end`, if it is beyond `limit` ns.
fn too_long(load: &LoadLog, start: u64, end: u64, limit: f64) -> Option<Pause> {
    load.longest_pause(start, end).filter(|pause| pause.length_ns() as f64 > limit)
}

/// How long a worker with such batches may do nothing in a window of such a length, in ns.
pub fn pause_limit_ns(window_ns: u64, batch_ns: u64) -> f64 {
    let (window, batch) = (window_ns as f64, batch_ns as f64);
    PAUSE_NS.max((PAUSE_BATCHES * batch).min((PAUSE_SHARE * window).max(PAUSE_LEAST_BATCHES * batch)))
}

/// A co-runner that was not there from the start to the end of this window, in words.
fn absent(part: &Part, window: &Recording) -> Option<String> {
    let Some(load) = part.load else { return Some("failed, and nothing shows what it did".into()) };
    if load.start_ns > window.start_ns {
        let late = (load.start_ns - window.start_ns) as f64;
        return Some(format!("came {} s after the start of this window", seconds(late)));
    }
    (load.end_ns < window.end_ns).then(|| {
        let gone = (window.end_ns - load.end_ns) as f64;
        format!("left {} s before the end of this window", seconds(gone))
    })
}

/// What a worker did in the common phase.
struct Reference {
    /// Batches per ns; of what chance leaves open, the lower end.
    rate: f64,
    /// The same, without allowing for chance.
    mean_rate: f64,
    /// For how much of the phase it stood still, in ns.
    still: f64,
}

impl Reference {
    fn of(part: &Part, load: &LoadLog, phase: CommonPhase) -> Reference {
        // A standstill in the phase itself would lower what is asked of the worker afterwards.
        let limit = PAUSE_NS.max(PAUSE_LEAST_BATCHES * load.batch_ns as f64);
        let still = |pause: &Pause| {
            let inside = pause.end_ns.min(phase.to_ns).saturating_sub(pause.start_ns.max(phase.from_ns));
            if pause.length_ns() as f64 > limit { inside as f64 } else { 0.0 }
        };
        let length = phase.to_ns.saturating_sub(phase.from_ns) as f64;
        let still = load.pauses.iter().map(still).sum::<f64>();
        let length = length - still;
        if length <= 0.0 {
            return Reference { rate: 0.0, mean_rate: 0.0, still };
        }
        let batches = load.between(phase.from_ns, phase.to_ns);
        let chance = if part.pace == Pace::Closed { 1.0 } else { DEVIATIONS * batches.sqrt() };
        Reference { rate: (batches - chance).max(0.0) / length, mean_rate: batches / length, still }
    }
}

/// The first part of this window in which a co-runner fell under 90 % of its rate in the common phase,
/// in words.
fn stalled(part: &Part, window: &Recording, phase: CommonPhase) -> Option<String> {
    let load = part.load.filter(|_| part.pace != Pace::Trace)?;
    let reference = Reference::of(part, load, phase);
    let closed = part.pace == Pace::Closed;
    if reference.rate <= 0.0 {
        // Of batches that are longer than the phase, or of few arrivals, no rate is asked. Of a worker that
        // stood still for so much of the phase, one is asked that nobody knows.
        let is_missing = reference.still > 0.0 && (closed || reference.mean_rate <= 0.0);
        let lasted = seconds(reference.still);
        return is_missing.then(|| {
            format!("stood still for {lasted} s before the windows opened, so that its rate is not known")
        });
    }
    let (start, end) = (window.start_ns, window.end_ns.min(load.end_ns));
    let length = end.checked_sub(start).filter(|&ns| ns > 0)? as f64;
    let least = if closed { LEAST_BATCHES } else { LEAST_ARRIVALS };
    let block = (least / reference.mean_rate).max(SECOND_NS).min(length);
    // Overlapping blocks: a stall across the edge of two would halve.
    let step = block / 4.0;
    let count = ((length - block) / step).floor() as usize + 1;
    let few = |from: f64, length: f64| {
        let batches = load.between(start + from as u64, start + (from + length) as u64);
        let expected = reference.rate * length;
        // One batch more or less falls into a block by chance; of random arrivals, more.
        let chance = if closed { 0.0 } else { DEVIATIONS * expected.sqrt() };
        (batches + 1.0 < LEAST_RATE * expected && batches < expected - chance).then_some(batches / length)
    };
    let mut blocks = (0..count).map(|i| (i as f64 * step, block)).chain([(0.0, length)]);
    let (from, rate) = blocks.find_map(|(from, length)| Some((from, few(from, length)?)))?;
    Some(format!(
        "stalled: {:.3} of {:.3} batches/s at second {:.1} of this window",
        rate * 1e9,
        reference.mean_rate * 1e9,
        from / 1e9
    ))
}

/// For messages, to 10 ms.
fn seconds(ns: f64) -> String {
    format!("{:.2}", ns / 1e9)
}

#[cfg(test)]
#[path = "corun/tests.rs"]
mod tests;
