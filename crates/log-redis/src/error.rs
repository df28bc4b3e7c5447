//! Why a log on Redis can't be opened, and what goes wrong with it later.

use std::fmt;

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// Why a log on Redis can't be opened.
#[derive(Debug, thiserror::Error)]
#[error("the log on Redis at {at} can't be opened: {why}{}", self.hint())]
pub struct OpenError {
    pub(crate) at: String,
    pub(crate) why: String,
}

/// Nothing came within the time that an answer may take.
const SILENT: &str = "no answer in time";
/// What came is not what Redis says.
const ODD: &str = "an answer that can't be read";

impl OpenError {
    /// What may be wrong where somebody is there, but says nothing that Redis would say.
    fn hint(&self) -> &'static str {
        match [SILENT, ODD, "reset by peer"].iter().any(|what| self.why.ends_with(what)) {
            true => "; is that Redis, and does it speak TLS (rediss://) or not (redis://)?",
            false => "",
        }
    }
}

/// What went wrong. None of these texts has a password in it.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// No answer came: what was sent may have been done.
    Away(String),
    /// Redis refused: what was sent was not done.
    Refused(String),
    /// What was stored is not as durable yet as it is to be before anybody sees it.
    NotYet(String),
    /// Redis refused because its memory is full.
    Full(String),
    /// Another node of a cluster has the keys.
    Moved(String),
    /// There is no log in Redis, or only a part of one.
    Gone,
}

pub(crate) type Result<T> = std::result::Result<T, Trouble>;

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Away(what) => write!(f, "Redis is out of reach: {what}"),
            Trouble::Refused(what) | Trouble::Full(what) | Trouble::NotYet(what) => f.write_str(what),
            Trouble::Moved(to) => write!(f, "the log has moved to {to}"),
            Trouble::Gone => f.write_str("the log is gone from Redis"),
        }
    }
}

impl From<RedisError> for Trouble {
    fn from(error: RedisError) -> Trouble {
        if error.kind() == ErrorKind::Server(ServerErrorKind::Ask) {
            // Its keys go one by one, and scripts need several: so nothing goes until all of them have gone.
            return Trouble::Refused("the log is moving to another node of its cluster".to_owned());
        }
        if let Some((to, _)) = error.redirect_node() {
            return Trouble::Moved(to.to_owned());
        }
        match error.code() {
            Some("TIDINGSGONE") => Trouble::Gone,
            Some("TIDINGS") => Trouble::Refused(error.detail().unwrap_or_default().to_owned()),
            Some("OOM") => Trouble::Full(
                "Redis's memory is full (maxmemory): give it more, or keep less (retention_total.bytes)"
                    .to_owned(),
            ),
            Some("NOAUTH") => Trouble::Refused("Redis says NOAUTH: put a password into redis.url".to_owned()),
            Some(code) => Trouble::Refused(match error.detail() {
                Some(detail) => format!("Redis says {code} {detail}"),
                None => format!("Redis says {code}"),
            }),
            None if error.is_timeout() => Trouble::Away(SILENT.to_owned()),
            // An answer that can't be read is no answer.
            None if error.kind() == ErrorKind::Parse => Trouble::Away(ODD.to_owned()),
            None => {
                let what = error.to_string();
                // Without the number that the system has for it.
                Trouble::Away(what.split(" (os error").next().unwrap_or(&what).to_owned())
            }
        }
    }
}

/// Something in Redis that isn't what a node wrote.
pub(crate) fn damaged(what: impl fmt::Display) -> Trouble {
    Trouble::Refused(format!("the log in Redis is damaged: {what}"))
}
