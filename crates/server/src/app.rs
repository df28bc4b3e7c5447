//! What every request of one server shares.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// The state of one running server, shared by its listeners, its workers and its HTTP handlers.
#[derive(Debug)]
pub struct App {
    started: Instant,
    draining: AtomicBool,
}

impl App {
    /// A server that starts now.
    pub fn new() -> App {
        App { started: Instant::now(), draining: AtomicBool::new(false) }
    }

    /// When it started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Whether it takes no new streams any more.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// From now on no new streams are taken.
    pub fn begin_drain(&self) {
        self.draining.store(true, Ordering::Release);
    }
}

impl Default for App {
    fn default() -> App {
        App::new()
    }
}
