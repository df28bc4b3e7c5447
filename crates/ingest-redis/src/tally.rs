//! What went wrong with messages, logged by number and kind at a bounded rate, and never with what they said.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tracing::warn;

/// How often it is logged at most.
const EVERY: Duration = Duration::from_secs(10);

/// Messages that were not stored since the last line of the log, by why.
#[derive(Debug)]
pub(crate) struct Tally {
    /// What became of them.
    what: &'static str,
    /// Where they came from.
    from: String,
    counts: BTreeMap<&'static str, u64>,
    told: Option<Instant>,
}

impl Tally {
    pub(crate) fn new(what: &'static str, from: impl Into<String>) -> Tally {
        Tally { what, from: from.into(), counts: BTreeMap::new(), told: None }
    }

    pub(crate) fn add(&mut self, why: &'static str, count: u64) {
        *self.counts.entry(why).or_default() += count;
        self.tell(Instant::now());
    }

    /// Logs what there is to say, if it is time. To be called now and then, so that nothing is left unsaid.
    pub(crate) fn tell(&mut self, now: Instant) {
        for (why, count) in self.due(now) {
            warn!(from = self.from, count, why, "{}", self.what);
        }
    }

    fn due(&mut self, now: Instant) -> BTreeMap<&'static str, u64> {
        if self.counts.is_empty() || self.told.is_some_and(|told| now.duration_since(told) < EVERY) {
            return BTreeMap::new();
        }
        self.told = Some(now);
        std::mem::take(&mut self.counts)
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.told = None;
        self.tell(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_told_at_a_bounded_rate_and_none_is_forgotten() {
        let mut tally = Tally::new("lost", "here");
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(tally.due(at(0)).is_empty(), "nothing to tell");
        tally.counts.insert("full", 1);
        assert_eq!(tally.due(at(0)).into_iter().collect::<Vec<_>>(), [("full", 1)]);
        tally.counts.insert("full", 3);
        tally.counts.insert("odd", 1);
        assert!(tally.due(at(9)).is_empty());
        assert_eq!(tally.due(at(10)).into_iter().collect::<Vec<_>>(), [("full", 3), ("odd", 1)]);
        assert!(tally.due(at(20)).is_empty());
    }
}
