//! What a server is told before it starts: checked values, never changed afterwards.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::str::FromStr;
use std::time::Duration;

use tidings_wire::Targets;
use tidings_wire::publication::Rules;

/// Everything about sockets and HTTP that can be chosen. [`ServerConfig::default`] is what a server without a
/// configuration has; each field says why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// Where the server listens. Loopback unless somebody decides otherwise: nobody exposes a server by accident.
    pub listen: SocketAddr,
    /// Where everything but what browsers need is to be had, if it is kept apart from `listen`.
    pub internal_listen: Option<SocketAddr>,
    /// What every path begins with. None, because most servers have a name of their own.
    pub base_path: BasePath,
    /// Anybody may do anything, on loopback.
    pub dev: bool,
    /// How many threads write streams: one for each core, for each has an epoll and subscribers of its own.
    pub workers: NonZeroUsize,
    /// How often a silent stream gets a heartbeat. 15 s: half of the 30 s after which the strictest proxies and
    /// balancers in use give a silent connection up.
    pub heartbeat: Duration,
    /// How long clients wait before they come back, before jitter. 3 s is what browsers take by themselves.
    pub retry: Duration,
    /// The longest `retry` that a publisher may set: five minutes, so that no publisher sends readers away for good.
    pub retry_max: Duration,
    /// What a stop takes at most. 10 s is what container runtimes wait before they kill.
    pub drain: Duration,
    /// How long a stream may go without an id before it gets one by `tidings:position`: a quarter of the shortest
    /// age in the retention, so that a quiet stream's cursor never falls out of it.
    pub position_after: Duration,
    /// What is limited in number and size.
    pub limits: LimitsConfig,
    /// What is limited in time.
    pub timeouts: TimeoutsConfig,
    /// How it is known who is there.
    pub presence: PresenceOptions,
}

impl ServerConfig {
    /// What a publisher may say.
    pub fn publication(&self) -> Rules {
        Rules {
            data: self.limits.data,
            batch: self.limits.batch,
            targets: self.limits.targets.min(Targets::MAX),
            retry_max: self.retry_max,
            user_id: false,
        }
    }
}

impl Default for ServerConfig {
    fn default() -> ServerConfig {
        ServerConfig {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4600),
            internal_listen: None,
            base_path: BasePath::default(),
            dev: false,
            workers: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            heartbeat: Duration::from_secs(15),
            retry: Duration::from_secs(3),
            retry_max: Duration::from_secs(300),
            drain: Duration::from_secs(10),
            position_after: Duration::from_secs(3600),
            limits: LimitsConfig::default(),
            timeouts: TimeoutsConfig::default(),
            presence: PresenceOptions::default(),
        }
    }
}

/// Limits in number and size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Streams in all. 100,000: what one machine of a few cores is sure to carry.
    pub connections: usize,
    /// Streams of one user. 20: six tabs in each of three browsers.
    pub per_user: usize,
    /// Streams from one address. 1,000: an office or a mobile network behind one address.
    pub per_address: usize,
    /// How long a stream lives, before jitter; then it ends and the client comes back, so that connections spread
    /// over the nodes there are now and no grant lives for ever. An hour.
    pub lifetime: Duration,
    /// The channels that one stream may ask for.
    pub channels: usize,
    /// Bytes of one event's data.
    pub data: usize,
    /// Bytes of one request's body (of an NDJSON stream: of one line). 16 MiB: the largest event's data fits in it
    /// even when JSON needs six bytes for each, and a batch of 10,000 events of 1.6 kB does.
    pub body: usize,
    /// Events in one batch.
    pub batch: usize,
    /// Targets of one event: channels and users.
    pub targets: usize,
    /// The largest `history=N` of a stream.
    pub history: usize,
    /// Bytes of a request's head. Cookies of a whole domain ride along; more than 32 KiB no proxy lets through.
    pub head: usize,
    /// Headers of a request.
    pub headers: usize,
    /// Bytes of a request's target (path and query).
    pub target: usize,
}

impl Default for LimitsConfig {
    fn default() -> LimitsConfig {
        LimitsConfig {
            connections: 100_000,
            per_user: 20,
            per_address: 1_000,
            lifetime: Duration::from_secs(3600),
            channels: 100,
            data: 1 << 20,
            body: 16 << 20,
            batch: 10_000,
            targets: 100,
            history: 1_000,
            head: 32 << 10,
            headers: 100,
            target: 8 << 10,
        }
    }
}

