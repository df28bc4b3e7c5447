//! Texts that are written while people look on, as a language model writes them: many channels at once, each with 60
//! small events a second and an end that has the whole text under a key. Who looks on from the beginning, comes in the
//! middle, reloads the page or comes late has the whole text in order at the end, or was told what it lacks.
//!
//! `TIDINGS_GENERATIONS` says how many there are at once: 200, in `scripts/soak` 1,000.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tidings_hub::log::{Caps, Retention};
use tidings_hub::{Hub, HubConfig, Timestamp};
use tidings_log_disk::{DataDir, DiskLog, DiskLogConfig};
use tidings_server::auth::{Access, AccessConfig, Cors, Origins};
use tidings_server::{App, LimitsConfig, Server, ServerConfig, Side};
use tidings_wire::{CursorKey, Limits, Message, Parser};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

/// Longer than anything here takes, for a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(120);
/// Tokens of a text, and how many come in a second.
const TOKENS: usize = 120;
const PER_SECOND: f64 = 60.0;
/// How many events are kept where that is less than a text.
const CAPPED: u64 = 40;

/// One after the other: each has some thousand sockets.
static TURN: Mutex<()> = Mutex::const_new(());

fn generations() -> usize {
    std::env::var("TIDINGS_GENERATIONS").map_or(200, |count| count.parse().expect("a number of generations"))
}

struct Running {
    hub: Hub,
    address: SocketAddr,
    _dir: TempDir,
}

async fn start() -> Running {
    let dir = tempfile::tempdir().unwrap();
    let few = Caps { count: Some(CAPPED), ..Caps::default() };
    let log = DiskLogConfig {
        retention: Retention { rules: vec![("capped/*".parse().unwrap(), few)], ..Retention::default() },
        reserve_bytes: 0,
        ..DiskLogConfig::new(DataDir::open(dir.path()).unwrap())
    };
    let log = Arc::new(DiskLog::open(log, Timestamp::now()).unwrap());
    // Everything fits into the window: however slow the machine is, who looks on keeps up.
    let config = HubConfig {
        window_records: 1 << 18,
        window_bytes: 1 << 30,
        ..HubConfig::new(CursorKey::new([7; 16]))
    };
    let hub = Hub::start(log, config).unwrap();
    let access = Access::new(AccessConfig { dev: true, ..AccessConfig::default() }).unwrap();
    let limits = LimitsConfig { per_address: usize::MAX, ..LimitsConfig::default() };
    let config = ServerConfig { workers: NonZeroUsize::new(2).unwrap(), limits, ..ServerConfig::default() };
    let app = Arc::new(App::new(hub.clone(), access, Cors::new(Origins::default()), config));
    let server = Server::of_side(app, Side::Both).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { server.serve(listener).await.unwrap() });
    Running { hub, address, _dir: dir }
}

/// What a text consists of: words, parts of words, lines.
fn token(generation: usize, n: usize) -> String {
    match n % 7 {
        0 => format!("{generation}"),
        3 => "\n\n".to_owned(),
        5 => format!(" \u{1f600}{n}"),
        _ => format!(" t{n}"),
    }
}

fn text(generation: usize) -> String {
    (0..TOKENS).map(|n| token(generation, n)).collect()
}

/// One text on its way.
#[derive(Clone)]
struct Generation {
    address: SocketAddr,
    number: usize,
    channel: String,
    stored: bool,
    /// How many tokens were sent, and one more for the end once all is answered.
    sent: watch::Receiver<usize>,
}

