//! Output files: created, replaced and written the same way by every verb.
//!
//! What was at the path stays until there is something to put in its place: a file that exists is
//! replaced by rename, and only once [`OutputFile::publish`] is called. A new file that is never
//! published is removed again.

pub mod claims;
pub mod lock;

use self::lock::{Lock, Locked};
use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Gid, OFlags, Uid, fchown};
use std::fs::{File, FileType, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A FIFO waits this long for a reader to open it, and for a reader to take more.
const READER_WAIT: Duration = Duration::from_secs(5);
/// A holder that was just killed, or its child between fork and exec, gives the lock up within this.
const LOCK_WAIT: Duration = Duration::from_millis(300);
/// Between two attempts to open a FIFO or to lock a file.
const POLL: Duration = Duration::from_millis(20);

/// What may happen to a file that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfExists {
    /// It is an error.
    Refuse,
    /// The new file takes its place.
    Replace,
}

/// An open output file of a verb.
#[derive(Debug)]
pub struct OutputFile {
    file: File,
    /// As the user named it.
    path: PathBuf,
    pending: Pending,
    /// A pipe or a device.
    special: bool,
    /// What the user should know about the file system.
    note: Option<String>,
}

/// What is left to do until the file lies at its path.
#[derive(Debug)]
enum Pending {
    Nothing,
    /// The file was created by this process and has nothing in it yet.
    New,
    /// The new content is beside the old file. `old` is open for its lock.
    Rename {
        temporary: PathBuf,
        target: PathBuf,
        old: File,
    },
    /// No file can be created beside the old one, which is therefore emptied.
    Truncate,
}

impl OutputFile {
    /// Opens `path` for writing, under an exclusive lock if it is a regular file.
    ///
    /// # Errors
    /// The file exists and may not be replaced, is written by another process, or cannot be created.
    pub fn create(path: &Path, if_exists: IfExists) -> Result<OutputFile> {
        let shown = path.display();
        ensure!(path != Path::new("-"), "this output cannot go to standard output: ./- names a file");
        match path.metadata() {
            Ok(found) if is_special(found.file_type()) => OutputFile::open_special(path),
            Ok(found) if !found.is_file() => refuse(path, &found),
            Ok(_) if if_exists == IfExists::Refuse => bail!("{shown} exists: --force overwrites it"),
            Ok(found) => OutputFile::replace(path, &found),
            Err(_) => {
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
                if let Some(folder) = folder.filter(|folder| !folder.exists()) {
                    bail!("cannot write {shown}: there is no folder {}", folder.display());
                }
                // Through a symlink that leads nowhere, the file is created where it points.
                let exclusive = path.symlink_metadata().is_err();
                let mut options = OpenOptions::new();
                options.read(true).append(true).create(!exclusive).create_new(exclusive);
                let file = options.open(path).with_context(|| format!("cannot write {shown}"))?;
                let mut output = OutputFile::locked(file, path)?;
                output.pending = Pending::New;
                Ok(output)
            }
        }
    }

    /// Opens `path` to add to what it holds. It takes no lock: other programs may add to it, too.
    ///
    /// # Errors
    /// It is no file, pipe or character device, or cannot be opened for writing.
    pub fn append(path: &Path) -> Result<OutputFile> {
        match path.metadata() {
            Ok(found) if is_special(found.file_type()) => OutputFile::open_special(path),
            Ok(found) if !found.is_file() => refuse(path, &found),
            _ => Ok(OutputFile::of(open_to_append(path, true)?, path, None)),
        }
    }

    /// An open file; nothing is left to be done to it.
    pub(super) fn of(file: File, path: &Path, note: Option<String>) -> OutputFile {
        OutputFile { file, path: path.to_owned(), pending: Pending::Nothing, special: false, note }
    }

    /// An open file with an exclusive lock.
    pub(super) fn locked(file: File, path: &Path) -> Result<OutputFile> {
        let deadline = Instant::now() + LOCK_WAIT;
        let mut locked = lock::attempt(&file, Lock::Exclusive)?;
        while matches!(locked, Locked::Held) && Instant::now() < deadline {
            std::thread::sleep(POLL);
            locked = lock::attempt(&file, Lock::Exclusive)?;
        }
        let note = match locked {
            Locked::Yes => None,
            Locked::Unsupported(why) => Some(lock::unsupported(path, &why)),
            Locked::Held => bail!("cannot write {}: {}", path.display(), lock::holder(&file)),
        };
        // A lock on what another process has replaced since keeps nobody out.
        ensure!(
            lock::is_at(&file, path),
            "cannot write {}: another process has just replaced it; try again",
            path.display()
        );
        Ok(OutputFile::of(file, path, note))
    }

