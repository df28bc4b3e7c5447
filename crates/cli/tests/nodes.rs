//! Two nodes with their log on one Redis, as one hub.

mod harness;
#[path = "../../ingest-redis/tests/redis/mod.rs"]
mod redis;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use harness::{PATIENCE, Running, Server, stdout_of, tidings};
use redis::Redis;
use rustix::process::Signal;

fn node(dir: &Path, redis: &Redis) -> Server {
    Server::start(dir, &["--dev", "--log", "redis", "--redis", &redis.url()])
}

/// All that is kept of a channel, as a node has it: so many events.
fn history(server: &Server, after: &str, count: usize) -> Vec<String> {
    let count = count.to_string();
    let arguments = [
        "subscribe",
        "--url",
        &server.url,
        "orders/7",
        "--last-event-id",
        after,
        "--only",
        "--count",
        &count,
    ];
    let all = stdout_of(tidings().args(arguments));
    all.lines().map(|line| line.rsplit(' ').next().unwrap().to_owned()).collect()
}

fn publish(server: &Server, data: &str) -> String {
    stdout_of(server.client("publish").args(["orders/7", data]))
}

#[test]
fn what_is_published_on_one_node_is_streamed_and_resumed_on_another() {
    let redis = Redis::start();
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [one, other] = dirs.each_ref().map(|dir| node(dir.path(), &redis));
    let arguments = ["subscribe", "--url", &other.url, "orders/7", "--json", "--count", "2"];
    let stream = Running::start(tidings().args(arguments));
    stream.wait_for("connected to");
    publish(&one, "first");
    let line = stream.line();
    publish(&other, "second");
    assert!(stream.line().contains("second"));
    assert!(line.contains("first"), "{line}");
    // An id that one node gave is good on the other one.
    let id = line.split(r#""id":""#).nth(1).unwrap().split('"').next().unwrap();
    assert_eq!(history(&one, id, 1), ["second"]);
    let third = node(tempfile::tempdir().unwrap().path(), &redis);
    assert_eq!(history(&third, id, 1), ["second"]);
    for server in [one, other, third] {
        server.stop();
    }
}

#[test]
fn a_node_says_what_the_others_do_not_know() {
    let redis = Redis::start();
    let url = redis.url();
    let arguments = ["--log", "redis", "--redis", &url];
    let (token, key) = ("refuse its tokens", "know only the API keys");
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &arguments);
    server.running.wait_for(token);
    assert!(!server.running.written().contains(key), "{}", server.running.written());
    server.stop();
    stdout_of(tidings().args(["key", "create", "--publish", "**", "--data-dir"]).arg(dir.path()));
    let secret = [("TIDINGS_JWT_SECRET", "a secret that all of the nodes have, long enough")];
    let server = Server::start_with(dir.path(), &arguments, &secret);
    server.running.wait_for(key);
    assert!(!server.running.written().contains(token), "{}", server.running.written());
    server.stop();
    // One node alone has no others.
    let server = Server::start(dir.path(), &["--log", "disk"]);
    assert!(!server.running.written().contains("the other nodes"), "{}", server.running.written());
    server.stop();
}

#[test]
fn nodes_survive_redis_and_redis_survives_nodes() {
    let mut redis = Redis::start();
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [mut one, other] = dirs.each_ref().map(|dir| node(dir.path(), &redis));
    publish(&one, "first");
    one.running.signal(Signal::KILL);
    one.running.wait();
    publish(&other, "second");
    redis.stop();
    // History is there all the while, publishing fails with a word of why.
    assert_eq!(history(&other, "earliest", 2), ["first", "second"]);
    let failed = other.client("publish").args(["orders/7", "never"]).output().unwrap();
    assert!(!failed.status.success());
    redis.start_again();
    let end = Instant::now() + PATIENCE;
    while !other.client("publish").args(["orders/7", "third"]).output().unwrap().status.success() {
        assert!(Instant::now() < end, "{}", other.running.written());
    }
    let one = node(dirs[0].path(), &redis);
    assert_eq!(history(&one, "earliest", 3), ["first", "second", "third"]);
    one.stop();
    other.stop();
}

