//! Measures what each MIG instance of a GPU delivers.
//!
//! ```text
//! machine ─▶ sweep ⇄ measure(load × workload → recorder) ─▶ results ─▶ analysis ─▶ render
//! what is     pin and    one worker,                        a row,     check,      table, CSV,
//! here        supervise  its own process                    CSV        compare     Markdown, …
//! ```
//!
//! Floors, from the ground: [`machine`], [`workload`] · [`measure`] (uses workload) · [`results`]
//! (measure, machine) · [`sweep`] (results, measure, machine), [`analysis`] (results, machine) ·
//! [`render`] (analysis, results, machine) · [`cmd`] · main. An import never climbs; `tests/house.rs`
//! keeps it so.
//!
//! # Invariants
//! 1. The parent never touches CUDA or NVML, and never waits for a driver without a limit.
//! 2. A worker has one device and proves it before anything is measured.
//! 3. Between the start of a window and its end the harness neither prints, locks nor allocates per
//!    batch.
//! 4. What was asked for ends as a row: measured, or failed with its reason. Absent is an empty cell,
//!    never 0.
//! 5. A row is appended by one write under a lock as it finishes. A kill at any moment leaves a
//!    readable file.
//! 6. Read-only towards the GPU: no MIG mode, layout, clock, power or compute-mode change, ever.
//! 7. One failing worker never takes its siblings along; no worker outlives the parent.

pub mod analysis;
pub mod cli;
pub mod cmd;
pub mod machine;
pub mod measure;
pub mod render;
pub mod results;
pub mod sweep;
pub mod workload;
