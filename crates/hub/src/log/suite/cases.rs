//! The sentences of the contract, one by one. Each case panics when a log breaks its sentence.
#![allow(missing_docs, reason = "the names say what holds")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidings_wire::{
    Channel, ConnectionId, Data, Epoch, Event, Exclude, Key, Number, Position, Sequence, TagValue, Tags,
    Targets, UserId,
};

pub use super::beside::*;
pub use super::states::*;
pub use super::terms::*;
use super::{ALL, Logs, append, append_all, at, channel, event, found, from, read_all, view, wait};
use crate::Timestamp;
use crate::log::{
    AppendError, Caps, Located, Log, NewRecord, Order, ReadLimit, Removal, Retention, Tail, TailItem,
};

pub(super) fn unlimited(logs: &mut dyn Logs) -> Arc<dyn Log> {
    logs.create(Retention::default())
}

pub(super) fn count(count: u64) -> Caps {
    Caps { count: Some(count), ..Caps::default() }
}

pub(super) fn bytes(bytes: u64) -> Caps {
    Caps { bytes: Some(bytes), ..Caps::default() }
}

pub(super) fn age(seconds: u64) -> Caps {
    Caps { age: Some(Duration::from_secs(seconds)), ..Caps::default() }
}

pub(super) fn key(text: &str) -> Key {
    text.parse().expect("a good key")
}

pub(super) fn default(default: Caps) -> Retention {
    Retention { default, ..Retention::default() }
}

/// The next items of a tail, which has to have some.
pub(super) fn next(tail: &mut dyn Tail) -> Vec<TailItem> {
    let items = tail.next(Duration::from_secs(10)).expect("it can be read").expect("it is open");
    assert!(!items.is_empty(), "nothing came");
    items
}

pub(super) fn stored(items: &[TailItem]) -> Vec<u64> {
    let sequence = |item: &TailItem| match item {
        TailItem::Stored(record) => Some(record.position.sequence.0),
        _ => None,
    };
    items.iter().filter_map(sequence).collect()
}

pub fn positions_are_contiguous_and_batches_whole(logs: &mut dyn Logs) {
    let log = unlimited(logs);
    assert_eq!(log.head().sequence, Sequence::START);
    let mut expected = 1;
    for size in [1, 3, 1, 50] {
        let batch = (0..size).map(|n| at(n, event(&["a"], "x"))).collect();
        for position in append_all(&*log, batch) {
            assert_eq!(position, Position { epoch: log.head().epoch, sequence: Sequence(expected) });
            expected += 1;
        }
    }
    assert_eq!(log.head().sequence, Sequence(expected - 1));
}

pub fn batches_of_one_caller_keep_their_order(logs: &mut dyn Logs) {
    let log = unlimited(logs);
    // None is waited for before the next is appended.
    let appending: Vec<_> =
        (0..200).map(|n| log.append(vec![at(n, event(&["a"], &n.to_string()))])).collect();
    let sequences: Vec<u64> =
        appending.into_iter().map(|append| wait(append).expect("it is stored")[0].sequence.0).collect();
    assert_eq!(sequences, (1..=200).collect::<Vec<_>>());
    let records = read_all(&*log, &[from("a", 0)], Order::Oldest, ALL, 0).records;
    let data: Vec<String> = records.iter().map(|record| record.event.data.as_str().to_owned()).collect();
    assert_eq!(data, (0..200).map(|n| n.to_string()).collect::<Vec<_>>());
}

