//! Publishing: one connection that doesn't wait for answers, or many of which each does.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::{Events, Interest, Poll, Token};

use crate::clients::{channel, histogram};
use crate::error::BenchError;
use crate::payload::Stamp;
use crate::server::Server;
use crate::target::{Target, Values};
use crate::{answer, clock};

/// Requests of one target.
#[derive(Debug, Clone)]
pub(crate) struct Requests<'a> {
    target: &'a Target,
    address: SocketAddr,
    base: &'a str,
    ports: [u16; 3],
    host: String,
}

impl<'a> Requests<'a> {
    pub(crate) fn new(target: &'a Target, server: &'a Server) -> Requests<'a> {
        let port = target.publish.port.as_ref();
        let port = port
            .and_then(|port| port.fill(&Values { ports: server.ports, ..Values::default() }).parse().ok());
        let address = SocketAddr::new(server.address.ip(), port.unwrap_or(server.address.port()));
        Requests {
            target,
            address,
            base: &server.base,
            ports: server.ports,
            host: format!("localhost:{}", address.port()),
        }
    }

    /// Appends the request that publishes one event.
    fn put(&self, stamp: Stamp, size: usize, out: &mut Vec<u8>) {
        let mut data = Vec::with_capacity(size + 64);
        stamp.write(size, &mut data);
        let data = String::from_utf8_lossy(&data);
        let name = channel(stamp.channel);
        let values = Values { channel: &name, data: &data, ports: self.ports, ..Values::default() };
        let publish = &self.target.publish;
        let path = publish.path.fill_path(&values);
        let headers = publish.headers.iter().map(|(name, value)| (name.as_str(), value.fill(&values)));
        self.put_request(&publish.method, &path, headers, publish.body.fill(&values).as_bytes(), out);
    }

    /// Appends a request that publishes several events at once, as Tidings takes them.
    fn put_batch(&self, batch: usize, first: Stamp, size: usize, out: &mut Vec<u8>) {
        let mut body = vec![b'['];
        for number in 0..batch {
            let stamp = Stamp { sequence: first.sequence + number as u64, ..first };
            if number > 0 {
                body.push(b',');
            }
            put_json(stamp, size, &mut body);
        }
        body.push(b']');
        let headers = [("Content-Type", "application/json".to_owned())];
        self.put_request("POST", "/publish", headers.into_iter(), &body, out);
    }

    fn put_request<'h>(
        &self,
        method: &str,
        path: &str,
        headers: impl Iterator<Item = (&'h str, String)>,
        body: &[u8],
        out: &mut Vec<u8>,
    ) {
        // Writing to memory doesn't fail.
        let _ = write!(out, "{method} {}{path} HTTP/1.1\r\nHost: {}\r\n", self.base, self.host);
        for (name, value) in headers {
            let _ = write!(out, "{name}: {value}\r\n");
        }
        let _ = write!(out, "Content-Length: {}\r\n\r\n", body.len());
        out.extend_from_slice(body);
    }

    /// What a path of the server says, if it answers with 200.
    pub(crate) fn get(&self, path: &str) -> Option<Vec<u8>> {
        let mut socket = self.connect().ok()?;
        socket.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        write!(
            socket,
            "GET {}{path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.base, self.host
        )
        .ok()?;
        let mut bytes = Vec::new();
        socket.read_to_end(&mut bytes).ok()?;
        let answer = answer::parse(&bytes).ok()??;
        (answer.status == 200).then(|| answer.body.into_owned())
    }

    fn connect(&self) -> Result<TcpStream, BenchError> {
        let connect = || {
            let socket = TcpStream::connect(self.address)?;
            socket.set_nodelay(true)?;
            Ok(socket)
        };
        connect().map_err(BenchError::system("a publisher can't connect"))
    }
}

/// Appends an event as Tidings reads it in JSON.
fn put_json(stamp: Stamp, size: usize, out: &mut Vec<u8>) {
    let _ = write!(out, "{{\"channel\":\"{}\",\"data\":\"", channel(stamp.channel));
    stamp.write(size, out);
    out.extend_from_slice(b"\"}");
}

/// Publishes over one connection without waiting: answers are read and counted meanwhile.
#[derive(Debug)]
pub(crate) struct Publisher<'a> {
    requests: Requests<'a>,
    socket: TcpStream,
    request: Vec<u8>,
    sent: u64,
    answers: Arc<Answers>,
}

#[derive(Debug, Default)]
struct Answers {
    count: AtomicU64,
    /// The body of the newest one, if asked for.
    body: Mutex<String>,
    failed: Mutex<Option<String>>,
}

