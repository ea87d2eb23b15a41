//! Which workload: a name with parameters, in one canonical spelling.

use super::Precision;
use super::model::{self, Bert, Direction, Llama, Network};
use anyhow::{Context as _, Result, bail};
use std::fmt;
use std::ops::RangeInclusive;
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
    /// ResNet-50 on images of 224 x 224.
    Resnet50,
    /// One token a sequence of a decoder, with a cache of so many tokens.
    LlamaDecode {
        /// Which of the sizes.
        size: LlamaSize,
        /// Tokens of a sequence, the new one included.
        context: usize,
    },
    /// All tokens of a prompt at once.
    LlamaPrefill(LlamaSize),
    /// 1024-4096-4096-1000.
    Mlp,
    /// A matrix product: m x k times k x n.
    Gemm {
        /// Rows of the result.
        m: usize,
        /// Columns of the result.
        n: usize,
        /// Terms of each sum.
        k: usize,
    },
    /// A copy within device memory of so many MiB.
    Stream(usize),
    /// A copy between host and device, of so many MiB each way.
    Transfer(Direction, usize),
    /// So many kernels that do nothing.
    Launch(usize),
    /// No work at all: the harness's own cost.
    Null,
    /// Given service times on a virtual clock; hidden, for exact tests. The text is
    /// [`super::scripted`]'s.
    Scripted(String),
    /// The user's own, as a row names it. Not parsed from a row; what runs is the job's.
    Own(String),
}

/// The sizes of the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LlamaSize {
    /// 2 layers of 256: for tests, and for a CPU.
    Tiny,
    /// The shape of Llama 3.2 1B.
    One,
    /// The shape of Llama 3.1 8B.
    Eight,
}

impl LlamaSize {
    const NAMES: [(&'static str, LlamaSize, Llama); 3] = [
        ("tiny", LlamaSize::Tiny, Llama::TINY),
        ("1b", LlamaSize::One, Llama::ONE),
        ("8b", LlamaSize::Eight, Llama::EIGHT),
    ];

    fn row(self) -> &'static (&'static str, LlamaSize, Llama) {
        Self::NAMES.iter().find(|(_, size, _)| *size == self).expect("all sizes are in the table")
    }
}

impl fmt::Display for LlamaSize {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.row().0)
    }
}

impl FromStr for LlamaSize {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<LlamaSize> {
        let found = LlamaSize::NAMES.iter().find(|(name, ..)| *name == text);
        found.map(|row| row.1).with_context(|| format!("size '{text}' is none of tiny, 1b and 8b"))
    }
}

/// Names and shapes of the BERT encoders.
const BERTS: [(&str, Bert); 4] = [
    ("bert-tiny", Bert::TINY),
    ("bert-mini", Bert::MINI),
    ("bert-base", Bert::BASE),
    ("bert-large", Bert::LARGE),
];

/// The workloads beside them.
const OTHERS: [&str; 9] =
    ["resnet50", "llama-decode", "llama-prefill", "mlp", "gemm", "stream", "transfer", "launch", "null"];

const DIRECTIONS: [(&str, Direction); 3] =
    [("h2d", Direction::In), ("d2h", Direction::Out), ("both", Direction::Both)];

/// Sides of a matrix, MiB of a copy, kernels of a batch.
const SIDES: RangeInclusive<usize> = 8..=65_536;
const MIBS: RangeInclusive<usize> = 1..=65_536;
const KERNELS: RangeInclusive<usize> = 1..=10_000;

impl Spec {
    /// Tokens per sample when none are given.
    pub const SEQ_LEN: usize = 128;
    /// Most tokens per sample of an encoder: BERT's positions end there.
    pub const MAX_SEQ_LEN: usize = 512;
    /// Most tokens of a decoder's sequence.
    pub const MAX_CONTEXT: usize = 131_072;
    /// Tokens of a decoder's sequence when none are given.
    pub const CONTEXT: usize = 1024;
    /// What `suite` stands for: MIG divides multiprocessors and memory, and these need them in different
    /// proportions.
    pub const SUITE: [&'static str; 3] = ["bert-base", "resnet50", "llama-decode"];

    /// The names a user may type.
    pub fn names() -> impl Iterator<Item = &'static str> {
        BERTS.iter().map(|(name, _)| *name).chain(OTHERS)
    }

