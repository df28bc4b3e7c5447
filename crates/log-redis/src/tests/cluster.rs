//! Ways to a server: sentinels, a cluster, TLS.

use super::server::sentinel;
use super::tls::Certificates;
use super::*;

fn replica_of(master: &Server) -> Server {
    let port = master.port.to_string();
    let replica = Server::start(&["--repl-diskless-sync-delay", "0", "--replicaof", "127.0.0.1", &port]);
    until("the replica", || master.command::<String>("INFO replication").contains("state=online"));
    replica
}

#[test]
fn a_master_that_the_sentinels_do_not_name_any_more_is_left() {
    // One that nobody can make a replica: as one that the sentinels have not got round to yet.
    let first = Server::start(&["--rename-command", "SLAVEOF", "", "--rename-command", "REPLICAOF", ""]);
    let second = replica_of(&first);
    let dir = tempfile::tempdir().unwrap();
    let sentinel = sentinel(&first, dir.path());
    let url = format!("redis+sentinel://127.0.0.1:{}/main", sentinel.port).parse().unwrap();
    let config = RedisLogConfig { url, ..config(&first, "hub") };
    let logs = [RedisLog::open(config.clone()).unwrap(), RedisLog::open(config).unwrap()];
    append(&logs[0], "before");
    // It refuses as long as it does not find the replica good.
    until("the failover", || {
        let mut connection = sentinel.connection();
        let began: redis::RedisResult<String> =
            redis::cmd("SENTINEL").arg(&["FAILOVER", "main"]).query(&mut connection);
        began.is_ok()
    });
    until("the new master", || second.command::<String>("INFO replication").contains("role:master"));
    for (node, log) in logs.iter().enumerate() {
        let data = format!("from node {node}");
        until("the log on the new master", || {
            wait(log.append(batch(&[&data]))).is_ok()
                && all(&open(&second)).iter().any(|(_, stored)| *stored == data)
        });
    }
    assert!(first.command::<String>("INFO replication").contains("role:master"), "it was never told");
    until("all of it", || logs[0].head() == logs[1].head());
    let kept = all(&open(&second));
    assert_eq!((all(&logs[0]), all(&logs[1])), (kept.clone(), kept));
}

#[test]
fn sentinels_say_who_the_master_is() {
    let mut first = Server::start(&[]);
    let second = replica_of(&first);
    let dir = tempfile::tempdir().unwrap();
    let sentinel = sentinel(&first, dir.path());
    // The first sentinel is away, for ever.
    let url = format!("redis+sentinel://127.0.0.1:1,127.0.0.1:{}/main", sentinel.port);
    let config = RedisLogConfig { url: url.parse().unwrap(), ack: Ack::Replicas(1), ..config(&first, "hub") };
    let log = RedisLog::open(config.clone()).unwrap();
    let unknown = RedisLogConfig { url: url.replace("/main", "/other").parse().unwrap(), ..config.clone() };
    assert!(refused(unknown).contains("no sentinel knows a master"));
    // An authority is for who speaks TLS: they don't.
    let authority = std::fs::read(Certificates::make().authority()).unwrap();
    drop(RedisLog::open(RedisLogConfig { authority: Some(authority), ..config.clone() }).unwrap());
    let stored = append(&log, "before");
    first.kill();
    until("the failover", || second.command::<String>("INFO replication").contains("role:master"));
    // A new master without a replica is not as sure as it is to be; with one it is.
    let third = replica_of(&second);
    let mut position = None;
    until("the log on the new master", || {
        position = wait(log.append(batch(&["after"]))).ok().map(|positions| positions[0]);
        position.is_some()
    });
    let position = position.unwrap();
    assert!(position.epoch > stored.epoch);
    assert_eq!(log.locate(stored), Located::Here(stored.sequence));
    let kept = all(&log);
    assert_eq!((&kept[0], &*kept.last().unwrap().1), (&(1, "before".to_owned()), "after"));
    assert_eq!(all(&RedisLog::open(config).unwrap()), kept);
    drop(third);
}

/// A node of a cluster that is still to be made.
fn node() -> Server {
    Server::start(&[
        "--cluster-enabled",
        "yes",
        "--cluster-require-full-coverage",
        "no",
        "--cluster-node-timeout",
        "2000",
        "--repl-diskless-sync-delay",
        "0",
    ])
}

fn id(node: &Server) -> String {
    node.command("CLUSTER MYID")
}

