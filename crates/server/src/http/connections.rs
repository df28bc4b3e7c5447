//! `GET` and `DELETE /connections`, of all, of a user, or one.

use axum::body::Body;
use http::header::RETRY_AFTER;
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;
use tidings_hub::Timestamp;
use tidings_wire::{ConnectionId, Pattern, UserId};

use super::parameters::Parameters;
use super::{Call, answer, not_found};
use crate::auth::Identity;
use crate::{App, ConnectionFilter, ConnectionInfo, Problem};

/// How many connections one answer may have.
const MOST_CONNECTIONS: usize = 1000;

#[derive(Serialize)]
struct Answer {
    connections: Vec<Shown>,
    /// There are more.
    truncated: bool,
    /// Nodes that did not answer in time.
    #[serde(skip_serializing_if = "is_zero")]
    missing_nodes: usize,
}

#[derive(Serialize)]
struct Shown {
    connection: String,
    user: Option<String>,
    address: String,
    channels: Vec<String>,
    /// Unix milliseconds.
    since: u64,
    age_seconds: f64,
    bytes: u64,
    /// Its socket takes nothing just now.
    blocked: bool,
    /// How often it was told that it lost something.
    dropped: u64,
    /// How many events were passed over for it, of which newer ones came.
    skipped: u64,
    worker: usize,
}

impl Shown {
    fn new(info: &ConnectionInfo, now: Timestamp) -> Shown {
        Shown {
            connection: info.id.to_string(),
            user: info.user.as_ref().map(ToString::to_string),
            address: info.address.to_string(),
            channels: info.channels.iter().map(|view| view.as_str().to_owned()).collect(),
            since: info.since.0,
            age_seconds: now.since(info.since).as_secs_f64(),
            bytes: info.bytes,
            blocked: info.blocked,
            dropped: info.losses.gaps,
            skipped: info.losses.skipped,
            worker: info.worker,
        }
    }
}

/// `GET /connections`
pub(super) async fn list(call: Call) -> Result<Response<Body>, Problem> {
    let parameters = Parameters::read(call.parts.uri.query(), &["user", "channel"])?;
    let identity = call.identify().await?;
    let channel = match parameters.parsed::<Pattern>("channel")? {
        None => None,
        Some(pattern) => Some(
            pattern
                .exact()
                .ok_or_else(|| Problem::bad_request("\"channel\" is one channel here, not a pattern"))?,
        ),
    };
    let user = match parameters.parsed::<UserId>("user")? {
        None if !identity.admin => identity.user.clone(),
        user => user,
    };
    require_own(&identity, user.as_ref())?;
    let filter = ConnectionFilter { user, channel, id: None };
    let reached = call.app.connections(&filter, MOST_CONNECTIONS + 1).await;
    let mut connections = reached.found;
    let truncated = connections.len() > MOST_CONNECTIONS;
    connections.truncate(MOST_CONNECTIONS);
    let now = Timestamp::now();
    answer::document(&Answer {
        connections: connections.iter().map(|info| Shown::new(info, now)).collect(),
        truncated,
        missing_nodes: reached.missing,
    })
}

/// `GET /connections/{id}`
pub(super) async fn look(call: Call) -> Result<Response<Body>, Problem> {
    let info = named(&call).await?;
    answer::document(&Shown::new(&info, Timestamp::now()))
}

/// `DELETE /connections/{id}`
pub(super) async fn disconnect(call: Call) -> Result<Response<Body>, Problem> {
    let info = named(&call).await?;
    kick(&call.app, &ConnectionFilter { id: Some(info.id), ..ConnectionFilter::default() }).await
}

/// `DELETE /connections?user=`
pub(super) async fn disconnect_user(call: Call) -> Result<Response<Body>, Problem> {
    let parameters = Parameters::read(call.parts.uri.query(), &["user", "revoke"])?;
    let identity = call.identify().await?;
    let Some(user) = parameters.parsed::<UserId>("user")? else {
        return Err(Problem::bad_request("say which \"user\" is to be disconnected"));
    };
    require_own(&identity, Some(&user))?;
    if parameters.one("revoke")?.is_some() {
        return Err(Problem::not_implemented("tokens can't be revoked yet"));
    }
    kick(&call.app, &ConnectionFilter { user: Some(user), ..ConnectionFilter::default() }).await
}

async fn kick(app: &App, filter: &ConnectionFilter) -> Result<Response<Body>, Problem> {
    let reached = app.disconnect(filter).await;
    if reached.missing > 0 {
        return Err(nodes_silent(reached.missing));
    }
    Ok(answer::json(format!("{{\"disconnected\":{}}}", reached.found)))
}

/// An administrator may look at all, a user at what is its own.
pub(super) fn require_own(identity: &Identity, user: Option<&UserId>) -> Result<(), Problem> {
    match user {
        Some(user) if identity.user.as_ref() == Some(user) => Ok(()),
        _ => identity.require_admin(),
    }
}

/// 503: what was asked for is not done everywhere.
pub(super) fn nodes_silent(missing: usize) -> Problem {
    let detail = format!(
        "at least {missing} of the other nodes did not answer in time; those that did have done it. Try again"
    );
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "nodes_silent", "Not all nodes have answered", detail)
        .header(RETRY_AFTER, HeaderValue::from_static("1"))
}

/// For what is left out of an answer.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
pub(super) fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// The same answer for a connection that there is not and for one of somebody else.
pub(super) fn no_such() -> Problem {
    not_found("there is no such connection, or it is not yours")
}

/// A connection, if there is one.
///
/// # Errors
/// When the node that it may be on does not answer.
pub(super) async fn find(app: &App, id: ConnectionId) -> Result<Option<ConnectionInfo>, Problem> {
    let reached = app.connection(id).await;
    match reached.found {
        None if reached.missing > 0 => Err(nodes_silent(reached.missing)),
        found => Ok(found),
    }
}

/// The connection that the path names, if the caller may know of it. The id is no capability: who is not its user
/// gets the same answer as for one that there is not.
async fn named(call: &Call) -> Result<ConnectionInfo, Problem> {
    Parameters::read(call.parts.uri.query(), &[])?;
    let identity = call.identify().await?;
    if !identity.admin && identity.user.is_none() {
        identity.require_admin()?;
    }
    let id = call.parts.uri.path().rsplit('/').next().and_then(|id| id.parse::<ConnectionId>().ok());
    let found = match id {
        Some(id) => find(&call.app, id).await?,
        None => None,
    };
    let own = |info: &ConnectionInfo| info.user.is_some() && info.user == identity.user;
    found.filter(|info| identity.admin || own(info)).ok_or_else(no_such)
}
