//! The highest rate at which a latency target is met: bracket, then bisect, each probe a row. Pure.
//!
//! The first probe is a closed load: no more than that can arrive. A probe meets the target when the
//! 99 % upper bound of the response's percentile does, for so many responses as do not depend on each
//! other; one with too few of those, or whose row is invalid, is repeated with a longer window. Every probe
//! and every round sees the same pattern of arrivals, stretched to its rate, so that rates, rounds and layouts
//! differ by what serves them and not by their luck (MLPerf LoadGen fixes its schedule's seed, too). Instances
//! that measure at once are searched at once, each for a rate of its own; one that has found it stays there.
//! One stall of the machine makes a probe miss: the lowest rate that did is asked a second time before the
//! search ends, and if it meets the target then, the search goes on above it. Where even the longest window
//! says nothing of a rate, responses that depend on each other send the search below it, where they depend
//! less; for any other reason it ends there, undecided: a host that is late at one rate is late at the next.

use super::plan::Run;
use crate::measure::load::Load;
use crate::results::Row;
use crate::results::row::Status;
use crate::results::summary;
use crate::workload::scripted::parse_ns;
use anyhow::{Context, Result, anyhow, bail};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// The rate is found to this share of it.
const TOLERANCE: f64 = 0.01;
/// The first probe below what a closed load did, as a share of it.
const FIRST: f64 = 0.7;
/// Below this share of it nothing is looked for.
const LEAST: f64 = 0.01;
/// How often, and by how much, a window that decided nothing is lengthened.
const LONGER: u32 = 2;
const LONGER_BY: u64 = 4;

/// A percentile of the response and what it may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slo {
    /// 0.99 for p99.
    pub quantile: f64,
    /// In ms.
    pub limit_ms: f64,
}

impl fmt::Display for Slo {
    /// As `p99<=10ms`.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        // 0.999 x 100 is not 99.9 in binary.
        let percent = (self.quantile * 1e6).round() / 1e4;
        write!(f, "p{percent}<={}ms", self.limit_ms)
    }
}

impl FromStr for Slo {
    type Err = anyhow::Error;

    /// As `p99=10ms`.
    fn from_str(text: &str) -> Result<Slo> {
        let wanted = || format!("'{text}' is no target: write a percentile and a time, as p99=10ms");
        let (percentile, time) = text.split_once('=').with_context(wanted)?;
        let percent: f64 = percentile.strip_prefix('p').and_then(|p| p.parse().ok()).with_context(wanted)?;
        let limit = parse_ns(time).map_err(|error| anyhow!("{}: {error}", wanted()))?;
        if !(50.0..=99.9).contains(&percent) || limit == 0 {
            bail!("{}: from p50 to p99.9", wanted());
        }
        Ok(Slo { quantile: percent / 100.0, limit_ms: limit as f64 / 1e6 })
    }
}

/// What a probe said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Met,
    Missed,
    /// Enough responses, but too few that do not depend on each other.
    Dependent,
    /// Too few responses, or a row that is not to be used.
    Undecided,
}

impl Answer {
    /// May a longer window say more?
    fn is_open(self) -> bool {
        matches!(self, Answer::Dependent | Answer::Undecided)
    }
}

/// One instance's search.
#[derive(Clone, Debug, Default, PartialEq)]
struct Search {
    /// The highest rate that met the target.
    met: f64,
    /// The rates that did not, the lowest last. The first is what a closed load did; none before it was
    /// asked, or when it failed.
    missed: Vec<f64>,
    over: bool,
}

impl Search {
    fn begin(&mut self, capacity: Option<f64>) {
        self.missed = capacity.filter(|&capacity| capacity > 0.0).into_iter().collect();
        self.over = self.missed.is_empty();
    }

    /// The lowest rate that missed the target.
    fn lowest(&self) -> f64 {
        self.missed.last().copied().unwrap_or(0.0)
    }

