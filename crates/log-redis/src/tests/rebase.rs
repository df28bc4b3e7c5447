//! New bases: what they need, and what becomes of them when they are disturbed.

use super::proxy::Proxy;
use super::*;
use crate::rebase::rebase;

/// The keys of bases that are being written.
fn drafts(server: &Server) -> Vec<String> {
    server.command("KEYS tidings:{hub}:base:*")
}

#[test]
fn a_base_of_which_the_beginning_expired_is_not_put_in_place() {
    let server = Server::start(&[]);
    let proxy = Proxy::before(server.port);
    let paused = RedisLogConfig { url: proxy.url().parse().unwrap(), ..config(&server, "hub") };
    let (paused, other) = (RedisLog::open(paused).unwrap(), open(&server));
    for word in ["early", "early", "early", "late"] {
        append(&other, &word.repeat(120_000));
    }
    until("the records", || paused.head() == other.head());
    // As if the process were suspended in the middle, for longer than what is not finished lasts.
    proxy.hold_at(b"late");
    std::thread::scope(|scope| {
        let written = scope.spawn(|| rebase(&paused.shared));
        until("the middle", || proxy.is_held());
        let [draft] = &drafts(&server)[..] else { panic!("one base is being written") };
        let _: i64 = server.command(&format!("DEL {draft}"));
        proxy.release();
        assert!(written.join().unwrap().is_err());
    });
    assert!(drafts(&server).is_empty(), "nothing of it is left");
    let kept = all(&other);
    assert_eq!(all(&open(&server)), kept);
    rebase(&paused.shared).unwrap();
    assert_eq!(all(&open(&server)), kept);
}

fn keeping(bytes: u64, config: RedisLogConfig) -> RedisLogConfig {
    let total = tidings_hub::log::Caps { bytes: Some(bytes), ..Default::default() };
    RedisLogConfig { retention: Retention { total, ..Retention::default() }, ..config }
}

/// A number of what the server says of itself.
fn info(server: &Server, name: &str) -> u64 {
    let info: String = server.command("INFO");
    let line = info.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
    line.unwrap_or_else(|| panic!("{name}")).parse().unwrap()
}

#[test]
fn a_redis_of_the_documented_size_is_never_full() {
    const KEPT: u64 = 16 << 20;
    let limit = (4 * KEPT).to_string();
    let server = Server::start(&["--save", "", "--maxmemory", &limit]);
    let log = RedisLog::open(keeping(KEPT, config(&server, "hub"))).unwrap();
    let data = [300, 10_000, 60_000, 400_000].map(|length| "x".repeat(length));
    std::thread::scope(|scope| {
        for data in &data {
            let log = &log;
            scope.spawn(move || {
                for _ in 0..(6 * KEPT as usize / data.len()).min(5000) {
                    // Fast, and not so fast that nothing else gets on.
                    std::thread::sleep(Duration::from_millis(1));
                    // On a machine that is busy an answer may be late.
                    if let Err(error) = wait(log.append(batch(&[data]))) {
                        assert!(!error.to_string().contains("maxmemory"), "{error}");
                    }
                }
            });
        }
    });
    assert!(server.command::<u64>("HGET tidings:{hub}:meta base") > 0);
}

#[test]
fn a_full_redis_gets_room_by_itself() {
    const KEPT: u64 = 4 << 20;
    let data = "x".repeat(50_000);
    for new_run in [false, true] {
        let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]);
        let proxy = Proxy::before(server.port);
        let url = proxy.url().parse().unwrap();
        let config = RedisLogConfig { url, ack: Ack::Aof, ..config(&server, "hub") };
        let log = RedisLog::open(keeping(KEPT, config)).unwrap();
        // A base, and behind it much that is not needed, but not enough of it for a new base.
        let in_between = || {
            let size = log.shared.lock().size;
            size.base > 0 && (3 << 19..7 << 18).contains(&size.entries)
        };
        while !in_between() {
            append_soon(&log, &data);
        }
        if new_run {
            proxy.close();
            server.kill();
            server.restart();
            until("its data", || info(&server, "loading") == 0);
        }
        // One more, and nothing goes any more.
        let limit = info(&server, "used_memory") + if new_run { 0 } else { 20_000 };
        let _: String = server.command(&format!("CONFIG SET maxmemory {limit}"));
        proxy.open();
        let base = log.shared.lock().size.base;
        // Who waits longest may be told that it is not known, but room comes.
        until("room", || wait(log.append(batch(&[&data]))).is_ok() && log.shared.lock().size.base > base);
        for _ in 0..5 {
            append_soon(&log, &data);
        }
        let errors: String = server.command("INFO errorstats");
        assert!(errors.contains("errorstat_OOM"), "it was full: {errors}");
        assert_eq!(log.stats().trouble, None);
        assert_eq!(all(&RedisLog::open(keeping(KEPT, self::config(&server, "hub"))).unwrap()), all(&log));
        assert!(drafts(&server).is_empty());
    }
}

/// The node has read what Redis has lost since, and it is not yet known that this is another run of Redis.
#[test]
fn a_base_of_another_history_is_not_put_in_place() {
    let server = Server::start(&["--save", "", "--appendonly", "no"]);
    let log = open(&server);
    append(&log, "kept");
    let keys = crate::script::Keys::new("hub");
    let epoch = log.head().epoch.0;
    let known: u64 = server.arguments(&["HGET", &keys.meta, "last"]);
    for (number, taken) in [(known + 1, 0), (known, 1)] {
        let draft = keys.of_node("base", "test");
        let _: u64 = server.arguments(&["RPUSH", &draft, "chunk"]);
        let four = [&keys.stream[..], &keys.meta, &keys.base, &draft];
        let args = [crate::script::FORMAT, &epoch.to_string(), "0", &number.to_string(), "1"];
        let args = args.map(crate::script::Arg::Text);
        let done = crate::script::run(&mut server.connection(), crate::script::Script::Rebase, &four, &args);
        assert_eq!(done.unwrap(), redis::Value::Int(taken), "{number} of {known}");
    }
}
