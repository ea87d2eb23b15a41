//! Any bytes: no panic, bounded memory, an answer. Short here; `.ci/run` calls the long form with
//! `FUZZ_INPUTS=1000000 cargo test --release --test fuzz_files`.

#[path = "../benches/simulate/mod.rs"]
mod simulate;

use migbench::analysis::check::{Checker, Mapping, check_table};
use migbench::analysis::compare::compare;
use migbench::results::csv_file::scan_from;
use migbench::results::histogram::{Reader, Slots};
use migbench::results::lines::Lines;
use rayon::prelude::*;
use simulate::gate::options;
use simulate::{Random, batches, file, measured, template};

fn inputs() -> u64 {
    std::env::var("FUZZ_INPUTS").ok().and_then(|n| n.parse().ok()).unwrap_or(3_000)
}

/// Changes some bytes: replaced, removed, repeated, cut; by what often breaks readers.
fn spoil(bytes: &mut Vec<u8>, rng: &mut fastrand::Rng) {
    const TOKENS: [&[u8]; 20] = [
        b"",
        b",",
        b"\"",
        b"\n",
        b"\r",
        b"\0",
        b"\xe9",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"NaN",
        b"inf",
        b"-1",
        b"0",
        b"1e308",
        b"-0",
        b"1e-320",
        b"18446744073709551616",
        b"9007199254740993",
        b"9223372036854775807",
        b"AAAA",
    ];
    for _ in 0..rng.usize(1..5) {
        if bytes.is_empty() {
            return;
        }
        let at = rng.usize(..bytes.len());
        let end = (at + rng.usize(..12)).min(bytes.len());
        match rng.u8(..6) {
            0 => bytes[at] = rng.u8(..),
            1 => bytes.truncate(at),
            2 => _ = bytes.splice(at..end, rng.choice(TOKENS).unwrap().iter().copied()),
            3 => _ = bytes.drain(at..end),
            4 => {
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            _ => {
                // A whole cell.
                let next = bytes[at..].iter().position(|b| *b == b',').map_or(bytes.len(), |n| at + n);
                let start = bytes[..at].iter().rposition(|b| *b == b',').map_or(0, |n| n + 1);
                bytes.splice(start..next, rng.choice(TOKENS).unwrap().iter().copied());
            }
        }
    }
}

fn seed_file() -> Vec<u8> {
    let mut random = Random::new(5);
    let rows: Vec<_> =
        (0..3).map(|i| measured(template(8, i), &batches(&mut random, 30, 2e6, 0.05, 0.3))).collect();
    file(&rows)
}

#[test]
fn fuzz_the_csv_reader_and_every_rule() {
    let seed = seed_file();
    let (header, body) = seed.split_at(seed.iter().position(|b| *b == b'\n').unwrap() + 1);
    let other = b"b,l,q\n1,2.5,400\n8,3,2666\n";
    let mapping = || {
        let pairs = ["latency=l".to_owned(), "batch=b".to_owned(), "throughput=q".to_owned()];
        Some(Mapping::new(Mapping::parse(&pairs).unwrap()))
    };
    (0..inputs()).into_par_iter().for_each(|i| {
        let mut rng = fastrand::Rng::with_seed(i);
        // Mostly below a header that is right: behind a wrong one nothing is read.
        let (bytes, mapping) = match i % 8 {
            0 => {
                let mut bytes = seed.clone();
                spoil(&mut bytes, &mut rng);
                (bytes, None)
            }
            1 | 2 => {
                let mut bytes = other.to_vec();
                spoil(&mut bytes, &mut rng);
                (bytes, mapping())
            }
            _ => {
                let mut rows = body.to_vec();
                spoil(&mut rows, &mut rng);
                ([header, &rows].concat(), None)
            }
        };
        check(&bytes, mapping, rng.usize(1..5));
        let mut rows = Vec::new();
        if scan_from(bytes.as_slice(), "a.csv", &mut |row| rows.push(row)).is_ok() {
            let _ = compare(&rows, &rows, &options(None));
        }
    });
}

fn check(bytes: &[u8], mapping: Option<Mapping>, at_once: usize) {
    if let Some(mapping) = mapping {
        if let Ok(report) = check_table("a.csv", bytes, &mapping, 2) {
            assert!(report.findings.kept().len() as u64 <= report.findings.count());
        }
        return;
    }
    let mut lines = Lines::new(bytes);
    let mut checker = Checker::new("a.csv", 2);
    while let Ok(Some(chunk)) = lines.next_chunk(at_once) {
        if checker.lines(&chunk).is_err() {
            return;
        }
    }
    if let Some(line) = lines.torn() {
        checker.torn(line);
    }
    let report = checker.finish();
    assert!(report.findings.kept().len() as u64 <= report.findings.count());
}

#[test]
fn fuzz_the_histogram_decoder() {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use std::io::{Read, Write};
    let mut random = Random::new(6);
    let row = measured(template(8, 0), &batches(&mut random, 300, 2e6, 0.2, 0.3));
    let cell = row.histograms.latency.unwrap();
    let bytes = STANDARD.decode(&cell).unwrap();
    let mut plain = Vec::new();
    flate2::read::ZlibDecoder::new(&bytes[8..]).read_to_end(&mut plain).unwrap();
    (0..inputs()).into_par_iter().for_each_init(
        || (Reader::default(), Slots::default()),
        |(reader, slots), i| {
            let mut rng = fastrand::Rng::with_seed(i);
            let text = match i % 4 {
                0 => {
                    let mut text = cell.clone().into_bytes();
                    spoil(&mut text, &mut rng);
                    String::from_utf8_lossy(&text).into_owned()
                }
                1 => {
                    let mut bytes = bytes.clone();
                    spoil(&mut bytes, &mut rng);
                    STANDARD.encode(bytes)
                }
                // Spoilt inside a zlib stream and lengths that are right.
                _ => {
                    let mut plain = plain.clone();
                    spoil(&mut plain, &mut rng);
                    if plain.len() > 40 && rng.bool() {
                        let length = (plain.len() - 40) as u32;
                        plain[4..8].copy_from_slice(&length.to_be_bytes());
                    }
                    let mut encoder =
                        flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
                    encoder.write_all(&plain).unwrap();
                    let deflated = encoder.finish().unwrap();
                    let head = [&bytes[..4], &(deflated.len() as u32).to_be_bytes(), &deflated].concat();
                    STANDARD.encode(head)
                }
            };
            if reader.read(&text, slots).is_ok() {
                let found: Vec<(u64, u64, u64)> = slots.iter().collect();
                assert_eq!(found.iter().map(|slot| slot.2).sum::<u64>(), slots.count);
                assert!(found.windows(2).all(|pair| pair[0].1 < pair[1].0));
                let median = slots.at_rank(slots.rank(0.5));
                assert!(found.is_empty() || found.iter().any(|slot| Some(slot.1) == median));
                let sums = slots.sums(1e6);
                assert!(sums.squares >= 0.0 && sums.halves >= 0.0 && sums.half_squares >= 0.0);
            }
        },
    );
}
