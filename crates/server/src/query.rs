//! The query of a request, as `application/x-www-form-urlencoded` (WHATWG URL Standard, section 5), but strict.

use std::borrow::Cow;

use crate::Problem;

/// Why a query can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadQuery {
    /// A `%` without two hexadecimal digits after it.
    #[error(
        "the query has a \"%\" that is not followed by two hexadecimal digits; write \"%25\" for a \"%\""
    )]
    Percent,
    /// What is percent-encoded is no UTF-8.
    #[error("the query is not UTF-8")]
    NotUtf8,
}

impl From<BadQuery> for Problem {
    fn from(bad: BadQuery) -> Problem {
        Problem::bad_request(bad.to_string())
    }
}

/// One parameter: its name and its value, decoded.
pub(crate) type Pair<'a> = (Cow<'a, str>, Cow<'a, str>);

/// The parameters of a query, in order. One without `=` has an empty value.
pub(crate) fn pairs(query: Option<&str>) -> impl Iterator<Item = Result<Pair<'_>, BadQuery>> {
    query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Ok((decode(name)?, decode(value)?))
    })
}

/// Text without its percent-encoding, a `+` as a space.
fn decode(text: &str) -> Result<Cow<'_, str>, BadQuery> {
    if !text.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        return Ok(Cow::Borrowed(text));
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let high = bytes.next().and_then(hexadecimal).ok_or(BadQuery::Percent)?;
                let low = bytes.next().and_then(hexadecimal).ok_or(BadQuery::Percent)?;
                high << 4 | low
            }
            byte => byte,
        });
    }
    String::from_utf8(decoded).map(Cow::Owned).map_err(|_| BadQuery::NotUtf8)
}

fn hexadecimal(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let check = |query: &str, expected: &[(&str, &str)]| {
            let found: Result<Vec<_>, _> = pairs(Some(query)).collect();
            let expected: Vec<_> = expected.iter().map(|(n, v)| (Cow::from(*n), Cow::from(*v))).collect();
            assert_eq!(found, Ok(expected), "{query}");
        };
        check("", &[]);
        check("a=b&&c", &[("a", "b"), ("c", "")]);
        check("a=b=c&a=%C3%A4+%2b", &[("a", "b=c"), ("a", "ä +")]);
        check("chann%65l=a%2Fb", &[("channel", "a/b")]);
        assert_eq!(pairs(None).count(), 0);
    }

    #[test]
    fn bad_encodings_are_refused() {
        for (query, error) in [
            ("a=%", BadQuery::Percent),
            ("a=%4", BadQuery::Percent),
            ("a=%+1", BadQuery::Percent),
            ("%zz=1", BadQuery::Percent),
            ("a=%ff", BadQuery::NotUtf8),
            ("a=%ED%A0%80", BadQuery::NotUtf8),
        ] {
            assert_eq!(pairs(Some(query)).next(), Some(Err(error)), "{query}");
        }
    }
}