pub fn many_callers_share_one_order(logs: &mut dyn Logs) {
    const CALLERS: u64 = 8;
    const BATCHES: u64 = 50;
    let log = unlimited(logs);
    let mut tail = log.tail(Sequence::START).expect("it can be read");
    std::thread::scope(|scope| {
        for caller in 0..CALLERS {
            let log = &log;
            scope.spawn(move || {
                for n in 0..BATCHES {
                    let batch = (0..3).map(|_| at(n, event(&["a"], &format!("{caller}"))));
                    let positions = append_all(&**log, batch.collect());
                    assert!(positions.windows(2).all(|pair| pair[1].sequence == pair[0].sequence.next()));
                    let seen = log
                        .read(&[from("a", positions[0].sequence.0 - 1)], Order::Oldest, ALL, Timestamp(0))
                        .expect("it can be read");
                    assert_eq!(seen.records[0].position, positions[0]);
                }
            });
        }
    });
    let total = CALLERS * BATCHES * 3;
    assert_eq!(found(&*log, &[from("a", 0)], Order::Oldest), (1..=total).collect::<Vec<_>>());
    let mut tailed = Vec::new();
    while (tailed.len() as u64) < total {
        tailed.extend(stored(&next(&mut *tail)));
    }
    assert_eq!(tailed, (1..=total).collect::<Vec<_>>());
    let all = read_all(&*log, &[from("a", 0)], Order::Oldest, ALL, 0).records;
    for batch in all.chunks(3) {
        assert!(batch.iter().all(|record| record.event.data == batch[0].event.data), "a batch was split");
    }
}

pub fn what_completed_is_seen(logs: &mut dyn Logs) {
    let log = unlimited(logs);
    for n in 1..=50 {
        let position = append_all(&*log, vec![at(n, event(&["a"], "x"))])[0];
        assert_eq!(log.head(), position);
        assert_eq!(found(&*log, &[from("a", n - 1)], Order::Oldest), [n]);
        let mut tail = log.tail(Sequence(n - 1)).expect("it can be read");
        assert_eq!(stored(&next(&mut *tail)), [n]);
    }
}

