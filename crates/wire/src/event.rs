//! An event as a publisher says it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::{Channel, ClientId, Key, Tags, UserId};

/// The longest event type, in bytes.
const LONGEST_TYPE: usize = 256;

/// What a publisher says once, and everybody hears who may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Where to.
    pub to: Targets,
    /// The type that listeners are registered for.
    pub event: EventType,
    /// What is said.
    pub data: Data,
    /// How long the client is to wait before it reconnects, in milliseconds.
    pub retry: Option<u32>,
    /// How long it is replayed, in seconds; it is never replayed after that.
    pub ttl: Option<u32>,
    /// Whether it is kept. What isn't reaches only those who are connected and keep up.
    pub store: bool,
    /// Who is not to get it, live or replayed.
    pub exclude: Exclude,
    /// What it is the newest state of, within its channel.
    pub key: Option<Key>,
    /// What filters look at.
    pub tags: Tags,
    /// Whether it is the last event of its channels. It has to be kept, or those who come later don't know.
    pub end: bool,
}

impl Event {
    /// A kept event of the type `message` to one channel.
    pub fn to(channel: Channel, data: impl Into<Data>) -> Event {
        Event::new(channel.into(), data.into())
    }

    /// A kept event of the type `message`, with nothing special about it.
    pub fn new(to: Targets, data: Data) -> Event {
        Event {
            to,
            event: EventType::default(),
            data,
            retry: None,
            ttl: None,
            store: true,
            exclude: Exclude::default(),
            key: None,
            tags: Tags::default(),
            end: false,
        }
    }

    /// Whether there is something to be shown: an end may say nothing.
    pub fn is_shown(&self) -> bool {
        self.data != Data::Nothing
    }
}

/// Where an event goes: 1–100 channels, each once, the hub's own for users and everybody among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Targets(Arc<[Channel]>);

/// Why a list of targets is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTargets {
    /// There is none.
    #[error("an event needs a target: \"channel\", \"channels\", \"user\", \"users\" or \"broadcast\"")]
    None,
    /// There are too many.
    #[error("an event may have {max} targets, this one has {count}", max = Targets::MAX)]
    TooMany {
        /// How many there are.
        count: usize,
    },
}

impl Targets {
    /// How many targets an event may have.
    pub const MAX: usize = 100;

    /// Targets from a list, in which a channel may be named twice.
    ///
    /// # Errors
    /// When there is none, or more than [`Targets::MAX`].
    pub fn new(channels: impl IntoIterator<Item = Channel>) -> Result<Targets, BadTargets> {
        let mut unique: Vec<Channel> = Vec::new();
        for (at, channel) in channels.into_iter().enumerate() {
            if at >= Targets::MAX {
                return Err(BadTargets::TooMany { count: at + 1 });
            }
            if !unique.contains(&channel) {
                unique.push(channel);
            }
        }
        if unique.is_empty() { Err(BadTargets::None) } else { Ok(Targets(unique.into())) }
    }

    /// The channels, in the order they were named.
    pub fn channels(&self) -> &[Channel] {
        &self.0
    }
}

impl From<Channel> for Targets {
    fn from(channel: Channel) -> Targets {
        Targets([channel].into())
    }
}

/// What an event says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// A text, sent as it is.
    Text(Arc<str>),
    /// A JSON value that is no string, in one line: compact, its numbers, order and spelling as they came. Whoever
    /// makes it has checked that.
    Json(Arc<str>),
    /// Nothing, of an end alone: nobody is shown it, but that it was the last.
    Nothing,
}

impl Data {
    /// The characters that subscribers read.
    pub fn as_str(&self) -> &str {
        match self {
            Data::Text(text) | Data::Json(text) => text,
            Data::Nothing => "",
        }
    }
}

impl From<String> for Data {
    fn from(text: String) -> Data {
        Data::Text(text.into())
    }
}

impl From<&str> for Data {
    fn from(text: &str) -> Data {
        Data::Text(text.into())
    }
}

