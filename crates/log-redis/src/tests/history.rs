//! One history for all nodes, whatever becomes of Redis.

use super::*;
use crate::rebase::rebase;
use crate::script::Keys;

fn forked(item: &TailItem) -> Option<(u32, u64, u64)> {
    match item {
        TailItem::Forked { epoch, at, through } => Some((epoch.0, at.0, through.0)),
        _ => None,
    }
}

fn stored(item: &TailItem) -> Option<(u64, String)> {
    match item {
        TailItem::Stored(record) => Some((record.position.sequence.0, record.event.data.as_str().to_owned())),
        _ => None,
    }
}

fn append_many(log: &RedisLog, count: usize) {
    for n in 0..count {
        append(log, &n.to_string());
    }
}

#[test]
fn one_clock_counts_and_each_node_sees_its_own() {
    const AHEAD: u64 = 600_000;
    let server = Server::start(&[]);
    let config = RedisLogConfig {
        retention: Retention {
            default: tidings_hub::log::Caps { age: Some(Duration::from_secs(300)), ..Default::default() },
            ..Retention::default()
        },
        ..config(&server, "hub")
    };
    let (fast, right) = (RedisLog::open(config.clone()).unwrap(), RedisLog::open(config).unwrap());
    fast.shared.clock.wrong_by.store(AHEAD.try_into().unwrap(), std::sync::atomic::Ordering::Relaxed);
    let its_time = || tidings_hub::Timestamp::now().plus(Duration::from_millis(AHEAD));
    // It is seen when Redis is asked the next time.
    until("the difference", || {
        fast.shared.clock.by_redis(its_time()) < tidings_hub::Timestamp::now().plus(Duration::from_secs(1))
    });
    let mut tail = fast.tail(fast.head().sequence).unwrap();
    let once = |now: tidings_hub::Timestamp| tidings_hub::log::Once {
        key: [1; 32],
        body: [2; 32],
        until: now.plus(Duration::from_secs(60)),
    };
    let send = |log: &RedisLog, now| {
        let batch = vec![NewRecord { time: now, event: std::sync::Arc::new(event("a", "x")) }];
        let terms = tidings_hub::log::Terms { once: Some(once(now)), ..Default::default() };
        wait(log.append_with(batch, terms)).unwrap()
    };
    let stored = send(&right, tidings_hub::Timestamp::now());
    assert_eq!(send(&fast, its_time()), stored, "its key is known there, too");
    let time_of = |item: &TailItem| match item {
        TailItem::Stored(record) => Some(record.time),
        _ => None,
    };
    let near = |time: tidings_hub::Timestamp, now: tidings_hub::Timestamp| {
        time.plus(Duration::from_secs(20)) > now && now.plus(Duration::from_secs(20)) > time
    };
    let told = next(&mut *tail, time_of);
    assert!(near(told, its_time()), "{told:?} is told to a node where it is {:?}", its_time());
    let read = |log: &RedisLog, now| {
        let all = [Selection {
            view: "**".parse::<tidings_wire::Pattern>().unwrap().into(),
            after: Sequence::START,
        }];
        let limit = ReadLimit { through: log.head().sequence, records: 10, bytes: usize::MAX };
        log.read(&all, Order::Oldest, limit, now)
            .unwrap()
            .records
            .iter()
            .map(|record| record.time)
            .collect::<Vec<_>>()
    };
    let (by_fast, by_right) = (read(&fast, its_time()), read(&right, tidings_hub::Timestamp::now()));
    assert!(near(by_fast[0], its_time()) && near(by_right[0], tidings_hub::Timestamp::now()));
    // What is young stays, though the fast node looks.
    fast.retain(its_time());
    append(&right, "later");
    until("it", || fast.head() == right.head());
    assert_eq!(all(&right).len(), 2);
}

