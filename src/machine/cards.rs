//! Which card a GPU's name means, and what is published about that card.
//!
//! The driver's own answer always comes first. The table serves planning for a machine of which only
//! names are known, and the limits that saved rows are judged by; each of its rows says where it was
//! read. A GPU that the table lacks is described and judged less, and never wrongly.

use super::profile::ProfileName;
use super::topology::{Engines, Gpu, Placements, Profile};
use anyhow::{Result, bail};
use std::str::FromStr;
use std::sync::OnceLock;

/// A card model, as real machines printed it.
#[derive(Clone, Debug, PartialEq)]
pub struct Card {
    /// The names that drivers print for it, without the maker's.
    pub names: Vec<String>,
    /// Its type of memory, as `HBM3`; names may end in it.
    pub memory_type: String,
    /// Its memory in MiB lies within these.
    pub memory_mib: (u64, u64),
    /// Multiprocessors of the whole card.
    pub sm_count: Option<u32>,
    /// The first driver that offers MIG on it, as `570.133.20`.
    pub since_driver: Option<String>,
    /// Where the rows were read.
    pub source: String,
    /// What the whole card does at most.
    pub speed: Option<Speed>,
    /// The profiles that it offers; empty where nobody has published them.
    pub profiles: Vec<Profile>,
}

/// What a whole card does at most, by its data sheet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// DRAM bandwidth, 10^9 bytes/s.
    pub gbytes_per_s: f64,
    /// Dense fp16 and bf16 tensor operations, 10^12/s at boost clock.
    pub tflops_16: f64,
    /// The same for fp32 inputs, which tensor cores take as TF32.
    pub tflops_32: f64,
    /// L2 cache, MB.
    pub l2_mb: f64,
}

/// All cards that are known.
pub fn cards() -> &'static [Card] {
    static CARDS: OnceLock<Vec<Card>> = OnceLock::new();
    CARDS.get_or_init(|| parse(include_str!("cards.txt")).expect("a test reads the whole table"))
}

/// The card that a GPU's name means, if the table has it.
///
/// Names are compared by whole words from their beginning, and the longest name of the table counts.
/// What stands behind it must not make it another card: `H800 PCIe` is not `H800`, `GH200` is not
/// `H200`, a virtual GPU `A100-3-20C` is not an A100. Where several cards remain, none is meant.
/// `memory_mib` of the whole GPU, where it is known, must fit.
pub fn named(gpu_name: &str, memory_mib: Option<u64>) -> Option<&'static Card> {
    among(cards(), gpu_name, memory_mib)
}

/// The card of a GPU, if the table has it.
pub fn known(gpu: &Gpu) -> Option<&'static Card> {
    named(&gpu.name, gpu.memory_mib)
}

fn among<'a>(cards: &'a [Card], gpu_name: &str, memory_mib: Option<u64>) -> Option<&'a Card> {
    let words = words(gpu_name);
    let matched = |card: &Card| card.names.iter().filter_map(|name| card.matched(name, &words)).max();
    let found: Vec<(usize, &Card)> = cards.iter().filter_map(|card| Some((matched(card)?, card))).collect();
    let longest = found.iter().map(|(length, _)| *length).max()?;
    let fits =
        |card: &Card| memory_mib.is_none_or(|mib| (card.memory_mib.0..=card.memory_mib.1).contains(&mib));
    let mut meant = found.into_iter().filter(|(length, card)| *length == longest && fits(card));
    match (meant.next(), meant.next()) {
        (Some((_, card)), None) => Some(card),
        _ => None,
    }
}

impl Card {
    /// Is a driver of this version older than the first that offers MIG on this card? False where that
    /// is not known.
    pub fn is_before_mig(&self, driver_version: &str) -> bool {
        let numbers =
            |text: &str| text.split('.').map(|part| part.parse().ok()).collect::<Option<Vec<u32>>>();
        let first = self.since_driver.as_deref().and_then(numbers);
        numbers(driver_version).zip(first).is_some_and(|(driver, first)| driver < first)
    }

    /// The number of words of `name` if `gpu` is that name, with nothing behind it that tells another
    /// card.
    fn matched(&self, name: &str, gpu: &[String]) -> Option<usize> {
        let name = words(name);
        let rest = gpu.strip_prefix(&name[..])?;
        rest.iter().all(|word| self.says_nothing_new(word)).then_some(name.len())
    }

