//! The way a server stops: no new streams, what runs is finished, streams are closed one after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::watch;

/// How far a server is with stopping. Clones are of one server.
#[derive(Debug, Clone)]
pub struct Drain(Arc<Inner>);

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
    pub fn is_begun(&self) -> bool {
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
