//! What there is to decide: for each gate at each joined point the values of both sides, or why there are
//! none. What is missing although BASE has it, or a user asked for it, is a problem.

use super::metric::Gate;
use super::side::Side;
use super::verdict::{FEWEST, Samples, Verdict, samples};
use super::{Decision, Key, Options, Problem, ProblemKind, join};

/// A decision for each gate at each joined point, not yet judged.
pub fn drafts(sides: &(Side, Side), options: &Options, problems: &mut Vec<Problem>) -> Vec<Decision> {
    let mut drafts = Vec::new();
    for (key, base) in &sides.0.points {
        let Some(new) = sides.1.points.get(key) else { continue };
        // Their failed rows are problems already.
        if base.rounds.is_empty() || new.rounds.is_empty() {
            continue;
        }
        join::missing_rows(key, base, new, options, problems);
        for gate in &options.gates {
            let wrong =
                |side: &str, text: String| Problem::at(ProblemKind::Invalid, key, format!("{side}: {text}"));
            let base = samples(gate.metric, base).map_err(|text| wrong("BASE", text));
            let new = samples(gate.metric, new).map_err(|text| wrong("NEW", text));
            match base.and_then(|base| draft(key, gate, base, new?)) {
                Ok(draft) => drafts.push(draft),
                Err(problem) => problems.push(problem),
            }
        }
    }
    unmet(&options.gates, &drafts, problems);
    drafts
}

/// One gate at one point.
fn draft(key: &Key, gate: &Gate, base: Samples, new: Samples) -> Result<Decision, Problem> {
    let metric = gate.metric.name;
    let why = too_few(&base, &new);
    let neither = base.values.is_empty() && new.values.is_empty();
    let reason = match (neither, &why) {
        // More batches would have given it to them.
        (true, Some(why)) if gate.asked => {
            let text = format!(
                "no round of either side has {metric} ({why}): measure longer, or leave it out of --gate"
            );
            return Err(Problem::at(ProblemKind::Nothing, key, text));
        }
        (true, Some(why)) => Some(why.clone()),
        (true, None) => Some(format!("these rows have no {metric}")),
        (false, _) if base.is_enough() && new.is_enough() => partial(&base, &new, why.as_deref()),
        (false, _) => {
            let text = format!(
                "{metric} is in {} and {}{}: that is not enough to judge by, it takes {FEWEST} rounds a side \
                 and three quarters of them; measure longer, or name other metrics by --gate",
                share("BASE", &base),
                share("NEW", &new),
                why.map_or(String::new(), |why| format!(" ({why})"))
            );
            return Err(Problem::at(ProblemKind::Missing, key, text));
        }
    };
    Ok(Decision {
        key: key.clone(),
        gate: *gate,
        base: base.values,
        new: new.values,
        numbers: None,
        verdict: Verdict::Skipped,
        reason,
        rounds_needed: None,
    })
}

/// `9 of 10 rounds of NEW`.
fn share(side: &str, samples: &Samples) -> String {
    format!("{} of {} rounds of {side}", samples.values.len(), samples.rounds)
}

/// Which sides are judged by a part of their rounds.
fn partial(base: &Samples, new: &Samples, why: Option<&str>) -> Option<String> {
    let sides = [("BASE", base), ("NEW", new)].into_iter().filter(|(_, samples)| !samples.is_complete());
    let shares: Vec<String> = sides.map(|(side, samples)| share(side, samples)).collect();
    let why = why.map_or(String::new(), |why| format!(": {why}"));
    (!shares.is_empty()).then(|| format!("{}{why}", shares.join(", ")))
}

/// `needs 662 batches, NEW had 600`; none where no number of batches would be enough.
fn too_few(base: &Samples, new: &Samples) -> Option<String> {
    let (first, second) = (base.too_few, new.too_few);
    let few = first.or(second)?;
    let had = [("BASE", first), ("NEW", second)].into_iter();
    let had = had.filter_map(|(side, few)| few.map(|few| format!(", {side} had {}", few.had)));
    Some(format!("needs {} {}{}", few.needed, few.unit, had.collect::<String>()))
}

/// Reports metrics that somebody named and that were skipped wherever they could have been compared.
fn unmet(gates: &[Gate], drafts: &[Decision], problems: &mut Vec<Problem>) {
    for gate in gates.iter().filter(|gate| gate.asked) {
        let mut of = drafts.iter().filter(|draft| draft.gate.metric.name == gate.metric.name).peekable();
        if of.peek().is_some() && !of.any(Decision::is_judged) {
            let name = gate.metric.name;
            let text = format!("{name} could be compared at no point: leave it out of --gate");
            problems.push(Problem::new(ProblemKind::Nothing, text));
        }
    }
}

/// Reports a comparison in which nothing was compared, where no other problem says why.
pub fn nothing((base, new): &(Side, Side), decisions: &[Decision], problems: &mut Vec<Problem>) {
    if decisions.iter().any(Decision::is_judged) {
        return;
    }
    let joined = base.points.keys().any(|key| new.points.contains_key(key));
    let text = match (base.points.is_empty(), new.points.is_empty()) {
        (true, true) => "BASE and NEW have no rows",
        (true, false) => "BASE has no rows",
        (false, true) => "NEW has no rows",
        (false, false) if !joined => "BASE and NEW have no point in common",
        _ if problems.is_empty() => "the rows have none of the metrics of the gates: name others by --gate",
        _ => return,
    };
    problems.push(Problem::new(ProblemKind::Nothing, text.to_owned()));
}
