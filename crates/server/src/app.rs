//! What every request of one server shares.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tidings_hub::Hub;

use crate::ServerConfig;
use crate::drain::Drain;
use crate::limits::Limits;

/// The state of one running server, shared by its listeners, its workers and its HTTP handlers.
pub struct App {
    /// Where events go and come from.
    pub(crate) hub: Hub,
    /// What the server was told.
    pub(crate) config: ServerConfig,
    /// When it started.
    pub(crate) started: Instant,
    /// How many streams there are.
    pub(crate) limits: Arc<Limits>,
    /// How far it is with stopping.
    pub(crate) drain: Drain,
    requests: Requests,
}

impl App {
    /// A server that starts now.
    pub fn new(hub: Hub, config: ServerConfig) -> App {
        App {
            limits: Limits::new(&config.limits),
            drain: Drain::new(),
            hub,
            config,
            started: Instant::now(),
            requests: Requests::default(),
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
