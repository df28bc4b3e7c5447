//! HOT 2. The window: the newest records, encoded, written by one thread and read by all workers without a lock.
//!
//! It is a chain of segments. The writer fills the slots of the last one and hangs the next one behind it; a slot and
//! a link are written once, so a reader that holds a segment walks on by itself. Links hold nothing: a segment goes
//! when the window and every reader that has come to it have let go of it. A reader that was away for longer than that
//! finds its link dead, and goes on at the window's beginning.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use tidings_wire::{Channel, EncodedEvent, Epoch, Key, Position, Sequence};

use crate::Timestamp;
use crate::log::Record;

/// Slots of a segment: few enough that the window's end is cut finely, many enough that links are rare.
const SLOTS: usize = if cfg!(test) { 8 } else { 256 };
/// A segment with more bytes than this is closed early, so that large events don't make the window coarse.
const SEGMENT_BYTES: usize = 1 << 20;

/// One event in the window.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) record: Record,
    pub(crate) encoded: EncodedEvent,
    pub(crate) ephemeral: bool,
    /// Not everybody whose views show the event gets it, or not at every time: each subscriber is to be asked.
    pub(crate) selective: bool,
    /// For each target of an event with a key the index of the next entry with that key there, once there is one.
    newer: Box<[AtomicU64]>,
    removed: AtomicBool,
}

/// There is no newer entry.
const NONE: u64 = u64::MAX;

impl Entry {
    pub(crate) fn new(record: Record, encoded: EncodedEvent, ephemeral: bool) -> Entry {
        let event = &record.event;
        let selective = ephemeral
            || event.ttl.is_some()
            || !event.exclude.is_empty()
            || event.key.is_some()
            || !event.is_shown();
        let keyed = if event.key.is_some() { event.to.channels().len() } else { 0 };
        let newer = (0..keyed).map(|_| AtomicU64::new(NONE)).collect();
        Entry { record, encoded, ephemeral, selective, newer, removed: AtomicBool::new(false) }
    }

    /// The index of the next entry with this one's key in a channel, if it is one of the targets and has come.
    pub(crate) fn newer_in(&self, channel: &Channel) -> Option<u64> {
        let newer = self.newer_of(channel)?.load(Ordering::Acquire);
        (newer != NONE).then_some(newer)
    }

    /// Where that index stands.
    fn newer_of(&self, channel: &Channel) -> Option<&AtomicU64> {
        let target = self.record.event.to.channels().iter().position(|target| target == channel)?;
        self.newer.get(target)
    }

    pub(crate) fn sequence(&self) -> Sequence {
        self.record.position.sequence
    }

    /// The place that a subscriber has reached who got everything before this event.
    pub(crate) fn before(&self) -> Sequence {
        if self.ephemeral { self.sequence() } else { Sequence(self.sequence().0 - 1) }
    }

    /// Whether it was purged or deleted.
    pub(crate) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Relaxed)
    }

    /// Whether its time is over.
    pub(crate) fn expired(&self, now: Timestamp) -> bool {
        self.record.expired(now)
    }

    fn weight(&self) -> usize {
        // The event and its encoded form both hold the data.
        self.encoded.chunk().len() + self.record.event.data.as_str().len() + 256
    }
}

/// What a window is of, as long as nothing breaks: one history without a hole.
#[derive(Debug)]
struct History {
    /// The present one. While a history goes on, a new one may begin that loses nothing.
    epoch: AtomicU64,
    /// How many histories there were before.
    number: u64,
    /// Where histories lost something: the epoch that was left, and what of it is part of all that came later.
    breaks: Vec<(Epoch, Sequence)>,
}

/// So many breaks are known. Of an epoch before them nothing is known to be left.
const BREAKS: usize = 256;

impl History {
    fn first(epoch: Epoch) -> Arc<History> {
        Arc::new(History { epoch: AtomicU64::new(epoch.0.into()), number: 0, breaks: Vec::new() })
    }

    fn epoch(&self) -> Epoch {
        Epoch(u32::try_from(self.epoch.load(Ordering::Acquire)).unwrap_or(u32::MAX))
    }

