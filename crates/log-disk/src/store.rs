//! The tables, and every statement on them.
//!
//! - `records`: each sequence from 1 to the head is in exactly one row, as an event or inside a run of removed ones;
//!   a sequence in none is a damage.
//! - `places`: the records of each channel, in blocks of consecutive sequences: new rows of whatever channels go into
//!   the few hundred pages of the newest block, not into one page of each channel. Each row names the one before it in its channel, and the channel's row
//!   names the last, so that a lost row is found out.
//! - `channels`, `totals`, `epochs`: what [`crate::catalog`] holds.
//! - `keyed`: the records of each channel that have a key. New in format 2, and so is `channels.ended`.
//! - `notes`, `once`: what is kept beside the records, and what was stored under idempotency keys. New in format 2.
//!
//! Rows carry checksums of their own: SQLite has none, and delivers a flipped bit as data.

mod keyed;
mod notes;
mod once;

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, Row as SqlRow, params};
use tidings_hub::log::Caps;
use tidings_wire::{Channel, Epoch, Sequence};

use crate::catalog::{ChannelState, Totals};
use crate::error::{OpenError, Result, StoreError};
use crate::record::{self, Row};

pub(crate) use once::Remembered;

/// `TDGL`: what the file is, for whoever finds it (SQLite's `application_id`).
const APPLICATION: i64 = 0x5444_474C;
/// The format of the tables. A file of an older one is brought up to date when it is opened, a newer one is refused.
pub(crate) const FORMAT: i64 = 2;

/// How many epochs are remembered. A cursor of one before that is unknown.
const EPOCHS: i64 = 4_096;

/// How many sequences are in one block of places, as a power of two. With ten thousand channels, in batches, on a
/// busy machine of two cores: 40,000 records a second, 14,000 without blocks (the example `large`).
const BLOCK_BITS: u32 = if cfg!(test) { 3 } else { 16 };

const TABLES: &str = "
    CREATE TABLE records (
        seq INTEGER PRIMARY KEY,
        body BLOB NOT NULL
    );
    CREATE TABLE places (
        block INTEGER NOT NULL,
        channel INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        prev INTEGER NOT NULL,   -- the record before in this channel that had a row
        bytes INTEGER NOT NULL,
        time INTEGER NOT NULL,
        ttl INTEGER NOT NULL,    -- seconds; -1: none
        targets INTEGER NOT NULL, -- how many; with a key, negative
        sum INTEGER NOT NULL,
        PRIMARY KEY (block, channel, seq)
    ) WITHOUT ROWID;
    CREATE TABLE channels (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL,
        gone INTEGER NOT NULL,
        floor INTEGER NOT NULL,
        newest INTEGER NOT NULL,
        last INTEGER NOT NULL,
        swept INTEGER NOT NULL,
        records INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        sum INTEGER NOT NULL
    );
    CREATE TABLE totals (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        records INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        forgotten INTEGER NOT NULL,
        channels INTEGER NOT NULL,
        next_id INTEGER NOT NULL,
        sum INTEGER NOT NULL
    );
    CREATE TABLE epochs (
        epoch INTEGER PRIMARY KEY,
        start INTEGER NOT NULL,  -- the record behind which it began
        sum INTEGER NOT NULL
    );";

/// What came with format 2, to bring older files up to date. A new one gets the tables of the first format and then
/// this, so that there is one shape only. No row changes: one of the first format means the same in the second.
fn added() -> String {
    // Of most channels nobody ever says that they ended.
    let ended = "ALTER TABLE channels ADD COLUMN ended INTEGER NOT NULL DEFAULT 0;";
    [ended, keyed::TABLE, notes::TABLE, once::TABLE].concat()
}

/// A record in a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) sequence: Sequence,
    pub(crate) prev: Sequence,
    pub(crate) bytes: u64,
    /// When it was published, in milliseconds.
    pub(crate) time: u64,
    pub(crate) ttl: Option<u32>,
    /// In how many channels it was published.
    pub(crate) targets: u32,
    /// Whether it has a key.
    pub(crate) keyed: bool,
}

