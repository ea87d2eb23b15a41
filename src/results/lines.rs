//! The lines and cells of a CSV file, read in chunks of bounded size.
//!
//! A cell never holds a line break (a row is one line, so that a torn one shows), which makes every
//! line readable by itself: after a damaged line the next one is as good as ever.

use anyhow::{Context, Result, bail};
use std::borrow::Cow;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

/// Longer lines are refused: the largest row, with two histograms of 33,792 different counts each,
/// has 300 kB.
pub const LONGEST_LINE: usize = 1 << 20;
/// Bytes that are read at once, at first and at most.
const FIRST_CHUNK: usize = 64 << 10;
const CHUNK: usize = 4 << 20;

/// Opens a file to be read as CSV.
///
/// # Errors
/// It isn't there, can't be read, or is no regular file.
pub fn open(path: &Path) -> Result<File> {
    let shown = path.display();
    let metadata = path.metadata().with_context(|| format!("cannot read {shown}"))?;
    if metadata.is_dir() {
        bail!("{shown} is a directory: name the files in it, as '{shown}/*.csv'");
    }
    if !metadata.is_file() {
        bail!("{shown} is not a regular file (a pipe or a device): save it to a file first");
    }
    File::open(path).with_context(|| format!("cannot read {shown}"))
}

/// Whole lines of a file, in chunks.
pub struct Lines<R> {
    source: R,
    buffer: Vec<u8>,
    /// Bytes of `buffer` that hold something.
    filled: usize,
    /// Where the lines not yet given out begin.
    start: usize,
    /// Lines given out so far.
    line: u64,
    ended: bool,
    torn: bool,
}

/// A line that is no CSV.
#[derive(Debug, PartialEq)]
pub struct TooLong {
    /// Its number.
    pub line: u64,
}

impl std::fmt::Display for TooLong {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "line {} is longer than 1 MiB: this is no CSV file of rows", self.line)
    }
}

impl std::error::Error for TooLong {}

/// Some whole lines.
pub struct Chunk<'a> {
    /// Number of the first.
    pub first: u64,
    /// Without their ends.
    pub lines: Vec<&'a [u8]>,
}

impl<R: Read> Lines<R> {
    /// From the start of a file.
    pub fn new(source: R) -> Lines<R> {
        Lines {
            source,
            buffer: vec![0; FIRST_CHUNK],
            filled: 0,
            start: 0,
            line: 0,
            ended: false,
            torn: false,
        }
    }

    /// The next lines; none at the end. At most `most` lines.
    ///
    /// # Errors
    /// The file can't be read, or [`TooLong`].
    pub fn next_chunk(&mut self, most: usize) -> Result<Option<Chunk<'_>>> {
        let mut whole = self.whole();
        while whole == self.start && !self.ended {
            self.fill()?;
            whole = self.whole();
        }
        if whole == self.start {
            return Ok(None);
        }
        let first = self.line + 1;
        let mut lines = Vec::new();
        let mut at = self.start;
        for end in memchr::memchr_iter(b'\n', &self.buffer[at..whole]).take(most) {
            let end = self.start + end;
            let line = &self.buffer[at..end];
            lines.push(line.strip_suffix(b"\r").unwrap_or(line));
            at = end + 1;
        }
        if let Some(long) = lines.iter().position(|line| line.len() > LONGEST_LINE) {
            return Err(TooLong { line: first + long as u64 }.into());
        }
        (self.line, self.start) = (self.line + lines.len() as u64, at);
        Ok(Some(Chunk { first, lines }))
    }

    /// The number of the last line, when it has no end and was left out.
    pub fn torn(&self) -> Option<u64> {
        self.torn.then_some(self.line + 1)
    }

    /// Up to where the buffer holds whole lines.
    fn whole(&self) -> usize {
        let unread = &self.buffer[self.start..self.filled];
        memchr::memrchr(b'\n', unread).map_or(self.start, |at| self.start + at + 1)
    }

    fn fill(&mut self) -> Result<()> {
        self.buffer.copy_within(self.start..self.filled, 0);
        (self.filled, self.start) = (self.filled - self.start, 0);
        if self.line > 0 || self.filled == self.buffer.len() {
            // A file that goes on: larger chunks are shared out better.
            let larger = (self.buffer.len() * 8).min(CHUNK);
            self.buffer.resize(larger.max(self.buffer.len()), 0);
        }
        // No line end in all of this.
        if self.filled > LONGEST_LINE {
            return Err(TooLong { line: self.line + 1 }.into());
        }
        while self.filled < self.buffer.len() {
            match self.source.read(&mut self.buffer[self.filled..]) {
                Ok(0) => {
                    self.ended = true;
                    self.torn = self.filled > self.whole();
                    break;
                }
                Ok(read) => self.filled += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("cannot read on"),
            }
        }
        Ok(())
    }
}

