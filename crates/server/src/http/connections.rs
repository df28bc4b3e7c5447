//! `GET` and `DELETE /connections`, of all, of a user, or one.

use axum::body::Body;
use http::Response;
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
    let mut connections = match call.app.workers() {
        Some(workers) => workers.connections(&filter, MOST_CONNECTIONS + 1).await,
        None => Vec::new(),
    };
    let truncated = connections.len() > MOST_CONNECTIONS;
    connections.truncate(MOST_CONNECTIONS);
    let now = Timestamp::now();
    answer::document(&Answer {
        connections: connections.iter().map(|info| Shown::new(info, now)).collect(),
        truncated,
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
    // Who polls has no connection to be named by; it comes back, and is asked anew what it may.
    call.app.polls.release(&user);
    kick(&call.app, &ConnectionFilter { user: Some(user), ..ConnectionFilter::default() }).await
}

async fn kick(app: &App, filter: &ConnectionFilter) -> Result<Response<Body>, Problem> {
    let disconnected = match app.workers() {
        Some(workers) => workers.disconnect(filter).await,
        None => 0,
    };
    Ok(answer::json(format!("{{\"disconnected\":{disconnected}}}")))
}

/// An administrator may look at all, a user at what is its own.
pub(super) fn require_own(identity: &Identity, user: Option<&UserId>) -> Result<(), Problem> {
    match user {
        Some(user) if identity.user.as_ref() == Some(user) => Ok(()),
        _ => identity.require_admin(),
    }
}

/// The same answer for a connection that there is not and for one of somebody else.
pub(super) fn no_such() -> Problem {
    not_found("there is no such connection on this node, or it is not yours")
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
    let found = match (id, call.app.workers()) {
        (Some(id), Some(workers)) => workers.connection(id).await,
        _ => None,
    };
    let own = |info: &ConnectionInfo| info.user.is_some() && info.user == identity.user;
    found.filter(|info| identity.admin || own(info)).ok_or_else(no_such)
}
