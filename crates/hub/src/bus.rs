//! How the nodes of one hub speak to each other, beside the log.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::NodeId;

/// What hears the words that are for a node. It is called by the bus, and must not wait or speak.
pub type Ear = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// A line between the nodes of one hub. What is said is heard once or not at all, what one node says in the order in
/// which it said it. Nothing of it is kept: who was away has to ask. What must not be lost belongs into the log.
pub trait Bus: Send + Sync + 'static {
    /// This node takes part, until the bus is dropped: what is said to all is heard by it, its own words among them, and
    /// what is said to this node.
    fn join(&self, node: NodeId, ear: Ear);

    /// Says something, to one node or to all. Never waits; while the line is down, words are lost.
    fn say(&self, to: Option<NodeId>, words: Vec<u8>);

    /// This node does not hear what it says to all. A line that is lost without a sign of that is made anew.
    fn renew(&self) {}
}

/// Nodes in one process, which share a log in memory.
#[derive(Default)]
pub struct MemoryBus(Mutex<BTreeMap<NodeId, Ear>>);

impl Bus for MemoryBus {
    fn join(&self, node: NodeId, ear: Ear) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(node, ear);
    }

    fn say(&self, to: Option<NodeId>, words: Vec<u8>) {
        let ears: Vec<Ear> = {
            let nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let meant = nodes.iter().filter(|(node, _)| to.is_none_or(|to| to == **node));
            meant.map(|(_, ear)| ear.clone()).collect()
        };
        ears.iter().for_each(|ear| ear(&words));
    }
}

impl fmt::Debug for MemoryBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBus").finish_non_exhaustive()
    }
}
