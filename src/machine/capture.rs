//! A capture: a topology and the evidence around it in one JSON file, fit to be given away. UUIDs and
//! serial numbers are replaced, the same by the same; names of programs and users go.
//!
//! The file is a topology to everything that reads one.

use super::doctor::evidence::{Case, Evidence};
use super::topology::Topology;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The file's form.
#[derive(Serialize)]
struct Capture {
    #[serde(flatten)]
    topology: Topology,
    evidence: Option<Evidence>,
}

/// The text of a capture of `case`.
///
/// # Errors
/// None that is known: the data has a JSON form.
pub fn text(case: &Case) -> Result<String> {
    let mut capture = Capture {
        topology: case.topology.as_ref().ok().cloned().unwrap_or_default(),
        evidence: case.evidence.clone(),
    };
    let mut aliases = Aliases::default();
    for (number, gpu) in capture.topology.gpus.iter_mut().enumerate() {
        gpu.serial = gpu.serial.as_ref().map(|_| format!("SERIAL-{}", number + 1));
        aliases.learn(&gpu.uuid);
        gpu.mig_devices.iter().for_each(|mig| aliases.learn(&mig.uuid));
    }
    if let Some(evidence) = &mut capture.evidence {
        let everybody = evidence.services.iter_mut().chain(&mut evidence.holders);
        for (number, program) in everybody.enumerate().filter(|(_, p)| !p.name.starts_with("nv")) {
            program.name = format!("program-{}", number + 1);
        }
        for user in [Some(&mut evidence.user), evidence.other_user.as_mut()].into_iter().flatten() {
            user.name = format!("uid {}", user.uid);
        }
        evidence.unknown_user = evidence.unknown_user.as_ref().map(|_| "nobody".to_owned());
        // An abbreviated UUID would slip through the search for whole ones.
        for value in evidence.environment.values_mut() {
            *value = value.split(',').map(|token| aliases.complete(token)).collect::<Vec<_>>().join(",");
        }
    }
    let text = serde_json::to_string_pretty(&capture).context("a capture has a JSON form")?;
    Ok(aliases.replace(&text) + "\n")
}

/// Reads a capture, or a topology without evidence.
///
/// # Errors
/// Not a topology.
pub fn parse(text: &str) -> Result<Case> {
    #[derive(Deserialize)]
    struct Around {
        evidence: Option<Evidence>,
    }
    let text = super::decode::without_mark(text);
    let topology = super::file::parse(text)?;
    let around: Option<Around> = serde_json::from_str(text).ok();
    let evidence = around.and_then(|around| around.evidence).map(Evidence::cleaned);
    let silent = evidence.as_ref().and_then(|evidence| evidence.silent.clone());
    Ok(Case { topology: silent.map_or(Ok(topology), Err), evidence })
}

/// Length of `12345678-1234-1234-1234-123456789abc`.
const UUID: usize = 36;

/// Each UUID's stand-in. The count is in front, so that abbreviations stay apart.
#[derive(Default)]
struct Aliases(BTreeMap<String, String>);

impl Aliases {
    fn learn(&mut self, name: &str) {
        let mut rest = name;
        while let Some(start) = find_uuid(rest) {
            self.alias(&rest[start..start + UUID]);
            rest = &rest[start + UUID..];
        }
    }

    fn alias(&mut self, uuid: &str) -> String {
        let number = self.0.len() + 1;
        let new = || format!("{number:08x}-ca97-4000-8000-{number:012x}");
        self.0.entry(uuid.to_ascii_lowercase()).or_insert_with(new).clone()
    }

    /// The whole UUID that an abbreviation stands for, if it is one.
    fn complete(&self, token: &str) -> String {
        let Some((prefix, rest)) = token.trim().split_once('-') else { return token.to_owned() };
        let lower = rest.to_ascii_lowercase();
        let mut fitting = self.0.keys().filter(|uuid| !lower.is_empty() && uuid.starts_with(&lower));
        match (prefix, fitting.next()) {
            ("GPU" | "MIG", Some(uuid)) => format!("{prefix}-{uuid}"),
            _ => token.to_owned(),
        }
    }

    fn replace(&mut self, text: &str) -> String {
        let (mut replaced, mut rest) = (String::with_capacity(text.len()), text);
        while let Some(start) = find_uuid(rest) {
            replaced.push_str(&rest[..start]);
            replaced.push_str(&self.alias(&rest[start..start + UUID]));
            rest = &rest[start + UUID..];
        }
        replaced + rest
    }
}

/// Where the first UUID begins.
fn find_uuid(text: &str) -> Option<usize> {
    let shape = |bytes: &[u8]| {
        bytes.iter().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => *b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
    };
    text.as_bytes().windows(UUID).position(shape)
}

#[cfg(test)]
mod tests {
    use super::super::doctor::evidence::{Program, User};
    use super::super::topology::tests::mixed;
    use super::*;

    #[test]
    fn nothing_that_identifies_is_left_and_the_same_stays_the_same() {
        let mut topology = mixed();
        topology.gpus[0].serial = Some("1650522000123".into());
        let environment = [
            ("CUDA_VISIBLE_DEVICES", "MIG-11112,GPU-aaaaaaaa-0000-4000-8000-000000000000"),
            ("NVIDIA_VISIBLE_DEVICES", "void"),
        ];
        let evidence = Evidence {
            user: User { name: "alice".into(), uid: 1000, groups: vec![] },
            holders: vec![Program { pid: 9, name: "secret-project".into(), gpus: vec![0] }],
            services: vec![Program { pid: 8, name: "nv-hostengine".into(), gpus: vec![] }],
            environment: environment.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            ..Evidence::default()
        };
        let text = text(&Case { topology: Ok(topology), evidence: Some(evidence) }).unwrap();
        for secret in ["1650522000123", "11111111-", "11112222", "aaaabbbb", "alice", "secret-project"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
        let case = parse(&text).unwrap();
        let (topology, evidence) = (case.topology.unwrap(), case.evidence.unwrap());
        let (gpu, mig) = (&topology.gpus[0].uuid, &topology.gpus[1].mig_devices[1].uuid);
        assert_eq!(evidence.variable("CUDA_VISIBLE_DEVICES"), Some(format!("{mig},{gpu}").as_str()));
        assert_eq!(mig, "MIG-00000004-ca97-4000-8000-000000000004");
        assert_eq!(evidence.variable("NVIDIA_VISIBLE_DEVICES"), Some("void"));
        assert_eq!(evidence.services[0].name, "nv-hostengine");
    }

    #[test]
    fn a_machine_without_an_answer_is_captured_too() {
        use super::super::doctor::evidence::Silent;
        let evidence = Evidence { silent: Some(Silent::Hung(5)), ..Evidence::default() };
        let text = text(&Case { topology: Err(Silent::Hung(5)), evidence: Some(evidence) }).unwrap();
        assert_eq!(parse(&text).unwrap().topology, Err(Silent::Hung(5)));
    }

    #[test]
    fn a_plain_topology_has_no_evidence() {
        let text = serde_json::to_string(&mixed()).unwrap();
        assert_eq!(parse(&text).unwrap(), Case { topology: Ok(mixed()), evidence: None });
    }
}
