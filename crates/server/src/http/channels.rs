//! `GET /channels`.

use axum::body::Body;
use http::Response;
use serde::Serialize;
use tidings_hub::Hub;
use tidings_wire::{Channel, Pattern, Position};

use super::parameters::Parameters;
use super::{Call, answer, log};
use crate::Problem;

/// How many channels one answer has if nothing is said.
const CHANNELS: usize = 100;
/// How many channels one answer may have.
const MOST_CHANNELS: usize = 1000;

#[derive(Serialize)]
struct Answer {
    channels: Vec<Shown>,
    /// The next page's `after`, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

#[derive(Serialize)]
struct Shown {
    channel: String,
    newest: String,
    events: u64,
    bytes: u64,
}

/// `GET /channels`
pub(super) async fn list(call: Call) -> Result<Response<Body>, Problem> {
    let parameters = Parameters::read(call.parts.uri.query(), &["prefix", "limit", "after"])?;
    call.require_admin().await?;
    let prefix = parameters.one("prefix")?.unwrap_or_default().to_owned();
    let limit = parameters.count("limit", CHANNELS, MOST_CHANNELS)?;
    // The hub's own channels are in the list too.
    let after: Option<Channel> = match parameters.parsed::<Pattern>("after")? {
        None => None,
        Some(pattern) => Some(
            pattern
                .exact()
                .ok_or_else(|| Problem::bad_request("\"after\" is the name of a channel, not a pattern"))?,
        ),
    };
    let answer = log::read(&call.app, move |hub| find(hub, &prefix, after.as_ref(), limit)).await?;
    let answer = serde_json::to_string(&answer).map_err(|error| Problem::internal(error.to_string()))?;
    Ok(answer::json(answer))
}

fn find(hub: &Hub, prefix: &str, after: Option<&Channel>, limit: usize) -> Result<Answer, Problem> {
    let epoch = hub.log().head().epoch;
    let mut found = hub.log().channels(prefix, after, limit + 1).map_err(|error| log::not_read(&error))?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|info| info.channel.to_string());
    let shown = |info: tidings_hub::log::ChannelInfo| Shown {
        channel: info.channel.to_string(),
        newest: hub.key().seal(Position { epoch, sequence: info.newest }).to_string(),
        events: info.records,
        bytes: info.bytes,
    };
    Ok(Answer { channels: found.into_iter().map(shown).collect(), next })
}
