//! Conflation in pages of the log: of the events with a key, only the newest that a subscriber may see.
//!
//! It is a choice at reading. What the subscriber may see comes first (its views, exclusion, its filter), then the
//! newest of each channel and key, then `ttl`: an event whose time is over hides the older ones all the same, since
//! they are older still.

use std::collections::HashMap;

use tidings_wire::{Channel, ConnectionId, Key, Sequence};

use crate::View;
use crate::log::{Log, ReadError, Record};
use crate::subscriber::{Lens, Only};

/// How many of the newest events of a key are looked at for one that the subscriber may see. If it may see none of
/// them, older ones are not held back.
const NEWEST: usize = 16;

/// Who reads a page.
#[derive(Debug, Clone)]
pub(crate) struct Sight {
    pub(crate) views: Vec<View>,
    pub(crate) lens: Lens,
    pub(crate) connection: Option<ConnectionId>,
    pub(crate) only: Only,
}

impl Sight {
    fn shows(&self, record: &Record) -> bool {
        let excluded = record.event.exclude.connection;
        (excluded.is_none() || excluded != self.connection) && self.lens.shows(&record.event, &self.views)
    }

    /// Takes out of a page's records what the subscriber isn't shown; how many of those it would have been shown, were
    /// there no newer ones.
    ///
    /// # Errors
    /// When the log can't be read.
    pub(crate) fn choose(&self, log: &dyn Log, records: &mut Vec<Record>) -> Result<u64, ReadError> {
        records.retain(|record| self.shows(record));
        if self.only == Only::Latest {
            records.retain(|record| record.event.key.is_some());
        }
        if self.only == Only::Whole || records.iter().all(|record| record.event.key.is_none()) {
            return Ok(0);
        }
        let mut newest = Newest { sight: self, log, known: HashMap::new() };
        let mut kept = Vec::with_capacity(records.len());
        let mut skipped = 0;
        for record in records.drain(..) {
            if newest.hides(&record)? {
                skipped += 1;
            } else {
                kept.push(record);
            }
        }
        *records = kept;
        Ok(skipped)
    }
}

/// The newest event of each key in each channel that the subscriber may see.
struct Newest<'a> {
    sight: &'a Sight,
    log: &'a dyn Log,
    known: HashMap<(Channel, Key), Option<Sequence>>,
}

impl Newest<'_> {
    /// Whether there is a newer event with this one's key in each channel through which it is shown.
    fn hides(&mut self, record: &Record) -> Result<bool, ReadError> {
        let Some(key) = &record.event.key else { return Ok(false) };
        let mut shown = false;
        for channel in record.event.to.channels() {
            if !self.sight.views.iter().any(|view| view.shows(channel)) {
                continue;
            }
            let newest = self.of(channel, key, record.position.sequence)?;
            if newest.is_none_or(|newest| newest <= record.position.sequence) {
                return Ok(false);
            }
            shown = true;
        }
        Ok(shown)
    }

    /// `after`: the page's first record with this key, so that no older one is looked at.
    fn of(&mut self, channel: &Channel, key: &Key, after: Sequence) -> Result<Option<Sequence>, ReadError> {
        let place = (channel.clone(), key.clone());
        if let Some(known) = self.known.get(&place) {
            return Ok(*known);
        }
        let newest = self.log.keyed(channel, key, after, NEWEST)?;
        let newest =
            newest.iter().find(|record| self.sight.shows(record)).map(|record| record.position.sequence);
        self.known.insert(place, newest);
        Ok(newest)
    }
}
