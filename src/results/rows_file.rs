//! Where a sweep writes its rows: a file that it holds under one lock, or standard output.
//!
//! Nothing in a file is changed before [`RowsOutput::begin`], so that a run that is refused leaves it as
//! it was. A row is one write at the file's end. Before each, the file is looked at: one that was
//! removed, replaced or cut by somebody else is an error, not a place to write to.

use super::csv_file::{self, Rows, csv_header};
use super::lines;
use super::output::lock::{self, Lock, Locked};
use super::output::{self, OutputFile, Waiting};
use super::row::{Row, SCHEMA_VERSION};
use super::wire;
use anyhow::{Context, Result, bail, ensure};
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// Another process that has just created the file writes its header within this.
const HEADER_WAIT: Duration = Duration::from_secs(2);
/// Another process that appends has written a whole row within this.
const WRITE_WAIT: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(10);

/// What may happen to a file that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfExists {
    /// It is an error.
    Refuse,
    /// A new file takes its place.
    Replace,
    /// Rows are added after its last.
    Append,
}

/// An open rows file, or standard output.
pub enum RowsOutput {
    /// A file.
    File(RowsFile),
    /// CSV on standard output.
    Stdout,
}

/// An open rows file.
pub struct RowsFile {
    output: OutputFile,
    /// How much of the header is there.
    header: usize,
    /// The file's length without a torn last line, and behind the last row that this process wrote.
    end: u64,
    /// No other process may write to it.
    exclusive: bool,
    /// The file lies at its path and is looked at before each row.
    watched: bool,
}

/// What a file begins with.
#[derive(Debug, PartialEq, Eq)]
enum Content {
    /// Nothing, or this many bytes of the header: a kill may leave that.
    New(usize),
    /// The header, and whole lines up to here; `torn` bytes follow them.
    Rows { whole: u64, torn: u64 },
}

impl RowsOutput {
    /// Opens `path` (`-` is standard output).
    ///
    /// # Errors
    /// The file exists and may not be touched, holds something else than rows of this schema, is
    /// written by another process, or cannot be written.
    pub fn open(path: &Path, if_exists: IfExists) -> Result<RowsOutput> {
        if path == Path::new("-") {
            to_stdout(&csv_header())?;
            return Ok(RowsOutput::Stdout);
        }
        let exists = || format!("{} exists: --append adds rows to it, --force overwrites it", path.display());
        let (if_exists, special) = match (if_exists, path.metadata()) {
            (IfExists::Append, Ok(found)) if found.is_file() => return append(path).map(RowsOutput::File),
            (IfExists::Refuse, Ok(found)) if found.is_file() => bail!(exists()),
            (IfExists::Append, Err(error)) if error.kind() == ErrorKind::NotFound => {
                return append(path).map(RowsOutput::File);
            }
            (IfExists::Refuse, found) => (output::IfExists::Refuse, found.is_ok()),
            (_, found) => (output::IfExists::Replace, found.is_ok_and(|found| !found.is_file())),
        };
        let output = OutputFile::create(path, if_exists)?;
        let mut file = RowsFile { output, header: 0, end: 0, exclusive: true, watched: false };
        // A disk that is full is known before anything is measured.
        if special || !file.output.is_deferred() {
            file.complete_header().with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(RowsOutput::File(file))
    }

    /// Opens a file to go on with it, and reads the rows that it holds. A torn line, which a kill may
    /// have left at its end, is cut off by [`RowsOutput::begin`].
    ///
    /// # Errors
    /// As [`RowsOutput::open`]; the file does not exist, or has a damaged line.
    pub fn resume(path: &Path) -> Result<(RowsOutput, Rows)> {
        let shown = path.display();
        lines::open(path)?;
        let file = output::open_to_append(path, false)?;
        let output = OutputFile::locked(file, path)?;
        let content = content(output.file()).with_context(|| format!("cannot resume {shown}"))?;
        let (header, end, rows) = match content {
            Content::New(header) => (header, header as u64, Rows::default()),
            Content::Rows { whole, .. } => (csv_header().len(), whole, csv_file::read(path)?),
        };
        Ok((RowsOutput::File(RowsFile { output, header, end, exclusive: true, watched: true }), rows))
    }

    /// Where the file lies; `None` for standard output.
    pub fn path(&self) -> Option<&Path> {
        match self {
            RowsOutput::File(file) => Some(file.output.path()),
            RowsOutput::Stdout => None,
        }
    }

    /// What the user should know about the file, for example that its file system has no locks.
    pub fn note(&self) -> Option<&str> {
        match self {
            RowsOutput::File(file) => file.output.note(),
            RowsOutput::Stdout => None,
        }
    }

    /// Makes the file ready for rows. To be called when all that can be refused has been, as the last
    /// step before the first worker starts.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn begin(&mut self) -> Result<()> {
        let RowsOutput::File(file) = self else { return Ok(()) };
        file.begin().with_context(|| format!("cannot write {}", file.output.path().display()))
    }

