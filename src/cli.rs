//! The command line.

pub mod check;
pub mod compare;
pub mod export;
pub mod load;
pub mod own;
pub mod selftest;

use crate::machine::{host, lookup};
use crate::measure::protocol::Device;
use crate::sweep::plan::{Modes, Span};
use crate::workload::scripted::parse_ns;
use crate::workload::{Corruption, Gemm, LlamaSize, Precision, Spec, Sync};
use anyhow::{Context, ensure};
use clap::builder::{PossibleValuesParser, Resettable, TypedValueParser};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How the program ends; never a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done, all rows ok.
    Ok = 0,
    /// Internal or I/O error.
    Internal = 1,
    /// Wrong usage, or an environment in which it can't work.
    Usage = 2,
    /// A regression.
    Regression = 3,
    /// Inconclusive, and asked to fail on that.
    Inconclusive = 4,
    /// A failed or invalid row, or rows that are missing.
    Incomplete = 5,
    /// Interrupted; what was measured is saved.
    Interrupted = 130,
}

/// Measures what each MIG instance of a GPU delivers.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, after_help = AFTER_HELP)]
pub struct Cli {
    /// What to do; `run` when left out.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The options of `run`.
    #[command(flatten)]
    pub run: RunArgs,
}

impl Cli {
    /// The process's own command line. Ends the process, as clap does, where it is wrong.
    pub fn of_this_process() -> Cli {
        // To clap, '--' with nothing behind it is as good as none.
        if std::env::args_os().next_back().is_some_and(|last| last == "--") {
            let reason = "no program after '--': name it, as in 'migbench run -- python3 serve.py'";
            Cli::command().error(ErrorKind::TooFewValues, reason).exit();
        }
        let mut command = Cli::command();
        if lookup::elevated() {
            command = without_environment(command);
        }
        let refused = |command: &mut clap::Command, reason: &str| -> ! {
            command.error(ErrorKind::ValueValidation, reason).exit()
        };
        let matches = command.clone().get_matches();
        if let Err(error) = refuse_foreign_code(&matches, lookup::elevated()) {
            refused(&mut command, &error.to_string());
        }
        Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut command).exit())
    }
}

/// No option takes its value from the environment.
fn without_environment(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| arg.env(Resettable::Reset));
    command.mut_subcommands(without_environment)
}

/// Options that name libraries and programs, and what they are called.
const CODE: [(&str, &str); 4] =
    [("nvml", "--nvml"), ("smi", "--smi"), ("ort_lib", "--ort-lib"), ("command", "a program of yours")];

/// Refuses a variable that names code relative to the current directory and, with elevated privileges,
/// code that the caller names: it would run with rights that the caller does not have.
fn refuse_foreign_code(matches: &ArgMatches, elevated: bool) -> anyhow::Result<()> {
    for (id, shown) in CODE {
        let Ok(Some(values)) = matches.try_get_raw(id) else { continue };
        let source = matches.value_source(id);
        ensure!(
            !elevated || source != Some(ValueSource::CommandLine),
            "{shown} would run with this program's elevated privileges (set-user-id or file capabilities): use a \
             copy of it without them"
        );
        for path in values.map(Path::new).filter(|_| source == Some(ValueSource::EnvVariable)) {
            ensure!(
                path.is_absolute() || path.as_os_str().is_empty(),
                "the variable for {shown} is '{}': give it an absolute path, nothing is opened in the current \
                 directory",
                path.display()
            );
        }
    }
    matches.subcommand().map_or(Ok(()), |(_, matches)| refuse_foreign_code(matches, elevated))
}

const AFTER_HELP: &str = "\
Examples:
  migbench --uuid MIG-8f1a --batch 32       one instance, by any unique prefix of its UUID
  migbench --batch 1,8,32 --repeat 5        everything in scope, three points, five rounds
  migbench --workload mlp -o mlp.csv        another network, another file
  migbench list                             what is here
  migbench doctor                           what is wrong here, and how to mend it

