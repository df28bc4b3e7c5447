//! What subscribers choose events by: the conflation key and the tags.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest conflation key, in bytes.
const LONGEST_KEY: usize = 256;
/// The longest name of a tag, in bytes.
const LONGEST_TAG: usize = 64;
/// The longest text that a tag may have for its value, in bytes.
const LONGEST_VALUE: usize = 256;

/// What an event is the newest state of, within its channel: 1–256 bytes without control characters.
///
/// Who is behind, or comes late, needs only the newest event of each key.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Arc<str>);

/// Why a conflation key is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// It has no byte.
    #[error("a key may not be empty; leave it out for an event that stands for itself")]
    Empty,
    /// It is longer than allowed.
    #[error("a key may have {LONGEST_KEY} bytes, this one has {0}")]
    TooLong(usize),
    /// It has a control character.
    #[error("a key may not contain the character {0:?}")]
    Character(char),
}

impl Key {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Key {
    type Err = BadKey;

    fn from_str(key: &str) -> Result<Key, BadKey> {
        match key {
            "" => Err(BadKey::Empty),
            key if key.len() > LONGEST_KEY => Err(BadKey::TooLong(key.len())),
            key => match key.chars().find(|c| c.is_control()) {
                Some(character) => Err(BadKey::Character(character)),
                None => Ok(Key(key.into())),
            },
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:?})", self.as_str())
    }
}

/// What filters look at: up to 32 named values, in the order of their names. Most events have none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tags(Option<Arc<[Tag]>>);

/// A name, and its value.
type Tag = (Box<str>, TagValue);

/// The value of a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TagValue {
    /// A text of up to 256 bytes.
    Text(Box<str>),
    /// A finite number.
    Number(Number),
    /// True or false.
    Bool(bool),
}

impl From<&str> for TagValue {
    fn from(text: &str) -> TagValue {
        TagValue::Text(text.into())
    }
}

impl From<i32> for TagValue {
    fn from(number: i32) -> TagValue {
        TagValue::Number(Number(number.into()))
    }
}

impl From<bool> for TagValue {
    fn from(value: bool) -> TagValue {
        TagValue::Bool(value)
    }
}

/// A finite number, in double precision.
#[derive(Debug, Clone, Copy)]
pub struct Number(f64);

impl Number {
    /// The number, unless it is infinite or none at all.
    pub fn new(value: f64) -> Option<Number> {
        // There is one zero.
        value.is_finite().then_some(Number(if value == 0.0 { 0.0 } else { value }))
    }

    /// Its value.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Number) -> bool {
        self.0 == other.0
    }
}

// Of finite numbers each is equal to itself.
impl Eq for Number {}

/// Why tags are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTags {
    /// There are too many.
    #[error("an event may have {max} tags, this one has {0}", max = Tags::MAX)]
    TooMany(usize),
    /// A name is empty, too long, or has a control character.
    #[error("the name of a tag has 1 to {LONGEST_TAG} bytes and no control characters, not {0:?}")]
    Name(Box<str>),
    /// A name is there twice.
    #[error("the tag {0:?} is there twice")]
    Twice(Box<str>),
    /// A text is too long.
    #[error("a tag may have {LONGEST_VALUE} bytes, {name:?} has {len}")]
    ValueTooLong {
        /// The tag's name.
        name: Box<str>,
        /// How many bytes it has.
        len: usize,
    },
}

impl Tags {
    /// How many tags an event may have.
    pub const MAX: usize = 32;

    /// Tags from a list, in any order.
    ///
    /// # Errors
    /// When there are too many, or one is not as it has to be.
    pub fn new(tags: impl IntoIterator<Item = (Box<str>, TagValue)>) -> Result<Tags, BadTags> {
        let mut all: Vec<Tag> = Vec::new();
        for (at, (name, value)) in tags.into_iter().enumerate() {
            if at >= Tags::MAX {
                return Err(BadTags::TooMany(at + 1));
            }
            if name.is_empty() || name.len() > LONGEST_TAG || name.contains(char::is_control) {
                return Err(BadTags::Name(name.chars().take(LONGEST_TAG).collect::<String>().into()));
            }
            if let TagValue::Text(text) = &value
                && text.len() > LONGEST_VALUE
            {
                return Err(BadTags::ValueTooLong { len: text.len(), name });
            }
            match all.binary_search_by(|(other, _)| other.cmp(&name)) {
                Ok(_) => return Err(BadTags::Twice(name)),
                Err(place) => all.insert(place, (name, value)),
            }
        }
        Ok(Tags((!all.is_empty()).then(|| all.into())))
    }

    /// The value of a tag.
    pub fn get(&self, name: &str) -> Option<&TagValue> {
        let tags = self.0.as_deref()?;
        let at = tags.binary_search_by(|(other, _)| (**other).cmp(name)).ok()?;
        Some(&tags[at].1)
    }

    /// All of them, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &TagValue)> {
        self.0.as_deref().unwrap_or_default().iter().map(|(name, value)| (&**name, value))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_checked() {
        assert_eq!("pairs/EUR USD".parse::<Key>().unwrap().as_str(), "pairs/EUR USD");
        assert_eq!("".parse::<Key>(), Err(BadKey::Empty));
        assert_eq!("a\nb".parse::<Key>(), Err(BadKey::Character('\n')));
        assert_eq!("x".repeat(257).parse::<Key>(), Err(BadKey::TooLong(257)));
    }

    #[test]
    fn tags_are_checked_and_found_by_name() {
        let tag = |name: &str, value: f64| (name.into(), TagValue::Number(Number::new(value).unwrap()));
        let tags = Tags::new([tag("b", 1.0), tag("a", -0.0)]).unwrap();
        assert_eq!(tags.get("a"), Some(&TagValue::Number(Number::new(0.0).unwrap())));
        assert_eq!(tags.get("c"), None);
        assert_eq!(tags.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["a", "b"]);
        assert!(Tags::new([]).unwrap().is_empty());
        assert_eq!(Tags::new([tag("a", 1.0), tag("a", 2.0)]), Err(BadTags::Twice("a".into())));
        assert_eq!(Tags::new([tag("", 1.0)]), Err(BadTags::Name("".into())));
        assert_eq!(Tags::new((0..33).map(|n| tag(&n.to_string(), 1.0))), Err(BadTags::TooMany(33)));
        let long = ("t".into(), TagValue::Text("x".repeat(257).into()));
        assert_eq!(Tags::new([long]), Err(BadTags::ValueTooLong { name: "t".into(), len: 257 }));
        assert_eq!(Number::new(f64::INFINITY), None);
    }
}
