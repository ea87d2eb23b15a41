//! A workload whose batches take given times: `scripted(times=1ms:3ms)` alternates between two.
//!
//! Hidden from users. On a virtual clock its rows are exact to the nanosecond; with `clock=real` it
//! sleeps, so that a test can interrupt it. `fault=ACTION@PHASE` makes its worker go wrong
//! ([`crate::measure::fault`]).

use super::Workload;
use anyhow::{Context, Result, bail};

/// Service times, one after another, from the start again at the end.
pub struct Scripted<F> {
    times: Vec<u64>,
    next: usize,
    pass: F,
}

/// What a script says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// Service times in ns; at least one.
    pub times: Vec<u64>,
    /// Time is the machine's.
    pub real_clock: bool,
    /// `ACTION@PHASE`, if any.
    pub fault: Option<String>,
}

impl Script {
    /// Parses `key=value,…`.
    ///
    /// # Errors
    /// An unknown key, or a time that is none.
    pub fn parse(text: &str) -> Result<Script> {
        let mut script = Script { times: vec![1_000_000], real_clock: false, fault: None };
        for part in text.split(',').filter(|p| !p.is_empty()) {
            match part.split_once('=') {
                Some(("times", times)) => {
                    script.times = times.split(':').map(parse_ns).collect::<Result<_>>()?
                }
                Some(("clock", "real")) => script.real_clock = true,
                Some(("fault", fault)) => script.fault = Some(fault.to_owned()),
                _ => bail!("scripted workload: '{part}' is not understood"),
            }
        }
        Ok(script)
    }
}

/// A duration with its unit: ns, us, ms, s, m or h; seconds without one. For options, too.
///
/// # Errors
/// Not a number with a unit, negative, or beyond 2^63 ns.
pub fn parse_ns(text: &str) -> Result<u64> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "ns" => 1.0,
        "us" => 1e3,
        "ms" => 1e6,
        "s" | "" => 1e9,
        "m" => 60e9,
        "h" => 3600e9,
        _ => bail!("'{text}' is not a duration: write for example 500ms, 10s or 2m"),
    };
    let value: f64 = number
        .parse()
        .with_context(|| format!("'{text}' is not a duration: write for example 500ms, 10s or 2m"))?;
    let ns = value * factor;
    if !(0.0..9.2e18).contains(&ns) {
        bail!("'{text}' is not a duration that can be measured");
    }
    Ok(ns.round() as u64)
}

impl<F: FnMut(u64)> Scripted<F> {
    /// `pass` lets so many ns go by.
    ///
    /// # Errors
    /// As [`Script::parse`].
    pub fn new(script: &str, pass: F) -> Result<Self> {
        Ok(Scripted { times: Script::parse(script)?.times, next: 0, pass })
    }
}

impl<F: FnMut(u64)> Workload for Scripted<F> {
    fn prepare(&mut self, _: &[usize], _: usize) -> Result<()> {
        Ok(())
    }

    fn issue(&mut self, _: usize, _: usize) -> Result<()> {
        Ok(())
    }

    fn wait(&mut self, _: usize) -> Result<()> {
        (self.pass)(self.times[self.next]);
        self.next = (self.next + 1) % self.times.len();
        Ok(())
    }
}
