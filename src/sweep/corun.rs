//! Were the neighbours really there? Overlap and intensity of a co-run, from recorded windows and
//! loads. Pure.

use crate::measure::bins::LoadLog;
use crate::measure::recorder::Recording;

/// Below this share of the window with every co-runner loading, a row is invalid.
pub const LEAST_OVERLAP: f64 = 0.999;
/// A co-runner below this share of its own median rate stalled.
const LEAST_RATE: f64 = 0.9;
/// A rate is counted over a second, or over the time of so many batches where they are longer.
const SECOND_NS: f64 = 1e9;
const LEAST_BATCHES: f64 = 20.0;
/// Random arrivals vary by the root of their number: so many are within 10 % of their mean by five
/// standard deviations.
const LEAST_ARRIVALS: f64 = 2500.0;

/// One member's part in a co-run.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// Its window, if it got that far.
    pub recording: Option<&'a Recording>,
    /// Its load since it was ready, as far as it told.
    pub load: Option<&'a LoadLog>,
    /// Its batches arrive by a schedule.
    pub scheduled: bool,
}

/// What can be said of one member's row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CoRun {
    /// Share of its window in which every co-runner was loading.
    pub overlap: Option<f64>,
    /// Its batches while all that measured were measuring.
    pub batches_common: Option<u64>,
    /// A co-runner that left or stalled while this one measured, and how.
    pub disturbed: Option<String>,
}

/// Judges the window of `parts[member]`; `names` are for messages.
pub fn judge(parts: &[Part], names: &[String], member: usize) -> CoRun {
    let Some(window) = parts[member].recording else { return CoRun::default() };
    // A program that reports nothing may have loaded its device, or not.
    if parts.iter().any(|part| part.load.is_some_and(LoadLog::is_unknown)) {
        return CoRun::default();
    }
    let (start, end) = (window.start_ns, window.end_ns);
    let mut common = (start, end);
    let mut disturbed = None;
    for (other, part) in parts.iter().enumerate().filter(|(other, _)| *other != member) {
        let Some(load) = part.load else {
            common.1 = common.0;
            disturbed.get_or_insert(format!("{} never loaded in this window", names[other]));
            continue;
        };
        common = (common.0.max(load.start_ns), common.1.min(load.end_ns));
        if load.start_ns > start {
            let late = (load.start_ns - start) as f64 / 1e9;
            disturbed
                .get_or_insert(format!("{} came {late:.1} s after the start of this window", names[other]));
        } else if load.end_ns < end {
            let gone = (end - load.end_ns) as f64 / 1e9;
            disturbed
                .get_or_insert(format!("{} left {gone:.1} s before the end of this window", names[other]));
        } else if let Some(stall) = stall(load, start, end, part.scheduled) {
            disturbed.get_or_insert(format!("{} {stall}", names[other]));
        }
    }
    let length = (end - start).max(1) as f64;
    let overlap = common.1.saturating_sub(common.0) as f64 / length;
    CoRun { overlap: Some(overlap), batches_common: batches_common(parts, member), disturbed }
}

/// Batches within the time in which every member that has a window was in it.
fn batches_common(parts: &[Part], member: usize) -> Option<u64> {
    let (from, to) = common_window(parts)?;
    Some(parts[member].load?.between(from, to).round() as u64)
}

/// The time in which every member that has a window was in it, in ns; none if there is none.
pub fn common_window(parts: &[Part]) -> Option<(u64, u64)> {
    let windows = || parts.iter().filter_map(|part| part.recording);
    let from = windows().map(|w| w.start_ns).max()?;
    let to = windows().map(|w| w.end_ns).min()?;
    (from < to).then_some((from, to))
}

