//! The durable log of Tidings on SQLite.
//!
//! In the data directory: `tidings.db` with its write-ahead log, `head` (what the log has come to, see [`Recovery`]),
//! `reserve` (space for a full disk) and `lock`. To restore a backup, put `tidings.db` back, remove `tidings.db-wal`
//! and `head`, and start: a new epoch begins, and clients that have seen more are told so.

mod catalog;
mod dir;
mod error;
mod log;
mod mark;
mod read;
mod record;
mod space;
mod stage;
mod store;
mod tail;
mod writer;

pub use dir::DataDir;
pub use error::OpenError;
pub use log::{DiskLog, DiskLogConfig, Fatal, Recovery, SyncPolicy};

#[cfg(test)]
mod suite;
