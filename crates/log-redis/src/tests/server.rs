//! A Redis server of a test, and a proxy before it that can be cut.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
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

/// A proxy before a server, all of whose connections can be cut.
pub(super) struct Proxy {
    pub(super) port: u16,
    shared: Arc<Wires>,
}

#[derive(Default)]
struct Wires {
    open: Mutex<Vec<TcpStream>>,
    /// Which word in what a client sends, once it was handed on, makes the proxy cut that connection before the answer.
    cut_after: Mutex<Option<Vec<u8>>>,
    /// Which word in what a client sends makes the proxy hold it back.
    hold_at: Mutex<Option<Vec<u8>>>,
    holding: AtomicBool,
    cuts: AtomicUsize,
    closed: AtomicBool,
}

impl Proxy {
    pub(super) fn before(server: &Server) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Wires::default());
        let (wires, to) = (shared.clone(), server.port);
        // Ends with the test's process.
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                if wires.closed.load(Ordering::SeqCst) {
                    continue;
                }
                wires.join(client, server);
            }
        });
        Proxy { port, shared }
    }

    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The next time that a client sends this, it is handed on, done, and the connection is cut before the answer comes.
    pub(super) fn cut_after(&self, word: &[u8]) {
        *self.shared.cut_after.lock().unwrap() = Some(word.to_vec());
    }

    /// The next time that a client sends this, it is held back until it is released.
    pub(super) fn hold_at(&self, word: &[u8]) {
        *self.shared.hold_at.lock().unwrap() = Some(word.to_vec());
    }

    pub(super) fn is_holding(&self) -> bool {
        self.shared.holding.load(Ordering::SeqCst)
    }

    pub(super) fn release(&self) {
        self.shared.holding.store(false, Ordering::SeqCst);
    }

    /// Cuts all connections.
    pub(super) fn cut(&self) {
        for wire in std::mem::take(&mut *self.shared.open.lock().unwrap()) {
            // The other end may have done it.
            let _ = wire.shutdown(Shutdown::Both);
        }
    }

    /// Cuts all connections and lets no new one through.
    pub(super) fn close(&self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        self.cut();
    }

    pub(super) fn open(&self) {
        self.shared.closed.store(false, Ordering::SeqCst);
    }

    pub(super) fn cuts(&self) -> usize {
        self.shared.cuts.load(Ordering::SeqCst)
    }
}

impl Wires {
    fn join(self: &Arc<Wires>, client: TcpStream, server: TcpStream) {
        self.open.lock().unwrap().extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
        let muted = Arc::new(Mutex::new(false));
        let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        let (wires, mute) = (self.clone(), muted.clone());
        thread::spawn(move || {
            let mut buffer = vec![0; 1 << 20];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                if take_if_in(&wires.hold_at, &buffer[..count]) {
                    wires.holding.store(true, Ordering::SeqCst);
                    while wires.holding.load(Ordering::SeqCst) {
                        thread::sleep(Duration::from_millis(1));
                    }
                }
                let cut = take_if_in(&wires.cut_after, &buffer[..count]);
                if cut {
                    *mute.lock().unwrap() = true;
                }
                if to.write_all(&buffer[..count]).is_err() {
                    break;
                }
                if cut {
                    // It has to be done, not only sent.
                    thread::sleep(Duration::from_millis(100));
                    wires.cuts.fetch_add(1, Ordering::SeqCst);
                    break;
                }
            }
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
        });
        let (mut from, mut to) = (server, client);
        thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                let muted = muted.lock().unwrap();
                if *muted || to.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Both);
        });
    }
}

/// Whether a word that is waited for is in what was sent; then it is waited for no more.
fn take_if_in(wanted: &Mutex<Option<Vec<u8>>>, sent: &[u8]) -> bool {
    let mut wanted = wanted.lock().unwrap();
    let found = wanted.as_ref().is_some_and(|word| sent.windows(word.len()).any(|part| part == &word[..]));
    if found {
        *wanted = None;
    }
    found
}
