//! The router on a real hub with a log in memory, asked without sockets.

mod access;
mod cluster;
mod connections;
mod disk;
mod ends;
mod history;
mod line;
mod lines;
mod once;
mod polling;
mod presence;
mod publish;
mod surface;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use tidings_hub::log::{Log, MemoryLog, MemoryLogConfig, Retention};
use tidings_hub::{Hub, HubConfig, Start, Subscribe, Subscription, Timestamp, View};
use tidings_wire::{CursorKey, Epoch, Pattern};
use tower::ServiceExt;

use super::{Side, router};
use crate::auth::{Access, AccessConfig, Cors, GrantTemplates, KeyConfig, NewToken, Secret};
use crate::{App, ServerConfig};

/// A server without a socket.
struct Server {
    app: Arc<App>,
    router: Router,
}

/// What was answered.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The problem document, checked to be a whole one.
    #[track_caller]
    fn problem(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["status"], status);
        for field in ["type", "title", "detail", "request_id"] {
            assert!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {problem}");
        }
        problem
    }

    /// JSON that is no problem.
    #[track_caller]
    fn ok(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text());
        assert_eq!(self.headers["content-type"], "application/json");
        self.json()
    }

    /// The lines of NDJSON.
    fn lines(&self) -> Vec<Value> {
        assert_eq!(self.headers["content-type"], "application/x-ndjson");
        self.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Server {
    fn new() -> Server {
        Server::with(ServerConfig::default())
    }

    fn with(config: ServerConfig) -> Server {
        Server::made(config, AccessConfig { dev: true, ..AccessConfig::default() }, Retention::default())
    }

    fn retaining(retention: Retention) -> Server {
        let access = AccessConfig { dev: true, ..AccessConfig::default() };
        Server::made(ServerConfig::default(), access, retention)
    }

    fn made(config: ServerConfig, access: AccessConfig, retention: Retention) -> Server {
        Server::on(Arc::new(MemoryLog::new(MemoryLogConfig { epoch: Epoch(7), retention })), config, access)
    }

    fn on(log: Arc<dyn Log>, config: ServerConfig, access: AccessConfig) -> Server {
        let hub = Hub::start(log, HubConfig::new(CursorKey::new([7; 16]))).unwrap();
        let cors = Cors::new(access.origins.clone());
        let app = Arc::new(App::new(hub, Access::new(access).unwrap(), cors, config));
        Server { router: router(app.clone(), Side::Both), app }
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    async fn call(&self, method: &str, target: &str) -> Answer {
        self.send(request(method, target, Body::empty())).await
    }

    async fn get(&self, target: &str) -> Answer {
        self.call("GET", target).await
    }

    async fn post(&self, target: &str, content_type: &str, body: impl Into<Body>) -> Answer {
        let mut request = request("POST", target, body.into());
        if !content_type.is_empty() {
            request.headers_mut().insert("content-type", content_type.parse().unwrap());
        }
        self.send(request).await
    }

    /// Publishes JSON and returns the event's id.
    async fn publish(&self, body: &str) -> String {
        let answer = self.post("/publish", "application/json", body.to_owned()).await.ok();
        answer["id"].as_str().unwrap().to_owned()
    }

    /// A subscriber of all that is kept.
    fn subscribe(&self, pattern: &str) -> Subscription {
        let view = View::from(pattern.parse::<Pattern>().unwrap());
        self.app.hub.subscribe(Subscribe { start: Start::Earliest, ..Subscribe::new([view]) }).unwrap()
    }

    /// Everything that is kept of a channel, as `event: data`.
    async fn kept(&self, channel: &str) -> Vec<String> {
        let answer = self.get(&format!("/history?channel={channel}&limit=1000")).await.ok();
        let show = |event: &Value| format!("{}: {}", event["event"].as_str().unwrap(), event["data"]);
        answer["events"].as_array().unwrap().iter().map(show).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.app.hub.close();
    }
}

const SECRET: &str = "a secret of more than thirty-two bytes";

/// Tokens are needed, and each may read and publish to these patterns.
fn access_with(patterns: &[&str]) -> AccessConfig {
    let templates = || patterns.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
    AccessConfig {
        keys: vec![KeyConfig::secret(Secret::new(SECRET))],
        grants: GrantTemplates { subscribe: templates(), publish: templates(), presence: Vec::new() },
        ..AccessConfig::default()
    }
}

/// A token for such a server.
fn token(user: Option<&str>, admin: bool) -> String {
    let user = user.map(|user| user.parse().unwrap());
    let token = NewToken { user, admin, ttl: Duration::from_secs(60), ..NewToken::default() };
    let key = KeyConfig::secret(Secret::new(SECRET));
    token.sign(&key, "tidings", Timestamp::now()).unwrap().expose().to_owned()
}

/// A request from this machine.
fn request(method: &str, target: &str, body: Body) -> Request<Body> {
    let mut request = Request::new(body);
    *request.method_mut() = Method::from_bytes(method.as_bytes()).unwrap();
    *request.uri_mut() = target.parse().unwrap();
    request.headers_mut().insert("host", "localhost:4600".parse().unwrap());
    request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([127, 0, 0, 1], 50000))));
    request
}
