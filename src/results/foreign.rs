//! What a file is that is no CSV, by its first bytes.

use crate::machine::decode;
use anyhow::{Result, bail};

/// How many bytes tell it.
pub const ENOUGH: usize = 512;

/// Beginnings of files, what such a file is, and what to do about it.
const MAGIC: [(&[u8], &str, &str); 4] = [
    (b"\xd0\xcf\x11\xe0", "an Excel workbook", "save the sheet as CSV"),
    (b"PAR1", "a Parquet file", "write it as CSV"),
    (b"SQLite format 3", "an SQLite database", "write the table as CSV"),
    (b"%PDF", "a PDF file", "give the data that it was made of"),
];

/// Refuses the beginning of a file that is no CSV.
///
/// # Errors
/// It is compressed, a workbook, UTF-16, JSON or XML: which one, and what to do.
pub fn refuse(start: &[u8]) -> Result<()> {
    if let Some((_, what, remedy)) = MAGIC.iter().find(|(magic, ..)| start.starts_with(magic)) {
        bail!("it is {what}, not CSV: {remedy}");
    }
    // Nothing but zeros is what a power failure leaves of a file of rows.
    let is_zeros = start.iter().all(|&byte| byte == 0);
    if let Some(what) = decode::foreign(start).filter(|_| !is_zeros) {
        bail!("{what}");
    }
    let text = decode::bytes_without_mark(start).trim_ascii_start();
    let (first, next) =
        (text.first().copied(), text.get(1..).unwrap_or_default().trim_ascii_start().first().copied());
    match (first, next) {
        (Some(b'{'), Some(b'"' | b'}')) | (Some(b'['), Some(b'{' | b'[' | b'"' | b']')) => {
            bail!("it is JSON, not CSV: write its numbers as a table, a row a line below a header")
        }
        (Some(b'<'), Some(b'?' | b'!' | b'a'..=b'z' | b'A'..=b'Z')) => {
            bail!("it is XML or HTML, not CSV: save the table as CSV")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_csv_is_named() {
        let utf16: Vec<u8> = "batch,qps\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let big: Vec<u8> = "batch,qps\n".encode_utf16().flat_map(u16::to_be_bytes).collect();
        for (start, word) in [
            (&b"\x1f\x8b\x08\x00"[..], "gzip"),
            (b"PK\x03\x04\x14", "spreadsheet"),
            (b"PAR1\x15", "Parquet"),
            (b"{\"a\": 1}\n", "JSON"),
            (b"\xef\xbb\xbf {\n \"a\": 1}\n", "JSON"),
            (b"[\n  {\"a\": 1}]", "JSON"),
            (b"<html>", "XML or HTML"),
            (b"\xff\xfea\0,\0", "UTF-16"),
            (&utf16, "UTF-16"),
            (&big, "UTF-16"),
        ] {
            let error = refuse(start).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains(": "), "{error}");
        }
        for start in
            [&b""[..], b"batch,qps\n1,2\n", b"[ms],<qps>\n", b"{,}\n", b"< 5 ms,a\n", b"\xef\xbb\xbfa,b"]
        {
            refuse(start).unwrap();
        }
    }
}
