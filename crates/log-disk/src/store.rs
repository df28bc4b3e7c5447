//! The tables, their shape and the connection to them. The statements are in a file for each.
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

mod channels;
mod keyed;
mod notes;
mod once;
mod places;
mod records;

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Row as SqlRow};
use tidings_wire::Sequence;

use crate::catalog::Totals;
use crate::error::{OpenError, Result, StoreError};

pub(crate) use once::Remembered;
pub(crate) use places::Place;

/// `TDGL`: what the file is, for whoever finds it (SQLite's `application_id`).
const APPLICATION: i64 = 0x5444_474C;
/// The format of the tables. A file of an older one is brought up to date when it is opened, a newer one is refused.
pub(crate) const FORMAT: i64 = 2;

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

fn sum(fields: &[i64], name: &str) -> i64 {
    let mut crc = crc32fast::Hasher::new();
    fields.iter().for_each(|field| crc.update(&field.to_le_bytes()));
    crc.update(name.as_bytes());
    i64::from(crc.finalize())
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
