//! HOT 3. The subscribers of one worker: who is behind, and by which bytes.
//!
//! No socket, no lock, no clock: a worker calls, in turns, [`Shard::consume`] to take in what the log announced,
//! [`Shard::next_ready`] for who has something to be written, [`Shard::pending`] for the bytes, and
//! [`Shard::wrote`] with how many of them its socket took.
//!
//! A subscriber is always in one of four states: up to date; behind through one view; behind through many (or not
//! known through which); behind the window, so that it reads the log. What it is behind by is found when it is
//! written to, not queued, so being behind costs nothing.

mod begin;
mod change;
mod ends;
mod fork;
#[cfg(test)]
mod fork_tests;
mod gather;
mod plan;
mod presence;
mod reading;

use std::collections::VecDeque;
use std::mem;
use std::num::NonZeroU128;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use tidings_wire::{
    ConnectionId, Control, Cursor, CursorKey, Event, Framing, HEARTBEAT_CHUNK, HEARTBEAT_RAW, Position,
    Sequence, encode_control,
};

use self::gather::{Recent, framed};
use self::plan::Plan;
use self::reading::page_bytes;
use crate::catch_up::{CatchUp, PageAnswer, Ticket};
use crate::index::{Index, ViewId};
use crate::log::Record;
use crate::resume::Resume;
use crate::subscriber::{Farewell, Finish, Lens, Own, PageState, Say, Subscriber, Tells, ToldGap};
use crate::window::Reader;
use crate::{Timestamp, View};

/// How many bytes one call of [`Shard::pending`] gathers, unless one event alone is larger.
const BATCH_BYTES: usize = 128 << 10;
/// How many events one call gathers.
const BATCH_RECORDS: usize = 512;
/// How many entries of the window are looked at in one call for a subscriber whose views don't know what they showed.
const SCAN: u64 = 1024;
/// How many newer events with an event's key are looked at for one that hides it.
const NEWER: usize = 64;
/// How many subscribers of a worker may wait for a page of the log at a time; the others wait for their turn.
const PAGES_ASKED: usize = 16;
/// How many bytes of pages a worker keeps for subscribers whose sockets are full; the others read their page again.
const PAGES_KEPT: usize = 8 << 20;

/// The slot of a subscriber on its worker, given again once it is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriberId(pub u32);

/// A subscriber to be.
#[derive(Debug)]
pub struct Opening {
    /// What it follows.
    pub views: Vec<View>,
    /// Where it begins.
    pub resume: Resume,
    /// What is written before everything else: the response's head and the first lines, framed already.
    pub head: Vec<u8>,
    /// The data of `tidings:open`, if that is said.
    pub open: Option<String>,
    /// How bytes are framed.
    pub framing: Framing,
    /// Whether events come in envelopes.
    pub envelope: bool,
    /// What it is shown of all that its views show.
    pub lens: Lens,
    /// Which of the hub's own events it is told.
    pub tells: Tells,
    /// The connection's id.
    pub connection: Option<ConnectionId>,
}

/// What a subscriber is to be written.
#[derive(Debug, PartialEq, Eq)]
pub enum Pending<'a> {
    /// These bytes; how many were taken is told with [`Shard::wrote`].
    Bytes(&'a [u8]),
    /// Nothing now.
    Nothing,
    /// Nothing as far as was looked, which is not to the end: the others' turn, then again.
    Later,
    /// Nothing until a page of the log was read; the subscriber becomes ready by itself.
    Reading,
    /// Nothing ever more: everything is written.
    Finished,
    /// The same, since all its channels have ended.
    Over,
    /// Nothing ever more: what was begun can't be ended. The connection is to be closed.
    Cut(Cut),
}

/// Why a subscriber can't go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Half of an event was written, and the log has it no more.
    Overtaken,
    /// The log could not be read.
    LogFailed,
}

/// What a subscriber in this process is handed.
#[derive(Debug, Clone)]
pub(crate) enum Taken {
    Records(Vec<(Record, Cursor)>),
    Gap(ToldGap),
    Nothing,
    Later,
    End,
    Cut(Cut),
}

