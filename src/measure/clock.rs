//! The clock of a worker: the machine's, or a virtual one on which scripted runs are exact.

use rustix::thread::clock_nanosleep_absolute;
use rustix::time::{ClockId, Timespec, clock_gettime};
use std::cell::Cell;
use std::rc::Rc;

/// Nanoseconds since an arbitrary moment, never going back.
pub trait Clock {
    /// Now.
    fn now(&self) -> u64;
    /// Returns at `at` or later; at once when that has passed.
    fn sleep_until(&self, at: u64);
}

/// CLOCK_MONOTONIC, which all processes of a machine share: a start time named by the parent means
/// the same moment to each worker.
#[derive(Clone, Copy, Debug, Default)]
pub struct Monotonic;

impl Clock for Monotonic {
    #[inline]
    fn now(&self) -> u64 {
        let t = clock_gettime(ClockId::Monotonic);
        t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
    }

    fn sleep_until(&self, at: u64) {
        let request = Timespec { tv_sec: (at / 1_000_000_000) as i64, tv_nsec: (at % 1_000_000_000) as i64 };
        // A signal ends the sleep early.
        while self.now() < at {
            let _ = clock_nanosleep_absolute(ClockId::Monotonic, &request);
        }
    }
}

/// Time that passes only when a scripted workload or a sleep says so. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Virtual(Rc<Cell<u64>>);

impl Virtual {
    /// A virtual clock that shows `now`.
    pub fn starting_at(now: u64) -> Virtual {
        Virtual(Rc::new(Cell::new(now)))
    }

    /// Lets `ns` pass.
    pub fn advance(&self, ns: u64) {
        self.0.set(self.0.get() + ns);
    }
}

impl Clock for Virtual {
    fn now(&self) -> u64 {
        self.0.get()
    }

    fn sleep_until(&self, at: u64) {
        self.0.set(self.0.get().max(at));
    }
}
