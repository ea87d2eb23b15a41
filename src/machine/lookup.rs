//! Where libraries and programs are looked for.
//!
//! Nothing is taken from the current directory: running migbench in a cloned repository must
//! not run that repository's code. An empty or relative part of a path list (PATH, PYTHONPATH,
//! LD_LIBRARY_PATH) means the current directory and is left out; a variable that names a file has to name
//! an absolute path. What the command line names, as `--ort-lib ./x.so`, is what the user asked for.
//!
//! With elevated privileges the environment belongs to somebody with fewer: it names nothing at all.

use anyhow::{Result, bail, ensure};
use rustix::fs::{Access, access};
use std::ffi::{OsStr, OsString, c_ulong};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the dynamic loader looks first.
const LIBRARY_PATH: &str = "LD_LIBRARY_PATH";
/// What [`LIBRARY_PATH`] was before [`leave_relative_folders`], for the user's own program.
const ORIGINAL: &str = "MIGBENCH_LD_LIBRARY_PATH";
/// Where programs are with elevated privileges.
const SYSTEM: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Where programs are without a PATH, as execvp(3) has it.
const WITHOUT_PATH: &str = "/bin:/usr/bin";

// SAFETY: the prototype in the C library; it reads a table that the kernel made when the program started.
unsafe extern "C" {
    safe fn getauxval(kind: c_ulong) -> c_ulong;
}
/// `AT_SECURE` of <elf.h>.
const SECURE: c_ulong = 23;

/// The program has more rights than its caller: set-user-id, set-group-id or file capabilities. The
/// kernel says so itself (`AT_SECURE`), because user ids alone do not show capabilities. A `sudo` or a
/// root shell is no such case: there the caller has these rights, too.
pub fn elevated() -> bool {
    getauxval(SECURE) != 0
}

/// The file that a variable names; none where it is empty or not set.
///
/// # Errors
/// The path is not absolute.
pub fn named(variable: &str) -> Result<Option<PathBuf>> {
    if elevated() {
        return Ok(None);
    }
    absolute(variable, std::env::var_os(variable))
}

fn absolute(variable: &str, value: Option<OsString>) -> Result<Option<PathBuf>> {
    let Some(path) = value.filter(|value| !value.is_empty()).map(PathBuf::from) else { return Ok(None) };
    ensure!(
        path.is_absolute(),
        "{variable} is '{}': give it an absolute path, nothing is opened in the current directory",
        path.display()
    );
    Ok(Some(path))
}

/// The absolute folders in a list such as PATH; none with elevated privileges.
pub fn folders(variable: &str) -> Vec<PathBuf> {
    match std::env::var_os(variable) {
        Some(list) if !elevated() => absolute_parts(&list),
        _ => Vec::new(),
    }
}

/// The loader separates its folders by semicolons, too.
fn absolute_parts(list: &OsStr) -> Vec<PathBuf> {
    let parts = list.as_bytes().split(|&byte| byte == b':' || byte == b';');
    parts.filter(|part| part.starts_with(b"/")).map(|part| OsStr::from_bytes(part).into()).collect()
}

/// The parts as a list again; none without a part.
fn list(folders: &[PathBuf]) -> Option<OsString> {
    let parts: Vec<&[u8]> = folders.iter().map(|folder| folder.as_os_str().as_bytes()).collect();
    (!parts.is_empty()).then(|| OsString::from_vec(parts.join(&b':')))
}

/// The program that a shell would start, unless PATH has it in a relative folder only. A name with a slash
/// is a path.
///
/// # Errors
/// There is none, or it can't be started; with what to do.
pub fn find(name: &str) -> Result<PathBuf> {
    let path = match std::env::var_os("PATH") {
        _ if elevated() => SYSTEM.into(),
        Some(path) => path,
        None => WITHOUT_PATH.into(),
    };
    find_in(name, &path)
}

fn find_in(name: &str, path: &OsStr) -> Result<PathBuf> {
    let (absolute, relative): (Vec<PathBuf>, Vec<PathBuf>) =
        std::env::split_paths(path).partition(|folder| folder.is_absolute());
    let places: Vec<PathBuf> = match name.contains('/') {
        true => vec![name.into()],
        false => absolute.iter().map(|folder| folder.join(name)).collect(),
    };
    let executable = |path: &PathBuf| path.is_file() && access(path.as_path(), Access::EXEC_OK).is_ok();
    if let Some(path) = places.iter().find(|path| executable(path)) {
        return Ok(path.clone());
    }
    if let Some(path) = places.iter().find(|path| path.is_file()) {
        bail!("{} is not executable: chmod +x it, or name its interpreter", path.display());
    }
    if places.iter().any(|path| path.is_dir()) {
        bail!("'{name}' is a folder: name the program in it");
    }
    let relative = relative.iter().map(|folder| Path::new(".").join(folder).join(name));
    match relative.filter(|_| !name.contains('/')).find(executable) {
        Some(path) => bail!(
            "'{name}' is only in a relative folder of PATH, from which nothing is started: name it as {}",
            path.display()
        ),
        None => bail!("there is no program '{name}': give its path, or a name in PATH"),
    }
}

/// A program of the system or of the user's installation.
pub fn program(name: &str) -> Option<PathBuf> {
    find(name).ok()
}

