//! What parent and worker say to each other: one JSON object a line, each with `"protocol": 1`.
//! docs/protocol.md shows a whole conversation.

use super::bins::LoadLog;
use super::intervals::Interval;
use super::load::Load;
use super::recorder::Recording;
use super::records::Extras;
use super::stopping::Rule;
use crate::machine::text;
use crate::workload::{DeviceIdentity, Own, Settings, Stages};
use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The version of this protocol.
pub const PROTOCOL: u32 = 1;
/// A longer line is no message.
pub const MAX_LINE: u64 = 8 << 20;

/// Where a batch runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// The embedded CPU device.
    Cpu,
    /// A GPU or MIG instance.
    Cuda,
}

/// What a worker is to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Where.
    pub device: Device,
    /// The workload in its canonical spelling.
    pub workload: String,
    /// Samples in a batch.
    pub batch: usize,
    /// How.
    pub settings: Settings,
    /// Logical processors to stay on; any, if empty.
    pub cpus: Vec<usize>,
    /// Until when.
    pub rule: Rule,
    /// How batches arrive.
    pub load: Load,
    /// Batches in flight: lanes.
    pub inflight: usize,
    /// Seed of the arrivals.
    pub arrival_seed: u64,
    /// Read the device's clock once a second of the window, too.
    #[serde(default)]
    pub clock_samples: bool,
    /// Send the histogram of each second of the window.
    #[serde(default)]
    pub intervals: bool,
    /// In place of a workload of migbench's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<Own>,
}

/// Parent to worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToWorker {
    /// The first message.
    Job(Box<Job>),
    /// The window opens at this moment of CLOCK_MONOTONIC, in ns.
    Start {
        /// The moment.
        at_ns: u64,
    },
    /// Every worker's window is done: take the stage split.
    Stages,
    /// End the window at its next batch.
    Cut,
    /// Check the output and exit.
    Stop,
}

/// Worker to parent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromWorker {
    /// The device is open; nothing has run on it.
    Hello {
        /// What it says of itself.
        #[serde(deserialize_with = "text::deserialize_names")]
        identity: DeviceIdentity,
    },
    /// Warmed up, and loading the device until the window opens.
    Ready {
        /// Batches of the warm-up.
        warmup_batches: u64,
    },
    /// At most 10 times a second, from a thread of its own. Counts that stand still for long mean
    /// that the worker hangs.
    Progress {
        /// Batches outside the window so far.
        unmeasured: u64,
        /// Batches of the window so far.
        batches: u64,
    },
    /// A second of the window, or more where the writer was behind; where the job asked for it.
    Interval(Interval),
    /// The window is over; the load goes on.
    WindowDone {
        /// The service times.
        latency: Recording,
        /// What a window may record beside them.
        extras: Box<Extras>,
        /// Every batch since it was ready.
        load: LoadLog,
        /// It was cut.
        cut: bool,
        /// Time for which the cgroup kept this process off the processors during the window.
        cpu_throttled_us: Option<u64>,
    },
    /// The stage split, one entry a batch; empty where the device has no stages.
    StagesDone {
        /// In order.
        stages: Vec<Stages>,
        /// Every batch since it was ready.
        load: LoadLog,
    },
    /// The last message of a worker that did its job.
    Done {
        /// Relative L2 error of the output; none for a workload without output, or when stopped early.
        output_error: Option<f64>,
        /// Why the output is wrong, if it is.
        #[serde(default, deserialize_with = "text::deserialize_reason")]
        output_failure: Option<String>,
        /// Not all of it was checked.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        output_partial: bool,
        /// Elements of it are NaN or infinite, and the reference agrees.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        output_non_finite: bool,
        /// The user's program did not end when it was told to, and was ended.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        forced: bool,
    },
    /// The last message of a worker that could not.
    Failed {
        /// In which phase.
        phase: String,
        /// Why.
        #[serde(deserialize_with = "text::deserialize_reason")]
        error: String,
    },
}

#[derive(Serialize)]
struct Envelope<'a, T> {
    protocol: u32,
    #[serde(flatten)]
    message: &'a T,
}

/// One message as a line, newline included.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    let envelope = Envelope { protocol: PROTOCOL, message };
    let mut line = serde_json::to_vec(&envelope).expect("messages hold no maps with odd keys");
    line.push(b'\n');
    line
}

/// The inverse of [`encode`].
///
/// # Errors
/// Not a message, or one of another protocol.
pub fn decode<T: DeserializeOwned>(line: &[u8]) -> Result<T> {
    #[derive(Deserialize)]
    struct Version {
        protocol: u32,
    }
    let text = || String::from_utf8_lossy(&line[..line.len().min(120)]).trim_end().to_owned();
    let version: Version =
        serde_json::from_slice(line).with_context(|| format!("not a message: {:?}", text()))?;
    if version.protocol != PROTOCOL {
        bail!(
            "protocol {} was spoken where this migbench speaks {PROTOCOL}: parent and worker are of different versions",
            version.protocol
        );
    }
    serde_json::from_slice(line)
        .with_context(|| format!("not a message of protocol {PROTOCOL}: {:?}", text()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_is_pinned() {
        let line = encode(&ToWorker::Start { at_ns: 12 });
        assert_eq!(line, b"{\"protocol\":1,\"type\":\"start\",\"at_ns\":12}\n");
        assert_eq!(decode::<ToWorker>(&line).unwrap(), ToWorker::Start { at_ns: 12 });
    }

    #[test]
    fn another_protocol_is_refused_by_name() {
        let error = decode::<ToWorker>(b"{\"protocol\":2,\"type\":\"dance\"}\n").unwrap_err();
        assert!(error.to_string().starts_with("protocol 2 was spoken where this migbench speaks 1"));
    }

    #[test]
    fn rubbish_is_shown() {
        let error = decode::<FromWorker>(b"Segmentation fault\n").unwrap_err();
        assert_eq!(error.to_string(), "not a message: \"Segmentation fault\"");
        let error = decode::<FromWorker>(b"{\"protocol\":1,\"type\":\"dance\"}\n").unwrap_err();
        assert!(error.to_string().contains("not a message of protocol 1"));
    }

    proptest! {
        #[test]
        fn messages_survive_the_line(batches in any::<u64>(), error in "\\PC{0,80}", value in any::<f64>()) {
            for message in [
                FromWorker::Progress { unmeasured: 1, batches },
                // One line, and what it is about.
                FromWorker::Failed { phase: "window".into(), error: text::reason(&format!("{error}\n{error}")) },
                FromWorker::Done {
                    output_error: Some(value).filter(|v| v.is_finite()),
                    output_failure: None,
                    output_partial: batches % 3 == 0,
                    output_non_finite: batches % 5 == 0,
                    forced: batches % 2 == 0,
                },
            ] {
                let line = encode(&message);
                prop_assert_eq!(line.iter().filter(|&&b| b == b'\n').count(), 1);
                prop_assert_eq!(decode::<FromWorker>(&line).unwrap(), message);
            }
        }

        #[test]
        fn any_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode::<FromWorker>(&bytes);
        }
    }
}
