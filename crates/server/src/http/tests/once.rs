//! Publishing under an idempotency key.

use axum::body::Body;
use http::Request;
use serde_json::{Value, json};
use tidings_hub::log::Retention;

use super::{Answer, Server, access_with, request, token};
use crate::ServerConfig;

fn keyed(target: &str, body: impl Into<Body>, keys: &[&[u8]]) -> Request<Body> {
    let mut request = request("POST", target, body.into());
    for key in keys {
        request.headers_mut().append("idempotency-key", http::HeaderValue::from_bytes(key).unwrap());
    }
    request
}

fn with_token(mut request: Request<Body>, token: &str) -> Request<Body> {
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

const EVENT: &str = r#"{"channel":"a","data":1}"#;

#[tokio::test]
async fn the_first_answer_comes_again() {
    let server = Server::new();
    let post =
        async |target, body: &str, keys: &[&[u8]]| server.send(keyed(target, body.to_owned(), keys)).await;
    let first = post("/publish", EVENT, &[b"k"]).await.ok();
    server.publish(EVENT).await;
    assert_eq!(post("/publish", EVENT, &[b"k"]).await.ok(), first);
    // However it is spelt, and wherever the key stands, it is the same.
    let spelt = r#"{ "data": 1, "idempotency_key": "k", "event": "message", "channels": ["a"] }"#;
    assert_eq!(post("/publish", spelt, &[]).await.ok(), first);
    assert_eq!(post("/publish", spelt, &[b"k", b"k"]).await.ok(), first);
    let text = post("/publish?channel=a&idempotency_key=q", "x", &[]).await.ok();
    assert_ne!(text, first);
    assert_eq!(post("/publish?channel=a", "x", &[b"q"]).await.ok(), text);
    let batch = format!("[{EVENT},{EVENT}]");
    let both = post("/publish", &batch, &[b"batch"]).await.ok();
    assert_eq!(post("/publish", &batch, &[b"batch"]).await.ok(), both);
    assert_eq!(both["results"].as_array().unwrap().len(), 2);
    let counted = post("/publish?receivers=1", EVENT, &[b"k"]).await.ok();
    assert_eq!((&counted["id"], &counted["receivers"]), (&first["id"], &json!(0)));
    assert_eq!(server.kept("a").await.len(), 5);
}

#[tokio::test]
async fn a_key_is_for_one_body() {
    let server = Server::new();
    server.send(keyed("/publish", EVENT, &[b"k"])).await.ok();
    for body in [
        r#"{"channel":"a","data":"1"}"#,
        r#"{"channel":"b","data":1}"#,
        r#"{"channel":"a","data":1,"ttl":5}"#,
        r#"{"channel":"a","data":1,"event":"t"}"#,
        r#"[{"channel":"a","data":1},{"channel":"a","data":1}]"#,
    ] {
        let problem = server.send(keyed("/publish", body, &[b"k"])).await.problem(409);
        assert!(problem["type"].as_str().unwrap().ends_with("idempotency_key"), "{problem}");
    }
    assert_eq!(server.kept("a").await.len(), 1);
}

#[tokio::test]
async fn what_is_refused_is_not_remembered() {
    let server = Server::made(ServerConfig::default(), access_with(&["a"]), Retention::default());
    let seven = token(Some("7"), false);
    let post =
        async |body: &'static str| server.send(with_token(keyed("/publish", body, &[b"k"]), &seven)).await;
    post(r#"{"channel":"b","data":1}"#).await.problem(403);
    post(r#"{"channel":"a"}"#).await.problem(400);
    post(EVENT).await.ok();
}

#[tokio::test]
async fn publishers_do_not_share_keys() {
    let server = Server::made(ServerConfig::default(), access_with(&["a"]), Retention::default());
    let post =
        async |token: &str| server.send(with_token(keyed("/publish", EVENT, &[b"k"]), token)).await.ok();
    let seven = post(&token(Some("7"), false)).await;
    assert_ne!(post(&token(Some("8"), false)).await, seven);
    assert_eq!(post(&token(Some("7"), true)).await, seven, "another token of the same user");
    assert_eq!(server.app.hub.head().sequence.0, 2);
}

#[tokio::test]
async fn keys_have_limits_and_one_value() {
    let server = Server::new();
    let long = [b'x'; 257];
    let field = |key: &str| json!({"channel": "a", "data": 1, "idempotency_key": key}).to_string();
    let long_field = field(&"x".repeat(257));
    let (empty, line, other) = (field(""), field("a\nb"), field("l"));
    let in_array = format!("[{other}]");
    let cases: [(&str, &str, &[&[u8]], &str); 11] = [
        ("", EVENT, &[b""], "1 to 256 bytes"),
        ("", EVENT, &[&long], "1 to 256 bytes"),
        ("", EVENT, &[b"a\tb"], "control characters"),
        ("", EVENT, &[b"\xff"], "UTF-8"),
        ("", EVENT, &[b"k", b"l"], "twice"),
        ("", &empty, &[], "1 to 256 bytes"),
        ("", &long_field, &[], "1 to 256 bytes"),
        ("", &line, &[], "control characters"),
        ("", &other, &[b"k"], "twice"),
        ("?channel=a&idempotency_key=k&idempotency_key=l", "x", &[], "twice"),
        ("?idempotency_key=k", EVENT, &[], "say everything there"),
    ];
    for (query, body, keys, says) in cases {
        let answer = server.send(keyed(&format!("/publish{query}"), body.to_owned(), keys)).await;
        let problem = answer.problem(400);
        assert!(problem["detail"].as_str().unwrap().contains(says), "{body}: {problem}");
    }
    let problem = server.send(keyed("/publish", in_array, &[])).await.problem(400);
    assert!(problem["detail"].as_str().unwrap().contains("Idempotency-Key"), "{problem}");
    server.send(keyed("/publish", EVENT, &[&[b'x'; 256]])).await.ok();
    server.send(keyed("/publish?channel=a&idempotency_key=ä", "x", &["ä".as_bytes()])).await.ok();
    assert_eq!(server.kept("a").await.len(), 2);
}

#[tokio::test]
async fn each_line_has_its_own_key() {
    let server = Server::new();
    let line = |data: u32, key: Option<&str>| match key {
        Some(key) => format!("{}\n", json!({"channel": "a", "data": data, "idempotency_key": key})),
        None => format!("{}\n", json!({"channel": "a", "data": data})),
    };
    let lines = async |lines: &[String]| -> Vec<Value> {
        let answer: Answer = server.post("/publish", "application/x-ndjson", lines.concat()).await;
        answer.lines()
    };
    let sent = [
        line(1, None),
        line(2, Some("k")),
        line(3, None),
        line(4, Some("l")),
        line(2, Some("k")),
        line(5, Some("k")),
        line(6, None),
    ];
    let first = lines(&sent).await;
    assert_eq!(first.len(), 7);
    assert_eq!(first[4], first[1], "a line before it in the same body");
    assert_eq!(first[5]["status"], 409);
    let history = server.get("/history?channel=a").await.ok();
    let data: Vec<_> = history["events"].as_array().unwrap().iter().map(|event| &event["data"]).collect();
    assert_eq!(data, [1, 2, 3, 4, 6], "in their order");
    let again = lines(&sent).await;
    assert_eq!((&again[1], &again[3], &again[4]), (&first[1], &first[3], &first[1]));
    assert_ne!(again[0], first[0]);
    assert_eq!(server.kept("a").await.len(), 8);
    // Many of them, so that they are in several groups.
    let many: Vec<_> = (0..600).map(|n| line(n, (n % 3 > 0).then_some(&*format!("n{}", n % 300)))).collect();
    let answers = lines(&many).await;
    assert_eq!(answers.len(), 600);
    assert_eq!(answers.iter().filter(|answer| answer["status"] == 409).count(), 200);
    let mut request = keyed("/publish", line(1, None), &[b"k"]);
    request.headers_mut().insert("content-type", "application/x-ndjson".parse().unwrap());
    let problem = server.send(request).await.problem(400);
    assert!(problem["detail"].as_str().unwrap().contains("each"), "{problem}");
}
