//! JUnit XML, as CI systems show it: a suite for each gate, a case for each point.
//!
//! REGRESSION is a failure, a problem an error, INCONCLUSIVE and SKIPPED are skipped; the rest has passed.

use super::{bound_text, change, hint, percent, problem, value, verdict};
use crate::analysis::compare::{Comparison, Decision, Verdict};
use crate::machine::text::is_visible;
use std::io::{self, Write};

/// One document.
///
/// # Errors
/// The stream does not take it.
pub fn write(out: &mut dyn Write, found: &Comparison) -> io::Result<()> {
    let mut gates: Vec<&'static str> = Vec::new();
    for decision in &found.decisions {
        if !gates.contains(&decision.gate.metric.name) {
            gates.push(decision.gate.metric.name);
        }
    }
    gates.sort_unstable();
    let (failures, errors) = (found.count(Verdict::Regression), found.problems.len());
    let skipped = found.count(Verdict::Inconclusive) + found.count(Verdict::Skipped);
    writeln!(out, r#"<?xml version="1.0" encoding="UTF-8"?>"#)?;
    writeln!(
        out,
        r#"<testsuites name="migbench compare" tests="{}" failures="{failures}" errors="{errors}" skipped="{skipped}">"#,
        found.decisions.len() + errors
    )?;
    if errors > 0 {
        writeln!(
            out,
            r#"  <testsuite name="problems" tests="{errors}" failures="0" errors="{errors}" skipped="0">"#
        )?;
        for line in &found.problems {
            let name = line.point.as_ref().map_or("all".to_owned(), |key| key.label());
            writeln!(
                out,
                r#"    <testcase classname="problems" name="{}"><error type="{}" message="{}"/></testcase>"#,
                escape(&name),
                line.kind.word(),
                escape(&problem(line))
            )?;
        }
        writeln!(out, "  </testsuite>")?;
    }
    for gate in gates {
        suite(out, gate, found)?;
    }
    writeln!(out, "</testsuites>")
}

fn suite(out: &mut dyn Write, gate: &str, found: &Comparison) -> io::Result<()> {
    let cases: Vec<&Decision> = found.decisions.iter().filter(|d| d.gate.metric.name == gate).collect();
    let count = |verdicts: &[Verdict]| cases.iter().filter(|d| verdicts.contains(&d.verdict)).count();
    writeln!(
        out,
        r#"  <testsuite name="{}" tests="{}" failures="{}" errors="0" skipped="{}">"#,
        escape(gate),
        cases.len(),
        count(&[Verdict::Regression]),
        count(&[Verdict::Inconclusive, Verdict::Skipped])
    )?;
    for decision in cases {
        let text = message(decision);
        let name = escape(&decision.key.label());
        write!(out, r#"    <testcase classname="{}" name="{name}">"#, escape(gate))?;
        match decision.verdict {
            Verdict::Regression => {
                write!(out, r#"<failure type="REGRESSION" message="{}"/>"#, escape(&text))?;
            }
            Verdict::Inconclusive | Verdict::Skipped => {
                write!(out, r#"<skipped message="{}"/>"#, escape(&text))?;
            }
            Verdict::Same | Verdict::NotWorse | Verdict::Improvement => {
                write!(out, "<system-out>{}</system-out>", escape(&text))?;
            }
        }
        writeln!(out, "</testcase>")?;
    }
    writeln!(out, "  </testsuite>")
}

/// A decision in one line.
pub(super) fn message(decision: &Decision) -> String {
    let mut text = verdict(decision);
    if let Some(numbers) = decision.numbers {
        let unit = decision.gate.metric.unit;
        text += &format!(
            ": {} → {} {unit}, {} ({})",
            value(numbers.base),
            value(numbers.new),
            percent(change(decision, numbers.shift)),
            bound_text(decision)
        );
    }
    match hint(decision) {
        Some(hint) => format!("{text}; {hint}"),
        None => text,
    }
}

/// Text as an attribute or as content. What XML 1.0 can't hold at all becomes U+FFFD.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&apos;",
            '\t' | '\n' | '\r' => escaped += &format!("&#{};", c as u32),
            c if !is_visible(c) || matches!(c, '\u{fffe}' | '\u{ffff}') => {
                escaped.push(char::REPLACEMENT_CHARACTER)
            }
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    #[test]
    fn xml_holds_any_text() {
        assert_eq!(super::escape("a<\"b\">&'\n\u{1}é"), "a&lt;&quot;b&quot;&gt;&amp;&apos;&#10;\u{fffd}é");
    }
}
