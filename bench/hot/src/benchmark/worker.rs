//! A worker without sockets: a hub whose log is in memory, and one shard of its subscribers.

use std::sync::Arc;

use tidings_hub::log::{Caps, MemoryLog, MemoryLogConfig, NewRecord, Retention};
use tidings_hub::{
    Hub, HubConfig, Lens, Opening, Pending, Shard, Start, SubscriberId, Tells, Timestamp, View,
};
use tidings_wire::{Channel, CursorKey, Data, Epoch, Event, Framing, Pattern, Targets};

pub(super) const NOW: Timestamp = Timestamp(1 << 40);

/// So small that after as many events everything that grows with the window has its size.
pub(super) const WINDOW: usize = 1024;

pub(super) struct Worker {
    pub(super) hub: Hub,
    pub(super) shard: Shard,
}

impl Worker {
    pub(super) fn new() -> Worker {
        let hub = hub();
        let shard = hub.shard(Box::new(|| {}));
        Worker { hub, shard }
    }

    pub(super) fn subscribe(&mut self, names: &[&str], envelope: bool) -> SubscriberId {
        let opening = self.opening(names, envelope);
        self.shard.subscribe(opening, NOW)
    }

    pub(super) fn opening(&self, names: &[&str], envelope: bool) -> Opening {
        opening(&self.hub, names, envelope)
    }

    pub(super) fn publish(&self, to: &str) {
        publish(&self.hub, to);
    }

    pub(super) fn publish_event(&self, event: Event) {
        store(&self.hub, event);
    }

    /// Writes to all who are ready, as a sweep does whose sockets take everything.
    pub(super) fn write(&mut self) {
        while let Some(id) = self.shard.next_ready() {
            while let Pending::Bytes(bytes) = self.shard.pending(id, NOW) {
                let count = bytes.len();
                self.shard.wrote(id, count, NOW);
            }
        }
    }
}

pub(super) fn hub() -> Hub {
    let config = HubConfig { window_records: WINDOW, ..HubConfig::new(CursorKey::new([1; 16])) };
    Hub::start(Arc::new(log()), config).unwrap_or_else(|error| panic!("a log in memory can be read: {error}"))
}

pub(super) fn log() -> MemoryLog {
    // Few, so that each append also takes an old one out, as in the long run.
    let caps = Caps { count: Some(16), ..Caps::default() };
    MemoryLog::new(MemoryLogConfig {
        epoch: Epoch(1),
        retention: Retention { default: caps, ..Retention::default() },
    })
}

pub(super) fn opening(hub: &Hub, names: &[&str], envelope: bool) -> Opening {
    let views: Vec<View> = names.iter().map(|name| view(name)).collect();
    let resume = hub.resume(&views, &Start::Now, &Lens::default(), NOW);
    Opening {
        resume: resume.unwrap_or_else(|error| panic!("a log in memory can be read: {error}")),
        views,
        head: b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n".to_vec(),
        open: None,
        framing: Framing::Chunked,
        envelope,
        lens: Lens::default(),
        tells: Tells::default(),
        connection: None,
    }
}

/// Stores an event and announces it, all on this thread.
pub(super) fn publish(hub: &Hub, to: &str) {
    store(hub, event(to));
}

fn store(hub: &Hub, event: Event) {
    drop(hub.log().append(vec![NewRecord { time: NOW, event: Arc::new(event) }]));
}

pub(super) fn event(to: &str) -> Event {
    Event::new(Targets::from(channel(to)), Data::from("x".repeat(200).as_str()))
}

pub(super) fn channel(name: &str) -> Channel {
    name.parse().unwrap_or_else(|error| panic!("{name} is no channel: {error}"))
}

fn view(name: &str) -> View {
    name.parse::<Pattern>().unwrap_or_else(|error| panic!("{name} is no pattern: {error}")).into()
}
