//! What a node asks for, written down: the steps of a group, one behind the other, each behind its length.

use std::sync::Arc;
use std::time::Duration;

use tidings_hub::Timestamp;
use tidings_hub::log::codec::{self, Reader, put_event, put_number, put_text};
use tidings_hub::log::{Caps, Holder, Lease, NewRecord, Note, Once, Retention, Terms};
use tidings_wire::{Channel, Epoch, Pattern, Position, Sequence};

/// One step.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Append {
        batch: Vec<NewRecord>,
        terms: Terms,
    },
    Lease {
        name: String,
        holder: Holder,
        for_: Duration,
    },
    Note {
        name: String,
        value: Option<Vec<u8>>,
    },
    /// Set only in the place of what is expected.
    NoteIf {
        name: String,
        expected: Option<Vec<u8>>,
        value: Option<Vec<u8>>,
    },
    Purge(Channel),
    Delete(Position),
    Retain(Timestamp),
    /// The rules from now on.
    Rules(Retention),
}

const APPEND: u8 = 1;
const NOTE: u8 = 2;
const PURGE: u8 = 3;
const DELETE: u8 = 4;
const RETAIN: u8 = 5;
const RULES: u8 = 6;
const LEASE: u8 = 7;
const NOTE_IF: u8 = 8;

const ON_ONCE: u8 = 1;
const ON_LEASE: u8 = 1 << 1;
const ON_NOTE: u8 = 1 << 2;

impl Step {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Step::Append { batch, terms: Terms { once, lease, note } } => {
                let flag = |set: bool, flag: u8| if set { flag } else { 0 };
                out.push(APPEND);
                out.push(
                    flag(once.is_some(), ON_ONCE)
                        | flag(lease.is_some(), ON_LEASE)
                        | flag(note.is_some(), ON_NOTE),
                );
                once.iter().for_each(|once| put_once(&mut out, once));
                lease.iter().for_each(|lease| put_lease(&mut out, lease));
                note.iter().for_each(|Note { name, value }| put_note(&mut out, name, value.as_deref()));
                put_number(&mut out, batch.len() as u64);
                for NewRecord { time, event } in batch {
                    let mut one = vec![event.store.into()];
                    put_number(&mut one, time.0);
                    put_event(&mut one, event);
                    put_bytes(&mut out, &one);
                }
            }
            Step::Lease { name, holder, for_ } => {
                out.push(LEASE);
                put_text(&mut out, name);
                out.extend(holder.0);
                put_number(&mut out, u64::try_from(for_.as_millis()).unwrap_or(u64::MAX));
            }
            Step::Note { name, value } => {
                out.push(NOTE);
                put_note(&mut out, name, value.as_deref());
            }
            Step::NoteIf { name, expected, value } => {
                out.push(NOTE_IF);
                put_note(&mut out, name, value.as_deref());
                put_value(&mut out, expected.as_deref());
            }
            Step::Purge(channel) => {
                out.push(PURGE);
                put_text(&mut out, channel.as_str());
            }
            Step::Delete(position) => {
                out.push(DELETE);
                put_position(&mut out, *position);
            }
            Step::Retain(now) => {
                out.push(RETAIN);
                put_number(&mut out, now.0);
            }
            Step::Rules(retention) => {
                out.push(RULES);
                put_retention(&mut out, retention);
            }
        }
        out
    }

    /// `None` when it can't be understood.
    fn decode(bytes: &[u8]) -> Option<Step> {
        let mut from = Reader(bytes);
        let [kind] = from.array()?;
        let step = match kind {
            APPEND => {
                let [terms] = from.array()?;
                let terms = Terms {
                    once: if terms & ON_ONCE == 0 { None } else { Some(take_once(&mut from)?) },
                    lease: if terms & ON_LEASE == 0 { None } else { Some(take_lease(&mut from)?) },
                    note: if terms & ON_NOTE == 0 { None } else { Some(take_note(&mut from)?) },
                };
                let count = from.number()?;
                let mut batch = Vec::new();
                for _ in 0..count {
                    let mut one = Reader(from.bytes()?);
                    let [store] = one.array()?;
                    let time = Timestamp(one.number()?);
                    let mut event = codec::event(one)?;
                    event.store = store != 0;
                    batch.push(NewRecord { time, event: Arc::new(event) });
                }
                Step::Append { batch, terms }
            }
            NOTE => {
                let Note { name, value } = take_note(&mut from)?;
                Step::Note { name, value }
            }
            NOTE_IF => {
                let Note { name, value } = take_note(&mut from)?;
                Step::NoteIf { name, expected: take_value(&mut from)?, value }
            }
            LEASE => Step::Lease {
                name: from.text()?.to_owned(),
                holder: Holder(from.array()?),
                for_: Duration::from_millis(from.number()?),
            },
            PURGE => Step::Purge(Channel::stored(from.text()?).ok()?),
            DELETE => Step::Delete(take_position(&mut from)?),
            RETAIN => Step::Retain(Timestamp(from.number()?)),
            RULES => Step::Rules(take_retention(&mut from)?),
            _ => return None,
        };
        from.0.is_empty().then_some(step)
    }
}

