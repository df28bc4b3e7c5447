//! `--dev`: anybody may do anything, so nobody but this machine may ask.

use std::net::SocketAddr;

use http::StatusCode;
use http::header::{FORWARDED, HOST, HeaderName, VIA};
use http::request::Parts;

use super::origin::{RequestOrigin, is_local_authority};
use crate::Problem;

/// Goes on only if a request comes from this machine, and not by way of somebody else's page or proxy.
///
/// The address alone does not say that: a page from anywhere runs in a browser here, and can name this server, even
/// under a host name of its own (DNS rebinding); a proxy here can speak for the whole internet.
pub(super) fn check(parts: &Parts, peer: SocketAddr) -> Result<(), Problem> {
    if !peer.ip().to_canonical().is_loopback() {
        return Err(refused("it came from another machine"));
    }
    if let Some(name) = forwarding_header(parts) {
        return Err(refused(format!("its header {name} says that it came through a proxy")));
    }
    let authority = parts.uri.authority().map(|authority| authority.as_str());
    let mut hosts = parts.headers.get_all(HOST).iter().map(|host| host.to_str().unwrap_or_default());
    let host = hosts.next();
    let named = authority.or(host).is_some_and(is_local_authority);
    if !named || host.is_some_and(|host| !is_local_authority(host)) || hosts.next().is_some() {
        return Err(Problem::new(
            StatusCode::MISDIRECTED_REQUEST,
            "misdirected",
            "This server is for this machine only",
            "a server with --dev answers only to the hosts localhost, 127.0.0.1 and [::1]",
        ));
    }
    match RequestOrigin::of(&parts.headers) {
        RequestOrigin::None => Ok(()),
        RequestOrigin::Page(origin) if origin.is_local() => Ok(()),
        _ => Err(refused("its Origin is not a page of localhost, 127.0.0.1 or [::1]")),
    }
}

fn forwarding_header(parts: &Parts) -> Option<&HeaderName> {
    parts
        .headers
        .keys()
        .find(|&name| name == FORWARDED || name == VIA || name.as_str().starts_with("x-forwarded"))
}

fn refused(why: impl std::fmt::Display) -> Problem {
    let detail = format!(
        "a server with --dev lets anybody do anything, so it takes only requests of this machine, and {why}; \
         start it without --dev, with keys and grants"
    );
    Problem::new(StatusCode::FORBIDDEN, "dev_only_local", "This server is for this machine only", detail)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    const HERE: &str = "127.0.0.1:5000";

    fn check_status(peer: &str, uri: &str, headers: &[(&str, &str)]) -> u16 {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        check(&parts, peer.parse().unwrap()).map_or_else(|problem| problem.status().as_u16(), |()| 200)
    }

    #[test]
    fn only_this_machine_may_ask() {
        for peer in [HERE, "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(check_status(peer, "/events", &[("host", "localhost:4600")]), 200, "{peer}");
        }
        for peer in ["192.168.0.7:1", "[fe80::1]:1", "[::ffff:10.0.0.1]:1"] {
            assert_eq!(check_status(peer, "/events", &[("host", "localhost:4600")]), 403, "{peer}");
        }
    }

    #[test]
    fn a_foreign_host_is_misdirected() {
        for host in ["localhost", "LocalHost:1", "127.0.0.1:4600", "[::1]:4600"] {
            assert_eq!(check_status(HERE, "/events", &[("host", host)]), 200, "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:4600", "127.0.0.1.nip.io", "", "0.0.0.0:4600"] {
            assert_eq!(check_status(HERE, "/events", &[("host", host)]), 421, "{host}");
        }
        assert_eq!(check_status(HERE, "/events", &[]), 421);
        assert_eq!(check_status(HERE, "/events", &[("host", "localhost"), ("host", "localhost")]), 421);
        assert_eq!(check_status(HERE, "http://localhost/events", &[("host", "evil.example")]), 421);
        assert_eq!(check_status(HERE, "http://evil.example/events", &[("host", "localhost")]), 421);
        assert_eq!(check_status(HERE, "http://localhost:1/events", &[("host", "localhost:1")]), 200);
    }

    #[test]
    fn a_foreign_page_is_refused() {
        let origin =
            |origin: &str| check_status(HERE, "/events", &[("host", "localhost"), ("origin", origin)]);
        for local in ["http://localhost:3000", "https://127.0.0.1", "http://[::1]:8080"] {
            assert_eq!(origin(local), 200, "{local}");
        }
        for foreign in ["https://evil.example", "null", "", "http://localhost.evil.example", "localhost"] {
            assert_eq!(origin(foreign), 403, "{foreign}");
        }
    }

    #[test]
    fn a_proxy_is_refused() {
        for name in ["forwarded", "x-forwarded-for", "x-forwarded-host", "X-Forwarded-Proto", "via"] {
            assert_eq!(
                check_status(HERE, "/events", &[("host", "localhost"), (name, "127.0.0.1")]),
                403,
                "{name}"
            );
        }
    }
}
