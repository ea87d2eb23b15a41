//! Text that other programs wrote: names of GPUs, lines of standard error, logs of libraries, cells of
//! CSV files. It is cleaned once, where it enters.
//!
//! A clean text is one line that cannot control a terminal, cannot reorder what is shown around it, and
//! is no command to a CI system that reads the output:
//! - ANSI sequences are removed as a whole, then control characters, characters that change the
//!   direction of text, and invisible ones;
//! - of a line that was drawn over by carriage returns, as a progress bar, the last state is kept;
//! - lines are joined by ` | `, so that a table and a row of CSV stay what they are;
//! - `::` at the start and `##[` anywhere, which GitHub and Azure take for commands, get a blank between
//!   their characters.

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::borrow::Cow;
use std::io::{self, BufRead, Read};

/// The longest name, or line of another program, in characters: a few lines of a terminal.
pub const LONGEST_LINE: usize = 400;
/// The longest reason for which something failed, in characters: a worker's last lines and what they are
/// about.
pub const LONGEST_REASON: usize = 4000;
/// Bytes of one line of another program that are held while it has not ended.
const MOST_HELD: usize = 16 << 10;

/// The cell of a file that another program may have written: clean, and as long as it is.
pub fn cell(text: &str) -> Cow<'_, str> {
    if is_clean(text) { Cow::Borrowed(text) } else { Cow::Owned(tidy(text)) }
}

/// A clean text of at most `most` characters: a longer one is cut in the middle, because the start and
/// the end of a message say what happened.
pub fn shorten(text: &str, most: usize) -> String {
    let text = cell(text);
    let count = text.chars().count();
    if count <= most {
        return text.into_owned();
    }
    let head = (most - 1) / 2;
    let tail = most - 1 - head;
    let start: String = text.chars().take(head).collect();
    let end: String = text.chars().skip(count - tail).collect();
    format!("{start}…{end}")
}

/// A line of another program.
pub fn line(text: &str) -> String {
    shorten(cell(text).trim(), LONGEST_LINE)
}

/// A text of several lines, each of them clean.
pub fn lines(text: &str) -> String {
    text.split('\n').map(cell).collect::<Vec<_>>().join("\n")
}

/// A name: a line that a spreadsheet does not take for a formula.
pub fn name(text: &str) -> String {
    let clean = line(text);
    let plain = clean.trim_start_matches(|c: char| FORMULA.contains(&c) || c.is_whitespace());
    // Behind a formula's sign there may be a command.
    line(plain)
}

/// Why something failed, for a cell of a row: of a bounded length, and not taken for a formula.
pub fn reason(text: &str) -> String {
    let text = shorten(text.trim(), LONGEST_REASON);
    if text.starts_with(FORMULA) { format!("error: {text}") } else { text }
}

/// What begins a formula in a spreadsheet: ASCII and full width.
const FORMULA: [char; 8] = ['=', '+', '-', '@', '＝', '＋', '－', '＠'];

/// A cell of a CSV file that is meant for a spreadsheet: a text that would be taken for a formula gets
/// an apostrophe in front, as in the spreadsheet itself. Numbers stay numbers.
pub fn spreadsheet(cell: &str) -> Cow<'_, str> {
    let digits = cell.strip_prefix(['-', '+']).unwrap_or(cell);
    let is_number =
        digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') && cell.parse::<f64>().is_ok();
    match cell.chars().next() {
        Some(first) if !is_number && (FORMULA.contains(&first) || "\t\r\n".contains(first)) => {
            Cow::Owned(format!("'{cell}"))
        }
        _ => Cow::Borrowed(cell),
    }
}

/// A text that must keep its meaning, as the value of a variable: what [`cell`] would remove is shown as
/// an escape.
pub fn visible(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_visible) && command_mark(text).is_none() {
        return Cow::Borrowed(text);
    }
    let shown = |c: char| if is_visible(c) { c.to_string() } else { c.escape_default().to_string() };
    let mut text: String = text.chars().map(shown).collect();
    while let Some(at) = command_mark(&text) {
        text.replace_range(at..=at, "\\u{23}");
    }
    Cow::Owned(text)
}

