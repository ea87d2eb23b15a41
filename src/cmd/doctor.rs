//! `migbench doctor`: gather, examine, show; and save what was gathered.

use super::fail;
use super::run::is_broken_pipe;
use crate::cli::{DoctorArgs, Exit, Format};
use crate::machine::doctor::evidence::Case;
use crate::machine::doctor::{self, gather};
use crate::machine::{capture, file};
use crate::render::doctor as render;
use anyhow::{Context, Result, bail};
use std::fs::{File, OpenOptions};
use std::io::Write;

/// The verb.
pub fn run(args: &DoctorArgs, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    // Opened before anything is asked: a capture that can't be saved is known at once.
    let opened = open_capture(args).and_then(|file| Ok((file, case(args)?)));
    let (file, case) = match opened {
        Ok(both) => both,
        Err(error) => return fail(&error, Exit::Usage, err),
    };
    let report = doctor::examine(&case);
    let shown = match args.format {
        Format::Json => render::json(out, &report),
        _ => render::table(out, &report),
    };
    let written = shown.context("cannot write the report").and_then(|()| save(args, file, &case, err));
    match written {
        Err(error) if !is_broken_pipe(&error) => {
            let _ = writeln!(err, "migbench: {error:#}");
            Exit::Internal
        }
        _ if report.measurable() > 0 => Exit::Ok,
        _ => Exit::Usage,
    }
}

fn case(args: &DoctorArgs) -> Result<Case> {
    if args.format == Format::Csv {
        bail!("doctor has no CSV form: choose --format table or json");
    }
    let Some(path) = &args.topology else {
        return Ok(gather::gather(&gather::Place {
            root: args.place.root.clone(),
            nvml: args.place.nvml.clone(),
            user: args.user.clone(),
        }));
    };
    let text = file::read(path)?;
    capture::parse(&text).with_context(|| format!("{} holds no topology", path.display()))
}

fn open_capture(args: &DoctorArgs) -> Result<Option<File>> {
    let Some(path) = &args.capture else { return Ok(None) };
    let mut options = OpenOptions::new();
    options.write(true);
    if args.force {
        options.create(true).truncate(true);
    } else {
        options.create_new(true);
    }
    match options.open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            bail!("{} exists: --force overwrites it", path.display())
        }
        Err(error) => Err(error).with_context(|| format!("cannot write {}", path.display())),
    }
}

fn save(args: &DoctorArgs, file: Option<File>, case: &Case, err: &mut dyn Write) -> Result<()> {
    let (Some(mut file), Some(path)) = (file, &args.capture) else { return Ok(()) };
    let text = capture::text(case)?;
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
    let _ = writeln!(
        err,
        "saved: {} (UUIDs, serial numbers and the names of users and programs are replaced; \
         read it before you give it away)",
        path.display()
    );
    Ok(())
}
