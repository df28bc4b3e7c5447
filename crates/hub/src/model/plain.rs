//! What was published, and what each client is owed of it, as plainly as it can be said.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tidings_wire::{Channel, Event, Key, Sequence, UserId};

use super::connection::Connection;
use crate::filter::Filter;
use crate::log::{Log, MemoryLog, Order, ReadLimit, Record, Selection, takes_the_place};
use crate::subscriber::Change;
use crate::{Timestamp, View};

/// What is known of one event.
pub(super) struct Known {
    pub(super) event: Arc<Event>,
    pub(super) time: Timestamp,
    /// Its place, if it is kept.
    pub(super) sequence: Option<Sequence>,
    /// The step in which it was published.
    step: u64,
    /// It was deleted on purpose: no gap is told for it. Whoever was there before (by number) may have passed over older
    /// ones for it.
    deleted: Option<BTreeSet<usize>>,
}

impl Known {
    fn is_over(&self, now: Timestamp) -> bool {
        self.event.ttl.is_some_and(|ttl| now >= self.time.plus(std::time::Duration::from_secs(ttl.into())))
    }
}

/// Everything that was published, by its number.
#[derive(Default)]
pub(super) struct Published {
    pub(super) known: BTreeMap<u64, Known>,
    pub(super) by_sequence: BTreeMap<Sequence, u64>,
    /// The kept ones of each key in each channel.
    by_key: HashMap<(Channel, Key), Vec<u64>>,
    /// Those with a key that aren't kept, each behind a record.
    pub(super) unkept: Vec<(Sequence, u64)>,
}

impl Published {
    pub(super) fn add(&mut self, serial: u64, event: &Arc<Event>, time: Timestamp, at: Sequence, step: u64) {
        let sequence = event.store.then_some(at);
        if let Some(sequence) = sequence {
            self.by_sequence.insert(sequence, serial);
        }
        if let Some(key) = &event.key {
            match sequence {
                Some(_) => {
                    for channel in event.to.channels() {
                        self.by_key.entry((channel.clone(), key.clone())).or_default().push(serial);
                    }
                }
                None => self.unkept.push((at, serial)),
            }
        }
        self.known.insert(serial, Known { event: event.clone(), time, sequence, step, deleted: None });
    }

    /// The newest record was deleted on purpose.
    pub(super) fn delete_newest(&mut self, clients: &[Client]) -> Option<Sequence> {
        let (sequence, serial) = self.by_sequence.iter().next_back()?;
        let known = self.known.get_mut(serial)?;
        let there = |client: &&Client| client.connection.is_some() || client.left >= known.step;
        let witnesses = clients.iter().filter(there).map(|client| client.number).collect();
        known.deleted.get_or_insert(witnesses);
        Some(*sequence)
    }

    /// The newest record of a channel up to a place, whether it is still kept or not.
    pub(super) fn newest_in(&self, channel: &Channel, through: Sequence) -> Option<&Known> {
        let before = self.by_sequence.range(..=through).rev().map(|(_, serial)| &self.known[serial]);
        before.into_iter().find(|known| known.event.to.channels().contains(channel))
    }
}

/// The records that a log still has in some views.
pub(super) fn kept(log: &MemoryLog, views: &[View]) -> Vec<Record> {
    let mut records = Vec::new();
    let mut after = Sequence::START;
    let head = log.head().sequence;
    while after < head {
        let selections: Vec<_> = views.iter().map(|view| Selection { view: view.clone(), after }).collect();
        let limit = ReadLimit { through: head, records: usize::MAX, bytes: usize::MAX };
        // At the beginning of time nothing is over.
        let page = log.read(&selections, Order::Oldest, limit, Timestamp(0)).unwrap();
        records.extend(page.records);
        after = page.through;
    }
    records
}

pub(super) fn kept_places(log: &MemoryLog, views: &[View]) -> BTreeSet<Sequence> {
    kept(log, views).iter().map(|record| record.position.sequence).collect()
}