    fn is_closed_in(&self) -> bool {
        self.met > 0.0 && self.lowest() - self.met <= TOLERANCE * self.lowest()
    }

    /// The rate to try; once it is over, the one that was found.
    fn rate(&self) -> f64 {
        match (self.over, self.met > 0.0) {
            (true, true) => self.met,
            (true, false) => self.lowest().max(f64::MIN_POSITIVE) * LEAST,
            (false, true) if self.is_closed_in() => self.lowest(),
            (false, true) => (self.met + self.lowest()) / 2.0,
            (false, false) => self.lowest() * FIRST,
        }
    }

    fn answer(&mut self, answer: Answer) {
        self.over |= answer == Answer::Undecided;
        if self.over {
            return;
        }
        let (rate, again, met) = (self.rate(), self.is_closed_in(), answer == Answer::Met);
        if met {
            self.met = rate;
            self.missed.retain(|&missed| missed > rate);
        } else if !again {
            self.missed.push(rate);
        }
        // What a closed load did is not asked again: more than that can't arrive.
        let capacity = self.missed.first().copied().unwrap_or(0.0);
        let found = !met && again || self.missed.len() == 1 && self.is_closed_in();
        self.over = found || self.lowest() < LEAST * capacity;
    }
}

/// The searches of the members of one planned run.
#[derive(Clone, Debug)]
pub struct Hunt {
    slo: Slo,
    planned: Run,
    searches: Vec<Search>,
    begun: bool,
    /// Windows that decided nothing at the present rates.
    undecided: u32,
    /// How often each member (by its place) has measured under each load.
    attempts: BTreeMap<(usize, String), u32>,
}

impl Hunt {
    /// Of a run whose members have loads with arrivals.
    pub fn new(planned: &Run, slo: Slo) -> Hunt {
        let searches = vec![Search::default(); planned.members.len()];
        let mut planned = planned.clone();
        for (place, member) in planned.members.iter_mut().enumerate() {
            member.job.arrival_seed = member.job.settings.seed ^ ((place as u64) << 20);
        }
        Hunt { slo, planned, searches, begun: false, undecided: 0, attempts: BTreeMap::new() }
    }

    /// The next probe; none when every member has its rate.
    pub fn next(&self) -> Option<Run> {
        let mut run = self.planned.clone();
        if !self.begun {
            run.members.iter_mut().for_each(|member| member.job.load = Load::Closed);
            return Some(run);
        }
        for (member, search) in run.members.iter_mut().zip(&self.searches) {
            let job = &mut member.job;
            if !self.is_closed(&job.load) {
                job.load = job.load.at_rate(round(search.rate()));
            }
            for _ in 0..self.undecided {
                job.rule.min_ns = job.rule.min_ns.saturating_mul(LONGER_BY).min(job.rule.max_ns);
                job.rule.min_batches = job.rule.min_batches.saturating_mul(LONGER_BY);
            }
        }
        let over = |(search, member): (&Search, &super::plan::Member)| {
            search.over || self.is_closed(&member.job.load)
        };
        (!self.searches.iter().zip(&self.planned.members).all(over)).then_some(run)
    }

    /// An aggressor is loaded as it is.
    fn is_closed(&self, load: &Load) -> bool {
        *load == Load::Closed
    }

    /// Learns from the rows of a probe, and writes into them what was learnt.
    pub fn learn(&mut self, rows: &mut [Row]) {
        for (place, row) in rows.iter_mut().enumerate() {
            let before = self.attempts.entry((place, row.point.load.clone())).or_default();
            row.provenance.attempt += *before;
            *before += 1;
        }
        if !self.begun {
            self.begin(rows);
            return;
        }
        let mut answers = Vec::new();
        for (row, member) in rows.iter_mut().zip(&self.planned.members) {
            let searched = !self.is_closed(&member.job.load);
            answers.push(if searched { judge(row, self.slo) } else { Answer::Missed });
        }
        // Nothing more is asked.
        if rows.iter().any(|row| row.outcome.status == Status::Interrupted) {
            return;
        }
        let open = |(answer, search): (&Answer, &Search)| answer.is_open() && !search.over;
        if self.undecided < LONGER && answers.iter().zip(&self.searches).any(open) {
            self.undecided += 1;
            return;
        }
        self.undecided = 0;
        for (answer, search) in answers.iter().zip(&mut self.searches) {
            search.answer(*answer);
        }
    }

