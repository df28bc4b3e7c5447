//! Durable subscriptions: how far a user has come on one device, kept by the hub.
//!
//! A subscription is a cursor with a name, in a note of the log: it outlives the process, and any node of the log can
//! go on with it. It is moved by what the client says (an acknowledgement, or the last event id that it comes back
//! with), never by what was written to a socket: what is in a socket's buffer was not seen by anybody. So everything is
//! delivered at least once. The events themselves are nowhere but in the log: the queue is the user's channel, and is
//! kept by its retention.
//!
//! Of its streams the newest one has it, on whichever node. Which that is can't be told by clocks, of which nodes have
//! their own: each stream gets the next number ([`Turn`]), in the same step that moves the cursor.
//!
//! Moving a cursor is reading a note and writing it. Two of that at once on one subscription, on two nodes even, would
//! let the later write move it backwards: so it is written only in the place of what was read, else read again. Of those
//! who are in each other's way one has written, so that all come to an end.

mod state;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidings_wire::{ClientId, CursorKey, Pattern, Position, Sequence, UserId};

use self::state::{Name, State};
use crate::log::{AppendError, Located, Log, ReadError};
use crate::{Start, Timestamp, View};

/// How many subscriptions a user may have.
pub const PER_USER: usize = 100;
/// For how long a subscription is kept that nobody uses.
pub const UNUSED: Duration = Duration::from_secs(30 * 86_400);
/// How many bytes the channels of a subscription may have in all.
pub const CHANNELS_BYTES: usize = 32 << 10;

/// How many notes one sweep looks at.
const SWEPT: usize = 128;
/// How long a sweep rests that has looked at all of them.
const REST: Duration = Duration::from_secs(3600);
/// How old the time of the last use may get before it is written again.
const USE_AGE: Duration = Duration::from_secs(3600);

/// A subscription as its user sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Durable {
    /// Its name: the device.
    pub name: ClientId,
    /// Everything up to here is acknowledged.
    pub cursor: Position,
    /// When it was used last, to within an hour.
    pub used: Timestamp,
    /// The channels that it asked for when it was last connected.
    pub asked: Vec<Pattern>,
}

/// What a subscription is opened with.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Where it is to begin, if it is new or that is an acknowledgement.
    pub start: &'a Start,
    /// All that is shown.
    pub views: &'a [View],
    /// What was asked for by name.
    pub asked: &'a [Pattern],
    /// Whether it is for a stream that needs a [`Turn`], as it has it from then on, and other nodes have streams too. Who
    /// polls takes it from nobody.
    pub counted: bool,
}

/// A subscription that was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Where it goes on.
    pub start: Start,
    /// The turn of its stream, if it is counted.
    pub turn: Option<Turn>,
}

/// Which of a subscription's streams is the newer one, the same for all nodes: that with the greater turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Turn(pub u64);

impl Turn {
    fn noted(number: u64) -> Turn {
        Turn(number.saturating_mul(2))
    }

    /// Of a stream whose turn could not be noted: newer than what is noted, older than what will be. Of several such,
    /// none is known to be the newer one.
    fn unnoted(before: u64) -> Turn {
        Turn(before.saturating_mul(2).saturating_add(1))
    }
}

/// Why something can't be done with a subscription.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurableError {
    /// The user has no subscription of this name.
    #[error("there is no durable subscription of this name; it begins with the first stream that names it")]
    Absent,
    /// The user has as many as allowed.
    #[error("a user may have {PER_USER} durable subscriptions; forget one with DELETE /queues and forget=1")]
    TooMany,
    /// The channels are too long to be kept.
    #[error("the channels of a durable subscription may have {CHANNELS_BYTES} bytes in all")]
    TooLong,
    /// The id is no cursor of this log.
    #[error("this is not the id of an event of this hub")]
    BadId,
    /// The log can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It was not stored.
    #[error(transparent)]
    Write(#[from] AppendError),
}

/// Whether channels of these names may be kept with a subscription: they have at most [`CHANNELS_BYTES`] in all.
pub fn may_keep<'a>(asked: impl IntoIterator<Item = &'a str>) -> bool {
    asked.into_iter().map(|name| name.len() + 1).sum::<usize>() <= CHANNELS_BYTES
}

/// All durable subscriptions of a hub.
pub struct Durables {
    log: Arc<dyn Log>,
    key: CursorKey,
    sweep: Mutex<Sweep>,
}

/// A subscription as it was read.
struct Noted {
    /// The note, which what is new is written in the place of.
    value: Vec<u8>,
    state: State,
}

#[derive(Default)]
struct Sweep {
    after: Option<String>,
    /// Not before then.
    next: Timestamp,
}

impl Durables {
    pub(crate) fn new(log: Arc<dyn Log>, key: CursorKey) -> Durables {
        Durables { log, key, sweep: Mutex::default() }
    }