pub fn every_field_comes_back(logs: &mut dyn Logs) {
    let user: UserId = "ü/7".parse().expect("a good id");
    let events = vec![
        event(&["a"], ""),
        Event {
            to: Targets::new([Channel::user(&user), Channel::all(), channel("ä/β")]).expect("good targets"),
            event: "order.paid".parse().expect("a good type"),
            data: Data::Json(r#"{"n":1e400,"s":"\u0000"}"#.into()),
            retry: Some(u32::MAX),
            ttl: Some(u32::MAX),
            store: true,
            exclude: Exclude {
                user: Some(user),
                client: Some("tab 1".parse().expect("a good id")),
                connection: Some(ConnectionId(u128::MAX - 5)),
            },
            key: Some(key("EUR/USD \u{1F600}")),
            tags: Tags::new([
                ("price".into(), TagValue::Number(Number::new(-1.25e-300).expect("it is finite"))),
                ("ä".into(), TagValue::Text("".into())),
                ("open".into(), TagValue::Bool(true)),
            ])
            .expect("good tags"),
            end: true,
        },
        Event { data: Data::Nothing, end: true, ..event(&["ended"], "") },
        Event { retry: Some(0), ttl: Some(0), ..event(&["$presence"], "a\r\nb\rc\n\n") },
        Event {
            exclude: Exclude { client: Some("only".parse().expect("a good id")), ..Exclude::default() },
            ..event(&["a"], &"\u{1F600}".repeat(70_000))
        },
    ];
    let log = unlimited(logs);
    let mut tail = log.tail(Sequence::START).expect("it can be read");
    let batch = events.iter().map(|event| at(1_763_645_351_123, event.clone())).collect();
    append_all(&*log, batch);
    let views = [from("**", 0), from("$all", 0), from("$presence", 0)];
    let check = |log: &dyn Log| {
        let page = read_all(log, &views, Order::Oldest, ALL, 0);
        let back: Vec<Event> = page.records.iter().map(|record| (*record.event).clone()).collect();
        assert_eq!(back, events);
        assert!(page.records.iter().all(|record| record.time == Timestamp(1_763_645_351_123)));
    };
    check(&*log);
    let mut tailed = Vec::new();
    while tailed.len() < events.len() {
        tailed.extend(next(&mut *tail));
    }
    for (item, event) in tailed.iter().zip(&events) {
        assert!(matches!(item, TailItem::Stored(record) if *record.event == *event));
    }
    let log = logs.reopen(log);
    check(&*log);
    let mut past = log.tail(Sequence::START).expect("it can be read");
    assert_eq!(next(&mut *past), tailed);
}

pub fn an_ephemeral_event_rides_between_records(logs: &mut dyn Logs) {
    let log = unlimited(logs);
    let mut tail = log.tail(Sequence::START).expect("it can be read");
    let ephemeral = |data| at(1, Event { store: false, ..event(&["a"], data) });
    let batch = vec![ephemeral("0"), at(1, event(&["a"], "1")), ephemeral("1"), at(1, event(&["a"], "2"))];
    let positions = append_all(&*log, batch);
    assert_eq!(positions.iter().map(|position| position.sequence.0).collect::<Vec<_>>(), [0, 1, 1, 2]);
    assert_eq!(append_all(&*log, vec![ephemeral("2")])[0].sequence, Sequence(2));
    let mut items = Vec::new();
    while items.len() < 5 {
        items.extend(next(&mut *tail));
    }
    let seen: Vec<(bool, u64, String)> = items
        .iter()
        .map(|item| match item {
            TailItem::Stored(record) => (true, record),
            TailItem::Ephemeral(record) => (false, record),
            other => panic!("no {other:?} was appended"),
        })
        .map(|(kept, record)| (kept, record.position.sequence.0, record.event.data.as_str().to_owned()))
        .collect();
    let expected = [(false, 0, "0"), (true, 1, "1"), (false, 1, "1"), (true, 2, "2"), (false, 2, "2")];
    assert_eq!(seen, expected.map(|(kept, sequence, data)| (kept, sequence, data.to_owned())));
    assert_eq!(found(&*log, &[from("a", 0)], Order::Oldest), [1, 2]);
}

pub fn an_empty_batch_is_no_record(logs: &mut dyn Logs) {
    let log = unlimited(logs);
    assert_eq!(append_all(&*log, Vec::new()), []);
    assert_eq!(log.head().sequence, Sequence::START);
}

pub fn reading_pages_forward_and_backward(logs: &mut dyn Logs) {
    let log = unlimited(logs);
    let batch = (0..100_u64).map(|n| at(n, event(&[["a", "b", "c/d"][n as usize % 3]], "12345"))).collect();
    append_all(&*log, batch);
    for selections in [vec![from("a", 10), from("b", 0)], vec![from("**", 7)], vec![from("c/*", 50)]] {
        let forward = found(&*log, &selections, Order::Oldest);
        let mut backward = found(&*log, &selections, Order::Newest);
        backward.reverse();
        assert_eq!(forward, backward);
        for (records, bytes) in [(1, usize::MAX), (7, usize::MAX), (usize::MAX, 12), (3, 11)] {
            for through in [0, 1, 49, 50, 100, 1000] {
                let limit = ReadLimit { through: Sequence(through), records, bytes };
                for order in [Order::Oldest, Order::Newest] {
                    let page = read_all(&*log, &selections, order, limit, 0);
                    let mut got: Vec<u64> =
                        page.records.iter().map(|record| record.position.sequence.0).collect();
                    if order == Order::Newest {
                        got.reverse();
                    }
                    let expected: Vec<u64> = forward.iter().copied().filter(|at| *at <= through).collect();
                    assert_eq!(got, expected, "{selections:?} {order:?} {limit:?}");
                }
            }
        }
    }
    assert_eq!(found(&*log, &[], Order::Oldest), []);
    assert_eq!(found(&*log, &[from("nothing", 0)], Order::Newest), []);
}

pub fn a_page_has_a_record_whatever_its_size(logs: &mut dyn Logs) {
    let log = unlimited(logs);
    append(&*log, 1, event(&["a"], &"x".repeat(10_000)));
    append(&*log, 1, event(&["a"], "y"));
    let limit = ReadLimit { bytes: 0, records: 0, ..ALL };
    for (view, order, expected) in
        [("a", Order::Oldest, 1), ("**", Order::Oldest, 1), ("a", Order::Newest, 2), ("*", Order::Newest, 2)]
    {
        let page = log.read(&[from(view, 0)], order, limit, Timestamp(0)).expect("a page");
        assert_eq!(page.records.len(), 1);
        assert_eq!(page.records[0].position.sequence, Sequence(expected));
        assert_eq!(page.through, Sequence(expected));
    }
}

pub fn a_record_with_many_targets_comes_once(logs: &mut dyn Logs) {
    let log = unlimited(logs);
    append(&*log, 1, event(&["a", "b", "$all"], "x"));
    for views in [&["a", "b"][..], &["**"], &["*", "a", "$all"], &["b"]] {
        let selections: Vec<_> = views.iter().map(|text| from(text, 0)).collect();
        assert_eq!(found(&*log, &selections, Order::Oldest), [1]);
        assert_eq!(found(&*log, &selections, Order::Newest), [1]);
    }
}

pub fn selections_have_places_of_their_own(logs: &mut dyn Logs) {
    let log = unlimited(logs);
    append_all(&*log, (0..10).map(|n| at(n, event(&[["a", "b"][n as usize % 2]], "x"))).collect());
    assert_eq!(found(&*log, &[from("a", 6), from("b", 2)], Order::Oldest), [4, 6, 7, 8, 9, 10]);
    assert_eq!(found(&*log, &[from("a", 6), from("a", 8)], Order::Oldest), [7, 9]);
    assert_eq!(found(&*log, &[from("*", 8), from("a", 4)], Order::Oldest), [5, 7, 9, 10]);
    assert_eq!(found(&*log, &[from("*", 99)], Order::Oldest), []);
}

pub fn what_is_expired_is_left_out(logs: &mut dyn Logs) {
    let log = unlimited(logs);
    append(&*log, 10_000, Event { ttl: Some(2), ..event(&["a"], "x") });
    append(&*log, 10_000, event(&["a"], "x"));
    for (now, expected) in [(0, &[1, 2][..]), (11_999, &[1, 2]), (12_000, &[2]), (u64::MAX, &[2])] {
        for view in ["a", "*"] {
            let page = read_all(&*log, &[from(view, 0)], Order::Oldest, ALL, now);
            let got: Vec<u64> = page.records.iter().map(|record| record.position.sequence.0).collect();
            assert_eq!((got.as_slice(), page.floor), (expected, Sequence::START));
        }
    }
}

pub fn the_newest_of_each_channel(logs: &mut dyn Logs) {
    let log = unlimited(logs);
    append_all(&*log, (0..20).map(|n| at(n, event(&[["a", "b"][n as usize % 2]], "x"))).collect());
    append(&*log, 30, event(&["a", "$all"], "x"));
    let newest = |views: &[&str], count, through| {
        let views: Vec<_> = views.iter().map(|text| view(text)).collect();
        log.newest(&views, count, Sequence(through)).expect("it can be read")
    };
    assert_eq!(newest(&["a"], 2, 100), [from("a", 18)]);
    assert_eq!(newest(&["*", "a", "$all"], 2, 100), [from("$all", 20), from("a", 18), from("b", 17)]);
    assert_eq!(newest(&["*"], 100, 4), [from("a", 0), from("b", 1)]);
    assert_eq!(newest(&["b"], 1, 1), []);
    assert_eq!(newest(&["nothing", "$user/*"], 1, 100), []);
    let selections = newest(&["*", "$all"], 3, 100);
    assert_eq!(found(&*log, &selections, Order::Oldest), [16, 17, 18, 19, 20, 21]);
}

pub fn a_cap_by_count_holds_at_once(logs: &mut dyn Logs) {
    let log = logs.create(default(count(2)));
    append_all(&*log, (0..5).map(|n| at(n, event(&["a"], "x"))).collect());
    append(&*log, 9, event(&["b"], "x"));
    assert_eq!(found(&*log, &[from("**", 0)], Order::Oldest), [4, 5, 6]);
    assert_eq!(log.floor(&[view("a")]), Sequence(3));
    assert_eq!(log.floor(&[view("b")]), Sequence::START);
    assert_eq!((log.stats().records, log.stats().bytes, log.stats().channels), (3, 3, 2));
}

pub fn a_cap_by_bytes_holds_at_once(logs: &mut dyn Logs) {
    let log = logs.create(default(bytes(10)));
    for size in [4, 4, 2, 1] {
        append(&*log, 1, event(&["a"], &"x".repeat(size)));
    }
    assert_eq!(found(&*log, &[from("a", 0)], Order::Oldest), [2, 3, 4]);
    append(&*log, 1, event(&["a"], &"x".repeat(11)));
    assert_eq!(found(&*log, &[from("a", 0)], Order::Oldest), []);
    assert_eq!(log.floor(&[view("a")]), Sequence(5));
    append(&*log, 1, event(&["a"], "x"));
    assert_eq!(found(&*log, &[from("a", 0)], Order::Oldest), [6]);
}

pub fn caps_over_all_channels(logs: &mut dyn Logs) {
    let log = logs.create(Retention { total: count(3), ..Retention::default() });
    for target in ["a", "b", "a", "b", "b"] {
        append(&*log, 1, event(&[target], "x"));
    }
    assert_eq!(found(&*log, &[from("**", 0)], Order::Oldest), [3, 4, 5]);
    assert_eq!((log.floor(&[view("a")]), log.floor(&[view("b")])), (Sequence(1), Sequence(2)));
    let log = logs.create(Retention { total: bytes(5), ..Retention::default() });
    for size in [3, 3, 1] {
        append(&*log, 1, event(&["a"], &"x".repeat(size)));
    }
    assert_eq!(found(&*log, &[from("**", 0)], Order::Oldest), [2, 3]);
    let log = logs.create(Retention { total: age(10), ..Retention::default() });
    for time in [1_000, 2_000, 3_000] {
        append(&*log, time, event(&["a"], "x"));
    }
    log.retain(Timestamp(12_000));
    assert_eq!(found(&*log, &[from("**", 0)], Order::Oldest), [3]);
    assert_eq!(log.floor(&[view("a")]), Sequence(2));
}

pub fn age_goes_with_retain(logs: &mut dyn Logs) {
    let log = logs.create(default(age(10)));
    for (time, target) in [(1_000, "a"), (2_000, "b"), (3_000, "a")] {
        append(&*log, time, event(&[target], "x"));
    }
    log.retain(Timestamp(10_999));
    assert_eq!(found(&*log, &[from("**", 0)], Order::Oldest), [1, 2, 3]);
    log.retain(Timestamp(11_000));
    assert_eq!(found(&*log, &[from("**", 0)], Order::Oldest), [2, 3]);
    log.retain(Timestamp(12_999));
    assert_eq!(found(&*log, &[from("**", 0)], Order::Oldest), [3]);
    assert_eq!(log.floor(&[view("a"), view("b")]), Sequence(2));
    log.retain(Timestamp(13_000));
    assert_eq!(found(&*log, &[from("**", 0)], Order::Oldest), []);
    append(&*log, 20_000, event(&["a"], "x"));
    log.retain(Timestamp(29_999));
    assert_eq!(found(&*log, &[from("a", 0)], Order::Oldest), [4]);
    log.retain(Timestamp(30_000));
    assert_eq!(found(&*log, &[from("a", 0)], Order::Oldest), []);
}

pub fn the_first_rule_that_matches_counts(logs: &mut dyn Logs) {
    let rule = |text: &str, caps| (text.parse().expect("a good pattern"), caps);
    let rules = vec![rule("a/x", count(3)), rule("a/*", count(2)), rule("$user/*", count(0))];
    let log = logs.create(Retention { rules, default: count(1), ..Retention::default() });
    for _ in 0..5 {
        append_all(
            &*log,
            ["a/x", "a/y", "b", "$user/7", "$all"].map(|name| at(1, event(&[name], "x"))).into(),
        );
    }
    let kept = |name: &str| found(&*log, &[from(name, 0)], Order::Oldest).len();
    assert_eq!(["a/x", "a/y", "b", "$user/7", "$all"].map(kept), [3, 2, 1, 0, 1]);
}

pub fn a_floor_is_that_of_the_view(logs: &mut dyn Logs) {
    let rules = vec![("busy/*".parse().expect("a good pattern"), count(1))];
    let log = logs.create(Retention { rules, ..Retention::default() });
    append(&*log, 1, event(&["quiet"], "x"));
    append_all(&*log, (0..10).map(|n| at(n, event(&["busy/1"], "x"))).collect());
    append(&*log, 1, event(&["busy/2"], "x"));
    let floor = |text: &str| log.floor(&[view(text)]).0;
    assert_eq!(
        ["quiet", "busy/1", "busy/2", "*", "**", "busy/*", "$all"].map(floor),
        [0, 10, 0, 0, 10, 10, 0]
    );
    assert_eq!(log.floor(&[]), Sequence::START);
    let page_floor = |text: &str, after| read_all(&*log, &[from(text, after)], Order::Oldest, ALL, 0).floor.0;
    assert_eq!([page_floor("busy/1", 0), page_floor("busy/1", 9), page_floor("busy/1", 10)], [10, 10, 0]);
    assert_eq!([page_floor("quiet", 0), page_floor("**", 9), page_floor("**", 11)], [0, 10, 0]);
    // Also on a page that is full before the end, and on one that begins with a hole.
    let limit = ReadLimit { records: 1, ..ALL };
    let page = log.read(&[from("**", 0)], Order::Oldest, limit, Timestamp(0)).expect("a page");
    assert_eq!((page.records.len(), page.floor), (1, Sequence(10)));
}

pub fn what_expired_before_it_went_is_not_missed(logs: &mut dyn Logs) {
    let log = logs.create(default(age(10)));
    append(&*log, 1_000, event(&["a"], "x"));
    append(&*log, 2_000, Event { ttl: Some(5), ..event(&["a"], "x") });
    log.retain(Timestamp(12_000));
    assert_eq!(found(&*log, &[from("a", 0)], Order::Oldest), []);
    assert_eq!(log.floor(&[view("a"), view("*")]), Sequence(1));
    append(&*log, 12_000, Event { ttl: Some(20), ..event(&["a"], "x") });
    log.retain(Timestamp(22_000));
    assert_eq!(log.floor(&[view("a")]), Sequence(3));
}

pub fn a_purge_leaves_other_targets(logs: &mut dyn Logs) {
    let log = unlimited(logs);
    append(&*log, 1, event(&["a"], "x"));
    append(&*log, 1, event(&["a", "b"], "x"));
    append(&*log, 1, event(&["b"], "x"));
    assert_eq!(wait(log.purge(channel("a"))), Ok(2));
    assert_eq!(wait(log.purge(channel("a"))), Ok(0));
    assert_eq!(wait(log.purge(channel("never"))), Ok(0));
    let check = |log: &dyn Log| {
        assert_eq!(found(log, &[from("a", 0)], Order::Oldest), []);
        assert_eq!(found(log, &[from("b", 0)], Order::Oldest), [2, 3]);
        assert_eq!(found(log, &[from("*", 0)], Order::Newest), [3, 2]);
        assert_eq!((log.floor(&[view("a")]), log.floor(&[view("b")])), (Sequence(2), Sequence::START));
        assert_eq!((log.stats().records, log.stats().channels), (2, 1));
    };
    check(&*log);
    log.retain(Timestamp(1));
    check(&*log);
    let log = logs.reopen(log);
    check(&*log);
    assert_eq!(append(&*log, 1, event(&["a"], "x")), 4);
    assert_eq!(found(&*log, &[from("a", 0)], Order::Oldest), [4]);
}

pub fn a_deleted_record_is_gone_from_all_channels(logs: &mut dyn Logs) {
    let log = unlimited(logs);
    append_all(&*log, (0..3).map(|n| at(n, event(&["a", "b"], "x"))).collect());
    let position = Position { sequence: Sequence(2), ..log.head() };
    let foreign = Position { epoch: Epoch(position.epoch.0 + 1), ..position };
    let ahead = Position { sequence: Sequence(9), ..position };
    assert_eq!(wait(log.delete(foreign)), Ok(0));
    assert_eq!(wait(log.delete(ahead)), Ok(0));
    assert_eq!(wait(log.delete(position)), Ok(1));
    assert_eq!(wait(log.delete(position)), Ok(0));
    let check = |log: &dyn Log| {
        for view in ["a", "b", "*"] {
            assert_eq!(found(log, &[from(view, 0)], Order::Oldest), [1, 3]);
        }
        assert_eq!(log.floor(&[view("*")]), Sequence::START);
        assert_eq!(log.stats().records, 2);
        assert_eq!(log.head().sequence, Sequence(3));
    };
    check(&*log);
    let log = logs.reopen(log);
    check(&*log);
    // Also the newest: its place is not given to another.
    assert_eq!(wait(log.delete(Position { sequence: Sequence(3), ..position })), Ok(1));
    assert_eq!(log.head().sequence, Sequence(3));
    let log = logs.reopen(log);
    assert_eq!(append(&*log, 1, event(&["a"], "x")), 4);
}

pub fn positions_are_located(logs: &mut dyn Logs) {
    let log = unlimited(logs);
    append_all(&*log, (0..3).map(|n| at(n, event(&["a"], "x"))).collect());
    let head = log.head();
    let locate = |epoch: Epoch, sequence| log.locate(Position { epoch, sequence: Sequence(sequence) });
    assert_eq!(locate(head.epoch, 0), Located::Here(Sequence(0)));
    assert_eq!(locate(head.epoch, 3), Located::Here(Sequence(3)));
    assert_eq!(locate(head.epoch, 4), Located::Ahead);
    assert_eq!(locate(Epoch(head.epoch.0 + 1), 1), Located::Unknown);
    assert_eq!(log.locate(Position::UNKNOWN), Located::Unknown);
}

pub fn channels_are_listed_by_name(logs: &mut dyn Logs) {
    let log = unlimited(logs);
    for name in ["b", "a/y", "a", "$all", "a/x", "b"] {
        append(&*log, 1, event(&[name, "c"], "12"));
    }
    let names = |prefix: &str, after: Option<&str>, limit| -> Vec<String> {
        let after = after.map(channel);
        let infos = log.channels(prefix, after.as_ref(), limit).expect("it can be read");
        infos.iter().map(|info| info.channel.as_str().to_owned()).collect()
    };
    assert_eq!(names("", None, 100), ["$all", "a", "a/x", "a/y", "b", "c"]);
    assert_eq!(names("a", None, 100), ["a", "a/x", "a/y"]);
    assert_eq!(names("a/", Some("a/x"), 100), ["a/y"]);
    assert_eq!(names("b", Some("a"), 100), ["b"]);
    assert_eq!(names("a", Some("b"), 100), [""; 0]);
    assert_eq!(names("", Some("a"), 2), ["a/x", "a/y"]);
    let info = &log.channels("b", None, 1).expect("it can be read")[0];
    assert_eq!((info.newest, info.records, info.bytes), (Sequence(6), 2, 4));
}

pub fn a_tail_has_the_past_and_what_comes(logs: &mut dyn Logs) {
    let log = unlimited(logs);
    append_all(&*log, (0..10).map(|n| at(n, event(&["a"], "x"))).collect());
    let mut tail = log.tail(Sequence(7)).expect("it can be read");
    append(&*log, 1, event(&["b"], "x"));
    let mut got = Vec::new();
    while got.len() < 4 {
        got.extend(stored(&next(&mut *tail)));
    }
    assert_eq!(got, [8, 9, 10, 11]);
    let none = tail.next(Duration::from_millis(1)).expect("it can be read");
    assert_eq!(none, Some(Vec::new()), "the time is over and nothing came");
    let mut tail = log.tail(Sequence(11)).expect("it can be read");
    append(&*log, 1, event(&["b"], "x"));
    assert_eq!(stored(&next(&mut *tail)), [12]);
}

pub fn a_tail_begins_behind_what_was_removed(logs: &mut dyn Logs) {
    let log = unlimited(logs);
    append_all(&*log, (0..5).map(|n| at(n, event(&["a"], "x"))).collect());
    wait(log.delete(Position { sequence: Sequence(3), ..log.head() })).expect("it is removed");
    let past = |log: &dyn Log, after| {
        let mut tail = log.tail(Sequence(after)).expect("it can be read");
        stored(&tail.next(Duration::from_millis(1)).expect("it can be read").expect("it is open"))
    };
    assert_eq!(past(&*log, 0), [4, 5]);
    assert_eq!(past(&*log, 4), [5]);
    append(&*log, 1, event(&["b", "c"], "x"));
    append(&*log, 1, event(&["a"], "x"));
    wait(log.purge(channel("b"))).expect("it is removed");
    assert_eq!(past(&*log, 0), [7], "a record that was purged from one of its channels is not handed out");
    let log = logs.reopen(log);
    assert_eq!(past(&*log, 0), [7]);
    wait(log.purge(channel("a"))).expect("it is removed");
    assert_eq!(past(&*log, 0), [0; 0]);
}

pub fn tails_that_join_at_any_time_have_no_hole(logs: &mut dyn Logs) {
    const LAST: u64 = 3_000;
    let log = unlimited(logs);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (log, done) = (&log, &done);
        for n in 0..4_u64 {
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let after = log.head().sequence.0.saturating_sub(n * 7);
                    let mut tail = log.tail(Sequence(after)).expect("it can be read");
                    let mut expected = after;
                    while expected < LAST && expected < after + 50 {
                        for sequence in stored(&next(&mut *tail)) {
                            expected += 1;
                            assert_eq!(sequence, expected);
                        }
                    }
                }
            });
        }
        let mut appended = 0;
        while appended < LAST {
            let batch: Vec<NewRecord> =
                (0..(appended % 5 + 1).min(LAST - appended)).map(|n| at(n, event(&["a"], "x"))).collect();
            appended += batch.len() as u64;
            append_all(&**log, batch);
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(log.head().sequence, Sequence(LAST));
}

