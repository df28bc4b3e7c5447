//! A real Redis, hubs on a log in memory.

mod redis;

use std::collections::BTreeMap;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use redis::{Redis, Reply, Sentinel};
use tidings_hub::log::{Log, MemoryLog, MemoryLogConfig, Order, ReadLimit, Retention, Selection};
use tidings_hub::{Hub, HubConfig, Timestamp};
use tidings_ingest_redis::{Ingest, IngestConfig};
use tidings_wire::{CursorKey, Epoch, Event, Pattern, Sequence};
use tokio::runtime::Runtime;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Of one node.
const THREADS: usize = 2;

fn log() -> Arc<dyn Log> {
    Arc::new(MemoryLog::new(MemoryLogConfig { epoch: Epoch(1), retention: Retention::default() }))
}

fn config(redis: &Redis) -> IngestConfig {
    let mut config = IngestConfig::new(redis.url().parse().unwrap());
    config.topics = vec!["user:events".parse().unwrap()];
    config.lease = Duration::from_millis(600);
    config
}

/// A node: a hub on a log that others may have too, and what reads for it. A runtime of its own, so that it can die.
struct Node {
    /// The log is shared: a hub that is dropped would close it.
    _hub: ManuallyDrop<Hub>,
    ingest: Option<Ingest>,
    runtime: Runtime,
}

impl Node {
    fn start(log: &Arc<dyn Log>, config: &IngestConfig) -> Node {
        let hub = Hub::start(log.clone(), HubConfig::new(CursorKey::new([7; 16]))).unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build().unwrap();
        let ingest = {
            let _runtime = runtime.enter();
            Ingest::start(&hub, config).unwrap()
        };
        Node { _hub: ManuallyDrop::new(hub), ingest: Some(ingest), runtime }
    }

    /// How many messages were received, stored, bad and lost, and how many sources are read.
    fn counts(&self) -> [u64; 5] {
        let mut sum = [0; 5];
        for (_, stats) in self.ingest.as_ref().unwrap().sources() {
            let counts = [&stats.received, &stats.stored, &stats.bad, &stats.lost, &stats.reading];
            for (sum, count) in sum.iter_mut().zip(counts) {
                *sum += count.load(Ordering::Relaxed);
            }
        }
        sum
    }

    fn wait_for(&self, counts: [u64; 5]) {
        until(|| self.counts() == counts, || format!("{:?} instead of {counts:?}", self.counts()));
    }

    fn is_reading(&self) -> bool {
        self.counts()[4] > 0
    }

    fn stop(mut self) {
        self.runtime.block_on(self.ingest.take().unwrap().stop());
    }

    /// Ends it between two instructions, as far as a test in one process can: nothing is given back.
    fn die(self) {
        self.runtime.shutdown_background();
    }

    /// Stops all that it does for a while, as a machine that is suspended.
    fn suspend(&self, time: Duration) {
        for _ in 0..THREADS {
            self.runtime.spawn(async move { std::thread::sleep(time) });
        }
    }
}

fn until(mut is_so: impl FnMut() -> bool, what: impl Fn() -> String) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{}", what());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// All that is in the log.
fn stored(log: &dyn Log) -> Vec<Arc<Event>> {
    let all = ["**", "$user/*", "$all"].map(|pattern| {
        let view = pattern.parse::<Pattern>().unwrap().into();
        Selection { view, after: Sequence::START }
    });
    // Others may store while it is read.
    let through = log.head().sequence;
    let limit = ReadLimit { through, records: usize::MAX, bytes: usize::MAX };
    let page = log.read(&all, Order::Oldest, limit, Timestamp(0)).unwrap();
    assert_eq!(page.through, through, "all of it in one page");
    page.records.into_iter().map(|record| record.event).collect()
}

fn data(log: &dyn Log) -> Vec<String> {
    stored(log).iter().map(|event| event.data.as_str().to_owned()).collect()
}

/// How often each of the numbers is stored.
fn times(log: &dyn Log) -> BTreeMap<u64, u64> {
    let mut times = BTreeMap::new();
    for data in data(log) {
        *times.entry(data.parse().unwrap()).or_default() += 1;
    }
    times
}

