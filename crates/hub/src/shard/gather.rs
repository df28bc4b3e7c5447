//! What a subscriber is behind by in the window, and its bytes.

use tidings_wire::{Channel, CursorKey, EncodedEvent, Event, Framing, encode_envelope};

use super::{BATCH_BYTES, BATCH_RECORDS, BatchKey, Behind, Last, NEWER, SCAN, Shard, ShardStats};
use crate::Timestamp;
use crate::index::{Index, ViewId};
use crate::log::Record;
use crate::subscriber::{Membership, Subscriber};
use crate::window::{Entry, Reader};

impl Shard {
    /// Finds what a subscriber is behind by in the window: fills `picks` and `picked_to`.
    pub(super) fn pick(&mut self, slot: u32, now: Timestamp) -> Picked {
        self.picks.clear();
        self.passed.clear();
        let mark = self.marks[slot as usize];
        let Some(subscriber) = &self.subscribers[slot as usize] else { return Picked::None };
        if mark.from < self.reader.oldest() {
            return Picked::Log;
        }
        let mut gather = Gather {
            reader: &self.reader,
            index: &self.index,
            subscriber,
            begun: (subscriber.offset > 0).then_some(mark.from),
            now,
            bytes: 0,
            picks: &mut self.picks,
            passed: &mut self.passed,
            removed: false,
        };
        let end = self.reader.at();
        let lists = |views: &[Membership]| {
            views
                .iter()
                .filter_map(|membership| self.index.get(membership.view))
                .all(|followed| followed.complete_from <= mark.from)
        };
        let to = match mark.behind {
            Behind::Through(view) => self.index.get(view).map_or(end, |followed| {
                let first = followed.first_from(mark.from);
                gather.all(followed.recent.range(first..).copied(), end)
            }),
            _ if lists(&subscriber.views) => {
                let merged = Merge::new(&self.index, &subscriber.views, mark.from, &mut self.merge);
                gather.all(merged, end)
            }
            _ => {
                let to = end.min(mark.from + SCAN);
                let shown = |index: &u64| {
                    self.reader.get(*index).is_some_and(|entry| {
                        let channels = entry.record.event.to.channels();
                        channels.iter().any(|channel| shows(&self.index, subscriber, channel))
                    })
                };
                gather.all((mark.from..to).filter(shown), to)
            }
        };
        if gather.removed && self.picks.is_empty() {
            // Something that it should have got was purged: the log knows whether that is a gap.
            return Picked::Log;
        }
        self.picked_to = to;
        if !self.picks.is_empty() {
            return Picked::Some;
        }
        self.count_passed(slot as usize, to);
        let mark = &mut self.marks[slot as usize];
        if to >= end {
            mark.behind = Behind::Not;
            return Picked::None;
        }
        mark.from = to;
        if let Some(entry) = self.reader.get(to) {
            mark.after = mark.after.max(entry.before());
        }
        Picked::GoOn
    }

    /// Moves a subscriber's mark behind the picks it got; `next` is the first that it didn't.
    pub(super) fn picks_taken(&mut self, slot: usize, done: usize, next: Option<u64>) {
        self.count_passed(slot, next.unwrap_or(self.picked_to));
        let mark = &mut self.marks[slot];
        if let Some(last) = done.checked_sub(1).and_then(|last| self.reader.get(self.picks[last])) {
            mark.after = last.sequence();
        }
        if next.is_none() && self.picked_to >= self.reader.at() {
            mark.behind = Behind::Not;
            return;
        }
        // What was counted as passed over lies before its place: the log is not asked for that again.
        mark.from = next.unwrap_or(self.picked_to);
        if let Some(entry) = self.reader.get(mark.from) {
            mark.after = mark.after.max(entry.before());
            if let Some(subscriber) = &mut self.subscribers[slot] {
                subscriber.ephemeral_begun = entry.ephemeral;
            }
        }
    }

    /// Counts what was passed over before an index.
    fn count_passed(&mut self, slot: usize, before: u64) {
        let count = self.passed.partition_point(|index| *index < before) as u64;
        if count > 0 {
            self.passed_over(slot, count);
        }
    }

