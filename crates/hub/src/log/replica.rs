//! What a log keeps, in memory, as a machine: the same steps in the same order lead to the same state, in whichever
//! process. A log for one process holds one; a log for many nodes brings all of them the same steps.

mod beside;
mod channels;
mod list;
mod saved;
mod shelf;
#[cfg(test)]
mod tests;

use std::time::Duration;

use tidings_wire::{Channel, Epoch, Key, Position, Sequence};

use self::beside::{Answers, Notes};
use self::shelf::Shelf;
use super::{
    AppendError, Asked, ChannelInfo, Holder, Lease, Leases, Located, LogStats, NewRecord, Order, Page,
    ReadLimit, Record, Removal, Retention, Selection, TailItem, Terms,
};
use crate::{Timestamp, View};

pub use self::saved::{Saved, SavedAnswer, SavedChannel, SavedRecord};

/// How many epochs are known at most. A cursor of an older one is of no known history.
const EPOCHS: usize = 1024;

/// The state of a log.
#[derive(Debug)]
pub struct Replica {
    /// Each epoch with the record behind which it began; the last one is the present one.
    epochs: Vec<(Epoch, Sequence)>,
    shelf: Shelf,
    answers: Answers,
    notes: Notes,
    /// Counted on the log's own clock, whatever it counts from.
    leases: Leases<Duration>,
}

impl Replica {
    /// One without a record.
    pub fn new(epoch: Epoch, retention: Retention) -> Replica {
        Replica {
            epochs: vec![(epoch, Sequence::START)],
            shelf: Shelf::new(retention),
            answers: Answers::default(),
            notes: Notes::default(),
            leases: Leases::default(),
        }
    }

    fn epoch(&self) -> Epoch {
        self.epochs.last().map_or(Epoch(0), |(epoch, _)| *epoch)
    }

    /// Stores a batch and adds what is to be announced to `items`. `now` is by the clock of the leases. See
    /// [`super::Log::append_with`]. The limits of notes are for who calls to keep.
    ///
    /// # Errors
    /// When the batch is refused. Nothing is stored then.
    pub fn append(
        &mut self,
        batch: Vec<NewRecord>,
        terms: Terms,
        now: Duration,
        items: &mut Vec<TailItem>,
    ) -> Result<Vec<Position>, AppendError> {
        let Terms { once, lease, note } = terms;
        let once = once.zip(batch.first().map(|record| record.time));
        if let Some((once, now)) = &once
            && let Some(answer) = self.answers.find(once, *now)
        {
            return answer;
        }
        if lease.is_some_and(|lease| !self.leases.lasts(&lease, now)) {
            return Err(AppendError::LeaseLost);
        }
        // Asked after that: the answer to a batch that was stored stays the same when its channel has ended since.
        if let Some(channel) = self.shelf.ended_by_now(&batch) {
            return Err(AppendError::Ended(channel));
        }
        let epoch = self.epoch();
        let mut positions = Vec::with_capacity(batch.len());
        for NewRecord { time, event } in batch {
            let stored = event.store;
            let sequence =
                if stored { self.shelf.push(epoch, time, event.clone()) } else { self.shelf.head() };
            let position = Position { epoch, sequence };
            let record = Record { position, time, event };
            items.push(if stored { TailItem::Stored(record) } else { TailItem::Ephemeral(record) });
            positions.push(position);
        }
        if let Some((once, _)) = &once {
            self.answers.keep(once, positions.clone());
        }
        if let Some(note) = note {
            self.notes.set(note.name, note.value);
        }
        Ok(positions)
    }

    /// See [`super::Log::lease`]. `now` is by the clock of the leases.
    pub fn lease(&mut self, name: String, holder: Holder, for_: Duration, now: Duration) -> Option<Lease> {
        match self.leases.ask(&name, holder, for_, now) {
            Asked::Answer(answer) => answer,
            Asked::Free { last } => {
                let lease = Lease { name, holder, number: last + 1 };
                self.leases.begin(lease.clone(), for_, now);
                Some(lease)
            }
        }
    }

    /// See [`super::Log::set_note`]. The limits are for who calls to keep.
    pub fn set_note(&mut self, name: String, value: Option<Vec<u8>>) {
        self.notes.set(name, value);
    }

    /// See [`super::Log::set_note_if`]. The limits are for who calls to keep.
    pub fn set_note_if(&mut self, name: String, expected: Option<&[u8]>, value: Option<Vec<u8>>) -> bool {
        let as_expected = self.notes.get(&name).as_deref() == expected;
        if as_expected {
            self.notes.set(name, value);
        }
        as_expected
    }

