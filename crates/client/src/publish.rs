//! What to publish.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

use crate::Error;

/// An event to be published.
#[derive(Debug, Clone, Serialize)]
pub struct Publish {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    channels: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    users: Vec<String>,
    #[serde(skip_serializing_if = "is_false")]
    broadcast: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<String>,
    #[serde(skip_serializing_if = "Data::is_nothing")]
    data: Data,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<String, Tag>,
    #[serde(skip_serializing_if = "is_false")]
    end: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exclude_user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exclude_client: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exclude_connection: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<String>,
}

#[derive(Debug, Clone)]
enum Data {
    /// Nobody has said what it is yet: the empty text.
    Unsaid,
    /// None at all, of an end that says nothing else.
    Nothing,
    Text(String),
    Json(Box<RawValue>),
}

impl Data {
    fn is_nothing(&self) -> bool {
        matches!(self, Data::Nothing)
    }
}

impl Serialize for Data {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Data::Unsaid | Data::Nothing => serializer.serialize_str(""),
            Data::Text(text) => serializer.serialize_str(text),
            Data::Json(json) => json.serialize(serializer),
        }
    }
}

/// The value of a tag.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Tag {
    /// A text of up to 256 bytes.
    Text(String),
    /// A finite number.
    Number(f64),
    /// True or false.
    Bool(bool),
}

impl From<&str> for Tag {
    fn from(text: &str) -> Tag {
        Tag::Text(text.to_owned())
    }
}

impl From<String> for Tag {
    fn from(text: String) -> Tag {
        Tag::Text(text)
    }
}

impl From<f64> for Tag {
    fn from(number: f64) -> Tag {
        Tag::Number(number)
    }
}

impl From<i32> for Tag {
    fn from(number: i32) -> Tag {
        Tag::Number(number.into())
    }
}

impl From<bool> for Tag {
    fn from(value: bool) -> Tag {
        Tag::Bool(value)
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

/// An event that is stored.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Published {
    /// The event's cursor, as subscribers see it.
    pub id: String,
}

impl Publish {
    /// An event to one channel.
    pub fn to_channel(channel: impl Into<String>) -> Publish {
        Publish::to_nobody().channel(channel)
    }

    /// An event to one user, wherever that user is.
    pub fn to_user(user: impl Into<String>) -> Publish {
        Publish::to_nobody().user(user)
    }

    /// An event to everybody.
    pub fn to_everybody() -> Publish {
        Publish::to_nobody().everybody()
    }

    /// An event without a target yet: 1–100 are needed in all. A connection gets it once, however many match.
    pub fn to_nobody() -> Publish {
        Publish {
            channels: Vec::new(),
            users: Vec::new(),
            broadcast: false,
            event: None,
            data: Data::Unsaid,
            key: None,
            tags: BTreeMap::new(),
            end: false,
            retry: None,
            ttl: None,
            store: None,
            exclude_user: None,
            exclude_client: None,
            exclude_connection: None,
            idempotency_key: None,
        }
    }

    /// To this channel too.
    #[must_use]
    pub fn channel(mut self, channel: impl Into<String>) -> Publish {
        self.channels.push(channel.into());
        self
    }

    /// To this user too.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Publish {
        self.users.push(user.into());
        self
    }

    /// To everybody too.
    #[must_use]
    pub fn everybody(mut self) -> Publish {
        self.broadcast = true;
        self
    }

    /// The type that listeners are registered for; `message` without.
    #[must_use]
    pub fn event(mut self, event: impl Into<String>) -> Publish {
        self.event = Some(event.into());
        self
    }

    /// The data as a text, sent as it is. Empty without.
    #[must_use]
    pub fn text(mut self, data: impl Into<String>) -> Publish {
        self.data = Data::Text(data.into());
        self
    }

    /// The data as JSON.
    ///
    /// # Errors
    /// When the value can't be written as JSON, as a map whose keys aren't strings.
    pub fn json<T: Serialize + ?Sized>(mut self, data: &T) -> Result<Publish, Error> {
        self.data = Data::Json(to_raw_value(data).map_err(Error::Data)?);
        Ok(self)
    }

