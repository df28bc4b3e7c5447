//! A replica's whole state, to be written down and read again.

use std::sync::Arc;
use std::time::Duration;

use tidings_wire::{Channel, Epoch, Position, Sequence};

use super::beside::{Answers, Notes};
use super::shelf::Shelf;
use super::{Replica, Retention};
use crate::log::{Lease, Leases, Once, Record};

/// All that a [`Replica`] is made of, and nothing that follows from the rest. A record's event is shared with the
/// replica, so that this is made in a moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Saved {
    /// Each epoch with the record behind which it began, the present one last.
    pub epochs: Vec<(Epoch, Sequence)>,
    /// The rules of retention.
    pub retention: Retention,
    /// The newest record there ever was.
    pub head: Sequence,
    /// The newest record that any forgotten channel lost.
    pub forgotten: Sequence,
    /// Every channel that is known.
    pub channels: Vec<SavedChannel>,
    /// Every record that a channel has, the oldest first.
    pub records: Vec<SavedRecord>,
    /// Notes by name.
    pub notes: Vec<(String, Vec<u8>)>,
    /// What was stored once.
    pub answers: Vec<SavedAnswer>,
    /// Every lease there ever was with its end, by the log's own clock.
    pub leases: Vec<(Lease, Duration)>,
}

/// A channel in a [`Saved`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedChannel {
    /// Its name.
    pub channel: Channel,
    /// No record up to this one is in it any more.
    pub gone: Sequence,
    /// Its floor.
    pub floor: Sequence,
    /// The newest record that was ever in it.
    pub newest: Sequence,
}

/// A record in a [`Saved`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedRecord {
    /// The record.
    pub record: Record,
    /// Which of its targets, by their places, don't have it any more.
    pub lost: Vec<u8>,
}

/// What was answered to a batch that is stored once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedAnswer {
    /// Its key, its body, and for how long it is remembered.
    pub once: Once,
    /// The answer.
    pub positions: Vec<Position>,
}

impl Replica {
    /// The whole state.
    pub fn save(&self) -> Saved {
        let mut saved = Saved {
            epochs: self.epochs.clone(),
            notes: self.notes.list("", None, usize::MAX),
            answers: self.answers.save(),
            leases: self.leases.all(),
            ..Saved::default()
        };
        self.shelf.save(&mut saved);
        saved
    }

    /// A replica with this state. `None` when it makes no sense.
    pub fn load(saved: Saved) -> Option<Replica> {
        let Saved { epochs, retention, head, forgotten, channels, records, notes, answers, leases } = saved;
        if epochs.is_empty() {
            return None;
        }
        let mut replica = Replica {
            epochs,
            shelf: Shelf::load(retention, head, forgotten, channels, records)?,
            answers: Answers::default(),
            notes: Notes::default(),
            leases: Leases::default(),
        };
        for (lease, until) in leases {
            replica.leases.put_back(lease, until);
        }
        for SavedAnswer { once, positions } in answers {
            replica.answers.keep(&once, positions);
        }
        for (name, value) in notes {
            replica.notes.set(name, Some(value));
        }
        Some(replica)
    }
}

#[cfg(any(test, feature = "suite"))]
impl Replica {
    /// Loses all behind a record, as a store does that is restored to what it was then, and begins a new epoch.
    pub fn lose_behind(&mut self, at: Sequence, epoch: Epoch) {
        let mut saved = self.save();
        saved.records.retain(|saved| saved.record.position.sequence <= at);
        saved.head = saved.head.min(at);
        for channel in &mut saved.channels {
            for place in [&mut channel.gone, &mut channel.floor, &mut channel.newest] {
                *place = at.min(*place);
            }
        }
        *self = Replica::load(saved).expect("a part of a state is one");
        self.fork(epoch);
    }
}

impl Shelf {
    fn save(&self, saved: &mut Saved) {
        saved.retention = self.retention().clone();
        saved.head = self.head();
        self.channels.save(saved);
        let record = |record: Record| {
            let targets = record.event.to.channels();
            let holds = |channel| {
                self.channels
                    .get(channel)
                    .is_some_and(|state| state.holds(record.position.sequence, &record.event))
            };
            let lost = (0_u8..).zip(targets).filter(|(_, channel)| !holds(channel)).map(|(at, _)| at);
            SavedRecord { lost: lost.collect(), record: record.clone() }
        };
        saved.records = self.all().map(record).collect();
    }

    fn load(
        retention: Retention,
        head: Sequence,
        forgotten: Sequence,
        channels: Vec<SavedChannel>,
        records: Vec<SavedRecord>,
    ) -> Option<Shelf> {
        let mut shelf = Shelf::new(retention);
        shelf.channels.load(forgotten, channels);
        let mut last = Sequence::START;
        for SavedRecord { record, lost } in records {
            let Record { position, time, event } = record;
            let sound = position.sequence > last && position.sequence <= head && event.store;
            last = position.sequence;
            if !sound || lost.len() >= event.to.channels().len() {
                return None;
            }
            shelf.put_back(position, time, Arc::clone(&event), &lost);
        }
        shelf.set_head(head);
        Some(shelf)
    }
}

impl Answers {
    fn save(&self) -> Vec<SavedAnswer> {
        // In the order of time, so that the same state is saved in the same way.
        self.in_order().map(|(once, positions)| SavedAnswer { once, positions: positions.to_vec() }).collect()
    }
}
