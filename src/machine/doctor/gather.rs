//! Collects the evidence off this machine. Judges nothing, changes nothing, and always ends: what
//! asks the driver is a child process that is given up after five seconds.

use super::child::Question;
use super::evidence::{Case, Cpus, Cuda, Evidence, Program, Silent, User};
use crate::machine::nvml::Helper;
use crate::machine::topology::Topology;
use crate::machine::{capabilities, cgroup, host, text};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long the driver may take to answer all questions of one child. Less than `list` and `run` allow:
/// a diagnosis that takes half a minute looks like another hang.
const PATIENCE: Duration = Duration::from_secs(5);

/// The variables that CUDA, NVML, container runtimes and MPS go by.
const VARIABLES: [&str; 13] = [
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "CUDA_MPS_PIPE_DIRECTORY",
    "CUDA_MPS_LOG_DIRECTORY",
    "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE",
    "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT",
    "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_DRIVER_CAPABILITIES",
    "NVIDIA_MIG_CONFIG_DEVICES",
    "NVIDIA_MIG_MONITOR_DEVICES",
    "SLURM_JOB_ID",
    "SLURM_STEP_GPUS",
    "SLURM_JOB_GPUS",
];

/// Daemons that matter, by the beginning of their program's name.
const SERVICES: [&str; 7] = [
    "nv-hostengine",
    "dcgm-exporter",
    "nvidia-cuda-mps-control",
    "nvidia-cuda-mps-server",
    "nvidia-persistenced",
    "nv-fabricmanager",
    "nvidia-fabricmanager",
];

/// Where to look.
#[derive(Clone, Debug)]
pub struct Place {
    /// What /proc, /dev, /etc and /sys are below: `/`, or a test's tree.
    pub root: PathBuf,
    /// Another NVML library.
    pub nvml: Option<PathBuf>,
    /// Somebody else to judge the permissions for.
    pub user: Option<String>,
}

/// Asks everything.
pub fn gather(place: &Place) -> Case {
    // Both at once: on a machine without persistence each takes seconds.
    let mut nvml = Helper::start(place.nvml.as_deref());
    nvml.iter_mut().for_each(Helper::ask_topology);
    let cuda = ask_cuda();
    let mut evidence = surroundings(place);
    evidence.services = programs(&place.root).filter(is_service).collect();
    evidence.holders = programs(&place.root).filter(|program| !program.gpus.is_empty()).collect();
    let mut topology = nvml.and_then(|mut helper| helper.topology(PATIENCE));
    if let Ok(topology) = &mut topology {
        attach(topology, &place.root);
    }
    evidence.nodes = nodes(place, topology.as_ref().ok(), &evidence);
    let topology = topology.map_err(|silent| text::names(&silent).unwrap_or(silent));
    evidence.silent = topology.as_ref().err().cloned();
    evidence.cuda = Some(cuda.and_then(answer));
    Case { topology, evidence: Some(evidence.cleaned()) }
}

/// What decides whether this process may use an instance, without a question to the driver.
pub fn permissions(place: &Place, topology: &Topology) -> Evidence {
    let mut evidence = surroundings(place);
    evidence.nodes = nodes(place, Some(topology), &evidence);
    evidence.cleaned()
}

/// What the kernel knows of the cards: their NUMA nodes.
pub fn attach(topology: &mut Topology, root: &Path) {
    for gpu in &mut topology.gpus {
        gpu.numa_node = gpu.pci_bus_id.as_ref().and_then(|bus_id| host::numa_node(root, bus_id));
    }
}

fn nodes(place: &Place, topology: Option<&Topology>, evidence: &Evidence) -> Vec<capabilities::Node> {
    let paths = ["dev/nvidiactl".to_owned(), "dev/nvidia-uvm".to_owned()].into_iter();
    let paths = paths.chain(minors(topology, evidence).into_iter().map(|minor| format!("dev/nvidia{minor}")));
    paths.map(|path| capabilities::node(&place.root, &path)).collect()
}

