//! How the gate behaves on simulated files: `cargo bench --bench gate`, a Markdown table.
//!
//! `cargo bench --bench gate -- 0.1` runs a tenth of the repetitions.
#![allow(clippy::print_stdout, reason = "its table is its output")]

mod simulate;

use simulate::gate::{Counts, Noise, PLAIN, Scenario, options, simulate as run};

const OUTLIERS: Noise = Noise { outliers: 0.1, ..PLAIN };

fn main() {
    let scale: f64 = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(1.0);
    let trials = |n: u64| ((n as f64 * scale) as u64).max(2);
    println!("| simulated | what | rate | bar |");
    println!("|---|---|---:|---:|");
    let mut seed = 0;
    let mut line =
        |what: &str, scenario: Scenario, threshold: Option<f64>, n: u64, of: Measure, bar: &str| {
            seed += 1;
            let counts = run(scenario, &options(threshold), trials(n), seed);
            println!("| {what} | {} | {} | {bar} |", of.name(), of.rate(counts));
        };
    use Measure::{Called, Cleared, Covered, Family, Same};
    for points in [1, 5, 20] {
        for rounds in [5, 10] {
            let what = format!("A/A, {points} points x 3 gates, {rounds} v {rounds}");
            line(&what, Scenario::new(points, rounds, 1.0, PLAIN), None, 1000, Family, "≤ 5 %");
        }
    }
    for rounds in [5, 10] {
        let what = format!("A/A, 20 points x 3 gates, {rounds} v {rounds}, 10 % outliers up to +20 %");
        line(&what, Scenario::new(20, rounds, 1.0, OUTLIERS), None, 1000, Family, "≤ 5 %");
    }
    for rounds in [5, 10] {
        let what = format!("A/A, {rounds} v {rounds}");
        line(&what, Scenario::new(20, rounds, 1.0, PLAIN), None, 250, Same, "");
    }
    line("+5 %, 10 v 10", Scenario::new(20, 10, 1.05, PLAIN), None, 250, Called, "≥ 95 %");
    line("+5 %, 10 v 10, 10 % outliers", Scenario::new(20, 10, 1.05, OUTLIERS), None, 250, Called, "≥ 80 %");
    line("+5 %, 5 v 5", Scenario::new(20, 5, 1.05, PLAIN), None, 500, Called, "≥ 80 %");
    for rounds in [5, 7, 10] {
        let what = format!("+2.95 %, just under the threshold, {rounds} v {rounds}");
        line(&what, Scenario::new(20, rounds, 1.0295, PLAIN), None, 500, Called, "≤ 5 % and chance");
    }
    for rounds in 4..=10 {
        let what = format!("+2 %, {rounds} v {rounds}");
        line(&what, Scenario::new(20, rounds, 1.02, PLAIN), None, 500, Covered, "95 to 97.2 %");
    }
    let shared = Noise { shared: 0.01, run: 0.002, ..PLAIN };
    let seven = Scenario { instances: 7, ..Scenario::new(3, 5, 1.0, shared) };
    line("A/A, 7 instances share each round's disturbance, 5 v 5", seven, None, 1000, Family, "≤ 5 %");
    // The spread of whole runs on one H200, batches within one alike.
    let h200 = Noise { run: 0.0014, batch: (0.002, 0.5), ..PLAIN };
    let one = Scenario::new(5, 5, 1.01, h200);
    line("+1 % at threshold 0.5 %, run sd 0.14 %, 5 v 5", one, Some(0.005), 400, Called, "");
    line(
        "A/A at threshold 0, 5 points, 10 v 10",
        Scenario::new(5, 10, 1.0, PLAIN),
        Some(0.0),
        1000,
        Family,
        "≤ 5 %",
    );
    // What no test on rounds can know.
    for (what, noise) in [
        ("A/A with a drift of 0.1 % a round", Noise { drift: 0.001, ..PLAIN }),
        ("A/A with a drift of 0.5 % a round", Noise { drift: 0.005, ..PLAIN }),
        ("A/A, sessions differ by sd 0.5 %", Noise { session: 0.005, ..PLAIN }),
        ("A/A, sessions differ by sd 1 %", Noise { session: 0.01, ..PLAIN }),
        ("A/A, sessions differ by sd 3 %", Noise { session: 0.03, ..PLAIN }),
    ] {
        let what = format!("{what}, 5 points x 3 gates, 10 v 10");
        line(&what, Scenario::new(5, 10, 1.0, noise), None, 500, Family, "none");
    }
    for rounds in [5, 10] {
        let what = format!("+3 %, the threshold itself, {rounds} v {rounds}");
        line(&what, Scenario::new(20, rounds, 1.03, PLAIN), None, 500, Cleared, "≤ 2.5 % and chance");
    }
}

/// Which count of a scenario is shown.
#[derive(Clone, Copy)]
enum Measure {
    Family,
    Called,
    Same,
    Cleared,
    Covered,
}

impl Measure {
    fn name(self) -> &'static str {
        match self {
            Measure::Family => "comparisons with a REGRESSION",
            Measure::Called => "rows called REGRESSION",
            Measure::Same => "rows called SAME",
            Measure::Cleared => "rows called SAME, NOT WORSE or IMPROVEMENT",
            Measure::Covered => "intervals that hold the true ratio",
        }
    }

    /// With the Monte-Carlo error: one standard deviation.
    fn rate(self, counts: Counts) -> String {
        let (part, whole) = match self {
            Measure::Family => (counts.alarms, counts.comparisons),
            Measure::Called => (counts.called, counts.rows),
            Measure::Same => (counts.same, counts.rows),
            Measure::Cleared => (counts.cleared, counts.rows),
            Measure::Covered => (counts.covered, counts.rows),
        };
        let rate = part as f64 / whole as f64;
        // The two metrics of a row move together: count them once.
        let independent = if matches!(self, Measure::Family) { whole } else { whole / 2 };
        let error = (rate * (1.0 - rate) / independent as f64).sqrt();
        format!("{:.2} ± {:.2} % of {whole}", 100.0 * rate, 100.0 * error)
    }
}
