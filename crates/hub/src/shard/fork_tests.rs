//! Logs that lose something while subscribers read them.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidings_wire::{Channel, Cursor, CursorKey, Epoch, Event, Framing, GapReason, Position, Sequence};

use super::{Opening, Pending, Shard, SubscriberId};
use crate::log::suite::wait;
use crate::log::{
    Located, Log, MemoryLog, MemoryLogConfig, NewRecord, Order, ReadLimit, Retention, Selection,
};
use crate::{Delivery, Hub, HubConfig, Lens, Start, Subscribe, Subscription, Tells, Timestamp, View};

const NOW: Timestamp = Timestamp(1_000);

fn key() -> CursorKey {
    CursorKey::new([3; 16])
}

fn hub(window_records: usize) -> (Arc<MemoryLog>, Hub) {
    let log = Arc::new(MemoryLog::new(MemoryLogConfig { epoch: Epoch(1), retention: Retention::default() }));
    let config = HubConfig { window_records, ..HubConfig::new(key()) };
    let hub = Hub::start(log.clone(), config).unwrap();
    (log, hub)
}

fn record(channel: &str, data: &str, store: bool) -> NewRecord {
    let channel: Channel = channel.parse().unwrap();
    NewRecord { time: NOW, event: Arc::new(Event { store, ..Event::new(channel.into(), data.into()) }) }
}

fn append(log: &MemoryLog, channel: &str, data: &str) {
    wait(log.append(vec![record(channel, data, true)])).unwrap();
}

fn subscribe(hub: &Hub, start: Start) -> Subscription {
    let views = ["a".parse::<Channel>().unwrap().into()];
    hub.subscribe(Subscribe { start, ..Subscribe::new(views) }).unwrap()
}

/// What a subscription hands out: data with sequences, and gaps as how they are told.
fn taken(subscription: &mut Subscription) -> Vec<String> {
    let mut taken = Vec::new();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    // Pages are read by other threads.
    while taken.is_empty() && std::time::Instant::now() < deadline {
        while let Some(delivery) = subscription.take(NOW).unwrap() {
            taken.push(match delivery {
                Delivery::Event { record, .. } => {
                    let Position { epoch, sequence } = record.position;
                    format!("{}.{} {}", epoch.0, sequence.0, record.event.data.as_str())
                }
                Delivery::Gap(gap) => {
                    let place = |at: Position| format!("{}.{}", at.epoch.0, at.sequence.0);
                    format!("{:?} {} {}", gap.reason, gap.from.map_or("?".to_owned(), place), place(gap.to))
                }
                Delivery::End => "end".to_owned(),
            });
        }
        std::thread::yield_now();
    }
    taken
}

#[test]
fn who_is_past_the_fork_is_told_and_others_go_on() {
    let (log, hub) = hub(1 << 16);
    let mut past = subscribe(&hub, Start::Now);
    (1..=5).for_each(|n| append(&log, "a", &n.to_string()));
    assert_eq!(taken(&mut past).len(), 5);
    // These have taken nothing yet, and stand before the fork.
    let mut before = subscribe(
        &hub,
        Start::Cursor(key().seal(Position { epoch: Epoch(1), sequence: Sequence(2) }).to_string()),
    );
    log.lose_behind(Sequence(3), Epoch(2), Vec::new());
    append(&log, "a", "new");
    assert_eq!(hub.head(), Position { epoch: Epoch(2), sequence: Sequence(4) });
    assert_eq!(taken(&mut past), ["Epoch 1.5 2.3", "2.4 new"]);
    assert_eq!(taken(&mut before), ["1.3 3", "2.4 new"]);
    append(&log, "a", "newer");
    assert_eq!(taken(&mut past), ["2.5 newer"]);
    assert_eq!(taken(&mut before), ["2.5 newer"]);
}

#[test]
fn a_fork_that_loses_nothing_is_told_to_nobody() {
    let (log, hub) = hub(1 << 16);
    let mut one = subscribe(&hub, Start::Now);
    append(&log, "a", "1");
    log.lose_behind(Sequence(1), Epoch(2), Vec::new());
    append(&log, "a", "2");
    assert_eq!(taken(&mut one), ["1.1 1", "2.2 2"]);
    let cursor = key().seal(Position { epoch: Epoch(1), sequence: Sequence(1) }).to_string();
    assert_eq!(taken(&mut subscribe(&hub, Start::Cursor(cursor))), ["2.2 2"]);
}