Exit codes: 0 done · 1 internal or I/O error · 2 usage or environment · 3 regression · 4 inconclusive or undecided
5 a failed or invalid row · 130 interrupted";

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measure (the default)
    Run(Box<RunArgs>),
    /// What is here, and what this process may use of it
    List(ListArgs),
    /// What is wrong with this machine's GPUs, and how to mend it
    Doctor(DoctorArgs),
    /// Does each saved row hold together?
    Check(check::CheckArgs),
    /// What the harness itself costs on this machine
    Selftest(selftest::SelftestArgs),
    /// Saved histograms in other tools' forms
    Export(export::ExportArgs),
    /// How much does a point move when nothing has changed? Rounds for `compare --noise`, added to a
    /// file over several sessions; takes the options of `run`
    Calibrate(Box<RunArgs>),
    /// Did it change? A gate for CI
    Compare(Box<compare::CompareArgs>),
    /// One worker; spoken to by its parent
    #[command(hide = true)]
    Worker,
    /// Questions to a driver, in a process that can be given up
    #[command(hide = true)]
    Probe(ProbeArgs),
}

/// Forms of output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs: all that is known.
    Json,
    /// For spreadsheets: one line an instance.
    Csv,
}

/// Forms of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlanFormat {
    /// One line a run.
    Table,
    /// An array of runs.
    Json,
}

/// Where the driver's answers come from; hidden, for tests.
#[derive(Args, Clone, Debug)]
pub struct PlaceArgs {
    /// Another NVML library
    #[arg(long, value_name = "FILE", env = "MIGBENCH_NVML", hide = true)]
    pub nvml: Option<PathBuf>,
    /// What /proc, /dev, /etc and /sys are below
    #[arg(long, value_name = "FOLDER", env = "MIGBENCH_ROOT", default_value = "/", hide = true)]
    pub root: PathBuf,
}

