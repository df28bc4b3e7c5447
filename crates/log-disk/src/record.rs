//! How a record is written into its row.
//!
//! One byte says what follows. [`RUN`]: a CRC and the last sequence of a run of removed records, whose first is the
//! row's key. [`EVENT`]: a CRC, then epoch, time, one or two bytes of
//! flags, targets, what the flags name, and the data to the end. The
//! CRC is over the row's key too, so that a record in the wrong place is found out. Numbers are LEB128 unless fixed.

use std::sync::Arc;

use tidings_hub::Timestamp;
use tidings_hub::log::Record;
use tidings_wire::{
    Channel, ClientId, ConnectionId, Data, Epoch, Event, Exclude, Number, Position, Sequence, TagValue, Tags,
    Targets, UserId,
};

use crate::error::{Result, StoreError};

/// The first byte of a row of removed records.
pub(crate) const RUN: u8 = 0;
/// The first byte of an event in the first format. A later one gets another byte, and old rows stay readable.
const EVENT: u8 = 1;

const JSON: u8 = 1;
const TYPE: u8 = 1 << 1;
const RETRY: u8 = 1 << 2;
const TTL: u8 = 1 << 3;
const USER: u8 = 1 << 4;
const CLIENT: u8 = 1 << 5;
const CONNECTION: u8 = 1 << 6;
/// A second byte of flags follows the first.
const MORE: u8 = 1 << 7;

const KEY: u8 = 1;
const TAGS: u8 = 1 << 1;
const END: u8 = 1 << 2;
const NOTHING: u8 = 1 << 3;
/// Flags that this version doesn't know.
const LATER: u8 = !(KEY | TAGS | END | NOTHING);

const TEXT_TAG: u8 = 0;
const NUMBER_TAG: u8 = 1;
const FALSE_TAG: u8 = 2;
const TRUE_TAG: u8 = 3;

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
    number(out, time.0);
    let mut flags = 0;
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    flags |= flag(matches!(event.data, Data::Json(_)), JSON);
    flags |= flag(!event.event.is_default(), TYPE);
    flags |= flag(event.retry.is_some(), RETRY);
    flags |= flag(event.ttl.is_some(), TTL);
    flags |= flag(event.exclude.user.is_some(), USER);
    flags |= flag(event.exclude.client.is_some(), CLIENT);
    flags |= flag(event.exclude.connection.is_some(), CONNECTION);
    let mut more = 0;
    more |= flag(event.key.is_some(), KEY);
    more |= flag(!event.tags.is_empty(), TAGS);
    more |= flag(event.end, END);
    more |= flag(event.data == Data::Nothing, NOTHING);
    if more == 0 {
        out.push(flags);
    } else {
        out.extend([flags | MORE, more]);
    }
    number(out, event.to.channels().len() as u64);
    event.to.channels().iter().for_each(|channel| text(out, channel.as_str()));
    if !event.event.is_default() {
        text(out, event.event.as_str());
    }
    event.retry.into_iter().chain(event.ttl).for_each(|value| number(out, value.into()));
    if let Some(user) = &event.exclude.user {
        text(out, user.as_str());
    }
    if let Some(client) = &event.exclude.client {
        text(out, client.as_str());
    }
    if let Some(connection) = event.exclude.connection {
        out.extend(connection.0.to_le_bytes());
    }
    if let Some(key) = &event.key {
        text(out, key.as_str());
    }
    if !event.tags.is_empty() {
        put_tags(out, &event.tags);
    }
    out.extend(event.data.as_str().as_bytes());
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
    let [flags] = from.array()?;
    let [more] = if flags & MORE == 0 { [0] } else { from.array()? };
    if more & LATER != 0 {
        return None;
    }
    let has = |flag: u8| (flags & flag != 0).then_some(());
    let count = usize::try_from(from.number()?).ok().filter(|count| *count <= Targets::MAX)?;
    let mut targets = Vec::with_capacity(count);
    for _ in 0..count {
        targets.push(Channel::stored(from.text()?).ok()?);
    }
    let mut event = Event::new(Targets::new(targets).ok()?, "".into());
    if has(TYPE).is_some() {
        event.event = from.text()?.parse().ok()?;
    }
    if has(RETRY).is_some() {
        event.retry = Some(from.number()?.try_into().ok()?);
    }
    if has(TTL).is_some() {
        event.ttl = Some(from.number()?.try_into().ok()?);
    }
    event.exclude = Exclude {
        user: match has(USER) {
            Some(()) => Some(from.text()?.parse::<UserId>().ok()?),
            None => None,
        },
        client: match has(CLIENT) {
            Some(()) => Some(from.text()?.parse::<ClientId>().ok()?),
            None => None,
        },
        connection: match has(CONNECTION) {
            Some(()) => Some(ConnectionId(u128::from_le_bytes(from.array()?))),
            None => None,
        },
    };
    if more & KEY != 0 {
        event.key = Some(from.text()?.parse().ok()?);
    }
    if more & TAGS != 0 {
        event.tags = tags(&mut from)?;
    }
    event.end = more & END != 0;
    let data = std::str::from_utf8(from.0).ok()?.into();
    event.data = match has(JSON) {
        _ if more & NOTHING != 0 => Data::Nothing,
        Some(()) => Data::Json(data),
        None => Data::Text(data),
    };
    Some(Record { position: Position { epoch, sequence }, time, event: Arc::new(event) })
}

fn put_tags(out: &mut Vec<u8>, tags: &Tags) {
    number(out, tags.iter().count() as u64);
    for (name, value) in tags.iter() {
        text(out, name);
        match value {
            TagValue::Text(value) => {
                out.push(TEXT_TAG);
                text(out, value);
            }
            TagValue::Number(value) => {
                out.push(NUMBER_TAG);
                out.extend(value.get().to_le_bytes());
            }
            TagValue::Bool(value) => out.push(if *value { TRUE_TAG } else { FALSE_TAG }),
        }
    }
}

fn tags(from: &mut Reader<'_>) -> Option<Tags> {
    let count = usize::try_from(from.number()?).ok().filter(|count| *count <= Tags::MAX)?;
    let mut tags = Vec::with_capacity(count);
    for _ in 0..count {
        let name = from.text()?.into();
        let [kind] = from.array()?;
        let value = match kind {
            TEXT_TAG => TagValue::Text(from.text()?.into()),
            NUMBER_TAG => TagValue::Number(Number::new(f64::from_le_bytes(from.array()?))?),
            FALSE_TAG => TagValue::Bool(false),
            TRUE_TAG => TagValue::Bool(true),
            _ => return None,
        };
        tags.push((name, value));
    }
    Tags::new(tags).ok()
}

pub(crate) fn number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn text(out: &mut Vec<u8>, text: &str) {
    number(out, text.len() as u64);
    out.extend(text.as_bytes());
}

/// What is left to read of a row.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    pub(crate) fn number(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn text(&mut self) -> Option<&'a str> {
        let len = usize::try_from(self.number()?).ok()?;
        let (text, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
