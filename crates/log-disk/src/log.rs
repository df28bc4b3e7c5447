//! The log on disk: opening it, and what it answers.

use std::fs::OpenOptions;
use std::future::ready;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tidings_hub::log::{
    AppendError, Appending, ChannelInfo, Durability, Holder, LEASE_NOTE, Leases, Leasing, Located, Log,
    LogStats, NewRecord, Note, Noting, NotingIf, Order, Page, ReadError, ReadLimit, Record, Removing,
    Retention, Selection, Tail, Terms, check_note,
};
use tidings_hub::{Timestamp, View};
use tidings_wire::{Channel, Epoch, Key, Position, Sequence};
use tokio::sync::oneshot;

use crate::catalog::{Catalog, Lineage};
use crate::error::StoreError;
use crate::mark::{Mark, MarkFile};
use crate::read::Readers;
use crate::record::Row;
use crate::space::Space;
use crate::store::Store;
use crate::tail::DiskTail;
use crate::writer::{Expected, Job, NoteJob, Refused, Shared, Upkeep, Writer, note_bytes};
use crate::{DataDir, OpenError};

/// The database in the data directory.
const FILE: &str = "tidings.db";
/// How many rounds of retention one call of [`Log::retain`] does; the next call goes on. Appends come in between.
const ROUNDS: usize = 64;

/// When what is appended is synced to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncPolicy {
    /// Before the append completes, many appends with one sync.
    Always,
    /// At most so long after it. A loss of power takes what was not synced; a killed process loses nothing.
    Every(Duration),
    /// When the system likes.
    Never,
}

/// What is called with the reason before the log ends the process, for instance to write it to a log of its own.
pub type Fatal = fn(&str);

/// What a [`DiskLog`] needs to know.
#[derive(Debug, Clone)]
pub struct DiskLogConfig {
    /// Where it is. The log keeps its lock.
    pub dir: DataDir,
    /// When what is appended is synced.
    pub sync: SyncPolicy,
    /// What is kept.
    pub retention: Retention,
    /// How many bytes are kept in reserve, so that there is space to remove records on a full disk. A quarter of it
    /// has to stay free besides. Default: 32 MiB.
    pub reserve_bytes: u64,
    /// How many bytes of data may wait to be stored; past that an append is refused as busy. Default: 64 MiB.
    pub queue_bytes: usize,
    /// Called before the process is ended because it is not known what is on the disk. Default: standard error.
    pub fatal: Fatal,
}

impl DiskLogConfig {
    /// Everything by default: synced always, all of it kept.
    pub fn new(dir: DataDir) -> DiskLogConfig {
        DiskLogConfig {
            dir,
            sync: SyncPolicy::Always,
            retention: Retention::default(),
            reserve_bytes: 32 << 20,
            queue_bytes: 64 << 20,
            fatal: |reason| eprintln!("tidings: {reason}"),
        }
    }
}

/// What was found when the log was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovery {
    /// A new log.
    New,
    /// The process before ended in order.
    Clean,
    /// The process before did not end in order. All that it had answered by its sync policy is there.
    Unclean,
    /// The data is not what it was: an older copy, or one whose end was lost or damaged. Clients that have seen more
    /// are told so.
    Lost {
        /// The newest record that is there.
        found: Position,
        /// The newest one that was there.
        expected: Position,
    },
    /// The head mark is missing, as after restoring a backup: what is there is taken for all there was.
    Unmarked,
}

/// The log on disk. Its contract is that of [`Log`]; dropped, it closes in order.
pub struct DiskLog {
    shared: Arc<Shared>,
    readers: Arc<Readers>,
    writer: Mutex<Option<JoinHandle<()>>>,
    sync: SyncPolicy,
    recovery: Recovery,
    _dir: DataDir,
}