fn ask_cuda() -> Result<Question, Silent> {
    let mut command = Command::new(crate::machine::child::THIS_PROGRAM);
    command.args(["probe", "cuda"]);
    Question::ask(command, PATIENCE)
}

fn answer(question: Question) -> Result<Cuda, Silent> {
    let bytes = question.wait()?;
    serde_json::from_slice(&bytes).map_err(|error| Silent::Died(format!("said something else: {error}")))
}

/// Minors of the GPUs: NVML's, or those that the capability tree knows.
fn minors(topology: Option<&Topology>, evidence: &Evidence) -> Vec<u32> {
    let known = topology.iter().flat_map(|t| t.gpus.iter().filter_map(|gpu| gpu.minor));
    let mut minors: Vec<u32> = known.chain(evidence.capabilities.gpus.keys().copied()).collect();
    minors.sort_unstable();
    minors.dedup();
    minors
}

fn surroundings(place: &Place) -> Evidence {
    let root = &place.root;
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    let users = Users { passwd: read("etc/passwd"), group: read("etc/group") };
    let other_user = place.user.as_deref().map(|name| users.named(name));
    let status = read("proc/self/status");
    Evidence {
        kernel_module: kernel_module(&read("proc/driver/nvidia/version")),
        capabilities: capabilities::read(root),
        user: users.this(),
        unknown_user: place.user.clone().filter(|_| other_user == Some(None)),
        other_user: other_user.flatten(),
        // What is not UTF-8 is set all the same.
        environment: variables(|name| Some(std::env::var_os(name)?.to_string_lossy().into_owned())),
        container: container(root, &read("proc/1/cgroup")),
        effective_capabilities: status
            .lines()
            .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok()),
        cpus: cpus(root),
        ..Evidence::default()
    }
}

fn variables(variable: impl Fn(&str) -> Option<String>) -> BTreeMap<String, String> {
    VARIABLES.iter().filter_map(|name| Some(((*name).to_owned(), variable(name)?))).collect()
}

/// `NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.163.01  …`: the first word that is a version.
fn kernel_module(text: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with("NVRM version:"))?;
    let is_version = |word: &&str| {
        word.split('.').count() >= 2 && word.split('.').all(|n| !n.is_empty() && n.parse::<u32>().is_ok())
    };
    line.split_whitespace().find(is_version).map(str::to_owned)
}

fn container(root: &Path, cgroup_of_init: &str) -> Vec<String> {
    let mut signs: Vec<String> = [".dockerenv", "run/.containerenv"]
        .iter()
        .filter(|file| root.join(file).exists())
        .map(|file| format!("/{file} exists"))
        .collect();
    let words = ["docker", "kubepods", "containerd", "libpod", "lxc"];
    // Its value is an address of the cluster, which is nobody's business.
    if root == Path::new("/") && std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        signs.push("KUBERNETES_SERVICE_HOST is set".to_owned());
    }
    if let Some(word) = words.iter().find(|word| cgroup_of_init.contains(*word)) {
        signs.push(format!("the first process's cgroup says {word}"));
    }
    signs
}

/// All processes, with the GPUs whose nodes they hold open.
fn programs(root: &Path) -> impl Iterator<Item = Program> {
    let proc = root.join("proc");
    let entries = fs::read_dir(&proc).into_iter().flatten().filter_map(Result::ok);
    entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let cmdline = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let first = cmdline.split(|&b| b == 0).next().unwrap_or_default();
        let name = String::from_utf8_lossy(first).rsplit('/').next().unwrap_or_default().to_owned();
        let links = fs::read_dir(entry.path().join("fd")).into_iter().flatten().filter_map(Result::ok);
        let mut gpus: Vec<u32> =
            links.filter_map(|link| gpu_node(&fs::read_link(link.path()).ok()?)).collect();
        gpus.sort_unstable();
        gpus.dedup();
        Some(Program { pid, name, gpus })
    })
}

/// The minor of `/dev/nvidia3`.
fn gpu_node(path: &Path) -> Option<u32> {
    path.to_str()?.strip_prefix("/dev/nvidia")?.parse().ok()
}

