//! What became of each message: counted, and logged where it was not stored.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tidings_hub::SourceStats;

use crate::message::Bad;
use crate::tally::Tally;

/// The books of one session with Redis.
#[derive(Debug)]
pub(crate) struct Books<'a> {
    stats: &'a SourceStats,
    bad: Mutex<Tally>,
    lost: Mutex<Tally>,
}

impl<'a> Books<'a> {
    pub(crate) fn new(stats: &'a SourceStats, from: &str) -> Books<'a> {
        let tally = |what| Mutex::new(Tally::new(what, from));
        Books {
            stats,
            bad: tally("messages that can't be published were skipped"),
            lost: tally("messages were lost"),
        }
    }

    pub(crate) fn received(&self, count: u64) {
        add(&self.stats.received, count);
    }

    pub(crate) fn stored(&self, count: u64) {
        add(&self.stats.stored, count);
    }

    pub(crate) fn bad(&self, why: Bad, count: u64) {
        add(&self.stats.bad, count);
        self.bad.lock().unwrap_or_else(PoisonError::into_inner).add(why, count);
    }

    pub(crate) fn lost(&self, why: &'static str, count: u64) {
        if count > 0 {
            add(&self.stats.lost, count);
            self.lost.lock().unwrap_or_else(PoisonError::into_inner).add(why, count);
        }
    }

    /// Logs what is to be said. To be called every few seconds.
    pub(crate) fn tell(&self) {
        for tally in [&self.bad, &self.lost] {
            tally.lock().unwrap_or_else(PoisonError::into_inner).tell(Instant::now());
        }
    }
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}
