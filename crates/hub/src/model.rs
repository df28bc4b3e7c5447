//! Random schedules of everything that can happen to a delivery, against a plain model.
//!
//! No thread and no clock: the tail, the workers' turns, the sockets, the pool that reads the log and the clients'
//! connections are all moved by the schedule, a step at a time, on virtual time. A failure names its seed; run it
//! alone with `TIDINGS_MODEL_SEED`. `TIDINGS_MODEL_STEPS` makes the run longer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::task::{Context, Poll};
use std::time::Duration;

use tidings_wire::{
    Channel, CursorKey, Data, Epoch, Event, Exclude, Framing, Limits, Message, Parser, Position, Sequence,
    Targets,
};

use crate::catch_up::{CatchUp, EncodedPage, PageAnswer, PageRequest};
use crate::hub::{HubConfig, announce, open_window};
use crate::log::{
    Caps, Log, MemoryLog, MemoryLogConfig, NewRecord, Order, ReadLimit, Retention, Selection, Tail,
};
use crate::resume::{ReplayCaps, Resume, Start};
use crate::shard::{Opening, Pending, Shard, SubscriberId};
use crate::window::{Waker, Window, Writer};
use crate::{Farewell, Lens, Say, Tells, Timestamp, View, Who};

const STEPS_A_SEED: u32 = 2_000;

/// A small, fast generator (xorshift64*), so that a seed is a whole schedule.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % below.max(1)
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        let at = self.roll(from.len() as u64);
        &from[usize::try_from(at).unwrap()]
    }

    fn once_in(&mut self, times: u64) -> bool {
        self.roll(times) == 0
    }
}

/// What the model knows of one record.
struct Known {
    event: Arc<Event>,
    time: Timestamp,
    stored: bool,
}

/// One client over all its connections.
struct Client {
    name: &'static str,
    views: Vec<View>,
    user: Option<&'static str>,
    envelope: bool,
    connection: Option<Connection>,
    last_id: Option<String>,
    /// Everything behind this place that it may see is to reach it, or be told as a gap.
    since: Option<Sequence>,
    got: BTreeSet<u64>,
    /// It was told that something is missing: what was removed up to the first place, whatever lies up to the second.
    told: Option<(Sequence, Sequence)>,
}

struct Connection {
    shard: usize,
    id: SubscriberId,
    /// Written by the worker, not read by the client.
    on_the_way: VecDeque<u8>,
    dechunker: Option<Dechunker>,
    parser: Parser,
    opened: bool,
    finished: bool,
    /// The newest record that came over this connection.
    newest: Sequence,
    expects_gap: bool,
    first: bool,
}

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

struct World {
    dice: Dice,
    now: Timestamp,
    key: CursorKey,
    log: Arc<MemoryLog>,
    tail: Box<dyn Tail>,
    items: VecDeque<crate::log::TailItem>,
    window: Arc<Window>,
    writer: Writer,
    shards: Vec<Shard>,
    requests: Receiver<PageRequest>,
    catch_up: CatchUp,
    clients: Vec<Client>,
    known: BTreeMap<u64, Known>,
    by_sequence: BTreeMap<Sequence, u64>,
    /// Records that an operator deleted one by one: no gap is told for them.
    deleted: BTreeSet<u64>,
    serial: u64,
    seen: Seen,
}

/// What a run has met: a schedule that never met it proves nothing about it.
#[derive(Default, Debug)]
struct Seen {
    delivered: u64,
    ephemeral: u64,
    expired_gaps: u64,
    unknown_gaps: u64,
    limit_gaps: u64,
    mid_stream_gaps: u64,
    resumed: u64,
    histories: u64,
    pages: u64,
    cuts: u64,
    restarts: u64,
    before_first_event: u64,
    farewells: u64,
}

fn view(text: &str) -> View {
    text.parse::<tidings_wire::Pattern>().unwrap().into()
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(std::task::Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the memory log completes at once"),
    }
}

