//! Streams whose channels change while they run, and streams that end: on real sockets, read as clients read them.

mod client;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use self::client::{Json, Running, answer, post, start};

/// An administrator, user 7 who may see `a` and `b/*`, and user 8.
async fn running() -> Running {
    start(&[("7", &["a", "b/*"]), ("8", &["a"])]).await
}

#[tokio::test]
async fn channels_come_and_go_while_a_stream_runs() {
    let server = running().await;
    let mut stream = server.stream("channel=a", Some("7")).await;
    let open = stream.next().await;
    assert_eq!(open.event, "tidings:open");
    let connection = open.json()["connection"].clone();
    server.publish(json!({"channel": "b/1", "data": "before"})).await;
    let add = json!({"connection": connection, "channels": ["b/1", "b/2"]});
    let added = answer(&server, post("/subscriptions", Some("7"), &add)).await;
    assert_eq!(added.status, 200, "{added:?}");
    let from = added.json()["from"].as_str().unwrap().to_owned();
    assert_eq!(added.json()["connections"][0]["connection"], connection);
    server.publish(json!({"channel": "b/1", "data": "after"})).await;
    server.publish(json!({"channel": "a", "data": "as ever"})).await;
    assert_eq!(stream.next().await.data, "after");
    let last = stream.next().await;
    assert_eq!(last.data, "as ever");
    let history = format!("/history?channel=b/1&until={from}");
    let before = answer(&server, client::get(&history, Some("7"))).await.json();
    assert_eq!(before["events"].as_array().unwrap().len(), 1);
    assert_eq!(before["events"][0]["data"], "before");
    let remove = json!({"connectionId": connection, "channel": "a"});
    let removed = answer(&server, client::delete("/subscribe", Some("7"), &remove)).await;
    assert_eq!(removed.status, 200, "{removed:?}");
    server.publish(json!({"channel": "a", "data": "no more"})).await;
    server.publish(json!({"channel": "b/2", "data": "still"})).await;
    assert_eq!(stream.next().await.data, "still");
    // One cursor resumes all of it.
    let mut again =
        server.stream(&format!("channel=a&channel=b/*&last_event_id={}", last.id), Some("7")).await;
    assert_eq!(again.next().await.event, "tidings:open");
    assert_eq!(again.next().await.data, "no more");
    assert_eq!(again.next().await.data, "still");
}

#[tokio::test]
async fn only_its_own_user_and_administrators_change_a_stream() {
    let server = running().await;
    let mut stream = server.stream("channel=a", Some("7")).await;
    let connection = stream.next().await.json()["connection"].clone();
    let add = |channel: &str| json!({"connection": connection, "channels": [channel]});
    let status = async |user: Option<&str>, body: &Value| {
        answer(&server, post("/subscriptions", user, body)).await.status
    };
    assert_eq!(status(Some("8"), &add("a")).await, 404, "the id is no capability");
    assert_eq!(status(Some("7"), &add("c")).await, 403, "nor is the stream a grant");
    assert_eq!(status(Some("7"), &add("$user/8")).await, 400);
    assert_eq!(status(Some("7"), &add("b/*")).await, 200);
    assert_eq!(status(Some("admin"), &add("c")).await, 200);
    let of_user = json!({"user": "7", "channels": ["b/9"]});
    assert_eq!(status(Some("8"), &of_user).await, 403);
    assert_eq!(status(Some("7"), &of_user).await, 200);
    for bad in [
        json!({"channels": ["a"]}),
        json!({"connection": connection, "user": "7", "channels": ["a"]}),
        json!({"connection": connection}),
        json!({"connection": connection, "channels": []}),
        json!({"connection": "x", "channels": ["a"]}),
        json!({"connection": connection, "channels": ["a"], "more": 1}),
        json!({"connection": connection, "channels": "a"}),
    ] {
        assert_eq!(status(Some("7"), &bad).await, 400, "{bad}");
    }
    let many: Vec<String> = (0..99).map(|n| format!("b/{n}x")).collect();
    let answer = answer(
        &server,
        post("/subscriptions", Some("7"), &json!({"connection": connection, "channels": many})),
    )
    .await;
    assert_eq!(
        (answer.status, &answer.json()["type"]),
        (409, &json!("urn:tidings:problem:too_many_channels"))
    );
}

#[tokio::test]
async fn a_stream_without_a_user_is_managed_with_its_secret() {
    let server = running().await;
    let mut stream = server.stream("channel=public/a", None).await;
    let open = stream.next().await.json();
    assert_eq!(open["user"], Value::Null);
    let body = |secret: &Value| json!({"connection": open["connection"], "secret": secret, "channels": ["public/b"]});
    for wrong in [json!("x"), json!(""), json!("A".repeat(22))] {
        assert_eq!(answer(&server, post("/subscriptions", None, &body(&wrong))).await.status, 404);
    }
    assert_eq!(answer(&server, post("/subscriptions", None, &body(&open["secret"]))).await.status, 200);
    server.publish(json!({"channel": "public/b", "data": "there"})).await;
    assert_eq!(stream.next().await.data, "there");
    // A user's stream has none.
    let mut of_user = server.stream("channel=a", Some("7")).await;
    assert_eq!(of_user.next().await.json()["secret"], Value::Null);
}

