//! The CSV file: opened before anything is measured, one write a row, readable after any kill.

use super::lines::{self, Lines};
use super::row::Row;
use super::wire;
use anyhow::{Context, Result, anyhow, bail};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// What may happen to a file that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfExists {
    /// It is refused.
    Refuse,
    /// It is emptied.
    Overwrite,
    /// Rows are added after its last.
    Append,
}

/// An open result file, or standard output.
pub enum Output {
    /// A file and where it lies.
    File(File, PathBuf),
    /// CSV on standard output.
    Stdout,
}

impl Output {
    /// Opens `path` (`-` is standard output) and writes the header.
    ///
    /// # Errors
    /// The file exists and may not be touched, has other columns, or can't be written.
    pub fn open(path: &Path, if_exists: IfExists) -> Result<Output> {
        let header = || csv_header();
        if path == Path::new("-") {
            io::stdout().write_all(&header()).context("cannot write to standard output")?;
            return Ok(Output::Stdout);
        }
        let shown = path.display();
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        match if_exists {
            IfExists::Refuse => options.create_new(true),
            IfExists::Overwrite => options.create(true).truncate(true),
            IfExists::Append => options.create(true),
        };
        let mut file = match options.open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                bail!("{shown} exists: --append adds rows to it, --force overwrites it")
            }
            Err(error) => return Err(error).with_context(|| format!("cannot write {shown}")),
        };
        if if_exists == IfExists::Append && file.metadata()?.len() > 0 {
            check_appendable(&mut file).with_context(|| format!("cannot append to {shown}"))?;
        } else {
            append_bytes(&mut file, &header()).with_context(|| format!("cannot write {shown}"))?;
        }
        Ok(Output::File(file, path.to_owned()))
    }

    /// Where the file lies; none on standard output.
    pub fn path(&self) -> Option<&PathBuf> {
        match self {
            Output::File(_, path) => Some(path),
            Output::Stdout => None,
        }
    }

    /// Opens `path` to go on with it: what it holds already, and itself, without the torn line that a
    /// kill may have left at its end.
    ///
    /// # Errors
    /// The file isn't there, has other columns or a damaged line, or can't be written.
    pub fn resume(path: &Path) -> Result<(Output, Rows)> {
        let shown = path.display();
        lines::open(path)?;
        let opened = OpenOptions::new().read(true).write(true).open(path);
        let mut file = opened.with_context(|| format!("cannot write {shown}"))?;
        let whole = whole_lines(&mut file).with_context(|| format!("cannot read {shown}"))?;
        let mut rows = Rows::default();
        if whole > 0 {
            rows = read(path)?;
            check_columns(&mut file).with_context(|| format!("cannot add to {shown}"))?;
        }
        file.set_len(whole).with_context(|| format!("cannot write {shown}"))?;
        if whole == 0 {
            append_bytes(&mut file, &csv_header()).with_context(|| format!("cannot write {shown}"))?;
        }
        Ok((Output::File(file, path.to_owned()), rows))
    }

    /// Appends the rows of one run by one write under a lock. A write that the disk takes only in part
    /// is taken back, so that the file ends with a whole line.
    ///
    /// # Errors
    /// The disk is full, or standard output closed.
    pub fn append(&mut self, rows: &[Row]) -> Result<()> {
        let lines: Vec<u8> = rows.iter().flat_map(wire::line).collect();
        match self {
            Output::Stdout => io::stdout().write_all(&lines).context("cannot write to standard output"),
            Output::File(file, path) => {
                append_bytes(file, &lines).with_context(|| format!("cannot write to {}", path.display()))
            }
        }
    }
}

/// The header as the file's first line.
fn csv_header() -> Vec<u8> {
    let mut line = wire::header().join(",").into_bytes();
    line.push(b'\n');
    line
}

fn append_bytes(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    file.lock()?;
    let end = file.seek(SeekFrom::End(0))?;
    let result = match file.write(bytes) {
        Ok(written) if written == bytes.len() => Ok(()),
        Ok(written) => Err(io::Error::other(format!(
            "only {written} of {} bytes were taken: is the disk full?",
            bytes.len()
        ))),
        Err(error) => Err(error),
    };
    if result.is_err() {
        // What is not a regular file (/dev/full) has nothing to take back.
        let _ = file.set_len(end);
    }
    file.unlock()?;
    result
}

/// The length of a file up to its last line end.
fn whole_lines(file: &mut File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let from = length.saturating_sub(lines::LONGEST_LINE as u64 + 1);
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    Ok(tail.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| from + at as u64 + 1))
}

