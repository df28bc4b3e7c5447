//! Two servers of one hub: whatever is asked of one is true of both.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tidings_hub::log::{Log, MemoryLog, MemoryLogConfig, Retention};
use tidings_hub::{Bus, Ear, MemoryBus, NodeId};
use tidings_wire::Epoch;
use tokio::net::TcpListener;

use super::connections::Stream;
use super::{Answer, Server, access_with, request, token};
use crate::{LimitsConfig, ServerConfig};

/// One node's end of the bus, which can be cut.
pub(super) struct Line {
    pub(super) bus: Arc<MemoryBus>,
    pub(super) cut: Arc<AtomicBool>,
    /// Whether it can be made anew.
    pub(super) heals: bool,
}

impl Bus for Line {
    fn join(&self, node: NodeId, ear: Ear) {
        let cut = self.cut.clone();
        let ear = move |words: &[u8]| {
            if !cut.load(Ordering::SeqCst) {
                ear(words);
            }
        };
        self.bus.join(node, Arc::new(ear));
    }

    fn say(&self, to: Option<NodeId>, words: Vec<u8>) {
        if !self.cut.load(Ordering::SeqCst) {
            self.bus.say(to, words);
        }
    }

    fn renew(&self) {
        self.cut.fetch_and(!self.heals, Ordering::SeqCst);
    }
}

pub(super) struct Nodes {
    /// Cuts the second one off.
    pub(super) cut: Arc<AtomicBool>,
    pub(super) one: (Server, SocketAddr),
    pub(super) two: (Server, SocketAddr),
}

impl Nodes {
    async fn start() -> Nodes {
        Nodes::with(false).await
    }

    /// `heals`: whether the second one's line can be made anew.
    pub(super) async fn with(heals: bool) -> Nodes {
        let bus = Arc::new(MemoryBus::default());
        let log = log();
        let cut = Arc::new(AtomicBool::new(false));
        let line = Arc::new(Line { bus: bus.clone(), cut: Arc::default(), heals });
        let two = Arc::new(Line { bus, cut: cut.clone(), heals });
        Nodes { one: node(&log, line).await, two: node(&log, two).await, cut }
    }
}

/// A log in memory, for several nodes.
pub(super) fn log() -> Arc<dyn Log> {
    let retention = Retention::default();
    Arc::new(MemoryLog::new(MemoryLogConfig { epoch: Epoch(7), retention }))
}

pub(super) async fn node(log: &Arc<dyn Log>, bus: Arc<dyn Bus>) -> (Server, SocketAddr) {
    let limits = LimitsConfig { per_user: 2, ..LimitsConfig::default() };
    let config = ServerConfig { limits, ..ServerConfig::default() };
    let mut access = access_with(&["**", "$presence", "$user/*"]);
    access.grants.presence = access.grants.subscribe.clone();
    let server = Server::on(log.clone(), config, access);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let listened = crate::Server::new(server.app.clone(), server.router.clone()).unwrap();
    server.app.join(bus);
    tokio::spawn(async move { listened.serve(listener).await });
    (server, address)
}

