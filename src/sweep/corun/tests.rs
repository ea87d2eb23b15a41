use super::*;
use crate::measure::bins::LoadRecorder;
use crate::measure::recorder::Recorder;
use crate::measure::stopping::Rule;

const MS: u64 = 1_000_000;
const S: u64 = 1_000 * MS;
/// When the workers are ready, and when the windows are to open.
const PHASE: CommonPhase = CommonPhase { from_ns: 5 * S, to_ns: 7 * S };

/// A worker on a virtual clock: its load, and the window that it recorded.
struct Timeline {
    load: LoadLog,
    window: Recording,
}

/// What a worker does: a batch a `period`; none is done between `still.0` and `still.1`; its window
/// opens `late` ns after the named time, and lasts for `length`.
#[derive(Clone, Copy)]
struct Worker {
    period: u64,
    still: (u64, u64),
    late: u64,
    length: u64,
    /// It goes on loading until then.
    until: u64,
}

impl Worker {
    fn steady(period: u64, length: u64) -> Worker {
        let until = PHASE.to_ns + length + 8 * S;
        Worker { period, still: (u64::MAX, u64::MAX), late: 0, length, until }
    }

    fn play(self) -> Timeline {
        let (mut load, mut recorder) = (LoadRecorder::new(4 * S), Recorder::new());
        let rule = Rule::given(Some(self.length), None);
        let (mut now, mut open, mut done) = (4 * S, false, false);
        while now < self.until {
            if !open && now >= PHASE.to_ns + self.late {
                load.open_window();
                recorder.open(now);
                open = true;
            }
            let issued = now;
            now += self.period;
            // It is stopped while a batch is in flight, and sees its end when it goes on.
            if now > self.still.0 && now < self.still.1 {
                now = self.still.1;
            }
            load.add(0, issued, now);
            if open && !done {
                recorder.record(issued, now);
                done = rule.ends(now - recorder.started(), recorder.count(), true);
            }
        }
        Timeline { load: load.log(), window: recorder.finish() }
    }
}

fn parts(timelines: &[Timeline]) -> Vec<Part<'_>> {
    timelines
        .iter()
        .map(|Timeline { load, window }| Part {
            recording: Some(window),
            load: Some(load),
            pace: Pace::Closed,
        })
        .collect()
}

fn names(workers: usize) -> Vec<String> {
    (0..workers).map(|i| format!("worker-{i}")).collect()
}

/// What is said of each worker's row.
fn verdicts(timelines: &[Timeline]) -> Vec<CoRun> {
    let (parts, names) = (parts(timelines), names(timelines.len()));
    (0..timelines.len()).map(|member| judge(&parts, &names, PHASE, member)).collect()
}

fn named(verdict: &CoRun, workers: usize) -> Vec<usize> {
    let text = verdict.disturbed.as_deref().unwrap_or_default();
    (0..workers).filter(|worker| text.contains(&format!("worker-{worker}"))).collect()
}

#[test]
fn loading_throughout_is_an_overlap_of_1() {
    for period in [MS / 10, MS, 30 * MS, 400 * MS] {
        let timelines = [period; 3].map(|period| Worker::steady(period, 10 * S).play());
        for (found, timeline) in verdicts(&timelines).iter().zip(&timelines) {
            let batches_common = Some(timeline.window.batches);
            assert_eq!(*found, CoRun { overlap: Some(1.0), batches_common, disturbed: None }, "{period}");
        }
    }
}

/// Every length of standstill at every place of every window: the worker that stood still is named in
/// each row whose window the pause lies in, its own included, and nobody else ever is.
#[test]
fn whoever_stands_still_is_named_and_nobody_else() {
    let mut seen = [0; 2];
    for period in [MS, 10 * MS, 100 * MS, 400 * MS] {
        for length in [S / 5, S, 4 * S, 10 * S] {
            let others = Worker::steady(period, length).play();
            for lasts in [100, 200, 240, 300, 500, 1_000, 1_500, 3_000, 6_000].map(|ms| ms * MS) {
                for place in 0..12 {
                    // From before the window's opening to after its end.
                    let from = PHASE.to_ns - S / 2 + place * (length + S) / 12;
                    let still = (from, from + lasts);
                    let stopped = Worker { still, ..Worker::steady(period, length) }.play();
                    let runs: &[(usize, usize)] =
                        if place % 4 == 0 { &[(2, 0), (2, 1), (7, 3)] } else { &[(2, 1)] };
                    for &(workers, culprit) in runs {
                        let what = format!("{period} {length} {lasts} {place} {workers} {culprit}");
                        let who = |i| clone(if i == culprit { &stopped } else { &others });
                        let all: Vec<Timeline> = (0..workers).map(who).collect();
                        let guilty = still_stands(&all, culprit);
                        for (row, verdict) in verdicts(&all).iter().enumerate() {
                            let named = named(verdict, workers);
                            assert!(named.iter().all(|&who| who == culprit), "{what}: {verdict:?}");
                            if guilty[row] {
                                assert_eq!(named, [culprit], "{what}, row {row}: {verdict:?}");
                            }
                            seen[usize::from(guilty[row])] += 1;
                        }
                    }
                }
            }
        }
    }
    assert!(seen.iter().all(|&count| count > 1_000), "{seen:?}");
}

