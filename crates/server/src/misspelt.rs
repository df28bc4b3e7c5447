//! With `--dev`: a word about parameters of a stream that are probably misspelt.
//!
//! One that is not known is no mistake (polyfills put what they like into the address, against caches), so that a stream
//! with `chanel=a` is opened, and shows nothing of `a`.

use tracing::warn;

use crate::query;

/// What `GET /events` knows.
const KNOWN: [&str; 17] = [
    "channel",
    "token",
    "access_token",
    "last_event_id",
    "lastEventId",
    "lastEventID",
    "history",
    "envelope",
    "filter",
    "control",
    "only",
    "client",
    "subscription",
    "padding",
    "presence",
    "if_active",
    "poll",
];

/// Logs which parameters are nearly known ones. Names only: a value may be a token.
pub(crate) fn tell(query: Option<&str>) {
    for (name, _) in query::pairs(query).flatten() {
        if let Some(meant) = meant(&name) {
            warn!(
                parameter = &*name,
                meant,
                "a stream was asked for with a parameter that is not known, and ignored; is the other one meant?"
            );
        }
    }
}

/// The known parameter that one letter makes of an unknown one.
fn meant(name: &str) -> Option<&'static str> {
    if KNOWN.contains(&name) {
        return None;
    }
    KNOWN.into_iter().find(|known| is_near(name, known))
}

/// Whether two words differ, but for their case, by one letter at most: put in, left out, another, or swapped with the
/// next.
fn is_near(a: &str, b: &str) -> bool {
    let (a, b) = (a.to_ascii_lowercase(), b.to_ascii_lowercase());
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let (a, b) = (&a[same..], &b[same..]);
    match (a, b) {
        ([], []) => true,
        ([first, second, a @ ..], [one, other, b @ ..]) if first == other && second == one && a == b => true,
        _ => {
            let (rest_a, rest_b) = (a.get(1..), b.get(1..));
            rest_a == Some(b) || rest_b == Some(a) || (rest_a.is_some() && rest_a == rest_b)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_one_letter_away_is_probably_meant() {
        for (typed, expected) in [
            ("chanel", Some("channel")),
            ("channels", Some("channel")),
            ("Channel", Some("channel")),
            ("chanenl", Some("channel")),
            ("channwl", Some("channel")),
            ("histroy", Some("history")),
            ("pol", Some("poll")),
            ("lasteventid", Some("lastEventId")),
            ("channel", None),
            ("lastEventID", None),
            ("topic", None),
            ("_", None),
            ("t", None),
            ("", None),
            ("cachebuster", None),
            ("chännel", None),
        ] {
            assert_eq!(meant(typed), expected, "{typed}");
        }
    }
}
