//! Streams on real sockets: a hub on a log in memory, workers, and clients that speak HTTP by hand.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use tidings_hub::log::{MemoryLog, MemoryLogConfig, Retention};
use tidings_hub::{Hub, HubConfig, Published, Timestamp};
use tidings_server::auth::{Access, AccessConfig, Cors, KeyConfig, NewToken, Origins, Secret};
use tidings_server::{App, CloseReason, ConnectionFilter, Server, ServerConfig, StreamStats};
use tidings_wire::{Channel, CursorKey, Data, Epoch, Event, Targets};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;

/// Longer than anything here takes, for a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long is waited where nothing is to come.
const SILENCE: Duration = Duration::from_millis(300);

struct Running {
    app: Arc<App>,
    hub: Hub,
    address: SocketAddr,
    serving: JoinHandle<()>,
}

fn config() -> ServerConfig {
    ServerConfig { workers: NonZeroUsize::new(2).unwrap(), ..ServerConfig::default() }
}

fn anybody() -> AccessConfig {
    AccessConfig { dev: true, ..AccessConfig::default() }
}

async fn start(config: ServerConfig) -> Running {
    start_with(config, anybody()).await
}

async fn start_with(config: ServerConfig, access: AccessConfig) -> Running {
    let log = Arc::new(MemoryLog::new(MemoryLogConfig { epoch: Epoch(1), retention: Retention::default() }));
    let hub = Hub::start(log, HubConfig::new(CursorKey::new([7; 16]))).unwrap();
    let access = Access::new(access).unwrap();
    let cors = Cors::new(Origins::parse(["https://app.example"]).unwrap());
    let app = Arc::new(App::new(hub.clone(), access, cors, config));
    let slow = get(|| async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        "slow done"
    });
    let router = Router::new()
        .route("/hello", get(|| async { "hello" }))
        .route("/echo", post(|body: String| async move { body }))
        .route("/slow", slow);
    let server = Server::new(app.clone(), router).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move { server.serve(listener).await.unwrap() });
    Running { app, hub, address, serving }
}

impl Running {
    async fn publish(&self, channel: &str, data: &str) -> Published {
        self.hub.publish(event(channel, data)).await.unwrap()
    }

    async fn subscribe(&self, query: &str) -> Client {
        let mut client = self.connect().await;
        client.send(&subscribe(query)).await;
        client.until("tidings:open").await;
        // The block's end, then its chunk's.
        client.until("\n\n\r\n").await;
        client
    }

    async fn connect(&self) -> Client {
        Client::new(TcpStream::connect(self.address).await.unwrap())
    }

    fn stats(&self) -> StreamStats {
        self.app.workers().unwrap().stats(Timestamp::now())
    }

