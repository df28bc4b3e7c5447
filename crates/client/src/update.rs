//! What comes out of a subscription.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tidings_wire::Message;

use crate::{Presence, Problem};

/// One item of a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Update {
    /// A connection is made; comes after every reconnect too. Nothing was missed unless a gap follows.
    Open(Open),
    /// Something was published.
    Event(Event),
    /// Events were missed that can't be had any more. Whatever state was built from events is to be fetched anew.
    Gap(Gap),
    /// So many events were passed over, of which newer ones with the same keys came; with
    /// [`Subscribe::control`](crate::Subscribe::control).
    Skipped(u64),
    /// Who is in a channel, or who came and left; with [`Subscribe::presence`](crate::Subscribe::presence).
    Presence(Presence),
    /// There is nothing more to come, now or later: all channels have ended. The last item of a subscription.
    End,
    /// The server says why it is about to end the connection.
    Closing(Closing),
    /// The connection was lost, or an attempt failed. The subscription goes on by itself.
    Lost(Lost),
    /// A control event that this version of the client doesn't know.
    Control(Event),
}

/// What the server says about a connection (`tidings:open`).
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Open {
    /// The connection's id.
    pub connection: String,
    /// Who the server takes this client for.
    #[serde(default)]
    pub user: Option<String>,
    /// What is subscribed to: channels and patterns.
    #[serde(default)]
    pub channels: Vec<String>,
    /// What a connection without a user is managed with, by whoever knows it.
    #[serde(default)]
    pub secret: Option<String>,
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the secret: whoever reads it in a log could change the stream.
        f.debug_struct("Open")
            .field("connection", &self.connection)
            .field("user", &self.user)
            .field("channels", &self.channels)
            .finish_non_exhaustive()
    }
}

/// An event as it was published.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// The cursor to come back with after this event.
    pub id: String,
    /// The type, `message` where the publisher named none.
    pub event: String,
    /// The data: a text as it was published, anything else as compact JSON.
    pub data: String,
    /// Whether the data was published as a text, for subscriptions with an envelope; without one it is not known, and
    /// taken for a text.
    pub is_text: bool,
    /// The channel through which it came, for subscriptions with [`Subscribe::envelope`](crate::Subscribe::envelope).
    pub channel: Option<String>,
    /// When it was published, in milliseconds since 1970, for subscriptions with an envelope.
    pub time: Option<u64>,
}

impl Event {
    /// The data, read as JSON.
    ///
    /// # Errors
    /// When the data isn't JSON, or not of this type.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(&self.data)
    }
}

/// What was missed (`tidings:gap`).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Gap {
    /// Why: `expired` (not kept any more), `unknown` (the cursor is none of this hub's), `epoch` (the log was restored
    /// to an earlier state), `limit` (more than is replayed at once).
    pub reason: String,
    /// The cursor after which events are missing, where it is known.
    #[serde(default)]
    pub from: Option<String>,
    /// The cursor from which the stream is whole again.
    #[serde(default)]
    pub to: Option<String>,
}

/// Why a server ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Closing {
    /// The token ended.
    Expired,
    /// It was ordered.
    Kicked,
    /// The server holds no more streams.
    Overloaded,
    /// The server is going away.
    Drain,
}

/// A connection that was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lost {
    /// Why.
    pub reason: LostReason,
    /// When the next attempt is made.
    pub retry_in: Duration,
}

/// Why a connection was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LostReason {
    /// The server ended the response.
    Ended,
    /// Nothing came for so long, not even a heartbeat.
    Silent(Duration),
    /// The connection failed.
    Transport(String),
    /// The server answered that it can't now.
    Unavailable(Problem),
}

impl fmt::Display for LostReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LostReason::Ended => f.write_str("the server ended the stream"),
            LostReason::Silent(time) => write!(f, "nothing came for {time:?}"),
            LostReason::Transport(error) => write!(f, "the connection failed: {error}"),
            LostReason::Unavailable(problem) => write!(f, "the server is not available: {problem}"),
        }
    }
}

/// An event with its envelope around it.
#[derive(Deserialize)]
pub(crate) struct Envelope<'a> {
    id: String,
    channel: String,
    event: String,
    #[serde(borrow)]
    data: &'a RawValue,
    time: u64,
}

impl Envelope<'_> {
    /// The event; `None` if its data is a text that can't be read.
    pub(crate) fn open(self) -> Option<Event> {
        let data = self.data.get();
        let is_text = data.starts_with('"');
        let data = if is_text { serde_json::from_str(data).ok()? } else { data.to_owned() };
        let Envelope { id, channel, event, time, .. } = self;
        Some(Event { id, event, data, is_text, channel: Some(channel), time: Some(time) })
    }
}

