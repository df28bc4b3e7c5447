//! What a subscriber is shown of its channels, where that is less than everything: conflation by key, filters by tags,
//! channels that end. Shards and a log in memory, moved by hand, on virtual time.

use std::sync::Arc;
use std::time::Duration;

use tidings_hub::log::{MemoryLog, MemoryLogConfig, Retention};
use tidings_hub::{
    Change, Hub, HubConfig, Lens, Opening, Pending, Resume, Shard, Start, SubscriberId, Tells, Timestamp,
    View, Who,
};
use tidings_wire::{
    Channel, CursorKey, Data, Epoch, Event, Exclude, Framing, Limits, Message, Number, Parser, Pattern,
    TagValue, Tags, Targets,
};

const NOW: Timestamp = Timestamp(1_000_000);

struct World {
    hub: Hub,
    shard: Shard,
    parser: Parser,
}

impl World {
    fn new(window: usize) -> World {
        let config = MemoryLogConfig { epoch: Epoch(1), retention: Retention::default() };
        let mut hub = HubConfig::new(CursorKey::new([1; 16]));
        hub.window_records = window;
        let hub = Hub::start(Arc::new(MemoryLog::new(config)), hub).unwrap();
        let shard = hub.shard(Box::new(|| {}));
        World { hub, shard, parser: Parser::new(Limits::default()) }
    }

    fn publish(&self, event: Event) -> String {
        let published = self.hub.publish_batch_at(vec![event], NOW);
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(published).unwrap()[0]
            .id
            .to_string()
    }

    fn subscribe(&mut self, views: &[&str], start: Start, lens: Lens) -> SubscriberId {
        let followed: Vec<View> = views.iter().map(|text| view(text)).collect();
        let resume = self.hub.resume(&followed, &start, &lens, NOW).unwrap();
        self.open(views, resume, lens)
    }

    /// Subscribes where a place was found before.
    fn open(&mut self, views: &[&str], resume: Resume, lens: Lens) -> SubscriberId {
        let views: Vec<View> = views.iter().map(|text| view(text)).collect();
        let opening = Opening {
            views,
            resume,
            head: Vec::new(),
            open: None,
            framing: Framing::Raw,
            envelope: false,
            lens,
            tells: Tells { end: true, skipped: true },
            connection: None,
        };
        self.parser = Parser::new(Limits::default());
        self.shard.subscribe(opening, NOW)
    }

    fn purge(&self, channel: &str) {
        let removed = self.hub.log().purge(channel.parse().unwrap());
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(removed).unwrap();
    }

    /// Everything that is to be written to a subscriber, read as a client does; control events as their types.
    fn read(&mut self, id: SubscriberId) -> Vec<String> {
        let mut told = Vec::new();
        for _ in 0..10_000 {
            while self.shard.consume(usize::MAX) {}
            let bytes = match self.shard.pending(id, NOW) {
                Pending::Bytes(bytes) => bytes.to_vec(),
                Pending::Nothing => return told,
                Pending::Later => continue,
                Pending::Reading => {
                    std::thread::sleep(Duration::from_millis(1));
                    continue;
                }
                Pending::Over => {
                    told.push("over".to_owned());
                    return told;
                }
                Pending::Finished | Pending::Cut(_) => panic!("not asked for: {told:?}"),
            };
            self.shard.wrote(id, bytes.len(), NOW);
            let mut rest = &bytes[..];
            while let Some(message) = self.parser.next_message(&mut rest).unwrap() {
                told.push(shown(&message));
            }
        }
        panic!("it never ends: {told:?}");
    }
}

fn shown(message: &Message) -> String {
    match message.event.strip_prefix("tidings:") {
        Some("skipped") => format!("skipped {}", message.data),
        Some(control) => control.to_owned(),
        None => message.data.clone(),
    }
}

fn view(text: &str) -> View {
    text.parse::<Pattern>().unwrap().into()
}

fn event(to: &[&str], key: &str, data: &str) -> Event {
    let channels = to.iter().map(|name| name.parse::<Channel>().unwrap());
    let mut event = Event::new(Targets::new(channels).unwrap(), Data::from(data));
    event.key = (!key.is_empty()).then(|| key.parse().unwrap());
    event
}

fn tagged(to: &str, priority: f64) -> Event {
    let tag = ("priority".into(), TagValue::Number(Number::new(priority).unwrap()));
    Event { tags: Tags::new([tag]).unwrap(), ..event(&[to], "", &format!("{to} {priority}")) }
}

fn now() -> (Start, Lens) {
    (Start::Now, Lens::default())
}