    /// A regular file that exists. It is not changed here.
    fn replace(path: &Path, found: &Metadata) -> Result<OutputFile> {
        let shown = path.display();
        let mut output = OutputFile::locked(open_to_append(path, false)?, path)?;
        // A symlink stays, and its target is replaced.
        let target = path.canonicalize().with_context(|| format!("cannot write {shown}"))?;
        match beside(&target, found)? {
            Some((temporary, file)) => {
                let old = std::mem::replace(&mut output.file, file);
                output.pending = Pending::Rename { temporary, target, old };
            }
            None => output.pending = Pending::Truncate,
        }
        Ok(output)
    }

    /// A pipe or a device is written in place. It is never waited for without a limit.
    fn open_special(path: &Path) -> Result<OutputFile> {
        let shown = path.display();
        let deadline = Instant::now() + READER_WAIT;
        let mut options = OpenOptions::new();
        options.write(true).custom_flags(OFlags::NONBLOCK.bits() as i32);
        loop {
            match options.open(path) {
                Ok(file) => {
                    let mut output = OutputFile::of(file, path, None);
                    output.special = true;
                    return Ok(output);
                }
                // A FIFO without a reader.
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => {
                    if Instant::now() >= deadline {
                        bail!(
                            "cannot write {shown}: no process opened it for reading within {READER_WAIT:?}"
                        );
                    }
                    std::thread::sleep(POLL);
                }
                Err(error) => return Err(error).with_context(|| format!("cannot write {shown}")),
            }
        }
    }

