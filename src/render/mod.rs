//! What people and machines see. One file per form; no statistics here.

pub mod check;
pub mod compare;
mod markdown;
pub mod progress;
pub mod table;
