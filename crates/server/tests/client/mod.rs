//! A whole server on a real socket, and clients that read its streams as browsers do.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tidings_hub::log::{MemoryLog, MemoryLogConfig, Retention};
use tidings_hub::{Hub, HubConfig, Timestamp};
use tidings_server::auth::{
    Access, AccessConfig, Cors, GrantTemplates, KeyConfig, NewToken, Origins, Secret,
};
use tidings_server::{App, Server, ServerConfig, Side};
use tidings_wire::{CursorKey, Epoch, Limits, Message, Parser};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};

/// Longer than anything here takes, for a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    client: reqwest::Client,
    /// Tokens by the user's id; `admin` is no user.
    tokens: Vec<(String, String)>,
}

fn key() -> KeyConfig {
    KeyConfig::secret(Secret::new("a secret of the tests, of 40 characters."))
}

fn grants(subscribe: &[&str]) -> GrantTemplates {
    GrantTemplates {
        subscribe: subscribe.iter().map(|text| text.parse().unwrap()).collect(),
        ..GrantTemplates::default()
    }
}

/// A server with users and what each may subscribe to, and an administrator. Anybody may see `public/**`.
pub(crate) async fn start(users: &[(&str, &[&str])]) -> Running {
    let log = Arc::new(MemoryLog::new(MemoryLogConfig { epoch: Epoch(1), retention: Retention::default() }));
    let hub = Hub::start(log, HubConfig::new(CursorKey::new([7; 16]))).unwrap();
    let access = AccessConfig {
        keys: vec![key()],
        anonymous: Some(grants(&["public/**"])),
        ..AccessConfig::default()
    };
    let config = ServerConfig { workers: NonZeroUsize::MIN, ..ServerConfig::default() };
    let cors = Cors::new(Origins::default());
    let app = Arc::new(App::new(hub, Access::new(access).unwrap(), cors, config));
    let server = Server::of_side(app, Side::Both).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { server.serve(listener).await.unwrap() });
    let token = |user: Option<&str>, subscribe: &[&str], publish: &[&str]| {
        let new = NewToken {
            user: user.map(|user| user.parse().unwrap()),
            grants: GrantTemplates { publish: grants(publish).subscribe, ..grants(subscribe) },
            admin: user.is_none(),
            info: None,
            ttl: Duration::from_secs(600),
        };
        new.sign(&key(), "tidings", Timestamp::now()).unwrap().expose().to_owned()
    };
    let mut tokens: Vec<_> =
        users.iter().map(|(user, may)| ((*user).to_owned(), token(Some(user), may, &[]))).collect();
    tokens.push(("admin".to_owned(), token(None, &[], &["**", "$user/*", "$all"])));
    // A stream's connection ends with the stream: none is used again.
    let client = reqwest::Client::builder().timeout(PATIENCE).pool_max_idle_per_host(0).build().unwrap();
    Running { address, client, tokens }
}

/// A request to be sent.
pub(crate) struct Request {
    method: &'static str,
    target: String,
    user: Option<String>,
    body: Option<Value>,
}

pub(crate) fn get(target: &str, user: Option<&str>) -> Request {
    Request { method: "GET", target: target.to_owned(), user: user.map(str::to_owned), body: None }
}

pub(crate) fn post(target: &str, user: Option<&str>, body: &Value) -> Request {
    Request { method: "POST", body: Some(body.clone()), ..get(target, user) }
}

