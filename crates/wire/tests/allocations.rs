//! What an event costs, counted by an allocator that counts.

use allocation_counter::measure;
use tidings_wire::{
    Channel, CursorKey, Data, EncodedEvent, Epoch, Event, Framing, Position, Sequence, Targets,
    encode_envelope,
};

fn event(length: usize) -> Event {
    let channel: Channel = "a".parse().unwrap();
    let mut event = Event::new(Targets::from(channel), Data::Text("line\n".repeat(length / 5).into()));
    event.event = "order.paid".parse().unwrap();
    event.retry = Some(3000);
    event
}

#[test]
fn an_encoded_event_is_one_allocation_of_its_size() {
    let id = CursorKey::new([7; 16]).seal(Position { epoch: Epoch(1), sequence: Sequence(1) });
    for length in [0, 5, 200, 1 << 20] {
        let event = event(length);
        let mut encoded = None;
        let cost = measure(|| encoded = Some(EncodedEvent::new(&event, &id)));
        let size = encoded.as_ref().map_or(0, |encoded| encoded.chunk().len()) as u64;
        assert_eq!(cost.count_total, 1, "{length} bytes of data");
        // The two reference counts of an Arc, rounded up to its alignment.
        assert!((size..size + 24).contains(&cost.bytes_total), "{} for {size}", cost.bytes_total);
        assert_eq!(measure(|| drop(encoded.clone())).count_total, 0, "a clone counts a reference");
    }
}

#[test]
fn what_is_appended_allocates_nothing_where_there_is_room() {
    let id = CursorKey::new([7; 16]).seal(Position { epoch: Epoch(1), sequence: Sequence(1) });
    let (event, channel) = (event(200), "a".parse().unwrap());
    let mut out = Vec::with_capacity(4096);
    let cost = measure(|| encode_envelope(&mut out, Framing::Chunked, &event, &channel, 1, &id));
    assert_eq!(cost.count_total, 0);
    assert!(out.ends_with(b"\n\n\r\n"));
}
