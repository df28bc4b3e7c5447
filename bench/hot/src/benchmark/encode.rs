//! HOT 1, once an event.

use tidings_wire::{
    CursorKey, Data, EncodedEvent, Epoch, Event, Framing, Position, Sequence, Targets, encode_envelope,
};

use super::{Benchmark, Once};

pub(super) const ALL: &[Benchmark] = &[
    encode("encode: 10 bytes", || encoding(&"x".repeat(10))),
    encode("encode: 200 bytes", || encoding(&"x".repeat(200))),
    encode("encode: 20 lines of 10 bytes", || encoding(&"123456789\n".repeat(20))),
    encode("encode: 16 KiB", || encoding(&"x".repeat(16 << 10))),
    encode("encode: 200 bytes in an envelope", enveloping),
];

const fn encode(name: &'static str, prepare: fn() -> Once) -> Benchmark {
    Benchmark { name, warm_up: 10, rounds: 2000, prepare }
}

fn encoding(data: &str) -> Once {
    let (event, key) = (event(data), CursorKey::new([7; 16]));
    let id = key.seal(Position { epoch: Epoch(1), sequence: Sequence(1) });
    Box::new(move |meter| drop(meter.count(1, || EncodedEvent::new(&event, &id))))
}

fn enveloping() -> Once {
    let (event, key) = (event(&"x".repeat(200)), CursorKey::new([7; 16]));
    let id = key.seal(Position { epoch: Epoch(1), sequence: Sequence(1) });
    let mut out = Vec::with_capacity(1024);
    Box::new(move |meter| {
        out.clear();
        let channel = &event.to.channels()[0];
        meter.count(1, || encode_envelope(&mut out, Framing::Chunked, &event, channel, 1 << 40, &id));
    })
}

fn event(data: &str) -> Event {
    let mut event = Event::new(Targets::from(super::worker::channel("orders/1234")), Data::from(data));
    event.event = "order.paid".parse().unwrap_or_default();
    event
}
