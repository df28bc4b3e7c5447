//! Who is in a channel, as a stream says it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a stream says about who is in a channel (`tidings:presence`). A client keeps a set: a snapshot replaces it, who
/// joined is added, who left is taken out. A user may be named again who is in it already, or is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
#[non_exhaustive]
pub enum Presence {
    /// Who is there now. The first for each channel, after every reconnect too.
    Snapshot(Snapshot),
    /// Who came and who left since.
    Digest(Digest),
}

/// Who is in a channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Snapshot {
    /// The channel.
    pub channel: String,
    /// The streams that get what is sent there, those without a user too.
    pub connections: u64,
    /// The users, up to 100.
    pub users: Vec<Present>,
    /// Whether there are more users.
    #[serde(default)]
    pub truncated: bool,
}

/// Who came and left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Digest {
    /// The channel.
    pub channel: String,
    /// The streams that get what is sent there now.
    pub connections: u64,
    /// Who came, up to 100.
    #[serde(default)]
    pub joined: Vec<Present>,
    /// How many more came.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub joined_more: u64,
    /// Who left, up to 100.
    #[serde(default)]
    pub left: Vec<Present>,
    /// How many more left.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_more: u64,
}

/// Somebody who is there, came or left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Present {
    /// The user.
    pub user: String,
    /// The user's streams there, in a snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<u64>,
    /// What the user's token says in `info`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub info: Option<Value>,
}

impl Presence {
    /// The channel.
    pub fn channel(&self) -> &str {
        match self {
            Presence::Snapshot(snapshot) => &snapshot.channel,
            Presence::Digest(digest) => &digest.channel,
        }
    }
}

// By reference, as serde calls it.
fn is_zero(count: &u64) -> bool {
    *count == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_specification_are_read_and_written() {
        let text = r#"{"channel":"room/1","type":"snapshot","connections":3,"users":[{"user":"7","connections":2,"info":{"name":"Ada"}}],"truncated":false}"#;
        let presence: Presence = serde_json::from_str(text).unwrap();
        let written: Value = serde_json::to_value(&presence).unwrap();
        assert_eq!(written, serde_json::from_str::<Value>(text).unwrap());
        let Presence::Snapshot(snapshot) = presence else { panic!("it is a snapshot") };
        assert_eq!((snapshot.channel.as_str(), snapshot.connections), ("room/1", 3));
        assert_eq!(snapshot.users[0].info.as_ref().unwrap()["name"], "Ada");
        let text = r#"{"channel":"room/1","type":"digest","joined":[{"user":"8","info":{"name":"Bob"}}],"left":[{"user":"9"}],"left_more":4,"connections":3}"#;
        let presence: Presence = serde_json::from_str(text).unwrap();
        let written: Value = serde_json::to_value(&presence).unwrap();
        assert_eq!(written, serde_json::from_str::<Value>(text).unwrap());
        let Presence::Digest(digest) = presence else { panic!("it is a digest") };
        assert_eq!((digest.joined[0].user.as_str(), digest.left[0].user.as_str()), ("8", "9"));
        assert_eq!((digest.joined_more, digest.left_more), (0, 4));
        assert!(serde_json::from_str::<Presence>(r#"{"channel":"a","type":"rumour"}"#).is_err());
    }
}
