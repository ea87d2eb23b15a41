//! `list` and `doctor` of the real program on machines that a stand-in driver plays, word for word.

mod common;

use common::standin::{Machine, cap, golden};
use common::{Bench, machines};
use migbench::machine::{Topology, capture};
use migbench::results::row::Neighbours;
use std::fs;

/// Both verbs, with their exit codes, against the saved text.
fn both(name: &str, machine: &Machine, list: i32, doctor: i32) {
    for (verb, code) in [("list", list), ("doctor", doctor)] {
        let ran = machine.run(&[verb]);
        assert_eq!(ran.code, Some(code), "{name} {verb}: {}{}", ran.stdout, ran.stderr);
        golden(&format!("{name}.{verb}.txt"), &format!("{}{}", ran.stdout, ran.stderr));
    }
}

macro_rules! machines {
    ($($test:ident = $name:literal, $list:literal, $doctor:literal;)*) => {
        $(#[test]
        fn $test() {
            both($name, &Machine::named($name), $list, $doctor);
        })*
    };
}

machines! {
    a100_in_seven = "a100-7x1g", 0, 0;
    a100_mixed_with_holes_in_the_index = "a100-mixed-hole", 0, 0;
    a100_with_two_compute_instances_in_one = "a100-1c-2c", 0, 0;
    a30 = "a30", 0, 0;
    h100 = "h100", 0, 0;
    h200_mixed = "h200-mixed", 0, 0;
    h200_in_seven = "h200-7x1g", 0, 0;
    rtx_pro_6000_has_twelve_units = "rtx-pro-6000", 0, 0;
    b200_with_unknown_cells = "b200", 0, 0;
    two_gpus_with_the_same_instance_numbers = "two-alike", 0, 0;
    mig_off = "mig-off", 0, 0;
    mig_pending = "mig-pending", 0, 0;
    on_but_empty = "on-but-empty", 0, 2;
    a_gpu_instance_without_a_compute_instance = "gi-without-ci", 0, 0;
    eight_gpus_in_seven = "8x7", 0, 0;
    unprivileged = "unprivileged", 0, 0;
    a_lost_gpu = "gpu-lost", 0, 0;
}

#[test]
fn a_container_with_one_instance() {
    let machine = Machine::named("container");
    machine.write("root/.dockerenv", "");
    machine.write("root/proc/self/status", "Name:\tx\nCapEff:\t00000000a80425fb\n");
    let variables = [
        ("NVIDIA_VISIBLE_DEVICES", "void"),
        ("NVIDIA_DRIVER_CAPABILITIES", "compute,utility"),
        ("NVIDIA_MIG_MONITOR_DEVICES", "all"),
    ];
    for verb in ["list", "doctor"] {
        let ran = machine.run_with(&[verb], &variables);
        assert_eq!(ran.code, Some(0), "{}", ran.stdout);
        golden(&format!("container.{verb}.txt"), &ran.stdout);
    }
}

#[test]
fn a_machine_without_a_driver() {
    let bench = Bench::new();
    let listed = bench.run(&["list"]);
    assert_eq!(listed.code, Some(0), "{}", listed.stderr);
    assert!(listed.stdout.starts_with("CPU  "), "{}", listed.stdout);
    let last = listed.stdout.lines().nth(1).unwrap();
    assert!(last.starts_with("no GPU: no NVIDIA driver library ("), "{last}");
    assert_eq!(listed.stdout.lines().count(), 2);
    let csv = bench.run(&["list", "--format", "csv"]);
    assert!(csv.stdout.lines().nth(1).unwrap().starts_with("cpu,"), "{}", csv.stdout);
    assert!(csv.stderr.starts_with("no GPU: "), "{}", csv.stderr);
    let examined =
        common::ran(bench.command(&["doctor"]).env("MIGBENCH_ROOT", bench.path("root")).output().unwrap());
    assert_eq!(examined.code, Some(2));
    assert!(
        examined.stdout.starts_with("PROBLEM  driver library (needed)\n         no NVIDIA driver library (")
    );
    assert!(examined.stdout.ends_with("the CPU device can: migbench --device cpu\n"), "{}", examined.stdout);
}

