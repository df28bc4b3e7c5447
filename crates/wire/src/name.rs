//! Names: channels, patterns over channels, users and clients. Each is checked once, when it is made.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest channel or pattern, in bytes.
const LONGEST_NAME: usize = 1024;
/// The longest id of a user, in bytes, before it is written as one level of a channel.
const LONGEST_USER: usize = 256;
/// The longest id that a client may choose for itself, in bytes.
const LONGEST_CLIENT: usize = 64;

/// Why a name is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// It has no byte.
    #[error("it is empty")]
    Empty,
    /// It is longer than allowed.
    #[error("it has {len} bytes, {max} are allowed")]
    TooLong {
        /// How long it is, in bytes.
        len: usize,
        /// How long it may be, in bytes.
        max: usize,
    },
    /// Two slashes in a row, or one at an end.
    #[error("it has an empty level (a slash at an end, or two in a row)")]
    EmptyLevel,
    /// A level is `.` or `..`.
    #[error("a level may not be \".\" or \"..\"")]
    DotLevel,
    /// A character that no name may have.
    #[error("it contains the character {0:?}, which is not allowed")]
    Character(char),
    /// A level begins with `$`, which is the hub's own.
    #[error("a level may not begin with \"$\": such names are the hub's own")]
    Reserved,
    /// `**` stands before the end of a pattern.
    #[error("\"**\" may only be the last level")]
    InnerRest,
    /// A `*` stands beside other characters in its level.
    #[error("\"*\" stands for a whole level and can't be a part of one")]
    PartialWildcard,
}

/// The name of a channel: 1–1,024 bytes of UTF-8, levels split by `/`.
///
/// [`Channel::from_str`] makes what publishers and subscribers may name. The hub's own channels, whose first level
/// begins with `$`, are only made by [`Channel::user`], [`Channel::all`], [`Channel::presence`] and, from storage,
/// [`Channel::stored`].
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Channel(Arc<str>);

impl Channel {
    /// The channel of what is sent to one user: `$user/<id>`, the id as one literal level.
    pub fn user(user: &UserId) -> Channel {
        Channel(format!("$user/{}", user.as_level()).into())
    }

    /// The channel of what is sent to everybody: `$all`.
    pub fn all() -> Channel {
        Channel("$all".into())
    }

    /// The channel of users' comings and goings: `$presence`.
    pub fn presence() -> Channel {
        Channel("$presence".into())
    }

    /// The channel of what a node does: `$stats`.
    pub fn stats() -> Channel {
        Channel("$stats".into())
    }

    /// A channel as it was written by a log, the hub's own channels included.
    ///
    /// # Errors
    /// When the name is neither a public channel nor one of the hub's own.
    pub fn stored(name: &str) -> Result<Channel, BadName> {
        check_length(name, LONGEST_NAME + LONGEST_USER * 3)?;
        let mut levels = name.split('/');
        let first = levels.next().unwrap_or_default();
        match first.strip_prefix('$') {
            Some("") => return Err(BadName::Reserved),
            Some(_) => {}
            None => check_literal(first)?,
        }
        levels.try_for_each(check_literal)?;
        Ok(Channel(name.into()))
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is one of the hub's own channels (`$user/…`, `$all`, `$presence`, `$stats`).
    pub fn is_system(&self) -> bool {
        self.0.starts_with('$')
    }
}

impl FromStr for Channel {
    type Err = BadName;

    fn from_str(name: &str) -> Result<Channel, BadName> {
        check_length(name, LONGEST_NAME)?;
        name.split('/').try_for_each(check_literal)?;
        Ok(Channel(name.into()))
    }
}

impl Borrow<str> for Channel {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Channel({:?})", self.0)
    }
}

/// A set of channels: a channel's name in which a level may be `*` (any one level) and the last one `**` (one level
/// or more, whatever they are).
///
/// A wildcard never matches a level that begins with `$`; such levels match only when a pattern names them, as in
/// `$user/*`. A pattern without a wildcard is exactly one channel.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pattern(Arc<str>);