    /// Waits until the statistics say so.
    async fn until(&self, what: impl Fn(&StreamStats) -> bool) -> StreamStats {
        let seen = async {
            loop {
                let stats = self.stats();
                if what(&stats) {
                    return stats;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, seen).await;
        waited.unwrap_or_else(|_| panic!("it never came to that: {:?}", self.stats()))
    }
}

fn closed(stats: &StreamStats, reason: CloseReason) -> u64 {
    stats.closed.iter().find(|(other, _)| *other == reason).unwrap().1
}

fn event(channel: &str, data: &str) -> Event {
    Event::new(Targets::new([channel.parse::<Channel>().unwrap()]).unwrap(), Data::from(data))
}

fn subscribe(query: &str) -> String {
    format!("GET /events?{query} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
}

/// The end of a connection that reads what comes as text, chunk sizes and all.
struct Client {
    socket: TcpStream,
    read: String,
    /// What was looked at.
    at: usize,
}

impl Client {
    fn new(socket: TcpStream) -> Client {
        Client { socket, read: String::new(), at: 0 }
    }

    async fn send(&mut self, text: &str) {
        self.socket.write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads up to and with a text; what was passed on the way.
    async fn until(&mut self, text: &str) -> String {
        loop {
            if let Some(found) = self.read[self.at..].find(text) {
                let from = self.at;
                self.at += found + text.len();
                return self.read[from..self.at].to_owned();
            }
            let more = tokio::time::timeout(PATIENCE, self.more()).await;
            let more = more.unwrap_or_else(|_| panic!("{text:?} never came: {:?}", self.read));
            assert!(more, "{text:?} did not come before the end: {:?}", self.read);
        }
    }

    /// Reads to the end; what came.
    async fn rest(&mut self) -> String {
        let all = async { while self.more().await {} };
        tokio::time::timeout(PATIENCE, all).await.unwrap_or_else(|_| panic!("it never ends"));
        self.read[self.at..].to_owned()
    }

    async fn more(&mut self) -> bool {
        let mut buffer = [0; 64 << 10];
        let count = self.socket.read(&mut buffer).await.unwrap_or(0);
        self.read.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
        count > 0
    }

    async fn is_silent(&mut self) -> bool {
        tokio::time::timeout(SILENCE, self.more()).await.is_err()
    }

    fn last_id(&self) -> String {
        let id = self.read.rsplit("id: ").next().unwrap();
        id.lines().next().unwrap().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_arrives_and_a_cursor_resumes_over_all_channels() {
    let server = start(config()).await;
    let mut client = server.connect().await;
    client.send(&subscribe("channel=a&channel=b/*")).await;
    let head = client.until("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("content-type: text/event-stream\r\n"));
    client.until(":ok\nretry: ").await;
    let open = client.until("\n\n").await;
    assert!(open.contains("\"channels\":[\"a\",\"b/*\"]") && open.contains("\"user\":null"), "{open}");
    let beginning = client.last_id();

    let first = server.publish("a", "one").await;
    server.publish("elsewhere", "hidden").await;
    let second = server.publish("b/c", "two").await;
    assert!(client.until("\n\n").await.ends_with(&format!("data: one\nid: {}\n\n", first.id)));
    assert!(client.until("\n\n").await.ends_with(&format!("data: two\nid: {}\n\n", second.id)));
    assert!(client.is_silent().await);
    drop(client);

    // Also who lost the connection before its first event gets everything.
    let third = server.publish("b/d", "three").await;
    for (from, missed) in [(beginning, 3), (first.id.to_string(), 2), (second.id.to_string(), 1)] {
        let mut again = server.subscribe(&format!("channel=a&channel=b/*&last_event_id={from}")).await;
        let came = again.until(&format!("id: {}\n\n", third.id)).await;
        assert_eq!(came.matches("data: ").count(), missed, "{came}");
        assert!(!came.contains("hidden") && !came.contains("tidings:gap"));
    }
    server.until(|stats| closed(stats, CloseReason::Gone) == 4 && stats.connections == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_may_follow_other_requests_on_its_connection() {
    let server = start(config()).await;
    let mut client = server.connect().await;
    for _ in 0..3 {
        client.send("GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        client.until("\r\n\r\nhello").await;
        client.send("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\npong").await;
        client.until("\r\n\r\npong").await;
    }
    client.send(&subscribe("channel=a")).await;
    client.until("tidings:open").await;
    server.until(|stats| stats.connections == 1).await;
    let published = server.publish("a", "one").await;
    client.until(&format!("data: one\nid: {}\n\n", published.id)).await;

    // Pipelined: the answers come in order, whatever answers them.
    let mut client = server.connect().await;
    let hello = "GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n";
    client.send(&format!("{hello}{hello}{}", subscribe("channel=a"))).await;
    client.until("hello").await;
    client.until("hello").await;
    client.until("tidings:open").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_0_gets_a_stream_without_chunks() {
    let server = start(config()).await;
    let mut client = server.connect().await;
    client.send("GET /events?channel=a HTTP/1.0\r\nHost: localhost\r\n\r\n").await;
    let head = client.until("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.0 200 OK\r\n") && !head.contains("transfer-encoding"), "{head}");
    assert!(client.until("\n\n").await.starts_with(":ok\nretry: "));
    let published = server.publish("a", "one").await;
    assert_eq!(client.until("\n\n").await, format!("data: one\nid: {}\n\n", published.id));
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_can_be_read_and_end_the_connection() {
    let server = start(config()).await;
    let hello = "GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for (request, status) in [
        (subscribe("channel=a//b"), 400),
        (subscribe("channel=a&padding=9999"), 400),
        (subscribe("presence=1"), 400),
        ("GET /events HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\n\r\n".to_owned(), 406),
        ("GET /events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc".to_owned(), 400),
        ("GET /hello HTTP/1.1\r\n\r\n".to_owned(), 400),
        (
            "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na"
                .to_owned(),
            400,
        ),
        (format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(9000)), 414),
    ] {
        for before in ["", hello] {
            let mut client = server.connect().await;
            client.send(&format!("{before}{request}")).await;
            if !before.is_empty() {
                client.until("\r\n\r\nhello").await;
            }
            let answer = client.rest().await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer}");
            assert!(answer.contains("connection: close\r\n") && answer.contains("application/problem+json"));
            let (_, body) = answer.split_once("\r\n\r\n").unwrap();
            let body: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!(body["status"], status);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stalls_or_breaks_is_answered_with_why() {
    let mut config = config();
    config.timeouts.body = Duration::from_millis(200);
    let server = start(config).await;
    for (request, status) in [
        ("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nabc", 408),
        ("POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcdef", 400),
    ] {
        let mut client = server.connect().await;
        client.send(request).await;
        let answer = client.rest().await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer}");
        assert!(answer.contains("application/problem+json"), "{answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_before_the_body_was_read_says_that_the_connection_ends() {
    let server = start(config()).await;
    let head =
        "POST /unread HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 100000\r\n\r\n";
    let mut client = server.connect().await;
    client.send(head).await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("connection: close\r\n"), "{answer}");

    // A body that was read leaves the connection open, and is asked for by who waits for that.
    let mut client = server.connect().await;
    client
        .send("POST /echo HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        .await;
    client.until("HTTP/1.1 100 Continue\r\n\r\n").await;
    client.send("pong").await;
    assert!(!client.until("\r\n\r\npong").await.contains("connection: close"));
    client.send(&subscribe("channel=a")).await;
    client.until("tidings:open").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_go_are_freed_at_once() {
    let server = start(config()).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(server.subscribe("channel=a").await);
    }
    let stats = server.until(|stats| stats.connections == 20).await;
    assert!(stats.workers.iter().all(|worker| worker.connections == 10), "{stats:?}");
    for (count, mut client) in clients.into_iter().enumerate() {
        match count % 3 {
            // FIN, RST, and a half-close.
            0 => drop(client),
            1 => socket2::SockRef::from(&client.socket).set_linger(Some(Duration::ZERO)).unwrap(),
            _ => {
                client.socket.shutdown().await.unwrap();
                assert_eq!(client.rest().await, "");
            }
        }
    }
    server.until(|stats| stats.connections == 0 && closed(stats, CloseReason::Gone) == 20).await;
    assert_eq!(server.stats().average_age, Duration::ZERO, "of nobody");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_keeps_talking_on_a_stream_is_cut_and_who_says_little_is_not() {
    let server = start(config()).await;
    let mut client = server.subscribe("channel=a").await;
    client.send("GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(client.is_silent().await);
    server.publish("a", "one").await;
    client.until("data: one").await;
    let noise = vec![b'x'; 1 << 20];
    // The server may close before all of it is sent.
    let _ = client.socket.write_all(&noise).await;
    server.until(|stats| closed(stats, CloseReason::Noise) == 1 && stats.connections == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_disturbs_nobody_and_is_cut_and_comes_back() {
    let mut config = config();
    config.workers = NonZeroUsize::MIN;
    config.timeouts.progress = Duration::from_secs(1);
    let server = start(config).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut slow = Client::new(socket.connect(server.address).await.unwrap());
    slow.send(&subscribe("channel=a")).await;
    slow.until("tidings:open").await;
    slow.until("\n\n").await;
    let mut live = server.subscribe("channel=a").await;

    let long = "x".repeat(64 << 10);
    let mut last = None;
    for number in 0..100 {
        let published = server.publish("a", &format!("{number} {long}")).await;
        live.until(&format!("id: {}\n\n", published.id)).await;
        live.read.clear();
        live.at = 0;
        last = Some(published);
    }
    let last = last.unwrap().id;
    assert_eq!(server.until(|stats| stats.blocked == 1).await.connections, 2);
    server.until(|stats| closed(stats, CloseReason::Slow) == 1 && stats.blocked == 0).await;
    // What was in the kernel's hands is still there, and its last whole event has the cursor to come back with.
    slow.rest().await;
    let whole = &slow.read[..slow.read.rfind("\n\n").unwrap()];
    let count = whole.matches("data: ").count() - 1;
    assert!(whole.len() < 1 << 20, "the kernel kept {} bytes", whole.len());
    let id = whole.rsplit("id: ").next().unwrap().to_owned();
    let mut again = server.subscribe(&format!("channel=a&last_event_id={id}")).await;
    let rest = again.until(&format!("id: {last}\n\n")).await;
    assert_eq!(count + rest.matches("data: ").count(), 100, "nothing missing, nothing twice");
    assert_eq!(closed(&server.stats(), CloseReason::Gone), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_larger_than_every_buffer_reaches_a_reader_that_reads() {
    let server = start(config()).await;
    let mut client = server.subscribe("channel=a").await;
    let large = "x".repeat(1 << 20);
    let published = server.publish("a", &large).await;
    let came = client.until(&format!("id: {}\n\n", published.id)).await;
    assert!(came.contains(&format!("data: {large}\n")));
    server.until(|stats| stats.blocked == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_come_in_silence_and_pings_to_who_asks() {
    let mut config = config();
    config.heartbeat = Duration::from_secs(1);
    config.position_after = Duration::from_secs(2);
    let server = start(config).await;
    let mut plain = server.subscribe("channel=a").await;
    let mut asks = server.subscribe("channel=a&control=1").await;
    plain.until("2\r\n:\n\r\n").await;
    let ping = asks.until("\n\n").await;
    assert!(ping.contains("event: tidings:ping\n") && ping.contains("id: "), "{ping}");
    let published = server.publish("a", "one").await;
    plain.until("data: one").await;
    plain.until("event: tidings:position\n").await;
    assert!(plain.until("\n\n").await.ends_with(&format!("id: {}\n\n", published.id)));
    assert!(server.stats().heartbeats >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_s_end_ends_its_stream() {
    let key = KeyConfig::secret(Secret::new("a secret of thirty-two bytes, ..."));
    let access = AccessConfig { keys: vec![key.clone()], ..AccessConfig::default() };
    let server = start_with(config(), access).await;
    let mut refused = server.connect().await;
    refused.send(&subscribe("channel=a")).await;
    assert!(refused.rest().await.starts_with("HTTP/1.1 401 "));

    let mut token =
        NewToken { user: Some("u".parse().unwrap()), ttl: Duration::from_secs(2), ..NewToken::default() };
    token.grants.subscribe = vec!["a".parse().unwrap()];
    let now = Timestamp::now();
    let signed = token.sign(&key, "tidings", now).unwrap();
    let mut client = server.subscribe(&format!("channel=a&token={}", signed.expose())).await;
    client.until("event: tidings:expired\n").await;
    client.rest().await;
    assert!(client.read.ends_with("\n\n\r\n0\r\n\r\n"), "{:?}", client.read);
    let after = Timestamp::now().since(now);
    assert!(after >= Duration::from_secs(1), "{after:?}");
    server.until(|stats| closed(stats, CloseReason::Expired) == 1 && stats.connections == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_life_ends_without_a_word() {
    let mut config = config();
    config.limits.lifetime = Duration::from_secs(1);
    let server = start(config).await;
    let mut client = server.subscribe("channel=a").await;
    assert_eq!(client.rest().await, "0\r\n\r\n");
    server.until(|stats| closed(stats, CloseReason::Lifetime) == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_see_streams_and_end_them() {
    let server = start(config()).await;
    let mut first = server.subscribe("channel=a&channel=b").await;
    let mut second = server.subscribe("channel=c/*").await;
    let workers = server.app.workers().unwrap();
    let all = workers.connections(&ConnectionFilter::default(), 10).await;
    assert_eq!(all.len(), 2);
    assert_eq!(workers.connections(&ConnectionFilter::default(), 1).await.len(), 1);
    let asked = ConnectionFilter { channel: Some("c/d".parse().unwrap()), ..ConnectionFilter::default() };
    let found = workers.connections(&asked, 10).await;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].address, second.socket.local_addr().unwrap());
    assert!(second.read.contains(&found[0].id.to_string()));
    assert_eq!(workers.connection(found[0].id).await, Some(found[0].clone()));
    let to_b = Arc::new(event("b", "x"));
    assert_eq!(workers.receivers(&to_b).await, 1);

    assert_eq!(workers.disconnect(&asked).await, 1);
    second.until("event: tidings:kicked\n").await;
    second.rest().await;
    server.until(|stats| closed(stats, CloseReason::Kicked) == 1 && stats.connections == 1).await;
    assert_eq!(workers.connection(found[0].id).await, None);
    server.publish("b", "still there").await;
    first.until("still there").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_finds_no_place_comes_back_with_its_own_cursor() {
    let mut config = config();
    config.limits.per_address = 1;
    let server = start(config).await;
    let first = server.publish("a", "one").await;
    let stays = server.subscribe("channel=a").await;
    let ask = async |query: &str| {
        let mut client = server.connect().await;
        client.send(&subscribe(query)).await;
        client.rest().await;
        assert!(client.read.starts_with("HTTP/1.1 200 OK\r\n"), "{:?}", client.read);
        assert!(client.read.contains("event: tidings:overloaded\nretry: "));
        assert!(client.read.ends_with("\r\n0\r\n\r\n"));
        client
    };
    let own = ask(&format!("channel=a&last_event_id={}", first.id)).await;
    assert_eq!(own.last_id(), first.id.to_string());
    let newcomer = ask("channel=a").await;
    assert_eq!(newcomer.last_id(), first.id.to_string(), "from now on nothing is missed");
    let made_up = ask("channel=a&last_event_id=%0Adata:%20made%20up").await;
    assert!(!made_up.read.contains("made up"));
    assert!(ask("channel=a&history=3").await.read.contains("\nid: \n\n"));
    let whole = ask("channel=a&last_event_id=earliest").await;

    let mut other = server.connect().await;
    other.send("GET /events?channel=a HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let answer = other.rest().await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: "), "{answer}");

    drop(stays);
    server.until(|stats| stats.connections == 0).await;
    let mut again = server.subscribe(&format!("channel=a&last_event_id={}", made_up.last_id())).await;
    assert!(again.until("\n\n").await.contains("\"reason\":\"unknown\""));
    drop(again);
    server.until(|stats| stats.connections == 0).await;
    let mut again = server.subscribe(&format!("channel=a&last_event_id={}", whole.last_id())).await;
    assert!(again.until("\n\n").await.contains("data: one"));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_is_all_or_nothing() {
    let server = start(config()).await;
    let first = server.publish("a", "one").await;
    let mut client = server.connect().await;
    client.send(&subscribe("channel=a&only=1&last_event_id=unknown")).await;
    assert!(client.rest().await.starts_with("HTTP/1.1 410 "));
    let mut client = server.connect().await;
    client.send(&subscribe(&format!("channel=a&only=1&last_event_id={}", first.id))).await;
    client.until(":ok\nretry: ").await;
    let second = server.publish("a", "two").await;
    let came = client.until(&format!("data: two\nid: {}\n\n", second.id)).await;
    assert!(!came.contains("tidings:"), "{came}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_origins_are_told_whether_they_may_read() {
    let server = start(config()).await;
    let head = async |origin: &str| {
        let mut client = server.connect().await;
        let line = format!("Origin: {origin}\r\nSec-Fetch-Site: cross-site\r\n");
        client.send(&format!("GET /events HTTP/1.1\r\nHost: localhost\r\n{line}\r\n")).await;
        client.until("\r\n\r\n").await.to_lowercase()
    };
    let allowed = head("http://localhost:3000").await;
    assert!(allowed.contains("vary: origin\r\n"), "{allowed}");
    let foreign = head("https://evil.example").await;
    assert!(
        foreign.starts_with("http/1.1 403 ") && !foreign.contains("access-control-allow-origin"),
        "{foreign}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_finishes_what_runs_and_sends_streams_away() {
    let server = start(config()).await;
    let published = server.publish("a", "one").await;
    let mut streams = Vec::new();
    for _ in 0..10 {
        streams.push(server.subscribe("channel=a").await);
    }
    let mut idle = server.connect().await;
    idle.send("GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    idle.until("hello").await;
    let mut busy = server.connect().await;
    busy.send("GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(100)).await;

    let app = server.app.clone();
    let draining = tokio::spawn(async move { app.drain(PATIENCE).await });
    assert_eq!(idle.rest().await, "");
    let mut late = server.connect().await;
    late.send(&subscribe(&format!("channel=a&last_event_id={}", published.id))).await;
    late.until("event: tidings:drain\nretry: ").await;
    late.until(&format!("id: {}\n\n", published.id)).await;
    for client in &mut streams {
        client.until("event: tidings:drain\nretry: ").await;
        assert!(client.rest().await.ends_with(&format!("id: {}\n\n\r\n0\r\n\r\n", published.id)));
    }
    assert!(busy.until("slow done").await.contains("connection: close"));
    busy.rest().await;
    let drained = draining.await.unwrap();
    assert_eq!((drained.streams, drained.streams_left, drained.connections_left), (10, 0, 0));
    tokio::time::timeout(PATIENCE, server.serving).await.unwrap().unwrap();
    assert!(TcpStream::connect(server.address).await.is_err(), "nobody listens any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_keeps_its_deadline() {
    let server = start(config()).await;
    let mut busy = server.connect().await;
    busy.send("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nabc").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let drained = server.app.drain(Duration::from_millis(300)).await;
    assert_eq!(drained.connections_left, 1);
    tokio::time::timeout(PATIENCE, server.serving).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_streams_get_everything_in_order_while_much_is_published() {
    let server = start(config()).await;
    let clients: Vec<_> = {
        let mut clients = Vec::new();
        for _ in 0..50 {
            clients.push(server.subscribe("channel=a/*").await);
        }
        clients
    };
    let readers: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            tokio::spawn(async move {
                let mut came = client.until("data: last\n").await;
                came.retain(|c| c != '\r');
                came.lines()
                    .filter_map(|line| line.strip_prefix("data: ")?.parse::<usize>().ok())
                    .collect::<Vec<_>>()
            })
        })
        .collect();
    let all: Vec<_> = (0..2000).collect();
    for some in all.chunks(7) {
        let events =
            some.iter().map(|number| event(&format!("a/{}", number % 3), &number.to_string())).collect();
        server.hub.publish_batch(events).await.unwrap();
    }
    server.publish("a/x", "last").await;
    for reader in readers {
        assert_eq!(reader.await.unwrap(), all);
    }
    server.until(|stats| stats.delivered == 50 * 2001).await;
}

/// Streams that come and go in every way, some of them without reading, while large and small events are published:
/// slots are given again, reports of the kernel about who is gone come late.
#[tokio::test(flavor = "multi_thread")]
async fn coming_and_going_under_load_mixes_nothing_up_and_leaves_nothing() {
    let mut config = config();
    config.timeouts.progress = Duration::from_millis(500);
    let server = Arc::new(start(config).await);
    let publisher = tokio::spawn({
        let server = server.clone();
        async move {
            let large = "x".repeat(30_000);
            for number in 0..600 {
                for channel in ["a", "b"] {
                    let data = if number % 10 == 0 { &large[..] } else { "" };
                    server.publish(channel, &format!("{channel}{number} {data}")).await;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    });
    let clients: Vec<_> = (0..60_u32)
        .map(|number| {
            let server = server.clone();
            tokio::spawn(async move {
                let channel = ["a", "b"][number as usize % 2];
                for round in 0..8 {
                    let mut client = server.subscribe(&format!("channel={channel}")).await;
                    if (number + round) % 5 == 0 {
                        tokio::time::sleep(Duration::from_millis(700)).await;
                        continue;
                    }
                    let mut seen: Vec<u32> = Vec::new();
                    for _ in 0..20 + number {
                        let Ok(block) = tokio::time::timeout(SILENCE, client.until("\n\n")).await else {
                            break;
                        };
                        let data = block.split("data: ").nth(1).unwrap();
                        assert!(data.starts_with(channel), "{channel} got {}", &data[..5]);
                        seen.push(data[1..].split(' ').next().unwrap().parse().unwrap());
                    }
                    assert!(seen.windows(2).all(|pair| pair[1] == pair[0] + 1), "{seen:?}");
                    if round % 2 == 0 {
                        socket2::SockRef::from(&client.socket).set_linger(Some(Duration::ZERO)).unwrap();
                    }
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    publisher.await.unwrap();
    let stats = server.until(|stats| stats.connections == 0 && stats.blocked == 0).await;
    assert_eq!(stats.closed.iter().map(|(_, count)| count).sum::<u64>(), 60 * 8, "{stats:?}");
}