#[test]
fn a_library_without_a_driver() {
    let machine = Machine::named("h200-mixed").faults("nvmlInit_v2 = 9\ncuInit = 999");
    let listed = machine.run(&["list"]);
    assert_eq!(listed.code, Some(0));
    assert!(listed.stdout.ends_with("no GPU: the NVIDIA driver is not loaded (NVML 9: driver not loaded)\n"));
    let examined = machine.run(&["doctor"]);
    assert_eq!(examined.code, Some(2));
    golden("no-kernel-module.doctor.txt", &examined.stdout);
}

#[test]
fn a_library_that_does_not_fit_the_kernel_module() {
    let machine = Machine::named("h200-mixed").faults("nvmlInit_v2 = 18\ncuInit = 803");
    machine.write(
        "root/proc/driver/nvidia/version",
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  575.51.03  Thu Apr\n",
    );
    let listed = machine.run(&["list"]);
    assert_eq!(listed.code, Some(2));
    assert_eq!(
        listed.stderr,
        "migbench: NVML failed: NVML 18: driver and library versions differ; `migbench doctor` says what to do\n"
    );
    golden("mismatch.doctor.txt", &machine.run(&["doctor"]).stdout);
}

/// R460: MIG devices without UUIDs of their own, no profile names, no second version of anything.
#[test]
fn an_old_driver_without_newer_functions() {
    let machine = Machine::named("old-driver").without(
        "libnvidia-ml.so.1",
        &[
            "nvmlDeviceGetMemoryInfo_v2",
            "nvmlDeviceGetGpuInstanceProfileInfoV",
            "nvmlDeviceGetGpuInstancePossiblePlacements_v2",
            "nvmlDeviceGetComputeRunningProcesses_v3",
            "nvmlDeviceGetRemappedRows",
        ],
    );
    both("old-driver", &machine, 0, 2);
}

/// A driver that never answers is abandoned after five seconds, and there is a report.
#[test]
fn a_driver_that_hangs() {
    let machine = Machine::named("h200-mixed").faults("nvmlDeviceGetCount_v2 = hang\ncuInit = hang");
    let ran = machine.run(&["doctor"]);
    assert_eq!(ran.code, Some(2));
    golden("hung.doctor.txt", &ran.stdout);
}

/// One function that fails, whichever, stops neither verb.
#[test]
fn no_single_refusal_stops_discovery() {
    let library = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/standin/nvml.rs")).unwrap();
    let calls: Vec<&str> = library
        .lines()
        .filter_map(|line| line.trim().strip_prefix("fn nvml")?.split('(').next())
        .filter(|name| !["DeviceGetCount_v2", "DeviceGetHandleByIndex_v2"].contains(name))
        .collect();
    assert!(calls.len() > 35, "{calls:?}");
    let mut machine = Machine::named("a100-1c-2c");
    for call in calls {
        for code in [3, 4, 31_337] {
            machine = machine.faults(&format!("nvml{call} = {code}"));
            let ran = machine.run(&["list", "--format", "json"]);
            assert_eq!(ran.code, Some(0), "nvml{call} = {code}: {}", ran.stderr);
            let topology = Topology::from_json(&ran.stdout).unwrap();
            let expected = if call == "DeviceGetUUID" { 0 } else { 3 };
            let blind = ["DeviceGetMigMode", "DeviceGetMaxMigDeviceCount", "DeviceGetMigDeviceHandleByIndex"];
            if !blind.contains(&call) {
                assert_eq!(topology.instances().len(), expected, "nvml{call} = {code}");
            }
            // Asked only where a newer function is missing.
            let asked = !["DeviceGetMemoryInfo", "DeviceGetGpuInstanceProfileInfo"].contains(&call);
            assert_eq!(ran.stdout.contains(&format!("\"NVML {code}")), asked, "nvml{call} = {code}");
        }
    }
}

