//! Entries of the stream, as Redis hands them out.

use std::time::Duration;

use redis::Value;
use tidings_hub::Timestamp;
use tidings_hub::log::{Replica, TailItem};
use tidings_wire::Epoch;

use crate::base::EntryId;
use crate::error::{Result, damaged};
use crate::queue::Outcome;
use crate::step::{Step, steps};

/// One entry.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: EntryId,
    /// By Redis's clock.
    time: Timestamp,
    kind: Kind,
    /// About how many bytes Redis needs for it.
    pub(crate) bytes: u64,
}

#[derive(Debug)]
enum Kind {
    /// A new epoch, after this one.
    Fork(u32),
    /// The steps that a node, with the how-manieth group of it, asked for. Those of the first entry are nobody's.
    Group { of: Option<(String, u64)>, steps: Vec<u8> },
}

impl Entry {
    /// Whether it comes right behind another one, in the same history.
    pub(crate) fn follows(&self, before: EntryId) -> bool {
        let epoch = match self.kind {
            Kind::Fork(from) => from == before.epoch && self.id.epoch > from,
            Kind::Group { .. } => self.id.epoch == before.epoch,
        };
        epoch && self.id.number == before.number + 1
    }

    /// The how-manieth group of a node it is, if that one has sent it.
    pub(crate) fn number_of(&self, node: &str) -> Option<u64> {
        match &self.kind {
            Kind::Group { of: Some((sender, number)), .. } if sender == node => Some(*number),
            _ => None,
        }
    }

    /// The state of a log whose first entry this is.
    pub(crate) fn first(&self) -> Replica {
        Replica::new(Epoch(self.id.epoch), tidings_hub::log::Retention::default())
    }

    /// Does what it says, and adds what is to be announced to `items`. What came of its steps, in their order.
    pub(crate) fn apply(&self, replica: &mut Replica, items: &mut Vec<TailItem>) -> Result<Vec<Outcome>> {
        match &self.kind {
            Kind::Fork(_) => {
                let epoch = Epoch(self.id.epoch);
                replica.fork(epoch);
                let at = replica.head().sequence;
                items.push(TailItem::Forked { epoch, at, through: at });
                Ok(Vec::new())
            }
            Kind::Group { steps: group, .. } => {
                let steps = steps(group)
                    .ok_or_else(|| damaged(format!("entry {} can't be understood", self.id.number)))?;
                Ok(steps.into_iter().map(|step| self.step(step, replica, items)).collect())
            }
        }
    }

    /// What leases are counted by.
    fn clock(&self) -> Duration {
        Duration::from_millis(self.time.0)
    }

    fn step(&self, step: Step, replica: &mut Replica, items: &mut Vec<TailItem>) -> Outcome {
        match step {
            Step::Append { batch, terms } => {
                Outcome::Appended(replica.append(batch, terms, self.clock(), items))
            }
            Step::Lease { name, holder, for_ } => {
                Outcome::Leased(replica.lease(name, holder, for_, self.clock()))
            }
            Step::Note { name, value } => {
                replica.set_note(name, value);
                Outcome::Done
            }
            Step::NoteIf { name, expected, value } => {
                Outcome::Noted(replica.set_note_if(name, expected.as_deref(), value))
            }
            Step::Purge(channel) => Outcome::Removed(replica.purge(channel, items)),
            Step::Delete(position) => Outcome::Removed(replica.delete(position, items)),
            Step::Retain(now) => {
                replica.retain(now);
                Outcome::Done
            }
            Step::Rules(retention) => {
                replica.set_retention(retention, self.time);
                Outcome::Done
            }
        }
    }
}

/// The entries of an answer to `XRANGE`, or of one stream to `XREAD`.
pub(crate) fn entries(answer: Value) -> Result<Vec<Entry>> {
    let strange = || damaged("its stream has something that is no entry of a log");
    match answer {
        Value::Nil => Ok(Vec::new()),
        Value::Array(entries) => entries.into_iter().map(|entry| read(entry).ok_or_else(strange)).collect(),
        _ => Err(strange()),
    }
}

/// About how many bytes they have.
pub(crate) fn bytes(entries: &[Entry]) -> u64 {
    entries.iter().map(|entry| entry.bytes).sum()
}

/// What `XREAD` has of the one stream that was asked for.
pub(crate) fn of_stream(answer: Value) -> Value {
    match answer {
        Value::Map(mut streams) => streams.pop().map_or(Value::Nil, |(_, entries)| entries),
        Value::Array(mut streams) => match streams.pop() {
            Some(Value::Array(mut pair)) => pair.pop().unwrap_or(Value::Nil),
            _ => Value::Nil,
        },
        other => other,
    }
}

fn read(entry: Value) -> Option<Entry> {
    let Value::Array(pair) = entry else { return None };
    let [id, Value::Array(fields)] = <[Value; 2]>::try_from(pair).ok()? else { return None };
    let id = text(id)?;
    let (number, epoch) = id.split_once('-')?;
    let id = EntryId { number: number.parse().ok()?, epoch: epoch.parse().ok()? };
    let (mut time, mut fork, mut node, mut group, mut steps) = (None, None, None, None, None);
    let mut bytes = 64;
    let mut fields = fields.into_iter();
    while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
        let (name, value) = (text(name)?, blob(value)?);
        bytes += (name.len() + value.len()) as u64;
        let number = |value: &[u8]| std::str::from_utf8(value).ok()?.parse::<u64>().ok();
        match &name[..] {
            "t" => time = Some(Timestamp(number(&value)?)),
            "fork" => fork = Some(u32::try_from(number(&value)?).ok()?),
            "n" => node = Some(String::from_utf8(value).ok()?),
            "k" => group = Some(number(&value)?),
            "d" => steps = Some(value),
            _ => return None,
        }
    }
    let kind = match (fork, steps) {
        (Some(from), None) => Kind::Fork(from),
        (None, Some(steps)) => Kind::Group { of: node.zip(group), steps },
        _ => return None,
    };
    Some(Entry { id, time: time?, kind, bytes })
}

pub(crate) fn blob(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.into_bytes()),
        _ => None,
    }
}

fn text(value: Value) -> Option<String> {
    String::from_utf8(blob(value)?).ok()
}
