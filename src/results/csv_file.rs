//! Reads saved rows.

use super::lines::{self, Lines};
use super::row::Row;
use super::wire;
use anyhow::{Context, Result, anyhow};
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
    let mut lines = Lines::new(source);
    let mut places: Option<Vec<Option<usize>>> = None;
    let mut width = 0;
    while let Some(chunk) = lines.next_chunk(usize::MAX).with_context(|| Damaged(shown.to_owned()))? {
        let mut cells = Vec::new();
        for (number, line) in (chunk.first..).zip(&chunk.lines) {
            let place = || Damaged(format!("{shown}, line {number}"));
            let text = str::from_utf8(line)
                .context("it is not UTF-8: convert the file with iconv -f latin1 -t utf-8")
                .with_context(place)?;
            // A spreadsheet may have put a byte order mark in front.
            let text = if number == 1 { text.strip_prefix('\u{feff}').unwrap_or(text) } else { text };
            if let Err(cell) = lines::split(text, &mut cells) {
                return Err(anyhow!("the quotes of cell {cell} do not match").context(place()));
            }
            let Some(places) = &places else {
                let found = wire::places(&cells);
                places = Some(found.ok_or_else(|| OtherColumns(shown.to_owned()))?);
                width = cells.len();
                continue;
            };
            if cells.len() != width {
                let text = format!("{} cells where the header has {width}", cells.len());
                return Err(anyhow!(text).context(place()));
            }
            let cell = |at: &Option<usize>| at.map_or("", |at| cells[at].as_ref());
            let record: csv::StringRecord = places.iter().map(cell).collect();
            each(wire::from_record(&record, None).with_context(place)?);
        }
    }
    Ok(lines.torn())
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
        assert!(read(&path).unwrap_err().to_string().contains("its columns are not those of schema 1"));
    }

    #[test]
    fn a_bad_cell_is_named_by_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        let row = String::from_utf8(wire::line(&Row::default())).unwrap();
        let header = String::from_utf8(csv_header()).unwrap();
        fs::write(&path, header + &row.replacen("fp32", "fp31", 1)).unwrap();
        let error = format!("{:#}", read(&path).unwrap_err());
        assert!(
            error.contains("a.csv, line 2: not a row of this schema") && error.contains("fp31"),
            "{error}"
        );
    }
}
