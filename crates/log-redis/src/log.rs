//! The log, as a hub asks it.

use std::fmt;
use std::future::ready;
use std::str::FromStr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tidings_hub::log::{
    AppendError, Appending, ChannelInfo, Durability, Feed, Holder, LEASE_NOTE, Leasing, Located, Log,
    LogStats, NewRecord, Noting, NotingIf, Order, Page, ReadError, ReadLimit, Record, Removing, Replica,
    Retention, Selection, Tail, Terms, check_note,
};
use tidings_hub::{Timestamp, View};
use tidings_wire::{Channel, Key, Position, Sequence};

use crate::base::EntryId;
use crate::bus::RedisBus;
use crate::clock::Clock;
use crate::cluster::Nodes;
use crate::connect::Connector;
use crate::error::{OpenError, Trouble};
use crate::follow::{self, Follower};
use crate::queue::{Outcome, Queue};
use crate::script::Keys;
use crate::step::Step;
use crate::url::RedisUrl;
use crate::write;

/// What is waited for before an event counts as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ack {
    /// The master has it. A failover may lose it: then a new epoch begins, and who has seen it is told so.
    Master,
    /// So many replicas have it too.
    Replicas(u32),
    /// The master has synced it to its append-only file.
    Aof,
}

/// As in a configuration: `master`, `wait 2`, `aof`.
impl FromStr for Ack {
    type Err = BadAck;

    fn from_str(text: &str) -> Result<Ack, BadAck> {
        match text {
            "master" => Ok(Ack::Master),
            "aof" => Ok(Ack::Aof),
            text => {
                let count = text.strip_prefix("wait ").and_then(|count| count.parse().ok());
                count.filter(|count| (1..=REPLICAS).contains(count)).map(Ack::Replicas).ok_or(BadAck)
            }
        }
    }
}

impl fmt::Display for Ack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.durability().fmt(f)
    }
}

impl Ack {
    fn durability(self) -> Durability {
        match self {
            Ack::Master => Durability::Master,
            Ack::Replicas(count) => Durability::Replicas(count),
            Ack::Aof => Durability::AppendOnlyFile,
        }
    }
}

/// The most replicas that are waited for.
const REPLICAS: u32 = 100;

/// A text that is no [`Ack`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write master, aof, or wait and how many replicas, like \"wait 2\"")]
pub struct BadAck;

/// What a [`RedisLog`] needs to know.
#[derive(Debug, Clone)]
pub struct RedisLogConfig {
    /// Where Redis is.
    pub url: RedisUrl,
    /// For TLS: the certificate of the authority that Redis's is signed by, in PEM; without it those of the system count.
    pub authority: Option<Vec<u8>>,
    /// The hub's name. Hubs with other names in the same Redis know nothing of each other.
    pub name: String,
    /// What is waited for before an event counts as stored.
    pub ack: Ack,
    /// What is kept. The same for all nodes: the one that was started last says it.
    pub retention: Retention,
    /// The 16 bytes of the key of the hub's cursors, if this node is the first; see [`RedisLog::cursor_key`].
    pub cursor_key: [u8; 16],
}

/// The longest name of a hub, in bytes.
const NAME: usize = 200;
/// How often it is looked whether somebody has waited for too long.
const CLOCK: Duration = Duration::from_millis(50);
/// How long a client waits for its node to read as far as another one has: longer than a quiet read takes to look again,
/// and than it takes to learn of a connection that it is dead. Else what others have stored would be taken for unknown.
const REACH: Duration = Duration::from_secs(2);
const _: () = assert!(follow::SILENCE.as_millis() < REACH.as_millis());

/// The log on Redis.
pub struct RedisLog {
    pub(crate) shared: Arc<Shared>,
    cursor_key: [u8; 16],
}

/// What the log's threads have in common.
pub(crate) struct Shared {
    pub(crate) connector: Connector,
    pub(crate) keys: Keys,
    /// This process, among all nodes.
    pub(crate) node: String,
    pub(crate) cursor_key: [u8; 16],
    pub(crate) clock: Clock,
    pub(crate) queue: Queue,
    pub(crate) state: Mutex<State>,
    /// The newest entry in it, for who can't wait for those who read it.
    known: Mutex<EntryId>,
    /// Told each time that something was read.
    pub(crate) read_on: Condvar,
    pub(crate) feed: Feed,
    troubles: Mutex<Troubles>,
    /// Whether Redis has refused what this node sent last because its memory is full.
    pub(crate) full: AtomicBool,
}

