//! `migbench doctor`: gather, examine, show; and save what was gathered.

use super::fail;
use crate::cli::{DoctorArgs, Exit, Format};
use crate::machine::doctor::evidence::Case;
use crate::machine::doctor::{self, gather};
use crate::machine::{capture, file};
use crate::render::doctor as render;
use crate::results::output::{IfExists, OutputFile};
use anyhow::{Context, Result, bail};
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
    // The capture is complete whatever becomes of standard output.
    let written = save(file, &case, err).and(shown.context("cannot write the report"));
    match written {
        Err(error) => fail(&error, Exit::Internal, err),
        Ok(()) if report.measurable() > 0 => Exit::Ok,
        Ok(()) => Exit::Usage,
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

fn open_capture(args: &DoctorArgs) -> Result<Option<OutputFile>> {
    let if_exists = if args.force { IfExists::Replace } else { IfExists::Refuse };
    args.capture.as_deref().map(|path| OutputFile::create(path, if_exists)).transpose()
}

fn save(file: Option<OutputFile>, case: &Case, err: &mut dyn Write) -> Result<()> {
    let Some(mut file) = file else { return Ok(()) };
    let text = capture::text(case)?;
    let written = file.write_whole(text.as_bytes());
    written.with_context(|| format!("cannot write {}", file.path().display()))?;
    file.publish()?;
    let _ = writeln!(
        err,
        "saved: {} (UUIDs, serial numbers and the names of users and programs are replaced; \
         read it before you give it away)",
        file.path().display()
    );
    Ok(())
}
