//! The way a server stops: no new streams, what runs is finished, streams are closed one after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::App;

/// How much of the time a drain spends on closing streams, in percent; the rest is for their last bytes.
const CLOSING: u32 = 70;
/// How many streams are closed in a second if there is time for that: as many reconnects as any node takes.
const CLOSED_PER_SECOND: u32 = 1000;
/// How often a drain looks whether it is over.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What a drain left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Streams that were open when it began.
    pub streams: usize,
    /// Streams that were still open at its end.
    pub streams_left: usize,
    /// Other connections whose requests were not answered by then.
    pub connections_left: usize,
}

impl App {
    /// Stops the server within a time: no new streams, what runs is finished, streams are closed one after the other
    /// with `tidings:drain`, and at last the listeners are closed. Done when nothing is left or the time is over.
    ///
    /// What was published is in the log's hands; close the hub after this.
    pub async fn drain(&self, within: Duration) -> Drained {
        let deadline = Instant::now() + within;
        let streams = self.limits.open();
        self.drain.begin();
        if let Some(workers) = self.workers() {
            let unhurried =
                Duration::from_secs(1) * u32::try_from(streams).unwrap_or(u32::MAX) / CLOSED_PER_SECOND;
            workers.drain(unhurried.min(within * CLOSING / 100));
        }
        while Instant::now() < deadline && (self.limits.open() > 0 || self.drain.connections() > 0) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        if let Some(cluster) = self.cluster() {
            cluster.leave();
        }
        self.drain.end();
        Drained { streams, streams_left: self.limits.open(), connections_left: self.drain.connections() }
    }
}

/// How far a server is with stopping. Clones are of one server.
#[derive(Debug, Clone)]
pub(crate) struct Drain(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The same as the phase, for who only wants to look: cheaper than the lock inside of `phase`.
    begun: AtomicBool,
    phase: watch::Sender<Phase>,
    /// Connections that are not streams.
    connections: AtomicUsize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Running,
    /// No new streams; requests are answered, and each connection is closed after its request.
    Draining,
    /// Nothing is listened to any more.
    Over,
}

impl Drain {
    /// Of a server that runs.
    pub(crate) fn new() -> Drain {
        let (phase, _) = watch::channel(Phase::Running);
        Drain(Arc::new(Inner { begun: AtomicBool::new(false), phase, connections: AtomicUsize::new(0) }))
    }

    /// Whether new streams are refused.
    pub(crate) fn is_begun(&self) -> bool {
        self.0.begun.load(Ordering::Acquire)
    }

    /// From now on new streams are refused, and connections that wait for a request are closed.
    pub(crate) fn begin(&self) {
        self.0.begun.store(true, Ordering::Release);
        self.0.phase.send_modify(|phase| *phase = Phase::Draining.max(*phase));
    }

    /// From now on nobody listens.
    pub(crate) fn end(&self) {
        self.begin();
        self.0.phase.send_replace(Phase::Over);
    }

    /// Completes when the drain has begun.
    pub(crate) async fn begun(&self) {
        self.reached(Phase::Draining).await;
    }

    /// Completes when the server is to listen no more.
    pub(crate) async fn over(&self) {
        self.reached(Phase::Over).await;
    }

    async fn reached(&self, phase: Phase) {
        // An error says that the sender is gone, and it lives in `self`.
        let _ = self.0.phase.subscribe().wait_for(|now| *now >= phase).await;
    }

    /// Counts a connection that is no stream, until what is returned is dropped.
    pub(crate) fn connection(&self) -> OpenConnection {
        self.0.connections.fetch_add(1, Ordering::AcqRel);
        OpenConnection(self.clone())
    }

    /// How many connections there are that are no streams.
    pub(crate) fn connections(&self) -> usize {
        self.0.connections.load(Ordering::Acquire)
    }
}

/// A connection that a drain waits for.
#[derive(Debug)]
pub(crate) struct OpenConnection(Drain);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.0.connections.fetch_sub(1, Ordering::AcqRel);
    }
}