/// Makes two nodes one cluster. The first has the slots from 0 to this one, the second the others.
fn join(nodes: &[Server; 2], through: u16) {
    for (node, (from, to)) in nodes.iter().zip([(0, through), (through + 1, 16383)]) {
        if from <= to {
            let _: String = node.command(&format!("CLUSTER ADDSLOTSRANGE {from} {to}"));
        }
    }
    for (epoch, node) in (1..).zip(nodes) {
        let _: String = node.command(&format!("CLUSTER SET-CONFIG-EPOCH {epoch}"));
    }
    let _: String = nodes[0].command(&format!("CLUSTER MEET 127.0.0.1 {}", nodes[1].port));
    for node in nodes {
        until("the cluster", || {
            let info: String = node.command("CLUSTER INFO");
            info.contains("cluster_slots_ok:16384") && info.contains("cluster_state:ok")
        });
    }
}

fn slot(node: &Server) -> u16 {
    node.command("CLUSTER KEYSLOT tidings:{hub}:log")
}

/// Takes all connections away, this one too.
fn cut(node: &Server) {
    let _: redis::RedisResult<i64> =
        redis::cmd("CLIENT").arg(&["KILL", "TYPE", "normal"]).query(&mut node.connection());
}

fn is_heard(bus: &crate::RedisBus, words: &std::sync::mpsc::Receiver<Vec<u8>>, call: &str) {
    use tidings_hub::Bus;
    until(call, || {
        bus.say(None, call.as_bytes().to_vec());
        words.recv_timeout(Duration::from_millis(100)).is_ok_and(|heard| heard == call.as_bytes())
    });
}

#[test]
fn a_failover_of_a_cluster_is_followed_though_the_url_names_the_old_master() {
    use tidings_hub::{Bus, NodeId};
    let nodes = [node(), node()];
    join(&nodes, 16383);
    let [mut first, second] = nodes;
    let _: String = second.command(&format!("CLUSTER REPLICATE {}", id(&first)));
    until("the replica", || first.command::<String>("INFO replication").contains("state=online"));
    let log = open(&first);
    let bus = log.bus();
    let (heard, words) = std::sync::mpsc::channel();
    let ear = move |words: &[u8]| {
        // Nobody listens at the end of the test.
        let _ = heard.send(words.to_vec());
    };
    bus.join(NodeId::new(1), Arc::new(ear));
    is_heard(&bus, &words, "before");
    append(&log, "before");
    let _: u64 = first.command("WAIT 1 10000");
    let _: String = second.command("CLUSTER FAILOVER TAKEOVER");
    until("the failover", || first.command::<String>("INFO replication").contains("role:slave"));
    let stored = |data: &str| until(data, || wait(log.append(batch(&[data]))).is_ok());
    stored("after the failover");
    // The old master is all that is known from the URL, and it is a replica.
    cut(&second);
    cut(&first);
    stored("on new connections");
    assert_eq!(all(&open(&first)), all(&log));
    is_heard(&bus, &words, "on new connections");
    // And then it is not even there any more.
    first.kill();
    stored("without the node of the URL");
    cut(&second);
    stored("without it, on new connections");
    is_heard(&bus, &words, "without it");
    assert_eq!(all(&open(&second)), all(&log));
}

#[test]
fn a_slot_on_its_way_to_another_node_is_waited_for() {
    let nodes = [node(), node()];
    let slot = slot(&nodes[0]);
    join(&nodes, slot);
    let [from, to] = &nodes;
    let log = open(from);
    append(&log, "before");
    let _: String = to.command(&format!("CLUSTER SETSLOT {slot} IMPORTING {}", id(from)));
    let _: String = from.command(&format!("CLUSTER SETSLOT {slot} MIGRATING {}", id(to)));
    let connections = |node: &Server| -> u64 {
        let info: String = node.command("INFO stats");
        let count = info.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        count.unwrap().parse().unwrap()
    };
    // What is written while they move may lie here again; so that all of them go at once.
    until("the move", || {
        let keys: Vec<String> = from.command(&format!("CLUSTER GETKEYSINSLOT {slot} 100"));
        let port = to.port.to_string();
        let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "REPLACE", "KEYS"];
        words.extend(keys.iter().map(String::as_str));
        let _: String = from.arguments(&words);
        from.command::<u64>(&format!("CLUSTER COUNTKEYSINSLOT {slot}")) == 0
    });
    let before = connections(from) + connections(to);
    let began = Instant::now();
    let refused = wait(log.append(batch(&["never"])));
    assert!(matches!(&refused, Err(AppendError::NotStored(why)) if why.contains("is moving")), "{refused:?}");
    let tried = connections(from) + connections(to) - before;
    // Ten times a second for each of two threads, on up to two nodes.
    assert!(tried as f64 <= 100.0 * began.elapsed().as_secs_f64(), "{tried} connections");
    for node in [to, from] {
        let _: String = node.command(&format!("CLUSTER SETSLOT {slot} NODE {}", id(to)));
    }
    append_soon(&log, "after");
    assert_eq!(all(&log), [(1, "before".to_owned()), (2, "after".to_owned())]);
    assert_eq!(all(&open(from)), all(&log));
}