    /// Is a word only the card's own type or size of memory, or its form?
    fn says_nothing_new(&self, word: &str) -> bool {
        let size = word.strip_suffix("GB").and_then(|gb| gb.parse::<u64>().ok());
        let form = word.strip_prefix("SXM").is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()));
        let own_size = |gb: u64| (self.memory_mib.0..=self.memory_mib.1).contains(&gb.saturating_mul(1024));
        form || word.eq_ignore_ascii_case(&self.memory_type) || size.is_some_and(own_size)
    }
}

/// The words of a name in capitals, without the maker and without the MIG profile that CUDA appends.
pub fn words(name: &str) -> Vec<String> {
    let whole = name.split_once(" MIG ").map_or(name, |(gpu, _)| gpu);
    let split = whole.split(|c: char| c.is_whitespace() || c == '-').filter(|word| !word.is_empty());
    let all = split.map(str::to_uppercase);
    all.skip_while(|word| ["STAND", "IN", "NVIDIA", "TESLA"].contains(&word.as_str())).collect()
}

/// The profile among those of one card that a driver's name for it means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Meant<'a> {
    /// The profile that the name means.
    pub profile: &'a Profile,
    /// The name is the table's. A driver that names it otherwise gives it other memory, too.
    pub same_name: bool,
}

/// How far two drivers' labels for the memory of one profile may be apart.
const LABELS_APART: f64 = 0.15;

/// Finds a profile of one card by name. Names change with the driver (`1g.35gb` became `1g.31gb` on a
/// GB300), so that another label means the only profile of as many slices with the same engines and
/// about the same memory.
pub fn profile<'a>(profiles: &'a [Profile], name: &str) -> Option<Meant<'a>> {
    let wanted = name.parse::<ProfileName>().ok()?.of_gpu_instance();
    let names = profiles.iter().filter_map(|p| Some((p, p.name.as_ref()?.parse::<ProfileName>().ok()?)));
    let alike: Vec<(&Profile, ProfileName)> = names
        .filter(|(_, other)| (other.gi_slices, &other.attributes) == (wanted.gi_slices, &wanted.attributes))
        .collect();
    if let Some((profile, _)) = alike.iter().find(|(_, other)| *other == wanted) {
        return Some(Meant { profile, same_name: true });
    }
    let gb = f64::from(wanted.memory_gb);
    let mut near = alike.iter().filter(|(_, other)| {
        let theirs = f64::from(other.memory_gb);
        (gb - theirs).abs() <= LABELS_APART * theirs
    });
    match (near.next(), near.next()) {
        (Some((profile, _)), None) => Some(Meant { profile, same_name: false }),
        _ => None,
    }
}

/// The table's text: a line `card`, perhaps a line `speed`, then a line for each profile.
///
/// # Errors
/// A line is none of these; the message names it.
pub fn parse(text: &str) -> Result<Vec<Card>> {
    let mut cards: Vec<Card> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let parsed = match (line.strip_prefix("card "), line.strip_prefix("speed "), cards.last_mut()) {
            (Some(card), ..) => parse_card(card).map(|card| cards.push(card)),
            (_, Some(speed), Some(card)) => parse_speed(speed).map(|speed| card.speed = Some(speed)),
            (None, None, Some(card)) => parse_row(line, &card.source).map(|row| card.profiles.push(row)),
            _ => None,
        };
        if parsed.is_none() {
            bail!("line {}: neither a card, nor its speed, nor a profile: {line}", number + 1);
        }
    }
    Ok(cards)
}

/// `names ; memory type and size from-to ; SMs ; first driver ; source`
fn parse_card(text: &str) -> Option<Card> {
    let mut parts = text.split(';').map(str::trim);
    let names = parts.next()?.split('|').map(|name| name.trim().to_owned()).collect();
    let (memory_type, range) = parts.next()?.split_once(' ')?;
    let (low, high) = range.split_once('-')?;
    let card = Card {
        names,
        memory_type: memory_type.to_owned(),
        memory_mib: (low.trim().parse().ok()?, high.trim().parse().ok()?),
        sm_count: unknown(parts.next()?)?,
        since_driver: unknown(parts.next()?)?,
        source: parts.next()?.to_owned(),
        speed: None,
        profiles: Vec::new(),
    };
    parts.next().is_none().then_some(card)
}

