//! The one thread that writes: it takes all that waits, stores it in one transaction with one sync, and announces it.

mod upkeep;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use tidings_hub::Timestamp;
use tidings_hub::log::{
    AppendError, Asked, Feed, Holder, LEASE_NOTE, Lease, Leases, NewRecord, Note, Once, Record, Removal,
    Retention, TailItem, Terms, too_late,
};
use tidings_wire::{Channel, Position};
use tokio::sync::oneshot;

use self::upkeep::MARK_AGE;
pub(crate) use self::upkeep::Upkeep;
use crate::catalog::Catalog;
use crate::error::StoreError;
use crate::mark::MarkFile;
use crate::space::Space;
use crate::stage::{Changes, Stage};
use crate::store::{Checkpoint, Remembered, Store};
use crate::{Fatal, SyncPolicy};

/// How many bytes of data one transaction stores, so that the first publisher in it doesn't wait for too many others.
const GROUP_BYTES: usize = 4 << 20;
/// How many records one transaction stores.
const GROUP_RECORDS: usize = 10_000;

/// What the log's handles and its writer share.
pub(crate) struct Shared {
    catalog: RwLock<Catalog>,
    pub(crate) feed: Feed,
    pub(crate) queue: Queue,
    pub(crate) trouble: Mutex<Option<String>>,
    pub(crate) commits: AtomicU64,
    pub(crate) syncs: AtomicU64,
}

impl Shared {
    pub(crate) fn new(catalog: Catalog, queue_bytes: usize) -> Shared {
        Shared {
            catalog: RwLock::new(catalog),
            feed: Feed::default(),
            queue: Queue::new(queue_bytes),
            trouble: Mutex::new(None),
            commits: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
        }
    }

    pub(crate) fn catalog(&self) -> RwLockReadGuard<'_, Catalog> {
        self.catalog.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn catalog_mut(&self) -> RwLockWriteGuard<'_, Catalog> {
        self.catalog.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The answer to an append.
type Answer = Result<Vec<Position>, AppendError>;
/// The answers to the batches and notes of a group.
type Answers = (Vec<Answer>, Vec<Result<bool, AppendError>>);
/// Answers an append.
pub(crate) type Appended = oneshot::Sender<Answer>;
/// Answers a note: whether it was set.
pub(crate) type Noted = oneshot::Sender<Result<bool, AppendError>>;
/// Answers who asks for a lease.
pub(crate) type Leased = oneshot::Sender<Result<Option<Lease>, AppendError>>;
/// Answers a removal.
pub(crate) type Removed = oneshot::Sender<Result<u64, AppendError>>;

/// What the writer is asked to do.
pub(crate) enum Job {
    Append {
        batch: Vec<NewRecord>,
        terms: Terms,
        bytes: usize,
        reply: Appended,
    },
    Note(NoteJob),
    Lease {
        name: String,
        holder: Holder,
        for_: Duration,
        reply: Leased,
    },
    Purge {
        channel: Channel,
        reply: Removed,
    },
    Delete {
        position: Position,
        reply: Removed,
    },
    /// Answered with whether there is more to remove.
    Retain {
        now: Timestamp,
        reply: oneshot::Sender<bool>,
    },
}

/// What is to be noted.
pub(crate) struct NoteJob {
    pub(crate) note: Note,
    /// Only if this is noted before.
    pub(crate) only_if: Option<Expected>,
    pub(crate) reply: Noted,
}

/// What has to be noted under a name: nothing, or this.
pub(crate) struct Expected(pub(crate) Option<Vec<u8>>);

impl NoteJob {
    /// How much it counts among what waits.
    fn bytes(&self) -> usize {
        let expected = self.only_if.as_ref().and_then(|Expected(value)| value.as_deref());
        note_bytes(&self.note) + expected.map_or(0, <[u8]>::len)
    }
}

/// What waits for the writer.
pub(crate) struct Queue {
    state: Mutex<Waiting>,
    filled: Condvar,
    limit: usize,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    bytes: usize,
    /// The writer waits: to wake nobody is a call to the kernel all the same.
    waited_for: bool,
    closed: bool,
}

/// Why a job was not taken.
pub(crate) enum Refused {
    Busy,
    Closed,
}

impl Queue {
    fn new(limit: usize) -> Queue {
        Queue { state: Mutex::default(), filled: Condvar::new(), limit }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, job: Job) -> Result<(), Refused> {
        let bytes = match &job {
            Job::Append { bytes, .. } => *bytes,
            Job::Note(note) => note.bytes(),
            _ => 0,
        };
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(Refused::Closed);
        }
        // A batch that is larger than the limit by itself has its turn when nothing else waits.
        if waiting.bytes > 0 && waiting.bytes + bytes > self.limit {
            return Err(Refused::Busy);
        }
        waiting.bytes += bytes;
        waiting.jobs.push_back(job);
        let waited_for = std::mem::take(&mut waiting.waited_for);
        drop(waiting);
        if waited_for {
            self.filled.notify_one();
        }
        Ok(())
    }

    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_one();
    }

    /// All that waits, once there is something; nothing when the time is over first. `None` after the end.
    fn take(&self, timeout: Option<Duration>) -> Option<VecDeque<Job>> {
        let mut waiting = self.lock();
        let idle = |waiting: &mut Waiting| {
            waiting.waited_for = waiting.jobs.is_empty() && !waiting.closed;
            waiting.waited_for
        };
        waiting = match timeout {
            None => self.filled.wait_while(waiting, idle).unwrap_or_else(PoisonError::into_inner),
            Some(timeout) => {
                self.filled
                    .wait_timeout_while(waiting, timeout, idle)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            }
        };
        waiting.waited_for = false;
        if waiting.jobs.is_empty() && waiting.closed {
            return None;
        }
        waiting.bytes = 0;
        Some(std::mem::take(&mut waiting.jobs))
    }
}

