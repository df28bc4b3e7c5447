//! What is known of each channel, of all together, and of the log's epochs.

use rusqlite::{OptionalExtension, params};
use tidings_hub::log::Caps;
use tidings_wire::{Channel, Epoch, Sequence};

use super::{Store, sequence_of, signed, sum, unsigned};
use crate::catalog::{ChannelState, Totals};
use crate::error::{Result, StoreError};

/// How many epochs are remembered. A cursor of one before that is unknown.
const EPOCHS: i64 = 4_096;

/// What the row of a channel says, but its name and caps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChannelRow {
    pub(crate) gone: Sequence,
    pub(crate) last: Sequence,
}

impl Store {
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