/// Splits a line into its cells (RFC 4180): separated by commas, in quotes where they hold one.
///
/// # Errors
/// A quote that isn't closed, or text behind one: its cell, counted from 1.
pub fn split<'a>(line: &'a str, cells: &mut Vec<Cow<'a, str>>) -> Result<(), usize> {
    cells.clear();
    let mut start = 0;
    // All commas in one search: cells are short, and a search of their own would cost more than they do.
    let mut commas = memchr::memchr_iter(b',', line.as_bytes());
    loop {
        let mut comma = commas.next();
        if line.as_bytes().get(start) == Some(&b'"') {
            let (cell, after) = unquote(&line[start + 1..]).ok_or(cells.len() + 1)?;
            cells.push(cell);
            let end = line.len() - after.len();
            while comma.is_some_and(|at| at < end) {
                comma = commas.next();
            }
            // The comma is right behind the quote, or the line ends there.
            if comma.unwrap_or(line.len()) != end {
                return Err(cells.len());
            }
        } else {
            cells.push(Cow::Borrowed(&line[start..comma.unwrap_or(line.len())]));
        }
        match comma {
            Some(at) => start = at + 1,
            None => return Ok(()),
        }
    }
}

/// The cell up to its closing quote, and what follows.
fn unquote(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let mut cell = Cow::Borrowed("");
    let mut rest = text;
    loop {
        let end = rest.find('"')?;
        let (part, after) = (&rest[..end], &rest[end + 1..]);
        let doubled = after.strip_prefix('"');
        if cell.is_empty() && doubled.is_none() {
            return Some((Cow::Borrowed(part), after));
        }
        cell.to_mut().push_str(part);
        match doubled {
            Some(next) => {
                cell.to_mut().push('"');
                rest = next;
            }
            None => return Some((cell, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(bytes: &[u8], most: usize) -> (Vec<(u64, String)>, Option<u64>) {
        let mut lines = Lines::new(bytes);
        let mut found = Vec::new();
        while let Some(chunk) = lines.next_chunk(most).unwrap() {
            for (i, line) in chunk.lines.iter().enumerate() {
                found.push((chunk.first + i as u64, String::from_utf8(line.to_vec()).unwrap()));
            }
        }
        (found, lines.torn())
    }

    #[test]
    fn lines_are_counted_and_a_torn_one_is_left_out() {
        let (found, torn) = all(b"a\r\n\nb\nc", 2);
        assert_eq!(found, [(1, "a".into()), (2, String::new()), (3, "b".into())]);
        assert_eq!(torn, Some(4));
        assert_eq!(all(b"", 9), (vec![], None));
        assert_eq!(all(b"x", 9), (vec![], Some(1)));
        assert_eq!(all(b"x\n", 9).1, None);
    }

    #[test]
    fn lines_across_chunks_are_whole() {
        let text: String = (0..400_000).map(|i| format!("{i},{}\n", "x".repeat(i % 40))).collect();
        let (found, torn) = all(text.as_bytes(), usize::MAX);
        assert_eq!((found.len(), torn), (400_000, None));
        assert!(found.iter().enumerate().all(|(i, (line, text))| {
            *line == i as u64 + 1 && *text == format!("{i},{}", "x".repeat(i % 40))
        }));
    }

    #[test]
    fn an_endless_line_is_refused_with_bounded_memory() {
        struct Zeros;
        impl Read for Zeros {
            fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
                buffer.fill(0);
                Ok(buffer.len())
            }
        }
        let mut lines = Lines::new(Zeros);
        let error = lines.next_chunk(1).err().unwrap();
        assert_eq!(error.to_string(), "line 1 is longer than 1 MiB: this is no CSV file of rows");
        assert_eq!(lines.buffer.len(), CHUNK);
    }

    #[test]
    fn only_a_regular_file_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let text = |path: &Path| format!("{:#}", open(path).unwrap_err());
        assert!(text(folder.path()).contains("is a directory: name the files in it, as '"));
        assert!(text(Path::new("/dev/null")).contains("is not a regular file (a pipe or a device)"));
        assert!(text(&folder.path().join("no")).contains("No such file"));
    }

    #[test]
    fn quotes() {
        let split = |line: &str| {
            let mut cells = Vec::new();
            super::split(line, &mut cells).map(|()| cells.join("|"))
        };
        assert_eq!(split("a,,b").unwrap(), "a||b");
        assert_eq!(split("").unwrap(), "");
        assert_eq!(split(r#""a,b",c,"d ""e"" f","""#).unwrap(), r#"a,b|c|d "e" f|"#);
        assert_eq!(split(r#"a,b,"""#).unwrap(), "a|b|");
        assert_eq!(split(r#"a,"""b""#).unwrap(), "a|\"b");
        assert_eq!(split(r#"a,b,""""#), Err(3));
        assert_eq!(split(r#"a,"b"c"#), Err(2));
    }

    proptest! {
        #[test]
        fn cells_are_split_as_the_csv_crate_writes_them(cells in prop::collection::vec("[^\r\n]{0,9}", 1..6)) {
            let mut writer = csv::Writer::from_writer(Vec::new());
            writer.write_record(&cells).unwrap();
            let text = String::from_utf8(writer.into_inner().unwrap()).unwrap();
            let mut found = Vec::new();
            prop_assert_eq!(split(text.trim_end_matches('\n'), &mut found), Ok(()));
            prop_assert_eq!(found, cells);
        }
    }
}