impl Generation {
    /// Writes the text, as one request of lines.
    async fn write(&self, sent: watch::Sender<usize>) {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let head = "POST /publish HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
            Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";
        socket.write_all(head.as_bytes()).await.unwrap();
        let begin = Instant::now();
        for n in 0..TOKENS {
            sleep_until(begin + Duration::from_secs_f64(n as f64 / PER_SECOND)).await;
            let data = json!({"n": n, "t": token(self.number, n)});
            self.line(&mut socket, &json!({"channel": self.channel, "data": data, "store": self.stored}))
                .await;
            sent.send_replace(n + 1);
        }
        let data = json!({"text": text(self.number)});
        let end = json!({"channel": self.channel, "event": "done", "key": "text", "data": data, "end": true});
        self.line(&mut socket, &end).await;
        socket.write_all(b"0\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(answer.matches("\"id\"").count(), TOKENS + 1, "{answer}");
        assert!(!answer.contains("\"status\""), "{answer}");
        sent.send_replace(TOKENS + 1);
    }

    async fn line(&self, socket: &mut TcpStream, event: &Value) {
        let line = format!("{event}\n");
        socket.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes()).await.unwrap();
    }

    async fn reaches(&self, tokens: usize) {
        self.sent.clone().wait_for(|sent| *sent >= tokens).await.unwrap();
    }

    async fn look(&self, more: &str) -> Viewer {
        Viewer::open(self.address, &format!("channel={}{more}", self.channel)).await
    }

    /// The page is reloaded when half of the text is there, by a browser that knows the last id.
    async fn half(&self, viewer: &mut Viewer, seen: &mut Seen) -> String {
        while seen.tokens.len() < TOKENS / 2 {
            seen.take(viewer.next().await.expect("it goes on"));
        }
        seen.tokens.push(Token::Reload);
        format!("&last_event_id={}", seen.last_id)
    }
}

/// A stream as a page reads it. HTTP/1.0 has no chunks: what comes behind the head is the stream.
struct Viewer {
    socket: TcpStream,
    parser: Parser,
    read: Vec<u8>,
    at: usize,
}

impl Viewer {
    async fn open(address: SocketAddr, query: &str) -> Viewer {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let head =
            format!("GET /events?{query} HTTP/1.0\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n");
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut read = Vec::new();
        let end = loop {
            assert!(socket.read_buf(&mut read).await.unwrap() > 0, "{}", String::from_utf8_lossy(&read));
            if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
        };
        assert!(read.starts_with(b"HTTP/1.0 200"), "{query}: {}", String::from_utf8_lossy(&read));
        let mut viewer = Viewer { socket, parser: Parser::new(Limits::default()), read, at: end };
        let open = viewer.next().await.expect("it begins");
        assert_eq!(open.event, "tidings:open");
        viewer
    }

    /// The next event; none when the stream has ended.
    async fn next(&mut self) -> Option<Message> {
        timeout(PATIENCE, async {
            loop {
                let mut rest = &self.read[self.at..];
                let message = self.parser.next_message(&mut rest).unwrap();
                self.at = self.read.len() - rest.len();
                if message.is_some() {
                    return message;
                }
                self.read.clear();
                self.at = 0;
                if self.socket.read_buf(&mut self.read).await.unwrap() == 0 {
                    return None;
                }
            }
        })
        .await
        .expect("something comes")
    }
}

/// What a viewer was shown or told, or did.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Text(usize, String),
    Gap(String),
    Reload,
}

#[derive(Debug, Default)]
struct Seen {
    tokens: Vec<Token>,
    /// The whole text, as the end has it.
    whole: Option<String>,
    said_end: bool,
    last_id: String,
}

impl Seen {
    fn take(&mut self, message: Message) {
        let data = || serde_json::from_str::<Value>(&message.data).unwrap();
        assert!(
            self.whole.is_none() || message.event == "tidings:end",
            "nothing comes behind the end: {message:?}"
        );
        match message.event.as_str() {
            "message" => {
                let data = data();
                let n = usize::try_from(data["n"].as_u64().unwrap()).unwrap();
                self.tokens.push(Token::Text(n, data["t"].as_str().unwrap().to_owned()));
            }
            "done" => self.whole = Some(data()["text"].as_str().unwrap().to_owned()),
            "tidings:end" => self.said_end = true,
            "tidings:gap" => self.tokens.push(Token::Gap(data()["reason"].as_str().unwrap().to_owned())),
            // A reload begins a stream anew.
            "tidings:open" => {}
            other => panic!("{other} was not asked for"),
        }
        self.last_id = message.id;
    }

