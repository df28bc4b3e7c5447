//! What those who watch are told, as JSON in one block.

use std::fmt::Write;

use tidings_hub::{Digest, Info, Present, Roll, Timestamp};
use tidings_wire::{Channel, UserId};

/// How many bytes the users of one digest take each way; more are counted. All who watch a channel are told it at once.
const DIGEST: usize = 16 << 10;

/// A digest on its way to the streams of a channel.
#[derive(Debug)]
pub(crate) struct Notice {
    pub(crate) channel: Channel,
    /// The data of the event.
    pub(crate) text: String,
}

impl Notice {
    pub(super) fn new(digest: &Digest) -> Notice {
        let Digest { channel, joined, joined_more, left, left_more, connections, .. } = digest;
        let mut text = begin(channel, "digest");
        text.push_str(",\"joined\":[");
        let listed =
            list(&mut text, DIGEST, joined, |text, (who, info)| user(text, who, None, info.as_ref()));
        let joined_more = joined_more + (joined.len() - listed) as u64;
        text.push_str("],\"left\":[");
        let listed = list(&mut text, DIGEST, left, |text, who| user(text, who, None, None));
        let left_more = left_more + (left.len() - listed) as u64;
        text.push(']');
        for (name, more) in [("joined_more", joined_more), ("left_more", left_more)] {
            if more > 0 {
                // Writing to a string can't fail.
                let _ = write!(text, ",\"{name}\":{more}");
            }
        }
        let _ = write!(text, ",\"connections\":{connections}}}");
        Notice { channel: channel.clone(), text }
    }
}

/// Who is in a channel, in as many bytes of users as that.
pub(super) fn snapshot(channel: &Channel, roll: &Roll, budget: usize) -> String {
    let mut text = begin(channel, "snapshot");
    let _ = write!(text, ",\"connections\":{},\"users\":[", roll.connections);
    let listed = list(&mut text, budget, &roll.users, |text, present| {
        let Present { user: who, connections, info } = present;
        user(text, who, Some(*connections), info.as_ref());
    });
    let truncated = roll.truncated || listed < roll.users.len();
    let _ = write!(text, "],\"truncated\":{truncated}}}");
    text
}

/// The data of somebody's coming or going.
pub(super) fn transition(user: &UserId, at: Timestamp) -> String {
    let mut text = String::from("{\"user\":");
    string(&mut text, user.as_str());
    let _ = write!(text, ",\"at\":{}}}", at.0);
    text
}

fn begin(channel: &Channel, kind: &str) -> String {
    let mut text = String::with_capacity(256);
    text.push_str("{\"channel\":");
    string(&mut text, channel.as_str());
    let _ = write!(text, ",\"type\":\"{kind}\"");
    text
}

/// As many of the items as there is room for; how many those are.
fn list<T>(text: &mut String, room: usize, items: &[T], mut item: impl FnMut(&mut String, &T)) -> usize {
    let end = text.len() + room;
    for (at, one) in items.iter().enumerate() {
        let before = text.len();
        if at > 0 {
            text.push(',');
        }
        item(text, one);
        if text.len() > end {
            text.truncate(before);
            return at;
        }
    }
    items.len()
}

fn user(text: &mut String, user: &UserId, connections: Option<u32>, info: Option<&Info>) {
    text.push_str("{\"user\":");
    string(text, user.as_str());
    if let Some(connections) = connections {
        let _ = write!(text, ",\"connections\":{connections}");
    }
    if let Some(info) = info {
        // It was JSON in the token.
        let _ = write!(text, ",\"info\":{info}");
    }
    text.push('}');
}

fn string(text: &mut String, value: &str) {
    // A string is always good JSON; `Display` of a value writes it without a line end.
    let _ = write!(text, "{}", serde_json::Value::from(value));
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn who(id: &str) -> UserId {
        id.parse().unwrap()
    }

    fn parsed(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_digest_says_who_came_and_who_left() {
        let mut digest = Digest {
            channel: "a\"b".parse().unwrap(),
            joined: vec![(who("7"), Some("{\"n\": 1}".into())), (who("\"8\""), None)],
            joined_more: 0,
            left: vec![who("9")],
            left_more: 3,
            connections: 12,
            parts: vec![0],
        };
        let text = Notice::new(&digest).text;
        assert_eq!(
            parsed(&text),
            json!({
                "channel": "a\"b",
                "type": "digest",
                "joined": [{"user": "7", "info": {"n": 1}}, {"user": "\"8\""}],
                "left": [{"user": "9"}],
                "left_more": 3,
                "connections": 12,
            })
        );
        assert!(!text.contains('\n'));
        digest.left = (0..100).map(|n| who(&format!("{n}{}", "x".repeat(250)))).collect();
        let text = Notice::new(&digest).text;
        let (listed, more) = (parsed(&text)["left"].as_array().unwrap().len(), &parsed(&text)["left_more"]);
        assert!(listed > 50 && text.len() < 2 * DIGEST, "{listed}");
        assert_eq!(more.as_u64().unwrap(), 103 - listed as u64);
    }

    #[test]
    fn a_snapshot_has_as_many_users_as_fit() {
        let user = |id: &str| Present { user: who(id), connections: 2, info: Some("{}".into()) };
        let roll = Roll { connections: 5, users: vec![user("7"), user("8")], truncated: false };
        let channel = "a".parse().unwrap();
        let users =
            json!([{"user": "7", "connections": 2, "info": {}}, {"user": "8", "connections": 2, "info": {}}]);
        assert_eq!(
            parsed(&snapshot(&channel, &roll, 1000)),
            json!({"channel": "a", "type": "snapshot", "connections": 5, "users": users, "truncated": false})
        );
        let short = parsed(&snapshot(&channel, &roll, 50));
        assert_eq!((short["users"].as_array().unwrap().len(), &short["truncated"]), (1, &Value::Bool(true)));
        assert_eq!(parsed(&snapshot(&channel, &roll, 0))["users"], json!([]));
    }
}