    /// Puts a new file in the place of an old one. To be called when the first worker has shown that
    /// the run can start.
    ///
    /// # Errors
    /// The old file can be neither replaced nor overwritten.
    pub fn publish(&mut self) -> Result<()> {
        let RowsOutput::File(file) = self else { return Ok(()) };
        file.output.publish()?;
        file.watched = !file.output.is_special();
        Ok(())
    }

    /// Appends the rows of one run by one write.
    ///
    /// # Errors
    /// The file was removed, replaced or cut by another process, the disk is full or fails, or standard
    /// output is closed.
    pub fn append(&mut self, rows: &[Row]) -> Result<()> {
        self.publish()?;
        self.verify()?;
        if let RowsOutput::File(file) = self {
            file.expect_line_end()?;
        }
        let lines: Vec<u8> = rows.iter().flat_map(wire::line).collect();
        match self {
            RowsOutput::Stdout => to_stdout(&lines),
            RowsOutput::File(file) => file
                .append(&lines)
                .with_context(|| format!("cannot write to {}", file.output.path().display())),
        }
    }

    /// Looks whether all that was written is still there.
    ///
    /// # Errors
    /// What happened to the file.
    pub fn verify(&self) -> Result<()> {
        match self {
            RowsOutput::File(file) if file.watched => file.verify(),
            _ => Ok(()),
        }
    }
}

impl RowsFile {
    fn begin(&mut self) -> io::Result<()> {
        self.output.begin().map_err(io::Error::other)?;
        let file = self.output.file();
        if self.watched && file.metadata()?.len() > self.end && self.exclusive {
            file.set_len(self.end)?;
        }
        self.complete_header()?;
        if !self.exclusive {
            // Whoever else appends may write its rows now.
            lock::attempt(self.output.file(), Lock::Shared)?;
        }
        Ok(())
    }

    fn complete_header(&mut self) -> io::Result<()> {
        let header = csv_header();
        if self.header < header.len() {
            self.append(&header[self.header..])?;
            self.header = header.len();
        }
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.output.write_whole(bytes)?;
        if !self.output.is_special() {
            // In append mode the position is behind what was written, also when others append.
            self.end = io::Seek::stream_position(&mut self.output.file())?;
        }
        Ok(())
    }

    /// A row behind half a line would be read as part of it. Another process that appends may be in the
    /// middle of its write; one that was killed there does not go on.
    fn expect_line_end(&self) -> Result<()> {
        let deadline = Instant::now() + WRITE_WAIT;
        while self.watched && !ends_in_line_end(self.output.file()).unwrap_or(true) {
            ensure!(
                Instant::now() < deadline,
                "{} ends in half a line, which another process wrote during the run",
                self.output.path().display()
            );
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    fn verify(&self) -> Result<()> {
        let (file, path) = (self.output.file(), self.output.path());
        let shown = path.display();
        match path.metadata() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                bail!("{shown} was removed or renamed during the run")
            }
            Err(error) => return Err(error).with_context(|| format!("{shown} is no longer readable")),
            Ok(_) => ensure!(lock::is_at(file, path), "{shown} was replaced by another file during the run"),
        }
        let length = file.metadata().with_context(|| format!("{shown} is no longer readable"))?.len();
        ensure!(
            length >= self.end,
            "{shown} was cut to {length} bytes by another process during the run; it had {}",
            self.end
        );
        // One that was cut and has grown again.
        let header = csv_header();
        ensure!(
            self.header < header.len() || begins_with(file, &header),
            "{shown} was overwritten by another process during the run"
        );
        Ok(())
    }
}

fn to_stdout(lines: &[u8]) -> Result<()> {
    let mut stdout = Waiting(io::stdout());
    let written = stdout.write_all(lines).and_then(|()| stdout.flush());
    written.context("cannot write to standard output")
}

fn begins_with(file: &File, expected: &[u8]) -> bool {
    let mut found = vec![0; expected.len()];
    file.read_exact_at(&mut found, 0).is_ok() && found == expected
}

fn ends_in_line_end(file: &File) -> io::Result<bool> {
    let mut last = [0];
    file.read_exact_at(&mut last, file.metadata()?.len().saturating_sub(1))?;
    Ok(last == *b"\n")
}

