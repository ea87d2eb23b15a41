//! How long a sweep takes: a range before the first run, and renewed from measured times after each. Pure.

use super::plan::{Member, Run};
use crate::measure::load::Load;
use crate::measure::stopping::Rule;
use crate::results::Row;
use crate::workload::Own;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// What a run costs beside its window, before one was measured: at least a start and the warm-up of a second.
const LEAST_BESIDE_S: f64 = 1.2;
/// And at most: a context, weights, twenty slow batches together, the split, a check of a large network.
const MOST_BESIDE_S: f64 = 20.0;
/// Runs of one search under a latency target, at least and at most.
const PROBES: (f64, f64) = (2.0, 22.0);
/// Neighbours make a batch slower by this at most, unless they share its instance.
const SLOWER_TOGETHER: f64 = 1.5;

/// A time that is at least and at most so long, in s; no end is known without a second one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// At least.
    pub least_s: f64,
    /// At most, if there is a bound.
    pub most_s: Option<f64>,
}

impl Span {
    const NONE: Span = Span { least_s: 0.0, most_s: Some(0.0) };

    fn exactly(seconds: f64) -> Span {
        Span { least_s: seconds, most_s: Some(seconds) }
    }

    fn plus(self, other: Span) -> Span {
        let most_s = self.most_s.zip(other.most_s).map(|(a, b)| a + b);
        Span { least_s: self.least_s + other.least_s, most_s }
    }

    fn longer_of(self, other: Span) -> Span {
        let most_s = self.most_s.zip(other.most_s).map(|(a, b)| a.max(b));
        Span { least_s: self.least_s.max(other.least_s), most_s }
    }
}

impl fmt::Display for Span {
    /// `13 s`, `13 to 60 s`, `2 to 5 min`, `45 s to 3 min`, `1 h 30 min to 4 h 10 min`, `at least 40 s`.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let least = shown(self.least_s);
        let Some(most) = self.most_s.map(shown) else { return write!(f, "at least {least}") };
        match (least.split_once(' '), most.split_once(' ')) {
            _ if least == most => f.write_str(&most),
            (Some((from, unit)), Some((_, other))) if unit == other && !unit.contains(' ') => {
                write!(f, "{from} to {most}")
            }
            _ => write!(f, "{least} to {most}"),
        }
    }
}

/// Seconds below two minutes, minutes below an hour and a half, else hours and minutes.
fn shown(seconds: f64) -> String {
    let (whole, minutes) = (seconds.round() as u64, (seconds / 60.0).round() as u64);
    match () {
        () if whole < 120 => format!("{whole} s"),
        () if minutes < 90 => format!("{minutes} min"),
        () if minutes % 60 == 0 => format!("{} h", minutes / 60),
        () => format!("{} h {} min", minutes / 60, minutes % 60),
    }
}

/// What is known of the lengths of runs.
#[derive(Clone, Debug, Default)]
pub struct Estimate {
    /// Each planned run is a search for a rate.
    searches: bool,
    /// Of each kind of run: how many were measured, and how long they took together, in s.
    kinds: BTreeMap<String, (f64, f64)>,
    /// What runs with one worker, and with several, took beside their windows: how many, together, and the
    /// most, in s.
    beside: [(f64, f64, f64); 2],
    /// Mean latencies in s, by workload, profile and load, and by batch size.
    batches: BTreeMap<String, BTreeMap<usize, f64>>,
}

impl Estimate {
    /// Nothing has been measured. With `searches`, each planned run is a search for a rate.
    pub fn new(searches: bool) -> Estimate {
        Estimate { searches, ..Estimate::default() }
    }

    /// Learns from a planned run, which took so long in all, and from the rows of the last thing it measured.
    pub fn learn(&mut self, run: &Run, took: Duration, rows: &[Row]) {
        let took = took.as_secs_f64();
        let kind = self.kinds.entry(kind(run)).or_default();
        (kind.0, kind.1) = (kind.0 + 1.0, kind.1 + took);
        let windows = rows.iter().filter_map(|row| row.window.elapsed_s);
        let Some(window) = windows.reduce(f64::max).filter(|_| !self.searches) else { return };
        let beside = (took - window).max(0.0);
        let of = &mut self.beside[usize::from(run.members.len() > 1)];
        *of = (of.0 + 1.0, of.1 + beside, of.2.max(beside));
        for (member, row) in run.members.iter().zip(rows) {
            if let Some(mean_ms) = row.latency.mean {
                let of = self.batches.entry(batch_key(member)).or_default();
                of.insert(member.job.batch, mean_ms / 1e3);
            }
        }
    }

    /// How long these runs take.
    pub fn of(&self, runs: &[Run]) -> Span {
        runs.iter().map(|run| self.run(run)).fold(Span::NONE, Span::plus)
    }

