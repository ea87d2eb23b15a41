//! The clock of a worker: the machine's, or a virtual one on which scripted runs are exact.

use crate::workload::scripted::Passing;
use rustix::thread::clock_nanosleep_absolute;
use rustix::time::{ClockId, Timespec, clock_gettime};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// A sleeper wakes up late, by the kernel's timer slack (50 us) and the time to be scheduled: the last
/// part of a wait is spun.
const SPIN_NS: u64 = 200_000;
/// Between two looks at the lanes, where spinning would take a neighbour's processor.
const NAP_NS: u64 = 50_000;

/// Nanoseconds since an arbitrary moment, never going back.
pub trait Clock {
    /// Now.
    fn now(&self) -> u64;
    /// Returns at `at` or later; at once when that has passed.
    fn sleep_until(&self, at: u64);
    /// Returns at `at`, as exactly as this clock can: it sleeps, then spins.
    fn wait_until(&self, at: u64) {
        self.sleep_until(at);
    }
    /// Lets a moment pass in a loop that waits for a device, but not beyond `until`; a short sleep
    /// where the thread should not spin.
    fn idle(&self, until: Option<u64>, spin: bool);
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

    fn wait_until(&self, at: u64) {
        if at > self.now() + SPIN_NS {
            self.sleep_until(at - SPIN_NS);
        }
        while self.now() < at {
            std::hint::spin_loop();
        }
    }

    fn idle(&self, until: Option<u64>, spin: bool) {
        let now = self.now();
        match until {
            Some(until) if until <= now => {}
            _ if spin => std::hint::spin_loop(),
            until => self.sleep_until(until.unwrap_or(u64::MAX).min(now + NAP_NS)),
        }
    }
}

impl Passing for Monotonic {
    fn time(&self) -> u64 {
        self.now()
    }

    fn pass_until(&self, at: u64) {
        self.wait_until(at);
    }

    fn expect(&self, _: u64) {}
}

/// Time that passes only when a scripted workload or a sleep says so. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Virtual(Rc<Cell<u64>>, Rc<RefCell<Vec<u64>>>);

impl Virtual {
    /// A virtual clock that shows `now`.
    pub fn starting_at(now: u64) -> Virtual {
        Virtual(Rc::new(Cell::new(now)), Rc::default())
    }
}

impl Clock for Virtual {
    fn now(&self) -> u64 {
        self.0.get()
    }

    fn sleep_until(&self, at: u64) {
        self.0.set(self.0.get().max(at));
    }

    /// To the next moment at which anything happens.
    fn idle(&self, until: Option<u64>, _: bool) {
        let now = self.0.get();
        let mut expected = self.1.borrow_mut();
        expected.retain(|&at| at > now);
        if let Some(next) = expected.iter().copied().chain(until).min() {
            self.0.set(now.max(next));
        }
    }
}

impl Passing for Virtual {
    fn time(&self) -> u64 {
        self.0.get()
    }

    fn pass_until(&self, at: u64) {
        self.sleep_until(at);
    }

    fn expect(&self, at: u64) {
        let now = self.0.get();
        let mut expected = self.1.borrow_mut();
        expected.retain(|&at| at > now);
        expected.push(at);
    }
}
