//! The line between nodes: what is said while it is gone, and what is true when it is there again.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tidings_hub::{Bus, MemoryBus, NodeId};

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

/// Another node, which says what a test wants it to.
struct Stranger {
    bus: Arc<MemoryBus>,
    node: u64,
    heard: Arc<Mutex<Vec<Value>>>,
}

impl Stranger {
    fn join(bus: &Arc<MemoryBus>, node: u64) -> Stranger {
        let heard = Arc::<Mutex<Vec<Value>>>::default();
        let ear = heard.clone();
        let ear = move |words: &[u8]| {
            let words: Value = serde_json::from_slice(words).unwrap();
            if words["from"] != node {
                ear.lock().unwrap().push(words["said"].clone());
            }
        };
        bus.join(NodeId::new(node), Arc::new(ear));
        Stranger { bus: bus.clone(), node, heard }
    }

    fn say(&self, to: Option<NodeId>, said: &Value) {
        self.bus.say(to, json!({"from": self.node, "said": said}).to_string().into_bytes());
    }

    fn beat(&self) {
        self.say(None, &json!({"Beat": {"number": 7}}));
    }

    /// A part of all that it has: a user.
    fn part(&self, to: NodeId, part: u32, last: bool, user: &str) {
        let news = json!([{"User": {"user": user, "connections": 1, "info": null}}]);
        self.say(Some(to), &json!({"All": {"number": 7, "part": part, "last": last, "news": news}}));
    }

    /// How often it was asked for all that it has.
    fn asked(&self) -> usize {
        self.heard.lock().unwrap().iter().filter(|said| **said == "Everything").count()
    }
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

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_has_is_known_when_all_parts_of_it_came() {
    let bus = Arc::<MemoryBus>::default();
    let (server, _) = node(&log(), bus.clone()).await;
    let (stranger, to, admin) = (Stranger::join(&bus, 99), server.app.node, token(None, true));
    stranger.beat();
    comes("a question", || stranger.asked() == 1).await;
    stranger.part(to, 0, false, "ann");
    stranger.part(to, 2, true, "cid");
    comes("the question again", || {
        stranger.beat();
        stranger.asked() == 2
    })
    .await;
    for (part, user) in ["ann", "bob", "cid"].iter().enumerate() {
        stranger.part(to, u32::try_from(part).unwrap(), part == 2, user);
    }
    let users = server.as_who(&admin, "GET", "/users?user=ann&user=bob&user=cid").await.ok();
    assert!(users.as_array().unwrap().iter().all(|user| user["connections"] == 1), "{users}");
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        stranger.beat();
    }
    assert_eq!(stranger.asked(), 2);
    server.app.begin_drain();
}

/// All at once would be more than a connection to Redis may be behind.
#[tokio::test(flavor = "multi_thread")]
async fn one_node_at_a_time_is_asked_for_all_that_it_has() {
    let bus = Arc::<MemoryBus>::default();
    let (server, _) = node(&log(), bus.clone()).await;
    let strangers = [98, 99].map(|id| Stranger::join(&bus, id));
    strangers.iter().for_each(Stranger::beat);
    comes("a question", || strangers[0].asked() == 1).await;
    assert_eq!(strangers[1].asked(), 0);
    strangers[0].part(server.app.node, 0, true, "ann");
    comes("the other question", || strangers[1].asked() == 1).await;
    server.app.begin_drain();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_said_that_it_goes_says_nothing_more() {
    let bus = Arc::<MemoryBus>::default();
    let (server, _) = node(&log(), bus.clone()).await;
    let stranger = Stranger::join(&bus, 99);
    comes("a beat", || !stranger.heard.lock().unwrap().is_empty()).await;
    server.app.drain(Duration::ZERO).await;
    // What it hears is nothing to it either.
    stranger.beat();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(*stranger.heard.lock().unwrap().last().unwrap(), "Bye");
}
