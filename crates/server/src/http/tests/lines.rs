use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use http_body::Frame;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tower::ServiceExt;

use tidings_hub::Timestamp;
use tidings_hub::log::Retention;

use super::{Answer, SECRET, Server, access_with, request};
use crate::auth::{KeyConfig, NewToken, Secret};
use crate::{LimitsConfig, ServerConfig};

const TYPE: &str = "application/x-ndjson";

/// A request whose body is written while the answer is read.
struct Duplex {
    body: mpsc::Sender<Result<Bytes, std::io::Error>>,
    answer: Body,
    said: String,
}

struct Received(mpsc::Receiver<Result<Bytes, std::io::Error>>);

impl http_body::Body for Received {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

impl Duplex {
    async fn open(server: &Server) -> Duplex {
        Duplex::open_at(server, "/publish").await
    }

    async fn open_at(server: &Server, target: &str) -> Duplex {
        let (body, received) = mpsc::channel(1000);
        let mut request = request("POST", target, Body::new(Received(received)));
        request.headers_mut().insert("content-type", TYPE.parse().unwrap());
        let response = server.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status().as_u16(), 200);
        Duplex { body, answer: response.into_body(), said: String::new() }
    }

    async fn write(&self, text: &str) {
        self.body.send(Ok(Bytes::from(text.to_owned()))).await.unwrap();
    }

    /// The next line of the answer; `None` after the last one.
    async fn line(&mut self) -> Option<Value> {
        loop {
            if let Some((line, rest)) = self.said.split_once('\n') {
                let line = serde_json::from_str(line).unwrap();
                self.said = rest.to_owned();
                return Some(line);
            }
            let piece = self.answer.frame().await?.unwrap().into_data().unwrap();
            self.said.push_str(std::str::from_utf8(&piece).unwrap());
        }
    }
}

#[tokio::test]
async fn each_line_is_answered_in_its_place() {
    let server = Server::new();
    let body = concat!(
        "{\"channel\":\"a\",\"data\":1}\n",
        "\r\n",
        "{\"channel\":\"a\"}\n",
        "  {\"channel\":\"a\",\"data\":2}\r\n",
        "nonsense\n",
        "{\"channel\":\"a\",\"data\":3}",
    );
    let answer = server.post("/publish", TYPE, body).await;
    let lines = answer.lines();
    let history = server.get("/history?channel=a").await.ok();
    assert_eq!(lines.len(), 5, "{lines:?}");
    for (line, event) in [(0, 0), (2, 1), (4, 2)] {
        assert_eq!(lines[line]["id"], history["events"][event]["id"]);
        assert_eq!(lines[line]["sync"], "memory");
    }
    assert_eq!(lines[1]["status"], 400);
    assert!(lines[1]["detail"].as_str().unwrap().starts_with("line 3: "), "{}", lines[1]);
    assert!(lines[3]["detail"].as_str().unwrap().starts_with("line 5: "), "{}", lines[3]);
    assert_eq!(server.kept("a").await, ["message: 1", "message: 2", "message: 3"]);
    assert!(server.post("/publish", TYPE, "").await.lines().is_empty());
}

#[tokio::test]
async fn a_line_is_published_and_answered_before_the_next_is_sent() {
    let server = Server::new();
    let mut duplex = Duplex::open(&server).await;
    for n in 0..3 {
        // A line in pieces, and the beginning of the next.
        duplex.write("{\"channel\":\"a\",").await;
        duplex.write(&format!("\"data\":{n}}}\n ")).await;
        let line = duplex.line().await.unwrap();
        let history = server.get("/history?channel=a").await.ok();
        assert_eq!(history["events"][n]["id"], line["id"]);
    }
    drop(duplex.body.clone());
    let Duplex { body, answer, said } = duplex;
    drop(body);
    assert!(answer.collect().await.unwrap().to_bytes().is_empty() && said.is_empty());
}

