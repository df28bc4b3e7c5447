//! Subscribers that cost next to nothing, so that what is measured is the server.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::ensure;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

/// So many of the readers read every event; the others count.
const CHECKING: usize = 100;

/// All subscribers of one run.
#[derive(Debug)]
pub(crate) struct Readers {
    poll: Poll,
    events: Events,
    readers: Vec<Reader>,
    scratch: Vec<u8>,
}

#[derive(Debug)]
struct Reader {
    socket: TcpStream,
    /// The first bytes of a line of data that may be split over two reads.
    counted: u64,
    matched: usize,
    opened: bool,
    /// Of a reader that checks: what it has read, from the last whole line on.
    text: Option<String>,
    arrivals: Vec<(Duration, Instant)>,
}

/// What begins the last line of every block: so many of these, so many events.
const LAST_LINE: &[u8] = b"\nid: ";

impl Readers {
    pub(crate) fn new() -> anyhow::Result<Readers> {
        let scratch = vec![0; 256 << 10];
        Ok(Readers { poll: Poll::new()?, events: Events::with_capacity(4096), readers: Vec::new(), scratch })
    }

    /// Connects so many more and waits until each has its first bytes.
    pub(crate) fn connect(&mut self, address: SocketAddr, count: usize) -> anyhow::Result<()> {
        for _ in 0..count {
            let mut socket = std::net::TcpStream::connect(address)?;
            socket.write_all(
                b"GET /events?channel=fan&control=0 HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n",
            )?;
            socket.set_nonblocking(true)?;
            let mut socket = TcpStream::from_std(socket);
            let token = Token(self.readers.len());
            self.poll.registry().register(&mut socket, token, Interest::READABLE)?;
            let text = (self.readers.len() < CHECKING).then(String::new);
            let arrivals = Vec::new();
            self.readers.push(Reader { socket, counted: 0, matched: 0, opened: false, text, arrivals });
        }
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.readers.iter().all(|reader| reader.opened) {
            ensure!(Instant::now() < deadline, "not all subscribers were answered within 30 s");
            self.read_until(Instant::now() + Duration::from_millis(10))?;
        }
        Ok(())
    }

    /// Reads whatever comes until a time.
    pub(crate) fn read_until(&mut self, end: Instant) -> anyhow::Result<()> {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.poll.poll(&mut self.events, Some(left)) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
                _ => {}
            }
            for event in &self.events {
                self.readers[event.token().0].read(&mut self.scratch)?;
            }
            if left.is_zero() {
                return Ok(());
            }
        }
    }

    pub(crate) fn all_have(&self, events: u64) -> anyhow::Result<bool> {
        ensure!(self.readers.iter().all(|r| r.counted <= events), "a subscriber got more than was published");
        Ok(self.readers.iter().all(|reader| reader.counted == events))
    }

    pub(crate) fn missing(&self, events: u64) -> String {
        let lacking = self.readers.iter().filter(|reader| reader.counted < events).count();
        format!("{lacking} subscribers lack some of {events} events")
    }

    /// How long each event took to each reader that checks, sorted.
    pub(crate) fn latencies(&self, begin: Instant) -> Vec<Duration> {
        let all = self.readers.iter().flat_map(|reader| &reader.arrivals);
        let mut all: Vec<_> = all.map(|(due, at)| at.saturating_duration_since(begin + *due)).collect();
        all.sort_unstable();
        all
    }
}

impl Reader {
    fn read(&mut self, scratch: &mut [u8]) -> anyhow::Result<()> {
        loop {
            match self.socket.read(scratch) {
                Ok(0) => anyhow::bail!("the server has closed a stream"),
                Ok(count) => self.take(&scratch[..count])?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.opened = true;
        for byte in bytes {
            self.matched = match self.matched {
                matched if *byte == LAST_LINE[matched] => matched + 1,
                _ => usize::from(*byte == LAST_LINE[0]),
            };
            if self.matched == LAST_LINE.len() {
                self.counted += 1;
                self.matched = 0;
            }
        }
        let Some(text) = &mut self.text else { return Ok(()) };
        text.push_str(std::str::from_utf8(bytes)?);
        let now = Instant::now();
        while let Some(end) = text.find('\n') {
            if let Some(data) = text[..end].strip_prefix("data: ") {
                let mut parts = data.split(' ');
                let mut number = || parts.next().unwrap_or_default().parse::<u64>();
                let (count, due) = (number()?, number()?);
                let expected = self.arrivals.len() as u64;
                ensure!(count == expected, "event {count} came where {expected} was due");
                self.arrivals.push((Duration::from_micros(due), now));
            }
            text.drain(..=end);
        }
        Ok(())
    }
}
