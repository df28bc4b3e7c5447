//! Publishing against a server that answers as it is told.

use std::time::Duration;

use crate::server::{Server, Step, answer};
use tidings_client::{Client, Error, Publish, Published};

fn client(server: &Server) -> Client {
    Client::builder(server.address()).token("canary").build().unwrap()
}

fn event() -> Publish {
    Publish::to_channel("a").event("paid").text("x")
}

#[tokio::test]
async fn one_event_is_an_object_and_many_are_an_array() {
    let server = Server::start(|number, _| match number {
        0 => answer("200 OK", "", r#"{"id":"A","receivers":1}"#),
        _ => answer("200 OK", "", r#"{"results":[{"id":"B"},{"id":"C"}]}"#),
    })
    .await;
    let published = client(&server).publish(&event()).await.unwrap();
    assert_eq!(published.id, "A");
    let published = client(&server).publish_all(&[event(), event()]).await.unwrap();
    assert_eq!(published.iter().map(|p: &Published| p.id.as_str()).collect::<Vec<_>>(), ["B", "C"]);
    client(&server).publish_all_once(&[event(), event()], "kä").await.unwrap();
    let bad = client(&server).publish_all_once(&[event()], "a\nb").await;
    assert!(matches!(bad, Err(Error::IdempotencyKey)));
    let requests = server.requests();
    assert_eq!(requests[1].header("idempotency-key"), None);
    assert!(requests[2].header("idempotency-key").is_some());
    assert_eq!(requests[0].line, "POST /publish HTTP/1.1");
    assert_eq!(requests[0].header("content-type"), Some("application/json"));
    assert_eq!(requests[0].header("authorization"), Some("Bearer canary"));
    let one = r#"{"channels":["a"],"event":"paid","data":"x"}"#;
    assert_eq!(requests[0].body, one);
    assert_eq!(requests[1].body, format!("[{one},{one}]"));
}

#[tokio::test]
async fn what_failed_and_what_may_have_is_told_apart() {
    let document = |kind: &str| format!(r#"{{"type":"urn:tidings:problem:{kind}","detail":"why"}}"#);
    let server = Server::start(move |number, _| match number {
        0 => answer("403 Forbidden", "", &document("not_granted")),
        1 => answer("503 Service Unavailable", "", &document("not_stored")),
        2 => answer("200 OK", "", "{}"),
        3 => answer("200 OK", "", r#"{"results":[]}"#),
        4 => vec![],
        _ => vec![Step::Hold],
    })
    .await;
    let client = client(&server);
    let error = client.publish(&event()).await.unwrap_err();
    assert!(matches!(&error, Error::Refused(problem) if problem.kind == "not_granted"), "{error:?}");
    let error = client.publish(&event()).await.unwrap_err();
    assert!(matches!(&error, Error::Failed(problem) if problem.kind == "not_stored"), "{error:?}");
    assert_eq!(error.to_string(), "the server failed: 503 not_stored: why");
    assert!(matches!(client.publish(&event()).await, Err(Error::Answer(_))));
    assert!(matches!(client.publish_all(&[event()]).await, Err(Error::Answer(_))));
    assert!(matches!(client.publish(&event()).await, Err(Error::NoAnswer(_))));
    let impatient =
        Client::builder(server.address()).publish_timeout(Duration::from_millis(100)).build().unwrap();
    assert!(matches!(impatient.publish(&event()).await, Err(Error::NoAnswer(_))));
}
