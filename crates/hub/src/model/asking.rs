//! Clients that look for their place, and what they are owed from there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tidings_wire::{Channel, Framing, Position, Sequence};

use super::connection::{Bounds, Connection};
use super::plain::{Promise, Wanted, kept};
use super::schedule::{NAMES, World};
use crate::log::Log;
use crate::resume::{ReplayCaps, Resume, Start};
use crate::shard::Opening;
use crate::{Lens, Tells, Who};

/// A client's place was found, and it has not gone there yet.
pub(super) struct Found {
    resume: Resume,
    lens: Lens,
    bounds: Bounds,
}

impl World {
    /// Looks for the place where a client is to begin.
    pub(super) fn find(&mut self, at: usize) {
        let choice = self.dice.roll(20);
        let caps = match self.dice.roll(12) {
            0 => ReplayCaps { bytes: Some(300), age: None },
            1 => ReplayCaps { bytes: None, age: Some(Duration::from_secs(10)) },
            _ => ReplayCaps::default(),
        };
        let head = self.log.head().sequence;
        let count = self.dice.roll(6) as u16;
        let start = match (choice, &self.clients[at].last_id) {
            (0..=13, Some(id)) => Start::Cursor(id.clone()),
            (14, _) => Start::Cursor("!not a cursor".into()),
            (15, _) => Start::Earliest,
            (16, _) => Start::History(count),
            (17, _) => Start::Latest,
            _ => Start::Now,
        };
        let client = &self.clients[at];
        let views = client.views();
        let lens =
            Lens { who: Who { user: client.user.clone(), client: None }, filter: client.filter.clone() };
        let resume =
            Resume::find(&*self.log, &self.key, caps, &views, &start, &lens, self.now).expect("memory reads");
        // A new beginning, unless it comes back with a cursor.
        let position = match &start {
            Start::Cursor(id) => self.key.open(id).ok().filter(|position| *position != Position::UNKNOWN),
            _ => None,
        };
        let mut bounds = Bounds::Nothing;
        if let Some(position) = position {
            self.resumes(at, position.sequence, &resume);
            if resume.is_over() {
                self.was_over(at);
                return;
            }
        } else {
            bounds = self.begins(at, &start, head);
        }
        self.found[at] = Some(Found { resume, lens, bounds });
    }

    /// A client comes back with its cursor: it is owed what comes behind that, of all that it follows now.
    fn resumes(&mut self, at: usize, last: Sequence, resume: &Resume) {
        self.saw("a resumed stream");
        let client = &mut self.clients[at];
        for promise in &mut client.promises {
            promise.since = Some(promise.since.map_or(last, |since| since.min(last)));
        }
        client.whole = client.whole.min(last);
        let all = &self.all;
        client.wanted.serials.retain(|serial, _| all.known[serial].sequence.is_some_and(|at| at <= last));
        let fresh = client.got.is_empty();
        let exact = client.exact();
        let over = exact.is_some_and(|channels| {
            channels.iter().all(|channel| self.log.ended(channel).is_some_and(|end| end <= last))
        });
        let name = client.name;
        assert_eq!(resume.is_over(), over && resume.gap().is_none(), "{name}: whether all is over");
        if fresh {
            self.saw("a stream resumed before its first event");
        }
    }

    /// A client is told that there is nothing more to come: it has got everything, and forgets its cursor.
    pub(super) fn was_over(&mut self, at: usize) {
        self.saw("an end that was seen before");
        let last = self.key.open(self.clients[at].last_id.as_deref().unwrap()).unwrap().sequence;
        self.nothing_is_lost(at, last);
        self.clients[at].last_id = None;
    }

