//! A workload whose batches take given times: `scripted(times=1ms:3ms)` alternates between two.
//!
//! Hidden from users. Its lanes work side by side. On a virtual clock its rows are exact to the
//! nanosecond; with `clock=real` it sleeps, so that a test can interrupt it. `per_sample=10us` is added
//! for each sample of a batch. `fault=ACTION@PHASE` makes its worker go wrong
//! ([`crate::measure::fault`]).

use super::Workload;
use anyhow::{Context, Result, bail};

/// How time passes for a script.
pub trait Passing {
    /// Now, in ns.
    fn time(&self) -> u64;
    /// Returns at `at`, or at once when that has passed.
    fn pass_until(&self, at: u64);
    /// Something will happen then.
    fn expect(&self, at: u64);
}

/// Service times, one after another, from the start again at the end.
pub struct Scripted<T> {
    script: Script,
    next: usize,
    time: T,
    /// When the batch of each lane is done.
    done_at: Vec<u64>,
}

/// What a script says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// Service times in ns; at least one.
    pub times: Vec<u64>,
    /// Added for each sample of a batch, in ns.
    pub per_sample: u64,
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
        let mut script = Script { times: vec![1_000_000], per_sample: 0, real_clock: false, fault: None };
        for part in text.split(',').filter(|p| !p.is_empty()) {
            match part.split_once('=') {
                Some(("times", times)) => {
                    script.times = times.split(':').map(parse_ns).collect::<Result<_>>()?
                }
                Some(("per_sample", time)) => script.per_sample = parse_ns(time)?,
                Some(("clock", "real")) => script.real_clock = true,
                Some(("fault", fault)) => script.fault = Some(fault.to_owned()),
                _ => bail!("scripted workload: '{part}' is not understood"),
            }
        }
        Ok(script)
    }
}

/// A duration with its unit: ns, us, ms, s, m or h. For options, too: a number without a unit is refused,
/// because seconds and milliseconds are equally likely to be meant.
///
/// # Errors
/// Not a number with a unit, negative, or beyond 2^63 ns.
pub fn parse_ns(text: &str) -> Result<u64> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number = number.trim();
    let factor = match unit {
        "ns" => 1.0,
        "us" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "m" => 60e9,
        "h" => 3600e9,
        "" if number.parse::<f64>().is_ok() => bail!("'{text}' has no unit: write {number}ms or {number}s"),
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

impl<T: Passing> Scripted<T> {
    /// On this time.
    ///
    /// # Errors
    /// As [`Script::parse`].
    pub fn new(script: &str, time: T) -> Result<Self> {
        Ok(Scripted { script: Script::parse(script)?, next: 0, time, done_at: vec![0] })
    }
}

impl<T: Passing> Workload for Scripted<T> {
    fn prepare(&mut self, _: &[usize], lanes: usize) -> Result<()> {
        self.done_at = vec![0; lanes];
        Ok(())
    }

    fn issue(&mut self, lane: usize, batch: usize) -> Result<()> {
        let service = self.script.times[self.next] + self.script.per_sample * batch as u64;
        self.next = (self.next + 1) % self.script.times.len();
        self.done_at[lane] = self.time.time() + service;
        self.time.expect(self.done_at[lane]);
        Ok(())
    }

    fn wait(&mut self, lane: usize) -> Result<()> {
        self.time.pass_until(self.done_at[lane]);
        Ok(())
    }

    fn is_done(&mut self, lane: usize) -> Result<bool> {
        Ok(self.time.time() >= self.done_at[lane])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit() {
        for (text, ns) in [
            ("5ns", 5),
            ("2us", 2_000),
            ("500ms", 500_000_000),
            ("1.5s", 1_500_000_000),
            ("10 s", 10_000_000_000),
            ("2m", 120_000_000_000),
            ("1h", 3_600_000_000_000),
        ] {
            assert_eq!(parse_ns(text).unwrap(), ns, "{text}");
        }
        let error = |text: &str| parse_ns(text).unwrap_err().to_string();
        for text in ["10", "500", "0", "1.5"] {
            assert_eq!(error(text), format!("'{text}' has no unit: write {text}ms or {text}s"));
        }
        for text in ["", "ms", "x", "10x", "10sec"] {
            assert_eq!(
                error(text),
                format!("'{text}' is not a duration: write for example 500ms, 10s or 2m")
            );
        }
        assert_eq!(error("-5s"), "'-5s' is not a duration that can be measured");
    }
}