/// What a shard has done, for statistics; written by its worker only.
#[derive(Debug, Default)]
pub struct ShardStats {
    /// Subscribers now.
    pub subscribers: AtomicU64,
    /// Events written, counted for each subscriber.
    pub delivered: AtomicU64,
    /// Bytes written, control events included.
    pub bytes: AtomicU64,
    /// Gaps told.
    pub gaps: AtomicU64,
    /// Events passed over because newer ones with the same keys came, counted for each subscriber.
    pub skipped: AtomicU64,
    /// Pages of the log that were read for subscribers behind the window.
    pub pages: AtomicU64,
}

impl ShardStats {
    fn add(counter: &AtomicU64, count: u64) {
        // One writer: no need of a locked instruction.
        counter.store(counter.load(Ordering::Relaxed) + count, Ordering::Relaxed);
    }
}

/// How far a subscriber is. These are looked at for each event and subscriber, so they lie close together.
#[derive(Debug, Clone, Copy)]
struct Mark {
    /// The window's index of the first entry that is to be looked at.
    from: u64,
    /// The place that was reached: everything up to it was written or isn't shown.
    after: Sequence,
    behind: Behind,
    /// It is in the queue of those who are ready.
    queued: bool,
    /// Its socket is full.
    blocked: bool,
}

/// What a subscriber did not get of what its views show, for statistics. Apart from the marks, which are looked at all
/// the time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Losses {
    /// How often it was told a gap.
    pub gaps: u64,
    /// How many events were passed over because newer ones with the same keys came.
    pub skipped: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behind {
    /// Up to date: it has reached whatever the shard has consumed.
    Not,
    /// All that is pending shows in this view.
    Through(ViewId),
    /// Several views may show what is pending.
    Many,
    /// It reads the log from `after` on.
    Log,
}

/// The bytes of the last batch, kept since the next subscriber often needs the same.
#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    /// Where the block of each pick ends in `bytes`.
    ends: Vec<usize>,
    picks: Vec<u64>,
    key: Option<BatchKey>,
    /// The views of the subscriber that it is for, if they make a difference.
    views: Vec<ViewId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct BatchKey {
    framing: Framing,
    envelope: bool,
}

/// What the last call of [`Shard::pending`] returned.
#[derive(Debug, Clone, Copy)]
enum Last {
    Nothing,
    Own,
    /// One entry, straight from the window.
    Entry(u64),
    /// `batch`, of picks from the window.
    Batch,
    /// `batch`, of records of the subscriber's page.
    Page,
}

/// A subscriber that came to follow something else.
#[derive(Debug)]
pub struct Move {
    /// Which one.
    pub id: SubscriberId,
    /// What it followed.
    pub before: Vec<View>,
    /// What it follows.
    pub after: Vec<View>,
}

/// All subscribers of one worker.
#[derive(Debug)]
pub struct Shard {
    reader: Reader,
    index: Index,
    subscribers: Vec<Option<Subscriber>>,
    marks: Vec<Mark>,
    losses: Vec<Losses>,
    free: Vec<u32>,
    generation: u32,
    ready: VecDeque<u32>,
    key: CursorKey,
    /// What the subscriber that is being written to is behind by.
    picks: Vec<u64>,
    /// What isn't picked because newer events with the same keys came.
    passed: Vec<u64>,
    /// How far the picks reach: what lies before this index and isn't picked isn't shown.
    picked_to: u64,
    /// Room for the lists that the picks are merged from.
    merge: Vec<Recent>,
    batch: Batch,
    last: Last,
    found: Vec<ViewId>,
    catch_up: CatchUp,
    answers: Receiver<PageAnswer>,
    reply: Sender<PageAnswer>,
    asked: usize,
    waiting: VecDeque<Ticket>,
    kept_bytes: usize,
    /// Subscribers that follow something else now, and nobody was told.
    moves: VecDeque<Move>,
    stats: Arc<ShardStats>,
}

impl Shard {
    pub(crate) fn new(reader: Reader, key: CursorKey, catch_up: CatchUp) -> Shard {
        let (reply, answers) = channel();
        Shard {
            reader,
            index: Index::default(),
            subscribers: Vec::new(),
            marks: Vec::new(),
            losses: Vec::new(),
            free: Vec::new(),
            generation: 0,
            ready: VecDeque::new(),
            key,
            picks: Vec::new(),
            passed: Vec::new(),
            picked_to: 0,
            merge: Vec::new(),
            batch: Batch::default(),
            last: Last::Nothing,
            found: Vec::new(),
            catch_up,
            answers,
            reply,
            asked: 0,
            waiting: VecDeque::new(),
            kept_bytes: 0,
            moves: VecDeque::new(),
            stats: Arc::default(),
        }
    }

