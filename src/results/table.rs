//! The records of another tool's CSV file, as RFC 4180 and common practice have them: the last line needs no
//! end, cells in quotes may hold line breaks, empty lines are passed over. migbench's own files are stricter,
//! and read by [`super::lines`].

use super::lines::{LONGEST_LINE, TooLong};
use crate::machine::decode;
use anyhow::{Context, Result};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind, Read};

/// Within this many lines and bytes after an opening quote the closing one is looked for.
const MOST_LINES: usize = 1000;
const MOST_BYTES: usize = 64 << 10;

/// One record.
#[derive(Debug, PartialEq)]
pub struct Record {
    /// The number of its first line.
    pub line: u64,
    /// An empty line is in front of it.
    pub after_blank: bool,
    /// Its cells; or why its line holds none.
    pub cells: Result<Vec<String>, Broken>,
}

/// What is wrong with a line.
#[derive(Debug, PartialEq)]
pub struct Broken {
    /// What is there.
    pub found: String,
    /// What should be.
    pub expected: &'static str,
}

/// Reads a file record by record.
pub struct Records<R> {
    source: BufReader<R>,
    /// Lines that were read ahead.
    ahead: VecDeque<Vec<u8>>,
    /// Lines given out so far.
    line: u64,
    separator: Option<char>,
    first_line: Option<String>,
}

impl<R: Read> Records<R> {
    /// From the start of a file; without a separator it is the comma, or what a first line `sep=X` says.
    pub fn new(source: R, separator: Option<char>) -> Records<R> {
        Records {
            source: BufReader::new(source),
            ahead: VecDeque::new(),
            line: 0,
            separator,
            first_line: None,
        }
    }

    /// What separates the cells.
    pub fn separator(&self) -> char {
        self.separator.unwrap_or(',')
    }

    /// The line in which the first record began, as it stands.
    pub fn first_line(&self) -> &str {
        self.first_line.as_deref().unwrap_or_default()
    }

    /// The next record; none at the end.
    ///
    /// # Errors
    /// The file can't be read on, or [`TooLong`].
    pub fn next_record(&mut self) -> Result<Option<Record>> {
        let mut after_blank = false;
        loop {
            let Some(line) = self.next_line()? else { return Ok(None) };
            let number = self.line;
            let line = if number == 1 { decode::bytes_without_mark(&line).to_vec() } else { line };
            if line.trim_ascii().is_empty() {
                after_blank = true;
                continue;
            }
            if number == 1
                && let Some(separator) = said_separator(&line)
            {
                self.separator.get_or_insert(separator);
                continue;
            }
            self.first_line.get_or_insert_with(|| String::from_utf8_lossy(&line).into_owned());
            return Ok(Some(Record { line: number, after_blank, cells: self.cells(line)? }));
        }
    }

    /// The cells of the record that begins with this line.
    fn cells(&mut self, line: Vec<u8>) -> Result<Result<Vec<String>, Broken>> {
        let mut text = line;
        let mut taken: Vec<Vec<u8>> = Vec::new();
        loop {
            let parsed = match str::from_utf8(&text) {
                Ok(text) => split(text, self.separator()),
                Err(error) => Err(Fault::Broken(not_utf8(&text, error.valid_up_to()))),
            };
            match parsed {
                Ok(cells) => return Ok(Ok(cells)),
                Err(Fault::Broken(broken)) if taken.is_empty() => return Ok(Err(broken)),
                Err(Fault::Open(_)) if taken.len() < MOST_LINES && text.len() < MOST_BYTES => {
                    if let Some(next) = self.next_line()? {
                        text.push(b'\n');
                        text.extend(&next);
                        taken.push(next);
                        continue;
                    }
                }
                Err(_) => {}
            }
            // The lines behind the one with the open quote are read by themselves.
            self.line -= taken.len() as u64;
            let cell = taken.iter().map(Vec::len).sum::<usize>() + taken.len();
            let cell = open_cell(&text[..text.len() - cell], self.separator());
            taken.into_iter().rev().for_each(|line| self.ahead.push_front(line));
            return Ok(Err(Broken {
                found: format!("the quote of cell {cell}"),
                expected: "a quote that closes it",
            }));
        }
    }