/// The thread's own.
pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) store: Store,
    pub(crate) retention: Retention,
    pub(crate) sync: SyncPolicy,
    pub(crate) fatal: Fatal,
    pub(crate) mark: MarkFile,
    pub(crate) space: Space,
    /// The write-ahead log, to sync it every so often.
    pub(crate) wal: PathBuf,
    pub(crate) upkeep: Upkeep,
    pub(crate) leases: Leases,
}

impl Writer {
    /// Works until the log is closed and everything is stored.
    pub(crate) fn run(mut self) {
        while let Some(jobs) = self.shared.queue.take(self.patience()) {
            self.work(jobs);
            self.sync_if_due();
            self.mark_if_due();
        }
        self.finish();
        self.shared.feed.close();
    }

    /// How long to wait for something to do.
    fn patience(&self) -> Option<Duration> {
        let sync = match (self.sync, self.upkeep.unsynced) {
            (SyncPolicy::Every(every), Some(since)) => Some(every.saturating_sub(since.elapsed())),
            _ => None,
        };
        let mark = self.upkeep.behind.then_some(MARK_AGE);
        [sync, mark].into_iter().flatten().min()
    }

    fn work(&mut self, jobs: VecDeque<Job>) {
        let mut group = Group::default();
        for job in jobs {
            match job {
                Job::Append { batch, terms, bytes, reply } => {
                    // The notes of a group are set after its appends: one that came before stays before.
                    let after_notes = terms.note.is_some() && !group.notes.is_empty();
                    if after_notes || group.is_over_with(batch.len(), bytes) {
                        self.store_group(std::mem::take(&mut group));
                    }
                    group.add(batch, terms, bytes, reply);
                    continue;
                }
                Job::Note(note) => {
                    if group.is_over_with(1, note.bytes()) {
                        self.store_group(std::mem::take(&mut group));
                    }
                    group.note(note);
                    continue;
                }
                other => {
                    self.store_group(std::mem::take(&mut group));
                    match other {
                        Job::Append { .. } | Job::Note(_) => {}
                        Job::Lease { name, holder, for_, reply } => {
                            let _ = reply.send(self.lease(name, holder, for_));
                        }
                        Job::Purge { channel, reply } => self.purge(channel, reply),
                        Job::Delete { position, reply } => self.delete(position, reply),
                        Job::Retain { now, reply } => {
                            let more = self.retain(now);
                            let _ = reply.send(more);
                        }
                    }
                }
            }
        }
        self.store_group(group);
    }

    /// Stores and announces some appends and notes, and answers them.
    fn store_group(&mut self, group: Group) {
        if group.is_empty() {
            return;
        }
        match self.try_store_group(&group) {
            Ok((answers, noted)) => {
                for (append, answer) in group.appends.into_iter().zip(answers) {
                    // Who no longer waits has dropped the other end.
                    let _ = append.reply.send(answer);
                }
                for (note, noted) in group.notes.into_iter().zip(noted) {
                    let _ = note.reply.send(noted);
                }
            }
            Err(error) => {
                for Append { terms, reply, batch } in group.appends {
                    // What was stored before is stored, whatever is wrong now.
                    let before = terms.once.and_then(|once| self.answer_before(&once, &batch));
                    let _ = reply.send(before.unwrap_or_else(|| Err(error.clone())));
                }
                for note in group.notes {
                    let _ = note.reply.send(Err(error.clone()));
                }
            }
        }
    }