/// Options of `list`.
#[derive(Args, Clone, Debug)]
pub struct ListArgs {
    /// A saved topology instead of this machine: the JSON of `list` or `doctor --capture`, or the text
    /// of nvidia-smi -L; - for standard input
    #[arg(long, value_name = "FILE")]
    pub topology: Option<PathBuf>,
    /// Form of the output
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// Give up when NVML has not answered for this long [default: 30s before a sweep, 5s in it]
    #[arg(long, value_name = "TIME", env = "MIGBENCH_NVML_LIMIT", value_parser = duration, hide = true)]
    pub nvml_limit: Option<Duration>,
    /// Another nvidia-smi to compare with
    #[arg(long, value_name = "FILE", env = "MIGBENCH_SMI", hide = true)]
    pub smi: Option<PathBuf>,
    /// Where to look.
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// Options of `doctor`.
#[derive(Args, Clone, Debug)]
pub struct DoctorArgs {
    /// A saved topology or capture instead of this machine; - for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["capture", "user"])]
    pub topology: Option<PathBuf>,
    /// Form of the output
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// Save every answer of the driver, without UUIDs and serial numbers of this machine
    #[arg(long, value_name = "FILE")]
    pub capture: Option<PathBuf>,
    /// Overwrite the capture's file
    #[arg(long, requires = "capture")]
    pub force: bool,
    /// Judge the permissions of this user too
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Where to look.
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// Options of `probe`.
#[derive(Args, Clone, Debug)]
pub struct ProbeArgs {
    /// Whom to ask
    #[arg(value_enum)]
    pub what: Probe,
    /// Another NVML library
    #[arg(long, value_name = "FILE", env = "MIGBENCH_NVML")]
    pub nvml: Option<PathBuf>,
    /// ONNX Runtime's library
    #[arg(long, value_name = "FILE")]
    pub ort_lib: Option<PathBuf>,
    /// An ONNX file
    #[arg(long, value_name = "FILE")]
    pub model: Option<PathBuf>,
}

/// Whom to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Probe {
    Nvml,
    Cuda,
    Onnx,
}

/// Options of `run`.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// A GPU or MIG device, by UUID or unique prefix; several, repeated or comma-separated
    #[arg(long, value_name = "UUID", value_delimiter = ',', value_parser = trimmed)]
    pub uuid: Vec<String>,
    /// Of what is in scope, the instances of these GPUs, by index
    #[arg(long, value_name = "INDEX", value_delimiter = ',', conflicts_with = "uuid")]
    pub gpu: Vec<u32>,
    /// Of what is in scope, the instances of these profiles, as 1g.18gb
    #[arg(long, value_name = "PROFILE", value_delimiter = ',', value_parser = trimmed, conflicts_with = "uuid")]
    pub profile: Vec<String>,
    /// Of what is in scope, one instance of each kind
    #[arg(long, conflicts_with = "uuid")]
    pub one_per_profile: bool,
    /// Load another instance with something else in every co-run: UUID=WORKLOAD, or UUID=WORKLOAD@BATCH
    /// [default: the batch of those that are measured]
    #[arg(long, value_name = "UUID=WORKLOAD", value_parser = aggressor)]
    pub aggressor: Vec<(String, Spec, Option<u64>)>,
    /// Allow two workers on one instance, in turn on its multiprocessors
    #[arg(long)]
    pub allow_sharing: bool,
    /// Everything on this machine, whatever CUDA_VISIBLE_DEVICES says
    #[arg(long)]
    pub all: bool,
    /// The CPU device, or GPUs only [default: GPUs where there is a driver, the CPU elsewhere]
    #[arg(long, value_parser = one_of::<Device>(&["cpu", "cuda"]))]
    pub device: Option<Device>,
    /// What to run: bert-tiny, -mini, -base or -large, resnet50, llama-decode, llama-prefill, mlp; a probe:
    /// gemm, stream, transfer, launch; null; or suite (bert-base, resnet50, llama-decode). With parameters
    /// as 'gemm(m=64,n=4096,k=4096)'. Several, repeated or comma-separated [default: bert-base on a GPU,
    /// bert-tiny on the CPU]
    #[arg(long, value_name = "NAME", value_parser = |text: &str| Spec::parse_some(text).map(Workloads))]
    pub workload: Vec<Workloads>,
    /// Tokens per sample of bert-* and llama-prefill [default: 128]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..=Spec::MAX_CONTEXT as i64))]
    pub seq_len: Option<u32>,
    /// Size of the llama workloads: tiny, 1b or 8b [default: 1b]
    #[arg(long, value_name = "SIZE", value_parser = str::parse::<LlamaSize>)]
    pub llama_size: Option<LlamaSize>,
    /// Tokens in the cache of llama-decode [default: 1024]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..=Spec::MAX_CONTEXT as i64))]
    pub context: Option<u32>,
    /// Number format [default: fp16 on a GPU, fp32 on the CPU]
    #[arg(long, value_parser = one_of::<Precision>(&["fp32", "fp16", "bf16"]))]
    pub precision: Option<Precision>,
    /// Who computes matrix products on a GPU: migbench's kernels, or NVIDIA's cuBLASLt, where it is installed,
    /// those whose epilogue it has [default: builtin]
    #[arg(long, value_parser = one_of::<Gemm>(&["builtin", "cublaslt"]))]
    pub gemm: Option<Gemm>,
    /// Samples in a batch; several, comma-separated [default: 1,32; of your own workload 1]
    #[arg(long, value_name = "SIZES", value_delimiter = ',', value_parser = batch_size, allow_negative_numbers = true)]
    pub batch: Option<Vec<u64>>,
    /// Rounds: every point once in each, in a fresh worker, in an order of its own [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub repeat: Option<u32>,
    /// Defaults for a purpose. ci: the suite on a GPU, 7 rounds
    #[arg(long, value_parser = one_of::<Preset>(&["ci"]))]
    pub preset: Option<Preset>,
    /// Length of a window, as 10s or 500ms [default: 10 s and 700 batches, at most 60 s]
    #[arg(long, value_name = "TIME", value_parser = load::length)]
    pub duration: Option<u64>,
    /// Batches in a window
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub batches: Option<u64>,
    /// Print what would run, in which order, and stop
    #[arg(long)]
    pub list_runs: bool,
    /// How --list-runs prints
    #[arg(long, value_parser = one_of::<PlanFormat>(&["table", "json"]), default_value = "table", requires = "list_runs")]
    pub format: PlanFormat,
    /// Plan for another machine: the JSON of `list` or `doctor --capture`, or the text of
    /// `nvidia-smi -L`
    #[arg(long, value_name = "FILE", requires = "list_runs")]
    pub topology: Option<PathBuf>,
    /// The CSV file; - for standard output [default: results/TIME-HOST-RUN.csv]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Overwrite the file
    #[arg(long, conflicts_with = "append")]
    pub force: bool,
    /// Add rows to the file
    #[arg(long)]
    pub append: bool,
    /// Go on with an interrupted sweep: the same options, and the file that it left; what is there is
    /// not measured again
    #[arg(long, value_name = "FILE", conflicts_with_all = ["output", "force", "append", "list_runs"])]
    pub resume: Option<PathBuf>,
    /// With --resume, measure again what failed or is invalid
    #[arg(long, requires = "resume")]
    pub retry_failed: bool,
    /// Launch each kernel by itself instead of one CUDA graph a batch
    #[arg(long)]
    pub no_graph: bool,
    /// Leave the copies of input and output out of the batch
    #[arg(long)]
    pub no_transfers: bool,
    /// One instance after another, all at once, or both, interleaved [default: concurrent when there are several]
    #[arg(long, value_parser = one_of::<Modes>(&["isolated", "concurrent", "both"]))]
    pub mode: Option<Modes>,
    /// Which instances measure at once: those of one GPU, GPUs in turn, or all of the host
    #[arg(long, default_value = "gpu", value_parser = one_of::<Span>(&["gpu", "host"]))]
    pub span: Span,
    /// How the host waits for the GPU [default: spin if the machine has a processor for each instance its GPUs can have]
    #[arg(long, value_parser = one_of::<Sync>(&["spin", "blocking"]))]
    pub sync: Option<Sync>,
    /// Logical processors that workers may use, as 0-7,16 [default: all that this process may use]
    #[arg(long, value_name = "LIST", value_parser = cpu_list)]
    pub cpus: Option<CpuList>,
    /// CPU threads of the CPU device [default: the physical cores this process may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Seed of weights, inputs and order
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Refuse a device whose UUID cannot be compared
    #[arg(long)]
    pub require_proof: bool,
    /// Measure under an MPS server
    #[arg(long)]
    pub allow_mps: bool,
    /// Measure an instance in which somebody else's process computes
    #[arg(long)]
    pub allow_busy: bool,
    /// No progress, no plan
    #[arg(short, long)]
    pub quiet: bool,
    /// Read clocks, power and temperature of the GPUs this often during the windows, too, into
    /// FILE.telemetry.csv; each reading may disturb a batch
    #[arg(long, value_name = "TIME", value_parser = interval)]
    pub telemetry: Option<u64>,
    /// Plant a fault that the output check must find
    #[arg(long, value_parser = one_of::<Corruption>(&["zero-tile", "flip-weight"]), hide = true)]
    pub corrupt: Option<Corruption>,
    /// Make every batch take so much longer: a slow-down of known size, to prove a gate on
    #[arg(long, value_name = "US", default_value_t = 0, hide = true, value_parser = clap::value_parser!(u64).range(..=1_000_000))]
    pub extra_work_us: u64,
    /// How long a worker may show no sign of life
    #[arg(long, value_name = "TIME", value_parser = load::length, default_value = "120s", hide = true)]
    pub patience: u64,
    /// Another NVML library
    #[arg(long, value_name = "FILE", env = "MIGBENCH_NVML", hide = true)]
    pub nvml: Option<PathBuf>,
    /// Give up when NVML has not answered for this long [default: 30s before a sweep, 5s in it]
    #[arg(long, value_name = "TIME", env = "MIGBENCH_NVML_LIMIT", value_parser = duration, hide = true)]
    pub nvml_limit: Option<Duration>,
    /// How batches arrive, and when a window ends.
    #[command(flatten)]
    pub load: load::LoadArgs,
    /// The user's own workload.
    #[command(flatten)]
    pub own: own::OwnArgs,
}

