//! Small publishes are answered by the listener itself, larger and stranger ones through hyper. Nobody may notice.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tidings_hub::log::{MemoryLog, MemoryLogConfig, Retention};
use tidings_hub::{Hub, HubConfig};
use tidings_server::auth::{Access, AccessConfig, Cors, Origins};
use tidings_server::{App, Server, ServerConfig, Side};
use tidings_wire::{CursorKey, Epoch};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Longer than anything here takes, for a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(20);

struct Running {
    app: Arc<App>,
    address: SocketAddr,
}

async fn start(side: Side, config: ServerConfig) -> Running {
    let log = Arc::new(MemoryLog::new(MemoryLogConfig { epoch: Epoch(1), retention: Retention::default() }));
    let hub = Hub::start(log, HubConfig::new(CursorKey::new([7; 16]))).unwrap();
    let access = Access::new(AccessConfig { dev: true, ..AccessConfig::default() }).unwrap();
    let cors = Cors::new(Origins { local: true, ..Origins::default() });
    let config = ServerConfig { workers: NonZeroUsize::MIN, dev: true, ..config };
    let app = Arc::new(App::new(hub, access, cors, config));
    let server = Server::of_side(app.clone(), side).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { server.serve(listener).await.unwrap() });
    Running { app, address }
}

impl Running {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

/// Reads until so many answers are complete; each is its status, its headers but `date`, sorted, and its body.
async fn answers(socket: &mut TcpStream, count: usize) -> Vec<(u16, Vec<String>, String)> {
    let mut bytes = Vec::new();
    let mut answers = Vec::new();
    while answers.len() < count {
        let text = String::from_utf8(bytes.clone()).unwrap();
        if let Some((head, rest)) = text.split_once("\r\n\r\n") {
            let mut lines = head.split("\r\n").map(str::to_ascii_lowercase);
            let status = lines.next().unwrap()[9..12].parse().unwrap();
            let mut headers: Vec<_> = lines.filter(|line| !line.starts_with("date: ")).collect();
            headers.sort();
            let length = headers.iter().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.expect("an answer says how long it is").parse().unwrap();
            if rest.len() >= length {
                answers.push((status, headers, rest[..length].to_owned()));
                bytes.drain(..head.len() + 4 + length);
                continue;
            }
        }
        let mut piece = [0; 4096];
        let read = timeout(PATIENCE, socket.read(&mut piece)).await.expect("an answer comes").unwrap();
        assert!(read > 0, "closed after {answers:?}");
        bytes.extend_from_slice(&piece[..read]);
    }
    assert!(bytes.is_empty(), "more came: {:?}", String::from_utf8_lossy(&bytes));
    answers
}

fn with_length(target: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {target} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {length}\r\nDate: now\r\n\r\n{body}"
    )
}

/// The same for hyper, which alone reads chunks.
fn with_chunks(target: &str, headers: &str, body: &str) -> String {
    let chunk = if body.is_empty() { String::new() } else { format!("{:x}\r\n{body}\r\n", body.len()) };
    format!(
        "POST {target} HTTP/1.1\r\nHost: localhost\r\n{headers}Transfer-Encoding: chunked\r\n\r\n{chunk}0\r\n\r\n"
    )
}

const JSON: &str = "Content-Type: application/json\r\n";

/// Ids, of events and of requests, differ from one answer to the next.
fn without_ids(body: &str) -> Value {
    fn clear(value: &mut Value) {
        match value {
            Value::Object(fields) => fields.iter_mut().for_each(|(name, value)| match &**name {
                "id" | "request_id" => *value = Value::Null,
                _ => clear(value),
            }),
            Value::Array(values) => values.iter_mut().for_each(clear),
            _ => {}
        }
    }
    let mut body = serde_json::from_str(body).expect("answers are JSON");
    clear(&mut body);
    body
}

