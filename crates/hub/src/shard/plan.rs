//! What comes next for a subscriber: its own bytes, events of the window, or a page of the log.

use std::mem;

use tidings_wire::{Control, Framing, LAST_CHUNK, Position, encode_control};

use super::gather::Picked;
use super::{Behind, Cut, Shard, ShardStats, SubscriberId};
use crate::Timestamp;
use crate::resume::Gap;
use crate::subscriber::{Farewell, Finish, Reading, ToldGap, Wants};

/// What comes next for a subscriber.
#[derive(Debug, Clone, Copy)]
pub(super) enum Plan {
    /// Its own bytes.
    Own,
    /// `picks` of the window.
    Window,
    /// The rest of its page.
    Page,
    /// A gap, for a subscriber that takes records.
    Told(ToldGap),
    Nothing,
    /// Nothing as far as was looked. Others have their turn before it is looked on.
    Later,
    Reading,
    Finished,
    Cut(Cut),
}

impl Shard {
    /// Decides what comes next. Each step either is the answer or brings the subscriber one state on.
    pub(super) fn plan(&mut self, slot: u32, now: Timestamp) -> Plan {
        loop {
            let Some(subscriber) = &self.subscribers[slot as usize] else { return Plan::Nothing };
            if subscriber.offset == 0 {
                if subscriber.change.is_some() {
                    self.apply_waiting(slot);
                    continue;
                }
                // A control event is composed with the id of the moment: not while others wait to be written.
                if !subscriber.own.is_empty() {
                    return Plan::Own;
                }
                if matches!(subscriber.wants.finish, Finish::Said | Finish::Over) {
                    return Plan::Finished;
                }
                if subscriber.wants.anything() {
                    self.say_wanted(slot, now);
                    continue;
                }
            }
            let begun = subscriber.offset > 0;
            let ephemeral_begun = begun && subscriber.ephemeral_begun;
            let born = subscriber.born;
            match self.marks[slot as usize].behind {
                Behind::Not if subscriber.wants.end && !begun => {
                    let Some(over) = self.is_over(slot) else {
                        self.read_from(slot, self.reader.consumed());
                        continue;
                    };
                    if let Some(subscriber) = &mut self.subscribers[slot as usize] {
                        subscriber.wants.end = false;
                        if over && subscriber.wants.finish == Finish::No {
                            subscriber.wants.finish = Finish::Say { farewell: Farewell::End, retry: None };
                        }
                    }
                }
                Behind::Not => return Plan::Nothing,
                Behind::Through(_) | Behind::Many => match self.pick(slot, now) {
                    Picked::Some => return Plan::Window,
                    Picked::None => {}
                    Picked::GoOn => return Plan::Later,
                    Picked::Log => {
                        if ephemeral_begun {
                            return Plan::Cut(Cut::Overtaken);
                        }
                        // What it was marked behind by may be older than what it has read in the log already.
                        let mark = &mut self.marks[slot as usize];
                        mark.behind = Behind::Log;
                        if !begun {
                            mark.after = mark.after.max(born);
                        }
                        if let Some(subscriber) = &mut self.subscribers[slot as usize] {
                            subscriber.reading = Some(Box::new(Reading::mid_stream()));
                        }
                    }
                },
                Behind::Log => match self.read_on(slot, now) {
                    Some(plan) => return plan,
                    None => continue,
                },
            }
        }
    }

    pub(super) fn position(&self, id: SubscriberId) -> Position {
        let slot = id.0 as usize;
        let Some(subscriber) = &self.subscribers[slot] else { return self.here() };
        if let Some(gap) = subscriber.reading.as_ref().and_then(|reading| reading.gap) {
            return gap.from.unwrap_or(Position::UNKNOWN);
        }
        match self.marks[slot].behind {
            Behind::Not => self.at(self.reader.consumed().max(subscriber.born)),
            _ => self.at(self.marks[slot].after.max(subscriber.born)),
        }
    }

    /// Puts a gap among a subscriber's own bytes. The caller tells one that takes records.
    pub(super) fn tell(&mut self, slot: u32, gap: Gap, to: Position) {
        ShardStats::add(&self.stats.gaps, 1);
        self.losses[slot as usize].gaps += 1;
        let Some(subscriber) = &mut self.subscribers[slot as usize] else { return };
        if subscriber.records {
            return;
        }
        let to = self.key.seal(to);
        let from = gap.from.map(|from| self.key.seal(from));
        let control = Control::Gap { reason: gap.reason, from: from.as_ref(), to: &to };
        let mut bytes = Vec::new();
        encode_control(&mut bytes, subscriber.framing, &control, None, &to);
        subscriber.own.append(&bytes);
    }

    /// Puts among a subscriber's own bytes what is to be said now. It is between two events.
    pub(super) fn say_wanted(&mut self, slot: u32, now: Timestamp) {
        let id = self.cursor(SubscriberId(slot));
        let Some(subscriber) = &mut self.subscribers[slot as usize] else { return };
        let framing = subscriber.framing;
        let mut bytes = Vec::new();
        if let Finish::Say { farewell, retry } = subscriber.wants.finish {
            let ends = farewell == Farewell::End;
            if let Some(control) = farewell.control().filter(|_| !ends || subscriber.tells.end) {
                encode_control(&mut bytes, framing, &control, retry, &id);
            }
            if let Framing::Chunked = framing {
                bytes.extend_from_slice(LAST_CHUNK);
            }
            let finish = if ends { Finish::Over } else { Finish::Said };
            subscriber.wants = Wants { finish, ..Wants::default() };
        } else {
            let skipped = mem::take(&mut subscriber.wants.skipped);
            if skipped > 0 {
                encode_control(&mut bytes, framing, &Control::Skipped(skipped.into()), None, &id);
                subscriber.id_at = now;
            }
            if mem::take(&mut subscriber.wants.position) {
                encode_control(&mut bytes, framing, &Control::Position, None, &id);
                subscriber.id_at = now;
            }
            if mem::take(&mut subscriber.wants.ping) {
                encode_control(&mut bytes, framing, &Control::Ping, None, &id);
                subscriber.id_at = now;
            }
        }
        if !subscriber.records {
            subscriber.own.append(&bytes);
        }
    }
}