fn clone(timeline: &Timeline) -> Timeline {
    Timeline { load: timeline.load.clone(), window: timeline.window.clone() }
}

/// For each row: did the culprit do nothing for longer than the limit in its window? By its definition.
fn still_stands(timelines: &[Timeline], culprit: usize) -> Vec<bool> {
    let load = &timelines[culprit].load;
    let row = |timeline: &Timeline| {
        let (from, to) = (timeline.window.start_ns, timeline.window.end_ns);
        let batch = load.batch_ns;
        let limit = (250 * MS).max((20 * batch).min(((to - from) / 10).max(2 * batch)));
        load.pauses
            .iter()
            .any(|pause| pause.end_ns - pause.start_ns > limit && pause.start_ns < to && pause.end_ns > from)
    };
    timelines.iter().map(row).collect()
}

#[test]
fn what_is_within_the_limits_is_a_co_run() {
    // One pause of 90 ms in each second is less than 10 %.
    for length in [4 * S, 10 * S] {
        let steady = Worker::steady(MS, length);
        let from = PHASE.to_ns + S;
        let all = [steady.play(), Worker { still: (from, from + 90 * MS), ..steady }.play()];
        assert!(verdicts(&all).iter().all(|verdict| verdict.disturbed.is_none()), "{:?}", verdicts(&all));
    }
}

/// Six of ten seconds: the median of such a window is 0.
#[test]
fn a_co_runner_that_is_down_for_most_of_the_window_is_found() {
    let steady = Worker::steady(10 * MS, 10 * S);
    let from = PHASE.to_ns + 3 * S;
    let all = [steady.play(), Worker { still: (from, from + 6 * S), ..steady }.play()];
    let found = verdicts(&all);
    let text = "worker-1 stood still for 6.00 s, from second 3.00 of this window on (at most 0.25 s); \
                worker-1 stalled: ";
    assert!(found[0].disturbed.as_deref().unwrap().starts_with(text), "{found:?}");
    let text =
        "worker-1 (this one) stood still for 6.00 s, from second 3.00 of this window on (at most 0.25 s)";
    assert_eq!(found[1].disturbed.as_deref(), Some(text));
}

/// A worker that runs at a fifth of its rate for the whole window never pauses.
#[test]
fn a_co_runner_that_is_slower_than_in_the_common_phase_is_found() {
    let mut load = LoadRecorder::new(4 * S);
    let mut now = 4 * S;
    while now < 30 * S {
        let period = if now < PHASE.to_ns { 10 * MS } else { 50 * MS };
        load.add(0, now, now + period);
        now += period;
    }
    let mut all = [Worker::steady(10 * MS, 10 * S).play(), Worker::steady(10 * MS, 10 * S).play()];
    all[1].load = load.log();
    let found = verdicts(&all);
    let text = "worker-1 stalled: 20.000 of 100.000 batches/s at second 0.0 of this window";
    assert_eq!(found[0].disturbed.as_deref(), Some(text));
    assert_eq!(found[1].disturbed, None, "its own row says so by its latency");
}

#[test]
fn a_standstill_before_the_window_excuses_none_within_it() {
    let steady = Worker::steady(10 * MS, 10 * S);
    // Down for most of the common phase, and at half the rate afterwards.
    let mut load = LoadRecorder::new(4 * S);
    let mut now = 4 * S;
    while now < 30 * S {
        let period = match now {
            _ if now < PHASE.from_ns + S / 10 => 10 * MS,
            _ if now < PHASE.from_ns + S => S,
            _ if now < PHASE.to_ns => 10 * MS,
            _ => 20 * MS,
        };
        load.add(0, now, now + period);
        now += period;
    }
    load.open_window();
    let mut all = [steady.play(), steady.play()];
    all[1].load = load.log();
    assert!(verdicts(&all)[0].disturbed.as_deref().unwrap().starts_with("worker-1 stalled: 50.000 of "));
}

