//! The engine of `tidings bench`: measures servers that push events.
//!
//! A [`target::Target`] says how a server is started, subscribed to and published to; a [`scenario::Scenario`] is run
//! with it and gives a [`results::Run`]. Subscribers live in processes of their own ([`agent`]).

pub mod agent;
mod answer;
mod clients;
mod clock;
mod error;
mod file_system;
mod machine;
mod payload;
mod process;
mod publisher;
pub mod ratios;
pub mod report;
pub mod results;
mod scan;
pub mod scenario;
mod schedule;
mod server;
mod servers;
mod supervisor;
pub mod target;

pub use error::BenchError;
pub use machine::machine;
pub use payload::MARK;
pub use servers::{Ended, Servers};
pub use supervisor::supervise;
