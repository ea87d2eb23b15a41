//! The real program on a stand-in driver: both libraries, and a tree with /proc and /dev.

use super::machines;
use super::{Bench, Ran, ran};
use migbench::machine::Topology;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// A machine that is played in a folder of its own.
pub struct Machine {
    pub bench: Bench,
    pub topology: Topology,
}

/// Where cargo put the stand-ins. `cargo test --test x` alone builds no examples, so this does; when
/// they are fresh that is a fraction of a second.
fn libraries() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        // target/debug/deps/<test> → target, debug
        let test = std::env::current_exe().unwrap();
        let profile = test.parent().unwrap().parent().unwrap();
        let target = profile.parent().unwrap();
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args([
            "build",
            "--quiet",
            "--manifest-path",
            concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
        ]);
        cargo
            .args(["--example", "standin_nvml", "--example", "standin_cuda"])
            .args(["--example", "standin_onnxruntime", "--example", "standin_cublaslt"])
            .args(["--example", "standin_trap"])
            .arg("--target-dir")
            .arg(target);
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        let output = cargo.output().unwrap_or_else(|e| panic!("can't start {cargo:?}: {e}"));
        let folder = profile.join("examples");
        assert!(
            output.status.success() && folder.join("libstandin_cuda.so").exists(),
            "the stand-ins can't be built by {cargo:?}:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        folder
    })
}

/// The file of a stand-in.
pub fn library(name: &str) -> PathBuf {
    libraries().join(name)
}

impl Machine {
    /// One of [`machines::named`].
    pub fn named(name: &str) -> Machine {
        Machine::new(machines::named(name))
    }

    pub fn new(topology: Topology) -> Machine {
        let machine = Machine { bench: Bench::new(), topology };
        let text = serde_json::to_string_pretty(&machine.topology).unwrap();
        fs::write(machine.bench.path("topology.json"), text).unwrap();
        fs::write(machine.bench.path("faults"), "").unwrap();
        fs::create_dir(machine.bench.path("lib")).unwrap();
        // cudarc tries this name first.
        for (from, to) in [("libstandin_nvml.so", "libnvidia-ml.so.1"), ("libstandin_cuda.so", "libcuda.so")]
        {
            symlink(libraries().join(from), machine.bench.path("lib").join(to)).unwrap();
        }
        machine.tree();
        machine
    }

    /// /proc/driver/nvidia, /dev and the rest, as a driver with these instances makes them.
    fn tree(&self) {
        self.write("root/sys/devices/system/cpu/online", "0-31\n");
        self.write("root/etc/passwd", "root:x:0:0::/root:/bin/sh\nalice:x:54321:54321::/:/bin/sh\n");
        self.write("root/etc/group", "alice:x:54321:\n");
        self.write("root/proc/1/cgroup", "0::/init.scope\n");
        for node in ["nvidiactl", "nvidia-uvm"] {
            self.node(&format!("root/dev/{node}"), 0o666);
        }
        self.capability("mig/config", 1, 0o400);
        self.capability("mig/monitor", 2, 0o444);
        for gpu in &self.topology.gpus {
            let minor = gpu.minor.unwrap();
            self.node(&format!("root/dev/nvidia{minor}"), 0o666);
            fs::create_dir_all(self.bench.path(&format!("root/{CAPABILITIES}/gpu{minor}/mig"))).unwrap();
            for gi in gpu.gpu_instances.iter().flatten().map(|gi| gi.id) {
                self.capability(&format!("gpu{minor}/mig/gi{gi}/access"), cap(minor, gi), 0o444);
            }
            for mig in &gpu.mig_devices {
                let (gi, ci) = (mig.gi_id.unwrap(), mig.ci_id.unwrap());
                self.capability(&format!("gpu{minor}/mig/gi{gi}/access"), cap(minor, gi), 0o444);
                self.capability(
                    &format!("gpu{minor}/mig/gi{gi}/ci{ci}/access"),
                    cap(minor, gi) + 1 + ci,
                    0o444,
                );
            }
        }
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.bench.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// An ordinary file in place of a device: it has a mode, too.
    pub fn node(&self, path: &str, mode: u32) {
        self.write(path, "");
        fs::set_permissions(self.bench.path(path), fs::Permissions::from_mode(mode)).unwrap();
    }

    pub fn node_mode(&self, path: &str, mode: u32) {
        fs::set_permissions(self.bench.path(path), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn capability(&self, path: &str, minor: u32, mode: u32) {
        let text = format!("DeviceFileMinor: {minor}\nDeviceFileMode: {mode}\nDeviceFileModify: 1\n");
        self.write(&format!("root/{CAPABILITIES}/{path}"), &text);
        self.node(&format!("root/dev/nvidia-caps/nvidia-cap{minor}"), mode);
    }

    /// What goes wrong, in the words of tests/standin/common.rs.
    pub fn faults(self, text: &str) -> Machine {
        fs::write(self.bench.path("faults"), text).unwrap();
        self
    }

    /// Takes functions out of a library, as an older driver lacks them: their names in its string
    /// table become others, so that the loader no longer finds them.
    pub fn without(self, library: &str, symbols: &[&str]) -> Machine {
        let path = self.bench.path(&format!("lib/{library}"));
        let mut bytes = fs::read(&path).unwrap();
        for symbol in symbols {
            let name: Vec<u8> = [b"\0", symbol.as_bytes(), b"\0"].concat();
            let places: Vec<usize> =
                bytes.windows(name.len()).enumerate().filter(|(_, w)| *w == name).map(|(i, _)| i).collect();
            assert!(!places.is_empty(), "{library} has no {symbol}");
            for place in places {
                bytes[place + 1] = b'x';
            }
        }
        // Not through the link: the others play on.
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        self
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.bench.command(arguments);
        command
            .env("MIGBENCH_NVML", self.bench.path("lib/libnvidia-ml.so.1"))
            .env("MIGBENCH_ROOT", self.bench.path("root"))
            .env("MIGBENCH_STANDIN", self.bench.path("topology.json"))
            .env("MIGBENCH_STANDIN_FAULTS", self.bench.path("faults"))
            .env("LD_LIBRARY_PATH", self.bench.path("lib"));
        for (name, _) in std::env::vars() {
            let matters = ["CUDA_", "NVIDIA_", "SLURM_", "KUBERNETES_"].iter().any(|p| name.starts_with(p));
            if matters {
                command.env_remove(name);
            }
        }
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Ran {
        ran(self.command(arguments).output().unwrap())
    }

    /// Runs and writes anew until every row is ok: a machine that stands still is rightly called a stall.
    pub fn run_until_ok(&self, arguments: &[&str]) -> Ran {
        let arguments = [arguments, &["--force"]].concat();
        let mut ran = self.run(&arguments);
        for _ in 0..20 {
            if ran.code != Some(5) {
                break;
            }
            ran = self.run(&arguments);
        }
        assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
        ran
    }

    pub fn run_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Ran {
        ran(self.command(arguments).envs(variables.iter().copied()).output().unwrap())
    }
}

const CAPABILITIES: &str = "proc/driver/nvidia/capabilities";

/// NVIDIA's numbering of the capability nodes, as nine published numbers have it. The program reads
/// the numbers from files; only this tree is made by rule.
pub fn cap(minor: u32, gi: u32) -> u32 {
    3 + 135 * minor + 9 * gi
}

/// Compares with a file in tests/golden; `MIGBENCH_BLESS=1` writes it instead.
pub fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("MIGBENCH_BLESS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        return;
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        expected == text,
        "{} differs; MIGBENCH_BLESS=1 cargo test accepts this:\n{text}",
        path.display()
    );
}
