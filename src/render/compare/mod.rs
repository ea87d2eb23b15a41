//! What `compare` found, one file per form.

pub mod csv;
pub mod github;
pub mod json;
pub mod junit;
pub mod markdown;
pub mod table;

use crate::analysis::compare::{Comparison, Decision, KEY, Key, Verdict};

/// Columns of the points that are not the same everywhere, and the text of those that are.
struct Shared {
    varying: Vec<&'static str>,
    constant: String,
}

impl Shared {
    fn of(found: &Comparison) -> Shared {
        let keys: Vec<&Key> = found.decisions.iter().map(|decision| &decision.key).collect();
        let same = |name: &str| keys.windows(2).all(|pair| pair[0].get(name) == pair[1].get(name));
        let (constant, varying): (Vec<_>, Vec<_>) =
            KEY.iter().map(|column| column.name).partition(|name| same(name));
        let Some(first) = keys.first() else {
            return Shared { varying: Vec::new(), constant: String::new() };
        };
        // These words need no name before them.
        let plain = ["gpu_name", "profile", "workload", "precision", "mode"];
        let unsaid = ["instance_kind", "sm_count", "device", "backend"];
        let words = constant.into_iter().filter(|name| !unsaid.contains(name) && !first.get(name).is_empty());
        let words = words.map(|name| match plain.contains(&name) {
            true => first.get(name).to_owned(),
            false => format!("{name} {}", first.get(name)),
        });
        Shared { varying, constant: words.collect::<Vec<_>>().join(", ") }
    }
}

/// A share as percent, with its sign.
fn percent(share: f64) -> String {
    if share.is_infinite() {
        return if share > 0.0 { "+∞".into() } else { "-∞".into() };
    }
    format!("{:+.2} %", 100.0 * share)
}

/// The change of the number itself: a shift is positive where NEW is worse.
fn change(decision: &Decision, shift: f64) -> f64 {
    let sign = if decision.gate.metric.less_is_better { 1.0 } else { -1.0 };
    (sign * shift).exp() - 1.0
}

/// The ends of the interval as changes of the number.
fn interval(decision: &Decision) -> Option<(f64, f64)> {
    let numbers = decision.numbers?;
    let ends = (change(decision, numbers.interval.0), change(decision, numbers.interval.1));
    Some((ends.0.min(ends.1), ends.0.max(ends.1)))
}

/// The interval in words.
fn interval_text(decision: &Decision) -> String {
    match interval(decision) {
        Some((low, high)) if low == -1.0 && high.is_infinite() => "unbounded".to_owned(),
        Some((low, high)) => format!("{} … {}", percent(low), percent(high)),
        None => String::new(),
    }
}

/// The bound that the verdict rests on, as a ratio that is above 0 where NEW is worse.
fn bound(decision: &Decision) -> Option<f64> {
    let numbers = decision.numbers?;
    let bound = if decision.verdict == Verdict::Improvement { numbers.bounds.1 } else { numbers.bounds.0 };
    Some(bound.exp_m1())
}

/// The bound beside what it is compared with: `+3.4 % >= 3 %`.
fn bound_text(decision: &Decision) -> String {
    let (Some(bound), Some(numbers)) = (bound(decision), decision.numbers) else { return String::new() };
    let margin = 100.0 * numbers.margin.exp_m1();
    let limit = format!("{}", (margin * 1e4).round() / 1e4);
    // So few rounds bound nothing at this risk.
    if bound == -1.0 {
        return format!("unknown < {limit} %");
    }
    match decision.verdict {
        Verdict::Regression => format!("{} ≥ {limit} %", percent(bound)),
        Verdict::Improvement => {
            let limit = 100.0 * (-numbers.margin).exp_m1();
            format!("{} ≤ {:.2} %", percent(bound), limit)
        }
        _ => format!("{} < {limit} %", percent(bound)),
    }
}

/// Replicates a side.
fn counts(decision: &Decision) -> String {
    format!("{} v {}", decision.base.len(), decision.new.len())
}

/// The verdict and its reason.
fn verdict(decision: &Decision) -> String {
    match &decision.reason {
        Some(reason) => format!("{} ({reason})", decision.verdict.word()),
        None => decision.verdict.word().to_owned(),
    }
}

/// A value, to four digits.
fn value(value: f64) -> String {
    let decimals = (3 - value.abs().max(1e-6).log10().floor() as i32).clamp(0, 9);
    format!("{value:.0$}", decimals as usize)
}

/// What would settle an open verdict.
fn hint(decision: &Decision) -> Option<String> {
    if decision.verdict != Verdict::Inconclusive {
        return None;
    }
    let have = decision.base.len().min(decision.new.len());
    let label = format!("{} of {}", decision.gate.metric.name, decision.key.label());
    Some(match decision.rounds_needed {
        Some(rounds) => format!("{label}: about {rounds} rounds a side would settle it, there are {have}"),
        None => format!(
            "{label}: its change lies at the threshold, or its noise is too large; more rounds hardly settle it"
        ),
    })
}

/// The last line.
fn summary(found: &Comparison) -> String {
    let mut parts = Vec::new();
    let verdicts = [
        Verdict::Regression,
        Verdict::Inconclusive,
        Verdict::Same,
        Verdict::NotWorse,
        Verdict::Improvement,
        Verdict::Skipped,
    ];
    for verdict in verdicts {
        let count = found.count(verdict);
        if count > 0 {
            parts.push(format!("{count} {}", verdict.word()));
        }
    }
    let problems = match found.problems.len() {
        0 => String::new(),
        1 => "; 1 problem".to_owned(),
        n => format!("; {n} problems"),
    };
    let rows = match found.decisions.len() {
        1 => "1 comparison".to_owned(),
        n => format!("{n} comparisons"),
    };
    let colon = if parts.is_empty() { "" } else { ": " };
    format!("{rows}{colon}{}{problems}", parts.join(", "))
}

/// A problem in one line.
fn problem(problem: &crate::analysis::compare::Problem) -> String {
    let place = problem.point.as_ref().map_or(String::new(), |key| format!("{}: ", key.label()));
    format!("{} {place}{}", problem.kind.word(), problem.text)
}
