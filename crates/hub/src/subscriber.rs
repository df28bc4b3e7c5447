//! One subscriber: a cursor with a filter, and what is to be said to it alone.

use tidings_wire::{
    ClientId, ConnectionId, Control, Exclude, Framing, GapReason, Position, Sequence, UserId,
};

use crate::Timestamp;
use crate::catch_up::EncodedPage;
use crate::index::ViewId;
use crate::log::Selection;
use crate::resume::Gap;

/// Who a subscriber is over all its connections, for events that exclude somebody.
#[derive(Debug, Clone, Default)]
pub struct Who {
    /// The user that its token names.
    pub user: Option<UserId>,
    /// The id that it chose.
    pub client: Option<ClientId>,
}

impl Who {
    /// Whether this is one of those whom an event excludes.
    pub fn is_among(&self, exclude: &Exclude) -> bool {
        (exclude.user.is_some() && exclude.user == self.user)
            || (exclude.client.is_some() && exclude.client == self.client)
    }
}

/// Why a stream ends, as the subscriber is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Farewell {
    /// Nothing is said: the client comes back by itself.
    Silent,
    /// Its token's time is over.
    Expired,
    /// Somebody disconnected it.
    Kicked,
    /// There are too many.
    Overloaded,
    /// The server is stopping.
    Drain,
}

impl Farewell {
    pub(crate) fn control(self) -> Option<Control<'static>> {
        match self {
            Farewell::Silent => None,
            Farewell::Expired => Some(Control::Expired),
            Farewell::Kicked => Some(Control::Kicked),
            Farewell::Overloaded => Some(Control::Overloaded),
            Farewell::Drain => Some(Control::Drain),
        }
    }
}

/// Something to be said between two events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Say {
    /// That the connection is alive, in a comment that nobody sees.
    Heartbeat,
    /// The same as `tidings:ping`, for who asked to see it.
    Ping,
    /// How far the stream is, as `tidings:position`.
    Position,
}

#[derive(Debug)]
pub(crate) struct Subscriber {
    pub(crate) generation: u32,
    /// The views it follows, each with its place among the view's members.
    pub(crate) views: Box<[Membership]>,
    pub(crate) framing: Framing,
    pub(crate) envelope: bool,
    /// What it gets are records, not bytes.
    pub(crate) records: bool,
    /// How many bytes of the block under way were written.
    pub(crate) offset: u32,
    /// That block is of an event that isn't kept: only the window can give its rest.
    pub(crate) ephemeral_begun: bool,
    pub(crate) own: Own,
    pub(crate) wants: Wants,
    /// Records up to this one are not for it, though the window may show them.
    pub(crate) born: Sequence,
    /// Ephemeral entries before this index are not for it.
    pub(crate) live_from: u64,
    pub(crate) who: Option<Box<Who>>,
    pub(crate) connection: Option<ConnectionId>,
    /// Set while it reads the log.
    pub(crate) reading: Option<Box<Reading>>,
    /// When it last got an id.
    pub(crate) id_at: Timestamp,
}

impl Subscriber {
    /// Whether this is one of those whom an event excludes.
    pub(crate) fn is_among(&self, exclude: &Exclude) -> bool {
        (exclude.connection.is_some() && exclude.connection == self.connection)
            || self.who.as_ref().is_some_and(|who| who.is_among(exclude))
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Membership {
    pub(crate) view: ViewId,
    pub(crate) slot: u32,
}

/// Bytes for this subscriber alone, to be written between two events.
#[derive(Debug)]
pub(crate) enum Own {
    None,
    Static { bytes: &'static [u8], at: u32 },
    Bytes { bytes: Box<[u8]>, at: u32 },
}

impl Own {
    /// What is yet to be written.
    pub(crate) fn rest(&self) -> &[u8] {
        match self {
            Own::None => &[],
            Own::Static { bytes, at } => &bytes[*at as usize..],
            Own::Bytes { bytes, at } => &bytes[*at as usize..],
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest().is_empty()
    }

    pub(crate) fn append(&mut self, more: &[u8]) {
        let mut bytes = Vec::with_capacity(self.rest().len() + more.len());
        bytes.extend_from_slice(self.rest());
        bytes.extend_from_slice(more);
        *self = Own::Bytes { bytes: bytes.into(), at: 0 };
    }

    pub(crate) fn wrote(&mut self, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        match self {
            Own::None => {}
            Own::Static { at, .. } | Own::Bytes { at, .. } => *at = at.saturating_add(count),
        }
        if self.is_empty() {
            *self = Own::None;
        }
    }
}

/// What is to be said at the next place between two events.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wants {
    pub(crate) ping: bool,
    pub(crate) position: bool,
    pub(crate) finish: Finish,
}

impl Wants {
    pub(crate) fn anything(self) -> bool {
        self.ping || self.position || matches!(self.finish, Finish::Say { .. })
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Finish {
    #[default]
    No,
    Say {
        farewell: Farewell,
        retry: Option<u32>,
    },
    /// The last bytes are said or on their way.
    Said,
}

/// A subscriber that is behind the window, or came with something that only the log knows.
#[derive(Debug)]
pub(crate) struct Reading {
    /// Each channel from a place of its own, up to and with a record.
    pub(crate) starts: Option<(Box<[Selection]>, Sequence)>,
    /// Losses up to this place were told.
    pub(crate) forgiven: Sequence,
    /// To be told before the first record.
    pub(crate) gap: Option<Gap>,
    pub(crate) page: PageState,
    /// A page was read. Until then the window is not good enough, even where it has everything: only the log knows
    /// what was removed.
    pub(crate) looked: bool,
}

#[derive(Debug)]
pub(crate) enum PageState {
    Needed,
    Asked,
    Here { page: EncodedPage, next: usize },
    Failed,
}

impl Reading {
    pub(crate) fn mid_stream() -> Reading {
        Reading { starts: None, forgiven: Sequence::START, gap: None, page: PageState::Needed, looked: false }
    }
}

/// A gap as a subscriber in this process is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToldGap {
    /// Why something can't be replayed.
    pub reason: GapReason,
    /// The position that the subscriber came with or had reached, if it was one.
    pub from: Option<Position>,
    /// From where it goes on.
    pub to: Position,
}
