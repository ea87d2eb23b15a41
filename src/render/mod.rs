//! What people and machines see. One file per form; no statistics here.

pub mod progress;
pub mod table;
