//! What time it is for all nodes: Redis's clock.

use std::sync::atomic::{AtomicI64, Ordering};

use tidings_hub::Timestamp;
use tidings_hub::log::{Record, TailItem};

/// How far a node's clock may be from Redis's, in milliseconds, without its times being changed: more than what lies
/// between two events of one client, and less than what anybody's retention is counted in.
const TOLERANCE: i64 = 1000;

/// How far this node's clock is from that of Redis. Times are given to a log, and taken from it, by the clock of its node;
/// how old an event is and for how long an idempotency key is remembered has to mean the same on every node.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    /// In milliseconds; 0 within the tolerance.
    ahead: AtomicI64,
    /// How wrong a test lets this machine's clock be.
    #[cfg(test)]
    pub(crate) wrong_by: AtomicI64,
}

impl Clock {
    /// What this machine's clock says.
    pub(crate) fn here(&self) -> Timestamp {
        let now = Timestamp::now();
        #[cfg(test)]
        let now = Timestamp(now.0.saturating_add_signed(self.wrong_by.load(Ordering::Relaxed)));
        now
    }

    /// Redis, asked at `asked` by this node's clock, has just answered that it is `redis`.
    pub(crate) fn compare(&self, asked: Timestamp, redis: Timestamp) {
        self.compare_at(asked, redis, self.here());
    }

    fn compare_at(&self, asked: Timestamp, redis: Timestamp, now: Timestamp) {
        // After a long way, or a jump in between, it can't be said when it was that time.
        let Some(way) = now.0.checked_sub(asked.0).filter(|way| *way < TOLERANCE.unsigned_abs()) else {
            return;
        };
        let here = i64::try_from(asked.0 + way / 2).unwrap_or(i64::MAX);
        let ahead = here.saturating_sub_unsigned(redis.0);
        let before = self.ahead.load(Ordering::Relaxed);
        // What is corrected is so until it is clearly near: not now and then.
        let tolerance = if before == 0 { TOLERANCE } else { TOLERANCE / 2 };
        let ahead = if ahead.abs() > tolerance { ahead } else { 0 };
        self.ahead.store(ahead, Ordering::Relaxed);
        if before == 0 && ahead != 0 {
            let way = if ahead > 0 { "ahead of" } else { "behind" };
            tracing::warn!(
                "this machine's clock is {} ms {way} Redis's, whose time counts: set it by NTP",
                ahead.abs()
            );
        }
    }

    /// A time of this node, by Redis's clock.
    pub(crate) fn by_redis(&self, time: Timestamp) -> Timestamp {
        Timestamp(time.0.saturating_add_signed(self.ahead.load(Ordering::Relaxed).saturating_neg()))
    }

    /// A time of Redis, by this node's clock.
    pub(crate) fn by_node(&self, time: Timestamp) -> Timestamp {
        Timestamp(time.0.saturating_add_signed(self.ahead.load(Ordering::Relaxed)))
    }

    /// The same for what a tail is told.
    pub(crate) fn tell_by_node(&self, items: &mut [TailItem]) {
        if self.ahead.load(Ordering::Relaxed) == 0 {
            return;
        }
        for item in items {
            if let TailItem::Stored(record) | TailItem::Ephemeral(record) = item {
                record.time = self.by_node(record.time);
            }
        }
    }

    /// The same for what is read.
    pub(crate) fn read_by_node(&self, mut records: Vec<Record>) -> Vec<Record> {
        if self.ahead.load(Ordering::Relaxed) != 0 {
            records.iter_mut().for_each(|record| record.time = self.by_node(record.time));
        }
        records
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clock_that_is_off_is_corrected() {
        let clock = Clock::default();
        let (here, t) = (Timestamp(1_000_000), |time| Timestamp(time));
        for (asked, redis, now, expected) in [
            (t(1_000_000), t(1_000_010), t(1_000_020), t(1_000_000)),
            (t(1_000_000), t(999_100), t(1_000_000), t(1_000_000)),
            (t(1_000_000), t(600_000), t(1_000_000), t(600_000)),
            // It can't be said.
            (t(1_000_000), t(800_000), t(1_001_000), t(600_000)),
            (t(1_000_000), t(800_000), t(900_000), t(600_000)),
            (t(1_000_000), t(1_400_000), t(1_000_000), t(1_400_000)),
            (t(1_000_000), t(1_000_600), t(1_000_000), t(1_000_600)),
            (t(1_000_000), t(1_000_000), t(1_000_000), t(1_000_000)),
        ] {
            clock.compare_at(asked, redis, now);
            assert_eq!(clock.by_redis(here), expected, "{asked:?} {redis:?} {now:?}");
            assert_eq!(clock.by_node(expected), here);
        }
        clock.compare_at(t(1_000_000), t(400_000), t(1_000_000));
        assert_eq!(clock.by_redis(t(5)), t(0), "before all time");
    }
}
