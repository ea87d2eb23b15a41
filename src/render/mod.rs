//! What people and machines see. One file per form; no statistics here.

pub mod check;
mod columns;
pub mod compare;
pub mod doctor;
pub mod list;
mod markdown;
pub mod names;
pub mod noise;
pub mod progress;
pub mod runs;
pub mod selftest;
pub mod slo;
pub mod slowdown;
pub mod table;
