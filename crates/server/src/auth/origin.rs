//! Origins of pages (RFC 6454), as browsers say them in `Origin`.

use std::fmt;
use std::str::FromStr;

use http::HeaderMap;
use http::header::{HeaderValue, ORIGIN};

/// Scheme, host and port, in the spelling that browsers send: lower case, without the scheme's default port.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Origin(String);

/// Why a configured origin is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadOrigin {
    /// There is no `://`.
    #[error("an origin is a scheme, a host and perhaps a port, like \"https://app.example\"")]
    Form,
    /// Something comes after the host.
    #[error("an origin has no path, not even a \"/\" at its end")]
    Path,
    /// A character that no host or scheme has.
    #[error(
        "an origin has only ASCII letters, digits, \".\", \"-\", and \":\" before a port; a host in other letters is written in punycode"
    )]
    Character,
    /// The port is no number up to 65535.
    #[error("an origin's port is a number up to 65535")]
    Port,
}

impl Origin {
    /// The origin as browsers send it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is a page of this machine: `localhost`, `127.0.0.1` or `[::1]`, on any port.
    pub fn is_local(&self) -> bool {
        let rest = self.0.strip_prefix("http://").or_else(|| self.0.strip_prefix("https://"));
        rest.is_some_and(is_local_authority)
    }
}

/// Whether a host, with or without a port, names this machine by one of the three names that nobody else can have.
pub(super) fn is_local_authority(authority: &str) -> bool {
    let authority = authority.to_ascii_lowercase();
    ["localhost", "127.0.0.1", "[::1]"].iter().any(|host| match authority.strip_prefix(host) {
        Some("") => true,
        Some(rest) => rest.strip_prefix(':').is_some_and(|port| read_port(port).is_some()),
        None => false,
    })
}

fn read_port(port: &str) -> Option<u16> {
    // `parse` alone takes a sign.
    port.bytes().all(|b| b.is_ascii_digit()).then(|| port.parse().ok()).flatten()
}

impl FromStr for Origin {
    type Err = BadOrigin;

    fn from_str(text: &str) -> Result<Origin, BadOrigin> {
        let text = text.to_ascii_lowercase();
        let (scheme, authority) = text.split_once("://").ok_or(BadOrigin::Form)?;
        if authority.contains(['/', '?', '#']) {
            return Err(BadOrigin::Path);
        }
        let in_scheme = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
        if scheme.is_empty() || authority.is_empty() {
            return Err(BadOrigin::Form);
        }
        if !scheme.bytes().all(in_scheme) {
            return Err(BadOrigin::Character);
        }
        let (host, port) = split_port(authority)?;
        let in_host = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let fine = match literal {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.bytes().all(in_host),
        };
        if !fine {
            return Err(BadOrigin::Character);
        }
        Ok(match (scheme, port) {
            (_, None) | ("http", Some(80)) | ("https", Some(443)) => Origin(format!("{scheme}://{host}")),
            (_, Some(port)) => Origin(format!("{scheme}://{host}:{port}")),
        })
    }
}

fn split_port(authority: &str) -> Result<(&str, Option<u16>), BadOrigin> {
    match authority.rsplit_once(':') {
        // The colons of an address in brackets are no port's.
        Some((_, port)) if port.ends_with(']') => Ok((authority, None)),
        Some((host, port)) if !port.is_empty() => Ok((host, Some(read_port(port).ok_or(BadOrigin::Port)?))),
        Some(_) => Err(BadOrigin::Port),
        None => Ok((authority, None)),
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Origin({:?})", self.0)
    }
}

/// The origins whose pages are trusted, besides the server's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins {
    /// These, credentials included.
    pub listed: Vec<Origin>,
    /// All others too (`*`), but without credentials: a page anywhere may read what anybody may read.
    pub any: bool,
    /// All pages of this machine (`--dev`).
    pub local: bool,
}