#[test]
fn who_is_behind_gets_the_newest_of_each_key_in_order() {
    let mut world = World::new(1000);
    let (start, lens) = now();
    let id = world.subscribe(&["a"], start, lens);
    assert!(world.read(id).is_empty());
    world.publish(event(&["a"], "x", "x1"));
    assert_eq!(world.read(id), ["x1"], "who keeps up gets every step");
    for (key, data) in [("x", "x2"), ("y", "y1"), ("", "plain"), ("x", "x3"), ("y", "y2"), ("x", "x4")] {
        world.publish(event(&["a"], key, data));
    }
    assert_eq!(world.read(id), ["plain", "y2", "x4", "skipped {\"count\":3}"]);
    // The same key in another channel is another key.
    world.publish(event(&["a"], "x", "x5"));
    world.publish(event(&["b"], "x", "other"));
    assert_eq!(world.read(id), ["x5"]);
}

#[test]
fn only_what_the_subscriber_sees_hides_what_is_older() {
    let mut world = World::new(1000);
    let who = Who { user: Some("u".parse().unwrap()), client: None };
    let filter = Some(Arc::new("priority > 1".parse().unwrap()));
    let id = world.subscribe(&["a"], Start::Now, Lens { who, filter });
    let keyed = |priority, data: &str| Event {
        data: Data::from(data),
        key: Some("x".parse().unwrap()),
        ..tagged("a", priority)
    };
    world.publish(keyed(5.0, "seen"));
    world.publish(keyed(0.0, "of no interest"));
    let exclude = Exclude { user: Some("u".parse().unwrap()), ..Exclude::default() };
    world.publish(Event { exclude, ..keyed(5.0, "not for it") });
    world.publish(Event { store: false, ..keyed(5.0, "not kept") });
    // One that isn't kept doesn't take the place of one that is: who comes back later doesn't get it.
    assert_eq!(world.read(id), ["seen", "not kept"]);
    world.publish(keyed(5.0, "older"));
    world.publish(Event { ttl: Some(0), ..keyed(5.0, "over already") });
    assert_eq!(world.read(id), ["skipped {\"count\":1}"], "over means absent, never an older value");
}

#[test]
fn an_event_of_many_channels_is_hidden_only_where_newer_ones_came_in_each() {
    let mut world = World::new(1000);
    let (start, lens) = now();
    let both = world.subscribe(&["a", "b"], start.clone(), lens.clone());
    let one = world.subscribe(&["a"], start, lens);
    world.publish(event(&["a", "b"], "x", "1"));
    world.publish(event(&["a"], "x", "2"));
    assert_eq!(world.read(both), ["1", "2"]);
    assert_eq!(world.read(one), ["2", "skipped {\"count\":1}"]);
}

#[test]
fn who_comes_back_from_behind_the_window_gets_the_newest_of_each_key() {
    let mut world = World::new(8);
    let first = world.publish(event(&["a"], "", "first"));
    for n in 0..2_000 {
        world.publish(event(&["a"], ["x", "y"][n % 2], &n.to_string()));
        if n == 700 {
            world.publish(event(&["a"], "", "plain"));
        }
    }
    let id = world.subscribe(&["a"], Start::Cursor(first), Lens::default());
    let mut told = world.read(id);
    told.retain(|what| !what.starts_with("skipped"));
    assert_eq!(told, ["plain", "1998", "1999"]);
    // Whoever asks for all that is kept gets all of it.
    let id = world.subscribe(&["a"], Start::Earliest, Lens::default());
    assert_eq!(world.read(id).len(), 2_002);
    let id = world.subscribe(&["a"], Start::History(10), Lens::default());
    assert_eq!(world.read(id).len(), 10);
}

#[test]
fn who_comes_late_asks_for_the_newest_of_each_key() {
    let mut world = World::new(1000);
    for n in 0..20 {
        world.publish(event(&["a"], ["x", "y", ""][n % 3], &n.to_string()));
    }
    world.publish(event(&["b"], "x", "b"));
    let id = world.subscribe(&["*"], Start::Latest, Lens::default());
    let mut told = world.read(id);
    told.retain(|what| !what.starts_with("skipped"));
    assert_eq!(told, ["18", "19", "b"]);
    world.publish(event(&["a"], "", "live"));
    assert_eq!(world.read(id), ["live"]);
}

#[test]
fn a_filter_holds_back_what_it_does_not_match_live_and_replayed() {
    let mut world = World::new(8);
    let cursor = world.publish(event(&["other"], "", "before"));
    for n in 0..200 {
        world.publish(tagged("a", f64::from(n)));
    }
    let lens = Lens {
        who: Who { user: Some("7".parse().unwrap()), client: None },
        filter: Some(Arc::new("priority >= 198 || has(none)".parse().unwrap())),
    };
    let id = world.subscribe(&["a", "$user/7", "$all"], Start::Cursor(cursor), lens.clone());
    assert_eq!(world.read(id), ["a 198", "a 199"]);
    world.publish(tagged("a", 1.0));
    world.publish(tagged("a", 1000.0));
    world.publish(Event::new(Channel::user(&"7".parse().unwrap()).into(), "mine".into()));
    world.publish(Event::new(Channel::all().into(), "all".into()));
    assert_eq!(world.read(id), ["a 1000", "mine", "all"], "what is sent to it comes all the same");
    // The newest two are two that it sees.
    let id = world.subscribe(&["a"], Start::History(2), lens);
    assert_eq!(world.read(id), ["a 199", "a 1000"]);
}

