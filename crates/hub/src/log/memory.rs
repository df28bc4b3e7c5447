//! The log that lives as long as its process.

use std::future::ready;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tidings_wire::{Channel, Epoch, Key, Position, Sequence};

use super::{
    AppendError, Appending, ChannelInfo, Durability, Feed, Holder, LEASE_NOTE, Lease, Leasing, Located, Log,
    LogStats, NewRecord, Noting, NotingIf, Order, Page, ReadError, ReadLimit, Record, Removing, Replica,
    Retention, Selection, Tail, TailItem, Terms, check_note,
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
    /// Leases are counted from here on.
    started: Instant,
    state: Mutex<State>,
    feed: Feed,
}

#[derive(Debug)]
struct State {
    replica: Replica,
    closed: bool,
    commits: u64,
}

impl MemoryLog {
    /// An empty log.
    pub fn new(config: MemoryLogConfig) -> MemoryLog {
        let replica = Replica::new(config.epoch, config.retention);
        let state = State { replica, closed: false, commits: 0 };
        MemoryLog { started: Instant::now(), state: Mutex::new(state), feed: Feed::default() }
    }

    /// A panic inside would be a bug of this module; what is stored stays readable all the same.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Under the lock, so that every tail has the log's order.
    fn announce(&self, state: MutexGuard<'_, State>, items: &[TailItem]) {
        self.feed.announce(items);
        drop(state);
        self.feed.flush();
    }

    fn append_now(&self, batch: Vec<NewRecord>, terms: Terms) -> Result<Vec<Position>, AppendError> {
        if let Some(note) = &terms.note {
            check_note(&note.name, note.value.as_deref())?;
        }
        let mut state = self.lock();
        if state.closed {
            return Err(closed());
        }
        let mut items = Vec::with_capacity(batch.len());
        let positions = state.replica.append(batch, terms, self.started.elapsed(), &mut items)?;
        if items.is_empty() {
            return Ok(positions);
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
        Ok(state.replica.lease(name.to_owned(), holder, for_, self.started.elapsed()))
    }

    /// Loses all behind a record and goes on in a new epoch, for tests of what reads a log. `more` is stored before
    /// anybody is told.
    #[cfg(any(test, feature = "suite"))]
    pub fn lose_behind(&self, at: Sequence, epoch: Epoch, more: Vec<NewRecord>) {
        let mut state = self.lock();
        state.replica.lose_behind(at, epoch);
        let stored = state.replica.append(more, Terms::default(), self.started.elapsed(), &mut Vec::new());
        stored.expect("nothing refuses it");
        let through = state.replica.head().sequence;
        self.announce(state, &[TailItem::Forked { epoch, at, through }]);
    }

    fn set_note_now(&self, name: String, value: Option<Vec<u8>>) -> Result<(), AppendError> {
        check_note(&name, value.as_deref())?;
        let mut state = self.lock();
        if state.closed {
            return Err(closed());
        }
        state.replica.set_note(name, value);
        Ok(())
    }

    fn set_note_if_now(
        &self,
        name: String,
        expected: Option<&[u8]>,
        value: Option<Vec<u8>>,
    ) -> Result<bool, AppendError> {
        check_note(&name, value.as_deref())?;
        let mut state = self.lock();
        if state.closed {
            return Err(closed());
        }
        Ok(state.replica.set_note_if(name, expected, value))
    }

    fn purge_now(&self, channel: Channel) -> Result<u64, AppendError> {
        let mut state = self.lock();
        if state.closed {
            return Err(closed());
        }
        let mut items = Vec::new();
        let removed = state.replica.purge(channel, &mut items);
        self.announce(state, &items);
        Ok(removed)
    }

    fn delete_now(&self, position: Position) -> Result<u64, AppendError> {
        let mut state = self.lock();
        if state.closed {
            return Err(closed());
        }
        let mut items = Vec::new();
        let removed = state.replica.delete(position, &mut items);
        self.announce(state, &items);
        Ok(removed)
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
        Ok(self.lock().replica.note(name))
    }

    fn notes(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Vec<u8>)>, ReadError> {
        Ok(self.lock().replica.notes(prefix, after, limit))
    }

    fn set_note(&self, name: String, value: Option<Vec<u8>>) -> Noting {
        Box::pin(ready(self.set_note_now(name, value)))
    }

    fn set_note_if(&self, name: String, expected: Option<Vec<u8>>, value: Option<Vec<u8>>) -> NotingIf {
        Box::pin(ready(self.set_note_if_now(name, expected.as_deref(), value)))
    }

    fn ended(&self, channel: &Channel) -> Option<Sequence> {
        self.lock().replica.ended(channel)
    }

    fn keyed(
        &self,
        channel: &Channel,
        key: &Key,
        after: Sequence,
        limit: usize,
    ) -> Result<Vec<Record>, ReadError> {
        Ok(self.lock().replica.keyed(channel, key, after, limit))
    }

    fn tail(&self, after: Sequence) -> Result<Box<dyn Tail>, ReadError> {
        let state = self.lock();
        let past = state.replica.past(after);
        Ok(Box::new(self.feed.tail().behind(past)))
    }

    fn read(
        &self,
        selections: &[Selection],
        order: Order,
        limit: ReadLimit,
        now: Timestamp,
    ) -> Result<Page, ReadError> {
        Ok(self.lock().replica.read(selections, order, limit, now))
    }

    fn newest(&self, views: &[View], count: usize, through: Sequence) -> Result<Vec<Selection>, ReadError> {
        Ok(self.lock().replica.newest(views, count, through))
    }

    fn floor(&self, views: &[View]) -> Sequence {
        self.lock().replica.floor(views)
    }

    fn locate(&self, position: Position) -> Located {
        self.lock().replica.locate(position)
    }

    fn head(&self) -> Position {
        self.lock().replica.head()
    }

    fn purge(&self, channel: Channel) -> Removing {
        Box::pin(ready(self.purge_now(channel)))
    }

    fn delete(&self, position: Position) -> Removing {
        Box::pin(ready(self.delete_now(position)))
    }

    fn retain(&self, now: Timestamp) {
        self.lock().replica.retain(now);
    }

    fn channels(
        &self,
        prefix: &str,
        after: Option<&Channel>,
        limit: usize,
    ) -> Result<Vec<ChannelInfo>, ReadError> {
        Ok(self.lock().replica.channels(prefix, after, limit))
    }

    fn stats(&self) -> LogStats {
        let state = self.lock();
        LogStats { commits: state.commits, ..state.replica.stats() }
    }

    fn durability(&self) -> Durability {
        Durability::Memory
    }

    fn close(&self) {
        self.lock().closed = true;
        self.feed.close();
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