/// A view that a client follows, and what it is owed through it.
pub(super) struct Promise {
    pub(super) view: View,
    /// Everything behind this place. Nothing is promised before the stream has said where it begins.
    pub(super) since: Option<Sequence>,
    /// It was told that what was removed up to here is missing.
    pub(super) removed: Sequence,
    /// It was told that whatever lies up to here is missing.
    pub(super) skipped: Sequence,
    /// The client came with it, and did not come to follow it later.
    pub(super) first: bool,
}

impl Promise {
    pub(super) fn new(view: View, since: Option<Sequence>) -> Promise {
        Promise { view, since, removed: Sequence::START, skipped: Sequence::START, first: false }
    }
}

/// Something that a client asked for by `history`.
#[derive(Default)]
pub(super) struct Wanted {
    /// Each with the channels of which it is one of the newest.
    pub(super) serials: BTreeMap<u64, BTreeSet<Channel>>,
    /// Older ones of a key may be passed over.
    pub(super) conflated: bool,
}

/// One client over all its connections.
pub(super) struct Client {
    pub(super) number: usize,
    pub(super) name: &'static str,
    pub(super) promises: Vec<Promise>,
    pub(super) user: Option<UserId>,
    pub(super) filter: Option<Arc<Filter>>,
    pub(super) envelope: bool,
    /// It comes to follow other channels.
    pub(super) changes: bool,
    pub(super) changed: bool,
    /// It was found which channels it is to follow, and which of those have ended.
    pub(super) intent: Option<(u64, Change)>,
    pub(super) connection: Option<Connection>,
    /// The step in which its last connection ended.
    pub(super) left: u64,
    pub(super) last_id: Option<String>,
    pub(super) got: BTreeSet<u64>,
    pub(super) wanted: Wanted,
    /// Up to here nothing is passed over.
    pub(super) whole: Sequence,
}

impl Client {
    pub(super) fn views(&self) -> Vec<View> {
        self.promises.iter().map(|promise| promise.view.clone()).collect()
    }

    /// What it asked for itself.
    pub(super) fn asked(&self) -> impl Iterator<Item = &View> {
        self.promises.iter().map(|promise| &promise.view).filter(|view| !view.as_str().starts_with('$'))
    }

    /// The channels that it asked for, if it asked for nothing but channels.
    pub(super) fn exact(&self) -> Option<Vec<Channel>> {
        let channels: Option<Vec<Channel>> = self
            .asked()
            .map(|view| match view {
                View::Channel(channel) => Some(channel.clone()),
                View::Pattern(_) => None,
            })
            .collect();
        channels.filter(|channels| !channels.is_empty())
    }

