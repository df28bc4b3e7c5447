//! How the nodes of a hub speak to each other: Redis's Pub/Sub.
//!
//! - `tidings:{NAME}:bus:DATABASE`, what is said to all nodes; `tidings:{NAME}:bus:DATABASE:NODE`, what is said to one.
//!   Pub/Sub knows no databases, and the hubs in two of them may have one name.
//!
//! Two threads: one publishes, in the order in which words are said; one listens. While Redis is away words are lost, as
//! the contract of [`Bus`] allows: nodes then ask each other anew. The first failure of an outage is logged.
//!
//! To a listener, a server that is gone without a word looks like one on which nothing is said. So that the node, which
//! hears its own words, says when it doesn't ([`Bus::renew`]): then both connect anew.
//!
//! A replica takes words too, and hands them only to those who listen to it, while it hands on what its master is told.
//! So who speaks looks, every now and then, whether it still speaks to a master.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use redis::{Connection, ErrorKind, RedisError, ServerErrorKind};
use tidings_hub::{Bus, Ear, NodeId};

use crate::connect::Connector;
use crate::error::{Result, Trouble};
use crate::script::Keys;
use crate::write::AGAIN;

/// How many bytes wait to be said. What comes on top of that is lost.
const WAITING: usize = 32 << 20;
/// How many words are sent together.
const TOGETHER: usize = 100;
/// How often a thread looks whether the bus is still there, and a master.
const LOOK: Duration = Duration::from_secs(1);
/// How long an answer may take before the connection is given up.
const ANSWER: Duration = Duration::from_secs(1);

/// The line between the nodes of one hub.
pub struct RedisBus(Arc<Inner>);

struct Inner {
    connector: Connector,
    keys: Keys,
    outgoing: Mutex<Outgoing>,
    news: Condvar,
    /// How often it was made anew. A connection of before is given up.
    renewed: AtomicU64,
}

#[derive(Default)]
struct Outgoing {
    words: VecDeque<(Option<NodeId>, Vec<u8>)>,
    bytes: usize,
    /// The bus was dropped.
    over: bool,
}

impl RedisBus {
    pub(crate) fn new(connector: Connector, keys: Keys) -> RedisBus {
        let inner = Arc::new(Inner {
            connector,
            keys,
            outgoing: Mutex::default(),
            news: Condvar::new(),
            renewed: AtomicU64::new(0),
        });
        thread::spawn({
            let inner = inner.clone();
            move || inner.send()
        });
        RedisBus(inner)
    }
}

impl Bus for RedisBus {
    fn join(&self, node: NodeId, ear: Ear) {
        let inner = Arc::downgrade(&self.0);
        thread::spawn(move || listen(&inner, node, &ear));
    }

    fn say(&self, to: Option<NodeId>, words: Vec<u8>) {
        let mut outgoing = self.0.lock();
        if outgoing.bytes + words.len() <= WAITING {
            outgoing.bytes += words.len();
            outgoing.words.push_back((to, words));
            self.0.news.notify_one();
        }
    }

