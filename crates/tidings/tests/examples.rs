//! The examples that need no more than a client: run as cargo built them beside this test.

mod example;

use std::process::Stdio;
use std::time::Duration;

use example::example;
use serde::Deserialize;
use tidings::client::{Client, Error, Start, Subscribe, Subscription, Update};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::time::timeout;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn the_inbox_shows_all_that_it_speaks_of() {
    let output = timeout(PATIENCE, example("inbox").output()).await.expect("it ends in time").unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let shown = String::from_utf8(output.stdout).unwrap();
    let expected = [
        "on call: it burns",
        "scores: bob has 1",
        "scores: ada has 3",
        "scores: the game is over",
        "scores: 2 were passed over, and there is nothing more to come",
        "late: bob has 1, ada has 3",
        "phone: your order is on its way",
        "phone: your order is there",
        "phone again: your order is there",
        "rooms: hello",
        "rooms: before, true",
    ];
    assert_eq!(shown.lines().collect::<Vec<_>>(), expected);
}

/// What an import says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
struct Progress {
    done: usize,
    of: usize,
    sum: u64,
}

async fn next(subscription: &mut Subscription) -> Update {
    let update = timeout(PATIENCE, subscription.next()).await.expect("an update in time");
    update.expect("it goes on").expect("without an error")
}

/// The next progress; none at the end.
async fn progress(subscription: &mut Subscription) -> Option<Progress> {
    loop {
        match next(subscription).await {
            Update::Event(event) => return Some(event.json().unwrap()),
            Update::End => return None,
            Update::Open(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// The answer to a request: its status and body.
async fn post(address: &str, body: &str) -> (String, String) {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let text = format!(
        "POST /imports HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    socket.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, socket.read_to_string(&mut answer)).await.expect("the answer ends in time").unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().to_owned(), body.to_owned())
}

async fn import_server() -> (Child, String) {
    let mut child = example("import").arg("127.0.0.1:0").stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
    let address = line.strip_prefix("listening on http://").unwrap().to_owned();
    (child, address)
}

#[tokio::test]
async fn an_import_is_watched_from_the_beginning_the_middle_and_the_end() {
    const ROWS: usize = 100;
    let (_child, address) = import_server().await;
    let rows: String = (1..=ROWS).map(|row| format!("{row}\n")).collect();
    let result = Progress { done: ROWS, of: ROWS, sum: 5050 };
    let client = Client::builder(format!("http://{address}")).build().unwrap();
    let watch = |start| client.subscribe(Subscribe::to(["import/1"]).start(start));

    // It waits for the import to begin.
    let mut first = watch(Start::Now);
    assert!(matches!(next(&mut first).await, Update::Open(_)));
    assert_eq!(post(&address, &rows).await, ("200".to_owned(), "import/1".to_owned()));
    for _ in 0..10 {
        progress(&mut first).await.unwrap();
    }
    let mut middle = watch(Start::Latest);
    let joined = progress(&mut middle).await.unwrap();
    assert!(joined.done >= 9, "the newest state: {joined:?}");
    for watcher in [&mut first, &mut middle] {
        let mut seen = vec![joined.done.min(9)];
        let mut last = None;
        while let Some(now) = progress(watcher).await {
            assert_eq!(now.of, ROWS);
            seen.push(now.done);
            last = Some(now);
        }
        assert!(seen.is_sorted_by(|one, next| one < next), "{seen:?}");
        assert_eq!(last, Some(result));
    }

    let mut late = watch(Start::Latest);
    assert_eq!(progress(&mut late).await, Some(result));
    assert_eq!(progress(&mut late).await, None);
    let after_all = late.last_event_id().to_owned();
    let mut back = watch(Start::After(after_all));
    assert_eq!(next(&mut back).await, Update::End, "204");
    assert!(back.next().await.is_none());
}

#[tokio::test]
async fn what_is_no_number_is_no_import() {
    let (_child, address) = import_server().await;
    let (status, said) = post(&address, "1\ntwo\n").await;
    assert_eq!(status, "400", "{said}");
    let client = Client::builder(format!("http://{address}")).build().unwrap();
    let refused = client.publish(&tidings::client::Publish::to_channel("import/1").text("x")).await;
    assert!(matches!(refused, Err(Error::Refused(_))), "nobody but the program publishes: {refused:?}");
}