    /// Counts what newer events with the same keys were taken for.
    pub(super) fn passed_over(&mut self, slot: usize, count: u64) {
        ShardStats::add(&self.stats.skipped, count);
        self.losses[slot].skipped += count;
        if let Some(subscriber) = &mut self.subscribers[slot] {
            subscriber.passed_over(count);
        }
    }

    /// Puts the picks' bytes together, if they aren't from the subscriber before.
    pub(super) fn assemble(&mut self, slot: u32) -> Option<Last> {
        let subscriber = self.subscribers[slot as usize].as_ref()?;
        if let ([index], false) = (&self.picks[..], subscriber.envelope) {
            return Some(Last::Entry(*index));
        }
        // With envelopes, the block depends on the views.
        let views = if subscriber.envelope { &subscriber.views[..] } else { &[] };
        let key = BatchKey { framing: subscriber.framing, envelope: subscriber.envelope };
        let views = views.iter().map(|membership| membership.view);
        if self.batch.key == Some(key)
            && self.batch.picks == self.picks
            && self.batch.views.iter().copied().eq(views.clone())
        {
            return Some(Last::Batch);
        }
        self.batch.views.clear();
        self.batch.views.extend(views);
        self.batch.bytes.clear();
        self.batch.ends.clear();
        self.batch.picks.clone_from(&self.picks);
        for entry in self.picks.iter().filter_map(|index| self.reader.get(*index)) {
            if subscriber.envelope {
                envelope(&mut self.batch.bytes, &self.index, &self.key, subscriber, &entry.record);
            } else {
                self.batch.bytes.extend_from_slice(framed(&entry.encoded, subscriber.framing));
            }
            self.batch.ends.push(self.batch.bytes.len());
        }
        self.batch.key = Some(key);
        Some(Last::Batch)
    }
}

pub(super) enum Picked {
    Some,
    /// There is nothing.
    None,
    /// There was nothing as far as was looked.
    GoOn,
    /// The window has gone on.
    Log,
}

/// Collects what one subscriber gets, up to a batch's size.
struct Gather<'a> {
    reader: &'a Reader,
    index: &'a Index,
    subscriber: &'a Subscriber,
    /// The entry whose first half was written.
    begun: Option<u64>,
    now: Timestamp,
    bytes: usize,
    picks: &'a mut Vec<u64>,
    /// What is left out because newer events with the same keys came.
    passed: &'a mut Vec<u64>,
    removed: bool,
}

impl Gather<'_> {
    /// Goes through candidates in their order; how far it came, `end` if through all.
    fn all(&mut self, candidates: impl Iterator<Item = u64>, end: u64) -> u64 {
        for index in candidates {
            let Some(entry) = self.reader.get(index) else { continue };
            if self.begun != Some(index) {
                if !self.gets(index, entry) {
                    continue;
                }
                if entry.is_removed() {
                    self.removed = true;
                    return index;
                }
                if entry.selective && self.is_hidden(entry) {
                    self.passed.push(index);
                    continue;
                }
            }
            let size = entry.encoded.chunk().len();
            if !self.picks.is_empty()
                && (self.bytes + size > BATCH_BYTES || self.picks.len() >= BATCH_RECORDS)
            {
                return index;
            }
            self.bytes += size;
            self.picks.push(index);
            if self.subscriber.change.is_some() {
                // It waits for the end of the block under way, and counts from there on.
                return index + 1;
            }
        }
        end
    }

    fn gets(&self, index: u64, entry: &Entry) -> bool {
        self.is_new(index, entry) && (!entry.selective || !entry.expired(self.now)) && self.sees(entry)
    }

    /// Whether an event is of those that the subscriber may see.
    fn sees(&self, entry: &Entry) -> bool {
        let event = &entry.record.event;
        (!entry.selective || is_open_to(self.subscriber, event)) && wants(self.index, self.subscriber, event)
    }

    /// Whether newer events with an entry's key came in each channel through which the subscriber sees it, which it is
    /// going to see.
    fn is_hidden(&self, entry: &Entry) -> bool {
        if entry.record.event.key.is_none() {
            return false;
        }
        let mut shown = entry.record.event.to.channels().iter().filter(|channel| {
            // Mostly there is one target, by which it was found.
            entry.record.event.to.channels().len() == 1 || shows(self.index, self.subscriber, channel)
        });
        shown.all(|channel| self.has_newer(entry, channel))
    }

    /// One that isn't kept hides only others that aren't: who comes back later doesn't get it.
    fn has_newer(&self, entry: &Entry, channel: &Channel) -> bool {
        let mut next = entry.newer_in(channel);
        for _ in 0..NEWER {
            let Some(index) = next.filter(|index| *index < self.reader.at()) else { return false };
            let Some(newer) = self.reader.get(index) else { return false };
            if (!newer.ephemeral || entry.ephemeral)
                && !newer.is_removed()
                && self.is_new(index, newer)
                && self.sees(newer)
            {
                return true;
            }
            next = newer.newer_in(channel);
        }
        false
    }

    /// Whether an entry lies behind the place where the subscriber began.
    fn is_new(&self, index: u64, entry: &Entry) -> bool {
        if entry.ephemeral {
            // One that rides behind a record which was read in the log already would come too late.
            index >= self.subscriber.live_from && entry.sequence() >= self.subscriber.born
        } else {
            entry.sequence() > self.subscriber.born
        }
    }
}

