//! What the kernel's control groups allow this process of the processors: the quota, and the time for
//! which it was kept off them.
//!
//! Both versions are read, and the mixed form in which version 1 has the processors and version 2 is
//! mounted beside it. Where the groups are mounted stands in /proc/self/mountinfo, and which ones are this
//! process's in /proc/self/cgroup. A quota of any group up to the top holds back this process, too.

use std::fs;
use std::path::{Path, PathBuf};

/// The groups of this process that can limit its processors, its own first.
#[derive(Debug, PartialEq)]
enum Groups {
    /// Version 1: folders of the controller `cpu`.
    V1(Vec<PathBuf>),
    /// Version 2.
    V2(Vec<PathBuf>),
}

/// The tightest quota, in processors; none where there is no limit, or where none can be seen.
/// `root` is what /proc and /sys are below.
pub fn quota(root: &Path) -> Option<f64> {
    let quotas: Vec<Option<f64>> = match groups(root)? {
        Groups::V1(folders) => folders.iter().map(|folder| quota_v1(folder)).collect(),
        Groups::V2(folders) => {
            folders.iter().map(|folder| parse_cpu_max(&read(&folder.join("cpu.max"))?)).collect()
        }
    };
    quotas.into_iter().flatten().reduce(f64::min)
}

/// Whether the kernel says what the quota is, be there one or not.
pub fn is_known(root: &Path) -> bool {
    groups(root).is_some()
}

/// Time for which the groups of this process were kept off the processors, in microseconds, summed over
/// processors as the kernel counts it; none where it does not say. Only differences mean something.
pub fn throttled_us(root: &Path) -> Option<u64> {
    let counted: Vec<Option<u64>> = match groups(root)? {
        Groups::V1(folders) => {
            let ns = |folder: &PathBuf| number(&read(&folder.join("cpu.stat"))?, "throttled_time");
            folders.iter().map(|folder| ns(folder).map(|ns| ns / 1000)).collect()
        }
        Groups::V2(folders) => {
            let us = |folder: &PathBuf| number(&read(&folder.join("cpu.stat"))?, "throttled_usec");
            folders.iter().map(us).collect()
        }
    };
    // The top group has no quota, and in version 2 no count.
    counted.into_iter().flatten().reduce(u64::saturating_add)
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

fn groups(root: &Path) -> Option<Groups> {
    let mounts = read(&root.join("proc/self/mountinfo"))?;
    let memberships = read(&root.join("proc/self/cgroup"))?;
    let mounts: Vec<Mount> = mounts.lines().filter_map(Mount::parse).collect();
    // `2:cpu,cpuacct:/docker/8f1a`; of version 2 `0::/user.slice`.
    let member = |wanted: fn(&str) -> bool| {
        let mut lines = memberships.lines().map(|line| line.splitn(3, ':'));
        lines.find_map(|mut parts| (wanted(parts.nth(1)?)).then(|| parts.next())?)
    };
    let v1 = member(|controllers| controllers.split(',').any(|controller| controller == "cpu"));
    if let Some(path) = v1 {
        // Not mounted: nobody can read it here.
        let mount = mounts.iter().find(|mount| mount.has_cpu)?;
        return Some(Groups::V1(mount.folders(root, path)));
    }
    let path = member(str::is_empty)?;
    let mount = mounts.iter().find(|mount| mount.is_v2)?;
    Some(Groups::V2(mount.folders(root, path)))
}

/// A line of mountinfo about control groups.
struct Mount {
    /// Which group is the mount's top: another than `/` in a container without a namespace for groups.
    top: PathBuf,
    point: PathBuf,
    is_v2: bool,
    /// Version 1 with the controller for processors.
    has_cpu: bool,
}

impl Mount {
    /// `33 31 0:30 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu` (proc(5)).
    fn parse(line: &str) -> Option<Mount> {
        let (place, what) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3).map(unescaped);
        let (top, point) = (place.next()?.into(), place.next()?.into());
        let mut what = what.split(' ');
        let kind = what.next()?;
        let has_cpu = kind == "cgroup" && what.nth(1)?.split(',').any(|option| option == "cpu");
        let is_v2 = kind == "cgroup2";
        (is_v2 || has_cpu).then_some(Mount { top, point, is_v2, has_cpu })
    }

    /// The folder of a group and those above it, up to the mount's top.
    fn folders(&self, root: &Path, group: &str) -> Vec<PathBuf> {
        let point = root.join(self.point.strip_prefix("/").unwrap_or(&self.point));
        let group = Path::new(group);
        // Outside what is mounted (`/../x`), only its top can be seen, and holds for this process.
        let below = group.strip_prefix(&self.top).unwrap_or(Path::new(""));
        let up = below.components().any(|part| part == std::path::Component::ParentDir);
        let below = if up { Path::new("") } else { below };
        below.ancestors().map(|part| point.join(part)).collect()
    }
}

