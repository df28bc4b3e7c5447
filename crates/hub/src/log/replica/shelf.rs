//! The records of a replica, in their order.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;

use tidings_wire::{Channel, Epoch, Event, Key, Position, Sequence};

use super::channels::{ChannelState, Channels, NowOldest};
use crate::log::{
    Caps, LOOKED_BACK, NewRecord, Order, Page, ReadLimit, Record, Retention, Selection, takes_the_place,
    too_late,
};
use crate::{Timestamp, View};

/// How many records one read looks at, so that it doesn't keep appends waiting: a few milliseconds.
const LOOK: usize = if cfg!(test) { 7 } else { 16_384 };
/// Up to how many channels a read goes through by their own lists; for more of them it goes through all records.
const MERGED: usize = if cfg!(test) { 2 } else { 256 };

/// All records. Those that were removed leave holes, which are closed when there are more of them than records.
#[derive(Debug)]
pub(super) struct Shelf {
    slots: VecDeque<Slot>,
    head: Sequence,
    records: u64,
    bytes: u64,
    pub(super) channels: Channels,
    total: Caps,
}

#[derive(Debug)]
struct Slot {
    sequence: Sequence,
    /// That of when it was stored, which may be an older one than the present.
    epoch: Epoch,
    time: Timestamp,
    /// How many channels have it. With none it is a hole.
    holders: u32,
    event: Option<Arc<Event>>,
}

impl Slot {
    fn position(&self) -> Position {
        Position { epoch: self.epoch, sequence: self.sequence }
    }

    fn record(&self) -> Option<Record> {
        Some(Record { position: self.position(), time: self.time, event: self.event.clone()? })
    }

    fn expired(&self, now: Timestamp) -> bool {
        self.event.as_ref().is_none_or(|event| expired(event, self.time, now))
    }
}

fn expired(event: &Event, time: Timestamp, now: Timestamp) -> bool {
    event.ttl.is_some_and(|ttl| now >= time.plus(std::time::Duration::from_secs(ttl.into())))
}

impl Shelf {
    pub(super) fn new(retention: Retention) -> Shelf {
        Shelf {
            slots: VecDeque::new(),
            head: Sequence::START,
            records: 0,
            bytes: 0,
            total: retention.total,
            channels: Channels::new(retention),
        }
    }

    pub(super) fn retention(&self) -> &Retention {
        self.channels.retention()
    }

    /// Keeps by other rules, and removes what they don't allow.
    pub(super) fn set_retention(&mut self, retention: Retention, now: Timestamp) {
        self.total = retention.total;
        self.channels.set_retention(retention);
        let known: Vec<Channel> = self.channels.known().cloned().collect();
        for channel in known {
            while self.channels.get(&channel).is_some_and(ChannelState::over) {
                self.drop_oldest_of(&channel, now);
            }
            let oldest = self.channels.get(&channel).and_then(|state| state.records.oldest());
            if let Some(time) = oldest.and_then(|oldest| self.slot(oldest)).map(|slot| slot.time) {
                self.channels.oldest_is(&channel, time);
            }
        }
        self.enforce_total(now);
    }