    /// Reads to the end of the stream, which ends by itself.
    async fn until_the_end(mut self, viewer: &mut Viewer, generation: &Generation) -> Seen {
        while let Some(message) = viewer.next().await {
            self.take(message);
        }
        assert!(self.said_end, "{self:?}");
        assert_eq!(self.whole.as_deref(), Some(&*text(generation.number)), "the end has it all");
        self.check_order(generation);
        self
    }

    /// Each token is what was written, and they are in order, each once.
    fn check_order(&self, generation: &Generation) {
        let mut next = 0;
        for (n, text) in self.texts() {
            assert!(n >= next, "{n} is out of order, or there twice: {self:?}");
            assert_eq!(text, token(generation.number, n));
            next = n + 1;
        }
    }

    fn texts(&self) -> impl Iterator<Item = (usize, &str)> {
        self.tokens.iter().filter_map(|token| match token {
            Token::Text(n, text) => Some((*n, text.as_str())),
            Token::Gap(_) | Token::Reload => None,
        })
    }

    fn gaps(&self) -> usize {
        self.tokens.iter().filter(|token| matches!(token, Token::Gap(_))).count()
    }

    /// It has the whole text, and was told nothing else.
    fn has_all(&self) {
        assert_eq!(self.gaps(), 0, "{self:?}");
        assert_eq!(self.texts().map(|(n, _)| n).collect::<Vec<_>>(), (0..TOKENS).collect::<Vec<_>>());
    }

    /// Where something is missing from some place on, this was said just there: by a gap, or for what is not kept by the
    /// reload, which asks for no more than what comes.
    fn lacks_only_what_was_said(&self, from: usize, reload_says_it: bool) {
        let (mut next, mut said) = (from, false);
        for token in &self.tokens {
            match token {
                Token::Gap(reason) => {
                    assert_eq!(reason, "expired");
                    said = true;
                }
                Token::Reload => said |= reload_says_it,
                Token::Text(n, _) => {
                    assert!(
                        *n == next || said,
                        "{next} is missing before {n}, and nothing was said: {self:?}"
                    );
                    (next, said) = (n + 1, false);
                }
            }
        }
        assert!(next == TOKENS || said, "from {next} on it is missing, and nothing was said: {self:?}");
    }
}

/// So many texts at once, each with what its viewers do meanwhile.
async fn write_all<V: Future<Output = ()> + Send + 'static>(
    kind: &str,
    count: usize,
    stored: bool,
    viewers: impl Fn(Generation, watch::Sender<usize>) -> V,
) {
    let _turn = TURN.lock().await;
    let server = start().await;
    let (go, begun) = watch::channel(false);
    // How many viewers are there before it begins.
    let (ready, mut waiting) = watch::channel(0);
    let (mut writing, mut looking) = (JoinSet::new(), JoinSet::new());
    for number in 0..count {
        let (sender, sent) = watch::channel(0);
        let channel = format!("{kind}/{number}");
        let generation = Generation { address: server.address, number, channel, stored, sent };
        looking.spawn(viewers(generation.clone(), ready.clone()));
        let mut begun = begun.clone();
        writing.spawn(async move {
            begun.wait_for(|begun| *begun).await.unwrap();
            generation.write(sender).await;
        });
    }
    timeout(PATIENCE, waiting.wait_for(|ready| *ready == count)).await.expect("all look on").unwrap();
    go.send_replace(true);
    while let Some(written) = writing.join_next().await {
        written.unwrap();
    }
    while let Some(looked) = looking.join_next().await {
        looked.unwrap();
    }
    server.hub.close();
}