#[test]
fn two_nodes_see_one_order() {
    let server = Server::start(&[]);
    let logs = [open(&server), open(&server)];
    let mut tails = logs.each_ref().map(|log| log.tail(Sequence::START).unwrap());
    std::thread::scope(|scope| {
        for (node, log) in logs.iter().enumerate() {
            for caller in 0..4 {
                scope.spawn(move || {
                    for n in 0..100 {
                        let told = append(log, &format!("{node}/{caller}/{n}"));
                        assert!(log.head() >= told, "what is answered is seen");
                        // An event that is not kept reaches every node too.
                        let typing = Event { store: false, ..event("a", &format!("{node}/{caller}/{n}")) };
                        let typing = NewRecord { time: Timestamp(1), event: Arc::new(typing) };
                        wait(log.append(vec![typing])).unwrap();
                    }
                });
            }
        }
    });
    let seen = tails.each_mut().map(|tail| {
        let mut items = Vec::new();
        while items.len() < 1600 {
            items.extend(tail.next(Duration::from_secs(10)).unwrap().unwrap());
        }
        items
    });
    assert!(seen[0] == seen[1], "both tails have the same in the same order");
    let kept: Vec<u64> = seen[0].iter().filter_map(stored).map(|(at, _)| at).collect();
    assert_eq!(kept, (1..=800).collect::<Vec<_>>());
    assert_eq!(all(&logs[0]), all(&logs[1]));
    for caller in (0..2).flat_map(|node| (0..4).map(move |caller| format!("{node}/{caller}/"))) {
        let own: Vec<String> = all(&logs[0])
            .into_iter()
            .filter_map(|(_, data)| data.strip_prefix(&caller).map(str::to_owned))
            .collect();
        assert_eq!(own, (0..100).map(|n| n.to_string()).collect::<Vec<_>>(), "in the order of its caller");
    }
}

#[test]
fn what_one_node_does_holds_for_all() {
    let server = Server::start(&[]);
    let (one, other) = (open(&server), open(&server));
    let end = Event { end: true, ..event("a", "end") };
    append(&one, "x");
    wait(one.append(vec![NewRecord { time: Timestamp(1), event: Arc::new(end) }])).unwrap();
    let refused = wait(other.append(batch(&["late"])));
    assert_eq!(refused, Err(AppendError::Ended("a".parse().unwrap())));
    wait(one.set_note("n".to_owned(), Some(vec![1]))).unwrap();
    until("the note", || other.note("n") == Ok(Some(vec![1])));
    assert_eq!(wait(other.purge("a".parse().unwrap())), Ok(2));
    until("the purge", || all(&one).is_empty());
    assert_eq!(append(&one, "again").sequence, Sequence(3));
    until("the record", || other.head() == one.head());
    assert_eq!(wait(other.delete(one.head())), Ok(1));
    until("the removal", || all(&one).is_empty());
}

#[test]
fn the_rules_of_who_started_last_hold() {
    let server = Server::start(&[]);
    let one = open(&server);
    append_many(&one, 5);
    let caps = tidings_hub::log::Caps { count: Some(2), ..Default::default() };
    let retention = Retention { default: caps, ..Retention::default() };
    let other = RedisLog::open(RedisLogConfig { retention, ..config(&server, "hub") }).unwrap();
    assert_eq!(all(&other).len(), 2);
    until("the rules", || all(&one).len() == 2);
    append(&one, "5");
    until("the record", || other.head() == one.head());
    assert_eq!(all(&other), [(5, "4".to_owned()), (6, "5".to_owned())]);
    assert_eq!(all(&one), all(&other));
}

#[test]
fn hubs_of_other_names_know_nothing_of_each_other() {
    let server = Server::start(&[]);
    let one = open(&server);
    let other = RedisLog::open(config(&server, "other")).unwrap();
    append(&one, "x");
    assert_eq!(append(&other, "y").sequence, Sequence(1));
    assert_eq!((all(&one).len(), all(&other).len()), (1, 1));
    for name in ["", "a{b", "a b", &"n".repeat(201)] {
        assert!(refused(config(&server, name)).contains("a hub's name"));
    }
}

#[test]
fn the_first_node_says_the_key_of_the_cursors() {
    let server = Server::start(&[]);
    let first = open(&server);
    let second = RedisLog::open(RedisLogConfig { cursor_key: [8; 16], ..config(&server, "hub") }).unwrap();
    assert_eq!((first.cursor_key(), second.cursor_key()), ([7; 16], [7; 16]));
}

#[test]
fn a_new_run_of_redis_is_a_new_epoch_and_nothing_acknowledged_is_lost() {
    let options = ["--appendonly", "yes", "--appendfsync", "always"];
    let mut server = Server::start(&options);
    let log = RedisLog::open(RedisLogConfig { ack: Ack::Aof, ..config(&server, "hub") }).unwrap();
    let mut tail = log.tail(Sequence::START).unwrap();
    let mut told = Vec::new();
    for round in 0..3 {
        let mut n = 0;
        std::thread::scope(|scope| {
            let killer = scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(100));
                server.kill();
            });
            while !killer.is_finished() {
                let data = format!("{round}/{n}");
                n += 1;
                if let Ok(positions) = wait(log.append(batch(&[&data]))) {
                    told.push((positions[0], data));
                }
            }
        });
        let before = log.head();
        server.restart();
        let position = append_soon(&log, &format!("{round}/after"));
        assert!(position.epoch > before.epoch, "{position:?} {before:?}");
        assert_eq!(next(&mut *tail, forked).0, position.epoch.0);
        told.push((position, format!("{round}/after")));
    }
    assert!(told.len() > 10);
    let again = RedisLog::open(config(&server, "hub")).unwrap();
    let kept = all(&again);
    for (position, data) in told {
        assert!(kept.contains(&(position.sequence.0, data.clone())), "{position:?} {data} was acknowledged");
        assert!(matches!(log.locate(position), tidings_hub::log::Located::Here(_)));
    }
    assert_eq!(kept, all(&log));
    let mut data: Vec<String> = kept.into_iter().map(|(_, data)| data).collect();
    let count = data.len();
    data.sort();
    data.dedup();
    assert_eq!(data.len(), count, "nothing is stored twice");
}

