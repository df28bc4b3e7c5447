use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use serde_json::{Value, json};
use tidings_hub::Timestamp;
use tidings_hub::log::{Caps, Retention};
use tokio::task::JoinHandle;

use super::{Answer, SECRET, Server, access_with, request, token};
use crate::ServerConfig;
use crate::auth::{KeyConfig, NewToken, Secret};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server whose polls wait for so long.
fn waiting(wait: Duration) -> Arc<Server> {
    let mut config = ServerConfig::default();
    config.timeouts.poll = wait;
    Arc::new(Server::with(config))
}

fn data(answer: &Value) -> Vec<String> {
    answer["events"].as_array().unwrap().iter().map(|event| event["data"].to_string()).collect()
}

fn after(answer: &Value) -> &str {
    answer["last_event_id"].as_str().unwrap()
}

fn poll(server: &Arc<Server>, query: &str) -> JoinHandle<Answer> {
    let (server, target) = (server.clone(), format!("/events?poll=1&{query}"));
    tokio::spawn(async move { server.get(&target).await })
}

/// Until so many wait.
async fn until_waiting(server: &Server, count: usize) {
    let there = async {
        while server.app.polls.len() != count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, there).await.expect("it comes to that");
}

#[tokio::test]
async fn a_newcomer_gets_a_place_and_then_what_comes_after_it() {
    let server = waiting(PATIENCE);
    server.publish(r#"{"channel":"a","data":0}"#).await;
    let first = server.get("/events?poll=1&channel=a").await;
    assert_eq!(first.headers["cache-control"], "no-store");
    let first = first.ok();
    assert!(data(&first).is_empty() && first.get("gap").is_none());
    let waits = poll(&server, &format!("channel=a&last_event_id={}", after(&first)));
    until_waiting(&server, 1).await;
    assert_eq!(server.app.limits.open(), 1, "it is counted while it waits");
    let stats = server.get("/stats").await.ok();
    assert_eq!((&stats["polls"], &stats["connections"]), (&json!(1), &json!(0)));
    let metrics = server.get("/metrics").await;
    assert!(metrics.text().lines().any(|line| line == "tidings_polls 1.0"), "{}", metrics.text());
    server.publish(r#"{"channel":"elsewhere","data":1}"#).await;
    let id = server.publish(r#"{"channel":"a","event":"paid","data":{"n":1.0}}"#).await;
    let answer = waits.await.unwrap();
    assert!(answer.text().contains(r#""data":{"n":1.0}"#), "as it came: {}", answer.text());
    let answer = answer.ok();
    let event = &answer["events"][0];
    assert_eq!((event["id"].as_str(), after(&answer)), (Some(&*id), &*id));
    assert_eq!((&event["channel"], &event["event"]), (&json!("a"), &json!("paid")));
    let history = server.get("/history?channel=a&limit=1&order=desc").await.ok();
    assert_eq!(history["events"][0], *event, "as history shows it");
    assert_eq!(server.app.limits.open(), 0);
    until_waiting(&server, 0).await;
}

#[tokio::test]
async fn what_is_there_is_had_at_once() {
    let server = waiting(PATIENCE);
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(server.publish(&format!(r#"{{"channel":"a","data":{n}}}"#)).await);
    }
    let other = server.publish(r#"{"channel":"other","data":0}"#).await;
    for (query, expected) in [
        (format!("channel=a&last_event_id={}", ids[2]), &["3", "4"][..]),
        ("channel=a&history=2".to_owned(), &["3", "4"]),
        ("channel=a&last_event_id=earliest".to_owned(), &["0", "1", "2", "3", "4"]),
        ("channel=a&last_event_id=now".to_owned(), &[]),
        ("channel=none&history=2".to_owned(), &[]),
        ("channel=none&last_event_id=earliest".to_owned(), &[]),
    ] {
        let answer = server.get(&format!("/events?poll=1&{query}")).await.ok();
        assert_eq!(data(&answer), expected, "{query}");
        assert_eq!(after(&answer), other, "how far was looked: {query}");
    }
}

#[tokio::test]
async fn who_waits_in_vain_gets_an_answer_and_a_newer_place() {
    let server = waiting(Duration::from_millis(50));
    let id = server.publish(r#"{"channel":"a","data":0}"#).await;
    let waits = poll(&server, &format!("channel=a&last_event_id={id}"));
    let other = server.publish(r#"{"channel":"other","data":0}"#).await;
    let answer = waits.await.unwrap().ok();
    assert!(data(&answer).is_empty());
    assert_eq!(after(&answer), other);
}

#[tokio::test]
async fn it_chooses_as_a_stream_does() {
    let server = waiting(PATIENCE);
    let id = server.publish(r#"{"channel":"a","data":0}"#).await;
    server.publish(r#"{"channel":"a","data":1,"tags":{"priority":1}}"#).await;
    server.publish(r#"{"channel":"a","data":2,"tags":{"priority":5}}"#).await;
    server.publish(r#"{"channel":"a","data":3,"tags":{"priority":5},"exclude_client":"tab"}"#).await;
    server.publish(r#"{"broadcast":true,"data":4}"#).await;
    let ask = async |query: &str| {
        data(&server.get(&format!("/events?poll=1&channel=a&last_event_id={id}&{query}")).await.ok())
    };
    assert_eq!(ask("").await, ["1", "2", "3", "4"]);
    assert_eq!(ask("filter=priority%3E3").await, ["2", "3", "4"]);
    assert_eq!(ask("filter=priority%3E3&only=1&client=tab").await, ["2"]);
    let bad = server.get("/events?poll=1&filter=priority+%3D+3").await.problem(400);
    assert_eq!(bad["column"], 10);
}

#[tokio::test]
async fn a_gap_is_told_or_refused() {
    let caps = Caps { count: Some(2), ..Caps::default() };
    let server = Server::retaining(Retention { default: caps, ..Retention::default() });
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(server.publish(&format!(r#"{{"channel":"a","data":{n}}}"#)).await);
    }
    let target = format!("/events?poll=1&channel=a&last_event_id={}", ids[0]);
    let answer = server.get(&target).await.ok();
    assert_eq!(answer["gap"]["reason"], "expired");
    assert_eq!(answer["gap"]["from"], *ids[0]);
    assert_eq!(answer["gap"]["to"], *ids[2]);
    assert_eq!((data(&answer), after(&answer)), (vec!["3".to_owned(), "4".to_owned()], &*ids[4]));
    server.get(&format!("{target}&only=1")).await.problem(410);
    let unknown = server.get("/events?poll=1&channel=a&last_event_id=nonsense").await.ok();
    assert_eq!(unknown["gap"]["reason"], "unknown");
    assert!(unknown["gap"].get("from").is_none());
    assert_eq!(after(&unknown), ids[4]);
}

#[tokio::test]
async fn there_is_nothing_more_after_the_end() {
    let server = waiting(PATIENCE);
    let id = server.publish(r#"{"channel":"a","data":0}"#).await;
    let waits = poll(&server, &format!("channel=a&only=1&last_event_id={id}"));
    until_waiting(&server, 1).await;
    server.publish(r#"{"channel":"a","data":"done","end":true}"#).await;
    let answer = waits.await.unwrap().ok();
    assert_eq!(data(&answer), ["\"done\""]);
    let over = server.get(&format!("/events?poll=1&channel=a&last_event_id={}", after(&answer))).await;
    assert_eq!((over.status.as_u16(), over.body.len()), (204, 0));
}

#[tokio::test]
async fn a_drain_is_not_waited_out() {
    let server = waiting(PATIENCE);
    let id = server.publish(r#"{"channel":"a","data":0}"#).await;
    let waits = poll(&server, &format!("channel=a&last_event_id={id}"));
    until_waiting(&server, 1).await;
    server.app.begin_drain();
    let answer = waits.await.unwrap().ok();
    assert_eq!((data(&answer).len(), after(&answer)), (0, &*id));
    let late = server.get("/events?poll=1&channel=a").await;
    assert_eq!(late.problem(503)["type"], "urn:tidings:problem:drain");
    assert!(late.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn limits_and_grants_are_those_of_streams() {
    let mut config = ServerConfig::default();
    config.limits.per_user = 1;
    config.timeouts.poll = PATIENCE;
    let server = Arc::new(Server::made(config, access_with(&["a"]), Retention::default()));
    let ask = |query: &str| {
        let (server, query) = (server.clone(), query.to_owned());
        tokio::spawn(async move {
            let mut request = request("GET", &format!("/events?poll=1&{query}"), Body::empty());
            let bearer = format!("Bearer {}", token(Some("ann"), false));
            request.headers_mut().insert("authorization", bearer.parse().unwrap());
            server.send(request).await
        })
    };
    server.get("/events?poll=1&channel=a").await.problem(401);
    ask("channel=b").await.unwrap().problem(403);
    let first = ask("channel=a").await.unwrap().ok();
    let waits = ask(&format!("channel=a&last_event_id={}", after(&first)));
    until_waiting(&server, 1).await;
    let second = ask("channel=a").await.unwrap();
    second.problem(503);
    assert!(second.headers.contains_key("retry-after"));
    // Who is disconnected comes back, and is asked anew.
    let mut disconnect = request("DELETE", "/connections?user=ann", Body::empty());
    let bearer = format!("Bearer {}", token(None, true));
    disconnect.headers_mut().insert("authorization", bearer.parse().unwrap());
    server.send(disconnect).await.ok();
    assert!(data(&waits.await.unwrap().ok()).is_empty());
    // Whoever goes away frees the place at once.
    let waits = ask(&format!("channel=a&last_event_id={}", after(&first)));
    until_waiting(&server, 1).await;
    waits.abort();
    until_waiting(&server, 0).await;
    assert_eq!(server.app.limits.open(), 0);
    ask("channel=a").await.unwrap().ok();
}

#[tokio::test]
async fn a_token_ends_the_wait() {
    let mut config = ServerConfig::default();
    config.timeouts.poll = PATIENCE;
    let server = Server::made(config, access_with(&["a"]), Retention::default());
    let token =
        NewToken { user: Some("ann".parse().unwrap()), ttl: Duration::from_secs(2), ..NewToken::default() };
    let token = token.sign(&KeyConfig::secret(Secret::new(SECRET)), "tidings", Timestamp::now()).unwrap();
    let ask = async |query: String| {
        server.get(&format!("/events?poll=1&channel=a&token={}{query}", token.expose())).await
    };
    let first = ask(String::new()).await.ok();
    let waited = tokio::time::timeout(PATIENCE / 2, ask(format!("&last_event_id={}", after(&first)))).await;
    assert!(data(&waited.expect("it does not outlive the token").ok()).is_empty());
    ask(String::new()).await.problem(401);
}

#[tokio::test]
async fn only_json_is_to_be_had() {
    let server = waiting(PATIENCE);
    for (accept, status) in
        [("application/json", 200), ("*/*", 200), ("text/event-stream", 406), ("text/html", 406)]
    {
        let mut asked = request("GET", "/events?poll=1&channel=a", Body::empty());
        asked.headers_mut().insert("accept", accept.parse().unwrap());
        assert_eq!(server.send(asked).await.status.as_u16(), status, "{accept}");
    }
    server.get("/events?poll=2").await.problem(400);
    server.get("/events?poll=1&poll=0").await.problem(400);
}
