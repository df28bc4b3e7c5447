//! A log as plain as can be: a list, and loops over it.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidings_wire::{Channel, Data, Epoch, Event, Key, Position, Sequence};

use crate::log::{
    Caps, ChannelInfo, LOOKED_BACK, NewRecord, Order, ReadLimit, Record, Removal, Retention, Selection,
    TailItem,
};
use crate::{Timestamp, View};

/// The model. Every answer is found by going through all that was ever stored.
pub(super) struct Model {
    pub(super) epoch: Epoch,
    retention: Retention,
    entries: Vec<Entry>,
    floors: BTreeMap<Channel, Sequence>,
}

struct Entry {
    record: Record,
    /// The channels that still have it.
    held: Vec<Channel>,
    bytes: u64,
}

impl Model {
    pub(super) fn new(epoch: Epoch, retention: Retention) -> Model {
        Model { epoch, retention, entries: Vec::new(), floors: BTreeMap::new() }
    }

    pub(super) fn head(&self) -> Position {
        Position { epoch: self.epoch, sequence: Sequence(self.entries.len() as u64) }
    }

    /// What tails are to see. A channel that has ended, if the batch is to be refused for it.
    pub(super) fn append(&mut self, batch: &[NewRecord]) -> Result<Vec<TailItem>, Channel> {
        for (at, record) in batch.iter().enumerate() {
            for channel in record.event.to.channels() {
                let ends = |before: &NewRecord| {
                    before.event.end && before.event.store && before.event.to.channels().contains(channel)
                };
                if self.ended(channel).is_some() || batch[..at].iter().any(ends) {
                    return Err(channel.clone());
                }
            }
        }
        let mut items = Vec::new();
        for NewRecord { time, event } in batch {
            let mut record = Record { position: self.head(), time: *time, event: event.clone() };
            if event.store {
                record.position.sequence = record.position.sequence.next();
                self.entries.push(Entry {
                    record: record.clone(),
                    held: event.to.channels().to_vec(),
                    bytes: event.data.as_str().len() as u64,
                });
                self.drop_old_states(event, *time);
                self.enforce_caps(event, *time);
                items.push(TailItem::Stored(record));
            } else {
                items.push(TailItem::Ephemeral(record));
            }
        }
        Ok(items)
    }

    pub(super) fn ended(&self, channel: &Channel) -> Option<Sequence> {
        let end = self.entries.iter().find(|entry| entry.record.event.end && entry.held.contains(channel))?;
        Some(end.record.position.sequence)
    }

    /// The newest records of a channel with a key, the newest first.
    pub(super) fn keyed(&self, channel: &Channel, key: &Key) -> impl Iterator<Item = &Record> {
        let has = move |entry: &&Entry| {
            entry.held.contains(channel) && entry.record.event.key.as_ref() == Some(key)
        };
        self.entries.iter().rev().filter(has).map(|entry| &entry.record)
    }

    fn drop_old_states(&mut self, new: &Event, time: Timestamp) {
        let Some(key) = &new.key else { return };
        let over =
            |event: &Event, time: Timestamp| event.ttl.map_or(u64::MAX, |ttl| time.0 + u64::from(ttl) * 1000);
        let sorted = |event: &Event| {
            let mut targets = event.to.channels().to_vec();
            targets.sort();
            targets
        };
        for channel in new.to.channels() {
            let silent = new.data == Data::Nothing || !new.exclude.is_empty();
            if !self.retention.caps(channel).state_only || silent {
                continue;
            }
            let old: Vec<Sequence> = self
                .keyed(channel, key)
                .skip(1)
                .take(LOOKED_BACK)
                .filter(|old| sorted(&old.event) == sorted(new) && old.event.tags == new.tags)
                .filter(|old| over(new, time) >= over(&old.event, old.time))
                .map(|old| old.position.sequence)
                .collect();
            for entry in self.entries.iter_mut().filter(|entry| old.contains(&entry.record.position.sequence))
            {
                entry.held.retain(|held| held != channel);
            }
        }
    }

    fn enforce_caps(&mut self, event: &Arc<Event>, now: Timestamp) {
        for channel in event.to.channels() {
            let caps = self.retention.caps(channel);
            while over(caps, self.entries.iter().filter(|entry| entry.held.contains(channel))) {
                let oldest = self.entries.iter().position(|entry| entry.held.contains(channel));
                self.remove(oldest.expect("there is one"), Some(channel), now);
            }
        }
        while over(self.retention.total, self.entries.iter().filter(|entry| !entry.held.is_empty())) {
            let oldest = self.entries.iter().position(|entry| !entry.held.is_empty());
            self.remove(oldest.expect("there is one"), None, now);
        }
    }

    fn remove(&mut self, at: usize, from: Option<&Channel>, now: Timestamp) {
        let entry = &mut self.entries[at];
        let lost = !entry.record.expired(now);
        for channel in entry.held.extract_if(.., |channel| from.is_none_or(|from| from == channel)) {
            if lost {
                self.floors.insert(channel, entry.record.position.sequence);
            }
        }
    }

    pub(super) fn retain(&mut self, now: Timestamp) {
        for channel in self.entries.iter().flat_map(|entry| entry.held.clone()).collect::<Vec<_>>() {
            let Some(age) = self.retention.caps(&channel).age else { continue };
            while let Some(oldest) = self.entries.iter().position(|entry| entry.held.contains(&channel))
                && self.entries[oldest].record.time.plus(age) <= now
            {
                self.remove(oldest, Some(&channel), now);
            }
        }
        let Some(age) = self.retention.total.age else { return };
        while let Some(oldest) = self.entries.iter().position(|entry| !entry.held.is_empty())
            && self.entries[oldest].record.time.plus(age) <= now
        {
            self.remove(oldest, None, now);
        }
    }