/// Asks until the answer has something in it.
fn until(url: &str, what: &str) -> String {
    let end = Instant::now() + PATIENCE;
    loop {
        let answer = stdout_of(Command::new("curl").args(["-s", url]));
        if answer.contains(what) {
            return answer;
        }
        assert!(Instant::now() < end, "{url}: {answer}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn every_node_knows_who_is_on_the_others_and_reaches_them() {
    let redis = Redis::start();
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [one, mut other] = dirs.each_ref().map(|dir| node(dir.path(), &redis));
    let stream = Running::start(tidings().args(["subscribe", "--url", &other.url, "room", "--json"]));
    stream.wait_for("connected to");
    // It is there for both, by way of whichever is asked.
    let here = until(&format!("{}/presence?channel=room", one.url), r#""connections":1"#);
    assert!(here.contains(r#""truncated":false"#), "{here}");
    until(&format!("{}/stats", one.url), r#""nodes":2"#);
    let all = until(&format!("{}/connections", one.url), r#""connection":""#);
    let id = all.split(r#""connection":""#).nth(1).unwrap().split('"').next().unwrap();
    assert!(until(&format!("{}/connections/{id}", one.url), id).contains("room"));
    let gone = stdout_of(Command::new("curl").args([
        "-s",
        "-X",
        "DELETE",
        &format!("{}/connections/{id}", one.url),
    ]));
    assert!(gone.contains(r#""disconnected":1"#), "{gone}");
    // A node that dies takes what it had with it, within its lease.
    other.running.signal(Signal::KILL);
    other.running.wait();
    until(&format!("{}/stats", one.url), r#""nodes":1"#);
    until(&format!("{}/presence?channel=room", one.url), r#""connections":0"#);
    one.stop();
}

/// One that took itself for all would say that a stream is not there, and leave it.
#[test]
fn while_redis_is_away_a_node_does_not_say_what_it_can_not_know() {
    let mut redis = Redis::start();
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [one, other] = dirs.each_ref().map(|dir| node(dir.path(), &redis));
    let stream = Running::start(tidings().args(["subscribe", "--url", &other.url, "room", "--json"]));
    stream.wait_for("connected to");
    let list = format!("{}/connections", one.url);
    let all = until(&list, r#""connection":""#);
    let id = all.split(r#""connection":""#).nth(1).unwrap().split('"').next().unwrap();
    let delete = || stdout_of(Command::new("curl").args(["-s", "-X", "DELETE", &format!("{list}/{id}")]));
    redis.stop();
    // At once, and when nobody was heard for longer than a node is taken for alive.
    assert!(delete().contains("nodes_silent"));
    std::thread::sleep(Duration::from_secs(8));
    let silent = delete();
    assert!(silent.contains("nodes_silent"), "{silent}");
    until(&list, r#""missing_nodes":1"#);
    redis.start_again();
    let end = Instant::now() + PATIENCE;
    loop {
        let answer = delete();
        if answer.contains(r#""disconnected":1"#) {
            break;
        }
        assert!(answer.contains("nodes_silent") && Instant::now() < end, "{answer}");
        std::thread::sleep(Duration::from_millis(100));
    }
    one.stop();
    other.stop();
}

#[test]
fn what_services_say_in_redis_is_stored_once_for_all_nodes() {
    let redis = Redis::start();
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [one, other] = dirs.each_ref().map(|dir| node(dir.path(), &redis));
    redis.wait_for_subscriber("user:events");
    for n in 0..20 {
        redis.publish(&format!(r#"{{"channel":"orders/7","data":"{n}"}}"#));
    }
    // The last one comes after all the others.
    assert_eq!(history(&one, "earliest", 20).len(), 20);
    publish(&one, "end");
    let mut expected: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    expected.push("end".to_owned());
    for server in [&one, &other] {
        assert_eq!(history(server, "earliest", 21), expected);
    }
    one.stop();
    other.stop();
}

#[test]
fn what_services_say_is_stored_once_whichever_node_is_killed() {
    let redis = Redis::start();
    let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let environment = [("TIDINGS_REDIS__INGEST_STREAMS", "jobs")];
    let url = redis.url();
    let begin =
        |dir: &Path| Server::start_with(dir, &["--dev", "--log", "redis", "--redis", &url], &environment);
    let mut said = Vec::new();
    let mut say = |redis: &Redis| {
        redis.wait_for_subscriber("user:events");
        for _ in 0..50 {
            said.push(said.len());
            redis.publish(&format!(r#"{{"channel":"orders/7","data":"{}"}}"#, said.len()));
            said.push(said.len());
            redis.run(&["XADD", "jobs", "*", "channel", "orders/7", "data", &said.len().to_string()]);
        }
        said.len()
    };
    let check = |server: &Server, count: usize| {
        let mut all: Vec<usize> =
            history(server, "earliest", count).iter().map(|data| data.parse().unwrap()).collect();
        all.sort_unstable();
        assert_eq!(all, (1..=count).collect::<Vec<_>>());
    };
    let mut one = begin(dirs[0].path());
    let mut other = begin(dirs[1].path());
    check(&other, say(&redis));
    // One of these two ends has to be that of who reads.
    one.running.signal(Signal::KILL);
    one.running.wait();
    check(&other, say(&redis));
    let third = begin(dirs[2].path());
    other.running.signal(Signal::KILL);
    other.running.wait();
    let count = say(&redis);
    check(&third, count);
    third.stop();
}
