//! How far points move when nothing has changed.

use super::table::grid;
use crate::analysis::compare::Gate;
use crate::analysis::compare::noise::{Noise, TIMES};
use std::io::{self, Write};

const TITLES: [&str; 8] =
    ["point", "metric", "sessions", "rounds", "within", "between", "least threshold", "rounds for the gate"];
const TEXT: [&str; 2] = ["point", "metric"];

/// A line a point and metric: standard deviations from round to round and from session to session, the
/// least threshold that is three times their sum, and the rounds a side that `gates` need.
///
/// # Errors
/// The stream does not take it.
pub fn write(out: &mut dyn Write, noise: &[Noise], gates: &[Gate]) -> io::Result<()> {
    writeln!(out)?;
    if noise.is_empty() {
        return writeln!(out, "no noise to show: no point has rounds that are ok");
    }
    let lines: Vec<Vec<String>> = noise.iter().map(|noise| cells(noise, gates)).collect();
    grid(out, &TITLES, &TEXT, &lines)?;
    if noise.iter().any(|noise| noise.between.is_none()) {
        writeln!(
            out,
            "the noise between sessions is unknown: run this again another time (another placement, another \
             temperature) with the same --output"
        )?;
    }
    Ok(())
}

fn cells(noise: &Noise, gates: &[Gate]) -> Vec<String> {
    let percent = |share: Option<f64>| share.map_or(String::new(), |share| format!("{:.2} %", 100.0 * share));
    let margin =
        gates.iter().find(|gate| gate.metric.name == noise.metric).map(|gate| gate.threshold.ln_1p());
    let rounds = margin.filter(|_| noise.within.is_some()).map(|margin| match noise.rounds_needed(margin) {
        Some(rounds) => rounds.to_string(),
        None => "none is enough".to_owned(),
    });
    vec![
        noise.key.label(),
        noise.metric.to_owned(),
        noise.sessions.to_string(),
        noise.rounds.to_string(),
        percent(noise.within),
        percent(noise.between),
        percent(noise.floor().map(|floor| TIMES * floor)),
        rounds.unwrap_or_default(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::compare::Key;
    use crate::results::Row;

    #[test]
    fn a_line_a_metric() {
        let mut row = Row::default();
        row.subject.instance.gpu_name = "1g".into();
        (row.point.workload, row.point.batch) = ("mlp".into(), 8);
        let noise = Noise {
            key: Key::of(&row, &[]),
            metric: "throughput_wall",
            sessions: 3,
            rounds: 21,
            within: Some(0.02),
            between: Some(0.003),
        };
        let text = |noise: &[Noise]| {
            let mut out = Vec::new();
            write(&mut out, noise, &Gate::defaults()).unwrap();
            String::from_utf8(out).unwrap()
        };
        let expected = "
point                metric           sessions  rounds  within  between  least threshold  rounds for the gate
1g mlp fp32 batch 8  throughput_wall         3      21  2.00 %   0.30 %           6.07 %                    5
";
        assert_eq!(text(std::slice::from_ref(&noise)), expected);
        let single = Noise { between: None, sessions: 1, ..noise };
        assert!(text(&[single]).contains("the noise between sessions is unknown"));
        assert_eq!(text(&[]), "\nno noise to show: no point has rounds that are ok\n");
    }
}
