//! What a publisher says of an event, field by field: as JSON, or as names with values.

use std::str::FromStr;
use std::time::Duration;

use crate::json::{BadJson, Reader};
use crate::{
    BadConnectionId, BadEventType, BadKey, BadName, BadTags, BadTargets, Channel, Data, Event, EventType,
    Exclude, Key, Number, TagValue, Tags, Targets, UserId,
};

/// The longest idempotency key, in bytes.
const LONGEST_KEY: usize = 256;

/// How much may be published, and how it may be said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Bytes of one event's data.
    pub data: usize,
    /// Events in one array.
    pub batch: usize,
    /// Targets of one event.
    pub targets: usize,
    /// The longest time before a reconnect that a publisher may ask for. Longer ones become this.
    pub retry_max: Duration,
    /// Whether `userId`, a string or a whole number, is another name of `user`.
    pub user_id: bool,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            data: 1 << 20,
            batch: 10_000,
            targets: Targets::MAX,
            retry_max: Duration::from_secs(300),
            user_id: false,
        }
    }
}

/// What a publisher names one publish by, so that it is stored once, however often it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey(Box<str>);

/// Why a text is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an idempotency key has 1 to {LONGEST_KEY} bytes of UTF-8 and no control characters")]
pub struct BadIdempotencyKey;

impl FromStr for IdempotencyKey {
    type Err = BadIdempotencyKey;

    fn from_str(text: &str) -> Result<IdempotencyKey, BadIdempotencyKey> {
        let good = (1..=LONGEST_KEY).contains(&text.len()) && !text.contains(char::is_control);
        if good { Ok(IdempotencyKey(text.into())) } else { Err(BadIdempotencyKey) }
    }
}

