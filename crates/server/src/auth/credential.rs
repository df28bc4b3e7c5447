//! Where a request carries its credential.

use http::HeaderMap;
use http::header::{AUTHORIZATION, COOKIE};
use http::request::Parts;

use super::Secret;
use super::identity::invalid_token;
use super::origin::{Origins, RequestOrigin};
use crate::{Problem, query};

/// What a request says about who sent it: the first in this order, whatever the others are (a stale cookie rides
/// along by itself).
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Credential {
    /// `Authorization: Bearer`: a JWT or an API key.
    Bearer(Secret),
    /// `X-API-Key`.
    ApiKey(Secret),
    /// `token` or `access_token` in the query.
    Query(Secret),
    /// The cookie, sent along by a page that may.
    Cookie(Secret),
    /// There is a cookie, but another site's page may have had it sent: it does not count.
    UntrustedCookie,
    /// Nothing.
    None,
}

impl Credential {
    /// Finds the credential of a request.
    pub(super) fn find(parts: &Parts, cookie: &str, origins: &Origins) -> Result<Credential, Problem> {
        if let Some(token) = bearer(&parts.headers)? {
            return Ok(Credential::Bearer(token));
        }
        if let Some(key) = api_key(&parts.headers)? {
            return Ok(Credential::ApiKey(key));
        }
        if let Some(token) = in_query(parts.uri.query())? {
            return Ok(Credential::Query(token));
        }
        let Some(token) = in_cookies(&parts.headers, cookie) else { return Ok(Credential::None) };
        if !is_sent_knowingly(&parts.headers, origins) {
            return Ok(Credential::UntrustedCookie);
        }
        Ok(Credential::Cookie(token))
    }
}

/// The token of `Authorization: Bearer`. Other schemes are for whoever stands before this server.
fn bearer(headers: &HeaderMap) -> Result<Option<Secret>, Problem> {
    let mut tokens = headers.get_all(AUTHORIZATION).iter().filter_map(|value| bearer_token(value.as_bytes()));
    match (tokens.next(), tokens.next()) {
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(invalid_token("there are two tokens in Authorization".into())),
        (Some(token), None) => match std::str::from_utf8(token) {
            Ok(token) if !token.is_empty() => Ok(Some(Secret::new(token))),
            _ => Err(invalid_token("Authorization says Bearer, but no token".into())),
        },
    }
}

/// What comes after the scheme. As bytes: a token that is no text is a bad token, not none.
fn bearer_token(value: &[u8]) -> Option<&[u8]> {
    let end = value.iter().position(|&byte| byte == b' ').unwrap_or(value.len());
    let (scheme, token) = value.split_at(end);
    scheme.eq_ignore_ascii_case(b"bearer").then(|| token.trim_ascii())
}

fn api_key(headers: &HeaderMap) -> Result<Option<Secret>, Problem> {
    let mut values = headers.get_all("x-api-key").iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => match value.to_str().map(str::trim) {
            Ok(key) if !key.is_empty() => Ok(Some(Secret::new(key))),
            _ => Err(invalid_token("X-API-Key has no key of printable ASCII".into())),
        },
        _ => Err(invalid_token("there are two X-API-Key headers".into())),
    }
}

/// An empty one is none: pages write `?token=${token ?? ""}`.
fn in_query(text: Option<&str>) -> Result<Option<Secret>, Problem> {
    let mut found: Option<Secret> = None;
    for pair in query::pairs(text) {
        let (name, value) = pair?;
        if !matches!(&*name, "token" | "access_token") || value.is_empty() {
            continue;
        }
        let token = Secret::new(&*value);
        if found.as_ref().is_some_and(|other| *other != token) {
            return Err(Problem::bad_request("the query has two different tokens"));
        }
        found = Some(token);
    }
    Ok(found)
}

/// Of several cookies of one name the first is that of the most specific path (RFC 6265, section 5.4).
fn in_cookies(headers: &HeaderMap, name: &str) -> Option<Secret> {
    headers
        .get_all(COOKIE)
        .iter()
        // Not `to_str`: somebody else's cookie may have any byte.
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b';'))
        .filter_map(|cookie| std::str::from_utf8(cookie).ok())
        .filter_map(|cookie| cookie.trim_matches([' ', '\t']).split_once('='))
        .find(|(found, _)| *found == name)
        .map(|(_, value)| value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value))
        .filter(|value| !value.is_empty())
        .map(Secret::new)
}