impl Pattern {
    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The levels from first to last, wildcards as `*` and `**`.
    pub fn levels(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// The one channel that this pattern names, if it has no wildcard.
    pub fn exact(&self) -> Option<Channel> {
        (!self.levels().any(is_wildcard)).then(|| Channel(self.0.clone()))
    }

    /// Whether the pattern's first level begins with `$`, so that it names channels of the hub's own.
    pub fn is_system(&self) -> bool {
        self.0.starts_with('$')
    }

    /// Whether `channel` is in the set.
    pub fn matches(&self, channel: &Channel) -> bool {
        self.covers_levels(channel.as_str())
    }

    /// Whether every channel of `other` is in this set too.
    pub fn covers(&self, other: &Pattern) -> bool {
        self.covers_levels(&other.0)
    }

    /// A channel is the pattern without wildcards that names it, so that one walk answers both questions.
    fn covers_levels(&self, other: &str) -> bool {
        let mut others = other.split('/');
        for mine in self.levels() {
            match (mine, others.next()) {
                (_, None) => return false,
                ("**", Some(theirs)) => {
                    return !theirs.starts_with('$') && others.all(|level| !level.starts_with('$'));
                }
                ("*", Some(theirs)) => {
                    if theirs == "**" || theirs.starts_with('$') {
                        return false;
                    }
                }
                (mine, Some(theirs)) => {
                    if mine != theirs {
                        return false;
                    }
                }
            }
        }
        others.next().is_none()
    }
}

impl FromStr for Pattern {
    type Err = BadName;

    /// Only the first level may begin with `$`, and only with more than that after it.
    fn from_str(text: &str) -> Result<Pattern, BadName> {
        check_length(text, LONGEST_NAME + LONGEST_USER * 3)?;
        let mut levels = text.split('/').peekable();
        let mut first = true;
        while let Some(level) = levels.next() {
            match level {
                "**" if levels.peek().is_some() => return Err(BadName::InnerRest),
                "*" | "**" => {}
                level if first && level.len() > 1 && level.starts_with('$') => check_characters(level)?,
                level if level.contains('*') => return Err(BadName::PartialWildcard),
                level => check_literal(level)?,
            }
            first = false;
        }
        Ok(Pattern(text.into()))
    }
}

impl From<&Channel> for Pattern {
    fn from(channel: &Channel) -> Pattern {
        Pattern(channel.0.clone())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({:?})", self.0)
    }
}

/// The id of a user, as a token's `sub` says it: 1–256 bytes of UTF-8 without control characters.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(Arc<str>);

impl UserId {
    /// The id as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id as one literal level of a channel or pattern: what would mean something there (`/`, `*`, `{`, `}`, `%`,
    /// a leading `$`, a level of dots) is percent-encoded, so that no id can widen a grant.
    pub fn as_level(&self) -> String {
        let dots = matches!(&*self.0, "." | "..");
        let mut level = String::with_capacity(self.0.len());
        for (at, c) in self.0.char_indices() {
            let means_something =
                matches!(c, '/' | '*' | '{' | '}' | '%') || (c == '$' && at == 0) || (c == '.' && dots);
            if means_something {
                level.push_str(&format!("%{:02X}", u32::from(c)));
            } else {
                level.push(c);
            }
        }
        level
    }
}

impl FromStr for UserId {
    type Err = BadName;

    fn from_str(id: &str) -> Result<UserId, BadName> {
        check_length(id, LONGEST_USER)?;
        check_characters(id)?;
        Ok(UserId(id.into()))
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserId({:?})", self.0)
    }
}

/// An id that a client chose for itself and keeps over reconnects: 1–64 bytes of UTF-8 without control characters.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(Arc<str>);

impl ClientId {
    /// The id as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClientId {
    type Err = BadName;

