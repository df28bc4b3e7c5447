//! A Redis server of a test.

use std::fs::OpenOptions;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use redis::{Connection, FromRedisValue};
use tempfile::TempDir;

/// A running `redis-server` with a directory of its own; ends with this.
pub(super) struct Server {
    pub(super) port: u16,
    dir: TempDir,
    options: Vec<String>,
    child: Child,
}

pub(super) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn spawn(dir: &Path, port: u16, options: &[String]) -> Child {
    let out = OpenOptions::new().create(true).append(true).open(dir.join("out")).unwrap();
    // A configuration file comes before everything else.
    let (file, options) = options.split_at(usize::from(options.first().is_some_and(|o| !o.starts_with('-'))));
    // Or another one: a newer Redis, a Valkey.
    let program = std::env::var("TIDINGS_REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
    Command::new(program)
        .args(file)
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--dir"])
        .arg(dir)
        .args(options)
        .stdin(Stdio::null())
        .stdout(out)
        .spawn()
        .expect("redis-server has to be installed; scripts/test does that")
}

impl Server {
    pub(super) fn start(options: &[&str]) -> Server {
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        // Another process may take a port before Redis has it.
        for _ in 0..10 {
            let dir = tempfile::tempdir().unwrap();
            let port = free_port();
            let child = spawn(dir.path(), port, &options);
            let mut server = Server { port, dir, options: options.clone(), child };
            if server.comes() {
                return server;
            }
        }
        panic!("redis-server does not start")
    }

    /// Whether it answers before long.
    fn comes(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline && self.child.try_wait().unwrap().is_none() {
            // With a password or TLS it answers all the same, that this one may not.
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return true;
            }
            thread::sleep(Duration::from_millis(5));
        }
        false
    }

    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(super) fn connection(&self) -> Connection {
        let client = redis::Client::open(self.url()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match client.get_connection() {
                Ok(connection) => return connection,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// One command, words apart by spaces.
    pub(super) fn command<T: FromRedisValue>(&self, words: &str) -> T {
        self.arguments(&words.split(' ').collect::<Vec<_>>())
    }

    pub(super) fn arguments<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query(&mut self.connection()).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// As `kill -9`.
    pub(super) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends the process a signal.
    pub(super) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Starts it again where it was, with what is in its directory.
    pub(super) fn restart(&mut self) {
        self.child = spawn(self.dir.path(), self.port, &self.options);
        assert!(self.comes(), "redis-server does not start again");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A sentinel that watches a master, and knows its replica. `dir`: for its file, as long as it runs.
pub(super) fn sentinel(master: &Server, dir: &Path) -> Server {
    let file = dir.join("sentinel.conf");
    let watched = format!(
        "sentinel monitor main 127.0.0.1 {} 1\nsentinel down-after-milliseconds main 300\nsentinel failover-timeout main 2000\n",
        master.port
    );
    std::fs::write(&file, watched).unwrap();
    let sentinel = Server::start(&[file.to_str().unwrap(), "--sentinel"]);
    super::until("the sentinel knows the replica", || {
        sentinel.command::<Vec<redis::Value>>("SENTINEL replicas main").len() == 1
    });
    sentinel
}
