//! Sockets and HTTP for Tidings.

mod problem;

pub use problem::Problem;
