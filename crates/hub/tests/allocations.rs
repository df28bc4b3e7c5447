//! What a delivery allocates: nothing for one subscriber and one event, however far behind the subscriber is.
//!
//! The allocator counts what this thread does: the log in memory stores and announces on the publisher's, and the
//! shard is driven here as a worker drives it.

use std::sync::Arc;

use allocation_counter::measure;
use tidings_hub::log::{Caps, MemoryLog, MemoryLogConfig, NewRecord, Retention};
use tidings_hub::{
    Hub, HubConfig, Lens, Opening, Pending, Say, Shard, Start, SubscriberId, Tells, Timestamp, View,
};
use tidings_wire::{Channel, CursorKey, Data, Epoch, Event, Framing, Pattern, Targets};

const NOW: Timestamp = Timestamp(1);
/// Small, so that the lists that grow with the window are as long as they get after a few rounds.
const WINDOW: usize = 1024;

/// A worker without sockets.
struct Worker {
    hub: Hub,
    shard: Shard,
}

impl Worker {
    fn new() -> Worker {
        let caps = Caps { count: Some(16), ..Caps::default() };
        let retention = Retention { default: caps, ..Retention::default() };
        let log = Arc::new(MemoryLog::new(MemoryLogConfig { epoch: Epoch(1), retention }));
        let config = HubConfig { window_records: WINDOW, ..HubConfig::new(CursorKey::new([1; 16])) };
        let hub = Hub::start(log, config).unwrap();
        let shard = hub.shard(Box::new(|| {}));
        Worker { hub, shard }
    }

    fn subscribe(&mut self, views: &[&str], framing: Framing, envelope: bool) -> SubscriberId {
        let views: Vec<View> = views.iter().map(|text| text.parse::<Pattern>().unwrap().into()).collect();
        let opening = Opening {
            resume: self.hub.resume(&views, &Start::Now, &Lens::default(), NOW).unwrap(),
            views,
            head: b"HTTP/1.1 200 OK\r\n\r\n".to_vec(),
            open: None,
            framing,
            envelope,
            lens: Lens::default(),
            tells: Tells::default(),
            connection: None,
        };
        self.shard.subscribe(opening, NOW)
    }

    fn publish(&self, to: &str) {
        let event = Event::new(Targets::from(to.parse::<Channel>().unwrap()), Data::from("hello"));
        // Stored when this returns; the future only says so.
        drop(self.hub.log().append(vec![NewRecord { time: NOW, event: Arc::new(event) }]));
    }

    /// Takes in what there is and writes it to all, of each block at most `most` bytes at a time; how many writes.
    fn sweep(&mut self, most: usize) -> usize {
        while self.shard.consume(1024) {}
        let mut writes = 0;
        while let Some(id) = self.shard.next_ready() {
            while let Pending::Bytes(bytes) = self.shard.pending(id, NOW) {
                let count = bytes.len().min(most);
                self.shard.wrote(id, count, NOW);
                writes += 1;
            }
        }
        writes
    }

    /// What a sweep allocates once everything that is kept from one to the next is as large as it gets.
    fn settled(&mut self, mut publish: impl FnMut(&Worker), writes: usize) -> u64 {
        self.sweep(usize::MAX);
        for _ in 0..2 * WINDOW {
            publish(self);
            self.sweep(usize::MAX);
        }
        let mut allocated = 0;
        for _ in 0..10 {
            publish(self);
            allocated += measure(|| assert_eq!(self.sweep(usize::MAX), writes)).count_total;
        }
        allocated
    }
}

#[test]
fn one_event_for_a_thousand_allocates_nothing() {
    for framing in [Framing::Chunked, Framing::Raw] {
        for view in ["a", "*", "**"] {
            let mut worker = Worker::new();
            for _ in 0..1000 {
                worker.subscribe(&[view], framing, false);
            }
            assert_eq!(worker.settled(|worker| worker.publish("a"), 1000), 0, "{framing:?} {view}");
        }
    }
}

#[test]
fn one_event_for_a_thousand_who_follow_more_allocates_nothing() {
    let mut worker = Worker::new();
    for n in 0..1000 {
        let own = [format!("b/{n}"), format!("c/{}", n % 10)];
        worker.subscribe(&["a", &own[0], &own[1], "$all", "d/*"], Framing::Chunked, false);
    }
    assert_eq!(worker.settled(|worker| worker.publish("a"), 1000), 0);
}

#[test]
fn events_of_several_views_allocate_nothing() {
    let mut worker = Worker::new();
    for n in 0..500 {
        let own = format!("b/{n}");
        worker.subscribe(&["a", "c", "d/*", &own], Framing::Chunked, false);
    }
    let publish = |worker: &Worker| ["a", "c", "d/1", "a"].iter().for_each(|to| worker.publish(to));
    assert_eq!(worker.settled(publish, 500), 0);
}

#[test]
fn batches_for_those_who_are_behind_allocate_nothing() {
    let mut worker = Worker::new();
    for _ in 0..1000 {
        worker.subscribe(&["a"], Framing::Chunked, false);
    }
    let publish = |worker: &Worker| (0..32).for_each(|_| worker.publish("a"));
    assert_eq!(worker.settled(publish, 1000), 0);
}

#[test]
fn envelopes_allocate_nothing() {
    for views in [&["a"][..], &["a", "b", "*"]] {
        let mut worker = Worker::new();
        for _ in 0..1000 {
            worker.subscribe(views, Framing::Chunked, true);
        }
        assert_eq!(worker.settled(|worker| worker.publish("a"), 1000), 0, "{views:?}");
    }
}

#[test]
fn heartbeats_allocate_nothing() {
    let mut worker = Worker::new();
    let ids: Vec<_> = (0..1000).map(|_| worker.subscribe(&["a"], Framing::Chunked, false)).collect();
    worker.sweep(usize::MAX);
    let cost = measure(|| {
        ids.iter().for_each(|id| worker.shard.say(*id, Say::Heartbeat));
        assert_eq!(worker.sweep(3), 3000);
    });
    assert_eq!(cost.count_total, 0);
}

#[test]
fn being_blocked_and_behind_allocates_nothing() {
    let mut worker = Worker::new();
    let ids: Vec<_> = (0..1000).map(|_| worker.subscribe(&["a"], Framing::Chunked, false)).collect();
    assert_eq!(worker.settled(|worker| worker.publish("a"), 1000), 0);
    ids.iter().for_each(|id| worker.shard.block(*id));
    for _ in 0..100 {
        worker.publish("a");
    }
    let cost = measure(|| assert_eq!(worker.sweep(usize::MAX), 0));
    assert_eq!(cost.count_total, 0, "behind");
    ids.iter().for_each(|id| worker.shard.unblock(*id));
    worker.sweep(usize::MAX);
    worker.publish("a");
    // Each block in many small writes.
    let cost = measure(|| assert!(worker.sweep(7) > 5000));
    assert_eq!(cost.count_total, 0, "in parts");
    worker.publish("a");
    while worker.shard.consume(1024) {}
    for id in ids {
        let cost = measure(|| {
            let Pending::Bytes(bytes) = worker.shard.pending(id, NOW) else { panic!("nothing for {id:?}") };
            assert!(bytes.len() > 3);
            worker.shard.wrote(id, 3, NOW);
            worker.shard.block(id);
            worker.shard.unblock(id);
        });
        assert_eq!(cost.count_total, 0, "blocked in the middle");
    }
}