    /// What this shard has done.
    pub fn stats(&self) -> &Arc<ShardStats> {
        &self.stats
    }

    /// How many subscribers there are.
    pub fn len(&self) -> usize {
        self.subscribers.len() - self.free.len()
    }

    /// Whether there is no subscriber.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes in up to `budget` of what the log announced since, and marks who is behind now; true if there is more.
    ///
    /// Once this has returned false, the shard's wake function is called when there is more.
    pub fn consume(&mut self, budget: usize) -> bool {
        self.take_pages();
        let oldest = self.reader.oldest();
        for _ in 0..budget {
            let Some((index, entry)) = self.reader.advance() else {
                if self.reader.is_at_a_break() && self.leave_history() {
                    continue;
                }
                if !self.reader.is_overtaken() {
                    return false;
                }
                self.rejoin();
                continue;
            };
            self.found.clear();
            for channel in entry.record.event.to.channels() {
                self.index.lookup(channel, &mut self.found);
            }
            let before = entry.before();
            let place = entry.sequence();
            let ends = entry.record.event.end;
            for view in &self.found {
                let Some(followed) = self.index.get_mut(*view) else { continue };
                if followed.recent.back() == Some(&index) {
                    // Two targets of one event, both shown by this view.
                    continue;
                }
                while followed.recent.front().is_some_and(|first| *first < oldest) {
                    followed.recent.pop_front();
                }
                followed.recent.push_back(index);
                // A channel that begins anew after its events were removed.
                followed.learn(place, None);
                for member in &followed.members {
                    let mark = &mut self.marks[*member as usize];
                    match mark.behind {
                        Behind::Not => {
                            mark.behind = Behind::Through(*view);
                            mark.from = index;
                            mark.after = before;
                            if !mark.queued && !mark.blocked {
                                mark.queued = true;
                                self.ready.push_back(*member);
                            }
                        }
                        Behind::Through(other) if other != *view => mark.behind = Behind::Many,
                        Behind::Through(_) | Behind::Many | Behind::Log => {}
                    }
                }
            }
            if ends {
                self.channels_end(place);
            }
        }
        true
    }

    /// Registers a subscriber where the shard stands, ready to be written its head.
    pub fn subscribe(&mut self, opening: Opening, now: Timestamp) -> SubscriberId {
        let mut own = opening.head;
        let slot = self.place(opening.framing, opening.envelope, &opening.views, opening.lens, now);
        if let Some(subscriber) = &mut self.subscribers[slot as usize] {
            subscriber.connection = opening.connection.and_then(|id| NonZeroU128::new(id.0));
            subscriber.tells = opening.tells;
        }
        let open_at = self.begin(slot, opening.resume);
        let open_at = self.key.seal(open_at);
        if let Some(data) = &opening.open {
            encode_control(&mut own, opening.framing, &Control::Open(data), None, &open_at);
        }
        if let Some(subscriber) = &mut self.subscribers[slot as usize]
            && !own.is_empty()
        {
            // What `begin` has to say, a gap, comes after this.
            own.extend_from_slice(subscriber.own.rest());
            subscriber.own = Own::Bytes { bytes: own.into(), at: 0 };
        }
        self.enqueue(slot);
        SubscriberId(slot)
    }

    /// The same for a subscriber in this process, which takes records.
    pub(crate) fn subscribe_records(
        &mut self,
        views: &[View],
        resume: Resume,
        lens: Lens,
        now: Timestamp,
    ) -> (SubscriberId, Position, Option<ToldGap>) {
        let slot = self.place(Framing::Raw, false, views, lens, now);
        if let Some(subscriber) = &mut self.subscribers[slot as usize] {
            subscriber.records = true;
        }
        let gap = resume.gap;
        let at = self.begin(slot, resume);
        let told = gap.filter(|_| self.marks[slot as usize].behind != Behind::Log).map(|gap| ToldGap {
            reason: gap.reason,
            from: gap.from,
            to: self.position(SubscriberId(slot)),
        });
        (SubscriberId(slot), at, told)
    }

