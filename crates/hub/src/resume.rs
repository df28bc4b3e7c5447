//! Where a subscriber begins: from what it asks for to a place in the log.

use std::time::Duration;

use tidings_wire::{Channel, CursorKey, Epoch, GapReason, Position, Sequence};

use crate::log::{Located, Log, Order, ReadError, ReadLimit, Selection};
use crate::subscriber::{Beginning, Lens, Only};
use crate::{Timestamp, View};

/// What a subscriber asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// Only what comes.
    Now,
    /// All that is kept.
    Earliest,
    /// The newest so many events of each channel.
    History(u16),
    /// The newest event of each key in each channel.
    Latest,
    /// What came after a last event id: the text as it was received, which may be anything.
    Cursor(String),
}

/// How much one replay may be. What lies before that is told as a gap of the reason `limit`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReplayCaps {
    /// Bytes of data.
    pub bytes: Option<u64>,
    /// Age of the events.
    pub age: Option<Duration>,
}

/// Where a subscriber begins, and what it is told first.
#[derive(Debug, Clone)]
pub struct Resume {
    pub(crate) from: From,
    pub(crate) gap: Option<Gap>,
    /// Losses up to this place are told, or were not asked for.
    pub(crate) forgiven: Sequence,
    /// Which of the channels have ended.
    pub(crate) ended: Ended,
    /// In which epoch this was found.
    pub(crate) epoch: Epoch,
    /// There is nothing more to come: all channels have ended, and the client has seen that.
    over: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum From {
    /// After what was durable when the request came.
    Now(Sequence),
    After(Sequence),
    /// Something else first, then everything. What is missing in it was not asked for.
    Beginning(Beginning),
}

/// Something that can't be replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) reason: GapReason,
    /// What the client came with, if it was a position.
    pub(crate) from: Option<Position>,
}

impl Resume {
    /// Why something can't be replayed, if so.
    pub fn gap(&self) -> Option<GapReason> {
        self.gap.map(|gap| gap.reason)
    }

    /// Whether there is nothing more to come: every channel that was asked for has ended, and the client has seen
    /// that.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Finds the place. Reads the log, which may block.
    pub(crate) fn find(
        log: &dyn Log,
        key: &CursorKey,
        caps: ReplayCaps,
        views: &[View],
        start: &Start,
        lens: &Lens,
        now: Timestamp,
    ) -> Result<Resume, ReadError> {
        let position = match start {
            Start::Cursor(text) => key.open(text).ok(),
            _ => None,
        };
        if let Some(position) = position {
            log.reach(position)?;
        }
        // If it changes in the meantime, whoever goes there finds out.
        let Position { epoch, sequence: head } = log.head();
        let plain = |from| Resume::new(from, None, Sequence::START);
        let first = |selections, only| {
            let beginning = Beginning { selections, through: head, only };
            Resume::new(From::Beginning(beginning), None, log.floor(views))
        };
        let mut found = match start {
            Start::Now | Start::History(0) => plain(From::Now(head)),
            // Nothing was ever kept. What is until the subscriber has its place is for it.
            _ if head == Sequence::START && !matches!(start, Start::Cursor(_)) => plain(From::After(head)),
            Start::Earliest => first(None, Only::Whole),
            Start::Latest => first(None, Only::Latest),
            Start::History(count) => {
                let count = usize::from(*count);
                let mut selections = log.newest(views, count, head)?;
                for selection in selections.iter_mut().take(COUNTED_CHANNELS) {
                    selection.after = newest_shown(log, &selection.view, views, count, head, lens, now)?;
                }
                if selections.is_empty() {
                    // What comes until the subscriber has its place is for it, as it is behind a history that has something.
                    plain(From::After(head))
                } else {
                    first(Some(selections.into()), Only::Whole)
                }
            }
            Start::Cursor(_) => match position {
                Some(position) => Resume::after(log, caps, views, position, now)?,
                None => Resume::unknown(head),
            },
        };
        found.epoch = epoch;
        found.ended = ended(log, views);
        if let (From::After(after), None, Start::Cursor(_)) = (&found.from, found.gap, start) {
            let asked = views.iter().filter(|view| !view.is_implicit()).count();
            found.over = asked > 0
                && found.ended.channels.len() == asked
                && found.ended.channels.iter().all(|(_, end)| end <= after);
        }
        Ok(found)
    }

    fn new(from: From, gap: Option<Gap>, forgiven: Sequence) -> Resume {
        Resume { from, gap, forgiven, ended: Ended::default(), epoch: UNKNOWN, over: false }
    }

    fn unknown(head: Sequence) -> Resume {
        let gap = Gap { reason: GapReason::Unknown, from: None };
        Resume::new(From::Now(head), Some(gap), Sequence::START)
    }

