//! Reads a saved histogram without trusting it: bounded work and memory for any text.
//!
//! The format is HdrHistogram's V2 (hdrhistogram.org; the reference is the Java implementation by
//! G. Tene): base64 of a cookie, a length and a zlib stream; in it a cookie, the length of the
//! counts, an offset, the digits, the range, a ratio, and the counts as zigzag LEB128, a negative
//! one standing for so many empty slots. `hdrhistogram`'s own reader believes the lengths and the
//! range that it finds (4 GiB at once); use this one on files.

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::{Decompress, FlushDecompress, Status};

/// Cookies: the version, and 0x10 for the word size as the format wants it.
const COMPRESSED: u32 = 0x1c84_9314;
const PLAIN: u32 = 0x1c84_9313;
/// Cookie, length, offset, digits, lowest, highest, ratio.
const HEADER: usize = 40;
/// The most slots of a histogram up to 64 bits with 5 digits, 9 bytes each, would be 60 MB; ours has
/// 33,792 slots, mostly of one byte.
const MOST_BYTES: usize = 1 << 20;

/// What a histogram holds.
#[derive(Clone, Debug, Default)]
pub struct Slots {
    /// The used slots, ascending: the index of each, and how many values lie in it and below.
    used: Vec<(u64, u64)>,
    grid: Grid,
    /// How many values were recorded.
    pub count: u64,
}

/// Reads histograms; keeps its buffers between them.
pub struct Reader {
    inflate: Decompress,
    text: Vec<u8>,
    plain: Vec<u8>,
}

impl Default for Reader {
    fn default() -> Reader {
        Reader { inflate: Decompress::new(true), text: Vec::new(), plain: vec![0; 4096] }
    }
}

impl Reader {
    /// Decodes a cell into `slots`.
    ///
    /// # Errors
    /// It is no histogram, or one that this program can't have written.
    pub fn read(&mut self, cell: &str, slots: &mut Slots) -> Result<()> {
        slots.used.clear();
        slots.count = 0;
        self.text.clear();
        STANDARD.decode_vec(cell, &mut self.text).context("it is not base64")?;
        let head = self.text.get(..8).context("it is cut off")?;
        ensure!(word(head, 0) == COMPRESSED, "it does not begin as an HdrHistogram V2, deflated");
        ensure!(word(head, 4) as usize == self.text.len() - 8, "its length is not the one it names");
        let length = self.inflate()?;
        counts(&self.plain[..length], slots)
    }

    /// Inflates into `plain`; how much of it is used.
    fn inflate(&mut self) -> Result<usize> {
        self.inflate.reset(true);
        loop {
            let (read, written) = (self.inflate.total_in() as usize, self.inflate.total_out() as usize);
            if written == self.plain.len() {
                ensure!(written < MOST_BYTES, "it inflates to more than 1 MiB");
                self.plain.resize(2 * written, 0);
            }
            let status = self
                .inflate
                .decompress(&self.text[8 + read..], &mut self.plain[written..], FlushDecompress::None)
                .context("it does not inflate")?;
            let moved = (self.inflate.total_in() as usize, self.inflate.total_out() as usize);
            match status {
                Status::StreamEnd => return Ok(moved.1),
                _ if moved == (read, written) && written < self.plain.len() => bail!("it is cut off"),
                _ => {}
            }
        }
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The slots of an inflated histogram.
fn counts(bytes: &[u8], slots: &mut Slots) -> Result<()> {
    ensure!(bytes.len() >= HEADER, "it is cut off");
    ensure!(word(bytes, 0) == PLAIN, "what it inflates to is not an HdrHistogram V2");
    ensure!(word(bytes, 4) as usize == bytes.len() - HEADER, "its counts have another length than it names");
    ensure!(word(bytes, 8) == 0, "its slots are shifted");
    ensure!(f64::from_bits(long(bytes, 32)) == 1.0, "its values are scaled");
    slots.grid = Grid::new(word(bytes, 12), long(bytes, 16), long(bytes, 24))?;
    let (mut rest, mut index, mut count) = (&bytes[HEADER..], 0u64, 0u64);
    while let Some(&first) = rest.first() {
        // Zigzag: the lowest bit is the sign. Most counts fit into one byte.
        let number = if first < 0x80 {
            rest = &rest[1..];
            u64::from(first)
        } else {
            varint(&mut rest)?
        };
        let half = number >> 1;
        if number & 1 == 1 {
            // So many empty slots and one more; no trailing ones beyond the range, and no overflow below.
            let left = slots.grid.slots.saturating_sub(index);
            ensure!(half < left, "it has more slots than its range");
            index += half + 1;
            continue;
        }
        if half > 0 {
            let Some(sum) = count.checked_add(half) else { bail!("it counts too far") };
            count = sum;
            slots.used.push((index, count));
        }
        index += 1;
    }
    let last = slots.used.last().map_or(0, |slot| slot.0);
    ensure!(last < slots.grid.slots, "it has more slots than its range");
    slots.count = count;
    Ok(())
}

/// LEB128 of at most nine bytes, the ninth taking all its eight bits.
fn varint(rest: &mut &[u8]) -> Result<u64> {
    let mut value = 0u64;
    for i in 0..9 {
        let Some((&byte, after)) = rest.split_first() else { bail!("it is cut off") };
        *rest = after;
        if i == 8 {
            return Ok(value | u64::from(byte) << 56);
        }
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            break;
        }
    }
    Ok(value)
}

/// Which values a slot stands for: `sub` slots of width `unit` from 0, then half as many for each
/// doubling of the width.
#[derive(Clone, Debug, Default)]
struct Grid {
    unit_bits: u32,
    sub_bits: u32,
    slots: u64,
}

impl Grid {
    fn new(digits: u32, lowest: u64, highest: u64) -> Result<Grid> {
        ensure!((1..=5).contains(&digits), "{digits} digits are not between 1 and 5");
        ensure!(lowest >= 1 && highest / 2 >= lowest, "its range {lowest} to {highest} is none");
        let unit_bits = lowest.ilog2();
        // Enough slots that two neighbours are within one unit of the last digit.
        let sub_bits = (2 * 10u64.pow(digits)).next_power_of_two().ilog2();
        ensure!(unit_bits + sub_bits <= 62, "its range {lowest} to {highest} is none");
        let mut doublings = 0u64;
        let mut covered = 1u128 << (unit_bits + sub_bits);
        while covered <= u128::from(highest) {
            (covered, doublings) = (covered << 1, doublings + 1);
        }
        Ok(Grid { unit_bits, sub_bits, slots: (doublings + 2) << (sub_bits - 1) })
    }