    /// Takes a subscriber out, whatever it is about.
    pub fn unsubscribe(&mut self, id: SubscriberId) {
        let Some(subscriber) = self.subscribers.get_mut(id.0 as usize).and_then(Option::take) else { return };
        for membership in &subscriber.views {
            self.part(*membership);
        }
        if let Some(reading) = &subscriber.reading {
            self.kept_bytes -= page_bytes(&reading.page).min(self.kept_bytes);
        }
        // The slot may still be queued; it is passed over, or serves who has it then.
        let mark = &mut self.marks[id.0 as usize];
        mark.behind = Behind::Not;
        mark.blocked = false;
        self.free.push(id.0);
        self.last = Last::Nothing;
        self.stats.subscribers.store(self.len() as u64, Ordering::Relaxed);
    }

    /// The next subscriber with something to be written, and takes it off the queue.
    pub fn next_ready(&mut self) -> Option<SubscriberId> {
        while let Some(slot) = self.ready.pop_front() {
            let mark = &mut self.marks[slot as usize];
            mark.queued = false;
            if !mark.blocked && self.subscribers[slot as usize].is_some() {
                return Some(SubscriberId(slot));
            }
        }
        None
    }

    /// How many are queued as ready; a few of them may have gone since.
    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    /// What a subscriber is to be written now.
    pub fn pending(&mut self, id: SubscriberId, now: Timestamp) -> Pending<'_> {
        let plan = self.plan(id.0, now);
        self.last = match plan {
            Plan::Own => Last::Own,
            Plan::Window => match self.assemble(id.0) {
                Some(last) => last,
                None => return Pending::Nothing,
            },
            Plan::Page => {
                self.assemble_page(id.0);
                Last::Page
            }
            Plan::Told(_) | Plan::Nothing | Plan::Later | Plan::Reading | Plan::Finished | Plan::Cut(_) => {
                Last::Nothing
            }
        };
        let Some(subscriber) = &self.subscribers[id.0 as usize] else { return Pending::Nothing };
        let offset = subscriber.offset as usize;
        match (plan, self.last) {
            (_, Last::Own) => Pending::Bytes(subscriber.own.rest()),
            (_, Last::Entry(index)) => match self.reader.get(index) {
                Some(entry) => Pending::Bytes(&framed(&entry.encoded, subscriber.framing)[offset..]),
                None => Pending::Nothing,
            },
            (_, Last::Batch | Last::Page) => Pending::Bytes(&self.batch.bytes[offset..]),
            (Plan::Later, _) => Pending::Later,
            (Plan::Reading, _) => Pending::Reading,
            (Plan::Finished, _) if subscriber.wants.finish == Finish::Over => Pending::Over,
            (Plan::Finished, _) => Pending::Finished,
            (Plan::Cut(cut), _) => Pending::Cut(cut),
            _ => Pending::Nothing,
        }
    }

    /// Says how many of the bytes were taken that [`Shard::pending`] has just returned for this subscriber.
    pub fn wrote(&mut self, id: SubscriberId, bytes: usize, now: Timestamp) {
        ShardStats::add(&self.stats.bytes, bytes as u64);
        let slot = id.0 as usize;
        let last = mem::replace(&mut self.last, Last::Nothing);
        let Some(subscriber) = &mut self.subscribers[slot] else { return };
        if let Last::Own = last {
            subscriber.own.wrote(bytes);
            return;
        }
        let reached = subscriber.offset as usize + bytes;
        let one;
        let ends = match last {
            Last::Nothing | Last::Own => return,
            Last::Entry(index) => {
                one = [self.reader.get(index).map_or(0, |e| framed(&e.encoded, subscriber.framing).len())];
                &one[..]
            }
            Last::Batch | Last::Page => &self.batch.ends,
        };
        let done = ends.partition_point(|end| *end <= reached);
        let ended = done.checked_sub(1).map_or(0, |last| ends[last]);
        let all = done == ends.len();
        subscriber.offset = u32::try_from(reached - ended).unwrap_or(u32::MAX);
        if done > 0 {
            subscriber.id_at = now;
        }
        ShardStats::add(&self.stats.delivered, done as u64);
        if let Last::Page = last {
            self.page_written(slot, done);
        } else {
            let next = if all { None } else { Some(self.picks[done]) };
            self.picks_taken(slot, done, next);
        }
    }

    /// Says that the subscriber's socket is full: it does not become ready until [`Shard::unblock`].
    pub fn block(&mut self, id: SubscriberId) {
        self.marks[id.0 as usize].blocked = true;
        if self.kept_bytes <= PAGES_KEPT {
            return;
        }
        if let Some(Subscriber { reading: Some(reading), .. }) = &mut self.subscribers[id.0 as usize]
            && let PageState::Here { .. } = reading.page
        {
            self.kept_bytes -= page_bytes(&reading.page).min(self.kept_bytes);
            reading.page = PageState::Needed;
        }
    }

    /// Says that the subscriber's socket takes bytes again.
    pub fn unblock(&mut self, id: SubscriberId) {
        let mark = &mut self.marks[id.0 as usize];
        if mem::take(&mut mark.blocked) {
            self.enqueue(id.0);
        }
    }

    /// Whether the subscriber's socket is full.
    pub fn is_blocked(&self, id: SubscriberId) -> bool {
        self.marks[id.0 as usize].blocked
    }

    /// Queues a subscriber that has more to be written, behind the others.
    pub fn requeue(&mut self, id: SubscriberId) {
        self.enqueue(id.0);
    }

    /// Says something between two events. A heartbeat for who is being written to anyway is left out.
    pub fn say(&mut self, id: SubscriberId, say: Say) {
        let Some(subscriber) = &mut self.subscribers[id.0 as usize] else { return };
        if matches!(subscriber.wants.finish, Finish::Said | Finish::Over) {
            return;
        }
        match say {
            Say::Ping => subscriber.wants.ping = true,
            Say::Position => subscriber.wants.position = true,
            Say::Heartbeat => {
                let busy = self.marks[id.0 as usize].blocked || subscriber.offset > 0;
                if busy || !subscriber.own.is_empty() {
                    return;
                }
                let bytes = match subscriber.framing {
                    Framing::Chunked => HEARTBEAT_CHUNK,
                    Framing::Raw => HEARTBEAT_RAW,
                };
                subscriber.own = Own::Static { bytes, at: 0 };
            }
        }
        self.enqueue(id.0);
    }

    /// Ends a stream at the next place between two events: says why, then the last bytes, then
    /// [`Pending::Finished`]. What the subscriber is behind by is not written; it comes back for it.
    pub fn finish(&mut self, id: SubscriberId, farewell: Farewell, retry: Option<u32>) {
        let Some(subscriber) = &mut self.subscribers[id.0 as usize] else { return };
        if subscriber.wants.finish == Finish::No {
            subscriber.wants.finish = Finish::Say { farewell, retry };
            self.enqueue(id.0);
        }
    }

    /// The cursor that the subscriber would come back with if it had read everything that was written.
    pub fn cursor(&self, id: SubscriberId) -> Cursor {
        self.key.seal(self.position(id))
    }

    /// When the subscriber was last sent an id.
    pub fn id_at(&self, id: SubscriberId) -> Timestamp {
        self.subscribers[id.0 as usize].as_ref().map_or(Timestamp::default(), |s| s.id_at)
    }

    /// What the subscriber did not get so far.
    pub fn losses(&self, id: SubscriberId) -> Losses {
        self.losses.get(id.0 as usize).copied().unwrap_or_default()
    }

    /// What a subscriber follows, a change that waits for the end of a block included.
    pub fn views(&self, id: SubscriberId) -> impl Iterator<Item = &View> {
        let subscriber = self.subscribers.get(id.0 as usize).and_then(Option::as_ref);
        let change = subscriber.and_then(|subscriber| subscriber.change.as_deref());
        let stays = move |view: &&View| change.is_none_or(|change| !change.changes(view));
        self.followed(id).filter(stays).chain(change.into_iter().flat_map(|change| &change.add))
    }

    /// What a subscriber follows by now, without a change that waits: what it was opened with and
    /// [`Shard::next_move`] has said since.
    pub fn followed(&self, id: SubscriberId) -> impl Iterator<Item = &View> {
        let subscriber = self.subscribers.get(id.0 as usize).and_then(Option::as_ref);
        let views = subscriber.into_iter().flat_map(|subscriber| &subscriber.views);
        views.filter_map(|membership| self.index.get(membership.view)).map(|followed| &followed.view)
    }

    /// Whether a subscriber follows one of these views, a part of one, or more than one.
    pub fn follows(&self, views: &[View]) -> bool {
        let meets = |followed: &View, asked: &View| match (followed, asked) {
            (View::Channel(channel), asked) => asked.shows(channel),
            (followed, View::Channel(channel)) => followed.shows(channel),
            (followed, asked) => followed == asked,
        };
        self.index.followed().any(|followed| views.iter().any(|asked| meets(&followed.view, asked)))
    }

    /// How many subscribers of this shard an event is for.
    pub fn receivers(&self, event: &Event) -> usize {
        let mut views = Vec::new();
        for channel in event.to.channels() {
            self.index.lookup(channel, &mut views);
        }
        let mut members: Vec<u32> =
            views.iter().filter_map(|view| self.index.get(*view)).flat_map(|v| &v.members).copied().collect();
        members.sort_unstable();
        members.dedup();
        let gets =
            |member: &&u32| self.subscribers[**member as usize].as_ref().is_some_and(|s| self.sees(s, event));
        members.iter().filter(gets).count()
    }

    /// Whether a subscriber has not yet got all that was consumed, or not yet passed it over.
    pub(crate) fn is_behind(&self, id: SubscriberId) -> bool {
        self.marks[id.0 as usize].behind != Behind::Not
    }

    /// What a subscriber in this process gets next.
    pub(crate) fn take(&mut self, id: SubscriberId, now: Timestamp) -> Taken {
        let slot = id.0 as usize;
        match self.plan(id.0, now) {
            Plan::Window => {
                let record = |index: &u64| {
                    let entry = self.reader.get(*index)?;
                    Some((entry.record.clone(), self.key.seal(entry.record.position)))
                };
                let records: Vec<_> = self.picks.iter().filter_map(record).collect();
                ShardStats::add(&self.stats.delivered, records.len() as u64);
                self.picks_taken(slot, self.picks.len(), None);
                Taken::Records(records)
            }
            Plan::Page => {
                let Some(Subscriber { reading: Some(reading), .. }) = &self.subscribers[slot] else {
                    return Taken::Nothing;
                };
                let PageState::Here { page, next } = &reading.page else { return Taken::Nothing };
                let records: Vec<_> = page.records[*next..]
                    .iter()
                    .map(|(record, _)| (record.clone(), self.key.seal(record.position)))
                    .collect();
                ShardStats::add(&self.stats.delivered, records.len() as u64);
                self.page_written(slot, records.len());
                Taken::Records(records)
            }
            Plan::Told(gap) => Taken::Gap(gap),
            Plan::Cut(cut) => Taken::Cut(cut),
            Plan::Later => Taken::Later,
            Plan::Finished => Taken::End,
            Plan::Nothing | Plan::Reading | Plan::Own => Taken::Nothing,
        }
    }
}

