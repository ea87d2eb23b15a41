//! One lock per open file: shared for those that append, exclusive for those that change what is there.
//!
//! Locks are only ever tried, so that no process waits for another without a limit.

use rustix::fs::{FlockOperation, flock, major, minor};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Whom a lock keeps out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// Those that change what is there.
    Shared,
    /// Everyone.
    Exclusive,
}

/// What came of an attempt.
#[derive(Debug)]
pub enum Locked {
    /// The lock is held until the file is closed.
    Yes,
    /// Another process, or another open file, holds a lock that excludes this one.
    Held,
    /// The file system has no locks.
    Unsupported(io::Error),
}

/// Tries to lock `file`, or to change the lock that it holds.
///
/// # Errors
/// The system call failed for another reason.
pub fn attempt(file: &File, lock: Lock) -> io::Result<Locked> {
    let operation = match lock {
        Lock::Shared => FlockOperation::NonBlockingLockShared,
        Lock::Exclusive => FlockOperation::NonBlockingLockExclusive,
    };
    match rustix::io::retry_on_intr(|| flock(file, operation)) {
        Ok(()) => Ok(Locked::Yes),
        Err(Errno::WOULDBLOCK) => Ok(Locked::Held),
        // Lustre mounted without -o flock, some NFS and FUSE file systems.
        Err(error @ (Errno::NOLCK | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL)) => {
            Ok(Locked::Unsupported(error.into()))
        }
        Err(error) => Err(error.into()),
    }
}

/// Gives the lock up, without closing the file.
pub fn release(file: &File) {
    let _ = flock(file, FlockOperation::NonBlockingUnlock);
}

/// A warning for a file system without locks.
pub fn unsupported(path: &Path, why: &io::Error) -> String {
    format!(
        "warning: the file system of {} has no locks ({why}): make sure that no second migbench writes to it",
        path.display()
    )
}

/// Who holds the lock on a file, as a sentence for an error.
pub fn holder(file: &File) -> String {
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let who = match file.metadata().ok().and_then(|metadata| holder_in(&locks, &metadata)) {
        Some(pid) => format!("process {pid}"),
        None => "another process or host".to_owned(),
    };
    format!("{who} is writing it: wait until that ends, or name another file")
}

/// The pid in a line such as `1: FLOCK  ADVISORY  WRITE 4711 fe:00:1234 0 EOF`; device numbers are
/// hexadecimal, the inode is decimal. A holder outside this pid namespace is shown as 0 or -1.
fn holder_in(locks: &str, metadata: &std::fs::Metadata) -> Option<u32> {
    let place = format!("{:02x}:{:02x}:{}", major(metadata.dev()), minor(metadata.dev()), metadata.ino());
    locks.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip_while(|field| *field != "FLOCK").skip(3);
        let pid = fields.next()?.parse().ok()?;
        (fields.next()? == place && pid > 0).then_some(pid)
    })
}

/// Whether the open file is the one that lies at `path`.
pub fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), path.metadata()) {
        (Ok(open), Ok(there)) => (open.dev(), open.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_locks_keep_out_exclusive_ones_and_the_holder_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || File::open(file.path()).unwrap();
        let (first, second, third) = (open(), open(), open());
        assert!(matches!(attempt(&first, Lock::Shared).unwrap(), Locked::Yes));
        assert!(matches!(attempt(&second, Lock::Shared).unwrap(), Locked::Yes));
        assert!(matches!(attempt(&third, Lock::Exclusive).unwrap(), Locked::Held));
        let by = holder(&third);
        let known = by.starts_with(&format!("process {} is writing it", std::process::id()));
        assert!(known || by.starts_with("another process or host is writing it"), "{by}");
        release(&first);
        drop(second);
        assert!(matches!(attempt(&third, Lock::Exclusive).unwrap(), Locked::Yes));
        assert!(matches!(attempt(&first, Lock::Shared).unwrap(), Locked::Held));
    }

    #[test]
    fn a_holder_is_found_by_device_and_inode() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let metadata = file.as_file().metadata().unwrap();
        let place = format!("{:02x}:{:02x}:{}", major(metadata.dev()), minor(metadata.dev()), metadata.ino());
        let line = |pid: &str, place: &str| format!("12: FLOCK  ADVISORY  WRITE {pid} {place} 0 EOF\n");
        let other = line("1", "00:00:1");
        assert_eq!(holder_in(&(other.clone() + &line("4711", &place)), &metadata), Some(4711));
        // A process that waits for the lock is listed below its holder, with an arrow.
        assert_eq!(holder_in(&format!("1: -> FLOCK ADVISORY WRITE 9 {place} 0 EOF"), &metadata), Some(9));
        for nobody in ["", &other, &line("-1", &place), &line("0", &place), "1: FLOCK ADVISORY"] {
            assert_eq!(holder_in(nobody, &metadata), None, "{nobody}");
        }
    }
}