#[test]
fn a_stream_ends_when_all_its_channels_have() {
    let mut world = World::new(1000);
    let (start, lens) = now();
    let id = world.subscribe(&["a", "b", "$all"], start.clone(), lens.clone());
    let pattern = world.subscribe(&["a", "c/*"], start, lens);
    world.publish(event(&["a"], "", "1"));
    world.publish(Event { end: true, ..event(&["a"], "", "last of a") });
    assert_eq!(world.read(id), ["1", "last of a"]);
    world.publish(Event { data: Data::Nothing, end: true, ..event(&["b"], "", "") });
    assert_eq!(world.read(id), ["end", "over"]);
    assert_eq!(world.read(pattern), ["1", "last of a"], "a pattern has no last event");
}

#[test]
fn what_is_added_begins_where_the_stream_is() {
    let mut world = World::new(1000);
    world.publish(event(&["b"], "", "before"));
    let (start, lens) = now();
    let id = world.subscribe(&["a"], start, lens);
    assert!(world.read(id).is_empty());
    world.publish(event(&["a"], "", "a1"));
    // It is behind by one: what is added begins before that.
    let add = Change { add: vec![view("b"), view("c/*")], ..Change::default() };
    let from = world.shard.change(id, add);
    assert_eq!(from.sequence.0, 1, "before what it has not got yet");
    world.publish(event(&["b"], "", "b1"));
    world.publish(event(&["c/1"], "", "c1"));
    assert_eq!(world.read(id), ["a1", "b1", "c1"]);
    let remove = Change { remove: vec![view("a"), view("c/*")], ..Change::default() };
    world.shard.change(id, remove);
    for name in ["a", "c/1", "b"] {
        world.publish(event(&[name], "", name));
    }
    assert_eq!(world.read(id), ["b"]);
}

#[test]
fn a_stream_that_asked_for_what_the_hub_says_has_no_end() {
    let mut world = World::new(1000);
    let (start, lens) = now();
    let both = world.subscribe(&["a", "$presence"], start.clone(), lens.clone());
    let last = world.publish(Event { end: true, ..event(&["a"], "", "last") });
    assert_eq!(world.read(both), ["last"]);
    world.publish(Event::to(Channel::presence(), "somebody came"));
    assert_eq!(world.read(both), ["somebody came"]);
    let views = [view("a"), view("$presence")];
    let back = world.hub.resume(&views, &Start::Cursor(last.clone()), &lens, NOW).unwrap();
    assert!(!back.is_over());
    let implicit = [view("a"), view("$all"), view("$user/7")];
    assert!(world.hub.resume(&implicit, &Start::Cursor(last), &lens, NOW).unwrap().is_over());
}

#[test]
fn a_change_in_the_middle_of_a_block_waits_for_its_end() {
    let mut world = World::new(1000);
    let (start, lens) = now();
    let id = world.subscribe(&["a"], start, lens);
    assert!(world.read(id).is_empty());
    world.publish(event(&["a"], "", "long enough to be cut"));
    world.publish(event(&["b"], "", "b before"));
    while world.shard.consume(usize::MAX) {}
    let Pending::Bytes(bytes) = world.shard.pending(id, NOW) else { panic!("an event is pending") };
    let bytes = bytes[..10].to_vec();
    world.shard.wrote(id, 10, NOW);
    assert_eq!(world.parser.next_message(&mut &bytes[..]).unwrap(), None);
    let change = Change { add: vec![view("b")], remove: vec![view("a")], ..Change::default() };
    let from = world.shard.change(id, change);
    assert!(from < world.hub.head(), "where the block under way ends");
    world.publish(event(&["a"], "", "no more"));
    world.publish(event(&["b"], "", "b after"));
    assert_eq!(world.read(id), ["long enough to be cut", "b before", "b after"]);
}

#[test]
fn a_stream_whose_channel_ends_while_it_is_on_its_way_ends() {
    let mut world = World::new(1000);
    let (start, lens) = now();
    world.publish(event(&["a"], "", "1"));
    let resume = world.hub.resume(&[view("a")], &start, &lens, NOW).unwrap();
    world.publish(Event { end: true, ..event(&["a"], "", "last") });
    let id = world.open(&["a"], resume, lens);
    assert_eq!(world.read(id), ["end", "over"]);
}

