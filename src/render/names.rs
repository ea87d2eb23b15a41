//! What a table calls an instance: its profile, and its GI and CI ids where several are of one profile.

use crate::machine::{Instance, InstanceKind};
use crate::results::Row;
use std::collections::BTreeMap;

/// The names of the instances of some rows.
#[derive(Debug, Default)]
pub struct Names {
    /// Are there rows of several GPUs?
    pub several_gpus: bool,
    /// UUIDs by label.
    labels: BTreeMap<String, Vec<String>>,
}

impl Names {
    /// Of these rows.
    pub fn of(rows: &[&Row]) -> Names {
        let mut names = Names::default();
        let mut gpus: Vec<Option<u32>> = Vec::new();
        for row in rows {
            let instance = &row.subject.instance;
            let uuids = names.labels.entry(instance.label().to_owned()).or_default();
            let uuid = instance.uuid().unwrap_or_default();
            if !uuids.iter().any(|other| other == uuid) {
                uuids.push(uuid.to_owned());
            }
            gpus.push(instance.gpu_index);
        }
        gpus.sort_unstable();
        gpus.dedup();
        names.several_gpus = gpus.len() > 1;
        names
    }

    /// `1g.18gb`, or `1g.18gb 7/0` (GI 7, CI 0) where there are several; a worker of several, `#2`.
    pub fn of_row(&self, row: &Row) -> String {
        let instance = &row.subject.instance;
        let mut name = instance.label().to_owned();
        let several = self.labels.get(&name).is_some_and(|uuids| uuids.len() > 1);
        if let (true, Instance { kind: InstanceKind::Mig, gi_id: Some(gi), ci_id: Some(ci), .. }) =
            (several, instance)
        {
            name = format!("{name} {gi}/{ci}");
        }
        match row.subject.worker {
            Some(worker) => format!("{name} #{worker}"),
            None => name,
        }
    }
}