    /// What comes after this one, which has up to `at` in common with it.
    fn after(&self, epoch: Epoch, at: Sequence) -> Arc<History> {
        let mut breaks = self.breaks.clone();
        if epoch != self.epoch() {
            breaks.push((self.epoch(), at));
        }
        if breaks.len() > BREAKS {
            // Two are made one, at the smaller place.
            let (epoch, at) = breaks.remove(0);
            breaks[0] = (epoch.max(breaks[0].0), at.min(breaks[0].1));
        }
        Arc::new(History { epoch: AtomicU64::new(epoch.0.into()), number: self.number + 1, breaks })
    }

    /// Up to where what was known in an epoch is so in this history. `None` when nothing was lost since.
    fn common_since(&self, epoch: Epoch) -> Option<Sequence> {
        self.breaks.iter().filter(|(left, _)| *left >= epoch).map(|(_, at)| *at).min()
    }
}

#[derive(Debug)]
struct Segment {
    history: Arc<History>,
    /// The index of the first slot; indices count all entries, ephemeral ones too.
    first: u64,
    /// The place before the first slot.
    before: Sequence,
    slots: Box<[OnceLock<Entry>]>,
    /// Weak, or a reader that does not look would hold everything that has come since.
    next: OnceLock<Weak<Segment>>,
}

impl Segment {
    fn new(history: Arc<History>, first: u64, before: Sequence) -> Arc<Segment> {
        let slots = (0..SLOTS).map(|_| OnceLock::new()).collect();
        Arc::new(Segment { history, first, before, slots, next: OnceLock::new() })
    }

    fn get(&self, index: u64) -> Option<&Entry> {
        let slot = usize::try_from(index.checked_sub(self.first)?).ok()?;
        self.slots.get(slot)?.get()
    }
}

/// What the writer and the readers share.
#[derive(Debug)]
pub(crate) struct Window {
    /// Segments within the bounds, oldest first; only locked to join and by the writer at a segment's end.
    segments: Mutex<VecDeque<Arc<Segment>>>,
    /// The index of the oldest entry within the bounds.
    oldest: AtomicU64,
    /// The newest record in the window.
    newest: AtomicU64,
    epoch: AtomicU64,
    /// Replaced when a reader comes, so that the lock is not held while others are woken.
    wakers: Mutex<Arc<[Weak<Waker>]>>,
}

/// Wakes one reader when there is something new, once until it has looked.
pub(crate) struct Waker {
    idle: AtomicBool,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Waker {
    pub(crate) fn new(wake: Box<dyn Fn() + Send + Sync>) -> Arc<Waker> {
        Arc::new(Waker { idle: AtomicBool::new(true), wake })
    }

    /// Wakes in any case.
    pub(crate) fn wake(&self) {
        (self.wake)();
    }
}

impl std::fmt::Debug for Waker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waker").field("idle", &self.idle).finish_non_exhaustive()
    }
}

impl Window {
    /// An empty window at a place of the log, and its writer.
    pub(crate) fn new(at: Position, max_bytes: usize, max_records: usize) -> (Arc<Window>, Writer) {
        let first = Segment::new(History::first(at.epoch), 0, at.sequence);
        let window = Arc::new(Window {
            segments: Mutex::new([first.clone()].into()),
            oldest: AtomicU64::new(0),
            newest: AtomicU64::new(at.sequence.0),
            epoch: AtomicU64::new(at.epoch.0.into()),
            wakers: Mutex::default(),
        });
        let writer = Writer {
            window: window.clone(),
            last: first,
            next: 0,
            last_bytes: 0,
            closed: VecDeque::new(),
            closed_bytes: 0,
            max_bytes,
            max_records,
            keyed: HashMap::new(),
        };
        (window, writer)
    }

    /// The newest record that the window has, in the present epoch.
    pub(crate) fn newest(&self) -> Position {
        // The epoch first: a new one is said after the place that is the newest in it.
        Position { epoch: self.epoch(), sequence: Sequence(self.newest.load(Ordering::Acquire)) }
    }

    pub(crate) fn epoch(&self) -> Epoch {
        Epoch(u32::try_from(self.epoch.load(Ordering::Acquire)).unwrap_or(u32::MAX))
    }

