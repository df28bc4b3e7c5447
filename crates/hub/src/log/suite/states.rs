//! Channels that end, keys, and channels of which only the newest states are kept.
#![allow(missing_docs, reason = "the names say what holds")]

use std::time::Duration;

use tidings_wire::{Data, Event, Exclude, Position, Sequence, TagValue, Tags};

use super::cases::{age, bytes, count, default, key, next, stored, unlimited};
use super::{Logs, append, append_all, at, channel, event, found, from, view, wait};
use crate::Timestamp;
use crate::log::{AppendError, Caps, LOOKED_BACK, Log, Once, Order, Retention, TailItem};

/// An event that says what has this key.
fn state(targets: &[&str], name: &str, data: &str) -> Event {
    Event { key: Some(key(name)), ..event(targets, data) }
}

/// The last event of some channels.
fn end(targets: &[&str]) -> Event {
    Event { data: Data::Nothing, end: true, ..event(targets, "") }
}

/// The newest records of a channel with a key, at most four.
fn keyed(log: &dyn Log, name: &str, text: &str, after: u64) -> Vec<u64> {
    let records = log.keyed(&channel(name), &key(text), Sequence(after), 4).expect("it can be read");
    assert!(records.iter().all(|record| record.event.key == Some(key(text))));
    records.iter().map(|record| record.position.sequence.0).collect()
}

pub fn an_ended_channel_takes_nothing_more(logs: &mut dyn Logs) {
    let log = unlimited(logs);
    append(&*log, 1, event(&["a"], "x"));
    assert_eq!(log.ended(&channel("a")), None);
    assert_eq!(append(&*log, 1, end(&["a", "b"])), 2);
    let mut tail = log.tail(Sequence(2)).expect("it can be read");
    let check = |log: &dyn Log| {
        assert_eq!(log.ended(&channel("a")), Some(Sequence(2)));
        assert_eq!(log.ended(&channel("b")), Some(Sequence(2)));
        assert_eq!((log.ended(&channel("c")), log.ended(&channel("a/b"))), (None, None));
        let refused = Err(AppendError::Ended(channel("a")));
        assert_eq!(wait(log.append(vec![at(2, event(&["a"], "x"))])), refused);
        assert_eq!(wait(log.append(vec![at(2, end(&["a"]))])), refused);
        assert_eq!(wait(log.append(vec![at(2, Event { store: false, ..event(&["a"], "x") })])), refused);
        assert_eq!(wait(log.append(vec![at(2, event(&["c", "a"], "x"))])), refused, "to one of several");
        let batch = vec![at(2, event(&["c"], "x")), at(2, event(&["a"], "x")), at(2, event(&["c"], "x"))];
        assert_eq!(wait(log.append(batch)), refused, "as a whole");
        assert_eq!(log.head().sequence, Sequence(2), "no position is burned");
        assert_eq!(found(log, &[from("**", 0)], Order::Oldest), [1, 2]);
    };
    check(&*log);
    assert_eq!(tail.next(Duration::from_millis(1)), Ok(Some(Vec::new())), "nothing is announced either");
    drop(tail);
    let log = logs.reopen(log);
    check(&*log);
    assert_eq!(append(&*log, 2, event(&["c"], "x")), 3);
    // What isn't kept ends nothing: who comes later would not know.
    append(&*log, 2, Event { store: false, ..end(&["c"]) });
    assert_eq!(append(&*log, 2, event(&["c"], "x")), 4);
}

pub fn nothing_comes_after_an_end_in_a_batch(logs: &mut dyn Logs) {
    let log = unlimited(logs);
    let plain = |name: &str| at(1, event(&[name], "x"));
    let refused = |batch| {
        let refused = wait(log.append(batch));
        assert_eq!(refused, Err(AppendError::Ended(channel("a"))));
        assert_eq!((log.head().sequence, log.ended(&channel("a"))), (Sequence::START, None));
    };
    refused(vec![plain("a"), at(1, end(&["b", "a"])), plain("c"), plain("a")]);
    refused(vec![at(1, end(&["a"])), at(1, end(&["a"]))]);
    refused(vec![at(1, end(&["a"])), at(1, Event { store: false, ..event(&["a"], "x") })]);
    append_all(&*log, vec![plain("a"), at(1, end(&["a"])), plain("b"), at(1, end(&["b"]))]);
    assert_eq!(log.ended(&channel("a")), Some(Sequence(2)));
    assert_eq!(log.ended(&channel("b")), Some(Sequence(4)));
}