    fn run(&self, run: &Run) -> Span {
        if let Some((count, total)) = self.kinds.get(&kind(run)) {
            return Span::exactly(total / count);
        }
        if run.members.iter().any(|member| is_program(member) && self.batches.is_empty()) {
            // It may report its batches, or be over in no time.
            return Span { least_s: 0.0, most_s: None };
        }
        let (runs, total, most) = self.beside[usize::from(run.members.len() > 1)];
        let beside = if runs > 0.0 {
            Span { least_s: total / runs, most_s: Some(most) }
        } else {
            Span { least_s: LEAST_BESIDE_S, most_s: Some(MOST_BESIDE_S) }
        };
        let window = |member: &Member| self.window(run, member);
        let one = beside.plus(run.members.iter().map(window).fold(Span::NONE, Span::longer_of));
        if !self.searches {
            return one;
        }
        // Windows that decide nothing are made longer, up to their cap.
        let cap = run.members.iter().map(|member| member.job.rule.max_ns).max().unwrap_or(0);
        let most =
            one.most_s.filter(|_| cap < u64::MAX).map(|most| most.max(cap as f64 / 1e9 + MOST_BESIDE_S));
        Span { least_s: one.least_s * PROBES.0, most_s: most.map(|most| most * PROBES.1) }
    }

    fn window(&self, run: &Run, member: &Member) -> Span {
        let rule = &member.job.rule;
        let (least, most) = self.batch_s(run, member);
        let of = |batch_s: f64| rule.estimate_ns((batch_s * 1e9) as u64) as f64 / 1e9;
        // A fixed length ends with the batch in flight.
        let fixed = rule.min_batches == 0 && rule.precision.is_none();
        let most_s = match most {
            Some(most) if rule.precision.is_none() => Some(of(most)),
            _ if fixed => Some(of(0.0)),
            _ => Some(rule.max_ns).filter(|&ns| ns < u64::MAX).map(|ns| ns as f64 / 1e9),
        };
        Span { least_s: of(least), most_s: most_s.map(|most| most.max(of(least))) }
    }

    /// Between which times a batch of a member comes after the other, in s.
    fn batch_s(&self, run: &Run, member: &Member) -> (f64, Option<f64>) {
        if let Some(arrivals) = member.job.load.arrivals().filter(|_| !self.searches) {
            let each = 1.0 / arrivals.rate();
            let most = if member.job.load.is_server() { each * member.job.batch as f64 } else { each };
            return (each, Some(most));
        }
        let Some(known) = self.batches.get(&batch_key(member)) else { return (0.0, None) };
        let batch = member.job.batch;
        let sharing =
            run.members.iter().filter(|other| other.instance.uuid() == member.instance.uuid()).count();
        let slower = SLOWER_TOGETHER * sharing as f64;
        let lanes = member.job.inflight as f64;
        // A larger batch takes no less time, and no more than in proportion.
        let smaller =
            known.range(..=batch).next_back().map(|(b, s)| (*s, s * batch as f64 / (*b).max(1) as f64));
        let larger = known.range(batch..).next().map(|(b, s)| (s * batch as f64 / (*b).max(1) as f64, *s));
        let least = smaller.map(|s| s.0).into_iter().chain(larger.map(|s| s.0)).fold(0.0, f64::max);
        let most = smaller.map(|s| s.1).into_iter().chain(larger.map(|s| s.1)).reduce(f64::min);
        (least / slower / lanes, most.map(|most| most * slower / lanes))
    }
}

fn is_program(member: &Member) -> bool {
    matches!(member.job.own, Some(Own::Program(_)))
}

/// What takes one time for one batch size.
fn batch_key(member: &Member) -> String {
    let job = &member.job;
    let load = if job.load == Load::Closed { String::new() } else { job.load.to_string() };
    format!("{:?}", (member.instance.label(), member.instance.sm_count, &job.workload, load, job.inflight))
}