impl DiskLog {
    /// Opens the log in a directory, and makes it if there is none. `now` names the epoch if a new one begins.
    ///
    /// # Errors
    /// When the file is damaged, of a later version or of another program, or the disk fails.
    pub fn open(config: DiskLogConfig, now: Timestamp) -> Result<DiskLog, OpenError> {
        match DiskLog::open_as_it_is(config.clone(), now) {
            // The reserve is for this too: nothing can be read, or removed, of a log that isn't open.
            Err(error) if error.is_full() && Space::give_up(config.dir.path()) => {
                DiskLog::open_as_it_is(config, now)
            }
            result => result,
        }
    }

    fn open_as_it_is(config: DiskLogConfig, now: Timestamp) -> Result<DiskLog, OpenError> {
        let dir = config.dir.path();
        let path = dir.join(FILE);
        let io = |error| OpenError::Directory { path: dir.to_owned(), error };
        // SQLite would make it readable for others, and gives its write-ahead log the same mode.
        OpenOptions::new().append(true).create(true).mode(0o600).open(&path).map_err(io)?;
        let store = Store::open(&path, config.sync == SyncPolicy::Always)?;
        let (mut mark_file, mark) = MarkFile::open(dir).map_err(io)?;
        let found = Found::load(&store, &config.retention).map_err(|error| error.opening(path.clone()))?;
        let (recovery, catalog) =
            found.into_catalog(&store, mark, now).map_err(|error| error.opening(path.clone()))?;
        crate::dir::sync_directory(dir).map_err(io)?;
        // Before anything is stored: from here on an end that is not in order is known for one.
        let start = catalog.lineage.present().map_or(Sequence::START, |(_, start)| start);
        mark_file.store(Mark { head: catalog.head, start, clean: false }).map_err(io)?;

        let upkeep = Upkeep::new(&catalog);
        let shared = Arc::new(Shared::new(catalog, config.queue_bytes));
        let readers = Arc::new(Readers::new(shared.clone(), path.clone()));
        let writer = Writer {
            shared: shared.clone(),
            store,
            retention: config.retention,
            sync: config.sync,
            fatal: config.fatal,
            mark: mark_file,
            space: Space::new(dir, config.reserve_bytes),
            wal: wal_of(&path),
            upkeep,
            leases: Leases::default(),
        };
        let fatal = config.fatal;
        let thread = std::thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || {
                // Whoever waits for an answer would wait for ever.
                let run = std::panic::AssertUnwindSafe(|| writer.run());
                if std::panic::catch_unwind(run).is_err() {
                    fatal("the writer of the log panicked");
                    std::process::abort();
                }
            })
            .map_err(io)?;
        Ok(DiskLog {
            shared,
            readers,
            writer: Mutex::new(Some(thread)),
            sync: config.sync,
            recovery,
            _dir: config.dir,
        })
    }

    /// What was found when it was opened.
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, AppendError>>) -> Job,
    ) -> impl Future<Output = Result<T, AppendError>> + Send + 'static {
        let (reply, answer) = oneshot::channel();
        let taken = self.shared.queue.push(job(reply));
        async move {
            match taken {
                Ok(()) => answer
                    .await
                    .unwrap_or_else(|_| Err(AppendError::Unknown("the log ended in between".to_owned()))),
                Err(Refused::Busy) => Err(AppendError::Busy),
                Err(Refused::Closed) => Err(AppendError::NotStored("the log is closed".to_owned())),
            }
        }
    }
}

/// SQLite's name for the write-ahead log of a database.
fn wal_of(path: &std::path::Path) -> PathBuf {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    wal.into()
}

/// What the tables say at the start.
struct Found {
    head: Sequence,
    epochs: Vec<(Epoch, Sequence)>,
    catalog: Catalog,
}

