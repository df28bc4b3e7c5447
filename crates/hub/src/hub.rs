//! The hub: what is published goes into the log, and everybody reads what comes out of it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tidings_wire::{Cursor, CursorKey, EncodedEvent, Event, Position, Sequence};

use crate::catch_up::CatchUp;
use crate::durable::Durables;
use crate::log::{
    AppendError, Appending, Log, NewRecord, ReadError, Record, Removal, Sink, Tail, TailItem, Terms,
};
use crate::resume::{Ended, ReplayCaps, Resume, Start, ended};
use crate::shard::Shard;
use crate::subscription::{Subscribe, Subscription};
use crate::window::{Entry, Waker, Window, Writer};
use crate::{Lens, Timestamp, View};

/// How a hub is to work.
#[derive(Debug, Clone)]
pub struct HubConfig {
    /// The key of its cursors. Kept over restarts, or every client's cursor becomes unknown.
    pub cursor_key: CursorKey,
    /// How many bytes the window may have: what everybody who lags a little is served from. 64 MiB.
    pub window_bytes: usize,
    /// How many events the window may have. 65,536.
    pub window_records: usize,
    /// How much one replay may be. No limit.
    pub replay: ReplayCaps,
    /// How many bytes of data an event may have. 1 MiB.
    pub data_limit: usize,
    /// How many threads read the log for those who are behind the window. 2.
    pub catch_up_threads: usize,
}

impl HubConfig {
    /// The defaults, with a key.
    pub fn new(cursor_key: CursorKey) -> HubConfig {
        HubConfig {
            cursor_key,
            window_bytes: 64 << 20,
            window_records: 1 << 16,
            replay: ReplayCaps::default(),
            data_limit: 1 << 20,
            catch_up_threads: 2,
        }
    }
}

/// What a publisher learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// The event's cursor; of an ephemeral event, that of the record before it.
    pub id: Cursor,
    /// The same, for programs inside.
    pub position: Position,
}

/// Why an event was not published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Its data is too long.
    #[error("the data of an event may have {max} bytes, this one's has {len}")]
    TooLarge {
        /// How many bytes it has.
        len: usize,
        /// How many it may have.
        max: usize,
    },
    /// The hub was closed.
    #[error("the hub is closed")]
    Closed,
    /// The log did not store it.
    #[error(transparent)]
    Log(#[from] AppendError),
}

/// What a hub has done.
#[derive(Debug, Default)]
pub struct HubStats {
    /// Events that were accepted.
    pub published: AtomicU64,
    /// Events that were refused by the log.
    pub failed: AtomicU64,
}

/// The hub. Clones are the same hub.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
}

struct Inner {
    log: Arc<dyn Log>,
    config: HubConfig,
    window: Arc<Window>,
    catch_up: CatchUp,
    durables: Arc<Durables>,
    stats: HubStats,
    closed: AtomicBool,
    stop: Arc<Stop>,
    running: Mutex<Option<Running>>,
}

/// What goes on until the hub is closed.
struct Running {
    following: Following,
    retaining: JoinHandle<()>,
}

/// How the hub follows its log.
enum Following {
    /// The log calls, as long as there is this tail.
    Pushed(Box<dyn Tail>),
    /// A thread asks.
    Pulled(JoinHandle<()>),
}

/// Ends the threads that wait for time to pass.
#[derive(Debug, Default)]
struct Stop {
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    fn stop(&self) {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Waits; true when it is time to end.
    fn wait(&self, timeout: Duration) -> bool {
        let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        let (stopped, _) = self
            .changed
            .wait_timeout_while(stopped, timeout, |stopped| !*stopped)
            .unwrap_or_else(PoisonError::into_inner);
        *stopped
    }
}

/// How much of the log's end is put into the window at start, in records: most of those who reconnect after a restart
/// come back for less.
const WARM_RECORDS: u64 = 4096;
/// How often retention is looked after.
const RETAIN_EVERY: Duration = Duration::from_secs(1);

impl Hub {
    /// A hub on a log: reads the newest records into the window and follows the log from there.
    ///
    /// # Errors
    /// When the log can't be read.
    pub fn start(log: Arc<dyn Log>, config: HubConfig) -> Result<Hub, ReadError> {
        let stats = log.stats();
        let average = (stats.bytes / stats.records.max(1)).max(256);
        let warm = WARM_RECORDS.min(config.window_bytes as u64 / average);
        let (window, writer, mut tail) = open_window(&*log, &config, warm)?;
        let catch_up = CatchUp::start(&log, &config.cursor_key, config.catch_up_threads);
        let stop = Arc::new(Stop::default());
        let follower = Arc::new(Follower {
            window: window.clone(),
            writer: Mutex::new(writer),
            key: config.cursor_key.clone(),
        });
        let following = if tail.push_to(follower.clone()) {
            Following::Pushed(tail)
        } else {
            let stop = stop.clone();
            Following::Pulled(thread::spawn(move || follower.follow(&mut *tail, &stop)))
        };
        let durables = Arc::new(Durables::new(log.clone(), config.cursor_key.clone()));
        let retaining = thread::spawn({
            let (log, stop, durables) = (log.clone(), stop.clone(), durables.clone());
            move || {
                while !stop.wait(RETAIN_EVERY) {
                    let now = Timestamp::now();
                    log.retain(now);
                    durables.sweep(now);
                }
            }
        });
        let inner = Inner {
            log,
            config,
            window,
            catch_up,
            durables,
            stats: HubStats::default(),
            closed: AtomicBool::new(false),
            stop,
            running: Mutex::new(Some(Running { following, retaining })),
        };
        Ok(Hub { inner: Arc::new(inner) })
    }

