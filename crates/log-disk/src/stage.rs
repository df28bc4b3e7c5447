//! What one transaction changes: rows at once, the catalog when it is committed.

use std::collections::{BTreeSet, HashMap};

use tidings_hub::Timestamp;
use tidings_hub::log::{Caps, LOOKED_BACK, NewRecord, Once, Record, Retention, takes_the_place, too_late};
use tidings_wire::{Channel, Event, Position, Sequence};

use crate::catalog::{Catalog, ChannelState, Totals};
use crate::error::{Result, StoreError};
use crate::record::{self, Row};
use crate::store::{Place, Remembered, Store};
use crate::writer::Expected;

/// How many records one new one may push out. More are only ever over a cap when caps were lowered between two
/// starts; then the rest goes bit by bit.
const PUSHED_OUT: usize = 1_000;

/// A transaction while it is made.
pub(crate) struct Stage<'a> {
    store: &'a Store,
    catalog: &'a Catalog,
    retention: &'a Retention,
    pub(crate) changes: Changes,
    /// Whether any channel may have ended.
    ends: bool,
    body: Vec<u8>,
}

/// What the catalog becomes with the commit.
#[derive(Debug)]
pub(crate) struct Changes {
    pub(crate) head: Position,
    pub(crate) totals: Totals,
    pub(crate) channels: HashMap<Channel, ChannelState>,
    pub(crate) forgotten: Vec<Channel>,
    /// No record up to this one is in any channel.
    pub(crate) dropped: Sequence,
    /// What is wrong with an old record, if that came up.
    pub(crate) damage: Option<String>,
    /// Whether rows were written of which the catalog knows nothing.
    pub(crate) beside: bool,
}

impl Changes {
    /// Whether nothing was changed that has to be stored.
    pub(crate) fn is_nothing(&self, catalog: &Catalog) -> bool {
        !self.beside
            && self.head == catalog.head
            && self.totals == catalog.totals
            && self.forgotten.is_empty()
            && self.channels.iter().all(|(channel, state)| catalog.get(channel) == Some(state))
    }
}

