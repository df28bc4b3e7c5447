//! How long to wait before the next attempt.

use std::time::Duration;

/// The longest that failures alone make a client wait.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
/// The longest that a server can make a client wait: a typing error in a `retry` must not silence it for ever.
const LONGEST_RETRY: Duration = Duration::from_secs(3600);

/// Waits as long as the server asked, twice as long after each failure in a row, and up to a quarter more at random, so
/// that clients that were cut off together don't come back together.
#[derive(Debug)]
pub(crate) struct Backoff {
    retry: Duration,
    failures: u32,
}

impl Backoff {
    /// With what is waited until the server says otherwise.
    pub(crate) fn new(retry: Duration) -> Backoff {
        Backoff { retry: retry.min(LONGEST_RETRY), failures: 0 }
    }

    /// The server's `retry`, in milliseconds.
    pub(crate) fn set_retry(&mut self, ms: u64) {
        self.retry = Duration::from_millis(ms).min(LONGEST_RETRY);
    }

    /// The stream works.
    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// The stream was lost: how long to wait now, at least `not_before` (a `Retry-After`). `random` is any number.
    pub(crate) fn lost(&mut self, not_before: Option<Duration>, random: u32) -> Duration {
        // At least a tenth of a second to double, or a `retry` of 0 would make failing a busy loop.
        let step = if self.failures == 0 { self.retry } else { self.retry.max(Duration::from_millis(100)) };
        let backoff = step.saturating_mul(1 << self.failures.min(16)).min(LONGEST_BACKOFF.max(self.retry));
        self.failures = self.failures.saturating_add(1);
        let delay = backoff.max(not_before.unwrap_or_default().min(LONGEST_RETRY));
        delay + delay.mul_f64(0.25 * f64::from(random) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delays(backoff: &mut Backoff, count: usize) -> Vec<u64> {
        (0..count).map(|_| backoff.lost(None, 0).as_millis() as u64).collect()
    }

    #[test]
    fn failures_double_the_wait_up_to_a_minute() {
        let mut backoff = Backoff::new(Duration::from_secs(1));
        assert_eq!(delays(&mut backoff, 8), [1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000]);
        backoff.succeeded();
        assert_eq!(delays(&mut backoff, 2), [1000, 2000]);
    }

    #[test]
    fn what_the_server_asks_is_the_least_and_bounded() {
        let mut backoff = Backoff::new(Duration::from_secs(3));
        assert_eq!(backoff.lost(Some(Duration::from_secs(20)), 0), Duration::from_secs(20));
        backoff.set_retry(90_000);
        assert_eq!(delays(&mut backoff, 2), [90_000, 90_000]);
        backoff.set_retry(u64::MAX);
        assert_eq!(delays(&mut backoff, 1), [3_600_000]);
        assert_eq!(backoff.lost(Some(Duration::MAX), u32::MAX), Duration::from_secs(4500));
    }

    #[test]
    fn a_retry_of_zero_is_taken_once_and_then_backs_off() {
        let mut backoff = Backoff::new(Duration::from_secs(1));
        backoff.set_retry(0);
        assert_eq!(delays(&mut backoff, 4), [0, 200, 400, 800]);
    }

    #[test]
    fn the_wait_is_spread() {
        let mut backoff = Backoff::new(Duration::from_secs(1));
        assert_eq!(backoff.lost(None, u32::MAX), Duration::from_millis(1250));
        backoff.succeeded();
        let middle = backoff.lost(None, u32::MAX / 2);
        assert!((1120..1130).contains(&middle.as_millis()));
    }
}
