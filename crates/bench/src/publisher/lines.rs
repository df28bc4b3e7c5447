//! Publishers that send a line at a time, in requests that last as long as they do.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use mio::{Events, Interest, Poll, Token};

use super::Requests;
use super::requests::put_json;
use crate::error::BenchError;
use crate::payload::Stamp;

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
        let mut head = format!("POST {}/publish HTTP/1.1\r\nHost: {}\r\n", requests.base, requests.host);
        for (name, value) in requests.rights() {
            head += &format!("{name}: {value}\r\n");
        }
        head += "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";
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