/// All that was read.
pub(crate) struct State {
    pub(crate) replica: Replica,
    /// The newest entry in it.
    pub(crate) at: EntryId,
    pub(crate) commits: u64,
    pub(crate) size: Size,
    /// All that Redis had then, at least, is in it.
    pub(crate) read_all: Instant,
}

/// How much lies in Redis.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Size {
    /// The entry up to which the base goes.
    pub(crate) base: u64,
    pub(crate) base_bytes: u64,
    /// Bytes of the entries behind the base.
    pub(crate) entries: u64,
}

/// Why a thread does not get on.
#[derive(Debug, Default)]
struct Troubles {
    writing: Option<String>,
    following: Option<String>,
}

/// Which thread does not get on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part {
    Writing,
    Following,
}

impl Shared {
    /// A panic inside would be a bug of this crate; what was read stays readable all the same.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest entry that is known here.
    pub(crate) fn known(&self) -> EntryId {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn knows(&self, at: EntryId) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    /// Says why a part does not get on, or that it does.
    pub(crate) fn trouble(&self, part: Part, trouble: Option<&Trouble>) {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        let was_well = troubles.writing.is_none() && troubles.following.is_none();
        let place = match part {
            Part::Writing => &mut troubles.writing,
            Part::Following => &mut troubles.following,
        };
        if place.is_none() && trouble.is_none() {
            return;
        }
        *place = trouble.map(Trouble::to_string);
        let reason = troubles.writing.clone().or_else(|| troubles.following.clone());
        drop(troubles);
        match &reason {
            Some(reason) if was_well => tracing::warn!(%reason, "the log on Redis does not get on"),
            None => tracing::info!("the log on Redis gets on again"),
            Some(_) => {}
        }
        self.queue.set_reason(reason);
    }
}

impl RedisLog {
    /// Opens the log, or begins one where there is none: connects and reads all that is kept. Blocks until that is done.
    ///
    /// # Errors
    /// When Redis is out of reach, can't be used, or has something else under the hub's name.
    pub fn open(config: RedisLogConfig) -> Result<RedisLog, OpenError> {
        let at = config.url.to_string();
        RedisLog::open_at(config).map_err(|trouble| OpenError { at, why: trouble.to_string() })
    }

    fn open_at(config: RedisLogConfig) -> Result<RedisLog, Trouble> {
        let RedisLogConfig { url, authority, name, ack, retention, cursor_key } = config;
        let plain = |c: char| !c.is_control() && !"{} ".contains(c);
        if name.is_empty() || name.len() > NAME || !name.chars().all(plain) {
            let rule = format!("a hub's name has 1 to {NAME} bytes, and neither braces nor spaces");
            return Err(Trouble::Refused(rule));
        }
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|error| Trouble::Refused(error.to_string()))?;
        let keys = Keys::new(&name);
        let key = keys.stream.clone();
        let connector =
            Connector { url, authority, ack, key, nodes: Nodes::default(), named: Arc::default() };
        let opened = follow::open(&connector, &keys, &retention, cursor_key)?;
        let key = opened.meta.key;
        let shared = Arc::new(Shared {
            connector,
            keys,
            node: format!("{:032x}", u128::from_le_bytes(random)),
            cursor_key: key,
            clock: opened.clock,
            queue: Queue::default(),
            state: Mutex::new(State {
                replica: opened.loaded.replica,
                at: opened.loaded.at,
                commits: 0,
                size: opened.loaded.size,
                read_all: Instant::now(),
            }),
            known: Mutex::new(opened.loaded.at),
            read_on: Condvar::new(),
            feed: Feed::default(),
            troubles: Mutex::default(),
            full: AtomicBool::new(false),
        });
        let follower = Follower::new(shared.clone(), opened.connection);
        thread::spawn(move || follower.run());
        thread::spawn({
            let shared = shared.clone();
            move || write::run(&shared)
        });
        thread::spawn({
            let shared = shared.clone();
            move || shared.connector.watch(|time| shared.queue.pause(time))
        });
        thread::spawn({
            let shared = shared.clone();
            move || {
                while !shared.queue.pause(CLOCK) {
                    shared.queue.expire(Instant::now());
                }
            }
        });
        let log = RedisLog { shared, cursor_key: key };
        if *log.shared.lock().replica.retention() != retention {
            let answer = log.shared.queue.push(&Step::Rules(retention));
            block_on(answer).map_err(|error| Trouble::Refused(error.to_string()))?;
        }
        Ok(log)
    }

