//! How long to wait before the next try.

use std::time::Duration;

/// The first wait.
const FIRST: Duration = Duration::from_millis(100);
/// The longest one: a Redis that comes back is found within seconds, and one that doesn't costs nothing.
const LONGEST: Duration = Duration::from_secs(5);

/// Waits that double, each with jitter, so that nodes don't come back all at once.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff { next: FIRST }
    }
}

impl Backoff {
    /// How long to wait now: between half of the step and all of it.
    pub(crate) fn next(&mut self) -> Duration {
        // Without jitter it is a wait still.
        self.next_with(getrandom::u32().unwrap_or(u32::MAX))
    }

    fn next_with(&mut self, random: u32) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(LONGEST);
        step / 2 + (step / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    /// It went well.
    pub(crate) fn reset(&mut self) {
        self.next = FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit() {
        let mut backoff = Backoff::default();
        let steps: Vec<_> = (0..8).map(|_| backoff.next_with(u32::MAX).as_millis()).collect();
        assert_eq!(steps, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(backoff.next_with(0), LONGEST / 2);
        backoff.reset();
        assert_eq!(backoff.next_with(0), FIRST / 2);
    }
}
