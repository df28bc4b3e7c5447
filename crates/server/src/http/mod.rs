//! Everything over HTTP that is not a stream on HTTP/1.1: publishing, looking, managing, and the answers to what there
//! is not.

mod answer;
mod body;
mod channels;
mod connections;
mod description;
mod health;
mod history;
mod log;
mod metrics;
mod page;
mod parameters;
mod poll;
mod presence;
mod publish;
mod queues;
mod routes;
mod shown;
mod stats;
mod subscriptions;
#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::routing::any;
use http::header::{ALLOW, HeaderValue, ORIGIN, VARY};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use tidings_hub::Timestamp;
use tracing::{debug, error};

pub(crate) use self::publish::read_publication;
use self::routes::{Endpoint, Route};
pub(crate) use self::stats::document as stats_document;
use self::subscriptions::Form;
use crate::auth::Identity;
use crate::subscribe::asks_to_poll;
use crate::{App, Problem, stream};

/// Which of a server's two addresses a router is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The one that browsers reach, while there is another for the rest.
    Public,
    /// The other one. It has everything.
    Internal,
    /// The only one.
    Both,
}

/// The routes of one side. Streams come here only from who serves the router without our listener.
pub fn router(app: Arc<App>, side: Side) -> Router {
    let base = app.config.base_path.clone();
    let mut router = Router::new();
    for route in routes::routes().filter(|route| side != Side::Public || route.public) {
        let app = app.clone();
        let handler = move |request: Request<Body>| {
            let app = app.clone();
            async move { handle(app, Some(route), peer_of(&request), request).await }
        };
        router = router.route(&format!("{base}{}", route.path), any(handler));
    }
    router.fallback(move |request: Request<Body>| handle(app, None, peer_of(&request), request))
}

/// Without a listener of ours the peer is not known, and is nobody that anything is allowed to.
fn peer_of(request: &Request<Body>) -> SocketAddr {
    let known = request.extensions().get();
    known.map_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), |ConnectInfo(peer)| *peer)
}

/// Answers a `POST` to the path to publish at, as the router does.
pub(crate) async fn publish(app: Arc<App>, peer: SocketAddr, request: Request<Body>) -> Response<Body> {
    handle(app, Some(&routes::PUBLISH), peer, request).await
}

/// Answers a `GET` of events that is no stream, as the router does.
pub(crate) async fn events(app: Arc<App>, peer: SocketAddr, request: Request<Body>) -> Response<Body> {
    handle(app, Some(&routes::EVENTS), peer, request).await
}

/// One request.
struct Call {
    app: Arc<App>,
    parts: Parts,
    peer: SocketAddr,
}

impl Call {
    /// Who asks.
    async fn identify(&self) -> Result<Identity, Problem> {
        self.app.access.identify(&self.parts, self.peer, Timestamp::now()).await
    }

    /// Goes on only for an administrator.
    async fn require_admin(&self) -> Result<(), Problem> {
        self.identify().await?.require_admin()
    }
}

/// Answers one request, whatever it is. `None` is a path that there is not.
async fn handle(
    app: Arc<App>,
    route: Option<&'static Route>,
    peer: SocketAddr,
    request: Request<Body>,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    if parts.method == Method::OPTIONS
        && app.access.guard(&parts, peer).is_ok()
        && let Some(preflight) = app.cors.preflight(&parts)
    {
        return preflight;
    }
    // Back ends, which publish the most, send no Origin.
    let cross_origin = parts.headers.contains_key(ORIGIN).then(|| parts.clone());
    let (method, path) = (parts.method.clone(), parts.uri.path_and_query().cloned());
    let result = answer(route, Call { app: app.clone(), parts, peer }, body).await;
    let mut response = result.unwrap_or_else(|problem| {
        let id = app.request_id();
        // The query may hold a token, so only the path is logged.
        let path = path.as_ref().map_or("", |target| target.path());
        let (status, kind, detail) = (problem.status().as_u16(), problem.kind(), problem.detail());
        if problem.status().is_server_error() && problem.status() != StatusCode::NOT_IMPLEMENTED {
            error!(%id, %method, path, status, kind, detail, "request failed");
        } else {
            debug!(%id, %method, path, status, kind, detail, "request refused");
        }
        problem.response(&id)
    });
    match cross_origin {
        Some(parts) => app.cors.apply(&parts, response.headers_mut()),
        // What a cache keeps of this answer is not for a page of another origin.
        None => {
            response.headers_mut().append(VARY, HeaderValue::from_static("Origin"));
        }
    }
    response
}

async fn answer(route: Option<&'static Route>, call: Call, body: Body) -> Result<Response<Body>, Problem> {
    let endpoint = route.and_then(|route| route.endpoint(&call.parts.method));
    if endpoint == Some(Endpoint::Publish) {
        // Asks who it is before anything else, and with that what `guard` asks.
        return publish::publish(call, body).await;
    }
    call.app.access.guard(&call.parts, call.peer)?;
    let Some(route) = route else {
        return Err(not_found("there is nothing at this path; see /openapi.json"));
    };
    let endpoint = match endpoint {
        Some(endpoint) => endpoint,
        None if call.parts.method == Method::OPTIONS => return Ok(options(route)),
        None => return Err(method_not_allowed(route)),
    };
    // Kept out of the future of a publish, which is the one that is made all the time.
    Box::pin(manage(endpoint, call, body)).await
}

async fn manage(endpoint: Endpoint, call: Call, body: Body) -> Result<Response<Body>, Problem> {
    match endpoint {
        Endpoint::Publish => Err(Problem::internal("a publish came the wrong way")),
        Endpoint::Stream if asks_to_poll(call.parts.uri.query()) => poll::poll(call).await,
        Endpoint::Stream => stream::relay(&call.app, call.parts, call.peer).await,
        Endpoint::History => history::read(call).await,
        Endpoint::Purge => history::purge(call).await,
        Endpoint::Channels => channels::list(call).await,
        Endpoint::Healthz => Ok(health::alive()),
        Endpoint::Readyz => health::ready(&call.app),
        Endpoint::Description => Ok(description::description()),
        Endpoint::Page => page::page(&call.app),
        Endpoint::Connections => connections::list(call).await,
        Endpoint::Connection => connections::look(call).await,
        Endpoint::Disconnect => connections::disconnect(call).await,
        Endpoint::DisconnectUser => connections::disconnect_user(call).await,
        Endpoint::Subscriptions => subscriptions::change(call, body, Form::Full).await,
        Endpoint::Subscribe => subscriptions::change(call, body, Form::Plain).await,
        Endpoint::Presence => presence::members(call).await,
        Endpoint::Users => presence::users(call).await,
        Endpoint::Acknowledge => queues::acknowledge(call, body).await,
        Endpoint::Queues => queues::look(call).await,
        Endpoint::FlushQueues => queues::flush(call).await,
        Endpoint::Stats => stats::stats(call).await,
        Endpoint::Metrics => metrics::metrics(call).await,
        Endpoint::Later(what) => Err(Problem::not_implemented(what)),
    }
}

fn not_found(detail: impl Into<std::borrow::Cow<'static, str>>) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not_found", "Not found", detail)
}

fn method_not_allowed(route: &Route) -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "Method not allowed",
        format!("{} knows {}", route.path, route.allow()),
    )
    .header(ALLOW, allow(route))
}

/// What a request asks that only wants to know what it may.
fn options(route: &Route) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(ALLOW, allow(route));
    response
}

fn allow(route: &Route) -> HeaderValue {
    // Methods are ASCII letters.
    HeaderValue::from_str(&route.allow()).unwrap_or(HeaderValue::from_static("GET"))
}
