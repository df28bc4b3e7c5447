//! Two nodes with their log on one Redis, of which one learns late what the other has stored: ids that it has not read yet
//! are waited for, and never taken for unknown ones.

mod harness;
#[path = "../../ingest-redis/tests/redis/mod.rs"]
mod redis;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use harness::{PATIENCE, Server, stdout_of, tidings};
use redis::Redis;
use redis::proxy::Proxy;
use serde_json::Value;
use tempfile::TempDir;

/// Both nodes know the tokens of both.
const SECRET: [(&str, &str); 1] =
    [("TIDINGS_JWT_SECRET", "a secret that all of the nodes have, long enough")];

/// Two nodes: one is beside Redis, the way of the other one can be held.
struct Hub {
    near: Server,
    far: Server,
    way: Proxy,
    token: String,
    _redis: Redis,
    _dirs: [TempDir; 2],
}

/// A question that names what came with an id.
#[derive(Clone)]
struct Ask {
    method: &'static str,
    target: String,
    headers: String,
    body: String,
}

fn get(target: String) -> Ask {
    Ask { method: "GET", target, headers: String::new(), body: String::new() }
}

fn stream(id: &str, more: &str) -> Ask {
    get(format!("/events?channel=orders/7&control=0&last_event_id={id}{more}"))
}

fn ack(name: &str, id: &str) -> Ask {
    let body = format!("{{\"subscription\":\"{name}\",\"id\":\"{id}\"}}");
    Ask { method: "POST", body, ..get("/acks".to_owned()) }
}

/// What was answered so far: head and body, until something is in it, or to the end.
struct Answer(String);

impl Answer {
    fn status(&self) -> &str {
        self.0.split(' ').nth(1).unwrap()
    }

    fn body(&self) -> &str {
        self.0.split_once("\r\n\r\n").unwrap().1
    }

    fn json(&self) -> Value {
        serde_json::from_str(self.body()).unwrap_or_else(|error| panic!("{error}: {}", self.0))
    }

    /// The document of a problem that is over in a moment.
    fn assert_is_503(&self, kind: &str) {
        assert_eq!(self.status(), "503", "{}", self.0);
        let head = self.0.to_ascii_lowercase();
        assert!(head.contains("retry-after: ") && head.contains("application/problem+json"), "{}", self.0);
        assert_eq!(self.json()["type"], format!("urn:tidings:problem:{kind}"), "{}", self.0);
    }

    /// The data of the events, where the answer is one document.
    fn events(&self) -> Vec<String> {
        let answer = self.json();
        assert!(answer["gap"].is_null(), "{}", self.0);
        let all = answer["events"].as_array().unwrap_or_else(|| panic!("{}", self.0));
        all.iter().map(|event| event["data"].as_str().unwrap().to_owned()).collect()
    }
}

/// Asks in the words of HTTP/1.0, whose answer has no chunks.
fn ask_with(address: &str, token: &str, ask: &Ask, until: &str) -> Answer {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let Ask { method, target, headers, body } = ask;
    let length = body.len();
    write!(
        socket,
        "{method} {target} HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut read = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let shown = String::from_utf8_lossy(&read).into_owned();
        if !until.is_empty() && shown.contains(until) {
            return Answer(shown);
        }
        match socket.read(&mut piece).unwrap() {
            0 => return Answer(shown),
            length => read.extend_from_slice(&piece[..length]),
        }
    }
}

impl Hub {
    fn start() -> Hub {
        let redis = Redis::start();
        let way = Proxy::before(redis.port());
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let node = |dir: &TempDir, url: &str| {
            Server::start_with(dir.path(), &["--log", "redis", "--redis", url], &SECRET)
        };
        let (near, far) = (node(&dirs[0], &redis.url()), node(&dirs[1], &way.url()));
        let grants = ["--sub", "ada", "--subscribe", "orders/*", "--publish", "orders/*", "--admin"];
        let token = stdout_of(tidings().arg("token").args(grants).envs(SECRET));
        Hub { near, far, way, token, _redis: redis, _dirs: dirs }
    }

    fn near(&self, ask: &Ask) -> Answer {
        ask_with(self.near.address(), &self.token, ask, "")
    }

    fn far(&self, ask: &Ask) -> Answer {
        ask_with(self.far.address(), &self.token, ask, "")
    }

    /// Publishes by the near node; the id.
    fn publish(&self, data: &str) -> String {
        let target = "/publish?channel=orders/7".to_owned();
        let answer = self.near(&Ask { method: "POST", body: data.to_owned(), ..get(target) });
        answer.json()["id"].as_str().unwrap_or_else(|| panic!("{}", answer.0)).to_owned()
    }

    /// Begins a durable subscription.
    fn subscribe(&self, name: &str) {
        let target = format!("/events?channel=orders/7&subscription={name}");
        let answer = ask_with(self.near.address(), &self.token, &get(target), "tidings:open");
        assert_eq!(answer.status(), "200", "{}", answer.0);
    }