    /// A reader that has all that is in the window, and has consumed it.
    pub(crate) fn reader(self: &Arc<Window>, waker: &Arc<Waker>) -> Reader {
        {
            let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
            let alive = wakers.iter().filter(|waker| waker.strong_count() > 0).cloned();
            *wakers = alive.chain([Arc::downgrade(waker)]).collect();
        }
        // The rest is found by the links.
        let first = self.segments.lock().unwrap_or_else(PoisonError::into_inner).front().cloned();
        let at = first.as_ref().map_or(0, |segment| segment.first);
        let consumed = first.as_ref().map_or(Sequence::START, |segment| segment.before);
        let history = first.as_ref().map_or_else(|| History::first(self.epoch()), |s| s.history.clone());
        let segments = first.into_iter().collect();
        let mut reader =
            Reader { window: self.clone(), waker: waker.clone(), history, segments, at, consumed };
        while reader.advance().is_some() || reader.leave_history() {}
        reader
    }

    /// Wakes the readers that wait.
    pub(crate) fn notify(&self) {
        fence(Ordering::SeqCst);
        let wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for waker in wakers.iter().filter_map(Weak::upgrade) {
            if waker.idle.load(Ordering::Relaxed) && waker.idle.swap(false, Ordering::SeqCst) {
                waker.wake();
            }
        }
    }
}

/// The one writer.
#[derive(Debug)]
pub(crate) struct Writer {
    window: Arc<Window>,
    last: Arc<Segment>,
    /// The index of the next entry.
    next: u64,
    last_bytes: usize,
    /// Bytes of the closed segments, oldest first.
    closed: VecDeque<usize>,
    closed_bytes: usize,
    max_bytes: usize,
    max_records: usize,
    /// The newest entry in the window of each key in each channel: the segment, and the index.
    keyed: HashMap<(Channel, Key), (Weak<Segment>, u64)>,
}

impl Writer {
    /// Says that the log is at least there, though it has no record to show for it any more.
    pub(crate) fn reach(&mut self, place: Sequence) {
        if place > self.window.newest().sequence {
            self.close_segment(place);
            self.window.newest.store(place.0, Ordering::Release);
        }
    }

    pub(crate) fn push(&mut self, entry: Entry) {
        let slot = usize::try_from(self.next - self.last.first).unwrap_or(SLOTS);
        let weight = entry.weight();
        if slot >= SLOTS || (slot > 0 && self.last_bytes + weight > SEGMENT_BYTES) {
            self.close_segment(entry.before());
            return self.push(entry);
        }
        self.last_bytes += weight;
        let sequence = entry.sequence();
        if self.last.slots[slot].set(entry).is_ok() {
            self.next += 1;
            self.link(slot);
            self.window.newest.store(sequence.0, Ordering::Release);
        }
    }

    /// Tells the entries before with the key of a new one that there is a newer one, so that readers who are behind
    /// find it in one step.
    fn link(&mut self, slot: usize) {
        let Some(entry) = self.last.slots[slot].get() else { return };
        let Some(key) = &entry.record.event.key else { return };
        let index = self.next - 1;
        for channel in entry.record.event.to.channels() {
            let newest = (Arc::downgrade(&self.last), index);
            let before = self.keyed.insert((channel.clone(), key.clone()), newest);
            let segment = before.as_ref().and_then(|(segment, _)| segment.upgrade());
            let Some((segment, (_, before))) = segment.zip(before) else { continue };
            if let Some(newer) = segment.get(before).and_then(|older| older.newer_of(channel)) {
                newer.store(index, Ordering::Release);
            }
        }
    }

    /// Forgets the keys whose newest entries go with a segment.
    fn unlink(&mut self, segment: &Segment) {
        let entries = (segment.first..).zip(&segment.slots).map_while(|(at, slot)| Some((at, slot.get()?)));
        for (at, entry) in entries {
            let Some(key) = &entry.record.event.key else { continue };
            for channel in entry.record.event.to.channels() {
                let place = (channel.clone(), key.clone());
                if self.keyed.get(&place).is_some_and(|(_, newest)| *newest == at) {
                    self.keyed.remove(&place);
                }
            }
        }
    }

    /// The log goes on in an epoch, behind `through`. All up to `at` is part of it.
    pub(crate) fn fork(&mut self, epoch: Epoch, at: Sequence, through: Sequence) {
        let newest = self.window.newest().sequence;
        if at == newest && through == newest {
            self.last.history.epoch.store(epoch.0.into(), Ordering::Release);
            self.window.epoch.store(epoch.0.into(), Ordering::Release);
            return;
        }
        // Whoever reads the window finds what lies between in the log, and nothing here that is not so any more.
        let next = Segment::new(self.last.history.after(epoch, at), self.next, through);
        *self.window.segments.lock().unwrap_or_else(PoisonError::into_inner) = [next.clone()].into();
        self.window.oldest.store(self.next, Ordering::Release);
        self.window.newest.store(through.0, Ordering::Release);
        self.window.epoch.store(epoch.0.into(), Ordering::Release);
        self.keyed.clear();
        self.closed.clear();
        self.closed_bytes = 0;
        self.last_bytes = 0;
        let _ = self.last.next.set(Arc::downgrade(&next));
        self.last = next;
    }