    /// A client begins anew; what it is not to be shown of what is there.
    fn begins(&mut self, at: usize, start: &Start, head: Sequence) -> Bounds {
        let floor = self.log.floor(&self.clients[at].views());
        let client = &mut self.clients[at];
        client.got.clear();
        client.last_id = None;
        client.wanted = Wanted::default();
        client.whole = Sequence::START;
        for promise in &mut client.promises {
            let asks_for_the_past = !matches!(start, Start::Now | Start::Cursor(_) | Start::History(0));
            *promise = Promise::new(promise.view.clone(), asks_for_the_past.then_some(head));
            promise.first = true;
            if asks_for_the_past {
                // Who asks for what is kept asks for nothing that isn't.
                promise.removed = floor;
            }
        }
        match start {
            Start::Earliest => {
                for promise in &mut client.promises {
                    promise.since = Some(Sequence::START);
                }
                client.whole = head;
                self.saw("all that is kept");
                Bounds::Nothing
            }
            Start::History(count) if *count > 0 => {
                self.saw("a history");
                self.wants_history(at, usize::from(*count), head)
            }
            Start::Latest => {
                self.saw("the newest of each key");
                self.wants_latest(at);
                Bounds::Latest { head }
            }
            Start::History(_) | Start::Now | Start::Cursor(_) => Bounds::Nothing,
        }
    }

    /// Of each channel the newest so many that the client may see, and whose time is not over.
    fn wants_history(&mut self, at: usize, count: usize, head: Sequence) -> Bounds {
        let names: BTreeSet<&str> = NAMES.into();
        let mut from = BTreeMap::new();
        for name in names {
            let channel = Channel::stored(name).unwrap();
            let client = &self.clients[at];
            let views = client.views();
            if !views.iter().any(|view| view.shows(&channel)) {
                continue;
            }
            let mut records = kept(&self.log, &[channel.clone().into()]);
            records.retain(|record| !record.expired(self.now) && client.sees(&record.event, &views));
            let newest = &records[records.len().saturating_sub(count)..];
            let whole = records.len() >= count;
            let first = newest.first().filter(|_| whole).map_or(0, |first| first.position.sequence.0 - 1);
            from.insert(channel.clone(), Sequence(first));
            let serials: Vec<u64> =
                newest.iter().map(|record| self.all.by_sequence[&record.position.sequence]).collect();
            for serial in serials {
                self.clients[at].wanted.serials.entry(serial).or_default().insert(channel.clone());
            }
        }
        Bounds::History { head, after: from }
    }

    /// Of each channel and key the newest that the client may see, unless its time is over.
    fn wants_latest(&mut self, at: usize) {
        let client = &self.clients[at];
        let views = client.views();
        let mut newest = BTreeMap::new();
        for record in kept(&self.log, &views) {
            let Some(key) = record.event.key.clone() else { continue };
            if !client.sees(&record.event, &views) {
                continue;
            }
            let shown =
                record.event.to.channels().iter().filter(|to| views.iter().any(|view| view.shows(to)));
            for channel in shown {
                newest.insert((channel.clone(), key.as_str().to_owned()), record.clone());
            }
        }
        let mut serials: BTreeMap<u64, BTreeSet<Channel>> = BTreeMap::new();
        for ((channel, _), record) in newest {
            let still = kept(&self.log, &[channel.clone().into()]);
            let still = still.iter().any(|other| other.position == record.position);
            if still && !record.expired(self.now) {
                let serial = self.all.by_sequence[&record.position.sequence];
                serials.entry(serial).or_default().insert(channel);
            }
        }
        self.clients[at].wanted = Wanted { serials, conflated: true };
    }

    /// A client goes to the place that was found.
    pub(super) fn open(&mut self, at: usize) {
        let Some(Found { resume, lens, bounds }) = self.found[at].take() else { return };
        let shard = self.dice.roll(2) as usize;
        let chunked = self.dice.once_in(2);
        let tells = Tells { end: !self.dice.once_in(4), skipped: self.dice.once_in(2) };
        let client = &self.clients[at];
        let views = client.views();
        let gap = resume.gap();
        let opening = Opening {
            views: views.clone(),
            resume,
            head: Vec::new(),
            open: Some("{}".into()),
            framing: if chunked { Framing::Chunked } else { Framing::Raw },
            envelope: client.envelope,
            lens,
            tells,
            connection: None,
        };
        let id = self.shards[shard].subscribe(opening, self.now);
        let mut connection = Connection::new(shard, id, views, chunked);
        connection.expects_gap = gap.is_some();
        connection.tells_end = tells.end;
        connection.bounds = bounds;
        self.clients[at].changed = false;
        self.clients[at].connection = Some(connection);
    }
}
