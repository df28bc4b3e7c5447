//! One stream as its worker knows it, and as operators see it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mio::net::TcpStream;
use tidings_hub::{Farewell, Losses, Timestamp, View};
use tidings_wire::{Channel, ConnectionId, UserId};

use super::holders::Holding;
use super::timers::Deadlines;
use crate::limits::Permit;
use crate::subscribe::ControlLevel;

/// Why a stream ended. The words are the same in the specification, in statistics and in metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The client went away, or the network did.
    Gone,
    /// It had lived as long as streams do; the client comes back by itself.
    Lifetime,
    /// Its token ended.
    Expired,
    /// Somebody disconnected it.
    Kicked,
    /// Another stream has its durable subscription now.
    Replaced,
    /// The server is stopping.
    Drain,
    /// It was behind and its socket took no byte for too long.
    Slow,
    /// Retention removed the rest of an event of which a part was written.
    Overtaken,
    /// The log could not be read for it.
    LogFailed,
    /// All its channels have ended: there is nothing more to come.
    Ended,
    /// The client sent bytes as if there were more requests to answer.
    Noise,
}

impl CloseReason {
    /// Every reason, in the order of their numbers.
    pub const ALL: [CloseReason; 11] = [
        CloseReason::Gone,
        CloseReason::Lifetime,
        CloseReason::Expired,
        CloseReason::Kicked,
        CloseReason::Replaced,
        CloseReason::Drain,
        CloseReason::Slow,
        CloseReason::Overtaken,
        CloseReason::LogFailed,
        CloseReason::Ended,
        CloseReason::Noise,
    ];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            CloseReason::Gone => "gone",
            CloseReason::Lifetime => "lifetime",
            CloseReason::Expired => "expired",
            CloseReason::Kicked => "kicked",
            CloseReason::Replaced => "replaced",
            CloseReason::Drain => "drain",
            CloseReason::Slow => "slow",
            CloseReason::Overtaken => "overtaken",
            CloseReason::LogFailed => "log_failed",
            CloseReason::Ended => "ended",
            CloseReason::Noise => "noise",
        }
    }

    /// What the client is told.
    pub(crate) fn farewell(self) -> Farewell {
        match self {
            CloseReason::Expired => Farewell::Expired,
            CloseReason::Kicked | CloseReason::Replaced => Farewell::Kicked,
            CloseReason::Drain => Farewell::Drain,
            _ => Farewell::Silent,
        }
    }
}

/// A stream on its worker. Small: there are as many as there are people looking.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) socket: TcpStream,
    /// Tells it from who had the slot before.
    pub(crate) generation: u32,
    pub(crate) deadlines: Deadlines,
    /// How many bytes the client has sent since the stream began.
    pub(crate) noise: u32,
    /// What it is told beside events.
    pub(crate) control: ControlLevel,
    /// Bytes that the socket took.
    pub(crate) bytes: u64,
    pub(crate) id: ConnectionId,
    pub(crate) since: Timestamp,
    pub(crate) address: SocketAddr,
    pub(crate) permit: Permit,
    _seat: Seat,
}

impl Conn {
    pub(crate) fn new(
        socket: TcpStream,
        generation: u32,
        deadlines: Deadlines,
        since: Timestamp,
        about: About,
    ) -> Conn {
        let About { id, address, control, permit, seat, .. } = about;
        Conn {
            socket,
            generation,
            deadlines,
            noise: 0,
            control,
            bytes: 0,
            id,
            since,
            address,
            permit,
            _seat: seat,
        }
    }

    /// Whether it is told why it is closed.
    pub(crate) fn hears_reasons(&self) -> bool {
        self.control.hears_reasons()
    }

    /// Whether it is told how far it is when nothing else has told it for long.
    pub(crate) fn wants_positions(&self) -> bool {
        self.hears_reasons()
    }
}

/// What a worker is told about a new stream, beside what the hub is.
#[derive(Debug)]
pub(crate) struct About {
    pub(crate) id: ConnectionId,
    pub(crate) address: SocketAddr,
    pub(crate) control: ControlLevel,
    pub(crate) permit: Permit,
    pub(crate) seat: Seat,
    /// The durable subscription that it has. Its worker keeps that apart, as few streams have one.
    pub(crate) holding: Option<Holding>,
}

/// A place on a worker, counted from when the worker is chosen.
#[derive(Debug)]
pub(crate) struct Seat {
    taken: Arc<AtomicUsize>,
    /// Which worker.
    pub(crate) worker: usize,
}

impl Seat {
    pub(crate) fn take(worker: usize, taken: &Arc<AtomicUsize>) -> Seat {
        taken.fetch_add(1, Ordering::Relaxed);
        Seat { taken: taken.clone(), worker }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// Its id.
    pub id: ConnectionId,
    /// Whose it is.
    pub user: Option<UserId>,
    /// Where it comes from.
    pub address: SocketAddr,
    /// What was asked for: not the broadcasts and the user's own events, which every stream gets.
    pub channels: Vec<View>,
    /// When it began.
    pub since: Timestamp,
    /// Bytes that its socket took.
    pub bytes: u64,
    /// Whether its socket is full just now.
    pub blocked: bool,
    /// What it did not get of what its channels had.
    pub losses: Losses,
    /// Which worker has it.
    pub worker: usize,
}

/// Which streams are meant. What isn't said is not asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConnectionFilter {
    /// Those of this user.
    pub user: Option<UserId>,
    /// Those that asked for this channel, by its name or by a pattern.
    pub channel: Option<Channel>,
    /// The one with this id.
    pub id: Option<ConnectionId>,
}

impl ConnectionFilter {
    /// `views` are the connection's.
    pub(crate) fn matches<'a>(&self, conn: &Conn, mut views: impl Iterator<Item = &'a View>) -> bool {
        self.user.as_ref().is_none_or(|user| conn.permit.user() == Some(user))
            && self.id.is_none_or(|id| conn.id == id)
            && self.channel.as_ref().is_none_or(|channel| views.any(|view| view.shows(channel)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// There are as many of these as there are people looking: what is added here is added a hundred thousand times.
    #[test]
    fn a_connection_is_small() {
        assert!(size_of::<Option<Conn>>() <= 176, "{}", size_of::<Option<Conn>>());
    }
}
