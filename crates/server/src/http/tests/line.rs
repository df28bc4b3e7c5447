//! The line between nodes: what is said while it is gone, and what is true when it is there again.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::cluster::{Nodes, acquainted};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until something is so.
async fn comes(what: &str, is: impl Fn() -> bool) {
    let waits = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waits).await.expect(what);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_does_not_hear_itself_has_its_line_made_anew() {
    let nodes = Nodes::with(true).await;
    let _streams = acquainted(&nodes).await;
    nodes.cut.store(true, Ordering::SeqCst);
    comes("another line", || !nodes.cut.load(Ordering::SeqCst)).await;
    nodes.one.0.app.begin_drain();
}