impl World {
    fn new(seed: u64) -> World {
        let retention = Retention {
            rules: vec![
                ("capped/*".parse().unwrap(), Caps { count: Some(5), ..Caps::default() }),
                ("short".parse().unwrap(), Caps { age: Some(Duration::from_secs(30)), ..Caps::default() }),
            ],
            default: Caps { count: Some(60), ..Caps::default() },
            total: Caps::default(),
        };
        let log = Arc::new(MemoryLog::new(MemoryLogConfig { epoch: Epoch(7), retention }));
        let key = CursorKey::new([3; 16]);
        let (window, writer, tail) = World::boot(&log, 0);
        let (requests, incoming) = channel();
        let client = |name, views: &[&str], user: Option<&'static str>, envelope| {
            let mut views: Vec<View> = views.iter().map(|text| view(text)).collect();
            views.push(view("$all"));
            views.extend(user.map(|user| View::Channel(Channel::user(&user.parse().unwrap()))));
            Client {
                name,
                views,
                user,
                envelope,
                connection: None,
                last_id: None,
                since: None,
                got: BTreeSet::new(),
                told: None,
            }
        };
        let mut world = World {
            dice: Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            now: Timestamp(1_000_000),
            key,
            log,
            tail,
            items: VecDeque::new(),
            window,
            writer,
            shards: Vec::new(),
            requests: incoming,
            catch_up: CatchUp::through(requests),
            clients: vec![
                client("one channel", &["a"], None, false),
                client("the same channel", &["a"], None, false),
                client("a user with nothing else", &[], Some("u"), false),
                client("several", &["a", "b", "capped/x"], Some("v"), false),
                client("patterns", &["capped/*", "deep/**"], Some("u"), true),
                client("everything", &["**"], None, false),
                client("short-lived", &["short", "quiet"], None, true),
                client("quiet", &["quiet"], Some("w"), false),
            ],
            known: BTreeMap::new(),
            by_sequence: BTreeMap::new(),
            deleted: BTreeSet::new(),
            serial: 0,
            seen: Seen::default(),
        };
        world.new_shards();
        world
    }

    fn boot(log: &MemoryLog, warm: u64) -> (Arc<Window>, Writer, Box<dyn Tail>) {
        let config =
            HubConfig { window_bytes: 4_000, window_records: 24, ..HubConfig::new(CursorKey::new([3; 16])) };
        open_window(log, &config, warm).unwrap()
    }

    fn new_shards(&mut self) {
        self.shards = (0..2)
            .map(|_| {
                let waker = Waker::new(Box::new(|| {}));
                Shard::new(self.window.reader(&waker), self.key.clone(), self.catch_up.clone())
            })
            .collect();
    }

    fn step(&mut self) {
        match self.dice.roll(100) {
            0..=24 => self.publish(),
            25..=39 => self.pump_tail(),
            40..=49 => {
                let shard = self.dice.roll(2) as usize;
                let budget = 1 + self.dice.roll(5) as usize;
                self.shards[shard].consume(budget);
            }
            50..=69 => self.serve_one(),
            70..=74 => {
                self.read_one_page();
            }
            75..=84 => self.receive(),
            85..=88 => self.connect(),
            89 => self.unblock(),
            90 => self.cut(),
            91..=93 => self.now = self.now.plus(Duration::from_secs(1 + self.dice.roll(4))),
            94..=95 => self.log.retain(self.now),
            96 => self.say(),
            97 if self.dice.once_in(10) => self.remove(),
            98 if self.dice.once_in(15) => self.restart(),
            99 if self.dice.once_in(4) => self.settle(),
            _ => {}
        }
    }

    fn publish(&mut self) {
        let names =
            ["a", "a", "a", "b", "capped/x", "capped/y", "deep/1/2", "short", "quiet", "$all", "$user/u"];
        for _ in 0..=self.dice.roll(3) {
            let count = 1 + self.dice.roll(8) / 6;
            let mut targets: Vec<Channel> = Vec::new();
            for _ in 0..count {
                let name = *self.dice.pick(&names);
                if name != "quiet" || self.dice.once_in(6) {
                    targets.push(Channel::stored(name).unwrap());
                }
            }
            let Ok(to) = Targets::new(targets) else { continue };
            self.serial += 1;
            let padding = "x".repeat(if self.dice.once_in(20) { 1500 } else { self.dice.roll(40) as usize });
            let mut event = Event::new(to, Data::from(format!("{} {padding}", self.serial).as_str()));
            event.store = !self.dice.once_in(12);
            event.ttl = self.dice.once_in(10).then(|| 1 + self.dice.roll(20) as u32);
            if self.dice.once_in(10) {
                event.exclude = Exclude { user: Some("u".parse().unwrap()), ..Exclude::default() };
            }
            let event = Arc::new(event);
            let stored = event.store;
            let position =
                wait(self.log.append(vec![NewRecord { time: self.now, event: event.clone() }])).unwrap()[0];
            if stored {
                self.by_sequence.insert(position.sequence, self.serial);
            }
            self.known.insert(self.serial, Known { event, time: self.now, stored });
        }
    }

    fn pump_tail(&mut self) {
        self.items.extend(self.tail.next(Duration::ZERO).unwrap().unwrap());
        for _ in 0..=self.dice.roll(6) {
            let Some(item) = self.items.pop_front() else { return };
            announce(&mut self.writer, &self.key, [item]);
        }
    }

    fn connect(&mut self) {
        let at = self.dice.roll(self.clients.len() as u64) as usize;
        if self.clients[at].connection.is_some() {
            return;
        }
        let shard = self.dice.roll(2) as usize;
        let choice = self.dice.roll(20);
        let caps = match self.dice.roll(12) {
            0 => ReplayCaps { bytes: Some(300), age: None },
            1 => ReplayCaps { bytes: None, age: Some(Duration::from_secs(10)) },
            _ => ReplayCaps::default(),
        };
        let head = self.log.head();
        let client = &mut self.clients[at];
        let start = match (choice, &client.last_id) {
            (0..=15, Some(id)) => {
                self.seen.resumed += 1;
                if client.got.is_empty() {
                    self.seen.before_first_event += 1;
                }
                Start::Cursor(id.clone())
            }
            (16, _) => Start::Cursor("!not a cursor".into()),
            (17, _) => Start::Earliest,
            (18, _) => {
                self.seen.histories += 1;
                Start::History(self.dice.roll(6) as u16)
            }
            _ => Start::Now,
        };
        let who = Who { user: client.user.map(|user| user.parse().unwrap()), client: None };
        let lens = Lens::of(who);
        let resume = Resume::find(&*self.log, &self.key, caps, &client.views, &start, &lens, self.now)
            .expect("memory reads");
        // A new beginning, unless it comes back with a cursor.
        let kept = match &start {
            Start::Cursor(id) => self.key.open(id).is_ok_and(|position| position != Position::UNKNOWN),
            _ => false,
        };
        if !kept {
            client.got.clear();
            // Who asks for all that is kept asks for nothing that isn't.
            let all_kept = matches!(start, Start::Earliest);
            client.told = all_kept.then(|| (self.log.floor(&client.views), Sequence::START));
            client.last_id = None;
            client.since = match &start {
                Start::Earliest => Some(Sequence::START),
                Start::History(_) => None,
                _ => Some(head.sequence),
            };
        }
        let chunked = self.dice.once_in(2);
        let gap = resume.gap();
        let opening = Opening {
            views: client.views.clone(),
            resume,
            head: Vec::new(),
            open: Some("{}".into()),
            framing: if chunked { Framing::Chunked } else { Framing::Raw },
            envelope: client.envelope,
            lens,
            tells: Tells::default(),
            connection: None,
        };
        let id = self.shards[shard].subscribe(opening, self.now);
        client.connection = Some(Connection {
            shard,
            id,
            on_the_way: VecDeque::new(),
            dechunker: chunked.then(Dechunker::default),
            parser: Parser::new(Limits::default()),
            opened: false,
            finished: false,
            newest: Sequence::START,
            expects_gap: gap.is_some(),
            first: true,
        });
    }

    fn client_of(&mut self, shard: usize, id: SubscriberId) -> Option<&mut Client> {
        self.clients
            .iter_mut()
            .find(|c| c.connection.as_ref().is_some_and(|c| c.shard == shard && c.id == id))
    }

    /// A part of a worker's turn: writes to one subscriber what its socket takes.
    fn serve_one(&mut self) {
        let shard = self.dice.roll(2) as usize;
        let Some(id) = self.shards[shard].next_ready() else { return };
        self.serve(shard, id, true);
    }

    fn serve(&mut self, shard: usize, id: SubscriberId, may_be_short: bool) {
        let now = self.now;
        for _ in 0..1000 {
            let bytes = match self.shards[shard].pending(id, now) {
                Pending::Bytes(bytes) => bytes.to_vec(),
                Pending::Nothing | Pending::Reading => return,
                Pending::Later if may_be_short => {
                    self.shards[shard].requeue(id);
                    return;
                }
                Pending::Later => continue,
                Pending::Finished | Pending::Over => {
                    if let Some(client) = self.client_of(shard, id) {
                        client.connection.as_mut().unwrap().finished = true;
                    }
                    return;
                }
                Pending::Cut(_) => {
                    self.seen.cuts += 1;
                    self.drop_connection(shard, id);
                    return;
                }
            };
            assert!(!bytes.is_empty(), "bytes that are pending are some");
            let short = may_be_short && self.dice.once_in(3);
            let taken = if short { self.dice.roll(bytes.len() as u64) as usize } else { bytes.len() };
            self.shards[shard].wrote(id, taken, now);
            if let Some(client) = self.client_of(shard, id) {
                client.connection.as_mut().unwrap().on_the_way.extend(&bytes[..taken]);
            }
            if short {
                self.shards[shard].block(id);
                return;
            }
            if may_be_short && self.dice.once_in(4) {
                self.shards[shard].requeue(id);
                return;
            }
        }
        panic!("a subscriber is never done");
    }

    fn unblock(&mut self) {
        for client in &self.clients {
            if let Some(connection) = &client.connection
                && self.dice.once_in(2)
            {
                self.shards[connection.shard].unblock(connection.id);
            }
        }
    }

    fn read_one_page(&mut self) -> bool {
        let Ok(request) = self.requests.try_recv() else { return false };
        self.seen.pages += 1;
        let page = EncodedPage::read(&*self.log, &self.key, &request);
        let _ = request.reply.send(PageAnswer { ticket: request.ticket, page });
        true
    }

    /// A client reads a part of what is on its way.
    fn receive(&mut self) {
        let at = self.dice.roll(self.clients.len() as u64) as usize;
        let some = 1 + self.dice.roll(400) as usize;
        self.read(at, some);
    }

    fn read(&mut self, at: usize, some: usize) {
        let Some(connection) = &mut self.clients[at].connection else { return };
        let some = some.min(connection.on_the_way.len());
        let bytes: Vec<u8> = connection.on_the_way.drain(..some).collect();
        let bytes = match &mut connection.dechunker {
            Some(dechunker) => dechunker.push(&bytes),
            None => bytes,
        };
        let mut input = &bytes[..];
        let mut messages = Vec::new();
        while let Some(message) =
            connection.parser.next_message(&mut input).expect("what the hub writes parses")
        {
            messages.push(message);
        }
        for message in messages {
            self.got(at, message);
        }
        let client = &self.clients[at];
        let done = client.connection.as_ref().filter(|c| c.finished && c.on_the_way.is_empty());
        if let Some((shard, id)) = done.map(|c| (c.shard, c.id)) {
            self.drop_connection(shard, id);
        }
    }

    fn got(&mut self, at: usize, message: Message) {
        let client = &mut self.clients[at];
        let name = client.name;
        let connection = client.connection.as_mut().expect("it is connected");
        client.last_id = Some(message.id.clone());
        if connection.first {
            assert_eq!(message.event, "tidings:open", "{name}: open comes first");
            connection.first = false;
            connection.opened = true;
            return;
        }
        if let Some(control) = message.event.strip_prefix("tidings:") {
            match control {
                "gap" => {
                    if message.data.contains("\"unknown\"") {
                        self.seen.unknown_gaps += 1;
                    } else if message.data.contains("\"limit\"") {
                        self.seen.limit_gaps += 1;
                    } else {
                        self.seen.expired_gaps += 1;
                        if !connection.expects_gap {
                            self.seen.mid_stream_gaps += 1;
                        }
                        let lost = self.log.floor(&client.views);
                        let from = message.data.split("\"from\":\"").nth(1).map(|rest| &rest[..22]);
                        let from = self.key.open(from.expect("an expired gap names a cursor")).unwrap();
                        assert!(lost > from.sequence, "{name}: a false alarm at {from:?}: {}", message.data);
                    }
                    let to = message.data.split("\"to\":\"").nth(1).map(|rest| &rest[..22]);
                    let to = self.key.open(to.expect("a gap says where it ends")).unwrap().sequence;
                    assert_eq!(
                        self.key.open(&message.id).unwrap().sequence,
                        to,
                        "{name}: a gap's id is its end"
                    );
                    let (removed, skipped) = client.told.unwrap_or_default();
                    let passed = if message.data.contains("\"limit\"") { to } else { skipped };
                    client.told = Some((removed.max(to).max(self.log.floor(&client.views)), passed));
                    connection.expects_gap = false;
                }
                "position" | "ping" => {}
                "drain" | "kicked" => self.seen.farewells += 1,
                other => panic!("{name}: nobody says {other}"),
            }
            let position = self.key.open(&message.id).expect("ids are cursors");
            assert!(
                position.sequence >= connection.newest || position == Position::UNKNOWN,
                "{name}: ids go back at {control}"
            );
            return;
        }
        assert!(!connection.expects_gap, "{name}: a gap comes before the first event");
        let data = if client.envelope {
            let (_, rest) = message.data.split_once("\"data\":\"").expect("an envelope has data");
            let channel = message.data.split("\"channel\":\"").nth(1).and_then(|rest| rest.split('"').next());
            let channel = Channel::stored(channel.expect("an envelope has a channel")).unwrap();
            assert!(client.views.iter().any(|view| view.shows(&channel)), "{name}: named {channel}");
            rest
        } else {
            &message.data
        };
        let serial: u64 =
            data.split(' ').next().and_then(|n| n.parse().ok()).expect("data begins with a number");
        let known = &self.known[&serial];
        let shown = known.event.to.channels().iter().any(|c| client.views.iter().any(|view| view.shows(c)));
        assert!(shown, "{name}: {serial} is none of its");
        let user = client.user.map(|user| user.parse().unwrap());
        assert!(known.event.exclude.user.is_none() || known.event.exclude.user != user, "{name}: excluded");
        let position = self.key.open(&message.id).expect("ids are cursors");
        if known.stored {
            assert!(client.got.insert(serial), "{name}: {serial} came twice");
            assert_eq!(self.by_sequence[&position.sequence], serial, "{name}: the id is the event's");
            assert!(position.sequence > connection.newest, "{name}: out of order");
            self.seen.delivered += 1;
        } else {
            assert!(position.sequence >= connection.newest, "{name}: out of order");
            self.seen.ephemeral += 1;
        }
        connection.newest = position.sequence;
    }

    fn cut(&mut self) {
        let at = self.dice.roll(self.clients.len() as u64) as usize;
        if let Some((shard, id)) = self.clients[at].connection.as_ref().map(|c| (c.shard, c.id)) {
            self.drop_connection(shard, id);
        }
    }

    fn drop_connection(&mut self, shard: usize, id: SubscriberId) {
        self.shards[shard].unsubscribe(id);
        let key = self.key.clone();
        let Some(client) = self.client_of(shard, id) else { return };
        client.connection = None;
        if client.since.is_none() {
            // A history is what there was; the cursor after it is a promise.
            client.since = client.last_id.as_ref().and_then(|id| key.open(id).ok()).map(|last| last.sequence);
        }
    }

    fn say(&mut self) {
        let at = self.dice.roll(self.clients.len() as u64) as usize;
        let Some(connection) = &self.clients[at].connection else { return };
        let shard = &mut self.shards[connection.shard];
        match self.dice.roll(8) {
            0 => shard.finish(connection.id, Farewell::Drain, Some(100)),
            1 => shard.finish(connection.id, Farewell::Silent, None),
            2..=4 => shard.say(connection.id, Say::Heartbeat),
            5 => shard.say(connection.id, Say::Ping),
            _ => shard.say(connection.id, Say::Position),
        }
    }

    fn remove(&mut self) {
        if self.dice.once_in(2) {
            let name = *self.dice.pick(&["a", "b", "capped/x", "deep/1/2"]);
            wait(self.log.purge(name.parse().unwrap())).unwrap();
        } else if let Some((sequence, serial)) = self.by_sequence.iter().next_back() {
            let position = Position { epoch: self.log.head().epoch, sequence: *sequence };
            self.deleted.insert(*serial);
            wait(self.log.delete(position)).unwrap();
        }
    }

    fn restart(&mut self) {
        self.seen.restarts += 1;
        for at in 0..self.clients.len() {
            if let Some((shard, id)) = self.clients[at].connection.as_ref().map(|c| (c.shard, c.id)) {
                self.drop_connection(shard, id);
            }
        }
        self.items.clear();
        let warm = self.dice.roll(20);
        (self.window, self.writer, self.tail) = World::boot(&self.log, warm);
        self.new_shards();
    }

    /// Lets everything come to rest, then compares each client that is connected with what it should have.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            self.items.extend(self.tail.next(Duration::ZERO).unwrap().unwrap());
            let mut moved = !self.items.is_empty();
            announce(&mut self.writer, &self.key, self.items.drain(..).collect::<Vec<_>>());
            while self.read_one_page() {
                moved = true;
            }
            for client in &self.clients {
                if let Some(connection) = &client.connection {
                    self.shards[connection.shard].unblock(connection.id);
                }
            }
            for shard in 0..self.shards.len() {
                while self.shards[shard].consume(100) {}
                while let Some(id) = self.shards[shard].next_ready() {
                    moved = true;
                    self.serve(shard, id, false);
                }
            }
            for at in 0..self.clients.len() {
                self.read(at, usize::MAX);
            }
            if !moved {
                self.compare();
                return;
            }
        }
        panic!("it does not come to rest");
    }

    fn compare(&mut self) {
        let head = self.log.head().sequence;
        for client in &self.clients {
            let Some(connection) = &client.connection else { continue };
            let name = client.name;
            assert!(connection.opened, "{name}: is open");
            assert!(!connection.expects_gap, "{name}: was told its gap");
            let at = self.shards[connection.shard].cursor(connection.id);
            assert_eq!(
                self.key.open(at.as_str()).unwrap().sequence,
                head,
                "{name}: has reached the head; {}",
                self.shards[connection.shard].describe(connection.id)
            );
            let Some(since) = client.since else { continue };
            let all: Vec<_> = client
                .views
                .iter()
                .map(|view| Selection { view: view.clone(), after: Sequence::START })
                .collect();
            let limit = ReadLimit { through: head, records: usize::MAX, bytes: usize::MAX };
            let kept: BTreeSet<Sequence> = self
                .log
                .read(&all, Order::Oldest, limit, Timestamp(0))
                .unwrap()
                .records
                .iter()
                .map(|record| record.position.sequence)
                .collect();
            for (sequence, serial) in self.by_sequence.range(since.next()..) {
                let known = &self.known[serial];
                let channels = known.event.to.channels();
                let shown = channels.iter().any(|c| client.views.iter().any(|view| view.shows(c)));
                let user = client.user.map(|user| user.parse().unwrap());
                let excluded = known.event.exclude.user.is_some() && known.event.exclude.user == user;
                if !shown || excluded || client.got.contains(serial) || self.deleted.contains(serial) {
                    continue;
                }
                let over = known
                    .event
                    .ttl
                    .is_some_and(|ttl| self.now >= known.time.plus(Duration::from_secs(ttl.into())));
                if over {
                    continue;
                }
                let excused = client.told.is_some_and(|(removed, skipped)| {
                    *sequence <= skipped || (*sequence <= removed && !kept.contains(sequence))
                });
                assert!(excused, "{name}: {serial} at {sequence:?} was lost silently, {:?}", client.told);
            }
        }
    }
}

