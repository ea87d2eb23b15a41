//! Which workload: a name with parameters, in one canonical spelling.

use super::model::{self, Bert, Network};
use anyhow::{Result, bail};
use std::fmt;
use std::str::FromStr;

/// A workload as the row names it: `bert-base(seq_len=128)`. [`FromStr`] and [`Display`](fmt::Display)
/// are inverse to each other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Spec {
    /// Which workload.
    pub kind: Kind,
    /// Tokens per sample, for the networks that have them.
    pub seq_len: usize,
}

/// The workloads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A BERT encoder: bert-tiny, bert-mini, bert-base or bert-large.
    Bert(&'static str),
    /// 1024-4096-4096-1000.
    Mlp,
    /// No work at all: the harness's own cost.
    Null,
    /// Given service times on a virtual clock; hidden, for exact tests. The text is
    /// [`super::scripted`]'s.
    Scripted(String),
    /// The user's own, as a row names it. Not parsed from a row; what runs is the job's.
    Own(String),
}

/// Names and shapes of the BERT encoders.
const BERTS: [(&str, Bert); 4] = [
    ("bert-tiny", Bert::TINY),
    ("bert-mini", Bert::MINI),
    ("bert-base", Bert::BASE),
    ("bert-large", Bert::LARGE),
];

impl Spec {
    /// Tokens per sample when none are given.
    pub const SEQ_LEN: usize = 128;
    /// Most tokens per sample: BERT's positions end there.
    pub const MAX_SEQ_LEN: usize = 512;

    /// The names a user may type.
    pub fn names() -> impl Iterator<Item = &'static str> {
        BERTS.iter().map(|(name, _)| *name).chain(["mlp", "null"])
    }

    /// Does the sequence length mean something to it?
    pub fn has_seq_len(&self) -> bool {
        matches!(self.kind, Kind::Bert(_))
    }

    /// What it computes; nothing for `null` and `scripted`.
    pub fn network(&self) -> Network {
        match self.kind {
            Kind::Bert(name) => {
                let (_, shape) = BERTS.iter().find(|(n, _)| *n == name).expect("parsed from this table");
                model::bert(*shape, self.seq_len)
            }
            Kind::Mlp => model::mlp(),
            Kind::Null | Kind::Scripted(_) | Kind::Own(_) => Network::default(),
        }
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.kind {
            Kind::Bert(name) => write!(f, "{name}(seq_len={})", self.seq_len),
            Kind::Mlp => f.write_str("mlp"),
            Kind::Null => f.write_str("null"),
            Kind::Scripted(script) => write!(f, "scripted({script})"),
            Kind::Own(text) => f.write_str(text),
        }
    }
}

impl FromStr for Spec {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Spec> {
        let (name, parameters) = match text.split_once('(') {
            Some((name, rest)) => match rest.strip_suffix(')') {
                Some(parameters) => (name, parameters),
                None => bail!("workload '{text}': the parenthesis is not closed"),
            },
            None => (text, ""),
        };
        let mut spec = Spec { kind: Kind::Null, seq_len: Spec::SEQ_LEN };
        spec.kind = match name {
            "mlp" => Kind::Mlp,
            "null" => Kind::Null,
            "scripted" => {
                spec.kind = Kind::Scripted(parameters.to_owned());
                return Ok(spec);
            }
            _ => match BERTS.iter().find(|(n, _)| *n == name) {
                Some((name, _)) => Kind::Bert(name),
                None => {
                    let known: Vec<_> = Spec::names().collect();
                    bail!("unknown workload '{name}': choose one of {}", known.join(", "))
                }
            },
        };
        for parameter in parameters.split(',').filter(|p| !p.is_empty()) {
            match parameter.split_once('=') {
                Some(("seq_len", value)) if spec.has_seq_len() => spec.seq_len = parse_seq_len(value)?,
                _ => bail!("workload '{name}' has no parameter '{parameter}'"),
            }
        }
        Ok(spec)
    }
}

/// A sequence length within BERT's positions.
fn parse_seq_len(text: &str) -> Result<usize> {
    match text.parse() {
        Ok(n) if (1..=Spec::MAX_SEQ_LEN).contains(&n) => Ok(n),
        _ => bail!("sequence length '{text}' is not a whole number from 1 to {}", Spec::MAX_SEQ_LEN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_spelling_is_canonical() {
        for (typed, canonical) in [
            ("bert-base", "bert-base(seq_len=128)"),
            ("bert-tiny(seq_len=17)", "bert-tiny(seq_len=17)"),
            ("mlp", "mlp"),
            ("scripted(batch=1ms)", "scripted(batch=1ms)"),
        ] {
            let spec: Spec = typed.parse().unwrap();
            assert_eq!(spec.to_string(), canonical);
            assert_eq!(canonical.parse::<Spec>().unwrap(), spec);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (typed, message) in [
            (
                "bert",
                "unknown workload 'bert': choose one of bert-tiny, bert-mini, bert-base, bert-large, mlp, null",
            ),
            ("mlp(seq_len=3)", "workload 'mlp' has no parameter 'seq_len=3'"),
            ("bert-base(seq_len=0)", "sequence length '0' is not a whole number from 1 to 512"),
            ("bert-base(seq_len=128", "workload 'bert-base(seq_len=128': the parenthesis is not closed"),
        ] {
            assert_eq!(typed.parse::<Spec>().unwrap_err().to_string(), message);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_round_trips(text in "\\PC{0,40}") {
            if let Ok(spec) = text.parse::<Spec>() {
                prop_assert_eq!(spec.to_string().parse::<Spec>().unwrap(), spec);
            }
        }
    }
}