pub fn an_end_sent_again_is_answered_as_before(logs: &mut dyn Logs) {
    let log = unlimited(logs);
    let once = |key| Once { key: [key; 32], body: [1; 32], until: Timestamp(1_000) };
    let batch = || vec![at(1, event(&["a"], "x")), at(1, end(&["a"]))];
    let first = wait(log.append_with(batch(), once(1).into())).expect("it is stored");
    assert_eq!(wait(log.append_with(batch(), once(1).into())), Ok(first.clone()), "nothing more is stored");
    assert_eq!(wait(log.append_with(batch(), once(2).into())), Err(AppendError::Ended(channel("a"))));
    // What was refused is not remembered.
    wait(log.purge(channel("a"))).expect("it is removed");
    assert_eq!(wait(log.append_with(batch(), once(1).into())), Ok(first));
    assert_eq!(wait(log.append_with(batch(), once(2).into())).map(|all| all[0].sequence), Ok(Sequence(3)));
}

pub fn a_refused_batch_keeps_no_other_out(logs: &mut dyn Logs) {
    let log = unlimited(logs);
    let mut tail = log.tail(Sequence::START).expect("it can be read");
    // None is waited for before the next is appended, so that a log may store many of them together.
    let appending: Vec<_> = (0..100)
        .map(|n| {
            let name = format!("{}", n / 10);
            let event = event(&[&name, "all"], "x");
            // The fourth of ten is the end; of the rest every second one is ephemeral.
            let event = match n % 10 {
                3 => Event { end: true, to: channel(&name).into(), ..event },
                n if n > 3 => Event { store: n % 2 == 0, ..event },
                _ => event,
            };
            log.append(vec![at(1, event)])
        })
        .collect();
    let mut stored = 0;
    for (n, append) in appending.into_iter().enumerate() {
        let answer = wait(append);
        if n % 10 <= 3 {
            stored += 1;
            assert_eq!(answer.expect("it is stored")[0].sequence, Sequence(stored));
        } else {
            assert_eq!(answer, Err(AppendError::Ended(channel(&format!("{}", n / 10)))));
        }
    }
    assert_eq!(found(&*log, &[from("**", 0)], Order::Oldest), (1..=40).collect::<Vec<_>>());
    let mut announced = 0;
    while announced < 40 {
        announced += next(&mut *tail).len();
    }
    assert_eq!(tail.next(Duration::from_millis(1)), Ok(Some(Vec::new())));
}

pub fn a_channel_without_its_end_begins_anew(logs: &mut dyn Logs) {
    let begins_anew = |log: &dyn Log, name: &str| {
        assert_eq!(log.ended(&channel(name)), None);
        append(log, 30_000, event(&[name], "x"));
    };
    let log = unlimited(logs);
    append(&*log, 1, end(&["a", "b"]));
    wait(log.purge(channel("a"))).expect("it is removed");
    assert_eq!(log.ended(&channel("b")), Some(Sequence(1)), "that one has it still");
    begins_anew(&*log, "a");
    append(&*log, 1, end(&["a"]));
    let log = logs.reopen(log);
    assert_eq!(log.ended(&channel("a")), Some(Sequence(3)));
    wait(log.delete(log.head())).expect("it is removed");
    wait(log.delete(Position { sequence: Sequence(1), ..log.head() })).expect("it is removed");
    begins_anew(&*log, "b");
    let log = logs.reopen(log);
    begins_anew(&*log, "a");

    let log = logs.create(Retention { total: age(10), ..default(age(20)) });
    append(&*log, 1_000, end(&["a"]));
    log.retain(Timestamp(10_999));
    assert_eq!(log.ended(&channel("a")), Some(Sequence(1)));
    log.retain(Timestamp(11_000));
    let log = logs.reopen(log);
    begins_anew(&*log, "a");

    let log = logs.create(default(age(10)));
    append(&*log, 1_000, end(&["a"]));
    log.retain(Timestamp(11_000));
    begins_anew(&*log, "a");

    let log = logs.create(default(bytes(3)));
    append(&*log, 1, Event { end: true, ..event(&["a"], "xxxx") });
    begins_anew(&*log, "a");

    let log = logs.create(Retention { total: count(2), ..Retention::default() });
    append(&*log, 1, end(&["a"]));
    append_all(&*log, vec![at(1, event(&["b"], "x")), at(1, event(&["b"], "x"))]);
    begins_anew(&*log, "a");
}