    /// The durable subscriptions, each with its cursor, as the near node has them.
    fn subscriptions(&self) -> Vec<(String, String)> {
        let answer = self.near(&get("/queues".to_owned())).json();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let all = answer["subscriptions"].as_array().unwrap();
        all.iter().map(|one| (text(&one["subscription"]), text(&one["id"]))).collect()
    }

    /// The data of all that is kept, as the near node has it.
    fn kept(&self) -> Vec<String> {
        self.near(&get("/history?channel=orders/7".to_owned())).events()
    }

    /// Waits until the far node has read all, and writes.
    fn catch_up(&self) {
        let end = Instant::now() + PATIENCE;
        let publish = get("/publish?channel=orders/other".to_owned());
        let publish = Ask { method: "POST", body: "x".to_owned(), ..publish };
        while self.far(&publish).status() != "200" {
            assert!(Instant::now() < end, "{}", self.far.running.written());
        }
    }

    /// Asks the far node all of this at once, and lets it learn of nothing until all has waited for a while. Each answer is
    /// read until the text beside its question is in it, or to its end. `None` if this process slept for too long
    /// meanwhile: then some were right to give up.
    fn ask_held(&self, asks: &[(Ask, &'static str)]) -> Option<Vec<Answer>> {
        let began = Instant::now();
        let asking: Vec<_> = asks
            .iter()
            .map(|(ask, until)| {
                let (address, token) = (self.far.address().to_owned(), self.token.clone());
                let (ask, until) = (ask.clone(), *until);
                spawn(move || ask_with(&address, &token, &ask, until))
            })
            .collect();
        sleep(A_WHILE);
        let early = asking.iter().position(|asking| asking.is_finished());
        self.way.release();
        let in_time = began.elapsed() < TOO_LONG;
        let answers: Vec<_> = asking.into_iter().map(|asking| asking.join().unwrap()).collect();
        if let Some(early) = early {
            panic!("{} was not waited for: {}", asks[early].0.target, answers[early].0);
        }
        in_time.then_some(answers)
    }
}

/// As long as a question is held that is to be answered.
const A_WHILE: Duration = Duration::from_millis(300);
/// After that of the two seconds that a node waits not enough are left to be sure.
const TOO_LONG: Duration = Duration::from_secs(1);

/// With a new hub, until this process has not slept for too long.
fn on_a_hub(test: impl Fn(&Hub) -> Option<()>) {
    let done = (0..20).any(|_| test(&Hub::start()).is_some());
    assert!(done, "the machine is too busy for this");
}

#[test]
fn an_id_that_a_node_has_not_read_yet_is_waited_for() {
    on_a_hub(waits);
}

fn waits(hub: &Hub) -> Option<()> {
    for name in ["tablet", "phone"] {
        hub.subscribe(name);
    }
    hub.catch_up();
    hub.publish("first");
    hub.way.hold();
    let second = hub.publish("second");
    let third = hub.publish("third");
    let by_header = Ask {
        headers: format!("Last-Event-ID: {second}\r\n"),
        ..get("/events?channel=orders/7&control=0".to_owned())
    };
    let history = |more: String| get(format!("/history?channel=orders/7{more}"));
    let asks = [
        (history(format!("&after={second}")), ""),
        (history(format!("&until={second}")), ""),
        (history(format!("&after={second}&until={third}&order=desc")), ""),
        (stream(&second, "&poll=1"), ""),
        (stream(&second, "&poll=1&subscription=poll"), ""),
        (stream(&second, ""), "data: third\n"),
        (stream(&second, "&only=1"), "data: third\n"),
        (by_header, "data: third\n"),
        (stream(&second, "&subscription=new"), "data: third\n"),
        (stream(&second, "&subscription=tablet"), "data: third\n"),
        (ack("phone", &second), ""),
    ];
    let answers = hub.ask_held(&asks)?;
    for ((Ask { target, .. }, until), answer) in asks.iter().zip(&answers) {
        assert_eq!(answer.status(), "200", "{target}: {}", answer.0);
        if !until.is_empty() {
            let body = answer.body();
            assert!(body.contains("data: third\n"), "{target}: {body}");
            for other in ["data: second\n", "data: first\n", "tidings:gap"] {
                assert!(!body.contains(other), "{target}: {body}");
            }
        }
    }
    // As far as it has read by then.
    assert!(answers[0].events().iter().all(|data| data == "third"), "{}", answers[0].0);
    assert_eq!(answers[1].events(), ["first", "second"]);
    assert_eq!(answers[2].events(), ["third"]);
    assert_eq!(answers[3].events(), ["third"]);
    assert_eq!(answers[4].events(), ["third"]);
    assert_eq!(answers[10].json()["id"], second.as_str());
    let all = ["new", "phone", "poll", "tablet"].map(|name| (name.to_owned(), second.clone()));
    assert_eq!(hub.subscriptions(), all, "to come with an id is to acknowledge it");
    Some(())
}

#[test]
fn an_event_is_deleted_that_a_node_has_not_read_yet() {
    on_a_hub(|hub| {
        hub.publish("first");
        hub.catch_up();
        hub.way.hold();
        let second = hub.publish("second");
        let delete = Ask { method: "DELETE", ..get(format!("/history?id={second}")) };
        let answers = hub.ask_held(&[(delete, "")])?;
        assert_eq!(answers[0].json()["removed"], 1, "{}", answers[0].0);
        assert_eq!(hub.kept(), ["first"]);
        Some(())
    });
}

#[test]
fn a_node_that_can_not_read_so_far_says_so_and_changes_nothing() {
    let hub = Hub::start();
    let first = hub.publish("first");
    for name in ["tablet", "phone"] {
        hub.subscribe(name);
    }
    hub.catch_up();
    let before = hub.subscriptions();
    // One that it has read is no matter, though nothing comes any more.
    hub.way.hold();
    let second = hub.publish("second");
    assert_eq!(hub.far(&get(format!("/history?channel=orders/7&after={first}"))).status(), "200");
    let history = |more: String| get(format!("/history?channel=orders/7{more}"));
    let delete = Ask { method: "DELETE", ..get(format!("/history?id={second}")) };
    let asks = [
        (history(format!("&after={second}")), "not_read"),
        (history(format!("&until={second}")), "not_read"),
        (stream(&second, "&poll=1"), "log_failed"),
        (stream(&second, "&poll=1&subscription=poll"), "log_failed"),
        (stream(&second, ""), "log_failed"),
        (stream(&second, "&only=1"), "log_failed"),
        (stream(&second, "&subscription=new"), "log_failed"),
        (stream(&second, "&subscription=tablet"), "log_failed"),
        (ack("phone", &second), "not_read"),
        (delete, "unknown or not_stored"),
    ];
    let asking: Vec<_> = asks
        .iter()
        .map(|(ask, _)| {
            let (address, token, ask) = (hub.far.address().to_owned(), hub.token.clone(), ask.clone());
            spawn(move || ask_with(&address, &token, &ask, ""))
        })
        .collect();
    for ((ask, kind), asking) in asks.iter().zip(asking) {
        let answer = asking.join().unwrap();
        assert_eq!(answer.status(), "503", "{} {}: {}", ask.method, ask.target, answer.0);
        if ask.method == "DELETE" {
            let said = answer.json()["type"].as_str().unwrap().to_owned();
            assert!(kind.contains(said.rsplit(':').next().unwrap()), "{said}");
        } else {
            answer.assert_is_503(kind);
        }
    }
    // An `EventSource` would never come back after a 503: it is sent away with its own place.
    let source = Ask { headers: "Accept: text/event-stream\r\n".to_owned(), ..stream(&second, "") };
    let answer = hub.far(&source);
    assert_eq!(answer.status(), "200", "{}", answer.0);
    let body = answer.body();
    assert!(
        body.contains("event: tidings:overloaded\n") && body.contains(&format!("id: {second}\n")),
        "{body}"
    );
    assert!(!body.contains("tidings:gap"), "{body}");

    hub.way.release();
    hub.catch_up();
    assert_eq!(hub.subscriptions(), before, "none is new, none has moved");
    // And now it knows.
    assert_eq!(hub.far(&history(format!("&after={second}"))).events(), [""; 0]);
    assert_eq!(hub.far(&ack("phone", &second)).json()["id"], second.as_str());
}

#[test]
fn an_id_of_another_hub_is_not_waited_for() {
    let hub = Hub::start();
    hub.publish("first");
    hub.subscribe("phone");
    hub.catch_up();
    let before = hub.subscriptions();
    let dir = tempfile::tempdir().unwrap();
    let other = Server::start(dir.path(), &["--dev", "--log", "memory"]);
    let foreign = stdout_of(other.client("publish").args(["orders/7", "elsewhere"]));
    hub.way.hold();
    // What it is not yet able to know it says so of: this is the answer that none of those below is.
    let second = hub.publish("second");
    hub.far(&get(format!("/history?channel=orders/7&after={second}"))).assert_is_503("not_read");
    let history = hub.far(&get(format!("/history?channel=orders/7&after={foreign}")));
    assert_eq!(history.status(), "200", "{}", history.0);
    assert_eq!(history.json()["gap"]["reason"], "unknown");
    assert_eq!(history.json()["events"][0]["data"], "first");
    assert_eq!(hub.far(&get(format!("/history?channel=orders/7&until={foreign}"))).status(), "400");
    let delete = Ask { method: "DELETE", ..get(format!("/history?id={foreign}")) };
    assert_eq!(hub.far(&delete).status(), "400");
    assert_eq!(hub.far(&ack("phone", &foreign)).status(), "400");
    let polled = hub.far(&stream(&foreign, "&poll=1"));
    assert_eq!(polled.json()["gap"]["reason"], "unknown", "{}", polled.0);
    let opened = get(format!("/events?channel=orders/7&subscription=phone&last_event_id={foreign}"));
    for (ask, until) in [(stream(&foreign, ""), "\"unknown\""), (opened, "tidings:open")] {
        let answer = ask_with(hub.far.address(), &hub.token, &ask, until);
        assert_eq!(answer.status(), "200", "{}", answer.0);
        assert!(answer.0.contains(until), "{}", answer.0);
    }
    hub.way.release();
    hub.catch_up();
    assert_eq!(hub.subscriptions(), before);
}
