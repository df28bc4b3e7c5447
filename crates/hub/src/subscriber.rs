//! One subscriber: a cursor with a filter, and what is to be said to it alone.

use std::num::NonZeroU128;
use std::sync::Arc;

use tidings_wire::{
    ClientId, ConnectionId, Control, Event, Exclude, Framing, GapReason, Position, Sequence, UserId,
};

use crate::catch_up::EncodedPage;
use crate::filter::Filter;
use crate::index::ViewId;
use crate::log::Selection;
use crate::resume::{Ended, Gap};
use crate::{Timestamp, View};

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

/// What a subscriber is shown of all that its views show.
#[derive(Debug, Clone, Default)]
pub struct Lens {
    /// Who looks.
    pub who: Who,
    /// What it chose by tags. What is sent to everybody or to its user comes all the same.
    pub filter: Option<Arc<Filter>>,
}

impl Lens {
    /// The lens of somebody who chose nothing.
    pub fn of(who: Who) -> Lens {
        Lens { who, filter: None }
    }

    /// Whether an event is shown that comes through these views.
    pub fn shows<'a>(&self, event: &Event, views: impl IntoIterator<Item = &'a View>) -> bool {
        event.is_shown()
            && !self.who.is_among(&event.exclude)
            && (self.chooses(event) || {
                let own = |view: &&View| view.is_system();
                views.into_iter().filter(own).any(|view| event.to.channels().iter().any(|to| view.shows(to)))
            })
    }

    /// Whether the tags are such as it chose.
    pub(crate) fn chooses(&self, event: &Event) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.matches(&event.tags))
    }

    /// Whether it makes no difference.
    pub(crate) fn is_clear(&self) -> bool {
        let Who { user, client } = &self.who;
        user.is_none() && client.is_none() && self.filter.is_none()
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
    /// All its channels have ended.
    End,
}

impl Farewell {
    pub(crate) fn control(self) -> Option<Control<'static>> {
        match self {
            Farewell::Silent => None,
            Farewell::Expired => Some(Control::Expired),
            Farewell::Kicked => Some(Control::Kicked),
            Farewell::Overloaded => Some(Control::Overloaded),
            Farewell::Drain => Some(Control::Drain),
            Farewell::End => Some(Control::End),
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
    /// What it is shown, where that is less than all its views show.
    pub(crate) lens: Option<Box<Lens>>,
    /// The number of its connection's id, which is random and not zero, in half the room of an optional id.
    pub(crate) connection: Option<NonZeroU128>,
    /// Which of the hub's own events it is told.
    pub(crate) tells: Tells,
    /// What it will follow from the next place between two events on.
    pub(crate) change: Option<Box<Change>>,
    /// Set while it reads the log.
    pub(crate) reading: Option<Box<Reading>>,
    /// When it last got an id.
    pub(crate) id_at: Timestamp,
}

impl Subscriber {
    /// The id of its connection, if it has one.
    pub(crate) fn connection(&self) -> Option<ConnectionId> {
        self.connection.map(|id| ConnectionId(id.get()))
    }

    /// Keeps in mind that events were passed over, to say so.
    pub(crate) fn passed_over(&mut self, count: u64) {
        if self.tells.skipped {
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            self.wants.skipped = self.wants.skipped.saturating_add(count);
        }
    }

    /// Whether this is one of those whom an event excludes.
    pub(crate) fn is_among(&self, exclude: &Exclude) -> bool {
        (exclude.connection.is_some() && exclude.connection == self.connection())
            || self.lens.as_ref().is_some_and(|lens| lens.who.is_among(exclude))
    }
}

/// Which of the hub's own events a subscriber is told, beside the first and gaps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tells {
    /// That there is nothing more to come.
    pub end: bool,
    /// How many events were passed over, of which newer ones came.
    pub skipped: bool,
}

/// What a running subscriber is to follow more, and what no more.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// What it follows from now on.
    pub add: Vec<View>,
    /// What it follows no more.
    pub remove: Vec<View>,
    /// Which channels of those that are added have ended.
    pub ended: Ended,
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
    /// One of its channels has ended: once it has got everything, it is to be seen whether all have.
    pub(crate) end: bool,
    /// So many events were passed over.
    pub(crate) skipped: u32,
    pub(crate) finish: Finish,
}

impl Wants {
    pub(crate) fn anything(self) -> bool {
        self.ping || self.position || self.skipped > 0 || matches!(self.finish, Finish::Say { .. })
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
    /// The same, and there is nothing more to come for it.
    Over,
}

/// A subscriber that is behind the window, or came with something that only the log knows.
#[derive(Debug)]
pub(crate) struct Reading {
    /// What is read otherwise than the rest.
    pub(crate) beginning: Option<Beginning>,
    /// Losses up to this place were told.
    pub(crate) forgiven: Sequence,
    /// To be told before the first record.
    pub(crate) gap: Option<Gap>,
    pub(crate) page: PageState,
    /// A page was read. Until then the window is not good enough, even where it has everything: only the log knows
    /// what was removed.
    pub(crate) looked: bool,
}

/// What a newcomer reads first, up to and with a record.
#[derive(Debug, Clone)]
pub(crate) struct Beginning {
    /// Each channel from a place of its own; the views from where it is, if there are none.
    pub(crate) selections: Option<Box<[Selection]>>,
    pub(crate) through: Sequence,
    pub(crate) only: Only,
}

/// Which events a page is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Only {
    /// All.
    Whole,
    /// Of those with a key the newest.
    Conflated,
    /// The newest of each key, and no other.
    Latest,
}

#[derive(Debug)]
pub(crate) enum PageState {
    Needed,
    Asked,
    Here {
        page: EncodedPage,
        next: usize,
    },
    Failed,
    /// What was begun is part of the history no more.
    Lost,
}

impl Reading {
    pub(crate) fn mid_stream() -> Reading {
        Reading {
            beginning: None,
            forgiven: Sequence::START,
            gap: None,
            page: PageState::Needed,
            looked: false,
        }
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
