//! Events with a key, tags, an end: what is taken, and what an ended channel refuses.

use serde_json::json;
use tidings_hub::log::{Caps, Retention};

use super::{Server, request};

const JSON: &str = "application/json";
const LINES: &str = "application/x-ndjson";
const ENDED: &str = "urn:tidings:problem:ended";

async fn purge(server: &Server, channel: &str) -> u64 {
    let answer = server.send(request("DELETE", &format!("/history?channel={channel}"), "".into())).await;
    answer.ok()["removed"].as_u64().unwrap()
}

#[tokio::test]
async fn an_ended_channel_takes_nothing_more_until_it_is_purged() {
    let server = Server::new();
    server.publish(r#"{"channel":"import/7","data":{"rows":1}}"#).await;
    let end = server.publish(r#"{"channels":["import/7","log"],"data":{"rows":2},"end":true}"#).await;
    for body in [
        r#"{"channel":"import/7","data":3}"#,
        r#"{"channel":"import/7","end":true}"#,
        r#"{"channel":"import/7","data":3,"store":false}"#,
        r#"{"channels":["other","log"],"data":3}"#,
        r#"[{"channel":"other","data":3},{"channel":"log","data":3},{"channel":"other","data":3}]"#,
    ] {
        let problem = server.post("/publish", JSON, body).await.problem(409);
        assert_eq!(problem["type"], ENDED);
        assert!(problem["detail"].as_str().unwrap().contains("has ended"), "{problem}");
    }
    server.post("/publish?channel=log", "", "raw").await.problem(409);
    assert_eq!(server.kept("other").await, [""; 0], "nothing of a refused array is stored");
    assert_eq!(server.kept("import/7").await.len(), 2);
    // Others are as they were, and so is what lies below.
    server.publish(r#"{"channels":["other","import/7/details"],"data":4}"#).await;

    assert_eq!(purge(&server, "import/7").await, 2);
    server.publish(r#"{"channel":"import/7","data":"anew"}"#).await;
    assert_eq!(server.kept("import/7").await, ["message: \"anew\""]);
    server.post("/publish?channel=log", "", "raw").await.problem(409);
    // The end itself taken back.
    let deleted = server.send(request("DELETE", &format!("/history?id={end}"), "".into())).await;
    assert_eq!(deleted.ok()["removed"], 1);
    server.post("/publish?channel=log", "", "raw").await.ok();
}

#[tokio::test]
async fn an_array_ends_a_channel_with_its_last_event_only() {
    let server = Server::new();
    let early = r#"[{"channel":"a","end":true},{"channel":"b","data":1},{"channel":"a","data":2}]"#;
    assert_eq!(server.post("/publish", JSON, early).await.problem(409)["type"], ENDED);
    server.publish(r#"{"channel":"a","data":"nothing was stored"}"#).await;
    let all = r#"[{"channel":"a","data":1},{"channel":"a","data":2,"end":true},{"channel":"b","end":true}]"#;
    server.post("/publish", JSON, all).await.ok();
    server.post("/publish?channel=a", "", "x").await.problem(409);
    server.post("/publish?channel=b", "", "x").await.problem(409);
    assert_eq!(server.kept("a").await.len(), 3);
}

#[tokio::test]
async fn each_line_is_refused_by_itself() {
    let server = Server::new();
    let body = concat!(
        "{\"channel\":\"a\",\"data\":1}\n",
        "{\"channel\":\"a\",\"end\":true}\n",
        "{\"channel\":\"a\",\"data\":2}\n",
        "{\"channel\":\"b\",\"data\":3}\n",
        "{\"channels\":[\"b\",\"a\"],\"data\":4}\n",
        "{\"channel\":\"b\",\"data\":5}\n",
    );
    let lines = server.post("/publish", LINES, body).await.lines();
    assert_eq!(lines.len(), 6, "{lines:?}");
    for (at, line) in lines.iter().enumerate() {
        if [2, 4].contains(&at) {
            assert_eq!((&line["status"], &line["type"]), (&json!(409), &json!(ENDED)), "line {at}");
            assert!(line["detail"].as_str().unwrap().contains("\"a\" has ended"), "{line}");
        } else {
            assert!(line["id"].is_string(), "line {at}: {line}");
        }
    }
    assert_eq!(server.kept("b").await, ["message: 3", "message: 5"]);
}

#[tokio::test]
async fn an_end_needs_no_data_and_is_kept() {
    let server = Server::new();
    server.publish(r#"{"channel":"a","end":true}"#).await;
    server.publish(r#"{"channel":"b","data":"last","end":true}"#).await;
    // With an empty body, that is the data.
    server.post("/publish?channel=c&end=1", "", "").await.ok();
    for channel in ["a", "b", "c"] {
        server.post(&format!("/publish?channel={channel}"), "", "x").await.problem(409);
    }
    assert_eq!(server.kept("b").await, ["message: \"last\""]);
    server.publish(r#"{"channel":"d","data":1,"end":false}"#).await;
    server.publish(r#"{"channel":"d","data":1}"#).await;
    for (body, says) in [
        (r#"{"channel":"e"}"#, "\"data\", unless"),
        (r#"{"channel":"e","end":false}"#, "\"data\", unless"),
        (r#"{"channel":"e","end":true,"store":false}"#, "leave \"store\" out"),
        (r#"{"channel":"e","data":1,"end":"yes"}"#, "true or false"),
    ] {
        let problem = server.post("/publish", JSON, body).await.problem(400);
        assert!(problem["detail"].as_str().unwrap().contains(says), "{body}: {problem}");
    }
    server.post("/publish?channel=e&end=maybe", "", "x").await.problem(400);
    server.publish(r#"{"channel":"e","data":"not ended"}"#).await;
}

#[tokio::test]
async fn keys_and_tags_are_checked() {
    let server = Server::new();
    let tags = |count: usize| {
        let tags: serde_json::Map<_, _> = (0..count).map(|n| (format!("t{n}"), json!(n))).collect();
        json!({"channel": "a", "data": 1, "tags": tags}).to_string()
    };
    let with = |field: &str, value: &str| format!(r#"{{"channel":"a","data":1,"{field}":{value}}}"#);
    let long = |len: usize| format!("\"{}\"", "x".repeat(len));
    for good in [
        with("key", r#""EUR/USD \u00e9""#),
        with("key", &long(256)),
        with("tags", r#"{"text":"","number":-1.5e300,"zero":-0,"yes":true,"no":false}"#),
        with("tags", "{}"),
        with("tags", &format!("{{{}:{}}}", long(64), long(256))),
        tags(32),
    ] {
        server.publish(&good).await;
    }
    for (bad, says) in [
        (with("key", "\"\""), "\"key\": a key may not be empty"),
        (with("key", &long(257)), "256 bytes, this one has 257"),
        (with("key", r#""a\nb""#), "may not contain"),
        (with("key", "7"), "a string"),
        (with("tags", "[]"), "object"),
        (with("tags", r#"{"a":null}"#), "the tag \"a\""),
        (with("tags", r#"{"a":{}}"#), "the tag \"a\""),
        (with("tags", r#"{"a":[1]}"#), "the tag \"a\""),
        (with("tags", r#"{"a":1e999}"#), "finite"),
        (with("tags", r#"{"a":1,"a":2}"#), "\"a\" is there twice"),
        (with("tags", r#"{"":1}"#), "1 to 64 bytes"),
        (with("tags", &format!("{{{}:1}}", long(65))), "1 to 64 bytes"),
        (with("tags", &format!("{{\"a\":{}}}", long(257))), "256 bytes"),
        (tags(33), "32 tags"),
    ] {
        let problem = server.post("/publish", JSON, bad.clone()).await.problem(400);
        assert!(problem["detail"].as_str().unwrap().contains(says), "{bad}: {problem}");
    }
    server.post("/publish?channel=a&key=k", "", "x").await.ok();
    server.post("/publish?channel=a&key=", "", "x").await.problem(400);
    server.post("/publish?channel=a&tags=x", "", "x").await.problem(400);
    assert_eq!(server.kept("a").await.len(), 7, "nothing else was stored");
}

#[tokio::test]
async fn where_states_are_kept_an_older_one_goes() {
    let caps = Caps { state_only: true, ..Caps::default() };
    let rules = vec![("prices/*".parse().unwrap(), caps)];
    let server = Server::retaining(Retention { rules, ..Retention::default() });
    for (key, price) in [("EUR", 1), ("USD", 2), ("EUR", 3), ("EUR", 4)] {
        server.publish(&format!(r#"{{"channel":"prices/now","key":"{key}","data":{price}}}"#)).await;
        server.publish(&format!(r#"{{"channel":"other","key":"{key}","data":{price}}}"#)).await;
    }
    assert_eq!(server.kept("prices/now").await, ["message: 2", "message: 4"]);
    assert_eq!(server.kept("other").await.len(), 4);
}