/// Defaults for a purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// What a gate needs: [`Spec::parse_some`]'s suite, and enough rounds for a verdict.
    Ci,
}

/// Logical processors.
pub type CpuList = Vec<usize>;

fn cpu_list(text: &str) -> anyhow::Result<CpuList> {
    host::parse_ranges(text).with_context(|| format!("'{text}' is no list of processors, as 0-7,16"))
}

/// What one `--workload` names.
#[derive(Clone, Debug, PartialEq)]
pub struct Workloads(pub Vec<Spec>);

/// One of several names, as in 'A, B'.
fn trimmed(text: &str) -> Result<String, std::convert::Infallible> {
    Ok(text.trim().to_owned())
}

fn batch_size(text: &str) -> anyhow::Result<u64> {
    match text.trim().parse() {
        Ok(size) if size > 0 => Ok(size),
        _ => anyhow::bail!("'{text}' is no batch size: write a whole number from 1 on, as 1,8,32"),
    }
}

/// `UUID=WORKLOAD` or `UUID=WORKLOAD@BATCH`.
fn aggressor(text: &str) -> anyhow::Result<(String, Spec, Option<u64>)> {
    let Some((uuid, what)) = text.split_once('=') else {
        anyhow::bail!("'{text}' is not UUID=WORKLOAD");
    };
    let (workload, batch) = match what.rsplit_once('@') {
        // Not one within the workload's own parentheses.
        Some((workload, batch)) if !batch.ends_with(')') => match batch.parse::<u64>() {
            Ok(size) if size > 0 => (workload, Some(size)),
            _ => anyhow::bail!("'{batch}' is no batch size: write UUID=WORKLOAD@BATCH, as MIG-8f1a=mlp@64"),
        },
        _ => (what, None),
    };
    if workload == "suite" {
        anyhow::bail!("an aggressor runs one workload, and suite is three: name one of them");
    }
    Ok((uuid.to_owned(), workload.parse()?, batch))
}

