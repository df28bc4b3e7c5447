//! `GET /channels`.

use axum::body::Body;
use http::Response;
use serde::Serialize;
use tidings_hub::Hub;
use tidings_hub::log::ChannelInfo;
use tidings_wire::{Channel, Event, Pattern, Position};

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
    /// Streams of this node.
    subscribers: usize,
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
    let mut found = log::read(&call.app, move |hub| find(hub, &prefix, after.as_ref(), limit)).await?;
    let next = found.get(limit).and(found.get(limit - 1)).map(|info| info.channel.to_string());
    found.truncate(limit);
    let epoch = call.app.hub.log().head().epoch;
    let mut channels = Vec::with_capacity(found.len());
    for info in found {
        let newest = Position { epoch, sequence: info.newest };
        channels.push(Shown {
            channel: info.channel.to_string(),
            newest: call.app.hub.key().seal(newest).to_string(),
            events: info.records,
            bytes: info.bytes,
            // Who would get an event there.
            subscribers: call.app.receivers(&Event::new(info.channel.into(), "".into())).await,
        });
    }
    answer::document(&Answer { channels, next })
}

/// One more than asked for, if there are so many.
fn find(hub: &Hub, prefix: &str, after: Option<&Channel>, limit: usize) -> Result<Vec<ChannelInfo>, Problem> {
    hub.log().channels(prefix, after, limit + 1).map_err(|error| log::not_read(&error))
}
