//! The line between nodes: what is said while it is gone, and what is true when it is there again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidings_hub::MemoryBus;

use super::cluster::{Line, Nodes, acquainted, log, node, post, until};
use super::connections::Stream;
use super::token;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until something is so.
async fn comes(what: &str, is: impl Fn() -> bool) {
    let waits = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waits).await.expect(what);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_does_not_hear_itself_has_its_line_made_anew() {
    let nodes = Nodes::with(true).await;
    let _streams = acquainted(&nodes).await;
    nodes.cut.store(true, Ordering::SeqCst);
    comes("another line", || !nodes.cut.load(Ordering::SeqCst)).await;
    nodes.one.0.app.begin_drain();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hears_nobody_says_so_instead_of_taking_itself_for_all() {
    let nodes = Nodes::with(false).await;
    let (mut ann_one, mut bob_two) = acquainted(&nodes).await;
    let (ann, admin) = (token(Some("ann"), false), token(None, true));
    let two = &nodes.two.0;
    let path = format!("/connections/{}", ann_one.connection);
    let add = format!("{{\"connection\":\"{}\",\"channels\":[\"news\"]}}", ann_one.connection);
    // At once, then when it has heard itself for the last time longer ago than others are taken for alive.
    nodes.cut.store(true, Ordering::SeqCst);
    for pause in [0, 8] {
        tokio::time::sleep(Duration::from_secs(pause)).await;
        for (method, target) in [("DELETE", "/connections?user=ann"), ("DELETE", &path), ("GET", &path)] {
            let problem = two.as_who(&admin, method, target).await.problem(503);
            assert!(problem["type"].as_str().unwrap().ends_with("nodes_silent"), "{problem}");
        }
        post(two, &ann, "POST", "/subscriptions", &add).await.problem(503);
        for target in ["/connections", "/presence?channel=room"] {
            assert_eq!(two.as_who(&admin, "GET", target).await.ok()["missing_nodes"], 1, "{target}");
        }
        // What may be followed elsewhere is not said to be followed by nobody.
        let target = format!("/events?channel=quiet&if_active=1&poll=1&token={admin}");
        assert_eq!(two.call("GET", &target).await.status, 200);
    }
    // What is here needs nobody else.
    let own = format!("/connections/{}", bob_two.connection);
    two.as_who(&admin, "GET", &own).await.ok();
    nodes.cut.store(false, Ordering::SeqCst);
    until(two, &admin, "/connections", |all| all.get("missing_nodes").is_none()).await;
    assert_eq!(two.as_who(&admin, "DELETE", "/connections?user=ann").await.ok()["disconnected"], 1);
    ann_one.read_until("tidings:kicked").await;
    two.as_who(&admin, "DELETE", &path).await.problem(404);
    assert_eq!(two.as_who(&admin, "DELETE", &own).await.ok()["disconnected"], 1);
    bob_two.read_until("tidings:kicked").await;
    nodes.one.0.app.begin_drain();
    nodes.two.0.app.begin_drain();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_alone_waits_until_it_knows_that() {
    let cut = Arc::default();
    let line = Arc::new(Line { bus: Arc::new(MemoryBus::default()), cut: Arc::clone(&cut), heals: false });
    let (server, _) = node(&log(), line).await;
    let admin = token(None, true);
    let alone = server.as_who(&admin, "DELETE", "/connections?user=ann").await.ok();
    assert_eq!(alone["disconnected"], 0);
    cut.store(true, Ordering::SeqCst);
    until(&server, &admin, "/connections", |all| all["missing_nodes"] == 1).await;
    server.as_who(&admin, "DELETE", "/connections?user=ann").await.problem(503);
    server.app.begin_drain();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_missed_that_a_subscription_has_a_newer_stream_is_told_of_it() {
    let nodes = Nodes::with(false).await;
    let _streams = acquainted(&nodes).await;
    let admin = token(None, true);
    let target = format!("channel=room&subscription=phone&token={}", token(Some("cid"), false));
    let mut older = Stream::open(nodes.one.1, &target).await;
    nodes.cut.store(true, Ordering::SeqCst);
    let mut newer = Stream::open(nodes.two.1, &target).await;
    // What is said of it in the meantime is lost.
    tokio::time::sleep(Duration::from_secs(1)).await;
    nodes.cut.store(false, Ordering::SeqCst);
    tokio::time::timeout(PATIENCE, older.read_until("tidings:kicked")).await.expect("it is ended");
    until(&nodes.two.0, &admin, "/users?user=cid", |users| users[0]["connections"] == 1).await;
    let body = r#"{"user":"cid","data":"for the newer one"}"#;
    post(&nodes.one.0, &admin, "POST", "/publish", body).await.ok();
    newer.read_until("for the newer one").await;
    nodes.one.0.app.begin_drain();
    nodes.two.0.app.begin_drain();
}