/// Opens a file to add rows to it.
fn append(path: &Path) -> Result<RowsFile> {
    let deadline = Instant::now() + HEADER_WAIT;
    loop {
        let file = output::open_to_append(path, true)?;
        let shared = lock::attempt(&file, Lock::Shared)?;
        let content = content(&file).with_context(|| format!("cannot append to {}", path.display()))?;
        let note = match (shared, &content) {
            (Locked::Unsupported(why), _) => Some(lock::unsupported(path, &why)),
            (Locked::Yes, Content::Rows { .. }) => None,
            // Only one process may write the header. Another one that is about to is waited for.
            (Locked::Yes, Content::New(_))
                if matches!(lock::attempt(&file, Lock::Exclusive)?, Locked::Yes)
                    && self::content(&file)? == content =>
            {
                None
            }
            (locked, _) => {
                if Instant::now() >= deadline {
                    bail!("cannot append to {}: {}", path.display(), lock::holder(&file));
                }
                drop((file, locked));
                std::thread::sleep(POLL);
                continue;
            }
        };
        // Another process may have replaced the file before the lock was had.
        if !lock::is_at(&file, path) && Instant::now() < deadline {
            continue;
        }
        let (header, end) = match content {
            Content::New(header) => (header, header as u64),
            Content::Rows { torn: 0, whole } => (csv_header().len(), whole),
            Content::Rows { .. } => bail!(
                "cannot append to {}: its last line is torn (a write was cut off): --resume removes it, \
                 --append does not",
                path.display()
            ),
        };
        let output = OutputFile::of(file, path, note);
        return Ok(RowsFile { output, header, end, exclusive: false, watched: true });
    }
}

/// What an open file holds. Anything but rows of this schema is refused.
fn content(file: &File) -> Result<Content> {
    let expected = csv_header();
    let length = file.metadata()?.size();
    let mut found = vec![0; expected.len().min(length as usize)];
    file.read_exact_at(&mut found, 0)?;
    if !expected.starts_with(&found) {
        bail!("{}", foreign(&found, &expected));
    }
    if found.len() < expected.len() {
        return Ok(Content::New(found.len()));
    }
    let from = length.saturating_sub(lines::LONGEST_LINE as u64 + 1);
    let mut tail = vec![0; (length - from) as usize];
    file.read_exact_at(&mut tail, from)?;
    let Some(at) = memchr::memrchr(b'\n', &tail) else {
        bail!(
            "it has no line end in its last {} bytes, and no row is that long: it is damaged, and nothing was \
             changed in it",
            tail.len()
        );
    };
    let whole = from + at as u64 + 1;
    Ok(Content::Rows { whole, torn: length - whole })
}

