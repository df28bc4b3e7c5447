//! The other nodes of the hub: who they are, what they say of who is there, and questions from one to another.
//!
//! A node tells all others, a few times a second, what changed of its users, of the channels that they watch and of the
//! durable subscriptions that have a stream ([`round`](Cluster::round)); each telling has a number, so that who missed one knows it, and asks for everything. A
//! node that is not heard of for [`LEASE`] is gone. Who doesn't hear itself ([`Echo`]) hears nobody. Questions ([`ask`](Cluster::ask)) go to one node or to all, and are
//! answered or not within [`PATIENCE`].

mod echo;
mod reach;
mod words;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tidings_hub::{Bus, NodeId, Timestamp};
use tidings_wire::ConnectionId;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use self::echo::Echo;
use self::words::{Answer, Question, Said, Words};
use crate::App;
use crate::presence::Doorkeeper;
use crate::stream::WorkersHandle;

/// How long a node is taken for alive that says nothing.
const LEASE: Duration = Duration::from_secs(5);
/// How often a node says that it is there.
const BEAT: Duration = Duration::from_secs(1);
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often it is looked whether a node knows who else is there, by who has to know.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a node is waited for that was asked for everything: what it said may be on its way.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How many pieces of news are said at once.
const AT_ONCE: usize = 1000;
/// How long a word may be that is listened to.
const LONGEST: usize = 16 << 20;

/// This node among the others.
pub(crate) struct Cluster {
    node: NodeId,
    bus: Arc<dyn Bus>,
    /// It said that it goes, and says nothing more.
    gone: Mutex<bool>,
    app: Weak<App>,
    runtime: Handle,
    echo: Mutex<Echo>,
    peers: Mutex<BTreeMap<NodeId, Peer>>,
    /// Durable subscriptions that have a stream here, of which the others are to be told.
    held: Mutex<Vec<words::News>>,
    /// Nodes that are to be told everything.
    askers: Mutex<VecDeque<NodeId>>,
    calls: Mutex<HashMap<u64, UnboundedSender<(NodeId, Answer)>>>,
    next_call: AtomicU64,
}

/// Another node.
#[derive(Debug)]
struct Peer {
    until: Timestamp,
    /// The number of the last telling, if none before it was missed.
    heard: Option<u64>,
    /// It has told more than that.
    behind: bool,
    /// When it was asked for everything, or said a part of it.
    asked: Option<Timestamp>,
    /// The part of everything that comes next, if none before it was missed.
    part: Option<u32>,
}

impl Peer {
    fn new(now: Timestamp) -> Peer {
        Peer { until: now.plus(LEASE), heard: None, behind: false, asked: None, part: None }
    }
}

/// What the thread that tells the others has to remember.
#[derive(Debug, Default)]
pub(crate) struct Telling {
    told: u64,
    beat: Option<Timestamp>,
}

impl Cluster {
    /// Takes part, as the node that the server is.
    pub(crate) fn join(app: &Arc<App>, bus: Arc<dyn Bus>) -> Arc<Cluster> {
        let cluster = Arc::new(Cluster {
            node: app.node,
            bus,
            gone: Mutex::default(),
            app: Arc::downgrade(app),
            runtime: Handle::current(),
            echo: Mutex::new(Echo::new(Instant::now())),
            peers: Mutex::default(),
            held: Mutex::default(),
            askers: Mutex::default(),
            calls: Mutex::default(),
            next_call: AtomicU64::new(0),
        });
        let ear = Arc::downgrade(&cluster);
        cluster.bus.join(
            app.node,
            Arc::new(move |words: &[u8]| {
                if let Some(cluster) = ear.upgrade() {
                    cluster.hear(words);
                }
            }),
        );
        cluster
    }

    /// How many other nodes there are.
    pub(crate) fn peers(&self) -> usize {
        self.lock_peers().len()
    }