    /// The answer that a batch was given when it was stored before.
    fn answer_before(&self, once: &Once, batch: &[NewRecord]) -> Option<Answer> {
        let remembered = self.store.remembered(once, time_of(batch));
        answered(remembered.map_err(AppendError::from))
    }

    /// The answers to each batch and note: one that is refused keeps no other out. Or why nothing at all could be stored.
    fn try_store_group(&mut self, group: &Group) -> Result<Answers, AppendError> {
        let stored = group.records().filter(|record| record.event.store).count();
        if stored == 0 && group.leaves_nothing() {
            return Ok((self.announce_group(group), Vec::new()));
        }
        if !self.has_room(group.bytes) {
            return Err(AppendError::Full);
        }
        let mut items = Vec::new();
        let mut answers = Vec::with_capacity(group.appends.len());
        let mut noted = Vec::with_capacity(group.notes.len());
        let oldest = group.records().map(|record| record.time).min().unwrap_or_default();
        let mut pages = 4 + group.bytes as u64 / 4_000 + 2 * group.notes.len() as u64;
        let lost = self.without_lease(group);
        let changes = self.transact(|stage, upkeep| {
            for (at, Append { batch, terms, .. }) in group.appends.iter().enumerate() {
                if let Some(once) = &terms.once
                    && let Some(first) = batch.first()
                {
                    let remembered = match stage.remembered(once, first.time) {
                        // Only whoever uses this key hears of it.
                        Err(error @ StoreError::Damaged { .. }) => Err(AppendError::from(error)),
                        other => Ok(other?),
                    };
                    if let Some(answer) = answered(remembered) {
                        answers.push(answer);
                        continue;
                    }
                }
                if lost.contains(&at) {
                    answers.push(Err(AppendError::LeaseLost));
                    continue;
                }
                // Asked after that: the answer to a batch that was stored stays the same when its channel has ended since.
                if let Some(channel) = stage.ended_by_now(batch) {
                    answers.push(Err(AppendError::Ended(channel)));
                    continue;
                }
                let mut positions = Vec::with_capacity(batch.len());
                for NewRecord { time, event } in batch {
                    let position;
                    if event.store {
                        position = stage.push(*time, event)?;
                        let pages_of_each = if event.key.is_some() { 2 } else { 1 };
                        pages += event.to.channels().len() as u64 * pages_of_each + 1;
                        items.push(TailItem::Stored(Record { position, time: *time, event: event.clone() }));
                    } else {
                        position = stage.changes.head;
                        items.push(TailItem::Ephemeral(Record {
                            position,
                            time: *time,
                            event: event.clone(),
                        }));
                    }
                    positions.push(position);
                }
                if let Some(once) = &terms.once
                    && !batch.is_empty()
                {
                    stage.remember(once, &positions)?;
                    pages += 3;
                }
                if let Some(note) = &terms.note {
                    stage.set_note(&note.name, note.value.as_deref())?;
                    pages += 2;
                }
                answers.push(Ok(positions));
            }
            for NoteJob { note, only_if, .. } in &group.notes {
                let set = match only_if.as_ref().map(|expected| stage.is_noted(&note.name, expected)) {
                    // Only whoever wants to set this one hears of it.
                    Some(Err(error @ StoreError::Damaged { .. })) => Err(AppendError::from(error)),
                    other => Ok(other.transpose()?.unwrap_or(true)),
                };
                if set == Ok(true) {
                    stage.set_note(&note.name, note.value.as_deref())?;
                }
                noted.push(set);
            }
            // Twice as fast as records come, so that what retention removes never piles up.
            if !upkeep.wasteful.is_empty() {
                stage.sweep(&upkeep.some_wasteful(), 2 * stored + 16)?;
            }
            Ok(())
        })?;
        self.upkeep.pages += pages;
        self.apply(changes, oldest, &items);
        Ok((answers, noted))
    }

    /// Which of the appends come under a lease that has ended. None is taken before they are stored: this thread does
    /// both.
    fn without_lease(&self, group: &Group) -> Vec<usize> {
        let now = Instant::now();
        let lost =
            |append: &Append| append.terms.lease.as_ref().is_some_and(|lease| !self.leases.lasts(lease, now));
        group.appends.iter().enumerate().filter(|(_, append)| lost(append)).map(|(at, _)| at).collect()
    }