/// A time such as 500ms.
fn duration(text: &str) -> anyhow::Result<Duration> {
    parse_ns(text).map(Duration::from_nanos)
}

/// How often to read, in ns.
fn interval(text: &str) -> anyhow::Result<u64> {
    match parse_ns(text)? {
        0..1_000_000 => anyhow::bail!("'{text}' is too often: write 1ms or more, as 1s"),
        ns => Ok(ns),
    }
}

/// One of an enumeration's values, by the names that rows and messages use for them.
fn one_of<T: DeserializeOwned + Clone + Send + std::marker::Sync + 'static>(
    names: &'static [&'static str],
) -> impl TypedValueParser<Value = T> {
    let value = |name: String| serde_json::from_value(serde_json::Value::String(name));
    PossibleValuesParser::new(names).try_map(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn blanks_between_names_are_none_of_theirs() {
        let cli = Cli::parse_from(["migbench", "--uuid", "MIG-a, MIG-b", "--batch", "1, 8"]);
        assert_eq!((cli.run.uuid, cli.run.batch), (vec!["MIG-a".into(), "MIG-b".into()], Some(vec![1, 8])));
    }

    #[test]
    fn what_is_wrong_with_a_value_is_said() {
        let no_uuid = "is not UUID=WORKLOAD";
        for (option, value, reason) in [
            ("--aggressor", "mlp", no_uuid),
            ("--aggressor", "MIG-8f1a=mlp@0", "'0' is no batch size"),
            ("--aggressor", "MIG-8f1a=mlp@x", "'x' is no batch size"),
            ("--aggressor", "MIG-8f1a=suite", "an aggressor runs one workload, and suite is three"),
            ("--aggressor", "MIG-8f1a=mpl@4", "unknown workload 'mpl'"),
            ("--telemetry", "0s", "'0s' is too often: write 1ms or more"),
            ("--telemetry", "1", "'1' has no unit: write 1ms or 1s"),
            ("--duration", "0", "'0' has no unit: write 0ms or 0s"),
            ("--duration", "0s", "'0s' is no time at all: write for example 500ms or 10s"),
            ("--duration", "0.1ns", "'0.1ns' is no time at all"),
            ("--duration", "500", "'500' has no unit: write 500ms or 500s"),
            ("--max-duration", "0s", "'0s' is no time at all"),
            ("--max-duration", "60", "'60' has no unit: write 60ms or 60s"),
            ("--max-delay", "2", "'2' has no unit: write 2ms or 2s"),
            ("--deadline", "30", "'30' has no unit: write 30ms or 30s"),
            ("--deadline", "0s", "'0s' is no time at all"),
            ("--patience", "9", "'9' has no unit: write 9ms or 9s"),
            ("--slo", "p99=10", "'10' has no unit: write 10ms or 10s"),
            ("--slo", "p99=0ms", "'p99=0ms' is no target"),
            ("--slo", "10ms", "'10ms' is no target: write a percentile and a time, as p99=10ms"),
            ("--rate", "-5", "'-5' is no rate"),
            ("--batch", "1,x", "'x' is no batch size: write a whole number from 1 on"),
            ("--batch", "0", "'0' is no batch size: write a whole number from 1 on"),
        ] {
            let error = Cli::try_parse_from(["migbench", option, value]).unwrap_err().to_string();
            assert!(error.contains(reason), "{option} {value}: {error}");
        }
    }

    #[test]
    fn code_of_the_callers_does_not_get_elevated_privileges() {
        let refused = |arguments: &[&str]| {
            let matches = Cli::command().try_get_matches_from([&["migbench"], arguments].concat()).unwrap();
            assert!(refuse_foreign_code(&matches, false).is_ok(), "{arguments:?}");
            refuse_foreign_code(&matches, true).map_err(|error| error.to_string())
        };
        for (arguments, shown) in [
            (&["--nvml", "./x.so"][..], "--nvml would run"),
            (&["list", "--nvml", "/x.so"], "--nvml would run"),
            (&["list", "--smi", "x"], "--smi would run"),
            (&["run", "--model", "x.onnx", "--ort-lib", "x.so"], "--ort-lib would run"),
            (&["--", "sh"], "a program of yours would run"),
            (&["calibrate", "--", "sh"], "a program of yours would run"),
        ] {
            assert!(refused(arguments).unwrap_err().starts_with(shown), "{arguments:?}");
        }
        assert_eq!(refused(&["list"]), Ok(()));
        assert_eq!(refused(&["--batch", "1"]), Ok(()));
        let command = without_environment(Cli::command());
        let mut subcommands = command.get_subcommands();
        assert!(command.get_arguments().all(|arg| arg.get_env().is_none()));
        assert!(subcommands.all(|command| command.get_arguments().all(|arg| arg.get_env().is_none())));
    }

    /// Each option stands under the heading that it belongs to.
    #[test]
    fn headings_of_the_help() {
        let command = Cli::command();
        let heading = |name: &str| {
            let option = command.get_arguments().find(|option| option.get_long() == Some(name)).unwrap();
            option.get_help_heading()
        };
        for name in ["batch", "telemetry", "quiet", "allow-busy"] {
            assert_eq!(heading(name), None, "{name}");
        }
        assert_eq!((heading("rate"), heading("hlog")), (Some("Load"), Some("Load")));
        for name in ["deadline", "import", "model", "ort-lib"] {
            assert_eq!(heading(name), Some("Your own program or network"), "{name}");
        }
    }

    #[test]
    fn every_name_of_an_enumeration_is_understood() {
        for (option, names) in [
            ("--device", &["cpu", "cuda"][..]),
            ("--precision", &["fp32", "fp16", "bf16"]),
            ("--mode", &["isolated", "concurrent", "both"]),
            ("--span", &["gpu", "host"]),
            ("--sync", &["spin", "blocking"]),
            ("--corrupt", &["zero-tile", "flip-weight"]),
            ("--gemm", &["builtin", "cublaslt"]),
        ] {
            for name in names {
                Cli::try_parse_from(["migbench", option, name]).unwrap();
            }
            assert!(Cli::try_parse_from(["migbench", option, "other"]).is_err());
        }
    }
}
