//! A TCP proxy that ends a connection after an exact number of the server's bytes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::PATIENCE;

/// How a connection ends: in order, or by a reset that throws away what the client has not read yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Close,
    Reset,
}

pub struct Proxy {
    port: u16,
    gate: Arc<Gate>,
    task: JoinHandle<()>,
}

/// What may pass. A proxy serves one reader, which has one connection at a time.
struct Gate {
    orders: Mutex<Orders>,
    changed: Notify,
    /// How many of the server's bytes passed on the connection that came last, and how many were cut.
    progress: watch::Sender<Progress>,
}

#[derive(Default)]
struct Orders {
    /// So many more bytes may pass on this connection; `None`: all of them.
    this: Option<usize>,
    /// The same for the connections after it.
    next: VecDeque<usize>,
    ending: Option<Ending>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    passed: usize,
    cuts: usize,
}

impl Proxy {
    pub async fn before(server: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let gate = Arc::new(Gate {
            orders: Mutex::default(),
            changed: Notify::new(),
            progress: watch::Sender::default(),
        });
        let task = tokio::spawn({
            let gate = gate.clone();
            async move {
                loop {
                    let (client, _) = listener.accept().await.unwrap();
                    // A server that is away: the client sees its connection end.
                    if let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await {
                        gate.relay(client, server).await;
                    }
                }
            }
        });
        Proxy { port, gate, task }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many of the server's bytes passed on the connection that came last.
    pub fn passed(&self) -> usize {
        self.gate.progress.borrow().passed
    }

    /// Ends the connection that is there now after the first number of the server's bytes, and those that come after it
    /// by the numbers that follow, counted from the head. What comes after the last is not cut.
    pub fn cut_after(&self, bytes: impl IntoIterator<Item = usize>, ending: Ending) {
        let mut next: VecDeque<_> = bytes.into_iter().collect();
        let mut orders = self.gate.orders.lock().unwrap();
        *orders = Orders { this: next.pop_front(), next, ending: Some(ending) };
        self.gate.changed.notify_one();
    }

    /// Waits until so many connections were cut in all.
    pub async fn was_cut(&self, cuts: usize) {
        let mut progress = self.gate.progress.subscribe();
        let cut = progress.wait_for(|progress| progress.cuts >= cuts);
        timeout(PATIENCE, cut).await.expect("it is cut in time").unwrap();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Gate {
    async fn relay(&self, mut client: TcpStream, mut server: TcpStream) {
        client.set_nodelay(true).unwrap();
        server.set_nodelay(true).unwrap();
        self.progress.send_modify(|progress| progress.passed = 0);
        let (mut asked, mut answered) = ([0; 4096], [0; 4096]);
        loop {
            if self.orders.lock().unwrap().this == Some(0) {
                self.cut(client);
                return;
            }
            tokio::select! {
                count = client.read(&mut asked) => match count {
                    Ok(count) if count > 0 && server.write_all(&asked[..count]).await.is_ok() => {}
                    _ => return,
                },
                count = server.read(&mut answered) => match count {
                    Ok(count) if count > 0 => {
                        let part = self.take(count);
                        if client.write_all(&answered[..part]).await.is_err() {
                            return;
                        }
                        self.progress.send_modify(|progress| progress.passed += part);
                    }
                    _ => return,
                },
                () = self.changed.notified() => {}
            }
        }
    }

    /// How many of these bytes may pass.
    fn take(&self, count: usize) -> usize {
        let mut orders = self.orders.lock().unwrap();
        match &mut orders.this {
            None => count,
            Some(left) => {
                let part = count.min(*left);
                *left -= part;
                part
            }
        }
    }

    fn cut(&self, client: TcpStream) {
        let ending = {
            let mut orders = self.orders.lock().unwrap();
            orders.this = orders.next.pop_front();
            orders.ending
        };
        if ending == Some(Ending::Reset) {
            client.set_zero_linger().unwrap();
        }
        drop(client);
        self.progress.send_modify(|progress| progress.cuts += 1);
    }
}
