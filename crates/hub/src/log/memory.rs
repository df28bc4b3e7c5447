//! The log that lives as long as its process.

mod beside;
mod channels;
mod list;
mod shelf;

use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tidings_wire::{Channel, Epoch, Key, Position, Sequence};

use self::beside::{Answers, Notes};
use self::shelf::Shelf;
use super::{
    AppendError, Appending, Asked, ChannelInfo, Durability, Feed, FeedTail, Holder, LEASE_NOTE, Lease,
    Leases, Leasing, Located, Log, LogStats, NewRecord, Noting, Order, Page, ReadError, ReadLimit, Record,
    Removal, Removing, Retention, Selection, Sink, Tail, TailItem, Terms, check_note,
};
use crate::{Timestamp, View};

/// What a [`MemoryLog`] needs to know.
#[derive(Debug, Clone)]
pub struct MemoryLogConfig {
    /// The epoch of every record. It has to be larger than that of any process before, so that an old cursor is
    /// known for one: the time of the start in seconds will do.
    pub epoch: Epoch,
    /// What is kept. Without caps the log grows until memory is used up.
    pub retention: Retention,
}

/// A log in memory: one mutex around all of it, held for microseconds by an append and for at most a few
/// milliseconds by a read, which looks at a bounded number of records.
#[derive(Debug)]
pub struct MemoryLog {
    epoch: Epoch,
    state: Mutex<State>,
    feed: Feed,
}

#[derive(Debug)]
struct State {
    shelf: Shelf,
    answers: Answers,
    notes: Notes,
    leases: Leases,
    closed: bool,
    commits: u64,
}

impl MemoryLog {
    /// An empty log.
    pub fn new(config: MemoryLogConfig) -> MemoryLog {
        let state = State {
            shelf: Shelf::new(config.retention),
            answers: Answers::default(),
            notes: Notes::default(),
            leases: Leases::default(),
            closed: false,
            commits: 0,
        };
        MemoryLog { epoch: config.epoch, state: Mutex::new(state), feed: Feed::default() }
    }

    /// A panic inside would be a bug of this module; what is stored stays readable all the same.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at(&self, sequence: Sequence) -> Position {
        Position { epoch: self.epoch, sequence }
    }

    /// Under the lock, so that every tail has the log's order.
    fn announce(&self, state: MutexGuard<'_, State>, items: &[TailItem]) {
        self.feed.announce(items);
        drop(state);
        self.feed.flush();
    }

    fn append_now(&self, batch: Vec<NewRecord>, terms: Terms) -> Result<Vec<Position>, AppendError> {
        let Terms { once, lease, note } = terms;
        if let Some(note) = &note {
            check_note(&note.name, note.value.as_deref())?;
        }
        let mut state = self.lock();
        if state.closed {
            return Err(closed());
        }
        let first = batch.first().map(|record| record.time);
        let once = once.zip(first);
        if let Some((once, now)) = &once
            && let Some(answer) = state.answers.find(once, *now)
        {
            return answer;
        }
        if let Some(lease) = &lease
            && !state.leases.lasts(lease, Instant::now())
        {
            return Err(AppendError::LeaseLost);
        }
        // Asked after that: the answer to a batch that was stored stays the same when its channel has ended since.
        if let Some(channel) = state.shelf.ended_by_now(&batch) {
            return Err(AppendError::Ended(channel));
        }
        let mut positions = Vec::with_capacity(batch.len());
        let mut items = Vec::with_capacity(batch.len());
        for NewRecord { time, event } in batch {
            let position;
            if event.store {
                position = self.at(state.shelf.push(time, event.clone()));
                items.push(TailItem::Stored(Record { position, time, event }));
            } else {
                position = self.at(state.shelf.head());
                items.push(TailItem::Ephemeral(Record { position, time, event }));
            }
            positions.push(position);
        }
        if let Some((once, _)) = &once {
            state.answers.keep(once, positions.clone());
        }
        if let Some(note) = note {
            state.notes.set(note.name, note.value);
        }
        state.commits += 1;
        self.announce(state, &items);
        Ok(positions)
    }

    fn lease_now(&self, name: &str, holder: Holder, for_: Duration) -> Result<Option<Lease>, AppendError> {
        check_note(&format!("{LEASE_NOTE}{name}"), None)?;
        let mut state = self.lock();
        if state.closed {
            return Err(closed());
        }
        let now = Instant::now();
        match state.leases.ask(name, holder, for_, now) {
            Asked::Answer(answer) => Ok(answer),
            Asked::Free { last } => {
                let lease = Lease { name: name.to_owned(), holder, number: last + 1 };
                state.leases.begin(lease.clone(), for_, now);
                Ok(Some(lease))
            }
        }
    }

    fn set_note_now(&self, name: String, value: Option<Vec<u8>>) -> Result<(), AppendError> {
        check_note(&name, value.as_deref())?;
        let mut state = self.lock();
        if state.closed {
            return Err(closed());
        }
        state.notes.set(name, value);
        Ok(())
    }

    fn purge_now(&self, channel: Channel) -> Result<u64, AppendError> {
        let mut state = self.lock();
        if state.closed {
            return Err(closed());
        }
        let Some((records, through)) = state.shelf.purge(&channel) else { return Ok(0) };
        self.announce(state, &[TailItem::Removed(Removal::Channel { channel, through })]);
        Ok(records)
    }

    fn delete_now(&self, position: Position) -> Result<u64, AppendError> {
        let mut state = self.lock();
        if state.closed {
            return Err(closed());
        }
        if position.epoch != self.epoch || !state.shelf.delete(position.sequence) {
            return Ok(0);
        }
        self.announce(state, &[TailItem::Removed(Removal::Record(position.sequence))]);
        Ok(1)
    }
}

