//! `migbench selftest`, as far as a crowded machine can tell: it ends, and every figure is there.

mod common;

use common::Bench;

#[test]
fn every_cost_is_shown() {
    let bench = Bench::new();
    let ran = bench.run(&["selftest", "--device", "cpu", "--json"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let costs: Vec<migbench::measure::costs::Cost> = serde_json::from_str(&ran.stdout).unwrap();
    for what in ["clock read", "record a latency", "closed loop", "open loop", "JSON line", "common start"] {
        let cost = costs.iter().find(|cost| cost.what.contains(what)).unwrap_or_else(|| panic!("{what}"));
        assert!(cost.value > 0.0, "{cost:?}");
    }
    let limits: Vec<f64> = costs.iter().filter_map(|cost| cost.limit).collect();
    assert_eq!(limits, [100.0, 5.0, 50.0, 50.0]);
    let refused = bench.run(&["selftest", "--device", "cuda"]);
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("libcuda"), "{}", refused.stderr);
}