    /// The line to the hub's other nodes.
    pub fn bus(&self) -> RedisBus {
        RedisBus::new(self.shared.connector.clone(), self.shared.keys.clone())
    }

    /// The key of the hub's cursors, which the first node has brought: with another one a node could not read the
    /// cursors that the others gave.
    pub fn cursor_key(&self) -> [u8; 16] {
        self.cursor_key
    }

    fn ask<T: Send + 'static>(
        &self,
        step: &Step,
        take: impl FnOnce(Outcome) -> Result<T, AppendError> + Send + 'static,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<T, AppendError>> + Send>> {
        let answer = self.shared.queue.push(step);
        Box::pin(async move {
            match answer.await {
                Ok(outcome) => take(outcome?),
                Err(_) => Err(unanswered()),
            }
        })
    }
}

fn unanswered() -> AppendError {
    AppendError::Unknown("nobody answers any more".to_owned())
}

/// Waits on a thread that may block, whether it is one of a runtime or not.
fn block_on(
    mut answer: tokio::sync::oneshot::Receiver<Result<Outcome, AppendError>>,
) -> Result<Outcome, AppendError> {
    use std::pin::Pin;
    use std::task::{Context, Poll, Wake, Waker};
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        match Pin::new(&mut answer).poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(answer) => return answer.unwrap_or_else(|_| Err(unanswered())),
            Poll::Pending => thread::park(),
        }
    }
}

impl Log for RedisLog {
    fn append_with(&self, mut batch: Vec<NewRecord>, mut terms: Terms) -> Appending {
        if let Some(note) = &terms.note
            && let Err(error) = check_note(&note.name, note.value.as_deref())
        {
            return Box::pin(ready(Err(error)));
        }
        if batch.is_empty() && terms.lease.is_none() && terms.note.is_none() {
            return Box::pin(ready(Ok(Vec::new())));
        }
        let clock = &self.shared.clock;
        terms.once.iter_mut().for_each(|once| once.until = clock.by_redis(once.until));
        batch.iter_mut().for_each(|record| record.time = clock.by_redis(record.time));
        self.ask(&Step::Append { batch, terms }, |outcome| match outcome {
            Outcome::Appended(answer) => answer,
            _ => Err(unanswered()),
        })
    }

    fn lease(&self, name: &str, holder: Holder, for_: Duration) -> Leasing {
        if let Err(error) = check_note(&format!("{LEASE_NOTE}{name}"), None) {
            return Box::pin(ready(Err(error)));
        }
        self.ask(&Step::Lease { name: name.to_owned(), holder, for_ }, |outcome| match outcome {
            Outcome::Leased(lease) => Ok(lease),
            _ => Err(unanswered()),
        })
    }

    fn ended(&self, channel: &Channel) -> Option<Sequence> {
        self.shared.lock().replica.ended(channel)
    }

    fn keyed(
        &self,
        channel: &Channel,
        key: &Key,
        after: Sequence,
        limit: usize,
    ) -> Result<Vec<Record>, ReadError> {
        let records = self.shared.lock().replica.keyed(channel, key, after, limit);
        Ok(self.shared.clock.read_by_node(records))
    }

    fn note(&self, name: &str) -> Result<Option<Vec<u8>>, ReadError> {
        Ok(self.shared.lock().replica.note(name))
    }

    fn notes(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Vec<u8>)>, ReadError> {
        Ok(self.shared.lock().replica.notes(prefix, after, limit))
    }

    fn set_note(&self, name: String, value: Option<Vec<u8>>) -> Noting {
        if let Err(error) = check_note(&name, value.as_deref()) {
            return Box::pin(ready(Err(error)));
        }
        self.ask(&Step::Note { name, value }, |_| Ok(()))
    }

