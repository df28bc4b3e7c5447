//! Redis that is away, slow, too old, or does not want to.

use super::proxy::Proxy;
use super::*;

/// As long as anybody waits at most, with some time for a machine that is busy.
const AT_MOST: Duration = Duration::from_secs(4);

fn open_through(proxy: &Proxy, server: &Server) -> RedisLog {
    RedisLog::open(RedisLogConfig { url: proxy.url().parse().unwrap(), ..config(server, "hub") }).unwrap()
}

#[test]
fn a_lost_answer_stores_once() {
    let server = Server::start(&[]);
    let proxy = Proxy::before(server.port);
    let log = open_through(&proxy, &server);
    append(&log, "before");
    for n in 0..10 {
        let data = format!("cut here {n}");
        proxy.cut_after(data.as_bytes());
        let position = append(&log, &data);
        assert_eq!(position.sequence, Sequence(n + 2));
        until("the cut", || proxy.cuts() as u64 == n + 1);
    }
    let kept = all(&log);
    assert_eq!(kept.len(), 11);
    assert_eq!(all(&open(&server)), kept);
}

#[test]
fn connections_that_are_lost_again_and_again_lose_and_double_nothing() {
    let server = Server::start(&[]);
    let proxy = Proxy::before(server.port);
    let log = open_through(&proxy, &server);
    let other = open(&server);
    let mut tail = other.tail(Sequence::START).unwrap();
    std::thread::scope(|scope| {
        let cutting = scope.spawn(|| {
            for n in 0..20 {
                std::thread::sleep(Duration::from_millis(20 + n * 7 % 30));
                proxy.cut();
            }
        });
        let mut n = 0;
        while !cutting.is_finished() {
            assert_eq!(append(&log, &n.to_string()).sequence.0, n + 1);
            n += 1;
        }
    });
    let kept = all(&log);
    let expected: Vec<(u64, String)> = (0..kept.len() as u64).map(|n| (n + 1, n.to_string())).collect();
    assert_eq!(kept, expected);
    let mut seen = Vec::new();
    while seen.len() < kept.len() {
        for item in tail.next(Duration::from_secs(10)).unwrap().unwrap() {
            let TailItem::Stored(record) = item else { panic!("{item:?}") };
            seen.push((record.position.sequence.0, record.event.data.as_str().to_owned()));
        }
    }
    assert_eq!(seen, kept);
}

#[test]
fn without_redis_appends_fail_soon_and_surely() {
    let mut server = Server::start(&["--appendonly", "yes"]);
    let log = open(&server);
    append(&log, "x");
    assert_eq!(log.stats().trouble, None);
    server.kill();
    until("trouble", || log.stats().trouble.is_some());
    // The first one may have been sent on the old connection.
    let began = Instant::now();
    assert!(wait(log.append(batch(&["unsure"]))).is_err());
    assert!(began.elapsed() < AT_MOST);
    let answers: Vec<_> = (0..50).map(|_| log.append(batch(&["never"]))).collect();
    let began = Instant::now();
    for answer in answers {
        let error = wait(answer).unwrap_err();
        assert!(matches!(&error, AppendError::NotStored(why) if why.contains("out of reach")), "{error:?}");
    }
    assert!(began.elapsed() < AT_MOST);
    assert!(wait(log.set_note("n".to_owned(), None)).is_err());
    // What is kept can be read all the while.
    assert_eq!(all(&log), [(1, "x".to_owned())]);
    assert!(refused(config(&server, "hub")).contains("out of reach"));
    server.restart();
    // Though nobody asks for anything.
    until("the end of the trouble", || log.stats().trouble.is_none());
    let position = append_soon(&log, "back");
    let kept = all(&log);
    assert!(kept.iter().all(|(_, data)| data != "never"), "what failed for sure was not stored: {kept:?}");
    assert_eq!(kept.last(), Some(&(position.sequence.0, "back".to_owned())));
}