impl Origins {
    /// Reads the list of a configuration; `*` is any origin, without credentials.
    ///
    /// # Errors
    /// With the first entry that is no origin.
    pub fn parse<'a>(list: impl IntoIterator<Item = &'a str>) -> Result<Origins, (&'a str, BadOrigin)> {
        let mut origins = Origins::default();
        for text in list {
            match text {
                "*" => origins.any = true,
                text => origins.listed.push(text.parse().map_err(|bad| (text, bad))?),
            }
        }
        Ok(origins)
    }

    /// Whether pages of this origin are trusted with what a browser sends by itself.
    pub fn trusts(&self, origin: &Origin) -> bool {
        self.listed.contains(origin) || (self.local && origin.is_local())
    }
}

/// What a request says about the page it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RequestOrigin {
    /// No `Origin`: a navigation, a read by the server's own page, or no browser.
    None,
    /// A page of this origin.
    Page(Origin),
    /// `null` (a sandboxed frame, a file) or something that is no origin: nobody's.
    Opaque,
}

impl RequestOrigin {
    pub(super) fn of(headers: &HeaderMap) -> RequestOrigin {
        let mut values = headers.get_all(ORIGIN).iter();
        match (values.next(), values.next()) {
            (None, _) => RequestOrigin::None,
            (Some(value), None) => RequestOrigin::read(value),
            (Some(_), Some(_)) => RequestOrigin::Opaque,
        }
    }

    fn read(value: &HeaderValue) -> RequestOrigin {
        let origin = value.to_str().ok().and_then(|text| text.parse().ok());
        origin.map_or(RequestOrigin::Opaque, RequestOrigin::Page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_read_as_browsers_send_them() {
        let check = |text: &str, expected: Result<&str, BadOrigin>| {
            assert_eq!(
                text.parse::<Origin>().as_ref().map(Origin::as_str),
                expected.as_ref().copied(),
                "{text}"
            );
        };
        check("https://app.example", Ok("https://app.example"));
        check("HTTPS://App.Example:443", Ok("https://app.example"));
        check("http://app.example:80", Ok("http://app.example"));
        check("http://app.example:8080", Ok("http://app.example:8080"));
        check("https://app.example:80", Ok("https://app.example:80"));
        check("http://[::1]:3000", Ok("http://[::1]:3000"));
        check("http://[::1]", Ok("http://[::1]"));
        check("capacitor://localhost", Ok("capacitor://localhost"));
        check("null", Err(BadOrigin::Form));
        check("app.example", Err(BadOrigin::Form));
        check("://app.example", Err(BadOrigin::Form));
        check("https://", Err(BadOrigin::Form));
        check("https://app.example/", Err(BadOrigin::Path));
        check("https://user@app.example", Err(BadOrigin::Character));
        check("https://*.example", Err(BadOrigin::Character));
        check("https://ä.example", Err(BadOrigin::Character));
        check("https://app.example:", Err(BadOrigin::Port));
        check("https://app.example:70000", Err(BadOrigin::Port));
        check("https://app.example:+1", Err(BadOrigin::Port));
        check("https://[::1", Err(BadOrigin::Character));
        check("https://[x]", Err(BadOrigin::Character));
    }

    #[test]
    fn this_machine_has_three_names() {
        for local in ["http://localhost", "https://localhost:3000", "http://127.0.0.1:4600", "http://[::1]:1"]
        {
            assert!(local.parse::<Origin>().unwrap().is_local(), "{local}");
        }
        for foreign in [
            "http://localhost.evil.example",
            "http://127.0.0.1.evil.example",
            "http://127.0.0.2",
            "http://localhostx",
            "ftp://localhost",
            "http://evil.example:80",
        ] {
            assert!(!foreign.parse::<Origin>().unwrap().is_local(), "{foreign}");
        }
        assert!(is_local_authority("LOCALHOST:4600"));
        for foreign in
            ["localhost:", "localhost:x", "localhost:+1", "localhost:99999", "", "evil:80", "localhost."]
        {
            assert!(!is_local_authority(foreign), "{foreign}");
        }
    }

    #[test]
    fn a_star_trusts_nobody_with_credentials() {
        let origins = Origins::parse(["*", "https://app.example"]).unwrap();
        assert!(origins.any);
        assert!(origins.trusts(&"https://app.example".parse().unwrap()));
        assert!(!origins.trusts(&"https://evil.example".parse().unwrap()));
        assert!(!origins.trusts(&"http://localhost".parse().unwrap()));
        assert_eq!(Origins::parse(["x"]), Err(("x", BadOrigin::Form)));
    }
}