fn is_service(program: &Program) -> bool {
    SERVICES.iter().any(|service| program.name.starts_with(service))
}

fn cpus(root: &Path) -> Cpus {
    if root == Path::new("/") {
        return Cpus {
            allowed: host::allowed_cpus().len(),
            cores: host::usable_cores(),
            quota: host::cgroup_cpus(),
            quota_unknown: !cgroup::is_known(root),
        };
    }
    // A test's tree.
    let online = fs::read_to_string(root.join("sys/devices/system/cpu/online")).unwrap_or_default();
    let count = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(last.parse::<usize>().ok()?.checked_sub(first.parse().ok()?)? + 1)
    };
    let allowed = online.trim().split(',').filter_map(count).sum();
    Cpus { allowed, cores: allowed, ..Cpus::default() }
}

/// The files of users and groups. The machine's name service may know more; the diagnosis says whom
/// it looked for and where.
struct Users {
    passwd: String,
    group: String,
}

impl Users {
    fn this(&self) -> User {
        let uid = rustix::process::geteuid().as_raw();
        let mut groups: Vec<u32> =
            rustix::process::getgroups().unwrap_or_default().iter().map(|gid| gid.as_raw()).collect();
        groups.push(rustix::process::getegid().as_raw());
        groups.sort_unstable();
        groups.dedup();
        let known = self.passwd.lines().find(|line| field(line, 2) == Some(uid));
        let name = known.and_then(|line| line.split(':').next());
        User { name: name.map_or_else(|| format!("uid {uid}"), str::to_owned), uid, groups }
    }

    fn named(&self, name: &str) -> Option<User> {
        let line = self.passwd.lines().find(|line| line.split(':').next() == Some(name))?;
        let (uid, gid) = (field(line, 2)?, field(line, 3)?);
        let member = |line: &&str| line.rsplit(':').next().is_some_and(|m| m.split(',').any(|m| m == name));
        let mut groups: Vec<u32> =
            self.group.lines().filter(member).filter_map(|line| field(line, 2)).collect();
        groups.push(gid);
        groups.sort_unstable();
        groups.dedup();
        Some(User { name: name.to_owned(), uid, groups })
    }
}

fn field(line: &str, index: usize) -> Option<u32> {
    line.split(':').nth(index)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_their_groups_are_read() {
        let users = Users {
            passwd: "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/:/bin/sh\n".into(),
            group: "video:x:44:bob,alice\nrender:x:105:alicea\nalice:x:1000:\n".into(),
        };
        let alice = users.named("alice").unwrap();
        assert_eq!((alice.uid, alice.groups), (1000, vec![44, 1000]));
        assert_eq!(users.named("mallory"), None);
    }

    #[test]
    fn the_kernel_module_says_its_version() {
        let text = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\nGCC version: 12.2.0\n";
        assert_eq!(kernel_module(text).as_deref(), Some("580.65.06"));
        assert_eq!(kernel_module(""), None);
    }

    #[test]
    fn only_gpu_nodes_count() {
        assert_eq!(gpu_node(Path::new("/dev/nvidia12")), Some(12));
        for other in ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/null", "socket:[1]"] {
            assert_eq!(gpu_node(Path::new(other)), None);
        }
    }

    #[test]
    fn a_tree_of_its_own_is_all_that_is_looked_at() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("proc/77/cmdline", "/usr/bin/nv-hostengine\0-n\0");
        write("proc/78/cmdline", "python3\0");
        write("sys/devices/system/cpu/online", "0-3,8\n");
        write(".dockerenv", "");
        let place = Place { root: root.path().to_owned(), nvml: None, user: Some("nobody-here".into()) };
        let evidence = surroundings(&place);
        let services: Vec<Program> = programs(root.path()).filter(is_service).collect();
        assert_eq!(services, [Program { pid: 77, name: "nv-hostengine".into(), gpus: vec![] }]);
        assert_eq!(evidence.cpus.allowed, 5);
        assert_eq!(evidence.container, ["/.dockerenv exists"]);
        assert_eq!(evidence.unknown_user.as_deref(), Some("nobody-here"));
    }
}