fn closed() -> AppendError {
    AppendError::NotStored("the log is closed".to_owned())
}

impl Log for MemoryLog {
    fn append_with(&self, batch: Vec<NewRecord>, terms: Terms) -> Appending {
        Box::pin(ready(self.append_now(batch, terms)))
    }

    fn lease(&self, name: &str, holder: Holder, for_: Duration) -> Leasing {
        Box::pin(ready(self.lease_now(name, holder, for_)))
    }

    fn note(&self, name: &str) -> Result<Option<Vec<u8>>, ReadError> {
        Ok(self.lock().notes.get(name))
    }

    fn notes(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Vec<u8>)>, ReadError> {
        Ok(self.lock().notes.list(prefix, after, limit))
    }

    fn set_note(&self, name: String, value: Option<Vec<u8>>) -> Noting {
        Box::pin(ready(self.set_note_now(name, value)))
    }

    fn ended(&self, channel: &Channel) -> Option<Sequence> {
        self.lock().shelf.channels.ended(channel)
    }

    fn keyed(
        &self,
        channel: &Channel,
        key: &Key,
        after: Sequence,
        limit: usize,
    ) -> Result<Vec<Record>, ReadError> {
        Ok(self.lock().shelf.keyed(self.epoch, channel, key, after, limit))
    }

    fn tail(&self, after: Sequence) -> Result<Box<dyn Tail>, ReadError> {
        let state = self.lock();
        let past = state
            .shelf
            .whole_since(after)
            .map(|(sequence, time, event)| {
                TailItem::Stored(Record { position: self.at(sequence), time, event: event.clone() })
            })
            .collect();
        Ok(Box::new(MemoryTail { past, feed: self.feed.tail() }))
    }

    fn read(
        &self,
        selections: &[Selection],
        order: Order,
        limit: ReadLimit,
        now: Timestamp,
    ) -> Result<Page, ReadError> {
        Ok(self.lock().shelf.read(self.epoch, selections, order, limit, now))
    }

    fn newest(&self, views: &[View], count: usize, through: Sequence) -> Result<Vec<Selection>, ReadError> {
        Ok(self.lock().shelf.newest(views, count, through))
    }

