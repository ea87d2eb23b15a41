//! The files that one command reads and writes: no output may be an input or another output.

use anyhow::{Result, bail};
use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A chain of symlinks that is longer leads in a circle.
const MOST_SYMLINKS: usize = 40;

/// Which file it is, whatever it is called.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Identity {
    /// Device and inode of a file that exists.
    Inode(u64, u64),
    /// Where a file will be created.
    Path(PathBuf),
    Stdout,
}

/// The files named so far, each with the option that names it.
#[derive(Debug, Default)]
pub struct Claims(HashMap<Identity, String>);

impl Claims {
    /// `option` reads the file at `path`. Several may read the same file.
    pub fn input(&mut self, option: &str, path: &Path) {
        if let Some(identity) = identity(path) {
            self.0.entry(identity).or_insert_with(|| option.to_owned());
        }
    }

    /// `option` writes the file at `path`; `-` is standard output.
    ///
    /// # Errors
    /// Another option names the same file.
    pub fn output(&mut self, option: &str, path: &Path) -> Result<()> {
        let Some(identity) = identity(path) else { return Ok(()) };
        if let Some(other) = self.0.get(&identity) {
            let shown = if identity == Identity::Stdout {
                "standard output".to_owned()
            } else {
                path.display().to_string()
            };
            bail!("{option} and {other} name the same file, {shown}: give each its own")
        }
        self.0.insert(identity, option.to_owned());
        Ok(())
    }
}

/// `None` for pipes and devices, which take several outputs.
fn identity(path: &Path) -> Option<Identity> {
    if path == Path::new("-") {
        let found = io::stdout().as_fd().try_clone_to_owned().map(File::from).and_then(|out| out.metadata());
        return Some(found.ok().filter(Metadata::is_file).map_or(Identity::Stdout, |found| inode(&found)));
    }
    match path.metadata() {
        Ok(found) if found.is_file() => Some(inode(&found)),
        Ok(_) => None,
        Err(_) => {
            let target = target(path);
            let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
            let folder = folder.unwrap_or(Path::new(".")).canonicalize().ok()?;
            Some(Identity::Path(folder.join(target.file_name()?)))
        }
    }
}

fn inode(found: &Metadata) -> Identity {
    Identity::Inode(found.dev(), found.ino())
}

/// Where a symlink leads that has no file at its end.
fn target(path: &Path) -> PathBuf {
    let mut at = path.to_owned();
    for _ in 0..MOST_SYMLINKS {
        match at.read_link() {
            Ok(next) => at = at.parent().unwrap_or(Path::new("")).join(next),
            Err(_) => break,
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn the_same_file_is_found_under_any_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("there.csv"), "").unwrap();
        std::fs::create_dir(path("sub")).unwrap();
        std::fs::hard_link(path("there.csv"), path("hard.csv")).unwrap();
        symlink("there.csv", path("link.csv")).unwrap();
        symlink("sub/../new.csv", path("dangling.csv")).unwrap();
        for (first, second, same) in [
            ("there.csv", "there.csv", true),
            ("there.csv", "sub/../there.csv", true),
            ("there.csv", "hard.csv", true),
            ("there.csv", "link.csv", true),
            ("new.csv", "new.csv", true),
            ("new.csv", "dangling.csv", true),
            ("new.csv", "./sub/../new.csv", true),
            ("there.csv", "new.csv", false),
            ("new.csv", "other.csv", false),
        ] {
            let mut claims = Claims::default();
            claims.output("--output", &path(first)).unwrap();
            let refused = claims.output("--hlog", &path(second));
            assert_eq!(refused.is_err(), same, "{first} {second}");
            if let Err(error) = refused {
                let text = error.to_string();
                assert!(text.starts_with("--hlog and --output name the same file, "), "{text}");
            }
            let mut claims = Claims::default();
            claims.input("BASE", &path(first));
            claims.input("NEW", &path(first));
            assert_eq!(claims.output("--output", &path(second)).is_err(), same, "{first} {second}");
        }
    }

    #[test]
    fn standard_output_takes_one_output_and_a_device_several() {
        let mut claims = Claims::default();
        claims.output("--output json", Path::new("-")).unwrap();
        assert!(claims.output("--output csv", Path::new("-")).is_err());
        for _ in 0..2 {
            claims.output("--output", Path::new("/dev/null")).unwrap();
        }
    }
}
