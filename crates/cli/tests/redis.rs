//! The binary with its log on disk, and a real Redis.

mod harness;
#[path = "../../ingest-redis/tests/redis/mod.rs"]
mod redis;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use harness::{PATIENCE, Server, run, stderr, stdout_of, tidings};
use redis::tls::Certificates;
use redis::{Client, Redis, Reply};
use rustix::process::Signal;
use serde_json::Value;

fn start(dir: &Path, redis: &Redis, more: &[&str]) -> Server {
    Server::start(dir, &[&["--log", "disk", "--redis", &redis.url()], more].concat())
}

/// The body of an answer.
fn get(server: &Server, path: &str, token: &str) -> String {
    let mut socket = TcpStream::connect(server.address()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n");
    socket.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(" 200 "), "{head}");
    body.to_owned()
}

fn ingested(server: &Server, admin: &str, source: &str) -> Value {
    let stats: Value = serde_json::from_str(&get(server, "/stats", admin)).unwrap();
    stats["ingest"][source].clone()
}

/// A stream of events, as a browser has it.
struct Events(BufReader<TcpStream>);

impl Events {
    fn open(server: &Server, token: &str, last_event_id: Option<&str>) -> Events {
        let mut socket = TcpStream::connect(server.address()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let resume = last_event_id.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
        let head = format!(
            "GET /events?control=0&token={token} HTTP/1.0\r\nHost: localhost\r\nAccept: text/event-stream\r\n{resume}\r\n"
        );
        socket.write_all(head.as_bytes()).unwrap();
        let mut events = Events(BufReader::new(socket));
        while events.line() != ":ok" {}
        events
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.0.read_line(&mut line).unwrap() > 0, "the stream ended");
        line.trim_end().to_owned()
    }

    /// The next event: its type, data and id.
    fn next(&mut self) -> (String, String, String) {
        let mut fields = BTreeMap::new();
        loop {
            let line = self.line();
            match line.split_once(": ") {
                Some((name @ ("event" | "data" | "id"), value)) => {
                    fields.insert(name.to_owned(), value.to_owned());
                }
                _ if line.is_empty() && fields.contains_key("data") => break,
                _ => {}
            }
        }
        let mut field = |name: &str| fields.remove(name).unwrap_or_default();
        (field("event"), field("data"), field("id"))
    }
}