/// The type of an event: 1–256 bytes without CR, LF and NUL, and not of the hub's own (`tidings:…`).
///
/// The default is `message`, which is what an event without a type is.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct EventType(Option<Arc<str>>);

/// Why an event type is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadEventType {
    /// It has no byte.
    #[error("an event type may not be empty; leave it out for \"message\"")]
    Empty,
    /// It is longer than allowed.
    #[error("an event type may have {LONGEST_TYPE} bytes, this one has {0}")]
    TooLong(usize),
    /// It has a character that would end its field.
    #[error("an event type may not contain CR, LF or NUL")]
    Character,
    /// It is one of the hub's own.
    #[error("event types that begin with \"tidings:\" are the hub's own")]
    Reserved,
}

impl EventType {
    /// The type, `message` included.
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or("message")
    }

    /// Whether this is `message`, which needs no `event:` line (HTML Standard, 9.2.6).
    pub fn is_default(&self) -> bool {
        self.0.is_none()
    }
}

impl FromStr for EventType {
    type Err = BadEventType;

    fn from_str(name: &str) -> Result<EventType, BadEventType> {
        match name {
            "" => Err(BadEventType::Empty),
            "message" => Ok(EventType(None)),
            name if name.len() > LONGEST_TYPE => Err(BadEventType::TooLong(name.len())),
            name if name.contains(['\r', '\n', '\0']) => Err(BadEventType::Character),
            name if name.starts_with("tidings:") => Err(BadEventType::Reserved),
            name => Ok(EventType(Some(name.into()))),
        }
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventType({:?})", self.as_str())
    }
}

/// Who is not to get an event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exclude {
    /// Nobody who is this user.
    pub user: Option<UserId>,
    /// No client that chose this id.
    pub client: Option<ClientId>,
    /// Not this one connection.
    pub connection: Option<ConnectionId>,
}

impl Exclude {
    /// Whether everybody gets it.
    pub fn is_empty(&self) -> bool {
        self.user.is_none() && self.client.is_none() && self.connection.is_none()
    }
}

/// The id of one connection, unique over all nodes and time: 32 hexadecimal digits. It is no secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u128);

/// A text that is not 32 hexadecimal digits in lower case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a connection's id has 32 hexadecimal digits")]
pub struct BadConnectionId;

impl FromStr for ConnectionId {
    type Err = BadConnectionId;

    fn from_str(text: &str) -> Result<ConnectionId, BadConnectionId> {
        if text.len() != 32 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(BadConnectionId);
        }
        u128::from_str_radix(text, 16).map(ConnectionId).map_err(|_| BadConnectionId)
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectionId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_types_are_checked() {
        assert!("message".parse::<EventType>().unwrap().is_default());
        assert_eq!("order.paid".parse::<EventType>().unwrap().as_str(), "order.paid");
        for (name, error) in [
            ("", BadEventType::Empty),
            ("a\nb", BadEventType::Character),
            ("a\rb", BadEventType::Character),
            ("a\0b", BadEventType::Character),
            ("tidings:gap", BadEventType::Reserved),
        ] {
            assert_eq!(name.parse::<EventType>(), Err(error));
        }
        assert_eq!("x".repeat(257).parse::<EventType>(), Err(BadEventType::TooLong(257)));
    }

    #[test]
    fn targets_are_counted_and_each_is_kept_once() {
        let channel = |n: usize| format!("c{n}").parse::<Channel>().unwrap();
        assert_eq!(Targets::new([]), Err(BadTargets::None));
        assert_eq!(Targets::new([channel(1), channel(1)]).unwrap().channels(), [channel(1)]);
        assert_eq!(Targets::new((0..100).map(channel)).unwrap().channels().len(), 100);
        assert_eq!(Targets::new((0..101).map(channel)), Err(BadTargets::TooMany { count: 101 }));
    }

    #[test]
    fn connection_ids_read_back() {
        let id = ConnectionId(0xfeed);
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "feed", &"F".repeat(32), &"+".repeat(32), &"0".repeat(33)] {
            assert_eq!(bad.parse::<ConnectionId>(), Err(BadConnectionId));
        }
    }
}