impl<'a> Publisher<'a> {
    pub(crate) fn new(requests: Requests<'a>) -> Result<Publisher<'a>, BenchError> {
        let socket = requests.connect()?;
        let reading = socket.try_clone().map_err(BenchError::system("a socket can't be shared"))?;
        let answers = Arc::new(Answers::default());
        thread::spawn({
            let answers = answers.clone();
            move || answers.read(reading)
        });
        Ok(Publisher { requests, socket, request: Vec::new(), sent: 0, answers })
    }

    /// Publishes one event. Waits for nothing but space in the socket.
    pub(crate) fn publish(&mut self, stamp: Stamp, size: usize) -> Result<(), BenchError> {
        self.request.clear();
        self.requests.put(stamp, size, &mut self.request);
        self.sent += 1;
        if let Err(error) = self.socket.write_all(&self.request) {
            self.check()?;
            return Err(BenchError::Publish(error.to_string()));
        }
        Ok(())
    }

    /// Waits until everything is answered, and returns the last answer's body.
    pub(crate) fn finish(&mut self) -> Result<String, BenchError> {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.answers.count.load(Ordering::Acquire) < self.sent {
            self.check()?;
            if Instant::now() > deadline {
                return Err(BenchError::Publish("the server does not answer".to_owned()));
            }
            thread::sleep(Duration::from_millis(1));
        }
        self.check()?;
        Ok(self.answers.body.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn check(&self) -> Result<(), BenchError> {
        match &*self.answers.failed.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(what) => Err(BenchError::Publish(what.clone())),
            None => Ok(()),
        }
    }
}

impl Drop for Publisher<'_> {
    fn drop(&mut self) {
        // Ends the thread that reads.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }
}

impl Answers {
    fn read(&self, mut socket: TcpStream) {
        let mut bytes = Vec::new();
        let mut piece = [0; 16 << 10];
        loop {
            match socket.read(&mut piece) {
                Ok(0) | Err(_) => return self.fail("the server closed the connection".to_owned()),
                Ok(count) => bytes.extend_from_slice(&piece[..count]),
            }
            loop {
                let (length, good, summary, body) = match answer::parse(&bytes) {
                    Ok(None) => break,
                    Ok(Some(answer)) => {
                        let good = (200..300).contains(&answer.status);
                        let summary = if good { String::new() } else { answer.summary() };
                        (answer.length, good, summary, String::from_utf8_lossy(&answer.body).into_owned())
                    }
                    Err(error) => return self.fail(error.to_string()),
                };
                if !good {
                    return self.fail(summary);
                }
                bytes.drain(..length);
                *self.body.lock().unwrap_or_else(PoisonError::into_inner) = body;
                self.count.fetch_add(1, Ordering::Release);
            }
        }
    }

    fn fail(&self, what: String) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(what);
    }
}

/// What publishers that wait for their answers reached.
#[derive(Debug)]
pub(crate) struct Reached {
    pub(crate) events: u64,
    pub(crate) seconds: f64,
    /// From a request to its answer.
    pub(crate) latencies: Histogram<u64>,
}

/// Publishes over so many connections, each of which waits for the answer before it goes on, to one channel. A `batch`
/// of more than one event is one request.
pub(crate) fn closed_loop(
    requests: &Requests<'_>,
    connections: usize,
    batch: usize,
    size: usize,
    seconds: f64,
) -> Result<Reached, BenchError> {
    struct Connection {
        socket: mio::net::TcpStream,
        answer: Vec<u8>,
        began: u64,
    }
    let system = || BenchError::system("publishers' sockets can't be watched");
    let mut poll = Poll::new().map_err(system())?;
    let mut reached = Reached { events: 0, seconds: 0.0, latencies: histogram() };
    let mut sequence = 0;
    let mut request = Vec::new();
    let mut piece = vec![0; 64 << 10];
    let mut send = |connection: &mut Connection| -> Result<(), BenchError> {
        request.clear();
        connection.began = clock::now();
        let stamp = Stamp { channel: 0, sequence, due: connection.began };
        sequence += batch as u64;
        if batch > 1 {
            requests.put_batch(batch, stamp, size, &mut request);
        } else {
            requests.put(stamp, size, &mut request);
        }
        let mut rest = &request[..];
        while !rest.is_empty() {
            match connection.socket.write(rest) {
                Ok(count) => rest = &rest[count..],
                // A batch may be larger than what a socket takes at once.
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::yield_now(),
                Err(error) => return Err(BenchError::Publish(error.to_string())),
            }
        }
        Ok(())
    };
    let mut all = Vec::with_capacity(connections);
    for number in 0..connections {
        let socket = requests.connect()?;
        socket.set_nonblocking(true).map_err(system())?;
        let mut socket = mio::net::TcpStream::from_std(socket);
        poll.registry().register(&mut socket, Token(number), Interest::READABLE).map_err(system())?;
        all.push(Connection { socket, answer: Vec::new(), began: 0 });
    }
    let begin = Instant::now();
    let end = begin + Duration::from_secs_f64(seconds);
    all.iter_mut().try_for_each(&mut send)?;
    let mut events = Events::with_capacity(connections.max(64));
    let mut waiting = connections;
    let patience = end + Duration::from_secs(20);
    while waiting > 0 {
        if Instant::now() > patience {
            return Err(BenchError::Publish("the server does not answer".to_owned()));
        }
        match poll.poll(&mut events, Some(Duration::from_secs(1))) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(system()(error)),
            _ => {}
        }
        let goes_on = Instant::now() < end;
        for event in &events {
            let connection = &mut all[event.token().0];
            loop {
                match connection.socket.read(&mut piece) {
                    Ok(0) => {
                        return Err(BenchError::Publish("the server closed a connection".to_owned()));
                    }
                    Ok(count) => {
                        connection.answer.extend_from_slice(&piece[..count]);
                        if count < piece.len() {
                            break;
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(BenchError::Publish(error.to_string())),
                }
            }
            let parsed = answer::parse(&connection.answer).map_err(|e| BenchError::Publish(e.to_string()))?;
            let Some(answer) = parsed else { continue };
            if !(200..300).contains(&answer.status) {
                return Err(BenchError::Publish(answer.summary()));
            }
            connection.answer.clear();
            let _ = reached.latencies.record(clock::now().saturating_sub(connection.began));
            reached.events += batch as u64;
            if goes_on {
                send(connection)?;
            } else {
                waiting -= 1;
            }
        }
    }
    reached.seconds = begin.elapsed().as_secs_f64();
    Ok(reached)
}

/// Requests that publish a line at a time, as long as they last (NDJSON): one connection for each channel.
#[derive(Debug)]
pub(crate) struct Lines {
    sockets: Vec<TcpStream>,
    chunk: Vec<u8>,
    /// Bytes of answers are read and thrown away by a thread of their own.
    stop: Arc<AtomicBool>,
}

impl Lines {
    pub(crate) fn new(requests: &Requests<'_>, channels: u32) -> Result<Lines, BenchError> {
        let system = || BenchError::system("a publisher's socket can't be used");
        let head = format!(
            "POST {}/publish HTTP/1.1\r\nHost: {}\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n",
            requests.base, requests.host
        );
        let mut poll = Poll::new().map_err(system())?;
        let mut sockets = Vec::new();
        let mut reading = Vec::new();
        for number in 0..channels as usize {
            let mut socket = requests.connect()?;
            socket.write_all(head.as_bytes()).map_err(system())?;
            let copy = socket.try_clone().map_err(system())?;
            // Both are one socket: neither blocks.
            copy.set_nonblocking(true).map_err(system())?;
            let mut copy = mio::net::TcpStream::from_std(copy);
            poll.registry().register(&mut copy, Token(number), Interest::READABLE).map_err(system())?;
            reading.push(copy);
            sockets.push(socket);
        }
        let stop = Arc::new(AtomicBool::new(false));
        thread::spawn({
            let stop = stop.clone();
            move || {
                let mut events = Events::with_capacity(1024);
                let mut piece = vec![0; 64 << 10];
                while !stop.load(Ordering::Relaxed) {
                    let _ = poll.poll(&mut events, Some(Duration::from_millis(100)));
                    for event in &events {
                        while matches!(reading[event.token().0].read(&mut piece), Ok(count) if count == piece.len())
                        {
                        }
                    }
                }
            }
        });
        Ok(Lines { sockets, chunk: Vec::new(), stop })
    }

    pub(crate) fn publish(&mut self, stamp: Stamp, size: usize) -> Result<(), BenchError> {
        let mut line = Vec::with_capacity(size + 64);
        put_json(stamp, size, &mut line);
        line.push(b'\n');
        self.chunk.clear();
        let _ = write!(self.chunk, "{:x}\r\n", line.len());
        self.chunk.extend_from_slice(&line);
        self.chunk.extend_from_slice(b"\r\n");
        let socket = &mut self.sockets[stamp.channel as usize];
        let mut rest = &self.chunk[..];
        while !rest.is_empty() {
            match socket.write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::yield_now(),
                Err(error) => return Err(BenchError::Publish(error.to_string())),
            }
        }
        Ok(())
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