fn until(mut is_so: impl FnMut() -> bool, what: impl Fn() -> String) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{}", what());
        sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_is_published_in_redis_reaches_the_user_and_is_resumed() {
    let redis = Redis::start();
    let dir = tempfile::tempdir().unwrap();
    let mut server = start(dir.path(), &redis, &[]);
    redis.wait_for_subscriber("user:events");
    let token = server.token(&["--sub", "ada"]);
    let admin = server.token(&["--sub", "ops", "--admin"]);
    let mut events = Events::open(&server, &token, None);
    redis.publish(r#"{"userId":"bob","event":"paid","data":{"n":0}}"#);
    redis.publish(r#"{"userId":"ada","event":"paid","data":{"n":1}}"#);
    let (event, data, id) = events.next();
    assert_eq!((&*event, &*data), ("paid", r#"{"n":1}"#));
    drop(events);

    redis.publish(r#"{"userId":"ada","event":"paid","data":{"n":2}}"#);
    let mut events = Events::open(&server, &token, Some(&id));
    assert_eq!(events.next().1, r#"{"n":2}"#);
    // It may be on the page before it is counted.
    let end = Instant::now() + PATIENCE;
    while ingested(&server, &admin, "redis_pubsub")["stored"] != 3 {
        assert!(Instant::now() < end, "{}", server.running.written());
    }
    server.running.signal(Signal::KILL);
    server.running.wait();

    let server = start(dir.path(), &redis, &[]);
    redis.wait_for_subscriber("user:events");
    redis.publish(r#"{"userId":"ada","event":"paid","data":{"n":3}}"#);
    let mut events = Events::open(&server, &token, Some(&id));
    assert_eq!(events.next().1, r#"{"n":2}"#);
    let (_, data, id) = events.next();
    assert_eq!(data, r#"{"n":3}"#);

    let after = ["subscribe", "--url", &server.url, "--last-event-id", &id, "--count", "1", "--json"];
    redis.publish(r#"{"broadcast":true,"event":"deploy","data":"new"}"#);
    let line = stdout_of(tidings().args(after).env("TIDINGS_TOKEN", &token));
    assert!(line.contains(r#""event":"deploy""#) && line.contains(r#""data":"new""#), "{line}");
    server.stop();
    assert_eq!(redis.run(&["PUBLISH", "user:events", "x"]), Reply::Number(0));
}

#[test]
fn bad_messages_are_counted_and_never_quoted() {
    let redis = Redis::start();
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), &redis, &[]);
    redis.wait_for_subscriber("user:events");
    let admin = server.token(&["--sub", "ops", "--admin"]);
    for message in [
        "s3cret",
        r#"{"userId":"s3cret","event":"x"}"#,
        r#"{"userId":"ada","s3cret":1,"data":1}"#,
        r#"{"channel":"s3cret//","data":1}"#,
        r#"{"userId":"ada","event":"tidings:s3cret","data":1}"#,
    ] {
        redis.publish(message);
    }
    redis.publish(r#"{"userId":"ada","data":1}"#);
    let counts = || ingested(&server, &admin, "redis_pubsub");
    until(|| counts()["stored"] == 1, || counts().to_string());
    let expected = serde_json::json!({"received": 6, "stored": 1, "bad": 5, "lost": 0, "reading": 1});
    assert_eq!(counts(), expected);
    let metrics = get(&server, "/metrics", &admin);
    for line in [
        r#"tidings_ingest_received_total{source="redis_pubsub"} 6"#,
        r#"tidings_ingest_bad_total{source="redis_pubsub"} 5"#,
        r#"tidings_ingest_reading{source="redis_pubsub"} 1"#,
    ] {
        assert!(metrics.lines().any(|there| there.starts_with(line)), "{line} is not in\n{metrics}");
    }
    let written = server.stop();
    assert!(
        written.contains("not the JSON of an event") && written.contains("an unknown field"),
        "{written}"
    );
    assert!(!written.contains("s3cret"), "{written}");
}

/// Adds entries 1 to `count`, whatever happens to Redis meanwhile. Each has an id of its own, so that one whose answer
/// was lost is not added twice.
fn add_entries(port: u16, count: u64) {
    let mut client = None;
    for n in 1..=count {
        let end = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < end, "entry {n} can't be added");
            let Some(connected) = client.as_mut() else {
                sleep(Duration::from_millis(5));
                client = Client::connect(port);
                continue;
            };
            let (id, n) = (format!("{n}-1"), n.to_string());
            match connected.run(&["XADD", "orders", &id, "channel", "orders", "data", &n]) {
                Reply::Text(_) => break,
                Reply::Error(error) if error.contains("equal or smaller") => break,
                _ => client = None,
            }
        }
    }
}

#[test]
fn a_stream_is_stored_once_whatever_is_killed() {
    const ENTRIES: u64 = 10_000;
    let mut redis = Redis::start();
    let dir = tempfile::tempdir().unwrap();
    let environment = [("TIDINGS_REDIS__INGEST_STREAMS", "orders")];
    let url = redis.url();
    let begin = || Server::start_with(dir.path(), &["--log", "disk", "--redis", &url], &environment);
    let port = redis.port();
    let adding = std::thread::spawn(move || add_entries(port, ENTRIES));
    let mut round = 0;
    while round < 8 || !adding.is_finished() {
        // Killed while it reads, at another moment each time.
        let mut server = begin();
        sleep(Duration::from_millis(50 + round * 37 % 100));
        server.running.signal(Signal::KILL);
        server.running.wait();
        if round == 3 {
            redis.stop();
            redis.start_again();
        }
        round += 1;
    }
    adding.join().unwrap();
    let server = begin();
    let admin = server.token(&["--sub", "ops", "--admin"]);
    let stored = || {
        let stats: Value = serde_json::from_str(&get(&server, "/stats", &admin)).unwrap();
        stats["log"]["events"].as_u64().unwrap()
    };
    until(|| stored() >= ENTRIES, || format!("{} of {ENTRIES}", stored()));
    let reader = server.token(&["--sub", "ada", "--subscribe", "orders"]);
    let count = ENTRIES.to_string();
    let all = [
        "subscribe",
        "orders",
        "--url",
        &server.url,
        "--only",
        "--last-event-id",
        "earliest",
        "--count",
        &count,
    ];
    let all = stdout_of(tidings().args(all).env("TIDINGS_TOKEN", &reader));
    let all: Vec<&str> = all.lines().map(|line| line.rsplit(' ').next().unwrap()).collect();
    let expected: Vec<String> = (1..=ENTRIES).map(|n| n.to_string()).collect();
    assert_eq!(all, expected, "each once, in order");
    assert_eq!(stored(), ENTRIES);
    server.stop();
}

#[test]
fn a_redis_that_is_away_keeps_nobody_from_anything() {
    let mut redis = Redis::start();
    redis.stop();
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), &redis, &["--dev"]);
    stdout_of(server.client("publish").args(["orders/7", "paid"]));
    server.running.wait_for("not read; trying again");
    redis.start_again();
    redis.wait_for_subscriber("user:events");
    redis.publish(r#"{"channel":"orders/7","data":"sent"}"#);
    let history = [
        "subscribe",
        "--url",
        &server.url,
        "orders/7",
        "--last-event-id",
        "earliest",
        "--only",
        "--count",
        "2",
    ];
    assert_eq!(stdout_of(tidings().args(history)), "orders/7  paid\norders/7  sent");
    server.stop();
}

#[test]
fn what_is_said_in_a_redis_with_tls_is_read_if_it_can_prove_who_it_is() {
    let certificates = Certificates::make();
    let (redis, url) = Redis::start_with_tls(&certificates);
    let authority = certificates.authority();
    let authority = authority.to_str().unwrap();
    let arguments = ["--dev", "--log", "memory", "--redis", &url];
    let dir = tempfile::tempdir().unwrap();
    redis.run(&["XADD", "jobs", "*", "channel", "orders/8", "data", "added"]);
    for trusted in ["SSL_CERT_FILE", "TIDINGS_REDIS__AUTHORITY"] {
        let system = [(trusted, authority), ("TIDINGS_REDIS__INGEST_STREAMS", "jobs")];
        let server = Server::start_with(dir.path(), &arguments, &system);
        redis.wait_for_subscriber("user:events");
        redis.publish(r#"{"channel":"orders/7","data":"published"}"#);
        for (channel, said) in [("orders/7", "orders/7  published"), ("orders/8", "orders/8  added")] {
            let first = [channel, "--last-event-id", "earliest", "--only", "--count", "1"];
            assert_eq!(stdout_of(server.client("subscribe").args(first)), said, "{trusted}");
        }
        server.stop();
    }
    // Of an authority that the system does not know.
    let server = Server::start(dir.path(), &arguments);
    server.running.wait_for("not read; trying again");
    assert_eq!(redis.run(&["PUBLISH", "user:events", "x"]), Reply::Number(0));
    server.stop();
}

#[test]
fn the_password_is_not_shown() {
    let shown = stdout_of(
        tidings().args(["check"]).env("TIDINGS_REDIS__URL", "redis://app:s3cret@redis.example:6380/2"),
    );
    assert!(shown.contains(r#"url = "redis://app:hidden@redis.example:6380/2""#), "{shown}");
    let output = run(tidings().args(["check"]).env("TIDINGS_REDIS__URL", "redis://:s3cret@redis.example/x"));
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("TIDINGS_REDIS__URL: it can't be used: write redis://"),
        "{}",
        stderr(&output)
    );
    assert!(!stderr(&output).contains("s3cret"), "{}", stderr(&output));
    let output = run(tidings().args(["check"]).env("TIDINGS_REDIS__INGEST", "a,b*"));
    assert!(stderr(&output).contains("set redis.url"), "{}", stderr(&output));
}