#[test]
fn a_redis_that_does_not_answer_is_away() {
    let server = Server::start(&[]);
    let log = open(&server);
    append(&log, "x");
    server.signal("STOP");
    let began = Instant::now();
    let first = wait(log.append(batch(&["unsure"])));
    assert!(
        matches!(&first, Err(AppendError::Unknown(why)) if why.contains("no answer in time")),
        "{first:?}"
    );
    assert!(began.elapsed() < AT_MOST);
    until("trouble", || log.stats().trouble.is_some());
    let second = wait(log.append(batch(&["never"])));
    assert!(matches!(second, Err(AppendError::NotStored(_))), "{second:?}");
    let said = refused(config(&server, "hub"));
    assert!(said.contains("no answer in time; is that Redis, and does it speak TLS"), "{said}");
    server.signal("CONT");
    append_soon(&log, "back");
    let kept = all(&log);
    assert!(kept.iter().filter(|(_, data)| data == "unsure").count() <= 1, "{kept:?}");
    assert!(kept.iter().all(|(_, data)| data != "never"), "{kept:?}");
}

#[test]
fn what_redis_does_not_take_is_not_stored() {
    let server = Server::start(&["--maxmemory", "100mb", "--maxmemory-policy", "noeviction"]);
    let log = open(&server);
    append(&log, "x");
    let _: String = server.command("CONFIG SET maxmemory 1");
    let full = wait(log.append(batch(&["y"])));
    assert!(
        matches!(&full, Err(AppendError::NotStored(why)) if why.contains("maxmemory") && !why.contains("script")),
        "{full:?}"
    );
    let _: String = server.command("CONFIG SET maxmemory 100mb");
    append_soon(&log, "z");
    assert_eq!(all(&log), [(1, "x".to_owned()), (2, "z".to_owned())]);
}

#[test]
fn a_redis_that_may_lose_events_is_refused() {
    let server = Server::start(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]);
    let said = refused(config(&server, "hub"));
    assert!(said.contains("noeviction") && said.contains("allkeys-lru"), "{said}");
    let said = refused(RedisLogConfig { ack: Ack::Aof, ..config(&Server::start(&[]), "hub") });
    assert!(said.contains("appendonly yes"), "{said}");
}

#[test]
fn a_user_of_redis_may_do_what_the_log_needs_and_no_more() {
    // As it is documented, for this hub.
    let documentation = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/redis.md");
    let documentation = std::fs::read_to_string(documentation).unwrap();
    let line =
        documentation.lines().find(|line| line.starts_with("ACL SETUSER") && line.contains("{tidings}"));
    let line = line.unwrap().replace("{tidings}", "{hub}").replace(">password", ">canary-pw");
    let server = Server::start(&[]);
    let _: String = server.command(&line);
    let _: String = server.command("CONFIG SET requirepass other-pw");
    let url = |user: &str| format!("redis://{user}@127.0.0.1:{}", server.port).parse().unwrap();
    let with = |user: &str| RedisLogConfig { url: url(user), ..config(&server, "hub") };
    let log = RedisLog::open(with("tidings:canary-pw")).unwrap();
    append(&log, "x");
    wait(log.purge("a".parse().unwrap())).unwrap();
    crate::rebase::rebase(&log.shared).unwrap();
    let said = refused(with("tidings:canary-wrong"));
    assert!(said.contains("WRONGPASS") || said.contains("uthentication"), "{said}");
    assert!(!said.contains("canary"), "{said}");
    assert!(!format!("{log:?}").contains("canary"));
    assert!(refused(config(&server, "hub")).contains("NOAUTH: put a password into redis.url"));
}