pub fn the_newest_with_a_key_are_found(logs: &mut dyn Logs) {
    let log = unlimited(logs);
    append_all(
        &*log,
        (0..12).map(|n| at(n, state(&["a"], ["x", "y", "x/y"][n as usize % 3], "1"))).collect(),
    );
    append(&*log, 20, event(&["a"], "no key"));
    append(&*log, 20, Event { store: false, ..state(&["a"], "x", "not kept") });
    append(&*log, 20, Event { ttl: Some(1), ..state(&["b", "a"], "x", "2") });
    let check = |log: &dyn Log| {
        assert_eq!(keyed(log, "a", "x", 0), [14, 10, 7, 4]);
        assert_eq!(keyed(log, "a", "x", 7), [14, 10]);
        assert_eq!(keyed(log, "a", "x", 14), [0; 0]);
        assert_eq!(keyed(log, "a", "y", 0), [11, 8, 5, 2]);
        assert_eq!(keyed(log, "b", "x", 0), [14]);
        assert_eq!((keyed(log, "b", "y", 0), keyed(log, "a", "xx", 0)), (vec![], vec![]));
        assert_eq!((keyed(log, "c", "x", 0), keyed(log, "$all", "x", 0)), (vec![], vec![]));
        assert_eq!(log.keyed(&channel("a"), &key("x"), Sequence(0), 0), Ok(Vec::new()));
        let newest = &log.keyed(&channel("a"), &key("x"), Sequence(0), 1).expect("it can be read")[0];
        assert_eq!((newest.event.data.as_str(), newest.position.epoch), ("2", log.head().epoch));
    };
    check(&*log);
    let log = logs.reopen(log);
    check(&*log);
}

pub fn a_key_is_not_found_where_its_record_is_gone(logs: &mut dyn Logs) {
    let log = logs.create(Retention {
        rules: vec![("capped".parse().expect("a good pattern"), count(2))],
        ..default(age(10))
    });
    append_all(&*log, (0..4).map(|_| at(1_000, state(&["a", "b", "capped"], "x", "1"))).collect());
    assert_eq!(keyed(&*log, "capped", "x", 0), [4, 3]);
    wait(log.delete(Position { sequence: Sequence(2), ..log.head() })).expect("it is removed");
    assert_eq!((keyed(&*log, "a", "x", 0), keyed(&*log, "b", "x", 0)), (vec![4, 3, 1], vec![4, 3, 1]));
    wait(log.purge(channel("b"))).expect("it is removed");
    let check = |log: &dyn Log| {
        assert_eq!((keyed(log, "a", "x", 0), keyed(log, "b", "x", 0)), (vec![4, 3, 1], vec![]));
        assert_eq!(keyed(log, "capped", "x", 0), [4, 3]);
    };
    check(&*log);
    log.retain(Timestamp(10_000));
    check(&*log);
    let log = logs.reopen(log);
    check(&*log);
    append(&*log, 2_000, state(&["a", "b"], "x", "2"));
    assert_eq!(keyed(&*log, "b", "x", 0), [5]);
    log.retain(Timestamp(11_000));
    assert_eq!((keyed(&*log, "a", "x", 0), keyed(&*log, "capped", "x", 0)), (vec![5], vec![4, 3]));
}