    /// Workloads, comma-separated, and those of `suite`.
    ///
    /// # Errors
    /// As [`from_str`](FromStr::from_str).
    pub fn parse_some(text: &str) -> Result<Vec<Spec>> {
        let mut open = 0;
        // A comma in parentheses is between parameters.
        let between = |c: char| {
            open += i32::from(c == '(') - i32::from(c == ')');
            c == ',' && open == 0
        };
        let names = text.split(between).map(str::trim);
        let names = names.flat_map(|name| if name == "suite" { Self::SUITE.to_vec() } else { vec![name] });
        names.map(str::parse).collect()
    }

    /// Does the sequence length mean something to it?
    pub fn has_seq_len(&self) -> bool {
        matches!(self.kind, Kind::Bert(_) | Kind::LlamaPrefill(_))
    }

    /// Gives it another sequence length, where it has one.
    ///
    /// # Errors
    /// Longer than the network allows, or it was given one already.
    pub fn set_seq_len(&mut self, seq_len: usize) -> Result<()> {
        if self.has_seq_len() {
            let text = self.to_string();
            replace_default(&mut self.seq_len, seq_len, &Spec::SEQ_LEN, "--seq-len", &text)?;
        }
        self.parse_seq_len(&seq_len.to_string())
    }

    fn parse_seq_len(&mut self, text: &str) -> Result<()> {
        let (name, most) = match self.kind {
            Kind::Bert(name) => (name, Spec::MAX_SEQ_LEN),
            Kind::LlamaPrefill(_) => ("llama-prefill", Spec::MAX_CONTEXT),
            _ => return Ok(()),
        };
        match text.parse() {
            Ok(n) if (1..=most).contains(&n) => self.seq_len = n,
            _ => bail!("{name}: sequence length '{text}' is not a whole number from 1 to {most}"),
        }
        Ok(())
    }

    /// Is it a decoder?
    pub fn is_llama(&self) -> bool {
        matches!(self.kind, Kind::LlamaDecode { .. } | Kind::LlamaPrefill(_))
    }

    /// Does it have a cache of a given length?
    pub fn has_context(&self) -> bool {
        matches!(self.kind, Kind::LlamaDecode { .. })
    }

    /// Gives it another size, where it is a decoder.
    ///
    /// # Errors
    /// It was given one already.
    pub fn set_llama_size(&mut self, wanted: LlamaSize) -> Result<()> {
        let text = self.to_string();
        match &mut self.kind {
            Kind::LlamaDecode { size, .. } | Kind::LlamaPrefill(size) => {
                replace_default(size, wanted, &LlamaSize::One, "--llama-size", &text)
            }
            _ => Ok(()),
        }
    }

    /// Gives it another context, where it has one.
    ///
    /// # Errors
    /// It was given one already.
    pub fn set_context(&mut self, wanted: usize) -> Result<()> {
        let text = self.to_string();
        match &mut self.kind {
            Kind::LlamaDecode { context, .. } => {
                replace_default(context, wanted, &Spec::CONTEXT, "--context", &text)
            }
            _ => Ok(()),
        }
    }

    /// Why a GPU can't run it in this precision; none if it can.
    pub fn refusal(&self, precision: Precision) -> Option<String> {
        let in_16_bits =
            matches!(self.kind, Kind::Resnet50 | Kind::LlamaDecode { .. } | Kind::LlamaPrefill(_));
        (in_16_bits && precision == Precision::Fp32).then(|| {
            format!(
                "{self} is computed by tensor cores, in fp16 or bf16 only: fp32 is for gemm, bert-* and mlp"
            )
        })
    }

    /// Is it a probe, whose size is a parameter?
    pub fn is_probe(&self) -> bool {
        matches!(self.kind, Kind::Gemm { .. } | Kind::Stream(_) | Kind::Transfer(..) | Kind::Launch(_))
    }

    /// Is it the copies between host and device that it measures?
    pub fn is_transfer(&self) -> bool {
        matches!(self.kind, Kind::Transfer(..))
    }

    /// What it computes; nothing for `null` and `scripted`.
    pub fn network(&self) -> Network {
        match self.kind {
            Kind::Bert(name) => {
                let (_, shape) = BERTS.iter().find(|(n, _)| *n == name).expect("parsed from this table");
                model::bert(*shape, self.seq_len)
            }
            Kind::Resnet50 => model::resnet50(224),
            Kind::LlamaDecode { size, context } => model::llama_decode(size.row().2, context),
            Kind::LlamaPrefill(size) => model::llama_prefill(size.row().2, self.seq_len),
            Kind::Mlp => model::mlp(),
            Kind::Gemm { m, n, k } => model::gemm(m, n, k),
            Kind::Stream(mib) => model::stream(mib),
            Kind::Transfer(direction, mib) => model::transfer(direction, mib),
            Kind::Launch(kernels) => model::launch(kernels),
            Kind::Null | Kind::Scripted(_) | Kind::Own(_) => Network::default(),
        }
    }