    /// Marks what an operator removed; readers pass over it.
    pub(crate) fn remove(&mut self, matches: impl Fn(&Record) -> bool) {
        let segments = self.window.segments.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for entry in segments.iter().flat_map(|s| s.slots.iter()).filter_map(OnceLock::get) {
            if !entry.ephemeral && matches(&entry.record) {
                entry.removed.store(true, Ordering::Relaxed);
            }
        }
    }

    fn close_segment(&mut self, before: Sequence) {
        let next = Segment::new(self.last.history.clone(), self.next, before);
        self.closed.push_back(self.last_bytes);
        self.closed_bytes += self.last_bytes;
        self.last_bytes = 0;
        let mut gone = Vec::new();
        let mut segments = self.window.segments.lock().unwrap_or_else(PoisonError::into_inner);
        segments.push_back(next.clone());
        // The segment in use is never dropped, nor is the one before it: a window that has just begun a segment is
        // not empty.
        while segments.len() > 2 {
            let kept = self.next - segments[0].first;
            let over = kept > self.max_records as u64 || self.closed_bytes > self.max_bytes;
            if !over {
                break;
            }
            gone.extend(segments.pop_front());
            self.closed_bytes -= self.closed.pop_front().unwrap_or_default();
            self.window.oldest.store(segments[0].first, Ordering::Release);
        }
        drop(segments);
        for segment in gone {
            self.unlink(&segment);
        }
        // Linked last: a reader that finds the link finds every slot before it filled.
        let _ = self.last.next.set(Arc::downgrade(&next));
        self.last = next;
    }
}

/// One reader: it has consumed everything before `at` and can look back as far as the window goes.
#[derive(Debug)]
pub(crate) struct Reader {
    window: Arc<Window>,
    waker: Arc<Waker>,
    history: Arc<History>,
    segments: VecDeque<Arc<Segment>>,
    at: u64,
    consumed: Sequence,
}