/// The first part of the time from `start` to `end` in which the load fell under 90 % of its own
/// median rate, in words.
fn stall(load: &LoadLog, start: u64, end: u64, scheduled: bool) -> Option<String> {
    let least = if scheduled { LEAST_ARRIVALS } else { LEAST_BATCHES };
    let length = (end - start) as f64;
    let mean_rate = load.between(start, end) / length;
    let block = (least / mean_rate).max(SECOND_NS).min(length);
    // Overlapping blocks: a stall across the edge of two would halve.
    let step = block / 4.0;
    let count = ((length - block) / step).floor() as usize + 1;
    let edge = |i: usize| start + (i as f64 * step) as u64;
    let rate = |i: usize| load.between(edge(i), edge(i) + block as u64) / block * 1e9;
    let rates: Vec<f64> = (0..count).map(rate).collect();
    let mut sorted = rates.clone();
    sorted.sort_by(f64::total_cmp);
    let median = *sorted.get(count / 2)?;
    // One batch more or less falls into a block by chance.
    let chance = 1e9 / block;
    let slow = rates.iter().position(|rate| rate + chance < LEAST_RATE * median)?;
    let second = (edge(slow) - start) as f64 / 1e9;
    Some(format!("stalled: {:.0} of {median:.0} batches/s at second {second:.0} of this window", rates[slow]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::bins::Bins;
    use crate::measure::recorder::Recorder;

    const MS: u64 = 1_000_000;

    /// A batch a `period` from `from` to `to`, none between `gap.0` and `gap.1`.
    fn load(from: u64, to: u64, period: u64, gap: (u64, u64)) -> LoadLog {
        let mut bins = Bins::new();
        let mut now = from;
        while now + period <= to {
            now += period;
            if now > gap.0 && now < gap.1 {
                now = gap.1;
            }
            bins.add(now - from, period);
        }
        bins.log(from, now)
    }

    fn window(from: u64, to: u64) -> Recording {
        let mut recorder = Recorder::new();
        recorder.open(from);
        recorder.record(from, to);
        recorder.finish()
    }

    fn names() -> Vec<String> {
        vec!["a".into(), "b".into(), "c".into()]
    }

    const NO_GAP: (u64, u64) = (u64::MAX, u64::MAX);

    #[test]
    fn loading_throughout_is_an_overlap_of_1() {
        let (w, l) = (window(1_000 * MS, 11_000 * MS), load(500 * MS, 12_000 * MS, MS, NO_GAP));
        let parts = [Part { recording: Some(&w), load: Some(&l), scheduled: false }; 3];
        let found = judge(&parts, &names(), 0);
        assert_eq!(found, CoRun { overlap: Some(1.0), batches_common: Some(10_000), disturbed: None });
    }

    #[test]
    fn who_leaves_early_or_comes_late_is_missed() {
        let (w, l) = (window(1_000 * MS, 11_000 * MS), load(0, 12_000 * MS, MS, NO_GAP));
        for (from, to, overlap, words) in [
            (0, 6_000, 0.5, Some("b left 5.0 s before the end of this window")),
            (2_000, 12_000, 0.9, Some("b came 1.0 s after the start of this window")),
        ] {
            let other = load(from * MS, to * MS, MS, NO_GAP);
            let parts = [
                Part { recording: Some(&w), load: Some(&l), scheduled: false },
                Part { recording: None, load: Some(&other), scheduled: false },
            ];
            let found = judge(&parts, &names(), 0);
            assert!((found.overlap.unwrap() - overlap).abs() < 1e-9, "{found:?}");
            assert_eq!(found.disturbed.as_deref(), words);
        }
        let parts = [
            Part { recording: Some(&w), load: Some(&l), scheduled: false },
            Part { recording: None, load: None, scheduled: false },
        ];
        let found = judge(&parts, &names(), 0);
        assert_eq!(found.overlap, Some(0.0));
        assert_eq!(found.disturbed.as_deref(), Some("b never loaded in this window"));
    }

    #[test]
    fn a_stall_of_two_seconds_is_found_however_long_the_batches_are() {
        let w = window(1_000 * MS, 31_000 * MS);
        for period in [MS / 10, MS, 30 * MS, 400 * MS] {
            let steady = load(0, 32_000 * MS, period, NO_GAP);
            assert_eq!(stall(&steady, w.start_ns, w.end_ns, false), None, "{period}");
            let stalled = load(0, 32_000 * MS, period, (9_000 * MS, 12_000 * MS));
            assert!(
                stall(&stalled, w.start_ns, w.end_ns, false).unwrap().starts_with("stalled: "),
                "{period}"
            );
        }
    }

    #[test]
    fn the_common_window_is_where_all_measured() {
        let (a, b) = (window(0, 10), window(4, 20));
        let part = |w| Part { recording: Some(w), load: None, scheduled: false };
        assert_eq!(
            common_window(&[part(&a), part(&b), Part { recording: None, load: None, scheduled: false }]),
            Some((4, 10))
        );
        assert_eq!(common_window(&[part(&a), part(&window(11, 12))]), None);
        assert_eq!(
            judge(&[Part { recording: None, load: None, scheduled: false }], &names(), 0),
            CoRun::default()
        );
    }
}
