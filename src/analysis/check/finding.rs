//! What is wrong with a cell, and a bounded heap of such findings.

use crate::machine::text;
use serde::Serialize;
use std::collections::BTreeMap;

/// Something that can't be so.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// Of the file, from 1 (the header).
    pub line: u64,
    /// As the file calls it.
    pub column: String,
    /// Which rule, as docs/checks.md calls it.
    pub rule: &'static str,
    /// What is there.
    pub found: String,
    /// What it should be.
    pub expected: String,
    /// Found over expected, where both are numbers.
    pub factor: Option<f64>,
}

/// Longest text of a cell that is repeated in a finding.
const LONGEST: usize = 60;

impl Finding {
    /// Without a factor.
    pub fn new(
        line: u64,
        column: &str,
        rule: &'static str,
        found: &str,
        expected: impl Into<String>,
    ) -> Finding {
        Finding {
            line,
            column: shorten(column),
            rule,
            found: shorten(found),
            // It may quote other cells of the row.
            expected: on_one_line(&expected.into()),
            factor: None,
        }
    }

    /// Found over expected.
    pub fn factor(mut self, factor: f64) -> Finding {
        self.factor = Some(factor).filter(|factor| factor.is_finite());
        self
    }
}

/// A text without what would break a line of output.
fn on_one_line(text: &str) -> String {
    let shown = |c: char| if text::is_visible(c) { c } else { char::REPLACEMENT_CHARACTER };
    let visible: String = text.chars().map(shown).collect();
    text::cell(&visible).into_owned()
}

/// The beginning of a text, on one line.
fn shorten(text: &str) -> String {
    let start: String = text.chars().take(LONGEST).collect();
    let mut short = on_one_line(&start);
    if text.chars().nth(LONGEST).is_some() {
        short.push('…');
    }
    short
}

/// Findings of one file: the first ones of each rule and column, and how many there were.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Findings {
    keep: usize,
    groups: BTreeMap<(&'static str, String), (u64, Vec<Finding>)>,
}

impl Findings {
    /// Keeps the first `keep` of each rule and column.
    pub fn new(keep: usize) -> Findings {
        Findings { keep, groups: BTreeMap::new() }
    }

    /// Adds one.
    pub fn push(&mut self, finding: Finding) {
        let group = self.groups.entry((finding.rule, finding.column.clone())).or_default();
        group.0 += 1;
        if group.1.len() < self.keep {
            group.1.push(finding);
        }
    }

    /// Adds those of later lines.
    pub fn append(&mut self, later: Findings) {
        for (key, (count, kept)) in later.groups {
            let group = self.groups.entry(key).or_default();
            group.0 += count;
            group.1.extend(kept);
            group.1.truncate(self.keep);
        }
    }

    /// All there were, kept or not.
    pub fn count(&self) -> u64 {
        self.groups.values().map(|group| group.0).sum()
    }

    /// The kept ones by line.
    pub fn kept(&self) -> Vec<&Finding> {
        let mut kept: Vec<&Finding> = self.groups.values().flat_map(|group| &group.1).collect();
        kept.sort_by_key(|finding| finding.line);
        kept
    }

    /// Rule, column and number of those that were left out.
    pub fn left_out(&self) -> impl Iterator<Item = (&'static str, &str, u64)> {
        self.groups.iter().filter_map(|((rule, column), (count, kept))| {
            let left = count - kept.len() as u64;
            (left > 0).then_some((*rule, column.as_str(), left))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_are_kept_and_all_are_counted() {
        let some = |lines: std::ops::Range<u64>| {
            let mut findings = Findings::new(2);
            for line in lines {
                findings.push(Finding::new(line, "a", "r", "1", "2").factor(0.5));
            }
            findings
        };
        let mut findings = some(1..4);
        findings.append(some(4..9));
        findings.push(Finding::new(3, "b", "r", "1", "2"));
        assert_eq!(findings.count(), 9);
        let lines: Vec<_> = findings.kept().iter().map(|f| (f.line, f.column.as_str())).collect();
        assert_eq!(lines, [(1, "a"), (2, "a"), (3, "b")]);
        assert_eq!(findings.left_out().collect::<Vec<_>>(), [("r", "a", 6)]);
    }

    #[test]
    fn a_cell_is_shown_on_one_short_line() {
        assert_eq!(Finding::new(1, "a", "r", &"x".repeat(61), "").found.chars().count(), 61);
        let finding = Finding::new(1, "a", "r", "\0\u{1b}[1m", "cuda: instance_kind is \u{1b}[1m\r::x");
        assert_eq!(finding.found, "\u{fffd}\u{fffd}[1m");
        assert_eq!(finding.expected, "cuda: instance_kind is \u{fffd}[1m\u{fffd}::x");
    }
}
