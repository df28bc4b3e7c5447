//! Hubs with a log, in one call each.

use std::path::Path;
use std::sync::Arc;

use tidings_hub::log::{MemoryLog, MemoryLogConfig, ReadError, Retention};
use tidings_hub::{Hub, HubConfig, Timestamp};
use tidings_log_disk::{DataDir, DiskLog, DiskLogConfig, OpenError};
use tidings_server::auth::{Secrets, SecretsError};
use tidings_wire::{CursorKey, Epoch};

/// Why a hub could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The log can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The key of the cursors can't be had.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// The log can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// A hub whose log ends with the process: clients that come back to the next one are told that events may be missing.
/// It keeps all events; give [`Hub::start`] a [`MemoryLog`] with a [`Retention`] of your own where there are many.
///
/// # Errors
/// When the system gives no random bytes.
pub fn in_memory() -> Result<Hub, StartError> {
    let epoch = Epoch(u32::try_from(Timestamp::now().0 / 1000).unwrap_or(u32::MAX));
    let log = MemoryLog::new(MemoryLogConfig { epoch, retention: Retention::default() });
    let key = CursorKey::new(Secrets::random()?.cursor.0);
    Ok(Hub::start(Arc::new(log), HubConfig::new(key))?)
}

/// A hub whose log and key are in a directory, which nobody else may use until a moment after the last clone of the hub
/// is gone: what was published is there after a crash, and clients go on where they were. It keeps all events; give [`Hub::start`] a [`DiskLog`] with a
/// [`Retention`] of your own where there are many.
///
/// # Errors
/// When the directory is in use, damaged, or can't be written to.
pub fn on_disk(directory: impl AsRef<Path>) -> Result<Hub, StartError> {
    let dir = DataDir::open(directory.as_ref())?;
    let key = CursorKey::new(Secrets::load_or_create(dir.path())?.cursor.0);
    let log = DiskLog::open(DiskLogConfig::new(dir), Timestamp::now())?;
    Ok(Hub::start(Arc::new(log), HubConfig::new(key))?)
}