    fn from_str(id: &str) -> Result<ClientId, BadName> {
        check_length(id, LONGEST_CLIENT)?;
        check_characters(id)?;
        Ok(ClientId(id.into()))
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientId({:?})", self.0)
    }
}

fn is_wildcard(level: &str) -> bool {
    level == "*" || level == "**"
}

fn check_length(text: &str, max: usize) -> Result<(), BadName> {
    match text.len() {
        0 => Err(BadName::Empty),
        len if len > max => Err(BadName::TooLong { len, max }),
        _ => Ok(()),
    }
}

fn check_characters(text: &str) -> Result<(), BadName> {
    text.chars().find(|c| c.is_control()).map_or(Ok(()), |c| Err(BadName::Character(c)))
}

/// One level of a channel's name.
fn check_literal(level: &str) -> Result<(), BadName> {
    match level {
        "" => return Err(BadName::EmptyLevel),
        "." | ".." => return Err(BadName::DotLevel),
        level if level.starts_with('$') => return Err(BadName::Reserved),
        _ => {}
    }
    match level.chars().find(|c| c.is_control() || matches!(c, '*' | '{' | '}')) {
        Some(c) => Err(BadName::Character(c)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        text.parse().unwrap()
    }

    #[test]
    fn channels_are_checked() {
        for good in ["a", "a/b", "ä/β", "a.b", "a b", "a$b", "...", &"x".repeat(1024)] {
            assert_eq!(good.parse::<Channel>().map(|c| c.as_str().to_owned()), Ok(good.to_owned()));
        }
        let bad = [
            ("", BadName::Empty),
            ("/a", BadName::EmptyLevel),
            ("a/", BadName::EmptyLevel),
            ("a//b", BadName::EmptyLevel),
            ("a/./b", BadName::DotLevel),
            ("..", BadName::DotLevel),
            ("a/*", BadName::Character('*')),
            ("a{b", BadName::Character('{')),
            ("a\nb", BadName::Character('\n')),
            ("a\u{85}b", BadName::Character('\u{85}')),
            ("$all", BadName::Reserved),
            ("a/$b", BadName::Reserved),
        ];
        for (name, error) in bad {
            assert_eq!(name.parse::<Channel>(), Err(error), "{name:?}");
        }
        assert_eq!("x".repeat(1025).parse::<Channel>(), Err(BadName::TooLong { len: 1025, max: 1024 }));
    }

    #[test]
    fn patterns_match_by_level_and_never_a_system_level() {
        let all = ["a", "a/b", "a/b/c", "b", "b/b"];
        let check = |text: &str, expected: &[&str]| {
            let matched: Vec<_> =
                all.iter().filter(|c| pattern(text).matches(&c.parse().unwrap())).copied().collect();
            assert_eq!(matched, expected, "{text}");
        };
        check("a", &["a"]);
        check("*", &["a", "b"]);
        check("**", &all);
        check("a/*", &["a/b"]);
        check("a/**", &["a/b", "a/b/c"]);
        check("*/b", &["a/b", "b/b"]);
        check("*/b/**", &["a/b/c"]);
        let user: UserId = "7".parse().unwrap();
        for wide in ["**", "*", "*/*"] {
            assert!(!pattern(wide).matches(&Channel::user(&user)), "{wide}");
            assert!(!pattern(wide).matches(&Channel::all()), "{wide}");
        }
        assert!(pattern("$user/*").matches(&Channel::user(&user)));
    }

    #[test]
    fn a_pattern_covers_what_lies_within_it() {
        for (grant, asked) in [("a/**", "a/*"), ("a/**", "a/b/**"), ("**", "**"), ("*", "a"), ("a/*", "a/*")]
        {
            assert!(pattern(grant).covers(&pattern(asked)), "{grant} covers {asked}");
        }
        for (grant, asked) in [
            ("a/*", "a/**"),
            ("a", "*"),
            ("*", "**"),
            ("**", "$user/*"),
            ("**", "$all"),
            ("a/**", "a"),
            ("$user/a", "$user/*"),
        ] {
            assert!(!pattern(grant).covers(&pattern(asked)), "{grant} does not cover {asked}");
        }
    }

    #[test]
    fn bad_patterns_are_refused() {
        for (text, error) in [
            ("**/a", BadName::InnerRest),
            ("a*", BadName::PartialWildcard),
            ("a/***", BadName::PartialWildcard),
            ("a//b", BadName::EmptyLevel),
            ("a/$b", BadName::Reserved),
            ("$", BadName::Reserved),
        ] {
            assert_eq!(text.parse::<Pattern>(), Err(error), "{text:?}");
        }
    }

    #[test]
    fn no_user_id_widens_a_channel() {
        for (id, level) in [
            ("*", "%2A"),
            ("**", "%2A%2A"),
            ("a/b", "a%2Fb"),
            ("{sub}", "%7Bsub%7D"),
            ("..", "%2E%2E"),
            ("$all", "%24all"),
            ("a%2Fb", "a%252Fb"),
            ("plain", "plain"),
        ] {
            let user: UserId = id.parse().unwrap();
            assert_eq!(user.as_level(), level);
            let channel = Channel::user(&user);
            assert_eq!(Channel::stored(channel.as_str()), Ok(channel.clone()));
            assert_eq!(Pattern::from(&channel).exact(), Some(channel));
        }
    }
}
