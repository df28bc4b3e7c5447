//! Following the log: first what is stored, then what the writer announces.

use std::sync::Arc;
use std::time::Duration;

use tidings_hub::log::{FeedTail, Order, ReadError, Sink, Tail, TailItem};
use tidings_wire::Sequence;

use crate::error::Result;
use crate::read::{Readers, Snapshot, walk};
use crate::record::Row;

/// How many bytes of data one call returns of what is stored.
const PAGE_BYTES: usize = 1 << 20;

/// A tail of the log on disk.
pub(crate) struct DiskTail {
    past: Option<Past>,
    feed: FeedTail,
}

/// What is yet to be read: records without a hole, on the snapshot in which they had none.
struct Past {
    snapshot: Snapshot,
    after: Sequence,
    through: Sequence,
}

impl DiskTail {
    pub(crate) fn new(readers: &Arc<Readers>, after: Sequence) -> Result<DiskTail> {
        let (feed, through) = {
            // The writer announces with this lock held for writing: everything up to this head is stored, and
            // everything behind it comes out of the feed.
            let catalog = readers.shared.catalog();
            (readers.shared.feed.tail(), catalog.head.sequence)
        };
        if after >= through {
            return Ok(DiskTail { past: None, feed });
        }
        let snapshot = readers.snapshot()?;
        let mut whole_from = through;
        walk(snapshot.store(), after, through, Order::Newest, |at, row| {
            let whole = match &row {
                Row::Event(record) => snapshot.is_whole(record)?,
                Row::Run(_) => false,
            };
            if whole {
                whole_from = Sequence(at.0 - 1);
            }
            Ok(whole)
        })?;
        let past = (whole_from < through).then_some(Past { snapshot, after: whole_from, through });
        Ok(DiskTail { past, feed })
    }

    fn next_past(past: &mut Past) -> Result<Vec<TailItem>> {
        let mut items = Vec::new();
        let mut bytes = 0;
        let mut last = past.after;
        walk(past.snapshot.store(), past.after, past.through, Order::Oldest, |at, row| {
            if let Row::Event(record) = row {
                bytes += record.event.data.as_str().len() + 256;
                items.push(TailItem::Stored(record));
            }
            last = at;
            Ok(bytes < PAGE_BYTES)
        })?;
        past.after = last;
        Ok(items)
    }
}

impl Tail for DiskTail {
    fn next(&mut self, timeout: Duration) -> std::result::Result<Option<Vec<TailItem>>, ReadError> {
        if let Some(past) = &mut self.past {
            let items = DiskTail::next_past(past)?;
            if past.after >= past.through {
                self.past = None;
            }
            return Ok(Some(items));
        }
        Ok(self.feed.next(timeout))
    }

    fn push_to(&mut self, sink: Arc<dyn Sink>) -> bool {
        if self.past.is_none() {
            self.feed.push_to(sink);
        }
        self.past.is_none()
    }
}
