//! What a client takes for an answer (RFC 9110, section 12.5.1).

use http::HeaderMap;
use http::header::ACCEPT;

/// A media type: all of its kind, and itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Media(&'static str, &'static str);

/// What streams are.
pub(crate) const EVENT_STREAM: Media = Media("text/*", "text/event-stream");
/// What the answer to a poll is.
pub(crate) const JSON: Media = Media("application/*", "application/json");

/// Whether a type may be answered with: nothing is said about it, or nothing against it.
pub(crate) fn allows(headers: &HeaderMap, media: Media) -> bool {
    // The most specific range that matches decides; with none that does, the type is not wanted.
    let best = ranges(headers, media).max_by_key(|range| range.precision);
    best.map_or_else(|| !says_anything(headers), |range| range.wanted)
}

/// Whether `text/event-stream` is named as such: so do `EventSource` and its like, which have to be answered with 200
/// if they are to come back.
pub(crate) fn names_event_stream(headers: &HeaderMap) -> bool {
    ranges(headers, EVENT_STREAM).any(|range| range.precision == Precision::Exact && range.wanted)
}

/// How closely a range describes the type, from loosely to closely.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Precision {
    Anything,
    Kind,
    Exact,
}

struct Range {
    precision: Precision,
    wanted: bool,
}

/// The ranges that match a type. What can't be read is passed over.
fn ranges(headers: &HeaderMap, Media(kind, exact): Media) -> impl Iterator<Item = Range> {
    elements(headers).filter_map(move |element| {
        let mut parts = element.split(';').map(str::trim);
        let precision = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
            "*/*" => Precision::Anything,
            range if range == kind => Precision::Kind,
            range if range == exact => Precision::Exact,
            _ => return None,
        };
        let weight = parts.find_map(|part| {
            let (name, value) = part.split_once('=')?;
            name.trim().eq_ignore_ascii_case("q").then(|| value.trim())
        });
        let refused = weight.is_some_and(|weight| weight.parse() == Ok(0.0));
        Some(Range { precision, wanted: !refused })
    })
}

/// Whether a media type is named at all.
fn says_anything(headers: &HeaderMap) -> bool {
    elements(headers).any(|element| element.contains('/'))
}

fn elements(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_streams_are_allowed_unless_excluded() {
        let check = |values: &[&str], allowed: bool, names: bool| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(ACCEPT, value.parse().unwrap());
            }
            assert_eq!(
                (allows(&headers, EVENT_STREAM), names_event_stream(&headers)),
                (allowed, names),
                "{values:?}"
            );
        };
        check(&[], true, false);
        check(&[""], true, false);
        check(&["*/*"], true, false);
        check(&["text/*"], true, false);
        check(&["text/event-stream"], true, true);
        check(&["Text/Event-Stream; charset=utf-8"], true, true);
        check(&["text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"], true, false);
        check(&["application/json", "text/event-stream;q=0.1"], true, true);
        check(&["application/json"], false, false);
        check(&["text/html, image/*"], false, false);
        check(&["text/event-stream;q=0"], false, false);
        check(&["text/event-stream;q=0.000, */*"], false, false);
        check(&["*/*;q=0, text/event-stream"], true, true);
        check(&["text/*;Q=0, */*"], false, false);
        check(&["*/*;q=0"], false, false);
        check(&["garbage"], true, false);
        check(&["text/event-stream;q=x"], true, true);
    }

    #[test]
    fn json_is_allowed_unless_excluded() {
        for (value, expected) in [
            ("*/*", true),
            ("application/json", true),
            ("application/*;q=0.5", true),
            ("text/event-stream", false),
            ("text/*, application/json;q=0", false),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT, value.parse().unwrap())]);
            assert_eq!(allows(&headers, JSON), expected, "{value}");
        }
    }
}
