//! Subscriptions against a server that cuts, stalls, refuses and floods.

use std::time::Duration;

use crate::server::{Request, STREAM, Server, Step, answer, stream};
use tidings_client::{
    Client, Closing, Error, Event, Limits, Lost, LostReason, Presence, Start, Subscribe, Subscription, Update,
};
use tokio::time::timeout;

/// Long enough for the slowest machine; what is waited for comes at once.
const GENEROUS: Duration = Duration::from_secs(60);

fn subscribe(server: &Server) -> Subscription {
    with(server, Subscribe::to(["a"]))
}

pub(crate) fn with(server: &Server, subscribe: Subscribe) -> Subscription {
    let client = Client::builder(server.address()).token("canary").build().unwrap();
    client.subscribe(subscribe.retry(Duration::from_millis(1)))
}

pub(crate) async fn next(subscription: &mut Subscription) -> Option<Result<Update, Error>> {
    timeout(GENEROUS, subscription.next()).await.expect("an update in time")
}

pub(crate) async fn update(subscription: &mut Subscription) -> Update {
    next(subscription).await.expect("the stream goes on").expect("without an error")
}

pub(crate) async fn event(subscription: &mut Subscription) -> Event {
    match update(subscription).await {
        Update::Event(event) => event,
        other => panic!("{other:?} is no event"),
    }
}

/// It says that there is nothing more to come, and says nothing more.
pub(crate) async fn ends(subscription: &mut Subscription) {
    assert_eq!(update(subscription).await, Update::End);
    for _ in 0..2 {
        assert!(next(subscription).await.is_none(), "it stays ended");
    }
}

pub(crate) async fn lost(subscription: &mut Subscription) -> Lost {
    match update(subscription).await {
        Update::Lost(lost) => lost,
        other => panic!("{other:?} is no loss"),
    }
}

/// The stream of a hub with these events, after the one that the request names.
fn resumed(request: &Request) -> String {
    let blocks = [
        (
            "0",
            "event: tidings:open\ndata: {\"connection\":\"c\",\"user\":null,\"channels\":[\"a\"]}\nid: 0\n\n",
        ),
        ("1", "data: one\ndata: 1\nid: 1\n\n"),
        ("2", "event: named\ndata: zwei…\nid: 2\n\n"),
        ("3", "data: \nid: 3\n\n"),
    ];
    let after = request.header("last-event-id").unwrap_or_default();
    let rest: String = blocks.iter().filter(|(id, _)| *id > after).map(|(_, block)| *block).collect();
    format!(":ok\nretry: 1\n{rest}:\n")
}

fn chunked(body: &str) -> String {
    let chunks: String =
        body.split_inclusive("\n\n").map(|part| format!("{:x}\r\n{part}\r\n", part.len())).collect();
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"
    )
}

async fn cut_at(at: usize, frame: fn(&str) -> String) -> Vec<String> {
    let server = Server::start(move |number, request| {
        let whole = frame(&resumed(request)).into_bytes();
        match number {
            0 => vec![Step::Say(whole[..at].to_vec())],
            _ => vec![Step::Say(whole), Step::Hold],
        }
    })
    .await;
    let mut subscription = subscribe(&server);
    let mut seen = Vec::new();
    while subscription.last_event_id() != "3" {
        if let Update::Event(event) = update(&mut subscription).await {
            seen.push(format!("{} {} {}", event.id, event.event, event.data));
        }
    }
    assert!(server.requests().len() <= 2);
    seen
}

