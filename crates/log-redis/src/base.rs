//! The state after an entry, as it lies in Redis: what a node begins with, before it reads the entries behind it.
//!
//! A list of chunks. All of them together are items, each behind its length: a byte that says which, and its fields. The first
//! one says of which entry the state is, the last one that nothing is missing.

use std::sync::Arc;
use std::time::Duration;

use tidings_hub::Timestamp;
use tidings_hub::log::codec::{self, Reader, put_event, put_number, put_text};
use tidings_hub::log::replica::{Saved, SavedAnswer, SavedChannel, SavedRecord};
use tidings_hub::log::{Record, Replica};
use tidings_wire::{Channel, Epoch, Sequence};

use crate::step::{
    put_bytes, put_lease, put_once, put_position, put_retention, take_lease, take_once, take_position,
    take_retention,
};

/// How long a chunk is at most, unless one item alone is longer: Redis is busy with it for a millisecond. With what Redis
/// puts around it, it just fits into one of its allocator's sizes, of which the next is a quarter larger.
const CHUNK: usize = (1 << 20) - 64;
/// The longest length of an item.
const LENGTH: usize = 10;

const HEAD: u8 = 1;
const CHANNEL: u8 = 2;
const RECORD: u8 = 3;
const NOTE: u8 = 4;
const ANSWER: u8 = 5;
const LEASE: u8 = 6;
const END: u8 = 7;

/// Which entry of a log: its number, and its epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct EntryId {
    pub(crate) number: u64,
    pub(crate) epoch: u32,
}

/// Writes a state down: hands over chunk by chunk, so that not all of it is in memory once more.
pub(crate) fn encode<E>(
    saved: &Saved,
    at: EntryId,
    mut hand_over: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut chunk = Vec::new();
    let mut add = |item: &[u8]| {
        if !chunk.is_empty() && chunk.len() + LENGTH + item.len() > CHUNK {
            hand_over(&chunk)?;
            chunk.clear();
        }
        put_bytes(&mut chunk, item);
        if item == [END] { hand_over(&chunk) } else { Ok(()) }
    };
    let mut head = vec![HEAD];
    put_number(&mut head, at.number);
    put_number(&mut head, at.epoch.into());
    put_number(&mut head, saved.head.0);
    put_number(&mut head, saved.forgotten.0);
    put_number(&mut head, saved.epochs.len() as u64);
    for (epoch, fork) in &saved.epochs {
        put_number(&mut head, epoch.0.into());
        put_number(&mut head, fork.0);
    }
    put_retention(&mut head, &saved.retention);
    add(&head)?;
    for SavedChannel { channel, gone, floor, newest } in &saved.channels {
        let mut item = vec![CHANNEL];
        put_text(&mut item, channel.as_str());
        [gone, floor, newest].iter().for_each(|sequence| put_number(&mut item, sequence.0));
        add(&item)?;
    }
    for SavedRecord { record, lost } in &saved.records {
        let mut item = vec![RECORD];
        put_position(&mut item, record.position);
        put_number(&mut item, record.time.0);
        put_bytes(&mut item, lost);
        put_event(&mut item, &record.event);
        add(&item)?;
    }
    for (name, value) in &saved.notes {
        let mut item = vec![NOTE];
        put_text(&mut item, name);
        item.extend(value);
        add(&item)?;
    }
    for SavedAnswer { once, positions } in &saved.answers {
        let mut item = vec![ANSWER];
        put_once(&mut item, once);
        put_number(&mut item, positions.len() as u64);
        positions.iter().for_each(|position| put_position(&mut item, *position));
        add(&item)?;
    }
    for (lease, until) in &saved.leases {
        let mut item = vec![LEASE];
        put_lease(&mut item, lease);
        put_number(&mut item, u64::try_from(until.as_millis()).unwrap_or(u64::MAX));
        add(&item)?;
    }
    add(&[END])
}

/// A state while it is read, chunk by chunk.
#[derive(Default)]
pub(crate) struct Reading {
    saved: Saved,
    at: Option<EntryId>,
    ended: bool,
}

impl Reading {
    /// Takes the next chunk in. `None` when it can't be understood.
    pub(crate) fn take(&mut self, chunk: &[u8]) -> Option<()> {
        let mut from = Reader(chunk);
        while !from.0.is_empty() {
            let mut item = Reader(from.bytes()?);
            let [kind] = item.array()?;
            if self.ended || (kind == HEAD) != self.at.is_none() {
                return None;
            }
            let saved = &mut self.saved;
            match kind {
                HEAD => self.at = Some(head(&mut item, saved)?),
                CHANNEL => saved.channels.push(SavedChannel {
                    channel: Channel::stored(item.text()?).ok()?,
                    gone: Sequence(item.number()?),
                    floor: Sequence(item.number()?),
                    newest: Sequence(item.number()?),
                }),
                RECORD => {
                    let (position, time) = (take_position(&mut item)?, Timestamp(item.number()?));
                    let lost = item.bytes()?.to_vec();
                    let event = Arc::new(codec::event(item)?);
                    saved.records.push(SavedRecord { record: Record { position, time, event }, lost });
                }
                NOTE => saved.notes.push((item.text()?.to_owned(), item.0.to_vec())),
                ANSWER => {
                    let once = take_once(&mut item)?;
                    let count = item.number()?;
                    let positions = (0..count).map(|_| take_position(&mut item)).collect::<Option<_>>()?;
                    saved.answers.push(SavedAnswer { once, positions });
                }
                LEASE => {
                    let lease = take_lease(&mut item)?;
                    saved.leases.push((lease, Duration::from_millis(item.number()?)));
                }
                END => self.ended = true,
                _ => return None,
            }
        }
        Some(())
    }