#[test]
fn every_form_of_the_list() {
    let machine = Machine::named("h200-mixed");
    golden("h200-mixed.list.json", &machine.run(&["list", "--format", "json"]).stdout);
    golden("h200-mixed.list.csv", &machine.run(&["list", "--format", "csv"]).stdout);
    golden("h200-mixed.doctor.json", &machine.run(&["doctor", "--format", "json"]).stdout);
    let refused = machine.run(&["doctor", "--format", "csv"]);
    assert_eq!(refused.code, Some(2));
    assert_eq!(refused.stderr, "migbench: doctor has no CSV form: choose --format table or json\n");
}

/// What the driver said and what the stand-in was told are the same but for the name.
#[test]
fn the_whole_topology_comes_through_the_library() {
    for name in ["a100-1c-2c", "a100-mixed-hole", "rtx-pro-6000", "8x7", "container"] {
        let machine = Machine::named(name);
        let ran = machine.run(&["list", "--format", "json"]);
        let mut read = Topology::from_json(&ran.stdout).unwrap();
        for gpu in &mut read.gpus {
            gpu.name = gpu.name.trim_start_matches("STAND-IN ").to_owned();
        }
        let mut told = machine.topology.clone();
        for gpu in &mut told.gpus {
            gpu.profiles.sort_by_key(|p| (p.slices, p.memory_mib, p.id));
        }
        assert_eq!(read, told, "{name}");
    }
}

#[test]
fn another_machine_from_a_file() {
    let machine = Machine::named("h200-mixed");
    let json = machine.run(&["list", "--format", "json"]).stdout;
    let bench = Bench::new();
    fs::write(bench.path("t.json"), &json).unwrap();
    let listed = bench.run(&["list", "--topology", "t.json"]);
    assert_eq!(listed.code, Some(0), "{}", listed.stderr);
    golden("file.list.txt", &listed.stdout);
    golden("file.doctor.txt", &bench.run(&["doctor", "--topology", "t.json"]).stdout);
    fs::write(
        bench.path("smi.txt"),
        "GPU 0: A100-SXM4-40GB (UUID: GPU-5a5a0000-0000-4000-8000-00000000000a)\n  \
         MIG 3g.20gb     Device  0: (UUID: MIG-5a5a0000-0001-5000-8000-000000000000)\n",
    )
    .unwrap();
    golden("smi.list.txt", &bench.run(&["list", "--topology", "smi.txt"]).stdout);
    golden("smi.doctor.txt", &bench.run(&["doctor", "--topology", "smi.txt"]).stdout);
    fs::write(bench.path("empty"), "").unwrap();
    fs::write(bench.path("bad"), "{\"schema\":\"migbench-topology/9\"}").unwrap();
    for (file, message) in [
        ("missing", "migbench: cannot read missing: No such file or directory (os error 2)\n"),
        (
            "bad",
            "migbench: bad holds no topology: its schema is 'migbench-topology/9', this migbench reads 'migbench-topology/1'\n",
        ),
        (
            "/dev/null",
            "migbench: /dev/null is not a regular file (a pipe or a device): save it to a file first\n",
        ),
        (
            "empty",
            "migbench: empty holds no topology: not the text of nvidia-smi -L: no line begins with 'GPU 0: '\n",
        ),
    ] {
        for verb in ["list", "doctor"] {
            let ran = bench.run(&[verb, "--topology", file]);
            assert_eq!((ran.code, ran.stderr.as_str()), (Some(2), message));
        }
    }
}

