//! The events, by their sequence, and the runs of those that were removed.

use rusqlite::params;
use tidings_wire::Sequence;

use super::{Store, sequence_of, signed};
use crate::error::{Result, StoreError};
use crate::record::{self, Row};

impl Store {
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
}

fn not_a_blob(error: rusqlite::types::FromSqlError) -> StoreError {
    StoreError::damaged(Sequence::START, format!("a row's body is none: {error}"))
}
