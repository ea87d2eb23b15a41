//! A deadline that counts only the time in which this process ran.

use std::time::{Duration, Instant};

/// One look at the clock counts for no more than this: a parent that was stopped and continued, or
/// suspended with its machine, must not blame its workers for it.
const LONGEST_TICK: Duration = Duration::from_secs(1);

/// Time left until a worker is given up.
#[derive(Debug)]
pub struct Patience {
    limit: Duration,
    waited: Duration,
    last_look: Instant,
}

impl Patience {
    /// Full patience.
    pub fn new(limit: Duration) -> Patience {
        Patience { limit, waited: Duration::ZERO, last_look: Instant::now() }
    }

    /// A sign of life: start again.
    pub fn renew(&mut self) {
        *self = Patience::new(self.limit);
    }

    /// Looks at the clock. To be called several times a second.
    pub fn is_over(&mut self) -> bool {
        let now = Instant::now();
        self.pass(now - self.last_look);
        self.last_look = now;
        self.waited >= self.limit
    }

    fn pass(&mut self, time: Duration) {
        self.waited += time.min(LONGEST_TICK);
    }

    /// How long it lasts.
    pub fn limit(&self) -> Duration {
        self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_sleep_of_the_parent_counts_as_one_tick() {
        let mut patience = Patience::new(Duration::from_secs(2));
        patience.pass(Duration::from_secs(3600));
        assert!(!patience.is_over());
        patience.pass(Duration::from_secs(1));
        assert!(patience.is_over());
        patience.renew();
        assert!(!patience.is_over());
    }
}
