//! What is noted beside the records.

use rusqlite::{OptionalExtension, Row, params};
use tidings_wire::Sequence;

use super::Store;
use crate::error::{Result, StoreError};

pub(super) const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS notes (
        name TEXT PRIMARY KEY,
        value BLOB NOT NULL,
        sum INTEGER NOT NULL
    ) WITHOUT ROWID;";

impl Store {
    /// Notes something, or takes it back. Says whether that changes anything.
    pub(crate) fn set_note(&self, name: &str, value: Option<&[u8]>) -> Result<bool> {
        let rows = match value {
            Some(value) => self
                .db
                .prepare_cached("INSERT OR REPLACE INTO notes (name, value, sum) VALUES (?1, ?2, ?3)")?
                .execute(params![name, value, sum(name, value)])?,
            None => self.db.prepare_cached("DELETE FROM notes WHERE name = ?1")?.execute([name])?,
        };
        Ok(rows > 0)
    }

    pub(crate) fn note(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let mut statement = self.db.prepare_cached("SELECT name, value, sum FROM notes WHERE name = ?1")?;
        let found = statement.query_row([name], |row| Ok(checked(row))).optional()?;
        Ok(found.transpose()?.map(|(_, value)| value))
    }

    /// Up to `limit` notes whose names begin so and come after one, in the order of their names' bytes.
    pub(crate) fn notes(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Vec<u8>)>> {
        let mut statement = self.db.prepare_cached(
            "SELECT name, value, sum FROM notes
             WHERE name >= ?1 AND (?2 IS NULL OR name > ?2) ORDER BY name LIMIT ?3",
        )?;
        // So that the search begins in the right place.
        let from = after.map_or(prefix, |after| after.max(prefix));
        let mut rows = statement.query(params![from, after, i64::try_from(limit).unwrap_or(i64::MAX)])?;
        let mut notes = Vec::new();
        while let Some(row) = rows.next()? {
            let (name, value) = checked(row)?;
            if !name.starts_with(prefix) {
                break;
            }
            notes.push((name, value));
        }
        Ok(notes)
    }
}

fn checked(row: &Row<'_>) -> Result<(String, Vec<u8>)> {
    let (name, value): (String, Vec<u8>) = (row.get(0)?, row.get(1)?);
    if sum(&name, &value) != row.get::<_, i64>(2)? {
        return Err(StoreError::damaged(Sequence::START, format!("the note {name:?} has a wrong checksum")));
    }
    Ok((name, value))
}

fn sum(name: &str, value: &[u8]) -> i64 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(name.as_bytes());
    // No byte of a name: what ends the one can't begin the other.
    crc.update(&[0xff]);
    crc.update(value);
    i64::from(crc.finalize())
}