    /// The data as JSON that is written already.
    ///
    /// # Errors
    /// When it isn't JSON.
    pub fn raw_json(mut self, data: impl Into<String>) -> Result<Publish, Error> {
        self.data = Data::Json(RawValue::from_string(data.into()).map_err(Error::Data)?);
        Ok(self)
    }

    /// What the event is the newest state of, within its channel: who is behind needs only the newest of each key.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Publish {
        self.key = Some(key.into());
        self
    }

    /// A tag for subscribers to choose events by; up to 32 of them.
    #[must_use]
    pub fn tag(mut self, name: impl Into<String>, value: impl Into<Tag>) -> Publish {
        self.tags.insert(name.into(), value.into());
        self
    }

    /// The last event of its channels. Without data it says nothing but that.
    #[must_use]
    pub fn end(mut self) -> Publish {
        self.end = true;
        if let Data::Unsaid = self.data {
            self.data = Data::Nothing;
        }
        self
    }

    /// How long clients are to wait before they reconnect, from now on.
    #[must_use]
    pub fn retry(mut self, time: Duration) -> Publish {
        self.retry = Some(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// How long the event is replayed, in whole seconds.
    #[must_use]
    pub fn ttl(mut self, time: Duration) -> Publish {
        self.ttl = Some(time.as_secs());
        self
    }

    /// Only for those who are connected and keep up; the event isn't kept.
    #[must_use]
    pub fn ephemeral(mut self) -> Publish {
        self.store = Some(false);
        self
    }

    /// Not for this user, on replay either.
    #[must_use]
    pub fn exclude_user(mut self, user: impl Into<String>) -> Publish {
        self.exclude_user = Some(user.into());
        self
    }

    /// Not for the client that chose this id, on replay either.
    #[must_use]
    pub fn exclude_client(mut self, client: impl Into<String>) -> Publish {
        self.exclude_client = Some(client.into());
        self
    }

    /// Not for this one connection.
    #[must_use]
    pub fn exclude_connection(mut self, connection: impl Into<String>) -> Publish {
        self.exclude_connection = Some(connection.into());
        self
    }

    /// Stored once, however often it is sent within five minutes: the same publisher, key and event get the first
    /// answer again. So what failed with [`Error::NoAnswer`] can be sent again. 1 to 256 bytes; for a batch see
    /// [`Client::publish_all_once`](crate::Client::publish_all_once).
    #[must_use]
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Publish {
        self.idempotency_key = Some(key.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_said_is_sent() {
        let check = |publish: Publish, expected: &str| {
            assert_eq!(serde_json::to_string(&publish).unwrap(), expected);
        };
        check(Publish::to_channel("a").text("hi"), r#"{"channels":["a"],"data":"hi"}"#);
        check(Publish::to_everybody().raw_json("1.0e2").unwrap(), r#"{"broadcast":true,"data":1.0e2}"#);
        check(
            Publish::to_user("7")
                .channel("a")
                .event("paid")
                .json(&["x"])
                .unwrap()
                .retry(Duration::from_secs(5))
                .ttl(Duration::from_secs(60))
                .ephemeral()
                .exclude_user("8")
                .exclude_client("c")
                .exclude_connection("0")
                .idempotency_key("k"),
            concat!(
                r#"{"channels":["a"],"users":["7"],"event":"paid","data":["x"],"retry":5000,"ttl":60,"#,
                r#""store":false,"exclude_user":"8","exclude_client":"c","exclude_connection":"0","idempotency_key":"k"}"#
            ),
        );
        check(
            Publish::to_channel("a")
                .text("x")
                .key("k")
                .tag("n", 5)
                .tag("b", true)
                .tag("a", "t")
                .tag("f", 0.5),
            r#"{"channels":["a"],"data":"x","key":"k","tags":{"a":"t","b":true,"f":0.5,"n":5.0}}"#,
        );
        check(Publish::to_channel("a").end(), r#"{"channels":["a"],"end":true}"#);
        check(Publish::to_channel("a").text("").end(), r#"{"channels":["a"],"data":"","end":true}"#);
        check(Publish::to_channel("a").end().text("x"), r#"{"channels":["a"],"data":"x","end":true}"#);
        check(Publish::to_channel("a"), r#"{"channels":["a"],"data":""}"#);
        assert!(matches!(Publish::to_nobody().raw_json("{"), Err(Error::Data(_))));
    }
}