impl<'a> Stage<'a> {
    /// `dropped`: see [`Changes`].
    pub(crate) fn new(
        store: &'a Store,
        catalog: &'a Catalog,
        retention: &'a Retention,
        dropped: Sequence,
    ) -> Stage<'a> {
        let changes = Changes {
            head: catalog.head,
            totals: catalog.totals,
            channels: HashMap::new(),
            forgotten: Vec::new(),
            dropped,
            damage: None,
            beside: false,
        };
        Stage { store, catalog, retention, changes, ends: catalog.has_ended(), body: Vec::new() }
    }

    fn state(&self, channel: &Channel) -> Option<&ChannelState> {
        self.changes.channels.get(channel).or_else(|| self.catalog.get(channel))
    }

    /// The state of a channel, to change it. A channel that isn't known may be a forgotten one.
    fn change(&mut self, channel: &Channel) -> &mut ChannelState {
        if !self.changes.channels.contains_key(channel) {
            let state = self.catalog.get(channel).cloned().unwrap_or_else(|| {
                let totals = &mut self.changes.totals;
                let id = totals.next_id;
                totals.next_id += 1;
                totals.channels += 1;
                ChannelState {
                    id,
                    caps: self.retention.caps(channel),
                    gone: totals.forgotten,
                    floor: totals.forgotten,
                    newest: Sequence::START,
                    last: Sequence::START,
                    swept: totals.forgotten,
                    records: 0,
                    bytes: 0,
                    end: Sequence::START,
                }
            });
            self.changes.channels.insert(channel.clone(), state);
        }
        self.changes.channels.get_mut(channel).expect("it was just put in")
    }

    /// Whether a channel still has a record that was published to it.
    pub(crate) fn has(&self, channel: &Channel, event: &Event, sequence: Sequence) -> Result<bool> {
        match self.state(channel) {
            Some(state) if state.holds(sequence) => {
                Ok(event.key.is_none() || self.store.place(state.id, sequence)?.is_some())
            }
            _ => Ok(false),
        }
    }

    fn held_by_any(&self, event: &Event, sequence: Sequence) -> Result<bool> {
        for channel in event.to.channels() {
            if self.has(channel, event, sequence)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A channel of a batch that has ended, be it earlier in this transaction, so that the batch can't be stored.
    pub(crate) fn ended_by_now(&mut self, batch: &[NewRecord]) -> Option<Channel> {
        // Nearly always there is none, and then nobody has to look.
        self.ends |= batch.iter().any(|record| record.event.end);
        if !self.ends {
            return None;
        }
        too_late(batch, |channel| self.state(channel).is_some_and(|state| state.ended().is_some())).cloned()
    }

    /// Adds a record, then removes what the caps by count and bytes don't allow any more.
    pub(crate) fn push(&mut self, time: Timestamp, event: &Event) -> Result<Position> {
        let position = Position { sequence: self.changes.head.sequence.next(), ..self.changes.head };
        self.changes.head = position;
        let sequence = position.sequence;
        let bytes = event.data.as_str().len() as u64;
        record::encode_event(&mut self.body, position, time, event);
        self.store.insert_record(sequence, &self.body)?;
        self.changes.totals.records += 1;
        self.changes.totals.bytes += bytes;
        let targets = event.to.channels();
        // All of them have it before the first one pushes anything out: each until its own cap says otherwise.
        for channel in targets {
            let state = self.change(channel);
            if state.records == 0 && !state.has_waste() {
                // Nothing is there up to here, so that nobody has to look for it.
                state.gone = Sequence(sequence.0 - 1);
                state.swept = state.gone;
            }
            let prev = std::mem::replace(&mut state.last, sequence);
            state.newest = sequence;
            state.records += 1;
            state.bytes += bytes;
            if event.end {
                state.end = sequence;
            }
            let id = state.id;
            let place = Place {
                sequence,
                prev,
                bytes,
                time: time.0,
                ttl: event.ttl,
                targets: u32::try_from(targets.len()).unwrap_or(u32::MAX),
                keyed: event.key.is_some(),
            };
            self.store.insert_place(id, &place)?;
            if let Some(key) = &event.key {
                self.store.insert_keyed(id, key, sequence)?;
            }
        }
        for channel in targets {
            if event.key.is_some() {
                self.drop_old_states(channel, event, position, time)?;
            }
            let enforced = self.enforce_caps(channel, time, &mut { PUSHED_OUT });
            self.tolerate(enforced)?;
        }
        let enforced = self.enforce_total(time, &mut { PUSHED_OUT });
        self.tolerate(enforced)?;
        Ok(position)
    }

    /// Removes from a channel that keeps only states what the newest one takes the place of.
    fn drop_old_states(
        &mut self,
        channel: &Channel,
        new: &Event,
        position: Position,
        time: Timestamp,
    ) -> Result<()> {
        let Some(state) = self.state(channel).filter(|state| state.caps.state_only) else { return Ok(()) };
        let Some(key) = new.key.as_ref().filter(|_| new.exclude.is_empty()) else { return Ok(()) };
        let before = Sequence(position.sequence.0 - 1);
        let found = match self.store.keyed(state.id, key, state.gone, before, LOOKED_BACK) {
            Ok(found) => found,
            Err(error) => return self.tolerate(Err(error)),
        };
        for sequence in found {
            let dropped = self.event_at(sequence).and_then(|old| {
                if !takes_the_place((new, time), (&old.event, old.time)) {
                    return Ok(());
                }
                self.take_out(channel, &old)?;
                if !self.held_by_any(&old.event, sequence)? {
                    self.remove(&old)?;
                }
                Ok(())
            });
            self.tolerate(dropped)?;
        }
        Ok(())
    }

    /// Takes a record out of the middle of a channel that has it.
    fn take_out(&mut self, channel: &Channel, record: &Record) -> Result<()> {
        let sequence = record.position.sequence;
        let Some(&ChannelState { id, last, .. }) = self.state(channel) else { return Ok(()) };
        let lost = || StoreError::damaged(sequence, "its place in a channel is lost");
        let place = self.store.place(id, sequence)?.ok_or_else(lost)?;
        // The next one is often the newest, a new state: then nobody has to look for it in all that lies between.
        let next = match self.store.place(id, last)? {
            _ if last == sequence => None,
            Some(newest) if newest.prev == sequence => Some(newest),
            _ => Some(self.store.places_after(id, sequence, last, 1)?.pop().ok_or_else(lost)?),
        };
        self.store.delete_place(id, sequence)?;
        if let Some(key) = &record.event.key {
            self.store.delete_keyed(id, key, sequence)?;
        }
        let state = self.change(channel);
        state.records -= 1;
        state.bytes -= place.bytes;
        if state.end == sequence {
            state.end = Sequence::START;
        }
        match next {
            Some(next) => self.store.insert_place(id, &Place { prev: place.prev, ..next })?,
            None => state.last = place.prev,
        }
        Ok(())
    }

    /// Removes a record that no channel has any more.
    fn remove(&mut self, record: &Record) -> Result<()> {
        self.changes.totals.records -= 1;
        self.changes.totals.bytes -= record.event.data.as_str().len() as u64;
        self.forget_key(record)?;
        self.store.remove_records(record.position.sequence, record.position.sequence)
    }

    /// Removes what says where a record with a key is: once the record is gone, nobody knows its key.
    fn forget_key(&self, record: &Record) -> Result<()> {
        let Some(key) = &record.event.key else { return Ok(()) };
        for state in record.event.to.channels().iter().filter_map(|channel| self.state(channel)) {
            self.store.delete_keyed(state.id, key, record.position.sequence)?;
        }
        Ok(())
    }

    /// A damaged old record is no reason to store no new one: it stays, and what is wrong is said.
    fn tolerate(&mut self, result: Result<()>) -> Result<()> {
        match result {
            Err(StoreError::Damaged { at, what }) => {
                self.changes.damage = Some(format!("the record {} can't be removed: {what}", at.0));
                Ok(())
            }
            other => other,
        }
    }

    /// Removes what is over the caps of a channel, as long as there is a budget.
    pub(crate) fn enforce_caps(
        &mut self,
        channel: &Channel,
        now: Timestamp,
        budget: &mut usize,
    ) -> Result<()> {
        while *budget > 0 && self.state(channel).is_some_and(ChannelState::over) {
            *budget -= 1;
            let Some(place) = self.oldest_places_of(channel, 1)?.pop() else { break };
            self.drop_place(channel, &place, now)?;
        }
        Ok(())
    }

    /// Removes what is over the caps over all channels, as long as there is a budget.
    pub(crate) fn enforce_total(&mut self, now: Timestamp, budget: &mut usize) -> Result<()> {
        let Caps { count, bytes, .. } = self.retention.total;
        let over = |totals: Totals| {
            count.is_some_and(|cap| totals.records > cap) || bytes.is_some_and(|cap| totals.bytes > cap)
        };
        while *budget > 0 && over(self.changes.totals) && self.drop_oldest(|_| true, now)? {
            *budget -= 1;
        }
        Ok(())
    }

    /// Removes what is too old in a channel, as long as there is a budget. Says when the oldest record that is left
    /// was published, if one is: at the earliest.
    pub(crate) fn enforce_age(
        &mut self,
        channel: &Channel,
        now: Timestamp,
        budget: &mut usize,
    ) -> Result<Option<Timestamp>> {
        let Some(age) = self.state(channel).and_then(|state| state.caps.age) else { return Ok(None) };
        while *budget > 0 {
            let places = self.oldest_places_of(channel, (*budget).min(256))?;
            if places.is_empty() {
                return Ok(None);
            }
            for place in &places {
                if Timestamp(place.time).plus(age) > now {
                    return Ok(Some(Timestamp(place.time)));
                }
                *budget -= 1;
                self.drop_place(channel, place, now)?;
            }
        }
        Ok(Some(Timestamp::default()))
    }

    /// Removes what is too old over all channels, as long as there is a budget.
    pub(crate) fn enforce_total_age(&mut self, now: Timestamp, budget: &mut usize) -> Result<()> {
        let Some(age) = self.retention.total.age else { return Ok(()) };
        while *budget > 0 && self.drop_oldest(|record| record.time.plus(age) <= now, now)? {
            *budget -= 1;
        }
        Ok(())
    }

    /// The oldest records of a channel: at least one if it has any.
    fn oldest_places_of(&self, channel: &Channel, limit: usize) -> Result<Vec<Place>> {
        let Some(state) = self.state(channel).filter(|state| state.records > 0) else {
            return Ok(Vec::new());
        };
        let places = self.store.places_after(state.id, state.gone, state.last, limit)?;
        match places.first() {
            Some(first) if first.prev <= state.gone => Ok(places),
            _ => Err(StoreError::damaged(state.gone.next(), "its place in a channel is lost")),
        }
    }

    /// Removes the oldest record of a channel from it.
    fn drop_place(&mut self, channel: &Channel, place: &Place, now: Timestamp) -> Result<()> {
        let state = self.change(channel);
        state.gone = place.sequence;
        state.records -= 1;
        state.bytes -= place.bytes;
        if !place.expired(now) {
            state.floor = place.sequence;
        }
        self.let_go(place)
    }

    /// Counts a record that a channel lost as removed, if no other has it.
    fn let_go(&mut self, place: &Place) -> Result<()> {
        if place.targets > 1 {
            match self.event_at(place.sequence) {
                Ok(record) if self.held_by_any(&record.event, place.sequence)? => return Ok(()),
                Ok(_) => {}
                // Nobody can read it: it counts as removed with the first channel that loses it.
                Err(StoreError::Damaged { at, what }) => {
                    self.changes.damage = Some(format!("the record {} is damaged: {what}", at.0));
                }
                Err(error) => return Err(error),
            }
        }
        let totals = &mut self.changes.totals;
        totals.records = totals.records.saturating_sub(1);
        totals.bytes = totals.bytes.saturating_sub(place.bytes);
        Ok(())
    }

    fn event_at(&self, sequence: Sequence) -> Result<Record> {
        match self.store.record(sequence)? {
            Some(Row::Event(record)) => Ok(record),
            _ => Err(StoreError::damaged(sequence, "a channel has it, but it is lost")),
        }
    }

    /// Removes the oldest record of all from all its channels, if `which` says so.
    fn drop_oldest(&mut self, which: impl FnOnce(&Record) -> bool, now: Timestamp) -> Result<bool> {
        let Some(record) = self.oldest()? else { return Ok(false) };
        if !which(&record) {
            return Ok(false);
        }
        let sequence = record.position.sequence;
        let bytes = record.event.data.as_str().len() as u64;
        let lost = !record.expired(now);
        for channel in record.event.to.channels() {
            if !self.has(channel, &record.event, sequence)? {
                continue;
            }
            let state = self.change(channel);
            state.gone = sequence;
            // While a record is added, a cap over all can reach it only after all its channels have it.
            state.records -= 1;
            state.bytes -= bytes;
            if lost {
                state.floor = sequence;
            }
        }
        self.changes.totals.records -= 1;
        self.changes.totals.bytes -= bytes;
        self.changes.dropped = sequence;
        Ok(true)
    }

    /// The oldest record that a channel has.
    fn oldest(&mut self) -> Result<Option<Record>> {
        while let Some((at, row)) = self.store.row_after(self.changes.dropped)? {
            match row {
                Row::Run(last) => self.changes.dropped = last,
                Row::Event(record) if self.held_by_any(&record.event, at)? => return Ok(Some(record)),
                Row::Event(_) => self.changes.dropped = at,
            }
        }
        Ok(None)
    }

    /// Removes all records of a channel. `None` if it has none; else how many there were and the newest of them.
    pub(crate) fn purge(&mut self, channel: &Channel) -> Result<Option<(u64, Sequence)>> {
        let Some(state) = self.state(channel) else { return Ok(None) };
        if state.records == 0 {
            return Ok(None);
        }
        let (id, mut from, last, records) = (state.id, state.gone, state.last, state.records);
        let state = self.change(channel);
        state.gone = last;
        state.floor = last;
        state.records = 0;
        state.bytes = 0;
        // Only what is kept elsewhere has to be looked at one by one.
        loop {
            let places = self.store.places_after(id, from, last, 4_096)?;
            let Some(newest) = places.last() else { break };
            from = newest.sequence;
            for place in &places {
                self.let_go(place)?;
            }
        }
        Ok(Some((records, last)))
    }

    /// Removes one record from all its channels. Nothing is raised: nobody is to be told that it is missing.
    pub(crate) fn delete(&mut self, position: Position) -> Result<bool> {
        let sequence = position.sequence;
        let Some(Row::Event(record)) = self.store.record(sequence)? else { return Ok(false) };
        if record.position != position || !self.held_by_any(&record.event, sequence)? {
            return Ok(false);
        }
        for channel in record.event.to.channels() {
            if self.has(channel, &record.event, sequence)? {
                self.take_out(channel, &record)?;
            }
        }
        self.remove(&record)?;
        Ok(true)
    }

    /// Removes up to `limit` rows of what some channels lost. Says how many it looked at.
    pub(crate) fn sweep(&mut self, wasteful: &[Channel], limit: usize) -> Result<usize> {
        let mut looked = 0;
        let mut unheld = BTreeSet::new();
        for channel in wasteful {
            let Some(state) = self.state(channel) else { continue };
            let (id, swept, gone) = (state.id, state.swept, state.gone);
            if looked >= limit {
                break;
            }
            let places = self.store.places_after(id, swept, gone.min(state.last), limit - looked)?;
            let complete = places.len() < limit - looked;
            looked += places.len();
            for place in &places {
                if self.sweep_place(id, place)? {
                    unheld.insert(place.sequence);
                }
            }
            self.store.delete_oldest_places(id, &places)?;
            let newest = places.last().map_or(gone, |place| place.sequence);
            self.change(channel).swept = if complete { gone } else { newest };
        }
        let mut unheld = unheld.into_iter();
        if let Some(first) = unheld.next() {
            let mut run = (first, first);
            for sequence in unheld {
                if sequence == run.1.next() {
                    run.1 = sequence;
                } else {
                    self.remove_unheld(run)?;
                    run = (sequence, sequence);
                }
            }
            self.remove_unheld(run)?;
        }
        Ok(looked)
    }

    /// Looks at what is left of a record in one of the channels that lost it. Says whether its row is to go, too.
    fn sweep_place(&self, channel: i64, place: &Place) -> Result<bool> {
        if place.targets == 1 && !place.keyed {
            return Ok(true);
        }
        match self.store.record(place.sequence) {
            Ok(Some(Row::Event(record))) => {
                let held = match self.held_by_any(&record.event, place.sequence) {
                    // Whether it is can't be known: it stays.
                    Err(StoreError::Damaged { .. }) => true,
                    held => held?,
                };
                match &record.event.key {
                    Some(key) if held => self.store.delete_keyed(channel, key, place.sequence)?,
                    _ => self.forget_key(&record)?,
                }
                Ok(!held)
            }
            // A run: another channel's sweep was there first.
            Ok(Some(Row::Run(_)) | None) => Ok(false),
            Err(StoreError::Damaged { .. }) => {
                if place.keyed {
                    self.store.delete_keyed_by_sequence(channel, place.sequence)?;
                }
                // With other targets it stays for whoever looks for it, and is said to be damaged there.
                Ok(place.targets == 1)
            }
            Err(error) => Err(error),
        }
    }

    fn remove_unheld(&self, (first, last): (Sequence, Sequence)) -> Result<()> {
        self.store.remove_records(first, last)
    }

    /// Forgets a channel that has no record and no rows.
    pub(crate) fn forget(&mut self, channel: &Channel) -> Result<()> {
        let Some(state) = self.state(channel) else { return Ok(()) };
        if state.records > 0 || state.has_waste() {
            return Ok(());
        }
        let (id, floor) = (state.id, state.floor);
        self.store.delete_channel(id)?;
        self.changes.channels.remove(channel);
        let totals = &mut self.changes.totals;
        totals.forgotten = totals.forgotten.max(floor);
        totals.channels -= 1;
        self.changes.forgotten.push(channel.clone());
        Ok(())
    }

    /// What was stored under an idempotency key, be it earlier in this transaction.
    pub(crate) fn remembered(&self, once: &Once, now: Timestamp) -> Result<Option<Remembered>> {
        self.store.remembered(once, now)
    }

    /// Remembers what a batch was given.
    pub(crate) fn remember(&mut self, once: &Once, positions: &[Position]) -> Result<()> {
        self.changes.beside = true;
        self.store.remember(once, positions)
    }

    /// Forgets up to `limit` idempotency keys whose time is over. Says how many they were.
    pub(crate) fn forget_keys(&mut self, now: Timestamp, limit: usize) -> Result<usize> {
        let forgotten = self.store.forget_keys(now, limit)?;
        self.changes.beside |= forgotten > 0;
        Ok(forgotten)
    }

    /// Whether this is noted, be it since earlier in this transaction.
    pub(crate) fn is_noted(&self, name: &str, expected: &Expected) -> Result<bool> {
        Ok(self.store.note(name)? == expected.0)
    }

    /// Notes something, or takes it back.
    pub(crate) fn set_note(&mut self, name: &str, value: Option<&[u8]>) -> Result<()> {
        self.changes.beside |= self.store.set_note(name, value)?;
        Ok(())
    }

    /// Writes what changed of channels and totals.
    pub(crate) fn finish(self) -> Result<Changes> {
        for (channel, state) in &self.changes.channels {
            self.store.set_channel(channel, state)?;
        }
        if self.changes.totals != self.catalog.totals {
            self.store.set_totals(self.changes.totals)?;
        }
        Ok(self.changes)
    }
}