pub fn only_the_newest_state_is_kept(logs: &mut dyn Logs) {
    let states = Caps { state_only: true, ..Caps::default() };
    let log = logs.create(default(states));
    let mut tail = log.tail(Sequence::START).expect("it can be read");
    for n in 0..10 {
        append(&*log, n, state(&["a"], ["x", "y"][n as usize % 2], "1234"));
        append(&*log, n, event(&["b"], "without a key"));
    }
    append(&*log, 20, event(&["a"], "12"));
    append(&*log, 20, event(&["a"], "12"));
    // An ephemeral one takes no place.
    append(&*log, 20, Event { store: false, ..state(&["a"], "x", "gone") });
    let check = |log: &dyn Log| {
        assert_eq!(found(log, &[from("a", 0)], Order::Oldest), [17, 19, 21, 22]);
        assert_eq!(found(log, &[from("a", 0)], Order::Newest), [22, 21, 19, 17]);
        assert_eq!((keyed(log, "a", "x", 0), keyed(log, "a", "y", 0)), (vec![17], vec![19]));
        assert_eq!(found(log, &[from("b", 0)], Order::Oldest).len(), 10);
        assert_eq!(log.floor(&[view("a"), view("*")]), Sequence::START, "nobody is told");
        let info = &log.channels("a", None, 1).expect("it can be read")[0];
        assert_eq!((info.newest, info.records, info.bytes), (Sequence(22), 4, 12));
        assert_eq!(log.stats().records, 14);
        assert_eq!(log.newest(&[view("a")], 3, Sequence(21)), Ok(vec![from("a", 16)]));
        assert_eq!(log.newest(&[view("a")], 0, Sequence(18)), Ok(vec![from("a", 17)]));
    };
    check(&*log);
    // Copies elsewhere stay: a state is shown to whoever keeps up.
    let mut items = Vec::new();
    while items.len() < 23 {
        items.extend(next(&mut *tail));
    }
    assert!(items.iter().all(|item| matches!(item, TailItem::Stored(_) | TailItem::Ephemeral(_))));
    log.retain(Timestamp(30));
    check(&*log);
    let log = logs.reopen(log);
    check(&*log);
    append(&*log, 30, state(&["a"], "y", "1"));
    assert_eq!(found(&*log, &[from("a", 0)], Order::Oldest), [17, 21, 22, 23]);
    assert_eq!(wait(log.purge(channel("a"))), Ok(4));
    append(&*log, 30, state(&["a"], "y", "1"));
    assert_eq!(found(&*log, &[from("a", 0)], Order::Oldest), [24]);
}

pub fn a_state_goes_only_where_states_are_kept(logs: &mut dyn Logs) {
    let states = Caps { state_only: true, ..Caps::default() };
    let rules = vec![("s/*".parse().expect("a good pattern"), states)];
    let log = logs.create(Retention { rules, default: count(3), ..Retention::default() });
    for n in 0..5 {
        append(&*log, n, state(&["s/1", "audit", "s/2"], "x", "1"));
    }
    let check = |log: &dyn Log, audit: &[u64]| {
        assert_eq!(found(log, &[from("s/1", 0)], Order::Oldest), [5]);
        assert_eq!(found(log, &[from("audit", 0)], Order::Oldest), audit);
        // However it is read: by one channel, by a few together, by going through all records.
        assert_eq!(found(log, &[from("s/1", 0), from("s/2", 0)], Order::Newest), [5]);
        assert_eq!(found(log, &[from("s/*", 0), from("s/1", 0), from("none", 0)], Order::Oldest), [5]);
        assert_eq!(found(log, &[from("**", 0)], Order::Oldest), audit);
        assert_eq!((keyed(log, "s/2", "x", 0), keyed(log, "audit", "x", 0).len()), (vec![5], audit.len()));
        assert_eq!(log.stats().records, audit.len() as u64);
        assert_eq!(log.floor(&[view("s/*")]), Sequence::START);
        let mut past = log.tail(Sequence::START).expect("it can be read");
        assert_eq!(stored(&next(&mut *past)), [5], "behind what was removed from one of its channels");
    };
    check(&*log, &[3, 4, 5]);
    log.retain(Timestamp(10));
    let log = logs.reopen(log);
    check(&*log, &[3, 4, 5]);
    assert_eq!(wait(log.delete(Position { sequence: Sequence(4), ..log.head() })), Ok(1));
    check(&*log, &[3, 5]);
    assert_eq!(wait(log.purge(channel("audit"))), Ok(2));
    assert_eq!(found(&*log, &[from("**", 0)], Order::Oldest), [5]);
    assert_eq!(log.stats().records, 1);
}

