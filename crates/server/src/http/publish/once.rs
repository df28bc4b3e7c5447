//! Idempotency keys: what is published under one is stored once, however often it is sent.

use std::time::Duration;

use http::HeaderMap;
use sha2::{Digest, Sha256};
use tidings_hub::Timestamp;
use tidings_hub::log::Once;
use tidings_wire::publication::{BadIdempotencyKey, IdempotencyKey};
use tidings_wire::{Data, Event, Exclude, TagValue};

use crate::Problem;
use crate::auth::Identity;

/// For how long it is remembered what was published under a key.
const REMEMBERED: Duration = Duration::from_secs(5 * 60);

/// The header `Idempotency-Key`, if it is there.
pub(super) fn of_header(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Problem> {
    let mut found = None;
    for value in headers.get_all("idempotency-key") {
        let text = std::str::from_utf8(value.as_bytes()).map_err(|_| BadIdempotencyKey);
        let key = text
            .and_then(str::parse)
            .map_err(|bad| Problem::bad_request(format!("the header \"Idempotency-Key\": {bad}")))?;
        found = same(found, Some(key))?;
    }
    Ok(found)
}

/// What the log is to remember: who publishes what under this key, and until when.
pub(super) fn once(key: &IdempotencyKey, publisher: &Identity, events: &[Event], now: Timestamp) -> Once {
    let mut name = Hasher(Sha256::new());
    publisher.name_as_publisher(|part| name.bytes(part));
    name.bytes(key.as_str().as_bytes());
    let mut body = Hasher(Sha256::new());
    events.iter().for_each(|event| body.event(event));
    Once { key: name.0.finalize().into(), body: body.0.finalize().into(), until: now.plus(REMEMBERED) }
}

/// The key of what may be named in two places.
pub(super) fn same(
    one: Option<IdempotencyKey>,
    other: Option<IdempotencyKey>,
) -> Result<Option<IdempotencyKey>, Problem> {
    match (one, other) {
        (Some(one), Some(other)) if one != other => {
            Err(Problem::bad_request("the idempotency key is given twice, with different values"))
        }
        (one, other) => Ok(one.or(other)),
    }
}

/// A hash over parts none of which can be taken for a piece of another: each has its length before it.
struct Hasher(Sha256);

impl Hasher {
    fn number(&mut self, number: u64) {
        self.0.update(number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn option<T>(&mut self, value: Option<T>, put: impl FnOnce(&mut Hasher, T)) {
        self.number(u64::from(value.is_some()));
        if let Some(value) = value {
            put(self, value);
        }
    }

    /// All fields: one that is added has to be put in here.
    fn event(&mut self, event: &Event) {
        let Event { to, event, data, retry, ttl, store, exclude, key, tags, end } = event;
        self.number(to.channels().len() as u64);
        to.channels().iter().for_each(|channel| self.text(channel.as_str()));
        self.text(event.as_str());
        self.number(match data {
            Data::Json(_) => 0,
            Data::Text(_) => 1,
            Data::Nothing => 2,
        });
        self.text(data.as_str());
        for number in [retry, ttl] {
            self.option(*number, |hasher, number| hasher.number(number.into()));
        }
        self.number(u64::from(*store));
        let Exclude { user, client, connection } = exclude;
        self.option(user.as_ref(), |hasher, user| hasher.text(user.as_str()));
        self.option(client.as_ref(), |hasher, client| hasher.text(client.as_str()));
        self.option(*connection, |hasher, connection| hasher.bytes(&connection.0.to_le_bytes()));
        self.option(key.as_ref(), |hasher, key| hasher.text(key.as_str()));
        self.number(tags.iter().count() as u64);
        for (name, value) in tags.iter() {
            self.text(name);
            match value {
                TagValue::Text(text) => {
                    self.number(0);
                    self.text(text);
                }
                TagValue::Number(number) => {
                    self.number(1);
                    self.number(number.get().to_bits());
                }
                TagValue::Bool(value) => self.number(2 + u64::from(*value)),
            }
        }
        self.number(u64::from(*end));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use tidings_wire::{Channel, ConnectionId, Number, Tags, Targets};

    use super::*;
    use crate::auth::GrantTemplates;

    fn user(id: &str) -> Identity {
        Identity::of_user(id.parse().unwrap(), &GrantTemplates::default())
    }

    fn key(text: &str) -> IdempotencyKey {
        text.parse().unwrap()
    }

    #[test]
    fn publishers_and_keys_are_told_apart() {
        let dev = Identity::dev();
        let names = [
            (user("7"), "k"),
            (user("8"), "k"),
            (user("7"), "l"),
            (user("7k"), "k"),
            (user("7"), "kk"),
            (dev, "k"),
        ];
        let keys: HashSet<_> =
            names.iter().map(|(who, name)| once(&key(name), who, &[], Timestamp(0)).key).collect();
        assert_eq!(keys.len(), names.len());
        let again = once(&key("k"), &user("7"), &[], Timestamp(9)).key;
        assert!(keys.contains(&again), "whenever it is");
    }

    #[test]
    fn every_field_counts() {
        let to =
            |names: &[&str]| Targets::new(names.iter().map(|name| name.parse::<Channel>().unwrap())).unwrap();
        let event = || Event::new(to(&["a"]), "x".into());
        let exclude = |exclude| Event { exclude, ..event() };
        let tagged = |value| Event { tags: Tags::new([("t".into(), value)]).unwrap(), ..event() };
        let bodies: Vec<Vec<Event>> = vec![
            vec![],
            vec![event()],
            vec![event(), event()],
            vec![Event::new(to(&["b"]), "x".into())],
            vec![Event::new(to(&["a", "b"]), "x".into())],
            vec![Event::new(to(&["a"]), "y".into())],
            vec![Event::new(to(&["a"]), Data::Json("x".into()))],
            vec![Event { event: "t".parse().unwrap(), ..event() }],
            vec![Event { data: Data::Nothing, end: true, ..event() }],
            vec![Event { retry: Some(0), ..event() }],
            vec![Event { ttl: Some(0), ..event() }],
            vec![Event { store: false, ..event() }],
            vec![exclude(Exclude { user: Some("7".parse().unwrap()), ..Exclude::default() })],
            vec![exclude(Exclude { client: Some("7".parse().unwrap()), ..Exclude::default() })],
            vec![exclude(Exclude { connection: Some(ConnectionId(7)), ..Exclude::default() })],
            vec![Event { key: Some("7".parse().unwrap()), ..event() }],
            vec![tagged(TagValue::Text("1".into()))],
            vec![tagged(TagValue::Number(Number::new(1.0).unwrap()))],
            vec![tagged(TagValue::Bool(false))],
            vec![tagged(TagValue::Bool(true))],
            vec![Event { end: true, ..event() }],
        ];
        let hashes: HashSet<_> =
            bodies.iter().map(|events| once(&key("k"), &user("7"), events, Timestamp(0)).body).collect();
        assert_eq!(hashes.len(), bodies.len());
    }
}
