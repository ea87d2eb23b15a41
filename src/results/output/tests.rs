//! Replacing, taking back, pipes.

use super::*;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn a_symlinks_target_is_replaced_and_its_mode_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("sub")).unwrap();
    fs::write(path("sub/old"), "old").unwrap();
    fs::set_permissions(path("sub/old"), fs::Permissions::from_mode(0o640)).unwrap();
    symlink("sub/old", path("link")).unwrap();
    let mut output = OutputFile::create(&path("link"), IfExists::Replace).unwrap();
    output.write_whole(b"new").unwrap();
    assert_eq!(text(&path("link")), "old", "not before it is published");
    output.publish().unwrap();
    assert_eq!(text(&path("sub/old")), "new");
    assert!(path("link").symlink_metadata().unwrap().is_symlink());
    assert_eq!(path("sub/old").metadata().unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(fs::read_dir(path("sub")).unwrap().count(), 1);

    symlink("sub/new", path("dangling")).unwrap();
    let mut output = OutputFile::create(&path("dangling"), IfExists::Refuse).unwrap();
    output.write_whole(b"x").unwrap();
    output.publish().unwrap();
    assert_eq!(text(&path("sub/new")), "x");
}

#[test]
fn what_a_symlink_had_created_goes_and_the_symlink_stays() {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("link");
    symlink("target", &link).unwrap();
    drop(OutputFile::create(&link, IfExists::Refuse).unwrap());
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert!(!folder.path().join("target").exists());
}

fn fifo(path: &Path) {
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
}

/// Anybody who may write to the folder can put it there.
#[test]
fn what_lies_in_the_way_of_the_new_file_is_neither_waited_for_nor_followed() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let in_the_way: [fn(&Path); 2] = [fifo, |path| symlink("other", path).unwrap()];
    for put in in_the_way {
        fs::write(path("a"), "old").unwrap();
        fs::write(path("other"), "other").unwrap();
        put(&path(".a.migbench-new"));
        let mut output = OutputFile::create(&path("a"), IfExists::Replace).unwrap();
        output.write_whole(b"new").unwrap();
        output.publish().unwrap();
        drop(output);
        assert_eq!((text(&path("a")), text(&path("other"))), ("new".into(), "other".into()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}

#[test]
fn a_socket_a_block_device_and_standard_output_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let mut refused = vec![(socket, "it is a socket or a block device")];
    refused.push(("-".into(), "cannot go to standard output"));
    let disk = folder.path().join("disk");
    // A device number without a driver.
    let device = rustix::fs::makedev(240, 255);
    let made =
        rustix::fs::mknodat(rustix::fs::CWD, &disk, rustix::fs::FileType::BlockDevice, 0o600.into(), device);
    // Only root may make it.
    if made.is_ok() {
        refused.push((disk, "it is a socket or a block device"));
    }
    for (path, reason) in refused {
        for if_exists in [IfExists::Refuse, IfExists::Replace] {
            let error = OutputFile::create(&path, if_exists).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}

#[test]
fn a_lock_on_a_file_that_was_replaced_meanwhile_is_no_lock() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    fs::write(&path, "old").unwrap();
    let opened = open_to_append(&path, false).unwrap();
    fs::write(folder.path().join("new"), "new").unwrap();
    fs::rename(folder.path().join("new"), &path).unwrap();
    let error = OutputFile::locked(opened, &path).unwrap_err().to_string();
    assert!(error.contains("another process has just replaced it"), "{error}");
}

#[test]
fn an_old_file_stays_if_nothing_comes_of_the_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    fs::write(&path, "old").unwrap();
    assert!(OutputFile::create(&path, IfExists::Refuse).is_err());
    let mut output = OutputFile::create(&path, IfExists::Replace).unwrap();
    output.write_whole(b"half").unwrap();
    drop(output);
    assert_eq!(text(&path), "old");
    // What a killed process left does not stand in the way.
    fs::write(folder.path().join(".a.migbench-new"), "left").unwrap();
    let mut output = OutputFile::create(&path, IfExists::Replace).unwrap();
    output.write_whole(b"new").unwrap();
    output.publish().unwrap();
    assert_eq!((text(&path), fs::read_dir(folder.path()).unwrap().count()), ("new".into(), 1));
}

/// A name that leaves no room for that of a second file.
#[test]
fn where_nothing_can_be_created_beside_it_the_file_is_emptied_at_the_last_moment() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a".repeat(250));
    fs::write(&path, "a longer old text").unwrap();
    let mut output = OutputFile::create(&path, IfExists::Replace).unwrap();
    assert!(output.is_deferred());
    assert_eq!(text(&path), "a longer old text");
    output.write_whole(b"new").unwrap();
    output.publish().unwrap();
    assert_eq!(text(&path), "new");
}

#[test]
fn a_fifo_without_a_reader_is_given_up_and_one_with_a_reader_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fifo");
    fifo(&path);
    let error = OutputFile::create(&path, IfExists::Refuse).unwrap_err().to_string();
    assert!(error.contains("no process opened it for reading"), "{error}");
    let reader = std::thread::spawn({
        let path = path.clone();
        move || text(&path).len()
    });
    let mut output = OutputFile::create(&path, IfExists::Refuse).unwrap();
    // More than a pipe holds.
    output.write_whole(&[b'x'; 300_000]).unwrap();
    output.publish().unwrap();
    drop(output);
    assert_eq!(reader.join().unwrap(), 300_000);
}

#[test]
fn a_folder_is_no_file() {
    let folder = tempfile::tempdir().unwrap();
    for if_exists in [IfExists::Refuse, IfExists::Replace] {
        let error = format!("{:#}", OutputFile::create(folder.path(), if_exists).unwrap_err());
        assert!(error.contains("is a directory"), "{error}");
    }
}

/// A writer that takes a few bytes at a time, is interrupted in between, and fails in the end.
struct Scripted {
    steps: Vec<io::Result<usize>>,
    taken: Vec<u8>,
}

impl Write for Scripted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let step = if self.steps.is_empty() { Ok(bytes.len()) } else { self.steps.remove(0) };
        let taken = step?.min(bytes.len());
        self.taken.extend(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn interrupted_and_short_writes_go_on() {
    let interrupted = || Err(ErrorKind::Interrupted.into());
    let mut out = Scripted { steps: vec![interrupted(), Ok(3), interrupted(), Ok(1)], taken: Vec::new() };
    let mut done = 0;
    write_on(&mut out, b"0123456789", &mut done).unwrap();
    assert_eq!((out.taken.as_slice(), done), (&b"0123456789"[..], 10));
    for last in [Ok(0), Err(ErrorKind::StorageFull.into())] {
        let mut out = Scripted { steps: vec![Ok(4), last], taken: Vec::new() };
        let mut done = 0;
        assert!(write_on(&mut out, b"0123456789", &mut done).is_err());
        assert_eq!(done, 4, "so much can be taken back");
    }
}

#[test]
fn only_the_last_bytes_of_a_file_are_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    let mut output = OutputFile::create(&path, IfExists::Refuse).unwrap();
    output.write_whole(b"row\nhal").unwrap();
    take_back(&mut output.file, 3).unwrap();
    assert_eq!(text(&path), "row\n");
    output.write_whole(b"hal").unwrap();
    fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"other\n").unwrap();
    take_back(&mut output.file, 3).unwrap();
    assert_eq!(text(&path), "row\nhalother\n", "another process has appended");
}
