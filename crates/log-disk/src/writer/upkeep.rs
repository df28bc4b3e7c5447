//! What is done beside storing: retention, space, the write-ahead log, the head mark.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tidings_hub::Timestamp;
use tidings_hub::log::AppendError;
use tidings_wire::{Channel, Sequence};

use super::Writer;
use crate::SyncPolicy;
use crate::catalog::{Catalog, ChannelState};
use crate::error::StoreError;
use crate::mark::Mark;
use crate::store::{Checkpoint, Checkpointed};

/// How old the head mark may get while records are stored.
pub(super) const MARK_AGE: Duration = Duration::from_millis(200);
/// How many records one round of retention removes, how many rows of removed ones it sweeps, and how many channels
/// it looks at. Some milliseconds, in which appends wait.
const ROUND: usize = 2_048;
/// How many channels without a record are remembered with what they lost.
const REMEMBERED: usize = if cfg!(test) { 16 } else { 65_536 };

/// What the writer knows beside the catalog, all of it found again at the next start.
#[derive(Debug, Default)]
pub(crate) struct Upkeep {
    /// When the oldest record of a channel is due, at the earliest. Each channel with a cap by age and a record is
    /// in here, once.
    due: BTreeSet<(Timestamp, Channel)>,
    scheduled: HashSet<Channel>,
    /// Channels of whose lost records rows are left.
    pub(super) wasteful: BTreeSet<Channel>,
    /// Channels without a record, by what they lost.
    empty: BTreeSet<(Sequence, Channel)>,
    /// Channels that were over a cap when the log was opened: the cap was lowered.
    over: Vec<Channel>,
    /// Whether the caps over all channels may be exceeded, for the same reason.
    total_over: bool,
    pub(super) dropped: Sequence,
    /// About how many pages the write-ahead log has for the database.
    pub(super) pages: u64,
    /// How many it had in all at the last checkpoint.
    pub(super) wal_pages: u64,
    /// Since when something was stored that was not synced.
    pub(super) unsynced: Option<Instant>,
    /// When the mark was written, and whether it is behind.
    marked: Option<Instant>,
    pub(super) behind: bool,
    /// Whether there was too little space at the last look.
    pub(super) full: bool,
}

impl Upkeep {
    /// What there is to do for a log that was opened.
    pub(crate) fn new(catalog: &Catalog) -> Upkeep {
        let mut upkeep = Upkeep { total_over: true, ..Upkeep::default() };
        for (channel, state) in catalog.all() {
            upkeep.replace(channel, None, Some(state), Timestamp::default());
            if state.over() {
                upkeep.over.push(channel.clone());
            }
        }
        upkeep
    }

    /// A channel changed. `time`: no record that it has now and had not before is older.
    pub(super) fn replace(
        &mut self,
        channel: &Channel,
        old: Option<&ChannelState>,
        new: Option<&ChannelState>,
        time: Timestamp,
    ) {
        if let Some(old) = old.filter(|old| old.records == 0) {
            self.empty.remove(&(old.floor, channel.clone()));
        }
        let Some(new) = new else {
            self.wasteful.remove(channel);
            return;
        };
        if new.records == 0 {
            self.empty.insert((new.floor, channel.clone()));
        } else if let Some(age) = new.caps.age
            && self.scheduled.insert(channel.clone())
        {
            self.due.insert((time.plus(age), channel.clone()));
        }
        if new.has_waste() {
            self.wasteful.insert(channel.clone());
        } else {
            self.wasteful.remove(channel);
        }
    }

    /// Some of the channels of whose lost records rows are left.
    pub(super) fn some_wasteful(&self) -> Vec<Channel> {
        self.wasteful.iter().take(ROUND).cloned().collect()
    }
}

impl Writer {
    /// One round of retention: a bounded number of records. Says whether there is more to do.
    pub(super) fn retain(&mut self, now: Timestamp) -> bool {
        self.look_for_room();
        let mut due = Vec::new();
        while due.len() < ROUND
            && let Some((time, _)) = self.upkeep.due.first()
            && *time <= now
            && let Some((_, channel)) = self.upkeep.due.pop_first()
        {
            self.upkeep.scheduled.remove(&channel);
            due.push((channel, None));
        }
        let more_due = due.len() == ROUND;
        let over = std::mem::take(&mut self.upkeep.over);
        let total_over = self.upkeep.total_over;
        let mut budget = ROUND;
        let (mut swept, mut forgotten) = (0, 0);
        let changes = self.transact(|stage, upkeep| {
            for channel in &over {
                stage.enforce_caps(channel, now, &mut budget)?;
            }
            for (channel, oldest) in &mut due {
                *oldest = stage.enforce_age(channel, now, &mut budget)?;
            }
            stage.enforce_total_age(now, &mut budget)?;
            forgotten = stage.forget_keys(now, ROUND)?;
            if total_over {
                stage.enforce_total(now, &mut budget)?;
            }
            let mut wasteful = upkeep.some_wasteful();
            wasteful.extend(
                stage.changes.channels.keys().filter(|name| !upkeep.wasteful.contains(*name)).cloned(),
            );
            swept = stage.sweep(&wasteful, ROUND)?;
            let surplus = upkeep.empty.len().saturating_sub(REMEMBERED).min(ROUND);
            for (_, channel) in upkeep.empty.iter().take(surplus) {
                stage.forget(channel)?;
            }
            Ok(())
        });
        match changes {
            Ok(changes) => {
                for (channel, oldest) in due {
                    if let Some(oldest) = oldest {
                        self.reschedule(channel, oldest);
                    }
                }
                let exhausted = budget == 0;
                if exhausted {
                    self.upkeep.over = over;
                }
                self.upkeep.total_over = total_over && exhausted;
                self.upkeep.pages += 8 + swept as u64 + forgotten as u64;
                self.apply(changes, now, &[]);
                self.look_for_room();
                exhausted || more_due || swept >= ROUND || forgotten >= ROUND
            }
            Err(error) => {
                // All of it again at the next call.
                for (channel, _) in due {
                    self.reschedule(channel, Timestamp::default());
                }
                self.upkeep.over = over;
                if !self.upkeep.full {
                    self.set_trouble(Some(format!("retention: {error}")));
                }
                false
            }
        }
    }