/// All steps of a group. `None` when one can't be understood.
pub(crate) fn steps(group: &[u8]) -> Option<Vec<Step>> {
    let mut from = Reader(group);
    let mut steps = Vec::new();
    while !from.0.is_empty() {
        steps.push(Step::decode(from.bytes()?)?);
    }
    Some(steps)
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend(bytes);
}

pub(crate) fn put_position(out: &mut Vec<u8>, position: Position) {
    put_number(out, position.epoch.0.into());
    put_number(out, position.sequence.0);
}

pub(crate) fn take_position(from: &mut Reader<'_>) -> Option<Position> {
    let epoch = Epoch(from.number()?.try_into().ok()?);
    Some(Position { epoch, sequence: Sequence(from.number()?) })
}

pub(crate) fn put_lease(out: &mut Vec<u8>, lease: &Lease) {
    put_text(out, &lease.name);
    out.extend(lease.holder.0);
    put_number(out, lease.number);
}

pub(crate) fn take_lease(from: &mut Reader<'_>) -> Option<Lease> {
    let name = from.text()?.to_owned();
    Some(Lease { name, holder: Holder(from.array()?), number: from.number()? })
}

fn put_note(out: &mut Vec<u8>, name: &str, value: Option<&[u8]>) {
    put_text(out, name);
    put_value(out, value);
}

fn put_value(out: &mut Vec<u8>, value: Option<&[u8]>) {
    out.push(value.is_some().into());
    value.iter().for_each(|value| put_bytes(out, value));
}

fn take_note(from: &mut Reader<'_>) -> Option<Note> {
    let name = from.text()?.to_owned();
    Some(Note { name, value: take_value(from)? })
}

/// `None` when it can't be understood.
#[allow(
    clippy::option_option,
    reason = "a value that is not there is another thing than one that can't be read"
)]
fn take_value(from: &mut Reader<'_>) -> Option<Option<Vec<u8>>> {
    match from.array()? {
        [0] => Some(None),
        _ => Some(Some(from.bytes()?.to_vec())),
    }
}

pub(crate) fn put_once(out: &mut Vec<u8>, once: &Once) {
    out.extend(once.key);
    out.extend(once.body);
    put_number(out, once.until.0);
}

pub(crate) fn take_once(from: &mut Reader<'_>) -> Option<Once> {
    Some(Once { key: from.array()?, body: from.array()?, until: Timestamp(from.number()?) })
}

pub(crate) fn put_retention(out: &mut Vec<u8>, retention: &Retention) {
    put_caps(out, retention.default);
    put_caps(out, retention.total);
    put_number(out, retention.rules.len() as u64);
    for (pattern, caps) in &retention.rules {
        put_text(out, pattern.as_str());
        put_caps(out, *caps);
    }
}

