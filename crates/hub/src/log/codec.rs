//! How an event is written down, for logs that store bytes.
//!
//! One or two bytes of flags, targets, what the flags name, and the data to the end. Numbers are LEB128 unless fixed. Stores
//! hold this: what it means never changes, a later form gets new flags.

use tidings_wire::{
    Channel, ClientId, ConnectionId, Data, Event, Exclude, Number, TagValue, Tags, Targets, UserId,
};

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

/// Adds an event, which is kept: of one with `store: false` that is not said.
pub fn put_event(out: &mut Vec<u8>, event: &Event) {
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
    put_number(out, event.to.channels().len() as u64);
    event.to.channels().iter().for_each(|channel| put_text(out, channel.as_str()));
    if !event.event.is_default() {
        put_text(out, event.event.as_str());
    }
    event.retry.into_iter().chain(event.ttl).for_each(|value| put_number(out, value.into()));
    if let Some(user) = &event.exclude.user {
        put_text(out, user.as_str());
    }
    if let Some(client) = &event.exclude.client {
        put_text(out, client.as_str());
    }
    if let Some(connection) = event.exclude.connection {
        out.extend(connection.0.to_le_bytes());
    }
    if let Some(key) = &event.key {
        put_text(out, key.as_str());
    }
    if !event.tags.is_empty() {
        put_tags(out, &event.tags);
    }
    out.extend(event.data.as_str().as_bytes());
}

/// The event that is all that is left. `None` when it can't be understood.
pub fn event(mut from: Reader<'_>) -> Option<Event> {
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
        event.tags = take_tags(&mut from)?;
    }
    event.end = more & END != 0;
    let data = std::str::from_utf8(from.0).ok()?.into();
    event.data = match has(JSON) {
        _ if more & NOTHING != 0 => Data::Nothing,
        Some(()) => Data::Json(data),
        None => Data::Text(data),
    };
    Some(event)
}

fn put_tags(out: &mut Vec<u8>, tags: &Tags) {
    put_number(out, tags.iter().count() as u64);
    for (name, value) in tags.iter() {
        put_text(out, name);
        match value {
            TagValue::Text(value) => {
                out.push(TEXT_TAG);
                put_text(out, value);
            }
            TagValue::Number(value) => {
                out.push(NUMBER_TAG);
                out.extend(value.get().to_le_bytes());
            }
            TagValue::Bool(value) => out.push(if *value { TRUE_TAG } else { FALSE_TAG }),
        }
    }
}

fn take_tags(from: &mut Reader<'_>) -> Option<Tags> {
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

/// Adds a number as LEB128.
pub fn put_number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Adds a text behind its length.
pub fn put_text(out: &mut Vec<u8>, text: &str) {
    put_number(out, text.len() as u64);
    out.extend(text.as_bytes());
}

/// What is left to read. Whatever is asked for and not there is `None`.
#[derive(Debug)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The next bytes.
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    /// A number as LEB128.
    pub fn number(&mut self) -> Option<u64> {
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

    /// A text behind its length.
    pub fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    /// Bytes behind their number.
    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.number()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }
}
