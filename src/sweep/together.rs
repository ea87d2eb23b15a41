//! The common phase: all workers of a run load together before their windows open. Pure.
//!
//! What a worker does in that time is what it is held to afterwards ([`super::corun`]).

/// The phase lasts for at least this long.
const LEAST_NS: u64 = 1_000_000_000;
/// In it, the slowest worker does at least this many batches.
const LEAST_BATCHES: u64 = 20;
/// It lasts no longer than this, however slow the slowest is.
const MOST_NS: u64 = 10_000_000_000;

/// One common phase.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Together {
    /// When the last of the workers was ready, CLOCK_MONOTONIC ns.
    since_ns: u64,
    /// Who is in it, and the batches that each had told of then; none of a worker that has left.
    told: Vec<Option<u64>>,
}

impl Together {
    /// Looks at the clock and at the batches that each worker has told of since its start; none of a
    /// worker that has left. True when all have loaded together for long enough. The phase begins anew
    /// when a worker leaves: those that remain are another co-run.
    pub fn is_enough(&mut self, now_ns: u64, told: &[Option<u64>]) -> bool {
        let same = self.told.len() == told.len()
            && self.told.iter().zip(told).all(|(then, now)| then.is_some() == now.is_some());
        if !same {
            *self = Together { since_ns: now_ns, told: told.to_vec() };
        }
        let done = self
            .told
            .iter()
            .zip(told)
            .filter_map(|(then, now)| Some(now.as_ref()?.saturating_sub(*then.as_ref()?)));
        let fewest = done.min().unwrap_or(0);
        let passed = now_ns.saturating_sub(self.since_ns);
        passed >= MOST_NS || (passed >= LEAST_NS && fewest >= LEAST_BATCHES)
    }

    /// When it began, CLOCK_MONOTONIC ns.
    pub fn since_ns(&self) -> u64 {
        self.since_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn a_second_and_twenty_batches_of_the_slowest_but_no_more_than_ten_seconds() {
        let enough = |batches_per_s: [u64; 2]| {
            let mut together = Together::default();
            let told = |tenth: u64| batches_per_s.map(|rate| Some(70 + rate * tenth / 10));
            (0..200).find(|&tenth| together.is_enough(5 * S + tenth * S / 10, &told(tenth)))
        };
        assert_eq!(enough([1000, 1000]), Some(10));
        assert_eq!(enough([1000, 5]), Some(40));
        assert_eq!(enough([1, 5]), Some(100));
        assert_eq!(enough([0, 1000]), Some(100));
    }

    #[test]
    fn it_begins_anew_with_those_that_remain() {
        let mut together = Together::default();
        assert!(!together.is_enough(S, &[Some(0), Some(0), Some(0)]));
        assert!(!together.is_enough(2 * S, &[Some(90), None, Some(90)]));
        assert_eq!(together.since_ns(), 2 * S);
        assert!(!together.is_enough(3 * S, &[Some(100), None, Some(190)]));
        assert!(together.is_enough(3 * S, &[Some(110), None, Some(190)]));
        assert_eq!(together.since_ns(), 2 * S);
    }
}
