//! What a diagnosis goes by: plain data, gathered once, saved in a capture, judged elsewhere.

use crate::machine::capabilities::{Capabilities, Node};
pub use crate::machine::nvml::Silent;
use crate::machine::text;
use crate::machine::topology::Topology;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A machine as it was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// What NVML said, or why it said nothing.
    pub topology: Result<Topology, Silent>,
    /// Everything else; none for a topology from a file.
    pub evidence: Option<Evidence>,
}

/// What CUDA says to a process with the inherited environment. No context is made for it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cuda {
    /// Of the driver, as `13.0`.
    pub version: Option<String>,
    /// The first call that failed, as the driver names it.
    pub error: Option<String>,
    /// Its code.
    pub code: Option<u32>,
    /// Visible devices.
    pub devices: Vec<CudaDevice>,
}

/// One visible device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CudaDevice {
    /// Name.
    pub name: String,
    /// `GPU-…` or `MIG-…`.
    pub uuid: Option<String>,
    /// Multiprocessors.
    pub sm_count: Option<u32>,
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Compute capability.
    pub capability: Option<(i32, i32)>,
    /// Attributes by the driver's number.
    pub attributes: BTreeMap<u32, i32>,
}

/// A user of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct User {
    /// Login name, or `uid 1000` where nobody has that number.
    pub name: String,
    /// Number.
    pub uid: u32,
    /// Groups.
    pub groups: Vec<u32>,
}

/// A process that matters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Program {
    /// Process id.
    pub pid: u32,
    /// The program's name.
    pub name: String,
    /// Minors of the GPUs whose device nodes it holds open.
    pub gpus: Vec<u32>,
}

/// Processors for the workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cpus {
    /// Logical processors that this process may use.
    pub allowed: usize,
    /// Physical cores among them.
    pub cores: usize,
    /// The cgroup's limit, in processors.
    pub quota: Option<f64>,
    /// The kernel does not say whether there is such a limit.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub quota_unknown: bool,
}

/// Everything but NVML's answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Evidence {
    /// Set where NVML gave no topology.
    pub silent: Option<Silent>,
    /// CUDA's answers.
    pub cuda: Option<Result<Cuda, Silent>>,
    /// The version of the kernel module, from /proc/driver/nvidia/version.
    pub kernel_module: Option<String>,
    /// /proc/driver/nvidia/capabilities.
    pub capabilities: Capabilities,
    /// /dev/nvidiactl, /dev/nvidia-uvm, /dev/nvidia0 and so on.
    pub nodes: Vec<Node>,
    /// Who runs this.
    pub user: User,
    /// Who was asked about.
    pub other_user: Option<User>,
    /// A user that was asked about and does not exist.
    pub unknown_user: Option<String>,
    /// Inherited variables that matter.
    pub environment: BTreeMap<String, String>,
    /// Signs of a container.
    pub container: Vec<String>,
    /// Effective capabilities of this process, as in /proc/self/status.
    pub effective_capabilities: Option<u64>,
    /// Daemons.
    pub services: Vec<Program>,
    /// Processes that hold a GPU's device node open, as far as this user may see them.
    pub holders: Vec<Program>,
    /// Processors.
    pub cpus: Cpus,
}

impl Evidence {
    /// With the texts of other programs cleaned: names of users and of programs, words of the driver. The
    /// values of variables keep their meaning, which may be that they name nothing.
    pub fn cleaned(self) -> Evidence {
        let environment: BTreeMap<String, String> = self
            .environment
            .iter()
            .map(|(name, value)| (name.clone(), text::visible(value).into()))
            .collect();
        let cleaned = text::names(&self).unwrap_or(self);
        Evidence { environment, ..cleaned }
    }

    /// An inherited variable.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str)
    }

    /// A device node, by its path.
    pub fn node(&self, path: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.path.as_os_str() == path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_have_named_is_clean_and_variables_keep_their_meaning() {
        let mut evidence = Evidence {
            kernel_module: Some("580.65\u{1b}[31m.06\n".into()),
            user: User { name: "=alice".into(), uid: 1000, groups: vec![44] },
            holders: vec![Program { pid: 9, name: "\u{1b}]0;x\u{7}python3\u{202e}".into(), gpus: vec![0] }],
            environment: [("CUDA_VISIBLE_DEVICES".to_owned(), "MIG-1\u{200b}".to_owned())].into(),
            cpus: Cpus { quota: Some(1.5), ..Cpus::default() },
            ..Evidence::default()
        };
        evidence.capabilities.gpus.insert(3, Default::default());
        let clean = evidence.clone().cleaned();
        assert_eq!(clean.kernel_module.as_deref(), Some("580.65.06"));
        assert_eq!((clean.user.name.as_str(), clean.holders[0].name.as_str()), ("alice", "python3"));
        assert_eq!(clean.variable("CUDA_VISIBLE_DEVICES"), Some("MIG-1\\u{200b}"), "it names no device");
        assert_eq!((clean.capabilities, clean.cpus), (evidence.capabilities, evidence.cpus));
    }
}