    /// One round of telling: what is new, everything to those who know nothing, and that this node is there. Only one
    /// thread does this, so that what it says to one node and to all is in one order.
    pub(crate) fn round(&self, door: &Doorkeeper, telling: &mut Telling, now: Timestamp) {
        if *self.lock_gone() {
            return;
        }
        let mut news: Vec<words::News> = door.news().into_iter().map(Into::into).collect();
        news.append(&mut self.lock_held());
        while !news.is_empty() {
            let rest = news.split_off(news.len().min(AT_ONCE));
            telling.told += 1;
            self.say(None, Said::News { number: telling.told, news });
            // Telling news says that the node is there, too.
            telling.beat = Some(now);
            news = rest;
        }
        // One in a round: what waits to be said is not to have everything in it several times.
        let asker = self.lock_askers().pop_front();
        if let Some(asker) = asker {
            let mut all: Vec<words::News> = door.all_news().into_iter().map(Into::into).collect();
            let held = self.workers(WorkersHandle::held).unwrap_or_default();
            all.extend(held.iter().map(|((user, name), turn)| words::said_held(user, name, *turn)));
            // There is always something.
            let last = all.len().div_ceil(AT_ONCE);
            for (news, part) in all.chunks(AT_ONCE).zip(0..) {
                let (number, last) = (telling.told, part as usize + 1 == last);
                self.say(Some(asker), Said::All { number, part, last, news: news.to_vec() });
            }
        }
        if telling.beat.is_none_or(|beat| now >= beat.plus(BEAT) || now < beat) {
            telling.beat = Some(now);
            self.say(None, Said::Beat { number: telling.told });
        }
        let (deaf, renews) = {
            let (mut echo, now) = (self.lock_echo(), Instant::now());
            (echo.is_deaf(now), echo.renews(now))
        };
        if renews {
            self.bus.renew();
        }
        // Who hears nobody can give up nobody.
        if !deaf {
            self.lock_peers().retain(|_, peer| peer.until > now);
        }
    }

    /// This node is about to end: what it has is gone now, not when its lease is over. Whatever it said after that would
    /// make it one that is there.
    pub(crate) fn leave(&self) {
        let words = self.words(Said::Bye);
        let mut gone = self.lock_gone();
        if let (false, Some(words)) = (std::mem::replace(&mut *gone, true), words) {
            self.bus.say(None, words);
        }
    }

