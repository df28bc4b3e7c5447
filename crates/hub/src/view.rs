//! What a subscriber follows.

use std::str::FromStr;

use tidings_wire::{BadName, Channel, Pattern};

/// One channel, or all that match a pattern.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum View {
    /// Exactly this channel.
    Channel(Channel),
    /// Every channel that matches.
    Pattern(Pattern),
}

impl View {
    /// Whether the view shows a channel.
    pub fn shows(&self, channel: &Channel) -> bool {
        match self {
            View::Channel(mine) => mine == channel,
            View::Pattern(pattern) => pattern.matches(channel),
        }
    }

    /// Whether it shows channels of the hub's own.
    pub fn is_system(&self) -> bool {
        self.as_str().starts_with('$')
    }

    /// Whether every stream of its kind has it, asked for or not: what is sent to all, or to its user.
    pub fn is_implicit(&self) -> bool {
        let name = self.as_str();
        name == "$all" || name.starts_with("$user/")
    }

    /// What the names of all channels begin with that the view shows.
    pub fn literal_begin(&self) -> &str {
        match self {
            View::Channel(channel) => channel.as_str(),
            View::Pattern(pattern) => pattern.as_str().split('*').next().unwrap_or_default(),
        }
    }

    /// The channel's or pattern's text.
    pub fn as_str(&self) -> &str {
        match self {
            View::Channel(channel) => channel.as_str(),
            View::Pattern(pattern) => pattern.as_str(),
        }
    }
}

impl From<Pattern> for View {
    /// A pattern without a wildcard is the channel it names.
    fn from(pattern: Pattern) -> View {
        pattern.exact().map_or(View::Pattern(pattern), View::Channel)
    }
}

impl From<Channel> for View {
    fn from(channel: Channel) -> View {
        View::Channel(channel)
    }
}

impl FromStr for View {
    type Err = BadName;

    fn from_str(text: &str) -> Result<View, BadName> {
        text.parse::<Pattern>().map(View::from)
    }
}