#[tokio::test]
async fn an_import_ends_for_who_looks_on_who_comes_late_and_who_comes_back() {
    let server = running().await;
    let mut looks_on = server.stream("channel=a", Some("7")).await;
    assert_eq!(looks_on.next().await.event, "tidings:open");
    for percent in [10, 60] {
        server.publish(json!({"channel": "a", "data": percent})).await;
    }
    server.publish(json!({"channel": "a", "event": "done", "data": 100, "end": true})).await;
    let mut told = Vec::new();
    for _ in 0..4 {
        told.push(looks_on.next().await);
    }
    let types: Vec<_> = told.iter().map(|message| message.event.as_str()).collect();
    assert_eq!(types, ["message", "message", "done", "tidings:end"]);
    looks_on.ends().await;
    let end = told[3].id.clone();
    assert_eq!(server.status(&format!("channel=a&last_event_id={end}"), Some("7")).await, 204);
    assert_eq!(server.status(&format!("channel=a&channel=b/1&last_event_id={end}"), Some("7")).await, 200);
    // In the middle of it, and late.
    let mut back = server.stream(&format!("channel=a&last_event_id={}", told[0].id), Some("7")).await;
    let mut late = server.stream("channel=a&history=1", Some("7")).await;
    for (stream, expected) in [
        (&mut back, &["tidings:open", "message", "done", "tidings:end"][..]),
        (&mut late, &["tidings:open", "done", "tidings:end"]),
    ] {
        for event in expected {
            assert_eq!(stream.next().await.event, *event);
        }
        stream.ends().await;
    }
    let refused = answer(&server, post("/publish", Some("admin"), &json!({"channel": "a", "data": 1}))).await;
    assert_eq!((refused.status, &refused.json()["type"]), (409, &json!("urn:tidings:problem:ended")));
    let stats = server.stats().await;
    assert_eq!(stats["closed"]["ended"], 3);
}

#[tokio::test]
async fn no_stream_begins_where_nothing_happens_if_that_is_asked() {
    let server = running().await;
    assert_eq!(server.status("channel=a&if_active=1", Some("7")).await, 204);
    let mut open = server.stream("channel=a", Some("7")).await;
    assert_eq!(open.next().await.event, "tidings:open");
    assert_eq!(server.status("channel=a&if_active=1", Some("8")).await, 200);
    assert_eq!(server.status("channel=b/*&if_active=1", Some("7")).await, 204);
    server.publish(json!({"channel": "b/1", "data": 1})).await;
    assert_eq!(server.status("channel=b/*&if_active=1", Some("7")).await, 200);
}

#[tokio::test]
async fn a_newcomer_gets_the_newest_of_each_key() {
    let server = running().await;
    for (key, data) in [("x", 1), ("y", 2), ("x", 3)] {
        server.publish(json!({"channel": "a", "key": key, "data": data})).await;
    }
    server.publish(json!({"channel": "a", "data": "no key"})).await;
    let mut late = server.stream("channel=a&history=latest&control=1", Some("7")).await;
    let mut told = Vec::new();
    for _ in 0..4 {
        let message = late.next().await;
        told.push(if message.event == "message" { message.data } else { message.event });
    }
    assert_eq!(told, ["tidings:open", "2", "3", "tidings:skipped"]);
}

/// A counter at a thousand updates a second, and a reader on a line of 50 kB/s: it doesn't fall behind further and further, as
/// it would with every step.
#[tokio::test(flavor = "multi_thread")]
async fn a_counter_reaches_a_slow_line_with_a_bounded_delay() {
    const UPDATES: u64 = 4_000;
    let server = Arc::new(running().await);
    let mut stream = server.slow_stream("channel=a", Some("7"), 50_000).await;
    // What is published before it is there is neither shown to it nor passed over.
    assert_eq!(stream.next().await.event, "tidings:open");
    let publishing = {
        let server = server.clone();
        tokio::spawn(async move {
            let padding = "x".repeat(400);
            for n in 0..UPDATES {
                server
                    .publish(json!({"channel": "a", "key": "counter", "data": {"n": n, "padding": padding}}))
                    .await;
                if n % 10 == 9 {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        })
    };
    let mut seen = Vec::new();
    while seen.last() != Some(&(UPDATES - 1)) {
        let message = stream.next().await;
        if message.event == "message" {
            seen.push(message.json()["n"].as_u64().unwrap());
        }
    }
    publishing.await.unwrap();
    let connections = answer(&server, client::get("/connections?user=7", Some("admin"))).await.json();
    let its = &connections["connections"][0];
    assert_eq!(its["skipped"], UPDATES - seen.len() as u64, "an operator sees why it lags: {its}");
    assert_eq!(its["dropped"], 0);
    let stats = server.stats().await;
    assert_eq!(stats["skipped"], its["skipped"], "it is the only one");
    let metrics = answer(&server, client::get("/metrics", Some("admin"))).await.body;
    let line = format!("tidings_skipped_total {}", its["skipped"]);
    assert!(metrics.lines().any(|other| other == line), "{line}: {metrics}");
    assert!(seen.is_sorted(), "in order");
    // Everything would be some 2 MB, which takes this line 40 s; what it is sent is what the line carries meanwhile.
    assert!(seen.len() < 3_000, "{} of {UPDATES}", seen.len());
}
