//! MIG profiles: their names, and what is known of cards that are not here.
//!
//! The driver's own answer always comes first; the table serves planning for a machine of which
//! only names are known, and each of its rows says where it was read.

use super::topology::{Engines, Gpu, Placements, Profile};
use anyhow::{Result, bail};
use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

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

/// A kind of card, as real machines printed it.
#[derive(Clone, Debug, PartialEq)]
pub struct Card {
    /// What a GPU's name contains, any of them.
    pub names: Vec<String>,
    /// Its memory in MiB lies within these, where several cards share a name.
    pub memory_mib: (u64, u64),
    /// Multiprocessors of the whole card.
    pub sm_count: Option<u32>,
    /// Where the rows were read.
    pub source: String,
    /// The profiles that it offers.
    pub profiles: Vec<Profile>,
}

/// All cards that are known.
pub fn cards() -> &'static [Card] {
    static CARDS: OnceLock<Vec<Card>> = OnceLock::new();
    CARDS.get_or_init(|| parse_cards(include_str!("cards.txt")).expect("a test reads the whole table"))
}

/// What the table knows of a GPU's profiles; nothing for cards that it lacks.
pub fn known(gpu: &Gpu) -> Option<&'static Card> {
    let fits = |card: &Card| {
        card.names.iter().any(|name| gpu.name.contains(name.as_str()))
            && gpu.memory_mib.is_none_or(|mib| (card.memory_mib.0..=card.memory_mib.1).contains(&mib))
    };
    cards().iter().find(|card| fits(card))
}

/// The table's text: a line `card`, then a line a profile.
///
/// # Errors
/// A line is neither; the message names it.
pub fn parse_cards(text: &str) -> Result<Vec<Card>> {
    let mut cards: Vec<Card> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let parsed = match (line.strip_prefix("card "), cards.last_mut()) {
            (Some(card), _) => parse_card(card).map(|card| cards.push(card)),
            (None, Some(card)) => parse_row(line, &card.source).map(|row| card.profiles.push(row)),
            (None, None) => None,
        };
        if parsed.is_none() {
            bail!("line {}: neither a card nor a profile: {line}", number + 1);
        }
    }
    Ok(cards)
}

/// `names ; memory from-to ; SMs ; source`
fn parse_card(text: &str) -> Option<Card> {
    let mut parts = text.split(';').map(str::trim);
    let names = parts.next()?.split('|').map(|name| name.trim().to_owned()).collect();
    let (low, high) = parts.next()?.split_once('-')?;
    let memory_mib = (low.trim().parse().ok()?, high.trim().parse().ok()?);
    let sm_count = unknown(parts.next()?)?;
    Some(Card { names, memory_mib, sm_count, source: parts.next()?.to_owned(), profiles: Vec::new() })
}

/// `name id max GiB SMs CE/DEC/ENC/JPEG/OFA placements`; `?` is unknown.
fn parse_row(text: &str, source: &str) -> Option<Profile> {
    let mut words = text.split_whitespace();
    let name: ProfileName = words.next()?.parse().ok()?;
    let (id, max) = (words.next()?.parse().ok()?, unknown(words.next()?)?);
    let gib: Option<f64> = unknown(words.next()?)?;
    let sm_count = unknown(words.next()?)?;
    let engines = match words.next()? {
        "?" => None,
        text => {
            let numbers: Vec<u32> = text.split('/').map(|n| n.parse().ok()).collect::<Option<_>>()?;
            let [copy, decoder, encoder, jpeg, ofa] = numbers[..] else { return None };
            Some(Engines { copy, decoder, encoder, jpeg, ofa })
        }
    };
    let placements: Option<Placements> = unknown(words.next()?)?;
    Some(Profile {
        id,
        slices: Some(name.gi_slices),
        name: Some(name.to_string()),
        max,
        sm_count,
        memory_mib: gib.map(|gib| (gib * 1024.0).round() as u64),
        engines,
        placements,
        source: Some(source.to_owned()),
        ..Profile::default()
    })
}

/// The outer `None`: rubbish. The inner: a question mark.
fn unknown<T: FromStr>(word: &str) -> Option<Option<T>> {
    if word == "?" { Some(None) } else { word.parse().ok().map(Some) }
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

    #[test]
    fn the_whole_table_is_read_and_its_rows_fit_their_card() {
        let cards = cards();
        assert!(cards.len() >= 9, "{}", cards.len());
        for card in cards {
            assert!(!card.source.is_empty() && !card.profiles.is_empty(), "{card:?}");
            for profile in &card.profiles {
                assert!(profile.sm_count.is_none_or(|sm| card.sm_count.is_none_or(|all| sm <= all)));
                assert!(profile.memory_mib.is_none_or(|mib| mib <= card.memory_mib.1), "{profile:?}");
                let starts = profile.placements.as_ref().map(|p| p.0.len() as u32);
                assert!(starts.is_none_or(|n| profile.max.is_none_or(|max| max <= n)), "{profile:?}");
            }
        }
    }

    #[test]
    fn a_card_is_found_by_name_and_memory() {
        let gpu = |name: &str, mib| Gpu { name: name.into(), memory_mib: mib, ..Gpu::default() };
        let sms = |name: &str, mib| {
            let card = known(&gpu(name, mib))?;
            card.profiles.first()?.sm_count
        };
        assert_eq!(sms("NVIDIA H100 80GB HBM3", Some(81559)), Some(16));
        assert_eq!(sms("NVIDIA H100 PCIe", Some(81559)), Some(14));
        assert_eq!(sms("NVIDIA H200", Some(143771)), Some(16));
        assert_eq!(known(&gpu("A100-SXM4-40GB", None)).unwrap().profiles[0].memory_mib, Some(4864));
        assert_eq!(sms("NVIDIA L4", Some(23034)), None);
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
            let _ = text.parse::<Placements>();
            let _ = parse_cards(&text);
        }
    }
}
