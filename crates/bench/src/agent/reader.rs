//! One subscriber, as cheap as it can be, so that what is measured is the server.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr};

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Socket, Type};

use super::body::Body;
use super::group::{Group, Place};
use super::request;
use crate::scan::{Checker, Counter};
use crate::target::{self, Transport};
use crate::{answer, clock};

#[derive(Debug)]
pub(super) struct Reader {
    socket: TcpStream,
    pub(super) group: usize,
    pub(super) wire: u32,
    state: State,
    body: Body,
    events: Events,
    /// What only some have, so that the others stay small.
    polling: Option<Box<Polling>>,
}

/// The events that one subscriber has.
#[derive(Debug)]
struct Events {
    counter: Counter,
    counted: u64,
    /// Of one that reads each of them; only some do, so that the others stay small.
    checker: Option<Box<Checker>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The head of the answer has not come yet; connected at this time.
    Opening(u64),
    Open,
    /// Reads no more, on purpose.
    Stalled,
    Closed,
}

/// Of long polling: the answer so far, and what the next request has to repeat.
#[derive(Debug)]
struct Polling {
    answer: Vec<u8>,
    cursors: Vec<Option<String>>,
}

impl Events {
    /// When what was just read came, for who asks for it: all that is read at once came at the same time.
    fn now(&self) -> u64 {
        if self.checker.is_some() { clock::now() } else { 0 }
    }

    #[inline]
    fn read(&mut self, group: &mut Group, bytes: &[u8], now: u64) {
        let count = self.counter.count(&group.mark, bytes);
        self.counted += count;
        group.counted += count;
        if let Some(checker) = &mut self.checker {
            let mut violations = std::mem::take(&mut group.violations);
            checker.read(bytes, &mut violations, |stamp| group.came(stamp.due, now));
            group.violations = violations;
        }
    }
}

impl Reader {
    /// Connects and asks. The error says what to do.
    pub(super) fn connect(
        index: usize,
        place: Place,
        group: &mut Group,
        registry: &Registry,
        token: usize,
    ) -> Result<Reader, String> {
        let plan = group.plan();
        let wire = &plan.wires[place.wire as usize];
        let began = clock::now();
        let cursors = vec![None; wire.cursor.len()];
        let head = request::head(wire, plan.transport, &cursors);
        let mut socket = open(plan.address, plan.source.map(IpAddr::V4), &head)?;
        registry
            .register(&mut socket, Token(token), Interest::READABLE)
            .map_err(|error| format!("a subscriber's socket can't be watched: {error}"))?;
        let polls = plan.transport == Transport::LongPolling;
        let mut reader = Reader {
            socket,
            group: index,
            wire: place.wire,
            state: State::Opening(began),
            body: Body::default(),
            events: Events {
                counter: Counter::default(),
                counted: 0,
                checker: place.checks.then(|| Box::new(Checker::new())),
            },
            polling: polls.then(|| Box::new(Polling { answer: Vec::new(), cursors })),
        };
        if polls {
            // The first bytes are the first event's.
            reader.open(group);
        }
        Ok(reader)
    }

    fn open(&mut self, group: &mut Group) {
        if let State::Opening(began) = self.state {
            self.state = State::Open;
            group.opened(began);
        }
    }

