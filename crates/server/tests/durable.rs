//! Durable subscriptions on real sockets: the whole server, users with tokens, streams that are lost.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tidings_hub::log::{MemoryLog, MemoryLogConfig, Retention};
use tidings_hub::{Hub, HubConfig, Timestamp};
use tidings_server::auth::{
    Access, AccessConfig, Cors, GrantTemplates, KeyConfig, NewToken, Origins, Secret,
};
use tidings_server::{App, CloseReason, Server, ServerConfig, Side};
use tidings_wire::{Channel, CursorKey, Epoch, Event};
use tokio::net::TcpListener;

/// Longer than anything here takes, for a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(20);

struct Running {
    app: Arc<App>,
    hub: Hub,
    address: SocketAddr,
    client: reqwest::Client,
}

fn key() -> KeyConfig {
    KeyConfig::secret(Secret::new("a secret of the tests, of 40 characters."))
}

fn config() -> ServerConfig {
    ServerConfig { workers: NonZeroUsize::new(2).unwrap(), ..ServerConfig::default() }
}

async fn start(config: ServerConfig) -> Running {
    let log = Arc::new(MemoryLog::new(MemoryLogConfig { epoch: Epoch(1), retention: Retention::default() }));
    let hub = Hub::start(log, HubConfig::new(CursorKey::new([7; 16]))).unwrap();
    let access = AccessConfig { keys: vec![key()], ..AccessConfig::default() };
    let cors = Cors::new(Origins::default());
    let app = Arc::new(App::new(hub.clone(), Access::new(access).unwrap(), cors, config));
    let server = Server::of_side(app.clone(), Side::Both).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { server.serve(listener).await.unwrap() });
    let client = reqwest::Client::builder().timeout(PATIENCE).pool_max_idle_per_host(0).build().unwrap();
    Running { app, hub, address, client }
}

/// A token that may read these channels.
fn token(user: Option<&str>, subscribe: &[&str], admin: bool) -> String {
    let grants = GrantTemplates {
        subscribe: subscribe.iter().map(|text| text.parse().unwrap()).collect(),
        ..GrantTemplates::default()
    };
    let user = user.map(|user| user.parse().unwrap());
    let new = NewToken { user, grants, admin, info: None, ttl: Duration::from_secs(600) };
    new.sign(&key(), "tidings", Timestamp::now()).unwrap().expose().to_owned()
}

fn ada() -> String {
    token(Some("ada"), &["news/*"], false)
}

impl Running {
    /// Publishes and says the id.
    async fn publish(&self, channel: Channel, data: &str) -> String {
        let published = self.hub.publish(Event::new(channel.into(), data.into())).await.unwrap();
        published.id.to_string()
    }

    async fn to_ada(&self, data: &str) -> String {
        self.publish(Channel::user(&"ada".parse().unwrap()), data).await
    }

