//! What was stored under idempotency keys.
//!
//! A row has the hash of the key, that of the body, when it may be forgotten, the positions that are the answer, and a
//! checksum over all of it. It is written in the transaction that stores the batch.

use rusqlite::params;
use tidings_hub::Timestamp;
use tidings_hub::log::Once;
use tidings_wire::{Epoch, Position, Sequence};

use super::{Store, signed, unsigned};
use crate::error::{Result, StoreError};
use tidings_hub::log::codec::{Reader, put_number};

pub(super) const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS once (
        key BLOB PRIMARY KEY,
        body BLOB NOT NULL,
        until INTEGER NOT NULL,      -- milliseconds
        positions BLOB NOT NULL,
        sum INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS once_until ON once (until);";

/// What is remembered of a key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Remembered {
    /// The answer, of the same body.
    Same(Vec<Position>),
    /// Another body.
    Other,
}

impl Store {
    /// What was stored under this key and is not to be forgotten yet.
    pub(crate) fn remembered(&self, once: &Once, now: Timestamp) -> Result<Option<Remembered>> {
        let mut statement =
            self.db.prepare_cached("SELECT body, until, positions, sum FROM once WHERE key = ?1")?;
        let mut rows = statement.query([&once.key[..]])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let damaged = |what: &str| {
            StoreError::damaged(Sequence::START, format!("what is remembered of an idempotency key {what}"))
        };
        let blob = |at| row.get_ref(at)?.as_blob().map_err(rusqlite::Error::from);
        let (body, until, positions) = (blob(0)?, row.get(1)?, blob(2)?);
        if sum(&once.key, body, until, positions) != row.get::<_, i64>(3)? {
            return Err(damaged("has a wrong checksum"));
        }
        if Timestamp(unsigned(until)) <= now {
            return Ok(None);
        }
        if body != once.body {
            return Ok(Some(Remembered::Other));
        }
        let positions = decode(positions).ok_or_else(|| damaged("can't be read"))?;
        Ok(Some(Remembered::Same(positions)))
    }

    /// Remembers what was stored under a key, in the place of what is to be forgotten.
    pub(crate) fn remember(&self, once: &Once, positions: &[Position]) -> Result<()> {
        let positions = encode(positions);
        let until = signed(once.until.0);
        let sum = sum(&once.key, &once.body, until, &positions);
        self.db
            .prepare_cached(
                "INSERT OR REPLACE INTO once (key, body, until, positions, sum) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![&once.key[..], &once.body[..], until, positions, sum])?;
        Ok(())
    }

    /// Forgets up to `limit` keys whose time is over. Says how many they were.
    pub(crate) fn forget_keys(&self, now: Timestamp, limit: usize) -> Result<usize> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        Ok(self
            .db
            .prepare_cached(
                "DELETE FROM once WHERE key IN (SELECT key FROM once WHERE until <= ?1 ORDER BY until LIMIT ?2)",
            )?
            .execute([signed(now.0), limit])?)
    }
}

/// The positions of one batch: in one epoch, and each at most a little behind the one before, so that most have one
/// byte.
fn encode(positions: &[Position]) -> Vec<u8> {
    let mut out = Vec::with_capacity(12 + positions.len());
    let mut before = 0;
    for (at, position) in positions.iter().enumerate() {
        if at == 0 {
            out.extend(position.epoch.0.to_le_bytes());
        }
        put_number(&mut out, position.sequence.0 - before);
        before = position.sequence.0;
    }
    out
}

fn decode(bytes: &[u8]) -> Option<Vec<Position>> {
    let mut from = Reader(bytes);
    let epoch = Epoch(u32::from_le_bytes(from.array()?));
    let mut positions = Vec::new();
    let mut before = 0_u64;
    while !from.0.is_empty() {
        before = before.checked_add(from.number()?)?;
        positions.push(Position { epoch, sequence: Sequence(before) });
    }
    Some(positions)
}

fn sum(key: &[u8], body: &[u8], until: i64, positions: &[u8]) -> i64 {
    let mut crc = crc32fast::Hasher::new();
    for part in [key, body, &until.to_le_bytes(), positions] {
        crc.update(part);
    }
    i64::from(crc.finalize())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn positions_come_back(epoch: u32, first in 0..1_u64 << 60, steps in prop::collection::vec(0..3_u64, 0..50)) {
            let mut sequence = first;
            let mut positions = vec![Position { epoch: Epoch(epoch), sequence: Sequence(first) }];
            for step in steps {
                sequence += step;
                positions.push(Position { epoch: Epoch(epoch), sequence: Sequence(sequence) });
            }
            prop_assert_eq!(decode(&encode(&positions)), Some(positions));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }
    }
}
