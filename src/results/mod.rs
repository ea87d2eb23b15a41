//! Rows: what was asked for and what came of it, and their CSV form.
//!
//! Everything to the right of this room reads saved rows only.

mod cell;
pub mod csv_file;
pub mod environment;
pub mod export;
mod foreign;
pub mod histogram;
pub mod lines;
pub mod output;
pub mod row;
pub mod rows_file;
pub mod summary;
pub mod table;
mod wire;

pub use row::Row;
pub use wire::{COLUMNS, Column, cells, from_cells, header, line, places};
