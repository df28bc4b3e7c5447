//! Sockets and HTTP for Tidings.

mod app;
mod problem;

pub use app::App;
pub use problem::Problem;
