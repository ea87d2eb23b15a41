//! How the bytes of a text file that somebody else wrote become text: the encoding is told before
//! anything is parsed, so that a file from another system is read or named, and no line of it is lost.

use anyhow::{Result, bail};

/// What Windows' tools put in front of UTF-8.
const MARK: char = '\u{feff}';

/// How many bytes at the start of a file tell its encoding.
const START: usize = 4096;

/// The text in these bytes, without a byte order mark.
///
/// # Errors
/// They are no UTF-8; the message says what they are, or the line, and how to convert them.
pub fn text(bytes: Vec<u8>) -> Result<String> {
    if let Some(what) = foreign(&bytes) {
        bail!("{what}");
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(if text.starts_with(MARK) { without_mark(&text).to_owned() } else { text }),
        Err(error) => {
            let (at, bytes) = (error.utf8_error().valid_up_to(), error.as_bytes());
            let line = bytes[..at].iter().filter(|&&byte| byte == b'\n').count() + 1;
            bail!(
                "line {line} holds the byte {:#04x}, which is not UTF-8: convert the file first, for example with \
                 iconv -f LATIN1 -t UTF-8",
                bytes[at]
            )
        }
    }
}

/// A text without the byte order mark in front of it.
pub fn without_mark(text: &str) -> &str {
    text.trim_start_matches(MARK)
}

/// The bytes of a text without the byte order marks in front of it: a tool that adds one may have been
/// given a file that had one.
pub fn bytes_without_mark(mut bytes: &[u8]) -> &[u8] {
    while let Some(rest) = bytes.strip_prefix(b"\xef\xbb\xbf") {
        bytes = rest;
    }
    bytes
}

/// What a file that begins with these bytes is instead of UTF-8 text, and what to do about it.
pub fn foreign(bytes: &[u8]) -> Option<&'static str> {
    const UTF_16: &str =
        "it is UTF-16 (as PowerShell's > writes it): convert it first, with iconv -f UTF-16 -t UTF-8";
    const UTF_32: &str = "it is UTF-32: convert it first, with iconv -f UTF-32 -t UTF-8";
    let known: [(&[u8], &str); 9] = [
        (&[0xff, 0xfe, 0, 0], UTF_32),
        (&[0, 0, 0xfe, 0xff], UTF_32),
        (&[0xff, 0xfe], UTF_16),
        (&[0xfe, 0xff], UTF_16),
        (&[0x1f, 0x8b], "it is compressed by gzip: unpack it first, with gunzip"),
        (&[0x28, 0xb5, 0x2f, 0xfd], "it is compressed by zstd: unpack it first, with unzstd"),
        (b"BZh", "it is compressed by bzip2: unpack it first, with bunzip2"),
        (&[0xfd, b'7', b'z', b'X', b'Z'], "it is compressed by xz: unpack it first, with unxz"),
        (b"PK\x03\x04", "it is a ZIP archive or a spreadsheet (.xlsx, .ods): save it as text first"),
    ];
    if let Some((_, what)) = known.iter().find(|(start, _)| bytes.starts_with(start)) {
        return Some(what);
    }
    let start = &bytes[..bytes.len().min(START)];
    let nul = |parity: usize| start.iter().skip(parity).step_by(2).filter(|&&byte| byte == 0).count();
    match (nul(0), nul(1)) {
        (0, 0) => None,
        // Every other byte of Latin letters is 0, also where nobody put a mark in front.
        (0, odd) if odd > start.len() / 4 => {
            Some("it is UTF-16 without a byte order mark: convert it first, with iconv -f UTF-16LE -t UTF-8")
        }
        (even, 0) if even > start.len() / 4 => {
            Some("it is UTF-16 without a byte order mark: convert it first, with iconv -f UTF-16BE -t UTF-8")
        }
        _ => Some("it holds NUL bytes, which no text has"),
    }
}

/// The lines of a text with their numbers, whichever system ended them: by LF, CR LF, or CR.
pub fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut rest = Some(without_mark(text));
    let mut number = 0;
    std::iter::from_fn(move || {
        let text = rest.filter(|text| !text.is_empty())?;
        number += 1;
        let end = text.find(['\n', '\r']);
        let (line, after) = match end {
            None => (text, None),
            Some(at) if text[at..].starts_with("\r\n") => (&text[..at], Some(&text[at + 2..])),
            Some(at) => (&text[..at], Some(&text[at + 1..])),
        };
        rest = after;
        Some((number, line))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(bytes: &[u8]) -> String {
        text(bytes.to_vec()).unwrap_err().to_string()
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_text() {
        assert_eq!(text(b"\xef\xbb\xbfGPU 0".to_vec()).unwrap(), "GPU 0");
        assert_eq!(text(b"GPU 0".to_vec()).unwrap(), "GPU 0");
        assert_eq!(text(Vec::new()).unwrap(), "");
        assert_eq!(lines("\u{feff}a").collect::<Vec<_>>(), [(1, "a")]);
    }

    #[test]
    fn other_encodings_are_named_with_the_way_out() {
        let utf16 = |text: &str, mark: bool, order: fn(u16) -> [u8; 2]| -> Vec<u8> {
            let mark = mark.then_some(0xfeff);
            mark.into_iter().chain(text.encode_utf16()).flat_map(order).collect()
        };
        for order in [u16::to_le_bytes, u16::to_be_bytes] {
            let marked = message(&utf16("GPU 0: NVIDIA L4\r\n", true, order));
            assert!(marked.starts_with("it is UTF-16") && marked.contains("iconv -f UTF-16 -t"), "{marked}");
            let bare = message(&utf16("GPU 0: NVIDIA L4\r\n", false, order));
            assert!(bare.starts_with("it is UTF-16 without a byte order mark"), "{bare}");
        }
        assert!(message(b"\xff\xfe\0\0G\0\0\0").starts_with("it is UTF-32"));
        assert!(message(b"\x1f\x8b\x08\0").contains("gunzip"));
        assert!(message(b"PK\x03\x04").contains("spreadsheet"));
        assert_eq!(message(b"GPU 0: NVIDIA\0 L4"), "it holds NUL bytes, which no text has");
        assert!(message(b"a\nb\xe4c").starts_with("line 2 holds the byte 0xe4, which is not UTF-8"));
    }

    #[test]
    fn lines_end_as_any_system_ends_them() {
        let all = |text| lines(text).collect::<Vec<_>>();
        assert_eq!(all("a\nb\n"), [(1, "a"), (2, "b")]);
        assert_eq!(all("a\r\nb\r\n\r\nc"), [(1, "a"), (2, "b"), (3, ""), (4, "c")]);
        assert_eq!(all("a\rb\r"), [(1, "a"), (2, "b")]);
        assert_eq!(all(""), []);
        assert_eq!(all("\n"), [(1, "")]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(text) = text(bytes.clone()) {
                prop_assert!(bytes.ends_with(text.as_bytes()));
                let joined: String = lines(&text).map(|(_, line)| line).collect();
                prop_assert_eq!(joined, text.replace(['\n', '\r'], ""));
            }
        }
    }
}
