//! The gate on simulated files, in short and with fixed seeds; `cargo bench --bench gate` has the full
//! table and the bars.

#[path = "../benches/simulate/mod.rs"]
mod simulate;

use migbench::analysis::compare::{Options, Verdict, compare};
use simulate::Random;
use simulate::gate::{Noise, PLAIN, Scenario, options, read, side, simulate as run};

const OUTLIERS: Noise = Noise { outliers: 0.1, ..PLAIN };

#[test]
fn equal_files_raise_no_alarm() {
    for (rounds, noise) in [(5, PLAIN), (5, OUTLIERS)] {
        let counts = run(Scenario::new(10, rounds, 1.0, noise), &options(None), 5, 1);
        assert_eq!((counts.alarms, counts.improvements, counts.rows), (0, 0, 100));
    }
}

/// The bench has 98.6, 87.0 and 82.1 % of 10,000; of 40 independent rows, three standard errors less.
#[test]
fn a_slower_new_side_is_called() {
    let of = |rounds, noise, seed| {
        let counts = run(Scenario::new(10, rounds, 1.05, noise), &options(None), 4, seed);
        counts.called as f64 / counts.rows as f64
    };
    assert!(of(10, PLAIN, 2) >= 0.93);
    assert!(of(10, OUTLIERS, 3) >= 0.71);
    assert!(of(5, PLAIN, 4) >= 0.64);
}

/// Just under the threshold the risk of a row is at most 5 %; of 100 independent rows, 11.5 % are that
/// and three standard errors.
#[test]
fn a_shift_just_under_the_threshold_is_called_as_often_as_allowed() {
    let counts = run(Scenario::new(10, 5, 1.0295, PLAIN), &options(None), 10, 5);
    assert!((counts.called as f64) < 0.115 * counts.rows as f64, "{counts:?}");
}

/// At the threshold itself a row is cleared at a risk of 2.5 %; of 100 independent rows, 7.2 % are that and
/// three standard errors. A NEW side that is faster, and scattered, is not left open.
#[test]
fn a_shift_at_the_threshold_is_cleared_as_seldom_as_allowed() {
    let counts = run(Scenario::new(10, 5, 1.03, PLAIN), &options(None), 10, 13);
    assert!((counts.cleared as f64) < 0.072 * counts.rows as f64, "{counts:?}");
    let wild = Noise { run: 0.05, ..PLAIN };
    let counts = run(Scenario::new(10, 5, 0.85, wild), &options(None), 4, 14);
    assert!(counts.cleared as f64 > 0.9 * counts.rows as f64, "{counts:?}");
}

/// 95 % at least; three standard errors of 100 independent rows are 6.5 %.
#[test]
fn intervals_hold_the_truth() {
    let counts = run(Scenario::new(10, 6, 1.02, PLAIN), &options(None), 10, 6);
    assert!(counts.covered as f64 > 0.885 * counts.rows as f64, "{counts:?}");
}

#[test]
fn seven_instances_that_share_a_disturbance_are_one_replicate() {
    let noise = Noise { shared: 0.01, run: 0.002, ..PLAIN };
    let scenario = Scenario { instances: 7, ..Scenario::new(1, 5, 1.0, noise) };
    assert_eq!(run(scenario, &options(None), 10, 7).alarms, 0);
    let mut random = Random::new(8);
    let (base, new) = (read(&side(scenario, 0, &mut random)), read(&side(scenario, 1, &mut random)));
    let found = compare(&base, &new, &options(None));
    assert_eq!((found.decisions[0].base.len(), found.decisions[0].base[0].rows), (5, 7));
}

/// At 5 v 5 an adjusted p-value could never reach 5 % with 60 rows; the margin decides instead.
#[test]
fn a_family_of_sixty_rows_can_still_fire_at_five_rounds() {
    let counts = run(Scenario::new(20, 5, 1.08, PLAIN), &options(None), 2, 9);
    assert!(counts.called >= 78 && counts.rows == 80, "{counts:?}");
}

#[test]
fn threshold_zero_shares_its_risk_among_the_rows() {
    let mut random = Random::new(10);
    let scenario = Scenario::new(2, 10, 1.0, PLAIN);
    let (base, new) = (read(&side(scenario, 0, &mut random)), read(&side(scenario, 1, &mut random)));
    let found = compare(&base, &new, &options(Some(0.0)));
    let alphas: Vec<f64> = found.decisions.iter().map(|d| d.numbers.unwrap().alpha).collect();
    assert_eq!(alphas, [0.05 / 6.0; 6]);
    assert_eq!(found.count(Verdict::Same), 0, "an interval has a width");
}

/// Rows and files in any order: the same comparison to the last digit.
#[test]
fn order_does_not_matter() {
    let mut random = Random::new(11);
    let scenario = Scenario { instances: 2, ..Scenario::new(3, 4, 1.04, PLAIN) };
    let (base, new) = (read(&side(scenario, 0, &mut random)), read(&side(scenario, 1, &mut random)));
    let shown = |base: &[_], new: &[_]| format!("{:?}", compare(base, new, &Options { ..options(None) }));
    let expected = shown(&base, &new);
    let mut rng = fastrand::Rng::with_seed(12);
    for _ in 0..5 {
        let (mut base, mut new) = (base.clone(), new.clone());
        rng.shuffle(&mut base);
        rng.shuffle(&mut new);
        assert_eq!(shown(&base, &new), expected);
    }
}