#[test]
fn what_a_failover_lost_is_told_by_a_fork() {
    let mut server = Server::start(&["--save", "", "--appendonly", "no"]);
    let log = open(&server);
    append(&log, "kept");
    let _: String = server.command("SAVE");
    let mut tail = log.tail(Sequence::START).unwrap();
    let lost = [append(&log, "lost"), append(&log, "lost too")];
    server.kill();
    server.restart();
    let position = append_soon(&log, "new");
    assert_eq!(position.sequence, Sequence(2));
    assert!(position.epoch > lost[0].epoch, "the same place is never given to two events");
    let (epoch, at, _) = next(&mut *tail, forked);
    assert_eq!((epoch, at), (position.epoch.0, 1));
    assert_eq!(all(&log), [(1, "kept".to_owned()), (2, "new".to_owned())]);
    for lost in lost {
        assert_eq!(log.locate(lost), tidings_hub::log::Located::PastFork(Sequence(1)));
    }
}

#[test]
fn a_node_that_was_away_during_a_failover_finds_the_other_history() {
    let mut server = Server::start(&["--save", "", "--appendonly", "no"]);
    let proxy = super::proxy::Proxy::before(server.port);
    let log = RedisLog::open(RedisLogConfig { url: proxy.url().parse().unwrap(), ..config(&server, "hub") })
        .unwrap();
    append(&log, "kept");
    let _: String = server.command("SAVE");
    let lost = append(&log, "lost");
    let mut tail = log.tail(lost.sequence).unwrap();
    proxy.close();
    server.kill();
    server.restart();
    // Another node stores on, past the place that this one has seen.
    let other = open(&server);
    let stored_by_other: Vec<Position> = (0..5).map(|n| append(&other, &n.to_string())).collect();
    proxy.open();
    assert_eq!(next(&mut *tail, forked), (other.head().epoch.0, 1, 6));
    assert_eq!(all(&log), all(&other));
    assert_eq!(log.head(), *stored_by_other.last().unwrap());
    assert_eq!(log.locate(lost), tidings_hub::log::Located::PastFork(Sequence(1)));
    append(&log, "next");
    assert_eq!(next(&mut *tail, stored), (7, "next".to_owned()));
}

#[test]
fn a_flushed_log_begins_anew_in_a_larger_epoch() {
    for flush in ["FLUSHALL", "DEL tidings:{hub}:log", "DEL tidings:{hub}:meta"] {
        let server = Server::start(&[]);
        let (log, other) = (open(&server), open(&server));
        let before = append(&log, "x");
        until("the record", || other.head() == before);
        let mut tail = other.tail(before.sequence).unwrap();
        let _: redis::Value = server.command(flush);
        let (epoch, at, through) = next(&mut *tail, forked);
        assert!(epoch > before.epoch.0, "{flush}");
        assert_eq!((at, through), (0, 0), "{flush}");
        let position = append_soon(&log, "y");
        assert_eq!((position.epoch.0, position.sequence.0), (epoch, 1), "{flush}");
        until("the record", || other.head() == position);
        assert_eq!(all(&other), [(1, "y".to_owned())]);
        assert_eq!(log.locate(before), tidings_hub::log::Located::Unknown);
        assert_eq!(log.cursor_key(), open(&server).cursor_key());
    }
}

#[test]
fn keys_of_another_type_are_trouble_and_no_loss() {
    let server = Server::start(&[]);
    let log = open(&server);
    append(&log, "x");
    let _: i64 = server.command("DEL tidings:{hub}:log");
    let _: String = server.command("SET tidings:{hub}:log mine");
    until("trouble", || log.stats().trouble.is_some());
    let refused_one = wait(log.append(batch(&["y"])));
    // It is tried again and again; who gives up just while it is under way can't know.
    assert!(
        matches!(refused_one, Err(AppendError::NotStored(_) | AppendError::Unknown(_))),
        "{refused_one:?}"
    );
    assert_eq!(all(&log).len(), 1);
    assert!(refused(config(&server, "hub")).contains("WRONGTYPE"));
    let _: i64 = server.command("DEL tidings:{hub}:log");
    append_soon(&log, "z");
}

