//! Rust clients, other people's and our own, against the real binary: what is published arrives, through losses, once
//! and in order.

use tidings_rust_clients::{Ending, Hub, Kind, Proxy, Reader, Seen};

/// So many streams are cut side by side: most of the time goes into waiting to reconnect.
const LANES: usize = 24;

/// Runs each test for each client.
macro_rules! for_each_client {
    ($($test:ident),* $(,)?) => {
        mod reqwest_eventsource {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() { super::$test(super::Kind::ReqwestEventsource).await; })*
        }
        mod eventsource_client {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() { super::$test(super::Kind::EventsourceClient).await; })*
        }
        mod tidings_client {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() { super::$test(super::Kind::Tidings).await; })*
        }
    };
}

for_each_client!(
    events_arrive_live,
    a_killed_server_is_followed,
    a_restarted_server_is_followed,
    a_connection_lost_before_its_first_event_is_resumed,
    a_stream_cut_at_every_byte_of_an_event_loses_and_doubles_nothing,
    a_stream_cut_at_every_byte_of_its_beginning_loses_and_doubles_nothing,
    a_stream_cut_under_load_loses_and_doubles_nothing,
);

/// What was published to one channel, in order.
struct Published<'a> {
    hub: &'a Hub,
    channel: String,
    events: Vec<Seen>,
}

