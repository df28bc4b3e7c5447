//! Channels that come and go while a subscription runs.

use crate::server::{Request, Server, Step, answer, stream};
use crate::subscription::{ends, event, lost, next, update, with};
use tidings_client::{Error, Start, Subscribe, Subscription, Update};

const OPEN: &str = "event: tidings:open\n\
    data: {\"connection\":\"c1\",\"user\":null,\"secret\":\"s1\",\"channels\":[\"a\"]}\n\
    id: 1\n\n";

fn held(body: &str) -> Vec<Step> {
    [stream(body), vec![Step::Hold]].into_iter().flatten().collect()
}

fn is_stream(request: &Request) -> bool {
    request.line.starts_with("GET /events")
}

/// Open, as far as the subscription knows: it doesn't see the end of a stream before it is asked for the next update.
async fn opened(server: &Server) -> Subscription {
    let mut subscription = with(server, Subscribe::to(["a"]));
    assert!(matches!(update(&mut subscription).await, Update::Open(_)));
    subscription
}

#[tokio::test]
async fn a_running_stream_is_changed_and_asked_for_in_full_after_it_is_lost() {
    let server = Server::start(|number, request| match number {
        0 => stream(OPEN),
        _ if is_stream(request) => held(OPEN),
        _ => answer("200 OK", "", r#"{"from":"9","connections":[]}"#),
    })
    .await;
    let mut subscription = opened(&server).await;
    assert_eq!(subscription.add(["b", "c/*"]).await.unwrap(), "9");
    assert_eq!(subscription.add(["b"]).await.unwrap(), "9");
    assert_eq!(subscription.remove(["a"]).await.unwrap(), "9");
    lost(&mut subscription).await;
    update(&mut subscription).await;
    let requests = server.requests();
    assert_eq!(requests[1].line, "POST /subscriptions HTTP/1.1");
    assert_eq!(requests[1].header("content-type"), Some("application/json"));
    assert_eq!(requests[1].body, r#"{"connection":"c1","secret":"s1","channels":["b","c/*"]}"#);
    assert_eq!(requests[3].line, "DELETE /subscriptions HTTP/1.1");
    assert_eq!(requests[3].body, r#"{"connection":"c1","secret":"s1","channels":["a"]}"#);
    assert_eq!(requests[4].line, "GET /events?channel=b&channel=c%2F* HTTP/1.1");
    assert_eq!(requests[4].header("last-event-id"), Some("1"));
}

#[tokio::test]
async fn what_is_refused_changes_nothing() {
    let server = Server::start(|number, request| match number {
        0 => stream(OPEN),
        _ if is_stream(request) => held(OPEN),
        1 => answer("403 Forbidden", "", r#"{"type":"urn:tidings:problem:not_granted"}"#),
        _ => answer("409 Conflict", "", r#"{"type":"urn:tidings:problem:too_many_channels"}"#),
    })
    .await;
    let mut subscription = opened(&server).await;
    for kind in ["not_granted", "too_many_channels"] {
        match subscription.add(["b"]).await {
            Err(Error::Refused(problem)) => assert_eq!(problem.kind, kind),
            other => panic!("{other:?}"),
        }
    }
    lost(&mut subscription).await;
    update(&mut subscription).await;
    assert_eq!(server.requests()[3].line, "GET /events?channel=a HTTP/1.1");
}

#[tokio::test]
async fn before_it_is_open_the_next_request_asks_for_all() {
    let server = Server::start(|number, _| match number {
        // Answered, but not open yet.
        0 => held("data: x\nid: 4\n\n"),
        _ => answer("204 No Content", "", ""),
    })
    .await;
    let mut subscription = with(&server, Subscribe::to(["a"]).start(Start::After("3".to_owned())));
    assert_eq!(subscription.add(["b"]).await.unwrap(), "3");
    assert_eq!(event(&mut subscription).await.data, "x");
    assert_eq!(subscription.add(["c"]).await.unwrap(), "4");
    ends(&mut subscription).await;
    let requests = server.requests();
    assert_eq!(requests[0].line, "GET /events?channel=a&channel=b HTTP/1.1");
    assert_eq!(requests[1].line, "GET /events?channel=a&channel=b&channel=c HTTP/1.1");
    assert_eq!(requests[1].header("last-event-id"), Some("4"));
    // What has ended begins no more.
    assert_eq!(subscription.add(["d"]).await.unwrap(), "4");
    assert!(next(&mut subscription).await.is_none());
}

#[tokio::test]
async fn a_connection_that_the_server_does_not_know_is_made_anew() {
    let server = Server::start(|number, request| match number {
        0 => held(OPEN),
        _ if is_stream(request) => answer("204 No Content", "", ""),
        _ => answer("404 Not Found", "", r#"{"type":"urn:tidings:problem:not_found"}"#),
    })
    .await;
    let mut subscription = opened(&server).await;
    assert_eq!(subscription.add(["b"]).await.unwrap(), "1");
    ends(&mut subscription).await;
    let requests = server.requests();
    assert_eq!(requests[2].line, "GET /events?channel=a&channel=b HTTP/1.1");
    assert_eq!(requests[2].header("last-event-id"), Some("1"));
}
