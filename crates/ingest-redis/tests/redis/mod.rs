//! A real `redis-server` on a free port, with a directory of its own, and a client of a few lines.

// Each test file uses its part of this.
#![allow(dead_code, unreachable_pub)]

pub mod proxy;
pub mod tls;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Redis {
    port: u16,
    dir: TempDir,
    options: Vec<String>,
    server: Option<Child>,
}

/// A port that nobody has just now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Redis {
    pub fn start() -> Redis {
        Redis::start_with(Vec::new)
    }

    /// With options that may name ports: those are made for each attempt.
    fn start_with(options: impl Fn() -> Vec<String>) -> Redis {
        let dir = tempfile::tempdir().unwrap();
        // Another process may take the port in between; then it is another one's turn.
        for _ in 0..20 {
            let (port, options) = (free_port(), options());
            if let Some(server) = spawn(port, &dir, &options) {
                return Redis { port, dir, options, server: Some(server) };
            }
        }
        panic!("redis-server found no port");
    }

    /// One that speaks TLS too, at the address that comes with it.
    pub fn start_with_tls(certificates: &tls::Certificates) -> (Redis, String) {
        let redis = Redis::start_with(|| certificates.options(free_port()));
        let url = format!("rediss://localhost:{}", redis.options[1]);
        (redis, url)
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Kills it. What was answered is in its file.
    pub fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }

    /// On the same port, with what was kept.
    pub fn start_again(&mut self) {
        let end = Instant::now() + PATIENCE;
        while self.server.is_none() {
            assert!(Instant::now() < end, "redis-server did not come back");
            self.server = spawn(self.port, &self.dir, &self.options);
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn client(&self) -> Client {
        Client::connect(self.port).unwrap()
    }

    /// One command.
    pub fn run(&self, words: &[&str]) -> Reply {
        self.client().run(words)
    }

    /// Waits until somebody follows a channel of Pub/Sub.
    pub fn wait_for_subscriber(&self, channel: &str) {
        let one = Reply::List(vec![Reply::Text(channel.to_owned()), Reply::Number(1)]);
        self.wait_for(&["PUBSUB", "NUMSUB", channel], &one);
    }

    /// Waits for an answer. By a new connection each time: a Sentinel ends those of whom it promotes.
    pub fn wait_for(&self, words: &[&str], reply: &Reply) {
        let end = Instant::now() + PATIENCE;
        while Client::connect(self.port).map(|mut client| client.run(words)).as_ref() != Some(reply) {
            assert!(Instant::now() < end, "{words:?} is not answered with {reply:?}");
            sleep(Duration::from_millis(10));
        }
    }

    /// Publishes to `user:events`, followed by somebody.
    pub fn publish(&self, message: &str) {
        assert_eq!(self.run(&["PUBLISH", "user:events", message]), Reply::Number(1));
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
    }
}

/// `None` when it ended at once.
fn spawn(port: u16, dir: &TempDir, options: &[String]) -> Option<Child> {
    let mut command = Command::new("redis-server");
    command
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"])
        .args(["--appendfsync", "always"])
        .arg("--dir")
        .arg(dir.path())
        .args(options);
    await_answer(port, &mut command)
}

/// Starts it, and waits until it answers. `None` when it ended at once.
fn await_answer(port: u16, command: &mut Command) -> Option<Child> {
    let mut server =
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("redis-server is installed");
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(mut client) = Client::connect(port)
            && client.run(&["PING"]) == Reply::Text("PONG".to_owned())
        {
            return Some(server);
        }
        if server.try_wait().unwrap().is_some() {
            return None;
        }
        assert!(Instant::now() < end, "redis-server does not answer");
        sleep(Duration::from_millis(10));
    }
}

/// A Sentinel that watches a server as the service `main`.
pub struct Sentinel {
    pub port: u16,
    _dir: TempDir,
    server: Child,
}

impl Sentinel {
    pub fn start(primary: &Redis) -> Sentinel {
        for _ in 0..20 {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("sentinel.conf");
            let port = free_port();
            let config = format!(
                "port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {} 1\n\
                 sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n",
                primary.port
            );
            std::fs::write(&file, config).unwrap();
            let mut command = Command::new("redis-server");
            if let Some(server) = await_answer(port, command.arg(&file).arg("--sentinel")) {
                return Sentinel { port, _dir: dir, server };
            }
        }
        panic!("the Sentinel found no port");
    }

    /// Waits until it knows of a replica that could take over.
    pub fn wait_for_replica(&self) {
        let mut client = Client::connect(self.port).unwrap();
        let end = Instant::now() + PATIENCE;
        loop {
            let replicas = format!("{:?}", client.run(&["SENTINEL", "REPLICAS", "main"]));
            if replicas.contains("master-link-status\"), Text(\"ok\")") {
                return;
            }
            assert!(Instant::now() < end, "no replica: {replicas}");
            sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// An answer of Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Nothing,
    Text(String),
    Error(String),
    Number(i64),
    List(Vec<Reply>),
}

pub struct Client(BufReader<TcpStream>);

impl Client {
    /// `None` when nobody listens.
    pub fn connect(port: u16) -> Option<Client> {
        let socket = TcpStream::connect(("127.0.0.1", port)).ok()?;
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Some(Client(BufReader::new(socket)))
    }

    pub fn run(&mut self, words: &[&str]) -> Reply {
        let mut command = format!("*{}\r\n", words.len());
        for word in words {
            command.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        match self.0.get_mut().write_all(command.as_bytes()) {
            Ok(()) => self.reply(),
            Err(error) => Reply::Error(error.to_string()),
        }
    }

    fn reply(&mut self) -> Reply {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(0) => return Reply::Error("the connection ended".to_owned()),
            Err(error) => return Reply::Error(error.to_string()),
            Ok(_) => {}
        }
        let (kind, rest) = line.trim_end().split_at(1);
        let number = || rest.parse::<i64>().unwrap();
        match kind {
            "+" => Reply::Text(rest.to_owned()),
            "-" => Reply::Error(rest.to_owned()),
            ":" => Reply::Number(number()),
            "$" | "*" if number() < 0 => Reply::Nothing,
            "$" => {
                let mut text = vec![0; usize::try_from(number()).unwrap() + 2];
                self.0.read_exact(&mut text).unwrap();
                text.truncate(text.len() - 2);
                // What others keep there may be no text.
                Reply::Text(String::from_utf8_lossy(&text).into_owned())
            }
            "*" => Reply::List((0..number()).map(|_| self.reply()).collect()),
            _ => panic!("{line:?}"),
        }
    }
}
