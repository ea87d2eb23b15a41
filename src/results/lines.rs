//! The lines and cells of a CSV file, read in chunks of bounded size.
//!
//! A cell never holds a line break (a row is one line, so that a torn one shows), which makes every
//! line readable by itself: after a damaged line the next one is as good as ever.

use super::foreign;
use crate::machine::file;
use anyhow::{Context, Result, ensure};
use std::borrow::Cow;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek};
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
/// As [`file::open`], or it begins as no CSV file does.
pub fn open(path: &Path) -> Result<File> {
    let shown = path.display();
    ensure!(!path.is_dir(), "{shown} is a directory: name the files in it, as '{shown}/*.csv'");
    let context = || format!("cannot read {shown}");
    let mut file = file::open(path)?;
    let mut start = Vec::with_capacity(foreign::ENOUGH);
    Read::by_ref(&mut file).take(foreign::ENOUGH as u64).read_to_end(&mut start).with_context(context)?;
    foreign::refuse(&start).with_context(context)?;
    file.rewind().with_context(context)?;
    Ok(file)
}

/// Whole lines of a file, in chunks.
pub struct Lines<R> {
    source: R,
    buffer: Vec<u8>,
    /// The next buffer.
    spare: Vec<u8>,
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
            spare: Vec::new(),
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
        let Some(whole) = self.ready()? else { return Ok(None) };
        let (chunk, end) = chunk(&self.buffer[..whole], self.start, self.line + 1, most)?;
        (self.line, self.start) = (self.line + chunk.lines.len() as u64, end);
        Ok(Some(chunk))
    }

    /// Hands over all lines, chunk by chunk; the next one is read while one is looked at.
    ///
    /// # Errors
    /// As [`Lines::next_chunk`]; what `look` returns.
    pub fn each(&mut self, mut look: impl FnMut(&Chunk) -> Result<()> + Send) -> Result<()>
    where
        R: Send,
    {
        while let Some(whole) = self.ready()? {
            let (chunk, end) = chunk(&self.buffer[..whole], self.start, self.line + 1, usize::MAX)?;
            let (source, tail, spare) = (&mut self.source, &self.buffer[end..self.filled], &mut self.spare);
            let (size, ended) = (larger(self.buffer.len()), self.ended);
            let (looked, read) = rayon::join(
                || look(&chunk),
                || if ended { Ok((tail.len(), true)) } else { read_on(source, tail, spare, size) },
            );
            looked?;
            self.line += chunk.lines.len() as u64;
            if ended {
                self.start = end;
            } else {
                self.turn(read?);
            }
        }
        Ok(())
    }

    /// Up to where the buffer holds whole lines, read on until there is one; none at the end.
    fn ready(&mut self) -> Result<Option<usize>> {
        let mut whole = self.whole();
        while whole == self.start && !self.ended {
            self.fill()?;
            whole = self.whole();
        }
        Ok(Some(whole).filter(|&whole| whole > self.start))
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
        let tail = &self.buffer[self.start..self.filled];
        // No line end in all of this.
        if tail.len() > LONGEST_LINE {
            return Err(TooLong { line: self.line + 1 }.into());
        }
        // A file that goes on.
        let goes_on = self.line > 0 || tail.len() == self.buffer.len();
        let size = if goes_on { larger(self.buffer.len()) } else { self.buffer.len() };
        let read = read_on(&mut self.source, tail, &mut self.spare, size)?;
        self.turn(read);
        Ok(())
    }

    /// Takes the other buffer, with so many bytes in it; was that the end?
    fn turn(&mut self, (filled, ended): (usize, bool)) {
        std::mem::swap(&mut self.buffer, &mut self.spare);
        (self.filled, self.start, self.ended) = (filled, 0, ended);
        self.torn = ended && filled > self.whole();
    }
}

/// The size of the next buffer: larger chunks are shared out better.
fn larger(size: usize) -> usize {
    (size * 8).clamp(FIRST_CHUNK, CHUNK)
}

/// Fills a buffer with what is left of the last one and more of the file; how far, and is that the end?
fn read_on(source: &mut impl Read, tail: &[u8], buffer: &mut Vec<u8>, size: usize) -> Result<(usize, bool)> {
    buffer.resize(size, 0);
    buffer[..tail.len()].copy_from_slice(tail);
    let mut filled = tail.len();
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => return Ok((filled, true)),
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("cannot read on"),
        }
    }
    Ok((filled, false))
}

/// At most `most` of the lines from `start` on, and where they end.
fn chunk(bytes: &[u8], start: usize, first: u64, most: usize) -> Result<(Chunk<'_>, usize)> {
    let mut lines = Vec::new();
    let mut at = start;
    for end in memchr::memchr_iter(b'\n', &bytes[start..]).take(most) {
        let line = &bytes[at..start + end];
        if line.len() > LONGEST_LINE {
            return Err(TooLong { line: first + lines.len() as u64 }.into());
        }
        lines.push(line.strip_suffix(b"\r").unwrap_or(line));
        at = start + end + 1;
    }
    Ok((Chunk { first, lines }, at))
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
        let mut again = Vec::new();
        let mut ahead = Lines::new(bytes);
        let look = |chunk: &Chunk| -> Result<()> {
            let texts = chunk.lines.iter().map(|line| String::from_utf8(line.to_vec()).unwrap());
            again.extend((chunk.first..).zip(texts));
            Ok(())
        };
        ahead.each(look).unwrap();
        assert!(again == found && ahead.torn() == lines.torn());
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
