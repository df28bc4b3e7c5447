//! What nodes say to each other, as JSON. All nodes of a hub have one version of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use tidings_hub::durable::Turn;
use tidings_hub::{Census, Change, Losses, Timestamp, View};
use tidings_wire::{Channel, ClientId, Epoch, Pattern, Position, Sequence, UserId};

use crate::stream::{Changed, Unchanged};
use crate::{ConnectionFilter, ConnectionInfo};

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Words {
    pub(super) from: u64,
    pub(super) said: Said,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Said {
    /// It is there, and has told so much.
    Beat {
        number: u64,
    },
    /// What is new since the telling before.
    News {
        number: u64,
        news: Vec<News>,
    },
    /// A part of all that there is, up to a telling.
    All {
        number: u64,
        /// Counted from 0.
        part: u32,
        last: bool,
        news: Vec<News>,
    },
    /// Please say everything.
    Everything,
    /// It is gone.
    Bye,
    Question {
        call: u64,
        question: Question,
    },
    Answer {
        call: u64,
        answer: Answer,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum News {
    User {
        user: String,
        connections: u32,
        info: Option<String>,
    },
    Member {
        channel: String,
        user: Option<String>,
        connections: u32,
    },
    Whole {
        channel: String,
    },
    Watch {
        channel: String,
        watched: bool,
    },
    Spoke,
    Leaving,
    /// A durable subscription has a stream here, of that turn: whoever has an older one ends it.
    Held {
        user: String,
        name: String,
        turn: u64,
    },
}

/// What one node asks another.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Question {
    /// Who follows a channel?
    Census(String),
    /// Which streams are there?
    Connections(Filter, usize),
    /// End these streams, and let go who polls.
    Disconnect(Filter),
    /// Change what these streams follow.
    Change { filter: Filter, add: Vec<String>, remove: Vec<String>, limit: usize, all_watchable: bool },
    /// Does anybody follow one of these?
    Follows(Vec<String>),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Census {
        connections: u64,
        users: BTreeMap<String, u32>,
    },
    Connections(Vec<Connection>),
    Count(u64),
    Changed(Vec<ChangedStream>),
    Yes(bool),
    /// It could not be read.
    Nothing,
}

/// [`ConnectionFilter`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Filter {
    user: Option<String>,
    channel: Option<String>,
    id: Option<String>,
}

/// [`ConnectionInfo`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Connection {
    id: String,
    user: Option<String>,
    address: SocketAddr,
    channels: Vec<String>,
    since: u64,
    bytes: u64,
    blocked: bool,
    gaps: u64,
    skipped: u64,
    worker: usize,
}

/// [`Changed`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ChangedStream {
    connection: String,
    from: Begun,
    subscription: Option<(String, String)>,
}

#[derive(Debug, Serialize, Deserialize)]
enum Begun {
    Position(u32, u64),
    TooManyChannels,
    TooLongToKeep,
    Watching,
}

impl From<tidings_hub::News> for News {
    fn from(news: tidings_hub::News) -> News {
        use tidings_hub::News as Said;
        match news {
            Said::User { user, connections, info } => {
                News::User { user: user.to_string(), connections, info: info.map(|info| info.to_string()) }
            }
            Said::Member { channel, user, connections } => News::Member {
                channel: channel.to_string(),
                user: user.map(|user| user.to_string()),
                connections,
            },
            Said::Whole { channel } => News::Whole { channel: channel.to_string() },
            Said::Watch { channel, watched } => News::Watch { channel: channel.to_string(), watched },
            Said::Spoke => News::Spoke,
            Said::Leaving => News::Leaving,
        }
    }
}

impl News {
    /// None if a name in it can't be one, or it is of no user's presence.
    pub(super) fn read(self) -> Option<tidings_hub::News> {
        use tidings_hub::News as Said;
        Some(match self {
            News::User { user, connections, info } => {
                Said::User { user: user.parse().ok()?, connections, info: info.map(Into::into) }
            }
            News::Member { channel, user, connections } => {
                let user = match user {
                    Some(user) => Some(user.parse().ok()?),
                    None => None,
                };
                Said::Member { channel: read_channel(&channel)?, user, connections }
            }
            News::Whole { channel } => Said::Whole { channel: read_channel(&channel)? },
            News::Watch { channel, watched } => Said::Watch { channel: read_channel(&channel)?, watched },
            News::Spoke => Said::Spoke,
            News::Leaving => Said::Leaving,
            News::Held { .. } => return None,
        })
    }
}

impl From<&ConnectionFilter> for Filter {
    fn from(filter: &ConnectionFilter) -> Filter {
        Filter {
            user: filter.user.as_ref().map(ToString::to_string),
            channel: filter.channel.as_ref().map(ToString::to_string),
            id: filter.id.map(|id| id.to_string()),
        }
    }
}