/// A capture is judged elsewhere as it was here, and says nothing about whose it was.
#[test]
fn a_capture_is_replayed() {
    let machine = Machine::named("a100-1c-2c");
    let here = machine.run(&["doctor", "--capture", "c.json"]);
    assert_eq!(here.code, Some(0), "{}", here.stderr);
    assert!(here.stderr.starts_with("saved: c.json (UUIDs, serial numbers"), "{}", here.stderr);
    let text = fs::read_to_string(machine.bench.path("c.json")).unwrap();
    assert!(!text.contains("5a5a0000") && !text.contains("1650000000000"), "{text}");
    let refused = machine.run(&["doctor", "--capture", "c.json"]);
    assert_eq!(
        (refused.code, refused.stderr.as_str()),
        (Some(2), "migbench: c.json exists: --force overwrites it\n")
    );
    assert_eq!(machine.run(&["doctor", "--capture", "c.json", "--force"]).code, Some(0));
    // In the stand-in's place: the answers come through the library once more.
    let replayed = Machine::new(capture::parse(&text).unwrap().topology.unwrap());
    let again = replayed.run(&["list", "--format", "json"]).stdout;
    let (again, before) = (Topology::from_json(&again).unwrap(), replayed.topology.clone());
    assert_eq!(again.gpus[0].mig_devices, before.gpus[0].mig_devices);
    // In a file: the report is the same, under the new names.
    let report = machine.run(&["doctor", "--topology", "c.json"]);
    assert_eq!(report.code, Some(0), "{}", report.stderr);
    let renamed = |text: &str| text.replace("STAND-IN ", "").lines().map(|l| l.len()).sum::<usize>();
    assert_eq!(renamed(&report.stdout), renamed(&here.stdout), "{}\n{}", report.stdout, here.stdout);
}

/// What a real H200 with MIG off answered (driver 580), played once more.
#[test]
fn a_real_h200_is_replayed() {
    let text = include_str!("topologies/h200-mig-off-r580.json");
    let case = capture::parse(text).unwrap();
    let (topology, evidence) = (case.topology.unwrap(), case.evidence.unwrap());
    let machine = Machine::new(topology.clone());
    machine.write("topology.json", text);
    both("real-h200", &machine, 0, 0);
    let ran = machine.run(&["list", "--format", "json"]);
    let mut read = Topology::from_json(&ran.stdout).unwrap();
    read.gpus[0].name = read.gpus[0].name.replace("STAND-IN ", "");
    assert_eq!(read, topology);
    // CUDA's side of it, too.
    let ran = machine.run(&["probe", "cuda"]);
    let said: migbench::machine::doctor::evidence::Cuda = serde_json::from_str(&ran.stdout).unwrap();
    let real = evidence.cuda.unwrap().unwrap();
    let plain = |mut cuda: migbench::machine::doctor::evidence::Cuda| {
        cuda.devices[0].name = cuda.devices[0].name.replace("STAND-IN ", "");
        cuda
    };
    assert_eq!(plain(said), real);
}

/// `nvidia-smi -L` as a second opinion.
#[test]
fn nvidia_smi_is_compared_with() {
    let machine = Machine::named("h200-mixed");
    let smi = |text: &str| {
        machine.write("smi", &format!("#!/bin/sh\n[ \"$1\" = -L ] || exit 2\ncat <<'END'\n{text}END\n"));
        machine.node_mode("smi", 0o755);
        machine.run(&["list", "--smi", "./smi"])
    };
    let plain = machine.run(&["list"]).stdout;
    let mut text =
        "GPU 0: STAND-IN NVIDIA H200 (UUID: GPU-5a5a0000-0000-4000-8000-00000000000a)\n".to_owned();
    for mig in &machine.topology.gpus[0].mig_devices {
        let profile = mig.profile.as_ref().unwrap();
        text += &format!("  MIG {profile:<15} Device {:2}: (UUID: {})\n", mig.index, mig.uuid);
    }
    assert_eq!(smi(&text).stdout, plain);
    let differs = |text: &str| smi(text).stdout.replace(&plain, "");
    assert_eq!(
        differs(&text.replace("2g.35gb", "1g.35gb")),
        "differs: MIG-5a5a0000-0003-5000-8000-000000000000: NVML calls it '2g.35gb', nvidia-smi -L '1g.35gb'\n"
    );
    assert_eq!(
        differs("hello\n"),
        "differs: nvidia-smi -L can't be read: not the text of nvidia-smi -L: no line begins with 'GPU 0: '\n"
    );
    machine.write("smi", "#!/bin/sh\nexit 9\n");
    let failed = machine.run(&["list", "--smi", "./smi"]).stdout;
    assert!(failed.ends_with("differs: nvidia-smi -L ended with exit status: 9\n"), "{failed}");
}

