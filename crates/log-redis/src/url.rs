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
/// Shown without the password, and without a query.
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
        // A query may have a password in it, and what stands before the @ may be one in the wrong place: neither is shown.
        let (address, query) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
        let (authority, path) = address.split_at(address.find('/').unwrap_or(address.len()));
        let (who, hosts) = match authority.rsplit_once('@') {
            Some((who, hosts)) => (format!("{who}@"), hosts),
            None => (String::new(), authority),
        };
        let hidden = if who.is_empty() { "" } else { "…@" };
        let shown = format!("{scheme}://{hidden}{hosts}{path}");
        let plain = match scheme {
            "redis" | "rediss" | "redis+unix" => {
                return Ok(RedisUrl { shown, at: Place::Server(info(text)?) });
            }
            "redis+sentinel" => "redis",
            "rediss+sentinel" => "rediss",
            _ => return Err(BadUrl(schemes.to_owned())),
        };
        let path = path.trim_start_matches('/');
        let (master, database) = path.split_once('/').unwrap_or((path, "0"));
        if master.is_empty() {
            return Err(BadUrl(
                "the master's name is missing behind the sentinels, like /mymaster".to_owned(),
            ));
        }
        if master.contains('@') {
            return Err(BadUrl("in a password, write %2F for / and %40 for @".to_owned()));
        }
        let with_port = |host: &str| match host.rsplit_once(':') {
            Some((_, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
                format!("redis://{host}")
            }
            _ => format!("redis://{host}:{SENTINEL_PORT}"),
        };
        let sentinels = hosts.split(',').map(|host| info(&with_port(host))).collect::<Result<Vec<_>, _>>()?;
        let server = info(&format!("{plain}://{who}master/{database}{query}"))?;
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

#[cfg(test)]
mod tests {
    use tidings_hub::log::Retention;

    use super::*;
    use crate::{Ack, RedisLog, RedisLogConfig};

    #[test]
    fn no_password_is_shown() {
        for (text, shown) in [
            ("redis://127.0.0.1", "redis://127.0.0.1"),
            ("rediss://me:canary@host:7000/3", "rediss://…@host:7000/3"),
            ("redis://:can@ary@host", "redis://…@host"),
            ("redis://host/3?protocol=resp3", "redis://host/3"),
            ("redis+unix:///run/redis.sock?db=1&user=me&pass=canary", "redis+unix:///run/redis.sock"),
            ("redis+unix:///run/redis.sock?pass=can@ary", "redis+unix:///run/redis.sock"),
            ("redis+unix:///run/redis.sock?pass=can://ary", "redis+unix:///run/redis.sock"),
            ("redis://me:can?ary#ary@host/3", ""),
            ("redis://me:can/ary@host/3", ""),
            ("redis+unix://me:canary@/run/redis.sock", ""),
            ("redis+unix://me:canary@localhost/run/redis.sock", "redis+unix://…@localhost/run/redis.sock"),
            ("rediss://me:canary@host/#insecure", ""),
            ("redis+sentinel://me:canary@a,b:1/mymaster/2", "redis+sentinel://…@a,b:1/mymaster/2"),
            ("redis+sentinel://a/mymaster?pass=canary", "redis+sentinel://a/mymaster"),
            ("redis+sentinel://a/mymaster/2?pass=can@ary", "redis+sentinel://a/mymaster/2"),
            ("redis+sentinel://me:can/ary@a/mymaster", ""),
            ("redis+sentinel://me:12/canary@a", ""),
            ("redis+sentinel://a/mymaster/canary", ""),
        ] {
            match text.parse::<RedisUrl>() {
                Ok(url) => {
                    assert_eq!(url.to_string(), shown);
                    assert_eq!(format!("{url:?}"), format!("RedisUrl({shown})"));
                }
                Err(error) => {
                    assert_eq!(shown, "", "{text}: {error}");
                    assert!(!format!("{error} {error:?}").contains("ary"), "{error}");
                }
            }
        }
        for text in ["", "127.0.0.1", "http://host", "redis+sentinel://a,b", "rediss://h/#insecure"] {
            assert!(text.parse::<RedisUrl>().is_err(), "{text}");
        }
    }

    #[test]
    fn who_can_not_connect_is_told_no_password() {
        for text in [
            "redis://me:canary@127.0.0.1:1/3",
            "redis+unix:///nowhere/redis.sock?user=me&pass=canary",
            "redis+sentinel://me:canary@127.0.0.1:1/mymaster",
            "redis+sentinel://127.0.0.1:1/mymaster?pass=canary",
        ] {
            let config = RedisLogConfig {
                url: text.parse().unwrap(),
                authority: None,
                name: "hub".to_owned(),
                ack: Ack::Master,
                retention: Retention::default(),
                cursor_key: [7; 16],
            };
            assert!(!format!("{config:?}").contains("canary"));
            let error = RedisLog::open(config).map(drop).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("canary"), "{error}");
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