/// Runs of one kind take the same time, but for chance.
fn kind(run: &Run) -> String {
    let member = |member: &Member| {
        let Rule { min_ns, min_batches, max_ns, .. } = member.job.rule;
        (batch_key(member), member.job.batch, (min_ns, min_batches, max_ns))
    };
    let members: Vec<_> = run.members.iter().map(member).collect();
    format!("{:?}", (run.mode, members))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{Instance, InstanceKind};
    use crate::measure::load::Arrivals;
    use crate::measure::protocol::{Device, Job};
    use crate::results::row::Mode;
    use crate::workload::Settings;

    fn member(profile: &str, batch: usize, rule: Rule) -> Member {
        let job = Job {
            device: Device::Cuda,
            workload: "mlp".into(),
            batch,
            settings: Settings::default(),
            cpus: vec![],
            rule,
            load: Load::Closed,
            inflight: 1,
            arrival_seed: 1,
            intervals: false,
            clock_samples: false,
            own: None,
        };
        let instance =
            Instance { kind: InstanceKind::Mig, profile: Some(profile.into()), ..Instance::default() };
        Member { instance, job }
    }

    fn run(repetition: u32, members: Vec<Member>) -> Run {
        let mode = if members.len() > 1 { Mode::Concurrent } else { Mode::Isolated };
        Run { repetition, attempt: 1, mode, members }
    }

    /// A sweep on a virtual clock: a batch of n samples takes 5 ms + n x 2 ms on 1g, a third of that on 3g, and
    /// 10 % more in company; a run takes 1.7 s beside its window, and a second more in company.
    fn play(run: &Run) -> (Duration, Vec<Row>) {
        let row = |member: &Member| {
            let alone = 0.005 + 0.002 * member.job.batch as f64;
            let alone = if member.instance.profile.as_deref() == Some("3g") { alone / 3.0 } else { alone };
            let batch_s = if run.members.len() > 1 { alone * 1.1 } else { alone };
            let mut row = Row::default();
            row.latency.mean = Some(batch_s * 1e3);
            row.window.elapsed_s = Some(member.job.rule.estimate_ns((batch_s * 1e9) as u64) as f64 / 1e9);
            row
        };
        let rows: Vec<Row> = run.members.iter().map(row).collect();
        let window = rows.iter().filter_map(|row| row.window.elapsed_s).fold(0.0, f64::max);
        let beside = if run.members.len() > 1 { 2.7 } else { 1.7 };
        (Duration::from_secs_f64(beside + window), rows)
    }

    fn sweep(rule: Rule, rounds: u32) -> Vec<Run> {
        let mut runs = Vec::new();
        for round in 1..=rounds {
            for batch in [1, 8, 32] {
                let of = |profile: &str| member(profile, batch, rule);
                runs.push(run(round, vec![of("1g")]));
                runs.push(run(round, vec![of("3g")]));
                runs.push(run(round, vec![of("1g"), of("3g")]));
            }
        }
        runs
    }

    /// The truth is in every range, and the ranges close in on it: after one run of each kind to 5 %; where the
    /// windows have a given length, after the first alone and the first together.
    #[test]
    fn the_range_holds_the_truth_and_closes_in_on_it() {
        let given = Rule::given(Some(3_000_000_000), None);
        for (rule, exact_after) in [(Rule::DEFAULT, 9), (given, 3), (Rule::given(None, Some(500)), 9)] {
            let runs = sweep(rule, 3);
            let mut estimate = Estimate::new(false);
            for (i, run) in runs.iter().enumerate() {
                let left = &runs[i..];
                let truth: f64 = left.iter().map(|run| play(run).0.as_secs_f64()).sum();
                let span = estimate.of(left);
                let low = span.least_s <= truth * 1.001;
                assert!(low && span.most_s.is_none_or(|most| most >= truth * 0.999), "{i} {truth} {span:?}");
                if i >= exact_after {
                    let most = span.most_s.unwrap();
                    assert!(most / truth < 1.05 && span.least_s / truth > 0.95, "{i} {truth} {span:?}");
                }
                let (took, rows) = play(run);
                estimate.learn(run, took, &rows);
            }
        }
    }

    #[test]
    fn what_has_no_end_is_said() {
        let batches = [run(1, vec![member("1g", 1, Rule::given(None, Some(500)))])];
        assert_eq!(Estimate::new(false).of(&batches).to_string(), "at least 1 s");
        let default = [run(1, vec![member("1g", 1, Rule::DEFAULT)])];
        assert_eq!(Estimate::new(false).of(&default).to_string(), "11 to 80 s");
        // A search: two probes at least, and each up to its cap.
        assert_eq!(Estimate::new(true).of(&default).to_string(), "22 s to 29 min");
        let mut open = member("1g", 1, Rule::given(None, Some(500)));
        open.job.load = Load::Open { arrivals: Arrivals::Constant(50.0) };
        assert_eq!(Estimate::new(false).of(&[run(1, vec![open])]).to_string(), "11 to 30 s");
        assert_eq!(Estimate::new(false).of(&[]).to_string(), "0 s");
    }

    #[test]
    fn a_span_is_read_at_a_glance() {
        let text = |least_s, most_s| Span { least_s, most_s }.to_string();
        for (least, most, expected) in [
            (13.0, 13.2, "13 s"),
            (13.0, 60.0, "13 to 60 s"),
            (45.0, 200.0, "45 s to 3 min"),
            (121.0, 4_000.0, "2 to 67 min"),
            (5_400.0, 15_000.0, "1 h 30 min to 4 h 10 min"),
            (7_200.0, 10_800.0, "2 to 3 h"),
            (35_000.0, 35_000.0, "9 h 43 min"),
        ] {
            assert_eq!(text(least, Some(most)), expected);
        }
        assert_eq!(text(40.0, None), "at least 40 s");
    }
}
