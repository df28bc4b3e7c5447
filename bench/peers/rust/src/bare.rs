//! The limit: one thread, and one `send` for each event and subscriber, with nothing around it.
//!
//!     peer-bare PORT
//!
//! It speaks just enough HTTP to be driven as the others are: `GET /events/CHANNEL,CHANNEL…` subscribes, `POST /publish/CHANNEL`
//! publishes its body, any other `GET` answers that it is there. It has no queue: who can't take an event at once is cut off.

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _, Write as _};

use anyhow::{Context as _, bail};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

const LISTENER: Token = Token(usize::MAX);

const STREAM: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

fn main() -> anyhow::Result<()> {
    let port: u16 = std::env::args().nth(1).context("usage: peer-bare PORT")?.parse()?;
    Server::bind(port)?.run()
}

struct Server {
    poll: Poll,
    listener: TcpListener,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    /// Who gets what is published there: places in `connections`.
    channels: HashMap<Vec<u8>, Vec<usize>>,
    scratch: Vec<u8>,
}

struct Connection {
    socket: TcpStream,
    /// What came of a request that is not complete.
    received: Vec<u8>,
    subscribed: Vec<Vec<u8>>,
}

impl Server {
    fn bind(port: u16) -> anyhow::Result<Self> {
        let mut listener = TcpListener::bind(([127, 0, 0, 1], port).into())?;
        let poll = Poll::new()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok(Self {
            poll,
            listener,
            connections: Vec::new(),
            free: Vec::new(),
            channels: HashMap::new(),
            scratch: vec![0; 64 * 1024],
        })
    }

    fn run(mut self) -> anyhow::Result<()> {
        let mut events = Events::with_capacity(1024);
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept()?,
                    Token(place) => {
                        if self.read(place).is_err() {
                            self.close(place);
                        }
                    }
                }
            }
        }
    }

    fn accept(&mut self) -> anyhow::Result<()> {
        loop {
            let mut socket = match self.listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error.into()),
            };
            socket.set_nodelay(true)?;
            let place = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            self.poll.registry().register(&mut socket, Token(place), Interest::READABLE)?;
            self.connections[place] =
                Some(Connection { socket, received: Vec::new(), subscribed: Vec::new() });
        }
    }

    /// An error means that the connection is to be closed.
    fn read(&mut self, place: usize) -> anyhow::Result<()> {
        loop {
            let Some(connection) = &mut self.connections[place] else { return Ok(()) };
            let count = match connection.socket.read(&mut self.scratch) {
                Ok(0) => bail!("the other side is gone"),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            connection.received.extend_from_slice(&self.scratch[..count]);
            let received = std::mem::take(&mut connection.received);
            let mut rest = &received[..];
            while let Some(request) = Request::parse(&mut rest)? {
                self.answer(place, &request)?;
            }
            if let Some(connection) = &mut self.connections[place] {
                connection.received.extend_from_slice(rest);
            }
        }
    }

    fn answer(&mut self, place: usize, request: &Request<'_>) -> anyhow::Result<()> {
        let Some(connection) = &mut self.connections[place] else { return Ok(()) };
        if let Some(channels) = request.path.strip_prefix("/events/") {
            connection.socket.write_all(STREAM)?;
            connection.subscribed = channels.split(',').map(|channel| channel.as_bytes().to_vec()).collect();
            for channel in connection.subscribed.clone() {
                self.channels.entry(channel).or_default().push(place);
            }
        } else {
            // Before the event is sent, so that the publisher's next request comes meanwhile.
            connection.socket.write_all(OK)?;
            if let Some(channel) = request.path.strip_prefix("/publish/") {
                self.publish(channel.as_bytes(), request.body);
            }
        }
        Ok(())
    }

    fn publish(&mut self, channel: &[u8], data: &[u8]) {
        let mut chunk = format!("{:x}\r\ndata: ", data.len() + 8).into_bytes();
        chunk.extend_from_slice(data);
        chunk.extend_from_slice(b"\n\n\r\n");
        let mut failed = Vec::new();
        for &place in self.channels.get(channel).into_iter().flatten() {
            if let Some(connection) = &mut self.connections[place]
                && connection.socket.write(&chunk).ok() != Some(chunk.len())
            {
                failed.push(place);
            }
        }
        for place in failed {
            self.close(place);
        }
    }

    fn close(&mut self, place: usize) {
        let Some(connection) = self.connections[place].take() else { return };
        self.free.push(place);
        for channel in connection.subscribed {
            if let Some(subscribers) = self.channels.get_mut(&channel)
                && let Some(index) = subscribers.iter().position(|&other| other == place)
            {
                subscribers.swap_remove(index);
            }
        }
    }
}

struct Request<'a> {
    path: &'a str,
    body: &'a [u8],
}

impl<'a> Request<'a> {
    /// Takes a request off the front, if all of it has come.
    fn parse(rest: &mut &'a [u8]) -> anyhow::Result<Option<Self>> {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut head = httparse::Request::new(&mut headers);
        let httparse::Status::Complete(begin) = head.parse(rest)? else { return Ok(None) };
        let length =
            match head.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length")) {
                Some(header) => std::str::from_utf8(header.value)?.parse()?,
                None => 0,
            };
        let Some(body) = rest[begin..].get(..length) else { return Ok(None) };
        let path = head.path.context("a complete head has a path")?;
        *rest = &rest[begin + length..];
        Ok(Some(Self { path, body }))
    }
}
