//! HOT 3. The subscribers of one worker: who is behind, and by which bytes.
//!
//! No socket, no lock, no clock: a worker calls, in turns, [`Shard::consume`] to take in what the log announced,
//! [`Shard::next_ready`] for who has something to be written, [`Shard::pending`] for the bytes, and
//! [`Shard::wrote`] with how many of them its socket took.
//!
//! A subscriber is always in one of four states: up to date; behind through one view; behind through many (or not
//! known through which); behind the window, so that it reads the log. What it is behind by is found when it is
//! written to, not queued, so being behind costs nothing.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use tidings_wire::{
    ClientId, ConnectionId, Control, Cursor, CursorKey, EncodedEvent, Event, Framing, GapReason,
    HEARTBEAT_CHUNK, HEARTBEAT_RAW, LAST_CHUNK, Position, Sequence, UserId, encode_control, encode_envelope,
};

use crate::catch_up::{CatchUp, PageAnswer, PageRequest, Ticket};
use crate::index::{Index, ViewId};
use crate::log::{Record, Selection};
use crate::resume::{From, Gap, Resume};
use crate::subscriber::{
    Farewell, Finish, Membership, Own, PageState, Reading, Say, Subscriber, ToldGap, Wants, Who,
};
use crate::window::{Entry, Reader};
use crate::{Timestamp, View};

/// How many bytes one call of [`Shard::pending`] gathers, unless one event alone is larger.
const BATCH_BYTES: usize = 128 << 10;
/// How many events one call gathers.
const BATCH_RECORDS: usize = 512;
/// How many entries of the window are looked at in one call for a subscriber whose views don't know what they showed.
const SCAN: u64 = 4096;
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
    /// The user, if it has one.
    pub user: Option<UserId>,
    /// The id that the client chose.
    pub client: Option<ClientId>,
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
    /// Nothing until a page of the log was read; the subscriber becomes ready by itself.
    Reading,
    /// Nothing ever more: everything is written.
    Finished,
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
}

