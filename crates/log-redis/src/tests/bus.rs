use std::sync::mpsc::{Receiver, channel};

use tidings_hub::{Bus, NodeId};

use super::proxy::Proxy;
use super::*;
use crate::RedisBus;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

fn join(bus: &RedisBus, node: u64) -> Receiver<String> {
    let (heard, words) = channel();
    let ear = move |words: &[u8]| {
        // Nobody listens at the end of a test.
        let _ = heard.send(String::from_utf8(words.to_vec()).unwrap());
    };
    bus.join(NodeId::new(node), std::sync::Arc::new(ear));
    words
}

/// Says something again and again until it is heard: what is said to who does not listen yet is lost.
fn reached(from: &RedisBus, to: u64, words: &Receiver<String>, call: &str) {
    let end = Instant::now() + PATIENCE;
    loop {
        from.say(Some(NodeId::new(to)), call.as_bytes().to_vec());
        if let Ok(heard) = words.recv_timeout(Duration::from_millis(100)) {
            assert_eq!(heard, call);
            break;
        }
        assert!(Instant::now() < end, "{call} is not heard");
    }
    // And all that was said of it, so that nothing of it comes later.
    from.say(Some(NodeId::new(to)), b"enough".to_vec());
    while words.recv_timeout(PATIENCE).unwrap() != "enough" {}
}

#[test]
fn nodes_hear_each_other_in_order_and_again_after_an_outage() {
    let mut server = Server::start(&[]);
    let (one, two) = (open(&server), open(&server));
    let (line, other) = (one.bus(), two.bus());
    let (first, second) = (join(&line, 1), join(&other, 2));
    reached(&line, 2, &second, "are you there?");
    reached(&other, 1, &first, "and you?");
    for number in 0..1000 {
        line.say((number % 2 == 0).then_some(NodeId::new(2)), number.to_string().into_bytes());
    }
    let heard: Vec<String> = (0..1000).map(|_| second.recv_timeout(PATIENCE).unwrap()).collect();
    let said: Vec<String> = (0..1000).map(|number| number.to_string()).collect();
    assert_eq!(heard, said);
    let own: Vec<String> = (0..500).map(|_| first.recv_timeout(PATIENCE).unwrap()).collect();
    let all: Vec<String> = said.into_iter().skip(1).step_by(2).collect();
    assert_eq!(own, all, "what is said to all, and nothing that is for the other one");
    server.kill();
    line.say(None, b"to nobody".to_vec());
    server.restart();
    let end = Instant::now() + PATIENCE;
    loop {
        line.say(None, b"again".to_vec());
        match second.recv_timeout(Duration::from_millis(200)) {
            Ok(heard) if heard == "again" => break,
            _ => assert!(Instant::now() < end, "the line stays dead"),
        }
    }
}

/// Says something to all until both have heard it, and has a line made anew by whom it is that doesn't hear itself.
fn all_hear(lines: [&RedisBus; 2], heard: [&Receiver<String>; 2], call: &str) {
    let end = Instant::now() + PATIENCE;
    for line in lines {
        let mut missing = [true; 2];
        while missing.contains(&true) {
            assert!(Instant::now() < end, "{call} is not heard");
            line.say(None, call.as_bytes().to_vec());
            for (node, words) in heard.iter().enumerate() {
                match words.recv_timeout(Duration::from_millis(500)) {
                    Ok(said) => missing[node] &= said != call,
                    Err(_) => lines[node].renew(),
                }
            }
        }
    }
}

/// A master whose host is gone: no connection to it is ever closed.
#[test]
fn nodes_hear_each_other_on_the_new_master_when_the_old_one_is_frozen() {
    let first = Server::start(&[]);
    let diskless = ["--repl-diskless-sync-delay", "0"];
    let port = first.port.to_string();
    let second = Server::start(&[&diskless[..], &["--replicaof", "127.0.0.1", &port]].concat());
    until("the replica", || first.command::<String>("INFO replication").contains("state=online"));
    let dir = tempfile::tempdir().unwrap();
    let sentinel = super::server::sentinel(&first, dir.path());
    let url = format!("redis+sentinel://127.0.0.1:{}/main", sentinel.port);
    let config = RedisLogConfig { url: url.parse().unwrap(), ..config(&first, "hub") };
    let (one, two) = (RedisLog::open(config.clone()).unwrap(), RedisLog::open(config).unwrap());
    let lines = [&one.bus(), &two.bus()];
    let heard = [&join(lines[0], 1), &join(lines[1], 2)];
    all_hear(lines, heard, "before");
    first.signal("STOP");
    until("the failover", || second.command::<String>("INFO replication").contains("role:master"));
    all_hear(lines, heard, "after");
    // It comes back, and is a replica from then on.
    first.signal("CONT");
    all_hear(lines, heard, "at last");
}

/// A master that becomes a replica closes no connection. What is said to it then is heard only by who listens to it.
#[test]
fn nobody_speaks_to_a_server_that_is_a_replica_now() {
    let first = Server::start(&[]);
    let proxy = Proxy::before(first.port);
    let there = RedisLogConfig { url: proxy.url().parse().unwrap(), ..config(&first, "hub") };
    let one = RedisLog::open(there).unwrap().bus();
    let heard = join(&one, 1);
    reached(&one, 1, &heard, "before");
    let second = Server::start(&[]);
    let port = second.port.to_string();
    let _: String = first.arguments(&["REPLICAOF", "127.0.0.1", &port]);
    until("the replica", || second.command::<String>("INFO replication").contains("state=online"));
    proxy.lead_to(second.port);
    let two = open(&second).bus();
    let words = join(&two, 2);
    reached(&two, 2, &words, "it listens");
    reached(&one, 2, &words, "after");
}

/// Pub/Sub has no databases.
#[test]
fn hubs_in_two_databases_hear_nothing_of_each_other() {
    let server = Server::start(&[]);
    let rights = "on >pw resetchannels &tidings:{hub}:bus* ~tidings:{hub}:* +publish +subscribe +unsubscribe +@read +@write +@scripting +@connection +info +time +wait +config|get";
    let words: Vec<&str> = ["ACL", "SETUSER", "tidings"].into_iter().chain(rights.split(' ')).collect();
    let _: String = server.arguments(&words);
    let lines = [1, 2].map(|database| {
        let url = format!("redis://tidings:pw@127.0.0.1:{}/{database}", server.port);
        let there = RedisLogConfig { url: url.parse().unwrap(), ..config(&server, "hub") };
        RedisLog::open(there).unwrap().bus()
    });
    let heard = lines.each_ref().map(|line| join(line, 1));
    for (line, heard) in lines.iter().zip(&heard) {
        reached(line, 1, heard, "it listens");
    }
    let call = |number: usize| {
        lines[number].say(None, b"to all of this one".to_vec());
        lines[number].say(Some(NodeId::new(1)), b"to one of this one".to_vec());
        assert_eq!(heard[number].recv_timeout(PATIENCE).unwrap(), "to all of this one");
        assert_eq!(heard[number].recv_timeout(PATIENCE).unwrap(), "to one of this one");
    };
    call(0);
    call(1);
    assert_eq!(heard[0].recv_timeout(Duration::from_millis(200)).ok(), None);
}
