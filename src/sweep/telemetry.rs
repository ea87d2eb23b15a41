//! What two readings of a GPU say of the window between them. Pure.
//!
//! Power, energy, clocks and counters belong to the whole GPU: with MIG on, no instance has its own.

use crate::machine::nvml::Reading;
use crate::results::row::Neighbours;

/// Power is not told of a shorter time. An H200's counter of energy rises every 100 ms, so that of 1 s up to
/// 10 % may be another time's.
const SHORTEST_FOR_POWER_NS: u64 = 1_000_000_000;

/// A reading and when it was taken, on CLOCK_MONOTONIC.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moment {
    /// When, in ns.
    pub at_ns: u64,
    /// What.
    pub reading: Reading,
    /// Who computed on the GPU.
    pub company: Company,
}

/// Who computes on a GPU, as this process can tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Company {
    /// The driver named its processes.
    pub known: bool,
    /// Workers of ours among them, and what those started.
    pub ours: usize,
    /// Processes of others.
    pub foreign: usize,
    /// Processes that are not in this PID namespace.
    pub hidden: usize,
}

/// A GPU around the windows of one run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Edges {
    /// Before the common start, everyone loading.
    pub before: Moment,
    /// After the last window, everyone still loading.
    pub after: Moment,
    /// In between, where periodic telemetry was asked for.
    pub samples: Vec<Moment>,
    /// Time between samples.
    pub interval_ns: Option<u64>,
}

impl Edges {
    /// Mean power in W; none where too little time has passed to tell.
    pub fn power_w(&self) -> Option<f64> {
        let energy_mj = self.rise(|reading| reading.energy_mj).filter(|&mj| mj > 0)?;
        let ns = self.after.at_ns.checked_sub(self.before.at_ns)?;
        (ns >= SHORTEST_FOR_POWER_NS).then(|| energy_mj as f64 / 1e3 / (ns as f64 / 1e9))
    }

    /// SM clock in MHz: the mean of the samples between `from` and `to`, else that of the later edge.
    pub fn sm_clock_mhz(&self, from: u64, to: u64) -> Option<f64> {
        let inside = self.samples.iter().filter(|sample| (from..=to).contains(&sample.at_ns));
        let clocks: Vec<f64> = inside.filter_map(|s| s.reading.sm_clock_mhz).map(f64::from).collect();
        if clocks.is_empty() {
            return self.after.reading.sm_clock_mhz.map(f64::from);
        }
        Some(clocks.iter().sum::<f64>() / clocks.len() as f64)
    }

    /// Time in ms for which power, heat or the hardware itself held the clock down: the longest of them.
    pub fn throttled_ms(&self) -> Option<f64> {
        let times = [
            self.rise(|reading| reading.power_capped_ns),
            self.rise(|reading| reading.heat_capped_ns),
            self.rise(|reading| reading.hw_slowdown_ns),
        ];
        times.into_iter().flatten().max().map(|ns| ns as f64 / 1e6)
    }

    /// Share of the time between the two readings for which the power limit held the clock down.
    pub fn power_capped_share(&self) -> Option<f64> {
        self.share(|reading| reading.power_capped_ns)
    }

    /// Share of that time for which heat held the clock down.
    pub fn heat_capped_share(&self) -> Option<f64> {
        self.share(|reading| reading.heat_capped_ns)
    }

    /// Share of that time for which the hardware slowed itself down.
    pub fn hw_slowdown_share(&self) -> Option<f64> {
        self.share(|reading| reading.hw_slowdown_ns)
    }

    /// A time that a counter rose by over the time between the readings. Counter and clock are read one
    /// after the other, so that it may come out a little above 1.
    fn share(&self, counter: impl Fn(&Reading) -> Option<u64>) -> Option<f64> {
        let passed = self.after.at_ns.checked_sub(self.before.at_ns).filter(|&ns| ns > 0)?;
        Some((self.rise(counter)? as f64 / passed as f64).min(1.0))
    }

    /// Memory errors that were not corrected.
    pub fn ecc_errors(&self) -> u64 {
        self.rise(|reading| reading.ecc_uncorrected).unwrap_or(0)
    }

    /// How far a counter rose; none where it is not read, or went back (the driver was reloaded).
    fn rise(&self, counter: impl Fn(&Reading) -> Option<u64>) -> Option<u64> {
        counter(&self.after.reading)?.checked_sub(counter(&self.before.reading)?)
    }

