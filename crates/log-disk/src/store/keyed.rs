//! The records of each channel that have a key.
//!
//! By channel and key, for that is how they are looked for: only events with a key pay for the page that each may
//! need. A row goes with the place of its record, or before.
//!
//! A row in which a bit of its name has flipped is not found where it is looked for. But it still stands where it
//! stood, beside those that are found, and so the neighbours of what is found are checked as well. That is why channel
//! and key are one column: what is asked of two, SQLite asks of each row again, and passes over one that is wrong.

use rusqlite::{Row, params};
use tidings_wire::{Key, Sequence};

use super::{Store, sequence_of, signed, sum};
use crate::error::{Result, StoreError};

pub(super) const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS keyed (
        name TEXT NOT NULL,      -- the channel's id, a colon, the key
        seq INTEGER NOT NULL,
        sum INTEGER NOT NULL,
        PRIMARY KEY (name, seq)
    ) WITHOUT ROWID;";

impl Store {
    pub(crate) fn insert_keyed(&self, channel: i64, key: &Key, sequence: Sequence) -> Result<()> {
        let name = name(channel, key);
        let sum = sum(&[signed(sequence.0)], &name);
        self.db
            .prepare_cached("INSERT OR REPLACE INTO keyed (name, seq, sum) VALUES (?1, ?2, ?3)")?
            .execute(params![name, signed(sequence.0), sum])?;
        Ok(())
    }

    /// Up to `limit` records of a channel with a key, after one and up to another that is among the newest, the newest
    /// first.
    pub(crate) fn keyed(
        &self,
        channel: i64,
        key: &Key,
        after: Sequence,
        through: Sequence,
        limit: usize,
    ) -> Result<Vec<Sequence>> {
        let name = name(channel, key);
        let mut statement = self
            .db
            .prepare_cached("SELECT name, seq, sum FROM keyed WHERE name > ?1 ORDER BY name, seq LIMIT 1")?;
        if let Some(row) = statement.query([&name])?.next()? {
            checked(row, &name)?;
        }
        let mut statement = self.db.prepare_cached(
            "SELECT name, seq, sum FROM keyed WHERE name <= ?1 ORDER BY name DESC, seq DESC",
        )?;
        let mut rows = statement.query([&name])?;
        let mut sequences = Vec::new();
        while sequences.len() < limit
            && let Some(row) = rows.next()?
        {
            match checked(row, &name)? {
                Some(sequence) if sequence > through => {}
                Some(sequence) if sequence > after => sequences.push(sequence),
                _ => break,
            }
        }
        Ok(sequences)
    }

    pub(crate) fn delete_keyed(&self, channel: i64, key: &Key, sequence: Sequence) -> Result<()> {
        self.db
            .prepare_cached("DELETE FROM keyed WHERE name = ?1 AND seq = ?2")?
            .execute(params![name(channel, key), signed(sequence.0)])?;
        Ok(())
    }

    /// The same when the key can't be read any more: looks at all keys of the channel.
    pub(crate) fn delete_keyed_by_sequence(&self, channel: i64, sequence: Sequence) -> Result<()> {
        self.db
            .prepare_cached("DELETE FROM keyed WHERE name > ?1 || ':' AND name < ?1 || ';' AND seq = ?2")?
            .execute(params![channel.to_string(), signed(sequence.0)])?;
        Ok(())
    }
}

fn name(channel: i64, key: &Key) -> String {
    format!("{channel}:{key}")
}

/// The record of a row, if the row has this name.
fn checked(row: &Row<'_>, name: &str) -> Result<Option<Sequence>> {
    let sequence = sequence_of(row, 1)?;
    match row.get_ref(0)?.as_str() {
        Ok(of) if sum(&[signed(sequence.0)], of) == row.get::<_, i64>(2)? => {
            Ok((of == name).then_some(sequence))
        }
        _ => Err(StoreError::damaged(sequence, "the row of a key has a wrong checksum")),
    }
}
