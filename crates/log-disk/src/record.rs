//! How a record is written into its row.
//!
//! One byte says what follows. [`RUN`]: a CRC and the last sequence of a run of removed records, whose first is the
//! row's key. [`EVENT`]: a CRC, then epoch, time and the event as [`codec`] writes it. The CRC is over the row's key too, so
//! that a record in the wrong place is found out.

use std::sync::Arc;

use tidings_hub::Timestamp;
use tidings_hub::log::Record;
use tidings_hub::log::codec::{self, Reader, put_event, put_number};
use tidings_wire::{Epoch, Event, Position, Sequence};

use crate::error::{Result, StoreError};

/// The first byte of a row of removed records.
pub(crate) const RUN: u8 = 0;
/// The first byte of an event in the first format. A later one gets another byte, and old rows stay readable.
const EVENT: u8 = 1;

/// What a row holds.
#[derive(Debug)]
pub(crate) enum Row {
    Event(Record),
    /// Removed records up to this one.
    Run(Sequence),
}

/// The row of an event.
pub(crate) fn encode_event(out: &mut Vec<u8>, position: Position, time: Timestamp, event: &Event) {
    out.clear();
    out.extend([EVENT, 0, 0, 0, 0]);
    out.extend(position.epoch.0.to_le_bytes());
    put_number(out, time.0);
    put_event(out, event);
    seal(out, position.sequence);
}

/// The row of removed records up to and with `last`.
pub(crate) fn encode_run(first: Sequence, last: Sequence) -> Vec<u8> {
    let mut out = vec![RUN, 0, 0, 0, 0];
    out.extend(last.0.to_le_bytes());
    seal(&mut out, first);
    out
}

fn seal(out: &mut [u8], key: Sequence) {
    let crc = checksum(out[0], key, &out[5..]);
    out[1..5].copy_from_slice(&crc.to_le_bytes());
}

fn checksum(kind: u8, key: Sequence, rest: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&[kind]);
    crc.update(&key.0.to_le_bytes());
    crc.update(rest);
    crc.finalize()
}

/// Reads a row.
///
/// # Errors
/// When it is not what was written.
pub(crate) fn decode(at: Sequence, row: &[u8]) -> Result<Row> {
    let damaged = |what: &str| StoreError::damaged(at, what);
    let [kind, c0, c1, c2, c3, rest @ ..] = row else { return Err(damaged("it is too short")) };
    if checksum(*kind, at, rest) != u32::from_le_bytes([*c0, *c1, *c2, *c3]) {
        return Err(damaged("its checksum is wrong"));
    }
    match *kind {
        RUN => {
            let last =
                rest.try_into().map(u64::from_le_bytes).map_err(|_| damaged("a run of wrong length"))?;
            Ok(Row::Run(Sequence(last)))
        }
        EVENT => event(at, rest).map(Row::Event).ok_or_else(|| damaged("it can't be understood")),
        _ => Err(damaged("a later version wrote it")),
    }
}

fn event(sequence: Sequence, rest: &[u8]) -> Option<Record> {
    let mut from = Reader(rest);
    let epoch = Epoch(u32::from_le_bytes(from.array()?));
    let time = Timestamp(from.number()?);
    let event = codec::event(from)?;
    Some(Record { position: Position { epoch, sequence }, time, event: Arc::new(event) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidings_wire::{Channel, ConnectionId, Data, Exclude, Number, TagValue, Tags, Targets};

    use super::*;

    fn position(sequence: u64) -> Position {
        Position { epoch: Epoch(9), sequence: Sequence(sequence) }
    }

    fn any_event() -> impl Strategy<Value = Event> {
        let targets = prop::collection::vec("[a-zäß]{1,9}(/[a-z]{1,3}){0,2}", 1..5).prop_map(|names| {
            Targets::new(names.iter().map(|name| name.parse::<Channel>().unwrap())).unwrap()
        });
        let exclude = (
            prop::option::of("[^\\p{Cc}]{1,9}"),
            prop::option::of("[^\\p{Cc}]{1,9}"),
            prop::option::of(any::<u128>()),
        )
            .prop_map(|(user, client, connection)| Exclude {
                user: user.map(|id| id.parse().unwrap()),
                client: client.map(|id| id.parse().unwrap()),
                connection: connection.map(ConnectionId),
            });
        let value = prop_oneof![
            "[a-z]{0,9}".prop_map(|text| TagValue::Text(text.into())),
            (-1e9..1e9).prop_map(|number| TagValue::Number(Number::new(number).unwrap())),
            any::<bool>().prop_map(TagValue::Bool),
        ];
        let tags = prop::collection::btree_map("[a-zäß-]{1,9}", value, 0..4)
            .prop_map(|tags| Tags::new(tags.into_iter().map(|(name, value)| (name.into(), value))).unwrap());
        let chosen_by = (prop::option::of("[^\\p{Cc}]{1,9}"), tags, any::<bool>());
        let said = (any::<String>(), 0..3_u8);
        (targets, "[a-z.]{1,9}", said, any::<[Option<u32>; 2]>(), exclude, chosen_by).prop_map(
            |(to, event, (data, form), [retry, ttl], exclude, (key, tags, end))| Event {
                event: event.parse().unwrap(),
                data: match form {
                    0 => Data::Json(data.into()),
                    1 => Data::Text(data.into()),
                    _ => Data::Nothing,
                },
                retry,
                ttl,
                exclude,
                key: key.map(|key| key.parse().unwrap()),
                tags,
                end,
                ..Event::new(to, "".into())
            },
        )
    }

    proptest! {
        #[test]
        fn an_event_comes_back_and_no_flipped_bit_passes(
            event in any_event(), sequence: u64, time: u64, bit: prop::sample::Index
        ) {
            let mut row = Vec::new();
            encode_event(&mut row, position(sequence), Timestamp(time), &event);
            let Row::Event(record) = decode(Sequence(sequence), &row).unwrap() else { panic!("an event") };
            prop_assert_eq!(&*record.event, &event);
            prop_assert_eq!((record.position, record.time), (position(sequence), Timestamp(time)));
            prop_assert!(decode(Sequence(sequence ^ 1), &row).is_err(), "in another place");
            let bit = bit.index(row.len() * 8);
            row[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode(Sequence(sequence), &row).is_err());
        }

        #[test]
        fn no_bytes_make_it_panic(kind in 0..3_u8, key: u64, rest: Vec<u8>, cut: prop::sample::Index) {
            // With a right checksum, so that what lies behind it is tried too.
            let mut row = vec![kind, 0, 0, 0, 0];
            row.extend(&rest);
            seal(&mut row, Sequence(key));
            let _ = decode(Sequence(key), &row);
            let _ = decode(Sequence(key), &row[..cut.index(row.len())]);
        }
    }

    #[test]
    fn a_run_comes_back() {
        let row = encode_run(Sequence(3), Sequence(900));
        assert!(matches!(decode(Sequence(3), &row), Ok(Row::Run(Sequence(900)))));
        assert!(decode(Sequence(4), &row).is_err());
    }
}