#[test]
fn an_answer_waits_for_the_disk() {
    // One that syncs now and then keeps an answer waiting for longer than anybody waits here.
    let lazy = Server::start(&["--appendonly", "yes", "--appendfsync", "everysec"]);
    let said = refused(RedisLogConfig { ack: Ack::Aof, ..config(&lazy, "hub") });
    assert!(said.contains("set appendfsync always"), "{said}");
    let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let log = RedisLog::open(RedisLogConfig { ack: Ack::Aof, ..config(&server, "hub") }).unwrap();
    assert_eq!(log.durability().to_string(), "aof");
    let position = append(&log, "x");
    server.kill();
    server.restart();
    let new = append_soon(&log, "y");
    assert_eq!(new.sequence, position.sequence.next(), "what was answered is there");
    assert_eq!(all(&log), [(1, "x".to_owned()), (2, "y".to_owned())]);
}

#[test]
fn an_answer_waits_for_replicas() {
    let server = Server::start(&[]);
    let log = RedisLog::open(RedisLogConfig { ack: Ack::Replicas(1), ..config(&server, "hub") });
    assert!(log.is_err(), "there is no replica");
    let replica = Server::start(&["--replicaof", "127.0.0.1", &server.port.to_string()]);
    until("the replica", || server.command::<String>("INFO replication").contains("state=online"));
    let log = RedisLog::open(RedisLogConfig { ack: Ack::Replicas(1), ..config(&server, "hub") }).unwrap();
    assert_eq!(log.durability().to_string(), "wait 1");
    let first = append(&log, "x");
    assert!(refused(config(&replica, "hub")).contains("is a replica"));
    // A replica that does not take it in.
    replica.signal("STOP");
    let mut tail = log.tail(first.sequence).unwrap();
    let unsure = wait(log.append(batch(&["y"])));
    assert!(matches!(&unsure, Err(AppendError::Unknown(why)) if why.contains("replicas")), "{unsure:?}");
    assert_eq!(log.head(), first, "nobody sees what is not safe yet");
    assert_eq!(tail.next(Duration::from_millis(10)), Ok(Some(Vec::new())));
    assert!(log.stats().trouble.is_some());
    replica.signal("CONT");
    until("the record", || log.head().sequence == Sequence(2));
}

#[test]
fn a_node_reads_as_far_as_a_client_was_on_another_one() {
    let mut server = Server::start(&[]);
    let (log, other) = (open(&server), open(&server));
    let first = append(&log, "first");
    // What comes next, before it is there.
    let next = Position { sequence: Sequence(first.sequence.0 + 1), ..first };
    std::thread::scope(|scope| {
        let reached = scope.spawn(|| {
            other.reach(next).unwrap();
            other.locate(next)
        });
        std::thread::sleep(Duration::from_millis(300));
        assert!(!reached.is_finished());
        assert_eq!(append(&log, "second"), next);
        assert_eq!(reached.join().unwrap(), Located::Here(next.sequence));
    });
    // All is read, and this is not in it: it is said in the end.
    let never = Position { sequence: Sequence(next.sequence.0 + 1), ..next };
    other.reach(never).unwrap();
    assert_eq!(other.locate(never), Located::Ahead);
    // While Redis is away it can't be known.
    server.kill();
    until("the trouble", || other.stats().trouble.is_some());
    other.reach(first).unwrap();
    assert!(matches!(other.reach(never), Err(ReadError::Failed(_))));
    let later = Position { epoch: tidings_wire::Epoch(never.epoch.0 + 1), ..never };
    assert!(matches!(other.reach(later), Err(ReadError::Failed(_))));
}

/// A master and its replica, and a log that waits for that one.
fn replicated() -> (Server, Server, RedisLog) {
    let master = Server::start(&["--repl-diskless-sync-delay", "0"]);
    let port = master.port.to_string();
    let replica = Server::start(&["--repl-diskless-sync-delay", "0", "--replicaof", "127.0.0.1", &port]);
    until("the replica", || master.command::<String>("INFO replication").contains("state=online"));
    let config = RedisLogConfig { ack: Ack::Replicas(1), ..config(&master, "hub") };
    let log = RedisLog::open(config).unwrap();
    (master, replica, log)
}

