use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use serde_json::{Value, json};
use tidings_hub::Timestamp;

use super::connections::{Stream, listening_with};
use super::{SECRET, Server, request, token};
use crate::auth::{AccessConfig, GrantTemplates, KeyConfig, NewToken, Secret};
use crate::{PresenceOptions, ServerConfig};

/// Longer than any test: whoever goes is not said to have gone.
const NEVER: Duration = Duration::from_secs(3600);

fn templates(patterns: &[&str]) -> GrantTemplates {
    let parsed = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    GrantTemplates {
        subscribe: parsed(&["**", "$presence"]),
        publish: parsed(&["**"]),
        presence: parsed(patterns),
    }
}

async fn started(grace: Duration, presence: &[&str]) -> (Server, SocketAddr) {
    let access = AccessConfig {
        keys: vec![KeyConfig::secret(Secret::new(SECRET))],
        grants: templates(presence),
        ..AccessConfig::default()
    };
    let options = PresenceOptions { grace, ..PresenceOptions::default() };
    let workers = NonZeroUsize::new(3).unwrap();
    listening_with(ServerConfig { presence: options, workers, ..ServerConfig::default() }, access).await
}

fn with_info(user: &str, info: &Value) -> String {
    let info = info.as_object().cloned();
    let user = Some(user.parse().unwrap());
    let token = NewToken { user, info, ttl: Duration::from_secs(60), ..NewToken::default() };
    let key = KeyConfig::secret(Secret::new(SECRET));
    token.sign(&key, "tidings", Timestamp::now()).unwrap().expose().to_owned()
}

fn of(user: &str) -> String {
    token(Some(user), false)
}

impl Stream {
    /// The data of the next `tidings:presence` of which this is true.
    async fn presence(&mut self, what: impl Fn(&Value) -> bool) -> Value {
        loop {
            while let Some(at) = self.text.find("event: tidings:presence\n") {
                let rest = &self.text[at..];
                let Some(end) = rest.find("\n\n") else { break };
                let block = rest[..end].to_owned();
                self.text.replace_range(..at + end + 2, "");
                let lines: Vec<&str> = block.lines().collect();
                assert!(lines[2].starts_with("id: ") && lines.len() == 3, "{block}");
                let data: Value = serde_json::from_str(lines[1].strip_prefix("data: ").unwrap()).unwrap();
                if what(&data) {
                    return data;
                }
            }
            self.read_more().await;
        }
    }

    async fn snapshot(&mut self) -> Value {
        self.presence(|data| data["type"] == "snapshot").await
    }

    /// The next digest that names somebody.
    async fn digest(&mut self) -> Value {
        let names = |data: &Value| data["joined"] != json!([]) || data["left"] != json!([]);
        self.presence(|data| data["type"] == "digest" && names(data)).await
    }
}

