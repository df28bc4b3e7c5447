//! The hub's parts, moved a step at a time.

use std::collections::{BTreeSet, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::task::{Context, Poll};
use std::time::Duration;

use tidings_wire::{
    Channel, CursorKey, Data, Epoch, Event, Exclude, Key, Position, Sequence, TagValue, Tags, Targets,
};

use super::asking::Found;
use super::connection::Connection;
use super::plain::{Client, Promise, Published, Wanted, kept};
use super::{Dice, Seen};
use crate::catch_up::{CatchUp, EncodedPage, PageAnswer, PageRequest};
use crate::hub::{HubConfig, announce, open_window};
use crate::log::{AppendError, Caps, Log, MemoryLog, MemoryLogConfig, NewRecord, Retention, Tail};
use crate::resume::ended;
use crate::shard::{Pending, Shard, SubscriberId};
use crate::subscriber::Change;
use crate::window::{Waker, Window, Writer};
use crate::{Farewell, Say, Timestamp, View};

/// What is published to.
pub(super) const NAMES: [&str; 14] = [
    "a", "a", "a", "b", "capped/x", "capped/y", "deep/1/2", "short", "quiet", "state", "end/1", "end/2",
    "$all", "$user/u",
];
/// What those who come to follow something else choose from.
const CHOICE: [&str; 10] =
    ["a", "b", "capped/x", "capped/*", "deep/**", "short", "quiet", "state", "end/1", "end/2"];

pub(super) struct World {
    pub(super) dice: Dice,
    pub(super) steps: u64,
    pub(super) now: Timestamp,
    pub(super) key: CursorKey,
    pub(super) log: Arc<MemoryLog>,
    tail: Box<dyn Tail>,
    items: VecDeque<crate::log::TailItem>,
    window: Arc<Window>,
    writer: Writer,
    pub(super) shards: Vec<Shard>,
    requests: Receiver<PageRequest>,
    catch_up: CatchUp,
    pub(super) clients: Vec<Client>,
    pub(super) found: Vec<Option<Found>>,
    pub(super) all: Published,
    pub(super) serial: u64,
    /// The channels that ended at some time.
    pub(super) ended_once: BTreeSet<Channel>,
    pub(super) seen: Seen,
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
    pub(super) fn new(seed: u64) -> World {
        let retention = Retention {
            rules: vec![
                ("capped/*".parse().unwrap(), Caps { count: Some(5), ..Caps::default() }),
                ("short".parse().unwrap(), Caps { age: Some(Duration::from_secs(30)), ..Caps::default() }),
                ("state".parse().unwrap(), Caps { state_only: true, ..Caps::default() }),
            ],
            default: Caps { count: Some(60), ..Caps::default() },
            total: Caps::default(),
        };
        let log = Arc::new(MemoryLog::new(MemoryLogConfig { epoch: Epoch(7), retention }));
        let key = CursorKey::new([3; 16]);
        let (window, writer, tail) = World::boot(&log, 0);
        let (requests, incoming) = channel();
        let client = |name, views: &[&str], user: Option<&str>| {
            let mut views: Vec<View> = views.iter().map(|text| view(text)).collect();
            views.push(view("$all"));
            views.extend(user.map(|user| View::Channel(Channel::user(&user.parse().unwrap()))));
            Client {
                number: 0,
                name,
                promises: views.into_iter().map(|view| Promise::new(view, None)).collect(),
                user: user.map(|user| user.parse().unwrap()),
                filter: None,
                envelope: false,
                changes: false,
                changed: false,
                intent: None,
                connection: None,
                left: 0,
                last_id: None,
                got: BTreeSet::new(),
                wanted: Wanted::default(),
                whole: Sequence::START,
            }
        };
        let choosing = |filter: &str, client: Client| Client {
            filter: Some(Arc::new(filter.parse().unwrap())),
            ..client
        };
        let changing = |client: Client| Client { changes: true, ..client };
        let enveloped = |client: Client| Client { envelope: true, ..client };
        let mut clients = vec![
            client("one channel", &["a"], None),
            client("the same channel", &["a"], None),
            client("a user with nothing else", &[], Some("u")),
            client("several", &["a", "b", "capped/x"], Some("v")),
            enveloped(client("patterns", &["capped/*", "deep/**"], Some("u"))),
            client("everything", &["**"], None),
            enveloped(client("short-lived", &["short", "quiet"], None)),
            client("quiet", &["quiet"], Some("w")),
            choosing("n > 1", client("choosing", &["a", "capped/*", "state"], Some("u"))),
            client("states", &["state"], None),
            client("ending", &["end/1"], None),
            client("both ending", &["end/1", "end/2"], Some("u")),
            changing(client("changing", &["a", "b"], Some("u"))),
            changing(enveloped(client("changing too", &["end/1", "capped/*"], None))),
            changing(choosing("!odd", client("changing and choosing", &["a", "end/2"], Some("v")))),
        ];
        for (number, client) in clients.iter_mut().enumerate() {
            client.number = number;
        }
        let mut world = World {
            dice: Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            steps: 0,
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
            found: clients.iter().map(|_| None).collect(),
            clients,
            all: Published::default(),
            serial: 0,
            ended_once: BTreeSet::new(),
            seen: Seen::default(),
        };
        world.new_shards();
        world
    }

    pub(super) fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
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

    pub(super) fn step(&mut self) {
        self.steps += 1;
        match self.dice.roll(104) {
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
            100..=102 => self.change(),
            103 if self.dice.once_in(4) => self.begin_anew(),
            _ => {}
        }
    }

    fn publish(&mut self) {
        for _ in 0..=self.dice.roll(3) {
            let mut targets: Vec<Channel> = Vec::new();
            for _ in 0..1 + self.dice.roll(8) / 6 {
                let name = *self.dice.pick(&NAMES);
                if name != "quiet" || self.dice.once_in(6) {
                    targets.push(Channel::stored(name).unwrap());
                }
            }
            let ending = targets.iter().all(|channel| channel.as_str().starts_with("end/"));
            let Ok(to) = Targets::new(targets) else { continue };
            self.serial += 1;
            let padding = "x".repeat(if self.dice.once_in(20) { 1500 } else { self.dice.roll(40) as usize });
            let mut event = Event::new(to, Data::from(format!("{} {padding}", self.serial).as_str()));
            event.store = !self.dice.once_in(12);
            event.ttl = self.dice.once_in(10).then(|| 1 + self.dice.roll(20) as u32);
            if self.dice.once_in(10) {
                event.exclude = Exclude { user: Some("u".parse().unwrap()), ..Exclude::default() };
            }
            let keyed = if event.to.channels()[0].as_str() == "state" { 6 } else { 2 };
            if self.dice.roll(8) < keyed {
                event.key = Some(["k", "l", "m"][self.dice.roll(3) as usize].parse::<Key>().unwrap());
                if event.to.channels().len() > 1 {
                    self.saw("an event of a key in several channels");
                }
            }
            if self.dice.once_in(2) {
                let number = TagValue::Number(tidings_wire::Number::new(self.dice.roll(4) as f64).unwrap());
                let odd = TagValue::Bool(self.dice.once_in(2));
                event.tags = Tags::new([("n".into(), number), ("odd".into(), odd)]).unwrap();
            }
            if ending && event.store && self.dice.once_in(4) {
                event.end = true;
                if self.dice.once_in(3) {
                    event.data = Data::Nothing;
                    self.saw("an end without a word");
                }
            }
            self.append(event);
        }
    }

    fn append(&mut self, event: Event) {
        let event = Arc::new(event);
        let ended: Vec<Channel> =
            event.to.channels().iter().filter(|to| self.has_ended(to)).cloned().collect();
        let at = match wait(self.log.append(vec![NewRecord { time: self.now, event: event.clone() }])) {
            Ok(positions) => positions[0].sequence,
            Err(AppendError::Ended(channel)) => {
                assert!(ended.contains(&channel), "{channel} has not ended");
                self.saw("an event for a channel that has ended");
                return;
            }
            Err(error) => panic!("{error}"),
        };
        assert!(ended.is_empty(), "{ended:?} have ended");
        if event.to.channels().iter().any(|channel| self.ended_once.contains(channel)) {
            self.saw("a channel that begins anew");
        }
        if event.end {
            self.ended_once.extend(event.to.channels().iter().cloned());
        }
        let held_back = self.clients.iter().any(|client| {
            let seen = client.sees(&event, &client.views());
            let chosen = client.filter.as_ref().is_none_or(|filter| filter.matches(&event.tags));
            let shows = |view: &View| event.to.channels().iter().any(|channel| view.shows(channel));
            client.connection.is_some() && !seen && !chosen && client.asked().any(shows)
        });
        if held_back {
            self.saw("an event that a filter holds back");
        }
        self.all.add(self.serial, &event, self.now, at, self.steps);
    }

    /// Whether the newest record of a channel is an end, and still there.
    fn has_ended(&self, channel: &Channel) -> bool {
        let newest = self.all.newest_in(channel, Sequence(u64::MAX)).filter(|newest| newest.event.end);
        let ended = newest.and_then(|newest| newest.sequence).filter(|sequence| {
            kept(&self.log, &[channel.clone().into()]).iter().any(|kept| kept.position.sequence == *sequence)
        });
        assert_eq!(self.log.ended(channel), ended, "{channel}");
        ended.is_some()
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
        if self.found[at].is_some() {
            self.saw("a wait between looking for a place and going there");
        } else {
            self.find(at);
        }
        if self.dice.once_in(2) {
            self.open(at);
        }
    }

    fn client_of(&mut self, shard: usize, id: SubscriberId) -> Option<&mut Client> {
        self.clients
            .iter_mut()
            .find(|c| c.connection.as_ref().is_some_and(|c| c.shard == shard && c.id == id))
    }

    fn connection_of(&mut self, shard: usize, id: SubscriberId) -> Option<&mut Connection> {
        self.client_of(shard, id).and_then(|client| client.connection.as_mut())
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
            let pending = self.shards[shard].pending(id, now);
            let reading = pending == Pending::Reading;
            let over = pending == Pending::Over;
            let bytes = match pending {
                Pending::Bytes(bytes) => Some(bytes.to_vec()),
                Pending::Nothing | Pending::Reading => None,
                Pending::Later if may_be_short => {
                    self.shards[shard].requeue(id);
                    return;
                }
                Pending::Later => continue,
                Pending::Finished | Pending::Over => {
                    if let Some(connection) = self.connection_of(shard, id) {
                        assert!(!connection.has_begun(), "nothing ends in the middle of a block");
                        connection.finished = true;
                        connection.over = over;
                    }
                    return;
                }
                Pending::Cut(_) => {
                    self.saw("a cut");
                    self.drop_connection(shard, id);
                    return;
                }
            };
            if let Some(connection) = self.connection_of(shard, id) {
                connection.reading = reading;
            }
            let Some(bytes) = bytes else { return };
            assert!(!bytes.is_empty(), "bytes that are pending are some");
            let short = may_be_short && self.dice.once_in(3);
            let taken = if short { self.dice.roll(bytes.len() as u64) as usize } else { bytes.len() };
            self.shards[shard].wrote(id, taken, now);
            self.wrote(shard, id, &bytes, taken);
            self.watch_moves(shard);
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

    /// Looks at what was written whole: a gap has to be one, an event has to come through what was followed when its
    /// block began.
    fn wrote(&mut self, shard: usize, id: SubscriberId, bytes: &[u8], taken: usize) {
        let (log, key) = (self.log.clone(), self.key.clone());
        let Some(client) = self.client_of(shard, id) else { return };
        let name = client.name;
        let connection = client.connection.as_mut().unwrap();
        connection.offered(bytes);
        let whole = connection.wrote(&bytes[..taken]);
        for written in connection.newest_written(whole) {
            let message = &written.message;
            if message.event == "tidings:gap" && message.data.contains("\"expired\"") {
                let from = message.data.split("\"from\":\"").nth(1).map(|rest| &rest[..22]);
                let from = key.open(from.expect("an expired gap names a cursor")).unwrap();
                let lost = log.floor(&connection.ever);
                assert!(lost > from.sequence, "{name}: a false alarm at {from:?}: {}", message.data);
            }
        }
    }

    /// What is said of a subscriber's views is what it follows.
    fn watch_moves(&mut self, shard: usize) {
        while let Some(told) = self.shards[shard].next_move() {
            let views: BTreeSet<View> = self.shards[shard].views(told.id).cloned().collect();
            if let Some(client) = self.client_of(shard, told.id) {
                assert_eq!(views, client.views().into_iter().collect(), "{}", client.name);
            }
        }
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
        self.saw(if request.ends { "a page with what has ended" } else { "a page" });
        let page = EncodedPage::read(&*self.log, &self.key, &request);
        let _ = request.reply.send(PageAnswer { ticket: request.ticket, page });
        true
    }

    /// A running subscriber comes to follow something else. Which of the channels have ended is looked up before.
    fn change(&mut self) {
        let at = self.dice.roll(self.clients.len() as u64) as usize;
        let client = &self.clients[at];
        let Some(connection) = client.connection.as_ref().filter(|_| client.changes) else { return };
        if connection.finished || connection.ending {
            return;
        }
        let (shard, id) = (connection.shard, connection.id);
        let looked = match self.clients[at].intent.take() {
            Some((looked, change)) => {
                if looked + 200 < self.steps {
                    self.saw("a change long after its channels were looked at");
                }
                change
            }
            None => {
                let change = self.intends(at);
                if self.dice.once_in(2) {
                    self.clients[at].intent = Some((self.steps, change));
                    return;
                }
                change
            }
        };
        let change = looked;
        let from = self.shards[shard].change(id, change.clone());
        self.saw("a change");
        let client = &mut self.clients[at];
        client.changed = true;
        let before = client.views();
        for view in change.add {
            if !before.contains(&view) {
                client.promises.push(Promise::new(view, Some(from.sequence)));
            }
        }
        client.promises.retain(|promise| !change.remove.contains(&promise.view));
        let views = client.views();
        // What was asked for in a channel that is followed no more, be it that it comes to be followed anew, is not owed.
        let stays = |channel: &Channel| {
            views.iter().filter(|view| before.contains(view)).any(|view| view.shows(channel))
        };
        client.wanted.serials.retain(|_, channels| {
            channels.retain(stays);
            !channels.is_empty()
        });
        let connection = client.connection.as_mut().unwrap();
        let (begun, reading) = (connection.has_begun(), connection.reading);
        connection.changes(views);
        if begun {
            self.saw("a change in the middle of a block");
        }
        if reading {
            self.saw("a change while the log is read");
        }
        self.watch_moves(shard);
    }

    fn intends(&mut self, at: usize) -> Change {
        let followed = self.clients[at].views();
        let mut add: Vec<View> = Vec::new();
        let mut remove: Vec<View> = Vec::new();
        for _ in 0..self.dice.roll(3) {
            let view = view(self.dice.pick::<&str>(&CHOICE));
            if !followed.contains(&view) && !add.contains(&view) {
                add.push(view);
            }
        }
        let asked: Vec<View> = self.clients[at].asked().cloned().collect();
        for _ in 0..self.dice.roll(3) {
            if !asked.is_empty() {
                let view = self.dice.pick(&asked).clone();
                if !remove.contains(&view) {
                    remove.push(view);
                }
            }
        }
        Change { ended: ended(&*self.log, &add), add, remove }
    }

    /// A client reads a part of what is on its way.
    fn receive(&mut self) {
        let at = self.dice.roll(self.clients.len() as u64) as usize;
        let some = 1 + self.dice.roll(400);
        self.read(at, some);
    }

    fn cut(&mut self) {
        let at = self.dice.roll(self.clients.len() as u64) as usize;
        if let Some((shard, id)) = self.clients[at].connection.as_ref().map(|c| (c.shard, c.id)) {
            self.drop_connection(shard, id);
        }
    }

    pub(super) fn drop_connection(&mut self, shard: usize, id: SubscriberId) {
        self.watch_moves(shard);
        self.shards[shard].unsubscribe(id);
        let step = self.steps;
        let Some(client) = self.client_of(shard, id) else { return };
        client.connection = None;
        client.intent = None;
        client.left = step;
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
            let name = *self.dice.pick(&["a", "b", "capped/x", "deep/1/2", "state"]);
            wait(self.log.purge(name.parse().unwrap())).unwrap();
        } else if let Some(sequence) = self.all.delete_newest(&self.clients) {
            let position = Position { epoch: self.log.head().epoch, sequence };
            wait(self.log.delete(position)).unwrap();
        }
    }

    /// Takes the end from a channel.
    fn begin_anew(&mut self) {
        let name = *self.dice.pick(&["end/1", "end/2"]);
        wait(self.log.purge(name.parse().unwrap())).unwrap();
    }

    fn restart(&mut self) {
        self.saw("a restart");
        for at in 0..self.clients.len() {
            self.found[at] = None;
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
    pub(super) fn settle(&mut self) {
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
                self.read(at, u64::MAX);
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
        for at in 0..self.clients.len() {
            let client = &self.clients[at];
            let Some(connection) = &client.connection else { continue };
            let name = client.name;
            assert!(connection.opened, "{name}: is open");
            assert!(!connection.expects_gap, "{name}: was told its gap");
            let shard = &self.shards[connection.shard];
            let reached = self.key.open(shard.cursor(connection.id).as_str()).unwrap().sequence;
            assert_eq!(reached, head, "{name}: has reached the head; {}", shard.describe(connection.id));
            let ended = client.exact().is_some_and(|channels| channels.iter().all(|c| self.has_ended(c)));
            assert!(!ended, "{name}: its channels have ended, and it has not");
            self.nothing_is_lost(at, head);
        }
    }
}