/// Why a file that begins with these bytes is refused.
fn foreign(found: &[u8], expected: &[u8]) -> String {
    let text = found.strip_prefix("\u{feff}".as_bytes()).unwrap_or(found);
    let first = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let line = expected.strip_suffix(b"\n").unwrap_or(expected);
    let saved_again = first.strip_suffix(b"\r").unwrap_or(first);
    if !saved_again.is_empty()
        && line.starts_with(saved_again)
        && saved_again.len() + 4 >= line.len().min(found.len())
    {
        return "a spreadsheet or editor saved it with a byte order mark or with CRLF line ends, which \
                migbench does not write: remove them (sed -i '1s/^\\xEF\\xBB\\xBF//; s/\\r$//' FILE), or name \
                another file"
            .to_owned();
    }
    let other = format!("its columns are not those of this migbench (schema {SCHEMA_VERSION})");
    if text.starts_with(b"schema_version,") {
        return format!(
            "{other}: another version of migbench wrote it; name a new file, check and compare read both"
        );
    }
    other
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, OpenOptions};

    fn row(batch: u64) -> Row {
        let mut row = Row::default();
        row.point.batch = batch;
        row
    }

    fn opened(path: &Path, if_exists: IfExists) -> RowsOutput {
        let mut output = RowsOutput::open(path, if_exists).unwrap();
        output.begin().unwrap();
        output
    }

    fn refusal(result: Result<impl Sized>) -> String {
        format!("{:#}", result.err().expect("it is refused"))
    }

    fn read(path: &Path) -> Rows {
        csv_file::read(path).unwrap()
    }

    #[test]
    fn rows_are_appended_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        opened(&path, IfExists::Refuse).append(&[row(1)]).unwrap();
        let error = refusal(RowsOutput::open(&path, IfExists::Refuse));
        assert!(error.ends_with("a.csv exists: --append adds rows to it, --force overwrites it"), "{error}");
        opened(&path, IfExists::Append).append(&[row(2)]).unwrap();
        let rows = read(&path);
        assert_eq!((rows.rows, rows.torn), (vec![row(1), row(2)], false));
        opened(&path, IfExists::Replace).append(&[row(3)]).unwrap();
        assert_eq!(read(&path).rows, [row(3)]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn an_old_file_stays_until_the_run_has_started() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        fs::write(&path, "precious").unwrap();
        drop(RowsOutput::open(&path, IfExists::Replace).unwrap());
        let mut output = opened(&path, IfExists::Replace);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        output.publish().unwrap();
        assert!(read(&path).rows.is_empty());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        drop(output);
        let new = folder.path().join("new.csv");
        drop(RowsOutput::open(&new, IfExists::Refuse).unwrap());
        assert!(!new.exists(), "nothing came of it");
    }

    #[test]
    fn a_file_cut_anywhere_is_read_up_to_its_last_whole_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        let mut output = opened(&path, IfExists::Refuse);
        output.append(&[row(1)]).unwrap();
        output.append(&[row(2)]).unwrap();
        drop(output);
        let bytes = fs::read(&path).unwrap();
        let header = csv_header().len();
        for cut in header..=bytes.len() {
            fs::write(&path, &bytes[..cut]).unwrap();
            let rows = read(&path);
            let whole = bytes[header..cut].iter().filter(|&&b| b == b'\n').count();
            assert_eq!((rows.rows.len(), rows.torn), (whole, bytes[cut - 1] != b'\n'), "cut at {cut}");
            assert_eq!(RowsOutput::open(&path, IfExists::Append).is_err(), rows.torn);
        }
    }

    #[test]
    fn a_file_cut_anywhere_is_gone_on_with_after_its_last_whole_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        opened(&path, IfExists::Refuse).append(&[row(1), row(2)]).unwrap();
        let bytes = fs::read(&path).unwrap();
        let header = csv_header().len();
        for cut in 0..=bytes.len() {
            fs::write(&path, &bytes[..cut]).unwrap();
            let (output, rows) = RowsOutput::resume(&path).unwrap();
            assert_eq!(fs::read(&path).unwrap(), bytes[..cut], "nothing is cut before a run begins");
            let mut output = output;
            output.begin().unwrap();
            let whole = bytes[header.min(cut)..cut].iter().filter(|&&b| b == b'\n').count();
            assert_eq!(rows.rows.len(), whole, "cut at {cut}");
            output.append(&[row(3)]).unwrap();
            let rows = read(&path);
            assert_eq!((rows.rows.len(), rows.torn), (whole + 1, false), "cut at {cut}");
            if cut < header {
                fs::write(&path, &bytes[..cut]).unwrap();
                drop(output);
                opened(&path, IfExists::Append).append(&[row(4)]).unwrap();
                assert_eq!(read(&path).rows, [row(4)], "cut at {cut}");
            }
        }
        let missing = refusal(RowsOutput::resume(&folder.path().join("b.csv")));
        assert!(missing.starts_with("cannot read "), "{missing}");
    }

    /// What is not this program's is refused and stays as it is, byte for byte.
    #[test]
    fn nothing_is_changed_in_a_file_of_something_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        let header = csv_header();
        let with_tail =
            |tail: usize, byte: u8| [&header[..], &wire::line(&row(1)), &vec![byte; tail]].concat();
        let foreign: Vec<Vec<u8>> = vec![
            br#"{"precious":"one line of JSON"}"#.to_vec(),
            b"batch,latency\n1,2\n".to_vec(),
            (0..3_000_000_u32).map(|i| (i * 7) as u8 | 0x80).collect(),
            [b"a,b\n1,2\n".to_vec(), vec![0; 2_000_000]].concat(),
            vec![0; 5],
            b"\n".to_vec(),
            [&header[..20], b"\n"].concat(),
            [b"\xef\xbb\xbf", &header[..]].concat(),
            [&header[..header.len() - 1], b"\r\n"].concat(),
            with_tail(lines::LONGEST_LINE + 1, b'x'),
            with_tail(2_000_000, 0),
        ];
        for bytes in foreign {
            fs::write(&path, &bytes).unwrap();
            for refused in [RowsOutput::resume(&path).err(), RowsOutput::open(&path, IfExists::Append).err()]
            {
                assert!(refused.is_some(), "{:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(40)]));
            }
            assert!(fs::read(&path).unwrap() == bytes);
        }
        fs::write(&path, with_tail(lines::LONGEST_LINE, b'x')).unwrap();
        let (mut output, rows) = RowsOutput::resume(&path).unwrap();
        output.begin().unwrap();
        output.append(&[row(2)]).unwrap();
        assert_eq!((rows.rows.len(), read(&path).rows.len()), (1, 2), "a torn line of the longest length");
    }

    #[test]
    fn a_spreadsheets_form_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        let header = csv_header();
        for (bytes, phrase) in [
            ([b"\xef\xbb\xbf", &header[..]].concat(), "with a byte order mark or with CRLF"),
            ([&header[..header.len() - 1], b"\r\n"].concat(), "with a byte order mark or with CRLF"),
            (b"batch,latency\n1,2\n".to_vec(), "its columns are not those of this migbench (schema "),
        ] {
            fs::write(&path, bytes).unwrap();
            let error = refusal(RowsOutput::open(&path, IfExists::Append));
            assert!(error.contains(phrase), "{error}");
        }
    }

    #[test]
    fn a_second_writer_is_refused_and_several_may_append() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        let first = opened(&path, IfExists::Append);
        let second = opened(&path, IfExists::Append);
        for mut each in [first, second] {
            each.append(&[row(1)]).unwrap();
            let error = refusal(RowsOutput::resume(&path));
            assert!(error.contains(" is writing it: wait until that ends"), "{error}");
            assert!(RowsOutput::open(&path, IfExists::Replace).is_err());
        }
        assert_eq!(read(&path).rows.len(), 2);
        let (resumed, _) = RowsOutput::resume(&path).unwrap();
        assert!(RowsOutput::resume(&path).is_err() && RowsOutput::open(&path, IfExists::Append).is_err());
        drop(resumed);
        let replacing = RowsOutput::open(&path, IfExists::Replace).unwrap();
        assert!(RowsOutput::resume(&path).is_err() && RowsOutput::open(&path, IfExists::Replace).is_err());
        drop(replacing);
        assert_eq!(read(&path).rows.len(), 2);
    }

    #[test]
    fn rows_of_several_that_append_at_once_are_all_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut output = opened(&path, IfExists::Append);
                    (0..25).for_each(|i| output.append(&[row(i)]).unwrap());
                });
            }
        });
        assert_eq!(read(&path).rows.len(), 100);
    }

    #[test]
    fn a_file_that_somebody_else_changes_is_noticed() {
        type Attack = fn(&Path);
        let attacks: [(&str, Attack); 6] = [
            ("was removed or renamed", |path| fs::remove_file(path).unwrap()),
            ("was removed or renamed", |path| fs::rename(path, path.with_extension("old")).unwrap()),
            ("was replaced by another file", |path| {
                fs::write(path.with_extension("new"), "x").unwrap();
                fs::rename(path.with_extension("new"), path).unwrap();
            }),
            ("was cut to 0 bytes", |path| fs::write(path, "").unwrap()),
            ("was cut to 90 bytes", |path| {
                OpenOptions::new().write(true).open(path).unwrap().set_len(90).unwrap();
            }),
            ("was overwritten by another process", |path| fs::write(path, vec![b'x'; 100_000]).unwrap()),
        ];
        for (phrase, attack) in attacks {
            for if_exists in [IfExists::Refuse, IfExists::Append, IfExists::Replace] {
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().join("a.csv");
                let mut output = opened(&path, if_exists);
                output.append(&[row(1)]).unwrap();
                output.verify().unwrap();
                attack(&path);
                for error in [refusal(output.verify()), refusal(output.append(&[row(2)]))] {
                    assert!(error.contains(phrase), "{if_exists:?}: {error}");
                }
            }
        }
    }

    /// What a process leaves that was killed in the middle of its write, while another one goes on.
    #[test]
    fn no_row_is_written_behind_half_a_line() {
        for if_exists in [IfExists::Refuse, IfExists::Append, IfExists::Replace] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a.csv");
            let mut output = opened(&path, if_exists);
            output.append(&[row(1)]).unwrap();
            let mut other = OpenOptions::new().append(true).open(&path).unwrap();
            other.write_all(b"half a l").unwrap();
            let before = fs::read(&path).unwrap();
            let error = refusal(output.append(&[row(2)]));
            assert!(error.contains("ends in half a line"), "{if_exists:?}: {error}");
            assert_eq!(fs::read(&path).unwrap(), before);
            // The rows themselves are all there.
            output.verify().unwrap();
            other.write_all(b"ine\n").unwrap();
            output.append(&[row(2)]).unwrap();
        }
    }

    #[test]
    fn a_full_disk_is_an_error_before_measuring() {
        let error = refusal(RowsOutput::open(Path::new("/dev/full"), IfExists::Replace));
        assert!(error.contains("cannot write /dev/full: No space left"), "{error}");
    }
}
