//! Annotations for GitHub Actions: workflow commands on standard output.

use super::junit::message;
use super::problem;
use crate::analysis::compare::{Comparison, Verdict};
use std::io::{self, Write};

/// GitHub shows ten errors and ten warnings of a step.
const MOST: usize = 10;

/// An error for each regression and problem, a warning for each open verdict.
///
/// # Errors
/// The stream does not take it.
pub fn write(out: &mut dyn Write, found: &Comparison) -> io::Result<()> {
    let of = |verdict| found.decisions.iter().filter(move |decision| decision.verdict == verdict);
    let title = |metric: &str, label: &str| format!("{metric} of {label}");
    let errors = found
        .problems
        .iter()
        .map(|line| ("migbench compare".to_owned(), problem(line)))
        .chain(of(Verdict::Regression).map(|d| (title(d.gate.metric.name, &d.key.label()), message(d))));
    for (title, text) in errors.take(MOST) {
        writeln!(out, "::error title={}::{}", property(&title), data(&text))?;
    }
    for decision in of(Verdict::Inconclusive).take(MOST) {
        let title = title(decision.gate.metric.name, &decision.key.label());
        writeln!(out, "::warning title={}::{}", property(&title), data(&message(decision)))?;
    }
    Ok(())
}

/// What the runner takes for the end of a command.
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// What it takes for the end of a property, too.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_cannot_end_its_command() {
        assert_eq!(property("50 %, a:b\n::error::x"), "50 %25%2C a%3Ab%0A%3A%3Aerror%3A%3Ax");
        assert_eq!(data("50 %: a"), "50 %25: a");
    }
}
