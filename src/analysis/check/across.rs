//! Rules about rows together: duplicates, one UUID with two profiles, incomplete sets of co-runners.
//!
//! Rows are kept as hashes, so that a million of them take tens of megabytes.

use super::field::{Cells, Field};
use super::finding::{Finding, Findings};
use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Beyond so many rows of one file duplicates are no longer looked for: 64 MB.
const MOST_ROWS: usize = 4_000_000;

/// What some rows say about each other.
#[derive(Default)]
pub struct Across {
    /// Hash of what makes a row unique, and its line; in the file's order.
    rows: Vec<(u64, u64)>,
    /// The instance of (run, UUID), as first seen.
    instances: HashMap<u64, Instance>,
    /// By run, round and set of workers.
    sets: BTreeMap<(u64, u64), Set>,
    conflicts: Vec<Finding>,
}

/// Hash of an instance, its description, the line.
type Instance = (u64, String, u64);

/// Workers that measured at once.
struct Set {
    line: u64,
    column: String,
    /// One of its rows was measured, or may have been.
    counts: bool,
    /// How often each description must be there.
    wanted: BTreeMap<String, usize>,
    /// (description, instance), each once.
    there: BTreeMap<String, Vec<u64>>,
}

fn hash(parts: &[&str]) -> u64 {
    let mut hasher = DefaultHasher::new();
    parts.hash(&mut hasher);
    hasher.finish()
}

impl Across {
    /// Adds one row.
    pub fn add(&mut self, row: &Cells) {
        let text = |field| row.text(field);
        let uuid = if text(Field::MigUuid).is_empty() { text(Field::GpuUuid) } else { text(Field::MigUuid) };
        let (run, round) = (text(Field::RunId), text(Field::Repetition));
        let unique = [
            text(Field::Host),
            run,
            uuid,
            text(Field::GpuName),
            text(Field::PointId),
            round,
            text(Field::Attempt),
            text(Field::Worker),
        ];
        self.rows.push((hash(&unique), row.line));
        if !uuid.is_empty() {
            self.instance(row, hash(&[text(Field::Host), run, uuid]));
        }
        if text(Field::Mode) == "concurrent" {
            self.corunner(row, hash(&[uuid, text(Field::Worker)]));
        }
    }

    fn instance(&mut self, row: &Cells, key: u64) {
        let fields = [Field::Profile, Field::SmCount, Field::MemoryMib, Field::GiId, Field::CiId];
        // NVML may not know one of them every time; only what is there can differ.
        let parts = fields.map(|field| row.text(field));
        let hash = hash(&parts);
        let now = || (hash, describe(&parts), row.line);
        match self.instances.get(&key) {
            Some(first) if first.0 != hash => self.conflicts.push(conflict(first, &now())),
            Some(_) => {}
            None => _ = self.instances.insert(key, now()),
        }
    }

    fn corunner(&mut self, row: &Cells, instance: u64) {
        let text = |field| row.text(field);
        // As `Instance::label` names it.
        let label = match (text(Field::Kind), text(Field::Profile)) {
            ("mig", "") => "MIG device",
            ("mig", profile) => profile,
            _ => text(Field::GpuName),
        };
        let own = [label, text(Field::Workload), text(Field::Batch), text(Field::Load)].join("/");
        let mut all: Vec<&str> = text(Field::Corunners).split(';').chain([own.as_str()]).collect();
        all.sort_unstable();
        let key = (hash(&[text(Field::Host), text(Field::RunId), text(Field::Repetition)]), hash(&all));
        let set = self.sets.entry(key).or_insert_with(|| {
            let mut wanted: BTreeMap<String, usize> = BTreeMap::new();
            for description in &all {
                *wanted.entry((*description).to_owned()).or_default() += 1;
            }
            let column = row.view.column(Field::Corunners).to_owned();
            Set { line: row.line, column, counts: false, wanted, there: BTreeMap::new() }
        });
        set.add(own, instance);
        // A row that failed before the windows opened names the co-runners that were planned; since
        // version 2 the others name those that were there.
        let failed_before = text(Field::SchemaVersion) != "1"
            && text(Field::Status) != "ok"
            && text(Field::NamedStart).is_empty();
        set.counts |= !failed_before;
    }

    /// Adds those of later lines.
    pub fn append(&mut self, later: Across) {
        self.rows.extend(later.rows);
        self.conflicts.extend(later.conflicts);
        for (key, theirs) in later.instances {
            match self.instances.get(&key) {
                Some(first) if first.0 != theirs.0 => self.conflicts.push(conflict(first, &theirs)),
                Some(_) => {}
                None => _ = self.instances.insert(key, theirs),
            }
        }
        for (key, theirs) in later.sets {
            match self.sets.get_mut(&key) {
                Some(ours) => {
                    for (description, instances) in theirs.there {
                        for instance in instances {
                            ours.add(description.clone(), instance);
                        }
                    }
                    ours.counts |= theirs.counts;
                }
                None => _ = self.sets.insert(key, theirs),
            }
        }
    }

    /// What is wrong with all of them together.
    pub fn finish(mut self, findings: &mut Findings) {
        for conflict in self.conflicts {
            findings.push(conflict);
        }
        self.rows.truncate(MOST_ROWS);
        // Stable: of equal ones the first line comes first.
        self.rows.sort();
        for pair in self.rows.windows(2) {
            if pair[0].0 == pair[1].0 {
                let expected = format!(
                    "once: line {} has the same run, instance, point, repetition and attempt",
                    pair[0].1
                );
                findings.push(Finding::new(
                    pair[1].1,
                    Field::Attempt.name(),
                    "duplicate",
                    "this row again",
                    expected,
                ));
            }
        }
        for set in self.sets.into_values().filter(|set| set.counts) {
            set.judge(findings);
        }
    }
}

impl Set {
    fn add(&mut self, description: String, instance: u64) {
        let instances = self.there.entry(description).or_default();
        if !instances.contains(&instance) {
            instances.push(instance);
        }
    }

    fn judge(&self, findings: &mut Findings) {
        for (description, &wanted) in &self.wanted {
            let there = self.there.get(description).map_or(0, Vec::len);
            if there < wanted {
                let found = format!("{there} of {wanted} rows of {description}");
                let expected = "every co-runner with a row of its own in this run and repetition";
                findings.push(Finding::new(self.line, &self.column, "corunners", &found, expected));
            }
        }
    }
}

fn describe(parts: &[&str; 5]) -> String {
    let [profile, sms, memory, gi, ci] = parts;
    format!("{profile}, {sms} SMs, {memory} MiB, GI {gi}, CI {ci}")
}

fn conflict(first: &Instance, now: &Instance) -> Finding {
    let (first, now) = if first.2 <= now.2 { (first, now) } else { (now, first) };
    let expected = format!("{} as in line {} of the same run and UUID", first.1, first.2);
    Finding::new(now.2, Field::Profile.name(), "identity", &now.1, expected)
}