    /// Learns from the closed load; a search for which it says nothing is over, and its row says of what.
    fn begin(&mut self, rows: &mut [Row]) {
        self.begun = true;
        for ((row, search), member) in rows.iter_mut().zip(&mut self.searches).zip(&self.planned.members) {
            // A server's samples arrive one by one; whole batches else.
            let per = if member.job.load.is_server() { 1 } else { row.point.batch.max(1) };
            let wall = row.rates.throughput_wall.filter(|_| row.outcome.status == Status::Ok);
            search.begin(wall.map(|wall| wall / per as f64));
            if search.over && member.job.load != Load::Closed {
                row.slo.target = Some(self.slo.to_string());
            }
            search.over &= row.outcome.status != Status::Interrupted;
        }
    }

    /// Of the rows of the last probe, those whose search is not over.
    pub fn unfinished<'a>(&self, rows: &'a [Row]) -> Vec<&'a Row> {
        let of = rows.iter().zip(&self.searches);
        of.filter(|(_, search)| !search.over).map(|(row, _)| row).collect()
    }
}

/// Four digits: a rate that can be typed again.
fn round(rate: f64) -> f64 {
    if rate <= 0.0 {
        return 0.0;
    }
    let scale = 10f64.powi(3 - rate.log10().floor() as i32);
    (rate * scale).round() / scale
}

/// Does the row meet the target? Writes the bound that says so into it.
fn judge(row: &mut Row, slo: Slo) -> Answer {
    row.slo.target = Some(slo.to_string());
    let status = row.outcome.status;
    let saturated = row.outcome.warnings.0.contains(&crate::results::row::Warning::Saturated);
    let (value, bound) = summary::response_quantile(row, slo.quantile);
    row.slo.bound = bound;
    let answer = match (value, bound) {
        // A failure says nothing of the rate, nor does half a window.
        _ if matches!(status, Status::Failed | Status::Interrupted) => Answer::Undecided,
        _ if saturated => Answer::Missed,
        // Nor does a neighbour's stall or the harness's own lateness.
        _ if status == Status::Invalid => Answer::Undecided,
        (_, Some(bound)) if bound <= slo.limit_ms => Answer::Met,
        (_, Some(_)) => Answer::Missed,
        // Not even the percentile itself does.
        (Some(value), None) if value > slo.limit_ms => Answer::Missed,
        (Some(_), None) => Answer::Dependent,
        (None, None) => Answer::Undecided,
    };
    row.slo.met = (!answer.is_open()).then_some(answer == Answer::Met);
    answer
}

#[cfg(test)]
mod tests {
    use super::super::plan::Member;
    use super::*;
    use crate::machine::Instance;
    use crate::measure::load::Arrivals;
    use crate::measure::protocol::{Device, Job};
    use crate::measure::stopping::Rule;
    use crate::results::row::Mode;
    use crate::workload::Settings;