    /// Reads what there is. `closed`: the peer has said that no more will come.
    pub(super) fn read(
        &mut self,
        group: &mut Group,
        scratch: &mut [u8],
        closed: bool,
        registry: &Registry,
        token: usize,
    ) {
        loop {
            if matches!(self.state, State::Stalled | State::Closed) {
                return;
            }
            match self.socket.read(scratch) {
                Ok(0) => return self.ended(group, registry, token),
                Ok(length) => {
                    self.take(group, &scratch[..length], registry, token);
                    // A short read has emptied the socket (epoll(7)); asking again would double what reading costs.
                    if length < scratch.len() && !closed {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return self.ended(group, registry, token),
            }
        }
    }

    fn take(&mut self, group: &mut Group, bytes: &[u8], registry: &Registry, token: usize) {
        group.bytes += bytes.len() as u64;
        if self.polling.is_some() {
            return self.take_answers(group, bytes, registry, token);
        }
        let mut rest = bytes;
        if let State::Opening(_) = self.state {
            let wanted = if group.plan().transport == Transport::Websocket { 101 } else { 200 };
            match self.body.head(bytes) {
                Ok(None) => return,
                Ok(Some(head)) if head.status == wanted => rest = &bytes[head.length..],
                Ok(Some(_)) => {
                    return self.fail(group, format!("subscribing is answered {}", first_words(bytes)));
                }
                Err(error) => {
                    return self.fail(group, format!("subscribing fails: {error}: {}", first_words(bytes)));
                }
            }
            self.open(group);
            if let Some(hello) = &group.wire(self).hello
                && self.socket.write_all(&request::text_frame(hello)).is_err()
            {
                return self.ended(group, registry, token);
            }
        }
        let Reader { body, events, .. } = self;
        let now = events.now();
        let framed = body.read(rest, |piece| events.read(group, piece, now));
        match framed {
            Err(error) => self.fail(group, format!("a subscriber's stream can't be read: {error}")),
            Ok(()) if self.body.is_over() => self.ended(group, registry, token),
            Ok(()) => {}
        }
    }

    fn fail(&mut self, group: &mut Group, what: String) {
        group.failed = Some(what);
        self.state = State::Closed;
    }

    /// Long polling: each answer is followed by the next request.
    fn take_answers(&mut self, group: &mut Group, bytes: &[u8], registry: &Registry, token: usize) {
        let Some(mut polling) = self.polling.take() else { return };
        polling.answer.extend_from_slice(bytes);
        let mut failed = false;
        loop {
            let answer = match answer::parse(&polling.answer) {
                Ok(Some(answer)) => answer,
                Ok(None) => break,
                Err(error) => {
                    group.failed = Some(format!("a long poll fails: {error}"));
                    failed = true;
                    break;
                }
            };
            // 304, 408 and 504 are how servers say that nothing came in time.
            if answer.status >= 400 && ![408, 504].contains(&answer.status) {
                group.failed = Some(format!("a long poll is answered {}", answer.summary()));
                failed = true;
                break;
            }
            let values: Vec<_> =
                group.wire(self).cursor.iter().map(|cursor| value_of(cursor, &answer)).collect();
            for (old, new) in polling.cursors.iter_mut().zip(values) {
                *old = new.or(old.take());
            }
            let (body, length) = (answer.body.into_owned(), answer.length);
            polling.answer.drain(..length);
            let now = self.events.now();
            self.events.read(group, &body, now);
            let head = request::head(group.wire(self), Transport::LongPolling, &polling.cursors);
            // A request is small and nothing else is on its way, so that it is taken whole.
            if self.socket.write_all(&head).is_err() {
                self.polling = Some(polling);
                return self.ended(group, registry, token);
            }
        }
        if failed {
            self.state = State::Closed;
        }
        self.polling = Some(polling);
    }

    /// The server has closed the connection: the end of a stream, but not of long polling.
    fn ended(&mut self, group: &mut Group, registry: &Registry, token: usize) {
        if let State::Opening(_) = self.state {
            group.failed = Some("the server closed a connection without an answer".to_owned());
        }
        // It was registered, so that this can't fail; and it is dropped in any case.
        let _ = registry.deregister(&mut self.socket);
        if let Some(polling) = &mut self.polling {
            polling.answer.clear();
            let plan = group.plan();
            let head = request::head(group.wire(self), plan.transport, &self.cursors());
            if let Ok(mut socket) = open(plan.address, plan.source.map(IpAddr::V4), &head)
                && registry.register(&mut socket, Token(token), Interest::READABLE).is_ok()
            {
                self.socket = socket;
                return;
            }
        }
        self.state = State::Closed;
        group.closed += 1;
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }

    fn cursors(&self) -> Vec<Option<String>> {
        self.polling.as_ref().map(|polling| polling.cursors.clone()).unwrap_or_default()
    }

    pub(super) fn begin(&mut self) {
        self.events.counted = 0;
        if let Some(checker) = &mut self.events.checker {
            **checker = Checker::new();
        }
    }

    /// How many events it has since the last `begin`.
    pub(super) fn counted(&self) -> u64 {
        self.events.counted
    }

    pub(super) fn stall(&mut self) {
        if self.state == State::Open {
            self.state = State::Stalled;
        }
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.state == State::Stalled
    }
}

fn value_of(cursor: &target::Cursor, answer: &answer::Answer<'_>) -> Option<String> {
    match &cursor.from {
        target::Place::Header(name) => answer.header(name),
        target::Place::Json(field) => {
            let body: serde_json::Value = serde_json::from_slice(&answer.body).ok()?;
            match body.get(field)? {
                serde_json::Value::String(text) => Some(text.clone()),
                serde_json::Value::Null => None,
                other => Some(other.to_string()),
            }
        }
        target::Place::Query(_) => None,
    }
}

fn open(address: SocketAddr, source: Option<IpAddr>, head: &[u8]) -> Result<TcpStream, String> {
    let connect = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        if let Some(source) = source {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        socket.connect(&address.into())?;
        socket.set_tcp_nodelay(true)?;
        let mut socket = std::net::TcpStream::from(socket);
        socket.write_all(head)?;
        socket.set_nonblocking(true)?;
        Ok(TcpStream::from_std(socket))
    };
    connect().map_err(|error: std::io::Error| match error.raw_os_error() {
        Some(24) => {
            "no more descriptors: `ulimit -Hn` says how many a process may have; take fewer --subscribers"
                .to_owned()
        }
        Some(99) => format!("no more ports to connect to {address} from: take fewer --subscribers"),
        _ => format!("a subscriber can't connect to {address}: {error}"),
    })
}

/// The beginning of an answer, for an error.
fn first_words(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(2000)]);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.lines().next().unwrap_or_default();
    let body: String = body.trim().chars().take(300).collect();
    format!("{status:?} {body}").trim_end().to_owned()
}
