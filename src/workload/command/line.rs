//! What a program says of itself, one line each: `hello UUID`, `ready`, `batch NS [START_NS]`. Pure.
//! docs/protocol.md is for those who write such programs.

use anyhow::{Result, bail, ensure};

/// A longer line is none.
pub const MAX_LINE: usize = 4096;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// The first: the device that it runs on, as far as it knows.
    Hello(Option<String>),
    /// It waits for the start.
    Ready,
    /// A batch is done.
    Batch {
        /// It took so long; not 0.
        ns: u64,
        /// It began at this moment of CLOCK_MONOTONIC.
        start_ns: Option<u64>,
    },
}

/// Bytes as they come, lines as they end.
#[derive(Debug, Default)]
pub struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// Takes what has come and gives the lines that it ends, in order.
    ///
    /// # Errors
    /// A line that says none of the above, or is too long.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Vec<Line>> {
        let mut lines = Vec::new();
        for part in bytes.split_inclusive(|&b| b == b'\n') {
            self.partial.extend_from_slice(part);
            if self.partial.len() > MAX_LINE {
                bail!("the program wrote a line of more than {MAX_LINE} bytes: {}", shown(&self.partial));
            }
            if part.ends_with(b"\n") {
                lines.push(parse(&self.partial)?);
                self.partial.clear();
            }
        }
        Ok(lines)
    }

    /// Nothing more will come.
    ///
    /// # Errors
    /// In the middle of a line.
    pub fn end(&self) -> Result<()> {
        ensure!(self.partial.is_empty(), "the program wrote half a line: {}", shown(&self.partial));
        Ok(())
    }
}

fn parse(bytes: &[u8]) -> Result<Line> {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let mut words = text.split_ascii_whitespace();
    let line = match words.next() {
        Some("hello") => {
            let uuid = words.next().unwrap_or("-");
            Line::Hello((uuid != "-").then(|| uuid.to_owned()))
        }
        Some("ready") => Line::Ready,
        Some("batch") => {
            let number = |word: &str| match word.parse::<u64>() {
                Ok(n) => Ok(n),
                Err(_) => bail!(
                    "the program wrote {}: times are whole nanoseconds, none of them negative",
                    shown(bytes)
                ),
            };
            let Some(ns) = words.next().map(number).transpose()? else {
                bail!("the program wrote {}: expected 'batch NS' or 'batch NS START_NS'", shown(bytes))
            };
            ensure!(ns > 0, "the program wrote {}: no batch takes no time", shown(bytes));
            Line::Batch { ns, start_ns: words.next().map(number).transpose()? }
        }
        _ => bail!(
            "the program wrote {}: expected 'hello UUID', 'ready' or 'batch NS' (docs/protocol.md)",
            shown(bytes)
        ),
    };
    ensure!(words.next().is_none(), "the program wrote {}: too many words", shown(bytes));
    Ok(line)
}

/// The beginning, in quotation marks.
fn shown(bytes: &[u8]) -> String {
    let start = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]);
    format!("{:?}", start.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn said(text: &str) -> Result<Vec<Line>> {
        Lines::default().take(text.as_bytes())
    }

    #[test]
    fn lines_are_understood_however_they_are_cut() {
        let text = "hello GPU-1\nready\nbatch 5\nbatch 6 7\r\n";
        let expected = [
            Line::Hello(Some("GPU-1".into())),
            Line::Ready,
            Line::Batch { ns: 5, start_ns: None },
            Line::Batch { ns: 6, start_ns: Some(7) },
        ];
        for size in 1..text.len() {
            let mut lines = Lines::default();
            let mut found = Vec::new();
            text.as_bytes().chunks(size).for_each(|part| found.extend(lines.take(part).unwrap()));
            assert_eq!(found, expected);
            lines.end().unwrap();
        }
        assert_eq!(said("hello -\nhello\n").unwrap(), [Line::Hello(None), Line::Hello(None)]);
    }

    #[test]
    fn what_is_wrong_is_shown() {
        for (text, message) in [
            ("batch 0\n", "the program wrote \"batch 0\": no batch takes no time"),
            (
                "batch -5\n",
                "the program wrote \"batch -5\": times are whole nanoseconds, none of them negative",
            ),
            (
                "batch 1.5\n",
                "the program wrote \"batch 1.5\": times are whole nanoseconds, none of them negative",
            ),
            ("batch\n", "the program wrote \"batch\": expected 'batch NS' or 'batch NS START_NS'"),
            ("batch 1 2 3\n", "the program wrote \"batch 1 2 3\": too many words"),
            ("\n", "the program wrote \"\": expected 'hello UUID', 'ready' or 'batch NS' (docs/protocol.md)"),
        ] {
            assert_eq!(said(text).unwrap_err().to_string(), message);
        }
        assert!(
            said(&"x".repeat(5000))
                .unwrap_err()
                .to_string()
                .starts_with("the program wrote a line of more than 4096 bytes")
        );
        let mut lines = Lines::default();
        lines.take(b"batch 12").unwrap();
        assert_eq!(lines.end().unwrap_err().to_string(), "the program wrote half a line: \"batch 12\"");
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Lines::default().take(&bytes);
        }

        #[test]
        fn any_batch_is_read(ns in 1u64.., start in any::<Option<u64>>()) {
            let line = match start {
                Some(start) => format!("batch {ns} {start}\n"),
                None => format!("batch {ns}\n"),
            };
            prop_assert_eq!(said(&line).unwrap(), [Line::Batch { ns, start_ns: start }]);
        }
    }
}