    #[test]
    fn a_target_is_read_and_spelt() {
        let slo: Slo = "p99=10ms".parse().unwrap();
        assert_eq!(slo, Slo { quantile: 0.99, limit_ms: 10.0 });
        assert_eq!(slo.to_string(), "p99<=10ms");
        assert_eq!("p99.9=500us".parse::<Slo>().unwrap().to_string(), "p99.9<=0.5ms");
        for wrong in ["10ms", "p99", "q99=1ms", "p99=0ms", "p100=1ms", "p20=1ms", "p99=x"] {
            let error = wrong.parse::<Slo>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("'{wrong}' is no target")), "{error}");
        }
    }

    /// The answers of a search to its end, and how many there were.
    fn searched(capacity: f64, mut answer: impl FnMut(usize, f64) -> bool) -> (Search, usize) {
        let (mut search, mut probes) = (Search::default(), 0);
        search.begin(Some(capacity));
        while !search.over {
            search.answer(if answer(probes, search.rate()) { Answer::Met } else { Answer::Missed });
            probes += 1;
        }
        (search, probes)
    }

    #[test]
    fn the_search_closes_in_on_the_truth() {
        for truth in [30.0, 500.0, 999.0, 995.0] {
            let (search, probes) = searched(1000.0, |_, rate| rate <= truth);
            assert!(search.met <= truth && search.met >= truth * 0.989, "{truth}: {search:?}");
            assert!(probes <= 19, "{truth}: {probes} probes");
        }
    }

    #[test]
    fn one_stall_does_not_decide() {
        let truth = 750.0;
        let (_, undisturbed) = searched(1000.0, |_, rate| rate <= truth);
        for stalled in 0..undisturbed {
            let (search, _) = searched(1000.0, |probe, rate| rate <= truth && probe != stalled);
            assert!(search.met <= truth && search.met >= truth * 0.989, "stalled at {stalled}: {search:?}");
        }
    }

    #[test]
    fn a_target_that_nothing_meets_ends_the_search() {
        let (search, probes) = searched(1000.0, |_, _| false);
        assert!(search.met == 0.0 && probes <= 20, "{probes} probes");
        let mut search = Search::default();
        search.begin(None);
        assert!(search.over);
    }

    /// An invalid row is no answer; where the rate is too high by its own doing, that is one.
    #[test]
    fn an_invalid_probe_is_asked_again() {
        let slo: Slo = "p99=10ms".parse().unwrap();
        let mut row = Row::default();
        row.invalid("a neighbour stalled");
        assert_eq!((judge(&mut row, slo), row.slo.met), (Answer::Undecided, None));
        row.outcome.warnings.0.insert(crate::results::row::Warning::Saturated);
        assert_eq!((judge(&mut row, slo), row.slo.met), (Answer::Missed, Some(false)));
        let mut row = row.failed("gone");
        assert_eq!((judge(&mut row, slo), row.slo.met), (Answer::Undecided, None));
        row.outcome.status = Status::Interrupted;
        assert_eq!((judge(&mut row, slo), row.slo.met), (Answer::Undecided, None));
    }

    /// 1000 responses within the target, of which only each `lag`-th counts.
    fn within(lag: u64) -> Row {
        let mut recorder = crate::measure::recorder::Recorder::new();
        recorder.open(0);
        (0..1000).for_each(|i| recorder.record(i * 10_000_000, i * 10_000_000 + 1_000_000));
        let mut row = Row::default();
        row.histograms.response = Some(recorder.finish().histogram);
        row.response.lag = Some(lag);
        row
    }

    #[test]
    fn what_is_not_known_is_no_cell() {
        let slo: Slo = "p99=10ms".parse().unwrap();
        let mut row = within(1);
        assert_eq!((judge(&mut row, slo), row.slo.met), (Answer::Met, Some(true)));
        row.invalid("9 of 1000 batches were issued late");
        assert_eq!((judge(&mut row, slo), row.slo.met), (Answer::Undecided, None));
        assert!(row.slo.bound.unwrap() <= slo.limit_ms);
        let mut row = within(2);
        assert_eq!((judge(&mut row, slo), row.slo.met, row.slo.bound), (Answer::Dependent, None, None));
    }

    /// A host that is late is late at every rate: three windows tell, and no rate below is tried.
    #[test]
    fn a_probe_that_says_nothing_ends_the_search() {
        let (mut hunt, mut probes) = (searching(), 0);
        while hunt.next().is_some() {
            let mut row = if probes == 0 { measured() } else { within(1) };
            if probes > 0 {
                row.invalid("9 of 1000 batches were issued late");
            }
            hunt.learn(std::slice::from_mut(&mut row));
            probes += 1;
        }
        assert_eq!((probes, hunt.searches[0].met), (4, 0.0));
        assert!(hunt.unfinished(&[Row::default()]).is_empty());
    }

    #[test]
    fn dependent_responses_send_the_search_below() {
        let mut search = Search::default();
        search.begin(Some(1000.0));
        search.answer(Answer::Dependent);
        assert_eq!((search.over, round(search.rate())), (false, 490.0));
        search.answer(Answer::Undecided);
        assert!(search.over && search.met == 0.0);
    }

    #[test]
    fn an_interrupted_search_is_not_over() {
        let mut hunt = searching();
        hunt.learn(&mut [measured()]);
        for _ in 0..5 {
            let mut row = within(1);
            row.outcome.status = Status::Interrupted;
            hunt.learn(std::slice::from_mut(&mut row));
            assert_eq!((row.slo.met, hunt.unfinished(&[row]).len()), (None, 1));
        }
        let (mut hunt, mut row) = (searching(), Row::default().failed("interrupted before its window"));
        row.outcome.status = Status::Interrupted;
        hunt.learn(std::slice::from_mut(&mut row));
        assert_eq!(
            (row.slo.target.as_deref(), hunt.unfinished(&[row.clone()]).len()),
            (Some("p99<=10ms"), 1)
        );
    }

    #[test]
    fn a_search_without_a_capacity_says_what_it_was_for() {
        let (mut hunt, mut row) = (searching(), Row::default().failed("gone"));
        hunt.learn(std::slice::from_mut(&mut row));
        assert_eq!((row.slo.target.as_deref(), row.slo.met), (Some("p99<=10ms"), None));
        assert!(hunt.next().is_none() && hunt.unfinished(&[row]).is_empty());
    }

    /// The closed load's row.
    fn measured() -> Row {
        let mut row = Row::default();
        row.rates.throughput_wall = Some(1000.0);
        row
    }

    /// One member under an open load.
    fn searching() -> Hunt {
        let job = Job {
            device: Device::Cpu,
            workload: "scripted()".into(),
            batch: 1,
            settings: Settings::default(),
            cpus: Vec::new(),
            rule: Rule::DEFAULT,
            load: Load::Open { arrivals: Arrivals::Poisson(1.0) },
            inflight: 1,
            arrival_seed: 1,
            intervals: false,
            clock_samples: false,
            own: None,
        };
        let members = vec![Member { instance: Instance::default(), job }];
        let run = Run { repetition: 1, attempt: 1, mode: Mode::Isolated, members };
        Hunt::new(&run, "p99=10ms".parse().unwrap())
    }

    /// Also of a member that measures on at its rate beside others that still search.
    #[test]
    fn a_load_measured_again_is_a_further_attempt() {
        let planned = Run { repetition: 1, attempt: 1, mode: Mode::Concurrent, members: Vec::new() };
        let mut hunt = Hunt::new(&planned, "p99=10ms".parse().unwrap());
        let attempts =
            ["closed", "open(rate=1)", "open(rate=1)", "open(rate=2)", "open(rate=1)"].map(|load| {
                let mut row = Row::default();
                (row.provenance.attempt, row.point.load) = (1, load.to_string());
                hunt.learn(std::slice::from_mut(&mut row));
                row.provenance.attempt
            });
        assert_eq!(attempts, [1, 1, 2, 1, 3]);
    }

    #[test]
    fn rates_can_be_typed_again() {
        assert_eq!(round(1234.567), 1235.0);
        assert_eq!(round(0.001_234_567), 0.001_235);
        assert_eq!(round(0.0), 0.0);
    }
}
