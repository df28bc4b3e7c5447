//! From what Redis hands over to events.

use sha2::{Digest, Sha256};
use tidings_hub::Timestamp;
use tidings_hub::log::Once;
use tidings_wire::publication::{self, BadEvent, Draft, IdempotencyKey, Keyed, Publication, Rules};
use tidings_wire::{Data, Event};

/// For how long it is remembered what was published under an idempotency key: as over HTTP.
const REMEMBERED: std::time::Duration = std::time::Duration::from_secs(5 * 60);

/// The field of a stream's entry that has all of the event, as JSON.
const JSON: &[u8] = b"json";

/// What one message publishes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// At least one, all of them stored or none.
    pub(crate) events: Vec<Event>,
    /// Under which key.
    pub(crate) key: Option<IdempotencyKey>,
}

/// Why a message is skipped, in words that quote nothing of it.
pub(crate) type Bad = &'static str;

impl Message {
    /// A message that is the JSON of `POST /publish`: an object, or an array of them.
    pub(crate) fn of_json(json: &[u8], rules: &Rules) -> Result<Message, Bad> {
        match publication::publication(json, rules) {
            Ok(Publication::One(keyed)) => Ok(keyed.into()),
            Ok(Publication::Many(events)) if events.is_empty() => Err("an empty array"),
            Ok(Publication::Many(events)) => Ok(Message { events, key: None }),
            Err(bad) => Err(bad.kind()),
        }
    }

    /// An entry of a stream: one field `json`, or fields as the parameters of `POST /publish` with the data as `data`.
    pub(crate) fn of_fields(fields: &[(Vec<u8>, Vec<u8>)], rules: &Rules) -> Result<Message, Bad> {
        if let [(name, json)] = fields
            && name == JSON
        {
            return Message::of_json(json, rules);
        }
        let mut draft = Draft::new(rules);
        for (name, value) in fields {
            let (Ok(name), Ok(value)) = (str::from_utf8(name), str::from_utf8(value)) else {
                return Err("not UTF-8");
            };
            let known = match name {
                "data" => draft.data(Data::from(value)).map(|()| true),
                name => draft.parameter(name, value),
            };
            match known {
                Ok(true) => {}
                Ok(false) => return Err(BadEvent::UnknownField(String::new()).kind()),
                Err(bad) => return Err(bad.kind()),
            }
        }
        draft.event().map(Message::from).map_err(|bad| bad.kind())
    }
}

impl From<Keyed> for Message {
    fn from(keyed: Keyed) -> Message {
        Message { events: vec![keyed.event], key: keyed.once }
    }
}

/// What the log is to remember of a message with an idempotency key. Whoever may write to this Redis is one publisher.
pub(crate) fn once<'a>(key: &IdempotencyKey, body: impl Iterator<Item = &'a [u8]>, now: Timestamp) -> Once {
    let mut name = Sha256::new();
    // No credential has a name like this.
    name.update(b"ingest/redis\0");
    name.update(key.as_str());
    let mut hash = Sha256::new();
    for part in body {
        // So that no part can be taken for a piece of another.
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    Once { key: name.finalize().into(), body: hash.finalize().into(), until: now.plus(REMEMBERED) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules { user_id: true, ..Rules::default() }
    }

    fn fields(fields: &[(&str, &str)]) -> Result<Message, Bad> {
        let fields: Vec<_> = fields
            .iter()
            .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
            .collect();
        Message::of_fields(&fields, &rules())
    }

    #[test]
    fn fields_say_what_json_says() {
        let json = Message::of_json(
            br#"{"userId":7,"channel":"a","event":"paid","data":"x","ttl":60,"idempotency_key":"k"}"#,
            &rules(),
        )
        .unwrap();
        assert_eq!(json.key, "k".parse().ok());
        let pairs = [
            ("userId", "7"),
            ("channel", "a"),
            ("event", "paid"),
            ("data", "x"),
            ("ttl", "60"),
            ("idempotency_key", "k"),
        ];
        assert_eq!(fields(&pairs).unwrap(), json);
        let many = fields(&[("json", r#"[{"channel":"a","data":1},{"broadcast":true,"data":2}]"#)]).unwrap();
        assert_eq!((many.events.len(), many.key), (2, None));
    }

    #[test]
    fn what_is_bad_is_said_without_a_word_of_it() {
        for bad in [
            Message::of_json(b"secret", &rules()),
            Message::of_json(b"[]", &rules()),
            Message::of_json(br#"{"channel":"a","data":1,"secret":1}"#, &rules()),
            Message::of_json(br#"{"channel":"secret//","data":1}"#, &rules()),
            Message::of_json(br#"[{"channel":"a","event":"secret\n","data":1}]"#, &rules()),
            Message::of_json(b"{\"channel\":\"\xff\",\"data\":1}", &rules()),
            fields(&[]),
            fields(&[("channel", "a"), ("secret", "1"), ("data", "x")]),
            fields(&[("channel", "a")]),
            fields(&[("data", "secret")]),
            fields(&[("channel", "a"), ("json", "{}")]),
            Message::of_fields(&[(b"data".to_vec(), vec![0xff])], &rules()),
        ] {
            let why = bad.expect_err("it is bad");
            assert!(!why.is_empty() && !why.contains("secret"), "{why}");
        }
    }

    #[test]
    fn a_key_is_of_one_body() {
        let key = |text: &str| text.parse().unwrap();
        let once = |name: &str, body: &[&[u8]]| once(&key(name), body.iter().copied(), Timestamp(1));
        assert_eq!(once("k", &[b"ab"]), once("k", &[b"ab"]));
        assert_eq!(once("k", &[b"ab"]).key, once("k", &[b"x"]).key);
        assert_ne!(once("k", &[b"ab"]).body, once("k", &[b"a", b"b"]).body);
        assert_ne!(once("k", &[b"ab"]).key, once("l", &[b"ab"]).key);
    }
}
