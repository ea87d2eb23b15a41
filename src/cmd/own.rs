//! The user's own workload, from the command line to the plan.

use crate::cli::RunArgs;
use crate::workload::command::Template;
use crate::workload::{Kind, Spec};
use anyhow::{Result, bail};
use rustix::fs::{Access, access};
use std::path::{Path, PathBuf};

/// What stands after `--`, if anything does.
///
/// # Errors
/// It is no program that can be started, here where that can be seen.
pub fn template(args: &RunArgs) -> Result<Option<Template>> {
    let Some(name) = args.own.command.first() else { return Ok(None) };
    // A plan for another machine says nothing of this one, and a placeholder may be anything.
    if args.topology.is_none() && !name.contains('{') {
        find(name)?;
    }
    Ok(Some(Template { arguments: args.own.command.clone(), deadline_ns: args.own.deadline }))
}

/// The workload as the row names it.
pub fn spec(template: &Template) -> Spec {
    Spec { kind: Kind::Command(template.text()), seq_len: Spec::SEQ_LEN }
}

/// The program that a shell would start.
fn find(name: &str) -> Result<PathBuf> {
    let found: Vec<PathBuf> = if name.contains('/') {
        vec![PathBuf::from(name)]
    } else {
        let folders = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&folders).map(|folder| folder.join(name)).collect()
    };
    let Some(path) = found.iter().find(|path| path.is_file()) else {
        bail!("there is no program '{name}': give its path, or a name in PATH");
    };
    let executable = |path: &Path| path.is_file() && access(path, Access::EXEC_OK).is_ok();
    match found.iter().find(|path| executable(path)) {
        Some(path) => Ok(path.clone()),
        None => bail!("{} is not executable: chmod +x it, or name its interpreter", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_as_a_shell_finds_them() {
        assert!(find("sh").unwrap().ends_with("sh"));
        assert!(find("/bin/sh").is_ok());
        assert_eq!(
            find("no-such-program").unwrap_err().to_string(),
            "there is no program 'no-such-program': give its path, or a name in PATH"
        );
        assert_eq!(
            find("./Cargo.toml").unwrap_err().to_string(),
            "./Cargo.toml is not executable: chmod +x it, or name its interpreter"
        );
        assert!(find("/").is_err(), "a folder");
    }
}