impl Place {
    /// Whether its `ttl` is over.
    pub(crate) fn expired(&self, now: tidings_hub::Timestamp) -> bool {
        let time = tidings_hub::Timestamp(self.time);
        self.ttl.is_some_and(|ttl| now >= time.plus(Duration::from_secs(ttl.into())))
    }

    fn fields(&self, channel: i64) -> [i64; 7] {
        [
            channel,
            signed(self.sequence.0),
            signed(self.prev.0),
            signed(self.bytes),
            signed(self.time),
            self.ttl.map_or(-1, i64::from),
            if self.keyed { -i64::from(self.targets) } else { i64::from(self.targets) },
        ]
    }
}

/// What the row of a channel says, but its name and caps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChannelRow {
    pub(crate) gone: Sequence,
    pub(crate) last: Sequence,
}

/// A connection to the tables.
#[derive(Debug)]
pub(crate) struct Store {
    db: Connection,
}

impl Store {
    /// Opens the file for writing, makes it if there is none.
    pub(crate) fn open(path: &Path, sync_commits: bool) -> std::result::Result<Store, OpenError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opening = |error: StoreError| error.opening(path.to_owned());
        let store = Store { db: Connection::open_with_flags(path, flags).map_err(|e| opening(e.into()))? };
        let format = store.format().map_err(opening)?;
        match format {
            Format::New | Format::Known | Format::Older => {}
            Format::Foreign => return Err(OpenError::NotALog { path: path.to_owned() }),
            Format::Newer(found) => {
                return Err(OpenError::Newer { path: path.to_owned(), found, known: FORMAT });
            }
        }
        store.prepare(sync_commits).map_err(opening)?;
        match format {
            Format::New => store.make_tables().map_err(opening)?,
            Format::Older => store.bring_up_to_date().map_err(opening)?,
            _ => {}
        }
        Ok(store)
    }

    /// Opens the file for reading beside the writer.
    pub(crate) fn open_reader(path: &Path) -> Result<Store> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(path, flags)?;
        db.busy_timeout(Duration::from_secs(5))?;
        db.set_prepared_statement_cache_capacity(32);
        Ok(Store { db })
    }

    fn format(&self) -> Result<Format> {
        let tables: i64 = self.db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        let application: i64 = self.pragma("application_id")?;
        let version: i64 = self.pragma("user_version")?;
        Ok(match (tables, application, version) {
            (0, 0, 0) => Format::New,
            (_, APPLICATION, FORMAT) => Format::Known,
            (_, APPLICATION, version) if version > FORMAT => Format::Newer(version),
            (_, APPLICATION, 1..FORMAT) => Format::Older,
            _ => Format::Foreign,
        })
    }

    fn prepare(&self, sync_commits: bool) -> Result<()> {
        let mode: String = self.db.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
        if mode != "wal" {
            return Err(StoreError::damaged(Sequence::START, format!("no write-ahead log, but {mode}")));
        }
        // FULL syncs the write-ahead log at each commit, before the commit is seen by readers; NORMAL only before it
        // is copied into the database, so that the file stays whole but the newest commits may be lost.
        let synchronous = if sync_commits { "FULL" } else { "NORMAL" };
        self.db.execute_batch(&format!(
            "PRAGMA synchronous = {synchronous};
             -- A checkpoint that SQLite does by itself says nobody that its sync failed, and tries again: see Writer.
             PRAGMA wal_autocheckpoint = 0;
             PRAGMA journal_size_limit = -1;
             PRAGMA foreign_keys = OFF;
             PRAGMA temp_store = MEMORY;
             PRAGMA cache_size = -16384;"
        ))?;
        // Only checkpoints wait for anybody: for a reader that is in its way, which a few milliseconds end.
        self.db.busy_timeout(Duration::from_millis(100))?;
        self.db.set_prepared_statement_cache_capacity(64);
        Ok(())
    }

    fn make_tables(&self) -> Result<()> {
        self.db.execute_batch(&format!(
            "BEGIN IMMEDIATE; {TABLES} {ADDED}
             PRAGMA application_id = {APPLICATION};
             PRAGMA user_version = {FORMAT};",
            ADDED = added(),
        ))?;
        self.set_totals(Totals { next_id: 1, ..Totals::default() })?;
        self.commit()
    }

    /// Gives a file of an older format what it doesn't have. However large it is, that changes a few pages.
    fn bring_up_to_date(&self) -> Result<()> {
        self.db.execute_batch(&format!(
            "BEGIN IMMEDIATE; {ADDED}
             PRAGMA user_version = {FORMAT};
             COMMIT;",
            ADDED = added(),
        ))?;
        Ok(())
    }

    fn pragma(&self, name: &str) -> Result<i64> {
        Ok(self.db.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0))?)
    }

    /// Begins a transaction that may write.
    pub(crate) fn begin(&self) -> Result<()> {
        self.run("BEGIN IMMEDIATE")
    }

    /// Begins a snapshot, as of now.
    pub(crate) fn begin_snapshot(&self) -> Result<()> {
        self.run("BEGIN")?;
        // SQLite takes the snapshot with the first read.
        self.db.prepare_cached("SELECT one FROM totals")?.query_row([], |_| Ok(()))?;
        Ok(())
    }

    pub(crate) fn commit(&self) -> Result<()> {
        self.run("COMMIT")
    }

    /// Ends a transaction, if one is under way, and takes back what it did.
    pub(crate) fn roll_back(&self) -> Result<()> {
        if self.db.is_autocommit() { Ok(()) } else { self.run("ROLLBACK") }
    }

    fn run(&self, sql: &str) -> Result<()> {
        self.db.prepare_cached(sql)?.execute([])?;
        Ok(())
    }

    /// Copies the write-ahead log into the database.
    pub(crate) fn checkpoint(&self, how: Checkpoint) -> Result<Checkpointed> {
        let mode = match how {
            Checkpoint::Passive => "PASSIVE",
            Checkpoint::Restart => "RESTART",
            Checkpoint::Truncate => "TRUNCATE",
        };
        let (pages, done): (i64, i64) =
            self.db.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| {
                Ok((row.get(1)?, row.get(2)?))
            })?;
        let count = |pages: i64| u64::try_from(pages).unwrap_or_default();
        Ok(Checkpointed { pages: count(pages), left: count(pages - done) })
    }

    /// How many bytes of the file are free for what is written next.
    pub(crate) fn free_bytes(&self) -> Result<u64> {
        let pages = self.pragma("freelist_count")?;
        Ok(unsigned(pages.saturating_mul(self.pragma("page_size")?)))
    }

    // records

    pub(crate) fn insert_record(&self, sequence: Sequence, body: &[u8]) -> Result<()> {
        self.db
            .prepare_cached("INSERT INTO records (seq, body) VALUES (?1, ?2)")?
            .execute(params![signed(sequence.0), body])?;
        Ok(())
    }

    /// The row of one record. `None` if it has none of its own, being inside a run.
    pub(crate) fn record(&self, sequence: Sequence) -> Result<Option<Row>> {
        let mut statement = self.db.prepare_cached("SELECT body FROM records WHERE seq = ?1")?;
        let mut rows = statement.query([signed(sequence.0)])?;
        match rows.next()? {
            Some(row) => Ok(Some(record::decode(sequence, row.get_ref(0)?.as_blob().map_err(not_a_blob)?)?)),
            None => Ok(None),
        }
    }

    /// The row that a sequence is in: its own, or that of its run.
    pub(crate) fn row_around(&self, sequence: Sequence) -> Result<Option<(Sequence, Row)>> {
        self.one_row("SELECT seq, body FROM records WHERE seq <= ?1 ORDER BY seq DESC LIMIT 1", sequence)
    }

    /// The first row after one.
    pub(crate) fn row_after(&self, sequence: Sequence) -> Result<Option<(Sequence, Row)>> {
        self.one_row("SELECT seq, body FROM records WHERE seq > ?1 ORDER BY seq LIMIT 1", sequence)
    }

    fn one_row(&self, sql: &str, sequence: Sequence) -> Result<Option<(Sequence, Row)>> {
        let mut found = None;
        self.rows(sql, sequence, |at, row| {
            found = Some((at, row));
            Ok(false)
        })?;
        Ok(found)
    }

    /// Every row whose key is at least this one, in order, until `each` says no.
    pub(crate) fn rows_from(
        &self,
        sequence: Sequence,
        each: impl FnMut(Sequence, Row) -> Result<bool>,
    ) -> Result<()> {
        self.rows("SELECT seq, body FROM records WHERE seq >= ?1 ORDER BY seq", sequence, each)
    }

    /// Every row whose key is at most this one, backwards, until `each` says no.
    pub(crate) fn rows_down_from(
        &self,
        sequence: Sequence,
        each: impl FnMut(Sequence, Row) -> Result<bool>,
    ) -> Result<()> {
        self.rows("SELECT seq, body FROM records WHERE seq <= ?1 ORDER BY seq DESC", sequence, each)
    }

    fn rows(
        &self,
        sql: &str,
        sequence: Sequence,
        mut each: impl FnMut(Sequence, Row) -> Result<bool>,
    ) -> Result<()> {
        let mut statement = self.db.prepare_cached(sql)?;
        let mut rows = statement.query([signed(sequence.0)])?;
        while let Some(row) = rows.next()? {
            let at = sequence_of(row, 0)?;
            let body = row.get_ref(1)?.as_blob().map_err(not_a_blob)?;
            if !each(at, record::decode(at, body)?)? {
                break;
            }
        }
        Ok(())
    }

    /// Puts a run in the place of consecutive rows, and makes one of it and the runs beside it.
    pub(crate) fn remove_records(&self, first: Sequence, last: Sequence) -> Result<()> {
        let mut start = first;
        let mut end = last;
        if first.0 > 1
            && let Some((at, before)) = self.run_at("seq < ?1 ORDER BY seq DESC LIMIT 1", first)?
            && before.next() == first
        {
            start = at;
        }
        if let Some((_, behind)) = self.run_at("seq = ?1", last.next())? {
            end = behind;
        }
        self.db
            .prepare_cached("DELETE FROM records WHERE seq >= ?1 AND seq <= ?2")?
            .execute([signed(start.0), signed(end.0)])?;
        self.insert_record(start, &record::encode_run(start, end))
    }

    /// The run at a place, if a run is there. Reads the body of nothing else.
    fn run_at(&self, place: &str, sequence: Sequence) -> Result<Option<(Sequence, Sequence)>> {
        let sql = format!(
            "SELECT seq, CASE WHEN substr(body, 1, 1) = x'{:02X}' THEN body END FROM records WHERE {place}",
            record::RUN
        );
        let mut statement = self.db.prepare_cached(&sql)?;
        let mut rows = statement.query([signed(sequence.0)])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let at = sequence_of(row, 0)?;
        let Some(body) = row.get_ref(1)?.as_blob_or_null().map_err(not_a_blob)? else { return Ok(None) };
        match record::decode(at, body)? {
            Row::Run(last) => Ok(Some((at, last))),
            Row::Event(_) => Ok(None),
        }
    }

    // places

    pub(crate) fn insert_place(&self, channel: i64, place: &Place) -> Result<()> {
        let [channel, seq, prev, bytes, time, ttl, targets] = place.fields(channel);
        self.db
            .prepare_cached(
                "INSERT OR REPLACE INTO places (block, channel, seq, prev, bytes, time, ttl, targets, sum)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?
            .execute(params![
                block_of(place.sequence),
                channel,
                seq,
                prev,
                bytes,
                time,
                ttl,
                targets,
                sum(&place.fields(channel), "")
            ])?;
        Ok(())
    }

    /// Up to `limit` places of a channel after one and up to another, the oldest first.
    pub(crate) fn places_after(
        &self,
        channel: i64,
        after: Sequence,
        through: Sequence,
        limit: usize,
    ) -> Result<Vec<Place>> {
        let mut places = Vec::new();
        if after >= through {
            return Ok(places);
        }
        for block in block_of(after.next())..=block_of(through) {
            self.places(&mut places, "ORDER BY seq", channel, block, after, through, limit)?;
            if places.len() >= limit {
                break;
            }
        }
        Ok(places)
    }

    /// Up to `limit` places of a channel up to and with one and after another, the newest first.
    pub(crate) fn places_down_from(
        &self,
        channel: i64,
        from: Sequence,
        after: Sequence,
        limit: usize,
    ) -> Result<Vec<Place>> {
        let mut places: Vec<Place> = Vec::new();
        let mut block = block_of(from);
        while from > after && places.len() < limit && block >= block_of(after.next()) {
            let before = places.len();
            self.places(&mut places, "ORDER BY seq DESC", channel, block, after, from, limit)?;
            block = match places.last() {
                // Each names the one before it, so that no block is looked at in which there is none.
                Some(oldest) if oldest.prev <= after => break,
                Some(oldest) if places.len() > before => block_of(oldest.prev).min(block - 1),
                _ => block - 1,
            };
        }
        Ok(places)
    }

    pub(crate) fn place(&self, channel: i64, sequence: Sequence) -> Result<Option<Place>> {
        let before = Sequence(sequence.0.saturating_sub(1));
        Ok(self.places_after(channel, before, sequence, 1)?.pop())
    }

    /// Adds the places of a channel in one block.
    #[allow(clippy::too_many_arguments, reason = "they are what the statement has for parameters")]
    fn places(
        &self,
        places: &mut Vec<Place>,
        order: &str,
        channel: i64,
        block: i64,
        after: Sequence,
        through: Sequence,
        limit: usize,
    ) -> Result<()> {
        let mut statement = self.db.prepare_cached(&format!(
            "SELECT seq, prev, bytes, time, ttl, targets, sum FROM places
             WHERE block = ?1 AND channel = ?2 AND seq > ?3 AND seq <= ?4 {order} LIMIT ?5"
        ))?;
        let limit = i64::try_from(limit - places.len()).unwrap_or(i64::MAX);
        let mut rows = statement.query([block, channel, signed(after.0), signed(through.0), limit])?;
        while let Some(row) = rows.next()? {
            let targets: i64 = row.get(5)?;
            let place = Place {
                sequence: sequence_of(row, 0)?,
                prev: sequence_of(row, 1)?,
                bytes: unsigned(row.get(2)?),
                time: unsigned(row.get(3)?),
                ttl: u32::try_from(row.get::<_, i64>(4)?).ok(),
                targets: u32::try_from(targets.unsigned_abs()).unwrap_or_default(),
                keyed: targets < 0,
            };
            if sum(&place.fields(channel), "") != row.get::<_, i64>(6)? {
                return Err(StoreError::damaged(
                    place.sequence,
                    "its place in a channel has a wrong checksum",
                ));
            }
            places.push(place);
        }
        Ok(())
    }

    pub(crate) fn delete_place(&self, channel: i64, sequence: Sequence) -> Result<()> {
        self.db
            .prepare_cached("DELETE FROM places WHERE block = ?1 AND channel = ?2 AND seq = ?3")?
            .execute([block_of(sequence), channel, signed(sequence.0)])?;
        Ok(())
    }

    /// Deletes places of a channel that are its oldest.
    pub(crate) fn delete_oldest_places(&self, channel: i64, places: &[Place]) -> Result<()> {
        for of_block in places.chunk_by(|a, b| block_of(a.sequence) == block_of(b.sequence)) {
            let Some(last) = of_block.last() else { continue };
            self.db
                .prepare_cached("DELETE FROM places WHERE block = ?1 AND channel = ?2 AND seq <= ?3")?
                .execute([block_of(last.sequence), channel, signed(last.sequence.0)])?;
        }
        Ok(())
    }

    // channels

    pub(crate) fn set_channel(&self, channel: &Channel, state: &ChannelState) -> Result<()> {
        let fields = channel_fields(state);
        let [id, gone, floor, newest, last, swept, records, bytes, ended] = fields;
        let (name, sum) = (channel.as_str(), channel_sum(&fields, channel.as_str()));
        self.db
            .prepare_cached(
                "INSERT OR REPLACE INTO channels
                    (id, name, gone, floor, newest, last, swept, records, bytes, ended, sum)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            )?
            .execute(params![id, name, gone, floor, newest, last, swept, records, bytes, ended, sum])?;
        Ok(())
    }

    pub(crate) fn delete_channel(&self, id: i64) -> Result<()> {
        self.db.prepare_cached("DELETE FROM channels WHERE id = ?1")?.execute([id])?;
        Ok(())
    }

    /// What the row of a channel says in this snapshot. `None` when the channel is not there, or not yet.
    pub(crate) fn channel(&self, id: i64) -> Result<Option<ChannelRow>> {
        let mut statement = self.db.prepare_cached("SELECT gone, last FROM channels WHERE id = ?1")?;
        Ok(statement
            .query_row([id], |row| {
                let sequence = |at| Ok::<_, rusqlite::Error>(Sequence(unsigned(row.get(at)?)));
                Ok(ChannelRow { gone: sequence(0)?, last: sequence(1)? })
            })
            .optional()?)
    }

    /// Every channel, each with the caps that `caps` says.
    pub(crate) fn channels(
        &self,
        caps: impl Fn(&Channel) -> Caps,
        mut each: impl FnMut(Channel, ChannelState),
    ) -> Result<()> {
        let mut statement = self.db.prepare(
            "SELECT id, gone, floor, newest, last, swept, records, bytes, ended, name, sum FROM channels",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let mut fields = [0; 9];
            for (at, field) in fields.iter_mut().enumerate() {
                *field = row.get(at)?;
            }
            let name = row.get_ref(9)?.as_str().map_err(rusqlite::Error::from)?;
            let damaged =
                || StoreError::damaged(Sequence::START, "the row of a channel has a wrong checksum");
            if channel_sum(&fields, name) != row.get::<_, i64>(10)? {
                return Err(damaged());
            }
            let channel = Channel::stored(name).map_err(|_| damaged())?;
            let [id, gone, floor, newest, last, swept, records, bytes, ended] = fields;
            let sequence = |value| Sequence(unsigned(value));
            let state = ChannelState {
                id,
                caps: caps(&channel),
                gone: sequence(gone),
                floor: sequence(floor),
                newest: sequence(newest),
                last: sequence(last),
                swept: sequence(swept),
                records: unsigned(records),
                bytes: unsigned(bytes),
                end: sequence(ended),
            };
            each(channel, state);
        }
        Ok(())
    }

    // totals and epochs

    pub(crate) fn set_totals(&self, totals: Totals) -> Result<()> {
        let fields = totals_fields(totals);
        let [records, bytes, forgotten, channels, next_id] = fields;
        self.db
            .prepare_cached(
                "INSERT OR REPLACE INTO totals (one, records, bytes, forgotten, channels, next_id, sum)
                 VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute([records, bytes, forgotten, channels, next_id, sum(&fields, "")])?;
        Ok(())
    }

    pub(crate) fn totals(&self) -> Result<Totals> {
        let damaged = || StoreError::damaged(Sequence::START, "the row of totals is missing or wrong");
        let mut statement =
            self.db.prepare("SELECT records, bytes, forgotten, channels, next_id, sum FROM totals")?;
        let mut rows = statement.query([])?;
        let row = rows.next()?.ok_or_else(damaged)?;
        let totals = Totals {
            records: unsigned(row.get(0)?),
            bytes: unsigned(row.get(1)?),
            forgotten: sequence_of(row, 2)?,
            channels: unsigned(row.get(3)?),
            next_id: row.get(4)?,
        };
        if sum(&totals_fields(totals), "") != row.get::<_, i64>(5)? {
            return Err(damaged());
        }
        Ok(totals)
    }

    pub(crate) fn add_epoch(&self, epoch: Epoch, start: Sequence) -> Result<()> {
        let fields = [i64::from(epoch.0), signed(start.0)];
        self.db.execute(
            "INSERT OR REPLACE INTO epochs (epoch, start, sum) VALUES (?1, ?2, ?3)",
            [fields[0], fields[1], sum(&fields, "")],
        )?;
        self.db.execute(
            "DELETE FROM epochs WHERE epoch <= (SELECT epoch FROM epochs ORDER BY epoch DESC LIMIT 1 OFFSET ?1)",
            [EPOCHS],
        )?;
        Ok(())
    }

    pub(crate) fn epochs(&self) -> Result<Vec<(Epoch, Sequence)>> {
        let mut statement = self.db.prepare("SELECT epoch, start, sum FROM epochs ORDER BY epoch")?;
        let mut rows = statement.query([])?;
        let mut epochs = Vec::new();
        while let Some(row) = rows.next()? {
            let fields: [i64; 2] = [row.get(0)?, row.get(1)?];
            let epoch = u32::try_from(fields[0]).ok();
            match epoch {
                Some(epoch) if sum(&fields, "") == row.get::<_, i64>(2)? => {
                    epochs.push((Epoch(epoch), Sequence(unsigned(fields[1]))));
                }
                _ => return Err(StoreError::damaged(Sequence::START, "the row of an epoch is wrong")),
            }
        }
        Ok(epochs)
    }
}

/// How the write-ahead log is copied into the database.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Checkpoint {
    /// As far as readers allow.
    Passive,
    /// All of it, so that it begins anew; readers are waited for.
    Restart,
    /// The same, and its space is given back.
    Truncate,
}