    /// Stores an event; completes when it is durable. Whoever drops this early still publishes.
    ///
    /// # Errors
    /// When it is too large, or the log doesn't store it.
    pub fn publish(
        &self,
        event: Event,
    ) -> impl Future<Output = Result<Published, PublishError>> + Send + 'static {
        let all = self.publish_batch(vec![event]);
        async move { all.await?.pop().ok_or(PublishError::Closed) }
    }

    /// Stores events next to each other, all or none; completes when they are durable.
    ///
    /// # Errors
    /// When one is too large, or the log doesn't store them.
    pub fn publish_batch(
        &self,
        events: Vec<Event>,
    ) -> impl Future<Output = Result<Vec<Published>, PublishError>> + Send + 'static {
        self.publish_batch_at(events, Timestamp::now())
    }

    /// The same at a given time.
    pub fn publish_batch_at(
        &self,
        events: Vec<Event>,
        now: Timestamp,
    ) -> impl Future<Output = Result<Vec<Published>, PublishError>> + Send + 'static {
        self.publish_with(events, Terms::default(), now)
    }

    /// The same on terms, see [`Log::append_with`].
    ///
    /// # Errors
    /// When one is too large, the terms are not met, or the log doesn't store them.
    pub fn publish_with(
        &self,
        events: Vec<Event>,
        terms: Terms,
        now: Timestamp,
    ) -> impl Future<Output = Result<Vec<Published>, PublishError>> + Send + 'static {
        self.finish(self.append(events, terms, now))
    }

    fn finish(
        &self,
        appending: Result<(u64, Appending), PublishError>,
    ) -> impl Future<Output = Result<Vec<Published>, PublishError>> + Send + 'static {
        let hub = self.clone();
        async move {
            let count = appending.as_ref().map_or(0, |(count, _)| *count);
            let (_, appending) = appending?;
            match appending.await {
                Ok(positions) => {
                    hub.inner.stats.published.fetch_add(count, Ordering::Relaxed);
                    let key = &hub.inner.config.cursor_key;
                    let published = |position| Published { id: key.seal(position), position };
                    Ok(positions.into_iter().map(published).collect())
                }
                Err(error) => {
                    hub.inner.stats.failed.fetch_add(count, Ordering::Relaxed);
                    Err(error.into())
                }
            }
        }
    }

    fn append(
        &self,
        events: Vec<Event>,
        terms: Terms,
        now: Timestamp,
    ) -> Result<(u64, Appending), PublishError> {
        if self.inner.closed.load(Ordering::Acquire) {
            return Err(PublishError::Closed);
        }
        let max = self.inner.config.data_limit;
        if let Some(len) = events.iter().map(|e| e.data.as_str().len()).find(|len| *len > max) {
            return Err(PublishError::TooLarge { len, max });
        }
        let count = events.len() as u64;
        let record = |event| NewRecord { time: now, event: Arc::new(event) };
        let batch = events.into_iter().map(record).collect();
        let appending = self.inner.log.append_with(batch, terms);
        Ok((count, appending))
    }

    /// A subscriber in this process. Reads the log, which may block for a moment.
    ///
    /// # Errors
    /// When the log can't be read.
    pub fn subscribe(&self, subscribe: Subscribe) -> Result<Subscription, ReadError> {
        Subscription::open(self, subscribe)
    }

    /// Blocks until this node knows of the place that an id names, if another node gave it. One that is no id of this hub
    /// is not waited for.
    ///
    /// # Errors
    /// When this node can't read what others have stored.
    pub fn reach(&self, id: &str) -> Result<(), ReadError> {
        self.key().open(id).map_or(Ok(()), |position| self.log().reach(position))
    }

    /// Where a subscriber begins that asks so and is this one. Reads the log, which may block for a moment.
    ///
    /// # Errors
    /// When the log can't be read.
    pub fn resume(
        &self,
        views: &[View],
        start: &Start,
        lens: &Lens,
        now: Timestamp,
    ) -> Result<Resume, ReadError> {
        let config = &self.inner.config;
        Resume::find(&*self.inner.log, &config.cursor_key, config.replay, views, start, lens, now)
    }

    /// Which of these channels have ended.
    pub fn ended(&self, views: &[View]) -> Ended {
        ended(&*self.inner.log, views)
    }

    /// The subscribers of one more worker. `wake` is called, from other threads, when the worker is to call
    /// [`Shard::consume`].
    pub fn shard(&self, wake: Box<dyn Fn() + Send + Sync>) -> Shard {
        let waker = Waker::new(wake);
        let reader = self.inner.window.reader(&waker);
        Shard::new(reader, self.inner.config.cursor_key.clone(), self.inner.catch_up.clone())
    }

    /// The log.
    pub fn log(&self) -> &Arc<dyn Log> {
        &self.inner.log
    }

    /// The durable subscriptions.
    pub fn durables(&self) -> &Durables {
        &self.inner.durables
    }

    /// The key of the cursors.
    pub fn key(&self) -> &CursorKey {
        &self.inner.config.cursor_key
    }

    /// How it was configured.
    pub fn config(&self) -> &HubConfig {
        &self.inner.config
    }

    /// The newest record that has come out of the log.
    pub fn head(&self) -> Position {
        self.inner.window.newest()
    }

    /// What this hub has done.
    pub fn stats(&self) -> &HubStats {
        &self.inner.stats
    }

    /// Refuses what is published from now on, stores what was, and ends the hub's threads. Blocks until that is done.
    pub fn close(&self) {
        self.inner.closed.store(true, Ordering::Release);
        self.inner.log.close();
        self.inner.stop.stop();
        let running = self.inner.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Running { following, retaining }) = running else { return };
        // A thread that panicked has said so.
        let _ = retaining.join();
        match following {
            Following::Pushed(tail) => drop(tail),
            Following::Pulled(thread) => drop(thread.join()),
        }
    }
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("head", &self.head()).finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.log.close();
        self.stop.stop();
    }
}

