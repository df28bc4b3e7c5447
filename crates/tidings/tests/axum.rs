//! The hub inside of axum applications: the example, and routes that a program serves itself.

mod example;

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use axum::Router;
use example::example;
use tidings::client::{Client, Closing, Start, Subscribe, Subscription, Update};
use tidings::server::auth::{AccessConfig, GrantTemplates, KeyConfig, NewToken, Origins, Secret};
use tidings::server::{LimitsConfig, ServerConfig};
use tidings::{Channel, Event, Http, Hub, Roll, UserId};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Child;
use tokio::time::timeout;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The next event's data; what else comes is passed over.
async fn next_event(subscription: &mut Subscription) -> String {
    let next = async {
        loop {
            match subscription.next().await.expect("the stream goes on").expect("nothing fails") {
                Update::Event(event) => return event.data,
                Update::Gap(gap) => panic!("{gap:?}"),
                _ => {}
            }
        }
    };
    timeout(PATIENCE, next).await.expect("an event comes in time")
}

/// Waits until the stream is open.
async fn opened(subscription: &mut Subscription) {
    let open = timeout(PATIENCE, subscription.next()).await.expect("it opens in time");
    assert!(matches!(open, Some(Ok(Update::Open(_)))), "{open:?}");
}

/// The whole answer to a request, up to its end or the end of patience.
async fn request(address: &str, head: &str) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let text = format!("{head}\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    socket.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, socket.read_to_string(&mut answer)).await.expect("the answer ends in time").unwrap();
    answer
}

async fn publish(hub: &Hub, channel: &str, data: &str) {
    let channel: Channel = channel.parse().unwrap();
    hub.publish(Event::new(channel.into(), data.into())).await.unwrap();
}

/// `examples/axum.rs`, and where it listens.
async fn axum_example() -> (Child, String) {
    let mut child = example("axum").arg("127.0.0.1:0").stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
    let address = line.strip_prefix("listening on http://").unwrap().to_owned();
    (child, address)
}

#[tokio::test]
async fn the_example_tells_browsers_and_itself() {
    let (_child, address) = axum_example().await;
    assert!(request(&address, "GET / HTTP/1.1").await.contains("new EventSource"));
    for base in ["", "/push"] {
        let client = Client::builder(format!("http://{address}{base}")).build().unwrap();
        let mut events = client.subscribe(Subscribe::to(["hello", "answers"]));
        opened(&mut events).await;
        let answer = request(&address, "POST /hello/ada HTTP/1.1\r\nContent-Length: 0").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(next_event(&mut events).await, "ada says hello", "{base}");
        assert_eq!(next_event(&mut events).await, "hello to who said: ada says hello", "{base}");
    }
    let foreign = request(&address, "POST /push/publish?channel=hello HTTP/1.1\r\nContent-Length: 0").await;
    assert!(foreign.starts_with("HTTP/1.1 401"), "only the program publishes: {foreign}");
}

/// A program that serves the routes with axum's own server.
async fn serve_by_axum(http: Http) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().nest("/push", tidings::axum::routes(http));
    tokio::spawn(async move {
        axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>()).await
    });
    address.to_string()
}

#[tokio::test]
async fn routes_work_without_our_listener() {
    let hub = tidings::in_memory().unwrap();
    publish(&hub, "a/1", "before").await;
    let http = Http::from(&hub);
    let address = serve_by_axum(http.clone()).await;
    let client = Client::builder(format!("http://{address}/push")).build().unwrap();
    let mut events = client.subscribe(Subscribe::to(["a/*"]).start(Start::Earliest));
    assert_eq!(next_event(&mut events).await, "before");
    let large = "x".repeat(300_000);
    for data in ["one", &large, "two"] {
        publish(&hub, "a/1", data).await;
        assert_eq!(next_event(&mut events).await, data);
    }
    // Without a reader the stream is a cursor like any other, and goes on where it was.
    for n in 0..200 {
        publish(&hub, "a/1", &format!("{n} {large}")).await;
    }
    for n in 0..200 {
        assert!(next_event(&mut events).await.starts_with(&format!("{n} ")));
    }

    let drained = http.drain(Duration::from_secs(10)).await;
    assert_eq!((drained.streams, drained.streams_left), (1, 0));
    let closing = timeout(PATIENCE, events.next()).await.unwrap();
    assert!(matches!(closing, Some(Ok(Update::Closing(Closing::Drain)))), "{closing:?}");
}