/// Exactly the columns that are written.
fn check_columns(file: &mut File) -> Result<()> {
    file.rewind()?;
    let expected = csv_header();
    let mut found = vec![0; expected.len()];
    if file.read_exact(&mut found).is_err() || found != expected {
        bail!("its columns are not those of this migbench (schema {})", super::row::SCHEMA_VERSION);
    }
    Ok(())
}

/// The same columns, and a last line that is whole.
fn check_appendable(file: &mut File) -> Result<()> {
    check_columns(file)?;
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    if last != *b"\n" {
        bail!("its last line is torn (a write was cut off): --resume removes it, --append does not");
    }
    Ok(())
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

    fn row(batch: u64) -> Row {
        let mut row = Row::default();
        row.point.batch = batch;
        row
    }

    #[test]
    fn rows_are_appended_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        let mut output = Output::open(&path, IfExists::Refuse).unwrap();
        output.append(&[row(1)]).unwrap();
        drop(output);
        let error = Output::open(&path, IfExists::Refuse).err().unwrap().to_string();
        assert!(error.ends_with("a.csv exists: --append adds rows to it, --force overwrites it"), "{error}");
        Output::open(&path, IfExists::Append).unwrap().append(&[row(2)]).unwrap();
        let rows = read(&path).unwrap();
        assert_eq!((rows.rows, rows.torn), (vec![row(1), row(2)], false));
        Output::open(&path, IfExists::Overwrite).unwrap();
        assert!(read(&path).unwrap().rows.is_empty());
    }

    #[test]
    fn a_file_cut_anywhere_is_read_up_to_its_last_whole_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        let mut output = Output::open(&path, IfExists::Refuse).unwrap();
        output.append(&[row(1)]).unwrap();
        output.append(&[row(2)]).unwrap();
        let bytes = fs::read(&path).unwrap();
        let header = csv_header().len();
        for cut in header..=bytes.len() {
            fs::write(&path, &bytes[..cut]).unwrap();
            let rows = read(&path).unwrap();
            let whole = bytes[header..cut].iter().filter(|&&b| b == b'\n').count();
            assert_eq!((rows.rows.len(), rows.torn), (whole, bytes[cut - 1] != b'\n'), "cut at {cut}");
            assert_eq!(Output::open(&path, IfExists::Append).is_err(), rows.torn);
        }
    }

    #[test]
    fn a_file_cut_anywhere_is_resumed_after_its_last_whole_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        let mut output = Output::open(&path, IfExists::Refuse).unwrap();
        output.append(&[row(1), row(2)]).unwrap();
        let bytes = fs::read(&path).unwrap();
        let header = csv_header().len();
        for cut in 0..=bytes.len() {
            fs::write(&path, &bytes[..cut]).unwrap();
            let (mut output, rows) = Output::resume(&path).unwrap();
            let whole = bytes[header.min(cut)..cut].iter().filter(|&&b| b == b'\n').count();
            assert_eq!(rows.rows.len(), whole, "cut at {cut}");
            output.append(&[row(3)]).unwrap();
            let rows = read(&path).unwrap();
            assert_eq!((rows.rows.len(), rows.torn), (whole + 1, false), "cut at {cut}");
        }
        let missing = Output::resume(&folder.path().join("b.csv")).err().unwrap().to_string();
        assert!(missing.starts_with("cannot read "), "{missing}");
        fs::write(&path, "batch,latency\n1,2\n").unwrap();
        assert!(Output::resume(&path).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "batch,latency\n1,2\n", "nothing is cut off");
    }

    #[test]
    fn another_schema_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        fs::write(&path, "batch,latency\n1,2\n").unwrap();
        let error = format!("{:#}", Output::open(&path, IfExists::Append).err().unwrap());
        assert!(error.contains("its columns are not those of this migbench (schema 2)"), "{error}");
        assert!(read(&path).unwrap_err().to_string().contains("its columns are not those of schema"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "batch,latency\n1,2\n");
    }

    #[test]
    fn a_bad_cell_is_named_by_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        let mut output = Output::open(&path, IfExists::Refuse).unwrap();
        output.append(&[row(1)]).unwrap();
        let text = fs::read_to_string(&path).unwrap().replace("cpu,,bert", "x").replacen("fp32", "fp31", 1);
        fs::write(&path, text).unwrap();
        let error = format!("{:#}", read(&path).unwrap_err());
        assert!(
            error.contains("a.csv, line 2: not a row of this schema") && error.contains("fp31"),
            "{error}"
        );
    }

    #[test]
    fn a_full_disk_is_an_error_before_measuring() {
        let error = Output::open(Path::new("/dev/full"), IfExists::Overwrite).err().unwrap();
        assert!(format!("{error:#}").contains("No space left"), "{error:#}");
    }
}
