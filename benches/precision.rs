//! How often the intervals of `--precision-target` hold the truth, on streams drawn afresh:
//! `cargo bench --bench precision`, a Markdown table.
#![allow(clippy::print_stdout, reason = "its table is its output")]

mod simulate;

use simulate::streams::{Counts, Kind, windows};

fn main() {
    let trials = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(2000);
    let seed = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(1, |time| time.as_nanos() as u64);
    println!("seed {seed}");
    println!("| stream | windows | mean held | p99 held | settled | called steady | values |");
    println!("|---|---:|---:|---:|---:|---:|---:|");
    for (i, kind) in
        [Kind::Independent, Kind::Correlated, Kind::Drifting, Kind::Switching].into_iter().enumerate()
    {
        let c = windows(kind, trials, seed.wrapping_add(i as u64));
        let percent = |of| format!("{:.1} %", 100.0 * Counts::share(of, c.windows));
        println!(
            "| {kind:?} | {} | {} | {} | {} | {} | {} |",
            c.windows,
            percent(c.mean),
            percent(c.p99),
            percent(c.settled),
            percent(c.steady),
            c.values / c.windows,
        );
    }
}