    fn renew(&self) {
        self.0.renewed.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for RedisBus {
    fn drop(&mut self) {
        self.0.lock().over = true;
        self.0.news.notify_one();
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Outgoing> {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn renewed(&self) -> u64 {
        self.renewed.load(Ordering::Relaxed)
    }

    fn topic(&self, to: Option<NodeId>) -> String {
        let all = format!("{}bus:{}", self.keys.prefix(), self.connector.url.database());
        match to {
            None => all,
            Some(node) => format!("{all}:{:010x}", node.get()),
        }
    }

    fn send(&self) {
        let mut connection = None;
        let mut trouble = Told::default();
        let mut renewed = 0;
        loop {
            let mut outgoing = self.lock();
            // What is waiting when the bus is dropped is said: the last word is that this node goes.
            while outgoing.words.is_empty() && !outgoing.over {
                outgoing = self.news.wait(outgoing).unwrap_or_else(PoisonError::into_inner);
            }
            if outgoing.words.is_empty() {
                return;
            }
            let together = outgoing.words.len().min(TOGETHER);
            let words: Vec<_> = outgoing.words.drain(..together).collect();
            outgoing.bytes -= words.iter().map(|(_, words)| words.len()).sum::<usize>();
            let over = outgoing.over;
            drop(outgoing);
            let now = self.renewed();
            if std::mem::replace(&mut renewed, now) != now {
                connection = None;
            }
            let published = self.publish(&mut connection, &words);
            trouble.tell("speak to", published.as_ref().err());
            if published.is_err() {
                connection = None;
                if over {
                    return;
                }
                thread::sleep(AGAIN);
            }
        }
    }

    fn publish(&self, kept: &mut Option<Speaker>, words: &[(Option<NodeId>, Vec<u8>)]) -> Result<()> {
        let speaker = match kept {
            Some(speaker) => speaker,
            None => {
                let connection = self.connector.connect()?;
                connection.set_read_timeout(Some(ANSWER))?;
                connection.set_write_timeout(Some(ANSWER))?;
                kept.insert(Speaker { connection, looked: Instant::now() })
            }
        };
        let mut pipe = redis::pipe();
        for (to, words) in words {
            pipe.cmd("PUBLISH").arg(self.topic(*to)).arg(words.as_slice()).ignore();
        }
        if speaker.looked.elapsed() < LOOK {
            return pipe.exec(&mut speaker.connection).map_err(|error| self.lacks(error, "+publish"));
        }
        pipe.cmd("INFO").arg("replication").arg("cluster");
        let (info,): (String,) =
            pipe.query(&mut speaker.connection).map_err(|error| self.lacks(error, "+publish +info"))?;
        speaker.looked = Instant::now();
        hands_on(&info)
    }

    /// Redis does not say which topic its user may not have.
    fn lacks(&self, error: RedisError, commands: &str) -> Trouble {
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::NoPerm) => {
                let all = format!("{}bus*", self.keys.prefix());
                Trouble::Refused(format!("Redis says NOPERM: its user needs {commands} &{all} (ACL SETUSER)"))
            }
            _ => error.into(),
        }
    }
}

/// Who speaks.
struct Speaker {
    connection: Connection,
    /// When it was found to be a master that is spoken to.
    looked: Instant,
}

/// Whether what is said to a server is heard by who listens to another one: in a cluster always.
fn hands_on(info: &str) -> Result<()> {
    let is = |line: &str| info.lines().any(|other| other.trim_end() == line);
    match is("role:master") || is("cluster_enabled:1") {
        true => Ok(()),
        false => Err(Trouble::Refused("this Redis is a replica now".to_owned())),
    }
}

/// What was said of an outage.
#[derive(Default)]
struct Told(bool);

impl Told {
    /// Says that something fails, unless that was said, or that it works again.
    fn tell(&mut self, what: &str, trouble: Option<&Trouble>) {
        match trouble {
            Some(why) if !std::mem::replace(&mut self.0, true) => {
                tracing::warn!("this node can't {what} the others: {why}");
            }
            None if std::mem::take(&mut self.0) => tracing::info!("this node can {what} the others again"),
            _ => {}
        }
    }
}

fn listen(inner: &Weak<Inner>, node: NodeId, ear: &Ear) {
    let mut trouble = Told::default();
    loop {
        let Some(alive) = inner.upgrade().filter(|inner| !inner.lock().over) else { return };
        let topics = [alive.topic(None), alive.topic(Some(node))];
        let renewed = alive.renewed();
        let connected = alive.connector.connect();
        drop(alive);
        let lacks = |error| match inner.upgrade() {
            Some(alive) => alive.lacks(error, "+subscribe"),
            None => error.into(),
        };
        let good = || inner.upgrade().is_some_and(|inner| !inner.lock().over && inner.renewed() == renewed);
        let listened =
            connected.and_then(|connection| listen_on(connection, &topics, good, lacks, ear, &mut trouble));
        trouble.tell("listen to", listened.as_ref().err());
        thread::sleep(AGAIN);
    }
}

/// Listens until the connection is lost or no longer good.
fn listen_on(
    mut connection: Connection,
    topics: &[String],
    good: impl Fn() -> bool,
    lacks: impl Fn(RedisError) -> Trouble,
    ear: &Ear,
    trouble: &mut Told,
) -> Result<()> {
    let mut line = connection.as_pubsub();
    for topic in topics {
        line.subscribe(topic).map_err(&lacks)?;
    }
    line.set_read_timeout(Some(LOOK))?;
    trouble.tell("listen to", None);
    loop {
        match line.get_message() {
            Ok(message) => ear(message.get_payload_bytes()),
            Err(error) if error.is_timeout() => {}
            Err(error) => return Err(error.into()),
        }
        if !good() {
            return Ok(());
        }
    }
}

impl fmt::Debug for RedisBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBus").finish_non_exhaustive()
    }
}
