//! Who may use which instance: /proc/driver/nvidia/capabilities and the device nodes it points at.
//!
//! A file there names the minor number of a node below /dev/nvidia-caps; since 450.80.02 reading the
//! *node* is the right to use the instance. Gathers, and judges nothing. Every path is below `root`,
//! so that a test can have a tree of its own.

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What came of opening a file for reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// It can be read.
    Open,
    /// EACCES: its mode or owner forbids it.
    Denied,
    /// EPERM: the cgroup's device list (a container) forbids it.
    Blocked,
    /// ENOENT: it is not there; a node may merely not have been made yet.
    Missing,
    /// Something else, by number.
    Error(i32),
}

/// A device node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Where, as the user would write it.
    pub path: PathBuf,
    /// May this process read it?
    pub access: Access,
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
}

/// A capability file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capability {
    /// Below /proc/driver/nvidia/capabilities.
    pub path: PathBuf,
    /// Minor number of its node.
    pub minor: Option<u32>,
    /// Permission bits that nvidia-modprobe gives the node.
    pub mode: Option<u32>,
    /// May nvidia-modprobe make the node?
    pub modify: Option<bool>,
    /// The node, where the minor is known.
    pub node: Option<Node>,
}

/// One GPU instance's capability files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// To the GPU instance.
    pub access: Option<Capability>,
    /// To each compute instance, by its id.
    pub compute: BTreeMap<u32, Capability>,
}

/// All capability files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Does the folder exist at all? Without it the driver knows no MIG, or hides it.
    pub present: bool,
    /// To create and destroy instances.
    pub config: Option<Capability>,
    /// To see all of a GPU with MIG on.
    pub monitor: Option<Capability>,
    /// By the GPU's minor number, then by GPU instance id.
    pub gpus: BTreeMap<u32, BTreeMap<u32, Instance>>,
}

/// Reads the whole tree below `root`.
pub fn read(root: &Path) -> Capabilities {
    let tree = root.join("proc/driver/nvidia/capabilities");
    let mut found = Capabilities {
        present: tree.is_dir(),
        config: capability(root, &tree.join("mig/config")),
        monitor: capability(root, &tree.join("mig/monitor")),
        gpus: BTreeMap::new(),
    };
    for (minor, gpu) in numbered(&tree, "gpu") {
        let instances = numbered(&gpu.join("mig"), "gi").into_iter().map(|(gi, folder)| {
            let compute = numbered(&folder, "ci").into_iter();
            let compute = compute.filter_map(|(ci, f)| Some((ci, capability(root, &f.join("access"))?)));
            let access = capability(root, &folder.join("access"));
            (gi, Instance { access, compute: compute.collect() })
        });
        found.gpus.insert(minor, instances.collect());
    }
    found
}

/// Subfolders called `<prefix><number>`, by number.
fn numbered(folder: &Path, prefix: &str) -> Vec<(u32, PathBuf)> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let number = |entry: fs::DirEntry| {
        let name = entry.file_name();
        Some((name.to_str()?.strip_prefix(prefix)?.parse().ok()?, entry.path()))
    };
    let mut found: Vec<_> = entries.filter_map(Result::ok).filter_map(number).collect();
    found.sort_unstable();
    found
}

fn capability(root: &Path, path: &Path) -> Option<Capability> {
    let exists = fs::symlink_metadata(path).is_ok();
    let text = fs::read_to_string(path).unwrap_or_default();
    let (minor, mode, modify) = parse(&text);
    exists.then(|| Capability {
        path: shown(root, path),
        minor,
        mode,
        modify,
        node: minor.map(|minor| node(root, &format!("dev/nvidia-caps/nvidia-cap{minor}"))),
    })
}

/// `DeviceFileMinor: 1`, `DeviceFileMode: 256` (decimal), `DeviceFileModify: 1`.
fn parse(text: &str) -> (Option<u32>, Option<u32>, Option<bool>) {
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line?.trim().parse::<u32>().ok()
    };
    (value("DeviceFileMinor"), value("DeviceFileMode"), value("DeviceFileModify").map(|v| v != 0))
}

/// Looks at a node and tries to open it.
pub fn node(root: &Path, relative: &str) -> Node {
    let path = root.join(relative);
    let meta = fs::metadata(&path).ok();
    // Opening a character device of a driver may have effects; a FIFO without O_NONBLOCK would wait.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    Node {
        access: match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(_) => Access::Open,
            Err(error) => Access::from_errno(error),
        },
        mode: meta.as_ref().map(|m| m.mode() & 0o7777),
        uid: meta.as_ref().map(MetadataExt::uid),
        gid: meta.as_ref().map(MetadataExt::gid),
        path: shown(root, &path),
    }
}