#[test]
fn of_a_cluster_the_node_with_the_keys_is_found() {
    let nodes = [node(), node()];
    // The second node has the hub's slot and all above it.
    join(&nodes, slot(&nodes[0]) - 1);
    let log = open(&nodes[0]);
    append(&log, "x");
    let other = open(&nodes[1]);
    assert_eq!(all(&other), [(1, "x".to_owned())]);
    assert_eq!(append(&other, "y").sequence, Sequence(2));
    until("the record", || log.head() == other.head());
    crate::rebase::rebase(&log.shared).unwrap();
    assert_eq!(all(&open(&nodes[0])), all(&log));
    let keys: Vec<String> = nodes[0].command("KEYS tidings:*");
    assert!(keys.is_empty(), "{keys:?}");
}

#[test]
fn tls_is_spoken_with_who_can_prove_who_it_is() {
    let certificates = Certificates::make();
    let port = server::free_port();
    let options = certificates.options(port);
    let server = Server::start(&options.iter().map(String::as_str).collect::<Vec<_>>());
    let url = format!("rediss://localhost:{port}");
    let authority = std::fs::read(certificates.authority()).unwrap();
    let with = |authority: Option<Vec<u8>>| RedisLogConfig {
        url: url.parse().unwrap(),
        authority,
        ..config(&server, "hub")
    };
    let log = RedisLog::open(with(Some(authority.clone()))).unwrap();
    append(&log, "x");
    assert_eq!(all(&open(&server)), [(1, "x".to_owned())]);
    // Not known to the system, and plain text is no TLS.
    assert!(refused(with(None)).contains("out of reach"));
    let plain = RedisLogConfig { url: format!("redis://localhost:{port}").parse().unwrap(), ..with(None) };
    assert!(refused(plain).contains("out of reach"));
    let url = format!("rediss://localhost:{}", server.port).parse().unwrap();
    let said = refused(RedisLogConfig { url, ..with(Some(authority)) });
    assert!(said.contains("out of reach"), "{said}");
}

#[test]
fn a_socket_of_the_system_is_a_way_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("redis.sock");
    let server = Server::start(&["--unixsocket", path.to_str().unwrap()]);
    // It may answer there a moment later than at its port.
    until("the socket", || std::os::unix::net::UnixStream::connect(&path).is_ok());
    let url = format!("redis+unix://{}", path.display()).parse().unwrap();
    let log = RedisLog::open(RedisLogConfig { url, ..config(&server, "hub") }).unwrap();
    append(&log, "x");
    assert_eq!(all(&open(&server)).len(), 1);
}

#[test]
fn the_newer_protocol_is_spoken_where_it_is_asked_for() {
    use std::sync::mpsc::channel;
    use tidings_hub::{Bus, NodeId};
    let server = Server::start(&[]);
    let url: crate::RedisUrl = format!("{}?protocol=resp3", server.url()).parse().unwrap();
    let config = RedisLogConfig { url, ..config(&server, "hub") };
    let (log, other) = (RedisLog::open(config.clone()).unwrap(), open(&server));
    append(&other, "from the other");
    let last = append(&log, "x");
    until("both", || other.head() == last && log.head() == last);
    crate::rebase::rebase(&log.shared).unwrap();
    assert_eq!(all(&RedisLog::open(config).unwrap()), all(&other));
    let spoken: String = server.command("CLIENT LIST");
    assert!(spoken.contains("resp=3") && spoken.contains("resp=2"), "{spoken}");
    // Nodes hear each other, too.
    let (heard, words) = channel();
    let bus = log.bus();
    let ear = move |words: &[u8]| {
        // Nobody listens at the end of the test.
        let _ = heard.send(words.to_vec());
    };
    bus.join(NodeId::new(1), Arc::new(ear));
    let line = other.bus();
    until("a word", || {
        line.say(Some(NodeId::new(1)), b"hello".to_vec());
        words.recv_timeout(Duration::from_millis(100)) == Ok(b"hello".to_vec())
    });
}