#[derive(Debug, PartialEq, Eq)]
struct BatchKey {
    framing: Framing,
    /// With envelopes, the block depends on the views.
    views: Option<Vec<ViewId>>,
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

/// All subscribers of one worker.
#[derive(Debug)]
pub struct Shard {
    reader: Reader,
    index: Index,
    subscribers: Vec<Option<Subscriber>>,
    marks: Vec<Mark>,
    free: Vec<u32>,
    generation: u32,
    ready: VecDeque<u32>,
    key: CursorKey,
    /// What the subscriber that is being written to is behind by.
    picks: Vec<u64>,
    /// How far the picks reach: what lies before this index and isn't picked isn't shown.
    picked_to: u64,
    batch: Batch,
    last: Last,
    found: Vec<ViewId>,
    catch_up: CatchUp,
    answers: Receiver<PageAnswer>,
    reply: Sender<PageAnswer>,
    asked: usize,
    waiting: VecDeque<Ticket>,
    kept_bytes: usize,
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
            free: Vec::new(),
            generation: 0,
            ready: VecDeque::new(),
            key,
            picks: Vec::new(),
            picked_to: 0,
            batch: Batch::default(),
            last: Last::Nothing,
            found: Vec::new(),
            catch_up,
            answers,
            reply,
            asked: 0,
            waiting: VecDeque::new(),
            kept_bytes: 0,
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
            let Some((index, entry)) = self.reader.advance() else { return false };
            self.found.clear();
            for channel in entry.record.event.to.channels() {
                self.index.lookup(channel, &mut self.found);
            }
            let before = entry.before();
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
        }
        true
    }

    /// Registers a subscriber where the shard stands, ready to be written its head.
    pub fn subscribe(&mut self, opening: Opening, now: Timestamp) -> SubscriberId {
        let who = Who { user: opening.user, client: opening.client, connection: opening.connection };
        let mut own = opening.head;
        let slot = self.place(opening.framing, opening.envelope, &opening.views, who, now);
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
        who: Who,
        now: Timestamp,
    ) -> (SubscriberId, Position, Option<ToldGap>) {
        let slot = self.place(Framing::Raw, false, views, who, now);
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
            let Some(followed) = self.index.get_mut(membership.view) else { continue };
            followed.members.swap_remove(membership.slot as usize);
            if let Some(moved) = followed.members.get(membership.slot as usize).copied() {
                let moved = self.subscribers[moved as usize].as_mut();
                let memberships = moved.map(|moved| &mut moved.views).into_iter().flatten();
                for other in memberships.filter(|other| other.view == membership.view) {
                    other.slot = membership.slot;
                }
            } else if followed.members.is_empty() {
                self.index.release(membership.view);
            }
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
            Plan::Told(_) | Plan::Nothing | Plan::Reading | Plan::Finished | Plan::Cut(_) => Last::Nothing,
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
            (Plan::Reading, _) => Pending::Reading,
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
        if subscriber.wants.finish == Finish::Said {
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
        let gets = |member: &&u32| {
            self.subscribers[**member as usize]
                .as_ref()
                .is_some_and(|s| s.who.as_ref().is_none_or(|who| !who.is_among(&event.exclude)))
        };
        members.iter().filter(gets).count()
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
            Plan::Nothing | Plan::Reading | Plan::Own | Plan::Finished => Taken::Nothing,
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

/// What comes next for a subscriber.
#[derive(Debug, Clone, Copy)]
enum Plan {
    /// Its own bytes.
    Own,
    /// `picks` of the window.
    Window,
    /// The rest of its page.
    Page,
    /// A gap, for a subscriber that takes records.
    Told(ToldGap),
    Nothing,
    Reading,
    Finished,
    Cut(Cut),
}

impl Shard {
    fn here(&self) -> Position {
        Position { epoch: self.reader.epoch(), sequence: self.reader.consumed() }
    }

    fn at(&self, sequence: Sequence) -> Position {
        Position { epoch: self.reader.epoch(), sequence }
    }

    fn enqueue(&mut self, slot: u32) {
        let mark = &mut self.marks[slot as usize];
        if !mark.queued && !mark.blocked {
            mark.queued = true;
            self.ready.push_back(slot);
        }
    }

    /// Gives a subscriber a slot and enters it into its views.
    fn place(&mut self, framing: Framing, envelope: bool, views: &[View], who: Who, now: Timestamp) -> u32 {
        // What is there already is not for it, so that it must not be marked behind by it later.
        while self.consume(usize::MAX) {}
        let slot = self.free.pop().unwrap_or_else(|| {
            self.subscribers.push(None);
            let idle =
                Mark { from: 0, after: Sequence::START, behind: Behind::Not, queued: false, blocked: false };
            self.marks.push(idle);
            u32::try_from(self.subscribers.len() - 1).unwrap_or(u32::MAX)
        });
        let mut memberships: Vec<Membership> = Vec::with_capacity(views.len());
        for view in views {
            let id = self.index.follow(view, self.reader.at());
            if memberships.iter().any(|known| known.view == id) {
                continue;
            }
            if let Some(followed) = self.index.get_mut(id) {
                let place = u32::try_from(followed.members.len()).unwrap_or(u32::MAX);
                memberships.push(Membership { view: id, slot: place });
                followed.members.push(slot);
            }
        }
        let anybody = who.user.is_none() && who.client.is_none() && who.connection.is_none();
        self.generation = self.generation.wrapping_add(1);
        self.subscribers[slot as usize] = Some(Subscriber {
            generation: self.generation,
            views: memberships.into(),
            framing,
            envelope,
            records: false,
            offset: 0,
            ephemeral_begun: false,
            own: Own::None,
            wants: Wants::default(),
            born: self.reader.consumed(),
            live_from: self.reader.at(),
            who: (!anybody).then(|| Box::new(who)),
            reading: None,
            id_at: now,
        });
        let mark = &mut self.marks[slot as usize];
        mark.from = self.reader.at();
        mark.after = self.reader.consumed();
        mark.behind = Behind::Not;
        mark.blocked = false;
        self.stats.subscribers.store(self.len() as u64, Ordering::Relaxed);
        slot
    }

    /// Sets a new subscriber to where it begins; the position that its `open` has.
    fn begin(&mut self, slot: u32, resume: Resume) -> Position {
        let here = self.reader.consumed();
        let Resume { from, gap, forgiven } = resume;
        let (after, starts) = match from {
            From::Now(head) => {
                // Records up to `head` may not have come through the window yet; they are older than the request.
                let born = head.max(here);
                if let Some(subscriber) = &mut self.subscribers[slot as usize] {
                    subscriber.born = born;
                    if let Some(gap) = gap {
                        self.tell(slot, gap, self.at(born));
                        return gap.from.unwrap_or(Position::UNKNOWN);
                    }
                }
                return self.at(born);
            }
            From::After(after) => (after, None),
            From::History { selections, through } => {
                let after = selections.iter().map(|s| s.after).min().unwrap_or(through);
                (after, Some((selections, through)))
            }
        };
        let Some(subscriber) = &mut self.subscribers[slot as usize] else { return self.at(after) };
        subscriber.born = after;
        let in_window = self.reader.index_after(after);
        let mark = &mut self.marks[slot as usize];
        mark.after = after;
        match in_window {
            Some(from) if gap.is_none() && starts.is_none() && forgiven == Sequence::START => {
                if from < self.reader.at() {
                    mark.from = from;
                    mark.behind = Behind::Many;
                }
            }
            _ => {
                mark.behind = Behind::Log;
                let page = PageState::Needed;
                subscriber.reading = Some(Box::new(Reading { starts, forgiven, gap, page, looked: false }));
            }
        }
        match gap {
            Some(gap) => gap.from.unwrap_or(Position::UNKNOWN),
            None => self.at(after),
        }
    }

    fn position(&self, id: SubscriberId) -> Position {
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
    fn tell(&mut self, slot: u32, gap: Gap, to: Position) {
        ShardStats::add(&self.stats.gaps, 1);
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
    fn say_wanted(&mut self, slot: u32, now: Timestamp) {
        let id = self.cursor(SubscriberId(slot));
        let Some(subscriber) = &mut self.subscribers[slot as usize] else { return };
        let framing = subscriber.framing;
        let mut bytes = Vec::new();
        if let Finish::Say { farewell, retry } = subscriber.wants.finish {
            if let Some(control) = farewell.control() {
                encode_control(&mut bytes, framing, &control, retry, &id);
            }
            if let Framing::Chunked = framing {
                bytes.extend_from_slice(LAST_CHUNK);
            }
            subscriber.wants = Wants { finish: Finish::Said, ..Wants::default() };
        } else {
            if mem::take(&mut subscriber.wants.position) {
                encode_control(&mut bytes, framing, &Control::Position, None, &id);
                subscriber.id_at = now;
            }
            if mem::take(&mut subscriber.wants.ping) {
                encode_control(&mut bytes, framing, &Control::Ping, None, &id);
                subscriber.id_at = now;
            }
        }
        subscriber.own.append(&bytes);
    }

    /// Decides what comes next. Each step either is the answer or brings the subscriber one state on.
    fn plan(&mut self, slot: u32, now: Timestamp) -> Plan {
        loop {
            let Some(subscriber) = &self.subscribers[slot as usize] else { return Plan::Nothing };
            if subscriber.offset == 0 {
                // A control event is composed with the id of the moment: not while others wait to be written.
                if !subscriber.own.is_empty() {
                    return Plan::Own;
                }
                if subscriber.wants.finish == Finish::Said {
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
                Behind::Not => return Plan::Nothing,
                Behind::Through(_) | Behind::Many => match self.pick(slot, now) {
                    Picked::Some => return Plan::Window,
                    Picked::None => return Plan::Nothing,
                    Picked::GoOn => {}
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

    /// Finds what a subscriber is behind by in the window: fills `picks` and `picked_to`.
    fn pick(&mut self, slot: u32, now: Timestamp) -> Picked {
        self.picks.clear();
        let mark = self.marks[slot as usize];
        let Some(subscriber) = &self.subscribers[slot as usize] else { return Picked::None };
        if mark.from < self.reader.oldest() {
            return Picked::Log;
        }
        let mut gather = Gather {
            reader: &self.reader,
            subscriber,
            begun: (subscriber.offset > 0).then_some(mark.from),
            now,
            bytes: 0,
            picks: &mut self.picks,
            removed: false,
        };
        let end = self.reader.at();
        let lists = |views: &[Membership]| {
            views
                .iter()
                .filter_map(|membership| self.index.get(membership.view))
                .all(|followed| followed.complete_from <= mark.from)
        };
        let to = match mark.behind {
            Behind::Through(view) => {
                let recent = self.index.get(view).map(|followed| &followed.recent);
                recent.map_or(end, |recent| {
                    let first = recent.partition_point(|index| *index < mark.from);
                    gather.all(recent.range(first..).copied(), end)
                })
            }
            _ if lists(&subscriber.views) => {
                let merged = Merge::new(&self.index, &subscriber.views, mark.from);
                gather.all(merged, end)
            }
            _ => {
                let to = end.min(mark.from + SCAN);
                let views = subscriber.views.iter().filter_map(|m| self.index.get(m.view)).map(|f| &f.view);
                let views: Vec<&View> = views.collect();
                let shown = |index: &u64| {
                    self.reader.get(*index).is_some_and(|entry| {
                        let channels = entry.record.event.to.channels();
                        channels.iter().any(|channel| views.iter().any(|view| view.shows(channel)))
                    })
                };
                gather.all((mark.from..to).filter(shown), to)
            }
        };
        if gather.removed && self.picks.is_empty() {
            // Something that it should have got was purged: the log knows whether that is a gap.
            return Picked::Log;
        }
        self.picked_to = to;
        if !self.picks.is_empty() {
            return Picked::Some;
        }
        let mark = &mut self.marks[slot as usize];
        if to >= end {
            mark.behind = Behind::Not;
            return Picked::None;
        }
        mark.from = to;
        if let Some(entry) = self.reader.get(to) {
            mark.after = mark.after.max(entry.before());
        }
        Picked::GoOn
    }

    /// Moves a subscriber's mark behind the picks it got; `next` is the first that it didn't.
    fn picks_taken(&mut self, slot: usize, done: usize, next: Option<u64>) {
        let mark = &mut self.marks[slot];
        if let Some(last) = done.checked_sub(1).and_then(|last| self.reader.get(self.picks[last])) {
            mark.after = last.sequence();
        }
        match next {
            Some(next) => {
                mark.from = next;
                if let Some(entry) = self.reader.get(next) {
                    mark.after = mark.after.max(entry.before());
                    if let Some(subscriber) = &mut self.subscribers[slot] {
                        subscriber.ephemeral_begun = entry.ephemeral;
                    }
                }
            }
            None if self.picked_to >= self.reader.at() => mark.behind = Behind::Not,
            None => mark.from = self.picked_to,
        }
    }

    /// Puts the picks' bytes together, if they aren't from the subscriber before.
    fn assemble(&mut self, slot: u32) -> Option<Last> {
        let subscriber = self.subscribers[slot as usize].as_ref()?;
        if let ([index], false) = (&self.picks[..], subscriber.envelope) {
            return Some(Last::Entry(*index));
        }
        let views = || subscriber.views.iter().map(|membership| membership.view).collect();
        let key = BatchKey { framing: subscriber.framing, views: subscriber.envelope.then(views) };
        if self.batch.key.as_ref() == Some(&key) && self.batch.picks == self.picks {
            return Some(Last::Batch);
        }
        self.batch.bytes.clear();
        self.batch.ends.clear();
        self.batch.picks.clone_from(&self.picks);
        for entry in self.picks.iter().filter_map(|index| self.reader.get(*index)) {
            if subscriber.envelope {
                envelope(&mut self.batch.bytes, &self.index, &self.key, subscriber, &entry.record);
            } else {
                self.batch.bytes.extend_from_slice(framed(&entry.encoded, subscriber.framing));
            }
            self.batch.ends.push(self.batch.bytes.len());
        }
        self.batch.key = Some(key);
        Some(Last::Batch)
    }
}

/// The log, for who is behind the window.
impl Shard {
    /// One step of reading the log: a plan, or nothing when the subscriber came a step further.
    fn read_on(&mut self, slot: u32, now: Timestamp) -> Option<Plan> {
        let mark = self.marks[slot as usize];
        let subscriber = self.subscribers[slot as usize].as_mut()?;
        let Some(reading) = &mut subscriber.reading else {
            self.marks[slot as usize].behind = Behind::Many;
            return None;
        };
        match &reading.page {
            PageState::Failed => Some(Plan::Cut(Cut::LogFailed)),
            PageState::Asked => Some(Plan::Reading),
            PageState::Here { page, next } if *next < page.records.len() => {
                // An event whose first half was written is ended before anything else is said.
                let begun = subscriber.offset > 0;
                let first = page.records[*next].0.position.sequence;
                if begun && *next == 0 && first != mark.after.next() {
                    return Some(Plan::Cut(Cut::Overtaken));
                }
                if !begun && let Some(gap) = reading.found_gap(mark.after, self.reader.epoch()) {
                    return self.told(slot, gap, Sequence(first.0 - 1).max(mark.after));
                }
                Some(Plan::Page)
            }
            PageState::Here { page, .. } => {
                if subscriber.offset > 0 {
                    return Some(Plan::Cut(Cut::Overtaken));
                }
                let through = page.through.max(mark.after);
                if let Some(gap) = reading.found_gap(mark.after, self.reader.epoch()) {
                    return self.told(slot, gap, through);
                }
                self.page_done(slot, through);
                None
            }
            PageState::Needed => {
                if let Some((_, through)) = &reading.starts
                    && mark.after >= *through
                {
                    reading.starts = None;
                }
                let settled = reading.looked && reading.starts.is_none() && mark.after >= reading.forgiven;
                if settled && subscriber.offset == 0 && self.back_to_window(slot) {
                    return None;
                }
                self.ask(slot, now);
                Some(Plan::Reading)
            }
        }
    }

    /// Tells a gap, either among the subscriber's own bytes (and it goes on) or by the plan.
    fn told(&mut self, slot: u32, gap: Gap, to: Sequence) -> Option<Plan> {
        self.marks[slot as usize].after = to;
        let to = self.at(to);
        self.tell(slot, gap, to);
        let records = self.subscribers[slot as usize].as_ref().is_some_and(|s| s.records);
        records.then_some(Plan::Told(ToldGap { reason: gap.reason, from: gap.from, to }))
    }

    /// Brings a subscriber back from the log to the window, if that has all that comes after.
    fn back_to_window(&mut self, slot: u32) -> bool {
        let after = self.marks[slot as usize].after;
        let Some(from) = self.reader.index_after(after) else { return false };
        let mark = &mut self.marks[slot as usize];
        mark.from = from;
        mark.behind = if from < self.reader.at() { Behind::Many } else { Behind::Not };
        if let Some(subscriber) = &mut self.subscribers[slot as usize] {
            subscriber.reading = None;
            subscriber.born = subscriber.born.max(after);
            // What wasn't kept while it was away was for those who kept up.
            subscriber.live_from = self.reader.at();
        }
        true
    }

    fn ask(&mut self, slot: u32, now: Timestamp) {
        let after = self.marks[slot as usize].after;
        let Some(subscriber) = &mut self.subscribers[slot as usize] else { return };
        let ticket = Ticket { slot, generation: subscriber.generation };
        let Some(reading) = &mut subscriber.reading else { return };
        if self.asked >= PAGES_ASKED {
            reading.page = PageState::Asked;
            self.waiting.push_back(ticket);
            return;
        }
        reading.page = PageState::Asked;
        self.asked += 1;
        ShardStats::add(&self.stats.pages, 1);
        let (selections, through) = match &reading.starts {
            Some((selections, through)) => {
                let behind = |s: &Selection| Selection { view: s.view.clone(), after: s.after.max(after) };
                (selections.iter().map(behind).collect(), *through)
            }
            None => {
                let views = subscriber.views.iter().filter_map(|m| self.index.get(m.view));
                let all = views.map(|followed| Selection { view: followed.view.clone(), after });
                (all.collect(), Sequence(u64::MAX))
            }
        };
        self.catch_up.ask(PageRequest {
            ticket,
            selections,
            through,
            now,
            reply: self.reply.clone(),
            waker: self.reader.waker().clone(),
        });
    }

    /// Hands out the pages that were read.
    fn take_pages(&mut self) {
        while let Ok(PageAnswer { ticket, page }) = self.answers.try_recv() {
            self.asked = self.asked.saturating_sub(1);
            let Some(subscriber) = self.holder(ticket) else { continue };
            let who = subscriber.who.take();
            if let Some(reading) = &mut subscriber.reading {
                reading.page = match page {
                    Ok(mut page) => {
                        let excluded =
                            |r: &Record| who.as_ref().is_some_and(|who| who.is_among(&r.event.exclude));
                        page.records.retain(|(record, _)| !excluded(record));
                        PageState::Here { page, next: 0 }
                    }
                    Err(_) => PageState::Failed,
                };
                let bytes = page_bytes(&reading.page);
                subscriber.who = who;
                self.kept_bytes += bytes;
                self.enqueue(ticket.slot);
            }
        }
        while self.asked < PAGES_ASKED
            && let Some(ticket) = self.waiting.pop_front()
        {
            if let Some(reading) = self.holder(ticket).and_then(|subscriber| subscriber.reading.as_mut()) {
                // It asks when it is written to next, with the time of then.
                reading.page = PageState::Needed;
                self.enqueue(ticket.slot);
                // One slot of the pool is its own: the others wait until it has asked.
                break;
            }
        }
    }

    /// The subscriber that asked, if it still reads the log.
    fn holder(&mut self, ticket: Ticket) -> Option<&mut Subscriber> {
        let subscriber = self.subscribers.get_mut(ticket.slot as usize)?.as_mut()?;
        (subscriber.generation == ticket.generation && subscriber.reading.is_some()).then_some(subscriber)
    }

    fn assemble_page(&mut self, slot: u32) {
        self.batch.key = None;
        self.batch.bytes.clear();
        self.batch.ends.clear();
        let Some(subscriber) = &self.subscribers[slot as usize] else { return };
        let Some(PageState::Here { page, next }) = subscriber.reading.as_ref().map(|r| &r.page) else {
            return;
        };
        for (record, encoded) in page.records[*next..].iter() {
            if subscriber.envelope {
                envelope(&mut self.batch.bytes, &self.index, &self.key, subscriber, record);
            } else {
                self.batch.bytes.extend_from_slice(framed(encoded, subscriber.framing));
            }
            self.batch.ends.push(self.batch.bytes.len());
            // A block under way is ended alone: what comes next may be a gap.
            if subscriber.offset > 0 || self.batch.bytes.len() > BATCH_BYTES {
                break;
            }
        }
    }

    fn page_written(&mut self, slot: usize, done: usize) {
        let Some(Subscriber { reading: Some(reading), offset, .. }) = &mut self.subscribers[slot] else {
            return;
        };
        let PageState::Here { page, next } = &mut reading.page else { return };
        *next += done;
        if let Some((record, _)) = next.checked_sub(1).and_then(|last| page.records.get(last)) {
            self.marks[slot].after = self.marks[slot].after.max(record.position.sequence);
        }
        if *next < page.records.len() {
            // Behind a block that was ended alone, a gap may come before the next one.
            if *offset > 0
                && let Some((record, _)) = page.records.get(*next)
            {
                let before = Sequence(record.position.sequence.0 - 1);
                self.marks[slot].after = self.marks[slot].after.max(before);
            }
            return;
        }
        let through = page.through.max(self.marks[slot].after);
        self.page_done(u32::try_from(slot).unwrap_or(u32::MAX), through);
    }

    /// Everything up to `through` was written or isn't shown.
    fn page_done(&mut self, slot: u32, through: Sequence) {
        let Some(Subscriber { reading: Some(reading), .. }) = &mut self.subscribers[slot as usize] else {
            return;
        };
        let through = match &reading.starts {
            Some((_, last)) => through.min(*last),
            None => through,
        };
        self.kept_bytes -= page_bytes(&reading.page).min(self.kept_bytes);
        reading.page = PageState::Needed;
        reading.looked = true;
        let mark = &mut self.marks[slot as usize];
        mark.after = mark.after.max(through);
    }
}

impl Reading {
    /// What is to be told before the page's records: what was known from the beginning, or what was removed since.
    fn found_gap(&mut self, after: Sequence, epoch: tidings_wire::Epoch) -> Option<Gap> {
        let PageState::Here { page, .. } = &self.page else { return None };
        let removed = page.floor > self.forgiven && page.floor > after;
        self.forgiven = self.forgiven.max(page.floor);
        match self.gap.take() {
            Some(gap) => Some(gap),
            None if removed => {
                let from = Some(Position { epoch, sequence: after });
                Some(Gap { reason: GapReason::Expired, from })
            }
            None => None,
        }
    }
}

enum Picked {
    Some,
    /// There is nothing.
    None,
    /// There was nothing as far as was looked.
    GoOn,
    /// The window has gone on.
    Log,
}

/// Collects what one subscriber gets, up to a batch's size.
struct Gather<'a> {
    reader: &'a Reader,
    subscriber: &'a Subscriber,
    /// The entry whose first half was written.
    begun: Option<u64>,
    now: Timestamp,
    bytes: usize,
    picks: &'a mut Vec<u64>,
    removed: bool,
}

impl Gather<'_> {
    /// Goes through candidates in their order; how far it came, `end` if through all.
    fn all(&mut self, candidates: impl Iterator<Item = u64>, end: u64) -> u64 {
        for index in candidates {
            let Some(entry) = self.reader.get(index) else { continue };
            if self.begun != Some(index) {
                if !self.gets(index, entry) {
                    continue;
                }
                if entry.is_removed() {
                    self.removed = true;
                    return index;
                }
            }
            let size = entry.encoded.chunk().len();
            if !self.picks.is_empty()
                && (self.bytes + size > BATCH_BYTES || self.picks.len() >= BATCH_RECORDS)
            {
                return index;
            }
            self.bytes += size;
            self.picks.push(index);
        }
        end
    }

    fn gets(&self, index: u64, entry: &Entry) -> bool {
        if entry.ephemeral {
            // One that rides behind a record which was read in the log already would come too late.
            if index < self.subscriber.live_from || entry.sequence() < self.subscriber.born {
                return false;
            }
        } else if entry.sequence() <= self.subscriber.born {
            return false;
        }
        !entry.selective
            || (!entry.expired(self.now)
                && self.subscriber.who.as_ref().is_none_or(|who| !who.is_among(&entry.record.event.exclude)))
    }
}

/// The recent entries of several views from an index on, in order, each once.
struct Merge<'a> {
    lists: Vec<std::collections::vec_deque::Iter<'a, u64>>,
    heads: Vec<Option<u64>>,
}

impl<'a> Merge<'a> {
    fn new(index: &'a Index, views: &[Membership], from: u64) -> Merge<'a> {
        let mut lists = Vec::with_capacity(views.len());
        let mut heads = Vec::with_capacity(views.len());
        for followed in views.iter().filter_map(|membership| index.get(membership.view)) {
            let first = followed.recent.partition_point(|index| *index < from);
            let mut list = followed.recent.range(first..);
            if let Some(head) = list.next() {
                heads.push(Some(*head));
                lists.push(list);
            }
        }
        Merge { lists, heads }
    }
}

impl Iterator for Merge<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let least = self.heads.iter().flatten().min().copied()?;
        for (head, list) in self.heads.iter_mut().zip(&mut self.lists) {
            if *head == Some(least) {
                *head = list.next().copied();
            }
        }
        Some(least)
    }
}

fn framed(encoded: &EncodedEvent, framing: Framing) -> &[u8] {
    match framing {
        Framing::Chunked => encoded.chunk(),
        Framing::Raw => encoded.payload(),
    }
}

/// An event with the channel through which this subscriber gets it: the first of its targets that its views show.
fn envelope(out: &mut Vec<u8>, index: &Index, key: &CursorKey, subscriber: &Subscriber, record: &Record) {
    let shown = |channel: &&tidings_wire::Channel| {
        let mut views = subscriber.views.iter().filter_map(|m| index.get(m.view));
        views.any(|followed| followed.view.shows(channel))
    };
    let Some(channel) = record.event.to.channels().iter().find(shown) else { return };
    let id = key.seal(record.position);
    encode_envelope(out, subscriber.framing, &record.event, channel, record.time.0, &id);
}

fn page_bytes(page: &PageState) -> usize {
    match page {
        PageState::Here { page, .. } => page.records.iter().map(|(_, encoded)| encoded.chunk().len()).sum(),
        PageState::Needed | PageState::Asked | PageState::Failed => 0,
    }
}