/// Starts this program anew without the empty and relative parts of LD_LIBRARY_PATH, if there are any. The
/// loader reads the variable once, at the start, for everything that is opened later: for libraries that
/// are opened by name, and for those that they need in turn.
///
/// # Errors
/// The program can't be started anew.
pub fn leave_relative_folders() -> Result<()> {
    // With elevated privileges the loader has removed the variable.
    let Some(original) = std::env::var_os(LIBRARY_PATH).filter(|_| !elevated()) else { return Ok(()) };
    let folders = absolute_parts(&original);
    let parts = original.as_bytes().split(|&byte| byte == b':' || byte == b';').count();
    if original.is_empty() || folders.len() == parts {
        return Ok(());
    }
    let mut arguments = std::env::args_os();
    let mut command = Command::new(super::child::THIS_PROGRAM);
    command.arg0(arguments.next().unwrap_or_else(|| "migbench".into())).args(arguments);
    match list(&folders) {
        Some(folders) => command.env(LIBRARY_PATH, folders),
        None => command.env_remove(LIBRARY_PATH),
    };
    let error = command.env(ORIGINAL, &original).exec();
    bail!(
        "{LIBRARY_PATH} is '{}', whose empty or relative parts mean the current directory, and this program can't \
         be started anew without them ({error}): set it to absolute folders",
        original.to_string_lossy()
    )
}

/// Gives the user's own program the LD_LIBRARY_PATH that it would have without migbench.
pub fn give_back_folders(command: &mut Command) {
    if let Some(original) = std::env::var_os(ORIGINAL) {
        command.env(LIBRARY_PATH, original).env_remove(ORIGINAL);
    }
}

/// Variables by which Python finds what it imports, some of them lists.
const PYTHON: [&str; 7] =
    ["PATH", "PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "PYTHONPYCACHEPREFIX", "PYTHONSTARTUP", "HOME"];

/// Keeps Python out of the current directory: it starts in `/`, and what its variables say of relative
/// folders is left out. Its `-I` would do that too, but takes the user's packages with it; `-P` is of 3.11.
pub fn outside_current_directory(command: &mut Command) {
    command.current_dir("/");
    for variable in PYTHON {
        match list(&folders(variable)) {
            Some(folders) => command.env(variable, folders),
            None => command.env_remove(variable),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn only_absolute_folders_of_a_list_count() {
        let parts = |list: &str| absolute_parts(OsStr::new(list));
        assert_eq!(parts("/a:/b"), [Path::new("/a"), Path::new("/b")]);
        for list in ["", ":", ".", "..:lib", ":./a:", "$ORIGIN/lib", ";.;"] {
            assert_eq!(parts(list), Vec::<PathBuf>::new(), "{list}");
        }
        assert_eq!(parts(":/a;.;/b:"), [Path::new("/a"), Path::new("/b")]);
        assert_eq!(list(&parts(".:/a:/b")), Some("/a:/b".into()));
        assert_eq!(list(&parts(".")), None);
    }

    #[test]
    fn a_variable_names_an_absolute_path() {
        let named = |value: &str| absolute("MIGBENCH_X", Some(value.into()));
        assert_eq!(absolute("MIGBENCH_X", None).unwrap(), None);
        assert_eq!(named("").unwrap(), None);
        assert_eq!(named("/x.so").unwrap(), Some("/x.so".into()));
        for relative in ["x.so", "./x.so", "a/x.so"] {
            let text = named(relative).unwrap_err().to_string();
            assert!(text.starts_with(&format!("MIGBENCH_X is '{relative}': give it an absolute")), "{text}");
        }
    }

    #[test]
    fn a_program_is_found_in_absolute_folders_only() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("serve");
        fs::write(&program, "").unwrap();
        let absolute = folder.path().as_os_str();
        let find = |name: &str, path: &OsStr| find_in(name, path).map_err(|error| error.to_string());
        assert!(
            find("serve", absolute)
                .unwrap_err()
                .ends_with("serve is not executable: chmod +x it, or name its interpreter")
        );
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find("serve", absolute), Ok(program.clone()));
        assert_eq!(find(program.to_str().unwrap(), OsStr::new("")), Ok(program.clone()));
        let nothing = "there is no program 'other': give its path, or a name in PATH";
        assert_eq!(find("other", absolute), Err(nothing.to_owned()));
        assert_eq!(find("/", absolute), Err("'/' is a folder: name the program in it".to_owned()));
        // From the folder in which tests run to the same program.
        let depth = std::env::current_dir().unwrap().components().count() - 1;
        let relative = format!("{}{}", vec![".."; depth].join("/"), folder.path().display());
        for path in [relative.clone(), format!(":{relative}"), format!("/nonexistent:{relative}")] {
            let refusal = find("serve", OsStr::new(&path)).unwrap_err();
            assert!(
                refusal.starts_with("'serve' is only in a relative folder of PATH, from which"),
                "{refusal}"
            );
            assert!(refusal.contains("name it as ./../"), "{refusal}");
        }
        assert!(find("Cargo.toml", OsStr::new(".")).unwrap_err().starts_with("there is no program"));
    }

    #[test]
    fn tests_have_no_elevated_privileges() {
        assert!(!elevated());
        assert_eq!(named("MIGBENCH_NO_SUCH_VARIABLE").unwrap(), None);
        assert!(self::program("sh").is_some_and(|path| path.is_absolute()));
    }
}