#[test]
fn entries_that_are_missing_are_never_passed_over() {
    let server = Server::start(&[]);
    let log = open(&server);
    append_many(&log, 5);
    let epoch = log.head().epoch.0;
    let _: i64 = server.command(&format!("XDEL tidings:{{hub}}:log 3-{epoch}"));
    assert!(refused(config(&server, "hub")).contains("are missing"));
    // By hand, with an id of its own.
    let _: String = server.command("XADD tidings:{hub}:log * a b");
    assert!(refused(config(&server, "hub")).contains("damaged"));
}

#[test]
fn another_format_is_refused() {
    let server = Server::start(&[]);
    drop(open(&server));
    let _: i64 = server.command("HSET tidings:{hub}:meta format 2");
    let said = refused(config(&server, "hub"));
    assert!(said.contains("has format 2, this version knows 1"), "{said}");
}

#[test]
fn a_base_takes_the_place_of_the_entries() {
    let server = Server::start(&[]);
    let caps = tidings_hub::log::Caps { count: Some(10), ..Default::default() };
    let retention = Retention { default: caps, ..Retention::default() };
    let config = RedisLogConfig { retention, ..config(&server, "hub") };
    let log = RedisLog::open(config.clone()).unwrap();
    wait(log.set_note("n".to_owned(), Some(vec![5]))).unwrap();
    let keys = Keys::new("hub");
    for n in 0..3000 {
        append(&log, &format!("{n}-{}", "x".repeat(200)));
    }
    until("a base", || server.arguments::<u64>(&["HGET", &keys.meta, "base"]) > 0);
    let length: u64 = server.arguments(&["XLEN", &keys.stream]);
    assert!(length < 2500, "{length} entries are left");
    let again = RedisLog::open(config).unwrap();
    assert_eq!(all(&again), all(&log));
    assert_eq!(again.head(), log.head());
    assert_eq!(again.note("n"), Ok(Some(vec![5])));
    // And a base upon a base, while others append.
    std::thread::scope(|scope| {
        let appending = scope.spawn(|| {
            for n in 0..300 {
                // On a machine that has much else to do an answer may be late.
                let _ = wait(log.append(batch(&[&n.to_string()])));
            }
        });
        while !appending.is_finished() {
            rebase(&again.shared).unwrap();
        }
    });
    until("all of it", || again.head() == log.head());
    let third = open_as(&server, &log);
    assert_eq!(all(&third), all(&log));
}

fn open_as(server: &Server, log: &RedisLog) -> RedisLog {
    let retention = log.shared.lock().replica.retention().clone();
    RedisLog::open(RedisLogConfig { retention, ..config(server, "hub") }).unwrap()
}

#[test]
fn a_node_that_comes_back_after_a_new_base_knows_all_of_it() {
    let server = Server::start(&[]);
    let proxy = super::proxy::Proxy::before(server.port);
    let late = RedisLog::open(RedisLogConfig { url: proxy.url().parse().unwrap(), ..config(&server, "hub") })
        .unwrap();
    let other = open(&server);
    let seen = append(&late, "seen");
    let mut tail = late.tail(seen.sequence).unwrap();
    proxy.close();
    until("the outage", || late.stats().trouble.is_some());
    append_many(&other, 20);
    rebase(&other.shared).unwrap();
    proxy.open();
    assert_eq!(next(&mut *tail, forked), (seen.epoch.0, 1, 21), "the epoch is the same, and nothing is lost");
    assert_eq!(all(&late), all(&other));
}

#[test]
fn a_log_that_others_began_anew_is_not_taken_for_the_same_hub() {
    let server = Server::start(&[]);
    let proxy = super::proxy::Proxy::before(server.port);
    let late = RedisLogConfig { url: proxy.url().parse().unwrap(), ..config(&server, "hub") };
    let late = RedisLog::open(late).unwrap();
    append(&late, "x");
    proxy.close();
    let _: String = server.command("FLUSHALL");
    // One that has never been part of this hub brings a key of its own.
    let stranger = RedisLog::open(RedisLogConfig { cursor_key: [8; 16], ..config(&server, "hub") }).unwrap();
    append(&stranger, "y");
    proxy.open();
    until("the trouble", || {
        late.stats().trouble.is_some_and(|trouble| trouble.contains("is another one now"))
    });
    // The first one may have been sent on the old connection.
    assert!(wait(late.append(batch(&["z"]))).is_err());
    assert!(matches!(wait(late.append(batch(&["z"]))), Err(AppendError::NotStored(_))));
    assert_eq!(all(&late), [(1, "x".to_owned())], "what it has stays there");
    assert_eq!(all(&stranger), [(1, "y".to_owned())]);
    // On a connection that lasts, too.
    let _: i64 = server.command("HSET tidings:{hub}:meta key another");
    let refused = wait(stranger.append(batch(&["z"])));
    assert!(
        matches!(&refused, Err(AppendError::NotStored(why)) if why.contains("is another one now")),
        "{refused:?}"
    );
}