#[test]
fn what_is_published_in_redis_is_stored() {
    let redis = Redis::start();
    let log = log();
    let mut config = config(&redis);
    config.topics.push("events:*".parse().unwrap());
    let node = Node::start(&log, &config);
    redis.wait_for_subscriber("user:events");
    redis.wait_for(&["PUBSUB", "NUMPAT"], &Reply::Number(1));
    redis.publish(r#"{"userId":"ada","event":"paid","data":{"n": 1}}"#);
    redis.publish(r#"{"userId":7,"data":"hello"}"#);
    let patterned =
        |channel: &str, message: &str| redis.run(&["PUBLISH", channel, message]) == Reply::Number(1);
    assert!(patterned(
        "events:a",
        r#"{"channels":["a","b"],"event":"x","data":[1],"key":"k","tags":{"t":true}}"#
    ));
    assert!(patterned("events:", r#"[{"broadcast":true,"data":1},{"channel":"a","data":2}]"#));
    for _ in 0..2 {
        assert!(patterned("events:a", r#"{"channel":"a","data":"once","idempotency_key":"k"}"#));
    }
    assert!(patterned("events:a", r#"{"channel":"a","data":"other","idempotency_key":"k"}"#));
    assert!(patterned("events:a", "not JSON"));
    assert!(patterned("events:a", r#"{"channel":"a"}"#));
    assert_eq!(redis.run(&["PUBLISH", "else", "x"]), Reply::Number(0));
    node.wait_for([9, 6, 3, 0, 1]);

    let events = stored(&*log);
    let all: Vec<_> = events
        .iter()
        .map(|event| {
            let to: Vec<_> = event.to.channels().iter().map(|channel| channel.as_str()).collect();
            (to.join(" "), event.event.as_str(), event.data.as_str())
        })
        .collect();
    let expected = [
        ("$user/ada", "paid", r#"{"n":1}"#),
        ("$user/7", "message", "hello"),
        ("a b", "x", "[1]"),
        ("$all", "message", "1"),
        ("a", "message", "2"),
        ("a", "message", "once"),
    ];
    assert_eq!(all, expected.map(|(to, event, data)| (to.to_owned(), event, data)));
    assert!(events[2].key.is_some() && !events[2].tags.is_empty());
    node.stop();
    redis.run(&["PING"]);
    assert_eq!(redis.run(&["PUBLISH", "user:events", "x"]), Reply::Number(0), "nobody follows any more");
}

#[test]
fn many_messages_keep_their_order_and_a_bad_one_keeps_no_other_out() {
    let redis = Redis::start();
    let log = log();
    let node = Node::start(&log, &config(&redis));
    redis.wait_for_subscriber("user:events");
    let mut client = redis.client();
    let mut expected = Vec::new();
    for n in 0..2_000 {
        // The end of a channel, and something after it in the same batch: only that one is refused.
        let message = match n {
            100 => r#"{"channel":"ended","data":"100","end":true}"#.to_owned(),
            101 | 1_500 => format!(r#"{{"channel":"ended","data":"{n}"}}"#),
            _ => format!(r#"{{"channel":"a","data":"{n}"}}"#),
        };
        if n != 101 && n != 1_500 {
            expected.push(n.to_string());
        }
        assert_eq!(client.run(&["PUBLISH", "user:events", &message]), Reply::Number(1));
    }
    node.wait_for([2_000, 1_998, 2, 0, 1]);
    assert_eq!(data(&*log), expected);
    node.stop();
}

#[test]
fn what_was_published_before_a_stop_is_stored() {
    let redis = Redis::start();
    let log = log();
    let mut config = config(&redis);
    config.lease = PATIENCE;
    let node = Node::start(&log, &config);
    redis.wait_for_subscriber("user:events");
    // So that much is waiting when it stops.
    node.suspend(Duration::from_secs(1));
    let mut client = redis.client();
    for n in 0..3_000 {
        let message = format!(r#"{{"channel":"a","data":"{n}"}}"#);
        assert_eq!(client.run(&["PUBLISH", "user:events", &message]), Reply::Number(1));
    }
    node.stop();
    assert_eq!(times(&*log), (0..3_000).map(|n| (n, 1)).collect());
}

#[test]
fn what_the_log_does_not_take_in_time_is_counted_as_lost() {
    let redis = Redis::start();
    let log = log();
    let mut config = config(&redis);
    config.patience = Duration::from_millis(300);
    config.lease = PATIENCE;
    config.queue = 10_000;
    config.message = 2_000;
    let node = Node::start(&log, &config);
    redis.wait_for_subscriber("user:events");
    redis.publish(&format!(r#"{{"channel":"a","data":"{}"}}"#, "x".repeat(2_000)));
    node.wait_for([1, 0, 1, 0, 1]);
    log.close();
    redis.publish(r#"{"channel":"a","data":1}"#);
    node.wait_for([2, 0, 1, 1, 1]);
    // More than may wait.
    let long = format!(r#"{{"channel":"a","data":"{}"}}"#, "x".repeat(900));
    for _ in 0..100 {
        redis.publish(&long);
    }
    node.wait_for([102, 0, 1, 101, 1]);
    node.die();
}

#[test]
fn of_two_nodes_one_stores() {
    let redis = Redis::start();
    let log = log();
    let mut config = config(&redis);
    config.streams = vec!["s".parse().unwrap()];
    let nodes = [Node::start(&log, &config), Node::start(&log, &config)];
    redis.wait_for_subscriber("user:events");
    until(
        || nodes.iter().map(|node| node.counts()[4]).sum::<u64>() == 2,
        || "both sources are to be read".to_owned(),
    );
    let mut client = redis.client();
    for n in 0..500 {
        let n = n.to_string();
        let message = format!(r#"{{"channel":"a","data":"{n}"}}"#);
        assert_eq!(client.run(&["PUBLISH", "user:events", &message]), Reply::Number(1), "one subscriber");
        client.run(&["XADD", "s", "*", "channel", "b", "data", &n]);
    }
    until(
        || nodes.iter().map(|node| node.counts()[1]).sum::<u64>() == 1_000,
        || format!("{:?}", nodes.iter().map(Node::counts).collect::<Vec<_>>()),
    );
    // They stay apart for longer than a lease.
    std::thread::sleep(config.lease * 2);
    assert_eq!(nodes.iter().map(|node| node.counts()[4]).sum::<u64>(), 2);
    assert_eq!(times(&*log), (0..500).map(|n| (n, 2)).collect());
    for node in nodes {
        node.stop();
    }
}

#[test]
fn a_node_that_dies_is_replaced() {
    let redis = Redis::start();
    let log = log();
    let mut config = config(&redis);
    config.streams = vec!["s".parse().unwrap()];
    let add = |from: u64, to: u64| {
        let mut client = redis.client();
        for n in from..to {
            client.run(&["XADD", "s", "*", "channel", "a", "data", &n.to_string()]);
        }
    };
    let first = Node::start(&log, &config);
    until(|| first.counts()[4] == 2, || "it reads".to_owned());
    let second = Node::start(&log, &config);
    add(0, 300);
    assert!(!second.is_reading());
    first.die();
    add(300, 600);
    until(|| second.counts()[4] == 2, || format!("{:?}", second.counts()));
    redis.wait_for_subscriber("user:events");
    redis.publish(r#"{"channel":"a","data":"600"}"#);
    let all = || (0..=600).map(|n| (n, 1)).collect::<BTreeMap<u64, u64>>();
    until(|| times(&*log).len() == 601, || format!("{:?}", second.counts()));
    assert_eq!(times(&*log), all());
    // One that ends in order is replaced by a node that waits for long.
    let third = Node::start(&log, &IngestConfig { lease: Duration::from_secs(3), ..config.clone() });
    second.stop();
    until(|| third.counts()[4] == 2, || format!("{:?}", third.counts()));
    assert_eq!(times(&*log), all());
    third.stop();
}

#[test]
fn a_node_that_has_lost_its_right_stores_nothing_more() {
    let redis = Redis::start();
    let log = log();
    let config = config(&redis);
    let first = Node::start(&log, &config);
    redis.wait_for_subscriber("user:events");
    first.suspend(config.lease * 4);
    let other = tidings_hub::log::Holder([9; 16]);
    until(
        || first.runtime.block_on(log.lease("ingest/redis/pubsub", other, PATIENCE)).unwrap().is_some(),
        || "the lease ends".to_owned(),
    );
    // Redis does not know, and neither does the node yet.
    redis.publish(r#"{"channel":"a","data":1}"#);
    until(|| !first.is_reading(), || "it stops reading".to_owned());
    assert_eq!(redis.run(&["PUBLISH", "user:events", r#"{"channel":"a","data":2}"#]), Reply::Number(0));
    assert_eq!(log.head().sequence, Sequence::START);
    first.die();
}

#[test]
fn a_stream_is_read_from_its_beginning_and_once() {
    let redis = Redis::start();
    let log = log();
    let mut config = config(&redis);
    config.topics.clear();
    config.streams = vec!["s".parse().unwrap(), "t".parse().unwrap()];
    let mut client = redis.client();
    client.run(&["XADD", "s", "*", "channel", "a", "channel", "b", "event", "x", "data", "1"]);
    client.run(&["XADD", "s", "*", "json", r#"{"channel":"a","data":2}"#]);
    client.run(&["XADD", "s", "*", "channel", "a//", "data", "bad"]);
    client.run(&["XADD", "s", "*", "channel", "c", "data", "3", "end", "1"]);
    client.run(&["XADD", "s", "*", "channel", "c", "data", "too late"]);
    client.run(&["XADD", "s", "*", "channel", "a", "data", "4", "idempotency_key", "k"]);
    client.run(&["XADD", "s", "*", "channel", "a", "data", "4", "idempotency_key", "k"]);
    client.run(&["XADD", "s", "*", "channel", "a"]);
    let node = Node::start(&log, &config);
    node.wait_for([8, 5, 3, 0, 2]);
    client.run(&["XADD", "t", "*", "channel", "a", "data", "5"]);
    node.wait_for([9, 6, 3, 0, 2]);
    node.stop();
    assert_eq!(data(&*log), ["1", "2", "3", "4", "5"]);
    assert_eq!(stored(&*log)[0].to.channels().len(), 2);

    // Nothing comes again, not even what was bad at the end.
    client.run(&["XADD", "s", "*", "channel", "a", "data", "6"]);
    let node = Node::start(&log, &config);
    node.wait_for([1, 1, 0, 0, 2]);
    assert_eq!(data(&*log), ["1", "2", "3", "4", "5", "6"]);
    node.stop();
}

#[test]
fn a_redis_that_comes_back_is_read_on() {
    let mut redis = Redis::start();
    let log = log();
    let mut config = config(&redis);
    config.streams = vec!["s".parse().unwrap()];
    config.redis = format!("{}/?protocol=resp3", redis.url()).parse().unwrap();
    let node = Node::start(&log, &config);
    redis.wait_for_subscriber("user:events");
    redis.publish(r#"{"channel":"a","data":"1"}"#);
    redis.run(&["XADD", "s", "*", "channel", "a", "data", "2"]);
    node.wait_for([2, 2, 0, 0, 2]);
    redis.run(&["XADD", "s", "*", "channel", "a", "data", "3"]);
    redis.stop();
    redis.start_again();
    redis.run(&["XADD", "s", "*", "channel", "a", "data", "4"]);
    redis.wait_for_subscriber("user:events");
    redis.publish(r#"{"channel":"a","data":"5"}"#);
    until(|| data(&*log).len() == 5, || format!("{:?} {:?}", data(&*log), node.counts()));
    let mut all = data(&*log);
    all.sort();
    assert_eq!(all, ["1", "2", "3", "4", "5"]);
    node.stop();
}

#[test]
fn a_replica_that_takes_over_is_read_on() {
    let mut primary = Redis::start();
    let replica = Redis::start();
    replica.run(&["REPLICAOF", "127.0.0.1", &primary.port().to_string()]);
    let sentinel = Sentinel::start(&primary);
    let log = log();
    let mut config = config(&primary);
    config.redis = format!("redis+sentinel://127.0.0.1:{}/main", sentinel.port).parse().unwrap();
    config.streams = vec!["s".parse().unwrap()];
    let node = Node::start(&log, &config);
    primary.wait_for_subscriber("user:events");
    primary.publish(r#"{"channel":"a","data":"1"}"#);
    primary.run(&["XADD", "s", "*", "channel", "a", "data", "2"]);
    node.wait_for([2, 2, 0, 0, 2]);
    assert_eq!(primary.run(&["WAIT", "1", "60000"]), Reply::Number(1));
    sentinel.wait_for_replica();
    primary.stop();
    replica.wait_for_subscriber("user:events");
    replica.publish(r#"{"channel":"a","data":"3"}"#);
    replica.run(&["XADD", "s", "*", "channel", "a", "data", "4"]);
    until(|| data(&*log).len() == 4, || format!("{:?} {:?}", data(&*log), node.counts()));
    let mut all = data(&*log);
    all.sort();
    assert_eq!(all, ["1", "2", "3", "4"]);
    node.stop();
}