    fn reschedule(&mut self, channel: Channel, oldest: Timestamp) {
        let age = self.shared.catalog().get(&channel).and_then(|state| state.caps.age);
        if let Some(age) = age
            && self.upkeep.scheduled.insert(channel.clone())
        {
            self.upkeep.due.insert((oldest.plus(age), channel));
        }
    }

    pub(super) fn has_room(&mut self, bytes: usize) -> bool {
        let pending = self.upkeep.pages * crate::space::PAGE;
        let inside = || self.store.free_bytes().unwrap_or_default();
        let room = self.space.has_room(bytes as u64, pending, inside);
        if room == self.upkeep.full {
            self.set_full(!room);
        }
        room
    }

    /// Takes the reserve again if it was given away, and says that the disk is not full any more if it isn't.
    fn look_for_room(&mut self) {
        self.space.restore();
        if self.upkeep.full {
            self.has_room(0);
        }
    }

    pub(super) fn set_full(&mut self, full: bool) {
        self.upkeep.full = full;
        self.set_trouble(full.then(|| AppendError::Full.to_string()));
    }

    pub(super) fn set_trouble(&self, trouble: Option<String>) {
        *self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Copies the write-ahead log into the database, so that it begins anew.
    pub(super) fn checkpoint(&mut self, how: Checkpoint) {
        match self.store.checkpoint(how) {
            Ok(Checkpointed { pages, left }) => {
                self.upkeep.pages = left;
                self.upkeep.wal_pages = pages;
                self.shared.syncs.fetch_add(2, Ordering::Relaxed);
            }
            // The write-ahead log stays as it is, and with it everything stored.
            Err(error) if error.is_full() => {
                self.set_full(true);
                // The reserve is made large enough for it. What is written next would need it less.
                if self.space.release() {
                    self.checkpoint(how);
                }
            }
            Err(error) if is_busy(&error) => {}
            Err(error) => self.die("the write-ahead log can't be copied into the database", &error),
        }
    }

    pub(super) fn sync_if_due(&mut self) {
        if let (SyncPolicy::Every(every), Some(since)) = (self.sync, self.upkeep.unsynced)
            && since.elapsed() >= every
        {
            self.sync_now();
        }
    }

    fn sync_now(&mut self) {
        self.shared.syncs.fetch_add(1, Ordering::Relaxed);
        // Another descriptor of the same file: what is synced is the file. (On the database itself this would end
        // SQLite's locks when it is closed; on the write-ahead log it has none.)
        if let Err(error) = File::open(&self.wal).and_then(|wal| wal.sync_data()) {
            self.die("the write-ahead log can't be synced", &error);
        }
        self.upkeep.unsynced = None;
    }

    pub(super) fn mark_if_due(&mut self) {
        if self.upkeep.behind && self.upkeep.marked.is_none_or(|at| at.elapsed() >= MARK_AGE) {
            self.upkeep.marked = Some(Instant::now());
            self.upkeep.behind = false;
            let mark = self.mark_of(false);
            // It only says how much was lost if something is; the epoch changes without it.
            let _ = self.mark.note(mark);
        }
    }

    fn mark_of(&self, clean: bool) -> Mark {
        let catalog = self.shared.catalog();
        let start = catalog.lineage.present().map_or(Sequence::START, |(_, start)| start);
        Mark { head: catalog.head, start, clean }
    }

    /// The end of an orderly process: everything in the database, then the mark that says so.
    pub(super) fn finish(&mut self) {
        if self.sync != SyncPolicy::Always {
            self.sync_now();
        }
        self.checkpoint(Checkpoint::Truncate);
        let mark = self.mark_of(true);
        if let Err(error) = self.mark.store(mark) {
            self.set_trouble(Some(format!(
                "the next start begins a new epoch, as the mark can't be stored: {error}"
            )));
        }
    }
}

fn is_busy(error: &StoreError) -> bool {
    matches!(error, StoreError::Sqlite(error) if matches!(
        error.sqlite_error_code(),
        Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked)
    ))
}