pub fn tails_learn_of_removals(logs: &mut dyn Logs) {
    let log = unlimited(logs);
    let mut tail = log.tail(Sequence::START).expect("it can be read");
    append_all(&*log, ["a", "a", "b"].map(|name| at(1, event(&[name], "x"))).into());
    wait(log.purge(channel("a"))).expect("it is removed");
    wait(log.purge(channel("a"))).expect("nothing is left to remove");
    wait(log.delete(log.head())).expect("it is removed");
    append(&*log, 1, event(&["a"], "x"));
    let mut items = Vec::new();
    while items.len() < 6 {
        items.extend(next(&mut *tail));
    }
    let removed = Removal::Channel { channel: channel("a"), through: Sequence(2) };
    assert_eq!(items[3], TailItem::Removed(removed));
    assert_eq!(items[4], TailItem::Removed(Removal::Record(Sequence(3))));
    assert_eq!(stored(&items), [1, 2, 3, 4]);
}

pub fn a_closed_log_ends_its_tails_and_refuses(logs: &mut dyn Logs) {
    let log = unlimited(logs);
    let mut tail = log.tail(Sequence::START).expect("it can be read");
    let appending: Vec<_> = (0..20).map(|n| log.append(vec![at(n, event(&["a"], "x"))])).collect();
    log.close();
    for append in appending {
        wait(append).expect("what was appended before is stored");
    }
    let mut got = Vec::new();
    while let Some(items) = tail.next(Duration::from_secs(10)).expect("it can be read") {
        assert!(!items.is_empty(), "a closed log's tail has nothing to wait for");
        got.extend(stored(&items));
    }
    assert_eq!(got, (1..=20).collect::<Vec<_>>());
    let late = wait(log.append(vec![at(1, event(&["a"], "x"))]));
    assert!(matches!(late, Err(AppendError::NotStored(_))), "{late:?}");
    assert!(wait(log.purge(channel("a"))).is_err());
    let mut after = log.tail(log.head().sequence).expect("it can be read");
    assert_eq!(after.next(Duration::from_secs(10)), Ok(None));
    log.close();
}

pub fn a_reopened_log_is_the_same(logs: &mut dyn Logs) {
    let log = logs.create(default(count(3)));
    append_all(&*log, (0..5).map(|n| at(n, event(&["a"], "x"))).collect());
    append_all(&*log, (0..2).map(|n| at(n, event(&["b", "a"], "y"))).collect());
    wait(log.delete(Position { sequence: Sequence(6), ..log.head() })).expect("it is removed");
    let before = (
        log.head(),
        read_all(&*log, &[from("**", 0)], Order::Oldest, ALL, 0).records,
        log.channels("", None, 10).expect("it can be read"),
        log.floor(&[view("a")]),
        log.floor(&[view("b")]),
        log.stats().bytes,
    );
    let log = logs.reopen(log);
    let after = (
        log.head(),
        read_all(&*log, &[from("**", 0)], Order::Oldest, ALL, 0).records,
        log.channels("", None, 10).expect("it can be read"),
        log.floor(&[view("a")]),
        log.floor(&[view("b")]),
        log.stats().bytes,
    );
    assert_eq!(before, after);
    assert_eq!(append(&*log, 1, event(&["a"], "x")), 8);
    assert_eq!(found(&*log, &[from("a", 0)], Order::Oldest), [5, 7, 8]);
}
