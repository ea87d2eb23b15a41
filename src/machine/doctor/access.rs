//! Permission: device nodes and capability nodes, for this user and for another.

use super::evidence::{Evidence, User};
use super::{Check, Need, Verdict, and};
use crate::machine::capabilities::{Access, Capability, Node};
use crate::machine::topology::Topology;
use crate::machine::{Gpu, Instance, InstanceKind};

/// The nodes that a process needs to use an instance, and the capability files that name them.
struct Needs<'a> {
    nodes: Vec<&'a Node>,
    capabilities: Vec<&'a Capability>,
    /// What should be there by the driver's rules and is not.
    absent: Vec<String>,
}

fn needs<'a>(instance: &Instance, gpu: &Gpu, evidence: &'a Evidence) -> Needs<'a> {
    let mut needs = Needs { nodes: Vec::new(), capabilities: Vec::new(), absent: Vec::new() };
    let mut paths = vec!["/dev/nvidiactl".to_owned(), "/dev/nvidia-uvm".to_owned()];
    paths.extend(gpu.minor.map(|minor| format!("/dev/nvidia{minor}")));
    needs.nodes.extend(paths.iter().filter_map(|path| evidence.node(path)));
    let (Some(minor), Some(gi), Some(ci), InstanceKind::Mig) =
        (gpu.minor, instance.gi_id, instance.ci_id, instance.kind)
    else {
        return needs;
    };
    // No tree: a driver that keeps capabilities elsewhere, or a sandbox without /proc/driver.
    if !evidence.capabilities.present {
        return needs;
    }
    let found = evidence.capabilities.gpus.get(&minor).and_then(|gpu| gpu.get(&gi));
    let both = [
        (format!("gpu{minor}/mig/gi{gi}/access"), found.and_then(|f| f.access.as_ref())),
        (format!("gpu{minor}/mig/gi{gi}/ci{ci}/access"), found.and_then(|f| f.compute.get(&ci))),
    ];
    for (path, capability) in both {
        match capability {
            Some(capability) => {
                needs.nodes.extend(&capability.node);
                needs.capabilities.push(capability);
            }
            None => needs.absent.push(format!("/proc/driver/nvidia/capabilities/{path}")),
        }
    }
    needs
}

/// Why this process can't use an instance, going by the nodes.
pub(super) fn obstacle(instance: &Instance, gpu: &Gpu, evidence: &Evidence) -> Option<String> {
    let needs = needs(instance, gpu, evidence);
    let node = needs.nodes.iter().find(|node| is_refused(node))?;
    Some(refusal(node))
}

fn is_refused(node: &Node) -> bool {
    // A missing node may only not have been made: CUDA makes it through nvidia-modprobe.
    !matches!(node.access, Access::Open | Access::Missing)
}

fn refusal(node: &Node) -> String {
    let path = node.path.display();
    let mode = node.mode.map_or(String::new(), |mode| format!(" (mode {mode:04o})"));
    match node.access {
        Access::Denied => format!("{path}{mode}: permission denied (EACCES)"),
        Access::Blocked => format!("{path}: not permitted (EPERM): the container's device list lacks it"),
        Access::Missing => format!("{path} does not exist (ENOENT)"),
        Access::Error(number) => format!("{path}: error {number}"),
        Access::Open => format!("{path}{mode}: readable"),
    }
}

/// Can this user use each instance?
pub(super) fn permission(topology: &Topology, evidence: &Evidence) -> Check {
    let mut check = Check::new("permission", Need::Needed);
    let mut free = 0;
    for gpu in &topology.gpus {
        for instance in gpu.instances() {
            let needs = needs(&instance, gpu, evidence);
            let refused: Vec<&&Node> = needs.nodes.iter().filter(|node| is_refused(node)).collect();
            for node in &refused {
                check.add(Verdict::Problem, format!("{}: {}", title(&instance), refusal(node)));
                mend(&mut check, node);
            }
            for node in needs.nodes.iter().filter(|node| node.access == Access::Missing) {
                check.add(Verdict::Warning, format!("{}: {}", title(&instance), refusal(node)));
                uncreated(&mut check, node, &needs);
            }
            for path in &needs.absent {
                check.add(Verdict::Warning, format!("{}: {path} is not there", title(&instance)));
                check.advise("in a container only the granted instances have their capability files; on a host, compare nvidia-smi mig -lgi");
            }
            free += usize::from(refused.is_empty());
        }
    }
    if check.evidence.is_empty() && free > 0 {
        let plural = if free == 1 { "the instance" } else { "every instance" };
        check.add(Verdict::Ok, format!("this user may use {plural}"));
    }
    monitor(&mut check, topology, evidence);
    check
}

/// Without `mig/monitor` a MIG GPU's totals are hidden: the usual case in a container.
fn monitor(check: &mut Check, topology: &Topology, evidence: &Evidence) {
    let hidden: Vec<String> = topology
        .gpus
        .iter()
        .filter(|gpu| {
            gpu.mig_enabled() == Some(true)
                && gpu.unread.get("memory_mib").is_some_and(|why| why.starts_with("NVML 4:"))
        })
        .map(|gpu| gpu.index.to_string())
        .collect();
    if !hidden.is_empty() {
        check.add(
            Verdict::Ok,
            format!(
                "GPU {}: memory of the whole GPU is hidden (no mig/monitor): harmless here",
                and(&hidden)
            ),
        );
    }
    for (name, capability) in
        [("mig/config", &evidence.capabilities.config), ("mig/monitor", &evidence.capabilities.monitor)]
    {
        if let Some(node) = capability.as_ref().and_then(|c| c.node.as_ref()) {
            let can = if node.access == Access::Open { "yes" } else { "no" };
            check.add(Verdict::Ok, format!("{name} (admin-only): {can}, {}", refusal(node)));
        }
    }
}

