//! The engine of Tidings: one ordered log, channels as views of it, subscribers as cursors with a filter.
//!
//! No sockets, no HTTP, no clock of its own.

pub mod log;
mod time;
mod view;

pub use time::Timestamp;
pub use view::View;
