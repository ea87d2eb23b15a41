//! The stated intervals hold the truth as often as they say, and what has no truth is said to have none.
//! `cargo bench --bench precision` does the same with fresh seeds.

#[path = "../benches/simulate/mod.rs"]
mod simulate;

use simulate::streams::{Counts, Kind, windows};

fn intervals_hold(trials: u64) {
    for (kind, seed) in [(Kind::Independent, 11), (Kind::Correlated, 12)] {
        let counts = windows(kind, trials, seed);
        assert!(Counts::share(counts.settled, counts.windows) >= 0.99, "{kind:?} {counts:?}");
        for covered in [counts.mean, counts.p99] {
            assert!(Counts::share(covered, counts.windows) >= 0.9, "{kind:?} {counts:?}");
        }
    }
}

#[test]
fn intervals_hold_the_truth() {
    intervals_hold(300);
}

/// Half a minute without optimisation.
#[test]
#[ignore = "run by .ci/run"]
fn intervals_hold_the_truth_2000_times() {
    intervals_hold(2000);
}

#[test]
fn a_level_that_moves_is_not_steady() {
    for (kind, seed) in [(Kind::Drifting, 13), (Kind::Switching, 14)] {
        let counts = windows(kind, 400, seed);
        assert!(Counts::share(counts.steady, counts.windows) <= 0.05, "{kind:?} {counts:?}");
    }
}
