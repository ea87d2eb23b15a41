//! What people and machines see. One file per form; no statistics here.

mod columns;
pub mod doctor;
pub mod list;
pub mod progress;
pub mod table;