#[test]
fn nothing_is_lost_silently_doubled_or_out_of_order() {
    let steps: u32 = std::env::var("TIDINGS_MODEL_STEPS")
        .map_or(1_000_000, |steps| steps.parse().expect("a number of steps"));
    let only: Option<u64> =
        std::env::var("TIDINGS_MODEL_SEED").ok().map(|seed| seed.parse().expect("a seed"));
    let mut total = Seen::default();
    let seeds = match only {
        Some(seed) => seed..seed + 1,
        None => 1..u64::from(steps / STEPS_A_SEED) + 1,
    };
    for seed in seeds {
        let run = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..STEPS_A_SEED {
                world.step();
            }
            world.settle();
            world.seen
        });
        let seen = run.unwrap_or_else(|_| panic!("the schedule of TIDINGS_MODEL_SEED={seed} failed"));
        total.delivered += seen.delivered;
        total.ephemeral += seen.ephemeral;
        total.expired_gaps += seen.expired_gaps;
        total.unknown_gaps += seen.unknown_gaps;
        total.limit_gaps += seen.limit_gaps;
        total.mid_stream_gaps += seen.mid_stream_gaps;
        total.resumed += seen.resumed;
        total.histories += seen.histories;
        total.pages += seen.pages;
        total.cuts += seen.cuts;
        total.restarts += seen.restarts;
        total.before_first_event += seen.before_first_event;
        total.farewells += seen.farewells;
    }
    let met = [
        total.delivered,
        total.ephemeral,
        total.expired_gaps,
        total.unknown_gaps,
        total.limit_gaps,
        total.mid_stream_gaps,
        total.resumed,
        total.histories,
        total.pages,
        total.restarts,
        total.before_first_event,
        total.farewells,
    ];
    assert!(
        only.is_some() || met.iter().all(|count| *count > 0),
        "the schedules missed something: {total:?}"
    );
}
