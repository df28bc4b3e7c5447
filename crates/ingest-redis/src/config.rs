//! What is read, from where, and within which limits.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use tidings_wire::publication::Rules;

use crate::RedisUrl;

/// What an [`Ingest`](crate::Ingest) needs to know.
#[derive(Debug, Clone)]
pub struct IngestConfig {
    /// Where Redis is.
    pub redis: RedisUrl,
    /// For TLS: the certificate of the authority that Redis's is signed by, in PEM; without it those of the system count.
    pub authority: Option<Vec<u8>>,
    /// The channels of Pub/Sub that are followed.
    pub topics: Vec<Topic>,
    /// The streams that are read.
    pub streams: Vec<StreamName>,
    /// What a message may say.
    pub rules: Rules,
    /// The longest message, in bytes. Default: 16 MiB, as of a request's body.
    pub message: usize,
    /// How many bytes may have been received and wait to be stored; what comes when it is full is lost. Default: 16 MiB.
    pub queue: usize,
    /// For how long the right to read is taken. A node that died is replaced after at most four thirds of it. Default:
    /// 6 s.
    pub lease: Duration,
    /// For how long a message of Pub/Sub is tried to be stored. Default: 5 s.
    pub patience: Duration,
}

impl IngestConfig {
    /// Nothing is read yet; everything else by default.
    pub fn new(redis: RedisUrl) -> IngestConfig {
        IngestConfig {
            redis,
            authority: None,
            topics: Vec::new(),
            streams: Vec::new(),
            rules: Rules { user_id: true, ..Rules::default() },
            message: 16 << 20,
            queue: 16 << 20,
            lease: Duration::from_secs(6),
            patience: Duration::from_secs(5),
        }
    }
}

/// The longest name of a channel or a stream, in bytes.
const LONGEST: usize = 512;

/// Channels of Pub/Sub: one, or all that match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topic {
    /// `SUBSCRIBE`
    Channel(String),
    /// `PSUBSCRIBE`: a name with `*`, `?` or `[…]`, each of which a backslash before it makes an ordinary character.
    Pattern(String),
}

/// Why the name of a channel or a stream is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a name has 1 to {LONGEST} bytes")]
pub struct BadTopic;

impl FromStr for Topic {
    type Err = BadTopic;

    fn from_str(text: &str) -> Result<Topic, BadTopic> {
        let text = named(text)?;
        Ok(if text.contains(['*', '?', '[', '\\']) { Topic::Pattern(text) } else { Topic::Channel(text) })
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Topic::Channel(text) | Topic::Pattern(text)) = self;
        f.write_str(text)
    }
}

/// The key of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamName(String);

impl FromStr for StreamName {
    type Err = BadTopic;

    fn from_str(text: &str) -> Result<StreamName, BadTopic> {
        named(text).map(StreamName)
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn named(text: &str) -> Result<String, BadTopic> {
    if (1..=LONGEST).contains(&text.len()) { Ok(text.to_owned()) } else { Err(BadTopic) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_makes_a_pattern() {
        for (text, pattern) in
            [("user:events", false), ("user:*", true), ("a?", true), ("[ab]", true), ("a\\*", true)]
        {
            assert_eq!(matches!(text.parse(), Ok(Topic::Pattern(_))), pattern, "{text}");
        }
        assert!("".parse::<Topic>().is_err() && "x".repeat(513).parse::<StreamName>().is_err());
    }
}
