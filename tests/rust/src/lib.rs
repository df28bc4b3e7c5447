//! What the tests stand on: the real binary, a proxy that cuts, and clients that keep what they see.

mod hub;
mod proxy;
mod readers;

use std::time::Duration;

pub use hub::Hub;
pub use proxy::{Ending, Proxy};
pub use readers::{Kind, Reader, Seen};

/// Long enough for the slowest machine; what is waited for comes at once.
pub const PATIENCE: Duration = Duration::from_secs(120);