pub(crate) fn take_retention(from: &mut Reader<'_>) -> Option<Retention> {
    let (default, total) = (take_caps(from)?, take_caps(from)?);
    let count = from.number()?;
    let mut rules = Vec::new();
    for _ in 0..count {
        let pattern: Pattern = from.text()?.parse().ok()?;
        rules.push((pattern, take_caps(from)?));
    }
    Some(Retention { rules, default, total })
}

const AGE: u8 = 1;
const COUNT: u8 = 1 << 1;
const BYTES: u8 = 1 << 2;
const STATE_ONLY: u8 = 1 << 3;

fn put_caps(out: &mut Vec<u8>, caps: Caps) {
    let age = caps.age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    out.push(
        flag(age.is_some(), AGE)
            | flag(caps.count.is_some(), COUNT)
            | flag(caps.bytes.is_some(), BYTES)
            | flag(caps.state_only, STATE_ONLY),
    );
    age.into_iter().chain(caps.count).chain(caps.bytes).for_each(|value| put_number(out, value));
}

fn take_caps(from: &mut Reader<'_>) -> Option<Caps> {
    let [flags] = from.array()?;
    let mut value = |flag: u8| match flags & flag {
        0 => Some(None),
        _ => from.number().map(Some),
    };
    Some(Caps {
        age: value(AGE)?.map(Duration::from_millis),
        count: value(COUNT)?,
        bytes: value(BYTES)?,
        state_only: flags & STATE_ONLY != 0,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidings_wire::Event;

    use super::*;

    /// One of each kind, with all that it can have.
    fn all() -> Vec<Step> {
        let channel: Channel = "orders/7".parse().unwrap();
        let event =
            Event { store: false, key: "k".parse().ok(), ..Event::new(channel.clone().into(), "x".into()) };
        let holder = Holder([3; 16]);
        let caps =
            Caps { age: Some(Duration::from_millis(1)), count: Some(2), bytes: Some(3), state_only: true };
        let rules = vec![("a/**".parse().unwrap(), caps), ("**".parse().unwrap(), Caps::default())];
        let terms = Terms {
            once: Some(Once { key: [1; 32], body: [2; 32], until: Timestamp(9) }),
            lease: Some(Lease { name: "l".to_owned(), holder, number: 300 }),
            note: Some(Note { name: "n".to_owned(), value: None }),
        };
        vec![
            Step::Append { batch: vec![NewRecord { time: Timestamp(5), event: Arc::new(event) }], terms },
            Step::Append { batch: Vec::new(), terms: Terms::default() },
            Step::Lease { name: "l".to_owned(), holder, for_: Duration::from_secs(6) },
            Step::Note { name: "n".to_owned(), value: Some(vec![0, 255]) },
            Step::Note { name: String::new(), value: None },
            Step::NoteIf { name: "n".to_owned(), expected: Some(vec![0, 255]), value: None },
            Step::NoteIf { name: "n".to_owned(), expected: None, value: Some(Vec::new()) },
            Step::Purge(channel),
            Step::Delete(Position { epoch: Epoch(u32::MAX), sequence: Sequence(u64::MAX) }),
            Step::Retain(Timestamp(u64::MAX)),
            Step::Rules(Retention { rules, default: caps, total: Caps::default() }),
        ]
    }

    fn group(all: &[Step]) -> Vec<u8> {
        let mut group = Vec::new();
        all.iter().for_each(|step| put_bytes(&mut group, &step.encode()));
        group
    }

    #[test]
    fn a_group_comes_back() {
        let all = all();
        let back = steps(&group(&all)).unwrap();
        assert_eq!(format!("{back:?}"), format!("{all:?}"));
        assert!(steps(&[]).unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, at: prop::sample::Index, kind in 0..10_u8) {
            let _ = steps(&bytes);
            let mut one = vec![kind];
            one.extend(&bytes);
            let _ = Step::decode(&one);
            // What is nearly right, too.
            let mut group = group(&all());
            let place = at.index(group.len());
            let _ = steps(&group[..place]);
            group[place] ^= bytes.first().copied().unwrap_or(1);
            let _ = steps(&group);
        }
    }
}
