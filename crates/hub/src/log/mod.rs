//! The log: one order for everything that is published.

pub mod codec;
mod ended;
mod feed;
mod leases;
mod memory;
mod names;
pub mod replica;
mod retention;
#[cfg(any(test, feature = "suite"))]
pub mod suite;
mod terms;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tidings_wire::{Channel, Epoch, Event, Key, Position, Sequence};

pub use ended::too_late;
pub use feed::{Feed, FeedTail, PastTail, Sink};
pub use leases::{Asked, Leases};
pub use memory::{MemoryLog, MemoryLogConfig};
pub use names::Names;
pub use replica::Replica;
pub use retention::{Caps, LOOKED_BACK, Retention, takes_the_place};
pub use terms::{Holder, Lease, Note, Once, Terms};

use crate::{Timestamp, View};

/// An event on its way into the log.
#[derive(Debug, Clone)]
pub struct NewRecord {
    /// When it was published.
    pub time: Timestamp,
    /// What was published. With `store: false` it gets no position of its own and is only announced.
    pub event: Arc<Event>,
}

/// An event in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its place; of an ephemeral event, the place of the record before it.
    pub position: Position,
    /// When it was published.
    pub time: Timestamp,
    /// What was published.
    pub event: Arc<Event>,
}

impl Record {
    /// Whether the event's `ttl` is over, so that it is not replayed any more.
    pub fn expired(&self, now: Timestamp) -> bool {
        self.event.ttl.is_some_and(|ttl| now >= self.time.plus(Duration::from_secs(ttl.into())))
    }
}

/// What the log announces, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TailItem {
    /// A record whose sequence is the one after the record before.
    Stored(Record),
    /// An event that is not kept, between two records.
    Ephemeral(Record),
    /// Records up to the present place were purged or deleted; whoever holds copies drops them.
    Removed(Removal),
    /// From here on records have this epoch. Of the history before, all up to `at` is part of this one; whoever has
    /// seen more has seen what is lost. What comes next is behind `through`; what lies between is in the log only. So a
    /// log may say this with the old epoch too, when it has missed something and knows all of it now.
    Forked {
        /// The new epoch.
        epoch: Epoch,
        /// The last common record.
        at: Sequence,
        /// The newest record.
        through: Sequence,
    },
}

/// What an operator took out of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// Every record of a channel up to and with this one. A record with other targets stays there.
    Channel {
        /// The purged channel.
        channel: Channel,
        /// The newest record that was removed.
        through: Sequence,
    },
    /// One record, in all its channels.
    Record(Sequence),
}

/// A part of the log to read: a view, from one place on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// Which records.
    pub view: View,
    /// Only those behind this one.
    pub after: Sequence,
}

/// How much one read may return. At least one record is returned when there is one, whatever its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadLimit {
    /// The newest record to look at.
    pub through: Sequence,
    /// How many records.
    pub records: usize,
    /// How many bytes of data.
    pub bytes: usize,
}

/// Which end of the range a read returns when the range holds more than the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The oldest first.
    Oldest,
    /// The newest first.
    Newest,
}

/// What a read found: one snapshot of the log.
#[derive(Debug, Clone)]
pub struct Page {
    /// The records in the order asked for, each once, however many of its targets were selected.
    pub records: Vec<Record>,
    /// How far was looked. [`Order::Oldest`]: nothing up to it is left to find, reading on goes after it; at the end
    /// it is the limit's `through` or the head, whichever is smaller. [`Order::Newest`]: nothing from it on is left,
    /// reading on goes through the one before it; at the end it is [`Sequence::START`]. A read looks at a bounded
    /// number of records, so that a page before the end may be short or empty: only this says whether to read on.
    pub through: Sequence,
    /// As [`Log::floor`] for the selected views, counting only what was removed behind a selection's `after`:
    /// `Sequence::START` if nothing is missing.
    pub floor: Sequence,
}

/// Where a client's position lies in the log's present history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Located {
    /// In it: everything up to this record was seen.
    Here(Sequence),
    /// In an older epoch, past the place where the present history forked off.
    PastFork(Sequence),
    /// Past the newest record.
    Ahead,
    /// In an epoch that this log never had.
    Unknown,
}

/// A channel and what is kept of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelInfo {
    /// Its name.
    pub channel: Channel,
    /// The newest record that was ever in it.
    pub newest: Sequence,
    /// How many records are kept.
    pub records: u64,
    /// How many bytes of data they have.
    pub bytes: u64,
}

/// How the log is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Records kept.
    pub records: u64,
    /// Bytes of data kept.
    pub bytes: u64,
    /// Channels with a record.
    pub channels: u64,
    /// Group commits since the start.
    pub commits: u64,
    /// Syncs to the disk since the start.
    pub syncs: u64,
    /// Why nothing can be stored just now (a full disk, a store out of reach), if so.
    pub trouble: Option<String>,
}

