//! A stream of Redis, and a log on Redis that for a while nobody can ask what it has stored.

mod redis;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use redis::proxy::Proxy;
use redis::{Redis, Reply};
use tidings_hub::log::{Log, Order, ReadLimit, Retention, Selection};
use tidings_hub::{Hub, HubConfig, Timestamp};
use tidings_ingest_redis::{Ingest, IngestConfig};
use tidings_log_redis::{Ack, RedisLog, RedisLogConfig};
use tidings_wire::{CursorKey, Pattern, Sequence};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what} did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The data of all that is in the log.
fn data(log: &dyn Log) -> Vec<String> {
    let all = Selection { view: "**".parse::<Pattern>().unwrap().into(), after: Sequence::START };
    let limit = ReadLimit { through: Sequence(u64::MAX), records: usize::MAX, bytes: usize::MAX };
    let page = log.read(&[all], Order::Oldest, limit, Timestamp(0)).unwrap();
    assert_eq!(page.through, log.head().sequence, "all of it in one page");
    page.records.iter().map(|record| record.event.data.as_str().to_owned()).collect()
}

#[test]
fn an_entry_of_which_nobody_knows_whether_it_was_stored_is_stored_once() {
    let redis = Redis::start();
    let proxy = Proxy::before(redis.port());
    let log: Arc<dyn Log> = Arc::new(
        RedisLog::open(RedisLogConfig {
            url: proxy.url().parse().unwrap(),
            authority: None,
            name: "hub".to_owned(),
            ack: Ack::Master,
            retention: Retention::default(),
            cursor_key: [7; 16],
        })
        .unwrap(),
    );
    let hub = Hub::start(log.clone(), HubConfig::new(CursorKey::new([7; 16]))).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    // The entries are read without the proxy: only the log is out of reach.
    let mut config = IngestConfig::new(redis.url().parse().unwrap());
    config.streams = vec!["jobs".parse().unwrap()];
    let ingest = {
        let _runtime = runtime.enter();
        Ingest::start(&hub, &config).unwrap()
    };
    let stats = ingest.sources()[0].1.clone();
    let is_reading = || stats.reading.load(Ordering::Relaxed) > 0;
    let mut client = redis.client();
    let mut expected = Vec::new();
    let mut add = |data: String| {
        assert!(matches!(client.run(&["XADD", "jobs", "*", "channel", "a", "data", &data]), Reply::Text(_)));
        expected.push(data);
        expected.clone()
    };
    for round in 0..3 {
        until("the reader", is_reading);
        add(format!("{round}: before"));
        let last = format!("{round}: stored, but who knows");
        proxy.hold_after(last.as_bytes());
        let all = add(last);
        // Redis does it. The node learns nothing of that: its append ends as one of unknown outcome, and so does the
        // reader's session.
        until("the append", || {
            let newest = redis.run(&["XREVRANGE", "tidings:{hub}:log", "+", "-", "COUNT", "1"]);
            format!("{newest:?}").contains(&format!("{round}: stored, but who knows"))
        });
        assert!(proxy.is_held() && data(&*log).len() < all.len());
        until("the end of the session", || !is_reading());
        let all = add(format!("{round}: meanwhile"));
        proxy.release();
        until("all of it", || data(&*log).len() >= all.len());
    }
    let all = add("the end".to_owned());
    until("the end", || data(&*log).last().is_some_and(|last| last == "the end"));
    assert_eq!(data(&*log), all, "each once, in order");
    runtime.block_on(ingest.stop());
    hub.close();
}