/// Asks again until the answer is as it has to be, for half a minute.
pub(super) async fn until(
    server: &Server,
    token: &str,
    target: &str,
    right: impl Fn(&Value) -> bool,
) -> Value {
    let mut answer = Value::Null;
    for _ in 0..300 {
        answer = server.as_who(token, "GET", target).await.ok();
        if right(&answer) {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{target}: {answer}");
}

pub(super) async fn post(server: &Server, token: &str, method: &str, target: &str, body: &str) -> Answer {
    let mut request = request(method, target, body.to_owned().into());
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request.headers_mut().insert("content-type", "application/json".parse().unwrap());
    server.send(request).await
}

/// Both know of each other once a user of each is seen on both.
pub(super) async fn acquainted(nodes: &Nodes) -> (Stream, Stream) {
    let (ann, bob, admin) = (token(Some("ann"), false), token(Some("bob"), false), token(None, true));
    let one = Stream::open(nodes.one.1, &format!("channel=room&token={ann}")).await;
    let two = Stream::open(nodes.two.1, &format!("channel=room&token={bob}")).await;
    for server in [&nodes.one.0, &nodes.two.0] {
        until(server, &admin, "/users?user=ann&user=bob", |users| {
            users[0]["connections"] == 1 && users[1]["connections"] == 1
        })
        .await;
        // Until it has heard itself for a while it could be that there are more.
        until(server, &admin, "/connections", |all| all.get("missing_nodes").is_none()).await;
    }
    (one, two)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_reaches_the_streams_of_every_node() {
    let nodes = Nodes::start().await;
    let (mut ann_one, mut bob_two) = acquainted(&nodes).await;
    let (ann, bob, admin) = (token(Some("ann"), false), token(Some("bob"), false), token(None, true));
    let (one, two) = (&nodes.one.0, &nodes.two.0);

    for server in [one, two] {
        let all = server.as_who(&admin, "GET", "/connections").await.ok();
        assert_eq!(all["connections"].as_array().unwrap().len(), 2);
        let room = server.as_who(&admin, "GET", "/presence?channel=room").await.ok();
        assert_eq!((&room["connections"], room.get("missing_nodes")), (&2.into(), None));
        assert_eq!(room["users"][0]["user"], "ann");
        assert_eq!(room["users"][1]["user"], "bob");
    }
    let path = format!("/connections/{}", ann_one.connection);
    assert_eq!(two.as_who(&ann, "GET", &path).await.ok()["user"], "ann");
    two.as_who(&bob, "GET", &path).await.problem(404);
    two.as_who(&bob, "DELETE", &path).await.problem(404);

    let added = format!("{{\"connection\":\"{}\",\"channels\":[\"news\"]}}", ann_one.connection);
    post(two, &bob, "POST", "/subscriptions", &added).await.problem(404);
    let answer = post(two, &ann, "POST", "/subscriptions", &added).await.ok();
    assert_eq!(answer["connections"][0]["connection"], ann_one.connection.as_str());
    post(two, &admin, "POST", "/publish", r#"{"channel":"news","data":"new on the other node"}"#).await.ok();
    ann_one.read_until("new on the other node").await;
    assert!(!bob_two.text.contains("new on the other node"));

    assert_eq!(two.as_who(&admin, "DELETE", "/connections?user=ann").await.ok()["disconnected"], 1);
    ann_one.read_until("tidings:kicked").await;
    let path = format!("/connections/{}", bob_two.connection);
    assert_eq!(one.as_who(&bob, "DELETE", &path).await.ok()["disconnected"], 1);
    bob_two.read_until("tidings:kicked").await;
    one.app.begin_drain();
    two.app.begin_drain();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_watches_sees_who_is_on_another_node_and_what_dies_with_it() {
    let nodes = Nodes::start().await;
    let (_ann, _bob) = acquainted(&nodes).await;
    let (cid, admin) = (token(Some("cid"), false), token(None, true));
    let mut watcher =
        Stream::open(nodes.one.1, &format!("channel=room&channel=$presence&presence=1&token={admin}")).await;
    watcher.read_until("\"ann\"").await;
    watcher.read_until("\"bob\"").await;
    let come = Stream::open(nodes.two.1, &format!("channel=room&token={cid}")).await;
    watcher.read_until("\"joined\":[{\"user\":\"cid\"").await;
    watcher.read_until("event: online").await;
    let before = watcher.text.len();
    drop(come);
    watcher.read_until("\"left\":[{\"user\":\"cid\"}]").await;
    watcher.read_until("event: offline\ndata: {\"user\":\"cid\"").await;
    assert_eq!(watcher.text[before..].matches("event: offline").count(), 1);

    // The other node can't be reached any more. That bob went is this one's to say.
    nodes.cut.store(true, Ordering::SeqCst);
    watcher.read_until("event: offline\ndata: {\"user\":\"bob\"").await;
    watcher.read_until("\"left\":[{\"user\":\"bob\"}]").await;
    let room = nodes.one.0.as_who(&admin, "GET", "/presence?channel=room").await.ok();
    assert_eq!(room["users"].as_array().unwrap().len(), 1);
    // It comes back, with bob, who was there all the time.
    nodes.cut.store(false, Ordering::SeqCst);
    watcher.read_until("event: online\ndata: {\"user\":\"bob").await;
    watcher.read_until("\"joined\":[{\"user\":\"bob").await;
    nodes.one.0.app.begin_drain();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_limit_and_a_durable_subscription_count_everywhere() {
    let nodes = Nodes::start().await;
    let (mut ann_one, bob_two) = acquainted(&nodes).await;
    let (ann, admin) = (token(Some("ann"), false), token(None, true));
    let target = format!("channel=room&subscription=phone&token={ann}");
    let mut phone = Stream::open(nodes.two.1, &target).await;
    until(&nodes.one.0, &admin, "/users?user=ann", |users| users[0]["connections"] == 2).await;
    nodes.one.0.call("GET", &format!("/events?{target}")).await.problem(503);

    nodes.one.0.as_who(&ann, "DELETE", &format!("/connections/{}", ann_one.connection)).await.ok();
    ann_one.read_until("tidings:kicked").await;
    until(&nodes.two.0, &admin, "/users?user=ann", |users| users[0]["connections"] == 1).await;
    let mut newer = Stream::open(nodes.one.1, &target).await;
    phone.read_until("tidings:kicked").await;
    until(&nodes.one.0, &admin, "/users?user=ann", |users| users[0]["connections"] == 1).await;
    let body = r#"{"user":"ann","data":"for the newer one"}"#;
    post(&nodes.two.0, &admin, "POST", "/publish", body).await.ok();
    newer.read_until("for the newer one").await;
    drop(bob_two);
    nodes.one.0.app.begin_drain();
    nodes.two.0.app.begin_drain();
}
