use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use http_body::Frame;
use serde_json::json;
use tidings_hub::Delivery;
use tower::ServiceExt;

use super::{Answer, Server, request};
use crate::{LimitsConfig, ServerConfig};

#[tokio::test]
async fn what_is_published_is_answered_with_its_id_and_kept() {
    let server = Server::new();
    let answer = server
        .post("/publish", "application/json", r#"{"channel":"a","event":"t","data":{"n": 1.50}}"#)
        .await
        .ok();
    assert_eq!(answer["sync"], "memory", "a policy that is not the strictest is named");
    let history = server.get("/history?channel=a").await.ok();
    assert_eq!(history["events"][0]["id"], answer["id"]);
    assert_eq!(history["events"][0]["data"].to_string(), r#"{"n":1.50}"#.replace("1.50", "1.5"));
    assert!(server.get("/history?channel=a").await.text().contains(r#""data":{"n":1.50}"#), "as it came");
}

#[tokio::test]
async fn content_types_decide_how_a_body_is_read() {
    let json = r#"{"channel":"a","data":1}"#;
    for (target, content_type, body, status) in [
        ("/publish", "application/json", json, 200),
        ("/publish", "application/json; charset=utf-8", json, 200),
        ("/publish", "Application/JSON;charset=\"UTF-8\"", json, 200),
        ("/publish", "application/cloudevents+json", json, 200),
        ("/publish", "", json, 200),
        ("/publish", "application/x-ndjson", json, 200),
        ("/publish", "application/json; charset=latin1", json, 415),
        ("/publish", "text/plain", json, 415),
        ("/publish", "application/x-www-form-urlencoded", json, 415),
        ("/publish", "multipart/form-data; boundary=x", json, 415),
        ("/publish?channel=a", "application/x-www-form-urlencoded", "hello", 200),
        ("/publish?channel=a", "text/plain", "hello", 200),
        ("/publish?channel=a", "", "hello", 200),
        ("/publish?channel=a", "application/json", "{\"a\":1}", 200),
        ("/publish?channel=a", "application/x-ndjson", json, 400),
    ] {
        let answer = Server::new().post(target, content_type, body).await;
        assert_eq!(answer.status.as_u16(), status, "{target} {content_type}: {}", answer.text());
    }
    let answer = Server::new().post("/publish", "application/x-www-form-urlencoded", "a").await;
    let problem = answer.problem(415);
    assert!(problem["detail"].as_str().unwrap().contains("Content-Type: application/json"), "{problem}");
    let mut compressed = request("POST", "/publish?channel=a", "x".into());
    compressed.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
    Server::new().send(compressed).await.problem(415);
}

#[tokio::test]
async fn a_raw_body_is_the_data_as_it_stands() {
    let server = Server::new();
    let body = "{\"a\": 1}\n two ";
    server.post("/publish?channel=a&event=t%20t", "application/json", body).await.ok();
    server.post("/publish?channel=a", "", "").await.ok();
    let answer = server.get("/history?channel=a").await.ok();
    assert_eq!(answer["events"][0]["data"], body);
    assert_eq!(answer["events"][0]["event"], "t t");
    assert_eq!(answer["events"][1]["data"], "");
    let problem = server.post("/publish?channel=a", "", &b"\xff"[..]).await.problem(400);
    assert!(problem["detail"].as_str().unwrap().contains("UTF-8"));
}

#[tokio::test]
async fn a_query_is_as_strict_as_a_body() {
    let server = Server::new();
    for (query, status, says) in [
        ("channel=a&colour=red", 400, "colour"),
        ("channel=a&data=x", 400, "body"),
        ("channels=a", 400, "\"channel\""),
        ("event=t", 400, "\"event\""),
        ("channel=%ff", 400, "UTF-8"),
        ("channel=%2", 400, "%"),
        ("channel=", 400, "empty"),
        ("channel=$all", 400, "hub's own"),
        ("channel=a/*", 400, "'*'"),
        ("broadcast=maybe", 400, "1 or 0"),
        ("broadcast=0", 400, "target"),
        ("channel=a&event=tidings:open", 400, "tidings:"),
        ("channel=a&ttl=-1", 400, "ttl"),
        ("channel=a&key=", 400, "key"),
        ("channel=a&end=1&store=0", 400, "\"store\""),
        ("channel=a&idempotency_key=", 400, "idempotency_key"),
        ("channel=a&receivers=maybe", 400, "receivers"),
    ] {
        let answer = server.post(&format!("/publish?{query}"), "text/plain", "x").await;
        let problem = answer.problem(status);
        assert!(problem["detail"].as_str().unwrap().contains(says), "{query}: {problem}");
    }
    let many: String = (0..101).map(|n| format!("channel=c{n}&")).collect();
    server.post(&format!("/publish?{many}"), "", "x").await.problem(400);
    server.post("/publish?channel=a&receivers=0", "", "x").await.ok();
}

#[tokio::test]
async fn bad_bodies_are_told_where() {
    let server = Server::new();
    for (body, status, says) in [
        (&b"{\"channel\":\"a\",\"data\":1"[..], 400, "line 1, column 24"),
        (b"{\"channel\":\"a\",\n\"data\":\"\xff\"}", 400, "line 2, column 9"),
        (b"{\"channel\":\"a\",\"data\":{\"a\":1,\"a\":2}}", 400, "\"a\" is there twice"),
        (b"{\"channel\":\"a\",\"data\":1,\"dat\":2}", 400, "\"dat\""),
        (b"{\"channel\":\"a\",\"event\":\"tidings:gap\",\"data\":1}", 400, "tidings:"),
        (b"{\"channel\":\"$all\",\"data\":1}", 400, "\"broadcast\": true"),
        (b"{\"channels\":[\"$user/7\"],\"data\":1}", 400, "what is for a user has \"user\""),
        (b"", 400, "ends"),
        (b"\"text\"", 400, "object"),
        (b"{\"channel\":\"a\",\"data\":1,\"end\":1}", 400, "true or false"),
    ] {
        let problem = server.post("/publish", "application/json", body).await.problem(status);
        assert!(problem["detail"].as_str().unwrap().contains(says), "{problem}");
    }
    let deep = format!("{{\"channel\":\"a\",\"data\":{}1{}}}", "[".repeat(63), "]".repeat(63));
    server.publish(&deep).await;
    let deeper = format!("{{\"channel\":\"a\",\"data\":{}1{}}}", "[".repeat(64), "]".repeat(64));
    server.post("/publish", "application/json", deeper).await.problem(400);
    assert_eq!(server.kept("a").await.len(), 1, "nothing else was stored");
}

#[tokio::test]
async fn a_batch_is_stored_whole_or_not_at_all() {
    let server = Server::new();
    let batch = json!((0..3).map(|n| json!({"channel": "a", "data": n})).collect::<Vec<_>>());
    let answer = server.post("/publish", "application/json", batch.to_string()).await.ok();
    let history = server.get("/history?channel=a").await.ok();
    for n in 0..3 {
        assert_eq!(history["events"][n]["id"], answer["results"][n]["id"]);
        assert_eq!(history["events"][n]["data"], n);
    }
    assert_eq!(answer["sync"], "memory");
    for bad in [r#"{"channel":"a"}"#, r#"{"channel":"$all","data":1}"#, "7"] {
        let batch = format!(r#"[{{"channel":"a","data":1}},{bad},{{"channel":"a","data":1}}]"#);
        let problem = server.post("/publish", "application/json", batch).await.problem(400);
        assert!(problem["detail"].as_str().unwrap().starts_with("event 2 of the array"), "{problem}");
    }
    assert_eq!(server.post("/publish", "application/json", "[]").await.ok()["results"], json!([]));
    let many = vec![r#"{"channel":"b","data":1}"#; 10_001].join(",");
    server.post("/publish", "application/json", format!("[{many}]")).await.problem(413);
    assert_eq!(server.kept("a").await.len(), 3);
    assert_eq!(server.kept("b").await.len(), 0);
}

#[tokio::test]
async fn an_ephemeral_event_has_the_id_of_the_record_before_and_is_not_kept() {
    let server = Server::new();
    let mut subscription = server.subscribe("a");
    let kept = server.publish(r#"{"channel":"a","data":"kept"}"#).await;
    let gone = server.publish(r#"{"channel":"a","data":"gone","store":false}"#).await;
    assert_eq!(gone, kept);
    assert_eq!(server.kept("a").await, ["message: \"kept\""]);
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let Delivery::Event { record, .. } = subscription.next().await.unwrap() else { panic!("a gap") };
        seen.push(record.event.data.as_str().to_owned());
    }
    assert_eq!(seen, ["kept", "gone"]);
}

/// A body that says how long it is, and whether anybody read it.
struct Announced {
    length: u64,
    read: Arc<AtomicBool>,
}

impl http_body::Body for Announced {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.read.store(true, Ordering::Relaxed);
        Poll::Ready(None)
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.length)
    }
}

#[tokio::test]
async fn a_body_that_says_it_is_too_large_is_never_read() {
    let server = Server::new();
    // Reading is what would tell the client to go on (RFC 9110, 10.1.1).
    for (target, length) in
        [("/publish", (16 << 20) + 1), ("/publish?channel=a", (1 << 20) + 1), ("/publish", u64::MAX)]
    {
        let read = Arc::new(AtomicBool::new(false));
        let mut request = request("POST", target, Body::new(Announced { length, read: read.clone() }));
        let headers = request.headers_mut();
        headers.insert("content-length", length.to_string().parse().unwrap());
        headers.insert("expect", "100-continue".parse().unwrap());
        server.send(request).await.problem(413);
        assert!(!read.load(Ordering::Relaxed), "{target} {length}");
    }
}

#[tokio::test]
async fn a_body_without_a_length_is_read_up_to_the_limit() {
    let limits = LimitsConfig { body: 1000, data: 500, ..LimitsConfig::default() };
    let server = Server::with(ServerConfig { limits, ..ServerConfig::default() });
    let pieces = |count: usize| Body::new(Pieces(vec![Bytes::from(vec![b'x'; 100]); count]));
    server.post("/publish?channel=a", "text/plain", pieces(5)).await.ok();
    let too_large = |answer: Answer, limit: &str, setting: &str| {
        let problem = answer.problem(413);
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(limit) && detail.contains(setting), "{detail}");
    };
    let data = server.post("/publish?channel=a", "text/plain", pieces(6)).await;
    too_large(data, "500 bytes", "limits.data");
    let data = server.post("/publish?channel=a", "text/plain", "x".repeat(501)).await;
    too_large(data, "500 bytes", "limits.data");
    server.post("/publish", "application/json", pieces(10)).await.problem(400);
    let body = server.post("/publish", "application/json", pieces(11)).await;
    too_large(body, "1000 bytes", "limits.body");
    let body = server.post("/publish", "application/json", "x".repeat(1001)).await;
    too_large(body, "1000 bytes", "limits.body");
    let long = format!(r#"{{"channel":"a","data":"{}"}}"#, "x".repeat(501));
    let data = server.post("/publish", "application/json", long).await;
    too_large(data, "500 bytes", "limits.data");
}

/// A body of several pieces, the last one first.
struct Pieces(Vec<Bytes>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.0.pop().map(|piece| Ok(Frame::data(piece))))
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stalls_is_given_up() {
    let server = Server::new();
    let stalled = Body::new(Stalled);
    server.post("/publish?channel=a", "text/plain", stalled).await.problem(408);
    assert_eq!(server.kept("a").await.len(), 0);
}

/// A body that never goes on.
struct Stalled;

impl http_body::Body for Stalled {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Pending
    }
}

#[tokio::test]
async fn who_goes_away_after_the_body_has_published() {
    let server = Server::new();
    let mut subscription = server.subscribe("a");
    let request = request("POST", "/publish?channel=a", "x".into());
    let mut response = Box::pin(server.router.clone().oneshot(request));
    // One look at the request, and the client is gone.
    let _ = std::future::poll_fn(|context| Poll::Ready(response.as_mut().poll(context))).await;
    drop(response);
    assert!(subscription.next().await.unwrap().event().is_some());
}

#[tokio::test]
async fn a_closed_hub_stores_nothing_and_says_so() {
    let server = Server::new();
    server.app.hub.close();
    let answer = server.post("/publish?channel=a", "", "x").await;
    let problem = answer.problem(503);
    assert_eq!(problem["type"], "urn:tidings:problem:not_stored");
    assert!(answer.headers.contains_key("retry-after"));
}
