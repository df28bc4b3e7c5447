//! Which events of its channels a subscriber wants: a condition over their tags, written in a subset of CEL.
//!
//! A filter is read once, when a subscriber comes, and asked for every event that it might get: asking allocates nothing. It
//! is a tree with two values, true and false. CEL would call a missing tag an error and give it a rule for every operator;
//! here a comparison with what is not there is false, and all else follows.

mod expression;
mod intern;
mod parse;
#[cfg(test)]
mod tests;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use tidings_wire::Tags;

use self::expression::Expression;
pub use self::intern::Filters;

/// A condition over an event's tags, as in `priority > 3 && region in ["eu", "us"]`.
///
/// Two are equal when they say the same in normal form, which [`Display`](fmt::Display) shows: spaces, quotes,
/// superfluous parentheses and the ways to name a tag make no difference.
#[derive(Clone)]
pub struct Filter {
    /// In normal form.
    text: Box<str>,
    expression: Expression,
}

impl Filter {
    /// The longest text of a filter, in bytes.
    pub const LONGEST: usize = 1024;
    /// How deep parentheses and negations may be nested.
    pub const DEEPEST: usize = 32;
    /// How many conditions there may be, the elements of lists among them.
    pub const MOST_TERMS: usize = 100;

    /// Whether an event with these tags is wanted.
    pub fn matches(&self, tags: &Tags) -> bool {
        self.expression.matches(tags)
    }

    /// Its text in normal form.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for Filter {
    type Err = BadFilter;

    fn from_str(text: &str) -> Result<Filter, BadFilter> {
        let expression = parse::parse(text)?;
        Ok(Filter { text: expression.to_string().into(), expression })
    }
}

impl PartialEq for Filter {
    fn eq(&self, other: &Filter) -> bool {
        self.text == other.text
    }
}

impl Eq for Filter {}

impl Hash for Filter {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filter({:?})", self.text)
    }
}

/// Why a text is no filter, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {wrong}")]
pub struct BadFilter {
    /// The character that can't stand where it does, counted from 1; one past the last when something is missing at the
    /// end.
    pub column: usize,
    /// What is wrong there.
    pub wrong: Wrong,
}

/// What is wrong with a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// Something else should be there.
    #[error("expected {0}")]
    Expected(&'static str),
    /// A text begins that does not end.
    #[error("this text has no closing quote")]
    Unclosed,
    /// A backslash and what is none of CEL's escapes.
    #[error(
        "a backslash is followed by one of abfnrtv, a quote, a backslash, xHH, uHHHH, UHHHHHHHH or three octal digits"
    )]
    Escape,
    /// A number that is none, or too large for double precision.
    #[error("this is no finite decimal number")]
    Number,
    /// A word that CEL keeps for itself stands for a tag.
    #[error("this word can't be the name of a tag; write tags[\"…\"] for a tag of that name")]
    Reserved,
    /// `!a == b` is `(!a) == b` in CEL, which nobody means.
    #[error("\"!\" binds tighter than a comparison; write !(…)")]
    Negation,
    /// It is too long.
    #[error("a filter may have {} bytes", Filter::LONGEST)]
    TooLong,
    /// It is nested too deep.
    #[error("a filter may be nested {} deep", Filter::DEEPEST)]
    TooDeep,
    /// There is too much in it.
    #[error("a filter may have {} conditions, the elements of lists among them", Filter::MOST_TERMS)]
    TooMany,
}
