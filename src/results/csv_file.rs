//! Reads saved rows.

use super::lines::{self, Lines, TooLong};
use super::row::Row;
use super::table::by_other_separator;
use super::wire;
use crate::machine::{decode, text};
use anyhow::{Context, Result, anyhow, ensure};
use std::borrow::Cow;
use std::fmt;
use std::io::Read;
use std::path::Path;

/// The header as the file's first line.
pub(super) fn csv_header() -> Vec<u8> {
    let mut line = wire::header().join(",").into_bytes();
    line.push(b'\n');
    line
}

/// Rows read from a file.
#[derive(Debug, Default)]
pub struct Rows {
    /// In the file's order.
    pub rows: Vec<Row>,
    /// The last line had no end and was left out.
    pub torn: bool,
}

/// Reads a saved file.
///
/// # Errors
/// Not readable, other columns, or a cell that is not of its column's type (with its line).
pub fn read(path: &Path) -> Result<Rows> {
    let mut rows = Vec::new();
    let torn = scan(path, &mut |row| rows.push(row))?;
    Ok(Rows { rows, torn: torn.is_some() })
}

/// Hands over the rows of a saved file one by one, with memory for a few megabytes of them; returns
/// the number of the last line if that has no end and was left out.
///
/// # Errors
/// As [`read`]: [`OtherColumns`] and [`Damaged`] are among the causes.
pub fn scan(path: &Path, each: &mut dyn FnMut(Row)) -> Result<Option<u64>> {
    scan_from(lines::open(path)?, &path.display().to_string(), each)
}

/// As [`scan`], from anywhere; `shown` is what messages call it.
///
/// # Errors
/// As [`scan`].
pub fn scan_from(source: impl Read, shown: &str, each: &mut dyn FnMut(Row)) -> Result<Option<u64>> {
    walk(source, shown, &mut |line, row| {
        each(row.with_context(|| Damaged(format!("{shown}, line {line}")))?);
        Ok(())
    })
}

/// Hands over the rows of a saved file, and for each line that holds none the reason, in words; a last line
/// without an end is such a line.
///
/// # Errors
/// The file can't be read, or [`OtherColumns`].
pub fn scan_what_can_be_read(
    path: &Path,
    each: &mut dyn FnMut(Row),
    unread: &mut dyn FnMut(String),
) -> Result<()> {
    let shown = path.display();
    let torn = walk(lines::open(path)?, &shown.to_string(), &mut |line, row| {
        match row {
            Ok(row) => each(row),
            Err(error) => unread(format!("{shown}, line {line}: {error:#}")),
        }
        Ok(())
    });
    match torn {
        Ok(None) => {}
        Ok(Some(line)) => unread(format!(
            "{shown}, line {line}: it has no end: a write was cut off, or another program saved the file without it"
        )),
        Err(error) if error.is::<TooLong>() => unread(format!("{error:#}, and what follows is not read")),
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Hands over each line below the header, as a row or as the reason why it is none; returns the number of
/// the last line if that has no end.
fn walk(
    source: impl Read,
    shown: &str,
    each: &mut dyn FnMut(u64, Result<Row>) -> Result<()>,
) -> Result<Option<u64>> {
    let mut lines = Lines::new(source);
    let mut header: Option<(Vec<u8>, Columns)> = None;
    while let Some(chunk) = lines.next_chunk(usize::MAX).with_context(|| Damaged(shown.to_owned()))? {
        for (number, &line) in (chunk.first..).zip(&chunk.lines) {
            match &header {
                // An editor or a spreadsheet may have added an empty line.
                Some(_) if line.trim_ascii().is_empty() => {}
                Some((names, _)) if names == line => {
                    each(number, Err(anyhow!("the header again: two files were joined; remove the line")))?;
                }
                Some((_, columns)) => each(number, columns.row(line))?,
                None => {
                    // A spreadsheet may have put a byte order mark in front.
                    let names = decode::bytes_without_mark(line);
                    header = Some((names.to_vec(), Columns::of(names, shown)?));
                }
            }
        }
    }
    Ok(lines.torn())
}

/// Where a file has its columns.
struct Columns {
    places: Vec<Option<usize>>,
    width: usize,
}

impl Columns {
    fn of(header: &[u8], shown: &str) -> Result<Columns> {
        let other = || OtherColumns(shown.to_owned());
        let mut cells = Vec::new();
        cells_of(header, &mut cells).with_context(|| Damaged(format!("{shown}, line 1")))?;
        if let Some(places) = wire::places(&cells) {
            return Ok(Columns { places, width: cells.len() });
        }
        let text = String::from_utf8_lossy(header);
        match by_other_separator(&text, ',').find(|(_, names)| wire::places(names).is_some()) {
            Some((separator, _)) => {
                let text =
                    format!("its cells are separated by {separator:?}, not by ',': save it with commas");
                Err(anyhow!(text).context(other()))
            }
            None => Err(other().into()),
        }
    }

    fn row(&self, line: &[u8]) -> Result<Row> {
        let mut cells = Vec::new();
        cells_of(line, &mut cells)?;
        ensure!(cells.len() == self.width, "{} cells where the header has {}", cells.len(), self.width);
        wire::from_cells(self.places.iter().map(|at| at.map_or("", |at| cells[at].as_ref())))
    }
}

fn cells_of<'a>(line: &'a [u8], cells: &mut Vec<Cow<'a, str>>) -> Result<()> {
    let text =
        str::from_utf8(line).context("it is not UTF-8: convert the file with iconv -f latin1 -t utf-8")?;
    lines::split(text, cells).map_err(|cell| anyhow!("the quotes of cell {cell} do not match"))?;
    // A file may be anybody's. What this program writes is clean.
    for cell in cells {
        if let Cow::Owned(clean) = text::cell(cell) {
            *cell = Cow::Owned(clean);
        }
    }
    Ok(())
}

/// A file that migbench did not write, or another version of it.
#[derive(Debug)]
pub struct OtherColumns(String);

impl fmt::Display for OtherColumns {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(
            f,
            "{}: its columns are not those of schema {}: no file of this migbench, or of an older one \
             (another tool's is read by migbench check --columns alone)",
            self.0,
            super::row::SCHEMA_VERSION
        )
    }
}

impl std::error::Error for OtherColumns {}

/// Where a file can't be read as rows.
#[derive(Debug)]
pub struct Damaged(String);

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn another_schema_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        fs::write(&path, "batch,latency\n1,2\n").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("its columns are not those of schema"));
    }

    #[test]
    fn a_bad_cell_is_named_by_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        let row = String::from_utf8(wire::line(&Row::default())).unwrap();
        let header = String::from_utf8(csv_header()).unwrap();
        fs::write(&path, header + &row.replacen("fp32", "fp31", 1)).unwrap();
        let error = format!("{:#}", read(&path).unwrap_err());
        assert!(error.contains("a.csv, line 2: precision is 'fp31': unknown variant `fp31`"), "{error}");
    }
}