/// Limits in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeoutsConfig {
    /// For a request's head to be complete. 10 s: the slowest honest client needs one round trip.
    pub head: Duration,
    /// Between two pieces of a body. 30 s.
    pub body: Duration,
    /// Between two requests on one connection. 75 s: longer than the 60 s that nginx keeps an idle upstream
    /// connection, so that the proxy closes it and no request meets a closed socket.
    pub idle: Duration,
    /// For a stream that is behind to take a byte. 30 s; then it is cut and comes back with its own cursor.
    pub progress: Duration,
    /// How long a poll waits for an event. 25 s: less than the 30 s after which the strictest proxies give up.
    pub poll: Duration,
}

impl Default for TimeoutsConfig {
    fn default() -> TimeoutsConfig {
        TimeoutsConfig {
            head: Duration::from_secs(10),
            body: Duration::from_secs(30),
            idle: Duration::from_secs(75),
            progress: Duration::from_secs(30),
            poll: Duration::from_secs(25),
        }
    }
}

/// How it is known who is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresenceOptions {
    /// How long somebody may be gone before it is said. 5 s: a browser comes back after three.
    pub grace: Duration,
    /// Whether users' comings and goings are published in `$presence`. They are: who is not interested pays for one
    /// small event when a user comes and one when it goes, and nothing for streams without a user.
    pub online_events: bool,
}

impl Default for PresenceOptions {
    fn default() -> PresenceOptions {
        PresenceOptions { grace: Duration::from_secs(5), online_events: true }
    }
}

/// What every path of the server begins with: nothing, or `/` and levels, without a slash at the end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BasePath(String);

impl BasePath {
    /// The path, empty or beginning with a slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A request's path without the base path: what is left begins with `/`. `None` when it lies outside.
    pub fn strip<'a>(&self, path: &'a str) -> Option<&'a str> {
        path.strip_prefix(self.as_str()).filter(|rest| rest.starts_with('/'))
    }
}

impl fmt::Display for BasePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a base path is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadBasePath {
    /// It does not begin with a slash.
    #[error("it must begin with \"/\", like \"/push\"")]
    NoSlash,
    /// A level is empty, `.` or `..`.
    #[error("it has an empty level, \".\" or \"..\"")]
    Level,
    /// A character that stands for something else in a URL, or can't be in one.
    #[error("it contains the character {0:?}; letters, digits and - . _ ~ are allowed")]
    Character(char),
}

impl FromStr for BasePath {
    type Err = BadBasePath;

    /// One slash at the end is taken off: `/push/` is `/push`, and `/` is none.
    fn from_str(text: &str) -> Result<BasePath, BadBasePath> {
        let path = text.strip_suffix('/').unwrap_or(text);
        if path.is_empty() {
            return Ok(BasePath::default());
        }
        let levels = path.strip_prefix('/').ok_or(BadBasePath::NoSlash)?;
        if let Some(c) =
            levels.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '.' | '_' | '~' | '/'))
        {
            return Err(BadBasePath::Character(c));
        }
        if levels.split('/').any(|level| matches!(level, "" | "." | "..")) {
            return Err(BadBasePath::Level);
        }
        Ok(BasePath(path.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_paths_are_checked_and_taken_off() {
        for (text, path) in [("", ""), ("/", ""), ("/push", "/push"), ("/push/", "/push"), ("/a/b", "/a/b")] {
            assert_eq!(text.parse::<BasePath>().unwrap().as_str(), path, "{text:?}");
        }
        for (text, error) in [
            ("push", BadBasePath::NoSlash),
            ("//", BadBasePath::Level),
            ("/a//b", BadBasePath::Level),
            ("/../a", BadBasePath::Level),
            ("/a b", BadBasePath::Character(' ')),
            ("/a?b", BadBasePath::Character('?')),
        ] {
            assert_eq!(text.parse::<BasePath>(), Err(error), "{text:?}");
        }
        let push: BasePath = "/push".parse().unwrap();
        assert_eq!(push.strip("/push/events"), Some("/events"));
        assert_eq!(push.strip("/pushevents"), None);
        assert_eq!(push.strip("/events"), None);
        assert_eq!(BasePath::default().strip("/events"), Some("/events"));
    }
}