    /// Where a stream of a subscription begins, which is noted if it is its first, and which turn it has. An id that the
    /// client comes back with is an acknowledgement; of that and what is noted the smaller counts. One that another node
    /// may have given is waited for before, with [`Hub::reach`](crate::Hub::reach), which blocks; else it may say nothing
    /// yet. `views` is all that the stream shows, `asked` what was asked for by name.
    ///
    /// # Errors
    /// When there are too many of them, or it can't be noted.
    pub async fn open(
        &self,
        user: &UserId,
        name: &ClientId,
        wanted: Wanted<'_>,
        now: Timestamp,
    ) -> Result<Opened, DurableError> {
        let Wanted { start, views, asked, counted } = wanted;
        if !may_keep(asked.iter().map(Pattern::as_str)) {
            return Err(DurableError::TooLong);
        }
        let name = Name::new(user, name);
        let opened = |start, turn: Turn| Opened { start, turn: counted.then_some(turn) };
        loop {
            let Some(before) = self.read(&name)? else {
                if self.log.notes(&Name::all_of(user), None, PER_USER)?.len() >= PER_USER {
                    return Err(DurableError::TooMany);
                }
                let cursor = self.first(start, views)?;
                // Beyond the turns of one that had this name before, and whose stream may still be there.
                let turn = now.0;
                let state = State { cursor, used: now, turn, asked: asked.to_vec() };
                if !self.write(&name, None, &state).await? {
                    continue;
                }
                // What comes between the note and the stream is the subscription's.
                let begin = if *start == Start::Now { self.at(cursor) } else { start.clone() };
                return Ok(opened(begin, Turn::noted(turn)));
            };
            // No less than the time: a log that has lost what was noted last would give a turn twice.
            let turn =
                if counted { now.0.max(before.state.turn.saturating_add(1)) } else { before.state.turn };
            let mut state = State { asked: asked.to_vec(), used: now, turn, ..before.state.clone() };
            let begin = match start {
                Start::Earliest => Start::Earliest,
                Start::Cursor(text) => match self.located(text) {
                    Some((position, place)) => {
                        self.advance(&mut state, position, place);
                        start.clone()
                    }
                    // It says nothing, so that what is noted goes on without a gap.
                    None => self.at(state.cursor),
                },
                Start::Now | Start::History(_) | Start::Latest => self.at(state.cursor),
            };
            match self.write_if_other(&name, &before, &state).await {
                Ok(true) => return Ok(opened(begin, Turn::noted(turn))),
                // The cursor stays where it was, and some is delivered again: no reason to deliver nothing.
                Err(DurableError::Write(_)) => return Ok(opened(begin, Turn::unnoted(before.state.turn))),
                Ok(false) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Notes that its stream follows other channels than it was opened with. `asked` says which those are now; none if
    /// the stream is gone. It is asked again if the subscription changes meanwhile, so that what is noted last was asked
    /// last. A subscription that was forgotten meanwhile stays so.
    ///
    /// # Errors
    /// When they are too long, or can't be noted.
    pub async fn follow<F: Future<Output = Option<Vec<Pattern>>>>(
        &self,
        user: &UserId,
        name: &ClientId,
        asked: impl Fn() -> F,
        now: Timestamp,
    ) -> Result<(), DurableError> {
        let name = Name::new(user, name);
        loop {
            let Some(before) = self.read(&name)? else { return Ok(()) };
            let Some(asked) = asked().await else { return Ok(()) };
            if !may_keep(asked.iter().map(Pattern::as_str)) {
                return Err(DurableError::TooLong);
            }
            let state = State { asked, used: now, ..before.state.clone() };
            if self.write_if_other(&name, &before, &state).await? {
                return Ok(());
            }
        }
    }

    /// Acknowledges everything up to an id. What was acknowledged before stays so. Says where the cursor is then. An id
    /// that another node may have given is waited for before, with [`Hub::reach`](crate::Hub::reach), which blocks.
    ///
    /// # Errors
    /// When there is no such subscription, the id is none, or it can't be noted.
    pub async fn acknowledge(
        &self,
        user: &UserId,
        name: &ClientId,
        id: &str,
        now: Timestamp,
    ) -> Result<Position, DurableError> {
        let (position, place) = self.located(id).ok_or(DurableError::BadId)?;
        self.change(&Name::new(user, name), now, |state| self.advance(state, position, place)).await
    }

    /// Moves the cursor to now: what waits is not delivered any more. Says where that is.
    ///
    /// # Errors
    /// When there is no such subscription, or it can't be noted.
    pub async fn flush(
        &self,
        user: &UserId,
        name: &ClientId,
        now: Timestamp,
    ) -> Result<Position, DurableError> {
        let head = self.log.head();
        self.change(&Name::new(user, name), now, |state| self.advance(state, head, head.sequence)).await
    }

    /// Forgets a subscription.
    ///
    /// # Errors
    /// When there is no such subscription, or it can't be noted.
    pub async fn forget(&self, user: &UserId, name: &ClientId) -> Result<(), DurableError> {
        let name = Name::new(user, name);
        self.read(&name)?.ok_or(DurableError::Absent)?;
        Ok(self.log.set_note(name.as_str().to_owned(), None).await?)
    }

    /// One subscription.
    ///
    /// # Errors
    /// When the log can't be read.
    pub fn get(&self, user: &UserId, name: &ClientId) -> Result<Option<Durable>, DurableError> {
        let noted = self.read(&Name::new(user, name))?;
        Ok(noted.map(|noted| noted.state.named(name.clone())))
    }

    /// All subscriptions of a user, by name.
    ///
    /// # Errors
    /// When the log can't be read.
    pub fn list(&self, user: &UserId) -> Result<Vec<Durable>, DurableError> {
        let prefix = Name::all_of(user);
        let mut all = Vec::new();
        for (name, value) in self.log.notes(&prefix, None, PER_USER)? {
            let state = State::decode(&name, &value)?;
            if let Some(Ok(name)) = name.strip_prefix(&prefix).map(str::parse) {
                all.push(state.named(name));
            }
        }
        Ok(all)
    }

    /// Looks at some subscriptions and forgets those that nobody used for long; at all of them bit by bit. Reads the
    /// log, which may block for a moment. Not to be called by an asynchronous task.
    pub(crate) fn sweep(&self, now: Timestamp) {
        let mut sweep = self.sweep.lock().unwrap_or_else(PoisonError::into_inner);
        if now < sweep.next {
            return;
        }
        // What can't be read now can be with the next one.
        let Ok(notes) = self.log.notes(Name::ALL, sweep.after.as_deref(), SWEPT) else { return };
        for (name, value) in &notes {
            if State::decode(name, value).is_ok_and(|state| state.used.plus(UNUSED) <= now) {
                // Unless it is used meanwhile. If it fails, the next sweep is there.
                drop(self.log.set_note_if(name.clone(), Some(value.clone()), None));
            }
        }
        sweep.after = notes.last().filter(|_| notes.len() == SWEPT).map(|(name, _)| name.clone());
        if sweep.after.is_none() {
            sweep.next = now.plus(REST);
        }
    }

    /// Where a new subscription's cursor is.
    fn first(&self, start: &Start, views: &[View]) -> Result<Position, DurableError> {
        let head = self.log.head();
        Ok(match start {
            Start::Now => head,
            // The newest of a key may be any event that is kept.
            Start::Earliest | Start::Latest => Position { sequence: Sequence::START, ..head },
            Start::History(count) => {
                let selections = self.log.newest(views, usize::from(*count), head.sequence)?;
                let oldest = selections.iter().map(|selection| selection.after).min();
                Position { sequence: oldest.unwrap_or(head.sequence), ..head }
            }
            Start::Cursor(text) => self.located(text).map_or(head, |(position, _)| position),
        })
    }

    /// A position by its id, and its place in the present history. `None` for what is none, or lies ahead.
    fn located(&self, id: &str) -> Option<(Position, Sequence)> {
        let position = self.key.open(id).ok()?;
        self.place(position).map(|place| (position, place))
    }

    /// Where a position lies in the present history. `None` for what is not in it, or ahead of it.
    pub fn place(&self, position: Position) -> Option<Sequence> {
        match self.log.locate(position) {
            Located::Here(place) | Located::PastFork(place) => Some(place),
            Located::Ahead | Located::Unknown => None,
        }
    }

    /// Moves the cursor forward, if that is where it goes. As it was said: one past a fork is told of that once more.
    fn advance(&self, state: &mut State, position: Position, place: Sequence) {
        if self.place(state.cursor).is_none_or(|before| place > before) {
            state.cursor = position;
        }
    }

    fn at(&self, position: Position) -> Start {
        Start::Cursor(self.key.seal(position).to_string())
    }

    async fn change(
        &self,
        name: &Name,
        now: Timestamp,
        change: impl Fn(&mut State),
    ) -> Result<Position, DurableError> {
        loop {
            let before = self.read(name)?.ok_or(DurableError::Absent)?;
            let mut state = State { used: now, ..before.state.clone() };
            change(&mut state);
            if self.write_if_other(name, &before, &state).await? {
                return Ok(state.cursor);
            }
        }
    }

    /// Writes what is new in more than the time of its use, or old in that. `false` when it is to be read again.
    async fn write_if_other(&self, name: &Name, before: &Noted, state: &State) -> Result<bool, DurableError> {
        let Noted { value, state: old } = before;
        let same = old.cursor == state.cursor && old.turn == state.turn && old.asked == state.asked;
        if same && old.used <= state.used && state.used.since(old.used) < USE_AGE {
            return Ok(true);
        }
        self.write(name, Some(value.clone()), state).await
    }

    async fn write(&self, name: &Name, before: Option<Vec<u8>>, state: &State) -> Result<bool, DurableError> {
        Ok(self.log.set_note_if(name.as_str().to_owned(), before, Some(state.encode())).await?)
    }

    fn read(&self, name: &Name) -> Result<Option<Noted>, DurableError> {
        let Some(value) = self.log.note(name.as_str())? else { return Ok(None) };
        let state = State::decode(name.as_str(), &value)?;
        Ok(Some(Noted { value, state }))
    }
}

impl std::fmt::Debug for Durables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Durables").finish_non_exhaustive()
    }
}
