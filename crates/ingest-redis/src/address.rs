//! Where Redis is, and by what right.

use std::fmt;
use std::str::FromStr;

use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    Client, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo, RedisResult, TlsCertificates, TlsMode,
};

/// The port of Sentinel.
const SENTINEL_PORT: u16 = 26_379;

/// Where Redis is, and by what right: `redis://`, `rediss://` (TLS), `redis+unix://`, or `redis+sentinel://` and
/// `rediss+sentinel://` with the addresses of Sentinels, which are asked for the primary of a service.
#[derive(Clone)]
pub struct RedisUrl {
    way: Way,
    text: String,
    shown: String,
}

#[derive(Clone)]
enum Way {
    Direct(Client),
    Sentinel { sentinels: Vec<ConnectionAddr>, service: String, settings: RedisConnectionInfo, tls: bool },
}

/// Why an address of Redis is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "write redis://HOST:PORT, rediss://USER:PASSWORD@HOST:PORT/DB (TLS), redis+unix:///PATH or redis+sentinel://HOST:PORT,HOST:PORT/SERVICE{}",
    .0.as_deref().map(|why| format!("; {why}")).unwrap_or_default()
)]
pub struct BadRedisUrl(Option<String>);

impl FromStr for RedisUrl {
    type Err = BadRedisUrl;

    fn from_str(text: &str) -> Result<RedisUrl, BadRedisUrl> {
        let sentinel =
            |scheme, rest| RedisUrl::by_sentinel(text, scheme, rest).unwrap_or(Err(BadRedisUrl(None)));
        if let Some(rest) = text.strip_prefix("redis+sentinel://") {
            return sentinel("redis", rest);
        }
        if let Some(rest) = text.strip_prefix("rediss+sentinel://") {
            return sentinel("rediss", rest);
        }
        RedisUrl::direct(text)
    }
}

impl RedisUrl {
    fn direct(text: &str) -> Result<RedisUrl, BadRedisUrl> {
        let mut shown = redis::parse_redis_url(text).ok_or(BadRedisUrl(None))?;
        // What the client says of a mistake may quote what was written, but not the password.
        let client =
            Client::open(shown.clone()).map_err(|error| BadRedisUrl(error.detail().map(str::to_owned)))?;
        if !client.get_connection_info().addr().is_supported() {
            return Err(BadRedisUrl(Some("this kind of address is not supported".to_owned())));
        }
        if shown.password().is_some() {
            // Refused only where there can be no password.
            let _ = shown.set_password(Some("hidden"));
        }
        if shown.query_pairs().any(|(name, _)| name == "pass") {
            shown.set_query(None);
        }
        Ok(RedisUrl { way: Way::Direct(client), text: text.to_owned(), shown: shown.to_string() })
    }

    /// `scheme`: how the servers themselves are spoken to; the Sentinels are asked in the clear, without a password.
    /// `None` where a part is missing.
    fn by_sentinel(text: &str, scheme: &str, rest: &str) -> Option<Result<RedisUrl, BadRedisUrl>> {
        let (authority, path) = rest.split_once('/')?;
        let (user, hosts) = authority.rsplit_once('@').map_or(("", authority), |(user, hosts)| (user, hosts));
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let (service, db) = path.split_once('/').unwrap_or((path, ""));
        let sentinels = hosts.split(',').map(address).collect::<Option<Vec<_>>>()?;
        if service.is_empty() {
            return None;
        }
        // One of the servers, whose address is not known yet.
        let at = if user.is_empty() { "" } else { "@" };
        let server = match RedisUrl::direct(&format!("{scheme}://{user}{at}server/{db}?{query}")) {
            Ok(server) => server,
            Err(bad) => return Some(Err(bad)),
        };
        let Way::Direct(client) = server.way else { return None };
        let settings = client.get_connection_info().redis_settings().clone();
        let mut shown = server.shown.trim_end_matches('?').replacen("://", "+sentinel://", 1);
        shown = shown.replacen("server/", &format!("{hosts}/{service}/"), 1);
        let tls = scheme == "rediss";
        let way = Way::Sentinel { sentinels, service: service.to_owned(), settings, tls };
        Some(Ok(RedisUrl { way, text: text.to_owned(), shown: shown.trim_end_matches('/').to_owned() }))
    }