/// `GB/s TFLOP/s-16-bit TFLOP/s-fp32 L2-MB`
fn parse_speed(text: &str) -> Option<Speed> {
    let numbers: Vec<f64> = text.split_whitespace().map(|word| word.parse().ok()).collect::<Option<_>>()?;
    let [gbytes_per_s, tflops_16, tflops_32, l2_mb] = numbers[..] else { return None };
    Some(Speed { gbytes_per_s, tflops_16, tflops_32, l2_mb })
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

/// The outer `None`: the word cannot be read. The inner: a question mark.
fn unknown<T: FromStr>(word: &str) -> Option<Option<T>> {
    if word == "?" { Some(None) } else { word.parse().ok().map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_whole_table_is_read_and_its_rows_fit_their_card() {
        let cards = cards();
        assert!(cards.len() >= 20, "{}", cards.len());
        for card in cards {
            assert!(!card.source.is_empty(), "{card:?}");
            for profile in &card.profiles {
                assert!(profile.sm_count.is_none_or(|sm| card.sm_count.is_none_or(|all| sm <= all)));
                assert!(profile.memory_mib.is_none_or(|mib| mib <= card.memory_mib.1), "{profile:?}");
                let starts = profile.placements.as_ref().map(|p| p.0.len() as u32);
                assert!(starts.is_none_or(|n| profile.max.is_none_or(|max| max <= n)), "{profile:?}");
                let same = |other: &&Profile| other.id == profile.id || other.name == profile.name;
                assert_eq!(card.profiles.iter().filter(same).count(), 1, "{profile:?}");
            }
        }
    }

    #[test]
    fn every_name_of_the_table_means_its_card_and_no_other() {
        for card in cards() {
            let middle = (card.memory_mib.0 + card.memory_mib.1) / 2;
            let size = format!(" {}GB", middle / 1024);
            for name in &card.names {
                for text in [
                    name.clone(),
                    format!("NVIDIA {name}"),
                    format!("STAND-IN NVIDIA {name}"),
                    format!("nvidia {}", name.to_lowercase()),
                    format!("NVIDIA {name} MIG 1g.10gb"),
                    format!("NVIDIA {name} {}", card.memory_type),
                    format!("NVIDIA {name}{size}"),
                ] {
                    let meant = named(&text, None).unwrap_or_else(|| panic!("'{text}' means no card"));
                    assert_eq!(meant, card, "'{text}'");
                    assert_eq!(named(&text, Some(middle)), Some(card), "'{text}'");
                    assert_eq!(named(&text, Some(card.memory_mib.1 + 1)), None, "'{text}'");
                }
                // In front of it, glued to it, or behind it: a word that makes it something else.
                for text in [
                    format!("NVIDIA G{name}"),
                    format!("NVIDIA {name}X"),
                    format!("NVIDIA {name} Ti"),
                    format!("NVIDIA {name}-4C"),
                    format!("NVIDIA {name} 1GB"),
                    format!("GRID {name}"),
                ] {
                    assert_ne!(named(&text, None), Some(card), "'{text}'");
                }
            }
        }
    }

    /// As NVIDIA's lists of supported GPUs have them.
    #[test]
    fn real_names_that_are_not_in_the_table_mean_no_card() {
        for name in [
            "NVIDIA A2",
            "NVIDIA A10",
            "NVIDIA A10G",
            "NVIDIA A16",
            "NVIDIA A40",
            "NVIDIA A30X",
            "NVIDIA A100X",
            "NVIDIA A100-SXM-64GB",
            "NVIDIA AX800",
            "NVIDIA PG506-232",
            "NVIDIA RTX A1000",
            "NVIDIA RTX A3000 Laptop GPU",
            "NVIDIA RTX A6000",
            "NVIDIA RTX 6000 Ada Generation",
            "NVIDIA RTX 6000D",
            "NVIDIA RTX PRO 6000D Blackwell",
            "NVIDIA RTX PRO 6000 Blackwell DC-4-24Q",
            "NVIDIA RTX PRO 4000 Blackwell",
            "NVIDIA H100",
            "NVIDIA H100 64GB HBM2",
            "NVIDIA H100 80GB HBM2e",
            "NVIDIA H100XM-80C",
            "NVIDIA H100-1-10CME",
            "GRID A100-3-20C",
            "NVIDIA A100-4-20C",
            "GRID A100D-7-80C",
            "NVIDIA GH200",
            "NVIDIA GH200 624GB",
            "NVIDIA H20 NVL16",
            "NVIDIA H20L-7-141C",
            "NVIDIA B100",
            "NVIDIA B200A",
            "NVIDIA GB10",
            "NVIDIA GB200 NVL4",
            "NVIDIA L4",
            "NVIDIA L40S",
            "Tesla V100-SXM2-32GB",
            "Tesla T4",
            "Orin (nvgpu)",
            "Graphics Device",
            "NVIDIA Graphics Device",
            "NVIDIA",
            "",
        ] {
            assert_eq!(named(name, None).map(|card| &card.names), None, "'{name}'");
        }
    }

    #[test]
    fn names_that_hold_each_other_are_told_apart() {
        let first = |name: &str| named(name, None).map(|card| card.names[0].as_str());
        for (name, card) in [
            ("NVIDIA GB200", "GB200"),
            ("NVIDIA B200", "B200"),
            ("NVIDIA GB300", "GB300"),
            ("NVIDIA B300 SXM6 AC", "B300 SXM6 AC"),
            ("NVIDIA GH200 144G HBM3e", "GH200 144G HBM3e"),
            ("NVIDIA GH200 480GB", "GH200 480GB"),
            ("NVIDIA H200", "H200"),
            ("NVIDIA H200 NVL", "H200"),
            ("NVIDIA H20", "H20"),
            ("NVIDIA H20-3e", "H20-3e"),
            ("NVIDIA H800", "H100 80GB HBM3"),
            ("NVIDIA H800 PCIe", "H800 PCIe"),
            ("NVIDIA H800 NVL", "H100 NVL"),
            ("NVIDIA H100 NVL", "H100 NVL"),
            ("NVIDIA H100 PCIe", "H100 PCIe"),
            ("A100-SXM4-40GB", "A100-SXM4-40GB"),
            ("NVIDIA A100 80GB PCIe", "A100-SXM4-80GB"),
            ("NVIDIA A800 40GB Active", "A100-SXM4-40GB"),
        ] {
            assert_eq!(first(name), Some(card), "{name}");
        }
    }

    #[test]
    fn a_name_that_several_cards_have_is_decided_by_memory_or_not_at_all() {
        let two = "card X9 ; HBM3 90-99 ; 10 ; ? ; here\ncard X9 ; HBM3 190-199 ; 20 ; ? ; there\n";
        let cards = parse(two).unwrap();
        let sms = |memory| among(&cards, "NVIDIA X9", memory).and_then(|card| card.sm_count);
        assert_eq!(
            (sms(Some(95)), sms(Some(195)), sms(Some(150)), sms(None)),
            (Some(10), Some(20), None, None)
        );
    }

    #[test]
    fn the_first_driver_with_mig_is_compared_by_its_numbers() {
        let before = |card: &str, driver: &str| named(card, None).unwrap().is_before_mig(driver);
        assert!(before("NVIDIA B200", "570.124.06") && before("NVIDIA B200", "565.57.01"));
        assert!(!before("NVIDIA B200", "570.133.20") && !before("NVIDIA B200", "580.65.06"));
        assert!(
            !before("NVIDIA A100-SXM4-40GB", "450.80.02") && before("NVIDIA A100-SXM4-40GB", "450.51.06")
        );
        assert!(!before("NVIDIA GH200 480GB", "1.0") && !before("NVIDIA B200", "unknown"));
    }

    #[test]
    fn a_profile_is_found_under_the_name_that_another_driver_gives_it() {
        let id = |card: &str, name: &str| {
            let found = profile(&named(card, None).unwrap().profiles, name)?;
            Some((found.profile.id, found.same_name))
        };
        assert_eq!(id("NVIDIA GB300", "1g.31gb"), Some((19, false)));
        assert_eq!(id("NVIDIA GB300", "7g.251gb"), Some((0, false)));
        assert_eq!(id("NVIDIA GB200", "1g.24gb"), Some((19, false)));
        assert_eq!(id("NVIDIA GB200", "1g.23gb"), Some((19, true)));
        assert_eq!(id("NVIDIA GB200", "7g.189gb"), Some((0, false)));
        assert_eq!(id("NVIDIA A100-SXM4-80GB", "7g.79gb"), Some((0, false)));
        assert_eq!(id("NVIDIA A100-SXM4-80GB", "1c.3g.40gb"), Some((9, true)));
        // The ID of one name differs between cards.
        assert_eq!(id("NVIDIA A100-SXM4-40GB", "1g.10gb"), Some((15, true)));
        assert_eq!(id("NVIDIA A100-SXM4-80GB", "1g.10gb"), Some((19, true)));
        // Between two profiles of one slice, and with engines that the card does not offer.
        assert_eq!(id("NVIDIA H200", "1g.24gb"), None);
        assert_eq!(id("NVIDIA H200", "1g.18gb+gfx"), None);
        assert_eq!(id("NVIDIA H200", "whole"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC{0,40}") {
            let _ = parse(&text);
            let _ = named(&text, None);
            let _ = text.parse::<Placements>();
        }
    }
}
