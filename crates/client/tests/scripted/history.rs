//! What is kept, and what is acknowledged.

use crate::server::{Server, answer};
use tidings_client::{Client, Error, History};

#[tokio::test]
async fn a_page_is_asked_for_and_read() {
    let page = r#"{"events":[{"id":"A","channel":"a/1","event":"paid","data":{"n":1.0e2},"time":17},
        {"id":"B","channel":"a/2","event":"message","data":"x\ny","time":18}],
        "last_event_id":"B","next":"B","gap":{"reason":"expired","from":"0","to":"1"}}"#;
    let server = Server::start(move |number, _| match number {
        0 => answer("200 OK", "", page),
        1 => answer("200 OK", "", r#"{"events":[],"last_event_id":"C"}"#),
        2 => answer("200 OK", "", r#"{"events":[{}],"last_event_id":"C"}"#),
        _ => answer("403 Forbidden", "", r#"{"type":"urn:tidings:problem:not_granted"}"#),
    })
    .await;
    let client = Client::builder(server.address()).token("canary").build().unwrap();
    let all = History::of(["a/*", "b"]).after("0").until("9").limit(2).newest_first();
    let page = client.history(&all).await.unwrap();
    let seen: Vec<_> = page.events.iter().map(|event| (event.id.as_str(), event.data.as_str())).collect();
    assert_eq!(seen, [("A", r#"{"n":1.0e2}"#), ("B", "x\ny")]);
    assert_eq!((page.events[0].channel.as_deref(), page.events[0].time), (Some("a/1"), Some(17)));
    assert_eq!((page.last_event_id.as_str(), page.next.as_deref()), ("B", Some("B")));
    assert_eq!(page.gap.unwrap().reason, "expired");
    let page = client.history(&History::of(["a"])).await.unwrap();
    assert_eq!((page.events.len(), page.next, page.gap), (0, None, None));
    assert!(matches!(client.history(&History::of(["a"])).await, Err(Error::Answer(_))));
    assert!(matches!(client.history(&History::of(["a"])).await, Err(Error::Refused(_))));
    let requests = server.requests();
    assert_eq!(
        requests[0].line,
        "GET /history?channel=a%2F*&channel=b&after=0&until=9&limit=2&order=desc HTTP/1.1"
    );
    assert_eq!(requests[0].header("authorization"), Some("Bearer canary"));
    assert_eq!(requests[1].line, "GET /history?channel=a HTTP/1.1");
}

#[tokio::test]
async fn an_acknowledgement_says_how_far_the_subscription_is() {
    let server = Server::start(|number, _| match number {
        0 => answer("200 OK", "", r#"{"subscription":"phone","id":"B"}"#),
        _ => answer("404 Not Found", "", r#"{"type":"urn:tidings:problem:not_found"}"#),
    })
    .await;
    let client = Client::builder(server.address()).build().unwrap();
    assert_eq!(client.acknowledge("phone", "A").await.unwrap(), "B");
    assert!(matches!(client.acknowledge("phone", "A").await, Err(Error::Refused(_))));
    let requests = server.requests();
    assert_eq!(requests[0].line, "POST /acks HTTP/1.1");
    assert_eq!(requests[0].body, r#"{"subscription":"phone","id":"A"}"#);
}