/// The data of `tidings:skipped`.
#[derive(Deserialize)]
struct Skipped {
    count: u64,
}

impl Update {
    /// What a message says; `None` where it says nothing to the program.
    pub(crate) fn read(message: Message, envelope: bool) -> Option<Update> {
        let update = match message.event.as_str() {
            "tidings:position" | "tidings:ping" => return None,
            "tidings:open" => serde_json::from_str(&message.data).ok().map(Update::Open),
            "tidings:gap" => serde_json::from_str(&message.data).ok().map(Update::Gap),
            "tidings:skipped" => {
                serde_json::from_str(&message.data).ok().map(|Skipped { count }| Update::Skipped(count))
            }
            "tidings:presence" => serde_json::from_str(&message.data).ok().map(Update::Presence),
            "tidings:end" => Some(Update::End),
            "tidings:expired" => Some(Update::Closing(Closing::Expired)),
            "tidings:kicked" => Some(Update::Closing(Closing::Kicked)),
            "tidings:overloaded" => Some(Update::Closing(Closing::Overloaded)),
            "tidings:drain" => Some(Update::Closing(Closing::Drain)),
            // Were it no envelope, it would still be an event.
            "message" if envelope => {
                let event = unwrap(&message.data).unwrap_or_else(|| plain(message));
                return Some(Update::Event(event));
            }
            event if event.starts_with("tidings:") => None,
            _ => return Some(Update::Event(plain(message))),
        };
        Some(update.unwrap_or_else(|| Update::Control(plain(message))))
    }
}

fn plain(message: Message) -> Event {
    Event {
        id: message.id,
        event: message.event,
        data: message.data,
        is_text: true,
        channel: None,
        time: None,
    }
}

fn unwrap(json: &str) -> Option<Event> {
    serde_json::from_str::<Envelope<'_>>(json).ok()?.open()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(event: &str, data: &str, envelope: bool) -> Option<Update> {
        Update::read(Message { event: event.into(), data: data.into(), id: "A".into() }, envelope)
    }

    fn event(event: &str, data: &str) -> Event {
        Event {
            id: "A".into(),
            event: event.into(),
            data: data.into(),
            is_text: true,
            channel: None,
            time: None,
        }
    }

    #[test]
    fn control_events_are_typed() {
        let open = r#"{"connection":"c","user":null,"secret":"canary","channels":["a"],"new":1}"#;
        let opened = Open {
            connection: "c".into(),
            user: None,
            channels: vec!["a".into()],
            secret: Some("canary".into()),
        };
        assert!(!format!("{opened:?}").contains("canary"));
        assert_eq!(read("tidings:open", open, false), Some(Update::Open(opened)));
        assert_eq!(
            read("tidings:gap", r#"{"reason":"expired","from":null,"to":"B"}"#, false),
            Some(Update::Gap(Gap { reason: "expired".into(), from: None, to: Some("B".into()) }))
        );
        assert_eq!(read("tidings:drain", "{}", false), Some(Update::Closing(Closing::Drain)));
        assert_eq!(read("tidings:end", "{}", false), Some(Update::End));
        assert_eq!(read("tidings:skipped", r#"{"count":7}"#, true), Some(Update::Skipped(7)));
        let strange = Update::Control(event("tidings:skipped", "{}"));
        assert_eq!(read("tidings:skipped", "{}", false), Some(strange));
        for silent in ["tidings:ping", "tidings:position"] {
            assert_eq!(read(silent, "{}", false), None);
        }
        assert_eq!(read("tidings:new", "{}", false), Some(Update::Control(event("tidings:new", "{}"))));
        assert_eq!(read("tidings:open", "?", true), Some(Update::Control(event("tidings:open", "?"))));
    }

    #[test]
    fn an_envelope_is_taken_off() {
        for (json, data) in [(r#""a\nb""#, "a\nb"), (r#"{"n":1.0e2}"#, r#"{"n":1.0e2}"#), ("null", "null")] {
            let text = format!(r#"{{"id":"A","channel":"c","event":"paid","data":{json},"time":17}}"#);
            let is_text = json.starts_with('"');
            let expected =
                Event { is_text, channel: Some("c".into()), time: Some(17), ..event("paid", data) };
            assert_eq!(read("message", &text, true), Some(Update::Event(expected)));
            assert_eq!(read("message", &text, false), Some(Update::Event(event("message", &text))));
        }
    }
}