    /// How often the width was doubled before a slot.
    fn doubling(&self, index: u64) -> u64 {
        (index >> (self.sub_bits - 1)).saturating_sub(1)
    }

    /// The index of 0 and the bits of the width, were all slots as wide as those after so many doublings.
    fn origin(&self, doubling: u64) -> (u64, u32) {
        (doubling << (self.sub_bits - 1), self.unit_bits + doubling as u32)
    }

    /// The lowest and highest value of a slot.
    fn range(&self, index: u64) -> (u64, u64) {
        let (origin, bits) = self.origin(self.doubling(index));
        // The last slot ends at 2^64 - 1 at most: `new` stops doubling there.
        let low = (index - origin) << bits;
        (low, low + ((1u64 << bits) - 1))
    }
}

/// Sums over the values of a histogram, each taken to be in the middle of its slot, less `near`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    /// Of the values.
    pub values: f64,
    /// Of their squares.
    pub squares: f64,
    /// Of half the width of their slots.
    pub halves: f64,
    /// Of the square of that.
    pub half_squares: f64,
}

impl Slots {
    /// The used slots, ascending: the lowest and the highest value that one stands for, and its count.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64, u64)> {
        let mut below = 0;
        self.used.iter().map(move |&(index, seen)| {
            let ((low, high), count) = (self.grid.range(index), seen - below);
            below = seen;
            (low, high, count)
        })
    }

    /// The ranges of the lowest and the highest used slot.
    pub fn ends(&self) -> Option<((u64, u64), (u64, u64))> {
        let (first, last) = (self.used.first()?, self.used.last()?);
        Some((self.grid.range(first.0), self.grid.range(last.0)))
    }

    /// The rank, from 1, of quantile `q`: HDR's ceil rank.
    pub fn rank(&self, q: f64) -> u64 {
        ((q * self.count as f64).ceil() as u64).max(1)
    }

    /// The highest value of the slot that holds the value of this rank.
    pub fn at_rank(&self, rank: u64) -> Option<u64> {
        let at = self.used.partition_point(|&(_, seen)| seen < rank);
        Some(self.grid.range(self.used.get(at)?.0).1)
    }

    /// Sums from `near`, so that those of squares do not cancel when it is about the mean.
    pub fn sums(&self, near: f64) -> Sums {
        let (mut sums, mut below, mut rest) = (Sums::default(), 0, self.used.as_slice());
        while let Some(&(first, _)) = rest.first() {
            // Slots of one width are neighbours.
            let doubling = self.grid.doubling(first);
            let same = rest.partition_point(|&(index, _)| self.grid.doubling(index) == doubling);
            let (slots, later) = rest.split_at(same);
            let (origin, bits) = self.grid.origin(doubling);
            let (width, before) = ((1u64 << bits) as f64, below);
            let half = (width - 1.0) / 2.0;
            for &(index, seen) in slots {
                // Signed, because that is one instruction; neither has the highest bit.
                let (steps, count) = ((index - origin) as i64 as f64, (seen - below) as i64 as f64);
                let away = steps * width + (half - near);
                sums.values += away * count;
                sums.squares += away * away * count;
                below = seen;
            }
            let count = (below - before) as f64;
            sums.halves += half * count;
            sums.half_squares += half * half * count;
            rest = later;
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::recorder::{HIGHEST_NS, encode};
    use hdrhistogram::Histogram;
    use proptest::prelude::*;

    fn read(cell: &str) -> Result<Slots> {
        let mut slots = Slots::default();
        Reader::default().read(cell, &mut slots).map(|()| slots)
    }

    fn cell(plain: &[u8]) -> String {
        use std::io::Write;
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(plain).unwrap();
        let deflated = encoder.finish().unwrap();
        let mut bytes = COMPRESSED.to_be_bytes().to_vec();
        bytes.extend((deflated.len() as u32).to_be_bytes());
        bytes.extend(deflated);
        STANDARD.encode(bytes)
    }

    fn header(length: u32, digits: u32, low: u64, high: u64) -> Vec<u8> {
        let mut plain = [PLAIN.to_be_bytes(), length.to_be_bytes(), [0; 4], digits.to_be_bytes()].concat();
        plain.extend(low.to_be_bytes());
        plain.extend(high.to_be_bytes());
        plain.extend(1f64.to_be_bytes());
        plain
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn it_reads_what_the_crate_writes(
            values in prop::collection::vec((0u32..42, any::<u64>(), 1u64..50), 0..60),
            digits in 1u8..=5,
            low in prop::sample::select(vec![1u64, 2, 3, 1000]),
        ) {
            let mut histogram = Histogram::new_with_bounds(low, HIGHEST_NS, digits).unwrap();
            for (bits, value, count) in values {
                let value = (value >> (63 - bits)).min(HIGHEST_NS);
                histogram.record_n(value, count).unwrap();
            }
            let slots = read(&encode(&histogram)).unwrap();
            let expected: Vec<_> = histogram
                .iter_recorded()
                .map(|v| {
                    let value = v.value_iterated_to();
                    (histogram.lowest_equivalent(value), histogram.highest_equivalent(value), v.count_at_value())
                })
                .collect();
            prop_assert_eq!(slots.iter().collect::<Vec<_>>(), expected);
            prop_assert_eq!(slots.count, histogram.len());
            let quantiles = [0.5, 0.9, 0.95, 0.99, 0.999, 1.0];
            let values = quantiles.map(|q| slots.at_rank(slots.rank(q)));
            if !histogram.is_empty() {
                prop_assert_eq!(values, quantiles.map(|q| Some(histogram.value_at_quantile(q))));
            }
        }

    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..80), digits in 0u32..7, low in any::<u64>(), high in any::<u64>()) {
            let _ = read(&STANDARD.encode(&bytes));
            let _ = read(&String::from_utf8_lossy(&bytes));
            let mut plain = header(bytes.len() as u32, digits, low >> (low % 64), high >> (high % 64));
            plain.extend(bytes);
            let _ = read(&cell(&plain));
        }
    }

    #[test]
    fn a_histogram_that_lies_is_refused() {
        let reason = |cell: &str| read(cell).unwrap_err().to_string();
        assert_eq!(reason("%"), "it is not base64");
        assert_eq!(reason(""), "it is cut off");
        assert_eq!(reason("AAAAAAAAAAA="), "it does not begin as an HdrHistogram V2, deflated");
        assert_eq!(reason(&cell(&[0; 50])), "what it inflates to is not an HdrHistogram V2");
        assert_eq!(
            reason(&cell(&header(u32::MAX, 3, 1, 100))),
            "its counts have another length than it names"
        );
        assert_eq!(reason(&cell(&header(0, 9, 1, 100))), "9 digits are not between 1 and 5");
        assert_eq!(reason(&cell(&header(0, 3, 0, 100))), "its range 0 to 100 is none");
        assert_eq!(reason(&cell(&vec![0; 3 << 20])), "it inflates to more than 1 MiB");
        let far = [header(1, 3, 1, 1), vec![2]].concat();
        assert!(reason(&cell(&far)).ends_with("is none"));
        let whole = encode(&Histogram::<u64>::new_with_bounds(1, HIGHEST_NS, 3).unwrap());
        let empty = read(&whole).unwrap();
        assert_eq!((empty.count, empty.iter().next(), empty.at_rank(1), empty.ends()), (0, None, None, None));
        assert_eq!(reason(&whole[..whole.len() - 4]), "its length is not the one it names");
        // i64::MIN empty slots.
        let far = [header(9, 3, 1, HIGHEST_NS), vec![0xff; 9]].concat();
        assert_eq!(reason(&cell(&far)), "it has more slots than its range");
        // Counts of 2^62 that add up to more than 64 bits, and one slot more than there are.
        let most = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        let plain = [header(27, 3, 1, HIGHEST_NS), most.repeat(3)].concat();
        assert_eq!(reason(&cell(&plain)), "it counts too far");
        let plain = [header(1026, 1, 1, 2), vec![0; 1025], vec![2]].concat();
        assert_eq!(reason(&cell(&plain)), "it has more slots than its range");
    }
}
