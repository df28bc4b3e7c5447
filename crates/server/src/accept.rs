//! What a client takes for an answer (RFC 9110, section 12.5.1).

use http::HeaderMap;
use http::header::ACCEPT;

/// Whether `text/event-stream` may be answered with: nothing is said about it, or nothing against it.
pub(crate) fn allows_event_stream(headers: &HeaderMap) -> bool {
    // The most specific range that matches decides; with none that does, the type is not wanted.
    let best = ranges(headers).max_by_key(|range| range.precision);
    best.map_or_else(|| !says_anything(headers), |range| range.wanted)
}

/// Whether `text/event-stream` is named as such: so do `EventSource` and its like, which have to be answered with 200
/// if they are to come back.
pub(crate) fn names_event_stream(headers: &HeaderMap) -> bool {
    ranges(headers).any(|range| range.precision == Precision::Exact && range.wanted)
}

/// How closely a range describes the type, from loosely to closely.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Precision {
    Anything,
    Text,
    Exact,
}

struct Range {
    precision: Precision,
    wanted: bool,
}

/// The ranges that match `text/event-stream`. What can't be read is passed over.
fn ranges(headers: &HeaderMap) -> impl Iterator<Item = Range> {
    elements(headers).filter_map(|element| {
        let mut parts = element.split(';').map(str::trim);
        let precision = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
            "*/*" => Precision::Anything,
            "text/*" => Precision::Text,
            "text/event-stream" => Precision::Exact,
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
        let check = |values: &[&str], allows: bool, names: bool| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(ACCEPT, value.parse().unwrap());
            }
            assert_eq!(
                (allows_event_stream(&headers), names_event_stream(&headers)),
                (allows, names),
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
}