impl Found {
    fn load(store: &Store, retention: &Retention) -> Result<Found, StoreError> {
        let totals = store.totals()?;
        let epochs = store.epochs()?;
        let head = match store.row_around(Sequence(i64::MAX as u64))? {
            None => Sequence::START,
            Some((at, Row::Event(_))) => at,
            Some((_, Row::Run(last))) => last,
        };
        let position = Position { epoch: Epoch(0), sequence: head };
        let mut catalog = Catalog::new(position, Lineage::default(), totals);
        let mut channels = 0;
        let mut newest = Sequence::START;
        store.channels(
            |channel| retention.caps(channel),
            |channel, state| {
                channels += 1;
                newest = newest.max(state.newest);
                catalog.set(channel, state);
            },
        )?;
        let damaged = |what: &str| Err(StoreError::damaged(head, what));
        if channels != totals.channels {
            return damaged("the row of a channel is lost");
        }
        if newest > head {
            return damaged("the newest records are lost, but their channels are not");
        }
        if epochs.last().is_some_and(|(_, start)| *start > head) {
            return damaged("the newest records are lost, but their epoch is not");
        }
        Ok(Found { head, epochs, catalog })
    }

    /// Decides whether the present epoch goes on, see [`crate::mark`].
    fn into_catalog(
        mut self,
        store: &Store,
        mark: Option<Mark>,
        now: Timestamp,
    ) -> Result<(Recovery, Catalog), StoreError> {
        let present = self.epochs.last().map(|(epoch, _)| *epoch);
        let found = Position { epoch: present.unwrap_or(Epoch(0)), sequence: self.head };
        let recovery = match (present, mark) {
            (None, None) => Recovery::New,
            (_, None) => Recovery::Unmarked,
            (_, Some(mark)) if mark.head > found || present.is_none() => {
                Recovery::Lost { found, expected: mark.head }
            }
            (_, Some(mark)) if mark.clean && mark.head == found => Recovery::Clean,
            _ => Recovery::Unclean,
        };
        if recovery != Recovery::Clean {
            store.begin()?;
            // An epoch that only the mark knows: cursors of it are known to be past the fork.
            if let Some(mark) = mark.filter(|mark| present.is_none_or(|present| mark.head.epoch > present)) {
                let start = mark.start.min(self.head);
                store.add_epoch(mark.head.epoch, start)?;
                self.epochs.push((mark.head.epoch, start));
            }
            let newest = self.epochs.last().map_or(0, |(epoch, _)| epoch.0);
            let seconds = u32::try_from(now.0 / 1000).unwrap_or(u32::MAX);
            let epoch = Epoch(seconds.max(newest.saturating_add(1)));
            store.add_epoch(epoch, self.head)?;
            self.epochs.push((epoch, self.head));
            store.commit()?;
        }
        let mut catalog = self.catalog;
        catalog.lineage = Lineage::new(self.epochs);
        let (epoch, _) = catalog.lineage.present().unwrap_or((Epoch(1), Sequence::START));
        catalog.head = Position { epoch, sequence: self.head };
        Ok((recovery, catalog))
    }
}

impl Log for DiskLog {
    fn append_with(&self, batch: Vec<NewRecord>, terms: Terms) -> Appending {
        if batch.is_empty() && terms.lease.is_none() && terms.note.is_none() {
            return Box::pin(ready(Ok(Vec::new())));
        }
        if let Some(note) = &terms.note
            && let Err(error) = check_note(&note.name, note.value.as_deref())
        {
            return Box::pin(ready(Err(error)));
        }
        let records: usize = batch.iter().map(|record| record.event.data.as_str().len() + 256).sum();
        let bytes = records + terms.note.as_ref().map_or(0, note_bytes);
        Box::pin(self.ask(|reply| Job::Append { batch, terms, bytes, reply }))
    }

    fn lease(&self, name: &str, holder: Holder, for_: Duration) -> Leasing {
        let note = format!("{LEASE_NOTE}{name}");
        if let Err(error) = check_note(&note, None) {
            return Box::pin(ready(Err(error)));
        }
        Box::pin(self.ask(|reply| Job::Lease { name: name.to_owned(), holder, for_, reply }))
    }

    fn note(&self, name: &str) -> Result<Option<Vec<u8>>, ReadError> {
        Ok(self.readers.snapshot()?.store().note(name)?)
    }

    fn notes(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Vec<u8>)>, ReadError> {
        Ok(self.readers.snapshot()?.store().notes(prefix, after, limit)?)
    }