#[cfg(test)]
impl Shard {
    /// All that is known of a subscriber, for a test that fails.
    pub(crate) fn describe(&self, id: SubscriberId) -> String {
        let slot = id.0 as usize;
        format!("{:?} {:?}", self.marks[slot], self.subscribers[slot])
    }
}

impl Shard {
    fn here(&self) -> Position {
        Position { epoch: self.reader.epoch(), sequence: self.reader.consumed() }
    }

    fn at(&self, sequence: Sequence) -> Position {
        Position { epoch: self.reader.epoch(), sequence }
    }

    /// Goes on in a window that has left the shard behind: everybody reads in the log what lies between. Who was behind
    /// already finds out by itself.
    fn rejoin(&mut self) {
        let reached = self.reader.consumed();
        self.reader.rejoin();
        // In between, channels may have ended or begun anew: whoever follows them is told with its page of the log.
        self.index.forget_ends();
        for slot in 0..u32::try_from(self.subscribers.len()).unwrap_or(u32::MAX) {
            let there = self.subscribers[slot as usize].is_some();
            if there && self.marks[slot as usize].behind == Behind::Not {
                self.read_from(slot, reached);
                self.enqueue(slot);
            }
        }
    }

    fn enqueue(&mut self, slot: u32) {
        let mark = &mut self.marks[slot as usize];
        if !mark.queued && !mark.blocked {
            mark.queued = true;
            self.ready.push_back(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// There are as many of these as there are people looking: what is added here is added a hundred thousand times.
    #[test]
    fn a_subscriber_is_small() {
        assert!(size_of::<Subscriber>() <= 144, "{}", size_of::<Subscriber>());
        assert!(size_of::<Mark>() <= 32, "{}", size_of::<Mark>());
    }
}