async fn cut_everywhere(frame: fn(&str) -> String) {
    let first = Request { line: String::new(), head: String::new(), body: String::new() };
    let length = frame(&resumed(&first)).len();
    let runs: Vec<_> = (0..=length).map(|at| tokio::spawn(cut_at(at, frame))).collect();
    for (at, run) in runs.into_iter().enumerate() {
        let seen = run.await.unwrap();
        assert_eq!(seen, ["1 message one\n1", "2 named zwei…", "3 message "], "cut at {at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_cut_at_any_byte_loses_and_doubles_nothing() {
    cut_everywhere(|body| format!("{STREAM}{body}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_stream_that_is_cut_at_any_byte_loses_and_doubles_nothing() {
    cut_everywhere(chunked).await;
}

#[tokio::test]
async fn the_request_says_what_was_asked_for() {
    let server = Server::start(|number, _| match number {
        0 => stream("retry: 1\ndata: x\nid: ü1\n\n"),
        _ => answer("204 No Content", "", ""),
    })
    .await;
    let wanted = Subscribe::to(["a/*", "b&c"]).start(Start::History(5)).envelope().only();
    let wanted = wanted.presence().control().filter("n > 1").subscription("phone").client("me");
    let mut subscription = with(&server, wanted);
    assert_eq!(event(&mut subscription).await.data, "x");
    assert_eq!(lost(&mut subscription).await.reason, LostReason::Ended);
    ends(&mut subscription).await;
    let requests = server.requests();
    assert_eq!(
        requests[0].line,
        "GET /events?channel=a%2F*&channel=b%26c&history=5&envelope=1&only=1&presence=1&control=1\
         &filter=n+%3E+1&subscription=phone&client=me HTTP/1.1"
    );
    assert_eq!(requests[0].header("accept"), Some("text/event-stream"));
    assert_eq!(requests[0].header("authorization"), Some("Bearer canary"));
    assert_eq!(requests[0].header("last-event-id"), None);
    assert_eq!(requests[1].header("last-event-id"), Some("ü1"));
}

#[tokio::test]
async fn a_start_is_asked_for() {
    for (start, target, id) in [
        (Start::Now, "/events?channel=a", None),
        (Start::Earliest, "/events?channel=a&last_event_id=earliest", None),
        (Start::Latest, "/events?channel=a&history=latest", None),
        (Start::After("7".to_owned()), "/events?channel=a", Some("7")),
    ] {
        let server = Server::start(|_, _| answer("204 No Content", "", "")).await;
        let mut subscription = with(&server, Subscribe::to(["a"]).start(start));
        ends(&mut subscription).await;
        let requests = server.requests();
        assert_eq!(requests.len(), 1);
        assert_eq!(requests[0].line, format!("GET {target} HTTP/1.1"));
        assert_eq!(requests[0].header("last-event-id"), id);
    }
}

#[tokio::test]
async fn what_coming_back_cannot_help_ends_it() {
    let problem =
        r#"{"type":"urn:tidings:problem:not_granted","title":"Not granted","status":403,"detail":"no"}"#;
    for status in [400_u16, 401, 403, 404, 406, 410, 501] {
        let server = Server::start(move |_, _| answer(&format!("{status} Reason"), "", problem)).await;
        let mut subscription = subscribe(&server);
        match next(&mut subscription).await {
            Some(Err(Error::Refused(problem))) => {
                assert_eq!((problem.status, problem.kind.as_str()), (status, "not_granted"));
            }
            other => panic!("{status}: {other:?}"),
        }
        assert!(next(&mut subscription).await.is_none());
        assert_eq!(server.requests().len(), 1);
    }
}

#[tokio::test]
async fn what_may_pass_is_tried_again() {
    for status in [408_u16, 425, 429, 500, 502, 503, 504] {
        let server = Server::start(move |number, _| match number {
            0 => answer(&format!("{status} Reason"), "Retry-After: 0\r\n", "later"),
            1 => vec![],
            _ => [stream("data: x\n\n"), vec![Step::Hold]].into_iter().flatten().collect(),
        })
        .await;
        let mut subscription = subscribe(&server);
        match lost(&mut subscription).await.reason {
            LostReason::Unavailable(problem) => assert_eq!(problem.status, status),
            other => panic!("{status}: {other:?}"),
        }
        assert!(matches!(lost(&mut subscription).await.reason, LostReason::Transport(_)));
        assert_eq!(event(&mut subscription).await.data, "x");
    }
}

#[tokio::test]
async fn a_server_says_when_to_come_back() {
    let server = Server::start(|number, _| match number {
        0 => answer("503 Service Unavailable", "Retry-After: 1000\r\n", ""),
        _ => vec![],
    })
    .await;
    let lost_for = lost(&mut subscribe(&server)).await.retry_in.as_secs();
    assert!((1000..=1250).contains(&lost_for));

    let overloaded = "retry: 1000\nevent: tidings:overloaded\ndata: {}\nid: 1\n\n";
    let server = Server::start(move |_, _| stream(overloaded)).await;
    let mut subscription = subscribe(&server);
    assert_eq!(update(&mut subscription).await, Update::Closing(Closing::Overloaded));
    let lost = lost(&mut subscription).await;
    assert_eq!(lost.reason, LostReason::Ended);
    assert!((1000..=1250).contains(&lost.retry_in.as_millis()));
    assert_eq!(subscription.last_event_id(), "1");
}

#[tokio::test]
async fn a_page_that_is_no_stream_ends_it() {
    let server = Server::start(|_, _| answer("200 OK", "Content-Type: text/html\r\n", "data: x\n\n")).await;
    assert!(matches!(next(&mut subscribe(&server)).await, Some(Err(Error::Answer(_)))));
    let type_with_parameter = "Content-Type: Text/Event-Stream; charset=utf-8\r\n";
    let server = Server::start(move |_, _| answer("200 OK", type_with_parameter, "data: x\n\n")).await;
    assert_eq!(event(&mut subscribe(&server)).await.data, "x");
}

#[tokio::test]
async fn an_end_ends_it() {
    let server = Server::start(|_, _| stream("event: tidings:end\ndata: {}\nid: 9\n\n")).await;
    let mut subscription = subscribe(&server);
    ends(&mut subscription).await;
    assert_eq!((subscription.last_event_id(), server.requests().len()), ("9", 1));
}

#[tokio::test]
async fn what_the_hub_says_between_events_is_understood() {
    let here = r#"{"channel":"a","type":"snapshot","connections":1,"users":[{"user":"7","connections":1}]}"#;
    let gone = r#"{"channel":"a","type":"digest","joined":[],"left":[{"user":"7"}],"connections":0}"#;
    let blocks = [
        ("presence", here),
        ("presence", gone),
        ("ping", "{}"),
        ("position", "{}"),
        ("skipped", r#"{"count":40}"#),
        ("rumour", "{}"),
    ];
    let block = |(event, data): (&str, &str)| format!("event: tidings:{event}\ndata: {data}\nid: 5\n\n");
    let body: String = blocks.into_iter().map(block).collect();
    let server = Server::start(move |_, _| stream(&body)).await;
    let mut subscription = subscribe(&server);
    match update(&mut subscription).await {
        Update::Presence(Presence::Snapshot(snapshot)) => assert_eq!(snapshot.users[0].user, "7"),
        other => panic!("{other:?}"),
    }
    match update(&mut subscription).await {
        Update::Presence(Presence::Digest(digest)) => assert_eq!(digest.left[0].user, "7"),
        other => panic!("{other:?}"),
    }
    assert_eq!(update(&mut subscription).await, Update::Skipped(40));
    match update(&mut subscription).await {
        Update::Control(event) => assert_eq!(event.event, "tidings:rumour"),
        other => panic!("{other:?}"),
    }
    assert_eq!(subscription.last_event_id(), "5");
}

#[tokio::test]
async fn silence_is_a_lost_connection() {
    let silence = Duration::from_millis(200);
    let server = Server::start(|number, _| match number {
        0 => vec![Step::Hold],
        1 => [stream("data: x\nid: 1\n\n:\ndata: y"), vec![Step::Hold]].into_iter().flatten().collect(),
        _ => answer("204 No Content", "", ""),
    })
    .await;
    let mut subscription = with(&server, Subscribe::to(["a"]).silence(silence));
    assert_eq!(lost(&mut subscription).await.reason, LostReason::Silent(silence));
    assert_eq!(event(&mut subscription).await.data, "x");
    assert_eq!(lost(&mut subscription).await.reason, LostReason::Silent(silence));
    ends(&mut subscription).await;
    assert_eq!(server.requests()[2].header("last-event-id"), Some("1"));
}

#[tokio::test]
async fn heartbeats_keep_a_connection() {
    let server = Server::start(|_, _| {
        let mut steps = stream(":ok\n");
        for _ in 0..30 {
            steps.extend([Step::Wait(Duration::from_millis(100)), Step::Say(b":\n".to_vec())]);
        }
        steps.push(Step::Say(b"data: x\n\n".to_vec()));
        steps
    })
    .await;
    // In all longer than the silence that is allowed.
    let mut subscription = with(&server, Subscribe::to(["a"]).silence(Duration::from_millis(2500)));
    assert_eq!(event(&mut subscription).await.data, "x");
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_flood_ends_it() {
    let limits = Limits { line: 1000, data: 2000 };
    for flood in [format!("data: {}", "x".repeat(5000)), "data: x\n".repeat(5000)] {
        let server = Server::start(move |_, _| stream(&format!("data: fine\n\n{flood}"))).await;
        let mut subscription = with(&server, Subscribe::to(["a"]).limits(limits));
        assert_eq!(event(&mut subscription).await.data, "fine");
        assert!(matches!(next(&mut subscription).await, Some(Err(Error::Stream(_)))));
        assert!(next(&mut subscription).await.is_none());
        assert_eq!(server.requests().len(), 1, "coming back would bring the same event again");
    }
}

#[tokio::test]
async fn giving_up_waiting_loses_nothing() {
    let server = Server::start(|number, _| {
        let mut steps = vec![Step::Wait(Duration::from_millis(20))];
        steps.extend(stream("retry: 20\n"));
        for piece in 0..20 {
            let id = number * 20 + piece;
            for part in [format!("data: {id}\n"), format!("id: {id}\n"), "\n".to_owned()] {
                steps.extend([Step::Say(part.into_bytes()), Step::Wait(Duration::from_millis(1))]);
            }
        }
        steps
    })
    .await;
    let mut subscription = subscribe(&server);
    let mut seen = Vec::new();
    while seen.len() < 60 {
        // Dropped while it connects, reads and waits.
        match timeout(Duration::from_millis(1), subscription.next()).await {
            Ok(Some(Ok(Update::Event(event)))) => seen.push(event.data),
            Ok(Some(Ok(Update::Lost(_)))) | Err(_) => {}
            Ok(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, (0..60).map(|id| id.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn no_token_is_in_what_is_said() {
    let server = Server::start(|_, _| vec![]).await;
    let address = server.address().replace("http://", "http://user:canary@");
    let client = Client::builder(address).token("canary").build().unwrap();
    let mut subscription = client.subscribe(Subscribe::to(["a"]));
    let lost = lost(&mut subscription).await;
    assert!(!format!("{lost:?} {} {subscription:?} {client:?}", lost.reason).contains("canary"));
}