    /// Whether this node knows who else is there. Who began to hear itself just now, waits for that.
    async fn settles(&self) -> bool {
        loop {
            let (settled, deaf) = {
                let (echo, now) = (self.lock_echo(), Instant::now());
                (echo.is_settled(now), echo.is_deaf(now))
            };
            if settled || deaf {
                return settled;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Asks one node, or all others; returns what was answered in time, and how many didn't answer: at least one where
    /// it can't be known who is there.
    async fn ask(&self, node: Option<NodeId>, question: Question) -> (Vec<Answer>, usize) {
        let settled = self.settles().await;
        let mut missing: Vec<NodeId> = {
            let peers = self.lock_peers();
            peers.keys().copied().filter(|peer| node.is_none_or(|node| node == *peer)).collect()
        };
        if !settled {
            return (Vec::new(), missing.len().max(1));
        }
        if missing.is_empty() {
            return (Vec::new(), 0);
        }
        let call = self.next_call.fetch_add(1, Ordering::Relaxed);
        let (sender, mut answers) = unbounded_channel();
        self.lock_calls().insert(call, sender);
        let _call = Call { cluster: self, call };
        self.say(node, Said::Question { call, question });
        let mut heard = Vec::new();
        let wait = async {
            while !missing.is_empty()
                && let Some((node, answer)) = answers.recv().await
            {
                if let Some(at) = missing.iter().position(|other| *other == node) {
                    missing.swap_remove(at);
                    heard.push(answer);
                }
            }
        };
        // Who doesn't answer in time is counted as missing.
        let _ = tokio::time::timeout(PATIENCE, wait).await;
        (heard, missing.len())
    }

    fn say(&self, to: Option<NodeId>, said: Said) {
        let words = self.words(said);
        // Held while it is said: nothing comes after the last word.
        let gone = self.lock_gone();
        if let (false, Some(words)) = (*gone, words) {
            self.bus.say(to, words);
        }
    }

    fn words(&self, said: Said) -> Option<Vec<u8>> {
        serde_json::to_vec(&Words { from: self.node.get(), said })
            .inspect_err(|error| tracing::error!(%error, "what is for other nodes can't be written"))
            .ok()
    }

    /// Called by the bus, for each of the others' words and this node's own.
    fn hear(self: &Arc<Self>, words: &[u8]) {
        if words.len() > LONGEST {
            return tracing::warn!(
                bytes = words.len(),
                "a word of another node is too long, and passed over"
            );
        }
        let words: Words = match serde_json::from_slice(words) {
            Ok(words) => words,
            // Its own text is not shown: it may have been anybody's.
            Err(error) => {
                return tracing::warn!(
                    line = error.line(),
                    column = error.column(),
                    "a word of another node can't be read; do all nodes have one version?"
                );
            }
        };
        let from = NodeId::new(words.from);
        let now = Timestamp::now();
        if from == self.node {
            if self.lock_echo().heard(Instant::now()) {
                // From now on they could be heard.
                self.lock_peers().values_mut().for_each(|peer| peer.until = now.plus(LEASE));
            }
            return;
        }
        if !self.workers(|workers| workers.door().knows(from)).unwrap_or_default()
            && let Some(peer) = self.lock_peers().get_mut(&from)
        {
            // It was given up: nothing is left of what it said.
            (peer.heard, peer.part) = (None, None);
        }
        match words.said {
            Said::Beat { number } => self.hear_number(from, number, now),
            Said::News { number, news } => {
                let next = self.lock_peers().get(&from).and_then(|peer| peer.heard).map(|heard| heard + 1);
                if next == Some(number) {
                    self.hear_until(from, false, news, now.plus(LEASE), now);
                    self.renew(from, Some(number), now);
                } else {
                    self.hear_number(from, number, now);
                }
            }
            Said::All { number, part, last, news } => {
                if self.hear_part(from, part, now) {
                    self.hear_until(from, part == 0, news, now.plus(LEASE), now);
                    if last {
                        self.renew(from, Some(number), now);
                        self.ask_for_everything(now);
                    }
                }
            }
            Said::Everything => {
                let mut askers = self.lock_askers();
                if !askers.contains(&from) {
                    askers.push_back(from);
                }
            }
            Said::Bye => {
                self.lock_peers().remove(&from);
                // A lease that is over at this moment.
                self.hear_until(from, false, Vec::new(), now, now);
            }
            Said::Question { call, question } => {
                let cluster = self.clone();
                self.runtime.spawn(async move {
                    let Some(app) = cluster.app.upgrade() else { return };
                    let answer = reach::answer(&app, question).await;
                    cluster.say(Some(from), Said::Answer { call, answer });
                });
            }
            Said::Answer { call, answer } => {
                if let Some(sender) = self.lock_calls().get(&call) {
                    // Who asked may have stopped waiting.
                    let _ = sender.send((from, answer));
                }
            }
        }
    }

    /// Another node is there, and has told so much. Who missed some of it asks for all.
    fn hear_number(self: &Arc<Self>, from: NodeId, number: u64, now: Timestamp) {
        let mut peers = self.lock_peers();
        let peer = peers.entry(from).or_insert(Peer::new(now));
        peer.until = now.plus(LEASE);
        peer.behind = peer.heard.is_none_or(|heard| heard < number);
        let asks = peer.behind;
        drop(peers);
        if asks {
            self.ask_for_everything(now);
        }
        self.hear_until(from, false, Vec::new(), now.plus(LEASE), now);
    }

    /// Asks a node for everything of which not all is known. Only one at a time: what all of them have could be more than
    /// this node's line may be behind. Each node begins with another one.
    fn ask_for_everything(self: &Arc<Self>, now: Timestamp) {
        let mut peers = self.lock_peers();
        let behind = || peers.iter().filter(|(_, peer)| peer.behind);
        let waits = |asked: Timestamp| now < asked.plus(ASK_AGAIN) && now >= asked;
        if behind().any(|(_, peer)| peer.asked.is_some_and(waits)) {
            return;
        }
        let next =
            behind().min_by_key(|(node, peer)| (peer.asked, **node < self.node)).map(|(node, _)| *node);
        let Some(next) = next else { return };
        if let Some(peer) = peers.get_mut(&next) {
            peer.asked = Some(now);
        }
        drop(peers);
        let cluster = self.clone();
        // An ear must not speak.
        self.runtime.spawn(async move { cluster.say(Some(next), Said::Everything) });
    }

    /// Another node says a part of everything. False if one before it was missed: then it will be asked once more.
    fn hear_part(&self, from: NodeId, part: u32, now: Timestamp) -> bool {
        let mut peers = self.lock_peers();
        let peer = peers.entry(from).or_insert(Peer::new(now));
        (peer.until, peer.asked) = (now.plus(LEASE), Some(now));
        if part == 0 {
            // Until all of it is there, nothing is known for sure.
            (peer.heard, peer.behind) = (None, true);
        } else if peer.part != Some(part) {
            peer.part = None;
            return false;
        }
        peer.part = part.checked_add(1);
        true
    }

    fn renew(&self, from: NodeId, heard: Option<u64>, now: Timestamp) {
        let mut peers = self.lock_peers();
        let peer = peers.entry(from).or_insert(Peer::new(now));
        (peer.until, peer.heard, peer.behind, peer.part) = (now.plus(LEASE), heard, false, None);
    }

    /// What another node says, which is good until a moment; `anew` when nothing counts that it said before.
    fn hear_until(&self, from: NodeId, anew: bool, news: Vec<words::News>, until: Timestamp, now: Timestamp) {
        let Some(app) = self.app.upgrade() else { return };
        let Some(workers) = app.workers() else { return };
        for news in &news {
            if let words::News::Held { user, name, turn } = news {
                self.hear_held(workers, from, user, name, *turn);
            }
        }
        // A name that can't be one is nobody's.
        let news = news.into_iter().filter_map(words::News::read).collect();
        let uncounted = workers.door().hear(from, anew, news, until, now);
        if !uncounted.is_empty() {
            let app = app.clone();
            self.runtime.spawn(async move {
                if let Some(workers) = app.workers() {
                    workers.count(uncounted).await;
                }
            });
        }
    }

    fn workers<T>(&self, with: impl FnOnce(&WorkersHandle) -> T) -> Option<T> {
        self.app.upgrade()?.workers().map(with)
    }

    fn lock_echo(&self) -> MutexGuard<'_, Echo> {
        self.echo.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_gone(&self) -> MutexGuard<'_, bool> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_peers(&self) -> MutexGuard<'_, BTreeMap<NodeId, Peer>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_held(&self) -> MutexGuard<'_, Vec<words::News>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_askers(&self) -> MutexGuard<'_, VecDeque<NodeId>> {
        self.askers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_calls(&self) -> MutexGuard<'_, HashMap<u64, UnboundedSender<(NodeId, Answer)>>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A question that is waited for.
struct Call<'a> {
    cluster: &'a Cluster,
    call: u64,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.cluster.lock_calls().remove(&self.call);
    }
}

/// The node that a connection is on: its id begins with that.
pub(crate) fn node_of(connection: ConnectionId) -> NodeId {
    let shifted = connection.0 >> (u128::BITS - NodeId::BITS);
    NodeId::new(u64::try_from(shifted).unwrap_or_default())
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("node", &self.node)
            .field("peers", &self.peers)
            .finish_non_exhaustive()
    }
}