    pub(super) fn purge(&mut self, channel: &Channel) -> (u64, Vec<TailItem>) {
        let mut removed = 0;
        let mut items = Vec::new();
        for at in 0..self.entries.len() {
            if self.entries[at].held.contains(channel) {
                self.remove(at, Some(channel), Timestamp(0));
                removed += 1;
                let through = self.entries[at].record.position.sequence;
                items = vec![TailItem::Removed(Removal::Channel { channel: channel.clone(), through })];
            }
        }
        (removed, items)
    }

    pub(super) fn delete(&mut self, position: Position) -> (u64, Vec<TailItem>) {
        let entry =
            self.entries.iter_mut().find(|entry| entry.record.position == position && !entry.held.is_empty());
        match entry {
            Some(entry) => {
                entry.held.clear();
                (1, vec![TailItem::Removed(Removal::Record(position.sequence))])
            }
            None => (0, Vec::new()),
        }
    }

    /// All that a read finds when it is followed to the end, and the floor.
    pub(super) fn read(
        &self,
        selections: &[Selection],
        order: Order,
        limit: ReadLimit,
        now: Timestamp,
    ) -> (Vec<Record>, Sequence) {
        let selected = |entry: &Entry| {
            selections.iter().any(|selection| {
                entry.record.position.sequence > selection.after
                    && entry.held.iter().any(|channel| selection.view.shows(channel))
            })
        };
        let mut records: Vec<Record> = self
            .entries
            .iter()
            .filter(|entry| entry.record.position.sequence <= limit.through)
            .filter(|entry| selected(entry) && !entry.record.expired(now))
            .map(|entry| entry.record.clone())
            .collect();
        if order == Order::Newest {
            records.reverse();
        }
        let floor = selections
            .iter()
            .map(|selection| (self.floor(&selection.view), selection.after))
            .filter(|(floor, after)| floor > after)
            .map(|(floor, _)| floor)
            .max()
            .unwrap_or_default();
        (records, floor)
    }

    pub(super) fn floor(&self, view: &View) -> Sequence {
        let shown = self.floors.iter().filter(|(channel, _)| view.shows(channel));
        shown.map(|(_, floor)| *floor).max().unwrap_or_default()
    }

    pub(super) fn newest(&self, views: &[View], count: usize, through: Sequence) -> Vec<Selection> {
        let shown = |channel: &&Channel| views.iter().any(|view| view.shows(channel));
        let mut channels: Vec<&Channel> =
            self.entries.iter().flat_map(|entry| &entry.held).filter(shown).collect();
        channels.sort();
        channels.dedup();
        let mut selections = Vec::new();
        for channel in channels {
            let kept: Vec<u64> = self
                .entries
                .iter()
                .filter(|entry| entry.held.contains(channel))
                .map(|entry| entry.record.position.sequence.0)
                .filter(|sequence| *sequence <= through.0)
                .collect();
            let Some(newest) = kept.last() else { continue };
            let after = match kept.len().saturating_sub(count) {
                from if from == kept.len() => *newest,
                from => kept[from] - 1,
            };
            selections.push(Selection { view: View::Channel(channel.clone()), after: Sequence(after) });
        }
        selections
    }

    pub(super) fn channels(&self, prefix: &str, after: Option<&Channel>, limit: usize) -> Vec<ChannelInfo> {
        let mut infos: BTreeMap<&Channel, ChannelInfo> = BTreeMap::new();
        for entry in &self.entries {
            for channel in entry.record.event.to.channels() {
                let info = infos.entry(channel).or_insert_with(|| ChannelInfo {
                    channel: channel.clone(),
                    newest: Sequence::START,
                    records: 0,
                    bytes: 0,
                });
                info.newest = entry.record.position.sequence;
                if entry.held.contains(channel) {
                    info.records += 1;
                    info.bytes += entry.bytes;
                }
            }
        }
        infos
            .into_values()
            .filter(|info| info.records > 0 && info.channel.as_str().starts_with(prefix))
            .filter(|info| after.is_none_or(|after| info.channel > *after))
            .take(limit)
            .collect()
    }

    /// How many records and bytes are kept.
    pub(super) fn kept(&self) -> (u64, u64) {
        let kept = self.entries.iter().filter(|entry| !entry.held.is_empty());
        kept.fold((0, 0), |(records, bytes), entry| (records + 1, bytes + entry.bytes))
    }

    /// The past part of a tail.
    pub(super) fn tail(&self, after: Sequence) -> Vec<TailItem> {
        let mut items: Vec<TailItem> = self
            .entries
            .iter()
            .rev()
            .take_while(|entry| entry.held.len() == entry.record.event.to.channels().len())
            .take_while(|entry| entry.record.position.sequence > after)
            .map(|entry| TailItem::Stored(entry.record.clone()))
            .collect();
        items.reverse();
        items
    }
}

fn over<'a>(caps: Caps, entries: impl Iterator<Item = &'a Entry>) -> bool {
    let (count, bytes) = entries.fold((0, 0), |(count, bytes), entry| (count + 1, bytes + entry.bytes));
    caps.count.is_some_and(|cap| count > cap) || caps.bytes.is_some_and(|cap| bytes > cap)
}