/// Then there is no rate to hold it to, and what it did in the window is not known to be a load.
#[test]
fn a_worker_that_stood_still_for_the_whole_common_phase_has_no_rate() {
    let steady = Worker::steady(10 * MS, 10 * S);
    for awake in [0, 5 * MS] {
        let (from, to) = (PHASE.from_ns - S / 2, PHASE.to_ns - awake);
        let all = [steady.play(), Worker { still: (from, to), ..steady }.play()];
        let found = verdicts(&all);
        assert_eq!(named(&found[0], 2), [1], "{found:?}");
        assert!(found[0].disturbed.as_deref().unwrap().contains("its rate is not known"), "{found:?}");
        assert_eq!(found[1].disturbed, None);
    }
    // A batch that is longer than the phase is no standstill.
    let slow = Worker::steady(3 * S, 12 * S);
    assert!(verdicts(&[slow.play(), slow.play()]).iter().all(|found| found.disturbed.is_none()));
}

#[test]
fn a_window_that_opens_late_is_no_part_of_a_co_run() {
    for length in [S / 2, 4 * S, 10 * S] {
        for period in [MS, 20 * MS, 300 * MS] {
            for late in [0, 40, 49, 60, 99, 110, 250, 330, 700, 1_100].map(|ms| ms * MS) {
                let steady = Worker::steady(period, length);
                let all = [steady.play(), Worker { late, ..steady }.play()];
                let limit = (50 * MS).max(length / 100).max(period);
                let opened = all[1].window.start_ns - PHASE.to_ns;
                let found = verdicts(&all);
                let says = |i: usize| found[i].disturbed.as_deref().unwrap_or_default();
                assert_eq!(
                    says(1).contains("after the common start"),
                    opened > limit,
                    "{length} {period} {late}"
                );
                assert!(!says(0).contains("after the common start"));
                let touch = all[1].window.start_ns < all[0].window.end_ns;
                assert!(
                    (0..2).all(|i| says(i).contains("do not touch") != touch),
                    "{length} {late}: {found:?}"
                );
            }
        }
    }
}

#[test]
fn windows_that_do_not_touch_are_no_co_run() {
    let all = [S / 2, S / 2, 4 * S].map(|length| Worker::steady(MS, length));
    let all = [all[0].play(), Worker { late: S, ..all[1] }.play(), all[2].play()];
    for verdict in verdicts(&all) {
        let text = "the windows do not touch: worker-1 opened its own 0.50 s after another had closed";
        assert!(verdict.disturbed.as_deref().unwrap().contains(text), "{verdict:?}");
        assert_eq!(verdict.batches_common, None);
    }
}

#[test]
fn who_leaves_early_or_comes_late_is_missed() {
    let steady = Worker::steady(MS, 10 * S);
    let early = Worker { until: PHASE.to_ns + 5 * S, ..steady };
    let mut all = [steady.play(), early.play()];
    let found = verdicts(&all);
    assert!((found[0].overlap.unwrap() - 0.5).abs() < 1e-9, "{found:?}");
    let text = "worker-1 left 5.00 s before the end of this window";
    assert!(found[0].disturbed.as_deref().unwrap().contains(text), "{found:?}");
    all[1].load.start_ns = all[0].window.start_ns + S;
    all[1].load.end_ns = 40 * S;
    let found = verdicts(&all);
    assert!((found[0].overlap.unwrap() - 0.9).abs() < 1e-9, "{found:?}");
    let text = "worker-1 came 1.00 s after the start of this window";
    assert!(found[0].disturbed.as_deref().unwrap().contains(text), "{found:?}");
    let parts = [parts(&all)[0], Part { recording: None, load: None, pace: Pace::Closed }];
    let found = judge(&parts, &names(2), PHASE, 0);
    assert_eq!(found.overlap, Some(0.0));
    let text = "worker-1 failed, and nothing shows what it did";
    assert_eq!(found.disturbed.as_deref(), Some(text));
}