    /// What a name stands for without parameters.
    fn named(name: &str) -> Result<Spec> {
        let kind = match name {
            "resnet50" => Kind::Resnet50,
            "llama-decode" => Kind::LlamaDecode { size: LlamaSize::One, context: Spec::CONTEXT },
            "llama-prefill" => Kind::LlamaPrefill(LlamaSize::One),
            "mlp" => Kind::Mlp,
            "gemm" => Kind::Gemm { m: 8192, n: 8192, k: 8192 },
            "stream" => Kind::Stream(256),
            "transfer" => Kind::Transfer(Direction::Both, 64),
            "launch" => Kind::Launch(100),
            "null" => Kind::Null,
            _ => match BERTS.iter().find(|(n, _)| *n == name) {
                Some((name, _)) => Kind::Bert(name),
                None => {
                    let known: Vec<_> = Spec::names().collect();
                    bail!("unknown workload '{name}': choose one of {}, or suite", known.join(", "))
                }
            },
        };
        Ok(Spec { kind, seq_len: Spec::SEQ_LEN })
    }

    /// The names of its parameters, as a row has them.
    fn parameters(&self) -> Vec<String> {
        let text = self.to_string();
        let inside = text.split_once('(').map_or("", |(_, inside)| inside);
        inside.split(',').filter_map(|p| Some(p.split_once('=')?.0.to_owned())).collect()
    }