    fn set_note(&self, name: String, value: Option<Vec<u8>>) -> Noting {
        if let Err(error) = check_note(&name, value.as_deref()) {
            return Box::pin(ready(Err(error)));
        }
        let noting =
            self.ask(|reply| Job::Note(NoteJob { note: Note { name, value }, only_if: None, reply }));
        Box::pin(async move { noting.await.map(drop) })
    }

    fn set_note_if(&self, name: String, expected: Option<Vec<u8>>, value: Option<Vec<u8>>) -> NotingIf {
        if let Err(error) = check_note(&name, value.as_deref()) {
            return Box::pin(ready(Err(error)));
        }
        let (note, only_if) = (Note { name, value }, Some(Expected(expected)));
        Box::pin(self.ask(|reply| Job::Note(NoteJob { note, only_if, reply })))
    }

    fn ended(&self, channel: &Channel) -> Option<Sequence> {
        self.shared.catalog().ended(channel)
    }

    fn keyed(
        &self,
        channel: &Channel,
        key: &Key,
        after: Sequence,
        limit: usize,
    ) -> Result<Vec<Record>, ReadError> {
        Ok(self.readers.keyed(channel, key, after, limit)?)
    }

    fn tail(&self, after: Sequence) -> Result<Box<dyn Tail>, ReadError> {
        Ok(Box::new(DiskTail::new(&self.readers, after)?))
    }

    fn read(
        &self,
        selections: &[Selection],
        order: Order,
        limit: ReadLimit,
        now: Timestamp,
    ) -> Result<Page, ReadError> {
        Ok(self.readers.read(selections, order, limit, now)?)
    }

    fn newest(&self, views: &[View], count: usize, through: Sequence) -> Result<Vec<Selection>, ReadError> {
        Ok(self.readers.newest(views, count, through)?)
    }

    fn floor(&self, views: &[View]) -> Sequence {
        let catalog = self.shared.catalog();
        views.iter().map(|view| catalog.floor(view)).max().unwrap_or_default()
    }

    fn locate(&self, position: Position) -> Located {
        let catalog = self.shared.catalog();
        catalog.lineage.locate(position, catalog.head.sequence)
    }

    fn head(&self) -> Position {
        self.shared.catalog().head
    }

    fn purge(&self, channel: Channel) -> Removing {
        Box::pin(self.ask(|reply| Job::Purge { channel, reply }))
    }

    fn delete(&self, position: Position) -> Removing {
        Box::pin(self.ask(|reply| Job::Delete { position, reply }))
    }

    fn retain(&self, now: Timestamp) {
        for _ in 0..ROUNDS {
            let (reply, answer) = oneshot::channel();
            if self.shared.queue.push(Job::Retain { now, reply }).is_err() {
                return;
            }
            if answer.blocking_recv() != Ok(true) {
                return;
            }
        }
    }

    fn channels(
        &self,
        prefix: &str,
        after: Option<&Channel>,
        limit: usize,
    ) -> Result<Vec<ChannelInfo>, ReadError> {
        Ok(self.shared.catalog().list(prefix, after, limit))
    }

    fn stats(&self) -> LogStats {
        let catalog = self.shared.catalog();
        LogStats {
            records: catalog.totals.records,
            bytes: catalog.totals.bytes,
            channels: catalog.kept(),
            commits: self.shared.commits.load(Ordering::Relaxed),
            syncs: self.shared.syncs.load(Ordering::Relaxed),
            trouble: self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    fn durability(&self) -> Durability {
        match self.sync {
            SyncPolicy::Always => Durability::Synced,
            SyncPolicy::Every(every) => Durability::SyncedEvery(every),
            SyncPolicy::Never => Durability::Unsynced,
        }
    }

    fn close(&self) {
        self.shared.queue.close();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            // It ends the process rather than panic.
            let _ = writer.join();
        }
    }
}

impl Drop for DiskLog {
    fn drop(&mut self) {
        self.close();
    }
}