/// How sure an answered append is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// In this process only.
    Memory,
    /// Synced to the disk before the answer.
    Synced,
    /// Handed to the system; synced every so often.
    SyncedEvery(Duration),
    /// Handed to the system.
    Unsynced,
    /// The master of the store has it.
    Master,
    /// So many replicas of the store have it too.
    Replicas(u32),
    /// The master of the store has synced it to its append-only file.
    AppendOnlyFile,
}

impl fmt::Display for Durability {
    /// The word that is named in answers: `memory`, `always`, `100ms`, `never`, `master`, `wait 2`, `aof`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Durability::Memory => f.write_str("memory"),
            Durability::Synced => f.write_str("always"),
            Durability::SyncedEvery(every) => write!(f, "{}ms", every.as_millis()),
            Durability::Unsynced => f.write_str("never"),
            Durability::Master => f.write_str("master"),
            Durability::Replicas(count) => write!(f, "wait {count}"),
            Durability::AppendOnlyFile => f.write_str("aof"),
        }
    }
}

/// Why a batch was not appended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The disk is full. Nothing of the batch is stored; appends succeed again once there is space.
    #[error("the disk is full")]
    Full,
    /// Too much waits to be stored. Nothing of the batch is stored; try again.
    #[error("too much is waiting to be stored")]
    Busy,
    /// The store failed or is out of reach. Nothing of the batch is stored; try again.
    #[error("not stored: {0}")]
    NotStored(String),
    /// A channel has had its last event. Nothing of the batch is stored, until that event is gone.
    #[error("the channel {:?} has ended", .0.as_str())]
    Ended(Channel),
    /// The idempotency key was used for something else.
    #[error("the idempotency key was used before, for something else")]
    KeyReused,
    /// The lease has ended. Nothing of the batch is stored, and the right is not the holder's any more.
    #[error("the lease was lost")]
    LeaseLost,
    /// The store failed in between. The batch may or may not be stored.
    #[error("it is not known whether it was stored: {0}")]
    Unknown(String),
}

/// Why the log could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// A stored record is not what was written.
    #[error("the record {at:?} is damaged: {what}")]
    Damaged {
        /// Which record.
        at: Sequence,
        /// What is wrong with it.
        what: String,
    },
    /// The store failed or is out of reach.
    #[error("the log can't be read: {0}")]
    Failed(String),
}

/// The longest name of a note, in bytes.
pub const NOTE_NAME: usize = 4 << 10;
/// The longest value of a note.
pub const NOTE_VALUE: usize = 64 << 10;

/// What the names of notes begin with that a log itself makes for leases; nobody else uses it.
pub const LEASE_NOTE: &str = "$lease/";

/// Whether a note may be as long as this one; for who makes a log.
///
/// # Errors
/// [`AppendError::NotStored`] when it may not.
pub fn check_note(name: &str, value: Option<&[u8]>) -> Result<(), AppendError> {
    let too_long = |what: &str, max: usize, len: usize| {
        Err(AppendError::NotStored(format!("a note's {what} may have {max} bytes, this one has {len}")))
    };
    match value.map_or(0, <[u8]>::len) {
        _ if name.len() > NOTE_NAME => too_long("name", NOTE_NAME, name.len()),
        len if len > NOTE_VALUE => too_long("value", NOTE_VALUE, len),
        _ => Ok(()),
    }
}

/// A note under way: completes when it is durable.
pub type Noting = Pin<Box<dyn Future<Output = Result<(), AppendError>> + Send>>;

/// A note under way that depends on what was noted before: completes with whether it was set, when that is durable.
/// When it fails, it may or may not have been.
pub type NotingIf = Pin<Box<dyn Future<Output = Result<bool, AppendError>> + Send>>;

/// An append under way: completes when the batch is durable. Dropping it does not take the batch back.
pub type Appending = Pin<Box<dyn Future<Output = Result<Vec<Position>, AppendError>> + Send>>;

/// A lease asked for. When it fails, it may or may not be the holder's; asking again tells. Dropping it does not give
/// the lease back.
pub type Leasing = Pin<Box<dyn Future<Output = Result<Option<Lease>, AppendError>> + Send>>;

/// A removal under way: completes when it is durable, with how many records were removed.
pub type Removing = Pin<Box<dyn Future<Output = Result<u64, AppendError>> + Send>>;