/// Whether the page that had a browser send this request is one of this server's own, or trusted. Browsers send
/// cookies along whoever asks, so that without this any page could act as its visitor (CSRF).
fn is_sent_knowingly(headers: &HeaderMap, origins: &Origins) -> bool {
    let mut sites = headers.get_all("sec-fetch-site").iter();
    if let (Some(site), None) = (sites.next(), sites.next())
        && (site == "same-origin" || site == "none")
    {
        return true;
    }
    matches!(RequestOrigin::of(headers), RequestOrigin::Page(origin) if origins.trusts(&origin))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn find(uri: &str, headers: &[(&str, &str)]) -> Result<Credential, u16> {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        find_bytes(uri, &headers)
    }

    fn find_bytes(uri: &str, headers: &[(&str, &[u8])]) -> Result<Credential, u16> {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let origins = Origins::parse(["https://app.example"]).unwrap();
        Credential::find(&parts, "tidings_token", &origins).map_err(|problem| problem.status().as_u16())
    }

    #[test]
    fn the_header_beats_the_query_and_that_the_cookie() {
        let cookie = [("cookie", "tidings_token=c"), ("sec-fetch-site", "same-origin")];
        let secret = |text: &str| Secret::new(text);
        let all = [&[("authorization", "Bearer h"), ("x-api-key", "k")], &cookie[..]].concat();
        assert_eq!(find("/events?token=q", &all), Ok(Credential::Bearer(secret("h"))));
        assert_eq!(find("/events?token=q", &all[1..]), Ok(Credential::ApiKey(secret("k"))));
        assert_eq!(find("/events?token=q", &cookie), Ok(Credential::Query(secret("q"))));
        assert_eq!(find("/events?access_token=q", &cookie), Ok(Credential::Query(secret("q"))));
        assert_eq!(find("/events?token=", &cookie), Ok(Credential::Cookie(secret("c"))));
        assert_eq!(find("/events", &[]), Ok(Credential::None));
    }

    #[test]
    fn tokens_in_the_header() {
        let header = |value: &str| find("/events", &[("authorization", value)]);
        for same in ["Bearer t", "bearer t", "BEARER  t "] {
            assert_eq!(header(same), Ok(Credential::Bearer(Secret::new("t"))), "{same}");
        }
        for other in ["Basic dTpw", "Token t", "t", "Bearert"] {
            assert_eq!(header(other), Ok(Credential::None), "{other}");
        }
        assert_eq!(header("Bearer"), Err(401));
        assert_eq!(header("Bearer "), Err(401));
        assert_eq!(find_bytes("/events?token=q", &[("authorization", b"Bearer \xff")]), Err(401));
        assert_eq!(find_bytes("/events", &[("authorization", b"\xff")]), Ok(Credential::None));
        assert_eq!(find("/", &[("authorization", "Bearer a"), ("authorization", "Bearer b")]), Err(401));
        assert_eq!(find("/", &[("x-api-key", "a"), ("x-api-key", "a")]), Err(401));
        assert_eq!(find("/", &[("x-api-key", "")]), Err(401));
    }

    #[test]
    fn tokens_in_the_query() {
        assert_eq!(find("/events?token=a&access_token=a", &[]), Ok(Credential::Query(Secret::new("a"))));
        assert_eq!(find("/events?token=a&token=b", &[]), Err(400));
        assert_eq!(find("/events?token=a%2Eb", &[]), Ok(Credential::Query(Secret::new("a.b"))));
        assert_eq!(find("/events?token=%ff", &[]), Err(400));
    }

    #[test]
    fn a_cookie_counts_only_from_trusted_pages() {
        let cookie = ("cookie", "a=b; tidings_token=\"c\"; tidings_token=d");
        let check = |headers: &[(&str, &str)], counts: bool| {
            let expected =
                if counts { Credential::Cookie(Secret::new("c")) } else { Credential::UntrustedCookie };
            let headers = [&[cookie], headers].concat();
            assert_eq!(find("/publish", &headers), Ok(expected), "{headers:?}");
        };
        check(&[("sec-fetch-site", "same-origin")], true);
        check(&[("sec-fetch-site", "none")], true);
        check(&[("origin", "https://app.example")], true);
        check(&[("origin", "https://app.example"), ("sec-fetch-site", "cross-site")], true);
        check(&[], false);
        check(&[("sec-fetch-site", "same-site")], false);
        check(&[("sec-fetch-site", "cross-site")], false);
        check(&[("sec-fetch-site", "none"), ("sec-fetch-site", "none")], false);
        check(&[("origin", "https://evil.example")], false);
        check(&[("origin", "null")], false);
        check(&[("origin", "https://app.example"), ("origin", "https://app.example")], false);
        assert_eq!(
            find("/", &[("cookie", "xtidings_token=c"), ("sec-fetch-site", "none")]),
            Ok(Credential::None)
        );
    }
}
