//! One connection of a client: what was written to it, and what the client has read of that.

use std::collections::{BTreeMap, VecDeque};

use tidings_wire::{Channel, Limits, Message, Parser, Sequence};

use crate::View;
use crate::shard::SubscriberId;

/// Takes HTTP/1.1 chunks apart (RFC 9112, 7.1).
#[derive(Default)]
struct Dechunker {
    held: Vec<u8>,
    ended: bool,
}

impl Dechunker {
    fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        let mut out = Vec::new();
        loop {
            let Some(line) = self.held.windows(2).position(|two| two == b"\r\n") else { return out };
            let size = std::str::from_utf8(&self.held[..line]).unwrap();
            let size = usize::from_str_radix(size, 16).expect("a chunk begins with its size");
            if self.held.len() < line + 2 + size + 2 {
                return out;
            }
            assert!(!self.ended, "nothing comes after the last chunk");
            out.extend_from_slice(&self.held[line + 2..line + 2 + size]);
            assert_eq!(&self.held[line + 2 + size..line + 4 + size], b"\r\n");
            self.held.drain(..line + 4 + size);
            self.ended = size == 0;
        }
    }
}

/// A message that was written whole.
pub(super) struct Written {
    /// How many bytes of the connection end with it.
    end: u64,
    pub(super) message: Message,
    /// What it may come through.
    pub(super) views: Vec<View>,
}

pub(super) struct Connection {
    pub(super) shard: usize,
    pub(super) id: SubscriberId,
    /// What it followed at any time.
    pub(super) ever: Vec<View>,
    pub(super) tells_end: bool,
    written: u64,
    read: u64,
    /// Written by the worker, not read by the client.
    on_the_way: VecDeque<Written>,
    dechunker: Option<Dechunker>,
    parser: Parser,
    /// What was written behind the last whole message.
    rest: Vec<u8>,
    views: Vec<View>,
    /// What it followed when the block under way began, if that is something else.
    views_of_block: Option<Vec<View>>,
    /// A gap was put together and not written to its end.
    gap_offered: bool,
    /// What it followed when that gap was put together, if that is something else.
    views_of_gap: Option<Vec<View>>,
    pub(super) opened: bool,
    /// Its last bytes were put together.
    pub(super) ending: bool,
    pub(super) finished: bool,
    pub(super) over: bool,
    pub(super) said_end: bool,
    /// The log is read for it.
    pub(super) reading: bool,
    /// The newest record that came over this connection.
    pub(super) newest: Sequence,
    pub(super) expects_gap: bool,
    /// Where it was opened.
    pub(super) opened_at: Sequence,
    /// The events of keys that aren't kept and came.
    pub(super) unkept: Vec<u64>,
    pub(super) told_skipped: u64,
    /// What it asked for: nothing older than this.
    pub(super) bounds: Bounds,
}

/// What is not to come of what was there when a connection came.
pub(super) enum Bounds {
    Nothing,
    /// Of each channel only what comes after a record.
    History {
        head: Sequence,
        after: BTreeMap<Channel, Sequence>,
    },
    /// Only the newest of each key.
    Latest {
        head: Sequence,
    },
}

impl Connection {
    pub(super) fn new(shard: usize, id: SubscriberId, views: Vec<View>, chunked: bool) -> Connection {
        Connection {
            shard,
            id,
            ever: views.clone(),
            tells_end: false,
            written: 0,
            read: 0,
            on_the_way: VecDeque::new(),
            dechunker: chunked.then(Dechunker::default),
            parser: Parser::new(Limits::default()),
            rest: Vec::new(),
            views,
            views_of_block: None,
            gap_offered: false,
            views_of_gap: None,
            opened: false,
            ending: false,
            finished: false,
            over: false,
            said_end: false,
            reading: false,
            newest: Sequence::START,
            expects_gap: false,
            opened_at: Sequence::START,
            unkept: Vec::new(),
            told_skipped: 0,
            bounds: Bounds::Nothing,
        }
    }

    /// These bytes were put together for it.
    pub(super) fn offered(&mut self, bytes: &[u8]) {
        let gap = b"event: tidings:gap";
        self.gap_offered |= bytes.windows(gap.len()).any(|part| part == gap);
        let end = b"event: tidings:end";
        let last_chunk = self.dechunker.is_some() && bytes.ends_with(b"0\r\n\r\n");
        self.ending |= last_chunk || bytes.windows(end.len()).any(|part| part == end);
    }

    /// These bytes were taken by its socket; how many messages are whole by that.
    pub(super) fn wrote(&mut self, bytes: &[u8]) -> usize {
        self.written += bytes.len() as u64;
        let bytes = match &mut self.dechunker {
            Some(dechunker) => dechunker.push(bytes),
            None => bytes.to_vec(),
        };
        let before = self.on_the_way.len();
        let mut input = &bytes[..];
        loop {
            let rest = input;
            let message = self.parser.next_message(&mut input).expect("what the hub writes parses");
            let Some(message) = message else {
                self.rest.extend_from_slice(rest);
                return self.on_the_way.len() - before;
            };
            self.rest.clear();
            let mut views = self.views.clone();
            views.extend(self.views_of_block.take().into_iter().flatten());
            if message.event == "tidings:gap" {
                self.gap_offered = false;
                views = self.views_of_gap.take().unwrap_or_else(|| self.views.clone());
            }
            let end = self.written - input.len() as u64;
            self.on_the_way.push_back(Written { end, message, views });
        }
    }

    /// The newest messages that were written.
    pub(super) fn newest_written(&self, count: usize) -> impl Iterator<Item = &Written> {
        self.on_the_way.iter().skip(self.on_the_way.len() - count)
    }

    /// What the client is shown when it reads so many bytes.
    pub(super) fn read(&mut self, bytes: u64) -> Vec<Written> {
        self.read = self.written.min(self.read.saturating_add(bytes));
        let whole = self.on_the_way.partition_point(|written| written.end <= self.read);
        self.on_the_way.drain(..whole).collect()
    }

    /// Whether everything was written and read.
    pub(super) fn is_done(&self) -> bool {
        self.finished && self.on_the_way.is_empty()
    }

    /// Whether a message is half written.
    pub(super) fn has_begun(&self) -> bool {
        let in_chunk = self.dechunker.as_ref().is_some_and(|dechunker| !dechunker.held.is_empty());
        // Heartbeats are comments.
        let mut lines = self.rest.split(|byte| *byte == b'\n');
        in_chunk || lines.any(|line| !line.is_empty() && !line.starts_with(b":"))
    }

    /// It follows something else now.
    pub(super) fn changes(&mut self, views: Vec<View>) {
        if self.has_begun() && self.views_of_block.is_none() {
            self.views_of_block = Some(self.views.clone());
        }
        if self.gap_offered && self.views_of_gap.is_none() {
            self.views_of_gap = Some(self.views.clone());
        }
        self.ever.extend(views.iter().filter(|view| !self.ever.contains(view)).cloned().collect::<Vec<_>>());
        self.views = views;
    }
}
