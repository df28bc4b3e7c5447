//! What a log keeps, by channel.

use std::time::Duration;

use tidings_wire::{Channel, Pattern};

/// How much is kept of one channel. A cap that is absent does not limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Caps {
    /// For how long, counted from when an event was published.
    pub age: Option<Duration>,
    /// How many events.
    pub count: Option<u64>,
    /// How many bytes of data.
    pub bytes: Option<u64>,
    /// Whether only the newest event of each key is kept. Events without a key are kept as ever.
    pub state_only: bool,
}

/// The rules of retention: for a channel the first that matches, and the default for all others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retention {
    /// Rules by pattern. `$user/*` and `$all` match what is sent to users and to everybody.
    pub rules: Vec<(Pattern, Caps)>,
    /// For channels that no rule matches, the hub's own ones included.
    pub default: Caps,
    /// Over all channels.
    pub total: Caps,
}

impl Retention {
    /// The caps of one channel.
    pub fn caps(&self, channel: &Channel) -> Caps {
        self.rules
            .iter()
            .find(|(pattern, _)| pattern.matches(channel))
            .map_or(self.default, |(_, caps)| *caps)
    }
}
