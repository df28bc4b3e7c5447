//! What comes into the hub from elsewhere than HTTP, counted.

use std::sync::atomic::AtomicU64;

/// What one kind of source has handed over on this node. What was received is stored, bad, lost, or on its way.
#[derive(Debug, Default)]
pub struct SourceStats {
    /// Messages that came.
    pub received: AtomicU64,
    /// Those that were stored, or had been before.
    pub stored: AtomicU64,
    /// Those that say nothing that can be published, and were skipped.
    pub bad: AtomicU64,
    /// Those that could not be stored in time.
    pub lost: AtomicU64,
    /// How many of its sources this node reads now: where several nodes could, one does.
    pub reading: AtomicU64,
}
