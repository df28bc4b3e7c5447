//! Streams over HTTP/1.1: from a request to a socket on a worker, and on it to the end.

mod conn;
pub(crate) mod head;
mod holders;
mod hot;
mod open;
mod relay;
mod sweep;
mod timers;
mod worker;

pub use conn::{CloseReason, ConnectionFilter, ConnectionInfo};
pub use hot::Sockets;
pub(crate) use open::{come_back_after, open};
pub(crate) use relay::relay;
pub use worker::{Changed, StreamStats, Unchanged, WorkerStats, WorkersHandle};
