//! Does an open load wait as theory says? `cargo bench --bench queue`, on an idle machine.
//!
//! Poisson arrivals to one server of constant service time on the real clock: each measured start against
//! Lindley's recursion on the actual arrivals and services, and the mean wait against Pollaczek and
//! Khinchine's λE[S²]/(2(1-ρ)), which is ρ/(2(1-ρ)) services for constant ones (M/D/1). A machine that
//! stands still now and then makes services longer: M/G/1 is the same formula for the services as they were.
#![allow(clippy::print_stdout, reason = "its table is its output")]

use migbench::measure::clock::Monotonic;
use migbench::measure::load::{Arrivals, Load, lindley};
use migbench::measure::records::Records;
use migbench::measure::stopping::Rule;
use migbench::measure::window::{Control, Task, Window};
use migbench::workload::Workload;
use migbench::workload::scripted::Scripted;

const SERVICE_NS: f64 = 100_000.0;
/// A start further from the recursion's than this is the harness's fault.
const NEAR_NS: u64 = 20_000;

fn main() {
    let arrivals = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(100_000);
    println!(
        "| utilisation | arrivals | within 20 us of Lindley | mean wait | M/D/1 | ratio | of this schedule | M/G/1 |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---:|---:|");
    for utilisation in [0.5, 0.8] {
        let rate = utilisation * 1e9 / SERVICE_NS;
        let load = Load::Open { arrivals: Arrivals::Poisson(rate) };
        let task = Task { load, seed: 1, ..Task::closed(1) };
        let mut workload = Scripted::new("times=100us", Monotonic).expect("a script");
        workload.prepare(&[1], 1).expect("nothing to prepare");
        let control = Control::default();
        let mut records = Records::new(&task.load, 1, 1);
        records.keep_log(arrivals);
        let mut window = Window::new(&Monotonic, &mut workload, &task, &control);
        window.measure(Rule::given(None, Some(arrivals as u64)), &mut records).expect("it cannot fail");
        let log = records.log();
        let jobs = log.iter().map(|(intended, issued, done)| (*intended, done - issued));
        let near =
            lindley(jobs).zip(log).filter(|(start, (_, issued, _))| start.abs_diff(*issued) <= NEAR_NS);
        let near = near.count() as f64 / log.len() as f64;
        let wait = log.iter().map(|(intended, issued, _)| (issued - intended) as f64).sum::<f64>();
        let wait = wait / log.len() as f64 / 1e3;
        let theory = utilisation / (2.0 * (1.0 - utilisation)) * SERVICE_NS / 1e3;
        // What exactly constant services would have waited on these arrivals: the sample's own chance.
        let exact: Vec<(u64, u64)> = log.iter().map(|entry| (entry.0, SERVICE_NS as u64)).collect();
        let sample =
            lindley(exact.iter().copied()).zip(&exact).map(|(s, (a, _))| (s - a) as f64).sum::<f64>();
        let sample = sample / exact.len() as f64 / 1e3;
        let services = log.iter().map(|(_, issued, done)| (done - issued) as f64 / 1e3);
        let moment = |power| services.clone().map(|s| s.powi(power)).sum::<f64>() / log.len() as f64;
        let per_us = rate / 1e6;
        let general = per_us * moment(2) / (2.0 * (1.0 - per_us * moment(1)));
        println!(
            "| {:.0} % | {} | {:.2} % | {wait:.1} us | {theory:.1} us | {:.3} | {sample:.1} us | {general:.1} us |",
            100.0 * utilisation,
            log.len(),
            100.0 * near,
            wait / theory,
        );
    }
}