pub fn a_state_that_somebody_would_miss_stays(logs: &mut dyn Logs) {
    let states = Caps { state_only: true, ..Caps::default() };
    let log = logs.create(default(states));
    let exclude = Exclude { client: Some("tab".parse().expect("a good id")), ..Exclude::default() };
    let lasting = |ttl| Event { ttl: Some(ttl), ..state(&["a", "b"], "x", "1") };
    let kept = || found(&*log, &[from("a", 0)], Order::Oldest);
    append(&*log, 1_000, state(&["a", "b"], "x", "1"));
    append(&*log, 2_000, Event { exclude, ..state(&["a", "b"], "x", "1") });
    append(&*log, 2_000, state(&["a"], "x", "1"));
    append(&*log, 2_000, lasting(60));
    assert_eq!(kept(), [1, 2, 3, 4], "excludes somebody, has other targets, is over sooner");
    append(&*log, 3_000, lasting(58));
    assert_eq!(kept(), [1, 2, 3, 4, 5]);
    append(&*log, 4_000, lasting(58));
    assert_eq!(kept(), [1, 2, 3, 6], "over no sooner than two of them");
    append(&*log, 5_000, state(&["b", "a"], "x", "1"));
    assert_eq!(kept(), [3, 7], "for everybody and for ever");
    assert_eq!(found(&*log, &[from("b", 0)], Order::Oldest), [7]);
    let tagged = |region: &str| {
        let tag = ("region".into(), TagValue::Text(region.into()));
        Event { tags: Tags::new([tag]).expect("good tags"), ..state(&["b", "a"], "x", "1") }
    };
    append(&*log, 6_000, tagged("eu"));
    append(&*log, 6_000, tagged("us"));
    assert_eq!(kept(), [3, 7, 8, 9], "a filter may choose any of them");
    append(&*log, 6_000, tagged("eu"));
    append(&*log, 6_000, state(&["b", "a"], "x", "1"));
    assert_eq!(kept(), [3, 9, 10, 11], "each the newest with its tags");
    append(&*log, 7_000, Event { key: Some(key("x")), ..end(&["a", "b"]) });
    assert_eq!(kept(), [3, 9, 10, 11, 12], "an end that says nothing is no state");
}

pub fn states_of_other_targets_are_looked_at_up_to_a_limit(logs: &mut dyn Logs) {
    let states = Caps { state_only: true, ..Caps::default() };
    let log = logs.create(default(states));
    let more = LOOKED_BACK as u64;
    append(&*log, 1, state(&["a"], "x", "1"));
    append_all(&*log, (1..more).map(|n| at(n, state(&["a", &format!("b/{n}")], "x", "1"))).collect());
    append(&*log, 2, state(&["a"], "x", "1"));
    let after = more + 1;
    assert_eq!(found(&*log, &[from("a", 0)], Order::Oldest), (2..=after).collect::<Vec<_>>());
    append(&*log, 2, state(&["a", "b/0"], "x", "1"));
    append_all(&*log, (1..more).map(|n| at(n, state(&["a", &format!("c/{n}")], "x", "1"))).collect());
    append(&*log, 2, state(&["a"], "x", "1"));
    let kept = found(&*log, &[from("a", 0)], Order::Oldest);
    assert!(kept.contains(&after), "too far back: it stays");
    append(&*log, 2, state(&["a"], "x", "1"));
    assert_eq!(
        found(&*log, &[from("a", 0)], Order::Oldest).len(),
        kept.len(),
        "the one just before is found"
    );
}
