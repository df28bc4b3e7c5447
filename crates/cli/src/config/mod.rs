//! The configuration: flags beat the environment, which beats the file; all of it becomes one checked [`Config`].

mod auth;
mod redis;
mod section;
mod source;
#[cfg(test)]
mod tests;
mod units;

use std::cell::RefCell;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tidings::hub::log::{Caps, Retention};
use tidings::server::{LimitsConfig, PresenceOptions, ServerConfig, TimeoutsConfig};
use tidings::wire::Pattern;
use tracing_subscriber::EnvFilter;

pub(crate) use auth::AuthConfig;
pub(crate) use redis::RedisConfig;
pub(crate) use source::{Node, Origin, Raw};
pub(crate) use units::parse_duration;

use auth::Credentials;
use section::{Findings, Section, Setting, Size, similar};
use source::Table;

/// Everything that a command needs to know, checked and never changed afterwards.
#[derive(Debug)]
pub(crate) struct Config {
    /// Sockets and HTTP.
    pub(crate) server: ServerConfig,
    /// Where the log, the secrets and the API keys are. `data` in the current directory: found at once by who tries it.
    pub(crate) data_dir: PathBuf,
    /// Which log, on disk unless said otherwise: what was answered with 200 is there after a crash.
    pub(crate) log: LogKind,
    /// When an answered publish is on the disk.
    pub(crate) sync: Sync,
    /// What is kept.
    pub(crate) retention: Retention,
    /// How much of the past one stream gets at once.
    pub(crate) replay: Replay,
    /// Where Redis is, and what for.
    pub(crate) redis: RedisConfig,
    /// Who may do what.
    pub(crate) auth: AuthConfig,
    /// What is written to the log of the process.
    pub(crate) log_filter: LogFilter,
    /// How it is written.
    pub(crate) log_format: LogFormat,
    /// Every setting with its value and where that comes from.
    pub(crate) entries: Vec<Entry>,
}

/// Which log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogKind {
    Memory,
    Disk,
    /// In Redis, so that many nodes are one hub.
    Redis,
}

/// When an answered publish is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sync {
    /// Before the answer.
    Always,
    /// At most so long after it.
    Every(Duration),
    /// When the system gets to it.
    Never,
}

/// How much of the past one stream gets at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Replay {
    pub(crate) bytes: u64,
    pub(crate) age: Option<Duration>,
}

/// What the process logs, in the terms of `RUST_LOG`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogFilter(pub(crate) String);

/// How the process writes its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For people on a terminal, JSON otherwise.
    Auto,
    Human,
    Json,
}

/// One setting as it came out.
#[derive(Debug)]
pub(crate) struct Entry {
    /// `[limits]`, or nothing for the settings at the top.
    heading: String,
    /// Whether it is its section's first.
    begins: bool,
    name: &'static str,
    value: String,
    origin: Origin,
}

/// Something that is wrong, and where it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mistake {
    pub(crate) origin: Origin,
    pub(crate) what: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Default => f.write_str(&self.what),
            origin => write!(f, "{origin}: {}", self.what),
        }
    }
}

/// All that is wrong with a configuration.
#[derive(Debug)]
pub(crate) struct Mistakes(pub(crate) Vec<Mistake>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => f.write_str("the configuration has a mistake:")?,
            n => write!(f, "the configuration has {n} mistakes:")?,
        }
        self.0.iter().try_for_each(|mistake| write!(f, "\n  {mistake}"))
    }
}

impl std::error::Error for Mistakes {}

/// What a configuration is made from.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    /// The file's path and text.
    pub(crate) file: Option<(PathBuf, String)>,
    /// The process's environment.
    pub(crate) environment: Vec<(String, String)>,
    /// What was typed.
    pub(crate) flags: Flags,
}