/// A window, its writer, and the tail that is to be written into it.
type OpenWindow = (Arc<Window>, Writer, Box<dyn Tail>);

/// A window with the log's newest records, and the tail that goes on from there.
pub(crate) fn open_window(log: &dyn Log, config: &HubConfig, warm: u64) -> Result<OpenWindow, ReadError> {
    let (head, mut tail) = loop {
        let head = log.head();
        let tail = log.tail(Sequence(head.sequence.0.saturating_sub(warm)))?;
        // A fork in between would be said by no tail.
        if log.head().epoch == head.epoch {
            break (head, tail);
        }
    };
    let mut items = tail.next(Duration::ZERO)?.unwrap_or_default();
    // Retention may have taken the beginning of that; the window starts at the first record there is.
    let begins = items.iter().find_map(|item| match item {
        TailItem::Stored(record) => Some(Sequence(record.position.sequence.0 - 1)),
        TailItem::Ephemeral(record) => Some(record.position.sequence),
        TailItem::Removed(_) | TailItem::Forked { .. } => None,
    });
    let at = Position { epoch: head.epoch, sequence: begins.unwrap_or(head.sequence) };
    let (window, mut writer) = Window::new(at, config.window_bytes, config.window_records);
    while !items.is_empty() && window.newest().sequence < head.sequence {
        announce(&mut writer, &config.cursor_key, items);
        items = tail.next(Duration::ZERO)?.unwrap_or_default();
    }
    announce(&mut writer, &config.cursor_key, items);
    // Or its end: the head is the head all the same.
    writer.reach(head.sequence);
    Ok((window, writer, tail))
}

/// The one way to subscribers: everything that the log announces goes into the window.
struct Follower {
    window: Arc<Window>,
    writer: Mutex<Writer>,
    key: CursorKey,
}

impl Follower {
    /// Asks a tail that doesn't call, until the log is closed.
    fn follow(&self, tail: &mut dyn Tail, stop: &Stop) {
        loop {
            match tail.next(Duration::from_secs(1)) {
                Ok(Some(items)) if items.is_empty() => {}
                Ok(Some(items)) => {
                    self.take(&items);
                    self.flush();
                }
                Ok(None) => return,
                // The log says what is wrong in its statistics; it goes on at the same place.
                Err(_) => {
                    if stop.wait(Duration::from_millis(100)) {
                        return;
                    }
                }
            }
        }
    }
}

impl Sink for Follower {
    fn take(&self, items: &[TailItem]) {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        announce(&mut writer, &self.key, items.iter().cloned());
    }

    fn flush(&self) {
        self.window.notify();
    }
}

/// Puts what was announced into the window. Readers are yet to be told.
pub(crate) fn announce(writer: &mut Writer, key: &CursorKey, items: impl IntoIterator<Item = TailItem>) {
    for item in items {
        match item {
            TailItem::Stored(record) => push(writer, key, record, false),
            TailItem::Ephemeral(record) => push(writer, key, record, true),
            TailItem::Removed(Removal::Record(sequence)) => {
                writer.remove(|record| record.position.sequence == sequence);
            }
            TailItem::Removed(Removal::Channel { channel, through }) => writer.remove(|record| {
                record.position.sequence <= through && record.event.to.channels().contains(&channel)
            }),
            TailItem::Forked { epoch, at, through } => writer.fork(epoch, at, through),
        }
    }
}

fn push(writer: &mut Writer, key: &CursorKey, record: Record, ephemeral: bool) {
    let encoded = EncodedEvent::new(&record.event, &key.seal(record.position));
    writer.push(Entry::new(record, encoded, ephemeral));
}