    /// Whether anything may be too old at `now`.
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        let total =
            self.total.age.zip(self.slots.front()).is_some_and(|(age, slot)| slot.time.plus(age) <= now);
        total || self.channels.is_due(now)
    }

    /// All records, in their order.
    pub(super) fn all(&self) -> impl Iterator<Item = Record> {
        self.slots.iter().filter_map(Slot::record)
    }

    /// Puts a record, the newest of all, where it was, in all its channels but those that lost it.
    pub(super) fn put_back(&mut self, position: Position, time: Timestamp, event: Arc<Event>, lost: &[u8]) {
        let Position { epoch, sequence } = position;
        let bytes = event.data.as_str().len();
        let mut holders = 0;
        for (at, channel) in (0_u8..).zip(event.to.channels()) {
            if lost.contains(&at) {
                continue;
            }
            holders += 1;
            self.channels.push(channel, sequence, bytes, time, event.key.as_ref());
            if event.end {
                self.channels.end(channel, sequence);
            }
        }
        self.records += 1;
        self.bytes += bytes as u64;
        self.slots.push_back(Slot { sequence, epoch, time, holders, event: Some(event) });
    }

    pub(super) fn set_head(&mut self, head: Sequence) {
        self.head = head;
    }

    pub(super) fn head(&self) -> Sequence {
        self.head
    }

    pub(super) fn records(&self) -> u64 {
        self.records
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A channel of a batch that has ended, so that the batch can't be stored.
    pub(super) fn ended_by_now(&self, batch: &[NewRecord]) -> Option<Channel> {
        // Nearly always there is none, and then nobody has to look.
        if !self.channels.has_ended() && !batch.iter().any(|record| record.event.end) {
            return None;
        }
        too_late(batch, |channel| self.channels.ended(channel).is_some()).cloned()
    }

    /// Adds a record, then removes what the caps by count and bytes don't allow any more.
    pub(super) fn push(&mut self, epoch: Epoch, time: Timestamp, event: Arc<Event>) -> Sequence {
        let sequence = self.head.next();
        self.head = sequence;
        let bytes = event.data.as_str().len();
        let targets = event.to.clone();
        let end = event.end;
        let keyed = event.key.is_some().then(|| event.clone());
        let key = keyed.as_ref().and_then(|event| event.key.as_ref());
        let holders = u32::try_from(targets.channels().len()).unwrap_or(u32::MAX);
        self.slots.push_back(Slot { sequence, epoch, time, holders, event: Some(event) });
        self.records += 1;
        self.bytes += bytes as u64;
        for channel in targets.channels() {
            let state = self.channels.push(channel, sequence, bytes, time, key);
            let mut over = state.over();
            if let Some(event) = &keyed
                && state.caps.state_only
            {
                self.drop_old_states(channel, event, time);
                over = self.channels.get(channel).is_some_and(ChannelState::over);
            }
            if end {
                self.channels.end(channel, sequence);
            }
            while over {
                self.drop_oldest_of(channel, time);
                over = self.channels.get(channel).is_some_and(ChannelState::over);
            }
        }
        self.enforce_total(time);
        sequence
    }

    fn enforce_total(&mut self, now: Timestamp) {
        while self.total.count.is_some_and(|cap| self.records > cap)
            || self.total.bytes.is_some_and(|cap| self.bytes > cap)
        {
            if !self.drop_oldest(now) {
                break;
            }
        }
    }

    /// Removes what is too old at `now`.
    pub(super) fn retain(&mut self, now: Timestamp) {
        while let Some(channel) = self.channels.next_due(now) {
            while let Some(state) = self.channels.get(&channel)
                && let Some(age) = state.caps.age
                && let Some(oldest) = state.records.oldest()
                && let Some(slot) = self.slot(oldest)
            {
                let time = slot.time;
                if time.plus(age) > now {
                    self.channels.oldest_is(&channel, time);
                    break;
                }
                self.drop_oldest_of(&channel, now);
            }
        }
        if let Some(age) = self.total.age {
            while let Some(slot) = self.slots.front()
                && (slot.event.is_none() || slot.time.plus(age) <= now)
            {
                self.drop_oldest(now);
            }
        }
    }

    /// Removes all records of a channel. `None` if it has none; else how many there were and the newest of them.
    pub(super) fn purge(&mut self, channel: &Channel) -> Option<(u64, Sequence)> {
        let state = self.channels.get(channel)?;
        let through = state.records.newest()?;
        let records = state.records.len();
        // An operator's purge has no time of its own: what expired in between counts as lost.
        while self.drop_oldest_of(channel, Timestamp::default()) {}
        Some((records, through))
    }

    /// Removes one record from all its channels. Nothing is raised: nobody is to be told that it is missing.
    pub(super) fn delete(&mut self, position: Position) -> bool {
        let sequence = position.sequence;
        let Some(slot) = self.slot(sequence).filter(|slot| slot.epoch == position.epoch) else {
            return false;
        };
        let Some(event) = slot.event.clone() else { return false };
        for channel in event.to.channels() {
            let (_, now_oldest) = self.channels.take_out(channel, sequence, event.key.as_ref());
            self.look_when_due(channel, now_oldest);
        }
        self.empty(sequence);
        true
    }

    /// Removes from a channel that keeps only states what the newest one takes the place of.
    fn drop_old_states(&mut self, channel: &Channel, new: &Event, time: Timestamp) {
        let (Some(state), Some(key)) = (self.channels.get(channel), &new.key) else { return };
        let old: Vec<Sequence> = state
            .keyed(key)
            .skip(1)
            .take(LOOKED_BACK)
            .filter(|sequence| {
                self.slot(*sequence)
                    .and_then(|slot| Some((slot.event.as_deref()?, slot.time)))
                    .is_some_and(|old| takes_the_place((new, time), old))
            })
            .collect();
        for sequence in old {
            let (taken, now_oldest) = self.channels.take_out(channel, sequence, Some(key));
            self.look_when_due(channel, now_oldest);
            if taken {
                self.let_go(sequence);
            }
        }
    }

    /// Removes the oldest record of a channel from it.
    fn drop_oldest_of(&mut self, channel: &Channel, now: Timestamp) -> bool {
        let Some(oldest) = self.channels.get(channel).and_then(|state| state.records.oldest()) else {
            return false;
        };
        let slot = self.slot(oldest);
        let lost = slot.is_some_and(|slot| !slot.expired(now));
        let key = slot.and_then(|slot| slot.event.as_ref()?.key.clone());
        let now_oldest = self.channels.pop(channel, key.as_ref(), lost);
        self.look_when_due(channel, now_oldest);
        self.let_go(oldest);
        true
    }

    /// Where times don't rise with positions, a record may be due before the one that was the oldest of its channel.
    fn look_when_due(&mut self, channel: &Channel, now_oldest: Option<NowOldest>) {
        if let Some(oldest) = now_oldest
            && let Some(time) = self.slot(oldest.sequence).map(|slot| slot.time)
            && oldest.is_due_before(time)
        {
            self.channels.oldest_is(channel, time);
        }
    }

    /// One channel less has a record. Without any it is removed.
    fn let_go(&mut self, sequence: Sequence) {
        if let Some(at) = self.place(sequence)
            && let Some(slot) = self.slots.get_mut(at)
        {
            slot.holders -= 1;
            if slot.holders == 0 {
                self.empty(sequence);
            }
        }
    }

    /// Removes the oldest record of all.
    fn drop_oldest(&mut self, now: Timestamp) -> bool {
        let Some(slot) = self.slots.front() else { return false };
        let sequence = slot.sequence;
        if let Some(event) = slot.event.clone() {
            let lost = !slot.expired(now);
            for channel in event.to.channels() {
                if self.channels.get(channel).is_some_and(|state| state.holds(sequence, &event)) {
                    let now_oldest = self.channels.pop(channel, event.key.as_ref(), lost);
                    self.look_when_due(channel, now_oldest);
                }
            }
        }
        self.empty(sequence);
        true
    }

    /// Makes a hole where a record was.
    fn empty(&mut self, sequence: Sequence) {
        if let Some(at) = self.place(sequence)
            && let Some(event) = self.slots[at].event.take()
        {
            self.records -= 1;
            self.bytes -= event.data.as_str().len() as u64;
        }
        while self.slots.front().is_some_and(|slot| slot.event.is_none()) {
            self.slots.pop_front();
        }
        // A quiet channel's record behind which a busy one's come and go must not keep the holes for ever.
        let holes = self.slots.len() as u64 - self.records;
        if holes > self.records + 1024 {
            self.slots.retain(|slot| slot.event.is_some());
        }
    }

    fn slot(&self, sequence: Sequence) -> Option<&Slot> {
        self.slots.get(self.place(sequence)?)
    }

    /// Where a record is: where it would be without closed holes, or before.
    fn place(&self, sequence: Sequence) -> Option<usize> {
        let first = self.slots.front()?.sequence;
        let at = usize::try_from(sequence.0.checked_sub(first.0)?).ok()?;
        if self.slots.get(at).is_some_and(|slot| slot.sequence == sequence) {
            return Some(at);
        }
        self.slots.binary_search_by_key(&sequence, |slot| slot.sequence).ok()
    }

    /// The newest records without a hole, each still in all its channels, after one place.
    pub(super) fn whole_since(&self, after: Sequence) -> impl Iterator<Item = Record> {
        let mut expected = self.head;
        let whole = self
            .slots
            .iter()
            .rev()
            .take_while(|slot| {
                let whole = slot.sequence > after
                    && slot.sequence == expected
                    && slot
                        .event
                        .as_ref()
                        .is_some_and(|event| event.to.channels().len() == slot.holders as usize);
                expected = Sequence(expected.0.saturating_sub(1));
                whole
            })
            .count();
        self.slots.range(self.slots.len() - whole..).filter_map(Slot::record)
    }

    /// One page of the selected records.
    pub(super) fn read(
        &self,
        selections: &[Selection],
        order: Order,
        limit: ReadLimit,
        now: Timestamp,
    ) -> Page {
        let through = limit.through.min(self.head);
        let floor = selections
            .iter()
            .map(|selection| (self.channels.floor(&selection.view), selection.after))
            .filter(|(floor, after)| floor > after)
            .map(|(floor, _)| floor)
            .max()
            .unwrap_or_default();
        let mut page = Filling { limit, now, records: Vec::new(), bytes: 0, looked: 0, last: None };
        let complete =
            match self.channels.names().selected(selections, MERGED, |channel| Some(channel.clone())) {
                Some(channels) => self.read_merged(&channels, through, order, &mut page),
                None => self.read_all(selections, through, order, &mut page),
            };
        let through = match (complete, order) {
            (true, Order::Oldest) => through,
            (true, Order::Newest) => Sequence::START,
            (false, _) => page.last.unwrap_or_default(),
        };
        Page { records: page.records, through, floor }
    }

    /// Goes through the lists of some channels together. Says whether it came to the end.
    fn read_merged(
        &self,
        channels: &BTreeMap<Channel, Sequence>,
        through: Sequence,
        order: Order,
        page: &mut Filling,
    ) -> bool {
        let mut lists: Vec<_> = channels
            .iter()
            .filter_map(|(channel, after)| Some(self.channels.get(channel)?.records.range(*after, through)))
            .collect();
        // The smallest key comes out first; the newest record has to have the smallest for the other order.
        let key = |sequence: Sequence| match order {
            Order::Oldest => sequence.0,
            Order::Newest => u64::MAX - sequence.0,
        };
        let next = |list: &mut dyn DoubleEndedIterator<Item = Sequence>, at: usize| {
            let sequence = match order {
                Order::Oldest => list.next(),
                Order::Newest => list.next_back(),
            };
            sequence.map(|sequence| Reverse((key(sequence), sequence, at)))
        };
        let mut heap: BinaryHeap<_> =
            lists.iter_mut().enumerate().filter_map(|(at, list)| next(list, at)).collect();
        let mut before = None;
        while let Some(Reverse((_, sequence, at))) = heap.pop() {
            heap.extend(next(&mut lists[at], at));
            if before.replace(sequence) == Some(sequence) {
                continue;
            }
            if let Some(slot) = self.slot(sequence)
                && !page.look_at(slot, true)
            {
                return false;
            }
        }
        true
    }

    /// Goes through all records and takes those that a selection shows. Says whether it came to the end.
    fn read_all(
        &self,
        selections: &[Selection],
        through: Sequence,
        order: Order,
        page: &mut Filling,
    ) -> bool {
        let after = selections.iter().map(|selection| selection.after).min().unwrap_or(through);
        let from = self.slots.partition_point(|slot| slot.sequence <= after);
        let to = self.slots.partition_point(|slot| slot.sequence <= through).max(from);
        let slots = self.slots.range(from..to);
        let shown = |slot: &Slot| {
            slot.event.as_ref().is_some_and(|event| {
                event.to.channels().iter().any(|channel| {
                    selections
                        .iter()
                        .any(|selection| slot.sequence > selection.after && selection.view.shows(channel))
                        && self.channels.get(channel).is_some_and(|state| state.holds(slot.sequence, event))
                })
            })
        };
        let mut step = |slot: &Slot| page.look_at(slot, shown(slot));
        match order {
            Order::Oldest => slots.into_iter().all(&mut step),
            Order::Newest => slots.into_iter().rev().all(&mut step),
        }
    }

    /// The newest records of a channel with a key.
    pub(super) fn keyed(&self, channel: &Channel, key: &Key, after: Sequence, limit: usize) -> Vec<Record> {
        let Some(state) = self.channels.get(channel) else { return Vec::new() };
        state
            .keyed(key)
            .take_while(|sequence| *sequence > after)
            .take(limit)
            .filter_map(|sequence| self.slot(sequence)?.record())
            .collect()
    }

    /// From where on to read for the newest `count` records of each channel that the views show.
    pub(super) fn newest(&self, views: &[View], count: usize, through: Sequence) -> Vec<Selection> {
        let mut found: BTreeMap<&Channel, Sequence> = BTreeMap::new();
        for channel in views.iter().flat_map(|view| self.channels.names().shown_by(view)) {
            let state = self.channels.get(channel);
            if let Some(after) = state.and_then(|state| state.records.before_newest(count, through)) {
                found.insert(channel, after);
            }
        }
        found
            .into_iter()
            .map(|(channel, after)| Selection { view: View::Channel(channel.clone()), after })
            .collect()
    }
}

/// A page while it is filled.
struct Filling {
    limit: ReadLimit,
    now: Timestamp,
    records: Vec<Record>,
    bytes: usize,
    looked: usize,
    /// The last one that was looked at.
    last: Option<Sequence>,
}

impl Filling {
    /// Takes a record if it is `shown` and not expired. `false` when it has to wait for the next page.
    fn look_at(&mut self, slot: &Slot, shown: bool) -> bool {
        if self.looked == LOOK {
            return false;
        }
        if shown
            && !slot.expired(self.now)
            && let Some(event) = &slot.event
        {
            let bytes = self.bytes + event.data.as_str().len();
            let full = self.records.len() >= self.limit.records || bytes > self.limit.bytes;
            if full && !self.records.is_empty() {
                return false;
            }
            self.bytes = bytes;
            self.records.push(Record { position: slot.position(), time: slot.time, event: event.clone() });
        }
        self.looked += 1;
        self.last = Some(slot.sequence);
        true
    }
}
