//! What a filter says, as a tree; its answer for an event, and its text.

use std::cmp::Ordering;
use std::fmt;

use tidings_wire::{TagValue, Tags};

use super::parse;

/// A condition. Neither of the lists has an element of its own kind: `a && (b && c)` is one list of three.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expression {
    Any(Box<[Expression]>),
    All(Box<[Expression]>),
    Not(Box<Expression>),
    Constant(bool),
    /// The tag is true.
    Tag(Box<str>),
    Has(Box<str>),
    Compare(Operand, Operator, Operand),
    In(Operand, Box<[TagValue]>),
    StartsWith(Box<str>, Box<str>),
}

/// What can be compared.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Operand {
    Tag(Box<str>),
    Value(TagValue),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Expression {
    /// The answer for an event. Goes as deep as a filter may be nested.
    pub(super) fn matches(&self, tags: &Tags) -> bool {
        match self {
            Expression::Any(parts) => parts.iter().any(|part| part.matches(tags)),
            Expression::All(parts) => parts.iter().all(|part| part.matches(tags)),
            Expression::Not(inner) => !inner.matches(tags),
            Expression::Constant(value) => *value,
            Expression::Tag(name) => tags.get(name) == Some(&TagValue::Bool(true)),
            Expression::Has(name) => tags.get(name).is_some(),
            Expression::Compare(left, operator, right) => {
                let (Some(left), Some(right)) = (left.value(tags), right.value(tags)) else { return false };
                operator.holds(order(left, right))
            }
            Expression::In(operand, list) => operand.value(tags).is_some_and(|value| list.contains(value)),
            Expression::StartsWith(name, start) => {
                matches!(tags.get(name), Some(TagValue::Text(text)) if text.starts_with(&**start))
            }
        }
    }

    /// The opposite. There are two values only, so that two negations are none.
    pub(super) fn negated(self) -> Expression {
        match self {
            Expression::Not(inner) => *inner,
            other => Expression::Not(Box::new(other)),
        }
    }

    /// A comparison, with the tag first.
    pub(super) fn compare(left: Operand, operator: Operator, right: Operand) -> Expression {
        match (&left, &right) {
            (Operand::Value(_), Operand::Tag(_)) => Expression::Compare(right, operator.turned(), left),
            _ => Expression::Compare(left, operator, right),
        }
    }
}

impl Operand {
    fn value<'a>(&'a self, tags: &'a Tags) -> Option<&'a TagValue> {
        match self {
            Operand::Tag(name) => tags.get(name),
            Operand::Value(value) => Some(value),
        }
    }
}

/// How two values compare; those of different kinds don't. Texts go by code points, which is the order of their bytes;
/// false comes before true.
fn order(left: &TagValue, right: &TagValue) -> Option<Ordering> {
    match (left, right) {
        (TagValue::Text(left), TagValue::Text(right)) => Some(left.cmp(right)),
        (TagValue::Number(left), TagValue::Number(right)) => left.get().partial_cmp(&right.get()),
        (TagValue::Bool(left), TagValue::Bool(right)) => Some(left.cmp(right)),
        _ => None,
    }
}

impl Operator {
    fn holds(self, order: Option<Ordering>) -> bool {
        match self {
            Operator::Equal => order == Some(Ordering::Equal),
            Operator::NotEqual => order != Some(Ordering::Equal),
            Operator::Less => order == Some(Ordering::Less),
            Operator::LessOrEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
            Operator::Greater => order == Some(Ordering::Greater),
            Operator::GreaterOrEqual => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
        }
    }

    /// What says the same with its sides changed.
    fn turned(self) -> Operator {
        match self {
            Operator::Less => Operator::Greater,
            Operator::LessOrEqual => Operator::GreaterOrEqual,
            Operator::Greater => Operator::Less,
            Operator::GreaterOrEqual => Operator::LessOrEqual,
            same @ (Operator::Equal | Operator::NotEqual) => same,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Operator::Equal => "==",
            Operator::NotEqual => "!=",
            Operator::Less => "<",
            Operator::LessOrEqual => "<=",
            Operator::Greater => ">",
            Operator::GreaterOrEqual => ">=",
        }
    }
}

/// The normal form.
impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expression::Any(parts) => joined(f, parts, " || ", |_| false),
            Expression::All(parts) => joined(f, parts, " && ", |part| matches!(part, Expression::Any(_))),
            Expression::Not(inner) => match **inner {
                Expression::Any(_) | Expression::All(_) | Expression::Compare(..) | Expression::In(..) => {
                    write!(f, "!({inner})")
                }
                _ => write!(f, "!{inner}"),
            },
            Expression::Constant(value) => write!(f, "{value}"),
            Expression::Tag(name) => tag(f, name),
            Expression::Has(name) => {
                f.write_str("has(")?;
                tag(f, name)?;
                f.write_str(")")
            }
            Expression::Compare(left, operator, right) => write!(f, "{left} {} {right}", operator.as_str()),
            Expression::In(operand, list) => {
                write!(f, "{operand} in [")?;
                for (at, value) in list.iter().enumerate() {
                    f.write_str(if at == 0 { "" } else { ", " })?;
                    literal(f, value)?;
                }
                f.write_str("]")
            }
            Expression::StartsWith(name, start) => {
                tag(f, name)?;
                f.write_str(".startsWith(")?;
                text(f, start)?;
                f.write_str(")")
            }
        }
    }
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Operand::Tag(name) => tag(f, name),
            Operand::Value(value) => literal(f, value),
        }
    }
}

fn joined(
    f: &mut fmt::Formatter<'_>,
    parts: &[Expression],
    between: &str,
    in_parentheses: impl Fn(&Expression) -> bool,
) -> fmt::Result {
    for (at, part) in parts.iter().enumerate() {
        f.write_str(if at == 0 { "" } else { between })?;
        if in_parentheses(part) { write!(f, "({part})") } else { write!(f, "{part}") }?;
    }
    Ok(())
}

fn tag(f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
    if parse::can_be_bare(name) {
        return f.write_str(name);
    }
    f.write_str("tags[")?;
    text(f, name)?;
    f.write_str("]")
}

fn literal(f: &mut fmt::Formatter<'_>, value: &TagValue) -> fmt::Result {
    match value {
        TagValue::Text(value) => text(f, value),
        TagValue::Bool(value) => write!(f, "{value}"),
        TagValue::Number(value) => {
            // The one writes 1e300 with all its zeros, the other writes 12 as 1.2e1.
            let (plain, exponential) = (format!("{}", value.get()), format!("{:e}", value.get()));
            f.write_str(if plain.len() <= exponential.len() { &plain } else { &exponential })
        }
    }
}

fn text(f: &mut fmt::Formatter<'_>, value: &str) -> fmt::Result {
    f.write_str("\"")?;
    for character in value.chars() {
        match character {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            control if control.is_control() => write!(f, "\\u{:04x}", u32::from(control))?,
            other => write!(f, "{other}")?,
        }
    }
    f.write_str("\"")
}
