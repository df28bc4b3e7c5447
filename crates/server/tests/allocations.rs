//! What a worker's turn allocates: nothing for one subscriber and one event, with real sockets.

use std::sync::Arc;

use allocation_counter::measure;
use tidings_hub::log::{MemoryLog, MemoryLogConfig, NewRecord, Retention};
use tidings_hub::{Hub, HubConfig, Lens, Opening, Start, Tells, Timestamp, View};
use tidings_server::hot::Sockets;
use tidings_wire::{Channel, CursorKey, Data, Epoch, Event, Framing, Targets};

const NOW: Timestamp = Timestamp(1);
/// Small, so that the lists that grow with the window are as long as they get after a few rounds.
const WINDOW: usize = 1024;
const SUBSCRIBERS: usize = 200;

fn channel() -> Channel {
    "a".parse().unwrap()
}

fn hub() -> Hub {
    let log = Arc::new(MemoryLog::new(MemoryLogConfig { epoch: Epoch(1), retention: Retention::default() }));
    let config = HubConfig { window_records: WINDOW, ..HubConfig::new(CursorKey::new([1; 16])) };
    Hub::start(log, config).unwrap()
}

fn opening(hub: &Hub) -> Opening {
    let views = vec![View::from(channel())];
    Opening {
        resume: hub.resume(&views, &Start::Now, &Lens::default(), NOW).unwrap(),
        views,
        head: b"HTTP/1.1 200 OK\r\n\r\n".to_vec(),
        open: None,
        framing: Framing::Chunked,
        envelope: false,
        lens: Lens::default(),
        tells: Tells::default(),
        connection: None,
    }
}

fn publish(hub: &Hub, events: usize) {
    for _ in 0..events {
        let event = Arc::new(Event::new(Targets::from(channel()), Data::from("x".repeat(200).as_str())));
        // Stored when this returns; the future only says so.
        drop(hub.log().append(vec![NewRecord { time: NOW, event }]));
    }
}

#[test]
fn a_turn_allocates_nothing() {
    let hub = hub();
    let mut sockets = Sockets::new(&hub, (0..SUBSCRIBERS).map(|_| opening(&hub)), NOW).unwrap();
    for _ in 0..2 * WINDOW / 32 {
        publish(&hub, 32);
        sockets.turn();
        sockets.read();
    }
    for events in [1, 32] {
        publish(&hub, events);
        assert_eq!(measure(|| sockets.turn()).count_total, 0, "{events} events");
        let read = sockets.read();
        assert!(read > 200 * events * SUBSCRIBERS, "{read} bytes of {events} events");
    }
    assert_eq!(sockets.stuck(), 0);
}

#[test]
fn a_socket_that_takes_no_more_costs_one_note() {
    let hub = hub();
    let mut sockets = Sockets::new(&hub, (0..SUBSCRIBERS).map(|_| opening(&hub)), NOW).unwrap();
    let mut allocated = 0;
    for _ in 0..2 * WINDOW / 32 {
        publish(&hub, 32);
        allocated = measure(|| sockets.turn()).count_total;
    }
    assert_eq!(sockets.stuck(), SUBSCRIBERS, "all are blocked, each is noted once");
    assert_eq!(allocated, 0, "who is blocked costs nothing more");
}