#[tokio::test]
async fn many_lines_keep_their_order() {
    let server = Server::new();
    let mut body: String =
        (0..20_000).map(|n| json!({"channel": "a", "data": n}).to_string() + "\n").collect();
    body.push_str("{\"channel\":\"a\",\"data\":\"end\"}");
    let answer = server.post("/publish", TYPE, body).await;
    assert_eq!(answer.lines().len(), 20_001);
    let mut subscription = server.subscribe("a");
    for n in 0..20_000 {
        let delivery = subscription.next().await.unwrap();
        assert_eq!(delivery.event().unwrap().data.as_str(), n.to_string());
    }
}

#[tokio::test]
async fn a_line_that_is_too_long_is_skipped() {
    let limits = LimitsConfig { body: 100, ..LimitsConfig::default() };
    let server = Server::with(ServerConfig { limits, ..ServerConfig::default() });
    let mut duplex = Duplex::open(&server).await;
    for _ in 0..10 {
        duplex.write(&"x".repeat(60)).await;
    }
    duplex.write("\n{\"channel\":\"a\",\"data\":1}\n").await;
    let line = duplex.line().await.unwrap();
    assert_eq!(line["status"], 413, "{line}");
    let detail = line["detail"].as_str().unwrap();
    assert!(detail.contains("100 bytes") && detail.contains("limits.body"), "{detail}");
    assert!(duplex.line().await.unwrap()["id"].is_string());
}

#[tokio::test]
async fn what_has_no_end_is_not_published() {
    let server = Server::new();
    let mut duplex = Duplex::open(&server).await;
    duplex.write("{\"channel\":\"a\",\"data\":1}\n{\"channel\":\"a\",\"data\":2}").await;
    assert!(duplex.line().await.unwrap()["id"].is_string());
    duplex.body.send(Err(std::io::Error::other("gone"))).await.unwrap();
    let line = duplex.line().await.unwrap();
    assert_eq!(line["status"], 400);
    assert!(duplex.line().await.is_none());
    assert_eq!(server.kept("a").await, ["message: 1"]);
}

#[tokio::test]
async fn a_drain_ends_it_with_everything_answered() {
    let server = Server::new();
    let mut duplex = Duplex::open(&server).await;
    duplex.write("{\"channel\":\"a\",\"data\":1}\n").await;
    assert!(duplex.line().await.unwrap()["id"].is_string());
    server.app.begin_drain();
    let line = duplex.line().await.unwrap();
    assert_eq!(line["type"], "urn:tidings:problem:draining");
    assert!(duplex.line().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn who_sends_nothing_is_given_up() {
    let server = Server::new();
    let mut duplex = Duplex::open(&server).await;
    let begun = tokio::time::Instant::now();
    assert_eq!(duplex.line().await.unwrap()["status"], 408);
    assert!(begun.elapsed() >= Duration::from_secs(30));
    assert!(duplex.line().await.is_none());
}

#[tokio::test]
async fn it_takes_no_parameters_of_one_event() {
    let answer: Answer = Server::new().post("/publish?channel=a", TYPE, "").await;
    answer.problem(400);
}

#[tokio::test]
async fn the_end_of_a_token_ends_its_lines() {
    let server = Server::made(ServerConfig::default(), access_with(&["a"]), Retention::default());
    let user = Some("7".parse().unwrap());
    let token = NewToken { user, ttl: Duration::from_secs(1), ..NewToken::default() };
    let token = token.sign(&KeyConfig::secret(Secret::new(SECRET)), "tidings", Timestamp::now()).unwrap();
    let mut duplex = Duplex::open_at(&server, &format!("/publish?token={}", token.expose())).await;
    let mut last = Value::Null;
    for _ in 0..50 {
        duplex.write("{\"channel\":\"a\",\"data\":1}\n").await;
        last = duplex.line().await.unwrap();
        if last["status"] == 401 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(last["type"], "urn:tidings:problem:invalid_token", "{last}");
    assert!(duplex.line().await.is_none(), "nothing comes after it");
}

#[tokio::test]
async fn a_mistake_in_a_line_has_one_line_number() {
    let server = Server::new();
    let answer = server.post("/publish", TYPE, "\n{\"channel\":\"a\",\"data\":1\n").await;
    let detail = answer.lines()[0]["detail"].as_str().unwrap().to_owned();
    assert!(detail.starts_with("line 2: ") && detail.ends_with(" (column 24)"), "{detail}");
}
