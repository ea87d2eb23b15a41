//! The names of MIG profiles.

use anyhow::{Result, bail};
use std::fmt;
use std::str::FromStr;

/// `1c.3g.40gb+me`, taken apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProfileName {
    /// Compute slices of the compute instance; none where it has all of its GPU instance.
    pub ci_slices: Option<u32>,
    /// Compute slices of the GPU instance.
    pub gi_slices: u32,
    /// Memory in GB, rounded as NVIDIA does: a label, not a size.
    pub memory_gb: u32,
    /// Media engines and graphics: `+me`, `+me.all`, `+gfx`, `-me`, or nothing.
    pub attributes: String,
}

impl ProfileName {
    /// The name without the compute instance's part.
    pub fn of_gpu_instance(mut self) -> ProfileName {
        self.ci_slices = None;
        self
    }
}

impl FromStr for ProfileName {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<ProfileName> {
        match parse_name(text) {
            Some(name) => Ok(name),
            None => bail!("'{text}' is no MIG profile: expected one like 1g.10gb, 1c.3g.40gb or 1g.10gb+me"),
        }
    }
}

fn parse_name(text: &str) -> Option<ProfileName> {
    let (first, after) = text.split_once('.')?;
    let (ci_slices, gi, rest) = match first.strip_suffix('c') {
        Some(ci) => {
            let (gi, rest) = after.split_once('.')?;
            (Some(number(ci)?), gi, rest)
        }
        None => (None, first, after),
    };
    let gi_slices = number(gi.strip_suffix('g')?)?;
    let digits = rest.find(|c: char| !c.is_ascii_digit())?;
    let memory_gb = number(&rest[..digits])?;
    let attributes = rest[digits..].strip_prefix("gb")?;
    let tail = attributes.strip_prefix(['+', '-']);
    let known = |c: char| c.is_ascii_lowercase() || matches!(c, '.' | ',' | '+' | '-');
    let good = attributes.is_empty() || tail.is_some_and(|t| !t.is_empty() && t.chars().all(known));
    good.then(|| ProfileName { ci_slices, gi_slices, memory_gb, attributes: attributes.to_owned() })
}

/// Digits and nothing else; no leading zero, so that a name has one spelling.
fn number(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

impl fmt::Display for ProfileName {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if let Some(ci) = self.ci_slices {
            write!(f, "{ci}c.")?;
        }
        write!(f, "{}g.{}gb{}", self.gi_slices, self.memory_gb, self.attributes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_spelling_of_the_driver_is_read() {
        for (text, ci, gi, gb, attributes) in [
            ("1g.5gb", None, 1, 5, ""),
            ("1c.3g.40gb", Some(1), 3, 40, ""),
            ("1g.10gb+me", None, 1, 10, "+me"),
            ("1g.24gb+me.all", None, 1, 24, "+me.all"),
            ("1g.24gb-me", None, 1, 24, "-me"),
            ("4g.96gb+gfx", None, 4, 96, "+gfx"),
            ("7g.141gb", None, 7, 141, ""),
            ("1g.0gb", None, 1, 0, ""),
            ("2c.7g.80gb+me,gfx", Some(2), 7, 80, "+me,gfx"),
        ] {
            let name: ProfileName = text.parse().unwrap();
            assert_eq!(
                (name.ci_slices, name.gi_slices, name.memory_gb, name.attributes.as_str()),
                (ci, gi, gb, attributes)
            );
            assert_eq!(name.to_string(), text);
        }
        assert_eq!("1c.3g.40gb".parse::<ProfileName>().unwrap().of_gpu_instance().to_string(), "3g.40gb");
    }

    #[test]
    fn what_is_no_profile_is_refused_by_name() {
        for text in
            ["", "g.5gb", "1g", "1g.gb", "1g.5", "1g.5gb+", "1g.5gbme", "c.1g.5gb", "1g.5GB", "01g.5gb"]
        {
            let error = text.parse::<ProfileName>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("'{text}' is no MIG profile")), "{error}");
        }
    }

    proptest! {
        #[test]
        fn a_name_that_is_read_is_written_the_same(text in "[0-9]{0,2}[cg]?[.][0-9]{0,2}[g]?[.]?[0-9]{0,3}(gb)?[+-]?[a-z.]{0,4}") {
            if let Ok(name) = text.parse::<ProfileName>() {
                prop_assert_eq!(name.to_string(), text);
            }
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC{0,40}") {
            let _ = text.parse::<ProfileName>();
        }
    }
}
