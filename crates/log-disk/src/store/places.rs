//! Which records a channel has, in blocks of consecutive sequences.

use std::time::Duration;

use rusqlite::params;
use tidings_wire::Sequence;

use super::{Store, sequence_of, signed, sum, unsigned};
use crate::error::{Result, StoreError};

/// How many sequences are in one block of places, as a power of two. With ten thousand channels, in batches, on a
/// busy machine of two cores: 40,000 records a second, 14,000 without blocks (the example `large`).
const BLOCK_BITS: u32 = if cfg!(test) { 3 } else { 16 };

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

impl Store {
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
}

fn block_of(sequence: Sequence) -> i64 {
    signed(sequence.0 >> BLOCK_BITS)
}