/// Flags by the setting that they set.
#[derive(Debug, Default)]
pub(crate) struct Flags(Vec<(&'static str, Node)>);

impl Flags {
    /// Adds a flag if it was typed.
    pub(crate) fn add(&mut self, setting: &'static str, flag: &'static str, value: Option<&str>) {
        if let Some(value) = value {
            let node = Node { value: Raw::Text(value.to_owned()), origin: Origin::Flag(flag) };
            self.0.push((setting, node));
        }
    }
}

impl Sources {
    /// Reads the file, if there is one, and the environment of this process.
    pub(crate) fn gather(file: Option<&Path>, flags: Flags) -> Result<Sources, Mistakes> {
        let environment: Vec<(String, String)> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let named =
            environment.iter().find(|(name, _)| name == "TIDINGS_CONFIG").map(|(_, path)| path.into());
        let file = match file.map(Path::to_owned).or(named) {
            None => None,
            Some(path) => match std::fs::read_to_string(&path) {
                Ok(text) => Some((path, text)),
                Err(error) => {
                    let what = format!("{}: it can't be read: {error}", path.display());
                    return Err(Mistakes(vec![Mistake { origin: Origin::Default, what }]));
                }
            },
        };
        Ok(Sources { file, environment, flags })
    }
}

/// Settings at the top: what `TIDINGS_…` without `__` may name.
const TOP: [&str; 24] = [
    "listen",
    "internal_listen",
    "base_path",
    "dev",
    "data_dir",
    "log",
    "sync",
    "heartbeat",
    "retry",
    "drain",
    "workers",
    "log_level",
    "log_format",
    "limits",
    "timeouts",
    "replay",
    "presence",
    "auth",
    "cors",
    "retention",
    "retention_total",
    "redis",
    "authorize",
    "webhook",
];

impl Config {
    /// Checks everything that was said and reports all mistakes together.
    pub(crate) fn check(sources: Sources) -> Result<Config, Mistakes> {
        let mut mistakes = Vec::new();
        let mut table = match &sources.file {
            Some((path, text)) => source::from_toml(path, text, &mut mistakes),
            None => Table::new(),
        };
        let variable = |wanted: &str| {
            let found = sources.environment.iter().find(|(name, _)| name == wanted);
            found.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
        };
        let credentials =
            Credentials { jwt_secret: variable("TIDINGS_JWT_SECRET"), api_key: variable("TIDINGS_API_KEY") };
        // A name that is nearly a setting's is taken for one, and refused with a hint.
        let is_setting = |name: &str| similar(name, &TOP).is_some();
        if let Some(filter) = variable("RUST_LOG") {
            let node = Node { value: Raw::Text(filter), origin: Origin::Environment("RUST_LOG".to_owned()) };
            table.insert("log_level".to_owned(), node);
        }
        source::lay_environment(&mut table, sources.environment, is_setting, &mut mistakes);
        for (path, node) in sources.flags.0 {
            let path: Vec<String> = path.split('.').map(str::to_owned).collect();
            source::lay(&mut table, &path, node, &mut mistakes);
        }
        let findings = RefCell::new(Findings { mistakes, entries: Vec::new() });
        let mut config = read(Section::root(table, &findings), credentials);
        let mut findings = findings.into_inner();
        // As somebody who corrects the file meets them; what was said elsewhere comes after it.
        findings.mistakes.sort_by_key(|mistake| match mistake.origin {
            Origin::File { line, .. } => line,
            _ => usize::MAX,
        });
        config.entries = findings.entries;
        if findings.mistakes.is_empty() { Ok(config) } else { Err(Mistakes(findings.mistakes)) }
    }

    /// The configuration as a file that would mean the same, each line with where its value comes from. Secrets are
    /// hidden.
    pub(crate) fn effective(&self) -> String {
        let mut text = String::new();
        let mut heading = "";
        for entry in &self.entries {
            if entry.heading != heading || (entry.begins && !heading.is_empty()) {
                heading = &entry.heading;
                text.push_str(&format!("\n{heading}\n"));
            }
            let line = format!("{} = {}", entry.name, entry.value);
            text.push_str(&format!("{line:<48}  # {}\n", entry.origin));
        }
        text
    }
}

fn read(mut root: Section<'_>, credentials: Credentials) -> Config {
    let mut server = ServerConfig::default();
    server.listen = root.get("listen", server.listen);
    server.internal_listen = root.find("internal_listen");
    server.base_path = root.get("base_path", server.base_path);
    let dev_origin = root.origin_of("dev");
    server.dev = root.get("dev", false);
    let data_dir = root.get("data_dir", PathBuf::from("data"));
    let log = root.get("log", LogKind::Disk);
    let sync = root.get("sync", Sync::Always);
    // Below 100 ms heartbeats would be the load; above 10 minutes no proxy keeps the connection.
    server.heartbeat =
        root.within("heartbeat", server.heartbeat, Duration::from_millis(100)..=Duration::from_secs(600));
    server.retry = root.within("retry", server.retry, Duration::from_millis(10)..=server.retry_max);
    server.drain = root.within("drain", server.drain, Duration::ZERO..=Duration::from_secs(3600));
    let workers = root.within("workers", server.workers.get() as u64, 1..=1024);
    server.workers = NonZeroUsize::new(usize_of(workers)).unwrap_or(server.workers);
    let log_filter = root.get("log_level", LogFilter("info".to_owned()));
    let log_format = root.get("log_format", LogFormat::Auto);

    for (name, address) in [("listen", Some(server.listen)), ("internal_listen", server.internal_listen)] {
        if server.dev && address.is_some_and(|address| !address.ip().is_loopback()) {
            let what = format!(
                "dev lets anybody do anything, so {name} must be on loopback (127.0.0.1 or [::1]); \
                 without dev, tokens and keys say who may do what"
            );
            root.mistake(dev_origin.clone(), what);
        }
    }
    if server.internal_listen.is_some_and(|internal| internal == server.listen && internal.port() != 0) {
        root.mistake(
            root.origin_of("internal_listen"),
            "internal_listen is the same address as listen".to_owned(),
        );
    }

    server.limits = read_limits(root.section("limits"), server.limits);
    server.timeouts = read_timeouts(root.section("timeouts"), server.timeouts);
    let replay = read_replay(root.section("replay"));
    server.presence = read_presence(root.section("presence"), server.presence);
    let log_origin = root.origin_of("log");
    let redis = redis::read(root.section("redis"), (log == LogKind::Redis).then_some(log_origin));
    let auth = auth::read(root.section("auth"), root.section("cors"), credentials, &data_dir, server.dev);
    let retention = read_retention(&mut root, log);
    server.position_after = position_after(&retention, server.position_after);
    for later in ["authorize", "webhook", "tls"] {
        root.later(later);
    }
    root.finish();
    Config {
        server,
        data_dir,
        log,
        sync,
        retention,
        replay,
        redis,
        auth,
        log_filter,
        log_format,
        entries: Vec::new(),
    }
}

fn read_presence(mut section: Section<'_>, default: PresenceOptions) -> PresenceOptions {
    // Above an hour nobody would call it presence.
    let grace = section.within("grace", default.grace, Duration::ZERO..=Duration::from_secs(3600));
    let online_events = section.get("online_events", default.online_events);
    section.finish();
    PresenceOptions { grace, online_events }
}

fn read_limits(mut section: Section<'_>, default: LimitsConfig) -> LimitsConfig {
    let mut limits = default;
    limits.connections = count(&mut section, "connections", limits.connections);
    limits.per_user = count(&mut section, "per_user", limits.per_user);
    limits.per_address = count(&mut section, "per_address", limits.per_address);
    // Under a second a stream would be nothing but its own opening.
    limits.lifetime = section.within(
        "lifetime",
        limits.lifetime,
        Duration::from_secs(1)..=Duration::from_secs(30 * 86_400),
    );
    limits.channels = count(&mut section, "channels", limits.channels);
    // The log keeps an event's data as one value; 64 MiB is more than any client reads at once.
    let data = section.within("data", Size(limits.data as u64), Size(1)..=Size(64 << 20));
    limits.data = usize_of(data.0);
    let body_origin = section.origin_of("body");
    let body = section.get("body", Size(limits.body.max(limits.data * 2) as u64));
    limits.body = usize_of(body.0);
    if limits.body < limits.data {
        section.mistake(
            body_origin,
            "limits.body is less than limits.data: no event of that size could be sent".to_owned(),
        );
    }
    section.finish();
    limits
}

fn read_timeouts(mut section: Section<'_>, default: TimeoutsConfig) -> TimeoutsConfig {
    let range = Duration::from_millis(100)..=Duration::from_secs(3600);
    let timeouts = TimeoutsConfig {
        head: section.within("head", default.head, range.clone()),
        body: section.within("body", default.body, range.clone()),
        idle: section.within("idle", default.idle, range.clone()),
        progress: section.within("progress", default.progress, range.clone()),
        poll: section.within("poll", default.poll, range),
    };
    section.finish();
    timeouts
}

/// 64 MiB is a day of a lively feed and does not keep a returning phone busy for minutes; what lies further back is
/// better fetched by the page's own means, and the gap says so. No cap by age: retention is one already.
fn read_replay(mut section: Section<'_>) -> Replay {
    let bytes = section.within("bytes", Size(64 << 20), Size(1 << 10)..=Size(1 << 40)).0;
    let age = section.find("age");
    section.finish();
    Replay { bytes, age }
}

/// For how long events are kept if nothing is said.
const WEEK: Duration = Duration::from_secs(7 * 86_400);
/// How many events are kept for each user if nothing is said: more than somebody reads who was away.
const USER_EVENTS: u64 = 1_000;

/// A week by default: who was away over a weekend or a short holiday misses nothing, and a forgotten server does not
/// fill its disk. In all 4 GiB on disk, a tenth of a small machine's; 256 MiB in memory, be it that of Redis.
fn read_retention(root: &mut Section<'_>, log: LogKind) -> Retention {
    let mut rules = Vec::new();
    let mut default = None;
    let mut given = root.sections("retention").into_iter().peekable();
    while let Some(mut section) = given.next() {
        let pattern: Option<Pattern> = section.find("channels");
        let mut caps = read_caps(&mut section, Caps::default());
        caps.state_only = section.get("state_only", false);
        let everything = pattern.as_ref().is_none_or(|pattern| pattern.as_str() == "**");
        match pattern {
            _ if everything && given.peek().is_none() => default = Some(caps),
            Some(pattern) => rules.push((pattern, caps)),
            None => section.mistake(
                section.origin().clone(),
                "a [[retention]] without channels is the default for all, so it must be the last".to_owned(),
            ),
        }
        section.finish();
    }
    let default = default.unwrap_or_else(|| {
        // What is sent to a user waits for its devices. A rule for users beats this, and so does one for all.
        if let Ok(users) = "$user/*".parse::<Pattern>()
            && rules.iter().all(|(pattern, _)| !pattern.covers(&users))
        {
            let mut unsaid = root.unsaid("retention");
            let users = unsaid.get("channels", users);
            rules.push((users, unsaid_caps(&mut unsaid, Some(USER_EVENTS))));
        }
        unsaid_caps(&mut root.unsaid("retention"), None)
    });
    let bytes = match log {
        LogKind::Disk => 4 << 30,
        // Redis has all of it in memory, and so has every node.
        LogKind::Memory | LogKind::Redis => 256 << 20,
    };
    let mut section = root.section("retention_total");
    let total = read_caps(&mut section, Caps { bytes: Some(bytes), ..Caps::default() });
    section.finish();
    Retention { rules, default, total }
}

/// What is kept where nothing is said.
fn unsaid_caps(section: &mut Section<'_>, count: Option<u64>) -> Caps {
    let age = Some(section.get("age", WEEK));
    let count = count.map(|count| section.get("count", count));
    Caps { age, count, state_only: section.get("state_only", false), ..Caps::default() }
}

fn read_caps(section: &mut Section<'_>, default: Caps) -> Caps {
    let ages = Duration::from_secs(1)..=Duration::from_secs(100 * 365 * 86_400);
    let sizes = Size(1)..=Size(1 << 50);
    Caps {
        age: section.find_within("age", ages).or(default.age),
        count: section.find_within("count", 1..=1 << 50).or(default.count),
        bytes: match default.bytes {
            Some(bytes) => Some(section.within("bytes", Size(bytes), sizes).0),
            None => section.find_within("bytes", sizes).map(|size| size.0),
        },
        // Which event is the newest of its key is asked of one channel: not of all together.
        state_only: default.state_only,
    }
}

/// A quarter of the shortest age that anything is kept for.
fn position_after(retention: &Retention, longest: Duration) -> Duration {
    let caps = retention.rules.iter().map(|(_, caps)| caps).chain([&retention.default, &retention.total]);
    let shortest = caps.filter_map(|caps| caps.age).min();
    shortest.map_or(longest, |age| (age / 4).clamp(Duration::from_millis(250), longest))
}

fn count(section: &mut Section<'_>, name: &'static str, default: usize) -> usize {
    usize_of(section.within(name, default as u64, 1..=u64::from(u32::MAX)))
}

fn usize_of(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// One of several words.
fn word<T: Copy>(node: &Node, words: &[(&str, T)]) -> Result<T, String> {
    let text = String::read(node)?;
    match words.iter().find(|(word, _)| *word == text) {
        Some((_, value)) => Ok(*value),
        None => {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            Err(format!("{text:?} is none of {}", known.join(", ")))
        }
    }
}

const LOGS: [(&str, LogKind); 3] =
    [("memory", LogKind::Memory), ("disk", LogKind::Disk), ("redis", LogKind::Redis)];

impl Setting for LogKind {
    fn read(node: &Node) -> Result<LogKind, String> {
        word(node, &LOGS)
    }

    fn show(&self) -> String {
        let name = LOGS.iter().find(|(_, log)| log == self).map_or("disk", |(name, _)| name);
        section::quoted(name)
    }
}

impl Setting for Sync {
    fn read(node: &Node) -> Result<Sync, String> {
        match String::read(node)?.as_str() {
            "always" => Ok(Sync::Always),
            "never" => Ok(Sync::Never),
            text => match units::parse_duration(text) {
                Ok(every) if every.is_zero() => Ok(Sync::Always),
                Ok(every) if every > Duration::from_secs(60) => {
                    Err(format!("{text:?} is too long: at most a minute, or never"))
                }
                Ok(every) => Ok(Sync::Every(every)),
                Err(_) => Err(format!("{text:?} is none of always, never, and a duration like 100ms")),
            },
        }
    }

    fn show(&self) -> String {
        match self {
            Sync::Always => section::quoted("always"),
            Sync::Every(every) => every.show(),
            Sync::Never => section::quoted("never"),
        }
    }
}

impl Setting for LogFilter {
    fn read(node: &Node) -> Result<LogFilter, String> {
        let text = String::read(node)?;
        match EnvFilter::try_new(&text) {
            Ok(_) => Ok(LogFilter(text)),
            Err(error) => {
                Err(format!("{text:?} is neither error, warn, info, debug, trace nor a filter: {error}"))
            }
        }
    }

    fn show(&self) -> String {
        section::quoted(&self.0)
    }
}

const LOG_FORMATS: [(&str, LogFormat); 3] =
    [("auto", LogFormat::Auto), ("human", LogFormat::Human), ("json", LogFormat::Json)];

impl Setting for LogFormat {
    fn read(node: &Node) -> Result<LogFormat, String> {
        word(node, &LOG_FORMATS)
    }

    fn show(&self) -> String {
        let name = LOG_FORMATS.iter().find(|(_, format)| format == self).map_or("auto", |(name, _)| name);
        section::quoted(name)
    }
}
