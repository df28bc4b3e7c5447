//! Where Redis is, and what for: the log, what is read from it, or both.

use std::path::PathBuf;

use tidings::log_redis;
use tidings::log_redis::Ack;
use tidings_ingest_redis as ingest;
use tidings_ingest_redis::{StreamName, Topic};

use super::section::{Section, Setting, quoted};
use super::source::{Node, Origin};

/// Redis.
#[derive(Debug, Clone)]
pub(crate) struct RedisConfig {
    /// Where it is, if there is one.
    pub(crate) url: Option<RedisUrl>,
    /// The name of the hub whose log it has.
    pub(crate) name: String,
    /// What is waited for before an event counts as stored.
    pub(crate) ack: Ack,
    /// The file with the certificate that Redis's is signed by, in PEM.
    pub(crate) authority: Option<PathBuf>,
    /// Channels of Pub/Sub. `user:events`, the name that services use already.
    pub(crate) ingest: Vec<Topic>,
    /// Streams.
    pub(crate) ingest_streams: Vec<StreamName>,
}

/// Where Redis is.
#[derive(Debug, Clone)]
pub(crate) struct RedisUrl {
    /// For the log.
    pub(crate) log: log_redis::RedisUrl,
    /// For what is read.
    pub(crate) ingest: ingest::RedisUrl,
}

/// Shown without its password, and never quoted: a mistake in it may lie anywhere.
impl Setting for RedisUrl {
    fn read(node: &Node) -> Result<RedisUrl, String> {
        let text = String::read(node)?;
        let bad = |error: &dyn std::fmt::Display| format!("it can't be used: {error}");
        let ingest = text.parse().map_err(|error: ingest::BadRedisUrl| bad(&error))?;
        let log = text.parse().map_err(|error: log_redis::BadUrl| bad(&error))?;
        Ok(RedisUrl { log, ingest })
    }

    fn show(&self) -> String {
        quoted(&self.ingest.to_string())
    }
}

/// `log`: where it was said that Redis has the log, if it has.
pub(super) fn read(mut section: Section<'_>, log: Option<Origin>) -> RedisConfig {
    let url: Option<RedisUrl> = section.find("url");
    let has_url = section.has("url");
    let usual_name = "tidings".to_owned();
    let usual_topics = vec![Topic::Channel("user:events".to_owned())];
    let config = RedisConfig {
        name: section.get("name", usual_name.clone()),
        ack: section.get("ack", Ack::Master),
        authority: section.find("authority"),
        ingest: section.get("ingest", usual_topics.clone()),
        ingest_streams: section.get("ingest_streams", Vec::new()),
        url,
    };
    // A default, as `tidings check` prints it, is no wish.
    let of_log = [("name", config.name != usual_name), ("ack", config.ack != Ack::Master)];
    let of_ingest =
        [("ingest", config.ingest != usual_topics), ("ingest_streams", !config.ingest_streams.is_empty())];
    let wished = |wishes: &[(&'static str, bool)]| wishes.iter().find(|(_, is)| *is).map(|(name, _)| *name);
    match log {
        Some(origin) if !has_url => {
            section.mistake(origin, "log is redis, but not where Redis is: set redis.url".to_owned());
        }
        None if let Some(name) = wished(&of_log) => {
            let what = format!("redis.{name} is about the log, which is not in Redis: set log = \"redis\"");
            section.mistake(section.origin_of(name), what);
        }
        _ => {}
    }
    if let Some(name) = wished(&of_ingest)
        && !has_url
    {
        let what = format!("redis.{name} says what is read, but not from where: set redis.url");
        section.mistake(section.origin_of(name), what);
    }
    if config.authority.is_some() && !has_url {
        let what = "redis.authority says whose word counts for Redis, but not where that is: set redis.url";
        section.mistake(section.origin_of("authority"), what.to_owned());
    }
    section.finish();
    config
}