#[test]
fn a_log_that_has_missed_something_loses_nothing() {
    let (log, hub) = hub(1 << 16);
    let mut one = subscribe(&hub, Start::Now);
    append(&log, "a", "1");
    assert_eq!(taken(&mut one), ["1.1 1"]);
    // The same epoch, and more than was known.
    log.lose_behind(Sequence(1), Epoch(1), vec![record("a", "2", true), record("b", "3", true)]);
    append(&log, "a", "4");
    assert_eq!(taken(&mut one), ["1.2 2", "1.4 4"]);
}

#[test]
fn a_place_that_was_found_before_a_fork_is_not_believed_after_it() {
    let head = Position { epoch: Epoch(1), sequence: Sequence(5) };
    let views: Vec<View> = vec!["a".parse::<Channel>().unwrap().into()];
    for (start, expected) in [
        (Start::Cursor(key().seal(head).to_string()), &["Epoch 1.5 2.3", "2.4 new"][..]),
        (
            Start::Cursor(key().seal(Position { epoch: Epoch(1), sequence: Sequence(2) }).to_string()),
            &["1.3 3", "2.4 new"],
        ),
        (Start::History(2), &["2.4 new"]),
    ] {
        let (log, hub) = hub(1 << 16);
        (1..=5).for_each(|n| append(&log, "a", &n.to_string()));
        let resume = hub.resume(&views, &start, &Lens::default(), NOW).unwrap();
        log.lose_behind(Sequence(3), Epoch(2), vec![record("a", "new", true)]);
        let mut subscription = Subscription::at(&hub, &views, Lens::default(), resume, NOW);
        assert_eq!(taken(&mut subscription), expected, "{start:?}");
    }
}

#[test]
fn who_follows_a_log_that_lost_everything_comes_to_rest() {
    let (log, hub) = hub(1 << 16);
    let mut shard = hub.shard(Box::new(|| {}));
    let views: Vec<View> = vec!["a".parse::<Channel>().unwrap().into()];
    let resume = hub.resume(&views, &Start::Now, &Lens::default(), NOW).unwrap();
    let (id, ..) = shard.subscribe_records(&views, resume, Lens::default(), NOW);
    append(&log, "a", "1");
    log.lose_behind(Sequence::START, Epoch(2), Vec::new());
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while {
        while shard.consume(usize::MAX) {}
        shard.take(id, NOW);
        shard.is_behind(id)
    } {
        assert!(std::time::Instant::now() < deadline, "{}", shard.describe(id));
        std::thread::yield_now();
    }
    let pages = shard.stats().pages.load(std::sync::atomic::Ordering::Relaxed);
    assert!(pages < 10, "{pages} pages of an empty log");
}

/// A stream over as many connections as it takes, whose socket takes what the dice say.
struct Client {
    id: Option<SubscriberId>,
    text: String,
    cursor: Option<String>,
    /// Where it began, or goes on after the last gap, and what came since.
    since: Position,
    events: Vec<(u64, String)>,
}

struct World {
    log: Arc<MemoryLog>,
    hub: Hub,
    shard: Shard,
    clients: Vec<Client>,
    epoch: u32,
    serial: u64,
    dice: u64,
    met: BTreeMap<&'static str, u64>,
}

