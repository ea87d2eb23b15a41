//! What a reader of a comparison should know beyond verdicts.

use super::key::Key;
use super::noise::{Noise, TIMES};
use super::side::{Point, Round, Side};
use super::{Comparison, Decision, Options};
use std::collections::{BTreeSet, HashMap};

/// One line each.
pub fn notes(found: &Comparison, (base, new): &(Side, Side), options: &Options) -> Vec<String> {
    let mut notes = Vec::new();
    if found.identical {
        notes.push("identical: BASE and NEW are the same rows".to_owned());
    } else {
        let rounds = |side: &Side| -> BTreeSet<Round> {
            side.points.values().flat_map(|point| point.rounds.keys().cloned()).collect()
        };
        let shared = rounds(base).intersection(&rounds(new)).count();
        if shared > 0 {
            notes.push(format!("{shared} rounds are on both sides: they say nothing about a change"));
        }
    }
    for (name, side) in [("BASE", base), ("NEW", new)] {
        if side.repeated > 0 {
            notes.push(format!(
                "{name}: {} rows are there twice, word for word, and count once",
                side.repeated
            ));
        }
    }
    for name in options.allow_mismatch.iter().filter(|name| *name != "instances") {
        let values = |side: &Side| -> BTreeSet<String> {
            let ignored = side.points.values().flat_map(|point| {
                point.ignored().filter(|(column, _)| column == name).map(|(_, value)| value.to_owned())
            });
            ignored.collect()
        };
        let (a, b) = (values(base), values(new));
        if a != b {
            let list = |values: BTreeSet<String>| values.into_iter().collect::<Vec<_>>().join(", ");
            notes.push(format!("mismatch allowed: {name} {} → {}", list(a), list(b)));
        }
    }
    if !found.added.is_empty() {
        let keys: Vec<&Key> = found.added.iter().collect();
        notes.push(format!("only in NEW, not compared: {}", points(&keys)));
    }
    notes.extend(more_instances(base, new));
    if found.decisions.iter().any(|d| d.reason.as_deref() == Some("unreplicated")) {
        notes.push("unreplicated: by the threshold alone, noise unknown".to_owned());
    }
    notes.extend(noise_notes(found, base, new, options));
    notes
}

/// Points at which NEW has more equal instances than BASE.
fn more_instances(base: &Side, new: &Side) -> Option<String> {
    let more = base.points.iter().filter(|(key, point)| {
        let now = new.points.get(key).map_or(0, Point::width);
        point.width() > 0 && now > point.width()
    });
    let keys: Vec<&Key> = more.map(|(key, _)| key).collect();
    (!keys.is_empty()).then(|| {
        format!("NEW has more equal instances than BASE, each round's mean is compared: {}", points(&keys))
    })
}

/// `2 points (1g.18gb mlp fp16 batch 1, 1g.18gb mlp fp16 batch 8)`, the first three of them.
fn points(keys: &[&Key]) -> String {
    let labels: Vec<String> = keys.iter().take(3).map(|key| key.label()).collect();
    let more = if keys.len() > 3 { ", …" } else { "" };
    format!("{} ({}{more})", count(keys.len(), "point"), labels.join(", "))
}

fn noise_notes(found: &Comparison, base: &Side, new: &Side, options: &Options) -> Vec<String> {
    let Some(noise) = &options.noise else {
        let single = base.sessions.len() <= 1 || new.sessions.len() <= 1;
        let text = "noise between sessions is unknown: a side is from one session; --noise FILE takes the rows of \
                    several";
        return if single && !found.identical { vec![text.to_owned()] } else { Vec::new() };
    };
    let known: HashMap<(&Key, &str), &Noise> =
        noise.iter().map(|noise| ((&noise.key, noise.metric), noise)).collect();
    let mut notes = Vec::new();
    let mut decisions: Vec<&Decision> = found.decisions.iter().collect();
    decisions.sort_by(|a, b| a.key.cmp(&b.key).then_with(|| a.gate.metric.name.cmp(b.gate.metric.name)));
    for decision in decisions {
        let Some(numbers) = &decision.numbers else { continue };
        let label = format!("{} of {}", decision.gate.metric.name, decision.key.label());
        let Some((noise, floor)) = known
            .get(&(&decision.key, decision.gate.metric.name))
            .and_then(|noise| Some((noise, noise.floor()?)))
        else {
            notes.push(format!(
                "the noise of {label} is unknown: not in the noise file, or one round a session"
            ));
            continue;
        };
        if noise.between.is_none() {
            notes.push(format!(
                "the noise of {label} between sessions is unknown: the noise file has one session"
            ));
        }
        if numbers.margin < TIMES * floor {
            let rounds = match noise.rounds_needed(numbers.margin) {
                Some(rounds) => format!("{rounds} rounds a side would be enough"),
                None => "no number of rounds is enough, since sessions differ by more".to_owned(),
            };
            notes.push(format!(
                "the threshold of {label}, {:.2} %, is below three times its noise of {:.2} %: {rounds}",
                100.0 * numbers.margin.exp_m1(),
                100.0 * floor
            ));
        }
    }
    notes
}

/// `1 point`, `2 points`.
fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}