impl<'a> Published<'a> {
    fn to(hub: &'a Hub, channel: String) -> Published<'a> {
        Published { hub, channel, events: Vec::new() }
    }

    async fn publish(&mut self, events: &[(&str, &str)]) {
        let ids = self.hub.publish(&self.channel, events).await;
        for (id, (event, data)) in ids.into_iter().zip(events) {
            self.events.push(Seen { id, event: (*event).to_owned(), data: (*data).to_owned() });
        }
    }
}

async fn events_arrive_live(kind: Kind) {
    let hub = Hub::start().await;
    let mut published = Published::to(&hub, "live".to_owned());
    let mut reader = Reader::open(kind, hub.port(), hub.token(), &published.channel);
    reader.opened(1).await;
    published.publish(&[("order", "named")]).await;
    reader.saw("named").await;
    published.publish(&[("order.paid", "two\nlines"), ("message", " a space, an end \n")]).await;
    published.publish(&[("message", "žluťoučký 🐎 \u{2028} : data: id: x")]).await;
    published.publish(&[("message", "\n\nevent: tidings:gap\nid: x\n\n"), ("message", "last")]).await;
    reader.saw("last").await;
    assert_eq!(reader.events(), published.events);
    hub.end().await;
}

async fn a_killed_server_is_followed(kind: Kind) {
    follow(kind, async |hub| hub.kill_and_restart().await).await;
}

/// A drain may say so in the stream, but ends no client for good.
async fn a_restarted_server_is_followed(kind: Kind) {
    follow(kind, async |hub| hub.restart().await).await;
}

async fn follow(kind: Kind, come_and_go: impl AsyncFnOnce(&mut Hub)) {
    let mut hub = Hub::start().await;
    let mut reader = Reader::open(kind, hub.port(), hub.token(), "followed");
    reader.opened(1).await;
    let mut ids = hub.publish("followed", &[("message", "1"), ("order", "2")]).await;
    reader.saw("2").await;
    come_and_go(&mut hub).await;
    ids.extend(hub.publish("followed", &[("message", "3"), ("order", "4")]).await);
    reader.saw("4").await;
    reader.opened(2).await;
    ids.extend(hub.publish("followed", &[("message", "5")]).await);
    reader.saw("5").await;
    let seen: Vec<_> = reader.events().into_iter().map(|seen| (seen.id, seen.data)).collect();
    let expected: Vec<_> = ids.into_iter().zip((1..=5).map(|number: u32| number.to_string())).collect();
    assert_eq!(seen, expected);
    hub.end().await;
}

async fn a_connection_lost_before_its_first_event_is_resumed(kind: Kind) {
    let hub = Hub::start().await;
    let mut published = Published::to(&hub, "lost".to_owned());
    published.publish(&[("message", "before it came")]).await;
    published.events.clear();
    let proxy = Proxy::before(hub.port()).await;
    let mut reader = Reader::open(kind, proxy.port(), hub.token(), &published.channel);
    reader.opened(1).await;
    proxy.cut_after([0], Ending::Close);
    published.publish(&[("order", "while it was away"), ("message", "the second")]).await;
    reader.saw("the second").await;
    assert_eq!(reader.events(), published.events);
    hub.end().await;
}

async fn a_stream_cut_at_every_byte_of_an_event_loses_and_doubles_nothing(kind: Kind) {
    in_lanes(kind, cut_events).await;
}

async fn a_stream_cut_at_every_byte_of_its_beginning_loses_and_doubles_nothing(kind: Kind) {
    in_lanes(kind, cut_beginnings).await;
}

/// One hub, and in each lane a reader behind a proxy of its own.
async fn in_lanes(kind: Kind, run: impl AsyncFn(&Hub, Kind, usize)) {
    let hub = Hub::start().await;
    let lanes = (0..LANES).map(|lane| run(&hub, kind, lane));
    futures_util::future::join_all(lanes).await;
    hub.end().await;
}

/// In order and by reset by turns, so that both are done at every byte by two lanes that follow each other.
const ENDINGS: [Ending; 2] = [Ending::Close, Ending::Reset];

async fn cut_events(hub: &Hub, kind: Kind, lane: usize) {
    let mut published = Published::to(hub, format!("events/{lane}"));
    let proxy = Proxy::before(hub.port()).await;
    let mut reader = Reader::open(kind, proxy.port(), hub.token(), &published.channel);
    reader.opened(1).await;
    published.publish(&[("order", "event 000\nof two lines")]).await;
    reader.saw("event 000\nof two lines").await;
    let before = proxy.passed();
    published.publish(&[("order", "event 001\nof two lines")]).await;
    reader.saw("event 001\nof two lines").await;
    let length = proxy.passed() - before;
    assert!((60..200).contains(&length), "an event of {length} bytes");

    let mut cuts = 0;
    for (bytes, ending) in positions(length, lane) {
        proxy.cut_after([bytes], ending);
        let (event, after) = (format!("event {cuts}\nof two lines"), format!("after {cuts}"));
        published.publish(&[("order", &event), ("message", &after)]).await;
        cuts += 1;
        proxy.was_cut(cuts).await;
        reader.saw(&after).await;
        reader.opened(cuts + 1).await;
    }
    assert_eq!(reader.events(), published.events, "lane {lane}");
}

async fn cut_beginnings(hub: &Hub, kind: Kind, lane: usize) {
    let mut published = Published::to(hub, format!("beginnings/{lane}"));
    let proxy = Proxy::before(hub.port()).await;
    let mut reader = Reader::open(kind, proxy.port(), hub.token(), &published.channel);
    reader.opened(1).await;
    let length = proxy.passed();
    assert!((200..1000).contains(&length), "a head and first block of {length} bytes");

    let mut cuts = 0;
    for (bytes, ending) in positions(length, lane) {
        let (opens, data) = (reader.opens(), format!("event {cuts}"));
        proxy.cut_after([0, bytes], ending);
        cuts += 2;
        published.publish(&[("message", &data)]).await;
        proxy.was_cut(cuts).await;
        reader.saw(&data).await;
        reader.opened(opens + 1).await;
    }
    assert_eq!(reader.events(), published.events, "lane {lane}");
}

async fn a_stream_cut_under_load_loses_and_doubles_nothing(kind: Kind) {
    const EVENTS: usize = 1000;
    let hub = Hub::start().await;
    let mut published = Published::to(&hub, "load".to_owned());
    let proxy = Proxy::before(hub.port()).await;
    let mut reader = Reader::open(kind, proxy.port(), hub.token(), &published.channel);
    reader.opened(1).await;
    // Enough for a head, a first block and an event, so that every connection gets on; all of it is less than what is
    // published.
    let least = proxy.passed() + 200;
    let cuts: Vec<_> = (0..30).map(|number| least + number * 7919 % 3001).collect();
    let count = cuts.len();
    proxy.cut_after(cuts, Ending::Reset);
    for first in (0..EVENTS).step_by(5) {
        let data: Vec<_> =
            (first..first + 5).map(|number| format!("event {number}\n{}", "x".repeat(80))).collect();
        let events: Vec<_> = data.iter().map(|data| ("order", data.as_str())).collect();
        published.publish(&events).await;
    }
    reader.saw(&published.events.last().unwrap().data).await;
    proxy.was_cut(count).await;
    assert_eq!(reader.events(), published.events);
    hub.end().await;
}

/// The places where a lane cuts, and how.
fn positions(length: usize, lane: usize) -> impl Iterator<Item = (usize, Ending)> {
    (0..=length).flat_map(|bytes| ENDINGS.map(|ending| (bytes, ending))).skip(lane).step_by(LANES)
}
