//! Where Python keeps a package, without importing it.

use crate::machine::{child, lookup};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// How long a Python may take to answer: it starts within a second, and within several from a file system
/// of a busy network.
const PATIENCE: Duration = Duration::from_secs(30);

/// The folders of a package (of a namespace there may be several), of the active environment's Python or
/// the first in PATH that has it; none where there is no such package, or no Python. None with elevated
/// privileges: Python is not run with them.
pub(super) fn package(name: &str) -> Vec<PathBuf> {
    if lookup::elevated() {
        return Vec::new();
    }
    // With -c, Python looks for what it imports in the current directory first, as ''.
    let script = format!(
        "import sys\nsys.path[:] = [folder for folder in sys.path if folder[:1] == '/']\nimport importlib.util as u\n\
         print('\\n'.join(u.find_spec('{name}').submodule_search_locations))"
    );
    let environments =
        ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(|name| lookup::named(name).ok()?);
    let mut pythons = environments
        .map(|folder| folder.join("bin/python3"))
        .chain(["python3", "python"].into_iter().filter_map(lookup::program));
    let folders = pythons.find_map(|python| {
        let mut command = Command::new(python);
        lookup::outside_current_directory(command.args(["-c", &script]));
        let output = child::output(command, PATIENCE).ok()?;
        let text = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
        let folders = text.lines().map(|line| PathBuf::from(line.trim()));
        let folders: Vec<PathBuf> = folders.filter(|folder| folder.is_absolute()).collect();
        folders.iter().any(|folder| folder.is_dir()).then_some(folders)
    });
    folders.unwrap_or_default()
}