/// The character shows itself, and nothing else.
pub fn is_visible(c: char) -> bool {
    !c.is_control()
        && !matches!(c,
            // Line and paragraph separators; marks, embeddings and isolates of direction.
            '\u{2028}' | '\u{2029}' | '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
            // Invisible: byte order mark, soft hyphen, zero width, deprecated formatting, annotations, tags.
            | '\u{feff}' | '\u{00ad}' | '\u{180e}' | '\u{200b}' | '\u{2060}'..='\u{2065}'
            | '\u{206a}'..='\u{206f}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Every text in `value`, keys included, as [`name`] has it, for data that another program wrote.
///
/// # Errors
/// The value has no JSON form, or a type does not take a shorter text.
pub fn names<T: Serialize + DeserializeOwned>(value: &T) -> Result<T, serde_json::Error> {
    let mut value = serde_json::to_value(value)?;
    each(&mut value, &|text| name(text));
    serde_json::from_value(value)
}

/// For serde's `deserialize_with`: [`names`] of what a worker says of its device.
///
/// # Errors
/// As the type itself.
pub fn deserialize_names<'de, D: Deserializer<'de>, T: DeserializeOwned>(from: D) -> Result<T, D::Error> {
    deserialize(from, &|text| name(text))
}

/// For serde's `deserialize_with`: a reason, or none.
///
/// # Errors
/// As the type itself.
pub fn deserialize_reason<'de, D: Deserializer<'de>, T: DeserializeOwned>(from: D) -> Result<T, D::Error> {
    deserialize(from, &|text| shorten(text, LONGEST_REASON))
}

fn deserialize<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    from: D,
    clean: &dyn Fn(&str) -> String,
) -> Result<T, D::Error> {
    let mut value = Value::deserialize(from)?;
    each(&mut value, clean);
    T::deserialize(value).map_err(D::Error::custom)
}

fn each(value: &mut Value, clean: &dyn Fn(&str) -> String) {
    match value {
        Value::String(text) => *text = clean(text),
        Value::Array(values) => values.iter_mut().for_each(|value| each(value, clean)),
        Value::Object(map) => {
            for (key, mut value) in std::mem::take(map) {
                each(&mut value, clean);
                map.insert(clean(&key), value);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The next line of another program that is not empty, as [`line`] has it; none at the end. Of a line
/// that goes on for long only the start and the end are held, of a progress bar the last state.
///
/// # Errors
/// The stream fails.
pub fn read_line(from: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut held = Vec::new();
    loop {
        let most = MOST_HELD - held.len();
        if from.by_ref().take(most as u64).read_until(b'\n', &mut held)? == 0 && held.is_empty() {
            return Ok(None);
        }
        let has_ended = held.ends_with(b"\n") || held.len() < MOST_HELD;
        if !has_ended {
            make_room(&mut held);
            continue;
        }
        let text = line(&String::from_utf8_lossy(&held));
        if !text.is_empty() {
            return Ok(Some(text));
        }
        held.clear();
    }
}

/// Forgets what a carriage return has drawn over, else the middle.
fn make_room(held: &mut Vec<u8>) {
    match held[..held.len() - 1].iter().rposition(|&byte| byte == b'\r') {
        Some(at) if at >= MOST_HELD / 4 => drop(held.drain(..=at)),
        _ => drop(held.drain(MOST_HELD / 4..MOST_HELD / 2)),
    }
}

/// Nothing is to be done. Most texts are ASCII and are judged by their bytes.
fn is_clean(text: &str) -> bool {
    let visible = match text.is_ascii() {
        // All of them, without an early end: many at once.
        true => text.bytes().fold(true, |visible, byte| visible & (b' '..0x7f).contains(&byte)),
        false => text.chars().all(is_visible),
    };
    visible && !text.trim_start().starts_with("::") && command_mark(text).is_none()
}

fn tidy(text: &str) -> String {
    let lines = text.split('\n').map(last_state).map(plain);
    let kept: Vec<String> = lines.filter(|line| !line.trim().is_empty()).collect();
    // A blank at either end of a single line is its own.
    let joined = match kept.as_slice() {
        [one] => one.clone(),
        several => several.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join(" | "),
    };
    without_commands(joined)
}

/// What stands there after a line was drawn over by carriage returns.
fn last_state(line: &str) -> &str {
    let line = line.trim_end_matches('\r');
    line.rsplit_once('\r').map_or(line, |(_, last)| last)
}

/// Without sequences of the terminal and characters that do not show themselves.
fn plain(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        if let Some(length) = sequence(rest) {
            rest = &rest[length..];
            continue;
        }
        match c {
            c if is_visible(c) => plain.push(c),
            '\t' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}' => plain.push(' '),
            _ => {}
        }
        rest = &rest[c.len_utf8()..];
    }
    plain
}

/// The length of the sequence of the terminal at the start of `text` (ECMA-48), if there is one: with
/// parameters and a final byte (CSI), a string up to its terminator (OSC, DCS, SOS, PM, APC), or an
/// escape with intermediate bytes. A string without terminator is only its introducer: the terminal would
/// wait, and a reader should see the rest.
fn sequence(text: &str) -> Option<usize> {
    let mut chars = text.chars();
    let kind = match chars.next()? {
        '\u{1b}' => chars.next().unwrap_or('\u{1b}'),
        // The next line.
        '\u{85}' => return None,
        // The same as one character: C1.
        c @ '\u{80}'..='\u{9f}' => char::from(c as u8 - 0x40),
        _ => return None,
    };
    let introducer = text.len() - chars.as_str().len();
    let body = chars.as_str();
    Some(match kind {
        '[' => {
            let end = body.find(|c: char| !(' '..='?').contains(&c)).unwrap_or(body.len());
            let last = body[end..].chars().next().filter(|c| ('@'..='~').contains(c));
            introducer + end + last.map_or(0, char::len_utf8)
        }
        ']' | 'P' | 'X' | '^' | '_' => {
            let ends = ["\u{7}", "\u{1b}\\", "\u{9c}"].into_iter();
            let end = ends.filter_map(|end| Some((body.find(end)?, end.len()))).min();
            introducer + end.map_or(0, |(at, length)| at + length)
        }
        ' '..='/' => {
            let end = body.find(|c: char| !(' '..='/').contains(&c)).unwrap_or(body.len());
            introducer + end + body[end..].chars().next().filter(char::is_ascii).map_or(0, char::len_utf8)
        }
        // One more character, unless it is a control character with a meaning of its own.
        '0'..='~' => introducer,
        _ => 1,
    })
}

/// Where a command of a CI system may begin anywhere in a line: `##[error]`, `##vso[task.…]`.
fn command_mark(text: &str) -> Option<usize> {
    let mut from = memchr::memchr(b'#', text.as_bytes())?;
    while let Some(at) = text[from..].find("##").map(|at| from + at) {
        let word = text[at + 2..].trim_start_matches(|c: char| c.is_ascii_alphanumeric());
        if word.starts_with('[') {
            return Some(at);
        }
        from = at + 1;
    }
    None
}

fn without_commands(mut text: String) -> String {
    let start = text.len() - text.trim_start().len();
    if text[start..].starts_with("::") {
        text.insert(start + 1, ' ');
    }
    while let Some(at) = command_mark(&text) {
        text.insert(at + 2, ' ');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sequences_of_the_terminal_are_removed_as_a_whole() {
        for (text, expected) in [
            ("\u{1b}[1;31mred\u{1b}[m", "red"),
            ("\u{1b}]0;title\u{7}a\u{1b}]8;;http://x\u{1b}\\link\u{1b}]8;;\u{1b}\\", "alink"),
            ("\u{9b}2Ja\u{9d}0;t\u{9c}b\u{90}q\u{1b}\\c", "abc"),
            ("\u{1b}(Ba\u{1b}=b\u{1b}cc\u{1b}7d", "abcd"),
            ("a\u{1b}", "a"),
            ("a\u{1b}[31", "a"),
            ("\u{1b}[31é", "é"),
            ("\u{1b}]0;never ended", "0;never ended"),
            ("\u{1b}\u{1b}[1ma", "a"),
        ] {
            assert_eq!(cell(text), expected, "{text:?}");
        }
    }

    #[test]
    fn what_does_not_show_itself_is_removed() {
        let hidden = "\0\u{7}\u{7f}\u{80}\u{202a}\u{202e}\u{2066}\u{2069}\u{200e}\u{200f}\u{61c}\u{feff}\u{200b}\u{e0041}";
        assert_eq!(cell(&format!("a{hidden}b")), "ab");
        assert_eq!(cell("a\tb\u{2028}c\u{2029}d\u{85}e"), "a b c d e");
        for kept in ["", " H200 ", "µ→é 中文 👩\u{200d}🔬", "a: b::c", "#1 ## x", "-1"] {
            assert!(matches!(cell(kept), Cow::Borrowed(same) if same == kept), "{kept}");
        }
        assert_eq!(visible("a\u{202e}\n##[x]"), "a\\u{202e}\\n\\u{23}#[x]");
    }

    #[test]
    fn lines_become_one_and_a_progress_bar_its_last_state() {
        assert_eq!(cell("one\r\n\n two \nthree"), "one |  two | three");
        assert_eq!(cell(" 10 %\r 50 %\r100 %\r\n"), "100 %");
        assert_eq!(lines("a\u{1b}[1m\nb\rc\n"), "a\nc\n");
        assert_eq!(line(" \u{1b}[1m x\n"), "x");
    }

    #[test]
    fn no_text_is_a_command_to_a_ci_system() {
        for (text, expected) in [
            ("::error title=x::y", ": :error title=x::y"),
            (" \u{a0}::add-mask::0", " \u{a0}: :add-mask::0"),
            ("\u{feff}::x", ": :x"),
            ("H200\r::stop-commands::z", ": :stop-commands::z"),
            ("a ##[error]b ##vso[task.x]", "a ## [error]b ## vso[task.x]"),
            ("#\u{200f}#[group]", "## [group]"),
            ("###[x]", "### [x]"),
        ] {
            assert_eq!(cell(text), expected, "{text:?}");
        }
        assert_eq!(lines("a\n::error::b"), "a\n: :error::b");
    }

    #[test]
    fn a_long_text_keeps_its_start_and_its_end() {
        let text = format!("start{}end", "é".repeat(1000));
        let short = line(&text);
        assert_eq!(short.chars().count(), LONGEST_LINE);
        assert!(short.starts_with("starté") && short.contains("é…é") && short.ends_with("éend"), "{short}");
        assert_eq!(shorten("abcdef", 6), "abcdef");
        assert_eq!(shorten("abcdefg", 6), "ab…efg");
    }

    #[test]
    fn no_name_and_no_cell_is_a_formula() {
        assert_eq!(name("=cmd|\"/C calc\"!A0"), "cmd|\"/C calc\"!A0");
        assert_eq!(name(" \t-@+＝x"), "x");
        assert_eq!(name("=::error"), ": :error");
        assert_eq!(reason("--gemm\nx"), "error: --gemm | x");
        assert_eq!(reason(&reason("=x")), "error: =x");
        assert_eq!(name("NVIDIA H200"), "NVIDIA H200");
        for (text, expected) in [
            ("=1+1", "'=1+1"),
            ("@x", "'@x"),
            ("-x", "'-x"),
            ("+1-A1", "'+1-A1"),
            ("-inf", "'-inf"),
            ("\tx", "'\tx"),
            ("-0.5", "-0.5"),
            ("+1e-9", "+1e-9"),
            ("-.5", "-.5"),
            ("p99", "p99"),
            ("", ""),
        ] {
            assert_eq!(spreadsheet(text), expected);
        }
    }

    #[test]
    fn every_text_of_a_structure_is_a_name() {
        let value: (String, Vec<Option<String>>, std::collections::BTreeMap<String, u64>) =
            ("=a\u{1b}[1m".into(), vec![Some("b\n".into()), None], [("c\u{7}".to_owned(), u64::MAX)].into());
        let expected =
            ("a".to_owned(), vec![Some("b".to_owned()), None], [("c".to_owned(), u64::MAX)].into());
        assert_eq!(names(&value).unwrap(), expected);
    }

    #[test]
    fn lines_of_a_program_are_read_with_bounded_memory() {
        let all = |text: &[u8]| {
            let mut from = io::BufReader::with_capacity(100, text);
            std::iter::from_fn(|| read_line(&mut from).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(all(b"one\n\n\r\n \x1b[m\ntwo\xff\nno end"), ["one", "two\u{fffd}", "no end"]);
        assert_eq!(all(b""), [""; 0]);
        let bar: String = (0..20_000).map(|percent| format!("\r{percent} of 20000")).collect();
        assert_eq!(all(format!("{bar}\nafter\n").as_bytes()), ["19999 of 20000", "after"]);
        let long = format!("start{}end\nnext", "x".repeat(1 << 20));
        let read = all(long.as_bytes());
        assert!(read[0].starts_with("startxxx") && read[0].ends_with("xxxend") && read[0].contains('…'));
        assert_eq!(read[1..], ["next"]);
        let even = "y".repeat(MOST_HELD);
        assert_eq!(all(even.as_bytes()).len(), 1, "a line that just fits");
    }

    proptest! {
        #[test]
        fn a_clean_text_is_clean(text in "[\\x00-\\x20\\[\\]#:=a\u{1b}\u{9b}\u{202e}\u{200b}é]{0,40}|\\PC{0,20}") {
            let clean = cell(&text).into_owned();
            prop_assert!(clean.chars().all(is_visible), "{clean:?}");
            prop_assert!(!clean.trim_start().starts_with("::") && command_mark(&clean).is_none(), "{clean:?}");
            prop_assert_eq!(cell(&clean), clean.as_str(), "cleaning twice changes nothing");
            let name = name(&text);
            prop_assert!(!name.starts_with(FORMULA), "{name:?}");
            prop_assert_eq!(cell(&name), name.as_str());
            prop_assert_eq!(super::name(&name), name.as_str());
        }
    }
}