impl World {
    fn roll(&mut self, below: u64) -> u64 {
        self.dice ^= self.dice >> 12;
        self.dice ^= self.dice << 25;
        self.dice ^= self.dice >> 27;
        (self.dice.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % below.max(1)
    }

    fn meet(&mut self, what: &'static str) {
        *self.met.entry(what).or_default() += 1;
    }

    fn fresh(&mut self) -> NewRecord {
        self.serial += 1;
        let store = self.roll(6) > 0;
        // What is not kept is known by its data.
        let kind = if store { "" } else { "unkept" };
        let more = usize::try_from(self.roll(300)).unwrap();
        let data = format!("{kind}{} {}", self.serial, "x".repeat(more));
        let channel = ["a", "b"][usize::from(self.roll(3) == 0)];
        record(channel, &data, store)
    }

    fn step(&mut self) {
        match self.roll(20) {
            0..7 => {
                let batch = (0..=self.roll(3)).map(|_| self.fresh()).collect();
                wait(self.log.append(batch)).unwrap();
            }
            7 => {
                let head = self.log.head().sequence.0;
                let lost = self.roll(6);
                self.epoch += 1;
                let more = (0..self.roll(8)).map(|_| self.fresh()).collect();
                self.log.lose_behind(Sequence(head.saturating_sub(lost)), Epoch(self.epoch), more);
            }
            8..10 => {
                let budget = usize::try_from(self.roll(6)).unwrap();
                self.shard.consume(budget);
            }
            10..12 => {
                let at = usize::try_from(self.roll(self.clients.len() as u64)).unwrap();
                self.connect(at);
            }
            _ => {
                let at = usize::try_from(self.roll(self.clients.len() as u64)).unwrap();
                let most =
                    if self.roll(2) == 0 { usize::MAX } else { usize::try_from(self.roll(150)).unwrap() };
                self.write(at, most);
            }
        }
    }

    fn connect(&mut self, at: usize) {
        if self.clients[at].id.is_some() {
            if self.roll(4) > 0 {
                return;
            }
            self.drop_connection(at);
        }
        let start = match &self.clients[at].cursor {
            Some(cursor) => Start::Cursor(cursor.clone()),
            None => Start::Now,
        };
        let views: Vec<View> = vec!["a".parse::<Channel>().unwrap().into()];
        let resume = self.hub.resume(&views, &start, &Lens::default(), NOW).unwrap();
        if self.roll(3) == 0 {
            // What happens between looking for a place and going there.
            (0..4).for_each(|_| self.step_of_the_log());
        }
        let opening = Opening {
            views,
            resume,
            head: Vec::new(),
            open: Some("{}".to_owned()),
            framing: Framing::Raw,
            envelope: false,
            lens: Lens::default(),
            tells: Tells::default(),
            connection: None,
        };
        self.clients[at].id = Some(self.shard.subscribe(opening, NOW));
    }

    fn step_of_the_log(&mut self) {
        if self.roll(3) == 0 {
            self.epoch += 1;
            let head = self.log.head().sequence.0;
            let lost = self.roll(6);
            let more = (0..self.roll(3)).map(|_| self.fresh()).collect();
            self.log.lose_behind(Sequence(head.saturating_sub(lost)), Epoch(self.epoch), more);
            self.meet("a fork between looking for a place and going there");
        } else {
            let batch = vec![self.fresh()];
            wait(self.log.append(batch)).unwrap();
        }
    }

    fn drop_connection(&mut self, at: usize) {
        if let Some(id) = self.clients[at].id.take() {
            self.shard.unsubscribe(id);
        }
        self.clients[at].text.clear();
    }

    /// Writes to a client what it is behind by. Whether there was anything.
    fn write(&mut self, at: usize, most: usize) -> bool {
        let Some(id) = self.clients[at].id else { return false };
        match self.shard.pending(id, NOW) {
            Pending::Bytes(bytes) => {
                let taken = bytes.len().min(most);
                let text = String::from_utf8(bytes[..taken].to_vec()).unwrap();
                self.shard.wrote(id, taken, NOW);
                self.clients[at].text.push_str(&text);
                self.receive(at);
                true
            }
            Pending::Cut(_) => {
                self.meet("a cut");
                self.drop_connection(at);
                true
            }
            Pending::Later | Pending::Reading => {
                std::thread::yield_now();
                true
            }
            _ => false,
        }
    }

    fn receive(&mut self, at: usize) {
        while let Some(end) = self.clients[at].text.find("\n\n") {
            let block: String = self.clients[at].text.drain(..end + 2).collect();
            let field =
                |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
            let Some(id) = field("id: ").or(field("id:")) else { continue };
            let position = key().open(&id).unwrap();
            let kind = field("event: ").or(field("event:")).unwrap_or_default();
            let client = &mut self.clients[at];
            let first = client.cursor.is_none();
            client.cursor = Some(id);
            match &kind[..] {
                "tidings:gap" => {
                    assert!(block.contains("epoch"), "{block}");
                    client.since = position;
                    client.events.clear();
                    self.meet("a gap");
                }
                "tidings:open" if first => client.since = position,
                "" => {
                    let data = field("data: ").or(field("data:")).unwrap();
                    let serial = data.split(' ').next().unwrap().to_owned();
                    client.events.push((position.sequence.0, serial));
                    self.meet("an event");
                }
                _ => {}
            }
        }
    }

    /// Everything comes to rest, and everybody has all of the log from where it went on after its last gap.
    fn settle(&mut self) {
        for at in 0..self.clients.len() {
            loop {
                while self.shard.consume(usize::MAX) {}
                if self.clients[at].id.is_none() {
                    self.connect(at);
                }
                if !self.write(at, usize::MAX) && self.clients[at].id.is_some() {
                    break;
                }
            }
        }
        let view: View = "a".parse::<Channel>().unwrap().into();
        for at in 0..self.clients.len() {
            let client = &self.clients[at];
            let selection = Selection { view: view.clone(), after: client.since.sequence };
            let limit = ReadLimit { through: Sequence(u64::MAX), records: usize::MAX, bytes: usize::MAX };
            let mut kept = Vec::new();
            let mut after = selection.after;
            while after < self.log.head().sequence {
                let page = self
                    .log
                    .read(&[Selection { after, ..selection.clone() }], Order::Oldest, limit, NOW)
                    .unwrap();
                after = page.through;
                kept.extend(page.records.iter().map(|record| {
                    let serial = record.event.data.as_str().split(' ').next().unwrap().to_owned();
                    (record.position.sequence.0, serial)
                }));
            }
            let mut got = client.events.clone();
            got.retain(|(_, serial)| !serial.starts_with("unkept"));
            assert_eq!(
                got, kept,
                "client {at} since {:?}: all, in order, once, and nothing that is lost",
                client.since
            );
            let here = key().open(client.cursor.as_ref().unwrap()).unwrap();
            assert!(matches!(self.log.locate(here), Located::Here(_)), "{here:?}");
        }
    }
}

#[test]
fn forks_at_any_time_lose_nothing_silently() {
    let mut met = BTreeMap::new();
    for seed in 1..=1000_u64 {
        let (log, hub) = hub(if seed % 2 == 0 { 16 } else { 1 << 16 });
        let shard = hub.shard(Box::new(|| {}));
        let client = |_| Client {
            id: None,
            text: String::new(),
            cursor: None,
            since: Position::UNKNOWN,
            events: Vec::new(),
        };
        let clients = (0..4).map(client).collect();
        let dice = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut world = World { log, hub, shard, clients, epoch: 1, serial: 0, dice, met: BTreeMap::new() };
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..400 {
                world.step();
            }
            world.settle();
        }));
        run.unwrap_or_else(|_| panic!("the schedule of seed {seed} failed"));
        for (what, count) in world.met {
            *met.entry(what).or_insert(0) += count;
        }
    }
    for what in ["a gap", "a cut", "an event", "a fork between looking for a place and going there"] {
        assert!(met.get(what).is_some_and(|count| *count > 50), "{met:?}");
    }
}

/// So that the unused parts of a position are seen to be what they are.
#[test]
fn a_gap_names_the_old_place() {
    let (log, hub) = hub(1 << 16);
    let mut one = subscribe(&hub, Start::Now);
    append(&log, "a", "1");
    taken(&mut one);
    log.lose_behind(Sequence::START, Epoch(2), Vec::new());
    let Some(Delivery::Gap(gap)) = (0..1000).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(1));
        one.take(NOW).unwrap()
    }) else {
        panic!("no gap")
    };
    assert_eq!(gap.reason, GapReason::Epoch);
    assert_eq!(gap.from, Some(Position { epoch: Epoch(1), sequence: Sequence(1) }));
    let back: Cursor = key().seal(gap.to);
    assert_eq!(key().open(back.as_str()).unwrap(), Position { epoch: Epoch(2), sequence: Sequence::START });
}