/// The contract of every log. Storing and announcing are one step: what is appended comes out of every tail.
///
/// - A batch is stored whole or not at all; one that fails burns no position. The records of a batch stand next to
///   each other, in their order, and batches appended one after another by one caller keep their order.
/// - No position is seen by anybody (in a completed append, a tail, a page or [`Log::head`]) before it is durable by
///   the log's [`Durability`].
/// - A batch to a channel that has ended is refused, ephemeral events too; after an event with [`Event::end`] nothing
///   more of the same batch may go to its channels.
/// - In a channel whose [`Caps`] say `state_only`, a record with a key goes when a newer one with the same key is
///   stored that is shown to everybody who is shown the old one, by whatever filter: if that has data, the same targets
///   and the same tags, excludes nobody and has no `ttl` or one that is over no earlier (and if the old one is among the
///   [`LOOKED_BACK`] newest before it). It goes from that channel; others keep it. That raises no floor: nobody is to be
///   told that it is missing.
/// - Sequences are contiguous: the record after `n` is `n + 1`. Within a process no position is given to two events.
/// - What was appended before a tail or a read began is seen by it, and so is the effect of a removal.
/// - No method blocks for long but [`Log::tail`], [`Log::read`], [`Log::newest`], [`Log::floor`] with patterns,
///   [`Log::retain`] and [`Log::channels`] (which may use a disk), [`Log::close`] and [`Tail::next`]; call those where
///   blocking is allowed.
pub trait Log: Send + Sync + 'static {
    /// Stores a batch and announces it.
    fn append(&self, batch: Vec<NewRecord>) -> Appending {
        self.append_with(batch, Terms::default())
    }

    /// The same, on terms, which are looked at and kept in the step that stores:
    ///
    /// - [`Terms::once`]: if a batch with this key was stored before and is remembered, its positions are the answer
    ///   again and nothing is stored or noted, whatever became of the lease and the channels;
    ///   [`AppendError::KeyReused`] if that one had another body. A batch that was not stored is not remembered. What
    ///   is remembered is as durable as what it stands for, and is forgotten once `until` is over at the time of a
    ///   later record or of [`Log::retain`].
    /// - [`Terms::lease`]: [`AppendError::LeaseLost`] unless this very lease (name, holder and number) lasts; one whose
    ///   time is over has ended, even if nobody took it since. So nothing is stored under a lease once another holder
    ///   was given the next one. Ephemeral events are refused like others.
    /// - [`Terms::note`]: set with the batch, or not at all. From the moment on when one of both is seen, both are.
    ///
    /// A batch may be empty: its lease is looked at and its note set all the same, and nothing is remembered of it.
    fn append_with(&self, batch: Vec<NewRecord>, terms: Terms) -> Appending;

    /// Takes or renews a right that one holder at a time has, for so long from now on. It is counted on a clock that
    /// all who use this log share (of a log for many nodes: its own, not theirs), so that a holder that begins to
    /// count before it asks never believes in a lease that has ended. Completes with
    ///
    /// - the lease, with its old number if it lasts and the holder has it, else with one larger than any before, also
    ///   before a restart: once a holder has let its time pass, it never gets the same lease again;
    /// - `None` while another holder's lasts.
    ///
    /// Whoever is given a lease sees all that was stored and noted under those before, and nothing more is. Where a
    /// new epoch begins while the log runs, all leases end: what was stored under them may be lost.
    /// A time of zero gives a lease back at once: `None`, and nothing changes if it is another holder's. Leases don't
    /// outlive the log's last process but where other processes may have them. Names are any text of up to
    /// [`NOTE_NAME`] bytes less [`LEASE_NOTE`]'s.
    fn lease(&self, name: &str, holder: Holder, for_: Duration) -> Leasing;

    /// The record that ended a channel: the last one that was stored there, with [`Event::end`]. None after it was
    /// removed, by whatever: then the channel begins anew.
    fn ended(&self, channel: &Channel) -> Option<Sequence>;

    /// Up to `limit` of the newest records of a channel with this key behind a record, the newest first; those whose
    /// `ttl` is over included.
    ///
    /// # Errors
    /// When the store fails.
    fn keyed(
        &self,
        channel: &Channel,
        key: &Key,
        after: Sequence,
        limit: usize,
    ) -> Result<Vec<Record>, ReadError>;

    /// What is noted under a name: small things that have to be kept beside the records, cursors for instance. Names
    /// are any text of up to [`NOTE_NAME`] bytes, values any bytes of up to [`NOTE_VALUE`].
    ///
    /// # Errors
    /// When the store fails.
    fn note(&self, name: &str) -> Result<Option<Vec<u8>>, ReadError>;

    /// Up to `limit` notes whose names begin with `prefix` and come after `after`, in the order of their names' bytes.
    ///
    /// # Errors
    /// When the store fails.
    fn notes(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Vec<u8>)>, ReadError>;

    /// Notes something, in the place of what was noted under this name; `None` takes it back. Completes when that is
    /// durable, from when on it is seen. In the order of the calls of one caller.
    fn set_note(&self, name: String, value: Option<Vec<u8>>) -> Noting;

    /// The same, if what is noted under this name is `expected` (`None` if nothing is) in the step that sets it; so of
    /// many who have read the same, on whichever node, one writes. Completes with `false` where something else is
    /// noted: then nothing is changed, and reading it again shows what it was, or what came after that.
    fn set_note_if(&self, name: String, expected: Option<Vec<u8>>, value: Option<Vec<u8>>) -> NotingIf;

    /// Everything after a record, then everything that comes, in order and without a hole. `after` is at most the
    /// present head. The past part begins behind the newest record after `after` that was removed, be it from only
    /// one of its channels: so it has no hole, and nothing that somebody may not see any more. Its records have their
    /// own epochs, [`TailItem::Forked`] is said only of what comes.
    ///
    /// # Errors
    /// When the past part can't be read.
    fn tail(&self, after: Sequence) -> Result<Box<dyn Tail>, ReadError>;

    /// The records of the selected views, merged in the log's order: one snapshot. Those whose `ttl` is over at `now`
    /// are left out.
    ///
    /// # Errors
    /// When the store fails; a damaged record is an error, never skipped.
    fn read(
        &self,
        selections: &[Selection],
        order: Order,
        limit: ReadLimit,
        now: Timestamp,
    ) -> Result<Page, ReadError>;

    /// For each channel in the views that has records up to `through`: from where on to read for its newest `count`
    /// ones (those whose `ttl` is over included), as a selection of that exact channel. In the order of their names.
    ///
    /// # Errors
    /// When the store fails.
    fn newest(&self, views: &[View], count: usize, through: Sequence) -> Result<Vec<Selection>, ReadError>;

    /// The newest record that was ever removed from the views by retention, a cap or a purge while its `ttl` was not
    /// over. A log forgets channels that have had no record for long; what those lost counts for every channel that
    /// it doesn't know, and for every pattern.
    fn floor(&self, views: &[View]) -> Sequence;

    /// Where a client's position lies.
    fn locate(&self, position: Position) -> Located;

    /// Blocks until a position that another node gave is known here too. A log with one node knows all that it gave.
    ///
    /// # Errors
    /// When this node can't read what others have stored: then it is not known where the position lies.
    fn reach(&self, position: Position) -> Result<(), ReadError> {
        let _ = position;
        Ok(())
    }

    /// The newest durable record, with the present epoch.
    fn head(&self) -> Position;

    /// Removes all that a channel has now, and completes with how many records that were. A record with other targets
    /// stays in those.
    fn purge(&self, channel: Channel) -> Removing;

    /// Removes one record from all its channels. Completes with 0 when there is none at this position. No floor rises:
    /// it was taken back on purpose, and nobody is to be told that something is missing.
    fn delete(&self, position: Position) -> Removing;

    /// Drops what is too old at `now`. Called about once a second. Caps by count and bytes don't wait for this call:
    /// they hold after each record, first those of its channels, then those over all channels. What goes is always
    /// the oldest; one record that is larger than a cap by bytes goes at once.
    fn retain(&self, now: Timestamp);

    /// Up to `limit` channels with a record whose names begin with `prefix` and come after `after`, in the order of their names.
    ///
    /// # Errors
    /// When the store fails.
    fn channels(
        &self,
        prefix: &str,
        after: Option<&Channel>,
        limit: usize,
    ) -> Result<Vec<ChannelInfo>, ReadError>;

    /// How the log is doing.
    fn stats(&self) -> LogStats;

    /// How sure an answered append is.
    fn durability(&self) -> Durability;

    /// Finishes and stores what was appended, then refuses more and ends every tail. Blocks until that is done.
    fn close(&self);
}

/// A reader of all that the log announces.
pub trait Tail: Send {
    /// The next items, waiting up to `timeout` for the first. Empty when the time is over. `None` when the log was
    /// closed and everything was returned.
    ///
    /// # Errors
    /// When the store fails; the next call tries again at the same place.
    fn next(&mut self, timeout: Duration) -> Result<Option<Vec<TailItem>>, ReadError>;

    /// Asks a tail that has returned all of the past to hand what comes to `sink`, for as long as the tail lives, from
    /// the thread that stores it: nobody has to be woken for that. `false` from a log that has no such thread: then
    /// [`Tail::next`] is to be called on.
    fn push_to(&mut self, sink: Arc<dyn Sink>) -> bool {
        let _ = sink;
        false
    }
}