    /// The state, and after which entry it is. `None` when something is missing, or it makes no sense.
    pub(crate) fn finish(self) -> Option<(Replica, EntryId)> {
        let replica = Replica::load(self.saved).filter(|_| self.ended)?;
        Some((replica, self.at?))
    }
}

fn head(item: &mut Reader<'_>, saved: &mut Saved) -> Option<EntryId> {
    let at = EntryId { number: item.number()?, epoch: item.number()?.try_into().ok()? };
    saved.head = Sequence(item.number()?);
    saved.forgotten = Sequence(item.number()?);
    for _ in 0..item.number()? {
        let epoch = Epoch(item.number()?.try_into().ok()?);
        saved.epochs.push((epoch, Sequence(item.number()?)));
    }
    saved.retention = take_retention(item)?;
    Some(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidings_hub::log::{Caps, Holder, Lease, NewRecord, Note, Once, Retention, Terms};
    use tidings_wire::{Event, Targets};

    use super::*;

    const AT: EntryId = EntryId { number: 700, epoch: 9 };

    fn replica() -> Replica {
        let states = Caps { state_only: true, ..Caps::default() };
        let capped = Caps { count: Some(2), ..Caps::default() };
        let rules = vec![("s/*".parse().unwrap(), states), ("capped".parse().unwrap(), capped)];
        let mut replica = Replica::new(Epoch(7), Retention { rules, ..Retention::default() });
        for n in 0..20_u64 {
            let names: &[&str] = [&["s/1", "audit"][..], &["capped", "audit"], &["audit"]][n as usize % 3];
            let targets = Targets::new(names.iter().map(|name| name.parse::<Channel>().unwrap())).unwrap();
            let key = ["x", "y"][n as usize % 2].parse().ok();
            let event = Event { key, end: n == 19, ..Event::new(targets, "data".into()) };
            let once = Once { key: [n as u8; 32], body: [1; 32], until: Timestamp(100 + n) };
            let note = Note { name: format!("n{n}"), value: Some(vec![n as u8]) };
            let terms = Terms { once: Some(once), note: Some(note), lease: None };
            let record = NewRecord { time: Timestamp(n), event: Arc::new(event) };
            replica.append(vec![record], terms, Duration::ZERO, &mut Vec::new()).unwrap();
            if n == 10 {
                replica.fork(Epoch(9));
            }
        }
        replica.lease("l".to_owned(), Holder([1; 16]), Duration::from_secs(5), Duration::from_secs(1));
        replica
    }

    fn chunks(saved: &Saved) -> Vec<Vec<u8>> {
        let mut chunks = Vec::new();
        let mut keep = |chunk: &[u8]| {
            chunks.push(chunk.to_vec());
            Ok::<(), ()>(())
        };
        encode(saved, AT, &mut keep).unwrap();
        chunks
    }

    fn decode(chunks: &[Vec<u8>]) -> Option<(Replica, EntryId)> {
        let mut reading = Reading::default();
        for chunk in chunks {
            reading.take(chunk)?;
        }
        reading.finish()
    }

    #[test]
    fn a_state_comes_back() {
        let saved = replica().save();
        assert!(saved.records.iter().any(|record| !record.lost.is_empty()));
        assert!(matches!(&saved.leases[..], [(Lease { number: 1, .. }, _)]));
        let (back, at) = decode(&chunks(&saved)).unwrap();
        assert_eq!((back.save(), at), (saved, AT));
    }

    #[test]
    fn a_large_state_is_several_chunks() {
        let mut replica = replica();
        for n in 0..10_u8 {
            let data = "x".repeat(CHUNK / 3);
            let event = Event::new("large".parse::<Channel>().unwrap().into(), data.as_str().into());
            let record = NewRecord { time: Timestamp(n.into()), event: Arc::new(event) };
            replica.append(vec![record], Terms::default(), Duration::ZERO, &mut Vec::new()).unwrap();
        }
        let saved = replica.save();
        let chunks = chunks(&saved);
        assert!(chunks.len() >= 4 && chunks.iter().all(|chunk| chunk.len() <= CHUNK));
        assert_eq!(decode(&chunks).unwrap().0.save(), saved);
        for missing in 0..chunks.len() {
            let mut rest = chunks.clone();
            rest.remove(missing);
            assert!(decode(&rest).is_none_or(|(replica, _)| replica.save() != saved));
        }
    }

    #[test]
    fn a_state_of_which_anything_is_missing_is_none() {
        let chunks = chunks(&replica().save());
        assert_eq!(chunks.len(), 1);
        for end in 0..chunks[0].len() {
            assert!(decode(&[chunks[0][..end].to_vec()]).is_none());
        }
        assert!(decode(&[]).is_none());
        assert!(decode(&[chunks[0].clone(), chunks[0].clone()]).is_none());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, at: prop::sample::Index, flip in 1..=255_u8) {
            let _ = decode(&[bytes]);
            let mut chunks = chunks(&replica().save());
            let place = at.index(chunks[0].len());
            chunks[0][place] ^= flip;
            let _ = decode(&chunks);
        }
    }
}