#[test]
fn what_could_not_be_acknowledged_is_not_sent() {
    let (master, replica, log) = replicated();
    append(&log, "x");
    replica.signal("STOP");
    assert!(matches!(wait(log.append(batch(&["unsure"]))), Err(AppendError::Unknown(_))));
    let length = || master.command::<u64>("XLEN tidings:{hub}:log");
    let before = length();
    for _ in 0..3 {
        let refused = wait(log.append(batch(&["never"])));
        assert!(
            matches!(&refused, Err(AppendError::NotStored(why)) if why.contains("replicas")),
            "{refused:?}"
        );
    }
    assert_eq!(length(), before);
    replica.signal("CONT");
    append_soon(&log, "y");
    let data: Vec<String> = all(&log).into_iter().map(|(_, data)| data).collect();
    assert_eq!(data, ["x", "unsure", "y"]);
}

#[test]
fn what_a_master_lost_while_it_was_a_replica_is_never_seen() {
    let (master, replica, log) = replicated();
    let kept = append(&log, "kept");
    let mut tail = log.tail(kept.sequence).unwrap();
    replica.signal("STOP");
    assert!(matches!(wait(log.append(batch(&["lost"]))), Err(AppendError::Unknown(_))));
    // It becomes the replica of the one that doesn't have it, as a Sentinel would have it, and then the master again.
    replica.signal("KILL");
    let other = Server::start(&["--repl-diskless-sync-delay", "0"]);
    let dump: Vec<(String, Vec<u8>)> = ["log", "meta"]
        .iter()
        .map(|what| {
            let key = format!("tidings:{{hub}}:{what}");
            let dump = redis::cmd("DUMP").arg(&key).query(&mut master.connection()).unwrap();
            (key, dump)
        })
        .collect();
    for (key, dump) in dump {
        let restore = redis::cmd("RESTORE").arg(key).arg(0).arg(dump).exec(&mut other.connection());
        restore.unwrap();
    }
    let lost_entry: u64 = other.command("XLEN tidings:{hub}:log");
    let epoch = kept.epoch.0;
    let _: i64 = other.command(&format!("XDEL tidings:{{hub}}:log {lost_entry}-{epoch}"));
    let _: i64 = other.command(&format!("HSET tidings:{{hub}}:meta last {}", lost_entry - 1));
    let _: String = master.arguments(&["REPLICAOF", "127.0.0.1", &other.port.to_string()]);
    until("the word about it", || log.stats().trouble.is_some_and(|trouble| !trouble.contains("to have it")));
    until("the sync", || master.command::<String>("INFO replication").contains("master_link_status:up"));
    let _: String = master.command("REPLICAOF NO ONE");
    let _: String = other.arguments(&["REPLICAOF", "127.0.0.1", &master.port.to_string()]);
    let next_one = append_soon(&log, "next");
    assert!(next_one.epoch > kept.epoch);
    let seen = next(&mut *tail, |item| match item {
        tidings_hub::log::TailItem::Stored(record) => Some(record.event.data.as_str().to_owned()),
        _ => None,
    });
    assert_eq!(seen, "next", "what the replica did not have was handed out");
    assert_eq!(all(&log), [(1, "kept".to_owned()), (2, "next".to_owned())]);
}

#[test]
fn an_id_of_a_lost_epoch_is_known_as_such_while_others_publish() {
    let server = Server::start(&[]);
    let (log, other) = (open(&server), open(&server));
    let first = append(&log, "x");
    let lost = Position { epoch: tidings_wire::Epoch(first.epoch.0 + 1000), ..first };
    std::thread::scope(|scope| {
        let reached = scope.spawn(|| log.reach(lost));
        while !reached.is_finished() {
            append(&other, "more");
        }
        assert_eq!(reached.join().unwrap(), Ok(()));
    });
    assert_eq!(log.locate(lost), Located::Unknown);
}
