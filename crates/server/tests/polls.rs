//! Polls on real sockets: what happens to the connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use tidings_hub::log::{MemoryLog, MemoryLogConfig, Retention};
use tidings_hub::{Hub, HubConfig};
use tidings_server::auth::{Access, AccessConfig, Cors, Origins};
use tidings_server::{App, Server, ServerConfig};
use tidings_wire::{Channel, CursorKey, Epoch, Event};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Longer than anything here takes, for a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(20);

struct Running {
    app: Arc<App>,
    hub: Hub,
    address: SocketAddr,
}

async fn start() -> Running {
    let log = Arc::new(MemoryLog::new(MemoryLogConfig { epoch: Epoch(1), retention: Retention::default() }));
    let hub = Hub::start(log, HubConfig::new(CursorKey::new([7; 16]))).unwrap();
    let access = Access::new(AccessConfig { dev: true, ..AccessConfig::default() }).unwrap();
    let mut config = ServerConfig::default();
    config.timeouts.poll = 3 * PATIENCE;
    let app = Arc::new(App::new(hub.clone(), access, Cors::new(Origins::default()), config));
    let router = Router::new().route("/hello", get(|| async { "hello" }));
    let server = Server::new(app.clone(), router).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { server.serve(listener).await });
    Running { app, hub, address }
}

impl Running {
    async fn connect(&self) -> Client {
        Client { socket: TcpStream::connect(self.address).await.unwrap(), read: String::new() }
    }

    async fn publish(&self, channel: &str, data: &str) -> String {
        let event = Event::to(channel.parse::<Channel>().unwrap(), data);
        self.hub.publish(event).await.unwrap().id.to_string()
    }

    /// Waits until so many streams and polls are counted.
    async fn until_open(&self, count: usize) {
        let limits = async {
            while self.app.open() != count {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, limits)
            .await
            .unwrap_or_else(|_| panic!("{} are open", self.app.open()));
    }
}

struct Client {
    socket: TcpStream,
    read: String,
}

impl Client {
    async fn send(&mut self, text: &str) {
        self.socket.write_all(text.as_bytes()).await.unwrap();
    }

    /// Asks, with further header lines.
    async fn ask(&mut self, target: &str, headers: &str) {
        self.send(&format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n")).await;
    }

    /// Takes what was read up to and with a text, once that has come.
    async fn until(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = self.read.find(text) {
                let rest = self.read.split_off(at + text.len());
                return std::mem::replace(&mut self.read, rest);
            }
            assert!(self.more().await, "{text:?} did not come before the end: {:?}", self.read);
        }
    }

    async fn more(&mut self) -> bool {
        let mut buffer = [0; 4096];
        let read = tokio::time::timeout(PATIENCE, self.socket.read(&mut buffer)).await;
        let count = read.expect("something comes in time").unwrap_or(0);
        self.read.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
        count > 0
    }

    /// Whether the connection was closed after all that came.
    async fn is_closed(&mut self) -> bool {
        !self.more().await
    }

    /// The next answer to a poll: its `last_event_id`, and all of it.
    async fn polled(&mut self) -> (String, String) {
        let answer = self.until("\"}\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("content-type: application/json\r\n"), "{answer}");
        let id = answer.rsplit("\"last_event_id\":\"").next().unwrap().trim_end_matches("\"}\n").to_owned();
        (id, answer)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_serves_polls_and_whatever_else() {
    let server = start().await;
    let mut client = server.connect().await;
    client.ask("/events?poll=1&channel=a", "Connection: keep-alive\r\n").await;
    let (place, answer) = client.polled().await;
    assert!(!answer.contains("connection: close"), "{answer}");
    client.ask(&format!("/events?poll=1&channel=a&last_event_id={place}"), "").await;
    server.until_open(1).await;
    let first = server.publish("a", "one").await;
    let (place, answer) = client.polled().await;
    assert!(answer.contains("\"data\":\"one\"") && place == first, "{answer}");
    // hyper has the connection in between, and the next requests come together, before their answers.
    client.ask("/hello", "").await;
    client.until("hello").await;
    client.ask(&format!("/events?poll=1&channel=a&last_event_id={place}"), "").await;
    server.until_open(1).await;
    client.ask("/hello", "").await;
    client.ask("/events?poll=1&channel=a&last_event_id=now", "").await;
    client.ask("/events?channel=a&last_event_id=earliest", "").await;
    server.publish("a", "two").await;
    let (_, answer) = client.polled().await;
    assert!(answer.contains("\"data\":\"two\"") && !answer.contains("one"), "{answer}");
    assert!(client.until("hello").await.starts_with("HTTP/1.1 200 OK\r\n"));
    client.polled().await;
    client.until("data: two\n").await;
    drop(client);
    server.until_open(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_away_frees_its_place_at_once() {
    let server = start().await;
    let id = server.publish("a", "one").await;
    for after_hyper in [false, true] {
        let mut client = server.connect().await;
        if after_hyper {
            client.ask("/hello", "").await;
            client.until("hello").await;
        }
        client.ask(&format!("/events?poll=1&channel=a&last_event_id={id}"), "").await;
        server.until_open(1).await;
        drop(client);
        server.until_open(0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_closed_where_that_is_asked_for() {
    let server = start().await;
    for request in [
        "GET /events?poll=1 HTTP/1.0\r\nHost: localhost\r\n\r\n",
        "GET /events?poll=1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    ] {
        let mut client = server.connect().await;
        client.send(request).await;
        let (_, answer) = client.polled().await;
        assert!(answer.contains("connection: close\r\n"), "{answer}");
        assert!(client.is_closed().await);
    }
    let id = server.publish("a", "one").await;
    let mut client = server.connect().await;
    client.ask(&format!("/events?poll=1&channel=a&last_event_id={id}"), "").await;
    server.until_open(1).await;
    let draining = {
        let app = server.app.clone();
        tokio::spawn(async move { app.drain(PATIENCE).await })
    };
    let (_, answer) = client.polled().await;
    assert!(answer.contains("\"events\":[]") && answer.contains("connection: close\r\n"), "{answer}");
    assert!(client.is_closed().await);
    assert_eq!(draining.await.unwrap().connections_left, 0);
}