    fn set_note_if(&self, name: String, expected: Option<Vec<u8>>, value: Option<Vec<u8>>) -> NotingIf {
        if let Err(error) = check_note(&name, value.as_deref()) {
            return Box::pin(ready(Err(error)));
        }
        self.ask(&Step::NoteIf { name, expected, value }, |outcome| match outcome {
            Outcome::Noted(set) => Ok(set),
            _ => Err(unanswered()),
        })
    }

    fn tail(&self, after: Sequence) -> Result<Box<dyn Tail>, ReadError> {
        let state = self.shared.lock();
        let mut past = state.replica.past(after);
        self.shared.clock.tell_by_node(&mut past);
        Ok(Box::new(self.shared.feed.tail().behind(past)))
    }

    fn read(
        &self,
        selections: &[Selection],
        order: Order,
        limit: ReadLimit,
        now: Timestamp,
    ) -> Result<Page, ReadError> {
        let clock = &self.shared.clock;
        let page = self.shared.lock().replica.read(selections, order, limit, clock.by_redis(now));
        Ok(Page { records: clock.read_by_node(page.records), ..page })
    }

    fn newest(&self, views: &[View], count: usize, through: Sequence) -> Result<Vec<Selection>, ReadError> {
        Ok(self.shared.lock().replica.newest(views, count, through))
    }

    fn floor(&self, views: &[View]) -> Sequence {
        self.shared.lock().replica.floor(views)
    }

    fn locate(&self, position: Position) -> Located {
        self.shared.lock().replica.locate(position)
    }

    fn reach(&self, position: Position) -> Result<(), ReadError> {
        // A client that was on another node may have more than this one has read: to take its id for an unknown one
        // would send it again what it has, after a gap that is none.
        let beyond = |state: &mut State| match state.replica.locate(position) {
            Located::Ahead => true,
            Located::Unknown => position.epoch > state.replica.head().epoch,
            Located::Here(_) | Located::PastFork(_) => false,
        };
        let state = self.shared.lock();
        let asked = Instant::now();
        let waited = self.shared.read_on.wait_timeout_while(state, REACH, |state| beyond(state));
        let (state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if !waited.timed_out() {
            return Ok(());
        }
        let behind = state.read_all < asked;
        drop(state);
        match self.stats().trouble {
            Some(trouble) => Err(ReadError::Failed(trouble)),
            None if behind => Err(ReadError::Failed("this node is far behind".to_owned())),
            // All there is was read, and it is not in it.
            None => Ok(()),
        }
    }

    fn head(&self) -> Position {
        self.shared.lock().replica.head()
    }

    fn purge(&self, channel: Channel) -> Removing {
        self.ask(&Step::Purge(channel), removed)
    }

    fn delete(&self, position: Position) -> Removing {
        self.ask(&Step::Delete(position), removed)
    }

    fn retain(&self, now: Timestamp) {
        let now = self.shared.clock.by_redis(now);
        // Nearly always nothing is due, or another node has said so a moment before.
        if self.shared.lock().replica.is_due(now) {
            // What was not removed for lack of Redis is due the next time.
            let _ = block_on(self.shared.queue.push(&Step::Retain(now)));
        }
    }

    fn channels(
        &self,
        prefix: &str,
        after: Option<&Channel>,
        limit: usize,
    ) -> Result<Vec<ChannelInfo>, ReadError> {
        Ok(self.shared.lock().replica.channels(prefix, after, limit))
    }

    fn stats(&self) -> LogStats {
        let trouble = {
            let troubles = self.shared.troubles.lock().unwrap_or_else(PoisonError::into_inner);
            troubles.writing.clone().or_else(|| troubles.following.clone())
        };
        let state = self.shared.lock();
        LogStats { commits: state.commits, trouble, ..state.replica.stats() }
    }

    fn durability(&self) -> Durability {
        self.shared.connector.ack.durability()
    }

    fn close(&self) {
        self.shared.queue.close();
        // Only now is all announced that was stored.
        self.shared.feed.close();
    }
}

fn removed(outcome: Outcome) -> Result<u64, AppendError> {
    match outcome {
        Outcome::Removed(count) => Ok(count),
        _ => Err(unanswered()),
    }
}

impl Drop for RedisLog {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for RedisLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisLog").field("url", &self.shared.connector.url).finish_non_exhaustive()
    }
}