    /// See [`super::Log::purge`].
    pub fn purge(&mut self, channel: Channel, items: &mut Vec<TailItem>) -> u64 {
        let Some((records, through)) = self.shelf.purge(&channel) else { return 0 };
        items.push(TailItem::Removed(Removal::Channel { channel, through }));
        records
    }

    /// See [`super::Log::delete`].
    pub fn delete(&mut self, position: Position, items: &mut Vec<TailItem>) -> u64 {
        if !self.shelf.delete(position) {
            return 0;
        }
        items.push(TailItem::Removed(Removal::Record(position.sequence)));
        1
    }

    /// See [`super::Log::retain`].
    pub fn retain(&mut self, now: Timestamp) {
        self.shelf.retain(now);
        self.answers.retain(now);
    }

    /// Whether [`Replica::retain`] might change anything at this time.
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.shelf.is_due(now) || self.answers.is_due(now)
    }

    /// The rules of retention.
    pub fn retention(&self) -> &Retention {
        self.shelf.retention()
    }

    /// Keeps by other rules from now on. What those by count and bytes don't allow goes as the newest record's time.
    pub fn set_retention(&mut self, retention: Retention, now: Timestamp) {
        self.shelf.set_retention(retention, now);
    }

    /// Begins a new epoch behind the newest record. All leases end: what was stored under them may be lost, and who has
    /// one goes on as if it were there.
    pub fn fork(&mut self, epoch: Epoch) {
        for (lease, _) in self.leases.all() {
            self.leases.put_back(lease, Duration::ZERO);
        }
        self.epochs.push((epoch, self.shelf.head()));
        if self.epochs.len() > EPOCHS {
            self.epochs.remove(0);
        }
    }

    /// See [`super::Log::ended`].
    pub fn ended(&self, channel: &Channel) -> Option<Sequence> {
        self.shelf.channels.ended(channel)
    }

    /// See [`super::Log::keyed`].
    pub fn keyed(&self, channel: &Channel, key: &Key, after: Sequence, limit: usize) -> Vec<Record> {
        self.shelf.keyed(channel, key, after, limit)
    }

    /// See [`super::Log::note`].
    pub fn note(&self, name: &str) -> Option<Vec<u8>> {
        self.notes.get(name)
    }

    /// See [`super::Log::notes`].
    pub fn notes(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<(String, Vec<u8>)> {
        self.notes.list(prefix, after, limit)
    }

    /// The past part of a tail; see [`super::Log::tail`].
    pub fn past(&self, after: Sequence) -> Vec<TailItem> {
        self.shelf.whole_since(after).map(TailItem::Stored).collect()
    }

    /// See [`super::Log::read`].
    pub fn read(&self, selections: &[Selection], order: Order, limit: ReadLimit, now: Timestamp) -> Page {
        self.shelf.read(selections, order, limit, now)
    }

    /// See [`super::Log::newest`].
    pub fn newest(&self, views: &[View], count: usize, through: Sequence) -> Vec<Selection> {
        self.shelf.newest(views, count, through)
    }

    /// See [`super::Log::floor`].
    pub fn floor(&self, views: &[View]) -> Sequence {
        views.iter().map(|view| self.shelf.channels.floor(view)).max().unwrap_or_default()
    }

    /// See [`super::Log::locate`].
    pub fn locate(&self, position: Position) -> Located {
        let Some(at) = self.epochs.iter().position(|(epoch, _)| *epoch == position.epoch) else {
            return Located::Unknown;
        };
        // What a later epoch has lost is lost to all before it.
        match self.epochs[at + 1..].iter().map(|(_, fork)| *fork).min() {
            Some(fork) if position.sequence > fork => Located::PastFork(fork),
            None if position.sequence > self.shelf.head() => Located::Ahead,
            _ => Located::Here(position.sequence),
        }
    }

    /// See [`super::Log::head`].
    pub fn head(&self) -> Position {
        Position { epoch: self.epoch(), sequence: self.shelf.head() }
    }

    /// See [`super::Log::channels`].
    pub fn channels(&self, prefix: &str, after: Option<&Channel>, limit: usize) -> Vec<ChannelInfo> {
        self.shelf.channels.list(prefix, after, limit)
    }

    /// How much is kept. What else a log has to tell is not known here.
    pub fn stats(&self) -> LogStats {
        LogStats {
            records: self.shelf.records(),
            bytes: self.shelf.bytes(),
            channels: self.shelf.channels.kept(),
            ..LogStats::default()
        }
    }
}