    /// As the user named it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the user should know about the file, for example that its file system has no locks.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// Whether it is a pipe or a device.
    pub fn is_special(&self) -> bool {
        self.special
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether a file that may not be changed yet is what would be written to.
    pub fn is_deferred(&self) -> bool {
        matches!(self.pending, Pending::Truncate)
    }

    /// The point of no return for a file that cannot be replaced by rename: it is emptied. A new file
    /// stays from now on.
    ///
    /// # Errors
    /// The file cannot be truncated.
    pub fn begin(&mut self) -> Result<()> {
        match self.pending {
            Pending::Truncate => {
                self.file.set_len(0).with_context(|| format!("cannot empty {}", self.path.display()))?;
                self.pending = Pending::Nothing;
            }
            Pending::New => self.pending = Pending::Nothing,
            Pending::Rename { .. } | Pending::Nothing => {}
        }
        Ok(())
    }

    /// Puts the new file in the place of the old one. From now on it lies at its path.
    ///
    /// # Errors
    /// The old file can neither be replaced nor overwritten.
    pub fn publish(&mut self) -> Result<()> {
        self.begin()?;
        let Pending::Rename { temporary, target, old } = &mut self.pending else { return Ok(()) };
        // Without this, a power failure could leave neither the old nor the new content.
        let _ = self.file.sync_all();
        if std::fs::rename(&*temporary, target).is_err() {
            // A file that is a mount point of its own, as in a container, cannot be renamed over.
            let overwritten = overwrite(old, &self.file);
            overwritten.with_context(|| format!("cannot write {}", self.path.display()))?;
            self.file = old.try_clone().with_context(|| format!("cannot write {}", self.path.display()))?;
            let _ = std::fs::remove_file(temporary);
        }
        self.pending = Pending::Nothing;
        Ok(())
    }

    /// Writes all of `bytes`; interrupted and short writes go on. If the rest cannot be written, what was
    /// is taken back, unless another process has appended to the file meanwhile.
    ///
    /// # Errors
    /// The disk is full or fails, or nobody reads the pipe.
    pub fn write_whole(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.is_deferred() {
            self.begin().map_err(io::Error::other)?;
        }
        let mut done = 0;
        let result = write_on(&mut Waiting(&self.file), bytes, &mut done);
        if result.is_err() && done > 0 && !self.special {
            let _ = take_back(&mut self.file, done as u64);
        }
        result
    }
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_whole(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for OutputFile {
    /// A file that nothing came of does not stay.
    fn drop(&mut self) {
        match &self.pending {
            Pending::New => {
                // Of a symlink, its target: that is what was created.
                if lock::is_at(&self.file, &self.path) {
                    let _ = self.path.canonicalize().and_then(std::fs::remove_file);
                }
            }
            Pending::Rename { temporary, .. } => _ = std::fs::remove_file(temporary),
            Pending::Nothing | Pending::Truncate => {}
        }
    }
}

/// Pipes, terminals, /dev/null: writing there destroys nothing.
fn is_special(kind: FileType) -> bool {
    kind.is_fifo() || kind.is_char_device()
}

/// A directory, a socket or a disk.
fn refuse<T>(path: &Path, found: &Metadata) -> Result<T> {
    let shown = path.display();
    if found.is_dir() {
        return Err(io::Error::from(ErrorKind::IsADirectory))
            .with_context(|| format!("cannot write {shown}"));
    }
    bail!("cannot write {shown}: it is a socket or a block device: name a file, a pipe or a character device")
}

/// Opens a regular file to add to it.
pub(super) fn open_to_append(path: &Path, create: bool) -> Result<File> {
    let opened = OpenOptions::new().read(true).append(true).create(create).open(path);
    opened.with_context(|| format!("cannot write {}", path.display()))
}

/// A new file beside `target`, with its mode and owner; `None` where none can be created. Its name is
/// fixed, so that what a killed process left is found and removed.
fn beside(target: &Path, old: &Metadata) -> Result<Option<(PathBuf, File)>> {
    let Some(name) = target.file_name() else { return Ok(None) };
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(".migbench-new");
    let path = target.with_file_name(hidden);
    let mut options = OpenOptions::new();
    options.read(true).append(true).create_new(true);
    let mut opened = options.open(&path);
    if opened.as_ref().is_err_and(|error| error.kind() == ErrorKind::AlreadyExists) {
        // Whatever lies there, a pipe or a symlink too, is not waited for and not followed.
        let flags = (OFlags::NONBLOCK | OFlags::NOFOLLOW).bits() as i32;
        if let Ok(left) = OpenOptions::new().read(true).custom_flags(flags).open(&path)
            && matches!(lock::attempt(&left, Lock::Exclusive)?, Locked::Held)
        {
            bail!("cannot write {}: {}", target.display(), lock::holder(&left));
        }
        opened = std::fs::remove_file(&path).and_then(|()| options.open(&path));
    }
    let Ok(file) = opened else { return Ok(None) };
    lock::attempt(&file, Lock::Exclusive)?;
    // Only root may give a file away; for everyone else the owner is the same already.
    let _ = fchown(&file, Some(Uid::from_raw(old.uid())), Some(Gid::from_raw(old.gid())));
    file.set_permissions(old.permissions()).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(Some((path, file)))
}

/// Copies all of `new` over `old`.
fn overwrite(old: &mut File, mut new: &File) -> io::Result<()> {
    old.set_len(0)?;
    new.rewind()?;
    io::copy(&mut new, old)?;
    Ok(())
}

/// Cuts off the last `length` bytes that were written, if they are the file's last.
fn take_back(file: &mut File, length: u64) -> io::Result<()> {
    // After a write in append mode this is where it ended.
    let end = file.stream_position()?;
    if file.metadata()?.len() == end { file.set_len(end.saturating_sub(length)) } else { Ok(()) }
}

/// As `write_all`, but says how far it came.
fn write_on(out: &mut impl Write, bytes: &[u8], done: &mut usize) -> io::Result<()> {
    while *done < bytes.len() {
        match out.write(&bytes[*done..]) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => *done += written,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes to a descriptor that may not block, and waits for it within [`READER_WAIT`].
pub(super) struct Waiting<W>(pub W);

impl<W: Write + AsFd> Waiting<W> {
    fn wait_for<T>(&mut self, mut write: impl FnMut(&mut W) -> io::Result<T>) -> io::Result<T> {
        loop {
            match write(&mut self.0) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let limit = Timespec { tv_sec: READER_WAIT.as_secs() as i64, tv_nsec: 0 };
                    let mut waited = [PollFd::new(&self.0, PollFlags::OUT)];
                    if rustix::io::retry_on_intr(|| poll(&mut waited, Some(&limit)))? == 0 {
                        let text = format!("its reader took nothing for {READER_WAIT:?}");
                        return Err(io::Error::new(ErrorKind::TimedOut, text));
                    }
                }
                other => return other,
            }
        }
    }
}

impl<W: Write + AsFd> Write for Waiting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wait_for(|out| out.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.wait_for(W::flush)
    }
}

#[cfg(test)]
mod tests;