/// Blanks stand as `\040` there, three octal digits.
fn unescaped(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut unescaped = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                unescaped.push(code.into());
                unescaped.push_str(&part[3..]);
            }
            None => {
                unescaped.push('\\');
                unescaped.push_str(part);
            }
        }
    }
    unescaped
}

/// `cpu.cfs_quota_us`, -1 without a limit, and `cpu.cfs_period_us`.
fn quota_v1(folder: &Path) -> Option<f64> {
    let value = |file| read(&folder.join(file))?.trim().parse::<f64>().ok();
    let (quota, period) = (value("cpu.cfs_quota_us")?, value("cpu.cfs_period_us")?);
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

/// `cpu.max`: "quota period" in microseconds, or "max period".
fn parse_cpu_max(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period) = (quota.parse::<f64>().ok()?, period.parse::<f64>().ok()?);
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

/// The value of a key in cpu.stat.
fn number(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::super::tree;
    use super::*;

    const V1: &str = "\
        31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
        33 31 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n\
        34 31 0:31 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

    #[test]
    fn version_1_has_a_quota_and_its_throttling() {
        let stat = "nr_periods 45\nnr_throttled 43\nthrottled_time 3000123456\n";
        let folder = "sys/fs/cgroup/cpu,cpuacct/job";
        let file = |name: &str| format!("{folder}/{name}");
        let (quota_us, period_us, cpu_stat) =
            (file("cpu.cfs_quota_us"), file("cpu.cfs_period_us"), file("cpu.stat"));
        let root = tree(&[
            ("proc/self/mountinfo", V1),
            ("proc/self/cgroup", "3:cpuset:/x\n2:cpu,cpuacct:/job\n0::/\n"),
            (&quota_us, "30000\n"),
            (&period_us, "100000\n"),
            (&cpu_stat, stat),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.stat", "nr_periods 0\nnr_throttled 0\nthrottled_time 0\n"),
            // Version 2 is mounted, and has no processors.
            ("sys/fs/cgroup/unified/cpu.stat", "usage_usec 1\n"),
        ]);
        assert_eq!(quota(root.path()), Some(0.3));
        assert_eq!(throttled_us(root.path()), Some(3_000_123));
        assert!(is_known(root.path()));
    }

    #[test]
    fn version_2_takes_the_tightest_and_counts_all() {
        let root = tree(&[
            ("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n"),
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/b/cpu.max", "max 100000\n"),
            ("sys/fs/cgroup/a/b/cpu.stat", "usage_usec 5\nnr_throttled 0\nthrottled_usec 0\n"),
            ("sys/fs/cgroup/a/cpu.max", "150000 100000\n"),
            ("sys/fs/cgroup/a/cpu.stat", "usage_usec 5\nnr_throttled 2\nthrottled_usec 70\n"),
            ("sys/fs/cgroup/cpu.stat", "usage_usec 9\n"),
        ]);
        assert_eq!((quota(root.path()), throttled_us(root.path())), (Some(1.5), Some(70)));
    }

    /// Without a namespace for groups a container sees the host's path, and mounts its own group only.
    #[test]
    fn the_top_of_a_mount_is_the_containers_own_group() {
        for group in ["/docker/8f1a", "/../other", "/"] {
            let memberships = format!("4:cpu:{group}\n");
            let root = tree(&[
                ("proc/self/mountinfo", "1 2 0:3 /docker/8f1a /cg\\040v1 ro - cgroup cgroup rw,cpu\n"),
                ("proc/self/cgroup", &memberships),
                ("cg v1/cpu.cfs_quota_us", "200000\n"),
                ("cg v1/cpu.cfs_period_us", "50000\n"),
                ("cg v1/cpu.stat", "nr_periods 1\nnr_throttled 1\nthrottled_time 5000\n"),
            ]);
            assert_eq!((quota(root.path()), throttled_us(root.path())), (Some(4.0), Some(5)), "{group}");
        }
    }

    #[test]
    fn what_is_not_said_is_unknown_and_not_nothing() {
        for files in [
            &[][..],
            &[("proc/self/cgroup", "2:cpu:/\n")],
            // The controller is there and not mounted.
            &[("proc/self/cgroup", "2:cpu:/\n0::/\n"), ("proc/self/mountinfo", "")],
            &[("proc/self/cgroup", "junk"), ("proc/self/mountinfo", V1)],
        ] {
            let root = tree(files);
            assert_eq!((quota(root.path()), throttled_us(root.path())), (None, None));
            assert!(!is_known(root.path()));
        }
        let root = tree(&[("proc/self/cgroup", "2:cpu:/\n"), ("proc/self/mountinfo", V1)]);
        assert_eq!(throttled_us(root.path()), None, "cpu.stat can't be read");
    }

    #[test]
    fn a_quota_is_in_processors() {
        assert_eq!(parse_cpu_max("150000 100000\n"), Some(1.5));
        for none in ["max 100000\n", "", "0 0\n", "1 0\n"] {
            assert_eq!(parse_cpu_max(none), None);
        }
    }
}
