//! What every request of one server shares.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use tidings_hub::{Bus, Filters, Hub, NodeId, Polls, Roll, SourceStats, Standing};
use tidings_wire::{Channel, Event, UserId};
use tokio::sync::Semaphore;

use crate::ServerConfig;
use crate::auth::{Access, Cors};
use crate::cluster::Cluster;
use crate::drain::Drain;
use crate::limits::Limits;
use crate::stats_channel::StatsChannel;
use crate::stream::WorkersHandle;

/// How many requests read the log at once: enough to keep a disk busy, few enough that their pages fit in memory.
const READS: usize = 8;

/// The state of one running server, shared by its listeners, its workers and its HTTP handlers.
pub struct App {
    /// Where events go and come from.
    pub(crate) hub: Hub,
    /// Who may do what.
    pub(crate) access: Access,
    /// Which pages of other origins may read the answers.
    pub(crate) cors: Cors,
    /// What the server was told.
    pub(crate) config: ServerConfig,
    /// When it started.
    pub(crate) started: Instant,
    /// How many streams there are.
    pub(crate) limits: Arc<Limits>,
    /// Who polls.
    pub(crate) polls: Polls,
    /// The filters of its streams.
    pub(crate) filters: Filters,
    /// What it does, for who follows that.
    pub(crate) stats_channel: StatsChannel,
    /// How far it is with stopping.
    pub(crate) drain: Drain,
    /// Who has the streams, once the server serves some.
    workers: OnceLock<WorkersHandle>,
    /// Which node of the hub this is: the same hub is served by several.
    pub(crate) node: NodeId,
    /// The others, if there are any.
    cluster: Arc<OnceLock<Arc<Cluster>>>,
    /// How many requests read the log at once.
    pub(crate) reads: Arc<Semaphore>,
    /// What comes into the hub by other ways, by its name.
    pub(crate) sources: Vec<(&'static str, Arc<SourceStats>)>,
    requests: Requests,
}

impl App {
    /// A server that starts now.
    pub fn new(hub: Hub, access: Access, cors: Cors, config: ServerConfig) -> App {
        App {
            limits: Limits::new(&config.limits),
            polls: Polls::new(&hub),
            filters: Filters::default(),
            stats_channel: StatsChannel::default(),
            drain: Drain::new(),
            workers: OnceLock::new(),
            // Without randomness nodes can't be told apart, and one alone needs no name.
            node: NodeId::new(getrandom::u64().unwrap_or_default()),
            cluster: Arc::default(),
            hub,
            access,
            cors,
            config,
            reads: Arc::new(Semaphore::new(READS)),
            started: Instant::now(),
            sources: Vec::new(),
            requests: Requests::default(),
        }
    }

    /// With what else comes into the hub, for its statistics. The name is a label: a word in lower case.
    #[must_use]
    pub fn with_source(mut self, name: &'static str, stats: Arc<SourceStats>) -> App {
        self.sources.push((name, stats));
        self
    }

    /// Starts the workers, unless they run.
    pub(crate) fn start_workers(&self) -> io::Result<()> {
        if self.workers.get().is_none() {
            // Of two that start them at once, the second one's end again when they are dropped.
            let workers = WorkersHandle::start(&self.hub, &self.config, self.node, self.cluster.clone())?;
            let _ = self.workers.set(workers);
        }
        Ok(())
    }

    /// Who has the streams. None before the first [`Server`](crate::Server) is made.
    pub fn workers(&self) -> Option<&WorkersHandle> {
        self.workers.get()
    }

    /// This server serves a hub that others serve too, in other processes or on other machines, which all have one log;
    /// they are spoken to on this bus. To be called once, in a runtime, when the first [`Server`](crate::Server) is made
    /// and before it serves.
    pub fn join(self: &Arc<App>, bus: Arc<dyn Bus>) {
        let Some(workers) = self.workers() else { return };
        workers.door().share();
        let cluster = Cluster::join(self, bus);
        // The first one stays.
        let _ = self.cluster.set(cluster);
    }

    /// The other nodes, if there may be any.
    pub(crate) fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.cluster.get()
    }

    /// How many streams there are, and how many wait for an answer instead of one.
    pub fn open(&self) -> usize {
        self.limits.open()
    }

    /// How many streams of this server an event is for.
    pub(crate) async fn receivers(&self, event: &Event) -> usize {
        match self.workers() {
            Some(workers) => workers.receivers(&Arc::new(event.clone())).await,
            None => 0,
        }
    }

    /// Who is in a channel now, with up to so many users; and how many other nodes did not say in time who is there.
    pub async fn members(&self, channel: &Channel, limit: usize) -> (Roll, usize) {
        let Some(workers) = self.workers() else { return (Roll::default(), 0) };
        let reached = self.census(channel).await;
        (workers.door().members(reached.found, limit), reached.missing)
    }

    /// How these users are there; none for who is not.
    pub fn standings(&self, users: &[UserId]) -> Vec<Option<Standing>> {
        match self.workers() {
            Some(workers) => workers.door().standings(users),
            None => vec![None; users.len()],
        }
    }

    /// Whether it takes no new streams any more.
    pub fn is_draining(&self) -> bool {
        self.drain.is_begun()
    }

    /// From now on no new streams are taken.
    pub fn begin_drain(&self) {
        self.drain.begin();
    }

    /// Completes when the drain begins.
    pub async fn draining(&self) {
        self.drain.begun().await;
    }

    /// An id for one more request that is answered with a problem, to find it in the log by.
    pub(crate) fn request_id(&self) -> String {
        self.requests.next()
    }
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App").field("hub", &self.hub).field("config", &self.config).finish_non_exhaustive()
    }
}

/// Ids of requests: counted, behind something that differs from server to server and from start to start.
#[derive(Debug)]
struct Requests {
    server: u32,
    count: AtomicU64,
}

impl Default for Requests {
    fn default() -> Requests {
        // Ids that are only counted are still ids.
        Requests { server: getrandom::u32().unwrap_or_default(), count: AtomicU64::new(1) }
    }
}

impl Requests {
    fn next(&self) -> String {
        format!("{:08x}-{}", self.server, self.count.fetch_add(1, Ordering::Relaxed))
    }
}