    /// The next line without its end, which is a line feed, a carriage return, or both.
    fn next_line(&mut self) -> Result<Option<Vec<u8>>> {
        if let Some(line) = self.ahead.pop_front() {
            self.line += 1;
            return Ok(Some(line));
        }
        let mut line = Vec::new();
        loop {
            let bytes = match self.source.fill_buf() {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("cannot read on"),
            };
            if bytes.is_empty() {
                self.line += u64::from(!line.is_empty());
                return Ok(Some(line).filter(|line| !line.is_empty()));
            }
            let end = memchr::memchr2(b'\n', b'\r', bytes);
            line.extend(&bytes[..end.unwrap_or(bytes.len())]);
            if line.len() > LONGEST_LINE {
                return Err(TooLong { line: self.line + 1 }.into());
            }
            let Some(end) = end else {
                let length = bytes.len();
                self.source.consume(length);
                continue;
            };
            let is_return = bytes[end] == b'\r';
            self.source.consume(end + 1);
            if is_return && self.source.fill_buf().is_ok_and(|bytes| bytes.first() == Some(&b'\n')) {
                self.source.consume(1);
            }
            self.line += 1;
            return Ok(Some(line));
        }
    }
}

/// `sep=;`, by which a file tells Excel what separates its cells.
fn said_separator(line: &[u8]) -> Option<char> {
    let text = str::from_utf8(line).ok()?.trim_end_matches(' ').trim_matches('"');
    let mut rest = text.strip_prefix("sep=").or_else(|| text.strip_prefix("SEP="))?.chars();
    rest.next().filter(|_| rest.next().is_none())
}

enum Fault {
    Broken(Broken),
    /// A quote is open at the end; of this cell.
    Open(usize),
}

fn not_utf8(text: &[u8], at: usize) -> Broken {
    Broken {
        found: format!("byte {:#04x} at {}", text[at], at + 1),
        expected: "UTF-8: convert the file with iconv -f latin1 -t utf-8",
    }
}

fn open_cell(line: &[u8], separator: char) -> usize {
    match split(&String::from_utf8_lossy(line), separator) {
        Err(Fault::Open(cell)) => cell,
        _ => 1,
    }
}

/// The cells of a record. Spaces around quotes are none of the cell.
fn split(text: &str, separator: char) -> Result<Vec<String>, Fault> {
    let mut cells = Vec::new();
    let mut rest = text;
    loop {
        let blank = |c: char| c == ' ' || (c == '\t' && separator != '\t');
        let (cell, after) = match rest.trim_start_matches(blank).strip_prefix('"') {
            Some(quoted) => {
                let (cell, after) = unquote(quoted).ok_or(Fault::Open(cells.len() + 1))?;
                (cell, after.trim_start_matches(blank))
            }
            None => {
                let (cell, after) = rest.split_at(rest.find(separator).unwrap_or(rest.len()));
                (cell.to_owned(), after)
            }
        };
        cells.push(cell);
        match after.strip_prefix(separator) {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(cells),
            None => {
                return Err(Fault::Broken(Broken {
                    found: format!("cell {}", cells.len()),
                    expected: "quotes that match, and nothing behind them",
                }));
            }
        }
    }
}

/// The text up to its closing quote, and what follows.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut cell = String::new();
    let mut rest = text;
    loop {
        let (part, after) = rest.split_once('"')?;
        cell.push_str(part);
        match after.strip_prefix('"') {
            Some(next) => {
                cell.push('"');
                rest = next;
            }
            None => return Some((cell, after)),
        }
    }
}

/// The names in a header that is no valid record, as far as it has any.
pub fn names(line: &str, separator: char) -> Option<Vec<String>> {
    let cells = split(line, separator).ok()?;
    Some(cells.iter().map(|cell| cell.trim().to_owned()).collect())
}

