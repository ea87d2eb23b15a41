//! Memory that is there before it is needed.
//!
//! The kernel gives a fresh allocation its pages one by one, each at its first touch: 25 us apiece on a
//! virtual machine, and without this they would be spent in the window, between one batch and the next.

use super::recorder::{DIGITS, HIGHEST_NS, LOWEST_NS};
use hdrhistogram::Histogram;
use std::hint::black_box;

/// `len` defaults.
pub(super) fn filled<T: Clone + Default>(len: usize) -> Vec<T> {
    // Black: else the compiler sees that the memory is zero already, and leaves it untouched.
    let mut values = black_box(vec![T::default(); len]);
    values.fill(T::default());
    black_box(values)
}

/// Empty, with room for `len`.
pub(super) fn empty<T: Clone + Default>(len: usize) -> Vec<T> {
    let mut values = filled(len);
    values.clear();
    values
}

/// An empty histogram of latencies.
pub(super) fn histogram() -> Histogram<u64> {
    let histogram = Histogram::new_with_bounds(LOWEST_NS, HIGHEST_NS, DIGITS).expect("valid bounds");
    let mut histogram = black_box(histogram);
    histogram.reset();
    black_box(histogram)
}