#[tokio::test]
async fn polls_work_without_our_listener() {
    let hub = tidings::in_memory().unwrap();
    publish(&hub, "a/1", "before").await;
    let address = serve_by_axum(Http::from(&hub)).await;
    let first = request(&address, "GET /push/events?poll=1&channel=a/*&history=1 HTTP/1.1").await;
    assert!(first.contains("\"data\":\"before\""), "{first}");
    let place = first.rsplit("\"last_event_id\":\"").next().unwrap().split('"').next().unwrap().to_owned();
    let waits = tokio::spawn({
        let head = format!("GET /push/events?poll=1&channel=a/*&last_event_id={place} HTTP/1.1");
        async move { request(&address, &head).await }
    });
    publish(&hub, "a/2", "after").await;
    let second = waits.await.unwrap();
    assert!(second.contains("\"data\":\"after\"") && !second.contains("before"), "{second}");
}

#[tokio::test]
async fn a_relayed_answer_has_the_headers_of_every_stream() {
    let hub = tidings::in_memory().unwrap();
    let address = serve_by_axum(Http::from(&hub)).await;
    let mut socket = TcpStream::connect(&address).await.unwrap();
    let head = format!("GET /push/events?channel=a&padding=10 HTTP/1.1\r\nHost: {address}\r\n\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let mut piece = [0; 1024];
    while !answer.contains("tidings:open") {
        let length = timeout(PATIENCE, socket.read(&mut piece)).await.unwrap().unwrap();
        assert!(length > 0, "{answer}");
        answer.push_str(std::str::from_utf8(&piece[..length]).unwrap());
    }
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    for line in [
        "HTTP/1.1 200 OK",
        "content-type: text/event-stream",
        "cache-control: no-cache, no-store, no-transform",
        "x-accel-buffering: no",
        "transfer-encoding: chunked",
        "vary: Origin",
    ] {
        assert_eq!(head.lines().filter(|other| *other == line).count(), 1, "{line}\n{head}");
    }
    assert!(body.contains(":ok\n") && body.contains("\nretry: "), "{body}");

    for (target, status) in
        [("/push/events?channel=//", 400), ("/push/events?history=x", 400), ("/push/nothing", 404)]
    {
        let answer = request(&address, &format!("GET {target} HTTP/1.1")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        assert!(answer.contains("application/problem+json"), "{answer}");
    }
}

#[tokio::test]
async fn a_reader_that_goes_away_is_noticed() {
    let hub = tidings::in_memory().unwrap();
    let limits = LimitsConfig { connections: 1, ..LimitsConfig::default() };
    let config = ServerConfig { limits, retry: Duration::from_millis(50), ..ServerConfig::default() };
    let everybody = Some(tidings::server::auth::GrantTemplates {
        subscribe: vec!["**".parse().unwrap()],
        ..Default::default()
    });
    let access = AccessConfig { anonymous: everybody, ..AccessConfig::default() };
    let address = serve_by_axum(Http::new(hub.clone(), access, Origins::default(), config).unwrap()).await;
    let client = Client::builder(format!("http://{address}/push")).build().unwrap();
    let mut first = client.subscribe(Subscribe::to(["a"]));
    opened(&mut first).await;
    let mut second = client.subscribe(Subscribe::to(["a"]));
    let full = timeout(PATIENCE, second.next()).await.unwrap();
    assert!(matches!(full, Some(Ok(Update::Closing(Closing::Overloaded)))), "{full:?}");
    drop(first);
    let found_place = async { while !matches!(second.next().await, Some(Ok(Update::Open(_)))) {} };
    timeout(PATIENCE, found_place).await.expect("the place becomes free");
}

#[tokio::test]
async fn tokens_hold_inside_of_a_program_too() {
    let hub = tidings::in_memory().unwrap();
    let key = KeyConfig::secret(Secret::new("a secret of thirty-two bytes or more"));
    let access = AccessConfig { keys: vec![key.clone()], ..AccessConfig::default() };
    let http = Http::new(hub.clone(), access, Origins::default(), ServerConfig::default()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(tidings::serve(listener, Router::new(), http));
    let ada =
        NewToken { user: Some("ada".parse().unwrap()), ttl: Duration::from_secs(60), ..NewToken::default() };
    let token = ada.sign(&key, "tidings", tidings::hub::Timestamp::now()).unwrap();
    let nobody = Client::builder(&url).build().unwrap();
    assert!(
        timeout(PATIENCE, nobody.subscribe(Subscribe::to(["a"])).next()).await.unwrap().unwrap().is_err()
    );
    let client = Client::builder(&url).token(token.expose()).build().unwrap();
    assert!(
        timeout(PATIENCE, client.subscribe(Subscribe::to(["a"])).next()).await.unwrap().unwrap().is_err()
    );
    let none: [&str; 0] = [];
    let mut events = client.subscribe(Subscribe::to(none));
    opened(&mut events).await;
    let mail = Event::new(Channel::user(&"ada".parse().unwrap()).into(), "you have mail".into());
    hub.publish(mail).await.unwrap();
    assert_eq!(next_event(&mut events).await, "you have mail");
}

#[tokio::test]
async fn the_program_knows_who_is_there() {
    let hub = tidings::in_memory().unwrap();
    let key = KeyConfig::secret(Secret::new("a secret of thirty-two bytes or more"));
    let access = AccessConfig { keys: vec![key.clone()], ..AccessConfig::default() };
    let http = Http::new(hub.clone(), access, Origins::default(), ServerConfig::default()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (ada, bob): (UserId, UserId) = ("ada".parse().unwrap(), "bob".parse().unwrap());
    let room: Channel = "room/1".parse().unwrap();
    assert_eq!(http.members(&room, 10).await, Roll::default(), "before it is served");
    let mut comings = hub.subscribe(tidings::Subscribe::new([Channel::presence().into()])).unwrap();
    tokio::spawn(tidings::serve(listener, Router::new(), http.clone()));
    let grants = GrantTemplates { subscribe: vec!["room/*".parse().unwrap()], ..GrantTemplates::default() };
    let token =
        NewToken { user: Some(ada.clone()), grants, ttl: Duration::from_secs(60), ..NewToken::default() };
    let token = token.sign(&key, "tidings", tidings::Timestamp::now()).unwrap();
    let client = Client::builder(&url).token(token.expose()).build().unwrap();
    let mut streams =
        [client.subscribe(Subscribe::to(["room/1"])), client.subscribe(Subscribe::to(["room/*"]))];
    for stream in &mut streams {
        opened(stream).await;
    }
    let roll = http.members(&room, 10).await;
    assert_eq!((roll.connections, roll.users.len(), roll.truncated), (2, 1, false));
    assert_eq!((&roll.users[0].user, roll.users[0].connections), (&ada, 2));
    assert_eq!(http.standing(&ada).unwrap().connections, 2);
    assert_eq!(http.standing(&bob), None);
    let coming = timeout(PATIENCE, comings.next()).await.unwrap().unwrap();
    let event = coming.event().unwrap();
    assert_eq!((event.event.as_str(), event.key.as_ref().unwrap().as_str()), ("online", "ada"));
}

#[test]
fn a_hub_on_disk_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let id = {
        let hub = tidings::on_disk(dir.path()).unwrap();
        let published = runtime.block_on(async {
            publish(&hub, "a", "one").await;
            let published =
                hub.publish(Event::new("a".parse::<Channel>().unwrap().into(), "two".into())).await.unwrap();
            publish(&hub, "a", "three").await;
            published
        });
        assert!(tidings::on_disk(dir.path()).is_err(), "it is in use");
        hub.close();
        published.id.to_string()
    };
    // The hub's threads let go of the directory a moment after the hub is gone.
    let end = Instant::now() + PATIENCE;
    let hub = loop {
        match tidings::on_disk(dir.path()) {
            Ok(hub) => break hub,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
    };
    let views = ["a".parse::<Channel>().unwrap().into()];
    let start = tidings::Start::Cursor(id);
    let mut subscription =
        hub.subscribe(tidings::Subscribe { start, ..tidings::Subscribe::new(views) }).unwrap();
    let delivery = runtime.block_on(subscription.next()).unwrap();
    assert_eq!(delivery.event().map(|event| event.data.as_str()), Some("three"));
}