/// The names in a header by another separator, where that makes several of it.
pub fn by_other_separator(line: &str, separator: char) -> impl Iterator<Item = (char, Vec<String>)> {
    let others = [',', ';', '\t', '|'].into_iter().filter(move |&other| other != separator);
    others.filter_map(|other| Some((other, names(line, other).filter(|names| names.len() > 1)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Line, whether behind an empty one, and the cells joined, or what is wrong.
    fn all(text: &[u8]) -> Vec<(u64, bool, String)> {
        let mut records = Records::new(text, None);
        let mut found = Vec::new();
        while let Some(record) = records.next_record().unwrap() {
            let cells =
                record.cells.map_or_else(|broken| format!("! {}", broken.found), |cells| cells.join("|"));
            found.push((record.line, record.after_blank, cells));
        }
        found
    }

    #[test]
    fn records_as_the_standard_has_them() {
        assert_eq!(
            all(b"a,b\r\n1,\"x\ny\"\r\n\r\n2,3"),
            [(1, false, "a|b".into()), (2, false, "1|x\ny".into()), (5, true, "2|3".into()),]
        );
        assert_eq!(all(b"a,b\r1,2\r"), [(1, false, "a|b".into()), (2, false, "1|2".into())]);
        assert_eq!(
            all(b"\xef\xbb\xbf\"a\", \"b,c\" ,\"d \"\"e\"\"\"\n"),
            [(1, false, "a|b,c|d \"e\"".into())]
        );
        assert_eq!(all(b"sep=;\na;b\n"), [(2, false, "a|b".into())]);
        assert_eq!(all(b"\"sep=\t\"\na\t\tb\n"), [(2, false, "a||b".into())]);
        assert_eq!(all(b"\n \n"), []);
        assert_eq!(all(b"5\" disk,b\n"), [(1, false, "5\" disk|b".into())], "a quote within a cell is one");
    }

    #[test]
    fn a_broken_line_costs_itself_only() {
        assert_eq!(
            all(b"a,b\n\"1\"x,2\n3,4\n"),
            [(1, false, "a|b".into()), (2, false, "! cell 1".into()), (3, false, "3|4".into()),]
        );
        assert_eq!(
            all(b"a,b\n1,\"2\n3,4\n5,6"),
            [
                (1, false, "a|b".into()),
                (2, false, "! the quote of cell 2".into()),
                (3, false, "3|4".into()),
                (4, false, "5|6".into()),
            ]
        );
        assert_eq!(all(b"a\n\xe9\n1\n")[1], (2, false, "! byte 0xe9 at 1".into()));
    }

    #[test]
    fn an_endless_line_is_refused() {
        let text = vec![b'x'; 3 << 20];
        let error = Records::new(text.as_slice(), None).next_record().unwrap_err();
        assert_eq!(error.downcast::<TooLong>().unwrap(), TooLong { line: 1 });
    }

    #[test]
    fn another_separator_is_seen() {
        let found: Vec<_> = by_other_separator("\"a, ms\"; b;c", ',').collect();
        assert_eq!(found, [(';', vec!["a, ms".to_owned(), "b".into(), "c".into()])]);
        assert_eq!(by_other_separator("a b", ',').count(), 0);
    }

    proptest! {
        #[test]
        fn what_the_csv_crate_writes_is_read(
            rows in prop::collection::vec(prop::collection::vec("[^\r]{0,9}", 2..4), 1..6),
        ) {
            let mut writer = csv::WriterBuilder::new().flexible(true).quote_style(csv::QuoteStyle::Always).from_writer(Vec::new());
            rows.iter().for_each(|row| writer.write_record(row).unwrap());
            let bytes = writer.into_inner().unwrap();
            let mut records = Records::new(bytes.as_slice(), Some(','));
            for row in rows {
                prop_assert_eq!(records.next_record().unwrap().unwrap().cells, Ok(row));
            }
            prop_assert_eq!(records.next_record().unwrap(), None);
        }
    }
}