fn mend(check: &mut Check, node: &Node) {
    let path = node.path.display();
    match node.access {
        Access::Denied => check.remedy(
            "let users read it, as root; nvidia-modprobe sets it back while DeviceFileModify is 1",
            Some(format!("chmod a+r {path}")),
            Some("nobody; it opens the instance to every user"),
        ),
        Access::Blocked => check.advise(
            "grant it to the container: NVIDIA_VISIBLE_DEVICES=<MIG UUID> with the container toolkit, \
             or --device for its nodes",
        ),
        Access::Missing | Access::Error(_) | Access::Open => {}
    }
}

fn uncreated(check: &mut Check, node: &Node, needs: &Needs) {
    let path = node.path.to_string_lossy();
    let capability = needs.capabilities.iter().find(|c| c.node.as_ref() == Some(node));
    if capability.is_some_and(|c| c.modify == Some(false)) {
        check.advise(format!(
            "the driver leaves making {path} to the administrator (DeviceFileModify is 0): make it with mknod, as root"
        ));
        return;
    }
    let command = match (capability, path.strip_prefix("/dev/nvidia").and_then(|n| n.parse::<u32>().ok())) {
        (Some(capability), _) => {
            let file = capability.path.display();
            format!("nvidia-modprobe -f {file}")
        }
        (None, Some(minor)) => format!("nvidia-modprobe -c {minor}"),
        (None, None) if path.ends_with("uvm") => "nvidia-modprobe -u -c 0".to_owned(),
        (None, None) => "nvidia-modprobe".to_owned(),
    };
    check.remedy(
        "it may only not have been made yet: the first CUDA program makes it, or root does",
        Some(command),
        None::<&str>,
    );
}

/// `MIG-… (1g.10gb)`.
fn title(instance: &Instance) -> String {
    format!("{} ({})", instance.uuid().unwrap_or_default(), instance.label())
}

/// For `--user NAME`: what they may use, and how to confine them to one.
pub(super) fn user(topology: &Topology, evidence: &Evidence) -> Option<Check> {
    let mut check = Check::new("user", Need::AdminOnly);
    if let Some(name) = &evidence.unknown_user {
        check.add(Verdict::Unknown, format!("no user '{name}' in /etc/passwd"));
        check.advise("for users of a directory service, run this as that user");
        return Some(check);
    }
    let user = evidence.other_user.as_ref()?;
    let mut allowed = Vec::new();
    for gpu in &topology.gpus {
        for instance in gpu.instances() {
            let needs = needs(&instance, gpu, evidence);
            let answers: Vec<Option<bool>> =
                needs.nodes.iter().map(|node| node.readable_by(user.uid, &user.groups)).collect();
            let locked: Vec<String> = needs
                .nodes
                .iter()
                .zip(&answers)
                .filter(|(_, answer)| **answer == Some(false))
                .map(|(node, _)| refusal(&Node { access: Access::Denied, ..(*node).clone() }))
                .collect();
            if !locked.is_empty() {
                check.add(
                    Verdict::Ok,
                    format!("{} may not use {}: {}", user.name, title(&instance), and(&locked)),
                );
            } else if answers.contains(&None) || !needs.absent.is_empty() {
                check.add(Verdict::Unknown, format!("{}: not every node is there yet", title(&instance)));
                allowed.push(instance);
            } else {
                check.add(Verdict::Ok, format!("{} may use {}", user.name, title(&instance)));
                allowed.push(instance);
            }
        }
    }
    confine(&mut check, user, topology, evidence, &allowed);
    Some(check)
}

/// To confine somebody to one instance, the others' nodes are taken from them and one is given.
fn confine(check: &mut Check, user: &User, topology: &Topology, evidence: &Evidence, allowed: &[Instance]) {
    let migs: Vec<Instance> =
        topology.instances().into_iter().filter(|i| i.kind == InstanceKind::Mig).collect();
    if migs.len() < 2 || user.uid == 0 {
        if user.uid == 0 {
            check.add(Verdict::Ok, "root reads every node: only a container confines root");
        }
        return;
    }
    let files = |instance: &Instance| -> Option<(String, String)> {
        let gpu = topology.gpus.iter().find(|gpu| Some(&gpu.uuid) == instance.gpu_uuid.as_ref())?;
        let gpu_instance = evidence.capabilities.gpus.get(&gpu.minor?)?.get(&instance.gi_id?)?;
        let path = |file: &Capability| Some(file.node.as_ref()?.path.display().to_string());
        let compute = gpu_instance.compute.get(&instance.ci_id?)?;
        Some((path(gpu_instance.access.as_ref()?)?, path(compute)?))
    };
    // A process needs both nodes: giving takes both, taking away only the compute instance's.
    let node = |instance: &Instance| files(instance).map(|(_, compute)| compute);
    if let (Some(first), true) = (migs.iter().find_map(&files), allowed.is_empty()) {
        check.remedy(
            format!("to give {} one instance, as root (for another: its two nodes)", user.name),
            Some(format!("setfacl -m u:{}:r {} {}", user.name, first.0, first.1)),
            Some("nobody"),
        );
    }
    let Some((keep, rest)) = allowed.split_first() else { return };
    let others: Vec<String> = rest.iter().filter_map(&node).collect();
    if let (Some(kept), false) = (node(keep), others.is_empty()) {
        check.remedy(
            format!(
                "to confine {} to {} alone, as root (the same for another: swap the nodes)",
                user.name,
                title(keep)
            ),
            Some(format!("chmod go-r {}; setfacl -m u:{}:r {kept}", others.join(" "), user.name)),
            Some("every other user of those instances loses them; nvidia-modprobe may set modes back"),
        );
    }
}