fn one_more(ready: &watch::Sender<usize>) {
    ready.send_modify(|ready| *ready += 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_looks_on_at_a_stored_text_has_all_of_it() {
    write_all("stored", generations(), true, |generation, ready| async move {
        let (mut before, mut reloads) = (generation.look("").await, generation.look("").await);
        one_more(&ready);
        let looks_on = async { Seen::default().until_the_end(&mut before, &generation).await.has_all() };
        let reloads = async {
            let mut seen = Seen::default();
            let id = generation.half(&mut reloads, &mut seen).await;
            drop(reloads);
            seen.until_the_end(&mut generation.look(&id).await, &generation).await.has_all();
        };
        let in_the_middle = async {
            generation.reaches(TOKENS / 3).await;
            let mut viewer = generation.look("&last_event_id=earliest").await;
            Seen::default().until_the_end(&mut viewer, &generation).await.has_all();
        };
        let late = async {
            generation.reaches(TOKENS + 1).await;
            let mut viewer = generation.look("&last_event_id=earliest").await;
            let seen = Seen::default().until_the_end(&mut viewer, &generation).await;
            seen.has_all();
            let mut viewer = generation.look("&history=latest").await;
            let newest = Seen::default().until_the_end(&mut viewer, &generation).await;
            assert_eq!(newest.tokens, [], "the end has all there is to know");
            let over = format!("channel={}&last_event_id={}", generation.channel, seen.last_id);
            assert_eq!(status(generation.address, &over).await, 204, "there is nothing more to come");
        };
        tokio::join!(looks_on, reloads, in_the_middle, late);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_comes_back_for_what_is_not_kept_any_more_is_told() {
    write_all("capped", generations() / 10, true, |generation, ready| async move {
        let mut reloads = generation.look("").await;
        one_more(&ready);
        let mut seen = Seen::default();
        let id = generation.half(&mut reloads, &mut seen).await;
        drop(reloads);
        generation.reaches(TOKENS + 1).await;
        let seen = seen.until_the_end(&mut generation.look(&id).await, &generation).await;
        assert!(seen.gaps() > 0, "more came than is kept: {seen:?}");
        seen.lacks_only_what_was_said(0, false);
        let mut late = generation.look("&last_event_id=earliest").await;
        let late = Seen::default().until_the_end(&mut late, &generation).await;
        let kept = TOKENS + 1 - usize::try_from(CAPPED).unwrap();
        assert_eq!(late.gaps(), 0, "it asked for what is kept");
        late.lacks_only_what_was_said(kept, false);
    })
    .await;
}

/// What is not kept is for who is there. Who is not sees by the numbers what it lacks, and has all of it with the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_misses_a_part_of_an_ephemeral_text_knows() {
    write_all("live", generations(), false, |generation, ready| async move {
        let (mut before, mut reloads) = (generation.look("").await, generation.look("").await);
        one_more(&ready);
        let looks_on = async { Seen::default().until_the_end(&mut before, &generation).await.has_all() };
        let reloads = async {
            let mut seen = Seen::default();
            let id = generation.half(&mut reloads, &mut seen).await;
            drop(reloads);
            let seen = seen.until_the_end(&mut generation.look(&id).await, &generation).await;
            seen.lacks_only_what_was_said(0, true);
        };
        let in_the_middle = async {
            generation.reaches(TOKENS / 3).await;
            let mut viewer = generation.look("&last_event_id=earliest").await;
            let seen = Seen::default().until_the_end(&mut viewer, &generation).await;
            let first = seen.texts().next().map_or(TOKENS, |(n, _)| n);
            seen.lacks_only_what_was_said(first, false);
        };
        let late = async {
            generation.reaches(TOKENS + 1).await;
            let mut viewer = generation.look("&last_event_id=earliest").await;
            let seen = Seen::default().until_the_end(&mut viewer, &generation).await;
            assert_eq!(seen.tokens, [], "none of it is kept but the end");
        };
        tokio::join!(looks_on, reloads, in_the_middle, late);
    })
    .await;
}

async fn status(address: SocketAddr, query: &str) -> u16 {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let head = format!("GET /events?{query} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    answer[9..12].parse().unwrap()
}
