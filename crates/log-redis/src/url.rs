//! Where Redis is.

use std::fmt;
use std::str::FromStr;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion};

/// The address of a Redis server, or of the sentinels that know it:
///
/// - `redis://[USER][:PASSWORD@]HOST[:PORT][/DB]`, `rediss://` with TLS, and `redis+unix:///PATH`;
/// - `redis+sentinel://[USER][:PASSWORD@]HOST[:PORT][,HOST[:PORT]…]/MASTER[/DB]`, and `rediss+sentinel://`, where the
///   server and not the sentinels has user and password, and TLS.
///
/// Shown without the password.
#[derive(Clone)]
pub struct RedisUrl {
    shown: String,
    pub(crate) at: Place,
}

/// Whom to ask first.
#[derive(Clone)]
pub(crate) enum Place {
    Server(ConnectionInfo),
    Sentinels {
        sentinels: Vec<ConnectionInfo>,
        master: String,
        /// How the master is spoken to; its address is not known yet.
        server: ConnectionInfo,
    },
}

/// A text that is no address of Redis.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is no address of Redis: {0}")]
pub struct BadUrl(String);

/// The port of sentinels, if none is said.
const SENTINEL_PORT: u16 = 26379;

impl FromStr for RedisUrl {
    type Err = BadUrl;

    fn from_str(text: &str) -> Result<RedisUrl, BadUrl> {
        let schemes =
            "write redis://HOST:PORT, rediss:// for TLS, or redis+sentinel://HOST:PORT,HOST:PORT/MASTER";
        let Some((scheme, rest)) = text.split_once("://") else { return Err(BadUrl(schemes.to_owned())) };
        let (who, place) = match rest.rsplit_once('@') {
            Some((who, place)) => (Some(who), place),
            None => (None, rest),
        };
        // What stands before the @ is never shown, not even a user's name: it may be a password in the wrong place.
        let hidden = if who.is_some() { "…@" } else { "" };
        let shown = format!("{scheme}://{hidden}{place}");
        let plain = match scheme {
            "redis" | "rediss" | "redis+unix" => {
                return Ok(RedisUrl { shown, at: Place::Server(info(text)?) });
            }
            "redis+sentinel" => "redis",
            "rediss+sentinel" => "rediss",
            _ => return Err(BadUrl(schemes.to_owned())),
        };
        let (hosts, path) = place.split_once('/').unwrap_or((place, ""));
        let (master, database) = path.split_once('/').unwrap_or((path, "0"));
        if master.is_empty() {
            return Err(BadUrl(
                "the master's name is missing behind the sentinels, like /mymaster".to_owned(),
            ));
        }
        let with_port = |host: &str| match host.rsplit_once(':') {
            Some((_, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
                format!("redis://{host}")
            }
            _ => format!("redis://{host}:{SENTINEL_PORT}"),
        };
        let sentinels = hosts.split(',').map(|host| info(&with_port(host))).collect::<Result<Vec<_>, _>>()?;
        let who = who.map_or(String::new(), |who| format!("{who}@"));
        let server = info(&format!("{plain}://{who}master/{database}"))?;
        Ok(RedisUrl { shown, at: Place::Sentinels { sentinels, master: master.to_owned(), server } })
    }
}

impl RedisUrl {
    /// The number of the database.
    pub(crate) fn database(&self) -> i64 {
        match &self.at {
            Place::Server(server) | Place::Sentinels { server, .. } => server.redis_settings().db(),
        }
    }
}

fn info(url: &str) -> Result<ConnectionInfo, BadUrl> {
    // The library's own words may repeat what was typed, a password included.
    let bad = |_| BadUrl("host, port, user, password or database can't be read".to_owned());
    let info = url.into_connection_info().map_err(bad)?;
    if matches!(info.addr(), ConnectionAddr::TcpTls { insecure: true, .. }) {
        return Err(BadUrl(
            "#insecure is not for a log; name the authority's certificate instead".to_owned(),
        ));
    }
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    Ok(info.set_redis_settings(settings))
}

/// Somebody else's address, spoken to in the same way.
pub(crate) fn at(info: &ConnectionInfo, host: &str, port: u16) -> ConnectionInfo {
    let host = host.to_owned();
    let addr = match info.addr() {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls { host, port, insecure: *insecure, tls_params: tls_params.clone() }
        }
        _ => ConnectionAddr::Tcp(host, port),
    };
    info.clone().set_addr(addr)
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisUrl({self})")
    }
}

impl PartialEq for RedisUrl {
    fn eq(&self, other: &RedisUrl) -> bool {
        self.shown == other.shown
    }
}

impl Eq for RedisUrl {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_shown() {
        for (text, shown) in [
            ("redis://127.0.0.1", "redis://127.0.0.1"),
            ("rediss://me:canary@host:7000/3", "rediss://…@host:7000/3"),
            ("redis://:can@ary@host", "redis://…@host"),
            ("redis+sentinel://me:canary@a,b:1/mymaster/2", "redis+sentinel://…@a,b:1/mymaster/2"),
        ] {
            match text.parse::<RedisUrl>() {
                Ok(url) => {
                    assert_eq!(url.to_string(), shown);
                    assert!(!format!("{url:?}").contains("canary"));
                }
                Err(error) => assert!(!error.to_string().contains("ary"), "{error}"),
            }
        }
        for text in ["", "127.0.0.1", "http://host", "redis+sentinel://a,b", "rediss://h/#insecure"] {
            assert!(text.parse::<RedisUrl>().is_err(), "{text}");
        }
    }

    #[test]
    fn sentinels_have_ports_of_their_own_and_no_password() {
        let url: RedisUrl = "rediss+sentinel://me:pw@a,b:7/main/2".parse().unwrap();
        let Place::Sentinels { sentinels, master, server } = url.at else { panic!("sentinels") };
        let addresses: Vec<String> = sentinels.iter().map(|info| info.addr().to_string()).collect();
        assert_eq!((&addresses[..], &master[..]), (&["a:26379".to_owned(), "b:7".to_owned()][..], "main"));
        assert!(sentinels.iter().all(|info| info.redis_settings().password().is_none()));
        assert_eq!((server.redis_settings().password(), server.redis_settings().db()), (Some("pw"), 2));
        assert_eq!(at(&server, "c", 9).addr().to_string(), "c:9");
    }
}
