//! Something that is said once.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// Raised once, heard by all clones, whenever they listen.
#[derive(Debug, Clone)]
pub(crate) struct Signal(Arc<watch::Sender<bool>>);

impl Default for Signal {
    fn default() -> Signal {
        Signal(Arc::new(watch::Sender::new(false)))
    }
}

impl Signal {
    pub(crate) fn raise(&self) {
        self.0.send_replace(true);
    }

    pub(crate) fn is_raised(&self) -> bool {
        *self.0.borrow()
    }

    /// Completes once it is raised.
    pub(crate) async fn raised(&self) {
        // No error as long as this clone has the sender.
        let _ = self.0.subscribe().wait_for(|raised| *raised).await;
    }

    /// Waits; true as soon as it is raised.
    pub(crate) async fn wait(&self, time: Duration) -> bool {
        tokio::time::timeout(time, self.raised()).await.is_ok()
    }
}
