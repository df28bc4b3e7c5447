//! Lines of the log that anybody can cause, at a bounded rate.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tidings_hub::Timestamp;

/// Lets one line through in each interval, and counts the others.
#[derive(Debug)]
pub(crate) struct LogLimit {
    interval: Duration,
    /// When the last line went through, in milliseconds since 1970.
    last: AtomicU64,
    suppressed: AtomicU64,
}

impl LogLimit {
    /// One line in each interval.
    pub(crate) const fn new(interval: Duration) -> LogLimit {
        LogLimit { interval, last: AtomicU64::new(0), suppressed: AtomicU64::new(0) }
    }

    /// Whether a line may be written now, and how many could not since the last one.
    pub(crate) fn pass(&self) -> Option<u64> {
        self.pass_at(Timestamp::now())
    }

    fn pass_at(&self, now: Timestamp) -> Option<u64> {
        let last = self.last.load(Ordering::Relaxed);
        // A clock that was set back does not silence the log.
        let early = now.0 >= last && now.since(Timestamp(last)) < self.interval;
        // Of two that come at once, one wins.
        if early || self.last.compare_exchange(last, now.0, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.suppressed.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_in_each_interval() {
        let limit = LogLimit::new(Duration::from_secs(1));
        assert_eq!(limit.pass_at(Timestamp(10_000)), Some(0));
        assert_eq!(limit.pass_at(Timestamp(10_999)), None);
        assert_eq!(limit.pass_at(Timestamp(10_999)), None);
        assert_eq!(limit.pass_at(Timestamp(11_000)), Some(2));
        assert_eq!(limit.pass_at(Timestamp(5_000)), Some(0), "the clock was set back");
    }
}