/// What is in the write-ahead log after that.
pub(crate) struct Checkpointed {
    /// All its pages.
    pub(crate) pages: u64,
    /// Those that are not in the database yet.
    pub(crate) left: u64,
}

enum Format {
    New,
    Known,
    Older,
    Newer(i64),
    Foreign,
}

fn channel_fields(state: &ChannelState) -> [i64; 9] {
    [
        state.id,
        signed(state.gone.0),
        signed(state.floor.0),
        signed(state.newest.0),
        signed(state.last.0),
        signed(state.swept.0),
        signed(state.records),
        signed(state.bytes),
        signed(state.end.0),
    ]
}

/// The row of a channel without an end has the checksum that it had in the first format.
fn channel_sum(fields: &[i64; 9], name: &str) -> i64 {
    let [first @ .., ended] = fields;
    sum(if *ended == 0 { first } else { fields }, name)
}

fn totals_fields(totals: Totals) -> [i64; 5] {
    [
        signed(totals.records),
        signed(totals.bytes),
        signed(totals.forgotten.0),
        signed(totals.channels),
        totals.next_id,
    ]
}

fn sum(fields: &[i64], name: &str) -> i64 {
    let mut crc = crc32fast::Hasher::new();
    fields.iter().for_each(|field| crc.update(&field.to_le_bytes()));
    crc.update(name.as_bytes());
    i64::from(crc.finalize())
}

fn block_of(sequence: Sequence) -> i64 {
    signed(sequence.0 >> BLOCK_BITS)
}

fn sequence_of(row: &SqlRow<'_>, at: usize) -> Result<Sequence> {
    Ok(Sequence(unsigned(row.get(at)?)))
}

/// SQLite's integers are signed. What is stored is far below the sign; times and numbers beyond it keep their bits.
fn signed(value: u64) -> i64 {
    value as i64
}

fn unsigned(value: i64) -> u64 {
    value as u64
}

fn not_a_blob(error: rusqlite::types::FromSqlError) -> StoreError {
    StoreError::damaged(Sequence::START, format!("a row's body is none: {error}"))
}
