//! A worker's streams without its thread, so that what a sweep costs can be counted: by `bench/hot`, and by a test.

use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use mio::net::TcpStream;
use tidings_hub::{Hub, Opening, Shard, Timestamp};
use tidings_wire::ConnectionId;

use super::conn::{About, Conn, Seat};
use super::sweep::{Slice, sweep};
use super::timers::{Deadlines, Spans, Tick};
use crate::{ControlLevel, Limits, ServerConfig};

/// Streams of one worker, over pairs of sockets, without its thread.
#[derive(Debug)]
pub struct Sockets {
    shard: Shard,
    conns: Vec<Option<Conn>>,
    slice: Slice,
    now: Timestamp,
    readers: Vec<UnixStream>,
    scratch: Vec<u8>,
}

impl Sockets {
    /// One stream for each opening.
    ///
    /// # Errors
    /// When there are no more sockets.
    pub fn new(hub: &Hub, openings: impl Iterator<Item = Opening>, now: Timestamp) -> io::Result<Sockets> {
        let config = ServerConfig::default();
        let spans = Spans {
            heartbeat: config.heartbeat,
            progress: config.timeouts.progress,
            position: config.position_after,
        };
        let limits = Limits::new(&crate::LimitsConfig { per_address: usize::MAX, ..config.limits });
        let taken = Arc::<AtomicUsize>::default();
        let mut sockets = Sockets {
            shard: hub.shard(Box::new(|| {})),
            conns: Vec::new(),
            slice: Slice::default(),
            now,
            readers: Vec::new(),
            scratch: vec![0; 1 << 20],
        };
        for (number, opening) in (0..).zip(openings) {
            let (reader, writer) = UnixStream::pair()?;
            reader.set_nonblocking(true)?;
            writer.set_nonblocking(true)?;
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
            let permit = limits.admit(None, 0, address.ip()).map_err(io::Error::other)?;
            let about = About {
                id: ConnectionId(number.into()),
                address,
                control: ControlLevel::Default,
                permit,
                seat: Seat::take(0, &taken),
                holding: None,
            };
            let id = sockets.shard.subscribe(opening, now);
            let socket = TcpStream::from_std(std::net::TcpStream::from(OwnedFd::from(writer)));
            let deadlines = Deadlines::new(Tick(0), &spans, None, None, 0);
            sockets.conns.resize_with(id.0 as usize + 1, || None);
            sockets.conns[id.0 as usize] = Some(Conn::new(socket, number, deadlines, now, about));
            sockets.readers.push(reader);
        }
        Ok(sockets)
    }

    /// Takes in what was published and writes it to all who are behind.
    pub fn turn(&mut self) {
        while self.shard.consume(1024) {}
        while sweep(&mut self.shard, &mut self.conns, self.now, Tick(1), &mut self.slice) {}
    }

    /// Reads what the other ends have got; how many bytes.
    pub fn read(&mut self) -> usize {
        let mut bytes = 0;
        for reader in &mut self.readers {
            while let Ok(count) = reader.read(&mut self.scratch) {
                bytes += count;
            }
        }
        bytes
    }

    /// How many streams a turn has cut, or left with full sockets.
    pub fn stuck(&self) -> usize {
        self.slice.blocked.len() + self.slice.over.len()
    }
}