/// Arrivals come with gaps of any length: waiting for one is no pause, and one that waits is.
#[test]
fn waiting_for_an_arrival_is_no_standstill() {
    for (stops, expected) in [(false, false), (true, true)] {
        let mut load = LoadRecorder::new(4 * S);
        let mut done = 4 * S;
        for arrival in (0..30).map(|i| 4 * S + i * S) {
            let issued = if stops && arrival == 10 * S { arrival + S / 2 } else { arrival };
            done = issued.max(done) + 5 * MS;
            load.add(arrival, issued, done);
        }
        load.open_window();
        let mut all = [Worker::steady(MS, 10 * S).play(), Worker::steady(MS, 10 * S).play()];
        all[1].load = load.log();
        let mut parts = parts(&all);
        parts[1].pace = Pace::Arrivals;
        let found = judge(&parts, &names(2), PHASE, 0);
        assert_eq!(found.disturbed.is_some(), expected, "{found:?}");
        assert_eq!(named(&found, 2), if expected { vec![1] } else { vec![] });
    }
}

#[test]
fn random_arrivals_are_not_taken_for_a_stall() {
    let mut random = fastrand::Rng::with_seed(3);
    for rate in [5.0, 50.0, 1_000.0] {
        for _ in 0..20 {
            let mut load = LoadRecorder::new(4 * S);
            let (mut arrival, mut done) = (4e9, 4 * S);
            while arrival < 20e9 {
                arrival -= (1.0 - random.f64()).ln() * 1e9 / rate;
                let due = arrival as u64;
                let issued = due.max(done);
                done = issued + MS / 2;
                load.add(due, issued, done);
            }
            load.open_window();
            let mut all = [Worker::steady(MS, 10 * S).play(), Worker::steady(MS, 10 * S).play()];
            all[1].load = load.log();
            let mut parts = parts(&all);
            parts[1].pace = Pace::Arrivals;
            assert_eq!(judge(&parts, &names(2), PHASE, 0).disturbed, None, "{rate}");
        }
    }
}

/// A trace with a burst before the window and a lull within it.
#[test]
fn the_lull_of_a_trace_is_no_stall() {
    let mut load = LoadRecorder::new(4 * S);
    let mut now = 4 * S;
    while now < 20 * S {
        now += if now < PHASE.to_ns { 2 * MS } else { 200 * MS };
        load.add(now - MS, now - MS, now);
    }
    load.open_window();
    let mut all = [Worker::steady(MS, 10 * S).play(), Worker::steady(MS, 10 * S).play()];
    all[1].load = load.log();
    for (pace, found) in [(Pace::Trace, false), (Pace::Arrivals, true)] {
        let mut parts = parts(&all);
        parts[1].pace = pace;
        let verdict = judge(&parts, &names(2), PHASE, 0);
        assert_eq!(verdict.disturbed.is_some(), found, "{pace:?} {verdict:?}");
    }
}

#[test]
fn more_pauses_than_are_kept_are_no_excuse() {
    let mut all = [Worker::steady(10 * MS, 10 * S).play(), Worker::steady(10 * MS, 10 * S).play()];
    all[1].load.dropped_ns = 300 * MS;
    let found = verdicts(&all);
    let text = "worker-1 stood still more often than is recorded";
    assert_eq!(found[0].disturbed.as_deref(), Some(text));
}

#[test]
fn a_program_that_reports_nothing_stays_unknown() {
    let mut all = [Worker::steady(MS, S).play(), Worker::steady(MS, S).play()];
    all[1].load = LoadLog { start_ns: S, end_ns: 20 * S, ..LoadLog::default() };
    assert!(verdicts(&all).iter().all(|verdict| *verdict == CoRun::default()));
}

#[test]
fn the_common_window_is_where_all_measured() {
    let window = |from, to| {
        let mut recorder = Recorder::new();
        recorder.open(from);
        recorder.record(from, to);
        recorder.finish()
    };
    let (a, b, c) = (window(0, 10), window(4, 20), window(11, 12));
    let none = Part { recording: None, load: None, pace: Pace::Closed };
    let part = |w| Part { recording: Some(w), ..none };
    assert_eq!(common_window(&[part(&a), part(&b), none]), Some((4, 10)));
    assert_eq!(common_window(&[part(&a), part(&c)]), None);
    assert_eq!(judge(&[none], &names(1), PHASE, 0), CoRun::default());
}
