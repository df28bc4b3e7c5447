use std::net::SocketAddr;

use serde_json::Value;
use tidings_hub::Timestamp;
use tidings_hub::log::Retention;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Answer, Server, access_with, request, token};
use crate::ServerConfig;
use crate::auth::AccessConfig;

/// A stream on a real socket, which was opened.
pub(super) struct Stream {
    socket: TcpStream,
    pub(super) text: String,
    pub(super) connection: String,
}

impl Stream {
    pub(super) async fn open(address: SocketAddr, query: &str) -> Stream {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let head = format!("GET /events?{query} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut stream = Stream { socket, text: String::new(), connection: String::new() };
        stream.read_until("\"channels\"").await;
        let (_, rest) = stream.text.split_once("\"connection\":\"").unwrap();
        stream.connection = rest[..32].to_owned();
        stream
    }

    pub(super) async fn read_until(&mut self, expected: &str) {
        while !self.text.contains(expected) {
            self.read_more().await;
        }
    }

    pub(super) async fn read_more(&mut self) {
        let mut buffer = [0; 4096];
        let count = self.socket.read(&mut buffer).await.unwrap();
        assert!(count > 0, "ended: {}", self.text);
        self.text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
    }
}

/// A server that is also listened to.
async fn listening() -> (Server, SocketAddr) {
    listening_with(ServerConfig::default(), access_with(&["**", "$all", "$user/*"])).await
}

pub(super) async fn listening_with(config: ServerConfig, access: AccessConfig) -> (Server, SocketAddr) {
    let server = Server::made(config, access, Retention::default());
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let listened = crate::Server::new(server.app.clone(), server.router.clone()).unwrap();
    tokio::spawn(async move { listened.serve(listener).await });
    (server, address)
}

impl Server {
    pub(super) async fn as_who(&self, token: &str, method: &str, target: &str) -> Answer {
        let mut request = request(method, target, "x".into());
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        self.send(request).await
    }
}

fn shown(answer: &Value) -> Vec<&str> {
    let list = answer["connections"].as_array().unwrap();
    list.iter().map(|connection| connection["connection"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn streams_are_listed_and_ended_by_those_who_may() {
    let (server, address) = listening().await;
    let (ann, bob, admin) = (token(Some("ann"), false), token(Some("bob"), false), token(None, true));
    let before = Timestamp::now();
    let mut one = Stream::open(address, &format!("channel=a/*&token={ann}")).await;
    let mut two = Stream::open(address, &format!("channel=b&token={ann}")).await;
    let three = Stream::open(address, &format!("channel=b&token={bob}")).await;

    let all = server.as_who(&admin, "GET", "/connections").await.ok();
    assert_eq!(shown(&all).len(), 3);
    assert_eq!(all["truncated"], false);
    let of = |token: &str, query: &str| {
        let (server, token, target) = (&server, token.to_owned(), format!("/connections?{query}"));
        async move { server.as_who(&token, "GET", &target).await }
    };
    assert_eq!(shown(&of(&admin, "channel=a/1").await.ok()), [&one.connection]);
    assert_eq!(shown(&of(&admin, "user=bob").await.ok()), [&three.connection]);
    assert_eq!(shown(&of(&admin, "user=ann&channel=b").await.ok()), [&two.connection]);
    assert_eq!(shown(&of(&bob, "").await.ok()), [&three.connection], "a user sees its own");
    of(&bob, "user=ann").await.problem(403);
    of(&admin, "channel=a/*").await.problem(400);
    server.get("/connections").await.problem(401);

    let path = format!("/connections/{}", one.connection);
    let info = server.as_who(&ann, "GET", &path).await.ok();
    assert_eq!(info["user"], "ann");
    assert_eq!(info["channels"], serde_json::json!(["a/*"]));
    assert!(info["since"].as_u64().unwrap() >= before.0);
    assert_eq!(info["address"], one.socket.local_addr().unwrap().to_string());
    server.as_who(&bob, "GET", &path).await.problem(404);
    server.as_who(&bob, "DELETE", &path).await.problem(404);
    server.as_who(&admin, "GET", "/connections/0000000000000000000000000000feed").await.problem(404);
    server.as_who(&admin, "GET", "/connections/nonsense").await.problem(404);

    assert_eq!(server.as_who(&ann, "DELETE", &path).await.ok()["disconnected"], 1);
    one.read_until("tidings:kicked").await;
    server.as_who(&bob, "DELETE", "/connections?user=ann").await.problem(403);
    server.as_who(&admin, "DELETE", "/connections").await.problem(400);
    server.as_who(&admin, "DELETE", "/connections?user=ann&revoke=1").await.problem(501);
    assert_eq!(server.as_who(&admin, "DELETE", "/connections?user=ann").await.ok()["disconnected"], 1);
    two.read_until("tidings:kicked").await;
    assert_eq!(shown(&of(&admin, "").await.ok()), [&three.connection]);
    server.app.begin_drain();
}

#[tokio::test]
async fn receivers_are_counted_when_asked() {
    let (server, address) = listening().await;
    let (ann, admin) = (token(Some("ann"), false), token(None, true));
    let _one = Stream::open(address, &format!("channel=a&channel=a/*&token={ann}")).await;
    let _two = Stream::open(address, &format!("channel=b&token={ann}&client=tab")).await;
    for (query, count) in [
        ("channel=a", 1),
        ("channel=a&channel=b", 2),
        ("channel=c", 0),
        ("broadcast=1", 2),
        ("user=ann", 2),
        ("user=ann&exclude_client=tab", 1),
        ("user=ann&exclude_user=ann", 0),
    ] {
        let answer = server.as_who(&admin, "POST", &format!("/publish?receivers=1&{query}")).await.ok();
        assert_eq!(answer["receivers"], count, "{query}");
    }
    let answer = server.as_who(&admin, "POST", "/publish?channel=a").await.ok();
    assert!(answer.get("receivers").is_none(), "not asked: {answer}");
    let channels = server.as_who(&admin, "GET", "/channels?prefix=b").await.ok();
    assert_eq!(channels["channels"][0]["subscribers"], 1);
    server.app.begin_drain();
}

#[tokio::test]
async fn what_was_done_is_counted() {
    let (server, address) = listening().await;
    let admin = token(None, true);
    let mut stream =
        Stream::open(address, &format!("channel=canary&token={}", token(Some("canary"), false))).await;
    server.as_who(&admin, "POST", "/publish?channel=canary").await.ok();
    stream.read_until("data: x").await;
    let stats = loop {
        let stats = server.as_who(&admin, "GET", "/stats").await.ok();
        // The worker counts after it has written.
        if stats["delivered"] != 0 {
            break stats;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    };
    for (field, value) in
        [("connections", 1), ("max_connections", 1), ("published", 1), ("delivered", 1), ("dropped", 0)]
    {
        assert_eq!(stats[field], value, "{field}: {stats}");
    }
    assert!(stats["average_age_seconds"].as_f64().unwrap() < 60.0);
    assert_eq!(stats["closed"]["kicked"], 0);
    assert_eq!(stats["log"]["sync"], "memory");
    assert_eq!(stats["log"]["trouble"], Value::Null);

    let metrics = server.as_who(&admin, "GET", "/metrics").await;
    assert!(metrics.headers["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    for line in [
        "# TYPE tidings_connections gauge",
        "tidings_connections 1.0",
        "tidings_published_total 1",
        "tidings_delivered_total 1",
        "tidings_closed_total{reason=\"kicked\"} 0",
        "tidings_refused_total{limit=\"user\"} 0",
        "# EOF",
    ] {
        assert!(metrics.text().lines().any(|found| found == line), "{line}: {}", metrics.text());
    }
    assert!(!metrics.text().contains("canary"));
    for path in ["/stats", "/metrics", "/channels"] {
        server.get(path).await.problem(401);
        server.as_who(&token(Some("ann"), false), "GET", path).await.problem(403);
    }
    server.app.begin_drain();
}

#[tokio::test]
async fn what_a_node_does_is_said_each_second_to_administrators_who_follow_it() {
    let (server, address) = listening_with(ServerConfig::default(), access_with(&["**", "$stats"])).await;
    let (ann, admin) = (token(Some("ann"), false), token(None, true));
    for refused in ["/events?channel=$stats", "/history?channel=$stats", "/events?poll=1&channel=$stats"] {
        let problem = server.as_who(&ann, "GET", refused).await.problem(403);
        assert!(problem["detail"].as_str().unwrap().contains("administrators"), "{problem}");
    }
    let mut stream = Stream::open(address, &format!("channel=a&token={admin}")).await;
    let add = format!("{{\"connection\":\"{}\",\"channels\":[\"$stats\"]}}", stream.connection);
    let add = |token: &str| {
        let mut add = request("POST", "/subscriptions", add.clone().into());
        add.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        server.send(add)
    };
    add(&ann).await.problem(404);
    add(&admin).await.ok();
    stream.read_until("event: stats\ndata: {").await;
    stream.read_until("\"draining\":false}\n").await;
    let data = stream.text.split("event: stats\ndata: ").nth(1).unwrap().lines().next().unwrap();
    let said: Value = serde_json::from_str(data).unwrap();
    assert_eq!((&said["connections"], &said["polls"], &said["delivered"]), (&1.into(), &0.into(), &0.into()));
    let fields = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let stats = server.as_who(&admin, "GET", "/stats").await.ok();
    assert_eq!(fields(&said), fields(&stats), "the same as there");
    stream.read_until("\"delivered\":1,").await;

    // It is not kept, and a poll that waits gets it too.
    assert_eq!(server.app.hub.head().sequence.0, 0);
    let place = server.as_who(&admin, "GET", "/events?poll=1&channel=$stats").await.ok();
    let after = place["last_event_id"].as_str().unwrap();
    let target = format!("/events?poll=1&channel=$stats&last_event_id={after}");
    let polled = server.as_who(&admin, "GET", &target).await.ok();
    assert_eq!(
        (&polled["events"][0]["event"], &polled["events"][0]["data"]["polls"]),
        (&"stats".into(), &1.into())
    );

    // Nothing is said while nobody follows it.
    drop(stream);
    let said = || server.app.hub.stats().published.load(std::sync::atomic::Ordering::Relaxed);
    let mut before = said();
    loop {
        tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
        match said() {
            now if now == before => break,
            now => before = now,
        }
    }
    server.app.begin_drain();
}