impl IdempotencyKey {
    /// The key as it was chosen.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What is published: one event, or several that are stored together.
#[derive(Debug)]
pub enum Publication {
    /// A JSON object, or a raw body.
    One(Keyed),
    /// A JSON array.
    Many(Vec<Event>),
}

/// An event, and the idempotency key that it was sent with.
#[derive(Debug)]
pub struct Keyed {
    /// The event.
    pub event: Event,
    /// The key.
    pub once: Option<IdempotencyKey>,
}

/// Why what was sent is no event. The texts are for the publisher: they may quote what it sent.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the texts say it")]
pub enum BadEvent {
    #[error("{0}")]
    Json(#[from] BadJson),
    /// In a line whose number is said already.
    #[error("{0:#}")]
    JsonOfLine(BadJson),
    #[error("there is no field {0:?}; see /openapi.json for those there are")]
    UnknownField(String),
    #[error("there is no parameter {0:?}; see /openapi.json for those there are")]
    UnknownParameter(String),
    #[error("\"key\": {0}")]
    Key(#[from] BadKey),
    #[error("\"tags\": {0}")]
    Tags(#[from] BadTags),
    #[error("the tag {0:?} is to be a string, a finite number, true or false")]
    TagValue(String),
    #[error("\"end\" is kept, so that those who come later know: leave \"store\" out")]
    EndNotKept,
    #[error("{field:?}: {bad}")]
    Name { field: &'static str, bad: BadName },
    #[error("{field:?}: {}; what is for {whom} has {instead} in its place", BadName::Reserved)]
    NotAChannel { field: &'static str, whom: &'static str, instead: &'static str },
    #[error("\"userId\" is to be a string or a whole number")]
    UserId,
    #[error("\"event\": {0}")]
    Type(#[from] BadEventType),
    #[error("\"exclude_connection\": {0}")]
    Connection(#[from] BadConnectionId),
    #[error("\"idempotency_key\": {0}")]
    Once(#[from] BadIdempotencyKey),
    #[error("\"idempotency_key\" is given twice, with different values")]
    TwoKeys,
    #[error(
        "an array is stored whole, so that an event of it has no key: send \"idempotency_key\" of all as the header \"Idempotency-Key\""
    )]
    KeyInArray,
    #[error("{0}")]
    Targets(#[from] BadTargets),
    #[error("an event needs \"data\", unless it has \"end\": true")]
    NoData,
    #[error("an event's data may have {max} bytes, this one's has {len}")]
    DataTooLarge { len: usize, max: usize },
    #[error("{field:?} is to be a whole number from {least} to {most}")]
    Number { field: &'static str, least: u32, most: u32 },
    #[error("{field:?} is to be 1 or 0")]
    Switch { field: &'static str },
    #[error("an array may have {max} events")]
    TooMany { max: usize },
    #[error("event {index} of the array: {bad}")]
    InArray {
        /// Counted from 1.
        index: usize,
        bad: Box<BadEvent>,
    },
}

impl BadEvent {
    /// What is wrong, apart from where.
    pub fn cause(&self) -> &BadEvent {
        match self {
            BadEvent::InArray { bad, .. } => bad.cause(),
            bad => bad,
        }
    }

    /// What is wrong, in words that quote nothing of what was sent.
    pub fn kind(&self) -> &'static str {
        match self.cause() {
            BadEvent::Json(_) | BadEvent::JsonOfLine(_) => "not the JSON of an event",
            BadEvent::UnknownField(_) | BadEvent::UnknownParameter(_) => "an unknown field",
            BadEvent::Key(_) => "a bad key",
            BadEvent::Tags(_) | BadEvent::TagValue(_) => "bad tags",
            BadEvent::EndNotKept => "an end that is not to be stored",
            BadEvent::Name { .. } | BadEvent::NotAChannel { .. } | BadEvent::UserId => {
                "a bad channel, user or client"
            }
            BadEvent::Type(_) => "a bad event type",
            BadEvent::Connection(_) => "a bad connection",
            BadEvent::Once(_) | BadEvent::TwoKeys => "a bad idempotency key",
            BadEvent::KeyInArray => "an idempotency key in an array",
            BadEvent::Targets(_) => "no target, or too many",
            BadEvent::NoData => "no data",
            BadEvent::DataTooLarge { .. } => "too large",
            BadEvent::Number { .. } | BadEvent::Switch { .. } => "a number or switch out of range",
            BadEvent::TooMany { .. } => "too many events in an array",
            BadEvent::InArray { .. } => "a bad event in an array",
        }
    }
}

/// Reads a whole JSON body: an object, or an array of them.
///
/// # Errors
/// When it is no event, or one of the array is none.
pub fn publication(body: &[u8], rules: &Rules) -> Result<Publication, BadEvent> {
    let mut reader = Reader::new(body)?;
    let publication = if reader.peek()? == b'[' {
        let mut events = Vec::new();
        reader.array(|reader| {
            if events.len() >= rules.batch {
                return Err(BadEvent::TooMany { max: rules.batch });
            }
            let event = event(reader, rules).and_then(|keyed| match keyed.once {
                None => Ok(keyed.event),
                Some(_) => Err(BadEvent::KeyInArray),
            });
            let index = events.len() + 1;
            events.push(event.map_err(|bad| BadEvent::InArray { index, bad: Box::new(bad) })?);
            Ok(())
        })?;
        Publication::Many(events)
    } else {
        Publication::One(event(&mut reader, rules)?)
    };
    reader.finish()?;
    Ok(publication)
}

/// Reads a line of NDJSON: one object.
///
/// # Errors
/// When it is no event.
pub fn line(line: &[u8], rules: &Rules) -> Result<Keyed, BadEvent> {
    let read = || {
        let mut reader = Reader::new(line)?;
        let event = event(&mut reader, rules)?;
        reader.finish()?;
        Ok(event)
    };
    read().map_err(|bad| match bad {
        BadEvent::Json(bad) => BadEvent::JsonOfLine(bad),
        bad => bad,
    })
}

/// Reads an event as a JSON object.
fn event(reader: &mut Reader<'_>, rules: &Rules) -> Result<Keyed, BadEvent> {
    let mut draft = Draft::new(rules);
    reader.object(|reader, field| draft.read(field, reader))?;
    draft.event()
}

/// What is known of an event so far.
#[derive(Debug)]
pub struct Draft<'a> {
    rules: &'a Rules,
    /// Nearly every event has one target, which then needs no list.
    first: Option<Channel>,
    more: Vec<Channel>,
    event: EventType,
    data: Option<Data>,
    retry: Option<u32>,
    ttl: Option<u32>,
    store: bool,
    exclude: Exclude,
    key: Option<Key>,
    tags: Tags,
    end: bool,
    once: Option<IdempotencyKey>,
}

impl<'a> Draft<'a> {
    /// Nothing is known yet.
    pub fn new(rules: &'a Rules) -> Draft<'a> {
        Draft {
            rules,
            first: None,
            more: Vec::new(),
            event: EventType::default(),
            data: None,
            retry: None,
            ttl: None,
            store: true,
            exclude: Exclude::default(),
            key: None,
            tags: Tags::default(),
            end: false,
            once: None,
        }
    }

    /// Reads one field of a JSON object.
    fn read(&mut self, field: &str, reader: &mut Reader<'_>) -> Result<(), BadEvent> {
        match field {
            "channel" => self.channel(&reader.string()?)?,
            "channels" => reader.array(|reader| self.channel(&reader.string()?))?,
            "user" => self.user(&reader.string()?)?,
            "userId" if self.rules.user_id => {
                if reader.peek()?.is_ascii_digit() {
                    let number = reader.compact()?;
                    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
                        return Err(BadEvent::UserId);
                    }
                    self.user(&number)?;
                } else {
                    self.user(&reader.string()?)?;
                }
            }
            "users" => reader.array(|reader| self.user(&reader.string()?))?,
            "broadcast" => {
                if reader.boolean()? {
                    self.target(Channel::all())?;
                }
            }
            "event" => self.event = reader.string()?.parse()?,
            "data" => {
                let data = if reader.peek()? == b'"' {
                    Data::Text(reader.string()?.into())
                } else {
                    Data::Json(reader.compact()?.into())
                };
                self.data(data)?;
            }
            "retry" => {
                let retry = reader.integer()?;
                self.retry(retry);
            }
            "ttl" => {
                let ttl = reader.integer()?;
                self.ttl(ttl)?;
            }
            "store" => self.store = reader.boolean()?,
            "key" => self.key = Some(reader.string()?.parse()?),
            "tags" => self.tags = tags(reader)?,
            "end" => self.end = reader.boolean()?,
            "idempotency_key" => self.once = Some(reader.string()?.parse()?),
            "exclude_user" => self.exclude.user = Some(name("exclude_user", &reader.string()?)?),
            "exclude_client" => self.exclude.client = Some(name("exclude_client", &reader.string()?)?),
            "exclude_connection" => self.exclude.connection = Some(reader.string()?.parse()?),
            other => return Err(BadEvent::UnknownField(other.chars().take(64).collect())),
        }
        Ok(())
    }

    /// Takes one parameter of a query. `false` when it says nothing about the event.
    ///
    /// # Errors
    /// When the value is not what it says.
    pub fn parameter(&mut self, field: &str, value: &str) -> Result<bool, BadEvent> {
        match field {
            "userId" if self.rules.user_id => self.user(value)?,
            "channel" => self.channel(value)?,
            "user" => self.user(value)?,
            "broadcast" => {
                if switch("broadcast", value)? {
                    self.target(Channel::all())?;
                }
            }
            "event" => self.event = value.parse()?,
            "retry" => {
                let retry = whole("retry", value, 0)?;
                self.retry(retry);
            }
            "ttl" => {
                let ttl = whole("ttl", value, 1)?;
                self.ttl(ttl)?;
            }
            "store" => self.store = switch("store", value)?,
            "exclude_user" => self.exclude.user = Some(name("exclude_user", value)?),
            "exclude_client" => self.exclude.client = Some(name("exclude_client", value)?),
            "exclude_connection" => self.exclude.connection = Some(value.parse()?),
            "key" => self.key = Some(value.parse()?),
            "end" => self.end = switch("end", value)?,
            "idempotency_key" => {
                let key = value.parse()?;
                if self.once.as_ref().is_some_and(|other| *other != key) {
                    return Err(BadEvent::TwoKeys);
                }
                self.once = Some(key);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// What the event says.
    ///
    /// # Errors
    /// When it is too long.
    pub fn data(&mut self, data: Data) -> Result<(), BadEvent> {
        let (len, max) = (data.as_str().len(), self.rules.data);
        if len > max {
            return Err(BadEvent::DataTooLarge { len, max });
        }
        self.data = Some(data);
        Ok(())
    }

    /// The event, if everything that it needs was said.
    ///
    /// # Errors
    /// When something is missing, or doesn't go together.
    pub fn event(self) -> Result<Keyed, BadEvent> {
        let to = match self.first {
            Some(only) if self.more.is_empty() => Targets::from(only),
            first => Targets::new(first.into_iter().chain(self.more))?,
        };
        let data = match self.data {
            Some(data) => data,
            None if self.end => Data::Nothing,
            None => return Err(BadEvent::NoData),
        };
        if self.end && !self.store {
            return Err(BadEvent::EndNotKept);
        }
        let event = Event {
            to,
            event: self.event,
            data,
            retry: self.retry,
            ttl: self.ttl,
            store: self.store,
            exclude: self.exclude,
            key: self.key,
            tags: self.tags,
            end: self.end,
        };
        Ok(Keyed { event, once: self.once })
    }

    fn channel(&mut self, channel: &str) -> Result<(), BadEvent> {
        self.target(name("channel", channel)?)
    }

    fn user(&mut self, user: &str) -> Result<(), BadEvent> {
        let user: UserId = name("user", user)?;
        self.target(Channel::user(&user))
    }

    fn target(&mut self, target: Channel) -> Result<(), BadEvent> {
        if self.first.is_none() {
            self.first = Some(target);
        } else if self.more.len() + 1 < self.rules.targets.min(Targets::MAX) {
            self.more.push(target);
        } else {
            return Err(BadTargets::TooMany { count: self.more.len() + 2 }.into());
        }
        Ok(())
    }

    /// Clamped rather than refused: what a publisher may ask of clients is the operator's to decide.
    fn retry(&mut self, milliseconds: Option<u64>) {
        let most = u32::try_from(self.rules.retry_max.as_millis()).unwrap_or(u32::MAX);
        let asked = milliseconds.and_then(|asked| u32::try_from(asked).ok()).unwrap_or(u32::MAX);
        self.retry = Some(asked.min(most));
    }

    fn ttl(&mut self, seconds: Option<u64>) -> Result<(), BadEvent> {
        let seconds = seconds.and_then(|seconds| u32::try_from(seconds).ok()).filter(|seconds| *seconds > 0);
        self.ttl = Some(seconds.ok_or(BadEvent::Number { field: "ttl", least: 1, most: u32::MAX })?);
        Ok(())
    }
}

/// Reads tags as a flat JSON object.
fn tags(reader: &mut Reader<'_>) -> Result<Tags, BadEvent> {
    let mut tags: Vec<(Box<str>, TagValue)> = Vec::new();
    reader.object(|reader, name| {
        if tags.len() >= Tags::MAX {
            return Err(BadEvent::Tags(BadTags::TooMany(tags.len() + 1)));
        }
        let bad = || BadEvent::TagValue(name.chars().take(64).collect());
        let value = match reader.peek()? {
            b'"' => TagValue::Text(reader.string()?.into()),
            b't' | b'f' => TagValue::Bool(reader.boolean()?),
            b'-' | b'0'..=b'9' => {
                let number = reader.compact()?.parse().ok().and_then(Number::new);
                TagValue::Number(number.ok_or_else(bad)?)
            }
            _ => return Err(bad()),
        };
        tags.push((name.into(), value));
        Ok(())
    })?;
    Ok(Tags::new(tags)?)
}

fn name<T: std::str::FromStr<Err = BadName>>(field: &'static str, text: &str) -> Result<T, BadEvent> {
    text.parse().map_err(|bad| match (field, bad) {
        ("channel" | "channels", BadName::Reserved) if text == "$all" => {
            BadEvent::NotAChannel { field, whom: "everybody", instead: "\"broadcast\": true" }
        }
        ("channel" | "channels", BadName::Reserved) if text.starts_with("$user/") => {
            BadEvent::NotAChannel { field, whom: "a user", instead: "\"user\"" }
        }
        (field, bad) => BadEvent::Name { field, bad },
    })
}

/// A switch in a query; `?store=` and `?store` are on.
///
/// # Errors
/// When it is neither on nor off.
pub fn switch(field: &'static str, value: &str) -> Result<bool, BadEvent> {
    match value {
        "1" | "true" | "" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(BadEvent::Switch { field }),
    }
}

/// A whole number in a query; `None` if it is too large.
fn whole(field: &'static str, value: &str, least: u32) -> Result<Option<u64>, BadEvent> {
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(BadEvent::Number { field, least, most: u32::MAX });
    }
    Ok(value.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ConnectionId;

    fn one(body: &str) -> Result<Event, BadEvent> {
        match publication(body.as_bytes(), &Rules::default())? {
            Publication::One(keyed) => Ok(keyed.event),
            Publication::Many(events) => panic!("an array: {events:?}"),
        }
    }

    fn channels(event: &Event) -> Vec<&str> {
        event.to.channels().iter().map(Channel::as_str).collect()
    }

    #[test]
    fn every_field_is_read() {
        let event = one(
            r#"{"channel":"a","channels":["b","a"],"user":"7","users":["x/y"],"broadcast":true,"event":"t",
                "data":{ "n": 1.50 },"retry":5,"ttl":60,"store":false,"exclude_user":"8","exclude_client":"tab",
                "exclude_connection":"0000000000000000000000000000feed"}"#,
        )
        .unwrap();
        assert_eq!(channels(&event), ["a", "b", "$user/7", "$user/x%2Fy", "$all"]);
        assert_eq!(event.event.as_str(), "t");
        assert_eq!(event.data, Data::Json(r#"{"n":1.50}"#.into()));
        assert_eq!((event.retry, event.ttl, event.store), (Some(5), Some(60), false));
        assert_eq!(event.exclude.user.unwrap().as_str(), "8");
        assert_eq!(event.exclude.client.unwrap().as_str(), "tab");
        assert_eq!(event.exclude.connection, Some(ConnectionId(0xfeed)));
    }

    #[test]
    fn a_string_is_text_and_all_else_is_json() {
        let data = |data: &str| one(&format!(r#"{{"channel":"a","data":{data}}}"#)).unwrap().data;
        assert_eq!(data(r#""a\nb""#), Data::Text("a\nb".into()));
        assert_eq!(data(r#""""#), Data::Text("".into()));
        assert_eq!(data("null"), Data::Json("null".into()));
        assert_eq!(data("[ 1e400 , -0 ]"), Data::Json("[1e400,-0]".into()));
    }

    #[test]
    fn keys_tags_and_ends_are_read() {
        let event = one(
            r#"{"channel":"a","key":"EUR/USD","tags":{"open":true,"bank":"ecb","price":1.50},"end":true}"#,
        )
        .unwrap();
        assert_eq!(event.key, "EUR/USD".parse().ok());
        let number = TagValue::Number(Number::new(1.5).unwrap());
        let tags =
            [("bank", TagValue::Text("ecb".into())), ("open", TagValue::Bool(true)), ("price", number)];
        assert!(event.tags.iter().eq(tags.iter().map(|(name, value)| (*name, value))));
        assert!(event.end && event.store);
        assert_eq!(event.data, Data::Nothing);
        let plain = one(r#"{"channel":"a","data":1,"tags":{},"end":false}"#).unwrap();
        assert_eq!((plain.key, plain.end), (None, false));
        assert!(plain.tags.is_empty());
    }

    #[test]
    fn retry_is_clamped() {
        let retry =
            |retry: &str| one(&format!(r#"{{"channel":"a","data":1,"retry":{retry}}}"#)).unwrap().retry;
        assert_eq!(retry("0"), Some(0));
        assert_eq!(retry("300001"), Some(300_000));
        assert_eq!(retry("99999999999999999999999"), Some(300_000));
    }

    #[test]
    fn bad_events_are_refused_with_what_is_wrong() {
        let targets = |n: usize| format!("[{}]", vec!["\"a\""; n].join(","));
        for (body, says) in [
            ("", "ends"),
            ("7", "an object"),
            ("null", "an object"),
            (r#"{"channel":"a","data":1}{}"#, "more after the end"),
            (r#"{"data":1}"#, "needs a target"),
            (r#"{"broadcast":false,"data":1}"#, "needs a target"),
            (r#"{"channels":[],"data":1}"#, "needs a target"),
            (r#"{"channel":"a"}"#, "\"data\""),
            (r#"{"channel":"a","data":1,"colour":"red"}"#, "\"colour\""),
            (r#"{"channel":"a","data":1,"data":2}"#, "\"data\" is there twice"),
            (r#"{"channel":"a","data":{"x":{"y":1,"y":2}}}"#, "\"y\" is there twice"),
            (r#"{"channel":7,"data":1}"#, "a string"),
            (r#"{"channel":"a//b","data":1}"#, "empty level"),
            (r#"{"channel":"$all","data":1}"#, "the hub's own"),
            (r#"{"channel":"$user/7","data":1}"#, "the hub's own"),
            (r#"{"channel":"a/*","data":1}"#, "'*'"),
            (r#"{"user":"","data":1}"#, "empty"),
            (r#"{"user":7,"data":1}"#, "a string"),
            (r#"{"channel":"a","event":"tidings:gap","data":1}"#, "tidings:"),
            (r#"{"channel":"a","event":"","data":1}"#, "message"),
            (r#"{"channel":"a","event":"a\nb","data":1}"#, "CR, LF or NUL"),
            (r#"{"channel":"a","data":1,"retry":-1}"#, "whole number"),
            (r#"{"channel":"a","data":1,"retry":1.5}"#, "whole number"),
            (r#"{"channel":"a","data":1,"ttl":0}"#, "\"ttl\""),
            (r#"{"channel":"a","data":1,"ttl":4294967296}"#, "\"ttl\""),
            (r#"{"channel":"a","data":1,"store":1}"#, "true or false"),
            (r#"{"channel":"a","data":1,"exclude_connection":"x"}"#, "32 hexadecimal"),
            (r#"{"channel":"a","data":1,"key":""}"#, "\"key\""),
            (r#"{"channel":"a","data":1,"tags":{"a":null}}"#, "the tag \"a\""),
            (r#"{"channel":"a","data":1,"end":true,"store":false}"#, "\"store\""),
            (r#"{"channel":"a","data":1,"idempotency_key":""}"#, "1 to 256 bytes"),
            (r#"{"channel":"a","data":1,"idempotency_key":7}"#, "a string"),
            (r#"[{"channel":"a","data":1,"idempotency_key":"k"}]"#, "Idempotency-Key"),
            (&format!(r#"{{"channels":{},"data":1}}"#, targets(101)), "100 targets"),
            (&format!(r#"{{"channels":{},"user":"7","data":1}}"#, targets(100)), "100 targets"),
            (&format!(r#"{{"channel":"a","data":"{}"}}"#, "x".repeat((1 << 20) + 1)), "1048577"),
        ] {
            let bad = one(body).expect_err(body);
            let shown: String = body.chars().take(100).collect();
            assert!(bad.to_string().contains(says), "{shown}: {bad}");
            assert!(!bad.kind().contains("colour") && !bad.kind().is_empty(), "{shown}: {}", bad.kind());
        }
        assert!(one(&format!(r#"{{"channels":{},"data":1}}"#, targets(100))).is_ok());
        assert!(one(&format!(r#"{{"channel":"a","data":"{}"}}"#, "x".repeat(1 << 20))).is_ok());
    }

    #[test]
    fn an_array_is_read_whole_or_refused_with_the_place() {
        let many = |body: &str| match publication(body.as_bytes(), &Rules::default()) {
            Ok(Publication::Many(events)) => Ok(events.len()),
            Ok(Publication::One(keyed)) => panic!("one: {keyed:?}"),
            Err(bad) => Err(bad),
        };
        let events = |n: usize| format!("[{}]", vec![r#"{"channel":"a","data":1}"#; n].join(","));
        assert_eq!(many("[]").unwrap(), 0);
        assert_eq!(many(&events(10_000)).unwrap(), 10_000);
        assert!(matches!(many(&events(10_001)).unwrap_err(), BadEvent::TooMany { max: 10_000 }));
        let bad = many(r#"[{"channel":"a","data":1},{"channel":"a","data":1,"x":1}]"#).unwrap_err();
        assert!(bad.to_string().starts_with("event 2 of the array"), "{bad}");
        assert!(bad.to_string().contains("\"x\""));
        assert_eq!(bad.kind(), "an unknown field");
    }

    #[test]
    fn user_id_is_a_user_where_it_may() {
        let rules = Rules { user_id: true, ..Rules::default() };
        let read = |body: &str| match publication(body.as_bytes(), &rules)? {
            Publication::One(Keyed { event, .. }) => Ok::<_, BadEvent>(event),
            Publication::Many(events) => panic!("an array: {events:?}"),
        };
        for (id, channel) in [
            ("\"ada\"", "$user/ada"),
            ("42", "$user/42"),
            ("18446744073709551616", "$user/18446744073709551616"),
        ] {
            let event = read(&format!(r#"{{"userId":{id},"event":"x","data":{{}}}}"#)).unwrap();
            assert_eq!(channels(&event), [channel]);
        }
        for id in ["-1", "1.5", "1e3", "null", "true", "[]", "\"\""] {
            assert!(read(&format!(r#"{{"userId":{id},"data":1}}"#)).is_err(), "{id}");
        }
        assert!(matches!(one(r#"{"userId":"7","data":1}"#), Err(BadEvent::UnknownField(_))));
        let mut draft = Draft::new(&rules);
        assert!(draft.parameter("userId", "7").unwrap());
    }

    #[test]
    fn keys_have_limits() {
        for good in ["k", " ", "ä\"'", &"x".repeat(256)] {
            assert!(good.parse::<IdempotencyKey>().is_ok(), "{good:?}");
        }
        for bad in ["", "a\nb", "a\u{7f}", "a\u{85}", &"x".repeat(257), &"ä".repeat(129)] {
            assert_eq!(bad.parse::<IdempotencyKey>(), Err(BadIdempotencyKey), "{bad:?}");
        }
    }

    #[test]
    fn a_query_says_the_same() {
        let rules = Rules::default();
        let mut draft = Draft::new(&rules);
        for (field, value) in [
            ("channel", "a"),
            ("channel", "b"),
            ("user", "7"),
            ("broadcast", "1"),
            ("event", "t"),
            ("retry", "99999999"),
            ("ttl", "60"),
            ("store", "0"),
            ("exclude_user", "8"),
            ("exclude_client", "tab"),
            ("exclude_connection", "0000000000000000000000000000feed"),
            ("idempotency_key", "k"),
            ("idempotency_key", "k"),
        ] {
            assert!(draft.parameter(field, value).unwrap(), "{field}");
        }
        assert!(!draft.parameter("receivers", "1").unwrap());
        for (field, value) in [
            ("store", "2"),
            ("ttl", "-1"),
            ("ttl", "0"),
            ("retry", ""),
            ("key", ""),
            ("event", ""),
            ("idempotency_key", "l"),
        ] {
            assert!(draft.parameter(field, value).is_err(), "{field}={value}");
        }
        draft.data("x".into()).unwrap();
        let Keyed { event, once } = draft.event().unwrap();
        assert_eq!(once, "k".parse().ok());
        assert_eq!(channels(&event), ["a", "b", "$user/7", "$all"]);
        assert_eq!((event.retry, event.ttl, event.store), (Some(300_000), Some(60), false));
    }
}