impl Reader {
    /// Takes in the next entry; its index and itself. `None`: there is none yet, or the reader was overtaken.
    pub(crate) fn advance(&mut self) -> Option<(u64, &Entry)> {
        if !self.find_next() {
            // Idle is said before the last look, so that an entry which comes in between is seen or wakes.
            self.waker.idle.store(true, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            if !self.find_next() {
                return None;
            }
            self.waker.idle.store(false, Ordering::SeqCst);
        }
        let index = self.at;
        let entry = self.segments.back()?.get(index)?;
        self.at += 1;
        self.consumed = entry.sequence();
        Some((index, entry))
    }

    /// Whether there is an entry at `at`, in the last segment.
    fn find_next(&mut self) -> bool {
        loop {
            let Some(last) = self.segments.back() else { return false };
            if last.get(self.at).is_some() {
                return true;
            }
            let Some(next) = last.next.get() else { return false };
            // The link came after the slots: an entry may have come between the two looks.
            if last.get(self.at).is_some() {
                return true;
            }
            let Some(next) = next.upgrade() else { return false };
            if next.history.number != self.history.number {
                return false;
            }
            self.consumed = self.consumed.max(next.before);
            self.segments.push_back(next);
            self.trim();
        }
    }

    /// Whether the window has gone on without this reader: what comes next for it is in the log only.
    pub(crate) fn is_overtaken(&self) -> bool {
        let next = self.segments.back().and_then(|last| last.next.get());
        next.is_some_and(|next| next.strong_count() == 0)
    }

    /// Whether what comes next may be of another history.
    pub(crate) fn is_at_a_break(&self) -> bool {
        let next = self.segments.back().and_then(|last| last.next.get());
        next.is_some_and(|next| next.upgrade().is_none_or(|next| next.history.number != self.history.number))
    }

    /// Goes on in the window's present history, if that is another one than this reader's and all of the old one was
    /// consumed that is still there. Where it stands may be before where it stood.
    pub(crate) fn leave_history(&mut self) -> bool {
        let Some(next) = self.segments.back().and_then(|last| last.next.get()) else { return false };
        let next = next.upgrade();
        if next.is_some_and(|next| next.history.number == self.history.number) {
            return false;
        }
        let first = self.window.segments.lock().unwrap_or_else(PoisonError::into_inner).front().cloned();
        let Some(first) = first.filter(|first| first.history.number != self.history.number) else {
            return false;
        };
        self.at = first.first;
        self.consumed = first.before;
        self.history = first.history.clone();
        self.segments = [first].into();
        true
    }

    /// Up to where what was known in an epoch is so in the reader's history. `None` when nothing was lost since.
    pub(crate) fn common_since(&self, epoch: Epoch) -> Option<Sequence> {
        self.history.common_since(epoch)
    }

    /// Goes on at the window's beginning.
    pub(crate) fn rejoin(&mut self) {
        let first = self.window.segments.lock().unwrap_or_else(PoisonError::into_inner).front().cloned();
        let Some(first) = first else { return };
        self.at = first.first;
        self.consumed = self.consumed.max(first.before);
        self.segments = [first].into();
    }

    fn trim(&mut self) {
        let oldest = self.window.oldest.load(Ordering::Acquire).min(self.at);
        while self.segments.len() > 1 && self.segments[1].first <= oldest {
            self.segments.pop_front();
        }
    }

    /// The index of the next entry that will be consumed.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// The newest record that was consumed.
    pub(crate) fn consumed(&self) -> Sequence {
        self.consumed
    }

    /// The index of the oldest entry that can be looked at.
    pub(crate) fn oldest(&self) -> u64 {
        self.segments.front().map_or(self.at, |segment| segment.first)
    }

    /// The place from which on the window has everything.
    pub(crate) fn floor(&self) -> Sequence {
        self.segments.front().map_or(self.consumed, |segment| segment.before)
    }

    /// A consumed entry within the window.
    pub(crate) fn get(&self, index: u64) -> Option<&Entry> {
        if index >= self.at {
            return None;
        }
        let segment = self.segments.partition_point(|segment| segment.first <= index).checked_sub(1)?;
        self.segments[segment].get(index)
    }

    /// The index of the first entry behind a place, at most [`Reader::at`]. `None` when the place is older than the
    /// window.
    pub(crate) fn index_after(&self, sequence: Sequence) -> Option<u64> {
        if sequence < self.floor() {
            return None;
        }
        let segment = self.segments.partition_point(|segment| segment.before <= sequence).checked_sub(1)?;
        let first = self.segments[segment].first;
        let end = self.segments.get(segment + 1).map_or(self.at, |next| next.first.min(self.at));
        let (mut low, mut high) = (first, end.max(first));
        while low < high {
            let middle = low + (high - low) / 2;
            match self.get(middle) {
                Some(entry) if entry.sequence() <= sequence => low = middle + 1,
                _ => high = middle,
            }
        }
        Some(low)
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.history.epoch()
    }

    pub(crate) fn waker(&self) -> &Arc<Waker> {
        &self.waker
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidings_wire::{Channel, CursorKey, Data, Event, Targets};

    use super::*;

    fn entry(sequence: u64) -> Entry {
        let position = Position { epoch: Epoch(1), sequence: Sequence(sequence) };
        let channel: Channel = "a".parse().unwrap();
        let event = Arc::new(Event::new(Targets::from(channel), Data::from("x")));
        let encoded = EncodedEvent::new(&event, &CursorKey::new([1; 16]).seal(position));
        Entry::new(Record { position, time: Timestamp(1), event }, encoded, false)
    }

    #[test]
    fn a_reader_that_does_not_look_holds_nothing_back() {
        let at = Position { epoch: Epoch(1), sequence: Sequence::START };
        let (window, mut writer) = Window::new(at, 1 << 20, 4 * SLOTS);
        let _reader = window.reader(&Waker::new(Box::new(|| {})));
        let mut second = None;
        for sequence in 1..=1000 {
            writer.push(entry(sequence));
            if writer.last.first > 0 && second.is_none() {
                second = Some(Arc::downgrade(&writer.last));
            }
        }
        assert!(second.unwrap().upgrade().is_none(), "what comes behind it in the chain is let go");
    }
}
