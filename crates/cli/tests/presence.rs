//! Who is there, by the real binary: as docs/presence.md says it.

mod harness;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use harness::{PATIENCE, Running, Server};
use rustix::process::Signal;

/// A stream that is read by hand.
struct Stream {
    socket: TcpStream,
    text: String,
}

impl Stream {
    fn open(server: &Server, query: &str, token: &str) -> Stream {
        let mut socket = TcpStream::connect(server.address()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(
            socket,
            "GET /events?{query} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {token}\r\n\r\n",
            server.address()
        )
        .unwrap();
        let mut stream = Stream { socket, text: String::new() };
        stream.until("event: tidings:open\n");
        stream
    }

    /// Reads up to a line that begins so, and takes what came before and the line.
    fn until(&mut self, begin: &str) -> String {
        loop {
            let found = self.text.find(begin).and_then(|at| Some((at, at + self.text[at..].find('\n')?)));
            if let Some((at, end)) = found {
                let line = self.text[at..end].to_owned();
                self.text.drain(..=end);
                return line;
            }
            let mut piece = [0; 4096];
            let length = self.socket.read(&mut piece).unwrap();
            assert!(length > 0, "it ended before {begin:?}: {}", self.text);
            self.text.push_str(std::str::from_utf8(&piece[..length]).unwrap());
        }
    }
}

const CONFIG: &str = "[presence]\ngrace = \"300ms\"\n";

fn start(dir: &Path) -> Server {
    let config = dir.join("tidings.toml");
    std::fs::write(&config, CONFIG).unwrap();
    Server::start(dir, &["--config", config.to_str().unwrap()])
}

fn tokens(server: &Server) -> (String, String) {
    let ada =
        ["--sub", "ada", "--subscribe", "room/*", "--presence", "room/*", "--info", r#"{"name":"Ada"}"#];
    (server.token(&ada), server.token(&["--sub", "bob", "--subscribe", "room/*"]))
}

#[test]
fn who_watches_a_channel_sees_others_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let (ada, bob) = tokens(&server);
    let mut watcher = Stream::open(&server, "channel=room/1&presence=1", &ada);
    assert_eq!(
        watcher.until("data: {\"channel\":\"room/1\",\"type\":\"snapshot\""),
        r#"data: {"channel":"room/1","type":"snapshot","connections":1,"users":[{"user":"ada","connections":1,"info":{"name":"Ada"}}],"truncated":false}"#
    );
    let stream = Stream::open(&server, "channel=room/1", &bob);
    assert_eq!(
        watcher.until("data: "),
        r#"data: {"channel":"room/1","type":"digest","joined":[{"user":"bob"}],"left":[],"connections":2}"#
    );
    drop(stream);
    assert_eq!(
        watcher.until(r#"data: {"channel":"room/1","type":"digest","joined":[],"left":[{"#),
        r#"data: {"channel":"room/1","type":"digest","joined":[],"left":[{"user":"bob"}],"connections":1}"#
    );
    assert!(
        server
            .request(&format!("GET /events?channel=room/1&presence=1&token={bob} HTTP/1.1"))
            .contains("403")
    );
    server.stop();
}

#[test]
fn the_command_says_who_comes_and_goes() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let (ada, bob) = tokens(&server);
    let subscribe = |token: &str, more: &[&str]| {
        Running::start(server.client("subscribe").args(["room/1", "--token", token]).args(more))
    };
    let watcher = subscribe(&ada, &["--presence"]);
    assert_eq!(watcher.line(), "room/1  tidings:presence  here: ada; connections: 1");
    let other = subscribe(&bob, &[]);
    assert_eq!(watcher.line(), "room/1  tidings:presence  joined: bob; connections: 2");
    let programs = subscribe(&ada, &["--presence", "--json"]);
    let snapshot: serde_json::Value = serde_json::from_str(&programs.line()).unwrap();
    assert_eq!(
        (&snapshot["event"], &snapshot["data"]["users"][1]["user"]),
        (&"tidings:presence".into(), &"bob".into())
    );
    drop(other);
    while !watcher.line().contains("left: bob;") {}
    let mut refused = subscribe(&bob, &["--presence"]);
    assert_eq!(refused.wait().code(), Some(1));
    server.stop();
}

#[test]
fn comings_and_goings_are_kept_over_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let (_, bob) = tokens(&server);
    let back_end = server.token(&["--sub", "back-end", "--subscribe", "$presence"]);
    let mut events = Stream::open(&server, "channel=$presence", &back_end);
    events.until(r#"data: {"user":"back-end","at":"#);
    let stream = Stream::open(&server, "", &bob);
    events.until("event: online");
    assert!(events.until("data: ").starts_with(r#"data: {"user":"bob","at":"#));
    let id = events.until("id: ")["id: ".len()..].to_owned();
    drop(stream);
    events.until("event: offline");
    assert!(events.until("data: ").starts_with(r#"data: {"user":"bob","at":"#));
    server.running.signal(Signal::KILL);
    drop(server);
    let server = start(dir.path());
    let mut events = Stream::open(&server, &format!("channel=$presence&last_event_id={id}"), &back_end);
    events.until("event: offline");
    assert!(events.until("data: ").starts_with(r#"data: {"user":"bob","at":"#));
    server.stop();
}