    /// A client of the server that is the primary now. `authority`: the certificate, in PEM, of who has signed that of
    /// Redis; without it those of the system count.
    pub(crate) async fn client(&self, authority: Option<&[u8]>) -> RedisResult<Client> {
        let certificates =
            authority.map(|pem| TlsCertificates { client_tls: None, root_cert: Some(pem.to_owned()) });
        match (&self.way, certificates) {
            (Way::Direct(client), None) => Ok(client.clone()),
            (Way::Direct(client), Some(certificates)) => {
                let info = client.get_connection_info();
                match info.addr() {
                    ConnectionAddr::TcpTls { .. } => Client::build_with_tls(info.clone(), certificates),
                    _ => Ok(client.clone()),
                }
            }
            (Way::Sentinel { sentinels, service, settings, tls }, certificates) => {
                let server = SentinelServerType::Master;
                let mut by = SentinelClientBuilder::new(sentinels.clone(), service.clone(), server)?
                    .set_client_to_redis_db(settings.db())
                    .set_client_to_redis_protocol(settings.protocol());
                if let Some(user) = settings.username() {
                    by = by.set_client_to_redis_username(user);
                }
                if let Some(password) = settings.password() {
                    by = by.set_client_to_redis_password(password);
                }
                if *tls {
                    by = by.set_client_to_redis_tls_mode(TlsMode::Secure);
                    if let Some(certificates) = certificates {
                        by = by.set_client_to_redis_certificates(certificates);
                    }
                }
                by.build()?.async_get_client().await
            }
        }
    }

    /// As it was written, with its password.
    pub fn reveal(&self) -> &str {
        &self.text
    }
}

/// The address of a Sentinel, `HOST` or `HOST:PORT`.
fn address(host: &str) -> Option<ConnectionAddr> {
    let url = redis::parse_redis_url(&format!("redis://{host}"))?;
    let port = url.port().unwrap_or(SENTINEL_PORT);
    match url.into_connection_info().ok()?.addr() {
        ConnectionAddr::Tcp(host, _) => Some(ConnectionAddr::Tcp(host.clone(), port)),
        _ => None,
    }
}

/// Without the password.
impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisUrl({})", self.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown_without_their_password() {
        for (text, shown) in [
            ("redis://127.0.0.1:6379", "redis://127.0.0.1:6379"),
            ("redis://127.0.0.1:6379/3?protocol=resp3", "redis://127.0.0.1:6379/3?protocol=resp3"),
            ("rediss://app:s3cret@redis.example:6380/1", "rediss://app:hidden@redis.example:6380/1"),
            ("redis://:s3cret@redis.example", "redis://:hidden@redis.example"),
            ("redis+unix:///run/redis.sock?db=1&pass=s3cret", "redis+unix:///run/redis.sock"),
            ("redis+sentinel://127.0.0.1/main", "redis+sentinel://127.0.0.1/main"),
            (
                "rediss+sentinel://app:s3cret@a.example:1,b.example/main/2",
                "rediss+sentinel://app:hidden@a.example:1,b.example/main/2",
            ),
        ] {
            let url: RedisUrl = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(url.to_string(), shown);
            assert!(!format!("{url:?}").contains("s3cret"));
            assert_eq!(url.reveal(), text);
        }
        for bad in [
            "",
            "127.0.0.1:6379",
            "http://127.0.0.1",
            "redis://",
            "redis://:s3cret@127.0.0.1/notadb",
            "redis://:s3cret@127.0.0.1/?protocol=resp9",
            "redis+sentinel://127.0.0.1",
            "redis+sentinel://127.0.0.1/",
            "redis+sentinel://:s3cret@127.0.0.1:x/main",
            "redis+sentinel://:s3cret@127.0.0.1,/main",
            "redis+sentinel://:s3cret@127.0.0.1/main/notadb",
        ] {
            let error = bad.parse::<RedisUrl>().expect_err(bad);
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn sentinels_have_a_port_of_their_own() {
        let url: RedisUrl = "redis+sentinel://a:1,[::1],b/main".parse().unwrap();
        let Way::Sentinel { sentinels, service, .. } = url.way else { panic!("{url:?}") };
        let tcp = |host: &str, port| ConnectionAddr::Tcp(host.to_owned(), port);
        assert_eq!(sentinels, [tcp("a", 1), tcp("::1", SENTINEL_PORT), tcp("b", SENTINEL_PORT)]);
        assert_eq!(service, "main");
    }
}