    async fn send(&self, token: &str, method: &str, target: &str, body: Value) -> reqwest::Response {
        let url = format!("http://{}{target}", self.address);
        let mut request = self.client.request(method.parse().unwrap(), url).bearer_auth(token);
        if !body.is_null() {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        request.send().await.unwrap()
    }

    /// A call and what it is answered.
    async fn call(&self, token: &str, method: &str, target: &str, body: Value) -> (u16, Value) {
        let response = self.send(token, method, target, body).await;
        let status = response.status().as_u16();
        (status, serde_json::from_str(&response.text().await.unwrap()).unwrap())
    }

    async fn ok(&self, token: &str, method: &str, target: &str) -> Value {
        let (status, answer) = self.call(token, method, target, Value::Null).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }

    async fn stream(&self, token: &str, query: &str, last_event_id: Option<&str>) -> Stream {
        let url = format!("http://{}/events?{query}", self.address);
        let mut request = self.client.get(url).bearer_auth(token).header("accept", "text/event-stream");
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        let mut stream = Stream { response, read: String::new() };
        stream.until("tidings:open").await;
        stream
    }
}

struct Stream {
    response: reqwest::Response,
    read: String,
}

impl Stream {
    async fn until(&mut self, text: &str) {
        while !self.read.contains(text) {
            let chunk = self.response.chunk().await.unwrap();
            let chunk = chunk.unwrap_or_else(|| panic!("it ended before {text:?}: {:?}", self.read));
            self.read.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// All that came to the end.
    async fn rest(mut self) -> String {
        while let Some(chunk) = self.response.chunk().await.unwrap() {
            self.read.push_str(std::str::from_utf8(&chunk).unwrap());
        }
        self.read
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_acknowledged_comes_again() {
    let server = start(config()).await;
    let ada = ada();
    server.to_ada("before the first stream").await;
    let mut stream = server.stream(&ada, "subscription=phone", None).await;
    let one = server.to_ada("one").await;
    stream.until("data: one\n").await;
    assert!(!stream.read.contains("before the first stream"));
    drop(stream);
    server.to_ada("two").await;

    // It was written to a socket, which says nothing.
    let mut stream = server.stream(&ada, "subscription=phone", None).await;
    stream.until("data: two\n").await;
    assert!(stream.read.contains("data: one\n"), "{}", stream.read);
    let ack = json!({"subscription": "phone", "id": one});
    let (status, answer) = server.call(&ada, "POST", "/acks", ack).await;
    assert_eq!((status, &answer), (200, &json!({"subscription": "phone", "id": one})));
    let mut stream = server.stream(&ada, "subscription=phone", None).await;
    stream.until("data: two\n").await;
    assert!(!stream.read.contains("data: one\n"), "{}", stream.read);

    // To come back with an id is to acknowledge it, and it never goes back.
    let three = server.to_ada("three").await;
    server.to_ada("four").await;
    let mut stream = server.stream(&ada, "subscription=phone", Some(&three)).await;
    stream.until("data: four\n").await;
    assert!(!stream.read.contains("data: two\n"));
    let mut stream = server.stream(&ada, "subscription=phone", Some(&one)).await;
    stream.until("data: four\n").await;
    assert!(stream.read.contains("data: two\n"), "the smaller counts");
    let queues = server.ok(&ada, "GET", "/queues").await;
    assert_eq!(queues["subscriptions"][0]["id"], three);
    // Another device has its own.
    let mut tablet = server.stream(&ada, "subscription=tablet", None).await;
    server.to_ada("five").await;
    tablet.until("data: five\n").await;
    assert!(!tablet.read.contains("data: four\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_goes_on_from_it_too() {
    let server = start(config()).await;
    let ada = ada();
    let mut stream = server.stream(&ada, "subscription=phone", None).await;
    server.to_ada("one").await;
    server.to_ada("two").await;
    let data = |answer: &Value| -> Vec<String> {
        let events = answer["events"].as_array().unwrap();
        events.iter().map(|event| event["data"].as_str().unwrap().to_owned()).collect()
    };
    let poll = "/events?poll=1&subscription=phone";
    let first = server.ok(&ada, "GET", poll).await;
    assert_eq!(data(&first), ["one", "two"]);
    assert_eq!(server.ok(&ada, "GET", poll).await, first, "nothing was acknowledged");
    server.to_ada("three").await;
    let from = first["last_event_id"].as_str().unwrap();
    assert_eq!(data(&server.ok(&ada, "GET", &format!("{poll}&last_event_id={from}")).await), ["three"]);
    assert_eq!(
        data(&server.ok(&ada, "GET", poll).await),
        ["three"],
        "to come back with an id acknowledges it"
    );
    stream.until("data: three\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_follows_is_kept_when_that_changes() {
    let server = start(config()).await;
    let ada = ada();
    let mut stream = server.stream(&ada, "subscription=phone&channel=news/a", None).await;
    let connection = stream.read.split("\"connection\":\"").nth(1).unwrap()[..32].to_owned();
    let kept = async || server.ok(&ada, "GET", "/queues").await["subscriptions"][0]["channels"].clone();
    assert_eq!(kept().await, json!(["news/a"]));
    let change = |channels: &[&str]| json!({"connection": connection, "channels": channels});
    let (status, answer) = server.call(&ada, "POST", "/subscriptions", change(&["news/b", "news/*"])).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(kept().await, json!(["news/a", "news/b", "news/*"]));
    let (status, answer) = server.call(&ada, "DELETE", "/subscriptions", change(&["news/a"])).await;
    assert_eq!(status, 200, "{answer}");
    let (status, _) = server.call(&ada, "DELETE", "/subscriptions", change(&["news/*"])).await;
    assert_eq!((status, kept().await), (200, json!(["news/b"])));
    server.publish("news/b".parse().unwrap(), "waits").await;
    server.publish("news/a".parse().unwrap(), "is not its own any more").await;
    stream.until("data: waits\n").await;
    let waiting = server.ok(&ada, "GET", "/queues?subscription=phone").await;
    let waiting: Vec<_> = waiting["events"].as_array().unwrap().iter().map(|event| &event["data"]).collect();
    assert_eq!(waiting, ["waits"]);

    // What is kept has a limit, and a stream whose channels are not kept has none of this kind.
    let long: Vec<String> = (0..40).map(|n| format!("news/{n}{}", "x".repeat(900))).collect();
    let long: Vec<&str> = long.iter().map(String::as_str).collect();
    let (status, problem) = server.call(&ada, "POST", "/subscriptions", change(&long)).await;
    assert_eq!((status, &problem["type"]), (409, &json!("urn:tidings:problem:too_many_channels")));
    assert_eq!(kept().await, json!(["news/b"]));
    let other = server.stream(&ada, "channel=news/a", None).await;
    let connection = other.read.split("\"connection\":\"").nth(1).unwrap()[..32].to_owned();
    let change = json!({"connection": connection, "channels": long});
    assert_eq!(server.call(&ada, "POST", "/subscriptions", change).await.0, 200);
    assert_eq!(kept().await, json!(["news/b"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_stream_has_it() {
    let server = start(config()).await;
    let first = server.stream(&ada(), "subscription=phone", None).await;
    let mut other_device = server.stream(&ada(), "subscription=tablet", None).await;
    let bob = token(Some("bob"), &[], false);
    let mut other_user = server.stream(&bob, "subscription=phone", None).await;
    let mut newest = first;
    for _ in 0..5 {
        let next = server.stream(&ada(), "subscription=phone", None).await;
        let ended = std::mem::replace(&mut newest, next).rest().await;
        let farewell = ended.split("event: tidings:kicked\n").nth(1).unwrap_or_else(|| panic!("{ended}"));
        let retry = farewell.lines().find_map(|line| line.strip_prefix("retry: ")).unwrap();
        assert!(retry.parse::<u32>().unwrap() >= 60_000, "it would end the other one: {retry}");
    }
    let data = |user: &str| Event::new(Channel::user(&user.parse().unwrap()).into(), "still there".into());
    server.hub.publish(data("ada")).await.unwrap();
    server.hub.publish(data("bob")).await.unwrap();
    for stream in [&mut newest, &mut other_device, &mut other_user] {
        stream.until("still there").await;
    }
    let stats = server.app.workers().unwrap().stats(Timestamp::now());
    let closed = |reason| stats.closed.iter().find(|(other, _)| *other == reason).unwrap().1;
    assert_eq!((closed(CloseReason::Replaced), closed(CloseReason::Kicked), stats.connections), (5, 0, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_comes_back_writes_nothing_on_one_node() {
    let server = start(config()).await;
    let note = || server.hub.log().note("queue/ada/phone").unwrap();
    let first = server.stream(&ada(), "subscription=phone", None).await;
    let written = note();
    assert!(written.is_some());
    let second = server.stream(&ada(), "subscription=phone", None).await;
    first.rest().await;
    assert_eq!(note(), written);
    drop(second);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_streams_at_once_leave_one() {
    let server = Arc::new(start(config()).await);
    let mut streams = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let server = server.clone();
        streams.spawn(async move {
            let url = format!("http://{}/events?subscription=phone", server.address);
            let mut response = server.client.get(url).bearer_auth(ada()).send().await.unwrap();
            let mut read = String::new();
            while !read.contains("data: x\n") {
                let Some(chunk) = response.chunk().await.unwrap() else { return 0 };
                read.push_str(std::str::from_utf8(&chunk).unwrap());
            }
            1
        });
    }
    let waiting = async {
        loop {
            let stats =
                server.app.workers().map(|workers| workers.stats(Timestamp::now())).unwrap_or_default();
            let ended: u64 = stats.closed.iter().map(|(_, count)| count).sum();
            if ended == 15 && stats.connections == 1 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap();
    server.to_ada("x").await;
    let mut got = 0;
    while let Some(stream) = streams.join_next().await {
        got += stream.unwrap();
    }
    assert_eq!(got, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_is_looked_at_taken_and_flushed() {
    let server = start(config()).await;
    let ada = ada();
    let channels = "channel=news/a&channel=news/b";
    drop(server.stream(&ada, &format!("subscription=phone&{channels}"), None).await);
    drop(server.stream(&ada, "subscription=tablet", None).await);
    for n in 0..5 {
        server.to_ada(&format!("own {n}")).await;
    }
    server.publish("news/a".parse().unwrap(), "news").await;
    server.publish("news/z".parse().unwrap(), "not asked for").await;
    let queues = server.ok(&ada, "GET", "/queues?user=ada").await;
    let phone = &queues["subscriptions"][0];
    assert_eq!((&queues["user"], &phone["subscription"]), (&json!("ada"), &json!("phone")));
    assert_eq!(
        (&phone["channels"], &phone["waiting"], &phone["more"]),
        (&json!(["news/a", "news/b"]), &json!(5), &json!(false))
    );
    let data = |answer: &Value| -> Vec<String> {
        let events = answer["events"].as_array().unwrap();
        events.iter().map(|event| event["data"].as_str().unwrap().to_owned()).collect()
    };
    let next = "/queues?subscription=phone&count=2";
    let look = server.ok(&ada, "GET", next).await;
    assert_eq!(data(&look), ["own 0", "own 1"]);
    assert_eq!(server.ok(&ada, "GET", next).await, look, "to look is not to take");
    server.send(&ada, "HEAD", "/queues?subscription=phone&take=1", Value::Null).await;
    assert_eq!(server.ok(&ada, "GET", &format!("{next}&take=1")).await, look);
    assert_eq!(data(&server.ok(&ada, "GET", &format!("{next}&take=1")).await), ["own 2", "own 3"]);
    let rest = server.ok(&ada, "GET", "/queues?subscription=phone&take=1").await;
    assert_eq!(data(&rest), ["own 4", "news"]);
    assert_eq!(data(&server.ok(&ada, "GET", next).await), [""; 0]);
    assert_eq!(server.ok(&ada, "GET", "/queues").await["subscriptions"][1]["waiting"], 5, "the tablet's");

    // What may no longer be read is not shown, to an administrator neither.
    server.publish("news/b".parse().unwrap(), "more news").await;
    server.to_ada("own 5").await;
    let less = token(Some("ada"), &["news/a"], false);
    assert_eq!(data(&server.ok(&less, "GET", next).await), ["own 5"]);
    let admin = token(None, &[], true);
    let shown = server.ok(&admin, "GET", &format!("{next}&user=ada")).await;
    assert_eq!(data(&shown), ["own 5"]);
    assert_eq!(data(&server.ok(&ada, "GET", next).await), ["more news", "own 5"]);

    let flushed = server.ok(&admin, "DELETE", "/queues?user=ada&subscription=tablet").await;
    assert_eq!(flushed, json!({"flushed": 1}));
    let waiting = |queues: &Value| -> Vec<u64> {
        let all = queues["subscriptions"].as_array().unwrap();
        all.iter().map(|one| one["waiting"].as_u64().unwrap()).collect()
    };
    assert_eq!(waiting(&server.ok(&ada, "GET", "/queues").await), [1, 0]);
    assert_eq!(server.ok(&ada, "DELETE", "/queues").await, json!({"flushed": 2}));
    assert_eq!(waiting(&server.ok(&ada, "GET", "/queues").await), [0, 0]);
    assert_eq!(server.ok(&ada, "DELETE", "/queues?forget=1").await, json!({"forgotten": 2}));
    assert_eq!(server.ok(&ada, "GET", "/queues").await["subscriptions"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_are_their_users() {
    let server = start(config()).await;
    let (ada, bob) = (ada(), token(Some("bob"), &[], false));
    let (admin, service) = (token(None, &[], true), token(None, &[], false));
    drop(server.stream(&ada, "subscription=phone", None).await);
    let id = server.to_ada("x").await;
    let ack = |id: &str| json!({"subscription": "phone", "id": id, "user": "ada"});
    for (token, method, target, body, status) in [
        (&bob, "GET", "/queues?user=ada", Value::Null, 403),
        (&bob, "GET", "/queues?user=ada&subscription=phone", Value::Null, 403),
        (&bob, "DELETE", "/queues?user=ada", Value::Null, 403),
        (&bob, "POST", "/acks", ack(&id), 403),
        (&bob, "POST", "/acks", json!({"subscription": "phone", "id": id}), 404),
        (&bob, "GET", "/queues?subscription=phone", Value::Null, 404),
        (&service, "GET", "/queues", Value::Null, 403),
        (&service, "GET", "/events?subscription=phone", Value::Null, 403),
        (&admin, "GET", "/queues", Value::Null, 400),
        (&admin, "GET", "/queues?user=ada", Value::Null, 200),
        (&admin, "DELETE", "/queues?user=ada&subscription=other", Value::Null, 404),
        (&ada, "GET", "/queues?count=1", Value::Null, 400),
        (&ada, "GET", "/queues?subscription=phone&take=yes", Value::Null, 400),
        (&ada, "GET", "/queues?subscription=phone&count=0", Value::Null, 400),
        (&ada, "GET", "/queues?subscription=", Value::Null, 400),
        (&ada, "GET", "/queues?colour=red", Value::Null, 400),
        (&ada, "DELETE", "/queues?forget=yes", Value::Null, 400),
        (&ada, "POST", "/acks", json!({"subscription": "phone"}), 400),
        (&ada, "POST", "/acks", json!({"id": id}), 400),
        (&ada, "POST", "/acks", json!({"subscription": "phone", "id": "nonsense"}), 400),
        (&ada, "POST", "/acks", json!({"subscription": "phone", "id": 7}), 400),
        (&ada, "POST", "/acks", json!({"subscription": "phone", "id": id, "colour": "red"}), 400),
        (&ada, "POST", "/acks", json!([]), 400),
        (&ada, "POST", "/acks", json!({"subscription": "x".repeat(5_000), "id": id}), 413),
        (&ada, "POST", "/acks", json!({"subscription": "other", "id": id}), 404),
        (&admin, "POST", "/acks", ack(&id), 200),
    ] {
        let (found, answer) = server.call(token, method, target, body.clone()).await;
        assert_eq!(found, status, "{method} {target} {body}: {answer}");
    }
    let url = format!("http://{}/events?subscription=phone", server.address);
    assert_eq!(server.client.get(url).send().await.unwrap().status(), 401);
    assert_eq!(server.ok(&ada, "GET", "/queues").await["subscriptions"][0]["waiting"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_sent_away_is_given_no_place_to_acknowledge() {
    let mut config = config();
    config.limits.per_user = 1;
    let server = start(config).await;
    let stays = server.stream(&ada(), "subscription=phone", None).await;
    server.to_ada("x").await;
    let url = format!("http://{}/events?subscription=tablet", server.address);
    let away = async |id: Option<&str>| {
        let mut request = server.client.get(&url).bearer_auth(ada()).header("accept", "text/event-stream");
        if let Some(id) = id {
            request = request.header("last-event-id", id);
        }
        request.send().await.unwrap().text().await.unwrap()
    };
    let answer = away(None).await;
    assert!(answer.contains("tidings:overloaded") && answer.contains("\nid: \n"), "{answer}");
    let id = server.to_ada("y").await;
    let answer = away(Some(&id)).await;
    assert!(answer.contains(&format!("id: {id}\n")), "its own: {answer}");
    drop(stays);
}
