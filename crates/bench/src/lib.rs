//! The engine of `tidings bench`: measures servers that push events.

pub mod agent;
mod answer;
mod clock;
mod payload;
mod process;
pub mod results;
mod scan;
mod schedule;
pub mod target;
pub use payload::MARK;
