//! What gives a number its meaning, and what may change it.

use crate::results::Row;
use std::cmp::Ordering;
use std::fmt::Display;

/// A column of a row as text.
pub struct Column {
    /// As in the file.
    pub name: &'static str,
    text: fn(&Row) -> String,
}

impl Column {
    /// Of a row.
    pub fn of(&self, row: &Row) -> String {
        (self.text)(row)
    }
}

fn text<T: Display>(value: Option<T>) -> String {
    value.map_or(String::new(), |value| value.to_string())
}

macro_rules! columns {
    ($(#[$doc:meta])* $table:ident: $($name:literal = |$row:ident| $text:expr;)*) => {
        $(#[$doc])*
        pub const $table: &[Column] = &[$(Column { name: $name, text: |$row| $text }),*];
    };
}

columns! {
    /// Rows are joined by these and nothing else; in the order in which they are shown.
    KEY:
    "gpu_name" = |row| row.subject.instance.gpu_name.clone();
    "instance_kind" = |row| row.subject.instance.kind.to_string();
    "profile" = |row| text(row.subject.instance.profile.as_ref());
    "sm_count" = |row| text(row.subject.instance.sm_count);
    "workload" = |row| row.point.workload.clone();
    "precision" = |row| text(row.point.precision);
    "gemm" = |row| text(row.point.gemm);
    "batch" = |row| row.point.batch.to_string();
    "mode" = |row| word(&row.point.mode);
    "corunners" = |row| row.point.corunners.clone();
    "load" = |row| row.point.load.clone();
    "inflight" = |row| row.point.inflight.to_string();
    "device" = |row| word(&row.point.device);
    "backend" = |row| row.point.backend.clone();
    "sync" = |row| text(row.point.sync);
    "graph" = |row| text(row.point.graph);
    "transfers" = |row| text(row.point.transfers);
    "threads" = |row| text(row.point.threads);
    "extra_work_us" = |row| text(row.point.extra_work_us);
    "sharing" = |row| row.subject.sharing.as_ref().map_or(String::new(), word);
}

columns! {
    /// What may be the cause of a change: shown when it differs, never refused by itself.
    CAUSES:
    "driver_version" = |row| text(row.subject.driver_version.as_ref());
    "cuda_version" = |row| text(row.subject.cuda_version.as_ref());
    "os_kernel" = |row| text(row.provenance.os_kernel.as_ref());
    "gpu_vbios" = |row| text(row.subject.gpu_vbios.as_ref());
    "gpu_power_limit_w" = |row| text(row.subject.gpu_power_limit_w);
    "schema_version" = |row| row.provenance.schema_version.to_string();
    "migbench_version" = |row| row.provenance.migbench_version.clone();
    "git_revision" = |row| row.provenance.git_revision.clone();
    "kernels" = |row| row.provenance.kernels.clone();
    "gemm_version" = |row| text(row.provenance.gemm_version.as_ref());
    "host" = |row| row.provenance.host.clone();
    "gpu_uuid" = |row| text(row.subject.instance.gpu_uuid.as_ref());
    "memory_mib" = |row| text(row.subject.instance.memory_mib);
    "neighbours" = |row| row.subject.neighbours.as_ref().map_or(String::new(), word);
    "cpus" = |row| row.point.cpus.clone();
    "seed" = |row| row.provenance.seed.to_string();
}

/// As serde writes it into the file.
fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

/// Texts in a reader's order: numbers by their value, the rest by their letters.
pub fn natural(a: &str, b: &str) -> Ordering {
    match (a.parse::<f64>(), b.parse::<f64>()) {
        (Ok(x), Ok(y)) => x.total_cmp(&y).then_with(|| a.cmp(b)),
        _ => a.cmp(b),
    }
}

/// The values of [`KEY`] for one point.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key(pub Vec<String>);

impl Key {
    /// Of a row, without the columns that may differ.
    pub fn of(row: &Row, ignored: &[String]) -> Key {
        let value = |column: &Column| match ignored.iter().any(|name| name == column.name) {
            true => String::new(),
            false => column.of(row),
        };
        Key(KEY.iter().map(value).collect())
    }

    /// The value of a column.
    pub fn get(&self, name: &str) -> &str {
        let at = KEY.iter().position(|column| column.name == name);
        at.map_or("", |at| self.0[at].as_str())
    }

    /// Names of the columns in which two differ.
    pub fn differences(&self, other: &Key) -> Vec<&'static str> {
        let pairs = KEY.iter().zip(self.0.iter().zip(&other.0));
        pairs.filter(|(_, (a, b))| a != b).map(|(column, _)| column.name).collect()
    }

    /// The instance, the workload and the batch, in short.
    pub fn label(&self) -> String {
        let instance = match self.get("instance_kind") {
            "mig" => self.get("profile"),
            _ => self.get("gpu_name"),
        };
        let mut label = format!(
            "{instance} {} {} batch {}",
            self.get("workload"),
            self.get("precision"),
            self.get("batch")
        );
        if self.get("mode") == "concurrent" {
            label += " concurrent";
        }
        if !matches!(self.get("load"), "" | "closed") {
            label += &format!(" {}", self.get("load"));
        }
        label
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Key) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Key) -> Ordering {
        let pairs = self.0.iter().zip(&other.0);
        pairs.map(|(a, b)| natural(a, b)).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::header;

    #[test]
    fn every_name_is_a_column_of_the_file() {
        for column in KEY.iter().chain(CAUSES) {
            assert!(header().contains(&column.name), "{}", column.name);
        }
    }

    #[test]
    fn batches_sort_as_numbers() {
        let key = |batch: u64| {
            let mut row = Row::default();
            row.point.batch = batch;
            Key::of(&row, &[])
        };
        assert!(key(8) < key(32));
        assert_eq!(key(8).differences(&key(32)), ["batch"]);
        let mut row = Row::default();
        row.point.batch = 5;
        assert_eq!(Key::of(&row, &["batch".into()]).get("batch"), "");
    }
}