fn users(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|one| one["user"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn who_watches_is_told_who_is_there_and_who_comes() {
    let (server, address) = started(NEVER, &["room/*"]).await;
    let ann = with_info("ann", &json!({"name": "Ann"}));
    let mut watcher = Stream::open(address, &format!("channel=room/1&presence=1&token={ann}")).await;
    let snapshot = watcher.snapshot().await;
    let expected = json!({
        "channel": "room/1",
        "type": "snapshot",
        "connections": 1,
        "users": [{"user": "ann", "connections": 1, "info": {"name": "Ann"}}],
        "truncated": false,
    });
    assert_eq!(snapshot, expected, "it is there itself");
    // One by its name, one by a pattern, one that has no user, one that is elsewhere.
    let bob = Stream::open(address, &format!("channel=room/1&token={}", of("bob"))).await;
    let digest = watcher.digest().await;
    assert_eq!((&digest["channel"], users(&digest["joined"])), (&json!("room/1"), vec!["bob"]));
    assert_eq!((&digest["left"], &digest["connections"]), (&json!([]), &json!(2)));
    let _service = Stream::open(address, &format!("channel=room/1&token={}", token(None, true))).await;
    let _other = Stream::open(address, &format!("channel=room/2&token={}", of("dan"))).await;
    let _eve = Stream::open(address, &format!("channel=room/*&token={}", of("eve"))).await;
    let digest = watcher.digest().await;
    assert_eq!((users(&digest["joined"]), &digest["connections"]), (vec!["eve"], &json!(4)));

    // Bob comes back within the grace time. Of that nothing is said: the next news is of somebody else.
    drop(bob);
    watcher.presence(|data| data["connections"] == 3).await;
    let _bob = Stream::open(address, &format!("channel=room/1&token={}", of("bob"))).await;
    let _fay = Stream::open(address, &format!("channel=room/1&token={}", of("fay"))).await;
    let digest = watcher.digest().await;
    assert_eq!((users(&digest["joined"]), &digest["left"]), (vec!["fay"], &json!([])));

    // Whoever comes later has the same to go by, on whatever worker.
    let query = format!("channel=room/1&presence=1&control=1&envelope=1&token={ann}");
    for _ in 0..3 {
        let snapshot = Stream::open(address, &query).await.snapshot().await;
        assert_eq!(users(&snapshot["users"]), ["ann", "bob", "eve", "fay"]);
    }
    server.app.begin_drain();
}

#[tokio::test]
async fn who_stays_away_has_left() {
    let (server, address) = started(Duration::from_millis(50), &["**"]).await;
    let mut watcher = Stream::open(address, &format!("channel=a&presence=1&token={}", of("ann"))).await;
    let bob = Stream::open(address, &format!("channel=a&token={}", of("bob"))).await;
    assert_eq!(users(&watcher.digest().await["joined"]), ["bob"]);
    drop(bob);
    let digest = watcher.digest().await;
    assert_eq!((users(&digest["left"]), &digest["joined"]), (vec!["bob"], &json!([])));
    assert_eq!(digest["connections"], 1);
    server.app.begin_drain();
}

#[tokio::test]
async fn several_channels_are_told_apart() {
    let (server, address) = started(NEVER, &["**"]).await;
    let query = format!("channel=a&channel=b/c&presence=1&token={}", of("ann"));
    let mut watcher = Stream::open(address, &query).await;
    let channels = [watcher.snapshot().await, watcher.snapshot().await].map(|s| s["channel"].clone());
    assert_eq!(channels, ["a", "b/c"]);
    let _both = Stream::open(address, &format!("channel=**&token={}", of("bob"))).await;
    let mut channels = [watcher.digest().await, watcher.digest().await].map(|d| d["channel"].to_string());
    channels.sort();
    assert_eq!(channels, ["\"a\"", "\"b/c\""]);
    server.app.begin_drain();
}

#[tokio::test]
async fn who_follows_something_else_has_moved() {
    let (server, address) = started(Duration::from_millis(50), &["**"]).await;
    let admin = token(None, true);
    let query = format!("channel=a&channel=b&presence=1&token={}", of("ann"));
    let mut watcher = Stream::open(address, &query).await;
    let bob = Stream::open(address, &format!("channel=a&token={}", of("bob"))).await;
    assert_eq!(users(&watcher.digest().await["joined"]), ["bob"]);
    let connection = bob.connection.clone();
    let change = |method: &'static str, channel: &'static str| {
        let body = json!({"connection": connection, "channels": [channel]}).to_string();
        let mut request = request(method, "/subscriptions", body.into());
        request.headers_mut().insert("authorization", format!("Bearer {admin}").parse().unwrap());
        request.headers_mut().insert("content-type", "application/json".parse().unwrap());
        server.send(request)
    };
    change("POST", "b").await.ok();
    let digest = watcher.digest().await;
    assert_eq!((&digest["channel"], users(&digest["joined"])), (&json!("b"), vec!["bob"]));
    change("DELETE", "a").await.ok();
    let digest = watcher.digest().await;
    assert_eq!((&digest["channel"], users(&digest["left"])), (&json!("a"), vec!["bob"]));
    drop(bob);
    let digest = watcher.digest().await;
    assert_eq!((&digest["channel"], users(&digest["left"])), (&json!("b"), vec!["bob"]));
    assert_eq!(digest["connections"], 1);
    server.app.begin_drain();
}

#[tokio::test]
async fn a_stream_that_watches_follows_nothing_that_it_could_not_come_back_with() {
    let (server, address) = started(NEVER, &["open/*"]).await;
    let (ann, admin) = (of("ann"), token(None, true));
    let watcher = Stream::open(address, &format!("channel=open/1&presence=1&token={ann}")).await;
    let plain = Stream::open(address, &format!("channel=open/1&token={ann}")).await;
    let add = |stream: &Stream, who: &str, channel: &str| {
        let body = json!({"connection": stream.connection, "channels": ["open/2", channel]}).to_string();
        let mut request = request("POST", "/subscriptions", body.into());
        request.headers_mut().insert("authorization", format!("Bearer {who}").parse().unwrap());
        request.headers_mut().insert("content-type", "application/json".parse().unwrap());
        server.send(request)
    };
    add(&watcher, &ann, "secret").await.problem(403);
    add(&watcher, &ann, "open/*").await.problem(400);
    add(&watcher, &admin, "open/*").await.problem(400);
    let its = format!("/connections/{}", watcher.connection);
    assert_eq!(server.as_who(&admin, "GET", &its).await.ok()["channels"], json!(["open/1"]));
    add(&watcher, &ann, "open/3").await.ok();
    // For its user, by who may grant anything.
    add(&watcher, &admin, "secret").await.ok();
    add(&plain, &ann, "secret").await.ok();
    add(&plain, &ann, "open/*").await.ok();
    server.app.begin_drain();
}

#[tokio::test]
async fn the_presence_grant_is_needed_on_every_way() {
    let (server, address) = started(NEVER, &["open/*"]).await;
    let ann = of("ann");
    for (query, status) in [
        ("channel=secret", 403),
        ("channel=open/1&channel=secret", 403),
        ("channel=open/*", 400),
        ("channel=open/1&only=1", 400),
        ("channel=open/1&control=0", 400),
        ("channel=open/1&presence=0", 400),
        ("", 400),
    ] {
        let target = format!("/events?presence=1&{query}");
        assert_eq!(server.as_who(&ann, "GET", &target).await.problem(status)["status"], status, "{query}");
    }
    server.get("/events?presence=1&channel=open/1").await.problem(401);
    for (query, status) in [
        ("channel=secret", 403),
        ("channel=$user/ann", 403),
        ("channel=open/*", 400),
        ("", 400),
        ("channel=open/1&limit=0", 400),
    ] {
        server.as_who(&ann, "GET", &format!("/presence?{query}")).await.problem(status);
    }
    server.get("/presence?channel=open/1").await.problem(401);
    server.as_who(&ann, "GET", "/users?user=ann").await.problem(403);
    server.get("/users?user=ann").await.problem(401);
    // An administrator is granted no channel by that.
    server.as_who(&token(None, true), "GET", "/presence?channel=secret").await.problem(403);
    // Joins are told to those who asked, and to nobody else.
    let mut plain = Stream::open(address, &format!("channel=open/1&control=1&token={ann}")).await;
    let mut watcher = Stream::open(address, &format!("channel=open/1&presence=1&token={ann}")).await;
    let _bob = Stream::open(address, &format!("channel=open/1&token={}", of("bob"))).await;
    watcher.digest().await;
    server.as_who(&token(None, true), "POST", "/publish?channel=open/1").await.ok();
    plain.read_until("data: x").await;
    assert!(!plain.text.contains("tidings:presence"), "{}", plain.text);
    server.app.begin_drain();
}

#[tokio::test]
async fn members_are_looked_up_whether_watched_or_not() {
    let (server, address) = started(NEVER, &["room"]).await;
    let of_room = |limit: &str| {
        let (server, target) = (&server, format!("/presence?channel=room{limit}"));
        async move { server.as_who(&of("x"), "GET", &target).await.ok() }
    };
    let empty = json!({"channel": "room", "connections": 0, "users": [], "truncated": false});
    assert_eq!(of_room("").await, empty);
    let ann = with_info("ann", &json!({"n": 1}));
    let one = Stream::open(address, &format!("channel=room&token={ann}")).await;
    let _two = Stream::open(address, &format!("channel=*&channel=room&token={ann}")).await;
    let _bob = Stream::open(address, &format!("channel=room&token={}", of("bob"))).await;
    let _none = Stream::open(address, &format!("channel=room&token={}", token(None, true))).await;
    let expected =
        json!([{"user": "ann", "connections": 2, "info": {"n": 1}}, {"user": "bob", "connections": 1}]);
    let found = of_room("").await;
    assert_eq!(
        (&found["connections"], &found["users"], &found["truncated"]),
        (&json!(4), &expected, &json!(false))
    );
    let found = of_room("&limit=1").await;
    assert_eq!((users(&found["users"]), &found["truncated"]), (vec!["ann"], &json!(true)));
    assert_eq!(found["connections"], 4);
    drop(one);
    while of_room("").await["connections"] != 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(of_room("").await["users"][0]["connections"], 1);
    server.app.begin_drain();
}

#[tokio::test]
async fn users_are_online_until_the_grace_time_is_over() {
    let (server, address) = started(Duration::from_millis(50), &[]).await;
    let admin = token(None, true);
    let before = Timestamp::now().0;
    let mut events = Stream::open(address, &format!("channel=$presence&token={}", of("watcher"))).await;
    events.read_until("event: online\ndata: {\"user\":\"watcher\",\"at\":").await;
    let ann = Stream::open(address, &format!("token={}", of("ann"))).await;
    events.read_until("event: online\ndata: {\"user\":\"ann\",\"at\":").await;
    let answer = server.as_who(&admin, "GET", "/users?user=ann&user=nobody&user=watcher").await.ok();
    assert_eq!(users(&answer), ["ann", "nobody", "watcher"]);
    let [online, never] = [&answer[0], &answer[1]];
    assert_eq!((&online["online"], &online["connections"]), (&json!(true), &json!(1)));
    assert!(online["last_seen"].as_u64().unwrap() >= before);
    assert_eq!(never, &json!({"user": "nobody", "online": false, "connections": 0, "last_seen": null}));
    let stats = server.as_who(&admin, "GET", "/stats").await.ok();
    assert_eq!(stats["users_online"], 2);
    drop(ann);
    events.read_until("event: offline\ndata: {\"user\":\"ann\",\"at\":").await;
    let answer = server.as_who(&admin, "GET", "/users?user=ann").await.ok();
    assert_eq!((&answer[0]["online"], &answer[0]["connections"]), (&json!(false), &json!(0)));
    // It is noted once the event is stored.
    let seen = loop {
        let answer = server.as_who(&admin, "GET", "/users?user=ann").await.ok();
        if let Some(seen) = answer[0]["last_seen"].as_u64() {
            break seen;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!((before..=Timestamp::now().0).contains(&seen));

    // It is a channel like any: what was missed is had again, and the newest of each key is who is there.
    let history = server.as_who(&of("x"), "GET", "/history?channel=$presence").await.ok();
    let said: Vec<String> = history["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| {
            format!("{} {}", event["data"]["user"].as_str().unwrap(), event["event"].as_str().unwrap())
        })
        .collect();
    assert_eq!(said, ["watcher online", "ann online", "ann offline"]);
    server.as_who(&admin, "GET", "/users").await.problem(400);
    let many = (0..101).map(|n| format!("user={n}&")).collect::<String>();
    server.as_who(&admin, "GET", &format!("/users?{many}")).await.problem(400);
    server.as_who(&admin, "POST", "/publish?channel=$presence").await.problem(400);
    server.app.begin_drain();
}

#[tokio::test]
async fn a_second_stream_and_a_reconnect_are_no_coming() {
    let (server, address) = started(NEVER, &[]).await;
    let query = format!("channel=$presence&history=100&token={}", of("ann"));
    let first = Stream::open(address, &query).await;
    let _second = Stream::open(address, &query).await;
    drop(first);
    let mut third = Stream::open(address, &query).await;
    let _bob = Stream::open(address, &format!("token={}", of("bob"))).await;
    third.read_until("\"user\":\"bob\"").await;
    assert_eq!(
        third.text.matches("\"user\":\"ann\"").count(),
        1 + 1,
        "its open, and one coming: {}",
        third.text
    );
    server.app.begin_drain();
}

#[tokio::test]
async fn a_stop_sends_nobody_offline() {
    let (server, address) = started(Duration::from_millis(1), &[]).await;
    let mut stream = Stream::open(address, &format!("channel=$presence&token={}", of("ann"))).await;
    stream.read_until("\"at\":").await;
    server.app.drain(Duration::from_secs(5)).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let history = server.as_who(&of("x"), "GET", "/history?channel=$presence").await.ok();
    assert_eq!(history["events"].as_array().unwrap().len(), 1, "{history}");
}

/// A stream that reads nothing is in the middle of an event, so that a change of its channels waits for the end of that.
#[tokio::test]
async fn a_stream_that_ends_before_its_change_was_carried_out_leaves_what_it_followed() {
    let (server, address) = started(NEVER, &["**"]).await;
    let admin = token(None, true);
    let query = format!("channel=room&presence=1&token={}", of("ann"));
    let mut watcher = Stream::open(address, &query).await;
    for (method, channels, followers) in
        [("POST", "channel=big", 1), ("DELETE", "channel=big&channel=room", 2)]
    {
        let bob = Stream::open(address, &format!("{channels}&token={}", of("bob"))).await;
        // More than the buffers of two sockets take.
        for _ in 0..16 {
            let mut large = request("POST", "/publish?channel=big", "x".repeat(1 << 20).into());
            large.headers_mut().insert("authorization", format!("Bearer {admin}").parse().unwrap());
            server.send(large).await.ok();
        }
        let its = format!("/connections/{}", bob.connection);
        while server.as_who(&admin, "GET", &its).await.ok()["blocked"] != true {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(in_the_room(&server, &admin).await, followers);
        let change = json!({"connection": bob.connection, "channels": ["room"]});
        let mut change = request(method, "/subscriptions", change.to_string().into());
        change.headers_mut().insert("authorization", format!("Bearer {admin}").parse().unwrap());
        server.send(change).await.ok();
        assert_eq!(in_the_room(&server, &admin).await, followers, "it waits");
        drop(bob);
        while server.as_who(&admin, "GET", &its).await.status != 404 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let cid = Stream::open(address, &format!("channel=room&token={}", of(method))).await;
        let joined = |data: &Value| users(&data["joined"]).contains(&method);
        let digest = watcher.presence(|data| data["type"] == "digest" && joined(data)).await;
        assert_eq!(digest["connections"], 2, "{method}: the watcher and the newcomer: {digest}");
        drop(cid);
        watcher.presence(|data| data["type"] == "digest" && data["connections"] == 1).await;
    }
    server.app.begin_drain();
}

/// How many streams follow the room, as the workers count them.
async fn in_the_room(server: &Server, admin: &str) -> u64 {
    let granted = server.as_who(admin, "GET", "/presence?channel=room").await.ok();
    granted["connections"].as_u64().unwrap()
}