#[test]
fn an_older_state_that_is_put_back_is_another_history() {
    let server = Server::start(&[]);
    let (log, other) = (open(&server), open(&server));
    let kept = append(&log, "kept");
    let keys = Keys::new("hub");
    let older: Vec<(&String, Vec<u8>)> = [&keys.stream, &keys.meta]
        .map(|key| (key, redis::cmd("DUMP").arg(key).query(&mut server.connection()).unwrap()))
        .into();
    append_many(&log, 5);
    let lost = log.head();
    until("all of it", || other.head() == lost);
    let (mut tail, mut tail_of_other) =
        (log.tail(lost.sequence).unwrap(), other.tail(lost.sequence).unwrap());
    // In one step, and something is published before anybody has looked.
    let mut put_back = redis::pipe();
    put_back.atomic();
    for (key, state) in &older {
        put_back.cmd("RESTORE").arg(key).arg(0).arg(state).arg("REPLACE");
    }
    put_back.exec(&mut server.connection()).unwrap();
    let new = append_soon(&log, "new");
    assert!(new.epoch > lost.epoch, "the same places are not given to other events");
    assert_eq!(new.sequence, kept.sequence.next());
    for tail in [&mut tail, &mut tail_of_other] {
        assert_eq!(next(&mut **tail, forked), (new.epoch.0, 1, 2));
    }
    assert_eq!(all(&other), [(1, "kept".to_owned()), (2, "new".to_owned())]);
    assert_eq!(other.locate(lost), tidings_hub::log::Located::PastFork(kept.sequence));
}

#[test]
fn of_large_entries_few_are_read_at_once() {
    let server = Server::start(&["--slowlog-log-slower-than", "0", "--slowlog-max-len", "10000"]);
    let log = open(&server);
    let data = "x".repeat(5 << 20);
    for _ in 0..8 {
        append(&log, &data);
    }
    let _: String = server.command("SLOWLOG RESET");
    assert_eq!(all(&open(&server)).len(), 8);
    // The newest first: when, how long, what.
    let calls: Vec<(u64, u64, u64, Vec<String>, String, String)> = server.command("SLOWLOG GET -1");
    let asked: Vec<u64> = calls
        .iter()
        .rev()
        .filter(|(_, _, _, words, ..)| words[0] == "XRANGE")
        .map(|(_, _, _, words, ..)| words.last().unwrap().parse().unwrap())
        .collect();
    assert!(asked.iter().all(|count| *count <= 4), "at first nothing is known of them: {asked:?}");
    assert!(asked.len() > 3, "{asked:?}");
}

#[test]
fn no_lease_outlasts_its_epoch() {
    use tidings_hub::log::{Holder, Note, Terms};
    let mut server = Server::start(&["--save", "", "--appendonly", "no"]);
    let log = open(&server);
    let long = Duration::from_secs(600);
    let lease = wait(log.lease("l", Holder([1; 16]), long)).unwrap().unwrap();
    let noting = |log: &RedisLog, lease: &tidings_hub::log::Lease, value: u8| {
        let note = Note { name: "n".to_owned(), value: Some(vec![value]) };
        let terms = Terms { lease: Some(lease.clone()), note: Some(note), ..Terms::default() };
        wait(log.append_with(batch(&["x"]), terms))
    };
    noting(&log, &lease, 1).unwrap();
    let _: String = server.command("SAVE");
    // Redis loses this, and who stored it does not know: with the next note it would be passed over.
    noting(&log, &lease, 2).unwrap();
    server.kill();
    server.restart();
    until("the new epoch", || log.note("n") == Ok(Some(vec![1])));
    append_soon(&log, "the log is there");
    assert_eq!(noting(&log, &lease, 3), Err(AppendError::LeaseLost));
    let again = wait(log.lease("l", lease.holder, long)).unwrap().unwrap();
    assert!(again.number > lease.number);
    noting(&log, &again, 2).unwrap();
}