    /// Who else computes on the GPU, of which `here` workers of this run are. `all_seen`: this process
    /// sees all of the GPU's MIG devices.
    pub fn neighbours(&self, here: usize, all_seen: bool) -> Neighbours {
        let (before, after) = (self.before.company, self.after.company);
        if before.foreign > 0 || after.foreign > 0 {
            return Neighbours::Foreign;
        }
        // In a container the driver names no process, or numbers that mean nothing here: who does not
        // see his own workers does not see others' either.
        let listed = |company: Company| company.known && company.hidden == 0;
        // Of this run's workers, some may have failed meanwhile.
        if !all_seen || !listed(before) || !listed(after) || before.ours < here {
            return Neighbours::Unknown;
        }
        if here > 1 { Neighbours::Ours } else { Neighbours::NoneSeen }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(at_ns: u64, energy_mj: Option<u64>, clock: u32) -> Moment {
        let reading = Reading { energy_mj, sm_clock_mhz: Some(clock), ..Reading::default() };
        Moment { at_ns, reading, company: Company { known: true, ours: 1, ..Company::default() } }
    }

    fn edges() -> Edges {
        Edges {
            before: moment(1_000_000_000, Some(5_000), 1980),
            after: moment(3_000_000_000, Some(1_005_000), 1900),
            ..Edges::default()
        }
    }

    #[test]
    fn power_is_energy_over_time() {
        assert_eq!(edges().power_w(), Some(500.0));
        let mut unread = edges();
        unread.before.reading.energy_mj = None;
        assert_eq!(unread.power_w(), None);
        let mut reset = edges();
        reset.after.reading.energy_mj = Some(4);
        assert_eq!(reset.power_w(), None, "a counter that went back says nothing");
        let mut short = edges();
        short.after.at_ns = 1_999_999_999;
        assert_eq!(short.power_w(), None, "the counter's steps are too long for so short a time");
        short.after.at_ns = 2_000_000_000;
        assert_eq!(short.power_w(), Some(1000.0));
        short.after.reading.energy_mj = short.before.reading.energy_mj;
        assert_eq!(short.power_w(), None, "a counter that stands still");
    }

    #[test]
    fn the_clock_is_the_later_edge_or_the_mean_of_the_samples_inside() {
        let mut edges = edges();
        assert_eq!(edges.sm_clock_mhz(0, 10), Some(1900.0));
        edges.samples = [(5, 1000), (6, 1100), (20, 10)].map(|(at, clock)| moment(at, None, clock)).to_vec();
        assert_eq!(edges.sm_clock_mhz(5, 10), Some(1050.0));
    }

    #[test]
    fn throttling_is_the_longer_of_its_reasons() {
        let mut edges = edges();
        assert_eq!(edges.throttled_ms(), None, "not read is not 0");
        (edges.before.reading.power_capped_ns, edges.after.reading.power_capped_ns) = (Some(0), Some(0));
        assert_eq!(edges.throttled_ms(), Some(0.0));
        (edges.before.reading.heat_capped_ns, edges.after.reading.heat_capped_ns) =
            (Some(1_000_000), Some(3_500_000));
        assert_eq!(edges.throttled_ms(), Some(2.5));
    }

    #[test]
    fn throttling_is_told_by_its_reason_as_a_share_of_the_time() {
        let mut edges = edges();
        assert_eq!((edges.power_capped_share(), edges.hw_slowdown_share()), (None, None));
        (edges.before.reading.power_capped_ns, edges.after.reading.power_capped_ns) =
            (Some(7), Some(1_920_000_007));
        (edges.before.reading.heat_capped_ns, edges.after.reading.heat_capped_ns) = (Some(5), Some(5));
        (edges.before.reading.hw_slowdown_ns, edges.after.reading.hw_slowdown_ns) =
            (Some(0), Some(2_000_000_100));
        assert_eq!(edges.power_capped_share(), Some(0.96));
        assert_eq!(edges.heat_capped_share(), Some(0.0));
        assert_eq!(edges.hw_slowdown_share(), Some(1.0));
    }

    #[test]
    fn neighbours_are_claimed_only_where_the_own_worker_is_seen() {
        let moment = |company| Moment { company, ..Moment::default() };
        let around = |before, after, here| {
            Edges { before: moment(before), after: moment(after), ..Edges::default() }.neighbours(here, true)
        };
        let of = |company, here| around(company, company, here);
        let seen = Company { known: true, ours: 2, ..Company::default() };
        assert_eq!(of(seen, 1), Neighbours::NoneSeen);
        assert_eq!(of(seen, 2), Neighbours::Ours);
        assert_eq!(of(seen, 3), Neighbours::Unknown);
        assert_eq!(of(Company::default(), 1), Neighbours::Unknown);
        assert_eq!(of(Company { hidden: 1, ..seen }, 1), Neighbours::Unknown);
        assert_eq!(of(Company { foreign: 1, ..seen }, 1), Neighbours::Foreign);
        // Later, one of this run's workers has failed, or somebody came whom nobody can see.
        assert_eq!(around(seen, Company { ours: 1, ..seen }, 2), Neighbours::Ours);
        assert_eq!(around(seen, Company { hidden: 1, ..seen }, 2), Neighbours::Unknown);
        assert_eq!(around(seen, Company::default(), 2), Neighbours::Unknown);
        assert_eq!(around(seen, Company { foreign: 1, ..seen }, 2), Neighbours::Foreign);
        let before = |company| Moment { company, ..Moment::default() };
        let partly = |company| Edges { before: before(company), ..Edges::default() }.neighbours(1, false);
        assert_eq!(partly(seen), Neighbours::Unknown, "others may be in MIG devices that are not shown");
        assert_eq!(partly(Company { foreign: 1, ..seen }), Neighbours::Foreign);
    }
}
