//! The records of each channel that have a key.
//!
//! By channel and key, for that is how they are looked for: only events with a key pay for the page that each may
//! need. A row goes with the place of its record, or before.

use rusqlite::params;
use tidings_wire::{Key, Sequence};

use super::{Store, sequence_of, signed, sum};
use crate::error::{Result, StoreError};

pub(super) const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS keyed (
        channel INTEGER NOT NULL,
        key TEXT NOT NULL,
        seq INTEGER NOT NULL,
        sum INTEGER NOT NULL,
        PRIMARY KEY (channel, key, seq)
    ) WITHOUT ROWID;";

impl Store {
    pub(crate) fn insert_keyed(&self, channel: i64, key: &Key, sequence: Sequence) -> Result<()> {
        let sum = sum(&[channel, signed(sequence.0)], key.as_str());
        self.db
            .prepare_cached("INSERT OR REPLACE INTO keyed (channel, key, seq, sum) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![channel, key.as_str(), signed(sequence.0), sum])?;
        Ok(())
    }

    /// Up to `limit` records of a channel with a key, after one and up to another, the newest first.
    pub(crate) fn keyed(
        &self,
        channel: i64,
        key: &Key,
        after: Sequence,
        through: Sequence,
        limit: usize,
    ) -> Result<Vec<Sequence>> {
        let mut statement = self.db.prepare_cached(
            "SELECT seq, sum FROM keyed WHERE channel = ?1 AND key = ?2 AND seq > ?3 AND seq <= ?4
             ORDER BY seq DESC LIMIT ?5",
        )?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut rows =
            statement.query(params![channel, key.as_str(), signed(after.0), signed(through.0), limit])?;
        let mut sequences = Vec::new();
        while let Some(row) = rows.next()? {
            let sequence = sequence_of(row, 0)?;
            if sum(&[channel, signed(sequence.0)], key.as_str()) != row.get::<_, i64>(1)? {
                return Err(StoreError::damaged(sequence, "the row of its key has a wrong checksum"));
            }
            sequences.push(sequence);
        }
        Ok(sequences)
    }

    pub(crate) fn delete_keyed(&self, channel: i64, key: &Key, sequence: Sequence) -> Result<()> {
        self.db
            .prepare_cached("DELETE FROM keyed WHERE channel = ?1 AND key = ?2 AND seq = ?3")?
            .execute(params![channel, key.as_str(), signed(sequence.0)])?;
        Ok(())
    }

    /// The same when the key can't be read any more: looks at all keys of the channel.
    pub(crate) fn delete_keyed_by_sequence(&self, channel: i64, sequence: Sequence) -> Result<()> {
        self.db
            .prepare_cached("DELETE FROM keyed WHERE channel = ?1 AND seq = ?2")?
            .execute([channel, signed(sequence.0)])?;
        Ok(())
    }
}
