//! `migbench selftest`: what the harness itself costs here.

use super::fail;
use crate::cli::Exit;
use crate::cli::selftest::{Part, SelftestArgs};
use crate::machine::host;
use crate::measure::costs;
use crate::measure::protocol::Device;
use crate::render::selftest;
use crate::sweep::costs as between;
use anyhow::Result;
use std::io::Write;

/// Beyond this there is nothing new to see.
const MOST_WORKERS: usize = 8;

/// The verb.
pub fn run(args: &SelftestArgs, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    let done = match args.part {
        Some(Part::Echo) => costs::echo(&mut std::io::stdin().lock(), out).map(|()| Exit::Ok),
        Some(Part::Device) => device(out),
        None => whole(args, out, err),
    };
    done.unwrap_or_else(|error| fail(&error, Exit::Usage, err))
}

fn device(out: &mut dyn Write) -> Result<Exit> {
    serde_json::to_writer(out, &costs::on_device()?)?;
    Ok(Exit::Ok)
}

fn whole(args: &SelftestArgs, out: &mut dyn Write, err: &mut dyn Write) -> Result<Exit> {
    let mut all = costs::within()?;
    all.extend(between::with_workers(host::allowed_cpus().len().min(MOST_WORKERS))?);
    if args.device != Some(Device::Cpu) {
        match between::on_device() {
            Ok(costs) => all.extend(costs),
            Err(error) if args.device == Some(Device::Cuda) => return Err(error),
            Err(error) => writeln!(err, "no GPU measured: {error:#}")?,
        }
    }
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &all)?;
        writeln!(out)?;
    } else {
        selftest::write(out, &all)?;
    }
    Ok(Exit::Ok)
}