    /// Announces batches of which nothing is kept.
    fn announce_group(&self, group: &Group) -> Vec<Answer> {
        let mut items = Vec::new();
        let mut answers = Vec::with_capacity(group.appends.len());
        // Under the lock, so that a tail that is made meanwhile has all or nothing of it.
        let catalog = self.shared.catalog_mut();
        let position = catalog.head;
        let lost = self.without_lease(group);
        for (at, Append { batch, .. }) in group.appends.iter().enumerate() {
            if lost.contains(&at) {
                answers.push(Err(AppendError::LeaseLost));
                continue;
            }
            let ended = match catalog.has_ended() {
                true => too_late(batch, |channel| catalog.ended(channel).is_some()),
                false => None,
            };
            if let Some(channel) = ended {
                answers.push(Err(AppendError::Ended(channel.clone())));
                continue;
            }
            items.extend(batch.iter().map(|NewRecord { time, event }| {
                TailItem::Ephemeral(Record { position, time: *time, event: event.clone() })
            }));
            answers.push(Ok(vec![position; batch.len()]));
        }
        self.shared.feed.announce(&items);
        drop(catalog);
        self.shared.feed.flush();
        answers
    }

    /// One transaction: either all of it is durable afterwards, or nothing is left of it.
    fn transact(
        &mut self,
        steps: impl FnOnce(&mut Stage<'_>, &Upkeep) -> Result<(), StoreError>,
    ) -> Result<Changes, AppendError> {
        let shared = self.shared.clone();
        let changes = self.store.begin().and_then(|()| {
            let catalog = shared.catalog();
            let mut stage = Stage::new(&self.store, &catalog, &self.retention, self.upkeep.dropped);
            steps(&mut stage, &self.upkeep)?;
            stage.finish()
        });
        let error = match changes {
            Ok(changes) if changes.is_nothing(&shared.catalog()) => match self.store.roll_back() {
                Ok(()) => return Ok(changes),
                Err(error) => error,
            },
            Ok(changes) => match self.store.commit() {
                Ok(()) => {
                    self.committed();
                    return Ok(changes);
                }
                // Only a write that found no space is known to have stored nothing. After a failed sync nobody knows
                // what is on the disk, and asking again gets a wrong yes: the system has dropped the pages.
                Err(error) if error.is_full() => error,
                Err(error) => self.die("a commit failed", &error),
            },
            Err(error) => error,
        };
        if let Err(error) = self.store.roll_back() {
            self.die("a failed transaction can't be taken back", &error);
        }
        if error.is_full() {
            self.space.release();
            self.set_full(true);
        }
        Err(error.into())
    }

    fn committed(&mut self) {
        self.shared.commits.fetch_add(1, Ordering::Relaxed);
        match self.sync {
            SyncPolicy::Always => {
                self.shared.syncs.fetch_add(1, Ordering::Relaxed);
            }
            SyncPolicy::Every(_) => {
                self.upkeep.unsynced.get_or_insert_with(Instant::now);
            }
            SyncPolicy::Never => {}
        }
        self.upkeep.behind = true;
    }

    /// Makes a committed transaction seen, and announces it in the same step.
    fn apply(&mut self, changes: Changes, oldest: Timestamp, items: &[TailItem]) {
        let mut catalog = self.shared.catalog_mut();
        catalog.head = changes.head;
        catalog.totals = changes.totals;
        for (channel, state) in changes.channels {
            self.upkeep.replace(&channel, catalog.get(&channel), Some(&state), oldest);
            catalog.set(channel, state);
        }
        for channel in changes.forgotten {
            self.upkeep.replace(&channel, catalog.get(&channel), None, oldest);
            catalog.forget(&channel);
        }
        self.shared.feed.announce(items);
        drop(catalog);
        self.shared.feed.flush();
        self.upkeep.dropped = changes.dropped;
        if changes.damage.is_some() {
            self.set_trouble(changes.damage);
        }
        if self.upkeep.pages >= self.space.checkpoint_pages() || self.upkeep.full {
            // Readers that are always there keep the write-ahead log from beginning anew. When it has grown by that,
            // they are waited for, which holds nobody up for long: they are short.
            let grown = self.upkeep.wal_pages > 4 * self.space.checkpoint_pages();
            self.checkpoint(if grown { Checkpoint::Restart } else { Checkpoint::Passive });
        }
    }

    /// Gives, renews or ends a lease. Only a new one is stored, with its number: the next process, which has all
    /// leases to give again, gives larger ones.
    fn lease(&mut self, name: String, holder: Holder, for_: Duration) -> Result<Option<Lease>, AppendError> {
        let last = match self.leases.ask(&name, holder, for_, Instant::now()) {
            Asked::Answer(answer) => return Ok(answer),
            Asked::Free { last } => last,
        };
        let note = format!("{LEASE_NOTE}{name}");
        let stored = self.store.note(&note)?.and_then(|value| value.try_into().ok());
        let number = stored.map_or(0, u64::from_le_bytes).max(last) + 1;
        if !self.has_room(note.len() + 64) {
            return Err(AppendError::Full);
        }
        let changes = self.transact(|stage, _| stage.set_note(&note, Some(&number.to_le_bytes())))?;
        self.upkeep.pages += 4;
        self.apply(changes, Timestamp::default(), &[]);
        let lease = Lease { name, holder, number };
        self.leases.begin(lease.clone(), for_, Instant::now());
        Ok(Some(lease))
    }

    fn purge(&mut self, channel: Channel, reply: Removed) {
        let mut purged = None;
        let changes = self.transact(|stage, _| {
            purged = stage.purge(&channel)?;
            Ok(())
        });
        let _ = reply.send(changes.map(|changes| {
            let items = purged.map(|(_, through)| Removal::Channel { channel, through });
            self.upkeep.pages += 4;
            self.apply(
                changes,
                Timestamp::default(),
                &items.map(TailItem::Removed).into_iter().collect::<Vec<_>>(),
            );
            purged.map_or(0, |(records, _)| records)
        }));
    }

    fn delete(&mut self, position: Position, reply: Removed) {
        let mut deleted = false;
        let changes = self.transact(|stage, _| {
            deleted = stage.delete(position)?;
            Ok(())
        });
        let _ = reply.send(changes.map(|changes| {
            let item = TailItem::Removed(Removal::Record(position.sequence));
            self.upkeep.pages += 8;
            self.apply(
                changes,
                Timestamp::default(),
                if deleted { std::slice::from_ref(&item) } else { &[] },
            );
            u64::from(deleted)
        }));
    }

    /// Ends the process: what was answered is durable, what was not answered is not known, and the only way to know
    /// is to read the disk again from the beginning.
    fn die(&self, what: &str, error: &dyn std::fmt::Debug) -> ! {
        (self.fatal)(&format!("{what}, so that it is not known what is stored: {error:?}"));
        std::process::abort();
    }
}

/// The answer to an append whose key was used before; `None` if it wasn't.
fn answered(remembered: Result<Option<Remembered>, AppendError>) -> Option<Answer> {
    match remembered {
        Ok(None) => None,
        Ok(Some(Remembered::Same(positions))) => Some(Ok(positions)),
        Ok(Some(Remembered::Other)) => Some(Err(AppendError::KeyReused)),
        Err(error) => Some(Err(error)),
    }
}

fn time_of(batch: &[NewRecord]) -> Timestamp {
    batch.first().map(|record| record.time).unwrap_or_default()
}

/// How much a note counts among what waits.
pub(crate) fn note_bytes(note: &Note) -> usize {
    note.name.len() + note.value.as_deref().map_or(0, <[u8]>::len) + 64
}

/// Appends and notes that are stored together.
#[derive(Default)]
struct Group {
    appends: Vec<Append>,
    notes: Vec<NoteJob>,
    records: usize,
    bytes: usize,
}

struct Append {
    batch: Vec<NewRecord>,
    terms: Terms,
    reply: Appended,
}

impl Group {
    fn is_empty(&self) -> bool {
        self.appends.is_empty() && self.notes.is_empty()
    }

    /// Whether nothing but records, if anything, is to be stored.
    fn leaves_nothing(&self) -> bool {
        let leaves = |terms: &Terms| terms.once.is_some() || terms.note.is_some();
        self.notes.is_empty() && !self.appends.iter().any(|append| leaves(&append.terms))
    }

    /// Whether it would be too much with one more batch. One batch alone is never split.
    fn is_over_with(&self, records: usize, bytes: usize) -> bool {
        !self.is_empty()
            && (self.records + self.notes.len() + records > GROUP_RECORDS || self.bytes + bytes > GROUP_BYTES)
    }

    fn add(&mut self, batch: Vec<NewRecord>, terms: Terms, bytes: usize, reply: Appended) {
        self.records += batch.len();
        self.bytes += bytes;
        self.appends.push(Append { batch, terms, reply });
    }

    fn note(&mut self, note: NoteJob) {
        self.bytes += note.bytes();
        self.notes.push(note);
    }

    fn records(&self) -> impl Iterator<Item = &NewRecord> {
        self.appends.iter().flat_map(|append| &append.batch)
    }
}