#[tokio::test]
async fn both_ways_give_the_same_answers() {
    let server = start(Side::Both, ServerConfig::default()).await;
    let cases = [
        ("/publish?channel=a", "", "hello"),
        ("/publish?channel=a", "Content-Type: text/plain\r\n", ""),
        ("/publish", JSON, r#"{"channel":"a","data":{"x":1.0}}"#),
        ("/publish", JSON, r#"[{"channel":"a","data":1},{"user":"ada","data":2}]"#),
        ("/publish?receivers=1", JSON, r#"{"channel":"a","data":1}"#),
        ("/publish", JSON, r#"{"channel":"a"}"#),
        ("/publish", JSON, "{"),
        ("/publish", JSON, ""),
        ("/publish", "Content-Type: application/x-www-form-urlencoded\r\n", "a=b"),
        ("/publish", "Content-Type: application/cloudevents+json\r\n", r#"{"channel":"a","data":1}"#),
        ("/publish?channel=a/", "", "x"),
        ("/publish?channel=a&token=bad", "", "x"),
        ("/publish?channel=a", "Authorization: Bearer tk_bad\r\n", "x"),
        ("/publish?channel=a", "Origin: http://localhost:3000\r\n", "x"),
        ("/publish?channel=a", "Origin: https://evil.example\r\n", "x"),
        ("/publish?channel=a", "X-Forwarded-For: 10.0.0.1\r\n", "x"),
        ("/publish?channel=a", "Content-Encoding: gzip\r\n", "x"),
        ("/publish?channel=a", "Connection: keep-alive\r\n", "x"),
    ];
    for (target, headers, body) in cases {
        let mut direct = server.connect().await;
        let mut hyper = server.connect().await;
        direct.write_all(with_length(target, headers, body).as_bytes()).await.unwrap();
        hyper.write_all(with_chunks(target, headers, body).as_bytes()).await.unwrap();
        let direct = answers(&mut direct, 1).await.remove(0);
        let hyper = answers(&mut hyper, 1).await.remove(0);
        let what = format!("{target} {headers:?} {body:?}");
        // Nor are ids of requests, which are counted, of one length.
        let headers = |headers: &[String]| -> Vec<String> {
            headers.iter().filter(|header| !header.starts_with("content-length")).cloned().collect()
        };
        assert_eq!((direct.0, headers(&direct.1)), (hyper.0, headers(&hyper.1)), "{what}");
        assert_eq!(without_ids(&direct.2), without_ids(&hyper.2), "{what}");
    }
}

#[tokio::test]
async fn publishes_in_one_piece_byte_by_byte_and_mixed_with_other_requests_keep_their_order() {
    for piece in [1, 1000, 1 << 20] {
        let server = start(Side::Both, ServerConfig::default()).await;
        let sent = [
            with_length("/publish?channel=a", "", "1"),
            with_length("/publish", JSON, r#"{"channel":"a","data":2}"#),
            with_length("/publish?channel=a/", "", "refused"),
            with_length("/publish?channel=a", "", &"x".repeat(10_000)),
            with_length("/publish?channel=a", "", &"y".repeat(100_000)), // hyper's, and all that follows
            with_length("/publish?channel=a", "", "3"),
            with_chunks("/publish?channel=a", "", "4"),
            "GET /history?channel=a HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        ];
        // Byte by byte is enough for the small ones.
        let sent = if piece == 1 { &sent[..3] } else { &sent[..] };
        let mut socket = server.connect().await;
        socket.set_nodelay(true).unwrap();
        for piece in sent.concat().as_bytes().chunks(piece) {
            socket.write_all(piece).await.unwrap();
            if piece.len() == 1 {
                tokio::task::yield_now().await;
            }
        }
        let got = answers(&mut socket, sent.len()).await;
        let statuses: Vec<_> = got.iter().map(|answer| answer.0).collect();
        assert_eq!(statuses, &[200, 200, 400, 200, 200, 200, 200, 200][..sent.len()]);
        if let Some((_, _, history)) = got.get(7) {
            let history: Value = serde_json::from_str(history).unwrap();
            let events = history["events"].as_array().unwrap().iter();
            let begins: Vec<_> =
                events.map(|event| event["data"].to_string().chars().take(2).collect::<String>()).collect();
            assert_eq!(begins, ["\"1", "2", "\"x", "\"y", "\"3", "\"4"]);
        }
    }
}

#[tokio::test]
async fn a_stream_may_follow_a_publish() {
    let server = start(Side::Both, ServerConfig::default()).await;
    let mut socket = server.connect().await;
    socket.write_all(with_length("/publish?channel=a", "", "before").as_bytes()).await.unwrap();
    answers(&mut socket, 1).await;
    let stream = "GET /events?channel=a&last_event_id=earliest HTTP/1.1\r\nHost: localhost\r\n\r\n";
    socket.write_all(stream.as_bytes()).await.unwrap();
    let mut text = String::new();
    while !text.contains("data: before\n") {
        let mut piece = [0; 4096];
        let read = timeout(PATIENCE, socket.read(&mut piece)).await.expect("the event comes").unwrap();
        assert!(read > 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&piece[..read]));
    }
}

#[tokio::test]
async fn half_a_publish_publishes_nothing() {
    let mut config = ServerConfig::default();
    config.timeouts.body = Duration::from_millis(200);
    let server = start(Side::Both, config).await;
    let whole = with_length("/publish?channel=a", "", "hello");
    let half = &whole[..whole.len() - 2];

    let mut socket = server.connect().await;
    socket.write_all(half.as_bytes()).await.unwrap();
    let (status, headers, _) = answers(&mut socket, 1).await.remove(0);
    assert_eq!(status, 408);
    assert!(headers.contains(&"connection: close".to_owned()), "{headers:?}");

    let mut socket = server.connect().await;
    socket.write_all(half.as_bytes()).await.unwrap();
    socket.shutdown().await.unwrap();
    let mut rest = Vec::new();
    timeout(PATIENCE, socket.read_to_end(&mut rest)).await.expect("it is closed").unwrap();

    let mut socket = server.connect().await;
    socket.write_all(b"GET /stats HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let (_, _, stats) = answers(&mut socket, 1).await.remove(0);
    assert!(stats.contains("\"published\":0,"), "{stats}");
}

#[tokio::test]
async fn the_public_address_of_two_does_not_publish() {
    let server = start(Side::Public, ServerConfig::default()).await;
    let mut socket = server.connect().await;
    socket.write_all(with_length("/publish?channel=a", "", "hello").as_bytes()).await.unwrap();
    assert_eq!(answers(&mut socket, 1).await[0].0, 404);
}

#[tokio::test]
async fn a_drain_answers_what_has_come_and_closes() {
    let server = start(Side::Both, ServerConfig::default()).await;
    let whole = with_length("/publish?channel=a", "", "hello");
    let mut idle = server.connect().await;
    idle.write_all(whole.as_bytes()).await.unwrap();
    answers(&mut idle, 1).await;
    let mut busy = server.connect().await;
    busy.write_all(&whole.as_bytes()[..whole.len() - 1]).await.unwrap();
    // Its head must have arrived, or it would be a connection that waits for a request.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let app = server.app.clone();
    let drained = tokio::spawn(async move { app.drain(PATIENCE).await });
    let mut rest = Vec::new();
    timeout(PATIENCE, idle.read_to_end(&mut rest)).await.expect("it is closed").unwrap();
    assert!(rest.is_empty());
    busy.write_all(b"o").await.unwrap();
    let (status, headers, _) = answers(&mut busy, 1).await.remove(0);
    assert_eq!(status, 200);
    assert!(headers.contains(&"connection: close".to_owned()), "{headers:?}");
    timeout(PATIENCE, busy.read_to_end(&mut rest)).await.expect("it is closed").unwrap();
    assert_eq!(timeout(PATIENCE, drained).await.expect("it ends").unwrap().connections_left, 0);
}