#[test]
fn a_stream_whose_channel_begins_anew_while_it_is_on_its_way_goes_on() {
    let mut world = World::new(1000);
    let (_, lens) = now();
    let last = world.publish(Event { end: true, ..event(&["a"], "", "last") });
    let before = world.publish(event(&["b"], "", "b"));
    let (views, start) = ([view("a"), view("b")], Start::Cursor(last));
    world.publish(Event { end: true, ..event(&["b"], "", "last of b") });
    let resume = world.hub.resume(&views, &start, &lens, NOW).unwrap();
    assert!(!resume.is_over(), "after {before} there is more");
    world.purge("a");
    world.publish(event(&["a"], "", "anew"));
    let id = world.open(&["a", "b"], resume, lens);
    let told = world.read(id);
    assert_eq!(told.last().unwrap(), "anew", "{told:?}");
}

#[test]
fn nothing_is_lost_between_an_empty_history_and_the_stream() {
    let mut world = World::new(1000);
    let (_, lens) = now();
    for start in [Start::Earliest, Start::History(5)] {
        let resume = world.hub.resume(&[view("a")], &start, &lens, NOW).unwrap();
        world.publish(event(&["a"], "", "meanwhile"));
        let id = world.open(&["a"], resume, lens.clone());
        assert_eq!(world.read(id), ["meanwhile"], "{start:?}");
        world.purge("a");
    }
}

#[test]
fn what_is_added_to_a_history_that_is_read_begins_behind_it() {
    for start in [Start::History(5), Start::Latest, Start::Earliest] {
        let mut world = World::new(1000);
        let (_, lens) = now();
        world.publish(event(&["a"], "k", "a1"));
        world.publish(event(&["b"], "", "b before"));
        let head = world.publish(event(&["a"], "l", "a2"));
        let id = world.subscribe(&["a"], start.clone(), lens);
        let add = Change { add: vec![view("b")], ..Change::default() };
        let from = world.shard.change(id, add);
        assert_eq!(Some(from), world.hub.key().open(&head).ok(), "{start:?}: behind what is read first");
        world.publish(event(&["b"], "", "b after"));
        assert_eq!(world.read(id), ["a1", "a2", "b after"], "{start:?}");
    }
}

#[test]
fn what_is_taken_from_a_history_that_is_read_comes_no_more() {
    for start in [Start::History(5), Start::Latest, Start::Earliest] {
        let mut world = World::new(1000);
        let (_, lens) = now();
        world.publish(event(&["a"], "k", "a1"));
        world.publish(event(&["b"], "k", "b1"));
        world.publish(event(&["c/1"], "k", "c1"));
        let id = world.subscribe(&["a", "b", "c/*"], start.clone(), lens);
        let remove = Change { remove: vec![view("b"), view("c/*")], ..Change::default() };
        world.shard.change(id, remove);
        assert_eq!(world.read(id), ["a1"], "{start:?}");
    }
}

#[test]
fn changes_are_carried_out_in_their_order() {
    let mut world = World::new(1000);
    let (start, lens) = now();
    let id = world.subscribe(&["a"], start, lens);
    assert!(world.read(id).is_empty());
    world.publish(event(&["a"], "", "cut"));
    while world.shard.consume(usize::MAX) {}
    let Pending::Bytes(bytes) = world.shard.pending(id, NOW) else { panic!("an event is pending") };
    let all = bytes.len();
    world.shard.wrote(id, 10, NOW);
    world.shard.change(id, Change { remove: vec![view("a")], add: vec![view("b")], ..Change::default() });
    let Pending::Bytes(rest) = world.shard.pending(id, NOW) else { panic!("the rest is pending") };
    assert_eq!(rest.len(), all - 10);
    world.shard.wrote(id, all - 10, NOW);
    // The block has ended, and nobody has looked since.
    world.shard.change(id, Change { remove: vec![view("b")], add: vec![view("a")], ..Change::default() });
    world.publish(event(&["a"], "", "of a"));
    world.publish(event(&["b"], "", "of b"));
    assert_eq!(world.read(id), ["of a"]);
}

#[test]
fn what_is_passed_over_is_counted_once() {
    let mut world = World::new(1000);
    let (start, lens) = now();
    let id = world.subscribe(&["a"], start, lens);
    assert!(world.read(id).is_empty());
    world.publish(event(&["a"], "", "first"));
    world.publish(event(&["a"], "k", "old"));
    world.publish(event(&["b"], "", "other"));
    world.publish(event(&["a", "c"], "", "removed"));
    world.publish(event(&["a"], "k", "new"));
    world.purge("c");
    // The purged record is what is behind the old one: whether it is missing is asked of the log.
    assert_eq!(world.read(id), ["first", "skipped {\"count\":1}", "removed", "new"]);
}
