//! `GET /presence`: who is in a channel. `GET /users`: who is there at all.

use std::collections::BTreeSet;

use axum::body::Body;
use http::Response;
use serde::Serialize;
use serde_json::value::RawValue;
use tidings_hub::{Hub, Present, Standing, Timestamp};
use tidings_wire::{Pattern, UserId};

use super::connections::is_zero;
use super::parameters::Parameters;
use super::{Call, answer, log};
use crate::{Problem, presence};

/// How many users an answer has if nothing is said.
const USERS: usize = 100;
/// How many users an answer may have.
const MOST_USERS: usize = 1000;
/// How many users may be asked for.
const MOST_ASKED: usize = 100;

#[derive(Serialize)]
struct Members<'a> {
    channel: &'a str,
    connections: u64,
    users: Vec<Member<'a>>,
    /// There are more users.
    truncated: bool,
    /// Nodes that did not answer in time, and whose members are not among these.
    #[serde(skip_serializing_if = "is_zero")]
    missing_nodes: usize,
}

#[derive(Serialize)]
struct Member<'a> {
    user: &'a str,
    connections: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    info: Option<Box<RawValue>>,
}

impl<'a> Member<'a> {
    fn new(present: &'a Present) -> Member<'a> {
        // It was JSON in the token.
        let info = present.info.as_deref().and_then(|text| RawValue::from_string(text.to_owned()).ok());
        Member { user: present.user.as_str(), connections: present.connections, info }
    }
}

/// `GET /presence`
pub(super) async fn members(call: Call) -> Result<Response<Body>, Problem> {
    let parameters = Parameters::read(call.parts.uri.query(), &["channel", "limit"])?;
    let identity = call.identify().await?;
    let Some(pattern) = parameters.parsed::<Pattern>("channel")? else {
        return Err(Problem::bad_request("say of which \"channel\" it is to be said who is there"));
    };
    let Some(channel) = pattern.exact() else {
        return Err(Problem::bad_request("\"channel\" is one channel here, not a pattern"));
    };
    identity.require_presence(&pattern)?;
    let limit = parameters.count("limit", USERS, MOST_USERS)?;
    let (roll, missing_nodes) = call.app.members(&channel, limit).await;
    answer::document(&Members {
        channel: channel.as_str(),
        connections: roll.connections,
        users: roll.users.iter().map(Member::new).collect(),
        truncated: roll.truncated,
        missing_nodes,
    })
}

#[derive(Serialize)]
struct User<'a> {
    user: &'a str,
    online: bool,
    connections: u32,
    /// Unix milliseconds.
    last_seen: Option<u64>,
}

/// `GET /users`
pub(super) async fn users(call: Call) -> Result<Response<Body>, Problem> {
    let parameters = Parameters::read(call.parts.uri.query(), &["user"])?;
    call.require_admin().await?;
    let mut asked = Vec::new();
    for text in parameters.all("user") {
        if asked.len() == MOST_ASKED {
            return Err(Problem::bad_request(format!("{MOST_ASKED} users may be asked for at once")));
        }
        let user: UserId = text.parse().map_err(|bad| Problem::bad_request(format!("\"user\": {bad}")))?;
        asked.push(user);
    }
    if asked.is_empty() {
        return Err(Problem::bad_request("say which \"user\", or which of them, is looked for"));
    }
    let standings = call.app.standings(&asked);
    let away: BTreeSet<UserId> =
        asked.iter().zip(&standings).filter(|(_, s)| s.is_none()).map(|(user, _)| user.clone()).collect();
    let seen = match away.is_empty() {
        true => Vec::new(),
        false => {
            let find = move |hub: &Hub| presence::last_seen(hub, &away);
            log::read(&call.app, move |hub| find(hub).map_err(|error| log::not_read(&error))).await?
        }
    };
    let now = Timestamp::now();
    let shown = |user: &'_ UserId, standing: Option<Standing>| {
        let noted = || seen.iter().find(|(other, _)| other == user).map(|(_, at)| *at);
        match standing {
            // Who has a connection is seen at this moment.
            Some(Standing { connections, left }) => (connections, left.or(Some(now))),
            None => (0, noted()),
        }
    };
    let users = asked.iter().zip(standings).map(|(user, standing)| {
        let (connections, last_seen) = shown(user, standing);
        let last_seen = last_seen.map(|at| at.0);
        User { user: user.as_str(), online: standing.is_some(), connections, last_seen }
    });
    answer::document(&users.collect::<Vec<_>>())
}