pub(crate) fn delete(target: &str, user: Option<&str>, body: &Value) -> Request {
    Request { method: "DELETE", ..post(target, user, body) }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

pub(crate) async fn answer(server: &Running, request: Request) -> Answer {
    let response = server.send(request).await;
    Answer { status: response.status().as_u16(), body: response.text().await.unwrap() }
}

impl Running {
    fn token(&self, user: &str) -> &str {
        let found = self.tokens.iter().find(|(name, _)| name == user);
        &found.unwrap_or_else(|| panic!("there is no user {user}")).1
    }

    async fn send(&self, request: Request) -> reqwest::Response {
        let url = format!("http://{}{}", self.address, request.target);
        let mut builder = self.client.request(request.method.parse().unwrap(), url);
        if let Some(user) = &request.user {
            builder = builder.bearer_auth(self.token(user));
        }
        if let Some(body) = &request.body {
            builder = builder.header("content-type", "application/json").body(body.to_string());
        }
        builder.send().await.unwrap()
    }

    /// Publishes as an administrator.
    pub(crate) async fn publish(&self, event: Value) {
        let answer = answer(self, post("/publish", Some("admin"), &event)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    pub(crate) async fn stats(&self) -> Value {
        answer(self, get("/stats", Some("admin"))).await.json()
    }

    /// What a subscribe request is answered with.
    pub(crate) async fn status(&self, query: &str, user: Option<&str>) -> u16 {
        self.send(get(&format!("/events?{query}"), user)).await.status().as_u16()
    }

    /// A stream that is read as it comes.
    pub(crate) async fn stream(&self, query: &str, user: Option<&str>) -> Stream {
        let response = self.send(get(&format!("/events?{query}"), user)).await;
        assert_eq!(response.status(), 200, "{query}");
        Stream {
            body: Body::Response(response),
            parser: Parser::new(Limits::default()),
            read: Vec::new(),
            at: 0,
        }
    }

    /// A stream that is read at so many bytes a second, with no more than some KiB under way.
    pub(crate) async fn slow_stream(&self, query: &str, user: Option<&str>, bytes_a_second: usize) -> Stream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4 << 10).unwrap();
        let mut socket = socket.connect(self.address).await.unwrap();
        let token = user.map_or("", |user| self.token(user));
        // HTTP/1.0 has no chunks: what comes behind the head is the stream.
        let head = format!("GET /events?{query}&token={token} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        socket.write_all(head.as_bytes()).await.unwrap();
        let body = Body::Line { socket, bytes_a_second, head: true };
        Stream { body, parser: Parser::new(Limits::default()), read: Vec::new(), at: 0 }
    }
}

enum Body {
    Response(reqwest::Response),
    Line { socket: tokio::net::TcpStream, bytes_a_second: usize, head: bool },
}

/// A stream as a client reads it.
pub(crate) struct Stream {
    body: Body,
    parser: Parser,
    read: Vec<u8>,
    at: usize,
}

/// A message with its data as JSON.
pub(crate) trait Json {
    fn json(&self) -> Value;
}

impl Json for Message {
    fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Stream {
    /// The next event.
    pub(crate) async fn next(&mut self) -> Message {
        tokio::time::timeout(PATIENCE, self.read()).await.expect("something comes").expect("it goes on")
    }

    /// There is nothing more, and the response ends.
    pub(crate) async fn ends(&mut self) {
        let last = tokio::time::timeout(PATIENCE, self.read()).await.expect("it ends");
        assert!(last.is_none(), "{last:?}");
    }

    async fn read(&mut self) -> Option<Message> {
        loop {
            let mut rest = &self.read[self.at..];
            let message = self.parser.next_message(&mut rest).unwrap();
            self.at = self.read.len() - rest.len();
            if message.is_some() {
                return message;
            }
            self.read = self.more().await?;
            self.at = 0;
        }
    }

    async fn more(&mut self) -> Option<Vec<u8>> {
        match &mut self.body {
            Body::Response(response) => response.chunk().await.unwrap().map(|chunk| chunk.to_vec()),
            Body::Line { socket, bytes_a_second, head } => {
                const PIECE: usize = 1 << 10;
                let mut piece = vec![0; PIECE];
                let count = socket.read(&mut piece).await.unwrap();
                piece.truncate(count);
                if std::mem::take(head) {
                    let end =
                        piece.windows(4).position(|four| four == b"\r\n\r\n").expect("a head in one piece");
                    piece.drain(..end + 4);
                }
                tokio::time::sleep(Duration::from_secs_f64(count as f64 / *bytes_a_second as f64)).await;
                (count > 0).then_some(piece)
            }
        }
    }
}
