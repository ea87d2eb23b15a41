//! The host: its name, kernel, processors and memory.

use super::cgroup;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The machine's name.
pub fn name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The release of the operating system's kernel, as `uname -r` has it.
pub fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// The processor's name, as /proc/cpuinfo spells it.
pub fn cpu_name() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find(|l| l.starts_with("model name")).and_then(|l| l.split_once(':'));
    name.map_or_else(|| "CPU".to_owned(), |(_, name)| name.trim().to_owned())
}

/// Memory that could be had without swapping, in bytes; `None` where /proc does not say.
pub fn available_memory_bytes() -> Option<u64> {
    meminfo("MemAvailable:")
}

/// Memory of the machine, in bytes.
pub fn total_memory_bytes() -> Option<u64> {
    meminfo("MemTotal:")
}

fn meminfo(field: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|l| l.starts_with(field))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// The logical processors this process may run on, ascending.
pub fn allowed_cpus() -> Vec<usize> {
    match rustix::thread::sched_getaffinity(None) {
        Ok(set) => (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect(),
        Err(_) => (0..std::thread::available_parallelism().map_or(1, |n| n.get())).collect(),
    }
}

/// Keeps the calling thread, and those that it starts, on these logical processors; nothing changes if
/// there are none.
///
/// # Errors
/// None of them may be used.
pub fn stay_on(cpus: &[usize]) -> std::io::Result<()> {
    if cpus.is_empty() {
        return Ok(());
    }
    let mut set = rustix::thread::CpuSet::new();
    cpus.iter().filter(|&&cpu| cpu < rustix::thread::CpuSet::MAX_CPU).for_each(|&cpu| set.set(cpu));
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

/// Ascending numbers as `0-3,8`.
pub fn ranges(numbers: &[usize]) -> String {
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for &number in numbers {
        match parts.last_mut() {
            Some(last) if last.1 + 1 == number => last.1 = number,
            _ => parts.push((number, number)),
        }
    }
    let text = |&(a, b): &(usize, usize)| if a == b { a.to_string() } else { format!("{a}-{b}") };
    parts.iter().map(text).collect::<Vec<_>>().join(",")
}

/// Physical cores that this process may use: distinct cores among the allowed processors, at most
/// the whole processors of the cgroup's quota, at least 1.
pub fn usable_cores() -> usize {
    let cores: BTreeSet<(String, String)> = allowed_cpus().into_iter().map(core_of).collect();
    let quota = cgroup_cpus().map_or(usize::MAX, |cpus| cpus.floor() as usize);
    cores.len().min(quota).max(1)
}

/// (package, core) of a logical processor; the processor itself where sysfs is silent.
fn core_of(cpu: usize) -> (String, String) {
    let read = |file: &str| fs::read_to_string(format!("/sys/devices/system/cpu/cpu{cpu}/topology/{file}"));
    match (read("physical_package_id"), read("core_id")) {
        (Ok(package), Ok(core)) => (package, core),
        _ => (String::new(), cpu.to_string()),
    }
}

/// The CPU quota of this process's control groups in processors, if any.
pub fn cgroup_cpus() -> Option<f64> {
    cgroup::quota(Path::new("/"))
}

/// Time for which this process's control groups were kept off the processors, in microseconds; `None` where
/// that is unknown.
pub fn cgroup_throttled_us() -> Option<u64> {
    cgroup::throttled_us(Path::new("/"))
}

/// The inverse of [`ranges`]; none if it is no such text.
pub fn parse_ranges(text: &str) -> Option<Vec<usize>> {
    let mut numbers = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        // No machine has more processors; a slip of the finger must not fill the memory.
        if last < first || last > 1 << 16 {
            return None;
        }
        numbers.extend(first..=last);
    }
    numbers.sort_unstable();
    numbers.dedup();
    Some(numbers)
}

/// The kernel's folder of a PCI device, NVML's spelling of whose address (`00000000:07:00.0`) has a
/// wider domain than the kernel's.
fn pci_folder(root: &Path, bus_id: &str) -> Option<PathBuf> {
    let (domain, rest) = bus_id.split_once(':')?;
    let domain = u32::from_str_radix(domain, 16).ok()?;
    let device = format!("{domain:04x}:{}", rest.to_ascii_lowercase());
    Some(root.join(format!("sys/bus/pci/devices/{device}")))
}

/// The logical processors near a PCI device; none where the kernel does not say.
pub fn cpus_near(root: &Path, bus_id: &str) -> Option<Vec<usize>> {
    parse_ranges(&fs::read_to_string(pci_folder(root, bus_id)?.join("local_cpulist")).ok()?)
}

/// The NUMA node of a PCI device; none where the machine has no such nodes.
pub fn numa_node(root: &Path, bus_id: &str) -> Option<u32> {
    let text = fs::read_to_string(pci_folder(root, bus_id)?.join("numa_node")).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_ranges() {
        assert_eq!(ranges(&[0, 1, 2, 3, 8, 10, 11]), "0-3,8,10-11");
        assert_eq!(ranges(&[]), "");
        assert_eq!(parse_ranges(" 0-3,8,10-11\n"), Some(vec![0, 1, 2, 3, 8, 10, 11]));
        for wrong in ["", "a", "3-1", "-1", "0-99999999"] {
            assert_eq!(parse_ranges(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn this_machine_has_a_core() {
        assert!((1..=allowed_cpus().len()).contains(&usable_cores()));
        assert!(available_memory_bytes() <= total_memory_bytes());
    }
}
