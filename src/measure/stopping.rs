//! When a window ends. Pure: a function of elapsed time and batches.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A window ends at the first batch after which both minimums are met, or the cap is; where nothing is in
/// flight at that moment, in wait of an arrival, it ends there and then.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// At least this long, in ns.
    pub min_ns: u64,
    /// At least this many batches.
    pub min_batches: u64,
    /// At most this long, in ns; a batch that is in flight by then is the last.
    pub max_ns: u64,
    /// Mean and p99 are to be known to this share, and steady: beyond both minimums.
    #[serde(default)]
    pub precision: Option<f64>,
}

impl Rule {
    /// 10 s and 700 batches, at most 60 s. 662 batches give a 99 % upper bound of p99
    /// ([`crate::results::summary::batches_needed`]); 700 leave some to spare.
    pub const DEFAULT: Rule =
        Rule { min_ns: 10_000_000_000, min_batches: 700, max_ns: 60_000_000_000, precision: None };

    /// Given bounds only: exactly so long, exactly so many batches, or both at least.
    pub fn given(duration_ns: Option<u64>, batches: Option<u64>) -> Rule {
        match (duration_ns, batches) {
            (None, None) => Rule::DEFAULT,
            (min_ns, min_batches) => {
                let (min_ns, min_batches) = (min_ns.unwrap_or(0), min_batches.unwrap_or(0));
                Rule { min_ns, min_batches, max_ns: u64::MAX, precision: None }
            }
        }
    }

    /// Until mean and p99 are known to a share, within `max_ns`: at least so long that a drift can show.
    pub fn until_known(target: f64, max_ns: Option<u64>) -> Rule {
        let max_ns = max_ns.unwrap_or(Rule::DEFAULT.max_ns);
        let min_ns = 2_000_000_000.min(max_ns);
        Rule { min_ns, min_batches: Rule::DEFAULT.min_batches, max_ns, precision: Some(target) }
    }

    /// Is a window of this length over, whose precision is, or is not, reached?
    #[inline]
    pub fn ends(&self, elapsed_ns: u64, batches: u64, settled: bool) -> bool {
        elapsed_ns >= self.limit_ns(batches, settled)
    }

    /// How long a window lasts, in ns, in which no more than these batches are done.
    #[inline]
    pub fn limit_ns(&self, batches: u64, settled: bool) -> u64 {
        let known = self.precision.is_none() || settled;
        if known && batches >= self.min_batches { self.min_ns.min(self.max_ns) } else { self.max_ns }
    }

    /// Is a window of this length over, whatever is known?
    #[inline]
    pub fn is_over(&self, elapsed_ns: u64, batches: u64) -> bool {
        (elapsed_ns >= self.min_ns && batches >= self.min_batches) || elapsed_ns >= self.max_ns
    }

    /// Did the cap end it before both minimums were met?
    pub fn hit_cap(&self, elapsed_ns: u64, batches: u64) -> bool {
        self.is_over(elapsed_ns, batches) && (elapsed_ns < self.min_ns || batches < self.min_batches)
    }

    /// How long a window lasts, in ns, if a batch takes `batch_ns`.
    pub fn estimate_ns(&self, batch_ns: u64) -> u64 {
        self.min_ns.max(self.min_batches.saturating_mul(batch_ns)).min(self.max_ns).max(batch_ns)
    }
}

impl fmt::Display for Rule {
    /// As `10s & 700 batches <= 60s`: both minimums, and the cap.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let seconds = |ns: u64| format!("{}s", ns as f64 / 1e9);
        let time = (self.min_ns > 0).then(|| seconds(self.min_ns));
        let batches = (self.min_batches > 0).then(|| format!("{} batches", self.min_batches));
        let both: Vec<String> = time.into_iter().chain(batches).collect();
        f.write_str(&both.join(" & "))?;
        if let Some(target) = self.precision {
            write!(f, " & known to {}%", target * 100.0)?;
        }
        if self.max_ns < u64::MAX { write!(f, " <= {}", seconds(self.max_ns)) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_spelt_as_it_is_meant() {
        assert_eq!(Rule::DEFAULT.to_string(), "10s & 700 batches <= 60s");
        assert_eq!(Rule::given(Some(500_000_000), None).to_string(), "0.5s");
        assert_eq!(Rule::given(None, Some(50)).to_string(), "50 batches");
        let known = Rule::until_known(0.01, None);
        assert_eq!(known.to_string(), "2s & 700 batches & known to 1% <= 60s");
    }

    #[test]
    fn precision_is_waited_for_up_to_the_cap() {
        let rule = Rule::until_known(0.01, Some(5_000_000_000));
        assert!(!rule.ends(3_000_000_000, 10_000, false) && rule.ends(3_000_000_000, 10_000, true));
        assert!(!rule.ends(1_000_000_000, 10_000, true) && rule.ends(5_000_000_000, 10_000, false));
        assert!(Rule::DEFAULT.ends(10_000_000_000, 700, false), "nobody asked");
    }

    #[test]
    fn a_window_in_wait_of_an_arrival_has_a_limit() {
        let s = 1_000_000_000;
        assert_eq!(Rule::given(Some(3 * s), None).limit_ns(0, false), 3 * s);
        assert_eq!([0, 699, 700].map(|n| Rule::DEFAULT.limit_ns(n, false) / s), [60, 60, 10]);
        assert_eq!(Rule::given(None, Some(5)).limit_ns(4, false), u64::MAX);
        let rule = Rule::until_known(0.01, Some(5 * s));
        assert_eq!([false, true].map(|settled| rule.limit_ns(700, settled) / s), [5, 2]);
    }

    #[test]
    fn the_default_needs_both_minimums_or_the_cap() {
        let rule = Rule::DEFAULT;
        assert!(!rule.is_over(9_999_999_999, 1_000_000));
        assert!(!rule.is_over(59_999_999_999, 699));
        assert!(rule.is_over(10_000_000_000, 700) && !rule.hit_cap(10_000_000_000, 700));
        assert!(rule.is_over(60_000_000_000, 61) && rule.hit_cap(60_000_000_000, 61));
    }

    #[test]
    fn a_given_bound_replaces_the_default() {
        let rule = Rule::given(Some(5), None);
        assert!(!rule.is_over(4, u64::MAX) && rule.is_over(5, 1));
        let rule = Rule::given(None, Some(3));
        assert!(!rule.is_over(u64::MAX - 1, 2) && rule.is_over(0, 3) && !rule.hit_cap(0, 3));
        let rule = Rule::given(Some(5), Some(3));
        assert!(!rule.is_over(5, 2) && !rule.is_over(4, 3) && rule.is_over(5, 3));
    }

    #[test]
    fn the_estimate_is_what_the_rule_does() {
        for (batch_ns, expected) in
            [(1_000_000, 10_000_000_000), (20_000_000, 14_000_000_000), (10u64.pow(9), 60_000_000_000)]
        {
            assert_eq!(Rule::DEFAULT.estimate_ns(batch_ns), expected);
        }
    }
}