    /// Whether it may see an event through these views.
    pub(super) fn sees<'a>(
        &self,
        event: &Event,
        views: impl IntoIterator<Item = &'a View, IntoIter: Clone>,
    ) -> bool {
        let views = views.into_iter();
        let through = |view: &View| event.to.channels().iter().any(|channel| view.shows(channel));
        let excluded = event.exclude.user.is_some() && event.exclude.user == self.user;
        event.is_shown()
            && !excluded
            && views.clone().any(through)
            && (self.filter.as_ref().is_none_or(|filter| filter.matches(&event.tags))
                || views.filter(|view| view.as_str().starts_with('$')).any(through))
    }

    fn sees_now(&self, event: &Event) -> bool {
        self.sees(event, self.promises.iter().map(|promise| &promise.view))
    }

    /// Whether an event may have been passed over: in each channel through which it is to be shown there is a newer one
    /// with its key that the client may see.
    pub(super) fn is_hidden(&self, all: &Published, serial: u64, wanted: bool) -> bool {
        let known = &all.known[&serial];
        let (Some(key), Some(sequence)) = (&known.event.key, known.sequence) else { return false };
        let mut shown = known.event.to.channels().iter().filter(|channel| {
            let owes = |promise: &&Promise| wanted || promise.since.is_some_and(|since| since < sequence);
            self.promises.iter().filter(owes).any(|promise| promise.view.shows(channel))
        });
        shown.all(|channel| {
            let with_key = all.by_key.get(&((*channel).clone(), key.clone())).into_iter().flatten();
            let mut newer =
                with_key.rev().take_while(|newer| **newer > serial).map(|newer| &all.known[newer]);
            newer.any(|newer| {
                self.sees_now(&newer.event)
                    && newer.deleted.as_ref().is_none_or(|witnesses| witnesses.contains(&self.number))
            })
        })
    }

    /// Whether an event of those up to a place is surely not the newest of its key in any of its channels.
    pub(super) fn is_surely_hidden(
        &self,
        all: &Published,
        log: &MemoryLog,
        serial: u64,
        head: Sequence,
        views: &[View],
    ) -> bool {
        let event = &all.known[&serial].event;
        let Some(key) = &event.key else { return false };
        let mut shown =
            event.to.channels().iter().filter(|channel| views.iter().any(|view| view.shows(channel)));
        shown.all(|channel| {
            let with_key = all.by_key.get(&((*channel).clone(), key.clone())).into_iter().flatten();
            // Only so many are looked at for one that it may see; the newest is one of them.
            let newest = with_key.rev().find(|newer| all.known[newer].sequence.is_some_and(|at| at <= head));
            newest.is_some_and(|newest| {
                let newer = &all.known[newest];
                let kept = log.keyed(channel, key, Sequence::START, usize::MAX).unwrap();
                *newest > serial
                    && kept.iter().any(|record| Some(record.position.sequence) == newer.sequence)
                    && self.sees(&newer.event, views)
            })
        })
    }

    /// The first event up to a place that it should have got, was told of as missing, or could pass over. Those with keys
    /// that were passed over are counted.
    pub(super) fn lost(
        &self,
        all: &Published,
        log: &MemoryLog,
        through: Sequence,
        now: Timestamp,
        passed: &mut u64,
    ) -> Option<u64> {
        let kept: Vec<BTreeSet<Sequence>> = self
            .promises
            .iter()
            .map(|promise| kept_places(log, std::slice::from_ref(&promise.view)))
            .collect();
        let first = self.promises.iter().filter_map(|promise| promise.since).min();
        let first = match self.wanted.serials.is_empty() {
            true => first?,
            false => Sequence::START,
        };
        for (sequence, serial) in all.by_sequence.range(first.next()..=through.max(first.next())) {
            if *sequence > through || self.got.contains(serial) {
                continue;
            }
            let known = &all.known[serial];
            let asked_in = self.wanted.serials.get(serial);
            let wanted = asked_in.is_some();
            let owes = |promise: &Promise| promise.since.is_some_and(|since| since < *sequence);
            let through = |promise: &Promise| {
                (wanted && promise.first || owes(promise))
                    && known.event.to.channels().iter().any(|channel| promise.view.shows(channel))
            };
            let mut owing = self.promises.iter().filter(|promise| through(promise)).peekable();
            if owing.peek().is_none()
                || !self.sees_now(&known.event)
                || known.deleted.is_some()
                || known.is_over(now)
            {
                continue;
            }
            // Be it that something else has it still: what is owed through this, and was told to be missing here.
            let gone = match asked_in {
                Some(channels) if !self.promises.iter().any(owes) => channels
                    .iter()
                    .all(|channel| !kept_places(log, &[channel.clone().into()]).contains(sequence)),
                _ => {
                    let mut kept = self.promises.iter().zip(&kept);
                    !kept.any(|(promise, kept)| through(promise) && kept.contains(sequence))
                }
            };
            if owing.all(|promise| *sequence <= promise.skipped || gone && *sequence <= promise.removed) {
                continue;
            }
            let may_pass = *sequence > self.whole && (!wanted || self.wanted.conflated);
            if may_pass && self.is_hidden(all, *serial, wanted) {
                *passed += 1;
                continue;
            }
            // A log that keeps only states drops what everybody who may see it gets a newer one of.
            let replaced = || {
                all.by_sequence.range(sequence.next()..).any(|(_, newer)| {
                    let newer = &all.known[newer];
                    takes_the_place((&newer.event, newer.time), (&known.event, known.time))
                        && self.sees_now(&newer.event)
                })
            };
            if gone && known.event.key.is_some() && replaced() {
                continue;
            }
            return Some(*serial);
        }
        None
    }
}