/// One view's recent entries, on their way into a [`Merge`].
#[derive(Debug)]
pub(super) struct Recent {
    view: ViewId,
    /// The place in its list of the entry that comes after `head`.
    next: usize,
    head: u64,
}

/// The recent entries of several views from an index on, in order, each once.
struct Merge<'a> {
    index: &'a Index,
    /// The lists that have something left, in room that is used again: this is done for one subscriber and event.
    lists: &'a mut Vec<Recent>,
}

impl<'a> Merge<'a> {
    fn new(index: &'a Index, views: &[Membership], from: u64, lists: &'a mut Vec<Recent>) -> Merge<'a> {
        lists.clear();
        for membership in views {
            let Some(followed) = index.get(membership.view) else { continue };
            let first = followed.first_from(from);
            if let Some(head) = followed.recent.get(first) {
                lists.push(Recent { view: membership.view, next: first + 1, head: *head });
            }
        }
        Merge { index, lists }
    }
}

impl Iterator for Merge<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let least = self.lists.iter().map(|list| list.head).min()?;
        let index = self.index;
        self.lists.retain_mut(|list| {
            if list.head != least {
                return true;
            }
            let next = index.get(list.view).and_then(|followed| followed.recent.get(list.next));
            list.next += 1;
            next.is_some_and(|next| {
                list.head = *next;
                true
            })
        });
        Some(least)
    }
}

pub(super) fn framed(encoded: &EncodedEvent, framing: Framing) -> &[u8] {
    match framing {
        Framing::Chunked => encoded.chunk(),
        Framing::Raw => encoded.payload(),
    }
}

/// An event with the channel through which this subscriber gets it: the first of its targets that its views show.
pub(super) fn envelope(
    out: &mut Vec<u8>,
    index: &Index,
    key: &CursorKey,
    subscriber: &Subscriber,
    record: &Record,
) {
    let shown = |channel: &&Channel| shows(index, subscriber, channel);
    let Some(channel) = record.event.to.channels().iter().find(shown) else { return };
    let id = key.seal(record.position);
    encode_envelope(out, subscriber.framing, &record.event, channel, record.time.0, &id);
}

impl Shard {
    /// Whether an event that a subscriber's views show is one of those that it may see.
    pub(super) fn sees(&self, subscriber: &Subscriber, event: &Event) -> bool {
        is_open_to(subscriber, event) && wants(&self.index, subscriber, event)
    }
}

/// Whether an event says something, and doesn't exclude a subscriber.
fn is_open_to(subscriber: &Subscriber, event: &Event) -> bool {
    event.is_shown() && !subscriber.is_among(&event.exclude)
}

/// Whether a subscriber's filter lets an event through. It holds nothing back that is sent to all or to its user.
fn wants(index: &Index, subscriber: &Subscriber, event: &Event) -> bool {
    let own = |channel: &Channel| channel.is_system() && shows(index, subscriber, channel);
    let lens = subscriber.lens.as_ref();
    lens.is_none_or(|lens| lens.chooses(event) || event.to.channels().iter().any(own))
}

/// Whether one of the subscriber's views shows a channel.
fn shows(index: &Index, subscriber: &Subscriber, channel: &Channel) -> bool {
    let mut views = subscriber.views.iter().filter_map(|membership| index.get(membership.view));
    views.any(|followed| followed.view.shows(channel))
}