    fn after(
        log: &dyn Log,
        caps: ReplayCaps,
        views: &[View],
        position: Position,
        now: Timestamp,
    ) -> Result<Resume, ReadError> {
        let floor = log.floor(views);
        let gap = |reason| Some(Gap { reason, from: Some(position) });
        let (mut after, mut gap_told) = match log.locate(position) {
            Located::Here(after) => (after, None),
            Located::PastFork(fork) => (fork, gap(GapReason::Epoch)),
            Located::Ahead => return Ok(Resume::unknown(log.head().sequence)),
            Located::Unknown if position == Position::UNKNOWN => {
                return Ok(Resume::unknown(log.head().sequence));
            }
            // Of a history that this one knows nothing of: all that is kept here is new to the client.
            Located::Unknown => (Sequence::START, gap(GapReason::Epoch)),
        };
        if floor > after && gap_told.is_none() {
            gap_told = gap(GapReason::Expired);
        }
        if let Some(limit) = newest_part(log, caps, views, after, now)? {
            after = limit;
            // Less is replayed than is kept: that is the reason to tell, unless the history is another one.
            gap_told = gap_told.filter(|gap| gap.reason == GapReason::Epoch).or(gap(GapReason::Limit));
        }
        let forgiven = if gap_told.is_some() { floor } else { Sequence::START };
        Ok(Resume::new(From::After(after), gap_told, forgiven))
    }
}

/// Which channels have ended, as the log said at some time. Until that is heeded a channel may have ended, or have begun
/// anew: what has come through the window since then is newer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The newest record before the log was asked.
    pub(crate) asked_at: Sequence,
    /// The epoch of then.
    pub(crate) epoch: Epoch,
    /// Those that have ended, each with its last record.
    pub(crate) channels: Vec<(Channel, Sequence)>,
}

impl Default for Ended {
    fn default() -> Ended {
        Ended { asked_at: Sequence::START, epoch: UNKNOWN, channels: Vec::new() }
    }
}

/// Before every epoch.
const UNKNOWN: Epoch = Position::UNKNOWN.epoch;

/// Which channels among the views have ended.
pub(crate) fn ended(log: &dyn Log, views: &[View]) -> Ended {
    let Position { epoch, sequence: asked_at } = log.head();
    let channels = views.iter().filter_map(|view| match view {
        View::Channel(channel) if !view.is_system() => Some(channel),
        _ => None,
    });
    let channels = channels.filter_map(|channel| Some((channel.clone(), log.ended(channel)?))).collect();
    Ended { asked_at, epoch, channels }
}

/// In so many channels of a pattern the newest events are counted as this subscriber sees them; in further ones the
/// newest are the newest that are kept, of which some may be over or not for it.
const COUNTED_CHANNELS: usize = 1000;
/// How many records are read at a time to count them.
const COUNTED_AT_ONCE: usize = 64;

/// After which record a channel has so many that a subscriber is shown: those whose `ttl` is over don't count, nor those
/// from which it is excluded.
fn newest_shown(
    log: &dyn Log,
    channel: &View,
    views: &[View],
    count: usize,
    head: Sequence,
    lens: &Lens,
    now: Timestamp,
) -> Result<Sequence, ReadError> {
    let all = [Selection { view: channel.clone(), after: Sequence::START }];
    let mut shown = 0;
    let mut through = head;
    loop {
        let records = COUNTED_AT_ONCE.min(count - shown);
        let page = log.read(&all, Order::Newest, ReadLimit { through, records, bytes: 1 << 20 }, now)?;
        for record in page.records.iter().filter(|record| lens.shows(&record.event, views)) {
            shown += 1;
            if shown == count {
                return Ok(Sequence(record.position.sequence.0 - 1));
            }
        }
        // An empty page is no end: a read looks at so many places and no more.
        if page.through <= Sequence(1) {
            return Ok(Sequence::START);
        }
        through = Sequence(page.through.0 - 1).min(Sequence(through.0 - 1));
    }
}

/// A replay that is this short is not measured against the caps.
const SHORT: u64 = 256;

/// Where the newest part of a replay begins that is within the caps, if not all of it is: looks from the newest
/// record backwards, so that no more is read than may be replayed.
fn newest_part(
    log: &dyn Log,
    caps: ReplayCaps,
    views: &[View],
    after: Sequence,
    now: Timestamp,
) -> Result<Option<Sequence>, ReadError> {
    let head = log.head().sequence;
    let within_bytes = caps.bytes.is_none_or(|cap| log.stats().bytes <= cap);
    if caps.age.is_none() && (within_bytes || head.0.saturating_sub(after.0) <= SHORT) {
        return Ok(None);
    }
    let oldest = caps.age.map(|age| now.minus(age));
    let selections: Vec<_> = views.iter().map(|view| Selection { view: view.clone(), after }).collect();
    let mut through = head;
    let mut bytes = 0;
    while through > after {
        let limit = ReadLimit { through, records: 1000, bytes: 1 << 20 };
        let page = log.read(&selections, Order::Newest, limit, now)?;
        for record in &page.records {
            bytes += record.event.data.as_str().len() as u64;
            let too_much = caps.bytes.is_some_and(|cap| bytes > cap);
            let too_old = oldest.is_some_and(|oldest| record.time < oldest);
            if too_much || too_old {
                return Ok(Some(record.position.sequence));
            }
        }
        // An empty page is no end: a read looks at so many places and no more.
        through = Sequence(page.through.0.min(through.0).saturating_sub(1));
    }
    Ok(None)
}