    /// Takes one parameter; `false` if the workload has none of this name.
    fn set(&mut self, parameter: &str, value: &str) -> Result<bool> {
        match (&mut self.kind, parameter) {
            (Kind::Bert(_) | Kind::LlamaPrefill(_), "seq_len") => {
                self.parse_seq_len(value)?;
            }
            (Kind::LlamaDecode { size, .. } | Kind::LlamaPrefill(size), "size") => *size = value.parse()?,
            (Kind::LlamaDecode { context, .. }, "context") => {
                *context = number("context", value, 1..=Spec::MAX_CONTEXT)?;
            }
            (Kind::Gemm { m, .. }, "m") => *m = number("m", value, 1..=*SIDES.end())?,
            (Kind::Gemm { n: side, .. }, "n") | (Kind::Gemm { k: side, .. }, "k") => {
                *side = number(parameter, value, SIDES)?;
                if !side.is_multiple_of(8) {
                    bail!("{parameter}={value} is not a multiple of 8, as tensor cores want it");
                }
            }
            (Kind::Stream(mib) | Kind::Transfer(_, mib), "mib") => *mib = number("mib", value, MIBS)?,
            (Kind::Launch(kernels), "kernels") => *kernels = number("kernels", value, KERNELS)?,
            (Kind::Transfer(direction, _), "direction") => {
                let found = DIRECTIONS.iter().find(|(name, _)| *name == value);
                *direction =
                    found.with_context(|| format!("direction '{value}' is none of h2d, d2h, both"))?.1;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// What an option says, for a workload that left it open.
fn replace_default<T: PartialEq + fmt::Display>(
    has: &mut T,
    wanted: T,
    default: &T,
    option: &str,
    workload: &str,
) -> Result<()> {
    if has != default && *has != wanted {
        bail!("{option} {wanted}, but the workload {workload} says {has} itself: leave one of the two out");
    }
    *has = wanted;
    Ok(())
}

/// A whole number within bounds.
fn number(name: &str, text: &str, range: RangeInclusive<usize>) -> Result<usize> {
    match text.parse() {
        Ok(n) if range.contains(&n) => Ok(n),
        _ => bail!("{name}={text} is not a whole number from {} to {}", range.start(), range.end()),
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.kind {
            Kind::Bert(name) => write!(f, "{name}(seq_len={})", self.seq_len),
            Kind::Resnet50 => f.write_str("resnet50"),
            Kind::LlamaDecode { size, context } => write!(f, "llama-decode(size={size},context={context})"),
            Kind::LlamaPrefill(size) => write!(f, "llama-prefill(size={size},seq_len={})", self.seq_len),
            Kind::Mlp => f.write_str("mlp"),
            Kind::Gemm { m, n, k } => write!(f, "gemm(m={m},n={n},k={k})"),
            Kind::Stream(mib) => write!(f, "stream(mib={mib})"),
            Kind::Transfer(direction, mib) => {
                let name = DIRECTIONS.iter().find(|(_, d)| d == direction).map_or("", |(name, _)| name);
                write!(f, "transfer(direction={name},mib={mib})")
            }
            Kind::Launch(kernels) => write!(f, "launch(kernels={kernels})"),
            Kind::Null => f.write_str("null"),
            Kind::Scripted(script) => write!(f, "scripted({script})"),
            Kind::Own(text) => f.write_str(text),
        }
    }
}

impl FromStr for Spec {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Spec> {
        let text = text.trim();
        let (name, parameters) = match text.split_once('(') {
            Some((name, rest)) => match rest.strip_suffix(')') {
                Some(parameters) => (name, parameters),
                None => bail!("workload '{text}': the parenthesis is not closed"),
            },
            None => (text, ""),
        };
        if name == "scripted" {
            return Ok(Spec { kind: Kind::Scripted(parameters.to_owned()), seq_len: Spec::SEQ_LEN });
        }
        let mut spec = Spec::named(name)?;
        let mut given = Vec::new();
        for text in parameters.split(',').map(str::trim).filter(|text| !text.is_empty()) {
            let Some((parameter, value)) = text.split_once('=') else {
                bail!("workload '{name}': '{text}' has no value: write {text}=VALUE");
            };
            if given.contains(&parameter) {
                bail!("workload '{name}': {parameter} is given twice");
            }
            given.push(parameter);
            if !spec.set(parameter, value)? {
                let known = spec.parameters();
                let known = if known.is_empty() { "it has none".to_owned() } else { known.join(", ") };
                bail!("workload '{name}' has no parameter '{parameter}': {known}");
            }
        }
        Ok(spec)
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
            ("resnet50", "resnet50"),
            ("llama-decode", "llama-decode(size=1b,context=1024)"),
            ("llama-decode(context=7,size=tiny)", "llama-decode(size=tiny,context=7)"),
            ("llama-prefill(size=8b)", "llama-prefill(size=8b,seq_len=128)"),
            ("gemm(m=3)", "gemm(m=3,n=8192,k=8192)"),
            (" gemm( m=3, n=8 ) ", "gemm(m=3,n=8,k=8192)"),
            ("stream", "stream(mib=256)"),
            ("transfer(direction=h2d)", "transfer(direction=h2d,mib=64)"),
            ("launch(kernels=1)", "launch(kernels=1)"),
            ("scripted(batch=1ms)", "scripted(batch=1ms)"),
        ] {
            let spec: Spec = typed.parse().unwrap();
            assert_eq!(spec.to_string(), canonical);
            assert_eq!(canonical.parse::<Spec>().unwrap(), spec);
        }
    }

    #[test]
    fn several_at_once() {
        let some =
            |text| Spec::parse_some(text).map(|specs| specs.iter().map(Spec::to_string).collect::<Vec<_>>());
        assert_eq!(
            some("mlp, gemm(m=1,n=64,k=64),suite").unwrap(),
            [
                "mlp",
                "gemm(m=1,n=64,k=64)",
                "bert-base(seq_len=128)",
                "resnet50",
                "llama-decode(size=1b,context=1024)"
            ]
        );
        for wrong in ["mlp,", ",", "mlp,gemm(m=1,", "mlp)(,", "mlp,bertha"] {
            assert!(some(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (typed, message) in [
            (
                "bert",
                "unknown workload 'bert': choose one of bert-tiny, bert-mini, bert-base, bert-large, resnet50, \
                 llama-decode, llama-prefill, mlp, gemm, stream, transfer, launch, null, or suite",
            ),
            ("mlp(seq_len=3)", "workload 'mlp' has no parameter 'seq_len': it has none"),
            ("bert-base(seq_len=0)", "bert-base: sequence length '0' is not a whole number from 1 to 512"),
            ("bert-base(seq_len=x)", "bert-base: sequence length 'x' is not a whole number from 1 to 512"),
            ("gemm(m)", "workload 'gemm': 'm' has no value: write m=VALUE"),
            ("gemm(m=8,m=9)", "workload 'gemm': m is given twice"),
            ("gemm(M=8)", "workload 'gemm' has no parameter 'M': m, n, k"),
            ("llama-decode(size=2b)", "size '2b' is none of tiny, 1b and 8b"),
            ("llama-decode(seq_len=4)", "workload 'llama-decode' has no parameter 'seq_len': size, context"),
            ("gemm(n=12)", "n=12 is not a multiple of 8, as tensor cores want it"),
            ("stream(mib=0)", "mib=0 is not a whole number from 1 to 65536"),
            ("transfer(direction=up)", "direction 'up' is none of h2d, d2h, both"),
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
