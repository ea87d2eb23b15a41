//! What an input of a batch holds: random numbers of its type, integers of a range, or a NumPy file.

use super::{Element, Input};
use crate::machine::{file, host};
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// What an input holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fill {
    /// Floats from -1 up to 1; integers 0 or 1, which every embedding has and every mask takes.
    Random,
    /// Integers from `low` up to `high`, without it.
    Int {
        /// The smallest.
        low: i64,
        /// One more than the largest.
        high: i64,
    },
    /// The array in a NumPy file.
    File(PathBuf),
}

impl fmt::Display for Fill {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Fill::Random => f.write_str("random"),
            Fill::Int { low, high } => write!(f, "int:{low}..{high}"),
            Fill::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl FromStr for Fill {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Fill> {
        if let Some(range) = text.strip_prefix("int:") {
            let ends = range.split_once("..").and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
            return match ends {
                Some((low, high)) if low < high => Ok(Fill::Int { low, high }),
                _ => bail!("'{text}' is no range: write for example int:0..30522, without the last"),
            };
        }
        match text {
            "random" => Ok(Fill::Random),
            _ if text.ends_with(".npy") => Ok(Fill::File(text.into())),
            _ => bail!("'{text}' is nothing an input can hold: write random, int:0..30522 or FILE.npy"),
        }
    }
}

impl Fill {
    /// The bytes of an input, the same for the same seed and name.
    ///
    /// # Errors
    /// The file can't be read, or is not of the input's type and shape.
    pub fn bytes(&self, input: &Input, seed: u64) -> Result<Vec<u8>> {
        refuse_unless_it_fits(input)?;
        let (count, element) = (input.elements(), input.element);
        // FNV-1a: inputs must differ from each other, not be secret.
        let hash = input.name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mut random = fastrand::Rng::with_seed(seed ^ hash);
        let mut bytes = Vec::with_capacity(count * element.bytes());
        match self {
            Fill::File(path) => return read_npy(path, input),
            Fill::Int { low, high } => {
                for _ in 0..count {
                    element.encode(random.i64(*low..*high) as f64, &mut bytes);
                }
            }
            Fill::Random if element.is_integer() || element == Element::Bool => {
                for _ in 0..count {
                    element.encode(f64::from(u8::from(random.bool())), &mut bytes);
                }
            }
            Fill::Random => {
                for _ in 0..count {
                    element.encode(2.0 * random.f64() - 1.0, &mut bytes);
                }
            }
        }
        Ok(bytes)
    }
}

/// Refuses an input that is larger than the machine's memory, before memory is asked for.
///
/// # Errors
/// It is.
pub fn refuse_unless_it_fits(input: &Input) -> Result<()> {
    let (needed, memory) =
        (input.elements() as u64 * input.element.bytes() as u64, host::total_memory_bytes());
    match memory {
        Some(memory) if needed > memory => bail!(
            "{input} needs {:.1} GB, and the machine has {:.1} GB: choose smaller sizes",
            needed as f64 / 1e9,
            memory as f64 / 1e9
        ),
        _ => Ok(()),
    }
}

/// NumPy's format, versions 1 to 3: magic, version, length of a header in Python's spelling, data.
fn read_npy(path: &Path, input: &Input) -> Result<Vec<u8>> {
    // NumPy's header is much shorter.
    let most = (input.elements() * input.element.bytes()) as u64 + (1 << 20);
    let bytes = file::bytes(path, most)?;
    let (header, data) = split_npy(&bytes).with_context(|| format!("{} is no NumPy file", path.display()))?;
    let wanted = input.element.numpy().with_context(|| {
        format!("input '{}' is {}, which NumPy's files do not have", input.name, input.element)
    })?;
    let found = value_of(header, "descr").unwrap_or_default().trim_matches(['\'', '"']);
    let little = found.starts_with(['<', '|']) || found.starts_with('=');
    ensure!(
        little && found.get(1..) == Some(wanted),
        "{} holds {found}, input '{}' is {} ({wanted} in NumPy)",
        path.display(),
        input.name,
        input.element
    );
    ensure!(
        value_of(header, "fortran_order") == Some("False"),
        "{} is in Fortran's order: save numpy.ascontiguousarray of it",
        path.display()
    );
    let shape = value_of(header, "shape").unwrap_or_default();
    let shape: Option<Vec<usize>> = shape
        .trim_matches(['(', ')'])
        .split(',')
        .map(str::trim)
        .filter(|p| !p.is_empty())
        .map(|p| p.parse().ok())
        .collect();
    ensure!(
        shape.as_ref() == Some(&input.shape),
        "{} has the shape {:?}, input '{}' needs {:?}",
        path.display(),
        shape.unwrap_or_default(),
        input.name,
        input.shape
    );
    let needed = input.elements() * input.element.bytes();
    ensure!(data.len() == needed, "{} holds {} bytes instead of {needed}", path.display(), data.len());
    Ok(data.to_vec())
}

fn split_npy(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let rest = bytes.strip_prefix(b"\x93NUMPY")?;
    let (length, start) = match rest.first()? {
        1 => (usize::from(u16::from_le_bytes(rest.get(2..4)?.try_into().ok()?)), 4),
        2 | 3 => (u32::from_le_bytes(rest.get(2..6)?.try_into().ok()?) as usize, 6),
        _ => return None,
    };
    let header = std::str::from_utf8(rest.get(start..)?.get(..length)?).ok()?;
    Some((header, &rest[start + length..]))
}

/// The value of a key in NumPy's header; tuples whole.
fn value_of<'a>(header: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = header.split_once(&format!("'{key}'"))?;
    let rest = rest.trim_start().strip_prefix(':')?.trim_start();
    let end = if rest.starts_with('(') { rest.find(')')? + 1 } else { rest.find([',', '}'])? };
    Some(rest[..end].trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(element: Element, shape: &[usize]) -> Input {
        Input { name: "x".into(), element, shape: shape.to_vec(), fill: Fill::Random }
    }

    #[test]
    fn fills_are_spelt_as_they_are_typed() {
        for text in ["int:0..30522", "int:-5..5", "a/b.npy", "random"] {
            assert_eq!(text.parse::<Fill>().unwrap().to_string(), text);
        }
        for text in ["int:5..5", "int:5", "int:a..b", "zeros"] {
            assert!(text.parse::<Fill>().unwrap_err().to_string().contains("int:0..30522"), "{text}");
        }
    }

    #[test]
    fn random_numbers_are_of_their_type_and_repeat() {
        let x = input(Element::F32, &[100]);
        let bytes = Fill::Random.bytes(&x, 1).unwrap();
        assert_eq!(bytes, Fill::Random.bytes(&x, 1).unwrap());
        assert_ne!(bytes, Fill::Random.bytes(&x, 2).unwrap());
        let values = Element::F32.decode(&bytes);
        assert!(values.iter().all(|v| (-1.0..1.0).contains(v)) && values.iter().any(|v| *v < -0.5));
        let ids = input(Element::I64, &[10, 100]);
        let values = Element::I64.decode(&Fill::Int { low: 3, high: 6 }.bytes(&ids, 1).unwrap());
        assert!(
            [3.0, 4.0, 5.0].iter().all(|v| values.contains(v))
                && values.iter().all(|v| (3.0..6.0).contains(v))
        );
        let mask = Element::Bool.decode(&Fill::Random.bytes(&input(Element::Bool, &[64]), 1).unwrap());
        assert!(mask.contains(&0.0) && mask.contains(&1.0));
    }

    /// As numpy.save writes it.
    fn npy(descr: &str, order: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let mut header = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}");
        header += &" ".repeat(63 - (header.len() + 10) % 64);
        header += "\n";
        let length = (header.len() as u16).to_le_bytes();
        [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), data].concat()
    }

    #[test]
    fn what_cannot_be_held_is_refused_before_memory_is_asked_for() {
        let huge = input(Element::F32, &[1 << 20, 1 << 20]);
        for fill in [Fill::Random, Fill::Int { low: 0, high: 2 }, Fill::File("/dev/zero".into())] {
            let error = fill.bytes(&huge, 1).unwrap_err().to_string();
            assert!(
                error.starts_with("x: f32 [1048576, 1048576] needs 4398.0 GB, and the machine has"),
                "{error}"
            );
        }
        let error = Fill::File("/dev/zero".into()).bytes(&input(Element::F32, &[2]), 1).unwrap_err();
        assert!(error.to_string().starts_with("/dev/zero is not a regular file"), "{error}");
    }

    #[test]
    fn a_numpy_file_must_fit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npy");
        let read = |bytes: &[u8], input: &Input| {
            std::fs::write(&path, bytes).unwrap();
            read_npy(&path, input).map_err(|e| format!("{e:#}").replace(path.to_str().unwrap(), "x.npy"))
        };
        let data: Vec<u8> = [1.5f32, 2.5].iter().flat_map(|v| v.to_le_bytes()).collect();
        let good = npy("<f4", "False", "(2, 1)", &data);
        let x = input(Element::F32, &[2, 1]);
        assert_eq!(read(&good, &x).unwrap(), data);
        assert_eq!(read(&npy("<f4", "False", "(2,)", &data), &input(Element::F32, &[2])).unwrap(), data);
        for (bytes, message) in [
            (npy("<f8", "False", "(2, 1)", &data), "x.npy holds <f8, input 'x' is f32 (f4 in NumPy)"),
            (npy(">f4", "False", "(2, 1)", &data), "x.npy holds >f4, input 'x' is f32 (f4 in NumPy)"),
            (
                npy("<f4", "True", "(2, 1)", &data),
                "x.npy is in Fortran's order: save numpy.ascontiguousarray of it",
            ),
            (npy("<f4", "False", "(1, 2)", &data), "x.npy has the shape [1, 2], input 'x' needs [2, 1]"),
            (npy("<f4", "False", "(2, 1)", &data[1..]), "x.npy holds 7 bytes instead of 8"),
            (b"junk".to_vec(), "x.npy is no NumPy file"),
            (good[..20].to_vec(), "x.npy is no NumPy file"),
        ] {
            assert_eq!(read(&bytes, &x).unwrap_err(), message);
        }
    }
}