    fn floor(&self, views: &[View]) -> Sequence {
        let state = self.lock();
        views.iter().map(|view| state.shelf.channels.floor(view)).max().unwrap_or_default()
    }

    fn locate(&self, position: Position) -> Located {
        if position.epoch != self.epoch {
            return Located::Unknown;
        }
        if position.sequence <= self.lock().shelf.head() {
            Located::Here(position.sequence)
        } else {
            Located::Ahead
        }
    }

    fn head(&self) -> Position {
        self.at(self.lock().shelf.head())
    }

    fn purge(&self, channel: Channel) -> Removing {
        Box::pin(ready(self.purge_now(channel)))
    }

    fn delete(&self, position: Position) -> Removing {
        Box::pin(ready(self.delete_now(position)))
    }

    fn retain(&self, now: Timestamp) {
        let mut state = self.lock();
        state.shelf.retain(now);
        state.answers.retain(now);
    }

    fn channels(
        &self,
        prefix: &str,
        after: Option<&Channel>,
        limit: usize,
    ) -> Result<Vec<ChannelInfo>, ReadError> {
        Ok(self.lock().shelf.channels.list(prefix, after, limit))
    }

    fn stats(&self) -> LogStats {
        let state = self.lock();
        LogStats {
            records: state.shelf.records(),
            bytes: state.shelf.bytes(),
            channels: state.shelf.channels.kept(),
            commits: state.commits,
            syncs: 0,
            trouble: None,
        }
    }

    fn durability(&self) -> Durability {
        Durability::Memory
    }

    fn close(&self) {
        self.lock().closed = true;
        self.feed.close();
    }
}

struct MemoryTail {
    /// Copied when the tail was made; only references to the events.
    past: Vec<TailItem>,
    feed: FeedTail,
}

impl Tail for MemoryTail {
    fn next(&mut self, timeout: Duration) -> Result<Option<Vec<TailItem>>, ReadError> {
        if !self.past.is_empty() {
            return Ok(Some(std::mem::take(&mut self.past)));
        }
        Ok(self.feed.next(timeout))
    }

    fn push_to(&mut self, sink: Arc<dyn Sink>) -> bool {
        if self.past.is_empty() {
            self.feed.push_to(sink);
        }
        self.past.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::log::suite::Logs;

    struct InMemory;

    impl Logs for InMemory {
        fn create(&mut self, retention: Retention) -> Arc<dyn Log> {
            Arc::new(MemoryLog::new(MemoryLogConfig { epoch: Epoch(7), retention }))
        }

        fn reopen(&mut self, log: Arc<dyn Log>) -> Arc<dyn Log> {
            log
        }
    }

    crate::log_suite!(InMemory);

    #[test]
    fn what_forgotten_channels_lost_counts_for_unknown_ones_and_patterns() {
        let caps = crate::log::Caps { count: Some(0), ..Default::default() };
        let retention = Retention { default: caps, ..Retention::default() };
        let log = MemoryLog::new(MemoryLogConfig { epoch: Epoch(1), retention });
        let channel = |n: u64| format!("user/{n}").parse::<Channel>().unwrap();
        for n in 1..=65_536 + 10 {
            let event = Arc::new(tidings_wire::Event::new(channel(n).into(), "x".into()));
            log.append_now(vec![NewRecord { time: Timestamp(n), event }], Terms::default()).unwrap();
        }
        let floor = |channel: Channel| log.floor(&[channel.into()]);
        assert_eq!(floor(channel(5)), Sequence(10), "forgotten");
        assert_eq!(floor(channel(11)), Sequence(11), "remembered");
        assert_eq!(floor("never".parse().unwrap()), Sequence(10), "may be a forgotten one");
        let pattern: tidings_wire::Pattern = "other/**".parse().unwrap();
        assert_eq!(log.floor(&[pattern.into()]), Sequence(10));
    }
}