impl Filter {
    /// None if a name in it can't be one: then nothing is meant by it.
    pub(super) fn read(&self) -> Option<ConnectionFilter> {
        let mut filter = ConnectionFilter::default();
        if let Some(user) = &self.user {
            filter.user = Some(user.parse().ok()?);
        }
        if let Some(channel) = &self.channel {
            filter.channel = Some(read_channel(channel)?);
        }
        if let Some(id) = &self.id {
            filter.id = Some(id.parse().ok()?);
        }
        Some(filter)
    }
}

impl From<ConnectionInfo> for Connection {
    fn from(info: ConnectionInfo) -> Connection {
        Connection {
            id: info.id.to_string(),
            user: info.user.map(|user| user.to_string()),
            address: info.address,
            channels: info.channels.iter().map(|view| view.as_str().to_owned()).collect(),
            since: info.since.0,
            bytes: info.bytes,
            blocked: info.blocked,
            gaps: info.losses.gaps,
            skipped: info.losses.skipped,
            worker: info.worker,
        }
    }
}

impl Connection {
    pub(super) fn read(self) -> Option<ConnectionInfo> {
        let user = match self.user {
            Some(user) => Some(user.parse().ok()?),
            None => None,
        };
        Some(ConnectionInfo {
            id: self.id.parse().ok()?,
            user,
            address: self.address,
            channels: read_views(&self.channels)?,
            since: Timestamp(self.since),
            bytes: self.bytes,
            blocked: self.blocked,
            losses: Losses { gaps: self.gaps, skipped: self.skipped },
            worker: self.worker,
        })
    }
}

impl From<Changed> for ChangedStream {
    fn from(changed: Changed) -> ChangedStream {
        let from = match changed.from {
            Ok(from) => Begun::Position(from.epoch.0, from.sequence.0),
            Err(Unchanged::Channels) => Begun::TooManyChannels,
            Err(Unchanged::Kept) => Begun::TooLongToKeep,
            Err(Unchanged::Watching) => Begun::Watching,
        };
        let subscription = changed.subscription.map(|(user, name)| (user.to_string(), name.to_string()));
        ChangedStream { connection: changed.connection.to_string(), from, subscription }
    }
}

impl ChangedStream {
    pub(super) fn read(self) -> Option<Changed> {
        let from = match self.from {
            Begun::Position(epoch, sequence) => {
                Ok(Position { epoch: Epoch(epoch), sequence: Sequence(sequence) })
            }
            Begun::TooManyChannels => Err(Unchanged::Channels),
            Begun::TooLongToKeep => Err(Unchanged::Kept),
            Begun::Watching => Err(Unchanged::Watching),
        };
        let subscription = match &self.subscription {
            Some((user, name)) => Some(read_held(user, name)?),
            None => None,
        };
        Some(Changed { connection: self.connection.parse().ok()?, from, subscription })
    }
}

impl From<Census> for Answer {
    fn from(census: Census) -> Answer {
        let users = census.users.into_iter().map(|(user, count)| (user.to_string(), count)).collect();
        Answer::Census { connections: census.connections, users }
    }
}

/// A census in an answer; one of nobody if it is something else.
pub(super) fn census(answer: Answer) -> Census {
    match answer {
        Answer::Census { connections, users } => {
            let read = |(user, count): (String, u32)| Some((user.parse::<UserId>().ok()?, count));
            Census { connections, users: users.into_iter().filter_map(read).collect() }
        }
        _ => Census::default(),
    }
}

pub(super) fn said_views<'a>(views: impl IntoIterator<Item = &'a View>) -> Vec<String> {
    views.into_iter().map(|view| view.as_str().to_owned()).collect()
}

pub(super) fn read_views(views: &[String]) -> Option<Vec<View>> {
    views.iter().map(|text| Some(View::from(text.parse::<Pattern>().ok()?))).collect()
}

pub(super) fn read_change(add: &[String], remove: &[String]) -> Option<Change> {
    Some(Change { add: read_views(add)?, remove: read_views(remove)?, ..Change::default() })
}

pub(super) fn read_channel(text: &str) -> Option<Channel> {
    text.parse::<Pattern>().ok()?.exact()
}

pub(super) fn said_held(user: &UserId, name: &ClientId, turn: Turn) -> News {
    News::Held { user: user.to_string(), name: name.to_string(), turn: turn.0 }
}

pub(super) fn read_held(user: &str, name: &str) -> Option<(UserId, ClientId)> {
    Some((user.parse().ok()?, name.parse().ok()?))
}
