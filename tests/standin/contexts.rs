//! Who has a context on the machine that is played: a file for each process beside the topology, named
//! by its number and holding its CUDA_VISIBLE_DEVICES. A process that is gone has none.

use super::common::topology;
use migbench::machine::Instance;
use std::path::PathBuf;

fn folder() -> Option<PathBuf> {
    Some(PathBuf::from(std::env::var_os("MIGBENCH_STANDIN")?).with_file_name("contexts"))
}

/// This process has one from now on.
#[allow(dead_code, reason = "the CUDA library's part")]
pub fn register() {
    let Some(folder) = folder() else { return };
    let uuid = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
    let _ = std::fs::create_dir_all(&folder);
    let _ = std::fs::write(folder.join(std::process::id().to_string()), uuid);
}

/// Process and instance of every live one.
pub fn all() -> Vec<(u32, Instance)> {
    let entries = folder().and_then(|folder| std::fs::read_dir(folder).ok());
    let pid = |entry: &std::fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
    let live = |pid: u32| std::path::Path::new("/proc").join(pid.to_string()).exists();
    let contexts = entries.into_iter().flatten().flatten().filter_map(|entry| {
        let pid = pid(&entry).filter(|&pid| live(pid))?;
        let uuid = std::fs::read_to_string(entry.path()).ok()?;
        Some((pid, topology().find(&uuid).ok()?))
    });
    contexts.collect()
}

/// How many there are on a GPU.
pub fn on(gpu_uuid: &str) -> usize {
    all().iter().filter(|(_, instance)| instance.gpu_uuid.as_deref() == Some(gpu_uuid)).count()
}
