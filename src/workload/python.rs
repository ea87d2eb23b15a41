//! Where Python keeps a package, without importing it.

use crate::machine::child;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// How long a Python may take to answer: it starts within a second, and within several from a file system
/// of a busy network.
const PATIENCE: Duration = Duration::from_secs(30);

/// The folders of a package (of a namespace there may be several), of the active environment's Python or
/// the first in PATH that has it; none where there is no such package, or no Python.
pub(super) fn package(name: &str) -> Vec<PathBuf> {
    let script = format!(
        "import importlib.util as u; print('\\n'.join(u.find_spec('{name}').submodule_search_locations))"
    );
    let environment = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(std::env::var_os);
    let mut pythons = environment
        .map(|folder| PathBuf::from(folder).join("bin/python3"))
        .chain(["python3".into(), "python".into()]);
    let folders = pythons.find_map(|python| {
        let mut command = Command::new(python);
        command.args(["-c", &script]);
        let output = child::output(command, PATIENCE).ok()?;
        let text = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
        let folders: Vec<PathBuf> = text.lines().map(|line| PathBuf::from(line.trim())).collect();
        folders.iter().any(|folder| folder.is_dir()).then_some(folders)
    });
    folders.unwrap_or_default()
}
