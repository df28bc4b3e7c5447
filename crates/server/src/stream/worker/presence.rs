//! A worker's part in presence: it counts, and tells those of its streams that watch.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use tidings_hub::{Census, Move, SubscriberId};
use tidings_wire::Channel;

use super::Worker;
use crate::presence::{Notice, Watching};

/// How many streams one turn tells: so many copies of a digest are in memory at once, however many watch.
const TOLD: usize = 256;

/// The streams of a worker that watch who is there.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    watching: HashMap<u32, Watching>,
    /// Their slots, by what they watch.
    by_channel: HashMap<Channel, Vec<u32>>,
    /// Who could not be told when there was something: it gets snapshots when it can.
    behind: BTreeSet<u32>,
    /// What is being told: to the first so many of the channel's, from the last of them on.
    telling: VecDeque<(Arc<Notice>, usize)>,
}

impl Watchers {
    fn add(&mut self, slot: u32, watching: Watching) {
        for channel in watching.channels() {
            self.by_channel.entry(channel.clone()).or_default().push(slot);
        }
        self.watching.insert(slot, watching);
    }

    pub(super) fn watches(&self, id: SubscriberId) -> bool {
        self.watching.contains_key(&id.0)
    }

    fn remove(&mut self, slot: u32) {
        let Some(watching) = self.watching.remove(&slot) else { return };
        self.behind.remove(&slot);
        for channel in watching.channels() {
            let Entry::Occupied(mut slots) = self.by_channel.entry(channel.clone()) else { continue };
            if let Some(at) = slots.get().iter().position(|other| *other == slot) {
                // Who takes the place may be told twice, which does no harm, and is never passed over.
                slots.get_mut().swap_remove(at);
            }
            if slots.get().is_empty() {
                slots.remove();
            }
        }
    }

    /// The next stream to be told something.
    fn next(&mut self) -> Option<(u32, Arc<Notice>)> {
        while let Some((notice, left)) = self.telling.front_mut() {
            let slots = self.by_channel.get(&notice.channel).map_or(&[][..], Vec::as_slice);
            let at = (*left).min(slots.len());
            if let Some(last) = at.checked_sub(1) {
                *left = last;
                return Some((slots[last], notice.clone()));
            }
            self.telling.pop_front();
        }
        None
    }
}

impl Worker {
    /// A stream was admitted that watches.
    pub(super) fn watch(&mut self, id: SubscriberId, watching: Watching) {
        let texts = self.door.snapshots(watching.channels());
        self.watchers.add(id.0, watching);
        if !self.shard.announce(id, texts.iter().map(String::as_str), self.now) {
            self.watchers.behind.insert(id.0);
        }
    }

    /// A stream is about to be closed, whether it watches or not.
    pub(super) fn unwatch(&mut self, id: SubscriberId) {
        if !self.watchers.watching.is_empty() {
            self.watchers.remove(id.0);
        }
    }

    /// Who is in a channel, of this worker's streams.
    pub(super) fn census(&self, channel: &Channel) -> Census {
        let mut census = Census::default();
        for id in self.shard.followers(channel) {
            if let Some(Some(conn)) = self.conns.get(id.0 as usize) {
                census.add(conn.permit.user());
            }
        }
        census
    }

    /// Says who follows something else since this was called last.
    pub(super) fn report_moves(&mut self) {
        while let Some(Move { id, before, after }) = self.shard.next_move() {
            let Some(Some(conn)) = self.conns.get(id.0 as usize) else { continue };
            self.door.change(self.number, conn.permit.user(), &before, &after, self.now);
        }
    }

    /// Counts who is in channels that begin to be watched. From now on what comes and goes is a change.
    pub(super) fn count(&mut self, channels: &[Channel]) {
        self.report_moves();
        for channel in channels {
            self.door.count(self.number, channel, self.census(channel));
        }
    }

    /// Takes in what is to be told.
    pub(super) fn take_notices(&mut self, notices: Vec<Arc<Notice>>) {
        for notice in notices {
            if let Some(slots) = self.watchers.by_channel.get(&notice.channel) {
                self.watchers.telling.push_back((notice, slots.len()));
            }
        }
    }

    /// Tells some of those who watch what is new. True if there is more to be told.
    pub(super) fn tell_watchers(&mut self) -> bool {
        for _ in 0..TOLD {
            let Some((slot, notice)) = self.watchers.next() else { return false };
            if !self.shard.announce(SubscriberId(slot), [&*notice.text], self.now) {
                self.watchers.behind.insert(slot);
            }
        }
        true
    }

    /// Tells what is true now to those who could not be told what was new. Called with each tick.
    pub(super) fn catch_watchers_up(&mut self) {
        let mut left = TOLD;
        let behind = std::mem::take(&mut self.watchers.behind);
        for slot in behind {
            let id = SubscriberId(slot);
            let told = left > 0 && !self.shard.is_blocked(id) && {
                left -= 1;
                self.watchers.watching.get(&slot).is_none_or(|watching| {
                    let texts = self.door.snapshots(watching.channels());
                    self.shard.announce(id, texts.iter().map(String::as_str), self.now)
                })
            };
            if !told {
                self.watchers.behind.insert(slot);
            }
        }
    }
}
