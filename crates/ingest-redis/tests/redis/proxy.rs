//! A proxy before a Redis, whose connections can be held for a while or cut.

// Each test file uses its part of this.
#![allow(dead_code, unreachable_pub)]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

pub struct Proxy {
    pub port: u16,
    shared: Arc<Wires>,
}

#[derive(Default)]
struct Wires {
    /// The server's port that new connections lead to.
    to: AtomicU16,
    open: Mutex<Vec<TcpStream>>,
    trap: Mutex<Option<Trap>>,
    cuts: AtomicUsize,
    closed: AtomicBool,
    held: Mutex<bool>,
    released: Condvar,
}

/// What is done when a client sends a word.
struct Trap {
    word: Vec<u8>,
    then: Then,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// It is handed on, and the connection is cut before the answer.
    Cut,
    /// It is handed on, and the answer is held, and all else.
    Hold,
    /// It is held itself, and all else.
    HoldIt,
}

impl Proxy {
    /// Before the server that listens at a port of this machine.
    pub fn before(to: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Wires::default());
        let wires = shared.clone();
        wires.to.store(to, Ordering::SeqCst);
        // Ends with the test's process.
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let to = wires.to.load(Ordering::SeqCst);
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                if wires.closed.load(Ordering::SeqCst) {
                    continue;
                }
                wires.join(client, server);
            }
        });
        Proxy { port, shared }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// New connections lead to another port. Those that are there stay as they are.
    pub fn lead_to(&self, port: u16) {
        self.shared.to.store(port, Ordering::SeqCst);
    }

    /// The next time that a client sends this, it is handed on, done, and the connection is cut before the answer comes.
    pub fn cut_after(&self, word: &[u8]) {
        self.set(word, Then::Cut);
    }

    /// The next time that a client sends this, it is handed on, and from then on everything is held.
    pub fn hold_after(&self, word: &[u8]) {
        self.set(word, Then::Hold);
    }

    /// The next time that a client sends this, everything is held, and it first.
    pub fn hold_at(&self, word: &[u8]) {
        self.set(word, Then::HoldIt);
    }

    fn set(&self, word: &[u8], then: Then) {
        *self.shared.trap.lock().unwrap() = Some(Trap { word: word.to_vec(), then });
    }

    /// Hands nothing on, in either direction, until it is released: nobody learns of it but by waiting.
    pub fn hold(&self) {
        *self.shared.held.lock().unwrap() = true;
    }

    /// Hands on what was held, and what comes.
    pub fn release(&self) {
        *self.shared.held.lock().unwrap() = false;
        self.shared.released.notify_all();
    }

    pub fn is_held(&self) -> bool {
        *self.shared.held.lock().unwrap()
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        for wire in std::mem::take(&mut *self.shared.open.lock().unwrap()) {
            // The other end may have done it.
            let _ = wire.shutdown(Shutdown::Both);
        }
    }

    /// Cuts all connections and lets no new one through.
    pub fn close(&self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        self.cut();
    }

    pub fn open(&self) {
        self.shared.closed.store(false, Ordering::SeqCst);
    }

    pub fn cuts(&self) -> usize {
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
                wires.pass();
                let then = wires.sprung(&buffer[..count]);
                match then {
                    Some(Then::Cut) => *mute.lock().unwrap() = true,
                    Some(Then::Hold) => *wires.held.lock().unwrap() = true,
                    Some(Then::HoldIt) => {
                        *wires.held.lock().unwrap() = true;
                        wires.pass();
                    }
                    None => {}
                }
                if to.write_all(&buffer[..count]).is_err() {
                    break;
                }
                if then == Some(Then::Cut) {
                    // It has to be done, not only sent.
                    thread::sleep(Duration::from_millis(100));
                    wires.cuts.fetch_add(1, Ordering::SeqCst);
                    break;
                }
            }
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
        });
        let (mut from, mut to, wires) = (server, client, self.clone());
        thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                wires.pass();
                let muted = muted.lock().unwrap();
                if *muted || to.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Both);
        });
    }

    /// Waits as long as everything is held.
    fn pass(&self) {
        drop(self.released.wait_while(self.held.lock().unwrap(), |held| *held).unwrap());
    }

    /// What is to be done after this, if the word that is waited for is in it.
    fn sprung(&self, sent: &[u8]) -> Option<Then> {
        let mut trap = self.trap.lock().unwrap();
        let is_in = |trap: &mut Trap| sent.windows(trap.word.len()).any(|part| part == trap.word);
        trap.take_if(is_in).map(|trap| trap.then)
    }
}