/// Who may use what, going by the nodes.
#[test]
fn permissions_decide() {
    let machine = Machine::named("h200-mixed");
    let node = |gi: u32, ci: u32| format!("root/dev/nvidia-caps/nvidia-cap{}", cap(0, gi) + ci);
    // Alice is neither owner nor in the group: of three instances one is left to her.
    machine.node_mode(&node(2, 1), 0o400);
    machine.node_mode(&node(13, 0), 0o440);
    let ran = machine.run(&["doctor", "--user", "alice"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stdout);
    golden("user.doctor.txt", &ran.stdout);
    let advice = |machine: &Machine| -> String {
        let text = machine.run(&["doctor", "--user", "alice"]).stdout;
        let block = text.split("user (admin-only)").nth(1).unwrap_or_default();
        let line = block.lines().find(|line| line.contains("setfacl"));
        line.unwrap_or_default().trim().to_owned()
    };
    assert_eq!(advice(&machine), "", "she is confined to one already");
    machine.node_mode(&node(3, 1), 0o400);
    assert_eq!(
        advice(&machine),
        "$ setfacl -m u:alice:r /dev/nvidia-caps/nvidia-cap21 /dev/nvidia-caps/nvidia-cap22"
    );
    let open = Machine::named("h200-mixed");
    assert_eq!(
        advice(&open),
        "$ chmod go-r /dev/nvidia-caps/nvidia-cap31 /dev/nvidia-caps/nvidia-cap121; \
         setfacl -m u:alice:r /dev/nvidia-caps/nvidia-cap22"
    );
    let unknown = machine.run(&["doctor", "--user", "mallory"]).stdout;
    assert!(
        unknown.contains("unknown  user (admin-only)\n         no user 'mallory' in /etc/passwd\n"),
        "{unknown}"
    );
    // A node that is not there may only not have been made: warned of, and measured all the same.
    fs::remove_file(machine.bench.path(&node(3, 1))).unwrap();
    let ran = machine.run(&["doctor"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stdout);
    for part in [
        "(2g.35gb): /dev/nvidia-caps/nvidia-cap31 does not exist (ENOENT)\n",
        "next: it may only not have been made yet: the first CUDA program makes it, or root does\n",
        "$ nvidia-modprobe -f /proc/driver/nvidia/capabilities/gpu0/mig/gi3/ci0/access\n",
    ] {
        assert!(ran.stdout.contains(part), "{}", ran.stdout);
    }
}

/// What an inherited variable leaves.
#[test]
fn the_scope_is_explained() {
    let machine = Machine::named("h200-mixed");
    let with = |value: &str| machine.run_with(&["doctor"], &[("CUDA_VISIBLE_DEVICES", value)]);
    let one = with("MIG-5a5a0000-0003,MIG-gone,0");
    assert_eq!(one.code, Some(0), "{}", one.stdout);
    golden("scope.doctor.txt", &one.stdout);
    for (value, line) in [
        (
            "MIG-5a5a0000-0003,MIG-5a5a0000-0003",
            "is named twice, so that CUDA refuses the whole list (error 101)\n",
        ),
        ("", "PROBLEM  CUDA_VISIBLE_DEVICES (needed)\n         set and empty: CUDA shows no device\n"),
        ("MIG-gone", "'MIG-gone' names no MIG device of this machine\n"),
        ("0", "'0' is a GPU with MIG on: CUDA chooses a MIG device of it\n"),
    ] {
        let ran = with(value);
        assert_eq!(ran.code, Some(if value == "0" { 0 } else { 2 }), "{}", ran.stdout);
        assert!(ran.stdout.contains(line), "{value}: {}", ran.stdout);
    }
    let listed = machine.run_with(&["list"], &[("CUDA_VISIBLE_DEVICES", "MIG-5a5a0000-0003")]).stdout;
    assert_eq!(listed.matches("  usable").count(), 1, "{listed}");
    assert_eq!(listed.matches("no: outside CUDA_VISIBLE_DEVICES=MIG-5a5a0000-0003").count(), 2, "{listed}");
}

/// Daemons and holders are found among the processes.
#[test]
fn who_holds_the_gpu_is_said() {
    let machine = Machine::new(machines::named("mig-pending"));
    machine.write("root/proc/977/cmdline", "/usr/bin/python3\0train.py\0");
    fs::create_dir_all(machine.bench.path("root/proc/977/fd")).unwrap();
    std::os::unix::fs::symlink("/dev/nvidia0", machine.bench.path("root/proc/977/fd/7")).unwrap();
    machine.write("root/proc/812/cmdline", "/usr/bin/nv-hostengine\0-n\0");
    machine.write("root/proc/813/cmdline", "nvidia-cuda-mps-control\0-d\0");
    let text = machine.run(&["doctor"]).stdout;
    assert!(text.contains("held by python3 (pid 977)\n"), "{text}");
    assert!(text.contains("WARNING  DCGM (useful)\n         running: nv-hostengine (pid 812)\n"), "{text}");
    assert!(
        text.contains("WARNING  MPS (useful)\n         running: nvidia-cuda-mps-control (pid 813)\n"),
        "{text}"
    );
}

/// A scope that leaves nothing names the entry and the reason, in every verb that measures.
#[test]
fn a_scope_that_leaves_nothing_says_why() {
    let machine = Machine::named("h200-mixed");
    let device = |n: u32| format!("MIG-5a5a0000-000{n}-5000-8000-000000000000");
    let twice = format!("{0},{0}", device(2));
    let part = format!("0,{}", device(2));
    let behind = format!("MIG-5a5a0000-0009,{}", device(2));
    for (value, why) in [
        ("", "it is set and empty, so that CUDA shows no device"),
        ("MIG-5a5a0000-0009", "'MIG-5a5a0000-0009' names no MIG device of this machine"),
        (&behind, "names no MIG device of this machine, and hides all after it"),
        ("MIG-5a5a", "'MIG-5a5a' is not unique: it begins MIG-5a5a0000-0002-5000-8000-000000000000 and "),
        (&twice, "is named twice, so that CUDA refuses the whole list"),
        (&part, "name a GPU and a part of it, so that CUDA refuses the whole list"),
        ("3", "'3' is the index of no GPU: there is GPU 0"),
        ("0:1", "'0:1' is NVIDIA_VISIBLE_DEVICES' form; CUDA's name for it is MIG-5a5a0000-0003"),
        (
            "MIG-GPU-5a5a0000-0000-4000-8000-00000000000a",
            "lacks the instance: it is MIG-GPU-<UUID>/<GI>/<CI>",
        ),
        ("NoDevFiles", "'NoDevFiles' hides every GPU, as batch systems write it"),
    ] {
        let run = |variables: &[(&str, &str)]| {
            let all: Vec<_> = [("CUDA_VISIBLE_DEVICES", value)].iter().chain(variables).copied().collect();
            let ran = machine.run_with(&["run", "--list-runs"], &all);
            assert_eq!(ran.code, Some(2), "{value}: {}{}", ran.stdout, ran.stderr);
            assert!(ran.stderr.contains(why), "{value}: {}", ran.stderr);
            ran.stderr
        };
        let shell = run(&[]);
        assert!(shell.contains("ignore it by --all; there is:\n  MIG-5a5a0000-0002"), "{shell}");
        let job = run(&[("SLURM_JOB_ID", "17")]);
        assert!(job.contains("This is job 17 of Slurm") && !job.contains("--all"), "{job}");
        let pod = run(&[("KUBERNETES_SERVICE_HOST", "10.0.0.1")]);
        assert!(pod.contains("This is a pod of Kubernetes") && !pod.contains("--all"), "{pod}");
    }
    // Named, and hidden by what stands before it.
    let ran =
        machine.run_with(&["run", "--list-runs", "--uuid", &device(2)], &[("CUDA_VISIBLE_DEVICES", &behind)]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("and hides all after it, this one included.\n"), "{}", ran.stderr);
}

/// What a listing looks like after it went through other people's tools.
#[test]
fn a_listing_is_read_whole_or_refused() {
    const GPU: &str = "GPU 0: NVIDIA L4 (UUID: GPU-5a5a0000-0000-4000-8000-00000000000a)";
    const SECOND: &str = "GPU 1: NVIDIA L4 (UUID: GPU-5a5a0001-0000-4000-8000-00000000000a)";
    let bench = Bench::new();
    let listed = |bytes: Vec<u8>| {
        fs::write(bench.path("smi.txt"), bytes).unwrap();
        let ran = bench.run(&["list", "--topology", "smi.txt"]);
        (ran.code, ran.stdout.lines().next().unwrap_or_default().to_owned() + &ran.stderr)
    };
    let two = "2 GPUs, driver unknown, CUDA unknown (from the text of nvidia-smi -L)";
    let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    for (bytes, code, said) in [
        (format!("\u{feff}{GPU}\r\n{SECOND}\r\n").into_bytes(), 0, two.to_owned()),
        (format!("> {GPU}\n> {SECOND}\n").into_bytes(), 0, two.to_owned()),
        (format!("\u{1b}[1m{GPU}\u{1b}[0m\n{SECOND}").into_bytes(), 0, two.to_owned()),
        (utf16(&format!("\u{feff}{GPU}\r\n")), 2, "it is UTF-16 (as PowerShell's > writes it)".to_owned()),
        (utf16(GPU), 2, "it is UTF-16 without a byte order mark".to_owned()),
        (format!("{GPU}\n{}", &SECOND[..50]).into_bytes(), 2, "line 2: ends within the UUID".to_owned()),
        (
            format!("{GPU}\n1, NVIDIA L4, GPU-5a5a0001-0000-4000-8000-00000000000a\n").into_bytes(),
            2,
            "line 2: holds a UUID, but is no line of nvidia-smi -L: 1, NVIDIA L4, GPU-5a5a0001".to_owned(),
        ),
        (format!("{GPU}\n{GPU}\n").into_bytes(), 2, format!("  line 1: {GPU}\n  line 2: {GPU}\n")),
        (format!("a: {GPU}\nb: {SECOND}\n").into_bytes(), 2, "two hosts or tasks ('a' and 'b')".to_owned()),
    ] {
        let (found, text) = listed(bytes);
        assert!(found == Some(code) && text.contains(&said), "{found:?} {text}\n{said}");
    }
    let lost = "Unable to determine the device handle for GPU1: 0000:BA:00.0: Unknown Error";
    fs::write(bench.path("smi.txt"), format!("{GPU}\n{lost}\n")).unwrap();
    for (verb, code) in [("list", 0), ("doctor", 0)] {
        let ran = bench.run(&[verb, "--topology", "smi.txt"]);
        assert_eq!(ran.code, Some(code), "{verb}: {}{}", ran.stdout, ran.stderr);
        assert!(ran.stdout.contains("GPU 1") && ran.stdout.contains(lost), "{verb}: {}", ran.stdout);
    }
    let json = Machine::named("h200-mixed").run(&["list", "--format", "json"]).stdout;
    fs::write(bench.path("t.json"), format!("\u{feff}{json}")).unwrap();
    assert_eq!(bench.run(&["list", "--topology", "t.json"]).code, Some(0));
    fs::write(bench.path("t.json"), json.replace("MIG-5a5a0000-0003", "MIG-5a5a0000-0002")).unwrap();
    let ran = bench.run(&["run", "--list-runs", "--topology", "t.json"]);
    assert_eq!(ran.code, Some(2), "{}", ran.stdout);
    let both = "listed twice, as gpus[0].mig_devices[0] and as gpus[0].mig_devices[1]";
    assert!(ran.stderr.contains(both), "{}", ran.stderr);
}

/// The names of cards that hold the names of others.
#[test]
fn a_card_offers_what_is_published_of_it() {
    let bench = Bench::new();
    let offered = |name: &str| {
        let text = format!("GPU 0: {name} (UUID: GPU-5a5a0000-0000-4000-8000-00000000000a)\n");
        fs::write(bench.path("smi.txt"), text).unwrap();
        bench.run(&["list", "--topology", "smi.txt"]).stdout
    };
    let gb200 = offered("NVIDIA GB200");
    assert!(gb200.contains("1g.47gb") && !gb200.contains("1g.45gb"), "{gb200}");
    let pcie = offered("NVIDIA H800 PCIe");
    assert!(pcie.contains("1g.10gb") && !pcie.contains(" 132 "), "{pcie}");
    assert!(offered("NVIDIA H800 NVL").contains("1g.12gb"));
    assert!(offered("NVIDIA GH200 144G HBM3e").contains("1g.36gb"));
    assert!(!offered("NVIDIA A100X").contains("offered"));
}

/// 114 SMs instead of 132: the driver says so, and no table says otherwise.
#[test]
fn a_row_of_a_card_like_another_holds_together() {
    let mut gpu = machines::gpu(0, "NVIDIA H100 PCIe", 81_559);
    gpu = machines::cut(gpu, &[machines::whole("1g.10gb", 13, 6)]);
    gpu.name = "NVIDIA H800 PCIe".into();
    let machine = Machine::new(machines::machine("580.65.06", "13.0", vec![gpu]));
    let ran = machine.run(&["--workload", "mlp", "--batch", "4", "--batches", "20", "-q", "-o", "a.csv"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(machine.bench.rows("a.csv")[0].subject.instance.sm_count, Some(14));
    let checked = machine.run(&["check", "a.csv"]);
    assert_eq!(checked.code, Some(0), "{}", checked.stdout);
}

/// A process that is shown a part of the GPU does not see its neighbours there.
#[test]
fn neighbours_are_unknown_where_others_may_be_hidden() {
    let neighbours = |topology: Topology| {
        let machine = Machine::new(topology);
        let first = machine.topology.gpus[0].mig_devices[0].uuid.clone();
        let run = ["--workload", "mlp", "--batch", "4", "--batches", "20", "-q", "-o", "a.csv", "--uuid"];
        let ran = machine.run(&[&run[..], &[&first]].concat());
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        machine.bench.rows("a.csv")[0].subject.neighbours
    };
    assert_eq!(neighbours(machines::named("h200-mixed")), Some(Neighbours::NoneSeen));
    // One of three instances, in a container that shows its own process.
    assert_eq!(neighbours(machines::named("container")), Some(Neighbours::Unknown));
    // All seven slices are shown, and who computes on them.
    let full = machines::unprivileged(machines::named("h200-7x1g"));
    assert_eq!(neighbours(full), Some(Neighbours::NoneSeen));
    // As root in a container: there are three GPU instances, and one MIG device.
    let mut granted = machines::named("h200-mixed");
    granted.gpus[0].mig_devices.truncate(1);
    assert_eq!(neighbours(granted), Some(Neighbours::Unknown));
}
