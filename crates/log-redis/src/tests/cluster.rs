//! Ways to a server: sentinels, a cluster, TLS.

use super::tls::Certificates;
use super::*;
use crate::connect::Connector;

#[test]
fn sentinels_say_who_the_master_is() {
    let mut first = Server::start(&[]);
    let second = Server::start(&["--replicaof", "127.0.0.1", &first.port.to_string()]);
    until("the replica", || first.command::<String>("INFO replication").contains("state=online"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sentinel.conf");
    let watched = format!(
        "sentinel monitor main 127.0.0.1 {} 1\nsentinel down-after-milliseconds main 300\nsentinel failover-timeout main 2000\n",
        first.port
    );
    std::fs::write(&file, watched).unwrap();
    let sentinel = Server::start(&[file.to_str().unwrap(), "--sentinel"]);
    // The first sentinel is away, for ever.
    let url = format!("redis+sentinel://127.0.0.1:1,127.0.0.1:{}/main", sentinel.port);
    let config = RedisLogConfig { url: url.parse().unwrap(), ack: Ack::Replicas(1), ..config(&first, "hub") };
    let log = RedisLog::open(config.clone()).unwrap();
    let unknown = RedisLogConfig { url: url.replace("/main", "/other").parse().unwrap(), ..config.clone() };
    assert!(refused(unknown).contains("no sentinel knows a master"));
    let stored = append(&log, "before");
    until("the sentinel knows the replica", || {
        sentinel.command::<Vec<redis::Value>>("SENTINEL replicas main").len() == 1
    });
    first.kill();
    until("the failover", || second.command::<String>("INFO replication").contains("role:master"));
    // A new master without a replica is not as sure as it is to be; with one it is.
    let third = Server::start(&["--replicaof", "127.0.0.1", &second.port.to_string()]);
    until("the new replica", || second.command::<String>("INFO replication").contains("state=online"));
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

#[test]
fn of_a_cluster_the_node_with_the_keys_is_found() {
    let options = ["--cluster-enabled", "yes", "--cluster-require-full-coverage", "no"];
    let nodes = [Server::start(&options), Server::start(&options)];
    let slot: u16 = nodes[0].command("CLUSTER KEYSLOT tidings:{hub}:log");
    let own = |server: &Server, from: u16, to: u16| {
        if from <= to {
            let _: String = server.command(&format!("CLUSTER ADDSLOTSRANGE {from} {to}"));
        }
    };
    // The second node has the hub's slot and all above it.
    own(&nodes[0], 0, slot - 1);
    own(&nodes[1], slot, 16383);
    for (epoch, node) in (1..).zip(&nodes) {
        let _: String = node.command(&format!("CLUSTER SET-CONFIG-EPOCH {epoch}"));
    }
    let _: String = nodes[0].command(&format!("CLUSTER MEET 127.0.0.1 {}", nodes[1].port));
    for node in &nodes {
        until("the cluster", || {
            let info: String = node.command("CLUSTER INFO");
            info.contains("cluster_slots_ok:16384") && info.contains("cluster_state:ok")
        });
    }
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
    let connector = Connector { url, authority: Some(authority), ack: Ack::Master };
    assert!(connector.connect(None).is_err());
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