/// The path without the test's root.
fn shown(root: &Path, path: &Path) -> PathBuf {
    path.strip_prefix(root).map_or_else(|_| path.to_owned(), |rest| Path::new("/").join(rest))
}

impl Access {
    fn from_errno(error: Errno) -> Access {
        match error {
            Errno::ACCESS => Access::Denied,
            Errno::PERM => Access::Blocked,
            Errno::NOENT | Errno::NXIO => Access::Missing,
            other => Access::Error(other.raw_os_error()),
        }
    }
}

impl Node {
    /// Would `uid` with these groups be allowed to read it, going by owner and mode alone?
    pub fn readable_by(&self, uid: u32, groups: &[u32]) -> Option<bool> {
        let (mode, owner, group) = (self.mode?, self.uid?, self.gid?);
        let bit = match () {
            _ if uid == 0 => return Some(true),
            _ if uid == owner => 0o400,
            _ if groups.contains(&group) => 0o040,
            _ => 0o004,
        };
        Some(mode & bit != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree;
    use super::*;

    #[test]
    fn the_tree_is_read_with_its_nodes() {
        let text =
            |minor: u32| format!("DeviceFileMinor: {minor}\nDeviceFileMode: 292\nDeviceFileModify: 1\n");
        let caps = "proc/driver/nvidia/capabilities";
        let root = tree(&[
            (&format!("{caps}/mig/monitor"), &text(2)),
            (&format!("{caps}/gpu0/mig/gi1/access"), &text(12)),
            (&format!("{caps}/gpu0/mig/gi1/ci0/access"), &text(13)),
            (&format!("{caps}/gpu0/mig/gi2/access"), &text(21)),
            (&format!("{caps}/gpu0/mig/gix/access"), &text(99)),
            ("dev/nvidia-caps/nvidia-cap12", ""),
        ]);
        let found = read(root.path());
        assert!(found.present && found.config.is_none());
        assert_eq!(found.gpus[&0].keys().collect::<Vec<_>>(), [&1, &2]);
        let instance = &found.gpus[&0][&1];
        let access = instance.access.as_ref().unwrap();
        assert_eq!((access.minor, access.mode, access.modify), (Some(12), Some(0o444), Some(true)));
        let node = access.node.as_ref().unwrap();
        assert_eq!(node.path, Path::new("/dev/nvidia-caps/nvidia-cap12"));
        assert_eq!(node.access, Access::Open);
        assert_eq!(instance.compute[&0].node.as_ref().unwrap().access, Access::Missing);
        assert!(found.gpus[&0][&2].compute.is_empty());
    }

    #[test]
    fn without_a_driver_nothing_is_there() {
        assert_eq!(read(Path::new("/nonexistent")), Capabilities::default());
    }

    #[test]
    fn errors_are_told_apart() {
        for (errno, access) in [
            (Errno::ACCESS, Access::Denied),
            (Errno::PERM, Access::Blocked),
            (Errno::NOENT, Access::Missing),
            (Errno::NXIO, Access::Missing),
            (Errno::IO, Access::Error(5)),
        ] {
            assert_eq!(Access::from_errno(errno), access);
        }
    }

    #[test]
    fn owner_group_and_others_have_their_bits() {
        let node = |mode| Node {
            path: PathBuf::new(),
            access: Access::Open,
            mode: Some(mode),
            uid: Some(10),
            gid: Some(20),
        };
        for (mode, uid, groups, expected) in [
            (0o400, 10, vec![], true),
            (0o400, 11, vec![20], false),
            (0o040, 11, vec![20], true),
            (0o044, 10, vec![20], false),
            (0o004, 11, vec![], true),
            (0o000, 0, vec![], true),
        ] {
            assert_eq!(node(mode).readable_by(uid, &groups), Some(expected), "{mode:o} {uid}");
        }
        assert_eq!(Node { mode: None, ..node(0) }.readable_by(1, &[]), None);
    }

    #[test]
    fn odd_files_are_half_read() {
        assert_eq!(parse(""), (None, None, None));
        assert_eq!(parse("DeviceFileMinor: x\nDeviceFileMode:256"), (None, Some(0o400), None));
    }
}
